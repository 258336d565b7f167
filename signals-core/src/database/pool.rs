//! Connections at the ready, between one use and the next.
//!
//! sqlx's pool pings a connection on a task of its own whenever it comes back, which costs more than many a statement. A
//! connection whose last use ended as it should needs no such thing, and goes straight to whoever is next.
//!
//! A permit of the lender belongs to a connection from its checkout until it is in `ready`, back in sqlx's pool, or closed.
//! Whoever has a permit and finds `ready` empty therefore never waits in sqlx's pool beside a connection that becomes idle.

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

/// A connection that was not used for so long is asked whether it still lives before it is used.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(1);

/// A connection that was not used for so long, or has not been with its pool for so long, goes back there, where its
/// age and its idleness are looked at.
const RETURN_AFTER: Duration = Duration::from_secs(60);

/// How long a connection on which no statement is under way may take to answer a ping, or to close.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The connections of one pool that are at the ready. As many are lent at a time as the pool can have.
pub(crate) struct WarmPool<DB: Backend> {
    pool: Pool<DB>,
    ready: Mutex<Vec<Lease<DB>>>,
    turns: Arc<Semaphore>,
    /// Whether the program has the pool too, and would wait there in vain for what is kept here.
    shared: AtomicBool,
    /// Whether there is a task that brings home what nobody uses.
    sweeping: AtomicBool,
    runtimes: Arc<Runtimes>,
    /// How many calls are about to take a connection from the pool.
    opening: AtomicUsize,
    /// How often a prepared statement was refused as outdated.
    generation: AtomicU64,
}

/// A connection, in use or at the ready. It stays at one place on the heap, so that whatever has it is small.
pub(crate) struct Lease<DB: Backend>(Option<Box<LeaseInner<DB>>>);

struct LeaseInner<DB: Backend> {
    conn: PoolConnection<DB>,
    /// When it came out of the pool.
    taken: Instant,
    /// When it came back the last time.
    used: Instant,
    /// What has no answer yet. If there is anything when it comes back, the state of the connection is unknown.
    under_way: UnderWay,
    /// Whether others than this library have used it.
    touched: bool,
    /// Whether raw SQL may have left a transaction open.
    unverified: bool,
    /// Whether it was heard of since it was lent. One that was not may have died meanwhile.
    answered: bool,
    /// Where it comes back to, and the turn that it is; none for one that goes back to the pool.
    home: Option<(Arc<WarmPool<DB>>, OwnedSemaphorePermit)>,
    /// The runtime in which it came out of the pool, for a drop outside any runtime.
    runtime: Option<Handle>,
    /// The runtime that opened it, if that is known.
    origin: Option<runtime::Id>,
    /// Whether statements stay prepared on it.
    keeps_statements: bool,
    /// The generation of the lender that its statements were prepared in, or a later one that they are as good as; none if they
    /// are outdated for certain.
    generation: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UnderWay {
    Nothing,
    Ping,
    Statement,
}

impl<DB: Backend> WarmPool<DB> {
    pub(crate) fn new(pool: Pool<DB>, runtimes: Arc<Runtimes>) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(pool.options().get_max_connections() as usize));
        Arc::new(Self {
            pool,
            ready: Mutex::default(),
            turns,
            shared: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
            runtimes,
            opening: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
        })
    }

    /// One that was used just now, where nobody has it.
    pub(crate) fn at_hand(self: &Arc<Self>) -> Option<Lease<DB>> {
        if self.shared.load(Ordering::Acquire) {
            return None;
        }
        let turn = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        let here = runtimes::here();
        let lent = self.ready().pop_if(|lent| {
            lent.works_in(here) && lent.is_of(self.generation()) && lent.idle() < PING_AFTER
        })?;
        Some(lent.with_home(self, turn))
    }

    /// Waits for a connection. `acquire_timeout` of the pool bounds everything: the wait for a turn, the ping of an idle
    /// connection, and a new connection.
    pub(crate) async fn lend(self: &Arc<Self>) -> Result<Lease<DB>, sqlx::Error> {
        let start = tokio::time::Instant::now();
        let Some(deadline) = start.checked_add(self.pool.options().get_acquire_timeout()) else {
            return self.lend_before(None).await;
        };
        let lent = timeout_at(deadline, self.lend_before(Some(deadline))).await;
        lent.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn lend_before(
        self: &Arc<Self>,
        deadline: Option<tokio::time::Instant>,
    ) -> Result<Lease<DB>, sqlx::Error> {
        let several = self.runtimes.are_several();
        if self.shared.load(Ordering::Acquire) {
            return Lease::of(&self.pool).await;
        }
        let mut turn = self.turn().await?;
        while let Some(lent) = self.take() {
            let fresh = lent.idle() < PING_AFTER && lent.is_of(self.generation());
            let mut lent = lent.with_home(self, turn);
            // Half of the time that is left, so that there is some for a new connection.
            let left = deadline.map_or(PATIENCE, |deadline| {
                deadline.duration_since(tokio::time::Instant::now()) / 2
            });
            let lives = if fresh { Ok(true) } else { lent.lives(left.min(PATIENCE)).await };
            if lives == Ok(true) {
                return Ok(lent);
            }
            if lives.is_err() {
                // The others are as silent, probably, and there is no time to ask each of them.
                self.discard_all();
            }
            let Some(its) = lent.discard() else { return Err(sqlx::Error::PoolClosed) };
            turn = its;
        }
        loop {
            let mut lent = self.open().await?;
            if let Some(loan) = &mut lent.0 {
                loan.forget(self.generation()).await?;
            }
            if !several || lent.works_in(runtimes::here()) {
                return Ok(lent.with_home(self, turn));
            }
            lent.discard();
        }
    }

    /// Takes a connection from the pool, when none is ready that works in this runtime. One that works in another runtime makes
    /// room for it.
    async fn open(&self) -> Result<Lease<DB>, sqlx::Error> {
        let opening = Opening::new(&self.opening);
        let max = self.pool.options().get_max_connections() as usize;
        if self.pool.size() as usize + opening.count > max
            && let Some(other) = self.ready().pop()
        {
            other.discard();
        }
        let mut lent = Lease::of(&self.pool).await?;
        if let Some(loan) = &mut lent.0
            && !self.runtimes.are_several()
        {
            loan.origin = runtimes::here();
        }
        Ok(lent)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, sqlx::Error> {
        if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            return Ok(turn);
        }
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = self.pool.close_event().do_until(turn).await?;
        turn.map_err(|_| sqlx::Error::PoolClosed)
    }

    /// The statements of every connection may be outdated.
    pub(crate) fn outdate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
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
        self.bring_home(ready);
    }

    /// Gives connections that nobody uses back to the pool, each with a turn if there is one left.
    fn bring_home(&self, idle: Vec<Lease<DB>>) {
        for mut lent in idle {
            let turn = Arc::clone(&self.turns).try_acquire_owned().ok();
            if let Some(loan) = lent.0.take() {
                loan.give_back(turn, self.patience());
            }
        }
    }

    fn discard_all(&self) {
        let ready = std::mem::take(&mut *self.ready());
        ready.into_iter().for_each(|lent| drop(lent.discard()));
    }

    /// How long a connection on which no statement is under way may take to answer.
    fn patience(&self) -> Duration {
        PATIENCE.min(self.pool.options().get_acquire_timeout() / 2)
    }

    /// One that works in this runtime.
    fn take(&self) -> Option<Lease<DB>> {
        let here = runtimes::here();
        let mut ready = self.ready();
        let at = ready.iter().rposition(|lent| lent.works_in(here))?;
        Some(ready.remove(at))
    }

    fn keep(self: &Arc<Self>, lent: Lease<DB>) {
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
        let mut sweeping = Sweeping { lender: Arc::downgrade(self), on: true };
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(RETURN_AFTER).await;
                let Some(lender) = sweeping.lender.upgrade() else { return };
                let mut ready = lender.ready();
                let (idle, in_use): (Vec<_>, Vec<_>) =
                    ready.drain(..).partition(|lent| lent.idle() >= RETURN_AFTER);
                *ready = in_use;
                let done = ready.is_empty();
                if done {
                    // While the list is locked, so that whoever keeps a connection after this starts another task.
                    lender.sweeping.store(false, Ordering::Release);
                    sweeping.on = false;
                }
                drop(ready);
                lender.bring_home(idle);
                if done {
                    return;
                }
            }
        });
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Lease<DB>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
impl<DB: Backend> Drop for WarmPool<DB> {
    /// As sqlx's pool does with its idle connections: nothing is sent, so that no runtime is needed.
    fn drop(&mut self) {
        self.discard_all();
    }
}

/// The task that brings home what nobody uses. Should it end with its runtime, another one can be started.
struct Sweeping<DB: Backend> {
    lender: Weak<WarmPool<DB>>,
    on: bool,
}

impl<DB: Backend> Drop for Sweeping<DB> {
    fn drop(&mut self) {
        if let Some(lender) = self.lender.upgrade().filter(|_| self.on) {
            lender.sweeping.store(false, Ordering::Release);
        }
    }
}

/// A call that is about to take a connection from the pool.
struct Opening<'o> {
    opening: &'o AtomicUsize,
    /// How many there are with this one.
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
    /// One that goes back to the pool.
    pub(crate) async fn of(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        let (conn, is_new) = runtimes::acquire(pool).await?;
        let taken = Instant::now();
        Ok(Self(Some(Box::new(LeaseInner {
            conn,
            taken,
            used: taken,
            under_way: UnderWay::Nothing,
            touched: false,
            unverified: false,
            answered: false,
            home: None,
            runtime: Handle::try_current().ok(),
            origin: if is_new { runtimes::here() } else { None },
            keeps_statements: DB::keeps_statements(pool),
            generation: Some(0),
        }))))
    }

    fn with_home(mut self, lender: &Arc<WarmPool<DB>>, turn: OwnedSemaphorePermit) -> Self {
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

    /// Whether the runtime that opened it is this one. The I/O driver of another one may be gone, or stand still, which a ping
    /// does not always show: its answer may be there at once.
    fn works_in(&self, here: Option<runtime::Id>) -> bool {
        !DB::NEEDS_RUNTIME || self.0.as_ref().is_some_and(|loan| loan.origin == here)
    }

    /// Whether a ping succeeds; an error if there is no answer in time.
    async fn lives(&mut self, limit: Duration) -> Result<bool, Elapsed> {
        let Some(loan) = &mut self.0 else { return Ok(false) };
        // Before the await: this future may be dropped in it.
        loan.under_way = UnderWay::Ping;
        let generation = loan.home.as_ref().map_or(0, |(lender, _)| lender.generation());
        let lives = async {
            loan.forget(generation).await?;
            loan.conn.ping().await
        };
        let lives = timeout(limit, lives).await?.is_ok();
        if lives {
            loan.under_way = UnderWay::Nothing;
        }
        Ok(lives)
    }

    /// Whether its statements are those of this generation.
    fn is_of(&self, generation: u64) -> bool {
        self.0.as_ref().is_some_and(|loan| loan.generation == Some(generation))
    }

    /// A prepared statement was refused as outdated, and those of the other connections may be too.
    pub(crate) fn set_outdated(&mut self) {
        if let Some(loan) = &mut self.0 {
            loan.generation = None;
            if let Some((lender, _)) = &loan.home {
                lender.outdate();
            }
        }
    }

    /// Its statements were forgotten, and will be prepared again.
    pub(crate) fn set_forgotten(&mut self) {
        if let Some(loan) = &mut self.0 {
            loan.generation = Some(loan.home.as_ref().map_or(0, |(lender, _)| lender.generation()));
        }
    }

    pub(crate) fn conn(&mut self) -> Option<&mut DB::Connection> {
        self.0.as_mut().map(|loan| &mut *loan.conn)
    }

    /// A statement is under way.
    pub(crate) fn set_busy(&mut self) {
        if let Some(loan) = &mut self.0 {
            loan.under_way = UnderWay::Statement;
        }
    }

    /// No statement is under way any more.
    pub(crate) fn set_idle(&mut self) {
        if let Some(loan) = &mut self.0 {
            loan.under_way = UnderWay::Nothing;
        }
    }

    /// The database has answered.
    pub(crate) fn set_proven_alive(&mut self) {
        if let Some(loan) = &mut self.0 {
            loan.answered = true;
        }
    }

    /// Whether it was heard of since it was lent.
    pub(crate) fn is_proven_alive(&self) -> bool {
        self.0.as_ref().is_some_and(|loan| loan.answered)
    }

    /// Others than this library use it.
    pub(crate) fn touch(&mut self) {
        if let Some(loan) = &mut self.0 {
            (loan.touched, loan.answered) = (true, true);
        }
    }

    /// How statements are prepared on it.
    pub(crate) fn naming(&self) -> Naming {
        match &self.0 {
            Some(loan) if !loan.keeps_statements => Naming::Unnamed { asks: loan.touched },
            _ => Naming::Named,
        }
    }

    /// The runtime in which it came out of the pool.
    pub(crate) fn runtime(&self) -> Option<&Handle> {
        self.0.as_ref().and_then(|loan| loan.runtime.as_ref())
    }

    /// Whether raw SQL may have left a transaction open.
    pub(crate) fn set_unverified(&mut self, unverified: bool) {
        if let Some(loan) = &mut self.0 {
            loan.unverified = unverified;
        }
    }

    /// Closes it: of no use to anybody.
    pub(crate) fn close(mut self) {
        if let Some(loan) = self.0.take() {
            loan.close();
        }
    }

    /// Drops the connection without a word to the server, and returns the turn that it was.
    fn discard(mut self) -> Option<OwnedSemaphorePermit> {
        let loan = *self.0.take()?;
        let turn = loan.home.map(|(_, turn)| turn);
        in_runtime(loan.runtime, move || drop(loan.conn.detach()));
        turn
    }
}

impl<DB: Backend> LeaseInner<DB> {
    /// Has the connection prepare its statements again, if they are of an older generation.
    async fn forget(&mut self, generation: u64) -> Result<(), sqlx::Error> {
        if self.generation != Some(generation) {
            self.conn.clear_cached_statements().await?;
            self.generation = Some(generation);
        }
        Ok(())
    }

    /// Gives the connection back to the pool, which brings it in order, and only then frees the turn: until then, nobody else
    /// can have the connection.
    fn give_back(mut self: Box<Self>, turn: Option<OwnedSemaphorePermit>, patience: Duration) {
        // Nobody knows how long a statement may take.
        let has_statement = self.under_way == UnderWay::Statement || self.touched;
        in_runtime(self.runtime.take(), move || {
            // Out of the pool's hands already, so that a runtime that shuts down closes the connection and frees its place.
            let returned = self.conn.return_to_pool();
            tokio::spawn(async move {
                if has_statement {
                    returned.await;
                } else {
                    let _ = timeout(patience, returned).await;
                }
                drop(turn);
            });
        });
    }

    /// Rolls back what raw SQL may have left open, before anybody else can have the connection.
    fn settle(self: Box<Self>) {
        in_runtime(self.runtime.clone(), move || {
            let mut settling = Settling(Some(self));
            tokio::spawn(async move {
                let Some(loan) = &mut settling.0 else { return };
                if let Err(error) = verify::roll_back_all::<DB>(&mut loan.conn).await {
                    tracing::warn!(%error, "a connection is closed, because it may be in a transaction");
                } else if let Some(mut loan) = settling.0.take() {
                    (loan.unverified, loan.under_way) = (false, UnderWay::Nothing);
                    drop(Lease(Some(loan)));
                }
            });
        });
    }

    fn close(mut self: Box<Self>) {
        match self.home.take() {
            Some((lender, turn)) => {
                if !self.answered {
                    lender.clear();
                }
                in_runtime(self.runtime.take(), move || {
                    let conn = self.conn.detach();
                    tokio::spawn(async move {
                        let _ = timeout(PATIENCE, conn.close()).await;
                        drop(turn);
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
        let Some(mut loan) = self.0.take() else { return };
        // One without a cache was perhaps dropped during a BEGIN, which sqlx does not know of then.
        let may_have_begun = !loan.keeps_statements && loan.under_way == UnderWay::Statement;
        if loan.unverified || may_have_begun {
            return loan.settle();
        }
        if loan.generation.is_none() {
            return loan.close();
        }
        let Some((lender, turn)) = loan.home.take() else {
            return in_runtime(loan.runtime.take(), move || drop(loan));
        };
        let clean = loan.under_way == UnderWay::Nothing && !loan.touched;
        if clean && loan.taken.elapsed() < RETURN_AFTER {
            loan.used = Instant::now();
            lender.keep(Self(Some(loan)));
            // Whoever waits finds it only now.
            drop(turn);
        } else {
            // The pool looks at it, and at the others, if it may have died before it was used.
            if !clean && !loan.touched && !loan.answered {
                lender.clear();
            }
            loan.give_back(Some(turn), lender.patience());
        }
    }
}

/// A connection that is closed if it is dropped here.
struct Settling<DB: Backend>(Option<Box<LeaseInner<DB>>>);

impl<DB: Backend> Drop for Settling<DB> {
    fn drop(&mut self) {
        if let Some(loan) = self.0.take() {
            loan.close();
        }
    }
}
