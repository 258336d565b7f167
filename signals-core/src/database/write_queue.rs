//! The queue of the writers of one SQLite database. SQLite allows one writer at a time, and its busy handler polls: waiting writers
//! are served at random, and may wait for seconds. Here they take turns in the order of arrival, and a waiting writer is woken when
//! its turn comes.
//!
//! - A *turn* is the right to write. It belongs to a connection, and ends when the connection has committed or rolled back.
//! - A writer that takes its connection from a pool waits for its turn first, so that waiting writers occupy no connections. If the pool
//!   then has no idle connection, the writer gives up the turn and holds a *reservation* until it has a connection: the connection
//!   may be in use by a writer that waits for its turn, which would be a deadlock. Only the writers that need a connection of the same pool
//!   wait for the end of a reservation.
//! - A writer that waits without a connection may be offered one with the open transaction of a group instead of a turn, see `group.rs`.
//! - What is offered to a waiting writer stays in the queue until the writer takes it. A writer that does not take it within [`PATIENCE`] is
//!   late: its future is not polled, as with `buffer_unordered` or `select!`. Then another writer takes the turn, or a writer that has
//!   finished ends the group. The late writer is the first in the queue when it is polled again. After two seconds, or half of the acquire
//!   timeout, it gets more time. Waiting writers check at growing intervals whether another one is late. All of them do, because it is unknown
//!   which of them are polled; the more there are, the more seldom each one does.
//! - A writer that already has a connection waits for its turn with it, and may pass a reservation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::database::group::GroupId;
use crate::database::lease::AnyLease;
use crate::database::queued_statement::{QueuedStatement, Texts};
use crate::database::slow_writers::SlowWriters;
use crate::database::waiter::{CHECK_INTERVAL, Grant, LONGEST_PAUSE, LONGEST_ROUND, Waiter};
use crate::database::write_turn::Turn;
use crate::database::writer::Writer;
use crate::error::Result;
use crate::task::pool_id::{PoolId, QueueId};

/// The writers of one database in this process.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    state: Mutex<State>,
    /// Whether writes share a COMMIT. In an in-memory database, it costs nothing.
    pub(super) shares_commits: bool,
    /// The texts of the statements that are executed for waiting writers.
    pub(super) texts: Texts,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The writer that has the turn, and since when.
    holder: Option<Holder>,
    /// The pools for which a [`Reservation`] exists. Until it ends, no writer that needs a connection of the pool gets a turn. With the
    /// writers that have reserved, and since when.
    reserved: Vec<(PoolId, Holder)>,
    /// The waiting writers, in the order of their arrival.
    pub(super) waiting: VecDeque<Waiter>,
    /// What a waiter has been told to take. Not sent to it, so that it can be withdrawn if the future of the waiter is not polled.
    offer: Option<Offered>,
    /// How many waiters were added at the back and at the front so far. Their numbers ascend from the front to the back.
    added: (i64, i64),
    /// The number of turns so far, which identifies the current one.
    turns: u64,
    /// Whether the last group had several units. Their writers probably come back at once, and the first one should not commit alone.
    is_busy: bool,
    /// Whether a shared COMMIT was refused because of a constraint that only one of the units can have violated.
    was_refused: bool,
    /// How long the last shared COMMIT took.
    commit_time: Duration,
    /// The writes whose last transaction in a group took long.
    slow: SlowWriters,
}

/// A writer for which others wait, and since when.
type Holder = (Writer, Instant);

/// An offer to a waiting writer.
#[derive(Debug)]
struct Offered {
    /// The number of the waiter.
    to: i64,
    /// How long the waiter may take to accept it.
    patience: Duration,
    offer: Offer,
}

/// What is offered to a waiting writer.
#[derive(Debug)]
enum Offer {
    Turn,
    /// The turn of an adopted transaction, which writes without waiting for it, and so is never late.
    TurnOfAdopted,
    /// A connection that has the turn, with the open transaction of a group.
    Group(AnyLease),
}

const IS_TURN: fn(&Offer) -> bool = |offer| matches!(offer, Offer::Turn);

/// If a writer does not take what is offered to it within this time, it is assumed that its future is not polled.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

impl State {
    /// Gives the turn to a writer, if it [may begin](Self::may_begin).
    pub(super) fn try_begin(
        &mut self,
        writer: Writer,
        needs: Option<PoolId>,
        has_waited: bool,
    ) -> bool {
        let may_begin = self.may_begin(needs, has_waited);
        if may_begin {
            self.withdraw(false, IS_TURN);
            self.begin(writer);
        }
        may_begin
    }

    /// Whether no other writer has the turn, or the one to which it was offered is late. `needs`: the pool of which the writer needs a
    /// connection. `has_waited`: otherwise, it does not overtake writers that have.
    pub(super) fn may_begin(&self, needs: Option<PoolId>, has_waited: bool) -> bool {
        let may_overtake = has_waited || self.waiting.is_empty();
        self.reservation(needs).is_none()
            && (self.holder.is_none() || may_overtake && self.is_late(IS_TURN))
    }

    /// The reservation for which a writer waits that needs a connection of this pool.
    fn reservation(&self, needs: Option<PoolId>) -> Option<Holder> {
        let needs = needs?;
        self.reserved.iter().find(|(pool, _)| *pool == needs).map(|(_, holder)| *holder)
    }

    /// The writer for which one waits that needs a connection of this pool.
    pub(super) fn waits_for(&self, needs: Option<PoolId>) -> Option<Holder> {
        self.holder.or_else(|| self.reservation(needs))
    }

    /// Whether an offer of this kind has not been taken in time.
    fn is_late(&self, is_kind: fn(&Offer) -> bool) -> bool {
        self.holder.zip(self.offer.as_ref()).is_some_and(|((_, since), offered)| {
            is_kind(&offered.offer) && since.elapsed() >= offered.patience
        })
    }

    /// Withdraws an offer of this kind if it has not been taken in time, or `at_once`.
    fn withdraw(&mut self, at_once: bool, is_kind: fn(&Offer) -> bool) -> Option<Offer> {
        let is_late = at_once || self.is_late(is_kind);
        self.offer.take_if(|offered| is_late && is_kind(&offered.offer)).map(|taken| taken.offer)
    }

    /// What was offered to the waiter with this number, which takes it now.
    pub(super) fn take_offer(&mut self, id: i64, queue: &Arc<WriteQueue>) -> Option<Grant> {
        let Offered { offer, .. } = self.offer.take_if(|offered| offered.to == id)?;
        let (writer, since) = self.holder.as_mut()?;
        *since = Instant::now();
        let writer = *writer;
        Some(match offer {
            Offer::Turn | Offer::TurnOfAdopted => Grant::Turn(self.turn(queue, writer)),
            Offer::Group(lease) => Grant::Group(lease),
        })
    }

    /// How long the waiter with this number, which has checked whether another one is late, waits until it checks again. `pause`: how long it
    /// has waited.
    pub(super) fn pause_after(&self, pause: Duration, id: i64) -> Duration {
        let pause = if self.offer.is_some() { PATIENCE } else { LONGEST_PAUSE.min(2 * pause) };
        let round = LONGEST_ROUND.min(CHECK_INTERVAL.saturating_mul(self.waiting.len() as u32));
        // From 1/2 to 3/2, so that waiters that have come at the same time do not check at the same time.
        pause.max(round.saturating_mul(32 + id.rem_euclid(64) as u32) / 64)
    }

    /// Adds a reservation of a connection of this pool.
    pub(super) fn reserve(&mut self, writer: Writer, pool: PoolId) {
        self.reserved.push((pool, (writer, Instant::now())));
    }

    /// Gives the turn to a writer.
    fn begin(&mut self, writer: Writer) {
        self.holder = Some((writer, Instant::now()));
        self.turns += 1;
    }

    /// A number for a waiter that is added at the front or at the back.
    pub(super) fn next_id(&mut self, at_front: bool) -> i64 {
        let (back, front) = &mut self.added;
        if at_front {
            *front += 1;
            return -*front;
        }
        *back += 1;
        *back
    }

    /// Where the waiter with this number is in the queue.
    pub(super) fn place_of(&self, id: i64) -> Option<usize> {
        self.waiting.binary_search_by_key(&id, |waiter| waiter.id).ok()
    }

    /// Takes the next writer out of the queue.
    fn next(&mut self) -> Option<Waiter> {
        let may_begin = |waiter: &Waiter| self.reservation(waiter.entry.needs).is_none();
        let at = self.waiting.iter().position(may_begin)?;
        self.waiting.remove(at)
    }

    /// Whether the next writer may join this group, or any.
    fn is_awaited(&self, group: Option<GroupId>) -> bool {
        let joins = |next: &Waiter| {
            next.entry.joins.is_some_and(|joins| group.is_none_or(|group| joins == group))
                && self.reservation(next.entry.needs).is_none()
                && !self.slow.contain(next.writer, self.commit_time)
        };
        !self.was_refused && self.waiting.front().is_some_and(joins)
    }

    /// Whether the statement of the next writer can be executed in this group.
    fn has_statements(&self, group: GroupId) -> bool {
        let next = self.waiting.front();
        self.is_awaited(Some(group)) && next.is_some_and(|next| next.statement.is_some())
    }

    /// Whether a statement can be executed if it is appended: it is behind the previous one of its batch, or is the first one.
    pub(super) fn may_append(&self, statement: &QueuedStatement) -> bool {
        let last = self.waiting.back().and_then(|waiter| waiter.statement.as_ref());
        statement.is_first() || last.is_some_and(|last| statement.follows(last))
    }

    /// The turn that has just begun.
    pub(super) fn turn(&self, queue: &Arc<WriteQueue>, writer: Writer) -> Turn {
        let is_awaited = writer.shares_commit
            && !self.was_refused
            && queue.shares_commits
            && (self.is_busy || self.is_awaited(None));
        Turn { queue: Some(Arc::clone(queue)), number: self.turns, is_awaited }
    }
}

impl Waiter {
    fn offered(&self, offer: Offer) -> Offered {
        Offered { to: self.id, patience: self.entry.patience, offer }
    }
}

impl WriteQueue {
    pub(crate) fn new(shares_commits: bool) -> Self {
        Self { shares_commits, ..Self::default() }
    }

    pub(crate) fn id(this: &Arc<Self>) -> QueueId {
        QueueId(Arc::as_ptr(this) as usize)
    }

    /// Takes the turn if no other writer has it. `needs`: the pool of which the writer needs a connection.
    pub(crate) fn try_enter(
        self: &Arc<Self>,
        writer: Writer,
        needs: Option<PoolId>,
    ) -> Option<Turn> {
        let mut state = self.state();
        let has_begun = state.try_begin(writer, needs, false);
        has_begun.then(|| state.turn(self, writer))
    }

    /// The number of the turn that a writer has now.
    pub(crate) fn current_turn(&self) -> Option<u64> {
        let state = self.state();
        state.holder.is_some().then_some(state.turns)
    }

    /// The turn with this number, if it has not ended. Only for the connection that had the turn, if nothing can end it any more.
    pub(super) fn take_over(self: &Arc<Self>, number: u64) -> Option<Turn> {
        let is_current = self.current_turn() == Some(number);
        is_current.then(|| Turn { queue: Some(Arc::clone(self)), number, is_awaited: false })
    }

    /// Offers the turn to the next writer. `ends`: what ends with it, a turn or a reservation.
    pub(super) fn pass_on(&self, ends: Ends) {
        let waiter = {
            let mut state = self.state();
            if let Ends::Reservation(pool) = ends {
                state.reserved.retain(|(reserved, _)| *reserved != pool);
                if state.holder.is_some() {
                    return;
                }
            }
            let Some(waiter) = state.next() else {
                state.holder = None;
                return;
            };
            let offer = if waiter.entry.is_adopted { Offer::TurnOfAdopted } else { Offer::Turn };
            state.begin(waiter.writer);
            state.offer = Some(waiter.offered(offer));
            waiter
        };
        waiter.tell_offer();
    }

    /// Whether the next writer may join this group.
    pub(crate) fn is_awaited_by(&self, group: GroupId) -> bool {
        self.shares_commits && self.state().is_awaited(Some(group))
    }

    /// Whether the statement of the next writer can be executed in this group.
    pub(super) fn has_statements(&self, group: GroupId) -> bool {
        self.state().has_statements(group)
    }

    /// Whether the first and the last waiter are of one batch, so that one message can contain all statements, unless a waiter between them has
    /// left.
    pub(super) fn is_one_message(&self, group: GroupId) -> bool {
        let state = self.state();
        let statement = |waiter: Option<&Waiter>| waiter?.statement.clone();
        let (first, last) = (statement(state.waiting.front()), statement(state.waiting.back()));
        state.has_statements(group)
            && first.zip(last).is_some_and(|(first, last)| first.is_with(&last))
    }

    /// Takes the next writers out of the queue whose statements can be executed in this group with one message.
    pub(super) fn take_statements(&self, group: GroupId) -> Vec<Waiter> {
        let mut state = self.state();
        let mut taken: Vec<Waiter> = Vec::new();
        while state.is_awaited(Some(group)) {
            let previous = taken.last().and_then(|waiter| waiter.statement.as_ref());
            let next = state.waiting.pop_front_if(|waiter| {
                let next = waiter.statement.as_ref();
                next.is_some_and(|next| previous.is_none_or(|previous| next.follows(previous)))
            });
            let Some(next) = next else { break };
            state.begin(next.writer);
            taken.push(next);
        }
        taken
    }

    /// Offers the connection of a group to the next writer, if it can join. Otherwise, or if the statement of the next writer can be executed
    /// without it, returns the connection.
    pub(crate) fn pass_group(&self, group: GroupId, lease: AnyLease) -> Option<AnyLease> {
        let waiter = {
            let mut state = self.state();
            if !state.is_awaited(Some(group)) || state.has_statements(group) {
                return Some(lease);
            }
            let Some(waiter) = state.waiting.pop_front() else { return Some(lease) };
            state.begin(waiter.writer);
            state.offer = Some(waiter.offered(Offer::Group(lease)));
            waiter
        };
        waiter.tell_offer();
        None
    }

    /// Takes the connection of a group from a writer to which it was offered, but which has not taken it in time. Or `at_once`.
    pub(crate) fn take_back(&self, at_once: bool) -> Option<AnyLease> {
        match self.state().withdraw(at_once, |offer| matches!(offer, Offer::Group(_)))? {
            Offer::Group(lease) => Some(lease),
            Offer::Turn | Offer::TurnOfAdopted => None,
        }
    }

    /// Records how long the transaction of the writer that has the turn took, up to its COMMIT or rollback. `is_complete`: whether all its
    /// receivers have run. Otherwise, it is unknown whether they would have been fast.
    pub(crate) fn note_unit(&self, is_complete: bool) {
        let mut state = self.state();
        let Some((writer, since)) = state.holder else { return };
        state.slow.note(writer, since.elapsed(), is_complete);
    }

    /// Records the COMMIT of a group of this many units, and how long it took, if that is known.
    pub(crate) fn note_commit(
        &self,
        time: Option<Duration>,
        units: usize,
        done: &Result<(), sqlx::Error>,
    ) {
        let mut state = self.state();
        state.commit_time = time.unwrap_or(state.commit_time);
        state.is_busy = units > 1;
        let error = done.as_ref().err().and_then(sqlx::Error::as_database_error);
        state.was_refused |= error.is_some_and(|error| error.is_foreign_key_violation());
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What ends when the turn is passed on.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    Turn,
    /// One of a connection of this pool. If another writer has the turn, it keeps it.
    Reservation(PoolId),
}
