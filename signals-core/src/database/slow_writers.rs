//! The writes that do not share a COMMIT, because their last transaction took long.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::database::writer::{Writer, WriterId};

/// A transaction that takes less than this is not slow, even if a COMMIT takes less.
const NOT_SLOW: Duration = Duration::from_millis(2);

/// How long a slow write stays out of groups, at least. It then joins one again, because alone it may not be measured.
const STAYS_SLOW: Duration = Duration::from_secs(1);

/// How many times as long as it took a slow write stays out of groups, at least. So other writes seldom wait for it.
const STAYS_SLOW_TIMES: u32 = 10;

/// A write that took long.
#[derive(Debug)]
struct Slow {
    time: Duration,
    noted_at: Instant,
}

/// The writes whose last transaction in a group took long.
#[derive(Debug, Default)]
pub(super) struct SlowWriters {
    by_id: HashMap<WriterId, Slow>,
}

impl SlowWriters {
    /// Whether the write took longer than a COMMIT takes.
    pub(super) fn contain(&self, writer: Writer, commit_time: Duration) -> bool {
        self.by_id.get(&writer.id()).is_some_and(|slow| {
            let stays_slow = STAYS_SLOW.max(slow.time.saturating_mul(STAYS_SLOW_TIMES));
            slow.time > commit_time && slow.noted_at.elapsed() < stays_slow
        })
    }

    /// Records how long the transaction of a write took. `is_complete`: whether all its receivers have run.
    pub(super) fn note(&mut self, writer: Writer, time: Duration, is_complete: bool) {
        if time > NOT_SLOW {
            self.by_id.insert(writer.id(), Slow { time, noted_at: Instant::now() });
        } else if is_complete && !self.by_id.is_empty() {
            self.by_id.remove(&writer.id());
        }
    }
}
