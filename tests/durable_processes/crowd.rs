//! Several worker processes share the deliveries of one database, while one of them is killed again and again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx_signals::DatabaseKind;

use crate::common::count;
use crate::process::{End, Process};
use crate::{Scene, is_long, until_none_is_left};

async fn crowd(kind: DatabaseKind, name: &str, workers: usize) {
    let begun = Instant::now();
    let scene = Scene::new(kind, name).await;
    let rows = if is_long() { 5000 } else { 200 };
    let started: Vec<_> = (0..workers).map(|_| Process::start(&scene, "serve", "")).collect();
    let mut processes = Vec::new();
    for process in started {
        processes.push(process.said("ready").await);
    }
    scene.insert_ticks(rows).await;
    let mut kills = 0;
    for part in 1..=3 {
        // The worker is in the middle of its work.
        while (count(&scene.db, "bookings").await as usize) < rows * part / 5 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let killed = processes.remove(0);
        killed.kill();
        assert_eq!(killed.end().await, End::Killed);
        kills += 1;
        processes.push(Process::start(&scene, "serve", "").said("ready").await);
    }
    until_none_is_left(&scene.db).await;
    for process in processes {
        assert_eq!(process.stop().await, End::Finished);
    }

    let effects = scene.check_ticks().await;
    let took_part: BTreeSet<_> = scene.effects.read().iter().map(|effect| effect.process).collect();
    assert!(took_part.len() >= workers, "every worker takes part: {took_part:?}");
    println!(
        "{kind:?}, {workers} workers: {} deliveries, {kills} kills, lost 0, {} effects repeated, {} processes took part, {:?}",
        2 * rows,
        effects - rows,
        took_part.len(),
        begun.elapsed()
    );
    scene.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_postgres_count_exactly_while_one_is_killed() {
    crowd(DatabaseKind::Postgres, "two_processes", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_on_postgres_count_exactly_while_one_is_killed() {
    crowd(DatabaseKind::Postgres, "eight_processes", 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_on_one_sqlite_file_count_exactly_while_one_is_killed() {
    crowd(DatabaseKind::Sqlite, "three_processes", 3).await;
}
