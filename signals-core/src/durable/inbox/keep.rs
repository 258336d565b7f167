//! Messages that could not be taken: each is stored as a delivery, by which it is taken later.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::message::{Identity, decode};
use super::receive::is_new;
use super::{Inbox, Receipt};
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claim::{later, now};
use crate::durable::event_form::ToEncode;
use crate::durable::payload::encode_signal;
use crate::durable::retry::Retry;
use crate::durable::run::cut;
use crate::durable::schema::explained;
use crate::durable::sql::Sql;
use crate::error::{BoxError, Error, Result};
use crate::signal::custom::CustomSignal;
use crate::signal::event_store::EventContent;
use crate::signal::parameter::Context;
use crate::signal::receivers::SignalTable;

/// A message that could not be taken when it was received, as the event of its delivery.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptMessage {
    subject: String,
    body: String,
}

impl CustomSignal for KeptMessage {
    const SIGNAL: &'static str = "message";

    fn __table() -> &'static SignalTable {
        static TABLE: SignalTable = SignalTable::new::<KeptMessage>();
        &TABLE
    }
}

/// The durable receiver of kept messages: takes the message in the transaction that acknowledges its delivery.
pub fn take_kept<'a>(
    message: &'a Arc<KeptMessage>,
    mut cx: Context<'a, '_>,
) -> BoxFuture<'a, Result<(), BoxError>> {
    Box::pin(async move {
        let conn = cx.conn().ok_or("it runs without a transaction")?;
        match decode(&message.subject, message.body.as_bytes())? {
            Ok(decoded) => Ok(decoded.send(conn).await?),
            Err(refused) => Err(Retry::never(refused.error).into()),
        }
    })
}

/// A message to be kept, and why.
pub(super) struct Keep<'k> {
    pub(super) subject: &'k str,
    pub(super) body: &'k [u8],
    pub(super) error: String,
    /// Whether the delivery is dead, or due after a second.
    pub(super) is_dead: bool,
}

impl Inbox {
    /// Stores a message in the inbox, and a delivery that takes it later.
    pub(super) async fn keep(&self, message: &Identity, keep: Keep<'_>) -> Result<Receipt> {
        let mut tx = self.db.begin().await?;
        if !is_new(&mut tx, message).await.map_err(explained)? {
            tx.rollback().await?;
            return Ok(Receipt::Repeated);
        }
        insert(&mut tx, message, &keep).await.map_err(explained)?;
        tx.commit().await?;
        let Keep { subject, error, is_dead, .. } = keep;
        let Identity { source, event, .. } = message;
        if is_dead {
            tracing::error!(subject, source, event, error, "a message is dead");
            return Ok(Receipt::Dead);
        }
        tracing::warn!(subject, source, event, error, "a message is taken later");
        Ok(Receipt::Failed)
    }
}

/// Stores the delivery of a kept message.
async fn insert(conn: &mut Conn<'_>, message: &Identity, keep: &Keep<'_>) -> Result<()> {
    let kind = conn.kind();
    let body = String::from_utf8_lossy(keep.body).into_owned();
    let kept = KeptMessage { subject: keep.subject.to_owned(), body };
    let content = EventContent::Signal(&kept, None);
    let encoded =
        encode_signal::<KeptMessage>(&ToEncode { content, previous: None, split_at: usize::MAX });
    let encoded = encoded.map_err(Error::other)?;
    let context = serde_json::to_string(&message.cause).map_err(Error::other)?;
    let due = later(kind, "1000");
    let dead = if keep.is_dead { now(kind) } else { "NULL" };
    let values = match kind {
        DatabaseKind::Sqlite => "$1, $2, $3, '', $4, $5, $6",
        DatabaseKind::Postgres => "$1::text::uuid, $2, $3, '', $4::text::json, $5::text::json, $6",
    };
    let text = format!(
        "INSERT INTO signals_delivery (event, receiver, signal, sender, payload, context, error, run_at, dead_at) \
         VALUES ({values}, {due}, {dead})"
    );
    let receiver = format!("subscribe {}", keep.subject);
    let payload = encoded.first().map_or("", |encoded| &*encoded.payload);
    let sql = Sql::new(kind, &text).bind(message.id.to_string()).bind(receiver);
    let sql = sql.bind(KeptMessage::SIGNAL).bind(payload.to_owned()).bind(context);
    sql.bind(cut(keep.error.clone())).execute(conn).await.map(drop)
}
