//! A writer that waits in the [`WriteQueue`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::database::detached::Answer;
use crate::database::group::{GroupEnd, GroupId};
use crate::database::lease::AnyLease;
use crate::database::queued_statement::{Executable, QueuedStatement};
use crate::database::write_queue::{PATIENCE, WriteQueue};
use crate::database::write_turn::Turn;
use crate::database::writer::Writer;
use crate::error::{Error, Result};
use crate::task::pool_id::PoolId;

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
    /// The turn or the connection of a group waits in the queue for it.
    Offer,
    /// Its statement was executed in a group that has ended.
    Executed(Result<Answer, sqlx::Error>, GroupEnd),
    /// Its statement was taken out of the queue, but not executed.
    NotExecuted,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Offer => "Offer",
            Self::Executed(..) => "Executed",
            Self::NotExecuted => "NotExecuted",
        })
    }
}

/// The longest time after which a waiting writer checks whether the one before it is polled.
pub(super) const LONGEST_PAUSE: Duration = PATIENCE.saturating_mul(16);

/// How often all waiting writers together check that, about. Otherwise, thousands of them would keep the processor from the one whose turn it
/// is.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_micros(300);

/// The longest time in which each of them checks it once. When most of them have left, or are not polled, the others do not wait for longer.
pub(super) const LONGEST_ROUND: Duration = Duration::from_secs(1);

/// A writer that has waited for so long, and was late again, gets twice as much time for each further offer: its future is polled, but its
/// runtime may be slow each time. Not before, because the writes that its task makes meanwhile wait for that time.
const STARVES_AFTER: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// Tells waiters whose statements were taken out of the queue to enter it again.
pub(super) fn put_back(waiters: impl IntoIterator<Item = Waiter>) {
    for waiter in waiters {
        // Fails if the future of the writer was dropped.
        let _ = waiter.told.send(Told::NotExecuted);
    }
}

/// How long a writer waits for its turn and for its connection, together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitLimit {
    start: Instant,
    limit: Duration,
}

impl WaitLimit {
    pub(super) fn new(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    pub(super) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }
}

/// How a writer enters the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The pool of which it needs a connection. `None` if it has one.
    pub(super) needs: Option<PoolId>,
    /// Whether it waits in front of all others.
    first: bool,
    /// Whether it is an adopted transaction, which has its place in the queue without waiting.
    pub(super) is_adopted: bool,
    /// The groups that the writer may join.
    pub(super) joins: Option<GroupId>,
    /// How long it may take to accept an offer.
    pub(super) patience: Duration,
}

impl Entry {
    fn of(needs: Option<PoolId>, first: bool) -> Self {
        Self { needs, first, is_adopted: false, joins: None, patience: PATIENCE }
    }
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: i64,
    pub(super) writer: Writer,
    pub(super) entry: Entry,
    /// The statement of the writer, if another task may execute it.
    pub(super) statement: Option<QueuedStatement>,
    pub(super) told: oneshot::Sender<Told>,
}

impl Waiter {
    /// Tells a waiter that was taken out of the queue that something is offered to it.
    pub(super) fn tell_offer(self) {
        // Fails if the future of the writer is being dropped. Its place then takes the offer.
        let _ = self.told.send(Told::Offer);
    }
}

/// The place of a waiter in the queue. If it is dropped, the waiter leaves the queue, and its turn or connection is passed on.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<WriteQueue>,
    id: i64,
    /// The pool of which the waiter needs a connection.
    needs: Option<PoolId>,
    told: oneshot::Receiver<Told>,
}

impl Place {
    /// Leaves the queue. Returns the writer for which the waiter has waited, and since when that one is the next. Returns `None` if the waiter
    /// is not in the queue, because its turn has come or its statement is being executed.
    fn leave(&self) -> Option<(Writer, Instant)> {
        let (_left, waited_for);
        {
            let mut state = self.queue.state();
            let at = state.place_of(self.id)?;
            waited_for = state.waits_for(self.needs);
            // Dropped after the lock is released.
            _left = state.waiting.remove(at);
        }
        waited_for
    }

    fn take_offer(&self) -> Option<Grant> {
        self.queue.state().take_offer(self.id, &self.queue)
    }

    /// Takes the turn instead of a writer before this one that is late. If that writer does not take the connection of a group, the group is
    /// ended.
    fn overtake(&self) -> Option<Turn> {
        drop(self.queue.take_back(false));
        // Dropped after the lock is released, because it wakes the task.
        let _removed;
        let mut state = self.queue.state();
        // Before the search, because there may be many waiters.
        if !state.may_begin(self.needs, true) {
            return None;
        }
        let at = state.place_of(self.id)?;
        let writer = state.waiting[at].writer;
        state.try_begin(writer, self.needs, true);
        _removed = state.waiting.remove(at);
        Some(state.turn(&self.queue, writer))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        // Dropped after the lock is released, because the end of a turn takes the lock.
        drop(self.take_offer());
    }
}

fn timed_out(waited: Duration, holder: Writer, since: Instant) -> Error {
    let Writer { verb, model, caller, .. } = holder;
    let (verb, held_for) = (verb.as_str(), since.elapsed());
    Error::WriteLockTimedOut { waited, verb, model, held_for, caller }
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
        limit: WaitLimit,
        statement: Option<Executable<'_>>,
    ) -> Result<Grant> {
        let joins = (writer.shares_commit && self.shares_commits).then_some(group);
        let entry = Entry { joins, ..Entry::of(Some(group.pool), false) };
        self.wait(writer, entry, limit, statement).await
    }

    /// As [`enter`](Self::enter), for a writer that has its connection.
    pub(crate) async fn enter_with_connection(
        self: &Arc<Self>,
        writer: Writer,
        limit: WaitLimit,
    ) -> Result<Turn> {
        self.wait_with_connection(writer, false, limit).await
    }

    pub(super) async fn wait_with_connection(
        self: &Arc<Self>,
        writer: Writer,
        first: bool,
        limit: WaitLimit,
    ) -> Result<Turn> {
        let entry = Entry::of(None, first);
        match self.wait(writer, entry, limit, None).await? {
            Grant::Turn(turn) => Ok(turn),
            _ => unreachable!("a writer with a connection joins no group"),
        }
    }

    async fn wait(
        self: &Arc<Self>,
        writer: Writer,
        mut entry: Entry,
        limit: WaitLimit,
        mut statement: Option<Executable<'_>>,
    ) -> Result<Grant> {
        let mut is_overdue = false;
        // A task can poll several writes, for example with `buffer_unordered`, and stop polling them when one of them ends. A write that has
        // just begun would then keep the turn until it is polled again. So a writer that is late yields before it takes its turn: the writes
        // of its task that have ended are polled first.
        loop {
            let mut place = match self.take_place(writer, entry, statement) {
                Ok(turn) => return Ok(Grant::Turn(turn)),
                Err(place) => place,
            };
            let mut pause = PATIENCE;
            let told = loop {
                let pause_now = pause.min(limit.left());
                let next_check = Instant::now() + pause_now;
                if let Ok(told) = timeout(pause_now, &mut place.told).await {
                    if matches!(told, Ok(Told::Offer)) && Instant::now() >= next_check {
                        yield_now().await;
                    }
                    break told;
                }
                if let Some(turn) = place.overtake() {
                    return Ok(Grant::Turn(turn));
                }
                if !limit.left().is_zero() {
                    pause = self.state().pause_after(pause, place.id);
                } else if let Some((holder, since)) = place.leave() {
                    return Err(timed_out(limit.start.elapsed(), holder, since));
                } else {
                    // Its turn has just come, or its statement was taken out of the queue to be executed.
                    break (&mut place.told).await;
                }
            };
            match told {
                Ok(Told::Offer) => match place.take_offer() {
                    Some(grant) => return Ok(grant),
                    // The offer was withdrawn.
                    None => {
                        if limit.start.elapsed() >= STARVES_AFTER.min(limit.limit / 2) {
                            entry.patience = LONGEST_PATIENCE.min(2 * entry.patience);
                        }
                        // If its time is over only because it was not polled for so long, it may wait once more.
                        if limit.left().is_zero()
                            && std::mem::replace(&mut is_overdue, true)
                            && let Some((holder, since)) = self.state().waits_for(entry.needs)
                        {
                            return Err(timed_out(limit.start.elapsed(), holder, since));
                        }
                    }
                },
                Ok(Told::NotExecuted) => {
                    if limit.left().is_zero()
                        && let Some((holder, since)) = self.state().waits_for(entry.needs)
                    {
                        return Err(timed_out(limit.start.elapsed(), holder, since));
                    }
                }
                Ok(Told::Executed(answer, end)) => return Ok(Grant::Executed(answer, end)),
                // The task that executes the statement was dropped with its runtime.
                Err(_) => {
                    let lost = Err(sqlx::Error::WorkerCrashed);
                    return Ok(Grant::Executed(lost, GroupEnd::Unknown));
                }
            }
            (entry.first, statement) = (true, None);
            yield_now().await;
        }
    }

    /// Takes the turn, or the first place in the queue, for a transaction that may already hold the write lock. This does not wait for the
    /// turn, because the writer that has the turn may be waiting for that lock.
    pub(crate) fn enter_next(self: &Arc<Self>, writer: Writer) -> Result<Turn, Place> {
        let entry = Entry { is_adopted: true, ..Entry::of(None, true) };
        self.take_place(writer, entry, None)
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
        if state.try_begin(writer, entry.needs, entry.first) {
            return Ok(state.turn(self, writer));
        }
        let id = state.next_id(entry.first);
        let waiter = Waiter { id, writer, entry, statement: queued, told: sender };
        match entry.first {
            true => state.waiting.push_front(waiter),
            false => state.waiting.push_back(waiter),
        }
        Err(Place { queue: Arc::clone(self), id, needs: entry.needs, told })
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
