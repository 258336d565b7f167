//! A connection: where it comes from, and what is known about the statement and the transaction on it.

mod answers;

use futures_util::future::{BoxFuture, Either, Ready};
#[cfg(feature = "postgres")]
use sqlx::PgConnection;
use sqlx::SqlSafeStr;
#[cfg(feature = "sqlite")]
use sqlx::SqliteConnection;
use tokio::runtime::Handle;

use crate::database::backend::DatabaseKind;
use crate::database::db::Db;
use crate::database::lease::AnyLease;
use crate::database::raw::{MaybeOwned, MaybePooled, RawConn};
use crate::database::schema_cache::SchemaCache;
use crate::database::sql::RawQuery;
use crate::database::state::{StateSlot, TransactionState};
use crate::error::Result;

/// Work that is rarely necessary. Only then is there a future on the heap, so that each statement polls one future less, and the futures
/// of statements are small.
pub(crate) type UsuallyReady<'c, T = ()> = Either<Ready<Result<T>>, BoxFuture<'c, Result<T>>>;

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
    pub(crate) state: StateSlot<'c>,
}

impl<'c> Conn<'c> {
    pub(crate) fn pooled(lease: AnyLease, db: Db) -> Self {
        Self::with_lease(Some(lease), db)
    }

    /// `lease` must not be `None`. It is an `Option` so that it is not moved once more.
    pub(crate) fn with_lease(lease: Option<AnyLease>, db: Db) -> Self {
        let inner = MaybePooled::Pooled(MaybeOwned::Owned(lease));
        Self { inner, state: StateSlot::Owned(TransactionState::new(Some(db))) }
    }

    /// The connection of a transaction that the program has begun with sqlx.
    pub(crate) fn adopted(lease: AnyLease) -> Self {
        Self::without_db(MaybePooled::Pooled(MaybeOwned::Owned(Some(lease))))
    }

    fn without_db(inner: MaybePooled<'c>) -> Self {
        Self { inner, state: StateSlot::Owned(TransactionState::default()) }
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn sqlite_only(conn: &'c mut SqliteConnection) -> Self {
        Self::without_db(MaybePooled::Sqlite(conn))
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres_only(conn: &'c mut PgConnection) -> Self {
        Self::without_db(MaybePooled::Postgres(conn))
    }

    /// Moves the connection out of `self`, which must not be used afterwards.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::without_db(MaybePooled::Pooled(MaybeOwned::Owned(None))))
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
        Conn { inner, state: StateSlot::Borrowed(&mut self.state, None) }
    }

    /// Moves the connection and its transaction state out of `self`, so that they can go to another task. Returns `None` if the
    /// connection does not come from a pool.
    pub(crate) fn detach(&mut self) -> Option<Conn<'static>> {
        let MaybePooled::Pooled(slot) = &mut self.inner else {
            return None;
        };
        let mut lease = slot.take()?;
        if let Some(turn) = self.state.turn().and_then(Option::take) {
            lease.state_mut().turn = Some(turn);
        }
        // `self` keeps the `Db`, from which it takes another connection if it is used again.
        let db = self.state.db.clone();
        let state = std::mem::replace(&mut *self.state, TransactionState::new(db));
        let inner = MaybePooled::Pooled(MaybeOwned::Owned(Some(lease)));
        Some(Conn { inner, state: StateSlot::Owned(state) })
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
            MaybePooled::Pooled(slot) => slot.as_ref()?.state().runtime.clone(),
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
    ///
    /// See the example of [`DatabaseKind`].
    pub fn kind(&self) -> DatabaseKind {
        match &self.inner {
            MaybePooled::Pooled(_) => match &self.state.db {
                Some(db) => db.kind(),
                None => self.adopted_kind(),
            },
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(_) => DatabaseKind::Sqlite,
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(_) => DatabaseKind::Postgres,
        }
    }

    /// The database of an adopted transaction, whose connection has no `Db`.
    fn adopted_kind(&self) -> DatabaseKind {
        let kind = self.state.frames.first().and_then(|frame| frame.adopted);
        let kind = kind.or_else(|| match &self.inner {
            MaybePooled::Pooled(slot) => slot.as_ref().map(AnyLease::kind),
            _ => None,
        });
        kind.expect("a connection of a pool has a `Db`, and an adopted one a transaction")
    }

    /// The sqlx connection, or `None` on Postgres.
    ///
    /// It is the same connection in the same transaction. For a save that is given the sqlx connection, this library only sees
    /// that a transaction is open, and does not observe its end. A model with `on_commit` receivers therefore cannot be saved
    /// through it.
    ///
    /// If SQL on the sqlx connection ends the transaction of this library, the next statement of this library, or the commit,
    /// returns [`Error::RolledBack`](crate::Error::RolledBack). So it does if a savepoint of sqlx is left open.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// use sqlx_signals::sqlx;
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// let mut tx = db.begin().await?;
    /// tx.execute("CREATE TABLE city (name TEXT NOT NULL)").await?;
    /// let conn = tx.sqlite().expect("a SQLite database");
    /// sqlx::query("INSERT INTO city VALUES ('Ulm')").execute(conn).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
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
    /// `SHOW` first. This detects that a statement has failed, that SQL has ended the transaction, that a `begin` of sqlx has failed or
    /// was dropped, or that a savepoint of sqlx is left open. In each case the transaction is marked as failed, and the commit returns
    /// [`Error::RolledBack`](crate::Error::RolledBack).
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
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// let mut conn = db.acquire().await?;
    /// conn.execute("CREATE TABLE city (name TEXT NOT NULL)").await?;
    /// assert_eq!(conn.execute("INSERT INTO city VALUES ('Ulm'), ('Bonn')").await?, 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database) if the database refuses a statement.
    /// [`Error::TransactionControl`](crate::Error::TransactionControl) if the SQL begins or ends a
    /// transaction or savepoint inside a transaction of this library. Inside a transaction, either error marks the transaction
    /// as failed, so that it can only be rolled back.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the SQL may have run or not. An enclosing transaction stays open, unless the SQL has ended it: the
    /// next statement of this library verifies that.
    pub async fn execute(&mut self, sql: impl SqlSafeStr) -> Result<u64> {
        self.execute_all(sql.into_sql_str()).await
    }

    /// Builds a statement with arguments, see [`RawQuery`].
    ///
    /// See the example of [`Conn`].
    pub fn query(&mut self, sql: impl SqlSafeStr) -> RawQuery<'_> {
        let kind = self.kind();
        RawQuery::new(self.reborrow().into(), kind, sql.into_sql_str())
    }

    /// Whether this library has a transaction open on the connection.
    pub(crate) fn in_transaction(&self) -> bool {
        !self.state.frames.is_empty()
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
