//! What `#[derive(Model)]` writes of a table: its columns, and the statements that are always the same.

/// The table of a model and the statements that are always the same, written by `#[derive(Model)]`.
///
/// The columns that a write sets are `$1` and up; then come the key's, the version, and what is set at the INSERT alone:
/// the order of `ColumnGroup`. An INSERT without the key leaves it out.
#[derive(Debug)]
pub struct Schema {
    /// The table, quoted.
    pub table: &'static str,
    /// The columns, in the order of the fields.
    pub columns: &'static [ColumnSpec],
    /// `INSERT` without the part of the key that the database gives, `RETURNING` the key and what the database computes.
    pub insert: &'static str,
    /// `INSERT` of all columns.
    pub insert_with_key: &'static str,
    /// `INSERT` of all columns, or nothing where the key is taken.
    pub insert_or_nothing: &'static str,
    /// `UPDATE` by key.
    pub update: &'static str,
    /// Postgres: `UPDATE`, or `INSERT` where there was nothing to update; one row that says which.
    pub save: &'static str,
    /// `DELETE` by key.
    pub delete: &'static str,
    /// `SELECT` of all columns without a condition.
    pub select: &'static str,
    /// `SELECT` of all columns by key.
    pub find: &'static str,
    /// `SELECT count(*)` up to the condition, in a parenthesis that is open.
    pub count: &'static str,
}

/// A column of a model's table.
#[derive(Debug, Clone, Copy)]
pub struct ColumnSpec {
    /// The name, quoted.
    pub(crate) name: &'static str,
    pub(crate) role: ColumnRole,
    /// Whether the program says that no two rows have the same value.
    pub(crate) unique: bool,
    /// Whether the field is an `Option`.
    pub(crate) optional: bool,
    /// Whether the field is stored as JSON.
    pub(crate) json: bool,
}

impl ColumnSpec {
    /// A column of this name, which is quoted.
    pub const fn new(name: &'static str, role: ColumnRole) -> Self {
        Self { name, role, unique: false, optional: false, json: false }
    }

    /// One whose field is an `Option`, or not.
    pub const fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }

    /// One whose field is stored as JSON.
    pub const fn json(mut self) -> Self {
        self.json = true;
        self
    }

    /// One of which no two rows have the same value.
    pub const fn unique(mut self) -> Self {
        self.unique = true;
        self
    }
}

/// What a column is to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnRole {
    /// Written as the instance has it.
    Plain,
    /// Part of the key, which the program gives.
    Key,
    /// The key, which the database gives.
    GeneratedKey,
    /// Computed by the database: never written.
    Generated,
    /// Set at the INSERT.
    AutoNowAdd,
    /// Set at every write.
    AutoNow,
    /// One more at every write.
    Version,
}

/// Columns that stand together in the arguments of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ColumnGroup {
    Set,
    Key,
    Version,
    Added,
    Computed,
}

impl ColumnRole {
    pub(crate) fn group(self) -> ColumnGroup {
        match self {
            ColumnRole::Plain | ColumnRole::AutoNow => ColumnGroup::Set,
            ColumnRole::Key | ColumnRole::GeneratedKey => ColumnGroup::Key,
            ColumnRole::Version => ColumnGroup::Version,
            ColumnRole::AutoNowAdd => ColumnGroup::Added,
            ColumnRole::Generated => ColumnGroup::Computed,
        }
    }
}

impl Schema {
    /// The columns of a group, by their places.
    pub(crate) fn group(&self, group: ColumnGroup) -> impl Iterator<Item = usize> {
        let columns = self.columns.iter().enumerate();
        columns.filter(move |(_, c)| c.role.group() == group).map(|(i, _)| i)
    }

    pub(crate) fn has(&self, group: ColumnGroup) -> bool {
        self.group(group).next().is_some()
    }

    /// Whether there is a column that is set to the time of a write.
    pub(crate) fn has_times(&self) -> bool {
        self.columns.iter().any(|c| matches!(c.role, ColumnRole::AutoNow | ColumnRole::AutoNowAdd))
    }

    /// Whether nothing but the key is for the library or the database to set.
    pub(crate) fn is_only_key(&self) -> bool {
        self.columns.iter().all(|c| {
            matches!(c.role, ColumnRole::Plain | ColumnRole::Key | ColumnRole::GeneratedKey)
        })
    }

    pub(crate) fn name(&self, column: usize) -> &'static str {
        self.columns[column].name
    }
}
