use crate::database::deferred::End;
use crate::database::deferred::run_all;
use crate::task::info::Receiver;
use std::any::TypeId;
use std::mem::take;
use std::sync::{Arc, PoisonError};

use crate::database::backend::DatabaseKind;
use crate::database::db::Db;
use crate::error::{Error, Result};
use crate::signal::registry::{ReceiverInfo, registry};
use crate::task::chain::{Ran, RunningReceiver};
use crate::transaction::Transaction;
use crate::transaction::closure::TransactionClosure;

/// Runs `work` in a transaction that is never stored, and yet runs what waits for its commit, after
/// [Django's](https://docs.djangoproject.com/en/stable/topics/testing/tools/#django.test.TestCase.captureOnCommitCallbacks)
/// `captureOnCommitCallbacks`. Tests that use nothing else leave the database as it was.
///
/// When `work` is done, constraints that are deferred to the commit are checked; then the `on_commit` receivers and callbacks
/// run, in their order; then the transaction is rolled back. That last rollback is the test's own, and runs no `on_rollback`
/// receiver. Where `work` fails, or a commit would, there is nothing to rehearse: the transaction is rolled back as ever, and
/// its `on_rollback` receivers run.
///
/// What waits for a commit finds the rows only once they are there. Here they never are, and the transaction is still open: a
/// receiver that uses the [`Db`] gets [`Error::OnlyRehearsed`] at once, instead of waiting for a lock of its own test. Test
/// such a receiver with a commit, on a database of the test's own.
///
/// ```
/// use sqlx_signals::prelude::*;
/// use sqlx_signals::testing;
///
/// # #[derive(Debug, Clone, Model)]
/// # struct User { id: Option<i64>, name: String }
/// #[receiver(post_save, sender = User, created, on_commit)]
/// fn welcome(saved: PostSave<'_, User>) {
///     println!("welcome, {}", saved.instance.name);
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let mut ann = User { id: None, name: "Ann".into() };
/// let done = testing::transaction(&db, async |tx| {
///     ann.save(&mut *tx).await?;
///     User::query("").count(tx).await
/// })
/// .await?;
/// assert_eq!(done.value, 1);
/// done.assert_ran::<welcome>(1);
/// assert!(done.errors.is_empty());
/// assert_eq!(User::query("").count(&db).await?, 0);
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// What `work` returns, and what a commit would: [`Error::RolledBack`] where something in the transaction had failed, and a
/// deferred constraint that is violated.
///
/// # Cancel safety
///
/// A dropped future rolls back.
pub async fn transaction<T, F>(db: &Db, work: F) -> Result<TestTransaction<T>>
where
    F: TransactionClosure<T>,
{
    let (mut tx, value) = db.begin_with(work).await?;
    tx.check().await?;
    if let Err(error) = check_constraints(&mut tx).await {
        tx.rollback_or_log().await;
        return Err(error);
    }
    let waiting = take(&mut tx.frame().deferred);
    let ran = Ran::default();
    let rehearsal = RunningReceiver::rehearsal(db.pool_id(), Arc::clone(&ran));
    let errors = rehearsal.scope(run_all(waiting, End::Committed, None)).await;
    tx.rollback().await?;
    let ran = take(&mut *ran.lock().unwrap_or_else(PoisonError::into_inner));
    let receivers = ran.into_iter().map(|info| registry().info(info)).collect();
    Ok(TestTransaction { value, receivers, errors })
}

/// What came of a [`testing::transaction`](transaction).
#[derive(Debug)]
#[non_exhaustive]
pub struct TestTransaction<T> {
    /// What the closure returned.
    pub value: T,
    /// The `on_commit` receivers that ran, in their order.
    pub receivers: Vec<ReceiverInfo>,
    /// What `on_commit` receivers and callbacks returned as errors, or panicked with, as in
    /// [`Committed::errors`](crate::Committed::errors).
    pub errors: Vec<Error>,
}

impl<T> TestTransaction<T> {
    /// Asserts how often an `on_commit` receiver ran, with an error or without.
    ///
    /// # Panics
    ///
    /// Where it is another number; the message lists those that ran.
    #[track_caller]
    pub fn assert_ran<R: Receiver>(&self, times: usize) {
        let this = TypeId::of::<R>();
        let found = self.receivers.iter().filter(|receiver| receiver.id() == this).count();
        let all: Vec<_> = self.receivers.iter().map(|receiver| format!("\n{receiver}")).collect();
        let (name, all) = (std::any::type_name::<R>(), all.concat());
        assert!(
            found == times,
            "expected `{name}` to run {times} ×, it ran {found} ×; of all:{all}"
        );
    }
}

/// Some constraints are checked by COMMIT, which is not going to be sent.
async fn check_constraints(tx: &mut Transaction<'_>) -> Result<()> {
    match tx.kind() {
        DatabaseKind::Postgres => tx.execute("SET CONSTRAINTS ALL IMMEDIATE").await.map(drop),
        DatabaseKind::Sqlite => {
            let violated = "SELECT \"table\", parent FROM pragma_foreign_key_check, pragma_foreign_keys \
                            WHERE foreign_keys = 1 LIMIT 1";
            let row: Option<(String, String)> = tx.query(violated).fetch_optional().await?;
            row.map_or(Ok(()), |(table, parent)| {
                let reason =
                    format!("a row of `{table}` refers to one of `{parent}` that is not there");
                Err(Error::RolledBack { reason: reason.into() })
            })
        }
    }
}
