//! What the running task knows of the receivers that it is inside of: for recursion, and for the connection that a
//! receiver must not wait for.

use std::any::TypeId;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::task::info::{Identity, Info};
use crate::task::observed;
use crate::task::origin::{self, Origin};

tokio::task_local! {
    static CURRENT: RunningReceiver;
}

static LIMIT: AtomicUsize = AtomicUsize::new(16);

/// A pool, told from others by its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PoolId(usize);

impl PoolId {
    pub(crate) fn of<DB: sqlx::Database>(pool: &sqlx::Pool<DB>) -> Self {
        // The options live as long as the pool, at one place, and are shared by its clones.
        Self(std::ptr::from_ref(pool.options()) as usize)
    }
}

/// The receiver that runs now, and the operation that it receives.
#[derive(Clone)]
pub(crate) struct RunningReceiver {
    call: Arc<Operation>,
    receiver: Identity,
}

/// One operation with receivers: a link in the chain that recursion prints.
pub(crate) struct Operation {
    /// Whose receiver made this operation.
    cause: Option<RunningReceiver>,
    /// In the transactions of which receivers this one runs.
    inside: Option<RunningReceiver>,
    /// The pool whose connection the in-transaction receivers of this operation hold.
    holds: Option<PoolId>,
    verb: &'static str,
    model: &'static str,
    depth: usize,
    /// Whose doing it is, where somebody records.
    origin: Option<Origin>,
    /// The receivers of this operation run in the rehearsal of a commit, and are noted there.
    rehearsal: Option<Ran>,
}

/// The receivers that ran in the rehearsal of a commit.
pub(crate) type Ran = Arc<Mutex<Vec<Identity>>>;

impl Operation {
    /// # Errors
    ///
    /// [`Error::Recursion`] where the chain is as long as the limit.
    pub(crate) fn enter(
        verb: &'static str,
        model: &'static str,
        holds: Option<PoolId>,
    ) -> Result<Arc<Self>> {
        let cause = RunningReceiver::get();
        if let Some(cause) = &cause {
            observed::note(cause.receiver.info, verb, model);
        }
        let depth = cause.as_ref().map_or(1, |c| c.call.depth + 1);
        let (inside, origin) = (cause.clone(), origin::origin());
        let call = Self { inside, cause, holds, verb, model, depth, origin, rehearsal: None };
        let limit = LIMIT.load(Ordering::Relaxed);
        if depth > limit {
            return Err(Error::Recursion { chain: call.chain(), limit });
        }
        Ok(Arc::new(call))
    }

    /// The same operation, for the receivers that run after its transaction: its pool is free again, but for what
    /// `holds` says and for the transactions that the task is in at that time.
    pub(crate) fn afterwards(self: &Arc<Self>, holds: Option<PoolId>) -> Arc<Self> {
        let around = RunningReceiver::get();
        Arc::new(Self {
            cause: self.cause.clone(),
            rehearsal: around.as_ref().and_then(|current| current.call.rehearsal.clone()),
            inside: around,
            holds,
            verb: self.verb,
            model: self.model,
            depth: self.depth,
            origin: self.origin,
        })
    }

    /// What is done, and to which model; or what is sent.
    pub(crate) fn about(&self) -> (&'static str, &'static str) {
        (self.verb, self.model)
    }

    /// Takes note of a receiver that is about to run.
    pub(crate) fn note(&self, receiver: &Identity) {
        if let Some(ran) = &self.rehearsal {
            ran.lock().unwrap_or_else(PoisonError::into_inner).push(receiver.clone());
        }
    }

    /// What the task knows while the receiver runs.
    pub(crate) fn receiving(self: &Arc<Self>, receiver: Identity) -> RunningReceiver {
        RunningReceiver { call: Arc::clone(self), receiver }
    }

    /// The error where what this operation does makes it do more and more.
    pub(crate) fn recursion(&self, limit: usize) -> Error {
        Error::Recursion { chain: self.chain(), limit }
    }

    fn chain(&self) -> String {
        let mut links = vec![format!("{} of `{}`", self.verb, self.model)];
        let mut next = self.cause.as_ref();
        while let Some(RunningReceiver { call, receiver }) = next {
            links.push(format!("{} of `{}` → `{}`", call.verb, call.model, receiver.name()));
            next = call.cause.as_ref();
        }
        let mut chain = String::new();
        for (i, link) in links.iter().rev().enumerate() {
            let _ = write!(chain, "{}{link}", if i == 0 { "" } else { " → " });
        }
        chain
    }
}

/// What runs after a commit, where it is no receiver.
static CALLBACK: Info =
    Info::of(TypeId::of::<Callback>(), "a callback of `on_commit`", file!(), line!());

struct Callback;

impl RunningReceiver {
    fn get() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// What work knows that goes on without the receiver that it was begun in: what caused it, but not whose connection
    /// is in use, because that goes back with the receiver.
    pub(crate) fn detached() -> Option<Self> {
        let Self { call, receiver } = Self::get()?;
        let call = Operation {
            cause: call.cause.clone(),
            inside: None,
            holds: None,
            verb: call.verb,
            model: call.model,
            depth: call.depth,
            origin: call.origin,
            rehearsal: call.rehearsal.clone(),
        };
        Some(Self { call: Arc::new(call), receiver })
    }

    /// Runs a receiver's future with this as the task's current receiver.
    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// What waits for a commit that is only rehearsed: its transaction is open, and `holds` is its pool.
    pub(crate) fn rehearsal(holds: PoolId, ran: Ran) -> Self {
        let around = Self::get();
        let call = Operation {
            inside: around.clone(),
            depth: around.as_ref().map_or(1, |current| current.call.depth + 1),
            cause: around,
            holds: Some(holds),
            verb: "commit",
            model: "a rehearsal",
            origin: origin::origin(),
            rehearsal: Some(ran),
        };
        Self { call: Arc::new(call), receiver: Identity::linked(&CALLBACK) }
    }

    pub(crate) fn sync_scope<T>(self, receiver: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, receiver)
    }
}

/// # Errors
///
/// [`Error::WouldDeadlock`] where a receiver that this task is inside of holds a connection of `pool`.
pub(crate) fn check_not_held(pool: PoolId) -> Result<()> {
    CURRENT
        .try_with(|current| {
            let mut next = Some(current);
            while let Some(RunningReceiver { call, receiver }) = next {
                if call.holds == Some(pool) {
                    return Err(if std::ptr::eq(receiver.info, &raw const CALLBACK) {
                        Error::OnlyRehearsed { receiver: current.receiver.static_name() }
                    } else {
                        Error::WouldDeadlock { receiver: receiver.static_name() }
                    });
                }
                next = call.inside.as_ref();
            }
            Ok(())
        })
        .unwrap_or(Ok(()))
}

/// Whose doing it is that the current receiver runs, where that is known.
pub(crate) fn origin() -> Option<Origin> {
    CURRENT.try_with(|current| current.call.origin).ok().flatten()
}

/// In a debug build, takes note of what the current receiver does without a [`Operation`], for it has no receivers.
pub(crate) fn observe(verb: &'static str, model: &'static str) {
    if cfg!(debug_assertions) {
        let _ = CURRENT.try_with(|current| observed::note(current.receiver.info, verb, model));
    }
}

pub(crate) fn recursion_limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

pub(crate) fn set_recursion_limit(limit: usize) {
    LIMIT.store(limit, Ordering::Relaxed);
}
