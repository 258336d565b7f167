//! `Db`: a connection pool, with the values that receivers get.

mod pool;

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(feature = "postgres")]
use sqlx::PgPool;
use sqlx::SqlSafeStr;
#[cfg(feature = "sqlite")]
use sqlx::SqlitePool;

use crate::database::backend::{Backend, DatabaseKind, on};
use crate::database::conn::Conn;
use crate::database::options::DbOptions;
use crate::database::schema_cache::SchemaCache;
use crate::database::source::Source;
use crate::database::sql::RawQuery;
use crate::database::values::Layers;
use crate::error::Result;
use crate::task::chain;
use crate::task::tracked;

use pool::{Pool, shared};

/// A connection pool for SQLite or PostgreSQL. Clones are cheap and share the pool.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let rows = db.query("INSERT INTO city (name) VALUES ($1)").bind("Ulm").execute().await?;
/// assert_eq!(rows, 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
    pub(crate) state: Layers,
    facts: Arc<SchemaCache>,
}

impl Db {
    /// Connects to a database with a `sqlite:…` or `postgres://…` URL in sqlx's format.
    ///
    /// A missing SQLite file is created, unless the URL has a `mode`. SQLite connections use
    /// [WAL](https://www.sqlite.org/wal.html), foreign keys and a busy timeout of five seconds. `sqlite::memory:` is
    /// one database on one connection.
    ///
    /// A connection is only pinged before use if it was idle for at least one second. If a write finds a dead
    /// connection before anything was executed, it is repeated on another connection, and so are raw SQL and a read of a model within a
    /// second. A connection that refuses a write because its server has become a standby is closed afterwards.
    ///
    /// For other settings, use [`Db::options`], or create the pool with sqlx and use [`Db::from`].
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::connect("sqlite::memory:").await?;
    /// db.execute("CREATE TABLE city (name TEXT NOT NULL)").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::CannotConnect`](crate::Error::CannotConnect), which says what is wrong with the URL or the database. If nothing listens at the address, the call
    /// tries for 30 seconds, because the database may be starting.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the connections that were opened so far are closed.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::options().connect(url).await
    }

    /// Options for [`connect`](DbOptions::connect), such as the size of the pool and how long to wait for a connection.
    ///
    /// See the example of [`DbOptions`].
    pub fn options() -> DbOptions {
        DbOptions::new()
    }

    /// The kind of the database.
    ///
    /// See the example of [`DatabaseKind`].
    pub fn kind(&self) -> DatabaseKind {
        on!(Pool, &self.pool, DB, _ => DB::KIND)
    }

    /// Returns a `Db` on the same pool with one more value, which receivers take as [`State<T>`](crate::State). If there are
    /// several values of one type, receivers get the newest. The call is cheap enough to add values for each request.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// #[derive(Clone)]
    /// struct Greeting(&'static str);
    ///
    /// #[receiver(post_save, sender = City)]
    /// fn greet(saved: PostSave<'_, City>, State(Greeting(greeting)): State<Greeting>) {
    ///     println!("{greeting}, {}", saved.instance.name);
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let db = db.with(Greeting("Welcome"));
    /// City { id: None, name: "Ulm".into() }.save(&db).await?;
    /// assert_eq!(db.state::<Greeting>().unwrap().0, "Welcome");
    /// # Ok(()) }
    /// ```
    #[must_use = "only the returned `Db` has the value"]
    pub fn with<T: Clone + Send + Sync + 'static>(&self, value: T) -> Self {
        Self { state: self.state.with(value), ..self.clone() }
    }

    /// The newest value of type `T` that was added by [`with`](Self::with).
    ///
    /// See the example of [`with`](Self::with).
    pub fn state<T: 'static>(&self) -> Option<&T> {
        self.state.get()
    }

    /// Takes a connection from the pool. Dropping it returns it to the pool.
    ///
    /// See the example of [`Conn`].
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database) if the pool has no connection in time. [`Error::WouldDeadlock`](crate::Error::WouldDeadlock) if the caller is a receiver that
    /// already has a connection of this pool.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no connection is taken from the pool.
    pub async fn acquire(&self) -> Result<Conn<'static>> {
        chain::check_not_held(self.pool_id())?;
        Ok(Conn::pooled(self.checkout().await?, self.clone()))
    }

    /// Runs one or several SQL statements without arguments. Returns the number of rows affected.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// db.execute("CREATE TABLE city (name TEXT NOT NULL); INSERT INTO city VALUES ('Ulm')").await?;
    /// assert_eq!(db.execute("DELETE FROM city").await?, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`acquire`](Self::acquire), and [`Error::Database`](crate::Error::Database) if the database refuses a statement.
    /// [`Error::RolledBack`](crate::Error::RolledBack) if the SQL begins a transaction and does not end it. The transaction is rolled
    /// back. If a statement failed too, its error is returned instead.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the SQL may have run or not. A transaction that it left open is rolled back before the
    /// connection is used again.
    pub async fn execute(&self, sql: impl SqlSafeStr) -> Result<u64> {
        let mut conn = self.acquire().await?;
        let result = conn.execute_all(sql.into_sql_str()).await;
        conn.end_raw(result).await
    }

    /// Builds a statement with arguments, see [`RawQuery`].
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// let (sum,): (i64,) = db.query("SELECT $1 + $2").bind(1_i64).bind(2_i64).fetch_one().await?;
    /// assert_eq!(sum, 3);
    /// # Ok(()) }
    /// ```
    pub fn query(&self, sql: impl SqlSafeStr) -> RawQuery<'_> {
        RawQuery::new(Source::Db(Cow::Borrowed(self)), self.kind(), sql.into_sql_str())
    }

    /// The sqlx pool, or `None` on Postgres. This has no effect on the speed of the `Db`.
    ///
    /// A `Db` keeps idle connections outside of the sqlx pool, because sqlx pings each connection that is returned to its pool. If
    /// all connections of the pool are in use, the `Db` gives them back within milliseconds, so that a caller of the pool does not
    /// wait for a connection that is only kept ready.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// use sqlx_signals::sqlx;
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// let pool = db.sqlite().expect("a SQLite database");
    /// let two: i64 = sqlx::query_scalar("SELECT 1 + 1").fetch_one(pool).await?;
    /// assert_eq!(two, 2);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "sqlite")]
    pub fn sqlite(&self) -> Option<&SqlitePool> {
        match &self.pool {
            Pool::Sqlite(pool) => Some(shared(pool)),
            #[cfg(feature = "postgres")]
            Pool::Postgres(_) => None,
        }
    }

    /// The sqlx pool, or `None` on SQLite. From the first call on, one more round trip is needed whenever the `Db` takes a connection from
    /// the sqlx pool, because the program may have left a transaction open on it. That is not needed for each write.
    ///
    /// A `Db` keeps idle connections outside of the sqlx pool, because sqlx pings each connection that is returned to its pool. If
    /// all connections of the pool are in use, the `Db` gives them back within milliseconds, so that a caller of the pool does not
    /// wait for a connection that is only kept ready.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// use sqlx_signals::sqlx;
    ///
    /// # async fn example(db: Db) -> Result<()> {
    /// if let Some(pool) = db.postgres() {
    ///     sqlx::query("VACUUM").execute(pool).await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "postgres")]
    pub fn postgres(&self) -> Option<&PgPool> {
        match &self.pool {
            Pool::Postgres(pool) => Some(shared(pool)),
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_) => None,
        }
    }

    /// Waits for the work that continues on tasks of its own, then closes the pool and waits until its connections are closed.
    ///
    /// Such work is: `on_commit(detached)` receivers, and the commits and receivers of calls whose future was dropped, for example
    /// because an HTTP client has disconnected. It can use the `Db` to the end. Call this at the end of `main`, after the server has
    /// stopped: when the runtime shuts down, the tasks that are still running are dropped.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use std::time::Duration;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::connect("sqlite::memory:").await?;
    /// # async fn serve(_: Db) {}
    /// serve(db.clone()).await;
    /// if tokio::time::timeout(Duration::from_secs(30), db.close()).await.is_err() {
    ///     eprintln!("receivers are still running");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// The wait covers every `Db` of the same sqlx pool. It does not cover saves through a connection that is borrowed from sqlx, because
    /// such a connection does not name its pool. Inside a detached receiver, the call does not wait for detached work, because it would wait for itself.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while it waits for work, the pool stays open. After that, the pool closes in any case.
    pub async fn close(&self) {
        tracked::wait_for_tasks(self.pool_id()).await;
        self.close_pool().await;
        // A commit that ended while the pool was closing may have started receivers.
        tracked::wait_for_tasks(self.pool_id()).await;
    }
}
