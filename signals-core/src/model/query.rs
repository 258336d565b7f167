use std::marker::PhantomData;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::binds::{And, Binds, statement};
use crate::model::change::ByCondition;
use crate::model::clause::Clause;
use crate::model::executor::Executor;
use crate::model::read;
use crate::model::store::Route;
use crate::table::column::Column;

/// Rows of a model by condition, made by [`Model::query`].
///
/// The type of what is bound is part of its own, so that a value which only one database has can be bound where that
/// database's pool or connection is used. Where the number of values is known only at run time, use
/// [`Db::query`](crate::Db::query), which reads models too; a function that queries takes `&Db` or `&mut Conn<'_>`, not any
/// [`Executor`].
#[must_use = "a query does nothing until it is fetched, counted, updated or deleted"]
pub struct Query<M, B> {
    clause: SqlStr,
    binds: B,
    /// How many values are bound.
    bound: usize,
    /// The columns to be set, and which of the bound values each is set to.
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
    /// The value of the next `$1`, `$2`, ….
    pub fn bind<'q, T: Send>(self, value: T) -> Query<M, And<'q, B, T>> {
        let Self { clause, binds, bound, set, .. } = self;
        let binds = And { before: binds, value, lifetime: PhantomData };
        Query { clause, binds, bound: bound + 1, set, model: PhantomData }
    }

    /// A value that [`update`](Self::update) is to set a column to. It takes the next place, behind what was bound before.
    ///
    /// The value is of the field's type or of one that the database assigns to it: an integer of another width, an integer
    /// for a float, `&str` for `String`, an `Option` of these. With any other type, the update is an error before any SQL is
    /// sent; so is `None` for a field that is no `Option`. A field with `#[model(json)]` is set to a `Json<T>`.
    ///
    /// A value is stored as the field stores it, whether or not there are receivers. If its type is another one and the field could
    /// store it in another way, as a `NaiveDateTime` does a `DateTime<Utc>` on SQLite, or could not be read from it, as an enum
    /// from a `&str`, the value is read as the field first, with a statement of its own.
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

    /// Updates every row that fits, and returns how many: the columns that were [`set`](Self::set), and with them `auto_now`
    /// columns and the version.
    ///
    /// The rows are those that [`fetch_all`](Self::fetch_all) returns, each once: the clause can join other tables, order, limit
    /// and lock (`LIMIT 1 FOR UPDATE SKIP LOCKED`). A value is stored as the column has it, as in an UPDATE by hand. If a column
    /// is set twice, the last value counts.
    ///
    /// Without receivers of the model's saves it is one UPDATE. With receivers, the rows are read, with the new values and with
    /// the lock that the UPDATE takes, and every signal is sent as by [`update_many`](Model::update_many),
    /// [`PreSave::fields`](crate::PreSave::fields) naming the columns; all of them are in memory meanwhile. The lock is `FOR NO
    /// KEY UPDATE`, and `FOR UPDATE` if a column with `#[model(unique)]` is set.
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
    /// As [`update_many`](Model::update_many): all rows are updated, or none.
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

    /// Deletes every row that fits, and returns how many.
    ///
    /// The rows are those that [`fetch_all`](Self::fetch_all) returns, each once.
    ///
    /// Without receivers of the model's deletes, and without rows that belong to it, it is one DELETE. With receivers, the rows
    /// are read and locked, and every signal is sent as by [`delete_many`](Model::delete_many); all of them are in memory
    /// meanwhile.
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
    /// As [`delete_many`](Model::delete_many): all rows are deleted, or none.
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

    /// Every row that fits.
    ///
    /// # Errors
    ///
    /// What the database refuses, and a row that does not decode.
    pub fn fetch_all<E>(self, db: E) -> impl Future<Output = Result<Vec<M>>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move { self.rows::<E::Route>(db.into_source(), read::ManyRows::default()).await }
    }

    /// The first row that fits, if there is one.
    ///
    /// # Errors
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

    /// The first row that fits.
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all), and [`Error::NotFound`] where there is none.
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

    /// How many rows [`fetch_all`](Self::fetch_all) would give.
    ///
    /// # Errors
    ///
    /// What the database refuses.
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

/// The rows of the model, whose columns have the name of the table if the clause can join another one.
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
