//! Reads the deliveries that a filter selects. Millions of others may be stored, so each kind of list is read by an index that leads to its
//! deliveries, or past most of the others.

use super::filter::{DeliveryFilter, DeliveryState, Selection};
use super::stored::{Columns, StoredDelivery, columns};
use super::{Table, candidates, passing};
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::sql::{Sql, list};
use crate::error::Result;

/// Reads deliveries for a filter.
pub(super) struct Reader<'f> {
    filter: &'f DeliveryFilter,
    kind: DatabaseKind,
    pub(super) limit: usize,
}

/// The deliveries that the filter selects, in its order.
pub(super) async fn read(
    conn: &mut Conn<'_>,
    filter: &DeliveryFilter,
) -> Result<Vec<StoredDelivery>> {
    let limit = filter.limit.unwrap_or(DeliveryFilter::LISTED);
    let reader = Reader { filter, kind: conn.kind(), limit };
    match (filter.state, filter.names()) {
        (
            Some(DeliveryState::Waiting | DeliveryState::Running | DeliveryState::Retrying),
            names,
        ) => reader.alive(conn, names).await,
        // The primary key, or an index of the ids of dead deliveries, has the order of the list.
        (_, None) => {
            let (table, selection) = filter.selection(reader.kind);
            reader.fetch(conn, reader.sql(table, "", &selection, limit)).await
        }
        (state, Some(names)) => {
            let alive = match state {
                None => reader.alive(conn, Some(names.clone())).await?,
                Some(_) => Vec::new(),
            };
            let mut listed = reader.by_index(conn, names).await?;
            listed.extend(alive);
            listed.sort_by_key(|delivery| filter.direction().rank(delivery.id));
            // One that has died in between is listed as dead.
            listed.dedup_by_key(|delivery| delivery.id);
            listed.truncate(limit);
            Ok(listed)
        }
    }
}

impl Reader<'_> {
    /// The deliveries that are neither dead nor kept, of these receivers.
    async fn alive(
        &self,
        conn: &mut Conn<'_>,
        names: Option<Vec<String>>,
    ) -> Result<Vec<StoredDelivery>> {
        let state = self.filter.state;
        let condition = state.map_or("dead_at IS NULL", DeliveryState::condition);
        let selection = self.filter.selection_of(self.kind, condition);
        match candidates::read(conn, names, state).await? {
            Some(ids) => {
                let argument = selection.next_argument();
                let among = match self.kind {
                    DatabaseKind::Sqlite => {
                        format!("id IN (SELECT value FROM json_each({argument})) AND")
                    }
                    DatabaseKind::Postgres => format!("id = ANY({argument}::text::bigint[]) AND"),
                };
                let sql = self.sql(Table::Stored, &among, &selection, self.limit);
                self.fetch(conn, sql.bind(list(self.kind, ids.into_iter()))).await
            }
            None if matches!(state, None | Some(DeliveryState::Waiting)) => {
                passing::read(conn, self, selection).await
            }
            // An index of their ids has the order of the list, or there are many of them, so that they are found soon.
            None => self.fetch(conn, self.sql(Table::Stored, "", &selection, self.limit)).await,
        }
    }

    /// The first dead or kept deliveries of each receiver, by an index that has them in the order of the list.
    async fn by_index(
        &self,
        conn: &mut Conn<'_>,
        names: Vec<String>,
    ) -> Result<Vec<StoredDelivery>> {
        let mut listed = Vec::new();
        for name in names {
            let (table, selection) = self.filter.selection_of_receiver(self.kind, name);
            listed.extend(self.fetch(conn, self.sql(table, "", &selection, self.limit)).await?);
        }
        Ok(listed)
    }

    /// The statement that reads the deliveries of the selection that also satisfy the condition, which is empty or ends with `AND`.
    pub(super) fn sql(
        &self,
        table: Table,
        condition: &str,
        selection: &Selection,
        limit: usize,
    ) -> Sql {
        let columns = columns(self.kind, !self.filter.has_no_payloads, table);
        let (name, conditions) = (table.name(), &selection.conditions);
        let text = format!("SELECT {columns} FROM {name} WHERE {condition} {conditions}");
        selection.bind(Sql::new(self.kind, &text), limit)
    }

    pub(super) async fn fetch(&self, conn: &mut Conn<'_>, sql: Sql) -> Result<Vec<StoredDelivery>> {
        let rows: Vec<Columns> = sql.fetch(conn).await?;
        Ok(rows.into_iter().map(|columns| columns.0).collect())
    }
}
