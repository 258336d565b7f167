//! Relays: which events are published, in which order, and what follows if the publisher fails.
#![allow(missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{another, count, table};
use serde::{Deserialize, Serialize};
use sqlx_signals::durable::{Message, Publisher, ReceiverStatus, Relay, Retry};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, testing};

#[derive(Debug, Clone, PartialEq, Model, Serialize, Deserialize)]
#[model(table = "users", publish = "shop.user")]
struct User {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, PartialEq, Signal, Serialize, Deserialize)]
#[signal(publish = "shop.order_paid")]
struct OrderPaid {
    order: i64,
}

/// Is `null` in JSON.
#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(publish = "shop.closed")]
struct Closed;

/// Another receiver of the same model, which a worker runs.
#[receiver(post_save, sender = User, durable(at_least_once))]
async fn greet(_: PostSave<'_, User>) {}

/// How a publisher answers to one batch.
enum Answer {
    Fails(fn() -> Error),
    Panics,
    /// It returns fewer results than messages.
    Forgets,
    /// It never returns.
    Hangs,
}

/// Records the messages. Its first batches are answered as the test says, and all others are published.
#[derive(Clone, Default)]
struct Recorder {
    published: Arc<Mutex<Vec<Message>>>,
    batches: Arc<Mutex<Vec<usize>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Recorder {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        Self { answers, ..Self::default() }
    }

    fn published(&self) -> Vec<Message> {
        self.published.lock().unwrap().clone()
    }

    async fn wait_for(&self, messages: usize) -> Vec<Message> {
        until(async || self.published().len() >= messages).await;
        self.published()
    }
}

impl Publisher for Recorder {
    async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
        self.batches.lock().unwrap().push(messages.len());
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(Answer::Fails(error)) => return messages.iter().map(|_| Err(error())).collect(),
            Some(Answer::Panics) => panic!("the publisher of the test panics"),
            Some(Answer::Forgets) => return Vec::new(),
            Some(Answer::Hangs) => pending().await,
            None => {}
        }
        self.published.lock().unwrap().extend_from_slice(messages);
        messages.iter().map(|_| Ok(())).collect()
    }
}

/// Waits up to two minutes.
async fn until(mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..24_000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("what was waited for did not happen within two minutes");
}

async fn setup(db: &Db) {
    table(db, "users", "name TEXT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
}

async fn relay(db: &Db, publisher: &Recorder) -> Relay {
    db.deliveries().relay("shop", publisher.clone()).spawn().await.unwrap()
}

async fn status(db: &Db, receiver: &str) -> ReceiverStatus {
    let status = db.deliveries().status().await.unwrap();
    status.receivers.into_iter().find(|status| status.receiver == receiver).unwrap()
}

/// Waits until nothing of these subjects is stored any more.
async fn until_deleted(db: &Db) {
    until(async || {
        let (left,): (i64,) = db
            .query("SELECT count(*) FROM signals_delivery WHERE receiver LIKE 'publish %'")
            .fetch_one()
            .await
            .unwrap();
        left == 0
    })
    .await;
}

fn data(message: &Message) -> serde_json::Value {
    let event: serde_json::Value = serde_json::from_str(message.body()).unwrap();
    event["data"].clone()
}

on_every_database! {
    async fn the_events_of_a_model_and_of_a_signal_are_published(db: Db) {
        setup(&db).await;
        let publisher = Recorder::default();
        let relay = relay(&db, &publisher).await;
        let mut user = User { id: None, name: "Ann".into() };
        user.save(&db).await.unwrap();
        user.name = "Ann Lee".into();
        user.save(&db).await.unwrap();
        user.clone().delete(&db).await.unwrap();
        OrderPaid { order: 7 }.send(&db).await.unwrap();
        let messages = publisher.wait_for(4).await;
        let of_user: Vec<_> = messages.iter().filter(|m| m.key().is_some()).collect();
        let subjects: Vec<_> = of_user.iter().map(|message| message.subject()).collect();
        assert_eq!(subjects, ["shop.user.created", "shop.user.updated", "shop.user.deleted"]);
        for (message, name) in of_user.iter().zip(["Ann", "Ann Lee", "Ann Lee"]) {
            assert_eq!(message.key(), Some("1"));
            // With the key, which was not known when the event was stored.
            assert_eq!(data(message), serde_json::json!({ "id": 1, "name": name }));
        }
        let paid = messages.iter().find(|message| message.key().is_none()).unwrap();
        assert_eq!((paid.subject(), data(paid)), ("shop.order_paid", serde_json::json!({ "order": 7 })));
        let ids: BTreeSet<_> = messages.iter().map(Message::id).collect();
        assert_eq!(ids.len(), 4);
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
    }

    async fn a_signal_without_fields_is_published_as_null(db: Db) {
        setup(&db).await;
        let publisher = Recorder::default();
        let relay = relay(&db, &publisher).await;
        Closed.send(&db).await.unwrap();
        let messages = publisher.wait_for(1).await;
        assert_eq!((messages[0].subject(), data(&messages[0])), ("shop.closed", serde_json::Value::Null));
        assert!(messages[0].body().contains(r#""data":null"#));
        relay.shutdown().await.unwrap();
    }

    async fn nothing_is_published_of_what_was_rolled_back(db: Db) {
        setup(&db).await;
        let publisher = Recorder::default();
        let mut tx = db.begin().await.unwrap();
        User { id: None, name: "Ann".into() }.save(&mut tx).await.unwrap();
        OrderPaid { order: 7 }.send(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        OrderPaid { order: 8 }.send(&db).await.unwrap();
        let relay = relay(&db, &publisher).await;
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        let published: Vec<_> = publisher.published().iter().map(data).collect();
        assert_eq!(published, [serde_json::json!({ "order": 8 })]);
    }

    async fn the_messages_about_one_row_are_in_the_order_of_the_commits(db: Db) {
        setup(&db).await;
        let (publisher, mut users) = (Recorder::default(), Vec::new());
        for n in 0..30 {
            users.push(User { id: None, name: format!("{n} 0") });
        }
        User::insert_many(&db, &mut users).await.unwrap();
        // The relay works while rows are written.
        let relay = relay(&db, &publisher).await;
        for version in 1..5 {
            for (n, user) in users.iter_mut().enumerate() {
                user.name = format!("{n} {version}");
                user.save(&db).await.unwrap();
            }
        }
        let messages = publisher.wait_for(150).await;
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for message in &messages {
            names.entry(message.key()).or_default().push(data(message)["name"].as_str().unwrap().to_owned());
        }
        assert_eq!((messages.len(), names.len()), (150, 30));
        for names in names.into_values() {
            let row = names[0].split(' ').next().unwrap();
            let expected: Vec<_> = (0..5).map(|version| format!("{row} {version}")).collect();
            assert_eq!(names, expected);
        }
    }

    async fn a_worker_leaves_the_events_to_the_relay(db: Db) {
        setup(&db).await;
        User { id: None, name: "Ann".into() }.save(&db).await.unwrap();
        OrderPaid { order: 7 }.send(&db).await.unwrap();
        let ran = testing::deliver(&db).await.unwrap();
        ran.assert_ran::<greet>(1);
        assert_eq!(count(&db, "signals_delivery").await, 2);
        let worker = db.deliveries().worker().spawn().await.unwrap();
        User { id: None, name: "Bob".into() }.save(&db).await.unwrap();
        // Two of users and one of an order are left.
        until(async || count(&db, "signals_delivery").await == 3).await;
        worker.shutdown().await.unwrap();
        let users = status(&db, "publish shop.user").await;
        assert_eq!((users.queue, users.waiting), (Some("publish"), 2));
    }

    async fn a_failed_message_is_published_again(db: Db) {
        setup(&db).await;
        OrderPaid { order: 7 }.send(&db).await.unwrap();
        let publisher = Recorder::answering([
            Answer::Fails(|| Error::other("the broker is down")),
            Answer::Panics,
            Answer::Forgets,
        ]);
        let relay = relay(&db, &publisher).await;
        publisher.wait_for(1).await;
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        assert_eq!(*publisher.batches.lock().unwrap(), [1; 4]);
    }

    async fn the_error_of_a_message_is_stored(db: Db) {
        setup(&db).await;
        OrderPaid { order: 7 }.send(&db).await.unwrap();
        let fails = || Answer::Fails(|| Retry::after(Duration::from_secs(3600), "the broker is down").into());
        let publisher = Recorder::answering([fails()]);
        let relay = relay(&db, &publisher).await;
        until(async || status(&db, "publish shop.order_paid").await.retrying == 1).await;
        let (error,): (String,) =
            db.query("SELECT error FROM signals_delivery").fetch_one().await.unwrap();
        assert_eq!(error, "the broker is down");
        relay.shutdown().await.unwrap();
    }

    async fn a_message_is_dead_only_if_the_publisher_says_so(db: Db) {
        setup(&db).await;
        OrderPaid { order: 7 }.send(&db).await.unwrap();
        let fails = || Answer::Fails(|| Retry::never("no broker takes it").into());
        let publisher = Recorder::answering([fails()]);
        let relay = relay(&db, &publisher).await;
        until(async || status(&db, "publish shop.order_paid").await.dead == 1).await;
        relay.shutdown().await.unwrap();
        assert!(publisher.published().is_empty());
    }

    async fn a_publisher_that_never_returns_is_stopped(db: Db) {
        setup(&db).await;
        OrderPaid { order: 7 }.send(&db).await.unwrap();
        let publisher = Recorder::answering([Answer::Hangs]);
        let relay = db.deliveries().relay("shop", publisher.clone());
        let relay = relay.lease(Duration::from_millis(400)).spawn().await.unwrap();
        publisher.wait_for(1).await;
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
    }

    async fn the_events_of_a_lost_relay_are_published_by_another_one(db: Db) {
        setup(&db).await;
        for order in 0..3 {
            OrderPaid { order }.send(&db).await.unwrap();
            User { id: None, name: order.to_string() }.save(&db).await.unwrap();
        }
        // As if six relays had been killed, one after the other.
        for _ in 0..6 {
            db.execute("UPDATE signals_delivery SET worker = 'lost', claim = claim + 1, lost = lost + 1, run_at = stored_at \
                WHERE receiver LIKE 'publish %'").await.unwrap();
        }
        let publisher = Recorder::default();
        let relay = relay(&db, &publisher).await;
        publisher.wait_for(6).await;
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        assert_eq!(publisher.published().len(), 6);
    }

    async fn two_relays_share_the_events(db: Db) {
        setup(&db).await;
        let other = another(&db, Db::options()).await;
        let publisher = Recorder::default();
        let relays = [relay(&db, &publisher).await, relay(&other, &publisher).await];
        let mut tx = db.begin().await.unwrap();
        for order in 0..1500 {
            OrderPaid { order }.send(&mut tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        until_deleted(&db).await;
        for relay in relays {
            relay.shutdown().await.unwrap();
        }
        other.close().await;
        let published = publisher.published();
        let orders: BTreeSet<_> = published.iter().map(|message| data(message)["order"].as_i64().unwrap()).collect();
        assert_eq!((published.len(), orders.len()), (1500, 1500));
        assert!(publisher.batches.lock().unwrap().iter().all(|batch| *batch <= 512));
    }

    async fn a_relay_needs_a_source_and_the_tables(db: Db) {
        let spawn = async |source: &str| {
            let relay = db.deliveries().relay(source, Recorder::default()).spawn().await;
            relay.map(drop).unwrap_err()
        };
        assert!(matches!(spawn("shop").await, Error::DeliveriesNotSetUp { .. }));
        setup(&db).await;
        for invalid in ["", "my shop"] {
            let text = format!("`{invalid}` is no name of a service: it consists of the characters of a URI, and is not empty");
            assert_eq!(spawn(invalid).await.to_string(), text);
        }
    }
}

#[test]
fn the_publications_are_in_the_lock_file() {
    let lock = registry().to_lock();
    let lines: Vec<_> = lock.lines().filter(|line| line.contains("→ publish ")).collect();
    assert_eq!(
        lines,
        [
            "Closed → publish shop.closed (durable, publish, unlimited × 1s..30s) payload()",
            "OrderPaid → publish shop.order_paid (durable, publish, unlimited × 1s..30s) payload()",
            "post_delete of User → publish shop.user (durable, publish, unlimited × 1s..30s, by pk) payload(id, name)",
            "post_save of User → publish shop.user (durable, publish, unlimited × 1s..30s, by pk) payload(id, name)",
        ]
    );
}
