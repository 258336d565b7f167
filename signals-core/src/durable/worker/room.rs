//! How many deliveries a worker claims, and how a claimed one waits for its turn.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Shared, Stage};
use crate::database::writer::Verb;
use crate::durable::claimed::Claimed;
use crate::durable::end_claim;
use crate::durable::receivers::DurableReceivers;
use crate::error::{Error, Result};

/// How many deliveries at most are claimed ahead of those that can run.
const AHEAD: usize = 64;
/// As many deliveries are claimed ahead as have ended in this time, so that each of them starts soon.
const SOON: Duration = Duration::from_millis(100);
/// How long a claimed delivery waits for its turn. Then other workers can claim it.
const PATIENCE: Duration = Duration::from_secs(1);

/// When the last deliveries have ended.
#[derive(Default)]
pub(super) struct Pace {
    ends: VecDeque<Instant>,
}

impl Pace {
    fn note(&mut self, now: Instant) {
        if self.ends.len() == AHEAD {
            self.ends.pop_front();
        }
        self.ends.push_back(now);
    }

    /// How many deliveries have ended a short time ago.
    fn recent(&self, now: Instant) -> usize {
        let recent = |end: &&Instant| now.saturating_duration_since(**end) < SOON;
        self.ends.iter().rev().take_while(recent).count()
    }
}

impl Shared {
    /// How many more deliveries the worker claims now: what can start at once, and what is claimed ahead. One statement for many is faster, so
    /// what is claimed ahead is refilled when half of it has started.
    pub(super) fn room(&self) -> usize {
        let held = self.held(|_| true);
        let concurrency = self.options.concurrency;
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = pace.recent(Instant::now());
        match held.saturating_sub(concurrency) {
            waiting if waiting > ahead / 2 => 0,
            _ => (concurrency + ahead).saturating_sub(held),
        }
    }

    /// How many more deliveries of a receiver can run.
    pub(super) fn room_of(&self, receivers: &DurableReceivers, name: &str) -> usize {
        match receivers.options(name).map_or(0, |options| options.concurrency) {
            0 => usize::MAX,
            limit => (limit as usize).saturating_sub(self.held(|receiver| receiver == name)),
        }
    }

    /// How many claimed deliveries of the selected receivers have not ended.
    fn held(&self, of: impl Fn(&str) -> bool) -> usize {
        let running = self.running();
        running
            .values()
            .filter(|entry| entry.stage != Stage::Succeeded && of(entry.receiver))
            .count()
    }

    /// Notes that a run has ended.
    pub(super) fn note_end(&self) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now());
        self.ended.notify_one();
    }

    /// Waits until a claimed delivery may run. Returns `None` if it does not run in this worker.
    pub(super) async fn turn(
        self: &Arc<Self>,
        claimed: &Claimed,
        cancel: &CancellationToken,
    ) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.permits).acquire_owned();
        tokio::select! {
            biased;
            // The end of the worker gives it back.
            () = self.stopping.cancelled() => return None,
            // Its lease has ended.
            () = cancel.cancelled() => {}
            turn = turn => return turn.ok(),
            () = sleep(PATIENCE) => {
                if let Err(error) = self.give_back(&[(claimed.id, claimed.claim)]).await {
                    tracing::warn!(id = claimed.id, %error, "a delivery could not be given back: it is due when its lease ends");
                }
            }
        }
        self.forget(claimed.id);
        None
    }

    /// Makes claimed deliveries due again that have not run to their end.
    ///
    /// # Errors
    ///
    /// Also if one of them is locked by a transaction that is still open.
    pub(super) async fn give_back(&self, claims: &[(i64, i64)]) -> Result<()> {
        let mut conn = self.connections.to_write(Verb::GiveBack).await?;
        let give_back = async move {
            let left = end_claim::give_back(&mut conn, claims).await?;
            conn.done().await.map(|()| left)
        };
        let left = self.connections.limited(give_back).await?;
        if left.is_empty() {
            return Ok(());
        }
        let text = format!(
            "deliveries could not be given back, because open transactions lock them: {left:?}"
        );
        Err(Error::other(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_claimed_ahead_as_have_ended_recently() {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        assert_eq!(pace.recent(begun), 0);
        for n in 0..10 {
            pace.note(begun + SOON * n / 5);
        }
        assert_eq!(pace.recent(begun + SOON * 9 / 5), 5);
        assert_eq!(pace.recent(begun + SOON * 9), 0);
        (0..1000).for_each(|_| pace.note(begun + SOON * 9));
        assert_eq!(pace.recent(begun + SOON * 9), AHEAD);
    }
}
