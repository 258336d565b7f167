//! A panic while a row is decoded is an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Panicked;

/// Turns a panic of a driver or of a type into an error.
pub(crate) fn caught<T>(decode: impl FnOnce() -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    // Only what `decode` has made so far is lost, and nobody sees it again.
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|panic| Err(sqlx::Error::Decode(Panicked::new(panic).into())))
}
