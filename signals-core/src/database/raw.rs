//! Types that hold a connection of either database, and sqlx's transaction calls on it.

use std::ops::{Deref, DerefMut};
#[cfg(feature = "postgres")]
use std::pin::Pin;
#[cfg(feature = "postgres")]
use std::task::{Context, Poll, ready};

#[cfg(feature = "postgres")]
use sqlx::PgConnection;
use sqlx::SqlStr;
#[cfg(feature = "sqlite")]
use sqlx::SqliteConnection;
use sqlx_core::transaction::TransactionManager;

use crate::database::backend::Backend;
use crate::database::begin::TransactionOptions;
use crate::database::lease::AnyLease;

/// A value, or a mutable reference to one.
pub(crate) enum MaybeOwned<'c, T> {
    Owned(T),
    Borrowed(&'c mut T),
}

/// A pooled connection, or one that is borrowed from sqlx. A pooled connection is kept in an `Option`: a commit moves it into a
/// task, and leaves `None` if that task does not return it.
pub(crate) enum MaybePooled<'c> {
    Pooled(MaybeOwned<'c, Option<AnyLease>>),
    #[cfg(feature = "sqlite")]
    Sqlite(&'c mut SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'c mut PgConnection),
}

/// The sqlx connection of either database.
#[allow(unreachable_pub)]
pub enum RawConn<'r> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'r mut SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'r mut PgConnection),
}

impl<T> Deref for MaybeOwned<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Owned(value) => value,
            Self::Borrowed(value) => value,
        }
    }
}

impl<T> DerefMut for MaybeOwned<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Owned(value) => value,
            Self::Borrowed(value) => value,
        }
    }
}

/// How many transactions and savepoints sqlx counts on the connection.
pub(crate) fn depth<DB: Backend>(conn: &DB::Connection) -> usize {
    DB::TransactionManager::get_transaction_depth(conn)
}

/// Begins a transaction, or a savepoint inside one. A read-only SQLite connection cannot take the write lock, so a read-only
/// transaction begins there. Returns whether the transaction may write.
pub(crate) async fn begin<DB: Backend>(
    conn: &mut DB::Connection,
    options: TransactionOptions,
) -> Result<bool, sqlx::Error> {
    let outermost = depth::<DB>(conn) == 0;
    let statement = outermost.then(|| options.statement(DB::KIND));
    match DB::TransactionManager::begin(conn, statement).await {
        Err(error) if outermost && DB::is_read_only(&error) => {
            let statement = options.read_only(true).statement(DB::KIND);
            DB::TransactionManager::begin(conn, Some(statement)).await.map(|()| false)
        }
        result => result.map(|()| true),
    }
}

/// Begins a transaction with this SQL.
pub(crate) async fn begin_with<DB: Backend>(
    conn: &mut DB::Connection,
    sql: &'static str,
) -> Result<(), sqlx::Error> {
    DB::TransactionManager::begin(conn, Some(SqlStr::from_static(sql))).await
}

/// Makes sqlx count a transaction that raw SQL began. Returns [`sqlx::Error::BeginFailed`] if no transaction is open.
pub(crate) async fn adopt<DB: Backend>(conn: &mut DB::Connection) -> Result<(), sqlx::Error> {
    DB::TransactionManager::begin(conn, Some(SqlStr::from_static(DB::ASK))).await
}

pub(crate) async fn commit<DB: Backend>(conn: &mut DB::Connection) -> Result<(), sqlx::Error> {
    DB::TransactionManager::commit(conn).await
}

pub(crate) async fn rollback<DB: Backend>(conn: &mut DB::Connection) -> Result<(), sqlx::Error> {
    DB::TransactionManager::rollback(conn).await
}

/// As [`rollback`], for a transaction that no [`Transaction`](crate::Transaction) rolls back if the future is dropped.
pub(crate) async fn rollback_even_if_dropped<DB: Backend>(
    conn: &mut DB::Connection,
) -> Result<(), sqlx::Error> {
    let guard = RollbackGuard::<DB>::new(conn);
    let result = rollback::<DB>(guard.conn).await;
    guard.disarm();
    result
}

pub(crate) fn start_rollback<DB: Backend>(conn: &mut DB::Connection) {
    DB::TransactionManager::start_rollback(conn);
}

/// Queues a rollback if the future is dropped. It is also needed during a rollback: sqlx expects that each transaction whose rollback was
/// dropped is rolled back once more, and on SQLite it ignores the next rollback that is queued.
pub(crate) struct RollbackGuard<'o, DB: Backend> {
    pub(crate) conn: &'o mut DB::Connection,
    armed: bool,
}

impl<'o, DB: Backend> RollbackGuard<'o, DB> {
    pub(crate) fn new(conn: &'o mut DB::Connection) -> Self {
        Self { conn, armed: true }
    }

    pub(crate) fn disarm(mut self) {
        self.armed = false;
    }
}

impl<DB: Backend> Drop for RollbackGuard<'_, DB> {
    fn drop(&mut self) {
        if self.armed {
            start_rollback::<DB>(self.conn);
        }
    }
}

/// A future of sqlx that is forgotten if it is dropped before it is ready, so that sqlx does not react to that. Its memory is lost.
#[cfg(feature = "postgres")]
pub(crate) struct ForgetOnDrop<F>(Option<Pin<Box<F>>>);

#[cfg(feature = "postgres")]
impl<F> ForgetOnDrop<F> {
    pub(crate) fn new(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

#[cfg(feature = "postgres")]
impl<F: Future> Future for ForgetOnDrop<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let output = ready!(future.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(output)
    }
}

#[cfg(feature = "postgres")]
impl<F> Drop for ForgetOnDrop<F> {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}
