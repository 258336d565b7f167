//! The statements by which the claim of a delivery ends: acknowledge, fail, give back, and release what a lost worker has claimed.

use std::time::Duration;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::durable::claim::{CLAIMED_SQLITE, ServerTransaction, bind_claims, later, millis, now};
use crate::durable::kept::{self, Done};
use crate::durable::sql::Sql;
use crate::error::Result;

/// Ends the statement that a transaction on PostgreSQL is executing.
pub(super) async fn end_statement(conn: &mut Conn<'_>, tx: ServerTransaction) -> Result<()> {
    let text = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND state = 'active' \
                AND (extract(epoch FROM xact_start) * 1000000)::bigint = $2";
    let sql = Sql::new(conn.kind(), text).bind(tx.process).bind(tx.begun);
    sql.execute(conn).await.map(drop)
}

/// Deletes or keeps a delivery in the transaction of its receiver. Returns `None` if the claim has passed to another worker.
pub(super) async fn acknowledge_one(
    conn: &mut Conn<'_>,
    done: Done,
) -> Result<Option<ServerTransaction>> {
    let acknowledged = match (done.keep, conn.kind()) {
        (0, kind) => {
            let returned = match kind {
                DatabaseKind::Sqlite => "0, 0",
                DatabaseKind::Postgres => ServerTransaction::COLUMNS,
            };
            let text = format!(
                "DELETE FROM signals_delivery WHERE id = $1 AND claim = $2 RETURNING {returned}"
            );
            let sql = Sql::new(kind, &text).bind(done.id).bind(done.claim);
            sql.fetch::<(i32, i64)>(conn).await?.pop()
        }
        _ => kept::keep(conn, &[done]).await?.pop().map(|(_, process, begun)| (process, begun)),
    };
    Ok(acknowledged.map(ServerTransaction::of))
}

/// Deletes or keeps deliveries whose receivers have succeeded, and returns those of which this worker still had the claim.
pub(super) async fn acknowledge(conn: &mut Conn<'_>, done: &[Done]) -> Result<Vec<i64>> {
    let (kept, deleted): (Vec<Done>, Vec<Done>) = done.iter().partition(|done| done.keep > 0);
    let mut ended = Vec::new();
    if !kept.is_empty() {
        ended = kept::keep(conn, &kept).await?.into_iter().map(|(id, ..)| id).collect();
    }
    if !deleted.is_empty() {
        let claims: Vec<_> = deleted.iter().map(Done::claimed).collect();
        ended.extend(delete(conn, &claims).await?);
    }
    Ok(ended)
}

/// Deletes deliveries, and returns those of which this worker still had the claim.
pub(super) async fn delete(conn: &mut Conn<'_>, claims: &[(i64, i64)]) -> Result<Vec<i64>> {
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

/// Stores how a run has failed. Returns `false` if the claim has ended. If the first of two calls was not answered, the second one changes nothing.
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
         WHERE id = $1 AND claim = $2 AND worker IS NOT NULL",
        later(kind, "$4")
    );
    let sql = Sql::new(kind, &text).bind(id).bind(claim).bind(&*failure.error);
    Ok(sql.bind(millis(failure.delay)).execute(conn).await? == 1)
}

/// Makes deliveries due again whose receivers have not run to their end, without counting an attempt. Returns the deliveries that are still
/// claimed: one that is deleted in an open transaction is locked. If the transaction is rolled back, such a delivery is due when its lease ends.
pub(super) async fn give_back(conn: &mut Conn<'_>, claims: &[(i64, i64)]) -> Result<Vec<i64>> {
    let kind = conn.kind();
    let joined = "signals_delivery d JOIN unnest($1::text::bigint[], $2::text::bigint[]) AS a (id, claim) USING (id, claim) \
                  WHERE d.worker IS NOT NULL";
    let which = match kind {
        DatabaseKind::Sqlite => format!("worker IS NOT NULL AND {CLAIMED_SQLITE}"),
        DatabaseKind::Postgres => {
            format!("id IN (SELECT d.id FROM {joined} FOR UPDATE OF d SKIP LOCKED)")
        }
    };
    let text = format!(
        "UPDATE signals_delivery SET worker = NULL, attempt = CASE WHEN attempt > 0 THEN attempt - 1 ELSE 0 END, run_at = {} WHERE {which}",
        now(kind)
    );
    let given_back = bind_claims(Sql::new(kind, &text), kind, claims).execute(conn).await?;
    if kind == DatabaseKind::Sqlite || usize::try_from(given_back) == Ok(claims.len()) {
        return Ok(Vec::new());
    }
    // The others have ended, unless they are locked.
    let text = format!("SELECT d.id FROM {joined}");
    let left: Vec<(i64,)> = bind_claims(Sql::new(kind, &text), kind, claims).fetch(conn).await?;
    Ok(left.into_iter().map(|(id,)| id).collect())
}

/// Ends the claims of deliveries with an ordering key whose lease has ended, and counts them as lost. The claim of a delivery without a key
/// passes to the next worker that claims it. With a key, that worker may have to claim an older delivery first, whose transaction has
/// committed later, and the ended claim would block it. A suspect is not released: it runs alone, before the others of its key.
pub(super) async fn release_ended(conn: &mut Conn<'_>) -> Result<()> {
    let kind = conn.kind();
    let locks = match kind {
        DatabaseKind::Sqlite => "",
        // A delivery that its receiver has deleted in an open transaction is locked.
        DatabaseKind::Postgres => "FOR UPDATE SKIP LOCKED",
    };
    let text = format!(
        "UPDATE signals_delivery SET worker = NULL, lost = lost + 1, attempt = CASE WHEN attempt > 0 THEN attempt - 1 ELSE 0 END \
         WHERE id IN (SELECT id FROM signals_delivery WHERE worker IS NOT NULL AND ordering_key IS NOT NULL AND lost < 1 AND run_at <= {} \
         LIMIT 1000 {locks})",
        now(kind)
    );
    Sql::new(kind, &text).execute(conn).await.map(drop)
}
