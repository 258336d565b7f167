use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
    SqliteTypeInfo,
};
use sqlx::{Decode, Row, Sqlite, SqlitePool, Type};

use super::{AnyRow, AnyType, Arguments, Backend, DatabaseKind};
use crate::error::Result;

/// How long a statement waits for another connection's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl Backend for Sqlite {
    const KIND: DatabaseKind = DatabaseKind::Sqlite;
    // The write lock up front: a transaction that reads first and writes later could not wait for it, and would fail
    // with "database is locked" (https://www.sqlite.org/lang_transaction.html).
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn arguments(args: &mut Arguments) -> &mut SqliteArguments {
        match args {
            Arguments::Sqlite(args) => args,
            #[cfg(feature = "postgres")]
            Arguments::Postgres(_) => unreachable!("a SQLite model on a Postgres connection"),
        }
    }

    fn row(row: &AnyRow) -> &SqliteRow {
        match row {
            AnyRow::Sqlite(row) => row,
            #[cfg(feature = "postgres")]
            AnyRow::Postgres(_) => unreachable!("a SQLite model in a Postgres row"),
        }
    }

    fn type_info(ty: &AnyType) -> &SqliteTypeInfo {
        match ty {
            AnyType::Sqlite(ty) => ty,
            #[cfg(feature = "postgres")]
            AnyType::Postgres(_) => unreachable!("a Sqlite model of a Postgres type"),
        }
    }

    fn get<'r, T>(row: &'r SqliteRow, column: usize) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Self> + Type<Self>,
    {
        row.try_get(column)
    }
}

/// A pool for `url`. A file is created where there is none and no `mode=` says otherwise, and gets WAL; a database in
/// memory is one connection that never closes, because it would be gone with its last connection.
pub(crate) async fn open(url: &str) -> Result<SqlitePool> {
    let options =
        SqliteConnectOptions::from_str(url)?.busy_timeout(BUSY_TIMEOUT).foreign_keys(true);
    // sqlx has no getter for these; its URL has `mode` in the query and nowhere else.
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let has = |param: &str| query.split('&').any(|p| p == param);
    let in_memory = url.contains(":memory:") || has("mode=memory");

    let pool = SqlitePoolOptions::new().test_before_acquire(false);
    if in_memory {
        let pool = pool.max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None);
        return Ok(pool.connect_with(options).await?);
    }
    let read_only = has("mode=ro") || query.contains("immutable=");
    let options = options.create_if_missing(!query.contains("mode="));
    let options = if has("mode=rwc") { options.create_if_missing(true) } else { options };
    let options = if read_only { options } else { options.journal_mode(SqliteJournalMode::Wal) };
    Ok(pool.connect_with(options).await?)
}
