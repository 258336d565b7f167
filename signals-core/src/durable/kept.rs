//! Kept deliveries: those of receivers with `keep` move to the table `signals_done` when their receiver has succeeded, until they are pruned or
//! run again.

use std::time::Duration;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claim::{self, CLAIMED_SQLITE, ServerTransaction, earlier, now};
use crate::durable::sql::{Sql, list};
use crate::error::Result;

/// A delivery whose receiver has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) id: i64,
    pub(super) claim: i64,
    /// For how many milliseconds it is kept. 0: it is deleted.
    pub(super) keep: u64,
}

impl Done {
    /// The delivery and its claim.
    pub(super) fn claimed(&self) -> (i64, i64) {
        (self.id, self.claim)
    }
}

/// How many deliveries one statement deletes.
const BATCH: usize = 1000;

/// The columns of both tables.
const COLUMNS: &str = "id, event, receiver, signal, sender, key, created, payload, context, ordering_key, coalesce_key, stored_at, run_at, \
                       attempt, claim, lost, worker, error, dead_at";

/// The id of a delivery that was moved, with the columns of [`ServerTransaction`].
type Kept = (i64, i32, i64);

/// Moves deliveries to the kept ones, and returns those that were moved. The claims of the others have passed to another worker.
pub(super) async fn keep(conn: &mut Conn<'_>, done: &[Done]) -> Result<Vec<Kept>> {
    if conn.kind() == DatabaseKind::Postgres {
        let text = format!(
            "WITH done AS (DELETE FROM signals_delivery d USING unnest($1::text::bigint[], $2::text::bigint[], $3::text::bigint[]) \
             AS a (done, claimed, keep) WHERE d.id = a.done AND d.claim = a.claimed RETURNING d.*, a.keep) \
             INSERT INTO signals_done ({COLUMNS}, done_at, keep_until) SELECT {COLUMNS}, clock_timestamp(), \
             clock_timestamp() + keep * interval '1 millisecond' FROM done RETURNING id, {}",
            ServerTransaction::COLUMNS
        );
        return fetch(conn, &text, done, true).await;
    }
    if conn.in_transaction() {
        return keep_sqlite(conn, done).await;
    }
    let mut tx = conn.begin().await?;
    let kept = keep_sqlite(&mut tx, done).await?;
    tx.commit().await?;
    Ok(kept)
}

async fn keep_sqlite(conn: &mut Conn<'_>, done: &[Done]) -> Result<Vec<Kept>> {
    let now = now(DatabaseKind::Sqlite);
    let copy = format!(
        "INSERT INTO signals_done ({COLUMNS}, done_at, keep_until) SELECT {COLUMNS}, {now}, {now} + keep \
         FROM signals_delivery d JOIN (SELECT i.value AS done, c.value AS claimed, k.value AS keep FROM json_each($1) AS i \
         JOIN json_each($2) AS c ON c.key = i.key JOIN json_each($3) AS k ON k.key = i.key) a ON d.id = a.done AND d.claim = a.claimed \
         WHERE true RETURNING id, 0, 0"
    );
    let kept = fetch(conn, &copy, done, true).await?;
    let delete = format!("DELETE FROM signals_delivery WHERE {CLAIMED_SQLITE} RETURNING id, 0, 0");
    fetch(conn, &delete, done, false).await?;
    Ok(kept)
}

/// Runs a statement with the ids and the claims of the deliveries, and for how long they are kept if the statement takes that.
async fn fetch(
    conn: &mut Conn<'_>,
    text: &str,
    done: &[Done],
    takes_keep: bool,
) -> Result<Vec<Kept>> {
    let kind = conn.kind();
    let keep = |done: &Done| claim::millis(Duration::from_millis(done.keep));
    let mut sql = Sql::new(kind, text)
        .bind(list(kind, done.iter().map(|done| done.id)))
        .bind(list(kind, done.iter().map(|done| done.claim)));
    if takes_keep {
        sql = sql.bind(list(kind, done.iter().map(keep)));
    }
    sql.fetch(conn).await
}

/// Makes kept deliveries due again, in a transaction. Their claims are incremented, because a worker may repeat an acknowledgement whose answer it
/// has not received.
pub(super) async fn replay(conn: &mut Conn<'_>, ids: &[i64]) -> Result<()> {
    let kind = conn.kind();
    let (now, of_ids) = (now(kind), of_ids(kind));
    let own_ids = match kind {
        DatabaseKind::Sqlite => "",
        DatabaseKind::Postgres => "OVERRIDING SYSTEM VALUE",
    };
    let copy = format!(
        "INSERT INTO signals_delivery ({COLUMNS}) {own_ids} SELECT id, event, receiver, signal, sender, key, created, payload, context, \
         ordering_key, coalesce_key, stored_at, {now}, 0, claim + 1, 0, NULL, NULL, NULL FROM signals_done WHERE {of_ids}"
    );
    let ids = list(kind, ids.iter().copied());
    Sql::new(kind, &copy).bind(ids.as_str()).execute(conn).await?;
    let delete = format!("DELETE FROM signals_done WHERE {of_ids}");
    Sql::new(kind, &delete).bind(ids.as_str()).execute(conn).await.map(drop)
}

fn of_ids(kind: DatabaseKind) -> &'static str {
    match kind {
        DatabaseKind::Sqlite => "id IN (SELECT value FROM json_each($1))",
        DatabaseKind::Postgres => "id IN (SELECT unnest($1::text::bigint[]))",
    }
}

/// What is pruned.
#[derive(Debug, Clone, Copy)]
pub(super) enum Prune {
    /// Kept deliveries whose time has ended.
    Kept,
    /// Deliveries that have been dead for this number of milliseconds.
    Dead(i64),
}

/// Deletes a number of old deliveries. Returns their number, and whether there may be more. If another worker is pruning, nothing is deleted.
pub(super) async fn prune(conn: &mut Conn<'_>, what: Prune) -> Result<(usize, bool)> {
    let kind = conn.kind();
    let now = now(kind);
    let (table, condition, order, age) = match what {
        Prune::Kept => ("signals_done", format!("keep_until <= {now} AND $1 = 0"), "keep_until", 0),
        Prune::Dead(age) => {
            let condition = format!("dead_at IS NOT NULL AND dead_at <= {}", earlier(kind, "$1"));
            ("signals_delivery", condition, "dead_at", age)
        }
    };
    let text = match kind {
        DatabaseKind::Sqlite => format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {condition} ORDER BY {order} LIMIT {BATCH}) RETURNING id"
        ),
        // The number is only the name of the lock.
        DatabaseKind::Postgres => format!(
            "WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(7238147261844) AS is_mine), \
             old AS MATERIALIZED (SELECT id FROM {table}, turn WHERE is_mine AND {condition} ORDER BY {order} LIMIT {BATCH} \
             FOR UPDATE OF {table} SKIP LOCKED) DELETE FROM {table} t USING old WHERE t.id = old.id RETURNING t.id"
        ),
    };
    let pruned: Vec<(i64,)> = Sql::new(kind, &text).bind(age).fetch(conn).await?;
    Ok((pruned.len(), pruned.len() == BATCH))
}
