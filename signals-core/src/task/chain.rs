//! The chain of operations and receivers that the running task is inside of. It detects recursion, and receivers that would wait
//! for the connection of their own transaction.

use std::any::TypeId;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::error::{Error, Result};
use crate::task::closures;
use crate::task::identity::Identity;
use crate::task::info::Info;
use crate::task::observed;
use crate::task::origin::{self, Origin};
use crate::task::pool_id::{PoolId, QueueId};

thread_local! {
    static CURRENT: RefCell<Option<RunningReceiver>> = const { RefCell::new(None) };
}

static LIMIT: AtomicUsize = AtomicUsize::new(16);

/// The running receiver and the operation that it receives.
#[derive(Clone)]
pub(crate) struct RunningReceiver {
    operation: Arc<Operation>,
    receiver: Identity,
}

/// An operation with receivers: a link of the chain that [`Error::Recursion`] prints.
#[derive(Clone)]
pub(crate) struct Operation {
    /// The receiver that started this operation: the previous link of the printed chain.
    cause: Option<RunningReceiver>,
    /// The receiver that is waiting while this operation runs, if any. The pool that its operation holds must not be used.
    inside: Option<RunningReceiver>,
    /// The pool whose connection is in use while the receivers of this operation run.
    holds: Option<PoolId>,
    /// The queue of the SQLite database of that pool.
    queue: Option<QueueId>,
    verb: &'static str,
    model: &'static str,
    depth: usize,
    /// The task on whose behalf the operation runs, if any recorder exists.
    origin: Option<Origin>,
    /// If the receivers of this operation run in the rehearsal of a commit: the list that records them.
    rehearsal: Option<Ran>,
}

/// The receivers that have run in the rehearsal of a commit.
pub(crate) type Ran = Arc<Mutex<Vec<Identity>>>;

impl Operation {
    /// Starts an operation. If it is started by a receiver, it extends the chain of that receiver.
    ///
    /// # Errors
    ///
    /// [`Error::Recursion`] if the chain becomes longer than the limit.
    pub(crate) fn enter(
        verb: &'static str,
        model: &'static str,
        holds: Option<PoolId>,
        queue: Option<QueueId>,
    ) -> Result<Arc<Self>> {
        let cause = RunningReceiver::get();
        if let Some(cause) = &cause {
            observed::note(cause.receiver.info, verb, model);
        }
        let depth = cause.as_ref().map_or(1, |c| c.operation.depth + 1);
        let (inside, origin) = (cause.clone(), origin::origin());
        let rehearsal = None;
        let operation = Self { inside, cause, holds, queue, verb, model, depth, origin, rehearsal };
        let limit = LIMIT.load(Ordering::Relaxed);
        if depth > limit {
            return Err(Error::Recursion { chain: operation.chain(), limit });
        }
        Ok(Arc::new(operation))
    }

    /// Makes this the operation of the receivers that run after the end of its transaction. The connection of that transaction is
    /// free again: only `holds`, and the receivers that the task is inside of at that time, determine which pools are in use.
    pub(crate) fn end_transaction(self: &mut Arc<Self>, holds: Option<PoolId>) {
        let inside = RunningReceiver::get();
        let rehearsal = inside.as_ref().and_then(|c| c.operation.rehearsal.clone());
        let operation = Arc::make_mut(self);
        (operation.rehearsal, operation.inside, operation.holds) = (rehearsal, inside, holds);
    }

    /// The verb, and the name of the model or of the custom signal.
    pub(crate) fn about(&self) -> (&'static str, &'static str) {
        (self.verb, self.model)
    }

    /// Whether the receivers of this operation run in the rehearsal of a commit.
    pub(crate) fn is_rehearsed(&self) -> bool {
        self.rehearsal.is_some()
    }

    /// Records a receiver that is about to run.
    pub(crate) fn note(&self, receiver: &Identity) {
        if let Some(ran) = &self.rehearsal {
            ran.lock().unwrap_or_else(PoisonError::into_inner).push(receiver.clone());
        }
    }

    /// The task-local state while `receiver` runs.
    pub(crate) fn receiving(self: &Arc<Self>, receiver: Identity) -> RunningReceiver {
        RunningReceiver { operation: Arc::clone(self), receiver }
    }

    /// The error for an operation that triggers further work in more than `limit` rounds.
    pub(crate) fn recursion(&self, limit: usize) -> Error {
        Error::Recursion { chain: self.chain(), limit }
    }

    fn chain(&self) -> String {
        let mut links = vec![format!("{} of `{}`", self.verb, self.model)];
        let mut next = self.cause.as_ref();
        while let Some(RunningReceiver { operation, receiver }) = next {
            let Operation { verb, model, .. } = &**operation;
            links.push(format!("{verb} of `{model}` → `{}`", receiver.name()));
            next = operation.cause.as_ref();
        }
        links.reverse();
        links.join(" → ")
    }
}

/// Stands for a callback of `on_commit`, which is not a receiver.
static CALLBACK: Info =
    Info::of(TypeId::of::<Callback>(), "a callback of `on_commit`", file!(), line!());

struct Callback;

impl RunningReceiver {
    fn get() -> Option<Self> {
        with_current(Clone::clone)
    }

    /// The state for work that outlives the receiver that started it. It keeps the cause, but not the pools in use, because the
    /// connection of the receiver is released when the receiver ends.
    pub(crate) fn detached() -> Option<Self> {
        let Self { operation, receiver } = Self::get()?;
        let operation = Operation { inside: None, holds: None, ..Operation::clone(&operation) };
        Some(Self { operation: Arc::new(operation), receiver })
    }

    /// Runs `future` with this as the current receiver of the task.
    pub(crate) fn scope<'f, F>(self, future: F) -> InScope<'f, F::Output>
    where
        F: Future + Send + 'f,
    {
        Scope::new(self).run(Box::pin(future))
    }

    /// The state while receivers and callbacks run in the rehearsal of a commit: the transaction is still open and uses a
    /// connection of the pool `holds`.
    pub(crate) fn rehearsal(holds: PoolId, queue: Option<QueueId>, ran: Ran) -> Self {
        let current = Self::get();
        let operation = Operation {
            inside: current.clone(),
            depth: current.as_ref().map_or(1, |c| c.operation.depth + 1),
            cause: current,
            holds: Some(holds),
            queue,
            verb: "commit",
            model: "a rehearsal",
            origin: origin::origin(),
            rehearsal: Some(ran),
        };
        Self { operation: Arc::new(operation), receiver: Identity::linked(&CALLBACK) }
    }
}

/// Makes a receiver the current one of the task while a function runs. A `task_local!` of tokio would need a value for the call of an
/// async receiver and another one for its future.
pub(crate) struct Scope(Option<RunningReceiver>);

impl Scope {
    pub(crate) fn new(receiver: RunningReceiver) -> Self {
        Self(Some(receiver))
    }

    pub(crate) fn enter<T>(&mut self, work: impl FnOnce() -> T) -> T {
        struct Entered<'s>(&'s mut Scope);
        impl Drop for Entered<'_> {
            fn drop(&mut self) {
                self.0.exchange();
            }
        }
        self.exchange();
        let _entered = Entered(self);
        work()
    }

    /// Exchanges the receiver with the current one.
    fn exchange(&mut self) {
        // The thread's state is gone if a future is dropped when its thread ends.
        let _ = CURRENT.try_with(|current| std::mem::swap(&mut *current.borrow_mut(), &mut self.0));
    }

    /// Runs a future in the scope.
    pub(crate) fn run<'f, T>(self, future: BoxFuture<'f, T>) -> InScope<'f, T> {
        InScope { scope: self, future: Some(future) }
    }
}

/// A future in a [`Scope`]. It is dropped there, too.
pub(crate) struct InScope<'f, T> {
    scope: Scope,
    /// `None` after its end.
    future: Option<BoxFuture<'f, T>>,
}

impl<T> Future for InScope<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Self { scope, future } = &mut *self;
        scope.enter(|| {
            let running = future.as_mut().expect("a future is not polled after its end");
            let done = running.poll_unpin(cx);
            if done.is_ready() {
                *future = None;
            }
            done
        })
    }
}

impl<T> InScope<'_, T> {
    /// Whether the future has not been dropped.
    pub(crate) fn has_future(&self) -> bool {
        self.future.is_some()
    }

    /// Drops the future.
    pub(crate) fn end(&mut self) {
        if let Some(future) = self.future.take() {
            self.scope.enter(|| drop(future));
        }
    }
}

impl<T> Drop for InScope<'_, T> {
    fn drop(&mut self) {
        self.end();
    }
}

fn with_current<T>(read: impl FnOnce(&RunningReceiver) -> T) -> Option<T> {
    CURRENT.try_with(|current| current.borrow().as_ref().map(read)).ok().flatten()
}

/// # Errors
///
/// [`Error::WouldDeadlock`] if a receiver that this task is inside of holds a connection of `pool`, or
/// [`Error::OnlyRehearsed`] if the transaction of a rehearsed commit does.
pub(crate) fn check_not_held(pool: PoolId) -> Result<()> {
    check(|operation| operation.holds == Some(pool))
}

/// # Errors
///
/// As [`check_not_held`], if the write lock of a SQLite database is held, through any pool; also if the closure of a
/// `Db::transaction` that this task is inside of holds it.
pub(crate) fn check_not_locked(queue: QueueId) -> Result<()> {
    closures::check_not_locked(queue)?;
    check(|operation| operation.holds.is_some() && operation.queue == Some(queue))
}

fn check(is_held: impl Fn(&Operation) -> bool) -> Result<()> {
    let checked = with_current(|current| {
        let mut next = Some(current);
        while let Some(RunningReceiver { operation, receiver }) = next {
            if is_held(operation) {
                return Err(if std::ptr::eq(receiver.info, &raw const CALLBACK) {
                    Error::OnlyRehearsed { receiver: current.receiver.static_name() }
                } else {
                    Error::WouldDeadlock { receiver: receiver.static_name(), site: None }
                });
            }
            next = operation.inside.as_ref();
        }
        Ok(())
    });
    checked.unwrap_or(Ok(()))
}

/// The task on whose behalf the current receiver runs, if it is known.
pub(crate) fn origin() -> Option<Origin> {
    with_current(|current| current.operation.origin).flatten()
}

/// In a debug build, records an operation of the current receiver for which no [`Operation`] is created, because it has no
/// receivers.
pub(crate) fn observe(verb: &'static str, model: &'static str) {
    if cfg!(debug_assertions) {
        with_current(|current| observed::note(current.receiver.info, verb, model));
    }
}

pub(crate) fn recursion_limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

pub(crate) fn set_recursion_limit(limit: usize) {
    LIMIT.store(limit, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_current() -> bool {
        with_current(|_| ()).is_some()
    }

    /// Records whether it is dropped inside a receiver.
    struct Dropped<'d>(&'d mut Vec<bool>);

    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.push(has_current());
        }
    }

    fn scope<'f, F: Future<Output: Send> + Send + 'f>(future: F) -> InScope<'f, F::Output> {
        RunningReceiver::rehearsal(PoolId(1), None, Ran::default()).scope(future)
    }

    #[test]
    fn a_future_is_polled_and_dropped_in_its_scope() {
        let mut dropped = Vec::new();
        let mut pending = scope(async {
            let _dropped = Dropped(&mut dropped);
            assert!(has_current());
            std::future::pending::<()>().await;
        });
        assert!((&mut pending).now_or_never().is_none() && !has_current());
        drop(pending);
        assert_eq!(dropped, [true]);
        assert!(!has_current());
    }

    #[test]
    fn a_panic_restores_the_state_of_the_task() {
        let mut failing = scope(async { panic!("on purpose") });
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (&mut failing).now_or_never()
        }));
        assert!(polled.is_err() && !has_current());
    }
}
