//! Who records, and what they are told. Where nobody records at all, a write asks no more than that.

use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::future::BoxFuture;

use crate::database::deferred::{Deferred, End};
use crate::error::Error;
use crate::signal::custom::CustomSignal;
use crate::table::any::AnyModel;
use crate::task::chain::PoolId;
use crate::task::mute;
use crate::task::origin::{Origin, RecorderCount, any, origin};

static LISTENERS: Mutex<Vec<Listener>> = Mutex::new(Vec::new());

struct Listener {
    origin: Origin,
    log: Arc<dyn Listen>,
}

/// A log of one who records.
pub(crate) trait Listen: Any + Send + Sync {
    /// The model whose signals it is of, if it is one of a model's.
    fn model(&self) -> Option<TypeId> {
        None
    }

    /// Takes note of a signal of the model.
    fn note(
        &self,
        _signal: &'static str,
        _created: Option<bool>,
        _row: &dyn AnyModel,
        _committed: &Arc<OnceLock<bool>>,
    ) {
    }
}

/// One who records, from [`begin`](Self::begin) until this is dropped.
pub(crate) struct Recording<L: Listen> {
    pub(crate) log: Arc<L>,
    origin: Origin,
    _count: RecorderCount,
}

impl<L: Listen> Recording<L> {
    pub(crate) fn begin(log: L) -> Self {
        let log = Arc::new(log);
        let count = RecorderCount::new();
        let origin = Origin::of_recorder();
        listeners().push(Listener { origin, log: log.clone() });
        Self { log, origin, _count: count }
    }

    pub(crate) fn follow<F: Future>(
        &self,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F, L> {
        self.origin.scope(future)
    }
}

impl<L: Listen> Drop for Recording<L> {
    fn drop(&mut self) {
        let this: *const () = Arc::as_ptr(&self.log).cast();
        listeners().retain(|listener| Arc::as_ptr(&listener.log).cast() != this);
    }
}

fn listeners() -> MutexGuard<'static, Vec<Listener>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The logs that record this task.
fn logs() -> Vec<Arc<dyn Listen>> {
    let origin = origin().filter(|_| !mute::every());
    let all = listeners();
    let of_task = all.iter().filter(|listener| Some(listener.origin) == origin);
    of_task.map(|listener| Arc::clone(&listener.log)).collect()
}

/// Those who record one write; nobody, in every program but a test.
#[derive(Clone)]
pub(crate) struct Recorders(Option<Arc<[Arc<dyn Listen>]>>);

impl Recorders {
    /// Who records what this task does to rows of a model, as it is at the beginning of the write.
    pub(crate) fn of_task(model: TypeId) -> Self {
        if any() { Self::find(model) } else { Self(None) }
    }

    #[cold]
    fn find(model: TypeId) -> Self {
        let mut logs = logs();
        logs.retain(|log| log.model() == Some(model));
        Self((!logs.is_empty()).then(|| logs.into()))
    }

    /// Whether anybody records.
    pub(crate) fn any(&self) -> bool {
        self.0.is_some()
    }

    /// A signal is sent ahead of the statement.
    pub(crate) fn before(&self, signal: &'static str, instance: &dyn AnyModel) {
        self.note(signal, None, instance);
    }

    /// A signal is sent, and `waiting` waits for the end of the transaction. Returns what waits then: it tells whether the
    /// write was committed, unless nobody can `see` that.
    pub(crate) fn after(
        &self,
        signal: &'static str,
        created: Option<bool>,
        instance: &dyn AnyModel,
        seen: bool,
        waiting: Option<Box<dyn Deferred>>,
    ) -> Option<Box<dyn Deferred>> {
        match self.note(signal, created, instance) {
            Some(committed) if seen => Some(Box::new(CommitObserver { committed, waiting })),
            _ => waiting,
        }
    }

    fn note(
        &self,
        signal: &'static str,
        created: Option<bool>,
        instance: &dyn AnyModel,
    ) -> Option<Arc<OnceLock<bool>>> {
        let logs = self.0.as_deref()?;
        let committed = Arc::<OnceLock<bool>>::default();
        logs.iter().for_each(|log| log.note(signal, created, instance, &committed));
        Some(committed)
    }
}

/// Waits for the end of a transaction to tell it, ahead of the receivers that wait for it.
struct CommitObserver {
    committed: Arc<OnceLock<bool>>,
    waiting: Option<Box<dyn Deferred>>,
}

impl Deferred for CommitObserver {
    fn run(self: Box<Self>, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        let _ = self.committed.set(end == End::Committed);
        match self.waiting {
            Some(waiting) => waiting.run(end, holds),
            None => Box::pin(async { Vec::new() }),
        }
    }
}

/// What was sent of a signal of the program's own.
pub(crate) struct SentLog<T>(pub(crate) Mutex<Vec<Arc<T>>>);

impl<T: CustomSignal> Listen for SentLog<T> {}

/// A signal of the program's own is sent.
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
