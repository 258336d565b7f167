//! A row before a write, without the type of its model.

use std::sync::Arc;

use crate::table::any::AnyModel;

/// A row before a write, and which columns the write has changed.
#[derive(Default)]
#[allow(unreachable_pub)]
pub struct PreviousRow {
    /// `None` if the row did not exist.
    row: Option<Arc<dyn AnyModel>>,
    /// Whether each column has changed. If it is empty, all columns have changed.
    changed: Vec<bool>,
    columns: &'static [&'static str],
}

/// The previous row, shared by the receivers of one row.
pub(crate) type SharedPreviousRow = Option<Arc<PreviousRow>>;

impl PreviousRow {
    pub(crate) fn set_row(&mut self, row: Arc<dyn AnyModel>) {
        self.columns = row.columns();
        self.row = Some(row);
    }

    pub(crate) fn set_changed(&mut self, changed: Vec<bool>) {
        self.changed = changed;
    }

    /// The same row with other changes.
    pub(crate) fn with_changed(&self, changed: Vec<bool>) -> Self {
        Self { row: self.row.clone(), changed, columns: self.columns }
    }

    /// Whether each column has changed. Empty if all have.
    pub(crate) fn all_changed(&self) -> &[bool] {
        &self.changed
    }

    pub(crate) fn row(&self) -> Option<&dyn AnyModel> {
        self.row.as_deref()
    }

    pub(crate) fn changed(&self, column: &str) -> bool {
        let index = self.columns.iter().position(|name| *name == column);
        index.and_then(|index| self.changed.get(index)).copied().unwrap_or(true)
    }
}
