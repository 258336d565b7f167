//! A PostgreSQL server whose clock is not that of the program.
#![allow(unreachable_pub, missing_docs)]

use sqlx_signals::prelude::*;

use super::common::{TestDb, execute};

/// Connects to a database whose clock differs by an interval, such as `+ interval '1 hour'`.
pub async fn shifted(test: &TestDb, offset: &str) -> Db {
    // Functions of these names that precede those of the server.
    for (name, volatility) in [("clock_timestamp", "VOLATILE"), ("statement_timestamp", "STABLE")] {
        let sql = format!(
            "CREATE SCHEMA IF NOT EXISTS other; CREATE FUNCTION other.{name}() RETURNS timestamptz LANGUAGE sql {volatility} \
             AS $$ SELECT pg_catalog.{name}() {offset} $$"
        );
        execute(&test.db, &sql).await;
    }
    let path =
        format!("ALTER DATABASE {} SET search_path = other, pg_catalog, public", test.name());
    execute(&test.db, &path).await;
    let db = Db::connect(&test.url).await.unwrap();
    let sql = "SELECT abs(extract(epoch FROM clock_timestamp() - now()))::bigint";
    assert!(db.query(sql).fetch_one::<(i64,)>().await.unwrap().0 > 3000);
    db
}
