//! SQLite: the SQL that creates a table again and copies its rows, for changes that ALTER TABLE cannot make.

use crate::model::check::table::{Column, Table};
use crate::model::ddl::{Ddl, one_line};
use crate::table::schema::ColumnGroup;

/// Creates the table again. Columns that the model does not have are kept, and can be NULL unless they have a default. Foreign keys,
/// indexes and triggers are kept too, and [`Table::lost`] is not.
///
/// The SQL begins with the line that makes sqlx run a migration without a transaction: inside one, foreign keys cannot be turned off
/// (<https://www.sqlite.org/pragma.html#pragma_foreign_keys>), and dropping the table would delete the rows that refer to it. In
/// a transaction, BEGIN fails before anything is dropped. With `legacy_alter_table`, views and triggers may refer to the table
/// while it does not exist (<https://www.sqlite.org/lang_altertable.html#altertabrename>).
pub(super) fn rebuild(ddl: &Ddl, existing: &Table) -> String {
    let table = ddl.model.statements.table;
    let new = format!("{}_new\"", table.trim_end_matches('"'));
    let short = table.rsplit_once("\".\"").map_or(table.to_owned(), |(_, t)| format!("\"{t}"));
    let create = one_line(&ddl.create(&new, definitions(ddl, existing), foreign_keys(existing)));
    let (names, values) = copied(ddl, existing);
    let others = existing.others.iter().map(|sql| format!("; {sql}")).collect::<String>();
    format!(
        "-- no-transaction\nPRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON; BEGIN; {create}; INSERT INTO {new} ({names}) \
         SELECT {values} FROM {table}; DROP TABLE {table}; ALTER TABLE {new} RENAME TO {short}{others}; COMMIT; PRAGMA \
         legacy_alter_table = OFF; PRAGMA foreign_keys = ON"
    )
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn column_of_model(ddl: &Ddl, name: &str) -> Option<usize> {
    ddl.model.columns.iter().position(|column| *column == name)
}

fn definitions(ddl: &Ddl, existing: &Table) -> Vec<String> {
    let of_model = |(index, name): (usize, &&str)| {
        let column = existing.columns.iter().find(|column| column.name == **name);
        let default = column.and_then(|column| column.default.as_deref());
        let is_alone = |key: &Vec<String>| key.len() == 1 && key[0] == **name;
        let refers = !existing.foreign_keys.iter().any(|key| is_alone(&key.columns));
        ddl.definition(index, default, refers)
    };
    let other = |Column { name, type_name, default, nullable, .. }: &Column| match default {
        Some(default) => {
            let not_null = if *nullable { "" } else { " NOT NULL" };
            format!("{} {type_name}{not_null} DEFAULT ({default})", quoted(name))
        }
        None => format!("{} {type_name}", quoted(name)),
    };
    let others = existing.columns.iter().filter(|c| column_of_model(ddl, &c.name).is_none());
    ddl.model.columns.iter().enumerate().map(of_model).chain(others.map(other)).collect()
}

fn foreign_keys(existing: &Table) -> Vec<String> {
    let list = |names: &[String]| names.iter().map(|n| quoted(n)).collect::<Vec<_>>().join(", ");
    let keys = existing.foreign_keys.iter().map(|key| {
        let parent = match &key.parent_columns[..] {
            [] => quoted(&key.parent),
            columns => format!("{} ({})", quoted(&key.parent), list(columns)),
        };
        let columns = list(&key.columns);
        format!("FOREIGN KEY ({columns}) REFERENCES {parent} {}", key.actions)
    });
    keys.collect()
}

/// The columns that get a value, and their values.
fn copied(ddl: &Ddl, existing: &Table) -> (String, String) {
    let mut names: Vec<_> = existing.columns.iter().map(|column| quoted(&column.name)).collect();
    let value = |column: &Column| {
        let is_plain = |index: &usize| {
            let spec = ddl.spec(*index);
            !spec.optional && spec.role.group() != ColumnGroup::Key
        };
        let index = column_of_model(ddl, &column.name).filter(is_plain);
        match index.and_then(|index| ddl.fill(index)) {
            Some(fill) => format!("coalesce({}, {fill})", quoted(&column.name)),
            None => quoted(&column.name),
        }
    };
    let mut values: Vec<_> = existing.columns.iter().map(value).collect();
    // Columns that are new and cannot be NULL.
    for (column, name) in ddl.model.columns.iter().enumerate() {
        let spec = ddl.spec(column);
        let is_new = existing.columns.iter().all(|existing| existing.name != *name);
        let is_plain = !spec.optional && spec.role.group() != ColumnGroup::Key;
        if let Some(fill) = ddl.fill(column).filter(|_| is_new && is_plain) {
            names.push(spec.name.to_owned());
            values.push(fill.to_owned());
        }
    }
    (names.join(", "), values.join(", "))
}
