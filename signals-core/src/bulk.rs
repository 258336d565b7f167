//! Statements for several rows at once, in as few as the database allows.

use std::ops::Range;

use crate::backend::{AnyRow, Arguments, DatabaseKind, Statement};
use crate::compose::{Given, Shape, What};
use crate::conn::Conn;
use crate::error::{Error, Result};
use crate::instances::Instances;
use crate::model::Model;
use crate::read::{flag, scalar};
use crate::save::take_row;
use crate::store::Group;

/// How many arguments a statement can have: SQLite's
/// [limit](https://www.sqlite.org/limits.html#max_variable_number), and that of Postgres' protocol.
const SQLITE_ARGUMENTS: usize = 32_766;
const POSTGRES_ARGUMENTS: usize = 65_535;

/// How many rows go into one statement. More are no faster, and their arguments take memory.
const ROWS: usize = 4096;

/// A part of the rows that one statement is about, and how they come into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) rows: Range<usize>,
    given: Given,
    /// Whether there are more of the same size, so that the statement is worth to be kept.
    full: bool,
}

impl Chunk {
    /// Of one row, the first.
    pub(crate) fn one() -> Self {
        Self { rows: 0..1, given: Given::Values(1), full: true }
    }
}

/// Divides rows into chunks of which each is one statement with these arguments a row.
fn chunks(
    kind: DatabaseKind,
    rows: &dyn Instances,
    range: Range<usize>,
    binds: &[usize],
) -> Vec<Chunk> {
    let mut args = Arguments::new(kind);
    let arrays = kind == DatabaseKind::Postgres
        && !range.is_empty()
        && binds.iter().all(|column| rows.fits_array(range.start, *column, &mut args));
    let most = match kind {
        _ if arrays => ROWS,
        DatabaseKind::Sqlite => SQLITE_ARGUMENTS / binds.len().max(1),
        DatabaseKind::Postgres => POSTGRES_ARGUMENTS / binds.len().max(1),
    };
    let most = most.clamp(1, ROWS);
    let starts = range.clone().step_by(most);
    let chunk = |start: usize| {
        let rows = start..range.end.min(start + most);
        let full = rows.len() == most || rows.len() == 1;
        let given = if arrays { Given::Arrays } else { Given::Values(rows.len()) };
        Chunk { rows, given, full: full || arrays }
    };
    starts.map(chunk).collect()
}

/// The columns that an INSERT writes; the key, where the row has one.
pub(crate) fn inserted(rows: &dyn Instances, keyed: bool) -> Vec<usize> {
    let model = rows.statements();
    let keys = model.group(Group::Key).filter(|_| keyed);
    let (version, added) = (model.group(Group::Version), model.group(Group::Added));
    model.group(Group::Set).chain(keys).chain(version).chain(added).collect()
}

/// The chunks of an INSERT of all rows: those with a key and those without are apart.
pub(crate) fn inserts(kind: DatabaseKind, rows: &dyn Instances) -> Vec<Chunk> {
    let mut all = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let keyed = rows.has_key(start);
        let same = (start..rows.len()).take_while(|row| rows.has_key(*row) == keyed).count();
        let columns = inserted(rows, keyed);
        if columns.is_empty() {
            // Nothing but a key that the database gives: such rows go one by one.
            let one = |row| Chunk { rows: row..row + 1, given: Given::Values(1), full: true };
            all.extend((start..start + same).map(one));
        } else {
            all.extend(chunks(kind, rows, start..start + same, &columns));
        }
        start += same;
    }
    all
}

/// The chunks of a DELETE of all rows that have a key.
pub(crate) fn deletes(kind: DatabaseKind, rows: &dyn Instances) -> Vec<Chunk> {
    let model = rows.statements();
    let binds: Vec<_> = model.group(Group::Key).chain(model.group(Group::Version)).collect();
    let mut all = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let keyed = (start..rows.len()).take_while(|row| rows.has_key(*row)).count();
        all.extend(chunks(kind, rows, start..start + keyed, &binds));
        start += keyed.max(1);
    }
    all
}

/// Whether an INSERT of these rows is one statement, on either database.
pub(crate) fn is_one_insert<M: Model>(rows: &[M]) -> bool {
    let columns = M::STATEMENTS.columns.len();
    let keyed = rows.iter().filter(|row| row.pk().is_some()).count();
    rows.len() <= ROWS.min(SQLITE_ARGUMENTS / columns.max(1))
        && (keyed == 0 || keyed == rows.len())
        && (columns > 1 || rows.len() == 1)
}

/// Whose values are the arguments: the rows as they are now, or as they were.
#[derive(Clone, Copy)]
enum Values {
    Now,
    Before,
}

fn statement(
    kind: DatabaseKind,
    rows: &dyn Instances,
    chunk: &Chunk,
    shape: &Shape,
    values: Values,
) -> Result<Statement, sqlx::Error> {
    let model = rows.statements();
    let mut args = Arguments::new(kind);
    let binds = shape.binds(model);
    let bound = match chunk.given {
        Given::Arrays => binds
            .iter()
            .try_for_each(|column| rows.bind_each(chunk.rows.clone(), *column, &mut args)),
        Given::Values(_) => chunk.rows.clone().try_for_each(|row| {
            binds.iter().try_for_each(|column| match values {
                Values::Now => rows.bind(row, *column, &mut args),
                Values::Before => rows.bind_before(row, *column, &mut args),
            })
        }),
    };
    bound.map_err(sqlx::Error::Encode)?;
    Ok(if chunk.full {
        Statement { sql: rows.shapes().sql(shape, model, kind), args, persistent: true }
    } else {
        Statement::once(shape.sql(model, kind), args)
    })
}

/// Runs a statement, and gives each of its rows to `take`, up to the first error of it.
async fn each(
    conn: &mut Conn<'_>,
    statement: Statement,
    take: &mut (dyn FnMut(&AnyRow) -> Result<(), sqlx::Error> + Send),
) -> Result<u64> {
    let mut done = Ok(());
    let affected = conn
        .run(statement, &mut |row| {
            if done.is_ok() {
                done = take(&row);
            }
        })
        .await?;
    done?;
    Ok(affected)
}

/// Inserts the rows of a chunk. Their keys come back in the order in which they were given: an INSERT inserts in the order of
/// its rows, and returns each as it is inserted.
pub(crate) async fn insert(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    chunk: &Chunk,
) -> Result<()> {
    let (model, kind) = (rows.statements(), conn.kind());
    let columns = inserted(rows, rows.has_key(chunk.rows.start));
    let shape = Shape::new(What::Insert, chunk.given, columns, Vec::new());
    let returned = shape.returned(model);
    let statement = if shape.columns.is_empty() {
        Statement::fixed(model.insert, Arguments::new(kind))
    } else {
        statement(kind, rows, chunk, &shape, Values::Now)?
    };
    let mut next = chunk.rows.clone();
    let affected = each(conn, statement, &mut |from| match next.next() {
        Some(row) => take_row(rows, row, returned.iter().copied(), from, 0),
        None => Ok(()),
    })
    .await?;
    let stored =
        if returned.is_empty() { affected as usize } else { chunk.rows.len() - next.len() };
    if stored == chunk.rows.len() {
        return Ok(());
    }
    Err(Error::NotStored { model: rows.model() })
}

/// What an UPDATE is to do.
pub(crate) struct Update<'u> {
    pub(crate) set: &'u [usize],
    pub(crate) on: &'u [usize],
    /// Whether the rows as they were are asked for.
    pub(crate) before: bool,
}

impl Update<'_> {
    /// Whether the version must be the instance's: it is, where the row is found by its key.
    fn shape(&self, rows: &dyn Instances, given: Given) -> Shape {
        let mut shape = Shape::new(What::Update, given, self.set.to_vec(), self.on.to_vec());
        shape.checked = shape.by_key(rows.statements()) && rows.statements().has(Group::Version);
        shape.before = self.before;
        shape
    }

    pub(crate) fn chunks(&self, kind: DatabaseKind, rows: &dyn Instances) -> Vec<Chunk> {
        let binds = self.shape(rows, Given::Arrays).binds(rows.statements());
        // On SQLite what the rows were is given too.
        let columns = (0..rows.statements().columns.len()).collect::<Vec<_>>();
        let widest = if self.before && kind == DatabaseKind::Sqlite { &columns } else { &binds };
        chunks(kind, rows, 0..rows.len(), widest)
    }
}

/// Updates the rows of a chunk, and returns which of them are stored.
pub(crate) async fn update(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    chunk: &Chunk,
    update: &Update<'_>,
) -> Result<Vec<usize>> {
    let shape = update.shape(rows, chunk.given);
    match conn.kind() {
        DatabaseKind::Postgres => update_in_postgres(conn, rows, chunk, &shape).await,
        DatabaseKind::Sqlite => update_in_sqlite(conn, rows, chunk, &shape).await,
    }
}

async fn update_in_postgres(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    chunk: &Chunk,
    shape: &Shape,
) -> Result<Vec<usize>> {
    let model = rows.statements();
    let returned = shape.returned(model);
    let statement = statement(conn.kind(), rows, chunk, shape, Values::Now)?;
    let mut stored = Vec::with_capacity(chunk.rows.len());
    each(conn, statement, &mut |from| {
        let row = numbered(chunk, from)?;
        stored.push(row);
        take_row(rows, row, returned.iter().copied(), from, 1)?;
        if shape.before {
            let at = 1 + returned.len();
            rows.set_before(row, from, at)?;
            take_changed(rows, row, from, at + model.columns.len())?;
        }
        if shape.checked {
            rows.advance(row);
        }
        Ok(())
    })
    .await?;
    Ok(stored)
}

/// SQLite has neither a row's number nor what it was in its `RETURNING`, and is asked for them in statements of their own;
/// in a transaction nobody comes between.
async fn update_in_sqlite(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    chunk: &Chunk,
    shape: &Shape,
) -> Result<Vec<usize>> {
    let (model, kind) = (rows.statements(), conn.kind());
    let known = if shape.before || shape.checked {
        Some(select(conn, rows, chunk, shape).await?)
    } else {
        None
    };
    let affected =
        each(conn, statement(kind, rows, chunk, shape, Values::Now)?, &mut |_| Ok(())).await?;
    let stored = match known {
        Some(stored) => stored,
        None if affected as usize == chunk.rows.len() => chunk.rows.clone().collect(),
        None => return select(conn, rows, chunk, shape).await,
    };
    if shape.checked {
        stored.iter().for_each(|row| rows.advance(*row));
    }
    let returned = shape.returned(model);
    if stored.len() < chunk.rows.len() || !(shape.before || !returned.is_empty()) {
        return Ok(stored);
    }
    let columns = if shape.before { (0..model.columns.len()).collect() } else { Vec::new() };
    let compare = Shape::new(What::Compare, chunk.given, columns, shape.on.clone());
    let values = if shape.before { Values::Before } else { Values::Now };
    let compared = statement(kind, rows, chunk, &compare, values)?;
    each(conn, compared, &mut |from| {
        let row = numbered(chunk, from)?;
        take_row(rows, row, returned.iter().copied(), from, 1)?;
        if shape.before { take_changed(rows, row, from, 1 + returned.len()) } else { Ok(()) }
    })
    .await?;
    Ok(stored)
}

/// Which rows of a chunk are stored, locked where the database locks rows; as they are, where that is asked for.
async fn select(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    chunk: &Chunk,
    like: &Shape,
) -> Result<Vec<usize>> {
    let select = Shape { what: What::Select, columns: Vec::new(), ..like.clone() };
    let statement = statement(conn.kind(), rows, chunk, &select, Values::Now)?;
    let mut stored = Vec::with_capacity(chunk.rows.len());
    each(conn, statement, &mut |from| {
        let row = numbered(chunk, from)?;
        stored.push(row);
        if select.before { rows.set_before(row, from, 1) } else { Ok(()) }
    })
    .await?;
    stored.sort_unstable();
    Ok(stored)
}

/// Whether a row is stored, whatever its version.
pub(crate) async fn is_stored(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    row: usize,
) -> Result<bool> {
    let on = rows.statements().group(Group::Key).collect();
    let chunk = Chunk { rows: row..row + 1, ..Chunk::one() };
    let shape = Shape::new(What::Select, chunk.given, Vec::new(), on);
    Ok(!select(conn, rows, &chunk, &shape).await?.is_empty())
}

/// Deletes the rows of a chunk, and returns which of them were stored.
pub(crate) async fn delete(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    chunk: &Chunk,
    before: bool,
) -> Result<Vec<usize>> {
    let model = rows.statements();
    let mut shape =
        Shape::new(What::Delete, chunk.given, Vec::new(), model.group(Group::Key).collect());
    shape.checked = model.has(Group::Version);
    shape.before = before;
    if conn.kind() == DatabaseKind::Sqlite {
        let stored = select(conn, rows, chunk, &shape).await?;
        shape.before = false;
        if stored.len() == chunk.rows.len() || !shape.checked {
            let delete = statement(conn.kind(), rows, chunk, &shape, Values::Now)?;
            each(conn, delete, &mut |_| Ok(())).await?;
        }
        return Ok(stored);
    }
    let delete = statement(conn.kind(), rows, chunk, &shape, Values::Now)?;
    let mut stored = Vec::with_capacity(chunk.rows.len());
    each(conn, delete, &mut |from| {
        let row = numbered(chunk, from)?;
        stored.push(row);
        if before { rows.set_before(row, from, 1) } else { Ok(()) }
    })
    .await?;
    stored.sort_unstable();
    Ok(stored)
}

/// The row of the instances that a row of the database is.
fn numbered(chunk: &Chunk, from: &AnyRow) -> Result<usize, sqlx::Error> {
    let number = usize::try_from(scalar(from)?).unwrap_or(usize::MAX);
    let row = chunk.rows.start.saturating_add(number.saturating_sub(1));
    if chunk.rows.contains(&row) {
        return Ok(row);
    }
    Err(sqlx::Error::Protocol(format!(
        "there is no row {number} in a statement of {:?}",
        chunk.rows
    )))
}

fn take_changed(
    rows: &mut dyn Instances,
    row: usize,
    from: &AnyRow,
    at: usize,
) -> Result<(), sqlx::Error> {
    let columns = rows.statements().columns.len();
    let changed = (at..at + columns).map(|at| flag(from, at)).collect::<Result<_, _>>()?;
    rows.set_changed(row, changed);
    Ok(())
}
