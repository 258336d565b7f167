use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::SqlSafeStr;
#[cfg(feature = "postgres")]
use sqlx::{PgPool, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqlitePool};

use crate::database::backend::{self, Backend, DatabaseKind};
use crate::database::conn::Conn;
use crate::database::options::DbOptions;
use crate::database::pool::{Lease, WarmPool};
use crate::database::raw::AnyLease;
use crate::database::runtimes::Runtimes;
use crate::database::schema_cache::SchemaCache;
use crate::database::source::Source;
use crate::database::sql::RawQuery;
use crate::database::values::Layers;
use crate::error::{Error, Result};
use crate::task::chain::{self, PoolId};

/// A pool of connections to one of the databases. A clone is cheap, and the same pool.
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
    /// None if the `Db` is made for one statement on a Postgres pool of the program's own.
    facts: Option<Arc<SchemaCache>>,
}

/// sqlx's pool. One that this library has made, and nobody else has, has somebody who keeps its connections at the ready.
#[derive(Clone)]
enum Pool {
    #[cfg(feature = "sqlite")]
    Sqlite(SqlitePool, Option<Arc<WarmPool<Sqlite>>>),
    #[cfg(feature = "postgres")]
    Postgres(PgPool, Option<Arc<WarmPool<Postgres>>>),
}

impl Db {
    /// Connects to `sqlite:…` or `postgres://…`, as sqlx spells them.
    ///
    /// A SQLite file is created where there is none (unless the URL has a `mode`), and gets
    /// [WAL](https://www.sqlite.org/wal.html), foreign keys and a busy timeout of five seconds. `sqlite::memory:` is
    /// one database on one connection. A Postgres connection is asked whether it lives only where it was not used for
    /// a second; a write that finds it dead, before anything was done, goes to another. For other settings, make the pool
    /// with sqlx and use [`Db::from`].
    ///
    /// # Errors
    ///
    /// Where the URL is not one of a database of this build, or the database cannot be reached.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::options().connect(url).await
    }

    /// Options for a connection: the size of the pool, how long to wait for a connection, and whether statements stay
    /// prepared.
    pub fn options() -> DbOptions {
        DbOptions::new()
    }

    fn of_pool(pool: Pool) -> Self {
        Self { pool, state: Layers::default(), facts: Some(Arc::default()) }
    }

    #[cfg(feature = "sqlite")]
    fn of_sqlite(pool: SqlitePool) -> Self {
        let lender = Some(WarmPool::new(pool.clone(), Runtimes::new()));
        Self::of_pool(Pool::Sqlite(pool, lender))
    }

    #[cfg(feature = "postgres")]
    fn of_postgres(pool: PgPool, runtimes: Arc<Runtimes>) -> Self {
        let lender = Some(WarmPool::new(pool.clone(), runtimes));
        Self::of_pool(Pool::Postgres(pool, lender))
    }

    /// Which database this is.
    pub fn kind(&self) -> DatabaseKind {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(..) => DatabaseKind::Sqlite,
            #[cfg(feature = "postgres")]
            Pool::Postgres(..) => DatabaseKind::Postgres,
        }
    }

    /// The same pool with one more value, which receivers take as [`State<T>`](crate::State). It is cheap, so that a
    /// request can have values of its own; the newest of a type wins.
    #[must_use = "the value is known to the `Db` that this returns"]
    pub fn with<T: Clone + Send + Sync + 'static>(&self, value: T) -> Self {
        Self { state: self.state.with(value), ..self.clone() }
    }

    /// The newest value of a type that was given by [`with`](Self::with).
    pub fn state<T: 'static>(&self) -> Option<&T> {
        self.state.get()
    }

    /// Takes a connection out of the pool, until it is dropped.
    ///
    /// # Errors
    ///
    /// What the pool refuses; [`Error::WouldDeadlock`] in a receiver that has a connection of this pool
    /// already.
    pub async fn acquire(&self) -> Result<Conn<'static>> {
        chain::check_not_held(self.pool_id())?;
        Ok(Conn::pooled(self.checkout().await?, self.clone()))
    }

    /// Runs SQL as it stands: one statement or several, without arguments. Returns the number of rows affected.
    ///
    /// # Errors
    ///
    /// What the pool or the database refuses. A transaction that the SQL begins and does not end is rolled back; if nothing
    /// else has failed, this is [`Error::RolledBack`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the SQL may have run or not. A transaction that it has left open is rolled back before the
    /// connection is used again.
    pub async fn execute(&self, sql: impl SqlSafeStr) -> Result<u64> {
        let mut conn = self.acquire().await?;
        let done = conn.execute_all(sql.into_sql_str()).await;
        conn.end_raw(done).await
    }

    /// A statement with arguments, see [`RawQuery`].
    pub fn query(&self, sql: impl SqlSafeStr) -> RawQuery<'_> {
        RawQuery::new(Source::Db(Cow::Borrowed(self)), self.kind(), sql.into_sql_str())
    }

    /// sqlx's pool, where this is SQLite. Who has it can wait there for a connection, and so a `Db` that
    /// [`connect`](Self::connect) has made keeps none at the ready from then on: saves are as fast as through sqlx's pool.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(&self) -> Option<&SqlitePool> {
        match &self.pool {
            Pool::Sqlite(pool, lender) => {
                share(lender.as_ref());
                Some(pool)
            }
            #[cfg(feature = "postgres")]
            Pool::Postgres(..) => None,
        }
    }

    /// sqlx's pool, where this is Postgres. Who has it can wait there for a connection, and so a `Db` that
    /// [`connect`](Self::connect) has made keeps none at the ready from then on: saves are as fast as through sqlx's pool.
    #[cfg(feature = "postgres")]
    pub fn postgres(&self) -> Option<&PgPool> {
        match &self.pool {
            Pool::Postgres(pool, lender) => {
                share(lender.as_ref());
                Some(pool)
            }
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(..) => None,
        }
    }

    /// Closes the pool, and waits until its connections are.
    pub async fn close(&self) {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool, lender) => {
                share(lender.as_ref());
                pool.close().await;
            }
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool, lender) => {
                share(lender.as_ref());
                pool.close().await;
            }
        }
    }

    /// Of a pool that was given for one call.
    #[cfg(feature = "sqlite")]
    pub(crate) fn once_sqlite(pool: &SqlitePool) -> Self {
        let facts = Some(SchemaCache::of_file(pool));
        Self { pool: Pool::Sqlite(pool.clone(), None), state: Layers::default(), facts }
    }

    /// Of a pool that was given for one call.
    #[cfg(feature = "postgres")]
    pub(crate) fn once_postgres(pool: &PgPool) -> Self {
        Self { pool: Pool::Postgres(pool.clone(), None), state: Layers::default(), facts: None }
    }

    /// Has every connection prepare its statements again when it is used next, because the schema may be another.
    pub(crate) fn prepare_again(&self) {
        match &self.pool {
            // SQLite does it by itself.
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(..) => {}
            #[cfg(feature = "postgres")]
            Pool::Postgres(_, lender) => {
                if let Some(lender) = lender {
                    lender.outdate();
                }
            }
        }
    }

    /// What is known of the tables.
    pub(crate) fn facts(&self) -> &SchemaCache {
        match &self.facts {
            Some(facts) => facts,
            None => SchemaCache::without_db(self.kind()),
        }
    }

    pub(crate) fn pool_id(&self) -> PoolId {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool, _) => PoolId::of(pool),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool, _) => PoolId::of(pool),
        }
    }

    /// How long a checkout may take.
    pub(crate) fn acquire_timeout(&self) -> Duration {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool, _) => pool.options().get_acquire_timeout(),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool, _) => pool.options().get_acquire_timeout(),
        }
    }

    pub(crate) async fn checkout(&self) -> Result<AnyLease> {
        match self.at_hand() {
            Some(pooled) => Ok(pooled),
            None => self.lent().await,
        }
    }

    /// A connection that need not be waited for.
    fn at_hand(&self) -> Option<AnyLease> {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_, lender) => lender.as_ref()?.try_acquire().map(AnyLease::Sqlite),
            #[cfg(feature = "postgres")]
            Pool::Postgres(_, lender) => lender.as_ref()?.try_acquire().map(AnyLease::Postgres),
        }
    }

    /// On the heap, or every future of a save had room for it, and every program compiled sqlx's pool.
    fn lent(&self) -> BoxFuture<'_, Result<AnyLease>> {
        Box::pin(async move {
            Ok(match &self.pool {
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(pool, lender) => AnyLease::Sqlite(lent(pool, lender.as_ref()).await?),
                #[cfg(feature = "postgres")]
                Pool::Postgres(pool, lender) => {
                    AnyLease::Postgres(lent(pool, lender.as_ref()).await?)
                }
            })
        })
    }
}

/// On the heap, so that no program compiles it once more.
pub(crate) fn open(url: &str, options: DbOptions) -> BoxFuture<'_, Result<Db>> {
    Box::pin(async move {
        let scheme = url.split(':').next().unwrap_or_default();
        match scheme {
            #[cfg(feature = "sqlite")]
            "sqlite" => Ok(Db::of_sqlite(backend::open_sqlite(url, &options).await?)),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                let runtimes = Runtimes::new();
                let pool = backend::open_postgres(url, &options, Arc::clone(&runtimes)).await?;
                Ok(Db::of_postgres(pool, runtimes))
            }
            _ => Err(Error::Database(sqlx::Error::Configuration(
                format!(
                    "`{scheme}:` is not a database of this build of sqlx-signals (see its features)"
                )
                .into(),
            ))),
        }
    })
}

async fn lent<DB: Backend>(
    pool: &sqlx::Pool<DB>,
    lender: Option<&Arc<WarmPool<DB>>>,
) -> Result<Lease<DB>, sqlx::Error> {
    match lender {
        Some(lender) => lender.acquire().await,
        None => Lease::of(pool).await,
    }
}

/// The program gets the pool, and may wait there for what is kept at the ready.
fn share<DB: Backend>(lender: Option<&Arc<WarmPool<DB>>>) {
    if let Some(lender) = lender {
        lender.disable();
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool, _) => pool.fmt(f),
            #[cfg(feature = "postgres")]
            Self::Postgres(pool, _) => pool.fmt(f),
        }
    }
}

/// The pool as it is set up by the program.
#[cfg(feature = "sqlite")]
impl From<SqlitePool> for Db {
    fn from(pool: SqlitePool) -> Self {
        Self::of_pool(Pool::Sqlite(pool, None))
    }
}

/// The pool as it is set up by the program.
#[cfg(feature = "postgres")]
impl From<PgPool> for Db {
    fn from(pool: PgPool) -> Self {
        Self::of_pool(Pool::Postgres(pool, None))
    }
}
