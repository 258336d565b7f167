//! The closures of `Db::transaction` that the running task is inside of. Each write in a closure is checked against them: whether it would
//! wait for the transaction of the closure, and whether it is part of that transaction.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};

use smallvec::SmallVec;

use crate::error::{CLOSURE, Error, Result};
use crate::task::pool_id::{PoolId, QueueId};

tokio::task_local! {
    /// The closures of `Db::transaction` that the task is inside of.
    static CLOSURES: SmallVec<[Closure; 1]>;
}

/// The closure of a `Db::transaction`.
#[derive(Clone, Copy)]
pub(crate) struct Closure {
    /// The pool of the transaction.
    pub(crate) pool: PoolId,
    /// Whether the transaction has the only connection of the pool.
    pub(crate) has_only_connection: bool,
    /// The queue of the writers of a SQLite database, if the transaction holds its write lock.
    pub(crate) queue: Option<QueueId>,
    /// The call of `Db::transaction`.
    pub(crate) site: &'static Location<'static>,
}

/// # Errors
///
/// [`Error::WouldDeadlock`] if the closure of a `Db::transaction` that this task is inside of has the only connection of the pool.
pub(crate) fn check_not_only(pool: PoolId) -> Result<()> {
    check(|closure| closure.pool == pool && closure.has_only_connection)
}

/// # Errors
///
/// [`Error::WouldDeadlock`] if the closure of a `Db::transaction` that this task is inside of holds the write lock of the database.
pub(crate) fn check_not_locked(queue: QueueId) -> Result<()> {
    check(|closure| closure.queue == Some(queue))
}

fn check(is_held: impl Fn(&Closure) -> bool) -> Result<()> {
    let held = |closures: &SmallVec<[Closure; 1]>| closures.iter().copied().find(&is_held);
    match CLOSURES.try_with(held).ok().flatten() {
        Some(Closure { site, .. }) => {
            Err(Error::WouldDeadlock { receiver: CLOSURE, site: Some(site) })
        }
        None => Ok(()),
    }
}

/// Warns of a write in a closure that is not part of the transaction of the closure, once for each call of `Db::transaction`.
pub(crate) fn warn_beside(pool: PoolId) {
    static WARNED: Mutex<BTreeSet<(&str, u32, u32)>> = Mutex::new(BTreeSet::new());
    let of_pool = |closures: &SmallVec<[Closure; 1]>| {
        closures.iter().find(|closure| closure.pool == pool).map(|closure| closure.site)
    };
    let Some(site) = CLOSURES.try_with(of_pool).ok().flatten() else { return };
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_new = warned.insert((site.file(), site.line(), site.column()));
    drop(warned);
    if is_new {
        tracing::warn!(
            transaction = %site,
            "this write is not part of the transaction: the closure of `db.transaction` uses the `Db` instead of `tx`"
        );
    }
}

/// Runs the closure of a `Db::transaction`.
pub(crate) fn in_closure<F: Future>(closure: Closure, work: F) -> impl Future<Output = F::Output> {
    let mut closures = CLOSURES.try_with(Clone::clone).unwrap_or_default();
    closures.push(closure);
    CLOSURES.scope(closures, work)
}
