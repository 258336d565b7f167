//! SQLite: what the RETURNING of a statement does not show, because it is set after the row
//! (<https://www.sqlite.org/lang_returning.html#limitations_and_caveats>).

use std::ops::Range;

use futures_util::future::BoxFuture;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::table::chunk::Chunk;
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, split_schema};
use crate::table::statement_spec::{StatementKind, StatementSpec};
use crate::write::inspect;
use crate::write::lookup::select;
use crate::write::single_text::take_row;

/// The key that RETURNING has for each new row of a virtual table.
const NO_KEY: i64 = -1;

/// Whether the rows of a chunk may be stored with other values than the statement has returned. `is_assigned`: whether it has assigned
/// their keys.
pub(super) fn may_differ(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    chunk: Range<usize>,
    is_assigned: bool,
) -> bool {
    if conn.kind() != DatabaseKind::Sqlite {
        return false;
    }
    let computes = rows.schema().has(ColumnGroup::Computed);
    computes && conn.facts().may_skip_updates(rows) != Some(false)
        || is_assigned && may_have_no_key(rows, chunk)
}

/// Whether one of these rows has got the key of a row whose key is unknown. A table that is not virtual can assign it too.
fn may_have_no_key(rows: &dyn Rows, mut chunk: Range<usize>) -> bool {
    chunk.any(|row| rows.integer_key(row) == Some(NO_KEY))
}

/// Reads the columns that the database computes, if triggers of the table may have set them.
///
/// # Errors
///
/// Returns an error if the table is a virtual one that has assigned the keys, which are unknown.
pub(super) fn read_back<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s mut dyn Rows,
    chunk: Chunk,
    is_assigned: bool,
) -> BoxFuture<'s, Result<()>> {
    Box::pin(async move {
        let may_have_no_key = is_assigned && may_have_no_key(rows, chunk.rows.clone());
        if may_have_no_key && is_virtual(conn, rows).await? {
            chunk.rows.for_each(|row| rows.clear_key(row));
            return Err(Error::other(format!(
                "SQLite does not return the key of a new row of a virtual table, so the program has to assign the key of `{}`",
                rows.model()
            )));
        }
        let model = rows.schema();
        let computed: Vec<_> = model.group(ColumnGroup::Computed).collect();
        if computed.is_empty() || !inspect::may_skip_updates(conn, rows).await? {
            return Ok(());
        }
        let on = model.group(ColumnGroup::Key).collect();
        let spec = StatementSpec::new(StatementKind::Select, chunk.input, Vec::new(), on);
        for (row, from) in select(conn, rows, &chunk, &spec, &computed).await? {
            take_row(rows, row, computed.iter().copied(), &from, 1)?;
        }
        Ok(())
    })
}

/// Whether a row of SQLite without a key has got the key -1 because the table is a virtual one, whose rows have no key yet when
/// RETURNING is computed (<https://www.sqlite.org/lang_returning.html#limitations_and_caveats>).
///
/// # Errors
///
/// Returns an error if the database refuses the query.
async fn is_virtual(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<bool> {
    let (schema, name) = split_schema(rows.table());
    let query = conn.query(SQLITE_VIRTUAL).bind(name).bind(schema);
    let (is_virtual,): (bool,) = query.fetch_one().await?;
    Ok(is_virtual)
}

const SQLITE_VIRTUAL: &str = "SELECT EXISTS (SELECT 1 FROM pragma_table_list WHERE name = $1 COLLATE NOCASE AND schema IN ($2, 'temp') AND \
     type = 'virtual')";
