//! The payloads of deliveries: events as JSON, and back.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::database::conn::Conn;
use crate::durable::event_form::{
    Coded, Decoded, DecodedEvent, Encoded, LoadEvent, OrderingKey, ToDecode, ToEncode,
};
use crate::error::Result;
use crate::model::Model;
use crate::model::read::OneRow;
use crate::model::store::{Any as AnyDatabase, Portable};
use crate::signal::custom::{CustomSignal, Payload};
use crate::signal::erased::KeptEvent;
use crate::signal::event_store::EventContent;
use crate::signal::rows::{KeptRows, KeptSnapshots, RowEvent, SignalRows};
use crate::table::any::{AnyModel, Snapshot};
use crate::table::column::Column;
use crate::table::previous_row::PreviousRow;
use crate::task::intern::interned;

/// How many rows of a batch one delivery has at most.
const BATCH: usize = 1000;

/// The payload of an event, to be written.
#[derive(Serialize)]
struct Written<'e, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'e T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'e T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<&'e T>,
    /// The columns that have changed. Absent if all have.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<&'e str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Vec<&'e str>>,
}

impl<T> Default for Written<'_, T> {
    fn default() -> Self {
        Self { row: None, signal: None, previous: None, changed: None, fields: None }
    }
}

/// The same, as it is read.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Read<T> {
    #[serde(default, deserialize_with = "present")]
    row: Option<T>,
    rows: Option<Vec<T>>,
    #[serde(default, deserialize_with = "present")]
    signal: Option<T>,
    #[serde(default, deserialize_with = "present")]
    previous: Option<T>,
    changed: Option<Vec<String>>,
    fields: Option<Vec<String>>,
}

/// The value of a field that is there, which may be `null`: a unit struct is written so.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    value: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// The row of an event as a row of its model.
fn typed<M: 'static>(row: &dyn AnyModel) -> Coded<&M> {
    let any: &dyn Any = row;
    any.downcast_ref().ok_or_else(|| serde::ser::Error::custom("a row of another model"))
}

fn content_rows<'e>(event: &ToEncode<'e>) -> (&'e dyn SignalRows, &'e RowEvent) {
    match event.content {
        EventContent::Rows(rows, event) => (rows, event),
        EventContent::Signal(..) => unreachable!("the receiver is of a model"),
    }
}

/// The value of the custom signal `T`.
fn content_signal<'e, T: 'static>(event: &ToEncode<'e>) -> Option<&'e T> {
    match event.content {
        EventContent::Signal(signal, _) => signal.downcast_ref(),
        EventContent::Rows(..) => None,
    }
}

pub(super) fn encode_rows<M>(event: &ToEncode<'_>) -> Coded<Vec<Encoded>>
where
    M: Model<Pk: Serialize> + Serialize,
{
    let (rows, about) = content_rows(event);
    let fields = field_names(rows, about);
    if about.rows.len() != 1 {
        let row = |index| serde_json::to_string(typed::<M>(rows.at(index))?);
        return batches(about.rows.clone(), row, fields, event.split_at);
    }
    let row = typed::<M>(rows.at(about.rows.start))?;
    let previous = event.previous.and_then(PreviousRow::row).map(typed::<M>).transpose()?;
    let changed = event.previous.and_then(|previous| changed(previous, M::COLUMNS));
    let written = Written { row: Some(row), previous, changed, fields, ..Written::default() };
    let payload = serde_json::to_string(&written)?.into();
    Ok(vec![Encoded { payload, key: json_key(row.pk())? }])
}

pub(super) fn encode_any_rows(event: &ToEncode<'_>) -> Coded<Vec<Encoded>> {
    let (rows, about) = content_rows(event);
    let fields = field_names(rows, about);
    if about.rows.len() != 1 {
        let row = |index| serde_json::to_string(&StoredSnapshot::of(rows.at(index)));
        return batches(about.rows.clone(), row, fields, event.split_at);
    }
    let row = StoredSnapshot::of(rows.at(about.rows.start));
    let previous = event.previous.and_then(PreviousRow::row).map(StoredSnapshot::of);
    let changed = event.previous.and_then(|previous| changed(previous, rows.columns()));
    let key = json_key(row.key.as_ref())?;
    let previous = previous.as_ref();
    let written = Written { row: Some(&row), previous, changed, fields, ..Written::default() };
    Ok(vec![Encoded { payload: serde_json::to_string(&written)?.into(), key }])
}

pub(super) fn encode_signal<T: Serialize + 'static>(event: &ToEncode<'_>) -> Coded<Vec<Encoded>> {
    let written = Written { signal: content_signal::<T>(event), ..Written::default() };
    Ok(vec![Encoded { payload: serde_json::to_string(&written)?.into(), key: None }])
}

fn json_key(key: Option<impl Serialize>) -> Coded<Option<Arc<str>>> {
    key.map(|key| Ok(serde_json::to_string(&key)?.into())).transpose()
}

fn field_names(rows: &dyn SignalRows, about: &RowEvent) -> Option<Vec<&'static str>> {
    about.fields.names(rows.any_fields())
}

/// The names of the changed columns. `None` if all have changed.
fn changed<'e>(
    previous: &'e PreviousRow,
    columns: &'static [&'static str],
) -> Option<Vec<&'e str>> {
    let changed = previous.all_changed();
    if changed.is_empty() {
        return None;
    }
    let names = columns.iter().zip(changed).filter(|(_, changed)| **changed);
    Some(names.map(|(name, _)| *name).collect())
}

pub(super) fn encode_key<M: Model<Pk: Serialize>>(event: &ToEncode<'_>) -> Coded<Vec<Encoded>> {
    let (rows, about) = content_rows(event);
    let key = json_key(typed::<M>(rows.at(about.rows.start))?.pk())?;
    let written = Written::<()> { fields: field_names(rows, about), ..Written::default() };
    Ok(vec![Encoded { payload: serde_json::to_string(&written)?.into(), key }])
}

/// Splits the rows of a batch.
fn batches(
    rows: Range<usize>,
    row: impl Fn(usize) -> Coded<String>,
    fields: Option<Vec<&str>>,
    split_at: usize,
) -> Coded<Vec<Encoded>> {
    let end = match fields {
        Some(fields) => format!("],\"fields\":{}}}", serde_json::to_string(&fields)?),
        None => "]}".to_owned(),
    };
    let (mut all, mut payload, mut count) = (Vec::new(), String::new(), 0);
    for index in rows {
        let row = row(index)?;
        if count == BATCH || count > 0 && payload.len() + row.len() > split_at {
            let payload = (std::mem::take(&mut payload) + &end).into();
            all.push(Encoded { payload, key: None });
            count = 0;
        }
        payload += if count == 0 { "{\"rows\":[" } else { "," };
        payload += &row;
        count += 1;
    }
    if count > 0 {
        all.push(Encoded { payload: (payload + &end).into(), key: None });
    }
    Ok(all)
}

/// The data of the message about a row.
pub(super) fn data_of_row<M>(stored: &ToDecode<'_>) -> Coded<Box<RawValue>>
where
    M: Model<Pk: DeserializeOwned> + Serialize + DeserializeOwned,
{
    let read: Read<M> = serde_json::from_str(stored.payload)?;
    let mut row = read.row.ok_or_else(|| serde::de::Error::custom("the payload has no row"))?;
    if let (None, Some(key)) = (row.pk(), stored.key) {
        row.__set_pk(Some(serde_json::from_str(key)?));
    }
    serde_json::value::to_raw_value(&row)
}

/// The data of the message about a custom signal, as it was stored.
pub(super) fn data_of_signal(stored: &ToDecode<'_>) -> Coded<Box<RawValue>> {
    let read: Read<Box<RawValue>> = serde_json::from_str(stored.payload)?;
    read.signal.ok_or_else(|| serde::de::Error::custom("the payload has no signal"))
}

/// For events that no relay publishes.
pub(super) fn no_data(_: &ToDecode<'_>) -> Coded<Box<RawValue>> {
    Err(serde::de::Error::custom("these events are not published"))
}

pub(super) fn decode_rows<M>(stored: &ToDecode<'_>) -> Coded<Decoded>
where
    M: Model<Pk: DeserializeOwned> + DeserializeOwned,
{
    let read: Read<M> = serde_json::from_str(stored.payload)?;
    let key = |row: &mut M| -> Coded<()> {
        if let (None, Some(key)) = (row.pk(), stored.key) {
            row.__set_pk(Some(serde_json::from_str(key)?));
        }
        Ok(())
    };
    let mut rows: Vec<M> = read.row.into_iter().chain(read.rows.into_iter().flatten()).collect();
    rows.iter_mut().try_for_each(key)?;
    if rows.is_empty() {
        return Err(serde::de::Error::custom("the payload has no row"));
    }
    let fields = read.fields.map(|fields| columns::<M>(&fields));
    let mut previous = read.previous;
    previous.as_mut().map_or(Ok(()), key)?;
    let previous = previous.map(|row| Arc::new(row) as Arc<dyn AnyModel>);
    let previous =
        stored.asks_previous.then(|| Arc::new(previous_row(previous, M::COLUMNS, read.changed)));
    let event = DecodedEvent::Complete(Box::new(KeptRows::new(rows, fields, stored.created)));
    Ok(Decoded { event, previous })
}

pub(super) fn decode_any_rows(stored: &ToDecode<'_>) -> Coded<Decoded> {
    let read: Read<StoredSnapshot> = serde_json::from_str(stored.payload)?;
    let rows = read.row.into_iter().chain(read.rows.into_iter().flatten());
    let rows: Vec<_> = rows.map(StoredSnapshot::into_snapshot).collect();
    let Some(columns) = rows.first().map(AnyModel::columns) else {
        return Err(serde::de::Error::custom("the payload has no row"));
    };
    let fields = read.fields.map(|fields| {
        let known = columns.iter().filter(|column| fields.iter().any(|field| field == *column));
        known.map(|column| Column::new(column)).collect()
    });
    let previous = read.previous.map(|row| Arc::new(row.into_snapshot()) as Arc<dyn AnyModel>);
    let previous =
        stored.asks_previous.then(|| Arc::new(previous_row(previous, columns, read.changed)));
    let event = DecodedEvent::Complete(Box::new(KeptSnapshots::new(rows, fields, stored.created)));
    Ok(Decoded { event, previous })
}

pub(super) fn decode_signal<T: CustomSignal + DeserializeOwned>(
    stored: &ToDecode<'_>,
) -> Coded<Decoded> {
    let read: Read<T> = serde_json::from_str(stored.payload)?;
    let signal =
        read.signal.ok_or_else(|| serde::de::Error::custom("the payload has no signal"))?;
    let event = DecodedEvent::Complete(Box::new(Payload::new(signal)));
    Ok(Decoded { event, previous: None })
}

pub(super) fn decode_key<M: Model<Pk: DeserializeOwned> + Portable>(
    stored: &ToDecode<'_>,
) -> Coded<Decoded> {
    let read: Read<()> = serde_json::from_str(stored.payload)?;
    let key = stored.key.ok_or_else(|| serde::de::Error::custom("the delivery has no key"))?;
    let fields = read.fields.map(|fields| columns::<M>(&fields));
    let event = ByKey::<M> { key: serde_json::from_str(key)?, fields, created: stored.created };
    Ok(Decoded { event: DecodedEvent::ByKey(Box::new(event)), previous: None })
}

/// The event of a receiver with `payload = key`.
struct ByKey<M: Model> {
    key: M::Pk,
    fields: Option<Box<[Column<M>]>>,
    created: Option<bool>,
}

impl<M: Model + Portable> LoadEvent for ByKey<M> {
    fn load<'l>(
        &'l self,
        conn: &'l mut Conn<'_>,
    ) -> BoxFuture<'l, Result<Option<Box<dyn KeptEvent>>>> {
        Box::pin(async move {
            let mut found = OneRow::<M, AnyDatabase>::default();
            found.by_key(conn.reborrow().into(), &self.key).await?;
            let kept = |row| KeptRows::new(vec![row], self.fields.clone(), self.created);
            Ok(found.row.map(|row| Box::new(kept(row)) as Box<dyn KeptEvent>))
        })
    }
}

/// The columns of these names. A column that the model no longer has is left out.
fn columns<M: Model>(names: &[String]) -> Box<[Column<M>]> {
    let known = M::COLUMNS.iter().filter(|column| names.iter().any(|name| name == *column));
    known.map(|column| Column::new(column)).collect()
}

fn previous_row(
    row: Option<Arc<dyn AnyModel>>,
    columns: &'static [&'static str],
    changed: Option<Vec<String>>,
) -> PreviousRow {
    let mut previous = PreviousRow::default();
    if let Some(row) = row {
        previous.set_row(row);
        if let Some(changed) = changed {
            let has_changed = |column: &&str| changed.iter().any(|name| name == column);
            previous.set_changed(columns.iter().map(has_changed).collect());
        }
    }
    previous
}

/// A row of any model, as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredSnapshot {
    name: String,
    table: String,
    key: Option<String>,
    columns: Vec<String>,
    json: Option<Value>,
}

impl StoredSnapshot {
    fn of(row: &dyn AnyModel) -> Self {
        Self {
            name: row.name().to_owned(),
            table: row.table().to_owned(),
            key: row.key(),
            columns: row.columns().iter().map(|column| (*column).to_owned()).collect(),
            json: row.to_json(),
        }
    }

    fn into_snapshot(self) -> Snapshot {
        let columns = interned_list(&self.columns);
        Snapshot::new(interned(&self.name), interned(&self.table), self.key, columns, self.json)
    }
}

/// The names of the columns of a model with a `'static` lifetime. There is a small number of models, and their lists are kept.
fn interned_list(names: &[String]) -> &'static [&'static str] {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};

    static LISTS: Mutex<BTreeSet<&'static [&'static str]>> = Mutex::new(BTreeSet::new());
    let list: Vec<&'static str> = names.iter().map(|name| interned(name)).collect();
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lists.get(&*list) {
        return known;
    }
    let leaked: &'static [&'static str] = list.leak();
    lists.insert(leaked);
    leaked
}

pub(super) fn key_of_row<M: Model, K: OrderingKey<M>>(event: &ToEncode<'_>) -> Coded<String> {
    let (rows, about) = content_rows(event);
    Ok(K::of(typed::<M>(rows.at(about.rows.start))?))
}

pub(super) fn key_of_signal<T: CustomSignal, K: OrderingKey<T>>(
    event: &ToEncode<'_>,
) -> Coded<String> {
    let signal = content_signal::<T>(event);
    signal.map(K::of).ok_or_else(|| serde::ser::Error::custom("another signal"))
}
