//! What durable receivers cost: a save that stores deliveries, and a worker that runs them, compared with the same SQL by hand.
//!
//! `cargo bench --features postgres,durable --bench durable` prints the tables. `--quick` only shows that the benchmark works. `--only word`
//! measures the databases with this word in their name, and `--part storing|running|processes|blocked|idle` one of the parts. `--long` leaves a
//! transaction idle for a minute, instead of five seconds.
#![allow(missing_docs)]

#[path = "../shared/interleaved.rs"]
#[allow(dead_code)]
mod interleaved;

mod blocked;
mod by_hand;
mod idle;
mod other_process;
mod running;
mod storing;

use std::path::Path;
use std::time::Duration;

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

/// The name of the second database of a PostgreSQL server.
#[cfg(feature = "postgres")]
const SECOND: &str = "signals_bench_second";

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

/// A database, and a second one beside it.
struct Database {
    name: &'static str,
    url: String,
    db: Db,
    second: Db,
}

/// The databases: a SQLite file, and PostgreSQL if `DATABASE_URL` is set.
async fn databases(dir: &Path) -> Vec<Database> {
    let mut all = Vec::new();
    #[cfg(feature = "sqlite")]
    {
        let [url, second] = ["a", "b"].map(|name| format!("sqlite:{}/{name}.db", dir.display()));
        let (db, second) = (Db::connect(&url).await.unwrap(), Db::connect(&second).await.unwrap());
        all.push(Database { name: "SQLite file", url, db, second });
    }
    #[cfg(feature = "postgres")]
    match std::env::var("DATABASE_URL") {
        Ok(url) => {
            let db = Db::connect(&url).await.unwrap();
            db.execute(sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {SECOND}")))
                .await
                .unwrap();
            db.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {SECOND}"))).await.unwrap();
            let (server, options) = url.split_once('?').unwrap_or((&url, ""));
            let (server, _) = server.rsplit_once('/').expect("the URL has a database");
            let second = Db::connect(&format!("{server}/{SECOND}?{options}")).await.unwrap();
            all.push(Database { name: "PostgreSQL", url, db, second });
        }
        Err(_) => println!("NOT measured: PostgreSQL, because DATABASE_URL is not set\n"),
    }
    let _ = dir;
    all
}

/// The median and the 99th percentile of the time from the commit to the start of the receiver.
fn print_quantiles(database: &str, process: &str, mut all: Vec<Duration>) {
    all.sort_unstable();
    let at = |part: usize| all[(all.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!(
        "{database}: from commit to start, {process}: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms\n",
        at(50),
        at(99),
        at(100)
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    if let [_, first, url, listens] = &args[..]
        && first == other_process::WORKER
    {
        return other_process::work(url, listens == "true").await;
    }
    let (quick, long) = (has("--quick"), has("--long"));
    let after = |name| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let (only, part) = (after("--only"), after("--part"));
    let dir =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("durable-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for database in databases(&dir).await {
        let name = database.name.to_lowercase();
        if only.is_none_or(|only| name.contains(&only.to_lowercase())) {
            measure(&database, part.map(String::as_str), quick, long).await;
        }
        database.second.close().await;
        #[cfg(feature = "postgres")]
        if database.db.postgres().is_some() {
            let drop = sqlx::AssertSqlSafe(format!("DROP DATABASE {SECOND} WITH (FORCE)"));
            database.db.execute(drop).await.unwrap();
        }
        database.db.close().await;
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

async fn measure(database: &Database, part: Option<&str>, quick: bool, long: bool) {
    let Database { name, url, db, second } = database;
    for measured in ["storing", "running", "processes", "blocked", "idle"] {
        if part.is_some_and(|part| part != measured) {
            continue;
        }
        create(db).await;
        match measured {
            "storing" => storing::measure(name, db, quick).await,
            "running" => running::measure(name, db, quick).await,
            "processes" => other_process::measure(name, url, db, quick).await,
            "blocked" => {
                create(second).await;
                blocked::measure(name, db, second, quick).await;
            }
            _ if db.kind() == DatabaseKind::Postgres => {
                let (rounds, seconds) = match (quick, long) {
                    (true, _) => (1, 1),
                    (_, true) => (3, 60),
                    _ => (4, 5),
                };
                idle::measure(name, db, rounds, Duration::from_secs(seconds)).await;
            }
            _ => {}
        }
    }
}
