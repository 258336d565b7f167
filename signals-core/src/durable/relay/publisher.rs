//! What a relay publishes, and to what.

use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::error::Result;

/// Publishes messages to a message broker. The crate `sqlx-signals-nats` implements it for NATS JetStream, and a program implements it for
/// any other broker.
///
/// ```
/// use sqlx_signals::durable::{Message, Publisher};
/// use sqlx_signals::prelude::*;
///
/// /// Prints the messages.
/// struct Terminal;
///
/// impl Publisher for Terminal {
///     async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
///         let print = |message: &Message| {
///             println!("{}: {}", message.subject(), message.body());
///             Ok(())
///         };
///         messages.iter().map(print).collect()
///     }
/// }
///
/// # async fn example(db: Db) -> Result<()> {
/// let relay = db.deliveries().relay("shop", Terminal).spawn().await?;
/// # relay.shutdown().await }
/// ```
pub trait Publisher: Send + Sync + 'static {
    /// Publishes these messages, and returns one result for each of them, in the same order. `Ok` means that the broker has stored the
    /// message: it is deleted from the database, so it must not be lost any more. After an error, the message is published again
    /// later; it is never published again after [`Retry::never`](crate::durable::Retry::never).
    ///
    /// The messages are independent of each other, and can be sent at the same time: a relay never passes two messages with the same key
    /// at once. A message may be published more than once, because the process can be killed after it was published. It then has the
    /// same [`id`](Message::id), by which a broker or a subscriber recognizes the repetition.
    ///
    /// # Cancel safety
    ///
    /// The relay drops the future if it has not finished after half the lease.
    fn publish(&self, messages: &[Message]) -> impl Future<Output = Vec<Result<()>>> + Send;
}

/// A message that a relay publishes: an event as a [CloudEvent](https://cloudevents.io) 1.0 in JSON.
///
/// | attribute of the CloudEvent | value |
/// |---|---|
/// | `id` | the id of the event, a UUID |
/// | `source` | the name of the service, as it was given to the relay |
/// | `type` | the subject under which the event is published |
/// | `subject` | the key of the row, unless it is the event of a custom signal |
/// | `time` | when the event was stored, by the clock of the database |
/// | `data` | the row or the signal, as serde writes it |
/// | `partitionkey` | the key by which the messages are ordered, if they are |
/// | `correlationid` | the first event of the chain of events that cause each other |
/// | `causationid` | the event whose receiver has caused this event, if one has |
/// | `traceparent` | the trace in which the event was stored, with a [`Propagator`](crate::durable::Propagator) |
///
/// See the example of [`Publisher`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(super) id: Uuid,
    pub(super) subject: String,
    pub(super) key: Option<String>,
    pub(super) body: String,
}

impl Message {
    /// The media type of the [`body`](Self::body).
    pub const CONTENT_TYPE: &'static str = "application/cloudevents+json; charset=UTF-8";

    /// The id of the event. It is the same whenever the message is published again.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The subject under which the message is published, such as `shop.order_paid`, or `shop.user.created` for a model with
    /// `publish = "shop.user"`.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The key of the row: messages with the same key are published in the order of the commits. `None` for the event of a custom signal.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The CloudEvent as JSON.
    pub fn body(&self) -> &str {
        &self.body
    }
}

/// A publisher without its type.
pub(super) trait ErasedPublisher: Send + Sync {
    fn publish<'p>(&'p self, messages: &'p [Message]) -> BoxFuture<'p, Vec<Result<()>>>;
}

impl<P: Publisher> ErasedPublisher for P {
    fn publish<'p>(&'p self, messages: &'p [Message]) -> BoxFuture<'p, Vec<Result<()>>> {
        Box::pin(Publisher::publish(self, messages))
    }
}
