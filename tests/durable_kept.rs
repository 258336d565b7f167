//! What durable receivers do beyond running: values of a request travel with their deliveries.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, count, execute, table};
use serde::{Deserialize, Serialize, Serializer};
use sqlx_signals::durable::{Carried, DeliveryFilter, StoredDelivery};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, testing};

static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Clone, PartialEq, Model, Serialize, Deserialize)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
}

/// Is saved by a durable receiver.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "accounts")]
struct Account {
    id: Option<i64>,
    user_id: i64,
}

#[derive(Clone, Serialize, Deserialize)]
struct CurrentUser(i64);

impl Carried for CurrentUser {
    const NAME: &'static str = "current_user";
}

#[derive(Clone, Deserialize)]
struct NoJson;

impl Serialize for NoJson {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it has no JSON"))
    }
}

impl Carried for NoJson {
    const NAME: &'static str = "no_json";
}

#[receiver(post_save, sender = User, created, durable(at_least_once))]
fn audit(saved: PostSave<'_, User>, State(CurrentUser(user)): State<CurrentUser>) {
    SCENE.log.push(format!("{user} saved {}", saved.instance.name));
}

/// Does not take the value itself.
#[receiver(post_save, sender = User, created, durable)]
async fn open_account(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    Account { id: None, user_id: saved.pk() }.save(conn).await?;
    Ok(())
}

#[receiver(post_save, sender = Account)]
fn audit_account(_: PostSave<'_, Account>, State(CurrentUser(user)): State<CurrentUser>) {
    SCENE.log.push(format!("{user} opened"));
}

#[receiver(post_save, sender = Account, durable)]
async fn announce_account(
    _: PostSave<'_, Account>,
    _delivery: Delivery<'_>,
    State(CurrentUser(user)): State<CurrentUser>,
) {
    SCENE.log.push(format!("{user} announced"));
}

async fn setup(db: &Db) {
    let key = match db.kind() {
        DatabaseKind::Sqlite => "INTEGER",
        DatabaseKind::Postgres => "BIGINT",
    };
    table(db, "users", "name TEXT NOT NULL").await;
    table(db, "accounts", &format!("user_id {key} NOT NULL")).await;
    db.deliveries().setup().await.unwrap();
}

fn user(name: &str) -> User {
    User { id: None, name: name.into() }
}

async fn list(db: &Db, filter: DeliveryFilter) -> Vec<StoredDelivery> {
    db.deliveries().list(filter).await.unwrap()
}

/// Runs what is due, and returns the sorted log.
async fn delivered(db: &Db) -> Vec<String> {
    testing::deliver(db).await.unwrap();
    let mut log = SCENE.log.take();
    log.sort();
    log
}

on_every_database! {
    async fn a_carried_value_is_the_state_of_the_run_and_of_what_the_run_causes(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.with(CurrentUser(0));
        user("ann").save(&worker.carry(CurrentUser(7))).await.unwrap();
        let mut tx = worker.carry(CurrentUser(8)).begin().await.unwrap();
        user("bob").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        // A write that carries nothing.
        user("cem").save(&worker.with(CurrentUser(9))).await.unwrap();
        let expected = [
            "0 announced", "0 opened", "0 saved cem", "7 announced", "7 opened", "7 saved ann", "8 announced", "8 opened", "8 saved bob",
        ];
        assert_eq!(delivered(&worker).await, expected);
    }

    async fn a_carried_value_travels_within_a_test_transaction_and_not_beyond_its_delivery(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = db.with(CurrentUser(0));
        let mut tx = db.begin().await.unwrap();
        user("ann").save(&mut tx).await.unwrap();
        execute_in(&mut tx, "UPDATE signals_delivery SET context = '{\"carried\":{\"current_user\":7,\"of_another_program\":[1]}}'").await;
        testing::deliver(&mut tx).await.unwrap();
        let mut log = SCENE.log.take();
        log.sort();
        assert_eq!(log, ["7 announced", "7 opened", "7 saved ann"]);
        Account { id: None, user_id: 1 }.save(&mut tx).await.unwrap();
        assert_eq!(SCENE.log.take(), ["0 opened"]);
        tx.rollback().await.unwrap();
    }

    async fn the_newest_value_of_a_type_is_carried(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let carrying = db.carry(CurrentUser(7)).carry(CurrentUser(8)).with(CurrentUser(9));
        Account { id: None, user_id: 1 }.save(&carrying).await.unwrap();
        assert_eq!(delivered(&db.with(CurrentUser(0))).await, ["9 announced", "9 opened"]);
    }

    async fn a_carried_value_that_does_not_decode_postpones_the_delivery(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = db.with(CurrentUser(0));
        Account { id: None, user_id: 1 }.save(&db.carry(CurrentUser(7))).await.unwrap();
        SCENE.log.take();
        execute(&db, "UPDATE signals_delivery SET context = '{\"carried\":{\"current_user\":\"ann\"}}'").await;
        assert!(delivered(&db).await.is_empty());
        let listed = list(&db, DeliveryFilter::new()).await;
        let error = listed[0].error.as_deref().unwrap();
        assert!(error.contains("`current_user`") && listed[0].attempt == 0, "{listed:?}");
    }

    async fn a_value_that_is_not_json_fails_the_save(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let error = user("ann").save(&db.with(CurrentUser(0)).carry(NoJson)).await.unwrap_err();
        assert!(error.to_string().contains("`no_json`"), "{error}");
        assert!(matches!(error, Error::Other(_)) || error.to_string().contains("it has no JSON"));
        assert_eq!((count(&db, "users").await, count(&db, "signals_delivery").await), (0, 0));
    }
}

async fn execute_in(tx: &mut Transaction<'_>, sql: &'static str) {
    // The deliveries of a transaction are written before its end.
    testing::make_due(&mut *tx).await.unwrap();
    tx.execute(sql).await.unwrap();
}
