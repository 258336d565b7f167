//! Whether statements stay prepared on a PostgreSQL connection. Where the program has turned that off, there is a pooler
//! between the program and the server, as a rule, that may give each transaction another server connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

/// The options of the pools that were asked so far, and whether they have a cache. sqlx has no getter, and to write the options
/// as a URL takes longer than to compare a pointer.
static POOLS: Mutex<Vec<(Weak<PgConnectOptions>, bool)>> = Mutex::new(Vec::new());

/// Whether any pool of the program has no cache.
static OFF_ANYWHERE: AtomicBool = AtomicBool::new(false);

pub(super) fn of_pool(pool: &PgPool) -> bool {
    let options = pool.connect_options();
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |known: &Weak<PgConnectOptions>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(&options));
    if let Some((_, cache)) = pools.iter().find(|(known, _)| same(known)) {
        return *cache;
    }
    let cache = has_cache(&options);
    if !cache {
        OFF_ANYWHERE.store(true, Ordering::Relaxed);
    }
    pools.retain(|(known, _)| known.strong_count() > 0);
    pools.push((Arc::downgrade(&options), cache));
    cache
}

/// sqlx does not say which pool a connection of its own is from, or what its options are. One that has statements in its cache
/// has a cache; one that has none has no cache if some pool of the program has none.
pub(super) fn of_connection(conn: &PgConnection) -> bool {
    !OFF_ANYWHERE.load(Ordering::Relaxed) || conn.cached_statements_size() > 0
}

fn has_cache(options: &PgConnectOptions) -> bool {
    // A host or user name that is none in a URL would make sqlx panic.
    let url = options.clone().host("localhost").username("").to_url_lossy();
    !url.query_pairs().any(|(name, value)| name == "statement-cache-capacity" && value == "0")
}
