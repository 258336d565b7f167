//! A writer that waits in the [`WriteQueue`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::database::detached::Answer;
use crate::database::group::{GroupEnd, GroupId};
use crate::database::lease::AnyLease;
use crate::database::queued_statement::{Executable, QueuedStatement};
use crate::database::write_queue::{Turn, WriteQueue};
use crate::database::writer::Writer;
use crate::error::Result;

/// What a waiting writer gets.
pub(crate) enum Grant {
    Turn(Turn),
    /// A connection that has the turn, with the open transaction of a group.
    Group(AnyLease),
    /// The answer of the statement of the writer, which was executed in a group that has ended since.
    Executed(Result<Answer, sqlx::Error>, GroupEnd),
}

/// The message to a waiting writer.
pub(super) enum Told {
    Turn(Turn),
    /// The connection of a group waits in the queue for it.
    Offer,
    /// Its statement was executed in a group that has ended.
    Executed(Result<Answer, sqlx::Error>, GroupEnd),
    /// Its statement was taken out of the queue, but not executed.
    NotExecuted,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Turn(_) => "Turn",
            Self::Offer => "Offer",
            Self::Executed(..) => "Executed",
            Self::NotExecuted => "NotExecuted",
        })
    }
}

/// Tells waiters whose statements were taken out of the queue to enter it again.
pub(super) fn put_back(waiters: impl IntoIterator<Item = Waiter>) {
    for waiter in waiters {
        // Fails if the future of the writer was dropped.
        let _ = waiter.told.send(Told::NotExecuted);
    }
}

/// How a writer enters the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) has_connection: bool,
    /// Whether it waits in front of all others.
    first: bool,
    /// The groups that the writer may join.
    pub(super) joins: Option<GroupId>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) writer: Writer,
    pub(super) entry: Entry,
    /// The statement of the writer, if another task may execute it.
    pub(super) statement: Option<QueuedStatement>,
    pub(super) told: oneshot::Sender<Told>,
}

/// The place of a waiter in the queue. If it is dropped, the waiter leaves the queue, and its turn or connection is passed on.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<WriteQueue>,
    id: u64,
    told: oneshot::Receiver<Told>,
}

impl Place {
    /// Leaves the queue. Returns `false` if the waiter is not in it, because its turn has come or its statement is being executed.
    fn leave(&self) -> bool {
        let left = {
            let mut state = self.queue.state();
            let at = state.waiting.iter().position(|waiter| waiter.id == self.id);
            at.and_then(|at| state.waiting.remove(at))
        };
        left.is_some()
    }

    fn take_offer(&self) -> Option<AnyLease> {
        let offer = self.queue.state().offer.take_if(|(id, _)| *id == self.id);
        offer.map(|(_, lease)| lease)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        // Dropped after the lock is released, because returning a connection takes the lock.
        drop(self.take_offer());
    }
}

impl WriteQueue {
    /// Waits for the turn, without a connection. A writer that shares a COMMIT may join a group. If it has a `statement`, this may be
    /// executed meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::WriteLockTimedOut`](crate::Error::WriteLockTimedOut) if the turn does not come within `limit`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the writer leaves the queue. If its statement is being executed, it is stored nevertheless.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        writer: Writer,
        group: GroupId,
        limit: Duration,
        statement: Option<Executable<'_>>,
    ) -> Result<Grant> {
        let joins = (writer.shares_commit && self.shares_commits).then_some(group);
        let entry = Entry { has_connection: false, first: false, joins };
        self.wait(writer, entry, limit, statement).await
    }

    /// As [`enter`](Self::enter), for a writer that has its connection.
    pub(crate) async fn enter_with_connection(
        self: &Arc<Self>,
        writer: Writer,
        limit: Duration,
    ) -> Result<Turn> {
        self.wait_with_connection(writer, false, limit).await
    }

    pub(super) async fn wait_with_connection(
        self: &Arc<Self>,
        writer: Writer,
        first: bool,
        limit: Duration,
    ) -> Result<Turn> {
        let entry = Entry { has_connection: true, first, joins: None };
        match self.wait(writer, entry, limit, None).await? {
            Grant::Turn(turn) => Ok(turn),
            _ => unreachable!("a writer with a connection joins no group"),
        }
    }

    async fn wait(
        self: &Arc<Self>,
        writer: Writer,
        mut entry: Entry,
        limit: Duration,
        mut statement: Option<Executable<'_>>,
    ) -> Result<Grant> {
        let start = Instant::now();
        loop {
            let mut place = match self.take_place(writer, entry, statement) {
                Ok(turn) => return Ok(Grant::Turn(turn)),
                Err(place) => place,
            };
            let left = limit.saturating_sub(start.elapsed());
            let told = match timeout(left, &mut place.told).await {
                Ok(told) => told,
                // The statement was taken out of the queue to be executed.
                Err(_) if statement.is_some() && !place.leave() => (&mut place.told).await,
                Err(_) => return Err(self.timed_out(limit)),
            };
            match told {
                Ok(Told::Turn(turn)) => return Ok(Grant::Turn(turn)),
                Ok(Told::Offer) => match place.take_offer() {
                    Some(lease) => return Ok(Grant::Group(lease)),
                    // The offer was withdrawn.
                    None => (entry.first, statement) = (true, None),
                },
                Ok(Told::NotExecuted) if start.elapsed() >= limit => {
                    return Err(self.timed_out(limit));
                }
                Ok(Told::NotExecuted) => (entry.first, statement) = (true, None),
                Ok(Told::Executed(answer, end)) => return Ok(Grant::Executed(answer, end)),
                // The task that executes the statement was dropped with its runtime.
                Err(_) => {
                    let lost = Err(sqlx::Error::WorkerCrashed);
                    return Ok(Grant::Executed(lost, GroupEnd::Unknown));
                }
            }
        }
    }

    /// Takes the turn, or the first place in the queue, for a transaction that may already hold the write lock. This does not wait for the
    /// turn, because the writer that has the turn may be waiting for that lock.
    pub(crate) fn enter_next(self: &Arc<Self>, writer: Writer) -> Result<Turn, Place> {
        self.take_place(writer, Entry { has_connection: true, first: true, joins: None }, None)
    }

    fn take_place(
        self: &Arc<Self>,
        writer: Writer,
        entry: Entry,
        statement: Option<Executable<'_>>,
    ) -> Result<Turn, Place> {
        let (sender, told) = oneshot::channel();
        // Without the lock, because it runs code of the program.
        let mut queued = statement.and_then(|statement| self.queued(statement, entry));
        let mut state = self.state();
        if let Some(statement) = statement
            && queued.as_ref().is_some_and(|queued| !state.may_append(queued))
        {
            // Other waiters have come or left since.
            drop(state);
            queued = QueuedStatement::first(statement, &self.texts);
            state = self.state();
        }
        if state.is_free(entry.has_connection) {
            state.begin(writer);
            return Ok(state.turn(self, writer));
        }
        let id = state.arrived;
        state.arrived += 1;
        let waiter = Waiter { id, writer, entry, statement: queued, told: sender };
        match entry.first {
            true => state.waiting.push_front(waiter),
            false => state.waiting.push_back(waiter),
        }
        Err(Place { queue: Arc::clone(self), id, told })
    }

    /// Adds a statement to the batch of the last waiter, or begins a batch.
    fn queued(&self, statement: Executable<'_>, entry: Entry) -> Option<QueuedStatement> {
        entry.joins?;
        let last = {
            let state = self.state();
            let last = state.waiting.back().filter(|last| last.entry.joins == entry.joins);
            last.and_then(|last| last.statement.clone())
        };
        let next = last.and_then(|last| last.next(statement));
        next.or_else(|| QueuedStatement::first(statement, &self.texts))
    }
}
