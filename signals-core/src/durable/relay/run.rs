//! The loop of a relay.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Shared;
use super::batch::Position;
use crate::durable::receivers::DurableReceivers;
use crate::durable::wake;
use crate::error::Result;
use crate::signal::registry::registry;

/// The longest pause after an error of the database or of the broker.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The subjects of a relay.
#[derive(Default)]
struct Subjects {
    /// The publications of the program, and the generation of the registry in which they were looked up.
    receivers: Option<(u64, Arc<DurableReceivers>)>,
    by_name: HashMap<&'static str, Subject>,
    /// When claims of lost relays were last ended.
    released: Option<Instant>,
}

/// The state of one subject.
#[derive(Default)]
struct Subject {
    position: Position,
    /// How many batches in succession were refused as a whole.
    refused: u32,
    /// Until when nothing of this subject is published, because the broker has refused it.
    paused: Option<Instant>,
}

pub(super) async fn run(shared: Arc<Shared>) {
    let mut commits = wake::subscribe();
    let mut subjects = Subjects::default();
    let mut failures = 0_u32;
    while !shared.stopping.is_cancelled() {
        commits.mark_unchanged();
        let pause = match subjects.round(&shared).await {
            Ok(true) => {
                failures = 0;
                continue;
            }
            Ok(false) => {
                failures = 0;
                subjects.pause(shared.poll)
            }
            Err(error) => {
                tracing::warn!(%error, "a relay could not look for stored events");
                failures += 1;
                pause_after(failures)
            }
        };
        tokio::select! {
            () = shared.stopping.cancelled() => {}
            () = sleep(pause) => {}
            () = shared.noticed.notified(), if failures == 0 => {}
            _ = commits.changed(), if failures == 0 => {}
        }
    }
}

/// How long to wait after this many failures.
fn pause_after(failures: u32) -> Duration {
    let pause = Duration::from_millis(100 << failures.min(9)).min(LONGEST_PAUSE);
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

impl Subjects {
    fn receivers(&mut self) -> Arc<DurableReceivers> {
        let generation = registry().generation();
        match &self.receivers {
            Some((known, receivers)) if *known == generation => Arc::clone(receivers),
            _ => {
                let receivers = Arc::new(DurableReceivers::published());
                self.receivers = Some((generation, Arc::clone(&receivers)));
                receivers
            }
        }
    }

    /// Publishes one batch of each subject. Returns whether more may be due.
    async fn round(&mut self, shared: &Shared) -> Result<bool> {
        let receivers = self.receivers();
        let interval = shared.lease / 3;
        if self.released.is_none_or(|released| released.elapsed() >= interval) {
            shared.release_ended(receivers.names()).await?;
            self.released = Some(Instant::now());
        }
        let mut may_have_more = false;
        for name in receivers.names() {
            if shared.stopping.is_cancelled() {
                return Ok(false);
            }
            let subject = self.by_name.entry(name).or_default();
            if subject.paused.is_some_and(|until| until > Instant::now()) {
                continue;
            }
            subject.paused = None;
            let done = shared.batch(&receivers, name, &mut subject.position).await?;
            if done.claimed > 0 && done.published == 0 {
                subject.refused += 1;
                subject.paused = Some(Instant::now() + pause_after(subject.refused));
                continue;
            }
            if done.published > 0 {
                subject.refused = 0;
            }
            may_have_more |= done.claimed > 0;
        }
        Ok(may_have_more)
    }

    /// How long the relay may wait for the next round.
    fn pause(&self, poll: Duration) -> Duration {
        let paused = self.by_name.values().filter_map(|subject| subject.paused);
        let first = paused.map(|until| until.saturating_duration_since(Instant::now())).min();
        first.map_or(poll, |first| first.min(poll))
    }
}
