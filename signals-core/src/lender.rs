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
    ready: Mutex<Vec<Lent<DB>>>,
    turns: Arc<Semaphore>,
    /// Whether the program has the pool too, and would wait there in vain for what is kept here.
    shared: AtomicBool,
    /// Whether there is a task that brings home what nobody uses.
    sweeping: AtomicBool,
}

/// A connection, in use or at the ready. It stays at one place on the heap, so that whatever has it is small.
pub(crate) struct Lent<DB: Backend>(Option<Box<Loan<DB>>>);

struct Loan<DB: Backend> {
    conn: PoolConnection<DB>,
    /// When it came out of the pool.
    taken: Instant,
    /// When it came back the last time.
    used: Instant,
    /// Whether a statement is under way. Still so when it comes back, nobody knows what the connection is up to.
    busy: bool,
    /// Whether others than this library have used it.
    touched: bool,
    /// Whether it was heard of since it was lent. One that was not may have died meanwhile.
    answered: bool,
    /// Where it comes back to, and the turn that it is; none for one that goes back to the pool.
    home: Option<(Arc<Lender<DB>>, OwnedSemaphorePermit)>,
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
        let lent = self.ready().pop_if(|lent| lent.idle() < IDLE)?;
        Some(lent.with_home(self, turn))
    }

    pub(crate) async fn lend(self: &Arc<Self>) -> Result<Lent<DB>, sqlx::Error> {
        if self.shared.load(Ordering::Acquire) {
            return Lent::of(&self.pool).await;
        }
        let turn = self.turn().await?;
        while let Some(mut lent) = self.take() {
            let fresh = lent.idle() < IDLE;
            let lives = match lent.conn() {
                Some(conn) => fresh || conn.ping().await.is_ok(),
                None => false,
            };
            if lives {
                return Ok(lent.with_home(self, turn));
            }
            lent.close();
        }
        Ok(Lent::of(&self.pool).await?.with_home(self, turn))
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

    fn take(&self) -> Option<Lent<DB>> {
        self.ready().pop()
    }

    fn keep(self: &Arc<Self>, lent: Lent<DB>) {
        self.ready().push(lent);
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
                    ready.drain(..).partition(|lent| lent.idle() >= HOME);
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

    fn ready(&self) -> MutexGuard<'_, Vec<Lent<DB>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Backend> Lent<DB> {
    /// One that goes back to the pool.
    pub(crate) async fn of(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        let (conn, taken) = (pool.acquire().await?, Instant::now());
        let (busy, touched, answered, home) = (false, false, false, None);
        let loan = Loan { conn, taken, used: taken, busy, touched, answered, home };
        Ok(Self(Some(Box::new(loan))))
    }

    fn with_home(mut self, lender: &Arc<Lender<DB>>, turn: OwnedSemaphorePermit) -> Self {
        if let Some(loan) = &mut self.0 {
            loan.home = Some((Arc::clone(lender), turn));
            loan.answered = false;
        }
        self
    }

    /// For how long nobody has used it.
    fn idle(&self) -> Duration {
        self.0.as_ref().map_or(Duration::MAX, |loan| loan.used.elapsed())
    }

    pub(crate) fn conn(&mut self) -> Option<&mut DB::Connection> {
        self.0.as_mut().map(|loan| &mut *loan.conn)
    }

    /// A statement is under way.
    pub(crate) fn set_busy(&mut self) {
        if let Some(loan) = &mut self.0 {
            loan.busy = true;
        }
    }

    /// The database has answered, and no statement is under way any more.
    pub(crate) fn set_answered(&mut self) {
        if let Some(loan) = &mut self.0 {
            (loan.busy, loan.answered) = (false, true);
        }
    }

    /// Whether it was heard of since it was lent.
    pub(crate) fn has_answered(&self) -> bool {
        self.0.as_ref().is_some_and(|loan| loan.answered)
    }

    /// Others than this library use it.
    pub(crate) fn touch(&mut self) {
        if let Some(loan) = &mut self.0 {
            (loan.touched, loan.answered) = (true, true);
        }
    }

    /// Closes it: of no use to anybody.
    pub(crate) fn close(mut self) {
        if let Some(mut loan) = self.0.take() {
            loan.conn.close_on_drop();
            if let Some((lender, _)) = loan.home.as_ref().filter(|_| !loan.answered) {
                lender.clear();
            }
        }
    }
}

impl<DB: Backend> Drop for Lent<DB> {
    fn drop(&mut self) {
        let Some(mut loan) = self.0.take() else { return };
        let Some((lender, turn)) = loan.home.take() else { return };
        if loan.busy || loan.touched || loan.taken.elapsed() >= HOME {
            // The pool looks at it, and brings it in order; and at the others, if it may have died before it was used.
            if loan.busy && !loan.answered {
                lender.clear();
            }
            drop(loan);
        } else {
            loan.used = Instant::now();
            lender.keep(Self(Some(loan)));
        }
        // Whoever waits finds it only now.
        drop(turn);
    }
}
