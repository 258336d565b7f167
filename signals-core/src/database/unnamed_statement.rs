//! Statements on a PostgreSQL connection whose statement cache is off: for a pooler that may give each transaction another
//! server connection, as PgBouncer in transaction mode.
//!
//! A named statement would stay on one of the server connections. Without a name, sqlx still prepares and executes in separate
//! round trips, between which the pooler may change the server connection, and execute what another client has prepared
//! there. Only a transaction keeps the two together.

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Executor, Postgres, SqlStr};

use crate::database::backend::{Backend, Sink};
use crate::database::execution::drain;
use crate::database::raw;

/// A statement that gets no name.
pub(crate) struct Unnamed {
    pub(crate) sql: SqlStr,
    pub(crate) args: PgArguments,
    /// Whether the program has the connection too, and may have begun a transaction with SQL of its own, which sqlx does
    /// not know of.
    pub(crate) asks: bool,
}

/// Runs a statement in a transaction of its own, unless there is one.
pub(crate) async fn run(
    conn: &mut PgConnection,
    Unnamed { sql, args, asks }: Unnamed,
    sink: Sink<'_>,
    answered: &mut bool,
) -> Result<u64, sqlx::Error> {
    let query = sqlx::query_with(sql, args).persistent(false);
    let is_open = raw::depth::<Postgres>(conn) > 0 || (asks && is_in_transaction(conn).await?);
    if is_open {
        return drain::<Postgres>(conn.fetch_many(query), sink, answered).await;
    }
    raw::begin::<Postgres>(conn).await?;
    let mut open = Open { conn, armed: true };
    // Until it is committed, the statement may be sent again.
    let done = drain::<Postgres>(open.conn.fetch_many(query), sink, &mut false).await;
    match &done {
        Ok(_) => {
            *answered = true;
            raw::commit::<Postgres>(open.conn).await?;
        }
        // What the statement says is the error. Without a rollback here, one is queued.
        Err(_) if raw::rollback::<Postgres>(open.conn).await.is_err() => return done,
        Err(_) => {}
    }
    open.armed = false;
    done
}

/// Whether a transaction is open, also if it has failed, which the statement is to say.
async fn is_in_transaction(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match Postgres::is_in_transaction(conn).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("25P02") => Ok(true),
        done => done,
    }
}

/// A transaction that is rolled back before anything else is done, should the future be dropped.
struct Open<'o> {
    conn: &'o mut PgConnection,
    armed: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.armed {
            raw::start_rollback::<Postgres>(self.conn);
        }
    }
}
