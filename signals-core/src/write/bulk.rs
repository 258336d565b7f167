//! Statements that write several rows at once, as many per statement as the database allows.

use smallvec::SmallVec;

use crate::database::backend::{AnyRow, Arguments, DatabaseKind, Make, Statement};
use crate::database::conn::Conn;
use crate::database::detached::{Answer, OnDetached};
use crate::error::{Error, Result};
use crate::table::chunk::{Chunk, inserted, slices};
use crate::table::compose;
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::table::statement_spec::{RowInput, StatementKind, StatementSpec};
use crate::write::bulk_update::{Update, update_in_postgres, update_in_sqlite};
use crate::write::lookup::{numbered, numbers, select};
use crate::write::read_back::{may_differ, read_back};
use crate::write::single_text::take_row;
use crate::write::{TakeAnswer, WriteOutcome, inspect, lookup, row_error};

/// What a statement does with the rows of a chunk.
#[derive(Clone, Copy)]
pub(crate) enum BulkOp<'w> {
    Insert,
    Update(&'w Update<'w>),
    /// DELETE. `before` returns the previous state of the rows; `checked` requires that the stored
    /// version is the version of the instance.
    Delete {
        before: bool,
        checked: bool,
    },
}

impl BulkOp<'_> {
    /// The verb used in errors.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            BulkOp::Insert => "insert",
            BulkOp::Update(_) => "update",
            BulkOp::Delete { .. } => "delete",
        }
    }
}

/// Writes the rows of a chunk with one statement, and returns which of them were written. If the
/// statement fails, no stored row is changed.
pub(crate) async fn write(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    op: BulkOp<'_>,
) -> Result<Vec<usize>> {
    let mut spec = match op {
        BulkOp::Insert => return insert(conn, rows, chunk).await,
        BulkOp::Update(update) => update.spec(rows, chunk.input),
        BulkOp::Delete { before, checked } => delete_spec(rows, chunk, before, checked),
    };
    compare_as_columns(conn, rows, chunk, &mut spec).await?;
    match (op, conn.kind()) {
        (BulkOp::Update(_), DatabaseKind::Postgres) => {
            update_in_postgres(conn, rows, chunk, spec).await
        }
        (BulkOp::Update(_), DatabaseKind::Sqlite) => {
            update_in_sqlite(conn, rows, chunk, spec).await
        }
        (_, DatabaseKind::Postgres) => delete_in_postgres(conn, rows, chunk, spec).await,
        (_, DatabaseKind::Sqlite) => delete_in_sqlite(conn, rows, chunk, spec).await,
    }
}

/// Makes a statement for several rows compare each column by the rules of the column's own type.
pub(super) async fn compare_as_columns(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    spec: &mut StatementSpec,
) -> Result<()> {
    let kind = conn.kind();
    let first = chunk.rows.start;
    if chunk.input != RowInput::Values(1) && spec.on.iter().any(|c| rows.is_text(first, *c, kind)) {
        spec.casts = inspect::casts(conn, rows).await?;
    }
    Ok(())
}

pub(super) fn statement(
    kind: DatabaseKind,
    rows: &dyn Rows,
    chunk: &Chunk,
    spec: &StatementSpec,
) -> Result<Statement, sqlx::Error> {
    let model = rows.schema();
    let mut args = Arguments::new(kind);
    let (binds, found_by) = (spec.input_columns(model, kind), spec.found_by(kind));
    let bound = match chunk.input {
        RowInput::Arrays => binds
            .iter()
            .try_for_each(|column| rows.bind_each(chunk.rows.clone(), *column, &mut args)),
        RowInput::Values(_) => chunk.rows.clone().try_for_each(|row| {
            binds.iter().try_for_each(|column| rows.bind(row, *column, &mut args))?;
            found_by.iter().try_for_each(|column| rows.bind_compared(row, *column, &mut args))
        }),
    };
    bound.map_err(sqlx::Error::Encode)?;
    Ok(if chunk.full {
        Statement::prepared(rows.statement_cache().sql(spec, model, kind), args)
    } else {
        Statement::once(compose::sql(spec, model, kind), args)
    })
}

/// Runs a statement, and returns its rows and the number of affected rows.
pub(super) async fn all(conn: &mut Conn<'_>, statement: Statement) -> Result<(Vec<AnyRow>, usize)> {
    let mut rows = Vec::new();
    let affected = conn.run(statement, &mut |row| rows.push(row)).await?;
    Ok((rows, affected as usize))
}

/// As [`all`], for a statement that writes, and that keeps running if the future is dropped. With the result, returns the rows that have
/// arrived.
async fn all_detachable(
    conn: &mut Conn<'_>,
    make: Make<'_>,
    on_detached: &(dyn Fn() -> OnDetached + Send + Sync),
) -> (Answer, Result<()>) {
    let mut rows = SmallVec::new();
    let done = conn.write(make, false, on_detached, &mut |row| rows.push(row)).await;
    match done {
        Ok(affected) => (Answer { affected, rows }, Ok(())),
        Err(error) => (Answer { affected: 0, rows }, Err(error)),
    }
}

/// Inserts the rows of a chunk. The generated keys are returned in the order of the rows: an INSERT
/// inserts its rows in order, and returns each row as it is inserted.
async fn insert(conn: &mut Conn<'_>, rows: &mut dyn Rows, chunk: &Chunk) -> Result<Vec<usize>> {
    let model = rows.schema();
    let columns = inserted(rows, rows.has_key(chunk.rows.start));
    let spec = StatementSpec::new(StatementKind::Insert, chunk.input, columns, Vec::new());
    let returned = spec.returned(model);
    let on_detached = || {
        let (chunk, returned) = (chunk.clone(), returned.clone());
        TakeAnswer::boxed(move |rows, answer| {
            take_inserted(rows, &chunk, &returned, &answer)?;
            Ok(WriteOutcome::several(Some(true), slices(rows, chunk.rows)))
        })
    };
    let (answer, done) = {
        let make = |kind| match spec.columns.is_empty() {
            true => Ok(Statement::fixed(model.insert, Arguments::new(kind))),
            false => statement(kind, &*rows, chunk, &spec),
        };
        all_detachable(conn, &make, &on_detached).await
    };
    if let Err(error) = done {
        if matches!(error, Error::CommitUnknown(_)) && !returned.is_empty() {
            // The rows may be stored, and the next write of them needs their keys.
            let _ = take_inserted(rows, chunk, &returned, &answer);
        }
        return Err(error);
    }
    if returned.is_empty() && answer.affected == 0 && !inspect::counts_rows(conn, rows).await? {
        return match lookup::stored(conn, rows, chunk).await?.len() == chunk.rows.len() {
            true => Ok(chunk.rows.clone().collect()),
            false => Err(Error::NotStored { model: rows.model() }),
        };
    }
    let is_assigned = !rows.has_key(chunk.rows.start);
    take_inserted(rows, chunk, &returned, &answer)?;
    if may_differ(conn, rows, chunk.rows.clone(), is_assigned) {
        read_back(conn, rows, chunk.clone(), is_assigned).await?;
    }
    Ok(chunk.rows.clone().collect())
}

fn take_inserted(
    rows: &mut dyn Rows,
    chunk: &Chunk,
    returned: &[usize],
    answer: &Answer,
) -> Result<()> {
    let inserted = &answer.rows;
    let stored = if returned.is_empty() { answer.affected as usize } else { inserted.len() };
    if stored != chunk.rows.len() {
        return Err(Error::NotStored { model: rows.model() });
    }
    for (row, from) in chunk.rows.clone().zip(inserted) {
        let taken = take_row(rows, row, returned.iter().copied(), from, 0);
        taken.map_err(|error| row_error("insert", rows, row, error.into()))?;
    }
    Ok(())
}

/// Keeps the previous state of a row, which begins at the column `at` of a database row.
pub(super) fn keep_previous(
    rows: &mut dyn Rows,
    row: usize,
    from: &AnyRow,
    at: usize,
) -> Result<(), sqlx::Error> {
    let before = rows.load(from, at)?;
    rows.previous_of(row).set_row(before);
    Ok(())
}

/// The specification of the DELETE of a chunk. On SQLite, the rows are selected by it before the
/// DELETE.
fn delete_spec(rows: &dyn Rows, chunk: &Chunk, before: bool, checked: bool) -> StatementSpec {
    let model = rows.schema();
    let columns = if before { (0..model.columns.len()).collect() } else { Vec::new() };
    let on = model.group(ColumnGroup::Key).collect();
    let mut spec = StatementSpec::new(StatementKind::Delete, chunk.input, columns, on);
    (spec.before, spec.checked) = (before, checked && model.has(ColumnGroup::Version));
    spec
}

async fn delete_in_postgres(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    spec: StatementSpec,
) -> Result<Vec<usize>> {
    let on_detached = || {
        let chunk = chunk.clone();
        TakeAnswer::boxed(move |rows, answer| {
            let deleted = take_deleted(rows, &chunk, false, &answer)?;
            Ok(WriteOutcome::several(None, slices(rows, deleted.into_iter())))
        })
    };
    let (answer, done) = {
        let make = |kind| statement(kind, &*rows, chunk, &spec);
        all_detachable(conn, &make, &on_detached).await
    };
    done?;
    take_deleted(rows, chunk, spec.before, &answer)
}

/// Returns the rows that were deleted. If `before` is true, their previous state is read into
/// `rows`.
fn take_deleted(
    rows: &mut dyn Rows,
    chunk: &Chunk,
    before: bool,
    answer: &Answer,
) -> Result<Vec<usize>> {
    let mut stored = Vec::with_capacity(answer.rows.len());
    for from in &answer.rows {
        let row = numbered(chunk, from)?;
        stored.push(row);
        if before {
            keep_previous(rows, row, from, 1)?;
        }
    }
    stored.sort_unstable();
    Ok(stored)
}

async fn delete_in_sqlite(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    spec: StatementSpec,
) -> Result<Vec<usize>> {
    let counts = inspect::counts_rows(conn, rows).await?;
    if chunk.rows.len() == 1 && !spec.before && !spec.checked && counts {
        let (_, affected) = all(conn, statement(conn.kind(), rows, chunk, &spec)?).await?;
        return Ok(chunk.rows.clone().filter(|_| affected > 0).collect());
    }
    let before = spec.before;
    let mut stored = select(conn, rows, chunk, &spec, &spec.columns).await?;
    if spec.checked
        && stored.len() < chunk.rows.len()
        && lookup::stored(conn, rows, chunk).await?.len() > stored.len()
    {
        // A stale version is an error, so nothing is deleted.
        return Ok(numbers(&stored));
    }
    let delete =
        statement(conn.kind(), rows, chunk, &StatementSpec { columns: Vec::new(), ..spec })?;
    let (_, deleted) = all(conn, delete).await?;
    if deleted < stored.len() {
        let kept = lookup::stored(conn, rows, chunk).await?;
        stored.retain(|(row, _)| kept.binary_search(row).is_err());
    }
    if before {
        for (row, from) in &stored {
            keep_previous(rows, *row, from, 1)?;
        }
    }
    Ok(numbers(&stored))
}
