//! A connection on loan from sqlx's pool: checked out, or idle in the [`WarmPool`].

mod release;
mod state;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "postgres")]
use sqlx::Postgres;
#[cfg(feature = "sqlite")]
use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, Pool};
use tokio::runtime::{self, Handle};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::database::backend::{Backend, DatabaseKind, on};
use crate::database::pool::{NO_EPOCH, WarmPool, statement_timeout};
use crate::database::raw::RawConn;
use crate::database::reconcile;
use crate::database::runtimes::{self, in_runtime};
use crate::database::sent_statements::SentStatements;

pub(super) use release::CloseOnDrop;
pub(crate) use state::LeaseState;

/// Time limit for the end of a statement whose future was dropped, if the pool of the connection is unknown.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A pooled connection of either database.
#[allow(unreachable_pub)]
pub enum AnyLease {
    #[cfg(feature = "sqlite")]
    Sqlite(Lease<Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Lease<Postgres>),
}

/// A connection, checked out or idle. It is boxed, so that futures that contain a lease stay small. `None` only while the lease is
/// dropped.
#[allow(unreachable_pub)]
pub struct Lease<DB: Backend>(Option<Box<LeaseInner<DB>>>);

#[allow(unreachable_pub)]
pub struct LeaseInner<DB: Backend> {
    pub(super) conn: Origin<DB>,
    /// The pool to which the lease returns, and its permit; `None` if the connection goes back to sqlx's pool directly.
    owner: Option<(Arc<WarmPool<DB>>, OwnedSemaphorePermit)>,
    pub(super) state: LeaseState,
}

/// How sqlx has lent the connection.
pub(super) enum Origin<DB: Backend> {
    Pool(PoolConnection<DB>),
    /// The program has begun a transaction with sqlx, and passed it on to this library. If this library has not ended it when the
    /// connection is returned, sqlx rolls it back.
    Transaction(sqlx::Transaction<'static, DB>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InFlight {
    Nothing,
    Ping,
    Statement,
}

impl std::fmt::Debug for AnyLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AnyLease").field(&self.kind()).finish()
    }
}

impl AnyLease {
    pub(crate) fn kind(&self) -> DatabaseKind {
        on!(AnyLease, self, DB, _ => DB::KIND)
    }

    /// What is known about the connection.
    pub(crate) fn state(&self) -> &LeaseState {
        on!(AnyLease, self, lease => &lease.state)
    }

    pub(crate) fn state_mut(&mut self) -> &mut LeaseState {
        on!(AnyLease, self, lease => &mut lease.state)
    }

    /// The sqlx connection.
    pub(crate) fn raw(&mut self) -> RawConn<'_> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(lease) => RawConn::Sqlite(&mut lease.conn),
            #[cfg(feature = "postgres")]
            Self::Postgres(lease) => RawConn::Postgres(&mut lease.conn),
        }
    }

    /// Records that the database refused a prepared statement as outdated. The statements of all other connections may be outdated
    /// too.
    pub(crate) fn set_statements_outdated(&mut self) {
        on!(AnyLease, self, lease => {
            let epoch = lease.state.epoch.take();
            if let (Some((owner, _)), Some(epoch)) = (&lease.owner, epoch) {
                owner.outdate_statements(epoch);
            }
        });
    }

    /// Records that the statement cache of the connection was cleared, so its statements will be prepared again.
    pub(crate) fn set_statements_cleared(&mut self) {
        on!(AnyLease, self, lease => lease.state.epoch = Some(lease.pool_epoch()));
    }

    /// Closes the connection.
    pub(crate) fn close(self) {
        on!(AnyLease, self, lease => lease.into_inner().close());
    }
}

impl<DB: Backend> Lease<DB> {
    /// Takes a connection from sqlx's pool. On drop, it goes straight back there, bypassing any `WarmPool`.
    pub(crate) async fn of(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        let (conn, is_new) = runtimes::acquire(pool).await?;
        let opened_in = if is_new { runtimes::current_id() } else { None };
        let mut lease = Self::new(Origin::Pool(conn), DB::keeps_statements(pool), opened_in);
        lease.state.is_new = is_new;
        lease.state.statement_timeout = statement_timeout(pool);
        Ok(lease)
    }

    /// Takes over a transaction that the program has begun with sqlx.
    pub(crate) fn of_transaction(tx: sqlx::Transaction<'static, DB>) -> Self {
        let keeps_statements = DB::connection_keeps_statements(&tx);
        let mut lease = Self::new(Origin::Transaction(tx), keeps_statements, None);
        lease.state.set_used_raw();
        lease
    }

    fn new(conn: Origin<DB>, keeps_statements: bool, opened_in: Option<runtime::Id>) -> Self {
        let acquired_at = Instant::now();
        let state = LeaseState {
            acquired_at,
            idle_since: acquired_at,
            in_flight: InFlight::Nothing,
            used_raw: false,
            unverified: false,
            query_only: false,
            proven_alive: false,
            runtime: Handle::try_current().ok(),
            opened_in,
            is_new: false,
            keeps_statements,
            sent: SentStatements::default(),
            has_limit: false,
            statement_timeout: STATEMENT_TIMEOUT,
            is_superseded: false,
            epoch: Some(NO_EPOCH),
            turn: None,
            place: None,
            borrowed_turn: None,
            group: None,
        };
        Self(Some(Box::new(LeaseInner { conn, owner: None, state })))
    }

    /// Makes the lease return to `owner`.
    pub(super) fn with_owner(
        mut self,
        owner: &Arc<WarmPool<DB>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        self.owner = Some((Arc::clone(owner), permit));
        self.state.has_limit = owner.limits_statements();
        self.state.statement_timeout = owner.statement_timeout();
        self.state.proven_alive = false;
        self
    }

    fn into_inner(mut self) -> Box<LeaseInner<DB>> {
        self.0.take().expect(HAS_CONNECTION)
    }

    /// Drops the connection without sending anything to the server, and returns its permit.
    pub(super) fn discard(self) -> Option<OwnedSemaphorePermit> {
        let LeaseInner { conn, owner, state } = *self.into_inner();
        in_runtime(state.runtime, move || match conn {
            Origin::Pool(conn) => drop(conn.detach()),
            Origin::Transaction(tx) => drop(tx),
        });
        owner.map(|(_, permit)| permit)
    }

    /// Returns an idle connection to sqlx's pool, which checks it. The permit is held until then.
    pub(super) fn give_back(self, permit: Option<OwnedSemaphorePermit>, answer_timeout: Duration) {
        self.into_inner().give_back(permit, answer_timeout);
    }
}

impl<DB: Backend> LeaseInner<DB> {
    /// How long the connection has been idle.
    pub(super) fn idle_time(&self) -> Duration {
        self.state.idle_since.elapsed()
    }

    /// Whether the connection was opened when it was taken from sqlx's pool, if that is known.
    pub(super) fn is_new(&self) -> bool {
        self.state.is_new
    }

    /// Records the runtime that opened the connection.
    pub(super) fn set_opened_in(&mut self, runtime: Option<runtime::Id>) {
        self.state.opened_in = runtime;
    }

    /// Whether the connection was opened in `runtime`; always true if the database needs no runtime. The I/O driver of another
    /// runtime may have shut down or may not be polled. A ping does not always detect that, because its answer may be readable
    /// without waiting.
    pub(super) fn works_in(&self, runtime: Option<runtime::Id>) -> bool {
        !DB::NEEDS_RUNTIME || self.state.opened_in == runtime
    }

    /// Whether the connection's statements were prepared in this epoch of the pool.
    pub(super) fn is_of(&self, epoch: u64) -> bool {
        self.state.epoch == Some(epoch)
    }

    fn pool_epoch(&self) -> u64 {
        self.owner.as_ref().map_or(NO_EPOCH, |(owner, _)| owner.epoch())
    }

    /// Clears the statement cache of the connection if it may be of an older epoch.
    pub(super) async fn clear_statements(&mut self, epoch: u64) -> Result<(), sqlx::Error> {
        if !self.is_of(epoch) {
            if self.state.keeps_statements {
                DB::clear_statements(&mut self.conn, epoch).await?;
            }
            self.state.epoch = Some(epoch);
        }
        Ok(())
    }

    /// Rolls back a transaction that the program has left open without the knowledge of sqlx.
    pub(super) async fn roll_back_uncounted(&mut self) -> Result<(), sqlx::Error> {
        self.state.in_flight = InFlight::Ping;
        reconcile::roll_back_uncounted::<DB>(&mut self.conn).await?;
        self.state.in_flight = InFlight::Nothing;
        Ok(())
    }

    /// Whether a ping succeeds. Returns an error if there is no answer in time.
    pub(super) async fn is_alive(&mut self, limit: Duration) -> Result<bool, Elapsed> {
        // Set before the await, because the future may be dropped at that point.
        self.state.in_flight = InFlight::Ping;
        let alive = async {
            self.clear_statements(self.pool_epoch()).await?;
            self.conn.ping().await
        };
        let alive = timeout(limit, alive).await?.is_ok();
        if alive {
            self.state.in_flight = InFlight::Nothing;
        }
        Ok(alive)
    }
}

impl<DB: Backend> Deref for Origin<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        match self {
            Self::Pool(conn) => conn,
            Self::Transaction(conn) => conn,
        }
    }
}

impl<DB: Backend> DerefMut for Origin<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        match self {
            Self::Pool(conn) => conn,
            Self::Transaction(conn) => conn,
        }
    }
}

impl<DB: Backend> From<Box<LeaseInner<DB>>> for Lease<DB> {
    fn from(inner: Box<LeaseInner<DB>>) -> Self {
        Self(Some(inner))
    }
}

const HAS_CONNECTION: &str = "a lease has a connection until it is dropped";

impl<DB: Backend> Deref for Lease<DB> {
    type Target = LeaseInner<DB>;

    fn deref(&self) -> &LeaseInner<DB> {
        self.0.as_ref().expect(HAS_CONNECTION)
    }
}

impl<DB: Backend> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut LeaseInner<DB> {
        self.0.as_mut().expect(HAS_CONNECTION)
    }
}

impl<DB: Backend> Drop for Lease<DB> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take() {
            inner.release();
        }
    }
}
