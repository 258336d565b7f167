//! How long the pages take with a million waiting and a hundred thousand dead deliveries. The dead ones are among the others, or are the newest
//! or the oldest, so that a list of waiting ones has to pass them.
//!
//! `cargo bench -p sqlx-signals-web --all-features` measures on SQLite, and also on PostgreSQL if `DATABASE_URL` is set.
#![allow(missing_docs)]

use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};
use tower::ServiceExt;

#[derive(Model, serde::Serialize, serde::Deserialize)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
}

#[receiver(post_save, sender = User, durable(at_least_once))]
async fn mail(_: PostSave<'_, User>) {}

#[receiver(post_save, sender = User, durable(at_least_once))]
async fn index(_: PostSave<'_, User>) {}

#[receiver(post_save, sender = User, durable(at_least_once))]
async fn archive(_: PostSave<'_, User>) {}

const ROWS: usize = 1_100_000;
const ROUNDS: usize = 50;

/// Which of the deliveries `1..=ROWS` are dead.
const PLACES: [(&str, &str); 3] = [
    ("dead among the others", "n % 11 = 0"),
    ("dead the newest", "n > 1000000"),
    ("dead the oldest", "n <= 100000"),
];

/// The names of the receivers. The last one has five thousand deliveries, which are among the oldest.
fn receivers() -> [&'static str; 3] {
    let registry = registry();
    [
        registry.get::<mail>().name(),
        registry.get::<index>().name(),
        registry.get::<archive>().name(),
    ]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join(format!("signals_million_{}.db", std::process::id()));
    let mut urls = vec![format!("sqlite:{}", file.display())];
    urls.extend(std::env::var("DATABASE_URL").ok());
    for url in urls {
        for (place, is_dead) in PLACES {
            let db = Db::connect(&url).await?;
            for table in ["signals_delivery", "signals_schema", "signals_done", "signals_inbox"] {
                db.execute(sqlx::AssertSqlSafe(format!("DROP TABLE IF EXISTS {table}"))).await?;
            }
            db.deliveries().setup().await?;
            fill(&db, is_dead).await?;
            println!("{:?}, {place}: median, 90 % and slowest of {ROUNDS} requests", db.kind());
            measure(&db).await?;
            db.close().await;
        }
    }
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
    Ok(())
}

async fn fill(db: &Db, is_dead: &str) -> Result<()> {
    let [mail, index, archive] = receivers();
    let (now, stored) = match db.kind() {
        DatabaseKind::Sqlite => {
            ("unixepoch() * 1000", format!("unixepoch() * 1000 - 10 * ({ROWS} - n)"))
        }
        DatabaseKind::Postgres => ("now()", format!("now() - interval '10 ms' * ({ROWS} - n)")),
    };
    let payload = format!("{{\"row\":{{\"id\":1,\"text\":\"{}\"}}}}", "x".repeat(100));
    let fill = format!(
        "INSERT INTO signals_delivery (event, receiver, signal, sender, key, payload, stored_at, run_at, error, dead_at) \
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS}) \
         SELECT '0198c0f4-0000-7000-8000-000000000000', \
         CASE WHEN n <= 50000 AND n % 10 = 0 THEN '{archive}' WHEN n % 2 = 0 THEN '{mail}' ELSE '{index}' END, 'post_save', 'users', '1', \
         '{payload}', {stored}, {stored}, CASE WHEN {is_dead} THEN 'no such address' END, CASE WHEN {is_dead} THEN {now} END FROM n"
    );
    db.execute(sqlx::AssertSqlSafe(fill)).await?;
    // As in a database that was filled in the course of time.
    let tidy: &[&str] = match db.kind() {
        DatabaseKind::Sqlite => &["ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"],
        DatabaseKind::Postgres => &["VACUUM ANALYZE signals_delivery"],
    };
    for statement in tidy {
        db.execute(*statement).await?;
    }
    Ok(())
}

/// The overview, every list, its pages, and one delivery.
fn paths() -> Vec<String> {
    let mut paths = vec!["/ops".to_owned(), "/ops/deliveries/7".to_owned()];
    for receiver in ["", receivers()[0], receivers()[2]] {
        for state in ["", "waiting", "running", "retrying", "dead", "done"] {
            let list = format!("/ops/deliveries?receiver={receiver}&state={state}");
            let pages = [
                "", "&older_than=1000000", "&older_than=550000", "&newer_than=550000",
                "&newer_than=50",
            ];
            paths.extend(pages.map(|page| format!("{list}{page}")));
        }
    }
    paths
}

async fn measure(db: &Db) -> Result<(), Box<dyn std::error::Error>> {
    let app: Router = Router::new().nest("/ops", signals_web::router(db.clone()).into());
    for path in paths() {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let response = app.clone().oneshot(Request::get(&path).body(Body::empty())?).await?;
            assert!(response.status().is_success(), "{path}: {}", response.status());
            axum::body::to_bytes(response.into_body(), usize::MAX).await?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let ms = |n: usize| times[n].as_secs_f64() * 1000.0;
        let (median, most, slowest) = (ms(ROUNDS / 2), ms(ROUNDS * 9 / 10), ms(ROUNDS - 1));
        println!("{median:8.2} ms {most:8.2} ms {slowest:8.2} ms  {path}");
    }
    Ok(())
}
