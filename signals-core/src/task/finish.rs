use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::task::spawn;

/// Runs `future`, and goes on with it on a task of its own where the caller drops it half-way. Dropped before it was
/// polled, it has not begun and never will.
///
/// An error that nobody waits for is logged.
pub(crate) fn finish<F>(future: F) -> Finish<F>
where
    F: Future<Output: Detached> + Send + 'static,
{
    Finish { begun: Resumable::new(Box::pin(future)) }
}

pub(crate) struct Finish<F: Future<Output: Detached> + Send + 'static> {
    begun: Resumable<F>,
}

impl<F: Future<Output: Detached> + Send + 'static> Future for Finish<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.begun.poll(cx)
    }
}

impl<F: Future<Output: Detached> + Send + 'static> Drop for Finish<F> {
    fn drop(&mut self) {
        if let Some((future, runtime)) = self.begun.leave() {
            spawn::spawn(&runtime, async move { future.await.log() });
        }
    }
}

/// What comes of a future that goes on although its caller is gone.
pub(crate) trait Detached: Send {
    /// Logs the error that nobody else sees.
    fn log(self);
}

impl<T: Send> Detached for Result<T> {
    fn log(self) {
        if let Err(error) = self {
            tracing::error!(
                error = format_args!("{error:#}"),
                "the work that a dropped future left behind failed"
            );
        }
    }
}

/// What callbacks returned. Each is in the log by now.
impl Detached for Vec<Error> {
    fn log(self) {}
}

/// A result that the caller gets after something else is done. If the caller is gone by then, its error is logged.
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

/// A future that another task can go on with.
pub(crate) struct Resumable<F: ?Sized> {
    future: Option<Pin<Box<F>>>,
    /// Set by the first poll.
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
        // Out while it is polled: a future that panics is not polled again.
        let mut future = self.future.take().expect("polled after it was done");
        let poll = future.as_mut().poll(cx);
        if poll.is_pending() {
            self.future = Some(future);
        }
        poll
    }

    /// The future, where it has begun and is not done, and where it can go on.
    pub(crate) fn leave(&mut self) -> Option<(Pin<Box<F>>, Handle)> {
        self.future.take().zip(self.runtime.take())
    }
}
