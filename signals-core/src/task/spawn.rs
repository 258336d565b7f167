//! Spawns work that continues after the future that started it was dropped.

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::task::chain::RunningReceiver;
use crate::task::mute::Muted;
use crate::task::origin::origin;

/// Spawns a future whose caller was dropped. The new task takes over the task-local state of the task that drops the caller: the
/// muted receivers, the task on whose behalf it runs, and the receivers that it is inside of.
pub(crate) fn spawn<F>(runtime: &Handle, future: F)
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut future: BoxFuture<'static, F::Output> = Box::pin(future);
    if let Some(muted) = Muted::of_task() {
        future = Box::pin(muted.scope(future));
    }
    if let Some(origin) = origin() {
        future = Box::pin(origin.scope(future));
    }
    if let Some(current) = RunningReceiver::detached() {
        future = Box::pin(current.scope(future));
    }
    runtime.spawn(future);
}
