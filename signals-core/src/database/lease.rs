//! A connection on loan from sqlx's pool: checked out, or idle in the [`WarmPool`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, Pool};
use tokio::runtime::{self, Handle};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::database::backend::Backend;
use crate::database::execution::Naming;
use crate::database::pool::{ANSWER_TIMEOUT, WarmPool};
use crate::database::runtimes::{self, in_runtime};
use crate::database::verify;

/// A connection, checked out or idle. It is boxed, so that futures that contain a lease stay small.
pub(crate) struct Lease<DB: Backend>(Option<Box<LeaseInner<DB>>>);

struct LeaseInner<DB: Backend> {
    conn: PoolConnection<DB>,
    /// When the connection was taken from sqlx's pool.
    acquired_at: Instant,
    /// When the connection was last put into `idle`.
    idle_since: Instant,
    /// The request that the database has not answered yet. If there is one when the lease is dropped, the state of the connection
    /// is unknown.
    in_flight: InFlight,
    /// Whether the program has used the underlying sqlx connection directly.
    used_raw: bool,
    /// Whether raw SQL may have left a transaction open.
    unverified: bool,
    /// Whether the database has answered a statement since checkout. `set_used_raw` also sets this, without an answer. Until it
    /// is set, the connection may be dead.
    proven_alive: bool,
    /// The pool to which the lease returns, and its permit; `None` if the connection goes back to sqlx's pool directly.
    owner: Option<(Arc<WarmPool<DB>>, OwnedSemaphorePermit)>,
    /// The runtime in which the connection was taken from sqlx's pool. Entered if the lease is dropped outside a runtime.
    runtime: Option<Handle>,
    /// The runtime that opened the connection, if it is known.
    opened_in: Option<runtime::Id>,
    /// Whether statements stay prepared on the connection.
    keeps_statements: bool,
    /// The generation of the pool for which the connection's statement cache is valid. `None` if the cache is certainly outdated.
    generation: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Nothing,
    Ping,
    Statement,
}

impl<DB: Backend> Lease<DB> {
    /// Takes a connection from sqlx's pool. On drop, it goes straight back there, bypassing any `WarmPool`.
    pub(crate) async fn of(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        let (conn, is_new) = runtimes::acquire(pool).await?;
        let acquired_at = Instant::now();
        Ok(Self(Some(Box::new(LeaseInner {
            conn,
            acquired_at,
            idle_since: acquired_at,
            in_flight: InFlight::Nothing,
            used_raw: false,
            unverified: false,
            proven_alive: false,
            owner: None,
            runtime: Handle::try_current().ok(),
            opened_in: if is_new { runtimes::current_id() } else { None },
            keeps_statements: DB::keeps_statements(pool),
            generation: Some(0),
        }))))
    }

    /// Makes the lease return to `owner`.
    pub(super) fn with_owner(
        mut self,
        owner: &Arc<WarmPool<DB>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        if let Some(inner) = &mut self.0 {
            inner.owner = Some((Arc::clone(owner), permit));
            inner.proven_alive = false;
        }
        self
    }

    /// Records in which runtime the connection was opened.
    pub(super) fn set_opened_in(&mut self, runtime: Option<runtime::Id>) {
        if let Some(inner) = &mut self.0 {
            inner.opened_in = runtime;
        }
    }

    /// Clears the statement cache of the connection if it is of an older generation.
    pub(super) async fn clear_statements(&mut self, generation: u64) -> Result<(), sqlx::Error> {
        match &mut self.0 {
            Some(inner) => inner.clear_statements(generation).await,
            None => Ok(()),
        }
    }

    /// Returns the connection to sqlx's pool. The permit is held until the return completes.
    pub(super) fn give_back(
        mut self,
        permit: Option<OwnedSemaphorePermit>,
        answer_timeout: Duration,
    ) {
        if let Some(inner) = self.0.take() {
            inner.give_back(permit, answer_timeout);
        }
    }

    /// How long the connection has been idle.
    pub(super) fn idle_time(&self) -> Duration {
        self.0.as_ref().map_or(Duration::MAX, |inner| inner.idle_since.elapsed())
    }

    /// Whether the connection was opened in `runtime`; always true if the database needs no runtime. The I/O driver of another
    /// runtime may have shut down or may not be polled. A ping does not always detect that, because its answer may be readable
    /// without waiting.
    pub(super) fn works_in(&self, runtime: Option<runtime::Id>) -> bool {
        !DB::NEEDS_RUNTIME || self.0.as_ref().is_some_and(|inner| inner.opened_in == runtime)
    }

    /// Whether a ping succeeds. Returns an error if there is no answer in time.
    pub(super) async fn is_alive(&mut self, limit: Duration) -> Result<bool, Elapsed> {
        let Some(inner) = &mut self.0 else { return Ok(false) };
        // Set before the await, because the future may be dropped at that point.
        inner.in_flight = InFlight::Ping;
        let generation = inner.owner.as_ref().map_or(0, |(owner, _)| owner.generation());
        let alive = async {
            inner.clear_statements(generation).await?;
            inner.conn.ping().await
        };
        let alive = timeout(limit, alive).await?.is_ok();
        if alive {
            inner.in_flight = InFlight::Nothing;
        }
        Ok(alive)
    }

    /// Whether the connection's prepared statements are of this generation.
    pub(super) fn has_generation(&self, generation: u64) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.generation == Some(generation))
    }

    /// Records that the database rejected a prepared statement as outdated. The statements of all other connections may be
    /// outdated too.
    pub(crate) fn set_outdated(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.generation = None;
            if let Some((owner, _)) = &inner.owner {
                owner.outdate();
            }
        }
    }

    /// Records that the statement cache of the connection was cleared, so its statements will be prepared again.
    pub(crate) fn set_forgotten(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.generation =
                Some(inner.owner.as_ref().map_or(0, |(owner, _)| owner.generation()));
        }
    }

    pub(crate) fn conn(&mut self) -> Option<&mut DB::Connection> {
        self.0.as_mut().map(|inner| &mut *inner.conn)
    }

    /// Records that a statement is in flight.
    pub(crate) fn set_busy(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.in_flight = InFlight::Statement;
        }
    }

    /// Records that no statement is in flight any more.
    pub(crate) fn set_idle(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.in_flight = InFlight::Nothing;
        }
    }

    /// Records that the database has answered.
    pub(crate) fn set_proven_alive(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.proven_alive = true;
        }
    }

    /// Whether the database has answered since checkout.
    pub(crate) fn is_proven_alive(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.proven_alive)
    }

    /// Records that the program uses the underlying sqlx connection directly.
    pub(crate) fn set_used_raw(&mut self) {
        if let Some(inner) = &mut self.0 {
            (inner.used_raw, inner.proven_alive) = (true, true);
        }
    }

    /// How statements are prepared on the connection.
    pub(crate) fn naming(&self) -> Naming {
        match &self.0 {
            Some(inner) if !inner.keeps_statements => Naming::Unnamed { asks: inner.used_raw },
            _ => Naming::Named,
        }
    }

    /// The runtime in which the connection was taken from sqlx's pool.
    pub(crate) fn runtime(&self) -> Option<&Handle> {
        self.0.as_ref().and_then(|inner| inner.runtime.as_ref())
    }

    /// Sets whether raw SQL may have left a transaction open.
    pub(crate) fn set_unverified(&mut self, unverified: bool) {
        if let Some(inner) = &mut self.0 {
            inner.unverified = unverified;
        }
    }

    /// Closes the connection.
    pub(crate) fn close(mut self) {
        if let Some(inner) = self.0.take() {
            inner.close();
        }
    }

    /// Drops the connection without sending anything to the server, and returns its permit.
    pub(super) fn discard(mut self) -> Option<OwnedSemaphorePermit> {
        let inner = *self.0.take()?;
        let permit = inner.owner.map(|(_, permit)| permit);
        in_runtime(inner.runtime, move || drop(inner.conn.detach()));
        permit
    }
}

impl<DB: Backend> LeaseInner<DB> {
    /// Clears the statement cache of the connection if it is of an older generation.
    async fn clear_statements(&mut self, generation: u64) -> Result<(), sqlx::Error> {
        if self.generation != Some(generation) {
            self.conn.clear_cached_statements().await?;
            self.generation = Some(generation);
        }
        Ok(())
    }

    /// Returns the connection to sqlx's pool, which checks it. The permit is held until the return completes, because the
    /// connection is unavailable until then.
    fn give_back(
        mut self: Box<Self>,
        permit: Option<OwnedSemaphorePermit>,
        answer_timeout: Duration,
    ) {
        // A statement that is in flight may take any time, so its end is awaited without a limit.
        let has_statement = self.in_flight == InFlight::Statement || self.used_raw;
        in_runtime(self.runtime.take(), move || {
            // Called outside the task: if the runtime shuts down and drops the task, the future that owns the connection is
            // dropped with it, which closes the connection and frees its slot in sqlx's pool.
            let returned = self.conn.return_to_pool();
            tokio::spawn(async move {
                if has_statement {
                    returned.await;
                } else {
                    let _ = timeout(answer_timeout, returned).await;
                }
                drop(permit);
            });
        });
    }

    /// Rolls back a transaction that raw SQL may have left open, before the connection can be checked out again.
    fn roll_back_and_return(self: Box<Self>) {
        in_runtime(self.runtime.clone(), move || {
            let mut guard = CloseOnDrop(Some(self));
            tokio::spawn(async move {
                let Some(inner) = &mut guard.0 else { return };
                if let Err(error) = verify::roll_back_all::<DB>(&mut inner.conn).await {
                    tracing::warn!(%error, "closing a connection that may be in a transaction");
                } else if let Some(mut inner) = guard.0.take() {
                    (inner.unverified, inner.in_flight) = (false, InFlight::Nothing);
                    drop(Lease(Some(inner)));
                }
            });
        });
    }

    fn close(mut self: Box<Self>) {
        match self.owner.take() {
            Some((owner, permit)) => {
                if !self.proven_alive {
                    owner.clear();
                }
                in_runtime(self.runtime.take(), move || {
                    let conn = self.conn.detach();
                    tokio::spawn(async move {
                        let _ = timeout(ANSWER_TIMEOUT, conn.close()).await;
                        drop(permit);
                    });
                });
            }
            None => in_runtime(self.runtime.take(), move || {
                self.conn.close_on_drop();
                drop(self);
            }),
        }
    }
}

impl<DB: Backend> Drop for Lease<DB> {
    fn drop(&mut self) {
        let Some(mut inner) = self.0.take() else { return };
        // Without a statement cache, each statement is wrapped in its own BEGIN and COMMIT, so an interrupted one may have left a
        // transaction open that sqlx does not know about.
        let may_have_begun = !inner.keeps_statements && inner.in_flight == InFlight::Statement;
        if inner.unverified || may_have_begun {
            return inner.roll_back_and_return();
        }
        if inner.generation.is_none() {
            return inner.close();
        }
        let Some((owner, permit)) = inner.owner.take() else {
            return in_runtime(inner.runtime.take(), move || drop(inner));
        };
        let clean = inner.in_flight == InFlight::Nothing && !inner.used_raw;
        if clean && !owner.must_return(inner.acquired_at.elapsed()) {
            inner.idle_since = Instant::now();
            owner.put_back(Self(Some(inner)));
            // Release the permit last, so that the next waiter finds the connection in `idle`.
            drop(permit);
        } else {
            // sqlx's pool checks the connection. If the database never answered on it, the idle connections may be dead too and
            // are also returned for a check.
            if !clean && !inner.used_raw && !inner.proven_alive {
                owner.clear();
            }
            inner.give_back(Some(permit), owner.answer_timeout());
        }
    }
}

/// Closes the connection if this guard is dropped with it.
struct CloseOnDrop<DB: Backend>(Option<Box<LeaseInner<DB>>>);

impl<DB: Backend> Drop for CloseOnDrop<DB> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take() {
            inner.close();
        }
    }
}
