//! The types of the columns of a table.

#[cfg(feature = "sqlite")]
use sqlx::AssertSqlSafe;

use crate::database::backend::AnyType;
#[cfg(feature = "postgres")]
use crate::database::backend::DatabaseKind;
#[cfg(feature = "postgres")]
use crate::database::backend::{Arguments, Backend as _, Statement};
use crate::database::conn::Conn;
use crate::database::raw::RawConn;
use crate::error::Result;

/// Whether a column of SQLite changes texts that are numbers into numbers, and is not meant for values of another kind, as `UUID` is
/// (<https://www.sqlite.org/datatype3.html#determination_of_column_affinity>).
pub(super) fn is_numeric(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    ["STRING", "NUMERIC", "DECIMAL", "NUMBER"].iter().any(|name| declared.starts_with(name))
}

/// The types of values that a column of SQLite can also have: a column of times, for example, can contain texts and numbers.
#[cfg(feature = "sqlite")]
pub(super) fn stored_types(declared: &str, is_numeric: bool) -> Vec<AnyType> {
    use sqlx::{Sqlite, Type};

    let number = || AnyType::Sqlite(<i64 as Type<Sqlite>>::type_info());
    let text = || AnyType::Sqlite(<String as Type<Sqlite>>::type_info());
    let declared = declared.to_ascii_uppercase();
    match &*declared {
        "DATE" | "TIME" | "DATETIME" | "TIMESTAMP" => vec![text(), number()],
        "BOOLEAN" | "BOOL" => vec![number()],
        // Stores each value as it is.
        "BLOB" => vec![text()],
        _ if is_numeric => vec![number()],
        _ => Vec::new(),
    }
}

/// The types and type names of the columns that a statement returns.
pub(super) async fn types(
    conn: &mut Conn<'_>,
    select: String,
) -> Result<Vec<(Option<AnyType>, String)>> {
    use sqlx::TypeInfo as _;

    #[cfg(feature = "postgres")]
    if conn.kind() == DatabaseKind::Postgres {
        // The LEFT JOIN returns one row of NULLs, so the types are known even if the table is empty.
        let sql =
            format!("SELECT _of.* FROM (SELECT) AS _one LEFT JOIN ({select}) AS _of ON false");
        let row = conn.run_one(Statement::once(sql, Arguments::new(conn.kind()))).await?;
        let named = |ty: AnyType| {
            let name = sqlx::Postgres::type_info(&ty).name().to_owned();
            (Some(ty), name)
        };
        let types = row.map(|row| row.types()).unwrap_or_default();
        return Ok(types.into_iter().map(named).collect());
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
            use sqlx::{Column as _, Executor as _, SqlSafeStr, Statement as _};

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
