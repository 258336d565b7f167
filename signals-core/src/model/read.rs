//! Reads rows of a model, and notifies the receivers of [`post_load`](crate::post_load).

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::database::backend::{AnyRow, Arguments, Make, Sink, Statement};
use crate::database::conn::Conn;
use crate::database::source::Source;
use crate::error::key::no_row;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::rows::TypedRows;
use crate::model::store::Route;
use crate::signal::dispatch::Dispatch;
use crate::signal::operation_context::OperationContext;
use crate::signal::receivers::OperationReceivers;
use crate::signal::rows::{RowEvent, RowsEvent, SignalRows};
use crate::task::slow::Lap;

/// Decodes the rows of a statement as models, and collects them.
pub(crate) trait RowSink: Send {
    fn load(&mut self, row: &AnyRow) -> Result<(), sqlx::Error>;

    /// The receivers of `post_load`, if there are any.
    fn receivers(&self) -> Option<Arc<OperationReceivers>>;

    /// The collected rows, for receivers; `None` if there are none.
    fn rows(&mut self) -> Option<Box<dyn SignalRows + '_>>;
}

/// Collects the row of a statement that returns at most one.
pub(crate) struct OneRow<M, R> {
    pub(crate) row: Option<M>,
    route: PhantomData<fn() -> R>,
}

impl<M, R> Default for OneRow<M, R> {
    fn default() -> Self {
        Self { row: None, route: PhantomData }
    }
}

impl<M: Model, R: Route<M>> OneRow<M, R> {
    /// Reads the row with this key.
    pub(crate) async fn by_key(&mut self, source: Source<'_>, key: &M::Pk) -> Result<()> {
        let make = |kind| {
            let mut args = Arguments::new(kind);
            R::bind_key(key, &mut args).map_err(sqlx::Error::Encode)?;
            Ok(Statement::fixed(M::STATEMENTS.find, args))
        };
        one(source, &make, self).await
    }

    /// Decodes a row that was already read, and notifies the receivers.
    pub(crate) async fn loaded(row: &AnyRow, conn: &mut Conn<'_>) -> Result<M> {
        let mut found = Self { row: Some(R::load(row, 0)?), route: PhantomData };
        loaded(&mut found, conn).await?;
        Ok(found.row.expect("the row that was read"))
    }
}

impl<M: Model, R: Route<M>> RowSink for OneRow<M, R> {
    fn load(&mut self, row: &AnyRow) -> Result<(), sqlx::Error> {
        self.row = Some(R::load(row, 0)?);
        Ok(())
    }

    fn receivers(&self) -> Option<Arc<OperationReceivers>> {
        M::__table().load_if_any()
    }

    /// The collected rows, for receivers; `None` if there are none.
    fn rows(&mut self) -> Option<Box<dyn SignalRows + '_>> {
        self.row.as_mut().map(|row| TypedRows::<M, R>::one(row).boxed())
    }
}

/// Reads at most one row. It is not generic, so that each codegen unit compiles it at most once, and not once per model.
async fn one(source: Source<'_>, make: Make<'_>, sink: &mut dyn RowSink) -> Result<()> {
    let mut conn = source.acquire().await?;
    if let Some(row) = conn.read_one(make).await? {
        sink.load(&row)?;
        loaded(sink, &mut conn).await?;
    }
    Ok(())
}

pub(crate) async fn all<M: Model, R: Route<M>>(source: Source<'_>) -> Result<Vec<M>> {
    let select = Statement::fixed(M::STATEMENTS.select, Arguments::new(source.kind()));
    fetch::<M, R>(source, select, ManyRows::default()).await
}

/// Reads the rows of a statement as models.
pub(crate) async fn fetch<M: Model, R: Route<M>>(
    source: Source<'_>,
    statement: Statement,
    mut rows: ManyRows<M, R>,
) -> Result<Vec<M>> {
    several(source, statement, &mut rows).await?;
    Ok(rows.rows)
}

/// As [`one`], for any number of rows. The future is boxed, because it is larger.
fn several<'k>(
    source: Source<'k>,
    statement: Statement,
    sink: &'k mut dyn RowSink,
) -> BoxFuture<'k, Result<()>> {
    Box::pin(async move {
        let mut conn = source.acquire().await?;
        conn.read_each(statement, &mut |row| sink.load(&row)).await?;
        loaded(sink, &mut conn).await
    })
}

/// Passes each row of a statement to `sink`. The future is boxed so that it is compiled once, and not once per model.
pub(crate) fn each<'s, 'k>(
    source: Source<'s>,
    statement: Statement,
    sink: Sink<'k>,
) -> BoxFuture<'k, Result<Conn<'s>>>
where
    's: 'k,
{
    Box::pin(async move {
        let mut conn = source.acquire().await?;
        conn.read(statement, sink).await?;
        Ok(conn)
    })
}

/// Notifies the receivers of [`post_load`](crate::post_load) of the collected rows.
pub(crate) async fn loaded(sink: &mut dyn RowSink, conn: &mut Conn<'_>) -> Result<()> {
    if let Some(receivers) = sink.receivers()
        && let Some(mut rows) = sink.rows()
    {
        return notify(receivers, &mut *rows, conn).await;
    }
    Ok(())
}

fn notify<'t>(
    receivers: Arc<OperationReceivers>,
    rows: &'t mut dyn SignalRows,
    conn: &'t mut Conn<'_>,
) -> BoxFuture<'t, Result<()>> {
    Box::pin(async move {
        let context = OperationContext::enter("load", rows.model(), &conn.reborrow().into())?;
        let mut lap = Lap::default();
        for row in 0..rows.len() {
            let mut event = RowsEvent { rows: &mut *rows, event: RowEvent::of_row(row, None) };
            let (event, conn, previous) = (&mut event, Some(&mut *conn), &None);
            let mut dispatch = Dispatch { event, conn, context: &context, previous, lap: &mut lap };
            dispatch.run(&receivers.after).await?;
        }
        Ok(())
    })
}

pub(crate) fn not_found<M: Model>(key: Option<&M::Pk>) -> Error {
    no_row(M::NAME, key.map(|key| key as &dyn Debug))
}

/// Collects the rows of a statement.
pub(crate) struct ManyRows<M, R> {
    pub(crate) rows: Vec<M>,
    only_first: bool,
    route: PhantomData<fn() -> R>,
}

impl<M, R> Default for ManyRows<M, R> {
    fn default() -> Self {
        Self { rows: Vec::new(), only_first: false, route: PhantomData }
    }
}

impl<M, R> ManyRows<M, R> {
    /// Rows that were read already.
    pub(crate) fn of(rows: Vec<M>) -> Self {
        Self { rows, ..Self::default() }
    }

    pub(crate) fn first() -> Self {
        Self { only_first: true, ..Self::default() }
    }
}

impl<M: Model, R: Route<M>> RowSink for ManyRows<M, R> {
    fn load(&mut self, row: &AnyRow) -> Result<(), sqlx::Error> {
        if !self.only_first || self.rows.is_empty() {
            self.rows.push(R::load(row, 0)?);
        }
        Ok(())
    }

    fn receivers(&self) -> Option<Arc<OperationReceivers>> {
        M::__table().load_if_any()
    }

    fn rows(&mut self) -> Option<Box<dyn SignalRows + '_>> {
        let rows = &mut *self.rows;
        (!rows.is_empty()).then(|| TypedRows::<M, R>::new(rows).boxed())
    }
}
