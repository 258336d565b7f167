//! A listed delivery.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use sqlx::{ColumnIndex, Decode, FromRow, Type};
use uuid::Uuid;

use super::{DeliveryState, Table};
use crate::database::backend::DatabaseKind;

/// A delivery as it is stored. Its fields are the columns of `signals_delivery`, or of `signals_done` if it is kept. With serde, a time is the number of milliseconds since 1970.
///
/// See the example of [`DeliveryFilter`](super::DeliveryFilter).
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StoredDelivery {
    /// The key of the row.
    pub id: i64,
    /// The id of the event. All receivers of one event have the same.
    pub event: Uuid,
    /// The `uid` of the receiver, or else the path of its function.
    pub receiver: String,
    /// The name of the signal.
    pub signal: String,
    /// The table of the model; empty for a custom signal.
    pub sender: String,
    /// The key of the model's row, as JSON.
    pub key: Option<String>,
    /// Whether the row is new.
    pub created: Option<bool>,
    /// The event, as JSON. It contains what the row contained.
    pub payload: String,
    /// What caused the event, as JSON.
    pub context: Option<String>,
    /// The value of the receiver's option `ordering_key`.
    pub ordering_key: Option<String>,
    /// Deliveries of one receiver with the same value are combined before they run.
    pub coalesce_key: Option<String>,
    /// When the event was stored.
    #[serde(serialize_with = "millis")]
    pub stored_at: SystemTime,
    /// When the delivery is due. While it runs, when the lease of its worker ends.
    #[serde(serialize_with = "millis")]
    pub run_at: SystemTime,
    /// The number of attempts so far, including the running one.
    pub attempt: i32,
    /// How often it was claimed.
    pub claim: i64,
    /// How many workers in succession were lost while they ran it.
    pub lost: i32,
    /// The worker that has claimed it.
    pub worker: Option<String>,
    /// The error of the last failed attempt.
    pub error: Option<String>,
    /// When it became dead.
    #[serde(serialize_with = "optional_millis")]
    pub dead_at: Option<SystemTime>,
    /// When its receiver has succeeded, if the delivery is kept.
    #[serde(serialize_with = "optional_millis")]
    pub done_at: Option<SystemTime>,
}

impl StoredDelivery {
    /// What the delivery waits for.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::durable::{DeliveryFilter, DeliveryState};
    /// async fn dead(db: &Db) -> Result<usize> {
    ///     let all = db.deliveries().list(DeliveryFilter::new()).await?;
    ///     Ok(all.iter().filter(|delivery| delivery.state() == DeliveryState::Dead).count())
    /// }
    /// ```
    pub fn state(&self) -> DeliveryState {
        if self.done_at.is_some() {
            return DeliveryState::Done;
        }
        match (self.dead_at, &self.worker, &self.error) {
            (Some(_), ..) => DeliveryState::Dead,
            (None, Some(_), _) => DeliveryState::Running,
            (None, None, Some(_)) => DeliveryState::Retrying,
            (None, None, None) => DeliveryState::Waiting,
        }
    }
}

/// The columns in the order in which [`Columns`] reads them.
pub(super) fn columns(kind: DatabaseKind, with_payload: bool, table: Table) -> String {
    let (payload, rest) = match kind {
        DatabaseKind::Sqlite => (
            "payload",
            "context, ordering_key, coalesce_key, stored_at, run_at, attempt, claim, lost, worker, error, dead_at",
        ),
        DatabaseKind::Postgres => (
            "payload::text",
            "context::text, ordering_key, coalesce_key, (extract(epoch FROM stored_at) * 1000)::bigint, \
             (extract(epoch FROM run_at) * 1000)::bigint, attempt, claim, lost, worker, error, \
             (extract(epoch FROM dead_at) * 1000)::bigint",
        ),
    };
    let event = if kind == DatabaseKind::Postgres { "event::text" } else { "event" };
    let payload = if with_payload { payload } else { "''" };
    let done_at = match (table, kind) {
        (Table::Stored, DatabaseKind::Sqlite) => "NULL",
        (Table::Stored, DatabaseKind::Postgres) => "NULL::bigint",
        (Table::Kept, DatabaseKind::Sqlite) => "done_at",
        (Table::Kept, DatabaseKind::Postgres) => "(extract(epoch FROM done_at) * 1000)::bigint",
    };
    format!("id, {event}, receiver, signal, sender, key, created, {payload}, {rest}, {done_at}")
}

/// A row of these columns. A tuple cannot have so many.
pub(super) struct Columns(pub(super) StoredDelivery);

impl<'r, R: sqlx::Row> FromRow<'r, R> for Columns
where
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    i32: Decode<'r, R::Database> + Type<R::Database>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let event: String = row.try_get(1)?;
        let (dead_at, done_at): (Option<i64>, Option<i64>) = (row.try_get(18)?, row.try_get(19)?);
        Ok(Self(StoredDelivery {
            id: row.try_get(0)?,
            event: event.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            receiver: row.try_get(2)?,
            signal: row.try_get(3)?,
            sender: row.try_get(4)?,
            key: row.try_get(5)?,
            created: row.try_get(6)?,
            payload: row.try_get(7)?,
            context: row.try_get(8)?,
            ordering_key: row.try_get(9)?,
            coalesce_key: row.try_get(10)?,
            stored_at: time(row.try_get(11)?),
            run_at: time(row.try_get(12)?),
            attempt: row.try_get(13)?,
            claim: row.try_get(14)?,
            lost: row.try_get(15)?,
            worker: row.try_get(16)?,
            error: row.try_get(17)?,
            dead_at: dead_at.map(time),
            done_at: done_at.map(time),
        }))
    }
}

fn time(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

fn millis<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn optional_millis<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => millis(time, serializer),
        None => serializer.serialize_none(),
    }
}
