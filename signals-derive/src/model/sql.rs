//! The literal statements of a model. Their arguments are, in this order: the columns that an UPDATE sets, the key, the version, and the
//! columns that only an INSERT sets.

use super::ast::{Column, Model};
use super::types::Role;

pub(super) struct Sql {
    pub(super) table: String,
    pub(super) insert: String,
    pub(super) insert_with_key: String,
    pub(super) insert_or_nothing: String,
    pub(super) update: String,
    pub(super) save: String,
    pub(super) delete: String,
    pub(super) select: String,
    pub(super) find: String,
    pub(super) count: String,
}

pub(super) fn statements(model: &Model<'_>) -> Sql {
    let table = model.table.split('.').map(quoted).collect::<Vec<_>>().join(".");
    let names = |which: &dyn Fn(Role<'_>) -> bool| -> Vec<String> {
        model.columns.iter().filter(|c| which(c.role)).map(name).collect()
    };
    let set = names(&|role| role.is_set());
    let keys = names(&|role| role.is_key());
    let version = names(&|role| matches!(role, Role::Version));
    let added = names(&|role| matches!(role, Role::AutoNowAdd));
    let generated = names(&|role| matches!(role, Role::Generated));
    let key_given = model.keys().any(|c| matches!(c.role, Role::GeneratedKey(_)));

    let every = [&set[..], &keys, &version, &added].concat();
    let places = placeholders(1, every.len());
    let key_list = keys.join(", ");
    let insert_into = |columns: &[String]| format!("INSERT INTO {table} ({})", columns.join(", "));

    let insert_with_key = format!("{} VALUES ({})", insert_into(&every), places.join(", "));
    let without_key = [&set[..], &version, &added].concat();
    let insert = match (key_given, without_key.is_empty()) {
        (false, _) => with_returning(&insert_with_key, &generated),
        (true, nothing) => {
            let insert = if nothing {
                format!("INSERT INTO {table} DEFAULT VALUES")
            } else {
                let places = placeholders(1, without_key.len()).join(", ");
                format!("{} VALUES ({places})", insert_into(&without_key))
            };
            with_returning(&insert, &[&keys[..], &generated].concat())
        }
    };

    let (set_places, rest) = places.split_at(set.len());
    let (key_places, rest) = rest.split_at(keys.len());
    let mut assigned = assignments(&set, set_places);
    let mut conditions = assignments(&keys, key_places);
    if let (Some(version), Some(place)) = (version.first(), rest.first()) {
        assigned.push(format!("{version} = {version} + 1"));
        conditions.push(format!("{version} = {place}"));
    }
    // If every column is part of the key, the UPDATE sets the key to itself, so that the database reports whether the row exists.
    if assigned.is_empty() {
        assigned = assignments(&keys, key_places);
    }
    // If the UPDATE finds no row, a row of another version may exist. The INSERT would detect it by the conflict, but would wait for a
    // transaction that is writing that row.
    let is_new = match version.is_empty() {
        true => String::new(),
        false => {
            let same = assignments(&keys, key_places).join(" AND ");
            format!("NOT EXISTS (SELECT 1 FROM {table} WHERE {same})")
        }
    };
    let update =
        format!("UPDATE {table} SET {} WHERE {}", assigned.join(", "), conditions.join(" AND "));
    // The columns whose values only the database knows after an UPDATE.
    let read_back = [&generated[..], &added].concat();

    // One statement in plain SQL that reports whether it has inserted the row. `xmax` reports that too, but cannot be read in a
    // partitioned table. If no row is returned, another transaction has stored the row in between.
    let list = read_back.iter().map(|c| format!(", {c}")).collect::<String>();
    let returned = if read_back.is_empty() { "1".to_owned() } else { read_back.join(", ") };
    let save = format!(
        "WITH _updated AS ({update} RETURNING {returned}), _inserted AS ({} SELECT {} WHERE NOT EXISTS (SELECT 1 FROM \
         _updated){} ON CONFLICT ({key_list}) DO NOTHING RETURNING {returned}) SELECT false{list} FROM _updated UNION ALL \
         SELECT true{list} FROM _inserted",
        insert_into(&every),
        places.join(", "),
        if is_new.is_empty() { String::new() } else { format!(" AND {is_new}") },
    );
    let select = format!(
        "SELECT {} FROM {table}",
        model.columns.iter().map(name).collect::<Vec<_>>().join(", "),
    );
    let mut of_row = [&keys[..], &version].concat();
    of_row = assignments(&of_row, &placeholders(1, of_row.len()));
    let by_key = assignments(&keys, &placeholders(1, keys.len())).join(" AND ");
    let insert_if_new = match is_new.is_empty() {
        true => insert_with_key.clone(),
        false => format!("{} SELECT {} WHERE {is_new}", insert_into(&every), places.join(", ")),
    };
    let or_nothing = format!("{insert_if_new} ON CONFLICT ({key_list}) DO NOTHING");
    Sql {
        insert,
        insert_or_nothing: with_returning(&or_nothing, &generated),
        insert_with_key: with_returning(&insert_with_key, &generated),
        update: with_returning(&update, &read_back),
        save,
        delete: format!("DELETE FROM {table} WHERE {}", of_row.join(" AND ")),
        find: format!("{select} WHERE {by_key}"),
        select,
        count: format!("SELECT count(*) FROM (SELECT 1 FROM {table}"),
        table,
    }
}

pub(super) fn name(column: &Column<'_>) -> String {
    quoted(&column.name)
}

fn with_returning(statement: &str, columns: &[String]) -> String {
    match columns {
        [] => statement.to_owned(),
        _ => format!("{statement} RETURNING {}", columns.join(", ")),
    }
}

fn placeholders(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|n| format!("${n}")).collect()
}

fn assignments(columns: &[String], places: &[String]) -> Vec<String> {
    columns.iter().zip(places).map(|(column, place)| format!("{column} = {place}")).collect()
}

/// Quotes an identifier, which may contain any character.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
