//! A writer that waits in the [`WriteQueue`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::database::group::GroupId;
use crate::database::lease::AnyLease;
use crate::database::write_queue::{Turn, WriteQueue};
use crate::database::writer::Writer;
use crate::error::Result;

/// What a waiting writer gets.
#[derive(Debug)]
pub(crate) enum Grant {
    Turn(Turn),
    /// A connection that has the turn, with the open transaction of a group.
    Group(AnyLease),
}

/// The message to a waiting writer.
#[derive(Debug)]
pub(super) enum Told {
    Turn(Turn),
    /// The connection of a group waits in the queue for it.
    Offer,
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
    fn take_offer(&self) -> Option<AnyLease> {
        let offer = self.queue.state().offer.take_if(|(id, _)| *id == self.id);
        offer.map(|(_, lease)| lease)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = {
            let mut state = self.queue.state();
            let at = state.waiting.iter().position(|waiter| waiter.id == self.id);
            at.and_then(|at| state.waiting.remove(at))
        };
        // Dropped after the lock is released, because returning a connection takes the lock.
        drop((left, self.take_offer()));
    }
}

impl WriteQueue {
    /// Waits for the turn, without a connection. A writer that shares a COMMIT may join a group.
    ///
    /// # Errors
    ///
    /// [`Error::WriteLockTimedOut`](crate::Error::WriteLockTimedOut) if the turn does not come within `limit`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the writer leaves the queue.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        writer: Writer,
        group: GroupId,
        limit: Duration,
    ) -> Result<Grant> {
        let joins = (writer.shares_commit && self.shares_commits).then_some(group);
        self.wait(writer, Entry { has_connection: false, first: false, joins }, limit).await
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
        match self.wait(writer, entry, limit).await? {
            Grant::Turn(turn) => Ok(turn),
            Grant::Group(_) => unreachable!("a writer with a connection joins no group"),
        }
    }

    async fn wait(
        self: &Arc<Self>,
        writer: Writer,
        mut entry: Entry,
        limit: Duration,
    ) -> Result<Grant> {
        let start = Instant::now();
        loop {
            let mut place = match self.take_place(writer, entry) {
                Ok(turn) => return Ok(Grant::Turn(turn)),
                Err(place) => place,
            };
            match timeout(limit.saturating_sub(start.elapsed()), &mut place.told).await {
                Ok(Ok(Told::Turn(turn))) => return Ok(Grant::Turn(turn)),
                Ok(Ok(Told::Offer)) => match place.take_offer() {
                    Some(lease) => return Ok(Grant::Group(lease)),
                    // The offer was withdrawn.
                    None => entry.first = true,
                },
                _ => return Err(self.timed_out(limit)),
            }
        }
    }

    /// Takes the turn, or the first place in the queue, for a transaction that may already hold the write lock. This does not wait for the
    /// turn, because the writer that has the turn may be waiting for that lock.
    pub(crate) fn enter_next(self: &Arc<Self>, writer: Writer) -> Result<Turn, Place> {
        self.take_place(writer, Entry { has_connection: true, first: true, joins: None })
    }

    fn take_place(self: &Arc<Self>, writer: Writer, entry: Entry) -> Result<Turn, Place> {
        let (sender, told) = oneshot::channel();
        let mut state = self.state();
        if state.is_free(entry.has_connection) {
            state.begin(writer);
            return Ok(state.turn(self, writer));
        }
        let id = state.arrived;
        state.arrived += 1;
        let waiter = Waiter { id, writer, entry, told: sender };
        match entry.first {
            true => state.waiting.push_front(waiter),
            false => state.waiting.push_back(waiter),
        }
        Err(Place { queue: Arc::clone(self), id, told })
    }
}
