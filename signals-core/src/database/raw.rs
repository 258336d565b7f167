//! Types that hold a connection of either database, and sqlx's transaction calls on it.

use std::ops::{Deref, DerefMut};

use sqlx::SqlStr;
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqliteConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use crate::database::backend::Backend;
use crate::database::execution::Naming;
use crate::database::lease::Lease;
use crate::error::driver::is_answered;

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

/// A pooled connection of either database.
pub(crate) enum AnyLease {
    #[cfg(feature = "sqlite")]
    Sqlite(Lease<Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Lease<Postgres>),
}

impl AnyLease {
    /// The sqlx connection.
    pub(crate) fn raw(&mut self) -> Option<RawConn<'_>> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.conn().map(RawConn::Sqlite),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.conn().map(RawConn::Postgres),
        }
    }

    /// Records that a statement is in flight.
    pub(crate) fn set_in_flight(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_busy(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_busy(),
        }
    }

    /// Records that no statement is in flight, if `result` shows that the database has answered and keeps the connection open.
    pub(crate) fn note_answer<T>(&mut self, result: &Result<T, sqlx::Error>) {
        if !is_answered(result) {
            return;
        }
        self.set_proven_alive();
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_idle(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_idle(),
        }
    }

    /// Records that the database has answered, even if the statement then fails.
    pub(crate) fn set_proven_alive(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_proven_alive(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_proven_alive(),
        }
    }

    /// Whether the database has answered since checkout. Until then, the connection may be dead.
    pub(crate) fn is_proven_alive(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.is_proven_alive(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.is_proven_alive(),
        }
    }

    /// Records that the application uses the sqlx connection directly.
    pub(crate) fn set_used_raw(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_used_raw(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_used_raw(),
        }
    }

    /// Whether statements on the connection get a name.
    pub(crate) fn naming(&self) -> Naming {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.naming(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.naming(),
        }
    }

    /// The runtime in which the connection was checked out.
    pub(crate) fn runtime(&self) -> Option<&Handle> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.runtime(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.runtime(),
        }
    }

    /// Records that a prepared statement was refused as outdated. Those of the other connections may be outdated too.
    pub(crate) fn set_outdated(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_outdated(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_outdated(),
        }
    }

    /// Records that the statement cache of the connection was cleared.
    pub(crate) fn set_forgotten(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_forgotten(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_forgotten(),
        }
    }

    /// Sets whether raw SQL may have left a transaction open.
    pub(crate) fn set_unverified(&mut self, unverified: bool) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_unverified(unverified),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_unverified(unverified),
        }
    }

    pub(crate) fn close(self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.close(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.close(),
        }
    }
}

/// The sqlx connection of either database.
pub(crate) enum RawConn<'r> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'r mut SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'r mut PgConnection),
}

/// Evaluates an expression for the connection of either database. `$DB` is the sqlx type of the database.
macro_rules! on {
    ($raw:expr, $DB:ident, $conn:ident => $body:expr) => {
        match $raw {
            #[cfg(feature = "sqlite")]
            RawConn::Sqlite($conn) => {
                type $DB = sqlx::Sqlite;
                $body
            }
            #[cfg(feature = "postgres")]
            RawConn::Postgres($conn) => {
                type $DB = sqlx::Postgres;
                $body
            }
        }
    };
}

pub(crate) use on;

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

/// Begins a transaction, or a savepoint inside one. A read-only SQLite connection refuses `BEGIN IMMEDIATE`, so plain `BEGIN`
/// is used there.
pub(crate) async fn begin<DB: Backend>(conn: &mut DB::Connection) -> Result<(), sqlx::Error> {
    let outermost = depth::<DB>(conn) == 0;
    let statement = outermost.then(|| SqlStr::from_static(DB::BEGIN));
    match DB::TransactionManager::begin(conn, statement).await {
        Err(error) if outermost && DB::is_read_only(&error) => {
            DB::TransactionManager::begin(conn, Some(SqlStr::from_static("BEGIN"))).await
        }
        result => result,
    }
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

pub(crate) fn start_rollback<DB: Backend>(conn: &mut DB::Connection) {
    DB::TransactionManager::start_rollback(conn);
}
