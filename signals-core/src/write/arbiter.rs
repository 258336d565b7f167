//! Whether an INSERT can name columns in `ON CONFLICT`.

use futures_util::future::BoxFuture;
use sqlx::AssertSqlSafe;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::schema_cache::TableFacts;
use crate::error::Result;
use crate::table::rows::Rows;
use crate::table::schema::{split_schema, stored_name};
use crate::write::inspect::{POSTGRES_ARBITER, POSTGRES_SKIPS_UPDATES, revalidate};

/// Whether an INSERT can write these columns and name them in `ON CONFLICT`. It cannot if the columns have no
/// unique index, or a deferrable one, or if the column is GENERATED ALWAYS.
///
/// # Errors
///
/// Returns an error if the database refuses the query.
pub(crate) async fn is_arbiter(conn: &mut Conn<'_>, rows: &dyn Rows, on: &[usize]) -> Result<bool> {
    match conn.facts().arbiter(rows, |columns| columns == on) {
        Some(arbiter) => Ok(arbiter),
        None => look_up_arbiter(conn, rows, on).await,
    }
}

/// Boxed, because the columns are looked up once.
fn look_up_arbiter<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s dyn Rows,
    on: &'s [usize],
) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move {
        revalidate(conn).await?;
        if let Some(arbiter) = conn.facts().arbiter(rows, |columns| columns == on) {
            return Ok(arbiter);
        }
        let epoch = conn.facts().epoch();
        let names = arbiter_names(conn.kind(), rows, on);
        let query = match conn.kind() {
            DatabaseKind::Sqlite => {
                let (schema, name) = split_schema(rows.table());
                conn.query(SQLITE_ARBITER).bind(names).bind(name).bind(schema)
            }
            DatabaseKind::Postgres => {
                let sql = format!(
                    "SELECT ({POSTGRES_ARBITER}), ({POSTGRES_SKIPS_UPDATES}) WHERE to_regclass($1) IS NOT NULL"
                );
                conn.query(AssertSqlSafe(sql)).bind(rows.schema().table).bind(names)
            }
        };
        let Some((arbiter, may_skip_updates)) = query.fetch_optional().await? else {
            // The table does not exist yet.
            return Ok(false);
        };
        let arbiters = vec![(on.to_vec(), arbiter)];
        conn.facts().add(
            rows,
            epoch,
            TableFacts { arbiters, may_skip_updates, ..TableFacts::default() },
        );
        Ok(arbiter)
    })
}

/// The names of columns, as the statements compare them with those of an index.
pub(super) fn arbiter_names(kind: DatabaseKind, rows: &dyn Rows, on: &[usize]) -> String {
    let name = |column: &usize| match (kind, rows.columns()[*column]) {
        // The case of ASCII letters does not matter in names.
        (DatabaseKind::Sqlite, name) => name.to_ascii_lowercase(),
        (DatabaseKind::Postgres, name) => stored_name(kind, name).to_owned(),
    };
    let mut names: Vec<_> = on.iter().map(name).collect();
    names.sort_unstable();
    names.join("\u{1}")
}

const SQLITE_ARBITER: &str = "SELECT coalesce((SELECT group_concat(name, char(1)) FROM (SELECT lower(name) AS name FROM pragma_table_info($2, $3) WHERE pk > 0 ORDER BY \
     1)) = $1, 0) OR EXISTS (SELECT 1 FROM pragma_index_list($2, $3) AS i WHERE i.\"unique\" AND NOT i.partial AND NOT \
     EXISTS (SELECT 1 FROM pragma_index_info(i.name, $3) AS e WHERE e.name IS NULL) AND (SELECT group_concat(name, char(1)) FROM (SELECT lower(name) AS name FROM \
     pragma_index_info(i.name, $3) ORDER BY 1)) = $1), NULL";
