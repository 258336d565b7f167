//! Whether rows can be locked before they are written.

use futures_util::future::BoxFuture;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::schema_cache::{RowLocks, TableFacts};
use crate::database::writer::Verb;
use crate::error::Result;
use crate::table::rows::Rows;

/// Whether a SELECT of rows of this table can lock them for this write. It cannot on SQLite, where a writer has the lock of the whole
/// database.
///
/// # Errors
///
/// Returns an error if the database refuses the query.
pub(crate) async fn can_lock(conn: &mut Conn<'_>, rows: &dyn Rows, write: Verb) -> Result<bool> {
    if conn.kind() == DatabaseKind::Sqlite {
        return Ok(false);
    }
    let known = conn.facts().row_locks(rows);
    let locks = match known {
        Some(locks) => locks,
        None => look_up(conn, rows).await?,
    };
    Ok(match write {
        Verb::Delete => locks == RowLocks::All,
        _ => locks != RowLocks::None,
    })
}

/// On the heap: a model is looked up once.
fn look_up<'s>(conn: &'s mut Conn<'_>, rows: &'s dyn Rows) -> BoxFuture<'s, Result<RowLocks>> {
    Box::pin(async move {
        let epoch = conn.facts().epoch();
        let query = conn.query(POSTGRES_ROW_LOCKS).bind(rows.schema().table);
        let Some((locks,)) = query.fetch_optional::<(String,)>().await? else {
            // The table does not exist yet.
            return Ok(RowLocks::All);
        };
        let locks = of_name(locks.as_bytes());
        let row_locks = Some(locks);
        conn.facts().add(rows, epoch, TableFacts { row_locks, ..TableFacts::default() });
        Ok(locks)
    })
}

/// The value of [`POSTGRES_ROW_LOCKS`].
pub(super) fn of_name(name: &[u8]) -> RowLocks {
    match name {
        b"all" => RowLocks::All,
        b"updates" => RowLocks::Updates,
        _ => RowLocks::None,
    }
}

/// Which writes can lock the rows of a table.
///
/// A view whose triggers or rules write the rows can be a join or a union, whose rows cannot be locked. A lock requires the privilege to
/// update the rows, which a delete does not, and finds only the rows that the policies for updates admit. It is taken for a delete if
/// each policy that decides about updates or deletes alone also exists for the other one. The policies are compared for
/// every user, because the user of a connection may change.
pub(super) const POSTGRES_ROW_LOCKS: &str = "SELECT CASE WHEN relkind = 'v' AND (pg_relation_is_updatable(c.oid, false) & 16 = 0 OR EXISTS (SELECT 1 FROM pg_rewrite WHERE \
     ev_class = c.oid AND is_instead AND ev_type IN ('2', '4'))) THEN 'none' WHEN NOT has_any_column_privilege(c.oid, 'UPDATE') OR \
     relrowsecurity AND EXISTS (SELECT 1 FROM pg_policy AS one WHERE polrelid = c.oid AND (polpermissive AND polcmd = 'd' OR NOT \
     polpermissive AND polcmd = 'w') AND NOT EXISTS (SELECT 1 FROM pg_policy AS other WHERE other.polrelid = c.oid AND \
     other.polcmd <> one.polcmd AND other.polcmd IN ('w', 'd', '*') AND other.polpermissive = one.polpermissive AND other.polroles = \
     one.polroles AND pg_get_expr(other.polqual, c.oid) = pg_get_expr(one.polqual, c.oid))) THEN 'updates' ELSE 'all' END FROM \
     pg_class AS c WHERE c.oid = to_regclass($1)";
