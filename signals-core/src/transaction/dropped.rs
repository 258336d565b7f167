//! What happens if a transaction is dropped before it has ended.

use tokio::runtime::Handle;

use crate::database::backend::DatabaseKind;
use crate::database::deferred::{End, run_all};
use crate::database::state::NO_MARK;
use crate::task::{measure, spawn};
use crate::transaction::Transaction;

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        self.note_unfinished();
        let (holds, pool) = (self.holds(), self.conn.state.pool());
        // A statement that is in flight may end a SQLite transaction (`ON CONFLICT ROLLBACK`).
        let may_end = self.is_outermost()
            && self.conn.state.in_flight
            && self.conn.kind() == DatabaseKind::Sqlite;
        // If the drop is outside a runtime, the callbacks run in the runtime of the connection.
        let runtime = Handle::try_current().ok().or_else(|| self.conn.runtime());
        let rollbacks = self.rollbacks();
        let frames: Vec<_> = self.conn.state.frames.drain(self.depth - 1..).collect();
        if self.is_outermost()
            && let Some(frame) = frames.first()
        {
            measure::transaction(false, frame.since);
        }
        if frames.iter().any(|frame| frame.mark == Some(NO_MARK)) {
            self.conn.state.fail_all("a statement that may have ended it was dropped");
        }
        let deferred: Vec<_> = frames.into_iter().flat_map(|frame| frame.deferred).collect();
        if self.is_releasing {
            self.conn.abandon("the commit of a savepoint was dropped before it was done");
        }
        if self.conn.state.unverified || may_end {
            // If the transaction has already ended, the rollback fails and sqlx still counts the transaction.
            self.conn.set_unverified();
        }
        // The unit of a group is rolled back when its connection is returned.
        if self.depth > 1 || !self.conn.is_in_group() {
            for _ in 0..rollbacks {
                self.conn.start_rollback();
            }
        }
        if deferred.is_empty() {
            return;
        }
        let own_conn =
            if self.depth == 1 && !self.conn.is_borrowed() { self.conn.detach() } else { None };
        // On Postgres, the rollback is only queued, so the task below sends it before the callbacks run. On SQLite, the connection is
        // returned now: other writers wait for its turn, and the runtime of the task may not be driven.
        let own_conn = own_conn.filter(|conn| conn.kind() == DatabaseKind::Postgres);
        if let Some(runtime) = runtime {
            spawn::spawn(&runtime, pool, async move {
                if let Some(mut conn) = own_conn {
                    conn.flush().await;
                }
                run_all(deferred, End::RolledBack, holds).await;
            });
        }
    }
}

impl Transaction<'_> {
    /// How many rollbacks end this transaction and the savepoints in it that are left open.
    fn rollbacks(&mut self) -> usize {
        let depth = self.conn.depth_now();
        match self.conn.kind() {
            // If sqlx has rolled back already, one more would end the enclosing transaction.
            DatabaseKind::Postgres => (depth + 1).saturating_sub(self.frame().sqlx_depth),
            // The worker may not have executed the rollbacks of dropped savepoints yet. It ignores one rollback if another was dropped
            // before its answer, and those outside a transaction.
            DatabaseKind::Sqlite => {
                let open = self.conn.state.frames.len() + 1 - self.depth;
                if self.is_outermost() { open.max(depth) } else { open }
            }
        }
    }
}
