//! The connections of a worker, which are not those of the program.

use std::ops::{Deref, DerefMut};
#[cfg(feature = "postgres")]
use std::time::Duration;

use crate::database::begin::{Isolation, TransactionOptions};
use crate::database::conn::Conn;
use crate::database::db::Db;
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
    /// PostgreSQL behind a pooler, which rejects settings of a session: those of a receiver's transaction are made in it.
    settings: Option<String>,
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
            });
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres_pool() {
            let connect = pool.connect_options();
            let is_direct = db.keeps_statements();
            let idle = idle_limit(options).as_millis().to_string();
            let idle = ("idle_in_transaction_session_timeout", idle.as_str());
            let of_size = |size, settings: &[(&str, &str)]| {
                let mut options = (*connect).clone();
                if is_direct {
                    options = options.options(settings.iter().copied());
                }
                let pool_options = pool.options().clone().max_connections(size).min_connections(0);
                Self::with_values(db, pool_options.connect_lazy_with(options).into())
            };
            return Ok(Self {
                control: of_size(1, &[&CONTROL[..], &KEEPALIVES[..]].concat()),
                receivers: of_size(concurrency, &[&[idle], &KEEPALIVES[..]].concat()),
                watch: (is_direct && options.listen).then(|| of_size(1, &KEEPALIVES)),
                settings: (!is_direct).then(|| format!("SET LOCAL {} = {}", idle.0, idle.1)),
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
        if self.settings.is_some() {
            let options = TransactionOptions::new().isolation(Isolation::ReadCommitted);
            let mut tx = self.control.begin_with(options).await?;
            tx.execute(PLAN).await?;
            return Ok(ControlConn::InTransaction(tx));
        }
        let conn = self.control.acquire_to_write(Writer::of(verb, "signals_delivery")).await?;
        Ok(ControlConn::Plain(conn))
    }

    /// Begins the transaction of a receiver.
    pub(super) async fn begin(&self) -> Result<Transaction<'static>> {
        let mut tx = self.receivers.begin().await?;
        if let Some(settings) = &self.settings {
            tx.execute(sqlx::AssertSqlSafe(settings.clone())).await?;
        }
        Ok(tx)
    }

    pub(in crate::durable) async fn close(&self) {
        self.control.close().await;
        self.receivers.close().await;
        if let Some(watch) = &self.watch {
            watch.close().await;
        }
    }
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
const PLAN: &str =
    "SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// If the machine of a worker is lost, the server closes the connection after about a minute, and releases the row of the delivery.
#[cfg(feature = "postgres")]
const KEEPALIVES: [(&str, &str); 3] = [
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];
