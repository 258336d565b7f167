//! A delete with receivers, of one row or of several.

use futures_util::future::BoxFuture;

use crate::backend::{Arguments, Statement};
use crate::bulk::{self, Work};
use crate::chunk::{self, Chunk};
use crate::conn::Conn;
use crate::context;
use crate::error::Result;
use crate::executor::Source;
use crate::going::Heir;
use crate::heard::{Heard, Written};
use crate::instances::{Instances, Of};
use crate::key_order::write_order;
use crate::model::Model;
use crate::refused;
use crate::save::{Look, look, stale};
use crate::statements::Group;
use crate::store::Route;
use crate::testing::recording::Recorders;
use crate::trace::{span, traced};
use crate::unit::{Doubt, Unit, perform};

/// Deletes one row, and returns whether there was one.
pub(crate) async fn delete<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
) -> Result<bool> {
    if model.pk().is_none() {
        return Ok(false);
    }
    let deleted = one(Of::<M, R>::one(model).instances(), source).await?;
    model.__set_pk(None);
    Ok(deleted)
}

/// Deletes the one row that there is.
async fn one(rows: &mut dyn Instances, source: Source<'_>) -> Result<bool> {
    let (table, recorders) = (rows.table(), Recorders::of_task(rows.id()));
    let span = span!("delete", model = rows.model());
    if let Some(pair) = table.heard_delete().or_else(|| recorders.any().then(|| table.delete())) {
        let heard = Heard::new(Unit::Delete, false, pair, recorders);
        return Ok(perform(heard, rows, source, span).await?.len() > 0);
    }
    context::observe("delete", rows.model());
    let mut conn = source.acquire().await?;
    if span.is_disabled() {
        alone(rows, &mut conn).await
    } else {
        traced(span, alone(rows, &mut conn)).await
    }
}

/// Deletes a row that nobody hears of.
async fn alone(rows: &mut dyn Instances, conn: &mut Conn<'_>) -> Result<bool> {
    let doubt = Doubt::of(conn, "delete", rows.model());
    let done = remove(doubt.conn, rows).await;
    doubt.end(done)
}

/// Deletes several rows, and returns how many there were. A row without a key is none.
pub(crate) async fn delete_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
) -> Result<u64> {
    let deleted = many(Of::<M, R>::new(rows).instances(), source).await?;
    rows.iter_mut().for_each(|row| row.__set_pk(None));
    Ok(deleted)
}

async fn many(rows: &mut dyn Instances, source: Source<'_>) -> Result<u64> {
    if !(0..rows.len()).any(|row| rows.has_key(row)) {
        return Ok(0);
    }
    let span = span!("delete", model = rows.model(), rows = rows.len());
    let recorders = Recorders::of_task(rows.id());
    let heard = Heard::new(Unit::Delete, true, rows.table().delete(), recorders);
    Ok(perform(heard, rows, source, span).await?.len() as u64)
}

/// The one row of a delete with receivers, to which nothing belongs.
pub(crate) async fn delete_one(rows: &mut dyn Instances, conn: &mut Conn<'_>) -> Result<Written> {
    Ok(deleted(remove(conn, rows).await?))
}

/// The rows of a delete of several with receivers, or of one whose row before is asked for. On the heap, so that a delete of
/// one has no room for it.
pub(crate) fn delete_rows<'d>(
    rows: &'d mut dyn Instances,
    conn: &'d mut Conn<'_>,
    heard: &'d Heard,
) -> BoxFuture<'d, Result<Written>> {
    Box::pin(async move {
        if !heard.many && !heard.pair.previous {
            return delete_one(rows, conn).await;
        }
        rows.set_order(write_order(conn.kind(), rows));
        let chunks = chunk::deletes(conn.kind(), rows);
        let mut written = Vec::new();
        for chunk in &chunks {
            written.extend(delete_chunk(rows, conn, heard, chunk, true).await?);
        }
        // Those of a statement that did not find them all are several slices.
        let batches = chunk::batches(rows, &chunks, written.into_iter());
        rows.set_order(Vec::new());
        Ok(Written { created: None, batches: batches.into() })
    })
}

/// Deletes the rows of a chunk, and returns which of them were there. Where the version must be the instance's, another one
/// is an error.
pub(crate) async fn delete_chunk(
    rows: &mut dyn Instances,
    conn: &mut Conn<'_>,
    heard: &Heard,
    chunk: &Chunk,
    checked: bool,
) -> Result<Vec<usize>> {
    let work = Work::Delete { before: heard.pair.previous, checked };
    let deleted = match heard.many {
        true => refused::write(conn, rows, chunk, work).await?,
        false => bulk::write(conn, rows, chunk, work).await?,
    };
    let checked = checked && rows.statements().has(Group::Version);
    if checked && deleted.len() < chunk.rows.len() {
        let mut left = bulk::stored(conn, rows, chunk).await?;
        left.retain(|row| deleted.binary_search(row).is_err());
        // The first of them in the program's order.
        if let Some(row) = left.into_iter().min_by_key(|row| rows.place(*row)) {
            return Err(heard.of_row(rows, row, stale(rows, row)));
        }
    }
    Ok(deleted)
}

/// What a delete of the one row that there is has done.
fn deleted(found: bool) -> Written {
    if found { Written::one(None) } else { Written::default() }
}

/// Deletes the one row that there is, and returns whether it was there.
async fn remove(conn: &mut Conn<'_>, rows: &mut dyn Instances) -> Result<bool> {
    let model = rows.statements();
    let affected = {
        let make = |kind| {
            let mut args = Arguments::new(kind);
            for column in model.group(Group::Key).chain(model.group(Group::Version)) {
                rows.bind(0, column, &mut args).map_err(sqlx::Error::Encode)?;
            }
            Ok(Statement::fixed(model.delete, args))
        };
        let heir = || -> Heir { Box::new(|_, answer| Ok(deleted(answer.affected > 0))) };
        conn.write(&make, false, &heir, &mut |_| ()).await?
    };
    if affected == 0 && model.has(Group::Version) && look(conn, rows).await? != Look::Gone {
        return Err(stale(rows, 0));
    }
    Ok(affected > 0)
}
