//! How many runs of each receiver have succeeded and failed in the last minute, in the workers of this process.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError, Weak};
use std::time::Instant;

use crate::database::db::Db;
use crate::task::pool_id::PoolId;

/// Counts of succeeded and of failed runs.
type Runs = [u64; 2];

/// The minute is counted in slots of five seconds. The current slot is not complete, so it is one more.
const SLOTS: u64 = 13;
const SECONDS_OF_SLOT: u64 = 5;

/// The last slots, in a ring.
#[derive(Default)]
struct Minute {
    slots: [Runs; SLOTS as usize],
    /// The number of the newest slot.
    newest: u64,
}

impl Minute {
    /// Clears the slots up to this one that are older than a minute.
    fn advance(&mut self, slot: u64) {
        for passed in (self.newest + 1..=slot).rev().take(SLOTS as usize) {
            self.slots[(passed % SLOTS) as usize] = [0; 2];
        }
        self.newest = self.newest.max(slot);
    }

    fn add(&mut self, slot: u64, is_ok: bool) {
        self.advance(slot);
        self.slots[(slot % SLOTS) as usize][usize::from(!is_ok)] += 1;
    }

    fn sum(&mut self, slot: u64) -> Runs {
        self.advance(slot);
        [0, 1].map(|n| self.slots.iter().map(|runs| runs[n]).sum())
    }
}

/// The receivers of one pool.
struct OfPool {
    /// Dead if the pool may have been dropped. Another pool can have the same id after that.
    pool: Weak<dyn Any + Send + Sync>,
    receivers: HashMap<String, Minute>,
}

impl OfPool {
    fn is_alive(&self) -> bool {
        self.pool.strong_count() > 0
    }
}

static MINUTES: LazyLock<Mutex<HashMap<PoolId, OfPool>>> = LazyLock::new(Mutex::default);

/// The slot of the current time.
fn slot() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_secs() / SECONDS_OF_SLOT
}

/// Counts the end of a run.
pub(super) fn count(db: &Db, receiver: &str, is_ok: bool) {
    let mut minutes = MINUTES.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = db.pool_id();
    if !minutes.get(&pool).is_some_and(OfPool::is_alive) {
        minutes.retain(|_, of_pool| of_pool.is_alive());
        minutes.insert(pool, OfPool { pool: db.downgrade_pool(), receivers: HashMap::new() });
    }
    let Some(OfPool { receivers, .. }) = minutes.get_mut(&pool) else { return };
    match receivers.get_mut(receiver) {
        Some(minute) => minute.add(slot(), is_ok),
        None => receivers.entry(receiver.to_owned()).or_default().add(slot(), is_ok),
    }
}

/// How many runs of the receiver have succeeded and failed in the last minute.
pub(super) fn last_minute(pool: PoolId, receiver: &str) -> Runs {
    let mut minutes = MINUTES.lock().unwrap_or_else(PoisonError::into_inner);
    let of_pool = minutes.get_mut(&pool).filter(|of_pool| of_pool.is_alive());
    let minute = of_pool.and_then(|of_pool| of_pool.receivers.get_mut(receiver));
    minute.map_or([0; 2], |minute| minute.sum(slot()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_counted_for_a_minute() {
        let mut minute = Minute::default();
        minute.add(3, true);
        minute.add(3, false);
        minute.add(10, true);
        assert_eq!(minute.sum(15), [2, 1]);
        assert_eq!(minute.sum(16), [1, 0]);
        assert_eq!(minute.sum(22), [1, 0]);
        assert_eq!(minute.sum(1000), [0, 0]);
        minute.add(1000, false);
        assert_eq!(minute.sum(1000), [0, 1]);
    }
}
