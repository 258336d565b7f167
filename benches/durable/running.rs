//! Deliveries that are stored already: claim, run and acknowledge all of them, compared with the same SQL by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};
use tokio::sync::{Mutex, Notify, mpsc};

use crate::interleaved::{Case, Group, Rounds};

/// How many deliveries are claimed and acknowledged at once.
pub(crate) const BATCH: usize = 100;
/// How many connections run receivers that take one.
const CONNECTIONS: usize = 4;

static ENDED: AtomicUsize = AtomicUsize::new(0);
static EXPECTED: AtomicUsize = AtomicUsize::new(usize::MAX);
static ALL_ENDED: Notify = Notify::const_new();

/// Called by every receiver.
pub(crate) fn ended() {
    if ENDED.fetch_add(1, Ordering::Relaxed) + 1 == EXPECTED.load(Ordering::Relaxed) {
        ALL_ENDED.notify_one();
    }
}

/// Counts the receivers from here on. `wake_and_wait` waits for this many.
pub(crate) fn begin(expected: usize) {
    ENDED.store(0, Ordering::Relaxed);
    EXPECTED.store(expected, Ordering::Relaxed);
}

/// How many receivers have ended since.
pub(crate) fn count() -> usize {
    ENDED.load(Ordering::Relaxed)
}

/// Stores one more delivery, because a commit through the library wakes the worker. Waits until all of them have run.
pub(crate) async fn wake_and_wait(db: &Db) {
    EXPECTED.fetch_add(1, Ordering::Relaxed);
    crate::One::new().save(db).await.unwrap();
    ALL_ENDED.notified().await;
}

struct Context {
    db: Db,
    deliveries: usize,
}

pub(crate) async fn measure(database: &str, db: &Db, quick: bool) {
    let (rounds, deliveries) = if quick { (1, 300) } else { (9, 3_000) };
    let mut context = Context { db: db.clone(), deliveries };
    let cases = vec![
        Case::base("sqlx: claim 100, delete 100", async |context: &mut Context| {
            store(&context.db, "first", context.deliveries, "NULL").await;
            let begun = Instant::now();
            by_hand(&context.db, "durable::first").await;
            begun.elapsed()
        }),
        Case::new(
            "worker, receivers that do nothing",
            "sqlx: claim 100, delete 100",
            async |context: &mut Context| context.work("first", BATCH).await,
        ),
    ];
    let group = format!("run {deliveries} deliveries");
    println!("{}", Group::measure(database, group, Rounds(rounds, 1), cases, &mut context).await);
    // SQLite has one writer, so more connections do not help.
    let connections = if db.kind() == DatabaseKind::Sqlite { 1 } else { CONNECTIONS };
    context.deliveries /= 3;
    let cases = vec![
        Case::base(
            "sqlx: claim, BEGIN, DELETE, INSERT, COMMIT",
            async move |context: &mut Context| {
                store(&context.db, "write_effect", context.deliveries, "NULL").await;
                let begun = Instant::now();
                by_hand_with_effect(&context.db, "durable::write_effect", connections).await;
                begun.elapsed()
            },
        ),
        Case::new(
            "worker, receivers with the connection",
            "sqlx: claim, BEGIN, DELETE, INSERT, COMMIT",
            async move |context: &mut Context| context.work("write_effect", connections).await,
        ),
    ];
    let group = format!("run {} deliveries that write", context.deliveries);
    println!("{}", Group::measure(database, group, Rounds(rounds, 1), cases, &mut context).await);
    latency(database, db, if quick { 10 } else { 300 }).await;
}

impl Context {
    /// The time from a commit that makes deliveries due until a worker has acknowledged all of them.
    async fn work(&self, receiver: &str, concurrency: usize) -> Duration {
        let worker = self.db.deliveries().worker().concurrency(concurrency);
        let worker = worker.poll(Duration::from_secs(600)).spawn().await.unwrap();
        // The first round of the worker finds nothing.
        tokio::time::sleep(Duration::from_millis(100)).await;
        begin(self.deliveries);
        store(&self.db, receiver, self.deliveries, "NULL").await;
        let begun = Instant::now();
        wake_and_wait(&self.db).await;
        while left(&self.db).await > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = begun.elapsed();
        worker.shutdown().await.unwrap();
        took
    }
}

/// Stores deliveries of a receiver. The ordering key is an expression of the number `n` of the delivery.
pub(crate) async fn store(db: &Db, receiver: &str, deliveries: usize, ordering_key: &str) {
    let (event, created) = match db.kind() {
        DatabaseKind::Sqlite => ("'0190a5d1-0000-7000-8000-000000000000'", "1"),
        DatabaseKind::Postgres => ("gen_random_uuid()", "true"),
    };
    let sql = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {deliveries}) \
         INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, ordering_key) \
         SELECT {event}, 'durable::{receiver}', 'post_save', 'bench_users', CAST(n AS TEXT), {created}, \
         '{{\"row\":{{\"id\":null,\"name\":\"Ann\",\"email\":\"ann@example.org\"}}}}', {ordering_key} FROM numbers"
    );
    db.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
}

async fn left(db: &Db) -> i64 {
    let sql = "SELECT count(*) FROM signals_delivery";
    db.query(sql).fetch_one::<(i64,)>().await.unwrap().0
}

/// From the return of `save` to the start of the receiver, in the same process.
async fn latency(database: &str, db: &Db, saves: usize) {
    let worker = db.deliveries().worker().spawn().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut all = Vec::new();
    for _ in 0..saves {
        begin(1);
        crate::One::new().save(db).await.unwrap();
        let begun = Instant::now();
        ALL_ENDED.notified().await;
        all.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    worker.shutdown().await.unwrap();
    crate::print_quantiles(database, "the same process", all);
}

const CLAIMED: &str =
    "id, receiver, signal, sender, key, created, context, attempt, claim, lost, ordering_key";

fn claim(kind: DatabaseKind, limit: usize) -> String {
    match kind {
        DatabaseKind::Postgres => format!(
            "WITH due AS MATERIALIZED (SELECT id FROM signals_delivery WHERE receiver = $1 AND dead_at IS NULL AND run_at <= \
             statement_timestamp() AND ordering_key IS NULL ORDER BY run_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED) \
             UPDATE signals_delivery d SET claim = d.claim + 1, attempt = d.attempt + 1, worker = 'by hand', \
             run_at = clock_timestamp() + interval '30 s' FROM due WHERE d.id = due.id RETURNING d.id, d.claim, d.payload::text, {}",
            CLAIMED
                .split(", ")
                .skip(1)
                .map(|column| format!("d.{column}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        DatabaseKind::Sqlite => format!(
            "WITH due AS (SELECT id FROM signals_delivery WHERE receiver = $1 AND dead_at IS NULL AND run_at <= \
             CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) AND ordering_key IS NULL ORDER BY run_at, id LIMIT {limit}) \
             UPDATE signals_delivery AS d SET claim = d.claim + 1, attempt = d.attempt + 1, worker = 'by hand', \
             run_at = CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) + 30000 WHERE id IN (SELECT id FROM due) \
             RETURNING id, claim, payload, {CLAIMED}"
        ),
    }
}

const ACKNOWLEDGE_POSTGRES: &str = "DELETE FROM signals_delivery d USING unnest($1::bigint[], $2::bigint[]) AS a (id, claim) \
     WHERE d.id = a.id AND d.claim = a.claim RETURNING d.id";

const ACKNOWLEDGE_SQLITE: &str = "DELETE FROM signals_delivery WHERE (id, claim) IN (SELECT i.value, c.value FROM json_each($1) AS i \
     JOIN json_each($2) AS c ON c.key = i.key) RETURNING id";

/// Claims a batch, and returns the ids and claims.
macro_rules! claimed {
    ($conn:expr, $sql:expr, $receiver:expr) => {{
        use sqlx::Row;
        let sql = sqlx::AssertSqlSafe($sql.to_owned());
        let rows = sqlx::query(sql).bind($receiver).fetch_all(&mut *$conn).await.unwrap();
        let decoded = rows.iter().map(|row| {
            let payload: serde_json::Value = serde_json::from_str(row.get(2)).unwrap();
            std::hint::black_box(payload);
            (row.get::<i64, _>(0), row.get::<i64, _>(1))
        });
        decoded.unzip::<i64, i64, Vec<_>, Vec<_>>()
    }};
}

/// On one connection.
async fn by_hand(db: &Db, receiver: &str) {
    let sql = claim(db.kind(), BATCH);
    let mut conn = db.acquire().await.unwrap();
    loop {
        let is_empty = match db.kind() {
            #[cfg(feature = "postgres")]
            DatabaseKind::Postgres => {
                let conn = conn.postgres().unwrap();
                let (ids, claims) = claimed!(conn, sql, receiver);
                let query = sqlx::query(ACKNOWLEDGE_POSTGRES).bind(&ids).bind(&claims);
                query.fetch_all(&mut *conn).await.unwrap();
                ids.is_empty()
            }
            #[cfg(feature = "sqlite")]
            DatabaseKind::Sqlite => {
                let conn = conn.sqlite().unwrap();
                let (ids, claims) = claimed!(conn, sql, receiver);
                let json = |values: &[i64]| serde_json::json!(values).to_string();
                let query = sqlx::query(ACKNOWLEDGE_SQLITE).bind(json(&ids)).bind(json(&claims));
                query.fetch_all(&mut *conn).await.unwrap();
                ids.is_empty()
            }
            #[allow(unreachable_patterns)]
            _ => unreachable!(),
        };
        if is_empty {
            return;
        }
    }
}

/// One connection claims, others run a transaction for each delivery.
async fn by_hand_with_effect(db: &Db, receiver: &str, connections: usize) {
    let (sender, receiving) = mpsc::channel::<(i64, i64)>(connections);
    let receiving = Arc::new(Mutex::new(receiving));
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (db, receiving) = (db.clone(), Arc::clone(&receiving));
            tokio::spawn(async move {
                let mut conn = db.acquire().await.unwrap();
                loop {
                    let next = receiving.lock().await.recv().await;
                    let Some((id, claim)) = next else { return };
                    run_with_effect(&mut conn, id, claim).await;
                }
            })
        })
        .collect();
    let sql = claim(db.kind(), connections);
    loop {
        let mut conn = db.acquire().await.unwrap();
        let (ids, claims): (Vec<i64>, Vec<i64>) = match db.kind() {
            #[cfg(feature = "postgres")]
            DatabaseKind::Postgres => claimed!(conn.postgres().unwrap(), sql, receiver),
            #[cfg(feature = "sqlite")]
            DatabaseKind::Sqlite => claimed!(conn.sqlite().unwrap(), sql, receiver),
            #[allow(unreachable_patterns)]
            _ => unreachable!(),
        };
        if ids.is_empty() {
            break;
        }
        for claimed in ids.into_iter().zip(claims) {
            sender.send(claimed).await.unwrap();
        }
    }
    drop(sender);
    for task in tasks {
        task.await.unwrap();
    }
}

async fn run_with_effect(conn: &mut Conn<'_>, id: i64, claim: i64) {
    use sqlx::Connection;
    const DELETE: &str = "DELETE FROM signals_delivery WHERE id = $1 AND claim = $2";
    const EFFECT: &str = "INSERT INTO bench_effects (user_id) VALUES ($1) RETURNING id";
    macro_rules! run {
        ($tx:expr) => {{
            let mut tx = $tx.await.unwrap();
            sqlx::query(DELETE).bind(id).bind(claim).execute(&mut *tx).await.unwrap();
            let _: Vec<i64> =
                sqlx::query_scalar(EFFECT).bind(id).fetch_all(&mut *tx).await.unwrap();
            tx.commit().await.unwrap();
        }};
    }
    match conn.kind() {
        #[cfg(feature = "postgres")]
        DatabaseKind::Postgres => run!(conn.postgres().unwrap().begin()),
        #[cfg(feature = "sqlite")]
        DatabaseKind::Sqlite => run!(conn.sqlite().unwrap().begin_with("BEGIN IMMEDIATE")),
        #[allow(unreachable_patterns)]
        _ => unreachable!(),
    }
}
