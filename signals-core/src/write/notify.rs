//! Notifies the receivers of a write: those before the statement, those after it, and those
//! deferred to the end of the transaction.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::database::conn::Conn;
use crate::database::deferred::{Deferred, End, run_all};
use crate::error::{Error, Result};
use crate::signal::dispatch::{DeferredDelivery, dispatch, notify_committed};
use crate::signal::operation_context::OperationContext;
use crate::signal::receivers::WriteReceivers;
use crate::signal::recording::Recorders;
use crate::signal::rows::{RowEvent, RowsEvent, SignalRows};
use crate::signal::{Signal, post_delete, post_save, pre_delete, pre_save};
use crate::table::previous_row::SharedPreviousRow;
use crate::table::rows::Rows;
use crate::task::finish::{Pending, finish};
use crate::write::single::store;
use crate::write::{SaveKind, WriteKind, WriteOutcome, cascade, delete, inspect, row_error, save};

/// A write and the receivers to notify of it.
#[derive(Clone)]
pub(crate) struct Notifier {
    pub(crate) receivers: Arc<WriteReceivers>,
    pub(crate) kind: WriteKind,
    recorders: Recorders,
    /// Whether the write may have several rows, so that an error of one row has to name it.
    pub(crate) many: bool,
    pub(crate) written: WriteOutcome,
    /// The previous state of each row, if a receiver asks for it.
    pub(crate) previous_rows: Vec<SharedPreviousRow>,
}

/// The rows that an event is about.
enum Part {
    Row(usize),
    Batch(Range<usize>),
}

impl Notifier {
    pub(crate) fn new(
        kind: WriteKind,
        many: bool,
        receivers: Arc<WriteReceivers>,
        recorders: Recorders,
    ) -> Self {
        Self {
            receivers,
            kind,
            recorders,
            many,
            written: WriteOutcome::default(),
            previous_rows: Vec::new(),
        }
    }

    /// If the write may have several rows, adds to an error which row it is about.
    pub(crate) fn with_row(&self, rows: &dyn Rows, row: usize, error: Error) -> Error {
        let verb = match self.kind {
            WriteKind::Save(SaveKind::Insert) => "insert",
            WriteKind::Save(_) => "update",
            WriteKind::Delete => "delete",
        };
        if self.many { row_error(verb, rows, row, error) } else { error }
    }

    /// Whether the statement can commit itself.
    pub(crate) async fn commits_itself(
        &self,
        rows: &dyn Rows,
        conn: &mut Conn<'_>,
    ) -> Result<bool> {
        let save_kind = match &self.kind {
            WriteKind::Save(save_kind) => Some(save_kind),
            // The rows that a trigger kept are looked up after the DELETE. If the future were
            // dropped in between, this lookup would not run.
            WriteKind::Delete if rows.len() > 1 => return inspect::is_plain(conn, rows).await,
            WriteKind::Delete => None,
        };
        let kind = conn.kind();
        let commits_itself = match conn.facts().commits_itself(kind, rows, save_kind) {
            Some(known) => known,
            None => inspect::commits_itself(conn, rows, save_kind).await?,
        };
        // An INSERT of several rows must store all of them or none.
        let several = rows.len() > 1 && save_kind == Some(&SaveKind::Insert);
        Ok(commits_itself && (!several || inspect::stores_every_row(conn, rows).await?))
    }

    /// Executes the statements of the write.
    pub(crate) async fn execute(
        &self,
        rows: &mut dyn SignalRows,
        conn: &mut Conn<'_>,
        context: &OperationContext,
    ) -> Result<WriteOutcome> {
        match &self.kind {
            WriteKind::Save(save_kind) => {
                save::stamp(rows, save_kind);
                match self.many {
                    true => save::write_many(rows, conn, save_kind, self).await,
                    false => {
                        Ok(store(conn, rows, save_kind, self.receivers.previous).await?.written())
                    }
                }
            }
            WriteKind::Delete if self.cascades() => {
                cascade::delete(rows, conn, self, context).await
            }
            WriteKind::Delete if self.many || self.receivers.previous => {
                delete::delete_rows(rows, conn, self).await
            }
            WriteKind::Delete => delete::delete_one(rows, conn).await,
        }
    }

    /// Whether rows of other models may reference the deleted rows.
    fn cascades(&self) -> bool {
        self.kind == WriteKind::Delete && !self.receivers.dependents.is_empty()
    }

    /// Runs the receivers before the statement. For a cascading delete, they run later, when the
    /// rows to delete are known.
    pub(crate) async fn notify_before(
        &self,
        rows: &mut dyn SignalRows,
        mut conn: Option<&mut Conn<'_>>,
        context: &OperationContext,
    ) -> Result<()> {
        if self.is_before_empty() || self.cascades() {
            return Ok(());
        }
        for row in 0..rows.len() {
            self.notify_before_row(rows, row, conn.as_deref_mut(), context).await?;
        }
        Ok(())
    }

    /// Whether neither a receiver nor a recorder is notified before the statement.
    pub(crate) fn is_before_empty(&self) -> bool {
        self.receivers.before.is_empty() && !self.recorders.any()
    }

    /// Runs the receivers before the statement for one row. A row without a key is not stored, so
    /// it is not deleted and has no `pre_delete`.
    pub(crate) async fn notify_before_row(
        &self,
        rows: &mut dyn SignalRows,
        row: usize,
        mut conn: Option<&mut Conn<'_>>,
        context: &OperationContext,
    ) -> Result<()> {
        let (signal, row_event) = match self.kind {
            WriteKind::Delete if !rows.has_key(row) => return Ok(()),
            WriteKind::Delete => (pre_delete::NAME, RowEvent::PreDelete(row)),
            WriteKind::Save(_) => (pre_save::NAME, RowEvent::PreSave(row)),
        };
        if self.recorders.any()
            && let Some(conn) = &mut conn
        {
            conn.state.set_notified();
        }
        self.recorders.before(signal, rows.at(row));
        let mut event = RowsEvent { rows: &mut *rows, event: row_event };
        let done = dispatch(&self.receivers.before, &mut event, conn, context, &None).await;
        done.map_err(|error| self.with_row(rows, row, error))
    }

    /// Runs the receivers after the statement, except the deferred ones.
    pub(crate) async fn notify_after(
        &self,
        rows: &mut dyn SignalRows,
        mut conn: Option<&mut Conn<'_>>,
        context: &OperationContext,
    ) -> Result<()> {
        if !self.receivers.after.is_empty() {
            for row in self.written.rows() {
                let mut event = RowsEvent { rows: &mut *rows, event: self.row_event(row) };
                let (after, conn) = (&self.receivers.after, conn.as_deref_mut());
                let done = dispatch(after, &mut event, conn, context, self.previous_row(row)).await;
                done.map_err(|error| self.with_row(rows, row, error))?;
            }
        }
        if !self.receivers.batch.is_empty() {
            for batch in self.written.batches.iter() {
                let mut event = RowsEvent { rows: &mut *rows, event: self.batch_event(batch) };
                let conn = conn.as_deref_mut();
                dispatch(&self.receivers.batch, &mut event, conn, context, &None).await?;
            }
        }
        Ok(())
    }

    /// Runs the receivers after a statement that has committed itself, then the deferred receivers.
    pub(crate) async fn notify_after_commit(
        &self,
        rows: &mut dyn SignalRows,
        context: &OperationContext,
    ) -> Result<()> {
        // The rows are already stored, so the error of a receiver does not mean that the write was
        // refused.
        let received = self.notify_after(rows, None, context).await.map_err(Error::not_refused);
        let received = Pending::new(received);
        let mut uncopied = Vec::new();
        let deferred = self.deferred_with(rows, context, |part, keep| {
            // The row is stored, so its receivers must run even if `Clone` panics.
            catch_unwind(AssertUnwindSafe(keep)).unwrap_or_else(|_| {
                uncopied.push(part);
                None
            })
        });
        if !deferred.is_empty() {
            finish(run_all(deferred, End::Committed, None)).await;
        }
        // Without a copy, the deferred receivers run in this future, and are not run if it is
        // dropped.
        for part in uncopied {
            let (to, row_event, before) = match &part {
                Part::Row(row) => {
                    (&self.receivers.deferred, self.row_event(*row), self.previous_row(*row))
                }
                Part::Batch(rows) => {
                    (&self.receivers.deferred_batch, self.batch_event(rows), &None)
                }
            };
            let mut event = RowsEvent { rows: &mut *rows, event: row_event };
            notify_committed(to, &mut event, context, before).await;
        }
        received.take()
    }

    /// Returns the deliveries that are deferred to the end of the transaction.
    pub(crate) fn deferred(
        &self,
        rows: &mut dyn SignalRows,
        context: &OperationContext,
    ) -> Vec<Box<dyn Deferred>> {
        self.deferred_with(rows, context, |_, keep| keep())
    }

    /// As [`deferred`](Self::deferred), but each event is kept by `attempt`. The function passed to
    /// it clones the row, so it may panic.
    fn deferred_with(
        &self,
        rows: &mut dyn SignalRows,
        context: &OperationContext,
        mut attempt: impl FnMut(
            Part,
            &mut dyn FnMut() -> Option<Box<dyn Deferred>>,
        ) -> Option<Box<dyn Deferred>>,
    ) -> Vec<Box<dyn Deferred>> {
        let mut all = Vec::new();
        if !self.receivers.deferred.is_empty() || self.recorders.any() {
            let (created, seen) = (self.written.created, context.db.is_some());
            let signal = if created.is_some() { post_save::NAME } else { post_delete::NAME };
            for row in self.written.rows() {
                let event = RowsEvent { rows: &mut *rows, event: self.row_event(row) };
                let before = self.previous_row(row);
                let mut keep =
                    || DeferredDelivery::of(&self.receivers.deferred, &event, context, before);
                let waiting = attempt(Part::Row(row), &mut keep);
                all.extend(self.recorders.after(signal, created, rows.at(row), seen, waiting));
            }
        }
        if !self.receivers.deferred_batch.is_empty() {
            for batch in self.written.batches.iter() {
                let event = RowsEvent { rows: &mut *rows, event: self.batch_event(batch) };
                let mut keep =
                    || DeferredDelivery::of(&self.receivers.deferred_batch, &event, context, &None);
                all.extend(attempt(Part::Batch(batch.clone()), &mut keep));
            }
        }
        all
    }

    fn row_event(&self, row: usize) -> RowEvent {
        match self.written.created {
            Some(created) => RowEvent::PostSave { row, created },
            None => RowEvent::PostDelete(row),
        }
    }

    fn batch_event(&self, rows: &Range<usize>) -> RowEvent {
        match self.written.created {
            Some(created) => RowEvent::PostSaveBatch { rows: rows.clone(), created },
            None => RowEvent::PostDeleteBatch(rows.clone()),
        }
    }

    fn previous_row(&self, row: usize) -> &SharedPreviousRow {
        self.previous_rows.get(row).unwrap_or(&None)
    }
}
