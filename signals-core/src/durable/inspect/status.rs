//! The number of deliveries of each receiver, and how late they are.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::DeliveryState;
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claim::now;
use crate::durable::sql::Sql;
use crate::durable::{ended, receivers};
use crate::error::Result;
use crate::signal::registry::view::write_table;
use crate::task::pool_id::PoolId;

/// The deliveries of each receiver, counted by [`Deliveries::status`](super::Deliveries::status).
///
/// ```standalone_crate
/// # use sqlx_signals::prelude::*;
/// #[derive(Model, serde::Serialize, serde::Deserialize)]
/// #[model(table = "users")]
/// struct User { id: Option<i64>, name: String }
///
/// #[receiver(post_save, sender = User, durable(queue = "mail"))]
/// async fn welcome(saved: PostSave<'_, User>, delivery: Delivery<'_>) {
///     println!("{}: welcome, {}", delivery.idempotency_key(), saved.instance.name);
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// # db.deliveries().setup().await?;
/// User { id: None, name: "Ann".into() }.save(&db).await?;
/// let status = db.deliveries().status().await?;
/// assert_eq!(status.receivers[0].waiting, 1);
/// assert_eq!(status.unknown().count(), 0);
/// println!("{status}");
/// println!("{}", serde_json::to_string_pretty(&status).unwrap());
/// # assert!(status.to_string().contains("welcome  mail   1        0        0         0     0"), "{status}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The durable receivers of this program and the unknown receivers, by name.
    pub receivers: Vec<ReceiverStatus>,
}

/// The deliveries of one receiver.
///
/// See the example of [`Status`].
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ReceiverStatus {
    /// The name of its deliveries: its `uid`, or else the path of the function.
    pub receiver: String,
    /// Its queue. `None` if this program has no receiver of this name.
    pub queue: Option<&'static str>,
    /// How many deliveries wait for their first attempt.
    pub waiting: u64,
    /// How many deliveries a worker has claimed.
    pub running: u64,
    /// How many deliveries have failed and are tried again.
    pub retrying: u64,
    /// How many deliveries are not tried any more.
    pub dead: u64,
    /// How many ordering keys wait for a delivery that has failed.
    pub blocked_keys: u64,
    /// How long the oldest due delivery has been due. `None` if none is due. A claimed delivery is due again when its lease ends. With serde,
    /// it is a number of seconds.
    #[serde(rename = "oldest_lag_seconds", serialize_with = "seconds")]
    pub oldest_lag: Option<Duration>,
    /// Whether there are more deliveries than were counted. The counts are lower bounds then, and a claimed delivery whose lease has ended may
    /// be missing. It is `false` unless [`bounded_status`](super::Deliveries::bounded_status) has counted.
    pub at_least: bool,
    /// How many runs have succeeded in the last minute, in the workers of this process.
    pub succeeded_last_minute: u64,
    /// How many runs have failed in the last minute, in the workers of this process.
    pub failed_last_minute: u64,
}

impl Status {
    /// How many deliveries [`bounded_status`](super::Deliveries::bounded_status) counts exactly.
    pub const BOUND: u64 = 1000;

    /// The receivers of which deliveries are stored, but which this program does not have. They were renamed or removed, or they belong to
    /// another program.
    ///
    /// See the example of [`Status`].
    pub fn unknown(&self) -> impl Iterator<Item = &ReceiverStatus> {
        self.receivers.iter().filter(|receiver| receiver.queue.is_none())
    }
}

/// Receiver, one count for each state, blocked keys without and with dead deliveries, and the lag in milliseconds.
pub(super) type Counts = (String, i64, i64, i64, i64, i64, i64, Option<i64>);

pub(super) async fn read(conn: &mut Conn<'_>, pool: PoolId) -> Result<Status> {
    let kind = conn.kind();
    let rows: Vec<Counts> = Sql::new(kind, &counts(kind)).fetch(conn).await?;
    Ok(status(rows.into_iter().map(|counts| (counts, false)), pool))
}

/// The status of these receivers, each with whether there are more deliveries than were counted, and of the other receivers of the program.
pub(super) fn status(rows: impl Iterator<Item = (Counts, bool)>, pool: PoolId) -> Status {
    let known = receivers::known();
    let count = |count: i64| u64::try_from(count).unwrap_or_default();
    let mut all: BTreeMap<String, ReceiverStatus> =
        known.keys().map(|name| ((*name).to_owned(), ReceiverStatus::of(name))).collect();
    for ((name, waiting, running, retrying, dead, failing_keys, dead_keys, lag), at_least) in rows {
        let receiver = all.entry(name).or_insert_with_key(|name| ReceiverStatus::of(name));
        let skips_dead = known.get(&*receiver.receiver).is_some_and(|options| options.skips_dead);
        receiver.waiting = count(waiting);
        receiver.running = count(running);
        receiver.retrying = count(retrying);
        receiver.dead = count(dead);
        receiver.blocked_keys = count(if skips_dead { failing_keys } else { dead_keys });
        receiver.oldest_lag = lag.map(|lag| Duration::from_millis(count(lag)));
        receiver.at_least = at_least;
    }
    for receiver in all.values_mut() {
        receiver.queue = known.get(&*receiver.receiver).map(|options| options.queue);
        let [succeeded, failed] = ended::last_minute(pool, &receiver.receiver);
        receiver.succeeded_last_minute = succeeded;
        receiver.failed_last_minute = failed;
    }
    Status { receivers: all.into_values().collect() }
}

fn counts(kind: DatabaseKind) -> String {
    use DeliveryState::{Dead, Retrying, Running, Waiting};

    let [waiting, running, retrying, dead] = [Waiting, Running, Retrying, Dead]
        .map(|state| format!("count(*) FILTER (WHERE {})", state.condition()));
    let (is_retrying, is_dead) = (Retrying.condition(), Dead.condition());
    let now = now(kind);
    let oldest = format!("min(run_at) FILTER (WHERE dead_at IS NULL AND run_at <= {now})");
    let lag = match kind {
        DatabaseKind::Sqlite => format!("{now} - {oldest}"),
        DatabaseKind::Postgres => format!("(extract(epoch FROM {now} - {oldest}) * 1000)::bigint"),
    };
    format!(
        "SELECT receiver, {waiting}, {running}, {retrying}, {dead}, count(DISTINCT ordering_key) FILTER (WHERE {is_retrying}), \
         count(DISTINCT ordering_key) FILTER (WHERE {is_retrying} OR {is_dead}), {lag} FROM signals_delivery GROUP BY receiver"
    )
}

impl ReceiverStatus {
    fn of(name: &str) -> Self {
        Self {
            receiver: name.to_owned(),
            queue: None,
            waiting: 0,
            running: 0,
            retrying: 0,
            dead: 0,
            blocked_keys: 0,
            oldest_lag: None,
            at_least: false,
            succeeded_last_minute: 0,
            failed_last_minute: 0,
        }
    }

    fn cells(&self) -> [String; HEAD.len()] {
        let count = |count: u64| match count {
            1.. if self.at_least => format!("{count}+"),
            _ => count.to_string(),
        };
        [
            self.receiver.clone(),
            self.queue.unwrap_or("unknown receiver").to_owned(),
            count(self.waiting),
            count(self.running),
            count(self.retrying),
            count(self.dead),
            count(self.blocked_keys),
            self.oldest_lag.map(lag).unwrap_or_default(),
        ]
    }
}

const HEAD: [&str; 8] =
    ["receiver", "queue", "waiting", "running", "retrying", "dead", "blocked keys", "oldest lag"];

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_table(f, HEAD, self.receivers.iter().map(ReceiverStatus::cells))
    }
}

/// A lag in its two largest units.
fn lag(lag: Duration) -> String {
    let seconds = lag.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn seconds<S: Serializer>(lag: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    lag.map(|lag| lag.as_secs_f64()).serialize(serializer)
}
