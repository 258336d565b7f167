//! SQLite: writes that wait at the same time share a COMMIT, and none of them affects another one.
#![allow(missing_docs)]
#![cfg(feature = "sqlite")]

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod histories;
mod processes;
mod queued;

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, sqlx};

use common::{Scene, TestDb, cancelled_after, count, execute};
use tokio::sync::Semaphore;

#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Plain {
    id: Option<i64>,
    n: i64,
}

/// A row with a version, which a write that is undone has to restore.
#[derive(Debug, Clone, Model)]
#[model(table = "versioned")]
struct Versioned {
    id: Option<i64>,
    n: i64,
    #[model(version)]
    version: i64,
}

/// A row without receivers, whose table has a trigger. It is saved in a transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "indexed")]
struct Indexed {
    id: Option<i64>,
    n: i64,
}

/// A row without receivers, with a key that the program assigns.
#[derive(Debug, Clone, Model)]
#[model(table = "keyed")]
struct Keyed {
    id: i64,
    n: i64,
}

/// A row with receivers that need no transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Announced {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Announced)]
fn announce(saved: PostSave<'_, Announced>) {
    SCENE.log.push(format!("saved {}", saved.instance.n));
}

#[receiver(post_save, sender = Announced, on_commit)]
async fn announce_commit(saved: PostSave<'_, Announced>) {
    SCENE.log.push(format!("committed {}", saved.instance.n));
}

/// A row whose receivers write, fail, panic, or end the transaction, depending on the last digit of its number.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Noted {
    id: Option<i64>,
    n: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    of: i64,
}

const FAILS: i64 = 9;
const PANICS: i64 = 8;
/// SQLite rolls back the transaction.
const ROLLS_BACK: i64 = 7;
/// Only COMMIT is refused.
const DEFERS: i64 = 6;
/// A savepoint is dropped, and then the receiver fails.
const DROPS_SAVEPOINT: i64 = 4;

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(post_save, sender = Noted)]
async fn note(saved: PostSave<'_, Noted>, conn: &mut Conn<'_>) -> Result<()> {
    let n = saved.instance.n;
    Note { id: None, of: n }.save(&mut *conn).await?;
    match n % 10 {
        FAILS => Err(Error::other("nine")),
        PANICS => panic!("eight"),
        ROLLS_BACK => conn.execute("INSERT INTO guarded (n) VALUES (0)").await.map(drop),
        DEFERS => {
            conn.execute("PRAGMA defer_foreign_keys = ON").await?;
            conn.execute("INSERT INTO children (parent) VALUES (-5)").await.map(drop)
        }
        DROPS_SAVEPOINT => {
            drop_savepoint(conn).await?;
            // While SQLite executes this statement, the rollbacks of the next savepoints wait.
            let mut savepoint = conn.begin().await?;
            let slow = "WHERE of IN (WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 3000)
                 SELECT n FROM numbers)";
            cancelled_after(Note::query(slow).count(&mut savepoint), 0).await;
            Err(Error::other("four"))
        }
        _ => Ok(()),
    }
}

/// Drops two savepoints. Their rollbacks wait in the queue of the connection.
async fn drop_savepoint(conn: &mut Conn<'_>) -> Result<()> {
    let mut savepoint = conn.begin().await?;
    let mut inner = savepoint.begin().await?;
    Note { id: None, of: -1 }.save(&mut inner).await.map(drop)
}

/// A row whose receiver drops a savepoint, and succeeds.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Tentative {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Tentative)]
async fn attempt(_: PostSave<'_, Tentative>, conn: &mut Conn<'_>) -> Result<()> {
    drop_savepoint(conn).await
}

#[receiver(post_save, sender = Noted, on_commit)]
async fn committed(saved: PostSave<'_, Noted>) {
    SCENE.log.push(format!("committed {}", saved.instance.n));
}

#[receiver(post_save, sender = Noted, on_rollback)]
async fn rolled_back(saved: PostSave<'_, Noted>) {
    SCENE.log.push(format!("rolled back {}", saved.instance.n));
}

/// A row whose receiver uses sqlx's connection in the worst ways.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Raw {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Raw)]
async fn use_raw(saved: PostSave<'_, Raw>, conn: &mut Conn<'_>) -> Result<()> {
    let sqlite = conn.sqlite().unwrap();
    let sql = match saved.instance.n % 10 {
        1 => "COMMIT",
        2 => "ROLLBACK",
        3 => "SAVEPOINT left_open",
        4 => "COMMIT; BEGIN IMMEDIATE",
        5 => "ROLLBACK; BEGIN IMMEDIATE",
        6 => {
            std::mem::forget(sqlite.begin().await?);
            "SELECT 1"
        }
        _ => "SELECT 1",
    };
    sqlx::raw_sql(sql).execute(sqlite).await?;
    Ok(())
}

/// A row whose receiver is slow.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Slow {
    id: Option<i64>,
    n: i64,
}

/// What the receiver of a `Slow` waits for.
static GATE: Semaphore = Semaphore::const_new(0);

#[receiver(post_save, sender = Slow)]
async fn take_time(saved: PostSave<'_, Slow>, _: &mut Conn<'_>) -> Result<()> {
    GATE.acquire().await.unwrap().forget();
    match saved.instance.n % 10 {
        FAILS => Err(Error::other("the service is down")),
        _ => Ok(()),
    }
}

/// A row whose receiver executes many statements.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Busy {
    id: Option<i64>,
    n: i64,
}

/// How often another task has run.
static TICKS: AtomicUsize = AtomicUsize::new(0);

#[receiver(post_save, sender = Busy)]
async fn write_often(_: PostSave<'_, Busy>, conn: &mut Conn<'_>) -> Result<()> {
    let before = TICKS.load(Ordering::Relaxed);
    for of in 0..300 {
        Note { id: None, of }.save(&mut *conn).await?;
    }
    SCENE.log.push((TICKS.load(Ordering::Relaxed) - before).to_string());
    Ok(())
}

fn plain(n: i64) -> Plain {
    Plain { id: None, n }
}

fn noted(n: i64) -> Noted {
    Noted { id: None, n }
}

const TABLES: &str = "CREATE TABLE rows (id INTEGER PRIMARY KEY, n BIGINT NOT NULL UNIQUE);
    CREATE TABLE notes (id INTEGER PRIMARY KEY, of BIGINT NOT NULL);
    CREATE TABLE versioned (id INTEGER PRIMARY KEY, n BIGINT NOT NULL, version BIGINT NOT NULL);
    CREATE INDEX notes_of ON notes (of);
    CREATE TABLE indexed (id INTEGER PRIMARY KEY, n BIGINT NOT NULL);
    CREATE TABLE indexed_notes (n BIGINT NOT NULL);
    CREATE TRIGGER index_row AFTER INSERT ON indexed BEGIN INSERT INTO indexed_notes (n) VALUES (new.n); END;
    CREATE TABLE keyed (id BIGINT PRIMARY KEY, n BIGINT NOT NULL);
    CREATE TABLE children (id INTEGER PRIMARY KEY, parent BIGINT REFERENCES notes);
    CREATE TABLE guarded (n BIGINT NOT NULL CHECK (n <> 0) ON CONFLICT ROLLBACK)";

async fn rows(name: &str) -> TestDb {
    let test = TestDb::sqlite(name).await;
    create(&test.db).await;
    test
}

async fn create(db: &Db) {
    // SQLite ignores the conflict clause of a CHECK, so a trigger stands for it.
    execute(db, &TABLES.replace(" CHECK (n <> 0) ON CONFLICT ROLLBACK", "")).await;
    execute(
        db,
        "CREATE TRIGGER guard BEFORE INSERT ON guarded BEGIN SELECT RAISE(ROLLBACK, 'guarded'); END",
    )
    .await;
    // The first save of a model looks at its table.
    plain(-1).save(db).await.unwrap();
    let mut versioned = Versioned { id: None, n: -1, version: 1 };
    versioned.save(db).await.unwrap();
    versioned.save(db).await.unwrap();
    versioned.delete(db).await.unwrap();
}

/// What is stored, as another connection sees it.
async fn found(url: &str, table: &str) -> HashSet<i64> {
    let mut outside = SqliteConnection::connect(url).await.unwrap();
    let column = if table == "notes" { "of" } else { "n" };
    let sql = sqlx::AssertSqlSafe(format!("SELECT {column} FROM {table} WHERE {column} >= 0"));
    let all: Vec<i64> = sqlx::query_scalar(sql).fetch_all(&mut outside).await.unwrap();
    outside.close().await.unwrap();
    let count = all.len();
    let found: HashSet<_> = all.into_iter().collect();
    assert_eq!(count, found.len(), "a row is stored twice");
    found
}

/// The number of transactions in the write-ahead log: the frames that end one contain the size of the database
/// (<https://www.sqlite.org/fileformat2.html#walformat>).
fn commits(test: &TestDb) -> usize {
    let wal = std::fs::read(format!("{}-wal", test.name())).unwrap();
    let number = |at: &[u8]| u32::from_be_bytes(at.try_into().unwrap());
    let (page, salt) = (number(&wal[8..12]) as usize, &wal[16..24]);
    let frames = wal[32..].chunks_exact(24 + page);
    frames.filter(|frame| &frame[8..16] == salt && number(&frame[4..8]) > 0).count()
}

/// Starts all calls while a transaction holds the write lock, so that they wait at the same time, and returns their results in order.
async fn at_once<T: Send + 'static>(
    db: &Db,
    calls: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tx = db.begin().await.unwrap();
    let mut tasks = Vec::new();
    for call in calls {
        let mut call = Box::pin(call);
        // The first poll enters the queue.
        let first = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        tasks.push(match first {
            Poll::Ready(result) => tokio::spawn(async { result }),
            Poll::Pending => tokio::spawn(call),
        });
    }
    tx.rollback().await.unwrap();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

/// A write of one of the models, for tests in which it does not matter which.
async fn save(db: &Db, n: i64, has_receivers: bool) -> Result<()> {
    if has_receivers {
        let mut row = noted(n);
        let saved = row.save(db).await;
        assert_eq!(row.id.is_some(), saved.is_ok(), "the key of {saved:?}");
        saved.map(drop)
    } else {
        let mut row = plain(n);
        let saved = row.save(db).await;
        assert_eq!(row.id.is_some(), saved.is_ok(), "the key of {saved:?}");
        saved.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_at_the_same_time_share_a_commit() {
    let _turn = SCENE.begin().await;
    let mut attempts = 0..10;
    let test = loop {
        attempts.next().expect("they share a COMMIT, unless the machine is so loaded that their receivers count as slow");
        let test = rows("share").await;
        let db = test.db.clone();
        let mut old: Vec<_> = (500..520).map(plain).collect();
        Plain::insert_many(&db, &mut old).await.unwrap();
        let before = commits(&test);
        let deletes = old.into_iter().map(|mut row| {
            let db = db.clone();
            Box::pin(async move { row.delete(&db).await.map(|found| assert!(found)) }) as Call
        });
        let saves = (0..100).map(|n| {
            let db = db.clone();
            Box::pin(async move { save(&db, n * 10, n % 2 == 0).await }) as Call
        });
        let results = at_once(&db, deletes.chain(saves)).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        // 120 writes.
        if commits(&test) - before <= 60 {
            break test;
        }
        SCENE.log.take();
        test.passed().await;
    };
    let stored: HashSet<_> = (0..100).map(|n| n * 10).collect();
    assert_eq!(found(&test.url, "rows").await, stored);
    assert_eq!(found(&test.url, "notes").await, (0..50).map(|n| n * 20).collect());
    assert_eq!(SCENE.log.take().len(), 50);
    test.passed().await;
}

#[tokio::test]
async fn a_write_of_many_statements_lets_other_tasks_run() {
    let _turn = SCENE.begin().await;
    let test = rows("busy").await;
    let ticker = tokio::spawn(async {
        loop {
            TICKS.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let saves = [0, 1, 2].map(|n| {
        let db = test.db.clone();
        Box::pin(async move {
            match n {
                1 => Busy { id: None, n }.save(&db).await.map(drop),
                _ => plain(n).save(&db).await.map(drop),
            }
        }) as Call
    });
    let results = at_once(&test.db, saves).await;
    ticker.abort();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let ticks: usize = SCENE.log.take()[0].parse().unwrap();
    assert!(ticks >= 5, "{ticks}");
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_with_receivers_that_need_no_transaction_share_a_commit() {
    let _turn = SCENE.begin().await;
    let mut attempts = 0..10;
    let test = loop {
        attempts.next().expect("they share a COMMIT, unless the machine is so loaded that their receivers count as slow");
        let test = rows("announced").await;
        let before = commits(&test);
        let saves = (100..160).map(|n| {
            let db = test.db.clone();
            async move { Announced { id: None, n }.save(&db).await.map(drop) }
        });
        let results: Vec<Result<()>> = at_once(&test.db, saves).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        if commits(&test) - before <= 45 {
            break test;
        }
        SCENE.log.take();
        test.passed().await;
    };
    let saves = (0..60).map(|n| {
        let db = test.db.clone();
        // Each number is taken once.
        async move { (n / 2, Announced { id: None, n: n / 2 }.save(&db).await) }
    });
    let mut stored: HashSet<_> = (100..160).collect();
    for (n, saved) in at_once(&test.db, saves).await {
        match saved {
            Ok(_) => assert!(stored.insert(n)),
            Err(error) => assert!(error.is_unique_violation(), "{error:?}"),
        }
    }
    assert_eq!(found(&test.url, "rows").await, stored);
    let log = SCENE.log.take();
    for what in ["saved ", "committed "] {
        let heard: Vec<i64> =
            log.iter().filter_map(|entry| entry.strip_prefix(what)?.parse().ok()).collect();
        assert_eq!(heard.len(), 90, "{what}");
        assert_eq!(heard.into_iter().collect::<HashSet<_>>(), stored, "{what}");
    }
    test.passed().await;
}

type Call = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_returned_is_in_the_file_and_visible_to_others() {
    let _turn = SCENE.begin().await;
    let test = rows("visible").await;
    let tasks = (0..8).map(|task| {
        let (db, url) = (test.db.clone(), test.url.clone());
        tokio::spawn(async move {
            let mut outside = SqliteConnection::connect(&url).await.unwrap();
            for n in 0..50 {
                let n = (task * 1_000 + n) * 10;
                save(&db, n, task % 2 == 0).await.unwrap();
                let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM rows WHERE n = $1")
                    .bind(n)
                    .fetch_one(&mut outside)
                    .await
                    .unwrap();
                assert_eq!(stored, 1);
            }
            outside.close().await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_does_not_affect_the_others() {
    let _turn = SCENE.begin().await;
    for cause in [FAILS, PANICS, ROLLS_BACK, DEFERS, DROPS_SAVEPOINT] {
        let test = rows("fails").await;
        SCENE.log.take();
        let saves = (0..60).map(|call| {
            let db = test.db.clone();
            async move {
                // Some numbers are taken.
                let n = if call % 9 == 0 { call * 10 + cause } else { call / 2 * 10 };
                (n, save(&db, n, call % 3 == 0).await, call % 3 == 0)
            }
        });
        let (mut stored, mut noted, mut failed) = (HashSet::new(), HashSet::new(), HashSet::new());
        for (n, result, has_receivers) in at_once(&test.db, saves).await {
            match result {
                Ok(()) => {
                    assert!(n % 10 == 0, "{n}");
                    assert!(stored.insert(n), "{n} is taken");
                    if has_receivers {
                        noted.insert(n);
                    }
                }
                Err(error) if n % 10 == 0 => {
                    // The transaction of a write with receivers cannot run again after another one has ended it.
                    let is_lost = cause == ROLLS_BACK && has_receivers && error.is_rolled_back();
                    assert!(!is_lost || error.is_retryable(), "{error:?}");
                    assert!(error.is_unique_violation() || is_lost, "{cause} {n}: {error:?}");
                    if !stored.contains(&n) {
                        failed.insert(n);
                    }
                }
                Err(_) => {}
            }
        }
        assert_eq!(found(&test.url, "rows").await, stored);
        assert_eq!(found(&test.url, "notes").await, noted);
        let log = SCENE.log.take();
        let heard = |end: &str| -> HashSet<i64> {
            log.iter().filter_map(|entry| entry.strip_prefix(end)?.parse().ok()).collect()
        };
        assert_eq!(heard("committed "), noted, "{cause}");
        assert!(heard("rolled back ").is_disjoint(&noted));
        let lost = failed.difference(&stored).count();
        assert!(cause == ROLLS_BACK || lost == 0, "{failed:?}");
        test.passed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_that_a_receiver_drops_affects_no_write() {
    let _turn = SCENE.begin().await;
    let test = rows("savepoint").await;
    let saves = (0..40).map(|n| {
        let db = test.db.clone();
        async move {
            match n % 2 == 0 {
                true => Tentative { id: None, n }.save(&db).await.map(drop),
                false => plain(n).save(&db).await.map(drop),
            }
        }
    });
    let results = at_once(&test.db, saves).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(found(&test.url, "rows").await, (0..40).collect());
    assert_eq!(count(&test.db, "notes").await, 0);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_runs_again_starts_from_the_values_before_the_first_run() {
    let _turn = SCENE.begin().await;
    let test = rows("again").await;
    let mut all: Vec<_> = (0..20).map(|n| Versioned { id: None, n, version: 1 }).collect();
    for row in &mut all {
        row.save(&test.db).await.unwrap();
    }
    let writes = all.into_iter().enumerate().map(|(at, mut row)| {
        let db = test.db.clone();
        async move {
            if at % 5 == 4 {
                // Ends the transaction in which the others were updated.
                noted(at as i64 * 10 + ROLLS_BACK).save(&db).await.unwrap_err();
            }
            let version = row.version;
            row.save(&db).await.unwrap();
            assert_eq!(row.version, version + 1);
            row
        }
    });
    for row in at_once(&test.db, writes).await {
        let mut stored = Versioned::get(&test.db, row.id.unwrap()).await.unwrap();
        assert_eq!(stored.version, row.version);
        stored.save(&test.db).await.unwrap();
    }
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_receivers_runs_again_if_another_one_has_ended_its_transaction() {
    let _turn = SCENE.begin().await;
    let test = rows("runs_again").await;
    Indexed { id: None, n: -1 }.save(&test.db).await.unwrap();
    Keyed { id: -1, n: -1 }.save(&test.db).await.unwrap();
    let saves = (0..60).map(|n| {
        let db = test.db.clone();
        async move {
            match n % 5 {
                0 | 1 => {
                    let mut row = Indexed { id: None, n };
                    let saved = row.save(&db).await;
                    assert_eq!(row.id.is_some(), saved.is_ok());
                    saved.map(drop)
                }
                2 => Keyed { id: n, n }.save(&db).await.map(drop),
                3 => Plain { id: Some(1000 + n), n }.save(&db).await.map(drop),
                _ => {
                    noted(n * 10 + ROLLS_BACK).save(&db).await.unwrap_err();
                    Ok(())
                }
            }
        }
    });
    let results = at_once(&test.db, saves).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    for table in ["indexed", "indexed_notes"] {
        assert_eq!(count(&test.db, table).await, 25, "{table}");
    }
    assert_eq!((count(&test.db, "keyed").await, count(&test.db, "rows").await), (13, 13));
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_sql_that_ends_the_transaction_affects_only_its_own_write() {
    let _turn = SCENE.begin().await;
    for way in 0..7 {
        let test = rows("raw").await;
        let saves = (0..40).map(|call| {
            let db = test.db.clone();
            async move {
                if call % 8 == 7 {
                    let n = call * 10 + way;
                    return (n, Raw { id: None, n }.save(&db).await.map(drop));
                }
                (call * 10, plain(call * 10).save(&db).await.map(drop))
            }
        });
        let results = at_once(&test.db, saves).await;
        let found = found(&test.url, "rows").await;
        for (n, result) in results {
            match n % 10 {
                0 => assert!(result.is_ok() && found.contains(&n), "{way} {n}: {result:?}"),
                // Left open, a savepoint of raw SQL ends with the one around it.
                3 => assert_eq!(result.is_ok(), found.contains(&n), "{way} {n}: {result:?}"),
                // What a raw COMMIT has stored stays stored.
                1 | 4 => assert!(result.is_err(), "{way} {n}: {result:?}"),
                _ => assert!(result.is_err() && !found.contains(&n), "{way} {n}: {result:?}"),
            }
        }
        test.passed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_commit_is_an_error_of_every_write_that_cannot_run_again() {
    let _turn = SCENE.begin().await;
    let test = rows("refused").await;
    // The library has looked at the schema before another program changes it.
    at_once(
        &test.db,
        (1000..1004).map(|n| {
            let db = test.db.clone();
            async move { plain(n).save(&db).await.unwrap() }
        }),
    )
    .await;
    let mut outside = SqliteConnection::connect(&test.url).await.unwrap();
    sqlx::raw_sql(
        "ALTER TABLE notes ADD COLUMN parent BIGINT DEFAULT NULL REFERENCES rows DEFERRABLE INITIALLY DEFERRED;
         CREATE TRIGGER refer AFTER INSERT ON notes WHEN new.of = 50 BEGIN
             UPDATE notes SET parent = -5 WHERE id = new.id; END",
    )
    .execute(&mut outside)
    .await
    .unwrap();
    outside.close().await.unwrap();
    let saves = (0..20).map(|n| {
        let db = test.db.clone();
        async move { (n, save(&db, n * 10, n % 5 == 0).await) }
    });
    let results = at_once(&test.db, saves).await;
    let found = found(&test.url, "rows").await;
    let mut refused = HashSet::new();
    for (n, result) in results {
        assert_eq!(result.is_ok(), found.contains(&(n * 10)), "{n}: {result:?}");
        if let Err(error) = result {
            assert!(n % 5 == 0 && error.is_foreign_key_violation(), "{n}: {error:?}");
            refused.insert(format!("rolled back {}", n * 10));
        }
    }
    assert!(refused.contains("rolled back 50"), "{refused:?}");
    let log: HashSet<_> = SCENE.log.take().into_iter().collect();
    assert!(refused.is_subset(&log), "{refused:?} in {log:?}");
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_to_a_database_with_deferred_constraints_commit_alone() {
    let _turn = SCENE.begin().await;
    let test = rows("deferred").await;
    execute(
        &test.db,
        "CREATE TABLE deferred (parent BIGINT REFERENCES rows DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    plain(-2).save(&test.db).await.unwrap();
    let before = commits(&test);
    let saves = (0..40).map(|n| {
        let db = test.db.clone();
        async move { save(&db, n * 10, n % 2 == 0).await }
    });
    let results = at_once(&test.db, saves).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(commits(&test) - before, 40);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_dropped_at_any_await_does_not_affect_the_others() {
    let _turn = SCENE.begin().await;
    let test = rows("dropped").await;
    for pending in 0..16 {
        let saves = (0..30).map(|call| {
            let (db, n) = (test.db.clone(), (pending * 100 + call) * 10);
            async move {
                match call % 6 {
                    0 => drop(cancelled_after(plain(n).save(&db), pending as usize).await),
                    1 => drop(cancelled_after(noted(n).save(&db), pending as usize).await),
                    2 => drop(cancelled_after(plain(-1).save(&db), pending as usize).await),
                    3 if call % 4 == 1 => {
                        let row = noted(n + ROLLS_BACK);
                        drop(cancelled_after({ row }.save(&db), pending as usize).await);
                    }
                    4 => match noted(n).save(&db).await {
                        Ok(_) => return Some(n),
                        // Another write has ended the transaction.
                        Err(error) => assert!(error.is_rolled_back(), "{error:?}"),
                    },
                    _ => {
                        plain(n).save(&db).await.unwrap();
                        return Some(n);
                    }
                }
                None
            }
        });
        let stored: Vec<_> = at_once(&test.db, saves).await.into_iter().flatten().collect();
        let found = found(&test.url, "rows").await;
        assert!(stored.iter().all(|n| found.contains(n)), "{pending}: {stored:?} in {found:?}");
    }
    // A dropped save may be stored, but then its receivers have run.
    drop(test.db.begin().await.unwrap());
    let (rows, notes) = (found(&test.url, "rows").await, found(&test.url, "notes").await);
    assert!(notes.is_subset(&rows));
    let heard: HashSet<i64> = SCENE
        .log
        .entries()
        .iter()
        .filter_map(|entry| entry.strip_prefix("committed ")?.parse().ok())
        .collect();
    assert_eq!(heard, notes);
    test.passed().await;
}

/// How the first save of a slow row ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum SlowEnd {
    Stored,
    Failed,
    Dropped,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_does_not_delay_the_writes_before_it() {
    use SlowEnd::{Dropped, Failed, Stored};
    // The longer it takes, the longer it stays out of groups.
    for (end, takes, pause) in
        [(Stored, 150, 0), (Failed, 150, 0), (Dropped, 150, 0), (Stored, 500, 1200)]
    {
        let test = rows("slow").await;
        let slow = tokio::spawn({
            let db = test.db.clone();
            let n = if end == Failed { 1000 + FAILS } else { 1000 };
            async move { Slow { id: None, n }.save(&db).await }
        });
        tokio::time::sleep(Duration::from_millis(takes)).await;
        // It is known to be slow from now on.
        if end == Dropped {
            slow.abort();
            assert!(slow.await.is_err());
        } else {
            GATE.add_permits(1);
            assert_eq!(slow.await.unwrap().is_ok(), end == Stored);
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let (done, mut is_done) = tokio::sync::mpsc::unbounded_channel();
        let saves = (0..20).map(|n| {
            let (db, done) = (test.db.clone(), done.clone());
            async move {
                match n {
                    10 => drop(Slow { id: None, n }.save(&db).await.unwrap()),
                    _ => drop(plain(n).save(&db).await.unwrap()),
                }
                done.send(n).unwrap();
            }
        });
        let db = test.db.clone();
        let saves: Vec<_> = saves.collect();
        let all = tokio::spawn(async move { at_once(&db, saves).await });
        let mut before = HashSet::new();
        for _ in 0..10 {
            let next = tokio::time::timeout(Duration::from_secs(10), is_done.recv()).await;
            let next = next.unwrap_or_else(|_| {
                panic!("{end:?} after {takes} ms: others wait for the slow receiver")
            });
            before.insert(next.unwrap());
        }
        assert_eq!(before, (0..10).collect());
        GATE.add_permits(1);
        all.await.unwrap();
        test.passed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_the_program_is_not_part_of_a_group() {
    let test = rows("alone").await;
    let db = test.db.clone();
    let before = commits(&test);
    let calls = (0..40).map(|n| {
        let db = db.clone();
        async move {
            match n % 4 {
                0 => {
                    let mut tx = db.begin().await?;
                    plain(n).save(&mut tx).await?;
                    tokio::task::yield_now().await;
                    tx.rollback().await
                }
                1 => db.transaction(async |tx| plain(n).save(tx).await.map(drop)).await,
                _ => plain(n).save(&db).await.map(drop),
            }
        }
    });
    let results: Vec<Result<()>> = at_once(&db, calls).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(found(&test.url, "rows").await, (0..40).filter(|n| n % 4 != 0).collect());
    assert!(commits(&test) - before >= 10, "each transaction commits by itself");
    test.passed().await;
}

/// A row with a version, whose receiver can refuse the save, so that it is saved in a transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "versioned")]
struct Refusable {
    id: Option<i64>,
    n: i64,
    #[model(version)]
    version: i64,
}

#[receiver(post_save, sender = Refusable)]
fn accept(_: PostSave<'_, Refusable>) -> Result<(), &'static str> {
    Ok(())
}

/// Before its COMMIT, the transaction of a write for which others wait is prepared for theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_is_dropped_while_others_wait_leaves_the_stored_version() {
    let test = rows("dropped_while_others_wait").await;
    let mut row = Refusable { id: None, n: 0, version: 1 };
    row.save(&test.db).await.unwrap();
    for pending in 0..30 {
        row.n += 1;
        let (_, other) = {
            let save = cancelled_after(row.save(&test.db), pending);
            let mut other = Plain { id: None, n: pending as i64 };
            let other = async { other.save(&test.db).await };
            tokio::join!(save, other)
        };
        other.unwrap();
        // Waits for a COMMIT that was not awaited.
        test.db.begin().await.unwrap().rollback().await.unwrap();
        let stored = Refusable::get(&test.db, row.id.unwrap()).await.unwrap();
        assert_eq!(row.version, stored.version, "{pending}");
    }
    test.passed().await;
}
