//! Decodes the columns of a model, so that errors name the column and a panic of a decoder becomes an error.

use std::cell::Cell;

use sqlx::error::UnexpectedNullError;

use crate::database::decode::caught;
use crate::model::Model;
use crate::table::schema::{ColumnRole, ColumnSpec};

/// Runs `decode`, which stores the index of the column that it is decoding in the cell.
///
/// Drivers panic for values that a type cannot hold, such as PostgreSQL's `infinity` in a `DateTime` of chrono. The rest of
/// the statement's result must still be read, so the panic is caught here.
pub(crate) fn decoding<M: Model, T>(
    decode: impl FnOnce(&Cell<usize>) -> Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    let reached = Cell::new(0);
    caught(|| decode(&reached)).map_err(|error| {
        let assigned = |spec: &ColumnSpec| spec.role == ColumnRole::GeneratedKey;
        let is_assigned = M::STATEMENTS.columns.get(reached.get()).is_some_and(assigned);
        with_column_name(error, M::NAME, M::COLUMNS.get(reached.get()).copied(), is_assigned)
    })
}

#[cold]
fn with_column_name(
    error: sqlx::Error,
    model: &str,
    column: Option<&str>,
    is_assigned: bool,
) -> sqlx::Error {
    match (error, column) {
        (sqlx::Error::ColumnDecode { source, .. } | sqlx::Error::Decode(source), Some(column)) => {
            let source = match is_assigned && source.is::<UnexpectedNullError>() {
                true => NO_KEY.into(),
                false => source,
            };
            sqlx::Error::ColumnDecode { index: format!("`{column}` of `{model}`"), source }
        }
        (error, _) => error,
    }
}

const NO_KEY: &str = "the database has assigned no key; SQLite does so only to a column that is `INTEGER PRIMARY KEY`";
