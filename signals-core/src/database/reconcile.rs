//! Makes sqlx's count of transactions agree with the database.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Connection, SqlSafeStr, SqlStr};

use crate::database::backend::{Backend, DatabaseKind};
use crate::database::begin::TransactionOptions;
use crate::database::raw;

/// Makes sqlx's count agree with the database. Returns whether a transaction is open. A failed transaction that sqlx does not count
/// is rolled back.
pub(super) async fn reconcile<DB: Backend>(conn: &mut DB::Connection) -> Result<bool, sqlx::Error> {
    if raw::depth::<DB>(conn) == 0 {
        return adopt::<DB>(conn).await;
    }
    match DB::is_in_transaction(conn).await {
        Ok(false) => roll_back_all::<DB>(conn).await.map(|()| false),
        Ok(true) | Err(sqlx::Error::Database(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Rolls back any open transaction, whether or not sqlx counts it.
pub(crate) async fn roll_back_all<DB: Backend>(
    conn: &mut DB::Connection,
) -> Result<(), sqlx::Error> {
    // Wait for the statement in flight. On Postgres, the first ping may return the error of a statement whose future was
    // dropped.
    read_answers::<DB>(conn).await?;
    let depth = raw::depth::<DB>(conn);
    if depth > 0 {
        // Raw SQL may have ended the transaction, and sqlx decrements its count only if its own statement succeeds.
        begin_anew::<DB>(conn, depth).await?;
        for _ in 0..depth {
            raw::rollback_even_if_dropped::<DB>(conn).await?;
        }
    }
    match adopt::<DB>(conn).await? {
        true => raw::rollback_even_if_dropped::<DB>(conn).await,
        false => Ok(()),
    }
}

/// Rolls back a transaction that sqlx does not count, on a connection of sqlx's pool: sqlx forgets the transaction of a `begin` whose future
/// was dropped on PostgreSQL.
pub(crate) async fn roll_back_uncounted<DB: Backend>(
    conn: &mut DB::Connection,
) -> Result<(), sqlx::Error> {
    if DB::KIND == DatabaseKind::Postgres && adopt::<DB>(conn).await? {
        tracing::warn!("a connection of sqlx's pool was in a transaction, which is rolled back");
        raw::rollback_even_if_dropped::<DB>(conn).await?;
    }
    Ok(())
}

/// Reads the answers of statements whose futures were dropped, which may be errors.
async fn read_answers<DB: Backend>(conn: &mut DB::Connection) -> Result<(), sqlx::Error> {
    while let Err(error) = conn.ping().await {
        if !matches!(error, sqlx::Error::Database(_)) {
            return Err(error);
        }
    }
    Ok(())
}

/// As [`reconcile`], if sqlx counts no transaction.
pub(super) async fn adopt<DB: Backend>(conn: &mut DB::Connection) -> Result<bool, sqlx::Error> {
    match raw::adopt::<DB>(conn).await {
        Ok(()) => Ok(true),
        Err(sqlx::Error::BeginFailed) => Ok(false),
        Err(sqlx::Error::Database(_)) => {
            DB::simple(conn, SqlStr::from_static("ROLLBACK")).await.map(|()| false)
        }
        Err(error) => Err(error),
    }
}

/// Rolls back any open transaction, and begins a new one, in which sqlx counts at least `depth`.
pub(super) async fn replace<DB: Backend>(
    conn: &mut DB::Connection,
    depth: usize,
) -> Result<(), sqlx::Error> {
    read_answers::<DB>(conn).await?;
    let counted = raw::depth::<DB>(conn);
    begin_anew::<DB>(conn, counted).await?;
    while raw::depth::<DB>(conn) < depth {
        raw::begin::<DB>(conn, TransactionOptions::default()).await?;
    }
    Ok(())
}

/// Rolls back any open transaction, and begins a new one with as many savepoints as sqlx counts, or none if it counts no transaction.
async fn begin_anew<DB: Backend>(
    conn: &mut DB::Connection,
    depth: usize,
) -> Result<(), sqlx::Error> {
    match DB::simple(conn, SqlStr::from_static("ROLLBACK")).await {
        Ok(()) | Err(sqlx::Error::Database(_)) => {}
        Err(error) => return Err(error),
    }
    if depth == 0 {
        return Ok(());
    }
    let mut sql = "BEGIN".to_owned();
    for depth in 1..depth {
        let _ = write!(sql, "; SAVEPOINT _sqlx_savepoint_{depth}");
    }
    DB::simple(conn, AssertSqlSafe(sql).into_sql_str()).await
}
