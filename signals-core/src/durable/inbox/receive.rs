//! Takes a message: stores it in the inbox, and sends its signal, in one transaction.

use sqlx::error::{DatabaseError, ErrorKind};
use tracing::Span;

use super::Inbox;
use super::keep::Keep;
use super::message::{Decoded, Identity, Refused, decode};
use crate::durable::schema::explained;
use crate::durable::sql::Sql;
use crate::durable::trace;
use crate::error::{Error, Result};
use crate::task::span::{span, traced};
use crate::transaction::Transaction;

/// What has become of a message, see [`Inbox::receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Receipt {
    /// Its signal was sent.
    Taken,
    /// It was received before, and nothing was done.
    Repeated,
    /// A receiver that runs in the transaction has failed. The message is stored as a delivery of `subscribe <subject>`, by which a worker takes
    /// it later.
    Failed,
    /// It cannot be decoded, or the chain of events that has caused it is as long as the
    /// [limit](crate::Registry::set_recursion_limit). It is stored as a dead delivery of `subscribe <subject>`, which an operator can retry or discard.
    Dead,
}

impl Inbox {
    /// Takes a message of this subject: sends the value of its `data` to the receivers of the signal with `subscribe = "…"`, in a transaction that
    /// also stores the message in the inbox.
    ///
    /// Acknowledge the message to the broker if the result is `Ok`. After an error, let the broker send it again.
    ///
    /// The deliveries have the event id of the message, its correlation, its cause and its trace, so a chain of events continues across
    /// services.
    ///
    /// See the example of [`Inbox`].
    ///
    /// # Errors
    ///
    /// In all these cases nothing is stored.
    ///
    /// - An error if no signal has this subject. Another version of the program may know it.
    /// - [`Error::DeliveriesNotSetUp`] if the tables do not exist.
    /// - The error of the database.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transaction is either committed or rolled back.
    pub async fn receive(&self, subject: &str, body: &[u8]) -> Result<Receipt> {
        let decoded = match decode(subject, body)? {
            Ok(decoded) => decoded,
            Err(Refused { identity, error }) => {
                let receipt = self.keep(&identity, Keep { subject, body, error, is_dead: true });
                return receipt.await;
            }
        };
        let identity = decoded.identity.clone();
        let span = span!("receive", subject, event = identity.event);
        trace::join(&span, identity.cause.traceparent.as_deref());
        match self.take(decoded, span).await {
            Err(error) if is_about_message(&error) => {
                let error = format!("{error:#}");
                self.keep(&identity, Keep { subject, body, error, is_dead: false }).await
            }
            taken => taken.map_err(explained),
        }
    }

    async fn take(&self, decoded: Decoded, span: Span) -> Result<Receipt> {
        traced(span, async {
            let mut tx = self.db.begin().await?;
            if !is_new(&mut tx, &decoded.identity).await? {
                tx.rollback().await?;
                return Ok(Receipt::Repeated);
            }
            decoded.send(&mut tx).await?;
            tx.commit().await?;
            Ok(Receipt::Taken)
        })
        .await
    }
}

/// Stores the message in the inbox. Returns `false` if it is there.
pub(super) async fn is_new(tx: &mut Transaction<'_>, message: &Identity) -> Result<bool> {
    let text = "INSERT INTO signals_inbox (source, event) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let sql = Sql::new(tx.kind(), text).bind(message.source.as_str());
    Ok(sql.bind(message.event.as_str()).execute(tx).await? == 1)
}

/// Whether the error is one of the message or of its receivers. Other messages may not have it, so it must not hold them up.
fn is_about_message(error: &Error) -> bool {
    match error {
        Error::Receiver(_)
        | Error::RolledBack { .. }
        | Error::PayloadTooLarge { .. }
        | Error::Recursion { .. }
        | Error::CommitNotObservable { .. }
        | Error::Other(_) => true,
        Error::Database(sqlx::Error::Database(error)) => is_about_values(&**error),
        _ => false,
    }
}

/// Whether the database has refused values, and not the statement: a violated constraint, or a value that is invalid or too large.
fn is_about_values(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    match code.len() {
        // The class of a PostgreSQL error.
        5 => ["22", "23", "54"].contains(&&code[..2]),
        // SQLITE_TOOBIG, SQLITE_MISMATCH, and a value of a type that a STRICT table refuses.
        _ => error.kind() != ErrorKind::Other || ["18", "20", "3091"].contains(&&*code),
    }
}
