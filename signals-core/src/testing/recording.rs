//! Who records, and what they are told. Where nobody records at all, a write asks no more than that.

use std::any::{Any, TypeId};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};

use futures_util::future::BoxFuture;
use tokio::task;

use crate::any::AnyModel;
use crate::context::{self, PoolId};
use crate::custom::CustomSignal;
use crate::error::Error;
use crate::model::Model;
use crate::mute;
use crate::transaction::{Deferred, End};

/// How many record at the moment, in the whole process.
static RECORDING: AtomicUsize = AtomicUsize::new(0);

static LISTENERS: Mutex<Vec<Listener>> = Mutex::new(Vec::new());

tokio::task_local! {
    /// The task that this one counts as.
    static FOLLOWED: Origin;
}

/// A task as recorders tell one from another. `block_on`, and so the body of a `#[tokio::test]`, is no task to tokio; it
/// stays on its thread, and nothing else runs there meanwhile but tasks, which have an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Task(task::Id),
    Thread(ThreadId),
}

/// The task whose doing this is, where anybody records: a receiver's is that of the save that it receives, wherever the
/// receiver runs by now.
pub(crate) fn origin() -> Option<Origin> {
    if any() { Some(context::origin().unwrap_or_else(Origin::here)) } else { None }
}

/// Whether anybody records at all.
pub(crate) fn any() -> bool {
    RECORDING.load(Ordering::Relaxed) > 0
}

impl Origin {
    /// Runs `future` as the doing of this task.
    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        FOLLOWED.scope(self, future)
    }

    fn here() -> Self {
        let this =
            || task::try_id().map_or_else(|| Self::Thread(thread::current().id()), Self::Task);
        FOLLOWED.try_with(|followed| *followed).unwrap_or_else(|_| this())
    }
}

struct Listener {
    origin: Origin,
    log: Arc<dyn Listen>,
}

/// A log of one who records.
pub(super) trait Listen: Any + Send + Sync {
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
pub(super) struct Recording<L: Listen> {
    pub(super) log: Arc<L>,
    origin: Origin,
}

impl<L: Listen> Recording<L> {
    pub(super) fn begin(log: L) -> Self {
        let log = Arc::new(log);
        RECORDING.fetch_add(1, Ordering::Relaxed);
        // A receiver that records does so for the task that it runs for.
        let origin = context::origin().unwrap_or_else(Origin::here);
        listeners().push(Listener { origin, log: log.clone() });
        Self { log, origin }
    }

    pub(super) fn follow<F: Future>(
        &self,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F, L> {
        FOLLOWED.scope(self.origin, future)
    }
}

impl<L: Listen> Drop for Recording<L> {
    fn drop(&mut self) {
        let this: *const () = Arc::as_ptr(&self.log).cast();
        listeners().retain(|listener| Arc::as_ptr(&listener.log).cast() != this);
        RECORDING.fetch_sub(1, Ordering::Relaxed);
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

/// What was sent of a model.
pub(super) struct Log<M> {
    pub(super) noted: Mutex<Vec<Noted<M>>>,
    pub(super) copy: fn(&M) -> M,
}

pub(super) struct Noted<M> {
    pub(super) signal: &'static str,
    pub(super) created: Option<bool>,
    /// Shared, so that it is copied and dropped when the lock is free.
    pub(super) instance: Arc<M>,
    /// Whether it was committed, when that is known.
    pub(super) committed: Arc<OnceLock<bool>>,
}

impl<M> Clone for Noted<M> {
    fn clone(&self) -> Self {
        let Self { signal, created, instance, committed } = self;
        let (instance, committed) = (Arc::clone(instance), Arc::clone(committed));
        Self { signal, created: *created, instance, committed }
    }
}

impl<M> Log<M> {
    /// What was noted. No code of the program runs while this is held: it may record, or ask what was recorded.
    pub(super) fn noted(&self) -> MutexGuard<'_, Vec<Noted<M>>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Model> Listen for Log<M> {
    fn model(&self) -> Option<TypeId> {
        Some(TypeId::of::<M>())
    }

    fn note(
        &self,
        signal: &'static str,
        created: Option<bool>,
        row: &dyn AnyModel,
        committed: &Arc<OnceLock<bool>>,
    ) {
        if let Some(row) = row.downcast_ref::<M>() {
            let (instance, committed) = (Arc::new((self.copy)(row)), Arc::clone(committed));
            self.noted().push(Noted { signal, created, instance, committed });
        }
    }
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
            Some(committed) if seen => Some(Box::new(Told { committed, waiting })),
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
struct Told {
    committed: Arc<OnceLock<bool>>,
    waiting: Option<Box<dyn Deferred>>,
}

impl Deferred for Told {
    fn run(self: Box<Self>, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        let _ = self.committed.set(end == End::Committed);
        match self.waiting {
            Some(waiting) => waiting.run(end, holds),
            None => Box::pin(async { Vec::new() }),
        }
    }
}

/// What was sent of a signal of the program's own.
pub(super) struct SentLog<T>(pub(super) Mutex<Vec<Arc<T>>>);

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
