//! The base: the two statements by hand, on sqlx's pool as it comes, and on one connection of it.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};
use sqlx::{Executor, PgPool, SqlitePool};

macro_rules! on {
    ($args:expr, $pool:expr, $one:expr) => {{
        measure!($args, "insert", false, |i| {
            let _: i64 = sqlx::query_scalar(INSERT).bind(name(i)).bind(email(i)).fetch_one(&$pool).await.unwrap();
        });
        let id: i64 = sqlx::query_scalar(INSERT).bind("Bob").bind("bob@example.org").fetch_one(&$pool).await.unwrap();
        measure!($args, "update", false, |i| {
            let done = sqlx::query(UPDATE).bind(name(i)).bind(email(i)).bind(id).execute(&$pool).await.unwrap();
            assert_eq!(done.rows_affected(), 1)
        });
        measure!($args, "insert, one connection", false, |i| {
            let _: i64 = sqlx::query_scalar(INSERT).bind(name(i)).bind(email(i)).fetch_one(&mut $one).await.unwrap();
        });
        measure!($args, "update, one connection", false, |i| {
            let query = sqlx::query(UPDATE).bind(name(i)).bind(email(i)).bind(id);
            assert_eq!($one.execute(query).await.unwrap().rows_affected(), 1)
        });
    }};
}

const INSERT: &str = "INSERT INTO users (name, email) VALUES ($1, $2) RETURNING id";
const UPDATE: &str = "UPDATE users SET name = $1, email = $2 WHERE id = $3";

#[tokio::main]
async fn main() {
    let args = Args::read();
    if args.is_postgres() {
        let pool = PgPool::connect(&args.url).await.unwrap();
        let mut one = pool.acquire().await.unwrap().detach();
        on!(args, pool, one);
    } else {
        let pool = SqlitePool::connect(&args.url).await.unwrap();
        let mode: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&pool).await.unwrap();
        assert_eq!(mode, 1, "synchronous is to be NORMAL: build with LIBSQLITE3_FLAGS, as `run` does");
        let mut one = pool.acquire().await.unwrap().detach();
        on!(args, pool, one);
    }
}
