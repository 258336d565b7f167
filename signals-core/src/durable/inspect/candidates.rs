//! Finds the deliveries of a list that are not dead by indexes that do not have the order of the list. Without them, the database would read the rows
//! in that order, perhaps a million waiting ones before the first row of a receiver with few deliveries.

use super::bounded::{INDEXED, stored_receivers};
use super::{DeliveryState, Status};
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claim::now;
use crate::durable::sql::Sql;
use crate::error::{Error, Result};

/// How many deliveries of one index are candidates. If a receiver has more of them, most lists find enough of them soon in the order of the ids.
const BOUND: usize = 10_000;
/// The same for an index whose entries do not tell the state, so that the rows are read too.
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

/// The ids of the deliveries of these receivers in this state, or of all that are not dead if there is no state, and perhaps of some others.
/// `None` if there are more than the indexes find quickly.
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
    let texts: Vec<_> = parts(state, kind).iter().map(|part| part.text(kind)).collect();
    let mut ids = Vec::new();
    for name in &names {
        for text in &texts {
            let sql = Sql::new(kind, text).bind(name.as_str());
            let Some((Some(found),)) = sql.fetch::<(Option<String>,)>(conn).await?.pop() else {
                return Ok(None);
            };
            ids.extend(serde_json::from_str::<Vec<i64>>(&found).map_err(Error::other)?);
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
        // They are not looked up, because an index has them in the order of the list.
        Some(DeliveryState::Dead | DeliveryState::Done) => Vec::new(),
        Some(DeliveryState::Waiting) | None => {
            vec![part(unordered, "run_at, id", BOUND), part(ordered, "ordering_key, id", BOUND)]
        }
    }
}

impl Part {
    /// The statement that reads the ids of the receiver `$1`, as JSON, because that is one row instead of thousands, or NULL if there are more
    /// than the limit. The limit is a literal, because as an argument it would lead to a plan for any number of rows.
    fn text(&self, kind: DatabaseKind) -> String {
        let Self { condition, order, limit, is_bounded } = self;
        let deliveries = format!("FROM signals_delivery WHERE {condition} ORDER BY {order}");
        let ids = match kind {
            DatabaseKind::Sqlite => "json_group_array(id)",
            DatabaseKind::Postgres => "coalesce(json_agg(id)::text, '[]')",
        };
        match is_bounded {
            true => format!(
                "SELECT {ids} FROM (SELECT id, worker {deliveries} LIMIT {limit}) AS found WHERE worker IS NOT NULL"
            ),
            false => format!(
                "SELECT CASE WHEN EXISTS (SELECT 1 {deliveries} LIMIT 1 OFFSET {limit}) THEN NULL \
                 ELSE (SELECT {ids} FROM (SELECT id {deliveries} LIMIT {limit}) AS found) END"
            ),
        }
    }
}
