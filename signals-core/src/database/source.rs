//! The executor argument of a call: a pool, or a connection.

use std::borrow::Cow;

use futures_util::future::{BoxFuture, Either, ready};
use sqlx::pool::PoolConnection;
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, PgPool, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::schema_cache::SchemaCache;
use crate::database::writer::Writer;
use crate::error::Result;
use crate::task::pool_id::PoolId;

/// A type from which a connection can be obtained, such as `&Db`. Unlike [`Executor`](crate::Executor), it does not depend on a
/// model.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Connects;
///
/// #[derive(Signal)]
/// struct OrderPaid { order_id: i64 }
///
/// async fn pay(db: impl Connects, order_id: i64) -> Result<()> {
///     OrderPaid { order_id }.send(db).await
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// pay(&db, 7).await?;
/// let mut tx = db.begin().await?;
/// pay(&mut tx, 8).await?;
/// # Ok(()) }
/// ```
pub trait Connects: Send + sealed::Sealed {
    // The lifetime is a parameter of the method, not of the trait: with a lifetime in the bound, the compiler cannot prove that
    // the futures of generic functions are `Send` (https://github.com/rust-lang/rust/issues/100013).
    #[doc(hidden)]
    fn into_source<'m>(self) -> Source<'m>
    where
        Self: 'm;

    /// Returns the connection, taken from the pool if this is one. A function that is generic over
    /// [`Executor`](crate::Executor) can use it for any number of calls, and can bind values to a query:
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// async fn rename(db: impl Executor<City>, from: &str, to: &str) -> Result<u64> {
    ///     let mut conn = db.acquire().await?;
    ///     let city = City::query("WHERE name = $1").bind(from).fetch_one(&mut conn).await?;
    ///     City::query("WHERE id = $1").bind(city.id).set(City::NAME, to).update(&mut conn).await
    /// }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # City { id: None, name: "Ulm".into() }.save(&db).await?;
    /// # assert_eq!(rename(&db, "Ulm", "Bonn").await?, 1); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of the pool, if no connection is available.
    // Boxed: of an opaque future with a lifetime, the compiler cannot prove that it is `Send`, as above.
    fn acquire<'m>(self) -> BoxFuture<'m, Result<Conn<'m>>>
    where
        Self: Sized + 'm,
    {
        Box::pin(async move { self.into_source().acquire().await })
    }
}

pub(crate) mod sealed {
    #[allow(unreachable_pub)]
    pub trait Sealed {}
}

/// The source of the connection for one call.
pub enum Source<'c> {
    #[doc(hidden)]
    Db(Cow<'c, Db>),
    #[doc(hidden)]
    Conn(Conn<'c>),
}

impl<'c> Source<'c> {
    /// Returns the connection. If the source already is a connection, the returned future is `ready`, which keeps it small.
    pub(crate) fn acquire(self) -> impl Future<Output = Result<Conn<'c>>> {
        match self {
            Source::Conn(conn) => Either::Left(ready(Ok(conn))),
            Source::Db(db) => Either::Right(async move { db.acquire().await }),
        }
    }

    /// As [`acquire`](Self::acquire), for a write. On SQLite, waits for its turn.
    pub(crate) fn acquire_to_write(self, writer: Writer) -> impl Future<Output = Result<Conn<'c>>> {
        match self {
            Source::Conn(mut conn) => match conn.try_turn(writer) {
                Ok(true) => Either::Left(ready(Ok(conn))),
                Err(error) => Either::Left(ready(Err(error))),
                Ok(false) => Either::Right(Either::Left(Box::pin(async move {
                    conn.wait_for_turn(writer).await?;
                    Ok(conn)
                }))),
            },
            Source::Db(db) => {
                Either::Right(Either::Right(async move { db.acquire_to_write(writer).await }))
            }
        }
    }

    /// As [`acquire_to_write`](Self::acquire_to_write), but does not wait. Returns the source if it would have to.
    pub(crate) fn try_acquire_to_write(self, writer: Writer) -> Result<Result<Conn<'c>, Self>> {
        match self {
            Source::Conn(mut conn) => {
                let has_turn = conn.try_turn(writer)?;
                Ok(if has_turn { Ok(conn) } else { Err(Source::Conn(conn)) })
            }
            Source::Db(db) => Ok(match db.try_acquire_to_write(writer)? {
                Some(lease) => Ok(Conn::with_lease(Some(lease), Db::clone(&db))),
                None => Err(Source::Db(db)),
            }),
        }
    }

    /// As [`acquire_to_write`](Self::acquire_to_write), but stores a connection from the pool in `self`.
    pub(crate) async fn connect_to_write(&mut self, writer: Writer) -> Result<&mut Conn<'c>> {
        match self {
            Source::Conn(conn) => conn.wait_for_turn(writer).await?,
            Source::Db(db) => *self = Source::Conn(db.acquire_to_write(writer).await?),
        }
        match self {
            Source::Conn(conn) => Ok(conn),
            Source::Db(_) => unreachable!("the connection was acquired above"),
        }
    }

    /// Borrows the same source for a shorter lifetime.
    pub(crate) fn reborrow(&mut self) -> Source<'_> {
        match self {
            Source::Db(db) => Source::Db(Cow::Borrowed(db)),
            Source::Conn(conn) => Source::Conn(conn.reborrow()),
        }
    }

    /// Whether this library has a transaction open on the connection.
    pub(crate) fn in_transaction(&self) -> bool {
        matches!(self, Source::Conn(conn) if conn.in_transaction())
    }

    /// The cached facts about the tables of the database.
    pub(crate) fn facts(&mut self) -> &SchemaCache {
        match self {
            Source::Db(db) => db.facts(),
            Source::Conn(conn) => conn.facts(),
        }
    }

    pub(crate) fn kind(&self) -> DatabaseKind {
        match self {
            Source::Db(db) => db.kind(),
            Source::Conn(conn) => conn.kind(),
        }
    }

    /// The `Db` of the connection, if it has one.
    pub(crate) fn db(&self) -> Option<Db> {
        match self {
            Source::Db(db) => Some(Db::clone(db)),
            Source::Conn(conn) => conn.state.db.clone(),
        }
    }

    pub(crate) fn pool_id(&self) -> Option<PoolId> {
        match self {
            Source::Db(db) => Some(db.pool_id()),
            Source::Conn(conn) => conn.state.pool(),
        }
    }
}

impl<'c> From<Conn<'c>> for Source<'c> {
    fn from(conn: Conn<'c>) -> Self {
        Self::Conn(conn)
    }
}

/// Implements [`Connects`] for a type.
macro_rules! connects {
    (<$($extra:lifetime)?> $type:ty, |$self:ident| $source:expr) => {
        impl<'c $(, $extra)?> $crate::database::source::sealed::Sealed for $type {}
        impl<'c $(, $extra)?> $crate::database::source::Connects for $type {
            fn into_source<'m>($self) -> $crate::database::source::Source<'m>
            where
                Self: 'm,
            {
                $source
            }
        }
    };
}

pub(crate) use connects;

connects!(<> &'c Db, |self| Source::Db(Cow::Borrowed(self)));
connects!(<'x> &'c mut Conn<'x>, |self| self.reborrow().into());

macro_rules! connects_of_sqlx {
    ($feature:literal, $DB:ident, $pool:ty, $conn:ty, $once:ident, $only:ident) => {
        #[cfg(feature = $feature)]
        connects!(<> &'c $pool, |self| Source::Db(Cow::Owned(Db::$once(self))));
        #[cfg(feature = $feature)]
        connects!(<> &'c mut $conn, |self| Conn::$only(self).into());
        #[cfg(feature = $feature)]
        connects!(<> &'c mut PoolConnection<$DB>, |self| Conn::$only(self).into());
        #[cfg(feature = $feature)]
        connects!(<'x> &'c mut sqlx::Transaction<'x, $DB>, |self| Conn::$only(self).into());
    };
}

connects_of_sqlx!("sqlite", Sqlite, SqlitePool, SqliteConnection, once_sqlite, sqlite_only);
connects_of_sqlx!("postgres", Postgres, PgPool, PgConnection, once_postgres, postgres_only);
