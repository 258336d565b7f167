//! What is known about the table of a model, as far as it concerns a write. `inspect.rs` looks it up.

use crate::database::backend::DatabaseKind;
use crate::database::schema_cache::{Casts, Columns, RowLocks, SchemaCache, TableFacts, Tables};
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::write::WriteKind;

impl SchemaCache {
    /// Whether a statement that writes the first row can commit itself: it succeeds or fails as a
    /// whole, and what it returns can be read. Returns `None` if this is not known yet.
    pub(crate) fn commits_itself(
        &self,
        kind: DatabaseKind,
        rows: &dyn Rows,
        write_kind: &WriteKind,
    ) -> Option<bool> {
        let returned = returned(rows, write_kind);
        // An UPDATE of a row without a key fails before anything is sent.
        let is_sent = !write_kind.is_update() || rows.has_key(0);
        let always_atomic = kind == DatabaseKind::Postgres && !begins_with_insert(rows, write_kind);
        if !is_sent || (always_atomic && returned.is_empty()) {
            return Some(true);
        }
        let all = self.tables.load();
        let known = all.get(rows.id())?;
        let atomic = always_atomic || known.atomic?;
        let all_seen = returned.without(known.seen).is_empty();
        (!atomic || all_seen).then(|| atomic && returned.without(known.readable).is_empty())
    }

    /// Whether it is known that a row does not exist if an UPDATE or a DELETE has not written it. Facts about another database with the
    /// same table are not sufficient.
    pub(crate) fn plain(&self, rows: &dyn Rows) -> bool {
        !self.is_shared && self.keeps_no_row(rows) && !rows.schema().has(ColumnGroup::Version)
    }

    pub(super) fn keeps_no_row(&self, rows: &dyn Rows) -> bool {
        self.tables.load().get(rows.id()).is_some_and(|known| known.plain)
    }

    /// Whether it is known that a refused statement has no effect.
    pub(super) fn is_atomic(&self, rows: &dyn Rows) -> bool {
        self.tables.load().get(rows.id()).is_some_and(|known| known.atomic == Some(true))
    }

    /// Whether an INSERT can name the given columns in `ON CONFLICT`, if this is known.
    pub(crate) fn arbiter(&self, rows: &dyn Rows, are: impl Fn(&[usize]) -> bool) -> Option<bool> {
        let all = self.tables.load();
        let mut arbiters = all.get(rows.id())?.arbiters.iter();
        arbiters.find(|(columns, _)| are(columns)).map(|(_, arbiter)| *arbiter)
    }

    /// Whether a trigger or a rule may skip the UPDATE of a row, or write something else in its place, if this is known. If so, an UPDATE
    /// that has written no row must not be repeated.
    pub(crate) fn may_skip_updates(&self, rows: &dyn Rows) -> Option<bool> {
        self.tables.load().get(rows.id())?.may_skip_updates
    }

    /// Whether the database counts the written rows, if this is known. The fact is used even if the
    /// schema may have changed, because otherwise every delete in a transaction would have to
    /// compare the schema first.
    pub(super) fn counted(&self, kind: DatabaseKind, rows: &dyn Rows) -> Option<bool> {
        if kind == DatabaseKind::Postgres {
            return Some(true);
        }
        self.tables.load().models.get(&rows.id())?.counted
    }

    /// The columns whose types compare text by their own rules, if this is known.
    pub(super) fn casts(&self, rows: &dyn Rows) -> Option<Casts> {
        self.tables.load().get(rows.id())?.casts.clone()
    }

    /// Which writes can lock their rows, if this is known.
    pub(super) fn row_locks(&self, rows: &dyn Rows) -> Option<RowLocks> {
        self.tables.load().get(rows.id())?.row_locks
    }

    /// Adds facts that were looked up in this `epoch`, unless the cache was cleared in the
    /// meantime.
    pub(super) fn add(&self, rows: &dyn Rows, epoch: u64, new: TableFacts) {
        self.tables.rcu(|all| {
            let mut all = Tables::clone(all);
            if all.epoch == epoch {
                let known = all.models.entry(rows.id()).or_default();
                known.seen.0 |= new.seen.0;
                known.readable.0 |= new.readable.0;
                known.atomic = new.atomic.or(known.atomic);
                known.plain |= new.plain;
                known.may_skip_updates = new.may_skip_updates.or(known.may_skip_updates);
                known.counted = new.counted.or(known.counted);
                known.row_locks = new.row_locks.or(known.row_locks);
                known.arbiters.extend(new.arbiters.clone());
                if let Some(casts) = &new.casts {
                    known.casts = Some(casts.clone());
                }
            }
            all
        });
    }
}

/// Whether the first statement of a write on PostgreSQL may insert the row. The save of a row that has a key which the database generates
/// begins with an UPDATE.
pub(super) fn begins_with_insert(rows: &dyn Rows, write_kind: &WriteKind) -> bool {
    match write_kind {
        WriteKind::Save => !rows.has_key(0) || !rows.schema().generates_key(),
        WriteKind::Insert | WriteKind::Upsert(_) | WriteKind::GetOrCreate(_) => true,
        WriteKind::Update | WriteKind::Fields(_) | WriteKind::Delete => false,
    }
}

/// The columns that a write reads back.
pub(super) fn returned(rows: &dyn Rows, write_kind: &WriteKind) -> Columns {
    use WriteKind::{Delete, Fields, GetOrCreate, Insert, Save, Update, Upsert};
    if *write_kind == Delete {
        return Columns::NONE;
    }
    let (model, keyed) = (rows.schema(), rows.has_key(0));
    let reads = |group: ColumnGroup| match (group, write_kind) {
        (ColumnGroup::Computed, _) => true,
        (ColumnGroup::Key | ColumnGroup::Version, Upsert(_)) => true,
        (ColumnGroup::Key, Insert | Save | GetOrCreate(_)) => !keyed,
        (ColumnGroup::Added, Save) => keyed,
        (ColumnGroup::Added, Update | Fields(_) | Upsert(_)) => true,
        _ => false,
    };
    let columns = model.columns.iter().enumerate();
    Columns::of(columns.filter(|(_, c)| reads(c.role.group())).map(|(column, _)| column))
}
