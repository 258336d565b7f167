//! Updates and deletes by condition: one statement, or, if there are receivers, a write of every matching row.

mod bound;
mod by_key;
mod sql;

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::Write;
use std::marker::PhantomData;

use sqlx::error::BoxDynError;
use tracing::Span;

use bound::Bound;
pub(crate) use by_key::delete_by_key;

use crate::database::backend::{Arguments, Backend as _, DatabaseKind, Statement, on};
use crate::database::conn::Conn;
use crate::database::placeholders::renumber;
use crate::database::source::Source;
use crate::database::writer::{Verb, Writer};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::assign::{Set, SetTo, is_stored_as_field, misfit, typed};
use crate::model::binds::{Inspect, Offered, Values, refuse_control};
use crate::model::clause::Clause;
use crate::model::decode::decoding;
use crate::model::read::{ManyRows, RowSink as _};
use crate::model::rows::TypedRows;
use crate::model::store::Route;
use crate::model::write::{columns, delete_many, names, save_columns_of_many};
use crate::signal::recording::Recorders;
use crate::table::automatic;
use crate::table::column::Column;
use crate::table::field::{Asked, Conversion};
use crate::table::schema::ColumnRole;
use crate::task::chain;
use crate::task::measure::Stopwatch;
use crate::task::span::traced;
use crate::transaction::Transaction;
use crate::transaction::guard::FailGuard;
use crate::transaction::own::{TransactionWork, in_transaction};
use crate::write::WriteKind;
use crate::write::row_locks::can_lock;
use crate::write::span::{record_system, write_span};

/// What a query does with the matching rows.
pub(crate) enum ByCondition<M> {
    Update(Set<M>),
    Delete,
}

impl<M: Model> ByCondition<M> {
    /// An update that sets columns. If a column is named several times, the last one counts. `bound` is the number of values
    /// of the query, and `all` also counts the values that follow them.
    pub(crate) fn update(set: &[(Column<M>, SetTo)], bound: usize, all: usize) -> Result<Self> {
        let fields: Vec<_> = set.iter().map(|(column, _)| *column).collect();
        if fields.is_empty() {
            return Err(Error::other(format!("an update of `{}` sets no column", M::NAME)));
        }
        let (mut values, mut times, mut expressions) = (Vec::new(), Vec::new(), Vec::new());
        for column in columns::<M>().assignable(&mut names(&fields))? {
            if M::STATEMENTS.columns[column].role == ColumnRole::AutoNow {
                times.push((column, all + times.len() + 1));
            } else if let Some((_, to)) =
                set.iter().rfind(|(set, _)| set.name() == M::COLUMNS[column])
            {
                match to {
                    SetTo::Value(value) => values.push((column, *value)),
                    SetTo::Sql { sql, before, values } => {
                        let (sql, used) = renumber(sql.as_str(), bound + before);
                        if used > *values {
                            let column = M::COLUMNS[column];
                            let error = format!(
                                "the expression for `{column}` uses ${used}, and has {values} values"
                            );
                            return Err(Error::other(error));
                        }
                        expressions.push((column, sql));
                    }
                }
            }
        }
        Ok(Self::Update(Set { values, expressions, times, fields }))
    }

    fn verb(&self) -> &'static str {
        if matches!(self, Self::Delete) { "delete" } else { "save" }
    }

    fn write_verb(&self) -> Verb {
        if matches!(self, Self::Delete) { Verb::Delete } else { Verb::Save }
    }

    pub(crate) async fn run<R: Route<M>>(
        self,
        source: Source<'_>,
        clause: &str,
        values: Values<'_>,
    ) -> Result<u64> {
        let since = Stopwatch::start();
        let conn = source.acquire_to_write(Writer::of(self.write_verb(), M::NAME)).await?;
        // A single statement needs no transaction on PostgreSQL. On SQLite, a failed statement may have changed some rows
        // (`ON CONFLICT FAIL`, `RAISE(FAIL)`).
        let reads_rows = self.has_receivers();
        let commits_itself = !reads_rows && conn.kind() == DatabaseKind::Postgres;
        self.run_on::<R>(conn, (clause, values), reads_rows, commits_itself, since).await
    }

    /// Runs the change on a connection. `reads_rows`: whether the matching rows are read and written one by one instead of by a
    /// single statement. `commits_itself`: whether that statement needs no transaction. `since`: when the call began.
    async fn run_on<R: Route<M>>(
        self,
        conn: Conn<'_>,
        query: (&str, Values<'_>),
        reads_rows: bool,
        commits_itself: bool,
        since: Stopwatch,
    ) -> Result<u64> {
        if reads_rows {
            // The write of the rows has its own span and metrics.
            return self.execute::<R>(conn, query, true, commits_itself).await;
        }
        let verb = self.verb();
        chain::observe(verb, M::NAME);
        let span = self.span::<R>();
        record_system(&span, conn.kind());
        let change = self.execute::<R>(conn, query, false, commits_itself);
        let done = match span.is_disabled() {
            true => change.await,
            false => traced(span, change).await,
        };
        M::__table().keys.record(verb, M::NAME, done.is_ok(), since);
        done
    }

    /// The span of a single statement.
    fn span<R: Route<M>>(&self) -> Span {
        let mut none = TypedRows::<M, R>::new(&mut []);
        let rows = none.erased();
        match self {
            Self::Update(_) => write_span!("save", rows, WriteKind::Update),
            Self::Delete => write_span!("delete", rows, WriteKind::Delete),
        }
    }

    async fn execute<R: Route<M>>(
        self,
        mut conn: Conn<'_>,
        (clause, values): (&str, Values<'_>),
        reads_rows: bool,
        commits_itself: bool,
    ) -> Result<u64> {
        let kind = conn.kind();
        let clause = Clause::new(kind, clause);
        let can_lock = match reads_rows || !clause.is_condition() {
            true => {
                let mut none = TypedRows::<M, R>::new(&mut []);
                can_lock(&mut conn, none.erased(), self.write_verb()).await?
            }
            // The statement locks what it writes.
            false => false,
        };
        let sql = match reads_rows {
            true => self.select::<R>(kind, clause, can_lock),
            false => self.single_statement::<R>(kind, clause, can_lock),
        };
        let bound = self.bound::<R>(kind, values, sql, !reads_rows);
        if conn.in_transaction() || commits_itself {
            let guard = FailGuard::of(&mut conn, self.verb(), M::NAME);
            let result =
                async { self.change::<R>(guard.conn, clause, bound?, reads_rows, can_lock).await };
            let result = result.await;
            return guard.end(result);
        }
        // If a value does not fit its column, return before BEGIN is sent.
        let bound = bound?;
        let again = bound.again();
        let changing = Changing {
            change: &self,
            clause,
            bound: Some(bound),
            again,
            reads_rows,
            can_lock,
            route: PhantomData::<fn() -> R>,
        };
        in_transaction(conn, changing).await
    }

    async fn change<R: Route<M>>(
        &self,
        conn: &mut Conn<'_>,
        clause: Clause<'_>,
        mut bound: Box<Bound>,
        reads_rows: bool,
        can_lock: bool,
    ) -> Result<u64> {
        if reads_rows {
            let joins = clause.table(M::STATEMENTS.table).is_some();
            return self.each::<R>(conn, bound.statement(), joins).await;
        }
        if !bound.foreign.is_empty() {
            // Boxed, because this is rare and would enlarge the future.
            let converted = Box::pin(self.convert::<R>(conn, &mut bound)).await?;
            bound.sql = converted.single_statement::<R>(conn.kind(), clause, can_lock);
        }
        if conn.in_transaction() {
            return conn.run(bound.statement(), &mut |_| ()).await;
        }
        let make = |_| Ok(bound.clone().statement());
        conn.write(&make, false, &|| Box::new(()), &mut |_| ()).await
    }

    /// Lets the database convert each value in `foreign` to the column's type, decodes the result as the field, and binds the
    /// decoded field instead. Rows that are saved with receivers get
    /// their values in the same way.
    async fn convert<R: Route<M>>(&self, conn: &mut Conn<'_>, bound: &mut Bound) -> Result<Self> {
        let Self::Update(set) = self else { return Ok(Self::Delete) };
        let mut values = set.values.clone();
        let kind = conn.kind();
        let value =
            |(column, value): &(usize, usize)| typed::<M, R>(kind, *column, &format!("${value}"));
        let foreign: Vec<_> = bound.foreign.iter().map(value).collect();
        let mut sql = format!("SELECT {}", foreign.join(", "));
        if kind == DatabaseKind::Postgres {
            // If a column's type has no name, `typed` refers to the column itself, so the table must be in scope.
            let _ =
                write!(sql, " FROM (SELECT) AS _one LEFT JOIN {} ON false", M::STATEMENTS.table);
        }
        let (args, types) = (bound.args.clone(), bound.types.clone());
        let select = Bound { sql, types, args, foreign: Vec::new() };
        let mut row = None;
        conn.run(select.statement(), &mut |found| row = Some(found)).await?;
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        for (at, (column, _)) in bound.foreign.iter().enumerate() {
            let index = bound.args.len() + 1;
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
                .for_each(|(_, value)| *value = index);
        }
        let (expressions, times) = (set.expressions.clone(), set.times.clone());
        Ok(Self::Update(Set { values, expressions, times, fields: set.fields.clone() }))
    }

    /// Whether the rows have to be read, because receivers or recorders need them.
    fn has_receivers(&self) -> bool {
        let table = M::__table();
        let has_receivers = match self {
            Self::Update(_) => table.save_if_any().is_some(),
            Self::Delete => table.delete_if_any().is_some(),
        };
        has_receivers || Recorders::of_task(TypeId::of::<M>()).any()
    }

    /// The statement with its bound values. If a column is set to a value that it cannot store, returns an error before any
    /// SQL is sent.
    fn bound<R: Route<M>>(
        &self,
        kind: DatabaseKind,
        bound: Values<'_>,
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
            foreign
                .extend(set.filter(|(column, _)| !is_stored_as_field::<M, R>(*column, &offered)));
            if kind == DatabaseKind::Postgres {
                let name = offered.ty.name().replace(['*', '/'], " ");
                let _ = write!(types, "{}{name}", if values == 1 { "\n/* " } else { ", " });
            }
            // The error message is in `refused`.
            if refused.is_some() { Err("".into()) } else { Ok(()) }
        };
        let inspect: Inspect<'_, '_> =
            if matches!(self, Self::Delete) { None } else { Some(&mut inspect) };
        let args = bound.bind(kind, inspect);
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

    /// The columns that are set to a value, each with the number of its value.
    fn columns(&self) -> &[(usize, usize)] {
        match self {
            Self::Update(set) => &set.values,
            Self::Delete => &[],
        }
    }

    /// Binds the time for each `auto_now` column, after the values of the query.
    fn bind_times<R: Route<M>>(&self, args: &mut Arguments) -> Result<(), BoxDynError> {
        let Self::Update(Set { times, .. }) = self else { return Ok(()) };
        let now = automatic::now();
        times.iter().try_for_each(|(column, _)| {
            on!(Arguments, args, DB, args => {
                R::give_time(*column, now, DB::any_take(&mut |time| time.bind(args)))
            })
        })
    }

    /// Reads the matching rows and writes them with their receivers, inside a transaction.
    async fn each<R: Route<M>>(
        &self,
        conn: &mut Conn<'_>,
        select: Statement,
        joins: bool,
    ) -> Result<u64> {
        let mut rows = ManyRows::<M, R>::default();
        conn.read_each(select, &mut |row| rows.load(&row)).await?;
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
}

/// An update or delete by condition, as the work of a transaction.
struct Changing<'c, M, R> {
    change: &'c ByCondition<M>,
    clause: Clause<'c>,
    bound: Option<Box<Bound>>,
    /// A copy for the second attempt.
    again: Option<Box<Bound>>,
    reads_rows: bool,
    can_lock: bool,
    route: PhantomData<fn() -> R>,
}

impl<M: Model, R: Route<M>> TransactionWork for Changing<'_, M, R> {
    type Done = u64;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<u64> {
        let bound = self.bound.take().or_else(|| self.again.take());
        let bound = bound.expect("work in a transaction runs at most twice");
        self.change.change::<R>(tx, self.clause, bound, self.reads_rows, self.can_lock).await
    }
}

/// Removes duplicates: a row to which several other rows are joined is returned several times.
fn keep_first<M: Model, R: Route<M>>(kind: DatabaseKind, rows: &mut Vec<M>) -> Result<()> {
    let mut seen = HashSet::new();
    let mut typed = TypedRows::<M, R>::new(rows);
    let erased = typed.erased();
    let first =
        (0..erased.len()).map(|row| Ok(seen.insert(erased.as_rows().encoded_key(row, kind)?)));
    let mut first = first.collect::<Result<Vec<_>, sqlx::Error>>()?.into_iter();
    rows.retain(|_| first.next().unwrap_or_default());
    Ok(())
}
