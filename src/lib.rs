#![doc = include_str!("../README.md")]
//!
//! # Items by purpose
//!
//! Most programs need only the [`prelude`].
//!
//! ## Start
//!
//! | item | purpose |
//! |---|---|
//! | [`Db`] | a database: connects, begins transactions, runs SQL |
//! | [`DbOptions`] | the number of connections, the timeout and other options of a [`Db`] |
//! | [`DatabaseKind`] | SQLite or PostgreSQL |
//! | [`Result`], [`Error`] | the result and error types of every call |
//! | [`prelude`] | imports what most programs need |
//! | [`sqlx`] | the version of sqlx that this crate uses |
//!
//! ## Models
//!
//! | item | purpose |
//! |---|---|
//! | [`#[derive(Model)]`](derive@Model) | maps a struct to a table |
//! | [`Model`](trait@Model) | saves, deletes and reads rows |
//! | [`Column`] | a column of a model, such as `User::EMAIL` |
//! | [`Query`] | a query that returns models, and updates and deletes by condition |
//! | [`BelongsTo`], [`Parents`] | from a row to the row that it belongs to, and back |
//! | [`Saved`] | the result of a save: the key, and whether the row is new |
//! | [`AutoNow`] | types of `auto_now` and `auto_now_add` columns |
//! | [`Version`] | types of `version` columns |
//!
//! ## Signals and receivers
//!
//! | item | purpose |
//! |---|---|
//! | [`#[receiver]`](receiver) | registers a function as a receiver of a signal |
//! | [`pre_save`], [`PreSave`] | sent before a row is saved; [`PreSave`] is its event |
//! | [`post_save`], [`PostSave`] | sent after a row was saved |
//! | [`pre_delete`], [`PreDelete`] | sent before a row is deleted |
//! | [`post_delete`], [`PostDelete`] | sent after a row was deleted |
//! | [`post_load`], [`PostLoad`] | sent after a row was read |
//! | [`post_save_batch`], [`PostSaveBatch`] | sent once for all rows that a statement has saved |
//! | [`post_delete_batch`], [`PostDeleteBatch`] | sent once for all rows that a statement has deleted |
//! | [`State`] | a receiver's parameter: a value that was passed to [`Db::with`] |
//! | [`Previous`] | a receiver's parameter: the row before the write |
//! | [`Parameter`] | lists everything that a receiver can take |
//! | [`AnyModel`] | a row of any model, for receivers of every model |
//! | [`#[derive(Signal)]`](derive@Signal), [`CustomSignal`] | signals that a program defines |
//! | [`without_signals`], [`muted`] | run a future without receivers, or without one of them |
//! | [`registry()`], [`Registry`] | all receivers of the program: lists, draws, enables and disables them |
//! | [`Receivers`], [`ReceiverInfo`] | the list of receivers, and one receiver in it |
//! | [`Handle`] | disconnects a receiver that was connected at run time |
//! | [`Context`] | gives a receiver that was connected at run time access to the connection and the state |
//!
//! ## Transactions and connections
//!
//! | item | purpose |
//! |---|---|
//! | [`Transaction`] | a transaction or a savepoint |
//! | [`Committed`] | the result of a commit, with the errors of its callbacks |
//! | [`Conn`] | a connection, as receivers take it |
//! | [`RawQuery`] | a query of raw SQL |
//! | [`Reason`] | why a transaction was rolled back |
//! | [`ReceiverError`] | which receiver failed, and why |
//!
//! With the feature `durable`, the module `durable` has the deliveries of durable receivers.
//!
//! With the feature `axum`, `sqlx_signals::axum::DbLayer` makes [`Db`] an argument of axum's handlers.
//!
//! ## Testing
//!
//! | item | purpose |
//! |---|---|
//! | [`testing::record`] | records the signals of a model |
//! | [`testing::record_signal`] | records a signal that the program defines |
//! | [`testing::transaction`] | runs `on_commit` receivers without storing anything |
//! | [`testing::assert_locked`] | compares the receivers of the program with a file |
//! | `testing::deliver` | runs durable receivers without a worker (feature `durable`) |
//! | `testing::worker_dies_at` | runs durable receivers in a simulated worker that is killed (feature `durable`) |
//!
//! ## Traits in signatures
//!
//! You rarely need to name these, except in your own generic functions.
//!
//! | item | purpose |
//! |---|---|
//! | [`Executor`] | arguments through which a model can be stored, such as `&Db` |
//! | [`Connects`] | arguments from which a connection can be obtained |
//! | [`Portable`] | models that every enabled database can store |
//! | [`Key`] | arguments that are the key of a model |
//! | [`Argument`], [`ArgumentList`] | values that can be bound to a query |
//! | [`Value`] | values that can be bound to a raw query |
//! | [`Row`] | types that a raw query can return |
//! | [`Signal`](trait@Signal) | a signal |
//! | [`Subject`] | what the rows of an event are: instances of one model, or of any model |
//! | [`Deferrable`] | signals whose receivers can run after the commit |
//! | [`Receiver`] | the type that names a receiver |
//! | [`Outcome`] | what a receiver or a callback can return |
//! | [`Phase`], [`phase`] | when a receiver runs, as a value and as types |
//! | [`TransactionClosure`], [`RepeatableClosure`] | the closure of [`Db::transaction`] and of [`Retry::transaction`] |
//! | [`TransactionOptions`], [`Isolation`] | how a transaction begins |
//! | [`Retry`] | runs a transaction again after a serialization failure or a deadlock |
#![warn(missing_docs)]

pub use sqlx_signals_core::{
    AnyModel, Argument, ArgumentList, AutoNow, BelongsTo, Column, Committed, Conn, Connects,
    Context, CustomSignal, DatabaseKind, Db, DbOptions, Deferrable, Error, Executor, Handle,
    Isolation, Key, Model, Outcome, Parameter, Parents, Phase, Portable, PostDelete,
    PostDeleteBatch, PostLoad, PostSave, PostSaveBatch, PreDelete, PreSave, Previous, Query,
    RawQuery, Reason, Receiver, ReceiverError, ReceiverInfo, Receivers, Registry,
    RepeatableClosure, Result, Retry, Row, Saved, Signal, State, Subject, Transaction,
    TransactionClosure, TransactionOptions, Value, Version, muted, phase, post_delete,
    post_delete_batch, post_load, post_save, post_save_batch, pre_delete, pre_save, registry, sqlx,
    testing, without_signals,
};

/// Maps a struct to a table by implementing [`Model`], and sqlx's `FromRow` for both databases.
///
/// | attribute | on | meaning |
/// |---|---|---|
/// | `table = "users"`, `table = "schema.users"` | struct | the table; by default the struct's name in snake_case |
/// | `rename_all = "camelCase"` | struct | derives column names from field names, in the cases of serde and sqlx |
/// | `publish = "shop.user"` | struct | a relay publishes the events of the model to other services (feature `durable`); needs serde |
/// | `crate = "path"` | struct | the path of `sqlx_signals`, if the dependency has another name or another crate re-exports it |
/// | `primary_key` | field | part of the key; by default the field `id` is the key |
/// | `column = "e_mail"` | field | the column's name; overrides `rename_all` |
/// | `skip` | field | not a column; `Default::default()` when a row is read |
/// | `json` | field | stored as JSON through serde (feature `json`) |
/// | `auto_now_add` | field | set to the current time by an INSERT, see [`AutoNow`] |
/// | `auto_now` | field | set to the current time by every write, see [`AutoNow`] |
/// | `generated` | field | computed by the database: never written, read back after every write |
/// | `version` | field | an optimistic lock, see [`Version`] and [`Error::Stale`] |
/// | `unique` | field | the column has a unique index; [`Model::check_table`] verifies it |
/// | `belongs_to = User` | field | the key of a `User`; needs `on_delete` |
/// | `on_delete = cascade` | field | the row is deleted with its `User` |
/// | `on_delete = restrict` | field | the `User` cannot be deleted |
/// | `on_delete = set_null` | field | the field becomes `None` when the `User` is deleted |
///
/// A column has at most one of `primary_key`, `json`, `generated`, `auto_now_add`, `auto_now` and `version`.
///
/// If the type of the key is written as `Option<T>`, the database assigns the key. The program must set any other key, and every
/// composite key.
///
/// A column with `belongs_to` also has a constant that leads to the parent and back, see [`BelongsTo`]: `OF_AUTHOR` for a field
/// `author` or `author_id`.
///
/// Each column is a constant of the struct in upper case, with the struct's visibility: `User::EMAIL` is a [`Column<User>`]. The
/// struct cannot have another constant of that name. The column of a field called `name`, `table`, `columns`, `statements` or `copy`
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
/// After a write, the instance contains the values that the database and the library have set. If the write fails, these fields have
/// their previous values:
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
/// `#[receiver(SIGNAL, sender = MODEL, …)]`. The signal is a path, such as [`post_save`]. The options follow in any order:
///
/// | option | meaning |
/// |---|---|
/// | `sender = User` | the model; by default every model, as [`AnyModel`] |
/// | `sender = [User, Order]` | several models, for a function that is generic over the model |
/// | `on_commit` | runs after the outermost transaction has committed; the model must be `Clone` |
/// | `on_commit(detached)` | the same on a task of its own: neither the caller nor other receivers wait for it, only [`Db::close`] does |
/// | `durable`, `durable(…)` | its event is stored with the write, and a worker runs it until it succeeds (feature `durable`), see the [guide](https://github.com/sqlx-signals/sqlx-signals/blob/main/docs/guide/src/durable.md) |
/// | `once_per_transaction` | with `on_commit` or `durable`: runs once for each row that the transaction has changed, with the net change |
/// | `on_rollback` | runs after the outermost transaction, or a savepoint around the write, was rolled back; the model must be `Clone` |
/// | `created` | only for new rows |
/// | `updated` | only for rows that existed before |
/// | `changed(email, name)` | runs only if the column of one of these fields has changed; in a new row, every column counts as changed |
/// | `order = -10` | lower numbers run first; then module path, file and line decide |
/// | `after = other::receiver` | runs after that receiver, or after several in brackets; [`Db::check`] reports an `after` that cannot be satisfied |
/// | `robust` | a failure is logged and does not fail the save; if the receiver takes the connection, it runs in a savepoint |
/// | `uid = "…"` | receivers of a signal and sender that share a `uid` are registered once |
/// | `crate = "path"` | the path of `sqlx_signals`, if the dependency has another name or another crate re-exports it |
///
/// Without `on_commit`, `on_rollback` or `durable`, a receiver runs as part of the save. If it takes the connection, it runs inside the
/// transaction of the save. A `durable` receiver that takes the connection runs inside the transaction that deletes its delivery.
///
/// The function is an `async fn` or a plain `fn`, and returns nothing or `Result<(), E>`. Its first parameter is the
/// event; [`Parameter`] lists what it can take after that. The save returns an error or a panic of a receiver as
/// [`Error::Receiver`]. An error or a panic of a receiver with `on_commit` or `on_rollback` is logged. If the program itself commits the
/// transaction, those of `on_commit` receivers are also returned in [`Committed::errors`], except for detached ones. An error or a panic of
/// a `durable` receiver is stored with its delivery, and the worker tries again later.
///
/// The macro leaves the function unchanged, so you can still call it directly. It also generates a type with the name of the function, for
/// use with [`Registry::get`] and [`Registry::require`].
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

/// Defines a signal by implementing [`CustomSignal`]. See that trait for an example.
///
/// | attribute | meaning |
/// |---|---|
/// | `publish = "shop.order_paid"` | a relay publishes the signal to other services (feature `durable`); needs serde |
/// | `subscribe = "shop.order_paid"` | the signal is received from another service (feature `durable`); needs serde; not together with `publish` |
/// | `crate = "path"` | the path of `sqlx_signals`, if the dependency has another name or another crate re-exports it |
pub use sqlx_signals_derive::Signal;

/// Integration with axum (feature `axum`): a [`Db`] as an argument of handlers.
#[cfg(feature = "axum")]
pub mod axum {
    pub use sqlx_signals_core::axum::{DbLayer, DbService, MissingDb};
}

#[cfg(feature = "durable")]
pub use sqlx_signals_core::durable;

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

    #[cfg(feature = "durable")]
    pub use crate::durable::Delivery;
}
