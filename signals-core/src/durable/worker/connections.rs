//! The connections of a worker, which are not those of the program.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::database::begin::{Isolation, TransactionOptions};
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::pool::ANSWER_TIMEOUT;
use crate::database::writer::{Verb, Writer};
#[cfg(feature = "postgres")]
use crate::durable::receivers::DurableReceivers;
use crate::durable::worker::WorkerOptions;
use crate::error::{Error, Result};
use crate::transaction::Transaction;

/// The limit of a search is doubled at most this often.
const MOST_DOUBLINGS: u32 = 6;

/// The setting is an integer of 32 bits.
const LONGEST_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

pub(in crate::durable) struct Connections {
    /// The connection of the worker's own statements.
    pub(in crate::durable) control: Db,
    /// The connections of receivers that take one.
    receivers: Db,
    /// The connection that notices commits of other processes.
    pub(in crate::durable) watch: Option<Db>,
    /// PostgreSQL behind a pooler, which rejects settings of a session.
    settings: Option<Settings>,
    /// How long the worker's own statements may take, on PostgreSQL. A transaction on SQLite may keep them waiting for any time.
    limit: Option<Duration>,
    /// How long a connection is waited for.
    acquire_timeout: Duration,
    /// How often the limit of a search was doubled.
    doublings: AtomicU32,
}

/// Settings that are made in each transaction.
struct Settings {
    /// In those of the worker's own statements, beside the limit.
    control: &'static str,
    /// In those of receivers.
    receivers: String,
}

/// The connection of the worker's own statements, for statements that write.
pub(in crate::durable) enum ControlConn {
    Plain(Conn<'static>),
    /// Behind a pooler.
    InTransaction(Transaction<'static>),
}

impl Deref for ControlConn {
    type Target = Conn<'static>;

    fn deref(&self) -> &Conn<'static> {
        match self {
            Self::Plain(conn) => conn,
            Self::InTransaction(tx) => tx,
        }
    }
}

impl DerefMut for ControlConn {
    fn deref_mut(&mut self) -> &mut Conn<'static> {
        match self {
            Self::Plain(conn) => conn,
            Self::InTransaction(tx) => tx,
        }
    }
}

impl ControlConn {
    /// Returns the connection. The statements since [`Connections::to_write`] take effect, at the latest, now.
    pub(in crate::durable) async fn done(self) -> Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::InTransaction(tx) => tx.commit().await.map(drop),
        }
    }
}

#[cfg(feature = "sqlite")]
const IN_MEMORY: &str = "a worker opens connections of its own, and a SQLite database in memory has only one connection: use a file, or \
                         `testing::deliver` in a test";

impl Connections {
    pub(in crate::durable) fn open(options: &WorkerOptions) -> Result<Self> {
        let WorkerOptions { db, concurrency, .. } = options;
        let concurrency = u32::try_from(*concurrency).unwrap_or(u32::MAX);
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite_pool() {
            let options = pool.connect_options();
            let name = options.get_filename().as_os_str();
            // sqlx has no getter for this option.
            let is_in_memory = format!("{options:?}").contains("in_memory: true");
            if is_in_memory || name.is_empty() || name == ":memory:" {
                return Err(Error::other(IN_MEMORY));
            }
            let of_size = |size| {
                let pool_options = pool.options().clone().max_connections(size).min_connections(0);
                Self::with_values(db, pool_options.connect_lazy_with((*options).clone()).into())
            };
            return Ok(Self {
                control: of_size(1),
                receivers: of_size(concurrency),
                watch: Some(of_size(1)),
                settings: None,
                limit: None,
                acquire_timeout: pool.options().get_acquire_timeout(),
                doublings: AtomicU32::new(0),
            });
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres_pool() {
            let connect = pool.connect_options();
            let is_direct = db.keeps_statements();
            let idle = idle_limit(options).as_millis().to_string();
            let idle = ("idle_in_transaction_session_timeout", idle.as_str());
            let limit = control_limit(options);
            // A statement of which the worker does not await the end any more does not run later.
            let limit_text = limit.as_millis().to_string();
            let end = [("statement_timeout", limit_text.as_str())];
            let of_size = |size, settings: &[(&str, &str)]| {
                let mut options = (*connect).clone();
                if is_direct {
                    options = options.options(settings.iter().copied());
                }
                let pool_options = pool.options().clone().max_connections(size).min_connections(0);
                let of_pool = Self::with_values(db, pool_options.connect_lazy_with(options).into());
                of_pool.limit_statements();
                of_pool
            };
            return Ok(Self {
                control: of_size(1, &[&CONTROL[..], &KEEPALIVES[..], &end[..]].concat()),
                receivers: of_size(concurrency, &[&[idle], &KEEPALIVES[..]].concat()),
                watch: (is_direct && options.listen).then(|| of_size(1, &KEEPALIVES)),
                settings: (!is_direct).then(|| Settings {
                    control: PLAN,
                    receivers: format!("SET LOCAL {} = {}", idle.0, idle.1),
                }),
                limit: Some(limit),
                acquire_timeout: pool.options().get_acquire_timeout(),
                doublings: AtomicU32::new(0),
            });
        }
        Err(Error::other("the database of this `Db` is not a feature of this build"))
    }

    fn with_values(db: &Db, mut of_pool: Db) -> Db {
        of_pool.state = db.state.clone();
        of_pool
    }

    /// A connection for a statement of the worker that writes. Call [`ControlConn::done`] after the statement.
    pub(in crate::durable) async fn to_write(&self, verb: Verb) -> Result<ControlConn> {
        if let (Some(settings), Some(limit)) = (&self.settings, self.limit) {
            return self.begin_control(settings.control, limit).await;
        }
        let conn = self.control.acquire_to_write(Writer::of(verb, "signals_delivery")).await?;
        Ok(ControlConn::Plain(conn))
    }

    /// Begins a transaction of the worker's own statements, with settings of its own.
    async fn begin_control(&self, settings: &str, limit: Duration) -> Result<ControlConn> {
        let settings = format!("SET LOCAL statement_timeout = {}; {settings}", limit.as_millis());
        let begin = async {
            let options = TransactionOptions::new().isolation(Isolation::ReadCommitted);
            let mut tx = self.control.begin_with(options).await?;
            tx.execute(sqlx::AssertSqlSafe(settings)).await?;
            Ok(ControlConn::InTransaction(tx))
        };
        limited_to(self.acquire_timeout.saturating_add(ANSWER_TIMEOUT), begin).await
    }

    /// A connection for statements that claim due deliveries, with a limit of [`search_limit`](Self::search_limit).
    pub(super) async fn to_claim(&self, limit: Option<Duration>) -> Result<ControlConn> {
        match self.of_transaction(limit) {
            Some((settings, limit)) => self.begin_control(settings, limit).await,
            None => self.to_write(Verb::Claim).await,
        }
    }

    /// A connection for a statement that finds due deliveries, with a limit of [`search_limit`](Self::search_limit).
    pub(super) async fn to_probe(&self, limit: Option<Duration>) -> Result<ControlConn> {
        match self.of_transaction(limit) {
            Some((settings, limit)) => self.begin_control(settings, limit).await,
            None => self.control.acquire().await.map(ControlConn::Plain),
        }
    }

    /// The settings and the limit of a search that are not those of the connection.
    fn of_transaction(&self, limit: Option<Duration>) -> Option<(&'static str, Duration)> {
        let settings = self.settings.as_ref().map(|settings| settings.control);
        let is_longer = limit != self.limit;
        let limit = limit.filter(|_| is_longer || settings.is_some());
        limit.map(|limit| (settings.unwrap_or_default(), limit))
    }

    /// How long a statement may take that finds due deliveries. While a transaction is idle somewhere, it also reads the index entries of the
    /// deliveries that have ended since, which may take any time. So the limit is doubled after a timeout, unless deliveries are running: their
    /// leases are renewed on the same connection.
    pub(super) fn search_limit(&self, is_idle: bool) -> Option<Duration> {
        let doublings = if is_idle { self.doublings.load(Ordering::Relaxed) } else { 0 };
        self.limit.map(|limit| limit.saturating_mul(1 << doublings).min(LONGEST_LIMIT))
    }

    /// Runs statements on a connection of [`to_probe`](Self::to_probe) or [`to_claim`](Self::to_claim), with its limit. A worker
    /// that stops does not wait longer for them than for others.
    pub(super) async fn search<T>(
        &self,
        limit: Option<Duration>,
        stopping: &CancellationToken,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (Some(limit), Some(shortest)) = (limit, self.limit) else { return work.await };
        let begun = Instant::now();
        let stops = async {
            stopping.cancelled().await;
            sleep(shortest.saturating_add(ANSWER_TIMEOUT)).await;
        };
        let found = tokio::select! {
            found = limited_to(limit.saturating_add(ANSWER_TIMEOUT), work) => found,
            () = stops => Err(Error::other("the worker stops")),
        };
        // If the server has ended it. A connection that does not answer is no reason for a longer limit.
        let was_ended = (limit..limit.saturating_add(ANSWER_TIMEOUT)).contains(&begun.elapsed());
        if found.is_err() && was_ended && self.search_limit(true) == Some(limit) {
            let next = self.doublings.load(Ordering::Relaxed) + 1;
            self.doublings.store(next.min(MOST_DOUBLINGS), Ordering::Relaxed);
        }
        found
    }

    /// Call this after a search that took this long without a lower bound.
    pub(super) fn note_search(&self, took: Duration) {
        if self.limit.is_some_and(|limit| took < limit / 2) {
            self.doublings.store(0, Ordering::Relaxed);
        }
    }

    /// Begins the transaction of a receiver.
    pub(super) async fn begin(&self) -> Result<Transaction<'static>> {
        let mut tx = self.receivers.begin().await?;
        if let Some(settings) = &self.settings {
            tx.execute(sqlx::AssertSqlSafe(settings.receivers.clone())).await?;
        }
        Ok(tx)
    }

    /// Runs statements of the worker on a connection that it has already: the time for which it waits for the connection has a limit of its own. On
    /// PostgreSQL, a statement that waits for a lock, or a server that does not answer, must not stop the worker, so this is an error. The server
    /// ends the statement first, so that the worker knows that it had no effect.
    pub(in crate::durable) async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.limit {
            Some(limit) => limited_to(limit.saturating_add(ANSWER_TIMEOUT), work).await,
            None => work.await,
        }
    }

    /// Whether a statement can be ended by another connection.
    pub(super) fn can_end_statements(&self) -> bool {
        self.limit.is_some()
    }

    /// Waits until the transactions of stopped receivers are rolled back, but not longer than a connection may take to be returned.
    pub(super) async fn close_receivers(&self) {
        let _ = timeout(2 * ANSWER_TIMEOUT, self.receivers.close()).await;
    }

    pub(in crate::durable) async fn close(&self) {
        let close = async {
            self.control.close().await;
            self.receivers.close().await;
            if let Some(watch) = &self.watch {
                watch.close().await;
            }
        };
        match self.limit {
            // A connection that does not answer is not waited for.
            Some(_) => _ = timeout(2 * ANSWER_TIMEOUT, close).await,
            None => close.await,
        }
    }
}

async fn limited_to<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let no_answer = || Error::other(format!("the database did not answer within {limit:?}"));
    timeout(limit, work).await.unwrap_or_else(|_| Err(no_answer()))
}

/// How long the worker's own statements may take.
#[cfg(feature = "postgres")]
fn control_limit(options: &WorkerOptions) -> Duration {
    (options.lease / 3).clamp(ANSWER_TIMEOUT, LONGEST_LIMIT)
}

/// How long the transaction of a receiver may be idle, before the server ends it and releases the row of the delivery. A worker that was
/// stopped would keep it locked forever. A receiver is stopped earlier.
#[cfg(feature = "postgres")]
fn idle_limit(options: &WorkerOptions) -> Duration {
    let receivers = DurableReceivers::of(options.queues.as_deref());
    let longest = receivers.entries().map(|entry| entry.options.timeout).max().unwrap_or_default();
    (Duration::from_millis(longest) + options.lease).min(LONGEST_LIMIT)
}

/// A claim skips rows that are locked, and an acknowledgement waits for none. Both rely on the isolation level.
///
/// The table is usually analyzed when it is nearly empty. By these statistics, the planner would read and sort all due deliveries for every
/// claim, instead of reading the first of them from the index. A statement that can only read the whole table then has a cost at which
/// PostgreSQL compiles it, which takes longer than its execution.
#[cfg(feature = "postgres")]
const CONTROL: [(&str, &str); 4] = [
    ("default_transaction_isolation", "read committed"),
    ("enable_bitmapscan", "off"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
];

/// The same settings of the planner, for one transaction.
#[cfg(feature = "postgres")]
const PLAN: &str =
    "SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// If the machine of a worker is lost, the server closes the connection after about a minute, and releases the row of the delivery.
#[cfg(feature = "postgres")]
const KEEPALIVES: [(&str, &str); 3] = [
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];
