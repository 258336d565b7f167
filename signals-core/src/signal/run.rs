//! One run of a receiver: its span, its duration and its failure.

use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::Either;
use tracing::Span;

use crate::database::db::Db;
use crate::error::{BoxError, Error, Panicked, ReceiverError, Result};
use crate::signal::erased::{ErasedReceiver, Started};
use crate::signal::operation_context::OperationContext;
use crate::signal::state;
use crate::task::chain::{InScope, Operation, Scope};
use crate::task::identity::Identity;
use crate::task::info::{Asks, Info};
use crate::task::slow::{Lap, Run, SlowReceivers};
use crate::task::span::span;

/// The effect of a receiver's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// The operation fails with the error.
    FailsOperation,
    /// The error is one of the results of `send_robust`.
    Returned,
    /// The error is logged. It may also be in `Committed::errors`, but few programs read that.
    LogOnly,
}

impl OnFailure {
    /// The effect for a receiver whose failure does not fail the operation.
    pub(crate) fn of_robust(info: &Info) -> Self {
        if info.robust { Self::LogOnly } else { Self::Returned }
    }
}

/// Logs a failure: at ERROR if the failure is only logged, otherwise at DEBUG.
macro_rules! log_failure {
    ($failure:expr, $($event:tt)*) => {
        match $failure {
            OnFailure::LogOnly => tracing::error!($($event)*),
            OnFailure::FailsOperation | OnFailure::Returned => tracing::debug!($($event)*),
        }
    };
}

pub(crate) use log_failure;

/// Runs a receiver, turns a panic into an error, and logs an error. A plain function completes before this returns, so that its
/// result is not moved into a future.
pub(crate) fn run_receiver<'r>(
    receiver: &'r ErasedReceiver,
    context: &'r OperationContext,
    (failure, slow): (OnFailure, SlowReceivers),
    lap: &'r mut Lap,
    begin: impl FnOnce() -> Started<'r>,
) -> Either<Result<()>, AsyncRun<'r>> {
    let (identity, operation) = (&receiver.info, &*context.operation);
    let Info { signal, sender, .. } = *identity.info;
    let span = span!("receiver", receiver = identity.name(), signal, sender);
    let measured = Run::start(identity, lap, || {
        context.db.as_ref().and_then(Db::state).copied().unwrap_or(slow)
    });
    operation.note(identity);
    let ending = Ending { receiver, operation, failure, measured };
    let mut scope = Scope::new(context.operation.receiving(identity.clone()));
    match catch_unwind(AssertUnwindSafe(|| span.in_scope(|| scope.enter(begin)))) {
        Ok(Started::Future(future)) => {
            let future = scope.run(future);
            Either::Right(AsyncRun { future, span, ending: Some(ending) })
        }
        Ok(Started::Done(done)) => Either::Left(ending.finish(Ok(done))),
        Err(payload) => Either::Left(ending.finish(Err(payload))),
    }
}

/// The run of an async receiver. Its future is polled and dropped in its span.
pub(crate) struct AsyncRun<'r> {
    future: InScope<'r, Result<(), BoxError>>,
    span: Span,
    /// `None` after its end.
    ending: Option<Ending<'r>>,
}

impl Future for AsyncRun<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { future, span, ending } = &mut *self;
        let poll = || span.in_scope(|| future.poll_unpin(cx));
        let done = match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(poll) => Ok(ready!(poll)),
            Err(payload) => Err(payload),
        };
        let ending = ending.take().expect("a future is not polled after its end");
        Poll::Ready(ending.finish(done))
    }
}

impl Drop for AsyncRun<'_> {
    fn drop(&mut self) {
        let Self { future, span, .. } = self;
        if future.has_future() {
            span.in_scope(|| future.end());
        }
    }
}

/// The error of a receiver.
fn failed(
    receiver: &Identity,
    operation: &Operation,
    refused: bool,
    source: BoxError,
) -> ReceiverError {
    let Info { signal, sender, file, line, .. } = *receiver.info;
    let ((verb, model), source) = (operation.about(), Arc::from(source));
    let receiver = receiver.static_name();
    ReceiverError { receiver, signal, sender, file, line, verb, model, refused, source }
}

impl OperationContext {
    /// The error of a receiver that takes a value that is missing. `None` if it has all values, or if it is robust.
    fn missing_value(&self, receiver: &Identity) -> Option<BoxError> {
        let db = self.db.as_ref();
        let missing = |asks: &Asks| -> Option<BoxError> {
            match asks {
                Asks::State { id, name } if !db.is_some_and(|db| db.state.has(*id)) => {
                    Some(state::missing(db, name()).into())
                }
                _ => None,
            }
        };
        receiver.asks.iter().filter(|_| !receiver.robust).find_map(missing)
    }

    /// Whether the `Db` lacks what a receiver takes.
    pub(crate) fn lacks_value(&self, receiver: &Identity) -> bool {
        self.missing_value(receiver).is_some()
    }

    /// Checks that the `Db` has what a receiver takes that runs after the end of the transaction. Then it would be too late to refuse the
    /// operation.
    ///
    /// # Errors
    ///
    /// [`Error::Receiver`] if it takes a value that is missing, unless it is robust.
    pub(crate) fn check_values(&self, receiver: &Identity) -> Result<()> {
        let Some(source) = self.missing_value(receiver) else { return Ok(()) };
        let failed = failed(receiver, &self.operation, true, source);
        let ReceiverError { receiver, signal, sender, .. } = failed;
        let cause = Some(&*failed.source as &dyn StdError);
        tracing::debug!(
            receiver,
            signal,
            sender,
            cause,
            "a receiver that runs later lacks a value"
        );
        Err(Error::Receiver(Box::new(failed)))
    }
}

/// The end of a receiver's run.
struct Ending<'r> {
    receiver: &'r ErasedReceiver,
    operation: &'r Operation,
    failure: OnFailure,
    measured: Run<'r>,
}

impl Ending<'_> {
    /// Logs the result, and turns a failure into [`Error::Receiver`].
    fn finish(self, done: std::thread::Result<Result<(), BoxError>>) -> Result<()> {
        let Self { receiver, operation, failure, measured } = self;
        let elapsed = measured.end();
        let is_durable = receiver.info.durable.is_some();
        receiver.keys.record(is_durable, matches!(done, Ok(Ok(()))), elapsed);
        let receiver = &receiver.info;
        let Info { signal, sender, .. } = *receiver.info;
        let source: BoxError = match done {
            Ok(Ok(())) => {
                tracing::debug!(receiver = receiver.name(), signal, sender, elapsed = ?elapsed.get(), "received");
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(payload) => Box::new(Panicked::new(payload)),
        };
        let failed = failed(receiver, operation, failure == OnFailure::FailsOperation, source);
        let name = failed.receiver;
        // An error passed up from a receiver of a nested save has already been logged, so it is not logged again at each level.
        if failure == OnFailure::LogOnly || !failed.is_passed_on() {
            let (cause, elapsed) = (Some(&*failed.source as &dyn StdError), elapsed.get());
            log_failure!(
                failure,
                receiver = name,
                signal,
                sender,
                ?elapsed,
                cause,
                "a receiver failed"
            );
        }
        Err(Error::Receiver(Box::new(failed)))
    }
}
