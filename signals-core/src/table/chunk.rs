//! How many rows go into one statement, and which.

use std::ops::Range;

use crate::database::backend::DatabaseKind;
use crate::table::compose::RowInput;
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;

/// How many arguments a statement can have: SQLite's
/// [limit](https://www.sqlite.org/limits.html#max_variable_number), and that of Postgres' protocol.
const SQLITE_ARGUMENTS: usize = 32_766;
const POSTGRES_ARGUMENTS: usize = 65_535;

/// How many rows go into one statement, as arrays and as rows of values. More are no faster, and take memory; a long list of
/// values takes the server, or SQLite, long to read.
pub(crate) const ROWS_OF_ARRAYS: usize = 16_384;
const ROWS_OF_VALUES: usize = 1000;

/// A part of the rows that one statement is about, and how they come into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) rows: Range<usize>,
    pub(crate) input: RowInput,
    /// Whether there are more of the same size, so that the statement is worth to be kept.
    pub(crate) full: bool,
}

impl Chunk {
    pub(crate) fn of_row(row: usize) -> Self {
        Self { rows: row..row + 1, input: RowInput::Values(1), full: true }
    }

    /// Of some of its rows.
    pub(crate) fn part(&self, rows: Range<usize>) -> Self {
        match self.input {
            _ if rows.len() == 1 => Self::of_row(rows.start),
            RowInput::Arrays => Self { rows, ..self.clone() },
            RowInput::Values(_) => Self { input: RowInput::Values(rows.len()), rows, full: false },
        }
    }
}

/// Divides rows into chunks of which each is one statement with these arguments a row.
pub(crate) fn chunks(
    kind: DatabaseKind,
    rows: &dyn Rows,
    range: Range<usize>,
    binds: &[usize],
) -> Vec<Chunk> {
    let arrays = kind == DatabaseKind::Postgres
        && !range.is_empty()
        && binds.iter().all(|column| rows.fits_array(range.start, *column, kind));
    let arguments = match kind {
        DatabaseKind::Sqlite => SQLITE_ARGUMENTS,
        DatabaseKind::Postgres => POSTGRES_ARGUMENTS,
    };
    let most = match arrays {
        true => ROWS_OF_ARRAYS,
        false => (arguments / binds.len().max(1)).clamp(1, ROWS_OF_VALUES),
    };
    let starts = range.clone().step_by(most);
    let chunk = |start: usize| {
        let rows = start..range.end.min(start + most);
        let full = rows.len() == most || rows.len() == 1;
        let input = if arrays { RowInput::Arrays } else { RowInput::Values(rows.len()) };
        Chunk { rows, input, full: full || arrays }
    };
    starts.map(chunk).collect()
}

/// The columns that an INSERT writes; the key, where the row has one.
pub(crate) fn inserted(rows: &dyn Rows, keyed: bool) -> Vec<usize> {
    let model = rows.schema();
    let keys = model.group(ColumnGroup::Key).filter(|_| keyed);
    let (version, added) = (model.group(ColumnGroup::Version), model.group(ColumnGroup::Added));
    model.group(ColumnGroup::Set).chain(keys).chain(version).chain(added).collect()
}

/// The rows of a statement, as slices of those that the program gave.
pub(crate) fn slices(rows: &dyn Rows, statement: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut places: Vec<_> = statement.map(|row| rows.slice_index(row)).collect();
    places.sort_unstable();
    runs(places.into_iter())
}

/// The rows that statements have written, as slices of those that the program gave: as many rows together as a statement has,
/// but side by side in the slice, in whatever order they were written.
pub(crate) fn batches(
    rows: &dyn Rows,
    chunks: &[Chunk],
    written: impl Iterator<Item = usize>,
) -> Vec<Range<usize>> {
    let mut places: Vec<_> = written.map(|row| rows.slice_index(row)).collect();
    places.sort_unstable();
    let mut batches = Vec::with_capacity(chunks.len());
    let mut rest = &places[..];
    for (number, chunk) in chunks.iter().enumerate() {
        let last = number + 1 == chunks.len();
        let count = rest.partition_point(|place| last || *place < chunk.rows.end);
        let (batch, others) = rest.split_at(count);
        batches.extend(runs(batch.iter().copied()));
        rest = others;
    }
    batches
}

/// Numbers as ranges, one of those that follow each other.
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

/// The chunks of an INSERT of all rows: those with a key and those without are apart.
pub(crate) fn inserts(kind: DatabaseKind, rows: &dyn Rows) -> Vec<Chunk> {
    let mut all = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let keyed = rows.has_key(start);
        let same = (start..rows.len()).take_while(|row| rows.has_key(*row) == keyed).count();
        let columns = inserted(rows, keyed);
        if columns.is_empty() {
            // Nothing but a key that the database gives: such rows go one by one.
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
