//! UPDATE of several rows, and what is done about the rows that it has not written.

use futures_util::future::BoxFuture;

use crate::database::backend::{AnyRow, DatabaseKind};
use crate::database::conn::Conn;
use crate::database::writer::Verb;
use crate::error::Result;
use crate::table::chunk::{Chunk, chunks};
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, ColumnRole, Schema};
use crate::table::statement_spec::{RowInput, StatementKind, StatementSpec};
use crate::write::bulk::{BulkOp, all, compare_as_columns, keep_previous, statement, write};
use crate::write::lookup::{numbered, numbers, select, stored_as};
use crate::write::row_locks::can_lock;
use crate::write::single_text::take_row;

/// Which columns an UPDATE sets, and how it finds the rows.
pub(crate) struct Update<'u> {
    pub(crate) set: &'u [usize],
    pub(crate) on: &'u [usize],
    /// Whether the stored version must be the version of the instance.
    pub(crate) checked: bool,
    /// Whether the UPDATE also returns the previous state of the rows.
    pub(crate) before: bool,
    /// Whether the rows are locked already.
    pub(crate) locked: bool,
}

impl Update<'_> {
    pub(super) fn spec(&self, rows: &dyn Rows, given: RowInput) -> StatementSpec {
        let mut spec =
            StatementSpec::new(StatementKind::Update, given, self.set.to_vec(), self.on.to_vec());
        spec.checked = self.checked && rows.schema().has(ColumnGroup::Version);
        (spec.before, spec.locked) = (self.before, self.locked);
        spec
    }

    pub(crate) fn chunks(&self, kind: DatabaseKind, rows: &dyn Rows) -> Vec<Chunk> {
        let binds = self.spec(rows, RowInput::Arrays).binds(rows.schema());
        chunks(kind, rows, 0..rows.len(), &binds)
    }
}

pub(super) async fn update_in_postgres(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    spec: StatementSpec,
) -> Result<Vec<usize>> {
    let model = rows.schema();
    let returned = spec.returned(model);
    let (updated, _) = all(conn, statement(conn.kind(), rows, chunk, &spec)?).await?;
    let mut stored = Vec::with_capacity(updated.len());
    for from in &updated {
        let row = numbered(chunk, from)?;
        stored.push(row);
        take_row(rows, row, returned.iter().copied(), from, 1)?;
        if spec.before {
            let (at, columns) = (1 + returned.len(), model.columns.len());
            keep_previous(rows, row, from, at)?;
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
pub(super) async fn update_in_sqlite(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    spec: StatementSpec,
) -> Result<Vec<usize>> {
    let model = rows.schema();
    let every = || (0..model.columns.len()).collect::<Vec<_>>();
    let columns = if spec.before { every() } else { Vec::new() };
    let mut before = Vec::new();
    if spec.before || spec.checked {
        before = select(conn, rows, chunk, &spec, &columns).await?;
        if before.len() < chunk.rows.len() {
            return Ok(numbers(&before));
        }
    }
    let (_, affected) = all(conn, statement(conn.kind(), rows, chunk, &spec)?).await?;
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
                keep_previous(rows, *row, was, 1)?;
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

/// Determines why an UPDATE has not written a row. If `writes` is true, the UPDATE is executed, which requires a transaction: the row is
/// locked with the same lock as by the UPDATE, so that no other transaction writes it in between, unless it is a row of a view that cannot
/// be locked. If it is false, a trigger has skipped the row, and must not run again.
pub(crate) fn settle<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s mut dyn Rows,
    row: usize,
    update: &'s Update<'_>,
    writes: bool,
) -> BoxFuture<'s, Result<Unwritten>> {
    Box::pin(settle_locked(conn, rows, row, update, writes))
}

/// Locks the stored rows of a chunk as an UPDATE does, if they can be locked. If `checked`, only rows with the version of the instance: an
/// UPDATE does not wait for the others. Returns them with these columns, after the number of the row.
pub(crate) async fn lock(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: &Chunk,
    (on, checked): (&[usize], bool),
    columns: Vec<usize>,
) -> Result<Vec<AnyRow>> {
    let kind = match can_lock(conn, rows, Verb::Save).await? {
        true => StatementKind::Lock,
        false => StatementKind::Select,
    };
    let mut spec = StatementSpec::new(kind, chunk.input, columns, on.to_vec());
    spec.checked = checked && rows.schema().has(ColumnGroup::Version);
    compare_as_columns(conn, rows, chunk, &mut spec).await?;
    Ok(all(conn, statement(conn.kind(), rows, chunk, &spec)?).await?.0)
}

async fn settle_locked(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    row: usize,
    update: &Update<'_>,
    writes: bool,
) -> Result<Unwritten> {
    let (model, chunk) = (rows.schema(), Chunk::of_row(row));
    let every = (0..model.columns.len()).collect();
    let Some(found) = lock(conn, rows, &chunk, (update.on, false), every).await?.pop() else {
        return Ok(Unwritten::Gone);
    };
    if update.checked && model.has(ColumnGroup::Version) {
        let same = stored_as(conn, rows, &chunk, true).await?;
        if same.is_empty() {
            return Ok(Unwritten::Stale);
        }
    }
    let update = Update { locked: true, ..*update };
    if writes && !write(conn, rows, &chunk, BulkOp::Update(&update)).await?.is_empty() {
        return Ok(Unwritten::Updated);
    }
    for column in automatic(model) {
        rows.set(row, column, &found, 1 + column)?;
    }
    if update.before {
        keep_previous(rows, row, &found, 1)?;
        rows.previous_of(row).set_changed(vec![false; model.columns.len()]);
    }
    Ok(Unwritten::Unchanged)
}
