//! Queries for rows by condition: how one is built. `run.rs` runs it.

mod run;

use std::marker::PhantomData;

use sqlx::{SqlSafeStr, SqlStr};

use crate::model::Model;
use crate::model::assign::SetTo;
use crate::model::binds::{Argument, ArgumentList, Values};
use crate::model::page::Page;
use crate::model::store::Any;
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
    /// If the column can be NULL, also call `after` for the key: `None` for every column is the first page, and `None` beside the
    /// key of the last row continues after a row whose column is NULL. Rows with NULL come first on SQLite and last on PostgreSQL,
    /// as in an `ORDER BY`.
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
            self.more.push_compared::<R, T>(last);
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
