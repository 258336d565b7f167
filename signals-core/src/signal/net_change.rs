//! Receivers that run once per transaction: the net change of each row that a transaction has written.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use smallvec::smallvec;

use crate::database::backend::DatabaseKind;
use crate::database::changes::Changes;
use crate::database::conn::Conn;
use crate::database::deferred::Deferred;
use crate::error::Result;
use crate::signal::dispatch::{DeferredDelivery, DeferredEvent, selects};
use crate::signal::erased::ErasedReceiver;
use crate::signal::event_store::{EncodedEvent, EventContent, EventStore, EventToStore};
use crate::signal::operation_context::OperationContext;
use crate::signal::rows::{EventFields, RowEvent, RowsEvent, SignalRows};
use crate::signal::{Signal, post_delete, post_save};
use crate::table::previous_row::{PreviousRow, SharedPreviousRow};
use crate::table::rows::Rows;

/// A row that a statement in a transaction has saved or deleted.
pub(crate) struct RowWrite<'w> {
    pub(crate) rows: &'w mut dyn SignalRows,
    pub(crate) row: usize,
    /// Whether the save has created it. `None` if it was deleted.
    pub(crate) created: Option<bool>,
    pub(crate) previous: &'w SharedPreviousRow,
}

/// A row and a receiver that runs once for it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    receiver: TypeId,
    model: TypeId,
    /// The encoded key of the row.
    row: Box<[u8]>,
}

/// The net change of a row since the transaction began.
struct NetChange {
    /// Whether the row existed when the transaction began.
    existed: bool,
    /// The row at that time, and the columns in which the current row differs from it.
    previous: SharedPreviousRow,
    /// The columns that were saved. `None` if they are all columns.
    fields: Option<Arc<[&'static str]>>,
    /// The event that the receiver would get if the transaction committed now. `None` if the receiver would not run.
    event: Option<NetEvent>,
}

enum NetEvent {
    Deferred(Box<dyn Deferred>),
    Stored(&'static dyn EventStore, EncodedEvent),
}

/// The net changes of a frame, in the order of the first change of each row. A change in a savepoint includes the change of the
/// enclosing frames, and replaces it if the savepoint is released.
#[derive(Default)]
pub(crate) struct NetChanges {
    changes: Vec<(Key, NetChange)>,
    index: HashMap<Key, usize>,
}

impl NetChanges {
    fn of(changes: &dyn Changes) -> Option<&Self> {
        let changes: &dyn Any = changes;
        changes.downcast_ref()
    }

    /// The net change of a row so far, with that of the enclosing frames.
    fn earlier<'c>(key: &Key, conn: &'c Conn<'_>) -> Option<&'c NetChange> {
        let mut frames = conn.state.frames.iter().rev();
        frames.find_map(|frame| Self::of(frame.changes.as_deref()?)?.get(key))
    }

    fn get(&self, key: &Key) -> Option<&NetChange> {
        self.index.get(key).map(|index| &self.changes[*index].1)
    }

    fn set(&mut self, key: Key, change: NetChange) {
        match self.index.get(&key) {
            Some(index) => self.changes[*index].1 = change,
            None => {
                self.index.insert(key.clone(), self.changes.len());
                self.changes.push((key, change));
            }
        }
    }
}

impl Changes for NetChanges {
    fn append(&mut self, released: Box<dyn Changes>) {
        let released: Box<dyn Any> = released;
        if let Ok(released) = released.downcast::<Self>() {
            released.changes.into_iter().for_each(|(key, change)| self.set(key, change));
        }
    }

    fn store(&mut self, conn: &mut Conn<'_>) {
        for (_, change) in &mut self.changes {
            match change.event.take() {
                Some(NetEvent::Stored(store, event)) => store.add_encoded(event, conn),
                other => change.event = other,
            }
        }
    }

    fn defer(&mut self, conn: &mut Conn<'_>) {
        for (_, change) in &mut self.changes {
            if let Some(NetEvent::Deferred(deferred)) = change.event.take() {
                conn.state.defer(deferred);
            }
        }
    }
}

/// Whether what the receiver gets of a save depends on columns other than the key.
fn needs_row(receiver: &ErasedReceiver) -> bool {
    let stores_key = receiver.store().is_some_and(EventStore::stores_only_key);
    receiver.info.signal == post_save::NAME && (!stores_key || receiver.info.asks_previous())
}

impl RowWrite<'_> {
    /// Whether the net change of the row includes columns that this write has not saved, for a receiver that depends on their values. The
    /// instance may have other values in these columns than the row.
    ///
    /// # Errors
    ///
    /// If the key of the row cannot be encoded.
    pub(crate) fn net_change_has_other_columns<'r>(
        &self,
        receivers: impl Iterator<Item = &'r ErasedReceiver>,
        conn: &Conn<'_>,
    ) -> Result<bool> {
        let Some(fields) = self.rows.any_fields() else { return Ok(false) };
        let row = self.rows.as_rows().encoded_key(self.row, conn.kind())?;
        let is_saved = |name: &&str| fields.iter().any(|field| field.name() == *name);
        Ok(receivers.filter(|receiver| needs_row(receiver)).any(|receiver| {
            let (receiver, model, row) = (receiver.info.receiver, self.rows.id(), row.clone());
            let earlier = NetChanges::earlier(&Key { receiver, model, row }, conn);
            let saved = earlier.map(|earlier| earlier.fields.as_deref());
            saved.is_some_and(|saved| saved.is_none_or(|saved| !saved.iter().all(is_saved)))
        }))
    }

    /// Adds the write to the net change of the row, for receivers that run once per transaction.
    ///
    /// # Errors
    ///
    /// If the key of the row or the event of a durable receiver cannot be encoded.
    pub(crate) fn track<'r>(
        &mut self,
        receivers: impl Iterator<Item = &'r ErasedReceiver>,
        context: &OperationContext,
        conn: &mut Conn<'_>,
    ) -> Result<()> {
        let (kind, model) = (conn.kind(), self.rows.id());
        let row = self.rows.as_rows().encoded_key(self.row, kind)?;
        let mut id = None;
        for receiver in receivers {
            let key = Key { receiver: receiver.info.receiver, model, row: row.clone() };
            let earlier = NetChanges::earlier(&key, conn);
            let mut change = self.change(earlier, receiver, kind);
            change.event = self.event(&change, receiver, context, &mut id)?;
            if let Some(frame) = conn.state.frames.last_mut() {
                let changes = frame.changes.get_or_insert_with(|| Box::<NetChanges>::default());
                let changes: &mut dyn Any = &mut **changes;
                if let Some(changes) = changes.downcast_mut::<NetChanges>() {
                    changes.set(key, change);
                }
            }
        }
        Ok(())
    }

    /// The net change after this write. `earlier` is the one before it, if the transaction has written the row before.
    fn change(
        &self,
        earlier: Option<&NetChange>,
        receiver: &ErasedReceiver,
        kind: DatabaseKind,
    ) -> NetChange {
        let previous = self.previous.as_ref().filter(|_| receiver.info.asks_previous());
        let fields = self.rows.any_fields();
        let fields = fields.map(|fields| fields.iter().map(|column| column.name()));
        let Some(earlier) = earlier else {
            let existed = self.created != Some(true);
            let fields = fields.map(Iterator::collect);
            return NetChange { existed, previous: previous.cloned(), fields, event: None };
        };
        let previous = match (&earlier.previous, previous) {
            (Some(first), Some(write)) => Some(self.previous_since(first, write, kind)),
            (first, _) => first.clone(),
        };
        let fields = earlier.fields.as_deref().zip(fields).map(|(known, fields)| {
            let new = fields.filter(|field| !known.contains(field));
            known.iter().copied().chain(new).collect()
        });
        NetChange { existed: earlier.existed, previous, fields, event: None }
    }

    /// The row before the transaction, with the columns in which the current row differs from it. A column that one write has changed is
    /// compared by the database. A column that several writes have changed may have its first value again, so the values are compared.
    fn previous_since(
        &self,
        first: &Arc<PreviousRow>,
        write: &PreviousRow,
        kind: DatabaseKind,
    ) -> Arc<PreviousRow> {
        let Some(row) = first.row() else { return Arc::clone(first) };
        if self.created.is_none() {
            return Arc::new(first.with_changed(Vec::new()));
        }
        let rows: &dyn Rows = self.rows.as_rows();
        // An empty list means that every column has changed.
        let has = |changed: &[bool], column: usize| changed.get(column).copied().unwrap_or(true);
        let changed =
            |column| match (has(first.all_changed(), column), has(write.all_changed(), column)) {
                (true, true) => !rows.is_same(self.row, column, row, kind),
                (earlier, now) => earlier || now,
            };
        Arc::new(first.with_changed((0..rows.columns().len()).map(changed).collect()))
    }

    /// The event of a net change, if the receiver runs for it. `id` is the id of the event for all durable receivers.
    fn event(
        &mut self,
        change: &NetChange,
        receiver: &ErasedReceiver,
        context: &OperationContext,
        id: &mut Option<u128>,
    ) -> Result<Option<NetEvent>> {
        let created = self.created.map(|_| !change.existed);
        let signal = match created {
            Some(_) => post_save::NAME,
            None if change.existed => post_delete::NAME,
            // The row was created and deleted.
            None => return Ok(None),
        };
        let previous = &change.previous;
        if receiver.info.signal != signal || !selects(&receiver.info, created, previous) {
            return Ok(None);
        }
        let mut event = RowEvent::of_row(self.row, created);
        event.fields = EventFields::OfWrites(change.fields.clone());
        if let Some(store) = receiver.store() {
            let content = EventContent::Rows(&*self.rows, &event);
            let (receivers, db, (_, model)) =
                (&[receiver], context.db.as_ref(), context.operation.about());
            let event = EventToStore { content, created, receivers, previous, db, model };
            return Ok(Some(NetEvent::Stored(store, store.encode(&event, id)?)));
        }
        context.check_values(&receiver.info)?;
        let event = RowsEvent { rows: &mut *self.rows, event };
        let event = DeferredEvent::of(std::slice::from_ref(receiver), &event, previous);
        let receivers = Arc::from([receiver.clone()]);
        let of_event = |event| DeferredDelivery::of(smallvec![event], &receivers, context);
        Ok(event.and_then(of_event).map(NetEvent::Deferred))
    }
}
