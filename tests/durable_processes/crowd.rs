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
    let rows = rows + until_each_takes_part(&scene, &processes).await;
    until_none_is_left(&scene.db).await;
    for process in processes {
        assert_eq!(process.stop().await, End::Finished);
    }

    let effects = scene.check_ticks().await;
    println!(
        "{kind:?}, {workers} workers: {} deliveries, {kills} kills, lost 0, {} effects repeated, {:?}",
        2 * rows,
        effects - rows,
        begun.elapsed()
    );
    scene.passed().await;
}

/// Inserts rows until each of the processes has made an effect, however the system divides its time among them. Returns
/// the number of rows.
async fn until_each_takes_part(scene: &Scene, processes: &[Process]) -> usize {
    let limit = Instant::now() + Duration::from_secs(120);
    let mut rows = 0;
    loop {
        let took_part: BTreeSet<_> =
            scene.effects.read().iter().map(|effect| effect.process).collect();
        if processes.iter().all(|process| took_part.contains(&process.id())) {
            return rows;
        }
        assert!(Instant::now() < limit, "some process takes no delivery: {took_part:?}");
        if scene.left().await == 0 {
            scene.insert_ticks(40).await;
            rows += 40;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
