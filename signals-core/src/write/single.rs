//! The statements that store one row.

use crate::database::state::Autocommit;
use crate::write::SaveKind;
use crate::write::Stored;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::database::backend::{AnyRow, Arguments, DatabaseKind, Statement};
use crate::database::conn::Conn;
use crate::database::detached::{Answer, OnDetached};
use crate::error::{Error, Result};
use crate::table::chunk::{Chunk, inserted};
use crate::table::compose::{RowInput, StatementKind, StatementSpec};
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, ColumnRole, Schema};
use crate::transaction::Transaction;
use crate::write::TakeAnswer;
use crate::write::bulk::{self, BulkOp, Left, Update};
use crate::write::inspect;

/// How often a save tries anew where another one was faster, before it takes it that nothing is ever stored.
pub(crate) const ATTEMPTS: usize = 16;

/// Stores the one row that there is. StatementKind the database gives or computes is in the instance when the statement is
/// through.
///
/// This is compiled into each program that saves, and is in its futures: it has but the one statement that does, as a rule.
pub(crate) async fn store(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    verb: &SaveKind,
    before: bool,
) -> Result<Stored> {
    if !rows.has_key(0) && matches!(verb, SaveKind::Update | SaveKind::Fields(_)) {
        return Err(not_found(rows, 0));
    }
    let first = Single::of(rows, verb, conn.kind()).filter(|first| match first {
        Single::Insert(_) => true,
        Single::Update(_) => !before,
        Single::Both(_) => {
            let model = rows.schema();
            let is_key = |on: &[usize]| model.group(ColumnGroup::Key).eq(on.iter().copied());
            !before && conn.facts().arbiter(rows, is_key) == Some(true)
        }
    });
    let begun = first.is_some();
    if let Some(first) = &first
        && let Some(stored) = first.run(conn, rows).await?
    {
        return Ok(stored);
    }
    rest(conn, rows, verb, before, begun).await
}

/// A statement that stores one row.
#[derive(Clone)]
enum Single {
    Insert(Text),
    Update(Text),
    /// It says which of both it has done.
    Both(Text),
}

impl Single {
    /// The one that a save begins with; none for what is composed.
    fn of(rows: &dyn Rows, verb: &SaveKind, kind: DatabaseKind) -> Option<Self> {
        let model = rows.schema();
        let keyed = rows.has_key(0);
        Some(match verb {
            SaveKind::Insert | SaveKind::Save if !keyed => Self::Insert(Text::Fixed(
                model.insert,
                &[ColumnGroup::Set, ColumnGroup::Version, ColumnGroup::Added],
                &[ColumnGroup::Key, ColumnGroup::Computed],
            )),
            SaveKind::Insert => {
                Self::Insert(Text::Fixed(model.insert_with_key, &EVERY, &[ColumnGroup::Computed]))
            }
            SaveKind::Save if saves_at_once(model, kind) => Self::both(model),
            SaveKind::Save | SaveKind::Update => Self::update(model),
            SaveKind::Fields(_) | SaveKind::Upsert(_) | SaveKind::GetOrCreate(_) => return None,
        })
    }

    fn both(model: &Schema) -> Self {
        Self::Both(Text::Fixed(model.save, &EVERY, &[ColumnGroup::Computed, ColumnGroup::Added]))
    }

    fn update(model: &Schema) -> Self {
        let groups = &[ColumnGroup::Set, ColumnGroup::Key, ColumnGroup::Version];
        Self::Update(Text::Fixed(
            model.update,
            groups,
            &[ColumnGroup::Computed, ColumnGroup::Added],
        ))
    }

    fn is_insert(&self) -> bool {
        matches!(self, Self::Insert(_))
    }

    fn text(&self) -> &Text {
        match self {
            Self::Insert(text) | Self::Update(text) | Self::Both(text) => text,
        }
    }

    /// Runs it, and says what has become of the row; none where that is not stored.
    ///
    /// The statement is made when the connection is there, so that the future has no room for it.
    async fn run(&self, conn: &mut Conn<'_>, rows: &mut dyn Rows) -> Result<Option<Stored>> {
        let returns = matches!(self, Self::Both(_)) || self.text().returns(rows.schema());
        let mut row = None;
        let affected = {
            let make = |kind| self.text().statement(&*rows, kind);
            let on_detached = || self.on_detached();
            let sink = &mut |found| row = row.take().or(Some(found));
            conn.write(&make, returns, &on_detached, sink).await?
        };
        Ok(self.ended(rows, row, affected, !conn.in_transaction())?)
    }

    /// Where it does not store the row, nothing else is tried: nobody waits for it.
    fn on_detached(&self) -> OnDetached {
        let single = self.clone();
        TakeAnswer::boxed(move |rows, Answer { rows: row, affected }| {
            let stored = single.ended(rows, row.into_iter().next(), affected, true)?;
            Ok(stored.unwrap_or(Stored::Not).written())
        })
    }

    fn ended(
        &self,
        rows: &mut dyn Rows,
        row: Option<AnyRow>,
        affected: u64,
        committed: bool,
    ) -> Result<Option<Stored>, sqlx::Error> {
        let text = self.text();
        let created = match (self, &row) {
            (Self::Both(_), Some(row)) => row.flag(0)?,
            (Self::Both(_), None) => return Ok(None),
            _ => self.is_insert(),
        };
        if let Some(row) = &row {
            text.take(rows, row, usize::from(matches!(self, Self::Both(_))), committed)?;
        } else if affected == 0 || text.returns(rows.schema()) {
            return Ok(None);
        }
        if !created && text.asks_version() {
            rows.advance(0);
        }
        Ok(Some(if created { Stored::Created } else { Stored::Updated }))
    }
}

/// Whether a save of a row with a key is one statement that does either. A row that has a key of the database's giving is
/// there, as a rule, and a plain UPDATE is all that it takes.
fn saves_at_once(model: &Schema, kind: DatabaseKind) -> bool {
    let given = model.columns.iter().any(|c| c.role == ColumnRole::GeneratedKey);
    kind == DatabaseKind::Postgres && !given
}

/// StatementKind else there is to do where the first statement has not stored the row, or there is none. On the heap: few come here.
fn rest<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s mut dyn Rows,
    verb: &'s SaveKind,
    before: bool,
    begun: bool,
) -> BoxFuture<'s, Result<Stored>> {
    Box::pin(async move {
        match verb {
            SaveKind::Save if rows.has_key(0) => save(conn, rows, None, before, begun).await,
            SaveKind::Insert | SaveKind::Save => inserted_uncounted(conn, rows).await,
            SaveKind::Upsert(on) => save(conn, rows, Some(&on[..]), before, false).await,
            SaveKind::GetOrCreate(on) => {
                let created = insert_or_nothing(conn, rows, Some(&on[..])).await?;
                Ok(if created { Stored::Created } else { Stored::Not })
            }
            SaveKind::Update | SaveKind::Fields(_) => {
                let set = if let SaveKind::Fields(set) = verb { Some(&set[..]) } else { None };
                update_until_stored(conn, rows, set, before, begun).await
            }
        }
    })
}

/// UPDATE by key of a row that must be there.
async fn update_until_stored(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    set: Option<&[usize]>,
    before: bool,
    begun: bool,
) -> Result<Stored> {
    if !begun && update(conn, rows, set, None, before).await? {
        return Ok(Stored::Updated);
    }
    if !before && inspect::is_plain(conn, rows).await? {
        return Err(not_found(rows, 0));
    }
    if let Some(found) = found_uncounted(conn, rows).await? {
        return if found { Ok(Stored::Updated) } else { Err(not_found(rows, 0)) };
    }
    let left = match look(conn, rows).await? {
        Look::Same => settle(conn, rows, set, None, before).await?,
        Look::Stale => Left::Stale,
        Look::Gone => Left::Gone,
    };
    match left {
        Left::Updated | Left::Unchanged => Ok(Stored::Updated),
        Left::Stale => Err(stale(rows, 0)),
        Left::Gone => Err(not_found(rows, 0)),
    }
}

/// Finds out what has become of the row that an UPDATE by these columns did not write.
///
/// Outside a transaction, the save has to begin again in one. If only this was in a transaction, a future that is dropped during its
/// COMMIT would tell no receiver, although the row may be stored.
async fn settle(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    set: Option<&[usize]>,
    on: Option<&[usize]>,
    before: bool,
) -> Result<Left> {
    if !conn.in_transaction() {
        conn.state.autocommit = Autocommit::NeedsTransaction;
        return Err(Error::NotStored { model: rows.model() });
    }
    let model = rows.schema();
    let checked = on.is_none();
    let set = set.map_or_else(|| model.group(ColumnGroup::Set).collect(), <[_]>::to_vec);
    let on = on.map_or_else(|| model.group(ColumnGroup::Key).collect(), <[_]>::to_vec);
    let update = Update { set: &set, on: &on, checked, before };
    bulk::settle(conn, rows, 0, &update).await
}

/// UPDATE where there is such a row, or INSERT. By key, where no other columns are said.
async fn save(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    on: Option<&[usize]>,
    before: bool,
    begun: bool,
) -> Result<Stored> {
    let model = rows.schema();
    let one = match on {
        Some(_) => conn.kind() == DatabaseKind::Postgres,
        None => saves_at_once(model, conn.kind()) && key_is_arbiter(conn, rows).await?,
    };
    let one = one && !before;
    // Without a unique index of the columns, an UPDATE would update whatever it finds; the INSERT is refused. With one, it
    // is the UPDATE that comes first: an INSERT takes a number of the sequence, and has triggers of its own.
    let refused = match on {
        Some(on) if !one => !inspect::is_arbiter(conn, rows, on).await?,
        _ => false,
    };
    // Where neither the UPDATE nor the INSERT finds its row as it wants it, somebody stored or deleted it in between.
    for attempt in 0..ATTEMPTS {
        let begun = begun && attempt == 0;
        if one {
            if !begun && let Some(stored) = save_at_once(conn, rows, on).await? {
                return Ok(stored);
            }
        } else {
            if refused && insert_or_nothing(conn, rows, on).await? {
                return Ok(Stored::Created);
            }
            if !begun && update(conn, rows, None, on, before).await? {
                return Ok(Stored::Updated);
            }
            let stored = match on {
                Some(_) => insert_or_nothing(conn, rows, on).await?.then_some(Stored::Created),
                None => insert_if_new(conn, rows).await?,
            };
            if let Some(stored) = stored {
                return Ok(stored);
            }
        }
        let left = match on {
            Some(_) => settle(conn, rows, None, on, before).await?,
            None => match look(conn, rows).await? {
                Look::Same => settle(conn, rows, None, None, before).await?,
                Look::Stale => Left::Stale,
                Look::Gone => Left::Gone,
            },
        };
        match left {
            Left::Updated | Left::Unchanged => return Ok(Stored::Updated),
            Left::Stale => return Err(stale(rows, 0)),
            Left::Gone if attempt > 0 => {
                if let Some(stored) = update_as_index_says(conn, rows, on, before).await? {
                    return Ok(stored);
                }
            }
            Left::Gone => {}
        }
    }
    Err(Error::NotStored { model: rows.model() })
}

/// UPDATE of the row that an INSERT conflicts with. The index may compare values in another way than `=` does with what the
/// program gives: the column is of the type `citext`, or the index has a collation, or a trigger changes the value.
async fn update_as_index_says(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    on: Option<&[usize]>,
    before: bool,
) -> Result<Option<Stored>> {
    let key: Vec<_> = rows.schema().group(ColumnGroup::Key).collect();
    let target = on.unwrap_or(&key);
    if !inspect::is_arbiter(conn, rows, target).await? {
        return Ok(None);
    }
    let Some(found) = conflicting(conn, rows, target).await? else { return Ok(None) };
    let keyed = rows.has_key(0);
    for column in &key {
        rows.set(0, *column, &found, *column)?;
    }
    let by_key = on.map(|_| &key[..]);
    if update(conn, rows, None, by_key, before).await? {
        return Ok(Some(Stored::Updated));
    }
    let left = settle(conn, rows, None, by_key, before).await;
    if !keyed && !matches!(left, Ok(Left::Updated | Left::Unchanged)) {
        // There is no such row any more, or the save begins again: what was found is what the INSERT would have stored.
        rows.clear_key(0);
    }
    match left? {
        Left::Updated | Left::Unchanged => Ok(Some(Stored::Updated)),
        Left::Stale => Err(stale(rows, 0)),
        Left::Gone => Ok(None),
    }
}

/// The row that an INSERT of the one that there is conflicts with in these columns, which have a unique index. It is the index
/// that finds it; what is written for that is undone.
pub(crate) async fn conflicting(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    on: &[usize],
) -> Result<Option<AnyRow>> {
    let columns = inserted(rows, rows.has_key(0));
    let shape =
        StatementSpec::new(StatementKind::Conflicting, RowInput::Values(1), columns, on.to_vec());
    let statement = Text::Composed(shape.into()).statement(rows, conn.kind())?;
    let mut tx = Transaction::open(conn.reborrow()).await?;
    let found = tx.run_one(statement).await;
    tx.rollback().await?;
    found
}

/// The one statement that does both, on Postgres. None where somebody was faster.
async fn save_at_once(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    on: Option<&[usize]>,
) -> Result<Option<Stored>> {
    let Some(on) = on else { return Single::both(rows.schema()).run(conn, rows).await };
    let columns = inserted(rows, rows.has_key(0));
    let shape = StatementSpec::new(StatementKind::Save, RowInput::Values(1), columns, on.to_vec());
    Single::Both(Text::Composed(shape.into())).run(conn, rows).await
}

/// UPDATE of these columns, or of all that can be set, where there is such a row.
async fn update(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    set: Option<&[usize]>,
    on: Option<&[usize]>,
    before: bool,
) -> Result<bool> {
    let model = rows.schema();
    let checked = on.is_none() && model.has(ColumnGroup::Version);
    if let (None, None, false) = (set, on, before) {
        return Ok(Single::update(model).run(conn, rows).await?.is_some());
    }
    let set = set.map_or_else(|| model.group(ColumnGroup::Set).collect(), <[_]>::to_vec);
    let on = on.map_or_else(|| model.group(ColumnGroup::Key).collect(), <[_]>::to_vec);
    if before {
        let what = Update { set: &set, on: &on, checked, before };
        let updated =
            Box::pin(bulk::write(conn, rows, &Chunk::of_row(0), BulkOp::Update(&what))).await?;
        return Ok(!updated.is_empty());
    }
    let mut shape = StatementSpec::new(StatementKind::UpdateOne, RowInput::Values(1), set, on);
    shape.checked = checked;
    Ok(Single::Update(Text::Composed(shape.into())).run(conn, rows).await?.is_some())
}

async fn key_is_arbiter(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<bool> {
    let key: Vec<_> = rows.schema().group(ColumnGroup::Key).collect();
    inspect::is_arbiter(conn, rows, &key).await
}

/// INSERT of a row that an UPDATE by key has not found, as far as the database says; none if another row is there.
async fn insert_if_new(conn: &mut Conn<'_>, rows: &mut dyn Rows) -> Result<Option<Stored>> {
    if key_is_arbiter(conn, rows).await? {
        return Ok(insert_or_nothing(conn, rows, None).await?.then_some(Stored::Created));
    }
    let found = found_uncounted(conn, rows).await?;
    if found == Some(true) {
        return Ok(Some(Stored::Updated));
    }
    let text = Text::Fixed(rows.schema().insert_with_key, &EVERY, &[ColumnGroup::Computed]);
    match Single::Insert(text).run(conn, rows).await {
        Ok(None) if found.is_some() => inserted_uncounted(conn, rows).await.map(Some),
        Ok(stored) => Ok(stored),
        // Another transaction may have stored the row in between. In a transaction on Postgres nothing else can be tried.
        Err(error) if error.is_unique_violation() && !conn.in_transaction() => {
            match conn.depth().await == 0 && look(conn, rows).await? != Look::Gone {
                true => Ok(None),
                false => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Whether an UPDATE by key has found the row, if the database does not say so itself.
///
/// # Errors
///
/// If that cannot be told, because the row has another version now: the UPDATE may have set it, or it was there before.
async fn found_uncounted(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<Option<bool>> {
    if inspect::counts_rows(conn, rows).await? {
        return Ok(None);
    }
    match look(conn, rows).await? {
        Look::Gone => Ok(Some(false)),
        Look::Same if !rows.schema().has(ColumnGroup::Version) => Ok(Some(true)),
        Look::Same | Look::Stale => Err(Error::other(format!(
            "SQLite does not say whether an UPDATE of a view has found a row, so `{}`, which has a version, cannot be updated \
             through its view `{}`; make it a model of the table",
            rows.model(),
            rows.at(0).table(),
        ))),
    }
}

/// StatementKind an INSERT has done of which the database says that it has stored no row.
async fn inserted_uncounted(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<Stored> {
    let is_there = rows.has_key(0)
        && !inspect::counts_rows(conn, rows).await?
        && look(conn, rows).await? != Look::Gone;
    if is_there { Ok(Stored::Created) } else { Err(Error::NotStored { model: rows.model() }) }
}

async fn insert_or_nothing(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    on: Option<&[usize]>,
) -> Result<bool> {
    let model = rows.schema();
    let Some(on) = on else {
        let text = Text::Fixed(model.insert_or_nothing, &EVERY, &[ColumnGroup::Computed]);
        return Ok(Single::Insert(text).run(conn, rows).await?.is_some());
    };
    let columns = inserted(rows, rows.has_key(0));
    let shape = StatementSpec::new(
        StatementKind::InsertOrNothing,
        RowInput::Values(1),
        columns,
        on.to_vec(),
    );
    Ok(Single::Insert(Text::Composed(shape.into())).run(conn, rows).await?.is_some())
}

/// StatementKind is stored in place of a row that a statement has not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Gone,
    /// A row of another version.
    Stale,
    /// The row, with the version that the instance has.
    Same,
}

/// Looks what is stored by the key of the one row that there is. No lock is taken: the answer is for an error or for the next
/// try, and must not wait for another transaction.
pub(crate) async fn look(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<Look> {
    let model = rows.schema();
    let on = model.group(ColumnGroup::Key).collect();
    let mut shape =
        StatementSpec::new(StatementKind::CheckVersion, RowInput::Values(1), Vec::new(), on);
    shape.checked = model.has(ColumnGroup::Version);
    let found = conn.run_one(Text::Composed(shape.into()).statement(rows, conn.kind())?).await?;
    Ok(match found {
        None => Look::Gone,
        Some(row) if row.flag(0)? => Look::Same,
        Some(_) => Look::Stale,
    })
}

/// The row that has the same in these columns as the one that there is.
pub(crate) async fn find_like(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    on: &[usize],
) -> Result<Option<AnyRow>> {
    let shape =
        StatementSpec::new(StatementKind::Find, RowInput::Values(1), Vec::new(), on.to_vec());
    conn.run_one(Text::Composed(shape.into()).statement(rows, conn.kind())?).await
}

const EVERY: [ColumnGroup; 4] =
    [ColumnGroup::Set, ColumnGroup::Key, ColumnGroup::Version, ColumnGroup::Added];

/// A statement of one row.
#[derive(Clone)]
enum Text {
    /// One that is always the same, with the columns that are its arguments, and those that it returns.
    Fixed(&'static str, &'static [ColumnGroup], &'static [ColumnGroup]),
    Composed(Arc<StatementSpec>),
}

impl Text {
    fn statement(&self, rows: &dyn Rows, kind: DatabaseKind) -> Result<Statement, sqlx::Error> {
        let (model, mut args) = (rows.schema(), Arguments::new(kind));
        let mut bind = |column| {
            let bound = match self.finds_by(model, column) {
                true => rows.bind_compared(0, column, &mut args),
                false => rows.bind(0, column, &mut args),
            };
            bound.map_err(sqlx::Error::Encode)
        };
        match self {
            Self::Fixed(sql, groups, _) => {
                for group in *groups {
                    model.group(*group).try_for_each(&mut bind)?;
                }
                Ok(Statement::fixed(sql, args))
            }
            Self::Composed(shape) => {
                shape.binds(model).into_iter().try_for_each(bind)?;
                let sql = rows.statement_cache().sql(shape, model, kind);
                Ok(Statement { sql, args, persistent: true })
            }
        }
    }

    /// Whether this argument does nothing but find the row. One that is also stored is of the type of the field.
    fn finds_by(&self, model: &Schema, column: usize) -> bool {
        match self {
            Self::Fixed(_, groups, _) => {
                let stores_key = groups.contains(&ColumnGroup::Added);
                !stores_key && model.columns[column].role.group() == ColumnGroup::Key
            }
            Self::Composed(shape) => {
                let found = matches!(
                    shape.kind,
                    StatementKind::UpdateOne | StatementKind::Find | StatementKind::CheckVersion
                );
                found && shape.on.contains(&column) && !shape.columns.contains(&column)
            }
        }
    }

    /// Whether it returns any column.
    fn returns(&self, model: &Schema) -> bool {
        match self {
            Self::Fixed(_, _, returned) => returned.iter().any(|group| model.has(*group)),
            Self::Composed(shape) => !shape.returned(model).is_empty(),
        }
    }

    /// Whether it stores nothing where the version is another; else it returns that.
    fn asks_version(&self) -> bool {
        match self {
            Self::Fixed(..) => true,
            Self::Composed(shape) => shape.checked,
        }
    }

    /// Takes what it has returned, from a place in the row on. If the row is `committed`, an `auto_now_add` column that does
    /// not decode, as `infinity` does not, is left as it is: a transaction for every UPDATE of it would cost too much.
    fn take(
        &self,
        rows: &mut dyn Rows,
        from: &AnyRow,
        at: usize,
        committed: bool,
    ) -> Result<(), sqlx::Error> {
        let model = rows.schema();
        let mut at = at..;
        let mut take = |column| {
            let done = rows.set(0, column, from, at.next().unwrap_or_default());
            match done {
                Err(error) if committed && model.columns[column].role == ColumnRole::AutoNowAdd => {
                    let (model, column) = (rows.model(), rows.at(0).columns()[column]);
                    tracing::warn!(
                        model,
                        column,
                        %error,
                        "a column of a row that is stored could not be read, and is left as it is"
                    );
                    Ok(())
                }
                done => done,
            }
        };
        match self {
            Self::Fixed(_, _, returned) => {
                returned.iter().flat_map(|group| model.group(*group)).try_for_each(take)
            }
            Self::Composed(shape) => shape.returned(model).into_iter().try_for_each(&mut take),
        }
    }
}

/// Takes columns that stand one after the other in a row of the database.
pub(crate) fn take_row(
    rows: &mut dyn Rows,
    row: usize,
    columns: impl IntoIterator<Item = usize>,
    from: &AnyRow,
    at: usize,
) -> Result<(), sqlx::Error> {
    let mut columns = columns.into_iter().enumerate();
    columns.try_for_each(|(i, column)| rows.set(row, column, from, at + i))
}

pub(crate) fn not_found(rows: &dyn Rows, row: usize) -> Error {
    Error::NotFound { model: rows.model(), key: rows.key(row) }
}

pub(crate) fn stale(rows: &dyn Rows, row: usize) -> Error {
    let version = rows.version(row).unwrap_or_default();
    Error::Stale { model: rows.model(), key: rows.key(row), version }
}
