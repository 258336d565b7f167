//! A table as the database describes it.

#[cfg(feature = "postgres")]
use crate::database::backend::Backend as _;
use crate::database::backend::{AnyType, DatabaseKind};
use crate::database::conn::Conn;
use crate::database::raw::RawConn;
use crate::error::Result;
use crate::table::schema::split_schema;

/// A table as the database describes it.
pub(super) struct Table {
    pub(super) is_view: bool,
    pub(super) columns: Vec<Column>,
    pub(super) unique: Vec<Index>,
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
    /// Whether an INSERT can omit the column.
    pub(super) optional: bool,
    /// `None` if the database does not report a type that sqlx knows.
    pub(super) ty: Option<AnyType>,
    pub(super) type_name: String,
}

/// Reads the description of a table, or `None` if it does not exist. `quoted` is its name in SQL.
pub(super) async fn read(conn: &mut Conn<'_>, name: &str, quoted: &str) -> Result<Option<Table>> {
    let table = match conn.kind() {
        DatabaseKind::Sqlite => read_sqlite(conn, name).await?,
        DatabaseKind::Postgres => read_postgres(conn, quoted).await?,
    };
    let Some(mut table) = table else { return Ok(None) };
    let names = table.columns.iter().map(|c| format!("\"{}\"", c.name.replace('"', "\"\"")));
    let select = format!("SELECT {} FROM {quoted}", names.collect::<Vec<_>>().join(", "));
    let types = types(conn, select).await?;
    for (column, (ty, name)) in table.columns.iter_mut().zip(types) {
        (column.ty, column.type_name) = (ty, name);
    }
    Ok(Some(table))
}

/// The types and type names of the columns that a statement returns.
async fn types(conn: &mut Conn<'_>, select: String) -> Result<Vec<(Option<AnyType>, String)>> {
    use sqlx::TypeInfo as _;

    #[cfg(feature = "postgres")]
    if conn.kind() == DatabaseKind::Postgres {
        use crate::database::backend::{Arguments, Statement};

        // The LEFT JOIN returns one row of NULLs, so the types are known even if the table is empty.
        let sql =
            format!("SELECT _of.* FROM (SELECT) AS _one LEFT JOIN ({select}) AS _of ON false");
        let row = conn.run_one(Statement::once(sql, Arguments::new(conn.kind()))).await?;
        let types = row.map(|row| row.types()).unwrap_or_default().into_iter();
        let named = |ty: AnyType| {
            let name = sqlx::Postgres::type_info(&ty).name().to_owned();
            (Some(ty), name)
        };
        return Ok(types.map(named).collect());
    }
    // sqlx remembers the types of a statement that it has prepared before, so a changed schema needs another text.
    #[cfg(feature = "sqlite")]
    let select = {
        let sql = "SELECT schema_version FROM pragma_schema_version";
        let (version,): (i64,) = conn.query(sql).fetch_one().await?;
        format!("{select} /* {version} */")
    };
    conn.ensure_connected().await?;
    let types = match conn.connected() {
        #[cfg(feature = "sqlite")]
        Some(RawConn::Sqlite(conn)) => {
            use sqlx::{AssertSqlSafe, Column as _, Executor as _, SqlSafeStr, Statement as _};

            conn.prepare(AssertSqlSafe(select).into_sql_str()).await.map(|statement| {
                let columns = statement.columns().iter().map(sqlx::sqlite::SqliteColumn::type_info);
                // A column whose type sqlx does not know can contain any value.
                let known = |ty: &sqlx::sqlite::SqliteTypeInfo| {
                    (!ty.is_null()).then(|| AnyType::Sqlite(ty.clone()))
                };
                columns.map(|ty| (known(ty), ty.name().to_owned())).collect()
            })
        }
        #[cfg(feature = "postgres")]
        Some(RawConn::Postgres(_)) => Ok(Vec::new()),
        None => Err(sqlx::Error::PoolClosed),
    };
    conn.note_result(types).await
}

async fn read_sqlite(conn: &mut Conn<'_>, name: &str) -> Result<Option<Table>> {
    let (schema, name) = split_schema(name);
    // An alias of the rowid is never NULL and gets a value if it is omitted, although SQLite does not report this. It is a key
    // of type INTEGER without an index, in a table that has rowids.
    let sql = "SELECT x.name, x.\"notnull\" = 0 AND x.pk = 0, coalesce(upper(x.dflt_value), 'NULL') <> 'NULL' OR x.hidden > 1 OR \
               (x.pk > 0 AND upper(x.type) = 'INTEGER' AND NOT EXISTS (SELECT 1 FROM pragma_index_list($1, $2) AS i WHERE i.origin = 'pk')) FROM \
               pragma_table_xinfo($1, $2) AS x WHERE x.hidden <> 1 ORDER BY x.cid";
    let rows: Vec<(String, bool, bool)> =
        conn.query(sql).bind(name).bind(schema).fetch_all().await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let sql = "SELECT count(*) > 0 FROM pragma_table_list($1) WHERE schema = $2 AND type = 'view'";
    let (is_view,) = conn.query(sql).bind(name).bind(schema).fetch_one().await?;
    // An index on an expression has a column without a name.
    let sql = "SELECT i.name, c.name, false, true FROM pragma_index_list($1, $2) AS i JOIN pragma_index_info(i.name, $2) AS c \
               WHERE i.\"unique\" AND NOT i.partial AND NOT EXISTS (SELECT 1 FROM pragma_index_info(i.name, $2) AS e WHERE \
               e.name IS NULL) UNION ALL SELECT '', name, false, true FROM pragma_table_info($1, $2) WHERE pk > 0 ORDER BY 1, 2";
    let indexes = conn.query(sql).bind(name).bind(schema).fetch_all().await?;
    Ok(Some(described(is_view, rows, indexes)))
}

async fn read_postgres(conn: &mut Conn<'_>, quoted: &str) -> Result<Option<Table>> {
    // A domain, or the domain that it is based on, can also declare NOT NULL or a default.
    let sql = "WITH RECURSIVE domains AS (SELECT attnum, typnotnull, typdefault, typbasetype FROM pg_attribute JOIN pg_type AS t ON \
               t.oid = atttypid WHERE attrelid = to_regclass($1) AND typtype = 'd' UNION ALL SELECT attnum, t.typnotnull, \
               t.typdefault, t.typbasetype FROM domains AS d JOIN pg_type AS t ON t.oid = d.typbasetype WHERE t.typtype = 'd') SELECT \
               attname::text, NOT (attnotnull OR EXISTS (SELECT 1 FROM domains AS d WHERE d.attnum = a.attnum AND typnotnull)), \
               atthasdef OR attidentity <> '' OR EXISTS (SELECT 1 FROM domains AS d WHERE d.attnum = a.attnum AND typdefault IS NOT \
               NULL) FROM pg_attribute AS a WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows: Vec<(String, bool, bool)> = conn.query(sql).bind(quoted).fetch_all().await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let sql = "SELECT relkind IN ('v', 'm') FROM pg_class WHERE oid = to_regclass($1)";
    let (is_view,) = conn.query(sql).bind(quoted).fetch_one().await?;
    // INCLUDE columns follow the key columns of the index, so only the first `indnkeyatts` columns count.
    let sql = "SELECT quote_ident(relname), attname::text, NOT indimmediate, indisvalid AND indisready FROM pg_index JOIN pg_class ON \
               pg_class.oid = indexrelid JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY((indkey::int2[])[0:indnkeyatts - 1]) WHERE indrelid = to_regclass($1) AND \
               indisunique AND indpred IS NULL AND indexprs IS NULL ORDER BY 1, 2";
    let indexes = conn.query(sql).bind(quoted).fetch_all().await?;
    Ok(Some(described(is_view, rows, indexes)))
}

/// Builds a table from the rows that describe its columns and its unique indexes.
fn described(
    is_view: bool,
    columns: Vec<(String, bool, bool)>,
    indexed: Vec<(String, String, bool, bool)>,
) -> Table {
    let column = |(name, nullable, optional)| {
        // The description of a view contains neither NOT NULL nor defaults.
        let (nullable, optional) = (nullable && !is_view, optional || is_view);
        Column { name, nullable, optional, ty: None, type_name: String::new() }
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
    }
}
