//! The statement that stores deliveries.

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
        DatabaseKind::Postgres => postgres::insert(deliveries),
        #[cfg(not(feature = "postgres"))]
        DatabaseKind::Postgres => unreachable!("PostgreSQL is not a feature of this build"),
    }
}

/// Inserts what a SELECT returns.
fn insert_selected(kind: DatabaseKind, select: &str, deliveries: &[NewDelivery]) -> Sql {
    let columns = "event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key, coalesce_key";
    let coalesce = coalesce(deliveries);
    Sql::new(kind, &format!("INSERT INTO signals_delivery ({columns}) {select}{coalesce}"))
}

const SELECT_SQLITE: &str = "\
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, \
        CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) + (value ->> 8), value ->> 9, value ->> 10 \
    FROM json_each($1) WHERE true";

fn insert_sqlite(deliveries: &[NewDelivery]) -> Sql {
    let rows = deliveries.iter().map(|new| {
        (
            new.event,
            new.receiver,
            new.signal,
            new.sender,
            new.part.key.as_deref(),
            new.created,
            &*new.part.payload,
            new.context.as_deref(),
            new.delay,
            new.ordering_key.as_deref(),
            new.coalesce_key.as_deref(),
        )
    });
    let mut sql = insert_selected(DatabaseKind::Sqlite, SELECT_SQLITE, deliveries);
    match serde_json::to_string(&rows.collect::<Vec<_>>()) {
        Ok(rows) => sql.bind(rows),
        Err(error) => {
            sql.fail(error.into());
            sql
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::sync::Arc;

    use sqlx::Arguments as _;
    use sqlx::error::BoxDynError;
    use sqlx::postgres::PgArguments;

    use super::insert_selected;
    use crate::database::backend::{Arguments, DatabaseKind};
    use crate::durable::outbox::NewDelivery;
    use crate::durable::sql::Sql;

    /// Deliveries that differ only in what belongs to their row. The rows are inserted in the order of the arrays.
    const ALIKE: &str = "\
        SELECT id, $1::text, $2::text, $3::text, key, $4::boolean, payload::json, $5::text::json, \
            clock_timestamp() + $6::bigint * interval '1 millisecond', ordering_key, coalesce_key \
        FROM unnest($7::uuid[], $8::text[], $9::text[], $10::text[], $11::text[]) AS e (id, key, payload, ordering_key, coalesce_key)";

    /// Any deliveries. The events are sent once, however many receivers each of them has.
    const MIXED: &str = "\
        SELECT id, receiver, signal, sender, key, created, payload::json, context::json, \
            clock_timestamp() + delay * interval '1 millisecond', ordering_key, coalesce_key \
        FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[]) \
            WITH ORDINALITY AS d (event, receiver, delay, ordering_key, coalesce_key, n) \
        JOIN unnest($6::uuid[], $7::text[], $8::text[], $9::text[], $10::boolean[], $11::text[], $12::text[]) \
            WITH ORDINALITY AS e (id, signal, sender, key, created, payload, context, event) USING (event) \
        ORDER BY n";

    /// The values of one column.
    macro_rules! column {
        ($rows:expr, |$new:ident| $column:expr) => {
            $rows.iter().map(|$new| $column).collect::<Vec<_>>()
        };
    }

    pub(super) fn insert(deliveries: &[NewDelivery]) -> Sql {
        let alike =
            deliveries.first().filter(|first| deliveries.iter().all(|new| new.is_like(first)));
        let select = if alike.is_some() { ALIKE } else { MIXED };
        let mut sql = insert_selected(DatabaseKind::Postgres, select, deliveries);
        if let Some(Arguments::Postgres(args)) = sql.args() {
            let added = match alike {
                Some(first) => add_alike(args, first, deliveries),
                None => add_mixed(args, deliveries),
            };
            if let Err(error) = added {
                sql.fail(error);
            }
        }
        sql
    }

    impl NewDelivery {
        /// Whether only what belongs to the row is different.
        fn is_like(&self, other: &Self) -> bool {
            (self.receiver, self.signal, self.sender)
                == (other.receiver, other.signal, other.sender)
                && (self.created, self.delay) == (other.created, other.delay)
                && self.context == other.context
        }

        fn milliseconds(&self) -> i64 {
            i64::try_from(self.delay).unwrap_or(i64::MAX)
        }
    }

    /// Binds the arguments of [`ALIKE`].
    fn add_alike(
        args: &mut PgArguments,
        first: &NewDelivery,
        deliveries: &[NewDelivery],
    ) -> Result<(), BoxDynError> {
        args.add(first.receiver)?;
        args.add(first.signal)?;
        args.add(first.sender)?;
        args.add(first.created)?;
        args.add(first.context.as_deref())?;
        args.add(first.milliseconds())?;
        args.add(column!(deliveries, |new| new.event))?;
        args.add(column!(deliveries, |new| new.part.key.as_deref()))?;
        args.add(column!(deliveries, |new| &*new.part.payload))?;
        args.add(column!(deliveries, |new| new.ordering_key.as_deref()))?;
        args.add(column!(deliveries, |new| new.coalesce_key.as_deref()))
    }

    /// Binds the arguments of [`MIXED`].
    fn add_mixed(args: &mut PgArguments, deliveries: &[NewDelivery]) -> Result<(), BoxDynError> {
        let (events, of_event) = events(deliveries);
        args.add(of_event)?;
        args.add(column!(deliveries, |new| new.receiver))?;
        args.add(column!(deliveries, |new| new.milliseconds()))?;
        args.add(column!(deliveries, |new| new.ordering_key.as_deref()))?;
        args.add(column!(deliveries, |new| new.coalesce_key.as_deref()))?;
        args.add(column!(events, |new| new.event))?;
        args.add(column!(events, |new| new.signal))?;
        args.add(column!(events, |new| new.sender))?;
        args.add(column!(events, |new| new.part.key.as_deref()))?;
        args.add(column!(events, |new| new.created))?;
        args.add(column!(events, |new| &*new.part.payload))?;
        args.add(column!(events, |new| new.context.as_deref()))
    }

    /// The events of deliveries, and for each delivery the number of its event. The first event has the number 1.
    fn events(deliveries: &[NewDelivery]) -> (Vec<&NewDelivery>, Vec<i64>) {
        let mut events: Vec<&NewDelivery> = Vec::with_capacity(deliveries.len());
        let of_event = deliveries.iter().map(|new| {
            // A delivery that was combined with an older one has its `created`, and not that of its event.
            let is_same = |known: &&NewDelivery| {
                (known.event, known.created) == (new.event, new.created)
                    && Arc::ptr_eq(&known.part.payload, &new.part.payload)
            };
            // Deliveries of one event are adjacent, so the search ends soon.
            let event = match events.iter().rev().take(8).position(is_same) {
                Some(back) => events.len() - back,
                None => {
                    events.push(new);
                    events.len()
                }
            };
            i64::try_from(event).unwrap_or(i64::MAX)
        });
        let of_event = of_event.collect();
        (events, of_event)
    }
}
