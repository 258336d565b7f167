//! What is stored, and which callbacks run, for each way in which a transaction can end.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

#[cfg(feature = "postgres")]
use common::until;
use common::{Scene, count, execute, table};
#[cfg(feature = "postgres")]
use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, sqlx};

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
async fn refuse(saved: PostSave<'_, Note>) -> Result<(), String> {
    match &*saved.instance.text {
        "refused" => Err("refused".to_owned()),
        "panic" => panic!("panicked"),
        _ => Ok(()),
    }
}

#[receiver(pre_save, sender = Note)]
fn veto(save: PreSave<'_, Note>) -> Result<(), &'static str> {
    if save.instance.text == "vetoed" { Err("vetoed") } else { Ok(()) }
}

#[receiver(post_save, sender = Note, on_commit)]
async fn committed(saved: PostSave<'_, Note>) -> Result<(), String> {
    SCENE.log.push(format!("commit {}", saved.instance.text));
    if saved.instance.text == "bad callback" { Err("callback failed".to_owned()) } else { Ok(()) }
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

async fn texts(db: &Db) -> Vec<String> {
    Note::query("ORDER BY id").fetch_all(db).await.unwrap().into_iter().map(|n| n.text).collect()
}

on_every_database! {
    async fn without_a_transaction_callbacks_run_at_once(db: Db) {
        let _turn = notes(&db).await;
        note("a").save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["commit a"]);
        note("refused").save(&db).await.unwrap_err();
        assert_eq!(SCENE.log.take(), ["rollback refused"]);
        note("vetoed").save(&db).await.unwrap_err();
        note("panic").save(&db).await.unwrap_err();
        assert_eq!(SCENE.log.take(), ["rollback panic"]);
        assert_eq!(texts(&db).await, ["a"]);
    }

    async fn callbacks_wait_for_the_outermost_commit_in_order(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = db.begin().await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        tx.on_commit(async { SCENE.log.push("closure") });
        tx.on_rollback(async { SCENE.log.push("never") });
        let mut inner = tx.begin().await.unwrap();
        note("b").save(&mut inner).await.unwrap();
        let mut innermost = inner.begin().await.unwrap();
        note("c").save(&mut innermost).await.unwrap();
        innermost.commit().await.unwrap();
        inner.commit().await.unwrap();
        note("d").save(&mut tx).await.unwrap();
        assert_eq!(SCENE.log.take(), [""; 0]);
        let committed = tx.commit().await.unwrap();
        assert!(committed.errors.is_empty());
        assert_eq!(SCENE.log.take(), ["commit a", "closure", "commit b", "commit c", "commit d"]);
        assert_eq!(texts(&db).await, ["a", "b", "c", "d"]);
    }

    async fn a_rolled_back_savepoint_discards_its_callbacks(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = db.begin().await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        let mut inner = tx.begin().await.unwrap();
        note("b").save(&mut inner).await.unwrap();
        inner.on_commit(async { SCENE.log.push("never") });
        let mut released = inner.begin().await.unwrap();
        note("c").save(&mut released).await.unwrap();
        released.commit().await.unwrap();
        inner.rollback().await.unwrap();
        assert_eq!(SCENE.log.take(), ["rollback b", "rollback c"], "at once");
        let mut dropped = tx.begin().await.unwrap();
        note("d").save(&mut dropped).await.unwrap();
        drop(dropped);
        assert_eq!(SCENE.log.wait_for(1).await, ["rollback d"], "on a task of its own");
        note("e").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["commit a", "commit e"]);
        assert_eq!(texts(&db).await, ["a", "e"]);
    }

    async fn rollback_and_drop_store_nothing(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = db.begin().await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        tx.on_rollback(async { SCENE.log.push("closure") });
        tx.rollback().await.unwrap();
        assert_eq!(SCENE.log.take(), ["rollback a", "closure"]);
        let mut tx = db.begin().await.unwrap();
        note("b").save(&mut tx).await.unwrap();
        drop(tx);
        assert_eq!(SCENE.log.wait_for(1).await, ["rollback b"]);
        assert_eq!(texts(&db).await, [""; 0]);
    }

    // In edition 2024 the output of these futures is `!`.
    #[allow(clippy::todo, clippy::unimplemented)]
    async fn a_callback_may_have_the_type_never(db: Db) {
        let mut tx = db.begin().await.unwrap();
        tx.on_commit(async { todo!() });
        tx.on_commit(async { panic!("no return") });
        tx.on_rollback(async { unimplemented!() });
        tx.on_commit(async {
            if tokio::runtime::Handle::try_current().is_ok() {
                return Err("an error");
            }
            Ok(())
        });
        let errors: Vec<_> = tx.commit().await.unwrap().errors.iter().map(Error::to_string).collect();
        assert_eq!(errors, ["panicked: not yet implemented", "panicked: no return", "an error"]);
    }

    async fn every_callback_runs_even_if_another_fails(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = db.begin().await.unwrap();
        note("bad callback").save(&mut tx).await.unwrap();
        tx.on_commit(async { Err::<(), _>("closure failed") });
        tx.on_commit(async { assert!(SCENE.log.entries().is_empty(), "closure panicked") });
        note("a").save(&mut tx).await.unwrap();
        let committed = tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["commit bad callback", "commit a"]);
        let [receiver, closure, panicked] = &committed.errors[..] else { panic!("{committed:?}") };
        assert!(matches!(receiver, Error::Receiver(failed) if failed.source.to_string() == "callback failed"));
        assert_eq!(closure.to_string(), "closure failed");
        assert_eq!(panicked.to_string(), "panicked: closure panicked");
        assert_eq!(texts(&db).await.len(), 2);
        // Without a transaction its error is logged, and the save succeeds.
        note("bad callback").save(&db).await.unwrap();
    }

    async fn a_failed_save_marks_the_transaction(db: Db) {
        let _turn = notes(&db).await;
        for how in ["refused", "vetoed", "panic"] {
            let mut tx = db.begin().await.unwrap();
            note("a").save(&mut tx).await.unwrap();
            note(how).save(&mut tx).await.unwrap_err();
            note("b").save(&mut tx).await.unwrap();
            let error = tx.commit().await.unwrap_err();
            let Error::RolledBack { reason } = &error else { panic!("{error:?}") };
            assert!(reason.starts_with("could not save `Note`: ") && reason.contains(&how.replace("panic", "panicked")), "{reason}");
            let rolled_back = SCENE.log.take();
            assert!(rolled_back.iter().all(|e| e.starts_with("rollback")), "{rolled_back:?}");
            assert!(rolled_back.contains(&"rollback a".to_owned()));
            assert_eq!(texts(&db).await, [""; 0]);

            // A savepoint contains the damage.
            let mut tx = db.begin().await.unwrap();
            note("a").save(&mut tx).await.unwrap();
            let mut inner = tx.begin().await.unwrap();
            note(how).save(&mut inner).await.unwrap_err();
            assert!(inner.commit().await.unwrap_err().is_rolled_back());
            tx.commit().await.unwrap();
            assert_eq!(SCENE.log.take().last().unwrap(), "commit a");
            assert_eq!(texts(&db).await, ["a"]);
            execute(&db, "DELETE FROM notes").await;
        }
    }

    async fn an_ignored_failure_of_a_statement_is_not_committed(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = db.begin().await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        assert!(tx.query("INSERT INTO nowhere VALUES ($1)").bind(1).execute().await.is_err());
        let error = tx.commit().await.unwrap_err();
        assert!(error.is_rolled_back() && error.to_string().contains("nowhere"), "{error}");
        assert_eq!(SCENE.log.take(), ["rollback a"]);
        let mut tx = db.begin().await.unwrap();
        assert!(tx.execute("INSERT INTO nowhere VALUES (1)").await.is_err());
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        assert_eq!(texts(&db).await, [""; 0]);

        #[cfg(feature = "postgres")]
        if db.kind() == DatabaseKind::Postgres {
            // The last statement on the raw connection fails, so only the server knows that the transaction has failed.
            let mut tx = db.begin().await.unwrap();
            note("a").save(&mut tx).await.unwrap();
            let raw = tx.postgres().unwrap();
            sqlx::query("INSERT INTO nowhere VALUES (1)").execute(raw).await.unwrap_err();
            let error = tx.commit().await.unwrap_err();
            assert!(error.is_rolled_back(), "{error:?}");
            assert_eq!(SCENE.log.take(), ["rollback a"]);
            let mut tx = db.begin().await.unwrap();
            note("a").save(&mut tx).await.unwrap();
            let mut inner = tx.begin().await.unwrap();
            note("b").save(&mut inner).await.unwrap();
            sqlx::query("INSERT INTO nowhere VALUES (1)").execute(inner.postgres().unwrap()).await.unwrap_err();
            assert!(inner.commit().await.unwrap_err().is_rolled_back());
            assert_eq!(SCENE.log.take(), ["rollback b"]);
            tx.commit().await.unwrap();
            assert_eq!((SCENE.log.take(), texts(&db).await), (vec!["commit a".to_owned()], vec!["a".to_owned()]));
        }
    }

    async fn a_failed_commit_is_an_error(db: Db) {
        let _turn = notes(&db).await;
        execute(&db, "CREATE TABLE child (note_id BIGINT REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)").await;
        let mut tx = db.begin().await.unwrap();
        let mut a = note("a");
        a.save(&mut tx).await.unwrap();
        tx.execute("INSERT INTO child VALUES (999)").await.unwrap();
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(error, Error::Database(_)) && error.is_foreign_key_violation(), "{error:?}");
        assert_eq!((SCENE.log.take(), texts(&db).await), (vec!["rollback a".to_owned()], vec![]));

        // The same for a statement that commits itself: the row is not stored, so the save fails.
        #[derive(Debug, Model)]
        struct Child { #[model(primary_key)] note_id: i64 }
        let mut child = Child { note_id: 999 };
        let error = child.insert(&db).await.unwrap_err();
        assert!(error.is_foreign_key_violation(), "{error:?}");
        assert_eq!(count(&db, "child").await, 0);
        note("b").save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["commit b"], "and the connection is well");
    }

    async fn a_failed_autocommit_is_an_error(db: Db) {
        #[derive(Debug, Model)]
        struct Late { id: Option<i64>, note_id: i64 }
        let _turn = notes(&db).await;
        table(&db, "late", "note_id BIGINT NOT NULL REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED").await;
        let mut late = Late { id: None, note_id: 999 };
        let error = late.save(&db).await.unwrap_err();
        assert!(error.is_foreign_key_violation(), "{error:?}");
        assert_eq!((late.id, count(&db, "late").await), (None, 0));
    }

    async fn a_row_that_breaks_a_rule_in_a_transaction_is_an_error_of_its_statement(db: Db) {
        #[derive(Debug, Model)]
        struct Early { id: Option<i64>, note_id: i64 }
        let _turn = notes(&db).await;
        table(&db, "early", "note_id BIGINT NOT NULL REFERENCES notes (id)").await;
        let mut tx = db.begin().await.unwrap();
        let mut kept = note("a");
        kept.save(&mut tx).await.unwrap();
        let mut early = Early { id: None, note_id: kept.id.unwrap() };
        early.save(&mut tx).await.unwrap();
        let mut inner = tx.begin().await.unwrap();
        // The key of the row is returned by the statement, and its reference is checked at the end of the statement.
        let error = Early { id: None, note_id: 999 }.save(&mut inner).await.unwrap_err();
        assert!(error.is_foreign_key_violation(), "{error:?}");
        inner.rollback().await.unwrap();
        let mut inner = tx.begin().await.unwrap();
        early.note_id = 999;
        let error = early.save(&mut inner).await.unwrap_err();
        assert!(error.is_foreign_key_violation(), "{error:?}");
        inner.rollback().await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(count(&db, "early").await, 1);
    }

    async fn transaction_commits_on_ok_and_rolls_back_on_err_or_panic(db: Db) {
        let _turn = notes(&db).await;
        let clone = db.clone();
        let value = tokio::spawn(async move {
            let mut a = note("a");
            clone
                .transaction(async |tx| {
                    a.save(&mut *tx).await?;
                    note("b").save(&mut *tx).await?;
                    Ok(7)
                })
                .await
        });
        assert_eq!(value.await.unwrap().unwrap(), 7);
        assert_eq!(SCENE.log.take(), ["commit a", "commit b"]);
        let error = db
            .transaction(async |tx| {
                note("c").save(tx).await?;
                Err::<(), _>(Error::other("changed my mind"))
            })
            .await
            .unwrap_err();
        assert_eq!((error.to_string(), SCENE.log.take()), ("changed my mind".to_owned(), vec!["rollback c".to_owned()]));
        let clone = db.clone();
        let panicked = tokio::spawn(async move {
            clone
                .transaction(async |tx| {
                    note("d").save(tx).await?;
                    if true { panic!("on with it") }
                    Ok(())
                })
                .await
        });
        let panic = panicked.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"on with it"));
        assert_eq!(SCENE.log.take(), ["rollback d"], "before the panic went on");
        assert_eq!(texts(&db).await, ["a", "b"]);
    }

    async fn a_panic_in_clone_loses_no_receiver(db: Db) {
        #[derive(Debug, Model)]
        #[model(table = "notes")]
        struct Fragile { id: Option<i64>, text: String }
        impl Clone for Fragile {
            fn clone(&self) -> Self {
                panic!("`{}` cannot be copied", self.text)
            }
        }
        #[receiver(post_save, sender = Fragile, on_commit)]
        fn one(saved: PostSave<'_, Fragile>) {
            SCENE.log.push(format!("commit {} {}", saved.instance.text, saved.created));
        }
        #[receiver(post_save, sender = Fragile, on_commit)]
        async fn fails(_: PostSave<'_, Fragile>) -> Result<(), &'static str> {
            SCENE.log.push("fails");
            Err("the others run")
        }
        #[receiver(post_save, sender = Fragile, on_commit, order = 1)]
        async fn another(saved: PostSave<'_, Fragile>, db: Db) -> Result<()> {
            let seen = db.query("SELECT id FROM notes WHERE text = $1").bind(saved.instance.text.clone());
            SCENE.log.push(format!("seen {:?}", seen.fetch_optional::<(i64,)>().await?.is_some()));
            Ok(())
        }
        #[receiver(post_delete, sender = Fragile, on_commit)]
        fn gone(deleted: PostDelete<'_, Fragile>) {
            SCENE.log.push(format!("gone {}", deleted.instance.text));
        }
        #[receiver(post_save_batch, sender = Fragile, on_commit)]
        fn batch(saved: PostSaveBatch<'_, Fragile>) {
            SCENE.log.push(format!("batch {}", saved.instances.len()));
        }
        let _turn = notes(&db).await;
        let fragile = |text: &str| Fragile { id: None, text: text.to_owned() };
        let mut a = fragile("a");
        a.save(&db).await.unwrap();
        assert!(a.id.is_some());
        let log = SCENE.log.take();
        assert_eq!(log, ["commit a true", "fails", "seen true", "batch 1"]);
        assert!(a.delete(&db).await.unwrap());
        assert_eq!(SCENE.log.take(), ["gone a"]);
    }

    async fn through_a_transaction_of_sqlx_the_commit_is_not_observable(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "notes")]
        struct Plain { id: Option<i64>, text: String }
        #[derive(Debug, Clone, Model)]
        #[model(table = "notes")]
        struct Nested { id: Option<i64>, text: String }
        #[receiver(post_save, sender = Plain)]
        async fn refuse_plain(saved: PostSave<'_, Plain>, conn: &mut Conn<'_>) -> Result<()> {
            conn.query("UPDATE notes SET text = text || '!' WHERE id = $1").bind(saved.pk()).execute().await?;
            if saved.instance.text == "refused" { Err(Error::other("refused")) } else { Ok(()) }
        }
        #[receiver(post_save, sender = Nested)]
        async fn saves_a_note(_: PostSave<'_, Nested>, conn: &mut Conn<'_>) -> Result<()> {
            note("nested").save(conn).await?;
            Ok(())
        }

        let _turn = notes(&db).await;
        macro_rules! through {
            ($pool:expr) => {{
                let mut tx = $pool.begin().await.unwrap();
                let error = note("a").save(&mut tx).await.unwrap_err();
                assert!(matches!(error, Error::CommitNotObservable { model: "Note", .. }), "{error:?}");
                let error = Nested { id: None, text: "x".to_owned() }.save(&mut tx).await.unwrap_err();
                let Error::Receiver(failed) = error else { panic!("{error:?}") };
                assert!(failed.source.to_string().contains("`Note` has receivers that wait for the commit"));
                // A save without such receivers is atomic within it.
                Plain { id: None, text: "refused".to_owned() }.save(&mut tx).await.unwrap_err();
                Plain { id: None, text: "b".to_owned() }.save(&mut tx).await.unwrap();
                tx.commit().await.unwrap();
            }};
        }
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            through!(pool);
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            through!(pool);
        }
        assert_eq!((texts(&db).await, SCENE.log.take()), (vec!["b!".to_owned()], vec![]));
    }

    async fn saves_on_a_connection_of_the_caller(db: Db) {
        let _turn = notes(&db).await;
        let mut conn = db.acquire().await.unwrap();
        note("a").save(&mut conn).await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        note("b").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["commit a", "commit b"]);
        let mut tx = conn.begin().await.unwrap();
        note("c").save(&mut tx).await.unwrap();
        drop(tx);
        assert_eq!(SCENE.log.wait_for(1).await, ["rollback c"]);
        note("d").save(&mut conn).await.unwrap();
        // The commit is dropped half-way, and the connection with it. The next use acquires another one.
        let mut tx = conn.begin().await.unwrap();
        note("e").save(&mut tx).await.unwrap();
        tx.on_commit(tokio::task::yield_now());
        assert!(common::cancelled_after(tx.commit(), 0).await.is_none());
        assert_eq!(SCENE.log.wait_for(2).await, ["commit d", "commit e"]);
        note("f").save(&mut conn).await.unwrap();
        drop(conn);
        assert_eq!(texts(&db).await, ["a", "b", "d", "e", "f"]);
    }

    async fn many_transactions_at_once_wait_for_each_other(db: Db) {
        let _turn = notes(&db).await;
        let tasks: Vec<_> = (0..24)
            .map(|n| {
                let db = db.clone();
                tokio::spawn(async move {
                    let mut tx = db.begin().await.unwrap();
                    // A read first: on SQLite, a transaction without the write lock could not go on to write.
                    Note::all(&mut tx).await.unwrap();
                    note(&n.to_string()).save(&mut tx).await.unwrap();
                    tx.commit().await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((count(&db, "notes").await, SCENE.log.take().len()), (24, 24));
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_connection_dies_in_a_transaction() {
    let test = common::TestDb::postgres("dies").await;
    let db = &test.db;
    let _turn = notes(db).await;
    let mut tx = db.begin().await.unwrap();
    note("a").save(&mut tx).await.unwrap();
    let (pid,): (i32,) = tx.query("SELECT pg_backend_pid()").fetch_one().await.unwrap();
    db.query("SELECT pg_terminate_backend($1)").bind(pid).fetch_all::<(bool,)>().await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, Error::Database(_)), "{error:?}");
    assert_eq!(SCENE.log.take(), ["rollback a"]);

    // During a save, and during a savepoint.
    let mut tx = db.begin().await.unwrap();
    note("b").save(&mut tx).await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    note("c").save(&mut inner).await.unwrap();
    let (pid,): (i32,) = inner.query("SELECT pg_backend_pid()").fetch_one().await.unwrap();
    db.query("SELECT pg_terminate_backend($1)").bind(pid).fetch_all::<(bool,)>().await.unwrap();
    note("d").save(&mut inner).await.unwrap_err();
    inner.commit().await.unwrap_err();
    assert!(tx.commit().await.unwrap_err().is_rolled_back());
    let log = SCENE.log.wait_for(2).await;
    assert_eq!(log, ["rollback c", "rollback b"]);
    for n in 0..5 {
        note(&n.to_string()).save(db).await.unwrap();
    }
    assert_eq!(texts(db).await.len(), 5);
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_commit_without_an_answer_is_unknown() {
    let test = common::TestDb::postgres("unknown").await;
    let proxy = common::proxy::Proxy::start(&test.url).await;
    let db = proxy.db(&test.url).await;
    let _turn = notes(&db).await;
    execute(
        &db,
        "CREATE TABLE slow (n INT); CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN PERFORM pg_sleep(30); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    .await;
    let mut tx = db.begin().await.unwrap();
    note("a").save(&mut tx).await.unwrap();
    tx.execute("INSERT INTO slow VALUES (1)").await.unwrap();
    proxy.take();
    let commit = tokio::spawn(tx.commit());
    until(|| proxy.said().iter().any(|said| said == "COMMIT")).await;
    proxy.cut();
    let error = commit.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::CommitUnknown(_)), "{error:?}");
    assert_eq!(SCENE.log.take(), [""; 0], "neither the one nor the other");
    test.passed().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_commit_that_waits_too_long_on_sqlite_is_an_error() {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("busy_{}.db", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Delete)
        .busy_timeout(std::time::Duration::from_millis(50));
    let db = Db::from(SqlitePoolOptions::new().connect_with(options).await.unwrap());
    let _turn = notes(&db).await;
    table(&db, "plain", "n BIGINT NOT NULL").await;
    note("first").save(&db).await.unwrap();
    SCENE.log.take();

    // A reader on another connection keeps its lock.
    let mut reader = db.sqlite().unwrap().begin().await.unwrap();
    sqlx::query("SELECT * FROM notes").fetch_all(&mut *reader).await.unwrap();

    #[derive(Debug, Model)]
    struct Plain {
        id: Option<i64>,
        n: i64,
    }
    let mut plain = Plain { id: None, n: 1 };
    let error = plain.save(&db).await.unwrap_err();
    assert!(error.to_string().contains("database is locked"), "{error}");
    let error = note("second").save(&db).await.unwrap_err();
    assert!(error.to_string().contains("database is locked"), "{error}");
    assert_eq!(SCENE.log.take(), ["rollback second"]);
    reader.rollback().await.unwrap();
    assert_eq!((texts(&db).await, count(&db, "plain").await), (vec!["first".to_owned()], 0));
    plain.save(&db).await.unwrap();
    note("third").save(&db).await.unwrap();
    assert_eq!(texts(&db).await, ["first", "third"]);
    db.close().await;
    std::fs::remove_file(&path).unwrap();
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn nothing_is_stored_if_sqlite_rolls_back_by_itself() {
    let test = common::TestDb::sqlite("by_itself").await;
    let _turn = notes(&test.db).await;
    execute(&test.db, "CREATE TABLE unique_n (n INTEGER UNIQUE); INSERT INTO unique_n VALUES (1)")
        .await;
    for savepoint in [false, true] {
        let mut tx = test.db.begin().await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        if savepoint {
            let mut inner = tx.begin().await.unwrap();
            inner.execute("INSERT OR ROLLBACK INTO unique_n VALUES (1)").await.unwrap_err();
            note("b").save(&mut inner).await.unwrap();
            assert!(inner.commit().await.unwrap_err().is_rolled_back());
        } else {
            tx.execute("INSERT OR ROLLBACK INTO unique_n VALUES (1)").await.unwrap_err();
        }
        note("c").save(&mut tx).await.unwrap();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        assert_eq!(texts(&test.db).await, [""; 0]);
    }
    test.passed().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_read_only_connection_begins_a_transaction() {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    let test = common::TestDb::sqlite("query_only").await;
    let _turn = notes(&test.db).await;
    note("first").save(&test.db).await.unwrap();
    let options: SqliteConnectOptions = test.url.parse().unwrap();
    let reader = options.pragma("query_only", "on");
    let reader = Db::from(SqlitePoolOptions::new().connect_with(reader).await.unwrap());
    assert_eq!(texts(&reader).await, ["first"]);
    let mut tx = reader.begin().await.unwrap();
    assert_eq!(Note::all(&mut tx).await.unwrap().len(), 1);
    let mut inner = tx.begin().await.unwrap();
    assert_eq!(Note::all(&mut inner).await.unwrap().len(), 1);
    inner.commit().await.unwrap();
    tx.commit().await.unwrap();
    let read = reader.transaction(async |tx| Note::all(tx).await).await.unwrap();
    assert_eq!(read.len(), 1);
    // A write is refused, and the connection stays usable.
    let mut tx = reader.begin().await.unwrap();
    let error = note("second").save(&mut tx).await.unwrap_err();
    assert!(error.to_string().contains("readonly"), "{error}");
    tx.rollback().await.unwrap();
    assert!(note("second").save(&reader).await.is_err());
    assert_eq!(texts(&reader).await, ["first"]);
    reader.close().await;
    test.passed().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn an_in_memory_database_survives_failed_transactions() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let _turn = notes(&db).await;
    note("kept").save(&db).await.unwrap();
    note("refused").save(&db).await.unwrap_err();
    let mut tx = db.begin().await.unwrap();
    note("dropped").save(&mut tx).await.unwrap();
    drop(tx);
    for polls in 0..20 {
        let mut cut = note("cut");
        let _ = common::cancelled_after(cut.save(&db), polls).await;
    }
    assert!(texts(&db).await.contains(&"kept".to_owned()));
}
