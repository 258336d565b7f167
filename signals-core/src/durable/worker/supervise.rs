//! Finds due deliveries, claims no more of them than can start at once, and starts them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{RunningEntry, Shared, Stage, handle};
use crate::durable::claim::{self, Claim, Claimed, Kind};
use crate::durable::receivers::DurableReceivers;
use crate::durable::wake;
use crate::error::Result;
use crate::signal::registry::registry;

/// The longest pause after an error of the database.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a round has done.
struct Round {
    claimed: usize,
    /// Whether due deliveries may be left.
    more: bool,
}

pub(super) async fn run(shared: Arc<Shared>) {
    let mut commits = wake::subscribe();
    let mut finder = Finder { receivers: None, turn: 0 };
    let mut failures = 0_u32;
    while !shared.stopping.is_cancelled() {
        commits.mark_unchanged();
        let round = finder.round(&shared).await;
        let pause = match &round {
            Ok(round) if round.claimed > 0 && shared.permits.available_permits() > 0 => continue,
            Ok(_) => {
                failures = 0;
                shared.options.poll
            }
            Err(error) => {
                tracing::warn!(%error, "a worker could not look for due deliveries");
                failures = (failures + 1).min(8);
                let pause = Duration::from_millis(100 << failures).min(LONGEST_PAUSE);
                pause.mul_f64(0.5 + fastrand::f64())
            }
        };
        // A delivery that has ended makes room for another one only if one was left.
        let waits_for_room = round.is_ok_and(|round| round.more);
        tokio::select! {
            () = shared.stopping.cancelled() => {}
            () = sleep(pause) => {}
            () = shared.ended.notified(), if waits_for_room => {}
            _ = commits.changed(), if failures == 0 => {}
        }
    }
}

struct Finder {
    /// The receivers, and the generation of the registry in which they were looked up.
    receivers: Option<(u64, Arc<DurableReceivers>)>,
    /// The receiver that is claimed first in the next round.
    turn: usize,
}

impl Finder {
    fn receivers(&mut self, shared: &Shared) -> Arc<DurableReceivers> {
        let generation = registry().generation();
        match &self.receivers {
            Some((known, receivers)) if *known == generation => Arc::clone(receivers),
            _ => {
                let queues = shared.options.queues.as_deref();
                let receivers = Arc::new(DurableReceivers::of(queues));
                self.receivers = Some((generation, Arc::clone(&receivers)));
                receivers
            }
        }
    }

    /// Claims due deliveries of each receiver in turn, and starts them.
    async fn round(&mut self, shared: &Arc<Shared>) -> Result<Round> {
        let receivers = self.receivers(shared);
        if receivers.names().is_empty() || !shared.is_reachable() {
            return Ok(Round { claimed: 0, more: false });
        }
        if shared.permits.available_permits() == 0 {
            return Ok(Round { claimed: 0, more: true });
        }
        let mut conn = shared.connections.control.acquire().await?;
        let mut due = claim::probe(&mut conn, receivers.names()).await?;
        drop(conn);
        if due.is_empty() {
            return Ok(Round { claimed: 0, more: false });
        }
        due.sort_unstable();
        if let Some((suspect, _)) = due.iter().find(|(_, is_suspect)| *is_suspect) {
            return self.run_alone(shared, &receivers, suspect).await;
        }
        self.turn = self.turn.wrapping_add(1);
        let start = self.turn % due.len();
        due.rotate_left(start);
        let mut claimed = 0;
        let count = due.len();
        for (n, (name, _)) in due.iter().enumerate() {
            let free = shared.permits.available_permits();
            let share = free.div_ceil(count - n);
            let limit = share.min(room(shared, &receivers, name));
            if limit > 0 {
                claimed += claim_and_start(shared, &receivers, name, Kind::Usual, limit).await?;
            }
        }
        Ok(Round { claimed, more: true })
    }

    /// Runs a delivery that may have killed its workers, with no other delivery beside it, and waits for its end.
    async fn run_alone(
        &self,
        shared: &Arc<Shared>,
        receivers: &DurableReceivers,
        name: &str,
    ) -> Result<Round> {
        if !shared.running().is_empty() {
            return Ok(Round { claimed: 0, more: true });
        }
        let claimed = claim_and_start(shared, receivers, name, Kind::Suspect, 1).await?;
        while !shared.running().is_empty() && !shared.stopping.is_cancelled() {
            tokio::select! {
                () = shared.ended.notified() => {}
                () = shared.stopping.cancelled() => {}
                () = sleep(Duration::from_millis(20)) => {}
            }
        }
        Ok(Round { claimed, more: true })
    }
}

/// How many more deliveries of a receiver can run.
fn room(shared: &Shared, receivers: &DurableReceivers, name: &str) -> usize {
    let limit = receivers.options(name).map_or(0, |options| options.concurrency);
    match limit {
        0 => usize::MAX,
        limit => {
            let running = shared.running().values().filter(|entry| entry.receiver == name).count();
            (limit as usize).saturating_sub(running)
        }
    }
}

async fn claim_and_start(
    shared: &Arc<Shared>,
    receivers: &DurableReceivers,
    name: &str,
    kind: Kind,
    limit: usize,
) -> Result<usize> {
    let running = shared.running().keys().copied().collect();
    let (lease, worker) = (shared.options.lease, shared.name.as_str());
    let mut conn = shared.connections.to_write("claim").await?;
    let deadline = Instant::now() + lease;
    let wanted = Claim { receiver: name, kind, limit, lease, worker, running };
    let claimed = claim::claim(&mut conn, &wanted).await?;
    drop(conn);
    let count = claimed.len();
    claimed.into_iter().for_each(|delivery| start(shared, receivers, delivery, deadline));
    Ok(count)
}

/// Starts the receiver of a claimed delivery.
fn start(shared: &Arc<Shared>, receivers: &DurableReceivers, claimed: Claimed, deadline: Instant) {
    // No more deliveries are claimed than there are permits.
    let Ok(permit) = Arc::clone(&shared.permits).try_acquire_owned() else { return };
    let receiver = receivers.get(&claimed.receiver, &claimed.signal, &claimed.sender).cloned();
    let name = receivers.names().iter().find(|name| **name == claimed.receiver);
    let cancel = shared.cancelled.child_token();
    let entry = RunningEntry {
        receiver: name.copied().unwrap_or_default(),
        claim: claimed.claim,
        deadline,
        stage: Stage::Running,
        cancel: cancel.clone(),
    };
    shared.running().insert(claimed.id, entry);
    shared.tasks.spawn(handle::run(Arc::clone(shared), claimed, receiver, cancel, permit));
}
