//! Renews the leases of running deliveries, stops those whose lease has ended, and ends the claims of lost workers.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::{RunningEntry, Shared, Stage};
use crate::database::writer::Verb;
use crate::durable::receivers::DurableReceivers;
use crate::durable::{claim, end_claim};
use crate::error::Result;

pub(super) async fn run(shared: Weak<Shared>) {
    loop {
        let Some(interval) = shared.upgrade().map(|shared| shared.options.lease / 3) else {
            return;
        };
        sleep(interval).await;
        let Some(shared) = shared.upgrade() else { return };
        let renewed = tokio::time::timeout(interval, shared.renew()).await;
        match renewed {
            Ok(Ok(())) => shared.set_reachable(true),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the leases of deliveries could not be renewed");
                shared.set_reachable(false);
            }
            Err(_) => {
                tracing::warn!("the leases of deliveries could not be renewed in time");
                shared.set_reachable(false);
            }
        }
    }
}

/// Stops receivers when their leases end.
pub(super) async fn stop_ended(shared: Weak<Shared>) {
    loop {
        let Some((next, grace)) = shared.upgrade().map(|shared| shared.next_end()) else { return };
        sleep_until(next.into()).await;
        let Some(is_reachable) = shared.upgrade().map(|shared| shared.is_reachable()) else {
            return;
        };
        // No renewal has failed, so the process was stopped, and the next renewal may still succeed.
        if is_reachable {
            sleep(grace).await;
        }
        let Some(shared) = shared.upgrade() else { return };
        shared.stop_ended();
    }
}

/// Ends the claims of lost workers.
pub(super) async fn release_ended(shared: Weak<Shared>) {
    loop {
        let Some(interval) = shared.upgrade().map(|shared| shared.options.lease / 3) else {
            return;
        };
        sleep(interval).await;
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = shared.release_ended().await {
            tracing::warn!(%error, "claims whose lease has ended could not be released");
        }
    }
}

impl Shared {
    async fn renew(&self) -> Result<()> {
        // Another worker cannot claim a delivery that is deleted in an open transaction.
        let claims = self.claims(|entry| entry.stage != Stage::InTransaction);
        if claims.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + self.options.lease;
        let mut conn = self.connections.to_write(Verb::Renew).await?;
        let renewed = claim::renew(&mut conn, &claims, self.options.lease).await?;
        conn.done().await?;
        let mut running = self.running();
        for id in renewed {
            if let Some(entry) = running.get_mut(&id) {
                entry.deadline = deadline;
            }
        }
        Ok(())
    }

    /// Ends the claims of lost workers, if any delivery may have an ordering key.
    async fn release_ended(&self) -> Result<()> {
        let receivers = DurableReceivers::of(self.options.queues.as_deref());
        if receivers.entries().all(|entry| entry.form.ordering.is_none()) {
            return Ok(());
        }
        let mut conn = self.connections.to_write(Verb::Release).await?;
        let release = async move {
            end_claim::release_ended(&mut conn).await?;
            conn.done().await
        };
        self.connections.limited(release).await
    }

    /// When the next lease of a running receiver may end, and how long a renewal may take that is late.
    fn next_end(&self) -> (Instant, Duration) {
        let lease = self.options.lease;
        let running = self.running();
        let stoppable = running.values().filter(|entry| entry.is_stoppable());
        let first = stoppable.map(|entry| entry.deadline).min();
        let latest = Instant::now() + lease / 3;
        (first.map_or(latest, |first| first.min(latest)), lease / 10)
    }

    /// Stops the receivers whose lease has ended: another worker may run them now.
    fn stop_ended(&self) {
        let now = Instant::now();
        for (id, entry) in &*self.running() {
            if entry.is_stoppable() && entry.deadline <= now {
                tracing::warn!(
                    id,
                    receiver = entry.receiver,
                    "the lease of a delivery has ended: its receiver is stopped"
                );
                entry.cancel.cancel();
            }
        }
    }
}

impl RunningEntry {
    /// Whether its receiver is stopped when its lease ends. One that has already been stopped ends by itself.
    fn is_stoppable(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Running) && !self.cancel.is_cancelled()
    }
}
