//! The signals of a model and their events.

use std::fmt::Debug;

use super::{Deferrable, HasSender, Signal, Subject, TellsChange, TellsNetChange};
use crate::signal::entry::AnyEntry;
use crate::signal::rows::{AnyEventRows, EventRows};
use crate::table::any::AnyModel;
use crate::table::column::Column;

macro_rules! signal {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[allow(non_camel_case_types)]
        #[derive(Debug, Clone, Copy)]
        pub struct $name;
    };
}

signal! {
    /// Sent before a row is written.
    ///
    /// The receiver may change the instance, including its key. It may also veto the write by returning an error: the save returns
    /// [`Error::Receiver`](crate::Error::Receiver), and the row is not written. A bulk write runs the receivers of all rows before its
    /// first statement.
    ///
    /// Outside a transaction, the receivers run before any SQL is sent, unless one of them takes the connection: then a transaction is
    /// begun before they run.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct User { id: Option<i64>, email: String }
    /// #[receiver(pre_save, sender = User)]
    /// fn normalize(save: PreSave<'_, User>) -> Result<(), &'static str> {
    ///     save.instance.email = save.instance.email.to_lowercase();
    ///     if save.instance.email.contains('@') { Ok(()) } else { Err("not an address") }
    /// }
    /// ```
    pre_save
}
signal! {
    /// Sent after a row was written.
    ///
    /// By default, the receiver runs in the transaction of the write. If it returns an error or panics, the write is rolled back. With
    /// `on_commit` it runs after the outermost transaction has committed, and with `on_rollback` after the write was rolled back.
    ///
    /// [`PostSave::created`] says whether the row is new. The options `created`, `updated` and `changed(…)` of `#[receiver]` select
    /// the writes for which the receiver runs.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// /// Runs in the transaction of the save, on its connection.
    /// #[receiver(post_save, sender = User, created)]
    /// async fn log(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    ///     conn.query("INSERT INTO log VALUES ($1)").bind(saved.pk()).execute().await?;
    ///     Ok(())
    /// }
    ///
    /// /// Runs after the commit.
    /// #[receiver(post_save, sender = User, on_commit)]
    /// async fn greet(saved: PostSave<'_, User>) {
    ///     println!("welcome, {}", saved.instance.name);
    /// }
    /// ```
    post_save
}
signal! {
    /// Sent before a row is deleted.
    ///
    /// The receiver may veto the delete by returning an error: nothing is deleted then.
    ///
    /// No SQL is sent before the receivers run, unless rows of other models can belong to the row (`belongs_to`). These rows are read
    /// first, to find out what else is deleted and whether a `restrict` forbids it. The receivers of all rows that will be deleted run
    /// before the first write; those of a row run before those of the rows that belong to it.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct User { id: Option<i64>, admin: bool }
    /// #[receiver(pre_delete, sender = User)]
    /// fn keep_admins(delete: PreDelete<'_, User>) -> Result<(), &'static str> {
    ///     if delete.instance.admin { Err("an admin cannot be deleted") } else { Ok(()) }
    /// }
    /// ```
    pre_delete
}
signal! {
    /// Sent after a row was deleted. It is not sent if the row did not exist.
    ///
    /// The phases are those of [`post_save`]: in the transaction of the delete, with `on_commit`, or with `on_rollback`.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_delete, sender = User, on_commit)]
    /// fn farewell(deleted: PostDelete<'_, User>) {
    ///     println!("deleted {} with the key {}", deleted.instance.name, deleted.pk());
    /// }
    /// ```
    post_delete
}

signal! {
    /// Sent after a row was read by a call that returns rows of the model: `get`, `find`, `all`, `query`, `refresh`, `get_or_create`.
    ///
    /// The receiver may change the instance. The signal is not sent for rows of [`Db::query`](crate::Db::query), because they need
    /// not be rows of a model.
    ///
    /// The idea is [SQLAlchemy's](https://docs.sqlalchemy.org/en/20/orm/events.html#sqlalchemy.orm.InstanceEvents.load).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// #[derive(Model)]
    /// # #[model(table = "users")]
    /// struct User {
    ///     id: Option<i64>,
    ///     name: String,
    ///     #[model(skip)]
    ///     initials: String,
    /// }
    ///
    /// #[receiver(post_load, sender = User)]
    /// fn initials(load: PostLoad<'_, User>) {
    ///     load.instance.initials = load.instance.name.split(' ').filter_map(|n| n.chars().next()).collect();
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # User { id: None, name: "Ada Lovelace".into(), initials: String::new() }.save(&db).await?;
    /// assert_eq!(User::get(&db, 1).await?.initials, "AL");
    /// # Ok(()) }
    /// ```
    post_load
}
signal! {
    /// Sent after a statement has written rows, once for all rows of the statement.
    ///
    /// Use it for receivers that are expensive to call for each row, such as one that updates a search index. A save of one row
    /// sends it too, with a slice of one row, so one receiver handles single saves and bulk writes. It is sent after the
    /// [`post_save`] signals of the rows. The documentation of [`PostSaveBatch`] contains an audit log of every model.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_save_batch, sender = User, on_commit)]
    /// async fn index(saved: PostSaveBatch<'_, User>) {
    ///     println!("{} users to index", saved.instances.len());
    /// }
    /// ```
    post_save_batch
}
signal! {
    /// Sent after a statement has deleted rows, once for all rows of the statement.
    ///
    /// A delete of one row sends it too, with a slice of one row. It is sent after the [`post_delete`] signals of the rows.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_delete_batch, sender = User)]
    /// fn count(deleted: PostDeleteBatch<'_, User>) {
    ///     println!("{} users were deleted", deleted.instances.len());
    /// }
    /// ```
    post_delete_batch
}

/// The event of [`pre_save`]: a row is about to be written.
///
/// `PreSave<'_, User>` is the event for receivers of one model, `PreSave<'_, dyn AnyModel>` for receivers of every model. See
/// [`pre_save`] for an example.
#[derive(Debug)]
#[non_exhaustive]
pub struct PreSave<'e, M: ?Sized> {
    /// The row. The receiver may change it, including its key.
    pub instance: &'e mut M,
    /// The columns that will be written, or `None` if all of them are. What a receiver changes in other columns is not stored.
    pub fields: Option<&'e [Column<M>]>,
}

/// The event of [`post_save`]: a row was written.
///
/// `PostSave<'_, User>` is the event for receivers of one model, `PostSave<'_, dyn AnyModel>` for receivers of every model. See
/// [`post_save`] for an example.
#[derive(Debug)]
#[non_exhaustive]
pub struct PostSave<'e, M: ?Sized> {
    /// The row as it was written, including what the database has set: its key, version and generated columns.
    pub instance: &'e M,
    /// Whether the row is new: `true` after an INSERT, `false` after an UPDATE.
    pub created: bool,
    /// The columns that were written, or `None` if all of them were. In other columns, the instance has what the program has set, which may
    /// differ from the row.
    pub fields: Option<&'e [Column<M>]>,
}

/// The event of [`pre_delete`]: a row is about to be deleted. See [`pre_delete`] for an example.
#[derive(Debug)]
#[non_exhaustive]
pub struct PreDelete<'e, M: ?Sized> {
    /// The row.
    pub instance: &'e M,
}

/// The event of [`post_delete`]: a row was deleted. See [`post_delete`] for an example.
#[derive(Debug)]
#[non_exhaustive]
pub struct PostDelete<'e, M: ?Sized> {
    /// The deleted row. It still has its key.
    pub instance: &'e M,
}

/// The event of [`post_load`]: a row was read. See [`post_load`] for an example.
#[derive(Debug)]
#[non_exhaustive]
pub struct PostLoad<'e, M: ?Sized> {
    /// The row. The receiver may change it.
    pub instance: &'e mut M,
}

/// The event of [`post_save_batch`]: one statement has written rows.
///
/// A bulk write sends one event for each of its statements. At present, one statement writes up to 16,384 rows on PostgreSQL and up
/// to 1,000 rows on SQLite. It writes fewer rows if the model has very many columns, or columns that PostgreSQL does not accept as
/// arrays.
///
/// # An audit log of every model
///
/// A receiver without `sender` gets `PostSaveBatch<'_, dyn AnyModel>`: the rows of a statement, of any model. The receiver below
/// writes an audit entry for each row, with one `insert_many` per event and in the transaction of the write.
///
/// An `insert_many` of 10,000 rows sends this receiver all rows in one event on PostgreSQL, and in ten events on SQLite. A
/// receiver of [`post_save`] would run 10,000 times, and write each entry with a statement of its own.
///
/// ```standalone_crate
/// use sqlx_signals::prelude::*;
/// use sqlx_signals::without_signals;
///
/// #[derive(Model)]
/// #[model(table = "audit_log")]
/// struct AuditEntry {
///     id: Option<i64>,
///     table_name: String,
///     row_key: String,
///     created: bool,
/// }
///
/// #[receiver(post_save_batch)]
/// async fn audit(saved: PostSaveBatch<'_, dyn AnyModel>, conn: &mut Conn<'_>) -> Result<()> {
///     let rows = saved.instances.iter();
///     let mut entries: Vec<_> = rows
///         .map(|row| AuditEntry {
///             id: None,
///             table_name: row.table().to_owned(),
///             row_key: row.key().unwrap_or_default(),
///             created: saved.created,
///         })
///         .collect();
///     // Without signals: the entries are rows of a model too, and this receiver would run for them again.
///     without_signals(async { AuditEntry::insert_many(conn, &mut entries).await }).await?;
///     Ok(())
/// }
///
/// #[derive(Model)]
/// struct City {
///     id: Option<i64>,
///     name: String,
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
/// #     CREATE TABLE audit_log (id INTEGER PRIMARY KEY, table_name TEXT NOT NULL, row_key TEXT NOT NULL,
/// #         created BOOLEAN NOT NULL)").await?;
/// let mut cities: Vec<_> =
///     (1..=10_000).map(|n| City { id: None, name: format!("City {n}") }).collect();
/// City::insert_many(&db, &mut cities).await?;
/// assert_eq!(AuditEntry::query("").count(&db).await?, 10_000);
/// # Ok(()) }
/// ```
#[non_exhaustive]
pub struct PostSaveBatch<'e, M: ?Sized + Subject> {
    /// The rows as they were written, in the order in which the caller gave them.
    ///
    /// It is a `&[M]` for receivers of one model, and an `Arc<[&dyn AnyModel]>` for receivers of every model.
    pub instances: M::Slice<'e>,
    /// Whether the rows are new. One event contains either only new rows or only rows that existed.
    pub created: bool,
    /// The columns that were written, or `None` if all of them were.
    pub fields: Option<&'e [Column<M>]>,
}

/// The event of [`post_delete_batch`]: one statement has deleted rows.
///
/// A receiver without `sender` gets `PostDeleteBatch<'_, dyn AnyModel>`, with rows of any model. The documentation of
/// [`PostSaveBatch`] contains an example of such a receiver, and says how many rows one statement writes.
#[non_exhaustive]
pub struct PostDeleteBatch<'e, M: ?Sized + Subject> {
    /// The deleted rows, in the order in which the caller gave them. They still have their keys.
    ///
    /// It is a `&[M]` for receivers of one model, and an `Arc<[&dyn AnyModel]>` for receivers of every model.
    pub instances: M::Slice<'e>,
}

impl<M: ?Sized + Subject> Clone for PostSaveBatch<'_, M> {
    fn clone(&self) -> Self {
        Self { instances: self.instances.clone(), created: self.created, fields: self.fields }
    }
}

impl<M: ?Sized + Subject> Clone for PostDeleteBatch<'_, M> {
    fn clone(&self) -> Self {
        Self { instances: self.instances.clone() }
    }
}

macro_rules! copies {
    ($($event:ident),*) => { $(
        impl<M: ?Sized> Clone for $event<'_, M> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<M: ?Sized> Copy for $event<'_, M> {}
    )* };
}

copies!(PostSave, PreDelete, PostDelete);

/// Implements a signal. `$rows` is the method of [`EventRows`] and [`AnyEventRows`] that returns the parts of its event.
macro_rules! row_signal {
    ($signal:ident, $event:ident, $rows:ident, $parts:pat => $make:expr) => {
        impl Signal for $signal {
            const NAME: &'static str = stringify!($signal);
            type Event<'e, M: ?Sized + Subject + 'static> = $event<'e, M>;

            type AnySender = dyn AnyModel;
            type AnyEntry = AnyEntry<Self>;

            fn of<'e, M: Send + Sync + 'static>(rows: EventRows<'e, M>) -> $event<'e, M> {
                let $parts = rows.$rows();
                $make
            }

            fn of_any(rows: AnyEventRows<'_>) -> $event<'_, dyn AnyModel> {
                let $parts = rows.$rows();
                $make
            }
        }

        impl HasSender for $signal {}
    };
}

row_signal!(pre_save, PreSave, one_mut, (instance, fields) => PreSave { instance, fields });
row_signal!(post_save, PostSave, one, (instance, fields, created) => PostSave { instance, created, fields });
row_signal!(pre_delete, PreDelete, one, (instance, ..) => PreDelete { instance });
row_signal!(post_delete, PostDelete, one, (instance, ..) => PostDelete { instance });
row_signal!(post_load, PostLoad, one_mut, (instance, _) => PostLoad { instance });
row_signal!(post_save_batch, PostSaveBatch, all, (instances, fields, created) => PostSaveBatch { instances, created, fields });
row_signal!(post_delete_batch, PostDeleteBatch, all, (instances, ..) => PostDeleteBatch { instances });

impl Deferrable for post_save {}
impl Deferrable for post_delete {}
impl Deferrable for post_save_batch {}
impl Deferrable for post_delete_batch {}

impl TellsChange for post_save {}

impl TellsNetChange for post_save {}
impl TellsNetChange for post_delete {}
