//! Queries for rows by condition.

use std::marker::PhantomData;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::model::binds::{And, Binds, statement};
use crate::model::change::ByCondition;
use crate::model::clause::Clause;
use crate::model::executor::Executor;
use crate::model::store::Route;
use crate::model::{Model, read};
use crate::table::column::Column;

/// A query for rows of a model by condition, created by [`Model::query`].
///
/// The query is built with [`bind`](Self::bind) and [`set`](Self::set), and run by one of the other methods.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model)]
/// # struct City { id: Option<i64>, name: String, people: i64 }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL, people INTEGER NOT NULL)").await?;
/// # City { id: None, name: "Ulm".into(), people: 130_000 }.save(&db).await?;
/// let large = City::query("WHERE people > $1 ORDER BY name").bind(100_000).fetch_all(&db).await?;
/// assert_eq!(large[0].name, "Ulm");
/// # Ok(()) }
/// ```
///
/// The types of the bound values are part of the query's type, so that a value that only one database supports can be bound
/// if the query runs on a pool or connection of that database. This has two consequences:
///
/// - If the number of values is known only at run time, use [`Db::query`](crate::Db::query), which can return models too.
/// - A function that runs a query takes `&Db` or `&mut Conn<'_>`. It cannot be generic over [`Executor`].
#[must_use = "a query does nothing until it is fetched, counted, updated or deleted"]
pub struct Query<M, B> {
    clause: SqlStr,
    binds: B,
    /// The number of bound values.
    bound: usize,
    /// The columns that `update` sets, each with the number of its value (`$1` is 1).
    set: Vec<(Column<M>, usize)>,
    model: PhantomData<fn() -> M>,
}

impl<M: Model> Query<M, ()> {
    pub(crate) fn new(clause: SqlStr) -> Self {
        Self { clause, binds: (), bound: 0, set: Vec::new(), model: PhantomData }
    }
}

#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` does not promise that its future is `Send`"
)]
impl<M: Model, B: Send> Query<M, B> {
    /// Binds the value of the next placeholder: the first call binds `$1`, the second `$2`, and so on.
    ///
    /// See the example of [`Query`].
    pub fn bind<'q, T: Send>(self, value: T) -> Query<M, And<'q, B, T>> {
        let Self { clause, binds, bound, set, .. } = self;
        let binds = And { before: binds, value, lifetime: PhantomData };
        Query { clause, binds, bound: bound + 1, set, model: PhantomData }
    }

    /// Sets a column to a value when the query runs as an [`update`](Self::update). The value takes the number of the next
    /// placeholder, as if it had been bound with [`bind`](Self::bind).
    ///
    /// The type of the value is the field's type, or one that the database converts to it: an integer of another width, an
    /// integer for a float, `&str` for `String`, or an `Option` of these. For any other type, `update` returns an error before
    /// it sends any SQL; likewise for `None` if the field is not an `Option`. The value for a field with `#[model(json)]` is a
    /// `Json<T>`.
    ///
    /// The value is stored in the same form as the field, whether or not the model has receivers. If a value of another type
    /// could be stored in another form (SQLite stores a `DateTime<Utc>` and a `NaiveDateTime` as different text), or the field
    /// might not be readable from it (an enum from a `&str`), `update` first runs a statement that converts the value to the
    /// field's type.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String, people: i64 }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL, people INTEGER NOT NULL)").await?;
    /// City::query("").set(City::PEOPLE, 7).update(&db).await?;
    /// assert!(City::query("").set(City::NAME, 7).update(&db).await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn set<'q, T: Send>(mut self, column: Column<M>, value: T) -> Query<M, And<'q, B, T>> {
        self.set.push((column, self.bound + 1));
        self.bind(value)
    }

    /// Updates every matching row, and returns how many. Each column passed to [`set`](Self::set) gets its value; the
    /// `auto_now` columns and the version are updated too. If a column is set twice, the last value is used.
    ///
    /// The rows are those that [`fetch_all`](Self::fetch_all) returns, each of them once: the clause can join other tables,
    /// order, limit and lock (`LIMIT 1 FOR UPDATE SKIP LOCKED`). The database converts a value to the column's type, as in an
    /// UPDATE written by hand.
    ///
    /// If the model has no receivers of saves, this is one UPDATE. Otherwise the matching rows are read into memory with their
    /// new values, and every signal is sent as by [`update_many`](Model::update_many);
    /// [`PreSave::fields`](crate::PreSave::fields) names the columns. PostgreSQL locks the rows when they are read, as the
    /// UPDATE would: `FOR NO KEY UPDATE`, or `FOR UPDATE` if a column with `#[model(unique)]` is set.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, country: String, visited: bool }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, country TEXT NOT NULL, visited BOOLEAN NOT NULL)").await?;
    /// let visited =
    ///     City::query("WHERE country = $1").bind("Peru").set(City::VISITED, true).update(&db).await?;
    /// # assert_eq!(visited, 0); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`update_many`](Model::update_many): either all matching rows are updated, or none.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    pub fn update<E>(self, db: E) -> impl Future<Output = Result<u64>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move {
            let change = ByCondition::<M>::update(&self.set, self.bound)?;
            change.run::<E::Route, B>(db.into_source(), &self.clause, self.binds).await
        }
    }

    /// Deletes every matching row, and returns how many.
    ///
    /// The rows are those that [`fetch_all`](Self::fetch_all) returns, each of them once.
    ///
    /// If the model has no receivers of deletes, and no rows of other models belong to it, this is one DELETE. Otherwise the
    /// matching rows are read into memory (and locked, on PostgreSQL), and every signal is sent as by
    /// [`delete_many`](Model::delete_many).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, country: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, country TEXT NOT NULL)").await?;
    /// let gone = City::query("WHERE country = $1").bind("Atlantis").delete(&db).await?;
    /// # assert_eq!(gone, 0); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`delete_many`](Model::delete_many): either all matching rows are deleted, or none.
    ///
    /// # Cancel safety
    ///
    /// As [`delete`](Model::delete).
    pub fn delete<E>(self, db: E) -> impl Future<Output = Result<u64>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move {
            let change = ByCondition::<M>::Delete;
            change.run::<E::Route, B>(db.into_source(), &self.clause, self.binds).await
        }
    }

    /// Returns every matching row.
    ///
    /// See the example of [`Query`].
    ///
    /// # Errors
    ///
    /// The database's error, or an error if a row cannot be decoded.
    ///
    /// # Cancel safety
    ///
    /// The call only reads. If the future is dropped, the receivers of [`post_load`](crate::post_load) may have run or not.
    pub fn fetch_all<E>(self, db: E) -> impl Future<Output = Result<Vec<M>>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move { self.rows::<E::Route>(db.into_source(), read::ManyRows::default()).await }
    }

    /// Returns the first matching row, or `None` if there is none.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let first = City::query("ORDER BY name LIMIT 1").fetch_optional(&db).await?;
    /// assert!(first.is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all).
    ///
    /// # Cancel safety
    ///
    /// As [`fetch_all`](Self::fetch_all).
    pub fn fetch_optional<E>(self, db: E) -> impl Future<Output = Result<Option<M>>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move {
            let rows = self.rows::<E::Route>(db.into_source(), read::ManyRows::first());
            Ok(rows.await?.into_iter().next())
        }
    }

    /// Returns the first matching row.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # let mut ulm = City { id: None, name: "Ulm".into() };
    /// # ulm.save(&db).await?;
    /// let city = City::query("WHERE name = $1").bind("Ulm").fetch_one(&db).await?;
    /// assert_eq!(city.id, ulm.id);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all), and [`Error::NotFound`] if no row matches.
    ///
    /// # Cancel safety
    ///
    /// As [`fetch_all`](Self::fetch_all).
    pub fn fetch_one<E>(self, db: E) -> impl Future<Output = Result<M>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        let clause = self.clause.clone();
        async move {
            let rows = self.rows::<E::Route>(db.into_source(), read::ManyRows::first());
            let key = || clause.as_str().to_owned();
            rows.await?
                .into_iter()
                .next()
                .ok_or_else(|| Error::NotFound { model: M::NAME, key: key() })
        }
    }

    /// Returns the number of rows that [`fetch_all`](Self::fetch_all) would return.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # let mut ulm = City { id: None, name: "Ulm".into() };
    /// # ulm.save(&db).await?;
    /// assert_eq!(City::query("WHERE name LIKE $1").bind("U%").count(&db).await?, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The database's error.
    ///
    /// # Cancel safety
    ///
    /// The call only reads. If the future is dropped, nothing has changed.
    pub fn count<E>(self, db: E) -> impl Future<Output = Result<i64>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move {
            let source = db.into_source();
            let sql = sql(M::STATEMENTS.count, &self.clause, "\n) AS matching");
            let count_rows = statement::<M, E::Route, B>(source.kind(), sql, self.binds)?;
            let mut count = Ok(0);
            read::each(source, count_rows, &mut |row| count = row.scalar()).await?;
            Ok(count?)
        }
    }

    async fn rows<R: Route<M>>(
        self,
        source: Source<'_>,
        rows: read::ManyRows<M, R>,
    ) -> Result<Vec<M>>
    where
        B: Binds<M, R>,
    {
        let sql = select::<M>(&self.clause);
        let select = statement::<M, R, B>(source.kind(), sql, self.binds)?;
        read::fetch(source, select, rows).await
    }
}

/// The SELECT of every column. If the clause can join another table, the columns are qualified with the table's name or alias.
fn select<M: Model>(clause: &SqlStr) -> SqlStr {
    let model = M::STATEMENTS;
    let Some(table) = Clause(clause.as_str()).table(model.table) else {
        return sql(model.select, clause, "");
    };
    let columns: Vec<_> = model.columns.iter().map(|c| format!("{table}.{}", c.name)).collect();
    let (columns, from) = (columns.join(", "), model.table);
    AssertSqlSafe(format!("SELECT {columns} FROM {from} {}", clause.as_str())).into_sql_str()
}

fn sql(start: &'static str, clause: &SqlStr, end: &'static str) -> SqlStr {
    AssertSqlSafe(format!("{start} {}{end}", clause.as_str())).into_sql_str()
}
