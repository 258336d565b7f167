use std::error::Error as StdError;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{Instrument, Span};

use crate::any::Snapshot;
use crate::conn::Conn;
use crate::context::{Call as Operation, Current, PoolId};
use crate::error::{BoxError, Error, Panicked, ReceiverError, Result};
use crate::previous::SharedBefore;
use crate::receiver::{Call, Cx, Entry, Info, Phase};
use crate::signal::{Signal, Subject};
use crate::transaction::{Deferred, End};
use crate::unit::Scene;

/// Runs the receivers in order, to the first error.
pub(crate) async fn dispatch<S: Signal, M: Send + Sync + 'static>(
    entries: &[Entry<S, M>],
    mut event: S::Event<'_, M>,
    mut conn: Option<&mut Conn<'_>>,
    scene: &Scene,
    before: &SharedBefore,
) -> Result<()> {
    for entry in entries {
        if wants(entry.info, S::created::<M>(&event), before) {
            if entry.info.robust {
                // Whatever became of it is in the log by now.
                let _ = robust(entry, &mut event, conn.as_deref_mut(), scene, before).await;
            } else {
                let cx = Cx::new(conn.as_deref_mut(), scene.db.as_ref(), before.as_deref());
                call(entry, S::reborrow::<M>(&mut event), cx, &scene.operation).await?;
            }
        }
    }
    Ok(())
}

/// Runs every receiver, each in a savepoint of its own where it takes the connection, and returns what became of each.
pub(crate) async fn dispatch_robust<S: Signal, M: Send + Sync + 'static>(
    entries: &[Entry<S, M>],
    mut event: S::Event<'_, M>,
    mut conn: Option<&mut Conn<'_>>,
    scene: &Scene,
) -> Vec<(&'static Info, Result<()>)> {
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        let done = robust(entry, &mut event, conn.as_deref_mut(), scene, &None).await;
        results.push((entry.info, done));
    }
    results
}

/// Whether a receiver wants to hear of an event.
fn wants(info: &Info, created: Option<bool>, before: &SharedBefore) -> bool {
    let changed = || match before {
        Some(before) => info.changed.iter().any(|column| before.changed(column)),
        None => true,
    };
    (info.created.is_none() || info.created == created) && (info.changed.is_empty() || changed())
}

/// Runs a receiver whose failure is only logged: where it has the connection, in a savepoint, so that what it did is
/// undone, and a statement of it that fails does not end the transaction.
async fn robust<S: Signal, M: Send + Sync + 'static>(
    entry: &Entry<S, M>,
    event: &mut S::Event<'_, M>,
    conn: Option<&mut Conn<'_>>,
    scene: &Scene,
    before: &SharedBefore,
) -> Result<()> {
    let (db, before) = (scene.db.as_ref(), before.as_deref());
    match conn {
        Some(conn) if entry.info.connection => {
            let begun = conn.begin().await;
            let mut savepoint = begun.inspect_err(|error| not_run(entry.info, error))?;
            let cx = Cx::new(Some(&mut *savepoint), db, before);
            match call(entry, S::reborrow::<M>(event), cx, &scene.operation).await {
                Ok(()) => {
                    let released = savepoint.commit().await.map(drop);
                    released.inspect_err(|error| not_run(entry.info, error))
                }
                Err(error) => {
                    savepoint.rollback_or_log().await;
                    Err(error)
                }
            }
        }
        conn => {
            let cx = Cx::new(conn, db, before);
            call(entry, S::reborrow::<M>(event), cx, &scene.operation).await
        }
    }
}

/// The savepoint of a receiver could not be begun or released.
fn not_run(info: &Info, error: &Error) {
    let Info { name, signal, sender, .. } = *info;
    let cause = Some(error as &dyn StdError);
    tracing::error!(receiver = name, signal, sender, cause, "a receiver has no savepoint");
}

async fn call<'a, S: Signal, M: Send + Sync + 'static>(
    entry: &Entry<S, M>,
    event: S::Event<'a, M>,
    cx: Cx<'a, '_>,
    operation: &Arc<Operation>,
) -> Result<()> {
    let started = match &entry.call {
        Call::Any(any, erase) => {
            start(entry.info, &any.call, erase(event, PhantomData), cx, operation)
        }
        own => start(entry.info, own, event, cx, operation),
    };
    started.end().await
}

/// A receiver that runs, or one that has run.
struct Started<'a> {
    info: &'static Info,
    begun: Instant,
    run: Run<'a>,
}

enum Run<'a> {
    Done(std::thread::Result<Result<(), BoxError>>),
    Future(BoxFuture<'a, Result<(), BoxError>>, Current, Span),
}

fn start<'a, S: Signal, M: ?Sized + Subject>(
    info: &'static Info,
    call: &Call<S, M>,
    event: S::Event<'a, M>,
    cx: Cx<'a, '_>,
    operation: &Arc<Operation>,
) -> Started<'a> {
    let Info { name, signal, sender, .. } = *info;
    let span = tracing::debug_span!("receiver", receiver = name, signal, sender);
    let begun = Instant::now();
    let current = operation.run(info);
    let run = match call {
        Call::Sync(call) => {
            let call = || span.in_scope(|| current.sync_scope(|| call(event, cx)));
            Run::Done(catch_unwind(AssertUnwindSafe(call)))
        }
        Call::Async(call) => Run::Future(call(event, cx), current, span),
        Call::Shared(call) => Run::Future(call(event, cx), current, span),
        Call::Any(..) => unreachable!("one of every model is not one of every model once more"),
    };
    Started { info, begun, run }
}

impl Started<'_> {
    /// How it ended: a panic is an error, and both are in the log.
    async fn end(self) -> Result<()> {
        let Self { info, begun, run } = self;
        let done = match run {
            Run::Done(done) => done,
            Run::Future(future, current, span) => {
                AssertUnwindSafe(current.scope(future).instrument(span)).catch_unwind().await
            }
        };
        ended(info, begun, done)
    }
}

fn ended(
    info: &'static Info,
    begun: Instant,
    done: std::thread::Result<Result<(), BoxError>>,
) -> Result<()> {
    let Info { name, signal, sender, .. } = *info;
    let elapsed = begun.elapsed();
    let error = match done {
        Ok(Ok(())) => {
            tracing::debug!(receiver = name, signal, sender, ?elapsed, "received");
            return Ok(());
        }
        Ok(Err(error)) => failed(info, error),
        Err(payload) => failed(info, Box::new(Panicked::new(payload))),
    };
    let cause = error.source().map(|cause| cause as &dyn StdError);
    tracing::error!(receiver = name, signal, sender, ?elapsed, cause, "a receiver failed");
    Err(error)
}

fn failed(info: &'static Info, source: BoxError) -> Error {
    let Info { name: receiver, signal, sender, file, line, .. } = *info;
    Error::Receiver(Box::new(ReceiverError { receiver, signal, sender, file, line, source }))
}

/// An event, and those who wait for the end of its transaction.
pub(crate) struct Postponed<S: Signal, M: Send + Sync + 'static> {
    kept: Option<S::Kept<M>>,
    /// For those of every model.
    snapshot: Option<S::Kept<Snapshot>>,
    entries: Arc<[Entry<S, M>]>,
    scene: Scene,
    before: SharedBefore,
}

impl<S: Signal, M: Send + Sync + 'static> Postponed<S, M> {
    /// Keeps the event, where somebody waits for it; `snapshot` is for those of every model.
    pub(crate) fn of(
        entries: &Arc<[Entry<S, M>]>,
        event: &S::Event<'_, M>,
        snapshot: impl FnOnce() -> Option<S::Kept<Snapshot>>,
        scene: &Scene,
        before: &SharedBefore,
    ) -> Option<Box<dyn Deferred>> {
        let created = S::created::<M>(event);
        let (any, own): (Vec<_>, Vec<_>) = entries
            .iter()
            .filter(|e| wants(e.info, created, before))
            .partition(|e| matches!(e.call, Call::Any(..)));
        let kept = own.iter().find_map(|e| e.keep).map(|keep| keep(event));
        let snapshot = if any.is_empty() { None } else { snapshot() };
        if kept.is_none() && snapshot.is_none() {
            return None;
        }
        let (entries, scene, before) = (Arc::clone(entries), scene.clone(), before.clone());
        Some(Box::new(Self { kept, snapshot, entries, scene, before }))
    }

    fn start<'a>(&'a self, entry: &Entry<S, M>, operation: &Arc<Operation>) -> Option<Started<'a>> {
        let cx = Cx::new(None, self.scene.db.as_ref(), self.before.as_deref());
        if let Call::Any(any, _) = &entry.call {
            let event = S::replay::<Snapshot>(self.snapshot.as_ref()?);
            return wants(entry.info, S::created::<Snapshot>(&event), &self.before).then(|| {
                let event = S::erase::<Snapshot>(event, PhantomData);
                start(entry.info, &any.call, event, cx, operation)
            });
        }
        let event = S::replay::<M>(self.kept.as_ref()?);
        wants(entry.info, S::created::<M>(&event), &self.before)
            .then(|| start(entry.info, &entry.call, event, cx, operation))
    }
}

impl<S: Signal, M: Send + Sync + 'static> Deferred for Postponed<S, M> {
    fn run(self: Box<Self>, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        let phase = match end {
            End::Committed => Phase::OnCommit,
            End::RolledBack => Phase::OnRollback,
        };
        Box::pin(async move {
            let operation = self.scene.operation.afterwards(holds);
            let mut errors = Vec::new();
            for entry in self.entries.iter().filter(|e| e.info.phase == phase) {
                if let Some(started) = self.start(entry, &operation) {
                    errors.extend(started.end().await.err());
                }
            }
            errors
        })
    }
}
