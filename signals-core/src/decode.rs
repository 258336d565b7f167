//! Where columns of a model are decoded: an error names the column, and a panic is an error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Panicked;
use crate::model::Model;

/// Decodes columns of a model, of which `decode` notes the one that it has reached.
///
/// Drivers panic at values that a field cannot hold, such as PostgreSQL's `infinity` in a `DateTime` of chrono. The
/// statement around it must be read to its end all the same, so a panic does not leave this function.
pub(crate) fn decoding<M: Model, T>(
    decode: impl FnOnce(&Cell<usize>) -> Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    let reached = Cell::new(0);
    caught(|| decode(&reached)).map_err(|error| named(error, M::NAME, M::COLUMNS, reached.get()))
}

/// Turns a panic of a driver or of a type into an error.
pub(crate) fn caught<T>(decode: impl FnOnce() -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    // Only what `decode` has made so far is lost, and nobody sees it again.
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|panic| Err(sqlx::Error::Decode(Panicked::new(panic).into())))
}

#[cold]
fn named(error: sqlx::Error, model: &str, columns: &[&str], column: usize) -> sqlx::Error {
    match (error, columns.get(column)) {
        (sqlx::Error::ColumnDecode { source, .. } | sqlx::Error::Decode(source), Some(column)) => {
            sqlx::Error::ColumnDecode { index: format!("`{column}` of `{model}`"), source }
        }
        (error, _) => error,
    }
}
