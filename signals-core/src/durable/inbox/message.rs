//! A message: a CloudEvent in JSON, for the signals of its subject.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use uuid::Uuid;

use super::subscription::{ReceivedSignal, Subscription};
use crate::database::conn::Conn;
use crate::durable::delivery::{Cause, DeliveryData};
use crate::durable::sql::without_nul;
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
    /// The same as a UUID.
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

/// The namespace of ids that are made of the text of an id or of a body, a random UUID.
const NAMESPACE: Uuid = Uuid::from_u128(0x2f1d_98c4_37aa_4b0e_8a4c_51f0_63d2_7be9);

/// The longest source or id that is stored as it is, in bytes.
const LONGEST: usize = 1000;

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
        // Other libraries may have ids of another form.
        let uuid = |id: &String| {
            Uuid::parse_str(id).unwrap_or_else(|_| Uuid::new_v5(&NAMESPACE, id.as_bytes()))
        };
        let cause = Cause {
            correlation: event.correlationid.as_ref().map(uuid),
            caused_by: event.causationid.as_ref().map(uuid),
            receivers: event.causationchain.as_deref().map(Cause::receivers_of).unwrap_or_default(),
            traceparent: event.traceparent.clone(),
            ..Cause::default()
        };
        Self { source: stored(&event.source), event: stored(&event.id), id: uuid(&event.id), cause }
    }

    /// The identity of a message that is not a CloudEvent: the same body is the same message.
    fn of_body(body: &[u8]) -> Self {
        let id = Uuid::new_v5(&NAMESPACE, body);
        Self { source: String::new(), event: id.to_string(), id, cause: Cause::default() }
    }
}

/// A source or an id as it is stored. PostgreSQL refuses an index entry of more than 2.7 kB, so a longer text is replaced by its hash:
/// otherwise the broker would send the message again and again.
fn stored(text: &str) -> String {
    if text.len() > LONGEST {
        return Uuid::new_v5(&NAMESPACE, text.as_bytes()).to_string();
    }
    without_nul(text)
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
