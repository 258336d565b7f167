//! The statement that reads the deliveries of a selection.

use super::filter::DeliveryFilter;
use super::selection::Selection;
use super::stored::{Columns, StoredDelivery, columns};
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::sql::Sql;
use crate::error::Result;

/// A part of a list of deliveries, from [`Deliveries::page`](super::Deliveries::page).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DeliveryPage {
    /// The deliveries in the order of the filter. There may be fewer than its limit, or none, although more of them follow.
    pub deliveries: Vec<StoredDelivery>,
    /// The next page has the deliveries [after this id](DeliveryFilter::after_id). `None` if no more follow, or if the limit of the filter is 0.
    pub next: Option<i64>,
}

/// Reads deliveries for a filter.
pub(super) struct Reader<'f> {
    pub(super) filter: &'f DeliveryFilter,
    pub(super) kind: DatabaseKind,
    pub(super) limit: usize,
}

impl Reader<'_> {
    /// The statement that reads the deliveries of the selection that also satisfy the condition, which is empty or ends with `AND`.
    pub(super) fn sql(&self, condition: &str, selection: &Selection, limit: usize) -> Sql {
        let columns = columns(self.kind, !self.filter.has_no_payloads, selection.table);
        let text = selection.rows(self.kind, &columns, condition);
        selection.bind(Sql::new(self.kind, &text), limit)
    }

    pub(super) async fn fetch(&self, conn: &mut Conn<'_>, sql: Sql) -> Result<Vec<StoredDelivery>> {
        let rows: Vec<Columns> = sql.fetch(conn).await?;
        Ok(rows.into_iter().map(|columns| columns.0).collect())
    }
}
