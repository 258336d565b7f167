//! What becomes of a connection when its lease ends: it is idle in the [`WarmPool`](crate::database::pool::WarmPool), goes back to sqlx's
//! pool, or is closed.

use std::time::{Duration, Instant};

use sqlx::{Connection, SqlStr};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::database::backend::Backend;
use crate::database::group_task;
use crate::database::lease::{InFlight, Lease, LeaseInner, Origin};
use crate::database::pool::{ANSWER_TIMEOUT, NO_EPOCH};
use crate::database::raw;
use crate::database::reconcile;
use crate::database::runtimes::{in_runtime, spawn_even_if_idle};

impl<DB: Backend> LeaseInner<DB> {
    /// Returns the connection to its pool, as far as its state allows.
    pub(super) fn release(mut self: Box<Self>) {
        if self.state.group.is_some() {
            return group_task::end(self);
        }
        let is_counted = self.is_counted();
        let is_pooled = matches!(self.conn, Origin::Pool(_));
        let state = &mut self.state;
        // The turn of a transaction that was forgotten (`std::mem::forget`).
        if let Some((queue, number)) = state.borrowed_turn.take()
            && state.turn.is_none()
        {
            state.turn = queue.take_over(number);
        }
        // Without a statement cache, each statement is wrapped in its own BEGIN and COMMIT, so an interrupted one may have left a
        // transaction open that sqlx does not know about.
        let may_have_begun = !state.keeps_statements && state.in_flight == InFlight::Statement;
        if state.unverified || state.query_only || may_have_begun || is_counted {
            return self.roll_back_and_release();
        }
        if state.epoch.is_none() || state.is_superseded && is_pooled {
            return self.close();
        }
        let clean = state.in_flight == InFlight::Nothing && !state.used_raw;
        let Some((owner, permit)) = self.owner.take() else {
            // sqlx would wait for the end of a statement without a limit.
            if self.state.in_flight != InFlight::Nothing {
                return self.give_back(None, ANSWER_TIMEOUT);
            }
            return in_runtime(self.state.runtime.take(), move || drop(self));
        };
        if clean && !owner.must_return(self.state.acquired_at.elapsed()) {
            self.state.idle_since = Instant::now();
            let turn = self.state.turn.take();
            owner.put_back(Lease(Some(self)));
            // Release the permit after that, so that the next waiter finds the connection in `idle`. The next writer also needs a
            // permit.
            drop(permit);
            drop(turn);
        } else {
            // sqlx's pool checks the connection. If the database never answered on it, the idle connections may be dead too and
            // are also returned for a check.
            if !clean && !self.state.used_raw && !self.state.proven_alive {
                owner.clear();
            }
            self.give_back(Some(permit), owner.answer_timeout());
        }
    }

    /// Whether sqlx still counts a transaction. The program may not have ended it (`std::mem::forget`). It may also have ended: SQLite
    /// can roll back by itself because of a statement whose future was dropped. The rollback that the dropped transaction has queued
    /// then fails, and sqlx still counts the transaction, so that the next transaction would be a savepoint, and its COMMIT would not
    /// commit.
    fn is_counted(&self) -> bool {
        match &self.conn {
            Origin::Pool(conn) => raw::depth::<DB>(conn) > 0,
            // sqlx rolls back one.
            Origin::Transaction(conn) => raw::depth::<DB>(conn) > 1,
        }
    }

    /// Rolls back a transaction that raw SQL may have left open, and allows writes again, before the connection can be checked out
    /// again.
    fn roll_back_and_release(self: Box<Self>) {
        in_runtime(self.state.runtime.clone(), move || {
            let mut guard = CloseOnDrop(Some(self));
            spawn_even_if_idle::<DB>(async move {
                let Some(inner) = &mut guard.0 else { return };
                let limit = match inner.state.has_limit {
                    true => ANSWER_TIMEOUT,
                    false => inner.state.statement_timeout,
                };
                let reset = inner.reset();
                let reset = match DB::NEEDS_RUNTIME {
                    true => timeout(limit, reset).await.unwrap_or(Err(NO_ANSWER)),
                    false => reset.await,
                };
                if let Err(error) = reset {
                    tracing::warn!(%error, "closing a connection that may be in a transaction");
                } else if let Some(mut inner) = guard.0.take() {
                    (inner.state.unverified, inner.state.query_only) = (false, false);
                    inner.state.in_flight = InFlight::Nothing;
                    inner.release();
                }
            });
        });
    }

    async fn reset(&mut self) -> Result<(), sqlx::Error> {
        reconcile::roll_back_all::<DB>(&mut self.conn).await?;
        if self.state.epoch.is_none() && matches!(self.conn, Origin::Transaction(_)) {
            self.conn.clear_cached_statements().await?;
            self.state.epoch = Some(NO_EPOCH);
        }
        if self.state.query_only {
            DB::simple(&mut self.conn, SqlStr::from_static("PRAGMA query_only = OFF")).await?;
        }
        Ok(())
    }

    /// Returns the connection to sqlx's pool, which checks it. The permit is held until the return completes, because the
    /// connection is unavailable until then.
    pub(super) fn give_back(self, permit: Option<OwnedSemaphorePermit>, answer_timeout: Duration) {
        let Self { conn, state, .. } = self;
        // A statement that is in flight may take longer.
        let has_statement =
            !state.has_limit && (state.in_flight == InFlight::Statement || state.used_raw);
        let limit = if has_statement { state.statement_timeout } else { answer_timeout };
        // A connection that needs no runtime always answers.
        let limit = DB::NEEDS_RUNTIME.then_some(limit);
        let turn = state.turn;
        in_runtime(state.runtime, move || {
            let Origin::Pool(mut conn) = conn else { return };
            // Called outside the task: if the runtime shuts down and drops the task, the future that owns the connection is
            // dropped with it, which closes the connection and frees its slot in sqlx's pool.
            let returned = conn.return_to_pool();
            spawn_even_if_idle::<DB>(async move {
                match limit {
                    Some(limit) => _ = timeout(limit, returned).await,
                    None => returned.await,
                }
                drop((permit, turn));
            });
        });
    }

    pub(super) fn close(self: Box<Self>) {
        if matches!(self.conn, Origin::Transaction(_)) {
            // sqlx does not allow to close it.
            return self.roll_back_and_release();
        }
        let Self { conn, owner, state } = *self;
        let Origin::Pool(mut conn) = conn else { return };
        let Some((owner, permit)) = owner else {
            return in_runtime(state.runtime, move || conn.close_on_drop());
        };
        if !state.proven_alive {
            owner.clear();
        }
        let turn = state.turn;
        in_runtime(state.runtime, move || {
            let conn = conn.detach();
            spawn_even_if_idle::<DB>(async move {
                match DB::NEEDS_RUNTIME {
                    true => _ = timeout(ANSWER_TIMEOUT, conn.close()).await,
                    false => _ = conn.close().await,
                }
                drop((permit, turn));
            });
        });
    }
}

/// The error of a connection whose interrupted statement does not end.
const NO_ANSWER: sqlx::Error = sqlx::Error::PoolTimedOut;

/// Closes the connection if this guard is dropped with it.
pub(in crate::database) struct CloseOnDrop<DB: Backend>(
    pub(in crate::database) Option<Box<LeaseInner<DB>>>,
);

impl<DB: Backend> Drop for CloseOnDrop<DB> {
    fn drop(&mut self) {
        match self.0.take() {
            Some(inner) if matches!(inner.conn, Origin::Pool(_)) => inner.close(),
            // sqlx pings the connection when it is dropped, and closes it if that fails.
            inner => drop(inner),
        }
    }
}
