//! The connections of a worker, which are not those of the program.

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::writer::{Verb, Writer};
use crate::error::{Error, Result};

pub(super) struct Connections {
    /// The connection of the worker's own statements.
    pub(super) control: Db,
    /// The connections of receivers that take one.
    pub(super) receivers: Db,
    /// SQLite: the connection that notices commits of other processes.
    pub(super) watch: Option<Db>,
}

#[cfg(feature = "sqlite")]
const IN_MEMORY: &str = "a worker opens connections of its own, and a SQLite database in memory has only one connection: use a file, or \
                         `testing::deliver` in a test";

impl Connections {
    pub(super) fn open(db: &Db, concurrency: usize) -> Result<Self> {
        let concurrency = u32::try_from(concurrency).unwrap_or(u32::MAX);
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
            });
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres_pool() {
            let options = pool.connect_options();
            let of_size = |size, settings: &[(&str, &str)]| {
                let mut options = (*options).clone();
                if db.keeps_statements() {
                    // A pooler such as PgBouncer rejects settings of a session.
                    options = options.options(settings.iter().copied());
                }
                let pool_options = pool.options().clone().max_connections(size).min_connections(0);
                Self::with_values(db, pool_options.connect_lazy_with(options).into())
            };
            return Ok(Self {
                control: of_size(1, &CONTROL),
                receivers: of_size(concurrency, &RECEIVERS),
                watch: None,
            });
        }
        Err(Error::other("the database of this `Db` is not a feature of this build"))
    }

    fn with_values(db: &Db, mut of_pool: Db) -> Db {
        of_pool.state = db.state.clone();
        of_pool
    }

    /// A connection for a statement of the worker that writes.
    pub(super) async fn to_write(&self, verb: Verb) -> Result<Conn<'static>> {
        self.control.acquire_to_write(Writer::of(verb, "signals_delivery")).await
    }

    pub(super) async fn close(&self) {
        self.control.close().await;
        self.receivers.close().await;
        if let Some(watch) = &self.watch {
            watch.close().await;
        }
    }
}

/// A claim skips rows that are locked, and an acknowledgement waits for none. Both rely on the isolation level.
#[cfg(feature = "postgres")]
const CONTROL: [(&str, &str); 4] = [
    ("default_transaction_isolation", "read committed"),
    KEEPALIVES[0],
    KEEPALIVES[1],
    KEEPALIVES[2],
];

#[cfg(feature = "postgres")]
const RECEIVERS: [(&str, &str); 3] = KEEPALIVES;

/// If the machine of a worker is lost, the server closes the connection after about a minute, and releases the row of the delivery.
#[cfg(feature = "postgres")]
const KEEPALIVES: [(&str, &str); 3] = [
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];
