//! Work that goes on without the future that began it.

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::task::chain::RunningReceiver;
use crate::task::mute::Muted;
use crate::task::origin::origin;

/// Spawns what goes on when its caller is dropped. It keeps what is known of the task that drops it: which receivers are
/// muted, who records, and of which receivers it is the doing.
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
