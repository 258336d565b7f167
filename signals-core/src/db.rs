#[cfg(feature = "postgres")]
use sqlx::PgPool;
use sqlx::SqlSafeStr;
#[cfg(feature = "sqlite")]
use sqlx::SqlitePool;

use crate::backend::{self, DatabaseKind};
use crate::check;
use crate::conn::Conn;
use crate::context::{self, PoolId};
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::link::Pooled;
use crate::registry::registry;
use crate::sql::Sql;
use crate::state::Layers;
use crate::transaction::Transaction;

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
}

#[derive(Clone, Debug)]
enum Pool {
    #[cfg(feature = "sqlite")]
    Sqlite(SqlitePool),
    #[cfg(feature = "postgres")]
    Postgres(PgPool),
}

impl Db {
    /// Connects to `sqlite:…` or `postgres://…`, as sqlx spells them.
    ///
    /// A SQLite file is created where there is none (unless the URL has a `mode`), and gets
    /// [WAL](https://www.sqlite.org/wal.html), foreign keys and a busy timeout of five seconds. `sqlite::memory:` is
    /// one database on one connection. A Postgres connection is asked whether it lives only where it was not used for
    /// a second. For other settings, make the pool with sqlx and use [`Db::from`].
    ///
    /// # Errors
    ///
    /// Where the URL is not one of a database of this build, or the database cannot be reached.
    pub async fn connect(url: &str) -> Result<Self> {
        let scheme = url.split(':').next().unwrap_or_default();
        match scheme {
            #[cfg(feature = "sqlite")]
            "sqlite" => Ok(backend::open_sqlite(url).await?.into()),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Ok(backend::open_postgres(url).await?.into()),
            _ => Err(Error::Database(sqlx::Error::Configuration(
                format!(
                    "`{scheme}:` is not a database of this build of sqlx-signals (see its features)"
                )
                .into(),
            ))),
        }
    }

    /// Which database this is.
    pub fn kind(&self) -> DatabaseKind {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_) => DatabaseKind::Sqlite,
            #[cfg(feature = "postgres")]
            Pool::Postgres(_) => DatabaseKind::Postgres,
        }
    }

    /// The same pool with one more value, which receivers take as [`State<T>`](crate::State). It is cheap, so that a
    /// request can have values of its own; the newest of a type wins.
    #[must_use = "the value is known to the `Db` that this returns"]
    pub fn with<T: Clone + Send + Sync + 'static>(&self, value: T) -> Self {
        Self { pool: self.pool.clone(), state: self.state.with(value) }
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
        for info in registry().infos() {
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
        F: AsyncFnOnce(&mut Transaction<'_>) -> Result<T>,
    {
        let (tx, value) = self.begin_with(work).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// Begins a transaction with `work` in it, which is rolled back on `Err`, and on a panic.
    pub(crate) async fn begin_with<T, F>(&self, work: F) -> Result<(Transaction<'static>, T)>
    where
        F: AsyncFnOnce(&mut Transaction<'_>) -> Result<T>,
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
    /// What the pool or the database refuses.
    pub async fn execute(&self, sql: impl SqlSafeStr) -> Result<u64> {
        self.acquire().await?.execute_all(sql.into_sql_str()).await
    }

    /// A statement with arguments, see [`Sql`].
    pub fn query(&self, sql: impl SqlSafeStr) -> Sql<'_> {
        Sql::new(Source::Db(self), self.kind(), sql.into_sql_str())
    }

    /// sqlx's pool, where this is SQLite.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(&self) -> Option<&SqlitePool> {
        match &self.pool {
            Pool::Sqlite(pool) => Some(pool),
            #[cfg(feature = "postgres")]
            Pool::Postgres(_) => None,
        }
    }

    /// sqlx's pool, where this is Postgres.
    #[cfg(feature = "postgres")]
    pub fn postgres(&self) -> Option<&PgPool> {
        match &self.pool {
            Pool::Postgres(pool) => Some(pool),
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_) => None,
        }
    }

    /// Closes the pool, and waits until its connections are.
    pub async fn close(&self) {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool) => pool.close().await,
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => pool.close().await,
        }
    }

    pub(crate) fn pool_id(&self) -> PoolId {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool) => PoolId::of(pool),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => PoolId::of(pool),
        }
    }

    pub(crate) async fn pooled(&self) -> Result<Pooled> {
        Ok(match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool) => Pooled::Sqlite(pool.acquire().await?),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => Pooled::Postgres(pool.acquire().await?),
        })
    }
}

/// The pool as it is set up by the program.
#[cfg(feature = "sqlite")]
impl From<SqlitePool> for Db {
    fn from(pool: SqlitePool) -> Self {
        Self { pool: Pool::Sqlite(pool), state: Layers::default() }
    }
}

/// The pool as it is set up by the program.
#[cfg(feature = "postgres")]
impl From<PgPool> for Db {
    fn from(pool: PgPool) -> Self {
        Self { pool: Pool::Postgres(pool), state: Layers::default() }
    }
}
