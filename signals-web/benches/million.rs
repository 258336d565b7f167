//! How long the pages take with a million waiting and a hundred thousand dead deliveries.
//!
//! `cargo bench -p sqlx-signals-web --all-features` measures on SQLite, and also on PostgreSQL if `DATABASE_URL` is set.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

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

const ROWS: usize = 1_100_000;
const ROUNDS: usize = 41;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join(format!("signals_million_{}.db", std::process::id()));
    let mut urls = vec![format!("sqlite:{}", file.display())];
    urls.extend(std::env::var("DATABASE_URL").ok());
    for url in urls {
        let db = Db::connect(&url).await?;
        if db.kind() == DatabaseKind::Postgres {
            db.execute("DROP TABLE IF EXISTS signals_delivery, signals_schema, signals_done, signals_inbox")
                .await?;
        }
        db.deliveries().setup().await?;
        fill(&db).await?;
        measure(&db).await?;
        if db.kind() == DatabaseKind::Postgres {
            db.execute("DROP TABLE signals_delivery, signals_schema, signals_done, signals_inbox")
                .await?;
        }
        db.close().await;
    }
    let _ = std::fs::remove_file(file);
    Ok(())
}

async fn fill(db: &Db) -> Result<()> {
    let names: Vec<_> = registry().receivers().filter_map(|r| r.delivery_name()).collect();
    let [first, second] = names[..] else { panic!("{names:?}") };
    let dead = match db.kind() {
        DatabaseKind::Sqlite => "unixepoch() * 1000",
        DatabaseKind::Postgres => "now()",
    };
    let payload = format!("{{\"row\":{{\"id\":1,\"text\":\"{}\"}}}}", "x".repeat(100));
    let fill = format!(
        "INSERT INTO signals_delivery (event, receiver, signal, sender, key, payload, error, dead_at) WITH RECURSIVE n (n) AS \
         (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS}) SELECT '0198c0f4-0000-7000-8000-000000000000', \
         CASE WHEN n % 2 = 0 THEN '{first}' ELSE '{second}' END, 'post_save', 'users', '1', '{payload}', \
         CASE WHEN n % 11 = 0 THEN 'no such address' END, CASE WHEN n % 11 = 0 THEN {dead} END FROM n"
    );
    db.execute(sqlx::AssertSqlSafe(fill)).await?;
    db.execute("ANALYZE").await?;
    Ok(())
}

async fn measure(db: &Db) -> Result<(), Box<dyn std::error::Error>> {
    let app: Router = Router::new().nest("/ops", signals_web::router(db.clone()).into());
    let receiver = registry().get::<mail>().name();
    let paths = [
        "/ops".to_owned(),
        "/ops/deliveries".to_owned(),
        "/ops/deliveries?older_than=500000".to_owned(),
        "/ops/deliveries?state=dead".to_owned(),
        format!("/ops/deliveries?receiver={receiver}&state=dead"),
        format!("/ops/deliveries?receiver={receiver}&state=waiting"),
        "/ops/deliveries?state=retrying".to_owned(),
        "/ops/deliveries?state=running".to_owned(),
        "/ops/deliveries/7".to_owned(),
    ];
    println!("{:?}: median and slowest of {ROUNDS} requests", db.kind());
    for path in paths {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let response = app.clone().oneshot(Request::get(&path).body(Body::empty())?).await?;
            assert!(response.status().is_success(), "{path}: {}", response.status());
            axum::body::to_bytes(response.into_body(), usize::MAX).await?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!("{:8.2} ms {:8.2} ms  {path}", ms(times[ROUNDS / 2]), ms(times[ROUNDS - 1]));
    }
    Ok(())
}
