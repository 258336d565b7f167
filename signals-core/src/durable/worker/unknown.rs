//! Warns of deliveries whose receiver this program does not have.

use std::sync::Weak;

use tokio::time::sleep;

use super::Shared;
use crate::durable::receivers;
use crate::durable::sql::{Sql, texts};
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
        let known = receivers::known();
        let known = serde_json::Value::from_iter(known.keys().copied()).to_string();
        let mut conn = self.connections.control.acquire().await?;
        let kind = conn.kind();
        let text = format!(
            "SELECT receiver, count(*) FROM signals_delivery WHERE dead_at IS NULL AND receiver NOT IN ({}) \
             GROUP BY receiver ORDER BY receiver LIMIT {RECEIVERS}",
            texts(kind, "$1")
        );
        let unknown: Vec<(String, i64)> =
            Sql::new(kind, &text).bind(known).fetch(&mut conn).await?;
        for (receiver, deliveries) in unknown {
            tracing::warn!(
                receiver,
                deliveries,
                "deliveries wait for a receiver that this program does not have: it was renamed or removed, or belongs to another program"
            );
        }
        Ok(())
    }
}
