//! Notifies the receivers of a write that are deferred to the end of its transaction.
#![expect(
    clippy::manual_async_fn,
    reason = "the future of an `async fn` stores each argument twice"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::database::conn::Conn;
use crate::database::deferred::{Deferred, End, run_all};
use crate::error::Result;
use crate::signal::dispatch::{DeferredDelivery, DeferredEvent, Dispatch, check_values};
use crate::signal::erased::ErasedReceiver;
use crate::signal::operation_context::OperationContext;
use crate::signal::receivers::OperationReceivers;
use crate::signal::recording::CommitObserver;
use crate::signal::rows::{RowEvent, RowsEvent, SignalRows};
use crate::table::previous_row::SharedPreviousRow;
use crate::table::rows::Rows;
use crate::task::finish::{Pending, run_even_if_dropped};
use crate::task::slow::Lap;
use crate::write::notify::Notifier;

/// What a write defers to the end of its transaction.
type Deliveries = SmallVec<[Box<dyn Deferred>; 2]>;

/// How the transaction of a write ends.
#[derive(Clone, Copy)]
struct WriteEnd {
    /// Whether the write is a transaction of its own, so that it is the net change of its rows.
    is_alone: bool,
    /// Whether this library sees the end. It does not see that of a transaction of sqlx.
    is_observed: bool,
}

/// An event, and its receivers that run after the transaction has ended.
struct Waiting<'n> {
    event: RowEvent,
    receivers: &'n Arc<[ErasedReceiver]>,
    previous: &'n SharedPreviousRow,
}

impl Waiting<'_> {
    /// Copies the event. This clones the rows, so it may panic.
    fn keep(&self, rows: &mut dyn SignalRows) -> Option<DeferredEvent> {
        let event = RowsEvent { rows, event: self.event.clone() };
        DeferredEvent::of(self.receivers, &event, self.previous)
    }
}

/// Runs `on_commit` receivers whose event could not be copied. They run in this future, and are not run if it is dropped.
async fn run_uncopied(
    uncopied: Vec<Waiting<'_>>,
    rows: &mut dyn SignalRows,
    context: &OperationContext,
) {
    for Waiting { event, receivers, previous } in uncopied {
        let mut event = RowsEvent { rows: &mut *rows, event };
        let (event, conn, lap) = (&mut event, None, &mut Lap::default());
        let dispatch = Dispatch { event, conn, context, previous, lap };
        dispatch.run_on_commit(receivers).await;
    }
}

impl Notifier {
    /// Runs the deferred receivers of a statement that has committed itself. `received` is the result of the others.
    pub(super) fn notify_deferred<'n>(
        &'n self,
        rows: &'n mut dyn SignalRows,
        context: &'n OperationContext,
        received: Pending,
    ) -> impl Future<Output = Result<()>> + Send + 'n {
        async move {
            let mut uncopied = Vec::new();
            let end = WriteEnd { is_alone: true, is_observed: context.has_own_db };
            let deferred = self.deferred_with(rows, context, end, |rows, waiting| {
                // The row is stored, so its receivers must run even if `Clone` panics.
                let keep = AssertUnwindSafe(|| waiting.keep(rows));
                catch_unwind(keep).unwrap_or_else(|_| {
                    uncopied.push(waiting);
                    None
                })
            });
            if !deferred.is_empty() {
                let run = run_all(deferred, End::Committed, None);
                run_even_if_dropped(context.pool(), run).await;
            }
            if !uncopied.is_empty() {
                Box::pin(run_uncopied(uncopied, rows, context)).await;
            }
            received.take()
        }
    }

    /// Checks that the `Db` has what the deferred receivers of the write take. After the end of the transaction, they could not be refused.
    ///
    /// # Errors
    ///
    /// The error of a receiver that takes a value that is missing.
    pub(crate) fn check_values(&self, rows: &dyn Rows, context: &OperationContext) -> Result<()> {
        let OperationReceivers { deferred, deferred_batch, needs, .. } = &*self.receivers;
        if !needs.later_values {
            return Ok(());
        }
        let created = self.written.created;
        for row in self.written.rows() {
            let checked = check_values(deferred, created, self.previous_row(row), context);
            checked.map_err(|error| self.with_row(rows, row, error))?;
        }
        match self.written.batches.is_empty() {
            true => Ok(()),
            false => check_values(deferred_batch, created, &None, context),
        }
    }

    /// Returns the deliveries that are deferred to the end of the transaction of `conn`.
    pub(crate) fn deferred(
        &self,
        rows: &mut dyn SignalRows,
        conn: &Conn<'_>,
        context: &OperationContext,
    ) -> Deliveries {
        let is_adopted = conn.state.frames.first().is_some_and(|frame| frame.adopted.is_some());
        let end = WriteEnd { is_alone: false, is_observed: context.has_own_db || is_adopted };
        self.deferred_with(rows, context, end, |rows, waiting| waiting.keep(rows))
    }

    /// As [`deferred`](Self::deferred), with `keep` for [`Waiting::keep`].
    fn deferred_with<'n>(
        &'n self,
        rows: &mut dyn SignalRows,
        context: &OperationContext,
        WriteEnd { is_alone, is_observed }: WriteEnd,
        mut keep: impl FnMut(&mut dyn SignalRows, Waiting<'n>) -> Option<DeferredEvent>,
    ) -> Deliveries {
        let mut all = Deliveries::new();
        if self.recorders.any() {
            let record = |row| self.recorders.after(self.written.created, rows.at(row));
            let observer = CommitObserver::of(self.written.rows().filter_map(record).collect());
            all.extend(observer.filter(|_| is_observed));
        }
        let mut of_rows = |receivers: &'n Arc<[ErasedReceiver]>| {
            if receivers.is_empty() {
                return None;
            }
            let mut events = SmallVec::new();
            for row in self.written.rows() {
                let (event, previous) = (self.row_event(row), self.previous_row(row));
                if let Some(event) = keep(rows, Waiting { event, receivers, previous }) {
                    events.push(event);
                }
            }
            DeferredDelivery::of(events, receivers, context)
        };
        let once = if is_alone { of_rows(&self.receivers.once_alone) } else { None };
        all.extend(of_rows(&self.receivers.deferred));
        let receivers = &self.receivers.deferred_batch;
        if !receivers.is_empty() {
            let event_of = |batch| {
                let event = self.batch_event(batch);
                keep(rows, Waiting { event, receivers, previous: &None })
            };
            let events = self.written.batches.iter().filter_map(event_of).collect();
            all.extend(DeferredDelivery::of(events, receivers, context));
        }
        all.extend(once);
        all
    }
}
