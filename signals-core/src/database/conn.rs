//! A connection and the statements on it. Retries a statement if the connection is dead or the prepared statement is outdated.

use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
#[cfg(feature = "sqlite")]
use sqlx::SqliteConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
#[cfg(feature = "postgres")]
use sqlx::{Column as _, Executor as _, Statement as _};
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, Postgres, Row as _};
use tokio::runtime::Handle;
use tokio::time::timeout;

#[cfg(feature = "postgres")]
use crate::database::backend::Backend;
use crate::database::backend::{AnyRow, AnyType, Arguments, DatabaseKind, Make, Sink, Statement};
use crate::database::db::Db;
use crate::database::detached::{DetachableStatement, OnDetached};
use crate::database::execution::{Execution, Naming};
use crate::database::raw::{AnyLease, MaybeOwned, MaybePooled, RawConn, on};
use crate::database::schema_cache::SchemaCache;
use crate::database::sql::RawQuery;
use crate::database::sql_scan;
use crate::database::state::{Autocommit, TransactionState};
use crate::error::driver::{did_nothing, is_answered, is_outdated};
use crate::error::{Error, Reason, Result};
use crate::task::chain;

/// How many other connections are tried if the first one is dead.
const RECONNECT_ATTEMPTS: usize = 16;

/// A connection to SQLite or PostgreSQL, together with the state of its transaction.
///
/// A receiver that runs inside the transaction takes the connection of the save as `conn: &mut Conn<'_>`.
/// [`Db::acquire`] takes a connection from the pool.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// let mut conn = db.acquire().await?;
/// conn.execute("CREATE TABLE counter (n INTEGER NOT NULL)").await?;
/// conn.query("INSERT INTO counter VALUES ($1)").bind(1).execute().await?;
/// let rows: Vec<(i64,)> = conn.query("SELECT n FROM counter").fetch_all().await?;
/// assert_eq!(rows, [(1,)]);
/// # Ok(()) }
/// ```
pub struct Conn<'c> {
    pub(crate) inner: MaybePooled<'c>,
    pub(crate) state: MaybeOwned<'c, TransactionState>,
}

impl<'c> Conn<'c> {
    pub(crate) fn pooled(lease: AnyLease, db: Db) -> Self {
        let inner = MaybePooled::Pooled(MaybeOwned::Owned(Some(lease)));
        Self { inner, state: MaybeOwned::Owned(TransactionState::new(Some(db))) }
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn sqlite_only(conn: &'c mut SqliteConnection) -> Self {
        Self {
            inner: MaybePooled::Sqlite(conn),
            state: MaybeOwned::Owned(TransactionState::default()),
        }
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres_only(conn: &'c mut PgConnection) -> Self {
        Self {
            inner: MaybePooled::Postgres(conn),
            state: MaybeOwned::Owned(TransactionState::default()),
        }
    }

    /// A placeholder for a connection that was moved out.
    pub(crate) fn disconnected() -> Self {
        Self {
            inner: MaybePooled::Pooled(MaybeOwned::Owned(None)),
            state: MaybeOwned::Owned(TransactionState::default()),
        }
    }

    /// Borrows the same connection for a shorter lifetime.
    pub(crate) fn reborrow(&mut self) -> Conn<'_> {
        let inner = match &mut self.inner {
            MaybePooled::Pooled(slot) => MaybePooled::Pooled(MaybeOwned::Borrowed(&mut **slot)),
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(conn) => MaybePooled::Sqlite(conn),
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(conn) => MaybePooled::Postgres(conn),
        };
        Conn { inner, state: MaybeOwned::Borrowed(&mut *self.state) }
    }

    /// Moves the connection and its transaction state out of `self`, so that they can go to another task. Returns `None` if the
    /// connection does not come from a pool.
    pub(crate) fn detach(&mut self) -> Option<Conn<'static>> {
        let MaybePooled::Pooled(slot) = &mut self.inner else {
            return None;
        };
        let lease = slot.take()?;
        // `self` keeps the `Db`, from which it takes another connection if it is used again.
        let db = self.state.db.clone();
        let state = std::mem::replace(&mut *self.state, TransactionState::new(db));
        let inner = MaybePooled::Pooled(MaybeOwned::Owned(Some(lease)));
        Some(Conn { inner, state: MaybeOwned::Owned(state) })
    }

    /// Whether a caller still uses the connection, which then has to be [reattached](Self::reattach) after
    /// [`detach`](Self::detach).
    pub(crate) fn is_borrowed(&self) -> bool {
        !matches!(self.inner, MaybePooled::Pooled(MaybeOwned::Owned(_)))
    }

    /// Moves a detached connection and its transaction state back into `self`.
    pub(crate) fn reattach(&mut self, mut other: Conn<'static>) {
        if let (MaybePooled::Pooled(slot), MaybePooled::Pooled(other)) =
            (&mut self.inner, &mut other.inner)
        {
            **slot = other.take();
        }
        std::mem::swap(&mut *self.state, &mut *other.state);
    }

    /// Handles a connection whose state is unknown. On Postgres, sqlx's savepoint counter may be wrong, and the next statement
    /// may return the error of an earlier one, so the connection is closed. On SQLite, sqlx's worker counts correctly, so only the
    /// enclosing transaction is marked as failed.
    pub(crate) fn abandon(&mut self, reason: &str) {
        match self.kind() {
            DatabaseKind::Sqlite => self.state.fail(|| reason.into()),
            DatabaseKind::Postgres => {
                self.state.fail_all(reason);
                self.discard();
            }
        }
    }

    /// The runtime in which a pooled connection was checked out.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        match &self.inner {
            MaybePooled::Pooled(slot) => slot.as_ref()?.runtime().cloned(),
            _ => None,
        }
    }

    /// Closes a pooled connection whose transaction can no longer be ended.
    pub(crate) fn discard(&mut self) {
        if let MaybePooled::Pooled(slot) = &mut self.inner
            && let Some(lease) = slot.take()
        {
            lease.close();
        }
    }

    /// The kind of the database.
    pub fn kind(&self) -> DatabaseKind {
        match &self.inner {
            MaybePooled::Pooled(slot) => match (&**slot, &self.state.db) {
                #[cfg(feature = "sqlite")]
                (Some(AnyLease::Sqlite(_)), _) => DatabaseKind::Sqlite,
                #[cfg(feature = "postgres")]
                (Some(AnyLease::Postgres(_)), _) => DatabaseKind::Postgres,
                (None, Some(db)) => db.kind(),
                (None, None) => unreachable!("a pooled connection has its `Db`"),
            },
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(_) => DatabaseKind::Sqlite,
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(_) => DatabaseKind::Postgres,
        }
    }

    /// The sqlx connection, or `None` on Postgres.
    ///
    /// It is the same connection in the same transaction. For a save that is given the sqlx connection, this library only sees
    /// that a transaction is open, and does not observe its end. A model with `on_commit` receivers therefore cannot be saved
    /// through it.
    ///
    /// If SQL on the sqlx connection ends the transaction of this library, the next statement of this library, or the commit,
    /// returns [`Error::RolledBack`].
    #[cfg(feature = "sqlite")]
    pub fn sqlite(&mut self) -> Option<&mut SqliteConnection> {
        if self.kind() != DatabaseKind::Sqlite {
            return None;
        }
        self.before_raw_access();
        match self.raw()? {
            RawConn::Sqlite(conn) => Some(conn),
            #[cfg(feature = "postgres")]
            RawConn::Postgres(_) => None,
        }
    }

    /// The sqlx connection, or `None` on SQLite.
    ///
    /// It is the same connection in the same transaction. For a save that is given the sqlx connection, this library only sees
    /// that a transaction is open, and does not observe its end. A model with `on_commit` receivers therefore cannot be saved
    /// through it.
    ///
    /// Inside a transaction, this call sends a `SET LOCAL`, and the next statement of this library, or the commit, sends a
    /// `SHOW` first. This detects that a statement has failed, or that SQL has ended the transaction. In both cases the
    /// transaction is marked as failed, and the commit returns [`Error::RolledBack`].
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// #[derive(Model)]
    /// # #[model(table = "posts")]
    /// struct Post { id: Option<i64>, title: String }
    ///
    /// #[receiver(post_save, sender = Post)]
    /// async fn notify(saved: PostSave<'_, Post>, conn: &mut Conn<'_>) -> Result<()> {
    ///     # #[cfg(feature = "postgres")]
    ///     if let Some(pg) = conn.postgres() {
    ///         sqlx::query("SELECT pg_notify('posts', $1)").bind(&saved.instance.title).execute(pg).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[cfg(feature = "postgres")]
    pub fn postgres(&mut self) -> Option<&mut PgConnection> {
        if self.kind() != DatabaseKind::Postgres {
            return None;
        }
        self.before_raw_access();
        match self.raw()? {
            RawConn::Postgres(conn) => Some(conn),
            #[cfg(feature = "sqlite")]
            RawConn::Sqlite(_) => None,
        }
    }

    /// The cached facts about the tables of the database.
    pub(crate) fn facts(&mut self) -> &SchemaCache {
        if let Some(schema_change) = self.state.schema_change.take() {
            if self.in_transaction() {
                schema_change.forget();
                self.state.schema_change = Some(schema_change);
            } else {
                drop(schema_change);
            }
        }
        match &self.state.db {
            Some(db) => db.facts(),
            None => SchemaCache::without_db(self.kind()),
        }
    }

    /// Runs one or several SQL statements without arguments. Returns the number of rows affected.
    ///
    /// If this library has no transaction open on the connection, the SQL may begin one and end it, in this call or in a later
    /// one. Until then it is treated like a transaction that sqlx began, and it is rolled back if the connection is dropped. On
    /// Postgres, SQL that begins or ends a transaction costs one more round trip.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if the database refuses a statement. [`Error::TransactionControl`] if the SQL begins or ends a
    /// transaction or savepoint inside a transaction of this library. Inside a transaction, either error marks the transaction
    /// as failed, so that it can only be rolled back.
    pub async fn execute(&mut self, sql: impl SqlSafeStr) -> Result<u64> {
        self.execute_all(sql.into_sql_str()).await
    }

    /// Builds a statement with arguments, see [`RawQuery`].
    pub fn query(&mut self, sql: impl SqlSafeStr) -> RawQuery<'_> {
        let kind = self.kind();
        RawQuery::new(self.reborrow().into(), kind, sql.into_sql_str())
    }

    pub(crate) async fn execute_all(&mut self, sql: SqlStr) -> Result<u64> {
        let controls = self.check_raw(sql.as_str())?;
        let alters = sql_scan::alters(self.kind(), sql.as_str());
        self.ensure_connected().await?;
        self.before_raw(controls, alters);
        let result = Execution::plain(self.connected(), sql).run_to_end(&mut |_| ()).await;
        let result = self.note_result(result).await;
        self.after_raw(controls).await;
        result
    }

    /// Runs a statement that the application wrote, and passes its rows to `sink`.
    pub(crate) async fn run_raw(&mut self, statement: Statement, sink: Sink<'_>) -> Result<u64> {
        let controls = self.check_raw(statement.sql.as_str())?;
        let alters = sql_scan::alters(self.kind(), statement.sql.as_str());
        self.ensure_connected().await?;
        self.before_raw(controls, alters);
        let result = self.run_or_retry(statement, false, sink).await;
        let result = self.note_result(result).await;
        self.after_raw(controls).await;
        result
    }

    /// Runs a statement that this library wrote, and passes its rows to `sink`.
    pub(crate) async fn run(&mut self, statement: Statement, sink: Sink<'_>) -> Result<u64> {
        self.ensure_connected().await?;
        let result = self.run_or_retry(statement, false, sink).await;
        self.note_result(result).await
    }

    /// Runs a statement that returns at most one row.
    pub(crate) async fn run_one(&mut self, statement: Statement) -> Result<Option<AnyRow>> {
        self.ensure_connected().await?;
        let mut first = None;
        let sink = &mut |row| first = first.take().or(Some(row));
        let result = self.run_or_retry(statement, true, sink).await;
        self.note_result(result).await?;
        Ok(first)
    }

    /// As [`run_one`](Self::run_one), but builds the statement with `make`, once for each attempt.
    pub(crate) async fn read_one(&mut self, make: Make<'_>) -> Result<Option<AnyRow>> {
        self.ensure_connected().await?;
        let kind = self.kind();
        let mut first = None;
        let sink = &mut |row| first = first.take().or(Some(row));
        let result = match self.start(make(kind)?, true).run_to_end(sink).await {
            Err(error) if is_outdated(&error) => match self.prepare_again(error).await {
                Ok(()) => self.start(make(kind)?, true).run_to_end(sink).await,
                Err(error) => Err(error),
            },
            result => result,
        };
        self.note_result(result).await?;
        Ok(first)
    }

    /// Runs a statement, and runs it once more if its prepared statement turns out to be outdated.
    async fn run_or_retry(
        &mut self,
        statement: Statement,
        one: bool,
        sink: Sink<'_>,
    ) -> Result<u64, sqlx::Error> {
        let again = if self.naming() == Naming::Named { statement.again() } else { None };
        let result = self.start(statement, one).run_to_end(sink).await;
        match (result, again) {
            (Err(error), Some(again)) if is_outdated(&error) => {
                match self.prepare_again(error).await {
                    Ok(()) => self.start(again, one).run_to_end(sink).await,
                    Err(error) => Err(error),
                }
            }
            (result, _) => result,
        }
    }

    /// Clears the statement cache of the connection, after the database refused an outdated prepared statement with `error`.
    /// Returns `Ok` if the statement may be run again, and `error` otherwise. Inside a transaction, which the refused statement
    /// has aborted, the transaction is restarted; this is only possible if the statement was the first one in it.
    fn prepare_again(&mut self, error: sqlx::Error) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(async move {
            if let Some(lease) = self.lease_mut() {
                lease.set_outdated();
            }
            let Some(raw) = self.connected() else { return Err(error) };
            let cleared = on!(raw, DB, conn => {
                let conn: &mut <DB as sqlx::Database>::Connection = conn;
                sqlx::Connection::clear_cached_statements(conn).await
            });
            if self.note_answer(cleared).is_err() {
                // The lease stays outdated, so that the connection is closed when it is returned.
                return Err(error);
            }
            if let Some(lease) = self.lease_mut() {
                lease.set_forgotten();
            }
            let frame = self.state.frames.last();
            let unused = frame.map(|frame| !frame.used && frame.failed.is_none());
            let may_run = match unused {
                Some(unused) => unused && self.begin_again().await.is_ok(),
                None => {
                    self.depth_now() == 0 && !self.is_in_unknown_transaction().await.unwrap_or(true)
                }
            };
            if may_run { Ok(()) } else { Err(error) }
        })
    }

    /// On Postgres, the types of the columns that a statement without arguments returns. The statement is prepared, not executed.
    pub(crate) async fn types_of(&mut self, sql: String) -> Result<Vec<AnyType>> {
        self.ensure_connected().await?;
        // sqlx can only prepare named statements.
        if self.naming() != Naming::Named {
            return self.types_of_now(&sql).await;
        }
        let sql = AssertSqlSafe(sql).into_sql_str();
        let types = match self.connected() {
            #[cfg(feature = "postgres")]
            Some(RawConn::Postgres(conn)) => conn.prepare(sql).await.map(|statement| {
                let columns = statement.columns().iter();
                columns.map(|column| AnyType::Postgres(column.type_info().clone())).collect()
            }),
            _ => {
                drop(sql);
                Ok(Vec::new())
            }
        };
        self.note_result(types).await
    }

    /// As [`types_of`](Self::types_of), but bypasses the cache of prepared statements.
    pub(crate) async fn types_of_now(&mut self, sql: &str) -> Result<Vec<AnyType>> {
        // The LEFT JOIN returns one row of NULLs, so the types are known even if the table is empty.
        let sql = format!("SELECT _of.* FROM (SELECT) AS _one LEFT JOIN ({sql}) AS _of ON false");
        let statement = Statement::once(sql, Arguments::new(self.kind()));
        Ok(match self.run_one(statement).await? {
            #[cfg(feature = "postgres")]
            Some(AnyRow::Postgres(row)) => {
                let columns = row.columns().iter();
                columns.map(|column| AnyType::Postgres(column.type_info().clone())).collect()
            }
            _ => Vec::new(),
        })
    }

    /// Starts a statement, which returns at most one row if `one` is set. Call [`ensure_connected`](Self::ensure_connected) first,
    /// and pass the result to [`note_result`](Self::note_result).
    pub(crate) fn start(&mut self, statement: Statement, one: bool) -> Execution<'_> {
        let naming = self.naming();
        Execution::new(self.connected(), statement, one, naming)
    }

    /// Whether statements on the connection get a name.
    fn naming(&self) -> Naming {
        match &self.inner {
            MaybePooled::Pooled(slot) => slot.as_ref().map_or(Naming::Named, AnyLease::naming),
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(_) => Naming::Named,
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(conn) if Postgres::connection_keeps_statements(conn) => {
                Naming::Named
            }
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(_) => Naming::Unnamed { asks: true },
        }
    }

    /// Runs a statement that writes rows, and passes the rows that it returns to `sink`. `make` is called once for each attempt,
    /// because a retry on another connection needs its own arguments.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an `async fn` stores its arguments twice"
    )]
    pub(crate) fn write<'w>(
        &'w mut self,
        make: Make<'w>,
        one: bool,
        on_detached: &'w (dyn Fn() -> OnDetached + Send + Sync),
        sink: Sink<'w>,
    ) -> impl Future<Output = Result<u64>> + Send + use<'w, 'c> {
        async move {
            let mut outdated = false;
            loop {
                self.ensure_connected().await?;
                let (statement, mut answered) = (make(self.kind())?, false);
                let execution = self.start_write(statement, one, on_detached);
                let result = execution.run_noting_answer(sink, &mut answered).await;
                if answered && let Some(lease) = self.lease_mut() {
                    lease.set_proven_alive();
                }
                match self.note_answer(result) {
                    Ok(affected) => {
                        self.state.count_statement();
                        return Ok(affected);
                    }
                    Err(error) => self.retry(error, &mut outdated).await?,
                }
            }
        }
    }

    /// Returns `Ok` if a failed write may be run again: the prepared statement was outdated and was cleared, or the connection
    /// was dead and was replaced. Otherwise returns the error.
    fn retry<'r>(
        &'r mut self,
        error: sqlx::Error,
        outdated: &'r mut bool,
    ) -> BoxFuture<'r, Result<()>> {
        Box::pin(async move {
            let failed = if *outdated || !is_outdated(&error) {
                error
            } else {
                *outdated = true;
                match self.prepare_again(error).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            };
            match self.note_result(Err(failed)).await {
                Err(error) => self.reconnect(error, did_nothing).await,
                Ok(()) => Ok(()),
            }
        })
    }

    /// Replaces a dead connection by one that works. Returns `error` instead if the connection has answered since checkout, if
    /// a transaction is open, or if the failed statement may have had an effect.
    pub(crate) fn reconnect(
        &mut self,
        error: Error,
        did_nothing: impl FnOnce(&sqlx::Error) -> bool,
    ) -> BoxFuture<'_, Result<()>> {
        let unused = match &self.inner {
            MaybePooled::Pooled(slot) => {
                slot.as_ref().is_some_and(|lease| !lease.is_proven_alive())
            }
            _ => false,
        };
        let again = unused && self.state.frames.is_empty() && self.state.db.is_some();
        if !again || !matches!(&error, Error::Database(error) if did_nothing(error)) {
            return Box::pin(ready(Err(error)));
        }
        tracing::warn!(%error, "a connection had died before it was used: another one is taken");
        let limit = self.state.db.as_ref().map_or(Duration::MAX, Db::acquire_timeout);
        Box::pin(async move {
            match timeout(limit, self.take_another(error)).await {
                Ok(taken) => taken,
                Err(_) => {
                    // The server may have stopped answering on this connection too.
                    self.discard();
                    Err(sqlx::Error::PoolTimedOut.into())
                }
            }
        })
    }

    /// Tries other connections until one answers a ping. `last` is the error to return if none does.
    async fn take_another(&mut self, mut last: Error) -> Result<()> {
        for _ in 0..RECONNECT_ATTEMPTS {
            self.discard();
            self.ensure_connected().await?;
            self.set_in_flight();
            let ping = self.ping().await;
            match self.note_answer(ping) {
                Ok(()) => return Ok(()),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// As [`start`](Self::start), for a statement that writes rows. For [`Autocommit::DetachOnDrop`], the statement keeps running
    /// when its future is dropped, and `on_detached` handles its answer.
    fn start_write<'r>(
        &'r mut self,
        statement: Statement,
        one: bool,
        on_detached: &'r (dyn Fn() -> OnDetached + Send + Sync),
    ) -> Execution<'r> {
        let is_pooled = matches!(self.inner, MaybePooled::Pooled(_));
        if !is_pooled || self.state.autocommit != Autocommit::DetachOnDrop || self.in_transaction()
        {
            // Until the connection has answered, a failed statement may be sent again, but only if the server has not reported its
            // completion. The cheaper call for one row does not show that.
            let may_reconnect = self.lease_mut().is_some_and(|lease| !lease.is_proven_alive());
            return self.start(statement, one && !may_reconnect);
        }
        let MaybePooled::Pooled(slot) = &mut self.inner else { return Execution::NoConnection };
        let Some(lease) = slot.take() else { return Execution::NoConnection };
        Execution::DetachableStatement(DetachableStatement::new(
            lease,
            slot,
            &mut self.state.detached,
            (statement, one),
            on_detached,
        ))
    }

    pub(crate) fn lease_mut(&mut self) -> Option<&mut AnyLease> {
        match &mut self.inner {
            MaybePooled::Pooled(slot) => slot.as_mut(),
            _ => None,
        }
    }

    /// Records that a statement is in flight. If it still is when the connection is returned, the pool has to check the
    /// connection.
    pub(crate) fn set_in_flight(&mut self) {
        self.state.in_flight = true;
        if let Some(lease) = self.lease_mut() {
            lease.set_in_flight();
        }
    }

    /// Records that the application uses the sqlx connection directly.
    pub(crate) fn set_used_raw(&mut self) {
        if let Some(lease) = self.lease_mut() {
            lease.set_used_raw();
        }
    }

    /// Records that no statement is in flight, if `result` shows that the database has answered.
    pub(crate) fn note_answer<T>(
        &mut self,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.state.in_flight &= !is_answered(&result);
        if let Some(lease) = self.lease_mut() {
            lease.note_answer(&result);
        }
        result
    }

    /// Records the result of a statement. A failed statement marks the transaction as failed.
    pub(crate) async fn note_result<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T> {
        let result = self.note_answer(result);
        self.state.count_statement();
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                if !self.state.frames.is_empty() {
                    self.state.fail(|| Reason::of_statement(&error));
                    Box::pin(self.keep_in_transaction()).await;
                }
                Err(if is_outdated(&error) { Error::SchemaChanged(error) } else { error.into() })
            }
        }
    }

    /// Whether this library has a transaction open on the connection.
    pub(crate) fn in_transaction(&self) -> bool {
        !self.state.frames.is_empty()
    }

    /// Whether the connection is in a transaction that was not begun through this library, so that its end is not observed.
    pub(crate) async fn in_foreign_transaction(&mut self) -> Result<bool> {
        if self.in_transaction() {
            return Ok(self.state.foreign);
        }
        self.verify().await?;
        Ok(self.depth().await > 0 || self.is_in_unknown_transaction().await?)
    }

    /// Checks out a connection again if the last one was lost or moved out, and verifies the transaction.
    pub(crate) async fn ensure_connected(&mut self) -> Result<()> {
        if let MaybePooled::Pooled(slot) = &mut self.inner
            && slot.is_none()
        {
            if let Some(frame) = self.state.frames.last() {
                let reason =
                    frame.failed.clone().unwrap_or_else(|| "its connection was lost".into());
                return Err(Error::RolledBack { reason });
            }
            if let Some(db) = &self.state.db {
                chain::check_not_held(db.pool_id())?;
                **slot = Some(db.checkout().await?);
            }
        }
        if self.in_transaction() { self.verify().await } else { Ok(()) }
    }

    /// The sqlx connection, for a statement that is in flight from now on.
    pub(crate) fn connected(&mut self) -> Option<RawConn<'_>> {
        self.set_in_flight();
        self.raw()
    }

    /// The sqlx connection; `None` if the pooled connection was lost or moved out.
    pub(crate) fn raw(&mut self) -> Option<RawConn<'_>> {
        match &mut self.inner {
            MaybePooled::Pooled(slot) => slot.as_mut().and_then(AnyLease::raw),
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(conn) => Some(RawConn::Sqlite(conn)),
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(conn) => Some(RawConn::Postgres(conn)),
        }
    }
}

impl std::fmt::Debug for Conn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("kind", &self.kind())
            .field("transactions", &self.state.frames.len())
            .finish()
    }
}
