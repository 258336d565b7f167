//! Mail to customers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx_signals::durable::Uuid;
use sqlx_signals::prelude::*;

use crate::models::Order;

/// A mail that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The address.
    pub to: String,
    /// The subject.
    pub subject: String,
}

/// A simulated mail server: it is slow, records the mails that it sends, and sends only one mail for each key.
#[derive(Debug, Clone, Default)]
pub struct Mailer(Arc<Mutex<Vec<(Uuid, Mail)>>>);

impl Mailer {
    async fn send(&self, key: Uuid, mail: Mail) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tracing::info!(to = mail.to, subject = mail.subject, "mail sent");
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.iter().all(|(known, _)| *known != key) {
            sent.push((key, mail));
        }
    }

    /// The sent mails, oldest first.
    pub fn sent(&self) -> Vec<Mail> {
        let sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.iter().map(|(_, mail)| mail.clone()).collect()
    }
}

/// Confirms a new order. The customer's request does not wait for the mail server, and the mail is sent even if the shop is restarted
/// meanwhile.
#[receiver(post_save, sender = Order, created, durable(queue = "mail", payload = key))]
pub async fn confirm(
    saved: PostSave<'_, Order>,
    delivery: Delivery<'_>,
    State(mailer): State<Mailer>,
    db: Db,
) -> Result<()> {
    let order = saved.instance;
    let user = Order::OF_USER.parent(&db, order).await?;
    let product = Order::OF_PRODUCT.parent(&db, order).await?;
    let subject = format!("Your order of {} × {}", order.quantity, product.name);
    mailer.send(delivery.idempotency_key(), Mail { to: user.email, subject }).await;
    Ok(())
}
