//! The task on whose behalf an operation runs. The recorders of tests use it to tell concurrent tests apart.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

use tokio::task;

use crate::task::chain;

/// The number of recorders in the whole process.
static RECORDING: AtomicUsize = AtomicUsize::new(0);

tokio::task_local! {
    /// The origin that this task has taken over from another task.
    static FOLLOWED: Origin;
}

/// Counts a recorder until it is dropped.
pub(crate) struct RecorderCount(());

impl RecorderCount {
    pub(crate) fn new() -> Self {
        RECORDING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for RecorderCount {
    fn drop(&mut self) {
        RECORDING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Identifies a task for recorders. The future of `block_on`, and so the body of a `#[tokio::test]`, is not a task with an id. It
/// is identified by its thread: everything else that runs on that thread in the meantime is a task with an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Task(task::Id),
    Thread(ThreadId),
}

/// The task on whose behalf the current code runs, if any recorder exists. For a receiver, this is the task of the save that it
/// receives, even if the receiver runs on another task.
pub(crate) fn origin() -> Option<Origin> {
    if any() { Some(Origin::of_recorder()) } else { None }
}

/// Whether any recorder exists.
pub(crate) fn any() -> bool {
    RECORDING.load(Ordering::Relaxed) > 0
}

impl Origin {
    /// Runs `future` on behalf of this task.
    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        FOLLOWED.scope(self, future)
    }

    /// The task whose operations a new recorder records. A recorder that is created in a receiver records the task on whose
    /// behalf the receiver runs.
    pub(crate) fn of_recorder() -> Self {
        chain::origin().unwrap_or_else(Self::here)
    }

    fn here() -> Self {
        let this =
            || task::try_id().map_or_else(|| Self::Thread(thread::current().id()), Self::Task);
        FOLLOWED.try_with(|followed| *followed).unwrap_or_else(|_| this())
    }
}
