//! A metric that the recorder is not asked for at each run of a receiver.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, Key, Label, Recorder, with_recorder};

use super::enabled::METADATA;

/// How long a handle is used before the recorder is asked for it again. A recorder may forget a metric that was not recorded for some time,
/// and what is recorded by an older handle is lost.
const KEPT: Duration = Duration::from_millis(100);

/// Incremented by each worker that starts. A test may have a recorder of its own, at the address of the one of the previous test.
static WORKERS: AtomicUsize = AtomicUsize::new(0);

/// Makes every metric ask for its handle again.
#[cfg(feature = "durable")]
pub(crate) fn ask_again() {
    WORKERS.fetch_add(1, Ordering::Relaxed);
}

/// A metric, and the handle by which it is recorded. To find the handle, a recorder hashes and compares the name and all labels.
pub(super) struct Metric<H> {
    key: Key,
    last: Mutex<Option<Found<H>>>,
}

/// A handle that a recorder has returned.
struct Found<H> {
    handle: H,
    /// The address of the recorder. The program may install a recorder after the first deliveries, and a test has one for each thread.
    recorder: usize,
    workers: usize,
    at: Instant,
}

impl<H> Found<H> {
    fn is_current(&self, recorder: usize, workers: usize, now: Instant) -> bool {
        (self.recorder, self.workers) == (recorder, workers) && now < self.at + KEPT
    }
}

impl<H> Metric<H> {
    pub(super) fn new(name: &'static str, labels: Vec<Label>) -> Self {
        Self { key: Key::from_parts(name, labels), last: Mutex::default() }
    }

    /// Calls the function with the handle of the current recorder. Without the time, the recorder is asked for the handle: it may add labels
    /// from the current span.
    fn with(
        &self,
        now: Option<Instant>,
        find: impl FnOnce(&dyn Recorder, &Key) -> H,
        record: impl FnOnce(&H),
    ) {
        with_recorder(|current| {
            let Some(now) = now else { return record(&find(current, &self.key)) };
            let recorder = std::ptr::from_ref(current).addr();
            let workers = WORKERS.load(Ordering::Relaxed);
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let found = match last.take() {
                Some(found) if found.is_current(recorder, workers, now) => found,
                _ => Found { handle: find(current, &self.key), recorder, workers, at: now },
            };
            record(&last.insert(found).handle);
        });
    }
}

impl Metric<Counter> {
    pub(super) fn increment(&self, now: Option<Instant>) {
        let find = |recorder: &dyn Recorder, key: &Key| recorder.register_counter(key, &METADATA);
        self.with(now, find, |counter| counter.increment(1));
    }
}

impl Metric<Histogram> {
    pub(super) fn record(&self, now: Option<Instant>, time: Duration) {
        let find = |recorder: &dyn Recorder, key: &Key| recorder.register_histogram(key, &METADATA);
        self.with(now, find, |histogram| histogram.record(time.as_secs_f64()));
    }
}
