//! A row before a write, without the type of its model.

use std::sync::Arc;

use crate::table::any::AnyModel;

/// A row before a write, and what the write has changed.
#[derive(Default)]
#[allow(unreachable_pub)]
pub struct PreviousRow {
    /// None where it was not there.
    row: Option<Box<dyn AnyModel>>,
    /// Whether each of the columns has changed; all of them where this is empty.
    changed: Vec<bool>,
    columns: &'static [&'static str],
}

/// As it is shared by the receivers of one row.
pub(crate) type SharedPreviousRow = Option<Arc<PreviousRow>>;

impl PreviousRow {
    pub(crate) fn set_row(&mut self, row: Box<dyn AnyModel>) {
        self.columns = row.columns();
        self.row = Some(row);
    }

    pub(crate) fn set_changed(&mut self, changed: Vec<bool>) {
        self.changed = changed;
    }

    pub(crate) fn row(&self) -> Option<&dyn AnyModel> {
        self.row.as_deref()
    }

    pub(crate) fn changed(&self, column: &str) -> bool {
        let place = self.columns.iter().position(|name| *name == column);
        place.and_then(|place| self.changed.get(place)).copied().unwrap_or(true)
    }
}
