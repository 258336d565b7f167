//! The statements of a model. The columns that are not part of the key are `$1` and up, the key's come after them.

use super::ast::{Model, Role};

pub(super) struct Sql {
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
    let plain: Vec<String> = model.plain().map(|c| quoted(&c.name)).collect();
    let keys: Vec<String> = model.keys().map(|c| quoted(&c.name)).collect();
    let generated = model.keys().any(|c| matches!(c.role, Role::GeneratedKey(_)));
    let every: Vec<String> = plain.iter().chain(&keys).cloned().collect();
    let places = placeholders(1, every.len());
    let key_list = keys.join(", ");

    let insert_with_key =
        format!("INSERT INTO {table} ({}) VALUES ({})", every.join(", "), places.join(", "));
    let insert = match (generated, plain.is_empty()) {
        (false, _) => insert_with_key.clone(),
        (true, true) => format!("INSERT INTO {table} DEFAULT VALUES RETURNING {key_list}"),
        (true, false) => format!(
            "INSERT INTO {table} ({}) VALUES ({}) RETURNING {key_list}",
            plain.join(", "),
            places[..plain.len()].join(", "),
        ),
    };
    // A row that is all key has nothing to set; it is set to itself, so that the database says whether it is there.
    let set = match plain.is_empty() {
        true => assignments(&keys, &places, ", "),
        false => assignments(&plain, &places, ", "),
    };
    let by_key = assignments(&keys, &places[plain.len()..], " AND ");
    let update = format!("UPDATE {table} SET {set} WHERE {by_key}");
    // One statement that says whether it inserted, with nothing but what SQL has: `xmax` tells it too, but cannot be
    // read from a partitioned table. No row at all means that another transaction stored the row in between.
    let save = format!(
        "WITH updated AS ({update} RETURNING 1), inserted AS (INSERT INTO {table} ({}) SELECT {} WHERE NOT EXISTS \
         (SELECT 1 FROM updated) ON CONFLICT ({key_list}) DO NOTHING RETURNING 1) SELECT false FROM updated UNION ALL \
         SELECT true FROM inserted",
        every.join(", "),
        places.join(", "),
    );
    let select = format!(
        "SELECT {} FROM {table}",
        model.columns.iter().map(|c| quoted(&c.name)).collect::<Vec<_>>().join(", "),
    );
    let by_only_key = assignments(&keys, &placeholders(1, keys.len()), " AND ");
    Sql {
        insert,
        insert_or_nothing: format!("{insert_with_key} ON CONFLICT ({key_list}) DO NOTHING"),
        insert_with_key,
        update,
        save,
        delete: format!("DELETE FROM {table} WHERE {by_only_key}"),
        find: format!("{select} WHERE {by_only_key}"),
        select,
        count: format!("SELECT count(*) FROM (SELECT 1 FROM {table}"),
    }
}

fn placeholders(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|n| format!("${n}")).collect()
}

fn assignments(columns: &[String], places: &[String], between: &str) -> String {
    let all = columns.iter().zip(places).map(|(column, place)| format!("{column} = {place}"));
    all.collect::<Vec<_>>().join(between)
}

/// A name that means itself, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
