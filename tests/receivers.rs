//! Which receivers run, when, in which order, and what happens to their errors.
#![allow(missing_docs)]

mod common;

use std::sync::{LazyLock, Mutex};

use common::{Scene, count, execute, table};
use library::{Article, Revision};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, Phase, registry, sqlx};

mod behind {
    use super::*;

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Queued {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Other {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    macro_rules! receivers {
        ($($name:ident($($option:tt)*))*) => { $(
            #[receiver(post_save, sender = Queued, $($option)*)]
            fn $name(_: PostSave<'_, Queued>) { SCENE.log.push(stringify!($name)) }
        )* };
    }

    receivers! {
        five(order = 5)
        hundred(order = 100)
        zero(order = 0, after = hundred)
        two_hundred(order = 200)
        // After both, and a chain.
        one(order = 1, after = [hundred, zero])
        two(order = 2, after = one)
        // After a receiver of every model, and one of several models.
        three(order = 3, after = [any, several])
        // Already after it by its order.
        three_hundred(order = 300, after = five)
        // Another phase: they run after the receivers inside the transaction, regardless of their order.
        later(order = 50, on_commit)
        soon(order = 0, on_commit, after = two_hundred)
        last(order = 60, on_commit, after = later)
        // Of another signal, and of another model.
        four(order = 4, after = [deleted, of_other])
    }

    #[receiver(post_save, order = 150)]
    fn any(saved: PostSave<'_, dyn AnyModel>) {
        if saved.instance.downcast_ref::<Queued>().is_some() {
            SCENE.log.push("any");
        }
    }

    #[receiver(post_save, sender = [Queued, Other], order = 250)]
    fn several<M: Model>(_: PostSave<'_, M>) {
        SCENE.log.push("several");
    }

    #[receiver(post_delete, sender = Queued, order = 1000)]
    fn deleted(_: PostDelete<'_, Queued>) {}

    #[receiver(post_save, sender = Other, order = 1000)]
    fn of_other(_: PostSave<'_, Other>) {}
}

on_every_database! {
    async fn after_moves_only_the_receiver_that_declares_it(db: Db) {
        use behind::*;

        let _turn = SCENE.begin().await;
        table(&db, "queued", "n BIGINT NOT NULL").await;
        let connected = post_save.connect::<Queued>("connected", |_, _| {
            Box::pin(async { SCENE.log.push("connected"); Ok(()) })
        });
        Queued { id: None, n: 1 }.save(&db).await.unwrap();
        assert_eq!(
            SCENE.log.take(),
            [
                "four", "five", "hundred", "zero", "one", "two", "any", "two_hundred", "several", "three",
                "three_hundred", "connected", "soon", "later", "last",
            ]
        );
        assert!(connected.disconnect());
    }

    async fn receivers_of_another_crate_run(db: Db) {
        table(&db, "articles", "title TEXT NOT NULL").await;
        table(&db, "revisions", "article_id BIGINT NOT NULL").await;
        let mut article = Article { id: None, title: "t".to_owned() };
        article.save(&db).await.unwrap();
        article.save(&db).await.unwrap();
        let revisions = Revision::all(&db).await.unwrap();
        assert_eq!(revisions.iter().map(|r| r.article_id).collect::<Vec<_>>(), [article.id.unwrap(); 2]);
    }

    async fn the_macros_find_a_crate_that_is_re_exported(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        #[model(crate = "library::signals")]
        struct Elsewhere { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Elsewhere, on_commit, crate = "library::signals")]
        async fn heard(saved: PostSave<'_, Elsewhere>, _db: Db) { SCENE.log.push(saved.instance.n.to_string()) }

        library::model_with_receiver!(Declared, "declared", heard_too, |n: i64| SCENE.log.push(n.to_string()));

        let _turn = SCENE.begin().await;
        table(&db, "elsewhere", "n BIGINT NOT NULL").await;
        table(&db, "declared", "n BIGINT NOT NULL").await;
        Elsewhere { id: None, n: 7 }.save(&db).await.unwrap();
        Declared { id: None, n: 8 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["7", "8"]);
    }

    async fn a_deferred_receiver_has_the_key_even_if_clone_loses_it(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Model)]
        struct Fresh { id: Option<i64>, n: i64 }

        /// `Clone` returns a different row.
        impl Clone for Fresh {
            fn clone(&self) -> Self { Self { id: None, n: self.n } }
        }

        #[receiver(post_save, sender = Fresh, on_commit)]
        fn saved(saved: PostSave<'_, Fresh>) { SCENE.log.push(format!("saved {}", saved.pk())) }
        #[receiver(post_save_batch, sender = Fresh, on_commit)]
        fn batch(saved: PostSaveBatch<'_, Fresh>) {
            SCENE.log.push(format!("batch {:?}", saved.instances.iter().map(|row| row.pk()).collect::<Vec<_>>()));
        }
        #[receiver(post_delete, sender = Fresh)]
        async fn lingers(deleted: PostDelete<'_, Fresh>) { SCENE.log.push(format!("gone {}", deleted.pk())) }
        #[receiver(post_delete, sender = Fresh, on_commit)]
        fn deleted(deleted: PostDelete<'_, Fresh>) { SCENE.log.push(format!("deleted {}", deleted.pk())) }

        let _turn = SCENE.begin().await;
        table(&db, "fresh", "n BIGINT NOT NULL").await;
        let mut row = Fresh { id: None, n: 1 };
        row.save(&db).await.unwrap();
        Fresh::insert_many(&db, &mut [Fresh { id: None, n: 2 }, Fresh { id: None, n: 3 }]).await.unwrap();
        assert_eq!(
            SCENE.log.take(),
            ["saved 1", "batch [Some(1)]", "saved 2", "saved 3", "batch [Some(2), Some(3)]"]
        );
        assert!(row.delete(&db).await.unwrap());
        Fresh::query("").delete(&db).await.unwrap();
        assert_eq!(
            SCENE.log.take(),
            ["gone 1", "deleted 1", "gone 2", "gone 3", "deleted 2", "deleted 3"]
        );
    }

    async fn receivers_run_by_order_then_by_file_and_line(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        struct Ordered { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Ordered, order = 7)]
        fn last(_: PostSave<'_, Ordered>) { SCENE.log.push("last") }
        #[receiver(post_save, sender = Ordered)]
        async fn second(_: PostSave<'_, Ordered>) { SCENE.log.push("second") }
        #[receiver(post_save, sender = Ordered)]
        fn third(_: PostSave<'_, Ordered>) -> Result<(), std::io::Error> { SCENE.log.push("third"); Ok(()) }
        #[receiver(post_save, sender = Ordered, order = -3)]
        async fn first(_: PostSave<'_, Ordered>, _conn: &mut Conn<'_>) -> Result<(), String> { SCENE.log.push("first"); Ok(()) }

        let _turn = SCENE.begin().await;
        table(&db, "ordered", "n BIGINT NOT NULL").await;
        Ordered { id: None, n: 1 }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["first", "second", "third", "last"]);
    }

    async fn signals_are_sent_in_order(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        struct Page { id: Option<i64>, title: String }

        #[receiver(pre_save, sender = Page)]
        async fn before(save: PreSave<'_, Page>) {
            SCENE.log.push(format!("pre_save {:?} {}", save.instance.id, save.fields.is_none()));
            save.instance.title.push('!');
        }
        #[receiver(post_save, sender = Page)]
        async fn after(saved: PostSave<'_, Page>) {
            SCENE.log.push(format!("post_save {} {} {}", saved.pk(), saved.created, saved.instance.title));
        }
        #[receiver(post_save, sender = Page, created)]
        async fn only_new(saved: PostSave<'_, Page>) { SCENE.log.push(format!("created {}", saved.created)); }
        #[receiver(post_save, sender = Page, updated)]
        async fn only_old(saved: PostSave<'_, Page>) { SCENE.log.push(format!("updated {}", !saved.created)); }
        #[receiver(pre_delete, sender = Page)]
        async fn before_delete(delete: PreDelete<'_, Page>) { SCENE.log.push(format!("pre_delete {}", delete.pk())); }
        #[receiver(post_delete, sender = Page)]
        async fn after_delete(deleted: PostDelete<'_, Page>) { SCENE.log.push(format!("post_delete {}", deleted.pk())); }
        #[receiver(post_delete, sender = Page, on_commit)]
        async fn gone(deleted: PostDelete<'_, Page>) { SCENE.log.push(format!("gone {}", deleted.pk())); }

        let _turn = SCENE.begin().await;
        table(&db, "page", "title TEXT NOT NULL").await;
        let mut page = Page { id: None, title: "t".to_owned() };
        page.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["pre_save None true", "post_save 1 true t!", "created true"]);
        page.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["pre_save Some(1) true", "post_save 1 false t!!", "updated true"]);
        assert_eq!(Page::get(&db, 1).await.unwrap().title, "t!!");
        let mut copy = page.clone();
        assert!(page.delete(&db).await.unwrap());
        assert_eq!(SCENE.log.take(), ["pre_delete 1", "post_delete 1", "gone 1"]);
        assert_eq!(page.id, None);
        assert!(!copy.delete(&db).await.unwrap());
        assert_eq!(SCENE.log.take(), ["pre_delete 1"]);
    }

    async fn a_veto_stores_nothing_and_names_the_receiver(db: Db) {
        #[derive(Debug, Clone, Model)]
        struct Account { id: Option<i64>, balance: i64 }

        #[derive(Debug, thiserror::Error)]
        #[error("the balance is {0}")]
        struct Overdrawn(i64);

        #[receiver(pre_save, sender = Account)]
        fn check(save: PreSave<'_, Account>) -> Result<(), Overdrawn> {
            save.instance.id = Some(77);
            if save.instance.balance < 0 { Err(Overdrawn(save.instance.balance)) } else { save.instance.id = None; Ok(()) }
        }
        #[receiver(post_save, sender = Account)]
        async fn undo(saved: PostSave<'_, Account>) -> Result<(), Overdrawn> {
            assert!(saved.instance.id.is_some());
            if saved.instance.balance > 100 { Err(Overdrawn(saved.instance.balance)) } else { Ok(()) }
        }
        #[receiver(pre_delete, sender = Account)]
        fn keep(_: PreDelete<'_, Account>) -> Result<(), &'static str> { Err("accounts are kept") }

        table(&db, "account", "balance BIGINT NOT NULL").await;
        for balance in [-5, 500] {
            let mut account = Account { id: None, balance };
            let error = account.save(&db).await.unwrap_err();
            let Error::Receiver(failed) = &error else { panic!("{error:?}") };
            let name = if balance < 0 { ("check", "pre_save") } else { ("undo", "post_save") };
            assert!(failed.receiver.ends_with(name.0), "{failed:?}");
            assert_eq!((failed.signal, failed.sender), (name.1, "Account"));
            assert!(failed.file.ends_with("receivers.rs") && failed.line > 0);
            assert_eq!(failed.source.downcast_ref::<Overdrawn>().unwrap().0, balance);
            assert!(format!("{error:#}").contains("receivers.rs:") && !error.to_string().contains(".rs"), "{error:#}");
            assert!(std::error::Error::source(&error).unwrap().is::<Overdrawn>(), "the receiver's own error");
            assert_eq!((account.id, count(&db, "account").await), (None, 0));
        }
        let mut account = Account { id: None, balance: 1 };
        account.save(&db).await.unwrap();
        let key = account.id;
        assert!(account.delete(&db).await.is_err());
        assert_eq!((account.id, count(&db, "account").await), (key, 1));
    }

    async fn a_key_may_come_from_pre_save(db: Db) {
        #[derive(Debug, Clone, Model)]
        struct Named { #[model(primary_key)] slug: String, title: String }
        #[derive(Debug, Clone, Model)]
        struct Numbered { id: Option<i64>, title: String }

        #[receiver(pre_save, sender = Named)]
        fn slugify(save: PreSave<'_, Named>) { save.instance.slug = save.instance.title.to_lowercase(); }
        #[receiver(pre_save, sender = Numbered)]
        fn number(save: PreSave<'_, Numbered>) { save.instance.id = Some(1000); }

        execute(&db, "CREATE TABLE named (slug TEXT PRIMARY KEY, title TEXT NOT NULL)").await;
        table(&db, "numbered", "title TEXT NOT NULL").await;
        Named { slug: String::new(), title: "Hello".to_owned() }.save(&db).await.unwrap();
        Named::get(&db, "hello").await.unwrap();
        assert!(Numbered { id: None, title: "x".to_owned() }.save(&db).await.unwrap().created);
        assert!(!Numbered { id: None, title: "y".to_owned() }.save(&db).await.unwrap().created);
        assert_eq!(Numbered::all(&db).await.unwrap()[0].title, "y");
    }

    async fn a_panic_is_an_error_of_the_save(db: Db) {
        #[derive(Debug, Clone, Model)]
        struct Fragile { id: Option<i64>, how: String }

        #[receiver(pre_save, sender = Fragile)]
        fn plain(save: PreSave<'_, Fragile>) { assert!(save.instance.how != "plain", "plainly"); }
        #[receiver(post_save, sender = Fragile)]
        async fn asynchronous(saved: PostSave<'_, Fragile>, conn: &mut Conn<'_>) {
            conn.query("SELECT 1").execute().await.unwrap();
            assert!(saved.instance.how != "async", "{} {}", "asynchronously", 1);
        }
        #[receiver(post_save, sender = Fragile)]
        fn after(saved: PostSave<'_, Fragile>) { assert!(saved.instance.how != "after"); }

        table(&db, "fragile", "how TEXT NOT NULL").await;
        for (how, says) in [("plain", "panicked: plainly"), ("async", "panicked: asynchronously 1"), ("after", "panicked: assertion failed")] {
            let error = Fragile { id: None, how: how.to_owned() }.save(&db).await.unwrap_err();
            let Error::Receiver(failed) = &error else { panic!("{error:?}") };
            assert!(failed.source.to_string().starts_with(says), "{:?}", failed.source);
            assert_eq!(count(&db, "fragile").await, 0);
        }
        // Neither connection nor lock was lost.
        for _ in 0..20 {
            Fragile { id: None, how: "well".to_owned() }.save(&db).await.unwrap();
        }
    }

    async fn the_raw_connection_is_the_same_transaction(db: Db) {
        #[derive(Debug, Clone, Model)]
        struct Raw { id: Option<i64>, n: i64 }

        #[cfg(feature = "sqlite")]
        #[receiver(post_save, sender = Raw)]
        async fn on_sqlite(saved: PostSave<'_, Raw>, conn: &mut Conn<'_>) -> Result<()> {
            if let Some(conn) = conn.sqlite() {
                sqlx::query("UPDATE raw SET n = n + 1 WHERE id = $1").bind(saved.pk()).execute(conn).await?;
            }
            Ok(())
        }
        #[cfg(feature = "postgres")]
        #[receiver(post_save, sender = Raw)]
        async fn on_postgres(saved: PostSave<'_, Raw>, conn: &mut Conn<'_>) -> Result<()> {
            if let Some(conn) = conn.postgres() {
                sqlx::query("UPDATE raw SET n = n + 1 WHERE id = $1").bind(saved.pk()).execute(conn).await?;
            }
            Ok(())
        }
        #[receiver(post_save, sender = Raw)]
        async fn refuse(saved: PostSave<'_, Raw>) -> Result<(), &'static str> {
            if saved.instance.n == 5 { Err("five") } else { Ok(()) }
        }

        table(&db, "raw", "n BIGINT NOT NULL").await;
        let mut raw = Raw { id: None, n: 1 };
        raw.save(&db).await.unwrap();
        raw.refresh(&db).await.unwrap();
        assert_eq!(raw.n, 2);
        Raw { id: None, n: 5 }.save(&db).await.unwrap_err();
        assert_eq!(count(&db, "raw").await, 1);
    }

    async fn a_receiver_of_one_database_says_so_on_the_other(db: Db) {
        #[derive(Debug, Clone, Model)]
        struct Choosy { id: Option<i64>, n: i64 }

        #[cfg(feature = "postgres")]
        #[receiver(post_save, sender = Choosy)]
        async fn wants_postgres(saved: PostSave<'_, Choosy>, pg: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
            sqlx::query("UPDATE choosy SET n = 9 WHERE id = $1").bind(saved.pk()).execute(pg).await?;
            Ok(())
        }

        table(&db, "choosy", "n BIGINT NOT NULL").await;
        let saved = Choosy { id: None, n: 1 }.save(&db).await;
        if cfg!(feature = "postgres") && db.kind() == DatabaseKind::Sqlite {
            let Err(Error::Receiver(failed)) = saved else { panic!("{saved:?}") };
            assert_eq!(failed.source.to_string(), "it takes a `PgConnection`, and the save goes to SQLite");
            assert_eq!(count(&db, "choosy").await, 0);
        } else {
            saved.unwrap();
        }
    }

    async fn on_commit_receivers_take_the_pool(db: Db) {
        static SEEN: Mutex<Vec<i64>> = Mutex::new(Vec::new());
        #[derive(Debug, Clone, Model)]
        struct Seen { id: Option<i64>, n: i64 }

        #[receiver(post_save, sender = Seen, on_commit)]
        async fn look(_: PostSave<'_, Seen>, db: Db) -> Result<()> {
            // Another connection sees it, or the same connection, which is free again.
            let rows = Seen::query("").count(&db).await?;
            SEEN.lock().unwrap().push(rows);
            Ok(())
        }

        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = TURN.lock().await;
        SEEN.lock().unwrap().clear();
        table(&db, "seen", "n BIGINT NOT NULL").await;
        Seen { id: None, n: 1 }.save(&db).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        Seen { id: None, n: 2 }.save(&mut tx).await.unwrap();
        assert_eq!(*SEEN.lock().unwrap(), [1]);
        assert!(tx.commit().await.unwrap().errors.is_empty());
        assert_eq!(*SEEN.lock().unwrap(), [1, 2]);

        // Through a connection that belongs to no pool there is no `Db` to give.
        let url_conn = async |db: &Db| -> Result<()> {
            #[cfg(feature = "sqlite")]
            if let Some(pool) = db.sqlite() {
                Seen { id: None, n: 3 }.save(&mut *pool.acquire().await?).await?;
            }
            #[cfg(feature = "postgres")]
            if let Some(pool) = db.postgres() {
                Seen { id: None, n: 3 }.save(&mut *pool.acquire().await?).await?;
            }
            Ok(())
        };
        url_conn(&db).await.unwrap();
        assert_eq!(SEEN.lock().unwrap().len(), 2);
        assert_eq!(count(&db, "seen").await, 3);
    }
}

/// Counts the articles that are published.
///
/// More about it.
#[receiver(post_save, sender = Article, order = 3, on_commit)]
async fn documented(_: PostSave<'_, Article>) {}

#[test]
fn the_registry_lists_every_receiver() {
    registry().require::<documented>().unwrap();
    let receiver = registry().get::<documented>();
    assert_eq!(receiver.doc(), "Counts the articles that are published.");
    assert_eq!((receiver.phase(), receiver.order()), (Phase::OnCommit, 3));
    let line = receiver.to_string();
    assert!(
        line.starts_with(
            "post_save of Article: receivers::documented (on commit, tests/receivers.rs:"
        ),
        "{line}"
    );
    let of_article: Vec<_> = registry().receivers().filter(|r| r.sender() == "Article").collect();
    assert!(
        of_article.iter().any(|r| r.name() == "library::receivers::keep_revision"),
        "{of_article:?}"
    );

    struct Unlinked;
    impl sqlx_signals::Receiver for Unlinked {}
    let error = registry().require::<Unlinked>().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("Unlinked` is not registered in this program: is its crate linked?"),
        "{error}"
    );
}

#[test]
fn a_receiver_of_a_signal_is_printed_without_a_sender() {
    #[derive(Signal)]
    struct Rung;

    #[receiver(Rung)]
    fn answer(_: &Rung) {}

    let receiver = registry().get::<answer>();
    assert!(receiver.to_string().starts_with("Rung: receivers::"), "{receiver}");
}

#[test]
fn the_description_of_a_receiver_is_the_first_line_of_its_comment() {
    #[derive(Signal)]
    struct Tolled;

    /// In a line.
    ///
    /// More.
    #[receiver(Tolled)]
    fn line(_: &Tolled) {}

    /**
     * In a block.
     * More.
     */
    #[receiver(Tolled)]
    fn block(_: &Tolled) {}

    let docs = [registry().get::<line>().doc(), registry().get::<block>().doc()];
    assert_eq!(docs, ["In a line.", "In a block."]);
}
