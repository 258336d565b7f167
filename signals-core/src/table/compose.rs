//! The statements that depend on more than the model: on which columns, and on how many rows at once.
//!
//! Several rows are given to a statement as a table `_given`, whose columns are named by their places in the model and
//! whose `_n` is the row's; on Postgres its columns come from arrays, so that the statement is the same for any number of
//! rows.

use std::fmt::Write;

use crate::database::backend::DatabaseKind;
use crate::database::schema_cache::Casts;
use crate::table::schema::{ColumnGroup, Schema};

/// StatementKind makes one such statement differ from others of its model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StatementSpec {
    pub(crate) kind: StatementKind,
    pub(crate) input: RowInput,
    /// StatementKind it inserts, sets or reads.
    pub(crate) columns: Vec<usize>,
    /// By which columns a row is found.
    pub(crate) on: Vec<usize>,
    /// Whether the version must be the one that is given.
    pub(crate) checked: bool,
    /// Whether it returns the rows as they were.
    pub(crate) before: bool,
    /// The types as which values are compared with their columns.
    pub(crate) casts: Casts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StatementKind {
    /// INSERT of the rows that are given.
    Insert,
    /// INSERT of one row, or nothing where there is one.
    InsertOrNothing,
    /// INSERT of one row, or the row that is there in its place, as the index says. It is undone.
    Conflicting,
    /// UPDATE of one row.
    UpdateOne,
    /// Postgres: UPDATE of one row, or INSERT where there was nothing to update.
    Save,
    /// UPDATE of the rows that are given.
    Update,
    /// The rows that are given, as they are stored.
    Select,
    /// As `Select`, and locked as an UPDATE of them would lock them.
    Lock,
    /// The row that is like one that is given.
    Find,
    /// Whether the row that is given is stored, and if it is, whether its version is the one that is given.
    CheckVersion,
    /// DELETE of the rows that are given.
    Delete,
}

/// How rows come into a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RowInput {
    /// An array for each column.
    Arrays,
    /// So many rows of values.
    Values(usize),
}

impl StatementSpec {
    pub(crate) fn new(
        kind: StatementKind,
        input: RowInput,
        columns: Vec<usize>,
        on: Vec<usize>,
    ) -> Self {
        Self { kind, input, columns, on, checked: false, before: false, casts: None }
    }

    /// The columns whose values are the arguments, in that order.
    pub(crate) fn binds(&self, model: &Schema) -> Vec<usize> {
        let mut binds = match self.kind {
            StatementKind::Find
            | StatementKind::CheckVersion
            | StatementKind::Select
            | StatementKind::Lock
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
        if !self.finds_by_arguments(kind) {
            return self.binds(model);
        }
        let set = self.columns.iter().copied().filter(|_| self.kind == StatementKind::Update);
        set.chain(model.group(ColumnGroup::Version).filter(|_| self.checked)).collect()
    }

    /// The columns that are compared with an argument of their own, behind those of `_given`. A column of `_given` has the
    /// type of the value; an argument that does nothing but find the row is of the type of the column that it is compared with.
    pub(crate) fn found_by(&self, kind: DatabaseKind) -> &[usize] {
        if self.finds_by_arguments(kind) { &self.on } else { &[] }
    }

    fn finds_by_arguments(&self, kind: DatabaseKind) -> bool {
        let joins = matches!(
            self.kind,
            StatementKind::Update
                | StatementKind::Select
                | StatementKind::Lock
                | StatementKind::Delete
        );
        joins && kind == DatabaseKind::Postgres && self.input == RowInput::Values(1)
    }

    /// The columns that come back, in that order.
    pub(crate) fn returned(&self, model: &Schema) -> Vec<usize> {
        let computed = model.group(ColumnGroup::Computed);
        match self.kind {
            StatementKind::Insert | StatementKind::InsertOrNothing => {
                let key = model.group(ColumnGroup::Key).filter(|c| !self.columns.contains(c));
                key.chain(computed).collect()
            }
            StatementKind::UpdateOne | StatementKind::Save | StatementKind::Update => {
                // A row that is found by its key has the key, and one whose version was asked for has that.
                let key = model.group(ColumnGroup::Key).filter(|_| !self.by_key(model));
                let version = model.group(ColumnGroup::Version).filter(|_| !self.checked);
                key.chain(version).chain(computed).chain(model.group(ColumnGroup::Added)).collect()
            }
            StatementKind::Conflicting
            | StatementKind::Find
            | StatementKind::CheckVersion
            | StatementKind::Select
            | StatementKind::Lock
            | StatementKind::Delete => Vec::new(),
        }
    }

    pub(crate) fn by_key(&self, model: &Schema) -> bool {
        model.group(ColumnGroup::Key).eq(self.on.iter().copied())
    }

    pub(crate) fn sql(&self, model: &Schema, kind: DatabaseKind) -> String {
        let text = Text { shape: self, model, kind, given: beside(model.table, "_given") };
        match (self.kind, kind) {
            (StatementKind::Insert, _) => text.insert(),
            (StatementKind::InsertOrNothing, _) => text.insert_or_nothing(),
            (StatementKind::Conflicting, _) => text.conflicting(),
            (StatementKind::UpdateOne, _) => text.update_one(),
            (StatementKind::Save, _) => text.save(),
            (StatementKind::Update, DatabaseKind::Postgres) => text.update_in_postgres(),
            (StatementKind::Update, DatabaseKind::Sqlite) => text.update_in_sqlite(),
            (StatementKind::Find, _) => text.find(),
            (StatementKind::CheckVersion, _) => text.check_version(),
            (StatementKind::Lock, DatabaseKind::Postgres) => {
                format!("{} FOR NO KEY UPDATE OF _stored", text.select())
            }
            (StatementKind::Select | StatementKind::Lock, _) => text.select(),
            (StatementKind::Delete, DatabaseKind::Postgres) => text.delete_in_postgres(),
            (StatementKind::Delete, DatabaseKind::Sqlite) => text.delete_in_sqlite(),
        }
    }
}

struct Text<'s> {
    shape: &'s StatementSpec,
    model: &'s Schema,
    kind: DatabaseKind,
    /// The name of the table of the rows that are given.
    given: String,
}

impl Text<'_> {
    fn insert(&self) -> String {
        let into = self.insert_into();
        let returning = self.returning();
        match self.shape.input {
            RowInput::Arrays => {
                let columns: Vec<_> = (1..=self.shape.columns.len()).map(unnest).collect();
                format!("{into} SELECT {}{returning}", columns.join(", "))
            }
            RowInput::Values(rows) => {
                let values = self.values(rows, self.shape.columns.len(), |_| String::new());
                format!("{into} VALUES {values}{returning}")
            }
        }
    }

    fn insert_or_nothing(&self) -> String {
        let (into, on, returning) =
            (self.insert_into(), self.names(&self.shape.on), self.returning());
        let places = self.places(self.shape.columns.len());
        format!("{into} VALUES ({places}) ON CONFLICT ({on}) DO NOTHING{returning}")
    }

    fn conflicting(&self) -> String {
        let (table, on) = (self.model.table, self.names(&self.shape.on));
        let columns = self.names(&self.shape.columns);
        let places = self.places(self.shape.columns.len());
        let every: Vec<usize> = (0..self.model.columns.len()).collect();
        let (same, every) = (self.model.name(self.shape.on[0]), self.names(&every));
        format!(
            "INSERT INTO {table} AS _stored ({columns}) VALUES ({places}) ON CONFLICT ({on}) DO UPDATE SET {same} = \
             _stored.{same} RETURNING {every}"
        )
    }

    fn update_one(&self) -> String {
        let binds = self.shape.binds(self.model);
        let place = |column: usize| self.place(&binds, column);
        let set = self.set(place);
        let mut conditions: Vec<_> = self.equal(&self.shape.on, place);
        if self.shape.checked {
            let version: Vec<_> = self.model.group(ColumnGroup::Version).collect();
            conditions.extend(self.equal(&version, place));
        }
        let (table, conditions) = (self.model.table, conditions.join(" AND "));
        format!("UPDATE {table} SET {set} WHERE {conditions}{}", self.returning())
    }

    /// One statement that says whether it inserted; see the model's own `save`.
    fn save(&self) -> String {
        let binds = self.shape.binds(self.model);
        let place = |column: usize| self.place(&binds, column);
        let set = self.set(place);
        let (table, on) = (self.model.table, self.equal(&self.shape.on, place).join(" AND "));
        let columns = self.shape.returned(self.model);
        let list: String = columns.iter().map(|c| format!(", {}", self.model.name(*c))).collect();
        let returned = if columns.is_empty() { "1".to_owned() } else { self.names(&columns) };
        let (into, places) = (self.insert_into(), self.places(binds.len()));
        let conflict = self.names(&self.shape.on);
        format!(
            "WITH _updated AS (UPDATE {table} SET {set} WHERE {on} RETURNING {returned}), _inserted AS ({into} SELECT \
             {places} WHERE NOT EXISTS (SELECT 1 FROM _updated) ON CONFLICT ({conflict}) DO NOTHING RETURNING \
             {returned}) SELECT false{list} FROM _updated UNION ALL SELECT true{list} FROM _inserted"
        )
    }

    fn update_in_postgres(&self) -> String {
        let Self { shape, model, given, .. } = self;
        let (table, with) = (model.table, self.with());
        let set = self.set(|c| format!("{given}.c{c}"));
        let matches = self.matches();
        let returned = self.returned_behind_number();
        if !shape.before {
            return format!(
                "{with} UPDATE {table} AS _stored SET {set} FROM {given} WHERE {matches} RETURNING {returned}"
            );
        }
        let every: Vec<usize> = (0..model.columns.len()).collect();
        let joined =
            shape.on.iter().map(|c| format!("_before.{} = {}", model.name(*c), self.found(*c)));
        let joined = joined.collect::<Vec<_>>().join(" AND ");
        let old = list(&every, |c| format!("_before.{}", model.name(c)));
        let changed = list(&every, |c| {
            let name = model.name(c);
            differ(&format!("_before.{name}"), &format!("_stored.{name}"))
        });
        // No lock is taken for `_before`: a row that others reference could not be updated any more, and an UPDATE by itself
        // takes the lock that it needs. If it has to wait for another transaction, it goes on with the row as that has left
        // it, while `_before` stays as it was: such a row is left out here, and is for the next try.
        let same = every.iter().map(|c| {
            let name = model.name(*c);
            format!("_stored.{name}::text IS NOT DISTINCT FROM _before.{name}::text")
        });
        let same = same.collect::<Vec<_>>().join(" AND ");
        format!(
            "{with} UPDATE {table} AS _stored SET {set} FROM {given} JOIN {table} AS _before ON {joined} WHERE {matches} AND \
             {same} RETURNING {returned}, {old}, {changed}"
        )
    }

    fn update_in_sqlite(&self) -> String {
        let (table, given, with) = (self.model.table, &self.given, self.with());
        let (set, matches) = (self.set(|c| format!("{given}.c{c}")), self.matches());
        format!("{with} UPDATE {table} AS _stored SET {set} FROM {given} WHERE {matches}")
    }

    fn find(&self) -> String {
        let binds = self.shape.binds(self.model);
        let on = self.equal(&self.shape.on, |c| self.place(&binds, c)).join(" AND ");
        format!("{} WHERE {on}", self.model.select)
    }

    fn check_version(&self) -> String {
        let binds = self.shape.binds(self.model);
        let place = |c: usize| self.place(&binds, c);
        let version: Vec<_> = self.model.group(ColumnGroup::Version).collect();
        let same = self.equal(&version, place).pop().unwrap_or_else(|| "true".to_owned());
        let (table, on) = (self.model.table, self.equal(&self.shape.on, place).join(" AND "));
        format!("SELECT {same} FROM {table} WHERE {on}")
    }

    fn select(&self) -> String {
        let (table, given, with, matches) =
            (self.model.table, &self.given, self.with(), self.matches());
        let columns = self.stored(&self.shape.columns);
        match self.kind {
            DatabaseKind::Postgres => format!(
                "{with} SELECT {given}._n{columns} FROM {given} JOIN {table} AS _stored ON {matches}"
            ),
            // The order of a CROSS JOIN stands: the table may be long, and what is given is not.
            DatabaseKind::Sqlite if self.shape.input == RowInput::Values(1) => format!(
                "{with} SELECT {given}._n{columns} FROM {given} CROSS JOIN {table} AS _stored WHERE {matches}"
            ),
            // Each row once, where two that are given are the same.
            DatabaseKind::Sqlite => {
                let on = self.stored(&self.shape.on);
                let on = on.trim_start_matches(", ");
                format!(
                    "{with} SELECT min({given}._n){columns} FROM {given} CROSS JOIN {table} AS _stored WHERE {matches} \
                     GROUP BY {on}"
                )
            }
        }
    }

    fn delete_in_postgres(&self) -> String {
        let (table, given, with, matches) =
            (self.model.table, &self.given, self.with(), self.matches());
        let columns = self.stored(&self.shape.columns);
        format!(
            "{with} DELETE FROM {table} AS _stored USING {given} WHERE {matches} RETURNING {given}._n{columns}"
        )
    }

    fn delete_in_sqlite(&self) -> String {
        let (table, given, with) = (self.model.table, &self.given, self.with());
        let on = self.names(&self.shape.on);
        let given_on = list(&self.shape.on, |c| format!("c{c}"));
        format!("{with} DELETE FROM {table} WHERE ({on}) IN (SELECT {given_on} FROM {given})")
    }

    fn insert_into(&self) -> String {
        format!("INSERT INTO {} ({})", self.model.table, self.names(&self.shape.columns))
    }

    /// The columns that an UPDATE sets. Where there are none, a row is set to itself, so that the database says whether
    /// it is there.
    fn set(&self, value: impl Fn(usize) -> String) -> String {
        let name = |column| self.model.name(column);
        // Where the row as it was is joined, there are two of the name.
        let stored = if self.shape.kind == StatementKind::Update { "_stored." } else { "" };
        let set = |c: &usize| self.model.columns[*c].role.group() == ColumnGroup::Set;
        let columns = self.shape.columns.iter().filter(|c| set(c));
        let mut set: Vec<_> = columns.map(|c| format!("{} = {}", name(*c), value(*c))).collect();
        if let Some(version) = self.model.group(ColumnGroup::Version).next() {
            set.push(format!("{0} = {stored}{0} + 1", name(version)));
        }
        if set.is_empty() {
            set = self.equal(&self.shape.on, |c| format!("{stored}{}", name(c)));
        }
        set.join(", ")
    }

    fn with(&self) -> String {
        let (given, binds) = (&self.given, self.shape.input_columns(self.model, self.kind));
        match self.shape.input {
            RowInput::Arrays => {
                let columns = binds.iter().enumerate();
                let column = |(i, c): (usize, &usize)| {
                    format!("{}{} AS c{c}, ", unnest(i + 1), self.cast(*c))
                };
                let columns: String = columns.map(column).collect();
                format!("WITH {given} AS (SELECT {columns}{} AS _n)", subscripts("$1"))
            }
            RowInput::Values(rows) => {
                let cast = match self.kind {
                    DatabaseKind::Sqlite => "",
                    DatabaseKind::Postgres => "::bigint",
                };
                let comma = comma(binds.len());
                let values =
                    self.values(rows, binds.len(), |row| format!("{comma}{}{cast}", row + 1));
                let columns: String = binds.iter().map(|c| format!("c{c}, ")).collect();
                if rows == 1 || self.kind == DatabaseKind::Sqlite {
                    return format!("WITH {given}({columns}_n) AS (VALUES {values})");
                }
                let typed: String =
                    binds.iter().map(|c| format!("c{c}{} AS c{c}, ", self.cast(*c))).collect();
                format!(
                    "WITH {given} AS (SELECT {typed}_n * {} AS _n FROM (VALUES {values}) AS _rows({columns}_n) LIMIT \
                     {MANY})",
                    subscripts("'{0}'::int[]")
                )
            }
        }
    }

    /// So many rows of places, each with something behind them.
    fn values(&self, rows: usize, columns: usize, behind: impl Fn(usize) -> String) -> String {
        let mut values = String::new();
        for row in 0..rows {
            let _ = write!(values, "{}(", if row == 0 { "" } else { ", " });
            for column in 0..columns {
                let _ = match self.kind {
                    // Without a number: SQLite looks each name up among all of them.
                    DatabaseKind::Sqlite => write!(values, "{}?", comma(column)),
                    DatabaseKind::Postgres => {
                        write!(values, "{}${}", comma(column), row * columns + column + 1)
                    }
                };
            }
            let _ = write!(values, "{})", behind(row));
        }
        values
    }

    /// That a stored row is the one that is given.
    fn matches(&self) -> String {
        let (shape, model, given) = (self.shape, self.model, &self.given);
        let on = shape.on.iter().map(|c| (*c, self.found(*c)));
        let version = model.group(ColumnGroup::Version).filter(|_| shape.checked);
        let matches = on.chain(version.map(|c| (c, format!("{given}.c{c}"))));
        let matches = matches.map(|(c, value)| format!("_stored.{} = {value}", model.name(c)));
        matches.collect::<Vec<_>>().join(" AND ")
    }

    /// The value that a column is compared with.
    fn found(&self, column: usize) -> String {
        let mut found_by = self.shape.found_by(self.kind).iter();
        match found_by.position(|c| *c == column) {
            Some(place) => {
                format!("${}", self.shape.input_columns(self.model, self.kind).len() + place + 1)
            }
            None => format!("{}.c{column}", self.given),
        }
    }

    /// The cast of a value to the type as which it is compared.
    fn cast(&self, column: usize) -> String {
        let casts = self.shape.casts.as_deref().unwrap_or_default();
        let ty = casts.iter().find(|(of, _)| *of == column && self.shape.on.contains(of));
        ty.map_or_else(String::new, |(_, ty)| format!("::{ty}"))
    }

    fn returned_behind_number(&self) -> String {
        format!("{}._n{}", self.given, self.stored(&self.shape.returned(self.model)))
    }

    /// Columns of the table, behind others.
    fn stored(&self, columns: &[usize]) -> String {
        columns.iter().map(|c| format!(", _stored.{}", self.model.name(*c))).collect()
    }

    fn returning(&self) -> String {
        match &self.shape.returned(self.model)[..] {
            [] => String::new(),
            columns => format!(" RETURNING {}", self.names(columns)),
        }
    }

    fn names(&self, columns: &[usize]) -> String {
        list(columns, |c| self.model.name(c).to_owned())
    }

    fn equal(&self, columns: &[usize], value: impl Fn(usize) -> String) -> Vec<String> {
        columns.iter().map(|c| format!("{} = {}", self.model.name(*c), value(*c))).collect()
    }

    fn places(&self, count: usize) -> String {
        let places: Vec<_> = (1..=count).map(|n| format!("${n}")).collect();
        places.join(", ")
    }

    /// The argument that is this column.
    fn place(&self, binds: &[usize], column: usize) -> String {
        let place = binds.iter().position(|c| *c == column).unwrap_or_default();
        format!("${}", place + 1)
    }
}

/// Whether two values of one type differ, on Postgres. Equal text is an equal value. Of other text, the numbers 1.0 and 1.00
/// are equal, and so are objects of JSON whose members are in another order. Not every type has a comparison of its own:
/// numbers, times, intervals and ranges have, and the others are compared as JSON. That cannot have a zero character.
fn differ(one: &str, other: &str) -> String {
    format!(
        "CASE WHEN {one}::text IS NOT DISTINCT FROM {other}::text THEN false WHEN {one}::text IS NULL OR {other}::text IS NULL \
         THEN true WHEN (SELECT typcategory IN ('N', 'D', 'T', 'R') FROM pg_type WHERE pg_type.oid = pg_typeof({one})) THEN \
         ROW({one})::record <> ROW({other})::record WHEN position('\\u0000' IN concat({one}::text, {other}::text)) > 0 THEN true \
         ELSE to_jsonb({one}) <> to_jsonb({other}) END"
    )
}

/// The elements of an argument that is an array, a row each. Several side by side in one `SELECT` go together; in `FROM`, a
/// composite type would be taken apart into its fields.
fn unnest(place: usize) -> String {
    format!("UNNEST(${place})")
}

/// How many rows PostgreSQL expects of a function whose rows it cannot count, and no fewer than are given as values.
const MANY: usize = 1000;

/// The numbers of the elements of an array.
///
/// PostgreSQL expects [`MANY`] rows of it, however many they are. It then joins the table to the rows that are given, which is
/// to say in the order of their keys: it hashes the table, or looks each row up. If it expected fewer rows than the table has,
/// it would hash what is given and go through the table, and so lock the rows in the order of the table.
fn subscripts(array: &str) -> String {
    format!("GENERATE_SUBSCRIPTS({array}, 1)::bigint")
}

/// A name that is not in that of a table, however it is written.
fn beside(table: &str, name: &str) -> String {
    let (table, mut name) = (table.to_lowercase(), name.to_owned());
    while table.contains(&name) {
        name.push('_');
    }
    name
}

fn list(columns: &[usize], text: impl Fn(usize) -> String) -> String {
    columns.iter().map(|c| text(*c)).collect::<Vec<_>>().join(", ")
}

fn comma(place: usize) -> &'static str {
    if place == 0 { "" } else { ", " }
}
