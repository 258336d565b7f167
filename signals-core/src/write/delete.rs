//! Deletes of one row or of several, with and without receivers.

use futures_util::future::BoxFuture;
use tracing::Span;

use crate::database::backend::{Arguments, DatabaseKind, Statement};
use crate::database::conn::Conn;
use crate::database::detached::OnDetached;
use crate::database::source::Source;
use crate::database::writer::Verb;
use crate::error::Result;
use crate::signal::recording::Recorders;
use crate::signal::rows::SignalRows;
use crate::table::chunk::{self, Chunk};
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::task::chain;
use crate::task::measure::Stopwatch;
use crate::task::span::traced;
use crate::transaction::guard::FailGuard;
use crate::write::bulk::{self, BulkOp};
use crate::write::grouped::Contended;
use crate::write::key_order::write_order;
use crate::write::lookup::{Look, kept_by_trigger, lock_to_delete, look, stale};
use crate::write::notify::Notifier;
use crate::write::perform::perform;
use crate::write::row_locks::can_lock;
use crate::write::span::{measured, write_span};
use crate::write::{TakeAnswer, WriteKind, WriteOutcome, grouped, inspect, locate};

/// Deletes the single row in `rows`.
pub(crate) async fn one(rows: &mut dyn SignalRows, source: Source<'_>) -> Result<WriteOutcome> {
    let (cache, recorders) = (rows.receivers(), Recorders::of_task(rows.id()));
    let span = write_span!("delete", rows, WriteKind::Delete);
    if let Some(receivers) =
        cache.delete_if_any().or_else(|| recorders.any().then(|| cache.delete()))
    {
        let notifier = Notifier::new(WriteKind::Delete, false, receivers, recorders);
        return perform(notifier, rows, source, span).await;
    }
    chain::observe("delete", rows.model());
    let since = Stopwatch::start();
    let mut conn = match grouped::try_acquire(source, rows, &WriteKind::Delete, &span)? {
        Ok(conn) => conn,
        Err(contended) => return share_commit(rows, contended, span).await,
    };
    let done = if span.is_disabled() {
        delete_directly(rows, &mut conn).await
    } else {
        traced(span, delete_directly(rows, &mut conn)).await
    };
    rows.receivers().keys.record("delete", rows.model(), done.is_ok(), since);
    done
}

/// Deletes the single row in `rows` if other writers have to be considered: the row has to wait for its turn, or it shares its COMMIT.
fn share_commit<'w>(
    rows: &'w mut dyn SignalRows,
    contended: Contended<'w>,
    span: Span,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    let about = (rows.receivers(), "delete", rows.model(), Some("DELETE"));
    measured(span, about, grouped::share_commit(rows, contended, WriteKind::Delete))
}

/// Deletes a row that has no receivers. Opens no transaction.
pub(super) async fn delete_directly(
    rows: &mut dyn SignalRows,
    conn: &mut Conn<'_>,
) -> Result<WriteOutcome> {
    let fail_guard = FailGuard::of(conn, "delete", rows.model());
    let done = delete_one(rows, fail_guard.conn).await;
    fail_guard.end(done)
}

pub(crate) async fn many(rows: &mut dyn SignalRows, source: Source<'_>) -> Result<WriteOutcome> {
    if !(0..rows.len()).any(|row| rows.has_key(row)) {
        return Ok(WriteOutcome::default());
    }
    let span = write_span!("delete", rows, WriteKind::Delete, rows = rows.len());
    let recorders = Recorders::of_task(rows.id());
    let notifier = Notifier::new(WriteKind::Delete, true, rows.receivers().delete(), recorders);
    perform(notifier, rows, source, span).await
}

/// Executes the statements that delete several rows, or one row if its previous state is asked for.
/// Boxed, so that the future of a delete of one row stays small.
pub(crate) fn delete_rows<'d>(
    rows: &'d mut dyn SignalRows,
    conn: &'d mut Conn<'_>,
    notifier: &'d Notifier,
) -> BoxFuture<'d, Result<WriteOutcome>> {
    Box::pin(async move {
        let is_locked = notifier.origin == RowOrigin::Locked;
        if !notifier.many && !notifier.receivers.previous && !is_locked {
            return delete_one(rows, conn).await;
        }
        let order = write_order(conn, rows).await?;
        rows.set_order(order);
        let chunks = chunk::deletes(conn.kind(), rows);
        let (mut written, mut kept) = (Vec::new(), Vec::new());
        for chunk in &chunks {
            let deleted = delete_chunk(rows, conn, notifier, chunk, notifier.origin).await?;
            written.extend(deleted.rows);
            kept.extend(deleted.kept);
        }
        kept.sort_unstable();
        // If a statement has not deleted all its rows, the deleted rows are several ranges.
        let batches = chunk::batches(rows, &chunks, written.into_iter());
        rows.set_order(Vec::new());
        Ok(WriteOutcome { kept, ..WriteOutcome::several(None, batches) })
    })
}

/// Locks the stored rows, and checks that they have the versions of the instances. Receivers of the rows that are deleted with them may
/// then increase the versions. If the rows cannot be locked, the DELETE has to compare the versions.
pub(crate) async fn lock_versions(
    rows: &mut dyn SignalRows,
    conn: &mut Conn<'_>,
    notifier: &Notifier,
) -> Result<RowOrigin> {
    // On SQLite, this transaction has the lock of the whole database.
    if conn.kind() == DatabaseKind::Postgres && !can_lock(conn, rows, Verb::Delete).await? {
        return Ok(RowOrigin::Given);
    }
    let order = write_order(conn, rows).await?;
    rows.set_order(order);
    for chunk in chunk::deletes(conn.kind(), rows) {
        if let Some(row) = lock_to_delete(conn, rows, &chunk).await? {
            return Err(notifier.with_row(rows, row, stale(rows, row)));
        }
    }
    rows.set_order(Vec::new());
    Ok(RowOrigin::Locked)
}

/// The result of a DELETE of the rows of a chunk.
pub(crate) struct Deleted {
    /// The deleted rows, as indices in write order.
    pub(crate) rows: Vec<usize>,
    /// The caller's rows that a trigger kept, as indices into the caller's slice.
    pub(crate) kept: Vec<usize>,
}

/// Where the rows to delete come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrigin {
    /// The caller's rows. The stored version must be the version of the instance.
    Given,
    /// The caller's rows, whose versions, if they have any, were compared when they were locked.
    Locked,
    /// Rows that are deleted because they reference the caller's rows.
    Collected,
}

/// Deletes the rows of a chunk, and returns which of them were stored.
pub(crate) async fn delete_chunk(
    rows: &mut dyn Rows,
    conn: &mut Conn<'_>,
    notifier: &Notifier,
    chunk: &Chunk,
    origin: RowOrigin,
) -> Result<Deleted> {
    let checked = origin == RowOrigin::Given;
    let op = BulkOp::Delete { before: notifier.receivers.previous, checked };
    let deleted = match notifier.many {
        true => locate::write_and_locate(conn, rows, chunk, op).await?,
        false => bulk::write(conn, rows, chunk, op).await?,
    };
    let mut kept = Vec::new();
    if origin != RowOrigin::Collected && deleted.len() < chunk.rows.len() {
        let (found, stale_row) = kept_by_trigger(conn, rows, chunk, &deleted).await?;
        if let Some(row) = stale_row.filter(|_| checked) {
            return Err(notifier.with_row(rows, row, stale(rows, row)));
        }
        kept.extend(found.into_iter().map(|row| rows.slice_index(row)));
    }
    Ok(Deleted { rows: deleted, kept })
}

/// The result of a delete of the single row in `rows`.
pub(super) fn deleted(found: bool) -> WriteOutcome {
    if found { WriteOutcome::one(None) } else { WriteOutcome::default() }
}

/// Deletes the single row in `rows`, without cascading.
pub(crate) async fn delete_one(rows: &mut dyn Rows, conn: &mut Conn<'_>) -> Result<WriteOutcome> {
    if !inspect::counts_rows(conn, rows).await? {
        return delete_uncounted(rows, conn).await;
    }
    let affected = {
        let make = |kind| statement(rows, kind);
        conn.write(&make, false, &on_detached, &mut |_| ()).await?
    };
    if affected > 0 || conn.facts().plain(rows) {
        return Ok(deleted(affected > 0));
    }
    not_deleted(conn, rows).await
}

/// The DELETE of the single row in `rows`.
pub(super) fn statement(rows: &dyn Rows, kind: DatabaseKind) -> Result<Statement, sqlx::Error> {
    let mut args = Arguments::new(kind);
    bind(rows, &mut args)?;
    Ok(Statement::fixed(rows.schema().delete, args))
}

/// Adds the arguments of the DELETE of the single row in `rows`.
pub(super) fn bind(rows: &dyn Rows, args: &mut Arguments) -> Result<(), sqlx::Error> {
    let model = rows.schema();
    for column in model.group(ColumnGroup::Key).chain(model.group(ColumnGroup::Version)) {
        rows.bind_compared(0, column, args).map_err(sqlx::Error::Encode)?;
    }
    Ok(())
}

/// The handler for the case that the DELETE of a single row is detached.
pub(super) fn on_detached() -> OnDetached {
    TakeAnswer::boxed(|_, answer| Ok(deleted(answer.affected > 0)))
}

/// As [`delete_one`], if the database does not report whether a DELETE has found a row. Boxed,
/// because this is rare.
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
        let op = BulkOp::Delete { before: false, checked: true };
        let deleted = bulk::write(conn, rows, &Chunk::of_row(0), op).await?;
        match deleted.is_empty() {
            false => Ok(self::deleted(true)),
            true => Ok(WriteOutcome { kept: vec![0], ..WriteOutcome::default() }),
        }
    })
}

/// Determines why a DELETE has not deleted the single row in `rows`. Boxed, because this is rare.
pub(super) fn not_deleted<'d>(
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
