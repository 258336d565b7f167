//! Compares tables with their models, for [`Db::check`] and `Model::check_table`.

#[cfg(feature = "postgres")]
use crate::database::backend::Backend as _;
use crate::database::backend::{AnyType, Arguments, DatabaseKind, Statement};
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::raw::RawConn;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::store::Route;
use crate::signal::registry::registry;
use crate::signal::relation::{self, Ask, ModelInfo};
use crate::table::field::Asked;
use crate::table::schema::{ColumnGroup, ColumnRole, ColumnSpec};
use crate::table::statement_spec::StatementKind;
use crate::task::info::Asks;

/// A table as the database describes it.
struct Table {
    is_view: bool,
    columns: Vec<Column>,
    unique: Vec<Index>,
}

/// A unique index on columns only (no expressions) that covers all rows.
struct Index {
    /// Sorted by name.
    columns: Vec<String>,
    /// Whether the constraint is deferrable. ON CONFLICT cannot use such an index.
    deferrable: bool,
    /// Whether the index was built completely.
    valid: bool,
}

struct Column {
    name: String,
    nullable: bool,
    /// Whether an INSERT can omit the column.
    optional: bool,
    /// `None` if the database does not report a type that sqlx knows.
    ty: Option<AnyType>,
    type_name: String,
}

/// Compares the table of one model with the model.
pub(crate) async fn model<M: Model, R: Route<M>>(source: Source<'_>) -> Result<()> {
    let findings = table(&mut source.acquire().await?, &ModelInfo::of::<M>(), R::asked).await?;
    if findings.is_empty() { Ok(()) } else { Err(Error::Check { findings }) }
}

/// Compares the table of every linked model that this database can store.
pub(crate) async fn every_model(conn: &mut Conn<'_>) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for linked in relation::models() {
        if let Some((model, ask)) = linked.stored_in(conn.kind()) {
            findings.extend(table(conn, &model, ask).await?);
        }
    }
    Ok(findings)
}

/// The differences between the table and the model, one sentence each.
async fn table(conn: &mut Conn<'_>, described: &ModelInfo, ask: Ask) -> Result<Vec<String>> {
    let ModelInfo { name, table, columns, statements: model, .. } = *described;
    let of = format!("`{name}` (table `{table}`)");
    let Some(table) = read(conn, table, model.table).await? else {
        return Ok(vec![format!("{of}: there is no such table")]);
    };
    let mut findings = Vec::new();
    if table.is_view {
        findings.push(format!("{of}: this is a view, not a table"));
    }
    let reads_null = nullable_fields(conn, &table, described, ask).await?;
    for (index, (column, spec)) in columns.iter().zip(model.columns).enumerate() {
        let Some(found) = table.columns.iter().find(|c| c.name == *column) else {
            findings.push(format!("{of}: there is no column `{column}`"));
            continue;
        };
        if let Some(ty) = &found.ty
            && !ask(index, Asked::Reads(ty))
        {
            let ty = &found.type_name;
            findings.push(format!(
                "{of}: the column `{column}` is of type {ty}, which the field cannot be read from"
            ));
        }
        let is_key = spec.role.group() == ColumnGroup::Key;
        if found.nullable && !is_key && !reads_null[index] {
            findings.push(format!(
                "{of}: the column `{column}` can be NULL, and the field is no `Option`"
            ));
        }
        if spec.role == ColumnRole::GeneratedKey && !found.optional && !table.is_view {
            findings.push(unassigned_key(&of, found, conn.kind()));
        }
        if spec.unique {
            findings.extend(missing_index(&of, &table, &[column], "`#[model(unique)]`"));
            // An `upsert` may use the column at any time. A `save` does not need ON CONFLICT for the key.
            findings.extend(no_arbiter(&of, &table, &[column]).filter(|_| !is_key));
        }
    }
    let unwritten = |column: &&Column| {
        let index = columns.iter().position(|name| *name == column.name);
        let written = index.is_some_and(|index| model.columns[index].role != ColumnRole::Generated);
        !written && !column.nullable && !column.optional
    };
    for Column { name, .. } in table.columns.iter().filter(unwritten) {
        findings.push(format!(
            "{of}: the column `{name}` has no default, and the model never writes it"
        ));
    }
    let key: Vec<_> = model.group(ColumnGroup::Key).map(|index| columns[index]).collect();
    findings.extend(missing_index(&of, &table, &key, "the key"));
    check_upserts(&mut findings, &of, &table, described, conn.kind());
    Ok(findings)
}

/// Adds a finding for each `upsert` and `get_or_create` that the program has executed and for which the table has no index.
fn check_upserts(
    findings: &mut Vec<String>,
    of: &str,
    table: &Table,
    described: &ModelInfo,
    kind: DatabaseKind,
) {
    let ModelInfo { columns, statements: model, receivers, .. } = *described;
    for spec in receivers.statement_cache().composed(kind) {
        if matches!(spec.kind, StatementKind::Save | StatementKind::InsertOrNothing) {
            let said = spec.by_key(model)
                || matches!(spec.on[..], [column] if model.columns[column].unique);
            let on: Vec<_> = spec.on.iter().map(|index| columns[*index]).collect();
            let finding = missing_index(of, table, &on, UPSERT).filter(|_| !said);
            let finding = finding.or_else(|| no_arbiter(of, table, &on));
            findings.extend(finding.filter(|finding| !findings.contains(finding)));
        }
    }
}

const UPSERT: &str = "`upsert` or `get_or_create`";

/// Which fields accept NULL: an `Option`, or a type that decodes NULL. The database is asked only if a column can be NULL and
/// its field is not an `Option`.
async fn nullable_fields(
    conn: &mut Conn<'_>,
    table: &Table,
    described: &ModelInfo,
    ask: Ask,
) -> Result<Vec<bool>> {
    let specs = described.statements.columns;
    let unclear = |(name, spec): (&&str, &ColumnSpec)| {
        !spec.optional && table.columns.iter().any(|c| c.nullable && c.name == **name)
    };
    let mut null = None;
    if described.columns.iter().zip(specs).any(unclear) {
        let select = Statement::fixed("SELECT NULL", Arguments::new(conn.kind()));
        null = conn.run_one(select).await?;
    }
    let reads_null = |index: usize| {
        specs[index].optional || null.as_ref().is_some_and(|row| ask(index, Asked::ReadsNull(row)))
    };
    Ok((0..specs.len()).map(reads_null).collect())
}

fn unassigned_key(of: &str, key: &Column, kind: DatabaseKind) -> String {
    let name = &key.name;
    let finding =
        format!("{of}: the database must assign the key `{name}`, but the column has no default");
    match kind {
        DatabaseKind::Postgres => finding,
        DatabaseKind::Sqlite => {
            format!("{finding}; write `{name} INTEGER PRIMARY KEY`, without WITHOUT ROWID")
        }
    }
}

fn missing_index(of: &str, table: &Table, columns: &[&str], asked: &str) -> Option<String> {
    if table.is_view {
        return None;
    }
    let (names, indexes) = indexes_of(table, columns);
    match &indexes[..] {
        [] => Some(format!("{of}: there is no unique index of `{names}`, for {asked}")),
        indexes if indexes.iter().any(|index| index.valid) => None,
        _ => Some(format!(
            "{of}: the unique index of `{names}`, for {asked}, is invalid: drop it, or REINDEX it"
        )),
    }
}

/// The finding that `upsert` cannot use these columns, because a unique constraint on them is deferrable. ON CONFLICT considers
/// every unique index on the columns.
fn no_arbiter(of: &str, table: &Table, columns: &[&str]) -> Option<String> {
    let (names, indexes) = indexes_of(table, columns);
    let deferrable = indexes.iter().any(|index| index.valid && index.deferrable);
    deferrable.then(|| {
        format!("{of}: the unique constraint of `{names}` is DEFERRABLE, which {UPSERT} cannot use")
    })
}

/// The unique indexes on these columns, and the columns as messages name them.
fn indexes_of<'t>(table: &'t Table, columns: &[&str]) -> (String, Vec<&'t Index>) {
    let mut names = columns.to_vec();
    names.sort_unstable();
    let indexes = table.unique.iter().filter(|index| index.columns == names).collect();
    (names.join("`, `"), indexes)
}

/// Reads the description of a table, or `None` if it does not exist. `quoted` is its name in SQL.
async fn read(conn: &mut Conn<'_>, name: &str, quoted: &str) -> Result<Option<Table>> {
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
        let types = conn.types_of_now(&select).await?.into_iter();
        let named = |ty: AnyType| {
            let name = sqlx::Postgres::type_info(&ty).name().to_owned();
            (Some(ty), name)
        };
        return Ok(types.map(named).collect());
    }
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
    let (schema, name) = name.split_once('.').unwrap_or(("main", name));
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
    let sql = "SELECT indexrelid::text, attname::text, NOT indimmediate, indisvalid AND indisready FROM pg_index JOIN pg_attribute \
               ON attrelid = indrelid AND attnum = ANY((indkey::int2[])[0:indnkeyatts - 1]) WHERE indrelid = to_regclass($1) AND \
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
            _ => unique.push((name, Index { columns: vec![column], deferrable, valid })),
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

impl Db {
    /// Checks at startup what would otherwise fail at a later save.
    ///
    /// The check verifies that:
    ///
    /// - this `Db` has a value for every [`State<T>`](crate::State) that a receiver takes
    /// - the `after` options of the receivers do not contradict each other
    /// - the table of every linked model matches the model, see [`check_table`](crate::Model::check_table)
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY)").await?;
    /// let error = db.check().await.unwrap_err();
    /// assert!(error.to_string().contains("there is no column `name`"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Check`] with all findings.
    ///
    /// # Cancel safety
    ///
    /// The check only reads. If the future is dropped, nothing has changed.
    pub async fn check(&self) -> Result<()> {
        let mut findings = registry().findings();
        for receiver in registry().identities() {
            let info = receiver.info;
            for asks in info.asks {
                if let Asks::State { id, name } = asks
                    && !self.state.has(*id)
                {
                    let (receiver, file, line) = (info.name, info.file, info.line);
                    let name = name();
                    findings.push(format!("receiver `{receiver}` ({file}:{line}) takes a `State<{name}>`, which this `Db` was not given"));
                }
            }
        }
        findings.extend(every_model(&mut self.acquire().await?).await?);
        if findings.is_empty() { Ok(()) } else { Err(Error::Check { findings }) }
    }
}
