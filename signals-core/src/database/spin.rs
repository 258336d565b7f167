//! Polls a statement for a short time before its task waits to be woken.
//!
//! sqlx executes the statements of a SQLite connection on a thread. A small statement takes a few microseconds there, but waking the thread
//! of the task that waits for it can take ten times as long. If other writers wait for the connection, each of them waits longer. So their
//! statements are polled first, as a contended mutex is.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// About the time that it takes to wake a thread twice. The other tasks of the thread wait meanwhile.
const LIMIT: Duration = Duration::from_micros(50);

/// Awaits `future`. If `spins`, it is polled for up to [`LIMIT`] first.
pub(super) fn spin<F: Future>(
    mut future: Pin<&mut F>,
    mut spins: bool,
) -> impl Future<Output = F::Output> {
    poll_fn(move |cx| {
        if std::mem::take(&mut spins)
            && let Poll::Ready(output) = poll_for(LIMIT, future.as_mut())
        {
            return Poll::Ready(output);
        }
        future.as_mut().poll(cx)
    })
}

fn poll_for<F: Future>(limit: Duration, mut future: Pin<&mut F>) -> Poll<F::Output> {
    let start = Instant::now();
    // No thread has to be woken.
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        let polled = future.as_mut().poll(&mut cx);
        if polled.is_ready() || start.elapsed() >= limit {
            return polled;
        }
        // The thread of the connection may have to run on this CPU.
        thread::yield_now();
    }
}
