//! Updates and deletes by condition.

use crate::model::decode::decoding;
use crate::model::write::{columns, delete_many, names, save_columns_of_many};
use crate::table::field::Conversion;
use crate::table::field::Notation;
use crate::transaction::own::Undoable;
use crate::transaction::own::in_transaction;
use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::Write;
use std::marker::PhantomData;

use sqlx::error::BoxDynError;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::backend::{AnyTake, Arguments, DatabaseKind, Statement};
use crate::database::conn::Conn;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::binds::{Binds, Inspect, Offered, arguments, refuse_control};
use crate::model::clause::Clause;
use crate::model::read;
use crate::model::rows::TypedRows;
use crate::model::store::Route;
use crate::signal::recording::Recorders;
use crate::table::automatic;
use crate::table::column::Column;
use crate::table::field::Asked;
use crate::table::schema::{ColumnGroup, ColumnRole, ColumnSpec};
use crate::transaction::Transaction;
use crate::transaction::guard::FailGuard;

/// What is to become of the rows that fit a condition.
pub(crate) enum ByCondition<M> {
    Update(Set<M>),
    Delete,
}

/// Columns with the places of the values that they are set to.
pub(crate) struct Set<M> {
    values: Vec<(usize, usize)>,
    /// The columns that are set to the time of the update.
    times: Vec<(usize, usize)>,
    /// The columns that the program sets.
    fields: Vec<Column<M>>,
}

impl<M: Model> Set<M> {
    fn value(&self, column: usize) -> Option<usize> {
        self.values.iter().find(|(set, _)| *set == column).map(|(_, value)| *value)
    }
}

impl<M: Model> ByCondition<M> {
    /// An update that sets columns to some of the values that are bound. The last value of a column counts.
    pub(crate) fn update(set: &[(Column<M>, usize)], bound: usize) -> Result<Self> {
        let fields: Vec<_> = set.iter().map(|(column, _)| *column).collect();
        if fields.is_empty() {
            return Err(Error::other(format!("an update of `{}` sets no column", M::NAME)));
        }
        let (mut values, mut times) = (Vec::new(), Vec::new());
        for column in columns::<M>().settable(&mut names(&fields))? {
            if M::STATEMENTS.columns[column].role == ColumnRole::AutoNow {
                times.push((column, bound + times.len() + 1));
            } else if let Some((_, value)) =
                set.iter().rfind(|(set, _)| set.name() == M::COLUMNS[column])
            {
                values.push((column, *value));
            }
        }
        Ok(Self::Update(Set { values, times, fields }))
    }

    pub(crate) async fn run<R: Route<M>, B: Binds<M, R>>(
        self,
        source: Source<'_>,
        clause: &SqlStr,
        binds: B,
    ) -> Result<u64> {
        let mut conn = source.acquire().await?;
        let (kind, heard) = (conn.kind(), self.is_heard());
        let clause = Clause(clause.as_str());
        let sql = match heard {
            true => self.select::<R>(kind, clause),
            false => self.at_once::<R>(kind, clause),
        };
        let bound = self.bound::<R, B>(kind, binds, sql, !heard);
        // On SQLite a statement that fails can have changed some rows: `ON CONFLICT FAIL`, `RAISE(FAIL)`.
        if conn.in_transaction() || !heard && kind == DatabaseKind::Postgres {
            let verb = if matches!(self, Self::Delete) { "delete" } else { "save" };
            let doubt = FailGuard::of(&mut conn, verb, M::NAME);
            let done = async { self.change::<R>(doubt.conn, clause, bound?, heard).await };
            let done = done.await;
            return doubt.end(done);
        }
        // Nothing is sent, not even BEGIN, if a value does not fit its column.
        let bound = bound?;
        let again = bound.again();
        let changing = Changing {
            change: &self,
            clause,
            bound: Some(bound),
            again,
            heard,
            route: PhantomData::<fn() -> R>,
        };
        in_transaction(conn, changing).await
    }

    async fn change<R: Route<M>>(
        &self,
        conn: &mut Conn<'_>,
        clause: Clause<'_>,
        mut bound: Box<Bound>,
        heard: bool,
    ) -> Result<u64> {
        if heard {
            let joins = clause.table(M::STATEMENTS.table).is_some();
            return self.each::<R>(conn, bound.statement(), joins).await;
        }
        if !bound.foreign.is_empty() {
            // On the heap: few come here.
            let converted = Box::pin(self.convert::<R>(conn, &mut bound)).await?;
            bound.sql = converted.at_once::<R>(conn.kind(), clause);
        }
        conn.run(bound.statement(), &mut |_| ()).await
    }

    /// Has the database make each foreign value one of the column's type, reads it as the field, and binds what the field stores
    /// in its place. A row that is saved with receivers goes the same way.
    async fn convert<R: Route<M>>(&self, conn: &mut Conn<'_>, bound: &mut Bound) -> Result<Self> {
        let Self::Update(Set { values, times, fields }) = self else { return Ok(Self::Delete) };
        let (mut values, times, fields) = (values.clone(), times.clone(), fields.clone());
        let kind = conn.kind();
        let value = |(column, value): &(usize, usize)| typed::<M, R>(kind, *column, *value);
        let foreign: Vec<_> = bound.foreign.iter().map(value).collect();
        let mut sql = format!("SELECT {}", foreign.join(", "));
        if kind == DatabaseKind::Postgres {
            // A column gives its type to a value if that type has no name.
            let _ =
                write!(sql, " FROM (SELECT) AS _one LEFT JOIN {} ON false", M::STATEMENTS.table);
        }
        let (args, types) = (bound.args.clone(), bound.types.clone());
        let select = Bound { sql, types, args, foreign: Vec::new() };
        let mut row = None;
        conn.run(select.statement(), &mut |found| row = Some(found)).await?;
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        for (at, (column, _)) in bound.foreign.iter().enumerate() {
            let place = bound.args.len() + 1;
            let args = RefCell::new(&mut bound.args);
            let conversion = Conversion { row: &row, at, args, error: Cell::new(None) };
            decoding::<M, ()>(|reached| {
                reached.set(*column);
                R::asked(*column, Asked::Converts(&conversion));
                conversion.error.take().map_or(Ok(()), Err)
            })?;
            values
                .iter_mut()
                .filter(|(set, _)| set == column)
                .for_each(|(_, value)| *value = place);
        }
        Ok(Self::Update(Set { values, times, fields }))
    }

    /// Whether the rows must be read for receivers.
    fn is_heard(&self) -> bool {
        let table = M::__table();
        let heard = match self {
            Self::Update(_) => table.save_if_any().is_some(),
            Self::Delete => table.delete_if_any().is_some(),
        };
        heard || Recorders::of_task(TypeId::of::<M>()).any()
    }

    /// The statement with what was bound. Nothing is sent if a column is to be set to a value that it cannot have.
    fn bound<R: Route<M>, B: Binds<M, R>>(
        &self,
        kind: DatabaseKind,
        binds: B,
        sql: String,
        timed: bool,
    ) -> Result<Box<Bound>> {
        refuse_control(kind, &sql)?;
        let mut values = 0;
        let (mut types, mut foreign) = (String::new(), Vec::new());
        let mut refused = None;
        let mut inspect = |offered: Offered| {
            values += 1;
            let set = self.columns().iter().find(|(_, value)| *value == values);
            refused = set.and_then(|(column, _)| misfit::<M, R>(*column, &offered));
            foreign.extend(set.filter(|(column, _)| !is_own::<M, R>(*column, &offered)));
            if kind == DatabaseKind::Postgres {
                let name = offered.ty.name().replace(['*', '/'], " ");
                let _ = write!(types, "{}{name}", if values == 1 { "\n/* " } else { ", " });
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
        let mut args = args.map_err(sqlx::Error::Encode)?;
        if timed {
            self.bind_times::<R>(&mut args).map_err(sqlx::Error::Encode)?;
        }
        if !types.is_empty() {
            types.push_str(" */");
        }
        Ok(Box::new(Bound { sql, types, args, foreign }))
    }

    /// The columns that are set, and which of the bound values each is set to.
    fn columns(&self) -> &[(usize, usize)] {
        match self {
            Self::Update(set) => &set.values,
            Self::Delete => &[],
        }
    }

    /// Binds, behind the program's values, the time for each column that is set to it.
    fn bind_times<R: Route<M>>(&self, args: &mut Arguments) -> Result<(), BoxDynError> {
        let Self::Update(Set { times, .. }) = self else { return Ok(()) };
        let now = automatic::now();
        times.iter().try_for_each(|(column, _)| match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(args) => {
                R::give_time(*column, now, AnyTake::Sqlite(&mut |time| time.bind(args)))
            }
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => {
                R::give_time(*column, now, AnyTake::Postgres(&mut |time| time.bind(args)))
            }
        })
    }

    /// One statement.
    fn at_once<R: Route<M>>(&self, kind: DatabaseKind, clause: Clause<'_>) -> String {
        let model = M::STATEMENTS;
        let (with, condition) = by_condition::<M>(kind, clause);
        match self {
            Self::Delete => format!("{with}DELETE FROM {} {condition}", model.table),
            Self::Update(set) => {
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
                        DatabaseKind::Sqlite => {
                            format!("{name} = {}", typed::<M, R>(kind, *column, *value))
                        }
                        DatabaseKind::Postgres => format!("{name} = ${value}"),
                    }
                };
                let mut set: Vec<_> = set.values.iter().chain(&set.times).map(value).collect();
                let name = |column: usize| model.name(column);
                set.extend(
                    model.group(ColumnGroup::Version).map(|c| format!("{0} = {0} + 1", name(c))),
                );
                format!("{with}UPDATE {} SET {} {condition}", model.table, set.join(", "))
            }
        }
    }

    /// The rows, one by one, in a transaction.
    async fn each<R: Route<M>>(
        &self,
        conn: &mut Conn<'_>,
        select: Statement,
        joins: bool,
    ) -> Result<u64> {
        let mut rows = read::ManyRows::<M, R>::default();
        read::take(conn, select, &mut rows).await?;
        let mut rows = rows.rows;
        if joins {
            keep_first::<M, R>(conn.kind(), &mut rows)?;
        }
        let source = conn.reborrow().into();
        match self {
            Self::Delete => delete_many::<M, R>(&mut rows, source).await,
            Self::Update(Set { fields, .. }) => {
                save_columns_of_many::<M, R>(&mut rows, source, fields).await
            }
        }
    }

    /// The rows as they are to be, with the locks that the statement by itself takes.
    fn select<R: Route<M>>(&self, kind: DatabaseKind, clause: Clause<'_>) -> String {
        let model = M::STATEMENTS;
        // Such a result cannot be locked, but the rows of the table can.
        let derived = kind == DatabaseKind::Postgres && clause.is_derived();
        let table = clause.table(model.table).filter(|_| !derived);
        let mut sql = String::new();
        for (place, column) in model.columns.iter().enumerate() {
            let value = match self {
                Self::Update(set) => set.value(place),
                Self::Delete => None,
            };
            let start = if place == 0 { "SELECT " } else { ", " };
            let _ = match (value, table) {
                // Under a name that ORDER BY does not take for the column's.
                (Some(value), _) => {
                    write!(sql, "{start}{} AS _set{place}", typed::<M, R>(kind, place, value))
                }
                (None, Some(table)) => write!(sql, "{start}{table}.{}", column.name),
                (None, None) => write!(sql, "{start}{}", column.name),
            };
        }
        let lock =
            if kind == DatabaseKind::Postgres { self.lock(clause, table) } else { String::new() };
        match derived {
            false => format!("{sql} FROM {} {}{lock}", model.table, clause.0),
            true => {
                let (with, condition) = by_condition::<M>(kind, clause);
                format!("{with}{sql} FROM {} {condition}{lock}", model.table)
            }
        }
    }

    /// The lock that the statement by itself takes. A stronger one would wait for transactions that only reference the row. TypedRows
    /// tables that are joined, no row is locked.
    fn lock(&self, clause: Clause<'_>, table: Option<&str>) -> String {
        // The program's own.
        if clause.locks() {
            return String::new();
        }
        let is_unique = |(column, _): &(usize, usize)| M::STATEMENTS.columns[*column].unique;
        let strength = match self {
            Self::Update(set) if !set.values.iter().any(is_unique) => "NO KEY UPDATE",
            // The column could be the target of a foreign key. A weaker lock would have to be raised by the UPDATE, and two
            // transactions that raise theirs deadlock.
            Self::Update(_) | Self::Delete => "UPDATE",
        };
        // The name of a table is there without its schema.
        let table = table.map(|table| match table.rsplit_once("\".\"") {
            Some((_, table)) => format!(" OF \"{table}"),
            None => format!(" OF {table}"),
        });
        format!("\nFOR {strength}{}", table.unwrap_or_default())
    }
}

/// An update or delete by condition in a transaction.
struct Changing<'c, M, R> {
    change: &'c ByCondition<M>,
    clause: Clause<'c>,
    bound: Option<Box<Bound>>,
    /// The same, for a second run.
    again: Option<Box<Bound>>,
    heard: bool,
    route: PhantomData<fn() -> R>,
}

impl<M: Model, R: Route<M>> Undoable for Changing<'_, M, R> {
    type Done = u64;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<u64> {
        let bound = self.bound.take().or_else(|| self.again.take());
        let bound = bound.expect("work in a transaction runs at most twice");
        self.change.change::<R>(tx, self.clause, bound, self.heard).await
    }
}

/// A statement with its arguments. On the heap: it is in the futures of the program.
#[derive(Clone)]
struct Bound {
    sql: String,
    /// The types of the arguments of an update, as a comment, on Postgres. sqlx knows a prepared statement by its text alone.
    types: String,
    args: Arguments,
    /// The columns that are set to a value that the field can store in another way, and the places of these values.
    foreign: Vec<(usize, usize)>,
}

impl Bound {
    fn statement(self) -> Statement {
        let sql = AssertSqlSafe(self.sql + &self.types).into_sql_str();
        Statement { sql, args: self.args, persistent: true }
    }

    /// As [`Statement::again`].
    fn again(&self) -> Option<Box<Self>> {
        match self.args {
            #[cfg(feature = "postgres")]
            Arguments::Postgres(_) => Some(Box::new(self.clone())),
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(_) => None,
        }
    }
}

/// Whether a column stores a value as the field would.
fn is_own<M: Model, R: Route<M>>(column: usize, offered: &Offered) -> bool {
    let field = Cell::new("");
    R::asked(column, Asked::TypeName(&offered.ty, &field));
    offered.is_stored_as(field.get()) || R::asked(column, Asked::Keeps(&offered.ty))
}

/// Why a column cannot be set to a value, if it cannot.
fn misfit<M: Model, R: Route<M>>(column: usize, offered: &Offered) -> Option<Error> {
    let spec = M::STATEMENTS.columns[column];
    let field = Cell::new("");
    R::asked(column, Asked::TypeName(&offered.ty, &field));
    let why = if let (Some(Notation::Json), Some(Notation::String)) =
        (Notation::of(field.get()), offered.notation())
    {
        "a string: a field of JSON is set to `Json<T>`".to_owned()
    } else if let (Some(Notation::String), Some(Notation::Json)) =
        (Notation::of(field.get()), offered.notation())
    {
        "JSON: the field is a string".to_owned()
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

/// A value as the column would have it, so that the field can be read from it: an UPDATE makes it one of the column's type, and
/// so does this with the field's.
fn typed<M: Model, R: Route<M>>(kind: DatabaseKind, column: usize, value: usize) -> String {
    let name = Cell::new(String::new());
    let named = R::asked(column, Asked::Name(kind, &name));
    let ty = name.take();
    match kind {
        DatabaseKind::Postgres if named => format!("CAST(${value} AS {ty})"),
        DatabaseKind::Postgres => {
            format!("CASE WHEN true THEN ${value} ELSE {} END", M::STATEMENTS.name(column))
        }
        // The only type of SQLite's to which a column converts a value that fits the field.
        DatabaseKind::Sqlite if ty == "REAL" => format!("CAST(${value} AS REAL)"),
        DatabaseKind::Sqlite => format!("${value}"),
    }
}

/// Keeps each row once: a row to which several others are joined is there several times.
fn keep_first<M: Model, R: Route<M>>(kind: DatabaseKind, rows: &mut Vec<M>) -> Result<()> {
    let mut seen = HashSet::new();
    let mut of = TypedRows::<M, R>::new(rows);
    let instances = of.instances();
    let first = (0..instances.len())
        .map(|row| Ok(seen.insert(instances.as_rows().encoded_key(row, kind)?)));
    let mut first = first.collect::<Result<Vec<_>, sqlx::Error>>()?.into_iter();
    rows.retain(|_| first.next().unwrap_or_default());
    Ok(())
}

/// The condition for a statement that knows nothing but WHERE, and what comes before the statement.
///
/// On PostgreSQL the clause is evaluated once, whatever the plan of the statement is: a clause with LIMIT or with locks would give
/// other rows each time.
fn by_condition<M: Model>(kind: DatabaseKind, clause: Clause<'_>) -> (String, String) {
    if clause.is_condition() {
        return (String::new(), clause.0.to_owned());
    }
    let model = M::STATEMENTS;
    let keys: Vec<_> = model.group(ColumnGroup::Key).map(|c| model.name(c)).collect();
    let table = clause.table(model.table);
    let name =
        |key: &&str| table.map_or_else(|| (*key).to_owned(), |table| format!("{table}.{key}"));
    let found = keys.iter().map(name).collect::<Vec<_>>().join(", ");
    let found = format!("SELECT {found} FROM {} {}\n", model.table, clause.0);
    let keys = keys.join(", ");
    match kind {
        DatabaseKind::Postgres => (
            format!("WITH _found AS MATERIALIZED ({found}) "),
            format!("WHERE ({keys}) IN (SELECT {keys} FROM _found)"),
        ),
        DatabaseKind::Sqlite => (String::new(), format!("WHERE ({keys}) IN ({found})")),
    }
}
