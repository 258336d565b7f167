//! The typed API: [`Model`], [`Query`](crate::Query) and [`Executor`](crate::Executor), as thin generic functions over the
//! layers below.
//!
//! May import: `error`, `task`, `database`, `table`, `transaction`, `signal`, `write`.

pub(crate) mod any;
pub(crate) mod assign;
pub(crate) mod belongs_to;
pub(crate) mod binds;
pub(crate) mod change;
pub(crate) mod check;
pub(crate) mod clause;
mod clause_tokens;
pub(crate) mod ddl;
pub(crate) mod decode;
pub(crate) mod executor;
pub(crate) mod lookup;
pub(crate) mod page;
pub(crate) mod query;
pub(crate) mod read;
pub(crate) mod registered;
pub(crate) mod rows;
pub(crate) mod signals;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod write;

use std::fmt::Debug;
use std::time::SystemTime;

use crate::database::backend::DatabaseKind;
use crate::error::Result;
use crate::model::ddl::Ddl;
use crate::model::executor::Executor;
use crate::model::query::Query;
use crate::model::read::OneRow;
use crate::model::registered::Copier;
use crate::model::rows::TypedRows;
use crate::signal::receivers::ReceiverCache;
use crate::signal::relation::ModelInfo;
use crate::table::column::Column;
use crate::table::schema::Schema;
use crate::write::{Saved, WriteKind, save};

/// A struct whose instances are rows of a table. `#[derive(Model)]` implements it.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// #[derive(Model)]
/// #[model(table = "cities")]
/// struct City { id: Option<i64>, name: String }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// db.execute("CREATE TABLE cities (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
///
/// let mut ulm = City { id: None, name: "Ulm".into() };
/// ulm.save(&db).await?;
/// let found = City::query("WHERE name = $1").bind("Ulm").fetch_one(&db).await?;
/// assert_eq!(found.id, ulm.id);
/// # Ok(()) }
/// ```
///
/// A method that runs SQL takes the source of its connection as an argument: a [`&Db`](crate::Db), a
/// [`&mut Transaction`](crate::Transaction), or a pool or connection of sqlx. [`Executor`] lists all of them.
///
/// | to | call |
/// |---|---|
/// | store one row, new or not | [`save`](Model::save) |
/// | store a new row only | [`insert`](Model::insert) |
/// | store an existing row only | [`update`](Model::update) |
/// | store some columns of a row | [`save_fields`](Model::save_fields) |
/// | store a row identified by unique columns | [`upsert`](Model::upsert) |
/// | read a row, or insert it if it does not exist | [`get_or_create`](Model::get_or_create) |
/// | delete a row | [`delete`](Model::delete) |
/// | read a row by key | [`get`](Model::get), [`find`](Model::find) |
/// | read many rows by key | [`get_many`](Model::get_many) |
/// | delete a row by key | [`delete_by_key`](Model::delete_by_key) |
/// | reload a row | [`refresh`](Model::refresh) |
/// | read all rows | [`all`](Model::all) |
/// | read, count, update or delete by condition | [`query`](Model::query) |
/// | write many rows at once | [`insert_many`](Model::insert_many), [`update_many`](Model::update_many), [`delete_many`](Model::delete_many) |
///
/// Every write sends its signals for each row, including writes of many rows and writes by condition. Reading a row sends
/// [`post_load`](crate::post_load).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a model",
    label = "not a model",
    note = "put `#[derive(Model)]` on `{Self}`"
)]
pub trait Model: Sized + Send + Sync + 'static {
    /// The type of the primary key: the type of the key field (`T` if the field is an `Option<T>`), or a tuple of these types
    /// for a composite key.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// #[derive(Model)]
    /// struct Seat { #[model(primary_key)] row: i32, #[model(primary_key)] number: i32 }
    ///
    /// let (row, number): <Seat as Model>::Pk = Seat { row: 7, number: 12 }.pk().unwrap();
    /// assert_eq!((row, number), (7, 12));
    /// ```
    type Pk: Clone + Debug + Send + Sync + 'static;

    /// The name of the struct, as errors and logs print it.
    ///
    /// If the model has a field `name`, `User::NAME` is the constant of that column; this constant is then
    /// `<User as Model>::NAME`.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// assert_eq!(<City as Model>::NAME, "City");
    /// ```
    const NAME: &'static str;

    /// The unquoted name of the table, with its schema if the attribute names one: `users` or `auth.users`.
    ///
    /// If the model has a field `table`, `User::TABLE` is the constant of that column; this constant is then
    /// `<User as Model>::TABLE`.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// assert_eq!(<City as Model>::TABLE, "city");
    /// ```
    const TABLE: &'static str;

    /// The names of the columns, in the order of the fields.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// assert_eq!(City::COLUMNS, ["id", "name"]);
    /// ```
    const COLUMNS: &'static [&'static str];

    #[doc(hidden)]
    const STATEMENTS: &'static Schema;

    /// Copies rows. `None` if the struct is not `Clone`.
    #[doc(hidden)]
    const COPY: Copier<Self>;

    /// The primary key of the row, or `None` if the database has not assigned it yet.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// assert_eq!(City { id: None, name: "Atlantis".into() }.pk(), None);
    /// assert_eq!(City { id: Some(7), name: "Ulm".into() }.pk(), Some(7));
    /// ```
    fn pk(&self) -> Option<Self::Pk>;

    #[doc(hidden)]
    fn __set_pk(&mut self, key: Option<Self::Pk>);

    /// The fields that a write can change, saved so that a failed write can restore them: key, version and automatic columns.
    #[doc(hidden)]
    type Kept: Send + Sync + 'static;

    #[doc(hidden)]
    fn __keep(&self) -> Self::Kept;

    #[doc(hidden)]
    fn __restore(&mut self, kept: Self::Kept);

    /// Sets the `auto_now` columns to `now`, and the `auto_now_add` columns too if the row is `added`.
    #[doc(hidden)]
    fn __stamp(&mut self, _now: SystemTime, _added: bool) {}

    #[doc(hidden)]
    fn __version(&self) -> Option<i64> {
        None
    }

    #[doc(hidden)]
    fn __advance(&mut self) {}

    #[doc(hidden)]
    fn __json(&self) -> Option<serde_json::Value>;

    #[doc(hidden)]
    fn __table() -> &'static ReceiverCache;

    /// Stores the row.
    ///
    /// If the key is `None`, the row is inserted. Otherwise the row with this key is updated; if there is none, the row is
    /// inserted. Afterwards the table has exactly one row with this key, even if other connections write it at the same time.
    ///
    /// The receivers of [`pre_save`](crate::pre_save) run before the statement, those of [`post_save`](crate::post_save) after
    /// it. Outside a transaction, `save` opens one around the statement and its receivers if a receiver needs it. The semantics
    /// of `save` and of its signals are
    /// [Django's](https://docs.djangoproject.com/en/stable/ref/models/instances/#saving-objects).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// #[derive(Model)]
    /// struct City { id: Option<i64>, name: String }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::connect("sqlite::memory:").await?;
    /// db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    ///
    /// let mut city = City { id: None, name: "Ulm".into() };
    /// assert!(city.save(&db).await?.created);
    /// city.name = "Bonn".into();
    /// assert!(!city.save(&db).await?.created);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Database`](crate::Error::Database) if the database refuses the statement.
    /// - [`Error::Receiver`](crate::Error::Receiver) if a receiver returns an error or panics.
    /// - [`Error::Stale`](crate::Error::Stale) if the model has a `version` field and the stored row has another version.
    /// - [`Error::CommitUnknown`](crate::Error::CommitUnknown) if the connection was lost after the statement or COMMIT was sent, and
    ///   before the database has answered. The row may be stored, and the instance is as if it were.
    ///
    /// If `save` fails with another error, nothing is stored, and the key, the version and the automatic columns of the instance
    /// have their previous values. Inside a caller's transaction, an error marks that transaction as failed: its commit returns
    /// [`Error::RolledBack`](crate::Error::RolledBack). To continue after an error, save in a savepoint (`tx.begin()`).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the statement is sent, nothing is stored. Once the statement is sent, the row may be
    /// stored; if it is, its `on_commit` receivers run on a separate task. Inside a caller's transaction, dropping the future
    /// marks that transaction as failed.
    fn save<E: Executor<Self>>(
        &mut self,
        db: E,
    ) -> impl Future<Output = Result<Saved<Self::Pk>>> + Send {
        async move {
            let stored = {
                let mut rows = TypedRows::<Self, E::Route>::one(self);
                save::one(rows.erased(), db.into_source(), WriteKind::Save).await?
            };
            Ok(write::saved(self, stored))
        }
    }

    /// Stores a new row with one INSERT.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// #[derive(Model)]
    /// struct Country { #[model(primary_key)] code: String, name: String }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let mut peru = Country { code: "PE".into(), name: "Peru".into() };
    /// peru.insert(&db).await?;
    /// assert!(peru.insert(&db).await.unwrap_err().is_unique_violation());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`save`](Model::save). If the key is already taken, the error is
    /// [`Error::Database`](crate::Error::Database), and its [`is_unique_violation`](crate::Error::is_unique_violation) returns
    /// `true`.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn insert<E: Executor<Self>>(
        &mut self,
        db: E,
    ) -> impl Future<Output = Result<Saved<Self::Pk>>> + Send {
        async move {
            let stored = {
                let mut rows = TypedRows::<Self, E::Route>::one(self);
                save::one(rows.erased(), db.into_source(), WriteKind::Insert).await?
            };
            Ok(write::saved(self, stored))
        }
    }

    /// Stores an existing row with one UPDATE.
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
    /// ulm.name = "Neu-Ulm".into();
    /// ulm.update(&db).await?;
    /// let mut atlantis = City { id: Some(77), name: "Atlantis".into() };
    /// assert!(atlantis.update(&db).await.unwrap_err().is_not_found());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`save`](Model::save), and [`Error::NotFound`](crate::Error::NotFound) if the table has no row with this key or the
    /// key is `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn update<E: Executor<Self>>(
        &mut self,
        db: E,
    ) -> impl Future<Output = Result<Saved<Self::Pk>>> + Send {
        async move {
            let stored = {
                let mut rows = TypedRows::<Self, E::Route>::one(self);
                save::one(rows.erased(), db.into_source(), WriteKind::Update).await?
            };
            Ok(write::saved(self, stored))
        }
    }

    /// Deletes the row, and returns whether it existed.
    ///
    /// Rows of other models that belong to this row (`belongs_to`) are deleted first or set to NULL, to any depth, in the same
    /// transaction. Afterwards, a key that the database assigns is `None`. If the key is `None` before the call, the call does
    /// nothing and returns `false`.
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
    /// assert!(ulm.delete(&db).await?);
    /// assert_eq!(ulm.id, None);
    /// assert!(!ulm.delete(&db).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - As [`save`](Model::save).
    /// - [`Error::Restricted`](crate::Error::Restricted) if the delete would leave behind a row whose model declares
    ///   `on_delete = restrict` and that belongs to a deleted row. Then no signal is sent and nothing is written.
    /// - [`Error::Database`](crate::Error::Database) with
    ///   [`is_foreign_key_violation`](crate::Error::is_foreign_key_violation) if another transaction adds a row that belongs to
    ///   a deleted row at the same time. Then everything is rolled back.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn delete<E: Executor<Self>>(&mut self, db: E) -> impl Future<Output = Result<bool>> + Send {
        async move { write::delete::<Self, E::Route>(self, db.into_source()).await }
    }

    /// Deletes the row with this key, and returns whether it existed.
    ///
    /// If the model has receivers of deletes, or rows of other models belong to it, the row is read and locked first, and the
    /// signals are sent as by [`delete`](Model::delete). Otherwise this is one DELETE.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let saved = City { id: None, name: "Ulm".into() }.save(&db).await?;
    /// assert!(City::delete_by_key(&db, saved.pk).await?);
    /// assert!(!City::delete_by_key(&db, saved.pk).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`delete`](Model::delete).
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn delete_by_key<E: Executor<Self>>(
        db: E,
        key: impl Key<Self::Pk>,
    ) -> impl Future<Output = Result<bool>> + Send {
        async move { change::delete_by_key::<Self, E::Route>(db.into_source(), key.into_key()).await }
    }

    /// Stores only these columns, the `auto_now` columns and the version, with one UPDATE.
    ///
    /// [`PreSave::fields`](crate::PreSave::fields) and [`PostSave::fields`](crate::PostSave::fields) name the columns. With an
    /// empty slice the call does nothing: it runs no SQL and sends no signal. The key in the result is `None` only for an empty
    /// slice and a row that is not stored yet.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String, mayor: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL, mayor TEXT NOT NULL)").await?;
    /// # let mut city = City { id: None, name: "Ulm".into(), mayor: "Ann".into() };
    /// # city.save(&db).await?;
    /// city.mayor = "Bob".into();
    /// city.save_fields(&db, &[City::MAYOR]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`update`](Model::update), and [`Error::Other`](crate::Error::Other) for a column that the program cannot set: a part
    /// of the key, or a `generated`, `auto_now_add` or `version` column.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn save_fields<E: Executor<Self>>(
        &mut self,
        db: E,
        fields: &[Column<Self>],
    ) -> impl Future<Output = Result<Saved<Option<Self::Pk>>>> + Send {
        async move { write::save_columns::<Self, E::Route>(self, db.into_source(), fields).await }
    }

    /// Updates the row that has the same values in the columns `unique`, or inserts this row if there is none.
    ///
    /// The table needs a unique index on exactly these columns. Afterwards, the instance has the key and the version of the
    /// stored row.
    ///
    /// Signals are sent as by [`save`](Model::save). The row is identified as by
    /// [`INSERT … ON CONFLICT`](https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT): even if several
    /// callers run at the same time, there is one row afterwards, and `created` is `true` for only one of them. The version is
    /// not compared. If one of these columns is NULL, the row is always inserted, because NULL conflicts with nothing.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct User { id: Option<i64>, email: String, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE user (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL)").await?;
    /// let mut ann = User { id: None, email: "ann@example.org".into(), name: "Ann".into() };
    /// assert!(ann.upsert(&db, &[User::EMAIL]).await?.created);
    /// let mut anna = User { id: None, email: "ann@example.org".into(), name: "Anna".into() };
    /// assert!(!anna.upsert(&db, &[User::EMAIL]).await?.created);
    /// assert_eq!(anna.id, ann.id);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`save`](Model::save), and the database's error if there is no such unique index.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn upsert<E: Executor<Self>>(
        &mut self,
        db: E,
        unique: &[Column<Self>],
    ) -> impl Future<Output = Result<Saved<Self::Pk>>> + Send {
        async move { write::upsert::<Self, E::Route>(self, db.into_source(), unique).await }
    }

    /// Returns the stored row that has the same values in the columns `unique`, or inserts `row` if there is none. The `bool`
    /// is `true` if the row was inserted.
    ///
    /// The table needs a unique index on exactly these columns.
    ///
    /// If the row exists, no save signal is sent. If another connection inserts it between the SELECT and the INSERT of this
    /// call, [`pre_save`](crate::pre_save) has already been sent, but [`post_save`](crate::post_save) is not sent.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct Tag { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE tag (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)").await?;
    /// let tag = || Tag { id: None, name: "rust".into() };
    /// let (first, created) = Tag::get_or_create(&db, tag(), &[Tag::NAME]).await?;
    /// let (again, created_again) = Tag::get_or_create(&db, tag(), &[Tag::NAME]).await?;
    /// assert_eq!((created, created_again, first.id), (true, false, again.id));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`upsert`](Model::upsert).
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn get_or_create<E: Executor<Self>>(
        db: E,
        row: Self,
        unique: &[Column<Self>],
    ) -> impl Future<Output = Result<(Self, bool)>> + Send {
        async move { write::get_or_create::<Self, E::Route>(row, db.into_source(), unique).await }
    }

    /// Inserts many rows in as few statements as the database allows, and returns how many. All rows are stored, or none;
    /// afterwards, each instance has its key.
    ///
    /// Rows that have a key are written first, then the rows without a key in the order of the slice. PostgreSQL receives the
    /// rows as arrays. SQLite receives rows of values, and so does PostgreSQL if a column's type has no array type.
    ///
    /// On PostgreSQL, `insert_many`, [`update_many`](Model::update_many) and [`delete_many`](Model::delete_many) write rows
    /// that have a key in the order of their keys, so that callers that write the same rows in different orders do not
    /// deadlock. Other unique columns do not influence this order.
    ///
    /// # Signals
    ///
    /// Every signal is sent as for single rows: [`pre_save`](crate::pre_save) for each row in the order of the slice, then the
    /// statements, then [`post_save`](crate::post_save) for each row in the order of the slice.
    /// [`post_save_batch`](crate::post_save_batch) is sent once for the rows of each statement. If some rows have a key and
    /// others do not, it is sent once for each run of rows that are adjacent in the slice and written by the same statement.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let mut cities: Vec<_> =
    ///     (1..=10_000).map(|n| City { id: None, name: format!("City {n}") }).collect();
    /// City::insert_many(&db, &mut cities).await?;
    /// assert!(cities.iter().all(|city| city.id.is_some()));
    ///
    /// cities.iter_mut().for_each(|city| city.name.push('!'));
    /// City::update_many(&db, &mut cities).await?;
    /// assert_eq!(City::delete_many(&db, &mut cities).await?, 10_000);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Row`](crate::Error::Row), which contains the index of the row in the slice and the error that
    /// [`insert`](Model::insert) would return. If the database refuses several rows, the error names the first of them in the
    /// order of writing. If `insert_many` fails, nothing is stored, and the instances have their previous values, except after
    /// [`Error::CommitUnknown`](crate::Error::CommitUnknown), as for [`save`](Model::save).
    ///
    /// The library searches for the refused row only after a failure. To be able to do so inside a transaction that has already
    /// run a statement, it writes the rows in a savepoint if there are several.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn insert_many<E: Executor<Self>>(
        db: E,
        rows: &mut [Self],
    ) -> impl Future<Output = Result<u64>> + Send {
        async move {
            write::save_many::<Self, E::Route>(rows, db.into_source(), WriteKind::Insert).await
        }
    }

    /// Updates many rows in as few statements as the database allows, and returns how many. Every signal is sent, as by
    /// [`insert_many`](Model::insert_many).
    ///
    /// See the example of [`insert_many`](Model::insert_many).
    ///
    /// # Errors
    ///
    /// [`Error::Row`](crate::Error::Row), which contains the index of the row in the slice and the error that
    /// [`update`](Model::update) would return. If one of the rows does not exist, none is updated. Two rows with the same key
    /// are [`Error::DuplicateKey`](crate::Error::DuplicateKey).
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn update_many<E: Executor<Self>>(
        db: E,
        rows: &mut [Self],
    ) -> impl Future<Output = Result<u64>> + Send {
        async move {
            write::save_many::<Self, E::Route>(rows, db.into_source(), WriteKind::Update).await
        }
    }

    /// Deletes many rows in as few statements as the database allows, and returns how many of them existed. Every signal is
    /// sent: [`pre_delete`](crate::pre_delete), [`post_delete`](crate::post_delete) and
    /// [`post_delete_batch`](crate::post_delete_batch), in the same order as by [`insert_many`](Model::insert_many). Rows
    /// without a key are skipped.
    ///
    /// See the example of [`insert_many`](Model::insert_many).
    ///
    /// # Errors
    ///
    /// As [`delete`](Model::delete).
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn delete_many<E: Executor<Self>>(
        db: E,
        rows: &mut [Self],
    ) -> impl Future<Output = Result<u64>> + Send {
        async move { write::delete_many::<Self, E::Route>(rows, db.into_source()).await }
    }

    /// Reloads the row from the database, by its key.
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
    /// db.execute("UPDATE city SET name = 'Neu-Ulm'").await?;
    /// ulm.refresh(&db).await?;
    /// assert_eq!(ulm.name, "Neu-Ulm");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound) if the row no longer exists or the key is `None`. If `refresh` fails, the
    /// instance is unchanged.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the instance is unchanged. The receivers of [`post_load`](crate::post_load) may have run or not.
    fn refresh<E: Executor<Self>>(&mut self, db: E) -> impl Future<Output = Result<()>> + Send {
        async move {
            let key = self.pk().ok_or_else(|| read::not_found::<Self>(None))?;
            let mut found = OneRow::<Self, E::Route>::default();
            found.by_key(db.into_source(), &key).await?;
            *self = found.row.ok_or_else(|| read::not_found::<Self>(Some(&key)))?;
            Ok(())
        }
    }

    /// Returns the row with this key.
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
    /// let city = City::get(&db, 1).await?;
    /// assert_eq!(city.name, "Ulm");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound) if there is none, and the errors of [`find`](Model::find).
    ///
    /// # Cancel safety
    ///
    /// The call only reads. If the future is dropped, the receivers of [`post_load`](crate::post_load) may have run or not.
    fn get<E: Executor<Self>>(
        db: E,
        key: impl Key<Self::Pk>,
    ) -> impl Future<Output = Result<Self>> + Send {
        async move {
            let (key, mut found) = (key.into_key(), OneRow::<Self, E::Route>::default());
            found.by_key(db.into_source(), &key).await?;
            found.row.ok_or_else(|| read::not_found::<Self>(Some(&key)))
        }
    }

    /// Returns the row with this key, or `None` if there is none.
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
    /// assert_eq!(City::find(&db, 1).await?.unwrap().name, "Ulm");
    /// assert!(City::find(&db, 7).await?.is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The database's error, or an error if the row cannot be decoded.
    ///
    /// # Cancel safety
    ///
    /// The call only reads. If the future is dropped, the receivers of [`post_load`](crate::post_load) may have run or not.
    fn find<E: Executor<Self>>(
        db: E,
        key: impl Key<Self::Pk>,
    ) -> impl Future<Output = Result<Option<Self>>> + Send {
        async move {
            let mut found = OneRow::<Self, E::Route>::default();
            found.by_key(db.into_source(), &key.into_key()).await?;
            Ok(found.row)
        }
    }

    /// Returns the rows with these keys, in the order of the keys, with one statement for up to 16,384 keys on PostgreSQL and
    /// for up to 32,766 on SQLite. A key that is given twice returns its row twice.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let ulm = City { id: None, name: "Ulm".into() }.save(&db).await?;
    /// let bonn = City { id: None, name: "Bonn".into() }.save(&db).await?;
    /// let cities = City::get_many(&db, &[bonn.pk, ulm.pk]).await?;
    /// assert_eq!((&*cities[0].name, &*cities[1].name), ("Bonn", "Ulm"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound) if there is no row for one of the keys, and the errors of
    /// [`find`](Model::find).
    fn get_many<E: Executor<Self>>(
        db: E,
        keys: &[Self::Pk],
    ) -> impl Future<Output = Result<Vec<Self>>> + Send {
        async move { lookup::get_many::<Self, E::Route>(db.into_source(), keys).await }
    }

    /// Returns every row, in no particular order. To sort the rows, use `query("ORDER BY …")`.
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
    /// assert_eq!(City::all(&db).await?.len(), 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The database's error, or an error if a row cannot be decoded.
    ///
    /// # Cancel safety
    ///
    /// The call only reads. If the future is dropped, the receivers of [`post_load`](crate::post_load) may have run or not.
    fn all<E: Executor<Self>>(db: E) -> impl Future<Output = Result<Vec<Self>>> + Send {
        async move { read::all::<Self, E::Route>(db.into_source()).await }
    }

    /// Compares the table with the model.
    ///
    /// The check finds:
    ///
    /// - a missing table or column
    /// - a column type that the field cannot be read from
    /// - a column that can be NULL although the field is not an `Option`
    /// - a column without a default that the model never writes
    /// - a key or a `#[model(unique)]` column without a unique index
    ///
    /// A finding ends with the SQL that would mend the table, if there is any: an `ALTER TABLE`, or on SQLite, which can alter
    /// little, a new table with the same rows. Read it before you put it into a migration. There is none if the type of a PostgreSQL
    /// column cannot be changed without a loss: change the type of the field instead.
    ///
    /// [`Db::check`](crate::Db::check) runs this check for every model of the program.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, title TEXT NOT NULL)").await?;
    /// let error = City::check_table(&db).await.unwrap_err().to_string();
    /// assert!(error.contains("`City` (table `city`): there is no column `name`"));
    /// assert!(error.contains("the column `title` has no default, and the model never writes it"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Check`](crate::Error::Check) with all findings.
    ///
    /// # Cancel safety
    ///
    /// The check only reads. If the future is dropped, nothing has changed.
    fn check_table<E: Executor<Self>>(db: E) -> impl Future<Output = Result<()>> + Send {
        async move { check::model::<Self, E::Route>(db.into_source()).await }
    }

    /// The `CREATE TABLE` statement of a table that [`check_table`](Model::check_table) accepts, as a starting point for a
    /// migration.
    ///
    /// It declares the columns with their types, `NOT NULL`, the key, `UNIQUE`, and a foreign key for each `belongs_to`. Of the
    /// defaults, it declares that of a key that the database assigns. A `#[model(generated)]` column has a comment where the
    /// expression of the column belongs, and so has a field that this database cannot store.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::DatabaseKind;
    /// # #[derive(Model)]
    /// # #[model(table = "cities")]
    /// # struct City { id: Option<i64>, name: String, mayor: Option<String> }
    /// assert_eq!(
    ///     City::create_table_sql(DatabaseKind::Sqlite),
    ///     r#"CREATE TABLE "cities" (
    ///     "id" INTEGER PRIMARY KEY,
    ///     "name" TEXT NOT NULL,
    ///     "mayor" TEXT
    /// )"#
    /// );
    /// ```
    fn create_table_sql(database: DatabaseKind) -> String {
        Ddl::new(database, ModelInfo::of::<Self>()).create_table()
    }

    /// Starts a query for rows by condition. The clause is the part of the SELECT after `FROM table`, with `$1`, `$2`, … for
    /// the values that are bound. An empty clause selects every row. A placeholder without a value is an error when the query runs.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let b = City::query("WHERE name LIKE $1 ORDER BY name").bind("B%").fetch_all(&db).await?;
    /// assert_eq!(City::query("WHERE name = $1").bind("Bonn").count(&db).await?, b.len() as i64);
    /// # Ok(()) }
    /// ```
    fn query<'q, R>(clause: impl sqlx::SqlSafeStr) -> Query<'q, Self, R> {
        Query::new(clause.into_sql_str())
    }
}

/// A primary key, passed by value or by reference. A `String` key can also be passed as a `&str`.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Key;
///
/// #[derive(Model)]
/// struct Country { #[model(primary_key)] code: String, name: String }
///
/// async fn name(db: &Db, code: impl Key<String>) -> Result<String> {
///     Ok(Country::get(db, code).await?.name)
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT NOT NULL)").await?;
/// # Country { code: "PE".into(), name: "Peru".into() }.save(&db).await?;
/// assert_eq!(name(&db, "PE").await?, name(&db, "PE".to_owned()).await?);
/// # Ok(()) }
/// ```
pub trait Key<Pk>: Send {
    #[doc(hidden)]
    fn into_key(self) -> Pk;
}

impl<Pk: Send> Key<Pk> for Pk {
    fn into_key(self) -> Pk {
        self
    }
}

impl<Pk: Clone + Send + Sync> Key<Pk> for &Pk {
    fn into_key(self) -> Pk {
        self.clone()
    }
}

impl Key<String> for &str {
    fn into_key(self) -> String {
        self.to_owned()
    }
}
