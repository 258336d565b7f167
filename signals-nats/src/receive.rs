//! The loop of a subscriber, for one subject.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::Consumer;
use async_nats::jetstream::consumer::pull::{BatchConfig, Config};
use async_nats::jetstream::{AckKind, Message};
use async_nats::{StatusCode, Subscriber};
use futures_util::StreamExt;
use sqlx_signals::durable::{Inbox, Receipt};
use sqlx_signals::{Error, Result};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::subscriber::NatsSubscriber;

/// How many messages are requested at a time.
const BATCH: usize = 100;
/// How long one request waits for messages.
const EXPIRES: Duration = Duration::from_secs(3);
/// How much later than that the answer of the server may come. A request is lost with its connection.
const LATE: Duration = Duration::from_secs(2);
/// If no message arrives for this time, none is on its way.
const SILENCE: Duration = Duration::from_millis(100);
/// The longest pause after an error.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the server has sent.
enum Answer {
    Message(Box<Message>),
    /// The request has ended.
    End,
    Failed(Error),
}

/// A subscription to one subject.
struct Subscription {
    subscriber: Arc<NatsSubscriber>,
    inbox: Inbox,
    stopping: CancellationToken,
    /// How many requests in succession have failed.
    failures: u32,
}

/// Receives the messages of a subject until the subscriber is stopped.
pub(crate) async fn run(
    subscriber: Arc<NatsSubscriber>,
    subject: &'static str,
    inbox: Inbox,
    stopping: CancellationToken,
) {
    let mut subscription =
        Subscription { subscriber, inbox, stopping: stopping.clone(), failures: 0 };
    while !stopping.is_cancelled() {
        let Err(error) = subscription.receive(subject).await else { continue };
        tracing::warn!(subject, %error, "messages could not be received");
        subscription.failures += 1;
        tokio::select! {
            () = sleep(pause_after(subscription.failures)) => {}
            () = stopping.cancelled() => {}
        }
    }
}

/// How long to wait after this many failures.
fn pause_after(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.min(9)).min(LONGEST_PAUSE)
}

impl Subscription {
    /// Receives messages until the subscriber is stopped.
    ///
    /// # Errors
    ///
    /// The error of the server or of the database. The consumer may have been deleted, so it has to be looked up again.
    async fn receive(&mut self, subject: &str) -> Result<()> {
        let consumer = tokio::select! {
            consumer = self.subscriber.consumer(subject) => consumer?,
            () = self.stopping.cancelled() => return Ok(()),
        };
        while !self.stopping.is_cancelled() {
            let mut answers = self.request(&consumer).await?;
            let received = self.take_all(&mut answers).await;
            if received.is_err() || self.stopping.is_cancelled() {
                self.give_back(&mut answers).await;
            }
            received?;
            self.failures = 0;
        }
        Ok(())
    }

    /// Requests a number of messages.
    async fn request(&self, consumer: &Consumer<Config>) -> Result<Subscriber> {
        let client = self.subscriber.client();
        let inbox = async_nats::Subject::from(client.new_inbox());
        let answers = client.subscribe(inbox.clone()).await.map_err(Error::other)?;
        let request =
            BatchConfig { batch: BATCH, expires: Some(EXPIRES), ..BatchConfig::default() };
        consumer.request_batch(request, inbox).await.map_err(Error::other)?;
        Ok(answers)
    }

    /// Takes the messages of a request, until it has ended or the subscriber is stopped.
    async fn take_all(&self, answers: &mut Subscriber) -> Result<()> {
        for _ in 0..BATCH {
            let next = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Ok(()),
                next = timeout(EXPIRES + LATE, answers.next()) => next,
            };
            let no_answer = || Error::other("the NATS server does not answer");
            let message = next.map_err(|_| no_answer())?.ok_or_else(no_answer)?;
            match self.answer(message) {
                Answer::Message(message) => self.take(&message).await?,
                Answer::End => return Ok(()),
                Answer::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn answer(&self, message: async_nats::Message) -> Answer {
        match message.status.unwrap_or(StatusCode::OK) {
            StatusCode::OK => {
                let context = self.subscriber.context().clone();
                Answer::Message(Box::new(Message { message, context }))
            }
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Answer::End,
            status => {
                let text = message.description.unwrap_or_default();
                Answer::Failed(Error::other(format!(
                    "the NATS server has refused a request: {status} {text}"
                )))
            }
        }
    }

    /// Takes a message, and acknowledges it after the commit.
    ///
    /// # Errors
    ///
    /// If the message was not taken: the server sends it again.
    async fn take(&self, message: &Message) -> Result<()> {
        match self.inbox.receive(&message.subject, &message.payload).await {
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
                give_back(message).await;
                Err(error)
            }
        }
    }

    /// Gives back the messages that have arrived and are not begun, so that the server sends them at once to another process, or again.
    async fn give_back(&self, answers: &mut Subscriber) {
        while let Ok(Some(message)) = timeout(SILENCE, answers.next()).await {
            match self.answer(message) {
                Answer::Message(message) => give_back(&message).await,
                Answer::End | Answer::Failed(_) => return,
            }
        }
    }
}

async fn give_back(message: &Message) {
    // Otherwise, the server sends it again after `ack_wait`.
    let _ = message.ack_with(AckKind::Nak(None)).await;
}
