//! How a transaction begins: its isolation level and whether it can write.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::backend::DatabaseKind;

/// How a transaction begins, for [`Db::begin_with`](crate::Db::begin_with).
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::{Isolation, TransactionOptions};
///
/// # async fn example(db: Db) -> Result<()> {
/// let options = TransactionOptions::new().isolation(Isolation::Serializable).read_only(true);
/// let mut tx = db.begin_with(options).await?;
/// let (total,): (i64,) = tx.query("SELECT count(*) FROM city").fetch_one().await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionOptions {
    isolation: Option<Isolation>,
    read_only: bool,
    deferrable: bool,
}

/// An [isolation level](https://www.postgresql.org/docs/current/transaction-iso.html). On SQLite, every transaction is serializable,
/// so a level has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isolation {
    /// Each statement sees what was committed before it began. The default of a PostgreSQL server.
    ReadCommitted,
    /// All statements see what was committed before the first of them. A write of a row that was changed in the meantime is a
    /// [serialization failure](crate::Error::is_serialization_failure).
    RepeatableRead,
    /// As if the transactions ran one after the other. If that is not possible, one of them ends with a
    /// [serialization failure](crate::Error::is_serialization_failure).
    Serializable,
}

impl TransactionOptions {
    /// The defaults of the database.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the isolation level. Transactions that fail because of it can be [retried](crate::Db::retry).
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// Sets whether the database rejects writes in the transaction. On SQLite, such a transaction takes no write lock, so it neither
    /// waits for a writer nor keeps one waiting.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets whether a transaction that is serializable and read-only waits at its beginning until it cannot fail
    /// ([`DEFERRABLE`](https://www.postgresql.org/docs/current/sql-set-transaction.html)). Otherwise, and on SQLite, no effect.
    #[must_use]
    pub fn deferrable(mut self, deferrable: bool) -> Self {
        self.deferrable = deferrable;
        self
    }

    /// Whether the transaction only reads, so that it does not take the write lock of a SQLite database.
    pub(crate) fn is_read_only(self) -> bool {
        self.read_only
    }

    /// The statement that begins the transaction.
    pub(crate) fn statement(self, kind: DatabaseKind) -> SqlStr {
        match kind {
            DatabaseKind::Sqlite if self.read_only => SqlStr::from_static("BEGIN"),
            // Takes the write lock immediately. A transaction that reads first and writes later cannot wait for the lock and may fail
            // with "database is locked" (https://www.sqlite.org/lang_transaction.html).
            DatabaseKind::Sqlite => SqlStr::from_static("BEGIN IMMEDIATE"),
            DatabaseKind::Postgres if self == Self::default() => SqlStr::from_static("BEGIN"),
            DatabaseKind::Postgres => {
                let isolation = match self.isolation {
                    None => "",
                    Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
                    Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
                    Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
                };
                let read_only = if self.read_only { " READ ONLY" } else { "" };
                let deferrable = if self.deferrable { " DEFERRABLE" } else { "" };
                let sql = format!("BEGIN{isolation}{read_only}{deferrable}");
                AssertSqlSafe(sql).into_sql_str()
            }
        }
    }
}
