//! Runs due deliveries in the calling task, for tests.

use std::any::TypeId;
use std::borrow::Cow;
use std::time::Duration;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::source::Source;
use crate::database::writer::{Verb, Writer};
use crate::durable::claim::{self, Claim, Failure, Kind};
use crate::durable::claimed::Claimed;
use crate::durable::probe;
use crate::durable::receivers::{DurableReceiver, DurableReceivers};
use crate::durable::run::{Ended, Run, failure};
use crate::durable::sql::Sql;
use crate::error::{Error, Result};
use crate::task::chain::{Ran, RunningReceiver};
use crate::transaction::Transaction;

/// One run of a delivery.
#[derive(Debug)]
pub(crate) struct InlineRun {
    pub(crate) receiver: TypeId,
    pub(crate) name: &'static str,
    /// The error, if the run has failed.
    pub(crate) error: Option<String>,
}

const LEASE: Duration = Duration::from_secs(60);

/// Runs due deliveries, and then those that these have stored, until none is due.
pub(crate) async fn deliver(source: Source<'_>) -> Result<Vec<InlineRun>> {
    let receivers = DurableReceivers::of(None);
    let mut runs = Vec::new();
    match source {
        Source::Conn(mut conn) if conn.in_transaction() => {
            let db = conn.state.db.clone();
            let Some(db) = db else {
                return Err(Error::other("the transaction was not begun by a `Db`"));
            };
            loop {
                conn.store_changes();
                conn.write_outbox().await?;
                let Some((claimed, receiver)) = next(&mut conn, &receivers).await? else { break };
                runs.push(run_in_savepoint(&mut conn, &claimed, &receiver, &db).await?);
            }
        }
        Source::Conn(conn) => {
            let db =
                conn.state.db.clone().ok_or_else(|| Error::other("the connection has no `Db`"))?;
            drop(conn);
            deliver_of(&db, &receivers, &mut runs).await?;
        }
        Source::Db(db) => deliver_of(&Cow::into_owned(db), &receivers, &mut runs).await?,
    }
    Ok(runs)
}

async fn deliver_of(
    db: &Db,
    receivers: &DurableReceivers,
    runs: &mut Vec<InlineRun>,
) -> Result<()> {
    loop {
        let mut conn = db.acquire_to_write(Writer::of(Verb::Claim, "signals_delivery")).await?;
        let Some((claimed, receiver)) = next(&mut conn, receivers).await? else { return Ok(()) };
        drop(conn);
        let ended = match Run::prepare(&claimed, &receiver) {
            Err(failure) => Err(failure),
            Ok(run) if receiver.receiver.info.connection => {
                run.in_transaction(db.begin().await?, db).await
            }
            Ok(run) => Ok(run.without_connection(db, None).await),
        };
        let mut conn =
            db.acquire_to_write(Writer::of(Verb::Acknowledge, "signals_delivery")).await?;
        runs.push(store_result(&mut conn, &claimed, &receiver, ended).await?);
    }
}

/// Claims the next due delivery. The receivers take turns in the order of their names.
async fn next(
    conn: &mut Conn<'_>,
    receivers: &DurableReceivers,
) -> Result<Option<(Claimed, DurableReceiver)>> {
    claim::release_ended(conn).await?;
    for due in probe::probe(conn, receivers.names(), |_| 0).await? {
        let name = due.receiver.as_str();
        let worker = "testing::deliver";
        let wanted = |kind| Claim {
            receiver: name,
            kind,
            limit: 1,
            lease: LEASE,
            worker,
            running: Vec::new(),
            bound: 0,
        };
        let mut claimed = Vec::new();
        for kind in due.unordered.then_some(Kind::Usual).into_iter().chain(due.suspect) {
            if claimed.is_empty() {
                claimed = claim::claim(conn, &wanted(kind)).await?;
            }
        }
        if claimed.is_empty() && due.ordered {
            let skips = receivers.options(name).is_some_and(|options| options.skips_dead);
            let mut after = String::new();
            loop {
                claimed = claim::claim_ordered(conn, &wanted(Kind::Usual), &after, skips).await?;
                if !claimed.is_empty() {
                    break;
                }
                match claim::last_key(conn, name, &after, skips).await? {
                    Some(key) => after = format!("{key}\u{1}"),
                    None => break,
                }
            }
        }
        for claimed in claimed {
            if let Some(receiver) = receivers.get(name, &claimed.signal, &claimed.sender) {
                return Ok(Some((claimed, receiver.clone())));
            }
        }
    }
    Ok(None)
}

/// Runs a delivery in a savepoint of the test's transaction.
async fn run_in_savepoint(
    conn: &mut Conn<'_>,
    claimed: &Claimed,
    receiver: &DurableReceiver,
    db: &Db,
) -> Result<InlineRun> {
    let ended = match Run::prepare(claimed, receiver) {
        Err(failure) => Err(failure),
        Ok(run) if receiver.receiver.info.connection => {
            let savepoint = Transaction::open(conn.reborrow()).await?;
            run.in_transaction(savepoint, db).await
        }
        Ok(run) => {
            // The receiver would wait for the transaction if it used the `Db`.
            let rehearsal = RunningReceiver::rehearsal(db.pool_id(), db.queue_id(), Ran::default());
            Ok(rehearsal.scope(run.without_connection(db, Some(&mut *conn))).await)
        }
    };
    store_result(conn, claimed, receiver, ended).await
}

async fn store_result(
    conn: &mut Conn<'_>,
    claimed: &Claimed,
    receiver: &DurableReceiver,
    ended: Result<Ended, Failure>,
) -> Result<InlineRun> {
    let (id, claim) = (claimed.id, claimed.claim);
    let failed = match ended {
        Ok(Ended::Succeeded) => {
            claim::acknowledge(conn, &[(id, claim)]).await?;
            None
        }
        Ok(Ended::Acknowledged | Ended::ClaimLost) => None,
        Ok(Ended::Failed(error)) => Some(failure(&error, claimed.attempt, receiver.options)),
        Err(failure) => Some(failure),
    };
    if let Some(failure) = &failed {
        claim::fail(conn, id, claim, failure).await?;
    }
    let info = receiver.receiver.info.info;
    let error = failed.map(|failure| failure.error);
    Ok(InlineRun { receiver: info.receiver, name: info.name, error })
}

/// Makes every delivery due that is neither claimed nor dead.
pub(crate) async fn make_due(source: Source<'_>) -> Result<()> {
    let mut conn = source.acquire_to_write(Writer::of(Verb::MakeDue, "signals_delivery")).await?;
    conn.write_outbox().await?;
    let kind = conn.kind();
    let text = format!(
        "UPDATE signals_delivery SET run_at = {} WHERE worker IS NULL AND dead_at IS NULL",
        claim::now(kind)
    );
    Sql::new(kind, &text).execute(&mut conn).await.map(drop)
}

/// How many deliveries a transaction has stored for a receiver.
pub(crate) fn stored_in(tx: &mut Transaction<'_>) -> Vec<&'static str> {
    use std::any::Any;

    use crate::durable::outbox::DeliveryOutbox;

    let Some(outbox) = &mut tx.frame().outbox else { return Vec::new() };
    let outbox: &mut dyn Any = &mut **outbox;
    let outbox = outbox.downcast_mut::<DeliveryOutbox>();
    outbox.map(|outbox| std::mem::take(&mut outbox.receivers)).unwrap_or_default()
}
