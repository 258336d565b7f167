//! Connections at the ready, between one use and the next.
//!
//! sqlx's pool pings a connection on a task of its own whenever it comes back, which costs more than many a statement. A
//! connection whose last use ended as it should needs no such thing, and goes straight to whoever is next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, Pool};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::Backend;

/// A connection that was not used for so long is asked whether it still lives before it is used.
const IDLE: Duration = Duration::from_secs(1);

/// A connection that was not used for so long, or has not been with its pool for so long, goes back there, where its
/// age and its idleness are looked at.
const HOME: Duration = Duration::from_secs(60);

/// The connections of one pool that are at the ready. As many are lent at a time as the pool can have.
pub(crate) struct Lender<DB: Backend> {
    pool: Pool<DB>,
    ready: Mutex<Vec<Ready<DB>>>,
    turns: Arc<Semaphore>,
    /// Whether the program has the pool too, and would wait there in vain for what is kept here.
    shared: AtomicBool,
    /// Whether there is a task that brings home what nobody uses.
    sweeping: AtomicBool,
}

struct Ready<DB: Backend> {
    conn: PoolConnection<DB>,
    /// When it came out of the pool.
    taken: Instant,
    /// When it was used last.
    used: Instant,
}

/// A connection in use.
pub(crate) struct Lent<DB: Backend> {
    conn: Option<PoolConnection<DB>>,
    taken: Instant,
    /// Where it comes from, and the turn that it is; none for one that goes back to the pool in any case.
    home: Option<(Arc<Lender<DB>>, OwnedSemaphorePermit)>,
    /// Whether a statement is under way. Still so when this is dropped, nobody knows what the connection is up to.
    pub(crate) busy: bool,
    /// Whether others than this library have used it.
    pub(crate) touched: bool,
}

impl<DB: Backend> Lender<DB> {
    pub(crate) fn new(pool: Pool<DB>) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(pool.options().get_max_connections() as usize));
        let (shared, sweeping) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { pool, ready: Mutex::default(), turns, shared, sweeping })
    }

    /// One that was used just now, where nobody has it.
    pub(crate) fn at_hand(self: &Arc<Self>) -> Option<Lent<DB>> {
        if self.shared.load(Ordering::Acquire) {
            return None;
        }
        let turn = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        let Ready { conn, taken, .. } = self.ready().pop_if(|ready| ready.used.elapsed() < IDLE)?;
        Some(Lent::new(conn, taken, Some((Arc::clone(self), turn))))
    }

    pub(crate) async fn lend(self: &Arc<Self>) -> Result<Lent<DB>, sqlx::Error> {
        if self.shared.load(Ordering::Acquire) {
            return Lent::of(&self.pool).await;
        }
        let turn = self.turn().await?;
        while let Some(Ready { mut conn, taken, used }) = self.take() {
            if used.elapsed() < IDLE || conn.ping().await.is_ok() {
                return Ok(Lent::new(conn, taken, Some((Arc::clone(self), turn))));
            }
            conn.close_on_drop();
        }
        let conn = self.pool.acquire().await?;
        Ok(Lent::new(conn, Instant::now(), Some((Arc::clone(self), turn))))
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, sqlx::Error> {
        if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            return Ok(turn);
        }
        let patience = self.pool.options().get_acquire_timeout();
        let turn = tokio::time::timeout(patience, Arc::clone(&self.turns).acquire_owned());
        turn.await.ok().and_then(Result::ok).ok_or(sqlx::Error::PoolTimedOut)
    }

    /// From now on the program has the pool too: everything goes back there.
    pub(crate) fn share(&self) {
        if !self.shared.swap(true, Ordering::AcqRel) {
            self.clear();
        }
    }

    /// Gives all that is at the ready back to the pool.
    pub(crate) fn clear(&self) {
        let ready = std::mem::take(&mut *self.ready());
        drop(ready);
    }

    fn take(&self) -> Option<Ready<DB>> {
        self.ready().pop()
    }

    fn keep(self: &Arc<Self>, ready: Ready<DB>) {
        self.ready().push(ready);
        // Shared meanwhile: whoever shares has looked before this was here.
        if self.shared.load(Ordering::Acquire) || self.pool.is_closed() {
            self.clear();
        } else if !self.sweeping.load(Ordering::Relaxed) {
            self.sweep();
        }
    }

    /// Brings home, once a while, what nobody uses.
    fn sweep(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let lender = Arc::downgrade(self);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(HOME).await;
                let Some(lender) = lender.upgrade() else { return };
                let mut ready = lender.ready();
                let (idle, in_use): (Vec<_>, Vec<_>) =
                    ready.drain(..).partition(|ready| ready.used.elapsed() >= HOME);
                *ready = in_use;
                let done = ready.is_empty();
                if done {
                    lender.sweeping.store(false, Ordering::Release);
                }
                drop(ready);
                drop(idle);
                if done {
                    return;
                }
            }
        });
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Ready<DB>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Backend> Lent<DB> {
    /// One that goes back to the pool.
    pub(crate) async fn of(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self::new(pool.acquire().await?, Instant::now(), None))
    }

    fn new(
        conn: PoolConnection<DB>,
        taken: Instant,
        home: Option<(Arc<Lender<DB>>, OwnedSemaphorePermit)>,
    ) -> Self {
        Self { conn: Some(conn), taken, home, busy: false, touched: false }
    }

    pub(crate) fn conn(&mut self) -> Option<&mut DB::Connection> {
        self.conn.as_deref_mut()
    }

    /// Closes it: of no use to anybody.
    pub(crate) fn close(mut self) {
        if let Some(mut conn) = self.conn.take() {
            conn.close_on_drop();
        }
    }
}

impl<DB: Backend> Drop for Lent<DB> {
    fn drop(&mut self) {
        let (Some(conn), Some((lender, turn))) = (self.conn.take(), self.home.take()) else {
            return;
        };
        if self.busy || self.touched || self.taken.elapsed() >= HOME {
            // The pool looks at it, and brings it in order.
            drop(conn);
        } else {
            lender.keep(Ready { conn, taken: self.taken, used: Instant::now() });
        }
        // Whoever waits finds it only now.
        drop(turn);
    }
}
