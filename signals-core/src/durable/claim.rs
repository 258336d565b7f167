//! The statements that claim deliveries and renew claims. The statements that end a claim are in `end_claim.rs`. Each statement names
//! the claim, so a worker whose claim has passed to another one changes nothing.

use std::time::Duration;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claimed::{Claimed, Columns};
use crate::durable::sql::{Sql, list, texts};
use crate::error::Result;

/// A delivery whose worker was lost this often is dead.
pub(super) const POISONED: i32 = 5;

/// A suspect without an ordering key is looked for among this many deliveries that are claimed next: this is a filter and no index lookup.
pub(super) const SUSPECTS: usize = 128;

/// What is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Usual,
    /// Deliveries whose worker was lost twice. Each of them runs alone in its worker.
    Suspect,
    /// Deliveries without an ordering key that a relay publishes. Nothing of the program runs for them, so they are never suspects.
    Published,
    /// The same as `Suspect`, with an ordering key. The claim of its lost worker still holds the key, so no older delivery of the key can run.
    OrderedSuspect,
}

/// What a claim asks for.
pub(super) struct Claim<'c> {
    pub(super) receiver: &'c str,
    pub(super) kind: Kind,
    pub(super) limit: usize,
    pub(super) lease: Duration,
    pub(super) worker: &'c str,
    /// The other names of the receiver, under which deliveries of the same ordering keys may be stored.
    pub(super) other_names: Vec<&'static str>,
    /// The deliveries that this worker is running.
    pub(super) running: Vec<i64>,
    /// The lower bound of the claim, see [`since`].
    pub(super) bound: i64,
}

/// The current time of the database.
pub(super) fn now(kind: DatabaseKind) -> &'static str {
    match kind {
        DatabaseKind::Sqlite => "CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)",
        // The start of the statement, which an index condition can use. `now()` is the start of the transaction.
        DatabaseKind::Postgres => "statement_timestamp()",
    }
}

/// The current time of the database plus a number of milliseconds in an argument.
pub(super) fn later(kind: DatabaseKind, argument: &str) -> String {
    match kind {
        DatabaseKind::Sqlite => format!("{} + {argument}", now(kind)),
        DatabaseKind::Postgres => {
            format!("clock_timestamp() + {argument}::bigint * interval '1 millisecond'")
        }
    }
}

/// The current time of the database minus a number of milliseconds in an argument.
pub(super) fn earlier(kind: DatabaseKind, argument: &str) -> String {
    match kind {
        DatabaseKind::Sqlite => format!("{} - {argument}", now(kind)),
        DatabaseKind::Postgres => {
            format!("{} - {argument}::bigint * interval '1 millisecond'", now(kind))
        }
    }
}

/// The condition that a delivery is due since a time, in microseconds since 1970. A claim has this lower bound on PostgreSQL, because it would
/// otherwise read the index entries of all deliveries that were claimed before. They can only be removed when no transaction is older.
pub(super) fn since(kind: DatabaseKind, bound: &str) -> String {
    match kind {
        DatabaseKind::Sqlite => format!("{bound} IS NOT NULL"),
        DatabaseKind::Postgres => {
            format!("run_at >= timestamptz 'epoch' + ({bound})::bigint * interval '1 microsecond'")
        }
    }
}

/// Which deliveries are of a kind: their next claim makes them a suspect, or not.
pub(super) fn is_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Usual => {
            "ordering_key IS NULL AND lost + CASE WHEN worker IS NULL THEN 0 ELSE 1 END < 2"
        }
        Kind::Published => "ordering_key IS NULL",
        Kind::Suspect => {
            "ordering_key IS NULL AND lost + CASE WHEN worker IS NULL THEN 0 ELSE 1 END >= 2"
        }
        // The index of claimed deliveries finds them among any number that wait.
        Kind::OrderedSuspect => "ordering_key IS NOT NULL AND worker IS NOT NULL AND lost >= 1",
    }
}

/// The condition that a delivery of the receiver `$1` is due.
fn is_due(database: DatabaseKind) -> String {
    format!("receiver = $1 AND dead_at IS NULL AND run_at <= {}", now(database))
}

/// Whether a due delivery of a kind can be claimed, on PostgreSQL. One that its receiver has deleted in an open transaction looks due as soon as its
/// lease has ended, and nobody can claim it.
pub(super) async fn can_claim(
    conn: &mut Conn<'_>,
    receiver: &str,
    kind: Kind,
    bound: i64,
) -> Result<bool> {
    let (database, which) = (conn.kind(), is_kind(kind));
    let due = format!("{} AND {}", is_due(database), since(database, "$2"));
    let text = match kind {
        // The probe looks at the same rows. The array keeps rows that are no suspects from being locked.
        Kind::Suspect => format!(
            "SELECT id FROM signals_delivery WHERE id = ANY(ARRAY(SELECT id FROM (SELECT id, lost, worker, ordering_key FROM signals_delivery \
             WHERE {due} AND ordering_key IS NULL ORDER BY run_at, id LIMIT {SUSPECTS}) AS next WHERE {which})) \
             LIMIT 1 FOR UPDATE SKIP LOCKED"
        ),
        _ => format!(
            "SELECT id FROM signals_delivery WHERE {due} AND {which} LIMIT 1 FOR UPDATE SKIP LOCKED"
        ),
    };
    let sql = Sql::new(database, &text).bind(receiver).bind(bound);
    let found: Vec<(i64,)> = sql.fetch(conn).await?;
    Ok(!found.is_empty())
}

/// Claims due deliveries of one receiver: those of a kind, in the order in which they are due.
pub(super) async fn claim(conn: &mut Conn<'_>, claim: &Claim<'_>) -> Result<Vec<Claimed>> {
    let kind = conn.kind();
    let limit = literal(claim.limit);
    let due = format!("{} AND {} AND {}", is_due(kind), is_kind(claim.kind), since(kind, "$5"));
    let due = match kind {
        DatabaseKind::Postgres => format!(
            "WITH due AS MATERIALIZED (SELECT id, run_at FROM signals_delivery WHERE {due} AND id NOT IN (SELECT unnest($4::text::bigint[])) \
             ORDER BY run_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED)"
        ),
        DatabaseKind::Sqlite => format!(
            "WITH due AS (SELECT id FROM signals_delivery WHERE {due} AND id NOT IN (SELECT value FROM json_each($4)) \
             ORDER BY run_at, id LIMIT {limit})"
        ),
    };
    run_claim(conn, claim, &due, None).await
}

/// How many ordering keys one claim looks at.
const KEYS: usize = 1000;

/// Claims the oldest delivery of each ordering key of one receiver, for keys after `after`. An older delivery that is not due blocks its
/// key, also if it is stored under another name of the receiver. A dead one does so too, unless `skips_dead`. The kind of the claim is not
/// regarded: no suspect is claimed.
pub(super) async fn claim_ordered(
    conn: &mut Conn<'_>,
    claim: &Claim<'_>,
    after: &str,
    skips_dead: bool,
) -> Result<Vec<Claimed>> {
    let kind = conn.kind();
    let (limit, now) = (literal(claim.limit), now(kind));
    let due = format!(
        "d.dead_at IS NULL AND d.run_at <= {now} AND (worker IS NULL OR lost < 1) AND NOT EXISTS (SELECT 1 FROM signals_delivery o \
         WHERE o.receiver = $1 AND o.ordering_key = d.ordering_key AND o.worker IS NOT NULL AND o.id <> d.id){}",
        match claim.other_names.is_empty() {
            true => String::new(),
            false => format!(" AND {}", is_first_of_all_names(kind, skips_dead)),
        }
    );
    let heads = heads(kind, skips_dead, "$5");
    let due = match kind {
        DatabaseKind::Postgres => format!(
            "{heads}, due AS MATERIALIZED (SELECT d.id, d.run_at FROM head JOIN signals_delivery d USING (id) WHERE {due} \
             AND d.id NOT IN (SELECT unnest($4::text::bigint[])) LIMIT {limit} FOR UPDATE OF d SKIP LOCKED)"
        ),
        DatabaseKind::Sqlite => format!(
            "{heads}, due AS (SELECT d.id FROM head JOIN signals_delivery d ON d.id = head.id WHERE {due} \
             AND d.id NOT IN (SELECT value FROM json_each($4)) LIMIT {limit})"
        ),
    };
    match run_claim(conn, claim, &due, Some(after)).await {
        // Another worker has claimed the key first.
        Err(error) if error.is_unique_violation() => Ok(Vec::new()),
        claimed => claimed,
    }
}

/// The condition that no older delivery with the key of `d` is stored under one of the names `$6`, and that none of them is claimed.
fn is_first_of_all_names(kind: DatabaseKind, skips_dead: bool) -> String {
    let alive = if skips_dead { "AND o.dead_at IS NULL" } else { "" };
    format!(
        "NOT EXISTS (SELECT 1 FROM signals_delivery o WHERE o.receiver IN ({}) AND o.ordering_key = d.ordering_key \
         AND (o.worker IS NOT NULL OR o.id < d.id {alive}))",
        texts(kind, "$6")
    )
}

/// The table `head` of a statement: the oldest delivery of each of the next ordering keys of the receiver `$1`.
fn heads(kind: DatabaseKind, skips_dead: bool, after: &str) -> String {
    let alive = if skips_dead { "AND dead_at IS NULL" } else { "" };
    // The only index on which a claim can rely has the condition that the key is not NULL.
    let of_receiver = format!("receiver = $1 AND ordering_key IS NOT NULL {alive}");
    let first = "ORDER BY ordering_key, id LIMIT 1";
    match kind {
        DatabaseKind::Postgres => format!(
            "WITH RECURSIVE head AS ((SELECT ordering_key, id, 1 AS n FROM signals_delivery WHERE {of_receiver} \
             AND ordering_key >= {after} {first}) UNION ALL SELECT next.ordering_key, next.id, head.n + 1 FROM head CROSS JOIN LATERAL \
             (SELECT ordering_key, id FROM signals_delivery WHERE {of_receiver} AND ordering_key > head.ordering_key {first}) next \
             WHERE head.n < {KEYS})"
        ),
        DatabaseKind::Sqlite => format!(
            "WITH RECURSIVE keys (ordering_key, n) AS (SELECT (SELECT min(ordering_key) FROM signals_delivery WHERE {of_receiver} \
             AND ordering_key >= {after}), 1 UNION ALL SELECT (SELECT min(ordering_key) FROM signals_delivery WHERE {of_receiver} \
             AND ordering_key > keys.ordering_key), n + 1 FROM keys WHERE keys.ordering_key IS NOT NULL AND n < {KEYS}), \
             head AS (SELECT ordering_key, n, (SELECT min(id) FROM signals_delivery WHERE {of_receiver} \
             AND ordering_key = keys.ordering_key) AS id FROM keys WHERE ordering_key IS NOT NULL)"
        ),
    }
}

/// The last ordering key that a claim has looked at, if there are more. The next claim continues there if nothing was due before it.
pub(super) async fn last_key(
    conn: &mut Conn<'_>,
    receiver: &str,
    after: &str,
    skips_dead: bool,
) -> Result<Option<String>> {
    let kind = conn.kind();
    let heads = heads(kind, skips_dead, "$2");
    let text = format!("{heads} SELECT ordering_key FROM head WHERE n = {KEYS}");
    let rows: Vec<(String,)> = Sql::new(kind, &text).bind(receiver).bind(after).fetch(conn).await?;
    Ok(rows.into_iter().next().map(|(key,)| key))
}

/// The limit of a claim. It is a literal in a few sizes, because as an argument it would lead to a plan for any number of rows.
pub(super) fn literal(limit: usize) -> usize {
    1 << limit.clamp(1, 512).ilog2()
}

/// Claims the deliveries whose ids the table `due` of the statement contains.
async fn run_claim(
    conn: &mut Conn<'_>,
    claim: &Claim<'_>,
    due: &str,
    after: Option<&str>,
) -> Result<Vec<Claimed>> {
    let kind = conn.kind();
    let lease = later(kind, "$3");
    let set = format!(
        "claim = d.claim + 1, attempt = d.attempt + CASE WHEN d.worker IS NULL THEN 1 ELSE 0 END, \
         lost = d.lost + CASE WHEN d.worker IS NULL THEN 0 ELSE 1 END, worker = $2, run_at = {lease}"
    );
    let text = match kind {
        DatabaseKind::Postgres => format!(
            // With the array, every plan reads only the claimed rows, also if the statistics say that the table is empty. A join with `due`
            // would search the array once for each row.
            "{due} UPDATE signals_delivery d SET {set} WHERE d.id = ANY(ARRAY(SELECT id FROM due)) \
             RETURNING d.id, d.event::text, d.receiver, d.signal, d.sender, d.key, d.created, d.payload::text, d.context::text, \
             (extract(epoch FROM d.stored_at) * 1000)::bigint AS stored_at, \
             (extract(epoch FROM clock_timestamp() - d.stored_at) * 1000)::bigint AS age, d.attempt, d.claim, d.lost, d.ordering_key, \
             (SELECT (extract(epoch FROM max(run_at)) * 1000000)::bigint FROM due)"
        ),
        DatabaseKind::Sqlite => format!(
            "{due} UPDATE signals_delivery AS d SET {set} WHERE id IN (SELECT id FROM due) \
             RETURNING id, event, receiver, signal, sender, key, created, payload, context, stored_at, {} - stored_at AS age, \
             attempt, claim, lost, ordering_key, 0",
            now(kind)
        ),
    };
    let mut sql = Sql::new(kind, &text)
        .bind(claim.receiver)
        .bind(claim.worker)
        .bind(millis(claim.lease))
        .bind(list(kind, claim.running.iter().copied()));
    sql = match after {
        Some(after) if claim.other_names.is_empty() => sql.bind(after),
        Some(after) => {
            let names = serde_json::Value::from_iter(claim.other_names.iter().copied());
            sql.bind(after).bind(names.to_string())
        }
        None => sql.bind(claim.bound),
    };
    let claimed: Vec<Columns> = sql.fetch(conn).await?;
    let mut claimed: Vec<_> = claimed.into_iter().map(Claimed::from).collect();
    claimed.sort_by_key(|delivery| delivery.id);
    Ok(claimed)
}

/// Extends the leases of claims, and returns the deliveries whose lease was extended. A delivery that its receiver has deleted in an open
/// transaction is locked, and is skipped.
pub(super) async fn renew(
    conn: &mut Conn<'_>,
    claims: &[(i64, i64)],
    lease: Duration,
) -> Result<Vec<i64>> {
    let kind = conn.kind();
    let lease_end = later(kind, "$3");
    let text = match kind {
        DatabaseKind::Postgres => format!(
            "UPDATE signals_delivery SET run_at = {lease_end} WHERE id IN (SELECT d.id FROM signals_delivery d JOIN \
             unnest($1::text::bigint[], $2::text::bigint[]) AS a (id, claim) USING (id, claim) \
             WHERE d.worker IS NOT NULL FOR UPDATE OF d SKIP LOCKED) RETURNING id"
        ),
        DatabaseKind::Sqlite => {
            format!(
                "UPDATE signals_delivery SET run_at = {lease_end} WHERE worker IS NOT NULL AND {CLAIMED_SQLITE} RETURNING id"
            )
        }
    };
    let renewed: Vec<(i64,)> =
        bind_claims(Sql::new(kind, &text), kind, claims).bind(millis(lease)).fetch(conn).await?;
    Ok(renewed.into_iter().map(|(id,)| id).collect())
}

/// The transaction of a statement on the server. On SQLite, the numbers are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerTransaction {
    /// The server process of its connection.
    pub(super) process: i32,
    /// When it was begun, in microseconds since 1970.
    pub(super) begun: i64,
}

impl ServerTransaction {
    /// The columns of a [`ServerTransaction`] on PostgreSQL.
    pub(super) const COLUMNS: &str =
        "pg_backend_pid(), (extract(epoch FROM transaction_timestamp()) * 1000000)::bigint";

    pub(super) fn of((process, begun): (i32, i64)) -> Self {
        Self { process, begun }
    }
}

/// The statement that changes deliveries whose claims [`bind_claims`] binds. `set` may use further arguments, from `$3` on.
pub(super) fn update_claimed(kind: DatabaseKind, set: &str) -> String {
    match kind {
        DatabaseKind::Postgres => format!(
            "UPDATE signals_delivery d SET {set} FROM unnest($1::text::bigint[], $2::text::bigint[]) AS a (id, claim) \
             WHERE d.id = a.id AND d.claim = a.claim"
        ),
        DatabaseKind::Sqlite => format!("UPDATE signals_delivery SET {set} WHERE {CLAIMED_SQLITE}"),
    }
}

/// Finds claims on SQLite. The two lists belong together by their position.
pub(super) const CLAIMED_SQLITE: &str = "(id, claim) IN \
    (SELECT i.value, c.value FROM json_each($1) AS i JOIN json_each($2) AS c ON c.key = i.key)";

pub(super) fn bind_claims(sql: Sql, kind: DatabaseKind, claims: &[(i64, i64)]) -> Sql {
    let ids = list(kind, claims.iter().map(|(id, _)| *id));
    sql.bind(ids).bind(list(kind, claims.iter().map(|(_, claim)| *claim)))
}

/// The longest time that is added to the current one, in milliseconds: a hundred years. A database refuses times that are much later.
pub(super) const LONGEST: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

/// A time in milliseconds, at most [`LONGEST`].
pub(super) fn millis(time: Duration) -> i64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(LONGEST);
    i64::try_from(millis).unwrap_or(i64::MAX)
}
