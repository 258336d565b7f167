//! A commit wakes the workers of other processes, which poll every ten minutes here.

use std::time::{Duration, Instant};

use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;

use crate::common::proxy::Proxy;
use crate::common::{count, until};
use crate::process::{End, Process, until_stdin_is_closed};
use crate::{Scene, Tick};

/// The child: works until its standard input is closed.
pub(crate) async fn wait(db: &Db, name: &str) {
    let worker = db.deliveries().worker().poll(Duration::from_secs(600)).listen(name == "listen");
    let worker = worker.spawn().await.unwrap();
    // The first round finds nothing, and the listener is connected.
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("ready");
    until_stdin_is_closed().await;
    worker.shutdown().await.unwrap();
}

fn tick(name: &str) -> Tick {
    Tick { id: None, name: name.into() }
}

/// Waits until all deliveries have run, and returns how long that took.
async fn until_run(scene: &Scene) -> Duration {
    let begun = Instant::now();
    while scene.left().await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the worker is not woken");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    begun.elapsed()
}

async fn woken(kind: DatabaseKind, name: &str) {
    let scene = Scene::new(kind, name).await;
    let child = Process::start(&scene, "wait", "listen").said("ready").await;
    tick("in a statement").save(&scene.db).await.unwrap();
    let statement = until_run(&scene).await;
    let mut tx = scene.db.begin().await.unwrap();
    tick("in a transaction").save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let transaction = until_run(&scene).await;
    println!("{kind:?}: run {statement:?} and {transaction:?} after the commit of another process");
    if kind == DatabaseKind::Postgres {
        let listener = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
                        WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        let ended: Vec<(String,)> = scene.db.query(listener).fetch_all().await.unwrap();
        assert_eq!(ended, [("true".to_owned(),)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        tick("after a lost connection").save(&scene.db).await.unwrap();
        until_run(&scene).await;
    }
    assert_eq!(child.stop().await, End::Finished);
    scene.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_wakes_a_listening_process_on_postgres() {
    woken(DatabaseKind::Postgres, "wake").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_wakes_another_process_on_sqlite() {
    woken(DatabaseKind::Sqlite, "wake").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_does_not_listen_polls() {
    let scene = Scene::new(DatabaseKind::Postgres, "deaf").await;
    let child = Process::start(&scene, "wait", "deaf").said("ready").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let (listeners,): (i64,) = scene.db.query(sql).fetch_one().await.unwrap();
    assert_eq!(listeners, 0);
    // A process that gets no time does its first round when there is a delivery already.
    for _ in 0..2 {
        tick("waits").save(&scene.db).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if scene.left().await > 0 {
            break;
        }
    }
    assert_eq!(scene.left().await, 2);
    assert_eq!(child.stop().await, End::Finished);
    scene.passed().await;
}

/// A NOTIFY in the transactions of the saves would make their commits wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_saves_send_few_notifications_on_a_connection_of_their_own() {
    let scene = Scene::new(DatabaseKind::Postgres, "notifications").await;
    let proxy = Proxy::start(&scene.test.url).await;
    let options = Db::options().max_connections(1);
    let db = options.connect(&proxy.url(&scene.test.url)).await.unwrap();
    let begun = Instant::now();
    for n in 0..300 {
        tick(&n.to_string()).save(&db).await.unwrap();
    }
    let tx = db.begin().await.unwrap();
    // The only connection of the pool is in a transaction.
    until(|| proxy.said().iter().any(|sql| sql.starts_with("NOTIFY"))).await;
    tx.rollback().await.unwrap();
    let most = begun.elapsed().as_millis() / 50 + 2;
    let said = proxy.take().statements;
    let notifications = said.iter().filter(|sql| sql.starts_with("NOTIFY")).count();
    assert!((1..=most as usize).contains(&notifications), "{notifications} of at most {most}");
    assert_eq!(count(&scene.db, "ticks").await, 300);
    let other = said.iter().filter(|sql| !sql.starts_with("NOTIFY") && sql.contains("NOTIFY"));
    assert_eq!(other.count(), 0);
    scene.passed().await;
}
