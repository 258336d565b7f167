//! Reads the deliveries that are not dead, in the order of their ids. Many dead ones may come before them, and an index contains their ids, so that
//! most of their rows need not be read.

use super::Table;
use super::filter::{Direction, Selection};
use super::list::Reader;
use super::stored::StoredDelivery;
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::sql::Sql;
use crate::error::Result;

/// How many ids the first range has. Each further one is twice as large as the one before it.
const RANGE: i64 = 2000;
/// How many dead deliveries are passed in one step.
const BLOCK: i64 = 500;

/// The deliveries of a selection that contains no dead ones.
pub(super) async fn read(
    conn: &mut Conn<'_>,
    reader: &Reader<'_>,
    mut selection: Selection,
) -> Result<Vec<StoredDelivery>> {
    // Two subqueries, because SQLite reads the whole table for the least and the greatest in one.
    let ends =
        "SELECT (SELECT min(id) FROM signals_delivery), (SELECT max(id) FROM signals_delivery)";
    let ends: Vec<(Option<i64>, Option<i64>)> = Sql::new(conn.kind(), ends).fetch(conn).await?;
    let Some((Some(least), Some(most))) = ends.into_iter().next() else { return Ok(Vec::new()) };
    let Direction { step, until, .. } = selection.direction;
    let (first, last) = if step > 0 { (least, most) } else { (most, least) };
    let is_past = |id: i64, end: i64| id.saturating_sub(end).saturating_mul(step) >= 0;

    let mut range = RANGE;
    if !is_past(selection.after_id, first) {
        selection.after_id = first - step;
    }
    let mut listed = Vec::new();
    loop {
        let end = selection.after_id.saturating_add(range.saturating_mul(step));
        let condition = format!("id {until} {} AND", selection.next_argument());
        let sql = reader.sql(Table::Stored, &condition, &selection, reader.limit - listed.len());
        listed.extend(reader.fetch(conn, sql.bind(end)).await?);
        if listed.len() >= reader.limit || is_past(end, last) {
            return Ok(listed);
        }
        selection.after_id = pass_dead(conn, selection.direction, end).await?;
        range = range.saturating_mul(2);
    }
}

/// An id up to which all deliveries that follow this id in the list are dead.
async fn pass_dead(conn: &mut Conn<'_>, direction: Direction, after: i64) -> Result<i64> {
    let kind = conn.kind();
    let Direction { order, follows, until, step, .. } = direction;
    let end = format!(
        "SELECT id FROM signals_delivery WHERE dead_at IS NOT NULL AND id {follows} last ORDER BY id {order} LIMIT 1 OFFSET {}",
        BLOCK - 1
    );
    // If a block of dead deliveries has no more ids than these, no others are among them.
    let has_no_more_ids = format!("start IS NULL OR (last - start) * {step} = {BLOCK}");
    let is_dead = match kind {
        // To count the ids of the others, SQLite would read the table itself.
        DatabaseKind::Sqlite => format!("({has_no_more_ids})"),
        DatabaseKind::Postgres => format!(
            "CASE WHEN {has_no_more_ids} THEN true ELSE (SELECT count(*) FROM (SELECT 1 FROM signals_delivery \
             WHERE id {follows} start AND id {until} last ORDER BY id {order} LIMIT {}) AS deliveries) = {BLOCK} END",
            BLOCK + 1
        ),
    };
    let text = format!(
        "WITH RECURSIVE block (start, last) AS (SELECT CAST(NULL AS bigint), CAST($1 AS bigint) UNION ALL SELECT last, ({end}) FROM block \
         WHERE last IS NOT NULL AND {is_dead}) SELECT start FROM block WHERE start IS NOT NULL ORDER BY start * {step} DESC LIMIT 1"
    );
    let passed: Vec<(i64,)> = Sql::new(kind, &text).bind(after).fetch(conn).await?;
    Ok(passed.first().map_or(after, |(id,)| *id))
}
