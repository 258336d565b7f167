//! The queue of the writers of one SQLite database. SQLite allows one writer at a time, and its busy handler polls: waiting writers
//! are served at random, and may wait for seconds. Here they take turns in the order of arrival, and a waiting writer is woken when
//! its turn comes.
//!
//! - A *turn* is the right to write. It belongs to a connection, and ends when the connection has committed or rolled back.
//! - A writer that takes its connection from a pool waits for its turn first, so that waiting writers occupy no connections. If the pool
//!   then has no idle connection, the writer gives up the turn and holds a *reservation* until it has a connection: the connection
//!   may be in use by a writer that waits for its turn, which would be a deadlock.
//! - A writer that already has a connection waits for its turn with it, and may pass a reservation.

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::task::chain::QueueId;

/// What a turn is for, for the error of a writer that waits too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) verb: &'static str,
    /// The name of the model or signal; empty for a transaction of the program.
    pub(crate) model: &'static str,
    /// Where the program made the call.
    pub(crate) caller: Option<&'static Location<'static>>,
}

impl Writer {
    pub(crate) fn of(verb: &'static str, model: &'static str) -> Self {
        Self { verb, model, caller: None }
    }

    /// A transaction of the program.
    pub(crate) fn transaction(caller: Option<&'static Location<'static>>) -> Self {
        Self { verb: "transaction", model: "", caller }
    }
}

/// The writers of one database in this process.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The writer that has the turn, and since when.
    holder: Option<(Writer, Instant)>,
    /// Whether a [`Reservation`] exists. Until it ends, no writer without a connection gets a turn.
    reserved: bool,
    /// The waiting writers, in the order of their arrival.
    waiting: VecDeque<Waiter>,
    /// The number of waiters so far, which identifies them.
    arrived: u64,
    /// The number of turns so far, which identifies the current one.
    turns: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    writer: Writer,
    has_connection: bool,
    grant: oneshot::Sender<Turn>,
}

impl State {
    /// Whether a writer that does not wait yet may take the turn.
    fn is_free(&self, has_connection: bool) -> bool {
        self.holder.is_none() && (has_connection || !self.reserved)
    }

    /// Gives the turn to a writer.
    fn begin(&mut self, writer: Writer) {
        self.holder = Some((writer, Instant::now()));
        self.turns += 1;
    }

    /// Takes the next writer out of the queue.
    fn next(&mut self) -> Option<Waiter> {
        let reserved = self.reserved;
        let at = self.waiting.iter().position(|waiter| waiter.has_connection || !reserved)?;
        self.waiting.remove(at)
    }
}

impl WriteQueue {
    pub(crate) fn id(this: &Arc<Self>) -> QueueId {
        QueueId(Arc::as_ptr(this) as usize)
    }

    /// Takes the turn if no other writer has it. `has_connection`: whether the writer already has a connection.
    pub(crate) fn try_enter(
        self: &Arc<Self>,
        writer: Writer,
        has_connection: bool,
    ) -> Option<Turn> {
        let mut state = self.state();
        if !state.is_free(has_connection) {
            return None;
        }
        state.begin(writer);
        Some(Turn { queue: Some(Arc::clone(self)) })
    }

    /// The number of the turn that a writer has now.
    pub(crate) fn current_turn(&self) -> Option<u64> {
        let state = self.state();
        state.holder.is_some().then_some(state.turns)
    }

    /// Waits for the turn.
    ///
    /// # Errors
    ///
    /// [`Error::WriteLockTimedOut`] if the turn does not come within `limit`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the writer leaves the queue.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        writer: Writer,
        has_connection: bool,
        limit: Duration,
    ) -> Result<Turn> {
        if let Some(turn) = self.try_enter(writer, has_connection) {
            return Ok(turn);
        }
        self.wait(writer, has_connection, false, limit).await
    }

    async fn wait(
        self: &Arc<Self>,
        writer: Writer,
        has_connection: bool,
        first: bool,
        limit: Duration,
    ) -> Result<Turn> {
        let mut place = match self.take_place(writer, has_connection, first) {
            Ok(turn) => return Ok(turn),
            Err(place) => place,
        };
        match timeout(limit, &mut place.granted).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(self.timed_out(limit)),
        }
    }

    /// Takes the turn, or the place of the next writer for a transaction that may hold the write lock already. It does not wait for its
    /// turn, because the writer that has the turn may be waiting for that lock.
    pub(crate) fn enter_next(self: &Arc<Self>, writer: Writer) -> Result<Turn, Place> {
        self.take_place(writer, true, true)
    }

    fn take_place(
        self: &Arc<Self>,
        writer: Writer,
        has_connection: bool,
        first: bool,
    ) -> Result<Turn, Place> {
        let (grant, granted) = oneshot::channel();
        let mut state = self.state();
        if state.is_free(has_connection) {
            state.begin(writer);
            return Ok(Turn { queue: Some(Arc::clone(self)) });
        }
        let id = state.arrived;
        state.arrived += 1;
        let waiter = Waiter { id, writer, has_connection, grant };
        match first {
            true => state.waiting.push_front(waiter),
            false => state.waiting.push_back(waiter),
        }
        Err(Place { queue: Arc::clone(self), id, granted })
    }

    fn timed_out(&self, waited: Duration) -> Error {
        let (writer, held_for) = match self.state().holder {
            Some((writer, since)) => (writer, since.elapsed()),
            // The holder has just ended.
            None => (Writer::transaction(None), Duration::ZERO),
        };
        let Writer { verb, model, caller } = writer;
        Error::WriteLockTimedOut { waited, verb, model, held_for, caller }
    }

    /// Passes the turn to the next writer. `ends`: what ends with it, a turn or a reservation.
    fn pass_on(self: Arc<Self>, ends: Ends) {
        let mut ends = Some(ends);
        loop {
            let waiter = {
                let mut state = self.state();
                if let Some(Ends::Reservation) = ends.take() {
                    state.reserved = false;
                    if state.holder.is_some() {
                        return;
                    }
                }
                let next = state.next();
                match &next {
                    Some(waiter) => state.begin(waiter.writer),
                    None => state.holder = None,
                }
                next
            };
            let Some(waiter) = waiter else { return };
            // Sent without the lock, because a turn that is dropped inside takes it.
            match waiter.grant.send(Turn { queue: Some(Arc::clone(&self)) }) {
                Ok(()) => return,
                // The future of the waiter is being dropped. The loop passes the turn on, so it must not do so itself.
                Err(mut turn) => turn.queue = None,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What ends when the turn is passed on.
#[derive(Clone, Copy)]
enum Ends {
    Turn,
    /// If another writer has the turn, it keeps it.
    Reservation,
}

/// The place of a waiter in the queue. It receives the turn when it comes. If the place is dropped, the waiter leaves the queue, and a
/// turn that it has received is passed on.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<WriteQueue>,
    id: u64,
    granted: oneshot::Receiver<Turn>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = {
            let mut state = self.queue.state();
            let at = state.waiting.iter().position(|waiter| waiter.id == self.id);
            at.and_then(|at| state.waiting.remove(at))
        };
        drop(left);
    }
}

/// The right to write. If it is dropped, the next writer gets it.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: Option<Arc<WriteQueue>>,
}

impl Turn {
    /// Gives up the turn, but lets no other writer without a connection have it.
    pub(crate) fn reserve(mut self) -> Option<Reservation> {
        let queue = self.queue.take()?;
        queue.state().reserved = true;
        Arc::clone(&queue).pass_on(Ends::Turn);
        Some(Reservation { queue })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.pass_on(Ends::Turn);
        }
    }
}

/// The next turn, for a writer that waits for its connection.
#[derive(Debug)]
pub(crate) struct Reservation {
    queue: Arc<WriteQueue>,
}

impl Reservation {
    /// Waits for the turn, once the writer has its connection.
    ///
    /// # Errors
    ///
    /// As [`WriteQueue::enter`].
    pub(crate) async fn enter(self, writer: Writer, limit: Duration) -> Result<Turn> {
        self.queue.wait(writer, true, true, limit).await
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        Arc::clone(&self.queue).pass_on(Ends::Reservation);
    }
}
