//! Transactions and savepoints that this library opens for its own work. They are committed if the work succeeds, and rolled back
//! if it fails.

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::transaction::Transaction;

/// Work in a transaction or savepoint that also changes values in memory. If a rollback has to undo these changes, the `Drop`
/// implementation does so unless [`before_commit`](Self::before_commit) was called.
///
/// This is a trait because the compiler cannot prove that the future of a generic async closure is `Send`.
pub(crate) trait TransactionWork: Send {
    type Done: Send;

    fn run(&mut self, tx: &mut Transaction<'_>) -> impl Future<Output = Result<Self::Done>> + Send;

    /// Whether the transaction may share its COMMIT with other writes of a SQLite database. If one of them ends the transaction, the
    /// work is lost, although it has succeeded.
    fn shares_commit(&self) -> bool {
        false
    }

    /// Whether the transaction is to be committed after the work has succeeded.
    fn commits(&self, done: &Self::Done) -> bool {
        let _ = done;
        true
    }

    /// Called before COMMIT is sent.
    fn before_commit(&mut self) {}

    /// Called if nothing is stored although [`before_commit`](Self::before_commit) was called. If it is unknown whether anything is stored
    /// ([`Error::CommitUnknown`]), this is not called.
    fn commit_failed(&mut self) {}

    /// Called before the work runs a second time. Restores the values in memory to their state before the first run.
    fn before_retry(&mut self) {}
}

/// Runs `work` in a transaction, commits it if the work succeeds, and rolls it back if the work fails. If the connection is in a
/// transaction that was not begun through this library, a savepoint is used.
///
/// If a prepared statement is refused because a table has changed, the work runs once more in a new transaction, unless a
/// receiver has run in the first one, because the work of a receiver cannot be repeated.
///
/// # Cancel safety
///
/// If the future is dropped before COMMIT was sent, the transaction is rolled back. After that, the commit and its callbacks are
/// finished in a task, as with [`Transaction::commit`].
#[expect(
    clippy::manual_async_fn,
    reason = "the future of an `async fn` stores its arguments twice"
)]
pub(crate) fn in_transaction<'c, W: TransactionWork + 'c>(
    conn: Conn<'c>,
    mut work: W,
) -> impl Future<Output = Result<W::Done>> + Send + 'c {
    async move {
        let mut tx = Transaction::open(conn).await?;
        tx.shares_commit = tx.kind() == DatabaseKind::Sqlite && work.shares_commit();
        let mut is_first = true;
        let result = loop {
            match work.run(&mut tx).await {
                Err(error) if is_first && error.is_schema_changed() && !tx.frame().notified => {
                    is_first = false;
                    if tx.restart().await.is_err() {
                        break Err(error);
                    }
                    work.before_retry();
                }
                result => break result,
            }
        };
        match result {
            Ok(result) if !work.commits(&result) => {
                drop(work);
                tx.rollback_or_log().await;
                Ok(result)
            }
            Ok(result) => {
                tx.check().await?;
                // Before the await: if the future is dropped during the commit, the rows may be stored, and the next write of them
                // needs their keys and versions.
                work.before_commit();
                let committed = tx.commit_checked().await.map(drop);
                if !matches!(committed, Ok(()) | Err(Error::CommitUnknown(_))) {
                    work.commit_failed();
                }
                committed.map(|()| result)
            }
            Err(error) => {
                drop(work);
                tx.rollback_or_log().await;
                Err(error)
            }
        }
    }
}

/// Runs `work` in a savepoint, releases it if the work succeeds and [commits](TransactionWork::commits), and otherwise rolls back to it.
///
/// # Cancel safety
///
/// If the future is dropped, the savepoint is rolled back. If it is dropped during the release of the savepoint, the whole
/// transaction can only be rolled back.
pub(crate) async fn in_savepoint<W: TransactionWork>(
    conn: &mut Conn<'_>,
    mut work: W,
) -> Result<W::Done> {
    let mut savepoint = Transaction::open(conn.reborrow()).await?;
    match work.run(&mut savepoint).await {
        Ok(result) if !work.commits(&result) => savepoint.rollback().await.map(|()| result),
        Ok(result) => savepoint.commit().await.map(|_| result),
        Err(error) => {
            savepoint.rollback_or_log().await;
            Err(error)
        }
    }
}
