//! Which of several rows it is that the database refuses.

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::table::chunk::Chunk;
use crate::table::rows::Rows;
use crate::transaction::Transaction;
use crate::transaction::own::Undoable;
use crate::transaction::own::in_savepoint;
use crate::write::bulk::{self, BulkOp};
use crate::write::row_error;

/// Writes the rows of a chunk as [`bulk::write`] does. An error that is about a row names the first that the database refuses
/// if they are written one by one, in the order in which the statement writes them.
///
/// What is tried afterwards must find all as it was. On Postgres a statement that fails takes the transaction with it, and
/// on either database a statement of several rows can have stored some of them (a trigger dropped another one, or SQLite
/// has `ON CONFLICT FAIL`): where something was run in the transaction, the statement is in a savepoint.
pub(crate) async fn write_and_locate(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    work: BulkOp<'_>,
) -> Result<Vec<usize>> {
    let used = match conn.state.frames.last() {
        Some(frame) => frame.used,
        None => conn.depth().await > 0,
    };
    if used && chunk.rows.len() > 1 {
        return in_savepoint(conn, Naming { rows, chunk, work }).await;
    }
    write_or_name(conn, rows, chunk, work).await
}

async fn write_or_name(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    work: BulkOp<'_>,
) -> Result<Vec<usize>> {
    let error = match bulk::write(conn, rows, chunk, work).await {
        Err(error) if is_of_a_row(conn.kind(), &error) => error,
        done => return done,
    };
    let found = match chunk.rows.len() {
        1 => Ok((chunk.rows.start, error)),
        // On the heap, because few come here.
        _ => Box::pin(first_refused(conn, rows, chunk, work)).await.ok_or(error),
    };
    let (row, error) = found?;
    Err(row_error(work.verb(), rows, row, error))
}

/// The first row that the database refuses, and why. What is written on the way is undone; what it sets in the instances is
/// undone with the write that has failed.
async fn first_refused(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    work: BulkOp<'_>,
) -> Option<(usize, Error)> {
    if conn.in_transaction() {
        conn.begin_again().await.ok()?;
    }
    // In the order of the statement that failed, so that no row is locked that this statement had not come to, and no two
    // callers lock rows in different orders.
    let mut tx = Transaction::open(conn.reborrow()).await.ok()?;
    // All before `left` are written, and one of `left` is refused: half of them are tried at a time.
    let mut left = chunk.rows.clone();
    let mut found = None;
    while !left.is_empty() {
        let half = left.start..left.start + left.len().div_ceil(2);
        let part = chunk.part(half.clone());
        let writing = Writing { rows: &mut *rows, chunk: &part, work };
        match in_savepoint(&mut tx, writing).await {
            Ok(_) => left.start = half.end,
            Err(error) if !is_of_a_row(tx.kind(), &error) => break,
            Err(error) if half.len() == 1 => {
                found = Some((half.start, error));
                break;
            }
            // A conflict that rolls the transaction back on SQLite leaves nothing to go on with.
            Err(_) if tx.state.has_failed() => break,
            Err(_) => left = half,
        }
    }
    tx.rollback_or_log().await;
    found
}

/// The write of a chunk in a savepoint. An error names the row that is refused.
struct Naming<'w> {
    rows: &'w mut dyn Rows,
    chunk: &'w Chunk,
    work: BulkOp<'w>,
}

impl Undoable for Naming<'_> {
    type Done = Vec<usize>;

    async fn run(&mut self, savepoint: &mut Transaction<'_>) -> Result<Vec<usize>> {
        write_or_name(savepoint, self.rows, self.chunk, self.work).await
    }
}

/// The write of a part of a chunk in a savepoint.
struct Writing<'w> {
    rows: &'w mut dyn Rows,
    chunk: &'w Chunk,
    work: BulkOp<'w>,
}

impl Undoable for Writing<'_> {
    type Done = Vec<usize>;

    async fn run(&mut self, savepoint: &mut Transaction<'_>) -> Result<Vec<usize>> {
        bulk::write(savepoint, self.rows, self.chunk, self.work).await
    }
}

/// Whether an error is about a value or a constraint, and not about the statement, the connection or the other
/// transactions.
fn is_of_a_row(kind: DatabaseKind, error: &Error) -> bool {
    let code = match error {
        Error::NotStored { .. } | Error::Database(sqlx::Error::Encode(_)) => return true,
        Error::Database(sqlx::Error::Database(error)) => error.code().unwrap_or_default(),
        _ => return false,
    };
    match kind {
        // The classes of data exceptions, integrity constraints, triggers, views and `RAISE`
        // (https://www.postgresql.org/docs/current/errcodes-appendix.html).
        DatabaseKind::Postgres => {
            ["22", "23", "27", "44", "P0"].iter().any(|class| code.starts_with(class))
        }
        // SQLITE_TOOBIG, SQLITE_CONSTRAINT and SQLITE_MISMATCH (https://www.sqlite.org/rescode.html).
        DatabaseKind::Sqlite => {
            code.parse().is_ok_and(|code: i32| (18..=20).contains(&(code & 0xff)))
        }
    }
}
