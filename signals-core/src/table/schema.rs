//! The description of a model's table that `#[derive(Model)]` generates: the columns, and the statements that never vary.

use crate::database::backend::DatabaseKind;

/// The table of a model, and its statements that never vary, as `#[derive(Model)]` generates them.
///
/// The parameters of a statement are in the order of `ColumnGroup`: the columns that a write sets are `$1` and up, followed by
/// the key, the version, and the columns that only an INSERT sets. An INSERT without the key omits the key's parameters.
#[derive(Debug)]
pub struct Schema {
    /// The quoted name of the table.
    pub table: &'static str,
    /// The columns, in the order of the fields.
    pub columns: &'static [ColumnSpec],
    /// The roles that the columns have.
    pub roles: RoleSet,
    /// The number of columns of the key.
    pub keys: usize,
    /// INSERT without the part of the key that the database assigns, RETURNING the key and the columns that the database
    /// computes.
    pub insert: &'static str,
    /// INSERT of all columns.
    pub insert_with_key: &'static str,
    /// INSERT of all columns that does nothing if the key is taken.
    pub insert_or_nothing: &'static str,
    /// UPDATE by key.
    pub update: &'static str,
    /// PostgreSQL only: UPDATE by key, or INSERT if there is no such row. Returns one row, which tells whether it was inserted.
    pub save: &'static str,
    /// DELETE by key.
    pub delete: &'static str,
    /// SELECT of all columns, without a condition.
    pub select: &'static str,
    /// SELECT of all columns by key.
    pub find: &'static str,
    /// The start of `SELECT count(*) FROM (…) AS matching`, up to the condition. The parenthesis is still open.
    pub count: &'static str,
}

/// A column of a model's table.
#[derive(Debug, Clone, Copy)]
pub struct ColumnSpec {
    /// The quoted name.
    pub(crate) name: &'static str,
    pub(crate) role: ColumnRole,
    /// Whether the field has `#[model(unique)]`.
    pub(crate) unique: bool,
    /// Whether the field is an `Option`.
    pub(crate) optional: bool,
    /// Whether the field is stored as JSON.
    pub(crate) json: bool,
}

impl ColumnSpec {
    /// A column with this name, which must be quoted.
    pub const fn new(name: &'static str, role: ColumnRole) -> Self {
        Self { name, role, unique: false, optional: false, json: false }
    }

    /// Sets whether the field is an `Option`.
    pub const fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }

    /// Marks the field as stored as JSON.
    pub const fn json(mut self) -> Self {
        self.json = true;
        self
    }

    /// Marks the column as unique.
    pub const fn unique(mut self) -> Self {
        self.unique = true;
        self
    }
}

/// Who sets a column, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnRole {
    /// The program sets it at every write.
    Plain,
    /// Part of the key, which the program sets.
    Key,
    /// The key, which the database assigns.
    GeneratedKey,
    /// The database computes it. It is never written.
    Generated,
    /// The library sets it to the current time at the INSERT.
    AutoNowAdd,
    /// The library sets it to the current time at every write.
    AutoNow,
    /// The library increments it at every write.
    Version,
}

/// The roles that occur among the columns of a table, as a bit set: a write asks for them several times.
#[derive(Debug, Clone, Copy)]
pub struct RoleSet(u8);

impl RoleSet {
    /// A set of these roles.
    pub const fn of(roles: &[ColumnRole]) -> Self {
        let (mut all, mut role) = (0, 0);
        while role < roles.len() {
            all |= 1 << roles[role] as u8;
            role += 1;
        }
        Self(all)
    }

    const fn has_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Columns that are next to each other in the parameters of a statement. The order of the variants is the order of the
/// parameters.
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

impl ColumnGroup {
    /// The roles of the columns in this group.
    const fn roles(self) -> RoleSet {
        match self {
            Self::Set => const { RoleSet::of(&[ColumnRole::Plain, ColumnRole::AutoNow]) },
            Self::Key => const { RoleSet::of(&[ColumnRole::Key, ColumnRole::GeneratedKey]) },
            Self::Version => const { RoleSet::of(&[ColumnRole::Version]) },
            Self::Added => const { RoleSet::of(&[ColumnRole::AutoNowAdd]) },
            Self::Computed => const { RoleSet::of(&[ColumnRole::Generated]) },
        }
    }
}

impl Schema {
    /// The indexes of the columns in a group.
    pub(crate) fn group(&self, group: ColumnGroup) -> impl Iterator<Item = usize> {
        let columns = if self.has(group) { self.columns } else { &[] };
        columns.iter().enumerate().filter(move |(_, c)| c.role.group() == group).map(|(i, _)| i)
    }

    pub(crate) fn has(&self, group: ColumnGroup) -> bool {
        self.roles.has_any(group.roles())
    }

    /// Whether the library sets a column to the time of a write.
    pub(crate) fn has_times(&self) -> bool {
        self.roles.has_any(const { RoleSet::of(&[ColumnRole::AutoNow, ColumnRole::AutoNowAdd]) })
    }

    /// Whether the key is the only column that the library or the database can set.
    pub(crate) fn is_only_key(&self) -> bool {
        const OTHERS: RoleSet = RoleSet::of(&[
            ColumnRole::Generated,
            ColumnRole::AutoNowAdd,
            ColumnRole::AutoNow,
            ColumnRole::Version,
        ]);
        !self.roles.has_any(OTHERS)
    }

    /// Whether the database assigns the key.
    pub(crate) fn generates_key(&self) -> bool {
        self.roles.has_any(const { RoleSet::of(&[ColumnRole::GeneratedKey]) })
    }

    pub(crate) fn name(&self, column: usize) -> &'static str {
        self.columns[column].name
    }

    /// The quoted name of the table without its schema, by which a statement refers to its columns.
    pub(crate) fn short_table(&self) -> &'static str {
        // No name contains a dot, which `#[derive(Model)]` takes for the end of the schema.
        self.table.rsplit('.').next().unwrap_or(self.table)
    }

    /// The quoted schema of the table; `None` if the model does not name it.
    pub(crate) fn schema(&self) -> Option<&'static str> {
        self.table.rsplit_once('.').map(|(schema, _)| schema)
    }

    /// The name of a column with the name of its table. Where an expression can stand, SQLite reads the quoted name of a column that
    /// does not exist as a string, but not a qualified name (<https://www.sqlite.org/quirks.html#dblquote>).
    pub(crate) fn qualified(&self, column: usize) -> String {
        format!("{}.{}", self.short_table(), self.name(column))
    }
}

/// The name under which a database stores the name of a column: PostgreSQL truncates it to 63 bytes
/// (<https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>).
pub(crate) fn stored_name(kind: DatabaseKind, name: &str) -> &str {
    match kind {
        DatabaseKind::Postgres => &name[..name.floor_char_boundary(63)],
        DatabaseKind::Sqlite => name,
    }
}

/// The schema and the name of a SQLite table.
pub(crate) fn split_schema(table: &str) -> (&str, &str) {
    table.split_once('.').unwrap_or(("main", table))
}
