//! Durable receivers of every model, of several models, and of models with special keys. They are not in `tests/durable.rs`, because a
//! receiver of every model would receive the writes of all its tests.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, count, execute, table};
use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, testing};

static SCENE: LazyLock<Scene> = Scene::new();

/// The key is not part of the payload.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "users")]
struct User {
    #[serde(skip)]
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "orders")]
struct Order {
    id: Option<i64>,
    item: String,
}

/// Has a composite key.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "seats")]
struct Seat {
    #[model(primary_key)]
    hall: String,
    #[model(primary_key)]
    number: i64,
    taken: bool,
}

/// Is not `Serialize`.
#[derive(Debug, Model)]
#[model(table = "plain")]
struct Plain {
    id: Option<i64>,
    text: String,
}

#[receiver(post_save, durable(queue = "audit", at_least_once))]
fn audit(saved: PostSave<'_, dyn AnyModel>, previous: Previous<'_, dyn AnyModel>) {
    let row = saved.instance;
    let before = previous.row().and_then(AnyModel::to_json).map(|json| json.to_string());
    let changed: Vec<_> = row.columns().iter().filter(|column| previous.changed(column)).collect();
    let json = row.to_json().map(|json| json.to_string());
    let line = format!(
        "{} {:?} {} {json:?} {before:?} {changed:?}",
        row.table(),
        row.key(),
        saved.created
    );
    SCENE.log.push(line);
}

#[receiver(post_delete_batch, durable(queue = "audit", at_least_once))]
fn audit_deletes(deleted: PostDeleteBatch<'_, dyn AnyModel>) {
    let keys: Vec<_> = deleted.instances.iter().map(|row| row.key()).collect();
    SCENE.log.push(format!("deleted {keys:?}"));
}

#[receiver(post_save, sender = [User, Order], created, durable(queue = "both"))]
async fn count_new<M: Model>(saved: PostSave<'_, M>, delivery: Delivery<'_>) {
    let row: &dyn AnyModel = saved.instance;
    SCENE.log.push(format!("new {} {:?} {}", row.table(), row.key(), delivery.attempt()));
}

#[receiver(post_save, sender = User, uid = "mail.welcome", durable(queue = "mail", at_least_once))]
fn welcome(saved: PostSave<'_, User>) {
    SCENE.log.push(format!("welcome {} {}", saved.pk(), saved.instance.name));
}

#[receiver(post_save, sender = User, on_commit)]
fn greet(saved: PostSave<'_, User>) {
    SCENE.log.push(format!("greet {}", saved.instance.name));
}

#[receiver(post_save, sender = Seat, durable(queue = "seats", ordering_key = pk, at_least_once))]
fn log_seat(saved: PostSave<'_, Seat>) {
    SCENE.log.push(format!("{:?} {}", saved.pk(), saved.instance.taken));
}

async fn setup(db: &Db) {
    let (key, yes) = match db.kind() {
        DatabaseKind::Sqlite => ("INTEGER", "BOOLEAN"),
        DatabaseKind::Postgres => ("BIGINT", "BOOLEAN"),
    };
    table(db, "users", "name TEXT NOT NULL").await;
    table(db, "orders", "item TEXT NOT NULL").await;
    table(db, "plain", "text TEXT NOT NULL").await;
    let seats =
        format!("hall TEXT, number {key}, taken {yes} NOT NULL, PRIMARY KEY (hall, number)");
    execute(db, &format!("CREATE TABLE seats ({seats})")).await;
    db.deliveries().setup().await.unwrap();
}

/// Runs the deliveries of the receivers whose name ends so.
async fn delivered(db: &Db, receivers: &str) -> Vec<String> {
    execute(db, &format!("DELETE FROM signals_delivery WHERE receiver NOT LIKE '%{receivers}'"))
        .await;
    testing::deliver(db).await.unwrap();
    assert_eq!(count(db, "signals_delivery").await, 0);
    SCENE.log.take()
}

on_every_database! {
    async fn a_receiver_of_every_model_gets_a_snapshot(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut order = Order { id: None, item: "lamp".into() };
        order.save(&db).await.unwrap();
        order.item = "chair".into();
        order.save(&db).await.unwrap();
        Plain { id: None, text: "x".into() }.save(&db).await.unwrap();
        let log = delivered(&db, "audit").await;
        let expected = [
            r#"orders Some("1") true Some("{\"id\":1,\"item\":\"lamp\"}") None ["id", "item"]"#,
            r#"orders Some("1") false Some("{\"id\":1,\"item\":\"chair\"}") Some("{\"id\":1,\"item\":\"lamp\"}") ["item"]"#,
            r#"plain Some("1") true None None ["id", "text"]"#,
        ];
        assert_eq!(log, expected);
        let mut orders = [Order { id: None, item: "a".into() }, Order { id: None, item: "b".into() }];
        Order::insert_many(&db, &mut orders).await.unwrap();
        Order::delete_many(&db, &mut orders).await.unwrap();
        assert_eq!(delivered(&db, "audit_deletes").await, [r#"deleted [Some("2"), Some("3")]"#]);
    }

    async fn a_receiver_of_several_models_gets_each_of_them(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        User { id: None, name: "ann".into() }.save(&db).await.unwrap();
        Order { id: None, item: "lamp".into() }.save(&db).await.unwrap();
        SCENE.log.take();
        let log = delivered(&db, "count_new").await;
        assert_eq!(log, [r#"new users Some("1") 1"#, r#"new orders Some("1") 1"#]);
    }

    async fn a_delivery_has_the_uid_of_its_receiver_and_the_key_of_its_row(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        User { id: None, name: "ann".into() }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["greet ann"]);
        let stored = "SELECT key FROM signals_delivery WHERE receiver = 'mail.welcome'";
        let (key,): (String,) = db.query(stored).fetch_one().await.unwrap();
        assert_eq!(key, "1");
        assert_eq!(delivered(&db, "mail.welcome").await, ["welcome 1 ann"]);
    }

    async fn a_composite_key_orders_the_deliveries_of_a_row(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut seat = Seat { hall: "A".into(), number: 7, taken: false };
        for taken in [true, false, true] {
            seat.taken = taken;
            seat.save(&db).await.unwrap();
        }
        let keys: Vec<(String,)> =
            db.query("SELECT DISTINCT ordering_key FROM signals_delivery WHERE ordering_key IS NOT NULL").fetch_all().await.unwrap();
        assert_eq!(keys, [(r#"["A",7]"#.to_owned(),)]);
        let log = delivered(&db, "log_seat").await;
        assert_eq!(log, [r#"("A", 7) true"#, r#"("A", 7) false"#, r#"("A", 7) true"#]);
    }

    async fn an_adopted_transaction_stores_deliveries(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        macro_rules! both {
            ($pool:expr) => {
                if let Some(pool) = $pool {
                    let mut tx = Transaction::from(pool.begin().await.unwrap());
                    User { id: None, name: "ann".into() }.save(&mut tx).await.unwrap();
                    tx.commit().await.unwrap();
                    let mut tx = Transaction::from(pool.begin().await.unwrap());
                    User { id: None, name: "bob".into() }.save(&mut tx).await.unwrap();
                    tx.rollback().await.unwrap();
                }
            };
        }
        #[cfg(feature = "sqlite")]
        both!(db.sqlite());
        #[cfg(feature = "postgres")]
        both!(db.postgres());
        SCENE.log.take();
        assert_eq!(delivered(&db, "mail.welcome").await, ["welcome 1 ann"]);
    }
}

/// Functions of the same path, as a macro may declare them: for the same events, for other models, and for other models with other options.
mod of_one_name {
    use super::*;

    #[derive(Debug, Model, Serialize, Deserialize)]
    #[model(table = "named")]
    struct Named {
        id: Option<i64>,
    }

    #[derive(Debug, Model, Serialize, Deserialize)]
    #[model(table = "others")]
    struct Other {
        id: Option<i64>,
    }

    const _: () = {
        #[receiver(post_save, sender = Named, durable(at_least_once))]
        fn mail(_: PostSave<'_, Named>) {}
    };

    const _: () = {
        #[receiver(post_save, sender = Named, durable(at_least_once))]
        fn mail(_: PostSave<'_, Named>) {}
    };

    macro_rules! of_other_models {
        ($($model:ident $name:ident $options:tt)*) => { $(
            const _: () = {
                #[receiver(post_save, sender = $model, durable $options)]
                fn $name(_: PostSave<'_, $model>) {}
            };
        )* };
    }

    of_other_models! {
        Named same(at_least_once)
        Other same(at_least_once)
        Named queued(at_least_once)
        Other queued(at_least_once, queue = "other")
        Named printed(at_least_once, keep = "60s", backoff = "60s..1h", ordering_key = pk)
        Other printed(at_least_once, keep = "1m", backoff = "1m..60m", coalesce = pk)
    }
}

on_every_database! {
    async fn durable_receivers_that_share_a_name_are_reported(db: Db) {
        let error = format!("{:#}", db.check().await.unwrap_err());
        assert_eq!(error.matches("have the name `durable_senders::of_one_name::mail`").count(), 1, "{error}");
        assert_eq!(error.matches("have the name `durable_senders::of_one_name::queued`").count(), 1, "{error}");
        assert_eq!(error.matches("have the name").count(), 2, "{error}");
    }
}
