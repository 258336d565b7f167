//! Inspects the table of a model before its first write, see [`SchemaCache`](crate::database::schema_cache::SchemaCache).

use futures_util::future::BoxFuture;
use sqlx::AssertSqlSafe;

use crate::database::backend::{AnyType, Arguments, DatabaseKind, Statement};
use crate::database::conn::Conn;
use crate::database::schema_cache::{Casts, Columns, TableFacts};
use crate::error::{Error, Result, driver};
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, ColumnRole, Schema, split_schema, stored_name};
use crate::write::WriteKind;
use crate::write::arbiter::arbiter_names;
use crate::write::facts::{begins_with_insert, returned};
use crate::write::row_locks::{self, POSTGRES_ROW_LOCKS};

/// Whether a statement that writes the first row can commit itself. If not, the write may have to
/// be undone, so it needs a transaction. Inspects the table if this is not known yet.
///
/// # Errors
///
/// Returns an error if the database refuses a query.
pub(crate) fn commits_itself<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s dyn Rows,
    write_kind: &'s WriteKind,
) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move {
        let kind = conn.kind();
        revalidate(conn).await?;
        if let Some(known) = conn.facts().commits_itself(kind, rows, write_kind) {
            return Ok(known);
        }
        let epoch = conn.facts().epoch();
        let seen = returned(rows, write_kind);
        let found = match kind {
            DatabaseKind::Sqlite => in_sqlite(conn, rows, seen).await.map(Some),
            DatabaseKind::Postgres => in_postgres(conn, rows, seen).await,
        };
        match unless_lost(found)?.flatten() {
            Some(found) => {
                let all_read = seen.without(found.readable).is_empty();
                let asks_atomic =
                    kind == DatabaseKind::Sqlite || begins_with_insert(rows, write_kind);
                let atomic = !asks_atomic || found.atomic == Some(true);
                conn.facts().add(rows, epoch, TableFacts { seen, ..found });
                Ok(atomic && all_read)
            }
            None => Ok(false),
        }
    })
}

/// Compares the schema with the cached one if it may have changed. If it is the same, the cached
/// facts are valid again; otherwise they are cleared.
pub(super) async fn revalidate(conn: &mut Conn<'_>) -> Result<()> {
    if let Some(suspected) = conn.facts().suspected() {
        let found = Box::pin(conn.query(SQLITE_FINGERPRINT).fetch_one::<(String,)>()).await;
        if let Some((fingerprint,)) = unless_lost(found)? {
            conn.facts().compare(suspected, &fingerprint.into());
        }
    }
    Ok(())
}

/// A text that changes whenever the schema does. `schema_version` does not cover temporary objects,
/// so their SQL is added.
const SQLITE_FINGERPRINT: &str = "SELECT schema_version || coalesce((SELECT group_concat(sql) FROM sqlite_temp_schema), '') FROM \
     pragma_schema_version";

/// Returns `None` if the connection is lost, because the write itself may then get another
/// connection.
fn unless_lost<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::Database(sqlx::Error::Database(error))) if !driver::has_hung_up(&*error) => {
            Err(sqlx::Error::Database(error).into())
        }
        Err(_) => Ok(None),
    }
}

/// Looks up the facts about a table on SQLite, where a column can hold a value of any type, except
/// for the rowid. Of the other columns, only those that the library writes itself and that cannot
/// be NULL are certain to be readable.
async fn in_sqlite(conn: &mut Conn<'_>, rows: &dyn Rows, seen: Columns) -> Result<TableFacts> {
    let model = rows.schema();
    let (schema, name) = split_schema(rows.table());
    let query = conn.query(in_schema(SQLITE_TABLE, schema)).bind(name).bind(schema);
    let found: Vec<(String, bool, bool, bool, bool)> = query.fetch_all().await?;
    let is_certain = |i: &usize| {
        let column = &model.columns[*i];
        let of_table =
            found.iter().find(|(name, ..)| name.eq_ignore_ascii_case(rows.columns()[*i]));
        let Some((_, not_null, is_rowid, ..)) = of_table else { return false };
        match column.role.group() {
            ColumnGroup::Key => *is_rowid && rows.fits_rowid(*i),
            ColumnGroup::Version | ColumnGroup::Added => column.optional || *not_null,
            ColumnGroup::Set | ColumnGroup::Computed => false,
        }
    };
    let readable = (0..Columns::REST).filter(|i| seen.has(*i)).filter(is_certain);
    let atomic = found.first().is_some_and(|(.., atomic, _)| *atomic);
    let counted = found.first().map(|(.., counted)| *counted);
    let readable = Columns::of(readable);
    Ok(TableFacts {
        readable,
        atomic: Some(atomic),
        plain: atomic,
        may_skip_updates: atomic.then_some(false),
        counted,
        ..TableFacts::default()
    })
}

/// The text of a statement that reads the catalog of a database of the connection.
fn in_schema(sql: &str, schema: &str) -> AssertSqlSafe<String> {
    let sql = sql.replace("{schemas}", SQLITE_SCHEMAS).replace("{atomic}", SQLITE_ATOMIC);
    AssertSqlSafe(sql.replace("{schema}", &schema.replace('"', "\"\"")))
}

/// Selects the columns of a table. For each: whether it cannot be NULL, and whether it is the
/// rowid, which is the only key without an index. For the table: whether a refused statement
/// changes nothing, and whether the table is not a view.
///
/// A refused statement may keep its changes because of a trigger (`RAISE(FAIL)`) or a constraint
/// (`ON CONFLICT FAIL`), of this table or of another one that is written through a foreign key.
const SQLITE_TABLE: &str = "{schemas} SELECT name, \"notnull\", pk = 1 AND upper(type) = 'INTEGER' AND NOT EXISTS (SELECT 1 FROM \
     pragma_index_list($1, $2) AS i WHERE i.origin = 'pk') AND NOT EXISTS (SELECT 1 FROM schemas WHERE name = $1 COLLATE NOCASE AND \
     sql LIKE 'CREATE VIRTUAL%'), {atomic}, NOT EXISTS (SELECT 1 FROM schemas WHERE type = 'view' AND name = $1 COLLATE NOCASE) FROM \
     pragma_table_xinfo($1, $2)";

/// Looks up the facts about a table on PostgreSQL, where a value always has the type of its column.
/// Whether a column can be NULL is read from the catalog. Returns `None` if the table does not exist yet.
async fn in_postgres(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    seen: Columns,
) -> Result<Option<TableFacts>> {
    let model = rows.schema();
    let columns: Vec<usize> = (0..Columns::REST).filter(|i| seen.has(*i)).collect();
    let key: Vec<usize> = model.group(ColumnGroup::Key).collect();
    let args = [model.table, &arbiter_names(DatabaseKind::Postgres, rows, &key)];
    let Some(found) = conn.run_one(postgres_table(model, &columns, args)?).await? else {
        return Ok(None);
    };
    if !found.flag(0)? {
        return Ok(None);
    }
    let types = found.types().into_iter().skip(POSTGRES_TABLE_FACTS);
    let is_read = |(i, ty): &(usize, AnyType)| match model.columns[*i].role {
        // A value in an `auto_now_add` column that cannot be decoded does not make the write fail,
        // see `Text::take`.
        ColumnRole::GeneratedKey | ColumnRole::Version | ColumnRole::AutoNowAdd => {
            rows.fits(*i, ty)
        }
        _ => rows.fits_all(*i, ty),
    };
    let not_null = found.bytes(3)?.unwrap_or_default();
    let can_be_null = |i: usize| {
        let column = &model.columns[i];
        let name = stored_name(DatabaseKind::Postgres, rows.columns()[i]).as_bytes();
        let is_declared = not_null.split(|byte| *byte == 1).any(|not_null| not_null == name);
        !column.optional && column.role != ColumnRole::GeneratedKey && !is_declared
    };
    let readable = columns.into_iter().zip(types).filter(is_read).map(|(i, _)| i);
    let readable = Columns::of(readable.filter(|i| !can_be_null(*i)));
    Ok(Some(TableFacts {
        readable,
        atomic: Some(found.flag(1)?),
        arbiters: vec![(key, found.flag(2)?)],
        row_locks: found.bytes(4)?.map(|name| row_locks::of_name(&name)),
        may_skip_updates: Some(found.flag(5)?),
        ..TableFacts::default()
    }))
}

/// The statement that looks up the facts about a table. Its row has the columns of the model, as NULLs, after the facts.
fn postgres_table(
    model: &Schema,
    columns: &[usize],
    args: [&str; 2],
) -> Result<Statement, sqlx::Error> {
    let facts = format!(
        "SELECT to_regclass($1) IS NOT NULL, ({POSTGRES_ATOMIC}), ({POSTGRES_ARBITER}), ({POSTGRES_NOT_NULL}), \
         ({POSTGRES_ROW_LOCKS}), coalesce(({POSTGRES_SKIPS_UPDATES}), true)"
    );
    // The columns are wrapped in `CASE`, because sqlx queries the server for the tables of plain
    // columns.
    let names = columns.iter().map(|i| format!("CASE WHEN true THEN {} END", model.name(*i)));
    let names = names.collect::<Vec<_>>().join(", ");
    let sql = match columns {
        [] => facts,
        // The types are known even if the table is empty.
        _ => format!(
            "{facts}, _of.* FROM (SELECT) AS _one LEFT JOIN (SELECT {names} FROM {}) AS _of ON false",
            model.table
        ),
    };
    Statement::once(sql, Arguments::new(DatabaseKind::Postgres)).with_texts(&args)
}

/// The number of facts in the row of [`postgres_table`].
const POSTGRES_TABLE_FACTS: usize = 6;

/// Whether an INSERT of one row has no effect if it does not store the row. A row trigger before the INSERT, a rule, or a trigger of a
/// view can drop a row, and store others. A row of a partitioned table fires the triggers of its partition. The triggers of a foreign
/// table are unknown.
const POSTGRES_ATOMIC: &str = "WITH RECURSIVE _tree AS (SELECT oid, relkind, relhasrules FROM pg_class WHERE oid = to_regclass($1) UNION ALL SELECT c.oid, \
     c.relkind, c.relhasrules FROM _tree JOIN pg_inherits ON inhparent = _tree.oid JOIN pg_class AS c ON c.oid = inhrelid WHERE \
     _tree.relkind = 'p') SELECT coalesce(bool_and(relkind IN ('r', 'p') AND NOT relhasrules AND NOT EXISTS (SELECT 1 FROM pg_trigger \
     WHERE tgrelid = _tree.oid AND tgtype & 7 = 7)), false) FROM _tree";

const POSTGRES_NOT_NULL: &str = "SELECT string_agg(attname::text, chr(1)) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnotnull";

/// Whether a row that an UPDATE or a DELETE has not written does not exist, because nothing can
/// keep it from being written: no version, trigger, rule or policy.
///
/// # Errors
///
/// Returns an error if the database refuses the query.
pub(crate) async fn is_plain(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<bool> {
    let versioned = rows.schema().has(ColumnGroup::Version);
    Ok(!versioned && (conn.facts().plain(rows) || look_up_plain(conn, rows).await?))
}

/// Whether nothing can keep a row from being written, so that an INSERT of several rows stores all
/// of them: no trigger, rule or policy, and on SQLite no conflict clause.
///
/// # Errors
///
/// Returns an error if the database refuses the query.
pub(crate) async fn stores_every_row(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<bool> {
    if conn.facts().keeps_no_row(rows) { Ok(true) } else { look_up_plain(conn, rows).await }
}

/// Whether a trigger or a rule may skip the UPDATE of a row, or write something else in its place.
///
/// # Errors
///
/// Returns an error if the database refuses the query.
pub(crate) async fn may_skip_updates(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<bool> {
    if let Some(known) = conn.facts().may_skip_updates(rows) {
        return Ok(known);
    }
    let plain = look_up_plain(conn, rows).await?;
    Ok(conn.facts().may_skip_updates(rows).unwrap_or(!plain))
}

/// Boxed, because a table without triggers is looked up once.
fn look_up_plain<'s>(conn: &'s mut Conn<'_>, rows: &'s dyn Rows) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move {
        revalidate(conn).await?;
        if !conn.facts().is_shared && conn.facts().keeps_no_row(rows) {
            return Ok(true);
        }
        let epoch = conn.facts().epoch();
        let query = match conn.kind() {
            DatabaseKind::Sqlite => {
                let (schema, name) = split_schema(rows.table());
                conn.query(in_schema(SQLITE_PLAIN, schema)).bind(name).bind(schema)
            }
            DatabaseKind::Postgres => {
                let sql =
                    format!("SELECT ({POSTGRES_PLAIN}), ({POSTGRES_SKIPS_UPDATES}), NULL::bool");
                conn.query(AssertSqlSafe(sql)).bind(rows.schema().table)
            }
        };
        let found = query.fetch_one::<(bool, Option<bool>, Option<bool>)>().await;
        let Some((plain, may_skip_updates, atomic)) = unless_lost(found)? else { return Ok(false) };
        let facts = TableFacts { plain, may_skip_updates, atomic, ..TableFacts::default() };
        conn.facts().add(rows, epoch, facts);
        Ok(plain)
    })
}

/// For the table: whether no trigger and no conflict clause belongs to it, whether any does, and whether a refused statement changes nothing.
const SQLITE_PLAIN: &str = "{schemas} SELECT count(*) = 0, count(*) > 0, {atomic} FROM unsafe WHERE tbl_name = $1 COLLATE NOCASE";

/// The objects of a database, and the tables whose triggers or constraints may keep a part of a refused statement. A temporary trigger can
/// belong to a table of any database.
const SQLITE_SCHEMAS: &str = "WITH schemas AS MATERIALIZED (SELECT type, name, tbl_name, sql FROM \"{schema}\".sqlite_schema UNION ALL SELECT type, name, \
     tbl_name, sql FROM sqlite_temp_schema), unsafe AS MATERIALIZED (SELECT tbl_name FROM schemas WHERE type = 'trigger' OR sql LIKE \
     '%CONFLICT%')";

const SQLITE_ATOMIC: &str = "NOT EXISTS (SELECT 1 FROM unsafe WHERE tbl_name = $1 COLLATE NOCASE) AND \
     NOT (EXISTS (SELECT 1 FROM unsafe) AND EXISTS (SELECT 1 FROM schemas AS s, pragma_foreign_key_list(s.name, $2) AS f WHERE \
     s.type = 'table' AND f.\"table\" = $1 COLLATE NOCASE AND (f.on_delete NOT IN ('NO ACTION', 'RESTRICT') OR f.on_update NOT IN \
     ('NO ACTION', 'RESTRICT'))))";

/// An ordinary table without child tables, user-defined triggers, rules and row-level security.
const POSTGRES_PLAIN: &str = "SELECT EXISTS (SELECT 1 FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'r' AND NOT relhasrules AND NOT \
     relrowsecurity AND NOT relhassubclass AND NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = pg_class.oid AND NOT \
     tgisinternal))";

/// Whether a row trigger before an UPDATE, a rule or a trigger of a view can take its place. NULL if there is no such table.
pub(super) const POSTGRES_SKIPS_UPDATES: &str = "WITH RECURSIVE _tree AS (SELECT oid, relkind, relhasrules FROM pg_class WHERE oid = to_regclass($1) UNION SELECT c.oid, \
     c.relkind, c.relhasrules FROM _tree JOIN pg_inherits ON inhparent = _tree.oid JOIN pg_class AS c ON c.oid = inhrelid) SELECT \
     bool_or(relkind NOT IN ('r', 'p', 'v') OR relkind <> 'v' AND relhasrules OR EXISTS (SELECT 1 FROM pg_rewrite WHERE ev_class = \
     _tree.oid AND ev_type = '2') OR EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = _tree.oid AND (tgtype & 19 = 19 OR tgtype & 80 = \
     80))) FROM _tree";

/// Whether the database reports how many rows a statement has written. SQLite does not, if the
/// triggers of a view write the rows.
///
/// # Errors
///
/// Returns an error if the database refuses the query.
pub(crate) async fn counts_rows(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<bool> {
    let kind = conn.kind();
    match conn.facts().counted(kind, rows) {
        Some(counted) => Ok(counted),
        None => look_up_counted(conn, rows).await,
    }
}

/// On the heap: a model is looked up once.
fn look_up_counted<'s>(conn: &'s mut Conn<'_>, rows: &'s dyn Rows) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move {
        let epoch = conn.facts().epoch();
        let (schema, name) = split_schema(rows.table());
        let query = conn.query(SQLITE_COUNTS).bind(name).bind(schema);
        let (counted,): (bool,) = query.fetch_one().await?;
        conn.facts().add(
            rows,
            epoch,
            TableFacts { counted: Some(counted), ..TableFacts::default() },
        );
        Ok(counted)
    })
}

const SQLITE_COUNTS: &str = "SELECT NOT EXISTS (SELECT 1 FROM pragma_table_list WHERE name = $1 COLLATE NOCASE AND schema IN ($2, 'temp') \
     AND type = 'view')";

/// PostgreSQL uses every unique index of these columns as an arbiter, so none may be deferrable. A
/// table with rules does not support `ON CONFLICT`. The index of a key WITHOUT OVERLAPS is an exclusion constraint, which it does not
/// use.
pub(super) const POSTGRES_ARBITER: &str = "SELECT coalesce(bool_and(indimmediate), false) AND NOT EXISTS (SELECT 1 FROM pg_class WHERE oid = to_regclass($1) \
     AND relhasrules) AND NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname::text = $2 AND \
     attidentity = 'a') FROM pg_index WHERE indrelid = to_regclass($1) AND indisunique AND NOT indisexclusion AND indisvalid \
     AND indpred IS NULL AND indexprs IS NULL AND (SELECT string_agg(attname::text, chr(1) ORDER BY attname::text COLLATE \"C\") \
     FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY((indkey::int2[])[0:indnkeyatts - 1])) = $2";

/// The columns of a PostgreSQL table whose types compare text by their own rules. Values that are sent as `text` must be cast to these types; otherwise the columns
/// would be compared as `text`.
///
/// # Errors
///
/// Returns an error if the database refuses the query.
pub(crate) async fn casts(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<Casts> {
    match conn.facts().casts(rows) {
        Some(casts) => Ok(casts),
        None => look_up_casts(conn, rows).await,
    }
}

/// On the heap: a model is looked up once.
fn look_up_casts<'s>(conn: &'s mut Conn<'_>, rows: &'s dyn Rows) -> BoxFuture<'s, Result<Casts>> {
    Box::pin(async move {
        let epoch = conn.facts().epoch();
        let query = conn.query(POSTGRES_TEXT_TYPES).bind(rows.schema().table);
        let found: Vec<(String, Option<String>)> = query.fetch_all().await?;
        let cast = |(name, ty): &(String, Option<String>)| {
            let is_named = |column: &&str| stored_name(DatabaseKind::Postgres, column) == name;
            let column = rows.columns().iter().position(is_named)?;
            Some((column, ty.as_deref()?.into()))
        };
        let casts: Vec<_> = found.iter().filter_map(cast).collect();
        let casts: Casts = (!casts.is_empty()).then(|| casts.into());
        // A table without columns does not exist yet, so nothing is cached.
        if !found.is_empty() {
            conn.facts().add(
                rows,
                epoch,
                TableFacts { casts: Some(casts.clone()), ..TableFacts::default() },
            );
        }
        Ok(casts)
    })
}

/// Selects the columns of a table, each with its type if it is a text type that compares
/// differently than `text`, `varchar` and `name`. A domain compares as its base type. The type is
/// qualified by its schema, because the search path may vary, and has no length, because a cast to
/// a length truncates.
const POSTGRES_TEXT_TYPES: &str = "WITH RECURSIVE _types AS (SELECT attname, atttypid AS type FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND \
     NOT attisdropped UNION ALL SELECT attname, typbasetype FROM _types JOIN pg_type ON oid = type WHERE typtype = 'd') SELECT \
     attname::text, CASE WHEN typcategory = 'S' AND type NOT IN ('text'::regtype, 'varchar'::regtype, 'name'::regtype) THEN \
     quote_ident(nspname) || '.' || quote_ident(typname) END FROM _types JOIN pg_type ON pg_type.oid = type JOIN pg_namespace ON \
     pg_namespace.oid = typnamespace WHERE typtype <> 'd'";
