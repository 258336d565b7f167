//! What distinguishes the statements that are composed at run time: what they do, with which columns and how many rows.

use crate::database::backend::DatabaseKind;
use crate::database::schema_cache::Casts;
use crate::table::schema::{ColumnGroup, Schema};

/// What distinguishes a composed statement from the others of its model. It is the key of the statement cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StatementSpec {
    pub(crate) kind: StatementKind,
    pub(crate) input: RowInput,
    /// The columns that it inserts, sets or reads.
    pub(crate) columns: Vec<usize>,
    /// The columns by which a row is found.
    pub(crate) on: Vec<usize>,
    /// Whether the stored version must equal the version of the row.
    pub(crate) checked: bool,
    /// Whether it returns the previous rows too.
    pub(crate) before: bool,
    /// Whether the rows are locked already, so that the previous rows cannot be outdated.
    pub(crate) locked: bool,
    /// The types to which values are cast before they are compared with their columns.
    pub(crate) casts: Casts,
}

/// What a composed statement does. "The rows" are the rows that are passed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StatementKind {
    /// INSERT of the rows.
    Insert,
    /// INSERT of one row, unless there is a conflicting row.
    InsertOrNothing,
    /// INSERT of one row that returns the stored row if the unique index reports a conflict. The caller undoes it.
    Conflicting,
    /// UPDATE of one row.
    UpdateOne,
    /// PostgreSQL: UPDATE of one row, or INSERT if there is no such row.
    Save,
    /// UPDATE of the rows.
    Update,
    /// SELECT of the rows as they are stored.
    Select,
    /// As `Select`, with the lock that an UPDATE of the rows takes.
    Lock,
    /// As `Select`, with the lock that a DELETE of the rows takes.
    LockToDelete,
    /// SELECT of all stored rows that have the values of a row in the columns `on`, once for each such row.
    Match,
    /// As `Match`, with the lock that an UPDATE of the rows takes.
    #[cfg_attr(not(feature = "durable"), allow(dead_code))]
    LockMatching,
    /// SELECT of the stored row that has the same values in the columns `on`.
    Find,
    /// SELECT of whether the stored row has the expected version. It returns no row if the row is not stored.
    CheckVersion,
    /// DELETE of the rows.
    Delete,
}

/// How rows are passed to a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RowInput {
    /// One array per column.
    Arrays,
    /// This number of rows of values.
    Values(usize),
}

impl StatementSpec {
    pub(crate) fn new(
        kind: StatementKind,
        input: RowInput,
        columns: Vec<usize>,
        on: Vec<usize>,
    ) -> Self {
        Self { kind, input, columns, on, checked: false, before: false, locked: false, casts: None }
    }

    /// The columns whose values are the arguments, in the order of the arguments.
    pub(crate) fn binds(&self, model: &Schema) -> Vec<usize> {
        let mut binds = match self.kind {
            StatementKind::Find
            | StatementKind::CheckVersion
            | StatementKind::Select
            | StatementKind::Lock
            | StatementKind::LockToDelete
            | StatementKind::Match
            | StatementKind::LockMatching
            | StatementKind::Delete => Vec::new(),
            _ => self.columns.clone(),
        };
        let inserts = [
            StatementKind::Insert,
            StatementKind::InsertOrNothing,
            StatementKind::Conflicting,
            StatementKind::Save,
        ];
        if !inserts.contains(&self.kind) {
            let on: Vec<_> = self.on.iter().copied().filter(|c| !binds.contains(c)).collect();
            binds.extend(on);
        }
        if self.checked {
            binds.extend(model.group(ColumnGroup::Version));
        }
        binds
    }

    /// The columns of `_given`, in the order of the arguments.
    pub(crate) fn input_columns(&self, model: &Schema, kind: DatabaseKind) -> Vec<usize> {
        if !self.compares_arguments(kind) {
            return self.binds(model);
        }
        let set = self.columns.iter().copied().filter(|_| self.kind == StatementKind::Update);
        set.chain(model.group(ColumnGroup::Version).filter(|_| self.checked)).collect()
    }

    /// The columns that are compared with an argument of their own. These arguments follow those of `_given`.
    ///
    /// A column of `_given` has the type of its value. An argument that only serves to find the row has the type of the column
    /// that it is compared with.
    pub(crate) fn found_by(&self, kind: DatabaseKind) -> &[usize] {
        if self.compares_arguments(kind) { &self.on } else { &[] }
    }

    fn compares_arguments(&self, kind: DatabaseKind) -> bool {
        let joins = matches!(
            self.kind,
            StatementKind::Update
                | StatementKind::Select
                | StatementKind::Lock
                | StatementKind::LockToDelete
                | StatementKind::Match
                | StatementKind::LockMatching
                | StatementKind::Delete
        );
        joins && kind == DatabaseKind::Postgres && self.input == RowInput::Values(1)
    }

    /// The columns that the statement returns, in this order.
    pub(crate) fn returned(&self, model: &Schema) -> Vec<usize> {
        let computed = model.group(ColumnGroup::Computed);
        match self.kind {
            StatementKind::Insert | StatementKind::InsertOrNothing => {
                let key = model.group(ColumnGroup::Key).filter(|c| !self.columns.contains(c));
                key.chain(computed).collect()
            }
            StatementKind::UpdateOne | StatementKind::Save | StatementKind::Update => {
                // If the row is found by its key, the instance has the key already; if the version was compared, it has the
                // version.
                let key = model.group(ColumnGroup::Key).filter(|_| !self.by_key(model));
                let version = model.group(ColumnGroup::Version).filter(|_| !self.checked);
                key.chain(version).chain(computed).chain(model.group(ColumnGroup::Added)).collect()
            }
            StatementKind::Conflicting
            | StatementKind::Find
            | StatementKind::CheckVersion
            | StatementKind::Select
            | StatementKind::Lock
            | StatementKind::LockToDelete
            | StatementKind::Match
            | StatementKind::LockMatching
            | StatementKind::Delete => Vec::new(),
        }
    }

    /// Whether the row is found by its key.
    pub(crate) fn by_key(&self, model: &Schema) -> bool {
        model.group(ColumnGroup::Key).eq(self.on.iter().copied())
    }
}
