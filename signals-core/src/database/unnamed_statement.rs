//! Statements on a PostgreSQL connection without a statement cache, for poolers that may assign each transaction to another
//! server connection, such as PgBouncer in transaction mode.
//!
//! A named statement would only exist on one of the server connections. Unnamed statements are not enough: sqlx prepares and
//! executes them in separate round trips, and in between the pooler may switch to another server connection, whose unnamed
//! statement was prepared by another client. A transaction keeps both round trips on one server connection.

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Executor, Postgres, SqlStr};

use crate::database::backend::{Backend, Sink};
use crate::database::begin::TransactionOptions;
use crate::database::execution::drain;
use crate::database::raw::{self, RollbackGuard};

/// A statement without a name.
pub(crate) struct Unnamed {
    pub(crate) sql: SqlStr,
    pub(crate) args: PgArguments,
    /// Whether to ask the server if a transaction is open, because the application has access to the connection and may have
    /// begun one with SQL, which sqlx does not count.
    pub(crate) asks: bool,
}

/// Runs a statement in its own transaction, unless one is already open.
pub(crate) async fn run(
    conn: &mut PgConnection,
    Unnamed { sql, args, asks }: Unnamed,
    sink: Sink<'_>,
    answered: &mut bool,
) -> Result<u64, sqlx::Error> {
    let query = sqlx::query_with(sql, args).persistent(false);
    let is_open = raw::depth::<Postgres>(conn) > 0 || (asks && is_in_transaction(conn).await?);
    if is_open {
        return drain::<Postgres>(conn.fetch_many(query), false, sink, answered).await;
    }
    raw::begin::<Postgres>(conn, TransactionOptions::default()).await?;
    let guard = RollbackGuard::<Postgres>::new(conn);
    // `answered` stays false until the commit, because before that the statement may be sent again.
    let result = drain::<Postgres>(guard.conn.fetch_many(query), false, sink, &mut false).await;
    match &result {
        Ok(_) => {
            *answered = true;
            raw::commit::<Postgres>(guard.conn).await?;
        }
        // Return the error of the statement, not of the rollback. If the rollback fails, the guard queues another one.
        Err(_) if raw::rollback::<Postgres>(guard.conn).await.is_err() => return result,
        Err(_) => {}
    }
    guard.disarm();
    result
}

/// Whether a transaction is open. A failed transaction counts as open, so that the statement reports the failure.
async fn is_in_transaction(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match Postgres::is_in_transaction(conn).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("25P02") => Ok(true),
        result => result,
    }
}
