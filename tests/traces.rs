//! The spans and events of a save.
#![allow(missing_docs)]
#![cfg(feature = "sqlite")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use sqlx_signals::prelude::*;

/// Records the spans and events of this library.
#[derive(Clone, Default)]
struct Subscriber {
    seen: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
    next: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        if field.name() == "elapsed" {
            let _ = write!(self.0, " elapsed");
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("sqlx_signals_core")
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut fields = Fields(format!("span {}", span.metadata().name()));
        span.record(&mut fields);
        self.seen.lock().unwrap().push(fields.0);
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::span::Id::from_u64(id + 1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        let mut fields = Fields("span record".to_owned());
        values.record(&mut fields);
        self.seen.lock().unwrap().push(fields.0);
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.seen.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// What is logged while the future runs. The runtime has one thread, so the log of detached tasks is captured too.
async fn logged(work: impl Future<Output = ()>) -> Vec<String> {
    let subscriber = Subscriber::default();
    let guard = tracing::subscriber::set_default(subscriber.clone());
    work.await;
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    drop(guard);
    let seen = subscriber.seen.lock().unwrap();
    seen.iter().filter(|line| !line.starts_with("span ")).cloned().collect()
}

/// The events that say that something failed.
fn failures(seen: &[String]) -> Vec<&str> {
    seen.iter().map(String::as_str).filter(|line| !line.contains("message=received")).collect()
}

#[track_caller]
fn assert_logged(seen: &[String], expected: &[(&str, &str, &str)]) {
    let failures = failures(seen);
    assert_eq!(failures.len(), expected.len(), "{failures:#?}");
    for (line, (level, message, cause)) in failures.iter().zip(expected) {
        let is_said = line.starts_with(&format!("{level} message={message}"));
        assert!(is_said && line.contains(cause), "expected {level} {message} {cause}: {line}");
    }
}

#[tokio::test]
async fn a_save_and_its_receivers_are_traced() {
    #[derive(Debug, Clone, Model)]
    struct Traced {
        id: Option<i64>,
        n: i64,
    }

    #[receiver(post_save, sender = Traced)]
    async fn well(_: PostSave<'_, Traced>) {}

    #[receiver(post_save, sender = Traced, robust)]
    fn fails(_: PostSave<'_, Traced>) -> Result<(), &'static str> {
        Err("out of order")
    }

    let db = Db::connect("sqlite::memory:").await.unwrap();
    db.execute("CREATE TABLE traced (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)").await.unwrap();
    let subscriber = Subscriber::default();
    let guard = tracing::subscriber::set_default(subscriber.clone());
    Traced { id: None, n: 1 }.save(&db).await.unwrap();
    drop(guard);
    let seen = subscriber.seen.lock().unwrap().clone();
    let [save, system, first, received, second, failed] = &seen[..] else { panic!("{seen:#?}") };
    let fields = "model=\"Traced\" db.collection.name=\"traced\"";
    assert_eq!(save, &format!("span save {fields} db.operation.name=\"INSERT\""));
    assert_eq!(system, "span record db.system.name=\"sqlite\"");
    assert!(
        first.starts_with(
            "span receiver receiver=\"traces::well\" signal=\"post_save\" sender=\"Traced\""
        ),
        "{first}"
    );
    assert!(
        received.starts_with("DEBUG message=received") && received.ends_with("elapsed"),
        "{received}"
    );
    assert!(second.contains("traces::fails"), "{second}");
    assert!(
        failed.starts_with("ERROR message=a receiver failed")
            && failed.contains("cause=out of order"),
        "{failed}"
    );
}

/// A model whose receivers do what the row requests.
mod levels {
    use super::*;

    #[derive(Debug, Clone, Model)]
    pub(super) struct Outer {
        pub(super) id: Option<i64>,
        pub(super) how: String,
    }

    #[derive(Debug, Clone, Model)]
    pub(super) struct Inner {
        pub(super) id: Option<i64>,
        pub(super) how: String,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    pub(super) struct Wrapped(#[source] sqlx_signals::Error);

    #[receiver(post_save, sender = Outer)]
    async fn save_inner(saved: PostSave<'_, Outer>, conn: &mut Conn<'_>) -> Result<(), Wrapped> {
        let mut inner = Inner { id: None, how: saved.instance.how.clone() };
        inner.save(conn).await.map(drop).map_err(Wrapped)
    }

    #[receiver(post_save, sender = Outer, robust)]
    async fn save_inner_robustly(
        saved: PostSave<'_, Outer>,
        conn: &mut Conn<'_>,
    ) -> Result<(), Wrapped> {
        if saved.instance.how != "robust" {
            return Ok(());
        }
        let mut inner = Inner { id: None, how: "veto".to_owned() };
        inner.save(conn).await.map(drop).map_err(Wrapped)
    }

    #[receiver(pre_save, sender = Inner)]
    fn veto(save: PreSave<'_, Inner>) -> Result<(), &'static str> {
        if save.instance.how == "veto" { Err("no") } else { Ok(()) }
    }

    #[receiver(post_save, sender = Inner, on_commit)]
    fn after_the_commit(saved: PostSave<'_, Inner>) -> Result<(), &'static str> {
        if saved.instance.how == "commit" { Err("no mail") } else { Ok(()) }
    }

    #[receiver(post_save, sender = Inner, on_rollback)]
    fn after_the_rollback(saved: PostSave<'_, Inner>) -> Result<(), &'static str> {
        if saved.instance.how == "rollback" { Err("no undo") } else { Ok(()) }
    }

    #[derive(Signal)]
    pub(super) struct Ping;

    #[receiver(Ping)]
    fn fails(_: &Ping) -> Result<(), &'static str> {
        Err("returned")
    }

    #[receiver(Ping, robust)]
    fn fails_robustly(_: &Ping) -> Result<(), &'static str> {
        Err("robust")
    }

    pub(super) async fn db() -> Db {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        for name in ["outer", "inner"] {
            let sql =
                format!("CREATE TABLE \"{name}\" (id INTEGER PRIMARY KEY, how TEXT NOT NULL)");
            db.execute(sqlx_signals::sqlx::AssertSqlSafe(sql)).await.unwrap();
        }
        db
    }

    pub(super) fn outer(how: &str) -> Outer {
        Outer { id: None, how: how.to_owned() }
    }
}

#[tokio::test]
async fn an_error_that_the_caller_gets_is_logged_once_for_debugging() {
    use levels::*;
    let db = db().await;
    let veto = ("DEBUG", "a receiver failed", "cause=no");
    let mut inner = Inner { id: None, how: "veto".to_owned() };
    let seen = logged(async { drop(inner.save(&db).await.unwrap_err()) }).await;
    assert_logged(&seen, &[veto]);
    // Regardless of how many receivers pass it on.
    let seen = logged(async { drop(outer("veto").save(&db).await.unwrap_err()) }).await;
    assert_logged(&seen, &[veto]);
    let seen = logged(async {
        let mut tx = db.begin().await.unwrap();
        outer("veto").save(&mut tx).await.unwrap_err();
        tx.commit().await.unwrap_err();
        Outer::insert_many(&db, &mut [outer("veto")]).await.unwrap_err();
    });
    assert_logged(&seen.await, &[veto, veto]);
    let returned = ("DEBUG", "a receiver failed", "cause=returned");
    let seen = logged(async { drop(Ping.send(&db).await.unwrap_err()) }).await;
    assert_logged(&seen, &[returned]);
}

#[tokio::test]
async fn an_error_without_a_caller_is_logged_as_an_error() {
    use levels::*;
    let db = db().await;
    // The robust receiver gets the veto. Its own error is only logged.
    let seen = logged(async { _ = outer("robust").save(&db).await.unwrap() }).await;
    let veto = ("DEBUG", "a receiver failed", "receiver=\"traces::levels::veto\"");
    let robust = ("ERROR", "a receiver failed", "receiver=\"traces::levels::save_inner_robustly\"");
    assert_logged(&seen, &[veto, robust]);

    let seen = logged(async { _ = outer("commit").save(&db).await.unwrap() }).await;
    assert_logged(&seen, &[("ERROR", "a receiver failed", "cause=no mail")]);

    let seen = logged(async {
        let mut tx = db.begin().await.unwrap();
        outer("rollback").save(&mut tx).await.unwrap();
        tx.on_rollback(async { Err::<(), _>("callback") });
        tx.rollback().await.unwrap();
        let mut tx = db.begin().await.unwrap();
        tx.on_commit(async { Err::<(), _>("callback") });
        assert_eq!(tx.commit().await.unwrap().errors.len(), 1);
        let mut tx = db.begin().await.unwrap();
        outer("rollback").save(&mut tx).await.unwrap();
        drop(tx);
    });
    let (undo, callback) = (
        ("ERROR", "a receiver failed", "cause=no undo"),
        ("ERROR", "a callback failed after its transaction had ended", "error=callback"),
    );
    assert_logged(&seen.await, &[undo, callback, callback, undo]);

    // Of `send_robust` the caller gets each; a receiver that is declared robust is logged all the same.
    let seen = logged(async { assert_eq!(Ping.send_robust(&db).await.len(), 2) }).await;
    let returned = ("DEBUG", "a receiver failed", "cause=returned");
    assert_logged(&seen, &[returned, ("ERROR", "a receiver failed", "cause=robust")]);
}

/// A row whose foreign key is checked by COMMIT.
const DEFERRED: &str = "CREATE TABLE child (id INTEGER PRIMARY KEY, parent BIGINT NOT NULL REFERENCES child (id) DEFERRABLE \
                        INITIALLY DEFERRED)";

#[tokio::test]
async fn a_failure_after_the_future_is_dropped_is_logged_as_an_error() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("traces_detached.db");
    let _ = std::fs::remove_file(&file);
    let db = Db::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    db.execute("PRAGMA foreign_keys = ON").await.unwrap();
    db.execute(DEFERRED).await.unwrap();
    // Whether the future was dropped before it was done.
    let commit = async |drops: bool| -> bool {
        let mut tx = db.begin().await.unwrap();
        tx.on_commit(async {});
        tx.execute("INSERT INTO child VALUES (1, 2)").await.unwrap();
        let mut commit = Box::pin(tx.commit());
        if drops
            && std::future::poll_fn(|cx| Poll::Ready(commit.as_mut().poll(cx))).await.is_pending()
        {
            return true;
        }
        assert!(drops || commit.await.unwrap_err().is_foreign_key_violation());
        false
    };
    // A returned error is not logged as an error.
    assert_logged(&logged(async { assert!(!commit(false).await) }).await, &[]);
    // The thread of SQLite may be done with COMMIT at the first poll.
    let seen = logged(async { while !commit(true).await {} }).await;
    assert_logged(
        &seen,
        &[("ERROR", "the work of a dropped future continued and failed", "FOREIGN KEY")],
    );
    db.close().await;
    let _ = std::fs::remove_file(&file);
}

#[tokio::test]
async fn a_receiver_that_fails_after_the_save_is_dropped_is_logged_as_an_error() {
    static RAN: AtomicBool = AtomicBool::new(false);

    #[derive(Debug, Clone, Model)]
    struct Left {
        id: Option<i64>,
        n: i64,
    }

    #[receiver(post_save, sender = Left)]
    fn fails_alone(saved: PostSave<'_, Left>) {
        RAN.store(true, Ordering::Relaxed);
        assert!(saved.instance.n == 0, "nobody waits");
    }

    #[receiver(post_save, sender = Left, on_commit)]
    async fn lingers(_: PostSave<'_, Left>) {
        tokio::task::yield_now().await;
    }

    let db = Db::connect("sqlite::memory:").await.unwrap();
    db.execute("CREATE TABLE \"left\" (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)").await.unwrap();
    let mut row = Left { id: None, n: 1 };
    let seen = logged(async {
        let error = row.save(&db).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "receiver `fails_alone` of the save of `Left` failed: panicked: nobody waits"
        );
    });
    let returned = ("DEBUG", "a receiver failed", "cause=panicked: nobody waits");
    assert_logged(&seen.await, &[returned]);
    // Dropped while the second receiver waits, when the first one has failed.
    RAN.store(false, Ordering::Relaxed);
    let seen = logged(async {
        let mut save = Box::pin(row.save(&db));
        while !RAN.load(Ordering::Relaxed) {
            let poll = std::future::poll_fn(|cx| Poll::Ready(save.as_mut().poll(cx))).await;
            assert!(poll.is_pending());
            tokio::task::yield_now().await;
        }
    });
    let left = ("ERROR", "the work of a dropped future continued and failed", "nobody waits");
    assert_logged(&seen.await, &[returned, left]);
}

#[tokio::test]
async fn the_span_of_a_write_has_the_fields_of_opentelemetry() {
    #[derive(Debug, Clone, Model)]
    #[model(table = "plain_rows")]
    struct Plain {
        id: Option<i64>,
        n: i64,
    }

    let db = Db::connect("sqlite::memory:").await.unwrap();
    db.execute("CREATE TABLE plain_rows (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)")
        .await
        .unwrap();
    let subscriber = Subscriber::default();
    let guard = tracing::subscriber::set_default(subscriber.clone());
    let mut row = Plain { id: None, n: 1 };
    row.insert(&db).await.unwrap();
    row.save(&db).await.unwrap();
    row.save_fields(&db, &[Plain::N]).await.unwrap();
    Plain { id: Some(7), n: 1 }.save(&db).await.unwrap();
    Plain::insert_many(&db, &mut [Plain { id: None, n: 1 }, Plain { id: None, n: 2 }])
        .await
        .unwrap();
    row.delete(&db).await.unwrap();
    Plain::query("WHERE n = 1").set(Plain::N, 2).update(&db).await.unwrap();
    Plain::query("WHERE n = 1").delete(&db).await.unwrap();
    Plain::delete_by_key(&db, 7).await.unwrap();
    drop(guard);
    let seen = subscriber.seen.lock().unwrap().clone();
    let of_span =
        |span: &str| format!("span {span} model=\"Plain\" db.collection.name=\"plain_rows\"");
    let operation = |name: &str| format!(" db.operation.name=\"{name}\"");
    let record = |name: &str| format!("span record{}", operation(name));
    let system = || "span record db.system.name=\"sqlite\"".to_owned();
    assert_eq!(
        seen,
        [
            of_span("save") + &operation("INSERT"),
            system(),
            // Only the database knows whether there is a row of this key.
            of_span("save"),
            system(),
            record("UPDATE"),
            of_span("save") + &operation("UPDATE"),
            system(),
            of_span("save"),
            system(),
            record("INSERT"),
            of_span("save") + &operation("INSERT") + " rows=2",
            system(),
            of_span("delete") + &operation("DELETE"),
            system(),
            of_span("save") + &operation("UPDATE"),
            system(),
            of_span("delete") + &operation("DELETE"),
            system(),
            of_span("delete") + &operation("DELETE"),
            system(),
        ]
    );
}

#[tokio::test]
async fn a_slow_receiver_is_reported_once_a_minute() {
    use std::time::Duration;
    #[derive(Debug, Clone, Model)]
    #[model(table = "waits")]
    struct Waits {
        id: Option<i64>,
        millis: i64,
    }

    #[receiver(post_save, sender = Waits)]
    async fn waits(saved: PostSave<'_, Waits>) {
        tokio::time::sleep(Duration::from_millis(saved.instance.millis.unsigned_abs())).await;
    }

    #[receiver(post_save, sender = Waits, on_commit)]
    fn blocks(saved: PostSave<'_, Waits>) {
        if saved.instance.millis < 0 {
            std::thread::sleep(Duration::from_millis(450));
        }
    }

    let options = Db::options().slow_receivers(Duration::from_millis(400));
    let db = options.connect("sqlite::memory:").await.unwrap();
    db.execute("CREATE TABLE waits (id INTEGER PRIMARY KEY, millis BIGINT NOT NULL)")
        .await
        .unwrap();
    let save = async |millis: i64| {
        let seen = logged(async { _ = Waits { id: None, millis }.save(&db).await.unwrap() }).await;
        seen.into_iter().filter(|line| line.starts_with("WARN")).collect::<Vec<_>>()
    };
    assert_eq!(save(0).await, [""; 0]);
    let seen = save(-450).await;
    let [first, second] = &seen[..] else { panic!("{seen:#?}") };
    for (line, name) in [(first, "waits"), (second, "blocks")] {
        let said = format!("receiver=\"traces::{name}\" signal=\"post_save\" sender=\"Waits\"");
        assert!(line.starts_with("WARN message=a receiver is slow"), "{line}");
        assert!(line.contains(&said) && line.contains("file=\"tests/traces.rs\" line="), "{line}");
    }
    // At most once a minute.
    assert_eq!(save(-450).await, [""; 0]);
}

#[tokio::test]
async fn a_receiver_that_holds_the_write_lock_of_sqlite_for_long_is_reported() {
    use std::time::Duration;
    #[derive(Debug, Clone, Model)]
    #[model(table = "locks")]
    struct Locks {
        id: Option<i64>,
    }

    #[receiver(post_save, sender = Locks)]
    async fn locks(_: PostSave<'_, Locks>, _: &mut Conn<'_>) {
        tokio::time::sleep(Duration::from_millis(110)).await;
    }

    #[receiver(post_save, sender = Locks, on_commit)]
    async fn holds_no_lock(_: PostSave<'_, Locks>) {
        tokio::time::sleep(Duration::from_millis(110)).await;
    }

    let db = Db::connect("sqlite::memory:").await.unwrap();
    db.execute("CREATE TABLE locks (id INTEGER PRIMARY KEY)").await.unwrap();
    let seen = logged(async { _ = Locks { id: None }.save(&db).await.unwrap() }).await;
    let seen: Vec<_> = seen.into_iter().filter(|line| line.starts_with("WARN")).collect();
    let [line] = &seen[..] else { panic!("{seen:#?}") };
    assert!(line.contains("receiver=\"traces::locks\""), "{line}");
    assert!(line.contains("file=\"tests/traces.rs\" line="), "{line}");
}

#[tokio::test]
async fn a_receiver_that_is_dropped_after_a_long_time_is_reported() {
    use std::time::Duration;
    static RUNNING: tokio::sync::Notify = tokio::sync::Notify::const_new();
    #[derive(Debug, Clone, Model)]
    #[model(table = "hangs")]
    struct Hangs {
        id: Option<i64>,
    }

    #[receiver(post_save, sender = Hangs)]
    async fn hangs(_: PostSave<'_, Hangs>) {
        RUNNING.notify_one();
        std::future::pending::<()>().await;
    }

    let options = Db::options().slow_receivers(Duration::from_millis(20));
    let db = options.connect("sqlite::memory:").await.unwrap();
    db.execute("CREATE TABLE hangs (id INTEGER PRIMARY KEY)").await.unwrap();
    let seen = logged(async {
        let mut row = Hangs { id: None };
        let is_slow = async {
            RUNNING.notified().await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        };
        tokio::select! {
            saved = row.save(&db) => panic!("{saved:?}"),
            () = is_slow => {}
        }
    });
    let seen = seen.await;
    assert!(seen.iter().any(|line| line.contains("a receiver is slow")), "{seen:#?}");
}
