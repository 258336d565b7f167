//! Lookups of stored rows: of the row that a save of a single row is about, and of the rows of a
//! chunk. They take no lock, except [`lock_to_delete`].

use std::collections::{HashMap, HashSet};

use futures_util::future::BoxFuture;

use crate::database::backend::{AnyRow, DatabaseKind};
use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::table::chunk::{Chunk, inserted};
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::table::statement_spec::{RowInput, StatementKind, StatementSpec};
use crate::transaction::Transaction;
use crate::write::bulk::{all, compare_as_columns, statement};
use crate::write::inspect;
use crate::write::single_text::Text;

/// What is stored under the key of a row that a statement has not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Gone,
    /// A row with another version.
    Stale,
    /// The row, with the version of the instance.
    Same,
}

/// Looks up what is stored under the key of the single row in `rows`. Takes no lock: the result is
/// used for an error or for the next attempt, and must not wait for another transaction.
pub(crate) async fn look(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<Look> {
    let model = rows.schema();
    let on = model.group(ColumnGroup::Key).collect();
    let mut spec =
        StatementSpec::new(StatementKind::CheckVersion, RowInput::Values(1), Vec::new(), on);
    spec.checked = model.has(ColumnGroup::Version);
    let found = conn.run_one(Text::Composed(spec.into()).statement(rows, conn.kind())?).await?;
    Ok(match found {
        None => Look::Gone,
        Some(row) if row.flag(0)? => Look::Same,
        Some(_) => Look::Stale,
    })
}

/// Returns the row that has the same values in these columns as the single row in `rows`.
pub(crate) async fn find_like(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    on: &[usize],
) -> Result<Option<AnyRow>> {
    let spec =
        StatementSpec::new(StatementKind::Find, RowInput::Values(1), Vec::new(), on.to_vec());
    conn.run_one(Text::Composed(spec.into()).statement(rows, conn.kind())?).await
}

/// Returns the row that an INSERT of the single row in `rows` conflicts with in these columns,
/// which have a unique index. The INSERT is executed, so that the index itself determines the row,
/// and is rolled back.
pub(crate) async fn conflicting(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    on: &[usize],
) -> Result<Option<AnyRow>> {
    let columns = inserted(rows, rows.has_key(0));
    let spec =
        StatementSpec::new(StatementKind::Conflicting, RowInput::Values(1), columns, on.to_vec());
    let statement = Text::Composed(spec.into()).statement(rows, conn.kind())?;
    let mut tx = Transaction::open(conn.reborrow()).await?;
    let found = tx.run_one(statement).await;
    tx.rollback().await?;
    found
}

/// Selects the stored rows of a chunk, in the order of the chunk. In each database row, the given
/// columns follow the number of the row. Takes no lock.
pub(super) async fn select(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    like: &StatementSpec,
    columns: &[usize],
) -> Result<Vec<(usize, AnyRow)>> {
    let mut spec =
        StatementSpec::new(StatementKind::Select, chunk.input, columns.to_vec(), like.on.clone());
    spec.checked = like.checked;
    compare_as_columns(conn, rows, chunk, &mut spec).await?;
    let (stored, _) = all(conn, statement(conn.kind(), rows, chunk, &spec)?).await?;
    let numbered = stored.into_iter().map(|from| Ok((numbered(chunk, &from)?, from)));
    let mut stored = numbered.collect::<Result<Vec<_>, sqlx::Error>>()?;
    stored.sort_unstable_by_key(|(row, _)| *row);
    Ok(stored)
}

/// Selects the stored rows of a chunk with all columns, which follow the number of the row. Takes
/// no lock.
pub(crate) async fn stored_rows(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
) -> Result<Vec<(usize, AnyRow)>> {
    let model = rows.schema();
    let (on, every) =
        (model.group(ColumnGroup::Key).collect(), (0..model.columns.len()).collect::<Vec<_>>());
    let spec = StatementSpec::new(StatementKind::Select, chunk.input, Vec::new(), on);
    select(conn, rows, chunk, &spec, &every).await
}

pub(super) fn numbers(rows: &[(usize, AnyRow)]) -> Vec<usize> {
    rows.iter().map(|(row, _)| *row).collect()
}

/// Which rows of a chunk are stored, with any version.
pub(crate) async fn stored(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
) -> Result<Vec<usize>> {
    stored_as(conn, rows, chunk, false).await
}

/// Which rows of a chunk are stored. If `checked`, only rows with the version of the instance.
pub(crate) async fn stored_as(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    checked: bool,
) -> Result<Vec<usize>> {
    let on = rows.schema().group(ColumnGroup::Key).collect();
    stored_by(conn, rows, chunk, on, checked).await
}

/// As [`stored_as`], for rows that are found by the columns `on`.
pub(crate) async fn stored_by(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    on: Vec<usize>,
    checked: bool,
) -> Result<Vec<usize>> {
    let mut spec = StatementSpec::new(StatementKind::Select, chunk.input, Vec::new(), on);
    spec.checked = checked && rows.schema().has(ColumnGroup::Version);
    Ok(numbers(&select(conn, rows, chunk, &spec, &[]).await?))
}

/// Locks the stored rows of a chunk that have the versions of the instances, as a DELETE does. Returns the first row that is stored with
/// another version.
pub(crate) async fn lock_to_delete(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
) -> Result<Option<usize>> {
    let on = rows.schema().group(ColumnGroup::Key).collect();
    let mut spec = StatementSpec::new(StatementKind::LockToDelete, chunk.input, Vec::new(), on);
    spec.checked = true;
    compare_as_columns(conn, rows, chunk, &mut spec).await?;
    let (locked, _) = all(conn, statement(conn.kind(), rows, chunk, &spec)?).await?;
    if locked.len() == chunk.rows.len() {
        return Ok(None);
    }
    let locked = locked.iter().map(|from| numbered(chunk, from));
    let locked = locked.collect::<Result<HashSet<_>, _>>()?;
    let stored = stored(conn, rows, chunk).await?;
    let stale = stored.into_iter().filter(|row| !locked.contains(row));
    // The first row in the order of the caller's slice.
    Ok(stale.min_by_key(|row| rows.slice_index(*row)))
}

/// The rows of a chunk that a DELETE has not deleted although they are stored, because a trigger
/// keeps them. Also returns the first row whose stored version is not the version of the instance.
pub(crate) async fn kept_by_trigger(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    deleted: &[usize],
) -> Result<(Vec<usize>, Option<usize>)> {
    if inspect::is_plain(conn, rows).await? {
        return Ok((Vec::new(), None));
    }
    let mut kept = stored(conn, rows, chunk).await?;
    kept.retain(|row| deleted.binary_search(row).is_err());
    let mut stale = None;
    if !kept.is_empty() && rows.schema().has(ColumnGroup::Version) {
        let same = stored_as(conn, rows, chunk, true).await?;
        let other = kept.iter().copied().filter(|row| same.binary_search(row).is_err());
        // The first row in the order of the caller's slice.
        stale = other.min_by_key(|row| rows.slice_index(*row));
    }
    Ok((kept, stale))
}

/// Whether a row is stored, with any version.
pub(crate) fn is_stored<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s dyn Rows,
    row: usize,
) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move { Ok(!stored(conn, rows, &Chunk::of_row(row)).await?.is_empty()) })
}

/// The first row in `of` that is the same row in the database as another row of the chunk.
pub(crate) async fn duplicate_in_database(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    of: &[usize],
) -> Result<Option<usize>> {
    if conn.kind() == DatabaseKind::Sqlite {
        // On SQLite, the SELECT returns each stored row once, so there are no duplicates in its
        // result.
        return Ok(None);
    }
    let on: Vec<_> = rows.schema().group(ColumnGroup::Key).collect();
    let spec = StatementSpec::new(StatementKind::Select, chunk.input, Vec::new(), on.clone());
    let stored = select(conn, rows, chunk, &spec, &on).await?;
    let mut seen = HashMap::with_capacity(stored.len());
    for (row, from) in &stored {
        let key = (1..=on.len()).map(|at| from.bytes(at)).collect::<Result<Vec<_>, _>>()?;
        if let Some(other) = seen.insert(key, *row) {
            return Ok([*row, other].into_iter().find(|row| of.binary_search(row).is_ok()));
        }
    }
    Ok(None)
}

/// The first row that has the same key as an earlier row.
pub(crate) fn duplicate_key(kind: DatabaseKind, rows: &dyn Rows) -> Option<usize> {
    let mut integers = HashSet::with_capacity(rows.len());
    let mut others = HashSet::new();
    (0..rows.len()).find(|row| match rows.integer_key(*row) {
        Some(key) => !integers.insert(key),
        None => rows.encoded_key(*row, kind).is_ok_and(|key| !others.insert(key)),
    })
}

/// The index of the row whose number in the statement the database has returned.
pub(super) fn numbered(chunk: &Chunk, from: &AnyRow) -> Result<usize, sqlx::Error> {
    let number = usize::try_from(from.scalar()?).unwrap_or(usize::MAX);
    let row = chunk.rows.start.saturating_add(number.saturating_sub(1));
    if chunk.rows.contains(&row) {
        return Ok(row);
    }
    Err(sqlx::Error::Protocol(format!(
        "there is no row {number} in a statement of {:?}",
        chunk.rows
    )))
}

pub(crate) fn not_found(rows: &dyn Rows, row: usize) -> Error {
    Error::NotFound { model: rows.model(), key: rows.key(row) }
}

pub(crate) fn stale(rows: &dyn Rows, row: usize) -> Error {
    let version = rows.version(row).unwrap_or_default();
    Error::Stale { model: rows.model(), key: rows.key(row), version }
}

pub(crate) fn duplicate(rows: &dyn Rows, row: usize) -> Error {
    Error::DuplicateKey { model: rows.model(), key: rows.key(row) }
}
