//! The SQL of statements that depend on more than the model: on the columns and on the number of rows.
//!
//! Several rows are passed to a statement as a table expression named `_given`. Its columns are named after their
//! indexes in the model (`c0`, `c1`, …); its column `_n` is the number of the row. On PostgreSQL the columns come from arrays,
//! so the text of the statement is the same for any number of rows. An UPDATE or a DELETE on PostgreSQL has no `WITH`, because a
//! table with a rule accepts none.

use crate::database::backend::DatabaseKind;
use crate::table::expression::{differ, unnest};
use crate::table::schema::{ColumnGroup, ColumnSpec, Schema};
use crate::table::statement_spec::{RowInput, StatementKind, StatementSpec};

/// The SQL of a statement.
pub(crate) fn sql(spec: &StatementSpec, model: &Schema, kind: DatabaseKind) -> String {
    let composer = Composer { spec, model, kind, given: unused_name(model.table, "_given") };
    match (spec.kind, kind) {
        (StatementKind::Insert, _) => composer.insert(),
        (StatementKind::InsertOrNothing, _) => composer.insert_or_nothing(),
        (StatementKind::Conflicting, _) => composer.conflicting(),
        (StatementKind::UpdateOne, _) => composer.update_one(),
        (StatementKind::Save, _) => composer.save(),
        (StatementKind::Update, DatabaseKind::Postgres) => composer.update_in_postgres(),
        (StatementKind::Update, DatabaseKind::Sqlite) => composer.update_in_sqlite(),
        (StatementKind::Find, _) => composer.find(),
        (StatementKind::CheckVersion, _) => composer.check_version(),
        (StatementKind::Lock | StatementKind::LockMatching, DatabaseKind::Postgres) => {
            format!("{} FOR NO KEY UPDATE OF _stored", composer.select())
        }
        (StatementKind::LockToDelete, DatabaseKind::Postgres) => {
            format!("{} FOR UPDATE OF _stored", composer.select())
        }
        (
            StatementKind::Select
            | StatementKind::Lock
            | StatementKind::LockToDelete
            | StatementKind::Match
            | StatementKind::LockMatching,
            _,
        ) => composer.select(),
        (StatementKind::Delete, DatabaseKind::Postgres) => composer.delete_in_postgres(),
        (StatementKind::Delete, DatabaseKind::Sqlite) => composer.delete_in_sqlite(),
    }
}

/// Composes the SQL of one statement.
pub(super) struct Composer<'s> {
    pub(super) spec: &'s StatementSpec,
    pub(super) model: &'s Schema,
    pub(super) kind: DatabaseKind,
    /// The name of the table expression of the rows.
    pub(super) given: String,
}

impl Composer<'_> {
    fn insert(&self) -> String {
        let into = self.insert_into();
        let returning = self.returning();
        match self.spec.input {
            RowInput::Arrays => {
                let columns: Vec<_> = (1..=self.spec.columns.len()).map(unnest).collect();
                format!("{into} SELECT {}{returning}", columns.join(", "))
            }
            RowInput::Values(rows) => {
                let values = self.values(rows, self.spec.columns.len(), |_| String::new());
                format!("{into} VALUES {values}{returning}")
            }
        }
    }

    fn insert_or_nothing(&self) -> String {
        let (into, on, returning) =
            (self.insert_into(), self.names(&self.spec.on), self.returning());
        let placeholders = self.placeholders(self.spec.columns.len());
        format!("{into} VALUES ({placeholders}) ON CONFLICT ({on}) DO NOTHING{returning}")
    }

    fn conflicting(&self) -> String {
        let (table, on) = (self.model.table, self.names(&self.spec.on));
        let columns = self.names(&self.spec.columns);
        let placeholders = self.placeholders(self.spec.columns.len());
        let every: Vec<usize> = (0..self.model.columns.len()).collect();
        // On PostgreSQL, setting a column of a unique index takes a stronger lock, which would wait for the transactions that insert rows with
        // a foreign key to this one.
        let is_plain = |c: &ColumnSpec| c.role.group() == ColumnGroup::Set && !c.unique;
        let plain = (0..self.model.columns.len())
            .find(|c| is_plain(&self.model.columns[*c]) && !self.spec.on.contains(c));
        let same = self.model.name(plain.unwrap_or(self.spec.on[0]));
        // In RETURNING, SQLite knows the table by its name alone.
        let table_name = match self.kind {
            DatabaseKind::Sqlite => self.model.short_table(),
            DatabaseKind::Postgres => "_stored",
        };
        let every = list(&every, |c| format!("{table_name}.{}", self.model.name(c)));
        format!(
            "INSERT INTO {table} AS _stored ({columns}) VALUES ({placeholders}) ON CONFLICT ({on}) DO UPDATE SET {same} = \
             _stored.{same} RETURNING {every}"
        )
    }

    fn update_one(&self) -> String {
        let binds = self.spec.binds(self.model);
        let placeholder = |column: usize| self.placeholder(&binds, column);
        let set = self.set(placeholder);
        let mut conditions: Vec<_> = self.conditions(&self.spec.on, placeholder);
        if self.spec.checked {
            let version: Vec<_> = self.model.group(ColumnGroup::Version).collect();
            conditions.extend(self.conditions(&version, placeholder));
        }
        let (table, conditions) = (self.model.table, conditions.join(" AND "));
        format!("UPDATE {table} SET {set} WHERE {conditions}{}", self.returning())
    }

    /// One statement that updates or inserts, and tells which; like [`Schema::save`], for other columns.
    fn save(&self) -> String {
        let binds = self.spec.binds(self.model);
        let placeholder = |column: usize| self.placeholder(&binds, column);
        let set = self.set(placeholder);
        let (table, on) =
            (self.model.table, self.conditions(&self.spec.on, placeholder).join(" AND "));
        let columns = self.spec.returned(self.model);
        let list: String = columns.iter().map(|c| format!(", {}", self.model.name(*c))).collect();
        let returned = if columns.is_empty() { "1".to_owned() } else { self.names(&columns) };
        let (into, placeholders) = (self.insert_into(), self.placeholders(binds.len()));
        let conflict = self.names(&self.spec.on);
        format!(
            "WITH _updated AS (UPDATE {table} SET {set} WHERE {on} RETURNING {returned}), _inserted AS ({into} SELECT \
             {placeholders} WHERE NOT EXISTS (SELECT 1 FROM _updated) ON CONFLICT ({conflict}) DO NOTHING RETURNING \
             {returned}) SELECT false{list} FROM _updated UNION ALL SELECT true{list} FROM _inserted"
        )
    }

    fn update_in_postgres(&self) -> String {
        let Self { spec, model, given, .. } = self;
        let (table, (name, rows)) = (model.table, self.given_rows());
        let set = self.set(|c| format!("{given}.c{c}"));
        let matches = self.matches();
        let returned = self.returned_with_number();
        if !spec.before {
            return format!(
                "UPDATE {table} AS _stored SET {set} FROM ({rows}) AS {name} WHERE {matches} RETURNING {returned}"
            );
        }
        let every: Vec<usize> = (0..model.columns.len()).collect();
        let joined =
            spec.on.iter().map(|c| format!("_before.{} = {}", model.name(*c), self.found(*c)));
        let joined = joined.collect::<Vec<_>>().join(" AND ");
        let old = list(&every, |c| format!("_before.{}", model.name(c)));
        let changed = list(&every, |c| {
            let name = model.name(c);
            differ(&format!("_before.{name}"), &format!("_stored.{name}"))
        });
        // `_before` is read without a lock: the UPDATE takes the lock that it needs, and a stronger one would conflict with
        // transactions that reference the row. If the UPDATE has to wait for another transaction, it continues with the row
        // that this transaction has written, while `_before` is still the old row. Such a row is excluded here; the caller
        // tries it again with a lock. With the lock nothing is compared, because a computed column of a view may differ each time
        // that it is read.
        let same = every.iter().filter(|_| !spec.locked).map(|c| {
            let name = model.name(*c);
            format!(" AND _stored.{name}::text IS NOT DISTINCT FROM _before.{name}::text")
        });
        let same: String = same.collect();
        format!(
            "UPDATE {table} AS _stored SET {set} FROM ({rows}) AS {name} JOIN {table} AS _before ON {joined} WHERE {matches}{same} \
             RETURNING {returned}, {old}, {changed}"
        )
    }

    fn update_in_sqlite(&self) -> String {
        let (table, given, with) = (self.model.table, &self.given, self.with());
        let (set, matches) = (self.set(|c| format!("{given}.c{c}")), self.matches());
        format!("{with} UPDATE {table} AS _stored SET {set} FROM {given} WHERE {matches}")
    }

    fn find(&self) -> String {
        let binds = self.spec.binds(self.model);
        let on = self.conditions(&self.spec.on, |c| self.placeholder(&binds, c)).join(" AND ");
        format!("{} WHERE {on}", self.model.select)
    }

    fn check_version(&self) -> String {
        let binds = self.spec.binds(self.model);
        let placeholder = |c: usize| self.placeholder(&binds, c);
        let version: Vec<_> = self.model.group(ColumnGroup::Version).collect();
        let same =
            self.conditions(&version, placeholder).pop().unwrap_or_else(|| "true".to_owned());
        let (table, on) =
            (self.model.table, self.conditions(&self.spec.on, placeholder).join(" AND "));
        // A version that is NULL is not that of the instance.
        format!("SELECT coalesce({same}, false) FROM {table} WHERE {on}")
    }

    fn select(&self) -> String {
        let matching = matches!(self.spec.kind, StatementKind::Match | StatementKind::LockMatching);
        let each = matching || self.spec.input == RowInput::Values(1);
        let (table, given, with, matches) =
            (self.model.table, &self.given, self.with(), self.matches());
        let columns = self.stored(&self.spec.columns);
        match self.kind {
            DatabaseKind::Postgres if matching => {
                let (name, rows) = self.given_rows();
                format!(
                    "SELECT {given}._n{columns} FROM ({rows}) AS {name} JOIN {table} AS _stored ON {matches}"
                )
            }
            DatabaseKind::Postgres => format!(
                "{with} SELECT {given}._n{columns} FROM {given} JOIN {table} AS _stored ON {matches}"
            ),
            // SQLite keeps the order of a CROSS JOIN: the table may be large, but the given rows are few.
            DatabaseKind::Sqlite if each => format!(
                "{with} SELECT {given}._n{columns} FROM {given} CROSS JOIN {table} AS _stored WHERE {matches}"
            ),
            // Return each stored row once, even if it was passed twice.
            DatabaseKind::Sqlite => {
                let on = self.stored(&self.spec.on);
                let on = on.trim_start_matches(", ");
                format!(
                    "{with} SELECT min({given}._n){columns} FROM {given} CROSS JOIN {table} AS _stored WHERE {matches} \
                     GROUP BY {on}"
                )
            }
        }
    }

    fn delete_in_postgres(&self) -> String {
        let (table, given, matches) = (self.model.table, &self.given, self.matches());
        let (name, rows) = self.given_rows();
        let columns = self.stored(&self.spec.columns);
        format!(
            "DELETE FROM {table} AS _stored USING ({rows}) AS {name} WHERE {matches} RETURNING {given}._n{columns}"
        )
    }

    fn delete_in_sqlite(&self) -> String {
        let (table, given, with) = (self.model.table, &self.given, self.with());
        let on = self.qualified(&self.spec.on);
        let given_on = list(&self.spec.on, |c| format!("c{c}"));
        format!("{with} DELETE FROM {table} WHERE ({on}) IN (SELECT {given_on} FROM {given})")
    }

    fn insert_into(&self) -> String {
        format!("INSERT INTO {} ({})", self.model.table, self.names(&self.spec.columns))
    }

    /// The assignments of an UPDATE. If it sets no column, the row is set to itself, so that the database reports whether the
    /// row exists.
    fn set(&self, value: impl Fn(usize) -> String) -> String {
        let name = |column| self.model.name(column);
        // If the previous row is joined, the bare column name is ambiguous.
        let stored = if self.spec.kind == StatementKind::Update { "_stored." } else { "" };
        let set = |c: &usize| self.model.columns[*c].role.group() == ColumnGroup::Set;
        let columns = self.spec.columns.iter().filter(|c| set(c));
        let mut set: Vec<_> = columns.map(|c| format!("{} = {}", name(*c), value(*c))).collect();
        if let Some(version) = self.model.group(ColumnGroup::Version).next() {
            set.push(format!("{0} = {stored}{0} + 1", name(version)));
        }
        if set.is_empty() {
            set = self.equal(&self.spec.on, |c| format!("{stored}{}", name(c)));
        }
        set.join(", ")
    }

    /// The condition that a stored row is the given row.
    fn matches(&self) -> String {
        let (spec, model, given) = (self.spec, self.model, &self.given);
        let on = spec.on.iter().map(|c| (*c, self.found(*c)));
        let version = model.group(ColumnGroup::Version).filter(|_| spec.checked);
        let matches = on.chain(version.map(|c| (c, format!("{given}.c{c}"))));
        let matches = matches.map(|(c, value)| format!("_stored.{} = {value}", model.name(c)));
        matches.collect::<Vec<_>>().join(" AND ")
    }

    /// The SQL of the value that a column is compared with.
    fn found(&self, column: usize) -> String {
        let mut found_by = self.spec.found_by(self.kind).iter();
        match found_by.position(|c| *c == column) {
            Some(index) => {
                format!("${}", self.spec.input_columns(self.model, self.kind).len() + index + 1)
            }
            None => format!("{}.c{column}", self.given),
        }
    }

    /// The cast of a value to the type as which it is compared with its column.
    pub(super) fn cast(&self, column: usize) -> String {
        let casts = self.spec.casts.as_deref().unwrap_or_default();
        let ty = casts.iter().find(|(of, _)| *of == column && self.spec.on.contains(of));
        ty.map_or_else(String::new, |(_, ty)| format!("::{ty}"))
    }

    fn returned_with_number(&self) -> String {
        format!("{}._n{}", self.given, self.stored(&self.spec.returned(self.model)))
    }

    /// Columns of the table, each preceded by a comma.
    fn stored(&self, columns: &[usize]) -> String {
        columns.iter().map(|c| format!(", _stored.{}", self.model.name(*c))).collect()
    }

    fn returning(&self) -> String {
        match &self.spec.returned(self.model)[..] {
            [] => String::new(),
            columns => format!(" RETURNING {}", self.qualified(columns)),
        }
    }

    fn names(&self, columns: &[usize]) -> String {
        list(columns, |c| self.model.name(c).to_owned())
    }

    fn qualified(&self, columns: &[usize]) -> String {
        list(columns, |c| self.model.qualified(c))
    }

    fn conditions(&self, columns: &[usize], value: impl Fn(usize) -> String) -> Vec<String> {
        columns.iter().map(|c| format!("{} = {}", self.model.qualified(*c), value(*c))).collect()
    }

    /// The assignments of columns.
    fn equal(&self, columns: &[usize], value: impl Fn(usize) -> String) -> Vec<String> {
        columns.iter().map(|c| format!("{} = {}", self.model.name(*c), value(*c))).collect()
    }

    fn placeholders(&self, count: usize) -> String {
        let placeholders: Vec<_> = (1..=count).map(|n| format!("${n}")).collect();
        placeholders.join(", ")
    }

    /// The placeholder of a column.
    fn placeholder(&self, binds: &[usize], column: usize) -> String {
        let index = binds.iter().position(|c| *c == column).unwrap_or_default();
        format!("${}", index + 1)
    }
}

/// A name that does not occur in the name of the table, ignoring case.
fn unused_name(table: &str, name: &str) -> String {
    let (table, mut name) = (table.to_lowercase(), name.to_owned());
    while table.contains(&name) {
        name.push('_');
    }
    name
}

fn list(columns: &[usize], text: impl Fn(usize) -> String) -> String {
    columns.iter().map(|c| text(*c)).collect::<Vec<_>>().join(", ")
}

pub(super) fn comma(index: usize) -> &'static str {
    if index == 0 { "" } else { ", " }
}
