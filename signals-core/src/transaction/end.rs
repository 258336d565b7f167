//! The end of a transaction: COMMIT, ROLLBACK or the release of a savepoint, and what waits for it.

use futures_util::future::{BoxFuture, Either, Ready, ready};

use crate::database::backend::DatabaseKind;
use crate::database::deferred::{Deferred, End, run_all};
use crate::database::group::CommitFailed;
use crate::error::driver::may_be_committed;
use crate::error::{Error, Reason, Result};
use crate::task::finish::run_even_if_dropped;
use crate::task::measure;
use crate::task::pool_id::PoolId;
use crate::transaction::{Committed, Transaction};

impl Transaction<'_> {
    /// As [`commit`](Self::commit), without [`check`](Self::check): the first poll may send COMMIT.
    pub(crate) async fn commit_checked(mut self) -> Result<Committed> {
        if self.depth > 1 {
            return self.release().await;
        }
        if self.conn.state.foreign
            && self.frame().deferred.iter().any(|deferred| deferred.is_callback())
        {
            // The enclosing transaction has not ended, and its end is not observed.
            let _ = self.undo().await;
            let (model, receiver) = ("Transaction", "Transaction::on_commit");
            return Err(Error::CommitNotObservable { model, receiver });
        }
        if self.frame().deferred.is_empty() {
            return self.commit_outermost().await.map(|_| Committed::default());
        }
        let pool = self.conn.state.pool();
        let Some(conn) = self.conn.detach() else {
            let deferred = self.commit_outermost().await?;
            let callbacks = run_all(deferred, End::Committed, None);
            return Ok(Committed { errors: run_even_if_dropped(pool, callbacks).await });
        };
        // The future below owns the transaction. If it is dropped before its first poll, the transaction is rolled back.
        self.open = false;
        let shares_commit = self.shares_commit;
        let mut tx = Transaction { conn, depth: 1, open: true, is_releasing: false, shares_commit };
        let is_borrowed = self.conn.is_borrowed();
        let commit = async move {
            let committed = tx.commit_outermost().await;
            // Return the connection to the pool before the callbacks run, because they may need one. If a caller still uses
            // the connection, keep it.
            let mut conn = tx.conn.take();
            if is_borrowed {
                conn.give_up_turn();
            }
            let conn = is_borrowed.then_some(conn);
            let committed = match committed {
                Ok(deferred) => {
                    Ok(Committed { errors: run_all(deferred, End::Committed, None).await })
                }
                Err(error) => Err(error),
            };
            (committed, conn)
        };
        let (committed, conn) = run_even_if_dropped(pool, Box::pin(commit)).await;
        if let Some(conn) = conn {
            self.conn.reattach(conn);
        }
        committed
    }

    /// Writes what the transaction has collected. Boxed, because most transactions have collected nothing.
    pub(super) fn write_outbox(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let written = self.conn.write_outbox().await;
            if written.is_err() {
                let _ = self.undo().await;
            }
            written
        })
    }

    /// Releases a savepoint.
    async fn release(&mut self) -> Result<Committed> {
        // Before the await: if the future is dropped during the release, it is unknown whether the savepoint was released.
        self.is_releasing = true;
        let released = self.conn.commit_raw().await;
        self.is_releasing = false;
        if let Err(error) = released {
            let _ = self.undo().await;
            return Err(Error::RolledBack { reason: Reason::of_statement(&error) });
        }
        self.open = false;
        let frame = self.conn.state.frames.pop().unwrap_or_default();
        if let Some(outer) = self.conn.state.frames.last_mut() {
            outer.append(frame);
        }
        Ok(Committed::default())
    }

    /// Commits the outermost transaction. Returns the receivers and callbacks that wait for its end.
    async fn commit_outermost(&mut self) -> Result<Vec<Box<dyn Deferred>>> {
        // Taken before the await: if the future is dropped during COMMIT, it is unknown whether `on_commit` or `on_rollback`
        // applies, so neither may run.
        let deferred = std::mem::take(&mut self.frame().deferred);
        let committed = match std::mem::take(&mut self.shares_commit) {
            true => self.conn.commit_shared().await,
            false => self.conn.commit_raw().await.map_err(CommitFailed::Statement),
        };
        let Err(failed) = committed else {
            self.open = false;
            let frame = self.conn.state.frames.pop().unwrap_or_default();
            if self.is_outermost() {
                self.conn.set_idle();
                self.conn.end_turn();
                measure::transaction(true, frame.since);
            }
            return Ok(deferred);
        };
        let error = match failed {
            CommitFailed::Statement(error) if may_be_committed(&error, false) => error,
            refused => {
                let error = Error::from(refused);
                self.frame().deferred = deferred;
                let _ = self.undo().await;
                return Err(error);
            }
        };
        tracing::debug!(%error, "the connection was lost during COMMIT");
        self.open = false;
        self.conn.state.frames.pop();
        self.conn.discard();
        Err(Error::CommitUnknown(error))
    }

    /// Rolls back, and runs what waits for the rollback.
    pub(super) async fn undo(&mut self) -> Result<()> {
        self.note_unfinished();
        while self.conn.state.frames.len() > self.depth {
            let left_open = self.conn.state.frames.pop().unwrap_or_default();
            self.frame().append(left_open);
        }
        let is_unit = self.depth == 1 && self.conn.is_in_group();
        let result = match is_unit {
            true => self.conn.roll_back_unit().await,
            false => self.roll_back().await,
        };
        self.open = false;
        let frame = self.conn.state.frames.pop().unwrap_or_default();
        if self.is_outermost() {
            measure::transaction(false, frame.since);
        }
        match result {
            // SQLite may have rolled back because of a statement whose future was dropped, together with savepoints that sqlx goes on
            // counting.
            Ok(()) if self.is_outermost() && !is_unit && self.conn.depth_now() > 0 => {
                self.conn.set_unverified();
            }
            Ok(()) if self.is_outermost() => self.conn.set_idle(),
            // The rollback succeeded, so the savepoint still existed and the enclosing transaction is unchanged.
            Ok(()) => self.conn.state.unverified = false,
            Err(_) => {
                // The database has rolled back, or does so when the connection is closed.
                self.conn.abandon("a savepoint could not be rolled back");
                self.conn.set_unverified();
            }
        }
        let (holds, pool) = (self.holds(), self.conn.state.pool());
        if self.depth == 1 {
            match self.conn.is_borrowed() {
                true => self.conn.end_turn(),
                false => drop(self.conn.detach()),
            }
        }
        if !frame.deferred.is_empty() {
            run_even_if_dropped(pool, run_all(frame.deferred, End::RolledBack, holds)).await;
        }
        Ok(result?)
    }

    /// Records how long a write took that is rolled back: its receivers may be slow because they fail.
    pub(super) fn note_unfinished(&mut self) {
        if self.shares_commit {
            self.conn.note_unit(false);
        }
    }

    /// Rolls back, with the savepoints in it that are left open.
    async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        if !self.is_innermost().await {
            let depth = self.frame().sqlx_depth;
            Box::pin(self.conn.roll_back_to(depth)).await?;
        }
        self.conn.rollback_raw().await
    }

    /// Whether neither this library nor sqlx has a savepoint open in it, and sqlx has not ended it.
    pub(super) fn is_innermost(&mut self) -> Either<Ready<bool>, BoxFuture<'_, bool>> {
        let depth = self.frame().sqlx_depth;
        match self.conn.state.frames.len() == self.depth {
            true => self.conn.has_depth(depth),
            false => Either::Left(ready(false)),
        }
    }

    /// Whether no transaction is open after this one has ended.
    pub(super) fn is_outermost(&self) -> bool {
        self.depth == 1 && !self.conn.state.foreign
    }

    /// The pool from which a callback of this savepoint must not acquire a connection, because it would deadlock: SQLite allows one
    /// writer, which is the enclosing transaction.
    pub(super) fn holds(&self) -> Option<PoolId> {
        let waits = self.depth > 1 && self.conn.kind() == DatabaseKind::Sqlite;
        if waits { self.conn.state.pool() } else { None }
    }
}
