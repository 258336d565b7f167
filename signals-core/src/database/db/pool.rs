//! The pool of a `Db`: its identity, its settings, and the checkout of connections from it.

#[cfg(feature = "durable")]
use std::any::Any;
use std::panic::Location;
use std::sync::Arc;
#[cfg(feature = "durable")]
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::BoxFuture;
#[cfg(feature = "postgres")]
use sqlx::{PgPool, Postgres};
#[cfg(feature = "sqlite")]
use sqlx::{Sqlite, SqlitePool};

use crate::database::backend::{Backend, on};
use crate::database::db::Db;
use crate::database::lease::{AnyLease, Lease};
use crate::database::pool::WarmPool;
use crate::database::runtimes::Runtimes;
use crate::database::schema_cache::SchemaCache;
use crate::database::values::Layers;
use crate::database::write_queue::WriteQueue;
use crate::error::Result;
use crate::task::closures::{self, Closure};
use crate::task::pool_id::{PoolId, QueueId};

/// The sqlx pool of either database.
#[derive(Clone)]
pub(super) enum Pool {
    #[cfg(feature = "sqlite")]
    Sqlite(PoolOf<Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(PoolOf<Postgres>),
}

/// A sqlx pool. It has a [`WarmPool`] in front of it, unless the `Db` was created for one call.
pub(super) type PoolOf<DB> = (sqlx::Pool<DB>, Option<Arc<WarmPool<DB>>>);

impl Db {
    fn of_pool(pool: Pool) -> Self {
        Self { pool, state: Layers::default(), facts: Arc::default() }
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn of_sqlite(pool: SqlitePool) -> Self {
        let warm_pool = Some(WarmPool::private(pool.clone(), Runtimes::with_hook()));
        Self::of_pool(Pool::Sqlite((pool, warm_pool)))
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn of_postgres(pool: PgPool, runtimes: Arc<Runtimes>) -> Self {
        let warm_pool = Some(WarmPool::private(pool.clone(), runtimes));
        Self::of_pool(Pool::Postgres((pool, warm_pool)))
    }

    /// The sqlx pool, for a use that the [`WarmPool`] need not consider.
    #[cfg(all(feature = "durable", feature = "sqlite"))]
    pub(crate) fn sqlite_pool(&self) -> Option<&SqlitePool> {
        match &self.pool {
            Pool::Sqlite((pool, _)) => Some(pool),
            #[cfg(feature = "postgres")]
            Pool::Postgres(_) => None,
        }
    }

    /// The sqlx pool, for a use that the [`WarmPool`] need not consider.
    #[cfg(all(feature = "durable", feature = "postgres"))]
    pub(crate) fn postgres_pool(&self) -> Option<&PgPool> {
        match &self.pool {
            Pool::Postgres((pool, _)) => Some(pool),
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_) => None,
        }
    }

    /// Whether statements stay prepared on the connections of the pool.
    #[cfg(all(feature = "durable", feature = "postgres"))]
    pub(crate) fn keeps_statements(&self) -> bool {
        on!(Pool, &self.pool, DB, (pool, _) => DB::keeps_statements(pool))
    }

    /// From now on, a connection is closed if a statement whose future was dropped does not end soon.
    #[cfg(all(feature = "durable", feature = "postgres"))]
    pub(crate) fn limit_statements(&self) {
        on!(Pool, &self.pool, (_, warm_pool) => {
            warm_pool.iter().for_each(|warm_pool| warm_pool.limit_statements());
        });
    }

    pub(super) async fn close_pool(&self) {
        on!(Pool, &self.pool, (pool, warm_pool) => {
            warm_pool.iter().for_each(|warm_pool| warm_pool.disable());
            pool.close().await;
        });
    }

    /// A `Db` for one call on a pool of the application.
    #[cfg(feature = "sqlite")]
    pub(crate) fn once_sqlite(pool: &SqlitePool) -> Self {
        let facts = SchemaCache::of_sqlite(pool);
        Self { pool: Pool::Sqlite((pool.clone(), None)), state: Layers::default(), facts }
    }

    /// A `Db` for one call on a pool of the application.
    #[cfg(feature = "postgres")]
    pub(crate) fn once_postgres(pool: &PgPool) -> Self {
        let facts = SchemaCache::of_server(pool);
        Self { pool: Pool::Postgres((pool.clone(), None)), state: Layers::default(), facts }
    }

    /// Whether it was created for one call on a pool of the application, and so has no values of its own.
    pub(crate) fn is_for_one_call(&self) -> bool {
        on!(Pool, &self.pool, (_, warm_pool) => warm_pool.is_none())
    }

    /// The closure of a transaction of this `Db`.
    pub(crate) fn closure(&self, site: &'static Location<'static>, writes: bool) -> Closure {
        let max = on!(Pool, &self.pool, (pool, _) => pool.options().get_max_connections());
        let queue = if writes { self.queue_id() } else { None };
        Closure { pool: self.pool_id(), has_only_connection: max == 1, queue, site }
    }

    /// Makes every connection prepare its statements again before its next use, because the schema may have changed.
    pub(crate) fn prepare_again(&self) {
        // SQLite prepares outdated statements again by itself.
        #[cfg(feature = "postgres")]
        if let Pool::Postgres((_, Some(warm_pool))) = &self.pool {
            warm_pool.outdate_statements(warm_pool.epoch());
        }
    }

    /// The cached facts about the tables of the database.
    pub(crate) fn facts(&self) -> &SchemaCache {
        &self.facts
    }

    pub(crate) fn pool_id(&self) -> PoolId {
        on!(Pool, &self.pool, (pool, _) => PoolId::of(pool))
    }

    /// A reference that is dead if the pool may have been dropped. After that, another pool can have the same [`PoolId`].
    #[cfg(feature = "durable")]
    pub(crate) fn downgrade_pool(&self) -> Weak<dyn Any + Send + Sync> {
        on!(Pool, &self.pool, (_, warm_pool) => match warm_pool {
            Some(warm_pool) => Arc::downgrade(warm_pool) as _,
            None => Weak::<()>::new(),
        })
    }

    /// The queue of the writers of a SQLite database, if they have one and it is known.
    pub(crate) fn write_queue(&self) -> Option<&Arc<WriteQueue>> {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite((pool, _)) => self.facts.queue.of(pool),
            #[cfg(feature = "postgres")]
            Pool::Postgres(..) => None,
        }
    }

    pub(crate) fn queue_id(&self) -> Option<QueueId> {
        self.write_queue().map(WriteQueue::id)
    }

    /// How long a checkout may take.
    pub(crate) fn acquire_timeout(&self) -> Duration {
        on!(Pool, &self.pool, (pool, _) => pool.options().get_acquire_timeout())
    }

    pub(crate) async fn checkout(&self) -> Result<AnyLease> {
        match self.try_lease() {
            Some(lease) => Ok(lease),
            None => self.wait_for_lease().await,
        }
    }

    /// A connection that is idle in the [`WarmPool`] and needs no check.
    pub(in crate::database) fn try_lease(&self) -> Option<AnyLease> {
        match &self.pool {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite((_, warm_pool)) => warm_pool.as_ref()?.try_acquire().map(AnyLease::Sqlite),
            #[cfg(feature = "postgres")]
            Pool::Postgres((_, warm_pool)) => {
                warm_pool.as_ref()?.try_acquire().map(AnyLease::Postgres)
            }
        }
    }

    /// Waits for a connection. Boxed, because otherwise the future of every save would contain this one, and every
    /// application would compile the code of sqlx's pool again.
    pub(in crate::database) fn wait_for_lease(&self) -> BoxFuture<'_, Result<AnyLease>> {
        Box::pin(async move {
            closures::check_not_only(self.pool_id())?;
            Ok(match &self.pool {
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(pool) => AnyLease::Sqlite(lease(pool).await?),
                #[cfg(feature = "postgres")]
                Pool::Postgres(pool) => AnyLease::Postgres(lease(pool).await?),
            })
        })
    }
}

async fn lease<DB: Backend>((pool, warm_pool): &PoolOf<DB>) -> Result<Lease<DB>, sqlx::Error> {
    match warm_pool {
        Some(warm_pool) => warm_pool.acquire().await,
        None => Lease::of(pool).await,
    }
}

/// The sqlx pool for the application. From then on, the [`WarmPool`] considers the callers of that pool.
pub(super) fn shared<DB: Backend>((pool, warm_pool): &PoolOf<DB>) -> &sqlx::Pool<DB> {
    if let Some(warm_pool) = warm_pool {
        warm_pool.share();
    }
    pool
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        on!(Pool, self, (pool, _) => pool.fmt(f))
    }
}

macro_rules! from_pool {
    ($feature:literal, $DB:ident, $pool:ty) => {
        /// Uses a pool that the application has configured. The application can use the pool too. A write is as fast as with
        /// [`Db::connect`]; on PostgreSQL, one more round trip is needed whenever a connection is taken from the pool, not for each write.
        ///
        /// A connection stays out of the pool for many calls of the `Db`. The pool's hooks `before_acquire` and `after_release`
        /// therefore do not run for each call. `after_connect` runs for every new connection.
        #[cfg(feature = $feature)]
        impl From<$pool> for Db {
            fn from(pool: $pool) -> Self {
                let warm_pool = Some(WarmPool::shared(pool.clone()));
                Self::of_pool(Pool::$DB((pool, warm_pool)))
            }
        }
    };
}

from_pool!("sqlite", Sqlite, SqlitePool);
from_pool!("postgres", Postgres, PgPool);
