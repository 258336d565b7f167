//! Callbacks that the program passes to `Transaction::on_commit` and `Transaction::on_rollback`.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::database::deferred::{Deferred, End};
use crate::error::{Error, Outcome, Panicked};
use crate::task::chain::PoolId;
use crate::transaction::Transaction;

impl Transaction<'_> {
    /// Runs `callback` after the outermost transaction has committed. Callbacks and `on_commit` receivers run in the order of
    /// the calls of `on_commit` and of the saves. If the transaction or savepoint is rolled back, the callback is discarded, as in
    /// [Django](https://docs.djangoproject.com/en/stable/topics/db/transactions/#performing-actions-after-commit).
    ///
    /// The callback returns nothing or a `Result<(), E>`. An error is logged, and returned in [`Committed::errors`](crate::Committed::errors).
    ///
    /// See the examples of [`Transaction`] and [`Committed`](crate::Committed).
    pub fn on_commit<F>(&mut self, callback: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.conn.state.defer(Box::new(Callback { callback, when: End::Committed }));
    }

    /// Runs `callback` after this transaction or savepoint, or an enclosing one, was rolled back.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// let mut tx = db.begin().await?;
    /// let file = std::env::temp_dir().join("upload");
    /// std::fs::write(&file, "…").unwrap();
    /// let uploaded = file.clone();
    /// tx.on_rollback(async move { std::fs::remove_file(uploaded) });
    /// tx.rollback().await?;
    /// assert!(!file.exists());
    /// # Ok(()) }
    /// ```
    pub fn on_rollback<F>(&mut self, callback: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.conn.state.defer(Box::new(Callback { callback, when: End::RolledBack }));
    }
}

/// A future that runs if the transaction ends in this way.
struct Callback<F> {
    callback: F,
    when: End,
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
