//! Durable receivers in several processes that are killed, stopped and disconnected: no delivery is lost, none is stored for a row that is
//! not there, and what a receiver writes through its connection happens once.
//!
//! The processes are this program again, see `process.rs`. `SIGNALS_LONG=1` runs longer histories.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod chaos;
mod cluster;
mod crowd;
mod fence;
mod poison;
mod process;
mod restart;
mod sweep;
mod terminate;
mod wake;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{TestDb, execute, table};
use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, sqlx};

/// Longer histories, for CI's nightly run.
fn is_long() -> bool {
    std::env::var_os("SIGNALS_LONG").is_some()
}

/// The effects that are not part of a transaction: lines of a file, with the name of the row, the idempotency key and the process.
#[derive(Debug, Clone)]
struct Effects {
    file: PathBuf,
    /// Whether the process is a child, which stops or kills itself.
    is_child: bool,
}

/// A line of the effects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Effect {
    name: String,
    key: String,
    process: u32,
}

impl Effects {
    fn push(&self, name: &str, delivery: &Delivery<'_>) {
        process::point();
        let mut file = std::fs::File::options().append(true).create(true).open(&self.file).unwrap();
        let line = format!("{name}\t{}\t{}\n", delivery.idempotency_key(), std::process::id());
        file.write_all(line.as_bytes()).unwrap();
        process::point();
    }

    fn read(&self) -> Vec<Effect> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let line = |line: &str| {
            let mut parts = line.split('\t').map(str::to_owned);
            let mut next = || parts.next().unwrap();
            Effect { name: next(), key: next(), process: next().parse().unwrap() }
        };
        text.lines().map(line).collect()
    }
}

/// A database with the tables of this file, and the file of the effects.
struct Scene {
    test: TestDb,
    /// With the effects as a `State`.
    db: Db,
    effects: Effects,
}

impl Scene {
    async fn new(kind: DatabaseKind, name: &str) -> Self {
        Self::on_server(kind, name, None).await
    }

    /// On the PostgreSQL server of this URL.
    async fn on_server(kind: DatabaseKind, name: &str, server: Option<&str>) -> Self {
        let test = match (kind, server) {
            (DatabaseKind::Sqlite, _) => TestDb::sqlite(name).await,
            (DatabaseKind::Postgres, None) => TestDb::postgres(name).await,
            (DatabaseKind::Postgres, Some(server)) => TestDb::postgres_on(server, name).await,
        };
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let base = test.name().rsplit('/').next().unwrap();
        let file = file.join(format!("{base}.{kind:?}.effects"));
        for old in [&file, &file.with_extension("continues")] {
            let _ = std::fs::remove_file(old);
        }
        let effects = Effects { file, is_child: false };
        let db = test.db.with(effects.clone());
        for name in ["orders", "ticks", "pauses", "stops", "parcels", "bookings"] {
            table(&db, name, "name TEXT NOT NULL").await;
        }
        execute(&db, "CREATE TABLE counter (value INTEGER NOT NULL)").await;
        execute(&db, "INSERT INTO counter VALUES (0)").await;
        db.deliveries().setup().await.unwrap();
        Self { test, db, effects }
    }

    /// The number of deliveries that are not dead.
    async fn left(&self) -> i64 {
        left(&self.db).await
    }

    /// The leases of killed workers have ended.
    async fn an_hour_passes(&self) {
        let hour = match self.db.kind() {
            DatabaseKind::Sqlite => "3600000",
            DatabaseKind::Postgres => "interval '1 hour'",
        };
        let sql =
            format!("UPDATE signals_delivery SET run_at = run_at - {hour} WHERE dead_at IS NULL");
        execute(&self.db, &sql).await;
    }

    async fn names(&self, table: &str) -> Vec<String> {
        let sql = format!("SELECT name FROM {table} ORDER BY name");
        let names: Vec<(String,)> =
            self.db.query(sqlx::AssertSqlSafe(sql)).fetch_all().await.unwrap();
        names.into_iter().map(|(name,)| name).collect()
    }

    /// The receivers and errors of dead deliveries.
    async fn dead(&self) -> Vec<(String, String)> {
        let sql =
            "SELECT receiver, error FROM signals_delivery WHERE dead_at IS NOT NULL ORDER BY id";
        let dead: Vec<(String, String)> = self.db.query(sql).fetch_all().await.unwrap();
        let name = |path: String| path.rsplit("::").next().unwrap().to_owned();
        dead.into_iter().map(|(receiver, error)| (name(receiver), error)).collect()
    }

    async fn counter(&self) -> i64 {
        let sql = "SELECT CAST(value AS BIGINT) FROM counter";
        let (value,): (i64,) = self.db.query(sql).fetch_one().await.unwrap();
        value
    }

    async fn passed(self) {
        for file in [&self.effects.file, &self.effects.file.with_extension("continues")] {
            let _ = std::fs::remove_file(file);
        }
        drop(self.db);
        self.test.passed().await;
    }
}

/// Waits until every delivery is dead or done. How long all of them take depends on the machine, so only a standstill is a failure.
async fn until_none_is_left(db: &Db) {
    // A worker waits up to 30 seconds after several lost connections.
    let limit = Duration::from_secs(90);
    let (mut fewest, mut since) = (i64::MAX, Instant::now());
    loop {
        let left = left(db).await;
        if left == 0 {
            return;
        }
        if left < fewest {
            (fewest, since) = (left, Instant::now());
        }
        if since.elapsed() > limit {
            let sql = "SELECT receiver, worker, claim, lost FROM signals_delivery WHERE dead_at IS NULL LIMIT 20";
            let some: Vec<(String, Option<String>, i64, i32)> =
                db.query(sql).fetch_all().await.unwrap();
            panic!("{left} deliveries have been left for {limit:?}: {some:#?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn left(db: &Db) -> i64 {
    let sql = "SELECT count(*) FROM signals_delivery WHERE dead_at IS NULL";
    let (left,): (i64,) = db.query(sql).fetch_one().await.unwrap();
    left
}

/// Writes that a row was received, in the transaction of the delivery.
async fn book(name: &str, conn: &mut Conn<'_>) -> Result<()> {
    conn.query("INSERT INTO bookings (name) VALUES ($1)").bind(name).execute().await?;
    Ok(())
}

/// The model of the sweep.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "orders")]
struct Order {
    id: Option<i64>,
    name: String,
}

impl Order {
    fn fails(&self, delivery: &Delivery<'_>) -> Result<()> {
        match self.name.rsplit(' ').next() {
            Some("again") if delivery.attempt() == 1 => Err(Error::other("not yet")),
            Some("refused") => Err(Error::other("never")),
            _ => Ok(()),
        }
    }
}

#[receiver(post_save, sender = Order, created, durable(max_attempts = 2, backoff = "20ms"))]
async fn book_order(
    saved: PostSave<'_, Order>,
    delivery: Delivery<'_>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    book(&saved.instance.name, conn).await?;
    saved.instance.fails(&delivery)
}

#[receiver(post_save, sender = Order, created, durable(max_attempts = 2, backoff = "20ms"))]
async fn announce_order(
    saved: PostSave<'_, Order>,
    delivery: Delivery<'_>,
    State(effects): State<Effects>,
) -> Result<()> {
    effects.push(&saved.instance.name, &delivery);
    saved.instance.fails(&delivery)
}

/// The model of many workers.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "ticks")]
struct Tick {
    id: Option<i64>,
    name: String,
}

impl Scene {
    async fn insert_ticks(&self, rows: usize) {
        let first = self.names("ticks").await.len();
        let tick = |n| Tick { id: None, name: format!("tick {n:05}") };
        let mut ticks: Vec<_> = (first..first + rows).map(tick).collect();
        Tick::insert_many(&self.db, &mut ticks).await.unwrap();
    }

    /// Each tick was counted and booked once, and announced at least once with one key. Returns the number of announcements.
    async fn check_ticks(&self) -> usize {
        let ticks = self.names("ticks").await;
        assert_eq!(self.counter().await, ticks.len() as i64, "each delivery is counted once");
        assert_eq!(self.names("bookings").await, ticks, "each delivery is booked once");
        let effects = self.effects.read();
        let keys: BTreeSet<_> = effects.iter().map(|effect| (&effect.name, &effect.key)).collect();
        assert!(keys.iter().map(|(name, _)| *name).eq(&ticks), "each has its effect, with one key");
        assert_eq!(self.dead().await, []);
        effects.len()
    }
}

#[receiver(post_save, sender = Tick, durable(backoff = "20ms"))]
async fn count_tick(saved: PostSave<'_, Tick>, conn: &mut Conn<'_>) -> Result<()> {
    book(&saved.instance.name, &mut *conn).await?;
    conn.execute("UPDATE counter SET value = value + 1").await?;
    Ok(())
}

#[receiver(post_save, sender = Tick, durable(backoff = "20ms"))]
async fn announce_tick(
    saved: PostSave<'_, Tick>,
    delivery: Delivery<'_>,
    State(effects): State<Effects>,
) {
    effects.push(&saved.instance.name, &delivery);
    tokio::time::sleep(Duration::from_millis(2)).await;
}
