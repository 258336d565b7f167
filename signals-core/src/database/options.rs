use std::time::Duration;

use sqlx::Database;
use sqlx::pool::PoolOptions;

use crate::database::db::{self, Db};
use crate::error::Result;

/// How a [`Db`] connects, see [`Db::options`].
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # use std::time::Duration;
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::options()
///     .max_connections(20)
///     .acquire_timeout(Duration::from_secs(5))
///     .connect("sqlite::memory:")
///     .await?;
/// # db.execute("SELECT 1").await?; Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is connected before `connect`"]
pub struct DbOptions {
    max_connections: Option<u32>,
    acquire_timeout: Option<Duration>,
    statement_cache: bool,
}

impl DbOptions {
    pub(crate) fn new() -> Self {
        Self { max_connections: None, acquire_timeout: None, statement_cache: true }
    }

    /// How many connections are open at most; 10 by default. A database in memory always has one.
    pub fn max_connections(mut self, max: u32) -> Self {
        self.max_connections = Some(max);
        self
    }

    /// How long a call may wait for a connection; 30 seconds by default. The time covers the wait for a free connection, the
    /// check of an idle connection, and the opening of a new one. After that, the call fails with
    /// [`sqlx::Error::PoolTimedOut`].
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = Some(timeout);
        self
    }

    /// Whether statements stay prepared on a PostgreSQL connection; `true` by default. `false` is for a pooler that may give
    /// each transaction another server connection, such as PgBouncer in transaction mode: no statement has a name then, and
    /// a statement outside a transaction runs between BEGIN and COMMIT, which takes three round trips more. No effect on SQLite.
    pub fn statement_cache(mut self, cache: bool) -> Self {
        self.statement_cache = cache;
        self
    }

    /// Connects, as [`Db::connect`].
    ///
    /// # Errors
    ///
    /// If the URL is not one of a database of this build, or the database cannot be reached.
    pub async fn connect(self, url: &str) -> Result<Db> {
        db::open(url, self).await
    }

    /// These options in sqlx's.
    pub(crate) fn pool<DB: Database>(&self, mut pool: PoolOptions<DB>) -> PoolOptions<DB> {
        if let Some(max) = self.max_connections {
            pool = pool.max_connections(max);
        }
        if let Some(timeout) = self.acquire_timeout {
            pool = pool.acquire_timeout(timeout);
        }
        pool
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn keeps_statements(&self) -> bool {
        self.statement_cache
    }
}
