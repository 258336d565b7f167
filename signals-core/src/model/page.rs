//! What a query adds to its clause: a page of the rows, and a lock.

use std::borrow::Cow;
use std::fmt::Write;

use crate::database::backend::DatabaseKind;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::clause::{Clause, Parts};
use crate::table::column::Column;

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
            false => self.ordered(clause, bound)?,
        };
        if let Some(limit) = self.limit {
            if Clause(clause).is_limited() {
                return Err(refused("limit", "LIMIT, OFFSET or FETCH"));
            }
            let _ = write!(paged, "\nLIMIT ${}", bound + limit);
        }
        if kind == DatabaseKind::Postgres && (self.lock.is_some() || self.skip_locked) {
            let _ = write!(paged, "\nFOR {}", self.lock.unwrap_or("UPDATE"));
            // `FOR … OF` takes the name of the table without its schema.
            if let Some(table) = Clause(clause).table(M::STATEMENTS.table) {
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
    fn ordered(&self, clause: &str, bound: usize) -> Result<String> {
        if self.mixed {
            return Err(Error::other("a query cannot use both `after` and `before`"));
        }
        let Parts { head, condition, tail } = Clause(clause).parts();
        if tail.is_ordered_or_grouped() {
            let called = if self.descending { "before" } else { "after" };
            return Err(refused(called, "anything but a condition and a lock"));
        }
        let model = M::STATEMENTS;
        let table = Clause(clause).table(model.table).unwrap_or(model.short_table());
        let columns = self.keys.iter().map(|(column, _)| {
            let index = M::COLUMNS.iter().position(|name| *name == column.name());
            let name = index.map_or_else(|| column.name(), |index| model.name(index));
            format!("{table}.{name}")
        });
        let columns: Vec<_> = columns.collect();
        let (order, operator) = if self.descending { (" DESC", "<") } else { ("", ">") };
        let values = self.keys.iter().map(|(_, value)| value.map(|value| bound + value));
        let values: Option<Vec<_>> = values.map(|n| n.map(|n| format!("${n}"))).collect();
        let mut paged = head.trim_end().to_owned();
        let start = if condition.is_some() { "AND" } else { "\nWHERE" };
        if let Some(condition) = condition {
            let _ = write!(paged, "\nWHERE ({condition}\n) ");
        }
        match (values, &columns[..]) {
            (Some(values), [column]) => {
                let _ = write!(paged, "{start} {column} {operator} {}", values.join(""));
            }
            (Some(values), columns) => {
                let (columns, values) = (columns.join(", "), values.join(", "));
                let _ = write!(paged, "{start} ({columns}) {operator} ({values})");
            }
            (None, _) => {}
        }
        let by: Vec<_> = columns.iter().map(|column| format!("{column}{order}")).collect();
        let _ = write!(paged, "\nORDER BY {} {}", by.join(", "), tail.0);
        Ok(paged)
    }
}

fn refused(method: &str, has: &str) -> Error {
    Error::other(format!("`{method}` cannot be used if the clause of the query has {has}"))
}
