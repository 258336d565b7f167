use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::SqlSafeStr;
#[cfg(feature = "postgres")]
use sqlx::{PgPool, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqlitePool};

use crate::backend::{self, Backend, DatabaseKind};
use crate::check;
use crate::conn::Conn;
use crate::context::{self, PoolId};
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::facts::Facts;
use crate::lender::{Lender, Lent};
use crate::link::Pooled;
use crate::options::DbOptions;
use crate::registry::registry;
use crate::runtimes::Runtimes;
use crate::sql::Sql;
use crate::state::Layers;
use crate::transaction::Transaction;
use crate::transaction_closure::TransactionClosure;

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
    state: Layers,
    /// None if the `Db` is made for one statement on a Postgres pool of the program's own.
    facts: Option<Arc<Facts>>,
}

/// sqlx's pool. One that this library has made, and nobody else has, has somebody who keeps its connections at the ready.
#[derive(Clone)]
enum Pool {
    #[cfg(feature = "sqlite")]
    Sqlite(SqlitePool, Option<Arc<Lender<Sqlite>>>),
    #[cfg(feature = "postgres")]
    Postgres(PgPool, Option<Arc<Lender<Postgres>>>),
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
        let lender = Some(Lender::new(pool.clone(), Runtimes::new()));
        Self::of_pool(Pool::Sqlite(pool, lender))
    }

    #[cfg(feature = "postgres")]
    fn of_postgres(pool: PgPool, runtimes: Arc<Runtimes>) -> Self {
        let lender = Some(Lender::new(pool.clone(), runtimes));
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

    /// Checks what would otherwise go wrong at some save or other: that there is a value for every
    /// [`State<T>`](crate::State) that a receiver of this program takes, that the receivers can be brought into an order,
    /// and that the table of every linked model is what the model says
    /// ([`check_table`](crate::Model::check_table)). For the start of a program.
    ///
    /// # Errors
    ///
    /// [`Error::Check`] with all that was found.
    pub async fn check(&self) -> Result<()> {
        let mut findings = registry().findings();
        for receiver in registry().identities() {
            let info = receiver.info;
            for state in info.asked().states {
                if !self.state.has(state.id) {
                    let (receiver, file, line) = (info.name, info.file, info.line);
                    let name = state.name;
                    findings.push(format!("receiver `{receiver}` ({file}:{line}) takes a `State<{name}>`, which this `Db` was not given"));
                }
            }
        }
        findings.extend(check::every_model(&mut self.acquire().await?).await?);
        if findings.is_empty() { Ok(()) } else { Err(Error::Check { findings }) }
    }

    /// Begins a transaction. On SQLite it takes the write lock at once (`BEGIN IMMEDIATE`), and so waits for its turn
    /// here instead of failing later.
    ///
    /// # Errors
    ///
    /// What the pool or the database refuses; [`Error::UseTheReceiverConnection`] in a receiver that has a connection
    /// of this pool already.
    ///
    /// # Cancel safety
    ///
    /// Nothing has begun where the future is dropped.
    pub async fn begin(&self) -> Result<Transaction<'static>> {
        Transaction::open(self.acquire().await?).await
    }

    /// Runs `work` in a transaction: commits on `Ok`, rolls back on `Err`, and on a panic, which goes on to the
    /// caller. Errors of `on_commit` receivers are logged; [`begin`](Self::begin) and
    /// [`commit`](Transaction::commit) return them.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::Error;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let mut city = City { id: None, name: "Atlantis".into() };
    /// let refused = db
    ///     .transaction(async |tx| {
    ///         city.save(tx).await?;
    ///         Err::<(), _>(Error::other("not on the map"))
    ///     })
    ///     .await;
    /// assert!(refused.is_err() && City::all(&db).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// The closure is written as `async |tx| { … }`. With `|tx| async move { … }`, whose future cannot borrow `tx`, the compiler
    /// answers "implementation of `AsyncFnOnce` is not general enough".
    ///
    /// # Errors
    ///
    /// What `work` returns ([`Error::other`] wraps an error of the program), and what
    /// [`commit`](Transaction::commit) does.
    ///
    /// # Cancel safety
    ///
    /// As [`begin`](Self::begin) and [`commit`](Transaction::commit).
    pub async fn transaction<T, F>(&self, work: F) -> Result<T>
    where
        F: TransactionClosure<T>,
    {
        let (tx, value) = self.begin_with(work).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// Begins a transaction with `work` in it, which is rolled back on `Err`, and on a panic.
    pub(crate) async fn begin_with<T, F>(&self, work: F) -> Result<(Transaction<'static>, T)>
    where
        F: TransactionClosure<T>,
    {
        use futures_util::FutureExt;
        use std::panic::{AssertUnwindSafe, resume_unwind};

        let mut tx = self.begin().await?;
        match AssertUnwindSafe(work(&mut tx)).catch_unwind().await {
            Ok(Ok(value)) => Ok((tx, value)),
            Ok(Err(error)) => {
                tx.rollback_or_log().await;
                Err(error)
            }
            Err(panic) => {
                tx.rollback_or_log().await;
                resume_unwind(panic)
            }
        }
    }

    /// Takes a connection out of the pool, until it is dropped.
    ///
    /// # Errors
    ///
    /// What the pool refuses; [`Error::UseTheReceiverConnection`] in a receiver that has a connection of this pool
    /// already.
    pub async fn acquire(&self) -> Result<Conn<'static>> {
        context::check_not_held(self.pool_id())?;
        Ok(Conn::pooled(self.pooled().await?, self.clone()))
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

    /// A statement with arguments, see [`Sql`].
    pub fn query(&self, sql: impl SqlSafeStr) -> Sql<'_> {
        Sql::new(Source::Db(self), self.kind(), sql.into_sql_str())
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
        let facts = Some(Facts::of_file(pool));
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
    pub(crate) fn facts(&self) -> &Facts {
        match &self.facts {
            Some(facts) => facts,
            None => Facts::elsewhere(self.kind()),
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

    pub(crate) async fn pooled(&self) -> Result<Pooled> {
        match self.at_hand() {
            Some(pooled) => Ok(pooled),
            None => self.lent().await,
        }
    }

    /// A connection that need not be waited for.
    fn at_hand(&self) -> Option<Pooled> {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_, lender) => lender.as_ref()?.at_hand().map(Pooled::Sqlite),
            #[cfg(feature = "postgres")]
            Pool::Postgres(_, lender) => lender.as_ref()?.at_hand().map(Pooled::Postgres),
        }
    }

    /// On the heap, or every future of a save had room for it, and every program compiled sqlx's pool.
    fn lent(&self) -> BoxFuture<'_, Result<Pooled>> {
        Box::pin(async move {
            Ok(match &self.pool {
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(pool, lender) => Pooled::Sqlite(lent(pool, lender.as_ref()).await?),
                #[cfg(feature = "postgres")]
                Pool::Postgres(pool, lender) => {
                    Pooled::Postgres(lent(pool, lender.as_ref()).await?)
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
    lender: Option<&Arc<Lender<DB>>>,
) -> Result<Lent<DB>, sqlx::Error> {
    match lender {
        Some(lender) => lender.lend().await,
        None => Lent::of(pool).await,
    }
}

/// The program gets the pool, and may wait there for what is kept at the ready.
fn share<DB: Backend>(lender: Option<&Arc<Lender<DB>>>) {
    if let Some(lender) = lender {
        lender.share();
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
