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
use crate::model::ddl::{Ddl, one_line};
use crate::model::store::Route;
use crate::signal::registry::registry;
use crate::signal::relation::{self, Ask, ModelInfo};
use crate::table::field::Asked;
use crate::table::schema::{ColumnGroup, ColumnRole, ColumnSpec, split_schema};
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
    /// The quoted name.
    name: String,
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
    let findings = table(&mut source.acquire().await?, ModelInfo::of::<M>(), R::asked).await?;
    if findings.is_empty() { Ok(()) } else { Err(Error::Check { findings }) }
}

/// Compares the table of every linked model that this database can store.
pub(crate) async fn every_model(conn: &mut Conn<'_>) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for linked in relation::models() {
        if let Some((model, ask)) = linked.stored_in(conn.kind()) {
            findings.extend(table(conn, model, ask).await?);
        }
    }
    Ok(findings)
}

/// A difference between a table and its model.
struct Finding {
    text: String,
    fix: Fix,
}

/// How to mend a table.
enum Fix {
    /// Not by SQL that can be told in advance.
    None,
    Sql(String),
    /// SQLite: by creating the table again.
    Rebuild,
}

impl Fix {
    /// On SQLite, which cannot alter columns, the table has to be created again.
    fn alter(ddl: &Ddl, sql: Option<String>) -> Self {
        match (ddl.kind, sql) {
            (DatabaseKind::Sqlite, _) => Self::Rebuild,
            (_, Some(sql)) => Self::Sql(sql),
            (_, None) => Self::None,
        }
    }
}

/// The findings with their SQL. If a table has to be created again, that mends everything at once.
fn with_fixes(findings: Vec<Finding>, ddl: &Ddl, existing: &[Column]) -> Vec<String> {
    let mut rebuild = findings.iter().any(|f| matches!(f.fix, Fix::Rebuild)).then(|| {
        let existing: Vec<_> = existing.iter().map(|c| (&*c.name, &*c.type_name)).collect();
        ddl.rebuild(&existing)
    });
    let rebuilds = rebuild.is_some();
    let text = |Finding { text, fix }: Finding| match (fix, rebuilds) {
        (Fix::None, _) => text,
        (_, true) => match rebuild.take() {
            Some(sql) => format!("{text}; to mend it: {sql}"),
            None => format!("{text}; the SQL of the first finding of this table mends it"),
        },
        (Fix::Sql(sql), false) => format!("{text}; to mend it: {sql}"),
        (Fix::Rebuild, false) => text,
    };
    findings.into_iter().map(text).collect()
}

/// The differences between the table and the model, one sentence each.
async fn table(conn: &mut Conn<'_>, described: ModelInfo, ask: Ask) -> Result<Vec<String>> {
    let of = format!("`{}` (table `{}`)", described.name, described.table);
    let found = read(conn, described.table, described.statements.table).await?;
    let reads_null = match &found {
        Some(table) => nullable_fields(conn, table, &described, ask).await?,
        None => Vec::new(),
    };
    let ddl = Ddl::new(conn.kind(), described);
    let Some(table) = found else {
        let (text, sql) = (format!("{of}: there is no such table"), one_line(&ddl.create_table()));
        return Ok(with_fixes(vec![Finding { text, fix: Fix::Sql(sql) }], &ddl, &[]));
    };
    let mut findings = Vec::new();
    if table.is_view {
        let text = format!("{of}: this is a view, not a table");
        findings.push(Finding { text, fix: Fix::None });
    }
    for (index, reads_null) in reads_null.into_iter().enumerate() {
        of_column(&of, &ddl, ask, &table, (index, reads_null), &mut findings);
    }
    of_rest(&of, &ddl, &table, &mut findings);
    if table.is_view {
        findings.iter_mut().for_each(|finding| finding.fix = Fix::None);
    }
    Ok(with_fixes(findings, &ddl, &table.columns))
}

/// The findings about a column of the model.
fn of_column(
    of: &str,
    ddl: &Ddl,
    ask: Ask,
    table: &Table,
    (index, reads_null): (usize, bool),
    findings: &mut Vec<Finding>,
) {
    let (column, spec) = (ddl.model.columns[index], &ddl.model.statements.columns[index]);
    let mut push = |text: String, fix| findings.push(Finding { text, fix });
    let Some(found) = table.columns.iter().find(|c| c.name == *column) else {
        let fix = ddl.add_column(index).map_or_else(|| Fix::alter(ddl, None), Fix::Sql);
        push(format!("{of}: there is no column `{column}`"), fix);
        if spec.unique {
            findings.extend(missing_index(of, ddl, table, &[index], "`#[model(unique)]`"));
        }
        return;
    };
    if let Some(ty) = &found.ty
        && !ask(index, Asked::Reads(ty))
    {
        let ty = &found.type_name;
        let text = format!(
            "{of}: the column `{column}` is of type {ty}, which the field cannot be read from"
        );
        push(text, Fix::alter(ddl, ddl.change_type(index)));
    }
    let is_key = spec.role.group() == ColumnGroup::Key;
    if found.nullable && !is_key && !reads_null {
        let text = format!("{of}: the column `{column}` can be NULL, and the field is no `Option`");
        push(text, Fix::alter(ddl, Some(ddl.set_not_null(index))));
    }
    if spec.role == ColumnRole::GeneratedKey && !found.optional && !table.is_view {
        push(unassigned_key(of, found, ddl.kind), Fix::alter(ddl, ddl.assign_key(index)));
    }
    if spec.unique {
        findings.extend(missing_index(of, ddl, table, &[index], "`#[model(unique)]`"));
        // An `upsert` may use the column at any time. A `save` does not need ON CONFLICT for the key.
        findings.extend(no_arbiter(of, ddl, table, &[index]).filter(|_| !is_key));
    }
}

/// The findings about columns that the model does not write, and about indexes.
fn of_rest(of: &str, ddl: &Ddl, table: &Table, findings: &mut Vec<Finding>) {
    let (columns, model) = (ddl.model.columns, ddl.model.statements);
    let unwritten = |column: &&Column| {
        let index = columns.iter().position(|name| *name == column.name);
        let written = index.is_some_and(|index| model.columns[index].role != ColumnRole::Generated);
        !written && !column.nullable && !column.optional
    };
    for Column { name, .. } in table.columns.iter().filter(unwritten) {
        let text =
            format!("{of}: the column `{name}` has no default, and the model never writes it");
        let quoted = name.replace('"', "\"\"");
        let sql = format!("ALTER TABLE {} ALTER COLUMN \"{quoted}\" DROP NOT NULL", model.table);
        findings.push(Finding { text, fix: Fix::alter(ddl, Some(sql)) });
    }
    let key: Vec<_> = model.group(ColumnGroup::Key).collect();
    findings.extend(missing_index(of, ddl, table, &key, "the key"));
    for spec in ddl.model.receivers.statement_cache().composed(ddl.kind) {
        if matches!(spec.kind, StatementKind::Save | StatementKind::InsertOrNothing) {
            let said = spec.by_key(model)
                || matches!(spec.on[..], [column] if model.columns[column].unique);
            let finding = missing_index(of, ddl, table, &spec.on, UPSERT).filter(|_| !said);
            let finding = finding.or_else(|| no_arbiter(of, ddl, table, &spec.on));
            let is_new = |new: &Finding| findings.iter().all(|finding| finding.text != new.text);
            if let Some(finding) = finding.filter(is_new) {
                findings.push(finding);
            }
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

fn missing_index(
    of: &str,
    ddl: &Ddl,
    table: &Table,
    columns: &[usize],
    asked: &str,
) -> Option<Finding> {
    if table.is_view {
        return None;
    }
    let (names, indexes) = indexes_of(ddl, table, columns);
    match &indexes[..] {
        [] => Some(Finding {
            text: format!("{of}: there is no unique index of `{names}`, for {asked}"),
            fix: Fix::Sql(ddl.create_index(columns)),
        }),
        indexes if indexes.iter().any(|index| index.valid) => None,
        [invalid, ..] => Some(Finding {
            text: format!(
                "{of}: the unique index of `{names}`, for {asked}, is invalid: drop it, or REINDEX it"
            ),
            fix: Fix::Sql(ddl.reindex(&invalid.name)),
        }),
    }
}

/// The finding that `upsert` cannot use these columns, because a unique constraint on them is deferrable. ON CONFLICT considers
/// every unique index on the columns.
fn no_arbiter(of: &str, ddl: &Ddl, table: &Table, columns: &[usize]) -> Option<Finding> {
    let (names, indexes) = indexes_of(ddl, table, columns);
    let deferrable = indexes.iter().find(|index| index.valid && index.deferrable)?;
    let text = format!(
        "{of}: the unique constraint of `{names}` is DEFERRABLE, which {UPSERT} cannot use"
    );
    Some(Finding { text, fix: Fix::Sql(ddl.replace_constraint(&deferrable.name, columns)) })
}

/// The unique indexes on these columns, and the columns as messages name them.
fn indexes_of<'t>(ddl: &Ddl, table: &'t Table, columns: &[usize]) -> (String, Vec<&'t Index>) {
    let mut names: Vec<_> = columns.iter().map(|column| ddl.model.columns[*column]).collect();
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
