//! The rows of a write as its receivers see them.

use std::ops::Range;

use crate::signal::erased::{ErasedReceiver, Event, KeptEvent, Started};
use crate::signal::parameter::Context;
use crate::signal::receivers::ReceiverCache;
use crate::table::rows::Rows;

/// Rows whose receivers can be called.
#[allow(unreachable_pub)]
pub trait SignalRows: Rows {
    /// The receivers of the model.
    fn receivers(&self) -> &'static ReceiverCache;

    /// A copy of the rows, where that can be had.
    fn copied(&self) -> Option<Box<dyn SignalRows>>;

    /// Begins a receiver of the model.
    fn begin<'a>(
        &'a mut self,
        to: &ErasedReceiver,
        told: &RowEvent,
        cx: Context<'a, '_>,
    ) -> Started<'a>;

    /// Keeps what happens to the rows for receivers of the model, of which this is one, that wait for the end of the
    /// transaction.
    fn keep_event(&self, to: &ErasedReceiver, told: &RowEvent) -> Option<Box<dyn KeptEvent>>;
}

impl dyn SignalRows + '_ {
    /// The same rows for statements.
    pub(crate) fn as_rows(&self) -> &dyn Rows {
        self
    }

    pub(crate) fn as_rows_mut(&mut self) -> &mut dyn Rows {
        self
    }
}

/// What happens to rows, by their places in the slice that the program gave.
#[derive(Debug, Clone)]
#[allow(unreachable_pub)]
pub enum RowEvent {
    PreSave(usize),
    PostSave { row: usize, created: bool },
    PostSaveBatch { rows: Range<usize>, created: bool },
    PreDelete(usize),
    PostDelete(usize),
    PostDeleteBatch(Range<usize>),
    PostLoad(usize),
}

impl RowEvent {
    /// The first row.
    pub(crate) fn first(&self) -> usize {
        match self {
            RowEvent::PreSave(row)
            | RowEvent::PostSave { row, .. }
            | RowEvent::PreDelete(row)
            | RowEvent::PostDelete(row)
            | RowEvent::PostLoad(row) => *row,
            RowEvent::PostSaveBatch { rows, .. } | RowEvent::PostDeleteBatch(rows) => rows.start,
        }
    }
}

/// Tells receivers what happens to rows.
pub(crate) struct RowsEvent<'r> {
    pub(crate) rows: &'r mut dyn SignalRows,
    pub(crate) event: RowEvent,
}

impl Event for RowsEvent<'_> {
    fn created(&self) -> Option<bool> {
        match self.event {
            RowEvent::PostSave { created, .. } | RowEvent::PostSaveBatch { created, .. } => {
                Some(created)
            }
            _ => None,
        }
    }

    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        match to.any() {
            Some(any) => any.begin(self.rows, &self.event, cx),
            None => self.rows.begin(to, &self.event, cx),
        }
    }

    fn keep(&self, to: &[&ErasedReceiver]) -> Option<Box<dyn KeptEvent>> {
        let (rows, told) = (&*self.rows, &self.event);
        let mut own = to.iter().filter(|to| to.any().is_none());
        let own = own.find_map(|to| rows.keep_event(to, told));
        let any = to.iter().filter_map(|to| to.any()).find_map(|any| any.keep(rows, told));
        match (own, any) {
            (Some(own), Some(any)) => Some(Box::new(Both { own, any })),
            (own, any) => own.or(any),
        }
    }
}

/// An event that is kept for receivers of its model and for those of every model.
pub(crate) struct Both {
    pub(crate) own: Box<dyn KeptEvent>,
    pub(crate) any: Box<dyn KeptEvent>,
}

impl KeptEvent for Both {
    fn begin<'a>(&'a self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        if to.any().is_some() { self.any.begin(to, cx) } else { self.own.begin(to, cx) }
    }
}
