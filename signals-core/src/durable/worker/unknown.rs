//! Warns of deliveries whose receiver this program does not have.

use std::sync::Weak;

use tokio::time::sleep;

use super::Shared;
use crate::durable::ReceiverStatus;
use crate::durable::warnings::WarningIntervals;
use crate::error::Result;

/// Of how many receivers it warns at a time.
const RECEIVERS: usize = 20;

pub(super) async fn run(shared: Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = shared.warn_of_unknown().await {
            tracing::debug!(%error, "deliveries of unknown receivers could not be counted");
        }
        let interval = WarningIntervals::of(&shared.db).unknown;
        drop(shared);
        sleep(interval).await;
    }
}

impl Shared {
    /// The receivers of the other queues are known, and so are disabled ones.
    async fn warn_of_unknown(&self) -> Result<()> {
        // A limited count on a connection of the program, because the table may be long.
        let status = self.db.deliveries().bounded_status().await?;
        let left = |status: &&ReceiverStatus| status.waiting + status.running + status.retrying > 0;
        for status in status.unknown().filter(left).take(RECEIVERS) {
            let deliveries = status.waiting + status.running + status.retrying;
            tracing::warn!(
                receiver = status.receiver,
                deliveries,
                at_least = status.at_least,
                "deliveries wait for a receiver that this program does not have: it was renamed or removed, or belongs to another program"
            );
        }
        Ok(())
    }
}
