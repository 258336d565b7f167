//! The methods that begin a transaction.

use std::panic::{AssertUnwindSafe, Location, resume_unwind};

use futures_util::FutureExt;

use crate::database::backend::DatabaseKind;
use crate::database::begin::TransactionOptions;
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::writer::Writer;
use crate::error::{Error, Result};
use crate::task::closures;
use crate::transaction::Transaction;
use crate::transaction::closure::TransactionClosure;

impl Db {
    /// Begins a transaction. On SQLite, this takes the write lock immediately (`BEGIN IMMEDIATE`), so it waits for the lock
    /// here, instead of failing in a later statement.
    ///
    /// See the example of [`Transaction`].
    ///
    /// On SQLite, other writes have to wait until the transaction ends. If one waits too long, its error
    /// ([`Error::WriteLockTimedOut`]) names the transaction.
    ///
    /// # Errors
    ///
    /// The errors of [`acquire`](Self::acquire), and [`Error::Database`] if the database refuses BEGIN. [`Error::WouldDeadlock`] on
    /// SQLite, in the closure of [`transaction`](Self::transaction).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no transaction is begun.
    #[track_caller]
    pub fn begin(&self) -> impl Future<Output = Result<Transaction<'static>>> + Send + '_ {
        self.begin_at(TransactionOptions::default(), Location::caller())
    }

    /// Begins a transaction with an isolation level, or one that does not write, see [`TransactionOptions`].
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    ///
    /// # Cancel safety
    ///
    /// As [`begin`](Self::begin).
    #[track_caller]
    pub fn begin_with(
        &self,
        options: TransactionOptions,
    ) -> impl Future<Output = Result<Transaction<'static>>> + Send + '_ {
        self.begin_at(options, Location::caller())
    }

    async fn begin_at(
        &self,
        options: TransactionOptions,
        site: &'static Location<'static>,
    ) -> Result<Transaction<'static>> {
        if !options.is_read_only() {
            let conn = self.acquire_to_write(Writer::transaction(Some(site))).await?;
            return Transaction::open_with(conn, options, Some(site)).await;
        }
        let mut conn = self.acquire().await?;
        if self.kind() == DatabaseKind::Sqlite {
            conn.forbid_writes().await?;
        }
        Transaction::open_with(conn, options, Some(site)).await
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
    /// reports "implementation of `AsyncFnOnce` is not general enough". The closure returns the library's [`Result`]. If it returns an
    /// error of your own, use [`try_transaction`](Self::try_transaction).
    ///
    /// Use `tx` in the closure, not the `Db`. Writes through the `Db` are not part of the transaction. On SQLite, they would have to
    /// wait for the end of the transaction, and fail at once with [`Error::WouldDeadlock`]. On PostgreSQL, a debug build logs a warning,
    /// once for each call of `transaction`.
    ///
    /// # Errors
    ///
    /// The error of `work`, and the errors of [`begin`](Self::begin) and [`commit`](Transaction::commit).
    ///
    /// # Cancel safety
    ///
    /// As [`begin`](Self::begin) and [`commit`](Transaction::commit).
    #[track_caller]
    pub fn transaction<T, F>(&self, work: F) -> impl Future<Output = Result<T>>
    where
        F: TransactionClosure<T>,
    {
        self.try_transaction(work)
    }

    /// As [`transaction`](Self::transaction), with a closure that returns an error of your own. The error is returned as it is.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// use sqlx_signals::Error;
    ///
    /// # #[derive(Model)]
    /// # struct Account { id: Option<i64>, balance: i64 }
    /// #[derive(Debug)]
    /// enum AppError {
    ///     TooPoor,
    ///     Database(Error),
    /// }
    ///
    /// impl From<Error> for AppError {
    ///     fn from(error: Error) -> Self {
    ///         Self::Database(error)
    ///     }
    /// }
    ///
    /// async fn withdraw(db: &Db, id: i64, amount: i64) -> Result<(), AppError> {
    ///     db.try_transaction(async |tx| {
    ///         let mut account = Account::get(&mut *tx, id).await?;
    ///         account.balance -= amount;
    ///         if account.balance < 0 {
    ///             return Err(AppError::TooPoor);
    ///         }
    ///         account.save(tx).await?;
    ///         Ok(())
    ///     })
    ///     .await
    /// }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)").await?;
    /// # Account { id: None, balance: 5 }.save(&db).await?;
    /// # withdraw(&db, 1, 3).await.unwrap();
    /// # assert!(matches!(withdraw(&db, 1, 3).await, Err(AppError::TooPoor)));
    /// # assert!(matches!(withdraw(&db, 2, 3).await, Err(AppError::Database(_))));
    /// # Ok(()) }
    /// ```
    ///
    /// This is a method of its own because the compiler could not infer the error type of a closure that ends in `Ok(())` and uses `?`.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Self::transaction). The library's errors are converted by `From`.
    ///
    /// # Cancel safety
    ///
    /// As [`transaction`](Self::transaction).
    #[track_caller]
    pub fn try_transaction<T, E, F>(&self, work: F) -> impl Future<Output = Result<T, E>>
    where
        E: From<Error>,
        F: TransactionClosure<T, E>,
    {
        let (options, site) = (TransactionOptions::default(), Location::caller());
        async move { self.attempt(options, site, work).await.map_err(|failed| failed.error) }
    }

    /// Runs `work` in a transaction once.
    pub(crate) async fn attempt<T, E, F>(
        &self,
        options: TransactionOptions,
        site: &'static Location<'static>,
        work: F,
    ) -> Result<T, Failed<E>>
    where
        E: From<Error>,
        F: TransactionClosure<T, E>,
    {
        let (tx, value) = self.begin_and_run(options, site, work).await?;
        match tx.commit().await {
            Ok(_) => Ok(value),
            Err(error) => Err(Failed::of(error)),
        }
    }

    /// Begins a transaction and runs `work` in it. Rolls back on `Err` and on a panic; otherwise returns the open transaction.
    pub(crate) async fn begin_and_run<T, E, F>(
        &self,
        options: TransactionOptions,
        site: &'static Location<'static>,
        work: F,
    ) -> Result<(Transaction<'static>, T), Failed<E>>
    where
        E: From<Error>,
        F: TransactionClosure<T, E>,
    {
        let mut tx = self.begin_at(options, site).await.map_err(Failed::of)?;
        let work = closures::in_closure(self.closure(site, !options.is_read_only()), work(&mut tx));
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(value)) => Ok((tx, value)),
            Ok(Err(error)) => {
                let reason = tx.frame().failed.clone();
                tx.rollback_or_log().await;
                let may_succeed =
                    reason.is_some_and(|reason| may_succeed_again(&Error::RolledBack { reason }));
                Err(Failed { error, may_succeed })
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
    #[track_caller]
    pub fn begin(&mut self) -> impl Future<Output = Result<Transaction<'_>>> + Send {
        let site = Some(Location::caller());
        Transaction::open_with(self.reborrow(), TransactionOptions::default(), site)
    }
}

/// The error of an attempt to run a transaction.
pub(crate) struct Failed<E> {
    pub(crate) error: E,
    /// Whether another attempt may succeed. The error can be one of the program, so this is what is known about the transaction.
    pub(crate) may_succeed: bool,
}

impl<E: From<Error>> Failed<E> {
    fn of(error: Error) -> Self {
        Self { may_succeed: may_succeed_again(&error), error: error.into() }
    }
}

/// Whether the transaction has failed because of a concurrent one. Not if a connection or a lock of PostgreSQL was not available in
/// time, because the program has waited for that already.
pub(crate) fn may_succeed_again(error: &Error) -> bool {
    let code = error.database_error().and_then(|error| error.code());
    error.is_retryable() && code.is_some_and(|code| !matches!(&*code, "55P03" | "53300"))
}
