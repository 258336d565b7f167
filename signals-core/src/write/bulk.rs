//! Schema for several rows at once, in as few as the database allows.

use crate::write::row_error;
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
use crate::write::TakeAnswer;
use crate::write::WriteOutcome;
use crate::write::inspect;
use crate::write::single::take_row;

/// The first row whose key is that of another before it.
pub(crate) fn duplicate_key(kind: DatabaseKind, rows: &dyn Rows) -> Option<usize> {
    let mut seen = HashSet::with_capacity(rows.len());
    (0..rows.len()).find(|row| rows.encoded_key(*row, kind).is_ok_and(|key| !seen.insert(key)))
}

/// StatementKind a statement does with the rows of a chunk.
#[derive(Clone, Copy)]
pub(crate) enum BulkOp<'w> {
    Insert,
    Update(&'w Update<'w>),
    /// DELETE, whether the rows as they were are asked for, and whether the version must be the instance's.
    Delete {
        before: bool,
        checked: bool,
    },
}

impl BulkOp<'_> {
    /// As errors call it.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            BulkOp::Insert => "insert",
            BulkOp::Update(_) => "update",
            BulkOp::Delete { .. } => "delete",
        }
    }
}

/// Writes the rows of a chunk with one statement, and returns which of them were written. None of them is changed where the
/// statement fails.
pub(crate) async fn write(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    work: BulkOp<'_>,
) -> Result<Vec<usize>> {
    match (work, conn.kind()) {
        (BulkOp::Insert, _) => insert(conn, rows, chunk).await,
        (BulkOp::Update(update), kind) => {
            let mut shape = update.shape(rows, chunk.input);
            compare_as_columns(conn, rows, chunk, &mut shape).await?;
            match kind {
                DatabaseKind::Postgres => update_in_postgres(conn, rows, chunk, &shape).await,
                DatabaseKind::Sqlite => update_in_sqlite(conn, rows, chunk, &shape).await,
            }
        }
        (BulkOp::Delete { before, checked }, kind) => {
            let mut shape = delete_shape(rows, chunk, before, checked);
            compare_as_columns(conn, rows, chunk, &mut shape).await?;
            match kind {
                DatabaseKind::Postgres => delete_in_postgres(conn, rows, chunk, shape).await,
                DatabaseKind::Sqlite => delete_in_sqlite(conn, rows, chunk, shape).await,
            }
        }
    }
}

/// Has the columns of several rows compared as their own types compare them.
async fn compare_as_columns(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    shape: &mut StatementSpec,
) -> Result<()> {
    let kind = conn.kind();
    let first = chunk.rows.start;
    if chunk.input != RowInput::Values(1) && shape.on.iter().any(|c| rows.is_text(first, *c, kind))
    {
        shape.casts = inspect::casts(conn, rows, rows.at(0).columns()).await?;
    }
    Ok(())
}

fn statement(
    kind: DatabaseKind,
    rows: &dyn Rows,
    chunk: &Chunk,
    shape: &StatementSpec,
) -> Result<Statement, sqlx::Error> {
    let model = rows.schema();
    let mut args = Arguments::new(kind);
    let (binds, found_by) = (shape.input_columns(model, kind), shape.found_by(kind));
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
        Statement { sql: rows.statement_cache().sql(shape, model, kind), args, persistent: true }
    } else {
        Statement::once(shape.sql(model, kind), args)
    })
}

/// Runs a statement, and returns its rows and how many it affected.
async fn all(conn: &mut Conn<'_>, statement: Statement) -> Result<(Vec<AnyRow>, usize)> {
    let mut rows = Vec::new();
    let affected = conn.run(statement, &mut |row| rows.push(row)).await?;
    Ok((rows, affected as usize))
}

/// As [`all`], of a statement that writes, and that may go on without its caller.
async fn all_of_write(
    conn: &mut Conn<'_>,
    make: Make<'_>,
    on_detached: &(dyn Fn() -> OnDetached + Send + Sync),
) -> Result<Answer> {
    let mut rows = SmallVec::new();
    let affected = conn.write(make, false, on_detached, &mut |row| rows.push(row)).await?;
    Ok(Answer { affected, rows })
}

/// Inserts the rows of a chunk. Their keys come back in the order in which they were given: an INSERT inserts in the order of
/// its rows, and returns each as it is inserted.
async fn insert(conn: &mut Conn<'_>, rows: &mut dyn Rows, chunk: &Chunk) -> Result<Vec<usize>> {
    let model = rows.schema();
    let columns = inserted(rows, rows.has_key(chunk.rows.start));
    let shape = StatementSpec::new(StatementKind::Insert, chunk.input, columns, Vec::new());
    let returned = shape.returned(model);
    let on_detached = || {
        let (chunk, returned) = (chunk.clone(), returned.clone());
        TakeAnswer::boxed(move |rows, answer| {
            take_inserted(rows, &chunk, &returned, &answer)?;
            Ok(WriteOutcome::several(Some(true), slices(rows, chunk.rows)))
        })
    };
    let answer = {
        let make = |kind| match shape.columns.is_empty() {
            true => Ok(Statement::fixed(model.insert, Arguments::new(kind))),
            false => statement(kind, &*rows, chunk, &shape),
        };
        all_of_write(conn, &make, &on_detached).await?
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

/// StatementKind an UPDATE is to do.
pub(crate) struct Update<'u> {
    pub(crate) set: &'u [usize],
    pub(crate) on: &'u [usize],
    /// Whether the version must be the instance's.
    pub(crate) checked: bool,
    /// Whether the rows as they were are asked for.
    pub(crate) before: bool,
}

impl Update<'_> {
    fn shape(&self, rows: &dyn Rows, given: RowInput) -> StatementSpec {
        let mut shape =
            StatementSpec::new(StatementKind::Update, given, self.set.to_vec(), self.on.to_vec());
        shape.checked = self.checked && rows.schema().has(ColumnGroup::Version);
        shape.before = self.before;
        shape
    }

    pub(crate) fn chunks(&self, kind: DatabaseKind, rows: &dyn Rows) -> Vec<Chunk> {
        let binds = self.shape(rows, RowInput::Arrays).binds(rows.schema());
        chunks(kind, rows, 0..rows.len(), &binds)
    }
}

async fn update_in_postgres(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    shape: &StatementSpec,
) -> Result<Vec<usize>> {
    let model = rows.schema();
    let returned = shape.returned(model);
    let (updated, _) = all(conn, statement(conn.kind(), rows, chunk, shape)?).await?;
    let mut stored = Vec::with_capacity(updated.len());
    for from in &updated {
        let row = numbered(chunk, from)?;
        stored.push(row);
        take_row(rows, row, returned.iter().copied(), from, 1)?;
        if shape.before {
            let (at, columns) = (1 + returned.len(), model.columns.len());
            let before = rows.load(from, at)?;
            rows.previous_of(row).set_row(before);
            let changed = (at + columns..at + 2 * columns).map(|at| from.flag(at));
            rows.previous_of(row).set_changed(changed.collect::<Result<_, _>>()?);
        }
        if shape.checked {
            rows.advance(row);
        }
    }
    stored.sort_unstable();
    Ok(stored)
}

/// SQLite has neither a row's number nor what it was in its `RETURNING`, and is asked for them in statements of their own;
/// in a transaction nobody comes between.
async fn update_in_sqlite(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    shape: &StatementSpec,
) -> Result<Vec<usize>> {
    let model = rows.schema();
    let every = || (0..model.columns.len()).collect::<Vec<_>>();
    let columns = if shape.before { every() } else { Vec::new() };
    let mut before = Vec::new();
    if shape.before || shape.checked {
        before = select(conn, rows, chunk, shape, &columns).await?;
        if before.len() < chunk.rows.len() {
            return Ok(numbers(&before));
        }
    }
    let (_, affected) = all(conn, statement(conn.kind(), rows, chunk, shape)?).await?;
    let by = StatementSpec { checked: false, ..shape.clone() };
    let mut returned = shape.returned(model);
    let skipped = affected < chunk.rows.len();
    if skipped {
        let stored = numbers(&select(conn, rows, chunk, &by, &[]).await?);
        if stored.len() < chunk.rows.len() {
            return Ok(stored);
        }
        // A trigger has left some rows as they were, and they say themselves what they are.
        returned = automatic(model).collect();
    }
    if shape.before || !returned.is_empty() {
        let columns = if shape.before { &columns } else { &returned };
        let after = select(conn, rows, chunk, &by, columns).await?;
        for (row, from) in &after {
            for column in &returned {
                let at = columns.iter().position(|c| c == column).unwrap_or_default();
                rows.set(*row, *column, from, 1 + at)?;
            }
            if let Some((_, was)) = before.get(row - chunk.rows.start).filter(|_| shape.before) {
                let before = rows.load(was, 1)?;
                rows.previous_of(*row).set_row(before);
                let changed = every().into_iter().map(|c| rows.differs(c, was, from, 1 + c));
                let changed = changed.collect::<Result<_, _>>()?;
                rows.previous_of(*row).set_changed(changed);
            }
        }
    }
    if shape.checked && !skipped {
        chunk.rows.clone().for_each(|row| rows.advance(row));
    }
    Ok(chunk.rows.clone().collect())
}

/// The columns that a write can change in an instance.
fn automatic(model: &Schema) -> impl Iterator<Item = usize> {
    let columns = model.columns.iter().enumerate();
    columns.filter(|(_, column)| column.role != ColumnRole::Plain).map(|(column, _)| column)
}

/// The first of these rows that is the same row in the database as another one of the chunk.
pub(crate) async fn duplicate_key_in_database(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    of: &[usize],
) -> Result<Option<usize>> {
    if conn.kind() == DatabaseKind::Sqlite {
        // There each stored row is selected once.
        return Ok(None);
    }
    let on: Vec<_> = rows.schema().group(ColumnGroup::Key).collect();
    let shape = StatementSpec::new(StatementKind::Select, chunk.input, Vec::new(), on.clone());
    let stored = select(conn, rows, chunk, &shape, &on).await?;
    let mut seen = HashMap::with_capacity(stored.len());
    for (row, from) in &stored {
        let key = (1..=on.len()).map(|at| from.bytes(at)).collect::<Result<Vec<_>, _>>()?;
        if let Some(other) = seen.insert(key, *row) {
            return Ok([*row, other].into_iter().find(|row| of.binary_search(row).is_ok()));
        }
    }
    Ok(None)
}

/// StatementKind has become of a row that an UPDATE did not write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Gone,
    /// It has another version.
    Stale,
    /// Another transaction had written it meanwhile, and now it is updated.
    Updated,
    /// A trigger leaves it as it is.
    Unchanged,
}

/// Finds out what has become of a row that an UPDATE did not write. It is locked as by the UPDATE, so that nobody writes it
/// in between. That takes a transaction.
pub(crate) fn settle<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s mut dyn Rows,
    row: usize,
    update: &'s Update<'_>,
) -> BoxFuture<'s, Result<Left>> {
    Box::pin(settle_locked(conn, rows, row, update))
}

async fn settle_locked(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    row: usize,
    update: &Update<'_>,
) -> Result<Left> {
    let (model, chunk) = (rows.schema(), Chunk::of_row(row));
    let every = (0..model.columns.len()).collect();
    let lock = StatementSpec::new(StatementKind::Lock, chunk.input, every, update.on.to_vec());
    let (mut found, _) = all(conn, statement(conn.kind(), rows, &chunk, &lock)?).await?;
    let Some(found) = found.pop() else { return Ok(Left::Gone) };
    if update.checked && model.has(ColumnGroup::Version) {
        let same = stored_as(conn, rows, &chunk, true).await?;
        if same.is_empty() {
            return Ok(Left::Stale);
        }
    }
    if !write(conn, rows, &chunk, BulkOp::Update(update)).await?.is_empty() {
        return Ok(Left::Updated);
    }
    for column in automatic(model) {
        rows.set(row, column, &found, 1 + column)?;
    }
    if update.before {
        let before = rows.load(&found, 1)?;
        rows.previous_of(row).set_row(before);
        rows.previous_of(row).set_changed(vec![false; model.columns.len()]);
    }
    Ok(Left::Unchanged)
}

/// Which rows of a chunk are stored, in their order, with these columns as they are, behind the number. No lock is taken.
async fn select(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    like: &StatementSpec,
    columns: &[usize],
) -> Result<Vec<(usize, AnyRow)>> {
    let mut shape =
        StatementSpec::new(StatementKind::Select, chunk.input, columns.to_vec(), like.on.clone());
    shape.checked = like.checked;
    compare_as_columns(conn, rows, chunk, &mut shape).await?;
    let (stored, _) = all(conn, statement(conn.kind(), rows, chunk, &shape)?).await?;
    let numbered = stored.into_iter().map(|from| Ok((numbered(chunk, &from)?, from)));
    let mut stored = numbered.collect::<Result<Vec<_>, sqlx::Error>>()?;
    stored.sort_unstable_by_key(|(row, _)| *row);
    Ok(stored)
}

/// The rows of a chunk as they are stored, each behind its number. No lock is taken.
pub(crate) async fn stored_rows(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
) -> Result<Vec<(usize, AnyRow)>> {
    let model = rows.schema();
    let (on, every) =
        (model.group(ColumnGroup::Key).collect(), (0..model.columns.len()).collect::<Vec<_>>());
    let shape = StatementSpec::new(StatementKind::Select, chunk.input, Vec::new(), on);
    select(conn, rows, chunk, &shape, &every).await
}

fn numbers(rows: &[(usize, AnyRow)]) -> Vec<usize> {
    rows.iter().map(|(row, _)| *row).collect()
}

/// Which rows of a chunk are stored, whatever their versions.
pub(crate) async fn stored(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
) -> Result<Vec<usize>> {
    stored_as(conn, rows, chunk, false).await
}

/// Which rows of a chunk are stored; those with the version of the instance only, if that is `checked`.
pub(crate) async fn stored_as(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    checked: bool,
) -> Result<Vec<usize>> {
    let on = rows.schema().group(ColumnGroup::Key).collect();
    let mut shape = StatementSpec::new(StatementKind::Select, chunk.input, Vec::new(), on);
    shape.checked = checked && rows.schema().has(ColumnGroup::Version);
    Ok(numbers(&select(conn, rows, chunk, &shape, &[]).await?))
}

/// The rows of a chunk that a DELETE did not delete and that are still stored, because a trigger keeps them; and the first
/// of those that have another version there.
pub(crate) async fn kept(
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
        // The first of them in the program's order.
        stale = other.min_by_key(|row| rows.place(*row));
    }
    Ok((kept, stale))
}

/// Whether a row is stored, whatever its version.
pub(crate) fn is_stored<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s dyn Rows,
    row: usize,
) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move { Ok(!stored(conn, rows, &Chunk::of_row(row)).await?.is_empty()) })
}

/// How the rows of a chunk are deleted, and found before; and the columns of them that are asked for.
fn delete_shape(rows: &dyn Rows, chunk: &Chunk, before: bool, checked: bool) -> StatementSpec {
    let model = rows.schema();
    let columns = if before { (0..model.columns.len()).collect() } else { Vec::new() };
    let on = model.group(ColumnGroup::Key).collect();
    let mut shape = StatementSpec::new(StatementKind::Delete, chunk.input, columns, on);
    (shape.before, shape.checked) = (before, checked && model.has(ColumnGroup::Version));
    shape
}

async fn delete_in_postgres(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    shape: StatementSpec,
) -> Result<Vec<usize>> {
    let on_detached = || {
        let chunk = chunk.clone();
        TakeAnswer::boxed(move |rows, answer| {
            let deleted = take_deleted(rows, &chunk, false, &answer)?;
            Ok(WriteOutcome::several(None, slices(rows, deleted.into_iter())))
        })
    };
    let answer = {
        let make = |kind| statement(kind, &*rows, chunk, &shape);
        all_of_write(conn, &make, &on_detached).await?
    };
    take_deleted(rows, chunk, shape.before, &answer)
}

/// The rows that were deleted, and what they were, where that is asked for.
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
    shape: StatementSpec,
) -> Result<Vec<usize>> {
    let counts = inspect::counts_rows(conn, rows).await?;
    if chunk.rows.len() == 1 && !shape.before && !shape.checked && counts {
        let (_, affected) = all(conn, statement(conn.kind(), rows, chunk, &shape)?).await?;
        return Ok(chunk.rows.clone().filter(|_| affected > 0).collect());
    }
    let before = shape.before;
    let mut stored = select(conn, rows, chunk, &shape, &shape.columns).await?;
    if shape.checked
        && stored.len() < chunk.rows.len()
        && self::stored(conn, rows, chunk).await?.len() > stored.len()
    {
        // A version that is not the stored one is an error, and nothing is deleted.
        return Ok(numbers(&stored));
    }
    let delete =
        statement(conn.kind(), rows, chunk, &StatementSpec { columns: Vec::new(), ..shape })?;
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

/// The row of the instances that a row of the database is.
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
