//! `on_commit(detached)` runs a receiver on a task of its own, and `Db::close` waits for it.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Scene, cancelled_after, count, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, Phase, muted, registry, testing, without_signals};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes, unless it waits for what it must not wait for.
const SOON: Duration = Duration::from_secs(60);

async fn items(db: &Db) {
    table(db, "items", "n BIGINT NOT NULL").await;
}

on_every_database! {
    async fn a_detached_receiver_does_not_delay_the_save_and_is_awaited_by_close(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        static GATE: Semaphore = Semaphore::const_new(0);
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Gated { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Gated, on_commit(detached))]
        async fn slow(saved: PostSave<'_, Gated>, db: Db) -> Result<()> {
            GATE.acquire().await.unwrap().forget();
            let row = Gated::get(&db, saved.pk()).await?;
            SCENE.log.push(format!("{} {}", row.n, saved.created));
            Ok(())
        }
        #[receiver(post_save, sender = Gated, on_commit)]
        fn quick(_: PostSave<'_, Gated>) { SCENE.log.push("quick") }

        let _turn = SCENE.begin().await;
        items(&db).await;
        // Without a transaction, in one of the library, and in one of the program.
        timeout(SOON, Gated { id: None, n: 1 }.save(&db)).await.unwrap().unwrap();
        timeout(SOON, Gated::insert_many(&db, &mut [Gated { id: None, n: 2 }])).await.unwrap().unwrap();
        let mut tx = db.begin().await.unwrap();
        Gated { id: None, n: 3 }.save(&mut tx).await.unwrap();
        let committed = timeout(SOON, tx.commit()).await.unwrap().unwrap();
        assert!(committed.errors.is_empty());
        assert_eq!(SCENE.log.take(), ["quick"; 3]);

        assert!(timeout(Duration::from_millis(50), db.close()).await.is_err(), "three receivers are running");
        // The pool stays open while they run.
        assert_eq!(count(&db, "items").await, 3);
        GATE.add_permits(3);
        timeout(SOON, db.close()).await.unwrap();
        let mut log = SCENE.log.take();
        log.sort();
        assert_eq!(log, ["1 true", "2 true", "3 true"]);
        assert!(db.execute("SELECT 1").await.is_err());
    }

    async fn a_detached_receiver_runs_for_committed_rows_only(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Kept { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Kept, on_commit(detached), changed(n))]
        async fn keep(saved: PostSave<'_, Kept>, previous: Previous<'_, Kept>) {
            SCENE.log.push(format!("{:?} {}", previous.row().map(|row| row.n), saved.instance.n));
        }

        let _turn = SCENE.begin().await;
        items(&db).await;
        let mut tx = db.begin().await.unwrap();
        Kept { id: None, n: 1 }.save(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let mut row = Kept { id: None, n: 2 };
        row.save(&mut tx).await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        Kept { id: None, n: 3 }.save(&mut savepoint).await.unwrap();
        savepoint.rollback().await.unwrap();
        tx.commit().await.unwrap();
        // Nothing has changed.
        row.save(&db).await.unwrap();
        row.n = 4;
        muted::<keep, _>(row.save(&db)).await.unwrap();
        row.n = 5;
        without_signals(row.save(&db)).await.unwrap();
        row.n = 6;
        row.save(&db).await.unwrap();
        timeout(SOON, db.close()).await.unwrap();
        let mut log = SCENE.log.take();
        log.sort();
        assert_eq!(log, ["None 2", "Some(5) 6"]);
    }

    async fn closing_loses_no_receiver_that_another_one_has_caused(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct First { id: Option<i64>, n: i64 }
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Second { id: Option<i64>, n: i64 }
        #[derive(Signal)]
        struct Third(i64);

        #[receiver(post_save, sender = First, on_commit(detached))]
        async fn first(saved: PostSave<'_, First>, db: Db) -> Result<()> {
            sleep(Duration::from_millis(5)).await;
            Second { id: None, n: saved.instance.n }.save(&db).await.map(drop)
        }
        #[receiver(post_save_batch, sender = Second, on_commit(detached))]
        async fn second(saved: PostSaveBatch<'_, Second>, db: Db) -> Result<()> {
            sleep(Duration::from_millis(5)).await;
            Third(saved.instances[0].n).send(&db).await
        }
        #[receiver(Third, on_commit(detached))]
        async fn third(sent: &Third, db: Db) -> Result<()> {
            sleep(Duration::from_millis(5)).await;
            db.execute("SELECT 1").await?;
            SCENE.log.push(sent.0.to_string());
            Ok(())
        }

        let _turn = SCENE.begin().await;
        items(&db).await;
        for n in 0..20 {
            First { id: None, n }.save(&db).await.unwrap();
        }
        timeout(SOON, db.close()).await.unwrap();
        assert_eq!(SCENE.log.take().len(), 20);
    }

    async fn closing_waits_for_saves_through_the_pool_of_sqlx(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Plain { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Plain, on_commit(detached))]
        async fn slow(_: PostSave<'_, Plain>, db: Db) -> Result<()> {
            sleep(Duration::from_millis(20)).await;
            SCENE.log.push(Plain::query("").count(&db).await?.to_string());
            Ok(())
        }

        let _turn = SCENE.begin().await;
        items(&db).await;
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            Plain { id: None, n: 1 }.save(pool).await.unwrap();
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            Plain { id: None, n: 1 }.save(pool).await.unwrap();
        }
        timeout(SOON, db.close()).await.unwrap();
        assert_eq!(SCENE.log.take(), ["1"]);
    }

    async fn closing_waits_for_what_continues_after_its_future_was_dropped(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Dropped { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Dropped, on_commit)]
        async fn slow(saved: PostSave<'_, Dropped>) {
            sleep(Duration::from_millis(20)).await;
            SCENE.log.push(saved.instance.n.to_string());
        }

        let _turn = SCENE.begin().await;
        items(&db).await;
        let mut dropped = 0;
        for n in 0..30_i64 {
            let mut row = Dropped { id: None, n };
            let pending = usize::try_from(n % 6).unwrap();
            // A statement alone, and a transaction.
            let save = async {
                match n % 2 {
                    0 => row.save(&db).await.map(drop),
                    _ => {
                        let mut tx = db.begin().await?;
                        row.save(&mut tx).await?;
                        tx.commit().await.map(drop)
                    }
                }
            };
            dropped += usize::from(cancelled_after(save, pending).await.is_none());
        }
        // How often a save waits depends on how soon the database answers.
        assert!(dropped > 0);
        // What was dropped before its COMMIT is rolled back by the next use of its connection.
        let again = common::one_connection(&db).await;
        timeout(SOON, db.close()).await.unwrap();
        let mut log = SCENE.log.take();
        log.sort_by_key(|n| n.parse::<i64>().unwrap());
        let stored = Dropped::query("ORDER BY n").fetch_all(&again).await.unwrap();
        let stored: Vec<_> = stored.into_iter().map(|row| row.n.to_string()).collect();
        assert_eq!(log, stored);
        again.close().await;
    }

    async fn a_detached_receiver_can_close_the_db(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Last { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Last, on_commit(detached))]
        async fn close(_: PostSave<'_, Last>, db: Db) {
            db.close().await;
            SCENE.log.push("closed");
        }

        let _turn = SCENE.begin().await;
        items(&db).await;
        Last { id: None, n: 1 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.wait_for(1).await, ["closed"]);
    }

    async fn the_error_or_panic_of_a_detached_receiver_affects_no_other(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Failing { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Failing, on_commit(detached))]
        async fn fails(_: PostSave<'_, Failing>) -> Result<(), &'static str> { Err("no mail") }
        #[receiver(post_save, sender = Failing, on_commit(detached))]
        fn panics(_: PostSave<'_, Failing>) { panic!("no mail at all") }
        #[receiver(post_save, sender = Failing, on_commit(detached))]
        fn plain(_: PostSave<'_, Failing>) { SCENE.log.push("plain") }
        #[receiver(post_save, on_commit(detached))]
        async fn any(saved: PostSave<'_, dyn AnyModel>) {
            if saved.instance.name() == "Failing" {
                SCENE.log.push("any");
            }
        }

        let _turn = SCENE.begin().await;
        items(&db).await;
        let mut tx = db.begin().await.unwrap();
        Failing { id: None, n: 1 }.save(&mut tx).await.unwrap();
        // Nothing has waited for them, so their errors are only logged.
        assert!(tx.commit().await.unwrap().errors.is_empty());
        timeout(SOON, db.close()).await.unwrap();
        let mut log = SCENE.log.take();
        log.sort();
        assert_eq!(log, ["any", "plain"]);
    }

    async fn a_cycle_through_detached_receivers_ends_at_the_recursion_limit(db: Db) {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Cyclic { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Cyclic, on_commit(detached))]
        async fn again(saved: PostSave<'_, Cyclic>, db: Db) -> Result<()> {
            RUNS.fetch_add(1, Ordering::Relaxed);
            let done = saved.instance.clone().save(&db).await;
            if let Err(error) = &done {
                assert!(matches!(error, Error::Recursion { .. }), "{error}");
                SCENE.log.push("recursion");
            }
            done.map(drop)
        }

        let _turn = SCENE.begin().await;
        RUNS.store(0, Ordering::Relaxed);
        items(&db).await;
        Cyclic { id: None, n: 1 }.save(&db).await.unwrap();
        timeout(SOON, db.close()).await.unwrap();
        assert_eq!((RUNS.load(Ordering::Relaxed), SCENE.log.take()), (16, vec!["recursion".to_owned()]));
    }

    async fn a_test_transaction_waits_for_detached_receivers(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Rehearsed { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Rehearsed, on_commit(detached))]
        async fn fails(_: PostSave<'_, Rehearsed>) -> Result<(), &'static str> {
            sleep(Duration::from_millis(5)).await;
            Err("no mail")
        }

        items(&db).await;
        let done = testing::transaction(&db, async |tx| Rehearsed { id: None, n: 1 }.save(tx).await);
        let done = done.await.unwrap();
        done.assert_ran::<fails>(1);
        assert_eq!(done.errors.len(), 1);
    }

    async fn a_detached_receiver_may_use_the_pool_of_a_receiver_that_caused_it(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Outer { id: Option<i64>, n: i64 }
        #[derive(Signal)]
        struct Inner;

        // While it runs, this transaction holds a connection that its receivers must not wait for.
        #[receiver(post_save, sender = Outer)]
        async fn send(_: PostSave<'_, Outer>, State(other): State<Other>) -> Result<()> {
            Inner.send(&other.0).await?;
            assert_eq!(SCENE.log.take().len(), 0);
            Ok(())
        }
        #[receiver(Inner, on_commit(detached))]
        async fn inner(_: &Inner, State(outer): State<OuterDb>) -> Result<()> {
            outer.0.execute("SELECT 1").await?;
            SCENE.log.push("inner");
            Ok(())
        }

        #[derive(Clone)]
        struct Other(Db);
        #[derive(Clone)]
        struct OuterDb(Db);

        let _turn = SCENE.begin().await;
        items(&db).await;
        let other = common::one_connection(&db).await.with(OuterDb(db.clone()));
        Outer { id: None, n: 1 }.save(&db.with(Other(other.clone()))).await.unwrap();
        timeout(SOON, other.close()).await.unwrap();
        assert_eq!(SCENE.log.take(), ["inner"]);
    }
}

mod listed {
    use super::*;

    #[derive(Debug, Clone, Model)]
    pub(super) struct Listed {
        id: Option<i64>,
    }

    #[receiver(post_save, sender = Listed, on_commit(detached))]
    pub(super) fn apart(_: PostSave<'_, Listed>) {}

    #[receiver(post_save, sender = Listed, on_commit)]
    pub(super) fn in_line(_: PostSave<'_, Listed>) {}
}

#[test]
fn the_registry_shows_which_receivers_are_detached() {
    let (apart, in_line) = (registry().get::<listed::apart>(), registry().get::<listed::in_line>());
    assert!(apart.is_detached() && !in_line.is_detached());
    assert_eq!((apart.phase(), in_line.phase()), (Phase::OnCommit, Phase::OnCommit));
    let text = apart.to_string();
    assert!(text.contains("detached::listed::apart (on commit, detached, "), "{text}");
    let table = registry().receivers().to_string();
    let row = table.lines().find(|line| line.contains("listed::apart")).unwrap();
    assert!(row.contains("  on commit, detached  "), "{row}");
    let lock = registry().to_lock();
    assert!(lock.contains("→ detached::listed::apart (on commit, detached)\n"), "{lock}");
    assert!(lock.contains("→ detached::listed::in_line (on commit)\n"), "{lock}");
    assert!(registry().to_mermaid().contains("post_save<br>on commit, detached"));
    assert!(registry().to_dot().contains("post_save (on commit, detached)"));
    let json: Vec<serde_json::Value> = serde_json::from_str(&registry().to_json()).unwrap();
    let detached = |name: &str| {
        let receiver = json.iter().find(|r| r["receiver"] == name).unwrap();
        (receiver["phase"].clone(), receiver["detached"].clone())
    };
    assert_eq!(detached("detached::listed::apart"), ("on commit".into(), true.into()));
    assert_eq!(detached("detached::listed::in_line"), ("on commit".into(), false.into()));
}
