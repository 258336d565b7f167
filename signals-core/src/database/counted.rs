//! Counts the calls that are doing something, and the connections of a pool.

use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{Database, Pool};

/// Counts a call until this is dropped.
pub(super) struct Counted<'o> {
    calls: &'o AtomicUsize,
    /// The number of such calls, including this one.
    pub(super) count: usize,
}

impl<'o> Counted<'o> {
    pub(super) fn new(calls: &'o AtomicUsize) -> Self {
        Self { calls, count: calls.fetch_add(1, Ordering::AcqRel) + 1 }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The connections of an sqlx pool.
#[derive(Debug, PartialEq)]
pub(super) struct PoolSize {
    /// Those that are open or being opened.
    pub(super) open: usize,
    /// The open ones that nobody uses.
    pub(super) idle: usize,
}

impl PoolSize {
    pub(super) fn of<DB: Database>(pool: &Pool<DB>) -> Self {
        let max = pool.options().get_max_connections() as usize;
        Self::from_counters(pool.size() as usize, pool.num_idle(), max)
    }

    /// sqlx counts a returned connection as idle after another call may have taken it, and one that is closed after it has set
    /// both counters of a closed pool to 0. So both counters can be below 0 for a moment, which as an unsigned number is more
    /// than `max`.
    fn from_counters(open: usize, idle: usize, max: usize) -> Self {
        let count = |counter| if counter > max { 0 } else { counter };
        Self { open: count(open), idle: count(idle).min(count(open)) }
    }

    pub(super) fn in_use(&self) -> usize {
        self.open - self.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_below_zero_counts_as_zero() {
        let below_zero = 0_usize.wrapping_sub(1);
        let size = |open, idle| PoolSize::from_counters(open, idle, 2);
        assert_eq!(size(2, below_zero), PoolSize { open: 2, idle: 0 });
        assert_eq!(size(2, below_zero).in_use(), 2);
        assert_eq!(size(u32::MAX as usize, 1), PoolSize { open: 0, idle: 0 });
        assert_eq!(size(1, 2).in_use(), 0, "the counters are not read at the same instant");
    }
}
