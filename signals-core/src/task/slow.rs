//! Reports receivers that take long.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::task::identity::Identity;
use crate::task::info::Info;

/// After how long a receiver is reported as slow. A value of the `Db`, if its options set it.
#[derive(Clone, Copy)]
pub(crate) struct SlowReceivers(pub(crate) Duration);

impl Default for SlowReceivers {
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

/// The limit for a receiver in a transaction on SQLite, if the options set none, because other writers wait for it.
pub(crate) const WITH_WRITE_LOCK: SlowReceivers = SlowReceivers(Duration::from_millis(100));

/// How often a receiver is reported at most.
const INTERVAL: Duration = Duration::from_secs(60);

/// The times of receivers that run one after the other: the end of a run is the start of the next, so that each run reads the clock
/// once.
#[derive(Default)]
pub(crate) struct Lap(Option<Times>);

#[derive(Clone, Copy)]
struct Times {
    started: Instant,
    limit: Duration,
    /// Before this time, no run of the lap can have taken longer than the limit.
    check_at: Instant,
}

impl Times {
    fn new(started: Instant, limit: Duration) -> Self {
        let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        Self { started, limit, check_at: started + limit.min(century) }
    }
}

/// Measures a run of a receiver. It also ends if the future of the receiver is dropped, for example by a timeout around the save.
pub(crate) struct Run<'r> {
    receiver: &'r Identity,
    times: Times,
    lap: &'r mut Lap,
    is_ended: bool,
}

/// How long a run has taken.
#[derive(Clone, Copy)]
pub(crate) struct Elapsed {
    started: Instant,
    ended: Instant,
}

impl Elapsed {
    pub(crate) fn get(self) -> Duration {
        self.ended.duration_since(self.started)
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn ended(self) -> Instant {
        self.ended
    }
}

impl<'r> Run<'r> {
    pub(crate) fn start(
        receiver: &'r Identity,
        lap: &'r mut Lap,
        limit: impl FnOnce() -> SlowReceivers,
    ) -> Self {
        let times = lap.0.take().unwrap_or_else(|| Times::new(Instant::now(), limit().0));
        Self { receiver, times, lap, is_ended: false }
    }

    /// Ends the run, and returns how long it has taken.
    pub(crate) fn end(mut self) -> Elapsed {
        self.measure()
    }

    fn measure(&mut self) -> Elapsed {
        let (ended, Times { started, limit, check_at }) = (Instant::now(), self.times);
        let elapsed = Elapsed { started, ended };
        let next = match ended < check_at {
            true => Times { started: ended, ..self.times },
            false => {
                if elapsed.get() >= limit {
                    report(self.receiver, elapsed.get());
                }
                Times::new(ended, limit)
            }
        };
        (self.lap.0, self.is_ended) = (Some(next), true);
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
