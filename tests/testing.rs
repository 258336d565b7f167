//! What the library offers to the tests of a program: recorders, test transactions, the lock file, and what receivers were seen to do.
#![allow(missing_docs)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::Duration;

use common::{Scene, count, one_connection, table, until};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, testing, without_signals};

/// A model without receivers.
#[derive(Debug, Clone, PartialEq, Model)]
struct Plain {
    id: Option<i64>,
    n: i64,
}

fn plain(n: i64) -> Plain {
    Plain { id: None, n }
}

/// The message of a failed assertion.
fn message(assertion: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(assertion)).expect_err("the assertion fails");
    *payload.downcast::<String>().unwrap()
}

mod cascade {
    use super::*;

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Author {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Page {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[derive(Signal)]
    pub(crate) struct Published {
        pub(crate) n: i64,
    }

    #[receiver(Published)]
    fn published(_: &Published) {}

    #[receiver(pre_save, sender = Author)]
    fn no_negative(save: PreSave<'_, Author>) -> Result<(), &'static str> {
        if save.instance.n < 0 { Err("negative") } else { Ok(()) }
    }

    #[receiver(post_save, sender = Author)]
    async fn inside(saved: PostSave<'_, Author>, conn: &mut Conn<'_>) -> Result<()> {
        let n = saved.instance.n;
        Page { id: None, n }.save(&mut *conn).await?;
        Published { n }.send(&mut *conn).await?;
        if n == 99 { Err(Error::other("fails")) } else { Ok(()) }
    }

    #[receiver(post_save, sender = Author, on_commit)]
    pub(crate) async fn after(saved: PostSave<'_, Author>, db: Db) -> Result<()> {
        SCENE.log.push(format!("after {}", saved.instance.n));
        if saved.instance.n > 0 {
            Page { id: None, n: saved.instance.n + 1000 }.save(&db).await?;
        }
        Ok(())
    }

    #[receiver(post_save, sender = Author, on_rollback)]
    fn undone(saved: PostSave<'_, Author>) {
        SCENE.log.push(format!("undone {}", saved.instance.n));
    }

    #[receiver(post_delete, sender = Page, on_commit, order = 3, uid = "never", after = after, robust)]
    pub(crate) fn never(_: PostDelete<'_, Page>) {}

    pub(crate) async fn tables(db: &Db) {
        table(db, "author", "n BIGINT NOT NULL").await;
        table(db, "page", "n BIGINT NOT NULL").await;
    }
}

mod slow {
    use super::*;

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Slow {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    #[receiver(post_save, sender = Slow, on_commit, created)]
    async fn later(_: PostSave<'_, Slow>, db: Db) -> Result<()> {
        SCENE.log.push("begun");
        until(|| SCENE.log.entries().contains(&"alone".to_owned())).await;
        plain(7).save(&db).await?;
        Ok(())
    }
}

on_every_database! {
    async fn signals_without_receivers_are_recorded(db: Db) {
        table(&db, "plain", "n BIGINT NOT NULL").await;
        plain(0).save(&db).await.unwrap();
        let events = testing::record::<Plain>();
        events.assert_none();
        let mut row = plain(1);
        row.save(&db).await.unwrap();
        row.n = 2;
        row.update(&db).await.unwrap();
        let gone = row.clone();
        assert!(row.delete(&db).await.unwrap());
        assert!(!gone.clone().delete(&db).await.unwrap(), "it is gone");

        assert_eq!(
            events.signals(),
            ["pre_save", "post_save", "pre_save", "post_save", "pre_delete", "post_delete", "pre_delete"]
        );
        events.assert_created(1);
        events.assert_updated(1);
        events.assert_deleted(1);
        events.assert_committed(3);
        assert_eq!(events.saved(), [Plain { n: 1, ..gone.clone() }, gone.clone()]);
        assert_eq!((events.created()[0].n, events.updated()[0].n), (1, 2));
        assert_eq!(events.deleted(), [gone]);
        let all = events.all();
        assert_eq!((all[0].pk(), all[1].pk(), all[1].created), (None, Some(2), Some(true)));
        assert_eq!(
            events.to_string(),
            "pre_save of Plain\npost_save of Plain 2, created, committed\n\
             pre_save of Plain 2\npost_save of Plain 2, updated, committed\n\
             pre_delete of Plain 2\npost_delete of Plain 2, committed\npre_delete of Plain 2\n"
        );
        let said = message(|| events.assert_created(2));
        assert!(said.starts_with("expected 2 × `Plain` created, found 1; recorded was:\npre_save of Plain\n"), "{said}");
        assert!(message(|| events.assert_none()).contains("post_delete of Plain 2, committed"));
        message(|| events.assert_updated(0));
        message(|| events.assert_deleted(0));
        message(|| events.assert_committed(0));
        message(|| events.assert_rolled_back(1));

        events.clear();
        without_signals(plain(3).save(&db)).await.unwrap();
        events.assert_none();
        plain(3).update(&db).await.unwrap_err();
        assert_eq!(events.signals(), ["pre_save"]);
        let (later, first) = (testing::record::<Plain>(), events);
        plain(4).save(&db).await.unwrap();
        first.assert_created(1);
        drop(first);
        plain(5).save(&db).await.unwrap();
        later.assert_created(2);
    }

    async fn writes_of_receivers_are_recorded_with_their_outcome(db: Db) {
        use cascade::{Author, Page, Published, SCENE};
        let _turn = SCENE.begin().await;
        cascade::tables(&db).await;
        let (authors, pages) = (testing::record::<Author>(), testing::record::<Page>());
        let published = testing::record_signal::<Published>();

        Author { id: None, n: -1 }.save(&db).await.unwrap_err();
        assert_eq!(authors.signals(), ["pre_save"], "a veto");
        Author { id: None, n: 99 }.save(&db).await.unwrap_err();
        authors.assert_rolled_back(1);
        pages.assert_rolled_back(1);
        pages.assert_committed(0);
        pages.clear();
        authors.clear();

        let mut tx = db.begin().await.unwrap();
        Author { id: None, n: 0 }.save(&mut tx).await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        Author { id: None, n: -5 }.save(&mut savepoint).await.unwrap_err();
        Author { id: None, n: 1 }.save(&mut savepoint).await.unwrap();
        assert!(authors.all().iter().all(|event| event.committed.is_none()));
        savepoint.rollback().await.unwrap();
        authors.assert_rolled_back(1);
        tx.commit().await.unwrap();
        assert_eq!(authors.all().iter().filter(|e| e.committed == Some(true)).map(|e| e.instance.n).collect::<Vec<_>>(), [0]);
        assert_eq!(pages.created().iter().map(|page| page.n).collect::<Vec<_>>(), [0, 1]);

        Author { id: None, n: 3 }.save(&db).await.unwrap();
        assert_eq!(pages.saved().last().unwrap().n, 1003, "saved after the commit");
        published.assert_sent(4);
        assert_eq!(published.all().iter().map(|sent| sent.n).collect::<Vec<_>>(), [99, 0, 1, 3]);
        assert_eq!(message(|| published.assert_sent(1)), "expected 1 × `Published` sent, found 4");

        let mut tx = db.begin().await.unwrap();
        Page { id: None, n: 0 }.save(&mut tx).await.unwrap();
        pages.clear();
        Page { id: None, n: 1 }.save(&mut tx).await.unwrap();
        drop(tx);
        until(|| pages.all()[1].committed == Some(false)).await;
    }

    async fn the_outcome_in_a_transaction_of_sqlx_is_unknown(db: Db) {
        table(&db, "plain", "n BIGINT NOT NULL").await;
        let events = testing::record::<Plain>();
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            let mut tx = pool.begin().await.unwrap();
            plain(1).save(&mut tx).await.unwrap();
            tx.rollback().await.unwrap();
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            let mut tx = pool.begin().await.unwrap();
            plain(1).save(&mut tx).await.unwrap();
            tx.rollback().await.unwrap();
        }
        events.assert_created(1);
        events.assert_committed(0);
        events.assert_rolled_back(0);
    }

    async fn the_outcome_of_an_adopted_transaction_is_recorded(db: Db) {
        table(&db, "plain", "n BIGINT NOT NULL").await;
        let events = testing::record::<Plain>();
        let begun = async || -> Transaction<'static> {
            #[cfg(feature = "sqlite")]
            if let Some(pool) = db.sqlite() {
                return pool.begin().await.unwrap().into();
            }
            #[cfg(feature = "postgres")]
            if let Some(pool) = db.postgres() {
                return pool.begin().await.unwrap().into();
            }
            unreachable!("a `Db` has a pool")
        };
        let mut tx = begun().await;
        plain(1).save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = begun().await;
        plain(2).save(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        events.assert_committed(1);
        events.assert_rolled_back(1);
    }

    async fn writes_by_condition_of_receivers_are_in_the_graphs(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "sold")]
        struct Sold { id: Option<i64>, n: i64 }
        #[derive(Debug, Clone, Model)]
        #[model(table = "plain")]
        struct Stock { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Sold)]
        async fn take_stock(_: PostSave<'_, Sold>, conn: &mut Conn<'_>) -> Result<()> {
            Stock::query("WHERE n > 0").set_sql(Stock::N, "n - 1", ()).update(conn).await?;
            Ok(())
        }
        #[receiver(post_delete, sender = Sold)]
        async fn drop_stock(_: PostDelete<'_, Sold>, conn: &mut Conn<'_>) -> Result<()> {
            Stock::delete_by_key(conn, 7).await?;
            Ok(())
        }

        table(&db, "plain", "n BIGINT NOT NULL").await;
        table(&db, "sold", "n BIGINT NOT NULL").await;
        let mut sold = Sold { id: None, n: 1 };
        sold.save(&db).await.unwrap();
        sold.delete(&db).await.unwrap();
        let all: Vec<serde_json::Value> = serde_json::from_str(&registry().to_json()).unwrap();
        let named = |name: &str| all.iter().find(|r| r["receiver"].as_str().unwrap().ends_with(name)).unwrap();
        if cfg!(debug_assertions) {
            assert_eq!(named("::take_stock")["saves"], serde_json::json!(["Stock"]));
            assert_eq!(named("::drop_stock")["deletes"], serde_json::json!(["Stock"]));
        }
    }

    async fn a_recorder_sees_only_its_own_task(db: Db) {
        table(&db, "plain", "n BIGINT NOT NULL").await;
        let events = testing::record::<Plain>();
        let task = |n: i64| {
            let db = db.clone();
            async move {
                let own = testing::record::<Plain>();
                for _ in 0..n {
                    plain(n).save(&db).await.unwrap();
                    tokio::task::yield_now().await;
                }
                own.assert_created(usize::try_from(n).unwrap());
            }
        };
        let tasks: Vec<_> = (1..6).map(|n| tokio::spawn(task(n))).collect();
        let (one, mut two) = (plain(1), plain(2));
        let mut here = one.clone();
        let (first, second) = tokio::join!(here.save(&db), two.save(&db));
        assert!(first.unwrap().created && second.unwrap().created);
        for task in tasks {
            task.await.unwrap();
        }
        events.assert_created(2);

        let other = db.clone();
        tokio::spawn(events.follow(async move { plain(3).save(&other).await })).await.unwrap().unwrap();
        events.assert_created(3);
        // Another thread with a runtime of its own, as another `#[tokio::test]` is.
        let other = db.clone();
        let thread = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let own = testing::record::<Plain>();
                plain(4).save(&one_connection(&other).await).await.unwrap();
                own.assert_created(1);
            });
        };
        std::thread::spawn(thread).join().unwrap();
        events.assert_created(3);
    }

    async fn detached_receivers_are_recorded_for_their_caller(db: Db) {
        let _turn = slow::SCENE.begin().await;
        table(&db, "plain", "n BIGINT NOT NULL").await;
        table(&db, "slow", "n BIGINT NOT NULL").await;
        let events = testing::record::<Plain>();
        let mut row = slow::Slow { id: None, n: 1 };
        tokio::select! {
            saved = row.save(&db) => panic!("its receiver waits: {saved:?}"),
            () = until(|| !slow::SCENE.log.entries().is_empty()) => {}
        }
        slow::SCENE.log.push("alone");
        until(|| !events.saved().is_empty()).await;
        assert_eq!(events.saved()[0].n, 7);
    }

    async fn a_test_transaction_runs_deferred_receivers_and_stores_nothing(db: Db) {
        use cascade::{Author, SCENE, after, never};
        let _turn = SCENE.begin().await;
        cascade::tables(&db).await;
        let authors = testing::record::<Author>();
        let done = testing::transaction(&db, async |tx| {
            Author { id: None, n: 0 }.save(&mut *tx).await?;
            tx.on_commit(async { SCENE.log.push("callback") });
            let mut savepoint = tx.begin().await?;
            Author { id: None, n: -7 }.save(&mut savepoint).await.unwrap_err();
            savepoint.rollback().await?;
            let mut savepoint = tx.begin().await?;
            Author { id: None, n: 0 }.save(&mut savepoint).await?;
            savepoint.commit().await?;
            tx.on_rollback(async { SCENE.log.push("never") });
            Author::query("").count(tx).await
        });
        let done = done.await.unwrap();
        assert_eq!((done.value, done.errors.len()), (2, 0));
        assert_eq!(SCENE.log.take(), ["after 0", "callback", "after 0"]);
        done.assert_ran::<after>(2);
        done.assert_ran::<never>(0);
        let said = message(|| done.assert_ran::<after>(1));
        assert!(said.contains("to run 1 ×, it ran 2 ×; of all:\npost_save of Author: testing::cascade::after"), "{said}");
        authors.assert_committed(2);
        assert_eq!((count(&db, "author").await, count(&db, "page").await), (0, 0));
    }

    async fn using_the_pool_in_a_test_transaction_is_an_error_at_once(db: Db) {
        use cascade::{Author, SCENE};
        let _turn = SCENE.begin().await;
        cascade::tables(&db).await;
        let (one, other) = (one_connection(&db).await, db.clone());
        let mine = one.clone();
        let work = async |tx: &mut Transaction<'_>| {
            Author { id: None, n: 1 }.save(&mut *tx).await?;
            tx.on_commit(async move { mine.execute("SELECT 1").await.map(drop) });
            tx.on_commit(async move { other.execute("SELECT 1").await.map(drop) });
            Ok(())
        };
        let done = tokio::time::timeout(Duration::from_secs(20), testing::transaction(&one, work));
        let done = done.await.expect("nobody waits").unwrap();
        assert_eq!(done.receivers.len(), 1);
        let [receiver, callback] = &done.errors[..] else { panic!("{:?}", done.errors) };
        let Error::Receiver(receiver) = receiver else { panic!("{receiver:?}") };
        assert!(receiver.source.to_string().starts_with("after used the `Db` or pool"), "{receiver:?}");
        assert!(receiver.source.to_string().ends_with("test this with a commit"));
        let callback = callback.to_string();
        assert!(callback.starts_with("a callback of `on_commit` used the `Db` or pool of a transaction"), "{callback}");
        assert_eq!((count(&one, "author").await, count(&one, "page").await), (0, 0));
        SCENE.log.take();
    }

    async fn a_test_transaction_refuses_what_a_commit_refuses(db: Db) {
        use cascade::{Author, SCENE};
        let _turn = SCENE.begin().await;
        cascade::tables(&db).await;
        let failed = testing::transaction(&db, async |tx| {
            Author { id: None, n: 2 }.save(&mut *tx).await?;
            Err::<(), _>(Error::other("no"))
        });
        assert_eq!(failed.await.unwrap_err().to_string(), "no");
        assert_eq!(SCENE.log.take(), ["undone 2"], "it would have been rolled back");

        let swallowed = testing::transaction(&db, async |tx| {
            Author { id: None, n: 3 }.save(&mut *tx).await?;
            let _ = Author { id: None, n: -1 }.save(tx).await;
            Ok(())
        });
        assert!(swallowed.await.unwrap_err().is_rolled_back());
        assert_eq!(SCENE.log.take(), ["undone 3"]);

        let deferred = match db.kind() {
            DatabaseKind::Sqlite => "CREATE TABLE child (of INTEGER REFERENCES author(id) DEFERRABLE INITIALLY DEFERRED)",
            DatabaseKind::Postgres => "CREATE TABLE child (of BIGINT REFERENCES author(id) DEFERRABLE INITIALLY DEFERRED)",
        };
        db.execute(deferred).await.unwrap();
        let orphan = testing::transaction(&db, async |tx| {
            Author { id: None, n: 4 }.save(&mut *tx).await?;
            tx.execute("INSERT INTO child VALUES (77)").await
        });
        let error = orphan.await.unwrap_err();
        assert!(error.is_foreign_key_violation() || error.to_string().contains("a row of `child` refers"), "{error}");
        assert_eq!(SCENE.log.take(), ["undone 4"]);

        let panics = testing::transaction(&db, async |tx| -> Result<()> {
            Author { id: None, n: 5 }.save(tx).await?;
            panic!("out of here")
        });
        assert_eq!(panic_of(panics).await, "out of here");
        assert_eq!(SCENE.log.take(), ["undone 5"]);
        assert_eq!(count(&db, "author").await, 0);
    }

    async fn writes_of_receivers_are_in_the_graphs(db: Db) {
        use cascade::{Author, SCENE};
        let _turn = SCENE.begin().await;
        cascade::tables(&db).await;
        Author { id: None, n: 1 }.save(&db).await.unwrap();
        SCENE.log.take();
        let all: Vec<serde_json::Value> = serde_json::from_str(&registry().to_json()).unwrap();
        let named = |name: &str| all.iter().position(|r| r["receiver"] == name).unwrap();
        if !cfg!(debug_assertions) {
            assert!(all.iter().all(|r| r.get("saves").is_none()), "only a debug build looks");
            return;
        }
        let (inside, after) = (named("testing::cascade::inside"), named("testing::cascade::after"));
        assert_eq!(all[inside]["saves"], serde_json::json!(["Page"]));
        assert_eq!(all[inside]["sends"], serde_json::json!(["Published"]));
        assert_eq!(all[after]["saves"], serde_json::json!(["Page"]));
        assert!(all[named("testing::cascade::undone")].get("saves").is_none());

        let mermaid = registry().to_mermaid();
        let page = node(&mermaid, "([\"Page\"])");
        assert!(mermaid.contains(&format!("    r{inside} -. \"saves\" .-> {page}\n")), "{mermaid}");
        let published = node(&mermaid, "([\"Published\"])");
        assert!(mermaid.contains(&format!("    r{inside} -. \"sends\" .-> {published}\n")), "{mermaid}");
        let dot = registry().to_dot();
        assert!(dot.contains(&format!("    r{after} -> {page} [style=dashed, label=\"saves\"];\n")), "{dot}");
    }
}

/// The node of this label.
fn node<'g>(mermaid: &'g str, label: &str) -> &'g str {
    mermaid.lines().find_map(|line| line.trim().strip_suffix(label)).expect("it is a node")
}

async fn panic_of<F: Future>(future: F) -> &'static str {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |cx| {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(_)) => panic!("it did not panic"),
            Ok(Poll::Pending) => Poll::Pending,
            Err(payload) => Poll::Ready(*payload.downcast::<&'static str>().unwrap()),
        }
    })
    .await
}

/// What the test below runs, in a process that has its directory and its `SIGNALS_LOCK`.
#[test]
fn the_receivers_are_as_locked() {
    if std::env::var_os("LOCK_OF_A_TEST").is_some() {
        let uid = "connected at run time";
        let _ = post_save.connect::<Plain>(uid, |_, _| Box::pin(async { Ok(()) }));
        testing::assert_locked("signals.lock");
    }
}

#[test]
fn the_lock_fails_if_the_receivers_differ() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("a_lock");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let lock = dir.join("signals.lock");
    let run = |update: bool| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "the_receivers_are_as_locked", "--nocapture"]);
        test.env("LOCK_OF_A_TEST", "yes").env("CARGO_MANIFEST_DIR", &dir);
        test.env_remove("SIGNALS_LOCK");
        if update {
            test.env("SIGNALS_LOCK", "update");
        }
        let output = test.output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), text.concat())
    };

    let (passed, said) = run(false);
    assert!(!passed && said.contains("`SIGNALS_LOCK=update cargo test` writes it"), "{said}");
    assert!(!lock.exists(), "nothing is written unasked");
    assert!(run(true).0 && run(false).0);

    let text = std::fs::read_to_string(&lock).unwrap();
    assert_eq!(text, registry().to_lock());
    let never = "post_delete of Page → testing::cascade::never (on commit) order = 3 \
                 after = testing::cascade::after robust uid = \"never\"\n";
    assert!(text.contains(never), "{text}");
    assert!(text.contains("Published → testing::cascade::published (in transaction)\n"), "{text}");
    assert!(
        text.contains("post_save of Slow → testing::slow::later (on commit) created\n"),
        "{text}"
    );
    assert!(!text.contains("connected at run time"), "{text}");

    // A durable receiver that was renamed without `was`.
    let durable = "post_save of Page → testing::old::index (durable, default, 20 × 1s..1h)";
    std::fs::write(&lock, format!("{text}{durable} payload(id)\n")).unwrap();
    let (passed, said) = run(false);
    assert!(!passed && said.contains(&format!("- {durable}")), "{said}");
    assert!(said.contains("deliveries of `testing::old::index` may be waiting"), "{said}");
    // One that is not durable any more.
    let durable = "post_delete of Page → testing::cascade::never (durable, default, 20 × 1s..1h)";
    std::fs::write(&lock, format!("{text}{durable}\n")).unwrap();
    assert!(run(false).1.contains("deliveries of `testing::cascade::never` may be waiting"));

    let other = text.replace("order = 3", "order = 4").replace('\n', "\r\n");
    std::fs::write(&lock, other + "a receiver that is gone\r\n").unwrap();
    let (passed, said) = run(false);
    let at = said.find("the receivers of the program are not those in").expect(&said);
    let lines: Vec<_> = said[at..].lines().filter(|l| l.starts_with(['-', '+'])).collect();
    let never = never.trim_end();
    let older = format!("- {}", never.replace('3', "4"));
    assert!(!passed);
    assert_eq!(lines, ["- a receiver that is gone", &format!("+ {never}"), &older]);
    assert!(said.contains("tests/testing.rs:"), "it is the test that failed: {said}");
}

mod nosy {
    use super::*;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub(crate) static RECORDED: OnceLock<testing::Recorder<Nosy>> = OnceLock::new();
    pub(crate) static ASKED: AtomicUsize = AtomicUsize::new(0);

    /// Asks what was recorded whenever it is copied, printed or dropped.
    #[derive(Model)]
    pub(crate) struct Nosy {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    fn ask() {
        if let Some(recorded) = RECORDED.get() {
            ASKED.fetch_add(recorded.signals().len(), Ordering::Relaxed);
        }
    }

    impl Clone for Nosy {
        fn clone(&self) -> Self {
            ask();
            Self { id: self.id, n: self.n }
        }
    }

    impl Drop for Nosy {
        fn drop(&mut self) {
            ask();
        }
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn a_row_may_use_a_recorder_in_clone_and_drop() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let test = common::TestDb::sqlite("a_row_may_ask").await;
            table(&test.db, "nosy", "n BIGINT NOT NULL").await;
            let recorded = nosy::RECORDED.get_or_init(testing::record);
            nosy::Nosy { id: None, n: 1 }.save(&test.db).await.unwrap();
            assert_eq!(recorded.all().len(), 2);
            recorded.clear();
            assert!(recorded.all().is_empty());
            test.passed().await;
        });
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(10)).expect("it waits for a lock of its own");
    assert!(nosy::ASKED.load(std::sync::atomic::Ordering::Relaxed) > 0);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_test_transaction_accepts_what_has_violated_a_foreign_key_before() {
    use sqlx_signals::sqlx::sqlite::SqliteConnectOptions;
    use sqlx_signals::sqlx::{self, ConnectOptions, Connection};

    let test = common::TestDb::sqlite("old_violation").await;
    let tables = "CREATE TABLE parent (id INTEGER PRIMARY KEY);
         CREATE TABLE child (of INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO child VALUES (77)";
    let options = SqliteConnectOptions::new().filename(test.name()).foreign_keys(false);
    let mut unchecked = options.connect().await.unwrap();
    sqlx::raw_sql(tables).execute(&mut unchecked).await.unwrap();
    unchecked.close().await.unwrap();
    let valid = async |tx: &mut Transaction<'_>| {
        tx.execute("INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1)").await
    };
    testing::transaction(&test.db, valid).await.unwrap();
    let orphan = async |tx: &mut Transaction<'_>| tx.execute("INSERT INTO child VALUES (78)").await;
    let error = testing::transaction(&test.db, orphan).await.unwrap_err();
    assert!(error.to_string().contains("a row of `child` refers"), "{error}");
    test.passed().await;
}
