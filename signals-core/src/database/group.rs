//! Group commit: writes to one SQLite database that wait for their turn at the same time share one COMMIT.
//!
//! Each write is a *unit*. When a unit has ended, its writer passes the connection, with the open transaction, to the next waiting
//! writer. The connection of the last one commits, on a task of its own, and then each writer gets its result. A unit is a single
//! statement, which SQLite undoes by itself if it fails, or a savepoint. The first unit of a group is a transaction instead, so if
//! no other writer waits, a writer executes the same statements as without groups.
//!
//! A unit cannot make another unit fail:
//!
//! - A unit that fails or is dropped closes its group, unless it is a single statement. Before the COMMIT, the connection rolls back
//!   what the unit has left open. Then it looks up [`MARK`]: a savepoint that disappears with the transaction. If it has disappeared
//!   (`RAISE(ROLLBACK)`, a full disk), nothing is stored. The single statements then run again, each by itself.
//! - A deferred foreign key that is violated is found by COMMIT. So a database with deferred constraints has no groups, and a unit that may
//!   have deferred constraints by raw SQL is the last one of its group: if COMMIT is refused, only this unit is rolled back.
//! - Raw SQL on sqlx's connection may end the transaction. A temporary table that the transaction has created before then shows whether it
//!   was committed.
//! - A unit whose receivers were slow the last time does not join a group.

use std::pin::pin;
use std::time::{Duration, Instant};

use sqlx::{Connection, SqlStr};
use tokio::runtime;
use tokio::sync::oneshot;

use crate::database::backend::Backend;
use crate::database::detached::Answer;
use crate::database::raw;
use crate::database::reconcile;
use crate::database::runtimes;
use crate::database::spin::spin;
use crate::database::waiter::{Told, Waiter, put_back};
use crate::database::write_queue::WriteQueue;
use crate::error::{Error, Reason, Result};
use crate::task::pool_id::PoolId;

/// A group is committed when it is older than this, so that its first writers do not wait for long.
pub(super) const MAX_AGE: Duration = Duration::from_millis(10);

/// The most units of one group.
const MAX_UNITS: usize = 512;

/// The savepoint that shows whether the transaction is still the one of the group.
pub(super) const MARK: &str = "SAVEPOINT sqlx_signals_group";
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE; SAVEPOINT sqlx_signals_group";
const VERIFY: &str = "RELEASE sqlx_signals_group; SAVEPOINT sqlx_signals_group";

/// The savepoint of a unit. sqlx does not count it, because it waits for each savepoint that it counts.
pub(super) const BEGIN_UNIT: &str = "SAVEPOINT sqlx_signals_unit";
pub(super) const RELEASE_UNIT: &str = "RELEASE sqlx_signals_unit";
pub(super) const ROLL_BACK_UNIT: &str = "ROLLBACK TO sqlx_signals_unit";

/// A table that exists only if raw SQL has committed the transaction.
pub(super) const WITNESS: &str = "CREATE TEMP TABLE IF NOT EXISTS sqlx_signals_group (n)";
const FIND_WITNESS: &str = "SELECT n FROM temp.sqlx_signals_group";
const DROP_WITNESS: &str = "DROP TABLE temp.sqlx_signals_group";

/// Which writers can join a group: those of one pool that run in the same runtime. Another runtime may not be running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GroupId {
    pub(super) pool: PoolId,
    runtime: Option<runtime::Id>,
}

impl GroupId {
    /// The group of a writer of `pool` in the current runtime.
    pub(super) fn here(pool: PoolId) -> Self {
        Self { pool, runtime: runtimes::current_id() }
    }
}

/// The finished units of a transaction that is still open. If it is dropped, no COMMIT was sent, and the connection rolls back or is
/// closed.
pub(crate) struct Group {
    pub(super) id: GroupId,
    pub(super) units: Vec<Unit>,
    begun: Instant,
    /// When the first of the groups began that one task has committed one after the other on this connection.
    pub(super) since: Instant,
    /// Whether a unit has begun and not ended. If the connection is returned in this state, it is unknown what the unit has done.
    pub(super) in_unit: bool,
    /// Whether the last unit has a savepoint. It stays open until the next unit begins.
    pub(super) in_savepoint: bool,
    /// Whether it is known that the transaction is open.
    pub(super) is_verified: bool,
    /// Whether no other unit may join.
    pub(super) is_closed: bool,
    /// Whether a unit has used sqlx's connection, so that raw SQL may have committed or rolled back the transaction.
    pub(super) used_raw: bool,
}

/// The recipient of the result of a group.
pub(super) enum Unit {
    /// The writer of a unit.
    Writer(oneshot::Sender<GroupEnd>),
    /// A waiting writer whose statement was executed, and the answer of the statement.
    Waiter(oneshot::Sender<Told>, Result<Answer, sqlx::Error>),
}

/// How the transaction of a group has ended.
#[derive(Debug, Clone)]
pub(crate) enum GroupEnd {
    Committed,
    /// The unit is not stored.
    RolledBack(Reason),
    /// The connection was lost during COMMIT.
    Unknown,
}

/// Why a unit is not stored, or why it is unknown whether it is stored.
pub(crate) enum CommitFailed {
    /// A statement failed.
    Statement(sqlx::Error),
    /// The transaction is rolled back.
    RolledBack(Reason),
}

impl Group {
    pub(super) fn new(id: GroupId) -> Box<Self> {
        let begun = Instant::now();
        Box::new(Self {
            id,
            units: Vec::new(),
            begun,
            since: begun,
            in_unit: true,
            in_savepoint: false,
            is_verified: false,
            is_closed: false,
            used_raw: false,
        })
    }

    /// Records that the unit of a writer has ended.
    pub(super) fn end_unit(&mut self) {
        (self.in_unit, self.is_verified) = (false, false);
    }

    /// A group whose units are the statements of waiting writers.
    pub(super) fn follow(id: GroupId, since: Instant) -> Box<Self> {
        let mut group = Self::new(id);
        (group.since, group.in_unit, group.is_verified) = (since, false, true);
        group
    }

    /// Adds the units of waiters whose statements were executed, and of the one whose statement has failed. Those that come after it
    /// return to the queue.
    pub(super) fn add_executed(
        &mut self,
        waiters: Vec<Waiter>,
        answers: Vec<Answer>,
        failed: Option<sqlx::Error>,
    ) {
        let mut waiters = waiters.into_iter();
        let answers = answers.into_iter().map(Ok).chain(failed.map(Err));
        let units = answers.zip(waiters.by_ref());
        self.units.extend(units.map(|(answer, waiter)| Unit::Waiter(waiter.told, answer)));
        put_back(waiters);
    }

    /// Whether another unit may join.
    pub(super) fn is_open(&self) -> bool {
        !self.is_closed && self.units.len() < MAX_UNITS && self.begun.elapsed() < MAX_AGE
    }

    /// Whether the transaction is still open, and contains only finished units.
    async fn is_intact<DB: Backend>(&mut self, conn: &mut DB::Connection) -> bool {
        if self.in_unit {
            let in_savepoint = std::mem::take(&mut self.in_savepoint);
            return undo_unit::<DB>(conn, in_savepoint).await;
        }
        if self.is_verified {
            return true;
        }
        // The statements that end the units were not awaited.
        let is_open = match self.is_closed {
            // The savepoint of the last unit has to stay open.
            true => conn.ping().await.is_ok(),
            false => {
                self.in_savepoint = false;
                DB::simple(conn, SqlStr::from_static(VERIFY)).await.is_ok()
            }
        };
        is_open
            && raw::depth::<DB>(conn) == 1
            && (!self.used_raw || DB::simple(conn, SqlStr::from_static(FIND_WITNESS)).await.is_ok())
    }

    /// Commits the transaction, or rolls it back, and tells the writers. Returns whether the connection can be used again.
    pub(super) async fn commit<DB: Backend>(
        mut self: Box<Self>,
        conn: &mut DB::Connection,
        queue: Option<&WriteQueue>,
    ) -> bool {
        if !self.is_intact::<DB>(conn).await || self.units.is_empty() {
            let units = std::mem::take(&mut self.units);
            let is_usable = reconcile::roll_back_all::<DB>(conn).await.is_ok();
            let mut end = GroupEnd::lost();
            if self.used_raw {
                end = match DB::simple(conn, SqlStr::from_static(DROP_WITNESS)).await {
                    Ok(()) => GroupEnd::Committed,
                    Err(sqlx::Error::Database(_)) => end,
                    Err(_) => GroupEnd::Unknown,
                };
            }
            tell(units, &end);
            return is_usable;
        }
        // If this future is dropped from here on, it is unknown whether the transaction was committed. The senders are then dropped
        // with it.
        let mut units = std::mem::take(&mut self.units);
        let since = Instant::now();
        let mut done = spin(pin!(raw::commit::<DB>(conn)), true).await;
        if self.in_savepoint && matches!(done, Err(sqlx::Error::Database(_))) {
            // Only the last unit can be the cause.
            let last = units.pop();
            let end = end_of(&done);
            done = match roll_back_unit::<DB>(conn).await {
                Ok(()) => raw::commit::<DB>(conn).await,
                error => error,
            };
            tell(last, &end);
        }
        if let Some(queue) = queue {
            queue.note_commit(Some(since.elapsed()), units.len(), &done);
        }
        let end = end_of(&done);
        let mut is_usable = match &end {
            GroupEnd::Committed => true,
            GroupEnd::Unknown => false,
            _ => reconcile::roll_back_all::<DB>(conn).await.is_ok(),
        };
        if is_usable && self.used_raw {
            let found = DB::simple(conn, SqlStr::from_static(DROP_WITNESS)).await;
            is_usable = matches!(found, Ok(()) | Err(sqlx::Error::Database(_)));
        }
        tell(units, &end);
        is_usable
    }
}

impl From<CommitFailed> for Error {
    fn from(failed: CommitFailed) -> Self {
        match failed {
            CommitFailed::Statement(error) => error.into(),
            CommitFailed::RolledBack(reason) => Self::RolledBack { reason },
        }
    }
}

impl GroupEnd {
    pub(super) fn lost() -> Self {
        Self::RolledBack(Reason::of_another_write())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Raw SQL may have committed.
        let end = if self.used_raw { GroupEnd::Unknown } else { GroupEnd::lost() };
        tell(std::mem::take(&mut self.units), &end);
    }
}

pub(super) fn tell(units: impl IntoIterator<Item = Unit>, end: &GroupEnd) {
    for unit in units {
        // Fails if the future of the writer was dropped.
        match unit {
            Unit::Writer(writer) => drop(writer.send(end.clone())),
            Unit::Waiter(waiter, answer) => drop(waiter.send(Told::Executed(answer, end.clone()))),
        }
    }
}

pub(super) fn end_of(committed: &Result<(), sqlx::Error>) -> GroupEnd {
    match committed {
        Ok(()) => GroupEnd::Committed,
        Err(error @ sqlx::Error::Database(_)) => {
            tracing::debug!(%error, "a shared COMMIT was refused");
            GroupEnd::RolledBack(Reason::of_statement(error))
        }
        Err(error) => {
            tracing::debug!(%error, "the connection was lost during a shared COMMIT");
            GroupEnd::Unknown
        }
    }
}

/// Undoes the statements of a unit, with the savepoints inside it.
pub(super) async fn roll_back_unit<DB: Backend>(
    conn: &mut DB::Connection,
) -> Result<(), sqlx::Error> {
    while raw::depth::<DB>(conn) > 1 {
        raw::rollback_even_if_dropped::<DB>(conn).await?;
    }
    DB::simple(conn, SqlStr::from_static(ROLL_BACK_UNIT)).await
}

/// Rolls back a unit that has not ended. Returns whether the transaction of the group is still open.
async fn undo_unit<DB: Backend>(conn: &mut DB::Connection, in_savepoint: bool) -> bool {
    // Waits for the statements and the rollback of a unit that was dropped.
    conn.ping().await.is_ok()
        && (!in_savepoint || roll_back_unit::<DB>(conn).await.is_ok())
        && raw::depth::<DB>(conn) == 1
        // This also ends the savepoint of the unit.
        && DB::simple(conn, SqlStr::from_static(VERIFY)).await.is_ok()
}
