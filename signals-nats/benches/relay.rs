//! The rate of a relay, compared with what its two parts reach together by hand: publishing the same messages with async-nats, 500 of them in
//! flight, and the statements that claim and delete the deliveries, without publishing.
//!
//! `scripts/with-nats scripts/with-postgres cargo bench -p sqlx-signals-nats --bench relay`. `--quick` only shows that the benchmark works.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use signals_nats::async_nats::header::HeaderMap;
use signals_nats::async_nats::jetstream::{self, Context, consumer::pull};
use signals_nats::async_nats::{self, Client};
use signals_nats::{NatsPublisher, StreamConfig};
use sqlx_signals::durable::Uuid;
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx::{self, PgConnection, SqliteConnection};

const SUBJECT: &str = "bench.order_paid";
/// How many messages are in flight when they are published by hand.
const IN_FLIGHT: usize = 500;
/// How many deliveries a relay claims at once.
const BATCH: usize = 512;

#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(publish = "bench.order_paid")]
struct OrderPaid {
    order: i64,
    customer: String,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // The task of `main` is not run by a worker thread of the runtime, which are faster to wake up. A relay is a task of theirs.
    tokio::spawn(run()).await.unwrap();
}

async fn run() {
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    let (rounds, events) = if is_quick { (1, 1_000) } else { (9, 10_000) };
    let file =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("relay-{}.db", std::process::id()));
    let mut urls = vec![("SQLite file", format!("sqlite:{}", file.display()))];
    match std::env::var("DATABASE_URL") {
        Ok(url) => urls.push(("PostgreSQL", url)),
        Err(_) => println!("NOT measured: PostgreSQL, because DATABASE_URL is not set"),
    }
    let nats = std::env::var("NATS_URL").expect("run it with `scripts/with-nats`");
    for (name, url) in urls {
        let bench = Bench::new(&url, &nats, events).await;
        bench.measure(name, rounds).await;
        bench.db.close().await;
    }
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
}

#[derive(Clone)]
struct Bench {
    db: Db,
    client: Client,
    context: Context,
    events: usize,
}

fn config() -> StreamConfig {
    StreamConfig {
        name: "BENCH".to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        ..StreamConfig::default()
    }
}

impl Bench {
    async fn new(url: &str, nats: &str, events: usize) -> Self {
        let db = Db::connect(url).await.unwrap();
        for table in ["signals_delivery", "signals_done", "signals_inbox", "signals_schema"] {
            let drop = format!("DROP TABLE IF EXISTS {table}");
            db.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
        }
        db.deliveries().setup().await.unwrap();
        let client = async_nats::connect(nats).await.unwrap();
        let context = jetstream::new(client.clone());
        context.get_or_create_stream(config()).await.unwrap();
        Self { db, client, context, events }
    }

    /// Runs all three in each round, and prints the medians and the ratio of each round.
    async fn measure(&self, database: &str, rounds: usize) {
        let message = self.message().await;
        println!("{database}: {} events of {} bytes", self.events, message.payload.len());
        let mut all = Vec::new();
        for round in 0..=rounds {
            let (mut publish, mut claim, mut relay) = (0.0, 0.0, 0.0);
            let mut order = [0, 1, 2];
            fastrand::shuffle(&mut order);
            for case in order {
                self.stream().await.purge().await.unwrap();
                match case {
                    0 => publish = self.rate(self.publish_by_hand(&message).await),
                    1 => claim = self.rate(self.claim_by_hand().await),
                    _ => relay = self.rate(self.relay().await),
                }
            }
            // The first round warms up.
            if round > 0 {
                let together = 1.0 / (1.0 / publish + 1.0 / claim);
                all.push([publish, claim, together, relay, relay / together]);
            }
        }
        let names =
            ["async-nats, 500 in flight", "claim 512, delete 512", "both together", "relay"];
        for (column, name) in names.into_iter().enumerate() {
            println!("{name:<28} {:>8.0} a second", quantile(&all, column, 0.5));
        }
        let [median, least, most] = [0.5, 0.0, 1.0].map(|at| quantile(&all, 4, at));
        println!("relay : both together        {median:>8.2} ({least:.2} to {most:.2})\n");
    }

    fn rate(&self, took: Duration) -> f64 {
        self.events as f64 / took.as_secs_f64()
    }

    async fn stream(&self) -> jetstream::stream::Stream {
        self.context.get_stream(config().name).await.unwrap()
    }

    /// A message that a relay has published.
    async fn message(&self) -> async_nats::Message {
        self.stream().await.purge().await.unwrap();
        Self { events: 1, ..self.clone() }.relay().await;
        let stream = self.stream().await;
        let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        messages.next().await.unwrap().unwrap().message.clone()
    }

    /// Publishes a message again and again, each time with another id.
    async fn publish_by_hand(&self, message: &async_nats::Message) -> Duration {
        let content_type = message.headers.as_ref().unwrap().get("Content-Type").unwrap();
        let begun = Instant::now();
        let publish = |_| async {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", Uuid::now_v7().to_string());
            headers.insert("Content-Type", content_type.clone());
            let published =
                self.context.publish_with_headers(SUBJECT, headers, message.payload.clone()).await;
            published.unwrap().await.unwrap();
        };
        stream::iter(0..self.events).map(publish).buffer_unordered(IN_FLIGHT).count().await;
        begun.elapsed()
    }

    /// Stores the events in one transaction, and returns when it was committed.
    async fn store(&self) -> Instant {
        let mut tx = self.db.begin().await.unwrap();
        for order in 0..self.events {
            let order = i64::try_from(order).unwrap();
            OrderPaid { order, customer: "ann@example.org".to_owned() }
                .send(&mut tx)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        Instant::now()
    }

    /// Claims and deletes the stored events with the statements of a relay.
    async fn claim_by_hand(&self) -> Duration {
        self.store().await;
        let receiver = "SELECT receiver FROM signals_delivery LIMIT 1";
        let (receiver,): (String,) = self.db.query(receiver).fetch_one().await.unwrap();
        let mut conn = self.db.acquire().await.unwrap();
        let begun = Instant::now();
        let mut claimed = 0;
        while claimed < self.events {
            claimed += match conn.postgres() {
                Some(conn) => claim_on_postgres(conn, &receiver).await,
                None => claim_on_sqlite(conn.sqlite().unwrap(), &receiver).await,
            };
        }
        begun.elapsed()
    }

    /// The time from the commit of the events until a relay has published and deleted all of them.
    async fn relay(&self) -> Duration {
        let publisher = NatsPublisher::new(self.client.clone(), config());
        publisher.setup().await.unwrap();
        let relay = self
            .db
            .deliveries()
            .relay("bench", publisher)
            .poll(Duration::from_secs(600))
            .spawn()
            .await
            .unwrap();
        let begun = self.store().await;
        let left = "SELECT id FROM signals_delivery LIMIT 1";
        while self.db.query(left).fetch_optional::<(i64,)>().await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = begun.elapsed();
        relay.shutdown().await.unwrap();
        took
    }
}

/// A quantile of a column of all rounds.
fn quantile(all: &[[f64; 5]], column: usize, at: f64) -> f64 {
    let mut values: Vec<_> = all.iter().map(|round| round[column]).collect();
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * at).round() as usize]
}

/// The columns of a claimed delivery.
type Claimed = (
    i64,
    i64,
    String,
    String,
    String,
    String,
    Option<String>,
    Option<bool>,
    String,
    Option<String>,
    i64,
    i64,
    i32,
    i32,
    Option<String>,
);

async fn claim_on_postgres(conn: &mut PgConnection, receiver: &str) -> usize {
    let claim = format!(
        "WITH due AS MATERIALIZED (SELECT id FROM signals_delivery WHERE receiver = $1 AND dead_at IS NULL AND ordering_key IS NULL \
         AND run_at <= statement_timestamp() ORDER BY run_at, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED) \
         UPDATE signals_delivery d SET claim = d.claim + 1, attempt = d.attempt + 1, worker = 'by hand', \
         run_at = clock_timestamp() + interval '30 s' WHERE d.id = ANY(ARRAY(SELECT id FROM due)) \
         RETURNING d.id, d.claim, d.event::text, d.receiver, d.signal, d.sender, d.key, d.created, d.payload::text, d.context::text, \
         (extract(epoch FROM d.stored_at) * 1000)::bigint, (extract(epoch FROM clock_timestamp() - d.stored_at) * 1000)::bigint, \
         d.attempt, d.lost, d.ordering_key"
    );
    let claimed = sqlx::query_as::<_, Claimed>(sqlx::AssertSqlSafe(claim)).bind(receiver);
    let claimed = claimed.fetch_all(&mut *conn).await.unwrap();
    let (ids, claims): (Vec<i64>, Vec<i64>) = claimed.iter().map(|row| (row.0, row.1)).unzip();
    let delete = "DELETE FROM signals_delivery d USING unnest($1::bigint[], $2::bigint[]) AS a (id, claim) \
                  WHERE d.id = a.id AND d.claim = a.claim RETURNING d.id";
    sqlx::query(delete).bind(ids).bind(claims).fetch_all(conn).await.unwrap().len()
}

async fn claim_on_sqlite(conn: &mut SqliteConnection, receiver: &str) -> usize {
    let now = "CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)";
    let claim = format!(
        "WITH due AS (SELECT id FROM signals_delivery WHERE receiver = $1 AND dead_at IS NULL AND ordering_key IS NULL \
         AND run_at <= {now} ORDER BY run_at, id LIMIT {BATCH}) \
         UPDATE signals_delivery AS d SET claim = d.claim + 1, attempt = d.attempt + 1, worker = 'by hand', run_at = {now} + 30000 \
         WHERE id IN (SELECT id FROM due) RETURNING id, claim, event, receiver, signal, sender, key, created, payload, context, stored_at, \
         {now} - stored_at, attempt, lost, ordering_key"
    );
    let claimed = sqlx::query_as::<_, Claimed>(sqlx::AssertSqlSafe(claim)).bind(receiver);
    let claimed = claimed.fetch_all(&mut *conn).await.unwrap();
    let (ids, claims): (Vec<i64>, Vec<i64>) = claimed.iter().map(|row| (row.0, row.1)).unzip();
    let json = |values: &[i64]| serde_json::json!(values).to_string();
    let delete = "DELETE FROM signals_delivery WHERE (id, claim) IN (SELECT i.value, c.value FROM json_each($1) AS i \
                  JOIN json_each($2) AS c ON c.key = i.key) RETURNING id";
    let delete = sqlx::query(delete).bind(json(&ids)).bind(json(&claims));
    delete.fetch_all(conn).await.unwrap().len()
}
