//! Updates and deletes by condition.

use std::any::TypeId;
use std::fmt::Write;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::backend::{DatabaseKind, Statement};
use crate::column::{self, Column};
use crate::conn::Conn;
use crate::delete;
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::field::Asked;
use crate::model::Model;
use crate::query::{Binds, Inspect, Offered, arguments, refuse_control};
use crate::read;
use crate::statements::{ColumnSpec, Group};
use crate::store::Route;
use crate::testing::recording::Recorders;
use crate::transaction::Transaction;
use crate::unit::Doubt;
use crate::write;

/// What is to become of the rows that fit a condition.
pub(crate) enum Change<M> {
    /// Each column is set to one of the values that are bound.
    Update(Vec<(usize, usize)>, Vec<Column<M>>),
    Delete,
}

impl<M: Model> Change<M> {
    pub(crate) fn update(set: Vec<(Column<M>, usize)>) -> Result<Self> {
        let fields: Vec<_> = set.iter().map(|(column, _)| *column).collect();
        if fields.is_empty() {
            return Err(Error::other(format!("an update of `{}` sets no column", M::NAME)));
        }
        column::settable(&fields)?;
        let place = |(column, value): &(Column<M>, usize)| {
            let place = M::COLUMNS.iter().position(|name| *name == column.name());
            (place.unwrap_or_default(), *value)
        };
        Ok(Self::Update(set.iter().map(place).collect(), fields))
    }

    pub(crate) async fn run<R: Route<M>, B: Binds<M, R>>(
        self,
        source: Source<'_>,
        clause: &SqlStr,
        binds: B,
    ) -> Result<u64> {
        let mut conn = source.acquire().await?;
        let (kind, heard) = (conn.kind(), self.is_heard());
        let sql = match heard {
            true => self.select(kind, clause.as_str()),
            false => self.at_once(kind, clause.as_str()),
        };
        let statement = self.statement::<R, B>(kind, binds, sql);
        // On SQLite a statement that fails can have changed some rows: `ON CONFLICT FAIL`, `RAISE(FAIL)`.
        if conn.in_transaction() || !heard && kind == DatabaseKind::Postgres {
            let verb = if matches!(self, Self::Delete) { "delete" } else { "save" };
            let doubt = Doubt::of(&mut conn, verb, M::NAME);
            let done = async { self.change::<R>(doubt.conn, statement?, heard).await };
            let done = done.await;
            return doubt.end(done);
        }
        // Nothing is sent, not even BEGIN, if a value does not fit its column.
        let statement = statement?;
        let mut tx = Transaction::open(conn).await?;
        match self.change::<R>(&mut tx, statement, heard).await {
            Ok(rows) => tx.commit().await.map(|_| rows),
            Err(error) => {
                tx.rollback_or_log().await;
                Err(error)
            }
        }
    }

    async fn change<R: Route<M>>(
        self,
        conn: &mut Conn<'_>,
        statement: Statement,
        heard: bool,
    ) -> Result<u64> {
        match heard {
            true => self.each::<R>(conn, statement).await,
            false => conn.run(statement, &mut |_| ()).await,
        }
    }

    /// Whether the rows must be read: for receivers, or for a time that is the program's to tell.
    fn is_heard(&self) -> bool {
        let table = M::__table();
        let heard = match self {
            Self::Update(..) => table.heard_save().is_some() || M::STATEMENTS.has_times(),
            Self::Delete => table.heard_delete().is_some(),
        };
        heard || Recorders::of_task(TypeId::of::<M>()).any()
    }

    /// The statement with what was bound. Nothing is sent if a column is to be set to a value that it cannot have.
    ///
    /// sqlx knows a prepared statement by its text alone. On Postgres, a comment makes the text one of the types that the
    /// arguments have.
    fn statement<R: Route<M>, B: Binds<M, R>>(
        &self,
        kind: DatabaseKind,
        binds: B,
        mut sql: String,
    ) -> Result<Statement> {
        refuse_control(kind, &sql)?;
        let mut values = 0;
        let mut refused = None;
        let mut inspect = |offered: Offered| {
            values += 1;
            let set = self.columns().iter().find(|(_, value)| *value == values);
            refused = set.and_then(|(column, _)| misfit::<M, R>(*column, &offered));
            if kind == DatabaseKind::Postgres {
                let name = offered.ty.name().replace(['*', '/'], " ");
                let _ = write!(sql, "{}{name}", if values == 1 { "\n/* " } else { ", " });
            }
            // What it says is in `refused`.
            if refused.is_some() { Err("".into()) } else { Ok(()) }
        };
        let inspect: Inspect<'_, '_> =
            if self.columns().is_empty() { None } else { Some(&mut inspect) };
        let args = arguments::<M, R, B>(kind, binds, inspect);
        if let Some(error) = refused {
            return Err(error);
        }
        let args = args.map_err(sqlx::Error::Encode)?;
        if kind == DatabaseKind::Postgres && !self.columns().is_empty() {
            sql.push_str(" */");
        }
        Ok(Statement { sql: AssertSqlSafe(sql).into_sql_str(), args, persistent: true })
    }

    /// The columns that are set, and which of the bound values each is set to.
    fn columns(&self) -> &[(usize, usize)] {
        match self {
            Self::Update(set, _) => set,
            Self::Delete => &[],
        }
    }

    /// One statement.
    fn at_once(&self, kind: DatabaseKind, clause: &str) -> String {
        let model = M::STATEMENTS;
        match self {
            Self::Delete => format!("DELETE FROM {} {}", model.table, by_condition::<M>(clause)),
            Self::Update(set, _) => {
                let name = |column: usize| model.name(column);
                let value = |(column, value): &(usize, usize)| {
                    let ColumnSpec { name, json, optional, .. } = model.columns[*column];
                    match kind {
                        // JSON's own null is `None` to the field, which is NULL to the column.
                        DatabaseKind::Sqlite if json && optional => {
                            format!("{name} = NULLIF(${value}, 'null')")
                        }
                        DatabaseKind::Postgres if json && optional => {
                            format!("{name} = NULLIF(${value}::jsonb, 'null')")
                        }
                        _ => format!("{name} = ${value}"),
                    }
                };
                let mut set: Vec<_> = set.iter().map(value).collect();
                set.extend(model.group(Group::Version).map(|c| format!("{0} = {0} + 1", name(c))));
                let (table, set) = (model.table, set.join(", "));
                format!("UPDATE {table} SET {set} {}", by_condition::<M>(clause))
            }
        }
    }

    /// The rows, one by one, in a transaction.
    async fn each<R: Route<M>>(self, conn: &mut Conn<'_>, select: Statement) -> Result<u64> {
        let mut rows = read::Rows::<M, R>::default();
        read::take(conn, select, &mut rows).await?;
        let mut rows = rows.rows;
        let source = conn.reborrow().into();
        match self {
            Self::Delete => delete::delete_many::<M, R>(&mut rows, source).await,
            Self::Update(_, fields) => {
                write::save_columns_of_many::<M, R>(&mut rows, source, &fields).await
            }
        }
    }

    /// The rows as they are to be, locked where the database locks rows.
    fn select(&self, kind: DatabaseKind, clause: &str) -> String {
        let model = M::STATEMENTS;
        let mut sql = "SELECT ".to_owned();
        for (place, column) in model.columns.iter().enumerate() {
            let name = column.name;
            let comma = if place == 0 { "" } else { ", " };
            let value = match self {
                Self::Update(set, _) => set.iter().find(|(column, _)| *column == place),
                Self::Delete => None,
            };
            let _ = match value {
                // Of the column's type, whatever the value's is; and without its name, which ORDER BY would take for it.
                Some((_, value)) => {
                    write!(sql, "{comma}CASE WHEN true THEN ${value} ELSE {name} END")
                }
                None => write!(sql, "{comma}{name}"),
            };
        }
        let lock = if kind == DatabaseKind::Postgres { self.lock() } else { "" };
        let _ = write!(sql, " FROM {} {clause}{lock}", model.table);
        sql
    }
}

impl<M: Model> Change<M> {
    /// The lock that the statement itself takes. A stronger one would wait for transactions that only reference the row.
    fn lock(&self) -> &'static str {
        match self {
            Self::Update(set, _) if !set.iter().any(|(c, _)| M::STATEMENTS.columns[*c].unique) => {
                "\nFOR NO KEY UPDATE"
            }
            // The column could be the target of a foreign key. A weaker lock would have to be raised by the UPDATE, and two
            // transactions that raise theirs deadlock.
            Self::Update(..) | Self::Delete => "\nFOR UPDATE",
        }
    }
}

/// Why a column cannot be set to a value, if it cannot.
fn misfit<M: Model, R: Route<M>>(column: usize, offered: &Offered) -> Option<Error> {
    let spec = M::STATEMENTS.columns[column];
    let why = if spec.json && offered.is_string() {
        "a string: a field with `json` is set to `Json<T>`".to_owned()
    } else if !R::asked(column, Asked::Takes(&offered.ty)) {
        format!("a value of type {}", offered.ty.name())
    } else if offered.is_none() && !spec.optional {
        "`None`: the field is no `Option`".to_owned()
    } else {
        return None;
    };
    let (model, column) = (M::NAME, M::COLUMNS[column]);
    Some(Error::other(format!("the column `{column}` of `{model}` cannot be set to {why}")))
}

/// The condition for a statement that knows nothing but WHERE.
fn by_condition<M: Model>(clause: &str) -> String {
    const MORE: [&str; 6] = ["ORDER", "LIMIT", "OFFSET", "FETCH", "GROUP", "FOR"];
    let upper = clause.to_uppercase();
    let mut words = upper.split(|c: char| !c.is_alphanumeric() && c != '_');
    let plain = upper.trim_start().is_empty() || upper.trim_start().starts_with("WHERE");
    if plain && !words.any(|word| MORE.contains(&word)) {
        return clause.to_owned();
    }
    let model = M::STATEMENTS;
    let keys = model.group(Group::Key).map(|c| model.name(c)).collect::<Vec<_>>().join(", ");
    format!("WHERE ({keys}) IN (SELECT {keys} FROM {} {clause}\n)", model.table)
}
