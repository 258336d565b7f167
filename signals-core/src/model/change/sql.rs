//! The SQL of updates and deletes by condition.

use std::fmt::Write;

use crate::database::backend::DatabaseKind;
use crate::model::Model;
use crate::model::assign::{Set, typed};
use crate::model::change::ByCondition;
use crate::model::clause::Clause;
use crate::model::store::Route;
use crate::table::schema::{ColumnGroup, ColumnSpec};

impl<M: Model> ByCondition<M> {
    /// The UPDATE or DELETE that writes all matching rows. If it selects them, it locks them too, if this is possible.
    pub(super) fn single_statement<R: Route<M>>(
        &self,
        kind: DatabaseKind,
        clause: Clause<'_>,
        can_lock: bool,
    ) -> String {
        let model = M::STATEMENTS;
        let lock = self.lock_of_clause(clause, can_lock);
        let (with, condition) = by_condition::<M>(kind, clause, &lock);
        match self {
            Self::Delete => format!("{with}DELETE FROM {} {condition}", model.table),
            Self::Update(set) => {
                let value = |(column, value): &(usize, usize)| {
                    let ColumnSpec { name, json, optional, .. } = model.columns[*column];
                    match kind {
                        // The field stores `None` as NULL, so the JSON value `null` becomes NULL too.
                        DatabaseKind::Sqlite if json && optional => {
                            format!("{name} = NULLIF(${value}, 'null')")
                        }
                        DatabaseKind::Postgres if json && optional => {
                            format!("{name} = NULLIF(${value}::jsonb, 'null')")
                        }
                        DatabaseKind::Sqlite => {
                            let value = typed::<M, R>(kind, *column, &format!("${value}"));
                            format!("{name} = {value}")
                        }
                        DatabaseKind::Postgres => format!("{name} = ${value}"),
                    }
                };
                let name = |column: usize| model.name(column);
                let expressions = set.expressions.iter();
                let expressions =
                    expressions.map(|(column, sql)| format!("{} = ({sql}\n)", name(*column)));
                let values = set.values.iter().chain(&set.times).map(value);
                let mut set: Vec<_> = values.chain(expressions).collect();
                set.extend(
                    model.group(ColumnGroup::Version).map(|c| format!("{0} = {0} + 1", name(c))),
                );
                format!("{with}UPDATE {} SET {} {condition}", model.table, set.join(", "))
            }
        }
    }

    /// The SELECT of the matching rows with the new values already applied, and with the locks that the UPDATE or DELETE would
    /// take, if the rows can be locked.
    pub(super) fn select<R: Route<M>>(
        &self,
        kind: DatabaseKind,
        clause: Clause<'_>,
        can_lock: bool,
    ) -> String {
        let model = M::STATEMENTS;
        // PostgreSQL cannot lock a derived result, so the rows are selected from the table by their keys. So are rows with
        // expressions, which refer to columns of the table alone.
        let computes = matches!(self, Self::Update(set) if !set.expressions.is_empty());
        // So are rows of a clause that counts the columns of the SELECT, or has another SELECT.
        let derived = kind == DatabaseKind::Postgres && clause.is_derived()
            || computes && clause.table(model.table).is_some()
            || clause.needs_columns();
        let table = clause.table(model.table).filter(|_| !derived);
        let mut sql = String::new();
        for (index, column) in model.columns.iter().enumerate() {
            let value = match self {
                Self::Update(set) => set.new_value::<R>(kind, index),
                Self::Delete => None,
            };
            let start = if index == 0 { "SELECT " } else { ", " };
            let _ = match (value, table) {
                // Named differently from the column, so that ORDER BY still refers to the stored value.
                (Some(value), _) => write!(sql, "{start}{value} AS _set{index}"),
                (None, Some(table)) => write!(sql, "{start}{table}.{}", column.name),
                (None, None) => write!(sql, "{start}{}", model.qualified(index)),
            };
        }
        let lock = self.lock_of_clause(clause, can_lock);
        match derived {
            false => format!("{sql} FROM {} {}{lock}", model.table, clause.text),
            true => {
                let (with, condition) = by_condition::<M>(kind, clause, &lock);
                // Without a lock, this SELECT would return a row that the clause has waited for in its previous state.
                let lock = if can_lock { self.lock(None) } else { String::new() };
                format!("{with}{sql} FROM {} {condition}{lock}", model.table)
            }
        }
    }

    /// The lock of the rows that a clause selects. If PostgreSQL has to wait for it, it evaluates the condition again, with the
    /// row as it is then. The UPDATE or DELETE itself would only compare the key again.
    fn lock_of_clause(&self, clause: Clause<'_>, can_lock: bool) -> String {
        match can_lock && !clause.locks() && !clause.is_derived() {
            true => self.lock(clause.table(M::STATEMENTS.table)),
            false => String::new(),
        }
    }

    /// The lock that the UPDATE or DELETE would take. A stronger lock would wait for transactions that only reference the row.
    /// Rows of joined tables are not locked.
    fn lock(&self, table: Option<&str>) -> String {
        let is_unique = |set: &Set<M>| {
            let values = set.values.iter().map(|(column, _)| column);
            let mut columns = values.chain(set.expressions.iter().map(|(column, _)| column));
            columns.any(|column| M::STATEMENTS.columns[*column].unique)
        };
        let strength = match self {
            Self::Update(set) if !is_unique(set) => "NO KEY UPDATE",
            // A foreign key may reference a unique column, and the UPDATE then needs this lock. Two transactions that upgrade
            // a weaker lock would deadlock.
            Self::Update(_) | Self::Delete => "UPDATE",
        };
        // `FOR … OF` takes the name of the table without its schema.
        let table = table.map(|table| match table.rsplit_once("\".\"") {
            Some((_, table)) => format!(" OF \"{table}"),
            None => format!(" OF {table}"),
        });
        format!("\nFOR {strength}{}", table.unwrap_or_default())
    }
}

/// The WITH and the WHERE of a statement that writes the rows matching the clause. If they are selected by their keys, they are locked
/// with `lock`.
///
/// An UPDATE or DELETE accepts only a WHERE, so for other clauses the rows are selected by their keys. On PostgreSQL the clause
/// is evaluated exactly once, whatever plan is chosen: with LIMIT or a lock, a second evaluation would return other rows.
fn by_condition<M: Model>(kind: DatabaseKind, clause: Clause<'_>, lock: &str) -> (String, String) {
    if clause.is_condition() {
        return (String::new(), clause.text.to_owned());
    }
    let model = M::STATEMENTS;
    let table = clause.table(model.table).unwrap_or(model.short_table());
    let list = |name: &dyn Fn(usize) -> String| {
        model.group(ColumnGroup::Key).map(name).collect::<Vec<_>>().join(", ")
    };
    let found = match clause.needs_columns() {
        false => {
            let keys = list(&|key| format!("{table}.{}", model.name(key)));
            format!("SELECT {keys} FROM {} {}{lock}\n", model.table, clause.text)
        }
        true => {
            let every = model.columns.iter().map(|c| format!("{table}.{}", c.name));
            let every = every.collect::<Vec<_>>().join(", ");
            let keys = list(&|key| model.name(key).to_owned());
            let (from, clause) = (model.table, clause.text);
            format!("SELECT {keys} FROM (SELECT {every} FROM {from} {clause}{lock}\n) AS _all\n")
        }
    };
    let keys = list(&|key| model.qualified(key));
    match kind {
        DatabaseKind::Postgres => (
            format!("WITH _found AS MATERIALIZED ({found}) "),
            format!(
                "WHERE ({keys}) IN (SELECT {} FROM _found)",
                list(&|key| model.name(key).to_owned())
            ),
        ),
        DatabaseKind::Sqlite => (String::new(), format!("WHERE ({keys}) IN ({found})")),
    }
}
