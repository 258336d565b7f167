//! Where a connection comes from, and what sqlx does with it under either database's type.

use crate::error::driver::is_answered;
use std::ops::{Deref, DerefMut};

use sqlx::SqlStr;
#[cfg(feature = "postgres")]
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqliteConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use crate::database::backend::Backend;
use crate::database::execution::Naming;
use crate::database::pool::Lease;

/// A value, or a loan of it.
pub(crate) enum MaybeOwned<'c, T> {
    Owned(T),
    Borrowed(&'c mut T),
}

/// Where the connection comes from. That of a pool stands in a slot, so that the end of a transaction can take it
/// onto a task of its own; the slot is empty where that task did not give it back.
pub(crate) enum MaybePooled<'c> {
    Pooled(MaybeOwned<'c, Option<AnyLease>>),
    #[cfg(feature = "sqlite")]
    Sqlite(&'c mut SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'c mut PgConnection),
}

pub(crate) enum AnyLease {
    #[cfg(feature = "sqlite")]
    Sqlite(Lease<Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Lease<Postgres>),
}

impl AnyLease {
    pub(crate) fn raw(&mut self) -> Option<RawConn<'_>> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.conn().map(RawConn::Sqlite),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.conn().map(RawConn::Postgres),
        }
    }

    /// A statement is under way.
    pub(crate) fn set_in_flight(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_busy(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_busy(),
        }
    }

    /// A statement is through, where the database has said so, and is there to say more.
    pub(crate) fn note_answer<T>(&mut self, done: &Result<T, sqlx::Error>) {
        if !is_answered(done) {
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

    /// The database has answered, whatever it says next.
    pub(crate) fn set_proven_alive(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_proven_alive(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_proven_alive(),
        }
    }

    /// Whether the database was heard of since the connection was lent.
    pub(crate) fn is_proven_alive(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.is_proven_alive(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.is_proven_alive(),
        }
    }

    /// Somebody else uses it.
    pub(crate) fn set_used_raw(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_used_raw(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_used_raw(),
        }
    }

    /// How statements are prepared on it.
    pub(crate) fn naming(&self) -> Naming {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.naming(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.naming(),
        }
    }

    /// The runtime in which it came out of its pool.
    pub(crate) fn runtime(&self) -> Option<&Handle> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.runtime(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.runtime(),
        }
    }

    /// A prepared statement was refused as outdated, and those of the other connections may be too.
    pub(crate) fn set_outdated(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_outdated(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_outdated(),
        }
    }

    /// Its statements were forgotten, and will be prepared again.
    pub(crate) fn set_forgotten(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => lease.set_forgotten(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => lease.set_forgotten(),
        }
    }

    /// Whether raw SQL may have left a transaction open.
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

/// The connection of sqlx.
pub(crate) enum RawConn<'r> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'r mut SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'r mut PgConnection),
}

/// The same expression for the connection of either database, with its type.
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

pub(crate) fn depth<DB: Backend>(conn: &DB::Connection) -> usize {
    DB::TransactionManager::get_transaction_depth(conn)
}

pub(crate) async fn begin<DB: Backend>(conn: &mut DB::Connection) -> Result<(), sqlx::Error> {
    let outermost = depth::<DB>(conn) == 0;
    let statement = outermost.then(|| SqlStr::from_static(DB::BEGIN));
    match DB::TransactionManager::begin(conn, statement).await {
        Err(error) if outermost && DB::is_read_only(&error) => {
            DB::TransactionManager::begin(conn, Some(SqlStr::from_static("BEGIN"))).await
        }
        begun => begun,
    }
}

/// Has sqlx count a transaction that was begun by raw SQL. [`sqlx::Error::BeginFailed`] if there is none.
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
