//! Transactions around a closure: their errors, how they begin, that they run again, and calls beside them.
#![allow(missing_docs)]

mod common;
#[path = "common/events.rs"]
mod events;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{TestDb, another, cancelled_after, count, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, Isolation, TransactionOptions};

/// A row without receivers.
#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    text: String,
}

/// A row with receivers.
#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Told {
    id: Option<i64>,
    text: String,
}

#[receiver(post_save, sender = Told)]
async fn told(_: PostSave<'_, Told>, _: &mut Conn<'_>) {}

fn note(text: &str) -> Note {
    Note { id: None, text: text.to_owned() }
}

fn told_note(text: &str) -> Told {
    Told { id: None, text: text.to_owned() }
}

async fn notes(db: &Db) {
    table(db, "notes", "text TEXT NOT NULL").await;
}

#[derive(Debug, PartialEq)]
enum AppError {
    OutOfStock(i64),
    Library(String),
}

impl From<Error> for AppError {
    fn from(error: Error) -> Self {
        Self::Library(error.to_string())
    }
}

on_every_database! {
    async fn an_error_of_the_program_leaves_a_transaction_unwrapped(db: Db) {
        notes(&db).await;
        let done = db
            .try_transaction(async |tx| -> Result<i64, AppError> {
                note("kept back").save(&mut *tx).await?;
                Err(AppError::OutOfStock(3))
            })
            .await;
        assert_eq!(done, Err(AppError::OutOfStock(3)));

        async fn with_annotations_outside(db: &Db) -> Result<(), AppError> {
            db.try_transaction(async |tx| {
                note("stored").save(tx).await?;
                Ok(())
            })
            .await
        }
        with_annotations_outside(&db).await.unwrap();

        // The error of a statement and that of the commit are converted.
        let done = db.try_transaction(async |tx| -> Result<(), AppError> {
            tx.execute("INSERT INTO nowhere VALUES (1)").await?;
            Ok(())
        });
        assert!(matches!(done.await, Err(AppError::Library(text)) if text.contains("nowhere")));
        let done = db.try_transaction(async |tx| -> Result<(), AppError> {
            let _ = tx.execute("INSERT INTO nowhere VALUES (1)").await;
            Ok(())
        });
        assert!(matches!(done.await, Err(AppError::Library(text)) if text.contains("rolled back")));
        assert_eq!(count(&db, "notes").await, 1);
    }

    async fn a_closure_that_ends_in_ok_needs_no_annotation(db: Db) {
        notes(&db).await;
        db.transaction(async |tx| {
            note("one").save(&mut *tx).await?;
            note("two").save(tx).await?;
            Ok(())
        })
        .await
        .unwrap();
        db.retry(2).transaction(async |tx| {
            note("three").save(tx).await?;
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(count(&db, "notes").await, 3);
    }

    async fn a_transaction_begins_with_its_options(db: Db) {
        notes(&db).await;
        note("one").save(&db).await.unwrap();
        let one = another(&db, Db::options().max_connections(1)).await;
        let read_only = TransactionOptions::new().isolation(Isolation::Serializable).read_only(true);
        let mut tx = one.begin_with(read_only.deferrable(true)).await.unwrap();
        assert_eq!(Note::all(&mut tx).await.unwrap().len(), 1);
        if db.kind() == DatabaseKind::Postgres {
            for (setting, expected) in [
                ("SHOW transaction_isolation", "serializable"),
                ("SHOW transaction_read_only", "on"),
                ("SHOW transaction_deferrable", "on"),
            ] {
                let (value,): (String,) = tx.query(setting).fetch_one().await.unwrap();
                assert_eq!(value, expected, "{setting}");
            }
        }
        note("two").save(&mut tx).await.expect_err("a write in a read-only transaction");
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        // The connection can be used for writes again.
        note("two").save(&one).await.unwrap();
        let tx = one.begin_with(read_only).await.unwrap();
        tx.commit().await.unwrap();
        told_note("three").save(&one).await.unwrap();
        drop(one.begin_with(read_only).await.unwrap());
        note("four").save(&one).await.unwrap();
        let mut tx = one.begin_with(TransactionOptions::new()).await.unwrap();
        note("five").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        for level in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
            let options = TransactionOptions::new().isolation(level);
            let mut tx = one.begin_with(options).await.unwrap();
            note("more").save(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        }
        assert_eq!(count(&db, "notes").await, 8);
    }

    async fn a_read_only_transaction_that_is_dropped_half_way_leaves_a_connection_that_writes(db: Db) {
        notes(&db).await;
        let one = another(&db, Db::options().max_connections(1)).await;
        for pending in 0..12 {
            let work = async {
                let mut tx = one.begin_with(TransactionOptions::new().read_only(true)).await?;
                Note::all(&mut tx).await?;
                tx.commit().await.map(drop)
            };
            drop(cancelled_after(work, pending).await);
            note("after").save(&one).await.unwrap();
        }
        assert_eq!(count(&db, "notes").await, 12);
    }

    async fn a_read_only_transaction_waits_for_no_writer_and_keeps_none_waiting(db: Db) {
        notes(&db).await;
        note("one").save(&db).await.unwrap();
        let mut writer = db.begin().await.unwrap();
        note("two").save(&mut writer).await.unwrap();
        let start = Instant::now();
        let read_only = TransactionOptions::new().read_only(true);
        let mut reader = db.begin_with(read_only).await.unwrap();
        assert_eq!(Note::all(&mut reader).await.unwrap().len(), 1);
        writer.commit().await.unwrap();
        note("three").save(&db).await.unwrap();
        let seen = Note::all(&mut reader).await.unwrap().len();
        assert_eq!(seen, if db.kind() == DatabaseKind::Sqlite { 1 } else { 3 }, "read committed on Postgres");
        reader.commit().await.unwrap();
        // The busy timeout of SQLite.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    async fn transactions_that_meet_run_again_in_a_task(db: Db) {
        notes(&db).await;
        note("0").save(&db).await.unwrap();
        let tasks = (0..8).map(|task| {
            let db = db.clone();
            tokio::spawn(async move {
                let by = task % 2 + 1;
                let options = TransactionOptions::new().isolation(Isolation::Serializable);
                for _ in 0..5 {
                    db.retry(100)
                        .options(options)
                        .transaction(async |tx| {
                            let mut note = Note::get(&mut *tx, 1).await?;
                            let n: i64 = note.text.parse().map_err(Error::other)?;
                            note.text = (n + by).to_string();
                            note.save(tx).await?;
                            Ok(())
                        })
                        .await
                        .unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(Note::get(&db, 1).await.unwrap().text, "60");
    }

    async fn only_the_failure_of_a_concurrent_transaction_is_retried(db: Db) {
        notes(&db).await;
        let attempts = AtomicU32::new(0);
        let done = db.retry(5).transaction(async |_| {
            attempts.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(Error::other("no"))
        });
        assert_eq!(done.await.unwrap_err().to_string(), "no");
        let done = db.retry(5).try_transaction(async |tx| {
            attempts.fetch_add(1, Ordering::Relaxed);
            tx.execute("INSERT INTO nowhere VALUES (1)").await?;
            Ok::<_, AppError>(())
        });
        done.await.unwrap_err();
        assert_eq!(attempts.into_inner(), 2);
    }
}

#[cfg(feature = "sqlite")]
mod on_sqlite {
    use super::*;
    use sqlx_signals::sqlx;

    /// The lock of another process.
    #[tokio::test]
    async fn a_transaction_runs_again_if_another_process_has_the_lock() {
        let test = TestDb::sqlite("another_process").await;
        notes(&test.db).await;
        let options = Db::options().pragma("busy_timeout", "1");
        let impatient = another(&test.db, options).await;
        let mut lock = test.db.sqlite().unwrap().acquire().await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *lock).await.unwrap();
        let error =
            impatient.transaction(async |tx| note("early").save(tx).await).await.unwrap_err();
        assert!(error.is_busy(), "{error}");
        let waits = {
            let db = impatient.clone();
            tokio::spawn(async move {
                db.retry(30).transaction(async |tx| note("late").save(tx).await).await.map(drop)
            })
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        sqlx::query("COMMIT").execute(&mut *lock).await.unwrap();
        drop(lock);
        waits.await.unwrap().unwrap();
        assert_eq!(count(&test.db, "notes").await, 1);
        test.passed().await;
    }

    /// Whether the call in a closure is refused at once, with the call of `transaction` in the long form.
    fn assert_refused<T: std::fmt::Debug>(done: Result<T>, start: Instant, what: &str) {
        let error = done.expect_err(what);
        assert!(matches!(error, Error::WouldDeadlock { .. }), "{what}: {error:?}");
        assert!(error.is_use_the_receiver_connection());
        // The busy timeout of SQLite.
        assert!(start.elapsed() < Duration::from_secs(5), "{what}: {:?}", start.elapsed());
        assert!(format!("{error:#}").contains(&format!("({}:", file!())), "{what}: {error:#}");
        assert!(!error.to_string().contains(".rs"), "{what}: {error}");
    }

    #[tokio::test]
    async fn a_write_beside_the_transaction_in_its_closure_is_an_error_at_once() {
        let test = TestDb::sqlite("beside").await;
        let db = &test.db;
        notes(db).await;
        let pool = db.sqlite().unwrap();
        let line = line!() + 1;
        db.transaction(async |tx| {
            let start = Instant::now();
            let refused = note("no").save(db).await;
            let text = format!("{:#}", refused.as_ref().unwrap_err());
            assert!(text.contains(&format!("{}:{line}", file!())), "{text}");
            assert_refused(refused, start, "save");
            assert_refused(told_note("no").save(db).await, start, "save with receivers");
            assert_refused(note("no").save(pool).await, start, "save through the pool");
            assert_refused(Note { id: Some(1), ..note("no") }.delete(db).await, start, "delete");
            assert_refused(Note::insert_many(db, &mut [note("no")]).await, start, "bulk");
            let update = Note::query("WHERE id > 0").set(Note::TEXT, "no".to_owned());
            assert_refused(update.update(db).await, start, "by condition");
            assert_refused(db.begin().await, start, "begin");
            assert_refused(db.transaction(async |_| Ok(())).await, start, "a transaction inside");

            // Reads, and a transaction that only reads, do not wait.
            assert_eq!(Note::all(db).await?.len(), 0);
            assert_eq!(count(db, "notes").await, 0);
            let reader = db.begin_with(TransactionOptions::new().read_only(true)).await?;
            reader.commit().await?;
            note("yes").save(tx).await?;
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(count(db, "notes").await, 1);
        test.passed().await;
    }

    #[tokio::test]
    async fn what_runs_beside_the_closure_in_the_same_task_waits_for_its_turn() {
        let test = TestDb::sqlite("same_task").await;
        let db = &test.db;
        notes(db).await;
        let slow = db.transaction(async |tx| {
            note("one").save(&mut *tx).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            note("two").save(tx).await?;
            Ok(())
        });
        let mut beside = told_note("three");
        let (first, second) = tokio::join!(slow, beside.save(db));
        first.unwrap();
        second.unwrap();
        // A task of its own is not in the closure either.
        db.transaction(async |tx| {
            note("four").save(tx).await?;
            let db = db.clone();
            tokio::spawn(async move { Note::all(&db).await }).await.unwrap().map(drop)
        })
        .await
        .unwrap();
        assert_eq!(count(db, "notes").await, 4);
        test.passed().await;
    }

    #[tokio::test]
    async fn the_only_connection_is_missed_at_once() {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        notes(&db).await;
        db.transaction(async |tx| {
            let start = Instant::now();
            assert_refused(Note::all(&db).await, start, "a read");
            assert_refused(db.query("SELECT 1").execute().await, start, "a raw read");
            note("yes").save(tx).await?;
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(count(&db, "notes").await, 1);
    }

    #[tokio::test]
    async fn a_write_beside_an_open_transaction_waits_and_names_it() {
        let test = TestDb::sqlite("beside_begin").await;
        notes(&test.db).await;
        let options = || Db::options().acquire_timeout(Duration::from_millis(400));
        let memory = options().connect("sqlite::memory:").await.unwrap();
        notes(&memory).await;
        for db in [another(&test.db, options()).await, memory] {
            let start = Instant::now();
            let line = line!() + 1;
            let tx = db.begin().await.unwrap();
            let errors = [
                note("no").save(&db).await.map(drop).unwrap_err(),
                told_note("no").save(&db).await.map(drop).unwrap_err(),
                db.begin().await.map(drop).unwrap_err(),
            ];
            let waited = start.elapsed();
            assert!(
                waited > Duration::from_millis(1100) && waited < Duration::from_secs(20),
                "{waited:?}"
            );
            for error in errors {
                assert!(error.is_busy() && error.is_retryable(), "{error:?}");
                assert!(
                    error.to_string().starts_with("the write lock of the database was not free"),
                    "{error}"
                );
                assert!(!error.to_string().contains(".rs"), "{error}");
                let long = format!("{error:#}");
                assert!(long.contains(&format!("{}:{line}", file!())), "{long}");
                let Error::WriteLockTimedOut { caller, held_for, .. } = error else {
                    panic!("{error:?}")
                };
                assert_eq!(caller.map(|caller| caller.line()), Some(line));
                assert!(held_for >= Duration::from_millis(300), "{held_for:?}");
            }
            // The write gets its turn as soon as the transaction ends.
            let waits = {
                let db = db.clone();
                tokio::spawn(async move { note("yes").save(&db).await })
            };
            tokio::time::sleep(Duration::from_millis(100)).await;
            tx.commit().await.unwrap();
            waits.await.unwrap().unwrap();
            let again = db.begin().await.unwrap();
            drop(again);
            note("yes").save(&db).await.unwrap();
        }
        test.passed().await;
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use std::sync::{Arc, LazyLock, Mutex};

    use super::*;
    use common::Scene;
    use events::Events;

    static SCENE: LazyLock<Scene> = Scene::new();

    /// SQL that fails as a serialization failure does.
    const MEET: &str = "DO $$ BEGIN RAISE EXCEPTION 'met' USING ERRCODE = '40001'; END $$";

    #[tokio::test]
    async fn each_attempt_is_a_transaction_of_its_own() {
        let test = TestDb::postgres("each_attempt").await;
        let (db, _turn) = (&test.db, SCENE.begin().await);
        notes(db).await;
        let attempts = AtomicU32::new(0);
        let mut transactions = Vec::new();
        for swallowed in [false, true] {
            attempts.store(0, Ordering::Relaxed);
            let work = db.retry(5).try_transaction(async |tx| {
                let attempt = attempts.fetch_add(1, Ordering::Relaxed);
                note("tried").save(&mut *tx).await?;
                tx.on_commit(async move { SCENE.log.push(format!("commit {attempt}")) });
                tx.on_rollback(async move { SCENE.log.push(format!("rollback {attempt}")) });
                if attempt < 2 {
                    let met = tx.execute(MEET).await;
                    if !swallowed {
                        // The program's own error says nothing about its cause.
                        met.map_err(|_| AppError::OutOfStock(0))?;
                    }
                }
                Ok::<_, AppError>(attempt)
            });
            assert_eq!(work.await, Ok(2), "swallowed: {swallowed}");
            transactions.push(SCENE.log.take());
        }
        let expected = ["rollback 0", "rollback 1", "commit 2"];
        assert_eq!(transactions, [expected, expected]);
        assert_eq!(count(db, "notes").await, 2);

        attempts.store(0, Ordering::Relaxed);
        let work = db.retry(3).transaction(async |tx| {
            attempts.fetch_add(1, Ordering::Relaxed);
            tx.execute(MEET).await
        });
        assert!(work.await.unwrap_err().is_serialization_failure());
        assert_eq!(attempts.into_inner(), 4, "the first attempt and three more");
        test.passed().await;
    }

    #[tokio::test]
    async fn a_write_beside_the_transaction_in_its_closure_is_a_warning_once_for_each_call() {
        let test = TestDb::postgres("beside").await;
        let db = &test.db;
        notes(db).await;
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let selects = |metadata: &tracing::Metadata<'_>| {
            metadata.target().starts_with("sqlx_signals_core")
                && *metadata.level() == tracing::Level::WARN
        };
        let heard = Arc::clone(&warnings);
        let hear =
            move |event: &tracing::Event<'_>| heard.lock().unwrap().push(events::text(event));
        let guard = tracing::subscriber::set_default(Events { selects, hear });
        for _ in 0..3 {
            db.transaction(async |tx| {
                note("in it").save(&mut *tx).await?;
                note("beside it").save(db).await?;
                db.execute("DELETE FROM notes WHERE text = 'none'").await?;
                Note::all(db).await.map(drop)
            })
            .await
            .unwrap();
        }
        db.transaction(async |tx| note("in it").save(tx).await).await.unwrap();
        drop(guard);
        let warnings = warnings.lock().unwrap().clone();
        if cfg!(debug_assertions) {
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(
                warnings[0].contains("this write is not part of the transaction"),
                "{warnings:?}"
            );
            assert!(warnings[0].contains(file!()), "{warnings:?}");
        } else {
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        test.passed().await;
    }

    #[tokio::test]
    async fn the_only_connection_is_missed_at_once() {
        let test = TestDb::postgres("only_connection").await;
        notes(&test.db).await;
        let one = another(&test.db, Db::options().max_connections(1)).await;
        let start = Instant::now();
        let done = one.transaction(async |_| note("no").save(&one).await).await;
        assert!(matches!(done, Err(Error::WouldDeadlock { .. })), "{done:?}");
        // The pool would wait for 30 seconds.
        assert!(start.elapsed() < Duration::from_secs(20));
        test.passed().await;
    }
}
