//! A write of one row without receivers, as a unit of a group that shares a COMMIT.

use futures_util::TryFutureExt;
use futures_util::future::BoxFuture;

use crate::database::conn::Conn;
use crate::database::group::GroupEnd;
use crate::database::source::Source;
use crate::database::state::Autocommit;
use crate::database::writer::Writer;
use crate::error::{Error, Result};
use crate::signal::rows::SignalRows;
use crate::write::delete::delete_one;
use crate::write::own_transaction::inspect_and_write;
use crate::write::restore::RestoreGuard;
use crate::write::save::stamp;
use crate::write::single::store;
use crate::write::{WriteKind, WriteOutcome};

/// Takes a connection to write the single row in `rows`. If it is not known whether a single statement can commit itself, the
/// connection says so. (A variable of the caller would enlarge the future of every save.)
pub(super) fn acquire<'c>(
    mut source: Source<'c>,
    rows: &dyn SignalRows,
    kind: &WriteKind,
) -> impl Future<Output = Result<Conn<'c>>> + use<'c> {
    let database = source.kind();
    let is_single = source.in_transaction()
        || source.facts().commits_itself(database, rows.as_rows(), kind) == Some(true);
    let writer = Writer::of(kind.write_verb(), rows.model()).sharing_commit(is_single);
    source.acquire_to_write(writer).map_ok(move |mut conn| {
        conn.state.autocommit = if is_single { Autocommit::Plain } else { Autocommit::Uninspected };
        conn
    })
}

/// Writes the single row in `rows` with a single statement, in a transaction that other writes share. If this transaction is rolled
/// back, or a single statement is not sufficient, the row is written by itself.
pub(super) fn write<'w>(
    rows: &'w mut dyn SignalRows,
    mut conn: Conn<'w>,
    kind: WriteKind,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    Box::pin(async move {
        let is_single = conn.state.autocommit != Autocommit::Uninspected;
        conn.state.autocommit = Autocommit::Plain;
        if !is_single || !conn.join_group().await? {
            return inspect_and_write(rows, conn, kind).await;
        }
        let db = conn.state.db.clone();
        if let Some(done) = write_unit(rows, conn, &kind).await {
            return done;
        }
        let Some(db) = db else { return Err(sqlx::Error::PoolClosed.into()) };
        let writer = Writer::of(kind.write_verb(), rows.model());
        let conn = db.acquire_to_write(writer).await?;
        inspect_and_write(rows, conn, kind).await
    })
}

/// Returns `None` if nothing is stored and the write has to run again by itself.
///
/// An error is returned only after the COMMIT too: it may be the effect of a row that another unit has written.
async fn write_unit(
    rows: &mut dyn SignalRows,
    mut conn: Conn<'_>,
    kind: &WriteKind,
) -> Option<Result<WriteOutcome>> {
    // If the transaction is rolled back, the row gets back its key and version.
    let mut restore_guard = RestoreGuard::new(rows);
    let done = match kind {
        WriteKind::Delete => delete_one(restore_guard.rows, &mut conn).await,
        kind => {
            stamp(restore_guard.rows, kind);
            store(&mut conn, restore_guard.rows, kind, false).await.map(WriteOutcome::of_save)
        }
    };
    let needs_transaction = conn.state.take_needs_transaction(&done);
    if done.is_ok() {
        // Before the await: if the future is dropped during the COMMIT, the row may be stored, and its next write needs its key and
        // version.
        restore_guard.disarm();
    }
    match conn.leave_group(done.is_err()).await {
        GroupEnd::Committed if !needs_transaction => Some(done),
        GroupEnd::Unknown => Some(Err(Error::CommitUnknown(sqlx::Error::WorkerCrashed))),
        GroupEnd::Committed | GroupEnd::RolledBack(_) => {
            if done.is_ok() {
                restore_guard.restore();
            }
            None
        }
    }
}
