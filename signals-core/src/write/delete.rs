//! A delete with receivers, of one row or of several.

use crate::transaction::own::Undoable;
use crate::transaction::own::in_transaction;
use futures_util::future::BoxFuture;

use crate::database::backend::{Arguments, Statement};
use crate::database::conn::Conn;
use crate::database::source::Source;
use crate::error::Result;
use crate::signal::recording::Recorders;
use crate::signal::rows::SignalRows;
use crate::table::chunk::{self, Chunk};
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::task::chain;
use crate::task::span::{span, traced};
use crate::transaction::Transaction;
use crate::transaction::guard::FailGuard;
use crate::write::TakeAnswer;
use crate::write::WriteKind;
use crate::write::WriteOutcome;
use crate::write::bulk::{self, BulkOp};
use crate::write::inspect;
use crate::write::key_order::write_order;
use crate::write::locate;
use crate::write::notify::Notifier;
use crate::write::perform::perform;
use crate::write::single::{Look, look, stale};

/// Deletes the one row that there is.
pub(crate) async fn one(rows: &mut dyn SignalRows, source: Source<'_>) -> Result<WriteOutcome> {
    let (table, recorders) = (rows.receivers(), Recorders::of_task(rows.id()));
    let span = span!("delete", model = rows.model());
    if let Some(pair) = table.delete_if_any().or_else(|| recorders.any().then(|| table.delete())) {
        let heard = Notifier::new(WriteKind::Delete, false, pair, recorders);
        return perform(heard, rows, source, span).await;
    }
    chain::observe("delete", rows.model());
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
async fn alone(rows: &mut dyn SignalRows, conn: &mut Conn<'_>) -> Result<WriteOutcome> {
    let doubt = FailGuard::of(conn, "delete", rows.model());
    let done = delete_one(rows, doubt.conn).await;
    doubt.end(done)
}

/// As [`alone`], of a row of which it is not known whether its statement can commit itself: in a transaction if it cannot.
fn undoable<'d>(
    rows: &'d mut dyn SignalRows,
    mut conn: Conn<'d>,
) -> BoxFuture<'d, Result<WriteOutcome>> {
    Box::pin(async move {
        if inspect::commits_itself(&mut conn, rows, None).await? {
            return alone(rows, &mut conn).await;
        }
        in_transaction(conn, Deleting { rows }).await
    })
}

/// A delete in a transaction of a row that nobody hears of.
struct Deleting<'d> {
    rows: &'d mut dyn SignalRows,
}

impl Undoable for Deleting<'_> {
    type Done = WriteOutcome;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<WriteOutcome> {
        delete_one(self.rows, tx).await
    }
}

pub(crate) async fn many(rows: &mut dyn SignalRows, source: Source<'_>) -> Result<WriteOutcome> {
    if !(0..rows.len()).any(|row| rows.has_key(row)) {
        return Ok(WriteOutcome::default());
    }
    let span = span!("delete", model = rows.model(), rows = rows.len());
    let recorders = Recorders::of_task(rows.id());
    let heard = Notifier::new(WriteKind::Delete, true, rows.receivers().delete(), recorders);
    perform(heard, rows, source, span).await
}

/// The rows of a delete of several with receivers, or of one whose row before is asked for. On the heap, so that a delete of
/// one has no room for it.
pub(crate) fn delete_rows<'d>(
    rows: &'d mut dyn SignalRows,
    conn: &'d mut Conn<'_>,
    heard: &'d Notifier,
) -> BoxFuture<'d, Result<WriteOutcome>> {
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
        Ok(WriteOutcome { kept, ..WriteOutcome::several(None, batches) })
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
    rows: &mut dyn Rows,
    conn: &mut Conn<'_>,
    heard: &Notifier,
    chunk: &Chunk,
    own: bool,
) -> Result<Deleted> {
    let work = BulkOp::Delete { before: heard.pair.previous, checked: own };
    let deleted = match heard.many {
        true => locate::write_and_locate(conn, rows, chunk, work).await?,
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
fn deleted(found: bool) -> WriteOutcome {
    if found { WriteOutcome::one(None) } else { WriteOutcome::default() }
}

/// Deletes the one row that there is, and to which nothing belongs.
pub(crate) async fn delete_one(rows: &mut dyn Rows, conn: &mut Conn<'_>) -> Result<WriteOutcome> {
    if !inspect::counts_rows(conn, rows).await? {
        return delete_uncounted(rows, conn).await;
    }
    let model = rows.schema();
    let affected = {
        let make = |kind| {
            let mut args = Arguments::new(kind);
            for column in model.group(ColumnGroup::Key).chain(model.group(ColumnGroup::Version)) {
                rows.bind_compared(0, column, &mut args).map_err(sqlx::Error::Encode)?;
            }
            Ok(Statement::fixed(model.delete, args))
        };
        let on_detached = || TakeAnswer::boxed(|_, answer| Ok(deleted(answer.affected > 0)));
        conn.write(&make, false, &on_detached, &mut |_| ()).await?
    };
    if affected > 0 || conn.facts().plain(rows) {
        return Ok(deleted(affected > 0));
    }
    not_deleted(conn, rows).await
}

/// As [`delete_one`], if the database does not say whether a DELETE has found a row. On the heap: few come here.
fn delete_uncounted<'d>(
    rows: &'d mut dyn Rows,
    conn: &'d mut Conn<'_>,
) -> BoxFuture<'d, Result<WriteOutcome>> {
    Box::pin(async move {
        match look(conn, rows).await? {
            Look::Gone => return Ok(WriteOutcome::default()),
            Look::Stale => return Err(stale(rows, 0)),
            Look::Same => {}
        }
        let work = BulkOp::Delete { before: false, checked: true };
        let deleted = bulk::write(conn, rows, &Chunk::of_row(0), work).await?;
        match deleted.is_empty() {
            false => Ok(self::deleted(true)),
            true => Ok(WriteOutcome { kept: vec![0], ..WriteOutcome::default() }),
        }
    })
}

/// Why a DELETE did not delete the one row that there is. On the heap: few come here.
fn not_deleted<'d>(
    conn: &'d mut Conn<'_>,
    rows: &'d dyn Rows,
) -> BoxFuture<'d, Result<WriteOutcome>> {
    Box::pin(async move {
        if inspect::is_plain(conn, rows).await? {
            return Ok(WriteOutcome::default());
        }
        match look(conn, rows).await? {
            Look::Gone => Ok(WriteOutcome::default()),
            Look::Stale => Err(stale(rows, 0)),
            // A trigger keeps it.
            Look::Same => Ok(WriteOutcome { kept: vec![0], ..WriteOutcome::default() }),
        }
    })
}
