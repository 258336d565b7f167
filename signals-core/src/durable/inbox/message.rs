//! A message: a CloudEvent in JSON, for the signals of its subject.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use uuid::Uuid;

use super::subscription::{ReceivedSignal, Subscription};
use crate::database::conn::Conn;
use crate::durable::delivery::{Cause, DeliveryData};
use crate::durable::sql::{NAMESPACE, indexed};
use crate::error::{Error, Result};
use crate::task::intern::interned;

/// What the inbox reads of a CloudEvent.
#[derive(Debug, Deserialize)]
struct CloudEvent<'e> {
    id: String,
    source: String,
    #[serde(borrow)]
    data: &'e serde_json::value::RawValue,
    correlationid: Option<String>,
    causationid: Option<String>,
    causationchain: Option<String>,
    traceparent: Option<String>,
}

/// What identifies a message, and what has caused its event.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) source: String,
    /// The id in the message.
    pub(super) event: String,
    /// The id of the event: the id in the message if that is a UUID.
    pub(super) id: Uuid,
    pub(super) cause: Cause,
}

/// A message whose data was decoded for each signal of its subject.
pub(super) struct Decoded {
    pub(super) identity: Identity,
    subject: String,
    signals: Vec<Box<dyn ReceivedSignal>>,
}

/// A message that cannot be decoded, or whose chain of events is too long.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) identity: Identity,
    pub(super) error: String,
}

/// Decodes a message for every signal of its subject.
///
/// # Errors
///
/// If no signal has this subject.
pub(super) fn decode(subject: &str, body: &[u8]) -> Result<Result<Decoded, Refused>> {
    let mut subscriptions = Subscription::to(subject).peekable();
    if subscriptions.peek().is_none() {
        return Err(Error::other(format!(
            "no signal of this program has `subscribe = \"{subject}\"`"
        )));
    }
    let event: CloudEvent<'_> = match serde_json::from_slice(body) {
        Ok(event) => event,
        Err(error) => {
            let error = format!("the message is not a CloudEvent with data in JSON: {error}");
            return Ok(Err(Refused { identity: Identity::of_body(body), error }));
        }
    };
    let identity = Identity::of(&event);
    if let Err(error) = identity.cause.check_length() {
        return Ok(Err(Refused { identity, error: error.to_string() }));
    }
    let signals: Result<Vec<_>, _> =
        subscriptions.map(|subscription| subscription.decode(event.data.get())).collect();
    Ok(match signals {
        Ok(signals) => Ok(Decoded { identity, subject: subject.to_owned(), signals }),
        Err(error) => {
            let error = format!("the data of the message cannot be decoded: {error}");
            Err(Refused { identity, error })
        }
    })
}

impl Identity {
    fn of(event: &CloudEvent<'_>) -> Self {
        // Other libraries may have ids of another form. An id of an event is unique only within its source. The other ids are of events whose
        // source is not known.
        let uuid_of =
            |id: &str, text: &str| Uuid::parse_str(id).unwrap_or_else(|_| hash(text.as_bytes()));
        let uuid = |id: &String| uuid_of(id, id);
        let id = uuid_of(&event.id, &format!("{}\0{}", event.source, event.id));
        let cause = Cause {
            correlation: event.correlationid.as_ref().map(uuid),
            caused_by: event.causationid.as_ref().map(uuid),
            receivers: event.causationchain.as_deref().map(Cause::receivers_of).unwrap_or_default(),
            traceparent: event.traceparent.clone(),
            ..Cause::default()
        };
        Self { source: indexed(&event.source), event: indexed(&event.id), id, cause }
    }

    /// The identity of a message that is not a CloudEvent: the same body is the same message.
    fn of_body(body: &[u8]) -> Self {
        let id = hash(body);
        Self { source: String::new(), event: id.to_string(), id, cause: Cause::default() }
    }
}

fn hash(bytes: &[u8]) -> Uuid {
    Uuid::new_v5(&NAMESPACE, bytes)
}

impl Decoded {
    /// Sends the signals in the transaction of the connection. What their receivers store is caused by the event of the message.
    pub(super) async fn send(self, conn: &mut Conn<'_>) -> Result<()> {
        let Self { identity: Identity { id, cause, .. }, subject, signals } = self;
        let running = DeliveryData {
            id: 0,
            event: id,
            receiver: interned(&format!("subscribe {subject}")),
            attempt: 1,
            max_attempts: 1,
            stored_at: SystemTime::UNIX_EPOCH,
            age: Duration::ZERO,
            cause,
        };
        let send = async move {
            for signal in signals {
                signal.send(id, conn).await?;
            }
            Ok(())
        };
        Arc::new(running).scope(send).await
    }
}
