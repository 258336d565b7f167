use crate::database::state::Autocommit;
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
use crate::database::state::TransactionState;
use crate::error::driver::{did_nothing, is_answered, is_outdated};
use crate::error::{Error, Reason, Result};
use crate::task::chain;

/// How many connections are tried in place of one that had died.
const RECONNECT_ATTEMPTS: usize = 16;

/// A connection to one of the databases, with what it knows of the transaction that it is in.
///
/// A receiver that runs inside the transaction gets the connection of the save itself as `conn: &mut Conn<'_>`;
/// [`Db::acquire`] gives one from the pool.
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
    pub(crate) link: MaybePooled<'c>,
    pub(crate) state: MaybeOwned<'c, TransactionState>,
}

impl<'c> Conn<'c> {
    pub(crate) fn pooled(pooled: AnyLease, db: Db) -> Self {
        let link = MaybePooled::Pooled(MaybeOwned::Owned(Some(pooled)));
        Self { link, state: MaybeOwned::Owned(TransactionState::new(Some(db))) }
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn sqlite_only(conn: &'c mut SqliteConnection) -> Self {
        Self {
            link: MaybePooled::Sqlite(conn),
            state: MaybeOwned::Owned(TransactionState::default()),
        }
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres_only(conn: &'c mut PgConnection) -> Self {
        Self {
            link: MaybePooled::Postgres(conn),
            state: MaybeOwned::Owned(TransactionState::default()),
        }
    }

    /// What is left where the connection was moved on.
    pub(crate) fn disconnected() -> Self {
        Self {
            link: MaybePooled::Pooled(MaybeOwned::Owned(None)),
            state: MaybeOwned::Owned(TransactionState::default()),
        }
    }

    /// The same connection for a shorter time.
    pub(crate) fn reborrow(&mut self) -> Conn<'_> {
        let link = match &mut self.link {
            MaybePooled::Pooled(slot) => MaybePooled::Pooled(MaybeOwned::Borrowed(&mut **slot)),
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(conn) => MaybePooled::Sqlite(conn),
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(conn) => MaybePooled::Postgres(conn),
        };
        Conn { link, state: MaybeOwned::Borrowed(&mut *self.state) }
    }

    /// Takes the connection and all that is known of its transaction out of this one, where it comes from a pool.
    pub(crate) fn detach(&mut self) -> Option<Conn<'static>> {
        let MaybePooled::Pooled(slot) = &mut self.link else {
            return None;
        };
        let pooled = slot.take()?;
        // The database stays, for a connection that is asked for again.
        let db = self.state.db.clone();
        let state = std::mem::replace(&mut *self.state, TransactionState::new(db));
        let link = MaybePooled::Pooled(MaybeOwned::Owned(Some(pooled)));
        Some(Conn { link, state: MaybeOwned::Owned(state) })
    }

    /// Whether a connection that was detached has somebody to come back to.
    pub(crate) fn is_borrowed(&self) -> bool {
        !matches!(self.link, MaybePooled::Pooled(MaybeOwned::Owned(_)))
    }

    pub(crate) fn reattach(&mut self, mut other: Conn<'static>) {
        if let (MaybePooled::Pooled(slot), MaybePooled::Pooled(other)) =
            (&mut self.link, &mut other.link)
        {
            **slot = other.take();
        }
        std::mem::swap(&mut *self.state, &mut *other.state);
    }

    /// Nobody knows what the connection has done. On Postgres sqlx would now undo the wrong savepoint, or hand the error
    /// of one statement to the next, so that nothing but the end of the connection helps; SQLite's worker keeps count,
    /// and only what is around must not be committed.
    pub(crate) fn abandon(&mut self, reason: &str) {
        match self.kind() {
            DatabaseKind::Sqlite => self.state.fail(|| reason.into()),
            DatabaseKind::Postgres => {
                self.state.fail_all(reason);
                self.discard();
            }
        }
    }

    /// The runtime that the connection was taken in, where it comes from a pool.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        match &self.link {
            MaybePooled::Pooled(slot) => slot.as_ref()?.runtime().cloned(),
            _ => None,
        }
    }

    /// Closes a pooled connection whose transaction nobody can end any more.
    pub(crate) fn discard(&mut self) {
        if let MaybePooled::Pooled(slot) = &mut self.link
            && let Some(pooled) = slot.take()
        {
            pooled.close();
        }
    }

    /// Which database this is.
    pub fn kind(&self) -> DatabaseKind {
        match &self.link {
            MaybePooled::Pooled(slot) => match (&**slot, &self.state.db) {
                #[cfg(feature = "sqlite")]
                (Some(AnyLease::Sqlite(_)), _) => DatabaseKind::Sqlite,
                #[cfg(feature = "postgres")]
                (Some(AnyLease::Postgres(_)), _) => DatabaseKind::Postgres,
                (None, Some(db)) => db.kind(),
                (None, None) => unreachable!("a connection of a pool knows its pool"),
            },
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(_) => DatabaseKind::Sqlite,
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(_) => DatabaseKind::Postgres,
        }
    }

    /// sqlx's connection, where this is SQLite.
    ///
    /// It is the same connection and the same transaction. Of a save through it, this library sees only that it is in
    /// a transaction of somebody's: a model with `on_commit` receivers is refused there.
    /// SQL through it that ends this library's transaction is detected before the next statement or the commit, which then
    /// returns [`Error::RolledBack`].
    #[cfg(feature = "sqlite")]
    pub fn sqlite(&mut self) -> Option<&mut SqliteConnection> {
        if self.kind() != DatabaseKind::Sqlite {
            return None;
        }
        self.before_hand_out();
        match self.raw()? {
            RawConn::Sqlite(conn) => Some(conn),
            #[cfg(feature = "postgres")]
            RawConn::Postgres(_) => None,
        }
    }

    /// sqlx's connection, where this is Postgres.
    ///
    /// It is the same connection and the same transaction. Of a save through it, this library sees only that it is in
    /// a transaction of somebody's: a model with `on_commit` receivers is refused there. Inside a transaction, this call
    /// sends a `SET LOCAL`, and the next statement of this library or the commit is preceded by a `SHOW`, which detects that a
    /// statement has failed or that SQL has ended the transaction; the result is then [`Error::RolledBack`].
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
        self.before_hand_out();
        match self.raw()? {
            RawConn::Postgres(conn) => Some(conn),
            #[cfg(feature = "sqlite")]
            RawConn::Sqlite(_) => None,
        }
    }

    /// What is known of the tables of the database.
    pub(crate) fn facts(&mut self) -> &SchemaCache {
        if let Some(altering) = self.state.altering.take() {
            if self.in_transaction() {
                altering.forget();
                self.state.altering = Some(altering);
            } else {
                drop(altering);
            }
        }
        match &self.state.db {
            Some(db) => db.facts(),
            None => SchemaCache::without_db(self.kind()),
        }
    }

    /// Runs SQL as it stands: one statement or several, without arguments. Returns the number of rows affected.
    ///
    /// Outside a transaction of this library, the SQL may begin one and end it, here or later on the same connection. In
    /// between it is treated as a transaction of sqlx's own, and it is rolled back if the connection is dropped. On Postgres,
    /// SQL that begins or ends a transaction costs one more round trip.
    ///
    /// # Errors
    ///
    /// What the database refuses; [`Error::TransactionControl`] for SQL that begins or ends a transaction or savepoint inside
    /// a transaction of this library. In a transaction both mark it: it can only be rolled back.
    pub async fn execute(&mut self, sql: impl SqlSafeStr) -> Result<u64> {
        self.execute_all(sql.into_sql_str()).await
    }

    /// A statement with arguments, see [`RawQuery`].
    pub fn query(&mut self, sql: impl SqlSafeStr) -> RawQuery<'_> {
        let kind = self.kind();
        RawQuery::new(self.reborrow().into(), kind, sql.into_sql_str())
    }

    pub(crate) async fn execute_all(&mut self, sql: SqlStr) -> Result<u64> {
        let controls = self.check_raw(sql.as_str())?;
        let alters = sql_scan::alters(self.kind(), sql.as_str());
        self.ensure_connected().await?;
        self.before_raw(controls, alters);
        let done = Execution::plain(self.connected(), sql).run_to_end(&mut |_| ()).await;
        let done = self.note_result(done).await;
        self.after_raw(controls).await;
        done
    }

    /// Runs a statement of the program to its end, and gives its rows to `sink`.
    pub(crate) async fn run_raw(&mut self, statement: Statement, sink: Sink<'_>) -> Result<u64> {
        let controls = self.check_raw(statement.sql.as_str())?;
        let alters = sql_scan::alters(self.kind(), statement.sql.as_str());
        self.ensure_connected().await?;
        self.before_raw(controls, alters);
        let done = self.perform(statement, false, sink).await;
        let done = self.note_result(done).await;
        self.after_raw(controls).await;
        done
    }

    /// Runs a statement to its end, and gives its rows to `sink`.
    pub(crate) async fn run(&mut self, statement: Statement, sink: Sink<'_>) -> Result<u64> {
        self.ensure_connected().await?;
        let done = self.perform(statement, false, sink).await;
        self.note_result(done).await
    }

    /// Runs a statement of at most one row to its end.
    pub(crate) async fn run_one(&mut self, statement: Statement) -> Result<Option<AnyRow>> {
        self.ensure_connected().await?;
        let mut first = None;
        let sink = &mut |row| first = first.take().or(Some(row));
        let done = self.perform(statement, true, sink).await;
        self.note_result(done).await?;
        Ok(first)
    }

    /// As [`run_one`](Self::run_one), of a statement that can be made again.
    pub(crate) async fn read_one(&mut self, make: Make<'_>) -> Result<Option<AnyRow>> {
        self.ensure_connected().await?;
        let kind = self.kind();
        let mut first = None;
        let sink = &mut |row| first = first.take().or(Some(row));
        let done = match self.start(make(kind)?, true).run_to_end(sink).await {
            Err(error) if is_outdated(&error) => match self.prepare_again(error).await {
                Ok(()) => self.start(make(kind)?, true).run_to_end(sink).await,
                Err(error) => Err(error),
            },
            done => done,
        };
        self.note_result(done).await?;
        Ok(first)
    }

    /// Runs a statement to its end, once more if it was prepared before a table changed.
    async fn perform(
        &mut self,
        statement: Statement,
        one: bool,
        sink: Sink<'_>,
    ) -> Result<u64, sqlx::Error> {
        let again = if self.naming() == Naming::Named { statement.again() } else { None };
        let done = self.start(statement, one).run_to_end(sink).await;
        match (done, again) {
            (Err(error), Some(again)) if is_outdated(&error) => {
                match self.prepare_again(error).await {
                    Ok(()) => self.start(again, one).run_to_end(sink).await,
                    Err(error) => Err(error),
                }
            }
            (done, _) => done,
        }
    }

    /// Has the connection prepare its statements again, one of which was refused with this `error` and did nothing. In a
    /// transaction, which the database has aborted, that is still the error, unless nothing else was run in it.
    fn prepare_again(&mut self, error: sqlx::Error) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(async move {
            if let Some(pooled) = self.lease_mut() {
                pooled.set_outdated();
            }
            let Some(raw) = self.connected() else { return Err(error) };
            let forgotten = on!(raw, DB, conn => {
                let conn: &mut <DB as sqlx::Database>::Connection = conn;
                sqlx::Connection::clear_cached_statements(conn).await
            });
            if self.note_answer(forgotten).is_err() {
                // What is not forgotten is closed with the connection.
                return Err(error);
            }
            if let Some(pooled) = self.lease_mut() {
                pooled.set_forgotten();
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

    /// The types of the columns that a statement without arguments returns, on Postgres. It is not run.
    pub(crate) async fn types_of(&mut self, sql: String) -> Result<Vec<AnyType>> {
        self.ensure_connected().await?;
        // sqlx can prepare no statement without a name.
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

    /// As [`types_of`](Self::types_of), but never from the cache of prepared statements.
    pub(crate) async fn types_of_now(&mut self, sql: &str) -> Result<Vec<AnyType>> {
        // One row of NULLs, which has the types of an empty table too.
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

    /// Starts a statement on a connection that is [`ready`](Self::ready), of at most `one` row, or of several.
    /// [`done`](Self::done) is to be told how it ended.
    pub(crate) fn start(&mut self, statement: Statement, one: bool) -> Execution<'_> {
        let naming = self.naming();
        Execution::new(self.connected(), statement, one, naming)
    }

    /// How statements are prepared on the connection.
    fn naming(&self) -> Naming {
        match &self.link {
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

    /// Runs a statement that writes rows to its end, and gives what it returns to `sink`. It is made for each connection that
    /// it is tried on.
    #[expect(
        clippy::manual_async_fn,
        reason = "the arguments of an `async fn` are in its future twice"
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
                let running = self.start_write(statement, one, on_detached);
                let done = running.run_noting_answer(sink, &mut answered).await;
                if answered && let Some(pooled) = self.lease_mut() {
                    pooled.set_proven_alive();
                }
                match self.note_answer(done) {
                    Ok(affected) => {
                        self.state.count_statement();
                        return Ok(affected);
                    }
                    Err(error) => self.retry(error, &mut outdated).await?,
                }
            }
        }
    }

    /// Whether a write that failed can run once more: if it was prepared before a table changed, or if the connection was dead.
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

    /// Takes a connection that lives, where this one had died before it was used, and so whatever was begun on it. Else it is
    /// an error.
    pub(crate) fn reconnect(
        &mut self,
        error: Error,
        did_nothing: impl FnOnce(&sqlx::Error) -> bool,
    ) -> BoxFuture<'_, Result<()>> {
        let unused = match &self.link {
            MaybePooled::Pooled(slot) => {
                slot.as_ref().is_some_and(|pooled| !pooled.is_proven_alive())
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
                    // Perhaps it is the peer of this one that does not answer.
                    self.discard();
                    Err(sqlx::Error::PoolTimedOut.into())
                }
            }
        })
    }

    /// Takes connections in place of this one until one of them answers a ping; `last` is why this one is of no use.
    async fn take_another(&mut self, mut last: Error) -> Result<()> {
        for _ in 0..RECONNECT_ATTEMPTS {
            self.discard();
            self.ensure_connected().await?;
            self.set_in_flight();
            let lives = self.ping().await;
            match self.note_answer(lives) {
                Ok(()) => return Ok(()),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// As [`start`](Self::start), for a statement that writes rows. Where there are receivers behind it that must not be
    /// lost, it goes on without its caller, and `on_detached` handles what it returns.
    fn start_write<'r>(
        &'r mut self,
        statement: Statement,
        one: bool,
        on_detached: &'r (dyn Fn() -> OnDetached + Send + Sync),
    ) -> Execution<'r> {
        let pooled = matches!(self.link, MaybePooled::Pooled(_));
        if !pooled || self.state.autocommit != Autocommit::DetachOnDrop || self.in_transaction() {
            // Until the connection has answered, the statement may be sent again, and what is cheaper for one row hides
            // that the server has said that it is through.
            let may_reconnect = self.lease_mut().is_some_and(|pooled| !pooled.is_proven_alive());
            return self.start(statement, one && !may_reconnect);
        }
        let MaybePooled::Pooled(slot) = &mut self.link else { return Execution::NoConnection };
        let Some(pooled) = slot.take() else { return Execution::NoConnection };
        Execution::DetachableStatement(DetachableStatement::new(
            pooled,
            slot,
            &mut self.state.detached,
            (statement, one),
            on_detached,
        ))
    }

    pub(crate) fn lease_mut(&mut self) -> Option<&mut AnyLease> {
        match &mut self.link {
            MaybePooled::Pooled(slot) => slot.as_mut(),
            _ => None,
        }
    }

    /// A statement is under way. Where it is still so when the connection goes back, its pool has to look at it.
    pub(crate) fn set_in_flight(&mut self) {
        self.state.in_flight = true;
        if let Some(pooled) = self.lease_mut() {
            pooled.set_in_flight();
        }
    }

    /// Others than this library use the connection.
    pub(crate) fn set_used_raw(&mut self) {
        if let Some(pooled) = self.lease_mut() {
            pooled.set_used_raw();
        }
    }

    /// A statement is through, where the database has said so.
    pub(crate) fn note_answer<T>(
        &mut self,
        done: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.state.in_flight &= !is_answered(&done);
        if let Some(pooled) = self.lease_mut() {
            pooled.note_answer(&done);
        }
        done
    }

    /// Takes note of how a statement of ours ended.
    pub(crate) async fn note_result<T>(&mut self, done: Result<T, sqlx::Error>) -> Result<T> {
        let done = self.note_answer(done);
        self.state.count_statement();
        match done {
            Ok(done) => Ok(done),
            Err(error) => {
                if !self.state.frames.is_empty() {
                    self.state.fail(|| Reason::of_statement(&error));
                    Box::pin(self.keep_in_transaction()).await;
                }
                Err(if is_outdated(&error) { Error::SchemaChanged(error) } else { error.into() })
            }
        }
    }

    /// Whether this is in a transaction of ours.
    pub(crate) fn in_transaction(&self) -> bool {
        !self.state.frames.is_empty()
    }

    /// Whether this is in a transaction that was not begun through this library, whose end we do not see.
    pub(crate) async fn in_foreign_transaction(&mut self) -> Result<bool> {
        if self.in_transaction() {
            return Ok(self.state.foreign);
        }
        self.verify().await?;
        Ok(self.depth().await > 0 || self.is_in_unknown_transaction().await?)
    }

    /// Takes a connection from the pool again where the slot is empty.
    pub(crate) async fn ensure_connected(&mut self) -> Result<()> {
        if let MaybePooled::Pooled(slot) = &mut self.link
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

    /// The connection, for a statement that is under way from here on.
    pub(crate) fn connected(&mut self) -> Option<RawConn<'_>> {
        self.set_in_flight();
        self.raw()
    }

    pub(crate) fn raw(&mut self) -> Option<RawConn<'_>> {
        match &mut self.link {
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
