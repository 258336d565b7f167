//! The error type of the library, and how it is printed.
//!
//! May import: nothing.

mod chain;
mod display;
pub(crate) mod driver;
pub(crate) mod key;
pub(crate) mod missing_state;
mod outcome;
mod predicates;
mod reason;
mod receiver;

use std::error::Error as StdError;
use std::panic::Location;
use std::time::Duration;

pub(crate) use display::CLOSURE;
pub use outcome::Outcome;
pub use reason::Reason;
pub(crate) use receiver::Panicked;
pub use receiver::ReceiverError;

/// A boxed error, such as a receiver may return.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// `Result` with [`Error`] as the default error type.
///
/// ```
/// use sqlx_signals::Result;
///
/// fn parse(number: &str) -> Result<i64> {
///     number.parse().map_err(sqlx_signals::Error::other)
/// }
/// assert_eq!(parse("7").unwrap(), 7);
/// assert!(parse("seven").is_err());
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a save, a transaction or a query.
///
/// The variants are grouped by who has to act. For conditions that a program branches on, there are predicates
/// ([`is_unique_violation`](Error::is_unique_violation), [`is_retryable`](Error::is_retryable), …). The predicates search
/// the whole chain of causes, including the errors of receivers, rows and rolled-back transactions. So does
/// [`find`](Error::find), which returns an error of the program's own type.
///
/// ```
/// use sqlx_signals::Error;
///
/// fn status(error: &Error) -> u16 {
///     match error {
///         e if e.is_not_found() => 404,
///         e if e.is_unique_violation() || e.is_stale() => 409,
///         e if e.is_retryable() => 503,
///         _ => 500,
///     }
/// }
/// assert_eq!(status(&Error::NotFound { model: "User", key: "7".into() }), 404);
/// ```
///
/// # How it prints
///
/// `{}` is one line for the person who made the request: the model, the operation that was rejected, and the message of the
/// cause. It contains no file and no Rust path, so it can be sent to a client of an API:
///
/// ```text
/// could not save `Order`: receiver `no_negative_totals`: total must not be negative
/// ```
///
/// `{:#}` is for the log: it adds the whole chain of causes, the paths of the receivers and their source locations.
///
/// ```text
/// could not save `Order`: receiver `shop::checks::no_negative_totals` of `pre_save` (src/checks.rs:12): total must not be negative
/// ```
///
/// `{}` already contains the message of the cause, which is also the [`source`](StdError::source). A reporter that prints the
/// chain of sources therefore repeats that message. If this error is wrapped in an `anyhow::Error` or an `eyre::Report`, print
/// the wrapper with `{}` rather than `{:#}`. For the long form, call `downcast_ref::<sqlx_signals::Error>()` and print the
/// result with `{:#}`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The database, the driver or the pool returned an error.
    Database(sqlx::Error),

    /// The database could not be connected to: the URL is wrong, or the database cannot be reached or refuses the connection. The
    /// message says what to do.
    CannotConnect {
        /// The database, without user and password.
        to: String,
        /// What to do about it.
        advice: String,
        /// The error of the driver.
        source: sqlx::Error,
    },

    /// The row does not exist.
    NotFound {
        /// The name of the model.
        model: &'static str,
        /// The key, formatted with `Debug`; for a query without a key, its condition.
        key: String,
    },

    /// The row has been written since it was read: the version of the instance is no longer the stored version. Nothing was
    /// written.
    Stale {
        /// The name of the model.
        model: &'static str,
        /// The key, formatted with `Debug`.
        key: String,
        /// The version of the instance.
        version: i64,
    },

    /// The row cannot be deleted, because a row of a model with `on_delete = restrict` refers to it and is not deleted by the
    /// same operation. No signal was sent and nothing was written.
    Restricted {
        /// The name of the model.
        model: &'static str,
        /// The key, formatted with `Debug`.
        key: String,
        /// The name of the other model.
        by: &'static str,
        /// The column of the other model that contains the key.
        column: &'static str,
        /// The number of rows of the other model that refer to the row and are not deleted; `None` if they were not counted.
        rows: Option<usize>,
    },

    /// Two of the rows of one bulk update have the same key. Nothing was written.
    DuplicateKey {
        /// The name of the model.
        model: &'static str,
        /// The key, formatted with `Debug`.
        key: String,
    },

    /// One row of a bulk write failed. None of the rows is stored. The `source()` is the error of that row.
    Row {
        /// The operation: `insert`, `update` or `delete`.
        verb: &'static str,
        /// The name of the model.
        model: &'static str,
        /// The index of the row, starting at 0.
        row: usize,
        /// The key, formatted with `Debug`.
        key: String,
        /// The error of the row.
        source: Box<Error>,
    },

    /// The database accepted the statement but stored no row, for example because a trigger, a rule or a policy discarded it.
    NotStored {
        /// The name of the model.
        model: &'static str,
    },

    /// A receiver returned an error or panicked. The receiver's own error is the `source()`, and [`find`](Error::find) returns
    /// it.
    Receiver(Box<ReceiverError>),

    /// The transaction was rolled back although `commit()` was called, because an earlier operation in it had failed.
    RolledBack {
        /// The operation that had failed. It dereferences to `str`. Its `source()` is the error of that operation, so that
        /// [`find`](Error::find) and the predicates find it.
        reason: Reason,
    },

    /// The database rejected a prepared statement inside a transaction, because a table has changed since the statement was
    /// prepared. The database has aborted the transaction: run it again, and the statement will be prepared anew. Outside a
    /// transaction, the library repeats the statement itself.
    SchemaChanged(sqlx::Error),

    /// The connection was lost during COMMIT, or during a write that commits itself because no transaction is open. The
    /// transaction or the write may or may not be stored. Neither the `on_commit` nor the `on_rollback` receivers have run.
    ///
    /// The instances have the keys, versions and automatic columns that they have if the write is stored, as far as these have
    /// arrived: the key of a new row that the database assigns may be missing. Read the row to find out whether it is stored.
    CommitUnknown(sqlx::Error),

    /// The model has `on_commit` or `on_rollback` receivers, but the save runs in a transaction that was begun with sqlx or with
    /// raw SQL. The library cannot observe the end of such a transaction.
    CommitNotObservable {
        /// The name of the model.
        model: &'static str,
        /// The name of one of the receivers that would not run.
        receiver: &'static str,
    },

    /// Raw SQL would begin or end a transaction or savepoint on a connection whose transactions this library tracks. The
    /// statement was not sent. Inside a transaction of this library, the transaction is marked as failed and can only be rolled
    /// back.
    TransactionControl {
        /// The first word of the statement.
        statement: &'static str,
        /// What to use instead.
        instead: &'static str,
    },

    /// Receivers trigger each other recursively, deeper than the limit.
    Recursion {
        /// The models and receivers, outermost first.
        chain: String,
        /// The limit, see [`Registry::set_recursion_limit`](crate::Registry::set_recursion_limit).
        limit: usize,
    },

    /// A receiver that runs inside the transaction used the pool whose connection its own save holds, or the closure of
    /// [`Db::transaction`](crate::Db::transaction) wrote to the same SQLite database through another connection. It would have
    /// waited for itself.
    WouldDeadlock {
        /// The name of the receiver, or "the closure of `Db::transaction`".
        receiver: &'static str,
        /// For a closure, the call of `Db::transaction`.
        site: Option<&'static Location<'static>>,
    },

    /// On SQLite, a write waited for its turn longer than the pool's `acquire_timeout`, because another write or transaction of this
    /// process was not finished. Nothing was written.
    WriteLockTimedOut {
        /// How long the write waited.
        waited: Duration,
        /// What the write waited for: `save`, `delete` or `send`, or `transaction` for a transaction of the program.
        verb: &'static str,
        /// The model or signal of that operation; empty for a transaction of the program.
        model: &'static str,
        /// How long that operation has had its turn.
        held_for: Duration,
        /// Where the program began the transaction, if that is known.
        caller: Option<&'static Location<'static>>,
    },

    /// In a [`testing::transaction`](crate::testing::transaction), an `on_commit` receiver or callback used the `Db` or pool of
    /// the transaction. The transaction is still open, and no other connection sees its rows.
    OnlyRehearsed {
        /// The name of the receiver, or "a callback of `on_commit`".
        receiver: &'static str,
    },

    /// The event of a write is too large to be stored for a durable receiver. Nothing was written.
    PayloadTooLarge {
        /// The name of the model or custom signal.
        model: &'static str,
        /// The name of the receiver.
        receiver: &'static str,
        /// The size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// A table of durable receivers does not exist, or is older than this version of the library needs. The message says what to run.
    DeliveriesNotSetUp {
        /// The version of the tables; 0 if they do not exist.
        found: i32,
        /// The version that this program needs.
        needed: i32,
    },

    /// The requested receiver is not linked into this program.
    NotLinked {
        /// The path of the receiver's type.
        receiver: &'static str,
    },

    /// The program does not fit its database, or a receiver cannot run: what [`Db::check`](crate::Db::check),
    /// [`Model::check_table`](crate::Model::check_table) or the start of a worker has found.
    Check {
        /// One sentence for each problem.
        findings: Vec<String>,
    },

    /// An error of the program's own, for example to abort [`Db::transaction`](crate::Db::transaction).
    Other(BoxError),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            // These two variants print the error that they wrap, so their source is that error's source.
            Self::Database(error) => error.source(),
            Self::Other(error) => error.source(),
            Self::Row { source, .. } => Some(&**source),
            Self::Receiver(failed) => failed.source(),
            Self::RolledBack { reason } => reason.source(),
            Self::CommitUnknown(source)
            | Self::SchemaChanged(source)
            | Self::CannotConnect { source, .. } => Some(source),
            _ => None,
        }
    }
}
