//! Verifies that a connection still is in the transaction that this library began.
//!
//! sqlx counts the transactions that are begun and ended through its methods, and `TransactionState::frames` counts those of
//! this library. Raw SQL can begin and end transactions that neither of them counts. Therefore:
//!
//! - Inside a transaction of this library, `execute` and `query` refuse SQL that begins or ends transactions or savepoints
//!   (`sql_scan.rs`), before it is sent.
//! - Outside a transaction of this library, such SQL is executed, and then the database is asked whether a transaction is
//!   open. If so, sqlx is made to count it. From then on it is treated like a transaction that sqlx began: this library does
//!   not observe its end.
//! - The application can run any SQL on the sqlx connection (`Conn::postgres`, `Conn::sqlite`). Inside a transaction, before
//!   the application gets it, a mark is set that disappears with the transaction, or with a rollback to an earlier savepoint:
//!   a setting on Postgres, a savepoint on SQLite. Then the connection is *unverified*: before the next statement of this
//!   library, and before the commit, the mark is looked up. If it is missing, the whole transaction is marked as failed.
//! - A `begin` of sqlx on that connection changes the count of sqlx: it is one more if the savepoint is never ended, and on Postgres
//!   one less if the `begin` fails or is dropped, because sqlx then rolls back what is around it. Each frame stores the count
//!   (`Frame::sqlx_depth`), which is compared before the mark is looked up and before the commit.
//! - If a connection is dropped while it is unverified, it is rolled back before it returns to its pool.
//! - For a connection that is borrowed from sqlx (`&mut PgConnection`), the earlier SQL is unknown. If sqlx does not count a
//!   transaction on it, the database is asked whether one is open when this matters: before `on_commit` receivers are
//!   accepted, before an outdated statement is repeated, and before a BEGIN on Postgres, which would not fail inside another
//!   transaction.
//!
//! If no raw SQL was run, nothing is verified.

use futures_util::future::{Either, ready};
use futures_util::{FutureExt, TryStreamExt};
use sqlx::{AssertSqlSafe, SqlSafeStr};

use crate::database::backend::{AnyRow, Backend, DatabaseKind, on};
use crate::database::conn::{Conn, UsuallyReady};
use crate::database::execution::Execution;
use crate::database::raw::{MaybePooled, RawConn};
use crate::database::reconcile;
use crate::database::schema_cache::SchemaChangeGuard;
use crate::database::sql_scan::{self, Control};
use crate::error::{Error, Reason, Result};

/// Why a transaction with an open savepoint cannot be committed: sqlx would only release the savepoint.
pub(crate) const LEFT_OPEN: &str = "a savepoint was left open";

const LOST: &str = "raw SQL ended the transaction, or rolled back a part of it (what a raw COMMIT has stored stays stored)";

/// The name of the mark: a savepoint on SQLite, a setting on Postgres. On Postgres, a savepoint of this name is also used to check
/// that a transaction is open.
const MARK: &str = "sqlx_signals";

impl Conn<'_> {
    /// Returns whether raw SQL begins or ends a transaction. Inside a transaction of this library, this is an error.
    fn check_raw(&mut self, sql: &str) -> Result<bool> {
        match sql_scan::find(self.kind(), sql) {
            Some(Control { statement, instead }) if self.in_transaction() => {
                self.state.fail(|| format!("raw SQL was refused (`{statement}`)").into());
                Err(Error::TransactionControl { statement, instead })
            }
            found => Ok(found.is_some()),
        }
    }

    /// Call this before raw SQL is executed: if the future is dropped during the execution, the connection stays unverified. Returns
    /// whether the SQL begins or ends a transaction.
    pub(crate) async fn before_raw(&mut self, sql: &str) -> Result<bool> {
        let controls = self.check_raw(sql)?;
        self.ensure_connected().await?;
        if sql_scan::alters(self.kind(), sql) {
            self.set_altering(true);
        }
        if controls {
            self.set_unverified();
        } else if self.in_transaction() {
            self.state.set_mark(true, None);
        }
        Ok(controls)
    }

    /// Call this with the result of raw SQL.
    pub(crate) async fn after_raw(
        &mut self,
        controls: bool,
        result: Result<u64, sqlx::Error>,
    ) -> Result<u64> {
        let result = self.note_result(result).await;
        if let Some(schema_change) = &self.state.schema_change {
            schema_change.forget();
        }
        if controls {
            // If even this fails, the connection stays unverified.
            let _ = Box::pin(self.reconcile()).await;
        } else if self.in_transaction() {
            self.state.set_mark(false, None);
        }
        result
    }

    /// Rolls back a transaction that raw SQL left open, before the connection is returned to its pool.
    pub(crate) async fn end_raw(&mut self, result: Result<u64>) -> Result<u64> {
        if self.in_transaction() || self.depth_now() == 0 {
            return result;
        }
        let rolled_back = match self.raw() {
            Some(raw) => on!(RawConn, raw, DB, conn => reconcile::roll_back_all::<DB>(conn).await),
            None => Ok(()),
        };
        match rolled_back {
            Ok(()) => self.set_idle(),
            Err(_) => self.discard(),
        }
        let reason = "raw SQL began the transaction and did not end it".into();
        result.and(Err(Error::RolledBack { reason }))
    }

    /// Records that the schema may change from now on, until the transaction ends or the connection is used again.
    fn set_altering(&mut self, is_certain: bool) {
        let (kind, db) = (self.kind(), self.state.db.clone());
        let schema_change = || SchemaChangeGuard::new(kind, db, is_certain).into();
        let schema_change = self.state.schema_change.get_or_insert_with(schema_change);
        if is_certain {
            schema_change.set_certain();
        }
    }

    /// Call this before the application gets the sqlx connection. Sets the mark, and records that the connection is unverified.
    pub(crate) fn before_raw_access(&mut self) {
        // Only on SQLite: on Postgres, few cached facts depend on more than the column types, and a new lookup costs round trips.
        if self.kind() == DatabaseKind::Sqlite {
            self.set_altering(false);
        }
        self.state.count_statement();
        if !self.state.unverified {
            self.before_raw_access_in_group();
            self.state.set_mark(false, None);
            let failed = self.state.frames.last().is_none_or(|frame| frame.failed.is_some());
            // On Postgres, setting the mark would have to wait for the statement in flight.
            let waits = self.state.in_flight && self.kind() == DatabaseKind::Postgres;
            if !failed && !waits {
                self.set_mark();
            }
        }
        self.set_unverified();
        if let Some(lease) = self.lease_mut() {
            // The answers that the application gets are not seen here.
            lease.state_mut().set_used_raw();
        }
    }

    /// Sends the statement that sets the mark. Does not wait for the answer, which sqlx reads before the next statement.
    fn set_mark(&mut self) {
        // Differs from all earlier marks.
        let mark = self.state.statements;
        let sql = match self.kind() {
            DatabaseKind::Sqlite => AssertSqlSafe(format!("SAVEPOINT {MARK}")),
            DatabaseKind::Postgres => AssertSqlSafe(format!("SET LOCAL {MARK}.mark = '{mark}'")),
        };
        match Execution::plain(self.raw(), sql.into_sql_str()) {
            #[cfg(feature = "sqlite")]
            Execution::Sqlite(mut steps, _) => _ = steps.try_next().now_or_never(),
            #[cfg(feature = "postgres")]
            Execution::Postgres(mut steps) => _ = steps.try_next().now_or_never(),
            _ => return,
        }
        self.state.set_mark(false, Some(mark));
    }

    /// Records that raw SQL may change the transaction from now on.
    pub(crate) fn set_unverified(&mut self) {
        self.state.unverified = true;
        if let Some(lease) = self.lease_mut() {
            lease.state_mut().unverified = true;
        }
    }

    /// Records that no transaction is open, even if raw SQL was run.
    pub(crate) fn set_idle(&mut self) {
        self.state.unverified = false;
        self.state.schema_change = None;
        if let Some(lease) = self.lease_mut() {
            lease.state_mut().unverified = false;
        }
    }

    /// Verifies the transaction of the connection, if raw SQL may have changed it.
    ///
    /// # Errors
    ///
    /// [`Error::RolledBack`] if the transaction has ended, was rolled back in part, or is another one. [`Error::Database`] if a
    /// statement has failed in the transaction.
    pub(crate) fn verify(&mut self) -> UsuallyReady<'_> {
        match self.in_transaction() {
            // On SQLite, a statement whose future was dropped may have rolled back the transaction.
            true if self.state.unverified
                || (self.state.in_flight && self.kind() == DatabaseKind::Sqlite) =>
            {
                Either::Right(Box::pin(self.verify_frames()))
            }
            false if self.state.unverified => Either::Right(Box::pin(self.reconcile())),
            _ => Either::Left(ready(Ok(()))),
        }
    }

    /// Looks up the mark. If none was set, checks that a transaction is open.
    async fn verify_frames(&mut self) -> Result<()> {
        let (_, mark) = self.state.mark();
        let depth = self.state.frames.last().map_or(0, |frame| frame.sqlx_depth);
        let has_depth = self.has_depth(depth).await;
        if !has_depth && self.depth_now() > depth {
            self.state.fail(|| LEFT_OPEN.into());
            return Err(Error::RolledBack { reason: LEFT_OPEN.into() });
        }
        let found = match (self.kind(), mark) {
            // A `begin` of sqlx on Postgres that fails or is dropped rolls back what is around it.
            _ if !has_depth => Ok(false),
            (DatabaseKind::Sqlite, None) => self.is_open().await,
            (kind, mark) => self.is_marked(kind, mark).await,
        };
        match found {
            Ok(true) => {
                self.state.set_mark(false, None);
                Ok(())
            }
            Ok(false) => self.replace_lost_transaction().await,
            Err(error) => {
                self.state.fail(|| Reason::of_statement(&error));
                Err(error.into())
            }
        }
    }

    /// Whether a transaction is open on a SQLite connection.
    async fn is_open(&mut self) -> Result<bool, sqlx::Error> {
        let Some(raw) = self.connected() else { return Err(sqlx::Error::PoolClosed) };
        let open = on!(RawConn, raw, DB, conn => DB::is_in_transaction(conn).await);
        self.note_answer(open)
    }

    /// Whether the mark is set or, without a mark, whether a transaction is open on a Postgres connection.
    async fn is_marked(
        &mut self,
        kind: DatabaseKind,
        mark: Option<u32>,
    ) -> Result<bool, sqlx::Error> {
        let sql = match (kind, mark) {
            (DatabaseKind::Postgres, Some(_)) => AssertSqlSafe(format!("SHOW {MARK}.mark")),
            (DatabaseKind::Postgres, None) => {
                AssertSqlSafe(format!("SAVEPOINT {MARK}; RELEASE SAVEPOINT {MARK}"))
            }
            (DatabaseKind::Sqlite, _) => {
                self.state.fail_if_dropped();
                AssertSqlSafe(format!("RELEASE {MARK}"))
            }
        };
        let mut found = None;
        let execution = Execution::plain(self.connected(), sql.into_sql_str());
        let result = execution.run_to_end(&mut |row| found = first_text(&row)).await;
        match (kind, mark, self.note_answer(result)) {
            (DatabaseKind::Sqlite, _, Err(sqlx::Error::Database(_))) => Ok(false),
            (DatabaseKind::Postgres, Some(mark), Ok(_)) => Ok(found == Some(mark.to_string())),
            (_, _, Ok(_)) => Ok(true),
            (_, _, Err(error)) if is_outside_transaction(&error) => Ok(false),
            (_, _, Err(error)) => Err(error),
        }
    }

    /// Handles a transaction that raw SQL has ended or partly rolled back. A new transaction that can only be rolled back replaces
    /// it, so that later statements are not committed. On Postgres, the connection is closed instead if possible: sqlx may count
    /// fewer transactions than are open.
    pub(crate) async fn replace_lost_transaction(&mut self) -> Result<()> {
        tracing::error!("{LOST}: neither its `on_commit` nor its `on_rollback` receivers will run");
        self.state.fail_all(LOST);
        for frame in &mut self.state.frames {
            frame.deferred.clear();
        }
        if self.kind() == DatabaseKind::Postgres {
            self.discard();
        }
        let depth = self.state.frames.last().map_or(0, |frame| frame.sqlx_depth);
        if let Some(raw) = self.raw()
            && on!(RawConn, raw, DB, conn => reconcile::replace::<DB>(conn, depth).await).is_err()
        {
            self.abandon(LOST);
        }
        self.state.set_mark(false, None);
        Err(Error::RolledBack { reason: LOST.into() })
    }

    /// Makes sqlx's count agree with the database, if this library has no transaction open.
    async fn reconcile(&mut self) -> Result<()> {
        if self.lease_mut().is_some() {
            let Some(raw) = self.connected() else { return Ok(()) };
            let open = on!(RawConn, raw, DB, conn => reconcile::reconcile::<DB>(conn).await);
            let open = self.note_answer(open)?;
            self.state.unverified = false;
            if !open {
                self.set_idle();
            }
        }
        Ok(())
    }

    /// Whether a connection that is borrowed from sqlx is in a transaction that sqlx does not count.
    pub(crate) async fn is_in_unknown_transaction(&mut self) -> Result<bool> {
        if matches!(self.inner, MaybePooled::Pooled(_)) {
            return Ok(false);
        }
        let Some(raw) = self.raw() else { return Ok(false) };
        Ok(on!(RawConn, raw, DB, conn => DB::is_in_transaction(conn).await)?)
    }
}

/// Whether a statement failed because no transaction is open.
fn is_outside_transaction(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("25P01"))
}

/// The text in the only column of a Postgres row.
fn first_text(row: &AnyRow) -> Option<String> {
    match row {
        #[cfg(feature = "sqlite")]
        AnyRow::Sqlite(_) => None,
        #[cfg(feature = "postgres")]
        AnyRow::Postgres(row) => sqlx::Row::try_get(row, 0).ok(),
    }
}
