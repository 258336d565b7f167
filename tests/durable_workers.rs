//! What a worker claims, and when.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;
use std::time::Duration;

use common::{Scene, table};
use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use tokio::sync::Semaphore;

static SCENE: LazyLock<Scene> = Scene::new();

/// Lets the run of a job end that blocks.
static GATE: Semaphore = Semaphore::const_new(0);

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "jobs")]
struct Job {
    id: Option<i64>,
    blocks: bool,
}

#[receiver(post_save, sender = Job, durable(timeout = "10m"))]
async fn run_job(saved: PostSave<'_, Job>, delivery: Delivery<'_>) {
    SCENE.log.push(format!("{} {}", saved.pk(), delivery.attempt()));
    if saved.instance.blocks {
        let _ = GATE.acquire().await;
    }
}

/// Fast jobs, one that blocks, and fast jobs again.
async fn store_jobs(db: &Db) -> usize {
    table(db, "jobs", "blocks BOOLEAN NOT NULL").await;
    db.deliveries().setup().await.unwrap();
    let mut jobs: Vec<_> = (0..200).map(|n| Job { id: None, blocks: n == 100 }).collect();
    Job::insert_many(db, &mut jobs).await.unwrap();
    jobs.len()
}

/// Waits until the log of the jobs is complete, and returns it.
async fn until(is_complete: impl Fn(&[String]) -> bool) -> Vec<String> {
    let wait = async {
        while !is_complete(&SCENE.log.entries()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        SCENE.log.entries()
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.expect("the jobs are run")
}

fn is_blocked(log: &[String]) -> bool {
    log.iter().any(|line| line == "101 1")
}

async fn count(db: &Db, condition: &'static str) -> i64 {
    let sql = format!("SELECT count(*) FROM signals_delivery WHERE {condition}");
    db.query(sqlx_signals::sqlx::AssertSqlSafe(sql)).fetch_one::<(i64,)>().await.unwrap().0
}

on_every_database! {
    /// The first worker may have claimed some of them ahead, because the jobs before them were fast.
    async fn what_waits_behind_a_blocked_receiver_is_run_by_another_worker(db: Db) {
        let _turn = SCENE.begin().await;
        let jobs = store_jobs(&db).await;
        let options = || db.deliveries().worker().concurrency(1).poll(Duration::from_millis(20));
        let first = options().spawn().await.unwrap();
        until(is_blocked).await;
        let second = options().spawn().await.unwrap();
        let mut log = until(|log| log.len() >= jobs).await;
        SCENE.log.take();
        log.sort_by_key(|line| line.split(' ').next().unwrap().parse::<i64>().unwrap());
        let once: Vec<_> = (1..=jobs).map(|id| format!("{id} 1")).collect();
        assert_eq!(log, once);
        GATE.add_permits(1);
        first.shutdown().await.unwrap();
        second.shutdown().await.unwrap();
        assert_eq!(count(&db, "true").await, 0);
        GATE.forget_permits(1);
    }

    async fn a_stopped_worker_gives_back_what_it_has_claimed_ahead(db: Db) {
        let _turn = SCENE.begin().await;
        store_jobs(&db).await;
        let worker = db.deliveries().worker().concurrency(1).spawn().await.unwrap();
        until(is_blocked).await;
        worker.stop().await.unwrap();
        SCENE.log.take();
        assert!(count(&db, "true").await >= 1);
        assert_eq!(count(&db, "worker IS NOT NULL OR attempt > 0 OR lost > 0").await, 0);
    }
}
