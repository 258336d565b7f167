//! Simulates a worker that dies while it runs a delivery, for tests.

use std::mem::take;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::durable::end_claim::Failure;
use crate::durable::run::{Ended, Run};
use crate::transaction::Transaction;

/// The point at which a worker dies, see [`testing::worker_dies_at`](crate::testing::worker_dies_at).
///
/// | point | the receiver | its writes through the connection | the result |
/// |---|---|---|---|
/// | `BeforeRun` | does not run | | is not stored |
/// | `AfterRun` | has run | are rolled back | is not stored |
/// | `BeforeAcknowledgement` | has run | are rolled back | is stored if it has failed |
/// | `InCommit` | has run | are committed if it has succeeded | is stored, but the worker gets no answer |
///
/// [`ALL`](Self::ALL) contains the points in this order.
///
/// ```
/// use sqlx_signals::testing::WorkerDeath;
///
/// assert_eq!(WorkerDeath::ALL[0], WorkerDeath::BeforeRun);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerDeath {
    /// The delivery is claimed, and the receiver has not run.
    BeforeRun,
    /// The receiver has returned, and neither its success nor its failure is stored.
    AfterRun,
    /// The receiver has returned. A failure is stored. After a success, the delivery is not deleted; if the receiver takes the connection,
    /// COMMIT is not sent.
    BeforeAcknowledgement,
    /// The database has executed the statement or the COMMIT that stores the result, and the worker dies before it gets the answer.
    /// Callbacks that the receiver has deferred to the commit do not run.
    InCommit,
}

impl WorkerDeath {
    /// All points.
    ///
    /// See the example of [`WorkerDeath`].
    pub const ALL: [Self; 4] =
        [Self::BeforeRun, Self::AfterRun, Self::BeforeAcknowledgement, Self::InCommit];
}

/// What a worker has done with a delivery before it died.
pub(super) enum UntilDeath {
    NotRun,
    /// The receiver has run, with this error. Its result is not stored, or was stored by its COMMIT.
    Ran(Option<String>),
    /// The result is stored as usual.
    Ended(Result<Ended, Failure>),
}

impl Run {
    /// Runs a receiver that does not take the connection. The arguments are those of `without_connection`.
    pub(super) async fn without_connection_until(
        self,
        death: WorkerDeath,
        db: &Db,
        reads: Option<&mut Conn<'_>>,
    ) -> UntilDeath {
        if death == WorkerDeath::BeforeRun {
            return UntilDeath::NotRun;
        }
        match (death, self.without_connection(db, reads).await) {
            (WorkerDeath::AfterRun, Ended::Failed(error)) => {
                UntilDeath::Ran(Some(error.to_string()))
            }
            (WorkerDeath::AfterRun | WorkerDeath::BeforeAcknowledgement, Ended::Succeeded) => {
                UntilDeath::Ran(None)
            }
            (_, ended) => UntilDeath::Ended(Ok(ended)),
        }
    }

    /// Runs a receiver in a transaction. The arguments are those of `in_transaction`.
    pub(super) async fn in_transaction_until(
        self,
        death: WorkerDeath,
        mut tx: Transaction<'_>,
        db: &Db,
    ) -> UntilDeath {
        let data = self.data();
        data.scope(async move {
            if death == WorkerDeath::BeforeRun {
                lose(tx).await;
                return UntilDeath::NotRun;
            }
            match self.acknowledge_and_call(&mut tx, db, None).await {
                Ok(Some(Err(error))) if death == WorkerDeath::AfterRun => {
                    lose(tx).await;
                    UntilDeath::Ran(Some(error.to_string()))
                }
                Ok(Some(Ok(()))) if death != WorkerDeath::InCommit => {
                    lose(tx).await;
                    UntilDeath::Ran(None)
                }
                Ok(Some(Ok(()))) => match commit_unanswered(tx).await {
                    Ok(()) => UntilDeath::Ran(None),
                    Err(error) => UntilDeath::Ended(Ok(Ended::Failed(error))),
                },
                Ok(called) => {
                    lose(tx).await;
                    let ended = match called {
                        Some(Err(error)) => Ended::Failed(error),
                        _ => Ended::ClaimLost,
                    };
                    UntilDeath::Ended(Ok(ended))
                }
                Err(failure) => {
                    lose(tx).await;
                    UntilDeath::Ended(Err(failure))
                }
            }
        })
        .await
    }
}

/// Rolls back as the database does if the client disconnects: no callback runs.
async fn lose(mut tx: Transaction<'_>) {
    drop(take(&mut tx.frame().deferred));
    tx.rollback_or_log().await;
}

/// Commits without running callbacks.
async fn commit_unanswered(mut tx: Transaction<'_>) -> crate::error::Result<()> {
    tx.check().await?;
    drop(take(&mut tx.frame().deferred));
    tx.commit_checked().await.map(drop)
}
