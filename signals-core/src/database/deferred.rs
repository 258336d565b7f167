//! Work that is deferred until the end of a transaction: receivers and callbacks.

use futures_util::future::BoxFuture;

use crate::error::Error;
use crate::task::pool_id::PoolId;

/// Work that runs after the outermost transaction has ended.
pub(crate) trait Deferred: Send {
    /// Whether this is a callback of the program. Unlike receivers, callbacks are accepted in a transaction that was not begun
    /// through this library, and are rejected at its commit.
    fn is_callback(&self) -> bool {
        false
    }

    /// Runs the work. `holds` is a pool that the work must not use, because it would wait for a connection or a write lock that
    /// is not released before the work has ended.
    fn run(self: Box<Self>, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>>;
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Committed,
    RolledBack,
}

/// Runs all in order, even if some of them fail, and returns the errors.
pub(crate) fn run_all<I>(all: I, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>>
where
    I: IntoIterator<Item = Box<dyn Deferred>, IntoIter: Send + 'static>,
{
    let mut all = all.into_iter();
    match (all.next(), all.next()) {
        // Its future needs no other one around it.
        (Some(only), None) => only.run(end, holds),
        (first, second) => Box::pin(async move {
            let mut errors = Vec::new();
            for deferred in first.into_iter().chain(second).chain(all) {
                errors.extend(deferred.run(end, holds).await);
            }
            errors
        }),
    }
}
