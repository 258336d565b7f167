//! The state of a connection's transaction: its savepoints, what failed in it, and what waits for its end.

use std::ops::{Deref, DerefMut};

use crate::database::backend::DatabaseKind;
use crate::database::begin::TransactionOptions;
use crate::database::changes::Changes;
use crate::database::db::Db;
use crate::database::deferred::Deferred;
use crate::database::detached::DetachedStatement;
use crate::database::outbox::Outbox;
use crate::database::schema_cache::SchemaChangeGuard;
use crate::database::write_turn::Turn;
use crate::error::{Reason, Result};
use crate::task::measure::Stopwatch;
use crate::task::pool_id::PoolId;

/// What this library knows about the transaction of a connection, in addition to the depth that sqlx counts.
#[derive(Default)]
pub(crate) struct TransactionState {
    pub(crate) db: Option<Db>,
    /// One frame for the transaction, and one for each savepoint in it. Empty outside a transaction of this library.
    pub(crate) frames: Vec<Frame>,
    /// Whether the outermost frame is a savepoint in a transaction that was not begun through this library.
    pub(crate) foreign: bool,
    /// Whether raw SQL may have changed the transaction since it was last verified, see `verify.rs`.
    pub(crate) unverified: bool,
    /// The number of statements run on the connection so far, including those of receivers.
    pub(crate) statements: u32,
    /// Whether a statement is in flight, or was when its future was dropped.
    pub(crate) in_flight: bool,
    /// The state of the running write, if it runs in autocommit mode.
    pub(crate) autocommit: Autocommit,
    /// The statement that keeps running, after the future of an [`Autocommit::DetachOnDrop`] write was dropped.
    pub(crate) detached: Option<Box<DetachedStatement>>,
    /// Set if SQL in the open transaction, or SQL on the sqlx connection, may change the schema.
    pub(crate) schema_change: Option<Box<SchemaChangeGuard>>,
}

/// The state of a write in autocommit mode. It is part of the future of every write, so it is kept small.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Autocommit {
    #[default]
    Plain,
    /// If the future of the write is dropped, its statement keeps running.
    DetachOnDrop,
    /// It is not known yet whether the statement of the write can commit itself.
    Uninspected,
    /// The write has failed, and has to be repeated in a transaction.
    NeedsTransaction,
    /// Its UPDATE has written no row, and the write has to be continued in a transaction.
    ContinuesInTransaction,
}

/// A transaction or savepoint: the callbacks that wait for its end, and whether it may still be committed.
#[derive(Default)]
pub(crate) struct Frame {
    pub(crate) deferred: Vec<Box<dyn Deferred>>,
    /// The changes of which some receivers are notified once.
    pub(crate) changes: Option<Box<dyn Changes>>,
    /// The rows to write before the commit.
    pub(crate) outbox: Option<Box<dyn Outbox>>,
    /// When it was begun.
    pub(crate) since: Stopwatch,
    /// Why the transaction or savepoint can only be rolled back.
    pub(crate) failed: Option<Reason>,
    /// Whether a statement was run in it. If so, a restart would lose its effect.
    pub(crate) used: bool,
    /// Whether a receiver has run in it, or waits for its end. If so, its work cannot be repeated.
    pub(crate) notified: bool,
    /// The mark that identifies the transaction while it is unverified, see `verify.rs`.
    pub(crate) mark: Option<u32>,
    /// How the transaction was begun.
    pub(crate) begin: TransactionOptions,
    /// How many transactions and savepoints sqlx counts while this is the innermost one.
    pub(crate) sqlx_depth: usize,
    /// The database of a transaction that the program has begun with sqlx and passed on to this library.
    pub(crate) adopted: Option<DatabaseKind>,
}

impl Frame {
    /// Whether the program has begun the transaction on SQLite, and passed it on to this library.
    pub(crate) fn adopted_on_sqlite(&self) -> bool {
        self.adopted == Some(DatabaseKind::Sqlite)
    }

    /// Adds what a released savepoint has collected.
    pub(crate) fn append(&mut self, released: Self) {
        fn join<T: ?Sized>(
            to: &mut Option<Box<T>>,
            released: Option<Box<T>>,
            append: impl FnOnce(&mut T, Box<T>),
        ) {
            let Some(released) = released else { return };
            match to {
                Some(to) => append(to, released),
                None => *to = Some(released),
            }
        }
        self.deferred.extend(released.deferred);
        join(&mut self.changes, released.changes, Changes::append);
        join(&mut self.outbox, released.outbox, Outbox::append);
    }
}

/// A mark that is never set in the database, so that verification fails.
pub(crate) const NO_MARK: u32 = u32::MAX;

/// The state of a connection, or of a connection that is borrowed from another [`Conn`](crate::Conn).
pub(crate) enum StateSlot<'c> {
    Owned(TransactionState),
    /// With the turn of a write that uses the borrowed connection. The turn ends with the write. A connection that was taken from the
    /// pool for a write has its turn in its lease instead. It is kept here, so that no future becomes larger.
    Borrowed(&'c mut TransactionState, Option<Turn>),
}

impl StateSlot<'_> {
    /// The turn of a write that uses a borrowed connection.
    pub(super) fn turn(&mut self) -> Option<&mut Option<Turn>> {
        match self {
            Self::Owned(_) => None,
            Self::Borrowed(_, turn) => Some(turn),
        }
    }
}

impl Deref for StateSlot<'_> {
    type Target = TransactionState;

    fn deref(&self) -> &TransactionState {
        match self {
            Self::Owned(state) => state,
            Self::Borrowed(state, _) => state,
        }
    }
}

impl DerefMut for StateSlot<'_> {
    fn deref_mut(&mut self) -> &mut TransactionState {
        match self {
            Self::Owned(state) => state,
            Self::Borrowed(state, _) => state,
        }
    }
}

impl TransactionState {
    pub(crate) fn new(db: Option<Db>) -> Self {
        Self { db, ..Self::default() }
    }

    pub(crate) fn pool(&self) -> Option<PoolId> {
        self.db.as_ref().map(Db::pool_id)
    }

    /// Marks the innermost transaction or savepoint as failed, so that it can only be rolled back. The first reason is kept.
    pub(crate) fn fail(&mut self, reason: impl FnOnce() -> Reason) {
        if let Some(frame) = self.frames.last_mut() {
            frame.failed.get_or_insert_with(reason);
        }
    }

    /// As [`fail`](Self::fail), for the transaction and all its savepoints.
    pub(crate) fn fail_all(&mut self, reason: &str) {
        for frame in &mut self.frames {
            frame.failed.get_or_insert_with(|| reason.into());
        }
    }

    /// Whether the innermost transaction or savepoint is marked as failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.failed.is_some())
    }

    /// Removes the failure of the innermost transaction or savepoint, so that a more precise reason can be set.
    pub(crate) fn forget_failure(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.failed = None;
        }
    }

    /// Records that a statement was run.
    pub(crate) fn count_statement(&mut self) {
        self.statements = self.statements.wrapping_add(1);
        if let Some(frame) = self.frames.last_mut() {
            frame.used = true;
        }
    }

    /// Returns whether a write with this `result` has to be repeated or continued in a transaction, and resets that state.
    pub(crate) fn take_needs_transaction<T>(&mut self, result: &Result<T>) -> bool {
        use Autocommit::{ContinuesInTransaction, NeedsTransaction};
        let needs_transaction =
            matches!(self.autocommit, NeedsTransaction | ContinuesInTransaction);
        if needs_transaction {
            self.autocommit = Autocommit::Plain;
        }
        needs_transaction && result.is_err()
    }

    /// Records that a receiver runs in the transaction, or waits for its end.
    pub(crate) fn set_notified(&mut self) {
        for frame in &mut self.frames {
            frame.notified = true;
        }
    }

    /// Call this before an await that changes the transaction. If the future is dropped during the await, the next verification
    /// fails, because [`NO_MARK`] does not exist in the database. Call [`set_mark`](Self::set_mark) after the await.
    pub(crate) fn fail_if_dropped(&mut self) {
        self.set_mark(true, Some(NO_MARK));
    }

    /// Whether the transaction is unverified, and the mark that then identifies it.
    pub(crate) fn mark(&self) -> (bool, Option<u32>) {
        (self.unverified, self.frames.last().and_then(|frame| frame.mark))
    }

    pub(crate) fn set_mark(&mut self, unverified: bool, mark: Option<u32>) {
        self.unverified = unverified;
        if let Some(frame) = self.frames.last_mut() {
            frame.mark = mark;
        }
    }

    /// Keeps `deferred` until the transaction ends.
    pub(crate) fn defer(&mut self, deferred: Box<dyn Deferred>) {
        self.set_notified();
        if let Some(frame) = self.frames.last_mut() {
            frame.deferred.push(deferred);
        }
    }
}
