//! Events about type-erased rows: how they reach the receivers of their model and of every model, and how they are kept.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::signal::erased::{Calls, ErasedReceiver, Event, KeptEvent, Started};
use crate::signal::event_store::EventContent;
use crate::signal::parameter::Context;
use crate::signal::receivers::ReceiverCache;
use crate::table::any::{AnyModel, AnyRows, Snapshot};
use crate::table::column::Column;
use crate::table::rows::Rows;

/// Type-erased rows of one model, with the calls of its receivers.
#[allow(unreachable_pub)]
pub trait SignalRows: Rows {
    /// The receivers of the model.
    fn receivers(&self) -> &'static ReceiverCache;

    /// A copy of the rows. `None` if the model is not `Clone`.
    fn copied(&self) -> Option<Box<dyn SignalRows>>;

    /// Calls a receiver of the model. `calls` are its `ModelCalls`.
    fn begin<'a>(
        &'a mut self,
        to: &ErasedReceiver,
        calls: &(dyn Any + Send + Sync),
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

/// What an event is about. The signal says what happens to the rows.
#[derive(Debug, Clone)]
#[allow(unreachable_pub)]
pub struct RowEvent {
    /// The rows, as indexes in the caller's slice.
    pub(crate) rows: Range<usize>,
    /// Whether the rows are new. `None` for signals that do not say.
    pub(crate) created: Option<bool>,
    pub(crate) fields: EventFields,
}

/// The columns that an event names as written.
#[derive(Debug, Clone)]
pub(crate) enum EventFields {
    /// Those of the write.
    OfWrite,
    /// Those of several writes of the row. `None` if they are all columns.
    OfWrites(Option<Arc<[&'static str]>>),
}

impl EventFields {
    /// The names of the columns, given those of the write.
    #[cfg(feature = "durable")]
    pub(crate) fn names<M: ?Sized>(
        &self,
        of_write: Option<&[Column<M>]>,
    ) -> Option<Vec<&'static str>> {
        match self {
            Self::OfWrite => Some(of_write?.iter().map(|column| column.name()).collect()),
            Self::OfWrites(names) => names.as_deref().map(<[_]>::to_vec),
        }
    }

    /// The columns, given those of the write.
    pub(crate) fn columns<'e, M: ?Sized>(
        &self,
        of_write: Option<&'e [Column<M>]>,
    ) -> Option<Cow<'e, [Column<M>]>> {
        match self {
            Self::OfWrite => of_write.map(Cow::Borrowed),
            Self::OfWrites(names) => {
                Some(names.as_deref()?.iter().map(|name| Column::new(name)).collect())
            }
        }
    }
}

impl RowEvent {
    /// An event about one row.
    pub(crate) fn of_row(row: usize, created: Option<bool>) -> Self {
        Self::of_rows(row..row + 1, created)
    }

    pub(crate) fn of_rows(rows: Range<usize>, created: Option<bool>) -> Self {
        Self { rows, created, fields: EventFields::OfWrite }
    }
}

/// An event together with its rows.
pub(crate) struct RowsEvent<'r> {
    pub(crate) rows: &'r mut dyn SignalRows,
    pub(crate) event: RowEvent,
}

impl Event for RowsEvent<'_> {
    fn created(&self) -> Option<bool> {
        self.event.created
    }

    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        match to.calls() {
            Calls::OfModel(calls) => self.rows.begin(to, calls, &self.event, cx),
            Calls::OfEveryModel(begin) => {
                begin(to, AnyEventRows { rows: self.rows, event: self.event.clone() }, cx)
            }
        }
    }

    fn content(&self) -> EventContent<'_> {
        EventContent::Rows(&*self.rows, &self.event)
    }

    fn keep(&self, to: &mut dyn Iterator<Item = &ErasedReceiver>) -> Option<Box<dyn KeptEvent>> {
        let (rows, event) = (&*self.rows, &self.event);
        let (mut typed, mut any) = (None, None::<Box<dyn KeptEvent>>);
        for to in to {
            if to.is_of_every_model() {
                any.get_or_insert_with(|| Box::new(KeptSnapshots::of(rows, event)));
            } else if typed.is_none() {
                typed = rows.keep_event(to, event);
            }
        }
        match (typed, any) {
            (Some(typed), Some(any)) => Some(Box::new(Both { typed, any })),
            (typed, any) => typed.or(any),
        }
    }
}

/// The rows of an event, for receivers of their model.
#[allow(unreachable_pub)]
pub struct EventRows<'e, M> {
    pub(crate) rows: &'e mut [M],
    /// The columns of a partial save.
    pub(crate) fields: Option<&'e [Column<M>]>,
    pub(crate) created: Option<bool>,
}

impl<'e, M> EventRows<'e, M> {
    pub(crate) fn one_mut(self) -> (&'e mut M, Option<&'e [Column<M>]>) {
        (&mut self.rows[0], self.fields)
    }

    pub(crate) fn one(self) -> (&'e M, Option<&'e [Column<M>]>, bool) {
        (&self.rows[0], self.fields, self.created == Some(true))
    }

    pub(crate) fn all(self) -> (&'e [M], Option<&'e [Column<M>]>, bool) {
        (self.rows, self.fields, self.created == Some(true))
    }
}

/// The rows of an event, for receivers of every model.
#[allow(unreachable_pub)]
pub struct AnyEventRows<'e> {
    pub(crate) rows: &'e mut dyn AnyRows,
    pub(crate) event: RowEvent,
}

type AnyFields<'e> = Option<&'e [Column<dyn AnyModel>]>;

impl<'e> AnyEventRows<'e> {
    pub(crate) fn one_mut(self) -> (&'e mut dyn AnyModel, AnyFields<'e>) {
        self.rows.at_mut(self.event.rows.start)
    }

    pub(crate) fn one(self) -> (&'e dyn AnyModel, AnyFields<'e>, bool) {
        let Self { rows, event } = self;
        (rows.at(event.rows.start), rows.any_fields(), event.created == Some(true))
    }

    pub(crate) fn all(self) -> (Arc<[&'e dyn AnyModel]>, AnyFields<'e>, bool) {
        let (rows, event): (&'e dyn AnyRows, _) = (self.rows, self.event);
        let all = event.rows.map(|row| rows.at(row)).collect();
        (all, rows.any_fields(), event.created == Some(true))
    }
}

/// A copy of an event for receivers of the model.
pub(crate) struct KeptRows<M> {
    rows: SmallVec<[M; 1]>,
    fields: Option<Box<[Column<M>]>>,
    created: Option<bool>,
}

/// Copies an event. The last argument gives copies of rows the keys that their `Clone` may have left out.
pub(crate) type Keep<M> =
    fn(&[M], Option<&[Column<M>]>, Option<bool>, fn(&mut [M], &[M])) -> Box<dyn KeptEvent>;

#[cfg(feature = "durable")]
impl<M> KeptRows<M> {
    pub(crate) fn new(
        rows: Vec<M>,
        fields: Option<Box<[Column<M>]>>,
        created: Option<bool>,
    ) -> Self {
        Self { rows: rows.into(), fields, created }
    }
}

impl<M: Clone + Send + Sync + 'static> KeptRows<M> {
    pub(crate) fn keep(
        rows: &[M],
        fields: Option<&[Column<M>]>,
        created: Option<bool>,
        copy_keys: fn(&mut [M], &[M]),
    ) -> Box<dyn KeptEvent> {
        let mut copies = SmallVec::from(rows);
        copy_keys(&mut copies, rows);
        Box::new(Self { rows: copies, fields: fields.map(Box::from), created })
    }
}

impl<M: Send + Sync + 'static> KeptEvent for KeptRows<M> {
    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        let Self { rows, fields, created } = self;
        let rows = EventRows { rows, fields: fields.as_deref(), created: *created };
        (to.model_calls::<M>().begin)(to, rows, cx)
    }
}

/// A copy of an event for receivers of every model. It needs no `Clone`.
pub(crate) struct KeptSnapshots {
    rows: SmallVec<[Snapshot; 1]>,
    fields: Option<Box<[Column<dyn AnyModel>]>>,
    created: Option<bool>,
}

impl KeptSnapshots {
    fn of(rows: &dyn SignalRows, event: &RowEvent) -> Self {
        let copies = event.rows.clone().map(|row| Snapshot::of(rows.at(row))).collect();
        let fields = event.fields.columns(rows.any_fields()).map(|fields| fields.into());
        Self { rows: copies, fields, created: event.created }
    }
}

#[cfg(feature = "durable")]
impl KeptSnapshots {
    pub(crate) fn new(
        rows: Vec<Snapshot>,
        fields: Option<Box<[Column<dyn AnyModel>]>>,
        created: Option<bool>,
    ) -> Self {
        Self { rows: rows.into(), fields, created }
    }
}

impl AnyRows for KeptSnapshots {
    fn at(&self, index: usize) -> &dyn AnyModel {
        &self.rows[index]
    }

    fn any_fields(&self) -> AnyFields<'_> {
        self.fields.as_deref()
    }

    fn at_mut(&mut self, index: usize) -> (&mut dyn AnyModel, AnyFields<'_>) {
        (&mut self.rows[index], self.fields.as_deref())
    }
}

impl KeptEvent for KeptSnapshots {
    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        let event = RowEvent::of_rows(0..self.rows.len(), self.created);
        match to.calls() {
            Calls::OfEveryModel(begin) => begin(to, AnyEventRows { rows: self, event }, cx),
            Calls::OfModel(_) => panic!("the event was kept for receivers of every model"),
        }
    }
}

/// A kept event for receivers of the model and for receivers of every model.
struct Both {
    typed: Box<dyn KeptEvent>,
    any: Box<dyn KeptEvent>,
}

impl KeptEvent for Both {
    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        let kept = if to.is_of_every_model() { &mut self.any } else { &mut self.typed };
        kept.begin(to, cx)
    }
}
