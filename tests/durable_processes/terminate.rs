//! The server closes the worker's connections again and again.

use std::time::{Duration, Instant};

use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;

use crate::{Scene, is_long, until_none_is_left};

const NAME: &str = "terminated worker";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connections_are_closed_in_a_stream_does_everything_once() {
    let begun = Instant::now();
    let scene = Scene::new(DatabaseKind::Postgres, "terminate").await;
    let limit = if is_long() { 1000 } else { 40 };
    let db = Db::options().application_name(NAME).connect(&scene.test.url).await.unwrap();
    let worker = db.with(scene.effects.clone()).deliveries().worker().lease(Duration::from_secs(1));
    let worker = worker.concurrency(4).poll(Duration::from_millis(20)).spawn().await.unwrap();
    let (mut closed, mut rows) = (0, 0);
    while closed < limit {
        // There is always something to do.
        if scene.left().await < 40 {
            scene.insert_ticks(20).await;
            rows += 20;
        }
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
                   WHERE application_name = $1 AND datname = current_database() ORDER BY random() LIMIT 1) AS one";
        let (count,): (i64,) = scene.db.query(sql).bind(NAME).fetch_one().await.unwrap();
        closed += count;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..30))).await;
    }
    until_none_is_left(&scene.db).await;
    worker.shutdown().await.unwrap();

    let effects = scene.check_ticks().await;
    println!(
        "{} deliveries, {closed} connections closed, lost 0, {} effects repeated, {:?}",
        2 * rows,
        effects - rows,
        begun.elapsed()
    );
    scene.passed().await;
}
