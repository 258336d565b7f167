//! Runs one delivery on a task of its own.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Shared, Stage};
use crate::database::pool::ANSWER_TIMEOUT;
use crate::database::writer::Verb;
use crate::durable::claim::ServerTransaction;
use crate::durable::claimed::Claimed;
use crate::durable::end_claim::{self, Failure};
use crate::durable::ended;
use crate::durable::receivers::DurableReceiver;
use crate::durable::run::{Ended, Run, failure, not_begun};
use crate::task::measure::Stopwatch;
use crate::transaction::Transaction;

/// How long a delivery is postponed for whose receiver there is no entry with its signal and sender.
const UNKNOWN: Duration = Duration::from_secs(60);
/// How often a failure is stored again if the database does not answer.
const TRIES: u32 = 5;

/// Runs a delivery when fewer than the allowed number run, and stores its result.
pub(super) async fn run(
    shared: Arc<Shared>,
    claimed: Claimed,
    receiver: Option<DurableReceiver>,
    cancel: CancellationToken,
) {
    let id = claimed.id;
    let Some(permit) = shared.turn(&claimed, &cancel).await else { return };
    shared.set_stage(id, Stage::Running);
    let since = Stopwatch::start();
    let metrics = shared.metrics.of(&claimed.receiver);
    if let Some(lag) = first_lag(&claimed, receiver.as_ref()) {
        metrics.late(lag, since);
    }
    let ended = run_or_refuse(&shared, &claimed, receiver.as_ref());
    // It still owns the transaction of the receiver while its statement is ended.
    let mut ended = pin!(AssertUnwindSafe(ended).catch_unwind());
    let ended = tokio::select! {
        biased;
        () = shared.cancelled.cancelled() => {
            shared.end_statement(id).await;
            return drop(permit);
        }
        () = cancel.cancelled() => {
            // The lease has ended, so the delivery is due again without further action.
            shared.forget(id);
            return drop(permit);
        }
        ended = &mut ended => ended,
    };
    let ended = ended.map(|ended| match (ended, &receiver) {
        (Ok(Ended::Failed(error)), Some(receiver)) => {
            Err(failure(&error, claimed.attempt, receiver.options))
        }
        (ended, _) => ended,
    });
    if let Some(outcome) = outcome(&ended) {
        ended::count(&shared.db, &claimed.receiver, outcome == SUCCEEDED);
        metrics.ended(outcome, since);
    }
    match ended {
        Ok(Ok(Ended::Succeeded)) => match &receiver {
            Some(receiver) => shared.succeeded(receiver.done(&claimed)),
            None => shared.forget(id),
        },
        Ok(Ok(Ended::Acknowledged)) => shared.forget(id),
        Ok(Ok(Ended::ClaimLost)) => {
            tracing::debug!(
                id,
                receiver = claimed.receiver,
                "a delivery had passed to another worker"
            );
            shared.forget(id);
        }
        Ok(Err(failure)) => {
            shared.store_failure(&claimed, &failure).await;
            shared.forget(id);
        }
        // A panic of the library itself: the receiver's own panics are errors. The lease ends.
        Ok(Ok(Ended::Failed(_))) | Err(_) => shared.forget(id),
    }
    drop(permit);
    shared.note_end();
}

const SUCCEEDED: &str = "succeeded";

/// The result of a run as metrics have it. `None` if another worker runs the delivery.
fn outcome<P>(ended: &Result<Result<Ended, Failure>, P>) -> Option<&'static str> {
    match ended {
        Ok(Ok(Ended::Succeeded | Ended::Acknowledged)) => Some(SUCCEEDED),
        Ok(Ok(Ended::ClaimLost)) => None,
        Ok(Err(failure)) if failure.is_dead => Some("dead"),
        Ok(Ok(Ended::Failed(_)) | Err(_)) | Err(_) => Some("failed"),
    }
}

/// How late the first attempt is. When a later one was due is not known, because its claim has set the end of the lease, and a delivery that is
/// retried or replayed was stored long ago.
fn first_lag(claimed: &Claimed, receiver: Option<&DurableReceiver>) -> Option<Duration> {
    let (1, 1, Some(receiver)) = (claimed.attempt, claimed.claim, receiver) else { return None };
    let delay = Duration::from_millis(receiver.options.delay);
    Some(claimed.age().saturating_sub(delay))
}

/// # Errors
///
/// What to store instead of a run.
async fn run_or_refuse(
    shared: &Shared,
    claimed: &Claimed,
    receiver: Option<&DurableReceiver>,
) -> Result<Ended, Failure> {
    let Some(receiver) = receiver else {
        let error = format!(
            "no receiver of this name receives `{}` of `{}`",
            claimed.signal, claimed.sender
        );
        return Err(Failure { delay: UNKNOWN, is_dead: false, counts: false, error });
    };
    let run = Run::prepare(claimed, receiver)?;
    if !receiver.receiver.info.connection {
        return Ok(run.without_connection(&shared.db, None).await);
    }
    match shared.connections.begin().await {
        Ok(tx) => {
            shared.set_stage(claimed.id, Stage::InTransaction);
            let ended = run.in_transaction(tx, &shared.db, Some(shared)).await;
            shared.set_stage(claimed.id, Stage::Running);
            ended
        }
        // No attempt was made.
        Err(error) => Err(not_begun(&error)),
    }
}

impl Shared {
    /// Notes the transaction of a running receiver.
    pub(in crate::durable) fn set_transaction(&self, id: i64, transaction: ServerTransaction) {
        if let Some(entry) = self.running().get_mut(&id) {
            entry.transaction = Some(transaction);
        }
    }

    /// Ends the statement that a receiver executes in its transaction. Otherwise the transaction would be rolled back only when the
    /// statement ends by itself, which may wait for a lock.
    async fn end_statement(&self, id: i64) {
        let transaction = self.running().get(&id).and_then(|entry| entry.transaction);
        let Some(transaction) = transaction.filter(|_| self.connections.can_end_statements())
        else {
            return;
        };
        let end = async {
            let mut conn = self.connections.control.acquire().await?;
            let end = async move { end_claim::end_statement(&mut conn, transaction).await };
            self.connections.limited(end).await
        };
        if let Err(error) = end.await {
            tracing::warn!(id, %error, "the statement of a stopped receiver could not be ended");
        }
    }

    /// Rolls back the transaction of a receiver that has failed. It may have been stopped while it executed a statement.
    pub(in crate::durable) async fn roll_back(&self, mut tx: Transaction<'_>, id: i64) {
        if !self.connections.can_end_statements() {
            return tx.rollback_or_log().await;
        }
        if tx.may_execute() {
            self.end_statement(id).await;
        }
        if timeout(ANSWER_TIMEOUT, tx.rollback_or_log()).await.is_err() {
            tracing::warn!(id, "a rollback was not answered: its connection is closed");
        }
    }

    async fn store_failure(&self, claimed: &Claimed, failure: &Failure) {
        let Claimed { id, claim, receiver, attempt, .. } = claimed;
        let Failure { delay, error, .. } = failure;
        match failure.is_dead {
            true => tracing::error!(id, receiver, attempt, error, "a delivery is dead"),
            false => {
                tracing::warn!(id, receiver, attempt, ?delay, error, "a delivery is tried again")
            }
        }
        for attempt in 0..TRIES {
            let stored = async {
                let mut conn = self.connections.to_write(Verb::Fail).await?;
                let store = async move {
                    let is_stored = end_claim::fail(&mut conn, *id, *claim, failure).await?;
                    conn.done().await.map(|()| is_stored)
                };
                self.connections.limited(store).await
            };
            match stored.await {
                Ok(true) => return,
                Ok(false) => {
                    tracing::debug!(id, receiver, "a delivery had passed to another worker");
                    return;
                }
                Err(error) => {
                    tracing::warn!(id, receiver, %error, "the failure of a delivery could not be stored");
                    tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                }
            }
        }
    }
}
