//! The statements about the rows that reference parents.

use crate::database::backend::{Arguments, DatabaseKind, Statement};
use crate::database::conn::Conn;
use crate::database::writer::Verb;
use crate::error::Result;
use crate::signal::relation::Dependent;
use crate::table::chunk::ROWS_OF_ARRAYS;
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, Schema};
use crate::write::inspect;
use crate::write::key_order::{self, key_casts, sort_by_key};
use crate::write::row_locks::can_lock;

/// The maximum number of rows that a statement lists one by one.
pub(super) const PARENTS: usize = 500;

/// Splits the rows that have a key into parts that fit into one statement, in the order in which
/// rows are locked.
pub(super) async fn parts(
    conn: &mut Conn<'_>,
    rows: &dyn Rows,
    some: impl IntoIterator<Item = usize>,
) -> Result<Vec<Vec<usize>>> {
    let kind = conn.kind();
    let mut keyed: Vec<_> = some.into_iter().filter(|row| rows.has_key(*row)).collect();
    let casts = key_casts(conn, rows).await?;
    sort_by_key(kind, rows, &casts, &mut keyed);
    let most = if are_array(kind, rows, &keyed) { ROWS_OF_ARRAYS } else { PARENTS };
    Ok(keyed.chunks(most).map(<[_]>::to_vec).collect())
}

/// Whether the keys of the rows are one array argument.
fn are_array(kind: DatabaseKind, rows: &dyn Rows, part: &[usize]) -> bool {
    let key = rows.schema().group(ColumnGroup::Key).next().unwrap_or_default();
    let first = part.first().filter(|_| kind == DatabaseKind::Postgres && part.len() > 1);
    first.is_some_and(|row| rows.fits_array(*row, key, kind))
}

/// The rows of a model that reference one of the parents in `part`.
#[derive(Clone, Copy)]
pub(super) struct References<'r> {
    pub(super) dependent: Dependent,
    pub(super) parents: &'r dyn Rows,
    /// The parents of one statement.
    pub(super) part: &'r [usize],
}

impl References<'_> {
    fn child(&self) -> &'static Schema {
        self.dependent.child().statements
    }

    /// Selects any one row that references a parent in `part`, with its columns if `read` is true.
    pub(super) async fn any(self, conn: &mut Conn<'_>, read: bool) -> Result<Statement> {
        let model = self.child();
        let start = match read {
            true => model.select.to_owned(),
            false => format!("SELECT 1 FROM {}", model.table),
        };
        self.of_parents(conn, &start, " LIMIT 1").await
    }

    /// Selects the rows that reference a parent in `part`, without a lock.
    pub(super) async fn select(self, conn: &mut Conn<'_>) -> Result<Statement> {
        self.of_parents(conn, self.child().select, "").await
    }

    /// Selects and locks the rows that reference a parent in `part` and are deleted with it.
    pub(super) async fn select_to_delete(self, conn: &mut Conn<'_>) -> Result<Statement> {
        let end = in_order(conn, self.dependent, DELETE_LOCK).await?;
        self.of_parents(conn, self.child().select, &end).await
    }

    /// Selects and locks the rows that reference a parent in `part`, with the reference already
    /// replaced by NULL.
    pub(super) async fn select_as_null(self, conn: &mut Conn<'_>) -> Result<Statement> {
        let model = self.child();
        let value = |column| match column == self.dependent.column() {
            true => "NULL".to_owned(),
            false => model.qualified(column),
        };
        let columns: Vec<_> = (0..model.columns.len()).map(value).collect();
        let start = format!("SELECT {} FROM {}", columns.join(", "), model.table);
        let end = in_order(conn, self.dependent, null_lock(self.dependent)).await?;
        self.of_parents(conn, &start, &end).await
    }

    /// UPDATE that sets the reference to NULL in the rows that reference a parent in `part`. No
    /// receiver is notified.
    pub(super) async fn set_null(self, conn: &mut Conn<'_>) -> Result<Statement> {
        let model = self.child();
        let version =
            model.group(ColumnGroup::Version).map(|c| format!(", {0} = {0} + 1", model.name(c)));
        let column = model.name(self.dependent.column());
        let update =
            format!("UPDATE {} SET {column} = NULL{}", model.table, version.collect::<String>());
        self.change_in_order(conn, &update, null_lock(self.dependent)).await
    }

    /// DELETE of the rows that reference a parent in `part`. No receiver is notified.
    pub(super) async fn delete(self, conn: &mut Conn<'_>) -> Result<Statement> {
        let delete = format!("DELETE FROM {}", self.child().table);
        self.change_in_order(conn, &delete, DELETE_LOCK).await
    }

    /// UPDATE or DELETE of the rows that reference a parent in `part`. PostgreSQL locks them in the
    /// order of their keys, if they can be locked.
    async fn change_in_order(
        self,
        conn: &mut Conn<'_>,
        change: &str,
        lock: Lock,
    ) -> Result<Statement> {
        if !lock.is_possible(conn, self.dependent).await? {
            return self.of_parents(conn, change, "").await;
        }
        let model = self.child();
        let keys: Vec<_> = model.group(ColumnGroup::Key).map(|c| model.name(c)).collect();
        let (keys, order) = (keys.join(", "), in_order(conn, self.dependent, lock).await?);
        // Not in a `WITH`, because a table with a rule accepts none.
        let start = format!("{change} WHERE ({keys}) IN (SELECT {keys} FROM {}", model.table);
        self.of_parents(conn, &start, &format!("{order})")).await
    }

    /// A statement about the rows that reference a parent in `part`: `start`, a WHERE clause, and
    /// `end`.
    async fn of_parents(self, conn: &mut Conn<'_>, start: &str, end: &str) -> Result<Statement> {
        let Self { dependent, parents, part } = self;
        let kind = conn.kind();
        let mut args = Arguments::new(kind);
        let key = parents.schema().group(ColumnGroup::Key).next().unwrap_or_default();
        let column = dependent.child().statements.qualified(dependent.column());
        if are_array(kind, parents, part) {
            let cast = cast(conn, dependent, parents.is_text(part[0], key, kind)).await?;
            let bound = parents.bind_array(part.len(), &|n| part[n], key, &mut args);
            bound.map_err(sqlx::Error::Encode)?;
            let sql = format!("{start} WHERE {column} = ANY($1{cast}){end}");
            return Ok(Statement { persistent: true, ..Statement::once(sql, args) });
        }
        let bound = part.iter().try_for_each(|row| parents.bind_compared(*row, key, &mut args));
        bound.map_err(sqlx::Error::Encode)?;
        let places: Vec<_> = (1..=part.len()).map(|n| format!("${n}")).collect();
        let sql = format!("{start} WHERE {column} IN ({}){end}", places.join(", "));
        Ok(Statement { persistent: part.len() == 1, ..Statement::once(sql, args) })
    }
}

/// The lock that an UPDATE of the column to NULL takes. A unique column takes the stronger lock,
/// because a foreign key may reference it.
fn null_lock(dependent: Dependent) -> Lock {
    let column = dependent.child().statements.columns[dependent.column()];
    let clause = if column.unique { " FOR UPDATE" } else { " FOR NO KEY UPDATE" };
    Lock { write: Verb::Save, clause }
}

/// The lock that a DELETE takes.
const DELETE_LOCK: Lock = Lock { write: Verb::Delete, clause: " FOR UPDATE" };

/// The lock of rows that are then written.
#[derive(Clone, Copy)]
struct Lock {
    write: Verb,
    clause: &'static str,
}

impl Lock {
    /// Whether the rows of the dependent model can be locked. On SQLite, no row can.
    async fn is_possible(self, conn: &mut Conn<'_>, dependent: Dependent) -> Result<bool> {
        match dependent.rows(conn.kind(), None) {
            Some(rows) => can_lock(conn, &*rows, self.write).await,
            None => Ok(false),
        }
    }
}

/// UPDATE that sets a column to NULL in the rows of `part`.
pub(super) fn set_own_null(
    kind: DatabaseKind,
    rows: &dyn Rows,
    part: &[usize],
    column: usize,
) -> Result<Statement, sqlx::Error> {
    let (model, mut args, mut place) = (rows.schema(), Arguments::new(kind), 0);
    let mut conditions = Vec::with_capacity(part.len());
    for row in part {
        let mut same = Vec::new();
        for key in model.group(ColumnGroup::Key) {
            rows.bind_compared(*row, key, &mut args).map_err(sqlx::Error::Encode)?;
            place += 1;
            same.push(format!("{} = ${place}", model.qualified(key)));
        }
        conditions.push(format!("({})", same.join(" AND ")));
    }
    let (table, column) = (model.table, model.name(column));
    let sql = format!("UPDATE {table} SET {column} = NULL WHERE {}", conditions.join(" OR "));
    Ok(Statement::once(sql, args))
}

/// An `ORDER BY` clause for the order in which rows of a model are written, and a lock clause if the
/// rows can be locked.
async fn in_order(conn: &mut Conn<'_>, dependent: Dependent, lock: Lock) -> Result<String> {
    let (kind, model) = (conn.kind(), dependent.child().statements);
    let names = model.group(ColumnGroup::Key).map(|column| model.name(column));
    let rows = dependent.rows(kind, None).filter(|_| kind == DatabaseKind::Postgres);
    let Some(rows) = rows else {
        return Ok(format!(" ORDER BY {}", names.collect::<Vec<_>>().join(", ")));
    };
    let mut keys = Vec::new();
    for column in model.group(ColumnGroup::Key) {
        let field = rows.type_name(column, kind);
        let cast = match field.as_str() {
            "TEXT" | "VARCHAR" => own_type(conn, &*rows, column).await?,
            _ => None,
        };
        keys.push(key_order::sql(model.name(column), &field, cast.as_deref()));
    }
    let lock = if can_lock(conn, &*rows, lock.write).await? { lock.clause } else { "" };
    Ok(format!(" ORDER BY {}{lock}", keys.join(", ")))
}

/// The cast of the keys to the type with which they are compared to the column.
async fn cast(conn: &mut Conn<'_>, dependent: Dependent, is_text: bool) -> Result<String> {
    let Some(rows) = dependent.rows(conn.kind(), None).filter(|_| is_text) else {
        return Ok(String::new());
    };
    let ty = own_type(conn, &*rows, dependent.column()).await?;
    Ok(ty.map_or_else(String::new, |ty| format!("::{ty}[]")))
}

/// The type of a text column, if it compares text by its own rules.
async fn own_type(conn: &mut Conn<'_>, rows: &dyn Rows, column: usize) -> Result<Option<Box<str>>> {
    let casts = inspect::casts(conn, rows).await?;
    let ty = casts.iter().flat_map(|casts| &**casts).find(|(of, _)| *of == column);
    Ok(ty.map(|(_, ty)| ty.clone()))
}
