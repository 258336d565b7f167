//! Locates the row that made a statement for several rows fail.

use futures_util::future::BoxFuture;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::error::{Error, Result, driver};
use crate::table::chunk::Chunk;
use crate::table::rows::Rows;
use crate::transaction::Transaction;
use crate::transaction::own::{TransactionWork, in_savepoint};
use crate::write::bulk::{self, BulkOp};
use crate::write::{inspect, row_error};

/// Writes the rows of a chunk as [`bulk::write`] does. If an error is about a row, it names the
/// first row that the database refuses when the rows are written one by one, in the order of the
/// statement.
///
/// The search must start from the state before the statement. On PostgreSQL, a failed statement
/// aborts the transaction. On either database, a statement for several rows may have stored some of
/// them (if a trigger dropped another one, or with `ON CONFLICT FAIL` on SQLite). So if the
/// transaction has already been used, the statement runs in a savepoint, unless SQLite undoes it.
pub(crate) async fn write_and_locate(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    op: BulkOp<'_>,
) -> Result<Vec<usize>> {
    let used = match conn.state.frames.last() {
        Some(frame) => frame.used,
        None => conn.depth().await > 0,
    };
    if !used || chunk.rows.len() == 1 {
        return write_or_name_row(conn, rows, chunk, op, Undo::Transaction).await;
    }
    if is_undone_by_sqlite(conn, rows, op).await? {
        return write_or_name_row(conn, rows, chunk, op, Undo::Nothing).await;
    }
    in_savepoint(conn, ChunkWrite { rows, chunk, op, name_row: true }).await
}

/// Whether SQLite undoes the statement of a chunk if it refuses a row. A savepoint would write each page twice.
///
/// A savepoint is needed nevertheless if the transaction is not marked as failed afterwards, because it is one of sqlx: SQLite keeps the
/// rows before a value that a STRICT table refuses, and what a dropped future has sent is stored.
async fn is_undone_by_sqlite(conn: &mut Conn<'_>, rows: &dyn Rows, op: BulkOp<'_>) -> Result<bool> {
    // Facts about another database with the same table are not sufficient.
    let may_be = conn.kind() == DatabaseKind::Sqlite && conn.in_transaction();
    if !may_be || conn.facts().is_shared || !inspect::stores_every_row(conn, rows).await? {
        return Ok(false);
    }
    // An INSERT does not change the rows of other tables that reference this one.
    Ok(matches!(op, BulkOp::Insert) || conn.facts().is_atomic(rows))
}

/// What has to be undone after a refused statement, so that the search starts from the state before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undo {
    Nothing,
    /// The innermost transaction or savepoint, which contains nothing else.
    Transaction,
}

async fn write_or_name_row(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    op: BulkOp<'_>,
    undo: Undo,
) -> Result<Vec<usize>> {
    let error = match bulk::write(conn, rows, chunk, op).await {
        Err(error) if is_about_row(conn.kind(), &error) => error,
        done => return done,
    };
    let found = match chunk.rows.len() {
        1 => Ok((chunk.rows.start, error)),
        _ => first_refused(conn, rows, chunk, op, undo).await.ok_or(error),
    };
    let (row, error) = found?;
    Err(row_error(op.verb(), rows, row, error))
}

/// Finds the first row that the database refuses, and its error. The rows written by the search are
/// rolled back. The values that it sets in the instances are restored by the guard of the failed
/// write. Boxed, because this is rare.
fn first_refused<'l>(
    conn: &'l mut Conn<'_>,
    rows: &'l mut dyn Rows,
    chunk: &'l Chunk,
    op: BulkOp<'l>,
    undo: Undo,
) -> BoxFuture<'l, Option<(usize, Error)>> {
    Box::pin(async move {
        if undo == Undo::Transaction && conn.in_transaction() {
            conn.begin_again().await.ok()?;
        }
        // The search follows the order of the failed statement. So it locks no row that the statement
        // had not reached, and all callers lock rows in the same order.
        let mut tx = Transaction::open(conn.reborrow()).await.ok()?;
        // Binary search: all rows before `remaining` are written, and one row in `remaining` is
        // refused.
        let mut remaining = chunk.rows.clone();
        let mut found = None;
        while !remaining.is_empty() {
            let half = remaining.start..remaining.start + remaining.len().div_ceil(2);
            let part = chunk.part(half.clone());
            let writing = ChunkWrite { rows: &mut *rows, chunk: &part, op, name_row: false };
            match in_savepoint(&mut tx, writing).await {
                Ok(_) => remaining.start = half.end,
                Err(error) if !is_about_row(tx.kind(), &error) => break,
                Err(error) if half.len() == 1 => {
                    found = Some((half.start, error));
                    break;
                }
                // On SQLite, a conflict can roll back the whole transaction, so the search cannot
                // continue.
                Err(_) if tx.state.has_failed() => break,
                Err(_) => remaining = half,
            }
        }
        tx.rollback_or_log().await;
        found
    })
}

/// The write of a chunk in a savepoint.
struct ChunkWrite<'w> {
    rows: &'w mut dyn Rows,
    chunk: &'w Chunk,
    op: BulkOp<'w>,
    /// Whether an error names the refused row.
    name_row: bool,
}

impl TransactionWork for ChunkWrite<'_> {
    type Done = Vec<usize>;

    async fn run(&mut self, savepoint: &mut Transaction<'_>) -> Result<Vec<usize>> {
        match self.name_row {
            true => {
                let Self { rows, chunk, op, .. } = self;
                write_or_name_row(savepoint, *rows, chunk, *op, Undo::Transaction).await
            }
            false => bulk::write(savepoint, self.rows, self.chunk, self.op).await,
        }
    }
}

/// Whether an error is about a value or a constraint, not about the statement, the connection or
/// other transactions.
fn is_about_row(kind: DatabaseKind, error: &Error) -> bool {
    let error = match error {
        Error::NotStored { .. } | Error::Database(sqlx::Error::Encode(_)) => return true,
        Error::Database(sqlx::Error::Database(error)) => &**error,
        _ => return false,
    };
    let code = error.code().unwrap_or_default();
    match kind {
        // The classes of data exceptions, integrity constraints, triggers, views and `RAISE`
        // (https://www.postgresql.org/docs/current/errcodes-appendix.html).
        DatabaseKind::Postgres => {
            ["22", "23", "27", "44", "P0"].iter().any(|class| code.starts_with(class))
                || driver::is_refused_row(error)
        }
        // SQLITE_TOOBIG, SQLITE_CONSTRAINT and SQLITE_MISMATCH (https://www.sqlite.org/rescode.html).
        DatabaseKind::Sqlite => {
            code.parse().is_ok_and(|code: i32| (18..=20).contains(&(code & 0xff)))
        }
    }
}
