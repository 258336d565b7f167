//! The operation and the `Db` that all receivers of one write or send share.

use std::sync::Arc;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::task::chain::Operation;
use crate::task::info::Info;
use crate::task::pool_id::PoolId;

/// The `Db` and the operation of a write or send, for its receivers.
#[derive(Clone)]
pub(crate) struct OperationContext {
    pub(crate) db: Option<Db>,
    /// Whether `db` is that of the connection, and not the one of the process.
    pub(crate) has_own_db: bool,
    pub(crate) operation: Arc<Operation>,
}

impl OperationContext {
    /// Begins an operation: `verb` and `of` are what recursion errors print, such as `save` and the name of the model.
    ///
    /// # Errors
    ///
    /// [`Error::Recursion`] if the chain of operations is longer than the limit.
    pub(crate) fn enter(verb: &'static str, of: &'static str, source: &Source<'_>) -> Result<Self> {
        let (pool, db) = (source.pool_id(), db_of(source));
        let has_own_db = pool.is_some();
        let queue = db.as_ref().and_then(Db::queue_id);
        Ok(Self { operation: Operation::enter(verb, of, pool, queue)?, db, has_own_db })
    }

    /// The pool for which the receivers work.
    pub(crate) fn pool(&self) -> Option<PoolId> {
        self.db.as_ref().map(Db::pool_id)
    }

    /// The context of receivers that run after the transaction has ended.
    pub(crate) fn afterwards(mut self, holds: Option<PoolId>) -> Self {
        self.operation.end_transaction(holds);
        self
    }
}

/// The `Db` for the receivers. What does not go through a `Db` of the program uses the one of the process.
fn db_of(source: &Source<'_>) -> Option<Db> {
    match source.db() {
        Some(mut db) if db.is_for_one_call() => {
            if let Some(default) = Db::default_of(db.kind()) {
                db.state = default.state;
            }
            Some(db)
        }
        None => Db::default_of(source.kind()),
        db => db,
    }
}

/// Checks that the end of the transaction can be observed, if a receiver waits for it.
///
/// # Errors
///
/// [`Error::CommitNotObservable`] if `deferred` is a receiver and the connection is in a transaction that was begun with sqlx.
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
