//! Reads the deliveries of a selection in the order of an index that may contain many others. A page ends if it has passed too many of them.
//! Dead ones are passed by an index that contains only them, so that most of their rows need not be read.

use super::reader::{DeliveryPage, Reader};
use super::selection::{Direction, Selection};
use super::stored::StoredDelivery;
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::sql::Sql;
use crate::error::Result;

/// About how many rows of other deliveries a page reads. Passed blocks of dead deliveries count too.
const ROWS: usize = 20_000;
/// How many rows the first step reads. Each further one reads four times as many as the one before it.
const FIRST: usize = 500;
/// How many dead deliveries are in a block.
const BLOCK: i64 = 500;
/// A block counts as this number of rows, because passing it takes as long as reading them.
const ROWS_OF_BLOCK: usize = 90;
/// A block with gaps between its ids counts as this number of blocks.
const GAPS: i64 = 3;

/// The next deliveries of a selection.
pub(super) async fn page(
    conn: &mut Conn<'_>,
    reader: &Reader<'_>,
    mut selection: Selection,
) -> Result<DeliveryPage> {
    let limit = reader.limit;
    if selection.is_index() {
        return Ok(ended(reader.fetch(conn, reader.sql("", &selection, limit)).await?, limit));
    }
    let mut deliveries = Vec::new();
    let mut rows = ROWS.saturating_add(limit);
    let mut size = FIRST;
    loop {
        size = size.min(rows);
        let end = end(conn, &selection, size).await?;
        let left = limit - deliveries.len();
        let sql = match end {
            None => reader.sql("", &selection, left),
            Some(end) => {
                let until = selection.direction.until;
                let condition = format!("id {until} {} AND", selection.next_argument());
                reader.sql(&condition, &selection, left).bind(end)
            }
        };
        deliveries.extend(reader.fetch(conn, sql).await?);
        let Some(end) = end.filter(|_| deliveries.len() < limit) else {
            return Ok(ended(deliveries, limit));
        };
        selection.after_id = end;
        rows -= size;
        if selection.passes_dead && rows >= FIRST {
            let (passed, blocks) = pass_dead(conn, &selection, rows / ROWS_OF_BLOCK).await?;
            selection.after_id = passed;
            rows = rows.saturating_sub(blocks * ROWS_OF_BLOCK);
        }
        if rows < FIRST {
            return Ok(DeliveryPage { deliveries, next: Some(selection.after_id) });
        }
        size = size.saturating_mul(4);
    }
}

/// A page after which no more deliveries follow, unless it has as many as were to be read.
fn ended(deliveries: Vec<StoredDelivery>, limit: usize) -> DeliveryPage {
    let next = deliveries.last().filter(|_| deliveries.len() >= limit).map(|last| last.id);
    DeliveryPage { deliveries, next }
}

/// The id of the entry of the index at which this number of them ends. `None` if there are fewer.
async fn end(conn: &mut Conn<'_>, selection: &Selection, size: usize) -> Result<Option<i64>> {
    let sql = Sql::new(conn.kind(), &selection.nth_entry(conn.kind()));
    let sql = selection.bind_index(sql, size - 1);
    let ends: Vec<(i64,)> = sql.fetch(conn).await?;
    Ok(ends.first().map(|(id,)| *id))
}

/// Passes blocks of dead deliveries that come next in the list, until they count as `limit` blocks. Returns the id after which the list continues, and as
/// how many blocks the passed ones count.
async fn pass_dead(
    conn: &mut Conn<'_>,
    selection: &Selection,
    limit: usize,
) -> Result<(i64, usize)> {
    let kind = conn.kind();
    let Direction { order, follows, until, step, .. } = selection.direction;
    let end = format!(
        "SELECT id FROM signals_delivery WHERE dead_at IS NOT NULL AND id {follows} last ORDER BY id {order} LIMIT 1 OFFSET {}",
        BLOCK - 1
    );
    // If a block of dead deliveries has no more ids than these, no others are among them.
    let has_no_more_ids = format!("(last - start) * {step} = {BLOCK}");
    let is_dead = match kind {
        // To count the ids of the others, SQLite would read the table itself.
        DatabaseKind::Sqlite => format!("(start IS NULL OR {has_no_more_ids})"),
        DatabaseKind::Postgres => format!(
            "CASE WHEN start IS NULL OR {has_no_more_ids} THEN true ELSE (SELECT count(*) FROM (SELECT 1 FROM signals_delivery \
             WHERE id {follows} start AND id {until} last ORDER BY id {order} LIMIT {}) AS deliveries) = {BLOCK} END",
            BLOCK + 1
        ),
    };
    let text = format!(
        "WITH RECURSIVE block (start, last, blocks) AS (SELECT CAST(NULL AS bigint), CAST($1 AS bigint), CAST(0 AS bigint) UNION ALL \
         SELECT last, ({end}), blocks + CASE WHEN start IS NULL THEN 0 WHEN {has_no_more_ids} THEN 1 ELSE {GAPS} END FROM block \
         WHERE last IS NOT NULL AND blocks < CAST($2 AS bigint) AND {is_dead}) \
         SELECT start, blocks FROM block WHERE start IS NOT NULL ORDER BY start * {step} DESC LIMIT 1"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = Sql::new(kind, &text).bind(selection.after_id).bind(limit);
    let passed: Vec<(i64, i64)> = sql.fetch(conn).await?;
    let (id, blocks) = passed.first().copied().unwrap_or((selection.after_id, 0));
    Ok((id, usize::try_from(blocks).unwrap_or(0)))
}
