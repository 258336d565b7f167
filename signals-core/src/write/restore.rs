//! Rows that get back what a failed write has changed in them.

use crate::signal::rows::SignalRows;

/// Rows that have their keys, versions and automatic columns back where the write of them fails or is dropped.
pub(crate) struct RestoreGuard<'m> {
    pub(crate) rows: &'m mut dyn SignalRows,
    done: bool,
    /// How often it was noted what a write can change in the rows.
    notes: usize,
}

impl<'m> RestoreGuard<'m> {
    pub(crate) fn of(rows: &'m mut dyn SignalRows) -> Self {
        rows.keep();
        Self { rows, done: false, notes: 1 }
    }

    /// Where nobody but the statement changes the row. A key alone is set when that is through.
    pub(crate) fn alone(rows: &'m mut dyn SignalRows) -> Self {
        match rows.schema().is_only_key() {
            true => Self { rows, done: true, notes: 0 },
            false => Self::of(rows),
        }
    }

    /// As [`of`](Self::of), also if this is of a row that only the statement changes.
    pub(crate) fn keep(&mut self) {
        if std::mem::take(&mut self.done) {
            self.begins_here();
        }
    }

    /// The rows are as the work in a transaction finds them: receivers may have changed them before.
    pub(crate) fn begins_here(&mut self) {
        self.rows.keep();
        self.notes += 1;
    }

    /// The write is done, and the rows stay as they are now.
    pub(crate) fn is_done(&mut self) {
        self.done = true;
    }

    pub(crate) fn restore(&mut self) {
        (0..self.notes).for_each(|_| self.rows.restore());
    }

    /// Brings the rows back to what the work in a transaction has found.
    pub(crate) fn begins_again(&mut self) {
        self.rows.restore();
        self.rows.keep();
        // What was read and decided on the way is not restored.
        self.rows.set_order(Vec::new());
        self.rows.previous_rows().clear();
    }
}

impl Drop for RestoreGuard<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.restore();
        }
    }
}
