//! Takes the turn of a write: for a connection from a pool, and for a connection that the caller has.

#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::Arc;

use futures_util::future::{BoxFuture, Either, ready};
#[cfg(feature = "sqlite")]
use sqlx::SqlStr;
use tokio::time::timeout;

#[cfg(feature = "sqlite")]
use crate::database::backend::AnyRow;
use crate::database::backend::DatabaseKind;
use crate::database::conn::{Conn, UsuallyReady};
use crate::database::db::Db;
use crate::database::detached::Answer;
#[cfg(feature = "sqlite")]
use crate::database::execution::Execution;
use crate::database::group::{GroupEnd, GroupId};
use crate::database::lease::{AnyLease, LeaseState};
use crate::database::queued_statement::Executable;
use crate::database::waiter::{Grant, WaitLimit};
use crate::database::write_queue::WriteQueue;
#[cfg(feature = "sqlite")]
use crate::database::write_queues;
use crate::database::write_turn::Turn;
use crate::database::writer::Writer;
use crate::error::Result;
use crate::task::{chain, closures};

/// What a writer gets that has waited.
pub(crate) enum Granted {
    Connection(AnyLease),
    /// Its statement was executed, with this answer, in a transaction that has ended.
    Executed(Result<Answer, sqlx::Error>, GroupEnd),
}

impl Db {
    /// Takes a connection from the pool, to write with it. On SQLite, waits for the turn first.
    ///
    /// # Errors
    ///
    /// The errors of [`acquire`](Self::acquire), and [`Error::WriteLockTimedOut`].
    pub(crate) async fn acquire_to_write(&self, writer: Writer) -> Result<Conn<'static>> {
        let lease = match self.try_acquire_to_write(writer)? {
            Some(lease) => lease,
            None => match self.wait_to_write(writer, None).await? {
                Granted::Connection(lease) => lease,
                Granted::Executed(..) => unreachable!("the writer has left no statement"),
            },
        };
        Ok(Conn::with_lease(Some(lease), self.clone()))
    }

    /// A connection for which there is no need to wait.
    pub(super) fn try_acquire_to_write(&self, writer: Writer) -> Result<Option<AnyLease>> {
        chain::check_not_held(self.pool_id())?;
        if cfg!(debug_assertions) && self.kind() == DatabaseKind::Postgres {
            closures::warn_beside(self.pool_id());
        }
        let Some(queue) = self.write_queue() else {
            // The first connection creates the file of a SQLite database, which identifies its queue.
            return Ok(if self.kind() == DatabaseKind::Postgres { self.try_lease() } else { None });
        };
        chain::check_not_locked(WriteQueue::id(queue))?;
        // Without an idle connection, the turn is given up.
        Ok(queue.try_enter(writer, Some(self.pool_id())).and_then(|turn| {
            let mut lease = self.try_lease()?;
            lease.state_mut().turn = Some(turn);
            Some(lease)
        }))
    }

    /// Waits for the turn and a connection. If a `statement` is all that the writer wants to execute, it may be executed meanwhile. Boxed,
    /// because it would enlarge the future of every save.
    pub(crate) fn wait_to_write<'w>(
        &'w self,
        writer: Writer,
        statement: Option<Executable<'w>>,
    ) -> BoxFuture<'w, Result<Granted>> {
        Box::pin(async move {
            let limit = WaitLimit::new(self.acquire_timeout());
            let Some(queue) = self.write_queue() else {
                let mut lease = self.wait_for_lease().await?;
                if let Some(queue) = self.write_queue() {
                    let turn = queue.enter_with_connection(writer, limit).await?;
                    lease.state_mut().turn = Some(turn);
                }
                return Ok(Granted::Connection(lease));
            };
            let group = GroupId::here(self.pool_id());
            let turn = match queue.enter(writer, group, limit, statement).await? {
                Grant::Turn(turn) => turn,
                Grant::Group(lease) => return Ok(Granted::Connection(lease)),
                Grant::Executed(answer, end) => return Ok(Granted::Executed(answer, end)),
            };
            if let Some(mut lease) = self.try_lease() {
                lease.state_mut().turn = Some(turn);
                return Ok(Granted::Connection(lease));
            }
            let reservation = turn.reserve(writer, self.pool_id());
            let lease = timeout(limit.left(), self.wait_for_lease()).await;
            let mut lease = lease.unwrap_or(Err(sqlx::Error::PoolTimedOut.into()))?;
            if let Some(reservation) = reservation {
                lease.state_mut().turn = Some(reservation.enter(writer, limit).await?);
            }
            Ok(Granted::Connection(lease))
        })
    }
}

impl Conn<'_> {
    /// On SQLite, takes the turn to write, unless the connection has it already or is in a transaction. Returns `false` if it has to
    /// wait.
    ///
    /// An adopted transaction takes its turn with its first write. A connection that is borrowed from sqlx takes no turn, because its database is unknown and it may hold the write lock.
    ///
    /// # Errors
    ///
    /// [`Error::WouldDeadlock`] if the task would wait for itself.
    pub(crate) fn try_turn(&mut self, writer: Writer) -> Result<bool> {
        if self.in_transaction() {
            return Ok(!self.is_adopted_without_place());
        }
        let Some(queue) = self.state.db.as_ref().and_then(Db::write_queue) else { return Ok(true) };
        let queue = Arc::clone(queue);
        let is_taken = self.state.turn().is_some_and(|turn| turn.is_some());
        let lease = self.lease_mut().map(|lease| lease.state());
        let has_lease = lease.is_some();
        // The borrower of a connection that has taken a turn has it too.
        let inherits = |lease: &LeaseState| {
            let last = lease.borrowed_turn.as_ref().map(|(_, number)| *number);
            lease.turn.is_some() || last.is_some() && queue.current_turn() == last
        };
        // A transaction that raw SQL has begun may hold the write lock.
        if is_taken || lease.is_some_and(inherits) || self.depth_now() > 0 {
            return Ok(true);
        }
        chain::check_not_locked(WriteQueue::id(&queue))?;
        let turn = if has_lease { queue.try_enter(writer, None) } else { None };
        Ok(turn.map(|turn| self.keep_turn(turn)).is_some())
    }

    /// As [`try_turn`](Self::try_turn), and waits if it has to.
    ///
    /// # Errors
    ///
    /// Also [`Error::WriteLockTimedOut`] if the turn does not come in time.
    pub(crate) fn wait_for_turn(&mut self, writer: Writer) -> UsuallyReady<'_> {
        match self.try_turn(writer) {
            Ok(true) => Either::Left(ready(Ok(()))),
            Ok(false) => Either::Right(self.wait_in_queue(writer)),
            Err(error) => Either::Left(ready(Err(error))),
        }
    }

    fn wait_in_queue(&mut self, writer: Writer) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            #[cfg(feature = "sqlite")]
            if self.in_transaction() {
                return self.enter_with_adopted().await;
            }
            let Some(db) = self.state.db.clone() else { return Ok(()) };
            let limit = WaitLimit::new(db.acquire_timeout());
            // Before the turn comes, because a connection may be in use by a writer that waits for its turn.
            self.ensure_connected().await?;
            if let Some(queue) = db.write_queue() {
                let turn = queue.enter_with_connection(writer, limit).await?;
                self.keep_turn(turn);
            }
            Ok(())
        })
    }

    /// Whether the connection is in a transaction that sqlx has begun on SQLite, and this library has not written in it yet.
    fn is_adopted_without_place(&mut self) -> bool {
        let adopted = self.state.frames.first().is_some_and(|frame| frame.adopted_on_sqlite());
        adopted
            && self.lease_mut().is_some_and(|lease| {
                let state = lease.state();
                state.turn.is_none() && state.place.is_none()
            })
    }

    /// Makes an adopted transaction the next writer of its database, and waits for the lock with SQLite's busy timeout. It keeps its turn
    /// until it ends, so that other writers wait for it in the queue and not for the lock.
    #[cfg(feature = "sqlite")]
    async fn enter_with_adopted(&mut self) -> Result<()> {
        let mut file = None;
        // Unlike `pragma_database_list`, it reads nothing in the transaction. Its columns are the number, the name and the file.
        let asked = Execution::plain(self.connected(), SqlStr::from_static("PRAGMA database_list"));
        let take = &mut |row: AnyRow| {
            if row.bytes(1).is_ok_and(|name| name.as_deref() == Some(b"main")) {
                file = row.bytes(2).ok().flatten();
            }
        };
        let asked = asked.run_to_end(take).await;
        self.note_result(asked).await?;
        let file = file.and_then(|file| String::from_utf8(file).ok());
        let queue = file.and_then(|file| write_queues::of_open_file(Path::new(&file)));
        // A database in memory gets a queue that nobody else uses.
        let entered = queue.unwrap_or_default().enter_next(Writer::transaction(None));
        if let Some(lease) = self.lease_mut() {
            match entered {
                Ok(turn) => lease.state_mut().turn = Some(turn),
                Err(place) => lease.state_mut().place = Some(place),
            }
        }
        // Takes the lock, before this library reads anything: a transaction that has read cannot wait for the lock
        // (https://www.sqlite.org/isolation.html). Unless the database is in a mode of auto-vacuum, nothing else happens, and otherwise
        // at most one unused page is freed.
        let sql = SqlStr::from_static("PRAGMA incremental_vacuum(1)");
        let locked = Execution::plain(self.connected(), sql).run_to_end(&mut |_| ()).await;
        self.note_result(locked).await.map(drop)
    }

    fn keep_turn(&mut self, turn: Turn) {
        let borrowed = turn.queue().cloned().map(|queue| (queue, turn.number()));
        if let Some(slot) = self.state.turn() {
            *slot = Some(turn);
            if let Some(lease) = self.lease_mut() {
                lease.state_mut().borrowed_turn = borrowed;
            }
        } else if let Some(lease) = self.lease_mut() {
            lease.state_mut().turn = Some(turn);
        }
    }

    /// Ends the turn of a write through a borrowed connection. A turn in a lease ends when the lease is returned.
    pub(crate) fn end_turn(&mut self) {
        if let Some(turn) = self.state.turn() {
            *turn = None;
        }
    }

    /// Ends the turn, although the connection is not returned.
    pub(crate) fn give_up_turn(&mut self) {
        self.end_turn();
        if let Some(lease) = self.lease_mut() {
            lease.state_mut().turn = None;
        }
    }
}
