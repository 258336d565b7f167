//! The inbox: each message of another service is taken once, and what cannot be taken is kept as a delivery.
#![allow(missing_docs)]

mod common;

use std::sync::Mutex;
use std::time::Duration;

use common::{count, table};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx_signals::durable::{
    DeliveryFilter, DeliveryState, Inbox, Message, Publisher, Receipt, StoredDelivery, Uuid,
    migrations,
};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, testing};
use tokio::sync::oneshot;

#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(subscribe = "shop.order_paid")]
struct OrderPaid {
    order: i64,
}

/// Another signal of the same subject, which needs less of it.
#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(subscribe = "shop.order_paid")]
struct AnyPaid {}

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "shipments")]
struct Shipment {
    id: Option<i64>,
    order_id: i64,
    /// The event, its cause and its correlation.
    chain: String,
}

fn chain(delivery: Delivery<'_>) -> String {
    let caused_by = delivery.caused_by().map(|id| id.to_string()).unwrap_or_default();
    format!("{} {caused_by} {}", delivery.event(), delivery.correlation())
}

#[receiver(OrderPaid, durable)]
async fn ship(paid: &OrderPaid, delivery: Delivery<'_>, conn: &mut Conn<'_>) -> Result<()> {
    Shipment { id: None, order_id: paid.order, chain: chain(delivery) }.save(conn).await?;
    Ok(())
}

#[receiver(AnyPaid, durable(at_least_once))]
async fn count_paid(_: &AnyPaid) {}

/// Runs for what `ship` stores.
#[receiver(post_save, sender = Shipment, durable)]
async fn track(
    _: PostSave<'_, Shipment>,
    delivery: Delivery<'_>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    conn.query("INSERT INTO tracked (chain) VALUES ($1)").bind(chain(delivery)).execute().await?;
    Ok(())
}

/// Fails in the transaction that takes the message.
#[receiver(OrderPaid)]
async fn check_order(paid: &OrderPaid, conn: &mut Conn<'_>) -> Result<()> {
    let refused = conn.query("SELECT id FROM refused WHERE order_id = $1").bind(paid.order);
    match refused.fetch_optional::<(i64,)>().await? {
        Some(_) => Err(Error::other("there is no such order")),
        None => Ok(()),
    }
}

/// Violates a constraint that is checked at the end of the transaction.
#[receiver(OrderPaid)]
async fn book_order(paid: &OrderPaid, conn: &mut Conn<'_>) -> Result<()> {
    if paid.order == MISSING {
        let booking = conn.query("INSERT INTO bookings (shipment) VALUES ($1)").bind(MISSING);
        booking.execute().await?;
    }
    Ok(())
}

/// An order that has no shipment.
const MISSING: i64 = 404;

#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(subscribe = "shop.customer")]
struct Changed {
    customer: String,
}

#[receiver(Changed, durable(ordering_key = customer, at_least_once))]
fn tell(_: &Changed) {}

#[receiver(Changed, durable(coalesce = customer, at_least_once))]
fn tell_once(_: &Changed) {}

/// What is thrown is caught, as if two services did so.
#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(publish = "ring.ball")]
struct Thrown {
    turn: u32,
}

#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(subscribe = "ring.ball")]
struct Caught {
    turn: u32,
}

#[receiver(Caught, durable)]
async fn throw_again(caught: &Caught, conn: &mut Conn<'_>) -> Result<()> {
    Thrown { turn: caught.turn + 1 }.send(conn).await?;
    Ok(())
}

/// A broker that delivers every message at once.
struct Ring {
    db: Db,
    /// Ends the wait of the test when a message is dead.
    dead: Mutex<Option<oneshot::Sender<()>>>,
}

impl Publisher for Ring {
    async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
        for message in messages {
            let receipt =
                self.db.inbox().receive(message.subject(), message.body().as_bytes()).await;
            if receipt.unwrap() == Receipt::Dead {
                let dead = self.dead.lock().unwrap().take();
                dead.unwrap().send(()).unwrap();
            }
        }
        messages.iter().map(|_| Ok(())).collect()
    }
}

const SUBJECT: &str = "shop.order_paid";
const ID: &str = "0199c2a4-6f0e-7c11-b1d5-0f4f0a5f3c55";
const FIRST: &str = "0199c2a4-0000-7c11-b1d5-0f4f0a5f3c55";
const CAUSE: &str = "0199c2a4-1111-7c11-b1d5-0f4f0a5f3c55";

fn message(id: &str, data: Value) -> String {
    let event = json!({
        "specversion": "1.0", "source": "shop", "id": id, "type": SUBJECT, "correlationid": FIRST, "causationid": CAUSE, "data": data,
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "unknown": 1,
    });
    event.to_string()
}

async fn setup(db: &Db) {
    table(db, "shipments", "order_id BIGINT NOT NULL, chain TEXT NOT NULL").await;
    table(db, "refused", "order_id BIGINT NOT NULL").await;
    table(
        db,
        "bookings",
        "shipment BIGINT REFERENCES shipments (id) DEFERRABLE INITIALLY DEFERRED",
    )
    .await;
    table(db, "tracked", "chain TEXT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
    db.inbox().check().await.unwrap();
}

async fn receive(db: &Db, body: &str) -> Receipt {
    db.inbox().receive(SUBJECT, body.as_bytes()).await.unwrap()
}

async fn list(db: &Db, state: DeliveryState) -> Vec<StoredDelivery> {
    db.deliveries().list(DeliveryFilter::new().state(state)).await.unwrap()
}

on_every_database! {
    async fn a_message_is_taken_once(db: Db) {
        setup(&db).await;
        let body = message(ID, json!({ "order": 7 }));
        assert_eq!(receive(&db, &body).await, Receipt::Taken);
        assert_eq!(receive(&db, &body).await, Receipt::Repeated);
        // The same id of another service is another message.
        let other = body.replace("\"shop\"", "\"shop-2\"");
        assert_eq!(receive(&db, &other).await, Receipt::Taken);
        let delivered = testing::deliver(&db).await.unwrap();
        delivered.assert_ran::<ship>(2);
        delivered.assert_ran::<count_paid>(2);
        assert_eq!(receive(&db, &body).await, Receipt::Repeated);
        testing::deliver(&db).await.unwrap().assert_ran::<ship>(0);
        let orders: Vec<_> = Shipment::all(&db).await.unwrap().iter().map(|shipment| shipment.order_id).collect();
        assert_eq!(orders, [7, 7]);
    }

    async fn the_chain_of_events_continues_across_services(db: Db) {
        setup(&db).await;
        receive(&db, &message(ID, json!({ "order": 7 }))).await;
        for delivery in list(&db, DeliveryState::Waiting).await {
            let context: Value = serde_json::from_str(&delivery.context.unwrap()).unwrap();
            // Without a propagator, the trace is passed on as it is.
            assert_eq!(context["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        }
        testing::deliver(&db).await.unwrap().assert_ran::<track>(1);
        // The delivery is of the event of the other service.
        let shipment = Shipment::query("").fetch_one(&db).await.unwrap();
        assert_eq!(shipment.chain, format!("{ID} {CAUSE} {FIRST}"));
        // And what its receiver stores is caused by this event.
        let (tracked,): (String,) = db.query("SELECT chain FROM tracked").fetch_one().await.unwrap();
        assert!(tracked.ends_with(&format!(" {ID} {FIRST}")), "{tracked}");
        // An id of another form has the same UUID in all deliveries of its message, and other ones for other sources.
        receive(&db, &json!({ "id": "7", "source": "a", "data": { "order": 8 } }).to_string()).await;
        receive(&db, &json!({ "id": "7", "source": "b", "data": { "order": 8 } }).to_string()).await;
        let events: Vec<Uuid> = list(&db, DeliveryState::Waiting).await.iter().map(|delivery| delivery.event).collect();
        assert!(events[0] == events[1] && events[2] == events[3] && events[0] != events[2], "{events:?}");
        assert_eq!(events.len(), 4);
    }

    async fn a_message_whose_receiver_fails_is_taken_later_by_a_worker(db: Db) {
        setup(&db).await;
        db.execute("INSERT INTO refused (order_id) VALUES (-1)").await.unwrap();
        let body = message(ID, json!({ "order": -1 }));
        assert_eq!(receive(&db, &body).await, Receipt::Failed);
        assert_eq!(receive(&db, &body).await, Receipt::Repeated);
        let failed = list(&db, DeliveryState::Retrying).await;
        let error = failed[0].error.as_deref().unwrap();
        assert_eq!((failed.len(), failed[0].receiver.as_str()), (1, "subscribe shop.order_paid"));
        assert!(error.contains("check_order") && error.contains("there is no such order"), "{error}");
        assert_eq!(count(&db, "signals_delivery").await, 1);
        testing::make_due(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<ship>(0);
        assert_eq!(list(&db, DeliveryState::Retrying).await[0].attempt, 1);
        db.execute("DELETE FROM refused").await.unwrap();
        testing::make_due(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<ship>(1);
        assert_eq!(Shipment::query("").fetch_one(&db).await.unwrap().chain, format!("{ID} {CAUSE} {FIRST}"));
        assert_eq!(count(&db, "signals_delivery").await, 0);
    }

    async fn a_message_that_cannot_be_decoded_is_dead_and_can_be_retried(db: Db) {
        setup(&db).await;
        let wrong = message(ID, json!({ "order": "seven" }));
        assert_eq!(receive(&db, &wrong).await, Receipt::Dead);
        assert_eq!(receive(&db, &wrong).await, Receipt::Repeated);
        assert_eq!(receive(&db, "no \0 event").await, Receipt::Dead);
        assert_eq!(receive(&db, "no \0 event").await, Receipt::Repeated);
        assert_eq!(receive(&db, &message("2", Value::Null)).await, Receipt::Dead);
        assert_eq!(db.inbox().receive(SUBJECT, b"\xff").await.unwrap(), Receipt::Dead);
        let dead = list(&db, DeliveryState::Dead).await;
        let errors: Vec<_> = dead.iter().map(|dead| dead.error.as_deref().unwrap().split(':').next().unwrap()).collect();
        let (data, event) = ("the data of the message cannot be decoded", "the message is not a CloudEvent with data in JSON");
        assert_eq!(errors, [data, event, data, event]);
        assert_eq!(dead[0].event.to_string(), ID);
        let payload: Value = serde_json::from_str(&dead[0].payload).unwrap();
        assert_eq!(payload["signal"], json!({ "subject": SUBJECT, "body": wrong }));
        let status = db.deliveries().status().await.unwrap();
        let status = status.receivers.iter().find(|status| status.receiver == "subscribe shop.order_paid").unwrap();
        assert_eq!((status.dead, status.queue), (4, Some("default")));
        // An operator retries it with the same program, and with one that is changed.
        db.deliveries().retry(dead[0].id).await.unwrap();
        testing::deliver(&db).await.unwrap();
        assert_eq!(list(&db, DeliveryState::Dead).await.len(), 4);
        db.execute(match db.kind() {
            DatabaseKind::Sqlite => "UPDATE signals_delivery SET payload = replace(payload, '\\\"seven\\\"', '7')",
            DatabaseKind::Postgres => "UPDATE signals_delivery SET payload = replace(payload::text, '\\\"seven\\\"', '7')::json",
        }).await.unwrap();
        db.deliveries().retry(dead[0].id).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<ship>(1);
        assert_eq!(Shipment::query("").fetch_one(&db).await.unwrap().chain, format!("{ID} {CAUSE} {FIRST}"));
        // The others are discarded.
        for dead in list(&db, DeliveryState::Dead).await {
            db.deliveries().discard(dead.id).await.unwrap();
        }
        assert_eq!(count(&db, "signals_delivery").await, 0);
        assert_eq!(count(&db, "signals_inbox").await, 4);
    }

    async fn a_cycle_between_services_ends_at_the_recursion_limit(db: Db) {
        setup(&db).await;
        let (dead, is_dead) = oneshot::channel();
        let ring = Ring { db: db.clone(), dead: Mutex::new(Some(dead)) };
        let relay = db.deliveries().relay("ring", ring).spawn().await.unwrap();
        let worker = db.deliveries().worker().spawn().await.unwrap();
        Thrown { turn: 0 }.send(&db).await.unwrap();
        is_dead.await.unwrap();
        worker.shutdown().await.unwrap();
        relay.shutdown().await.unwrap();
        let dead = list(&db, DeliveryState::Dead).await;
        let error = dead[0].error.as_deref().unwrap();
        assert_eq!((dead.len(), dead[0].receiver.as_str()), (1, "subscribe ring.ball"));
        assert!(error.contains("16") && error.contains("publish ring.ball → "), "{error}");
        assert!(dead[0].payload.contains("\\\"turn\\\":8"), "{}", dead[0].payload);
        assert_eq!(count(&db, "signals_delivery").await, 1);
        // An operator retries it, and the chain is as long as before.
        db.deliveries().retry(dead[0].id).await.unwrap();
        testing::deliver(&db).await.unwrap();
        assert_eq!(list(&db, DeliveryState::Dead).await.len(), 1);
    }

    async fn a_message_that_is_too_large_for_a_delivery_is_kept(db: Db) {
        setup(&db).await;
        let small = db.deliveries().max_payload(20);
        assert_eq!(receive(&small, &message(ID, json!({ "order": 1_000_000_000 }))).await, Receipt::Failed);
        testing::make_due(&db).await.unwrap();
        testing::deliver(&db).await.unwrap().assert_ran::<ship>(1);
    }

    async fn a_message_with_a_long_id_or_one_with_nul_is_taken_once(db: Db) {
        setup(&db).await;
        let long = |last: char| "0123456789".repeat(1000) + &last.to_string();
        for id in [long('a'), long('b'), "with \0".to_owned()] {
            let body = json!({ "id": id, "source": id, "data": { "order": 7 } }).to_string();
            assert_eq!(receive(&db, &body).await, Receipt::Taken);
            assert_eq!(receive(&db, &body).await, Receipt::Repeated);
        }
        assert_eq!(count(&db, "signals_inbox").await, 3);
    }

    async fn a_message_with_a_long_key_is_taken(db: Db) {
        setup(&db).await;
        let mut random = fastrand::Rng::with_seed(1);
        let long: String = (0..6000).map(|_| random.alphanumeric()).collect();
        // The same key twice, and one that differs at the end.
        for (id, customer) in [("1", long.clone()), ("2", long.clone()), ("3", long + "a")] {
            let body = json!({ "id": id, "source": "a", "data": { "customer": customer } }).to_string();
            assert_eq!(db.inbox().receive("shop.customer", body.as_bytes()).await.unwrap(), Receipt::Taken);
        }
        let waiting = list(&db, DeliveryState::Waiting).await;
        let keys = waiting.iter().filter_map(|delivery| delivery.ordering_key.as_deref());
        let keys: Vec<_> = keys.collect();
        assert!(keys.len() == 3 && keys[0] == keys[1] && keys[1] != keys[2], "{keys:?}");
        // Those of one key are combined.
        assert_eq!(waiting.len(), 3 + 2);
        testing::deliver(&db).await.unwrap().assert_ran::<tell>(3);
    }

    async fn a_message_that_violates_a_constraint_at_the_commit_is_kept(db: Db) {
        setup(&db).await;
        let body = message(ID, json!({ "order": MISSING }));
        assert_eq!(receive(&db, &body).await, Receipt::Failed);
        assert_eq!(receive(&db, &body).await, Receipt::Repeated);
        assert_eq!(list(&db, DeliveryState::Retrying).await.len(), 1);
        assert_eq!(count(&db, "bookings").await, 0);
    }

    async fn a_message_of_an_unknown_subject_is_an_error(db: Db) {
        setup(&db).await;
        let error = db.inbox().receive("shop.other", b"{}").await.unwrap_err();
        assert_eq!(error.to_string(), "no signal of this program has `subscribe = \"shop.other\"`");
        assert_eq!(Inbox::subjects().into_iter().collect::<Vec<_>>(), ["ring.ball", "shop.customer", SUBJECT]);
    }

    async fn old_messages_are_pruned(db: Db) {
        setup(&db).await;
        receive(&db, &message(ID, json!({ "order": 7 }))).await;
        let prune = async |seconds| db.inbox().prune(Duration::from_secs(seconds)).await.unwrap();
        assert_eq!(prune(3600).await, 0);
        db.execute(match db.kind() {
            DatabaseKind::Sqlite => "UPDATE signals_inbox SET received_at = received_at - 7200 * 1000",
            DatabaseKind::Postgres => "UPDATE signals_inbox SET received_at = received_at - interval '2 hours'",
        }).await.unwrap();
        receive(&db, &message(FIRST, json!({ "order": 7 }))).await;
        assert_eq!(prune(3600).await, 1);
        assert_eq!(count(&db, "signals_inbox").await, 1);
    }

    async fn without_the_tables_nothing_is_received(db: Db) {
        let body = message(ID, json!({ "order": 7 }));
        let receive = async || db.inbox().receive(SUBJECT, body.as_bytes()).await;
        for error in [db.inbox().check().await.unwrap_err(), receive().await.unwrap_err()] {
            assert!(matches!(error, Error::DeliveriesNotSetUp { found: 0, .. }), "{error}");
        }
        // The tables of the version before.
        let [first, second, ..] = migrations(db.kind()) else { panic!("three versions are expected") };
        db.execute(first.sql).await.unwrap();
        db.execute(second.sql).await.unwrap();
        assert!(matches!(db.inbox().check().await, Err(Error::DeliveriesNotSetUp { found: 2, .. })));
        assert!(matches!(receive().await, Err(Error::DeliveriesNotSetUp { .. })));
        db.deliveries().setup().await.unwrap();
        table(&db, "refused", "order_id BIGINT NOT NULL").await;
        assert_eq!(receive().await.unwrap(), Receipt::Taken);
    }
}

#[test]
fn a_subscription_is_in_the_list_of_receivers() {
    let lines = registry().receivers().to_string();
    assert!(lines.contains("subscribe shop.order_paid"), "{lines}");
}
