//! What fails: the server, the database, processes, the consumer, and acknowledgements that come too late.
//!
//! `SIGNALS_LONG=1` makes the server be down for a minute.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signals_nats::StreamConfig;
use signals_nats::async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use signals_nats::async_nats::{self, jetstream};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error};
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::{
    OrderPaid, Services, assert_shipped, consumer, pay, relay, setup, subscriber,
    until_acknowledged, until_shipped,
};
use crate::clock;
use crate::common::{TestDb, another, count, execute, url};
use crate::server::{NatsServer, shop, until};

/// The orders from here on hold up the transaction that takes them: this one on SQLite, and the next one on PostgreSQL.
const SLOW: i64 = 1000;
/// Are opened by the test.
static GATES: [Semaphore; 2] = [Semaphore::const_new(0), Semaphore::const_new(0)];

#[receiver(OrderPaid)]
async fn wait_for_gate(paid: &OrderPaid) -> Result<()> {
    let gate = usize::try_from(paid.order - SLOW).ok().and_then(|slow| GATES.get(slow));
    if let Some(gate) = gate {
        gate.acquire().await.map_err(Error::other)?.forget();
    }
    Ok(())
}

/// In a child process, SIGKILL after the commit of this number of messages, before the acknowledgement of the last one.
#[receiver(OrderPaid, on_commit)]
async fn die(_: &OrderPaid) {
    static COMMITS: AtomicUsize = AtomicUsize::new(0);
    let Some(last) = child("LAST").and_then(|last| last.parse::<usize>().ok()) else { return };
    if COMMITS.fetch_add(1, Ordering::SeqCst) + 1 == last {
        let id = std::process::id().to_string();
        Command::new("kill").args(["-9", &id]).status().await.unwrap();
        std::future::pending().await
    }
}

/// A variable of a child process.
fn child(name: &str) -> Option<String> {
    std::env::var(format!("SIGNALS_SUBSCRIBER_{name}")).ok()
}

/// The child process: a subscriber that is killed.
#[tokio::test]
async fn subscriber_process() {
    let (Some(url), Some(nats)) = (child("URL"), child("NATS")) else { return };
    let db = Db::connect(&url).await.unwrap();
    let client = async_nats::connect(nats).await.unwrap();
    let _subscriber = subscriber(&client).spawn(&db).await.unwrap();
    std::future::pending().await
}

crate::on_every_database! {
    async fn a_server_that_is_restarted_while_messages_arrive_loses_and_repeats_nothing(db: Db) {
        setup(&db).await;
        let mut server = NatsServer::start().await;
        let services = Services::start(&db, &server.client().await).await;
        for batch in 0..4 {
            pay(&db, batch * 100..batch * 100 + 100).await;
            // In the middle of the batch.
            until(async || count(&db, "signals_inbox").await > batch * 100).await;
            if batch % 2 == 0 {
                server.restart().await;
            }
        }
        until_shipped(&db, 400).await;
        services.stop().await;
        assert_shipped(&db, 0..400).await;
    }

    async fn events_that_are_stored_while_the_server_is_down_for_long_are_taken_once(db: Db) {
        setup(&db).await;
        let mut server = NatsServer::start().await;
        let services = Services::start(&db, &server.client().await).await;
        pay(&db, 0..10).await;
        until_shipped(&db, 10).await;
        let is_long = std::env::var_os("SIGNALS_LONG").is_some();
        let outage = Duration::from_secs(if is_long { 60 } else { 3 });
        server.kill();
        let (killed, mut orders) = (Instant::now(), 10);
        while killed.elapsed() < outage {
            pay(&db, orders..orders + 5).await;
            orders += 5;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(orders < SLOW);
        assert_eq!((count(&db, "signals_delivery").await, count(&db, "shipments").await), (orders - 10, 10));
        server.restart().await;
        until_shipped(&db, orders).await;
        until_acknowledged(&server.client().await).await;
        services.stop().await;
        assert_shipped(&db, 0..orders).await;
    }

    async fn two_relays_and_two_subscribers_of_one_database_take_each_message_once(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let other = another(&db, Db::options()).await;
        let one = Services::start(&db, &server.client().await).await;
        let two = Services::start(&other, &server.client().await).await;
        for batch in 0..3 {
            pay(&db, batch * 100..batch * 100 + 100).await;
        }
        until_shipped(&db, 300).await;
        until_acknowledged(&server.client().await).await;
        one.stop().await;
        two.stop().await;
        other.close().await;
        assert_shipped(&db, 0..300).await;
        assert_eq!(count(&db, "signals_inbox").await, 300);
    }

    async fn a_subscriber_that_is_killed_between_commit_and_acknowledgement_takes_each_message_once(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let relay = relay(&db, &client).await;
        pay(&db, 0..10).await;
        for kill in 1..=3 {
            let mut subscriber = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "failures::subscriber_process", "--test-threads=1"])
                .env("SIGNALS_SUBSCRIBER_URL", url(&db).await)
                .env("SIGNALS_SUBSCRIBER_NATS", server.url())
                .env("SIGNALS_SUBSCRIBER_LAST", "2")
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let ended = subscriber.wait().await.unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
            assert_eq!(count(&db, "signals_inbox").await, kill * 2);
            // The first one of each process is acknowledged, the second one is not.
            assert!(consumer(&client).await.unwrap().num_ack_pending > 0);
        }
        relay.shutdown().await.unwrap();
        let services = Services::start(&db, &client).await;
        until_shipped(&db, 10).await;
        until_acknowledged(&client).await;
        services.stop().await;
        assert_shipped(&db, 0..10).await;
    }

    async fn a_message_that_is_published_again_after_the_window_for_duplicates_is_taken_once(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let stream = StreamConfig { duplicate_window: Duration::from_millis(100), ..shop() };
        let context = jetstream::new(client.clone());
        context.create_stream(stream).await.unwrap();
        let services = Services::start(&db, &client).await;
        pay(&db, 0..1).await;
        until_shipped(&db, 1).await;
        let message = server.messages("SHOP", 1).await.remove(0);
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, message.headers.unwrap().get(NATS_MESSAGE_ID).unwrap().as_str());
        until(async || {
            let (headers, body) = (headers.clone(), message.payload.clone());
            let published = context.publish_with_headers("shop.order_paid", headers, body).await.unwrap();
            !published.await.unwrap().duplicate
        })
        .await;
        until_acknowledged(&client).await;
        services.stop().await;
        assert_eq!(server.messages("SHOP", 2).await.len(), 2);
        assert_shipped(&db, 0..1).await;
        assert_eq!((count(&db, "signals_inbox").await, count(&db, "signals_delivery").await), (1, 0));
    }

    async fn a_message_that_takes_longer_than_the_ack_wait_has_no_second_effect(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let services = Services::start(&db, &client).await;
        let other = another(&db, Db::options()).await;
        let second = subscriber(&client).spawn(&other).await.unwrap();
        let gate = usize::from(db.kind() == DatabaseKind::Postgres);
        let order = SLOW + i64::try_from(gate).unwrap();
        pay(&db, order..order + 1).await;
        // The server sends it to the other subscriber, or to the same one when it has finished.
        until(async || consumer(&client).await.is_some_and(|info| info.num_redelivered > 0)).await;
        assert_eq!(count(&db, "shipments").await, 0);
        GATES[gate].add_permits(2);
        until_shipped(&db, 1).await;
        until_acknowledged(&client).await;
        services.stop().await;
        second.shutdown().await;
        other.close().await;
        assert_shipped(&db, order..order + 1).await;
    }

    async fn messages_are_given_back_while_the_database_refuses_them(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let services = Services::start(&db, &client).await;
        execute(&db, "ALTER TABLE signals_inbox RENAME TO inbox_that_is_away").await;
        pay(&db, 0..10).await;
        until(async || consumer(&client).await.is_some_and(|info| info.num_redelivered > 0)).await;
        execute(&db, "ALTER TABLE inbox_that_is_away RENAME TO signals_inbox").await;
        until_shipped(&db, 10).await;
        services.stop().await;
        assert_shipped(&db, 0..10).await;
    }

    async fn a_deleted_consumer_or_stream_is_created_again_and_repeats_no_effect(db: Db) {
        setup(&db).await;
        let server = NatsServer::start().await;
        let client = server.client().await;
        let services = Services::start(&db, &client).await;
        pay(&db, 0..10).await;
        until_shipped(&db, 10).await;
        let context = jetstream::new(client.clone());
        let stream = context.get_stream("SHOP").await.unwrap();
        stream.delete_consumer("shipping-shop_order_paid").await.unwrap();
        pay(&db, 10..20).await;
        until_shipped(&db, 20).await;
        until_acknowledged(&client).await;
        context.delete_stream("SHOP").await.unwrap();
        pay(&db, 20..30).await;
        until_shipped(&db, 30).await;
        services.stop().await;
        assert_shipped(&db, 0..30).await;
    }
}

/// The clock of the database is an hour ahead of the relay's and the subscriber's, or behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_and_a_subscriber_use_only_the_clock_of_the_database() {
    for offset in ["+ interval '1 hour'", "- interval '1 hour'"] {
        let test = TestDb::postgres("nats_clock").await;
        let db = clock::shifted(&test, offset).await;
        setup(&db).await;
        let server = NatsServer::start().await;
        pay(&db, 0..1).await;
        // Another relay has claimed it, and its lease ends in ten minutes.
        let lease = |end: &str| {
            format!(
                "UPDATE signals_delivery SET worker = 'other', claim = 1, run_at = clock_timestamp() {end}"
            )
        };
        execute(&db, &lease("+ interval '10 minutes'")).await;
        let services = Services::start(&db, &server.client().await).await;
        pay(&db, 1..10).await;
        until(async || count(&db, "shipments").await == 9).await;
        until(async || count(&db, "signals_delivery").await == 1).await;
        execute(&db, &lease("")).await;
        until_shipped(&db, 10).await;
        services.stop().await;
        assert_shipped(&db, 0..10).await;
        db.close().await;
        test.passed().await;
    }
}
