use crate::database::db::Db;
use crate::database::deferred::Deferred;
use crate::database::detached::DetachedStatement;
use crate::database::schema_cache::SchemaChangeGuard;
use crate::error::{Reason, Result};
use crate::task::chain::PoolId;

/// What a connection knows of the transaction that it is in, beside sqlx's own depth.
#[derive(Default)]
pub(crate) struct TransactionState {
    pub(crate) db: Option<Db>,
    /// One for the transaction, one for each savepoint in it.
    pub(crate) frames: Vec<Frame>,
    /// The outermost frame is a savepoint in a transaction of sqlx's own.
    pub(crate) foreign: bool,
    /// Raw SQL may have changed the transaction since it was last looked at, see `verify.rs`.
    pub(crate) unverified: bool,
    /// How many statements were run in transactions so far, those of receivers included.
    pub(crate) statements: u32,
    /// A statement is under way, or was when its future was dropped.
    pub(crate) in_flight: bool,
    /// What is known of the write that is under way, if there is no transaction.
    pub(crate) autocommit: Autocommit,
    /// The one that does.
    pub(crate) detached: Option<Box<DetachedStatement>>,
    /// SQL that may change the schema was run, in a transaction that has not ended, or by others.
    pub(crate) altering: Option<Box<SchemaChangeGuard>>,
}

/// A write outside a transaction. It is part of every future that writes, and so is as small as can be.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Autocommit {
    #[default]
    Plain,
    /// Its statement goes on without its caller.
    DetachOnDrop,
    /// It has failed, and has to begin again in a transaction.
    NeedsTransaction,
}

/// A transaction or savepoint: what waits for its end, and whether it may still be committed.
#[derive(Default)]
pub(crate) struct Frame {
    pub(crate) deferred: Vec<Box<dyn Deferred>>,
    pub(crate) failed: Option<Reason>,
    /// A statement was run in it: begun anew, it would not be the same.
    pub(crate) used: bool,
    /// A receiver was told of something in it, or waits for its end. What a receiver does cannot be repeated.
    pub(crate) notified: bool,
    /// The mark by which it is recognized if it is unverified.
    pub(crate) mark: Option<u32>,
}

/// A mark that no transaction has.
pub(crate) const NO_MARK: u32 = u32::MAX;

impl TransactionState {
    pub(crate) fn new(db: Option<Db>) -> Self {
        Self { db, ..Self::default() }
    }

    pub(crate) fn pool(&self) -> Option<PoolId> {
        self.db.as_ref().map(Db::pool_id)
    }

    /// From here on the innermost transaction or savepoint can only be rolled back. The first reason counts.
    pub(crate) fn fail(&mut self, reason: impl FnOnce() -> Reason) {
        if let Some(frame) = self.frames.last_mut() {
            frame.failed.get_or_insert_with(reason);
        }
    }

    /// As [`fail`](Self::fail), for all that is open.
    pub(crate) fn fail_all(&mut self, reason: &str) {
        for frame in &mut self.frames {
            frame.failed.get_or_insert_with(|| reason.into());
        }
    }

    /// Whether the innermost transaction or savepoint can only be rolled back.
    pub(crate) fn has_failed(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.failed.is_some())
    }

    /// Forgets why the innermost transaction or savepoint can only be rolled back, so that a better reason can be given.
    pub(crate) fn forget_failure(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.failed = None;
        }
    }

    /// From here on a transaction is not what it was at its beginning.
    pub(crate) fn count_statement(&mut self) {
        self.statements = self.statements.wrapping_add(1);
        if let Some(frame) = self.frames.last_mut() {
            frame.used = true;
        }
    }

    /// Whether a write that is `done` has to begin again in a transaction.
    pub(crate) fn take_needs_transaction<T>(&mut self, done: &Result<T>) -> bool {
        let needs = self.autocommit == Autocommit::NeedsTransaction;
        if needs {
            self.autocommit = Autocommit::Plain;
        }
        needs && done.is_err()
    }

    /// A receiver is told of something in the transaction.
    pub(crate) fn set_notified(&mut self) {
        for frame in &mut self.frames {
            frame.notified = true;
        }
    }

    /// What follows changes the transaction, and would not be noticed if its future was dropped: the mark that is looked for then
    /// is none that there is, so that the transaction has failed.
    pub(crate) fn fail_if_dropped(&mut self) {
        self.set_mark(true, Some(NO_MARK));
    }

    /// Whether the transaction is unverified, and the mark by which it is recognized then.
    pub(crate) fn mark(&self) -> (bool, Option<u32>) {
        (self.unverified, self.frames.last().and_then(|frame| frame.mark))
    }

    pub(crate) fn set_mark(&mut self, unverified: bool, mark: Option<u32>) {
        self.unverified = unverified;
        if let Some(frame) = self.frames.last_mut() {
            frame.mark = mark;
        }
    }

    pub(crate) fn defer(&mut self, deferred: Box<dyn Deferred>) {
        self.set_notified();
        if let Some(frame) = self.frames.last_mut() {
            frame.deferred.push(deferred);
        }
    }
}
