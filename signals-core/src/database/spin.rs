//! Polls a statement for a short time before its task waits to be woken.
//!
//! sqlx executes the statements of a SQLite connection on a thread. A small statement takes a few microseconds there, but waking the thread
//! of the task that waits for it can take ten times as long. Every writer that waits for the connection would wait for this, too.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// For how long a thread polls statements until it runs its other tasks. Waking a thread twice takes about as long.
const LIMIT: Duration = Duration::from_micros(100);

thread_local! {
    /// For how long this thread has polled statements since one of its tasks last waited.
    static POLLED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Call this if the task is not the one that has polled before.
pub(super) fn begin_task() {
    POLLED.set(Duration::ZERO);
}

/// Awaits `future`. If `spins`, it is polled first, until [`LIMIT`] is reached.
pub(super) fn spin<F: Future>(
    mut future: Pin<&mut F>,
    mut spins: bool,
) -> impl Future<Output = F::Output> {
    poll_fn(move |cx| {
        if std::mem::take(&mut spins)
            && let Poll::Ready(output) = poll_for_a_while(future.as_mut())
        {
            return Poll::Ready(output);
        }
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            POLLED.set(Duration::ZERO);
        }
        polled
    })
}

fn poll_for_a_while<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    let (start, before) = (Instant::now(), POLLED.get());
    // The loop polls again anyway, so the waker has nothing to do.
    let mut cx = Context::from_waker(Waker::noop());
    while POLLED.get() < LIMIT {
        let polled = future.as_mut().poll(&mut cx);
        POLLED.set(before + start.elapsed());
        if polled.is_ready() {
            return polled;
        }
        // The thread of the connection may have to run on this processor.
        thread::yield_now();
    }
    Poll::Pending
}
