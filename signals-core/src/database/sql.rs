//! SQL with arguments, written once for both databases.

use std::time::Instant;

use sqlx::SqlStr;
use sqlx::error::BoxDynError;

use crate::database::backend::{AnyRow, Arguments, DatabaseKind, Sink, Statement, on};
use crate::database::conn::Conn;
use crate::database::decode::caught;
use crate::database::execution::{Execution, Naming, Returns};
use crate::database::run::was_dead;
use crate::database::source::Source;
use crate::database::sql_scan;
use crate::error::driver::did_nothing;
use crate::error::{Error, Result};

/// One supertrait for each database. It has no requirements if the feature of the database is not enabled.
macro_rules! used_in {
    ($feature:literal, $DB:ident, $Row:ty, $value:ident, $row:ident) => {
        #[cfg(feature = $feature)]
        pub trait $value<'q>: sqlx::Encode<'q, sqlx::$DB> + sqlx::Type<sqlx::$DB> {}
        #[cfg(feature = $feature)]
        impl<'q, T: sqlx::Encode<'q, sqlx::$DB> + sqlx::Type<sqlx::$DB>> $value<'q> for T {}
        #[cfg(not(feature = $feature))]
        pub trait $value<'q> {}
        #[cfg(not(feature = $feature))]
        impl<'q, T> $value<'q> for T {}

        #[cfg(feature = $feature)]
        pub trait $row: for<'r> sqlx::FromRow<'r, $Row> {}
        #[cfg(feature = $feature)]
        impl<T: for<'r> sqlx::FromRow<'r, $Row>> $row for T {}
        #[cfg(not(feature = $feature))]
        pub trait $row {}
        #[cfg(not(feature = $feature))]
        impl<T> $row for T {}
    };
}

#[allow(missing_docs)]
pub(crate) mod enabled {
    used_in!("sqlite", Sqlite, sqlx::sqlite::SqliteRow, SqliteValue, InSqliteRow);
    used_in!("postgres", Postgres, sqlx::postgres::PgRow, PostgresValue, InPostgresRow);
}

/// A value that can be bound as an argument on every enabled database.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Value;
///
/// async fn exists<'q>(db: &Db, name: impl Value<'q>) -> Result<bool> {
///     let found: Option<(i64,)> =
///         db.query("SELECT id FROM city WHERE name = $1").bind(name).fetch_optional().await?;
///     Ok(found.is_some())
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// assert!(!exists(&db, "Ulm").await?);
/// # Ok(()) }
/// ```
pub trait Value<'q>: enabled::SqliteValue<'q> + enabled::PostgresValue<'q> + Send {}

impl<'q, T: enabled::SqliteValue<'q> + enabled::PostgresValue<'q> + Send> Value<'q> for T {}

/// A type that can be decoded from a row of every enabled database: a model, a tuple, or any type with sqlx's `FromRow`.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Row;
///
/// async fn table<R: Row>(db: &Db) -> Result<Vec<R>> {
///     db.query("SELECT id, name FROM city").fetch_all().await
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let rows: Vec<(i64, String)> = table(&db).await?;
/// assert!(rows.is_empty());
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "a row cannot be read as `{Self}`",
    note = "`#[derive(Model)]`, sqlx's `FromRow` and tuples of column types can be"
)]
pub trait Row: enabled::InSqliteRow + enabled::InPostgresRow + Send {}

impl<T: enabled::InSqliteRow + enabled::InPostgresRow + Send> Row for T {}

/// A statement with arguments. On both databases, the placeholders are `$1`, `$2`, … in the order of the calls of
/// [`bind`](Self::bind). Built by [`Db::query`](crate::Db::query) and [`Conn::query`](crate::Conn::query).
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// db.query("INSERT INTO city (name) VALUES ($1)").bind("Ulm").execute().await?;
/// let (name,): (String,) = db.query("SELECT name FROM city WHERE id = $1").bind(1_i64).fetch_one().await?;
/// assert_eq!(name, "Ulm");
/// # Ok(()) }
/// ```
#[must_use = "a statement does nothing until it is executed or fetched"]
pub struct RawQuery<'c> {
    source: Source<'c>,
    sql: SqlStr,
    args: Result<Arguments, BoxDynError>,
}

impl<'c> RawQuery<'c> {
    pub(crate) fn new(source: Source<'c>, kind: DatabaseKind, sql: SqlStr) -> Self {
        Self { source, sql, args: Ok(Arguments::new(kind)) }
    }

    /// Binds the next argument. If a value cannot be encoded, the execution of the statement returns the error.
    ///
    /// See the example of [`RawQuery`].
    pub fn bind<'q>(mut self, value: impl Value<'q>) -> Self {
        self.args = self.args.and_then(|mut args| {
            on!(Arguments, &mut args, args => sqlx::Arguments::add(args, value)?);
            Ok(args)
        });
        self
    }

    /// Runs the statement, and returns the number of rows affected.
    ///
    /// See the example of [`RawQuery`].
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if the database refuses the statement. [`Error::TransactionControl`] if the SQL begins or ends a
    /// transaction or savepoint inside a transaction of this library. Inside a transaction, either error marks the transaction
    /// as failed, so that it can only be rolled back.
    ///
    /// # Cancel safety
    ///
    /// As [`Conn::execute`](crate::Conn::execute). Through a [`Db`](crate::Db), a transaction that the statement left open is rolled back
    /// before the connection is used again.
    pub async fn execute(self) -> Result<u64> {
        self.run(&mut |_| ()).await
    }

    /// Fetches all rows.
    ///
    /// Tuples and types that derive sqlx's `FromRow` are decoded by sqlx. On SQLite, sqlx decodes NULL as zero or as an empty
    /// value if the type is not an `Option`. For a model, NULL in such a field is an error.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # db.execute("INSERT INTO city (name) VALUES ('Ulm')").await?;
    /// let cities: Vec<City> = db.query("SELECT * FROM city WHERE id < $1").bind(9).fetch_all().await?;
    /// let names: Vec<(String,)> = db.query("SELECT name FROM city").fetch_all().await?;
    /// assert_eq!(cities[0].name, names[0].0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`execute`](Self::execute), and [`Error::Database`] if a row cannot be decoded, also if the driver
    /// panics while decoding it.
    ///
    /// # Cancel safety
    ///
    /// As [`execute`](Self::execute).
    pub async fn fetch_all<R: Row>(self) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        let mut failed = None;
        self.run(&mut |row| match read::<R>(&row) {
            Ok(row) => rows.push(row),
            Err(error) => failed = failed.take().or(Some(error)),
        })
        .await?;
        failed.map_or(Ok(rows), |error| Err(error.into()))
    }

    /// Fetches the first row, or `None` if there is none.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let name: Option<(String,)> = db.query("SELECT name FROM city").fetch_optional().await?;
    /// assert_eq!(name, None);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all).
    ///
    /// # Cancel safety
    ///
    /// As [`execute`](Self::execute).
    pub async fn fetch_optional<R: Row>(self) -> Result<Option<R>> {
        Ok(self.fetch_all().await?.into_iter().next())
    }

    /// Fetches the first row.
    ///
    /// See the example of [`RawQuery`].
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all), and [`sqlx::Error::RowNotFound`] if there is no row.
    ///
    /// # Cancel safety
    ///
    /// As [`execute`](Self::execute).
    pub async fn fetch_one<R: Row>(self) -> Result<R> {
        self.fetch_optional().await?.ok_or(Error::Database(sqlx::Error::RowNotFound))
    }

    async fn run(self, sink: &mut (dyn FnMut(AnyRow) + Send)) -> Result<u64> {
        let args = self.args.map_err(sqlx::Error::Encode)?;
        let borrowed = matches!(self.source, Source::Conn(_));
        let mut conn = self.source.acquire().await?;
        // After a table was altered, SQLite prepares a cached statement again by itself, but sqlx still has the old column list
        // of `*`. It panics at a new column, in its worker thread, so no rows would be returned.
        let persistent = conn.kind() != DatabaseKind::Sqlite || !self.sql.as_str().contains('*');
        let statement = Statement { sql: self.sql, args, persistent, is_single: false };
        let result = conn.run_raw(statement, sink).await;
        if borrowed { result } else { conn.end_raw(result).await }
    }
}

fn read<R: Row>(row: &AnyRow) -> Result<R, sqlx::Error> {
    on!(AnyRow, row, row => caught(|| R::from_row(row)))
}

impl Conn<'_> {
    /// Runs SQL that the application wrote, without arguments.
    pub(crate) async fn execute_all(&mut self, sql: SqlStr) -> Result<u64> {
        let controls = self.before_raw(sql.as_str()).await?;
        loop {
            let (sent, again, mut answered) = (Instant::now(), sql.clone(), false);
            let execution = Execution::plain(self.connected(), again);
            let result = execution.run_noting_answer(&mut |_| (), &mut answered).await;
            match self.after_raw(controls, result).await {
                Err(error) if !answered => self.reconnect_raw(error, sql.as_str(), sent).await?,
                done => return done,
            }
        }
    }

    /// Runs a statement that the application wrote, and passes its rows to `sink`.
    pub(crate) async fn run_raw(
        &mut self,
        mut statement: Statement,
        sink: Sink<'_>,
    ) -> Result<u64> {
        let controls = self.before_raw(statement.sql.as_str()).await?;
        if controls && self.naming() != Naming::Named && statement.args.len() == 0 {
            // Prepared without a name, it would run in a transaction of its own, and have no effect.
            let execution = Execution::plain(self.connected(), statement.sql);
            let result = execution.run_to_end(sink).await;
            return self.after_raw(controls, result).await;
        }
        loop {
            let (sent, mut again, mut answered) = (Instant::now(), self.again(&statement), false);
            let run = self.run_or_retry(statement, &mut again, Returns::Rows, sink, &mut answered);
            let result = run.await;
            match (self.after_raw(controls, result).await, again) {
                (Err(error), Some(again)) if !answered => {
                    self.reconnect_raw(error, again.sql.as_str(), sent).await?;
                    statement = again;
                }
                (done, _) => return done,
            }
        }
    }

    /// Replaces a connection that was dead before the SQL of the application was executed on it. Otherwise, returns the error.
    async fn reconnect_raw(&mut self, error: Error, sql: &str, sent: Instant) -> Result<()> {
        let kind = self.kind();
        // These can commit in between.
        let may_commit = sql_scan::alters(kind, sql) || sql_scan::find(kind, sql).is_some();
        let may_repeat =
            |error: &sqlx::Error| !may_commit && did_nothing(error) && was_dead(error, sent);
        self.reconnect(error, may_repeat).await
    }
}
