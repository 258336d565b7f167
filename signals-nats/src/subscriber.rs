//! Receives the messages of a stream.

use std::fmt;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::Config as StreamConfig;
use async_nats::jetstream::{self, AckKind, Message};
use futures_util::{FutureExt, StreamExt};
use sqlx_signals::durable::{Inbox, Receipt};
use sqlx_signals::{Db, Error, Result};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::stream;

/// How many messages are requested at a time.
const BATCH: usize = 100;
/// How long one request waits for messages.
const EXPIRES: Duration = Duration::from_secs(5);
/// How much later than that the answer of the server may come.
const LATE: Duration = Duration::from_secs(10);
/// The longest pause after an error.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Receives the messages of a stream of NATS JetStream for the signals of the program with `subscribe = "…"`.
///
/// Each subject has a durable pull consumer, which keeps the position of this service in the stream. A message is taken in one transaction,
/// which stores it in the [inbox](Inbox) and sends its signal, so that its durable receivers have a delivery. It is acknowledged after the
/// commit. A message that is received again is acknowledged, and nothing else is done.
///
/// See the example of [the crate](crate#subscribing).
pub struct NatsSubscriber {
    context: Context,
    stream: StreamConfig,
    service: String,
    ack_wait: Duration,
}

/// A running subscriber. If it is dropped, it stops: the transactions that run are rolled back, and their messages are received again.
pub struct RunningSubscriber {
    stopping: CancellationToken,
    tasks: JoinSet<()>,
}

impl NatsSubscriber {
    /// A subscriber of this stream. `service` is the name of this service, from which the names of its consumers are made: the processes of
    /// one service have the same name and share the messages, and another service gets all messages, too. The stream and the consumers are
    /// created if they do not exist.
    ///
    /// See the example of [the crate](crate#subscribing).
    pub fn new(client: Client, stream: StreamConfig, service: impl Into<String>) -> Self {
        let (context, ack_wait) = (jetstream::new(client), Duration::from_secs(60));
        Self { context, stream, service: service.into(), ack_wait }
    }

    /// Sets after which time the server sends a message again that was not acknowledged, because the process was killed; 60 seconds by
    /// default. It is a setting of the consumers, and is set when they are created.
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.ack_wait = ack_wait;
        self
    }

    /// Creates the stream and the consumers if they do not exist, or checks them. [`spawn`](Self::spawn) does not wait for the server, so this
    /// is for a program that prefers to report a mistake at its start.
    ///
    /// # Errors
    ///
    /// - An error that names what differs if the stream has other subjects, another retention or another window for duplicates, or if a
    ///   consumer has another subject, does not expect acknowledgements or gives up after a number of attempts.
    /// - The error of the server, or of the connection.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the consumers may be created and others not.
    pub async fn setup(&self) -> Result<()> {
        for subject in Inbox::subjects() {
            self.consumer(subject).await?;
        }
        Ok(())
    }

    /// Starts the subscriber on the current runtime, with one task for each subject. The server need not be reachable.
    ///
    /// # Errors
    ///
    /// An error if the tables of the inbox do not exist, or the error of the database.
    pub async fn spawn(self, db: &Db) -> Result<RunningSubscriber> {
        db.inbox().check().await?;
        let (stopping, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let subscriber = std::sync::Arc::new(self);
        for subject in Inbox::subjects() {
            let (subscriber, inbox) = (std::sync::Arc::clone(&subscriber), db.inbox());
            let stopping = stopping.clone();
            tasks.spawn(async move { subscriber.run(subject, &inbox, &stopping).await });
        }
        Ok(RunningSubscriber { stopping, tasks })
    }

    /// Receives the messages of a subject until the subscriber is stopped.
    async fn run(&self, subject: &str, inbox: &Inbox, stopping: &CancellationToken) {
        let mut failures = 0_u32;
        while !stopping.is_cancelled() {
            let received = tokio::select! {
                consumer = self.consumer(subject) => consumer,
                () = stopping.cancelled() => return,
            };
            let received = match received {
                Ok(consumer) => receive(&consumer, inbox, stopping).await,
                Err(error) => Err(error),
            };
            let Err(error) = received else {
                failures = 0;
                continue;
            };
            tracing::warn!(subject, %error, "messages could not be received");
            failures = (failures + 1).min(9);
            tokio::select! {
                () = sleep(Duration::from_millis(100 << failures).min(LONGEST_PAUSE)) => {}
                () = stopping.cancelled() => {}
            }
        }
    }

    /// The consumer of a subject, which is created if it does not exist.
    async fn consumer(&self, subject: &str) -> Result<Consumer<pull::Config>> {
        let stream = stream::ensure(&self.context, &self.stream).await?;
        let name = format!("{}-{}", self.service, subject.replace('.', "_"));
        let wanted = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: subject.to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            ..pull::Config::default()
        };
        let consumer = stream.get_or_create_consumer(&name, wanted).await;
        let consumer = consumer.map_err(|error| {
            Error::other(format!(
                "the consumer `{name}` could not be looked up or created: {error}"
            ))
        })?;
        let found = &consumer.cached_info().config;
        let mut differences = Vec::new();
        if found.filter_subject != subject {
            let found = &found.filter_subject;
            differences.push(format!("its subject is {found} instead of {subject}"));
        }
        if found.ack_policy != AckPolicy::Explicit {
            let found = found.ack_policy;
            differences.push(format!("its ack_policy is {found:?} instead of Explicit"));
        }
        if found.max_deliver > 0 {
            let found = found.max_deliver;
            differences
                .push(format!("it gives up after {found} attempts, so that messages are lost"));
        }
        match differences.is_empty() {
            true => Ok(consumer),
            false => Err(Error::other(format!(
                "the consumer `{name}` exists, but {}",
                differences.join(", and ")
            ))),
        }
    }
}

/// Receives messages until there is none for a while, or the subscriber is stopped.
async fn receive(
    consumer: &Consumer<pull::Config>,
    inbox: &Inbox,
    stopping: &CancellationToken,
) -> Result<()> {
    loop {
        let batch = consumer.batch().max_messages(BATCH).expires(EXPIRES).messages();
        let mut batch = batch.await.map_err(Error::other)?;
        let mut received = 0;
        loop {
            let next = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                next = timeout(EXPIRES + LATE, batch.next()) => next,
            };
            let message = match next {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(Error::other(error)),
                Ok(None) => break,
                Err(_) => return Err(Error::other("the NATS server does not answer")),
            };
            received += 1;
            take(&message, inbox).await?;
        }
        if stopping.is_cancelled() {
            // Another process can take what has already arrived here.
            while let Some(Some(Ok(message))) = batch.next().now_or_never() {
                let _ = message.ack_with(AckKind::Nak(None)).await;
            }
            return Ok(());
        }
        if received == 0 {
            // The consumer may have been deleted.
            return Ok(());
        }
    }
}

/// Takes a message, and acknowledges it after the commit.
///
/// # Errors
///
/// If the message was not taken: the server is asked to send it again later.
async fn take(message: &Message, inbox: &Inbox) -> Result<()> {
    match inbox.receive(&message.subject, &message.payload).await {
        Ok(receipt) => {
            if receipt == Receipt::Repeated {
                tracing::debug!(subject = %message.subject, "a message was received again");
            }
            // If this is lost, the message is received again.
            if let Err(error) = message.ack().await {
                tracing::debug!(%error, "a message could not be acknowledged");
            }
            Ok(())
        }
        Err(error) => {
            let attempts = message.info().map_or(1, |info| info.delivered);
            let delay = Duration::from_secs(1 << attempts.clamp(0, 5));
            let _ = message.ack_with(AckKind::Nak(Some(delay))).await;
            Err(error)
        }
    }
}

impl RunningSubscriber {
    /// Requests nothing more, and waits until the messages that are being taken are committed and acknowledged.
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
