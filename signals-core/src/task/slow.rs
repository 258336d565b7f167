//! Reports receivers that take long.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::task::info::{Identity, Info};
use crate::task::measure::Stopwatch;

/// After how long a receiver is reported as slow. A value of the `Db`, if its options set it.
#[derive(Clone, Copy)]
pub(crate) struct SlowReceivers(pub(crate) Duration);

impl Default for SlowReceivers {
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

/// How often a receiver is reported at most.
const INTERVAL: Duration = Duration::from_secs(60);

/// Measures a run of a receiver. It also ends if the future of the receiver is dropped, for example by a timeout around the save.
pub(crate) struct Run<'r> {
    receiver: &'r Identity,
    limit: SlowReceivers,
    started: Instant,
}

impl<'r> Run<'r> {
    pub(crate) fn start(receiver: &'r Identity, limit: SlowReceivers) -> Self {
        Self { receiver, limit, started: Instant::now() }
    }

    pub(crate) fn stopwatch(&self) -> Stopwatch {
        Stopwatch::since(self.started)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let elapsed = self.elapsed();
        if elapsed >= self.limit.0 {
            report(self.receiver, elapsed);
        }
    }
}

#[cold]
fn report(receiver: &Identity, elapsed: Duration) {
    /// When each receiver was last reported.
    static REPORTED: LazyLock<Mutex<HashMap<usize, Instant>>> = LazyLock::new(Mutex::default);
    let id = std::ptr::from_ref(receiver.info) as usize;
    let now = Instant::now();
    let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
    if reported.get(&id).is_some_and(|last| now.duration_since(*last) < INTERVAL) {
        return;
    }
    reported.insert(id, now);
    drop(reported);
    let Info { signal, sender, file, line, .. } = *receiver.info;
    let receiver = receiver.name();
    tracing::warn!(receiver, signal, sender, file, line, ?elapsed, "a receiver is slow");
}
