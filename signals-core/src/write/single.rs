//! The statement with which the save of a single row begins, and which usually suffices.
#![expect(
    clippy::manual_async_fn,
    reason = "the future of an `async fn` stores each argument twice"
)]

use crate::database::backend::{AnyRow, DatabaseKind};
use crate::database::conn::Conn;
use crate::database::detached::{Answer, OnDetached};
use crate::error::{Error, Result};
use crate::signal::event_store::RowDeliveries;
use crate::table::chunk::Chunk;
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, Schema};
use crate::table::statement_spec::StatementKind;
use crate::write::continued_save::continue_store;
use crate::write::lookup::not_found;
use crate::write::read_back::{may_differ, read_back};
use crate::write::single_text::{EVERY, Text};
use crate::write::{Stored, TakeAnswer, WriteKind, WriteOutcome};

/// Stores the single row in `rows`, and sets the values that the database generates or computes. If
/// `before` is true, the previous state of the row is loaded too. Returns `None` if nothing was
/// stored, because a conflicting row already exists.
///
/// This function is compiled into each program that saves, and is part of the program's futures. To
/// keep it small, it runs only the one statement that usually suffices.
pub(crate) fn store(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    kind: &WriteKind,
    before: bool,
) -> impl Future<Output = Result<Option<Stored>>> + Send {
    async move {
        if !rows.has_key(0) && kind.is_update() {
            return Err(not_found(rows, 0));
        }
        let is_assigned = !rows.has_key(0);
        let first = Single::of(rows, kind, conn.kind()).filter(|first| match first {
            Single::Insert(_) => true,
            Single::Update(_) => !before,
            Single::Both(_) => {
                let model = rows.schema();
                let is_key = |on: &[usize]| model.group(ColumnGroup::Key).eq(on.iter().copied());
                let facts = conn.facts();
                !before
                    && facts.arbiter(rows, is_key) == Some(true)
                    && facts.may_skip_updates(rows) == Some(false)
            }
        });
        let tried = first.is_some();
        let mut saved = None;
        if let Some(first) = &first {
            saved = first.run(conn, rows).await?;
        }
        if saved.is_none() {
            saved = continue_store(conn, rows, kind, before, tried).await?;
        }
        // An UPDATE on SQLite that loads the previous state has read the row already.
        let is_read = before && saved == Some(Stored::UPDATED);
        if saved.is_some() && !is_read && may_differ(conn, rows, 0..1, is_assigned) {
            read_back(conn, rows, Chunk::of_row(0), is_assigned).await?;
        }
        Ok(saved)
    }
}

/// A statement that stores one row.
#[derive(Clone)]
pub(super) enum Single {
    Insert(Text),
    Update(Text),
    /// UPDATE or INSERT in one statement, which returns whether the row is new.
    Both(Text),
}

impl Single {
    /// The statement with which a save begins, or `None` if its text has to be composed.
    pub(super) fn of(rows: &dyn Rows, kind: &WriteKind, database: DatabaseKind) -> Option<Self> {
        let model = rows.schema();
        let keyed = rows.has_key(0);
        Some(match kind {
            WriteKind::Insert | WriteKind::Save if !keyed => Self::Insert(Text::Fixed(
                model.insert,
                &[ColumnGroup::Set, ColumnGroup::Version, ColumnGroup::Added],
                &[ColumnGroup::Key, ColumnGroup::Computed],
            )),
            WriteKind::Insert => {
                Self::Insert(Text::Fixed(model.insert_with_key, &EVERY, &[ColumnGroup::Computed]))
            }
            WriteKind::Save if saves_at_once(model, database) => Self::both(model),
            WriteKind::Save | WriteKind::Update => Self::update(model),
            _ => return None,
        })
    }

    pub(super) fn both(model: &Schema) -> Self {
        Self::Both(Text::Fixed(model.save, &EVERY, &[ColumnGroup::Computed, ColumnGroup::Added]))
    }

    pub(super) fn update(model: &Schema) -> Self {
        let groups = &[ColumnGroup::Set, ColumnGroup::Key, ColumnGroup::Version];
        Self::Update(Text::Fixed(
            model.update,
            groups,
            &[ColumnGroup::Computed, ColumnGroup::Added],
        ))
    }

    /// The statement that usually suffices for a write of this kind on PostgreSQL, also if its text has to be composed.
    pub(super) fn of_any(rows: &dyn Rows, kind: &WriteKind) -> Option<Self> {
        let model = rows.schema();
        match kind {
            WriteKind::Fields(set) => {
                let on = model.group(ColumnGroup::Key).collect();
                let checked = model.has(ColumnGroup::Version);
                Some(Self::Update(Text::update(set.to_vec(), on, checked)))
            }
            WriteKind::Upsert(on) => Some(Self::Both(Text::insert(StatementKind::Save, rows, on))),
            WriteKind::GetOrCreate(on) => {
                Some(Self::Insert(Text::insert(StatementKind::InsertOrNothing, rows, on)))
            }
            kind => Self::of(rows, kind, DatabaseKind::Postgres),
        }
    }

    fn is_insert(&self) -> bool {
        matches!(self, Self::Insert(_))
    }

    pub(super) fn text(&self) -> &Text {
        match self {
            Self::Insert(text) | Self::Update(text) | Self::Both(text) => text,
        }
    }

    /// Runs the statement. Returns `None` if it has not stored the row.
    ///
    /// The statement is built only when the connection is ready, so that the future does not have
    /// to store it.
    pub(super) fn run(
        &self,
        conn: &mut Conn<'_>,
        rows: &mut dyn Rows,
    ) -> impl Future<Output = Result<Option<Stored>>> + Send {
        async move {
            let returns = matches!(self, Self::Both(_)) || self.text().returns(rows.schema());
            let mut row = None;
            let affected = {
                let make = |kind| self.text().statement(&*rows, kind);
                let on_detached = || self.on_detached();
                let sink = &mut |found| row = row.take().or(Some(found));
                conn.write(&make, returns, &on_detached, sink).await
            };
            let affected = affected.map_err(|error| self.not_known(rows, row.as_ref(), error))?;
            Ok(self.outcome(rows, row.as_ref(), affected, !conn.in_transaction())?)
        }
    }

    /// As [`run`](Self::run), and stores the deliveries of the row in the same statement.
    pub(super) fn run_storing(
        &self,
        conn: &mut Conn<'_>,
        rows: &mut dyn Rows,
        deliveries: &dyn RowDeliveries,
    ) -> impl Future<Output = Result<Option<Stored>>> + Send {
        async move {
            let mut row = None;
            let affected = {
                let make = |kind| deliveries.add_to(self.text().statement(&*rows, kind)?);
                let on_detached = || self.on_detached();
                let sink = &mut |found| row = row.take().or(Some(found));
                conn.write(&make, true, &on_detached, sink).await
            };
            let affected = affected
                .map_err(|error| self.not_known(rows, row.as_ref(), deliveries.explained(error)))?;
            Ok(self.outcome(rows, row.as_ref(), affected, !conn.in_transaction())?)
        }
    }

    /// Returns the handler for the case that the statement is detached. If the statement does not
    /// store the row, no further statement is tried, because no caller waits for the result.
    pub(super) fn on_detached(&self) -> OnDetached {
        let single = self.clone();
        TakeAnswer::boxed(move |rows, Answer { rows: row, affected }| {
            let saved = single.outcome(rows, row.first(), affected, true)?;
            Ok(WriteOutcome::of_save(saved))
        })
    }

    /// If it is unknown whether the statement has stored the row, sets the values that it has then set in the instance, as far as
    /// they are known: the next write of the instance needs its key and version.
    pub(super) fn not_known(
        &self,
        rows: &mut dyn Rows,
        row: Option<&AnyRow>,
        error: Error,
    ) -> Error {
        if !matches!(error, Error::CommitUnknown(_)) {
            return error;
        }
        if row.is_some() {
            let _ = self.outcome(rows, row, 1, true);
        } else if let Self::Update(text) = self
            && text.asks_version()
        {
            rows.advance(0);
        }
        error
    }

    fn outcome(
        &self,
        rows: &mut dyn Rows,
        row: Option<&AnyRow>,
        affected: u64,
        committed: bool,
    ) -> Result<Option<Stored>, sqlx::Error> {
        let text = self.text();
        let created = match (self, row) {
            (Self::Both(_), Some(row)) => row.flag(0)?,
            (Self::Both(_), None) => return Ok(None),
            _ => self.is_insert(),
        };
        if let Some(row) = row {
            text.take(rows, row, usize::from(matches!(self, Self::Both(_))), committed)?;
        } else if affected == 0 || text.returns(rows.schema()) {
            return Ok(None);
        }
        if !created && text.asks_version() {
            rows.advance(0);
        }
        Ok(Some(Stored::new(created)))
    }
}

/// Whether a row that has a key is saved by one statement that does UPDATE or INSERT. It is not if
/// the database generates the key: such a row usually exists already, so a plain UPDATE suffices.
pub(super) fn saves_at_once(model: &Schema, kind: DatabaseKind) -> bool {
    kind == DatabaseKind::Postgres && !model.generates_key()
}
