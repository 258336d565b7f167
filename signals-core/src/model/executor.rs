//! What the methods of a model accept as the source of their connection.

use sqlx::pool::PoolConnection;
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, PgPool, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::source::Connects;
use crate::model::Model;
use crate::model::store::{Any, Only, Portable, Route, Store};
use crate::transaction::Transaction;

/// A source of a connection on which rows of the model `M` can be written and read.
///
/// | source | models |
/// |---|---|
/// | `&Db` | [`Portable`]: every enabled database can store the model |
/// | `&mut Conn<'_>` | [`Portable`] |
/// | `&mut Transaction<'_>` | [`Portable`] |
/// | `&SqlitePool`, `&PgPool` | the database of the pool can store the model |
/// | `&mut SqliteConnection`, `&mut PgConnection` | the database of the connection can store the model |
/// | `&mut PoolConnection<_>` | the database of the connection can store the model |
/// | `&mut sqlx::Transaction<'_, _>` | the database of the transaction can store the model |
///
/// As with [`sqlx::Executor`], a function that takes `impl Executor<M>` can use it for one call only. For several calls, and
/// to bind values to a query, it takes the connection with [`acquire`](Connects::acquire). To pass on a
/// `conn: &mut Conn<'_>` and use it again afterwards, write `&mut *conn`.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Executor;
///
/// # #[derive(Model)]
/// # struct City { id: Option<i64>, name: String }
/// async fn create_city(db: impl Executor<City>, name: &str) -> Result<City> {
///     let mut city = City { id: None, name: name.to_owned() };
///     city.save(db).await?;
///     Ok(city)
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let ulm = tokio::spawn(async move { create_city(&db, "Ulm").await }).await.unwrap()?;
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

macro_rules! executor {
    (<$($extra:lifetime)?> $type:ty, $bound:path, $route:ty) => {
        impl<'c $(, $extra)?, M: $bound> Executor<M> for $type {
            type Route = $route;
        }
    };
}

executor!(<> &'c Db, Portable, Any);
executor!(<'x> &'c mut Conn<'x>, Portable, Any);
executor!(<'x> &'c mut Transaction<'x>, Portable, Any);

macro_rules! executors_of_sqlx {
    ($feature:literal, $DB:ident, $pool:ty, $conn:ty) => {
        #[cfg(feature = $feature)]
        executor!(<> &'c $pool, Store<$DB>, Only<$DB>);
        #[cfg(feature = $feature)]
        executor!(<> &'c mut $conn, Store<$DB>, Only<$DB>);
        #[cfg(feature = $feature)]
        executor!(<> &'c mut PoolConnection<$DB>, Store<$DB>, Only<$DB>);
        #[cfg(feature = $feature)]
        executor!(<'x> &'c mut sqlx::Transaction<'x, $DB>, Store<$DB>, Only<$DB>);
    };
}

executors_of_sqlx!("sqlite", Sqlite, SqlitePool, SqliteConnection);
executors_of_sqlx!("postgres", Postgres, PgPool, PgConnection);
