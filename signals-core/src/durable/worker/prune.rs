//! Deletes old deliveries: kept ones whose time has ended, and dead ones if the worker is configured to.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use crate::database::writer::Verb;
use crate::durable::kept::{self, Prune};
use crate::durable::wake;
use crate::error::Result;

const INTERVAL: Duration = Duration::from_secs(10 * 60);

pub(super) async fn run(shared: Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        for what in std::iter::once(Prune::Kept).chain(shared.prune_dead.map(Prune::Dead)) {
            if let Err(error) = shared.prune(what).await {
                tracing::warn!(%error, "old deliveries could not be deleted");
            }
        }
        drop(shared);
        // At random times, so that workers that were started together do not do this together.
        sleep(INTERVAL.mul_f64(0.5 + fastrand::f64())).await;
    }
}

impl Shared {
    async fn prune(&self, what: Prune) -> Result<()> {
        loop {
            let mut conn = self.connections.to_write(Verb::Prune).await?;
            let prune = async move {
                let pruned = kept::prune(&mut conn, what).await?;
                conn.done().await.map(|()| pruned)
            };
            let (pruned, has_more) = self.connections.limited(prune).await?;
            if let (Prune::Dead(_), 1..) = (what, pruned) {
                tracing::warn!(
                    deliveries = pruned,
                    "dead deliveries were deleted because of their age"
                );
                // They may have blocked their ordering keys.
                wake::wake(Some(&self.db));
            }
            if !has_more {
                return Ok(());
            }
            // Between two batches, others can write.
            sleep(Duration::from_millis(10)).await;
        }
    }
}
