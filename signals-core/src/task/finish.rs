//! Futures that continue on a task of their own if they are dropped half-way.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::task::pool_id::PoolId;
use crate::task::spawn;

/// Runs `future`, which works for `pool`. If the caller drops it half-way, it continues on a task of its own, and its error is logged.
/// If it is dropped before the first poll, nothing runs.
pub(crate) fn run_even_if_dropped<F>(pool: Option<PoolId>, future: Pin<Box<F>>) -> Finish<F>
where
    F: Future<Output: Detached> + Send + ?Sized + 'static,
{
    Finish { resumable: Resumable::new(future), pool }
}

pub(crate) struct Finish<F: Future<Output: Detached> + Send + ?Sized + 'static> {
    resumable: Resumable<F>,
    pool: Option<PoolId>,
}

impl<F: Future<Output: Detached> + Send + ?Sized + 'static> Future for Finish<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.resumable.poll(cx)
    }
}

impl<F: Future<Output: Detached> + Send + ?Sized + 'static> Drop for Finish<F> {
    fn drop(&mut self) {
        if let Some((future, runtime)) = self.resumable.take() {
            spawn::spawn(&runtime, self.pool, async move { future.await.log() });
        }
    }
}

/// The output of a future that continued after its caller had dropped it.
pub(crate) trait Detached: Send {
    /// Logs the error, because no caller receives it.
    fn log(self);
}

impl<T: Send> Detached for Result<T> {
    fn log(self) {
        if let Err(error) = self {
            tracing::error!(
                error = format_args!("{error:#}"),
                "the work of a dropped future continued and failed"
            );
        }
    }
}

/// Errors of callbacks. Each of them has already been logged.
impl Detached for Vec<Error> {
    fn log(self) {}
}

/// A result that the caller receives only after further work. If the caller's future is dropped before that, the error is logged.
pub(crate) struct Pending(Result<()>);

impl Pending {
    pub(crate) fn new(result: Result<()>) -> Self {
        Self(result)
    }

    pub(crate) fn take(mut self) -> Result<()> {
        std::mem::replace(&mut self.0, Ok(()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        std::mem::replace(&mut self.0, Ok(())).log();
    }
}

/// A future that can be moved to another task after it has been polled.
pub(crate) struct Resumable<F: ?Sized> {
    future: Option<Pin<Box<F>>>,
    /// The runtime of the first poll.
    runtime: Option<Handle>,
}

impl<F: Future + ?Sized> Resumable<F> {
    pub(crate) fn new(future: Pin<Box<F>>) -> Self {
        Self { future: Some(future), runtime: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.runtime.is_none() {
            self.runtime = Handle::try_current().ok();
        }
        // Taken out while it is polled, so that a future that panics is never polled again.
        let mut future = self.future.take().expect("polled after completion");
        let poll = future.as_mut().poll(cx);
        if poll.is_pending() {
            self.future = Some(future);
        }
        poll
    }

    /// The future and its runtime, if it was polled inside a runtime and is not complete.
    pub(crate) fn take(&mut self) -> Option<(Pin<Box<F>>, Handle)> {
        self.future.take().zip(self.runtime.take())
    }
}
