use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Runs `future`, and goes on with it on a task of its own where the caller drops it half-way. Dropped before it was
/// polled, it has not begun and never will.
pub(crate) fn finish<F>(future: F) -> Finish<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    Finish { future: Some(Box::pin(future)), runtime: None }
}

pub(crate) struct Finish<F: Future<Output: Send> + Send + 'static> {
    future: Option<Pin<Box<F>>>,
    /// Set by the first poll.
    runtime: Option<Handle>,
}

impl<F: Future<Output: Send> + Send + 'static> Future for Finish<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
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
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Finish<F> {
    fn drop(&mut self) {
        if let (Some(future), Some(runtime)) = (self.future.take(), &self.runtime) {
            runtime.spawn(future);
        }
    }
}
