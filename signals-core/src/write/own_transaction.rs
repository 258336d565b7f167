//! Writes of one row without receivers that may need a transaction of their own.

use futures_util::future::BoxFuture;

use crate::database::conn::Conn;
use crate::error::Result;
use crate::signal::rows::SignalRows;
use crate::transaction::Transaction;
use crate::transaction::own::{TransactionWork, in_transaction};
use crate::write::continued_save::continue_store;
use crate::write::delete::{delete_directly, delete_one, not_deleted};
use crate::write::restore::RestoreGuard;
use crate::write::save::{save_directly, stamp};
use crate::write::single::store;
use crate::write::{WriteKind, WriteOutcome, inspect};

/// Writes the single row in `rows`, if it is not known yet whether the statement can commit itself.
/// If it cannot, the write runs in a transaction.
pub(super) fn inspect_and_write<'w>(
    rows: &'w mut dyn SignalRows,
    mut conn: Conn<'w>,
    kind: WriteKind,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    Box::pin(async move {
        if inspect::commits_itself(&mut conn, rows, &kind).await? {
            let done = match kind {
                WriteKind::Delete => delete_directly(rows, &mut conn).await,
                _ => save_directly(rows, &mut conn, &kind).await.map(WriteOutcome::of_save),
            };
            if !conn.state.take_needs_transaction(&done) {
                return done;
            }
        }
        write_in_transaction(rows, conn, &kind, false).await
    })
}

/// Writes the single row in `rows` in a transaction of its own. `tried`: whether the first statement of the write was executed before, and has
/// found no row.
pub(super) fn write_in_transaction<'w>(
    rows: &'w mut dyn SignalRows,
    conn: Conn<'w>,
    kind: &'w WriteKind,
    tried: bool,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    let restore_guard = RestoreGuard::new(rows);
    Box::pin(in_transaction(conn, RowWrite { restore_guard, kind, tried }))
}

/// A write of a row without receivers, as the work of a transaction.
struct RowWrite<'w> {
    restore_guard: RestoreGuard<'w>,
    kind: &'w WriteKind,
    /// Whether the first statement was executed before.
    tried: bool,
}

impl TransactionWork for RowWrite<'_> {
    type Done = WriteOutcome;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<WriteOutcome> {
        let rows = &mut *self.restore_guard.rows;
        if *self.kind == WriteKind::Delete {
            return if self.tried {
                not_deleted(tx, rows).await
            } else {
                delete_one(rows, tx).await
            };
        }
        stamp(rows, self.kind);
        let stored = match self.tried {
            true => continue_store(tx, rows, self.kind, false, true).await?,
            false => store(tx, rows, self.kind, false).await?,
        };
        Ok(WriteOutcome::of_save(stored))
    }

    fn commits(&self, done: &WriteOutcome) -> bool {
        self.kind.stores(done)
    }

    fn before_commit(&mut self) {
        self.restore_guard.disarm();
    }

    fn commit_failed(&mut self) {
        self.restore_guard.restore();
    }

    fn before_retry(&mut self) {
        self.restore_guard.restore_for_retry();
    }
}
