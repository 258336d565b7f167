//! Callbacks that the program passes to `Transaction::on_commit` and `Transaction::on_rollback`.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::database::deferred::{Deferred, End};
use crate::error::{Error, Outcome, Panicked};
use crate::task::pool_id::PoolId;

/// A future that runs if the transaction ends in this way.
pub(super) struct Callback<F> {
    pub(super) callback: F,
    pub(super) when: End,
}

impl<F> Deferred for Callback<F>
where
    F: Future<Output: Outcome> + Send + 'static,
{
    fn is_callback(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, end: End, _: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        if self.when != end {
            return Box::pin(async { Vec::new() });
        }
        Box::pin(async move {
            let result = AssertUnwindSafe(self.callback).catch_unwind().await;
            let error = match result {
                Ok(outcome) => outcome.into_result().err().map(Error::Other),
                Err(payload) => Some(Error::other(Panicked::new(payload))),
            };
            if let Some(error) = &error {
                tracing::error!(
                    error = format_args!("{error:#}"),
                    "a callback failed after its transaction had ended"
                );
            }
            error.into_iter().collect()
        })
    }
}
