//! Spawns work that continues after the future that started it was dropped.

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::task::chain::RunningReceiver;
use crate::task::mute::Muted;
use crate::task::origin::origin;
use crate::task::pool_id::PoolId;
#[cfg(feature = "durable")]
use crate::task::running_delivery;
use crate::task::tracked::Tracked;

/// Spawns a future that no caller awaits, for example because its caller was dropped. The new task takes over the task-local state of
/// the current one: the muted receivers, the task on whose behalf it runs, the receivers that it is inside of, and the delivery that it is running.
///
/// If the future works for a pool, closing the `Db` of that pool waits for it.
pub(crate) fn spawn<F>(runtime: &Handle, pool: Option<PoolId>, future: F)
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut future: BoxFuture<'static, F::Output> = Box::pin(future);
    if let Some(muted) = Muted::of_task() {
        future = Box::pin(muted.scope(future));
    }
    #[cfg(feature = "durable")]
    if let Some(delivery) = running_delivery::of_task() {
        future = Box::pin(running_delivery::scope(delivery, future));
    }
    if let Some(origin) = origin() {
        future = Box::pin(origin.scope(future));
    }
    if let Some(current) = RunningReceiver::detached() {
        future = Box::pin(current.scope(future));
    }
    if let Some(tracked) = pool.map(Tracked::new) {
        future = Box::pin(tracked.scope(future));
    }
    runtime.spawn(future);
}
