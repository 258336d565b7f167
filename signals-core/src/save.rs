//! The statements that store one row.

use std::sync::Arc;

use crate::backend::{AnyRow, Arguments, DatabaseKind, Statement};
use crate::bulk::{self, Chunk, Update, Work};
use crate::compose::{Given, Shape, What};
use crate::conn::Conn;
use crate::error::{Error, Result};
use crate::instances::Instances;
use crate::read::flag;
use crate::store::Group;

/// How often a save tries anew where another one was faster, before it takes it that nothing is ever stored.
pub(crate) const ATTEMPTS: usize = 16;

/// What a save may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verb {
    /// UPDATE by key, or INSERT.
    Save,
    Insert,
    Update,
    /// UPDATE of these columns.
    Fields(Arc<[usize]>),
    /// UPDATE of the row that has the same in these columns, or INSERT.
    Upsert(Arc<[usize]>),
    /// INSERT, or nothing where a row has the same in these columns.
    GetOrCreate(Arc<[usize]>),
}

/// What has become of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Created,
    Updated,
    /// Another row was there already.
    Not,
}

/// Stores the one row that there is. What the database gives or computes is in the instance when the statement is
/// through.
pub(crate) async fn store(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    verb: &Verb,
    before: bool,
) -> Result<Stored> {
    let model = rows.statements();
    let keyed = rows.has_key(0);
    let keys = || model.group(Group::Key).collect::<Vec<_>>();
    match verb {
        Verb::Insert => insert(conn, rows).await,
        Verb::Save if !keyed => insert(conn, rows).await,
        Verb::Update | Verb::Fields(_) if !keyed => Err(not_found(rows, 0)),
        Verb::Save => save(conn, rows, None, before).await,
        Verb::Upsert(on) => save(conn, rows, Some(&on[..]), before).await,
        Verb::GetOrCreate(on) => {
            let created = insert_or_nothing(conn, rows, Some(&on[..])).await?;
            Ok(if created { Stored::Created } else { Stored::Not })
        }
        Verb::Update | Verb::Fields(_) => {
            let set = if let Verb::Fields(set) = verb { Some(&set[..]) } else { None };
            if update(conn, rows, set, None, before).await? {
                return Ok(Stored::Updated);
            }
            let found = model.has(Group::Version) && exists(conn, rows, &keys()).await?;
            Err(if found { stale(rows, 0) } else { not_found(rows, 0) })
        }
    }
}

async fn insert(conn: &mut Conn<'_>, rows: &mut dyn Instances) -> Result<Stored> {
    let model = rows.statements();
    let keyed = rows.has_key(0);
    let sql = if keyed { model.insert_with_key } else { model.insert };
    let key = model.group(Group::Key).filter(|_| !keyed);
    let binds =
        [Some(Group::Set), keyed.then_some(Group::Key), Some(Group::Version), Some(Group::Added)];
    let statement = fixed(conn, rows, sql, binds.into_iter().flatten())?;
    let stored = run(conn, rows, statement, key.chain(model.group(Group::Computed))).await?;
    if stored { Ok(Stored::Created) } else { Err(Error::NotStored { model: rows.model() }) }
}

/// UPDATE where there is such a row, or INSERT. By key, where no other columns are said.
async fn save(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    on: Option<&[usize]>,
    before: bool,
) -> Result<Stored> {
    let model = rows.statements();
    let checked = on.is_none() && model.has(Group::Version);
    // Where neither the UPDATE nor the INSERT finds its row as it wants it, somebody stored or deleted it in between.
    for _ in 0..ATTEMPTS {
        if conn.kind() == DatabaseKind::Postgres && !before {
            if let Some(stored) = save_at_once(conn, rows, on).await? {
                return Ok(stored);
            }
        } else {
            // An UPDATE by columns of which there is no unique index would update whatever it finds; the INSERT is refused.
            if on.is_some() && insert_or_nothing(conn, rows, on).await? {
                return Ok(Stored::Created);
            }
            if update(conn, rows, None, on, before).await? {
                return Ok(Stored::Updated);
            }
            if on.is_none() && insert_or_nothing(conn, rows, on).await? {
                return Ok(Stored::Created);
            }
        }
        if checked && exists(conn, rows, &model.group(Group::Key).collect::<Vec<_>>()).await? {
            return Err(stale(rows, 0));
        }
    }
    Err(Error::NotStored { model: rows.model() })
}

/// The one statement that does both, on Postgres. None where somebody was faster.
async fn save_at_once(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    on: Option<&[usize]>,
) -> Result<Option<Stored>> {
    let model = rows.statements();
    let Some(on) = on else {
        let statement = fixed(conn, rows, model.save, EVERY)?;
        let Some(row) = conn.run_one(statement).await? else { return Ok(None) };
        let created = flag(&row, 0)?;
        take_row(rows, 0, model.group(Group::Computed).chain(model.group(Group::Added)), &row, 1)?;
        if !created {
            rows.advance(0);
        }
        return Ok(Some(if created { Stored::Created } else { Stored::Updated }));
    };
    let columns = bulk::inserted(rows, rows.has_key(0));
    let shape = Shape::new(What::Save, Given::Values(1), columns, on.to_vec());
    let Some(row) = conn.run_one(composed(conn, rows, &shape)?).await? else { return Ok(None) };
    let created = flag(&row, 0)?;
    take_row(rows, 0, shape.returned(model), &row, 1)?;
    Ok(Some(if created { Stored::Created } else { Stored::Updated }))
}

/// UPDATE of these columns, or of all that can be set, where there is such a row.
async fn update(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    set: Option<&[usize]>,
    on: Option<&[usize]>,
    before: bool,
) -> Result<bool> {
    let model = rows.statements();
    let checked = on.is_none() && model.has(Group::Version);
    if let (None, None, false) = (set, on, before) {
        let groups = [Group::Set, Group::Key, Group::Version];
        let statement = fixed(conn, rows, model.update, groups)?;
        let back = model.group(Group::Computed).chain(model.group(Group::Added));
        let stored = run(conn, rows, statement, back).await?;
        if stored {
            rows.advance(0);
        }
        return Ok(stored);
    }
    let set = set.map_or_else(|| model.group(Group::Set).collect(), <[_]>::to_vec);
    let on = on.map_or_else(|| model.group(Group::Key).collect(), <[_]>::to_vec);
    if before {
        let what = Update { set: &set, on: &on, checked, before };
        let updated =
            Box::pin(bulk::write(conn, rows, &Chunk::of_row(0), Work::Update(&what))).await?;
        return Ok(!updated.is_empty());
    }
    let mut shape = Shape::new(What::UpdateOne, Given::Values(1), set, on);
    shape.checked = checked;
    let statement = composed(conn, rows, &shape)?;
    let stored = run(conn, rows, statement, shape.returned(model)).await?;
    if stored && checked {
        rows.advance(0);
    }
    Ok(stored)
}

async fn insert_or_nothing(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    on: Option<&[usize]>,
) -> Result<bool> {
    let model = rows.statements();
    let Some(on) = on else {
        let statement = fixed(conn, rows, model.insert_or_nothing, EVERY)?;
        return run(conn, rows, statement, model.group(Group::Computed)).await;
    };
    let columns = bulk::inserted(rows, rows.has_key(0));
    let shape = Shape::new(What::InsertOrNothing, Given::Values(1), columns, on.to_vec());
    let statement = composed(conn, rows, &shape)?;
    run(conn, rows, statement, shape.returned(model)).await
}

/// Whether there is a row that has the same in these columns.
async fn exists(conn: &mut Conn<'_>, rows: &mut dyn Instances, on: &[usize]) -> Result<bool> {
    let shape = Shape::new(What::Select, Given::Values(1), Vec::new(), on.to_vec());
    let statement = composed(conn, rows, &shape)?;
    Ok(conn.run_one(statement).await?.is_some())
}

/// The row that has the same in these columns as the one that there is.
pub(crate) async fn find_like(
    conn: &mut Conn<'_>,
    rows: &dyn Instances,
    on: &[usize],
) -> Result<Option<AnyRow>> {
    let shape = Shape::new(What::Find, Given::Values(1), Vec::new(), on.to_vec());
    conn.run_one(composed(conn, rows, &shape)?).await
}

const EVERY: [Group; 4] = [Group::Set, Group::Key, Group::Version, Group::Added];

/// A statement that is always the same, with these columns as its arguments.
fn fixed(
    conn: &Conn<'_>,
    rows: &dyn Instances,
    sql: &'static str,
    groups: impl IntoIterator<Item = Group>,
) -> Result<Statement, sqlx::Error> {
    let mut args = Arguments::new(conn.kind());
    for group in groups {
        for column in rows.statements().group(group) {
            rows.bind(0, column, &mut args).map_err(sqlx::Error::Encode)?;
        }
    }
    Ok(Statement::fixed(sql, args))
}

fn composed(
    conn: &Conn<'_>,
    rows: &dyn Instances,
    shape: &Shape,
) -> Result<Statement, sqlx::Error> {
    let mut args = Arguments::new(conn.kind());
    for column in shape.binds(rows.statements()) {
        rows.bind(0, column, &mut args).map_err(sqlx::Error::Encode)?;
    }
    let sql = rows.table().shapes().sql(shape, rows.statements(), conn.kind());
    Ok(Statement { sql, args, persistent: true })
}

/// Runs a statement of one row, takes what it returns, and says whether it stored anything.
async fn run(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    statement: Statement,
    returned: impl IntoIterator<Item = usize>,
) -> Result<bool> {
    let mut returned = returned.into_iter().peekable();
    if returned.peek().is_none() {
        return Ok(conn.run(statement, &mut |_| ()).await? > 0);
    }
    let Some(row) = conn.run_one(statement).await? else { return Ok(false) };
    take_row(rows, 0, returned, &row, 0)?;
    Ok(true)
}

/// Takes columns that stand one after the other in a row of the database.
pub(crate) fn take_row(
    rows: &mut dyn Instances,
    row: usize,
    columns: impl IntoIterator<Item = usize>,
    from: &AnyRow,
    at: usize,
) -> Result<(), sqlx::Error> {
    let mut columns = columns.into_iter().enumerate();
    columns.try_for_each(|(i, column)| rows.set(row, column, from, at + i))
}

pub(crate) fn not_found(rows: &dyn Instances, row: usize) -> Error {
    Error::NotFound { model: rows.model(), key: rows.key(row) }
}

pub(crate) fn stale(rows: &dyn Instances, row: usize) -> Error {
    let version = rows.version(row).unwrap_or_default();
    Error::Stale { model: rows.model(), key: rows.key(row), version }
}
