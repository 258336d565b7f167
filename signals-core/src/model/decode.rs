//! Columns of a model are decoded here, so that an error names the column and a panic is an error.

use std::cell::Cell;

use sqlx::error::UnexpectedNullError;

use crate::database::decode::caught;
use crate::model::Model;
use crate::table::schema::{ColumnRole, ColumnSpec};

/// Decodes columns of a model, of which `decode` notes the one that it has reached.
///
/// Drivers panic at values that a field cannot hold, such as PostgreSQL's `infinity` in a `DateTime` of chrono. The
/// statement around it must be read to its end all the same, so a panic does not leave this function.
pub(crate) fn decoding<M: Model, T>(
    decode: impl FnOnce(&Cell<usize>) -> Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    let reached = Cell::new(0);
    caught(|| decode(&reached)).map_err(|error| {
        let assigned = |spec: &ColumnSpec| spec.role == ColumnRole::GeneratedKey;
        let is_assigned = M::STATEMENTS.columns.get(reached.get()).is_some_and(assigned);
        named(error, M::NAME, M::COLUMNS.get(reached.get()).copied(), is_assigned)
    })
}

#[cold]
fn named(error: sqlx::Error, model: &str, column: Option<&str>, is_assigned: bool) -> sqlx::Error {
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
