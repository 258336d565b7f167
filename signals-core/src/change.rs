//! Updates and deletes by condition.

use std::any::TypeId;
use std::fmt::Write;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::backend::DatabaseKind;
use crate::column::{self, Column};
use crate::conn::Conn;
use crate::delete;
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::model::Model;
use crate::query::{Binds, statement};
use crate::read;
use crate::statements::Group;
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
        let heard = self.is_heard();
        // On SQLite a statement that fails can have changed some rows: `ON CONFLICT FAIL`, `RAISE(FAIL)`.
        if conn.in_transaction() || !heard && conn.kind() == DatabaseKind::Postgres {
            return self.change::<R, B>(&mut conn, clause, binds, heard).await;
        }
        let mut tx = Transaction::open(conn).await?;
        match self.change::<R, B>(&mut tx, clause, binds, heard).await {
            Ok(rows) => tx.commit().await.map(|_| rows),
            Err(error) => {
                tx.rollback_or_log().await;
                Err(error)
            }
        }
    }

    async fn change<R: Route<M>, B: Binds<M, R>>(
        self,
        conn: &mut Conn<'_>,
        clause: &SqlStr,
        binds: B,
        heard: bool,
    ) -> Result<u64> {
        if heard {
            return self.each::<R, B>(conn, clause, binds).await;
        }
        let verb = if matches!(self, Self::Delete) { "delete" } else { "save" };
        let doubt = Doubt::of(conn, verb, M::NAME);
        let sql = self.at_once(clause.as_str());
        let done = async {
            let change = statement::<M, R, B>(doubt.conn.kind(), sql, binds)?;
            doubt.conn.run(change, &mut |_| ()).await
        };
        let done = done.await;
        doubt.end(done)
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

    /// One statement.
    fn at_once(&self, clause: &str) -> SqlStr {
        let model = M::STATEMENTS;
        let sql = match self {
            Self::Delete => format!("DELETE FROM {} {}", model.table, by_condition::<M>(clause)),
            Self::Update(set, _) => {
                let name = |column: usize| model.name(column);
                let mut set: Vec<_> =
                    set.iter().map(|(c, value)| format!("{} = ${value}", name(*c))).collect();
                set.extend(model.group(Group::Version).map(|c| format!("{0} = {0} + 1", name(c))));
                let (table, set) = (model.table, set.join(", "));
                format!("UPDATE {table} SET {set} {}", by_condition::<M>(clause))
            }
        };
        AssertSqlSafe(sql).into_sql_str()
    }

    /// The rows, one by one, in a transaction.
    async fn each<R: Route<M>, B: Binds<M, R>>(
        self,
        conn: &mut Conn<'_>,
        clause: &SqlStr,
        binds: B,
    ) -> Result<u64> {
        let mut rows = read::Rows::<M, R>::default();
        let select = self.select(conn.kind(), clause.as_str());
        let select = statement::<M, R, B>(conn.kind(), select, binds)?;
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
    fn select(&self, kind: DatabaseKind, clause: &str) -> SqlStr {
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
        AssertSqlSafe(sql).into_sql_str()
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
