//! Whether a connection is in the transaction that the library believes it to be in.
//!
//! sqlx counts the transactions that are begun and ended through its methods, and [`Scope::frames`] those of this library.
//! RawConn SQL can begin and end transactions without either of them. So:
//!
//! - Inside a transaction of this library, `execute` and `query` refuse SQL that begins or ends transactions or savepoints
//!   (`sql_scan.rs`), before it is sent.
//! - Outside, such SQL runs, and afterwards the database is asked whether a transaction is open. If so, sqlx is made to count
//!   it: from then on it is a transaction of sqlx's own, whose end the library does not see.
//! - sqlx's own connection (`Conn::postgres`, `Conn::sqlite`) can be used for anything. Before it is handed out inside a
//!   transaction, a mark is set that disappears with the transaction, and with a rollback to an earlier savepoint: a setting
//!   on Postgres, a savepoint on SQLite. Then the connection is *unverified*: before the next statement of this library, and
//!   before the commit, the mark is looked for. If it is gone, everything in the transaction has failed.
//! - A connection that is unverified when it is dropped is rolled back before it goes to a pool.
//! - A connection that is borrowed from sqlx (`&mut PgConnection`) has no such history. If sqlx does not count a transaction
//!   on it, the database is asked before anything depends on the answer: receivers of the commit, and a BEGIN on Postgres,
//!   which would not fail inside another transaction.
//!
//! A statement without raw SQL before it asks nothing.

use std::fmt::Write as _;

use futures_util::{FutureExt, TryStreamExt};
use sqlx::{AssertSqlSafe, Connection, SqlSafeStr, SqlStr};

use crate::database::backend::{AnyRow, Backend, DatabaseKind};
use crate::database::conn::Conn;
use crate::database::execution::Execution;
use crate::database::raw::{self, MaybePooled, RawConn, on};
use crate::database::schema_cache::SchemaChangeGuard;
use crate::database::sql_scan::{self, Control};
use crate::error::{Error, Reason, Result};

const LOST: &str = "raw SQL ended the transaction, or rolled back a part of it (what a raw COMMIT has stored stays stored)";

/// The savepoint that is the mark on SQLite, and with which Postgres is asked whether a transaction is open.
const MARK: &str = "sqlx_signals";

impl Conn<'_> {
    /// Refuses raw SQL that begins or ends transactions inside one of this library; outside, returns whether it does.
    pub(crate) fn check_raw(&mut self, sql: &str) -> Result<bool> {
        match sql_scan::find(self.kind(), sql) {
            Some(Control { statement, instead }) if self.in_transaction() => {
                self.state.fail(|| format!("raw SQL was refused (`{statement}`)").into());
                Err(Error::TransactionControl { statement, instead })
            }
            found => Ok(found.is_some()),
        }
    }

    /// RawConn SQL is about to run: if the future is dropped before it has ended, the connection is unverified.
    pub(crate) fn before_raw(&mut self, controls: bool, alters: bool) {
        if alters {
            self.set_altering(true);
        }
        if controls {
            self.set_unverified();
        } else if self.in_transaction() {
            self.state.set_mark(true, None);
        }
    }

    /// RawConn SQL has ended.
    pub(crate) async fn after_raw(&mut self, controls: bool) {
        if let Some(altering) = &self.state.altering {
            altering.forget();
        }
        if controls {
            // If even this fails, the connection stays unverified.
            let _ = Box::pin(self.reconcile()).await;
        } else if self.in_transaction() {
            self.state.set_mark(false, None);
        }
    }

    /// Rolls back what raw SQL has left open on a connection that nobody has afterwards.
    pub(crate) async fn end_raw(&mut self, done: Result<u64>) -> Result<u64> {
        if self.in_transaction() || self.depth_now() == 0 {
            return done;
        }
        let rolled_back = match self.raw() {
            Some(raw) => on!(raw, DB, conn => roll_back_all::<DB>(conn).await),
            None => Ok(()),
        };
        match rolled_back {
            Ok(()) => self.set_idle(),
            Err(_) => self.discard(),
        }
        let reason = "raw SQL began the transaction and did not end it".into();
        done.and(Err(Error::RolledBack { reason }))
    }

    /// The schema may change from here on, until the transaction has ended or the connection is used again.
    fn set_altering(&mut self, is_certain: bool) {
        let (kind, db) = (self.kind(), self.state.db.clone());
        let altering = || SchemaChangeGuard::new(kind, db, is_certain).into();
        let altering = self.state.altering.get_or_insert_with(altering);
        if is_certain {
            altering.set_certain();
        }
    }

    /// sqlx's own connection is about to be handed out.
    pub(crate) fn before_hand_out(&mut self) {
        // On Postgres few facts depend on more than the types of the columns, and to look for them anew costs round trips.
        if self.kind() == DatabaseKind::Sqlite {
            self.set_altering(false);
        }
        self.state.count_statement();
        if !self.state.unverified {
            self.state.set_mark(false, None);
            let failed = self.state.frames.last().is_none_or(|frame| frame.failed.is_some());
            // What is still under way on Postgres would have to be waited for.
            let waits = self.state.in_flight && self.kind() == DatabaseKind::Postgres;
            if !failed && !waits {
                self.set_mark();
            }
        }
        self.set_unverified();
        self.set_used_raw();
    }

    /// Sends the statement that sets the mark, and does not wait for the answer: sqlx reads it before the next statement.
    fn set_mark(&mut self) {
        // Another number than that of any mark before it.
        let mark = self.state.statements;
        let sql = match self.kind() {
            DatabaseKind::Sqlite => AssertSqlSafe(format!("SAVEPOINT {MARK}")),
            DatabaseKind::Postgres => AssertSqlSafe(format!("SET LOCAL {MARK}.mark = '{mark}'")),
        };
        match Execution::plain(self.raw(), sql.into_sql_str()) {
            #[cfg(feature = "sqlite")]
            Execution::Sqlite(mut steps) => _ = steps.try_next().now_or_never(),
            #[cfg(feature = "postgres")]
            Execution::Postgres(mut steps) => _ = steps.try_next().now_or_never(),
            _ => return,
        }
        self.state.set_mark(false, Some(mark));
    }

    /// RawConn SQL may change the transaction from here on.
    pub(crate) fn set_unverified(&mut self) {
        self.state.unverified = true;
        if let Some(pooled) = self.lease_mut() {
            pooled.set_unverified(true);
        }
    }

    /// No transaction is open, whether or not raw SQL was run.
    pub(crate) fn set_idle(&mut self) {
        self.state.unverified = false;
        self.state.altering = None;
        if let Some(pooled) = self.lease_mut() {
            pooled.set_unverified(false);
        }
    }

    /// Makes sure of the transaction that the connection is in, if raw SQL may have changed it.
    ///
    /// # Errors
    ///
    /// If a statement has failed in the transaction; [`Error::RolledBack`] if it is another one or gone.
    pub(crate) async fn verify(&mut self) -> Result<()> {
        match self.in_transaction() {
            // A statement of SQLite that was dropped half-way may have rolled back, which nobody has seen.
            true if self.state.unverified
                || (self.state.in_flight && self.kind() == DatabaseKind::Sqlite) =>
            {
                Box::pin(self.verify_frames()).await
            }
            false if self.state.unverified => Box::pin(self.reconcile()).await,
            _ => Ok(()),
        }
    }

    async fn verify_frames(&mut self) -> Result<()> {
        let (_, mark) = self.state.mark();
        let sql = match (self.kind(), mark) {
            (DatabaseKind::Postgres, Some(_)) => AssertSqlSafe(format!("SHOW {MARK}.mark")),
            (DatabaseKind::Postgres, None) => {
                AssertSqlSafe(format!("SAVEPOINT {MARK}; RELEASE SAVEPOINT {MARK}"))
            }
            (DatabaseKind::Sqlite, Some(_)) => AssertSqlSafe(format!("RELEASE {MARK}")),
            // An error inside a transaction.
            (DatabaseKind::Sqlite, None) => AssertSqlSafe("BEGIN".to_owned()),
        };
        if self.kind() == DatabaseKind::Sqlite {
            self.state.fail_if_dropped();
        }
        let mut found = None;
        let running = Execution::plain(self.connected(), sql.into_sql_str());
        let done = running.run_to_end(&mut |row| found = text(&row)).await;
        let lost = match (self.kind(), mark, self.note_answer(done)) {
            (DatabaseKind::Sqlite, None, Ok(_)) => true,
            (DatabaseKind::Sqlite, None, Err(sqlx::Error::Database(_))) => false,
            (DatabaseKind::Sqlite, Some(_), Err(sqlx::Error::Database(_))) => true,
            (DatabaseKind::Postgres, Some(mark), Ok(_)) => found != Some(mark.to_string()),
            (_, _, Ok(_)) => false,
            (_, _, Err(error)) if is_outside(&error) => true,
            (_, _, Err(error)) => {
                self.state.fail(|| Reason::of_statement(&error));
                return Err(error.into());
            }
        };
        if lost {
            return self.lost().await;
        }
        self.state.set_mark(false, None);
        Ok(())
    }

    /// The transaction is not the one that the library has begun, or not what it was. A new one takes its place, which
    /// can only be rolled back, so that nothing that is still to come is stored.
    async fn lost(&mut self) -> Result<()> {
        tracing::error!("{LOST}: neither its `on_commit` nor its `on_rollback` receivers will run");
        self.state.fail_all(LOST);
        for frame in &mut self.state.frames {
            frame.deferred.clear();
        }
        let depth = self.depth_now();
        if let Some(raw) = self.raw()
            && on!(raw, DB, conn => begin_anew::<DB>(conn, depth).await).is_err()
        {
            self.abandon(LOST);
        }
        self.state.set_mark(false, None);
        Err(Error::RolledBack { reason: LOST.into() })
    }

    /// Has sqlx count what is open, where the library has no transaction.
    async fn reconcile(&mut self) -> Result<()> {
        if self.lease_mut().is_some() {
            let Some(raw) = self.connected() else { return Ok(()) };
            let open = on!(raw, DB, conn => reconcile::<DB>(conn).await);
            let open = self.note_answer(open)?;
            self.state.unverified = false;
            if !open {
                self.set_idle();
            }
        }
        Ok(())
    }

    /// Whether the database is in a transaction of which sqlx does not know, on a connection that is borrowed from sqlx.
    pub(crate) async fn is_in_unknown_transaction(&mut self) -> Result<bool> {
        if matches!(self.link, MaybePooled::Pooled(_)) {
            return Ok(false);
        }
        let Some(raw) = self.raw() else { return Ok(false) };
        Ok(on!(raw, DB, conn => DB::is_in_transaction(conn).await)?)
    }
}

/// Whether a statement was refused because no transaction is open.
fn is_outside(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("25P01"))
}

/// The text in the only column of a row of Postgres.
fn text(row: &AnyRow) -> Option<String> {
    match row {
        #[cfg(feature = "sqlite")]
        AnyRow::Sqlite(_) => None,
        #[cfg(feature = "postgres")]
        AnyRow::Postgres(row) => sqlx::Row::try_get(row, 0).ok(),
    }
}

/// Makes sqlx's count agree with the database; returns whether a transaction is open. One that has failed and that sqlx does
/// not count is rolled back.
async fn reconcile<DB: Backend>(conn: &mut DB::Connection) -> Result<bool, sqlx::Error> {
    if raw::depth::<DB>(conn) == 0 {
        return adopt::<DB>(conn).await;
    }
    match DB::is_in_transaction(conn).await {
        Ok(false) => roll_back_all::<DB>(conn).await.map(|()| false),
        Ok(true) | Err(sqlx::Error::Database(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Rolls back whatever is open, whether or not sqlx counts it.
pub(crate) async fn roll_back_all<DB: Backend>(
    conn: &mut DB::Connection,
) -> Result<(), sqlx::Error> {
    // Waits for what is under way. On Postgres the error of a statement that nobody waits for comes first.
    while let Err(error) = conn.ping().await {
        if !matches!(error, sqlx::Error::Database(_)) {
            return Err(error);
        }
    }
    let depth = raw::depth::<DB>(conn);
    if depth > 0 {
        // RawConn SQL may have ended what sqlx counts, and sqlx counts down only if its own statement succeeds.
        begin_anew::<DB>(conn, depth).await?;
        for _ in 0..depth {
            raw::rollback::<DB>(conn).await?;
        }
    }
    if adopt::<DB>(conn).await? { raw::rollback::<DB>(conn).await } else { Ok(()) }
}

/// As [`reconcile`], if sqlx counts none.
async fn adopt<DB: Backend>(conn: &mut DB::Connection) -> Result<bool, sqlx::Error> {
    match raw::adopt::<DB>(conn).await {
        Ok(()) => Ok(true),
        Err(sqlx::Error::BeginFailed) => Ok(false),
        Err(sqlx::Error::Database(_)) => {
            DB::simple(conn, SqlStr::from_static("ROLLBACK")).await.map(|()| false)
        }
        Err(error) => Err(error),
    }
}

/// Rolls back whatever is open, and begins what sqlx counts: a transaction with its savepoints.
async fn begin_anew<DB: Backend>(
    conn: &mut DB::Connection,
    depth: usize,
) -> Result<(), sqlx::Error> {
    match DB::simple(conn, SqlStr::from_static("ROLLBACK")).await {
        Ok(()) | Err(sqlx::Error::Database(_)) => {}
        Err(error) => return Err(error),
    }
    let mut sql = "BEGIN".to_owned();
    for depth in 1..depth {
        let _ = write!(sql, "; SAVEPOINT _sqlx_savepoint_{depth}");
    }
    DB::simple(conn, AssertSqlSafe(sql).into_sql_str()).await
}
