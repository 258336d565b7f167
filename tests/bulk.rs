//! Writes of many rows: few statements, every signal.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, count, execute, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, sqlx};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "items")]
struct Item {
    id: Option<i64>,
    name: Option<String>,
    n: i64,
}

fn item(n: i64) -> Item {
    Item { id: None, name: (n % 3 != 0).then(|| format!("item '{n}'")), n }
}

/// Like `Item`, with receivers.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "items")]
struct Heard {
    id: Option<i64>,
    name: Option<String>,
    n: i64,
}

fn heard(n: i64) -> Heard {
    Heard { id: None, name: None, n }
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    item_id: i64,
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(pre_save, sender = Heard)]
fn before(save: PreSave<'_, Heard>) -> Result<(), &'static str> {
    let Heard { name, n, .. } = save.instance;
    if name.as_deref() == Some("vetoed") {
        return Err("vetoed");
    }
    *name = Some(format!("set {n}"));
    SCENE.log.push(format!("pre {n}"));
    Ok(())
}

#[receiver(post_save, sender = Heard)]
async fn after(
    saved: PostSave<'_, Heard>,
    previous: Previous<'_, Heard>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    let Heard { n, .. } = saved.instance;
    assert_eq!(&Heard::get(&mut *conn, saved.pk()).await?, saved.instance, "it is stored already");
    let was = previous.row().map(|row| row.n);
    SCENE.log.push(format!("post {n} {} {was:?}", saved.created));
    if *n == 13 {
        return Err(Error::other("not thirteen"));
    }
    Note { id: None, item_id: saved.pk() }.save(conn).await?;
    Ok(())
}

#[receiver(post_save_batch, sender = Heard)]
async fn batch(saved: PostSaveBatch<'_, Heard>, conn: &mut Conn<'_>) -> Result<()> {
    let all: Vec<_> = saved.instances.iter().map(|row| row.n.to_string()).collect();
    SCENE.log.push(format!("batch {} {}", saved.created, all.join(" ")));
    conn.query("SELECT 1").fetch_one::<(i32,)>().await?;
    Ok(())
}

#[receiver(post_save, sender = Heard, on_commit)]
async fn committed(saved: PostSave<'_, Heard>, db: Db) {
    assert!(Heard::find(&db, saved.pk()).await.unwrap().is_some());
    SCENE.log.push(format!("commit {}", saved.instance.n));
}

#[receiver(post_save_batch, sender = Heard, on_commit)]
async fn committed_batch(saved: PostSaveBatch<'_, Heard>) {
    SCENE.log.push(format!("commit batch {}", saved.instances.len()));
}

#[receiver(post_save, sender = Heard, on_rollback)]
async fn undone(saved: PostSave<'_, Heard>) {
    SCENE.log.push(format!("rollback {}", saved.instance.n));
}

#[receiver(pre_delete, sender = Heard)]
fn before_delete(delete: PreDelete<'_, Heard>) -> Result<(), &'static str> {
    SCENE.log.push(format!("pre_delete {}", delete.instance.n));
    if delete.instance.n == 99 { Err("kept") } else { Ok(()) }
}

#[receiver(post_delete, sender = Heard)]
fn after_delete(deleted: PostDelete<'_, Heard>) {
    SCENE.log.push(format!("post_delete {}", deleted.pk()));
}

#[receiver(post_delete_batch, sender = Heard)]
fn batch_delete(deleted: PostDeleteBatch<'_, Heard>) {
    let all: Vec<_> = deleted.instances.iter().map(|row| row.n.to_string()).collect();
    SCENE.log.push(format!("batch_delete {}", all.join(" ")));
}

#[receiver(post_delete, sender = Heard, on_commit)]
async fn committed_delete(deleted: PostDelete<'_, Heard>) {
    SCENE.log.push(format!("commit delete {}", deleted.instance.n));
}

async fn items(db: &Db) {
    table(db, "items", "name TEXT CHECK (name <> 'refused'), n BIGINT NOT NULL UNIQUE").await;
    table(db, "notes", "item_id BIGINT NOT NULL REFERENCES items ON DELETE CASCADE").await;
}

async fn execute_in(tx: &mut Transaction<'_>, sql: &str) {
    tx.execute(sqlx::AssertSqlSafe(sql.to_owned())).await.unwrap();
}

async fn stored(db: &Db) -> Vec<Item> {
    Item::query("ORDER BY id").fetch_all(db).await.unwrap()
}

/// Asserts that an error names this row and its key.
#[track_caller]
fn assert_row(error: &Error, verb: &str, row: usize, key: &str) {
    let Error::Row { verb: v, model, row: r, key: k, .. } = error else { panic!("{error:?}") };
    assert_eq!((*v, *model, *r, &**k), (verb, "Item", row, key), "{error:?}");
    let key = if key == "`None`" { "without a key" } else { key };
    let says = format!("could not {verb} row {row}, `Item` {key}: ");
    assert!(error.to_string().starts_with(&says), "{error}");
}

on_every_database! {
    async fn ten_thousand_rows(db: Db) {
        items(&db).await;
        let mut many: Vec<_> = (0..10_000).map(item).collect();
        assert_eq!(Item::insert_many(&db, &mut many).await.unwrap(), 10_000);
        assert!(many.is_sorted_by_key(|item| item.id), "in the order of the slice");
        assert_eq!(stored(&db).await, many, "each key is its row's");

        many.iter_mut().for_each(|item| item.n += 100_000);
        many.reverse();
        assert_eq!(Item::update_many(&db, &mut many).await.unwrap(), 10_000);
        many.reverse();
        assert_eq!(stored(&db).await, many);

        assert_eq!(Item::delete_many(&db, &mut many[..9_000]).await.unwrap(), 9_000);
        assert!(many[..9_000].iter().all(|item| item.id.is_none()));
        assert_eq!(stored(&db).await, many[9_000..]);
        assert_eq!(Item::insert_many(&db, &mut []).await.unwrap(), 0);
        assert_eq!(Item::update_many(&db, &mut []).await.unwrap(), 0);
        assert_eq!(Item::delete_many(&db, &mut many[..9_000]).await.unwrap(), 0, "who has no key is not there");
    }

    async fn rows_with_and_without_a_key(db: Db) {
        items(&db).await;
        // The first key that the database would assign is also the key of a later row.
        let mut many: Vec<_> = (0..10_000).map(item).collect();
        for item in many.iter_mut().filter(|item| item.n % 7 == 3) {
            item.id = Some(1_000_000 + item.n);
        }
        let own: Vec<_> = many.iter().map(|item| item.id).collect();
        Item::insert_many(&db, &mut many).await.unwrap();
        for (item, own) in many.iter().zip(own) {
            assert!(item.id.is_some() && (own.is_none() || item.id == own));
        }
        let mut by_key = many.clone();
        by_key.sort_by_key(|item| item.id);
        assert_eq!(stored(&db).await, by_key);
        let without: Vec<_> = many.iter().filter(|item| item.n % 7 != 3).collect();
        assert!(without.is_sorted_by_key(|item| item.id), "in the order of the slice");

        let mut mixed = [item(-1), Item { id: Some(2_000_000), ..item(-2) }, item(-3), item(-2)];
        let error = Item::insert_many(&db, &mut mixed).await.unwrap_err();
        assert_row(&error, "insert", 3, "`None`");
        assert_eq!(mixed[0].id, None);
    }

    async fn every_type(db: Db) {
        #[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
        #[sqlx(type_name = "mood", rename_all = "lowercase")]
        enum Mood { Happy, Sad }

        #[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
        #[repr(i32)]
        enum Plan { Free = 1, Paid = 2 }

        #[derive(Debug, Clone, PartialEq, sqlx::Type)]
        #[sqlx(transparent)]
        struct Name(String);

        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "things")]
        struct Thing {
            id: Option<i64>,
            mood: Mood,
            before: Option<Mood>,
            plan: Plan,
            name: Name,
            nick: Option<Name>,
            score: f64,
            rate: Option<f32>,
            small: Option<i16>,
            bytes: Vec<u8>,
            picture: Option<Vec<u8>>,
            active: bool,
            maybe: Option<bool>,
        }
        let [mood, score, rate, bytes] = match db.kind() {
            DatabaseKind::Sqlite => ["TEXT", "REAL", "REAL", "BLOB"],
            DatabaseKind::Postgres => {
                execute(&db, "CREATE TYPE mood AS ENUM ('happy', 'sad')").await;
                ["mood", "DOUBLE PRECISION", "REAL", "BYTEA"]
            }
        };
        table(
            &db,
            "things",
            &format!(
                "mood {mood} NOT NULL, before {mood}, plan INTEGER NOT NULL, name VARCHAR(20) NOT NULL, nick TEXT, score {score} \
                 NOT NULL, rate {rate}, small SMALLINT, bytes {bytes} NOT NULL, picture {bytes}, active BOOLEAN NOT NULL, maybe \
                 BOOLEAN"
            ),
        )
        .await;
        // The first row has no values that determine a type.
        let thing = |n: usize| Thing {
            id: None,
            mood: if n.is_multiple_of(2) { Mood::Happy } else { Mood::Sad },
            before: (n % 3 == 1).then_some(Mood::Sad),
            plan: if n.is_multiple_of(2) { Plan::Free } else { Plan::Paid },
            name: Name(format!("'{n}\"")),
            nick: (n % 4 == 1).then(|| Name(String::new())),
            score: [0.1 + 0.2, -0.0, f64::MAX, f64::INFINITY, 1e-300][n % 5],
            rate: (n % 2 == 1).then_some(0.1),
            small: (n % 2 == 1).then_some(-7),
            bytes: vec![0, 255, n as u8],
            picture: (n % 2 == 1).then(Vec::new),
            active: n.is_multiple_of(2),
            maybe: (n % 3 == 2).then_some(true),
        };
        let mut many: Vec<_> = (0..300).map(thing).collect();
        Thing::insert_many(&db, &mut many).await.unwrap();
        let stored = || async { Thing::query("ORDER BY id").fetch_all(&db).await.unwrap() };
        assert_eq!(stored().await, many);
        for (n, row) in many.iter_mut().enumerate() {
            *row = Thing { id: row.id, ..thing(n + 1) };
        }
        Thing::update_many(&db, &mut many).await.unwrap();
        assert_eq!(stored().await, many);
        assert_eq!(Thing::delete_many(&db, &mut many).await.unwrap(), 300);
    }

    async fn rows_with_no_column_but_the_key(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Ticket { id: Option<i64> }
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Like { #[model(primary_key)] user_id: i64, #[model(primary_key)] post_id: i64 }
        let id = if db.kind() == DatabaseKind::Sqlite { "INTEGER" } else { "BIGSERIAL" };
        execute(&db, &format!("CREATE TABLE ticket (id {id} PRIMARY KEY)")).await;
        execute(&db, r#"CREATE TABLE "like" (user_id BIGINT, post_id BIGINT, PRIMARY KEY (user_id, post_id))"#).await;
        let mut tickets = vec![Ticket { id: None }; 3];
        Ticket::insert_many(&db, &mut tickets).await.unwrap();
        assert_eq!(Ticket::query("ORDER BY id").fetch_all(&db).await.unwrap(), tickets);
        Ticket::update_many(&db, &mut tickets).await.unwrap();
        let mut likes = [Like { user_id: 1, post_id: 1 }, Like { user_id: 1, post_id: 2 }];
        Like::insert_many(&db, &mut likes).await.unwrap();
        Like::update_many(&db, &mut likes).await.unwrap();
        assert_eq!(Like::delete_many(&db, &mut likes).await.unwrap(), 2);
        // One statement for each row, and still all or none.
        let mut taken = [Ticket { id: None }, Ticket { id: None }, tickets[0].clone()];
        Ticket::insert_many(&db, &mut taken).await.unwrap_err();
        assert_eq!((taken[0].id, count(&db, "ticket").await), (None, 3));
    }

    async fn a_refused_row_is_named_and_nothing_is_stored(db: Db) {
        items(&db).await;
        let mut first = item(1);
        first.save(&db).await.unwrap();
        // In the middle of a statement, in the middle of a later one, in one row, and with a key.
        for (rows, bad) in [(10, 4), (10_000, 9_000), (10_000, 5_000), (1, 0)] {
            let mut many: Vec<_> = (10..10 + rows).map(item).collect();
            many[bad].n = 1;
            many[bad].id = (bad == 5_000).then_some(77_777);
            let before = many.clone();
            let error = Item::insert_many(&db, &mut many).await.unwrap_err();
            assert_row(&error, "insert", bad, if bad == 5_000 { "77777" } else { "`None`" });
            assert!(error.is_unique_violation(), "{error:?}");
            assert_eq!((&many, stored(&db).await), (&before, vec![first.clone()]));

            many[bad].n = 2;
            many[bad].name = Some("refused".to_owned());
            let error = Item::insert_many(&db, &mut many).await.unwrap_err();
            assert_row(&error, "insert", bad, if bad == 5_000 { "77777" } else { "`None`" });
            assert!(error.is_check_violation(), "{error:?}");
            assert_eq!(stored(&db).await, [first.clone()]);
        }
        let mut many: Vec<_> = (10..10_010).map(item).collect();
        Item::insert_many(&db, &mut many).await.unwrap();
        let all = stored(&db).await;
        let mut changed = many.clone();
        changed.iter_mut().for_each(|item| item.n += 100_000);
        changed[6_000].n = 1;
        let before = changed.clone();
        let error = Item::update_many(&db, &mut changed).await.unwrap_err();
        assert_row(&error, "update", 6_000, &changed[6_000].id.unwrap().to_string());
        assert!(error.is_unique_violation());
        assert_eq!((changed, stored(&db).await), (before, all.clone()));

        execute(&db, "CREATE TABLE kept (item_id BIGINT NOT NULL REFERENCES items)").await;
        execute(&db, &format!("INSERT INTO kept VALUES ({})", many[7].id.unwrap())).await;
        let error = Item::delete_many(&db, &mut many).await.unwrap_err();
        assert_row(&error, "delete", 7, &many[7].id.unwrap().to_string());
        assert!(error.is_foreign_key_violation());
        assert_eq!(stored(&db).await, all);
    }

    async fn a_refused_row_in_a_transaction_of_the_caller(db: Db) {
        items(&db).await;
        for used in [false, true] {
            let mut tx = db.begin().await.unwrap();
            let mut first = item(1);
            if used {
                first.save(&mut tx).await.unwrap();
            }
            let mut savepoint = tx.begin().await.unwrap();
            let mut many = [item(2), item(3), item(3)];
            for _ in 0..2 {
                let error = Item::insert_many(&mut savepoint, &mut many).await.unwrap_err();
                assert_row(&error, "insert", 2, "`None`");
                assert!(error.is_unique_violation() && many[0].id.is_none());
                savepoint.rollback().await.unwrap();
                savepoint = tx.begin().await.unwrap();
            }
            Item::insert_many(&mut savepoint, &mut many[..2]).await.unwrap();
            savepoint.commit().await.unwrap();
            let found = Item::query("ORDER BY n").count(&mut tx).await.unwrap();
            assert_eq!(found, if used { 3 } else { 2 }, "the savepoint contains the damage");

            // Without a savepoint, the transaction has failed.
            let error = Item::insert_many(&mut tx, &mut [item(4), item(5), item(4)]).await.unwrap_err();
            assert_row(&error, "insert", 2, "`None`");
            assert!(tx.commit().await.unwrap_err().is_rolled_back());
            assert_eq!(count(&db, "items").await, 0);
        }
        // In the very first statement.
        let mut tx = db.begin().await.unwrap();
        let error = Item::insert_many(&mut tx, &mut [item(4), item(4)]).await.unwrap_err();
        assert_row(&error, "insert", 1, "`None`");
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        assert_eq!(count(&db, "items").await, 0);
    }

    async fn a_refused_row_of_a_later_statement_in_a_transaction(db: Db) {
        items(&db).await;
        // It conflicts with a row of the same statement, of an earlier statement, or of the transaction.
        for other in [7_770, 3, 10_000] {
            let mut tx = db.begin().await.unwrap();
            let mut first = item(10_000);
            first.save(&mut tx).await.unwrap();
            let mut many: Vec<_> = (0..10_000).map(item).collect();
            many[7_777].n = other;
            let before = many.clone();
            let mut savepoint = tx.begin().await.unwrap();
            item(10_001).save(&mut savepoint).await.unwrap();
            let error = Item::insert_many(&mut savepoint, &mut many).await.unwrap_err();
            assert_row(&error, "insert", 7_777, "`None`");
            assert!(error.is_unique_violation() && many == before, "{error:?}");
            savepoint.rollback().await.unwrap();
            assert_eq!(Item::all(&mut tx).await.unwrap(), [first], "the savepoint contains the damage");

            many[7_777].n = 7_777;
            Item::insert_many(&mut tx, &mut many).await.unwrap();
            many.iter_mut().for_each(|item| item.n += 100_000);
            many[7_777].n = if other == 10_000 { other } else { other + 100_000 };
            let (before, key) = (many.clone(), many[7_777].id.unwrap());
            let mut savepoint = tx.begin().await.unwrap();
            Note { id: None, item_id: key }.save(&mut savepoint).await.unwrap();
            let error = Item::update_many(&mut savepoint, &mut many).await.unwrap_err();
            assert_row(&error, "update", 7_777, &key.to_string());
            assert!(error.is_unique_violation() && many == before, "{error:?}");
            savepoint.rollback().await.unwrap();
            let kept = Item::query("WHERE n <= 10000").count(&mut tx).await.unwrap();
            assert_eq!(kept, 10_001, "the savepoint contains the damage");

            execute_in(&mut tx, "CREATE TABLE kept (item_id BIGINT NOT NULL REFERENCES items)").await;
            execute_in(&mut tx, &format!("INSERT INTO kept VALUES ({key})")).await;
            let mut savepoint = tx.begin().await.unwrap();
            item(10_001).save(&mut savepoint).await.unwrap();
            let error = Item::delete_many(&mut savepoint, &mut many).await.unwrap_err();
            assert_row(&error, "delete", 7_777, &key.to_string());
            assert!(error.is_foreign_key_violation() && many == before, "{error:?}");
            savepoint.rollback().await.unwrap();
            assert_eq!(Item::query("").count(&mut tx).await.unwrap(), 10_001);
            tx.rollback().await.unwrap();

            // Without a savepoint, nothing of the transaction is stored.
            let mut many: Vec<_> = (0..10_000).map(item).collect();
            many[7_777].n = other;
            let before = many.clone();
            let done = db.transaction(async |tx| {
                item(10_000).save(&mut *tx).await?;
                let error = Item::insert_many(&mut *tx, &mut many).await.unwrap_err();
                assert_row(&error, "insert", 7_777, "`None`");
                Err::<(), _>(error)
            });
            assert_row(&done.await.unwrap_err(), "insert", 7_777, "`None`");
            assert_eq!((many == before, count(&db, "items").await), (true, 0));
        }
    }

    async fn an_error_about_no_row_names_no_row(db: Db) {
        let error = Item::insert_many(&db, &mut [item(1), item(2)]).await.unwrap_err();
        assert!(matches!(&error, Error::Database(_)), "there is no table: {error:?}");
    }

    async fn a_missing_or_duplicate_row_is_an_error(db: Db) {
        items(&db).await;
        let mut many: Vec<_> = (0..10_000).map(item).collect();
        Item::insert_many(&db, &mut many).await.unwrap();
        let all = stored(&db).await;
        many.iter_mut().for_each(|item| item.n += 100_000);

        for missing in [2, 9_999] {
            let mut with = many.clone();
            with[missing].id = Some(-5);
            let before = with.clone();
            let error = Item::update_many(&db, &mut with).await.unwrap_err();
            assert!(error.is_not_found());
            assert_row(&error, "update", missing, "-5");
            assert_eq!((with, stored(&db).await), (before, all.clone()));
        }
        let mut with = many.clone();
        with[3].id = None;
        let error = Item::update_many(&db, &mut with).await.unwrap_err();
        assert!(error.is_not_found());
        assert_row(&error, "update", 3, "`None`");

        for twin in [1, 9_999] {
            let mut with = many.clone();
            with[twin].id = with[0].id;
            let error = Item::update_many(&db, &mut with).await.unwrap_err();
            let key = with[0].id.unwrap().to_string();
            assert_row(&error, "update", twin, &key);
            let Error::Row { source, .. } = &error else { unreachable!() };
            assert!(matches!(&**source, Error::DuplicateKey { model: "Item", key: k } if *k == key), "{error:?}");
            assert_eq!(stored(&db).await, all);
        }
        // A row that is deleted twice was there once.
        let mut twice = [many[0].clone(), many[1].clone(), many[0].clone(), item(7)];
        assert_eq!(Item::delete_many(&db, &mut twice).await.unwrap(), 2);
        assert_eq!(Item::delete_many(&db, &mut many).await.unwrap(), 9_998);
    }

    async fn every_receiver_runs_for_every_row(db: Db) {
        let _turn = SCENE.begin().await;
        items(&db).await;
        let mut many = [heard(1), heard(2), heard(3)];
        Heard::insert_many(&db, &mut many).await.unwrap();
        assert_eq!(
            SCENE.log.take(),
            [
                "pre 1", "pre 2", "pre 3",
                "post 1 true None", "post 2 true None", "post 3 true None",
                "batch true 1 2 3",
                "commit 1", "commit 2", "commit 3", "commit batch 3",
            ]
        );
        assert_eq!(many.clone().map(|row| row.name), ["set 1", "set 2", "set 3"].map(|n| Some(n.to_owned())));
        assert_eq!(Heard::query("ORDER BY id").fetch_all(&db).await.unwrap(), many);
        assert_eq!(count(&db, "notes").await, 3);

        many.iter_mut().for_each(|row| row.n += 10);
        many[2].n = 30;
        many.reverse();
        Heard::update_many(&db, &mut many).await.unwrap();
        assert_eq!(
            SCENE.log.take(),
            [
                "pre 30", "pre 12", "pre 11",
                "post 30 false Some(3)", "post 12 false Some(2)", "post 11 false Some(1)",
                "batch false 30 12 11",
                "commit 30", "commit 12", "commit 11", "commit batch 3",
            ]
        );
        assert_eq!(Heard::query("ORDER BY id DESC").fetch_all(&db).await.unwrap(), many);

        // One row is already deleted, and one was never stored.
        let keys = many.clone().map(|row| row.id.unwrap());
        Item::query("").fetch_all(&db).await.unwrap()[1].clone().delete(&db).await.unwrap();
        let mut deleted = vec![many[0].clone(), many[1].clone(), heard(5), many[2].clone()];
        assert_eq!(Heard::delete_many(&db, &mut deleted).await.unwrap(), 2);
        assert_eq!(
            SCENE.log.take(),
            [
                "pre_delete 30".to_owned(), "pre_delete 12".to_owned(), "pre_delete 11".to_owned(),
                format!("post_delete {}", keys[0]), format!("post_delete {}", keys[2]),
                "batch_delete 30".to_owned(), "batch_delete 11".to_owned(),
                "commit delete 30".to_owned(), "commit delete 11".to_owned(),
            ]
        );
        assert!(deleted.iter().all(|row| row.id.is_none()));
    }

    async fn a_row_without_a_key_is_not_deleted(db: Db) {
        static SCENE: LazyLock<Scene> = Scene::new();
        #[derive(Debug, Clone, Model)]
        struct Unsaved { id: Option<i64>, n: i64 }

        #[receiver(pre_delete, sender = Unsaved)]
        fn before(delete: PreDelete<'_, Unsaved>) { SCENE.log.push(format!("pre {}", delete.pk())) }
        #[receiver(pre_delete)]
        fn any(delete: PreDelete<'_, dyn AnyModel>) {
            if delete.instance.downcast_ref::<Unsaved>().is_some() {
                SCENE.log.push(format!("any {}", delete.instance.key().unwrap()));
            }
        }
        #[receiver(post_delete, sender = Unsaved)]
        fn after(deleted: PostDelete<'_, Unsaved>) { SCENE.log.push(format!("post {}", deleted.pk())) }

        let _turn = SCENE.begin().await;
        table(&db, "unsaved", "n BIGINT NOT NULL").await;
        let recorded = sqlx_signals::testing::record::<Unsaved>();
        let unsaved = || Unsaved { id: None, n: 1 };
        let mut stored = unsaved();
        stored.save(&db).await.unwrap();
        recorded.clear();
        let mut rows = [unsaved(), stored, unsaved()];
        assert_eq!(Unsaved::delete_many(&db, &mut rows).await.unwrap(), 1);
        assert_eq!(SCENE.log.take(), ["pre 1", "any 1", "post 1"]);
        assert_eq!(Unsaved::delete_many(&db, &mut rows).await.unwrap(), 0);
        assert!(!unsaved().delete(&db).await.unwrap());
        assert!(SCENE.log.take().is_empty());
        assert_eq!(recorded.signals(), ["pre_delete", "post_delete"]);
    }

    async fn a_single_save_is_a_batch_of_one(db: Db) {
        let _turn = SCENE.begin().await;
        items(&db).await;
        let mut one = heard(1);
        one.save(&db).await.unwrap();
        assert_eq!(
            SCENE.log.take(),
            ["pre 1", "post 1 true None", "batch true 1", "commit 1", "commit batch 1"]
        );
        one.delete(&db).await.unwrap();
        let log = SCENE.log.take();
        assert_eq!((&*log[0], &*log[2]), ("pre_delete 1", "batch_delete 1"));
    }

    async fn a_batch_is_the_rows_of_one_statement(db: Db) {
        let _turn = SCENE.begin().await;
        items(&db).await;
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "items")]
        struct Batched { id: Option<i64>, name: Option<String>, n: i64 }
        #[receiver(post_save_batch, sender = Batched)]
        fn all(saved: PostSaveBatch<'_, Batched>) {
            let ns = saved.instances.iter().map(|row| row.n);
            SCENE.log.push(format!("{}..={}", ns.clone().min().unwrap(), ns.max().unwrap()));
            assert!(saved.instances.iter().all(|row| row.id.is_some()));
        }
        let mut many: Vec<_> = (0..10_000).map(|n| Batched { id: None, name: None, n }).collect();
        Batched::insert_many(&db, &mut many).await.unwrap();
        let mut next = 0;
        let log = SCENE.log.take();
        for batch in &log {
            let (first, last) = batch.split_once("..=").unwrap();
            assert_eq!(first.parse::<i64>().unwrap(), next);
            next = last.parse::<i64>().unwrap() + 1;
        }
        assert_eq!(next, 10_000);
        assert!(log.len() <= 10, "few statements: {log:?}");
    }

    async fn a_veto_or_a_failed_receiver_undoes_every_row(db: Db) {
        let _turn = SCENE.begin().await;
        items(&db).await;
        let vetoed = || [heard(1), Heard { name: Some("vetoed".to_owned()), ..heard(2) }, heard(3)];
        let mut many = vetoed();
        let error = Heard::insert_many(&db, &mut many).await.unwrap_err();
        assert!(matches!(&error, Error::Row { row: 1, verb: "insert", .. }), "{error:?}");
        assert_eq!(SCENE.log.take(), ["pre 1"], "nothing was sent");

        let mut many = [heard(12), heard(13), heard(14)];
        let error = Heard::insert_many(&db, &mut many).await.unwrap_err();
        assert!(matches!(&error, Error::Row { row: 1, .. }), "{error:?}");
        assert!(many.iter().all(|row| row.id.is_none()));
        let undone = ["rollback 12", "rollback 13", "rollback 14"];
        assert_eq!(SCENE.log.take()[5..], undone);
        assert_eq!((count(&db, "items").await, count(&db, "notes").await), (0, 0));

        let mut many = [heard(98), heard(99)];
        Heard::insert_many(&db, &mut many).await.unwrap();
        let before = many.clone();
        let error = Heard::delete_many(&db, &mut many).await.unwrap_err();
        assert!(matches!(&error, Error::Row { row: 1, verb: "delete", .. }), "{error:?}");
        assert_eq!((many, count(&db, "items").await), (before, 2));
    }

    // A `pre_save` receiver that sets keys turns one statement into two. The rows are still stored all or none.
    async fn a_receiver_may_set_keys(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "items")]
        struct Keyed { id: Option<i64>, name: Option<String>, n: i64 }
        #[receiver(pre_save, sender = Keyed)]
        fn give(save: PreSave<'_, Keyed>) {
            if save.instance.n % 2 == 1 {
                save.instance.id = Some(1000 + save.instance.n);
            }
        }
        items(&db).await;
        let keyed = |n| Keyed { id: None, name: None, n };
        let mut many = [keyed(1), keyed(2), keyed(3)];
        Keyed::insert_many(&db, &mut many).await.unwrap();
        assert_eq!((many[0].id, many[2].id), (Some(1001), Some(1003)));
        assert_eq!(Keyed::get(&db, many[1].id.unwrap()).await.unwrap(), many[1]);
        let mut again = [keyed(11), keyed(2)];
        assert!(Keyed::insert_many(&db, &mut again).await.unwrap_err().is_unique_violation());
        assert_eq!((again, count(&db, "items").await), ([keyed(11), keyed(2)], 3));
    }

    async fn callbacks_of_many_rows_wait_for_the_commit(db: Db) {
        let _turn = SCENE.begin().await;
        items(&db).await;
        let mut tx = db.begin().await.unwrap();
        let mut many = [heard(1), heard(2)];
        Heard::insert_many(&mut tx, &mut many).await.unwrap();
        assert!(!SCENE.log.take().iter().any(|entry| entry.starts_with("commit")));
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["commit 1", "commit 2", "commit batch 2"]);
    }
}

#[cfg(feature = "json")]
on_every_database! {
    async fn json_columns(db: Db) {
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Settings { theme: String, sizes: Vec<u8> }
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "pages")]
        struct Page {
            id: Option<i64>,
            #[model(json)] settings: Settings,
            #[model(json)] extra: Option<Settings>,
            plain: Option<sqlx::types::Json<Vec<i32>>>,
        }
        let [jsonb, json] = if db.kind() == DatabaseKind::Sqlite { ["TEXT"; 2] } else { ["JSONB", "JSON"] };
        table(&db, "pages", &format!("settings {jsonb} NOT NULL, extra {jsonb}, plain {json}")).await;
        let settings = |n: u8| Settings { theme: format!("da\"rk' {n}"), sizes: vec![n] };
        let mut many: Vec<_> = (0..50)
            .map(|n| Page {
                id: None,
                settings: settings(n),
                extra: (n % 2 == 1).then(|| settings(n)),
                plain: (n % 3 == 1).then(|| sqlx::types::Json(vec![1, n.into()])),
            })
            .collect();
        Page::insert_many(&db, &mut many).await.unwrap();
        let stored = || async { Page::query("ORDER BY id").fetch_all(&db).await.unwrap() };
        assert_eq!(stored().await, many);
        many.iter_mut().for_each(|page| page.extra = Some(settings(200)));
        Page::update_many(&db, &mut many).await.unwrap();
        assert_eq!(stored().await, many);
    }
}

#[cfg(all(feature = "uuid", feature = "chrono", feature = "time"))]
on_every_database! {
    async fn times_and_uuids(db: Db) {
        use sqlx::types::chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
        use sqlx::types::time::{Date, OffsetDateTime};
        use sqlx::types::Uuid;

        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "moments")]
        struct Moment {
            id: Option<Uuid>,
            of: Option<Uuid>,
            at: DateTime<Utc>,
            local: Option<NaiveDateTime>,
            day: Option<NaiveDate>,
            hour: NaiveTime,
            other: OffsetDateTime,
            other_day: Option<Date>,
        }
        let [id, uuid, instant, local] = match db.kind() {
            DatabaseKind::Sqlite => ["BLOB DEFAULT (randomblob(16))", "BLOB", "TEXT", "TEXT"],
            DatabaseKind::Postgres => ["UUID DEFAULT gen_random_uuid()", "UUID", "TIMESTAMPTZ", "TIMESTAMP"],
        };
        execute(
            &db,
            &format!(
                "CREATE TABLE moments (id {id} PRIMARY KEY, of {uuid}, at {instant} NOT NULL, local {local}, day DATE, hour \
                 TIME NOT NULL, other {instant} NOT NULL, other_day DATE)"
            ),
        )
        .await;
        let moment = |n: i64| {
            let at = DateTime::from_timestamp_micros(1_700_000_000_123_456 + n * 1_000_001).unwrap();
            Moment {
                id: (n % 5 == 4).then(|| Uuid::from_u128(n as u128)),
                of: (n % 2 == 1).then(|| Uuid::from_u128(u128::MAX - n as u128)),
                at,
                local: (n % 2 == 1).then(|| at.naive_utc()),
                day: (n % 3 == 1).then(|| at.date_naive()),
                hour: at.time(),
                other: OffsetDateTime::from_unix_timestamp(n).unwrap(),
                other_day: (n % 2 == 1).then_some(Date::MIN.replace_year(2000).unwrap()),
            }
        };
        let mut many: Vec<_> = (0..200).map(moment).collect();
        Moment::insert_many(&db, &mut many).await.unwrap();
        for row in &many {
            assert_eq!(&Moment::get(&db, row.id.unwrap()).await.unwrap(), row);
        }
        for (n, row) in many.iter_mut().enumerate() {
            *row = Moment { id: row.id, ..moment(n as i64 + 1) };
        }
        Moment::update_many(&db, &mut many).await.unwrap();
        for row in &many {
            assert_eq!(&Moment::get(&db, row.id.unwrap()).await.unwrap(), row);
        }
        assert_eq!(Moment::delete_many(&db, &mut many).await.unwrap(), 200);
    }
}

#[cfg(feature = "postgres")]
mod only_postgres {
    use super::*;

    #[derive(Debug, Clone, PartialEq, sqlx::Type)]
    #[sqlx(type_name = "point2d")]
    struct Point {
        x: i32,
        y: Option<i32>,
    }

    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "places")]
    struct Place {
        id: Option<i64>,
        at: Option<Point>,
        n: i32,
    }

    /// A composite type, which the server knows only by its name.
    #[tokio::test]
    async fn composite_types() {
        let test = common::TestDb::postgres("bulk_composite").await;
        execute(&test.db, "CREATE TYPE point2d AS (x INTEGER, y INTEGER)").await;
        table(&test.db, "places", "at point2d, n INTEGER NOT NULL").await;
        let pool = test.db.postgres().unwrap();
        let place = |n: i32| Place {
            id: None,
            at: (n > 0).then(|| Point { x: n, y: (n % 2 == 0).then_some(-n) }),
            n,
        };
        let mut many: Vec<_> = (0..10).map(place).collect();
        Place::insert_many(pool, &mut many).await.unwrap();
        many[0].at = Some(Point { x: 1, y: None });
        many[1].at = None;
        Place::update_many(pool, &mut many).await.unwrap();
        assert_eq!(Place::query("ORDER BY id").fetch_all(pool).await.unwrap(), many);
        test.passed().await;
    }

    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "posts")]
    struct Post {
        id: Option<i64>,
        tags: Vec<String>,
        scores: Option<Vec<i32>>,
        range: Option<sqlx::postgres::types::PgRange<i32>>,
        title: String,
    }

    /// An array cannot be an element of an array that is unnested.
    #[tokio::test]
    async fn array_columns() {
        use std::ops::Bound;

        let test = common::TestDb::postgres("bulk_arrays").await;
        table(
            &test.db,
            "posts",
            "tags TEXT[] NOT NULL, scores INT[], range INT4RANGE, title TEXT NOT NULL",
        )
        .await;
        let pool = test.db.postgres().unwrap();
        let post = |n: i32| Post {
            id: None,
            tags: (0..n % 4).map(|tag| format!("{{'{tag}\"")).collect(),
            scores: (n % 2 == 1).then(|| vec![n, -n]),
            range: (n % 3 == 1).then(|| (Bound::Included(n), Bound::Excluded(n + 5)).into()),
            title: n.to_string(),
        };
        let mut many: Vec<_> = (0..10_000).map(post).collect();
        assert_eq!(Post::insert_many(pool, &mut many).await.unwrap(), 10_000);
        let stored = || async { Post::query("ORDER BY id").fetch_all(pool).await.unwrap() };
        assert_eq!(stored().await, many);
        many.iter_mut().for_each(|post| post.tags.push("new".to_owned()));
        Post::update_many(pool, &mut many).await.unwrap();
        assert_eq!(stored().await, many);
        many[3].title = "taken".to_owned();
        execute(&test.db, "ALTER TABLE posts ADD CHECK (title <> 'taken')").await;
        let error = Post::update_many(pool, &mut many).await.unwrap_err();
        assert!(
            matches!(&error, Error::Row { row: 3, .. }) && error.is_check_violation(),
            "{error:?}"
        );
        assert_eq!(Post::delete_many(pool, &mut many).await.unwrap(), 10_000);
        test.passed().await;
    }

    /// A column of a type that is narrower than the field's.
    #[tokio::test]
    async fn a_field_is_cast_as_in_a_single_statement() {
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Narrow {
            id: Option<i64>,
            n: i64,
            code: String,
        }
        let test = common::TestDb::postgres("bulk_narrow").await;
        execute(
            &test.db,
            "CREATE TABLE narrow (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n SMALLINT, code VARCHAR(3))",
        )
        .await;
        let narrow = |n: i64| Narrow { id: None, n, code: n.to_string() };
        let mut many = [narrow(1), narrow(2), narrow(3)];
        Narrow::insert_many(&test.db, &mut many).await.unwrap();
        // Neither value fits: one is a number that is too large, the other a text that is too long.
        for (bad, n) in [(1, 40_000), (2, 4_000)] {
            let mut many = [narrow(4), narrow(5), narrow(6)];
            many[bad] = narrow(n);
            let error = Narrow::insert_many(&test.db, &mut many).await.unwrap_err();
            assert!(matches!(&error, Error::Row { row, .. } if *row == bad), "{error:?}");
        }
        assert_eq!(count(&test.db, "narrow").await, 3);
        test.passed().await;
    }

    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "notes")]
    struct Note {
        id: Option<i64>,
        tenant: String,
    }

    fn notes(tenants: [&str; 4]) -> [Note; 4] {
        tenants.map(|tenant| Note { id: None, tenant: tenant.to_owned() })
    }

    #[tokio::test]
    async fn a_row_that_a_policy_refuses_is_named() {
        let test = common::TestDb::postgres("bulk_policy").await;
        common::table(&test.db, "notes", "tenant TEXT NOT NULL").await;
        let sql = "ALTER TABLE notes ENABLE ROW LEVEL SECURITY; GRANT ALL ON notes, notes_id_seq TO {role};
                   CREATE POLICY own ON notes USING (tenant = 'a')";
        let role = common::Role::new(&test, sql).await;
        let error =
            Note::insert_many(&role.db, &mut notes(["a", "a", "b", "a"])).await.unwrap_err();
        assert!(matches!(&error, Error::Row { row: 2, .. }), "{error:?}");
        let mut stored = notes(["a"; 4]);
        Note::insert_many(&role.db, &mut stored).await.unwrap();
        stored[1].tenant = "b".to_owned();
        let error = Note::update_many(&role.db, &mut stored).await.unwrap_err();
        assert!(matches!(&error, Error::Row { row: 1, .. }), "{error:?}");
        // A missing privilege is not about a row.
        execute(&test.db, &format!("REVOKE INSERT ON notes FROM {}", role.name)).await;
        let error = Note::insert_many(&role.db, &mut notes(["a"; 4])).await.unwrap_err();
        assert!(matches!(&error, Error::Database(_)), "{error:?}");
        role.passed(test).await;
    }

    #[tokio::test]
    async fn a_row_that_a_trigger_refuses_with_an_error_code_of_its_own_is_named() {
        let test = common::TestDb::postgres("bulk_raise").await;
        common::table(&test.db, "notes", "tenant TEXT NOT NULL").await;
        execute(
            &test.db,
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.tenant LIKE 'T%' OR NEW.tenant LIKE '4%' THEN
                     RAISE 'refused' USING ERRCODE = NEW.tenant;
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
        for code in ["T0001", "42501"] {
            let mut rows = notes(["a", "a", "a", code]);
            let error = Note::insert_many(&test.db, &mut rows).await.unwrap_err();
            assert!(matches!(&error, Error::Row { row: 3, .. }), "{error:?}");
        }
        // The whole transaction is to be run again.
        let mut rows = notes(["a", "a", "a", "40001"]);
        let error = Note::insert_many(&test.db, &mut rows).await.unwrap_err();
        assert!(error.is_retryable() && !matches!(&error, Error::Row { .. }), "{error:?}");
        test.passed().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;
    use crate::common::TestDb;

    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "marks")]
    struct Mark {
        #[model(primary_key)]
        key: i64,
        n: String,
    }

    fn marks(refused: usize) -> Vec<Mark> {
        let mut marks: Vec<_> = (0..20_000).map(|key| Mark { key, n: key.to_string() }).collect();
        marks[refused].n = "x".to_owned();
        marks
    }

    /// SQLite keeps what a statement has stored before a value that a STRICT table refuses, if the table has no other constraint.
    const TABLES: [&str; 3] = [
        "CREATE TABLE marks (key INTEGER PRIMARY KEY, n INTEGER) STRICT",
        "CREATE TABLE marks (key INTEGER, n INTEGER) STRICT",
        "CREATE TABLE marks (key INTEGER PRIMARY KEY, n TEXT CHECK (n <> 'x')) WITHOUT ROWID",
    ];

    #[tokio::test]
    async fn a_refused_row_in_a_transaction_of_sqlx() {
        let test = TestDb::sqlite(module_path!()).await;
        let db = &test.db;
        for (create, refused) in TABLES.iter().flat_map(|sql| [(sql, 2), (sql, 15_000)]) {
            execute(db, create).await;
            for rows in [refused + 3, 20_000] {
                let mut many = marks(refused);
                many.truncate(rows);
                let mut tx = db.sqlite().unwrap().begin().await.unwrap();
                Mark { key: 50_000, n: "1".to_owned() }.insert(&mut tx).await.unwrap();
                let error = Mark::insert_many(&mut tx, &mut many).await.unwrap_err();
                assert!(matches!(&error, Error::Row { row, .. } if *row == refused), "{error:?}");
                tx.commit().await.unwrap();
                assert_eq!(count(db, "marks").await, 1, "{create}");

                let mut tx = Transaction::from(db.sqlite().unwrap().begin().await.unwrap());
                Mark { key: 60_000, n: "1".to_owned() }.insert(&mut tx).await.unwrap();
                let mut savepoint = tx.begin().await.unwrap();
                Mark { key: 70_000, n: "1".to_owned() }.insert(&mut savepoint).await.unwrap();
                let error = Mark::insert_many(&mut savepoint, &mut many).await.unwrap_err();
                assert!(matches!(&error, Error::Row { row, .. } if *row == refused), "{error:?}");
                savepoint.rollback().await.unwrap();
                assert_eq!(Mark::query("").count(&mut tx).await.unwrap(), 2, "{create}");
                let error = Mark::insert_many(&mut tx, &mut many).await.unwrap_err();
                assert!(matches!(&error, Error::Row { row, .. } if *row == refused), "{error:?}");
                assert!(tx.commit().await.unwrap_err().is_rolled_back());
                assert_eq!(count(db, "marks").await, 1, "{create}");
                execute(db, "DELETE FROM marks").await;
            }
            execute(db, "DROP TABLE marks").await;
        }
        test.passed().await;
    }

    #[tokio::test]
    async fn a_row_that_a_trigger_of_a_referencing_table_refuses() {
        let test = TestDb::sqlite(module_path!()).await;
        let db = &test.db;
        items(db).await;
        for action in ["ABORT", "FAIL", "ROLLBACK"] {
            execute(db, &format!("CREATE TRIGGER refuse BEFORE DELETE ON notes BEGIN SELECT RAISE({action}, 'x'); END")).await;
            let mut tx = db.begin().await.unwrap();
            let mut many: Vec<_> = (0..10).map(item).collect();
            Item::insert_many(&mut tx, &mut many).await.unwrap();
            Note { id: None, item_id: many[7].id.unwrap() }.save(&mut tx).await.unwrap();
            let mut savepoint = tx.begin().await.unwrap();
            item(20).save(&mut savepoint).await.unwrap();
            let error = Item::delete_many(&mut savepoint, &mut many).await.unwrap_err();
            savepoint.rollback().await.unwrap();
            if action == "ROLLBACK" {
                assert!(tx.commit().await.unwrap_err().is_rolled_back(), "{error:?}");
            } else {
                assert_row(&error, "delete", 7, &many[7].id.unwrap().to_string());
                tx.commit().await.unwrap();
                assert_eq!((count(db, "items").await, count(db, "notes").await), (10, 1));
            }
            execute(db, "DROP TRIGGER refuse; DELETE FROM notes; DELETE FROM items").await;
        }
        test.passed().await;
    }
}
