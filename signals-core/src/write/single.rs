//! The statements that store a single row.

use futures_util::future::BoxFuture;

use crate::database::backend::{AnyRow, DatabaseKind};
use crate::database::conn::Conn;
use crate::database::detached::{Answer, OnDetached};
use crate::database::state::Autocommit;
use crate::error::{Error, Result};
use crate::table::chunk::{Chunk, inserted};
use crate::table::compose::{RowInput, StatementKind, StatementSpec};
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, ColumnRole, Schema};
use crate::transaction::Transaction;
use crate::write::bulk::{self, BulkOp, Unwritten, Update};
use crate::write::single_text::{EVERY, Text};
use crate::write::{SaveKind, Stored, TakeAnswer, inspect};

/// How often a save tries again after a concurrent transaction has inserted or deleted the row in
/// between. After that it fails with [`Error::NotStored`].
pub(crate) const ATTEMPTS: usize = 16;

/// Stores the single row in `rows`, and sets the values that the database generates or computes. If
/// `before` is true, the previous state of the row is loaded too.
///
/// This function is compiled into each program that saves, and is part of the program's futures. To
/// keep it small, it runs only the one statement that usually suffices.
pub(crate) async fn store(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    save_kind: &SaveKind,
    before: bool,
) -> Result<Stored> {
    if !rows.has_key(0) && matches!(save_kind, SaveKind::Update | SaveKind::Fields(_)) {
        return Err(not_found(rows, 0));
    }
    let first = Single::of(rows, save_kind, conn.kind()).filter(|first| match first {
        Single::Insert(_) => true,
        Single::Update(_) => !before,
        Single::Both(_) => {
            let model = rows.schema();
            let is_key = |on: &[usize]| model.group(ColumnGroup::Key).eq(on.iter().copied());
            !before && conn.facts().arbiter(rows, is_key) == Some(true)
        }
    });
    let tried = first.is_some();
    if let Some(first) = &first
        && let Some(stored) = first.run(conn, rows).await?
    {
        return Ok(stored);
    }
    continue_store(conn, rows, save_kind, before, tried).await
}

/// A statement that stores one row.
#[derive(Clone)]
enum Single {
    Insert(Text),
    Update(Text),
    /// UPDATE or INSERT in one statement, which returns whether the row is new.
    Both(Text),
}

impl Single {
    /// The statement with which a save begins, or `None` if its text has to be composed.
    fn of(rows: &dyn Rows, save_kind: &SaveKind, kind: DatabaseKind) -> Option<Self> {
        let model = rows.schema();
        let keyed = rows.has_key(0);
        Some(match save_kind {
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

    /// Runs the statement. Returns `None` if it has not stored the row.
    ///
    /// The statement is built only when the connection is ready, so that the future does not have
    /// to store it.
    async fn run(&self, conn: &mut Conn<'_>, rows: &mut dyn Rows) -> Result<Option<Stored>> {
        let returns = matches!(self, Self::Both(_)) || self.text().returns(rows.schema());
        let mut row = None;
        let affected = {
            let make = |kind| self.text().statement(&*rows, kind);
            let on_detached = || self.on_detached();
            let sink = &mut |found| row = row.take().or(Some(found));
            conn.write(&make, returns, &on_detached, sink).await?
        };
        Ok(self.outcome(rows, row, affected, !conn.in_transaction())?)
    }

    /// Returns the handler for the case that the statement is detached. If the statement does not
    /// store the row, no further statement is tried, because no caller waits for the result.
    fn on_detached(&self) -> OnDetached {
        let single = self.clone();
        TakeAnswer::boxed(move |rows, Answer { rows: row, affected }| {
            let stored = single.outcome(rows, row.into_iter().next(), affected, true)?;
            Ok(stored.unwrap_or(Stored::Not).written())
        })
    }

    fn outcome(
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

/// Whether a row that has a key is saved by one statement that does UPDATE or INSERT. It is not if
/// the database generates the key: such a row usually exists already, so a plain UPDATE suffices.
fn saves_at_once(model: &Schema, kind: DatabaseKind) -> bool {
    let generated = model.columns.iter().any(|c| c.role == ColumnRole::GeneratedKey);
    kind == DatabaseKind::Postgres && !generated
}

/// Continues a save if the first statement has not stored the row, or if there was none. Boxed,
/// because this is rare.
fn continue_store<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s mut dyn Rows,
    save_kind: &'s SaveKind,
    before: bool,
    tried: bool,
) -> BoxFuture<'s, Result<Stored>> {
    Box::pin(async move {
        match save_kind {
            SaveKind::Save if rows.has_key(0) => save(conn, rows, None, before, tried).await,
            SaveKind::Insert | SaveKind::Save => inserted_uncounted(conn, rows).await,
            SaveKind::Upsert(on) => save(conn, rows, Some(&on[..]), before, false).await,
            SaveKind::GetOrCreate(on) => {
                let created = insert_or_nothing(conn, rows, Some(&on[..])).await?;
                Ok(if created { Stored::Created } else { Stored::Not })
            }
            SaveKind::Update | SaveKind::Fields(_) => {
                let set = if let SaveKind::Fields(set) = save_kind { Some(&set[..]) } else { None };
                update_until_stored(conn, rows, set, before, tried).await
            }
        }
    })
}

/// UPDATE by key of a row that must exist.
async fn update_until_stored(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    set: Option<&[usize]>,
    before: bool,
    tried: bool,
) -> Result<Stored> {
    if !tried && update(conn, rows, set, None, before).await? {
        return Ok(Stored::Updated);
    }
    if !before && inspect::is_plain(conn, rows).await? {
        return Err(not_found(rows, 0));
    }
    if let Some(found) = found_uncounted(conn, rows).await? {
        return if found { Ok(Stored::Updated) } else { Err(not_found(rows, 0)) };
    }
    let unwritten = match look(conn, rows).await? {
        Look::Same => settle(conn, rows, set, None, before).await?,
        Look::Stale => Unwritten::Stale,
        Look::Gone => Unwritten::Gone,
    };
    match unwritten {
        Unwritten::Updated | Unwritten::Unchanged => Ok(Stored::Updated),
        Unwritten::Stale => Err(stale(rows, 0)),
        Unwritten::Gone => Err(not_found(rows, 0)),
    }
}

/// Determines why an UPDATE by these columns has not written the row, and retries it.
///
/// Outside a transaction, the whole save has to begin again in one. If only this step ran in a
/// transaction and the future were dropped during its COMMIT, no receiver would be notified,
/// although the row may be stored.
async fn settle(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    set: Option<&[usize]>,
    on: Option<&[usize]>,
    before: bool,
) -> Result<Unwritten> {
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

/// UPDATE, or INSERT if there is no such row. Rows are found by the columns `on`, or by the key if
/// `on` is `None`.
async fn save(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    on: Option<&[usize]>,
    before: bool,
    tried: bool,
) -> Result<Stored> {
    let model = rows.schema();
    let at_once = match on {
        Some(_) => conn.kind() == DatabaseKind::Postgres,
        None => saves_at_once(model, conn.kind()) && key_is_arbiter(conn, rows).await?,
    };
    let at_once = at_once && !before;
    // Without a unique index on the columns, an UPDATE could change any number of rows. So the
    // INSERT comes first, and the database refuses its `ON CONFLICT`. With a unique index, the
    // UPDATE comes first, because an INSERT consumes a sequence value and fires INSERT triggers.
    let insert_first = match on {
        Some(on) if !at_once => !inspect::is_arbiter(conn, rows, on).await?,
        _ => false,
    };
    // If neither the UPDATE nor the INSERT stores the row, a concurrent transaction has inserted or
    // deleted it in between.
    for attempt in 0..ATTEMPTS {
        let tried = tried && attempt == 0;
        if at_once {
            if !tried && let Some(stored) = save_at_once(conn, rows, on).await? {
                return Ok(stored);
            }
        } else {
            if insert_first && insert_or_nothing(conn, rows, on).await? {
                return Ok(Stored::Created);
            }
            if !tried && update(conn, rows, None, on, before).await? {
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
        let unwritten = match on {
            Some(_) => settle(conn, rows, None, on, before).await?,
            None => match look(conn, rows).await? {
                Look::Same => settle(conn, rows, None, None, before).await?,
                Look::Stale => Unwritten::Stale,
                Look::Gone => Unwritten::Gone,
            },
        };
        match unwritten {
            Unwritten::Updated | Unwritten::Unchanged => return Ok(Stored::Updated),
            Unwritten::Stale => return Err(stale(rows, 0)),
            Unwritten::Gone if attempt > 0 => {
                if let Some(stored) = update_as_index_says(conn, rows, on, before).await? {
                    return Ok(stored);
                }
            }
            Unwritten::Gone => {}
        }
    }
    Err(Error::NotStored { model: rows.model() })
}

/// UPDATE of the row that an INSERT conflicts with. The index may compare the values differently
/// than `=` does: a column may be of type `citext`, the index may have a collation, or a trigger
/// may change the values.
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
    let unwritten = settle(conn, rows, None, by_key, before).await;
    if !keyed && !matches!(unwritten, Ok(Unwritten::Updated | Unwritten::Unchanged)) {
        // The UPDATE found no row. The key may be that of the row which the rolled-back INSERT of
        // `conflicting` stored, so it must not be used for the next attempt.
        rows.clear_key(0);
    }
    match unwritten? {
        Unwritten::Updated | Unwritten::Unchanged => Ok(Some(Stored::Updated)),
        Unwritten::Stale => Err(stale(rows, 0)),
        Unwritten::Gone => Ok(None),
    }
}

/// Returns the row that an INSERT of the single row in `rows` conflicts with in these columns,
/// which have a unique index. The INSERT is executed, so that the index itself determines the row,
/// and is rolled back.
pub(crate) async fn conflicting(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    on: &[usize],
) -> Result<Option<AnyRow>> {
    let columns = inserted(rows, rows.has_key(0));
    let spec =
        StatementSpec::new(StatementKind::Conflicting, RowInput::Values(1), columns, on.to_vec());
    let statement = Text::Composed(spec.into()).statement(rows, conn.kind())?;
    let mut tx = Transaction::open(conn.reborrow()).await?;
    let found = tx.run_one(statement).await;
    tx.rollback().await?;
    found
}

/// On PostgreSQL, UPDATE or INSERT in one statement. Returns `None` if a concurrent transaction was
/// faster.
async fn save_at_once(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    on: Option<&[usize]>,
) -> Result<Option<Stored>> {
    let Some(on) = on else { return Single::both(rows.schema()).run(conn, rows).await };
    let columns = inserted(rows, rows.has_key(0));
    let spec = StatementSpec::new(StatementKind::Save, RowInput::Values(1), columns, on.to_vec());
    Single::Both(Text::Composed(spec.into())).run(conn, rows).await
}

/// UPDATE of the columns `set`, or of all columns that can be set. Returns whether a row was
/// updated.
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
        let update = Update { set: &set, on: &on, checked, before };
        let updated =
            Box::pin(bulk::write(conn, rows, &Chunk::of_row(0), BulkOp::Update(&update))).await?;
        return Ok(!updated.is_empty());
    }
    let mut spec = StatementSpec::new(StatementKind::UpdateOne, RowInput::Values(1), set, on);
    spec.checked = checked;
    Ok(Single::Update(Text::Composed(spec.into())).run(conn, rows).await?.is_some())
}

async fn key_is_arbiter(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<bool> {
    let key: Vec<_> = rows.schema().group(ColumnGroup::Key).collect();
    inspect::is_arbiter(conn, rows, &key).await
}

/// INSERT after an UPDATE by key that has reported no row. Returns `None` if another row has the
/// key.
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
        // Another transaction may have stored the row in between. Inside a transaction, PostgreSQL
        // accepts no further statements after this error.
        Err(error) if error.is_unique_violation() && !conn.in_transaction() => {
            match conn.depth().await == 0 && look(conn, rows).await? != Look::Gone {
                true => Ok(None),
                false => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Whether an UPDATE by key has found the row, if the database does not report that itself. Returns
/// `None` if it does.
///
/// # Errors
///
/// Returns an error if the model has a version: the stored version then does not show whether the
/// UPDATE has set it.
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

/// Determines the result of an INSERT if the database reports that no row was stored. A database
/// that does not count the rows may have stored it all the same.
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
    let spec = StatementSpec::new(
        StatementKind::InsertOrNothing,
        RowInput::Values(1),
        columns,
        on.to_vec(),
    );
    Ok(Single::Insert(Text::Composed(spec.into())).run(conn, rows).await?.is_some())
}

/// What is stored under the key of a row that a statement has not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Gone,
    /// A row with another version.
    Stale,
    /// The row, with the version of the instance.
    Same,
}

/// Looks up what is stored under the key of the single row in `rows`. Takes no lock: the result is
/// used for an error or for the next attempt, and must not wait for another transaction.
pub(crate) async fn look(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<Look> {
    let model = rows.schema();
    let on = model.group(ColumnGroup::Key).collect();
    let mut spec =
        StatementSpec::new(StatementKind::CheckVersion, RowInput::Values(1), Vec::new(), on);
    spec.checked = model.has(ColumnGroup::Version);
    let found = conn.run_one(Text::Composed(spec.into()).statement(rows, conn.kind())?).await?;
    Ok(match found {
        None => Look::Gone,
        Some(row) if row.flag(0)? => Look::Same,
        Some(_) => Look::Stale,
    })
}

/// Returns the row that has the same values in these columns as the single row in `rows`.
pub(crate) async fn find_like(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    on: &[usize],
) -> Result<Option<AnyRow>> {
    let spec =
        StatementSpec::new(StatementKind::Find, RowInput::Values(1), Vec::new(), on.to_vec());
    conn.run_one(Text::Composed(spec.into()).statement(rows, conn.kind())?).await
}

pub(crate) fn not_found(rows: &dyn Rows, row: usize) -> Error {
    Error::NotFound { model: rows.model(), key: rows.key(row) }
}

pub(crate) fn stale(rows: &dyn Rows, row: usize) -> Error {
    let version = rows.version(row).unwrap_or_default();
    Error::Stale { model: rows.model(), key: rows.key(row), version }
}
