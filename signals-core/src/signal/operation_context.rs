//! What every receiver of one operation has in common.

use std::sync::Arc;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::task::chain::Operation;
use crate::task::info::Info;

/// What every receiver of a write is told.
#[derive(Clone)]
pub(crate) struct OperationContext {
    pub(crate) db: Option<Db>,
    pub(crate) operation: Arc<Operation>,
}

impl OperationContext {
    /// # Errors
    ///
    /// [`Error::Recursion`] where the chain is as long as the limit.
    pub(crate) fn enter(verb: &'static str, of: &'static str, source: &Source<'_>) -> Result<Self> {
        let operation = Operation::enter(verb, of, source.pool_id())?;
        Ok(Self { db: source.db(), operation })
    }
}

/// # Errors
///
/// [`Error::CommitNotObservable`] where somebody waits for the end of a transaction that is sqlx's own.
pub(crate) async fn check_observable(
    model: &'static str,
    deferred: Option<&'static Info>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    match deferred {
        Some(info) if conn.in_foreign_transaction().await? => {
            Err(Error::CommitNotObservable { model, receiver: info.name })
        }
        _ => Ok(()),
    }
}
