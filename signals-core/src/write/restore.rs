//! Restores the rows in memory if their write fails.

use crate::signal::rows::SignalRows;
use crate::write::WriteKind;

/// Restores the keys, versions and automatic columns of the rows if the write fails or its future
/// is dropped.
pub(crate) struct RestoreGuard<'m> {
    pub(crate) rows: &'m mut dyn SignalRows,
    disarmed: bool,
    /// How many snapshots of the rows were taken.
    snapshots: usize,
}

impl<'m> RestoreGuard<'m> {
    pub(crate) fn new(rows: &'m mut dyn SignalRows) -> Self {
        rows.keep();
        Self { rows, disarmed: false, snapshots: 1 }
    }

    /// A guard for rows that only the statement changes. If the key is the only column that it can
    /// change, no snapshot is needed: the key is set only after the statement has succeeded, except
    /// by an upsert, which may have to find the key of the stored row first.
    pub(crate) fn for_statement(rows: &'m mut dyn SignalRows, kind: &WriteKind) -> Self {
        match rows.schema().is_only_key() && !matches!(kind, WriteKind::Upsert(_)) {
            true => Self { rows, disarmed: true, snapshots: 0 },
            false => Self::new(rows),
        }
    }

    /// Takes the snapshot that [`for_statement`](Self::for_statement) may have skipped.
    pub(crate) fn ensure_snapshot(&mut self) {
        if std::mem::take(&mut self.disarmed) {
            self.snapshot();
        }
    }

    /// Takes a snapshot at the beginning of the work in the transaction, because receivers may have
    /// changed the rows since the previous one.
    pub(crate) fn snapshot(&mut self) {
        self.rows.keep();
        self.snapshots += 1;
    }

    /// Disarms the guard: the write has succeeded, and the rows keep their values.
    pub(crate) fn disarm(&mut self) {
        self.disarmed = true;
    }

    pub(crate) fn restore(&mut self) {
        (0..self.snapshots).for_each(|_| self.rows.restore());
    }

    /// Restores the rows to the state in which the work in the transaction began, so that it can
    /// run again.
    pub(crate) fn restore_for_retry(&mut self) {
        self.rows.restore();
        self.rows.keep();
        // The write order and the previous rows are not part of the snapshot.
        self.rows.set_order(Vec::new());
        self.rows.previous_rows().clear();
    }
}

impl Drop for RestoreGuard<'_> {
    fn drop(&mut self) {
        if !self.disarmed {
            self.restore();
        }
    }
}
