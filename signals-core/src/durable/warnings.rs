//! Warns if no worker claims the deliveries that this process stores: forgetting the worker is an easy mistake.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::database::backend::DatabaseKind;
use crate::database::db::Db;
use crate::database::deferred::{Deferred, End};
use crate::durable::claim::{earlier, millis};
use crate::durable::receivers::DurableReceivers;
use crate::durable::sql::{Sql, texts};
use crate::error::{Error, Result};
use crate::task::pool_id::PoolId;

/// How often a process warns, as a value of its `Db`.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct WarningIntervals {
    /// Of deliveries that no worker has claimed.
    pub unclaimed: Duration,
    /// Of deliveries with an unknown receiver.
    pub unknown: Duration,
}

impl WarningIntervals {
    pub(super) fn of(db: &Db) -> Self {
        let default =
            Self { unclaimed: Duration::from_secs(60), unknown: Duration::from_secs(10 * 60) };
        db.state::<Self>().copied().unwrap_or(default)
    }
}

pub(super) type Names = BTreeSet<&'static str>;

/// The receivers for which this process has stored deliveries since the last check, by pool. A pool is a key while a task watches it.
static STORED: LazyLock<Mutex<HashMap<PoolId, Names>>> = LazyLock::new(Mutex::default);

fn stored() -> MutexGuard<'static, HashMap<PoolId, Names>> {
    STORED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches the deliveries of these receivers when their transaction has committed.
pub(super) struct WatchOnCommit {
    db: Db,
    receivers: Names,
}

impl WatchOnCommit {
    pub(super) fn of(db: &Db, receivers: impl Iterator<Item = &'static str>) -> Self {
        Self { db: db.clone(), receivers: receivers.collect() }
    }
}

impl Deferred for WatchOnCommit {
    fn run(self: Box<Self>, end: End, _: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        if end == End::Committed {
            watch(self.db, self.receivers);
        }
        Box::pin(async { Vec::new() })
    }
}

/// Watches the deliveries of these receivers, which are committed.
pub(super) fn watch(db: Db, receivers: Names) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let pool = db.pool_id();
    match stored().entry(pool) {
        Entry::Occupied(mut watched) => watched.get_mut().extend(receivers),
        Entry::Vacant(unwatched) => {
            unwatched.insert(receivers);
            runtime.spawn(run(db, Watched(pool)));
        }
    }
}

/// Ends the watch of a pool, also if its runtime is shut down.
struct Watched(PoolId);

impl Drop for Watched {
    fn drop(&mut self) {
        stored().remove(&self.0);
    }
}

/// Checks at every interval, until every delivery was claimed.
async fn run(db: Db, watched: Watched) {
    let interval = WarningIntervals::of(&db).unclaimed;
    let mut unclaimed = Names::new();
    loop {
        tokio::time::sleep(interval).await;
        if !take_stored(watched.0, &mut unclaimed) {
            // The pool may already be watched by another task.
            std::mem::forget(watched);
            return;
        }
        match check(&db, &mut unclaimed, interval).await {
            Ok(()) => {}
            Err(Error::Database(sqlx::Error::PoolClosed)) => return,
            Err(error) => tracing::debug!(%error, "unclaimed deliveries could not be counted"),
        }
    }
}

/// Adds the receivers for which the process has stored deliveries since the last call. If there are none at all, the watch of the pool ends
/// in the same lock, so that the next commit begins another one.
fn take_stored(pool: PoolId, receivers: &mut Names) -> bool {
    let mut stored = stored();
    receivers.extend(stored.get_mut(&pool).map(std::mem::take).unwrap_or_default());
    if receivers.is_empty() {
        stored.remove(&pool);
    }
    !receivers.is_empty()
}

/// Warns of those receivers whose deliveries nobody claims, and keeps those that have unclaimed deliveries.
async fn check(db: &Db, receivers: &mut Names, interval: Duration) -> Result<()> {
    let mut conn = db.acquire().await?;
    let kind = conn.kind();
    let names = serde_json::Value::from_iter(receivers.iter().copied()).to_string();
    let all_names = all_names(receivers);
    let text = unclaimed(kind, all_names.is_some());
    let mut sql = Sql::new(kind, &text).bind(names).bind(millis(interval));
    if let Some(all_names) = all_names {
        sql = sql.bind(all_names);
    }
    let found: Vec<(String, i64, i32)> = sql.fetch(&mut conn).await?;
    drop(conn);
    receivers.retain(|known| found.iter().any(|(name, ..)| name == known));
    let late = found.iter().filter(|(_, late, is_served)| *late > 0 && *is_served == 0);
    let (names, counts): (Vec<_>, Vec<_>) =
        late.map(|(name, late, _)| (name.as_str(), *late)).unzip();
    if !names.is_empty() {
        let (receivers, deliveries) = (names.join(", "), counts.iter().sum::<i64>());
        tracing::warn!(
            receivers,
            deliveries,
            ?interval,
            "no worker has claimed deliveries that this process has stored: does a worker of their queue run?"
        );
    }
    Ok(())
}

/// For each of these receivers all its names, present and former, as JSON. `None` if none of them was renamed.
fn all_names(receivers: &Names) -> Option<String> {
    let known = DurableReceivers::of(None);
    let others = receivers.iter().map(|name| (*name, known.other_names(name)));
    let all: BTreeMap<_, _> = others
        .map(|(name, mut names)| {
            names.push(name);
            (name, names)
        })
        .collect();
    let is_renamed = all.values().any(|names| names.len() > 1);
    is_renamed.then(|| serde_json::json!(all).to_string())
}

/// For each receiver with deliveries that were never claimed: how many of them have been due for an interval, and whether a worker runs
/// another one. A delivery behind an older one of its ordering key may have to wait, so it does not count. The older one may be stored under
/// another name of the receiver, see [`all_names`].
fn unclaimed(kind: DatabaseKind, has_other_names: bool) -> String {
    let same_receiver = match (has_other_names, kind) {
        (false, _) => "= d.receiver",
        (true, DatabaseKind::Sqlite) => {
            "IN (SELECT a.value FROM json_each($3) AS r JOIN json_each(r.value) AS a WHERE r.key = d.receiver)"
        }
        (true, DatabaseKind::Postgres) => {
            "IN (SELECT json_array_elements_text($3::text::json -> d.receiver))"
        }
    };
    let (before, names) = (earlier(kind, "$2"), texts(kind, "$1"));
    format!(
        "SELECT d.receiver, count(*) FILTER (WHERE d.run_at <= {before}), CASE WHEN EXISTS (SELECT 1 FROM signals_delivery o \
         WHERE o.receiver = d.receiver AND o.worker IS NOT NULL) THEN 1 ELSE 0 END FROM signals_delivery d WHERE d.receiver IN ({names}) \
         AND d.claim = 0 AND d.dead_at IS NULL AND (d.ordering_key IS NULL OR NOT EXISTS (SELECT 1 FROM signals_delivery o \
         WHERE o.receiver {same_receiver} AND o.ordering_key = d.ordering_key AND o.id < d.id)) GROUP BY d.receiver ORDER BY d.receiver"
    )
}
