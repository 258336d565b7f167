//! The metrics of the deliveries that a worker or a relay runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, Label};

use super::enabled::Stopwatch;
use super::metric::Metric;

/// The metrics of each receiver, for one worker or relay.
#[derive(Default)]
pub(crate) struct DeliveryMetrics(Mutex<HashMap<String, Arc<OfReceiver>>>);

/// The metrics of one receiver.
pub(crate) struct OfReceiver {
    /// For each outcome, how many runs had it.
    outcomes: [(&'static str, Metric<Counter>); 3],
    seconds: Metric<Histogram>,
    lag: Metric<Histogram>,
}

impl DeliveryMetrics {
    pub(crate) fn of(&self, receiver: &str) -> Arc<OfReceiver> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(receiver) {
            return Arc::clone(known);
        }
        let new = Arc::new(OfReceiver::new(receiver));
        known.insert(receiver.to_owned(), Arc::clone(&new));
        new
    }
}

impl OfReceiver {
    fn new(receiver: &str) -> Self {
        let label = Label::new("receiver", receiver.to_owned());
        let count = |outcome| {
            let labels = vec![label.clone(), Label::from_static_parts("outcome", outcome)];
            (outcome, Metric::new("sqlx_signals_deliveries_total", labels))
        };
        Self {
            outcomes: ["succeeded", "failed", "dead"].map(count),
            seconds: Metric::new("sqlx_signals_delivery_duration_seconds", vec![label.clone()]),
            lag: Metric::new("sqlx_signals_delivery_lag_seconds", vec![label.clone()]),
        }
    }

    /// Records how late the first attempt of a delivery is.
    pub(crate) fn late(&self, lag: Duration, now: Stopwatch) {
        self.lag.record(Some(now.0), lag);
    }

    /// Records the end of a run of a delivery.
    pub(crate) fn ended(&self, outcome: &'static str, since: Stopwatch) {
        let now = Instant::now();
        if let Some((_, count)) = self.outcomes.iter().find(|(known, _)| *known == outcome) {
            count.increment(Some(now));
        }
        self.seconds.record(Some(now), now.duration_since(since.0));
    }
}
