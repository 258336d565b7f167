//! A stored event as a CloudEvent 1.0 in JSON.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::durable::claimed::Claimed;
use crate::durable::delivery::Cause;
use crate::durable::end_claim::Failure;
use crate::durable::event_form::ToDecode;
use crate::durable::receivers::DurableReceiver;
use crate::durable::relay::publisher::Message;
use crate::durable::run::undecodable;
use crate::signal::{Signal, post_delete, post_save};

/// The attributes of the [specification](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md), and extensions, whose names
/// consist of lower-case letters and digits.
#[derive(Serialize)]
struct CloudEvent<'e> {
    specversion: &'static str,
    id: Uuid,
    source: &'e str,
    #[serde(rename = "type")]
    ty: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'e str>,
    time: String,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitionkey: Option<&'e str>,
    correlationid: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<Uuid>,
    causationchain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'e str>,
    data: Box<RawValue>,
}

/// The message of a claimed delivery.
///
/// # Errors
///
/// What has to be stored if this program cannot decode the payload.
pub(super) fn message(
    claimed: &Claimed,
    receiver: &DurableReceiver,
    source: &str,
) -> Result<Message, Failure> {
    let data = (receiver.form.data)(&ToDecode {
        payload: &claimed.payload,
        key: claimed.key.as_deref(),
        created: claimed.created,
        asks_previous: false,
    });
    let cause = claimed.context.as_deref().map(serde_json::from_str::<Cause>).transpose();
    let (data, cause, id) = match (data, cause, claimed.event.parse::<Uuid>()) {
        (Ok(data), Ok(cause), Ok(id)) => (data, cause.unwrap_or_default(), id),
        (Err(error), ..) | (_, Err(error), _) => return Err(undecodable(claimed, &error)),
        (.., Err(error)) => return Err(undecodable(claimed, &error)),
    };
    let subject = subject(claimed, receiver);
    // An attribute of a CloudEvent is not empty.
    let key = claimed.key.as_deref().map(text).filter(|key| !key.is_empty());
    let stored_at = u64::try_from(claimed.stored_at).unwrap_or_default();
    let stored_at = SystemTime::UNIX_EPOCH + Duration::from_millis(stored_at);
    let event = CloudEvent {
        specversion: "1.0",
        id,
        source,
        ty: &subject,
        subject: key.as_deref(),
        time: humantime::format_rfc3339_millis(stored_at).to_string(),
        datacontenttype: "application/json",
        partitionkey: claimed.ordering_key.as_ref().and(key.as_deref()),
        correlationid: cause.correlation.unwrap_or(id),
        causationid: cause.caused_by,
        causationchain: cause.chain_with(&claimed.receiver),
        traceparent: cause.traceparent.as_deref(),
        data,
    };
    let body = serde_json::to_string(&event).map_err(|error| undecodable(claimed, &error))?;
    Ok(Message { id, subject, key, body })
}

/// The subject of a message. Those of a model tell what has happened to the row.
fn subject(claimed: &Claimed, receiver: &DurableReceiver) -> String {
    let subject = receiver.form.subject.unwrap_or_default();
    match (claimed.signal.as_str(), claimed.created) {
        (post_save::NAME, Some(true)) => format!("{subject}.created"),
        (post_save::NAME, _) => format!("{subject}.updated"),
        (post_delete::NAME, _) => format!("{subject}.deleted"),
        _ => subject.to_owned(),
    }
}

/// A key as text: a text without its quotes, and any other key as JSON.
fn text(key: &str) -> String {
    serde_json::from_str(key).unwrap_or_else(|_| key.to_owned())
}
