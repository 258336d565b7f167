//! The same counts as the status, of a limited number of deliveries.

use super::DeliveryState::{Retrying, Running, Waiting};
use super::status::{Counts, Status, status};
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claim::now;
use crate::durable::receivers;
use crate::durable::sql::Sql;
use crate::error::Result;
use crate::task::pool_id::PoolId;

const BOUND: u64 = Status::BOUND;

/// The counts without the receiver, and then whether there are more deliveries.
type CountsOfOne = (i64, i64, i64, i64, i64, i64, Option<i64>, i32);

/// What the indexes of `signals_delivery` contain, so that the receivers are found without reading the table.
pub(super) const INDEXED: [&str; 3] =
    ["dead_at IS NULL AND ordering_key IS NULL", "ordering_key IS NOT NULL", "dead_at IS NOT NULL"];

/// The dead deliveries of the receiver `$1`, in the order of their ids. With `receiver = $1`, PostgreSQL may read the index of all dead deliveries
/// instead of the index that starts with the receiver, because both have this order.
const DEAD: [&str; 2] =
    ["receiver >= $1 AND receiver <= $1 AND dead_at IS NOT NULL", "receiver, id"];

pub(super) async fn read(conn: &mut Conn<'_>, pool: PoolId) -> Result<Status> {
    let kind = conn.kind();
    let known = receivers::known().into_keys().map(str::to_owned);
    let mut names: Vec<String> = stored_receivers(conn).await?.into_iter().chain(known).collect();
    names.sort_unstable();
    names.dedup();
    let text = counts(kind);
    let mut rows = Vec::new();
    for name in names {
        let sql = Sql::new(kind, &text).bind(name.as_str());
        let Some(counts) = sql.fetch::<CountsOfOne>(conn).await?.pop() else { continue };
        let (waiting, running, retrying, dead, failing_keys, dead_keys, lag, more) = counts;
        let counts: Counts = (name, waiting, running, retrying, dead, failing_keys, dead_keys, lag);
        rows.push((counts, more == 1));
    }
    Ok(status(rows.into_iter(), pool))
}

/// The receivers of the stored deliveries: for each index, the first receiver, then the first one after it, and so on.
pub(super) async fn stored_receivers(conn: &mut Conn<'_>) -> Result<Vec<String>> {
    let of_index = |(n, condition): (usize, &str)| {
        format!(
            "names{n} (name) AS (SELECT min(receiver) FROM signals_delivery WHERE {condition} UNION ALL \
             SELECT (SELECT min(receiver) FROM signals_delivery WHERE {condition} AND receiver > name) FROM names{n} \
             WHERE name IS NOT NULL)"
        )
    };
    let with: Vec<_> = INDEXED.into_iter().enumerate().map(of_index).collect();
    let all = "SELECT name FROM names0 UNION SELECT name FROM names1 UNION SELECT name FROM names2";
    let text = format!(
        "WITH RECURSIVE {} SELECT name FROM ({all}) AS names WHERE name IS NOT NULL",
        with.join(", ")
    );
    let names: Vec<(String,)> = Sql::new(conn.kind(), &text).fetch(conn).await?;
    Ok(names.into_iter().map(|(name,)| name).collect())
}

/// The counts of the receiver `$1`. Each part reads one index, and not more than the limit and one more delivery. The limit is a literal,
/// because as an argument it would lead to a plan for any number of rows.
fn counts(kind: DatabaseKind) -> String {
    let now = now(kind);
    let columns = "ordering_key, worker, error, dead_at, run_at";
    let part_of = |columns: &str, condition: &str, order: &str| {
        format!(
            "SELECT * FROM (SELECT {columns} FROM signals_delivery WHERE {condition} ORDER BY {order} LIMIT {}) AS part",
            BOUND + 1
        )
    };
    let part = |condition: &str, order: &str| {
        part_of(columns, &format!("receiver = $1 AND {condition}"), order)
    };
    let unordered = INDEXED[0];
    // Of a long backlog, the deliveries that run or have failed come after those that are due.
    let due = part(&format!("{unordered} AND run_at <= {now}"), "run_at, id");
    let later = part(&format!("{unordered} AND run_at > {now}"), "run_at, id");
    let ordered = part(INDEXED[1], "ordering_key, id");
    let claimed = part("worker IS NOT NULL AND ordering_key IS NOT NULL", "ordering_key");
    let failing = part("dead_at IS NULL AND error IS NOT NULL", "run_at, id");
    // Only the ids, which the index contains: the rows of dead deliveries may be anywhere in the table.
    let dead = part_of("id", DEAD[0], DEAD[1]);
    let count = |what: &str, table: &str, condition: &str| {
        format!("(SELECT count({what}) FROM {table} WHERE {condition})")
    };
    let waiting = count("*", "live", Waiting.condition());
    let running = {
        let unordered = format!("ordering_key IS NULL AND {}", Running.condition());
        format!("{} + {}", count("*", "live", &unordered), count("*", "claimed", "dead_at IS NULL"))
    };
    let retrying = count("*", "failing", Retrying.condition());
    let is_dead = "(SELECT count(*) FROM dead)";
    let failing_keys = count("DISTINCT ordering_key", "failing", Retrying.condition());
    let dead_keys = format!(
        "CASE WHEN EXISTS (SELECT 1 FROM ordered) THEN (SELECT count(DISTINCT ordering_key) FROM (SELECT ordering_key FROM failing WHERE {} \
         UNION ALL SELECT ordering_key FROM signals_delivery WHERE id IN (SELECT id FROM dead)) AS blocking) ELSE 0 END",
        Retrying.condition()
    );
    let oldest =
        format!("(SELECT min(run_at) FROM live WHERE dead_at IS NULL AND run_at <= {now})");
    let lag = match kind {
        DatabaseKind::Sqlite => format!("{now} - {oldest}"),
        DatabaseKind::Postgres => format!("(extract(epoch FROM {now} - {oldest}) * 1000)::bigint"),
    };
    let is_full = |table: &str| format!("(SELECT count(*) FROM {table}) > {BOUND}");
    let full = ["due", "later", "ordered", "claimed", "failing", "dead"].map(is_full).join(" OR ");
    format!(
        "WITH due AS ({due}), later AS ({later}), ordered AS ({ordered}), claimed AS ({claimed}), failing AS ({failing}), dead AS ({dead}), \
         live AS (SELECT {columns} FROM due UNION ALL SELECT {columns} FROM later UNION ALL SELECT {columns} FROM ordered) \
         SELECT {waiting}, {running}, {retrying}, {is_dead}, {failing_keys}, {dead_keys}, {lag}, CASE WHEN {full} THEN 1 ELSE 0 END"
    )
}
