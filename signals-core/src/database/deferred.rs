//! What waits for the end of a transaction.

use futures_util::future::BoxFuture;

use crate::error::Error;
use crate::task::chain::PoolId;

/// What waits for the end of the outermost transaction.
pub(crate) trait Deferred: Send {
    /// Whether it is a callback of the program, which nothing has refused so far.
    fn is_callback(&self) -> bool {
        false
    }

    /// `holds` is the pool that a callback would wait for in vain.
    fn run(self: Box<Self>, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Committed,
    RolledBack,
}

/// Runs all in order, each whatever became of the others.
pub(crate) async fn run_all(
    all: Vec<Box<dyn Deferred>>,
    end: End,
    holds: Option<PoolId>,
) -> Vec<Error> {
    let mut errors = Vec::new();
    for deferred in all {
        errors.extend(deferred.run(end, holds).await);
    }
    errors
}
