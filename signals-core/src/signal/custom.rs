use crate::task::info::Identity;
use crate::transaction::own::Undoable;
use crate::transaction::own::in_transaction;
use std::sync::Arc;

use crate::task::origin;
use futures_util::future::BoxFuture;

use crate::database::conn::Conn;
use crate::database::deferred::{Deferred, End};
use crate::database::source::{Connects, Source};
use crate::error::Result;
use crate::signal::dispatch::{DeferredDelivery, dispatch, dispatch_robust};
use crate::signal::entry::Entry;
use crate::signal::erased::{ErasedReceiver, Event, KeptEvent, Started, begin_own};
use crate::signal::operation_context::{OperationContext, check_observable};
use crate::signal::parameter::Context;
use crate::signal::receivers::{CustomReceivers, SignalTable};
use crate::signal::recording;
use crate::signal::registry::{ReceiverInfo, registry};
use crate::signal::{Deferrable, Signal, Subject};
use crate::task::chain;
use crate::task::finish::finish;
use crate::transaction::Transaction;
use crate::transaction::guard::FailGuard;

/// A signal of the program's own: what `#[derive(Signal)]` implements. The value is what is sent.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// #[derive(Signal)]
/// struct OrderPaid {
///     order_id: i64,
/// }
///
/// /// In the transaction of who sends.
/// #[receiver(OrderPaid)]
/// async fn ship(paid: &OrderPaid, conn: &mut Conn<'_>) -> Result<()> {
///     conn.query("INSERT INTO shipments VALUES ($1)").bind(paid.order_id).execute().await?;
///     Ok(())
/// }
///
/// /// After its commit.
/// #[receiver(OrderPaid, on_commit)]
/// async fn thank(paid: &OrderPaid) {
///     println!("thank you for order {}", paid.order_id);
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// db.execute("CREATE TABLE shipments (order_id INTEGER NOT NULL)").await?;
/// let mut tx = db.begin().await?;
/// OrderPaid { order_id: 7 }.send(&mut tx).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a signal of its own",
    label = "not a signal",
    note = "put `#[derive(Signal)]` on `{Self}`"
)]
pub trait CustomSignal: Sized + Send + Sync + 'static {
    #[doc(hidden)]
    const SIGNAL: &'static str;

    #[doc(hidden)]
    fn __table() -> &'static SignalTable;

    /// Runs the receivers in order, to the first error. A transaction is opened around them where one of them needs it and
    /// there is none; those with `on_commit` run after the outermost commit, or at once where there is no transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Receiver`](crate::Error::Receiver) of the first that fails; what the others did is rolled back. In a transaction of the caller,
    /// it is marked: it can only be rolled back.
    ///
    /// # Cancel safety
    ///
    /// As a save: a dropped future rolls back, or marks the transaction of the caller.
    fn send(self, db: impl Connects) -> impl Future<Output = Result<()>> + Send {
        async move { send(self, db.into_source()).await }
    }

    /// Runs every receiver in order, and returns what became of each, after
    /// [Django's](https://docs.djangoproject.com/en/stable/topics/signals/#sending-signals) `send_robust`. One that takes the
    /// connection has a savepoint of its own, so that what it did is undone where it fails, and nothing else. If none of
    /// them takes the connection, none is taken from the pool, and there is no transaction.
    ///
    /// Where there is no connection to be had, that is the result of each.
    fn send_robust(
        self,
        db: impl Connects,
    ) -> impl Future<Output = Vec<(ReceiverInfo, Result<()>)>> + Send {
        async move { send_robust(self, db.into_source()).await }
    }
}

#[diagnostic::do_not_recommend]
impl<T: CustomSignal> Signal for T {
    const NAME: &'static str = T::SIGNAL;
    // An `Arc`, so that it can be kept; the receiver's `&T` is what it dereferences to.
    type Event<'e, M: ?Sized + Subject> = &'e Arc<T>;
    type Kept<M: Send + Sync + 'static> = Arc<T>;
    type AnySender = ();
    type AnyEntry = Entry<T, ()>;

    fn replay<M: Send + Sync + 'static>(kept: &Arc<T>) -> &Arc<T> {
        kept
    }

    fn replay_any(kept: &Arc<T>) -> &Arc<T> {
        kept
    }
}

#[diagnostic::do_not_recommend]
impl<T: CustomSignal> Deferrable for T {
    fn keep<M: Clone + Send + Sync + 'static>(event: &&Arc<T>) -> Arc<T> {
        Arc::clone(event)
    }
}

/// What is sent.
struct Payload<T>(Arc<T>);

impl<T: CustomSignal> Event for Payload<T> {
    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        begin_own::<T, ()>(to, &self.0, cx)
    }

    fn keep(&self, to: &[&ErasedReceiver]) -> Option<Box<dyn KeptEvent>> {
        (!to.is_empty()).then(|| Box::new(Payload(Arc::clone(&self.0))) as _)
    }
}

impl<T: CustomSignal> KeptEvent for Payload<T> {
    fn begin<'a>(&'a self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        begin_own::<T, ()>(to, &self.0, cx)
    }
}

/// Who receives a signal, and what they are told, where there is anybody.
fn received<T: CustomSignal>(payload: T) -> Option<(Receivers, Payload<T>)> {
    let group = T::__table().receivers();
    if group.is_none() {
        chain::observe("send", T::SIGNAL);
        if !origin::any() {
            return None;
        }
    }
    let payload = Arc::new(payload);
    recording::sent(&payload);
    Some((Receivers { signal: T::SIGNAL, group: group? }, Payload(payload)))
}

async fn send<T: CustomSignal>(payload: T, source: Source<'_>) -> Result<()> {
    match received(payload) {
        Some((receivers, mut payload)) => receivers.send(&mut payload, source).await,
        None => Ok(()),
    }
}

async fn send_robust<T: CustomSignal>(
    payload: T,
    source: Source<'_>,
) -> Vec<(ReceiverInfo, Result<()>)> {
    match received(payload) {
        Some((receivers, mut payload)) => receivers.send_robust(&mut payload, source).await,
        None => Vec::new(),
    }
}

/// Those who receive a signal that comes from nobody in particular.
struct Receivers {
    signal: &'static str,
    group: Arc<CustomReceivers>,
}

impl Receivers {
    /// On the heap, as a save.
    fn send<'s>(
        &'s self,
        event: &'s mut dyn Event,
        source: Source<'s>,
    ) -> BoxFuture<'s, Result<()>> {
        Box::pin(async move {
            let scene = OperationContext::enter("send", self.signal, &source);
            match source {
                Source::Conn(mut conn) if conn.in_transaction() => {
                    let doubt = FailGuard::of(&mut conn, "send", self.signal);
                    let done = async { self.inside(event, doubt.conn, &scene?).await };
                    let done = done.await;
                    doubt.end(done)
                }
                source => self.outside(event, source, &scene?).await,
            }
        })
    }

    /// In a transaction that is somebody else's to end, or in our own.
    async fn inside(
        &self,
        event: &mut dyn Event,
        conn: &mut Conn<'_>,
        scene: &OperationContext,
    ) -> Result<()> {
        self.check_observable(conn).await?;
        if let Some(postponed) = self.postponed(event, scene) {
            conn.state.defer(postponed);
        }
        dispatch(&self.group.inside, event, Some(conn), scene, &None).await
    }

    async fn outside(
        &self,
        event: &mut dyn Event,
        source: Source<'_>,
        scene: &OperationContext,
    ) -> Result<()> {
        if self.needs_transaction() {
            let mut conn = source.acquire().await?;
            self.check_observable(&mut conn).await?;
            return in_transaction(conn, Sending { receivers: self, event, scene }).await;
        }
        if let Source::Conn(mut conn) = source {
            self.check_observable(&mut conn).await?;
        }
        dispatch(&self.group.inside, event, None, scene, &None).await?;
        if let Some(postponed) = self.postponed(event, scene) {
            finish(postponed.run(End::Committed, None)).await;
        }
        Ok(())
    }

    fn send_robust<'s>(
        &'s self,
        event: &'s mut dyn Event,
        source: Source<'s>,
    ) -> BoxFuture<'s, Vec<(ReceiverInfo, Result<()>)>> {
        Box::pin(async move {
            self.each(event, source).await.unwrap_or_else(|error| {
                let each = self.group.inside.iter();
                each.map(|to| (registry().info(to.info.clone()), Err(error.copied()))).collect()
            })
        })
    }

    async fn each(
        &self,
        event: &mut dyn Event,
        source: Source<'_>,
    ) -> Result<Vec<(ReceiverInfo, Result<()>)>> {
        let scene = OperationContext::enter("send", self.signal, &source)?;
        let named = |results: Vec<(_, _)>| {
            results.into_iter().map(|(info, done)| (registry().info(info), done)).collect()
        };
        match source {
            Source::Conn(mut conn) if conn.in_transaction() => {
                self.check_observable(&mut conn).await?;
                Ok(named(self.robust_inside(event, &mut conn, &scene).await))
            }
            source if self.needs_transaction() => {
                let mut conn = source.acquire().await?;
                self.check_observable(&mut conn).await?;
                let sending = Sending { receivers: self, event, scene: &scene };
                in_transaction(conn, Robust(sending)).await.map(named)
            }
            source => {
                if let Source::Conn(mut conn) = source {
                    self.check_observable(&mut conn).await?;
                }
                let results = dispatch_robust(&self.group.inside, event, None, &scene).await;
                if let Some(postponed) = self.postponed(event, &scene) {
                    finish(postponed.run(End::Committed, None)).await;
                }
                Ok(named(results))
            }
        }
    }

    async fn robust_inside(
        &self,
        event: &mut dyn Event,
        conn: &mut Conn<'_>,
        scene: &OperationContext,
    ) -> Vec<(Identity, Result<()>)> {
        let results = dispatch_robust(&self.group.inside, event, Some(&mut *conn), scene).await;
        if let Some(postponed) = self.postponed(event, scene) {
            conn.state.defer(postponed);
        }
        results
    }

    /// Whether a receiver takes the connection: one that does not has nothing that could be undone.
    fn needs_transaction(&self) -> bool {
        self.group.inside.iter().any(|to| to.info.connection)
    }

    fn postponed(&self, event: &dyn Event, scene: &OperationContext) -> Option<Box<dyn Deferred>> {
        DeferredDelivery::of(&self.group.deferred, event, scene, &None)
    }

    async fn check_observable(&self, conn: &mut Conn<'_>) -> Result<()> {
        let deferred = self.group.deferred.first().map(|to| to.info.info);
        check_observable(self.signal, deferred, conn).await
    }
}

/// The receivers of a signal in a transaction.
struct Sending<'s> {
    receivers: &'s Receivers,
    event: &'s mut dyn Event,
    scene: &'s OperationContext,
}

impl Undoable for Sending<'_> {
    type Done = ();

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<()> {
        self.receivers.inside(self.event, tx, self.scene).await
    }
}

/// As [`Sending`], each whatever became of the others.
struct Robust<'s>(Sending<'s>);

impl Undoable for Robust<'_> {
    type Done = Vec<(Identity, Result<()>)>;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<Self::Done> {
        let Sending { receivers, event, scene } = &mut self.0;
        Ok(receivers.robust_inside(*event, tx, scene).await)
    }
}
