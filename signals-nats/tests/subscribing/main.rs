//! Receives from a real NATS server.
#![allow(missing_docs)]

#[path = "../../../tests/common/clock.rs"]
mod clock;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod failures;
#[path = "../server/mod.rs"]
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{count, table};
use serde::{Deserialize, Serialize};
use server::{NatsServer, shop, until};
use signals_nats::async_nats::jetstream::consumer::{AckPolicy, Info, pull};
use signals_nats::async_nats::{Client, jetstream};
use signals_nats::{NatsPublisher, NatsSubscriber, RunningSubscriber, StreamConfig};
use sqlx_signals::durable::{DeliveryFilter, DeliveryState, Relay, StoredDelivery, Worker};
use sqlx_signals::prelude::*;

/// As the shop has it.
#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(publish = "shop.order_paid")]
struct Paid {
    order: i64,
}

/// As the shipping service has it.
#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(subscribe = "shop.order_paid")]
struct OrderPaid {
    order: i64,
}

#[derive(Debug, Model)]
#[model(table = "shipments")]
struct Shipment {
    id: Option<i64>,
    order_id: i64,
}

#[receiver(OrderPaid, durable)]
async fn ship(paid: &OrderPaid, conn: &mut Conn<'_>) -> Result<()> {
    Shipment { id: None, order_id: paid.order }.save(conn).await?;
    Ok(())
}

async fn setup(db: &Db) {
    table(db, "shipments", "order_id BIGINT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
}

async fn pay(db: &Db, orders: std::ops::Range<i64>) {
    let mut tx = db.begin().await.unwrap();
    for order in orders {
        Paid { order }.send(&mut tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn relay(db: &Db, client: &Client) -> Relay {
    let publisher = NatsPublisher::new(client.clone(), shop());
    db.deliveries().relay("shop", publisher).spawn().await.unwrap()
}

fn subscriber(client: &Client) -> NatsSubscriber {
    NatsSubscriber::new(client.clone(), shop(), "shipping").ack_wait(Duration::from_secs(1))
}

/// Both services.
struct Services {
    relay: Relay,
    subscriber: RunningSubscriber,
    worker: Worker,
}

impl Services {
    async fn start(db: &Db, client: &Client) -> Self {
        let relay = relay(db, client).await;
        let subscriber = subscriber(client).spawn(db).await.unwrap();
        let worker = db.deliveries().worker().spawn().await.unwrap();
        Self { relay, subscriber, worker }
    }

    async fn stop(self) {
        self.relay.shutdown().await.unwrap();
        self.subscriber.shutdown().await;
        self.worker.shutdown().await.unwrap();
    }
}

async fn dead(db: &Db) -> Vec<StoredDelivery> {
    let dead = DeliveryFilter::new().state(DeliveryState::Dead);
    db.deliveries().list(dead).await.unwrap()
}

async fn until_shipped(db: &Db, orders: i64) {
    until(async || count(db, "shipments").await >= orders).await;
    until(async || count(db, "signals_delivery").await == 0).await;
}

/// Asserts that each of these orders is shipped once.
async fn assert_shipped(db: &Db, orders: std::ops::Range<i64>) {
    let mut shipped: BTreeMap<_, u32> = BTreeMap::new();
    for shipment in Shipment::all(db).await.unwrap() {
        *shipped.entry(shipment.order_id).or_default() += 1;
    }
    assert_eq!(shipped, orders.map(|order| (order, 1)).collect());
}

/// The state of the consumer.
async fn consumer(client: &Client) -> Option<Info> {
    let stream = jetstream::new(client.clone()).get_stream("SHOP").await.ok()?;
    stream.consumer_info("shipping-shop_order_paid").await.ok()
}

/// Waits until the server has nothing left for the subscriber.
async fn until_acknowledged(client: &Client) {
    until(async || {
        consumer(client)
            .await
            .is_some_and(|info| info.num_ack_pending == 0 && info.num_pending == 0)
    })
    .await;
}

on_every_database! {
    async fn every_message_is_taken_once(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let services = Services::start(&db, &client).await;
        pay(&db, 0..120).await;
        until_shipped(&db, 120).await;
        until_acknowledged(&client).await;
        services.stop().await;
        assert_shipped(&db, 0..120).await;
        assert_eq!(count(&db, "signals_inbox").await, 120);
    }

    async fn messages_wait_while_the_server_is_down(db: Db) {
        setup(&db).await;
        let mut server = NatsServer::down();
        let services = Services::start(&db, &server.client().await).await;
        pay(&db, 0..10).await;
        server.restart().await;
        until_shipped(&db, 10).await;
        server.kill();
        pay(&db, 10..20).await;
        server.restart().await;
        until_shipped(&db, 20).await;
        services.stop().await;
        assert_shipped(&db, 0..20).await;
    }

    async fn a_subscriber_that_is_shut_down_gives_back_what_it_has_not_begun(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let relay = relay(&db, &client).await;
        pay(&db, 0..200).await;
        until(async || server::stored(&client, "SHOP").await == 200).await;
        relay.shutdown().await.unwrap();
        // What it does not give back would not be received again during the test.
        let subscriber = || NatsSubscriber::new(client.clone(), shop(), "shipping").ack_wait(Duration::from_secs(3600));
        for _ in 0..3 {
            let before = count(&db, "signals_inbox").await;
            let subscriber = subscriber().spawn(&db).await.unwrap();
            until(async || count(&db, "signals_inbox").await > before).await;
            subscriber.shutdown().await;
        }
        let taken = count(&db, "signals_inbox").await;
        assert!(taken < 200, "the subscriber is not stopped");
        let last = subscriber().spawn(&db).await.unwrap();
        until_acknowledged(&client).await;
        last.shutdown().await;
        assert_eq!(count(&db, "signals_inbox").await, 200);
    }

    async fn a_message_that_cannot_be_decoded_is_dead_and_not_received_again(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let services = Services::start(&db, &client).await;
        let context = jetstream::new(client.clone());
        until(async || context.publish("shop.order_paid", "not JSON".into()).await.unwrap().await.is_ok()).await;
        until(async || dead(&db).await.len() == 1).await;
        until_acknowledged(&client).await;
        pay(&db, 0..1).await;
        until(async || count(&db, "shipments").await == 1).await;
        services.stop().await;
        assert_eq!((count(&db, "signals_inbox").await, count(&db, "signals_delivery").await), (2, 1));
    }
}

#[tokio::test]
async fn an_existing_consumer_must_be_as_the_program_says() {
    let server = NatsServer::start().await;
    let client = server.client().await;
    let stream = jetstream::new(client.clone()).create_stream(shop()).await.unwrap();
    let existing = pull::Config {
        durable_name: Some("shipping-shop_order_paid".to_owned()),
        ack_policy: AckPolicy::None,
        filter_subject: "shop.other".to_owned(),
        max_deliver: 5,
        ..pull::Config::default()
    };
    stream.create_consumer(existing).await.unwrap();
    let of_service = |service: &str| NatsSubscriber::new(client.clone(), shop(), service);
    let error = of_service("shipping").setup().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the consumer `shipping-shop_order_paid` exists, but its subject is shop.other instead of shop.order_paid, and its ack_policy is \
         None instead of Explicit, and it gives up after 5 attempts, so that messages are lost"
    );
    of_service("billing").setup().await.unwrap();
    let minute = of_service("billing").ack_wait(Duration::from_secs(60));
    assert_eq!(
        minute.setup().await.unwrap_err().to_string(),
        "the consumer `billing-shop_order_paid` exists, but its ack_wait is 30s instead of 60s"
    );
    let error = of_service("our shop").setup().await.unwrap_err().to_string();
    assert!(error.contains("`our shop` is no name of a service"), "{error}");
    let other = StreamConfig { subjects: vec!["shop.order_paid".into()], ..shop() };
    let error = NatsSubscriber::new(client, other, "billing").setup().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the stream `SHOP` exists, but its subjects are shop.> instead of shop.order_paid"
    );
}
