//! SQLite: the SQL that creates a table again and copies its rows, for changes that ALTER TABLE cannot make.

use crate::model::check::table::{Column, Computed, Index, Table};
use crate::model::ddl::{Ddl, identifier, one_line};
use crate::table::schema::ColumnGroup;

/// Creates the table again. Columns that the model does not have are kept, and can be NULL unless they have a default. Foreign keys,
/// unique constraints, indexes and triggers are kept too, and [`Table::lost`] is not. In the columns `filled`, a value replaces NULL.
///
/// The SQL begins with the line that makes sqlx run a migration without a transaction: inside one, foreign keys cannot be turned off
/// (<https://www.sqlite.org/pragma.html#pragma_foreign_keys>), and dropping the table would delete the rows that refer to it. In
/// a transaction, BEGIN fails before anything is dropped. With `legacy_alter_table`, views and triggers may refer to the table
/// while it does not exist (<https://www.sqlite.org/lang_altertable.html#altertabrename>).
pub(super) fn rebuild(ddl: &Ddl, existing: &Table, filled: &[usize]) -> String {
    let table = ddl.model.statements.table;
    let new = format!("{}_new\"", table.trim_end_matches('"'));
    let short = table.rsplit_once("\".\"").map_or(table.to_owned(), |(_, t)| format!("\"{t}"));
    let create =
        one_line(&ddl.create(&new, definitions(ddl, existing, filled), constraints(ddl, existing)));
    let (names, values) = copied(ddl, existing, filled);
    // The SQL of an index may end with a comment.
    let others = existing.others.iter().map(|sql| format!("; {sql}\n")).collect::<String>();
    format!(
        "-- no-transaction\nPRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON; BEGIN; {create}; INSERT INTO {new} ({names}) \
         SELECT {values} FROM {table}; DROP TABLE {table}; ALTER TABLE {new} RENAME TO {short}{others}; COMMIT; PRAGMA \
         legacy_alter_table = OFF; PRAGMA foreign_keys = ON"
    )
}

fn column_of_model(ddl: &Ddl, name: &str) -> Option<usize> {
    ddl.model.columns.iter().position(|column| *column == name)
}

fn definitions(ddl: &Ddl, existing: &Table, filled: &[usize]) -> Vec<String> {
    let of_model = |(index, name): (usize, &&str)| {
        let column = existing.columns.iter().find(|column| column.name == **name);
        let default = column.and_then(|column| column.default.as_deref().map(expression));
        let is_alone = |key: &Vec<String>| key.len() == 1 && key[0] == **name;
        let refers = !existing.foreign_keys.iter().any(|key| is_alone(&key.columns));
        let can_be_null = match column {
            Some(column) => column.nullable && !filled.contains(&index) || ddl.is_set_null(index),
            None => ddl.spec(index).optional,
        };
        ddl.definition(index, default.as_deref(), !can_be_null, refers)
    };
    let other = |Column { name, type_name, default, nullable, .. }: &Column| match default {
        Some(default) => {
            let not_null = if *nullable { "" } else { " NOT NULL" };
            format!("{} {type_name}{not_null} DEFAULT ({})", identifier(name), expression(default))
        }
        None => format!("{} {type_name}", identifier(name)),
    };
    let others = existing.columns.iter().filter(|c| column_of_model(ddl, &c.name).is_none());
    ddl.model.columns.iter().enumerate().map(of_model).chain(others.map(other)).collect()
}

/// The default of a column as an expression. SQLite takes a quoted or a bare name there as a string.
fn expression(default: &str) -> String {
    let is_name = default.chars().all(|c| c.is_alphanumeric() || c == '_')
        && default.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let keywords = ["TRUE", "FALSE", "CURRENT_TIME", "CURRENT_DATE", "CURRENT_TIMESTAMP"];
    let is_keyword = keywords.iter().any(|keyword| default.eq_ignore_ascii_case(keyword));
    let text = match default.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None if is_name && !is_keyword => default.to_owned(),
        None => return default.to_owned(),
    };
    format!("'{}'", text.replace('\'', "''"))
}

/// The foreign keys, and the unique constraints that the model does not declare.
fn constraints(ddl: &Ddl, existing: &Table) -> Vec<String> {
    let mut key: Vec<_> = ddl.keys().iter().map(|c| ddl.model.columns[*c].to_owned()).collect();
    key.sort_unstable();
    let is_declared = |index: &Index| match &index.columns[..] {
        columns if columns == key => true,
        [column] => column_of_model(ddl, column).is_some_and(|column| ddl.spec(column).unique),
        _ => false,
    };
    // An index without a name is a key that has none.
    let is_constraint = |i: &&Index| i.name.is_empty() || i.name.starts_with("sqlite_autoindex_");
    let unique = existing.unique.iter().filter(is_constraint).filter(|i| !is_declared(i));
    let unique = unique.map(|index| {
        let columns: Vec<_> = index.columns.iter().map(|name| identifier(name)).collect();
        format!("UNIQUE ({})", columns.join(", "))
    });
    foreign_keys(existing).into_iter().chain(unique).collect()
}

fn foreign_keys(existing: &Table) -> Vec<String> {
    let list =
        |names: &[String]| names.iter().map(|n| identifier(n)).collect::<Vec<_>>().join(", ");
    let keys = existing.foreign_keys.iter().map(|key| {
        let parent = match &key.parent_columns[..] {
            [] => identifier(&key.parent),
            columns => format!("{} ({})", identifier(&key.parent), list(columns)),
        };
        let columns = list(&key.columns);
        format!("FOREIGN KEY ({columns}) REFERENCES {parent} {}", key.actions)
    });
    keys.collect()
}

/// The columns that get a value, and their values.
fn copied(ddl: &Ddl, existing: &Table, filled: &[usize]) -> (String, String) {
    let is_stored = |column: &&Column| column.computed != Some(Computed::Expression);
    let columns = || existing.columns.iter().filter(is_stored);
    let mut names: Vec<_> = columns().map(|column| identifier(&column.name)).collect();
    let is_filled = |column: &usize| filled.contains(column);
    let fill = |column: &Column| ddl.fill(column_of_model(ddl, &column.name).filter(is_filled)?);
    let value = |column: &Column| match fill(column) {
        Some(fill) => format!("coalesce({}, {fill})", identifier(&column.name)),
        None => identifier(&column.name),
    };
    let mut values: Vec<_> = columns().map(value).collect();
    for (column, name) in ddl.model.columns.iter().enumerate() {
        let is_new = existing.columns.iter().all(|existing| existing.name != *name);
        let spec = ddl.spec(column);
        let is_plain = !spec.optional && spec.role.group() != ColumnGroup::Key;
        if let Some(fill) = ddl.fill(column).filter(|_| is_new && is_plain) {
            names.push(ddl.spec(column).name.to_owned());
            values.push(fill.to_owned());
        }
    }
    (names.join(", "), values.join(", "))
}
