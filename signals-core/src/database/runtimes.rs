//! The runtimes in which connections are used and dropped.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};
use tokio::runtime::{self, Handle};

/// The runtimes in which a pool is used. A connection is bound to the I/O driver of the runtime that opened it, which may be
/// gone; if there are several runtimes, sqlx's pool pings each connection before it is used.
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

thread_local! {
    /// Whether a pool has opened a connection while a future was polled on this thread.
    static OPENED: Cell<bool> = const { Cell::new(false) };
}

/// To be called when a pool has opened a connection.
#[cfg(feature = "postgres")]
pub(crate) fn opened() {
    OPENED.set(true);
}

/// Takes a connection from a pool. Whether it is new is known of pools that call [`opened`]: a new connection is opened and
/// returned in one poll.
pub(crate) async fn acquire<DB: Database>(
    pool: &Pool<DB>,
) -> Result<(PoolConnection<DB>, bool), sqlx::Error> {
    let mut acquire = pin!(pool.acquire());
    poll_fn(|cx| {
        OPENED.set(false);
        let conn = acquire.as_mut().poll(cx)?;
        conn.map(|conn| Ok((conn, OPENED.get())))
    })
    .await
}

pub(crate) fn here() -> Option<runtime::Id> {
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
