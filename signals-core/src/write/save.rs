//! Saves of one row or of several, with and without receivers.

use futures_util::future::BoxFuture;
use tracing::Span;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::signal::recording::Recorders;
use crate::signal::rows::SignalRows;
use crate::table::automatic;
use crate::table::chunk::{self, Chunk};
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::task::chain;
use crate::task::measure::Stopwatch;
use crate::transaction::guard::FailGuard;
use crate::write::bulk::BulkOp;
use crate::write::bulk_update::{Unwritten, Update, lock, settle};
use crate::write::grouped::Contended;
use crate::write::key_order::{keyed_first, write_order};
use crate::write::lookup::{
    duplicate, duplicate_in_database, duplicate_key, is_stored, not_found, stale, stored_as,
};
use crate::write::notify::Notifier;
use crate::write::own_transaction::write_in_transaction;
use crate::write::perform::perform;
use crate::write::restore::RestoreGuard;
use crate::write::single::store;
use crate::write::span::{in_span, measured, write_span};
use crate::write::{Stored, WriteKind, WriteOutcome, grouped, inspect, locate};

/// Saves the single row in `rows`. Returns `None` if nothing was stored, because a conflicting row
/// already exists.
///
/// Without receivers, the future is not boxed. The rows are type-erased, so the code is compiled
/// once per codegen unit, not once per model.
pub(crate) async fn one(
    rows: &mut dyn SignalRows,
    source: Source<'_>,
    kind: WriteKind,
) -> Result<Option<Stored>> {
    let (cache, recorders) = (rows.receivers(), Recorders::of_task(rows.id()));
    let span = write_span!("save", rows, kind);
    if let Some(receivers) = cache.save_if_any().or_else(|| recorders.any().then(|| cache.save())) {
        let notifier = Notifier::new(kind, false, receivers, recorders);
        let written = perform(notifier, rows, source, span).await?;
        return Ok(written.saved());
    }
    chain::observe("save", rows.model());
    let since = Stopwatch::start();
    let mut conn = match grouped::try_acquire(source, rows, &kind, &span)? {
        Ok(conn) => conn,
        Err(contended) => return share_commit(rows, contended, kind, span).await,
    };
    let done = if span.is_disabled() {
        save_directly(rows, &mut conn, &kind).await
    } else {
        let statement = kind.statement(rows.as_rows());
        in_span(span, statement, save_directly(rows, &mut conn, &kind)).await
    };
    match conn.state.take_needs_transaction(&done) {
        true => {
            let about = (rows.receivers(), "save", rows.model(), None);
            let write = async { Ok(write_in_transaction(rows, conn, &kind, false).await?.saved()) };
            measured(Span::none(), about, write).await
        }
        false => {
            rows.receivers().keys.record("save", rows.model(), done.is_ok(), since);
            done
        }
    }
}

/// Saves the single row in `rows` if other writers have to be considered: the row has to wait for its turn, or it shares its COMMIT.
fn share_commit<'w>(
    rows: &'w mut dyn SignalRows,
    contended: Contended<'w>,
    kind: WriteKind,
    span: Span,
) -> BoxFuture<'w, Result<Option<Stored>>> {
    let about = (rows.receivers(), "save", rows.model(), kind.statement(rows.as_rows()));
    let write = grouped::share_commit(rows, contended, kind);
    measured(span, about, async move { Ok(write.await?.saved()) })
}

/// Saves a row that has no receivers. Opens no transaction.
pub(super) async fn save_directly(
    rows: &mut dyn SignalRows,
    conn: &mut Conn<'_>,
    kind: &WriteKind,
) -> Result<Option<Stored>> {
    let fail_guard = FailGuard::of(conn, "save", rows.model());
    let mut restore_guard = RestoreGuard::for_statement(rows, kind);
    stamp(restore_guard.rows, kind);
    let done = store(fail_guard.conn, restore_guard.rows, kind, false).await;
    // If it is unknown whether the row is stored, its next write needs its key and version.
    if matches!(done, Ok(_) | Err(Error::CommitUnknown(_))) {
        restore_guard.disarm();
    }
    fail_guard.end(done)
}

/// Saves all rows, and returns how many there are.
pub(crate) async fn many(
    rows: &mut dyn SignalRows,
    source: Source<'_>,
    kind: WriteKind,
) -> Result<u64> {
    let count = rows.len();
    if count > 0 {
        let (span, kind) = span_of_many(rows, kind);
        let recorders = Recorders::of_task(rows.id());
        let notifier = Notifier::new(kind, true, rows.receivers().save(), recorders);
        perform(notifier, rows, source, span).await?;
    }
    Ok(count as u64)
}

/// The span of a write of several rows. Takes and returns `kind`, because a variable of an async function that was borrowed once takes
/// room in the future for good.
fn span_of_many(rows: &dyn SignalRows, kind: WriteKind) -> (Span, WriteKind) {
    let span = write_span!("save", rows, kind, rows = rows.len());
    (span, kind)
}

/// Sets the automatic time columns to the current time.
pub(crate) fn stamp(rows: &mut dyn Rows, kind: &WriteKind) {
    if rows.schema().has_times() {
        rows.stamp(automatic::now(), !kind.is_update());
    }
}

/// Executes the statements that save several rows. Boxed, so that the future of a save of one row
/// stays small.
pub(crate) fn write_many<'w>(
    rows: &'w mut dyn Rows,
    conn: &'w mut Conn<'_>,
    kind: &'w WriteKind,
    notifier: &'w Notifier,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    match kind {
        WriteKind::Insert => Box::pin(insert_many(rows, conn)),
        kind => Box::pin(update_many(rows, conn, kind, notifier)),
    }
}

async fn insert_many(rows: &mut dyn Rows, conn: &mut Conn<'_>) -> Result<WriteOutcome> {
    let order = write_order(conn, rows).await?;
    rows.set_order(keyed_first(rows));
    let chunks = chunk::inserts(conn.kind(), rows);
    let slices = chunks.iter().flat_map(|chunk| chunk::slices(rows, chunk.rows.clone()));
    let batches: Vec<_> = slices.collect();
    rows.set_order(order);
    for chunk in chunks {
        locate::write_and_locate(conn, rows, &chunk, BulkOp::Insert).await?;
    }
    rows.set_order(Vec::new());
    Ok(WriteOutcome::several(Some(true), batches))
}

async fn update_many(
    rows: &mut dyn Rows,
    conn: &mut Conn<'_>,
    kind: &WriteKind,
    notifier: &Notifier,
) -> Result<WriteOutcome> {
    let model = rows.schema();
    let set: Vec<_> = match kind {
        WriteKind::Fields(set) => set.to_vec(),
        _ => model.group(ColumnGroup::Set).collect(),
    };
    let on: Vec<_> = model.group(ColumnGroup::Key).collect();
    if let Some(row) = (0..rows.len()).find(|row| !rows.has_key(*row)) {
        return Err(notifier.with_row(rows, row, not_found(rows, row)));
    }
    let before = notifier.receivers.previous;
    let locked = before
        && conn.kind() == DatabaseKind::Postgres
        && inspect::may_skip_updates(conn, rows).await?;
    let update = Update { set: &set, on: &on, checked: true, before, locked };
    let chunks = update.chunks(conn.kind(), rows);
    if chunks.len() > 1
        && let Some(row) = duplicate_key(conn.kind(), rows)
    {
        // If two rows with the same key are in different statements, neither statement reports it.
        return Err(notifier.with_row(rows, row, duplicate(rows, row)));
    }
    let order = write_order(conn, rows).await?;
    rows.set_order(order);
    for chunk in &chunks {
        if update.locked {
            // Otherwise it would not be known whether a trigger has skipped a row, or its previous row was outdated.
            lock(conn, rows, chunk, (update.on, update.checked), Vec::new()).await?;
        }
        let stored = locate::write_and_locate(conn, rows, chunk, BulkOp::Update(&update)).await?;
        if stored.len() < chunk.rows.len()
            && let Some((row, error)) =
                settle_unwritten(conn, rows, chunk, &update, &stored).await?
        {
            return Err(notifier.with_row(rows, row, error));
        }
    }
    rows.set_order(Vec::new());
    let batches: Vec<_> = chunks.into_iter().map(|chunk| chunk.rows).collect();
    Ok(WriteOutcome::several(Some(false), batches))
}

/// Handles the rows of a chunk that an UPDATE did not write. Rows that another transaction has
/// written in the meantime are updated now, and rows that a trigger has skipped are left unchanged. Any
/// other row is an error. Returns the first one in the order of the caller's slice.
async fn settle_unwritten(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    update: &Update<'_>,
    stored: &[usize],
) -> Result<Option<(usize, Error)>> {
    if let Some(row) = duplicate_key(conn.kind(), rows) {
        return Ok(Some((row, duplicate(rows, row))));
    }
    let missing = chunk.rows.clone().filter(|row| stored.binary_search(row).is_err());
    let missing: Vec<_> = missing.collect();
    // No lock is taken, because reporting an error must not wait for another transaction.
    let same = stored_as(conn, rows, chunk, true).await?;
    let others = missing.iter().filter(|row| same.binary_search(row).is_err());
    if let Some(&row) = others.min_by_key(|row| rows.slice_index(**row)) {
        let error = match is_stored(conn, rows, row).await? {
            false => not_found(rows, row),
            true if rows.schema().has(ColumnGroup::Version) => stale(rows, row),
            // The keys of two rows differ in memory but are equal in the database.
            true => duplicate(rows, row),
        };
        return Ok(Some((row, error)));
    }
    if let Some(row) = duplicate_in_database(conn, rows, chunk, &missing).await? {
        return Ok(Some((row, duplicate(rows, row))));
    }
    let writes = !inspect::may_skip_updates(conn, rows).await?;
    for row in missing {
        let error = match settle(conn, rows, row, update, writes).await? {
            Unwritten::Updated | Unwritten::Unchanged => continue,
            Unwritten::Gone => not_found(rows, row),
            Unwritten::Stale => stale(rows, row),
        };
        return Ok(Some((row, error)));
    }
    Ok(None)
}
