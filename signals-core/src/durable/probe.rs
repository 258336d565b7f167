//! Which receivers have due deliveries.

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claim::{Kind, SUSPECTS, is_kind, now, since};
use crate::durable::sql::Sql;
use crate::error::Result;

/// What a receiver has to claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) receiver: String,
    /// A delivery without an ordering key is due.
    pub(super) unordered: bool,
    /// Deliveries with an ordering key are stored. Whether one of them is due is known only from the oldest of each key.
    pub(super) ordered: bool,
    /// A due delivery has killed its workers.
    pub(super) suspect: Option<Kind>,
}

/// The receivers that may have due deliveries. `bound` is the lower bound of the claims of a receiver.
pub(super) async fn probe(
    conn: &mut Conn<'_>,
    receivers: &[&str],
    bound: impl Fn(&str) -> i64,
) -> Result<Vec<Due>> {
    let kind = conn.kind();
    let names = match kind {
        DatabaseKind::Sqlite => {
            "SELECT value ->> 0 AS name, value ->> 1 AS bound FROM json_each($1)"
        }
        DatabaseKind::Postgres => {
            "SELECT value ->> 0 AS name, (value ->> 1)::bigint AS bound FROM json_array_elements($1::text::json)"
        }
    };
    let exists = |condition: String| {
        format!(
            "CASE WHEN EXISTS (SELECT 1 FROM signals_delivery d WHERE d.receiver = r.name AND d.{condition}) THEN 1 ELSE 0 END"
        )
    };
    let due = format!("dead_at IS NULL AND d.run_at <= {}", now(kind));
    let since = since(kind, "r.bound");
    let unordered = exists(format!("ordering_key IS NULL AND {since} AND d.{due}"));
    let ordered = exists("ordering_key IS NOT NULL".to_owned());
    let suspect = format!(
        "CASE WHEN EXISTS (SELECT 1 FROM (SELECT lost, worker, ordering_key FROM signals_delivery d WHERE d.receiver = r.name \
         AND d.ordering_key IS NULL AND {since} AND d.{due} ORDER BY d.run_at, d.id LIMIT {SUSPECTS}) AS next WHERE {}) THEN 1 ELSE 0 END",
        is_kind(Kind::Suspect)
    );
    let with_key = exists(format!("{due} AND {}", is_kind(Kind::OrderedSuspect)));
    let text =
        format!("SELECT r.name, {unordered}, {ordered}, {suspect}, {with_key} FROM ({names}) AS r");
    let names = receivers.iter().map(|name| serde_json::json!([name, bound(name)]));
    let names = serde_json::Value::from_iter(names).to_string();
    let rows: Vec<(String, i32, i32, i32, i32)> =
        Sql::new(kind, &text).bind(names).fetch(conn).await?;
    let mut all: Vec<_> = rows
        .into_iter()
        .map(|(receiver, unordered, ordered, suspect, with_key)| Due {
            receiver,
            unordered: unordered == 1,
            ordered: ordered == 1,
            suspect: match (suspect, with_key) {
                (1, _) => Some(Kind::Suspect),
                (_, 1) => Some(Kind::OrderedSuspect),
                _ => None,
            },
        })
        .filter(|due| due.unordered || due.ordered)
        .collect();
    all.sort_unstable();
    Ok(all)
}
