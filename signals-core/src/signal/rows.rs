//! Events about type-erased rows, and how they reach the receivers of their model and of every model.

use std::ops::Range;

use crate::signal::erased::{ErasedReceiver, Event, KeptEvent, Started};
use crate::signal::parameter::Context;
use crate::signal::receivers::ReceiverCache;
use crate::table::rows::Rows;

/// Type-erased rows of one model, with the calls of its receivers.
#[allow(unreachable_pub)]
pub trait SignalRows: Rows {
    /// The receivers of the model.
    fn receivers(&self) -> &'static ReceiverCache;

    /// A copy of the rows. `None` if the model is not `Clone`.
    fn copied(&self) -> Option<Box<dyn SignalRows>>;

    /// Calls a receiver of the model.
    fn begin<'a>(
        &'a mut self,
        to: &ErasedReceiver,
        event: &RowEvent,
        cx: Context<'a, '_>,
    ) -> Started<'a>;

    /// Copies the event for receivers of the model that run after the transaction has ended. `to` is one of these receivers.
    fn keep_event(&self, to: &ErasedReceiver, event: &RowEvent) -> Option<Box<dyn KeptEvent>>;
}

impl dyn SignalRows + '_ {
    /// The rows without their receivers, as statements use them.
    pub(crate) fn as_rows(&self) -> &dyn Rows {
        self
    }

    pub(crate) fn as_rows_mut(&mut self) -> &mut dyn Rows {
        self
    }
}

/// What happens to rows, which are named by their indexes in the caller's slice.
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
    /// The index of the first row.
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

/// An event together with its rows.
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
        match to.any_model_calls() {
            Some(any) => any.begin(self.rows, &self.event, cx),
            None => self.rows.begin(to, &self.event, cx),
        }
    }

    fn keep(&self, to: &[&ErasedReceiver]) -> Option<Box<dyn KeptEvent>> {
        let (rows, event) = (&*self.rows, &self.event);
        let mut typed = to.iter().filter(|to| to.any_model_calls().is_none());
        let typed = typed.find_map(|to| rows.keep_event(to, event));
        let any =
            to.iter().filter_map(|to| to.any_model_calls()).find_map(|any| any.keep(rows, event));
        match (typed, any) {
            (Some(typed), Some(any)) => Some(Box::new(Both { typed, any })),
            (typed, any) => typed.or(any),
        }
    }
}

/// A kept event for receivers of the model and for receivers of every model.
pub(crate) struct Both {
    pub(crate) typed: Box<dyn KeptEvent>,
    pub(crate) any: Box<dyn KeptEvent>,
}

impl KeptEvent for Both {
    fn begin<'a>(&'a self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        if to.any_model_calls().is_some() {
            self.any.begin(to, cx)
        } else {
            self.typed.begin(to, cx)
        }
    }
}
