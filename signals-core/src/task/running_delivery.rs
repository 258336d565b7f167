//! The delivery that the task is running. Only the layer `durable` knows its type.

use std::any::Any;
use std::sync::Arc;

tokio::task_local! {
    static RUNNING: Arc<dyn Any + Send + Sync>;
}

/// The delivery that the task is running, if any.
pub(crate) fn of_task() -> Option<Arc<dyn Any + Send + Sync>> {
    RUNNING.try_with(Clone::clone).ok()
}

/// Runs `future` as a part of a delivery.
pub(crate) fn scope<F: Future>(
    delivery: Arc<dyn Any + Send + Sync>,
    future: F,
) -> impl Future<Output = F::Output> + use<F> {
    RUNNING.scope(delivery, future)
}
