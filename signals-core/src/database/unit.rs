//! A write as a unit of a [`Group`]: how it begins, and how it passes the connection to the next writer.

use futures_util::future::{BoxFuture, Either, Ready, ready};
#[cfg(feature = "sqlite")]
use futures_util::{FutureExt, TryStreamExt};
#[cfg(feature = "sqlite")]
use sqlx::Executor;
use sqlx::SqlStr;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use crate::database::backend::{AnyRow, Backend, on};
use crate::database::conn::Conn;
use crate::database::execution::Execution;
use crate::database::group::{
    self, BEGIN, BEGIN_UNIT, CommitFailed, Group, GroupEnd, GroupId, MARK, RELEASE_UNIT, Unit,
    WITNESS,
};
use crate::database::raw::{self, MaybePooled, RawConn};
use crate::database::spin;
use crate::database::state::Autocommit;
use crate::database::write_queue::{PATIENCE, WriteQueue};
use crate::database::write_turn::Turn;
use crate::error::{Error, Result};

/// Whether a COMMIT can be refused because of a constraint that is checked only then. With attached databases, the answer is yes, because
/// their constraints are not looked up.
const DEFERS: &str = "SELECT EXISTS (SELECT 1 FROM (SELECT sql FROM sqlite_schema UNION ALL SELECT sql FROM sqlite_temp_schema) WHERE sql LIKE \
     '%INITIALLY%DEFERRED%') OR EXISTS (SELECT 1 FROM pragma_database_list WHERE name NOT IN ('main', 'temp'))";

/// Whether the statements before a shared COMMIT have succeeded.
type Prepared = Result<(), sqlx::Error>;

impl Conn<'_> {
    fn group(&mut self) -> Option<&mut Box<Group>> {
        self.lease_mut()?.state_mut().group.as_mut()
    }

    /// Whether the connection has the open transaction of a group.
    pub(crate) fn is_in_group(&mut self) -> bool {
        self.group().is_some()
    }

    /// Whether other writers probably wait for this connection, to share its COMMIT. `false` for transactions of the program.
    pub(super) fn is_awaited(&mut self) -> bool {
        self.lease_mut().is_some_and(|lease| {
            let state = lease.state();
            state.group.is_some() || state.turn.as_ref().is_some_and(Turn::is_awaited)
        })
    }

    /// Begins a unit, if the connection has the open transaction of a group and is not in a unit already. `in_savepoint`: whether it may
    /// have several statements.
    ///
    /// Does not wait for SQLite, because each answer of its thread takes as long as a statement. If the savepoint cannot begin, the
    /// transaction has ended, or the rollback of the unit fails. Both are detected before COMMIT. The previous savepoint has to be released:
    /// otherwise a rollback could end at it, and undo the unit of another writer.
    pub(crate) fn begin_unit(&mut self, in_savepoint: bool) -> bool {
        if self.in_transaction() {
            return false;
        }
        let Some(group) = self.group() else { return false };
        spin::begin_task();
        group.in_unit = true;
        let previous = std::mem::replace(&mut group.in_savepoint, in_savepoint);
        if previous {
            self.send(RELEASE_UNIT);
        }
        if in_savepoint {
            self.send(BEGIN_UNIT);
        }
        true
    }

    /// Sends a statement that has no result, and does not wait for its end.
    fn send(&mut self, sql: &'static str) {
        #[cfg(feature = "sqlite")]
        if let Some(RawConn::Sqlite(conn)) = self.raw() {
            // It is sent by the first poll.
            let _ = conn.fetch_many(sqlx::query(sql)).try_next().now_or_never();
        }
        #[cfg(not(feature = "sqlite"))]
        let _ = sql;
    }

    /// Undoes the statements of a unit that is in a savepoint. The savepoint stays open.
    pub(crate) async fn roll_back_unit(&mut self) -> Result<(), sqlx::Error> {
        // Waits for what dropped savepoints have sent, because the rollback counts the savepoints that are open.
        if self.state.in_flight {
            self.flush().await;
        }
        self.set_in_flight();
        let Some(raw) = self.raw() else { return Ok(()) };
        let done = on!(RawConn, raw, DB, conn => group::roll_back_unit::<DB>(conn).await);
        match self.note_answer(done) {
            // SQLite has rolled back the transaction of the group.
            Err(sqlx::Error::Database(_)) => Ok(()),
            done => done,
        }
    }

    /// Whether a single statement on this connection commits itself, or is part of the caller's transaction. Returns `false` if the
    /// connection has the open transaction of a group, if other writers wait, or if the statement may need a transaction.
    pub(crate) fn commits_alone(&mut self) -> bool {
        if self.state.autocommit == Autocommit::Uninspected {
            return false;
        }
        self.in_transaction() || self.is_borrowed() || !self.is_awaited()
    }

    /// Whether a transaction on this connection is part of a group, or may become part of one.
    pub(crate) fn may_join_group(&mut self) -> bool {
        !self.commits_alone() && self.facts().defers_constraints() != Some(true)
    }

    /// Call this before the program gets sqlx's connection, which it may use to commit or to roll back.
    pub(super) fn before_raw_access_in_group(&mut self) {
        let Some(group) = self.group() else { return };
        group.used_raw = true;
        // Not awaited, like the mark in `verify.rs`.
        self.send(WITNESS);
    }

    /// Begins a unit of a single statement, in a new group if the connection has none. Returns `false` if the statement has to commit
    /// alone.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no transaction is begun.
    pub(crate) async fn join_group(&mut self) -> Result<bool> {
        if self.begin_unit(false) {
            return Ok(true);
        }
        if self.defers_constraints().await {
            return Ok(false);
        }
        let raw = self.connected().ok_or(Error::Database(sqlx::Error::PoolClosed))?;
        let begun = on!(RawConn, raw, DB, conn => raw::begin_with::<DB>(conn, BEGIN).await);
        self.note_answer(begun)?;
        self.begin_group();
        Ok(true)
    }

    fn begin_group(&mut self) {
        let Some(pool) = self.state.pool() else { return };
        if let Some(lease) = self.lease_mut() {
            lease.state_mut().group = Some(Group::new(GroupId::here(pool)));
        }
    }

    /// Ends a unit of a single statement: passes the connection to the next writer, or commits, and waits for the end of the
    /// transaction. `failed`: whether the statement has failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transaction is committed, or rolled back if it was lost.
    pub(crate) async fn leave_group(mut self, failed: bool) -> GroupEnd {
        if failed {
            let Some(raw) = self.connected() else { return GroupEnd::lost() };
            // The mark is not looked up, because this future may be dropped meanwhile. A single statement cannot begin another transaction.
            let open = on!(RawConn, raw, DB, conn => DB::is_in_transaction(conn).await);
            if !matches!(self.note_answer(open), Ok(true)) {
                // The connection is returned in a unit, so it rolls back.
                return GroupEnd::lost();
            }
        }
        self.pass_on().await
    }

    /// Call this before [`commit_shared`](Self::commit_shared). Ends the unit of a write of the library, or makes its transaction the first unit
    /// of a group if other writers wait. Then the first poll of the commit passes the connection on: what is done here may still be
    /// dropped, which rolls back.
    pub(crate) fn prepare_shared_commit(
        &mut self,
    ) -> Either<Ready<Prepared>, BoxFuture<'_, Prepared>> {
        let is_unit = self.is_in_group();
        self.note_unit(true);
        match is_unit || self.is_followed() {
            true => Either::Right(Box::pin(self.end_or_begin_group(is_unit))),
            false => Either::Left(ready(Ok(()))),
        }
    }

    async fn end_or_begin_group(&mut self, is_unit: bool) -> Prepared {
        if is_unit {
            return self.end_unit().await;
        }
        if self.defers_constraints().await {
            return Ok(());
        }
        let Some(raw) = self.connected() else { return Err(sqlx::Error::PoolClosed) };
        let mark = SqlStr::from_static(MARK);
        let marked = on!(RawConn, raw, DB, conn => DB::simple(conn, mark).await);
        self.note_answer(marked)?;
        self.begin_group();
        Ok(())
    }

    /// Commits the outermost transaction of a write of the library, or passes the connection of its group on, and waits until it is
    /// committed.
    pub(crate) async fn commit_shared(&mut self) -> Result<(), CommitFailed> {
        if !self.is_in_group() {
            return self.commit_raw().await.map_err(CommitFailed::Statement);
        }
        match self.pass_on().await {
            GroupEnd::Committed => Ok(()),
            GroupEnd::RolledBack(reason) => Err(CommitFailed::RolledBack(reason)),
            GroupEnd::Unknown => Err(CommitFailed::Statement(sqlx::Error::WorkerCrashed)),
        }
    }

    /// Ends a unit that is in a savepoint. The savepoint is released by the next unit or by COMMIT, unless raw SQL may have ended it.
    async fn end_unit(&mut self) -> Result<(), sqlx::Error> {
        let may_defer = self.state.schema_change.is_some();
        let Some(group) = self.group() else { return Ok(()) };
        // If COMMIT is refused, only this unit is the cause, and is rolled back.
        group.is_closed = may_defer;
        if may_defer || !group.used_raw {
            return Ok(());
        }
        let sql = SqlStr::from_static(RELEASE_UNIT);
        let done = Execution::plain(self.connected(), sql).run_to_end(&mut |_| ()).await;
        self.note_answer(done)?;
        if let Some(group) = self.group() {
            group.in_savepoint = false;
        }
        Ok(())
    }

    /// Records how long the unit has taken. `is_complete`: whether all its receivers have run.
    pub(crate) fn note_unit(&mut self, is_complete: bool) {
        let Some(lease) = self.lease_mut() else { return };
        if let Some(queue) = lease.state().turn.as_ref().and_then(Turn::queue) {
            queue.note_unit(is_complete);
        }
    }

    /// Whether the next waiting writer may execute its unit in this transaction, unless constraints are deferred.
    fn is_followed(&mut self) -> bool {
        let is_plain = !self.is_borrowed()
            && self.state.frames.len() == 1
            && !self.state.foreign
            && self.state.schema_change.is_none();
        let (Some(pool), true) = (self.state.pool(), is_plain) else { return false };
        let group = GroupId::here(pool);
        let Some(lease) = self.lease_mut() else { return false };
        let queue = lease.state().turn.as_ref().and_then(Turn::queue);
        let is_awaited = queue.is_some_and(|queue| queue.is_awaited_by(group));
        is_awaited && self.depth_now() == 1
    }

    /// Whether a constraint of the database may be checked only by COMMIT. If this is unknown, it is looked up.
    async fn defers_constraints(&mut self) -> bool {
        if let Some(known) = self.facts().defers_constraints() {
            return known;
        }
        let epoch = self.facts().epoch();
        let mut found = None;
        let sink = &mut |row: AnyRow| found = row.scalar().ok();
        let sql = SqlStr::from_static(DEFERS);
        let asked = Execution::plain(self.connected(), sql).run_to_end(sink).await;
        let asked = self.note_answer(asked);
        let Some(defers) = found.filter(|_| asked.is_ok()) else { return true };
        self.facts().set_defers_constraints(epoch, defers != 0);
        defers != 0
    }

    /// Passes the connection to the next writer, or returns it, which commits the transaction.
    async fn pass_on(&mut self) -> GroupEnd {
        let pool = self.state.pool();
        let lease = match &mut self.inner {
            MaybePooled::Pooled(slot) => slot.take(),
            _ => None,
        };
        let (Some(mut lease), Some(pool)) = (lease, pool) else {
            return GroupEnd::lost();
        };
        let (unit, end) = oneshot::channel();
        let state = lease.state_mut();
        let mut next = None;
        if let Some(group) = &mut state.group {
            group.units.push(Unit::Writer(unit));
            group.end_unit();
            next = state.turn.as_ref().and_then(Turn::queue).filter(|_| group.is_open()).cloned();
        }
        match next {
            Some(queue) => {
                drop(queue.pass_group(GroupId::here(pool), lease));
                group_end(end, &queue).await
            }
            None => {
                drop(lease);
                end.await.unwrap_or(GroupEnd::Unknown)
            }
        }
    }
}

/// Waits for the end of a group. If the next writer does not take the connection, this writer ends the group.
pub(super) async fn group_end(end: oneshot::Receiver<GroupEnd>, queue: &WriteQueue) -> GroupEnd {
    let mut waiting = Waiting { end, queue };
    loop {
        match timeout(PATIENCE, &mut waiting.end).await {
            Ok(end) => return end.unwrap_or(GroupEnd::Unknown),
            Err(_) => drop(queue.take_back(false)),
        }
    }
}

/// A writer that waits for the end of its group. If it is dropped before, it ends the group, unless the next writer has taken the
/// connection: no other writer may be waiting for the group.
struct Waiting<'q> {
    end: oneshot::Receiver<GroupEnd>,
    queue: &'q WriteQueue,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if matches!(self.end.try_recv(), Err(TryRecvError::Empty)) {
            drop(self.queue.take_back(true));
        }
    }
}
