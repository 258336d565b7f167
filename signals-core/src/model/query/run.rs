//! Runs queries.

use std::borrow::Cow;

use futures_util::stream::BoxStream;
use sqlx::{AssertSqlSafe, SqlSafeStr};

use crate::database::backend::{DatabaseKind, Statement};
use crate::database::placeholders;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::model::change::ByCondition;
use crate::model::clause::Clause;
use crate::model::executor::Executor;
use crate::model::query::Query;
use crate::model::store::Route;
use crate::model::{Model, read, stream};

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
    /// As [`update_many`](Model::update_many): either all matching rows are updated, or none. Also if a column is set that the library or
    /// the database sets, such as an `auto_now` column.
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
    /// matching rows are read into memory (and locked, on PostgreSQL, if the program may update them), and every signal is sent as by
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
    /// As [`fetch_all`](Self::fetch_all). The stream ends after the first error.
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
            let source = db.into_source();
            let limited = self.page.as_ref().is_some_and(|page| page.limit.is_some())
                || self.text(source.kind()).is_limited();
            let end = if limited { "" } else { "\nLIMIT 1" };
            let rows = self.rows(source, end, read::ManyRows::first());
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
            let kind = source.kind();
            let count_rows = match self.text(kind).needs_columns() {
                false => self.about(kind, (M::STATEMENTS.count, "\n) AS matching"))?,
                true => {
                    let start = format!("SELECT count(*) FROM ({}", self.start(kind));
                    self.about(kind, (&start, "\n) AS matching"))?
                }
            };
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
            let kind = source.kind();
            let start = match self.text(kind).needs_columns() {
                false => format!("SELECT EXISTS (SELECT 1 FROM {}", M::STATEMENTS.table),
                true => format!("SELECT EXISTS ({}", self.start(kind)),
            };
            let asks = self.about(kind, (&start, "\n)"))?;
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

    /// The clause without the page and the lock of the query.
    fn text(&self, kind: DatabaseKind) -> Clause<'_> {
        Clause::new(kind, self.clause.as_str())
    }

    /// The SELECT of every column.
    fn select(self, kind: DatabaseKind, end: &str) -> Result<Statement> {
        let start = self.start(kind);
        self.about(kind, (&start, end))
    }

    /// The SELECT of every column, up to the clause. If the clause can join another table, the columns are qualified with the
    /// table's name or alias.
    fn start(&self, kind: DatabaseKind) -> Cow<'static, str> {
        let model = M::STATEMENTS;
        let Some(table) = self.text(kind).table(model.table) else {
            return Cow::Borrowed(model.select);
        };
        let columns: Vec<_> = model.columns.iter().map(|c| format!("{table}.{}", c.name)).collect();
        Cow::Owned(format!("SELECT {} FROM {}", columns.join(", "), model.table))
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
    ///
    /// SQLite would read a placeholder without a value as NULL, and the values of the page follow those of the query.
    fn clause(&self, kind: DatabaseKind) -> Result<Cow<'_, str>> {
        let highest = placeholders::highest(self.clause.as_str());
        if highest > self.values.len() {
            let error = format!("the query uses ${highest}, and has no value for it");
            return Err(Error::other(error));
        }
        match &self.page {
            Some(page) => page.clause(kind, self.clause.as_str(), self.values.len()),
            None => Ok(Cow::Borrowed(self.clause.as_str())),
        }
    }
}
