//! The connections of a worker, which are not those of the program.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::time::timeout;

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
}

/// Settings that are made in each transaction.
struct Settings {
    /// In those of the worker's own statements.
    control: String,
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
                    control: format!("{PLAN}; SET LOCAL statement_timeout = {limit_text}"),
                    receivers: format!("SET LOCAL {} = {}", idle.0, idle.1),
                }),
                limit: Some(limit),
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
        if let Some(settings) = &self.settings {
            let options = TransactionOptions::new().isolation(Isolation::ReadCommitted);
            let mut tx = self.control.begin_with(options).await?;
            tx.execute(sqlx::AssertSqlSafe(settings.control.clone())).await?;
            return Ok(ControlConn::InTransaction(tx));
        }
        let conn = self.control.acquire_to_write(Writer::of(verb, "signals_delivery")).await?;
        Ok(ControlConn::Plain(conn))
    }

    /// Begins the transaction of a receiver.
    pub(super) async fn begin(&self) -> Result<Transaction<'static>> {
        let mut tx = self.receivers.begin().await?;
        if let Some(settings) = &self.settings {
            tx.execute(sqlx::AssertSqlSafe(settings.receivers.clone())).await?;
        }
        Ok(tx)
    }

    /// Runs statements of the worker. On PostgreSQL, a statement that waits for a lock, or a server that does not answer, must not stop the worker, so
    /// this is an error.
    pub(in crate::durable) async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(limit) = self.limit else { return work.await };
        let no_answer = || Error::other(format!("the database did not answer within {limit:?}"));
        timeout(limit, work).await.unwrap_or_else(|_| Err(no_answer()))
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

/// How long the worker's own statements may take.
#[cfg(feature = "postgres")]
fn control_limit(options: &WorkerOptions) -> Duration {
    (options.lease / 3).max(ANSWER_TIMEOUT)
}

/// How long the transaction of a receiver may be idle, before the server ends it and releases the row of the delivery. A worker that was
/// stopped would keep it locked forever. A receiver is stopped earlier.
#[cfg(feature = "postgres")]
fn idle_limit(options: &WorkerOptions) -> Duration {
    let receivers = DurableReceivers::of(options.queues.as_deref());
    let longest = receivers.entries().map(|entry| entry.options.timeout).max().unwrap_or_default();
    // The setting is an integer of 32 bits.
    (Duration::from_millis(longest) + options.lease).min(Duration::from_secs(7 * 24 * 3600))
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
