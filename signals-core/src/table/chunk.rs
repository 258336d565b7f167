//! Divides the rows of a bulk write into chunks, one per statement.

use std::ops::Range;

use crate::database::backend::DatabaseKind;
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::table::statement_spec::RowInput;

/// The maximum number of arguments of a statement in SQLite, see its
/// [limits](https://www.sqlite.org/limits.html#max_variable_number).
pub(crate) const SQLITE_ARGUMENTS: usize = 32_766;
/// The maximum number of arguments of a statement in the PostgreSQL protocol.
const POSTGRES_ARGUMENTS: usize = 65_535;

/// The maximum number of rows in a statement with arrays. More rows are no faster and need more memory.
pub(crate) const ROWS_OF_ARRAYS: usize = 16_384;
/// The maximum number of rows in a statement with rows of values. Parsing a longer list takes long.
const ROWS_OF_VALUES: usize = 1000;

/// The rows of one statement, and how they are passed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) rows: Range<usize>,
    pub(crate) input: RowInput,
    /// Whether other chunks probably have the same size, so that the statement should stay prepared.
    pub(crate) full: bool,
}

impl Chunk {
    pub(crate) fn of_row(row: usize) -> Self {
        Self { rows: row..row + 1, input: RowInput::Values(1), full: true }
    }

    /// A chunk of some of these rows.
    pub(crate) fn part(&self, rows: Range<usize>) -> Self {
        match self.input {
            _ if rows.len() == 1 => Self::of_row(rows.start),
            RowInput::Arrays => Self { rows, ..self.clone() },
            RowInput::Values(_) => Self { input: RowInput::Values(rows.len()), rows, full: false },
        }
    }
}

/// Divides rows into chunks. `binds` are the columns whose values are arguments.
pub(crate) fn chunks(
    kind: DatabaseKind,
    rows: &dyn Rows,
    range: Range<usize>,
    binds: &[usize],
) -> Vec<Chunk> {
    let arrays = kind == DatabaseKind::Postgres
        && !range.is_empty()
        && binds.iter().all(|column| rows.fits_array(range.start, *column, kind));
    let most = if arrays { ROWS_OF_ARRAYS } else { rows_of_values(kind, binds.len()) };
    let starts = range.clone().step_by(most);
    let chunk = |start: usize| {
        let rows = start..range.end.min(start + most);
        let full = rows.len() == most || rows.len() == 1;
        let input = if arrays { RowInput::Arrays } else { RowInput::Values(rows.len()) };
        Chunk { rows, input, full: full || arrays }
    };
    starts.map(chunk).collect()
}

/// The maximum number of rows in a statement with rows of this number of values.
pub(crate) fn rows_of_values(kind: DatabaseKind, values: usize) -> usize {
    let arguments = match kind {
        DatabaseKind::Sqlite => SQLITE_ARGUMENTS,
        DatabaseKind::Postgres => POSTGRES_ARGUMENTS,
    };
    (arguments / values.max(1)).clamp(1, ROWS_OF_VALUES)
}

/// The columns that an INSERT writes, with the key if the row has one.
pub(crate) fn inserted(rows: &dyn Rows, keyed: bool) -> Vec<usize> {
    let model = rows.schema();
    let keys = model.group(ColumnGroup::Key).filter(|_| keyed);
    let (version, added) = (model.group(ColumnGroup::Version), model.group(ColumnGroup::Added));
    model.group(ColumnGroup::Set).chain(keys).chain(version).chain(added).collect()
}

/// The rows of a statement as ranges of the caller's slice.
pub(crate) fn slices(rows: &dyn Rows, statement: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut indexes: Vec<_> = statement.map(|row| rows.slice_index(row)).collect();
    indexes.sort_unstable();
    runs(indexes.into_iter())
}

/// The written rows as ranges of the caller's slice, for the batch signals.
///
/// The statements may write the rows in another order than that of the slice, but the rows of a batch must be adjacent in the
/// slice. A batch is therefore not the rows of one statement: the slice is divided at the ends of the chunks, and each part is
/// a batch, or several if some of its rows were not written.
pub(crate) fn batches(
    rows: &dyn Rows,
    chunks: &[Chunk],
    written: impl Iterator<Item = usize>,
) -> Vec<Range<usize>> {
    let mut indexes: Vec<_> = written.map(|row| rows.slice_index(row)).collect();
    indexes.sort_unstable();
    let mut batches = Vec::with_capacity(chunks.len());
    let mut rest = &indexes[..];
    for (number, chunk) in chunks.iter().enumerate() {
        let last = number + 1 == chunks.len();
        let count = rest.partition_point(|index| last || *index < chunk.rows.end);
        let (batch, others) = rest.split_at(count);
        batches.extend(runs(batch.iter().copied()));
        rest = others;
    }
    batches
}

/// Joins consecutive numbers into ranges.
pub(crate) fn runs(numbers: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

/// The chunks of an INSERT of all rows. Rows with a key and rows without one are in separate chunks.
pub(crate) fn inserts(kind: DatabaseKind, rows: &dyn Rows) -> Vec<Chunk> {
    let mut all = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let keyed = rows.has_key(start);
        let same = (start..rows.len()).take_while(|row| rows.has_key(*row) == keyed).count();
        let columns = inserted(rows, keyed);
        if columns.is_empty() {
            // The database assigns the only column, so an INSERT has no columns and can insert only one row.
            all.extend((start..start + same).map(Chunk::of_row));
        } else {
            all.extend(chunks(kind, rows, start..start + same, &columns));
        }
        start += same;
    }
    all
}

/// The chunks of a DELETE of all rows that have a key.
pub(crate) fn deletes(kind: DatabaseKind, rows: &dyn Rows) -> Vec<Chunk> {
    let model = rows.schema();
    let binds: Vec<_> =
        model.group(ColumnGroup::Key).chain(model.group(ColumnGroup::Version)).collect();
    let mut all = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let keyed = (start..rows.len()).take_while(|row| rows.has_key(*row)).count();
        all.extend(chunks(kind, rows, start..start + keyed, &binds));
        start += keyed.max(1);
    }
    all
}
