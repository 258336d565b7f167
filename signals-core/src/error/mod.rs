//! What can go wrong, and how it prints.
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

/// A boxed error, as a receiver may return it.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// `Result` with [`Error`] for its error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a save, a transaction or a query.
///
/// The variants tell who must act; what a program branches on has a predicate
/// ([`is_unique_violation`](Error::is_unique_violation), [`is_retryable`](Error::is_retryable), …). The predicates look
/// through the errors of receivers, of rows and of rolled-back transactions to what caused them, and so does
/// [`find`](Error::find), which returns the program's own error.
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
/// `{}` is one line for the person who made the request: the model, what was refused, and the message of the cause. It
/// contains no file and no Rust path, so that it can be sent to a client of an API:
///
/// ```text
/// could not save `Order`: receiver `no_negative_totals`: total must not be negative
/// ```
///
/// `{:#}` is for the log: it adds the whole chain of causes, the paths of the receivers and where they are in the source.
///
/// ```text
/// could not save `Order`: receiver `shop::checks::no_negative_totals` of `pre_save` (src/checks.rs:12): total must not be negative
/// ```
///
/// Because `{}` already has the message of the cause, which is the [`source`](StdError::source) too, a reporter that prints
/// the chain of sources repeats that message. Of an `anyhow::Error` or an `eyre::Report` around this error, print `{}`
/// rather than `{:#}`; for the long form, `downcast_ref::<sqlx_signals::Error>()` it and print that with `{:#}`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The database, the driver or the pool refused.
    Database(sqlx::Error),

    /// There is no such row.
    NotFound {
        /// The name of the model.
        model: &'static str,
        /// The key, as `Debug` writes it; or the condition that nothing fits.
        key: String,
    },

    /// The row was written by somebody else since it was read: its version is another. Nothing was written.
    Stale {
        /// The name of the model.
        model: &'static str,
        /// The key, as `Debug` writes it.
        key: String,
        /// The version that the instance has.
        version: i64,
    },

    /// The row cannot be deleted, because a row belongs to it whose model says `on_delete = restrict`, and that is not deleted
    /// by the same delete. Nothing was sent or written.
    Restricted {
        /// The name of the model.
        model: &'static str,
        /// The key, as `Debug` writes it.
        key: String,
        /// The name of the other model.
        by: &'static str,
        /// The column of the other model that has the key.
        column: &'static str,
        /// How many rows of the other model have the key and are not deleted; `None` if only one was looked for.
        rows: Option<usize>,
    },

    /// Of several rows that are updated together, two have the same key. Nothing was written.
    DuplicateKey {
        /// The name of the model.
        model: &'static str,
        /// The key, as `Debug` writes it.
        key: String,
    },

    /// One of several rows that are written together failed. Nothing of them is stored; why is the `source()`.
    Row {
        /// What was to be done with the rows: `insert`, `update` or `delete`.
        verb: &'static str,
        /// The name of the model.
        model: &'static str,
        /// Its place among the rows, from 0.
        row: usize,
        /// The key, as `Debug` writes it.
        key: String,
        /// Why.
        source: Box<Error>,
    },

    /// The database took the statement and stored nothing, as it does when a trigger or a policy swallows a row.
    NotStored {
        /// The name of the model.
        model: &'static str,
    },

    /// A receiver returned an error or panicked. Its own error is the `source()`, and [`find`](Error::find) returns it.
    Receiver(Box<ReceiverError>),

    /// The transaction was rolled back although `commit()` was called, because something in it had failed before.
    RolledBack {
        /// What had failed. It reads as a string; the error itself is its `source()`, so that [`find`](Error::find) and
        /// the predicates see it.
        reason: Reason,
    },

    /// A prepared statement was refused, because a table has changed since it was prepared, in a transaction, which the database
    /// has aborted. The statement is prepared again the next time: run the transaction again. Outside a transaction the
    /// library does so itself.
    SchemaChanged(sqlx::Error),

    /// The connection was lost while COMMIT was under way: the transaction may be stored or not. Neither the
    /// `on_commit` nor the `on_rollback` receivers have run.
    CommitUnknown(sqlx::Error),

    /// The model has `on_commit` or `on_rollback` receivers, and the save goes through a transaction of sqlx's own or one
    /// that was begun by raw SQL, whose end this library does not see.
    CommitNotObservable {
        /// The name of the model.
        model: &'static str,
        /// One of the receivers that would not have run.
        receiver: &'static str,
    },

    /// Raw SQL that begins or ends a transaction or savepoint where this library keeps count of them. It was not sent. Inside a
    /// transaction of this library, the transaction is marked: it can only be rolled back.
    TransactionControl {
        /// The first word of the statement.
        statement: &'static str,
        /// What to use in its place.
        instead: &'static str,
    },

    /// Receivers that save what makes them run again, deeper than the limit.
    Recursion {
        /// The models and receivers, outermost first.
        chain: String,
        /// The limit, see [`Registry::set_recursion_limit`](crate::Registry::set_recursion_limit).
        limit: usize,
    },

    /// An in-transaction receiver went to the pool whose connection its own save holds, and would have waited for
    /// itself.
    WouldDeadlock {
        /// The receiver.
        receiver: &'static str,
    },

    /// In a [`testing::transaction`](crate::testing::transaction), what waits for the commit used the `Db` or pool of the
    /// transaction, which is open, and whose rows no other connection sees.
    OnlyRehearsed {
        /// The receiver, or that it is a callback.
        receiver: &'static str,
    },

    /// A receiver was asked for that is not linked into this program.
    NotLinked {
        /// The path of the receiver's type.
        receiver: &'static str,
    },

    /// What [`Db::check`](crate::Db::check) found.
    Check {
        /// Each thing that was found, a sentence each.
        findings: Vec<String>,
    },

    /// An error of the program's own, to leave [`Db::transaction`](crate::Db::transaction) with.
    Other(BoxError),
}

/// Which receiver failed, where it is in the source, and why. It prints as [`Error`] does.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReceiverError {
    /// The receiver's path.
    pub receiver: &'static str,
    /// The signal's name.
    pub signal: &'static str,
    /// The model's name, or `every model`.
    pub sender: &'static str,
    /// The source file of the receiver.
    pub file: &'static str,
    /// The line in that file.
    pub line: u32,
    /// What the operation was: `save`, `delete`, `load` or `send`.
    pub verb: &'static str,
    /// The model whose row it was about, also for a receiver of every model; or the signal that was sent.
    pub model: &'static str,
    /// Whether the operation failed with the receiver. It did not if the receiver is `robust`, ran after the commit or the
    /// rollback, or ran after a statement that had committed by itself.
    pub refused: bool,
    /// What it returned or panicked with. It is shared with the transaction that it has marked, see
    /// [`Error::RolledBack`].
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
    /// An error of the program's own.
    ///
    /// ```
    /// # use sqlx_signals::Error;
    /// assert_eq!(Error::other("out of stock").to_string(), "out of stock");
    /// ```
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// The error of this type in the chain of causes, at any depth: what a receiver returned, also inside the errors of other
    /// receivers, of rows and of rolled-back transactions. The outermost, if there are several.
    ///
    /// An error that is wrapped with `#[error(transparent)]` hides itself from the chain, so that only what caused it is found.
    /// `anyhow::Error` hides the type of the error that it is made from; return that error itself.
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

    /// Whether a unique or primary key was already taken.
    pub fn is_unique_violation(&self) -> bool {
        self.any_database(DatabaseError::is_unique_violation)
    }

    /// Whether a foreign key was violated.
    pub fn is_foreign_key_violation(&self) -> bool {
        self.any_database(DatabaseError::is_foreign_key_violation)
    }

    /// Whether a check constraint was violated.
    pub fn is_check_violation(&self) -> bool {
        self.any_database(DatabaseError::is_check_violation)
    }

    /// Whether a row was not there: [`Error::NotFound`] or sqlx's `RowNotFound`.
    pub fn is_not_found(&self) -> bool {
        self.any(|e| matches!(e, Error::NotFound { .. }))
            || self.any_sqlx(|e| matches!(e, sqlx::Error::RowNotFound))
    }

    /// Whether the row was written by somebody else since it was read. Read it again before trying again.
    pub fn is_stale(&self) -> bool {
        self.any(|e| matches!(e, Error::Stale { .. }))
    }

    /// Whether a row was not deleted because another one belongs to it, as the model says. The database's own say is
    /// [`is_foreign_key_violation`](Self::is_foreign_key_violation).
    pub fn is_restricted(&self) -> bool {
        self.any(|e| matches!(e, Error::Restricted { .. }))
    }

    /// Whether receivers saved in a circle.
    pub fn is_recursion(&self) -> bool {
        self.any(|e| matches!(e, Error::Recursion { .. }))
    }

    /// Whether a receiver used the pool of its own transaction.
    pub fn is_use_the_receiver_connection(&self) -> bool {
        self.any(|e| matches!(e, Error::WouldDeadlock { .. }))
    }

    /// Whether the transaction was rolled back although its commit was asked for.
    pub fn is_rolled_back(&self) -> bool {
        self.any(|e| matches!(e, Error::RolledBack { .. }))
            || chain::of(self).any(|e| e.is::<Reason>())
    }

    /// Whether Postgres chose this transaction to end a deadlock (`40P01`). Another transaction that waits for this one is
    /// no deadlock on SQLite, which [`is_busy`](Self::is_busy).
    pub fn is_deadlock(&self) -> bool {
        self.any_code(|code| code == "40P01")
    }

    /// Whether the transaction read what another one has changed since: `40001` on Postgres, under the isolation levels
    /// REPEATABLE READ and SERIALIZABLE; `SQLITE_BUSY_SNAPSHOT` on SQLite, where a transaction that began with a read writes.
    pub fn is_serialization_failure(&self) -> bool {
        self.any_code(|code| matches!(code, "40001" | "517"))
    }

    /// Whether something was in use for longer than this program waits for it: the lock of SQLite (`SQLITE_BUSY`,
    /// `SQLITE_LOCKED`: "database is locked"), a lock with `lock_timeout` or `NOWAIT` (`55P03`) or a free connection
    /// (`53300`) on Postgres, or a connection of the pool ([`sqlx::Error::PoolTimedOut`]).
    pub fn is_busy(&self) -> bool {
        self.any_sqlx(|e| matches!(e, sqlx::Error::PoolTimedOut))
            || self.any_code(|code| match code {
                "55P03" | "53300" => true,
                // The extended codes of SQLite have the primary one in the lowest byte
                // (https://www.sqlite.org/rescode.html); the codes of Postgres have five characters.
                code if code.len() < 5 => {
                    code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 5 | 6))
                }
                _ => false,
            })
    }

    /// Whether a prepared statement was refused, because a table has changed since it was prepared
    /// ([`Error::SchemaChanged`]).
    pub fn is_schema_changed(&self) -> bool {
        self.any(|e| matches!(e, Error::SchemaChanged(_)))
            || self.database_error().is_some_and(driver::is_about_outdated)
    }

    /// Whether the whole transaction, run again from its beginning, may well succeed, and nothing of it is stored:
    /// [`is_deadlock`](Self::is_deadlock), [`is_serialization_failure`](Self::is_serialization_failure),
    /// [`is_busy`](Self::is_busy) or [`is_schema_changed`](Self::is_schema_changed). Never if the fate of a COMMIT is unknown
    /// ([`Error::CommitUnknown`]).
    ///
    /// An error in [`Committed::errors`](crate::Committed::errors) is about a transaction that is stored: do not run that
    /// one again.
    pub fn is_retryable(&self) -> bool {
        !self.any(|e| matches!(e, Error::CommitUnknown(_)))
            && (self.is_deadlock()
                || self.is_serialization_failure()
                || self.is_busy()
                || self.is_schema_changed())
    }

    /// The database's own error, where there is one.
    ///
    /// That of [`Error::RolledBack`] is a copy, with the message, the code, the kind, and the names of table and constraint.
    pub fn database_error(&self) -> Option<&(dyn DatabaseError + 'static)> {
        chain::of(self).find_map(chain::database)
    }

    /// The same error of a receiver whose operation is done all the same.
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

    /// Whether Postgres refused a statement because an earlier one of the transaction had failed, which is the cause.
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
    /// Whether the receiver returned what another receiver, inside of it, had returned.
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
            // These two print what they hold, and so have the source of that.
            Self::Database(error) => error.source(),
            Self::Other(error) => error.source(),
            Self::Row { source, .. } => Some(&**source),
            Self::Receiver(failed) => failed.source(),
            Self::RolledBack { reason } => reason.source(),
            Self::CommitUnknown(error) | Self::SchemaChanged(error) => Some(error),
            _ => None,
        }
    }
}

impl StdError for ReceiverError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
