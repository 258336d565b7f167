//! Where a connection comes from, and what sqlx does with it under either database's type.

use std::ops::{Deref, DerefMut};

use sqlx::SqlStr;
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqliteConnection};
use sqlx_core::transaction::TransactionManager;

use crate::backend::Backend;
use crate::lender::Lent;

/// A value, or a loan of it.
pub(crate) enum Own<'c, T> {
    Owned(T),
    Borrowed(&'c mut T),
}

/// Where the connection comes from. That of a pool stands in a slot, so that the end of a transaction can take it
/// onto a task of its own; the slot is empty where that task did not give it back.
pub(crate) enum Link<'c> {
    Pooled(Own<'c, Option<Pooled>>),
    #[cfg(feature = "sqlite")]
    Sqlite(&'c mut SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'c mut PgConnection),
}

pub(crate) enum Pooled {
    #[cfg(feature = "sqlite")]
    Sqlite(Lent<Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Lent<Postgres>),
}

impl Pooled {
    pub(crate) fn raw(&mut self) -> Option<Raw<'_>> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.conn().map(Raw::Sqlite),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.conn().map(Raw::Postgres),
        }
    }

    /// A statement is under way, or none is any more.
    pub(crate) fn set_busy(&mut self, busy: bool) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.set_busy(busy),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.set_busy(busy),
        }
    }

    /// A statement is through, where the database has said so.
    pub(crate) fn ended<T>(&mut self, done: &Result<T, sqlx::Error>) {
        if matches!(done, Ok(_) | Err(sqlx::Error::Database(_))) {
            self.set_busy(false);
        }
    }

    /// Somebody else uses it.
    pub(crate) fn touch(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.touch(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.touch(),
        }
    }

    pub(crate) fn close(self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.close(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.close(),
        }
    }
}

/// The connection of sqlx.
pub(crate) enum Raw<'r> {
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
            Raw::Sqlite($conn) => {
                type $DB = sqlx::Sqlite;
                $body
            }
            #[cfg(feature = "postgres")]
            Raw::Postgres($conn) => {
                type $DB = sqlx::Postgres;
                $body
            }
        }
    };
}

pub(crate) use on;

impl<T> Deref for Own<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Owned(value) => value,
            Self::Borrowed(value) => value,
        }
    }
}

impl<T> DerefMut for Own<'_, T> {
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
    let statement = (depth::<DB>(conn) == 0).then(|| SqlStr::from_static(DB::BEGIN));
    DB::TransactionManager::begin(conn, statement).await
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
