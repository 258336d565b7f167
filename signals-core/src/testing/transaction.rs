//! Transactions for tests, which run `on_commit` receivers and then roll back.

use std::any::TypeId;
use std::mem::take;
use std::panic::Location;
use std::sync::{Arc, PoisonError};

use crate::database::backend::DatabaseKind;
use crate::database::begin::TransactionOptions;
use crate::database::db::Db;
use crate::database::deferred::{End, run_all};
use crate::error::{Error, Result};
use crate::signal::registry::{ReceiverInfo, registry};
use crate::task::chain::{Ran, RunningReceiver};
use crate::task::info::Receiver;
use crate::transaction::Transaction;
use crate::transaction::closure::TransactionClosure;

/// Runs `work` in a transaction, runs the `on_commit` receivers as a commit would, and then rolls the transaction back.
///
/// A test that writes only in such transactions leaves the database unchanged. The function has the purpose of
/// [`captureOnCommitCallbacks`](https://docs.djangoproject.com/en/stable/topics/testing/tools/#django.test.TestCase.captureOnCommitCallbacks)
/// of Django.
///
/// If `work` succeeds, these steps follow:
///
/// 1. Constraints that are deferred to the commit are checked.
/// 2. The `on_commit` receivers and callbacks run in their order.
/// 3. The transaction is rolled back. This rollback runs no `on_rollback` receivers.
///
/// If `work` fails or the transaction could not be committed, the transaction is rolled back, and its `on_rollback` receivers run.
///
/// The transaction is still open while the `on_commit` receivers run, and no other connection sees its rows. A receiver that uses
/// the [`Db`] therefore gets [`Error::OnlyRehearsed`] at once, instead of waiting for a lock that the test holds. Test such a receiver
/// with a real commit, on a database that belongs to the test.
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
/// The error that `work` returns. Otherwise, the error that a commit would return: [`Error::RolledBack`] if a write in the transaction
/// has failed, or if a deferred constraint is violated on SQLite, and [`Error::Database`] if one is violated on PostgreSQL.
///
/// # Cancel safety
///
/// If the future is dropped, the transaction is rolled back.
#[track_caller]
pub fn transaction<T, F>(db: &Db, work: F) -> impl Future<Output = Result<TestTransaction<T>>>
where
    F: TransactionClosure<T>,
{
    transaction_at(db, Location::caller(), work)
}

async fn transaction_at<T, F>(
    db: &Db,
    site: &'static Location<'static>,
    work: F,
) -> Result<TestTransaction<T>>
where
    F: TransactionClosure<T>,
{
    let known = violations(db).await?;
    let begun = db.begin_and_run(TransactionOptions::default(), site, work).await;
    let (mut tx, value) = begun.map_err(|failed| failed.error)?;
    tx.check().await?;
    if let Err(error) = check_constraints(&mut tx, known).await {
        tx.rollback_or_log().await;
        return Err(error);
    }
    #[cfg(feature = "durable")]
    let stored = crate::durable::inline::stored_in(&mut tx);
    let deferred = take(&mut tx.frame().deferred);
    let ran = Ran::default();
    let rehearsal = RunningReceiver::rehearsal(db.pool_id(), db.queue_id(), Arc::clone(&ran));
    let errors = rehearsal.scope(run_all(deferred, End::Committed, None)).await;
    tx.rollback().await?;
    let ran = take(&mut *ran.lock().unwrap_or_else(PoisonError::into_inner));
    let receivers = ran.into_iter().map(|info| registry().info(info)).collect();
    Ok(TestTransaction {
        value,
        receivers,
        errors,
        #[cfg(feature = "durable")]
        stored,
    })
}

/// The result of [`testing::transaction`](transaction()).
///
/// See the example of [`testing::transaction`](transaction()).
#[derive(Debug)]
#[non_exhaustive]
pub struct TestTransaction<T> {
    /// What the closure returned.
    pub value: T,
    /// The `on_commit` receivers that ran, in the order in which they ran.
    pub receivers: Vec<ReceiverInfo>,
    /// The errors and panics of `on_commit` receivers and callbacks, as in [`Committed::errors`](crate::Committed::errors).
    pub errors: Vec<Error>,
    /// The names of the durable receivers of the stored deliveries.
    #[cfg(feature = "durable")]
    stored: Vec<&'static str>,
}

impl<T> TestTransaction<T> {
    /// Asserts how often an `on_commit` receiver ran, successfully or not.
    ///
    /// See the example of [`testing::transaction`](transaction()).
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists the receivers that ran.
    #[track_caller]
    pub fn assert_ran<R: Receiver>(&self, times: usize) {
        let expected = TypeId::of::<R>();
        let found = self.receivers.iter().filter(|receiver| receiver.id() == expected).count();
        let all: Vec<_> = self.receivers.iter().map(|receiver| format!("\n{receiver}")).collect();
        let (name, all) = (std::any::type_name::<R>(), all.concat());
        assert!(
            found == times,
            "expected `{name}` to run {times} ×, it ran {found} ×; of all:{all}"
        );
    }
}

#[cfg(feature = "durable")]
impl<T> TestTransaction<T> {
    /// Asserts how many deliveries for a durable receiver the transaction would have stored.
    ///
    /// ```standalone_crate
    /// use sqlx_signals::prelude::*;
    /// use sqlx_signals::testing;
    ///
    /// #[derive(Model, serde::Serialize, serde::Deserialize)]
    /// #[model(table = "users")]
    /// struct User { id: Option<i64>, name: String }
    ///
    /// #[receiver(post_save, sender = User, created, durable(at_least_once))]
    /// fn welcome(saved: PostSave<'_, User>) {
    ///     println!("welcome, {}", saved.instance.name);
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # db.deliveries().setup().await?;
    /// let mut ann = User { id: None, name: "Ann".into() };
    /// let done = testing::transaction(&db, async |tx| ann.save(tx).await).await?;
    /// done.assert_stored::<welcome>(1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists the receivers of all deliveries.
    #[track_caller]
    pub fn assert_stored<R: Receiver>(&self, times: usize) {
        let receiver = registry().get::<R>();
        let found = self.stored.iter().filter(|name| **name == receiver.stored_name()).count();
        let (name, all) = (std::any::type_name::<R>(), self.stored.join("\n"));
        assert!(
            found == times,
            "expected {times} deliveries for `{name}`, {found} are stored; of all:\n{all}"
        );
    }
}

/// A row of a SQLite table that refers to a row which does not exist: its table, its number, the other table, and the number of the constraint.
type Violation = (String, Option<i64>, String, i64);

const VIOLATIONS: &str = "SELECT \"table\", rowid, parent, fkid FROM pragma_foreign_key_check, pragma_foreign_keys \
                          WHERE foreign_keys = 1";

/// The rows that violate a foreign key of a SQLite database before the transaction. COMMIT accepts them.
async fn violations(db: &Db) -> Result<Vec<Violation>> {
    match db.kind() {
        DatabaseKind::Postgres => Ok(Vec::new()),
        DatabaseKind::Sqlite => db.query(VIOLATIONS).fetch_all().await,
    }
}

/// Checks the constraints that COMMIT would check, because COMMIT is not sent. `known`: the rows that have violated one before.
async fn check_constraints(tx: &mut Transaction<'_>, mut known: Vec<Violation>) -> Result<()> {
    match tx.kind() {
        DatabaseKind::Postgres => tx.execute("SET CONSTRAINTS ALL IMMEDIATE").await.map(drop),
        DatabaseKind::Sqlite => {
            for violation in tx.query(VIOLATIONS).fetch_all::<Violation>().await? {
                // Rows without a number can be equal.
                if let Some(at) = known.iter().position(|known| *known == violation) {
                    known.swap_remove(at);
                    continue;
                }
                let (table, _, parent, _) = violation;
                let reason =
                    format!("a row of `{table}` refers to one of `{parent}` that is not there");
                return Err(Error::RolledBack { reason: reason.into() });
            }
            Ok(())
        }
    }
}
