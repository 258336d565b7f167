//! A stack of idle connections in front of sqlx's pool.
//!
//! Whenever a connection is returned to sqlx's pool, sqlx pings it on a separate task. That costs more than many statements. A
//! connection whose last use ended cleanly does not need the ping, so the next caller gets it directly from [`WarmPool`].
//!
//! A checked-out connection keeps its permit until it is pushed to `idle`, returned to sqlx's pool, or closed. A caller that
//! holds a permit and finds `idle` empty therefore never has to wait in sqlx's pool for a connection that ends up in `idle`. Idle
//! connections are returned to sqlx's pool without a permit if none is free.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, Pool};
use tokio::runtime::{self, Handle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;
use tokio::time::{timeout, timeout_at};

use crate::database::backend::Backend;
use crate::database::execution::Naming;
use crate::database::runtimes::{self, Runtimes, in_runtime};
use crate::database::verify;

/// A connection that has been idle for this long is pinged before it is used.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(1);

/// How long a connection may stay idle here, or outside sqlx's pool in total, before it is returned to sqlx's pool so that
/// `max_lifetime` and `idle_timeout` apply.
const RETURN_AFTER: Duration = Duration::from_secs(60);

/// Time limit for closing a connection, and upper limit for a ping if no statement is in flight on the connection.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The idle connections of one sqlx pool. At most `max_connections` are checked out at a time.
pub(crate) struct WarmPool<DB: Backend> {
    pool: Pool<DB>,
    idle: Mutex<Vec<Lease<DB>>>,
    permits: Arc<Semaphore>,
    /// Set once the program uses sqlx's pool directly, because it could wait there forever for connections that sit idle here.
    disabled: AtomicBool,
    /// Whether the task that returns unused connections to sqlx's pool is running.
    sweeping: AtomicBool,
    runtimes: Arc<Runtimes>,
    /// The number of calls that are about to take a connection from sqlx's pool.
    opening: AtomicUsize,
    /// Incremented whenever the database rejects a prepared statement as outdated.
    generation: AtomicU64,
}

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

impl<DB: Backend> WarmPool<DB> {
    pub(crate) fn new(pool: Pool<DB>, runtimes: Arc<Runtimes>) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(pool.options().get_max_connections() as usize));
        Arc::new(Self {
            pool,
            idle: Mutex::default(),
            permits,
            disabled: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
            runtimes,
            opening: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
        })
    }

    /// Takes an idle connection that needs no ping, if there is one and a permit is free.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Lease<DB>> {
        if self.disabled.load(Ordering::Acquire) {
            return None;
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let runtime = runtimes::current_id();
        let lease = self.idle().pop_if(|lease| {
            lease.works_in(runtime)
                && lease.has_generation(self.generation())
                && lease.idle_time() < PING_AFTER
        })?;
        Some(lease.with_owner(self, permit))
    }

    /// Waits for a connection. The pool's `acquire_timeout` limits the total time: the wait for a permit, the pings of idle
    /// connections, and the opening of a new connection.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Lease<DB>, sqlx::Error> {
        let start = tokio::time::Instant::now();
        let Some(deadline) = start.checked_add(self.pool.options().get_acquire_timeout()) else {
            return self.acquire_before(None).await;
        };
        let lease = timeout_at(deadline, self.acquire_before(Some(deadline))).await;
        lease.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn acquire_before(
        self: &Arc<Self>,
        deadline: Option<tokio::time::Instant>,
    ) -> Result<Lease<DB>, sqlx::Error> {
        let several = self.runtimes.has_several();
        if self.disabled.load(Ordering::Acquire) {
            return Lease::of(&self.pool).await;
        }
        let mut permit = self.acquire_permit().await?;
        while let Some(lease) = self.take() {
            let fresh = lease.idle_time() < PING_AFTER && lease.has_generation(self.generation());
            let mut lease = lease.with_owner(self, permit);
            // A ping may take half of the remaining time, so that the rest is available for a new connection.
            let half = deadline.map_or(ANSWER_TIMEOUT, |deadline| {
                deadline.duration_since(tokio::time::Instant::now()) / 2
            });
            let alive =
                if fresh { Ok(true) } else { lease.is_alive(half.min(ANSWER_TIMEOUT)).await };
            if alive == Ok(true) {
                return Ok(lease);
            }
            if alive.is_err() {
                // No answer in time: the other idle connections are probably dead too, and pinging each one would take too long.
                self.discard_all();
            }
            let Some(freed) = lease.discard() else { return Err(sqlx::Error::PoolClosed) };
            permit = freed;
        }
        loop {
            let mut lease = self.open().await?;
            if let Some(inner) = &mut lease.0 {
                inner.clear_statements(self.generation()).await?;
            }
            if !several || lease.works_in(runtimes::current_id()) {
                return Ok(lease.with_owner(self, permit));
            }
            lease.discard();
        }
    }

    /// Takes a connection from sqlx's pool, if no idle one works in the current runtime. If the pool is full, an idle connection
    /// of another runtime is closed to make room.
    async fn open(&self) -> Result<Lease<DB>, sqlx::Error> {
        let opening = Opening::new(&self.opening);
        let max = self.pool.options().get_max_connections() as usize;
        if self.pool.size() as usize + opening.count > max
            && let Some(other) = self.idle().pop()
        {
            other.discard();
        }
        let mut lease = Lease::of(&self.pool).await?;
        if let Some(inner) = &mut lease.0
            && !self.runtimes.has_several()
        {
            inner.opened_in = runtimes::current_id();
        }
        Ok(lease)
    }

    async fn acquire_permit(&self) -> Result<OwnedSemaphorePermit, sqlx::Error> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = self.pool.close_event().do_until(permit).await?;
        permit.map_err(|_| sqlx::Error::PoolClosed)
    }

    /// Marks the prepared statements of all connections as possibly outdated.
    pub(crate) fn outdate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Stops keeping connections here, because the program now uses sqlx's pool directly. Idle connections return there at once,
    /// checked-out ones when they are dropped.
    pub(crate) fn disable(&self) {
        if !self.disabled.swap(true, Ordering::AcqRel) {
            self.clear();
        }
    }

    /// Returns all idle connections to sqlx's pool.
    pub(crate) fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle());
        self.return_leases(idle);
    }

    /// Returns idle connections to sqlx's pool. Each connection takes a permit if one is free, and holds it until it is back in
    /// sqlx's pool.
    fn return_leases(&self, idle: Vec<Lease<DB>>) {
        for mut lease in idle {
            let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
            if let Some(inner) = lease.0.take() {
                inner.give_back(permit, self.answer_timeout());
            }
        }
    }

    fn discard_all(&self) {
        let idle = std::mem::take(&mut *self.idle());
        idle.into_iter().for_each(|lease| drop(lease.discard()));
    }

    /// Time limit for a ping, if no statement is in flight on the connection.
    fn answer_timeout(&self) -> Duration {
        ANSWER_TIMEOUT.min(self.pool.options().get_acquire_timeout() / 2)
    }

    /// Takes the most recently used idle connection that works in the current runtime.
    fn take(&self) -> Option<Lease<DB>> {
        let runtime = runtimes::current_id();
        let mut idle = self.idle();
        let at = idle.iter().rposition(|lease| lease.works_in(runtime))?;
        Some(idle.remove(at))
    }

    fn put_back(self: &Arc<Self>, lease: Lease<DB>) {
        self.idle().push(lease);
        // `disable` may have cleared the list just before the push, so check for that now.
        if self.disabled.load(Ordering::Acquire) || self.pool.is_closed() {
            self.clear();
        } else if !self.sweeping.load(Ordering::Relaxed) {
            self.sweep();
        }
    }

    /// Starts a task that periodically returns unused connections to sqlx's pool, unless it is running already.
    fn sweep(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut sweeping = Sweeping { warm_pool: Arc::downgrade(self), on: true };
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(RETURN_AFTER).await;
                let Some(warm_pool) = sweeping.warm_pool.upgrade() else { return };
                let mut idle = warm_pool.idle();
                let (unused, recent): (Vec<_>, Vec<_>) =
                    idle.drain(..).partition(|lease| lease.idle_time() >= RETURN_AFTER);
                *idle = recent;
                let done = idle.is_empty();
                if done {
                    // Set while the list is locked, so that the next `put_back` starts a new task.
                    warm_pool.sweeping.store(false, Ordering::Release);
                    sweeping.on = false;
                }
                drop(idle);
                warm_pool.return_leases(unused);
                if done {
                    return;
                }
            }
        });
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Lease<DB>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Backend> Drop for WarmPool<DB> {
    /// Drops the idle connections as sqlx's pool does: nothing is sent to the server, so no runtime is needed.
    fn drop(&mut self) {
        self.discard_all();
    }
}

/// Guard of the task that returns unused connections. If the task is dropped because its runtime ends, another one can be
/// started.
struct Sweeping<DB: Backend> {
    warm_pool: Weak<WarmPool<DB>>,
    on: bool,
}

impl<DB: Backend> Drop for Sweeping<DB> {
    fn drop(&mut self) {
        if let Some(warm_pool) = self.warm_pool.upgrade().filter(|_| self.on) {
            warm_pool.sweeping.store(false, Ordering::Release);
        }
    }
}

/// Counts a call that is about to take a connection from sqlx's pool.
struct Opening<'o> {
    opening: &'o AtomicUsize,
    /// The number of such calls, including this one.
    count: usize,
}

impl<'o> Opening<'o> {
    fn new(opening: &'o AtomicUsize) -> Self {
        Self { opening, count: opening.fetch_add(1, Ordering::AcqRel) + 1 }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.opening.fetch_sub(1, Ordering::AcqRel);
    }
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
    fn with_owner(mut self, owner: &Arc<WarmPool<DB>>, permit: OwnedSemaphorePermit) -> Self {
        if let Some(inner) = &mut self.0 {
            inner.owner = Some((Arc::clone(owner), permit));
            inner.proven_alive = false;
        }
        self
    }

    /// How long the connection has been idle.
    fn idle_time(&self) -> Duration {
        self.0.as_ref().map_or(Duration::MAX, |inner| inner.idle_since.elapsed())
    }

    /// Whether the connection was opened in `runtime`; always true if the database needs no runtime. The I/O driver of another
    /// runtime may have shut down or may not be polled. A ping does not always detect that, because its answer may be readable
    /// without waiting.
    fn works_in(&self, runtime: Option<runtime::Id>) -> bool {
        !DB::NEEDS_RUNTIME || self.0.as_ref().is_some_and(|inner| inner.opened_in == runtime)
    }

    /// Whether a ping succeeds. Returns an error if there is no answer in time.
    async fn is_alive(&mut self, limit: Duration) -> Result<bool, Elapsed> {
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
    fn has_generation(&self, generation: u64) -> bool {
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
    fn discard(mut self) -> Option<OwnedSemaphorePermit> {
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
        if clean && inner.acquired_at.elapsed() < RETURN_AFTER {
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
