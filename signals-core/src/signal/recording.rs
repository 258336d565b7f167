//! The recorders of tests, and how they are notified. Without a recorder in the process, a write only reads a counter.

use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::future::{BoxFuture, ready};

use crate::database::deferred::{Deferred, End};
use crate::error::Error;
use crate::signal::custom::CustomSignal;
use crate::signal::{Signal, post_delete, post_save};
use crate::table::any::AnyModel;
use crate::task::mute;
use crate::task::origin::{Origin, RecorderCount, any, origin};
use crate::task::pool_id::PoolId;

/// The logs of all recorders in the process.
static ACTIVE_LOGS: Mutex<Vec<ActiveLog>> = Mutex::new(Vec::new());

/// The log of a recorder, and the task whose signals it records.
struct ActiveLog {
    origin: Origin,
    log: Arc<dyn RecorderLog>,
}

/// The log of a recorder.
pub(crate) trait RecorderLog: Any + Send + Sync {
    /// The model whose signals the log records. `None` for the log of a custom signal.
    fn model(&self) -> Option<TypeId> {
        None
    }

    /// Records a signal of the model. `committed` is set when the transaction has ended.
    fn record(
        &self,
        _signal: &'static str,
        _created: Option<bool>,
        _row: &dyn AnyModel,
        _committed: &Arc<OnceLock<bool>>,
    ) {
    }
}

/// A recorder. It records from [`begin`](Self::begin) until it is dropped.
pub(crate) struct Recording<L: RecorderLog> {
    pub(crate) log: Arc<L>,
    origin: Origin,
    _count: RecorderCount,
}

impl<L: RecorderLog> Recording<L> {
    pub(crate) fn begin(log: L) -> Self {
        let log = Arc::new(log);
        let count = RecorderCount::new();
        let origin = Origin::of_recorder();
        active_logs().push(ActiveLog { origin, log: log.clone() });
        Self { log, origin, _count: count }
    }

    pub(crate) fn follow<F: Future>(
        &self,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F, L> {
        self.origin.scope(future)
    }
}

impl<L: RecorderLog> Drop for Recording<L> {
    fn drop(&mut self) {
        let this: *const () = Arc::as_ptr(&self.log).cast();
        active_logs().retain(|active| Arc::as_ptr(&active.log).cast() != this);
    }
}

fn active_logs() -> MutexGuard<'static, Vec<ActiveLog>> {
    ACTIVE_LOGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The logs that record this task.
fn logs() -> Vec<Arc<dyn RecorderLog>> {
    let origin = origin().filter(|_| !mute::every());
    let all = active_logs();
    let of_task = all.iter().filter(|active| Some(active.origin) == origin);
    of_task.map(|active| Arc::clone(&active.log)).collect()
}

/// The logs that record one write: `None` except in tests.
#[derive(Clone)]
pub(crate) struct Recorders(Option<Arc<[Arc<dyn RecorderLog>]>>);

impl Recorders {
    /// The logs that record what this task does to rows of a model. It is called when the write begins.
    pub(crate) fn of_task(model: TypeId) -> Self {
        if any() { Self::find(model) } else { Self(None) }
    }

    #[cold]
    fn find(model: TypeId) -> Self {
        let mut logs = logs();
        logs.retain(|log| log.model() == Some(model));
        Self((!logs.is_empty()).then(|| logs.into()))
    }

    /// Whether the write is recorded.
    pub(crate) fn any(&self) -> bool {
        self.0.is_some()
    }

    /// Records a signal that is sent before the statement.
    pub(crate) fn before(&self, signal: &'static str, instance: &dyn AnyModel) {
        self.record(signal, None, instance);
    }

    /// Records a signal that is sent after the statement, and returns the flag that `CommitObserver` sets.
    pub(crate) fn after(
        &self,
        created: Option<bool>,
        instance: &dyn AnyModel,
    ) -> Option<Arc<OnceLock<bool>>> {
        let signal = if created.is_some() { post_save::NAME } else { post_delete::NAME };
        self.record(signal, created, instance)
    }

    fn record(
        &self,
        signal: &'static str,
        created: Option<bool>,
        instance: &dyn AnyModel,
    ) -> Option<Arc<OnceLock<bool>>> {
        let logs = self.0.as_deref()?;
        let committed = Arc::<OnceLock<bool>>::default();
        logs.iter().for_each(|log| log.record(signal, created, instance, &committed));
        Some(committed)
    }
}

/// Records whether the transaction of some signals was committed.
pub(crate) struct CommitObserver(Vec<Arc<OnceLock<bool>>>);

impl CommitObserver {
    /// Returns `None` if nothing was recorded.
    pub(crate) fn of(committed: Vec<Arc<OnceLock<bool>>>) -> Option<Box<dyn Deferred>> {
        (!committed.is_empty()).then(|| Box::new(Self(committed)) as _)
    }
}

impl Deferred for CommitObserver {
    fn run(self: Box<Self>, end: End, _: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        for committed in self.0 {
            let _ = committed.set(end == End::Committed);
        }
        Box::pin(ready(Vec::new()))
    }
}

/// The log of a custom signal: the values that were sent.
pub(crate) struct SentLog<T>(pub(crate) Mutex<Vec<Arc<T>>>);

impl<T: CustomSignal> RecorderLog for SentLog<T> {}

/// Records a custom signal.
pub(crate) fn sent<T: CustomSignal>(payload: &Arc<T>) {
    if any() {
        for log in logs() {
            let log: Arc<dyn Any + Send + Sync> = log;
            if let Some(SentLog(sent)) = log.downcast_ref::<SentLog<T>>() {
                sent.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(payload));
            }
        }
    }
}
