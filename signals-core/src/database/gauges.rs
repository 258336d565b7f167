//! Gauges of a pool for the facade crate `metrics`: its connections in use, its idle connections, and the callers that wait for one.
//! Without the feature of that name, the types here are empty and the functions do nothing.

#[cfg(not(feature = "metrics"))]
pub(super) use disabled::PoolGauges;
#[cfg(feature = "metrics")]
pub(super) use enabled::PoolGauges;

#[cfg(feature = "metrics")]
mod enabled {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, PoisonError, Weak};
    use std::time::Duration;

    use sqlx::Pool;
    use tokio::runtime::Handle;

    use crate::database::backend::Backend;
    use crate::database::counted::PoolSize;
    use crate::task::measure::Gauge;
    use crate::task::pool_id::PoolId;

    /// How often the gauges are set. sqlx does not tell when the program takes a connection directly from its pool.
    const PERIOD: Duration = Duration::from_secs(1);

    /// The gauges of every pool.
    static POOLS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

    /// The gauges of one sqlx pool.
    pub(crate) struct PoolGauges(Arc<Shared>);

    /// What every `Db` of one sqlx pool shares.
    struct Shared {
        id: PoolId,
        /// The name of the database. Pools that exist at the same time have different names.
        name: String,
        in_use: Gauge,
        idle: Gauge,
        waiting: Gauge,
        /// The connections as sqlx counts them.
        size: Box<dyn Fn() -> PoolSize + Send + Sync>,
        /// For each `Db`, the connections that sqlx counts as in use although they are idle. `None` if the `Db` was dropped.
        kept_idle: Mutex<Vec<KeptIdle>>,
        waiting_callers: AtomicUsize,
        is_sampling: AtomicBool,
    }

    type KeptIdle = Box<dyn Fn() -> Option<usize> + Send + Sync>;

    impl PoolGauges {
        pub(crate) fn of<DB: Backend>(pool: &Pool<DB>) -> Self {
            let id = PoolId::of(pool);
            let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
            pools.retain(|shared| shared.strong_count() > 0);
            let known: Vec<_> = pools.iter().filter_map(Weak::upgrade).collect();
            if let Some(shared) = known.iter().find(|shared| shared.id == id) {
                return Self(Arc::clone(shared));
            }
            let base = DB::pool_name(pool);
            let names = (2..).map(|n| format!("{base}#{n}"));
            let is_free = |name: &String| known.iter().all(|shared| shared.name != *name);
            let name = std::iter::once(base.clone()).chain(names).find(is_free).unwrap_or_default();
            let pool = pool.clone();
            let connections = |state| {
                Gauge::new("sqlx_signals_pool_connections", &[("pool", &name), ("state", state)])
            };
            let shared = Arc::new(Shared {
                id,
                in_use: connections("in_use"),
                idle: connections("idle"),
                waiting: Gauge::new("sqlx_signals_pool_waiting", &[("pool", &name)]),
                name,
                size: Box::new(move || PoolSize::of(&pool)),
                kept_idle: Mutex::default(),
                waiting_callers: AtomicUsize::new(0),
                is_sampling: AtomicBool::new(false),
            });
            pools.push(Arc::downgrade(&shared));
            Self(shared)
        }

        /// Counts the idle connections that `keeper` keeps outside of sqlx's pool.
        pub(crate) fn add<T: Send + Sync + 'static>(&self, keeper: &Arc<T>, idle: fn(&T) -> usize) {
            let keeper = Arc::downgrade(keeper);
            let kept = Box::new(move || keeper.upgrade().map(|keeper| idle(&keeper)));
            self.0.kept_idle.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        }

        /// Starts to set the gauges regularly, unless that has been started.
        pub(crate) fn sample(&self) {
            if !self.0.is_sampling.load(Ordering::Relaxed)
                && let Ok(runtime) = Handle::try_current()
                && !self.0.is_sampling.swap(true, Ordering::AcqRel)
            {
                let sampler = Sampler(Arc::downgrade(&self.0));
                runtime.spawn(async move {
                    while let Some(shared) = sampler.0.upgrade() {
                        shared.record();
                        drop(shared);
                        tokio::time::sleep(PERIOD).await;
                    }
                });
            }
        }

        /// Counts a caller that waits for a connection, until the result is dropped.
        pub(crate) fn wait(&self) -> Waiting {
            self.sample();
            self.0.waiting_callers.fetch_add(1, Ordering::AcqRel);
            self.0.record();
            Waiting(Arc::clone(&self.0))
        }
    }

    impl Shared {
        fn record(&self) {
            let PoolSize { open, idle } = (self.size)();
            let mut kept = 0;
            self.kept_idle.lock().unwrap_or_else(PoisonError::into_inner).retain(|count| {
                let count = count();
                kept += count.unwrap_or_default();
                count.is_some()
            });
            // The numbers are not read at the same instant.
            let idle = open.min(idle + kept);
            self.in_use.set(open - idle);
            self.idle.set(idle);
            self.waiting.set(self.waiting_callers.load(Ordering::Acquire));
        }
    }

    impl Drop for Shared {
        fn drop(&mut self) {
            for gauge in [&self.in_use, &self.idle, &self.waiting] {
                gauge.set(0);
            }
        }
    }

    /// A caller that waits for a connection.
    pub(crate) struct Waiting(Arc<Shared>);

    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.waiting_callers.fetch_sub(1, Ordering::AcqRel);
            self.0.record();
        }
    }

    /// Guard of the task that sets the gauges. If the task is dropped because its runtime ends, another one can be started.
    struct Sampler(Weak<Shared>);

    impl Drop for Sampler {
        fn drop(&mut self) {
            if let Some(shared) = self.0.upgrade() {
                shared.is_sampling.store(false, Ordering::Release);
            }
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod disabled {
    use std::sync::Arc;

    use sqlx::Pool;

    use crate::database::backend::Backend;

    pub(crate) struct PoolGauges;

    pub(crate) struct Waiting;

    impl PoolGauges {
        pub(crate) fn of<DB: Backend>(_: &Pool<DB>) -> Self {
            Self
        }

        pub(crate) fn add<T>(&self, _: &Arc<T>, _: fn(&T) -> usize) {}

        pub(crate) fn sample(&self) {}

        pub(crate) fn wait(&self) -> Waiting {
            Waiting
        }
    }
}
