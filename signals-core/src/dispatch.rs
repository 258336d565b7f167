use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::Instrument;

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
            if entry.info.robust {
                robust(entry, &mut event, conn.as_deref_mut(), db, operation).await?;
            } else {
                let cx = Cx::new(conn.as_deref_mut(), db);
                call(entry, S::reborrow::<M>(&mut event), cx, operation).await?;
            }
        }
    }
    Ok(())
}

fn wants<S: Signal, M: Model>(entry: &Entry<S, M>, event: &S::Event<'_, M>) -> bool {
    entry.info.created.is_none() || entry.info.created == S::created::<M>(event)
}

/// Runs a receiver whose failure is only logged: where it has the connection, in a savepoint, so that what it did is
/// undone, and a statement of it that fails does not end the transaction.
async fn robust<S: Signal, M: Model>(
    entry: &Entry<S, M>,
    event: &mut S::Event<'_, M>,
    conn: Option<&mut Conn<'_>>,
    db: Option<&Db>,
    operation: &Arc<Operation>,
) -> Result<()> {
    let done = match conn {
        Some(conn) if entry.info.connection => {
            let mut savepoint = conn.begin().await?;
            let cx = Cx::new(Some(&mut *savepoint), db);
            match call(entry, S::reborrow::<M>(event), cx, operation).await {
                Ok(()) => savepoint.commit().await.map(drop),
                Err(error) => {
                    savepoint.rollback().await?;
                    Err(error)
                }
            }
        }
        conn => call(entry, S::reborrow::<M>(event), Cx::new(conn, db), operation).await,
    };
    // It is in the log by now.
    drop(done);
    Ok(())
}

async fn call<'a, S: Signal, M: Model>(
    entry: &Entry<S, M>,
    event: S::Event<'a, M>,
    cx: Cx<'a, '_>,
    operation: &Arc<Operation>,
) -> Result<()> {
    let Info { name, signal, sender, .. } = *entry.info;
    let span = tracing::debug_span!("receiver", receiver = name, signal, sender);
    let begun = Instant::now();
    let current = operation.run(entry.info);
    let done = match &entry.call {
        Call::Sync(call) => {
            let call = || span.in_scope(|| current.sync_scope(|| call(event, cx)));
            catch_unwind(AssertUnwindSafe(call))
        }
        Call::Async(call) => {
            AssertUnwindSafe(current.scope(call(event, cx)).instrument(span)).catch_unwind().await
        }
        Call::Shared(call) => {
            AssertUnwindSafe(current.scope(call(event, cx)).instrument(span)).catch_unwind().await
        }
    };
    let error = match done {
        Ok(Ok(())) => {
            tracing::debug!(receiver = name, signal, sender, elapsed = ?begun.elapsed(), "received");
            return Ok(());
        }
        Ok(Err(error)) => failed(entry.info, error),
        Err(payload) => failed(entry.info, Box::new(Panicked::new(payload))),
    };
    let cause = error.source().map(|cause| cause as &dyn StdError);
    tracing::error!(
        receiver = name, signal, sender, elapsed = ?begun.elapsed(), cause, "a receiver failed"
    );
    Err(error)
}

fn failed(info: &'static Info, source: BoxError) -> Error {
    let Info { name: receiver, signal, sender, file, line, .. } = *info;
    Error::Receiver(Box::new(ReceiverError { receiver, signal, sender, file, line, source }))
}

/// An event, and those who wait for the end of its transaction.
pub(crate) struct Postponed<S: Signal, M: Model> {
    kept: S::Kept<M>,
    entries: Arc<[Entry<S, M>]>,
    db: Option<Db>,
    operation: Arc<Operation>,
}

impl<S: Signal, M: Model> Postponed<S, M> {
    /// Keeps the event, where somebody waits for it.
    pub(crate) fn of(
        entries: &Arc<[Entry<S, M>]>,
        event: &S::Event<'_, M>,
        db: Option<&Db>,
        operation: &Arc<Operation>,
    ) -> Option<Box<Self>> {
        let keep = entries.iter().find(|e| wants(e, event))?.keep?;
        let operation = Arc::clone(operation);
        let entries = Arc::clone(entries);
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
                let cx = Cx::new(None, self.db.as_ref());
                errors.extend(call(entry, event, cx, &operation).await.err());
            }
            errors
        })
    }
}
