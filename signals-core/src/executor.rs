use std::borrow::Cow;

use futures_util::future::{Either, ready};
use sqlx::pool::PoolConnection;
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, PgPool, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

use crate::backend::DatabaseKind;
use crate::conn::Conn;
use crate::context::PoolId;
use crate::db::Db;
use crate::error::Result;
use crate::model::Model;
use crate::store::{Any, Only, Portable, Route, Store};
use crate::transaction::Transaction;

/// Anything that leads to a connection on which a model `M` can be stored.
///
/// That is `&Db`, `&mut Conn<'_>` and `&mut Transaction<'_>` for a model that every database of the build can store,
/// and sqlx's own pools, connections and transactions for a model that their database can store: `&SqlitePool`,
/// `&mut SqliteConnection`, `&mut PoolConnection<Sqlite>`, `&mut sqlx::Transaction<'_, Sqlite>`, and the same of
/// Postgres.
///
/// It is used once, as [`sqlx::Executor`] is. A function that needs a connection twice takes `&mut Conn<'_>` or `&Db`.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Executor;
///
/// # #[derive(Model)]
/// # struct City { id: Option<i64>, name: String }
/// async fn found(db: impl Executor<City>, name: &str) -> Result<City> {
///     let mut city = City { id: None, name: name.to_owned() };
///     city.save(db).await?;
///     Ok(city)
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let ulm = tokio::spawn(async move { found(&db, "Ulm").await }).await.unwrap()?;
/// # assert!(ulm.id.is_some()); Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not lead to a connection for `{M}`",
    label = "expected `&Db`, `&mut Conn<'_>`, `&mut Transaction<'_>`, or a pool or connection of sqlx",
    note = "a pool is given as `&pool`, a connection as `&mut conn`; one that is already a reference, once more as \
            `&mut *conn`"
)]
pub trait Executor<M: Model>: Connects {
    #[doc(hidden)]
    type Route: Route<M>;
}

/// Anything that leads to a connection, whatever for: what an [`Executor`] is for every model.
pub trait Connects: Send + sealed::Sealed {
    // The lifetime is the method's and not the trait's: a bound with a lifetime of its own would keep the futures of
    // generic functions from being known as `Send` (https://github.com/rust-lang/rust/issues/100013).
    #[doc(hidden)]
    fn into_source<'m>(self) -> Source<'m>
    where
        Self: 'm;
}

mod sealed {
    pub trait Sealed {}
}

/// Where the connection of one call comes from.
pub enum Source<'c> {
    #[doc(hidden)]
    Db(&'c Db),
    #[doc(hidden)]
    #[cfg(feature = "sqlite")]
    Sqlite(&'c SqlitePool),
    #[doc(hidden)]
    #[cfg(feature = "postgres")]
    Postgres(&'c PgPool),
    #[doc(hidden)]
    Conn(Conn<'c>),
}

impl<'c> Source<'c> {
    /// The connection. Who has one already does not wait for it, and so the future has no room for it.
    pub(crate) fn acquire(self) -> impl Future<Output = Result<Conn<'c>>> {
        let acquired = match self {
            Source::Db(db) => Err(Cow::Borrowed(db)),
            #[cfg(feature = "sqlite")]
            Source::Sqlite(pool) => Err(Cow::Owned(Db::once_sqlite(pool))),
            #[cfg(feature = "postgres")]
            Source::Postgres(pool) => Err(Cow::Owned(Db::once_postgres(pool))),
            Source::Conn(conn) => Ok(conn),
        };
        match acquired {
            Ok(conn) => Either::Left(ready(Ok(conn))),
            Err(db) => Either::Right(async move { db.acquire().await }),
        }
    }

    /// The connection, which is taken where it still has to be, and stays here.
    pub(crate) async fn connect(&mut self) -> Result<&mut Conn<'c>> {
        if !matches!(self, Source::Conn(_)) {
            let conn = self.db().ok_or(sqlx::Error::PoolClosed)?.acquire().await?;
            *self = Source::Conn(conn);
        }
        match self {
            Source::Conn(conn) => Ok(conn),
            _ => unreachable!("it was taken just now"),
        }
    }

    /// The same for a shorter time.
    pub(crate) fn reborrow(&mut self) -> Source<'_> {
        match self {
            Source::Db(db) => Source::Db(db),
            #[cfg(feature = "sqlite")]
            Source::Sqlite(pool) => Source::Sqlite(pool),
            #[cfg(feature = "postgres")]
            Source::Postgres(pool) => Source::Postgres(pool),
            Source::Conn(conn) => Source::Conn(conn.reborrow()),
        }
    }

    pub(crate) fn kind(&self) -> DatabaseKind {
        match self {
            Source::Db(db) => db.kind(),
            #[cfg(feature = "sqlite")]
            Source::Sqlite(_) => DatabaseKind::Sqlite,
            #[cfg(feature = "postgres")]
            Source::Postgres(_) => DatabaseKind::Postgres,
            Source::Conn(conn) => conn.kind(),
        }
    }

    /// The pool behind it, where there is one.
    pub(crate) fn db(&self) -> Option<Db> {
        match self {
            Source::Db(db) => Some((*db).clone()),
            #[cfg(feature = "sqlite")]
            Source::Sqlite(pool) => Some(Db::once_sqlite(pool)),
            #[cfg(feature = "postgres")]
            Source::Postgres(pool) => Some(Db::once_postgres(pool)),
            Source::Conn(conn) => conn.scope.db.clone(),
        }
    }

    pub(crate) fn pool_id(&self) -> Option<PoolId> {
        match self {
            Source::Db(db) => Some(db.pool_id()),
            #[cfg(feature = "sqlite")]
            Source::Sqlite(pool) => Some(PoolId::of(pool)),
            #[cfg(feature = "postgres")]
            Source::Postgres(pool) => Some(PoolId::of(pool)),
            Source::Conn(conn) => conn.scope.pool(),
        }
    }
}

impl<'c> From<Conn<'c>> for Source<'c> {
    fn from(conn: Conn<'c>) -> Self {
        Self::Conn(conn)
    }
}

macro_rules! executor {
    (<$($extra:lifetime)?> $type:ty, $bound:path, $route:ty, |$self:ident| $source:expr) => {
        impl<'c $(, $extra)?> sealed::Sealed for $type {}
        impl<'c $(, $extra)?> Connects for $type {
            fn into_source<'m>($self) -> Source<'m>
            where
                Self: 'm,
            {
                $source
            }
        }
        impl<'c $(, $extra)?, M: $bound> Executor<M> for $type {
            type Route = $route;
        }
    };
}

executor!(<> &'c Db, Portable, Any, |self| Source::Db(self));
executor!(<'x> &'c mut Conn<'x>, Portable, Any, |self| self.reborrow().into());
executor!(<'x> &'c mut Transaction<'x>, Portable, Any, |self| self.reborrow().into());

macro_rules! executors_of_sqlx {
    ($feature:literal, $DB:ident, $pool:ty, $conn:ty, $only:ident) => {
        #[cfg(feature = $feature)]
        executor!(<> &'c $pool, Store<$DB>, Only<$DB>, |self| Source::$DB(self));
        #[cfg(feature = $feature)]
        executor!(<> &'c mut $conn, Store<$DB>, Only<$DB>, |self| Conn::$only(self).into());
        #[cfg(feature = $feature)]
        executor!(<> &'c mut PoolConnection<$DB>, Store<$DB>, Only<$DB>, |self| Conn::$only(self).into());
        #[cfg(feature = $feature)]
        executor!(<'x> &'c mut sqlx::Transaction<'x, $DB>, Store<$DB>, Only<$DB>, |self| Conn::$only(self).into());
    };
}

executors_of_sqlx!("sqlite", Sqlite, SqlitePool, SqliteConnection, sqlite_only);
executors_of_sqlx!("postgres", Postgres, PgPool, PgConnection, postgres_only);
