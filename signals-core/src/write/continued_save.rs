//! What follows if the first statement of the save of a single row has not stored it, or if there
//! is none.

use futures_util::future::BoxFuture;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::state::Autocommit;
use crate::error::{Error, Result};
use crate::table::chunk::Chunk;
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::table::statement_spec::StatementKind;
use crate::write::bulk::{self, BulkOp};
use crate::write::bulk_update::{Unwritten, Update, settle};
use crate::write::lookup::{Look, conflicting, look, not_found, stale, stored_by};
use crate::write::single::{Single, saves_at_once};
use crate::write::single_text::{EVERY, Text};
use crate::write::{Stored, WriteKind, arbiter, inspect};

/// How often a save tries again after a concurrent transaction has inserted or deleted the row in
/// between. After that it fails with [`Error::NotStored`].
pub(crate) const ATTEMPTS: usize = 16;

const CREATED: Stored = Stored::CREATED;
const UPDATED: Stored = Stored::UPDATED;

/// Continues a save. `tried` means that its first statement was executed. Boxed, because this is
/// rare.
pub(super) fn continue_store<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s mut dyn Rows,
    kind: &'s WriteKind,
    before: bool,
    tried: bool,
) -> BoxFuture<'s, Result<Option<Stored>>> {
    let mut save = ContinuedSave { conn, rows, before };
    Box::pin(async move {
        match kind {
            WriteKind::Save if save.rows.has_key(0) => save.save(None, tried).await.map(Some),
            WriteKind::Insert | WriteKind::Save => save.inserted_uncounted().await.map(Some),
            WriteKind::Upsert(on) => save.save(Some(on), false).await.map(Some),
            WriteKind::GetOrCreate(on) => save.insert_or_nothing(Some(on)).await,
            WriteKind::Update => save.update_until_stored(None, tried).await.map(Some),
            WriteKind::Fields(set) => save.update_until_stored(Some(set), tried).await.map(Some),
            WriteKind::Delete => unreachable!("a delete stores no row"),
        }
    })
}

/// The save of the single row in `rows`.
///
/// In its methods, `set` are the columns to update, or `None` for all that can be set, and `on` are
/// the columns by which the row is found, or `None` for the key.
struct ContinuedSave<'s, 'c> {
    conn: &'s mut Conn<'c>,
    rows: &'s mut dyn Rows,
    /// Whether the previous state of the row is loaded.
    before: bool,
}

impl ContinuedSave<'_, '_> {
    /// UPDATE by key of a row that must exist.
    async fn update_until_stored(&mut self, set: Option<&[usize]>, tried: bool) -> Result<Stored> {
        if !tried && let Some(saved) = self.update(set, None).await? {
            return Ok(saved);
        }
        if !self.before && inspect::is_plain(self.conn, self.rows).await? {
            return Err(not_found(self.rows, 0));
        }
        let saved = match self.found_uncounted().await? {
            Some(found) => found.then_some(UPDATED),
            None => self.look_and_settle(set).await?,
        };
        saved.ok_or_else(|| not_found(self.rows, 0))
    }

    /// UPDATE, or INSERT if there is no such row.
    async fn save(&mut self, on: Option<&[usize]>, tried: bool) -> Result<Stored> {
        let kind = self.conn.kind();
        // An INSERT cannot write a key that is GENERATED ALWAYS, which is no arbiter.
        let writes_key = self.rows.has_key(0) && self.rows.schema().generates_key();
        let at_once = match on {
            Some(_) if writes_key && kind == DatabaseKind::Postgres => {
                self.key_is_arbiter().await?
            }
            Some(_) => kind == DatabaseKind::Postgres,
            None => saves_at_once(self.rows.schema(), kind) && self.key_is_arbiter().await?,
        };
        let at_once = at_once && !self.before && !self.may_skip_updates().await?;
        // Without a unique index on the columns, an UPDATE could change any number of rows. So the
        // INSERT comes first, and the database refuses its `ON CONFLICT`. With a unique index, the
        // UPDATE comes first, because an INSERT consumes a sequence value and fires INSERT triggers. A key that the database generates is
        // no arbiter either if it is GENERATED ALWAYS, and then the INSERT is always refused.
        let model = self.rows.schema();
        let is_key = |on: &[usize]| model.group(ColumnGroup::Key).eq(on.iter().copied());
        let insert_first = match on {
            Some(on) if writes_key && kind == DatabaseKind::Postgres && is_key(on) => false,
            Some(on) if !at_once => !arbiter::is_arbiter(self.conn, self.rows, on).await?,
            _ => false,
        };
        // If neither the UPDATE nor the INSERT stores the row, a concurrent transaction has inserted
        // or deleted it in between.
        for attempt in 0..ATTEMPTS {
            let tried = tried && attempt == 0;
            let saved = match at_once {
                true if tried => None,
                true => self.save_at_once(on).await?,
                false => self.update_or_insert(on, insert_first, tried).await?,
            };
            if let Some(saved) = saved {
                return Ok(saved);
            }
            // If a trigger may have skipped the row, its UPDATE is not repeated, unless the row is new.
            let mut settled = match self.may_skip_updates().await? {
                true => None,
                false => self.find_and_settle(on).await?,
            };
            if settled.is_none() && attempt > 0 {
                settled = self.update_as_index_says(on).await?;
            }
            if let Some(saved) = settled {
                return Ok(saved);
            }
        }
        Err(Error::NotStored { model: self.rows.model() })
    }

    /// On PostgreSQL, UPDATE or INSERT in one statement. Returns `None` if a concurrent transaction
    /// was faster.
    async fn save_at_once(&mut self, on: Option<&[usize]>) -> Result<Option<Stored>> {
        let save = match on {
            None => Single::both(self.rows.schema()),
            Some(on) => Single::Both(Text::insert(StatementKind::Save, self.rows, on)),
        };
        save.run(self.conn, self.rows).await
    }

    /// UPDATE, then INSERT, each in a statement of its own.
    async fn update_or_insert(
        &mut self,
        on: Option<&[usize]>,
        insert_first: bool,
        tried: bool,
    ) -> Result<Option<Stored>> {
        if insert_first && let Some(saved) = self.insert_or_nothing(on).await? {
            return Ok(Some(saved));
        }
        let may_skip = self.may_skip_updates().await?;
        // After an UPDATE without effect, it would not be known whether a trigger has skipped the row, or another transaction has inserted it
        // since. On SQLite, the writers of a process take turns.
        let looks_before =
            may_skip && !tried && !self.before && self.conn.kind() == DatabaseKind::Postgres;
        if !looks_before || self.is_stored(on).await? {
            if !tried && let Some(saved) = self.update(None, on).await? {
                return Ok(Some(saved));
            }
            if may_skip
                && inspect::counts_rows(self.conn, self.rows).await?
                && let Some(saved) = self.find_and_settle(on).await?
            {
                return Ok(Some(saved));
            }
        }
        // Only now, so that an UPDATE of a table with triggers needs no transaction.
        if !self.can_insert().await? {
            return Err(self.needs_transaction());
        }
        match on {
            Some(_) => self.insert_or_nothing(on).await,
            None => self.insert_if_new().await,
        }
    }

    /// Returns `None` if the row was not written: the caller then settles it.
    async fn update(
        &mut self,
        set: Option<&[usize]>,
        on: Option<&[usize]>,
    ) -> Result<Option<Stored>> {
        let model = self.rows.schema();
        let is_postgres = self.conn.kind() == DatabaseKind::Postgres;
        if self.before && is_postgres && self.may_skip_updates().await? {
            // Without a lock, it would not be known whether a trigger has skipped the row, or the previous row was outdated.
            return Ok(None);
        }
        if let (None, None, false) = (set, on, self.before) {
            return Single::update(model).run(self.conn, self.rows).await;
        }
        let checked = on.is_none() && model.has(ColumnGroup::Version);
        let (set, on) = self.columns(set, on);
        if self.before {
            let update = Update { set: &set, on: &on, checked, before: true, locked: false };
            let (chunk, op) = (Chunk::of_row(0), BulkOp::Update(&update));
            let updated = Box::pin(bulk::write(self.conn, self.rows, &chunk, op)).await?;
            return Ok((!updated.is_empty()).then_some(UPDATED));
        }
        Single::Update(Text::update(set, on, checked)).run(self.conn, self.rows).await
    }

    async fn is_stored(&mut self, on: Option<&[usize]>) -> Result<bool> {
        let (_, on) = self.columns(None, on);
        let stored = stored_by(self.conn, self.rows, &Chunk::of_row(0), on, false).await?;
        Ok(!stored.is_empty())
    }

    fn columns(&self, set: Option<&[usize]>, on: Option<&[usize]>) -> (Vec<usize>, Vec<usize>) {
        let model = self.rows.schema();
        let group = |group| model.group(group).collect();
        let set = set.map_or_else(|| group(ColumnGroup::Set), <[_]>::to_vec);
        (set, on.map_or_else(|| group(ColumnGroup::Key), <[_]>::to_vec))
    }

    /// Whether triggers of the table may skip the UPDATE of a row, or write something else in its place.
    async fn may_skip_updates(&mut self) -> Result<bool> {
        inspect::may_skip_updates(self.conn, self.rows).await
    }

    /// Settles the row that has the same values in these columns.
    async fn find_and_settle(&mut self, on: Option<&[usize]>) -> Result<Option<Stored>> {
        match on {
            Some(_) => self.settle(None, on).await,
            None => self.look_and_settle(None).await,
        }
    }

    /// As [`settle`](Self::settle) by the key, if a row with the version of the instance is stored.
    async fn look_and_settle(&mut self, set: Option<&[usize]>) -> Result<Option<Stored>> {
        match look(self.conn, self.rows).await? {
            Look::Same => self.settle(set, None).await,
            Look::Stale => Err(stale(self.rows, 0)),
            Look::Gone => Ok(None),
        }
    }

    /// Determines why an UPDATE has not written the row, and retries it, unless a trigger has skipped the row. Returns `None` if there is
    /// no such row.
    ///
    /// Outside a transaction, the whole save has to begin again in one. If only this step ran in a
    /// transaction and the future were dropped during its COMMIT, no receiver would be notified,
    /// although the row may be stored.
    async fn settle(
        &mut self,
        set: Option<&[usize]>,
        on: Option<&[usize]>,
    ) -> Result<Option<Stored>> {
        let writes = self.before || !self.may_skip_updates().await?;
        if writes && !self.conn.in_transaction() {
            return Err(self.needs_transaction());
        }
        let checked = on.is_none();
        let (set, on) = self.columns(set, on);
        let update = Update { set: &set, on: &on, checked, before: self.before, locked: false };
        match settle(self.conn, self.rows, 0, &update, writes).await? {
            Unwritten::Updated | Unwritten::Unchanged => Ok(Some(UPDATED)),
            Unwritten::Stale => Err(stale(self.rows, 0)),
            Unwritten::Gone => Ok(None),
        }
    }

    /// The error that ends the save, which then begins again in a transaction.
    fn needs_transaction(&mut self) -> Error {
        self.conn.state.autocommit = Autocommit::NeedsTransaction;
        Error::NotStored { model: self.rows.model() }
    }

    /// Whether an INSERT that does not store the row has no effect, or can be undone.
    async fn can_insert(&mut self) -> Result<bool> {
        let (kind, insert) = (self.conn.kind(), &WriteKind::Insert);
        if self.conn.in_transaction() {
            return Ok(true);
        }
        match self.conn.facts().commits_itself(kind, self.rows, insert) {
            Some(known) => Ok(known),
            None => inspect::commits_itself(self.conn, self.rows, insert).await,
        }
    }

    /// UPDATE of the row that an INSERT conflicts with. The index may compare the values differently
    /// than `=` does: a column may be of type `citext`, the index may have a collation, or a trigger
    /// may change the values.
    async fn update_as_index_says(&mut self, on: Option<&[usize]>) -> Result<Option<Stored>> {
        let key: Vec<_> = self.rows.schema().group(ColumnGroup::Key).collect();
        let target = on.unwrap_or(&key);
        if !arbiter::is_arbiter(self.conn, self.rows, target).await? {
            return Ok(None);
        }
        let Some(found) = conflicting(self.conn, self.rows, target).await? else {
            return Ok(None);
        };
        let keyed = self.rows.has_key(0);
        for column in &key {
            self.rows.set(0, *column, &found, *column)?;
        }
        let by_key = on.map(|_| &key[..]);
        if let Some(saved) = self.update(None, by_key).await? {
            return Ok(Some(saved));
        }
        let settled = self.settle(None, by_key).await;
        if !keyed && !matches!(settled, Ok(Some(_))) {
            // The UPDATE found no row. The key may be that of the row which the rolled-back INSERT of
            // `conflicting` stored, so it must not be used for the next attempt.
            self.rows.clear_key(0);
        }
        settled
    }

    async fn key_is_arbiter(&mut self) -> Result<bool> {
        let key: Vec<_> = self.rows.schema().group(ColumnGroup::Key).collect();
        arbiter::is_arbiter(self.conn, self.rows, &key).await
    }

    /// INSERT after an UPDATE by key that has reported no row. Returns `None` if another row has the
    /// key.
    async fn insert_if_new(&mut self) -> Result<Option<Stored>> {
        if self.key_is_arbiter().await? {
            return self.insert_or_nothing(None).await;
        }
        let found = self.found_uncounted().await?;
        if found == Some(true) {
            return Ok(Some(UPDATED));
        }
        // Before the INSERT, which would store a row with another version once more if the key has no unique index, would wait for a
        // transaction that is writing the row, and could not be followed by a lookup inside a transaction of PostgreSQL.
        let versioned = self.rows.schema().has(ColumnGroup::Version);
        let looks_before = found.is_none() && versioned;
        if looks_before && look(self.conn, self.rows).await? != Look::Gone {
            return Ok(None);
        }
        let sql = self.rows.schema().insert_with_key;
        let insert = Single::Insert(Text::Fixed(sql, &EVERY, &[ColumnGroup::Computed]));
        match insert.run(self.conn, self.rows).await {
            Ok(None) if found.is_some() => self.inserted_uncounted().await.map(Some),
            // Another transaction may have stored the row in between. Inside a transaction,
            // PostgreSQL accepts no further statements after this error.
            Err(error) if error.is_unique_violation() && !self.conn.in_transaction() => {
                let is_free = self.conn.depth().await == 0;
                match is_free && look(self.conn, self.rows).await? != Look::Gone {
                    true => Ok(None),
                    false => Err(error),
                }
            }
            done => done,
        }
    }

    /// INSERT that stores nothing if a row conflicts with it in the columns `on`.
    async fn insert_or_nothing(&mut self, on: Option<&[usize]>) -> Result<Option<Stored>> {
        let text = match on {
            None => {
                let sql = self.rows.schema().insert_or_nothing;
                Text::Fixed(sql, &EVERY, &[ColumnGroup::Computed])
            }
            Some(on) => Text::insert(StatementKind::InsertOrNothing, self.rows, on),
        };
        Single::Insert(text).run(self.conn, self.rows).await
    }

    /// Whether an UPDATE by key has found the row, if the database does not report that itself.
    /// Returns `None` if it does.
    ///
    /// # Errors
    ///
    /// Returns an error if the model has a version: the stored version then does not show whether
    /// the UPDATE has set it.
    async fn found_uncounted(&mut self) -> Result<Option<bool>> {
        if inspect::counts_rows(self.conn, self.rows).await? {
            return Ok(None);
        }
        let versioned = self.rows.schema().has(ColumnGroup::Version);
        match look(self.conn, self.rows).await? {
            Look::Gone => Ok(Some(false)),
            Look::Same if !versioned => Ok(Some(true)),
            Look::Same | Look::Stale => Err(Error::other(format!(
                "SQLite does not say whether an UPDATE of a view has found a row, so `{}`, which has a version, cannot be updated \
                 through its view `{}`; make it a model of the table",
                self.rows.model(),
                self.rows.table(),
            ))),
        }
    }

    /// Determines the result of an INSERT if the database reports that no row was stored. A database
    /// that does not count the rows may have stored it all the same.
    async fn inserted_uncounted(&mut self) -> Result<Stored> {
        let is_there = self.rows.has_key(0)
            && !inspect::counts_rows(self.conn, self.rows).await?
            && look(self.conn, self.rows).await? != Look::Gone;
        if is_there { Ok(CREATED) } else { Err(Error::NotStored { model: self.rows.model() }) }
    }
}
