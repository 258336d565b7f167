//! Claims due deliveries, and starts their receivers.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::{RunningEntry, Shared, Stage, handle};
use crate::durable::claim::{self, Claim, Kind};
use crate::durable::claimed::Claimed;
use crate::durable::receivers::DurableReceivers;
use crate::error::Result;

pub(super) fn wanted<'s>(
    shared: &'s Shared,
    receiver: &'s str,
    kind: Kind,
    limit: usize,
) -> Claim<'s> {
    let running = shared.running().keys().copied().collect();
    let (lease, worker) = (shared.options.lease, shared.name.as_str());
    let other_names = Vec::new();
    Claim { receiver, kind, limit, lease, worker, other_names, running, bound: 0 }
}

/// What a claim has started.
#[derive(Default)]
pub(super) struct Started {
    pub(super) count: usize,
    /// The last ordering key.
    pub(super) last_key: Option<String>,
    /// When the last delivery was due, on PostgreSQL.
    pub(super) last_due: Option<i64>,
}

/// Claims deliveries and starts their receivers. `after` is the ordering key at which the claim starts; without one, deliveries without a key
/// are claimed.
pub(super) async fn claim_and_start(
    shared: &Arc<Shared>,
    receivers: &DurableReceivers,
    wanted: &Claim<'_>,
    after: Option<&str>,
) -> Result<Started> {
    let connections = &shared.connections;
    let limit = connections.search_limit(shared.running().is_empty());
    let mut conn = connections.to_claim(limit).await?;
    let deadline = Instant::now() + wanted.lease;
    let claim = async move {
        let (claimed, last_key) = match after {
            None => (claim::claim(&mut conn, wanted).await?, None),
            Some(after) => {
                let skips =
                    receivers.options(wanted.receiver).is_some_and(|options| options.skips_dead);
                let claimed = claim::claim_ordered(&mut conn, wanted, after, skips).await?;
                let keys = claimed.iter().filter_map(|delivery| delivery.ordering_key.clone());
                let last_key = match claimed.is_empty() {
                    true => claim::last_key(&mut conn, wanted.receiver, after, skips).await?,
                    false => keys.max(),
                };
                (claimed, last_key)
            }
        };
        conn.done().await?;
        Ok((claimed, last_key))
    };
    let (claimed, last_key) = connections.search(limit, &shared.stopping, claim).await?;
    let count = claimed.len();
    let last_due = claimed.first().map(|delivery| delivery.last_due).filter(|due| *due > 0);
    claimed.into_iter().for_each(|delivery| start(shared, receivers, delivery, deadline));
    Ok(Started { count, last_key, last_due })
}

/// Starts the receiver of a claimed delivery.
fn start(shared: &Arc<Shared>, receivers: &DurableReceivers, claimed: Claimed, deadline: Instant) {
    let receiver = receivers.get(&claimed.receiver, &claimed.signal, &claimed.sender).cloned();
    let name = receivers.static_name(&claimed.receiver);
    let cancel = CancellationToken::new();
    let entry = RunningEntry {
        receiver: name.unwrap_or_default(),
        claim: claimed.claim,
        deadline,
        stage: Stage::Waiting,
        transaction: None,
        cancel: cancel.clone(),
    };
    shared.running().insert(claimed.id, entry);
    shared.tasks.spawn(handle::run(Arc::clone(shared), claimed, receiver, cancel));
}
