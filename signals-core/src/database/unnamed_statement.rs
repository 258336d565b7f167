//! Statements on a PostgreSQL connection without a statement cache, for poolers that may assign each transaction to another
//! server connection, such as PgBouncer in transaction mode.
//!
//! A named statement would only exist on one of the server connections. Unnamed statements are not enough: sqlx prepares and
//! executes them in separate round trips, and in between the pooler may switch to another server connection, whose unnamed
//! statement was prepared by another client. A transaction keeps both round trips on one server connection.

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
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
    /// Whether sqlx may not know the types of the statement on this connection. It then asks the server for them, which forgets the
    /// statement, and knows them at the second attempt.
    pub(crate) is_first: bool,
}

/// Runs a statement in its own transaction, unless one is already open.
pub(crate) async fn run(
    conn: &mut PgConnection,
    Unnamed { sql, args, asks, is_first }: Unnamed,
    sink: Sink<'_>,
    answered: &mut bool,
) -> Result<u64, sqlx::Error> {
    let is_open = raw::depth::<Postgres>(conn) > 0 || (asks && is_in_transaction(conn).await?);
    let query = |args| sqlx::query_with(sql.clone(), args).persistent(false);
    match (is_open, is_first) {
        (true, false) => {
            drain::<Postgres>(conn.fetch_many(query(args)), false, sink, answered).await
        }
        (true, true) => {
            // An error would end the transaction of the caller.
            Postgres::simple(conn, "SAVEPOINT _types").await?;
            let first = query(args.clone());
            let mut result = drain::<Postgres>(conn.fetch_many(first), false, sink, answered).await;
            if result.as_ref().is_err_and(is_forgotten) {
                Postgres::simple(conn, "ROLLBACK TO SAVEPOINT _types").await?;
                let again = conn.fetch_many(query(args));
                result = drain::<Postgres>(again, false, sink, answered).await;
            }
            let affected = result?;
            Postgres::simple(conn, "RELEASE SAVEPOINT _types").await?;
            Ok(affected)
        }
        (false, _) => match run_in_transaction(conn, query(args.clone()), sink, answered).await {
            Err(error) if is_forgotten(&error) => {
                run_in_transaction(conn, query(args), sink, answered).await
            }
            result => result,
        },
    }
}

async fn run_in_transaction(
    conn: &mut PgConnection,
    query: Query<'_, Postgres, PgArguments>,
    sink: Sink<'_>,
    answered: &mut bool,
) -> Result<u64, sqlx::Error> {
    raw::begin::<Postgres>(conn, TransactionOptions::default()).await?;
    let guard = RollbackGuard::<Postgres>::new(conn);
    // Until the commit, `answered` stays false and the rows are kept, because before that the statement may be sent again.
    let mut rows = Vec::new();
    let keep = &mut |row| rows.push(row);
    let result = drain::<Postgres>(guard.conn.fetch_many(query), false, keep, &mut false).await;
    match &result {
        Ok(_) => {
            *answered = true;
            rows.into_iter().for_each(sink);
            raw::commit::<Postgres>(guard.conn).await?;
        }
        // Return the error of the statement, not of the rollback. If the rollback fails, the guard queues another one.
        Err(_) if raw::rollback::<Postgres>(guard.conn).await.is_err() => return result,
        Err(_) => {}
    }
    guard.disarm();
    result
}

/// Whether the server has forgotten the statement before its execution.
fn is_forgotten(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("26000")
}

/// Whether a transaction is open. A failed transaction counts as open, so that the statement reports the failure.
async fn is_in_transaction(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match Postgres::is_in_transaction(conn).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("25P02") => Ok(true),
        result => result,
    }
}
