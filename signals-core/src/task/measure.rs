//! Metrics for the facade crate `metrics`. Without the feature of that name, the types here are empty and the functions do nothing.
//!
//! The key of a metric is created once for each model or receiver, so that recording does not allocate.

#[cfg(not(feature = "metrics"))]
pub(crate) use disabled::{Stopwatch, receiver, transaction, write};
#[cfg(feature = "metrics")]
pub(crate) use enabled::{Gauge, Stopwatch, receiver, transaction, write};

#[cfg(feature = "metrics")]
mod enabled {
    use std::collections::HashMap;
    use std::hash::Hash;
    use std::sync::{LazyLock, PoisonError, RwLock};
    use std::time::Instant;

    use metrics::{Key, Label, Level, Metadata, with_recorder};

    use crate::task::info::Info;

    static METADATA: Metadata<'_> =
        Metadata::new("sqlx_signals", Level::INFO, Some("sqlx_signals"));

    /// A point in time, from which a duration is measured.
    #[derive(Clone, Copy)]
    pub(crate) struct Stopwatch(Instant);

    impl Default for Stopwatch {
        fn default() -> Self {
            Self::start()
        }
    }

    impl Stopwatch {
        pub(crate) fn start() -> Self {
            Self(Instant::now())
        }

        pub(crate) fn since(started: Instant) -> Self {
            Self(started)
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

        fn record(&self, since: Stopwatch) {
            with_recorder(|recorder| {
                recorder.register_counter(&self.count, &METADATA).increment(1);
                let seconds = since.seconds();
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

    /// The keys of metrics by what they are about. They are leaked: there are as many as models and receivers.
    type Keys<K, V> = LazyLock<RwLock<HashMap<K, &'static V>>>;

    fn key<K: Eq + Hash, V>(keys: &Keys<K, V>, about: K, create: impl FnOnce() -> V) -> &'static V {
        if let Some(known) = keys.read().unwrap_or_else(PoisonError::into_inner).get(&about) {
            return known;
        }
        let mut keys = keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.entry(about).or_insert_with(|| Box::leak(Box::new(create())))
    }

    /// Records a write of a model.
    pub(crate) fn write(
        operation: &'static str,
        model: &'static str,
        is_ok: bool,
        since: Stopwatch,
    ) {
        static KEYS: Keys<(&str, &str, bool), Pair> = LazyLock::new(RwLock::default);
        let pair = key(&KEYS, (operation, model, is_ok), || {
            let labels = [
                Label::from_static_parts("operation", operation),
                Label::from_static_parts("model", model),
                Label::from_static_parts("outcome", if is_ok { "ok" } else { "error" }),
            ];
            Pair::new("sqlx_signals_writes_total", "sqlx_signals_write_duration_seconds", &labels)
        });
        pair.record(since);
    }

    /// Records a run of a receiver.
    pub(crate) fn receiver(info: &'static Info, is_ok: bool, since: Stopwatch) {
        static KEYS: Keys<usize, (Pair, Key)> = LazyLock::new(RwLock::default);
        let (pair, errors) = key(&KEYS, std::ptr::from_ref(info) as usize, || {
            let labels = [
                Label::from_static_parts("receiver", info.name),
                Label::from_static_parts("signal", info.signal),
                Label::from_static_parts("model", info.sender),
            ];
            let (runs, seconds) =
                ("sqlx_signals_receiver_runs_total", "sqlx_signals_receiver_duration_seconds");
            let errors = Key::from_parts("sqlx_signals_receiver_errors_total", labels.to_vec());
            (Pair::new(runs, seconds, &labels), errors)
        });
        pair.record(since);
        if !is_ok {
            with_recorder(|recorder| {
                recorder.register_counter(errors, &METADATA).increment(1);
            });
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
    use std::time::Instant;

    use crate::task::info::Info;

    #[derive(Clone, Copy, Default)]
    pub(crate) struct Stopwatch;

    impl Stopwatch {
        pub(crate) fn start() -> Self {
            Self
        }

        pub(crate) fn since(_: Instant) -> Self {
            Self
        }
    }

    pub(crate) fn write(_: &'static str, _: &'static str, _: bool, _: Stopwatch) {}

    pub(crate) fn receiver(_: &'static Info, _: bool, _: Stopwatch) {}

    pub(crate) fn transaction(_: bool, _: Stopwatch) {}
}
