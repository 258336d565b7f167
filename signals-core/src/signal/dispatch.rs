//! Runs receivers in order, and keeps events for the receivers that run after the transaction has ended.

use std::error::Error as StdError;
use std::sync::Arc;

use futures_util::future::{BoxFuture, Either};
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tracing::{Instrument, Span};

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::deferred::{Deferred, End};
use crate::error::{Error, Result};
use crate::signal::erased::{ErasedReceiver, Event, KeptEvent};
use crate::signal::operation_context::OperationContext;
use crate::signal::parameter::Context;
use crate::signal::run::{AsyncRun, OnFailure, log_failure, run_receiver};
use crate::table::previous_row::SharedPreviousRow;
use crate::task::identity::Identity;
use crate::task::info::{Info, Phase};
use crate::task::pool_id::PoolId;
use crate::task::slow::{self, Lap, SlowReceivers};
use crate::task::spawn;
use crate::transaction::Transaction;
use crate::transaction::own::{TransactionWork, in_savepoint};

/// The result of a receiver: that of a plain function is there, the run of an async function is awaited. It is awaited by reference: to await it by
/// value would move it, and the future around it would store it twice.
macro_rules! result {
    ($run:expr) => {
        match $run {
            Either::Left(done) => done,
            Either::Right(ref mut future) => future.await,
        }
    };
}

/// An event on the way to its receivers.
pub(crate) struct Dispatch<'d, 'c> {
    pub(crate) event: &'d mut dyn Event,
    /// The connection of the operation. `None` if the receivers cannot use it.
    pub(crate) conn: Option<&'d mut Conn<'c>>,
    pub(crate) context: &'d OperationContext,
    pub(crate) previous: &'d SharedPreviousRow,
    pub(crate) lap: &'d mut Lap,
}

impl Dispatch<'_, '_> {
    /// Runs the receivers in order, and stops at the first error of one that is not robust.
    pub(crate) async fn run(&mut self, receivers: &[ErasedReceiver]) -> Result<()> {
        for receiver in receivers {
            if selects(&receiver.info, self.event.created(), self.previous) {
                if let Some(conn) = &mut self.conn {
                    conn.state.set_notified();
                }
                if receiver.info.robust {
                    // The error is logged already.
                    let _ = self.robust(receiver).await;
                } else {
                    result!(self.call(receiver, OnFailure::FailsOperation))?;
                }
            }
        }
        Ok(())
    }

    /// Runs all receivers, and returns the result of each. A receiver that takes the connection runs in its own savepoint.
    pub(crate) async fn run_all(
        &mut self,
        receivers: &[ErasedReceiver],
    ) -> Vec<(Identity, Result<()>)> {
        let mut results = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            results.push((receiver.info.clone(), self.robust(receiver).await));
        }
        results
    }

    /// Runs the `on_commit` receivers of a statement that has committed itself on the original event, because the event could not
    /// be copied.
    pub(crate) async fn run_on_commit(self, receivers: &[ErasedReceiver]) {
        let context = self.context.clone().afterwards(None);
        let Self { event, conn, previous, lap, .. } = self;
        let mut dispatch = Dispatch { event, conn, context: &context, previous, lap };
        for receiver in receivers {
            if receiver.info.phase == Phase::OnCommit
                && selects(&receiver.info, dispatch.event.created(), dispatch.previous)
            {
                // The error is logged already.
                let _ = result!(dispatch.call(receiver, OnFailure::LogOnly));
            }
        }
    }

    /// Runs a receiver whose failure does not fail the operation. A receiver that takes the connection runs in a savepoint. If it
    /// fails, its writes are rolled back, and a failed statement does not abort the surrounding transaction.
    async fn robust(&mut self, receiver: &ErasedReceiver) -> Result<()> {
        match &mut self.conn {
            // Boxed because few receivers run in a savepoint, and inlining this future would enlarge every dispatch.
            Some(conn) if receiver.info.connection => {
                let Self { event, context, previous, lap, .. } = self;
                // The time of the savepoint itself is not that of a receiver.
                **lap = Lap::default();
                Box::pin(robust_in_savepoint(receiver, *event, conn, context, previous)).await
            }
            _ => result!(self.call(receiver, OnFailure::of_robust(&receiver.info))),
        }
    }

    fn call<'r>(
        &'r mut self,
        receiver: &'r ErasedReceiver,
        failure: OnFailure,
    ) -> Either<Result<()>, AsyncRun<'r>> {
        let Self { event, conn, context, previous, lap } = self;
        let run = (failure, slow_limit(conn.as_deref()));
        let cx = Context::new(conn.as_deref_mut(), context.db.as_ref(), previous.as_deref());
        run_receiver(receiver, context, run, lap, || event.begin(receiver, cx))
    }
}

/// Whether the options `created`, `updated` and `changed(…)` of a receiver select an event.
pub(crate) fn selects(info: &Info, created: Option<bool>, previous: &SharedPreviousRow) -> bool {
    let changed = || match previous {
        Some(previous) => info.changed.iter().any(|column| previous.changed(column)),
        None => true,
    };
    (info.created.is_none() || info.created == created) && (info.changed.is_empty() || changed())
}

/// Checks that the `Db` has what those of the receivers take that select an event. They run after the end of the transaction.
///
/// # Errors
///
/// As [`OperationContext::check_values`].
pub(crate) fn check_values(
    receivers: &[ErasedReceiver],
    created: Option<bool>,
    previous: &SharedPreviousRow,
    context: &OperationContext,
) -> Result<()> {
    let mut selected =
        receivers.iter().filter(|receiver| selects(&receiver.info, created, previous));
    selected.try_for_each(|receiver| context.check_values(&receiver.info))
}

async fn robust_in_savepoint(
    receiver: &ErasedReceiver,
    event: &mut dyn Event,
    conn: &mut Conn<'_>,
    context: &OperationContext,
    previous: &SharedPreviousRow,
) -> Result<()> {
    let mut has_failed = false;
    let run = SavepointRun { receiver, event, context, previous, has_failed: &mut has_failed };
    let done = in_savepoint(conn, run).await;
    // The failure of the receiver itself is logged already.
    done.inspect_err(|error| {
        if !has_failed {
            log_no_savepoint(&receiver.info, error)
        }
    })
}

/// The run of a receiver in its savepoint.
struct SavepointRun<'r> {
    receiver: &'r ErasedReceiver,
    event: &'r mut dyn Event,
    context: &'r OperationContext,
    previous: &'r SharedPreviousRow,
    has_failed: &'r mut bool,
}

impl TransactionWork for SavepointRun<'_> {
    type Done = ();

    async fn run(&mut self, savepoint: &mut Transaction<'_>) -> Result<()> {
        let Self { receiver, event, context, previous, has_failed } = self;
        let conn = Some(&mut **savepoint);
        let lap = &mut Lap::default();
        let mut dispatch = Dispatch { event: &mut **event, conn, context, previous, lap };
        let done = result!(dispatch.call(receiver, OnFailure::of_robust(&receiver.info)));
        **has_failed = done.is_err();
        done
    }
}

/// Logs that the savepoint of a receiver could not be begun or released.
fn log_no_savepoint(receiver: &Identity, error: &Error) {
    let (name, Info { signal, sender, .. }) = (receiver.name(), receiver.info);
    let cause = Some(error as &dyn StdError);
    let failure = OnFailure::of_robust(receiver);
    log_failure!(
        failure,
        receiver = name,
        signal,
        sender,
        cause,
        "could not begin or release the savepoint of a receiver"
    );
}

/// After how long a receiver is reported as slow, unless the options say otherwise.
fn slow_limit(conn: Option<&Conn<'_>>) -> SlowReceivers {
    match conn.is_some_and(|conn| conn.kind() == DatabaseKind::Sqlite) {
        true => slow::WITH_WRITE_LOCK,
        false => SlowReceivers::default(),
    }
}

/// A copy of an event for the receivers that run after the transaction has ended.
pub(crate) struct DeferredEvent {
    /// `None` if all receivers are detached.
    kept: Option<Box<dyn KeptEvent>>,
    /// A copy for each detached receiver, in their order.
    detached: Vec<Box<dyn KeptEvent>>,
    created: Option<bool>,
    previous: SharedPreviousRow,
}

impl DeferredEvent {
    /// Copies the event so that it outlives the transaction. Returns `None` if no receiver selects it.
    pub(crate) fn of(
        receivers: &[ErasedReceiver],
        event: &dyn Event,
        previous: &SharedPreviousRow,
    ) -> Option<Self> {
        let created = event.created();
        let selected = |detached| {
            receivers.iter().filter(move |receiver| {
                receiver.info.detached == detached && selects(&receiver.info, created, previous)
            })
        };
        let kept = event.keep(&mut selected(false));
        let own = |receiver| event.keep(&mut std::iter::once(receiver));
        let detached: Vec<_> = selected(true).filter_map(own).collect();
        (kept.is_some() || !detached.is_empty()).then(|| Self {
            kept,
            detached,
            created,
            previous: previous.clone(),
        })
    }

    /// Runs the receivers of the phase, and returns the errors of those that are not detached.
    async fn deliver(
        &mut self,
        receivers: &[ErasedReceiver],
        phase: Phase,
        context: &OperationContext,
        lap: &mut Lap,
    ) -> Vec<Error> {
        let Self { kept, detached, created, previous } = self;
        let mut detached = detached.drain(..);
        let mut errors = Vec::new();
        let runs = |info: &Info| info.phase == phase && selects(info, *created, previous);
        for receiver in receivers.iter().filter(|receiver| runs(&receiver.info)) {
            let own = if receiver.info.detached { detached.next() } else { None };
            // A rehearsal waits for every receiver, because it reports which of them have run.
            let waits = own.is_none() || context.operation.is_rehearsed();
            let runtime = if waits { None } else { Handle::try_current().ok() };
            match (own, runtime) {
                (Some(kept), Some(runtime)) => {
                    detach(kept, receiver.clone(), context, previous, &runtime);
                }
                (mut own, _) => {
                    if let Some(kept) = own.as_mut().or(kept.as_mut()) {
                        let done = result!(deliver(&mut **kept, receiver, context, previous, lap));
                        errors.extend(done.err());
                    }
                }
            }
        }
        errors
    }
}

/// The events of one write or send, and the receivers that run after its transaction has ended.
pub(crate) struct DeferredDelivery {
    events: SmallVec<[DeferredEvent; 1]>,
    receivers: Arc<[ErasedReceiver]>,
    context: OperationContext,
}

impl DeferredDelivery {
    /// Returns `None` if there is no event.
    pub(crate) fn of(
        events: SmallVec<[DeferredEvent; 1]>,
        receivers: &Arc<[ErasedReceiver]>,
        context: &OperationContext,
    ) -> Option<Box<dyn Deferred>> {
        if events.is_empty() {
            return None;
        }
        let (receivers, context) = (Arc::clone(receivers), context.clone());
        Some(Box::new(Self { events, receivers, context }))
    }
}

impl Deferred for DeferredDelivery {
    fn run(mut self: Box<Self>, end: End, holds: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        let phase = match end {
            End::Committed => Phase::OnCommit,
            End::RolledBack => Phase::OnRollback,
        };
        Box::pin(async move {
            let Self { events, receivers, context } = &mut *self;
            context.operation.end_transaction(holds);
            let (mut errors, mut lap) = (Vec::new(), Lap::default());
            for mut event in events.drain(..) {
                errors.extend(event.deliver(receivers, phase, context, &mut lap).await);
            }
            errors
        })
    }
}

/// Runs a receiver after the transaction has ended.
fn deliver<'r>(
    kept: &'r mut dyn KeptEvent,
    receiver: &'r ErasedReceiver,
    context: &'r OperationContext,
    previous: &'r SharedPreviousRow,
    lap: &'r mut Lap,
) -> Either<Result<()>, AsyncRun<'r>> {
    let cx = Context::new(None, context.db.as_ref(), previous.as_deref());
    let run = (OnFailure::LogOnly, SlowReceivers::default());
    run_receiver(receiver, context, run, lap, || kept.begin(receiver, cx))
}

/// Runs a durable receiver. `conn` is the connection of its transaction, if it takes it. The error is returned, and logged at DEBUG only.
#[cfg(feature = "durable")]
pub(crate) async fn run_durable(
    kept: &mut dyn KeptEvent,
    receiver: &ErasedReceiver,
    conn: Option<&mut Conn<'_>>,
    context: &OperationContext,
    previous: &SharedPreviousRow,
) -> Result<()> {
    let limit = slow_limit(conn.as_deref());
    let cx = Context::new(conn, context.db.as_ref(), previous.as_deref());
    let begin = || kept.begin(receiver, cx);
    let run = (OnFailure::Returned, limit);
    result!(run_receiver(receiver, context, run, &mut Lap::default(), begin))
}

/// Runs a receiver on a task of its own. Its span is inside the current one.
fn detach(
    mut kept: Box<dyn KeptEvent>,
    receiver: ErasedReceiver,
    context: &OperationContext,
    previous: &SharedPreviousRow,
    runtime: &Handle,
) {
    let (pool, context, previous) = (context.pool(), context.clone(), previous.clone());
    let work = async move {
        // Derived on the new task, because the receivers around the current one end without waiting for this one.
        let context = context.afterwards(None);
        // The error is logged already.
        let _ = result!(deliver(&mut *kept, &receiver, &context, &previous, &mut Lap::default()));
    };
    spawn::spawn(runtime, pool, work.instrument(Span::current()));
}
