//! Publishes messages to a stream.

use std::fmt;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{Context, ContextBuilder, PublishAckFuture};
use async_nats::jetstream::stream::Config;
use futures_util::future::join_all;
use sqlx_signals::durable::{Message, Publisher};
use sqlx_signals::{Error, Result};
use tokio::sync::Mutex;

use crate::stream;

/// How long the server may take to acknowledge a message.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes the events of a program to a stream of NATS JetStream, for
/// [`Deliveries::relay`](sqlx_signals::durable::Deliveries::relay).
///
/// All messages of a batch are sent before the first acknowledgement is awaited. Each of them has the header `Nats-Msg-Id` with the id of
/// its event, by which the server recognizes a repetition within the `duplicate_window` of the stream. The body is a CloudEvent in JSON, as
/// [`Message`] describes it.
///
/// See the example of [the crate](crate).
pub struct NatsPublisher {
    context: Context,
    stream: Config,
    /// Whether the stream was found as it should be, or was created.
    is_ready: Mutex<bool>,
}

impl NatsPublisher {
    /// A publisher to this stream, whose `subjects` must contain those of the program. If the stream does not exist, it is created.
    ///
    /// See the example of [the crate](crate).
    pub fn new(client: Client, stream: Config) -> Self {
        let context = ContextBuilder::new().ack_timeout(ACK_TIMEOUT).build(client);
        Self { context, stream, is_ready: Mutex::new(false) }
    }

    /// Creates the stream if it does not exist, or checks it. The relay does the same before it publishes, so this is for a program
    /// that prefers to report a mistake at its start.
    ///
    /// See the example of [the crate](crate).
    ///
    /// # Errors
    ///
    /// - An error that names what differs if the stream has other subjects, another retention or another window for duplicates.
    /// - The error of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stream is either created or not.
    pub async fn setup(&self) -> Result<()> {
        let mut is_ready = self.is_ready.lock().await;
        if !*is_ready {
            stream::ensure(&self.context, &self.stream).await?;
            *is_ready = true;
        }
        Ok(())
    }

    /// Sends a message, and returns the future of its acknowledgement.
    async fn send(&self, message: &Message) -> Result<PublishAckFuture> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, message.id().to_string());
        headers.insert("Content-Type", Message::CONTENT_TYPE);
        let (subject, body) = (message.subject().to_owned(), message.body().to_owned().into());
        let sent = self.context.publish_with_headers(subject, headers, body).await;
        sent.map_err(|error| refused(message, &error))
    }

    /// Checks that messages can be sent now. A client without a connection would keep them, and send them after their events are published
    /// again.
    async fn check(&self) -> Result<()> {
        if self.context.client().connection_state() != State::Connected {
            return Err(Error::other("there is no connection to the NATS server"));
        }
        self.setup().await
    }
}

impl Publisher for NatsPublisher {
    async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
        if let Err(error) = self.check().await {
            let text = error.to_string();
            return messages.iter().map(|_| Err(Error::other(text.clone()))).collect();
        }
        let mut sent = Vec::with_capacity(messages.len());
        for message in messages {
            sent.push(self.send(message).await);
        }
        // At the same time, because each of them has the whole time limit.
        let results = join_all(sent.into_iter().zip(messages).map(|(sent, message)| async move {
            sent?.await.map(drop).map_err(|error| refused(message, &error))
        }));
        let results = results.await;
        if results.iter().any(Result::is_err) {
            // The stream may have been deleted or changed.
            *self.is_ready.lock().await = false;
        }
        results
    }
}

fn refused(message: &Message, error: &dyn fmt::Display) -> Error {
    let subject = message.subject();
    Error::other(format!("the NATS server has not stored a message of `{subject}`: {error}"))
}

impl fmt::Debug for NatsPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsPublisher").field("stream", &self.stream.name).finish_non_exhaustive()
    }
}
