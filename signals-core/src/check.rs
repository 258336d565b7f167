//! Is the table what the model says?

use sqlx::{AssertSqlSafe, Column as _, Executor as _, SqlSafeStr, Statement as _};

use crate::backend::{AnyType, DatabaseKind};
use crate::compose::What;
use crate::conn::Conn;
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::field::Asked;
use crate::link::Raw;
use crate::linked::{self, Ask, Described};
use crate::model::Model;
use crate::statements::{Group, Role};
use crate::store::Route;

/// A table as the database has it.
struct Table {
    columns: Vec<Column>,
    /// The columns of each unique index that is of all rows, in any order.
    unique: Vec<Vec<String>>,
}

struct Column {
    name: String,
    nullable: bool,
    /// Whether an INSERT can leave it out.
    optional: bool,
    /// None where the database does not say.
    ty: Option<AnyType>,
    type_name: String,
}

/// Compares the table of one model with the model.
pub(crate) async fn model<M: Model, R: Route<M>>(source: Source<'_>) -> Result<()> {
    let findings = table(&mut source.acquire().await?, &Described::of::<M>(), R::asked).await?;
    if findings.is_empty() { Ok(()) } else { Err(Error::Check { findings }) }
}

/// Compares the table of every linked model that this database can store.
pub(crate) async fn every_model(conn: &mut Conn<'_>) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for linked in linked::models() {
        if let Some((model, ask)) = linked.stored_in(conn.kind()) {
            findings.extend(table(conn, &model, ask).await?);
        }
    }
    Ok(findings)
}

/// What is not as the model says, a sentence each.
async fn table(conn: &mut Conn<'_>, described: &Described, ask: Ask) -> Result<Vec<String>> {
    let Described { name, table, columns, statements: model, receivers, .. } = *described;
    let of = format!("`{name}` (table `{table}`)");
    let Some(table) = read(conn, table, model.table).await? else {
        return Ok(vec![format!("{of}: there is no such table")]);
    };
    let mut findings = Vec::new();
    for (place, (column, spec)) in columns.iter().zip(model.columns).enumerate() {
        let Some(found) = table.columns.iter().find(|c| c.name == *column) else {
            findings.push(format!("{of}: there is no column `{column}`"));
            continue;
        };
        if let Some(ty) = &found.ty
            && !ask(place, Asked::Reads(ty))
        {
            let ty = &found.type_name;
            findings.push(format!(
                "{of}: the column `{column}` is of type {ty}, which the field cannot be read from"
            ));
        }
        let is_key = spec.role.group() == Group::Key;
        if found.nullable && !spec.optional && !is_key {
            findings.push(format!(
                "{of}: the column `{column}` can be NULL, and the field is no `Option`"
            ));
        }
        if spec.role == Role::GeneratedKey && !found.optional {
            findings.push(format!(
                "{of}: the key `{column}` is for the database to give, and has no default there"
            ));
        }
        if spec.unique {
            findings.extend(missing_index(&of, &table, &[column], "`#[model(unique)]`"));
        }
    }
    let unwritten = |column: &&Column| {
        let place = columns.iter().position(|name| *name == column.name);
        let written = place.is_some_and(|place| model.columns[place].role != Role::Generated);
        !written && !column.nullable && !column.optional
    };
    for Column { name, .. } in table.columns.iter().filter(unwritten) {
        findings.push(format!(
            "{of}: the column `{name}` has no default, and the model never writes it"
        ));
    }
    let key: Vec<_> = model.group(Group::Key).map(|place| columns[place]).collect();
    findings.extend(missing_index(&of, &table, &key, "the key"));
    for shape in receivers.shapes().composed(conn.kind()) {
        if matches!(shape.what, What::Save | What::InsertOrNothing) && !shape.by_key(model) {
            let asked = "`upsert` or `get_or_create`";
            let said = matches!(shape.on[..], [column] if model.columns[column].unique);
            let on: Vec<_> = shape.on.iter().map(|place| columns[*place]).collect();
            let finding = missing_index(&of, &table, &on, asked).filter(|_| !said);
            findings.extend(finding.filter(|finding| !findings.contains(finding)));
        }
    }
    Ok(findings)
}

fn missing_index(of: &str, table: &Table, columns: &[&str], asked: &str) -> Option<String> {
    let mut names = columns.to_vec();
    names.sort_unstable();
    let has = table.unique.iter().any(|index| *index == names);
    (!has)
        .then(|| format!("{of}: there is no unique index of `{}`, for {asked}", names.join("`, `")))
}

/// The table of this name, if there is one; `quoted` is the name as SQL has it.
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

/// The types of what a statement returns.
async fn types(conn: &mut Conn<'_>, select: String) -> Result<Vec<(Option<AnyType>, String)>> {
    use sqlx::TypeInfo as _;

    let sql = AssertSqlSafe(select).into_sql_str();
    conn.ready().await?;
    let types = match conn.connected() {
        #[cfg(feature = "sqlite")]
        Some(Raw::Sqlite(conn)) => conn.prepare(sql).await.map(|statement| {
            let columns = statement.columns().iter().map(sqlx::sqlite::SqliteColumn::type_info);
            // SQLite keeps any value in a column whose type is none that sqlx knows.
            let known = |ty: &sqlx::sqlite::SqliteTypeInfo| {
                (!ty.is_null()).then(|| AnyType::Sqlite(ty.clone()))
            };
            columns.map(|ty| (known(ty), ty.name().to_owned())).collect()
        }),
        #[cfg(feature = "postgres")]
        Some(Raw::Postgres(conn)) => conn.prepare(sql).await.map(|statement| {
            let columns = statement.columns().iter().map(sqlx::postgres::PgColumn::type_info);
            columns.map(|ty| (Some(AnyType::Postgres(ty.clone())), ty.name().to_owned())).collect()
        }),
        None => Err(sqlx::Error::PoolClosed),
    };
    conn.done(types).await
}

async fn read_sqlite(conn: &mut Conn<'_>, name: &str) -> Result<Option<Table>> {
    let (schema, name) = name.split_once('.').unwrap_or(("main", name));
    // A column that is the rowid under another name is NOT NULL and has a default, in all but name.
    let sql = "SELECT x.name, x.\"notnull\" = 0 AND x.pk = 0, x.dflt_value IS NOT NULL OR x.hidden > 1 OR (x.pk = 1 AND \
               upper(x.type) = 'INTEGER' AND (SELECT count(*) FROM pragma_table_info($1, $2) WHERE pk > 0) = 1) FROM \
               pragma_table_xinfo($1, $2) AS x WHERE x.hidden <> 1 ORDER BY x.cid";
    let rows: Vec<(String, bool, bool)> =
        conn.query(sql).bind(name).bind(schema).fetch_all().await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let sql = "SELECT i.name, c.name FROM pragma_index_list($1, $2) AS i JOIN pragma_index_info(i.name, $2) AS c WHERE \
               i.\"unique\" AND NOT i.partial AND c.name IS NOT NULL UNION ALL SELECT '', name FROM pragma_table_info($1, $2) \
               WHERE pk > 0 ORDER BY 1, 2";
    let indexes: Vec<(String, String)> =
        conn.query(sql).bind(name).bind(schema).fetch_all().await?;
    Ok(Some(Table { columns: rows.into_iter().map(column).collect(), unique: grouped(indexes) }))
}

async fn read_postgres(conn: &mut Conn<'_>, quoted: &str) -> Result<Option<Table>> {
    let sql = "SELECT attname::text, NOT attnotnull, atthasdef OR attidentity <> '' FROM pg_attribute WHERE attrelid = \
               to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows: Vec<(String, bool, bool)> = conn.query(sql).bind(quoted).fetch_all().await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let sql = "SELECT indexrelid::text, attname::text FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = \
               ANY(indkey) WHERE indrelid = to_regclass($1) AND indisunique AND indpred IS NULL AND indexprs IS NULL \
               ORDER BY 1, 2";
    let indexes: Vec<(String, String)> = conn.query(sql).bind(quoted).fetch_all().await?;
    Ok(Some(Table { columns: rows.into_iter().map(column).collect(), unique: grouped(indexes) }))
}

fn column((name, nullable, optional): (String, bool, bool)) -> Column {
    Column { name, nullable, optional, ty: None, type_name: String::new() }
}

/// The columns of each index, sorted.
fn grouped(rows: Vec<(String, String)>) -> Vec<Vec<String>> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for (index, column) in rows {
        match all.last_mut() {
            Some((last, columns)) if *last == index => columns.push(column),
            _ => all.push((index, vec![column])),
        }
    }
    let sorted = |(_, mut columns): (String, Vec<String>)| {
        columns.sort_unstable();
        columns
    };
    all.into_iter().map(sorted).collect()
}
