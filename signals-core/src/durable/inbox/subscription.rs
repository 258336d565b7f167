//! The signals that are received from other services.

use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::database::conn::Conn;
use crate::durable::event_form::{Coded, Published};
use crate::error::Result;
use crate::signal::custom::{CustomSignal, send_received};

/// A signal with `subscribe = "…"`.
pub struct Subscription {
    pub(super) subject: &'static str,
    decode: fn(&str) -> Coded<Box<dyn ReceivedSignal>>,
}

inventory::collect!(Subscription);

impl Subscription {
    /// The subscription of the signal `T` to the messages of this subject.
    pub const fn of<T: CustomSignal + Published>(subject: &'static str) -> Self {
        Self { subject, decode: decode::<T> }
    }

    /// The signals of this subject.
    pub(super) fn to(subject: &str) -> impl Iterator<Item = &'static Self> {
        inventory::iter::<Self>().filter(move |subscription| subscription.subject == subject)
    }

    /// Decodes the data of a message.
    pub(super) fn decode(&self, data: &str) -> Coded<Box<dyn ReceivedSignal>> {
        (self.decode)(data)
    }
}

/// A received value of a signal, without its type.
pub(super) trait ReceivedSignal: Send + Sync {
    /// Sends it to its receivers, in the transaction of the connection. `id` is the id of the event.
    fn send<'s>(self: Box<Self>, id: Uuid, conn: &'s mut Conn<'_>) -> BoxFuture<'s, Result<()>>;
}

struct Received<T>(T);

impl<T: CustomSignal> ReceivedSignal for Received<T> {
    fn send<'s>(self: Box<Self>, id: Uuid, conn: &'s mut Conn<'_>) -> BoxFuture<'s, Result<()>> {
        Box::pin(send_received(self.0, id.as_u128(), conn))
    }
}

fn decode<T: CustomSignal + Published>(data: &str) -> Coded<Box<dyn ReceivedSignal>> {
    let value: T = serde_json::from_str(data)?;
    Ok(Box::new(Received(value)))
}
