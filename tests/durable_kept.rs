//! What durable receivers do beyond running: values of a request travel with their deliveries, deliveries that have succeeded are kept,
//! rows that exist already are delivered, and deliveries of one key are combined.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, count, execute, table};
use serde::{Deserialize, Serialize, Serializer};
use sqlx_signals::durable::{self, Carried, DeliveryFilter, DeliveryState, StoredDelivery};
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

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "pages")]
struct Page {
    id: Option<i64>,
    title: String,
}

fn page(title: &str) -> Page {
    Page { id: None, title: title.into() }
}

#[receiver(
    post_save,
    sender = Page,
    durable(keep = "7d", was = "durable_kept::old_index", max_attempts = 2, backoff = "1h")
)]
async fn index(saved: PostSave<'_, Page>, delivery: Delivery<'_>) -> Result<()> {
    let (title, attempt) = (saved.instance.title.as_str(), delivery.attempt());
    SCENE.log.push(format!("index {title} {attempt} {}", delivery.idempotency_key()));
    if title == "fails" { Err(Error::other("the index is down")) } else { Ok(()) }
}

/// Is kept too, but in the transaction of the receiver.
#[receiver(post_save, sender = Page, durable(queue = "links", keep = "1h", max_attempts = 1))]
async fn link(saved: PostSave<'_, Page>, conn: &mut Conn<'_>) -> Result<()> {
    conn.query("INSERT INTO links (title) VALUES ($1)")
        .bind(&saved.instance.title)
        .execute()
        .await?;
    if saved.instance.title == "fails" { Err(Error::other("no link")) } else { Ok(()) }
}

#[receiver(post_save, sender = Page, durable(ordering_key = pk, max_attempts = 1))]
async fn announce(saved: PostSave<'_, Page>, _delivery: Delivery<'_>) -> Result<()> {
    SCENE.log.push(format!("announce {}", saved.instance.title));
    if saved.instance.title == "fails" { Err(Error::other("nobody listens")) } else { Ok(()) }
}

/// Rows that exist before their receivers.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "products")]
struct Product {
    #[model(primary_key)]
    shop: String,
    #[model(primary_key)]
    number: i64,
    name: String,
}

#[receiver(post_save, sender = Product, durable(ordering_key = pk, at_least_once))]
fn index_product(saved: PostSave<'_, Product>) {
    SCENE.log.push(format!("{:?} {} {}", saved.pk(), saved.instance.name, saved.created));
}

#[receiver(post_save, sender = Product, created, durable(payload = key, at_least_once))]
fn greet_product(saved: PostSave<'_, Product>) {
    SCENE.log.push(format!("greet {} {}", saved.instance.name, saved.created));
}

#[receiver(post_save_batch, sender = Product, durable(at_least_once))]
fn index_products(saved: PostSaveBatch<'_, Product>) {
    SCENE.log.push(format!("{} products", saved.instances.len()));
}

#[receiver(post_save, sender = Product)]
fn check_product(_: PostSave<'_, Product>) {
    SCENE.log.push("checked");
}

/// Whose deliveries are combined.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "docs")]
struct Doc {
    id: Option<i64>,
    shelf: String,
    title: String,
}

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "folders")]
struct Folder {
    id: Option<i64>,
    title: String,
}

#[derive(Debug, Signal, Serialize, Deserialize)]
struct Opened {
    doc: i64,
    by: String,
}

fn doc(shelf: &str, title: &str) -> Doc {
    Doc { id: None, shelf: shelf.into(), title: title.into() }
}

#[receiver(post_save, sender = Doc, durable(coalesce = pk, at_least_once))]
fn reindex(saved: PostSave<'_, Doc>) {
    SCENE.log.push(format!("{} {} {}", saved.pk(), saved.instance.title, saved.created));
}

#[receiver(post_save, sender = Doc, durable(queue = "shelves", coalesce = shelf, max_attempts = 5, backoff = "1h"))]
async fn count_shelf(saved: PostSave<'_, Doc>, _delivery: Delivery<'_>) -> Result<()> {
    SCENE.log.push(format!("shelf {} {}", saved.instance.shelf, saved.instance.title));
    if saved.instance.title == "fails" { Err(Error::other("no")) } else { Ok(()) }
}

#[receiver(post_save, sender = [Doc, Folder], durable(queue = "both", coalesce = pk, at_least_once))]
fn count_saves<M: Model>(saved: PostSave<'_, M>) {
    let row: &dyn AnyModel = saved.instance;
    SCENE.log.push(format!("both {} {:?}", row.table(), row.key()));
}

/// One receiver combines its deliveries, the other one does not.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "drafts")]
struct Draft {
    id: Option<i64>,
    title: String,
}

#[receiver(post_save, sender = Draft, durable(coalesce = pk, at_least_once))]
fn combine_draft(saved: PostSave<'_, Draft>) {
    SCENE.log.push(format!("combined {} {}", saved.instance.title, saved.created));
}

#[receiver(post_save, sender = Draft, durable(at_least_once))]
fn log_draft(saved: PostSave<'_, Draft>) {
    SCENE.log.push(format!("draft {} {}", saved.instance.title, saved.created));
}

/// Its values are JSON in a column and in the payload.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "readings")]
struct Reading {
    id: Option<i64>,
    #[model(json)]
    values: Vec<f64>,
}

#[receiver(post_save, sender = Reading, durable(at_least_once))]
fn log_reading(saved: PostSave<'_, Reading>) {
    SCENE.log.push(format!("{:?}", saved.instance.values));
}

/// Its receiver was renamed.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "steps")]
struct Step {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Step, durable(ordering_key = pk, was = "durable_kept::old_step", at_least_once))]
fn follow(saved: PostSave<'_, Step>) {
    SCENE.log.push(format!("step {}", saved.instance.n));
}

#[receiver(Opened, durable(coalesce = doc, delay = "1h"))]
async fn count_opened(opened: &Opened, _delivery: Delivery<'_>) {
    SCENE.log.push(format!("opened {} {}", opened.doc, opened.by));
}

async fn setup(db: &Db) {
    let key = match db.kind() {
        DatabaseKind::Sqlite => "INTEGER",
        DatabaseKind::Postgres => "BIGINT",
    };
    table(db, "users", "name TEXT NOT NULL").await;
    table(db, "pages", "title TEXT NOT NULL").await;
    table(db, "links", "title TEXT NOT NULL").await;
    table(db, "docs", "shelf TEXT NOT NULL, title TEXT NOT NULL").await;
    table(db, "folders", "title TEXT NOT NULL").await;
    table(db, "drafts", "title TEXT NOT NULL").await;
    table(db, "steps", "n BIGINT NOT NULL").await;
    table(
        db,
        "readings",
        match db.kind() {
            DatabaseKind::Sqlite => "\"values\" TEXT NOT NULL",
            DatabaseKind::Postgres => "\"values\" JSONB NOT NULL",
        },
    )
    .await;
    let products = "CREATE TABLE products (shop TEXT NOT NULL, number KEY NOT NULL, name TEXT NOT NULL, PRIMARY KEY (shop, number))";
    execute(db, &products.replace("KEY NOT", &format!("{key} NOT"))).await;
    table(db, "accounts", &format!("user_id {key} NOT NULL")).await;
    db.deliveries().setup().await.unwrap();
}

fn user(name: &str) -> User {
    User { id: None, name: name.into() }
}

async fn list(db: &Db, filter: DeliveryFilter) -> Vec<StoredDelivery> {
    db.deliveries().list(filter).await.unwrap()
}

fn kept() -> DeliveryFilter {
    DeliveryFilter::new().state(DeliveryState::Done)
}

/// An SQL expression of a time this number of seconds ago.
fn ago(db: &Db, seconds: i64) -> String {
    match db.kind() {
        DatabaseKind::Sqlite => format!("(unixepoch() - {seconds}) * 1000"),
        DatabaseKind::Postgres => format!("now() - {seconds} * interval '1 second'"),
    }
}

/// Waits until a table has this number of rows.
async fn wait_for_rows(db: &Db, name: &str, rows: i64) {
    for _ in 0..1000 {
        if count(db, name).await == rows {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{name} has {} rows, not {rows}", count(db, name).await);
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

on_every_database! {
    async fn a_combined_delivery_of_a_new_row_says_that_the_row_is_new_beside_others_of_its_events(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut tx = db.begin().await.unwrap();
        let mut draft = Draft { id: None, title: "a".into() };
        draft.save(&mut tx).await.unwrap();
        draft.title = "b".into();
        draft.save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(delivered(&db).await, ["combined b true", "draft a true", "draft b false"]);
    }

    async fn a_key_that_is_longer_than_an_index_entry_combines_deliveries(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut random = fastrand::Rng::with_seed(1);
        let shelf: String = (0..6000).map(|_| random.alphanumeric()).collect();
        doc(&shelf, "a").save(&db).await.unwrap();
        let mut docs = [doc(&shelf, "b"), doc(&(shelf.clone() + "c"), "c")];
        Doc::insert_many(&db, &mut docs).await.unwrap();
        let of_shelves = list(&db, DeliveryFilter::new().queue("shelves")).await;
        assert_eq!(of_shelves.len(), 2);
    }

    /// In a deployment that replaces one process after the other, either of the two names can be the one of the older delivery.
    async fn a_renamed_receiver_keeps_the_order_of_a_key(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        for (renamed, blocks) in [(0, "dead_at = T"), (0, "run_at = T"), (0, "worker = 'another', run_at = T"), (1, "run_at = T")] {
            let mut step = Step { id: None, n: 0 };
            for n in 0..2 {
                step.n = n;
                step.save(&db).await.unwrap();
            }
            let stored = list(&db, DeliveryFilter::new()).await;
            let rename = format!("UPDATE signals_delivery SET receiver = 'durable_kept::old_step' WHERE id = {}", stored[renamed].id);
            execute(&db, &rename).await;
            let block = format!("UPDATE signals_delivery SET {} WHERE id = {}", blocks.replace('T', &ago(&db, -3600)), stored[0].id);
            execute(&db, &block).await;
            // Another key does not wait.
            Step { id: None, n: 7 }.save(&db).await.unwrap();
            assert_eq!(delivered(&db).await, ["step 7"], "{renamed} {blocks}");
            let free = format!("UPDATE signals_delivery SET dead_at = NULL, worker = NULL, run_at = {}", ago(&db, 1));
            execute(&db, &free).await;
            testing::deliver(&db).await.unwrap();
            assert_eq!(SCENE.log.take(), ["step 0", "step 1"], "{renamed} {blocks}");
        }
    }

    async fn numbers_are_the_same_after_they_were_json(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let values = vec![51.248_178_375_505_404, 0.1, f64::MIN_POSITIVE];
        let mut reading = Reading { id: None, values: values.clone() };
        reading.save(&db).await.unwrap();
        assert_eq!(delivered(&db).await, [format!("{values:?}")]);
        assert_eq!(Reading::get(&db, reading.id.unwrap()).await.unwrap().values, values);
    }
}

#[test]
fn reports_show_how_long_deliveries_are_kept() {
    let lock = registry().to_lock();
    assert!(lock.contains("index (durable, default, 2 × 1h, keep 7d) payload"), "{lock}");
    assert!(registry().get::<link>().to_string().contains("keep 1h"));
}

#[test]
fn reports_show_by_what_deliveries_are_combined() {
    let lock = registry().to_lock();
    assert!(
        lock.contains("reindex (durable, default, 20 × 1s..1h, coalesce pk) payload"),
        "{lock}"
    );
    assert!(
        lock.contains("count_opened (durable, default, 20 × 1s..1h, coalesce doc) payload"),
        "{lock}"
    );
}

on_every_database! {
    async fn a_delivery_with_keep_is_kept_when_it_has_succeeded(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        page("home").save(&db).await.unwrap();
        assert!(list(&db, kept()).await.is_empty());
        let before = list(&db, DeliveryFilter::new().receiver::<index>()).await;
        testing::deliver(&db).await.unwrap();
        assert_eq!((count(&db, "signals_delivery").await, count(&db, "links").await), (0, 1));
        let done = list(&db, kept()).await;
        let receivers: Vec<_> = done.iter().map(|done| done.receiver.rsplit_once("::").unwrap().1).collect();
        assert_eq!(receivers, ["index", "link"]);
        let (before, after) = (&before[0], &done[0]);
        assert_eq!((after.id, after.event, &after.payload), (before.id, before.event, &before.payload));
        assert_eq!((after.state(), after.attempt, after.stored_at), (DeliveryState::Done, 1, before.stored_at));
        assert!(after.done_at.unwrap() >= before.stored_at);
        assert_eq!(db.deliveries().get(after.id).await.unwrap().unwrap().state(), DeliveryState::Done);
        assert_eq!(list(&db, kept().receiver::<link>()).await.len(), 1);
        // What operators do with stored deliveries does not change kept ones.
        assert!(list(&db, DeliveryFilter::new()).await.is_empty());
        assert!(!db.deliveries().retry(after.id).await.unwrap() && !db.deliveries().discard(after.id).await.unwrap());
        assert_eq!(db.deliveries().retry_all(kept()).await.unwrap(), 0);
    }

    async fn a_delivery_that_fails_is_not_kept(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        page("fails").save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        assert_eq!((count(&db, "signals_done").await, count(&db, "signals_delivery").await), (0, 3));
        assert_eq!(count(&db, "links").await, 0);
    }

    async fn a_replayed_delivery_runs_again_with_the_same_key_and_is_kept_again(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        page("home").save(&db).await.unwrap();
        let first = delivered(&db).await;
        // Stored under the former name, it belongs to the receiver too.
        execute(&db, "UPDATE signals_done SET receiver = 'durable_kept::old_index' WHERE receiver LIKE '%index'").await;
        assert_eq!(db.deliveries().replay::<announce>(DeliveryFilter::new()).await.unwrap(), 0);
        assert_eq!(db.deliveries().replay::<index>(DeliveryFilter::new().state(DeliveryState::Dead)).await.unwrap(), 0);
        assert_eq!(db.deliveries().replay::<index>(DeliveryFilter::new()).await.unwrap(), 1);
        let due = list(&db, DeliveryFilter::new()).await;
        assert_eq!((due.len(), due[0].attempt, due[0].state()), (1, 0, DeliveryState::Waiting));
        assert_eq!(count(&db, "signals_done").await, 1);
        execute(&db, "UPDATE signals_delivery SET receiver = 'durable_kept::index'").await;
        assert_eq!(delivered(&db).await, first[1..]);
        assert_eq!((count(&db, "signals_delivery").await, list(&db, kept().receiver::<index>()).await.len()), (0, 1));
        // The receiver with the connection.
        let id = list(&db, kept().receiver::<link>()).await[0].id;
        assert!(db.deliveries().replay_one(id).await.unwrap() && !db.deliveries().replay_one(id).await.unwrap());
        testing::deliver(&db).await.unwrap().assert_ran::<link>(1);
        assert_eq!(count(&db, "links").await, 2);
    }

    async fn a_filter_selects_what_is_replayed(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        for n in 0..5 {
            page(&n.to_string()).save(&db).await.unwrap();
        }
        testing::deliver(&db).await.unwrap();
        let deliveries = db.deliveries();
        assert_eq!(deliveries.replay_all(DeliveryFilter::new().queue("links").limit(2)).await.unwrap(), 2);
        assert_eq!(deliveries.replay_all(DeliveryFilter::new().queue("mail")).await.unwrap(), 0);
        let newest = list(&db, kept().receiver::<index>().newest_first()).await;
        let rest = DeliveryFilter::new().newest_first().after_id(newest[1].id);
        assert_eq!(deliveries.replay::<index>(rest).await.unwrap(), 3);
        assert_eq!(list(&db, kept().receiver::<index>().newest_first()).await.len(), 2);
        let old = DeliveryFilter::new().before(newest[0].stored_at - std::time::Duration::from_secs(1));
        assert_eq!(deliveries.replay_all(old).await.unwrap(), 0);
        assert_eq!(deliveries.replay_all(DeliveryFilter::new()).await.unwrap(), 5);
        assert_eq!((count(&db, "signals_done").await, count(&db, "signals_delivery").await), (0, 10));
    }

    async fn more_kept_deliveries_than_a_batch_are_replayed(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        page("home").save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        execute(&db, "DELETE FROM signals_done WHERE receiver LIKE '%link'").await;
        let columns = "event, receiver, signal, sender, payload, stored_at, run_at, attempt, claim, lost, done_at, keep_until";
        let copy = format!(
            "INSERT INTO signals_done (id, {columns}) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2500)              SELECT n + 1000, {columns} FROM signals_done, n"
        );
        execute(&db, &copy).await;
        assert_eq!(db.deliveries().replay::<index>(DeliveryFilter::new()).await.unwrap(), 2501);
        assert_eq!((count(&db, "signals_done").await, count(&db, "signals_delivery").await), (0, 2501));
        // New deliveries get other ids than replayed ones.
        page("next").save(&db).await.unwrap();
        assert_eq!(count(&db, "signals_delivery").await, 2504);
    }

    async fn a_worker_keeps_what_succeeds_and_deletes_what_is_old(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = db.with(CurrentUser(0));
        page("old").save(&db).await.unwrap();
        page("fails").save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        let (hour, day) = (ago(&db, 3600), ago(&db, 24 * 3600));
        execute(&db, &format!("UPDATE signals_done SET keep_until = {hour} WHERE receiver LIKE '%index'")).await;
        // Of three dead deliveries, one is old enough.
        execute(&db, &format!("UPDATE signals_delivery SET dead_at = {day} WHERE receiver LIKE '%announce'")).await;
        execute(&db, "UPDATE signals_delivery SET attempt = 2, dead_at = run_at WHERE receiver LIKE '%index'").await;
        SCENE.log.take();
        let error = db.deliveries().worker().prune_dead("soon").spawn().await.unwrap_err();
        assert!(error.to_string().contains("`soon` is not a duration"), "{error}");
        let worker = db.deliveries().worker().prune_dead("12h").spawn().await.unwrap();
        wait_for_rows(&db, "signals_done", 1).await;
        wait_for_rows(&db, "signals_delivery", 2).await;
        page("new").save(&db).await.unwrap();
        wait_for_rows(&db, "signals_done", 3).await;
        wait_for_rows(&db, "signals_delivery", 2).await;
        worker.shutdown().await.unwrap();
        assert_eq!(list(&db, kept().receiver::<link>()).await.len(), 2);
        assert_eq!(list(&db, kept().receiver::<index>()).await.len(), 1);
        assert_eq!(SCENE.log.take().len(), 2);
    }

    async fn a_worker_does_not_delete_dead_deliveries_unless_it_is_told(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = db.with(CurrentUser(0));
        page("fails").save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        let year = ago(&db, 365 * 24 * 3600);
        execute(&db, &format!("UPDATE signals_delivery SET dead_at = {year}")).await;
        page("old").save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        execute(&db, &format!("UPDATE signals_done SET keep_until = {year}")).await;
        let worker = db.deliveries().worker().spawn().await.unwrap();
        // It has looked for old deliveries.
        wait_for_rows(&db, "signals_done", 0).await;
        worker.shutdown().await.unwrap();
        assert_eq!(count(&db, "signals_delivery").await, 3);
    }

    async fn tables_of_the_previous_version_are_migrated_and_programs_of_it_continue(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = db.with(CurrentUser(0));
        execute(&db, "DROP TABLE signals_delivery; DROP TABLE signals_schema; DROP TABLE signals_done; DROP TABLE signals_inbox").await;
        execute(&db, durable::migrations(db.kind())[0].sql).await;
        let error = db.check().await.unwrap_err().to_string();
        assert!(error.contains("version 1"), "{error}");
        let error = db.deliveries().worker().spawn().await.unwrap_err();
        assert!(matches!(error, Error::DeliveriesNotSetUp { found: 1, needed: 3 }), "{error}");
        // What a program of version 1 has stored, and then what it does with the new tables.
        execute(&db, &of_version_1(&db, "before")).await;
        db.deliveries().setup().await.unwrap();
        assert_eq!(count(&db, "signals_schema").await, 3);
        execute(&db, &of_version_1(&db, "after")).await;
        page("new").save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<index>(3);
        assert_eq!(list(&db, kept().receiver::<index>()).await.len(), 3);
        page("by version 1").save(&db).await.unwrap();
        // Its acknowledgement does not know `keep`.
        execute(&db, "DELETE FROM signals_delivery WHERE claim = 0").await;
        assert_eq!((count(&db, "signals_delivery").await, list(&db, kept().receiver::<index>()).await.len()), (0, 3));
    }
}

/// The statement with which a program of version 1 stores a delivery.
fn of_version_1(db: &Db, title: &str) -> String {
    let (row, event) = (
        format!("'{{\"row\":{{\"id\":1,\"title\":\"{title}\"}}}}'"),
        "'0198c0f4-0000-7000-8000-000000000000'",
    );
    let now = ago(db, 0);
    format!(
        "INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key) \
         SELECT {event}, 'durable_kept::index', 'post_save', 'pages', '1', true, {row}, NULL, {now}, NULL"
    )
}

/// Inserts this number of products without a save.
async fn insert_products(db: &Db, shop: &str, products: usize) {
    let insert = format!(
        "INSERT INTO products (shop, number, name) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {products}) \
         SELECT '{shop}', n, 'p' || n FROM n"
    );
    execute(db, &insert).await;
}

on_every_database! {
    async fn rows_that_exist_already_are_delivered_to_one_receiver(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        insert_products(&db, "north", 3).await;
        insert_products(&db, "south", 1).await;
        let of_north = || Product::query("WHERE shop = $1 AND number > $2").bind("north").bind(1_i64);
        assert_eq!(of_north().deliver::<index_product>(&db).await.unwrap(), 2);
        assert_eq!(count(&db, "signals_delivery").await, 2);
        assert_eq!(delivered(&db).await, ["(\"north\", 2) p2 false", "(\"north\", 3) p3 false"]);
        // As the receiver declares it.
        assert_eq!(of_north().deliver::<greet_product>(&db).await.unwrap(), 2);
        assert_eq!(delivered(&db).await, ["greet p2 true", "greet p3 true"]);
        assert_eq!(Product::query("WHERE false").deliver::<index_product>(&db).await.unwrap(), 0);
    }

    async fn more_rows_than_a_chunk_are_delivered_and_batches_have_a_delivery_for_each_chunk(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        insert_products(&db, "north", 2500).await;
        assert_eq!(Product::query("").deliver::<index_product>(&db).await.unwrap(), 2500);
        assert_eq!(count(&db, "signals_delivery").await, 2500);
        let keys = "(SELECT DISTINCT ordering_key FROM signals_delivery) k";
        assert_eq!(count(&db, keys).await, 2500);
        execute(&db, "DELETE FROM signals_delivery").await;
        assert_eq!(Product::query("").deliver::<index_products>(&db).await.unwrap(), 2500);
        assert_eq!(delivered(&db).await, ["1000 products", "1000 products", "500 products"]);
    }

    async fn a_delivered_row_is_the_one_that_a_concurrent_transaction_commits(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        insert_products(&db, "north", 2).await;
        let mut tx = db.begin().await.unwrap();
        tx.execute("UPDATE products SET name = 'new' WHERE number = 2").await.unwrap();
        let other = db.clone();
        let delivers =
            tokio::spawn(async move { Product::query("").deliver::<index_product>(&other).await });
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(!delivers.is_finished());
        tx.commit().await.unwrap();
        assert_eq!(delivers.await.unwrap().unwrap(), 2);
        assert_eq!(delivered(&db).await, ["(\"north\", 1) p1 false", "(\"north\", 2) new false"]);
    }

    async fn rows_that_exist_already_are_delivered_without_other_signals(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        insert_products(&db, "north", 1).await;
        let load = post_load.connect::<Product>("load", |_, _| Box::pin(async { SCENE.log.push("load"); Err("refused".into()) }));
        let delivered = Product::query("").deliver::<index_product>(&db).await;
        assert!(load.disconnect());
        assert_eq!((delivered.unwrap(), SCENE.log.take()), (1, Vec::new()));
    }

    async fn only_durable_receivers_of_the_saves_of_the_model_get_rows(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        insert_products(&db, "north", 1).await;
        let refused = [
            Product::query("").deliver::<check_product>(&db).await,
            Product::query("").deliver::<index>(&db).await,
            Page::query("").deliver::<index_product>(&db).await,
        ];
        for refused in refused {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("is not an enabled durable receiver of `post_save`"), "{error}");
        }
        assert_eq!(count(&db, "signals_delivery").await, 0);
    }

    async fn a_delivery_that_was_never_claimed_takes_the_newer_payload(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut one = doc("a", "first");
        one.save(&db).await.unwrap();
        let older = list(&db, DeliveryFilter::new().receiver::<reindex>()).await;
        one.title = "second".into();
        one.save(&db).await.unwrap();
        doc("a", "other").save(&db).await.unwrap();
        Folder { id: None, title: "folder".into() }.save(&db).await.unwrap();
        let newer = list(&db, DeliveryFilter::new().receiver::<reindex>()).await;
        assert_eq!((newer.len(), newer[0].id, newer[0].stored_at), (2, older[0].id, older[0].stored_at));
        assert_ne!(newer[0].event, older[0].event);
        let log = delivered(&db).await;
        let expected = [
            "1 second true", "2 other true", "both docs Some(\"1\")", "both docs Some(\"2\")", "both folders Some(\"1\")", "shelf a other",
        ];
        assert_eq!(log, expected);
    }

    async fn saves_of_one_transaction_are_combined_and_a_rolled_back_one_is_not(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut one = doc("a", "first");
        let done = testing::transaction(&db, async |tx| {
            one.save(&mut *tx).await?;
            one.title = "second".into();
            let mut savepoint = tx.begin().await?;
            one.save(&mut savepoint).await?;
            doc("b", "other").save(&mut savepoint).await?;
            savepoint.commit().await?;
            one.title = "third".into();
            let mut savepoint = tx.begin().await?;
            one.save(&mut savepoint).await?;
            savepoint.rollback().await?;
            testing::deliver(&mut *tx).await.map(drop)
        })
        .await
        .unwrap();
        done.assert_stored::<reindex>(2);
        done.assert_stored::<count_shelf>(2);
        let mut log = SCENE.log.take();
        log.sort();
        assert_eq!(log[log.len() - 2..], ["shelf a second", "shelf b other"]);
        assert!(log[0].ends_with("second true") && log[1].ends_with("other true"), "{log:?}");
    }

    async fn rows_of_a_bulk_save_with_one_key_have_one_delivery(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut docs: Vec<_> = (0..2500).map(|n| doc(if n % 2 == 0 { "a" } else { "b" }, &n.to_string())).collect();
        Doc::insert_many(&db, &mut docs).await.unwrap();
        assert_eq!(list(&db, DeliveryFilter::new().receiver::<count_shelf>()).await.len(), 2);
        assert_eq!(list(&db, DeliveryFilter::new().receiver::<reindex>().limit(9999)).await.len(), 2500);
        let log = delivered(&db).await;
        assert!(log.ends_with(&["shelf a 2498".into(), "shelf b 2499".into()]), "{:?}", log.last());
    }

    async fn a_claimed_delivery_is_not_combined_with(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        doc("a", "fails").save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_failed::<count_shelf>(1);
        let mut shelf = list(&db, DeliveryFilter::new().receiver::<count_shelf>()).await;
        doc("a", "second").save(&db).await.unwrap();
        doc("a", "third").save(&db).await.unwrap();
        shelf.extend(list(&db, DeliveryFilter::new().receiver::<count_shelf>().after_id(shelf[0].id)).await);
        assert_eq!(shelf.iter().map(|delivery| delivery.claim).collect::<Vec<_>>(), [1, 0]);
        SCENE.log.take();
        testing::make_due(&db).await.unwrap();
        let log = delivered(&db).await;
        assert_eq!(log[log.len() - 2..], ["shelf a fails", "shelf a third"]);
    }

    async fn the_events_of_a_custom_signal_are_combined_by_a_field(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        for (doc, by) in [(1, "ann"), (2, "ann"), (1, "bob")] {
            Opened { doc, by: by.into() }.send(&db).await.unwrap();
        }
        testing::make_due(&db).await.unwrap();
        assert_eq!(delivered(&db).await, ["opened 1 bob", "opened 2 ann"]);
    }

    async fn writers_and_workers_of_one_key_lose_no_last_state(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = db.with(CurrentUser(0));
        let worker = db.deliveries().worker().queues(["shelves"]).spawn().await.unwrap();
        let writers = (0..4).map(|writer| {
            let db = db.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    // Two keys in either order.
                    let keys = if n % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
                    let mut tx = db.begin().await.unwrap();
                    for key in keys {
                        doc(key, &format!("{writer} {n}")).save(&mut tx).await.unwrap();
                    }
                    tx.commit().await.unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        doc("a", "last").save(&db).await.unwrap();
        for _ in 0..1000 {
            if list(&db, DeliveryFilter::new().receiver::<count_shelf>()).await.is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        worker.shutdown().await.unwrap();
        let log = SCENE.log.take();
        assert!(log.contains(&"shelf a last".to_owned()), "{log:?}");
        assert!(log.len() <= 161 && log.iter().any(|line| line.ends_with("19")), "{log:?}");
    }
}

async fn execute_in(tx: &mut Transaction<'_>, sql: &'static str) {
    // The deliveries of a transaction are written before its end.
    testing::make_due(&mut *tx).await.unwrap();
    tx.execute(sql).await.unwrap();
}
