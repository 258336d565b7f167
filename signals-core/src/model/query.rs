//! Queries for rows by condition.

use std::borrow::Cow;
use std::marker::PhantomData;

use futures_util::stream::BoxStream;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::backend::{DatabaseKind, Statement};
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::model::assign::SetTo;
use crate::model::binds::{Argument, ArgumentList, Values};
use crate::model::change::ByCondition;
use crate::model::clause::Clause;
use crate::model::executor::Executor;
use crate::model::page::Page;
use crate::model::store::{Any, Route};
use crate::model::{Model, read, stream};
use crate::table::column::Column;

/// A query for rows of a model by condition, created by [`Model::query`].
///
/// The query is built with [`bind`](Self::bind), [`set`](Self::set), [`after`](Self::after) and similar methods, and run by
/// one of the others.
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
/// The type of a query does not depend on the values that are bound. A filter can therefore be built at run time, and a
/// function can return a query:
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # use sqlx_signals::Query;
/// # use sqlx_signals::sqlx::AssertSqlSafe;
/// # #[derive(Model)]
/// # struct City { id: Option<i64>, name: String, people: i64 }
/// fn filtered(name: Option<&str>, people: Option<i64>) -> Query<'_, City> {
///     let mut conditions = vec!["WHERE true".to_owned()];
///     if name.is_some() {
///         conditions.push(format!("name = ${}", conditions.len()));
///     }
///     if people.is_some() {
///         conditions.push(format!("people > ${}", conditions.len()));
///     }
///     let mut query = City::query(AssertSqlSafe(conditions.join(" AND ")));
///     if let Some(name) = name {
///         query = query.bind(name);
///     }
///     if let Some(people) = people {
///         query = query.bind(people);
///     }
///     query
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL, people INTEGER NOT NULL)").await?;
/// # City { id: None, name: "Ulm".into(), people: 130_000 }.save(&db).await?;
/// assert_eq!(filtered(None, Some(100_000)).count(&db).await?, 1);
/// assert_eq!(filtered(Some("Bonn"), None).count(&db).await?, 0);
/// # Ok(()) }
/// ```
///
/// `R` stands for the database, and is inferred from the argument of the call that runs the query. `Query<'q, City>` alone runs
/// on a [`Db`](crate::Db), [`Conn`](crate::Conn) or [`Transaction`](crate::Transaction).
#[must_use = "a query does nothing until it is fetched, counted, updated or deleted"]
pub struct Query<'q, M, R = Any> {
    clause: SqlStr,
    /// The values of the placeholders in the clause and of `set`.
    values: Values<'q>,
    /// The values of expressions, and of the page. Their placeholders follow those of `values`.
    more: Values<'q>,
    /// The columns that `update` sets.
    set: Vec<(Column<M>, SetTo)>,
    page: Option<Box<Page<M>>>,
    /// Whether the text of the statement depends on a number of values, so that it is not kept prepared.
    varies: bool,
    route: PhantomData<fn() -> R>,
}

impl<'q, M: Model, R> Query<'q, M, R> {
    pub(crate) fn new(clause: SqlStr) -> Self {
        let (values, more) = (Values::default(), Values::default());
        Self {
            clause,
            values,
            more,
            set: Vec::new(),
            page: None,
            varies: false,
            route: PhantomData,
        }
    }

    fn page(&mut self) -> &mut Page<M> {
        self.page.get_or_insert_default()
    }

    /// Locks the rows until the end of the transaction, as an update of any column or a delete would (`FOR UPDATE`).
    ///
    /// On SQLite this has no effect: a transaction that writes has the lock of the whole database from its beginning. Rows of
    /// joined tables are not locked.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct Job { id: Option<i64>, done: bool }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE job (id INTEGER PRIMARY KEY, done BOOLEAN NOT NULL)").await?;
    /// let mut tx = db.begin().await?;
    /// let next = Job::query("WHERE NOT done").for_update().skip_locked().first(&mut tx).await?;
    /// # assert!(next.is_none());
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn for_update(mut self) -> Self {
        self.page().lock = Some("UPDATE");
        self
    }

    /// Locks the rows until the end of the transaction, as an update of other columns than keys would (`FOR NO KEY UPDATE`).
    /// Other transactions can still insert rows that reference the locked ones.
    ///
    /// On SQLite this has no effect, see [`for_update`](Self::for_update).
    pub fn for_no_key_update(mut self) -> Self {
        self.page().lock = Some("NO KEY UPDATE");
        self
    }

    /// Skips rows that another transaction has locked, instead of waiting for them (`SKIP LOCKED`). Without another lock, this
    /// locks the rows as [`for_update`](Self::for_update) does.
    ///
    /// On SQLite this has no effect, because no other transaction has locked a row.
    pub fn skip_locked(mut self) -> Self {
        self.page().skip_locked = true;
        self
    }
}

impl<'q, M: Model, R: 'static> Query<'q, M, R> {
    /// Binds the value of the next placeholder: the first call binds `$1`, the second `$2`, and so on.
    pub fn bind<T: Argument<'q, R>>(mut self, value: T) -> Self {
        self.values.push::<R, T>(value);
        self
    }

    /// Binds the values of the next placeholders, any number of them, as repeated calls of [`bind`](Self::bind) would.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::sqlx::AssertSqlSafe;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let names = ["Ulm", "Bonn"];
    /// let list: Vec<_> = (1..=names.len()).map(|n| format!("${n}")).collect();
    /// let sql = AssertSqlSafe(format!("WHERE name IN ({})", list.join(", ")));
    /// let cities = City::query(sql).bind_all(names).fetch_all(&db).await?;
    /// # assert!(cities.is_empty()); Ok(()) }
    /// ```
    pub fn bind_all<T: Argument<'q, R>>(mut self, values: impl IntoIterator<Item = T>) -> Self {
        let before = self.values.len();
        for value in values {
            self.values.push::<R, T>(value);
        }
        self.varies |= self.values.len() != before + 1;
        self
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
    pub fn set<T: Argument<'q, R>>(mut self, column: Column<M>, value: T) -> Self {
        self.set.push((column, SetTo::Value(self.values.len() + 1)));
        self.bind(value)
    }

    /// Sets a column to an SQL expression when the query runs as an [`update`](Self::update). The expression has placeholders
    /// of its own: `$1` is the first of its `values`, whatever the query binds. Several values are a tuple, and no value is
    /// `()`.
    ///
    /// The expression can use the columns of the model's table, without an alias. The database computes it for each row, while
    /// it holds the lock of the row, so concurrent updates do not lose each other's changes. Receivers see the computed value.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct Product { id: Option<i64>, stock: i64, price: i64 }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, stock INTEGER NOT NULL, price INTEGER NOT NULL)").await?;
    /// let saved = Product { id: None, stock: 10, price: 200 }.save(&db).await?;
    /// let sold = Product::query("WHERE id = $1 AND stock >= $2")
    ///     .bind(saved.pk)
    ///     .bind(3)
    ///     .set_sql(Product::STOCK, "stock - $1", 3)
    ///     .set_sql(Product::PRICE, "price * $1 / $2", (9, 10))
    ///     .update(&db)
    ///     .await?;
    /// assert_eq!(sold, 1);
    /// let product = Product::get(&db, saved.pk).await?;
    /// assert_eq!((product.stock, product.price), (7, 180));
    /// # Ok(()) }
    /// ```
    pub fn set_sql<N, V: ArgumentList<'q, R, N>>(
        mut self,
        column: Column<M>,
        sql: impl SqlSafeStr,
        values: V,
    ) -> Self {
        let before = self.more.len();
        values.push(&mut self.more);
        let (sql, values) = (sql.into_sql_str(), self.more.len() - before);
        self.set.push((column, SetTo::Sql { sql, before, values }));
        self
    }

    /// Orders the rows by a column, and selects those whose value is greater than `last`, the value in the last row of the
    /// previous page. If `last` is `None`, this is the first page. Together with [`limit`](Self::limit), this reads a table in
    /// pages. Unlike `OFFSET`, it uses the index of the column, and is not disturbed by rows that are inserted or deleted
    /// meanwhile.
    ///
    /// The column must be unique, such as the key. To order by another column, call `after` for that column and then for the
    /// key. The clause of the query can only have a condition and a lock.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Clone, Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # City::insert_many(&db, &mut vec![City { id: None, name: "Ulm".into() }; 3]).await?;
    /// let page = |last: Option<i64>| City::query("").after(City::ID, last).limit(2);
    /// let first = page(None).fetch_all(&db).await?;
    /// let second = page(first[1].id).fetch_all(&db).await?;
    /// assert_eq!((first.len(), second.len()), (2, 1));
    ///
    /// let by_name = City::query("").after(City::NAME, "Bonn").after(City::ID, 7).limit(2);
    /// # assert_eq!(by_name.fetch_all(&db).await?.len(), 2);
    /// # Ok(()) }
    /// ```
    pub fn after<T: Argument<'q, R>>(self, column: Column<M>, last: T) -> Self {
        self.order_by(column, last, false)
    }

    /// As [`after`](Self::after), in descending order: selects the rows whose value is less than `last`.
    pub fn before<T: Argument<'q, R>>(self, column: Column<M>, last: T) -> Self {
        self.order_by(column, last, true)
    }

    fn order_by<T: Argument<'q, R>>(
        mut self,
        column: Column<M>,
        last: T,
        descending: bool,
    ) -> Self {
        let number = (!last.is_null()).then(|| self.more.len() + 1);
        if number.is_some() {
            self.more.push::<R, T>(last);
        }
        self.page().order_by(column, number, descending);
        self
    }

    /// Returns, updates or deletes at most this number of rows.
    ///
    /// The limit is a value of its own, so the clause and its placeholders stay as they are. The clause must not have a
    /// `LIMIT`.
    pub fn limit(mut self, rows: i64) -> Self
    where
        i64: Argument<'q, R>,
    {
        let number = self.more.len() + 1;
        self.more.push::<R, i64>(rows);
        self.page().limit = Some(number);
        self
    }
}

#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` does not promise that its future is `Send`"
)]
impl<'q, M: Model, R: Route<M>> Query<'q, M, R> {
    /// Updates every matching row, and returns how many. Each column passed to [`set`](Self::set) or [`set_sql`](Self::set_sql)
    /// gets its value; the `auto_now` columns and the version are updated too. If a column is set twice, the last value is used.
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
        E: Executor<M, Route = R>,
    {
        async move {
            let (bound, more) = (self.values.len(), self.more.len());
            let change = ByCondition::<M>::update(&self.set, bound, bound + more)?;
            self.change(change, db.into_source()).await
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
        E: Executor<M, Route = R>,
    {
        async move { self.change(ByCondition::Delete, db.into_source()).await }
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
        E: Executor<M, Route = R>,
    {
        async move { self.rows(db.into_source(), "", read::ManyRows::default()).await }
    }

    /// Returns the matching rows one after the other, while the database finds them, so that they are never all in memory.
    ///
    /// The stream is one of the crate [`futures`](https://docs.rs/futures), whose `TryStreamExt` has `try_next`. The stream
    /// occupies the connection until it is dropped. If a receiver of [`post_load`](crate::post_load) takes the connection, all
    /// rows are read before the first one is returned.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use futures_util::TryStreamExt;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let mut cities = City::query("ORDER BY name").fetch(&db);
    /// while let Some(city) = cities.try_next().await? {
    ///     println!("{}", city.name);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all). The stream ends after an error.
    ///
    /// # Cancel safety
    ///
    /// The stream can be dropped at any time.
    pub fn fetch<'s, E>(self, db: E) -> BoxStream<'s, Result<M>>
    where
        E: Executor<M, Route = R> + 's,
    {
        let source = db.into_source();
        let select = self.select(source.kind(), "");
        stream::rows::<M, R>(source, select)
    }

    /// Returns the first matching row, or `None` if there is none. The statement is not limited to one row, see
    /// [`first`](Self::first).
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
        E: Executor<M, Route = R>,
    {
        async move {
            let rows = self.rows(db.into_source(), "", read::ManyRows::first());
            Ok(rows.await?.into_iter().next())
        }
    }

    /// Returns the first matching row, or [`Error::NotFound`].
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
        E: Executor<M, Route = R>,
    {
        let clause = self.clause.clone();
        async move {
            let rows = self.rows(db.into_source(), "", read::ManyRows::first());
            let key = || clause.as_str().to_owned();
            rows.await?
                .into_iter()
                .next()
                .ok_or_else(|| Error::NotFound { model: M::NAME, key: key() })
        }
    }

    /// Returns the first matching row, or `None` if there is none. The database is asked for one row only: unless the query
    /// has a limit, this adds `LIMIT 1`.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, people: i64 }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, people INTEGER NOT NULL)").await?;
    /// let largest = City::query("ORDER BY people DESC").first(&db).await?;
    /// # assert!(largest.is_none()); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all).
    pub fn first<E>(self, db: E) -> impl Future<Output = Result<Option<M>>> + Send
    where
        E: Executor<M, Route = R>,
    {
        async move {
            let limited = self.page.as_ref().is_some_and(|page| page.limit.is_some())
                || Clause(self.clause.as_str()).is_limited();
            let end = if limited { "" } else { "\nLIMIT 1" };
            let rows = self.rows(db.into_source(), end, read::ManyRows::first());
            Ok(rows.await?.into_iter().next())
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
        E: Executor<M, Route = R>,
    {
        async move {
            let source = db.into_source();
            let sql = (M::STATEMENTS.count, "\n) AS matching");
            let count_rows = self.about(source.kind(), sql)?;
            let mut count = Ok(0);
            read::each(source, count_rows, &mut |row| count = row.scalar()).await?;
            Ok(count?)
        }
    }

    /// Returns whether any row matches.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// assert!(!City::query("WHERE name = $1").bind("Atlantis").exists(&db).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The database's error.
    pub fn exists<E>(self, db: E) -> impl Future<Output = Result<bool>> + Send
    where
        E: Executor<M, Route = R>,
    {
        async move {
            let source = db.into_source();
            let start = format!("SELECT EXISTS (SELECT 1 FROM {}", M::STATEMENTS.table);
            let asks = self.about(source.kind(), (&start, "\n)"))?;
            let mut exists = Ok(false);
            read::each(source, asks, &mut |row| exists = row.flag(0)).await?;
            Ok(exists?)
        }
    }

    async fn rows(
        self,
        source: Source<'_>,
        end: &str,
        rows: read::ManyRows<M, R>,
    ) -> Result<Vec<M>> {
        let select = self.select(source.kind(), end)?;
        read::fetch(source, select, rows).await
    }

    /// The SELECT of every column. If the clause can join another table, the columns are qualified with the table's name or
    /// alias.
    fn select(self, kind: DatabaseKind, end: &str) -> Result<Statement> {
        let model = M::STATEMENTS;
        let Some(table) = Clause(self.clause.as_str()).table(model.table) else {
            return self.about(kind, (model.select, end));
        };
        let columns: Vec<_> = model.columns.iter().map(|c| format!("{table}.{}", c.name)).collect();
        let select = format!("SELECT {} FROM {}", columns.join(", "), model.table);
        self.about(kind, (&select, end))
    }

    /// The statement that consists of `start`, the clause, and `end`.
    fn about(mut self, kind: DatabaseKind, (start, end): (&str, &str)) -> Result<Statement> {
        let clause = self.clause(kind)?;
        let mut sql = String::with_capacity(start.len() + clause.len() + end.len() + 1);
        for part in [start, " ", &clause, end] {
            sql.push_str(part);
        }
        drop(clause);
        self.values.append(self.more);
        let sql = AssertSqlSafe(sql).into_sql_str();
        Ok(self.values.statement(kind, sql, !self.varies)?)
    }

    async fn change(mut self, change: ByCondition<M>, source: Source<'_>) -> Result<u64> {
        let clause = self.clause(source.kind())?.into_owned();
        self.values.append(self.more);
        change.run::<R>(source, &clause, self.values).await
    }

    /// The clause with the page and the lock of the query.
    fn clause(&self, kind: DatabaseKind) -> Result<Cow<'_, str>> {
        match &self.page {
            Some(page) => page.clause(kind, self.clause.as_str(), self.values.len()),
            None => Ok(Cow::Borrowed(self.clause.as_str())),
        }
    }
}
