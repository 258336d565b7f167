//! Runs due deliveries in the calling task, for tests.

use std::any::TypeId;
use std::borrow::Cow;
use std::time::Duration;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::source::Source;
use crate::database::writer::{Verb, Writer};
use crate::durable::claim::{self, Claim, Kind};
use crate::durable::claimed::Claimed;
use crate::durable::death::{UntilDeath, WorkerDeath};
use crate::durable::end_claim;
use crate::durable::probe;
use crate::durable::receivers::{DurableReceiver, DurableReceivers};
use crate::durable::run::{Ended, Run, failure};
use crate::durable::sql::Sql;
use crate::error::{Error, Result};
use crate::task::chain::{Ran, RunningReceiver};
use crate::task::measure;
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

/// Runs deliveries in the calling task.
struct InlineWorker {
    receivers: DurableReceivers,
    /// The name in the column `worker`.
    name: String,
    dies_at: Option<WorkerDeath>,
    claimed: usize,
    runs: Vec<InlineRun>,
}

/// Runs due deliveries, and then those that these have stored, until none is due.
pub(crate) async fn deliver(source: Source<'_>) -> Result<Vec<InlineRun>> {
    let mut worker = InlineWorker::new("testing::deliver".to_owned(), None);
    worker.deliver(source).await?;
    Ok(worker.runs)
}

/// As [`deliver`], but the worker of each delivery dies at a point, and the delivery is due again.
pub(crate) async fn deliver_until(
    death: WorkerDeath,
    source: Source<'_>,
) -> Result<Vec<InlineRun>> {
    let name = format!("testing::worker_dies_at {:016x}", fastrand::u64(..));
    let mut worker = InlineWorker::new(name, Some(death));
    worker.deliver(source).await?;
    match worker.claimed {
        0 => Err(Error::other("no delivery is due, so no worker has died")),
        _ => Ok(worker.runs),
    }
}

impl InlineWorker {
    fn new(name: String, dies_at: Option<WorkerDeath>) -> Self {
        measure::ask_again();
        let receivers = DurableReceivers::of(None);
        Self { receivers, name, dies_at, claimed: 0, runs: Vec::new() }
    }

    async fn deliver(&mut self, source: Source<'_>) -> Result<()> {
        let db = match source {
            Source::Conn(mut conn) if conn.in_transaction() => {
                return self.deliver_in_transaction(&mut conn).await;
            }
            Source::Conn(conn) => conn.state.db.clone(),
            Source::Db(db) => Some(Cow::into_owned(db)),
        };
        let db = db.ok_or_else(|| Error::other("the connection has no `Db`"))?;
        loop {
            let mut conn = db.acquire_to_write(Writer::of(Verb::Claim, "signals_delivery")).await?;
            let Some((claimed, receiver)) = self.next(&mut conn).await? else {
                return self.end_leases(&mut conn).await;
            };
            drop(conn);
            let ended = self.run(&claimed, &receiver, &db).await?;
            let mut conn =
                db.acquire_to_write(Writer::of(Verb::Acknowledge, "signals_delivery")).await?;
            self.store_result(&mut conn, &claimed, &receiver, ended).await?;
        }
    }

    /// Runs the deliveries of the test's transaction.
    async fn deliver_in_transaction(&mut self, conn: &mut Conn<'_>) -> Result<()> {
        let db = conn.state.db.clone();
        let db = db.ok_or_else(|| Error::other("the transaction was not begun by a `Db`"))?;
        loop {
            conn.store_changes();
            conn.write_outbox().await?;
            let Some((claimed, receiver)) = self.next(conn).await? else {
                return self.end_leases(conn).await;
            };
            let ended = self.run_in_savepoint(conn, &claimed, &receiver, &db).await?;
            self.store_result(conn, &claimed, &receiver, ended).await?;
        }
    }

    async fn run(
        &self,
        claimed: &Claimed,
        receiver: &DurableReceiver,
        db: &Db,
    ) -> Result<UntilDeath> {
        let takes_connection = receiver.receiver.info.connection;
        Ok(match (Run::prepare(claimed, receiver), self.dies_at) {
            (Err(failure), _) => UntilDeath::Ended(Err(failure)),
            (Ok(run), None) if takes_connection => {
                UntilDeath::Ended(run.in_transaction(db.begin().await?, db, None).await)
            }
            (Ok(run), Some(death)) if takes_connection => {
                run.in_transaction_until(death, db.begin().await?, db).await
            }
            (Ok(run), None) => UntilDeath::Ended(Ok(run.without_connection(db, None).await)),
            (Ok(run), Some(death)) => run.without_connection_until(death, db, None).await,
        })
    }

    /// Runs a delivery in a savepoint of the test's transaction.
    async fn run_in_savepoint(
        &self,
        conn: &mut Conn<'_>,
        claimed: &Claimed,
        receiver: &DurableReceiver,
        db: &Db,
    ) -> Result<UntilDeath> {
        let run = match Run::prepare(claimed, receiver) {
            Ok(run) => run,
            Err(failure) => return Ok(UntilDeath::Ended(Err(failure))),
        };
        if receiver.receiver.info.connection {
            let savepoint = Transaction::open(conn.reborrow()).await?;
            return Ok(match self.dies_at {
                None => UntilDeath::Ended(run.in_transaction(savepoint, db, None).await),
                Some(death) => run.in_transaction_until(death, savepoint, db).await,
            });
        }
        // The receiver would wait for the transaction if it used the `Db`.
        let rehearsal = RunningReceiver::rehearsal(db.pool_id(), db.queue_id(), Ran::default());
        let ended = async {
            match self.dies_at {
                None => UntilDeath::Ended(Ok(run.without_connection(db, Some(conn)).await)),
                Some(death) => run.without_connection_until(death, db, Some(conn)).await,
            }
        };
        Ok(rehearsal.scope(ended).await)
    }

    /// Claims the next due delivery. The receivers take turns in the order of their names.
    async fn next(&mut self, conn: &mut Conn<'_>) -> Result<Option<(Claimed, DurableReceiver)>> {
        let receivers = &self.receivers;
        end_claim::release_ended(conn).await?;
        for due in probe::probe(conn, receivers.names(), |_| 0).await? {
            let name = due.receiver.as_str();
            let worker = self.name.as_str();
            let wanted = |kind| Claim {
                receiver: name,
                kind,
                limit: 1,
                lease: LEASE,
                worker,
                other_names: receivers.other_names(name),
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
                    claimed =
                        claim::claim_ordered(conn, &wanted(Kind::Usual), &after, skips).await?;
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
                    self.claimed += 1;
                    return Ok(Some((claimed, receiver.clone())));
                }
            }
        }
        Ok(None)
    }

    /// Stores what the worker has still stored.
    async fn store_result(
        &mut self,
        conn: &mut Conn<'_>,
        claimed: &Claimed,
        receiver: &DurableReceiver,
        until: UntilDeath,
    ) -> Result<()> {
        let (id, claim) = (claimed.id, claimed.claim);
        let failed = match until {
            UntilDeath::NotRun => return Ok(()),
            UntilDeath::Ran(error) => {
                self.note(receiver, error);
                return Ok(());
            }
            UntilDeath::Ended(Ok(Ended::Succeeded)) => {
                end_claim::acknowledge(conn, &[receiver.done(claimed)]).await?;
                None
            }
            UntilDeath::Ended(Ok(Ended::Acknowledged | Ended::ClaimLost)) => None,
            UntilDeath::Ended(Ok(Ended::Failed(error))) => {
                Some(failure(&error, claimed.attempt, receiver.options))
            }
            UntilDeath::Ended(Err(failure)) => Some(failure),
        };
        if let Some(failure) = &failed {
            end_claim::fail(conn, id, claim, failure).await?;
        }
        self.note(receiver, failed.map(|failure| failure.error));
        Ok(())
    }

    fn note(&mut self, receiver: &DurableReceiver, error: Option<String>) {
        let info = receiver.receiver.info.info;
        self.runs.push(InlineRun { receiver: info.receiver, name: info.name, error });
    }

    /// Makes the deliveries of dead workers due. Their leases would end later.
    async fn end_leases(&self, conn: &mut Conn<'_>) -> Result<()> {
        if self.dies_at.is_none() {
            return Ok(());
        }
        let kind = conn.kind();
        let text =
            format!("UPDATE signals_delivery SET run_at = {} WHERE worker = $1", claim::now(kind));
        Sql::new(kind, &text).bind(self.name.as_str()).execute(conn).await.map(drop)
    }
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
