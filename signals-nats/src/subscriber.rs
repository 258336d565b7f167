//! Receives the messages of a stream.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream;
use async_nats::jetstream::consumer::Consumer;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::Config as StreamConfig;
use sqlx_signals::durable::Inbox;
use sqlx_signals::{Db, Error, Result};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{consumer, receive, stream};

/// How long the last acknowledgements may take when a subscriber is shut down.
const FLUSH: Duration = Duration::from_secs(2);

/// Receives the messages of a stream of NATS JetStream, for the signals of the program with `subscribe = "…"`.
///
/// Each subject has a durable pull consumer, which keeps the position of this service in the stream. A message is taken in one transaction,
/// which stores it in the [inbox](Inbox) and sends its signal, so that its durable receivers have a delivery. It is acknowledged after the
/// commit. A message that is received again is acknowledged, and nothing else is done.
///
/// See the example of [the crate](crate#subscribing).
pub struct NatsSubscriber {
    client: Client,
    context: Context,
    stream: StreamConfig,
    service: String,
    ack_wait: Option<Duration>,
}

/// A running subscriber. If it is dropped, it stops: the transactions that run are rolled back, and their messages are received again.
pub struct RunningSubscriber {
    client: Client,
    stopping: CancellationToken,
    tasks: JoinSet<()>,
}

impl NatsSubscriber {
    /// A subscriber of this stream. `service` is the name of this service, from which the names of its consumers are made: the processes of
    /// one service have the same name and share the messages, and another service gets all messages, too. If the stream or a consumer does not
    /// exist, it is created.
    ///
    /// See the example of [the crate](crate#subscribing).
    pub fn new(client: Client, stream: StreamConfig, service: impl Into<String>) -> Self {
        let context = jetstream::new(client.clone());
        Self { client, context, stream, service: service.into(), ack_wait: None }
    }

    /// Sets after which time the server sends a message again that was not acknowledged, for example because the process was killed. Without
    /// this call, a new consumer has the default of the server, which is 30 seconds.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use signals_nats::{NatsSubscriber, StreamConfig, async_nats};
    /// # async fn example(client: async_nats::Client, stream: StreamConfig) {
    /// let subscriber = NatsSubscriber::new(client, stream, "shipping").ack_wait(Duration::from_secs(120));
    /// # }
    /// ```
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.ack_wait = Some(ack_wait);
        self
    }

    /// Creates the stream and the consumers if they do not exist, or checks them. [`spawn`](Self::spawn) does not wait for the server, so this
    /// is for a program that prefers to report a mistake at its start.
    ///
    /// See the example of [the crate](crate#subscribing).
    ///
    /// # Errors
    ///
    /// - An error if the name of the service cannot be a part of the name of a consumer.
    /// - An error that names what differs if the stream has other subjects, another retention or another window for duplicates, or if a
    ///   consumer has another subject or `ack_wait`, does not expect acknowledgements, or gives up after a number of attempts.
    /// - The error of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the consumers may be created and others not.
    pub async fn setup(&self) -> Result<()> {
        check_service(&self.service)?;
        for subject in Inbox::subjects() {
            self.consumer(subject).await?;
        }
        Ok(())
    }

    /// Starts the subscriber on the current runtime, with one task for each subject. The server need not be reachable: what cannot be received
    /// is logged, and tried again.
    ///
    /// See the example of [the crate](crate#subscribing).
    ///
    /// # Errors
    ///
    /// - An error if the name of the service cannot be a part of the name of a consumer.
    /// - [`Error::DeliveriesNotSetUp`] if the tables do not exist.
    /// - The error of the database.
    pub async fn spawn(self, db: &Db) -> Result<RunningSubscriber> {
        check_service(&self.service)?;
        db.inbox().check().await?;
        let (stopping, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let client = self.client.clone();
        let subscriber = Arc::new(self);
        for subject in Inbox::subjects() {
            tasks.spawn(receive::run(
                Arc::clone(&subscriber),
                subject,
                db.inbox(),
                stopping.clone(),
            ));
        }
        Ok(RunningSubscriber { client, stopping, tasks })
    }

    /// The consumer of a subject, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// If it or the stream exists and differs, or if the server refuses it.
    pub(crate) async fn consumer(&self, subject: &str) -> Result<Consumer<pull::Config>> {
        let stream = stream::ensure(&self.context, &self.stream).await?;
        let name = format!("{}-{}", self.service, subject.replace('.', "_"));
        consumer::ensure(&stream, name, subject, self.ack_wait).await
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }
}

/// Checks that the name can be the start of the name of a consumer.
fn check_service(service: &str) -> Result<()> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if service.is_empty() || !service.chars().all(is_valid) {
        let text = "is no name of a service: it consists of letters, digits, `_` and `-`";
        return Err(Error::other(format!("`{service}` {text}")));
    }
    Ok(())
}

impl RunningSubscriber {
    /// Stops requesting messages, and waits until the message that each subject is processing is committed and acknowledged. Messages that have
    /// arrived but were not processed are returned to the server, which sends them again.
    ///
    /// See the example of [the crate](crate#subscribing).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transactions that run are rolled back, and their messages are received again.
    pub async fn shutdown(mut self) {
        self.stopping.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            // The only error is that the task has panicked, which is logged by the panic hook.
            let _ = ended;
        }
        // What is not acknowledged is received again, which has no effect.
        let _ = timeout(FLUSH, self.client.flush()).await;
    }
}

impl fmt::Debug for NatsSubscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, service, .. } = self;
        f.debug_struct("NatsSubscriber")
            .field("stream", &stream.name)
            .field("service", service)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RunningSubscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningSubscriber").field("subjects", &self.tasks.len()).finish()
    }
}
