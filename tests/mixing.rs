//! Beside plain sqlx: transactions that sqlx has begun, and writes that do not go through a `Db`.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;
use std::time::Duration;

use common::{Scene, cancelled_after, count, table};
use futures_util::TryStreamExt;
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};

static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    text: String,
}

fn note(text: &str) -> Note {
    Note { id: None, text: text.to_owned() }
}

#[receiver(post_save, sender = Note)]
async fn refuse(saved: PostSave<'_, Note>, _: &mut Conn<'_>) -> Result<(), String> {
    if saved.instance.text == "refused" { Err("refused".to_owned()) } else { Ok(()) }
}

#[receiver(post_save, sender = Note, on_commit)]
async fn committed(saved: PostSave<'_, Note>) {
    SCENE.log.push(format!("commit {}", saved.instance.text));
}

#[receiver(post_save, sender = Note, on_rollback)]
async fn rolled_back(saved: PostSave<'_, Note>) {
    SCENE.log.push(format!("rollback {}", saved.instance.text));
}

async fn notes(db: &Db) -> tokio::sync::MutexGuard<'static, ()> {
    let turn = SCENE.begin().await;
    table(db, "notes", "text TEXT NOT NULL").await;
    turn
}

/// A transaction that plain sqlx has begun, with what it runs on it.
async fn begun(db: &Db, sql: &'static str) -> Transaction<'static> {
    #[cfg(feature = "sqlite")]
    if let Some(pool) = db.sqlite() {
        let mut tx = pool.begin().await.unwrap();
        let _ = sqlx::raw_sql(sql).execute(&mut *tx).await;
        return tx.into();
    }
    #[cfg(feature = "postgres")]
    if let Some(pool) = db.postgres() {
        let mut tx = pool.begin().await.unwrap();
        let _ = sqlx::raw_sql(sql).execute(&mut *tx).await;
        return Transaction::from(tx);
    }
    unreachable!("a `Db` has a pool")
}

/// Runs SQL as code does that knows only sqlx.
async fn legacy(tx: &mut Transaction<'_>, sql: &'static str) -> Result<(), sqlx::Error> {
    #[cfg(feature = "sqlite")]
    if let Some(conn) = tx.sqlite() {
        return sqlx::raw_sql(sql).execute(conn).await.map(drop);
    }
    #[cfg(feature = "postgres")]
    if let Some(conn) = tx.postgres() {
        return sqlx::raw_sql(sql).execute(conn).await.map(drop);
    }
    unreachable!("a transaction has a connection")
}

const INSERT: &str = "INSERT INTO notes (text) VALUES ('legacy')";

/// All connections of the pool can be used, and none is in a transaction.
async fn pool_is_sound(db: &Db) {
    let mut conns = Vec::new();
    for _ in 0..10 {
        let conn = tokio::time::timeout(Duration::from_secs(20), db.acquire()).await;
        let mut conn = conn.expect("a connection is missing").unwrap();
        conn.begin().await.unwrap().commit().await.unwrap();
        conns.push(conn);
    }
}

#[derive(Clone)]
struct Mailer(&'static str);

#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Read {
    id: Option<i64>,
    text: String,
}

#[receiver(post_load, sender = Read)]
fn read(load: PostLoad<'_, Read>, State(mailer): State<Mailer>) {
    SCENE.log.push(format!("{} read {}", mailer.0, load.instance.text));
}

/// Reads all notes through the pool of sqlx, as a `Vec` and as a stream, and returns how many rows were read.
async fn read_through_the_pool(db: &Db) -> Result<usize> {
    #[cfg(feature = "sqlite")]
    if let Some(pool) = db.sqlite() {
        let rows = Read::query("").fetch_all(pool).await?;
        return Ok(rows.len() + Read::query("").fetch(pool).try_collect::<Vec<_>>().await?.len());
    }
    #[cfg(feature = "postgres")]
    if let Some(pool) = db.postgres() {
        let rows = Read::query("").fetch_all(pool).await?;
        return Ok(rows.len() + Read::query("").fetch(pool).try_collect::<Vec<_>>().await?.len());
    }
    unreachable!("a `Db` has a pool")
}

on_every_database! {
    async fn the_end_of_an_adopted_transaction_is_observed(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = begun(&db, INSERT).await;
        note("one").save(&mut tx).await.unwrap();
        legacy(&mut tx, INSERT).await.unwrap();
        tx.on_commit(async { SCENE.log.push("callback") });
        assert!(SCENE.log.entries().is_empty(), "nothing is committed yet");
        assert!(tx.commit().await.unwrap().errors.is_empty());
        assert_eq!(SCENE.log.take(), ["commit one", "callback"]);
        assert_eq!(count(&db, "notes").await, 3);

        let mut tx = begun(&db, INSERT).await;
        note("two").save(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(SCENE.log.take(), ["rollback two"]);

        let mut tx = begun(&db, INSERT).await;
        note("three").save(&mut tx).await.unwrap();
        drop(tx);
        assert_eq!(SCENE.log.wait_for(1).await, ["rollback three"]);
        drop(begun(&db, INSERT).await);
        assert_eq!(count(&db, "notes").await, 3);
        pool_is_sound(&db).await;
    }

    async fn savepoints_of_an_adopted_transaction_work(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = begun(&db, INSERT).await;
        let mut savepoint = tx.begin().await.unwrap();
        note("undone").save(&mut savepoint).await.unwrap();
        savepoint.rollback().await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        note("kept").save(&mut savepoint).await.unwrap();
        savepoint.commit().await.unwrap();
        drop(tx.begin().await.unwrap());
        assert!(note("refused").save(&mut tx.begin().await.unwrap()).await.is_err());
        tx.commit().await.unwrap();
        // What a dropped savepoint sends is sent on a task of its own.
        let mut log = SCENE.log.wait_for(3).await;
        log.sort();
        assert_eq!(log, ["commit kept", "rollback refused", "rollback undone"]);
        assert_eq!(count(&db, "notes").await, 2);
        pool_is_sound(&db).await;
    }

    async fn a_failure_in_an_adopted_transaction_is_not_committed(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = begun(&db, INSERT).await;
        note("refused").save(&mut tx).await.unwrap_err();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        assert_eq!(SCENE.log.take(), ["rollback refused"]);

        // Legacy code has ended the transaction, before or after the adoption.
        for before in [true, false] {
            let mut tx = begun(&db, if before { "ROLLBACK" } else { INSERT }).await;
            if !before {
                legacy(&mut tx, "ROLLBACK").await.unwrap();
            }
            let saved = note("lost").save(&mut tx).await;
            assert!(saved.is_err(), "before: {before}");
            assert!(tx.commit().await.is_err(), "before: {before}");
        }
        if db.kind() == DatabaseKind::Postgres {
            let tx = begun(&db, "SELECT 1 FROM nowhere").await;
            tx.commit().await.expect_err("Postgres would answer with a rollback");
        }
        assert_eq!(count(&db, "notes").await, 0);
        pool_is_sound(&db).await;
    }

    async fn an_adopted_transaction_is_dropped_at_every_await(db: Db) {
        let _turn = notes(&db).await;
        for pending in 0..24 {
            let work = async {
                let mut tx = begun(&db, INSERT).await;
                note("saved").save(&mut tx).await?;
                let mut savepoint = tx.begin().await?;
                note("nested").save(&mut savepoint).await?;
                savepoint.commit().await?;
                tx.commit().await.map(drop)
            };
            let done = cancelled_after(work, pending).await;
            assert!(done.is_none_or(|done| done.is_ok()));
        }
        pool_is_sound(&db).await;
        // The three rows of a transaction are stored together, and their receivers run for as many.
        let stored = count(&db, "notes").await;
        assert_eq!(stored % 3, 0);
        let runs = || SCENE.log.entries().iter().filter(|e| e.starts_with("commit")).count();
        common::until(|| runs() as i64 == stored / 3 * 2).await;
    }

    async fn a_receiver_may_need_the_default_of_the_process(db: Db) {
        #[derive(Clone)]
        struct Nowhere;

        #[derive(Debug, Clone, Model)]
        #[model(table = "notes")]
        struct Mailed { id: Option<i64>, text: String }

        #[derive(Debug, Clone, Model)]
        #[model(table = "notes")]
        struct Homeless { id: Option<i64>, text: String }

        #[receiver(post_save, sender = Mailed)]
        async fn mail(saved: PostSave<'_, Mailed>, State(mailer): State<Mailer>, _: &mut Conn<'_>) {
            SCENE.log.push(format!("{} {}", mailer.0, saved.instance.text));
        }

        #[receiver(post_save, sender = Mailed, on_commit)]
        async fn later(saved: PostSave<'_, Mailed>, db: Db, State(mailer): State<Mailer>) -> Result<()> {
            let rows = Mailed::all(&db).await?.len();
            SCENE.log.push(format!("{} {} of {rows}", mailer.0, saved.instance.text));
            Ok(())
        }

        #[receiver(post_save, sender = Homeless)]
        fn homeless(_: PostSave<'_, Homeless>, _: State<Nowhere>) {}

        let _turn = notes(&db).await;
        let mailed = |text: &str| Mailed { id: None, text: text.to_owned() };
        // Saves through the pool, and through a connection.
        async fn plain(db: &Db, row: &mut Mailed) -> Result<()> {
            #[cfg(feature = "sqlite")]
            if let Some(pool) = db.sqlite() {
                row.clone().save(pool).await?;
                row.save(&mut pool.acquire().await?).await?;
            }
            #[cfg(feature = "postgres")]
            if let Some(pool) = db.postgres() {
                row.clone().save(pool).await?;
                row.save(&mut pool.acquire().await?).await?;
            }
            Ok(())
        }
        let error = plain(&db, &mut mailed("early")).await.unwrap_err();
        assert!(error.to_string().contains("call `db.with(…)` and `make_default()`"), "{error}");
        assert_eq!(count(&db, "notes").await, 0);

        db.with(Mailer("first")).make_default();
        let default = db.with(Mailer("mailed"));
        default.make_default();
        plain(&db, &mut mailed("plain")).await.unwrap();
        let expected = ["mailed plain", "mailed plain of 1", "mailed plain", "mailed plain of 2"];
        assert_eq!(SCENE.log.take(), expected);
        assert_eq!(read_through_the_pool(&db).await.unwrap(), 4);
        assert_eq!(SCENE.log.take(), ["mailed read plain"; 4]);
        let mut tx = begun(&db, "SELECT 1").await;
        mailed("adopted").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["mailed adopted", "mailed adopted of 3"]);

        // The default does not see the end of a transaction of sqlx.
        let events = sqlx_signals::testing::record::<Read>();
        let mut unseen = Read { id: None, text: "unseen".into() };
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            unseen.save(&mut pool.begin().await.unwrap()).await.unwrap();
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            unseen.save(&mut pool.begin().await.unwrap()).await.unwrap();
        }
        events.assert_created(1);
        assert!(events.all().iter().all(|event| event.committed.is_none()), "{events}");
        drop(events);

        // A `Db` of the program has its own values only.
        let error = mailed("own").save(&db).await.unwrap_err();
        assert!(error.to_string().contains("add it with `db.with(…)`"), "{error}");
        mailed("own").save(&db.with(Mailer("own"))).await.unwrap();
        assert_eq!(SCENE.log.take(), ["own own", "own own of 4"]);
        // A value that the default does not have.
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            let missing = Homeless { id: None, text: String::new() }.save(pool).await.unwrap_err();
            assert!(missing.to_string().contains("add it with `db.with(…)`"), "{missing}");
            assert!(matches!(missing, sqlx_signals::Error::Receiver(_)));
        }
    }
}

/// The only connection of a pool goes from one side to the other.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn an_adopted_transaction_returns_the_only_connection() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let _turn = notes(&db).await;
    for _ in 0..5 {
        let mut tx = begun(&db, INSERT).await;
        note("one").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        drop(begun(&db, INSERT).await);
        note("two").save(&db).await.unwrap();
    }
    assert_eq!(count(&db, "notes").await, 15);
}
