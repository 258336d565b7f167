//! Statements that other tasks execute for writers that wait.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Poll;
use std::time::Duration;

#[cfg(feature = "json")]
use serde::ser::Error as _;
#[cfg(feature = "json")]
use serde::{Deserialize, Serialize, Serializer};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, sqlx};
use tokio::time::timeout;

use crate::common::{TestDb, cancelled_after, execute};
use crate::{Plain, SCENE, Versioned, at_once, commits, found, plain, rows, save};

/// A number that cannot be encoded if it is odd: it is an error, or a panic.
#[cfg(feature = "json")]
#[derive(Debug, Clone, Deserialize)]
struct Even(i64);

#[cfg(feature = "json")]
impl Serialize for Even {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 4 {
            1 => Err(S::Error::custom("one")),
            3 => panic!("three"),
            _ => serializer.serialize_i64(self.0),
        }
    }
}

#[cfg(feature = "json")]
#[derive(Debug, Clone, Model)]
#[model(table = "pairs")]
struct Pair {
    id: Option<i64>,
    a: i64,
    #[model(json)]
    b: Even,
}

/// A row whose INSERT waits for the gate if its name is `wait`, or is taken and begins with `wait`, because its index compares the names.
#[derive(Debug, Clone, Model)]
#[model(table = "gated")]
struct Gated {
    id: Option<i64>,
    name: String,
}

/// Whether statements have to wait, and how many do.
static GATE: (Mutex<(bool, usize)>, Condvar) = (Mutex::new((false, 0)), Condvar::new());

/// The collation of the names of [`Gated`].
fn compare(a: &str, b: &str) -> std::cmp::Ordering {
    let (state, changed) = &GATE;
    if a == "wait" || b == "wait" || a == b && a.starts_with("wait") {
        let mut state = state.lock().unwrap();
        state.1 += 1;
        changed.notify_all();
        let mut state = changed.wait_while(state, |state| state.0).unwrap();
        state.1 -= 1;
    }
    a.cmp(b)
}

fn set_gate(is_closed: bool) {
    GATE.0.lock().unwrap().0 = is_closed;
    GATE.1.notify_all();
}

/// Waits until a statement waits for the gate.
async fn statement_waits() {
    let wait = || drop(GATE.1.wait_while(GATE.0.lock().unwrap(), |state| state.1 == 0).unwrap());
    tokio::task::spawn_blocking(wait).await.unwrap();
}

/// How long a writer of `gated` waits for its turn.
const LIMIT: Duration = Duration::from_millis(500);

/// A database with the table `gated`, which has two rows.
async fn gated(name: &str) -> (TestDb, Db) {
    let test = rows(name).await;
    let options: SqliteConnectOptions = test.url.parse().unwrap();
    let pool = SqlitePoolOptions::new()
        .acquire_timeout(LIMIT)
        .connect_with(options.collation("gate", compare))
        .await
        .unwrap();
    let db = Db::from(pool);
    let table =
        "CREATE TABLE gated (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE gate UNIQUE)";
    execute(&db, table).await;
    for name in ["a", "b"] {
        Gated { id: None, name: name.into() }.save(&db).await.unwrap();
    }
    plain(0).save(&db).await.unwrap();
    begin_groups(&db).await;
    (test, db)
}

/// Starts saves of these names, all but the first of which are executed with one message, and closes the gate. Returns the futures.
async fn start(db: &Db, names: &[&'static str]) -> Vec<Pending> {
    set_gate(true);
    let tx = db.begin().await.unwrap();
    let mut saves: Vec<Pending> = Vec::new();
    for &name in names {
        let db = db.clone();
        let mut save: Pending = Box::pin(async move {
            let mut row = Gated { id: None, name: name.into() };
            let saved = row.save(&db).await;
            assert_eq!(row.id.is_some(), saved.is_ok(), "{name}");
            saved.map(drop)
        });
        assert!(is_waiting(&mut save).await);
        saves.push(save);
    }
    tx.rollback().await.unwrap();
    saves
}

/// Polls a call once, so that it enters the queue.
async fn is_waiting<F: Future + ?Sized>(call: &mut std::pin::Pin<Box<F>>) -> bool {
    poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await.is_pending()
}

type Pending = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

async fn names(db: &Db) -> Vec<String> {
    let names = db.query("SELECT name FROM gated ORDER BY id").fetch_all().await.unwrap();
    names.into_iter().map(|(name,)| name).collect()
}

/// Statements are left in the queue once it is known that the database has no deferred constraints. The first group finds that out.
async fn begin_groups(db: &Db) {
    let saves = [-2, -3].map(|n| {
        let db = db.clone();
        async move { plain(n).save(&db).await }
    });
    assert!(at_once(db, saves).await.iter().all(Result::is_ok));
    execute(db, "DELETE FROM rows WHERE n < -1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_come_back_get_the_results_of_their_own_statements() {
    let _turn = SCENE.begin().await;
    let test = rows("own_results").await;
    // Each connection keeps the whole log, in which the commits are counted.
    let options = Db::options().pragma("wal_autocheckpoint", "0");
    let shared = options.connect(&test.url).await.unwrap();
    plain(-4).save(&shared).await.unwrap();
    begin_groups(&shared).await;
    let before = commits(&test);
    let tasks = (0..8).map(|task| {
        let db = shared.clone();
        tokio::spawn(async move {
            let mut kept = Versioned { id: None, n: 0, version: 1 };
            kept.save(&db).await.unwrap();
            for step in 0..60 {
                let n = task * 1_000 + step;
                let mut row = plain(n);
                row.save(&db).await.unwrap();
                // It is taken.
                let error = plain(-1).save(&db).await.unwrap_err();
                assert!(error.is_unique_violation(), "{error:?}");
                assert_eq!(Plain::get(&db, row.id.unwrap()).await.unwrap().n, n);
                kept.n = n;
                kept.save(&db).await.unwrap();
                assert_eq!(kept.version, step + 2);
                let mut stale = Versioned { version: step + 1, ..kept.clone() };
                assert!(stale.save(&db).await.unwrap_err().is_stale());
                assert_eq!(stale.version, step + 1);
                if step % 2 == 1 {
                    assert!(row.delete(&db).await.unwrap());
                    assert!(!plain(n).with_key(row.id).delete(&db).await.unwrap());
                }
            }
            let stored = Versioned::get(&db, kept.id.unwrap()).await.unwrap();
            assert_eq!((stored.n, stored.version), (kept.n, kept.version));
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let numbers = (0..8).flat_map(|task| (0..60).step_by(2).map(move |step| task * 1_000 + step));
    assert_eq!(found(&test.url, "rows").await, numbers.collect());
    // Each of the 8 tasks has inserted, updated or deleted 151 rows.
    let commits = commits(&test) - before;
    assert!(commits < 800, "{commits} commits");
    shared.close().await;
    test.passed().await;
}

impl Plain {
    fn with_key(self, id: Option<i64>) -> Self {
        Self { id, ..self }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_fails_does_not_affect_those_that_are_executed_with_it() {
    let _turn = SCENE.begin().await;
    let test = rows("fails_among").await;
    begin_groups(&test.db).await;
    let saves = (0..40).map(|call| {
        let db = test.db.clone();
        let n = if call % 7 == 3 { -1 } else { call };
        async move { (n, plain(n).save(&db).await) }
    });
    let mut stored = HashSet::new();
    for (n, saved) in at_once(&test.db, saves).await {
        match saved {
            Ok(_) => assert!(stored.insert(n)),
            Err(error) => assert!(n == -1 && error.is_unique_violation(), "{n}: {error:?}"),
        }
    }
    assert_eq!(found(&test.url, "rows").await, stored);
    assert_eq!(stored.len(), 34);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_dropped_while_it_waits_is_not_stored_and_affects_no_other() {
    let _turn = SCENE.begin().await;
    let test = rows("dropped_waiting").await;
    begin_groups(&test.db).await;
    for dropped in [vec![0], vec![3], vec![7, 8], vec![0, 1, 5, 12], (0..20).collect()] {
        let tx = test.db.begin().await.unwrap();
        let mut waiting = Vec::new();
        for n in 0..20 {
            let db = test.db.clone();
            let mut save = Box::pin(async move { plain(n).save(&db).await.map(drop) });
            assert!(is_waiting(&mut save).await);
            waiting.push((n, save));
        }
        waiting.retain(|(n, _)| !dropped.contains(n));
        tx.rollback().await.unwrap();
        let kept: HashSet<_> = waiting.iter().map(|(n, _)| *n).collect();
        let saves = waiting.into_iter().map(|(_, save)| tokio::spawn(save));
        for save in saves.collect::<Vec<_>>() {
            save.await.unwrap().unwrap();
        }
        assert_eq!(found(&test.url, "rows").await, kept, "{dropped:?}");
        execute(&test.db, "DELETE FROM rows WHERE n >= 0").await;
    }
    test.passed().await;
}

#[cfg(feature = "json")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_encoded_affects_no_other_write() {
    let _turn = SCENE.begin().await;
    let test = rows("encode").await;
    execute(
        &test.db,
        "CREATE TABLE pairs (id INTEGER PRIMARY KEY, a BIGINT NOT NULL, b TEXT NOT NULL)",
    )
    .await;
    begin_groups(&test.db).await;
    Pair { id: None, a: -1, b: Even(0) }.save(&test.db).await.unwrap();
    let saves = (0..40).map(|n| {
        let db = test.db.clone();
        async move {
            let mut row = Pair { id: None, a: n, b: Even(if n % 5 == 4 { n } else { 2 * n }) };
            (n, tokio::spawn(async move { row.save(&db).await.map(|saved| saved.pk) }).await)
        }
    });
    for (n, saved) in at_once(&test.db, saves).await {
        match saved {
            Ok(Ok(key)) => {
                let stored = Pair::get(&test.db, key).await.unwrap();
                assert_eq!((stored.a, stored.b.0), (n, if n % 5 == 4 { n } else { 2 * n }));
            }
            Ok(Err(error)) => assert!(error.to_string().contains("one"), "{n}: {error}"),
            Err(panic) => assert!(panic.is_panic() && n % 4 == 3, "{n}"),
        }
    }
    let (stored,): (i64,) =
        test.db.query("SELECT count(*) FROM pairs WHERE a >= 0").fetch_one().await.unwrap();
    assert_eq!(stored, 36);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_is_being_executed_is_awaited_for_longer_than_a_connection() {
    let _turn = SCENE.begin().await;
    let (test, db) = gated("awaited").await;
    let saves = start(&db, &["c", "wait", "d", "e"]).await;
    let saves: Vec<_> = saves.into_iter().map(tokio::spawn).collect();
    statement_waits().await;
    // The limit of all of them has passed.
    tokio::time::sleep(2 * LIMIT).await;
    set_gate(false);
    for save in saves {
        save.await.unwrap().unwrap();
    }
    assert_eq!(names(&db).await, ["a", "b", "c", "wait", "d", "e"]);
    db.close().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_was_not_executed_with_the_others_is_not_awaited_for_longer() {
    let _turn = SCENE.begin().await;
    let (test, db) = gated("not_executed").await;
    // The second one is refused after the gate has opened, and those behind it are not executed.
    Gated { id: None, name: "wait 0".into() }.save(&db).await.unwrap();
    let saves = start(&db, &["c", "wait 0", "d", "e"]).await;
    let saves: Vec<_> = saves.into_iter().map(tokio::spawn).collect();
    statement_waits().await;
    tokio::time::sleep(2 * LIMIT).await;
    set_gate(false);
    let mut results = Vec::new();
    for save in saves {
        results.push(save.await.unwrap());
    }
    assert!(results[0].is_ok(), "{results:?}");
    assert!(results[1].as_ref().unwrap_err().is_unique_violation(), "{results:?}");
    for result in &results[2..] {
        let is_late = matches!(result, Err(Error::WriteLockTimedOut { .. }));
        assert!(is_late, "{results:?}");
    }
    assert_eq!(names(&db).await, ["a", "b", "wait 0", "c"]);
    db.close().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_dropped_while_its_statement_is_executed_affects_no_other() {
    let _turn = SCENE.begin().await;
    let (test, db) = gated("dropped_executed").await;
    let mut saves = start(&db, &["c", "wait", "d", "e", "f"]).await;
    let dropped = saves.split_off(1).into_iter().map(tokio::spawn).collect::<Vec<_>>();
    let first = tokio::spawn(saves.remove(0));
    statement_waits().await;
    for at in [0, 2] {
        dropped[at].abort();
    }
    set_gate(false);
    first.await.unwrap().unwrap();
    for (at, save) in dropped.into_iter().enumerate() {
        match save.await {
            Ok(saved) => saved.unwrap(),
            Err(error) => assert!(error.is_cancelled() && [0, 2].contains(&at), "{error}"),
        }
    }
    assert_eq!(names(&db).await, ["a", "b", "c", "wait", "d", "e", "f"]);
    db.close().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executed_statements_do_not_wait_for_a_writer_that_is_not_polled() {
    let _turn = SCENE.begin().await;
    let test = rows("not_polled").await;
    begin_groups(&test.db).await;
    for pending in 0..12 {
        let tx = test.db.begin().await.unwrap();
        let mut saves = Vec::new();
        for n in 0..3 {
            let (db, n) = (test.db.clone(), pending * 100 + n * 10);
            // A save with a receiver that writes leaves no statement.
            let mut save: Pending = Box::pin(async move { save(&db, n, n % 100 == 20).await });
            assert!(is_waiting(&mut save).await);
            saves.push(save);
        }
        let not_polled = saves.remove(2);
        let second = saves.remove(1);
        tx.rollback().await.unwrap();
        let second = tokio::spawn(second);
        // The writer that leads the group is dropped, at some point while it waits for the end.
        cancelled_after(saves.remove(0), pending as usize).await;
        let saved = timeout(Duration::from_secs(10), second).await;
        saved.expect("it does not wait").unwrap().unwrap();
        drop(not_polled);
    }
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_a_new_trigger_ignores_is_executed_once() {
    let _turn = SCENE.begin().await;
    let test = rows("ignored").await;
    execute(&test.db, "CREATE TABLE log (n BIGINT NOT NULL)").await;
    begin_groups(&test.db).await;
    let mut tx = test.db.begin().await.unwrap();
    let mut saves = Vec::new();
    for n in 0..4 {
        let db = test.db.clone();
        let mut save = Box::pin(async move { plain(n).save(&db).await });
        assert!(is_waiting(&mut save).await);
        saves.push(save);
    }
    // The saves have entered the queue before this library knows of the trigger.
    let trigger = "CREATE TRIGGER keep BEFORE INSERT ON rows BEGIN INSERT INTO log VALUES (new.n); SELECT RAISE(IGNORE); END";
    tx.execute(trigger).await.unwrap();
    tx.commit().await.unwrap();
    for save in saves.into_iter().map(tokio::spawn).collect::<Vec<_>>() {
        save.await.unwrap().unwrap_err();
    }
    let log: Vec<(i64,)> = test.db.query("SELECT n FROM log ORDER BY n").fetch_all().await.unwrap();
    assert_eq!(log, [(0,), (1,), (2,), (3,)]);
    assert_eq!(found(&test.url, "rows").await, HashSet::new());
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_refused_is_an_error_of_each_write_that_shared_it() {
    static COMMITS: AtomicUsize = AtomicUsize::new(0);
    let _turn = SCENE.begin().await;
    let test = rows("refused_commit").await;
    let options = SqlitePoolOptions::new().after_connect(|conn, _| {
        Box::pin(async move {
            let refused = || COMMITS.fetch_add(1, Ordering::Relaxed) % 5 != 4;
            conn.lock_handle().await?.set_commit_hook(refused);
            Ok(())
        })
    });
    let url: SqliteConnectOptions = test.url.parse().unwrap();
    // If a COMMIT does not wait for the disk, groups follow each other on one connection, and one message is a whole group.
    let fast = url.synchronous(SqliteSynchronous::Off);
    let db = Db::from(options.connect_with(fast).await.unwrap());
    begin_groups(&db).await;
    let tasks = (0..16).map(|task| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut results = Vec::new();
            for n in task * 1_000..task * 1_000 + 60 {
                let mut row = plain(n);
                let saved = row.save(&db).await;
                assert_eq!(row.id.is_some(), saved.is_ok());
                results.push((n, saved.err()));
            }
            results
        })
    });
    let mut stored = HashSet::new();
    for task in tasks.collect::<Vec<_>>() {
        for (n, error) in task.await.unwrap() {
            match error {
                None => assert!(stored.insert(n)),
                Some(error) => assert!(error.to_string().contains("constraint"), "{error:#}"),
            }
        }
    }
    assert_eq!(found(&test.url, "rows").await, stored);
    assert!((1..960).contains(&stored.len()));
    db.close().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_keep_the_only_connection_from_readers() {
    let _turn = SCENE.begin().await;
    let test = rows("only").await;
    let db = Db::options().max_connections(1).connect(&test.url).await.unwrap();
    plain(-4).save(&db).await.unwrap();
    begin_groups(&db).await;
    let is_done = Arc::new(AtomicBool::new(false));
    let writers = (0..8).map(|task| {
        let (db, is_done) = (db.clone(), Arc::clone(&is_done));
        tokio::spawn(async move {
            let mut n = task * 1_000_000;
            while !is_done.load(Ordering::Relaxed) {
                plain(n).save(&db).await.unwrap();
                n += 1;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    for _ in 0..5 {
        let read = timeout(Duration::from_secs(1), Plain::query("LIMIT 1").fetch_one(&db));
        read.await.expect("the reader gets the connection within some groups").unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    db.close().await;
    test.passed().await;
}
