//! A statement that keeps running when the future awaiting it is dropped. The server may have executed it, so its result still has
//! to be handled.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::runtime::Handle;

use crate::database::backend::{AnyRow, Statement};
use crate::database::execution::{Execution, Returns, if_answered};
use crate::database::lease::AnyLease;
use crate::error::driver::is_outdated;
use crate::task::finish::Resumable;

/// The rows that a statement returned, and the number of rows that it affected.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) rows: SmallVec<[AnyRow; 1]>,
    pub(crate) affected: u64,
}

/// Handles the answer of a statement whose future was dropped. The layer that sent the statement knows the concrete type.
pub(crate) type OnDetached = Box<dyn Any + Send>;

/// A statement that is being executed, together with its connection. If it is dropped, a [`DetachedStatement`] is stored in
/// `TransactionState::detached`.
pub(crate) struct DetachableStatement<'r> {
    resumable: Resumable<SentStatement>,
    slot: &'r mut Option<AnyLease>,
    detached: &'r mut Option<Box<DetachedStatement>>,
    on_detached: &'r (dyn Fn() -> OnDetached + Send + Sync),
}

/// Returns the connection, the result, and whether the database has answered.
type SentStatement = dyn Future<Output = (AnyLease, Result<Answer, sqlx::Error>, bool)> + Send;

/// A statement that is still being executed after its future was dropped.
pub(crate) struct DetachedStatement {
    pub(crate) future: Pin<Box<SentStatement>>,
    pub(crate) runtime: Handle,
    pub(crate) on_detached: OnDetached,
}

impl<'r> DetachableStatement<'r> {
    /// Executes a statement on `lease`, which is put back into `slot` afterwards.
    pub(crate) fn new(
        mut lease: AnyLease,
        slot: &'r mut Option<AnyLease>,
        detached: &'r mut Option<Box<DetachedStatement>>,
        (mut statement, one): (Statement, bool),
        on_detached: &'r (dyn Fn() -> OnDetached + Send + Sync),
    ) -> Self {
        let future = Box::pin(async move {
            lease.state_mut().set_in_flight();
            let mut rows = SmallVec::new();
            let one = one && lease.state().proven_alive;
            let returns = if one { Returns::OneRow } else { Returns::Rows };
            let naming = lease.state_mut().naming_of(&mut statement);
            let execution = Execution::new(Some(lease.raw()), statement, returns, naming);
            let mut answered = false;
            let result =
                execution.run_noting_answer(&mut |row| rows.push(row), &mut answered).await;
            let result = if_answered(result, answered);
            if answered {
                lease.state_mut().proven_alive = true;
            }
            if result.as_ref().is_err_and(is_outdated) {
                lease.set_statements_outdated();
            }
            (lease, result.map(|affected| Answer { rows, affected }), answered)
        });
        Self { resumable: Resumable::new(future), slot, detached, on_detached }
    }
}

impl Future for DetachableStatement<'_> {
    /// With whether the database has answered.
    type Output = (Result<Answer, sqlx::Error>, bool);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.resumable.poll(cx).map(|(lease, answer, answered)| {
            *self.slot = Some(lease);
            (answer, answered)
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
