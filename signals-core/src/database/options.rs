//! The options of a [`Db`].

use std::time::Duration;

use sqlx::Database;
use sqlx::pool::PoolOptions;

use crate::database::db::{self, Db};
use crate::error::Result;

/// Options for connecting a [`Db`], see [`Db::options`].
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

    /// Sets the maximum number of open connections; 10 by default. An in-memory database always has one connection.
    pub fn max_connections(mut self, max: u32) -> Self {
        self.max_connections = Some(max);
        self
    }

    /// Sets how long a call may wait for a connection; 30 seconds by default. The time covers the wait for a free connection, the
    /// ping of an idle connection, and the opening of a new one. After that, the call fails with
    /// [`sqlx::Error::PoolTimedOut`].
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = Some(timeout);
        self
    }

    /// Sets whether statements stay prepared on a PostgreSQL connection; `true` by default.
    ///
    /// Use `false` with a connection pooler that may use a different server connection for each transaction, such as PgBouncer
    /// in transaction mode. Then only unnamed statements are used, and a statement outside a transaction runs between BEGIN and
    /// COMMIT, which costs three additional round trips. No effect on SQLite.
    pub fn statement_cache(mut self, cache: bool) -> Self {
        self.statement_cache = cache;
        self
    }

    /// Connects to `url`, like [`Db::connect`].
    ///
    /// # Errors
    ///
    /// If the database of the URL is not enabled in this build, or if the database cannot be reached.
    pub async fn connect(self, url: &str) -> Result<Db> {
        db::open(url, self).await
    }

    /// Applies these options to the options of an sqlx pool.
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
