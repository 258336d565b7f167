//! Reads the deliveries that a filter selects. Millions of others may be stored, so each kind of list is read by an index that leads to its
//! deliveries, or past most of the others, and a page ends if it has passed too many.

use super::filter::{DeliveryFilter, DeliveryState};
use super::reader::{DeliveryPage, Reader};
use super::stored::StoredDelivery;
use super::{candidates, scan};
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::sql::list;
use crate::error::Result;

/// All deliveries that the filter selects, in its order.
pub(super) async fn read(
    conn: &mut Conn<'_>,
    mut filter: DeliveryFilter,
) -> Result<Vec<StoredDelivery>> {
    let limit = filter.limit.unwrap_or(DeliveryFilter::LISTED);
    let mut listed = Vec::new();
    loop {
        let page = page(conn, &filter.clone().limit(limit - listed.len())).await?;
        listed.extend(page.deliveries);
        match page.next {
            Some(id) if listed.len() < limit => filter = filter.after_id(id),
            _ => return Ok(listed),
        }
    }
}

/// The first deliveries that the filter selects.
pub(super) async fn page(conn: &mut Conn<'_>, filter: &DeliveryFilter) -> Result<DeliveryPage> {
    let limit = filter.limit.unwrap_or(DeliveryFilter::LISTED);
    if limit == 0 {
        return Ok(DeliveryPage::default());
    }
    // One more, which tells whether more follow.
    let reader = Reader { filter, kind: conn.kind(), limit: limit.saturating_add(1) };
    let mut page = reader.page(conn).await?;
    if page.deliveries.len() > limit {
        page.deliveries.truncate(limit);
        page.next = page.deliveries.last().map(|last| last.id);
    }
    Ok(page)
}

impl Reader<'_> {
    async fn page(&self, conn: &mut Conn<'_>) -> Result<DeliveryPage> {
        let state = self.filter.state;
        match (state, self.filter.names()) {
            (
                Some(DeliveryState::Waiting | DeliveryState::Running | DeliveryState::Retrying),
                names,
            ) => self.live(conn, names).await,
            // The primary key, or an index of the ids of dead deliveries, has the order of the list.
            (_, None) => scan::page(conn, self, self.filter.selection(self.kind)).await,
            (_, Some(names)) => {
                let mut pages = Vec::new();
                if state.is_none() {
                    pages.push(self.live(conn, Some(names.clone())).await?);
                }
                for name in names {
                    let selection = self.filter.selection_of_receiver(self.kind, name);
                    pages.push(scan::page(conn, self, selection).await?);
                }
                Ok(self.merged(pages))
            }
        }
    }

    /// The deliveries that are neither dead nor kept, of these receivers.
    async fn live(&self, conn: &mut Conn<'_>, names: Option<Vec<String>>) -> Result<DeliveryPage> {
        let selection = self.filter.selection_of_live(self.kind);
        let Some(ids) = candidates::read(conn, names, self.filter.state).await? else {
            return scan::page(conn, self, selection).await;
        };
        let argument = selection.next_argument();
        let among = match self.kind {
            DatabaseKind::Sqlite => format!("id IN (SELECT value FROM json_each({argument})) AND"),
            DatabaseKind::Postgres => format!("id = ANY({argument}::text::bigint[]) AND"),
        };
        let sql = self.sql(&among, &selection, self.limit);
        let deliveries = self.fetch(conn, sql.bind(list(self.kind, ids.into_iter()))).await?;
        Ok(DeliveryPage { deliveries, next: None })
    }

    /// The deliveries of all pages, up to the end of the one that ends first.
    fn merged(&self, pages: Vec<DeliveryPage>) -> DeliveryPage {
        let rank = |id: i64| self.filter.direction().rank(id);
        let next = pages.iter().filter_map(|page| page.next).min_by_key(|id| rank(*id));
        let mut deliveries: Vec<_> = pages.into_iter().flat_map(|page| page.deliveries).collect();
        deliveries.retain(|delivery| next.is_none_or(|next| rank(delivery.id) <= rank(next)));
        deliveries.sort_by_key(|delivery| rank(delivery.id));
        // One that has died in between is read as dead too.
        deliveries.dedup_by_key(|delivery| delivery.id);
        DeliveryPage { deliveries, next }
    }
}
