//! Runs a transaction again if it has failed because of a concurrent one.

use std::hash::{BuildHasher, RandomState};
use std::panic::Location;
use std::time::Duration;

use crate::database::begin::TransactionOptions;
use crate::database::db::Db;
use crate::error::{Error, Result};
use crate::transaction::begin::may_succeed_again;
use crate::transaction::closure::RepeatableClosure;

/// The longest pause before the second attempt. It doubles with each further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Runs a transaction again if it has failed because of a concurrent one, see [`Db::retry`].
#[derive(Debug, Clone, Copy)]
#[must_use = "nothing runs before `transaction`"]
pub struct Retry<'d> {
    db: &'d Db,
    times: u32,
    options: TransactionOptions,
}

impl Db {
    /// Runs a transaction up to `times` times more if it fails because of a concurrent transaction: after a
    /// [serialization failure](Error::is_serialization_failure), after a [deadlock](Error::is_deadlock), if a table was
    /// [altered](Error::is_schema_changed), and if another process has the lock of a SQLite database for longer than the busy timeout.
    ///
    /// There is a pause of random length before each further attempt. It is at most 10 ms before the second one, and gets longer with
    /// each attempt, up to a second.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// use sqlx_signals::{Isolation, TransactionOptions};
    ///
    /// # #[derive(Model)]
    /// # struct Account { id: Option<i64>, balance: i64 }
    /// async fn withdraw(db: &Db, id: i64, amount: i64) -> Result<()> {
    ///     db.retry(5)
    ///         .options(TransactionOptions::new().isolation(Isolation::Serializable))
    ///         .transaction(async |tx| {
    ///             let mut account = Account::get(&mut *tx, id).await?;
    ///             account.balance -= amount;
    ///             account.save(tx).await?;
    ///             Ok(())
    ///         })
    ///         .await
    /// }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)").await?;
    /// # Account { id: None, balance: 5 }.save(&db).await?;
    /// # withdraw(&db, 1, 3).await?;
    /// # assert_eq!(Account::get(&db, 1).await?.balance, 2);
    /// # Ok(()) }
    /// ```
    pub fn retry(&self, times: u32) -> Retry<'_> {
        Retry { db: self, times, options: TransactionOptions::default() }
    }
}

impl Retry<'_> {
    /// Sets how the transactions begin.
    pub fn options(mut self, options: TransactionOptions) -> Self {
        self.options = options;
        self
    }

    /// As [`Db::transaction`], with further attempts. Each attempt runs a clone of the closure, see [`RepeatableClosure`].
    ///
    /// A failed attempt is rolled back: its `on_rollback` receivers and callbacks run, and its `on_commit` ones do not.
    ///
    /// # Errors
    ///
    /// As [`Db::transaction`], for the last attempt.
    ///
    /// # Cancel safety
    ///
    /// As [`Db::transaction`].
    #[track_caller]
    pub fn transaction<T, F>(self, work: F) -> impl Future<Output = Result<T>>
    where
        F: RepeatableClosure<T>,
    {
        // The error may be of a savepoint that was rolled back, which the transaction does not know.
        self.run(Location::caller(), work, may_succeed_again)
    }

    /// As [`Db::try_transaction`], with further attempts. If the closure returns an error of its own, there is another attempt only if
    /// an operation in the transaction has failed because of a concurrent one.
    ///
    /// # Errors
    ///
    /// As [`Db::try_transaction`], for the last attempt.
    ///
    /// # Cancel safety
    ///
    /// As [`Db::transaction`].
    #[track_caller]
    pub fn try_transaction<T, E, F>(self, work: F) -> impl Future<Output = Result<T, E>>
    where
        E: From<Error>,
        F: RepeatableClosure<T, E>,
    {
        self.run(Location::caller(), work, |_| false)
    }

    async fn run<T, E, F>(
        self,
        site: &'static Location<'static>,
        work: F,
        may_succeed_again: fn(&E) -> bool,
    ) -> Result<T, E>
    where
        E: From<Error>,
        F: RepeatableClosure<T, E>,
    {
        let mut attempt = 0;
        loop {
            let failed = match self.db.attempt(self.options, site, work.clone()).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            let may_succeed = failed.may_succeed || may_succeed_again(&failed.error);
            if !may_succeed || attempt == self.times {
                return Err(failed.error);
            }
            tracing::debug!(transaction = %site, attempt, "a transaction runs again");
            drop(failed);
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }
}

/// How long to wait before the next attempt. The length is random, so that transactions that have failed because of each other do not
/// meet again.
fn pause(attempt: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << attempt.min(16)).min(LONGEST_PAUSE);
    // The keys of a `RandomState` are random, which is enough for this purpose.
    let random = RandomState::new().hash_one(attempt);
    longest.mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_random_and_bounded() {
        for attempt in [0, 1, 3, 40, u32::MAX] {
            let longest = FIRST_PAUSE.saturating_mul(1 << attempt.min(16)).min(LONGEST_PAUSE);
            let pauses: std::collections::BTreeSet<_> = (0..20).map(|_| pause(attempt)).collect();
            assert!(pauses.len() > 10 && pauses.iter().all(|pause| *pause <= longest));
        }
    }
}
