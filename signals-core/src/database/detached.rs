//! A statement that goes on where its caller is dropped: it was sent, and may be stored whether or not anybody waits for it.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::runtime::Handle;

use crate::database::backend::{AnyRow, Statement};
use crate::database::execution::Execution;
use crate::database::raw::AnyLease;
use crate::error::driver::is_outdated;
use crate::task::finish::Resumable;

/// What a statement has returned, and how many rows it has affected.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) rows: SmallVec<[AnyRow; 1]>,
    pub(crate) affected: u64,
}

/// What handles the answer of a statement whose future was dropped. The layer that sent the statement knows its type.
pub(crate) type OnDetached = Box<dyn Any + Send>;

/// A statement on its way, with the connection that it is on.
pub(crate) struct DetachableStatement<'r> {
    resumable: Resumable<SentStatement>,
    slot: &'r mut Option<AnyLease>,
    detached: &'r mut Option<Box<DetachedStatement>>,
    on_detached: &'r (dyn Fn() -> OnDetached + Send + Sync),
}

type SentStatement = dyn Future<Output = (AnyLease, Result<Answer, sqlx::Error>)> + Send;

/// A statement that is still on its way, and nobody waits for it.
pub(crate) struct DetachedStatement {
    pub(crate) future: Pin<Box<SentStatement>>,
    pub(crate) runtime: Handle,
    pub(crate) on_detached: OnDetached,
}

impl<'r> DetachableStatement<'r> {
    /// Of a statement on the connection of a slot, which is empty meanwhile.
    pub(crate) fn new(
        mut pooled: AnyLease,
        slot: &'r mut Option<AnyLease>,
        detached: &'r mut Option<Box<DetachedStatement>>,
        (statement, one): (Statement, bool),
        on_detached: &'r (dyn Fn() -> OnDetached + Send + Sync),
    ) -> Self {
        let future = Box::pin(async move {
            pooled.set_in_flight();
            let mut rows = SmallVec::new();
            let one = one && pooled.is_proven_alive();
            let naming = pooled.naming();
            let running = Execution::new(pooled.raw(), statement, one, naming);
            let mut answered = false;
            let done = running.run_noting_answer(&mut |row| rows.push(row), &mut answered).await;
            if answered {
                pooled.set_proven_alive();
            }
            if done.as_ref().is_err_and(is_outdated) {
                pooled.set_outdated();
            }
            (pooled, done.map(|affected| Answer { rows, affected }))
        });
        Self { resumable: Resumable::new(future), slot, detached, on_detached }
    }
}

impl Future for DetachableStatement<'_> {
    type Output = Result<Answer, sqlx::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.resumable.poll(cx).map(|(pooled, answer)| {
            *self.slot = Some(pooled);
            answer
        })
    }
}

impl Drop for DetachableStatement<'_> {
    fn drop(&mut self) {
        if let Some((future, runtime)) = self.resumable.take() {
            *self.detached = Some(Box::new(DetachedStatement {
                future,
                runtime,
                on_detached: (self.on_detached)(),
            }));
        }
    }
}
