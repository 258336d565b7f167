//! The runtimes in which connections are used and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{self, Handle};

/// The runtimes in which a pool is used. A connection is bound to the I/O driver of the runtime that opened it, which may be
/// gone; if there are several runtimes, each connection is pinged before it is used, as sqlx's pool does.
pub(crate) struct Runtimes {
    first: Option<runtime::Id>,
    several: AtomicBool,
}

impl Runtimes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { first: here(), several: AtomicBool::new(false) })
    }

    /// Whether this runtime is not the only one.
    pub(crate) fn are_several(&self) -> bool {
        if !self.several.load(Ordering::Relaxed) && here() != self.first {
            self.several.store(true, Ordering::Relaxed);
        }
        self.several.load(Ordering::Relaxed)
    }
}

/// How many pings show that a connection works. The answer to one may be read although the runtime of the connection is gone,
/// if it is there at once; that of the next is waited for.
pub(crate) fn pings(are_several: bool) -> usize {
    if are_several { 2 } else { 1 }
}

fn here() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

/// Runs `work` in the current runtime; outside any, in `runtime`. What it spawns on a runtime that is gone is dropped at once.
pub(crate) fn in_runtime(runtime: Option<Handle>, work: impl FnOnce() + Send + 'static) {
    let Err(error) = Handle::try_current() else { return work() };
    let Some(runtime) = runtime else { return work() };
    if error.is_thread_local_destroyed() {
        // The thread is about to end and cannot enter a runtime any more.
        let work = move || {
            let _entered = runtime.enter();
            work();
        };
        let _ = std::thread::Builder::new().spawn(work);
    } else {
        let _entered = runtime.enter();
        work();
    }
}
