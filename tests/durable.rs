//! Durable receivers: what is stored, what is run, and what follows from a failure.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use common::{Scene, count, execute, table};
use serde::{Deserialize, Serialize};
use sqlx_signals::durable::{self, Retry};
use sqlx_signals::prelude::*;
use sqlx_signals::testing::WorkerDeath;
use sqlx_signals::{DatabaseKind, Error, Phase, muted, testing, without_signals};
use tokio::sync::Semaphore;

static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Clone, PartialEq, Model, Serialize, Deserialize)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    email: String,
}

#[derive(Debug, Model)]
#[model(table = "accounts")]
struct Account {
    id: Option<i64>,
    user_id: i64,
}

/// Belongs to a user, and is deleted with it.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = cascade)]
    user_id: i64,
    text: String,
}

/// Its receiver saves the next one.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "links")]
struct Link {
    id: Option<i64>,
    depth: i64,
}

/// Its receiver causes the next one by a receiver on a task of its own.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "links")]
struct Echo {
    id: Option<i64>,
    depth: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "entries")]
struct Answer {
    id: Option<i64>,
    account: i64,
    text: String,
}

#[derive(Debug, Signal, Serialize, Deserialize)]
struct OrderPaid {
    order: i64,
}

#[derive(Debug, Signal, Serialize, Deserialize)]
struct Uploaded {
    text: String,
}

#[receiver(Uploaded, on_commit)]
fn after_upload(_: &Uploaded) {
    SCENE.log.push("after the upload");
}

#[receiver(Uploaded, durable(at_least_once))]
fn scan(_: &Uploaded) {}

fn user(name: &str) -> User {
    User { id: None, name: name.into(), email: format!("{name}@example.org") }
}

/// Opens an account in the transaction that acknowledges the delivery.
#[receiver(post_save, sender = User, created, durable(backoff = "1h"))]
async fn open_account(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    Account { id: None, user_id: saved.pk() }.save(&mut *conn).await?;
    match saved.instance.name.as_str() {
        "unlucky" => Err(Error::other("no account for you")),
        _ => Ok(()),
    }
}

static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

/// What some of the receivers wait for.
static GATE: Semaphore = Semaphore::const_new(0);

#[receiver(post_save, sender = User, durable(queue = "mail", max_attempts = 3, backoff = "1h", timeout = "4s"))]
async fn welcome(saved: PostSave<'_, User>, delivery: Delivery<'_>) -> Result<()> {
    let name = saved.instance.name.as_str();
    SCENE.log.push(format!("{name} {} {}", saved.created, delivery.attempt()));
    match name {
        "never" => Err(Retry::never("no such address").into()),
        "after" => Err(Retry::after(Duration::from_secs(3600), "the server is busy"))?,
        "snooze" => Err(Retry::snooze(Duration::from_secs(3600)).into()),
        "fails" => Err(Error::other("the mail server is down")),
        "panics" => panic!("a mistake"),
        "slow" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        }
        "slower than a lease" => {
            GATE.acquire().await.unwrap().forget();
            Ok(())
        }
        "fails late" => {
            GATE.acquire().await.unwrap().forget();
            Err(Error::other("too late"))
        }
        "keys" => {
            let key = (delivery.idempotency_key(), delivery.event(), delivery.is_last_attempt());
            SCENE.log.push(format!("{key:?}"));
            if ATTEMPTS.fetch_add(1, Ordering::SeqCst) < 2 {
                Err(Error::other("again"))
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

#[receiver(post_save, sender = User, updated, changed(email), durable(at_least_once))]
fn log_change(saved: PostSave<'_, User>, previous: Previous<'_, User>) {
    let before = previous.row().map_or("", |row| row.email.as_str());
    let changed = (previous.changed(User::EMAIL), previous.changed(User::NAME));
    let fields =
        saved.fields.map(|fields| fields.iter().map(|field| field.name()).collect::<Vec<_>>());
    SCENE.log.push(format!("{before} → {} {changed:?} {fields:?}", saved.instance.email));
}

#[receiver(post_delete, sender = User, durable(at_least_once))]
fn log_delete(deleted: PostDelete<'_, User>) {
    SCENE.log.push(format!("deleted {} {}", deleted.pk(), deleted.instance.name));
}

#[receiver(post_delete, sender = Note, durable(at_least_once))]
fn log_note(deleted: PostDelete<'_, Note>, _db: Db) {
    SCENE.log.push(format!("deleted note {}", deleted.instance.text));
}

#[receiver(post_save_batch, sender = Note, durable(at_least_once))]
fn log_notes(saved: PostSaveBatch<'_, Note>) {
    SCENE.log.push(format!("{} notes {}", saved.instances.len(), saved.created));
}

#[receiver(post_save, sender = Link, durable(max_attempts = 1))]
async fn next_link(
    saved: PostSave<'_, Link>,
    delivery: Delivery<'_>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    let caused = delivery.caused_by().is_some();
    let first = delivery.correlation() == delivery.event();
    SCENE.log.push(format!("{} {caused} {first}", saved.instance.depth));
    Link { id: None, depth: saved.instance.depth + 1 }.save(conn).await?;
    Ok(())
}

#[receiver(post_save, sender = Echo, durable(max_attempts = 1))]
async fn echo(
    saved: PostSave<'_, Echo>,
    delivery: Delivery<'_>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    let caused = delivery.caused_by().is_some();
    SCENE.log.push(format!("{} {caused}", saved.instance.depth));
    Answer { id: None, account: saved.instance.depth, text: "echo".into() }.save(conn).await?;
    Ok(())
}

#[receiver(post_save, sender = Answer, on_commit(detached))]
async fn next_echo(saved: PostSave<'_, Answer>, db: Db) -> Result<()> {
    Echo { id: None, depth: saved.instance.account + 1 }.save(&db).await?;
    Ok(())
}

#[receiver(OrderPaid, durable(delay = "1h"))]
async fn ship(paid: &OrderPaid, delivery: Delivery<'_>) {
    SCENE.log.push(format!("ship {} {}", paid.order, delivery.attempt()));
}

/// An entry of an account. The entries of one account are applied in their order.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "entries")]
struct Entry {
    id: Option<i64>,
    account: i64,
    text: String,
}

fn entry(account: i64, text: &str) -> Entry {
    Entry { id: None, account, text: text.into() }
}

fn account_of(entry: &Entry) -> String {
    format!("account {}", entry.account)
}

/// The accounts whose entry is being applied.
static APPLYING: Mutex<BTreeSet<i64>> = Mutex::new(BTreeSet::new());

#[receiver(post_save, sender = Entry, durable(ordering_key = account, max_attempts = 2, backoff = "1h"))]
async fn apply(saved: PostSave<'_, Entry>, _delivery: Delivery<'_>) -> Result<()> {
    let Entry { account, text, .. } = saved.instance;
    assert!(APPLYING.lock().unwrap().insert(*account), "two entries of {account} at a time");
    if text.starts_with("slow") {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..5))).await;
    }
    APPLYING.lock().unwrap().remove(account);
    SCENE.log.push(format!("{account}: {text}"));
    if text == "fails" { Err(Error::other("no")) } else { Ok(()) }
}

#[receiver(
    post_save,
    sender = Entry,
    durable(queue = "skipping", ordering_key = self::account_of, on_dead = skip, max_attempts = 1)
)]
async fn apply_skipping(saved: PostSave<'_, Entry>, conn: &mut Conn<'_>) -> Result<()> {
    let _ = conn;
    SCENE.log.push(format!("skipping {}: {}", saved.instance.account, saved.instance.text));
    if saved.instance.text == "fails" { Err(Error::other("no")) } else { Ok(()) }
}

#[derive(Debug, Signal, Serialize, Deserialize)]
struct Moved {
    car: String,
    to: i64,
}

#[receiver(Moved, durable(ordering_key = car))]
async fn log_move(moved: &Moved, _delivery: Delivery<'_>) {
    SCENE.log.push(format!("{} {}", moved.car, moved.to));
}

/// Is `null` in JSON.
#[derive(Debug, Signal, Serialize, Deserialize)]
struct Stopped;

#[receiver(Stopped, durable(at_least_once))]
async fn log_stop(_: &Stopped) {
    SCENE.log.push("stopped");
}

#[derive(Debug, Model)]
#[model(table = "pages")]
struct Page {
    id: Option<i64>,
    title: String,
}

/// The page needs no serde, because only its key is stored.
#[receiver(post_save, sender = Page, durable(payload = key, was = "durable::old_index", at_least_once))]
async fn index_page(saved: PostSave<'_, Page>) {
    let fields = saved.fields.map(|fields| fields.len());
    SCENE.log.push(format!("{} {} {} {fields:?}", saved.pk(), saved.instance.title, saved.created));
}

#[receiver(post_save, sender = Page, durable(queue = "links", payload = key))]
async fn link_page(saved: PostSave<'_, Page>, conn: &mut Conn<'_>) -> Result<()> {
    Account { id: None, user_id: saved.pk() }.save(conn).await?;
    Ok(())
}

/// Runs the deliveries of one of the two receivers of entries.
async fn applied(db: &Db, skipping: bool) -> Vec<String> {
    match skipping {
        true => execute(db, "DELETE FROM signals_delivery WHERE receiver LIKE '%apply'").await,
        false => {
            execute(db, "DELETE FROM signals_delivery WHERE receiver LIKE '%apply_skipping'").await
        }
    }
    testing::deliver(db).await.unwrap();
    SCENE.log.take()
}

async fn setup(db: &Db) {
    let key = match db.kind() {
        DatabaseKind::Sqlite => "INTEGER",
        DatabaseKind::Postgres => "BIGINT",
    };
    table(db, "users", "name TEXT NOT NULL, email TEXT NOT NULL").await;
    table(db, "accounts", &format!("user_id {key} NOT NULL")).await;
    table(db, "notes", &format!("user_id {key} NOT NULL REFERENCES users, text TEXT NOT NULL"))
        .await;
    table(db, "entries", &format!("account {key} NOT NULL, text TEXT NOT NULL")).await;
    table(db, "pages", "title TEXT NOT NULL").await;
    table(db, "links", &format!("depth {key} NOT NULL")).await;
    db.deliveries().setup().await.unwrap();
}

async fn stored(db: &Db) -> i64 {
    count(db, "signals_delivery").await
}

/// The state of the only delivery of `welcome`: attempts, whether it is dead, whether it is due within a minute, and its error.
async fn state(db: &Db) -> (i32, bool, bool, Option<String>) {
    let soon = match db.kind() {
        DatabaseKind::Sqlite => "run_at < (unixepoch() + 61) * 1000",
        DatabaseKind::Postgres => "run_at < now() + interval '61 s'",
    };
    let sql = format!(
        "SELECT attempt, CASE WHEN dead_at IS NULL THEN 0 ELSE 1 END, CASE WHEN {soon} THEN 1 ELSE 0 END, error \
         FROM signals_delivery WHERE receiver LIKE '%welcome'"
    );
    let row: (i32, i32, i32, Option<String>) =
        db.query(sqlx_signals::sqlx::AssertSqlSafe(sql)).fetch_one().await.unwrap();
    (row.0, row.1 == 1, row.2 == 1, row.3)
}

/// Saves a user, of whose deliveries only `welcome` is left, and runs it once.
async fn welcomed(db: &Db, name: &str) -> (i32, bool, bool, Option<String>) {
    muted::<open_account, _>(async { user(name).save(db).await }).await.unwrap();
    testing::deliver(db).await.unwrap();
    state(db).await
}

#[test]
fn reports_show_durable_receivers_with_their_options() {
    let receiver = registry().get::<welcome>();
    assert_eq!(
        (receiver.phase(), receiver.phase().to_string().as_str()),
        (Phase::Durable, "durable")
    );
    assert!(receiver.to_string().contains("durable, mail, 3 × 1h"), "{receiver}");
    let lock = registry().to_lock();
    let line = "durable::welcome (durable, mail, 3 × 1h) payload(id, name, email)";
    assert!(lock.contains(line), "{lock}");
    assert!(lock.contains("open_account (durable, default, 20 × 1h) created payload"), "{lock}");
    assert!(registry().to_json().contains("\"phase\":\"durable\""));
    assert!(lock.contains("apply (durable, default, 2 × 1h, by account)"), "{lock}");
    assert!(lock.contains("20 × 1s..1h, by car) payload()"), "{lock}");
    assert!(registry().to_mermaid().contains("durable, mail"));
}

on_every_database! {
    async fn a_worker_that_dies_before_the_run_leaves_everything_to_the_next_one(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        user("ann").save(&db).await.unwrap();
        let died = testing::worker_dies_at(WorkerDeath::BeforeRun, &db).await.unwrap();
        died.assert_ran::<welcome>(0);
        died.assert_ran::<open_account>(0);
        assert_eq!((SCENE.log.take().len(), count(&db, "accounts").await, stored(&db).await), (0, 0, 2));
        testing::deliver(&db).await.unwrap().assert_ran::<open_account>(1);
        // A death is no attempt.
        assert_eq!(SCENE.log.take(), ["ann true 1"]);
        assert_eq!((count(&db, "accounts").await, stored(&db).await), (1, 0));
    }

    async fn a_worker_that_dies_after_the_run_repeats_only_what_is_not_in_its_transaction(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        for (users, point) in (1..).zip([WorkerDeath::AfterRun, WorkerDeath::BeforeAcknowledgement]) {
            user("ann").save(&db).await.unwrap();
            let died = testing::worker_dies_at(point, &db).await.unwrap();
            died.assert_ran::<welcome>(1);
            died.assert_ran::<open_account>(1);
            died.assert_failed::<open_account>(0);
            assert_eq!((count(&db, "accounts").await, stored(&db).await), (users - 1, 2), "{point:?}");
            testing::deliver(&db).await.unwrap();
            assert_eq!(SCENE.log.take(), ["ann true 1", "ann true 1"], "{point:?}");
            assert_eq!((count(&db, "accounts").await, stored(&db).await), (users, 0), "{point:?}");
        }
    }

    async fn a_worker_that_dies_in_commit_has_stored_the_result(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        user("ann").save(&db).await.unwrap();
        testing::worker_dies_at(WorkerDeath::InCommit, &db).await.unwrap().assert_ran::<welcome>(1);
        assert_eq!((count(&db, "accounts").await, stored(&db).await), (1, 0));
        testing::deliver(&db).await.unwrap().assert_ran::<welcome>(0);
        assert_eq!(SCENE.log.take(), ["ann true 1"]);
        // What the receiver has stored is committed with its result.
        Link { id: None, depth: 1 }.save(&db).await.unwrap();
        without_signals(testing::worker_dies_at(WorkerDeath::InCommit, &db)).await.unwrap();
        assert_eq!((count(&db, "links").await, stored(&db).await), (2, 0));
    }

    async fn the_failure_of_a_receiver_is_lost_only_if_its_worker_dies_right_after_the_run(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        muted::<open_account, _>(async { user("fails").save(&db).await }).await.unwrap();
        let died = testing::worker_dies_at(WorkerDeath::AfterRun, &db).await.unwrap();
        died.assert_failed::<welcome>(1);
        assert_eq!(state(&db).await, (1, false, true, None));
        let died = testing::worker_dies_at(WorkerDeath::BeforeAcknowledgement, &db).await.unwrap();
        died.assert_failed::<welcome>(1);
        let (attempt, is_dead, is_due, error) = state(&db).await;
        assert_eq!((attempt, is_dead, is_due), (1, false, false));
        assert!(error.unwrap().contains("the mail server is down"));
        let failed = muted::<welcome, _>(async { user("unlucky").save(&db).await });
        failed.await.unwrap();
        for point in [WorkerDeath::AfterRun, WorkerDeath::InCommit] {
            testing::worker_dies_at(point, &db).await.unwrap().assert_failed::<open_account>(1);
            assert_eq!((count(&db, "accounts").await, stored(&db).await), (0, 2));
        }
        testing::deliver(&db).await.unwrap().assert_ran::<open_account>(0);
    }

    async fn a_delivery_whose_workers_die_again_and_again_is_dead(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        muted::<open_account, _>(async { user("ann").save(&db).await }).await.unwrap();
        for _ in 0..5 {
            testing::worker_dies_at(WorkerDeath::AfterRun, &db).await.unwrap().assert_ran::<welcome>(1);
        }
        testing::deliver(&db).await.unwrap();
        let (attempt, is_dead, _, error) = state(&db).await;
        assert_eq!((attempt, is_dead), (0, true));
        assert!(error.unwrap().contains("its worker was lost 5 times"));
        let error = testing::worker_dies_at(WorkerDeath::AfterRun, &db).await.unwrap_err();
        assert!(error.to_string().contains("no delivery is due"), "{error}");
    }

    async fn the_death_of_a_worker_keeps_the_order_of_a_key(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        for text in ["first", "second"] {
            muted::<apply_skipping, _>(async { entry(1, text).save(&db).await }).await.unwrap();
        }
        for point in WorkerDeath::ALL {
            testing::worker_dies_at(point, &db).await.unwrap();
        }
        testing::deliver(&db).await.unwrap();
        // Only the last point stores the result, and lets the key continue.
        assert_eq!(SCENE.log.take(), ["1: first", "1: first", "1: first", "1: second"]);
    }

    async fn a_worker_can_die_in_the_transaction_of_a_test(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let done = testing::transaction(&db, async |tx| {
            user("ann").save(&mut *tx).await?;
            let died = testing::worker_dies_at(WorkerDeath::AfterRun, &mut *tx).await?;
            died.assert_ran::<open_account>(1);
            let before = Account::query("").count(&mut *tx).await?;
            testing::deliver(&mut *tx).await?.assert_ran::<open_account>(1);
            Ok((before, Account::query("").count(tx).await?))
        })
        .await
        .unwrap();
        assert_eq!(done.value, (0, 1));
        assert_eq!(SCENE.log.take(), ["ann true 1", "ann true 1"]);
    }

    async fn a_delivery_is_stored_with_its_row_and_runs_once(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        user("ann").save(&db).await.unwrap();
        assert_eq!(stored(&db).await, 2);
        assert_eq!(count(&db, "accounts").await, 0);
        let delivered = testing::deliver(&db).await.unwrap();
        delivered.assert_ran::<open_account>(1);
        delivered.assert_ran::<welcome>(1);
        assert_eq!(SCENE.log.take(), ["ann true 1"]);
        assert_eq!((count(&db, "accounts").await, stored(&db).await), (1, 0));
        testing::deliver(&db).await.unwrap().assert_ran::<welcome>(0);
    }

    async fn the_deliveries_of_a_transaction_share_its_end(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut tx = db.begin().await.unwrap();
        user("outer").save(&mut tx).await.unwrap();
        let mut inner = tx.begin().await.unwrap();
        user("undone").save(&mut inner).await.unwrap();
        inner.rollback().await.unwrap();
        let mut inner = tx.begin().await.unwrap();
        user("inner").save(&mut inner).await.unwrap();
        inner.commit().await.unwrap();
        assert_eq!(count(&db, "signals_delivery").await, 0);
        tx.commit().await.unwrap();
        assert_eq!(stored(&db).await, 4);

        let mut tx = db.begin().await.unwrap();
        user("rolled back").save(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        let failed = db.transaction(async |tx| {
            user("failed").save(tx).await?;
            Err::<(), _>(Error::other("no"))
        });
        assert!(failed.await.is_err());
        assert_eq!(stored(&db).await, 4);
        testing::deliver(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["outer true 1", "inner true 1"]);
    }

    async fn a_plain_transaction_of_sqlx_stores_deliveries(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        macro_rules! both {
            ($pool:expr) => {
                if let Some(pool) = $pool {
                    let mut tx = pool.begin().await.unwrap();
                    user("committed").save(&mut tx).await.unwrap();
                    tx.commit().await.unwrap();
                    let mut tx = pool.begin().await.unwrap();
                    user("rolled back").save(&mut tx).await.unwrap();
                    OrderPaid { order: 7 }.send(&mut tx).await.unwrap();
                    tx.rollback().await.unwrap();
                }
            };
        }
        #[cfg(feature = "sqlite")]
        both!(db.sqlite());
        #[cfg(feature = "postgres")]
        both!(db.postgres());
        assert_eq!((count(&db, "users").await, stored(&db).await), (1, 2));
        testing::deliver(&db).await.unwrap().assert_ran::<welcome>(1);
    }

    async fn every_kind_of_write_stores_deliveries(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut users: Vec<_> = ["a", "b", "c"].map(user).into();
        User::insert_many(&db, &mut users).await.unwrap();
        assert_eq!(stored(&db).await, 6);
        testing::deliver(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["a true 1", "b true 1", "c true 1"]);

        users[0].email = "new".into();
        users[1].name = "d".into();
        User::update_many(&db, &mut users).await.unwrap();
        testing::deliver(&db).await.unwrap();
        let change = "a@example.org → new (true, false) None";
        assert_eq!(SCENE.log.take(), [change, "a false 1", "d false 1", "c false 1"]);

        users[2].email = "x".into();
        users[2].save_fields(&db, &[User::EMAIL]).await.unwrap();
        User::query("WHERE name = $1").bind("d").set(User::EMAIL, "y").update(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        let changes = [
            "c@example.org → x (true, false) Some([\"email\"])",
            "b@example.org → y (true, false) Some([\"email\"])",
        ];
        assert_eq!(SCENE.log.take(), [changes[0], changes[1], "c false 1", "d false 1"]);

        User::query("WHERE name = $1").bind("d").delete(&db).await.unwrap();
        users[0].delete(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["deleted 2 d", "deleted 1 a"]);
        assert_eq!(stored(&db).await, 0);
    }

    async fn a_cascade_and_a_batch_store_deliveries(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut ann = user("ann");
        without_signals(async { ann.save(&db).await }).await.unwrap();
        let note = |text: &str| Note { id: None, user_id: 1, text: text.into() };
        Note::insert_many(&db, &mut [note("one"), note("two")]).await.unwrap();
        assert_eq!(stored(&db).await, 1);
        testing::deliver(&db).await.unwrap().assert_ran::<log_notes>(1);
        assert_eq!(SCENE.log.take(), ["2 notes true"]);
        ann.delete(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        let mut log = SCENE.log.take();
        log.sort();
        assert_eq!(log, ["deleted 1 ann", "deleted note one", "deleted note two"]);
    }

    async fn a_custom_signal_is_stored_and_delayed(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        OrderPaid { order: 7 }.send(&db).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        OrderPaid { order: 8 }.send(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(stored(&db).await, 2);
        testing::deliver(&db).await.unwrap().assert_ran::<ship>(0);
        testing::make_due(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<ship>(2);
        assert_eq!(SCENE.log.take(), ["ship 7 1", "ship 8 1"]);
    }

    async fn the_outbox_of_a_large_transaction_is_written_in_order(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut users: Vec<_> = (0..2500).map(|n| user(&format!("user {n}"))).collect();
        let mut tx = db.begin().await.unwrap();
        muted::<open_account, _>(async { User::insert_many(&mut tx, &mut users).await }).await.unwrap();
        tx.commit().await.unwrap();
        let keys: Vec<(i64, Option<String>)> =
            db.query("SELECT id, key FROM signals_delivery ORDER BY id").fetch_all().await.unwrap();
        let keys: Vec<i64> = keys.into_iter().map(|(_, key)| key.unwrap().parse().unwrap()).collect();
        assert_eq!(keys, (1..=2500).collect::<Vec<_>>());
    }

    async fn a_muted_or_disabled_receiver_stores_nothing(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        without_signals(async { user("quiet").save(&db).await }).await.unwrap();
        assert_eq!(stored(&db).await, 0);
        muted::<welcome, _>(async { user("ann").save(&db).await }).await.unwrap();
        assert_eq!(stored(&db).await, 1);
        registry().get::<welcome>().disable();
        user("bob").save(&db).await.unwrap();
        registry().get::<welcome>().enable();
        assert_eq!(stored(&db).await, 2);
        user("eve").save(&db).await.unwrap();
        registry().get::<welcome>().disable();
        testing::deliver(&db).await.unwrap().assert_ran::<welcome>(0);
        registry().get::<welcome>().enable();
        testing::deliver(&db).await.unwrap().assert_ran::<welcome>(1);
    }

    async fn a_save_without_the_table_says_what_to_run(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "users", "name TEXT NOT NULL, email TEXT NOT NULL").await;
        let error = user("ann").save(&db).await.unwrap_err();
        assert!(matches!(error, Error::DeliveriesNotSetUp { found: 0, .. }), "{error:?}");
        assert!(error.to_string().contains("db.deliveries().setup()"), "{error}");
        assert_eq!(count(&db, "users").await, 0);
        let mut tx = db.begin().await.unwrap();
        user("ann").save(&mut tx).await.unwrap();
        assert!(matches!(tx.commit().await.unwrap_err(), Error::DeliveriesNotSetUp { .. }));
        assert_eq!(count(&db, "users").await, 0);
        let checked = db.check().await.unwrap_err().to_string();
        assert!(checked.contains("`signals_delivery` of durable receivers does not exist"), "{checked}");
        let refused = db.deliveries().worker().spawn().await.unwrap_err();
        assert!(matches!(refused, Error::DeliveriesNotSetUp { .. }), "{refused:?}");
    }

    async fn the_tables_are_set_up_once(db: Db) {
        let deliveries = db.deliveries();
        let (one, other) = tokio::join!(deliveries.setup(), deliveries.setup());
        one.unwrap();
        other.unwrap();
        deliveries.setup().await.unwrap();
        let versions = i64::try_from(durable::migrations(db.kind()).len()).unwrap();
        assert_eq!(count(&db, "signals_schema").await, versions);
        assert!(!db.check().await.is_err_and(|error| error.to_string().contains("signals_delivery")));
        execute(&db, "DROP TABLE signals_delivery; DROP TABLE signals_schema; DROP TABLE signals_done; DROP TABLE signals_inbox").await;
        for migration in durable::migrations(db.kind()) {
            db.execute(migration.sql).await.unwrap();
        }
        deliveries.setup().await.unwrap();
        assert_eq!((stored(&db).await, count(&db, "signals_schema").await), (0, versions));
    }

    async fn a_payload_over_the_limit_is_refused(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut large = user(&"x".repeat(300_000));
        let error = large.save(&db).await.unwrap_err();
        assert!(matches!(error, Error::PayloadTooLarge { model: "User", limit: 262_144, .. }), "{error:?}");
        assert!(error.to_string().contains("open_account") || error.to_string().contains("welcome"), "{error}");
        assert_eq!((large.id, count(&db, "users").await), (None, 0));
        large.save(&db.deliveries().max_payload(1 << 20)).await.unwrap();
        assert_eq!(stored(&db).await, 2);
    }

    async fn what_a_failed_receiver_has_written_is_rolled_back(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        muted::<welcome, _>(async { user("unlucky").save(&db).await }).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_failed::<open_account>(1);
        assert_eq!((count(&db, "accounts").await, stored(&db).await), (0, 1));
        let (attempt, error): (i32, String) =
            db.query("SELECT attempt, error FROM signals_delivery").fetch_one().await.unwrap();
        assert_eq!(attempt, 1);
        assert!(error.contains("no account for you") && error.contains("open_account"), "{error}");
        db.query("UPDATE users SET name = 'lucky'").execute().await.unwrap();
        testing::make_due(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_failed::<open_account>(1);
        assert_eq!(count(&db, "accounts").await, 0);
    }

    async fn a_failed_delivery_is_tried_again_until_it_is_dead(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let (attempt, dead, soon, error) = welcomed(&db, "fails").await;
        assert_eq!((attempt, dead, soon), (1, false, false));
        assert!(error.unwrap().contains("the mail server is down"));
        for expected in [(2, false), (3, true)] {
            testing::deliver(&db).await.unwrap().assert_ran::<welcome>(0);
            testing::make_due(&db).await.unwrap();
            testing::deliver(&db).await.unwrap().assert_failed::<welcome>(1);
            let (attempt, dead, ..) = state(&db).await;
            assert_eq!((attempt, dead), expected);
        }
        testing::make_due(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<welcome>(0);
        assert_eq!(SCENE.log.take(), ["fails true 1", "fails true 2", "fails true 3"]);
    }

    async fn a_receiver_decides_when_it_is_tried_again(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let (attempt, dead, _, error) = welcomed(&db, "never").await;
        assert_eq!((attempt, dead), (1, true));
        assert!(error.unwrap().contains("no such address"));
        execute(&db, "DELETE FROM signals_delivery").await;
        let (attempt, dead, soon, _) = welcomed(&db, "snooze").await;
        assert_eq!((attempt, dead, soon), (0, false, false));
        execute(&db, "DELETE FROM signals_delivery").await;
        let (attempt, dead, soon, error) = welcomed(&db, "after").await;
        assert_eq!((attempt, dead, soon), (1, false, false));
        assert!(error.unwrap().contains("the server is busy"));
    }

    async fn a_panic_or_a_timeout_is_a_failed_attempt(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let (attempt, dead, _, error) = welcomed(&db, "panics").await;
        assert_eq!((attempt, dead), (1, false));
        assert!(error.unwrap().contains("a mistake"));
        execute(&db, "DELETE FROM signals_delivery").await;
        let (attempt, dead, _, error) = welcomed(&db, "slow").await;
        assert_eq!((attempt, dead), (1, false));
        assert!(error.unwrap().contains("did not finish within 4s"));
    }

    async fn the_idempotency_key_is_the_same_for_every_attempt(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        ATTEMPTS.store(0, Ordering::SeqCst);
        muted::<open_account, _>(async { user("keys").save(&db).await }).await.unwrap();
        for _ in 0..3 {
            testing::deliver(&db).await.unwrap().assert_ran::<welcome>(1);
            testing::make_due(&db).await.unwrap();
        }
        let log = SCENE.log.take();
        assert_eq!(log[1], log[3]);
        assert_eq!(log[1].replace("false", "true"), log[5]);
        assert_eq!(stored(&db).await, 0);
    }

    async fn a_payload_that_does_not_decode_is_postponed_without_an_attempt(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        muted::<open_account, _>(async { user("ann").save(&db).await }).await.unwrap();
        db.query("UPDATE signals_delivery SET payload = '{\"row\":{\"id\":1}}'").execute().await.unwrap();
        testing::deliver(&db).await.unwrap().assert_failed::<welcome>(1);
        let (attempt, dead, soon, error) = state(&db).await;
        assert_eq!((attempt, dead, soon), (0, false, true));
        assert!(error.unwrap().contains("missing field `name`"));
        let yesterday = match db.kind() {
            DatabaseKind::Sqlite => "UPDATE signals_delivery SET stored_at = stored_at - 86400000",
            DatabaseKind::Postgres => "UPDATE signals_delivery SET stored_at = stored_at - interval '1 day'",
        };
        execute(&db, yesterday).await;
        testing::make_due(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        assert!(state(&db).await.1);
        assert!(SCENE.log.take().is_empty());
    }

    async fn a_delivery_of_an_unknown_receiver_is_never_claimed(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        muted::<open_account, _>(async { user("ann").save(&db).await }).await.unwrap();
        db.query("UPDATE signals_delivery SET receiver = 'other::service'").execute().await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<welcome>(0);
        let (claim,): (i64,) = db.query("SELECT claim FROM signals_delivery").fetch_one().await.unwrap();
        assert_eq!(claim, 0);
    }

    async fn a_delivery_that_has_killed_five_workers_is_dead(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        muted::<open_account, _>(async { user("ann").save(&db).await }).await.unwrap();
        db.query("UPDATE signals_delivery SET worker = 'killed', attempt = 1, lost = 1").execute().await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<welcome>(1);
        assert_eq!(SCENE.log.take(), ["ann true 1"]);

        muted::<open_account, _>(async { user("bob").save(&db).await }).await.unwrap();
        db.query("UPDATE signals_delivery SET worker = 'killed', attempt = 1, lost = 4").execute().await.unwrap();
        testing::deliver(&db).await.unwrap();
        let (attempt, dead, _, error) = state(&db).await;
        assert!(dead && attempt <= 1);
        assert!(error.unwrap().contains("lost 5 times"));
        assert!(SCENE.log.take().is_empty());
    }

    async fn an_attempt_that_the_database_prevents_does_not_count(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        user("ann").save(&db).await.unwrap();
        let refuse = match db.kind() {
            DatabaseKind::Sqlite => {
                "CREATE TRIGGER refuse BEFORE DELETE ON signals_delivery WHEN OLD.receiver LIKE '%open_account' \
                 BEGIN SELECT RAISE(ABORT, 'refused'); END"
            }
            DatabaseKind::Postgres => {
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''refused''; END'; \
                 CREATE TRIGGER refuse BEFORE DELETE ON signals_delivery FOR EACH ROW \
                 WHEN (OLD.receiver LIKE '%open_account') EXECUTE FUNCTION refuse()"
            }
        };
        execute(&db, refuse).await;
        testing::deliver(&db).await.unwrap().assert_failed::<open_account>(1);
        let sql = "SELECT attempt, error FROM signals_delivery";
        let (attempt, error): (i32, String) = db.query(sql).fetch_one().await.unwrap();
        assert!(attempt == 0 && error.contains("refused"), "{attempt}: {error}");
        assert_eq!(count(&db, "accounts").await, 0);
    }

    async fn a_cycle_through_deliveries_ends_at_the_recursion_limit(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        Link { id: None, depth: 0 }.save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_failed::<next_link>(1);
        let log = SCENE.log.take();
        assert_eq!((log.len(), log[0].as_str(), log[1].as_str()), (16, "0 false true", "1 true false"));
        let (error,): (String,) = db.query("SELECT error FROM signals_delivery").fetch_one().await.unwrap();
        assert!(error.contains("next_link → "), "{error}");
        assert_eq!(count(&db, "links").await, 17);
    }

    async fn a_cycle_through_detached_receivers_ends_at_the_recursion_limit(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        Echo { id: None, depth: 0 }.save(&db).await.unwrap();
        let dead = "signals_delivery WHERE dead_at IS NOT NULL";
        let ended = tokio::time::timeout(Duration::from_secs(20), async {
            while count(&db, dead).await == 0 {
                testing::deliver(&db).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        ended.await.unwrap();
        let log = SCENE.log.take();
        assert_eq!((log.len(), log[0].as_str(), log[15].as_str()), (16, "0 false", "15 true"));
        let (error,): (String,) = db.query("SELECT error FROM signals_delivery").fetch_one().await.unwrap();
        assert!(error.contains("echo → "), "{error}");
    }

    async fn a_robust_sending_that_cannot_be_stored_notifies_nobody(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut tx = db.deliveries().max_payload(10).begin().await.unwrap();
        let results = Uploaded { text: "longer than ten".into() }.send_robust(&mut tx).await;
        assert!(matches!(&results[..], [(_, Err(Error::PayloadTooLarge { .. }))]), "{results:?}");
        tx.commit().await.unwrap();
        assert_eq!((SCENE.log.take(), stored(&db).await), (Vec::new(), 0));
    }

    async fn a_test_transaction_shows_what_would_be_stored_and_runs_it(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let done = testing::transaction(&db, async |tx| {
            user("ann").save(&mut *tx).await?;
            let delivered = testing::deliver(&mut *tx).await?;
            delivered.assert_ran::<open_account>(1);
            delivered.assert_ran::<welcome>(1);
            user("bob").save(&mut *tx).await?;
            Account::query("").count(tx).await
        });
        let done = done.await.unwrap();
        assert_eq!(done.value, 1);
        done.assert_stored::<welcome>(2);
        done.assert_stored::<log_delete>(0);
        assert_eq!((count(&db, "users").await, stored(&db).await), (0, 0));
    }

    async fn a_failing_delivery_blocks_its_key_and_no_other(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut entries = [entry(1, "a"), entry(2, "a"), entry(1, "fails"), entry(1, "b"), entry(2, "b")];
        Entry::insert_many(&db, &mut entries).await.unwrap();
        let mut log = applied(&db, false).await;
        log.sort();
        assert_eq!(log, ["1: a", "1: fails", "2: a", "2: b"]);
        testing::make_due(&db).await.unwrap();
        assert_eq!(applied(&db, false).await, ["1: fails"]);
        // It is dead, and still blocks its key.
        testing::make_due(&db).await.unwrap();
        assert!(applied(&db, false).await.is_empty());
        entry(1, "c").save(&db).await.unwrap();
        execute(&db, "DELETE FROM signals_delivery WHERE dead_at IS NOT NULL").await;
        assert_eq!(applied(&db, false).await, ["1: b", "1: c"]);
        assert_eq!(stored(&db).await, 0);
    }

    async fn a_key_continues_after_a_dead_delivery_if_the_receiver_skips_it(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut entries = [entry(1, "a"), entry(1, "fails"), entry(1, "b")];
        Entry::insert_many(&db, &mut entries).await.unwrap();
        let keys: Vec<(String,)> = db
            .query("SELECT DISTINCT ordering_key FROM signals_delivery ORDER BY ordering_key")
            .fetch_all()
            .await
            .unwrap();
        assert_eq!(keys, [("1".to_owned(),), ("account 1".to_owned(),)]);
        assert_eq!(applied(&db, true).await, ["skipping 1: a", "skipping 1: fails", "skipping 1: b"]);
        assert_eq!(stored(&db).await, 1);
    }

    async fn a_receiver_that_stores_the_key_sees_the_row_as_it_is_when_it_runs(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut page = Page { id: None, title: "old".into() };
        page.save(&db).await.unwrap();
        page.save_fields(&db, &[Page::TITLE]).await.unwrap();
        let payloads: Vec<(String,)> =
            db.query("SELECT CAST(payload AS TEXT) FROM signals_delivery").fetch_all().await.unwrap();
        assert!(payloads.len() == 4 && payloads.iter().all(|(payload,)| !payload.contains("old")), "{payloads:?}");
        execute(&db, "UPDATE pages SET title = 'new'").await;
        testing::deliver(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["1 new true None", "1 new false Some(1)"]);
        assert_eq!(count(&db, "accounts").await, 2);

        // Without the row, there is nothing to do.
        page.save(&db).await.unwrap();
        execute(&db, "DELETE FROM pages").await;
        let delivered = testing::deliver(&db).await.unwrap();
        delivered.assert_failed::<index_page>(0);
        delivered.assert_failed::<link_page>(0);
        assert_eq!((SCENE.log.take().len(), count(&db, "accounts").await, stored(&db).await), (0, 2, 0));

        let in_test = testing::transaction(&db, async |tx| {
            Page { id: None, title: "test".into() }.save(&mut *tx).await?;
            testing::deliver(tx).await
        });
        let delivered = in_test.await.unwrap().value;
        delivered.assert_ran::<index_page>(1);
        delivered.assert_failed::<index_page>(0);
    }

    async fn a_renamed_receiver_takes_the_deliveries_of_its_old_name(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        Page { id: None, title: "a".into() }.save(&db).await.unwrap();
        execute(&db, "DELETE FROM signals_delivery WHERE receiver LIKE '%link_page'").await;
        db.query("UPDATE signals_delivery SET receiver = 'durable::old_index'").execute().await.unwrap();
        assert_eq!(db.deliveries().status().await.unwrap().unknown().count(), 0);
        testing::deliver(&db).await.unwrap().assert_ran::<index_page>(1);
        assert_eq!(stored(&db).await, 0);
        assert!(registry().to_lock().contains("payload(key) was = \"durable::old_index\""));
    }

    async fn a_thousand_blocked_keys_hide_no_other_key(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut entries: Vec<_> = (10_000..11_100).map(|account| entry(account, "blocked")).collect();
        Entry::insert_many(&db, &mut entries).await.unwrap();
        let later = match db.kind() {
            DatabaseKind::Sqlite => "UPDATE signals_delivery SET run_at = run_at + 3600000",
            DatabaseKind::Postgres => "UPDATE signals_delivery SET run_at = run_at + interval '1 h'",
        };
        execute(&db, later).await;
        entry(99_999, "a").save(&db).await.unwrap();
        assert_eq!(applied(&db, false).await, ["99999: a"]);
        entry(99_999, "b").save(&db).await.unwrap();
        let options = db.deliveries().worker().queues(["default"]).poll(Duration::from_millis(20));
        let worker = options.spawn().await.unwrap();
        assert_eq!(SCENE.log.wait_for(1).await, ["99999: b"]);
        worker.shutdown().await.unwrap();
    }

    async fn an_ended_claim_does_not_block_an_older_delivery_of_its_key(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        Entry::insert_many(&db, &mut [entry(1, "a"), entry(1, "b")]).await.unwrap();
        // The second one was claimed before the transaction of the first one committed, and its worker was killed.
        let killed = "UPDATE signals_delivery SET worker = 'killed', attempt = 1, claim = 1 WHERE key = '2'";
        execute(&db, killed).await;
        assert_eq!(applied(&db, false).await, ["1: a", "1: b"]);
        assert_eq!(stored(&db).await, 0);
    }

    async fn a_custom_signal_is_ordered_by_a_field(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        for to in 1..=3 {
            Moved { car: "red".into(), to }.send(&db).await.unwrap();
        }
        testing::deliver(&db).await.unwrap().assert_ran::<log_move>(3);
        assert_eq!(SCENE.log.take(), ["red 1", "red 2", "red 3"]);
    }

    async fn a_custom_signal_without_fields_is_delivered(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        Stopped.send(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<log_stop>(1);
        assert_eq!(SCENE.log.take(), ["stopped"]);
    }

    async fn two_workers_keep_the_order_of_each_key(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut entries: Vec<_> =
            (0..120).map(|n| entry(n % 6, &format!("slow {n:03}"))).collect();
        Entry::insert_many(&db, &mut entries).await.unwrap();
        execute(&db, "DELETE FROM signals_delivery WHERE receiver LIKE '%apply_skipping'").await;
        let options = || db.deliveries().worker().queues(["default"]).concurrency(4).poll(Duration::from_millis(5));
        let workers = (options().spawn().await.unwrap(), options().spawn().await.unwrap());
        let log = SCENE.log.wait_for(120).await;
        workers.0.shutdown().await.unwrap();
        workers.1.shutdown().await.unwrap();
        for account in 0..6 {
            let start = format!("{account}: ");
            let of_account: Vec<_> = log.iter().filter(|line| line.starts_with(&start)).collect();
            assert_eq!(of_account.len(), 20);
            assert!(of_account.is_sorted(), "{of_account:?}");
        }
        assert_eq!((SCENE.log.take().len(), stored(&db).await), (0, 0));
    }

    async fn a_worker_runs_what_is_committed_and_stops_after_it(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        // Only a commit of this process wakes it.
        let worker = db.deliveries().worker().poll(Duration::from_secs(600)).spawn().await.unwrap();
        for n in 0..20 {
            user(&format!("user {n}")).save(&db).await.unwrap();
        }
        while stored(&db).await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        worker.shutdown().await.unwrap();
        assert_eq!((count(&db, "accounts").await, SCENE.log.take().len()), (20, 20));
    }

    /// A claim begins at the last claimed delivery, but a complete one follows.
    async fn a_delivery_that_was_stored_long_before_the_last_one_is_claimed(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().queues(["mail"]).poll(Duration::from_secs(600));
        let worker = worker.spawn().await.unwrap();
        user("ann").save(&db).await.unwrap();
        assert_eq!(SCENE.log.wait_for(1).await, ["ann true 1"]);
        let (hour_ago, created) = match db.kind() {
            DatabaseKind::Sqlite => ("(unixepoch() - 3600) * 1000", "1"),
            DatabaseKind::Postgres => ("now() - interval '1 hour'", "true"),
        };
        let late = format!(
            "INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, run_at) VALUES \
             ('018f0000-0000-7000-8000-000000000000', 'durable::welcome', 'post_save', 'users', '7', {created}, \
             '{{\"row\":{{\"id\":7,\"name\":\"late\",\"email\":\"\"}}}}', {hour_ago})"
        );
        execute(&db, &late).await;
        user("bob").save(&db).await.unwrap();
        let mut log = SCENE.log.wait_for(2).await;
        log.sort();
        assert_eq!(log, ["bob true 1", "late true 1"]);
        worker.shutdown().await.unwrap();
    }

    async fn a_worker_serves_only_its_queues(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().queues(["mail"]).concurrency(2).spawn().await.unwrap();
        user("ann").save(&db).await.unwrap();
        SCENE.log.wait_for(1).await;
        worker.shutdown().await.unwrap();
        assert_eq!((count(&db, "accounts").await, stored(&db).await), (0, 1));
    }

    async fn a_stopped_worker_gives_its_deliveries_back(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().queues(["mail"]).spawn().await.unwrap();
        user("slow").save(&db).await.unwrap();
        SCENE.log.wait_for(1).await;
        worker.stop().await.unwrap();
        assert_eq!(state(&db).await, (0, false, true, None));
        let (worker,): (Option<String>,) =
            db.query("SELECT worker FROM signals_delivery WHERE receiver LIKE '%welcome'").fetch_one().await.unwrap();
        assert_eq!(worker, None);
    }

    async fn a_lease_is_renewed_while_the_receiver_runs(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let options = || db.deliveries().worker().queues(["mail"]).lease(Duration::from_secs(1)).poll(Duration::from_millis(5));
        let workers = (options().spawn().await.unwrap(), options().spawn().await.unwrap());
        user("slower than a lease").save(&db).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        GATE.add_permits(1);
        workers.0.shutdown().await.unwrap();
        workers.1.shutdown().await.unwrap();
        assert_eq!(SCENE.log.take(), ["slower than a lease true 1"]);
        assert_eq!(stored(&db).await, 1);
    }

    async fn a_worker_whose_claim_has_passed_to_another_changes_nothing(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().queues(["mail"]).spawn().await.unwrap();
        for name in ["slower than a lease", "fails late"] {
            user(name).save(&db).await.unwrap();
            SCENE.log.wait_for(1).await;
        }
        execute(&db, "DELETE FROM signals_delivery WHERE receiver LIKE '%open_account'").await;
        let taken = "UPDATE signals_delivery SET claim = claim + 1, worker = 'another' WHERE worker IS NOT NULL";
        assert_eq!(db.query(taken).execute().await.unwrap(), 2);
        GATE.add_permits(2);
        worker.shutdown().await.unwrap();
        let unchanged = "SELECT count(*) FROM signals_delivery WHERE worker = 'another' AND error IS NULL AND attempt = 1";
        let (unchanged,): (i64,) = db.query(unchanged).fetch_one().await.unwrap();
        assert_eq!(unchanged, 2);
    }
}

/// Raw SQL wakes no worker of the process, like a commit of another process.
#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_a_worker_notices_the_commits_of_other_processes() {
    let test = common::TestDb::sqlite("noticed").await;
    let _turn = SCENE.begin().await;
    let db = &test.db;
    setup(db).await;
    let worker = db
        .deliveries()
        .worker()
        .queues(["mail"])
        .poll(Duration::from_secs(600))
        .spawn()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let copied = "INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload) VALUES \
                  ('018f0000-0000-7000-8000-000000000000', 'durable::welcome', 'post_save', 'users', '7', 1, \
                  '{\"row\":{\"id\":7,\"name\":\"ann\",\"email\":\"\"}}')";
    execute(db, copied).await;
    assert_eq!(SCENE.log.wait_for(1).await, ["ann true 1"]);
    worker.shutdown().await.unwrap();
    test.passed().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_worker_needs_more_than_one_connection() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    db.deliveries().setup().await.unwrap();
    let refused = db.deliveries().worker().spawn().await.unwrap_err().to_string();
    assert!(refused.contains("testing::deliver"), "{refused}");
}

#[cfg(feature = "postgres")]
mod statements {
    use super::*;
    use crate::common::proxy::Proxy;

    /// The first two words of each statement that an operation sends, after all statements are prepared.
    macro_rules! said {
        ($proxy:expr, $operation:expr) => {{
            for _ in 0..2 {
                $operation.await.unwrap();
            }
            $proxy.take();
            $operation.await.unwrap();
            let said = $proxy.take();
            let words = said
                .statements
                .iter()
                .map(|sql| sql.split(' ').take(3).collect::<Vec<_>>().join(" "));
            words
                .filter(|words| words != "ping" && !words.starts_with("NOTIFY"))
                .collect::<Vec<_>>()
        }};
    }

    const ROW: &str = "INSERT INTO \"users\"";
    const DELIVERIES: &str = "INSERT INTO signals_delivery";

    #[tokio::test]
    async fn a_transaction_sends_one_statement_more_for_all_its_deliveries() {
        let _turn = SCENE.begin().await;
        let test = common::TestDb::postgres("durable_statements").await;
        setup(&test.db).await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        let one = said!(&proxy, user("ann").save(db));
        assert_eq!(one, ["BEGIN", ROW, DELIVERIES, "COMMIT"]);
        let three = said!(
            &proxy,
            db.transaction(async |tx| {
                user("ann").save(&mut *tx).await?;
                user("bob").save(&mut *tx).await?;
                user("eve").save(tx).await
            })
        );
        assert_eq!(three, ["BEGIN", ROW, ROW, ROW, DELIVERIES, "COMMIT"]);
        let without = said!(&proxy, Account { id: None, user_id: 1 }.save(db));
        assert_eq!(without, ["INSERT INTO \"accounts\""]);
        test.passed().await;
    }

    #[tokio::test]
    async fn a_delivery_is_deleted_before_its_receiver_runs_in_the_transaction() {
        let _turn = SCENE.begin().await;
        let test = common::TestDb::postgres("durable_order").await;
        setup(&test.db).await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        let run = async || {
            muted::<welcome, _>(async { user("ann").save(db).await }).await?;
            testing::deliver(db).await
        };
        let said = said!(&proxy, run());
        let begin = said.iter().rposition(|words| words == "BEGIN").unwrap();
        let account = "INSERT INTO \"accounts\"";
        assert_eq!(
            said[begin..begin + 4],
            ["BEGIN", "DELETE FROM signals_delivery", account, "COMMIT"]
        );
        test.passed().await;
    }
}
