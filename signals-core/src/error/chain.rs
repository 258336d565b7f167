//! What an error was caused by, through everything that hides its cause from `source()`.

use std::error::Error as StdError;
use std::sync::Arc;

use sqlx::error::DatabaseError;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgDatabaseError;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteError;

use super::{Error, ReceiverError};

type Link<'e> = &'e (dyn StdError + 'static);

/// The error, then what caused it.
pub(super) fn of(error: &Error) -> impl Iterator<Item = Link<'_>> {
    from(error)
}

pub(super) fn from(error: Link<'_>) -> impl Iterator<Item = Link<'_>> {
    std::iter::successors(Some(error), |&e| next(e))
}

/// What caused an error. A variant that prints what it holds is not the source of itself, but what it holds is a link here.
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

/// The link as a `T`. A box or an `Arc` of an error is an error too, and its source is that of what it holds.
pub(super) fn downcast<T: StdError + 'static>(e: Link<'_>) -> Option<&T> {
    e.downcast_ref()
        .or_else(|| e.downcast_ref::<Box<T>>().map(|e| &**e))
        .or_else(|| e.downcast_ref::<Arc<T>>().map(|e| &**e))
}

/// The link as an error of the database: sqlx's error that holds one, or, where that is hidden by an error around it, the one
/// that it holds.
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
