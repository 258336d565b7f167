//! What a worker claims, and when.
#![allow(missing_docs)]

#[cfg(feature = "postgres")]
#[path = "common/clock.rs"]
mod clock;
mod common;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use common::{Scene, execute, table};
use serde::{Deserialize, Serialize};
use sqlx_signals::durable::{DeliveryFilter, DeliveryState, Retry};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, testing};
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

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "spins")]
struct Spin {
    id: Option<i64>,
    n: i64,
}

/// Is polled all the time.
#[receiver(post_save, sender = Spin, durable(at_least_once))]
async fn spin(saved: PostSave<'_, Spin>) {
    SCENE.log.push(saved.instance.n.to_string());
    loop {
        tokio::task::yield_now().await;
    }
}

/// Waits outside of the database, in the transaction that has deleted the delivery.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "visits")]
struct Visit {
    id: Option<i64>,
    guest: String,
}

async fn visit(name: &str) {
    SCENE.log.push(name);
    let _ = GATE.acquire().await;
}

#[receiver(post_save, sender = Visit, durable(queue = "visits", timeout = "10m"))]
async fn run_visit(_: PostSave<'_, Visit>, _conn: &mut Conn<'_>) {
    visit("visit").await;
}

#[receiver(post_save, sender = Visit, durable(queue = "guests", ordering_key = guest, timeout = "10m"))]
async fn run_visit_of_guest(_: PostSave<'_, Visit>, _conn: &mut Conn<'_>) {
    visit("visit").await;
}

/// Its receiver waits for a statement.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "naps")]
struct Nap {
    id: Option<i64>,
    seconds: i64,
}

#[receiver(post_save, sender = Nap, durable(queue = "short", timeout = "3s", max_attempts = 1, keep = "1h"))]
async fn nap_shortly(saved: PostSave<'_, Nap>, conn: &mut Conn<'_>) -> Result<()> {
    nap(saved.instance.seconds, conn).await
}

#[receiver(post_save, sender = Nap, durable(queue = "long", timeout = "10m"))]
async fn nap_long(saved: PostSave<'_, Nap>, conn: &mut Conn<'_>) -> Result<()> {
    nap(saved.instance.seconds, conn).await
}

async fn nap(seconds: i64, conn: &mut Conn<'_>) -> Result<()> {
    SCENE.log.push("nap");
    let sleep = conn.query("SELECT pg_sleep($1)::text").bind(seconds as f64);
    sleep.fetch_one::<(String,)>().await.map(drop)
}

/// Runs until it is stopped.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "watches")]
struct Watch {
    id: Option<i64>,
    n: i64,
}

struct LogOnDrop;

impl Drop for LogOnDrop {
    fn drop(&mut self) {
        SCENE.log.push("stopped");
    }
}

#[receiver(post_save, sender = Watch, durable(at_least_once, timeout = "10m"))]
async fn watch(_: PostSave<'_, Watch>) {
    SCENE.log.push("begun");
    let _guard = LogOnDrop;
    std::future::pending::<()>().await;
}

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "pauses")]
struct Pause {
    id: Option<i64>,
    snoozes: bool,
}

#[receiver(post_save, sender = Pause, durable(at_least_once))]
async fn pause_for_ever(saved: PostSave<'_, Pause>) -> Result<()> {
    Err(match saved.instance.snoozes {
        true => Retry::snooze(Duration::MAX),
        false => Retry::after(Duration::MAX, "not soon"),
    })?
}

/// Fast jobs, one that blocks, and fast jobs again.
async fn store_jobs(db: &Db) -> usize {
    table(db, "jobs", "blocks BOOLEAN NOT NULL").await;
    db.deliveries().setup().await.unwrap();
    let mut jobs: Vec<_> = (0..200).map(|n| Job { id: None, blocks: n == 100 }).collect();
    Job::insert_many(db, &mut jobs).await.unwrap();
    jobs.len()
}

/// The statements of a program whose tables have version 1.
struct FirstVersion {
    kind: DatabaseKind,
}

impl FirstVersion {
    fn now(&self) -> &'static str {
        match self.kind {
            DatabaseKind::Sqlite => "CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)",
            DatabaseKind::Postgres => "clock_timestamp()",
        }
    }

    /// This number of seconds before all stored deliveries were due, or before now if there are none.
    fn seconds_before_all(&self, seconds: u32) -> String {
        let time = match self.kind {
            DatabaseKind::Sqlite => format!("{seconds} * 1000"),
            DatabaseKind::Postgres => format!("{seconds} * interval '1 s'"),
        };
        format!("(SELECT coalesce(min(run_at), {}) - {time} FROM signals_delivery)", self.now())
    }

    async fn store(&self, db: &Db, key: i64) {
        self.store_since(db, key, self.now().to_owned()).await;
    }

    /// Stores a delivery that is due at `run_at`.
    async fn store_since(&self, db: &Db, key: i64, run_at: String) {
        let created = if self.kind == DatabaseKind::Sqlite { "1" } else { "true" };
        let sql = format!(
            "INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key) VALUES \
             ('018f0000-0000-7000-8000-000000000000', 'durable_workers::run_job', 'post_save', 'jobs', '{key}', {created}, \
             '{{\"row\":{{\"id\":{key},\"blocks\":false}}}}', NULL, {run_at}, NULL)"
        );
        execute(db, &sql).await;
    }

    /// Claims the only delivery, and returns its id and claim.
    async fn claim(&self, db: &Db) -> (i64, i64) {
        let sql = format!(
            "UPDATE signals_delivery SET claim = claim + 1, attempt = attempt + 1, worker = 'first version', run_at = {} RETURNING id, claim",
            self.now()
        );
        let claimed = db.query(sqlx_signals::sqlx::AssertSqlSafe(sql));
        claimed.fetch_one::<(i64, i64)>().await.unwrap()
    }

    async fn acknowledge(&self, db: &Db, (id, claim): (i64, i64)) {
        let sql = "DELETE FROM signals_delivery WHERE id = $1 AND claim = $2";
        assert_eq!(db.query(sql).bind(id).bind(claim).execute().await.unwrap(), 1);
    }

    async fn fail(&self, db: &Db, (id, claim): (i64, i64)) {
        let sql = format!(
            "UPDATE signals_delivery SET worker = NULL, lost = 0, error = 'failed', run_at = {}, dead_at = NULL \
             WHERE id = {id} AND claim = {claim}",
            self.now()
        );
        execute(db, &sql).await;
    }
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

    /// The test stores the delivery as a transaction does that begins before the others and commits after them.
    async fn a_delivery_that_was_due_earlier_does_not_wait_for_the_end_of_a_backlog(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "jobs", "blocks BOOLEAN NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let mut jobs: Vec<_> = (0..10_000).map(|_| Job { id: None, blocks: false }).collect();
        Job::insert_many(&db, &mut jobs).await.unwrap();
        let worker = db.deliveries().worker().spawn().await.unwrap();
        until(|log| log.len() >= 500).await;
        let first = FirstVersion { kind: db.kind() };
        first.store_since(&db, 99_999, first.seconds_before_all(1)).await;
        let is_late = |line: &String| line == "99999 1";
        let log = until(|log| log.iter().any(is_late)).await;
        // The jobs may have run meanwhile, so its place counts.
        assert!(log.iter().position(is_late).unwrap() < jobs.len(), "it was the last one");
        worker.stop().await.unwrap();
        SCENE.log.take();
    }

    /// As if its transaction had taken an hour. Only a round without a lower bound finds it.
    async fn a_delivery_that_was_due_an_hour_before_the_last_one_is_found(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "jobs", "blocks BOOLEAN NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let worker = db.deliveries().worker().poll(Duration::from_millis(20)).spawn().await.unwrap();
        Job { id: None, blocks: false }.save(&db).await.unwrap();
        until(|log| log.len() == 1).await;
        let first = FirstVersion { kind: db.kind() };
        first.store_since(&db, 99_999, first.seconds_before_all(3600)).await;
        let log = until(|log| log.len() == 2).await;
        assert_eq!(log[1], "99999 1");
        worker.shutdown().await.unwrap();
        SCENE.log.take();
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

    async fn a_stopped_worker_gives_back_what_is_polled_while_it_stops(db: Db) {
        const SPINS: i64 = 50;
        let _turn = SCENE.begin().await;
        table(&db, "spins", "n BIGINT NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let mut spins: Vec<_> = (0..SPINS).map(|n| Spin { id: None, n }).collect();
        Spin::insert_many(&db, &mut spins).await.unwrap();
        for _ in 0..20 {
            let worker = db.deliveries().worker().concurrency(100).spawn().await.unwrap();
            until(|log| log.len() == spins.len()).await;
            worker.stop().await.unwrap();
            SCENE.log.take();
            assert_eq!(count(&db, "worker IS NULL AND attempt = 0 AND lost = 0").await, SPINS);
        }
    }

    /// The database refuses every statement of the worker, and answers again after the end of the lease.
    async fn a_delivery_that_could_not_be_acknowledged_during_its_lease_runs_again(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "jobs", "blocks BOOLEAN NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let worker = db.deliveries().worker().lease(Duration::from_millis(400)).poll(Duration::from_millis(20));
        let worker = worker.spawn().await.unwrap();
        Job { id: None, blocks: true }.save(&db).await.unwrap();
        until(|log| log == ["1 1"]).await;
        execute(&db, "ALTER TABLE signals_delivery RENAME TO moved").await;
        GATE.add_permits(1);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        execute(&db, "ALTER TABLE moved RENAME TO signals_delivery").await;
        until(|log| log == ["1 1", "1 1"]).await;
        worker.shutdown().await.unwrap();
        GATE.forget_permits(1);
        SCENE.log.take();
        assert_eq!(count(&db, "true").await, 0);
    }

    async fn a_delivery_that_is_postponed_for_ever_is_due_in_a_hundred_years(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "pauses", "snoozes BOOLEAN NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        for snoozes in [true, false] {
            Pause { id: None, snoozes }.save(&db).await.unwrap();
        }
        testing::deliver(&db).await.unwrap().assert_failed::<pause_for_ever>(2);
        let postponed = db.deliveries().list(DeliveryFilter::new()).await.unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        for delivery in &postponed {
            let delay = delivery.run_at.duration_since(SystemTime::now()).unwrap();
            assert!(delay > 36_000 * day && delay < 37_000 * day, "{delay:?}");
        }
        assert_eq!(postponed.len(), 2);
    }

    /// As in a deployment that replaces one process after the other.
    async fn a_program_of_the_first_version_works_on_the_tables_of_this_one(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "jobs", "blocks BOOLEAN NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let first = FirstVersion { kind: db.kind() };
        first.store(&db, 7).await;
        testing::deliver(&db).await.unwrap().assert_ran::<run_job>(1);
        assert_eq!(SCENE.log.take(), ["7 1"]);

        let mut job = Job { id: None, blocks: false };
        job.save(&db).await.unwrap();
        let claimed = first.claim(&db).await;
        first.acknowledge(&db, claimed).await;
        assert_eq!(count(&db, "true").await, 0);

        job.save(&db).await.unwrap();
        let claimed = first.claim(&db).await;
        first.fail(&db, claimed).await;
        testing::deliver(&db).await.unwrap().assert_ran::<run_job>(1);
        assert_eq!(SCENE.log.take(), ["1 2"]);
        assert_eq!(count(&db, "true").await, 0);
    }
}

/// The first worker was killed, and the delivery runs again in a transaction that is longer than its lease. It is deleted in this transaction, and
/// cannot be claimed by any worker.
#[cfg(feature = "postgres")]
async fn others_run_beside_a_long_transaction_of(queue: &str) {
    let _turn = SCENE.begin().await;
    let test = common::TestDb::postgres(&format!("long_{queue}")).await;
    let db = test.db.clone();
    table(&db, "visits", "guest TEXT NOT NULL").await;
    table(&db, "jobs", "blocks BOOLEAN NOT NULL").await;
    db.deliveries().setup().await.unwrap();
    Visit { id: None, guest: "a".into() }.save(&db).await.unwrap();
    execute(
        &db,
        "UPDATE signals_delivery SET worker = 'killed', claim = 1, attempt = 1, run_at = clock_timestamp() - interval '1 s'",
    )
    .await;
    let worker = db.deliveries().worker().queues([queue, "default"]);
    let lease = Duration::from_secs(1);
    let worker = worker.lease(lease).poll(Duration::from_millis(20));
    let first = worker.clone().spawn().await.unwrap();
    until(|log| log == ["visit"]).await;
    let second = worker.spawn().await.unwrap();
    // The delivery looks due.
    tokio::time::sleep(lease + lease / 2).await;
    for _ in 0..20 {
        Job { id: None, blocks: false }.save(&db).await.unwrap();
    }
    let jobs = async {
        // On a busy machine, one of them may lose its lease and run twice.
        let has_run = |log: &[String], n| log.iter().any(|line| line.starts_with(&format!("{n} ")));
        until(|log| (1..=20).all(|n| has_run(log, n))).await;
    };
    let ran = tokio::time::timeout(Duration::from_secs(10), jobs).await;
    GATE.add_permits(1);
    ran.expect("the jobs run beside it");
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
    SCENE.log.take();
    assert_eq!(count(&db, "receiver = 'durable_workers::run_job'").await, 0);
    db.close().await;
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_run_beside_a_delivery_that_runs_again_in_a_long_transaction() {
    others_run_beside_a_long_transaction_of("visits").await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_run_beside_a_delivery_with_a_key_that_runs_again_in_a_long_transaction() {
    others_run_beside_a_long_transaction_of("guests").await;
}

#[cfg(feature = "postgres")]
async fn setup_naps(name: &str) -> common::TestDb {
    let test = common::TestDb::postgres(name).await;
    table(&test.db, "naps", "seconds BIGINT NOT NULL").await;
    test.db.deliveries().setup().await.unwrap();
    test
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timeout_of_a_receiver_ends_its_statement() {
    let _turn = SCENE.begin().await;
    let test = setup_naps("timeout").await;
    let db = test.db.clone();
    let worker = db.deliveries().worker().queues(["short"]).concurrency(1).spawn().await.unwrap();
    for seconds in [3600, 0] {
        Nap { id: None, seconds }.save(&db).await.unwrap();
    }
    let both = until(|log| log.len() == 2);
    let ended = tokio::time::timeout(Duration::from_secs(20), both).await;
    ended.expect("the first one makes room for the second one");
    worker.shutdown().await.unwrap();
    let of_short = DeliveryFilter::new().queue("short").state(DeliveryState::Dead);
    let dead = db.deliveries().list(of_short).await.unwrap();
    let error = dead[0].error.as_deref().unwrap();
    assert!(dead.len() == 1 && error.contains("did not finish within 3s"), "{error}");
    assert_eq!(common::count(&db, "signals_done").await, 1);
    SCENE.log.take();
    db.close().await;
    test.passed().await;
}

/// A table lock stands for the index entries of ended deliveries, which also make a search slow. The shortest limit is five seconds.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_has_reached_its_limit_may_take_longer() {
    let _turn = SCENE.begin().await;
    let test = common::TestDb::postgres("slow_search").await;
    let db = test.db.clone();
    table(&db, "jobs", "blocks BOOLEAN NOT NULL").await;
    db.deliveries().setup().await.unwrap();
    let worker =
        db.deliveries().worker().lease(Duration::from_secs(1)).poll(Duration::from_millis(20));
    let worker = worker.spawn().await.unwrap();
    let mut tx = db.begin().await.unwrap();
    tx.execute("LOCK TABLE signals_delivery IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let longest = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                   AND query LIKE 'SELECT r.name%' AND clock_timestamp() - query_start > interval '6 s'";
    let wait = async {
        while db.query(longest).fetch_one::<(i64,)>().await.unwrap().0 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(40), wait).await;
    tx.rollback().await.unwrap();
    waited.expect("the second search takes longer than the first one");
    Job { id: None, blocks: false }.save(&db).await.unwrap();
    until(|log| log == ["1 1"]).await;
    worker.shutdown().await.unwrap();
    SCENE.log.take();
    db.close().await;
    test.passed().await;
}

/// The receiver writes to the log before its statement begins.
#[cfg(feature = "postgres")]
async fn until_a_statement_sleeps(db: &Db) {
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let wait = async {
        while db.query(sleeping).fetch_one::<(i64,)>().await.unwrap().0 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the statement begins");
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_ends_the_statement_of_a_receiver_and_gives_its_delivery_back() {
    let _turn = SCENE.begin().await;
    let test = setup_naps("stopped").await;
    let db = test.db.clone();
    let worker = db.deliveries().worker().queues(["long"]).spawn().await.unwrap();
    Nap { id: None, seconds: 3600 }.save(&db).await.unwrap();
    until(|log| log == ["nap"]).await;
    until_a_statement_sleeps(&db).await;
    let stopped = tokio::time::timeout(Duration::from_secs(20), worker.stop()).await;
    stopped.expect("the worker stops").unwrap();
    assert_eq!(
        count(&db, "receiver LIKE '%nap_long' AND worker IS NULL AND attempt = 0 AND lost = 0 AND run_at <= clock_timestamp()").await,
        1
    );
    SCENE.log.take();
    db.close().await;
    test.passed().await;
}

/// The connections that are open neither answer nor end, as if a firewall had forgotten them. New ones can be opened.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connections_are_silent_stops_its_receivers_in_time_and_recovers() {
    let _turn = SCENE.begin().await;
    let lease = Duration::from_secs(3);
    let test = common::TestDb::postgres("silent").await;
    table(&test.db, "watches", "n BIGINT NOT NULL").await;
    test.db.deliveries().setup().await.unwrap();
    let proxy = common::proxy::Proxy::start(&test.url).await;
    let db = proxy.db(&test.url).await;
    let worker = db.deliveries().worker().lease(lease).poll(Duration::from_millis(20));
    let worker = worker.spawn().await.unwrap();
    Watch { id: None, n: 0 }.save(&test.db).await.unwrap();
    until(|log| log == ["begun"]).await;
    proxy.silence_open();
    let stopped = tokio::time::timeout(lease + lease / 2, until(|log| log.len() > 1));
    let stopped = stopped.await.expect("it is stopped at the end of its lease");
    assert_eq!(stopped, ["begun", "stopped"]);
    let again = tokio::time::timeout(Duration::from_secs(30), until(|log| log.len() > 2));
    assert_eq!(again.await.expect("the worker claims it again")[2], "begun");
    let stopped = tokio::time::timeout(Duration::from_secs(30), worker.stop());
    stopped.await.expect("the worker stops").unwrap();
    SCENE.log.take();
    test.passed().await;
}

/// The clock of the server is an hour ahead of the worker's, or behind it.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_uses_only_the_clock_of_the_server() {
    let _turn = SCENE.begin().await;
    for offset in ["+ interval '1 hour'", "- interval '1 hour'"] {
        let test = common::TestDb::postgres("clock").await;
        let db = clock::shifted(&test, offset).await;
        table(&db, "jobs", "blocks BOOLEAN NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let options = || db.deliveries().worker().lease(Duration::from_secs(600));
        let first = options().spawn().await.unwrap();
        Job { id: None, blocks: true }.save(&db).await.unwrap();
        until(|log| log == ["1 1"]).await;
        // The lease ends in ten minutes by the clock of the server.
        let leased = "run_at BETWEEN clock_timestamp() + interval '5 minutes' AND clock_timestamp() + interval '10 minutes'";
        assert_eq!(count(&db, leased).await, 1);
        first.stop().await.unwrap();
        // It is due again at once.
        let second = options().spawn().await.unwrap();
        until(|log| log == ["1 1", "1 1"]).await;
        GATE.add_permits(1);
        second.shutdown().await.unwrap();
        GATE.forget_permits(1);
        SCENE.log.take();
        assert_eq!(count(&db, "true").await, 0);
        db.close().await;
        test.passed().await;
    }
}
