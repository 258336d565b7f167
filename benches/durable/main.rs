//! What durable receivers cost: a save that stores deliveries, and a worker that runs them, compared with the same SQL by hand.
//!
//! `cargo bench --features postgres,durable --bench durable` prints the tables. `--quick` only shows that the benchmark works. `--only word`
//! measures the databases with this word in their name, and `--part storing` or `--part running` one of the two halves.
#![allow(missing_docs)]

#[path = "../shared/interleaved.rs"]
#[allow(dead_code)]
mod interleaved;

mod by_hand;
mod running;
mod storing;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};

/// A row with this many durable receivers that do nothing.
macro_rules! model {
    ($Model:ident, $($receiver:ident)*) => {
        #[derive(Debug, Clone, Model, Serialize, Deserialize)]
        #[model(table = "bench_users")]
        pub(crate) struct $Model {
            pub(crate) id: Option<i64>,
            pub(crate) name: String,
            pub(crate) email: String,
        }

        impl $Model {
            pub(crate) fn new() -> Self {
                Self { id: None, name: "Ann".to_owned(), email: "ann@example.org".to_owned() }
            }
        }

        $(
            #[receiver(post_save, sender = $Model, durable(at_least_once))]
            fn $receiver(_: PostSave<'_, $Model>) {
                running::ended();
            }
        )*
    };
}

model!(Plain,);
model!(One, first);
model!(Three, one two three);

/// Its receiver writes a row in the transaction that acknowledges the delivery.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "bench_users")]
pub(crate) struct Written {
    pub(crate) id: Option<i64>,
    pub(crate) name: String,
    pub(crate) email: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "bench_effects")]
struct Effect {
    id: Option<i64>,
    user_id: i64,
}

#[receiver(post_save, sender = Written, durable)]
async fn write_effect(saved: PostSave<'_, Written>, conn: &mut Conn<'_>) -> Result<()> {
    Effect { id: None, user_id: saved.pk() }.save(conn).await?;
    running::ended();
    Ok(())
}

async fn create(db: &Db) {
    let id = match db.kind() {
        DatabaseKind::Sqlite => "id INTEGER PRIMARY KEY",
        DatabaseKind::Postgres => "id BIGSERIAL PRIMARY KEY",
    };
    let sql = format!(
        "DROP TABLE IF EXISTS bench_users; DROP TABLE IF EXISTS bench_effects; DROP TABLE IF EXISTS signals_delivery; \
         DROP TABLE IF EXISTS signals_schema; DROP TABLE IF EXISTS signals_done; DROP TABLE IF EXISTS signals_inbox; CREATE TABLE bench_users ({id}, name TEXT NOT NULL, email TEXT NOT NULL); \
         CREATE TABLE bench_effects ({id}, user_id BIGINT NOT NULL)"
    );
    db.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    db.deliveries().setup().await.unwrap();
}

/// The databases: a SQLite file, and PostgreSQL if `DATABASE_URL` is set.
async fn databases(file: &std::path::Path) -> Vec<(&'static str, Db)> {
    let mut all = Vec::new();
    #[cfg(feature = "sqlite")]
    all.push(("SQLite file", Db::connect(&format!("sqlite:{}", file.display())).await.unwrap()));
    #[cfg(feature = "postgres")]
    match std::env::var("DATABASE_URL") {
        Ok(url) => all.push(("PostgreSQL", Db::connect(&url).await.unwrap())),
        Err(_) => println!("NOT measured: PostgreSQL, because DATABASE_URL is not set\n"),
    }
    let _ = file;
    all
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let after = |name| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let (only, part) = (after("--only"), after("--part"));
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("durable-{}.db", std::process::id()));
    for (name, db) in databases(&file).await {
        if only.is_some_and(|only| !name.to_lowercase().contains(&only.to_lowercase())) {
            continue;
        }
        if part.is_none_or(|part| part == "storing") {
            create(&db).await;
            storing::measure(name, &db, quick).await;
        }
        if part.is_none_or(|part| part == "running") {
            create(&db).await;
            running::measure(name, &db, quick).await;
        }
        db.close().await;
    }
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
}
