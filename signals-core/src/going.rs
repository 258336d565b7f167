//! A statement that goes on where its caller is dropped: it was sent, and may be stored whether or not anybody waits for it.

use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::runtime::Handle;

use crate::backend::{AnyRow, Statement};
use crate::error::Result;
use crate::finish::Begun;
use crate::heard::Written;
use crate::instances::Instances;
use crate::link::{Pooled, is_outdated};
use crate::running::Running;

/// What a statement has returned, and how many rows it has affected.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) rows: SmallVec<[AnyRow; 1]>,
    pub(crate) affected: u64,
}

/// Takes the answer into a copy of the rows, in place of whoever sent the statement.
pub(crate) type Heir = Box<dyn FnOnce(&mut dyn Instances, Answer) -> Result<Written> + Send>;

/// A statement on its way, with the connection that it is on.
pub(crate) struct Going<'r> {
    begun: Begun<Sent>,
    slot: &'r mut Option<Pooled>,
    left: &'r mut Option<Box<Left>>,
    heir: &'r (dyn Fn() -> Heir + Send + Sync),
}

type Sent = dyn Future<Output = (Pooled, Result<Answer, sqlx::Error>)> + Send;

/// A statement that is still on its way, and nobody waits for it.
pub(crate) struct Left {
    pub(crate) sent: Pin<Box<Sent>>,
    pub(crate) runtime: Handle,
    pub(crate) heir: Heir,
}

impl<'r> Going<'r> {
    /// Of a statement on the connection of a slot, which is empty meanwhile.
    pub(crate) fn new(
        mut pooled: Pooled,
        slot: &'r mut Option<Pooled>,
        left: &'r mut Option<Box<Left>>,
        (statement, one): (Statement, bool),
        heir: &'r (dyn Fn() -> Heir + Send + Sync),
    ) -> Self {
        let sent = Box::pin(async move {
            pooled.set_busy();
            let mut rows = SmallVec::new();
            let one = one && pooled.has_answered();
            let naming = pooled.naming();
            let running = Running::new(pooled.raw(), statement, one, naming);
            let mut answered = false;
            let done = running.end_answered(&mut |row| rows.push(row), &mut answered).await;
            if answered {
                pooled.set_answered();
            }
            if done.as_ref().is_err_and(is_outdated) {
                pooled.set_outdated();
            }
            (pooled, done.map(|affected| Answer { rows, affected }))
        });
        Self { begun: Begun::new(sent), slot, left, heir }
    }
}

impl Future for Going<'_> {
    type Output = Result<Answer, sqlx::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.begun.poll(cx).map(|(pooled, answer)| {
            *self.slot = Some(pooled);
            answer
        })
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        if let Some((sent, runtime)) = self.begun.leave() {
            *self.left = Some(Box::new(Left { sent, runtime, heir: (self.heir)() }));
        }
    }
}
