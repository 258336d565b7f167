//! Publishes to a real NATS server.
#![allow(missing_docs)]

#[path = "server/cloud_event.rs"]
mod cloud_event;
#[path = "../../tests/common/mod.rs"]
mod common;
mod server;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{count, table, url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use server::{NatsServer, shop, stored, until};
use signals_nats::async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};
use signals_nats::async_nats::{self, jetstream};
use signals_nats::{NatsPublisher, StreamConfig};
use sqlx_signals::Error;
use sqlx_signals::durable::{DeliveryFilter, DeliveryState, Message, Publisher};
use sqlx_signals::prelude::*;
use tokio::process::Command;

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "users", publish = "shop.user")]
struct User {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(publish = "shop.order_paid")]
struct OrderPaid {
    order: i64,
}

async fn setup(db: &Db) {
    table(db, "users", "name TEXT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
}

async fn until_deleted(db: &Db) {
    until(async || count(db, "signals_delivery").await == 0).await;
}

/// Waits until this number of deliveries have failed, and returns the error of one.
async fn retrying(db: &Db, deliveries: usize) -> String {
    let retrying = || DeliveryFilter::new().state(DeliveryState::Retrying);
    let list = async || db.deliveries().list(retrying()).await.unwrap();
    until(async || list().await.len() == deliveries).await;
    list().await[0].error.clone().unwrap()
}

async fn pay(db: &Db, orders: std::ops::Range<i64>) {
    let mut tx = db.begin().await.unwrap();
    for order in orders {
        OrderPaid { order }.send(&mut tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

fn event(message: &async_nats::Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

/// The orders of the messages, in the order of the stream.
fn orders(messages: &[async_nats::Message]) -> Vec<i64> {
    messages.iter().map(|message| event(message)["data"]["order"].as_i64().unwrap()).collect()
}

/// Publishes, and says for the first batches that it has not.
struct LosesAcknowledgements {
    publisher: NatsPublisher,
    batches: Arc<AtomicUsize>,
}

impl Publisher for LosesAcknowledgements {
    async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
        let results = self.publisher.publish(messages).await;
        if self.batches.fetch_add(1, Ordering::Relaxed) > 0 {
            return results;
        }
        results.into_iter().map(|_| Err(Error::other("the acknowledgement is lost"))).collect()
    }
}

/// Publishes, and sends SIGKILL to its process before the relay deletes anything.
struct IsKilled(NatsPublisher);

impl Publisher for IsKilled {
    async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
        let results = self.0.publish(messages).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let id = std::process::id().to_string();
        Command::new("kill").args(["-9", &id]).status().await.unwrap();
        std::future::pending().await
    }
}

/// The child process: a relay that is killed.
#[tokio::test]
async fn relay_process() {
    let variable = |name| std::env::var(name).ok();
    let (Some(url), Some(nats)) = (variable("SIGNALS_RELAY_URL"), variable("SIGNALS_RELAY_NATS"))
    else {
        return;
    };
    let db = Db::connect(&url).await.unwrap();
    let publisher = NatsPublisher::new(async_nats::connect(nats).await.unwrap(), shop());
    publisher.setup().await.unwrap();
    let relay = db.deliveries().relay("shop", IsKilled(publisher)).lease(Duration::from_secs(1));
    let _relay = relay.spawn().await.unwrap();
    std::future::pending().await
}

on_every_database! {
    async fn events_are_published_as_cloud_events(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let publisher = NatsPublisher::new(server.client().await, shop());
        publisher.setup().await.unwrap();
        let relay = db.deliveries().relay("shop", publisher).spawn().await.unwrap();
        let mut user = User { id: None, name: "Ann \u{1f600} \"\\ \u{7f}".into() };
        user.save(&db).await.unwrap();
        user.name = "Bob".into();
        user.save(&db).await.unwrap();
        user.delete(&db).await.unwrap();
        pay(&db, 7..8).await;
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        let messages = server.messages("SHOP", 4).await;
        let events: Vec<_> = messages.iter().map(event).collect();
        for (message, event) in messages.iter().zip(&events) {
            assert_eq!(cloud_event::mistakes(event), [""; 0], "{event}");
            let headers = message.headers.as_ref().unwrap();
            assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), event["id"]);
            assert!(headers.get("Content-Type").unwrap().as_str().starts_with("application/cloudevents+json"));
            assert_eq!(event["type"], message.subject.as_str());
            assert_eq!((&event["source"], &event["datacontenttype"]), (&json!("shop"), &json!("application/json")));
            assert_eq!((&event["correlationid"], event.get("causationid")), (&event["id"], None));
        }
        let of_user: Vec<_> = events.iter().filter(|event| event.get("subject").is_some()).collect();
        for (event, what) in of_user.iter().zip(["created", "updated", "deleted"]) {
            assert_eq!(event["type"], format!("shop.user.{what}"));
            assert_eq!((&event["subject"], &event["partitionkey"]), (&json!("1"), &json!("1")));
        }
        let data: Vec<_> = of_user.iter().map(|event| event["data"].clone()).collect();
        let bob = json!({ "id": 1, "name": "Bob" });
        assert_eq!(data, [json!({ "id": 1, "name": "Ann \u{1f600} \"\\ \u{7f}" }), bob.clone(), bob]);
        let paid = events.iter().find(|event| event["type"] == "shop.order_paid").unwrap();
        assert_eq!((&paid["data"], paid.get("partitionkey")), (&json!({ "order": 7 }), None));
    }

    async fn events_wait_while_the_server_is_down(db: Db) {
        setup(&db).await;
        let mut server = NatsServer::down();
        let client = server.client().await;
        let publisher = NatsPublisher::new(client.clone(), shop());
        let relay = db.deliveries().relay("shop", publisher).spawn().await.unwrap();
        pay(&db, 0..20).await;
        let error = retrying(&db, 20).await;
        assert_eq!(error, "there is no connection to the NATS server");
        server.restart().await;
        until_deleted(&db).await;
        server.kill();
        pay(&db, 20..40).await;
        server.restart().await;
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        let orders: BTreeSet<_> = orders(&server.messages("SHOP", 40).await).into_iter().collect();
        assert_eq!(orders, (0..40).collect());
    }

    async fn the_server_recognizes_a_message_whose_acknowledgement_was_lost(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let batches = Arc::new(AtomicUsize::new(0));
        let publisher = NatsPublisher::new(server.client().await, shop());
        let publisher = LosesAcknowledgements { publisher, batches: Arc::clone(&batches) };
        pay(&db, 0..20).await;
        let relay = db.deliveries().relay("shop", publisher).spawn().await.unwrap();
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        assert!(batches.load(Ordering::Relaxed) > 1);
        assert_eq!(orders(&server.messages("SHOP", 20).await).len(), 20);
    }

    async fn a_relay_that_is_killed_between_publishing_and_deleting_repeats_no_message(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        pay(&db, 0..20).await;
        // The second one publishes again what the first one has claimed.
        for claims in 1..=2 {
            let mut relay = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "relay_process", "--test-threads=1"])
                .env("SIGNALS_RELAY_URL", url(&db).await)
                .env("SIGNALS_RELAY_NATS", server.url())
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            assert_eq!(relay.wait().await.unwrap().signal(), Some(9));
            assert_eq!(count(&db, &format!("signals_delivery WHERE claim = {claims}")).await, 20);
            assert_eq!(stored(&client, "SHOP").await, 20);
        }
        let publisher = NatsPublisher::new(client, shop());
        let relay = db.deliveries().relay("shop", publisher).spawn().await.unwrap();
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        let orders: BTreeSet<_> = orders(&server.messages("SHOP", 20).await).into_iter().collect();
        assert_eq!(orders, (0..20).collect());
    }

    async fn events_wait_while_the_stream_is_full(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let full = StreamConfig { max_messages: 5, discard: DiscardPolicy::New, ..shop() };
        let client = server.client().await;
        let publisher = NatsPublisher::new(client.clone(), full.clone());
        pay(&db, 0..20).await;
        let relay = db.deliveries().relay("shop", publisher).spawn().await.unwrap();
        let error = retrying(&db, 15).await;
        assert!(error.contains("has not stored a message of `shop.order_paid`") && error.contains("maximum messages"), "{error}");
        let larger = StreamConfig { max_messages: 100, ..full };
        jetstream::new(client).update_stream(larger).await.unwrap();
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        let orders: BTreeSet<_> = orders(&server.messages("SHOP", 20).await).into_iter().collect();
        assert_eq!(orders, (0..20).collect());
    }

    async fn a_deleted_stream_is_created_again(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let publisher = NatsPublisher::new(client.clone(), shop());
        let relay = db.deliveries().relay("shop", publisher).spawn().await.unwrap();
        pay(&db, 0..1).await;
        until_deleted(&db).await;
        jetstream::new(client.clone()).delete_stream("SHOP").await.unwrap();
        pay(&db, 1..2).await;
        until_deleted(&db).await;
        relay.shutdown().await.unwrap();
        assert_eq!(orders(&server.messages("SHOP", 1).await), [1]);
        assert_eq!(stored(&client, "SHOP").await, 1);
    }
}

#[tokio::test]
async fn an_existing_stream_must_be_as_the_program_says() {
    let server = NatsServer::start().await;
    let client = server.client().await;
    let setup = async |stream: StreamConfig| {
        let publisher = NatsPublisher::new(client.clone(), stream);
        publisher.setup().await.map_err(|error| error.to_string())
    };
    let minute = Duration::from_secs(60);
    let existing = StreamConfig { duplicate_window: minute, ..shop() };
    setup(existing.clone()).await.unwrap();
    setup(existing.clone()).await.unwrap();
    // The server has a window of its own if the program names none.
    setup(shop()).await.unwrap();
    let cases = [
        (
            StreamConfig { subjects: vec!["shop.a".into(), "shop.b".into()], ..existing.clone() },
            "its subjects are shop.> instead of shop.a, shop.b",
        ),
        (
            StreamConfig { retention: RetentionPolicy::WorkQueue, ..existing.clone() },
            "its retention is Limits instead of WorkQueue",
        ),
        (
            StreamConfig { duplicate_window: minute * 2, subjects: vec!["x".into()], ..existing },
            "its subjects are shop.> instead of x, and its duplicate_window is 60s instead of 120s",
        ),
    ];
    for (wanted, difference) in cases {
        let error = setup(wanted).await.unwrap_err();
        assert_eq!(error, format!("the stream `SHOP` exists, but {difference}"));
    }
}
