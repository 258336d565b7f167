//! Whether statements stay prepared on a PostgreSQL connection. A program usually turns this off if there is a connection pooler
//! between the program and the server that may use a different server connection for each transaction. Also clears the statements of a
//! connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::{Either, ready, select};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool, SqlSafeStr};

/// The known pools, identified by their options, and whether their connections have a statement cache. sqlx has no getter for
/// that, and formatting the options as a URL is slower than comparing a pointer.
static POOLS: Mutex<Vec<(Weak<PgConnectOptions>, bool)>> = Mutex::new(Vec::new());

/// Whether any known pool has no statement cache.
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

/// sqlx exposes neither the pool nor the options of a connection. A connection with cached statements has a cache. For a
/// connection without cached statements, this assumes that it has no cache if any known pool has none.
pub(super) fn of_connection(conn: &PgConnection) -> bool {
    !OFF_ANYWHERE.load(Ordering::Relaxed) || conn.cached_statements_size() > 0
}

/// Clears the cache of a connection and puts a marker of this epoch there, unless it has the marker.
pub(super) async fn clear(conn: &mut PgConnection, epoch: u64) -> Result<(), sqlx::Error> {
    let marker = AssertSqlSafe(format!("SELECT -- statements of epoch {epoch}")).into_sql_str();
    let size = conn.cached_statements_size();
    // sqlx does not show which statements are cached. One that is cached needs no answer of the server.
    let is_first = match select(conn.prepare(marker.clone()), ready(())).await {
        Either::Left((prepared, _)) => prepared.map(|_| false)?,
        Either::Right(((), prepare)) => prepare.await.map(|_| true)?,
    };
    if is_first || conn.cached_statements_size() != size {
        conn.clear_cached_statements().await?;
        conn.prepare(marker).await?;
    }
    Ok(())
}

fn has_cache(options: &PgConnectOptions) -> bool {
    // sqlx panics if the host or the user name is not valid in a URL.
    let url = options.clone().host("localhost").username("").to_url_lossy();
    !url.query_pairs().any(|(name, value)| name == "statement-cache-capacity" && value == "0")
}
