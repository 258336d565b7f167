//! Live updates of the pages that are open in browsers.

use sqlx_signals::prelude::*;
use tokio::sync::broadcast;

use crate::models::Order;

/// A message to the open pages.
#[derive(Debug, Clone)]
pub enum Update {
    /// An order is new or has changed.
    Order(Order),
    /// The server stops, so the connection ends.
    Stop,
}

/// The open pages.
#[derive(Debug, Clone)]
pub struct Live(broadcast::Sender<Update>);

impl Default for Live {
    fn default() -> Self {
        Self(broadcast::Sender::new(64))
    }
}

impl Live {
    /// Receives the updates from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Update> {
        self.0.subscribe()
    }

    /// Ends the connections of all open pages.
    pub fn stop(&self) {
        let _ = self.0.send(Update::Stop);
    }
}

/// Shows a new or changed order in every open page, once it is stored.
#[receiver(post_save, sender = Order, on_commit)]
pub fn publish(saved: PostSave<'_, Order>, State(live): State<Live>) {
    // `send` fails only if no page is open.
    let _ = live.0.send(Update::Order(saved.instance.clone()));
}
