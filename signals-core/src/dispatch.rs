use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::conn::Conn;
use crate::context::{Call as Operation, PoolId};
use crate::db::Db;
use crate::error::{BoxError, Error, Panicked, ReceiverError, Result};
use crate::model::Model;
use crate::receiver::{Call, Cx, Entry, Info, Phase};
use crate::signal::Signal;
use crate::transaction::{Deferred, End};

/// Runs the receivers in order, to the first error.
pub(crate) async fn dispatch<S: Signal, M: Model>(
    entries: &[Entry<S, M>],
    mut event: S::Event<'_, M>,
    mut conn: Option<&mut Conn<'_>>,
    db: Option<&Db>,
    operation: &Arc<Operation>,
) -> Result<()> {
    for entry in entries {
        if wants(entry, &event) {
            let cx = Cx { conn: conn.as_deref_mut(), db };
            call(entry, S::reborrow::<M>(&mut event), cx, operation).await?;
        }
    }
    Ok(())
}

fn wants<S: Signal, M: Model>(entry: &Entry<S, M>, event: &S::Event<'_, M>) -> bool {
    entry.info.created.is_none() || entry.info.created == S::created::<M>(event)
}

async fn call<'a, S: Signal, M: Model>(
    entry: &Entry<S, M>,
    event: S::Event<'a, M>,
    cx: Cx<'a, '_>,
    operation: &Arc<Operation>,
) -> Result<()> {
    let current = operation.run(entry.info);
    let done = match entry.call {
        Call::Sync(call) => {
            catch_unwind(AssertUnwindSafe(|| current.sync_scope(|| call(event, cx))))
        }
        Call::Async(call) => AssertUnwindSafe(current.scope(call(event, cx))).catch_unwind().await,
    };
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(entry.info, error)),
        Err(payload) => Err(failed(entry.info, Box::new(Panicked::new(payload)))),
    }
}

fn failed(info: &'static Info, source: BoxError) -> Error {
    let Info { name: receiver, signal, sender, file, line, .. } = *info;
    Error::Receiver(Box::new(ReceiverError { receiver, signal, sender, file, line, source }))
}

/// An event, and those who wait for the end of its transaction.
pub(crate) struct Postponed<S: Signal, M: Model> {
    kept: S::Kept<M>,
    entries: &'static [Entry<S, M>],
    db: Option<Db>,
    operation: Arc<Operation>,
}

impl<S: Signal, M: Model> Postponed<S, M> {
    /// Keeps the event, where somebody waits for it.
    pub(crate) fn of(
        entries: &'static [Entry<S, M>],
        event: &S::Event<'_, M>,
        db: Option<&Db>,
        operation: &Arc<Operation>,
    ) -> Option<Box<Self>> {
        let keep = entries.iter().find(|e| wants(e, event))?.keep?;
        let operation = Arc::clone(operation);
        Some(Box::new(Self { kept: keep(event), entries, db: db.cloned(), operation }))
    }
}

impl<S: Signal, M: Model> Deferred for Postponed<S, M> {
    fn run(self: Box<Self>, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        let phase = match end {
            End::Committed => Phase::OnCommit,
            End::RolledBack => Phase::OnRollback,
        };
        Box::pin(async move {
            let operation = self.operation.afterwards(holds);
            let mut errors = Vec::new();
            for entry in self.entries.iter().filter(|e| e.info.phase == phase) {
                let event = S::replay::<M>(&self.kept);
                if !wants(entry, &event) {
                    continue;
                }
                let cx = Cx { conn: None, db: self.db.as_ref() };
                if let Err(error) = call(entry, event, cx, &operation).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a receiver failed after its transaction had ended"
                    );
                    errors.push(error);
                }
            }
            errors
        })
    }
}
