//! The statements that store one row.

use std::sync::Arc;

use crate::backend::{AnyRow, Arguments, DatabaseKind, Statement};
use crate::bulk::{self, Chunk, Update, Work};
use crate::compose::{Given, Shape, What};
use crate::conn::Conn;
use crate::error::{Error, Result};
use crate::instances::Instances;
use crate::read::flag;
use crate::store::{Group, Role, Statements};

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
    let text = match rows.has_key(0) {
        true => Text::Fixed(model.insert_with_key, &EVERY, &[Group::Computed]),
        false => Text::Fixed(
            model.insert,
            &[Group::Set, Group::Version, Group::Added],
            &[Group::Key, Group::Computed],
        ),
    };
    let stored = run(conn, rows, text).await?;
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
    // A row that has a key of the database's giving is there, as a rule, and a plain UPDATE is all that it takes.
    let expected = on.is_none() && model.columns.iter().any(|c| c.role == Role::GeneratedKey);
    let at_once = conn.kind() == DatabaseKind::Postgres && !before && !expected;
    // Where neither the UPDATE nor the INSERT finds its row as it wants it, somebody stored or deleted it in between.
    for _ in 0..ATTEMPTS {
        if at_once {
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
        let text = Text::Fixed(model.save, &EVERY, &[Group::Computed, Group::Added]);
        let Some(row) = one(conn, rows, text).await? else { return Ok(None) };
        let created = flag(&row, 0)?;
        text.take(rows, &row, 1)?;
        if !created {
            rows.advance(0);
        }
        return Ok(Some(if created { Stored::Created } else { Stored::Updated }));
    };
    let columns = bulk::inserted(rows, rows.has_key(0));
    let shape = Shape::new(What::Save, Given::Values(1), columns, on.to_vec());
    let text = Text::Composed(&shape);
    let Some(row) = one(conn, rows, text).await? else { return Ok(None) };
    let created = flag(&row, 0)?;
    text.take(rows, &row, 1)?;
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
        let groups = &[Group::Set, Group::Key, Group::Version];
        let text = Text::Fixed(model.update, groups, &[Group::Computed, Group::Added]);
        let stored = run(conn, rows, text).await?;
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
    let stored = run(conn, rows, Text::Composed(&shape)).await?;
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
        let text = Text::Fixed(model.insert_or_nothing, &EVERY, &[Group::Computed]);
        return run(conn, rows, text).await;
    };
    let columns = bulk::inserted(rows, rows.has_key(0));
    let shape = Shape::new(What::InsertOrNothing, Given::Values(1), columns, on.to_vec());
    run(conn, rows, Text::Composed(&shape)).await
}

/// Whether there is a row that has the same in these columns.
async fn exists(conn: &mut Conn<'_>, rows: &mut dyn Instances, on: &[usize]) -> Result<bool> {
    let shape = Shape::new(What::Select, Given::Values(1), Vec::new(), on.to_vec());
    Ok(one(conn, rows, Text::Composed(&shape)).await?.is_some())
}

/// The row that has the same in these columns as the one that there is.
pub(crate) async fn find_like(
    conn: &mut Conn<'_>,
    rows: &dyn Instances,
    on: &[usize],
) -> Result<Option<AnyRow>> {
    let shape = Shape::new(What::Find, Given::Values(1), Vec::new(), on.to_vec());
    one(conn, rows, Text::Composed(&shape)).await
}

const EVERY: [Group; 4] = [Group::Set, Group::Key, Group::Version, Group::Added];

/// A statement of one row.
#[derive(Clone, Copy)]
enum Text<'t> {
    /// One that is always the same, with the columns that are its arguments, and those that it returns.
    Fixed(&'static str, &'static [Group], &'static [Group]),
    Composed(&'t Shape),
}

impl Text<'_> {
    fn statement(self, rows: &dyn Instances, kind: DatabaseKind) -> Result<Statement, sqlx::Error> {
        let (model, mut args) = (rows.statements(), Arguments::new(kind));
        let mut bind = |column| rows.bind(0, column, &mut args).map_err(sqlx::Error::Encode);
        match self {
            Self::Fixed(sql, groups, _) => {
                for group in groups {
                    model.group(*group).try_for_each(&mut bind)?;
                }
                Ok(Statement::fixed(sql, args))
            }
            Self::Composed(shape) => {
                shape.binds(model).into_iter().try_for_each(bind)?;
                let sql = rows.table().shapes().sql(shape, model, kind);
                Ok(Statement { sql, args, persistent: true })
            }
        }
    }

    /// Whether it returns any column.
    fn returns(self, model: &Statements) -> bool {
        match self {
            Self::Fixed(_, _, returned) => returned.iter().any(|group| model.has(*group)),
            Self::Composed(shape) => !shape.returned(model).is_empty(),
        }
    }

    /// Takes what it has returned, from a place in the row on.
    fn take(self, rows: &mut dyn Instances, from: &AnyRow, at: usize) -> Result<(), sqlx::Error> {
        let model = rows.statements();
        match self {
            Self::Fixed(_, _, returned) => {
                let columns = returned.iter().flat_map(|group| model.group(*group));
                take_row(rows, 0, columns, from, at)
            }
            Self::Composed(shape) => take_row(rows, 0, shape.returned(model), from, at),
        }
    }
}

/// Runs a statement of at most one row, and returns that.
///
/// It is made when the connection is there, so that the future has no room for it.
async fn one(conn: &mut Conn<'_>, rows: &dyn Instances, text: Text<'_>) -> Result<Option<AnyRow>> {
    conn.ready().await?;
    let statement = text.statement(rows, conn.kind())?;
    let mut first = None;
    let running = conn.start_one(statement);
    let done = running.end(&mut |row| first = first.take().or(Some(row))).await;
    conn.done(done).await?;
    Ok(first)
}

/// Runs a statement of one row, takes what it returns, and says whether it stored anything.
async fn run(conn: &mut Conn<'_>, rows: &mut dyn Instances, text: Text<'_>) -> Result<bool> {
    if text.returns(rows.statements()) {
        let Some(row) = one(conn, rows, text).await? else { return Ok(false) };
        text.take(rows, &row, 0)?;
        return Ok(true);
    }
    conn.ready().await?;
    let statement = text.statement(rows, conn.kind())?;
    let done = conn.start(statement).end(&mut |_| ()).await;
    Ok(conn.done(done).await? > 0)
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
