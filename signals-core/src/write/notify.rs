//! Notifies the receivers of a write before and after its statement. `notify_deferred.rs` notifies the receivers at the end of the
//! transaction.
#![expect(
    clippy::manual_async_fn,
    reason = "the future of an `async fn` stores each argument twice"
)]

use std::ops::Range;
use std::sync::Arc;

use futures_util::future::{BoxFuture, Either, Ready, ready};

use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::signal::dispatch::Dispatch;
use crate::signal::event_store;
use crate::signal::net_change::RowWrite;
use crate::signal::operation_context::{OperationContext, check_observable};
use crate::signal::receivers::OperationReceivers;
use crate::signal::recording::Recorders;
use crate::signal::rows::{RowEvent, RowsEvent, SignalRows};
use crate::signal::{Signal, pre_delete, pre_save};
use crate::table::previous_row::SharedPreviousRow;
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::task::finish::Pending;
use crate::task::slow::Lap;
use crate::write::continued_save::continue_store;
use crate::write::delete::RowOrigin;
use crate::write::single::store;
use crate::write::{WriteKind, WriteOutcome, cascade, delete, inspect, row_error, save};

/// A write and the receivers to notify of it.
#[derive(Clone)]
pub(crate) struct Notifier {
    pub(crate) receivers: Arc<OperationReceivers>,
    pub(crate) kind: WriteKind,
    pub(super) recorders: Recorders,
    /// Whether the write may have several rows, so that an error of one row has to name it.
    pub(crate) many: bool,
    /// Whether the UPDATE of the single row was executed before, and has written no row.
    pub(crate) tried: bool,
    pub(crate) written: WriteOutcome,
    /// The previous state of each row, if a receiver asks for it.
    pub(crate) previous_rows: Vec<SharedPreviousRow>,
    /// For a delete: whether the rows are locked, and their versions compared.
    pub(crate) origin: RowOrigin,
}

impl Notifier {
    pub(crate) fn new(
        kind: WriteKind,
        many: bool,
        receivers: Arc<OperationReceivers>,
        recorders: Recorders,
    ) -> Self {
        Self {
            receivers,
            kind,
            recorders,
            many,
            tried: false,
            written: WriteOutcome::default(),
            previous_rows: Vec::new(),
            origin: RowOrigin::Given,
        }
    }

    /// If the write may have several rows, adds to an error which row it is about.
    pub(crate) fn with_row(&self, rows: &dyn Rows, row: usize, error: Error) -> Error {
        if self.many { row_error(self.kind.row_verb(), rows, row, error) } else { error }
    }

    /// Checks that the deferred receivers can observe the end of the transaction.
    pub(crate) async fn check_observable(
        &self,
        model: &'static str,
        conn: &mut Conn<'_>,
    ) -> Result<()> {
        check_observable(model, self.receivers.needs.deferred, conn).await
    }

    /// Whether the statement can commit itself.
    pub(crate) async fn commits_itself(
        &self,
        rows: &dyn Rows,
        conn: &mut Conn<'_>,
    ) -> Result<bool> {
        if self.kind == WriteKind::Delete && rows.len() > 1 {
            // The rows that a trigger kept are looked up after the DELETE. If the future were
            // dropped in between, this lookup would not run.
            let versioned = rows.schema().has(ColumnGroup::Version);
            return Ok(!versioned && inspect::stores_every_row(conn, rows).await?);
        }
        let database = conn.kind();
        let known = conn.facts().commits_itself(database, rows, &self.kind);
        match known {
            Some(known) => Ok(known),
            None => inspect::commits_itself(conn, rows, &self.kind).await,
        }
    }

    /// Executes the statements of the write.
    pub(crate) fn execute(
        &self,
        rows: &mut dyn SignalRows,
        conn: &mut Conn<'_>,
        context: &OperationContext,
    ) -> impl Future<Output = Result<WriteOutcome>> + Send {
        async move {
            let previous = self.receivers.previous;
            match &self.kind {
                WriteKind::Delete if self.cascades() => {
                    cascade::delete(rows, conn, self, context).await
                }
                WriteKind::Delete if self.many || previous || self.origin == RowOrigin::Locked => {
                    delete::delete_rows(rows, conn, self).await
                }
                WriteKind::Delete => delete::delete_one(rows, conn).await,
                kind => {
                    save::stamp(rows, kind);
                    match self.many {
                        true => save::write_many(rows, conn, kind, self).await,
                        false if self.tried => {
                            let stored = continue_store(conn, rows, kind, previous, true);
                            stored.await.map(WriteOutcome::of_save)
                        }
                        false => store(conn, rows, kind, previous).await.map(WriteOutcome::of_save),
                    }
                }
            }
        }
    }

    /// Whether rows of other models may reference the deleted rows.
    fn cascades(&self) -> bool {
        self.kind == WriteKind::Delete && !self.receivers.dependents.is_empty()
    }

    /// Compares the versions of the rows to delete, and locks them, if receivers before the statement may write these rows: that
    /// increments the versions. A cascading delete does so itself.
    pub(crate) fn lock_versions_if_needed<'n>(
        &'n mut self,
        rows: &'n mut dyn SignalRows,
        conn: &'n mut Conn<'_>,
    ) -> Either<Ready<Result<()>>, BoxFuture<'n, Result<()>>> {
        let locks = self.kind == WriteKind::Delete
            && self.receivers.needs.connection_before
            && rows.schema().has(ColumnGroup::Version)
            && !self.cascades();
        if !locks {
            return Either::Left(ready(Ok(())));
        }
        Either::Right(Box::pin(async move {
            self.origin = delete::lock_versions(rows, conn, self).await?;
            Ok(())
        }))
    }

    /// Runs the receivers before the statement. For a cascading delete, they run later, when the
    /// rows to delete are known.
    pub(crate) fn notify_before(
        &self,
        rows: &mut dyn SignalRows,
        mut conn: Option<&mut Conn<'_>>,
        context: &OperationContext,
    ) -> impl Future<Output = Result<()>> + Send {
        async move {
            if self.is_before_empty() || self.cascades() {
                return Ok(());
            }
            for row in 0..rows.len() {
                self.notify_before_row(rows, row, conn.as_deref_mut(), context).await?;
            }
            Ok(())
        }
    }

    /// Whether neither a receiver nor a recorder is notified before the statement.
    pub(crate) fn is_before_empty(&self) -> bool {
        self.receivers.before.is_empty() && !self.recorders.any()
    }

    /// Runs the receivers before the statement for one row. A row without a key is not stored, so
    /// it is not deleted and has no `pre_delete`.
    pub(crate) fn notify_before_row(
        &self,
        rows: &mut dyn SignalRows,
        row: usize,
        mut conn: Option<&mut Conn<'_>>,
        context: &OperationContext,
    ) -> impl Future<Output = Result<()>> + Send {
        async move {
            let signal = match self.kind {
                WriteKind::Delete if !rows.has_key(row) => return Ok(()),
                WriteKind::Delete => pre_delete::NAME,
                _ => pre_save::NAME,
            };
            if self.recorders.any()
                && let Some(conn) = &mut conn
            {
                conn.state.set_notified();
            }
            self.recorders.before(signal, rows.at(row));
            let mut event = RowsEvent { rows: &mut *rows, event: RowEvent::of_row(row, None) };
            let (previous, lap) = (&None, &mut Lap::default());
            let mut dispatch = Dispatch { event: &mut event, conn, context, previous, lap };
            let done = dispatch.run(&self.receivers.before).await;
            done.map_err(|error| self.with_row(rows, row, error))
        }
    }

    /// Runs the receivers after the statement, except the deferred ones.
    pub(crate) fn notify_after(
        &self,
        rows: &mut dyn SignalRows,
        mut conn: Option<&mut Conn<'_>>,
        context: &OperationContext,
    ) -> impl Future<Output = Result<()>> + Send {
        async move {
            let mut lap = Lap::default();
            if !self.receivers.after.is_empty() {
                for row in self.written.rows() {
                    let mut event = RowsEvent { rows: &mut *rows, event: self.row_event(row) };
                    let (conn, previous) = (conn.as_deref_mut(), self.previous_row(row));
                    let mut dispatch =
                        Dispatch { event: &mut event, conn, context, previous, lap: &mut lap };
                    let done = dispatch.run(&self.receivers.after).await;
                    done.map_err(|error| self.with_row(rows, row, error))?;
                }
            }
            if !self.receivers.batch.is_empty() {
                for batch in self.written.batches.iter() {
                    let mut event = RowsEvent { rows: &mut *rows, event: self.batch_event(batch) };
                    let (conn, previous) = (conn.as_deref_mut(), &None);
                    let mut dispatch =
                        Dispatch { event: &mut event, conn, context, previous, lap: &mut lap };
                    dispatch.run(&self.receivers.batch).await?;
                }
            }
            Ok(())
        }
    }

    /// Runs the receivers after a statement that has committed itself, then the deferred receivers.
    pub(crate) fn notify_after_commit<'n>(
        &'n self,
        rows: &'n mut dyn SignalRows,
        context: &'n OperationContext,
    ) -> impl Future<Output = Result<()>> + Send + 'n {
        async move {
            // The rows are already stored, so the error of a receiver does not mean that the write was
            // refused.
            let received = self.notify_after(rows, None, context).await.map_err(Error::not_refused);
            self.notify_deferred(rows, context, Pending::new(received)).await
        }
    }

    /// The write of a row of the caller, which is the row `row` of `rows`.
    pub(super) fn row_write<'w>(
        &'w self,
        rows: &'w mut dyn SignalRows,
        row: usize,
        of_caller: usize,
    ) -> RowWrite<'w> {
        let (created, previous) = (self.written.created, self.previous_row(of_caller));
        RowWrite { rows, row, created, previous }
    }

    /// Whether a durable receiver is notified.
    pub(crate) fn is_stored(&self) -> bool {
        !self.receivers.durable.is_empty() || !self.receivers.durable_batch.is_empty()
    }

    /// Stores the events of the write for the durable receivers. Boxed, so that writes without such receivers do not grow.
    pub(crate) fn store<'n>(
        &'n self,
        rows: &'n mut dyn SignalRows,
        conn: &'n mut Conn<'_>,
        context: &'n OperationContext,
    ) -> BoxFuture<'n, Result<()>> {
        Box::pin(async move {
            let OperationReceivers { durable, durable_batch, .. } = &*self.receivers;
            if !durable.is_empty() {
                for row in self.written.rows() {
                    let event = RowsEvent { rows: &mut *rows, event: self.row_event(row) };
                    let previous = self.previous_row(row);
                    let stored = event_store::store(&event, durable, previous, context, conn).await;
                    stored.map_err(|error| self.with_row(rows, row, error))?;
                }
            }
            if !durable_batch.is_empty() {
                for batch in self.written.batches.iter() {
                    let event = RowsEvent { rows: &mut *rows, event: self.batch_event(batch) };
                    event_store::store(&event, durable_batch, &None, context, conn).await?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn row_event(&self, row: usize) -> RowEvent {
        RowEvent::of_row(row, self.written.created)
    }

    pub(super) fn batch_event(&self, rows: &Range<usize>) -> RowEvent {
        RowEvent::of_rows(rows.clone(), self.written.created)
    }

    pub(super) fn previous_row(&self, row: usize) -> &SharedPreviousRow {
        self.previous_rows.get(row).unwrap_or(&None)
    }
}
