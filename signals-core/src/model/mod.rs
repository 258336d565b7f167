//! The typed API: [`Model`], [`Query`](crate::Query) and [`Executor`](crate::Executor), as thin generic functions over the layers below.
//!
//! May import: `error`, `task`, `database`, `table`, `transaction`, `signal`, `write`.

pub(crate) mod any;
pub(crate) mod binds;
pub(crate) mod change;
pub(crate) mod check;
pub(crate) mod clause;
pub(crate) mod decode;
pub(crate) mod executor;
pub(crate) mod query;
pub(crate) mod read;
pub(crate) mod registered;
pub(crate) mod rows;
pub(crate) mod signals;
pub(crate) mod store;
pub(crate) mod write;

use std::fmt::Debug;
use std::time::SystemTime;

use crate::error::Result;
use crate::model::executor::Executor;
use crate::model::query::Query;
use crate::model::read::OneRow;
use crate::model::registered::Copier;
use crate::model::rows::TypedRows;
use crate::signal::receivers::ReceiverCache;
use crate::table::column::Column;
use crate::table::schema::Schema;
use crate::write::{SaveKind, Stored};
use crate::write::{Saved, save};

/// A struct that is a table's row: what `#[derive(Model)]` implements.
///
/// Every method takes anything that leads to a connection, see [`Executor`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a model",
    label = "not a model",
    note = "put `#[derive(Model)]` on `{Self}`"
)]
pub trait Model: Sized + Send + Sync + 'static {
    /// The key: the field's type (the `T` of an `Option<T>`), or a tuple of them for a composite key.
    type Pk: Clone + Debug + Send + Sync + 'static;

    /// The struct's name, as errors and logs print it. `<User as Model>::NAME` is this constant also if the model has a field
    /// `name`, whose column is then `User::NAME`.
    const NAME: &'static str;

    /// The table's name, unquoted; with a dot where the attribute names a schema. `<User as Model>::TABLE` is this constant also
    /// if the model has a field `table`.
    const TABLE: &'static str;

    /// The columns, in the order of the fields.
    const COLUMNS: &'static [&'static str];

    #[doc(hidden)]
    const STATEMENTS: &'static Schema;

    /// Copies rows, where the struct is `Clone`.
    #[doc(hidden)]
    const COPY: Copier<Self>;

    /// The key, where the row has one.
    fn pk(&self) -> Option<Self::Pk>;

    #[doc(hidden)]
    fn __set_pk(&mut self, key: Option<Self::Pk>);

    /// What a write can change in the instance: its key, its version, its automatic columns.
    #[doc(hidden)]
    type Kept: Send + Sync + 'static;

    #[doc(hidden)]
    fn __keep(&self) -> Self::Kept;

    #[doc(hidden)]
    fn __restore(&mut self, kept: Self::Kept);

    /// Sets the columns that are set at every write, and where it is `added`, those that are set then.
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

    /// Stores the row: INSERT where the key is `None`, else UPDATE, and INSERT where there was no such row. There is
    /// one row afterwards, whatever else runs at the same time.
    ///
    /// The receivers of [`pre_save`](crate::pre_save) run before, those of [`post_save`](crate::post_save) after the
    /// statement; a transaction is opened around them where there is none. The semantics of save and of its
    /// signals are [Django's](https://docs.djangoproject.com/en/stable/ref/models/instances/#saving-objects).
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
    /// What the database refuses ([`Error::Database`]), what a receiver returns ([`Error::Receiver`]). Nothing is
    /// stored then, and the instance has the key that it had before.
    ///
    /// # Cancel safety
    ///
    /// A dropped future stores nothing, unless the row was already on its way: its `on_commit` receivers then run on
    /// a task of their own. In a transaction of the caller, a dropped save marks it as failed.
    fn save<E: Executor<Self>>(&mut self, db: E) -> impl Future<Output = Result<Saved>> + Send {
        async move {
            let mut rows = TypedRows::<Self, E::Route>::one(self);
            save::one(rows.instances(), db.into_source(), SaveKind::Save).await.map(Stored::saved)
        }
    }

    /// Stores a new row with one INSERT.
    ///
    /// # Errors
    ///
    /// As [`save`](Model::save); a taken key is [`Error::Database`] with
    /// [`is_unique_violation`](Error::is_unique_violation).
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn insert<E: Executor<Self>>(&mut self, db: E) -> impl Future<Output = Result<Saved>> + Send {
        async move {
            let mut rows = TypedRows::<Self, E::Route>::one(self);
            save::one(rows.instances(), db.into_source(), SaveKind::Insert).await.map(Stored::saved)
        }
    }

    /// Stores the row with one UPDATE.
    ///
    /// # Errors
    ///
    /// As [`save`](Model::save); [`Error::NotFound`] where there is no such row, or the key is `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn update<E: Executor<Self>>(&mut self, db: E) -> impl Future<Output = Result<Saved>> + Send {
        async move {
            let mut rows = TypedRows::<Self, E::Route>::one(self);
            save::one(rows.instances(), db.into_source(), SaveKind::Update).await.map(Stored::saved)
        }
    }

    /// Deletes the row, and returns whether there was one. Rows of other models that belong to it (`belongs_to`) are deleted
    /// first or set to NULL, all of them in one transaction; a tree may have any depth. A key that the database gives is
    /// `None` afterwards; where it was `None` before, nothing happens at all.
    ///
    /// # Errors
    ///
    /// As [`save`](Model::save). [`Error::Restricted`] if a row belongs to this one, or to one that is deleted with it, whose
    /// model says `on_delete = restrict`, and that is not deleted itself: nothing is sent or written then. A row that another
    /// transaction adds meanwhile is an error of the database
    /// ([`is_foreign_key_violation`](Error::is_foreign_key_violation)), and everything is rolled back.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn delete<E: Executor<Self>>(&mut self, db: E) -> impl Future<Output = Result<bool>> + Send {
        async move { write::delete::<Self, E::Route>(self, db.into_source()).await }
    }

    /// Stores some columns of the row, with one UPDATE, and nothing else but `auto_now` columns and the version.
    /// [`PreSave::fields`](crate::PreSave::fields) and [`PostSave::fields`](crate::PostSave::fields) say which. Without any
    /// columns nothing happens at all.
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
    /// As [`update`](Model::update); [`Error::Other`] for a column of the key, or one that the database computes.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn save_fields<E: Executor<Self>>(
        &mut self,
        db: E,
        fields: &[Column<Self>],
    ) -> impl Future<Output = Result<Saved>> + Send {
        async move { write::save_columns::<Self, E::Route>(self, db.into_source(), fields).await }
    }

    /// Stores the row: UPDATE of the one that has the same in these columns, or INSERT where there is none. There must be
    /// a unique index of them. The instance has the stored row's key afterwards, and its version.
    ///
    /// Signals are sent as for a [`save`](Model::save). The row is found as by
    /// [`INSERT … ON CONFLICT`](https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT): whatever else runs at the
    /// same time, there is one row afterwards, and one who has created it. The version is not asked for. A row with NULL in
    /// one of these columns is a new one.
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
    /// As [`save`](Model::save); what the database says where there is no such unique index.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn upsert<E: Executor<Self>>(
        &mut self,
        db: E,
        unique: &[Column<Self>],
    ) -> impl Future<Output = Result<Saved>> + Send {
        async move { write::upsert::<Self, E::Route>(self, db.into_source(), unique).await }
    }

    /// The row that has the same in these columns, or else this one, inserted; and whether it was. There must be a unique
    /// index of them.
    ///
    /// Where the row is there, no signal is sent. Where somebody else inserts it between the look and the INSERT,
    /// [`pre_save`](crate::pre_save) was sent and nothing else.
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

    /// Inserts many rows, in as few statements as the database allows, and returns how many: arrays on PostgreSQL, rows of
    /// values on SQLite and for a model with a type that an array cannot have. Those that have a key are stored before those
    /// that have none, which are stored in the order of the slice; all or none; and each instance has its key afterwards.
    ///
    /// On PostgreSQL, rows that have a key are written in the order of their keys, here and in
    /// [`update_many`](Model::update_many) and [`delete_many`](Model::delete_many), so that callers that write the same rows in
    /// different orders do not deadlock. A unique column that is not the key has no part in that order.
    ///
    /// Every signal is sent as for single rows: [`pre_save`](crate::pre_save) of each in the order of the slice, the statements,
    /// [`post_save`](crate::post_save) of each in that order, and for the rows of a statement together
    /// [`post_save_batch`](crate::post_save_batch); where some of them have a key and some have none, for each run of rows that
    /// are side by side in the slice and in the statement.
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
    /// As [`insert`](Model::insert), in an [`Error::Row`] that names the row by its place in the slice. If the database refuses
    /// several rows, it is the first of them in the order in which they are written. Nothing is stored then, and the instances
    /// are as they were.
    ///
    /// The row is searched for only after a failure. In a transaction in which a statement was run before, several rows are
    /// written in a savepoint, so that they can be.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn insert_many<E: Executor<Self>>(
        db: E,
        rows: &mut [Self],
    ) -> impl Future<Output = Result<u64>> + Send {
        async move { write::save_many::<Self, E::Route>(rows, db.into_source(), SaveKind::Insert).await }
    }

    /// Updates many rows, in as few statements as the database allows, and returns how many; with every signal, as
    /// [`insert_many`](Model::insert_many).
    ///
    /// # Errors
    ///
    /// As [`update`](Model::update), in an [`Error::Row`]: where one is not there, none is updated. Two of the same key are
    /// [`Error::DuplicateKey`].
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    fn update_many<E: Executor<Self>>(
        db: E,
        rows: &mut [Self],
    ) -> impl Future<Output = Result<u64>> + Send {
        async move { write::save_many::<Self, E::Route>(rows, db.into_source(), SaveKind::Update).await }
    }

    /// Deletes many rows, in as few statements as the database allows, and returns how many of them were there; with every
    /// signal, as [`insert_many`](Model::insert_many).
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

    /// Reads the row again, by its key.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where the row is gone or the key is `None`; the instance is as it was.
    fn refresh<E: Executor<Self>>(&mut self, db: E) -> impl Future<Output = Result<()>> + Send {
        async move {
            let key = self.pk().ok_or_else(|| read::not_found::<Self>(None))?;
            let mut found = OneRow::<Self, E::Route>::default();
            found.by_key(db.into_source(), &key).await?;
            *self = found.row.ok_or_else(|| read::not_found::<Self>(Some(&key)))?;
            Ok(())
        }
    }

    /// The row with this key.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where there is none.
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

    /// The row with this key, if there is one.
    ///
    /// # Errors
    ///
    /// What the database refuses, and a row that does not decode.
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

    /// Every row, in the order in which the database gives them.
    ///
    /// # Errors
    ///
    /// What the database refuses, and a row that does not decode.
    fn all<E: Executor<Self>>(db: E) -> impl Future<Output = Result<Vec<Self>>> + Send {
        async move { read::all::<Self, E::Route>(db.into_source()).await }
    }

    /// Compares the table with the model: a missing table or column, a type that the field cannot be read from, a column that
    /// can be NULL and a field that is no `Option`, a column without default that the model never writes, a key or a
    /// column with `#[model(unique)]` that has no unique index. [`Db::check`](crate::Db::check) does so for every model.
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
    /// [`Error::Check`] with all that was found.
    fn check_table<E: Executor<Self>>(db: E) -> impl Future<Output = Result<()>> + Send {
        async move { check::model::<Self, E::Route>(db.into_source()).await }
    }

    /// Rows by what comes after `SELECT … FROM table`, with `$1`, `$2`, … for what is bound.
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
    fn query(clause: impl sqlx::SqlSafeStr) -> Query<Self, ()> {
        Query::new(clause.into_sql_str())
    }
}

/// A key by value or by reference, and a text key as `&str`.
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
