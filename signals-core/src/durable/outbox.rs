//! Stores deliveries: they are collected during the transaction, and written in one statement before it commits.

use std::any::Any;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::outbox::Outbox;
use crate::durable::delivery::Cause;
use crate::durable::event_form::{Encoded, EventForm, Ordering, ToEncode};
use crate::durable::schema::{self, explained};
use crate::durable::sql::{Sql, without_nul};
use crate::durable::wake::WakeOnCommit;
use crate::durable::warnings::WatchOnCommit;
#[cfg(feature = "postgres")]
use crate::durable::with_row;
use crate::error::{Error, Result};
use crate::signal::erased::ErasedReceiver;
use crate::signal::event_store::{
    EncodedEvent, EventStore, EventToStore, RowDeliveries, WrittenRow,
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
    pub(super) sender: String,
    pub(super) created: Option<bool>,
    pub(super) part: Encoded,
    pub(super) context: Option<Arc<str>>,
    pub(super) ordering_key: Option<String>,
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

    fn columns(&self) -> &'static [&'static str] {
        self.columns
    }
}

/// Encodes an event for each of its receivers.
pub(super) fn new_deliveries(event: &EventToStore<'_>) -> Result<Vec<NewDelivery>> {
    deliveries_of(event, &mut Vec::new())
}

/// As [`new_deliveries`]. `ids` are the ids of the parts of the event, to which missing ones are added.
fn deliveries_of(event: &EventToStore<'_>, ids: &mut Vec<Uuid>) -> Result<Vec<NewDelivery>> {
    let limit = event.db.and_then(|db| db.state::<MaxPayload>()).map_or(MAX_PAYLOAD, |max| max.0);
    let context = context(event)?;
    let mut new = Vec::new();
    // Receivers of one kind get the same payload, which is encoded once.
    let mut encoded: Vec<((bool, bool, bool), Vec<Encoded>)> = Vec::new();
    for receiver in event.receivers {
        let Some(form) = form_of(receiver) else { continue };
        let kind = (form.table.is_some(), form.is_key, receiver.info.asks_previous());
        let parts = match encoded.iter().find(|(known, _)| *known == kind) {
            Some((_, parts)) => parts.clone(),
            None => {
                let parts = encode(event, form, receiver, limit)?;
                encoded.push((kind, parts.clone()));
                parts
            }
        };
        let ordering_key = ordering_key(event, form, &parts)?;
        ids.resize_with(parts.len().max(ids.len()), Uuid::now_v7);
        for (part, event_id) in parts.into_iter().zip(&*ids) {
            new.push(NewDelivery {
                event: *event_id,
                receiver: receiver.info.info.stored_name(),
                signal: receiver.info.signal,
                sender: sender(event, form),
                created: event.created,
                part,
                context: context.clone(),
                ordering_key: ordering_key.clone(),
                delay: receiver.info.durable.map_or(0, |options| options.delay),
            });
        }
    }
    Ok(new)
}

/// The context of an event as JSON.
fn context(event: &EventToStore<'_>) -> Result<Option<Arc<str>>> {
    let cause = Cause::of_event(event.db).map_err(|(name, error)| {
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

/// The ordering key of an event, if its receiver has one. An event of a receiver with a key is a single row or value.
fn ordering_key(
    event: &EventToStore<'_>,
    form: &EventForm,
    parts: &[Encoded],
) -> Result<Option<String>> {
    let key = match form.ordering {
        None => return Ok(None),
        Some(Ordering::Pk) => parts.first().and_then(|part| part.key.clone()).unwrap_or_default(),
        Some(Ordering::Field(key) | Ordering::Function(key)) => {
            let content = ToEncode { content: event.content, previous: None, split_at: 0 };
            key(&content).map_err(Error::other)?
        }
    };
    Ok(Some(without_nul(&key)))
}

/// The table of the event's model; empty for a custom signal.
fn sender(event: &EventToStore<'_>, form: &EventForm) -> String {
    use crate::signal::event_store::EventContent;

    match (form.table, event.content) {
        (Some(table), _) => table.to_owned(),
        (None, EventContent::Rows(rows, _)) => rows.table().to_owned(),
        (None, EventContent::Signal(_)) => String::new(),
    }
}

impl DeliveryOutbox {
    fn add(&mut self, new: Vec<NewDelivery>) {
        self.bytes += new.iter().map(|delivery| delivery.part.payload.len()).sum::<usize>();
        self.receivers.extend(new.iter().map(|delivery| delivery.receiver));
        self.unwritten.extend(new);
    }
}

impl Outbox for DeliveryOutbox {
    fn append(&mut self, released: Box<dyn Outbox>) {
        let released: Box<dyn Any> = released;
        if let Ok(released) = released.downcast::<Self>() {
            self.bytes += released.bytes;
            self.receivers.extend(released.receivers);
            self.unwritten.extend(released.unwritten);
            self.wakes |= released.wakes;
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
            let unwritten = std::mem::take(&mut self.unwritten);
            self.bytes = 0;
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

/// The statement that writes the deliveries.
fn insert(deliveries: &[NewDelivery], kind: DatabaseKind) -> Sql {
    match kind {
        DatabaseKind::Sqlite => insert_sqlite(deliveries),
        #[cfg(feature = "postgres")]
        DatabaseKind::Postgres => insert_postgres(deliveries),
        #[cfg(not(feature = "postgres"))]
        DatabaseKind::Postgres => unreachable!("PostgreSQL is not a feature of this build"),
    }
}

const INSERT_SQLITE: &str = "\
    INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, \
        CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) + (value ->> 8), value ->> 9 \
    FROM json_each($1)";

fn insert_sqlite(deliveries: &[NewDelivery]) -> Sql {
    let rows = deliveries.iter().map(|new| {
        serde_json::json!([
            new.event.to_string(),
            new.receiver,
            new.signal,
            new.sender,
            new.part.key,
            new.created,
            &*new.part.payload,
            new.context.as_deref(),
            new.delay,
            new.ordering_key,
        ])
    });
    let rows = serde_json::Value::from(rows.collect::<Vec<_>>()).to_string();
    Sql::new(DatabaseKind::Sqlite, INSERT_SQLITE).bind(rows)
}

/// The events are sent once, however many receivers each of them has.
#[cfg(feature = "postgres")]
const INSERT_POSTGRES: &str = "\
    INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key) \
    SELECT e.id::uuid, d.receiver, e.signal, e.sender, e.key, e.created, e.payload::json, e.context::json, \
        clock_timestamp() + d.delay * interval '1 millisecond', d.ordering_key \
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[]) WITH ORDINALITY AS d (event, receiver, delay, ordering_key, n) \
    JOIN unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[], $10::text[], $11::text[]) \
        WITH ORDINALITY AS e (id, signal, sender, key, created, payload, context, n) ON e.n = d.event \
    ORDER BY d.n";

#[cfg(feature = "postgres")]
fn insert_postgres(deliveries: &[NewDelivery]) -> Sql {
    use crate::database::backend::Arguments;
    use sqlx::Arguments as _;

    let mut events: Vec<&NewDelivery> = Vec::new();
    let mut of_event = Vec::with_capacity(deliveries.len());
    for new in deliveries {
        let is_same = |known: &&NewDelivery| {
            known.event == new.event && Arc::ptr_eq(&known.part.payload, &new.part.payload)
        };
        // Deliveries of one event are adjacent, so the search ends soon.
        let near = events.iter().rev().take(8).position(is_same);
        let event = match near {
            Some(back) => events.len() - back,
            None => {
                events.push(new);
                events.len()
            }
        };
        of_event.push(i64::try_from(event).unwrap_or(i64::MAX));
    }
    let receivers: Vec<_> = deliveries.iter().map(|new| new.receiver).collect();
    let delays: Vec<_> =
        deliveries.iter().map(|new| i64::try_from(new.delay).unwrap_or(i64::MAX)).collect();
    let ordering_keys: Vec<_> = deliveries.iter().map(|new| new.ordering_key.as_deref()).collect();
    let ids: Vec<_> = events.iter().map(|new| new.event.to_string()).collect();
    let signals: Vec<_> = events.iter().map(|new| new.signal).collect();
    let senders: Vec<_> = events.iter().map(|new| new.sender.as_str()).collect();
    let keys: Vec<_> = events.iter().map(|new| new.part.key.as_deref()).collect();
    let created: Vec<_> = events.iter().map(|new| new.created).collect();
    let payloads: Vec<_> = events.iter().map(|new| &*new.part.payload).collect();
    let contexts: Vec<_> = events.iter().map(|new| new.context.as_deref()).collect();
    let mut sql = Sql::new(DatabaseKind::Postgres, INSERT_POSTGRES);
    if let Some(Arguments::Postgres(args)) = sql.args() {
        let added = args
            .add(of_event)
            .and_then(|()| args.add(receivers))
            .and_then(|()| args.add(delays))
            .and_then(|()| args.add(ordering_keys))
            .and_then(|()| args.add(ids))
            .and_then(|()| args.add(signals))
            .and_then(|()| args.add(senders))
            .and_then(|()| args.add(keys))
            .and_then(|()| args.add(created))
            .and_then(|()| args.add(payloads))
            .and_then(|()| args.add(contexts));
        if let Err(error) = added {
            sql.fail(error);
        }
    }
    sql
}
