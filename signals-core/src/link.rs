//! Where a connection comes from, and what sqlx does with it under either database's type.

use std::ops::{Deref, DerefMut};

use sqlx::SqlStr;
use sqlx::error::DatabaseError;
#[cfg(feature = "postgres")]
use sqlx::postgres::{PgDatabaseError, PgSeverity};
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqliteConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use crate::backend::Backend;
use crate::lender::Lent;
use crate::running::Naming;

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

    /// A statement is under way.
    pub(crate) fn set_busy(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.set_busy(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.set_busy(),
        }
    }

    /// A statement is through, where the database has said so, and is there to say more.
    pub(crate) fn ended<T>(&mut self, done: &Result<T, sqlx::Error>) {
        if !is_answered(done) {
            return;
        }
        self.set_answered();
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.set_idle(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.set_idle(),
        }
    }

    /// The database has answered, whatever it says next.
    pub(crate) fn set_answered(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.set_answered(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.set_answered(),
        }
    }

    /// Whether the database was heard of since the connection was lent.
    pub(crate) fn has_answered(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.has_answered(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.has_answered(),
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

    /// How statements are prepared on it.
    pub(crate) fn naming(&self) -> Naming {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.naming(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.naming(),
        }
    }

    /// The runtime in which it came out of its pool.
    pub(crate) fn runtime(&self) -> Option<&Handle> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.runtime(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.runtime(),
        }
    }

    /// A prepared statement was refused as outdated, and those of the other connections may be too.
    pub(crate) fn set_outdated(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.set_outdated(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.set_outdated(),
        }
    }

    /// Its statements were forgotten, and will be prepared again.
    pub(crate) fn set_forgotten(&mut self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.set_forgotten(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.set_forgotten(),
        }
    }

    /// Whether raw SQL may have left a transaction open.
    pub(crate) fn set_unverified(&mut self, unverified: bool) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lent) => lent.set_unverified(unverified),
            #[cfg(feature = "postgres")]
            Self::Postgres(lent) => lent.set_unverified(unverified),
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

/// Whether the database has answered, and is there to say more.
pub(crate) fn is_answered<T>(done: &Result<T, sqlx::Error>) -> bool {
    match done {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) => !has_hung_up(&**error),
        Err(_) => false,
    }
}

/// Whether a statement that failed so has certainly done nothing: it was never sent, or the server has hung up instead of
/// running it to its end ([57P01, 57P05](https://www.postgresql.org/docs/current/errcodes-appendix.html)).
pub(crate) fn did_nothing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            has_hung_up(&**error) && matches!(error.code().as_deref(), Some("57P01" | "57P05"))
        }
        error => was_never_sent(error),
    }
}

/// Whether a prepared statement was refused before it did anything, because it is not what it was when it was prepared: a table
/// or a type has changed since, or the server has forgotten the statement
/// ([`RevalidateCachedQuery`](https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/utils/cache/plancache.c)).
pub(crate) fn is_outdated(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if is_about_outdated(&**error))
}

/// As [`is_outdated`].
pub(crate) fn is_about_outdated(error: &dyn DatabaseError) -> bool {
    match error.code().as_deref() {
        Some("0A000") => {
            // The message is in the language of the server.
            #[cfg(feature = "postgres")]
            if let Some(error) = error.try_downcast_ref::<PgDatabaseError>()
                && error.routine() == Some("RevalidateCachedQuery")
            {
                return true;
            }
            error.message() == "cached plan must not change result type"
        }
        Some("26000") => true,
        Some("XX000") => error.message().starts_with("cache lookup failed for type"),
        _ => false,
    }
}

/// Whether a statement failed on its way out.
pub(crate) fn was_never_sent(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Whether an error is the last that is heard of the server on this connection.
pub(crate) fn has_hung_up(
    #[cfg_attr(not(feature = "postgres"), expect(unused_variables))] error: &dyn DatabaseError,
) -> bool {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
    }
    false
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
