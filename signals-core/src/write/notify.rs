//! Who hears of a write: those before the statement, those after it, those that wait for the end of the transaction.

use crate::write::WriteOutcome;
use crate::write::row_error;
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
use crate::signal::rows::SignalRows;
use crate::signal::rows::{RowEvent, RowsEvent};
use crate::signal::{Signal, post_delete, post_save, pre_delete, pre_save};
use crate::table::previous_row::SharedPreviousRow;
use crate::table::rows::Rows;
use crate::task::finish::{Pending, finish};
use crate::write::SaveKind;
use crate::write::WriteKind;
use crate::write::cascade;
use crate::write::delete;
use crate::write::inspect;
use crate::write::save;
use crate::write::single::store;

/// A write, as its receivers hear of it.
#[derive(Clone)]
pub(crate) struct Notifier {
    pub(crate) pair: Arc<WriteReceivers>,
    pub(crate) unit: WriteKind,
    recorders: Recorders,
    /// Whether it may be several rows, so that an error of one says which.
    pub(crate) many: bool,
    pub(crate) written: WriteOutcome,
    /// What each row was before, where that is asked for.
    pub(crate) before: Vec<SharedPreviousRow>,
}

/// What one event is about.
enum Part {
    Row(usize),
    Batch(Range<usize>),
}

impl Notifier {
    pub(crate) fn new(
        unit: WriteKind,
        many: bool,
        pair: Arc<WriteReceivers>,
        recorders: Recorders,
    ) -> Self {
        Self { pair, unit, recorders, many, written: WriteOutcome::default(), before: Vec::new() }
    }

    /// An error of one of several rows says which.
    pub(crate) fn of_row(&self, rows: &dyn Rows, row: usize, error: Error) -> Error {
        let verb = match self.unit {
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
        let verb = match &self.unit {
            WriteKind::Save(verb) => Some(verb),
            // Which rows a trigger has kept is asked after the statement, and this future may be dropped then.
            WriteKind::Delete if rows.len() > 1 => return inspect::is_plain(conn, rows).await,
            WriteKind::Delete => None,
        };
        let kind = conn.kind();
        let commits_itself = match conn.facts().commits_itself(kind, rows, verb) {
            Some(known) => known,
            None => inspect::commits_itself(conn, rows, verb).await?,
        };
        // If one of several rows is not stored, none is.
        let several = rows.len() > 1 && verb == Some(&SaveKind::Insert);
        Ok(commits_itself && (!several || inspect::stores_every_row(conn, rows).await?))
    }

    /// Writes the rows.
    pub(crate) async fn write(
        &self,
        rows: &mut dyn SignalRows,
        conn: &mut Conn<'_>,
        scene: &OperationContext,
    ) -> Result<WriteOutcome> {
        match &self.unit {
            WriteKind::Save(verb) => {
                save::stamp(rows, verb);
                match self.many {
                    true => save::write_many(rows, conn, verb, self).await,
                    false => Ok(store(conn, rows, verb, self.pair.previous).await?.written()),
                }
            }
            WriteKind::Delete if self.cascades() => cascade::delete(rows, conn, self, scene).await,
            WriteKind::Delete if self.many || self.pair.previous => {
                delete::delete_rows(rows, conn, self).await
            }
            WriteKind::Delete => delete::delete_one(rows, conn).await,
        }
    }

    /// Whether rows of other models may belong to those that are deleted.
    fn cascades(&self) -> bool {
        self.unit == WriteKind::Delete && !self.pair.dependents.is_empty()
    }

    /// Tells those ahead of the statement. Of a delete with rows that belong to others, they are told later, when it is known
    /// which rows are deleted.
    pub(crate) async fn tell_before(
        &self,
        rows: &mut dyn SignalRows,
        mut conn: Option<&mut Conn<'_>>,
        scene: &OperationContext,
    ) -> Result<()> {
        if self.is_silent_before() || self.cascades() {
            return Ok(());
        }
        for row in 0..rows.len() {
            self.tell_before_row(rows, row, conn.as_deref_mut(), scene).await?;
        }
        Ok(())
    }

    /// Whether there is nobody ahead of the statement.
    pub(crate) fn is_silent_before(&self) -> bool {
        self.pair.before.is_empty() && !self.recorders.any()
    }

    /// Tells those ahead of the statement about one row. A row without a key is not stored, and so it is not deleted.
    pub(crate) async fn tell_before_row(
        &self,
        rows: &mut dyn SignalRows,
        row: usize,
        mut conn: Option<&mut Conn<'_>>,
        scene: &OperationContext,
    ) -> Result<()> {
        let (signal, told) = match self.unit {
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
        let mut event = RowsEvent { rows: &mut *rows, event: told };
        let done = dispatch(&self.pair.before, &mut event, conn, scene, &None).await;
        done.map_err(|error| self.of_row(rows, row, error))
    }

    /// Tells those behind the statement.
    pub(crate) async fn tell_after(
        &self,
        rows: &mut dyn SignalRows,
        mut conn: Option<&mut Conn<'_>>,
        scene: &OperationContext,
    ) -> Result<()> {
        if !self.pair.after.is_empty() {
            for row in self.written.rows() {
                let mut event = RowsEvent { rows: &mut *rows, event: self.told(row) };
                let (after, conn) = (&self.pair.after, conn.as_deref_mut());
                let done = dispatch(after, &mut event, conn, scene, self.before_of(row)).await;
                done.map_err(|error| self.of_row(rows, row, error))?;
            }
        }
        if !self.pair.batch.is_empty() {
            for batch in self.written.batches.iter() {
                let mut event = RowsEvent { rows: &mut *rows, event: self.told_batch(batch) };
                let conn = conn.as_deref_mut();
                dispatch(&self.pair.batch, &mut event, conn, scene, &None).await?;
            }
        }
        Ok(())
    }

    /// Tells those behind a statement that has committed itself, and those that waited for that.
    pub(crate) async fn tell_alone(
        &self,
        rows: &mut dyn SignalRows,
        scene: &OperationContext,
    ) -> Result<()> {
        // The rows are stored, whatever their receivers do.
        let received = self.tell_after(rows, None, scene).await.map_err(Error::not_refused);
        let received = Pending::new(received);
        let mut uncopied = Vec::new();
        let postponed = self.postponed_or(rows, scene, |part, keep| {
            // A `Clone` that panics must lose no receiver: the row is stored.
            catch_unwind(AssertUnwindSafe(keep)).unwrap_or_else(|_| {
                uncopied.push(part);
                None
            })
        });
        if !postponed.is_empty() {
            finish(run_all(postponed, End::Committed, None)).await;
        }
        // Without a copy they run here, and are lost if this future is dropped.
        for part in uncopied {
            let (to, told, before) = match &part {
                Part::Row(row) => (&self.pair.deferred, self.told(*row), self.before_of(*row)),
                Part::Batch(rows) => (&self.pair.deferred_batch, self.told_batch(rows), &None),
            };
            let mut event = RowsEvent { rows: &mut *rows, event: told };
            notify_committed(to, &mut event, scene, before).await;
        }
        received.take()
    }

    /// What waits for the end of the transaction.
    pub(crate) fn postponed(
        &self,
        rows: &mut dyn SignalRows,
        scene: &OperationContext,
    ) -> Vec<Box<dyn Deferred>> {
        self.postponed_or(rows, scene, |_, keep| keep())
    }

    /// As [`postponed`](Self::postponed); `attempt` is given what keeps each event, which may panic.
    fn postponed_or(
        &self,
        rows: &mut dyn SignalRows,
        scene: &OperationContext,
        mut attempt: impl FnMut(
            Part,
            &mut dyn FnMut() -> Option<Box<dyn Deferred>>,
        ) -> Option<Box<dyn Deferred>>,
    ) -> Vec<Box<dyn Deferred>> {
        let mut all = Vec::new();
        if !self.pair.deferred.is_empty() || self.recorders.any() {
            let (created, seen) = (self.written.created, scene.db.is_some());
            let signal = if created.is_some() { post_save::NAME } else { post_delete::NAME };
            for row in self.written.rows() {
                let event = RowsEvent { rows: &mut *rows, event: self.told(row) };
                let before = self.before_of(row);
                let mut keep = || DeferredDelivery::of(&self.pair.deferred, &event, scene, before);
                let waiting = attempt(Part::Row(row), &mut keep);
                all.extend(self.recorders.after(signal, created, rows.at(row), seen, waiting));
            }
        }
        if !self.pair.deferred_batch.is_empty() {
            for batch in self.written.batches.iter() {
                let event = RowsEvent { rows: &mut *rows, event: self.told_batch(batch) };
                let mut keep =
                    || DeferredDelivery::of(&self.pair.deferred_batch, &event, scene, &None);
                all.extend(attempt(Part::Batch(batch.clone()), &mut keep));
            }
        }
        all
    }

    fn told(&self, row: usize) -> RowEvent {
        match self.written.created {
            Some(created) => RowEvent::PostSave { row, created },
            None => RowEvent::PostDelete(row),
        }
    }

    fn told_batch(&self, rows: &Range<usize>) -> RowEvent {
        match self.written.created {
            Some(created) => RowEvent::PostSaveBatch { rows: rows.clone(), created },
            None => RowEvent::PostDeleteBatch(rows.clone()),
        }
    }

    fn before_of(&self, row: usize) -> &SharedPreviousRow {
        self.before.get(row).unwrap_or(&None)
    }
}
