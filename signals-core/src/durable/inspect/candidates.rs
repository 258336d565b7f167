//! Finds the deliveries of a list that are not dead by the indexes of `signals_delivery`, which do not have them in the order of the list. Without
//! the indexes, the database would read the rows in that order, perhaps a million waiting ones before the first row of a receiver with few
//! deliveries.

use super::bounded::{INDEXED, stored_receivers};
use super::{DeliveryState, Status};
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claim::now;
use crate::durable::sql::Sql;
use crate::error::{Error, Result};

/// How many deliveries of one index are candidates. With more of them, the rows are found soon in the order of the ids.
const BOUND: usize = 10_000;
/// The same for deliveries whose rows are read.
const FEW: usize = Status::BOUND as usize;

/// The deliveries of one receiver that one index contains.
struct Part {
    condition: String,
    /// The order of the index.
    order: &'static str,
    limit: usize,
    /// Whether the part may have more deliveries than the limit.
    is_bounded: bool,
}

/// The ids of all stored deliveries in this state of these receivers, and of others. Without a state, of all that are not dead. `None` if there may
/// be more than the indexes find quickly.
pub(super) async fn read(
    conn: &mut Conn<'_>,
    names: Option<Vec<String>>,
    state: Option<DeliveryState>,
) -> Result<Option<Vec<i64>>> {
    let kind = conn.kind();
    let is_running = state == Some(DeliveryState::Running);
    let names = match names {
        // An index has them in the order of the ids.
        _ if is_running && kind == DatabaseKind::Sqlite => return Ok(None),
        Some(names) => names,
        None if is_running => stored_receivers(conn).await?,
        None => return Ok(None),
    };
    let parts: Vec<_> =
        parts(state, kind).iter().map(|part| (part.text(kind), part.limit)).collect();
    let mut ids = Vec::new();
    for name in &names {
        for (text, limit) in &parts {
            let sql = Sql::new(kind, text).bind(name.as_str());
            let Some((found,)) = sql.fetch::<(String,)>(conn).await?.pop() else { continue };
            let found: Vec<i64> = serde_json::from_str(&found).map_err(Error::other)?;
            if found.len() > *limit {
                return Ok(None);
            }
            ids.extend(found);
        }
    }
    Ok(Some(ids))
}

/// The indexes that together contain all deliveries of a receiver in this state.
fn parts(state: Option<DeliveryState>, kind: DatabaseKind) -> Vec<Part> {
    let now = now(kind);
    let part = |condition: &str, order, limit| Part {
        condition: format!("receiver = $1 AND {condition}"),
        order,
        limit,
        is_bounded: false,
    };
    let [unordered, ordered, _] = INDEXED;
    let of_unordered = |condition: &str| format!("{unordered} AND {condition}");
    match state {
        Some(DeliveryState::Running) => vec![
            part("worker IS NOT NULL AND ordering_key IS NOT NULL", "ordering_key", BOUND),
            part(&of_unordered(&format!("run_at > {now}")), "run_at, id", BOUND),
            // Deliveries whose lease has ended are due again. Only the ones that are claimed soon are found.
            Part {
                is_bounded: true,
                ..part(&of_unordered(&format!("run_at <= {now}")), "run_at, id", FEW)
            },
        ],
        Some(DeliveryState::Retrying) => {
            vec![part("dead_at IS NULL AND error IS NOT NULL", "run_at, id", BOUND)]
        }
        // The others are not in these indexes.
        Some(DeliveryState::Dead | DeliveryState::Done) => Vec::new(),
        Some(DeliveryState::Waiting) | None => {
            vec![part(unordered, "run_at, id", BOUND), part(ordered, "ordering_key, id", BOUND)]
        }
    }
}

impl Part {
    /// The statement that reads the ids of the receiver `$1`, as JSON, because that is one row instead of thousands. The limit is a literal,
    /// because as an argument it would lead to a plan for any number of rows.
    fn text(&self, kind: DatabaseKind) -> String {
        let Self { condition, order, limit, is_bounded } = self;
        let of_receiver = |columns: &str, limit: usize| {
            format!(
                "SELECT {columns} FROM signals_delivery WHERE {condition} ORDER BY {order} LIMIT {limit}"
            )
        };
        let (found, condition) = match is_bounded {
            true => (of_receiver("id, worker", *limit), "WHERE worker IS NOT NULL"),
            false => (of_receiver("id", limit + 1), ""),
        };
        let ids = match kind {
            DatabaseKind::Sqlite => "json_group_array(id)",
            DatabaseKind::Postgres => "coalesce(json_agg(id)::text, '[]')",
        };
        format!("SELECT {ids} FROM ({found}) AS found {condition}")
    }
}
