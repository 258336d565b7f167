//! The server is restarted while a program stores deliveries and runs them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;

use crate::cluster::Cluster;
use crate::{Scene, Tick, is_long, until_none_is_left};

/// Saves ticks until `ends` is set. Returns the names of those whose save has succeeded.
async fn save_ticks(db: Db, ends: &AtomicBool) -> BTreeSet<String> {
    let mut saved = BTreeSet::new();
    for n in 0.. {
        if ends.load(Ordering::SeqCst) {
            break;
        }
        let mut tick = Tick { id: None, name: format!("tick {n:07}") };
        match tick.save(&db).await {
            Ok(_) => drop(saved.insert(tick.name)),
            // The server is down.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    saved
}

/// Waits until the workers have counted further ticks.
pub(crate) async fn until_counted(scene: &Scene, more: i64) -> Duration {
    let begun = Instant::now();
    let wait = async {
        // The first statements after a restart find a closed connection.
        let count = async || {
            let sql = "SELECT CAST(value AS BIGINT) FROM counter";
            scene.db.query(sql).fetch_one::<(i64,)>().await.map(|(count,)| count)
        };
        let mut first = None;
        loop {
            let counted = count().await.ok();
            first = first.or(counted);
            if counted.zip(first).is_some_and(|(counted, first)| counted >= first + more) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.expect("the worker works again");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_loses_nothing_and_repeats_no_transaction() {
    let begun = Instant::now();
    let cluster = Cluster::start("restart");
    let scene = Scene::on_server(DatabaseKind::Postgres, "restart", Some(&cluster.url())).await;
    let worker = scene.db.deliveries().worker().lease(Duration::from_secs(2)).concurrency(4);
    let worker = worker.poll(Duration::from_millis(20)).spawn().await.unwrap();
    static ENDS: AtomicBool = AtomicBool::new(false);
    let saving = tokio::spawn(save_ticks(scene.db.clone(), &ENDS));
    let restarts = if is_long() { 100 } else { 2 };
    let mut recoveries = Vec::new();
    for n in 0..restarts {
        until_counted(&scene, 10).await;
        cluster.restart(if n % 2 == 0 { "immediate" } else { "fast" });
        recoveries.push(until_counted(&scene, 1).await);
    }
    until_counted(&scene, 10).await;
    ENDS.store(true, Ordering::SeqCst);
    let saved = saving.await.unwrap();
    until_none_is_left(&scene.db).await;
    worker.shutdown().await.unwrap();

    let rows: BTreeSet<_> = scene.names("ticks").await.into_iter().collect();
    assert!(saved.is_subset(&rows), "a save that has succeeded is stored");
    let effects = scene.check_ticks().await;
    recoveries.sort_unstable();
    println!(
        "{restarts} restarts, {} rows, {} deliveries, lost 0, phantom 0, {} effects repeated, the worker works again after {:?} (median) \
         and {:?} (longest), {:?}",
        rows.len(),
        2 * rows.len(),
        effects - rows.len(),
        recoveries[recoveries.len() / 2],
        recoveries.last().unwrap(),
        begun.elapsed()
    );
    scene.passed().await;
}
