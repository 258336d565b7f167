//! Faults inside a group: a full disk, a connection that dies, and writers that are not polled.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use futures_util::future::{join_all, maybe_done};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, sqlx};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tracing::{Dispatch, Metadata, Subscriber, span};
use tracing_core::span::Current;

use crate::common::{TestDb, cancelled_after};
use crate::{SCENE, at_once, found, plain, rows, save};

/// The numbers whose `on_commit` or `on_rollback` receiver has run.
fn heard(end: &str) -> HashSet<i64> {
    let entries = SCENE.log.entries();
    entries.iter().filter_map(|entry| entry.strip_prefix(end)?.parse().ok()).collect()
}

/// Compares what many concurrent writes have returned with what is stored. Every third write has receivers.
async fn assert_stored(test: &TestDb, results: Vec<(i64, Result<()>)>) {
    let is_noted = |n: &i64| n % 3 == 0;
    let ok: HashSet<_> =
        results.iter().filter(|(_, result)| result.is_ok()).map(|(n, _)| *n).collect();
    let noted: HashSet<_> = ok.iter().copied().filter(is_noted).collect();
    assert_eq!(found(&test.url, "rows").await, ok, "{results:?}");
    assert_eq!(found(&test.url, "notes").await, noted);
    assert_eq!(heard("committed "), noted);
    assert!(heard("rolled back ").is_disjoint(&noted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_only_the_writes_that_find_no_space() {
    let _turn = SCENE.begin().await;
    let test = rows("full").await;
    let (pages,): (i64,) = test.db.query("PRAGMA page_count").fetch_one().await.unwrap();
    // Some groups fit, and then one of them does not.
    let options = Db::options().pragma("max_page_count", (pages + 4).to_string());
    let db = options.connect(&test.url).await.unwrap();
    let mut all = Vec::new();
    for round in 0..12 {
        let saves = (0..100).map(|call| {
            let (db, n) = (db.clone(), (round * 100 + call) * 10);
            async move { (n, save(&db, n, n % 3 == 0).await) }
        });
        all.extend(at_once(&db, saves).await);
    }
    let is_full = |error: &Error| {
        let text = format!("{error:#}");
        text.contains("full") || error.is_rolled_back()
    };
    assert!(all.iter().filter_map(|(_, saved)| saved.as_ref().err()).all(is_full), "{all:?}");
    let stored = all.iter().filter(|(_, saved)| saved.is_ok()).count();
    assert!(stored > 100 && stored < all.len(), "{stored}");
    assert_stored(&test, all).await;
    // Each of these writes fits.
    db.execute("DELETE FROM rows; DELETE FROM notes").await.unwrap();
    SCENE.log.take();
    let saves = (0..20).map(|call| {
        let (db, n) = (db.clone(), call * 10);
        async move { (n, save(&db, n, n % 3 == 0).await) }
    });
    let results = at_once(&db, saves).await;
    assert!(results.iter().all(|(_, saved)| saved.is_ok()), "{results:?}");
    assert_stored(&test, results).await;
    db.close().await;
    test.passed().await;
}

/// Makes the thread of a SQLite connection panic when it receives a command: sqlx enters the span of the caller there.
#[derive(Default)]
struct Deadly(OnceLock<&'static Metadata<'static>>);

impl Subscriber for Deadly {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.0.get_or_init(|| span.metadata());
        span::Id::from_u64(1)
    }

    fn current_span(&self) -> Current {
        match self.0.get() {
            Some(metadata) => Current::new(span::Id::from_u64(1), metadata),
            None => Current::none(),
        }
    }

    fn enter(&self, _: &span::Id) {
        let thread = std::thread::current();
        let is_worker = thread.name().is_some_and(|name| name.starts_with("sqlx-sqlite"));
        assert!(!is_worker, "the connection dies, as this test wants");
    }

    fn exit(&self, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
}

/// Awaits `call`, which kills the connection that it uses.
async fn deadly<T>(call: impl Future<Output = T>) -> T {
    let dispatch = Dispatch::new(Deadly::default());
    let _span = tracing::dispatcher::with_default(&dispatch, || tracing::info_span!("deadly"));
    let mut call = pin!(call);
    poll_fn(|cx| tracing::dispatcher::with_default(&dispatch, || call.as_mut().poll(cx))).await
}

/// A row whose receiver loses the connection.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Killer {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Killer)]
async fn kill(saved: PostSave<'_, Killer>, conn: &mut Conn<'_>) {
    let sql = format!("INSERT INTO notes (of) VALUES ({})", saved.instance.n);
    let _ = deadly(conn.execute(sqlx::AssertSqlSafe(sql))).await;
    // sqlx would not answer a statement that is sent while the thread ends.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_dies_loses_no_write_that_can_run_again() {
    let _turn = SCENE.begin().await;
    for at in [0, 7, 25, 49] {
        SCENE.log.take();
        let test = rows("dies").await;
        let saves = (0..50).map(|call| {
            let (db, n) = (test.db.clone(), call * 10);
            async move {
                if call == at {
                    return (n, Killer { id: None, n }.save(&db).await.map(drop));
                }
                (n, save(&db, n, n % 3 == 0).await)
            }
        });
        let results = at_once(&test.db, saves).await;
        for (n, saved) in &results {
            let is_lost = || saved.as_ref().is_err_and(Error::is_rolled_back);
            let is_killer = *n == at * 10;
            assert_eq!(saved.is_err(), is_killer || n % 3 == 0 && is_lost(), "{n}: {saved:?}");
        }
        assert!(results.iter().filter(|(_, saved)| saved.is_err()).count() < 20, "{results:?}");
        assert_stored(&test, results).await;
        plain(5).save(&test.db).await.unwrap();
        test.passed().await;
    }
}

/// A future that was polled once, so that it waits in the queue.
async fn waiting<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    let is_pending = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
    assert!(is_pending);
    future
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_does_not_wait_for_a_writer_that_is_not_polled() {
    let _turn = SCENE.begin().await;
    for has_receivers in [false, true] {
        let test = rows("not_polled").await;
        let tx = test.db.begin().await.unwrap();
        let first = waiting(save(&test.db, 10, has_receivers)).await;
        let second = waiting(save(&test.db, 20, has_receivers)).await;
        let third = waiting(save(&test.db, 30, has_receivers)).await;
        tx.rollback().await.unwrap();
        timeout(SOON, first).await.unwrap().unwrap();
        // Its place in the queue is not lost.
        let (second, third) = timeout(SOON, async { tokio::join!(second, third) }).await.unwrap();
        assert!(second.is_ok() && third.is_ok(), "{second:?}, {third:?}");
        assert_eq!(found(&test.url, "rows").await, HashSet::from([10, 20, 30]));
        test.passed().await;
    }
}

/// Whether a future has to be polled again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_dropped_leaves_no_group_to_a_writer_that_is_not_polled() {
    let _turn = SCENE.begin().await;
    for _ in 0..20 {
        let test = rows("not_taken_back").await;
        let tx = test.db.begin().await.unwrap();
        let mut first = waiting(maybe_done(save_without_callbacks(&test.db, 10, true))).await;
        let mut second = Box::pin(save_without_callbacks(&test.db, 20, true));
        let offered = Arc::new(Woken::default());
        let waker = offered.clone().into();
        assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        tx.rollback().await.unwrap();
        let shares =
            poll_fn(|cx| match (first.as_mut().poll(cx), offered.0.load(Ordering::Relaxed)) {
                (Poll::Ready(()), _) => Poll::Ready(false),
                (Poll::Pending, true) => Poll::Ready(true),
                (Poll::Pending, false) => Poll::Pending,
            })
            .await;
        drop(first);
        timeout(SOON, save(&test.db, 30, true)).await.unwrap().unwrap();
        timeout(SOON, second).await.unwrap().unwrap();
        assert_eq!(found(&test.url, "rows").await, HashSet::from([10, 20, 30]));
        test.passed().await;
        // On a loaded machine, the receivers of a write may count as slow. Then it does not wait for another one.
        if shares {
            return;
        }
    }
    panic!("the writers do not share a COMMIT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_does_not_wait_for_a_group_of_writers_that_are_not_polled() {
    let _turn = SCENE.begin().await;
    for has_receivers in [false, true] {
        let test = rows("group_not_polled").await;
        let tx = test.db.begin().await.unwrap();
        let mut first = waiting(maybe_done(save(&test.db, 10, true))).await;
        let mut second = Box::pin(save(&test.db, 20, true));
        let offered = Arc::new(Woken::default());
        let waker = offered.clone().into();
        assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        tx.rollback().await.unwrap();
        poll_fn(|cx| match (first.as_mut().poll(cx), offered.0.load(Ordering::Relaxed)) {
            (Poll::Pending, false) => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
        timeout(SOON, save(&test.db, 30, has_receivers)).await.unwrap().unwrap();
        let (_, second) = timeout(SOON, async { tokio::join!(&mut first, second) }).await.unwrap();
        second.unwrap();
        first.as_mut().take_output().unwrap().unwrap();
        drop(first);
        assert_eq!(found(&test.url, "rows").await, HashSet::from([10, 20, 30]));
        test.passed().await;
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_does_not_wait_for_a_runtime_that_is_not_driven() {
    let _turn = SCENE.begin().await;
    for has_receivers in [false, true] {
        let test = rows("not_driven").await;
        let tx = test.db.begin().await.unwrap();
        let first = waiting(save(&test.db, 10, has_receivers)).await;
        let db = test.db.clone();
        let (idle, second) = tokio::task::spawn_blocking(move || {
            let idle = current_thread();
            let second = idle.spawn(async move { save(&db, 20, has_receivers).await });
            idle.block_on(tokio::task::yield_now());
            (idle, second)
        })
        .await
        .unwrap();
        tx.rollback().await.unwrap();
        timeout(SOON, first).await.unwrap().unwrap();
        let second = tokio::task::spawn_blocking(move || idle.block_on(second).unwrap());
        second.await.unwrap().unwrap();
        assert_eq!(found(&test.url, "rows").await, HashSet::from([10, 20]));
        test.passed().await;
    }
}

/// A row with a receiver that writes in its transaction, and none after it.
#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Linked {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Linked)]
async fn link(saved: PostSave<'_, Linked>, conn: &mut Conn<'_>) -> Result<()> {
    plain(-10 - saved.instance.n).save(conn).await.map(drop)
}

async fn save_without_callbacks(db: &Db, n: i64, has_receivers: bool) -> Result<()> {
    match has_receivers {
        true => Linked { id: None, n }.save(db).await.map(drop),
        false => plain(n).save(db).await.map(drop),
    }
}

/// As in a program that calls `block_on` for each write, and gives up after a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_dropped_needs_its_runtime_no_longer() {
    let _turn = SCENE.begin().await;
    let test = rows("not_driven_again").await;
    let mut idle_runtimes = Vec::new();
    for pending in 0..24 {
        let db = test.db.clone();
        let idle = tokio::task::spawn_blocking(move || {
            let idle = current_thread();
            idle.block_on(async {
                let tx = db.begin().await.unwrap();
                let mut saves = Vec::new();
                for call in 0..4 {
                    let n = (pending * 10 + call) * 10;
                    saves.push(waiting(save_without_callbacks(&db, n, call % 2 == 0)).await);
                }
                tx.rollback().await.unwrap();
                let pending = pending as usize;
                join_all(saves.into_iter().map(|save| cancelled_after(save, pending))).await;
            });
            idle
        });
        idle_runtimes.push(idle.await.unwrap());
        let n = 100_000 + pending * 10;
        let saved = timeout(SOON, save(&test.db, n, true)).await;
        saved.unwrap_or_else(|_| panic!("{pending}: the turn was not passed on")).unwrap();
    }
    for idle in idle_runtimes {
        idle.shutdown_background();
    }
    test.passed().await;
}

/// Its receivers after the rollback need the runtime, and other writers do not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_dropped_needs_its_runtime_only_for_its_callbacks() {
    let _turn = SCENE.begin().await;
    let test = rows("not_driven_callbacks").await;
    for with_callback in [false, true] {
        let db = test.db.clone();
        let idle = tokio::task::spawn_blocking(move || {
            let idle = current_thread();
            idle.block_on(async {
                let mut tx = db.begin().await.unwrap();
                plain(10).save(&mut tx).await.unwrap();
                if with_callback {
                    tx.on_rollback(async { SCENE.log.push("rolled back".to_owned()) });
                }
            });
            idle
        });
        let idle = idle.await.unwrap();
        timeout(SOON, save(&test.db, 20 + i64::from(with_callback) * 10, false))
            .await
            .expect("the turn was passed on")
            .unwrap();
        assert!(SCENE.log.take().is_empty());
        tokio::task::spawn_blocking(move || idle.block_on(tokio::task::yield_now())).await.unwrap();
        assert_eq!(SCENE.log.take().len(), usize::from(with_callback));
    }
    assert_eq!(found(&test.url, "rows").await, HashSet::from([20, 30]));
    test.passed().await;
}
