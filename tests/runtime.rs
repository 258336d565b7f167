//! State, order, failures, and changes at run time.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, count, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, muted, registry, without_signals};

#[derive(Clone, Debug, PartialEq)]
struct CurrentUser(i64);

#[derive(Clone)]
struct Mailer(&'static str);

mod sorting {
    use super::*;

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Sorted {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    pub(crate) mod last {
        use super::*;

        #[receiver(post_save, sender = Sorted)]
        pub(crate) fn c(_: PostSave<'_, Sorted>) {
            SCENE.log.push("c");
        }
    }

    #[receiver(post_save, sender = Sorted, order = -5, after = b)]
    fn a(_: PostSave<'_, Sorted>) {
        SCENE.log.push("a");
    }

    #[receiver(post_save, sender = Sorted, after = [last::c, d])]
    fn b(_: PostSave<'_, Sorted>) {
        SCENE.log.push("b");
    }

    #[receiver(post_save, sender = Sorted, order = 9)]
    fn d(_: PostSave<'_, Sorted>) {
        SCENE.log.push("d");
    }
}

on_every_database! {
    async fn state_is_layered_and_the_newest_wins(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        struct Stated { id: Option<i64>, n: i64 }

        #[receiver(pre_save, sender = Stated)]
        fn before(_: PreSave<'_, Stated>, State(user): State<CurrentUser>) { SCENE.log.push(format!("pre {}", user.0)) }
        #[receiver(post_save, sender = Stated)]
        async fn inside(_: PostSave<'_, Stated>, State(mailer): State<Mailer>, conn: &mut Conn<'_>, State(user): State<CurrentUser>) -> Result<()> {
            conn.query("SELECT 1").execute().await?;
            SCENE.log.push(format!("{} {}", mailer.0, user.0));
            Ok(())
        }
        #[receiver(post_save, sender = Stated, on_commit)]
        async fn after(_: PostSave<'_, Stated>, db: Db, State(user): State<CurrentUser>) {
            SCENE.log.push(format!("commit {} {}", user.0, db.state::<Mailer>().unwrap().0));
        }

        let _turn = SCENE.begin().await;
        table(&db, "stated", "n BIGINT NOT NULL").await;
        let app = db.with(Mailer("smtp")).with(CurrentUser(0));
        Stated { id: None, n: 1 }.save(&app).await.unwrap();
        assert_eq!(SCENE.log.take(), ["pre 0", "smtp 0", "commit 0 smtp"]);
        let request = app.with(CurrentUser(7));
        let mut tx = request.begin().await.unwrap();
        Stated { id: None, n: 1 }.save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["pre 7", "smtp 7", "commit 7 smtp"]);
        assert_eq!(app.state::<CurrentUser>(), Some(&CurrentUser(0)), "the one of the request is its own");

        let error = Stated { id: None, n: 1 }.save(&db.with(CurrentUser(1))).await.unwrap_err();
        let Error::Receiver(failed) = &error else { panic!("{error:?}") };
        assert!(failed.receiver.ends_with("::inside"));
        assert_eq!(failed.source.to_string(), "the `Db` has no state `Mailer`: add it with `db.with(…)`");
        assert!(error.to_string().contains("no state `Mailer`:"), "{error}");
        assert!(format!("{error:#}").contains("no state `runtime::Mailer`:"), "{error:#}");
        assert_eq!(count(&db, "stated").await, 2);

        let Err(Error::Check { findings }) = db.check().await else { panic!("nothing was found") };
        let of = |name: &str| findings.iter().filter(|f| f.contains(name)).count();
        assert_eq!((of("State<runtime::Mailer>"), of("State<runtime::CurrentUser>")), (1, 3), "{findings:?}");
        assert!(findings[0].contains("tests/runtime.rs:"), "{findings:?}");
        let error = Error::Check { findings };
        let (short, long) = (error.to_string(), format!("{error:#}"));
        assert!(short.contains(" takes a `State<Mailer>`, which") && !short.contains(".rs"), "{short}");
        assert!(long.contains("runtime.rs:") && long.contains("State<runtime::Mailer>"), "{long}");
    }

    async fn a_value_that_a_receiver_takes_later_is_missing_at_the_save(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Clone)]
        struct Stamp(&'static str);
        #[derive(Debug, Clone, Model)]
        #[model(table = "posted")]
        struct Posted { id: Option<i64>, n: i64 }
        #[derive(Debug, Clone, Model)]
        #[model(table = "posted")]
        struct Tidy { id: Option<i64>, n: i64 }
        #[derive(Signal)]
        struct Announced;

        #[receiver(post_save, sender = Posted, created, on_commit)]
        async fn mail(saved: PostSave<'_, Posted>, State(stamp): State<Stamp>) {
            SCENE.log.push(format!("{} {}", stamp.0, saved.instance.n));
        }
        #[receiver(post_delete_batch, sender = Posted, on_commit)]
        fn unmail(_: PostDeleteBatch<'_, Posted>, _: State<Stamp>) { SCENE.log.push("unmail") }
        #[receiver(post_save, sender = Tidy, on_commit, once_per_transaction)]
        fn tidy(_: PostSave<'_, Tidy>, _: State<Stamp>) { SCENE.log.push("tidy") }
        #[receiver(Announced, on_commit)]
        fn announce(_: &Announced, _: State<Stamp>) { SCENE.log.push("announce") }

        let _turn = SCENE.begin().await;
        table(&db, "posted", "n BIGINT NOT NULL").await;
        let app = db.with(Stamp("smtp"));
        let posted = |n| Posted { id: None, n };
        let mut row = posted(1);
        let error = row.save(&db).await.unwrap_err();
        let text = "could not save `Posted`: receiver `mail`: the `Db` has no state `Stamp`: add it with `db.with(…)`";
        assert_eq!((error.to_string().as_str(), row.id), (text, None));
        assert!(matches!(&error, Error::Receiver(failed) if failed.refused && failed.signal == "post_save"), "{error:?}");
        let mut tx = db.begin().await.unwrap();
        posted(1).save(&mut tx).await.unwrap_err();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        let error = Posted::insert_many(&db, &mut [posted(1), posted(2)]).await.unwrap_err();
        assert!(matches!(&error, Error::Row { row: 0, .. }), "{error:?}");
        Tidy { id: None, n: 1 }.save(&db).await.unwrap_err();
        Announced.send(&db).await.unwrap_err();
        assert_eq!((SCENE.log.take(), count(&db, "posted").await), (Vec::new(), 0));

        // A receiver that the write does not concern needs no value.
        row.save(&app).await.unwrap();
        row.save(&db).await.unwrap();
        row.clone().delete(&db).await.unwrap_err();
        without_signals(async { row.clone().delete(&db).await }).await.unwrap();
        posted(2).save(&app).await.unwrap();
        Announced.send(&app).await.unwrap();
        Tidy { id: None, n: 3 }.save(&app).await.unwrap();
        assert_eq!(SCENE.log.take(), ["smtp 1", "smtp 2", "announce", "tidy"]);
        assert_eq!(count(&db, "posted").await, 2);
    }

    async fn a_connected_receiver_is_disabled_alone(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        struct Wired { id: Option<i64>, n: i64 }

        let _turn = SCENE.begin().await;
        table(&db, "wired", "n BIGINT NOT NULL").await;
        let connect = |uid: &'static str| {
            post_save.connect::<Wired>(uid, move |_, _| Box::pin(async move { SCENE.log.push(uid); Ok(()) }))
        };
        let handles = [connect("wire one"), connect("wire two")];
        let named = |uid: &str| registry().receivers().find(|receiver| receiver.name() == uid).unwrap();
        named("wire one").disable();
        assert_eq!((named("wire one").is_enabled(), named("wire two").is_enabled()), (false, true));
        Wired { id: None, n: 1 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["wire two"]);
        named("wire one").enable();
        Wired { id: None, n: 1 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["wire one", "wire two"]);
        named("wire one").disable();
        assert!(handles[0].disconnect());
        assert!(connect("wire one").disconnect() && handles[1].disconnect());
    }

    async fn a_receiver_runs_after_those_that_it_names(db: Db) {
        use sorting::{SCENE, Sorted};
        let _turn = SCENE.begin().await;
        table(&db, "sorted", "n BIGINT NOT NULL").await;
        Sorted { id: None, n: 1 }.save(&db).await.unwrap();
        let order = SCENE.log.take();
        let at = |name: &str| order.iter().position(|e| e == name).unwrap();
        assert!(at("c") < at("b") && at("d") < at("b") && at("b") < at("a"), "{order:?}");
    }

    async fn receivers_that_share_a_uid_are_registered_once(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        struct Single { id: Option<i64>, n: i64 }
        #[receiver(post_save, sender = Single, uid = "only one")]
        fn first(_: PostSave<'_, Single>) { SCENE.log.push("first") }
        #[receiver(post_save, sender = Single, uid = "only one")]
        fn second(_: PostSave<'_, Single>) { SCENE.log.push("second") }

        let _turn = SCENE.begin().await;
        table(&db, "single", "n BIGINT NOT NULL").await;
        let third = post_save.connect::<Single>("only one", |_, _| Box::pin(async { SCENE.log.push("third"); Ok(()) }));
        Single { id: None, n: 1 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["first"]);
        assert!(!third.disconnect());
    }

    async fn the_failure_of_a_robust_receiver_does_not_fail_the_save(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        struct Sturdy { id: Option<i64>, n: i64 }
        #[derive(Debug, Clone, Model)]
        struct Trace { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Sturdy, robust)]
        async fn fails(saved: PostSave<'_, Sturdy>, conn: &mut Conn<'_>) -> Result<()> {
            Trace { id: None, n: saved.instance.n }.save(&mut *conn).await?;
            if saved.instance.n == 1 {
                conn.query("INSERT INTO nowhere VALUES ($1)").bind(1).execute().await?;
            }
            assert!(saved.instance.n != 2, "two");
            Ok(())
        }
        #[receiver(pre_save, sender = Sturdy, robust)]
        fn panics(save: PreSave<'_, Sturdy>) { assert!(save.instance.n != 3, "three") }
        #[receiver(post_save, sender = Sturdy, order = 5)]
        async fn next(_: PostSave<'_, Sturdy>, conn: &mut Conn<'_>) -> Result<()> {
            conn.query("SELECT 1").execute().await?;
            SCENE.log.push("next");
            Ok(())
        }
        #[receiver(post_save, sender = Trace, on_commit)]
        fn kept(saved: PostSave<'_, Trace>) { SCENE.log.push(format!("trace {}", saved.instance.n)) }

        let _turn = SCENE.begin().await;
        table(&db, "sturdy", "n BIGINT NOT NULL").await;
        table(&db, "trace", "n BIGINT NOT NULL").await;
        for n in 0..4 {
            Sturdy { id: None, n }.save(&db).await.unwrap();
        }
        let mut tx = db.begin().await.unwrap();
        Sturdy { id: None, n: 1 }.save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!((count(&db, "sturdy").await, count(&db, "trace").await), (5, 2), "what they wrote is undone");
        assert_eq!(SCENE.log.take(), ["next", "trace 0", "next", "next", "next", "trace 3", "next"]);
    }

    async fn receivers_connect_and_disconnect(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        static DURING: std::sync::Mutex<Option<sqlx_signals::Handle>> = std::sync::Mutex::new(None);
        #[derive(Debug, Clone, Model)]
        struct Wired { id: Option<i64>, n: i64 }
        #[derive(Debug, Clone, Model)]
        struct Copied { id: Option<i64>, n: i64 }

        let _turn = SCENE.begin().await;
        table(&db, "wired", "n BIGINT NOT NULL").await;
        table(&db, "copied", "n BIGINT NOT NULL").await;
        Wired { id: None, n: 0 }.save(&db).await.unwrap();
        let handle = post_save.connect::<Wired>("copy", |saved, mut cx| {
            Box::pin(async move {
                let conn = cx.conn().ok_or("no connection")?;
                Copied { id: None, n: saved.instance.n }.save(conn).await?;
                SCENE.log.push(format!("copy {:?}", cx.state::<CurrentUser>()));
                Ok(())
            })
        });
        let again = post_save.connect::<Wired>("copy", |_, _| Box::pin(async { unreachable!() }));
        Wired { id: None, n: 1 }.save(&db.with(CurrentUser(3))).await.unwrap();
        assert_eq!((SCENE.log.take(), count(&db, "copied").await), (vec!["copy Some(CurrentUser(3))".to_owned()], 1));
        assert!(registry().receivers().any(|r| r.name() == "copy" && r.file().ends_with("runtime.rs")));

        // What is connected during a save runs from the next one on; what is disconnected finishes this one.
        let hook = pre_save.connect::<Wired>("hook", |_, _| {
            Box::pin(async {
                let late = post_save.connect::<Wired>("late", |_, _| Box::pin(async { SCENE.log.push("late"); Ok(()) }));
                *DURING.lock().unwrap() = Some(late);
                Ok(())
            })
        });
        Wired { id: None, n: 2 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["copy None"]);
        assert!(hook.disconnect() && !hook.disconnect());
        Wired { id: None, n: 3 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["copy None", "late"]);
        let cutter = pre_save.connect::<Wired>("cutter", |_, _| {
            Box::pin(async {
                assert!(DURING.lock().unwrap().take().unwrap().disconnect());
                Ok(())
            })
        });
        Wired { id: None, n: 4 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["copy None", "late"]);
        assert!(cutter.disconnect() && again.disconnect() && !handle.disconnect());
        Wired { id: None, n: 5 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), [""; 0]);

        let failing = pre_delete.connect::<Wired>("no deletes", |_, _| Box::pin(async { Err("kept".into()) }));
        let error = Wired { id: Some(1), n: 0 }.delete(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "could not delete `Wired`: receiver `no deletes`: kept");
        assert!(failing.disconnect());
    }

    async fn a_receiver_is_disabled_muted_or_without_signals(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        struct Quiet { id: Option<i64>, n: i64 }
        #[receiver(post_save, sender = Quiet)]
        async fn one(_: PostSave<'_, Quiet>) { SCENE.log.push("one") }
        #[receiver(post_save, sender = Quiet, on_commit)]
        async fn two(_: PostSave<'_, Quiet>) { SCENE.log.push("two") }

        let _turn = SCENE.begin().await;
        table(&db, "quiet", "n BIGINT NOT NULL").await;
        let save = async || Quiet { id: None, n: 1 }.save(&db).await.unwrap();
        registry().get::<one>().disable();
        save().await;
        assert_eq!(SCENE.log.take(), ["two"]);
        assert!(!registry().get::<one>().is_enabled());
        registry().get::<one>().enable();
        save().await;
        assert_eq!(SCENE.log.take(), ["one", "two"]);

        let muted_one = muted::<one, _>(async {
            save().await;
            SCENE.log.push("-");
            muted::<two, _>(save()).await;
            SCENE.log.push("-");
            without_signals(save()).await;
        });
        muted_one.await;
        assert_eq!(SCENE.log.take(), ["two", "-", "-"]);
        // Receivers muted during the save are also muted after the commit. Other tasks are not affected.
        let mut tx = db.begin().await.unwrap();
        without_signals(async { Quiet { id: None, n: 1 }.save(&mut tx).await }).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), [""; 0]);
        let other = db.clone();
        without_signals(async { tokio::spawn(async move { Quiet { id: None, n: 1 }.save(&other).await }).await })
            .await
            .unwrap()
            .unwrap();
        assert_eq!(SCENE.log.take(), ["one", "two"]);
        assert_eq!(count(&db, "quiet").await, 7);
    }
}

/// Runs the work on a thread of its own, so that a deadlock is a test failure.
fn within_ten_seconds(work: impl FnOnce() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    wait.recv_timeout(std::time::Duration::from_secs(10)).expect("it waits for a lock of its own");
}

#[test]
fn values_captured_by_a_receiver_may_use_the_registry_in_drop() {
    #[derive(Debug, Clone, Model)]
    struct Dropped {
        id: Option<i64>,
    }

    struct Uses(std::sync::mpsc::Sender<usize>);
    impl Drop for Uses {
        fn drop(&mut self) {
            let other = post_save.connect::<Dropped>("other", |_, _| Box::pin(async { Ok(()) }));
            let _ = self.0.send(registry().receivers().count());
            assert!(other.disconnect());
        }
    }

    within_ten_seconds(|| {
        let (sent, dropped) = std::sync::mpsc::channel();
        let connect = || {
            let uses = Uses(sent.clone());
            post_save.connect::<Dropped>("uses", move |_, _| {
                let _ = &uses;
                Box::pin(async { Ok(()) })
            })
        };
        let handle = connect();
        // The `uid` is taken: the receiver is not connected and is dropped at once.
        let again = connect();
        dropped.try_recv().unwrap();
        assert!(handle.disconnect() && !again.disconnect());
        dropped.try_recv().unwrap();
    });
}

#[test]
fn many_receivers_are_connected_and_found_quickly() {
    #[derive(Debug, Clone, Model)]
    struct Crowded {
        id: Option<i64>,
    }

    within_ten_seconds(|| {
        let connect = |n: usize| {
            post_save.connect::<Crowded>(&format!("crowded {n}"), |_, _| Box::pin(async { Ok(()) }))
        };
        let handles: Vec<_> = (0..30_000).map(connect).collect();
        assert_eq!(registry().receivers().filter(|r| r.sender() == "Crowded").count(), 30_000);
        assert!(handles.iter().rev().all(|handle| handle.disconnect()));
        assert_eq!(registry().receivers().filter(|r| r.sender() == "Crowded").count(), 0);
    });
}
