//! Walks the chain of causes of an error, including the causes that `source()` skips.

use std::error::Error as StdError;
use std::sync::Arc;

use sqlx::error::DatabaseError;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgDatabaseError;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteError;

use super::{Error, ReceiverError};

type Link<'e> = &'e (dyn StdError + 'static);

/// The error itself, followed by its causes.
pub(super) fn of(error: &Error) -> impl Iterator<Item = Link<'_>> {
    from(error)
}

pub(super) fn from(error: Link<'_>) -> impl Iterator<Item = Link<'_>> {
    std::iter::successors(Some(error), |&e| next(e))
}

/// The next link of the chain. A variant such as `Error::Database` prints the error that it wraps, so its `source()` skips that
/// error; here the wrapped error is a link of its own.
pub(super) fn next(e: Link<'_>) -> Option<Link<'_>> {
    match downcast::<Error>(e) {
        Some(Error::Database(inner)) => Some(inner),
        Some(Error::Other(inner)) => Some(&**inner),
        Some(Error::Receiver(failed)) => Some(&**failed),
        Some(Error::RolledBack { reason }) => Some(reason),
        Some(error) => error.source(),
        None => match downcast::<ReceiverError>(e) {
            Some(failed) => Some(&*failed.source),
            None => e.source(),
        },
    }
}

/// Downcasts a link to `T`, also through a `Box<T>` or an `Arc<T>`: both implement `Error`, so the
/// link may be one of them.
pub(super) fn downcast<T: StdError + 'static>(e: Link<'_>) -> Option<&T> {
    e.downcast_ref()
        .or_else(|| e.downcast_ref::<Box<T>>().map(|e| &**e))
        .or_else(|| e.downcast_ref::<Arc<T>>().map(|e| &**e))
}

/// The link as a database error: the database error in a `sqlx::Error`, or the link itself if it is a database error that is not
/// inside a `sqlx::Error`.
pub(super) fn database(e: Link<'_>) -> Option<&(dyn DatabaseError + 'static)> {
    if let Some(error) = downcast::<sqlx::Error>(e) {
        return error.as_database_error();
    }
    if let Some(error) = e.downcast_ref::<Box<dyn DatabaseError>>() {
        return Some(&**error);
    }
    #[cfg(feature = "sqlite")]
    if let Some(error) = downcast::<SqliteError>(e) {
        return Some(error);
    }
    #[cfg(feature = "postgres")]
    if let Some(error) = downcast::<PgDatabaseError>(e) {
        return Some(error);
    }
    None
}
