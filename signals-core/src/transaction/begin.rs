//! The methods that begin a transaction.

use std::panic::{AssertUnwindSafe, Location, resume_unwind};

use futures_util::FutureExt;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::write_queue::Writer;
use crate::error::Result;
use crate::task::chain;
use crate::transaction::Transaction;
use crate::transaction::closure::TransactionClosure;

impl Db {
    /// Begins a transaction. On SQLite, this takes the write lock immediately (`BEGIN IMMEDIATE`), so it waits for the lock
    /// here, instead of failing in a later statement.
    ///
    /// See the example of [`Transaction`].
    ///
    /// # Errors
    ///
    /// The errors of [`acquire`](Self::acquire), and [`Error::Database`](crate::Error::Database) if the database refuses BEGIN.
    /// [`Error::WriteLockTimedOut`](crate::Error::WriteLockTimedOut) if another writer of this process has the write lock of a SQLite
    /// database for too long.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no transaction is begun.
    #[track_caller]
    pub fn begin(&self) -> impl Future<Output = Result<Transaction<'static>>> + Send + use<'_> {
        self.begin_at(Location::caller())
    }

    async fn begin_at(&self, caller: &'static Location<'static>) -> Result<Transaction<'static>> {
        let conn = self.acquire_to_write(Writer::transaction(Some(caller))).await?;
        Transaction::open(conn).await
    }

    /// Runs `work` in a transaction. Commits on `Ok`, and rolls back on `Err` and on a panic. A panic is resumed
    /// after the rollback.
    ///
    /// Errors of `on_commit` receivers are only logged. To get them, use [`begin`](Self::begin) and
    /// [`commit`](Transaction::commit).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::Error;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let mut city = City { id: None, name: "Atlantis".into() };
    /// let refused = db
    ///     .transaction(async |tx| {
    ///         city.save(tx).await?;
    ///         Err::<(), _>(Error::other("not on the map"))
    ///     })
    ///     .await;
    /// assert!(refused.is_err() && City::all(&db).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// Write the closure as `async |tx| { … }`. The future of `|tx| async move { … }` cannot borrow `tx`, and the compiler
    /// reports "implementation of `AsyncFnOnce` is not general enough".
    ///
    /// # Errors
    ///
    /// The error of `work`, and the errors of [`begin`](Self::begin) and [`commit`](Transaction::commit). Wrap the application's
    /// own errors with [`Error::other`](crate::Error::other).
    ///
    /// # Cancel safety
    ///
    /// As [`begin`](Self::begin) and [`commit`](Transaction::commit).
    #[track_caller]
    pub fn transaction<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + use<'_, T, F>
    where
        F: TransactionClosure<T>,
    {
        let caller = Location::caller();
        async move {
            let (tx, value) = self.begin_with(caller, work).await?;
            tx.commit().await?;
            Ok(value)
        }
    }

    /// Begins a transaction and runs `work` in it. Rolls back on `Err` and on a panic; otherwise returns the open transaction.
    pub(crate) async fn begin_with<T, F>(
        &self,
        caller: &'static Location<'static>,
        work: F,
    ) -> Result<(Transaction<'static>, T)>
    where
        F: TransactionClosure<T>,
    {
        let mut tx = self.begin_at(caller).await?;
        let work = chain::locking(self.queue_id(), work(&mut tx));
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(value)) => Ok((tx, value)),
            Ok(Err(error)) => {
                tx.rollback_or_log().await;
                Err(error)
            }
            Err(panic) => {
                tx.rollback_or_log().await;
                resume_unwind(panic)
            }
        }
    }
}

impl Conn<'_> {
    /// Begins a transaction, or a savepoint if the connection already is in a transaction.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// /// Saves the city, or leaves the transaction of the caller as it is.
    /// async fn try_save(city: &mut City, conn: &mut Conn<'_>) -> Result<bool> {
    ///     let mut savepoint = conn.begin().await?;
    ///     match city.save(&mut savepoint).await {
    ///         Ok(_) => savepoint.commit().await.map(|_| true),
    ///         Err(error) if error.is_unique_violation() => savepoint.rollback().await.map(|()| false),
    ///         Err(error) => Err(error),
    ///     }
    /// }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)").await?;
    /// # let city = || City { id: None, name: "Ulm".into() };
    /// let mut tx = db.begin().await?;
    /// assert!(try_save(&mut city(), &mut tx).await?);
    /// assert!(!try_save(&mut city(), &mut tx).await?);
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Database`](crate::Error::Database) if the database refuses BEGIN or SAVEPOINT.
    /// - [`Error::RolledBack`](crate::Error::RolledBack) if raw SQL has ended the enclosing transaction, or the connection was lost.
    /// - [`Error::TransactionControl`](crate::Error::TransactionControl) on Postgres, if the connection is borrowed from sqlx and raw SQL has begun a transaction
    ///   on it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no transaction or savepoint is begun. On Postgres, an enclosing transaction can then only be
    /// rolled back.
    pub async fn begin(&mut self) -> Result<Transaction<'_>> {
        Transaction::open(self.reborrow()).await
    }
}
