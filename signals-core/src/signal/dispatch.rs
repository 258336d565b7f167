use crate::task::info::Identity;
use crate::task::info::Info;
use crate::task::info::Phase;
use crate::transaction::Transaction;
use crate::transaction::own::Undoable;
use crate::transaction::own::in_savepoint;
use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::Instrument;

use crate::database::conn::Conn;
use crate::database::deferred::{Deferred, End};
use crate::error::{BoxError, Error, Panicked, ReceiverError, Result};
use crate::signal::erased::{ErasedReceiver, Event, KeptEvent, Started};
use crate::signal::operation_context::OperationContext;
use crate::signal::parameter::Context;
use crate::table::previous_row::SharedPreviousRow;
use crate::task::chain::{Operation, PoolId};
use crate::task::span::span;

/// Runs the receivers in order, to the first error.
pub(crate) async fn dispatch(
    to: &[ErasedReceiver],
    event: &mut dyn Event,
    mut conn: Option<&mut Conn<'_>>,
    scene: &OperationContext,
    before: &SharedPreviousRow,
) -> Result<()> {
    for to in to {
        if wants(&to.info, event.created(), before) {
            if let Some(conn) = &mut conn {
                conn.state.set_notified();
            }
            if to.info.robust {
                // Whatever became of it is in the log by now.
                let _ = robust(to, event, conn.as_deref_mut(), scene, before).await;
            } else {
                let cx = Context::new(conn.as_deref_mut(), scene.db.as_ref(), before.as_deref());
                let refuses = Failure::Refuses;
                run(&to.info, &scene.operation, refuses, || event.begin(to, cx)).await?;
            }
        }
    }
    Ok(())
}

/// Runs every receiver, each in a savepoint of its own where it takes the connection, and returns what became of each.
pub(crate) async fn dispatch_robust(
    to: &[ErasedReceiver],
    event: &mut dyn Event,
    mut conn: Option<&mut Conn<'_>>,
    scene: &OperationContext,
) -> Vec<(Identity, Result<()>)> {
    let mut results = Vec::with_capacity(to.len());
    for to in to {
        results.push((to.info.clone(), robust(to, event, conn.as_deref_mut(), scene, &None).await));
    }
    results
}

/// What the failure of a receiver means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// The operation fails with it.
    Refuses,
    /// It is one of the results that the caller gets.
    IsReturned,
    /// Nobody but the log gets it, or somebody who rarely looks.
    IsLogged,
}

impl Failure {
    /// Of a receiver whose failure is no error of the operation.
    fn of_robust(info: &Info) -> Self {
        if info.robust { Self::IsLogged } else { Self::IsReturned }
    }
}

/// Logs a failure: an error if nobody else gets it.
macro_rules! log {
    ($failure:expr, $($event:tt)*) => {
        match $failure {
            Failure::IsLogged => tracing::error!($($event)*),
            Failure::Refuses | Failure::IsReturned => tracing::debug!($($event)*),
        }
    };
}

/// Whether a receiver wants to hear of an event.
fn wants(info: &Info, created: Option<bool>, before: &SharedPreviousRow) -> bool {
    let changed = || match before {
        Some(before) => info.changed.iter().any(|column| before.changed(column)),
        None => true,
    };
    (info.created.is_none() || info.created == created) && (info.changed.is_empty() || changed())
}

/// Runs a receiver whose failure is only logged: where it has the connection, in a savepoint, so that what it did is
/// undone, and a statement of it that fails does not end the transaction.
async fn robust(
    to: &ErasedReceiver,
    event: &mut dyn Event,
    conn: Option<&mut Conn<'_>>,
    scene: &OperationContext,
    before: &SharedPreviousRow,
) -> Result<()> {
    match conn {
        // On the heap: few receivers have a savepoint, and every future of a dispatch would have room for it.
        Some(conn) if to.info.connection => {
            Box::pin(robust_in_savepoint(to, event, conn, scene, before)).await
        }
        conn => {
            let cx = Context::new(conn, scene.db.as_ref(), before.as_deref());
            run(&to.info, &scene.operation, Failure::of_robust(&to.info), || event.begin(to, cx))
                .await
        }
    }
}

async fn robust_in_savepoint(
    to: &ErasedReceiver,
    event: &mut dyn Event,
    conn: &mut Conn<'_>,
    scene: &OperationContext,
    before: &SharedPreviousRow,
) -> Result<()> {
    let mut has_failed = false;
    let receiving = Receiving { to, event, scene, before, has_failed: &mut has_failed };
    let done = in_savepoint(conn, receiving).await;
    // The failure of the receiver itself is in the log.
    done.inspect_err(|error| {
        if !has_failed {
            not_run(&to.info, error)
        }
    })
}

/// A robust receiver in its savepoint.
struct Receiving<'r> {
    to: &'r ErasedReceiver,
    event: &'r mut dyn Event,
    scene: &'r OperationContext,
    before: &'r SharedPreviousRow,
    has_failed: &'r mut bool,
}

impl Undoable for Receiving<'_> {
    type Done = ();

    async fn run(&mut self, savepoint: &mut Transaction<'_>) -> Result<()> {
        let Self { to, event, scene, before, has_failed } = self;
        let cx = Context::new(Some(&mut **savepoint), scene.db.as_ref(), before.as_deref());
        let failure = Failure::of_robust(&to.info);
        let done = run(&to.info, &scene.operation, failure, || event.begin(to, cx)).await;
        **has_failed = done.is_err();
        done
    }
}

/// The savepoint of a receiver could not be begun or released.
fn not_run(receiver: &Identity, error: &Error) {
    let (name, Info { signal, sender, .. }) = (receiver.name(), receiver.info);
    let cause = Some(error as &dyn StdError);
    let failure = Failure::of_robust(receiver);
    log!(failure, receiver = name, signal, sender, cause, "a receiver has no savepoint");
}

/// Runs a receiver: a panic is an error, and both are in the log.
///
/// One that is no future is through at the first poll, and makes no room for one that is.
async fn run<'a>(
    receiver: &Identity,
    operation: &Arc<Operation>,
    failure: Failure,
    begin: impl FnOnce() -> Started<'a>,
) -> Result<()> {
    let Info { signal, sender, .. } = receiver.info;
    let span = span!("receiver", receiver = receiver.name(), signal, sender);
    let started = Instant::now();
    operation.note(receiver);
    let begin = || span.in_scope(|| operation.receiving(receiver.clone()).sync_scope(begin));
    let done = match catch_unwind(AssertUnwindSafe(begin)) {
        Ok(Started::Done(done)) => Ok(done),
        Ok(Started::Future(future)) => {
            let future = operation.receiving(receiver.clone()).scope(future).instrument(span);
            AssertUnwindSafe(future).catch_unwind().await
        }
        Err(payload) => Err(payload),
    };
    ended(receiver, operation.about(), failure, started, done)
}

fn ended(
    receiver: &Identity,
    about: (&'static str, &'static str),
    failure: Failure,
    started: Instant,
    done: std::thread::Result<Result<(), BoxError>>,
) -> Result<()> {
    let Info { signal, sender, file, line, .. } = *receiver.info;
    let source: BoxError = match done {
        Ok(Ok(())) => {
            tracing::debug!(
                receiver = receiver.name(), signal, sender, elapsed = ?started.elapsed(), "received"
            );
            return Ok(());
        }
        Ok(Err(error)) => error,
        Err(payload) => Box::new(Panicked::new(payload)),
    };
    let (verb, model) = about;
    let (refused, source) = (failure == Failure::Refuses, Arc::from(source));
    let name = receiver.static_name();
    let failed =
        ReceiverError { receiver: name, signal, sender, file, line, verb, model, refused, source };
    // What a receiver inside this one returned is in the log already: a veto is logged once, however deep it is.
    if failure == Failure::IsLogged || !failed.is_passed_on() {
        let (cause, elapsed) = (Some(&*failed.source as &dyn StdError), started.elapsed());
        log!(failure, receiver = name, signal, sender, ?elapsed, cause, "a receiver failed");
    }
    Err(Error::Receiver(Box::new(failed)))
}

/// An event, and those who wait for the end of its transaction.
pub(crate) struct DeferredDelivery {
    kept: Box<dyn KeptEvent>,
    created: Option<bool>,
    to: Arc<[ErasedReceiver]>,
    scene: OperationContext,
    before: SharedPreviousRow,
}

impl DeferredDelivery {
    /// Keeps the event, where somebody waits for it.
    pub(crate) fn of(
        to: &Arc<[ErasedReceiver]>,
        event: &dyn Event,
        scene: &OperationContext,
        before: &SharedPreviousRow,
    ) -> Option<Box<dyn Deferred>> {
        let created = event.created();
        let waiting = to.iter().filter(|to| wants(&to.info, created, before));
        let kept = event.keep(&waiting.collect::<Vec<_>>())?;
        let (to, scene, before) = (Arc::clone(to), scene.clone(), before.clone());
        Some(Box::new(Self { kept, created, to, scene, before }))
    }
}

/// Runs the receivers that wait for the commit on an event that was not kept.
pub(crate) async fn notify_committed(
    to: &[ErasedReceiver],
    event: &mut dyn Event,
    scene: &OperationContext,
    before: &SharedPreviousRow,
) {
    let operation = scene.operation.afterwards(None);
    for to in to {
        if to.info.phase == Phase::OnCommit && wants(&to.info, event.created(), before) {
            let cx = Context::new(None, scene.db.as_ref(), before.as_deref());
            // What became of it is in the log.
            let _ = run(&to.info, &operation, Failure::IsLogged, || event.begin(to, cx)).await;
        }
    }
}

impl Deferred for DeferredDelivery {
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
            for to in to.iter().filter(|to| waiting(&to.info)) {
                let cx = Context::new(None, scene.db.as_ref(), before.as_deref());
                let done = run(&to.info, &operation, Failure::IsLogged, || kept.begin(to, cx));
                errors.extend(done.await.err());
            }
            errors
        })
    }
}
