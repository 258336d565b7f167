//! Receivers that run once per transaction: the net change of each row, after the commit and in durable deliveries.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod histories;

use std::sync::LazyLock;

use common::{Scene, count, table, until};
use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::{Column, Error, Phase, Previous, muted, testing, without_signals};

static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    visits: i64,
}

/// Its receivers do not ask for the row before the transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "pages")]
struct Page {
    id: Option<i64>,
    title: String,
}

/// Belongs to a user, and is deleted with it. It is not `Clone`.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = cascade)]
    user_id: i64,
    text: String,
}

/// A row whose in-transaction receiver saves it again.
#[derive(Debug, Clone, Model)]
#[model(table = "counters")]
struct Counter {
    id: Option<i64>,
    n: i64,
}

/// No receiver gets its other columns after a partial save.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "drafts")]
struct Draft {
    id: Option<i64>,
    title: String,
    note: String,
}

/// Has a column that can be NULL in the table.
#[derive(Debug, Clone, Model)]
#[model(table = "drafts")]
struct Essay {
    id: Option<i64>,
    title: String,
    note: String,
    pages: i64,
}

fn user(name: &str) -> User {
    User { id: None, name: name.into(), visits: 0 }
}

fn names<M: ?Sized>(fields: Option<&[Column<M>]>) -> Option<Vec<&'static str>> {
    Some(fields?.iter().map(|field| field.name()).collect())
}

fn net_save(saved: &PostSave<'_, User>, previous: &Previous<'_, User>) -> String {
    let before = previous.row().map(|row| (row.name.as_str(), row.visits));
    let changed: Vec<_> =
        [User::NAME, User::VISITS].into_iter().filter(|c| previous.changed(*c)).collect();
    let User { name, visits, .. } = saved.instance;
    let (changed, fields) = (names(Some(&changed)).unwrap(), names(saved.fields));
    format!("{name} {visits}, created {}, was {before:?}, {changed:?} of {fields:?}", saved.created)
}

#[receiver(post_save, sender = User, on_commit, once_per_transaction)]
fn saved(saved: PostSave<'_, User>, previous: Previous<'_, User>) {
    SCENE.log.push(net_save(&saved, &previous));
}

#[receiver(post_save, sender = User, updated, changed(visits), on_commit, once_per_transaction)]
fn visited(saved: PostSave<'_, User>) {
    SCENE.log.push(format!("{} was visited", saved.instance.name));
}

#[receiver(post_save, sender = User, created, on_commit(detached), once_per_transaction)]
async fn detached(saved: PostSave<'_, User>) {
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    SCENE.log.push(format!("detached {}", saved.instance.name));
}

#[receiver(post_delete, sender = User, on_commit, once_per_transaction)]
fn deleted(deleted: PostDelete<'_, User>, previous: Previous<'_, User>) {
    let before = previous.row().map(|row| (row.name.as_str(), row.visits));
    SCENE.log.push(format!("deleted {}, was {before:?}", deleted.instance.name));
}

/// Runs for every save.
#[receiver(post_save, sender = User, on_commit)]
fn each(saved: PostSave<'_, User>) {
    SCENE.log.push(format!("each {}", saved.instance.name));
}

#[receiver(post_save, sender = User, durable(queue = "net", at_least_once), once_per_transaction)]
fn stored(saved: PostSave<'_, User>, previous: Previous<'_, User>) {
    SCENE.log.push(format!("durable: {}", net_save(&saved, &previous)));
}

#[receiver(post_delete, sender = User, durable(at_least_once), once_per_transaction)]
fn stored_delete(deleted: PostDelete<'_, User>) {
    SCENE.log.push(format!("durable: deleted {}", deleted.instance.name));
}

#[receiver(post_save, sender = Page, on_commit, once_per_transaction)]
fn page_saved(saved: PostSave<'_, Page>) {
    SCENE.log.push(format!("page {} {}", saved.instance.title, saved.created));
}

#[receiver(post_save, sender = Note, durable(ordering_key = user_id, at_least_once), once_per_transaction)]
fn note_stored(saved: PostSave<'_, Note>) {
    SCENE.log.push(format!("note {}", saved.instance.text));
}

/// Its delivery is of the same event.
#[receiver(post_save, sender = Note, created, durable(at_least_once), once_per_transaction)]
fn note_checked(_: PostSave<'_, Note>) {}

#[receiver(post_save, sender = Draft, durable(at_least_once, payload = key, coalesce = pk), once_per_transaction)]
fn draft_stored(saved: PostSave<'_, Draft>) {
    SCENE.log.push(format!("draft {}", saved.instance.title));
}

#[receiver(post_delete, sender = Draft, on_commit, once_per_transaction)]
fn draft_deleted(_: PostDelete<'_, Draft>) {}

#[receiver(post_save, sender = Essay, on_commit, once_per_transaction)]
fn essay_saved(saved: PostSave<'_, Essay>) {
    SCENE.log.push(format!("essay {} {}", saved.instance.title, saved.instance.note));
}

/// Of every model.
#[receiver(post_delete, on_commit, once_per_transaction)]
fn any_deleted(deleted: PostDelete<'_, dyn AnyModel>) {
    SCENE.log.push(format!("deleted from {}", deleted.instance.table()));
}

#[receiver(post_save, sender = Counter)]
async fn increment(saved: PostSave<'_, Counter>, conn: &mut Conn<'_>) -> Result<()> {
    let mut next = saved.instance.clone();
    next.n += 1;
    if next.n < 3 { next.save(conn).await.map(drop) } else { Ok(()) }
}

#[receiver(post_save, sender = Counter, on_commit, once_per_transaction)]
fn counted(saved: PostSave<'_, Counter>) {
    SCENE.log.push(format!("counted {} {}", saved.instance.n, saved.created));
}

/// Cannot come after a receiver that runs for the net change.
#[receiver(post_save, sender = Counter, on_commit, after = counted)]
fn too_early(_: PostSave<'_, Counter>) {}

async fn setup(db: &Db) {
    table(db, "users", "name TEXT NOT NULL, visits BIGINT NOT NULL").await;
    table(db, "pages", "title TEXT NOT NULL").await;
    table(db, "notes", "user_id BIGINT NOT NULL REFERENCES users, text TEXT NOT NULL").await;
    table(db, "counters", "n BIGINT NOT NULL").await;
    table(db, "drafts", "title TEXT NOT NULL, note TEXT NOT NULL, pages BIGINT").await;
    db.deliveries().setup().await.unwrap();
}

/// What the `once_per_transaction` receivers that run after the commit have logged since the last call. The detached one is muted.
fn net() -> Vec<String> {
    SCENE.log.take().into_iter().filter(|line| !line.starts_with("each ")).collect()
}

/// What the durable receivers log.
async fn delivered(db: &Db) -> Vec<String> {
    SCENE.log.take();
    testing::deliver(db).await.unwrap();
    SCENE.log.take()
}

#[test]
fn reports_show_that_a_receiver_runs_once_per_transaction() {
    let receiver = registry().get::<saved>();
    assert_eq!(receiver.phase(), Phase::OnCommit);
    assert!(
        receiver.is_once_per_transaction() && !registry().get::<each>().is_once_per_transaction()
    );
    assert!(receiver.to_string().contains("on commit, once per transaction"), "{receiver}");
    let table = registry().receivers().to_string();
    assert!(table.contains("on commit, detached, once per transaction"), "{table}");
    let lock = registry().to_lock();
    let line =
        "once::stored (durable, net, 20 × 1s..1h, once per transaction) payload(id, name, visits)";
    assert!(lock.contains(line), "{lock}");
    assert!(lock.contains("20 × 1s..1h, by user_id, once per transaction)"), "{lock}");
    assert!(registry().to_json().contains("\"once_per_transaction\":true"));
}

on_every_database! {
    async fn a_row_that_is_saved_often_is_notified_once_with_its_last_values(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let (mut ann, mut bob) = (user("ann"), user("bob"));
        muted::<detached, _>(db.transaction(async |tx| {
            ann.save(&mut *tx).await?;
            bob.save(&mut *tx).await?;
            for visits in 1..4 {
                ann.visits = visits;
                ann.save(&mut *tx).await?;
            }
            Ok(())
        }))
        .await
        .unwrap();
        let expected = [
            "ann 3, created true, was None, [\"name\", \"visits\"] of None",
            "bob 0, created true, was None, [\"name\", \"visits\"] of None",
        ];
        let each = ["each ann", "each bob", "each ann", "each ann", "each ann"];
        // The other receivers run first, in the order of the saves.
        assert_eq!(SCENE.log.take(), [&each[..], &expected].concat());
        assert_eq!(delivered(&db).await, expected.map(|line| format!("durable: {line}")));

        // A column that is changed and changed back has not changed.
        muted::<detached, _>(db.transaction(async |tx| {
            ann.visits = 4;
            ann.save(&mut *tx).await?;
            ann.name = "anna".into();
            ann.save_fields(&mut *tx, &[User::NAME]).await?;
            ann.visits = 3;
            ann.save_fields(&mut *tx, &[User::VISITS]).await
        }))
        .await
        .unwrap();
        let expected = "anna 3, created false, was Some((\"ann\", 3)), [\"name\"] of None";
        assert_eq!(net(), [expected]);
        assert_eq!(delivered(&db).await, [format!("durable: {expected}")]);
    }

    async fn partial_saves_name_all_their_columns(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut ann = user("ann");
        without_signals(ann.save(&db)).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        ann.visits = 1;
        ann.save_fields(&mut tx, &[User::NAME]).await.unwrap();
        ann.save_fields(&mut tx, &[User::VISITS, User::NAME]).await.unwrap();
        tx.commit().await.unwrap();
        let expected =
            "ann 1, created false, was Some((\"ann\", 0)), [\"visits\"] of Some([\"name\", \"visits\"])";
        assert_eq!(net(), [expected, "ann was visited"]);
        assert_eq!(delivered(&db).await, [format!("durable: {expected}")]);
    }

    async fn a_partial_save_of_another_instance_keeps_what_was_saved_before(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let (mut ann, mut bob) = (user("ann"), user("bob"));
        without_signals(async { User::insert_many(&db, std::slice::from_mut(&mut ann)).await }).await.unwrap();
        without_signals(bob.save(&db)).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let mut others = [ann.clone(), bob.clone()];
        ann.name = "anna".into();
        ann.save_fields(&mut tx, &[User::NAME]).await.unwrap();
        bob.name = "bobby".into();
        bob.save(&mut tx).await.unwrap();
        for other in &mut others {
            other.visits = 1;
        }
        let mut savepoint = tx.begin().await.unwrap();
        for other in &mut others {
            other.save_fields(&mut savepoint, &[User::VISITS]).await.unwrap();
        }
        savepoint.commit().await.unwrap();
        tx.commit().await.unwrap();
        let of = |name: &str, was: &str, fields: &str| {
            format!(r#"{name} 1, created false, was Some(("{was}", 0)), ["name", "visits"] of {fields}"#)
        };
        let expected = [of("anna", "ann", r#"Some(["name", "visits"])"#), of("bobby", "bob", "None")];
        assert_eq!(net(), [&*expected[0], "anna was visited", &expected[1], "bobby was visited"]);
        assert_eq!(delivered(&db).await, expected.map(|line| format!("durable: {line}")));
        assert_eq!((&*others[0].name, &*others[1].name), ("ann", "bob"), "the instances are unchanged");
    }

    async fn a_partial_save_sends_the_instance_if_the_row_cannot_be_decoded(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut essay = Essay { id: None, title: "old".into(), note: String::new(), pages: 1 };
        without_signals(essay.save(&db)).await.unwrap();
        let mut other = essay.clone();
        let mut tx = db.begin().await.unwrap();
        essay.title = "new".into();
        essay.save_fields(&mut tx, &[Essay::TITLE]).await.unwrap();
        tx.execute("UPDATE drafts SET pages = NULL").await.unwrap();
        other.note = "short".into();
        other.save_fields(&mut tx, &[Essay::NOTE]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(net(), ["essay old short"]);
    }

    async fn a_created_row_that_is_deleted_is_not_notified(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut tx = db.begin().await.unwrap();
        let mut ann = user("ann");
        ann.save(&mut tx).await.unwrap();
        ann.visits = 1;
        ann.save(&mut tx).await.unwrap();
        ann.delete(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(net(), [""; 0]);
        assert_eq!(count(&db, "signals_delivery").await, 0);
    }

    async fn a_row_that_is_saved_and_deleted_is_notified_of_its_delete_only(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut ann = user("ann");
        without_signals(ann.save(&db)).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        ann.name = "anna".into();
        ann.save(&mut tx).await.unwrap();
        ann.delete(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(net(), ["deleted anna, was Some((\"ann\", 0))", "deleted from users"]);
        assert_eq!(delivered(&db).await, ["durable: deleted anna"]);
    }

    async fn a_row_that_is_deleted_and_inserted_again_is_an_updated_row(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut ann = user("ann");
        without_signals(ann.save(&db)).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let id = ann.id;
        ann.delete(&mut tx).await.unwrap();
        ann.id = id;
        ann.visits = 7;
        ann.insert(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let expected = "ann 7, created false, was Some((\"ann\", 0)), [\"visits\"] of None";
        assert_eq!(net(), [expected, "ann was visited"]);
        assert_eq!(delivered(&db).await, [format!("durable: {expected}")]);
    }

    async fn a_rolled_back_savepoint_does_not_count_and_a_released_one_does(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let (mut ann, mut bob, mut cid) = (user("ann"), user("bob"), user("cid"));
        without_signals(async { User::insert_many(&db, std::slice::from_mut(&mut ann)).await }).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let mut outer = tx.begin().await.unwrap();
        muted::<detached, _>(bob.save(&mut outer)).await.unwrap();
        ann.visits = 1;
        ann.save(&mut outer).await.unwrap();
        let mut inner = outer.begin().await.unwrap();
        ann.clone().delete(&mut inner).await.unwrap();
        bob.name = "undone".into();
        bob.save(&mut inner).await.unwrap();
        muted::<detached, _>(cid.save(&mut inner)).await.unwrap();
        inner.rollback().await.unwrap();
        let mut inner = outer.begin().await.unwrap();
        ann.visits = 2;
        ann.save(&mut inner).await.unwrap();
        inner.commit().await.unwrap();
        outer.commit().await.unwrap();
        assert_eq!(net(), [""; 0]);
        tx.commit().await.unwrap();
        let expected = [
            "bob 0, created true, was None, [\"name\", \"visits\"] of None",
            "ann 2, created false, was Some((\"ann\", 0)), [\"visits\"] of None",
        ];
        assert_eq!(net(), [expected[0], expected[1], "ann was visited"]);
        assert_eq!(delivered(&db).await, expected.map(|line| format!("durable: {line}")));

        let mut tx = db.begin().await.unwrap();
        ann.save(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        let mut tx = db.begin().await.unwrap();
        ann.save(&mut tx).await.unwrap();
        drop(tx);
        assert_eq!(count(&db, "signals_delivery").await, 0);
        assert_eq!(net(), [""; 0]);
    }

    async fn one_write_is_a_transaction(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        // Without a transaction of the library.
        let mut page = Page { id: None, title: "home".into() };
        page.save(&db).await.unwrap();
        page.title = "start".into();
        page.save(&db).await.unwrap();
        page.delete(&db).await.unwrap();
        assert_eq!(net(), ["page home true", "page start false", "deleted from pages"]);
        let mut pages: Vec<_> = ["a", "b", "c"].map(|title| Page { id: None, title: title.into() }).into();
        Page::insert_many(&db, &mut pages).await.unwrap();
        assert_eq!(net(), ["page a true", "page b true", "page c true"]);
        // In a transaction of the library, in which a receiver saves the row again.
        Counter { id: None, n: 0 }.save(&db).await.unwrap();
        assert_eq!(net(), ["counted 2 true"]);
    }

    async fn bulk_writes_and_writes_by_condition_count_for_each_row(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut users: Vec<_> = ["a", "b", "c", "d"].map(user).into();
        without_signals(User::insert_many(&db, &mut users)).await.unwrap();
        db.transaction(async |tx| {
            User::query("WHERE name <= $1").bind("c").set(User::VISITS, 1_i64).update(&mut *tx).await?;
            users.iter_mut().for_each(|user| user.visits = 2);
            User::update_many(&mut *tx, &mut users).await?;
            User::query("WHERE name = $1").bind("b").delete(&mut *tx).await?;
            User::delete_many(&mut *tx, &mut users[2..3]).await
        })
        .await
        .unwrap();
        let line = |name| format!("{name} 2, created false, was Some((\"{name}\", 0)), [\"visits\"] of None");
        let expected = [
            line("a"), "a was visited".to_owned(),
            "deleted b, was Some((\"b\", 0))".to_owned(), "deleted from users".to_owned(),
            "deleted c, was Some((\"c\", 0))".to_owned(), "deleted from users".to_owned(),
            line("d"), "d was visited".to_owned(),
        ];
        assert_eq!(net(), expected);
        let mut deliveries = delivered(&db).await;
        deliveries.sort();
        let expected = [line("a"), line("d"), "deleted b".to_owned(), "deleted c".to_owned()];
        assert_eq!(deliveries, expected.map(|line| format!("durable: {line}")));
    }

    async fn rows_that_are_deleted_by_a_cascade_count(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut ann = user("ann");
        without_signals(ann.save(&db)).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let user_id = ann.id.unwrap();
        let mut kept = Note { id: None, user_id, text: "kept".into() };
        kept.save(&mut tx).await.unwrap();
        let mut deleted = Note { id: None, user_id, text: "deleted".into() };
        deleted.save(&mut tx).await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        deleted.delete(&mut savepoint).await.unwrap();
        savepoint.commit().await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(net(), [""; 0]);
        let events = "SELECT count(DISTINCT event), count(*) FROM signals_delivery";
        assert_eq!(db.query(events).fetch_one::<(i64, i64)>().await.unwrap(), (1, 2));
        assert_eq!(delivered(&db).await, ["note kept"]);

        let mut tx = db.begin().await.unwrap();
        kept.text = "changed".into();
        kept.save(&mut tx).await.unwrap();
        ann.delete(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(net(), ["deleted from notes", "deleted ann, was Some((\"ann\", 0))", "deleted from users"]);
        assert_eq!(delivered(&db).await, ["durable: deleted ann"]);
    }

    async fn a_muted_write_does_not_count(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut ann = user("ann");
        let mut tx = db.begin().await.unwrap();
        without_signals(ann.save(&mut tx)).await.unwrap();
        ann.visits = 1;
        ann.save(&mut tx).await.unwrap();
        ann.visits = 2;
        muted::<saved, _>(ann.save(&mut tx)).await.unwrap();
        tx.commit().await.unwrap();
        let line = |visits| format!("ann {visits}, created false, was Some((\"ann\", 0)), [\"visits\"] of None");
        assert_eq!(net(), [line(1), "ann was visited".to_owned()]);
        assert_eq!(delivered(&db).await, [format!("durable: {}", line(2))]);
    }

    async fn a_detached_receiver_runs_once_on_a_task_of_its_own(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut tx = db.begin().await.unwrap();
        let mut ann = user("ann");
        ann.save(&mut tx).await.unwrap();
        ann.name = "anna".into();
        ann.save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert!(!SCENE.log.entries().contains(&"detached anna".to_owned()));
        until(|| SCENE.log.entries().contains(&"detached anna".to_owned())).await;
        assert_eq!(SCENE.log.take().iter().filter(|line| line.starts_with("detached")).count(), 1);
    }

    async fn a_plain_sqlx_transaction_is_refused_and_an_adopted_one_is_not(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        async fn refused(saving: impl Future<Output = Result<()>>) {
            let error = saving.await.unwrap_err();
            assert!(matches!(error, Error::CommitNotObservable { .. }), "{error}");
            assert!(error.to_string().contains("without `once_per_transaction`"), "{error}");
        }
        let mut note = Note { id: None, user_id: 1, text: "a".into() };
        // The pools of the two databases have different types.
        macro_rules! save_through {
            ($pool:expr) => {
                let mut tx = $pool.begin().await.unwrap();
                refused(async { user("ann").save(&mut tx).await.map(drop) }).await;
                refused(async { note.save(&mut tx).await.map(drop) }).await;
                tx.rollback().await.unwrap();
                let mut tx = Transaction::from($pool.begin().await.unwrap());
                muted::<detached, _>(user("ann").save(&mut tx)).await.unwrap();
                tx.commit().await.unwrap();
            };
        }
        if let Some(pool) = db.sqlite() {
            save_through!(pool);
        }
        if let Some(pool) = db.postgres() {
            save_through!(pool);
        }
        assert_eq!(net().len(), 1);
        assert_eq!(count(&db, "signals_delivery").await, 1);
    }

    async fn a_test_transaction_notifies_of_the_net_change(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let done = testing::transaction(&db, async |tx| {
            let mut ann = user("ann");
            ann.save(&mut *tx).await?;
            ann.visits = 1;
            ann.save(&mut *tx).await?;
            // For the deliveries, this is the end of the transaction.
            testing::deliver(&mut *tx).await?.assert_ran::<stored>(1);
            ann.delete(&mut *tx).await?;
            user("bob").save(&mut *tx).await
        })
        .await
        .unwrap();
        done.assert_ran::<saved>(1);
        done.assert_ran::<deleted>(0);
        done.assert_stored::<stored>(2);
        assert_eq!(count(&db, "signals_delivery").await, 0);
    }

    async fn a_receiver_that_cannot_follow_the_net_change_is_a_finding(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let error = db.check().await.unwrap_err().to_string();
        assert!(error.contains("too_early") && error.contains("which runs once, for the net change"), "{error}");
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_partial_save_reads_the_row_only_for_receivers_that_get_its_other_columns() {
    let _turn = SCENE.begin().await;
    let test = common::TestDb::postgres("once_statements").await;
    setup(&test.db).await;
    let proxy = common::proxy::Proxy::start(&test.url).await;
    let db = proxy.db(&test.url).await;
    let mut ann = user("ann");
    let mut draft = Draft { id: None, title: "a".into(), note: String::new() };
    without_signals(async {
        ann.save(&db).await?;
        draft.save(&db).await
    })
    .await
    .unwrap();
    let mut tx = db.begin().await.unwrap();
    ann.save_fields(&mut tx, &[User::NAME]).await.unwrap();
    draft.save_fields(&mut tx, &[Draft::TITLE]).await.unwrap();
    proxy.take();
    ann.save_fields(&mut tx, &[User::VISITS]).await.unwrap();
    draft.save_fields(&mut tx, &[Draft::NOTE]).await.unwrap();
    let statements = proxy.take().statements;
    let of = |table| statements.iter().filter(|sql| sql.contains(table)).count();
    tx.commit().await.unwrap();
    assert_eq!((of("\"users\""), of("\"drafts\"")), (2, 1), "{statements:?}");
    assert!(delivered(&test.db).await.contains(&"draft a".to_owned()));
    test.passed().await;
}
