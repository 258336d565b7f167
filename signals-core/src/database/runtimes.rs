//! The tokio runtimes in which connections are opened, used and dropped.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};
use tokio::runtime::{self, Handle, RuntimeFlavor};

use crate::database::backend::Backend;

/// Detects whether a pool is used in more than one runtime. A connection is bound to the I/O driver of the runtime that opened
/// it, and that runtime may have shut down. So if there are several runtimes, sqlx's pool pings each connection before use.
pub(crate) struct Runtimes {
    /// The runtime of the first use. A pool of the program may be passed to the library before there is a runtime.
    first: OnceLock<runtime::Id>,
    several: AtomicBool,
    /// Whether the pool calls [`note_opened`].
    has_hook: bool,
}

impl Runtimes {
    /// For a pool that calls [`note_opened`], or whose connections do not need a runtime.
    pub(crate) fn with_hook() -> Arc<Self> {
        Self::new(true)
    }

    /// For a pool of the program.
    pub(crate) fn without_hook() -> Arc<Self> {
        Self::new(false)
    }

    fn new(has_hook: bool) -> Arc<Self> {
        let first = current_id().map(OnceLock::from).unwrap_or_default();
        Arc::new(Self { first, several: AtomicBool::new(false), has_hook })
    }

    /// Whether it is known in which runtime a connection was opened, even if there are several.
    pub(crate) fn have_hook(&self) -> bool {
        self.has_hook
    }

    /// Whether the pool is used in several runtimes, counting the current one.
    pub(crate) fn has_several(&self) -> bool {
        if !self.several.load(Ordering::Relaxed)
            && let Some(current) = current_id()
            && *self.first.get_or_init(|| current) != current
        {
            self.several.store(true, Ordering::Relaxed);
        }
        self.several.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// Whether a pool has opened a connection during the current poll on this thread.
    static OPENED: Cell<bool> = const { Cell::new(false) };
}

/// Records that a pool has opened a connection. Called by `after_connect`.
pub(crate) fn note_opened() {
    OPENED.set(true);
}

/// Takes a connection from a pool, and returns whether the connection is new. This is known only for pools that call
/// [`note_opened`], and relies on sqlx returning a new connection in the same poll in which `after_connect` ran.
pub(crate) async fn acquire<DB: Database>(
    pool: &Pool<DB>,
) -> Result<(PoolConnection<DB>, bool), sqlx::Error> {
    let mut acquire = pin!(pool.acquire());
    poll_fn(|cx| {
        OPENED.set(false);
        let conn = acquire.as_mut().poll(cx)?;
        conn.map(|conn| Ok((conn, OPENED.get())))
    })
    .await
}

/// The id of the current runtime.
pub(crate) fn current_id() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

/// Runs `work` in the current runtime or, outside any runtime, in `runtime`. If `runtime` has shut down, the tasks that `work`
/// spawns are dropped immediately.
pub(crate) fn in_runtime(runtime: Option<Handle>, work: impl FnOnce() + Send + 'static) {
    let Err(error) = Handle::try_current() else { return work() };
    let Some(runtime) = runtime else { return work() };
    if error.is_thread_local_destroyed() {
        // The thread is terminating and cannot enter a runtime any more, so another thread does.
        let work = move || {
            let _entered = runtime.enter();
            work();
        };
        let _ = std::thread::Builder::new().spawn(work);
    } else {
        let _entered = runtime.enter();
        work();
    }
}

/// Spawns a task in the current runtime. If the database needs no runtime, the task also runs while a runtime of one thread is not driven,
/// for example between two calls of `block_on`: other threads may wait for its end.
pub(crate) fn spawn_even_if_idle<DB: Backend>(task: impl Future<Output = ()> + Send + 'static) {
    let runtime = Handle::current();
    if !DB::NEEDS_RUNTIME && runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        threads::run(Box::new(move || runtime.block_on(task)));
    } else {
        tokio::spawn(task);
    }
}

/// Threads for the tasks of runtimes that may not be driven. The blocking threads of a runtime are not used, because the program may occupy
/// all of them, also with calls that wait for such a task.
mod threads {
    use std::collections::VecDeque;
    use std::sync::{Condvar, Mutex, PoisonError};
    use std::thread;
    use std::time::Duration;

    pub(super) type Job = Box<dyn FnOnce() + Send>;

    /// After which time a thread without work ends.
    const IDLE_TIME: Duration = Duration::from_secs(10);

    static QUEUE: Mutex<Queue> = Mutex::new(Queue { jobs: VecDeque::new(), idle: 0 });
    static ADDED: Condvar = Condvar::new();

    struct Queue {
        jobs: VecDeque<Job>,
        /// The number of threads that wait for work.
        idle: usize,
    }

    /// Runs a job on a thread that waits for work, or on a new one.
    pub(super) fn run(job: Job) {
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.idle > queue.jobs.len() {
            queue.jobs.push_back(job);
            ADDED.notify_one();
            return;
        }
        drop(queue);
        // If there can be no more threads, the job is dropped, which closes its connection.
        let _ = thread::Builder::new().name("sqlx-signals".to_owned()).spawn(move || {
            job();
            while let Some(job) = next() {
                job();
            }
        });
    }

    fn next() -> Option<Job> {
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.jobs.is_empty() {
            queue.idle += 1;
            let waited = ADDED.wait_timeout_while(queue, IDLE_TIME, |queue| queue.jobs.is_empty());
            (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
        queue.jobs.pop_front()
    }
}
