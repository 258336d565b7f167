//! Worker processes are killed and the server is restarted at random times, while a program stores deliveries: ten seconds, or an hour.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;

use crate::cluster::Cluster;
use crate::process::{End, Process};
use crate::restart::until_counted;
use crate::{Scene, Tick, is_long, until_none_is_left};

const WORKERS: usize = 3;

/// Stores ticks until `ends` is set. Returns the names of those whose transaction was committed.
async fn store(db: Db, ends: &AtomicBool) -> BTreeSet<String> {
    let mut committed = BTreeSet::new();
    let mut numbers = 0..;
    let mut next = || Tick { id: None, name: format!("tick {:07}", numbers.next().unwrap()) };
    while !ends.load(Ordering::SeqCst) {
        match store_some(&db, &mut next).await {
            Ok(names) => committed.extend(names),
            // The server is down.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        // There is always something to do, and not more than can be done soon.
        while !ends.load(Ordering::SeqCst) && left(&db).await.is_none_or(|left| left > 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    committed
}

/// Stores one tick, or several in a transaction, or some that are rolled back. Returns the names of the committed ones.
async fn store_some(db: &Db, next: &mut impl FnMut() -> Tick) -> Result<Vec<String>> {
    let mut tick = next();
    let kind = fastrand::u8(..4);
    if kind < 2 {
        tick.save(db).await?;
        return Ok(vec![tick.name]);
    }
    let mut tx = db.begin().await?;
    tick.save(&mut tx).await?;
    let mut savepoint = tx.begin().await?;
    next().save(&mut savepoint).await?;
    savepoint.rollback().await?;
    let mut more = [next(), next()];
    Tick::insert_many(&mut tx, &mut more).await?;
    if kind == 2 {
        tx.rollback().await?;
        return Ok(Vec::new());
    }
    tx.commit().await?;
    Ok(more.into_iter().chain([tick]).map(|tick| tick.name).collect())
}

/// The number of deliveries, unless the server is down.
async fn left(db: &Db) -> Option<i64> {
    let counted = db.query("SELECT count(*) FROM signals_delivery").fetch_one::<(i64,)>().await;
    counted.ok().map(|(left,)| left)
}

/// How often something has failed, and how long it took until its work continued.
#[derive(Default)]
struct Failures {
    kills: usize,
    /// From the kill until no delivery was left to the killed worker, if it had one.
    taken_over: Vec<Duration>,
    /// From the start of the server until the next delivery had its effect.
    recovered: Vec<Duration>,
}

impl Failures {
    /// Kills one of the workers, and starts another one.
    async fn kill(&mut self, scene: &Scene, workers: &mut Vec<Process>) {
        let worker = workers.swap_remove(fastrand::usize(..workers.len()));
        let process = worker.id();
        worker.kill();
        assert_eq!(worker.end().await, End::Killed);
        let begun = Instant::now();
        workers.push(Process::start(scene, "serve", "").said("ready").await);
        self.kills += 1;
        let mut had_some = false;
        while is_working(scene, process).await {
            had_some = true;
            assert!(begun.elapsed() < Duration::from_secs(120), "no worker takes over");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if had_some {
            self.taken_over.push(begun.elapsed());
        }
    }

    /// Restarts the server, and kills one of the workers meanwhile.
    async fn restart(&mut self, cluster: &Cluster, scene: &Scene, workers: &mut Vec<Process>) {
        let worker = workers.swap_remove(fastrand::usize(..workers.len()));
        let (killer, pause) = (worker.killer(), Duration::from_millis(fastrand::u64(..500)));
        let killing = std::thread::spawn(move || {
            std::thread::sleep(pause);
            killer();
        });
        cluster.restart(if fastrand::bool() { "immediate" } else { "fast" });
        self.recovered.push(until_counted(scene, 1).await);
        killing.join().unwrap();
        assert_eq!(worker.end().await, End::Killed);
        self.kills += 1;
        workers.push(Process::start(scene, "serve", "").said("ready").await);
    }
}

/// Whether a delivery is claimed by a worker of this process.
async fn is_working(scene: &Scene, process: u32) -> bool {
    let sql = "SELECT EXISTS (SELECT 1 FROM signals_delivery WHERE worker LIKE $1)";
    let query = scene.db.query(sql).bind(format!("{process}-%"));
    query.fetch_one::<(bool,)>().await.unwrap().0
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            let longest = times.last().copied().unwrap_or_default();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            format!("{median:?} (median) and {longest:?} (longest)")
        };
        write!(
            f,
            "{} kills, {} of a worker with deliveries, which others had taken over after {}; {} restarts of the server, after which a \
             delivery ran within {}",
            self.kills,
            self.taken_over.len(),
            times(&self.taken_over),
            self.recovered.len(),
            times(&self.recovered)
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_restarts_at_random_times_lose_nothing_and_repeat_no_transaction() {
    let begun = Instant::now();
    let end = begun + Duration::from_secs(if is_long() { 3600 } else { 10 });
    let cluster = Cluster::start("chaos");
    let scene = Scene::on_server(DatabaseKind::Postgres, "chaos", Some(&cluster.url())).await;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Process::start(&scene, "serve", "").said("ready").await);
    }
    static ENDS: AtomicBool = AtomicBool::new(false);
    let storing = tokio::spawn(store(scene.db.clone(), &ENDS));
    let mut failures = Failures::default();
    until_counted(&scene, 10).await;
    while failures.recovered.len() < 2 || Instant::now() < end {
        for _ in 0..fastrand::usize(1..6) {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..1000))).await;
            failures.kill(&scene, &mut workers).await;
        }
        failures.restart(&cluster, &scene, &mut workers).await;
    }
    ENDS.store(true, Ordering::SeqCst);
    let committed = storing.await.unwrap();
    until_none_is_left(&scene.db).await;
    for worker in workers {
        assert_eq!(worker.stop().await, End::Finished);
    }

    let rows: BTreeSet<_> = scene.names("ticks").await.into_iter().collect();
    assert!(committed.is_subset(&rows), "what was committed is stored");
    let effects = scene.check_ticks().await;
    println!(
        "{} rows, {} deliveries, lost 0, phantom 0, effects in the database repeated 0, other effects repeated {}, {failures}, {:?}",
        rows.len(),
        2 * rows.len(),
        effects - rows.len(),
        begun.elapsed()
    );
    scene.passed().await;
}
