//! How long the pages take with a million waiting and a hundred thousand dead deliveries. The dead ones are among the others, or are the newest
//! or the oldest, so that a list of waiting ones has to pass them.
//!
//! `cargo bench -p sqlx-signals-web --all-features` measures on SQLite, and also on PostgreSQL if `DATABASE_URL` is set.
#![allow(missing_docs)]

#[path = "../tests/program/backlog.rs"]
mod backlog;

use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use backlog::{Backlog, Dead};
use sqlx_signals::prelude::*;
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

const ROUNDS: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join(format!("signals_million_{}.db", std::process::id()));
    let mut urls = vec![format!("sqlite:{}", file.display())];
    urls.extend(std::env::var("DATABASE_URL").ok());
    let registry = registry();
    let receivers = [
        registry.get::<mail>().name(),
        registry.get::<index>().name(),
        registry.get::<archive>().name(),
    ];
    let backlog = Backlog { waiting: 1_000_000, dead: 100_000, receivers };
    for url in urls {
        for place in Dead::PLACES {
            let db = Db::connect(&url).await?;
            backlog.store(&db, place).await?;
            println!(
                "{:?}, dead {place:?}: median, 90 % and slowest of {ROUNDS} requests",
                db.kind()
            );
            measure(&db, &backlog.paths(place)).await?;
            db.close().await;
        }
    }
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
    Ok(())
}

async fn measure(db: &Db, paths: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let app: Router = Router::new().nest("/ops", signals_web::router(db.clone()).into());
    for path in paths {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let response = app
                .clone()
                .oneshot(Request::get(format!("/ops{path}")).body(Body::empty())?)
                .await?;
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
