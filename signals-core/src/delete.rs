//! A delete with receivers, of one row or of several.

use futures_util::future::BoxFuture;

use crate::backend::{Arguments, Statement};
use crate::bulk::{self, Work};
use crate::chunk::{self, Chunk};
use crate::conn::Conn;
use crate::context;
use crate::error::Result;
use crate::executor::Source;
use crate::facts;
use crate::going::Heir;
use crate::heard::{Heard, Written};
use crate::instances::{Instances, Of};
use crate::key_order::write_order;
use crate::model::Model;
use crate::own_transaction::{Undoable, in_transaction};
use crate::refused;
use crate::save::{Look, look, stale};
use crate::statements::Group;
use crate::store::Route;
use crate::testing::recording::Recorders;
use crate::trace::{span, traced};
use crate::transaction::Transaction;
use crate::unit::{Doubt, Unit, perform};

/// Deletes one row, and returns whether there was one.
pub(crate) async fn delete<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
) -> Result<bool> {
    if model.pk().is_none() {
        return Ok(false);
    }
    let written = one(Of::<M, R>::one(model).instances(), source).await?;
    if written.kept.is_empty() {
        model.__set_pk(None);
    }
    Ok(written.len() > 0)
}

/// Deletes the one row that there is.
async fn one(rows: &mut dyn Instances, source: Source<'_>) -> Result<Written> {
    let (table, recorders) = (rows.table(), Recorders::of_task(rows.id()));
    let span = span!("delete", model = rows.model());
    if let Some(pair) = table.heard_delete().or_else(|| recorders.any().then(|| table.delete())) {
        let heard = Heard::new(Unit::Delete, false, pair, recorders);
        return perform(heard, rows, source, span).await;
    }
    context::observe("delete", rows.model());
    let mut conn = source.acquire().await?;
    let kind = conn.kind();
    if !conn.in_transaction() && conn.facts().commits_itself(kind, rows, None) != Some(true) {
        return traced(span, undoable(rows, conn)).await;
    }
    if span.is_disabled() {
        alone(rows, &mut conn).await
    } else {
        traced(span, alone(rows, &mut conn)).await
    }
}

/// Deletes a row that nobody hears of.
async fn alone(rows: &mut dyn Instances, conn: &mut Conn<'_>) -> Result<Written> {
    let doubt = Doubt::of(conn, "delete", rows.model());
    let done = delete_one(rows, doubt.conn).await;
    doubt.end(done)
}

/// As [`alone`], of a row of which it is not known whether its statement can commit itself: in a transaction if it cannot.
fn undoable<'d>(rows: &'d mut dyn Instances, mut conn: Conn<'d>) -> BoxFuture<'d, Result<Written>> {
    Box::pin(async move {
        if facts::commits_itself(&mut conn, rows, None).await? {
            return alone(rows, &mut conn).await;
        }
        in_transaction(conn, Deleting { rows }).await
    })
}

/// A delete in a transaction of a row that nobody hears of.
struct Deleting<'d> {
    rows: &'d mut dyn Instances,
}

impl Undoable for Deleting<'_> {
    type Done = Written;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<Written> {
        delete_one(self.rows, tx).await
    }
}

/// Deletes several rows, and returns how many there were. A row without a key is none.
pub(crate) async fn delete_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
) -> Result<u64> {
    let written = many(Of::<M, R>::new(rows).instances(), source).await?;
    for (place, row) in rows.iter_mut().enumerate() {
        if written.kept.binary_search(&place).is_err() {
            row.__set_pk(None);
        }
    }
    Ok(written.len() as u64)
}

async fn many(rows: &mut dyn Instances, source: Source<'_>) -> Result<Written> {
    if !(0..rows.len()).any(|row| rows.has_key(row)) {
        return Ok(Written::default());
    }
    let span = span!("delete", model = rows.model(), rows = rows.len());
    let recorders = Recorders::of_task(rows.id());
    let heard = Heard::new(Unit::Delete, true, rows.table().delete(), recorders);
    perform(heard, rows, source, span).await
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
        let order = write_order(conn, rows).await?;
        rows.set_order(order);
        let chunks = chunk::deletes(conn.kind(), rows);
        let (mut written, mut kept) = (Vec::new(), Vec::new());
        for chunk in &chunks {
            let deleted = delete_chunk(rows, conn, heard, chunk, true).await?;
            written.extend(deleted.rows);
            kept.extend(deleted.kept);
        }
        kept.sort_unstable();
        // Those of a statement that did not find them all are several slices.
        let batches = chunk::batches(rows, &chunks, written.into_iter());
        rows.set_order(Vec::new());
        Ok(Written { kept, ..Written::several(None, batches) })
    })
}

/// What a DELETE of the rows of a chunk has done.
pub(crate) struct Deleted {
    /// The rows that were deleted, by their numbers.
    pub(crate) rows: Vec<usize>,
    /// Those of the program that a trigger kept, by their places in its slice.
    pub(crate) kept: Vec<usize>,
}

/// Deletes the rows of a chunk, and returns which of them were there. Of rows of the program, the version must be the
/// instance's.
pub(crate) async fn delete_chunk(
    rows: &mut dyn Instances,
    conn: &mut Conn<'_>,
    heard: &Heard,
    chunk: &Chunk,
    own: bool,
) -> Result<Deleted> {
    let work = Work::Delete { before: heard.pair.previous, checked: own };
    let deleted = match heard.many {
        true => refused::write(conn, rows, chunk, work).await?,
        false => bulk::write(conn, rows, chunk, work).await?,
    };
    let mut kept = Vec::new();
    if own && deleted.len() < chunk.rows.len() {
        let (found, stale_row) = bulk::kept(conn, rows, chunk, &deleted).await?;
        if let Some(row) = stale_row {
            return Err(heard.of_row(rows, row, stale(rows, row)));
        }
        kept.extend(found.into_iter().map(|row| rows.place(row)));
    }
    Ok(Deleted { rows: deleted, kept })
}

/// What a delete of the one row that there is has done.
fn deleted(found: bool) -> Written {
    if found { Written::one(None) } else { Written::default() }
}

/// Deletes the one row that there is, and to which nothing belongs.
pub(crate) async fn delete_one(rows: &mut dyn Instances, conn: &mut Conn<'_>) -> Result<Written> {
    if !facts::counts_rows(conn, rows).await? {
        return delete_uncounted(rows, conn).await;
    }
    let model = rows.statements();
    let affected = {
        let make = |kind| {
            let mut args = Arguments::new(kind);
            for column in model.group(Group::Key).chain(model.group(Group::Version)) {
                rows.bind_compared(0, column, &mut args).map_err(sqlx::Error::Encode)?;
            }
            Ok(Statement::fixed(model.delete, args))
        };
        let heir = || -> Heir { Box::new(|_, answer| Ok(deleted(answer.affected > 0))) };
        conn.write(&make, false, &heir, &mut |_| ()).await?
    };
    if affected > 0 || conn.facts().plain(rows) {
        return Ok(deleted(affected > 0));
    }
    not_deleted(conn, rows).await
}

/// As [`delete_one`], if the database does not say whether a DELETE has found a row. On the heap: few come here.
fn delete_uncounted<'d>(
    rows: &'d mut dyn Instances,
    conn: &'d mut Conn<'_>,
) -> BoxFuture<'d, Result<Written>> {
    Box::pin(async move {
        match look(conn, rows).await? {
            Look::Gone => return Ok(Written::default()),
            Look::Stale => return Err(stale(rows, 0)),
            Look::Same => {}
        }
        let work = Work::Delete { before: false, checked: true };
        let deleted = bulk::write(conn, rows, &Chunk::of_row(0), work).await?;
        match deleted.is_empty() {
            false => Ok(self::deleted(true)),
            true => Ok(Written { kept: vec![0], ..Written::default() }),
        }
    })
}

/// Why a DELETE did not delete the one row that there is. On the heap: few come here.
fn not_deleted<'d>(
    conn: &'d mut Conn<'_>,
    rows: &'d dyn Instances,
) -> BoxFuture<'d, Result<Written>> {
    Box::pin(async move {
        if facts::is_plain(conn, rows).await? {
            return Ok(Written::default());
        }
        match look(conn, rows).await? {
            Look::Gone => Ok(Written::default()),
            Look::Stale => Err(stale(rows, 0)),
            // A trigger keeps it.
            Look::Same => Ok(Written { kept: vec![0], ..Written::default() }),
        }
    })
}
