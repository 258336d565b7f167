//! SQLite: the largest version of a field, which an UPDATE would exceed. The column can have a larger number, and the row could not
//! be read any more. PostgreSQL refuses such an UPDATE.

use futures_util::future::BoxFuture;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::table::rows::Rows;
use crate::write::lookup::{Look, look};

/// Whether the version of the single row in `rows` may be the largest of its type.
pub(super) fn may_end(kind: DatabaseKind, rows: &dyn Rows) -> bool {
    kind == DatabaseKind::Sqlite && rows.has_key(0) && is_limit(rows.version(0))
}

fn is_limit(version: Option<i64>) -> bool {
    let limits = [i16::MAX.into(), i32::MAX.into(), i64::MAX];
    version.is_some_and(|version| limits.contains(&version))
}

/// Returns an error if the row is stored with the largest version of its type.
pub(super) fn refuse_last_version<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s mut dyn Rows,
) -> BoxFuture<'s, Result<()>> {
    Box::pin(async move {
        match is_last_version(rows, 0) && look(conn, rows).await? == Look::Same {
            true => Err(last_version(rows, 0)),
            false => Ok(()),
        }
    })
}

/// Whether a row has the largest version of its type.
pub(super) fn is_last_version(rows: &mut dyn Rows, row: usize) -> bool {
    let version = rows.version(row);
    if !is_limit(version) {
        return false;
    }
    rows.keep();
    rows.advance(row);
    let is_last = rows.version(row) < version;
    rows.restore();
    is_last
}

/// The error of an update of such a row.
pub(super) fn last_version(rows: &dyn Rows, row: usize) -> Error {
    let (model, key) = (rows.model(), rows.key(row));
    let version = rows.version(row).unwrap_or_default();
    Error::other(format!(
        "`{model}` {key} cannot be updated: {version} is the largest version that the field can have"
    ))
}
