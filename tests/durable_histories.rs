//! Random histories of durable receivers against a model: after each step, every delivery is stored, has happened once, or was discarded.
#![allow(missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::random::{Random, number};
use common::{Scene, execute, table};
use serde::{Deserialize, Serialize};
use sqlx_signals::Error;
use sqlx_signals::durable::{DeliveryFilter, DeliveryState, Retry, Uuid};
use sqlx_signals::prelude::*;
use sqlx_signals::testing::{self, WorkerDeath};

/// How many histories are executed on each database. `HISTORIES=10000 cargo test -p tests --all-features --test durable_histories` executes more.
fn histories() -> u64 {
    number("HISTORIES", 15)
}

static SCENE: LazyLock<Scene> = Scene::new();

/// A task of an account. The tasks of one account are applied in their order.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "tasks")]
struct Task {
    id: Option<i64>,
    account: i64,
}

/// The effect of a receiver in the database.
#[derive(Debug, Clone, Model)]
#[model(table = "effects")]
struct Effect {
    id: Option<i64>,
    receiver: String,
    account: i64,
    task: i64,
}

/// What the receivers do, and have done.
#[derive(Debug, Default)]
struct World {
    /// Decides which runs fail.
    seed: u64,
    never_fails: bool,
    /// How often each receiver has run for each task.
    runs: BTreeMap<(&'static str, i64), u64>,
    /// The idempotency keys of the runs of `notify`.
    keys: BTreeMap<i64, BTreeSet<Uuid>>,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(Mutex::default);

fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The outcome of the next run of a receiver, which depends only on the seed and on the number of its earlier runs.
fn outcome(receiver: &'static str, task: i64) -> Result<()> {
    let mut world = world();
    let run = world.runs.entry((receiver, task)).or_default();
    *run += 1;
    let mut hasher = DefaultHasher::new();
    (receiver, task, *run, world.seed).hash(&mut hasher);
    let (chance, never_fails) = (hasher.finish() % 12, world.never_fails);
    drop(world);
    match chance {
        _ if never_fails => Ok(()),
        0..=2 => Err(Error::other("failed")),
        3 => Err(Retry::never("refused").into()),
        4 => panic!("a mistake"),
        _ => Ok(()),
    }
}

async fn effect(receiver: &'static str, task: &Task, conn: &mut Conn<'_>) -> Result<()> {
    let (receiver_name, account, id) = (receiver.to_owned(), task.account, task.id.unwrap());
    let mut effect = Effect { id: None, receiver: receiver_name, account, task: id };
    effect.save(conn).await?;
    // A failure undoes the effect.
    outcome(receiver, id)
}

#[receiver(post_save, sender = Task, created, durable(max_attempts = 3, backoff = "1h"))]
async fn record(saved: PostSave<'_, Task>, conn: &mut Conn<'_>) -> Result<()> {
    effect("record", saved.instance, conn).await
}

#[receiver(post_save, sender = Task, created, durable(ordering_key = account, max_attempts = 2, backoff = "1h"))]
async fn apply(saved: PostSave<'_, Task>, conn: &mut Conn<'_>) -> Result<()> {
    effect("apply", saved.instance, conn).await
}

#[receiver(post_save, sender = Task, created, durable(max_attempts = 3, backoff = "1h"))]
async fn notify(saved: PostSave<'_, Task>, delivery: Delivery<'_>) -> Result<()> {
    let id = saved.pk();
    world().keys.entry(id).or_default().insert(delivery.idempotency_key());
    outcome("notify", id)
}

impl Random {
    fn task(&mut self) -> Task {
        Task { id: None, account: self.below(3) }
    }

    fn tasks(&mut self) -> Vec<Task> {
        (0..=self.below(3)).map(|_| self.task()).collect()
    }
}

/// What must be true: the tasks that are committed, and the deliveries that were discarded.
#[derive(Debug, Default)]
struct Expected {
    committed: BTreeSet<i64>,
    discarded: BTreeSet<(String, i64)>,
}

impl Expected {
    fn commit(&mut self, tasks: &[Task]) {
        self.committed.extend(tasks.iter().map(|task| task.id.unwrap()));
    }

    /// Stores tasks in one of the ways in which a program does.
    async fn store(&mut self, db: &Db, random: &mut Random) {
        let mut tasks = random.tasks();
        match random.below(5) {
            0 => {
                tasks.truncate(1);
                tasks[0].save(db).await.unwrap();
                self.commit(&tasks);
            }
            1 => {
                Task::insert_many(db, &mut tasks).await.unwrap();
                self.commit(&tasks);
            }
            2 => {
                let mut tx = db.begin().await.unwrap();
                Task::insert_many(&mut tx, &mut tasks).await.unwrap();
                tx.rollback().await.unwrap();
            }
            _ => {
                let mut tx = db.begin().await.unwrap();
                let mut kept = Vec::new();
                for mut task in tasks {
                    let mut savepoint = tx.begin().await.unwrap();
                    let mut many = random.tasks();
                    task.save(&mut savepoint).await.unwrap();
                    Task::insert_many(&mut savepoint, &mut many).await.unwrap();
                    if random.below(2) == 0 {
                        savepoint.rollback().await.unwrap();
                    } else {
                        savepoint.commit().await.unwrap();
                        kept.push(task);
                        kept.append(&mut many);
                    }
                    let mut task = random.task();
                    task.save(&mut tx).await.unwrap();
                    kept.push(task);
                }
                if random.below(4) > 0 {
                    tx.commit().await.unwrap();
                    self.commit(&kept);
                }
            }
        }
    }

    /// Discards one of the deliveries, or makes one due.
    async fn operate(&mut self, db: &Db, random: &mut Random) {
        let deliveries = db.deliveries();
        let stored = deliveries.list(all()).await.unwrap();
        let Some(one) = stored.get(random.below(stored.len().max(1) as u64) as usize) else {
            return;
        };
        match random.below(3) {
            0 => {
                if deliveries.discard(one.id).await.unwrap() {
                    self.discarded.insert((name(&one.receiver), key(one.key.as_deref())));
                }
            }
            1 => drop(deliveries.retry(one.id).await.unwrap()),
            _ => {
                let dead = all().state(DeliveryState::Dead);
                deliveries.retry_all(dead).await.unwrap();
            }
        }
    }

    async fn step(&mut self, db: &Db, random: &mut Random) {
        match random.below(10) {
            0..=2 => self.store(db, random).await,
            3 => drop(testing::deliver(db).await.unwrap()),
            4..=5 => {
                let point = WorkerDeath::ALL[random.below(4) as usize];
                if let Err(error) = testing::worker_dies_at(point, db).await {
                    assert!(error.to_string().contains("no delivery is due"), "{error}");
                }
            }
            6 => testing::make_due(db).await.unwrap(),
            7 => {
                let worker = db.deliveries().worker().concurrency(1 + random.below(4) as usize);
                let worker = worker.poll(Duration::from_millis(5)).spawn().await.unwrap();
                self.store(db, random).await;
                tokio::time::sleep(Duration::from_millis(random.below(30))).await;
                match random.below(2) {
                    0 => worker.stop().await.unwrap(),
                    _ => worker.shutdown().await.unwrap(),
                }
            }
            _ => self.operate(db, random).await,
        }
    }

    /// Each delivery of a committed task is stored, has had its effect, or was discarded, and there are no others.
    async fn check(&self, db: &Db) {
        let stored = db.deliveries().list(all()).await.unwrap();
        let stored = stored.iter().map(|one| (name(&one.receiver), key(one.key.as_deref())));
        let stored: Vec<_> = stored.collect();
        let effects = Effect::query("ORDER BY id").fetch_all(db).await.unwrap();
        for receiver in ["record", "apply"] {
            let of = |(name, task): &(String, i64)| (name == receiver).then_some(*task);
            let effects = effects.iter().filter(|effect| effect.receiver == receiver);
            let mut found: Vec<_> = stored.iter().filter_map(of).collect();
            found.extend(effects.map(|effect| effect.task));
            found.extend(self.discarded.iter().filter_map(of));
            found.sort_unstable();
            assert!(found.iter().eq(&self.committed), "{receiver}: {found:?}, {self:?}");
        }
        for account in 0..3 {
            let applied = effects.iter().filter(|e| e.receiver == "apply" && e.account == account);
            assert!(
                applied.is_sorted_by_key(|effect| effect.task),
                "account {account}: {effects:?}"
            );
        }
        let keys = world().keys.clone();
        for (task, keys) in &keys {
            assert!(self.committed.contains(task) && keys.len() == 1, "{task}: {keys:?}");
        }
    }

    /// After a worker has run all that is left, nothing is lost.
    async fn finish(&self, db: &Db) {
        world().never_fails = true;
        let dead = all().state(DeliveryState::Dead);
        for round in 0.. {
            let left = db.deliveries().list(all()).await.unwrap();
            if left.is_empty() {
                break;
            }
            assert!(round < 20, "{left:#?}");
            db.deliveries().retry_all(dead.clone()).await.unwrap();
            testing::make_due(db).await.unwrap();
            testing::deliver(db).await.unwrap();
        }
        self.check(db).await;
        let notified: BTreeSet<_> = world().keys.keys().copied().collect();
        for task in self.committed.difference(&notified) {
            assert!(self.discarded.contains(&("notify".to_owned(), *task)), "{task} was lost");
        }
    }
}

/// All deliveries. The default limit of a filter is lower than their number.
fn all() -> DeliveryFilter {
    DeliveryFilter::new().limit(100_000)
}

/// The name of a receiver without its path.
fn name(receiver: &str) -> String {
    receiver.rsplit("::").next().unwrap().to_owned()
}

fn key(key: Option<&str>) -> i64 {
    key.unwrap().parse().unwrap()
}

on_every_database! {
    async fn no_delivery_is_lost_repeated_or_made_up(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "tasks", "account BIGINT NOT NULL").await;
        table(&db, "effects", "receiver TEXT NOT NULL, account BIGINT NOT NULL, task BIGINT NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let db = common::another(&db, Db::options()).await;
        let first = number("HISTORIES_SEED", 0);
        let mut tasks = 0;
        for seed in first..first + histories() {
            // Shown if an assertion fails.
            println!("seed {seed}");
            for table in ["tasks", "effects", "signals_delivery"] {
                execute(&db, &format!("DELETE FROM {table}")).await;
            }
            *world() = World { seed, ..World::default() };
            let (mut random, mut model) = (Random(seed), Expected::default());
            for _ in 0..20 {
                model.step(&db, &mut random).await;
                model.check(&db).await;
            }
            model.finish(&db).await;
            tasks += model.committed.len() as u64;
        }
        assert!(tasks > histories(), "{tasks}");
        println!("{} steps, {tasks} tasks, {} deliveries", 20 * histories(), 3 * tasks);
        db.close().await;
    }
}
