//! Custom signals: how a value is sent to its receivers.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::database::conn::Conn;
use crate::database::deferred::{Deferred, End};
use crate::database::source::{Connects, Source};
use crate::database::writer::{Verb, Writer};
use crate::error::Result;
use crate::signal::dispatch::{DeferredDelivery, DeferredEvent, Dispatch, check_values};
use crate::signal::entry::Entry;
use crate::signal::erased::{ErasedReceiver, Event, KeptEvent, Started, begin};
use crate::signal::event_store::{self, EventContent};
use crate::signal::operation_context::{OperationContext, check_observable};
use crate::signal::parameter::Context;
use crate::signal::receivers::{OperationReceivers, SignalTable};
use crate::signal::registry::{ReceiverInfo, registry};
use crate::signal::rows::{AnyEventRows, EventRows};
use crate::signal::{Deferrable, Signal, Subject, recording};
use crate::task::finish::run_even_if_dropped;
use crate::task::identity::Identity;
use crate::task::slow::Lap;
use crate::task::{chain, origin};
use crate::transaction::Transaction;
use crate::transaction::guard::FailGuard;
use crate::transaction::own::{TransactionWork, in_transaction};

/// A signal that the program defines. `#[derive(Signal)]` implements it.
///
/// A value of the type is sent, and the receivers get a reference to it. They can take the same
/// [parameters](crate::Parameter) as receivers of a model's signal, except for [`Previous`](crate::Previous).
///
/// ```
/// # use sqlx_signals::prelude::*;
/// #[derive(Signal)]
/// struct OrderPaid {
///     order_id: i64,
/// }
///
/// /// Runs in the transaction of the sender.
/// #[receiver(OrderPaid)]
/// async fn ship(paid: &OrderPaid, conn: &mut Conn<'_>) -> Result<()> {
///     conn.query("INSERT INTO shipments VALUES ($1)").bind(paid.order_id).execute().await?;
///     Ok(())
/// }
///
/// /// Runs after the transaction has committed.
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

    /// Runs the receivers in order, and stops at the first error.
    ///
    /// Outside a transaction, one is begun if a receiver takes the connection, and committed after the last receiver. Receivers with
    /// `on_commit` run after the outermost transaction has committed, or after the other receivers if there is no transaction.
    ///
    /// See the example of [`CustomSignal`].
    ///
    /// # Errors
    ///
    /// [`Error::Receiver`](crate::Error::Receiver) of the first receiver that fails. What the other receivers have written is rolled
    /// back. Inside a caller's transaction, the transaction is marked as failed: it can only be rolled back.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`save`](crate::Model::save): if the future is dropped, a transaction that `send` has begun is rolled back, and a
    /// caller's transaction is marked as failed.
    fn send(self, db: impl Connects) -> impl Future<Output = Result<()>> + Send {
        async move { send(self, db.into_source()).await }
    }

    /// Runs all receivers in order, and returns the result of each.
    ///
    /// The method has the meaning of [Django's](https://docs.djangoproject.com/en/stable/topics/signals/#sending-signals)
    /// `send_robust`. Each receiver that takes the connection runs in its own savepoint: if it fails, only what it has written is rolled
    /// back. If no receiver takes the connection, no connection is acquired and no transaction is begun. Receivers with `on_commit`,
    /// `on_rollback` or `durable` run later, and are not among the results.
    ///
    /// If no receiver can run, for example because no connection is available, or if the transaction cannot be committed, each result is
    /// that error. So is that of each receiver with `on_commit` if the signal has no others, for example in a transaction of sqlx.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Signal)]
    /// # struct OrderPaid { order_id: i64 }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// for (receiver, result) in (OrderPaid { order_id: 7 }).send_robust(&db).await {
    ///     println!("{}: {result:?}", receiver.name());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
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
    // An `Arc`, so that the event can be kept without `T: Clone`. The macro passes `&T` to the receiver.
    type Event<'e, M: ?Sized + Subject + 'static> = &'e Arc<T>;
    type AnySender = ();
    type AnyEntry = Entry<T, ()>;

    fn of<'e, M: Send + Sync + 'static>(_: EventRows<'e, M>) -> &'e Arc<T> {
        unreachable!("a custom signal is not about rows")
    }

    fn of_any(_: AnyEventRows<'_>) -> &Arc<T> {
        unreachable!("a custom signal is not about rows")
    }
}

#[diagnostic::do_not_recommend]
impl<T: CustomSignal> Deferrable for T {}

/// The event of a custom signal.
pub(crate) struct Payload<T> {
    value: Arc<T>,
    /// The id of an event that was received from another service.
    received: Option<u128>,
}

impl<T> Payload<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Arc::new(value), received: None }
    }
}

impl<T: CustomSignal> Event for Payload<T> {
    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        begin::<T, ()>(to, &self.value, cx)
    }

    fn content(&self) -> EventContent<'_> {
        EventContent::Signal(&*self.value, self.received)
    }

    fn keep(&self, to: &mut dyn Iterator<Item = &ErasedReceiver>) -> Option<Box<dyn KeptEvent>> {
        let Self { value, received } = self;
        to.next().map(|_| Box::new(Payload { value: Arc::clone(value), received: *received }) as _)
    }
}

impl<T: CustomSignal> KeptEvent for Payload<T> {
    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        begin::<T, ()>(to, &self.value, cx)
    }
}

/// The receivers of a signal, and its event. `None` if there is no receiver.
fn receivers_and_event<T: CustomSignal>(
    payload: T,
    is_robust: bool,
) -> Option<(Sending, Payload<T>)> {
    let receivers = T::__table().receivers();
    if receivers.is_none() {
        chain::observe("send", T::SIGNAL);
        if !origin::any() {
            return None;
        }
    }
    let payload = Payload::new(payload);
    recording::sent(&payload.value);
    Some((Sending { signal: T::SIGNAL, receivers: receivers?, is_robust }, payload))
}

async fn send<T: CustomSignal>(payload: T, source: Source<'_>) -> Result<()> {
    match receivers_and_event(payload, false) {
        Some((sending, mut payload)) => sending.run(&mut payload, source).await.map(drop),
        None => Ok(()),
    }
}

/// Sends an event that was received from another service, in the transaction of the connection. Its durable receivers get this id of it.
#[cfg(feature = "durable")]
pub(crate) async fn send_received<T: CustomSignal>(
    payload: T,
    id: u128,
    conn: &mut Conn<'_>,
) -> Result<()> {
    match receivers_and_event(payload, false) {
        Some((sending, payload)) => {
            let mut payload = Payload { received: Some(id), ..payload };
            sending.run(&mut payload, conn.into_source()).await.map(drop)
        }
        None => Ok(()),
    }
}

async fn send_robust<T: CustomSignal>(
    payload: T,
    source: Source<'_>,
) -> Vec<(ReceiverInfo, Result<()>)> {
    match receivers_and_event(payload, true) {
        Some((sending, mut payload)) => sending.named(sending.run(&mut payload, source).await),
        None => Vec::new(),
    }
}

/// The receivers of a custom signal, and how they run.
struct Sending {
    signal: &'static str,
    receivers: Arc<OperationReceivers>,
    /// Whether all receivers run, whatever the others return.
    is_robust: bool,
}

/// The result of each receiver of a robust sending.
type Results = Vec<(Identity, Result<()>)>;

impl Sending {
    /// Runs the receivers. Boxed like the future of a save, so that the caller's future stays small.
    ///
    /// # Errors
    ///
    /// The error of the first receiver that fails, unless the sending is robust. An error if the receivers could not be run, or if
    /// what they have written could not be committed.
    fn run<'s>(
        &'s self,
        event: &'s mut dyn Event,
        source: Source<'s>,
    ) -> BoxFuture<'s, Result<Results>> {
        Box::pin(async move {
            let context = OperationContext::enter("send", self.signal, &source);
            match source {
                Source::Conn(mut conn) if conn.in_transaction() && self.is_robust => {
                    self.run_in_transaction(event, &mut conn, &context?).await
                }
                Source::Conn(mut conn) if conn.in_transaction() => {
                    let guard = FailGuard::of(&mut conn, "send", self.signal);
                    let result =
                        async { self.run_in_transaction(event, guard.conn, &context?).await };
                    let result = result.await;
                    guard.end(result)
                }
                source => self.run_outside_transaction(event, source, &context?).await,
            }
        })
    }

    /// Runs the receivers in the caller's transaction, or in one that this library has begun.
    async fn run_in_transaction(
        &self,
        event: &mut dyn Event,
        conn: &mut Conn<'_>,
        context: &OperationContext,
    ) -> Result<Results> {
        self.check_observable(conn).await?;
        self.check_values(context)?;
        // An adopted transaction takes its turn with its first write.
        if self.needs_transaction() {
            conn.wait_for_turn(Writer::of(Verb::Send, self.signal)).await?;
        }
        // Before the receivers run, so that deliveries queued by their writes come after this one. First what can fail: a robust sending
        // does not mark the transaction as failed.
        if !self.receivers.durable.is_empty() {
            let durable = &self.receivers.durable;
            event_store::store(event, durable, &None, context, conn).await?;
        }
        if let Some(deferred) = self.deferred(event, context) {
            conn.state.defer(deferred);
        }
        self.dispatch(event, Some(conn), context).await
    }

    /// Runs the receivers if the connection is in no transaction.
    async fn run_outside_transaction(
        &self,
        event: &mut dyn Event,
        source: Source<'_>,
        context: &OperationContext,
    ) -> Result<Results> {
        if self.needs_transaction() {
            let mut conn = source.acquire_to_write(Writer::of(Verb::Send, self.signal)).await?;
            self.check_observable(&mut conn).await?;
            return in_transaction(conn, SendingInTransaction { sending: self, event, context })
                .await;
        }
        if let Source::Conn(mut conn) = source {
            self.check_observable(&mut conn).await?;
        }
        self.check_values(context)?;
        let results = self.dispatch(event, None, context).await?;
        if let Some(deferred) = self.deferred(event, context) {
            run_even_if_dropped(context.pool(), deferred.run(End::Committed, None)).await;
        }
        Ok(results)
    }

    /// Whether a receiver may write. The others write nothing that would have to be rolled back.
    fn needs_transaction(&self) -> bool {
        !self.receivers.durable.is_empty()
            || self.receivers.after.iter().any(|receiver| receiver.info.connection)
    }

    async fn dispatch(
        &self,
        event: &mut dyn Event,
        conn: Option<&mut Conn<'_>>,
        context: &OperationContext,
    ) -> Result<Results> {
        let (receivers, previous, lap) = (&self.receivers.after, &None, &mut Lap::default());
        let mut dispatch = Dispatch { event, conn, context, previous, lap };
        match self.is_robust {
            true => Ok(dispatch.run_all(receivers).await),
            false => dispatch.run(receivers).await.map(|()| Vec::new()),
        }
    }

    fn deferred(&self, event: &dyn Event, context: &OperationContext) -> Option<Box<dyn Deferred>> {
        let receivers = &self.receivers.deferred;
        let events = DeferredEvent::of(receivers, event, &None).into_iter().collect();
        DeferredDelivery::of(events, receivers, context)
    }

    /// Checks that the `Db` has what the deferred receivers take. A robust sending runs the others.
    fn check_values(&self, context: &OperationContext) -> Result<()> {
        match self.is_robust {
            true => Ok(()),
            false => check_values(&self.receivers.deferred, None, &None, context),
        }
    }

    async fn check_observable(&self, conn: &mut Conn<'_>) -> Result<()> {
        check_observable(self.signal, self.receivers.needs.deferred, conn).await
    }

    /// The results of a robust sending. If no receiver could run, each has the same error. If all of them would have run later, the error
    /// is theirs, so that it is not lost.
    fn named(&self, results: Result<Results>) -> Vec<(ReceiverInfo, Result<()>)> {
        let results = results.unwrap_or_else(|error| {
            let OperationReceivers { after, deferred, durable, .. } = &*self.receivers;
            let is_any_other = !after.is_empty() || !durable.is_empty();
            let later = if is_any_other { &[] } else { &**deferred };
            let receivers = after.iter().chain(durable).chain(later);
            receivers.map(|receiver| (receiver.info.clone(), Err(error.copied()))).collect()
        });
        results.into_iter().map(|(info, result)| (registry().info(info), result)).collect()
    }
}

/// The sending of a signal in a transaction of its own.
struct SendingInTransaction<'s> {
    sending: &'s Sending,
    event: &'s mut dyn Event,
    context: &'s OperationContext,
}

impl TransactionWork for SendingInTransaction<'_> {
    type Done = Results;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<Results> {
        self.sending.run_in_transaction(self.event, tx, self.context).await
    }

    fn shares_commit(&self) -> bool {
        true
    }
}
