//! The task that returns connections which nobody uses to sqlx's pool.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::{PRIVATE, SHARED, SHARED_RETURN_AFTER, TICK, WarmPool};
use crate::database::backend::Backend;

impl<DB: Backend> WarmPool<DB> {
    /// Starts a task that periodically returns unused connections to sqlx's pool, unless it is running already.
    pub(super) fn sweep(self: &Arc<Self>, mode: u8) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.sweeping[usize::from(mode)].swap(true, Ordering::AcqRel) {
            return;
        }
        let (period, limit) = match mode {
            PRIVATE => (self.return_after, self.return_after),
            _ => (TICK, SHARED_RETURN_AFTER),
        };
        let mut guard = SweepGuard { warm_pool: Arc::downgrade(self), mode, on: true };
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(warm_pool) = guard.warm_pool.upgrade() else { return };
                let mut idle = warm_pool.idle();
                let needed = mode == SHARED
                    && (warm_pool.may_keep_others_waiting() || warm_pool.pool.is_closed());
                let (unused, recent): (Vec<_>, Vec<_>) =
                    idle.drain(..).partition(|lease| needed || lease.idle_time() >= limit);
                *idle = recent;
                let done = idle.is_empty();
                if done {
                    // Set while the list is locked, so that the next `put_back` starts a new task.
                    warm_pool.sweeping[usize::from(mode)].store(false, Ordering::Release);
                    guard.on = false;
                }
                drop(idle);
                warm_pool.return_leases(unused);
                if done {
                    return;
                }
            }
        });
    }
}

/// Guard of the task that returns unused connections. If the task is dropped because its runtime ends, another one can be
/// started.
struct SweepGuard<DB: Backend> {
    warm_pool: Weak<WarmPool<DB>>,
    mode: u8,
    on: bool,
}

impl<DB: Backend> Drop for SweepGuard<DB> {
    fn drop(&mut self) {
        if let Some(warm_pool) = self.warm_pool.upgrade().filter(|_| self.on) {
            warm_pool.sweeping[usize::from(self.mode)].store(false, Ordering::Release);
            if self.mode == SHARED {
                // No task is left that returns them, and the program may wait for them in another runtime.
                warm_pool.discard_all();
            }
        }
    }
}
