//! The literal statements of a model. Their arguments are, in this order: the columns that an UPDATE sets, the key, the version, and the
//! columns that only an INSERT sets.

use super::ast::{Column, Model};
use super::types::Role;

/// The text of each field of the model's `Schema`, except its columns.
pub(super) fn statements(model: &Model<'_>) -> [(&'static str, String); 10] {
    let parts = Parts::of(model);
    let Parts { table, keys, version, generated, .. } = &parts;
    let every: Vec<_> = model.columns.iter().map(name).collect();
    let select = format!("SELECT {} FROM {table}", parts.qualified(&every).join(", "));
    let by_key = assignments(&parts.qualified(keys), &placeholders(keys.len())).join(" AND ");
    let of_row = parts.qualified(&[&keys[..], version].concat());
    let of_row = assignments(&of_row, &placeholders(of_row.len())).join(" AND ");
    [
        ("table", table.clone()),
        ("insert", parts.insert()),
        ("insert_with_key", parts.with_returning(&parts.insert_with_key(), generated)),
        ("insert_or_nothing", parts.insert_or_nothing()),
        ("update", parts.with_returning(&parts.update(), &parts.read_back())),
        ("save", parts.save()),
        ("delete", format!("DELETE FROM {table} WHERE {of_row}")),
        ("find", format!("{select} WHERE {by_key}")),
        ("select", select),
        ("count", format!("SELECT count(*) FROM (SELECT 1 FROM {table}")),
    ]
}

/// The quoted names of the table and of its columns.
struct Parts {
    table: String,
    /// Without its schema.
    short_table: String,
    set: Vec<String>,
    keys: Vec<String>,
    version: Vec<String>,
    added: Vec<String>,
    generated: Vec<String>,
    /// Whether the database assigns the key.
    generates_key: bool,
}

impl Parts {
    fn of(model: &Model<'_>) -> Self {
        let names = |which: &dyn Fn(Role<'_>) -> bool| -> Vec<String> {
            model.columns.iter().filter(|c| which(c.role)).map(name).collect()
        };
        Self {
            table: model.table.split('.').map(quoted).collect::<Vec<_>>().join("."),
            short_table: quoted(model.table.rsplit('.').next().unwrap_or(&model.table)),
            set: names(&|role| role.is_set()),
            keys: names(&|role| role.is_key()),
            version: names(&|role| matches!(role, Role::Version)),
            added: names(&|role| matches!(role, Role::AutoNowAdd)),
            generated: names(&|role| matches!(role, Role::Generated)),
            generates_key: model.keys().any(|c| matches!(c.role, Role::GeneratedKey(_))),
        }
    }

    /// The columns that an INSERT writes, in the order of the arguments.
    fn every(&self) -> Vec<String> {
        [&self.set[..], &self.keys, &self.version, &self.added].concat()
    }

    /// The columns whose values only the database knows after an UPDATE.
    fn read_back(&self) -> Vec<String> {
        [&self.generated[..], &self.added].concat()
    }

    /// The columns with the name of their table. Where an expression can stand, SQLite reads the quoted name of a column that does
    /// not exist as a string, but not a qualified name (<https://www.sqlite.org/quirks.html#dblquote>).
    fn qualified(&self, columns: &[String]) -> Vec<String> {
        columns.iter().map(|column| format!("{}.{column}", self.short_table)).collect()
    }

    fn with_returning(&self, statement: &str, columns: &[String]) -> String {
        match columns {
            [] => statement.to_owned(),
            _ => format!("{statement} RETURNING {}", self.qualified(columns).join(", ")),
        }
    }

    fn insert_into(&self, columns: &[String]) -> String {
        format!("INSERT INTO {} ({})", self.table, columns.join(", "))
    }

    fn insert_with_key(&self) -> String {
        let every = self.every();
        let places = placeholders(every.len()).join(", ");
        format!("{} VALUES ({places})", self.insert_into(&every))
    }

    fn insert(&self) -> String {
        if !self.generates_key {
            return self.with_returning(&self.insert_with_key(), &self.generated);
        }
        let columns = [&self.set[..], &self.version, &self.added].concat();
        let insert = match &columns[..] {
            [] => format!("INSERT INTO {} DEFAULT VALUES", self.table),
            columns => {
                let places = placeholders(columns.len()).join(", ");
                format!("{} VALUES ({places})", self.insert_into(columns))
            }
        };
        self.with_returning(&insert, &[&self.keys[..], &self.generated].concat())
    }

    fn insert_or_nothing(&self) -> String {
        let insert = match self.is_new() {
            None => self.insert_with_key(),
            Some(is_new) => self.insert_if(&is_new),
        };
        let insert = format!("{insert} ON CONFLICT ({}) DO NOTHING", self.keys.join(", "));
        self.with_returning(&insert, &self.generated)
    }

    fn insert_if(&self, condition: &str) -> String {
        let every = self.every();
        let places = placeholders(every.len()).join(", ");
        format!("{} SELECT {places} WHERE {condition}", self.insert_into(&every))
    }

    /// The condition that the key is free. If the UPDATE finds no row, a row of another version may exist. The INSERT would detect it
    /// by the conflict, but would wait for a transaction that is writing that row.
    fn is_new(&self) -> Option<String> {
        let same = self.same_key().join(" AND ");
        let is_new = || format!("NOT EXISTS (SELECT 1 FROM {} WHERE {same})", self.table);
        (!self.version.is_empty()).then(is_new)
    }

    fn same_key(&self) -> Vec<String> {
        let places = placeholders(self.set.len() + self.keys.len());
        assignments(&self.qualified(&self.keys), &places[self.set.len()..])
    }

    fn update(&self) -> String {
        let places = placeholders(self.every().len());
        let mut assigned = assignments(&self.set, &places);
        let mut conditions = self.same_key();
        if let Some(version) = self.version.first() {
            assigned.push(format!("{version} = {version} + 1"));
            conditions.push(format!("{version} = {}", places[self.set.len() + self.keys.len()]));
        }
        // If every column is part of the key, the UPDATE sets the key to itself, so that the database reports whether the row exists. Not to
        // the argument, which may be written in another way than the stored key.
        if assigned.is_empty() {
            assigned = assignments(&self.keys, &self.keys);
        }
        let (assigned, conditions) = (assigned.join(", "), conditions.join(" AND "));
        format!("UPDATE {} SET {assigned} WHERE {conditions}", self.table)
    }

    /// One statement in plain SQL that reports whether it has inserted the row. `xmax` reports that too, but cannot be read in a
    /// partitioned table. If no row is returned, another transaction has stored the row in between.
    fn save(&self) -> String {
        let read_back = self.read_back();
        let list = read_back.iter().map(|c| format!(", {c}")).collect::<String>();
        let returned = if read_back.is_empty() { "1".to_owned() } else { read_back.join(", ") };
        let is_new = self.is_new().map(|is_new| format!(" AND {is_new}")).unwrap_or_default();
        let insert = self.insert_if(&format!("NOT EXISTS (SELECT 1 FROM _updated){is_new}"));
        format!(
            "WITH _updated AS ({} RETURNING {returned}), _inserted AS ({insert} ON CONFLICT ({}) DO NOTHING RETURNING \
             {returned}) SELECT false{list} FROM _updated UNION ALL SELECT true{list} FROM _inserted",
            self.update(),
            self.keys.join(", "),
        )
    }
}

pub(super) fn name(column: &Column<'_>) -> String {
    quoted(&column.name)
}

fn placeholders(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("${n}")).collect()
}

fn assignments(columns: &[String], places: &[String]) -> Vec<String> {
    columns.iter().zip(places).map(|(column, place)| format!("{column} = {place}")).collect()
}

/// Quotes an identifier, which may contain any character.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
