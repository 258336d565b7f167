//! What a query adds to its clause: a page of the rows, and a lock.

use std::borrow::Cow;
use std::fmt::Write;

use crate::database::backend::DatabaseKind;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::clause::{Clause, Parts};
use crate::table::column::Column;
use crate::table::schema::ColumnGroup;

/// A page of the matching rows in the order of some columns, and the lock of the rows.
pub(crate) struct Page<M> {
    /// The columns that order the rows, each with the number of the value that it must exceed.
    keys: Vec<(Column<M>, Option<usize>)>,
    descending: bool,
    /// Whether a query calls both `after` and `before`.
    mixed: bool,
    /// The number of the value of the limit.
    pub(crate) limit: Option<usize>,
    pub(crate) lock: Option<&'static str>,
    pub(crate) skip_locked: bool,
}

impl<M> Default for Page<M> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            descending: false,
            mixed: false,
            limit: None,
            lock: None,
            skip_locked: false,
        }
    }
}

impl<M: Model> Page<M> {
    /// Adds a column that orders the rows. `value` is the number of the value that it must exceed, or `None` on the first page.
    pub(crate) fn order_by(&mut self, column: Column<M>, value: Option<usize>, descending: bool) {
        self.mixed |= !self.keys.is_empty() && descending != self.descending;
        self.descending = descending;
        self.keys.push((column, value));
    }

    /// The clause with the page and the lock. The numbers of the page's values count from `bound`.
    pub(crate) fn clause<'c>(
        &self,
        kind: DatabaseKind,
        clause: &'c str,
        bound: usize,
    ) -> Result<Cow<'c, str>> {
        let mut paged = match self.keys.is_empty() {
            true => clause.to_owned(),
            false => self.ordered(kind, clause, bound)?,
        };
        if let Some(limit) = self.limit {
            if Clause::new(kind, clause).is_limited() {
                return Err(refused("limit", "LIMIT, OFFSET or FETCH"));
            }
            let _ = write!(paged, "\nLIMIT ${}", bound + limit);
        }
        if kind == DatabaseKind::Postgres && (self.lock.is_some() || self.skip_locked) {
            let _ = write!(paged, "\nFOR {}", self.lock.unwrap_or("UPDATE"));
            // `FOR … OF` takes the name of the table without its schema.
            if let Some(table) = Clause::new(kind, clause).table(M::STATEMENTS.table) {
                match table.rsplit_once("\".\"") {
                    Some((_, table)) => write!(paged, " OF \"{table}"),
                    None => write!(paged, " OF {table}"),
                }
                .ok();
            }
            if self.skip_locked {
                paged.push_str(" SKIP LOCKED");
            }
        }
        Ok(paged.into())
    }

    /// The clause with the condition and the order of the page.
    fn ordered(&self, kind: DatabaseKind, clause: &str, bound: usize) -> Result<String> {
        if self.mixed {
            return Err(Error::other("a query cannot use both `after` and `before`"));
        }
        let clause = Clause::new(kind, clause);
        let Parts { head, condition, tail } = clause.parts();
        if tail.is_ordered_or_grouped() {
            let called = if self.descending { "before" } else { "after" };
            return Err(refused(called, "anything but a condition and a lock"));
        }
        let model = M::STATEMENTS;
        let table = clause.table(model.table).unwrap_or(model.short_table());
        let columns = self.keys.iter().map(|(column, value)| {
            let index = M::COLUMNS.iter().position(|name| *name == column.name());
            let spec = index.map(|index| &model.columns[index]);
            let name = spec.map_or_else(|| column.name(), |spec| spec.name);
            PageColumn {
                name: format!("{table}.{name}"),
                value: value.map(|value| format!("${}", bound + value)),
                nullable: spec.is_some_and(|c| c.optional && c.role.group() != ColumnGroup::Key),
            }
        });
        let columns: Vec<_> = columns.collect();
        let missing = |column: &PageColumn| column.value.is_none() && !column.nullable;
        let is_first = columns.iter().all(|column| column.value.is_none());
        if let Some(index) = columns.iter().position(missing).filter(|_| !is_first) {
            let column = self.keys[index].0.name();
            let error =
                format!("the page has no value for the column `{column}`, which cannot be NULL");
            return Err(Error::other(error));
        }
        let mut paged = head.trim_end().to_owned();
        let start = if condition.is_some() { "AND" } else { "\nWHERE" };
        if let Some(condition) = condition {
            let _ = write!(paged, "\nWHERE ({condition}\n) ");
        }
        if !is_first {
            let nulls_last = (kind == DatabaseKind::Postgres) != self.descending;
            let _ = write!(paged, "{start} {}", follows(&columns, self.descending, nulls_last));
        }
        let order = if self.descending { " DESC" } else { "" };
        let by: Vec<_> = columns.iter().map(|column| format!("{}{order}", column.name)).collect();
        let _ = write!(paged, "\nORDER BY {} {}", by.join(", "), tail.text);
        Ok(paged)
    }
}

/// A column that orders the rows of a page.
struct PageColumn {
    /// With the name of its table.
    name: String,
    /// The placeholder of its value in the last row of the previous page, or `None` if it is NULL.
    value: Option<String>,
    nullable: bool,
}

/// The condition that a row comes after the last one of the previous page.
fn follows(columns: &[PageColumn], descending: bool, nulls_last: bool) -> String {
    let operator = if descending { "<" } else { ">" };
    if columns.iter().any(|column| column.nullable) {
        let condition = columns.iter().rev().fold(None, |rest: Option<String>, column| {
            let name = &column.name;
            let (after, same) = match &column.value {
                Some(value) if column.nullable && nulls_last => (
                    format!("({name} {operator} {value} OR {name} IS NULL)"),
                    format!("{name} = {value}"),
                ),
                Some(value) => (format!("{name} {operator} {value}"), format!("{name} = {value}")),
                None if nulls_last => ("false".to_owned(), format!("{name} IS NULL")),
                None => (format!("{name} IS NOT NULL"), format!("{name} IS NULL")),
            };
            Some(match rest {
                Some(rest) => format!("({after} OR ({same} AND {rest}))"),
                None => after,
            })
        });
        return condition.unwrap_or_default();
    }
    let names: Vec<_> = columns.iter().map(|column| &*column.name).collect();
    let values: Vec<_> = columns.iter().filter_map(|column| column.value.as_deref()).collect();
    match &names[..] {
        [name] => format!("{name} {operator} {}", values.join("")),
        names => format!("({}) {operator} ({})", names.join(", "), values.join(", ")),
    }
}

fn refused(method: &str, has: &str) -> Error {
    Error::other(format!("`{method}` cannot be used if the clause of the query has {has}"))
}
