//! Finds due deliveries, and decides how many of them are claimed: as many as can start soon.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Shared;
use super::start::{claim_and_start, wanted};
use crate::database::backend::DatabaseKind;
use crate::database::writer::Verb;
use crate::durable::claim::{self, Kind};
use crate::durable::probe::{self, Due};
use crate::durable::receivers::DurableReceivers;
use crate::durable::wake;
use crate::error::Result;
use crate::signal::registry::registry;

/// The longest pause after an error of the database.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often one round claims deliveries with an ordering key of one receiver. Each claim looks at a limited number of keys.
const CLAIMS: usize = 10;

/// How often a round looks for all due deliveries, on PostgreSQL, unless that takes long. The others have a lower bound.
const COMPLETE: Duration = Duration::from_secs(1);

/// How long a round may rely on which receivers were found to have due deliveries, unless finding them takes long.
const PROBE: Duration = Duration::from_millis(20);

/// While a transaction is idle somewhere, PostgreSQL cannot remove the index entries of deliveries that have ended, and a round that probes
/// reads those of the last seconds again. So it takes at most one part in this many of the worker's time, if more is due.
const PART: u32 = 10;

/// How long before the last claimed delivery a round begins that probes, in microseconds: another transaction may commit later than it stores.
const LATE: i64 = 5_000_000;

/// What a round has done.
struct Round {
    claimed: usize,
    /// Whether due deliveries may be left.
    more: bool,
}

pub(super) async fn run(shared: Arc<Shared>) {
    let mut commits = wake::subscribe();
    let mut finder = Finder::default();
    let mut failures = 0_u32;
    while !shared.stopping.is_cancelled() {
        commits.mark_unchanged();
        let round = finder.round(&shared).await;
        let pause = match &round {
            Ok(round) if round.claimed > 0 && shared.room() > 0 => continue,
            Ok(_) => {
                failures = 0;
                finder.pause(shared.options.poll)
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
            () = shared.noticed.notified(), if failures == 0 => {}
            _ = commits.changed(), if failures == 0 => {}
        }
    }
}

#[derive(Default)]
struct Finder {
    /// The receivers, and the generation of the registry in which they were looked up.
    receivers: Option<(u64, Arc<DurableReceivers>)>,
    /// The receiver that is claimed first in the next round.
    turn: usize,
    /// The ordering key at which the last claim of each receiver has stopped. The next claim starts after it, so that no key is passed over.
    last_keys: HashMap<String, String>,
    /// When the last claimed delivery of each receiver was due.
    last_due: HashMap<&'static str, i64>,
    /// The last round without lower bounds.
    complete: Option<Past>,
    /// Whether the current round has no lower bounds.
    is_complete: bool,
    /// The receivers of which the last round has left due deliveries, and when they were probed. A round that knows them needs no probe.
    left: Vec<Due>,
    probed: Option<Past>,
}

/// A round of the past.
struct Past {
    begun: Instant,
    took: Duration,
}

impl Past {
    fn now() -> Self {
        Self { begun: Instant::now(), took: Duration::ZERO }
    }

    /// After which time such a round is repeated.
    fn interval(&self, shortest: Duration) -> Duration {
        shortest.max(self.took * PART)
    }
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

    /// How long the worker may wait for the next round.
    fn pause(&self, poll: Duration) -> Duration {
        match &self.complete {
            // What this round has passed over is found by the next complete one.
            Some(complete) if !self.is_complete => {
                poll.min(complete.interval(COMPLETE).saturating_sub(complete.begun.elapsed()))
            }
            _ => poll,
        }
    }

    /// The lower bound of a receiver in this round, this many microseconds before its last claimed delivery.
    fn bound(&self, receiver: &str, before: i64) -> i64 {
        let last_due = self.last_due.get(receiver).filter(|_| !self.is_complete);
        last_due.map_or(0, |last_due| last_due - before)
    }

    /// Notes how long a round has taken that probes.
    fn note_time(&mut self) {
        let complete = self.complete.as_mut().filter(|_| self.is_complete);
        for round in self.probed.as_mut().into_iter().chain(complete) {
            round.took = round.begun.elapsed();
        }
    }

    /// Claims due deliveries of each receiver in turn, and starts them.
    async fn round(&mut self, shared: &Arc<Shared>) -> Result<Round> {
        let receivers = self.receivers(shared);
        if receivers.names().is_empty() || !shared.is_reachable() {
            return Ok(Round { claimed: 0, more: false });
        }
        if shared.room() == 0 {
            return Ok(Round { claimed: 0, more: true });
        }
        let is_over = |complete: &Past| complete.begun.elapsed() >= complete.interval(COMPLETE);
        self.is_complete = self.last_due.is_empty() || self.complete.as_ref().is_none_or(is_over);
        if let Some(left) = self.left(&receivers) {
            let claimed = self.claim_each(shared, &receivers, left, 0).await?;
            if claimed > 0 {
                return Ok(Round { claimed, more: true });
            }
            // Other receivers may have due deliveries.
            self.left.clear();
        }
        if self.is_complete {
            self.complete = Some(Past::now());
        }
        self.probed = Some(Past::now());
        let due = self.probe(shared, receivers.names()).await;
        self.note_time();
        let due = due?;
        if due.is_empty() {
            return Ok(Round { claimed: 0, more: false });
        }
        for (due, kind) in due.iter().filter_map(|due| Some((due, due.suspect?))) {
            let bound = match kind {
                Kind::Suspect => self.bound(&due.receiver, LATE),
                _ => 0,
            };
            if shared.can_claim(&due.receiver, kind, bound).await {
                let round = self.run_alone(shared, &receivers, &due.receiver, kind, bound).await?;
                // If another worker has claimed it first, the others are claimed.
                if round.claimed > 0 || !shared.running().is_empty() {
                    return Ok(round);
                }
            }
        }
        let claimed = self.claim_each(shared, &receivers, due, LATE).await?;
        self.note_time();
        Ok(Round { claimed, more: true })
    }

    /// Finds the receivers with due deliveries.
    async fn probe(&self, shared: &Shared, names: &[&str]) -> Result<Vec<Due>> {
        let connections = &shared.connections;
        let limit = connections.search_limit(shared.running().is_empty());
        let mut conn = connections.to_probe(limit).await?;
        let begun = Instant::now();
        let bound = |name: &str| self.bound(name, LATE);
        let probe = async move {
            let due = probe::probe(&mut conn, names, bound).await?;
            conn.done().await.map(|()| due)
        };
        let due = connections.search(limit, &shared.stopping, probe).await?;
        if self.is_complete {
            connections.note_search(begun.elapsed());
        }
        Ok(due)
    }

    /// Claims deliveries of these receivers in turn, and returns how many were started. See `bound` for `before`.
    async fn claim_each(
        &mut self,
        shared: &Arc<Shared>,
        receivers: &DurableReceivers,
        mut due: Vec<Due>,
        before: i64,
    ) -> Result<usize> {
        self.turn = self.turn.wrapping_add(1);
        let start = self.turn % due.len();
        due.rotate_left(start);
        let (mut claimed, count) = (0, due.len());
        for (n, due) in due.into_iter().enumerate() {
            let bound = self.bound(&due.receiver, before);
            let (started, may_have_more) =
                self.claim_due(shared, receivers, &due, bound, count - n).await?;
            claimed += started;
            if may_have_more {
                self.left.push(due);
            }
        }
        Ok(claimed)
    }

    /// The receivers of which the last round has left due deliveries, if they may be claimed without a probe.
    fn left(&mut self, receivers: &DurableReceivers) -> Option<Vec<Due>> {
        let mut left = std::mem::take(&mut self.left);
        // One of them may have been disabled.
        left.retain(|due| receivers.static_name(&due.receiver).is_some());
        // Other receivers do not wait longer than that.
        let interval = |probed: &Past| probed.interval(PROBE).min(COMPLETE);
        let is_new = |probed: &Past| probed.begun.elapsed() < interval(probed);
        let is_known = self.probed.as_ref().is_some_and(is_new);
        let is_bounded = !self.is_complete || self.last_due.is_empty();
        (is_known && is_bounded && !left.is_empty()).then_some(left)
    }

    /// Claims deliveries of one receiver, if `left` receivers share what this worker can still run. Returns how many were started, and whether
    /// more may be due.
    async fn claim_due(
        &mut self,
        shared: &Arc<Shared>,
        receivers: &DurableReceivers,
        due: &Due,
        bound: i64,
        left: usize,
    ) -> Result<(usize, bool)> {
        let name = due.receiver.as_str();
        let limit = || {
            let share = shared.room().div_ceil(left);
            share.min(shared.room_of(receivers, name))
        };
        let (mut claimed, mut may_have_more) = (0, true);
        if due.unordered && limit() > 0 {
            let mut wanted = wanted(shared, name, Kind::Usual, limit());
            wanted.bound = bound;
            let started = claim_and_start(shared, receivers, &wanted, None).await?;
            if let (Some(last), Some(name)) = (started.last_due, receivers.static_name(name)) {
                self.last_due.insert(name, last);
            }
            claimed += started.count;
            may_have_more = started.count == claim::literal(wanted.limit);
        }
        if due.ordered {
            // From the key where the last claim has stopped to the last key, then once from the first one.
            let mut after = self.last_keys.remove(name);
            let mut is_first = after.is_none();
            for _ in 0..CLAIMS {
                if limit() == 0 {
                    break;
                }
                let mut wanted = wanted(shared, name, Kind::Usual, limit());
                wanted.other_names = receivers.other_names(name);
                let from = after.as_ref().map_or(String::new(), |key| format!("{key}\u{1}"));
                let started = claim_and_start(shared, receivers, &wanted, Some(&from)).await?;
                claimed += started.count;
                let is_last = started.last_key.is_none();
                after = started.last_key;
                if started.count > 0 || is_last && is_first {
                    break;
                }
                is_first |= is_last;
            }
            if let Some(key) = after {
                self.last_keys.insert(name.to_owned(), key);
            }
            // The keys that are left may be blocked.
            may_have_more = false;
        }
        Ok((claimed, may_have_more))
    }

    /// Runs a delivery that may have killed its workers, with no other delivery beside it, and waits for its end.
    async fn run_alone(
        &self,
        shared: &Arc<Shared>,
        receivers: &DurableReceivers,
        name: &str,
        kind: Kind,
        bound: i64,
    ) -> Result<Round> {
        if !shared.running().is_empty() {
            return Ok(Round { claimed: 0, more: true });
        }
        let mut wanted = wanted(shared, name, kind, 1);
        wanted.bound = bound;
        let claimed = claim_and_start(shared, receivers, &wanted, None).await?.count;
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

impl Shared {
    /// Whether a due suspect can be claimed. This is known only on PostgreSQL: on SQLite, no transaction is open beside a claim. After an error,
    /// the other deliveries are claimed.
    async fn can_claim(&self, receiver: &str, kind: Kind, bound: i64) -> bool {
        if self.db.kind() == DatabaseKind::Sqlite {
            return true;
        }
        let can_claim = async {
            let mut conn = self.connections.to_write(Verb::Claim).await?;
            let can_claim = async move {
                let can_claim = claim::can_claim(&mut conn, receiver, kind, bound).await?;
                conn.done().await.map(|()| can_claim)
            };
            self.connections.limited(can_claim).await
        };
        can_claim.await.unwrap_or_else(|error| {
            tracing::warn!(receiver, %error, "a worker could not look for a delivery that may have killed its workers");
            false
        })
    }
}
