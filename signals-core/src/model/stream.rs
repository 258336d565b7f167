//! Rows of a model as a stream.

use futures_util::future::ready;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::database::backend::{AnyRow, Statement};
use crate::database::source::Source;
use crate::database::stream as raw;
use crate::error::Result;
use crate::model::rows::TypedRows;
use crate::model::store::Route;
use crate::model::{Model, read};
use crate::signal::dispatch::Dispatch;
use crate::signal::operation_context::OperationContext;
use crate::signal::rows::{RowEvent, RowsEvent};
use crate::task::slow::Lap;

/// The rows of a statement as models. The receivers of [`post_load`](crate::post_load) run before a row is returned. The first
/// error ends the stream.
pub(crate) fn rows<'s, M: Model, R: Route<M>>(
    source: Source<'s>,
    statement: Result<Statement>,
) -> BoxStream<'s, Result<M>> {
    let until_error = |rows: Option<BoxStream<'s, Result<M>>>| async move {
        let mut rows = rows?;
        let row = rows.next().await?;
        let rest = row.is_ok().then_some(rows);
        Some((row, rest))
    };
    stream::unfold(Some(every_row::<M, R>(source, statement)), until_error).boxed()
}

fn every_row<'s, M: Model, R: Route<M>>(
    source: Source<'s>,
    statement: Result<Statement>,
) -> BoxStream<'s, Result<M>> {
    let load = |row: AnyRow| Ok(R::load(&row, 0)?);
    let Some(receivers) = M::__table().load_if_any() else {
        return raw::rows(source, statement).map(move |row| load(row?)).boxed();
    };
    if receivers.after.iter().any(|receiver| receiver.info.connection) {
        let all =
            async { read::fetch::<M, R>(source, statement?, read::ManyRows::default()).await };
        let each = |all: Vec<M>| stream::iter(all.into_iter().map(Ok));
        return stream::once(all).map_ok(each).try_flatten().boxed();
    }
    let context = match OperationContext::enter("load", M::NAME, &source) {
        Ok(context) => context,
        Err(error) => return stream::once(ready(Err(error))).boxed(),
    };
    raw::rows(source, statement)
        .and_then(move |row| {
            let (receivers, context) = (receivers.clone(), context.clone());
            async move {
                let mut row = load(row)?;
                let mut rows = TypedRows::<M, R>::one(&mut row);
                let event = RowEvent::of_row(0, None);
                let event = &mut RowsEvent { rows: rows.erased(), event };
                let (context, previous, lap) = (&context, &None, &mut Lap::default());
                let mut dispatch = Dispatch { event, conn: None, context, previous, lap };
                dispatch.run(&receivers.after).await?;
                drop(rows);
                Ok(row)
            }
        })
        .boxed()
}
