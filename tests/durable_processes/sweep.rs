//! A process that stores, claims, runs, acknowledges and fails deliveries is killed at every point of it.

use std::time::{Duration, Instant};

use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};

use crate::common::proxy::{Proxy, Trap};
use crate::process::{CHILD, End, Process};
use crate::{Order, Scene, is_long, until_none_is_left};

/// Stores deliveries in every way: three rows that are committed, and two that are not.
pub(crate) async fn store(db: &Db, prefix: &str) -> Result<()> {
    let order = |name: &str| Order { id: None, name: format!("{prefix} {name}") };
    order("saved").save(db).await?;
    let mut tx = db.begin().await?;
    order("again").save(&mut tx).await?;
    let mut savepoint = tx.begin().await?;
    order("phantom").save(&mut savepoint).await?;
    savepoint.rollback().await?;
    tx.commit().await?;
    let mut tx = db.begin().await?;
    order("phantom").save(&mut tx).await?;
    tx.rollback().await?;
    if let Some(pool) = db.sqlite() {
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        order("refused").save(&mut *tx).await?;
        tx.commit().await?;
    }
    if let Some(pool) = db.postgres() {
        let mut tx: sqlx::Transaction<'_, sqlx::Postgres> = pool.begin().await?;
        order("refused").save(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// What a sweep has done.
#[derive(Debug, Default)]
struct Figures {
    kills: usize,
    rows: usize,
    /// Effects outside of transactions that would not have happened without a kill.
    repeated: usize,
}

/// Kills a process at each point, and finishes its work. Points are passed over by `stride`.
async fn sweep(scene: &Scene, stride: usize) -> Figures {
    let proxy = match scene.db.kind() {
        DatabaseKind::Sqlite => None,
        DatabaseKind::Postgres => Some(Proxy::start(&scene.test.url).await),
    };
    let mut figures = Figures::default();
    let first = 1 + fastrand::usize(..stride);
    for at in (first..).step_by(stride) {
        let name = format!("{at:04}");
        let role = "store and work";
        let child = match &proxy {
            None => Process::start_at(scene, role, &name, &scene.test.url, at),
            Some(proxy) => {
                let child =
                    Process::start_at(scene, role, &name, &proxy.url(&scene.test.url), usize::MAX);
                // An even point is before the statement, an odd one is between the statement and its answer.
                let (message, passes_on) = (at / 2, at % 2 == 1);
                proxy.set_trap(Trap { message, passes_on, action: Box::new(child.killer()) });
                child
            }
        };
        let end = child.end().await;
        finish(scene).await;
        check(scene, &mut figures).await;
        if end == End::Finished {
            return figures;
        }
        figures.kills += 1;
    }
    unreachable!("a child that is not killed has finished")
}

/// Another process, here the test itself, does what the killed one has left.
async fn finish(scene: &Scene) {
    // The server may still be at the last statement of the killed process.
    while scene.db.postgres().is_some() && connections(scene).await > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    scene.an_hour_passes().await;
    if scene.left().await == 0 {
        return;
    }
    let worker = scene.db.deliveries().worker().poll(Duration::from_millis(10));
    let worker = worker.spawn().await.unwrap();
    until_none_is_left(&scene.db).await;
    worker.shutdown().await.unwrap();
}

/// The number of connections that the server has with killed processes.
async fn connections(scene: &Scene) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()";
    let (count,): (i64,) = scene.db.query(sql).bind(CHILD).fetch_one().await.unwrap();
    count
}

/// Nothing is lost, nothing is phantom, and what was written through the connection was written once.
async fn check(scene: &Scene, figures: &mut Figures) {
    let rows = scene.names("orders").await;
    let refused = |name: &String| name.ends_with("refused");
    let phantom = rows.iter().find(|name| name.ends_with("phantom"));
    assert_eq!(phantom, None, "a row that was rolled back");
    let booked: Vec<_> = rows.iter().filter(|name| !refused(name)).cloned().collect();
    assert_eq!(scene.names("bookings").await, booked, "each committed row is booked once");
    let effects = scene.effects.read();
    let mut names: Vec<_> = effects.iter().map(|effect| effect.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, rows, "the effect of each committed row, and of no other");
    let mut keys: Vec<_> = effects.iter().map(|effect| (&effect.name, &effect.key)).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), rows.len(), "one key for all attempts of one delivery");
    let dead = rows.iter().filter(|name| refused(name)).count() * 2;
    assert_eq!(scene.dead().await.len(), dead, "only what is refused is dead");
    let expected: usize = rows.iter().map(|name| if name.ends_with("saved") { 1 } else { 2 }).sum();
    *figures = Figures { rows: rows.len(), repeated: effects.len() - expected, ..*figures };
}

async fn run(kind: DatabaseKind, name: &str) {
    let scene = Scene::new(kind, name).await;
    let begun = Instant::now();
    // With a stride of three, a run before the statement and one after it take turns, and each test begins at another point.
    let stride = if is_long() || kind == DatabaseKind::Sqlite { 1 } else { 3 };
    let figures = sweep(&scene, stride).await;
    println!("{kind:?}, a stride of {stride}: {figures:?}, lost 0, {:?}", begun.elapsed());
    assert!(figures.kills >= 40 && figures.rows > figures.kills, "{figures:?}");
    assert!(figures.repeated > 0, "a kill after the effect repeats it: {figures:?}");
    scene.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_at_any_point_loses_nothing_on_sqlite() {
    run(DatabaseKind::Sqlite, "sweep").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_at_any_point_loses_nothing_on_postgres() {
    run(DatabaseKind::Postgres, "sweep").await;
}
