//! The task on whose behalf an operation runs, for recorders of tests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

use tokio::task;

use crate::task::chain;

/// How many record at the moment, in the whole process.
static RECORDING: AtomicUsize = AtomicUsize::new(0);

tokio::task_local! {
    /// The task that this one counts as.
    static FOLLOWED: Origin;
}

/// Counts one more recorder, until it is dropped.
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

/// A task as recorders tell one from another. `block_on`, and so the body of a `#[tokio::test]`, is no task to tokio; it
/// stays on its thread, and nothing else runs there meanwhile but tasks, which have an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Task(task::Id),
    Thread(ThreadId),
}

/// The task whose doing this is, where anybody records: a receiver's is that of the save that it receives, wherever the
/// receiver runs by now.
pub(crate) fn origin() -> Option<Origin> {
    if any() { Some(Origin::of_recorder()) } else { None }
}

/// Whether anybody records at all.
pub(crate) fn any() -> bool {
    RECORDING.load(Ordering::Relaxed) > 0
}

impl Origin {
    /// Runs `future` as the doing of this task.
    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        FOLLOWED.scope(self, future)
    }

    /// The task for which a recorder that begins now records: a receiver that records does so for the task that it runs for.
    pub(crate) fn of_recorder() -> Self {
        chain::origin().unwrap_or_else(Self::here)
    }

    fn here() -> Self {
        let this =
            || task::try_id().map_or_else(|| Self::Thread(thread::current().id()), Self::Task);
        FOLLOWED.try_with(|followed| *followed).unwrap_or_else(|_| this())
    }
}
