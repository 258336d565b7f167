//! Counts the calls that are doing something.

use std::sync::atomic::{AtomicUsize, Ordering};

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
