//! Relays: they publish the events of models and signals with `publish = "…"` to a message broker.

mod batch;
mod cloud_event;
mod publisher;
mod run;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Deliveries;
use crate::database::db::Db;
use crate::durable::schema;
use crate::durable::worker::WorkerOptions;
use crate::durable::worker::connections::Connections;
use crate::durable::worker::watch;
use crate::error::{Error, Result};
use crate::task::measure::DeliveryMetrics;
use publisher::ErasedPublisher;

pub use publisher::{Message, Publisher};

/// The options of a relay, see [`Deliveries::relay`].
///
/// | option | default |
/// |---|---|
/// | [`lease`](Self::lease) | 60 seconds |
/// | [`poll`](Self::poll) | 1 second |
/// | [`listen`](Self::listen) | yes |
#[must_use = "the relay starts with `spawn`"]
pub struct RelayOptions {
    worker: WorkerOptions,
    source: String,
    publisher: Arc<dyn ErasedPublisher>,
}

/// A running relay. If it is dropped, the relay continues until the runtime shuts down.
///
/// See the example of [`Deliveries::relay`].
pub struct Relay {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    watch: JoinHandle<()>,
}

/// What the tasks of a relay share.
struct Shared {
    db: Db,
    connections: Connections,
    /// The attribute `source` of the messages.
    source: String,
    publisher: Arc<dyn ErasedPublisher>,
    /// The name in the column `worker`.
    name: String,
    lease: Duration,
    poll: Duration,
    /// Another process may have stored deliveries.
    noticed: Arc<Notify>,
    stopping: CancellationToken,
    metrics: DeliveryMetrics,
}

impl Deliveries {
    /// A relay, which publishes the events of models and signals with `publish = "…"`. `source` is the name of this service in the
    /// messages: together with the id of an event, it identifies the event among those of all services.
    ///
    /// An event is stored in the transaction of its write, as for a durable receiver, so it is published if and only if the transaction
    /// commits. It is published at least once, and after a failure again until the broker has stored it, without a limit of attempts.
    /// Several relays of one database share the work.
    ///
    /// ```standalone_crate
    /// use sqlx_signals::durable::{Message, Publisher};
    /// use sqlx_signals::prelude::*;
    ///
    /// #[derive(Signal, serde::Serialize, serde::Deserialize)]
    /// #[signal(publish = "shop.order_paid")]
    /// struct OrderPaid { order_id: i64 }
    ///
    /// /// Publishes to the log.
    /// struct Log;
    ///
    /// impl Publisher for Log {
    ///     async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
    ///         messages.iter().map(|message| Ok(println!("{}", message.body()))).collect()
    ///     }
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let file = std::env::temp_dir().join(format!("signals_relay_{}.db", std::process::id()));
    /// # let url = format!("sqlite:{}", file.display());
    /// let db = Db::connect(&url).await?;
    /// db.deliveries().setup().await?;
    /// let relay = db.deliveries().relay("shop", Log).spawn().await?;
    /// OrderPaid { order_id: 7 }.send(&db).await?;
    /// # while db.deliveries().status().await?.receivers.iter().any(|receiver| receiver.waiting + receiver.running > 0) {
    /// #     tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    /// # }
    /// relay.shutdown().await?;
    /// # db.close().await;
    /// # std::fs::remove_file(file).unwrap();
    /// # Ok(()) }
    /// ```
    pub fn relay(&self, source: impl Into<String>, publisher: impl Publisher) -> RelayOptions {
        let worker = WorkerOptions::new(self.db.clone()).concurrency(1);
        let worker = worker.lease(Duration::from_secs(60));
        RelayOptions { worker, source: source.into(), publisher: Arc::new(publisher) }
    }
}

impl RelayOptions {
    /// Sets after which time the messages of a relay that was killed are published again; 60 seconds by default. A publisher that does not
    /// finish within half of it is stopped, and its messages are published again.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.worker = self.worker.lease(lease);
        self
    }

    /// Sets how often the relay looks for stored events, as [`WorkerOptions::poll`].
    pub fn poll(mut self, interval: Duration) -> Self {
        self.worker = self.worker.poll(interval);
        self
    }

    /// Sets whether the relay listens for the notifications of other processes, as [`WorkerOptions::listen`].
    pub fn listen(mut self, listen: bool) -> Self {
        self.worker = self.worker.listen(listen);
        self
    }

    /// Starts the relay on the current runtime. It opens connections of its own, with the options of the pool: one for its statements, and
    /// one that notices the commits of other processes.
    ///
    /// See the example of [`Deliveries::relay`].
    ///
    /// # Errors
    ///
    /// - An error if the source is empty or has a character that is not allowed in a URI.
    /// - [`Error::DeliveriesNotSetUp`] if the tables do not exist.
    /// - An error if the database is in memory: no other connection sees it.
    /// - The errors of connecting to the database. The broker need not be reachable.
    pub async fn spawn(self) -> Result<Relay> {
        check_source(&self.source)?;
        let connections = Connections::open(&self.worker)?;
        schema::check(&mut connections.control.acquire().await?).await?;
        let noticed = Arc::default();
        let watch = tokio::spawn(watch::run(connections.watch.clone(), Arc::downgrade(&noticed)));
        let shared = Arc::new(Shared {
            db: self.worker.db.clone(),
            connections,
            source: self.source,
            publisher: self.publisher,
            name: format!("relay-{}-{:08x}", std::process::id(), fastrand::u32(..)),
            lease: self.worker.lease,
            poll: self.worker.poll,
            noticed,
            stopping: CancellationToken::new(),
            metrics: DeliveryMetrics::default(),
        });
        let task = tokio::spawn(run::run(Arc::clone(&shared)));
        Ok(Relay { shared, task, watch })
    }
}

/// The source is an attribute of every message, where it is a reference to a URI.
fn check_source(source: &str) -> Result<()> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c);
    if source.is_empty() || !source.chars().all(is_valid) {
        let text =
            "is no name of a service: it consists of the characters of a URI, and is not empty";
        return Err(Error::other(format!("`{source}` {text}")));
    }
    Ok(())
}

impl Relay {
    /// Claims nothing more, and waits until the messages that are being published have ended, which takes at most half the lease.
    ///
    /// See the example of [`Deliveries::relay`].
    ///
    /// # Errors
    ///
    /// None at present.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the relay claims nothing more, and the batch that it publishes continues.
    pub async fn shutdown(self) -> Result<()> {
        let Self { shared, task, watch } = self;
        shared.stopping.cancel();
        // The only error is that the task has panicked, which is logged by the panic hook.
        let _ = task.await;
        watch.abort();
        shared.connections.close().await;
        Ok(())
    }
}

impl fmt::Debug for RelayOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker: WorkerOptions { lease, poll, listen, .. }, source, .. } = self;
        let mut debug = f.debug_struct("RelayOptions");
        debug.field("source", source).field("lease", lease).field("poll", poll);
        debug.field("listen", listen).finish()
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("name", &self.shared.name).finish()
    }
}
