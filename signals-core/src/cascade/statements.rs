//! The statements about rows that belong to others.

use crate::backend::{Arguments, DatabaseKind, Statement};
use crate::instances::Instances;
use crate::linked::Dependent;
use crate::statements::{Group, Statements};

/// How many parents a statement is about at most.
pub(super) const PARENTS: usize = 500;

/// The rows that have a key, as many together as a statement is about.
pub(super) fn parts(rows: &dyn Instances) -> Vec<Vec<usize>> {
    let keyed: Vec<_> = (0..rows.len()).filter(|row| rows.has_key(*row)).collect();
    keyed.chunks(PARENTS).map(<[_]>::to_vec).collect()
}

/// Whether any row belongs to these.
pub(super) fn exists(
    kind: DatabaseKind,
    dependent: Dependent,
    parents: &dyn Instances,
    part: &[usize],
) -> Result<Statement, sqlx::Error> {
    let start = format!("SELECT 1 FROM {}", dependent.child().statements.table);
    of_parents(kind, dependent, parents, part, &start, " LIMIT 1")
}

/// The rows that belong to these, which stay as they are.
pub(super) fn select(
    kind: DatabaseKind,
    dependent: Dependent,
    parents: &dyn Instances,
    part: &[usize],
) -> Result<Statement, sqlx::Error> {
    of_parents(kind, dependent, parents, part, dependent.child().statements.select, "")
}

/// The rows that belong to these and are deleted with them.
pub(super) fn select_to_delete(
    kind: DatabaseKind,
    dependent: Dependent,
    parents: &dyn Instances,
    part: &[usize],
) -> Result<Statement, sqlx::Error> {
    let model = dependent.child().statements;
    let end = in_order(model, kind, " FOR UPDATE");
    of_parents(kind, dependent, parents, part, model.select, &end)
}

/// The rows that belong to these as they are when they belong to none.
pub(super) fn select_as_null(
    kind: DatabaseKind,
    dependent: Dependent,
    parents: &dyn Instances,
    part: &[usize],
) -> Result<Statement, sqlx::Error> {
    let model = dependent.child().statements;
    let columns = model.columns.iter().enumerate();
    let null = |place| place == dependent.column();
    let columns: Vec<_> =
        columns.map(|(place, c)| if null(place) { "NULL" } else { c.name }).collect();
    let start = format!("SELECT {} FROM {}", columns.join(", "), model.table);
    let end = in_order(model, kind, " FOR NO KEY UPDATE");
    of_parents(kind, dependent, parents, part, &start, &end)
}

/// UPDATE of the rows that belong to these, of which no receiver is told.
pub(super) fn set_null(
    kind: DatabaseKind,
    dependent: Dependent,
    parents: &dyn Instances,
    part: &[usize],
) -> Result<Statement, sqlx::Error> {
    let model = dependent.child().statements;
    let version = model.group(Group::Version).map(|c| format!(", {0} = {0} + 1", model.name(c)));
    let column = model.name(dependent.column());
    let start =
        format!("UPDATE {} SET {column} = NULL{}", model.table, version.collect::<String>());
    of_parents(kind, dependent, parents, part, &start, "")
}

/// UPDATE of a column of these rows.
pub(super) fn set_own_null(
    kind: DatabaseKind,
    rows: &dyn Instances,
    part: &[usize],
    column: usize,
) -> Result<Statement, sqlx::Error> {
    let (model, mut args, mut place) = (rows.statements(), Arguments::new(kind), 0);
    let mut conditions = Vec::with_capacity(part.len());
    for row in part {
        let mut same = Vec::new();
        for key in model.group(Group::Key) {
            rows.bind(*row, key, &mut args).map_err(sqlx::Error::Encode)?;
            place += 1;
            same.push(format!("{} = ${place}", model.name(key)));
        }
        conditions.push(format!("({})", same.join(" AND ")));
    }
    let (table, column) = (model.table, model.name(column));
    let sql = format!("UPDATE {table} SET {column} = NULL WHERE {}", conditions.join(" OR "));
    Ok(Statement::once(sql, args))
}

/// DELETE of the rows that belong to these, of which no receiver is told.
pub(super) fn delete(
    kind: DatabaseKind,
    dependent: Dependent,
    parents: &dyn Instances,
    part: &[usize],
) -> Result<Statement, sqlx::Error> {
    let start = format!("DELETE FROM {}", dependent.child().statements.table);
    of_parents(kind, dependent, parents, part, &start, "")
}

fn in_order(model: &Statements, kind: DatabaseKind, lock: &str) -> String {
    let keys: Vec<_> = model.group(Group::Key).map(|c| model.name(c)).collect();
    let lock = if kind == DatabaseKind::Postgres { lock } else { "" };
    format!(" ORDER BY {}{lock}", keys.join(", "))
}

/// A statement about the rows that belong to a part of the parents.
fn of_parents(
    kind: DatabaseKind,
    dependent: Dependent,
    parents: &dyn Instances,
    part: &[usize],
    start: &str,
    end: &str,
) -> Result<Statement, sqlx::Error> {
    let mut args = Arguments::new(kind);
    let key = parents.statements().group(Group::Key).next().unwrap_or_default();
    let bound = part.iter().try_for_each(|row| parents.bind(*row, key, &mut args));
    bound.map_err(sqlx::Error::Encode)?;
    let places: Vec<_> = (1..=part.len()).map(|n| format!("${n}")).collect();
    let column = dependent.child().statements.name(dependent.column());
    let sql = format!("{start} WHERE {column} IN ({}){end}", places.join(", "));
    Ok(Statement { persistent: part.len() == 1, ..Statement::once(sql, args) })
}
