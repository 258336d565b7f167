#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub use sqlx_signals_core::{
    AnyModel, AutoNow, Column, Committed, Conn, Connects, Context, CustomSignal, DatabaseKind, Db,
    DbOptions, Deferrable, Error, Executor, Handle, Key, Model, Outcome, Parameter, Phase,
    Portable, PostDelete, PostDeleteBatch, PostLoad, PostSave, PostSaveBatch, PreDelete, PreSave,
    Previous, Query, RawQuery, Reason, Receiver, ReceiverError, ReceiverInfo, Receivers, Registry,
    Result, Row, Saved, Signal, State, Transaction, TransactionClosure, Value, Version, muted,
    phase, post_delete, post_delete_batch, post_load, post_save, post_save_batch, pre_delete,
    pre_save, registry, sqlx, testing, without_signals,
};

/// Makes a struct a table's row: implements [`Model`], and sqlx's `FromRow` for both databases.
///
/// | attribute | on | meaning |
/// |---|---|---|
/// | `table = "users"`, `table = "schema.users"` | struct | the table; else the struct's name in snake_case |
/// | `rename_all = "camelCase"` | struct | columns from field names, in the cases of serde and sqlx |
/// | `crate = "path"` | struct | where `sqlx_signals` is, for a crate that re-exports it |
/// | `primary_key` | field | part of the key; without any, the field `id` is the key |
/// | `column = "e_mail"` | field | the column's name; wins over `rename_all` |
/// | `skip` | field | not a column; `Default::default()` on load |
/// | `json` | field | stored as JSON through serde (feature `json`) |
/// | `auto_now_add` / `auto_now` | field | set at the INSERT / at every write, see [`AutoNow`] |
/// | `generated` | field | computed by the database: never written, read back after every write |
/// | `version` | field | an optimistic lock, see [`Version`] and [`Error::Stale`] |
/// | `unique` | field | no two rows have the same; [`Model::check_table`] asks for the index |
/// | `belongs_to = User, on_delete = cascade` | field | the key of a `User`, with which the row is deleted; `restrict` keeps that from being deleted, `set_null` clears the field |
///
/// A column is one of `primary_key`, `json`, `generated`, `auto_now_add`, `auto_now` and `version`, or none of them.
///
/// A key that is written as `Option<T>` is given by the database; any other, and every composite key, by the program.
///
/// Each column is a constant of the struct, of its visibility, in upper case: `User::EMAIL`, a [`Column<User>`]. The struct
/// cannot have another constant of that name. The column of a field called `name`, `table`, `columns`, `statements` or `copy`
/// hides the constant of [`Model`] with that name: `User::NAME` is the column, and `<User as Model>::NAME` the name of the model.
///
/// ```
/// use sqlx_signals::prelude::*;
///
/// #[derive(Debug, Model)]
/// #[model(table = "users", rename_all = "camelCase")]
/// struct User {
///     id: Option<i64>,
///     full_name: String,
///     #[model(column = "e_mail")]
///     email: Option<String>,
///     #[model(skip)]
///     greeting: String,
/// }
///
/// assert_eq!(User::COLUMNS, ["id", "fullName", "e_mail"]);
/// assert_eq!(User::EMAIL.name(), "e_mail");
/// assert_eq!(<User as Model>::TABLE, "users");
/// ```
///
/// What the database and the library set is in the instance after the write, and as it was before where that fails:
///
/// ```
/// use sqlx_signals::prelude::*;
///
/// #[derive(Debug, Clone, Model)]
/// struct Page {
///     id: Option<i64>,
///     title: String,
///     #[model(generated)]
///     slug: String,
///     #[model(version)]
///     version: i32,
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// db.execute(
///     "CREATE TABLE page (id INTEGER PRIMARY KEY, title TEXT NOT NULL, version INTEGER NOT NULL,
///      slug TEXT GENERATED ALWAYS AS (lower(title)) STORED)",
/// )
/// .await?;
/// let mut mine = Page { id: None, title: "Ann".into(), slug: String::new(), version: 1 };
/// mine.save(&db).await?;
/// assert_eq!(mine.slug, "ann");
///
/// let mut theirs = mine.clone();
/// theirs.save(&db).await?;
/// assert_eq!(theirs.version, 2);
/// assert!(mine.save(&db).await.unwrap_err().is_stale());
/// # Ok(()) }
/// ```
pub use sqlx_signals_derive::Model;

/// Registers a function to run when a signal is sent.
///
/// `#[receiver(SIGNAL, sender = MODEL, …)]`. The signal is a path, such as [`post_save`]. Then, in any order:
///
/// | option | meaning |
/// |---|---|
/// | `sender = User` | the model; `[User, Order]` on a function that is generic over it; left out, every model, as [`AnyModel`] |
/// | `on_commit` / `on_rollback` | after the outermost transaction has committed / has rolled back; else in it. The model must be `Clone` |
/// | `created` / `updated` | only for rows that are new / only for those that are not |
/// | `changed(email, name)` | only where one of these fields' columns has changed; of a new row every column has |
/// | `order = -10` | the lower, the earlier; then by module path, file and line |
/// | `after = other::receiver` | behind that one, or those in brackets; [`Db::check`] finds an `after` that cannot hold |
/// | `robust` | its failure is logged and does not fail the save; with the connection, in a savepoint of its own |
/// | `uid = "…"` | two of one identity count once, for each signal and sender |
/// | `crate = "path"` | where `sqlx_signals` is, for a crate that re-exports it |
///
/// The function is an `async fn` or a plain `fn`, and returns nothing or `Result<(), E>`. Its first parameter is the
/// event; what it can take after that is in [`Parameter`]. An error or a panic of a receiver in the transaction is the
/// save's error, [`Error::Receiver`]; that of one after it is logged, and comes back in [`Committed::errors`].
///
/// The function stays as it is, and can be called. Beside it stands a type of the same name, for
/// [`Registry::get`] and [`Registry::require`].
///
/// ```
/// use sqlx_signals::prelude::*;
///
/// # #[derive(Model, Clone)] struct User { id: Option<i64>, name: String }
/// #[receiver(post_save, sender = User, created, on_commit)]
/// async fn welcome(saved: PostSave<'_, User>) {
///     println!("welcome, {}", saved.instance.name);
/// }
///
/// # fn main() -> Result<()> {
/// sqlx_signals::registry().require::<welcome>()
/// # }
/// ```
pub use sqlx_signals_derive::receiver;

/// Makes a type a signal of the program's own: implements [`CustomSignal`], whose page has an example.
///
/// `#[signal(crate = "path")]` says where `sqlx_signals` is, for a crate that re-exports it.
pub use sqlx_signals_derive::Signal;

#[doc(hidden)]
pub use sqlx_signals_core::private as __private;

/// What most programs need: `use sqlx_signals::prelude::*;`
pub mod prelude {
    pub use crate::{
        AnyModel, Conn, CustomSignal, Db, Executor, Model, Portable, PostDelete, PostDeleteBatch,
        PostLoad, PostSave, PostSaveBatch, PreDelete, PreSave, Previous, Result, Saved, Signal,
        State, Transaction, post_delete, post_delete_batch, post_load, post_save, post_save_batch,
        pre_delete, pre_save, receiver, registry,
    };
}
