//! Deletes one row by its key.

use super::ByCondition;
use crate::database::source::Source;
use crate::database::writer::{Verb, Writer};
use crate::error::Result;
use crate::model::Model;
use crate::model::binds::Values;
use crate::model::rows::TypedRows;
use crate::model::store::Route;
use crate::table::schema::ColumnGroup;
use crate::task::measure::Stopwatch;
use crate::write::{WriteKind, inspect};

/// Deletes the row with this key, and returns whether it existed.
pub(crate) async fn delete_by_key<M: Model, R: Route<M>>(
    source: Source<'_>,
    key: M::Pk,
) -> Result<bool> {
    let since = Stopwatch::start();
    let mut conn = source.acquire_to_write(Writer::of(Verb::Delete, M::NAME)).await?;
    let delete = ByCondition::<M>::Delete;
    let mut reads_rows = delete.has_receivers();
    let mut commits_itself = false;
    if !reads_rows {
        let mut none = TypedRows::<M, R>::new(&mut []);
        let rows = none.erased();
        reads_rows = !inspect::counts_rows(&mut conn, rows).await?;
        commits_itself = !reads_rows
            && (conn.in_transaction()
                || inspect::commits_itself(&mut conn, rows, &WriteKind::Delete).await?);
    }
    let model = M::STATEMENTS;
    let keys = model.group(ColumnGroup::Key).enumerate();
    let keys: Vec<_> =
        keys.map(|(part, column)| format!("{} = ${}", model.qualified(column), part + 1)).collect();
    let clause = format!("WHERE {}", keys.join(" AND "));
    let values = Values::of_key::<M, R>(key);
    let query = (clause.as_str(), values);
    Ok(delete.run_on::<R>(conn, query, reads_rows, commits_itself, since).await? > 0)
}
