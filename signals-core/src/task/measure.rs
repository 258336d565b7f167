//! Metrics for the facade crate `metrics`. Without the feature of that name, the types here are empty and the functions do nothing.
//!
//! The key of a metric is created once for each model or receiver, so that recording does not allocate. A worker also keeps what the recorder
//! has returned for a key.

#[cfg(all(feature = "durable", feature = "metrics"))]
pub(crate) use deliveries::DeliveryMetrics;
#[cfg(all(feature = "durable", not(feature = "metrics")))]
pub(crate) use disabled::{DeliveryMetrics, ask_again};
#[cfg(not(feature = "metrics"))]
pub(crate) use disabled::{ReceiverKeys, Stopwatch, WriteKeys, transaction};
#[cfg(feature = "metrics")]
pub(crate) use enabled::{Gauge, ReceiverKeys, Stopwatch, WriteKeys, transaction};
#[cfg(all(feature = "durable", feature = "metrics"))]
pub(crate) use metric::ask_again;

#[cfg(all(feature = "durable", feature = "metrics"))]
mod deliveries;
#[cfg(feature = "metrics")]
mod metric;

#[cfg(feature = "metrics")]
mod enabled {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Instant;

    use metrics::{Counter, Histogram, Key, Label, Level, Metadata, with_recorder};

    use super::metric::Metric;
    use crate::task::info::Info;
    use crate::task::slow::Elapsed;

    pub(super) static METADATA: Metadata<'_> =
        Metadata::new("sqlx_signals", Level::INFO, Some("sqlx_signals"));

    /// A point in time, from which a duration is measured.
    #[derive(Clone, Copy)]
    pub(crate) struct Stopwatch(pub(super) Instant);

    impl Default for Stopwatch {
        fn default() -> Self {
            Self::start()
        }
    }

    impl Stopwatch {
        pub(crate) fn start() -> Self {
            Self(Instant::now())
        }

        fn seconds(self) -> f64 {
            self.0.elapsed().as_secs_f64()
        }
    }

    /// A counter and a histogram that have the same labels.
    struct Pair {
        count: Key,
        seconds: Key,
    }

    impl Pair {
        fn new(count: &'static str, seconds: &'static str, labels: &[Label]) -> Self {
            let key = |name| Key::from_parts(name, labels.to_vec());
            Self { count: key(count), seconds: key(seconds) }
        }

        fn record(&self, seconds: f64) {
            with_recorder(|recorder| {
                recorder.register_counter(&self.count, &METADATA).increment(1);
                recorder.register_histogram(&self.seconds, &METADATA).record(seconds);
            });
        }
    }

    /// A number that can rise and fall.
    pub(crate) struct Gauge(Key);

    impl Gauge {
        pub(crate) fn new(name: &'static str, labels: &[(&'static str, &str)]) -> Self {
            let labels = labels.iter().map(|(key, value)| Label::new(*key, (*value).to_owned()));
            Self(Key::from_parts(name, labels.collect::<Vec<_>>()))
        }

        pub(crate) fn set(&self, value: usize) {
            with_recorder(|recorder| {
                let value = u32::try_from(value).unwrap_or(u32::MAX);
                recorder.register_gauge(&self.0, &METADATA).set(f64::from(value));
            });
        }
    }

    /// The keys of the metrics of a model, created at their first use.
    pub(crate) struct WriteKeys {
        saves: OnceLock<[Pair; 2]>,
        deletes: OnceLock<[Pair; 2]>,
    }

    impl WriteKeys {
        pub(crate) const fn new() -> Self {
            Self { saves: OnceLock::new(), deletes: OnceLock::new() }
        }

        /// Records a write of the model.
        pub(crate) fn record(
            &self,
            operation: &'static str,
            model: &'static str,
            is_ok: bool,
            since: Stopwatch,
        ) {
            let pairs = if operation == "delete" { &self.deletes } else { &self.saves };
            let pair = |outcome| {
                let labels = [
                    Label::from_static_parts("operation", operation),
                    Label::from_static_parts("model", model),
                    Label::from_static_parts("outcome", outcome),
                ];
                let (count, seconds) =
                    ("sqlx_signals_writes_total", "sqlx_signals_write_duration_seconds");
                Pair::new(count, seconds, &labels)
            };
            let pairs = pairs.get_or_init(|| [pair("error"), pair("ok")]);
            pairs[usize::from(is_ok)].record(since.seconds());
        }
    }

    /// The metrics of a receiver.
    #[derive(Clone, Copy)]
    pub(crate) struct ReceiverKeys(&'static OfReceiver);

    struct OfReceiver {
        runs: Metric<Counter>,
        seconds: Metric<Histogram>,
        errors: Metric<Counter>,
    }

    impl ReceiverKeys {
        /// The keys are leaked: there are as many as receivers.
        pub(crate) fn of(info: &'static Info) -> Self {
            static KEYS: Mutex<BTreeMap<usize, ReceiverKeys>> = Mutex::new(BTreeMap::new());
            let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
            *keys.entry(std::ptr::from_ref(info) as usize).or_insert_with(|| {
                let labels = [
                    Label::from_static_parts("receiver", info.name),
                    Label::from_static_parts("signal", info.signal),
                    Label::from_static_parts("model", info.sender),
                ];
                let labels = || labels.to_vec();
                Self(Box::leak(Box::new(OfReceiver {
                    runs: Metric::new("sqlx_signals_receiver_runs_total", labels()),
                    seconds: Metric::new("sqlx_signals_receiver_duration_seconds", labels()),
                    errors: Metric::new("sqlx_signals_receiver_errors_total", labels()),
                })))
            })
        }

        /// Records a run of the receiver. A worker runs a durable one many times in succession.
        pub(crate) fn record(self, is_durable: bool, is_ok: bool, elapsed: Elapsed) {
            let OfReceiver { runs, seconds, errors } = self.0;
            let now = is_durable.then_some(elapsed.ended());
            runs.increment(now);
            seconds.record(now, elapsed.get());
            if !is_ok {
                errors.increment(now);
            }
        }
    }

    /// Records the end of an outermost transaction.
    pub(crate) fn transaction(is_committed: bool, since: Stopwatch) {
        const NAME: &str = "sqlx_signals_transaction_duration_seconds";
        static COMMITTED: [Label; 1] = [Label::from_static_parts("outcome", "commit")];
        static ROLLED_BACK: [Label; 1] = [Label::from_static_parts("outcome", "rollback")];
        static KEYS: [Key; 2] =
            [Key::from_static_parts(NAME, &ROLLED_BACK), Key::from_static_parts(NAME, &COMMITTED)];
        with_recorder(|recorder| {
            let histogram =
                recorder.register_histogram(&KEYS[usize::from(is_committed)], &METADATA);
            histogram.record(since.seconds());
        });
    }
}

#[cfg(not(feature = "metrics"))]
mod disabled {
    use crate::task::info::Info;
    use crate::task::slow::Elapsed;

    #[derive(Clone, Copy, Default)]
    pub(crate) struct Stopwatch;

    impl Stopwatch {
        pub(crate) fn start() -> Self {
            Self
        }
    }

    pub(crate) struct WriteKeys;

    impl WriteKeys {
        pub(crate) const fn new() -> Self {
            Self
        }

        pub(crate) fn record(&self, _: &'static str, _: &'static str, _: bool, _: Stopwatch) {}
    }

    #[derive(Clone, Copy)]
    pub(crate) struct ReceiverKeys;

    impl ReceiverKeys {
        pub(crate) fn of(_: &'static Info) -> Self {
            Self
        }

        pub(crate) fn record(self, _: bool, _: bool, _: Elapsed) {}
    }

    pub(crate) fn transaction(_: bool, _: Stopwatch) {}

    #[cfg(feature = "durable")]
    pub(crate) fn ask_again() {}

    #[cfg(feature = "durable")]
    #[derive(Clone, Copy, Default)]
    pub(crate) struct DeliveryMetrics {}

    #[cfg(feature = "durable")]
    impl DeliveryMetrics {
        pub(crate) fn of(self, _: &str) -> Self {
            self
        }

        pub(crate) fn late(self, _: std::time::Duration, _: Stopwatch) {}

        pub(crate) fn ended(self, _: &'static str, _: Stopwatch) {}
    }
}
