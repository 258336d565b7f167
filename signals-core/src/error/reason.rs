//! Why a transaction was rolled back, with a copy of the error that caused it.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use sqlx::error::{DatabaseError, ErrorKind};

use super::{Error, ReceiverError};

/// Why a transaction was rolled back: one line of text, and the error that caused it.
///
/// It dereferences to `str`. [`source`](StdError::source) is the error that made the transaction fail. The original error was
/// already returned to the program, so this is a copy; an error returned by a receiver is shared with the original (`Arc`).
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Error;
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// let mut tx = db.begin().await?;
/// assert!(tx.execute("INSERT INTO nowhere VALUES (1)").await.is_err());
/// let Err(Error::RolledBack { reason }) = tx.commit().await else { unreachable!() };
/// assert!(reason.contains("no such table: nowhere"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Reason(Arc<Inner>);

struct Inner {
    /// `operation` followed by the message of `cause`.
    text: String,
    operation: String,
    cause: Option<Error>,
    /// Whether another write is the cause, so that the same write may succeed if it runs again.
    is_of_another_write: bool,
}

impl Reason {
    /// An operation on a model failed.
    pub(crate) fn of(verb: &str, model: &str, error: &Error) -> Self {
        let is_named = match error {
            Error::Row { .. } => true,
            Error::Receiver(failed) => {
                failed.refused && (failed.verb, failed.model) == (verb, model)
            }
            _ => false,
        };
        match is_named {
            true => Self::new(String::new(), error.copied()),
            false => Self::new(format!("could not {verb} `{model}`: "), error.copied()),
        }
    }

    /// A statement failed.
    pub(crate) fn of_statement(error: &sqlx::Error) -> Self {
        Self::new("a statement failed: ".to_owned(), copied(error))
    }

    /// The transaction that the write shared with others was rolled back because of one of them.
    pub(crate) fn of_another_write() -> Self {
        let text = "the transaction that the write shared with others was rolled back";
        Self::of_text(text.to_owned(), true)
    }

    pub(super) fn is_of_another_write(&self) -> bool {
        self.0.is_of_another_write
    }

    fn new(operation: String, cause: Error) -> Self {
        let text = format!("{operation}{cause}");
        let cause = Some(cause);
        Self(Arc::new(Inner { text, operation, cause, is_of_another_write: false }))
    }

    fn of_text(text: String, is_of_another_write: bool) -> Self {
        let operation = text.clone();
        Self(Arc::new(Inner { text, operation, cause: None, is_of_another_write }))
    }

    /// The operation that failed, and its error.
    pub(super) fn parts(&self) -> (&str, Option<&Error>) {
        (&self.0.operation, self.0.cause.as_ref())
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::of_text(text, false)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Deref for Reason {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.text
    }
}

impl AsRef<str> for Reason {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq<str> for Reason {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Reason {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (operation, Some(cause)) if f.alternate() => write!(f, "{operation}{cause:#}"),
            _ => super::display::one_line(f, self),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl StdError for Reason {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_ref().map(|cause| cause as _)
    }
}

impl Error {
    /// A copy for the transaction that this error marks as failed. An error returned by a receiver is shared.
    pub(crate) fn copied(&self) -> Self {
        match self {
            Self::Database(error) => copied(error),
            Self::CannotConnect { to, advice, source } => match copied(source) {
                Self::Database(source) => {
                    Self::CannotConnect { to: to.clone(), advice: advice.clone(), source }
                }
                other => other,
            },
            Self::NotFound { model, key } => Self::NotFound { model, key: key.clone() },
            Self::Stale { model, key, version } => {
                Self::Stale { model, key: key.clone(), version: *version }
            }
            Self::Restricted { model, key, by, column, rows } => {
                Self::Restricted { model, key: key.clone(), by, column, rows: *rows }
            }
            Self::DuplicateKey { model, key } => Self::DuplicateKey { model, key: key.clone() },
            Self::Row { verb, model, row, key, source } => {
                let (key, source) = (key.clone(), Box::new(source.copied()));
                Self::Row { verb, model, row: *row, key, source }
            }
            Self::NotStored { model } => Self::NotStored { model },
            Self::Receiver(failed) => {
                let ReceiverError { source, .. } = &**failed;
                Self::Receiver(Box::new(ReceiverError { source: Arc::clone(source), ..**failed }))
            }
            Self::RolledBack { reason } => Self::RolledBack { reason: reason.clone() },
            // Errors of sqlx without a copy of their own kind become `Error::Other` with the same message.
            Self::SchemaChanged(error) => match copied(error) {
                Self::Database(error) => Self::SchemaChanged(error),
                other => other,
            },
            Self::CommitUnknown(error) => match copied(error) {
                Self::Database(error) => Self::CommitUnknown(error),
                other => other,
            },
            Self::CommitNotObservable { model, receiver } => {
                Self::CommitNotObservable { model, receiver }
            }
            Self::TransactionControl { statement, instead } => {
                Self::TransactionControl { statement, instead }
            }
            Self::Recursion { chain, limit } => {
                Self::Recursion { chain: chain.clone(), limit: *limit }
            }
            Self::WouldDeadlock { receiver, site } => Self::WouldDeadlock { receiver, site: *site },
            Self::WriteLockTimedOut { waited, verb, model, held_for, caller } => {
                let (waited, held_for, caller) = (*waited, *held_for, *caller);
                Self::WriteLockTimedOut { waited, verb, model, held_for, caller }
            }
            Self::OnlyRehearsed { receiver } => Self::OnlyRehearsed { receiver },
            Self::PayloadTooLarge { model, receiver, size, limit } => {
                Self::PayloadTooLarge { model, receiver, size: *size, limit: *limit }
            }
            Self::DeliveriesNotSetUp { found, needed } => {
                Self::DeliveriesNotSetUp { found: *found, needed: *needed }
            }
            Self::NotLinked { receiver } => Self::NotLinked { receiver },
            Self::Check { findings } => Self::Check { findings: findings.clone() },
            Self::Other(error) => Self::other(error.to_string()),
        }
    }
}

/// A copy of an error of sqlx. Everything that the predicates of [`Error`] look at is preserved.
fn copied(error: &sqlx::Error) -> Error {
    Error::Database(match error {
        sqlx::Error::Database(error) => sqlx::Error::Database(Box::new(Copied::of(&**error))),
        sqlx::Error::Io(error) => {
            sqlx::Error::Io(std::io::Error::new(error.kind(), error.to_string()))
        }
        sqlx::Error::RowNotFound => sqlx::Error::RowNotFound,
        sqlx::Error::PoolTimedOut => sqlx::Error::PoolTimedOut,
        sqlx::Error::PoolClosed => sqlx::Error::PoolClosed,
        sqlx::Error::WorkerCrashed => sqlx::Error::WorkerCrashed,
        error => return Error::other(error.to_string()),
    })
}

/// A copy of a database error.
#[derive(Debug)]
struct Copied {
    text: String,
    message: String,
    code: Option<String>,
    table: Option<String>,
    constraint: Option<String>,
    kind: ErrorKind,
}

impl Copied {
    fn of(error: &dyn DatabaseError) -> Self {
        Self {
            text: error.to_string(),
            message: error.message().to_owned(),
            code: error.code().map(Cow::into_owned),
            table: error.table().map(str::to_owned),
            constraint: error.constraint().map(str::to_owned),
            kind: error.kind(),
        }
    }
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Copied {}

impl DatabaseError for Copied {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.code.as_deref().map(Cow::Borrowed)
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    // `ErrorKind` is not `Clone`.
    fn kind(&self) -> ErrorKind {
        match self.kind {
            ErrorKind::UniqueViolation => ErrorKind::UniqueViolation,
            ErrorKind::ForeignKeyViolation => ErrorKind::ForeignKeyViolation,
            ErrorKind::NotNullViolation => ErrorKind::NotNullViolation,
            ErrorKind::CheckViolation => ErrorKind::CheckViolation,
            ErrorKind::ExclusionViolation => ErrorKind::ExclusionViolation,
            _ => ErrorKind::Other,
        }
    }
}
