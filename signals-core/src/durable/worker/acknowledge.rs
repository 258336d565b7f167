//! Acknowledges the deliveries whose receivers have succeeded without a transaction, many at a time.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Shared, Stage};
use crate::database::writer::Verb;
use crate::durable::end_claim;
use crate::durable::kept::Done;
use crate::error::Result;

/// With this many deliveries, an acknowledgement does not wait for others.
const BATCH: usize = 100;
/// How many deliveries are acknowledged in one statement.
const LIMIT: usize = 512;
/// How long an acknowledgement waits for others.
const WAIT: Duration = Duration::from_millis(5);
/// How long the worker waits after the database has refused an acknowledgement.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(shared: Weak<Shared>, mut succeeded: UnboundedReceiver<Done>) {
    let mut batch = Vec::with_capacity(LIMIT);
    while succeeded.recv_many(&mut batch, BATCH).await > 0 {
        let end = Instant::now() + WAIT;
        while batch.len() < BATCH {
            let left = BATCH - batch.len();
            match timeout_at(end, succeeded.recv_many(&mut batch, left)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        // Until the leases have ended: then the deliveries are due again, and are run again.
        while let Err(error) = shared.acknowledge(&mut batch, &mut succeeded).await {
            tracing::warn!(%error, deliveries = batch.len(), "deliveries could not be acknowledged");
            let now = std::time::Instant::now();
            let running = shared.claims(|entry| entry.deadline > now);
            // What is not forgotten is renewed, and would never be due again.
            let ended = batch.extract_if(.., |done| !running.contains(&done.claimed()));
            ended.for_each(|done| shared.forget(done.id));
            if batch.is_empty() {
                break;
            }
            sleep(PAUSE).await;
        }
        batch.clear();
    }
}

impl Shared {
    /// Acknowledges a batch, and what has succeeded while the batch has waited for the connection, which a claim may use.
    async fn acknowledge(
        &self,
        batch: &mut Vec<Done>,
        succeeded: &mut UnboundedReceiver<Done>,
    ) -> Result<()> {
        let mut conn = self.connections.to_write(Verb::Acknowledge).await?;
        while batch.len() < LIMIT
            && let Ok(done) = succeeded.try_recv()
        {
            batch.push(done);
        }
        let done = batch.as_slice();
        let acknowledge = async move {
            let ended = end_claim::acknowledge(&mut conn, done).await?;
            conn.done().await.map(|()| ended)
        };
        let ended = self.connections.limited(acknowledge).await?;
        for Done { id, .. } in batch {
            let receiver = self.running().get(id).map_or("", |entry| entry.receiver);
            if !ended.contains(id) {
                tracing::warn!(
                    id,
                    receiver,
                    "a delivery had passed to another worker before it was acknowledged: its effect may have happened twice"
                );
            }
            self.forget(*id);
        }
        Ok(())
    }

    /// Hands a delivery over to be acknowledged.
    pub(super) fn succeeded(&self, done: Done) {
        self.set_stage(done.id, Stage::Succeeded);
        // The receiving task ends after this one.
        let _ = self.acknowledge.send(done);
    }
}
