//! An ordered receiver with many deliveries of one key that is blocked: how fast a worker runs those of other keys, compared with the same
//! without the blocked ones.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};

use crate::interleaved::{Case, Group, Rounds};
use crate::running;

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "bench_users")]
struct Ordered {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Ordered, durable(ordering_key = name, at_least_once))]
fn in_order(_: PostSave<'_, Ordered>) {
    running::ended();
}

const BLOCKED: usize = 100_000;
const KEYS: usize = 200;

struct Context {
    free: Db,
    blocked: Db,
    deliveries: usize,
}

/// `blocked` is another database, with the same tables.
pub(crate) async fn measure(database: &str, free: &Db, blocked: &Db, quick: bool) {
    let (rounds, deliveries, waiting) = if quick { (1, 200, 1_000) } else { (9, 2_000, BLOCKED) };
    // The first one of the key has failed, and is due in an hour.
    store(blocked, waiting, "'a'").await;
    let later = match blocked.kind() {
        DatabaseKind::Sqlite => "run_at + 3600000",
        DatabaseKind::Postgres => "run_at + interval '1 hour'",
    };
    let fail = format!(
        "UPDATE signals_delivery SET attempt = 1, error = 'failed', run_at = {later} \
         WHERE id = (SELECT min(id) FROM signals_delivery)"
    );
    blocked.execute(sqlx::AssertSqlSafe(fail)).await.unwrap();
    let mut context = Context { free: free.clone(), blocked: blocked.clone(), deliveries };
    let name = "worker, no other deliveries";
    let cases = vec![
        Case::base(name, async |context: &mut Context| {
            work(&context.free, context.deliveries).await
        }),
        Case::new("worker, one key is blocked", name, async |context: &mut Context| {
            work(&context.blocked, context.deliveries).await
        }),
    ];
    let group = format!("{deliveries} of {KEYS} keys, {waiting} blocked");
    println!("{}", Group::measure(database, group, Rounds(rounds, 1), cases, &mut context).await);
}

/// Stores deliveries whose ordering key is an expression of their number `n`.
async fn store(db: &Db, deliveries: usize, key: &str) {
    running::store(db, "blocked::in_order", deliveries, key).await;
}

/// The time from a commit that makes deliveries due until the last of them has run. Each of a key runs after the one before it is acknowledged.
async fn work(db: &Db, deliveries: usize) -> Duration {
    let key = format!("'key ' || (n % {KEYS})");
    let worker = db.deliveries().worker().poll(Duration::from_secs(600)).spawn().await.unwrap();
    // The first round of the worker finds nothing.
    tokio::time::sleep(Duration::from_millis(100)).await;
    running::begin(deliveries);
    store(db, deliveries, &key).await;
    let begun = Instant::now();
    running::wake_and_wait(db).await;
    let took = begun.elapsed();
    worker.shutdown().await.unwrap();
    took
}
