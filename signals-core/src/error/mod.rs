//! The error type of the library, and how it is printed.
//!
//! May import: nothing.

mod chain;
mod display;
pub(crate) mod driver;
pub(crate) mod key;
pub(crate) mod missing_state;
mod outcome;
mod reason;

use std::error::Error as StdError;
use std::sync::Arc;

use sqlx::error::DatabaseError;

pub use outcome::Outcome;
pub use reason::Reason;

/// A boxed error, such as a receiver may return.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// `Result` with [`Error`] as the default error type.
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

    /// The connection was lost during COMMIT, so the transaction may or may not be stored. Neither the `on_commit` nor the
    /// `on_rollback` receivers have run.
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

    /// A receiver that runs inside the transaction used the pool whose connection its own save holds. It would have waited for
    /// itself.
    WouldDeadlock {
        /// The name of the receiver.
        receiver: &'static str,
    },

    /// In a [`testing::transaction`](crate::testing::transaction), an `on_commit` receiver or callback used the `Db` or pool of
    /// the transaction. The transaction is still open, and no other connection sees its rows.
    OnlyRehearsed {
        /// The name of the receiver, or "a callback of `on_commit`".
        receiver: &'static str,
    },

    /// The requested receiver is not linked into this program.
    NotLinked {
        /// The path of the receiver's type.
        receiver: &'static str,
    },

    /// [`Db::check`](crate::Db::check) found problems.
    Check {
        /// One sentence for each problem.
        findings: Vec<String>,
    },

    /// An error of the program's own, for example to abort [`Db::transaction`](crate::Db::transaction).
    Other(BoxError),
}

/// Which receiver failed, its source location, and its error. It is printed like [`Error`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ReceiverError {
    /// The path of the receiver.
    pub receiver: &'static str,
    /// The name of the signal.
    pub signal: &'static str,
    /// The name of the model, or `every model`.
    pub sender: &'static str,
    /// The source file of the receiver.
    pub file: &'static str,
    /// The line in that file.
    pub line: u32,
    /// The operation: `save`, `delete`, `load` or `send`.
    pub verb: &'static str,
    /// The model of the row, also for a receiver of every model. For `send`, the signal that was sent.
    pub model: &'static str,
    /// Whether the receiver's error made the operation fail. This is `false` if the receiver is `robust`, or if it ran after the
    /// commit, after the rollback, or after a statement that committed by itself (autocommit).
    pub refused: bool,
    /// The error that the receiver returned, or the message of its panic. It is shared with the transaction that it marked as
    /// failed, see [`Error::RolledBack`].
    pub source: Arc<dyn StdError + Send + Sync>,
}

/// The message of a panic, as the source of an [`Error::Receiver`].
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(pub(crate) String);

impl Panicked {
    pub(crate) fn new(payload: Box<dyn std::any::Any + Send>) -> Self {
        let message = match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => match payload.downcast::<&'static str>() {
                Ok(message) => (*message).to_owned(),
                Err(_) => "a value that is not a string".to_owned(),
            },
        };
        Self(message)
    }
}

impl Error {
    /// Creates an error of the program's own ([`Error::Other`]).
    ///
    /// ```
    /// # use sqlx_signals::Error;
    /// assert_eq!(Error::other("out of stock").to_string(), "out of stock");
    /// ```
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Finds an error of type `T` in the chain of causes, at any depth: for example an error that a receiver returned, also
    /// inside the errors of other receivers, of rows and of rolled-back transactions. If there are several, the outermost one
    /// is returned.
    ///
    /// An error that is wrapped with `#[error(transparent)]` is not part of the chain, so only its causes are found. An
    /// `anyhow::Error` hides the type of the error that it is created from. Return the error itself instead.
    ///
    /// ```
    /// use sqlx_signals::prelude::*;
    ///
    /// #[derive(Debug, PartialEq)]
    /// struct OutOfStock(i64);
    /// # impl std::fmt::Display for OutOfStock {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    /// #         write!(f, "{} items are missing", self.0)
    /// #     }
    /// # }
    /// # impl std::error::Error for OutOfStock {}
    ///
    /// #[derive(Model)]
    /// struct Item { id: Option<i64>, stock: i64 }
    ///
    /// #[receiver(pre_save, sender = Item)]
    /// fn check_stock(save: PreSave<'_, Item>) -> Result<(), OutOfStock> {
    ///     if save.instance.stock < 0 { Err(OutOfStock(-save.instance.stock)) } else { Ok(()) }
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::connect("sqlite::memory:").await?;
    /// let error = Item { id: None, stock: -3 }.save(&db).await.unwrap_err();
    /// assert_eq!(error.find::<OutOfStock>(), Some(&OutOfStock(3)));
    /// assert_eq!(error.to_string(), "could not save `Item`: receiver `check_stock`: 3 items are missing");
    /// # Ok(()) }
    /// ```
    pub fn find<T: StdError + 'static>(&self) -> Option<&T> {
        chain::of(self).find_map(chain::downcast)
    }

    /// Whether a unique or primary key constraint was violated.
    pub fn is_unique_violation(&self) -> bool {
        self.any_database(DatabaseError::is_unique_violation)
    }

    /// Whether a foreign key constraint was violated.
    pub fn is_foreign_key_violation(&self) -> bool {
        self.any_database(DatabaseError::is_foreign_key_violation)
    }

    /// Whether a check constraint was violated.
    pub fn is_check_violation(&self) -> bool {
        self.any_database(DatabaseError::is_check_violation)
    }

    /// Whether a row does not exist: [`Error::NotFound`] or sqlx's `RowNotFound`.
    pub fn is_not_found(&self) -> bool {
        self.any(|e| matches!(e, Error::NotFound { .. }))
            || self.any_sqlx(|e| matches!(e, sqlx::Error::RowNotFound))
    }

    /// Whether the row has been written since it was read ([`Error::Stale`]). Read the row again before retrying.
    pub fn is_stale(&self) -> bool {
        self.any(|e| matches!(e, Error::Stale { .. }))
    }

    /// Whether a row was not deleted because a row of a model with `on_delete = restrict` refers to it
    /// ([`Error::Restricted`]). If the database itself rejects the delete, the error is a
    /// [`is_foreign_key_violation`](Self::is_foreign_key_violation).
    pub fn is_restricted(&self) -> bool {
        self.any(|e| matches!(e, Error::Restricted { .. }))
    }

    /// Whether receivers triggered each other recursively, deeper than the limit.
    pub fn is_recursion(&self) -> bool {
        self.any(|e| matches!(e, Error::Recursion { .. }))
    }

    /// Whether a receiver used the pool whose connection its own transaction holds.
    pub fn is_use_the_receiver_connection(&self) -> bool {
        self.any(|e| matches!(e, Error::WouldDeadlock { .. }))
    }

    /// Whether the transaction was rolled back although `commit()` was called ([`Error::RolledBack`]).
    pub fn is_rolled_back(&self) -> bool {
        self.any(|e| matches!(e, Error::RolledBack { .. }))
            || chain::of(self).any(|e| e.is::<Reason>())
    }

    /// Whether Postgres aborted this transaction to resolve a deadlock (`40P01`). On SQLite, the same
    /// situation is an error for which [`is_busy`](Self::is_busy) is true.
    pub fn is_deadlock(&self) -> bool {
        self.any_code(|code| code == "40P01")
    }

    /// Whether the transaction read data that another transaction has changed since: `40001` on Postgres, at the isolation levels
    /// REPEATABLE READ and SERIALIZABLE; `SQLITE_BUSY_SNAPSHOT` on SQLite, if a transaction that began with a read writes.
    pub fn is_serialization_failure(&self) -> bool {
        self.any_code(|code| matches!(code, "40001" | "517"))
    }

    /// Whether a lock or a connection was not available in time: the lock of a SQLite database (`SQLITE_BUSY`,
    /// `SQLITE_LOCKED`: "database is locked"), a Postgres lock with `lock_timeout` or `NOWAIT` (`55P03`), a server connection
    /// (`53300`), or a connection of the pool ([`sqlx::Error::PoolTimedOut`]).
    pub fn is_busy(&self) -> bool {
        self.any_sqlx(|e| matches!(e, sqlx::Error::PoolTimedOut))
            || self.any_code(|code| match code {
                "55P03" | "53300" => true,
                // The lowest byte of an extended SQLite code is the primary code
                // (https://www.sqlite.org/rescode.html); the codes of Postgres have five characters.
                code if code.len() < 5 => {
                    code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 5 | 6))
                }
                _ => false,
            })
    }

    /// Whether the database rejected a prepared statement because a table has changed since it was prepared
    /// ([`Error::SchemaChanged`]).
    pub fn is_schema_changed(&self) -> bool {
        self.any(|e| matches!(e, Error::SchemaChanged(_)))
            || self.database_error().is_some_and(driver::is_about_outdated)
    }

    /// Whether nothing is stored, and the whole transaction may succeed if it is run again from the beginning:
    /// [`is_deadlock`](Self::is_deadlock), [`is_serialization_failure`](Self::is_serialization_failure),
    /// [`is_busy`](Self::is_busy) or [`is_schema_changed`](Self::is_schema_changed). Always `false` if the outcome of a COMMIT is
    /// unknown ([`Error::CommitUnknown`]).
    ///
    /// An error in [`Committed::errors`](crate::Committed::errors) belongs to a transaction that is already stored: do not run
    /// that transaction again.
    pub fn is_retryable(&self) -> bool {
        !self.any(|e| matches!(e, Error::CommitUnknown(_)))
            && (self.is_deadlock()
                || self.is_serialization_failure()
                || self.is_busy()
                || self.is_schema_changed())
    }

    /// The error of the database, if there is one in the chain of causes.
    ///
    /// In an [`Error::RolledBack`], it is a copy with the message, the code, the kind, and the names of the table and the
    /// constraint.
    pub fn database_error(&self) -> Option<&(dyn DatabaseError + 'static)> {
        chain::of(self).find_map(chain::database)
    }

    /// The same error with [`refused: false`](ReceiverError::refused): the receiver failed, but the operation succeeded.
    pub(crate) fn not_refused(mut self) -> Self {
        match &mut self {
            Self::Receiver(failed) => failed.refused = false,
            Self::Row { source, .. } => {
                if let Self::Receiver(failed) = &mut **source {
                    failed.refused = false;
                }
            }
            _ => {}
        }
        self
    }

    /// Whether Postgres rejected the statement only because an earlier statement of the transaction had failed.
    pub(crate) fn is_in_failed_transaction(&self) -> bool {
        self.any_code(|code| code == "25P02")
    }

    fn any(&self, test: impl Fn(&Error) -> bool) -> bool {
        chain::of(self).filter_map(chain::downcast).any(test)
    }

    fn any_sqlx(&self, test: impl Fn(&sqlx::Error) -> bool) -> bool {
        chain::of(self).filter_map(chain::downcast).any(test)
    }

    fn any_database(&self, test: impl Fn(&(dyn DatabaseError + 'static)) -> bool) -> bool {
        chain::of(self).filter_map(chain::database).any(test)
    }

    fn any_code(&self, test: impl Fn(&str) -> bool) -> bool {
        self.any_database(|e| e.code().is_some_and(|code| test(&code)))
    }
}

impl ReceiverError {
    /// Whether the receiver returned the error of another receiver that it had triggered.
    pub(crate) fn is_passed_on(&self) -> bool {
        chain::from(&*self.source).any(|e| e.is::<ReceiverError>())
    }
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

impl StdError for ReceiverError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
