//! Receivers of several models, of every model, and of custom signals.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, count, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{Column, Error, without_signals};

mod several {
    use super::*;

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Apple {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Pear {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[receiver(post_save, sender = [Apple, Pear])]
    async fn inside<M: Model>(saved: PostSave<'_, M>, conn: &mut Conn<'_>) -> Result<()> {
        conn.query("SELECT 1").execute().await?;
        SCENE.log.push(format!("{} {}", M::NAME, saved.created));
        Ok(())
    }

    #[receiver(post_delete, sender = [Apple, Pear], on_commit)]
    fn gone<M: Model>(_: PostDelete<'_, M>) {
        SCENE.log.push(format!("{} is gone", M::TABLE));
    }
}

mod every {
    use super::*;

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    fn is_audited(row: &dyn AnyModel) -> bool {
        row.table().starts_with("audited")
    }

    /// Neither `Clone` nor `Serialize`.
    #[derive(Model)]
    #[model(table = "audited_a")]
    pub(crate) struct First {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[derive(serde::Serialize, Model)]
    #[model(table = "audited_b")]
    pub(crate) struct Second {
        #[model(primary_key)]
        pub(crate) code: String,
        pub(crate) n: i64,
    }

    #[receiver(pre_save)]
    async fn before(save: PreSave<'_, dyn AnyModel>) -> Result<(), &'static str> {
        let refused = save.instance.downcast_ref::<Second>().is_some_and(|row| row.n < 0);
        if refused { Err("negative") } else { Ok(()) }
    }

    #[receiver(post_save, order = -1)]
    async fn audit(saved: PostSave<'_, dyn AnyModel>, conn: &mut Conn<'_>) -> Result<()> {
        let row = saved.instance;
        if is_audited(row) {
            let insert = conn.query("INSERT INTO audit_log VALUES ($1, $2, $3)");
            insert.bind(row.table()).bind(row.key()).bind(saved.created).execute().await?;
        }
        Ok(())
    }

    #[receiver(post_save, sender = First)]
    fn own(saved: PostSave<'_, First>) {
        SCENE.log.push(format!("own {}", saved.instance.n));
    }

    #[receiver(post_save, on_commit)]
    async fn stored(saved: PostSave<'_, dyn AnyModel>) {
        if is_audited(saved.instance) {
            let row = saved.instance;
            let columns = row.columns().join(",");
            SCENE.log.push(format!("stored {} {} {columns}", row.name(), row.key().unwrap()));
            SCENE.log.push(row.to_json().map_or("no JSON".to_owned(), |json| json.to_string()));
        }
    }

    #[receiver(post_delete, on_rollback)]
    fn not_deleted(deleted: PostDelete<'_, dyn AnyModel>) {
        if is_audited(deleted.instance) {
            SCENE.log.push(format!("not deleted {:?}", deleted.instance));
        }
    }
}

mod columns {
    use super::*;

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    #[derive(Debug, Clone, Model)]
    #[model(table = "shelves")]
    pub(crate) struct Shelf {
        pub(crate) id: Option<i64>,
    }

    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "books")]
    pub(crate) struct Book {
        pub(crate) id: Option<i64>,
        pub(crate) title: String,
        pub(crate) pages: i64,
        #[model(belongs_to = Shelf, on_delete = set_null)]
        pub(crate) shelf: Option<i64>,
    }

    fn note<M: ?Sized>(who: &str, model: &str, fields: Option<&[Column<M>]>) {
        if model == "Book" {
            let fields: Option<Vec<_>> = fields.map(|all| all.iter().map(|c| c.name()).collect());
            SCENE.log.push(format!("{who}: {fields:?}"));
        }
    }

    #[receiver(pre_save, sender = Book)]
    fn pre_own(save: PreSave<'_, Book>) {
        note("pre_save", "Book", save.fields);
    }
    #[receiver(pre_save)]
    fn pre_any(save: PreSave<'_, dyn AnyModel>) {
        note("pre_save", save.instance.name(), save.fields);
    }
    #[receiver(post_save, sender = Book)]
    fn own(saved: PostSave<'_, Book>) {
        note("post_save", "Book", saved.fields);
    }
    #[receiver(post_save)]
    fn any(saved: PostSave<'_, dyn AnyModel>) {
        note("post_save", saved.instance.name(), saved.fields);
    }
    #[receiver(post_save, sender = Book, on_commit)]
    fn own_stored(saved: PostSave<'_, Book>) {
        note("stored", "Book", saved.fields);
    }
    #[receiver(post_save, on_commit)]
    fn any_stored(saved: PostSave<'_, dyn AnyModel>) {
        note("stored", saved.instance.name(), saved.fields);
    }
    #[receiver(post_save_batch, sender = Book)]
    fn own_batch(saved: PostSaveBatch<'_, Book>) {
        note("batch", "Book", saved.fields);
    }
    #[receiver(post_save_batch)]
    fn any_batch(saved: PostSaveBatch<'_, dyn AnyModel>) {
        let is_book = saved.instances.iter().all(|row| row.downcast_ref::<Book>().is_some());
        assert_eq!(is_book, saved.instances[0].name() == "Book");
        note("batch", saved.instances[0].name(), saved.fields);
    }
    #[receiver(post_save_batch, sender = Book, on_commit)]
    fn own_batch_stored(saved: PostSaveBatch<'_, Book>) {
        note("batch stored", "Book", saved.fields);
    }
    #[receiver(post_save_batch, on_commit)]
    fn any_batch_stored(saved: PostSaveBatch<'_, dyn AnyModel>) {
        note("batch stored", saved.instances[0].name(), saved.fields);
    }

    /// What was noted since the last time: by each receiver of the model, and the same by each of every model.
    pub(crate) fn noted(fields: &str) {
        let mut all = SCENE.log.take();
        all.sort();
        let mut expected: Vec<_> = ["pre_save", "post_save", "stored", "batch", "batch stored"]
            .into_iter()
            .flat_map(|who| [format!("{who}: {fields}"), format!("{who}: {fields}")])
            .collect();
        expected.sort();
        assert_eq!(all, expected);
    }
}

mod own {
    use super::*;

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    #[derive(Debug, Signal)]
    pub(crate) struct OrderPaid {
        pub(crate) order_id: i64,
    }

    #[derive(Signal)]
    pub(crate) struct Unheard;

    #[derive(Signal)]
    pub(crate) struct Quick {
        pub(crate) n: i64,
    }

    #[receiver(Quick)]
    fn quick(quick: &Quick) {
        SCENE.log.push(format!("quick {}", quick.n));
    }
    #[receiver(Quick)]
    async fn fails(_: &Quick) -> Result<(), &'static str> {
        Err("fails")
    }
    #[receiver(Quick, on_commit)]
    fn after(quick: &Quick) {
        SCENE.log.push(format!("after {}", quick.n));
    }

    #[derive(Signal)]
    pub(crate) struct Later;

    #[receiver(Later, on_commit)]
    fn later(_: &Later) {
        SCENE.log.push("later");
    }

    #[derive(Signal)]
    pub(crate) struct Outer;

    #[receiver(Outer)]
    async fn sends_another(_: &Outer, conn: &mut Conn<'_>) -> Result<()> {
        Quick { n: 6 }.send_robust(conn).await;
        Ok(())
    }
    #[receiver(Outer, on_commit)]
    fn after_outer(_: &Outer) {
        SCENE.log.push("after outer");
    }

    #[receiver(OrderPaid)]
    async fn ship(paid: &OrderPaid, conn: &mut Conn<'_>) -> Result<()> {
        conn.query("INSERT INTO shipments (order_id) VALUES ($1)")
            .bind(paid.order_id)
            .execute()
            .await?;
        if paid.order_id == 1 { Err(Error::other("no stock")) } else { Ok(()) }
    }

    #[receiver(OrderPaid, order = 1)]
    fn count(paid: &OrderPaid) -> Result<(), String> {
        SCENE.log.push(format!("count {}", paid.order_id));
        assert!(paid.order_id != 2, "two");
        Ok(())
    }

    #[receiver(OrderPaid, on_commit)]
    async fn thank(paid: &OrderPaid, _db: Db) {
        SCENE.log.push(format!("thank {}", paid.order_id));
    }

    #[receiver(OrderPaid, on_rollback)]
    async fn apologize(paid: &OrderPaid) {
        SCENE.log.push(format!("apologize {}", paid.order_id));
    }
}

on_every_database! {
    async fn one_receiver_of_several_models(db: Db) {
        use several::{Apple, Pear, SCENE};
        let _turn = SCENE.begin().await;
        table(&db, "apple", "n BIGINT NOT NULL").await;
        table(&db, "pear", "n BIGINT NOT NULL").await;
        let (mut apple, mut pear) = (Apple { id: None, n: 1 }, Pear { id: None, n: 1 });
        apple.save(&db).await.unwrap();
        pear.save(&db).await.unwrap();
        pear.save(&db).await.unwrap();
        apple.delete(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["Apple true", "Pear true", "Pear false", "apple is gone"]);
        assert_eq!((apple.n, pear.n), (1, 1));
    }

    async fn one_receiver_of_every_model(db: Db) {
        use every::{First, SCENE, Second};
        let _turn = SCENE.begin().await;
        table(&db, "audited_a", "n BIGINT NOT NULL").await;
        common::execute(&db, "CREATE TABLE audited_b (code TEXT PRIMARY KEY, n BIGINT NOT NULL)").await;
        common::execute(&db, "CREATE TABLE audit_log (tab TEXT NOT NULL, key TEXT, created BOOLEAN NOT NULL)").await;
        let mut first = First { id: None, n: 5 };
        first.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["own 5", "stored First 1 id,n", "no JSON"]);
        let mut second = Second { code: "x".to_owned(), n: 6 };
        let mut tx = db.begin().await.unwrap();
        second.save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["stored Second x code,n", r#"{"code":"x","n":6}"#]);
        second.n = -1;
        let error = second.save(&db).await.unwrap_err();
        assert!(error.to_string().starts_with("could not save `Second`: receiver `before`: "), "{error}");
        let rows: Vec<(String, String, bool)> = db.query("SELECT * FROM audit_log ORDER BY tab").fetch_all().await.unwrap();
        assert_eq!(rows, [("audited_a".to_owned(), "1".to_owned(), true), ("audited_b".to_owned(), "x".to_owned(), true)]);
        let mut tx = db.begin().await.unwrap();
        first.delete(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(SCENE.log.take(), ["not deleted First(1)"]);
    }

    async fn receivers_of_every_model_get_the_same_columns(db: Db) {
        use columns::*;

        let _turn = SCENE.begin().await;
        table(&db, "shelves", "n BIGINT").await;
        table(&db, "books", "title TEXT NOT NULL UNIQUE, pages BIGINT NOT NULL, shelf BIGINT").await;
        common::execute(&db, "INSERT INTO shelves (id) VALUES (1)").await;
        let mut book = Book { id: None, title: "t".to_owned(), pages: 1, shelf: Some(1) };
        book.save(&db).await.unwrap();
        noted("None");
        book.upsert(&db, &[Book::TITLE]).await.unwrap();
        noted("None");
        book.save_fields(&db, &[Book::PAGES, Book::TITLE]).await.unwrap();
        noted(r#"Some(["pages", "title"])"#);
        let mut tx = db.begin().await.unwrap();
        Book::query("").set(Book::PAGES, 2_i64).update(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        noted(r#"Some(["pages"])"#);
        Book::update_many(&db, &mut [book]).await.unwrap();
        noted("None");
        Shelf { id: Some(1) }.delete(&db).await.unwrap();
        noted(r#"Some(["shelf"])"#);
    }

    async fn send_robust_acquires_a_connection_only_if_a_receiver_takes_it(db: Db) {
        use own::{Quick, SCENE};

        let _turn = SCENE.begin().await;
        let one = common::one_connection(&db).await;
        let held = one.acquire().await.unwrap();
        let sent = async { Quick { n: 4 }.send_robust(&one).await };
        let results = tokio::time::timeout(std::time::Duration::from_secs(20), sent).await.unwrap();
        let done: Vec<_> = results.iter().map(|(_, done)| done.is_ok()).collect();
        assert_eq!((done, SCENE.log.take()), (vec![true, false], vec!["quick 4".to_owned(), "after 4".to_owned()]));
        drop(held);
        // In a transaction of the caller, what waits for its end does so.
        let mut tx = one.begin().await.unwrap();
        Quick { n: 5 }.send_robust(&mut tx).await;
        assert_eq!(SCENE.log.take(), ["quick 5"]);
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["after 5"]);
    }

    async fn send_robust_reports_that_a_transaction_of_sqlx_is_refused(db: Db) {
        use own::{Later, SCENE};

        let _turn = SCENE.begin().await;
        let mut results = Vec::new();
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            let mut tx = pool.begin().await.unwrap();
            results = Later.send_robust(&mut tx).await;
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            let mut tx = pool.begin().await.unwrap();
            results = Later.send_robust(&mut tx).await;
        }
        assert!(matches!(&results[..], [(_, Err(Error::CommitNotObservable { .. }))]), "{results:?}");
        assert!(Later.send_robust(&db).await.is_empty());
        assert_eq!(SCENE.log.take(), ["later"]);
    }

    async fn on_commit_receivers_of_a_signal_run_before_those_of_what_its_receivers_send(db: Db) {
        use own::{Outer, SCENE};

        let _turn = SCENE.begin().await;
        let expected = ["quick 6", "after outer", "after 6"];
        Outer.send(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), expected);
        assert!(Outer.send_robust(&db).await[0].1.is_ok());
        assert_eq!(SCENE.log.take(), expected);
        let mut tx = db.begin().await.unwrap();
        Outer.send_robust(&mut tx).await;
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), expected);
    }

    async fn a_custom_signal(db: Db) {
        use own::{OrderPaid, SCENE, Unheard};
        let _turn = SCENE.begin().await;
        table(&db, "shipments", "order_id BIGINT NOT NULL").await;
        OrderPaid { order_id: 5 }.send(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["count 5", "thank 5"]);
        Unheard.send(&db).await.unwrap();
        assert!(Unheard.send_robust(&db).await.is_empty());
        assert_eq!(count(&db, "shipments").await, 1);

        // It stops at the first error, and nothing of it is stored.
        let error = OrderPaid { order_id: 1 }.send(&db).await.unwrap_err();
        assert!(matches!(&error, Error::Receiver(failed) if failed.signal == "OrderPaid"), "{error:?}");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no stock");
        assert_eq!(SCENE.log.take(), ["apologize 1"]);
        OrderPaid { order_id: 2 }.send(&db).await.unwrap_err();
        assert_eq!((SCENE.log.take(), count(&db, "shipments").await), (vec!["count 2".to_owned(), "apologize 2".to_owned()], 1));

        // The payload is kept until the commit.
        let mut tx = db.begin().await.unwrap();
        OrderPaid { order_id: 6 }.send(&mut tx).await.unwrap();
        assert_eq!(SCENE.log.take(), ["count 6"]);
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["thank 6"]);
        let mut tx = db.begin().await.unwrap();
        OrderPaid { order_id: 1 }.send(&mut tx).await.unwrap_err();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        assert_eq!(SCENE.log.take(), ["apologize 1"]);

        // Robust: every receiver runs, and only a failed one is undone.
        let mut tx = db.begin().await.unwrap();
        let results = OrderPaid { order_id: 1 }.send_robust(&mut tx).await;
        let results: Vec<_> = results.iter().map(|(r, done)| (r.name().rsplit("::").next().unwrap(), done.is_ok())).collect();
        assert_eq!(results, [("ship", false), ("count", true)]);
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["count 1", "thank 1"]);
        let results = OrderPaid { order_id: 2 }.send_robust(&db).await;
        assert_eq!(results.iter().map(|(_, done)| done.is_ok()).collect::<Vec<_>>(), [true, false]);
        assert_eq!((SCENE.log.take(), count(&db, "shipments").await), (vec!["count 2".to_owned(), "thank 2".to_owned()], 3));
        without_signals(OrderPaid { order_id: 9 }.send(&db)).await.unwrap();
        assert_eq!(SCENE.log.take(), [""; 0]);

        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            let mut tx = pool.begin().await.unwrap();
            let error = OrderPaid { order_id: 5 }.send(&mut tx).await.unwrap_err();
            assert!(matches!(error, Error::CommitNotObservable { model: "OrderPaid", .. }), "{error:?}");
        }
        let closed = db.clone();
        closed.close().await;
        let results = OrderPaid { order_id: 5 }.send_robust(&closed).await;
        assert!(results.len() == 2 && results.iter().all(|(_, done)| done.is_err()));
    }
}

#[test]
fn the_registry_prints_as_table_graph_and_json() {
    use sqlx_signals::registry;
    let table = registry().receivers().to_string();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("signal") && lines[0].ends_with("about"), "{table}");
    assert_eq!(lines.len(), registry().receivers().len() + 1);
    let at = lines[0].find("receiver").unwrap();
    assert!(
        lines[1..]
            .iter()
            .all(|l| l[at..].starts_with("senders::") || l[at..].starts_with("library::")),
        "{table}"
    );

    let mermaid = registry().to_mermaid();
    assert!(mermaid.starts_with("flowchart LR\n"), "{mermaid}");
    assert!(mermaid.contains("-- \"OrderPaid<br>on commit\" --> r"), "{mermaid}");
    assert!(
        mermaid.contains("([\"every model\"])")
            && mermaid.contains("[\"senders::several::inside\"]"),
        "{mermaid}"
    );
    let dot = registry().to_dot();
    assert!(dot.starts_with("digraph receivers {") && dot.ends_with("}\n"), "{dot}");
    let arrows = dot.lines().filter(|l| l.contains(" -> ") && !l.contains("style=dashed"));
    assert_eq!(arrows.count(), registry().receivers().len());
    let json: serde_json::Value = serde_json::from_str(&registry().to_json()).unwrap();
    let all = json.as_array().unwrap();
    assert_eq!(all.len(), registry().receivers().len());
    let thank = all.iter().find(|r| r["receiver"] == "senders::own::thank").unwrap();
    assert_eq!(
        (&thank["signal"], &thank["phase"], &thank["enabled"]),
        (&"OrderPaid".into(), &"on commit".into(), &true.into())
    );
}
