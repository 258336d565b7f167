//! Statements that write several rows at once, as many per statement as the database allows.

use std::collections::{HashMap, HashSet};

use futures_util::future::BoxFuture;
use smallvec::SmallVec;

use crate::database::backend::{AnyRow, Arguments, DatabaseKind, Make, Statement};
use crate::database::conn::Conn;
use crate::database::detached::{Answer, OnDetached};
use crate::error::{Error, Result};
use crate::table::chunk::{Chunk, chunks, inserted, slices};
use crate::table::compose::{RowInput, StatementKind, StatementSpec};
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, ColumnRole, Schema};
use crate::write::single_text::take_row;
use crate::write::{TakeAnswer, WriteOutcome, inspect, row_error};

/// The first row that has the same key as an earlier row.
pub(crate) fn duplicate_key(kind: DatabaseKind, rows: &dyn Rows) -> Option<usize> {
    let mut seen = HashSet::with_capacity(rows.len());
    (0..rows.len()).find(|row| rows.encoded_key(*row, kind).is_ok_and(|key| !seen.insert(key)))
}

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
    match (op, conn.kind()) {
        (BulkOp::Insert, _) => insert(conn, rows, chunk).await,
        (BulkOp::Update(update), kind) => {
            let mut spec = update.spec(rows, chunk.input);
            compare_as_columns(conn, rows, chunk, &mut spec).await?;
            match kind {
                DatabaseKind::Postgres => update_in_postgres(conn, rows, chunk, &spec).await,
                DatabaseKind::Sqlite => update_in_sqlite(conn, rows, chunk, &spec).await,
            }
        }
        (BulkOp::Delete { before, checked }, kind) => {
            let mut spec = delete_spec(rows, chunk, before, checked);
            compare_as_columns(conn, rows, chunk, &mut spec).await?;
            match kind {
                DatabaseKind::Postgres => delete_in_postgres(conn, rows, chunk, spec).await,
                DatabaseKind::Sqlite => delete_in_sqlite(conn, rows, chunk, spec).await,
            }
        }
    }
}

/// Makes a statement for several rows compare each column by the rules of the column's own type.
async fn compare_as_columns(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    spec: &mut StatementSpec,
) -> Result<()> {
    let kind = conn.kind();
    let first = chunk.rows.start;
    if chunk.input != RowInput::Values(1) && spec.on.iter().any(|c| rows.is_text(first, *c, kind)) {
        spec.casts = inspect::casts(conn, rows, rows.at(0).columns()).await?;
    }
    Ok(())
}

fn statement(
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
        Statement { sql: rows.statement_cache().sql(spec, model, kind), args, persistent: true }
    } else {
        Statement::once(spec.sql(model, kind), args)
    })
}

/// Runs a statement, and returns its rows and the number of affected rows.
async fn all(conn: &mut Conn<'_>, statement: Statement) -> Result<(Vec<AnyRow>, usize)> {
    let mut rows = Vec::new();
    let affected = conn.run(statement, &mut |row| rows.push(row)).await?;
    Ok((rows, affected as usize))
}

/// As [`all`], for a statement that writes, and that keeps running if the future is dropped.
async fn all_detachable(
    conn: &mut Conn<'_>,
    make: Make<'_>,
    on_detached: &(dyn Fn() -> OnDetached + Send + Sync),
) -> Result<Answer> {
    let mut rows = SmallVec::new();
    let affected = conn.write(make, false, on_detached, &mut |row| rows.push(row)).await?;
    Ok(Answer { affected, rows })
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
    let answer = {
        let make = |kind| match spec.columns.is_empty() {
            true => Ok(Statement::fixed(model.insert, Arguments::new(kind))),
            false => statement(kind, &*rows, chunk, &spec),
        };
        all_detachable(conn, &make, &on_detached).await?
    };
    if returned.is_empty() && answer.affected == 0 && !inspect::counts_rows(conn, rows).await? {
        return match stored(conn, rows, chunk).await?.len() == chunk.rows.len() {
            true => Ok(chunk.rows.clone().collect()),
            false => Err(Error::NotStored { model: rows.model() }),
        };
    }
    take_inserted(rows, chunk, &returned, &answer)?;
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

/// Which columns an UPDATE sets, and how it finds the rows.
pub(crate) struct Update<'u> {
    pub(crate) set: &'u [usize],
    pub(crate) on: &'u [usize],
    /// Whether the stored version must be the version of the instance.
    pub(crate) checked: bool,
    /// Whether the UPDATE also returns the previous state of the rows.
    pub(crate) before: bool,
}

impl Update<'_> {
    fn spec(&self, rows: &dyn Rows, given: RowInput) -> StatementSpec {
        let mut spec =
            StatementSpec::new(StatementKind::Update, given, self.set.to_vec(), self.on.to_vec());
        spec.checked = self.checked && rows.schema().has(ColumnGroup::Version);
        spec.before = self.before;
        spec
    }

    pub(crate) fn chunks(&self, kind: DatabaseKind, rows: &dyn Rows) -> Vec<Chunk> {
        let binds = self.spec(rows, RowInput::Arrays).binds(rows.schema());
        chunks(kind, rows, 0..rows.len(), &binds)
    }
}

async fn update_in_postgres(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    spec: &StatementSpec,
) -> Result<Vec<usize>> {
    let model = rows.schema();
    let returned = spec.returned(model);
    let (updated, _) = all(conn, statement(conn.kind(), rows, chunk, spec)?).await?;
    let mut stored = Vec::with_capacity(updated.len());
    for from in &updated {
        let row = numbered(chunk, from)?;
        stored.push(row);
        take_row(rows, row, returned.iter().copied(), from, 1)?;
        if spec.before {
            let (at, columns) = (1 + returned.len(), model.columns.len());
            let before = rows.load(from, at)?;
            rows.previous_of(row).set_row(before);
            let changed = (at + columns..at + 2 * columns).map(|at| from.flag(at));
            rows.previous_of(row).set_changed(changed.collect::<Result<_, _>>()?);
        }
        if spec.checked {
            rows.advance(row);
        }
    }
    stored.sort_unstable();
    Ok(stored)
}

/// In SQLite, `RETURNING` has neither the number of a row nor its previous state, so both are
/// selected by separate statements. The transaction prevents other writes in between.
async fn update_in_sqlite(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    spec: &StatementSpec,
) -> Result<Vec<usize>> {
    let model = rows.schema();
    let every = || (0..model.columns.len()).collect::<Vec<_>>();
    let columns = if spec.before { every() } else { Vec::new() };
    let mut before = Vec::new();
    if spec.before || spec.checked {
        before = select(conn, rows, chunk, spec, &columns).await?;
        if before.len() < chunk.rows.len() {
            return Ok(numbers(&before));
        }
    }
    let (_, affected) = all(conn, statement(conn.kind(), rows, chunk, spec)?).await?;
    let by = StatementSpec { checked: false, ..spec.clone() };
    let mut returned = spec.returned(model);
    let skipped = affected < chunk.rows.len();
    if skipped {
        let stored = numbers(&select(conn, rows, chunk, &by, &[]).await?);
        if stored.len() < chunk.rows.len() {
            return Ok(stored);
        }
        // A trigger has skipped some rows, so all automatic columns are read back.
        returned = automatic(model).collect();
    }
    if spec.before || !returned.is_empty() {
        let columns = if spec.before { &columns } else { &returned };
        let after = select(conn, rows, chunk, &by, columns).await?;
        for (row, from) in &after {
            for column in &returned {
                let at = columns.iter().position(|c| c == column).unwrap_or_default();
                rows.set(*row, *column, from, 1 + at)?;
            }
            if let Some((_, was)) = before.get(row - chunk.rows.start).filter(|_| spec.before) {
                let before = rows.load(was, 1)?;
                rows.previous_of(*row).set_row(before);
                let changed = every().into_iter().map(|c| rows.differs(c, was, from, 1 + c));
                let changed = changed.collect::<Result<_, _>>()?;
                rows.previous_of(*row).set_changed(changed);
            }
        }
    }
    if spec.checked && !skipped {
        chunk.rows.clone().for_each(|row| rows.advance(row));
    }
    Ok(chunk.rows.clone().collect())
}

/// The columns of an instance that a write can change.
fn automatic(model: &Schema) -> impl Iterator<Item = usize> {
    let columns = model.columns.iter().enumerate();
    columns.filter(|(_, column)| column.role != ColumnRole::Plain).map(|(column, _)| column)
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

/// Why an UPDATE has not written a row, and the result of the retry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unwritten {
    Gone,
    /// The stored row has another version.
    Stale,
    /// Another transaction had written the row in the meantime; it is updated now.
    Updated,
    /// A trigger skips the row.
    Unchanged,
}

/// Determines why an UPDATE has not written a row, and retries it. The row is locked with the same
/// lock as by the UPDATE, so that no other transaction writes it in between. This requires a
/// transaction.
pub(crate) fn settle<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s mut dyn Rows,
    row: usize,
    update: &'s Update<'_>,
) -> BoxFuture<'s, Result<Unwritten>> {
    Box::pin(settle_locked(conn, rows, row, update))
}

async fn settle_locked(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    row: usize,
    update: &Update<'_>,
) -> Result<Unwritten> {
    let (model, chunk) = (rows.schema(), Chunk::of_row(row));
    let every = (0..model.columns.len()).collect();
    let lock = StatementSpec::new(StatementKind::Lock, chunk.input, every, update.on.to_vec());
    let (mut found, _) = all(conn, statement(conn.kind(), rows, &chunk, &lock)?).await?;
    let Some(found) = found.pop() else { return Ok(Unwritten::Gone) };
    if update.checked && model.has(ColumnGroup::Version) {
        let same = stored_as(conn, rows, &chunk, true).await?;
        if same.is_empty() {
            return Ok(Unwritten::Stale);
        }
    }
    if !write(conn, rows, &chunk, BulkOp::Update(update)).await?.is_empty() {
        return Ok(Unwritten::Updated);
    }
    for column in automatic(model) {
        rows.set(row, column, &found, 1 + column)?;
    }
    if update.before {
        let before = rows.load(&found, 1)?;
        rows.previous_of(row).set_row(before);
        rows.previous_of(row).set_changed(vec![false; model.columns.len()]);
    }
    Ok(Unwritten::Unchanged)
}

/// Selects the stored rows of a chunk, in the order of the chunk. In each database row, the given
/// columns follow the number of the row. Takes no lock.
async fn select(
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

fn numbers(rows: &[(usize, AnyRow)]) -> Vec<usize> {
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
    let mut spec = StatementSpec::new(StatementKind::Select, chunk.input, Vec::new(), on);
    spec.checked = checked && rows.schema().has(ColumnGroup::Version);
    Ok(numbers(&select(conn, rows, chunk, &spec, &[]).await?))
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
    let answer = {
        let make = |kind| statement(kind, &*rows, chunk, &spec);
        all_detachable(conn, &make, &on_detached).await?
    };
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
            let before = rows.load(from, 1)?;
            rows.previous_of(row).set_row(before);
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
        && self::stored(conn, rows, chunk).await?.len() > stored.len()
    {
        // A stale version is an error, so nothing is deleted.
        return Ok(numbers(&stored));
    }
    let delete =
        statement(conn.kind(), rows, chunk, &StatementSpec { columns: Vec::new(), ..spec })?;
    let (_, deleted) = all(conn, delete).await?;
    if deleted < stored.len() {
        let kept = self::stored(conn, rows, chunk).await?;
        stored.retain(|(row, _)| kept.binary_search(row).is_err());
    }
    if before {
        for (row, from) in &stored {
            let before = rows.load(from, 1)?;
            rows.previous_of(*row).set_row(before);
        }
    }
    Ok(numbers(&stored))
}

/// The index of the row whose number in the statement the database has returned.
fn numbered(chunk: &Chunk, from: &AnyRow) -> Result<usize, sqlx::Error> {
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
