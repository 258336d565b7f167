//! The options of a [`Db`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::Database;
use sqlx::pool::PoolOptions;

use crate::database::conn::Conn;
use crate::database::connect;
use crate::database::db::Db;
use crate::error::{Error, Result};
use crate::task::slow::SlowReceivers;

/// Options for connecting a [`Db`], see [`Db::options`].
///
/// | option | default |
/// |---|---|
/// | [`max_connections`](Self::max_connections) | 10 |
/// | [`min_connections`](Self::min_connections) | 0 |
/// | [`acquire_timeout`](Self::acquire_timeout) | 30 seconds |
/// | [`idle_timeout`](Self::idle_timeout) | 10 minutes |
/// | [`max_lifetime`](Self::max_lifetime) | 30 minutes |
/// | [`statement_cache`](Self::statement_cache) | on |
/// | [`application_name`](Self::application_name) | the one of the URL |
/// | [`pragma`](Self::pragma) | `journal_mode = WAL`, `foreign_keys = ON`, a busy timeout of five seconds |
/// | [`after_connect`](Self::after_connect) | nothing |
/// | [`slow_receivers`](Self::slow_receivers) | 1 second, or 100 milliseconds inside a transaction on SQLite |
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # use std::time::Duration;
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::options()
///     .max_connections(20)
///     .acquire_timeout(Duration::from_secs(5))
///     .application_name("shop")
///     .pragma("synchronous", "NORMAL")
///     .connect("sqlite::memory:")
///     .await?;
/// # db.execute("SELECT 1").await?; Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is connected before `connect`"]
pub struct DbOptions {
    max_connections: Option<u32>,
    min_connections: Option<u32>,
    acquire_timeout: Option<Duration>,
    idle_timeout: Option<Option<Duration>>,
    max_lifetime: Option<Option<Duration>>,
    statement_cache: bool,
    application_name: Option<String>,
    pragmas: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    after_connect: Option<Arc<AfterConnect>>,
    slow_receivers: Option<Duration>,
}

/// The longest time that is passed on to sqlx, which adds it to the current time and would panic if the sum cannot be represented.
const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// A function that is called with every new connection.
type AfterConnect =
    dyn for<'a, 'c> Fn(&'a mut Conn<'c>) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static;

impl DbOptions {
    pub(crate) fn new() -> Self {
        Self {
            max_connections: None,
            min_connections: None,
            acquire_timeout: None,
            idle_timeout: None,
            max_lifetime: None,
            statement_cache: true,
            application_name: None,
            pragmas: Vec::new(),
            after_connect: None,
            slow_receivers: None,
        }
    }

    /// Sets the maximum number of open connections; 10 by default. An in-memory database always has one connection.
    ///
    /// See the example of [`DbOptions`].
    pub fn max_connections(mut self, max: u32) -> Self {
        self.max_connections = Some(max);
        self
    }

    /// Sets how many connections stay open even if they are not used; none by default.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use std::time::Duration;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::options()
    ///     .min_connections(1)
    ///     .idle_timeout(Duration::from_secs(60))
    ///     .max_lifetime(None)
    ///     .connect("sqlite::memory:")
    ///     .await?;
    /// # db.execute("SELECT 1").await?; Ok(()) }
    /// ```
    pub fn min_connections(mut self, min: u32) -> Self {
        self.min_connections = Some(min);
        self
    }

    /// Sets how long a call may wait for a connection; 30 seconds by default. The time covers the wait for a free connection, the
    /// ping of an idle connection, and the opening of a new one. After that, the call fails with
    /// [`sqlx::Error::PoolTimedOut`]. The time also covers the wait of a writer of a SQLite database for its turn, see
    /// [`Error::WriteLockTimedOut`].
    ///
    /// If a call is dropped while the server executes its statement, the server has this time, but at least five seconds, to answer.
    /// Then the connection is closed, because the server may have disappeared.
    ///
    /// See the example of [`DbOptions`].
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = Some(timeout.min(FOREVER));
        self
    }

    /// Sets after which time an unused connection is closed; 10 minutes by default, and never with `None`. The connection of an
    /// in-memory database is never closed.
    ///
    /// See the example of [`min_connections`](Self::min_connections).
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = Some(timeout.into().map(|timeout| timeout.min(FOREVER)));
        self
    }

    /// Sets after which time a connection is closed when it becomes idle; 30 minutes by default, and never with `None`. The
    /// connection of an in-memory database is never closed.
    ///
    /// See the example of [`min_connections`](Self::min_connections).
    pub fn max_lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.max_lifetime = Some(lifetime.into().map(|lifetime| lifetime.min(FOREVER)));
        self
    }

    /// Sets whether statements stay prepared on a PostgreSQL connection; `true` by default.
    ///
    /// Use `false` with a connection pooler that may use a different server connection for each transaction, such as PgBouncer
    /// in transaction mode. Then only unnamed statements are used, and a statement outside a transaction runs between BEGIN and
    /// COMMIT, which costs three additional round trips. No effect on SQLite.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # async fn example() -> Result<()> {
    /// let db = Db::options().statement_cache(false).connect("postgres://pooler/shop").await?;
    /// # Ok(()) }
    /// ```
    pub fn statement_cache(mut self, cache: bool) -> Self {
        self.statement_cache = cache;
        self
    }

    /// Sets the name that `pg_stat_activity` and the log of a PostgreSQL server show for the connections. No effect on SQLite.
    ///
    /// See the example of [`DbOptions`].
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = Some(name.into());
        self
    }

    /// Sets a [pragma](https://www.sqlite.org/pragma.html) on every SQLite connection. It takes precedence over the settings that
    /// [`Db::connect`] makes. No effect on PostgreSQL.
    ///
    /// The name and the value become part of the SQL: do not pass input of a user.
    ///
    /// See the example of [`DbOptions`].
    pub fn pragma(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.pragmas.push((name.into(), value.into()));
        self
    }

    /// Calls a function with every new connection, before its first use.
    ///
    /// If the function returns an error, the connection is closed and the error is logged. The pool tries again until the
    /// [`acquire_timeout`](Self::acquire_timeout) expires, except in [`connect`](Self::connect), which returns the error.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::options()
    ///     .after_connect(|conn| {
    ///         Box::pin(async move {
    ///             conn.execute("CREATE TEMPORARY TABLE cart (item TEXT)").await?;
    ///             Ok(())
    ///         })
    ///     })
    ///     .connect("sqlite::memory:")
    ///     .await?;
    /// assert_eq!(db.execute("INSERT INTO cart VALUES ('apple')").await?, 1);
    /// # Ok(()) }
    /// ```
    pub fn after_connect<F>(mut self, function: F) -> Self
    where
        F: for<'a, 'c> Fn(&'a mut Conn<'c>) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static,
    {
        self.after_connect = Some(Arc::new(function));
        self
    }

    /// Sets how long a receiver may take before it is reported; by default 100 milliseconds inside a transaction on SQLite, where other
    /// writers wait for it, and 1 second otherwise. A longer run is logged at WARN with the name, file
    /// and line of the receiver when it ends or is dropped, for each receiver at most once a minute.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use std::time::Duration;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let limit = Duration::from_millis(200);
    /// let db = Db::options().slow_receivers(limit).connect("sqlite::memory:").await?;
    /// # db.execute("SELECT 1").await?; Ok(()) }
    /// ```
    pub fn slow_receivers(mut self, limit: Duration) -> Self {
        self.slow_receivers = Some(limit);
        self
    }

    /// Connects to `url`, like [`Db::connect`].
    ///
    /// See the example of [`DbOptions`].
    ///
    /// # Errors
    ///
    /// [`Error::CannotConnect`], which says what is wrong with the URL or the database. If nothing listens at the address, the call
    /// tries until the [`acquire_timeout`](Self::acquire_timeout) expires, because the database may be starting.
    ///
    /// # Cancel safety
    ///
    /// As [`Db::connect`].
    pub async fn connect(self, url: &str) -> Result<Db> {
        let slow_receivers = self.slow_receivers.map(SlowReceivers);
        let db = connect::open(url, self).await?;
        Ok(slow_receivers.map(|limit| db.with(limit)).unwrap_or(db))
    }

    /// Applies these options to the options of an sqlx pool.
    pub(crate) fn pool<DB: Database>(&self, mut pool: PoolOptions<DB>) -> PoolOptions<DB> {
        if let Some(max) = self.max_connections {
            pool = pool.max_connections(max);
        }
        if let Some(min) = self.min_connections {
            pool = pool.min_connections(min);
        }
        if let Some(timeout) = self.acquire_timeout {
            pool = pool.acquire_timeout(timeout);
        }
        if let Some(timeout) = self.idle_timeout {
            pool = pool.idle_timeout(timeout);
        }
        if let Some(lifetime) = self.max_lifetime {
            pool = pool.max_lifetime(lifetime);
        }
        pool
    }

    pub(crate) fn get_max_connections(&self) -> Option<u32> {
        self.max_connections
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn keeps_statements(&self) -> bool {
        self.statement_cache
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn get_application_name(&self) -> Option<&str> {
        self.application_name.as_deref()
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn pragmas(
        &self,
    ) -> impl Iterator<Item = (Cow<'static, str>, Cow<'static, str>)> + '_ {
        self.pragmas.iter().cloned()
    }

    /// Calls the function for new connections.
    pub(crate) async fn run_after_connect(&self, mut conn: Conn<'_>) -> Result<(), sqlx::Error> {
        let Some(function) = &self.after_connect else { return Ok(()) };
        function(&mut conn).await.map_err(|error| match error {
            Error::Database(error) => error,
            error => sqlx::Error::Configuration(error.into()),
        })
    }
}

impl fmt::Debug for DbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            max_connections,
            min_connections,
            acquire_timeout,
            idle_timeout,
            max_lifetime,
            statement_cache,
            application_name,
            pragmas,
            after_connect,
            slow_receivers,
        } = self;
        f.debug_struct("DbOptions")
            .field("max_connections", max_connections)
            .field("min_connections", min_connections)
            .field("acquire_timeout", acquire_timeout)
            .field("idle_timeout", idle_timeout)
            .field("max_lifetime", max_lifetime)
            .field("statement_cache", statement_cache)
            .field("application_name", application_name)
            .field("pragmas", pragmas)
            .field("after_connect", &after_connect.is_some())
            .field("slow_receivers", slow_receivers)
            .finish()
    }
}
