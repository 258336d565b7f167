//! Turns panics during the decoding of a row into errors.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Panicked;

/// Runs `decode`, and turns a panic of the driver or of a decoded type into an error.
pub(crate) fn caught<T>(decode: impl FnOnce() -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    // Unwind safe: a panic drops all values that `decode` has created, so no broken state can be observed.
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|panic| Err(sqlx::Error::Decode(Panicked::new(panic).into())))
}
