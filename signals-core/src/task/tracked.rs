//! Counts the tasks in which the work of a pool continues, so that [`Db::close`](crate::Db::close) can wait for them.

use std::collections::HashMap;
use std::sync::LazyLock;

use tokio::sync::watch;

use crate::task::pool_id::PoolId;

/// The number of tasks of each pool. A pool without tasks has no entry. The map is global, because a save through a plain sqlx pool
/// has no longer-lived `Db` of its own.
static TASKS: LazyLock<watch::Sender<HashMap<PoolId, usize>>> =
    LazyLock::new(|| watch::Sender::new(HashMap::new()));

tokio::task_local! {
    /// The pool that counts this task.
    static COUNTED: PoolId;
}

/// Counts a task of a pool until it is dropped, which also happens if the runtime shuts down before the task has ended.
pub(crate) struct Tracked(PoolId);

impl Tracked {
    pub(crate) fn new(pool: PoolId) -> Self {
        TASKS.send_modify(|tasks| *tasks.entry(pool).or_default() += 1);
        Self(pool)
    }

    /// Runs the work of the task, and counts the task until the work is complete or dropped.
    pub(crate) async fn scope<F: Future>(self, work: F) -> F::Output {
        COUNTED.scope(self.0, work).await
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        TASKS.send_modify(|tasks| {
            if let Some(count) = tasks.get_mut(&self.0) {
                *count -= 1;
                if *count == 0 {
                    tasks.remove(&self.0);
                }
            }
        });
    }
}

/// Waits until no task of this pool is left. Returns at once in such a task, because it would wait for itself.
pub(crate) async fn wait_for_tasks(pool: PoolId) {
    if COUNTED.try_with(|counted| *counted == pool) == Ok(true) {
        return;
    }
    // The error would be that the sender was dropped, but the sender is a static.
    let _ = TASKS.subscribe().wait_for(|tasks| !tasks.contains_key(&pool)).await;
}
