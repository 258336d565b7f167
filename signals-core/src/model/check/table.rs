//! A table as the database describes it.

use sqlx::AssertSqlSafe;

use crate::database::backend::{AnyType, DatabaseKind};
use crate::database::conn::Conn;
use crate::error::Result;
#[cfg(feature = "sqlite")]
use crate::model::check::column_types::stored_types;
use crate::model::check::column_types::{is_numeric, types};
use crate::model::check::create_table::{has_check, lost};
use crate::model::ddl::identifier;
use crate::signal::relation::ModelInfo;
use crate::table::schema::{split_schema, stored_name};

/// A table as the database describes it.
#[derive(Default)]
pub(super) struct Table {
    pub(super) is_view: bool,
    /// A virtual table of SQLite, or a foreign table of PostgreSQL, which has neither keys nor indexes.
    pub(super) is_external: bool,
    pub(super) columns: Vec<Column>,
    pub(super) unique: Vec<Index>,
    /// SQLite: if it checks foreign keys, they are compared with their parents. PostgreSQL accepts only valid ones.
    pub(super) foreign_keys: Vec<ForeignKey>,
    /// SQLite: the SQL of the other indexes and of the triggers.
    pub(super) others: Vec<String>,
    /// SQLite: what else the CREATE TABLE contains.
    pub(super) lost: Vec<&'static str>,
}

impl Table {
    /// Writes the names of the columns as the model does: SQLite does not distinguish the case of ASCII letters, and PostgreSQL truncates
    /// long names.
    fn spell_as(&mut self, columns: &[&str], kind: DatabaseKind) {
        let is_same = |column: &str, name: &str| match kind {
            DatabaseKind::Sqlite => column.eq_ignore_ascii_case(name),
            DatabaseKind::Postgres => stored_name(kind, column) == name,
        };
        let spell = |name: &mut String| {
            if let Some(column) = columns.iter().find(|column| is_same(column, name)) {
                *name = (*column).to_owned();
            }
        };
        self.columns.iter_mut().for_each(|column| spell(&mut column.name));
        for index in &mut self.unique {
            index.columns.iter_mut().for_each(spell);
            index.columns.sort_unstable();
        }
        self.foreign_keys.iter_mut().flat_map(|key| &mut key.columns).for_each(spell);
    }

    /// Whether it is a virtual table of SQLite, which decides itself what its columns contain.
    pub(super) fn is_virtual(&self, kind: DatabaseKind) -> bool {
        self.is_external && kind == DatabaseKind::Sqlite
    }

    /// SQLite: adds the rowid as a column, if the model has it.
    fn add_rowid(&mut self, columns: &[&str]) {
        let is_rowid = |name: &&&str| ROWID.iter().any(|rowid| rowid.eq_ignore_ascii_case(name));
        for name in columns.iter().filter(is_rowid) {
            if self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)) {
                continue;
            }
            let row =
                ((*name).to_owned(), false, true, true, false, false, "INTEGER".to_owned(), None);
            let index = (String::new(), (*name).to_owned(), false, true);
            let rowid = described(self.is_view, vec![row], vec![index]);
            self.columns.extend(rowid.columns);
            self.unique.extend(rowid.unique);
        }
    }
}

/// The names of the rowid, unless a column has this name (<https://www.sqlite.org/lang_createtable.html#rowid>).
const ROWID: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// A foreign key of SQLite.
pub(super) struct ForeignKey {
    pub(super) columns: Vec<String>,
    pub(super) parent: String,
    /// Empty if it refers to the key of the parent.
    pub(super) parent_columns: Vec<String>,
    /// The end of its SQL.
    pub(super) actions: String,
    /// Whether the parent exists.
    pub(super) has_parent: bool,
    /// Whether statements that use the foreign key succeed.
    pub(super) is_valid: bool,
}

/// What determines the value of a column.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Computed {
    Expression,
    /// PostgreSQL: a sequence, and no statement can choose another value.
    Identity,
}

/// A unique index on columns only (no expressions) that covers all rows.
pub(super) struct Index {
    /// The quoted name.
    pub(super) name: String,
    /// Sorted by name.
    pub(super) columns: Vec<String>,
    /// Whether the constraint is deferrable. ON CONFLICT cannot use such an index.
    pub(super) deferrable: bool,
    /// Whether the index was built completely.
    pub(super) valid: bool,
}

pub(super) struct Column {
    pub(super) name: String,
    pub(super) nullable: bool,
    /// PostgreSQL: whether the column itself is declared NOT NULL. A CHECK or its domain can be the only reason.
    pub(super) declares_not_null: bool,
    /// Whether an INSERT can omit the column.
    pub(super) optional: bool,
    pub(super) computed: Option<Computed>,
    /// SQLite: the expression of the default.
    pub(super) default: Option<String>,
    /// The types of its values: the field has to be readable from one of them. Empty if it can contain any value.
    pub(super) types: Vec<AnyType>,
    /// SQLite: the declared type.
    pub(super) type_name: String,
    /// SQLite: whether the column turns texts that are numbers into numbers, although sqlx does not know its type.
    pub(super) is_numeric: bool,
}

/// Reads the description of the table of a model, or `None` if it does not exist.
pub(super) async fn read(conn: &mut Conn<'_>, model: &ModelInfo) -> Result<Option<Table>> {
    let quoted = model.statements.table;
    let table = match conn.kind() {
        DatabaseKind::Sqlite => read_sqlite(conn, model.table, model.columns).await?,
        DatabaseKind::Postgres => read_postgres(conn, quoted).await?,
    };
    let Some(mut table) = table else { return Ok(None) };
    table.spell_as(model.columns, conn.kind());
    // The program may not be allowed to read columns that the model does not have.
    let is_read = |column: &Column| model.columns.contains(&&*column.name);
    let names = table.columns.iter().filter(|c| is_read(c)).map(|c| identifier(&c.name));
    let names = names.collect::<Vec<_>>().join(", ");
    let types = match &*names {
        "" => Vec::new(),
        names => types(conn, format!("SELECT {names} FROM {quoted}")).await?,
    };
    let columns = table.columns.iter_mut().filter(|c| is_read(c));
    for (column, (ty, name)) in columns.zip(types) {
        if conn.kind() == DatabaseKind::Postgres {
            column.type_name = name;
        }
        column.is_numeric = ty.is_none() && is_numeric(&column.type_name) && !table.is_view;
        column.types.extend(ty);
        #[cfg(feature = "sqlite")]
        if conn.kind() == DatabaseKind::Sqlite {
            column.types.extend(stored_types(&column.type_name, column.is_numeric));
        }
    }
    Ok(Some(table))
}

async fn read_sqlite(conn: &mut Conn<'_>, name: &str, columns: &[&str]) -> Result<Option<Table>> {
    let is_qualified = name.contains('.');
    let (schema, name) = split_schema(name);
    // A temporary table hides one of the database itself, if no schema is named.
    let sql = "SELECT schema, type, NOT wr AND type IN ('table', 'virtual') FROM pragma_table_list($1) WHERE schema = $2 COLLATE NOCASE OR (NOT $3 AND \
               schema = 'temp') ORDER BY schema <> 'temp'";
    let listed = conn.query(sql).bind(name).bind(schema).bind(is_qualified);
    let listed = listed.fetch_optional().await?;
    let Some((schema, ty, has_rowid)): Option<(String, String, bool)> = listed else {
        return Ok(None);
    };
    let (schema, is_view) = (&*schema, ty == "view");
    // An alias of the rowid is never NULL and gets a value if it is omitted, although SQLite does not report this. It is a key
    // of type INTEGER without an index, in a table that has rowids.
    let sql = "SELECT x.name, x.\"notnull\" = 0 AND x.pk = 0, true, coalesce(upper(x.dflt_value), 'NULL') <> 'NULL' OR x.hidden > 1 OR \
               (x.pk > 0 AND upper(x.type) = 'INTEGER' AND NOT EXISTS (SELECT 1 FROM pragma_index_list($1, $2) AS i WHERE i.origin = 'pk')), \
               x.hidden > 1, false, x.type, nullif(x.dflt_value, 'NULL') FROM pragma_table_xinfo($1, $2) AS x WHERE x.hidden <> 1 ORDER BY x.cid";
    let rows: Vec<DescribedColumn> = conn.query(sql).bind(name).bind(schema).fetch_all().await?;
    let mut table = described(is_view, rows, unique_indexes(conn, name, schema).await?);
    table.is_external = ty == "virtual";
    table.foreign_keys = foreign_keys(conn, name, schema).await?;
    if has_rowid {
        table.add_rowid(columns);
    }
    let in_schema = identifier(schema);
    let sql = format!(
        "SELECT sql, type = 'table' FROM {in_schema}.sqlite_schema WHERE tbl_name = $1 COLLATE NOCASE AND sql IS NOT NULL ORDER BY rowid"
    );
    let texts: Vec<(String, bool)> = conn.query(AssertSqlSafe(sql)).bind(name).fetch_all().await?;
    let (creates, others): (Vec<_>, Vec<_>) = texts.into_iter().partition(|(_, create)| *create);
    table.others = others.into_iter().map(|(sql, _)| sql).collect();
    if let Some((create, _)) = creates.first() {
        table.lost = lost(create);
        table
            .columns
            .iter_mut()
            .for_each(|column| column.nullable &= !has_check(create, &column.name));
    }
    if table.columns.iter().any(|column| column.computed.is_some()) {
        table.lost.push("GENERATED");
    }
    if schema != "main" && !table.others.is_empty() {
        // Their SQL does not name the schema.
        table.others.clear();
        table.lost.push("indexes and triggers");
    }
    Ok(Some(table))
}

/// The unique indexes of a table of SQLite, with one row for each column.
async fn unique_indexes(
    conn: &mut Conn<'_>,
    name: &str,
    schema: &str,
) -> Result<Vec<(String, String, bool, bool)>> {
    // An index on an expression has a column without a name.
    let sql = "SELECT i.name, c.name, false, true FROM pragma_index_list($1, $2) AS i JOIN pragma_index_info(i.name, $2) AS c \
               WHERE i.\"unique\" AND NOT i.partial AND NOT EXISTS (SELECT 1 FROM pragma_index_info(i.name, $2) AS e WHERE \
               e.name IS NULL) UNION ALL SELECT '', name, false, true FROM pragma_table_info($1, $2) WHERE pk > 0 ORDER BY 1, 2";
    conn.query(sql).bind(name).bind(schema).fetch_all().await
}

/// The foreign keys of a table of SQLite, which it compares with their parents only when a statement uses them
/// (<https://www.sqlite.org/foreignkeys.html#fk_indexes>).
async fn foreign_keys(conn: &mut Conn<'_>, name: &str, schema: &str) -> Result<Vec<ForeignKey>> {
    let sql = "SELECT id, \"table\", \"from\", \"to\", 'ON UPDATE ' || on_update || ' ON DELETE ' || on_delete FROM \
               pragma_foreign_key_list($1, $2) ORDER BY id, seq";
    let rows: Vec<(i64, String, String, Option<String>, String)> =
        conn.query(sql).bind(name).bind(schema).fetch_all().await?;
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    for (id, parent, from, to, actions) in rows {
        if keys.last().is_none_or(|(last, _)| *last != id) {
            let (columns, parent_columns) = (Vec::new(), Vec::new());
            let (has_parent, is_valid) = (true, true);
            let key = ForeignKey { columns, parent, parent_columns, actions, has_parent, is_valid };
            keys.push((id, key));
        }
        if let Some((_, key)) = keys.last_mut() {
            key.columns.push(from);
            key.parent_columns.extend(to);
        }
    }
    let mut keys: Vec<_> = keys.into_iter().map(|(_, key)| key).collect();
    let sql = "SELECT foreign_keys FROM pragma_foreign_keys";
    let (are_checked,): (bool,) = conn.query(sql).fetch_one().await?;
    for key in keys.iter_mut().filter(|_| are_checked) {
        let sql = "SELECT name, pk > 0 FROM pragma_table_info($1, $2)";
        let columns: Vec<(String, bool)> =
            conn.query(sql).bind(&*key.parent).bind(schema).fetch_all().await?;
        let unique = unique_indexes(conn, &key.parent, schema).await?;
        key.has_parent = !columns.is_empty();
        key.is_valid = match &key.parent_columns[..] {
            [] => columns.iter().filter(|(_, is_key)| *is_key).count() == key.columns.len(),
            names => {
                let names = sorted(names.iter().map(|name| name.to_ascii_lowercase()));
                let table = described(false, Vec::new(), unique);
                let mut indexes = table.unique.iter();
                indexes.any(|i| sorted(i.columns.iter().map(|c| c.to_ascii_lowercase())) == names)
            }
        };
    }
    Ok(keys)
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

async fn read_postgres(conn: &mut Conn<'_>, quoted: &str) -> Result<Option<Table>> {
    // A domain, or the domain that it is based on, can also declare NOT NULL or a default, and a CHECK can be a NOT NULL. A trigger before
    // the INSERT can set any column.
    let sql = "WITH RECURSIVE domains AS (SELECT attnum, t.oid, typnotnull, typdefault, typbasetype FROM pg_attribute JOIN pg_type AS t ON \
               t.oid = atttypid WHERE attrelid = to_regclass($1) AND typtype = 'd' UNION ALL SELECT attnum, t.oid, t.typnotnull, \
               t.typdefault, t.typbasetype FROM domains AS d JOIN pg_type AS t ON t.oid = d.typbasetype WHERE t.typtype = 'd') SELECT \
               attname::text, NOT (attnotnull OR EXISTS (SELECT 1 FROM pg_constraint WHERE contype = 'c' AND convalidated AND conrelid = \
               attrelid AND pg_get_constraintdef(oid) = format('CHECK ((%I IS NOT NULL))', attname)) OR EXISTS (SELECT 1 FROM domains AS d \
               WHERE d.attnum = a.attnum AND (typnotnull OR EXISTS (SELECT 1 FROM pg_constraint AS c WHERE contypid = d.oid AND \
               convalidated AND pg_get_constraintdef(c.oid) = 'CHECK ((VALUE IS NOT NULL))')))), attnotnull, \
               atthasdef OR attidentity <> '' OR EXISTS (SELECT 1 FROM domains AS d WHERE d.attnum = a.attnum AND typdefault IS NOT \
               NULL) OR EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = attrelid AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 7 = 7), \
               attgenerated <> '', attidentity = 'a', ''::text, NULL::text FROM pg_attribute AS a WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows: Vec<DescribedColumn> = conn.query(sql).bind(quoted).fetch_all().await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let sql =
        "SELECT relkind IN ('v', 'm'), relkind = 'f' FROM pg_class WHERE oid = to_regclass($1)";
    let (is_view, is_external) = conn.query(sql).bind(quoted).fetch_one().await?;
    // INCLUDE columns follow the key columns of the index, so only the first `indnkeyatts` columns count.
    let sql = "SELECT quote_ident(relname), attname::text, NOT indimmediate, indisvalid AND indisready FROM pg_index JOIN pg_class ON \
               pg_class.oid = indexrelid JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY((indkey::int2[])[0:indnkeyatts - 1]) WHERE indrelid = to_regclass($1) AND \
               indisunique AND NOT indisexclusion AND indpred IS NULL AND indexprs IS NULL ORDER BY 1, 2";
    let indexes = conn.query(sql).bind(quoted).fetch_all().await?;
    Ok(Some(Table { is_external, ..described(is_view, rows, indexes) }))
}

/// The name of a column, whether it can be NULL, whether it is declared NOT NULL if not, whether an INSERT can omit it, whether it is computed, whether it is an identity that
/// a statement cannot choose, and on SQLite its declared type and its default.
type DescribedColumn = (String, bool, bool, bool, bool, bool, String, Option<String>);

/// Builds a table from the rows that describe its columns and its unique indexes.
fn described(
    is_view: bool,
    columns: Vec<DescribedColumn>,
    indexed: Vec<(String, String, bool, bool)>,
) -> Table {
    let column = |(
        name,
        nullable,
        declares_not_null,
        optional,
        is_computed,
        is_identity,
        type_name,
        default,
    )| {
        // The description of a view contains neither NOT NULL nor defaults.
        let (nullable, optional) = (nullable && !is_view, optional || is_view);
        let computed = match (is_computed, is_identity) {
            (true, _) => Some(Computed::Expression),
            (_, true) => Some(Computed::Identity),
            _ => None,
        };
        let (types, is_numeric) = (Vec::new(), false);
        Column {
            name,
            nullable,
            declares_not_null,
            optional,
            computed,
            default,
            types,
            type_name,
            is_numeric,
        }
    };
    let mut unique: Vec<(String, Index)> = Vec::new();
    for (name, column, deferrable, valid) in indexed {
        match unique.last_mut() {
            Some((last, index)) if *last == name => index.columns.push(column),
            _ => {
                let index = Index { name: name.clone(), columns: vec![column], deferrable, valid };
                unique.push((name, index));
            }
        }
    }
    let sorted = |(_, mut index): (String, Index)| {
        index.columns.sort_unstable();
        index
    };
    Table {
        is_view,
        columns: columns.into_iter().map(column).collect(),
        unique: unique.into_iter().map(sorted).collect(),
        ..Table::default()
    }
}
