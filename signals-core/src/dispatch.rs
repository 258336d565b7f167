use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, ready};
use tracing::Instrument;

use crate::conn::Conn;
use crate::context::{Call as Operation, PoolId};
use crate::error::{BoxError, Error, Panicked, ReceiverError, Result};
use crate::parameter::Cx;
use crate::previous::SharedBefore;
use crate::receiver::{Info, Phase};
use crate::subscriber::{Begun, Event, Kept, Subscriber};
use crate::trace::span;
use crate::transaction::{Deferred, End};
use crate::unit::Scene;

/// Runs the receivers in order, to the first error.
pub(crate) async fn dispatch(
    to: &[Subscriber],
    event: &mut dyn Event,
    mut conn: Option<&mut Conn<'_>>,
    scene: &Scene,
    before: &SharedBefore,
) -> Result<()> {
    for to in to {
        if wants(to.info, event.created(), before) {
            if to.info.robust {
                // Whatever became of it is in the log by now.
                let _ = robust(to, event, conn.as_deref_mut(), scene, before).await;
            } else {
                let cx = Cx::new(conn.as_deref_mut(), scene.db.as_ref(), before.as_deref());
                run(to.info, &scene.operation, || event.begin(to, cx)).await?;
            }
        }
    }
    Ok(())
}

/// Runs every receiver, each in a savepoint of its own where it takes the connection, and returns what became of each.
pub(crate) async fn dispatch_robust(
    to: &[Subscriber],
    event: &mut dyn Event,
    mut conn: Option<&mut Conn<'_>>,
    scene: &Scene,
) -> Vec<(&'static Info, Result<()>)> {
    let mut results = Vec::with_capacity(to.len());
    for to in to {
        results.push((to.info, robust(to, event, conn.as_deref_mut(), scene, &None).await));
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
async fn robust(
    to: &Subscriber,
    event: &mut dyn Event,
    conn: Option<&mut Conn<'_>>,
    scene: &Scene,
    before: &SharedBefore,
) -> Result<()> {
    match conn {
        // On the heap: few receivers have a savepoint, and every future of a dispatch would have room for it.
        Some(conn) if to.info.connection => {
            Box::pin(in_savepoint(to, event, conn, scene, before)).await
        }
        conn => {
            let cx = Cx::new(conn, scene.db.as_ref(), before.as_deref());
            run(to.info, &scene.operation, || event.begin(to, cx)).await
        }
    }
}

async fn in_savepoint(
    to: &Subscriber,
    event: &mut dyn Event,
    conn: &mut Conn<'_>,
    scene: &Scene,
    before: &SharedBefore,
) -> Result<()> {
    let mut savepoint = conn.begin().await.inspect_err(|error| not_run(to.info, error))?;
    let cx = Cx::new(Some(&mut *savepoint), scene.db.as_ref(), before.as_deref());
    match run(to.info, &scene.operation, || event.begin(to, cx)).await {
        Ok(()) => {
            let released = savepoint.commit().await.map(drop);
            released.inspect_err(|error| not_run(to.info, error))
        }
        Err(error) => {
            savepoint.rollback_or_log().await;
            Err(error)
        }
    }
}

/// The savepoint of a receiver could not be begun or released.
fn not_run(info: &Info, error: &Error) {
    let Info { name, signal, sender, .. } = *info;
    let cause = Some(error as &dyn StdError);
    tracing::error!(receiver = name, signal, sender, cause, "a receiver has no savepoint");
}

/// Runs a receiver: a panic is an error, and both are in the log. One that is no future is through when this returns.
fn run<'a>(
    info: &'static Info,
    operation: &Arc<Operation>,
    begin: impl FnOnce() -> Begun<'a>,
) -> impl Future<Output = Result<()>> + Send {
    let Info { name, signal, sender, .. } = *info;
    let span = span!("receiver", receiver = name, signal, sender);
    let started = Instant::now();
    operation.note(info);
    let begin = || span.in_scope(|| operation.receiving(info).sync_scope(begin));
    let done = match catch_unwind(AssertUnwindSafe(begin)) {
        Ok(Begun::Done(done)) => Ok(done),
        Ok(Begun::Future(future)) => {
            let future = operation.receiving(info).scope(future).instrument(span);
            let done = AssertUnwindSafe(future).catch_unwind();
            return Either::Left(done.map(move |done| ended(info, started, done)));
        }
        Err(payload) => Err(payload),
    };
    Either::Right(ready(ended(info, started, done)))
}

fn ended(
    info: &'static Info,
    started: Instant,
    done: std::thread::Result<Result<(), BoxError>>,
) -> Result<()> {
    let Info { name, signal, sender, .. } = *info;
    let error = match done {
        Ok(Ok(())) => {
            tracing::debug!(
                receiver = name, signal, sender, elapsed = ?started.elapsed(), "received"
            );
            return Ok(());
        }
        Ok(Err(error)) => failed(info, error),
        Err(payload) => failed(info, Box::new(Panicked::new(payload))),
    };
    let (cause, elapsed) = (error.source().map(|cause| cause as &dyn StdError), started.elapsed());
    tracing::error!(receiver = name, signal, sender, ?elapsed, cause, "a receiver failed");
    Err(error)
}

fn failed(info: &'static Info, source: BoxError) -> Error {
    let Info { name: receiver, signal, sender, file, line, .. } = *info;
    Error::Receiver(Box::new(ReceiverError { receiver, signal, sender, file, line, source }))
}

/// An event, and those who wait for the end of its transaction.
pub(crate) struct Postponed {
    kept: Box<dyn Kept>,
    created: Option<bool>,
    to: Arc<[Subscriber]>,
    scene: Scene,
    before: SharedBefore,
}

impl Postponed {
    /// Keeps the event, where somebody waits for it.
    pub(crate) fn of(
        to: &Arc<[Subscriber]>,
        event: &dyn Event,
        scene: &Scene,
        before: &SharedBefore,
    ) -> Option<Box<dyn Deferred>> {
        let created = event.created();
        let waiting = to.iter().filter(|to| wants(to.info, created, before));
        let kept = event.keep(&waiting.collect::<Vec<_>>())?;
        let (to, scene, before) = (Arc::clone(to), scene.clone(), before.clone());
        Some(Box::new(Self { kept, created, to, scene, before }))
    }
}

impl Deferred for Postponed {
    fn run(self: Box<Self>, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        let phase = match end {
            End::Committed => Phase::OnCommit,
            End::RolledBack => Phase::OnRollback,
        };
        Box::pin(async move {
            let Self { kept, created, to, scene, before } = *self;
            let operation = scene.operation.afterwards(holds);
            let mut errors = Vec::new();
            let waiting = |info: &Info| info.phase == phase && wants(info, created, &before);
            for to in to.iter().filter(|to| waiting(to.info)) {
                let cx = Cx::new(None, scene.db.as_ref(), before.as_deref());
                errors.extend(run(to.info, &operation, || kept.begin(to, cx)).await.err());
            }
            errors
        })
    }
}
