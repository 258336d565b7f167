//! A write whose answer is lost: the statement was sent and commits itself, and the connection breaks before the database has
//! answered. Whether the row is stored is unknown, and the error says so.
#![allow(missing_docs)]

mod common;

use sqlx_signals::Error;
use sqlx_signals::prelude::*;
#[cfg(feature = "postgres")]
use sqlx_signals::sqlx;

use common::table;
#[cfg(feature = "postgres")]
use common::{count, execute};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    text: String,
}

/// As `Note`, with a version.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "pages")]
struct Page {
    id: Option<i64>,
    text: String,
    #[model(version)]
    version: i64,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct Watched {
    id: Option<i64>,
    text: String,
}

#[cfg(feature = "sqlite")]
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct Other {
    id: Option<i64>,
    text: String,
}

#[cfg(feature = "sqlite")]
#[receiver(post_save, sender = Other)]
fn after_other(_: PostSave<'_, Other>) {}

static CALLS: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn call(name: &str, text: &str) {
    CALLS.lock().unwrap().push(format!("{name} {text}"));
}

#[receiver(pre_save, sender = Watched)]
fn before(save: PreSave<'_, Watched>) {
    call("before", &save.instance.text);
}

#[receiver(post_save, sender = Watched)]
fn after(saved: PostSave<'_, Watched>) {
    call("after", &saved.instance.text);
}

#[receiver(post_save, sender = Watched, on_commit)]
async fn committed(saved: PostSave<'_, Watched>) {
    call("committed", &saved.instance.text);
}

fn note(text: &str) -> Note {
    Note { id: None, text: text.to_owned() }
}

fn page(text: &str) -> Page {
    Page { id: None, text: text.to_owned(), version: 0 }
}

#[track_caller]
fn assert_unknown<T: std::fmt::Debug>(done: &Result<T>, what: impl std::fmt::Debug) {
    assert!(matches!(done, Err(Error::CommitUnknown(_))), "{what:?}: {done:?}");
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::time::Duration;

    use super::*;
    use common::TestDb;
    use common::proxy::{Passes, Proxy, WRITES};

    /// A client behind a proxy, and one that is not.
    async fn start(name: &str) -> (TestDb, Proxy, Db) {
        let test = TestDb::postgres(name).await;
        let proxy = Proxy::start(&test.url).await;
        table(&test.db, "notes", "text TEXT NOT NULL UNIQUE").await;
        table(&test.db, "pages", "text TEXT NOT NULL, version BIGINT NOT NULL").await;
        let db = proxy.db(&test.url).await;
        (test, proxy, db)
    }

    #[tokio::test]
    async fn a_write_without_an_answer_is_unknown() {
        let (test, proxy, db) = start("unanswered").await;
        for passes in [Passes::Nothing, Passes::Completion, Passes::CompletionAndFatal] {
            for way in 0..15 {
                let mut known = note("known");
                known.save(&db).await.unwrap();
                let mut many = [note("b"), note("c")];
                proxy.lose_answer(WRITES, passes);
                let ann = "WHERE text = 'known'";
                let done = match way {
                    0 => note("a").save(&db).await.map(drop),
                    1 => note("a").insert(&db).await.map(drop),
                    2 => Note { text: "a".to_owned(), ..known.clone() }.save(&db).await.map(drop),
                    3 => Note { text: "a".to_owned(), ..known.clone() }.update(&db).await.map(drop),
                    4 => known.delete(&db).await.map(drop),
                    5 => note("a").upsert(&db, &[Note::TEXT]).await.map(drop),
                    6 => Note::get_or_create(&db, note("a"), &[Note::TEXT]).await.map(drop),
                    7 => {
                        known.text = "a".to_owned();
                        known.save_fields(&db, &[Note::TEXT]).await.map(drop)
                    }
                    8 => Note::insert_many(&db, &mut many).await.map(drop),
                    9 => Note::update_many(&db, std::slice::from_mut(&mut known)).await.map(drop),
                    10 => Note::delete_many(&db, std::slice::from_mut(&mut known)).await.map(drop),
                    11 => Note::query(ann).set(Note::TEXT, "a").update(&db).await.map(drop),
                    12 => Note::query(ann).delete(&db).await.map(drop),
                    13 => Note::delete_by_key(&db, known.id.unwrap()).await.map(drop),
                    _ => {
                        let mut conn = db.acquire().await.unwrap();
                        conn.execute("SELECT 1").await.unwrap();
                        note("a").save(&mut conn).await.map(drop)
                    }
                };
                let what = (way, passes);
                assert!(proxy.has_lost_answer(), "{what:?} {:?}", proxy.said());
                // `update_many` has a transaction, which the server has not committed. On a connection that has answered before, sqlx
                // drops the row if a FATAL error follows, which a server sends only if it has not stored the row.
                let is_certain =
                    way == 9 || matches!(way, 6 | 14) && passes == Passes::CompletionAndFatal;
                if is_certain {
                    assert!(matches!(done, Err(Error::Database(_))), "{what:?}: {done:?}");
                } else {
                    assert_unknown(&done, what);
                    let stored = match way {
                        4 | 10 | 12 | 13 => 0,
                        8 => 3,
                        2 | 3 | 7 | 11 => 1,
                        _ => 2,
                    };
                    assert_eq!(count(&test.db, "notes").await, stored, "{what:?}");
                }
                execute(&test.db, "DELETE FROM notes").await;
            }
        }
        test.passed().await;
    }

    /// As after a lost COMMIT, the instance is as if it were stored.
    #[tokio::test]
    async fn an_instance_without_an_answer_can_be_written_again() {
        let (test, proxy, db) = start("written_again").await;
        for (passes, in_transaction) in
            [(Passes::Nothing, false), (Passes::Completion, false), (Passes::Nothing, true)]
        {
            for way in 0..3 {
                let mut first = page("first");
                first.save(&db).await.unwrap();
                first.text = format!("second {way}");
                let tags = if in_transaction { &["COMMIT"] } else { WRITES };
                proxy.lose_answer(tags, passes);
                let done = match (in_transaction, way) {
                    (true, _) => {
                        Page::update_many(&db, std::slice::from_mut(&mut first)).await.map(drop)
                    }
                    (_, 0) => first.save(&db).await.map(drop),
                    (_, 1) => first.update(&db).await.map(drop),
                    _ => first.save_fields(&db, &[Page::TEXT]).await.map(drop),
                };
                assert_unknown(&done, (way, passes, in_transaction));
                assert_eq!(first.version, 1, "{way} {passes:?}");
                let stored = Page::get(&test.db, first.id.unwrap()).await.unwrap();
                assert_eq!(first, stored);
                first.save(&db).await.unwrap();
            }
        }
        // The key is known if the row has arrived.
        for passes in [Passes::Nothing, Passes::Completion] {
            let (mut new, mut many) = (page("new"), [page("b"), page("c")]);
            proxy.lose_answer(WRITES, passes);
            assert_unknown(&new.save(&db).await, passes);
            proxy.lose_answer(WRITES, passes);
            assert_unknown(&Page::insert_many(&db, &mut many).await, passes);
            let is_known = passes == Passes::Completion;
            for row in [&new, &many[0], &many[1]] {
                assert_eq!(row.id.is_some(), is_known, "{passes:?}");
                if let Some(id) = row.id {
                    assert_eq!(*row, Page::get(&test.db, id).await.unwrap());
                }
            }
        }
        test.passed().await;
    }

    #[tokio::test]
    async fn no_receiver_is_notified_of_a_write_without_an_answer() {
        let (test, proxy, db) = start("not_notified").await;
        let mut watched = Watched { id: None, text: "first".to_owned() };
        proxy.lose_answer(WRITES, Passes::Nothing);
        let done = watched.save(&db).await;
        assert_unknown(&done, "with receivers");
        assert!(!done.unwrap_err().is_retryable());
        // Other tests save such a row, too.
        let is_of_this = |call: &&String| call.ends_with("first") || call.ends_with("second");
        let calls = || CALLS.lock().unwrap().iter().filter(is_of_this).cloned().collect::<Vec<_>>();
        assert_eq!(calls(), ["before first"]);
        // A dropped write has no caller who could be told.
        let mut blocking = test.db.begin().await.unwrap();
        note("second").save(&mut blocking).await.unwrap();
        proxy.lose_answer(WRITES, Passes::Nothing);
        proxy.take_statements();
        let mut dropped = Watched { id: None, text: "second".to_owned() };
        tokio::select! {
            done = dropped.save(&db) => panic!("the row is locked: {done:?}"),
            () = common::until(|| proxy.said().iter().any(|sql| sql.starts_with("INSERT"))) => {}
        }
        blocking.rollback().await.unwrap();
        common::until(|| proxy.has_lost_answer()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(calls(), ["before first", "before second"]);
        assert_eq!(count(&test.db, "notes").await, 2);
        test.passed().await;
    }

    /// A broken connection rolls back a transaction that was not being committed.
    #[tokio::test]
    async fn a_write_without_an_answer_in_a_transaction_is_not_stored() {
        let (test, proxy, db) = start("in_transaction").await;
        let mut tx = db.begin().await.unwrap();
        proxy.lose_answer(WRITES, Passes::Nothing);
        let done = note("a").save(&mut tx).await;
        assert!(matches!(done, Err(Error::Database(sqlx::Error::Io(_)))), "{done:?}");
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        let mut tx = db.begin().await.unwrap();
        proxy.lose_answer(WRITES, Passes::Nothing);
        let done = Note::query("").set(Note::TEXT, "b").update(&mut tx).await;
        assert!(matches!(done, Err(Error::Database(sqlx::Error::Io(_)))), "{done:?}");
        drop(tx);
        let pool = sqlx::PgPool::connect(&proxy.url(&test.url)).await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        proxy.lose_answer(WRITES, Passes::Nothing);
        let done = note("a").save(&mut tx).await;
        assert!(matches!(done, Err(Error::Database(sqlx::Error::Io(_)))), "{done:?}");
        drop(tx);
        let mut conn = db.acquire().await.unwrap();
        conn.execute("BEGIN").await.unwrap();
        proxy.lose_answer(WRITES, Passes::Nothing);
        let done = note("a").save(&mut conn).await;
        assert!(matches!(done, Err(Error::Database(sqlx::Error::Io(_)))), "{done:?}");
        drop(conn);
        assert_eq!(count(&test.db, "notes").await, 0);
        test.passed().await;
    }

    /// The server ends the session instead of completing the statement.
    #[tokio::test]
    async fn a_write_that_the_server_has_ended_is_not_stored() {
        let (test, proxy, db) = start("ended").await;
        note("known").save(&db).await.unwrap();
        let mut lock = test.db.begin().await.unwrap();
        note("a").save(&mut lock).await.unwrap();
        lock.execute("UPDATE notes SET text = 'changed' WHERE text = 'known'").await.unwrap();
        for by_condition in [false, true] {
            proxy.take();
            let writer = db.clone();
            let saving = tokio::spawn(async move {
                let mut conn = writer.acquire().await.unwrap();
                conn.execute("SELECT 1").await.unwrap();
                match by_condition {
                    false => note("a").save(&mut conn).await.map(drop),
                    true => Note::query("WHERE text = 'known'").delete(&mut conn).await.map(drop),
                }
            });
            let waits = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while test.db.query(waits).fetch_all::<(bool,)>().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let error = saving.await.unwrap().unwrap_err();
            let code = error.database_error().and_then(|error| error.code()).unwrap_or_default();
            assert_eq!(code, "57P01");
            assert!(matches!(error, Error::Database(_)), "{error:?}");
        }
        lock.rollback().await.unwrap();
        assert_eq!(count(&test.db, "notes").await, 1);
        test.passed().await;
    }

    /// Without a statement cache, a statement is in a transaction of its own.
    #[tokio::test]
    async fn only_a_lost_commit_of_an_unnamed_statement_is_unknown() {
        let (test, proxy, _) = start("unnamed").await;
        let url = proxy.url(&test.url);
        let db = Db::options().statement_cache(false).connect(&url).await.unwrap();
        for way in 0..4 {
            for (tags, stored) in [(WRITES, 0), (&["COMMIT"][..], 1)] {
                proxy.lose_answer(tags, Passes::Nothing);
                let done = match way {
                    0 => note("a").save(&db).await.map(drop),
                    1 => Note::insert_many(&db, &mut [note("a")]).await.map(drop),
                    2 => {
                        let mut watched = Watched { id: None, text: "a".to_owned() };
                        watched.save(&db).await.map(drop)
                    }
                    _ => {
                        execute(&test.db, "INSERT INTO notes (text) VALUES ('b')").await;
                        Note::query("").set(Note::TEXT, "a").update(&db).await.map(drop)
                    }
                };
                match stored {
                    0 => assert!(
                        matches!(done, Err(Error::Database(sqlx::Error::Io(_)))),
                        "{way} {done:?}"
                    ),
                    _ => assert_unknown(&done, way),
                }
                assert!(proxy.has_lost_answer());
                assert_eq!(count(&test.db, "notes WHERE text = 'a'").await, stored, "{way}");
                execute(&test.db, "DELETE FROM notes").await;
            }
        }
        test.passed().await;
    }

    /// The driver refuses these before it sends anything.
    #[tokio::test]
    async fn a_write_that_was_not_sent_is_not_unknown() {
        let (test, _proxy, db) = start("not_sent").await;
        let marks: Vec<_> = (1..=70_000).map(|n| format!("${n}")).collect();
        let clause = format!("WHERE id IN ({})", marks.join(","));
        let mut many = Note::query(sqlx::AssertSqlSafe(clause));
        for n in 0..70_000_i64 {
            many = many.bind(n);
        }
        let done = many.delete(&db).await;
        assert!(matches!(done, Err(Error::Database(sqlx::Error::Protocol(_)))), "{done:?}");
        db.close().await;
        let done = note("a").save(&db).await;
        assert!(matches!(done, Err(Error::Database(sqlx::Error::PoolClosed))), "{done:?}");
        test.passed().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, OnceLock};

    use super::*;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata};
    use tracing_core::span::Current;

    /// Panics in the thread of a SQLite connection when this thread begins to execute a request.
    #[derive(Default, Clone)]
    struct Panics(Arc<AtomicBool>, Arc<OnceLock<&'static Metadata<'static>>>);

    impl tracing::Subscriber for Panics {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.is_span()
        }
        fn new_span(&self, span: &Attributes<'_>) -> Id {
            self.1.get_or_init(|| span.metadata());
            Id::from_u64(1)
        }
        /// The span that sqlx enters in its thread.
        fn current_span(&self) -> Current {
            self.1.get().map_or(Current::none(), |span| Current::new(Id::from_u64(1), span))
        }
        fn enter(&self, _: &Id) {
            let is_worker =
                std::thread::current().name().is_some_and(|name| name.starts_with("sqlx-sqlite"));
            if is_worker && self.0.swap(false, Ordering::SeqCst) {
                panic!("the thread of the connection panics");
            }
        }
        fn event(&self, _: &Event<'_>) {}
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_write_whose_thread_panics_is_unknown() {
        for way in 0..7 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            runtime.block_on(write_in_a_thread_that_panics(way));
            // If a request is sent while the thread panics, sqlx waits for its answer forever. This may be the return of the connection.
            runtime.shutdown_background();
        }
    }

    async fn write_in_a_thread_that_panics(way: usize) {
        let db = &Db::connect("sqlite::memory:").await.unwrap();
        table(db, "notes", "text TEXT NOT NULL UNIQUE").await;
        table(db, "pages", "text TEXT NOT NULL, version BIGINT NOT NULL").await;
        // The first writes inspect the tables.
        let mut known = note("known");
        known.save(db).await.unwrap();
        known.save(db).await.unwrap();
        Note::insert_many(db, &mut [note("b"), note("c")]).await.unwrap();
        Note::delete_by_key(db, 1000).await.unwrap();
        let mut page = page("page");
        page.save(db).await.unwrap();
        page.save(db).await.unwrap();
        let mut watched = Other { id: None, text: "d".to_owned() };
        watched.save(db).await.unwrap();
        let panics = Panics::default();
        let _guard = tracing::subscriber::set_default(panics.clone());
        let _caller = tracing::info_span!("caller");
        panics.0.store(true, Ordering::SeqCst);
        let done = match way {
            0 => note("a").save(db).await.map(drop),
            1 => known.save(db).await.map(drop),
            2 => known.delete(db).await.map(drop),
            3 => Note::insert_many(db, &mut [note("e"), note("f")]).await.map(drop),
            4 => Note::delete_by_key(db, 1).await.map(drop),
            5 => watched.save(db).await.map(drop),
            _ => page.save(db).await.map(drop),
        };
        assert!(!panics.0.load(Ordering::SeqCst), "{way}: {done:?}");
        assert_unknown(&done, way);
        assert_eq!(page.version, if way == 6 { 2 } else { 1 });
    }
}
