//! A shop on a database of its own, on each of the two databases.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::time::{SystemTime, UNIX_EPOCH};

use sqlx_signals::prelude::*;
use sqlx_signals::sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Runs a test on every database, as `name::sqlite` and `name::postgres`.
#[macro_export]
macro_rules! on_every_database {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident: Db) $body:block)*) => { $(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn behavior($db: Db) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let (url, file) = $crate::common::sqlite();
                behavior(shop::open(&url).await.unwrap()).await;
                $crate::common::remove(&file);
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                behavior(shop::open(&$crate::common::postgres().await).await.unwrap()).await;
            }
        }
    )* };
}

fn unique() -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("shop_{:x}_{:?}", nanos & 0xffff_ffff_ffff, std::thread::current().id())
        .replace(['(', ')'], "")
        .to_lowercase()
}

pub fn sqlite() -> (String, String) {
    let file = format!("{}/{}.db", env!("CARGO_TARGET_TMPDIR"), unique());
    (format!("sqlite:{file}"), file)
}

pub fn remove(file: &str) {
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{file}{end}"));
    }
}

/// The URL of a new database.
pub async fn postgres() -> String {
    let url = std::env::var("DATABASE_URL").expect(
        "the tests on PostgreSQL need a server: run them with `scripts/test`, which starts one, or set DATABASE_URL to one whose \
         user may create databases",
    );
    let name = unique();
    let mut admin = PgConnection::connect(&url).await.expect("DATABASE_URL leads to a server");
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx_signals::sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
    let (base, query) = url.split_once('?').unwrap_or((&url, ""));
    let (server, _) = base.rsplit_once('/').unwrap();
    format!("{server}/{name}?{query}")
}

/// The stock of the product with this name.
pub async fn stock(db: &Db, name: &str) -> i64 {
    let product = shop::models::Product::query("WHERE name = $1").bind(name);
    product.fetch_one(db).await.unwrap().stock
}
