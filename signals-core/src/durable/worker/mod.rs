//! Workers: they claim due deliveries and run their receivers.

mod acknowledge;
pub(super) mod connections;
#[cfg(feature = "metrics")]
mod gauges;
mod handle;
mod lease;
mod prune;
mod room;
mod start;
mod supervise;
mod unknown;
pub(super) mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::database::db::Db;
use crate::durable::claim::{self, ServerTransaction};
use crate::durable::kept::Done;
use crate::durable::receivers::DurableReceivers;
use crate::durable::schema;
use crate::durable::worker::connections::Connections;
use crate::durable::worker::room::Pace;
use crate::error::missing_state::MissingState;
use crate::error::{Error, Result};
use crate::task::info::Asks;
use crate::task::measure::{self, DeliveryMetrics};

/// How long [`Worker::shutdown`] waits for running receivers.
const GRACE: Duration = Duration::from_secs(30);

/// The options of a worker, see [`Deliveries::worker`](super::Deliveries::worker).
///
/// | option | default |
/// |---|---|
/// | [`queues`](Self::queues) | all |
/// | [`concurrency`](Self::concurrency) | 16 |
/// | [`lease`](Self::lease) | 30 seconds |
/// | [`poll`](Self::poll) | 1 second |
/// | [`listen`](Self::listen) | yes |
/// | [`prune_dead`](Self::prune_dead) | dead deliveries stay |
#[derive(Debug, Clone)]
#[must_use = "the worker starts with `spawn`"]
pub struct WorkerOptions {
    pub(super) db: Db,
    pub(super) queues: Option<Vec<String>>,
    pub(super) concurrency: usize,
    pub(super) lease: Duration,
    pub(super) poll: Duration,
    pub(super) listen: bool,
    pub(super) prune_dead: Option<String>,
}

/// A running worker. If it is dropped, the worker continues until the runtime shuts down.
///
/// See the example of [`Deliveries`](super::Deliveries).
pub struct Worker {
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
}

/// What the tasks of a worker share.
pub(super) struct Shared {
    /// The `Db` of the program, with its values.
    db: Db,
    connections: Connections,
    options: WorkerOptions,
    /// The name in the column `worker`.
    name: String,
    /// One permit for each delivery that can run.
    permits: Arc<Semaphore>,
    running: Mutex<HashMap<i64, RunningEntry>>,
    /// How fast deliveries end.
    pace: Mutex<Pace>,
    /// A delivery has ended, so that another one can start.
    ended: Notify,
    /// Another process may have stored deliveries.
    noticed: Arc<Notify>,
    tasks: TaskTracker,
    /// No further delivery is claimed.
    stopping: CancellationToken,
    /// No receiver continues to run.
    cancelled: CancellationToken,
    acknowledge: mpsc::UnboundedSender<Done>,
    /// After how many milliseconds dead deliveries are deleted.
    prune_dead: Option<i64>,
    /// Whether the database has answered the last renewal.
    is_reachable: AtomicBool,
    metrics: DeliveryMetrics,
}

/// A delivery that this worker has claimed.
#[derive(Clone)]
struct RunningEntry {
    receiver: &'static str,
    claim: i64,
    /// When the lease ends, by the clock of this process.
    deadline: Instant,
    stage: Stage,
    /// The transaction that has deleted the delivery.
    transaction: Option<ServerTransaction>,
    /// Stops the receiver when its lease has ended. It is no child of `Shared::cancelled`: a receiver that is polled while the worker stops might
    /// see it first, and would be forgotten instead of given back.
    cancel: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is claimed, and waits until another delivery has ended.
    Waiting,
    Running,
    /// The receiver runs in the transaction that has deleted the delivery. No other worker can claim it.
    InTransaction,
    /// The receiver has succeeded, and the delivery waits for its acknowledgement.
    Succeeded,
}

impl WorkerOptions {
    pub(super) fn new(db: Db) -> Self {
        let (lease, poll) = (Duration::from_secs(30), Duration::from_secs(1));
        Self { db, queues: None, concurrency: 16, lease, poll, listen: true, prune_dead: None }
    }

    /// Serves only the receivers of these queues; all by default.
    pub fn queues<Q: Into<String>>(mut self, queues: impl IntoIterator<Item = Q>) -> Self {
        self.queues = Some(queues.into_iter().map(Into::into).collect());
        self
    }

    /// Sets how many deliveries run at the same time; 16 by default. While deliveries end fast, the worker claims up to 64 more, so that the
    /// next ones can start at once, and gives back those that do not start within a second.
    pub fn concurrency(mut self, deliveries: usize) -> Self {
        self.concurrency = deliveries.max(1);
        self
    }

    /// Sets after which time a delivery whose worker was killed is due again; 30 seconds by default. The lease of a delivery that runs longer
    /// is renewed.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(100));
        self
    }

    /// Sets how often the worker looks for due deliveries; every second by default. A commit in the same process wakes it at once. A
    /// commit of another process wakes it too, on PostgreSQL unless [`listen`](Self::listen) is off.
    pub fn poll(mut self, interval: Duration) -> Self {
        self.poll = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets whether the worker listens for the notifications of other processes, on one more connection; it does by default. If it does not,
    /// it finds what other processes have stored when it polls. It never listens through a `Db` without a statement cache, because a pooler
    /// such as PgBouncer does not pass on notifications. On SQLite, this has no effect: the worker asks the file every 50 milliseconds.
    ///
    /// ```no_run
    /// # use sqlx_signals::prelude::*;
    /// # async fn example(db: Db) -> Result<()> {
    /// let worker = db.deliveries().worker().listen(false).poll(std::time::Duration::from_millis(200)).spawn().await?;
    /// # worker.shutdown().await }
    /// ```
    pub fn listen(mut self, listen: bool) -> Self {
        self.listen = listen;
        self
    }

    /// Deletes deliveries that have been dead for this time, such as `"90d"`; by default, they stay until an operator retries or discards them. A dead
    /// delivery that is deleted no longer blocks its ordering key. A worker looks for them when it starts, and about every ten minutes.
    ///
    /// ```no_run
    /// # use sqlx_signals::prelude::*;
    /// # async fn example(db: Db) -> Result<()> {
    /// let worker = db.deliveries().worker().prune_dead("90d").spawn().await?;
    /// # worker.shutdown().await }
    /// ```
    pub fn prune_dead(mut self, age: impl Into<String>) -> Self {
        self.prune_dead = Some(age.into());
        self
    }

    /// Starts the worker on the current runtime.
    ///
    /// It opens connections of its own, with the options of the pool: one for its own statements, one that notices the commits of
    /// other processes, and one for each delivery that runs in a transaction. So the program cannot take the worker's connections, nor the worker those of the program.
    ///
    /// See the example of [`Deliveries`](super::Deliveries).
    ///
    /// # Errors
    ///
    /// - [`Error::DeliveriesNotSetUp`] if the tables do not exist.
    /// - [`Error::Check`] if a receiver takes a `State` that the `Db` was not given.
    /// - An error if the database is in memory: no other connection sees it.
    /// - An error if the age of [`prune_dead`](Self::prune_dead) is not a duration.
    /// - The errors of connecting.
    pub async fn spawn(self) -> Result<Worker> {
        check_states(&self)?;
        let prune_dead = self.prune_dead.as_deref().map(millis_of).transpose()?;
        let connections = Connections::open(&self)?;
        schema::check(&mut connections.control.acquire().await?).await?;
        measure::ask_again();
        let (acknowledge, succeeded) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            db: self.db.clone(),
            connections,
            name: format!("{}-{:08x}", std::process::id(), fastrand::u32(..)),
            permits: Arc::new(Semaphore::new(self.concurrency)),
            running: Mutex::default(),
            pace: Mutex::default(),
            ended: Notify::new(),
            noticed: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            cancelled: CancellationToken::new(),
            acknowledge,
            prune_dead,
            is_reachable: AtomicBool::new(true),
            metrics: DeliveryMetrics::default(),
            options: self,
        });
        let background = vec![
            tokio::spawn(acknowledge::run(Arc::downgrade(&shared), succeeded)),
            tokio::spawn(lease::run(Arc::downgrade(&shared))),
            tokio::spawn(lease::stop_ended(Arc::downgrade(&shared))),
            tokio::spawn(lease::release_ended(Arc::downgrade(&shared))),
            tokio::spawn(watch::run(
                shared.connections.watch.clone(),
                Arc::downgrade(&shared.noticed),
            )),
            tokio::spawn(unknown::run(Arc::downgrade(&shared))),
            tokio::spawn(prune::run(Arc::downgrade(&shared))),
            #[cfg(feature = "metrics")]
            tokio::spawn(gauges::run(Arc::downgrade(&shared))),
        ];
        let supervisor = tokio::spawn(supervise::run(Arc::clone(&shared)));
        Ok(Worker { shared, supervisor, background })
    }
}

/// A duration as text in milliseconds.
fn millis_of(age: &str) -> Result<i64> {
    match humantime::parse_duration(age) {
        Ok(age) => Ok(claim::millis(age)),
        Err(error) => {
            let text = format!("`{age}` is not a duration, such as \"90d\": {error}");
            Err(Error::other(text))
        }
    }
}

/// Checks that the `Db` has every value that a receiver of the worker takes.
fn check_states(options: &WorkerOptions) -> Result<()> {
    let mut findings = Vec::new();
    for entry in DurableReceivers::of(options.queues.as_deref()).entries() {
        let info = entry.receiver.info.info;
        for asks in info.asks {
            if let Asks::State { id, name } = asks
                && !options.db.state.has(*id)
            {
                let missing = MissingState { ty: name(), has_db: true };
                findings.push(format!("receiver `{}`: {missing}", info.name));
            }
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Error::Check { findings }) }
}

impl Worker {
    /// Claims nothing more, waits up to 30 seconds until the running receivers have ended, then stops those that still run and gives their
    /// deliveries back.
    ///
    /// See the example of [`Deliveries`](super::Deliveries).
    ///
    /// # Errors
    ///
    /// An error if deliveries could not be given back: the error of the database, or an error that names the deliveries that an open transaction
    /// still locks. They are due again when their leases end.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the worker claims nothing more, and the running receivers continue.
    pub async fn shutdown(self) -> Result<()> {
        self.end(GRACE).await
    }

    /// Stops the running receivers at once, and gives their deliveries back, without counting an attempt.
    ///
    /// # Errors
    ///
    /// As [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    ///
    /// As [`shutdown`](Self::shutdown).
    pub async fn stop(self) -> Result<()> {
        self.end(Duration::ZERO).await
    }

    async fn end(self, grace: Duration) -> Result<()> {
        let Self { shared, supervisor, background } = self;
        shared.stopping.cancel();
        // The only error is that the task has panicked, which is logged by the panic hook.
        let _ = supervisor.await;
        shared.tasks.close();
        let finished = tokio::time::timeout(grace, shared.tasks.wait()).await;
        if finished.is_err() {
            shared.cancelled.cancel();
            shared.tasks.wait().await;
        }
        shared.acknowledged().await;
        // A delivery is locked until the transaction that has deleted it is rolled back. One that is not rolled back in time is not given back.
        shared.connections.close_receivers().await;
        let left = shared.claims(|entry| entry.stage != Stage::Succeeded);
        let given_back = match left.is_empty() {
            true => Ok(()),
            false => shared.give_back(&left).await,
        };
        background.iter().for_each(JoinHandle::abort);
        shared.connections.close().await;
        given_back
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<i64, RunningEntry>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no succeeded delivery waits for its acknowledgement, but not longer than a lease.
    async fn acknowledged(&self) {
        let waits = async {
            while !self.claims(|entry| entry.stage == Stage::Succeeded).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(self.options.lease, waits).await;
    }

    /// The ids and claims of the entries that `select` selects.
    fn claims(&self, select: impl Fn(&RunningEntry) -> bool) -> Vec<(i64, i64)> {
        let running = self.running();
        let selected = running.iter().filter(|(_, entry)| select(entry));
        selected.map(|(id, entry)| (*id, entry.claim)).collect()
    }

    fn set_stage(&self, id: i64, stage: Stage) {
        if let Some(entry) = self.running().get_mut(&id) {
            entry.stage = stage;
        }
    }

    fn set_reachable(&self, is_reachable: bool) {
        self.is_reachable.store(is_reachable, Ordering::Relaxed);
    }

    fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::Relaxed)
    }

    /// Forgets a delivery that has ended.
    fn forget(&self, id: i64) {
        self.running().remove(&id);
        self.ended.notify_one();
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.shared.name).finish()
    }
}
