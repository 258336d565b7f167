//! The statements of a worker: find, claim, renew, acknowledge, fail and give back deliveries. Each of them names the claim, so a
//! worker whose claim has passed to another one changes nothing.

use std::time::Duration;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::sql::{Sql, list};
use crate::error::Result;

/// A delivery that this process has claimed.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(crate) id: i64,
    pub(crate) event: String,
    pub(crate) receiver: String,
    pub(crate) signal: String,
    pub(crate) sender: String,
    pub(crate) key: Option<String>,
    pub(crate) created: Option<bool>,
    pub(crate) payload: String,
    pub(crate) context: Option<String>,
    /// In milliseconds since 1970.
    pub(crate) stored_at: i64,
    /// How long ago it was stored, in milliseconds.
    pub(crate) age: i64,
    pub(crate) attempt: i32,
    pub(crate) claim: i64,
    pub(crate) lost: i32,
}

/// The columns that a claim returns.
type Columns = (
    i64,
    String,
    String,
    String,
    String,
    Option<String>,
    Option<bool>,
    String,
    Option<String>,
    i64,
    i64,
    i32,
    i64,
    i32,
);

impl From<Columns> for Claimed {
    fn from(columns: Columns) -> Self {
        let (id, event, receiver, signal, sender, key, created, payload, context, ..) = columns;
        let (.., stored_at, age, attempt, claim, lost) = columns;
        Self {
            id,
            event,
            receiver,
            signal,
            sender,
            key,
            created,
            payload,
            context,
            stored_at,
            age,
            attempt,
            claim,
            lost,
        }
    }
}

/// A delivery whose worker was lost this often is dead.
pub(super) const POISONED: i32 = 5;

/// What is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Usual,
    /// Deliveries whose worker was lost twice. Each of them runs alone in its worker.
    Suspect,
}

/// What a claim asks for.
pub(super) struct Claim<'c> {
    pub(super) receiver: &'c str,
    pub(super) kind: Kind,
    pub(super) limit: usize,
    pub(super) lease: Duration,
    pub(super) worker: &'c str,
    /// The deliveries that this worker is running.
    pub(super) running: Vec<i64>,
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
fn later(kind: DatabaseKind, argument: &str) -> String {
    match kind {
        DatabaseKind::Sqlite => {
            format!("CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) + {argument}")
        }
        DatabaseKind::Postgres => {
            format!("clock_timestamp() + {argument}::bigint * interval '1 millisecond'")
        }
    }
}

/// Whether the next claim of a delivery makes it a suspect.
fn is_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Usual => "lost + CASE WHEN worker IS NULL THEN 0 ELSE 1 END < 2",
        Kind::Suspect => "lost + CASE WHEN worker IS NULL THEN 0 ELSE 1 END >= 2",
    }
}

/// The receivers that have due deliveries, and whether one of them is a suspect.
pub(super) async fn probe(conn: &mut Conn<'_>, receivers: &[&str]) -> Result<Vec<(String, bool)>> {
    let kind = conn.kind();
    let names = match kind {
        DatabaseKind::Sqlite => "SELECT value AS name FROM json_each($1)",
        DatabaseKind::Postgres => {
            "SELECT value AS name FROM json_array_elements_text($1::text::json)"
        }
    };
    let due = |which: Kind| {
        format!(
            "EXISTS (SELECT 1 FROM signals_delivery d WHERE d.receiver = r.name AND d.ordering_key IS NULL AND d.dead_at IS NULL \
             AND d.run_at <= {} AND {})",
            now(kind),
            is_kind(which)
        )
    };
    let any = format!(
        "EXISTS (SELECT 1 FROM signals_delivery d WHERE d.receiver = r.name AND d.ordering_key IS NULL AND d.dead_at IS NULL \
         AND d.run_at <= {})",
        now(kind)
    );
    let text = format!("SELECT r.name, {} FROM ({names}) AS r WHERE {any}", due(Kind::Suspect));
    let names = serde_json::Value::from(receivers).to_string();
    Sql::new(kind, &text).bind(names).fetch(conn).await
}

/// Claims due deliveries of one receiver.
pub(super) async fn claim(conn: &mut Conn<'_>, claim: &Claim<'_>) -> Result<Vec<Claimed>> {
    let kind = conn.kind();
    // A literal, in a few sizes: as an argument, it would lead to a plan for any number of rows.
    let limit = 1_usize << claim.limit.clamp(1, 128).ilog2();
    let (now, lease, which) = (now(kind), later(kind, "$3"), is_kind(claim.kind));
    let due = "receiver = $1 AND ordering_key IS NULL AND dead_at IS NULL";
    let set = format!(
        "claim = d.claim + 1, attempt = d.attempt + CASE WHEN d.worker IS NULL THEN 1 ELSE 0 END, \
         lost = d.lost + CASE WHEN d.worker IS NULL THEN 0 ELSE 1 END, worker = $2, run_at = {lease}"
    );
    let text = match kind {
        DatabaseKind::Postgres => format!(
            "WITH due AS MATERIALIZED (SELECT id FROM signals_delivery WHERE {due} AND run_at <= {now} AND {which} \
             AND id <> ALL ($4::text::bigint[]) ORDER BY run_at, id LIMIT {limit} FOR UPDATE SKIP LOCKED) \
             UPDATE signals_delivery d SET {set} FROM due WHERE d.id = due.id \
             RETURNING d.id, d.event::text, d.receiver, d.signal, d.sender, d.key, d.created, d.payload::text, d.context::text, \
             (extract(epoch FROM d.stored_at) * 1000)::bigint AS stored_at, \
             (extract(epoch FROM clock_timestamp() - d.stored_at) * 1000)::bigint AS age, d.attempt, d.claim, d.lost"
        ),
        DatabaseKind::Sqlite => format!(
            "UPDATE signals_delivery AS d SET {set} WHERE id IN (SELECT id FROM signals_delivery WHERE {due} AND run_at <= {now} \
             AND {which} AND id NOT IN (SELECT value FROM json_each($4)) ORDER BY run_at, id LIMIT {limit}) \
             RETURNING id, event, receiver, signal, sender, key, created, payload, context, stored_at, {now} - stored_at AS age, \
             attempt, claim, lost"
        ),
    };
    let claimed: Vec<Columns> = Sql::new(kind, &text)
        .bind(claim.receiver)
        .bind(claim.worker)
        .bind(millis(claim.lease))
        .bind(list(kind, claim.running.iter().copied()))
        .fetch(conn)
        .await?;
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
             unnest($1::text::bigint[], $2::text::bigint[]) AS a (id, claim) USING (id, claim) FOR UPDATE OF d SKIP LOCKED) RETURNING id"
        ),
        DatabaseKind::Sqlite => {
            format!(
                "UPDATE signals_delivery SET run_at = {lease_end} WHERE {CLAIMED_SQLITE} RETURNING id"
            )
        }
    };
    let renewed: Vec<(i64,)> =
        bind_claims(Sql::new(kind, &text), kind, claims).bind(millis(lease)).fetch(conn).await?;
    Ok(renewed.into_iter().map(|(id,)| id).collect())
}

/// Deletes a delivery in the transaction of its receiver. Returns `false` if the claim has passed to another worker.
pub(super) async fn acknowledge_one(conn: &mut Conn<'_>, id: i64, claim: i64) -> Result<bool> {
    let text = "DELETE FROM signals_delivery WHERE id = $1 AND claim = $2";
    Ok(Sql::new(conn.kind(), text).bind(id).bind(claim).execute(conn).await? == 1)
}

/// Deletes deliveries whose receivers have succeeded, and returns those that were deleted.
pub(super) async fn acknowledge(conn: &mut Conn<'_>, claims: &[(i64, i64)]) -> Result<Vec<i64>> {
    let kind = conn.kind();
    let text = match kind {
        DatabaseKind::Postgres => {
            "DELETE FROM signals_delivery d USING unnest($1::text::bigint[], $2::text::bigint[]) AS a (id, claim) \
             WHERE d.id = a.id AND d.claim = a.claim RETURNING d.id"
                .to_owned()
        }
        DatabaseKind::Sqlite => {
            format!("DELETE FROM signals_delivery WHERE {CLAIMED_SQLITE} RETURNING id")
        }
    };
    let deleted: Vec<(i64,)> = bind_claims(Sql::new(kind, &text), kind, claims).fetch(conn).await?;
    Ok(deleted.into_iter().map(|(id,)| id).collect())
}

/// How a run has ended that did not succeed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// When the delivery is due again.
    pub(super) delay: Duration,
    pub(super) is_dead: bool,
    /// Whether the run counts as an attempt.
    pub(super) counts: bool,
    pub(super) error: String,
}

/// Stores how a run has failed. Returns `false` if the claim has passed to another worker.
pub(super) async fn fail(
    conn: &mut Conn<'_>,
    id: i64,
    claim: i64,
    failure: &Failure,
) -> Result<bool> {
    let kind = conn.kind();
    let dead = match failure.is_dead {
        true => now(kind),
        false => "NULL",
    };
    let uncount = if failure.counts { "" } else { ", attempt = attempt - 1" };
    let text = format!(
        "UPDATE signals_delivery SET worker = NULL, lost = 0, error = $3, run_at = {}, dead_at = {dead}{uncount} \
         WHERE id = $1 AND claim = $2",
        later(kind, "$4")
    );
    let sql = Sql::new(kind, &text).bind(id).bind(claim).bind(&*failure.error);
    Ok(sql.bind(millis(failure.delay)).execute(conn).await? == 1)
}

/// Makes deliveries due again whose receivers have not run to their end, without counting an attempt.
pub(super) async fn give_back(conn: &mut Conn<'_>, claims: &[(i64, i64)]) -> Result<()> {
    let kind = conn.kind();
    let set = format!(
        "worker = NULL, attempt = CASE WHEN attempt > 0 THEN attempt - 1 ELSE 0 END, run_at = {}",
        now(kind)
    );
    let text = match kind {
        DatabaseKind::Postgres => format!(
            "UPDATE signals_delivery d SET {set} FROM unnest($1::text::bigint[], $2::text::bigint[]) AS a (id, claim) \
             WHERE d.id = a.id AND d.claim = a.claim"
        ),
        DatabaseKind::Sqlite => {
            format!("UPDATE signals_delivery SET {set} WHERE {CLAIMED_SQLITE}")
        }
    };
    bind_claims(Sql::new(kind, &text), kind, claims).execute(conn).await.map(drop)
}

/// Finds claims on SQLite. The two lists belong together by their position.
const CLAIMED_SQLITE: &str = "(id, claim) IN \
    (SELECT i.value, c.value FROM json_each($1) AS i JOIN json_each($2) AS c ON c.key = i.key)";

fn bind_claims(sql: Sql, kind: DatabaseKind, claims: &[(i64, i64)]) -> Sql {
    let ids = list(kind, claims.iter().map(|(id, _)| *id));
    sql.bind(ids).bind(list(kind, claims.iter().map(|(_, claim)| *claim)))
}

pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}
