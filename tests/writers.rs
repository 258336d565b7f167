//! SQLite: the writers of one file take turns, in the order of arrival.
#![allow(missing_docs)]
#![cfg(feature = "sqlite")]

mod common;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, sqlx, testing};
use tokio::task::JoinHandle;

use common::{TestDb, cancelled_after, count, table, until};

#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Plain {
    id: Option<i64>,
    n: i64,
}

/// A row whose save takes three statements in a transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Written {
    id: Option<i64>,
    n: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    of: i64,
}

#[receiver(post_save, sender = Written)]
async fn note(saved: PostSave<'_, Written>, conn: &mut Conn<'_>) -> Result<()> {
    Note { id: None, of: saved.instance.n }.save(conn).await.map(drop)
}

/// A row whose receiver holds the write lock until it is released.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Slow {
    id: Option<i64>,
    n: i64,
}

static HELD: AtomicBool = AtomicBool::new(false);

#[receiver(post_save, sender = Slow)]
async fn hold(_: PostSave<'_, Slow>, _: &mut Conn<'_>) {
    HELD.store(true, Ordering::SeqCst);
    while HELD.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A row whose receiver writes through another pool of the same file.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Circular {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Circular)]
async fn write_elsewhere(
    saved: PostSave<'_, Circular>,
    State(Elsewhere(db)): State<Elsewhere>,
    _: &mut Conn<'_>,
) -> Result<()> {
    Plain { id: None, n: saved.instance.n }.save(&db).await.map(drop)
}

#[derive(Clone)]
struct Elsewhere(Db);

async fn rows(name: &str) -> TestDb {
    let test = TestDb::sqlite(name).await;
    table(&test.db, "rows", "n INTEGER NOT NULL").await;
    table(&test.db, "notes", "of INTEGER NOT NULL").await;
    test
}

/// Waits for all tasks. They are started first, because the iterator may be lazy.
async fn all_ok<T>(tasks: impl IntoIterator<Item = JoinHandle<Result<T>>>) {
    let tasks: Vec<_> = tasks.into_iter().collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

fn plain(n: i64) -> Plain {
    Plain { id: None, n }
}

/// Another `Db` for the same file, which waits at most this long.
async fn impatient(test: &TestDb, limit: Duration) -> Db {
    Db::options().acquire_timeout(limit).connect(&test.url).await.unwrap()
}

fn assert_timed_out(error: &Error, holder: &str) {
    assert!(matches!(error, Error::WriteLockTimedOut { .. }), "{error:?}");
    assert!(error.is_busy() && error.is_retryable());
    assert!(error.to_string().contains(holder), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_take_turns_in_the_order_of_arrival() {
    let mut attempts = 0..5;
    // A writer that is not polled within 20 ms is overtaken, which a loaded machine can cause.
    while !writers_are_in_order().await {
        attempts.next().expect("the order of arrival");
    }
}

async fn writers_are_in_order() -> bool {
    let test = rows("order").await;
    let mut tx = test.db.begin().await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..50 {
        let db = test.db.clone();
        let mut save = Box::pin(async move {
            match n % 3 {
                0 => plain(n).save(&db).await.map(drop),
                1 => Written { id: None, n }.save(&db).await.map(drop),
                _ => db.transaction(async |tx| plain(n).save(tx).await.map(drop)).await,
            }
        });
        // The first poll enters the queue.
        assert!(poll_fn(|cx| Poll::Ready(save.as_mut().poll(cx).is_pending())).await);
        waiting.push(tokio::spawn(save));
    }
    plain(-1).save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    all_ok(waiting).await;
    let stored: Vec<(i64,)> =
        test.db.query("SELECT n FROM rows ORDER BY id").fetch_all().await.unwrap();
    assert_eq!(stored.len(), 51);
    test.passed().await;
    stored.iter().map(|(n,)| *n).eq(-1..50)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_of_every_kind_never_see_a_locked_database() {
    let test = rows("many").await;
    let other = Db::connect(&test.url).await.unwrap();
    let pool = SqlitePoolOptions::new().connect(&test.url).await.unwrap();
    let tasks = (0..64).map(|task| {
        let db = if task % 2 == 0 { test.db.clone() } else { other.clone() };
        let pool = pool.clone();
        tokio::spawn(async move {
            for n in 0..10 {
                match (task + n) % 6 {
                    0 => plain(n).save(&db).await.map(drop)?,
                    1 => Written { id: None, n }.save(&db).await.map(drop)?,
                    2 => plain(n).save(&pool).await.map(drop)?,
                    3 => {
                        let mut tx = db.begin().await?;
                        plain(n).save(&mut tx).await?;
                        tx.commit().await.map(drop)?;
                    }
                    4 => {
                        let mut conn = db.acquire().await?;
                        plain(n).save(&mut conn).await.map(drop)?;
                    }
                    _ => Plain::insert_many(&db, &mut [plain(n)]).await.map(drop)?,
                }
            }
            Result::Ok(())
        })
    });
    all_ok(tasks).await;
    assert_eq!(count(&test.db, "rows").await, 640);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pools_of_a_file_share_the_queue_however_its_path_is_spelled() {
    let test = rows("spelled").await;
    let path = std::path::Path::new(test.name());
    let (dir, file) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    let link = dir.join(format!("link_to_{file}"));
    #[cfg(unix)]
    std::os::unix::fs::symlink(path, &link).unwrap();
    let (dir, encoded) = (dir.display(), file.replace('_', "%5f"));
    let tx = test.db.begin().await.unwrap();
    for spelled in [
        format!("{dir}/./{file}"),
        link.display().to_string(),
        // https://www.sqlite.org/uri.html
        format!("file:{dir}/{file}"),
        format!("file://{dir}/{encoded}"),
        format!("file://localhost{dir}/{file}?cache=private#fragment"),
    ] {
        let options = SqliteConnectOptions::new().filename(&spelled);
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(Duration::from_secs(1))
            .connect_with(options)
            .await
            .unwrap();
        let error = plain(1).save(&Db::from(pool)).await.unwrap_err();
        assert_timed_out(&error, "a transaction has held it for");
    }
    drop(tx);
    std::fs::remove_file(link).unwrap();
    // Such a file is not in memory, so its writers share a COMMIT.
    let url = format!("sqlite:file:{dir}/{encoded}").replace('%', "%25");
    let db = Db::connect(&url).await.unwrap();
    plain(2).save(&db).await.unwrap();
    assert_eq!(count(&test.db, "rows").await, 1);
    db.close().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_uri_takes_no_turns() {
    let test = rows("read_only_uri").await;
    let tx = test.db.begin().await.unwrap();
    for end in ["mode=ro", "vfs=unix&immutable=1"] {
        let options = SqliteConnectOptions::new().filename(format!("file:{}?{end}", test.name()));
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(Duration::from_secs(1))
            .connect_with(options)
            .await
            .unwrap();
        let db = Db::from(pool);
        db.begin().await.unwrap().rollback().await.unwrap();
        db.close().await;
    }
    drop(tx);
    test.passed().await;
}

#[derive(Signal)]
struct Asked;

#[receiver(Asked)]
fn answer(_: &Asked) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_only_reads_does_not_keep_another_one_from_the_queue() {
    let test = rows("reader").await;
    let options = SqliteConnectOptions::new().filename(test.name());
    let pool = SqlitePoolOptions::new().acquire_timeout(Duration::from_millis(200));
    let reader = pool.clone().connect_with(options.clone().read_only(true)).await.unwrap();
    Asked.send(&reader).await.unwrap();
    let writer = pool.connect_with(options).await.unwrap();
    let tx = test.db.begin().await.unwrap();
    let error = plain(1).save(&writer).await.unwrap_err();
    assert_timed_out(&error, "a transaction has held it for");
    drop(tx);
    plain(1).save(&writer).await.unwrap();
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_of_a_writer_that_waited_too_long_names_the_holder() {
    let test = rows("holder").await;
    let other = impatient(&test, Duration::from_millis(200)).await;

    let tx = test.db.begin().await.unwrap();
    let line = line!() - 1;
    let error = plain(1).save(&other).await.unwrap_err();
    assert_timed_out(&error, "ms: a transaction has held it for");
    assert!(format!("{error:#}").contains(&format!("(begun at {}:{line})", file!())), "{error:#}");
    let Error::WriteLockTimedOut { held_for, .. } = error else { unreachable!() };
    assert!(held_for >= Duration::from_millis(200));
    let error = other.begin().await.unwrap_err();
    assert_timed_out(&error, "a transaction");
    drop(tx);

    let mut conn = test.db.acquire().await.unwrap();
    let tx = conn.begin().await.unwrap();
    let line = line!() - 1;
    let error = plain(1).save(&other).await.unwrap_err();
    assert!(format!("{error:#}").contains(&format!("(begun at {}:{line})", file!())), "{error:#}");
    drop(tx);
    drop(conn);

    let writing = async |_: &mut Transaction<'_>| {
        // In another task, because this one would wait for itself.
        let other = other.clone();
        Ok(tokio::spawn(async move { plain(1).save(&other).await.unwrap_err() }).await.unwrap())
    };
    let error = testing::transaction(&test.db, writing).await.unwrap().value;
    let line = line!() - 1;
    assert!(format!("{error:#}").contains(&format!("(begun at {}:{line})", file!())), "{error:#}");

    let db = test.db.clone();
    let saving = tokio::spawn(async move { Slow { id: None, n: 1 }.save(&db).await });
    until(|| HELD.load(Ordering::SeqCst)).await;
    let error = plain(1).save(&other).await.unwrap_err();
    assert_timed_out(&error, "a save of `Slow` has held it for");
    HELD.store(false, Ordering::SeqCst);
    saving.await.unwrap().unwrap();
    plain(2).save(&test.db).await.unwrap();
    assert_eq!(count(&test.db, "rows").await, 2);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_raw_sql_do_not_wait_for_the_turn() {
    let test = rows("reads").await;
    let mut stored = plain(1);
    stored.save(&test.db).await.unwrap();
    let tx = test.db.begin().await.unwrap();
    // More waiting writers than the pool has connections.
    let waiting: Vec<_> = (0..30)
        .map(|n| {
            let db = test.db.clone();
            tokio::spawn(async move { plain(n).save(&db).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    // A read that waited for the transaction would fail after the timeout of the pool.
    assert_eq!(Plain::all(&test.db).await.unwrap().len(), 1);
    assert_eq!(Plain::get(&test.db, stored.id.unwrap()).await.unwrap().n, 1);
    assert_eq!(count(&test.db, "rows").await, 1);
    drop(tx);
    all_ok(waiting).await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_one_connection_does_not_deadlock() {
    let test = rows("one").await;
    let db = common::one_connection(&test.db).await;
    let db = Db::options()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(20))
        .connect(&test.url)
        .await
        .map(|own| [own, db])
        .unwrap();
    for db in db {
        let tasks = (0..16).map(|task| {
            let db = db.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    match (task + n) % 4 {
                        0 => plain(n).save(&db).await.map(drop)?,
                        1 => {
                            // Waits for its turn with the connection that others wait for.
                            let mut conn = db.acquire().await?;
                            tokio::task::yield_now().await;
                            plain(n).save(&mut conn).await?;
                            let mut tx = conn.begin().await?;
                            plain(n).save(&mut tx).await?;
                            tx.commit().await.map(drop)?;
                        }
                        2 => Written { id: None, n }.save(&db).await.map(drop)?,
                        _ => drop(Plain::all(&db).await?),
                    }
                }
                Result::Ok(())
            })
        });
        tokio::time::timeout(Duration::from_secs(60), all_ok(tasks)).await.unwrap();
    }
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_writer_leaves_the_queue_and_a_dropped_holder_passes_it_on() {
    let test = rows("dropped").await;
    let db = impatient(&test, Duration::from_secs(5)).await;
    let mut conn = db.acquire().await.unwrap();
    for pending in 0..12 {
        // Dropped while it waits.
        let tx = db.begin().await.unwrap();
        assert!(cancelled_after(plain(1).save(&db), 0).await.is_none());
        assert!(cancelled_after(db.begin(), 0).await.is_none());
        assert!(cancelled_after(plain(1).save(&mut conn), 0).await.is_none());
        drop(tx);
        // Dropped while it writes.
        cancelled_after(plain(1).save(&db), pending).await;
        cancelled_after(Written { id: None, n: 1 }.save(&db), pending).await;
        cancelled_after(plain(1).save(&mut conn), pending).await;
        cancelled_after(Written { id: None, n: 1 }.save(&mut conn), pending).await;
        cancelled_after(db.transaction(async |tx| plain(1).save(tx).await), pending).await;
        cancelled_after(Plain::query("WHERE n = 2").delete(&db), pending).await;
        let saved = plain(2).save(&db).await;
        assert!(saved.is_ok(), "{pending}: the queue is stuck: {saved:?}");
    }
    drop(conn);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_on_a_borrowed_connection_ends_with_the_write() {
    let test = rows("borrowed").await;
    let db = impatient(&test, Duration::from_secs(2)).await;
    let mut conn = db.acquire().await.unwrap();
    plain(1).save(&mut conn).await.unwrap();
    plain(2).save(&db).await.unwrap();
    Written { id: None, n: 3 }.save(&mut conn).await.unwrap();
    plain(4).save(&db).await.unwrap();
    Plain::query("WHERE n = 4").delete(&mut conn).await.unwrap();
    plain(5).save(&db).await.unwrap();
    // A transaction that raw SQL begins is outside of the queue, and the saves in it do not wait.
    conn.execute("BEGIN IMMEDIATE").await.unwrap();
    plain(6).save(&mut conn).await.unwrap();
    conn.execute("COMMIT").await.unwrap();
    let tx = conn.begin().await.unwrap();
    let error = plain(7).save(&db).await.unwrap_err();
    assert_timed_out(&error, "a transaction");
    tx.rollback().await.unwrap();
    plain(8).save(&db).await.unwrap();
    assert_eq!(count(&db, "rows").await, 6);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_to_the_database_of_the_own_transaction_is_an_error_at_once() {
    let test = rows("own").await;
    let other = Db::connect(&test.url).await.unwrap();
    let start = Instant::now();
    for db in [&test.db, &other] {
        let refused = test.db.transaction(async |_| plain(1).save(db).await.map(drop)).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::WouldDeadlock { .. }), "{error:?}");
        assert!(error.to_string().starts_with("the closure of `Db::transaction`"), "{error}");
        let refused = test.db.transaction(async |_| db.begin().await.map(drop)).await;
        assert!(matches!(refused, Err(Error::WouldDeadlock { .. })));
        let refused =
            testing::transaction(&test.db, async |_| plain(1).save(db).await.map(drop)).await;
        assert!(matches!(refused, Err(Error::WouldDeadlock { .. })));
    }
    let db = test.db.with(Elsewhere(other.clone()));
    let error = Circular { id: None, n: 1 }.save(&db).await.unwrap_err();
    assert!(error.is_use_the_receiver_connection(), "{error:?}");
    assert!(error.to_string().contains("write_elsewhere"), "{error}");
    // Another file is not locked, and reads do not wait.
    let third = rows("own_third").await;
    let read = test.db.transaction(async |_| {
        plain(1).save(&third.db).await?;
        Plain::all(&test.db).await
    });
    assert!(read.await.unwrap().is_empty());
    // Other tasks, and the task itself after the transaction, may write.
    let (one, two) = tokio::join!(test.db.transaction(async |tx| plain(1).save(tx).await), async {
        plain(2).save(&test.db).await
    });
    one.unwrap();
    two.unwrap();
    // The busy timeout of SQLite.
    assert!(start.elapsed() < Duration::from_secs(5));
    third.passed().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_for_other_processes_with_the_busy_timeout() {
    let test = rows("outside").await;
    // A connection of its own stands for another process: it takes no part in the queue.
    let mut outside = sqlx::SqliteConnection::connect(&test.url).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE; INSERT INTO rows (n) VALUES (0)")
        .execute(&mut outside)
        .await
        .unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let db = test.db.clone();
            tokio::spawn(async move { plain(n).save(&db).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    sqlx::raw_sql("COMMIT").execute(&mut outside).await.unwrap();
    all_ok(waiting).await;
    assert_eq!(count(&test.db, "rows").await, 21);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_a_read_only_database_do_not_wait_for_each_other() {
    let test = rows("read_only").await;
    let url = format!("{}?mode=ro", test.url);
    let db = Db::options().acquire_timeout(Duration::from_secs(20)).connect(&url).await.unwrap();
    let one = db.begin().await.unwrap();
    let two = db.begin().await.unwrap();
    plain(1).save(&test.db).await.unwrap();
    drop((one, two));
    db.close().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_databases_have_queues_of_their_own() {
    // Several connections share this database, and would fail with "database table is locked".
    let shared: SqliteConnectOptions = "sqlite::memory:".parse().unwrap();
    let pool = SqlitePoolOptions::new()
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(20))
        .connect_with(shared)
        .await
        .unwrap();
    let shared = Db::from(pool);
    // Each connection has a database of its own.
    let private = SqliteConnectOptions::new().filename(":memory:");
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(private).await.unwrap();
    let private = Db::from(pool);
    let single = Db::connect("sqlite::memory:").await.unwrap();
    for db in [&shared, &private, &single] {
        table(db, "rows", "n INTEGER NOT NULL").await;
    }
    let one = shared.begin().await.unwrap();
    let two = private.begin().await.unwrap();
    let three = single.begin().await.unwrap();
    let error = plain(1).save(&shared).await.unwrap_err();
    assert_timed_out(&error, "a transaction");
    drop((one, two, three));
    let saves = (0..50).map(|n| {
        let db = shared.clone();
        tokio::spawn(async move { plain(n).save(&db).await })
    });
    all_ok(saves).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_save_that_ends_its_transaction_does_not_affect_the_next_ones() {
    let test = TestDb::sqlite("ends").await;
    table(&test.db, "rows", "n INTEGER NOT NULL UNIQUE ON CONFLICT ROLLBACK").await;
    plain(-1).save(&test.db).await.unwrap();
    for pending in 0..12 {
        let tasks = (0..30).map(|call| {
            let (db, n) = (test.db.clone(), i64::from(pending * 100 + call));
            tokio::spawn(async move {
                match call % 3 {
                    0 => drop(cancelled_after(plain(n).save(&db), pending as usize).await),
                    // SQLite rolls back, and the future may be dropped meanwhile.
                    1 => drop(cancelled_after(plain(-1).save(&db), pending as usize).await),
                    _ => drop(plain(n).save(&db).await?),
                }
                Result::Ok(())
            })
        });
        all_ok(tasks).await;
        let mut conn = test.db.acquire().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        cancelled_after(plain(-1).save(&mut tx), 0).await;
        drop(tx);
        plain(i64::from(pending * 100 + 2000)).save(&mut conn).await.unwrap();
        drop(conn);
        // Another connection sees what is stored.
        let mut outside = sqlx::SqliteConnection::connect(&test.url).await.unwrap();
        let stored: Vec<i64> =
            sqlx::query_scalar("SELECT n FROM rows").fetch_all(&mut outside).await.unwrap();
        let mut expected = (0..30).filter(|call| call % 3 == 2).map(|call| pending * 100 + call);
        assert!(expected.all(|n| stored.contains(&i64::from(n))), "{pending}: {stored:?}");
        assert!(stored.contains(&i64::from(pending * 100 + 2000)), "{pending}: {stored:?}");
        outside.close().await.unwrap();
    }
    test.passed().await;
}

/// A transaction that sqlx has begun and that has not written yet, or has written already.
async fn begun_by_sqlx(test: &TestDb, sql: &'static str) -> Transaction<'static> {
    let mut tx = test.db.sqlite().unwrap().begin().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut *tx).await.unwrap();
    tx.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_for_an_adopted_transaction_as_for_another_writer() {
    let test = rows("adopted_first").await;
    // The second one writes before it is adopted.
    for sql in ["", "INSERT INTO rows (n) VALUES (0)"] {
        let mut tx = begun_by_sqlx(&test, sql).await;
        plain(1).save(&mut tx).await.unwrap();
        let waited = plain(2).save(&impatient(&test, Duration::from_millis(50)).await).await;
        assert_timed_out(&waited.unwrap_err(), "a transaction");
        let db = test.db.clone();
        let waiting = tokio::spawn(async move { plain(3).save(&db).await });
        // Longer than the busy timeout of SQLite.
        tokio::time::sleep(Duration::from_millis(5200)).await;
        plain(4).save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        waiting.await.unwrap().unwrap();
    }
    // The turn ends also if the transaction is dropped.
    let mut tx = begun_by_sqlx(&test, "").await;
    plain(5).save(&mut tx).await.unwrap();
    drop(tx);
    plain(6).save(&test.db).await.unwrap();
    assert_eq!(count(&test.db, "rows").await, 8);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_transaction_that_has_the_lock_does_not_wait_for_a_writer_that_waits_for_it() {
    let test = rows("adopted_holds").await;
    let mut tx = begun_by_sqlx(&test, "INSERT INTO rows (n) VALUES (0)").await;
    let blocked = [1, 2, 3].map(|n| {
        let db = test.db.clone();
        tokio::spawn(async move { Written { id: None, n }.save(&db).await })
    });
    // One of them has the turn by now.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    plain(4).save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    // The busy timeout of SQLite.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    all_ok(blocked).await;
    assert_eq!(count(&test.db, "rows").await, 5);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_transaction_gets_its_turn_among_many_writers() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let test = rows("adopted_crowd").await;
    let writers = (0..8).map(|n| {
        let db = test.db.clone();
        tokio::spawn(async move {
            let mut written = 0_i64;
            while !STOP.load(Ordering::SeqCst) {
                Written { id: None, n }.save(&db).await?;
                written += 1;
            }
            Ok::<_, Error>(written)
        })
    });
    let writers = writers.collect::<Vec<_>>();
    for _ in 0..20 {
        let mut tx = begun_by_sqlx(&test, "").await;
        plain(-1).save(&mut tx).await.unwrap();
        Written { id: None, n: -1 }.save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    STOP.store(true, Ordering::SeqCst);
    let mut written = 40;
    for writer in writers {
        written += writer.await.unwrap().unwrap();
    }
    assert_eq!(count(&test.db, "rows").await, written);
    test.passed().await;
}

#[derive(Debug, Clone, Signal)]
struct Counted {
    n: i64,
}

#[receiver(Counted)]
async fn count_up(counted: &Counted, conn: &mut Conn<'_>) -> Result<()> {
    Note { id: None, of: counted.n }.save(conn).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_transaction_takes_its_turn_with_a_first_write_of_any_kind() {
    let test = rows("adopted_kinds").await;
    let impatient = impatient(&test, Duration::from_millis(200)).await;
    plain(-1).save(&test.db).await.unwrap();
    Written { id: None, n: -1 }.save(&test.db).await.unwrap();
    for first in 0..7 {
        let mut tx = begun_by_sqlx(&test, "").await;
        match first {
            0 => drop(Written { id: None, n: 1 }.save(&mut tx).await.unwrap()),
            1 => drop(Plain::insert_many(&mut tx, &mut [plain(1), plain(2)]).await.unwrap()),
            2 => Counted { n: 1 }.send(&mut tx).await.unwrap(),
            3 => assert!(Counted { n: 1 }.send_robust(&mut tx).await[0].1.is_ok()),
            4 => drop(Plain::query("WHERE n = -1").set(Plain::N, 2).update(&mut tx).await.unwrap()),
            5 => drop(Plain::query("WHERE n = -1").delete(&mut tx).await.unwrap()),
            _ => {
                let mut savepoint = tx.begin().await.unwrap();
                Written { id: None, n: 1 }.save(&mut savepoint).await.unwrap();
                savepoint.commit().await.unwrap();
            }
        }
        let waited = plain(2).save(&impatient).await;
        let error = waited.expect_err("the transaction has its turn");
        assert!(matches!(error, Error::WriteLockTimedOut { .. }), "{first}: {error:?}");
        tx.rollback().await.unwrap();
    }
    assert_eq!(count(&test.db, "rows").await, 2);
    test.passed().await;
}

/// A write of one of three kinds.
async fn write(db: &Db, n: i64, kind: u32) -> Result<()> {
    match kind {
        0 => plain(n).save(db).await.map(drop),
        1 => Written { id: None, n }.save(db).await.map(drop),
        _ => db.transaction(async |tx| plain(n).save(tx).await.map(drop)).await,
    }
}

/// Polls a call once, so that it waits in the queue.
async fn waiting<T>(call: impl Future<Output = T>) -> Pin<Box<impl Future<Output = T>>> {
    let mut call = Box::pin(call);
    assert!(poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await);
    call
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_can_write_while_it_does_not_poll_its_other_writes() {
    let test = rows("buffered").await;
    let db = impatient(&test, Duration::from_secs(5)).await;
    for kind in 0..3 {
        let saves = stream::iter(0..12).map(|n| write(&db, n, kind)).buffer_unordered(4);
        let mut saves = std::pin::pin!(saves);
        while let Some(saved) = saves.next().await {
            saved.unwrap();
            write(&db, 100, kind).await.unwrap();
        }
    }
    assert_eq!(count(&test.db, "rows").await, 3 * 24);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_overtakes_those_before_it_that_are_not_polled() {
    let test = rows("overtakes").await;
    let db = impatient(&test, Duration::from_secs(5)).await;
    for kind in 0..3 {
        let tx = db.begin().await.unwrap();
        let set_aside = [
            waiting(write(&db, 1, kind)).await,
            waiting(write(&db, 2, kind)).await,
            waiting(write(&db, 3, kind)).await,
        ];
        let mut conn = db.acquire().await.unwrap();
        let polled = [4, 5].map(|n| {
            let db = db.clone();
            tokio::spawn(async move { write(&db, n, kind).await })
        });
        let last = tokio::spawn(async move { plain(6).save(&mut conn).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        tx.commit().await.unwrap();
        let began = Instant::now();
        all_ok(polled).await;
        all_ok([last]).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        // Their places are not lost.
        for save in set_aside {
            save.await.unwrap();
        }
    }
    assert_eq!(count(&test.db, "rows").await, 18);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_dropped_after_it_was_overtaken_leaves_nothing_behind() {
    let test = rows("overtaken").await;
    let db = impatient(&test, Duration::from_secs(5)).await;
    for kind in 0..3 {
        let tx = db.begin().await.unwrap();
        let (one, two) = (waiting(write(&db, 1, kind)).await, waiting(write(&db, 2, kind)).await);
        tx.commit().await.unwrap();
        plain(3).save(&db).await.unwrap();
        drop((one, two));
        plain(4).save(&db).await.unwrap();
    }
    assert!(count(&test.db, "rows").await >= 6);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_without_a_free_connection_does_not_block_the_writers_of_another_pool() {
    let test = rows("two_pools").await;
    let options = || SqlitePoolOptions::new().max_connections(1);
    let pool = options().connect(&test.url).await.unwrap();
    let main = impatient(&test, Duration::from_secs(2)).await;
    for is_once in [false, true] {
        let reports = Db::from(pool.clone());
        let conn = reports.acquire().await.unwrap();
        let waiting = [1, 2].map(|n| {
            let (reports, pool) = (reports.clone(), pool.clone());
            tokio::spawn(async move {
                match is_once {
                    true => plain(n).save(&pool).await,
                    false => plain(n).save(&reports).await,
                }
            })
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let all = (0..20).map(|n| {
            let main = main.clone();
            tokio::spawn(async move { write(&main, n, (n % 3) as u32).await })
        });
        all_ok(all).await;
        drop(conn);
        all_ok(waiting).await;
    }
    assert_eq!(count(&test.db, "rows").await, 44);
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timeout_limits_the_waits_for_the_turn_and_for_a_connection_together() {
    let test = rows("one_limit").await;
    let limit = Duration::from_millis(600);
    let options = Db::options().max_connections(1).acquire_timeout(limit);
    let db = options.connect(&test.url).await.unwrap();
    plain(1).save(&db).await.unwrap();
    let ms = |ms| tokio::time::sleep(Duration::from_millis(ms));
    let mut cases = vec![true, false];
    let mut attempts = 0..6;
    while let Some(gets_connection) = cases.pop() {
        attempts.next().expect("the writer gets its turn");
        let conn = db.acquire().await.unwrap();
        let tx = test.db.begin().await.unwrap();
        let writer = db.clone();
        let began = Instant::now();
        let waiting = tokio::spawn(async move { plain(2).save(&writer).await });
        ms(250).await;
        tx.rollback().await.unwrap();
        ms(50).await;
        let tx = test.db.begin().await.unwrap();
        let conn = if gets_connection {
            drop(conn);
            None
        } else {
            Some(conn)
        };
        let error = waiting.await.unwrap().unwrap_err();
        let waited = began.elapsed();
        assert!(waited >= limit && waited < 2 * limit, "{waited:?}");
        match (gets_connection, &error) {
            (true, Error::WriteLockTimedOut { waited, .. }) => {
                assert!(*waited >= limit, "{waited:?}");
                assert_timed_out(&error, "not free within");
            }
            (false, Error::Database(sqlx::Error::PoolTimedOut)) => {}
            // On a loaded machine, it is overtaken before it takes its turn.
            (false, Error::WriteLockTimedOut { .. }) => cases.push(false),
            _ => panic!("{error:?}"),
        }
        drop((tx, conn));
    }
    test.passed().await;
}

/// Each of them checks whether the one before it is polled, which must not take the time of the one whose turn it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_waiting_writers_get_their_turns() {
    let test = rows("thousands").await;
    let options = Db::options().pragma("synchronous", "OFF");
    let db = options.acquire_timeout(Duration::from_secs(60)).connect(&test.url).await.unwrap();
    let tx = db.begin().await.unwrap();
    let waiting = (0..20_000).map(|n| {
        let db = db.clone();
        tokio::spawn(async move { plain(n).save(&db).await })
    });
    let waiting: Vec<_> = waiting.collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    tx.rollback().await.unwrap();
    all_ok(waiting).await;
    assert_eq!(count(&test.db, "rows").await, 20_000);
    test.passed().await;
}

/// A writer that has waited with thousands of others notices soon that the one before it is not polled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_has_waited_with_thousands_soon_overtakes_a_late_one() {
    let test = rows("left_alone").await;
    let db = impatient(&test, Duration::from_secs(60)).await;
    let tx = db.begin().await.unwrap();
    let mut row = plain(1);
    let mut late = Box::pin(row.save(&db));
    assert!(poll_fn(|cx| Poll::Ready(late.as_mut().poll(cx).is_pending())).await);
    let wait = |n| {
        let db = db.clone();
        tokio::spawn(async move { plain(n).save(&db).await })
    };
    let others: Vec<_> = (0..20_000).map(wait).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let waiting = wait(2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    others.iter().for_each(JoinHandle::abort);
    tx.rollback().await.unwrap();
    tokio::time::timeout(Duration::from_secs(3), waiting).await.unwrap().unwrap().unwrap();
    late.await.unwrap();
    assert_eq!(count(&test.db, "rows").await, 2);
    test.passed().await;
}

/// A runtime whose tasks take long polls its writers late each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_polled_late_each_time_gets_its_turn() {
    let test = rows("late").await;
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let busy = (0..4).map(|n| {
        let (db, done) = (test.db.clone(), done.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                Written { id: None, n }.save(&db).await?;
            }
            Ok(())
        })
    });
    let busy: Vec<_> = busy.collect();
    let url = test.url.clone();
    let late = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        // What other threads have woken is polled next.
        let runtime = runtime.enable_all().global_queue_interval(1).event_interval(1);
        runtime.build().unwrap().block_on(async {
            let db = Db::options().acquire_timeout(Duration::from_secs(8)).connect(&url).await?;
            let blocks = tokio::spawn(async {
                loop {
                    std::thread::sleep(Duration::from_millis(100));
                    tokio::task::yield_now().await;
                }
            });
            Written { id: None, n: 10 }.save(&db).await?;
            plain(11).save(&db).await?;
            blocks.abort();
            Ok::<_, Error>(())
        })
    });
    let late = tokio::task::spawn_blocking(|| late.join().unwrap()).await.unwrap();
    done.store(true, Ordering::SeqCst);
    all_ok(busy).await;
    late.unwrap();
    test.passed().await;
}

/// Nothing drops a forgotten transaction, but its connection is rolled back when it returns to the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_turn_of_a_forgotten_transaction_ends_with_its_connection() {
    let test = rows("forgotten").await;
    let db = impatient(&test, Duration::from_secs(2)).await;
    for n in 0..3 {
        let mut conn = db.acquire().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        plain(n).save(&mut tx).await.unwrap();
        std::mem::forget(tx);
        // Others wait for it already.
        let waits = {
            let db = db.clone();
            tokio::spawn(async move { plain(n).save(&db).await })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(conn);
        all_ok([waits]).await;
        plain(n).save(&db).await.unwrap();
        Written { id: None, n }.save(&db).await.unwrap();
    }
    assert_eq!(count(&db, "rows").await, 9);
    test.passed().await;
}

/// In the journal mode DELETE, SQLite notices that a file was renamed or deleted, and refuses every further write to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_a_file_that_was_replaced_is_replaced() {
    let test = rows("replaced").await;
    test.db.close().await;
    let options = || Db::options().pragma("journal_mode", "DELETE").max_connections(2);
    let file = test.url.strip_prefix("sqlite:").unwrap().to_owned();
    let db = options().connect(&test.url).await.unwrap();
    plain(1).save(&db).await.unwrap();
    let (old, new) = (format!("{file}.old"), format!("{file}.new"));
    let _ = std::fs::remove_file(&new);
    let other = options().connect(&format!("sqlite:{new}")).await.unwrap();
    table(&other, "rows", "n INTEGER NOT NULL").await;
    table(&other, "notes", "of INTEGER NOT NULL").await;
    other.close().await;
    std::fs::rename(&file, &old).unwrap();
    std::fs::rename(&new, &file).unwrap();
    let mut refused = 0;
    while let Err(error) = plain(2).save(&db).await {
        let code = error.database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("1032"), "{error}");
        refused += 1;
        assert!(refused < 4, "{error}");
    }
    Written { id: None, n: 3 }.save(&db).await.unwrap();
    assert_eq!(count(&db, "rows").await, 2);
    db.close().await;
    for file in [file, old] {
        std::fs::remove_file(file).unwrap();
    }
}

/// The program may occupy all of them, also with calls that wait for these writes.
#[test]
fn writes_need_no_blocking_thread_of_their_runtime() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let test = rows("occupied").await;
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let occupied = tokio::task::spawn_blocking(move || ended.recv().is_ok());
        let writers = (0..8).map(|n| {
            let db = &test.db;
            async move {
                for round in 0..5 {
                    write(db, n, (n as u32 + round) % 3).await.unwrap();
                    let limit = Duration::from_micros(200);
                    let _ = tokio::time::timeout(limit, write(db, -1, n as u32 % 3)).await;
                }
            }
        });
        let all = futures_util::future::join_all(writers);
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("a write waits");
        drop(end);
        occupied.await.unwrap();
        let stored = "SELECT count(*) FROM rows WHERE n >= 0";
        let (stored,): (i64,) = test.db.query(stored).fetch_one().await.unwrap();
        assert_eq!(stored, 40);
        test.passed().await;
    });
}
