//! Mail to customers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

/// A simulated mail server: it is slow, and records the mails that it sends.
#[derive(Debug, Clone, Default)]
pub struct Mailer(Arc<Mutex<Vec<Mail>>>);

impl Mailer {
    async fn send(&self, mail: Mail) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tracing::info!(to = mail.to, subject = mail.subject, "mail sent");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
    }

    /// The sent mails, oldest first.
    pub fn sent(&self) -> Vec<Mail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Confirms a new order. The customer's request does not wait for the mail server.
#[receiver(post_save, sender = Order, created, on_commit(detached))]
pub async fn confirm(
    saved: PostSave<'_, Order>,
    State(mailer): State<Mailer>,
    db: Db,
) -> Result<()> {
    let order = saved.instance;
    let user = Order::OF_USER.parent(&db, order).await?;
    let product = Order::OF_PRODUCT.parent(&db, order).await?;
    let subject = format!("Your order of {} × {}", order.quantity, product.name);
    mailer.send(Mail { to: user.email, subject }).await;
    Ok(())
}
