//! The statement that stores deliveries.

#[cfg(feature = "postgres")]
use std::sync::Arc;

use crate::database::backend::DatabaseKind;
use crate::durable::outbox::NewDelivery;
use crate::durable::sql::Sql;

/// Transactions that combine deliveries lock them in this order, so that they do not wait for each other in a circle. Deliveries with an ordering
/// key keep the order of their events.
pub(super) fn lock_order(new: &NewDelivery) -> Option<(&str, &str)> {
    let key = new.coalesce_key.as_deref().filter(|_| new.ordering_key.is_none());
    key.map(|key| (new.receiver, key))
}

/// The end of a statement that stores deliveries some of which may be combined with stored ones that were never claimed. `created` and the time
/// at which the delivery is due stay as they are. DO NOTHING would not do: a worker could claim the stored delivery, and read the row before this
/// transaction commits.
pub(super) const COALESCE: &str = " ON CONFLICT (receiver, coalesce_key) WHERE coalesce_key IS NOT NULL AND claim = 0 DO UPDATE SET \
    event = excluded.event, key = excluded.key, payload = excluded.payload, context = excluded.context, ordering_key = excluded.ordering_key";

/// [`COALESCE`] if one of the deliveries needs it.
fn coalesce(deliveries: &[NewDelivery]) -> &'static str {
    if deliveries.iter().any(|new| new.coalesce_key.is_some()) { COALESCE } else { "" }
}

/// The statement that writes the deliveries.
pub(super) fn insert(deliveries: &[NewDelivery], kind: DatabaseKind) -> Sql {
    match kind {
        DatabaseKind::Sqlite => insert_sqlite(deliveries),
        #[cfg(feature = "postgres")]
        DatabaseKind::Postgres => insert_postgres(deliveries),
        #[cfg(not(feature = "postgres"))]
        DatabaseKind::Postgres => unreachable!("PostgreSQL is not a feature of this build"),
    }
}

const INSERT_SQLITE: &str = "\
    INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key, coalesce_key) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, \
        CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) + (value ->> 8), value ->> 9, value ->> 10 \
    FROM json_each($1) WHERE true";

fn insert_sqlite(deliveries: &[NewDelivery]) -> Sql {
    let rows = deliveries.iter().map(|new| {
        serde_json::json!([
            new.event.to_string(),
            new.receiver,
            new.signal,
            new.sender,
            new.part.key,
            new.created,
            &*new.part.payload,
            new.context.as_deref(),
            new.delay,
            new.ordering_key,
            new.coalesce_key,
        ])
    });
    let rows = serde_json::Value::from(rows.collect::<Vec<_>>()).to_string();
    Sql::new(DatabaseKind::Sqlite, &format!("{INSERT_SQLITE}{}", coalesce(deliveries))).bind(rows)
}

/// The events are sent once, however many receivers each of them has.
#[cfg(feature = "postgres")]
const INSERT_POSTGRES: &str = "\
    INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key, coalesce_key) \
    SELECT e.id::uuid, d.receiver, e.signal, e.sender, e.key, e.created, e.payload::json, e.context::json, \
        clock_timestamp() + d.delay * interval '1 millisecond', d.ordering_key, d.coalesce_key \
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[]) \
        WITH ORDINALITY AS d (event, receiver, delay, ordering_key, coalesce_key, n) \
    JOIN unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::boolean[], $11::text[], $12::text[]) \
        WITH ORDINALITY AS e (id, signal, sender, key, created, payload, context, n) ON e.n = d.event \
    ORDER BY d.n";

#[cfg(feature = "postgres")]
fn insert_postgres(deliveries: &[NewDelivery]) -> Sql {
    use crate::database::backend::Arguments;
    use sqlx::Arguments as _;

    let mut events: Vec<&NewDelivery> = Vec::new();
    let mut of_event = Vec::with_capacity(deliveries.len());
    for new in deliveries {
        let is_same = |known: &&NewDelivery| {
            known.event == new.event && Arc::ptr_eq(&known.part.payload, &new.part.payload)
        };
        // Deliveries of one event are adjacent, so the search ends soon.
        let near = events.iter().rev().take(8).position(is_same);
        let event = match near {
            Some(back) => events.len() - back,
            None => {
                events.push(new);
                events.len()
            }
        };
        of_event.push(i64::try_from(event).unwrap_or(i64::MAX));
    }
    let receivers: Vec<_> = deliveries.iter().map(|new| new.receiver).collect();
    let delays: Vec<_> =
        deliveries.iter().map(|new| i64::try_from(new.delay).unwrap_or(i64::MAX)).collect();
    let ordering_keys: Vec<_> = deliveries.iter().map(|new| new.ordering_key.as_deref()).collect();
    let coalesce_keys: Vec<_> = deliveries.iter().map(|new| new.coalesce_key.as_deref()).collect();
    let ids: Vec<_> = events.iter().map(|new| new.event.to_string()).collect();
    let signals: Vec<_> = events.iter().map(|new| new.signal).collect();
    let senders: Vec<_> = events.iter().map(|new| new.sender.as_str()).collect();
    let keys: Vec<_> = events.iter().map(|new| new.part.key.as_deref()).collect();
    let created: Vec<_> = events.iter().map(|new| new.created).collect();
    let payloads: Vec<_> = events.iter().map(|new| &*new.part.payload).collect();
    let contexts: Vec<_> = events.iter().map(|new| new.context.as_deref()).collect();
    let text = format!("{INSERT_POSTGRES}{}", coalesce(deliveries));
    let mut sql = Sql::new(DatabaseKind::Postgres, &text);
    if let Some(Arguments::Postgres(args)) = sql.args() {
        let added = args
            .add(of_event)
            .and_then(|()| args.add(receivers))
            .and_then(|()| args.add(delays))
            .and_then(|()| args.add(ordering_keys))
            .and_then(|()| args.add(coalesce_keys))
            .and_then(|()| args.add(ids))
            .and_then(|()| args.add(signals))
            .and_then(|()| args.add(senders))
            .and_then(|()| args.add(keys))
            .and_then(|()| args.add(created))
            .and_then(|()| args.add(payloads))
            .and_then(|()| args.add(contexts));
        if let Err(error) = added {
            sql.fail(error);
        }
    }
    sql
}
