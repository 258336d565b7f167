//! Transactions and savepoints that the library opens for its own work: they begin, the work runs, and they end as it has ended.

use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::transaction::Transaction;

/// What is done in a transaction or savepoint, and what that changes in memory. If that must not outlive a rollback, the value undoes
/// it when it is dropped before [`commits`](Self::commits).
///
/// A trait, because the compiler cannot see that the future of a generic async closure is `Send`.
pub(crate) trait Undoable: Send {
    type Done: Send;

    fn run(&mut self, tx: &mut Transaction<'_>) -> impl Future<Output = Result<Self::Done>> + Send;

    /// COMMIT is sent next.
    fn before_commit(&mut self) {}

    /// COMMIT was refused: nothing is stored.
    fn commit_refused(&mut self) {}

    /// The work will run once more, from the state in which it began.
    fn before_retry(&mut self) {}
}

/// Runs `work` in a transaction, commits it if the work succeeds, and rolls it back if the work fails. If the connection is in a
/// transaction of sqlx's own, it is a savepoint.
///
/// If a prepared statement is refused because a table has changed since, the work runs once more in a new transaction, unless a
/// receiver was told of anything in the first one: what a receiver does cannot be repeated.
///
/// # Cancel safety
///
/// A dropped future rolls back if COMMIT was not sent yet, and finishes the commit and what waits for it otherwise, as
/// [`Transaction::commit`] does.
pub(crate) async fn in_transaction<W: Undoable>(conn: Conn<'_>, mut work: W) -> Result<W::Done> {
    let mut tx = Transaction::open(conn).await?;
    let mut is_first = true;
    let done = loop {
        match work.run(&mut tx).await {
            Err(error) if is_first && error.is_schema_changed() && !tx.frame().notified => {
                is_first = false;
                if tx.restart().await.is_err() {
                    break Err(error);
                }
                work.before_retry();
            }
            done => break done,
        }
    };
    match done {
        Ok(done) => {
            tx.check().await?;
            // Before the await: if this future is dropped in it, the rows may be stored, and their keys and versions are what the
            // next write of them needs.
            work.before_commit();
            let committed = tx.commit_checked().await.map(drop);
            if !matches!(committed, Ok(()) | Err(Error::CommitUnknown(_))) {
                work.commit_refused();
            }
            committed.map(|()| done)
        }
        Err(error) => {
            drop(work);
            tx.rollback_or_log().await;
            Err(error)
        }
    }
}

/// Runs `work` in a savepoint, releases it if the work succeeds, and rolls back to it if the work fails.
///
/// # Cancel safety
///
/// A dropped future rolls back to the savepoint. If it is dropped during the release, the transaction can only be rolled back.
pub(crate) async fn in_savepoint<W: Undoable>(conn: &mut Conn<'_>, mut work: W) -> Result<W::Done> {
    let mut savepoint = Transaction::open(conn.reborrow()).await?;
    match work.run(&mut savepoint).await {
        Ok(done) => savepoint.commit().await.map(|_| done),
        Err(error) => {
            savepoint.rollback_or_log().await;
            Err(error)
        }
    }
}
