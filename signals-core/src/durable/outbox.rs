//! Stores deliveries: they are collected during the transaction, and written in one statement before it commits.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::database::conn::Conn;
use crate::database::outbox::Outbox;
use crate::durable::claim::LONGEST;
use crate::durable::delivery::Cause;
use crate::durable::event_form::{Encoded, EventForm, EventKey, ToEncode};
use crate::durable::insert::{insert, lock_order};
use crate::durable::schema::{self, explained};
use crate::durable::sql::indexed;
use crate::durable::wake::WakeOnCommit;
use crate::durable::warnings::WatchOnCommit;
#[cfg(feature = "postgres")]
use crate::durable::with_row;
use crate::error::{Error, Result};
use crate::signal::erased::ErasedReceiver;
use crate::signal::event_store::{
    EncodedEvent, EventContent, EventStore, EventToStore, RowDeliveries, WrittenRow,
};

/// The largest payload that is stored, unless the program sets another limit.
const MAX_PAYLOAD: usize = 256 * 1024;
/// At this number of deliveries, or of bytes, the outbox is written before the end of the transaction.
const FULL: (usize, usize) = (1000, 1024 * 1024);

/// The limit of the program for the size of a payload, as a value of its `Db`.
#[derive(Clone, Copy)]
pub(super) struct MaxPayload(pub(super) usize);

/// A delivery that is not written yet.
pub(super) struct NewDelivery {
    pub(super) event: Uuid,
    pub(super) receiver: &'static str,
    pub(super) signal: &'static str,
    pub(super) sender: &'static str,
    pub(super) created: Option<bool>,
    pub(super) part: Encoded,
    pub(super) context: Option<Arc<str>>,
    pub(super) ordering_key: Option<String>,
    pub(super) coalesce_key: Option<String>,
    /// In milliseconds.
    pub(super) delay: u64,
}

/// The deliveries that a transaction or savepoint has stored.
#[derive(Default)]
pub(crate) struct DeliveryOutbox {
    unwritten: Vec<NewDelivery>,
    bytes: usize,
    /// The receivers of all deliveries, written or not.
    pub(crate) receivers: Vec<&'static str>,
    /// The deliveries that later ones are combined with: where they are in `unwritten`, or `None` if they are written.
    coalesced: HashMap<(&'static str, String), Option<usize>>,
    wakes: bool,
}

/// The form of the events of a durable receiver.
pub(super) fn form_of(receiver: &ErasedReceiver) -> Option<&'static EventForm> {
    let store: &'static dyn Any = receiver.store()?;
    store.downcast_ref()
}

impl EventStore for EventForm {
    fn add(&self, event: &EventToStore<'_>, conn: &mut Conn<'_>) -> Result<()> {
        add_to_outbox(new_deliveries(event)?, conn);
        Ok(())
    }

    fn encode(&self, event: &EventToStore<'_>, id: &mut Option<u128>) -> Result<EncodedEvent> {
        let mut ids: Vec<_> = id.map(Uuid::from_u128).into_iter().collect();
        let new = deliveries_of(event, &mut ids)?;
        *id = ids.first().map(Uuid::as_u128);
        Ok(Box::new(new))
    }

    fn add_encoded(&self, event: EncodedEvent, conn: &mut Conn<'_>) {
        if let Ok(new) = event.downcast::<Vec<NewDelivery>>() {
            add_to_outbox(*new, conn);
        }
    }

    #[cfg(feature = "postgres")]
    fn with_row(
        &self,
        event: &EventToStore<'_>,
        written: &WrittenRow,
    ) -> Result<Option<Box<dyn RowDeliveries>>> {
        with_row::deliveries(event, written)
    }

    #[cfg(not(feature = "postgres"))]
    fn with_row(
        &self,
        _: &EventToStore<'_>,
        _: &WrittenRow,
    ) -> Result<Option<Box<dyn RowDeliveries>>> {
        Ok(None)
    }

    fn check<'c>(&self, conn: &'c mut Conn<'_>) -> BoxFuture<'c, Result<Vec<String>>> {
        Box::pin(async move {
            match schema::check(conn).await {
                Ok(()) => Ok(Vec::new()),
                Err(error @ Error::DeliveriesNotSetUp { .. }) => Ok(vec![error.to_string()]),
                Err(error) => Err(error),
            }
        })
    }

    fn stores_only_key(&self) -> bool {
        let mut keys = self.ordering.iter().chain(&self.coalescing);
        self.is_key && keys.all(|key| matches!(key, EventKey::Pk))
    }

    fn columns(&self) -> &'static [&'static str] {
        self.columns
    }
}

/// Encodes an event for each of its receivers.
pub(super) fn new_deliveries(event: &EventToStore<'_>) -> Result<Vec<NewDelivery>> {
    deliveries_of(event, &mut received_id(event).into_iter().collect())
}

/// The id of an event that was received from another service.
fn received_id(event: &EventToStore<'_>) -> Option<Uuid> {
    match event.content {
        EventContent::Signal(_, id) => id.map(Uuid::from_u128),
        EventContent::Rows(..) => None,
    }
}

/// As [`new_deliveries`]. `ids` are the ids of the parts of the event, to which missing ones are added.
fn deliveries_of(event: &EventToStore<'_>, ids: &mut Vec<Uuid>) -> Result<Vec<NewDelivery>> {
    let limit = event.db.and_then(|db| db.state::<MaxPayload>()).map_or(MAX_PAYLOAD, |max| max.0);
    let context = context(event)?;
    let mut new = Vec::with_capacity(event.receivers.len());
    // Receivers of one kind get the same payload, which is encoded once.
    let mut encoded: Vec<((bool, bool, bool), Vec<Encoded>)> = Vec::with_capacity(1);
    for receiver in event.receivers {
        let Some(form) = form_of(receiver) else { continue };
        let kind = (form.table.is_some(), form.is_key, receiver.info.asks_previous());
        let known = encoded.iter().position(|(known, _)| *known == kind);
        if known.is_none() {
            encoded.push((kind, encode(event, form, receiver, limit)?));
        }
        let (_, parts) = &encoded[known.unwrap_or(encoded.len() - 1)];
        let sender = sender(event, form);
        let ordering_key = key_of(event, form.ordering, parts)?;
        let coalesce_key = key_of(event, form.coalescing, parts)?;
        // A receiver of several models has the same keys for each of them.
        let coalesce_key = coalesce_key.map(|key| of_sender(sender) + &key);
        ids.resize_with(parts.len().max(ids.len()), Uuid::now_v7);
        for (part, event_id) in parts.iter().zip(&*ids) {
            new.push(NewDelivery {
                event: *event_id,
                receiver: receiver.info.info.stored_name(),
                signal: receiver.info.signal,
                sender,
                created: event.created,
                part: part.clone(),
                context: context.clone(),
                ordering_key: ordering_key.clone(),
                coalesce_key: coalesce_key.clone(),
                delay: receiver.info.durable.map_or(0, |options| options.delay.min(LONGEST)),
            });
        }
    }
    Ok(new)
}

/// The context of an event as JSON.
fn context(event: &EventToStore<'_>) -> Result<Option<Arc<str>>> {
    let is_received = received_id(event).is_some();
    let cause = Cause::of_event(event.db, is_received).map_err(|(name, error)| {
        let model = event.model;
        Error::other(format!(
            "the carried value `{name}` cannot be stored with the event of `{model}`: {error}"
        ))
    })?;
    let context = cause.and_then(|cause| serde_json::to_string(&cause).ok());
    Ok(context.map(Into::into))
}

fn add_to_outbox(new: Vec<NewDelivery>, conn: &mut Conn<'_>) {
    if let Some(frame) = conn.state.frames.last_mut() {
        let outbox = frame.outbox.get_or_insert_with(|| Box::<DeliveryOutbox>::default());
        let outbox: &mut dyn Any = &mut **outbox;
        if let Some(outbox) = outbox.downcast_mut::<DeliveryOutbox>() {
            outbox.add(new);
        }
    }
}

/// Encodes an event for a receiver.
fn encode(
    event: &EventToStore<'_>,
    form: &EventForm,
    receiver: &ErasedReceiver,
    limit: usize,
) -> Result<Vec<Encoded>> {
    let (model, name) = (event.model, receiver.info.name);
    let previous = event.previous.as_deref().filter(|_| receiver.info.asks_previous());
    let encoded =
        (form.encode)(&ToEncode { content: event.content, previous, split_at: limit / 2 });
    let parts = encoded.map_err(|error| {
        let text = format!(
            "the event of `{model}` cannot be stored for the durable receiver `{name}`: {error}"
        );
        Error::other(text)
    })?;
    match parts.iter().map(|part| part.payload.len()).find(|size| *size > limit) {
        Some(size) => Err(Error::PayloadTooLarge { model, receiver: name, size, limit }),
        None => Ok(parts),
    }
}

/// A key of an event, if its receiver has one. An event of a receiver with a key is a single row or value.
fn key_of(
    event: &EventToStore<'_>,
    key: Option<EventKey>,
    parts: &[Encoded],
) -> Result<Option<String>> {
    let key = match key {
        None => return Ok(None),
        Some(EventKey::Pk) => {
            parts.first().and_then(|part| part.key.as_deref()).unwrap_or_default().to_owned()
        }
        Some(EventKey::Field(key) | EventKey::Function(key)) => {
            let content = ToEncode { content: event.content, previous: None, split_at: 0 };
            key(&content).map_err(Error::other)?
        }
    };
    Ok(Some(indexed(&key)))
}

/// The start of a key that is unique among all senders of a receiver.
pub(super) fn of_sender(sender: &str) -> String {
    if sender.is_empty() { String::new() } else { format!("{sender} ") }
}

/// The table of the event's model; empty for a custom signal.
fn sender(event: &EventToStore<'_>, form: &EventForm) -> &'static str {
    match (form.table, event.content) {
        (Some(table), _) => table,
        (None, EventContent::Rows(rows, _)) => rows.table(),
        (None, EventContent::Signal(..)) => "",
    }
}

impl DeliveryOutbox {
    fn add(&mut self, new: Vec<NewDelivery>) {
        for new in new {
            let receiver = new.receiver;
            if self.add_one(new) {
                self.receivers.push(receiver);
            }
        }
    }

    /// Adds a delivery. Returns `false` if it was combined with an older one.
    fn add_one(&mut self, new: NewDelivery) -> bool {
        let Some(key) = new.coalesce_key.clone() else {
            self.push(new);
            return true;
        };
        let at = self.unwritten.len();
        match self.coalesced.insert((new.receiver, key), Some(at)) {
            None => {
                self.push(new);
                true
            }
            Some(None) => {
                self.push(new);
                false
            }
            Some(Some(older)) => {
                self.coalesced.insert(
                    (new.receiver, new.coalesce_key.clone().unwrap_or_default()),
                    Some(older),
                );
                self.bytes += new.part.payload.len();
                let older = &mut self.unwritten[older];
                self.bytes -= older.part.payload.len();
                *older = NewDelivery { created: older.created, ..new };
                false
            }
        }
    }

    fn push(&mut self, new: NewDelivery) {
        self.bytes += new.part.payload.len();
        self.unwritten.push(new);
    }
}

impl Outbox for DeliveryOutbox {
    fn append(&mut self, released: Box<dyn Outbox>) {
        let released: Box<dyn Any> = released;
        if let Ok(released) = released.downcast::<Self>() {
            let Self { unwritten, receivers, coalesced, wakes, .. } = *released;
            self.receivers.extend(receivers);
            // Those that are combined with a delivery of this frame were counted twice.
            for (receiver, key) in coalesced.into_keys() {
                let known = self.coalesced.contains_key(&(receiver, key.clone()));
                if let (true, Some(at)) =
                    (known, self.receivers.iter().rposition(|counted| *counted == receiver))
                {
                    self.receivers.remove(at);
                }
                self.coalesced.entry((receiver, key)).or_insert(None);
            }
            for new in unwritten {
                self.add_one(new);
            }
            self.wakes |= wakes;
        }
    }

    fn is_empty(&self) -> bool {
        self.unwritten.is_empty()
    }

    fn is_full(&self) -> bool {
        self.unwritten.len() >= FULL.0 || self.bytes >= FULL.1
    }

    fn write<'w>(&'w mut self, conn: &'w mut Conn<'_>) -> BoxFuture<'w, Result<()>> {
        Box::pin(async move {
            let mut unwritten = std::mem::take(&mut self.unwritten);
            self.bytes = 0;
            if !self.coalesced.is_empty() {
                self.coalesced.values_mut().for_each(|at| *at = None);
                unwritten.sort_by(|one, other| lock_order(one).cmp(&lock_order(other)));
            }
            if unwritten.is_empty() {
                return Ok(());
            }
            insert(&unwritten, conn.kind()).execute(conn).await.map_err(explained)?;
            if let Some(db) = &conn.state.db {
                let receivers = unwritten.iter().map(|delivery| delivery.receiver);
                let watch = WatchOnCommit::of(db, receivers);
                conn.state.defer(Box::new(watch));
            }
            if !self.wakes {
                self.wakes = true;
                let db = conn.state.db.clone();
                conn.state.defer(Box::new(WakeOnCommit(db)));
            }
            Ok(())
        })
    }
}
