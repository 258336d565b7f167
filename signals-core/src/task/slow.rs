//! Reports receivers that take long.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::task::info::{Identity, Info};

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

/// The times of receivers that run one after the other: the end of a run is the start of the next, so that each run reads the clock
/// once.
#[derive(Default)]
pub(crate) struct Lap(Option<Instant>);

/// Measures a run of a receiver. It also ends if the future of the receiver is dropped, for example by a timeout around the save.
pub(crate) struct Run<'r> {
    receiver: &'r Identity,
    limit: SlowReceivers,
    started: Instant,
    lap: &'r mut Lap,
    is_ended: bool,
}

impl<'r> Run<'r> {
    pub(crate) fn start(receiver: &'r Identity, limit: SlowReceivers, lap: &'r mut Lap) -> Self {
        let started = lap.0.take().unwrap_or_else(Instant::now);
        Self { receiver, limit, started, lap, is_ended: false }
    }

    /// Ends the run, and returns how long it has taken.
    pub(crate) fn end(mut self) -> Duration {
        self.measure()
    }

    fn measure(&mut self) -> Duration {
        let now = Instant::now();
        let elapsed = now.duration_since(self.started);
        (self.lap.0, self.is_ended) = (Some(now), true);
        if elapsed >= self.limit.0 {
            report(self.receiver, elapsed);
        }
        elapsed
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.measure();
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
