//! A stack of idle connections in front of sqlx's pool.
//!
//! Whenever a connection is returned to sqlx's pool, sqlx pings it on a separate task. That costs more than many statements. A
//! connection whose last use ended cleanly does not need the ping, so the next caller gets it directly from [`WarmPool`].
//!
//! A checked-out connection keeps its permit until it is pushed to `idle`, returned to sqlx's pool, or closed. A caller that
//! holds a permit and finds `idle` empty therefore never has to wait in sqlx's pool for a connection that ends up in `idle`. Idle
//! connections are returned to sqlx's pool without a permit if none is free.
//!
//! A program can also use sqlx's pool directly. sqlx does not show whether a caller waits in its pool, but a caller can only wait
//! there if every connection that the pool may open is checked out or being opened. Only then does a [shared](SHARED) `WarmPool`
//! limit how long it keeps a connection: an idle one is returned at the next [`TICK`], and one that is always in use after a
//! [`SLICE`]. sqlx's pool serves its callers in the order of their arrival.

mod sweep;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout, timeout_at};

use crate::database::backend::Backend;
use crate::database::counted::{Counted, PoolSize};
use crate::database::gauges::PoolGauges;
use crate::database::lease::Lease;
use crate::database::runtimes::{self, Runtimes};

/// A connection that has been idle for this long is pinged before it is used.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(1);

/// How long a connection may stay idle here, or outside sqlx's pool in total, before it is returned to sqlx's pool so that
/// `max_lifetime` and `idle_timeout` apply.
const RETURN_AFTER: Duration = Duration::from_secs(60);

/// How often a shared pool checks whether its idle connections are needed elsewhere.
const TICK: Duration = Duration::from_millis(2);

/// How long a connection of a shared pool may stay idle, even if nobody needs it.
const SHARED_RETURN_AFTER: Duration = Duration::from_millis(200);

/// How long a connection may stay outside of a shared sqlx pool from which all connections are checked out, if the library uses the
/// connection all the time.
const SLICE: Duration = Duration::from_millis(5);

/// A call that takes this long to get a connection from sqlx's pool is probably waiting for another caller, and not for a ping.
const PATIENCE: Duration = Duration::from_millis(1);

/// Time limit for closing a connection, and upper limit for a ping if no statement is in flight on the connection.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The idle connections of one sqlx pool. At most `max_connections` are checked out at a time.
pub(crate) struct WarmPool<DB: Backend> {
    pool: Pool<DB>,
    idle: Mutex<Vec<Lease<DB>>>,
    permits: Arc<Semaphore>,
    /// [`PRIVATE`], [`SHARED`] or [`CLOSED`].
    mode: AtomicU8,
    /// Whether the task that returns unused connections to sqlx's pool is running, for a private and for a shared pool.
    sweeping: [AtomicBool; 2],
    /// How long a connection may stay idle here, or outside sqlx's pool in total.
    return_after: Duration,
    runtimes: Arc<Runtimes>,
    /// The number of calls that are about to take a connection from sqlx's pool.
    opening: AtomicUsize,
    /// The number of these calls that have been waiting for longer than [`PATIENCE`].
    waiting: AtomicUsize,
    /// A new number whenever the statements that are prepared on the connections may have become outdated.
    epoch: AtomicU64,
    gauges: PoolGauges,
    /// Whether a connection is closed if the end of an interrupted statement takes long.
    limits_statements: AtomicBool,
}

/// The epoch of a pool before its first statement became outdated.
pub(crate) const NO_EPOCH: u64 = 0;
/// The last epoch of any pool. A connection of one sqlx pool may be used by several `WarmPool`s.
static LAST_EPOCH: AtomicU64 = AtomicU64::new(NO_EPOCH);

/// Only this library uses the pool.
const PRIVATE: u8 = 0;
/// The program may use sqlx's pool directly.
const SHARED: u8 = 1;
/// Connections are no longer kept here.
const CLOSED: u8 = 2;

impl<DB: Backend> WarmPool<DB> {
    /// For a pool that the program does not know. It calls [`runtimes::note_opened`] if the database needs a runtime.
    pub(crate) fn private(pool: Pool<DB>, runtimes: Arc<Runtimes>) -> Arc<Self> {
        Self::new(pool, runtimes, PRIVATE)
    }

    /// For a pool of the program.
    pub(crate) fn shared(pool: Pool<DB>) -> Arc<Self> {
        Self::new(pool, Runtimes::without_hook(), SHARED)
    }

    fn new(pool: Pool<DB>, runtimes: Arc<Runtimes>, mode: u8) -> Arc<Self> {
        let options = pool.options();
        let permits = Arc::new(Semaphore::new(options.get_max_connections() as usize));
        let limits = [options.get_idle_timeout(), options.get_max_lifetime()];
        let return_after = limits.into_iter().flatten().fold(RETURN_AFTER, Duration::min);
        let gauges = PoolGauges::of(&pool);
        let warm_pool = Arc::new(Self {
            pool,
            idle: Mutex::default(),
            permits,
            mode: AtomicU8::new(mode),
            sweeping: Default::default(),
            return_after,
            runtimes,
            opening: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            epoch: AtomicU64::new(NO_EPOCH),
            gauges,
            limits_statements: AtomicBool::new(false),
        });
        warm_pool.gauges.add(&warm_pool, |warm_pool| warm_pool.idle().len());
        warm_pool
    }

    /// Takes an idle connection that needs no ping, if there is one and a permit is free.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Lease<DB>> {
        if self.mode() == CLOSED {
            return None;
        }
        self.gauges.sample();
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let runtime = runtimes::current_id();
        let lease = self.idle().pop_if(|lease| {
            lease.works_in(runtime) && lease.is_of(self.epoch()) && lease.idle_time() < PING_AFTER
        })?;
        Some(lease.with_owner(self, permit))
    }

    /// Waits for a connection. The pool's `acquire_timeout` limits the total time: the wait for a permit, the pings of idle
    /// connections, and the opening of a new connection.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Lease<DB>, sqlx::Error> {
        let _waiting = self.gauges.wait();
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
        if self.mode() == CLOSED {
            return Lease::of(&self.pool).await;
        }
        if DB::NEEDS_RUNTIME && several && !self.runtimes.have_hook() {
            // It is unknown which runtime has opened a connection of sqlx's pool, so none is kept.
            self.discard_all();
            return self.open_rolled_back().await;
        }
        let mut permit = self.acquire_permit().await?;
        while let Some(lease) = self.take() {
            let fresh = lease.idle_time() < PING_AFTER && lease.is_of(self.epoch());
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
            let mut lease = self.open_rolled_back().await?;
            lease.clear_statements(self.epoch()).await?;
            if !several || lease.works_in(runtimes::current_id()) {
                return Ok(lease.with_owner(self, permit));
            }
            lease.discard();
        }
    }

    /// As [`open`](Self::open), and rolls back a transaction that the program has left open on a connection of a shared pool.
    async fn open_rolled_back(&self) -> Result<Lease<DB>, sqlx::Error> {
        loop {
            let may_be_idle = self.pool.num_idle() > 0;
            let mut lease = self.open().await?;
            // The program does not use the pools of workers, and leaves no transaction on a connection that it has not used.
            if self.mode() != SHARED
                || self.limits_statements()
                || (self.runtimes.have_hook() && lease.is_new())
            {
                return Ok(lease);
            }
            let roll_back = lease.roll_back_uncounted();
            let rolled_back = match may_be_idle {
                true => timeout(self.answer_timeout(), roll_back).await,
                // The limit of the caller applies: a pooler may have to wait for a server.
                false => Ok(roll_back.await),
            };
            match rolled_back.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Ok(()) => return Ok(lease),
                Err(error) => {
                    lease.discard();
                    // An idle connection may have died.
                    if !may_be_idle {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Takes a connection from sqlx's pool, if no idle one works in the current runtime. If the pool is full, an idle connection
    /// of another runtime is closed to make room.
    async fn open(&self) -> Result<Lease<DB>, sqlx::Error> {
        let opening = Counted::new(&self.opening);
        let max = self.pool.options().get_max_connections() as usize;
        if PoolSize::of(&self.pool).open + opening.count > max
            && let Some(other) = self.idle().pop()
        {
            other.discard();
        }
        let mut lease = self.take_from_sqlx().await?;
        if !self.runtimes.has_several() {
            lease.set_opened_in(runtimes::current_id());
        }
        Ok(lease)
    }

    /// Takes a connection from sqlx's pool. A call that waits there for longer than [`PATIENCE`] is counted, so that the next lease of
    /// a shared pool is returned there instead of staying idle here.
    async fn take_from_sqlx(&self) -> Result<Lease<DB>, sqlx::Error> {
        let mut lease = pin!(Lease::of(&self.pool));
        if self.mode() != PRIVATE
            && let Ok(lease) = timeout(PATIENCE, lease.as_mut()).await
        {
            return lease;
        }
        let _waiting = Counted::new(&self.waiting);
        lease.await
    }

    async fn acquire_permit(&self) -> Result<OwnedSemaphorePermit, sqlx::Error> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = self.pool.close_event().do_until(permit).await?;
        permit.map_err(|_| sqlx::Error::PoolClosed)
    }

    /// Marks the prepared statements of all connections as possibly outdated, unless this has happened since `epoch`: after a change of
    /// the schema, statements are refused on each connection.
    pub(crate) fn outdate_statements(&self, epoch: u64) {
        let next = LAST_EPOCH.fetch_add(1, Ordering::Relaxed) + 1;
        let _ = self.epoch.compare_exchange(epoch, next, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn mode(&self) -> u8 {
        self.mode.load(Ordering::Acquire)
    }

    /// Call this before the program gets sqlx's pool. The idle connections are returned there at once.
    pub(crate) fn share(&self) {
        let mode = self.mode.compare_exchange(PRIVATE, SHARED, Ordering::AcqRel, Ordering::Acquire);
        if mode.is_ok() {
            self.clear();
        }
    }

    /// From now on, a connection is closed if a statement whose future was dropped does not end soon.
    #[cfg(all(feature = "durable", feature = "postgres"))]
    pub(crate) fn limit_statements(&self) {
        self.limits_statements.store(true, Ordering::Relaxed);
    }

    pub(super) fn limits_statements(&self) -> bool {
        self.limits_statements.load(Ordering::Relaxed)
    }

    /// Time limit for the end of a statement whose future was dropped.
    pub(super) fn statement_timeout(&self) -> Duration {
        statement_timeout(&self.pool)
    }

    /// Stops keeping connections here. Idle connections return to sqlx's pool at once, checked-out ones when they are dropped.
    pub(crate) fn disable(&self) {
        if self.mode.swap(CLOSED, Ordering::AcqRel) != CLOSED {
            self.clear();
        }
    }

    /// Whether a caller may be waiting in sqlx's pool: all connections that it may open are checked out or being opened.
    fn may_keep_others_waiting(&self) -> bool {
        PoolSize::of(&self.pool).in_use() >= self.pool.options().get_max_connections() as usize
    }

    /// Whether a connection that was taken from sqlx's pool this long ago has to go back there.
    pub(super) fn must_return(&self, outside: Duration) -> bool {
        outside >= self.return_after
            || (self.mode() == SHARED
                && (outside >= SLICE || self.waiting.load(Ordering::Relaxed) > 0)
                && self.may_keep_others_waiting())
    }

    /// Returns all idle connections to sqlx's pool.
    pub(crate) fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle());
        self.return_leases(idle);
    }

    /// Returns idle connections to sqlx's pool. Each connection takes a permit if one is free, and holds it until it is back in
    /// sqlx's pool.
    fn return_leases(&self, idle: Vec<Lease<DB>>) {
        for lease in idle {
            let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
            lease.give_back(permit, self.answer_timeout());
        }
    }

    fn discard_all(&self) {
        let idle = std::mem::take(&mut *self.idle());
        idle.into_iter().for_each(|lease| drop(lease.discard()));
    }

    /// Time limit for a ping, if no statement is in flight on the connection.
    pub(super) fn answer_timeout(&self) -> Duration {
        ANSWER_TIMEOUT.min(self.pool.options().get_acquire_timeout() / 2)
    }

    /// Takes the most recently used idle connection that works in the current runtime.
    fn take(&self) -> Option<Lease<DB>> {
        let runtime = runtimes::current_id();
        let mut idle = self.idle();
        let at = idle.iter().rposition(|lease| lease.works_in(runtime))?;
        Some(idle.remove(at))
    }

    pub(super) fn put_back(self: &Arc<Self>, lease: Lease<DB>) {
        self.idle().push(lease);
        let mode = self.mode();
        // `disable` may have cleared the list just before the push, so check for that now.
        if mode == CLOSED || self.pool.is_closed() {
            self.clear();
        } else if !self.sweeping[usize::from(mode)].load(Ordering::Relaxed) {
            self.sweep(mode);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Lease<DB>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time limit for the end of a statement whose future was dropped. It is as long as callers wait for the connection: after that, they get
/// an error anyway. The server may have disappeared, and the operating system notices that only after minutes or hours.
pub(super) fn statement_timeout<DB: Backend>(pool: &Pool<DB>) -> Duration {
    ANSWER_TIMEOUT.max(pool.options().get_acquire_timeout())
}

impl<DB: Backend> Drop for WarmPool<DB> {
    /// Returns the idle connections to a shared pool. Otherwise, drops them as sqlx's pool does: nothing is sent to the server, so no
    /// runtime is needed.
    fn drop(&mut self) {
        if self.mode() == SHARED && !self.pool.is_closed() {
            self.clear();
        } else {
            self.discard_all();
        }
    }
}
