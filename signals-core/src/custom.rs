use std::sync::Arc;

use crate::any::AnyModel;
use crate::conn::Conn;
use crate::context::{self, Call as Operation};
use crate::dispatch::{Postponed, dispatch, dispatch_robust};
use crate::error::{Error, Result};
use crate::executor::{Connects, Source};
use crate::finish::finish;
use crate::receiver::{Entry, Phase};
use crate::registry::{ReceiverInfo, registry};
use crate::signal::{Deferrable, Lifetime, Signal, Subject};
use crate::table::SignalTable;
use crate::testing::recording;
use crate::transaction::{Deferred, End, Transaction};
use crate::unit::{Doubt, Scene};

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
    fn __table() -> &'static SignalTable<Self>;

    /// Runs the receivers in order, to the first error. A transaction is opened around them where one of them needs it and
    /// there is none; those with `on_commit` run after the outermost commit, or at once where there is no transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Receiver`] of the first that fails; what the others did is rolled back. In a transaction of the caller,
    /// it is marked: it can only be rolled back.
    ///
    /// # Cancel safety
    ///
    /// As a save: a dropped future rolls back, or marks the transaction of the caller.
    fn send(self, db: impl Connects) -> impl Future<Output = Result<()>> + Send {
        async move { send(Arc::new(self), db.into_source()).await }
    }

    /// Runs every receiver in order, and returns what became of each, after
    /// [Django's](https://docs.djangoproject.com/en/stable/topics/signals/#sending-signals) `send_robust`. One that takes the
    /// connection has a savepoint of its own, so that what it did is undone where it fails, and nothing else.
    ///
    /// Where there is no connection to be had, that is the result of each.
    fn send_robust(
        self,
        db: impl Connects,
    ) -> impl Future<Output = Vec<(ReceiverInfo, Result<()>)>> + Send {
        async move { send_robust(Arc::new(self), db.into_source()).await }
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

    fn erase<'e, M: AnyModel>(event: &'e Arc<T>, _: Lifetime<'e>) -> &'e Arc<T> {
        event
    }

    fn snapshot<M: AnyModel>(_: &&Arc<T>) -> Option<Arc<T>> {
        None
    }

    fn reborrow<'s, M: ?Sized + Subject>(event: &'s mut &Arc<T>) -> &'s Arc<T> {
        event
    }

    fn replay<M: Send + Sync + 'static>(kept: &Arc<T>) -> &Arc<T> {
        kept
    }
}

#[diagnostic::do_not_recommend]
impl<T: CustomSignal> Deferrable for T {
    fn keep<M: Clone + Send + Sync + 'static>(event: &&Arc<T>) -> Arc<T> {
        Arc::clone(event)
    }
}

/// The receivers of a signal that comes from nobody in particular.
pub(crate) struct Group<S: Signal> {
    pub(crate) inside: Vec<Entry<S, ()>>,
    pub(crate) deferred: Arc<[Entry<S, ()>]>,
}

impl<S: Signal> Group<S> {
    pub(crate) fn of(entries: Vec<Entry<S, ()>>) -> Self {
        let (inside, deferred): (_, Vec<_>) =
            entries.into_iter().partition(|e| e.info.phase == Phase::InTransaction);
        Self { inside, deferred: deferred.into() }
    }

    fn postponed(&self, event: &S::Event<'_, ()>, scene: &Scene) -> Option<Box<dyn Deferred>> {
        Postponed::of(&self.deferred, event, || None, scene, &None)
    }
}

async fn send<T: CustomSignal>(payload: Arc<T>, source: Source<'_>) -> Result<()> {
    recording::sent(&payload);
    let Some(group) = T::__table().receivers() else {
        context::observe("send", T::SIGNAL);
        return Ok(());
    };
    let db = source.db();
    let operation = Operation::enter("send", T::SIGNAL, source.pool_id());
    let scene = operation.map(|operation| Scene { db, operation });
    match source {
        Source::Conn(mut conn) if conn.in_transaction() => {
            let doubt = Doubt::of(&mut conn, "send", T::SIGNAL);
            let done = async { inside(&group, &payload, doubt.conn, &scene?).await };
            let done = done.await;
            doubt.end(done)
        }
        source => Box::pin(outside(&group, &payload, source, &scene?)).await,
    }
}

/// In a transaction that is somebody else's to end, or in our own.
async fn inside<T: CustomSignal>(
    group: &Group<T>,
    payload: &Arc<T>,
    conn: &mut Conn<'_>,
    scene: &Scene,
) -> Result<()> {
    check_observable(group, conn).await?;
    if let Some(postponed) = group.postponed(&payload, scene) {
        conn.scope.defer(postponed);
    }
    dispatch(&group.inside, payload, Some(conn), scene, &None).await
}

async fn outside<T: CustomSignal>(
    group: &Group<T>,
    payload: &Arc<T>,
    source: Source<'_>,
    scene: &Scene,
) -> Result<()> {
    // One that takes no connection has nothing that could be undone.
    if group.inside.iter().any(|e| e.info.connection) {
        let mut conn = source.acquire().await?;
        check_observable(group, &mut conn).await?;
        let mut tx = Transaction::open(conn).await?;
        let done = inside(group, payload, &mut tx, scene).await;
        if let Err(error) = done {
            tx.rollback_or_log().await;
            return Err(error);
        }
        return tx.commit().await.map(drop);
    }
    if let Source::Conn(mut conn) = source {
        check_observable(group, &mut conn).await?;
    }
    dispatch(&group.inside, payload, None, scene, &None).await?;
    if let Some(postponed) = group.postponed(&payload, scene) {
        finish(postponed.run(End::Committed, None)).await;
    }
    Ok(())
}

async fn send_robust<T: CustomSignal>(
    payload: Arc<T>,
    source: Source<'_>,
) -> Vec<(ReceiverInfo, Result<()>)> {
    recording::sent(&payload);
    let Some(group) = T::__table().receivers() else {
        context::observe("send", T::SIGNAL);
        return Vec::new();
    };
    let done = Box::pin(each(&group, &payload, source)).await;
    done.unwrap_or_else(|error| {
        let text = error.to_string();
        let mut first = Some(error);
        let each = group.inside.iter().map(|entry| {
            let error = first.take().unwrap_or_else(|| Error::other(text.clone()));
            (registry().info(entry.info), Err(error))
        });
        each.collect()
    })
}

async fn each<T: CustomSignal>(
    group: &Group<T>,
    payload: &Arc<T>,
    source: Source<'_>,
) -> Result<Vec<(ReceiverInfo, Result<()>)>> {
    let db = source.db();
    let operation = Operation::enter("send", T::SIGNAL, source.pool_id())?;
    let scene = Scene { db, operation };
    let named = |results: Vec<(_, _)>| {
        results.into_iter().map(|(info, done)| (registry().info(info), done)).collect()
    };
    let mut conn = source.acquire().await?;
    check_observable(group, &mut conn).await?;
    let inside = &group.inside;
    if conn.in_transaction() {
        let results = dispatch_robust(inside, payload, Some(&mut conn), &scene).await;
        if let Some(postponed) = group.postponed(&payload, &scene) {
            conn.scope.defer(postponed);
        }
        return Ok(named(results));
    }
    let mut tx = Transaction::open(conn).await?;
    let results = dispatch_robust(inside, payload, Some(&mut *tx), &scene).await;
    if let Some(postponed) = group.postponed(&payload, &scene) {
        tx.scope.defer(postponed);
    }
    tx.commit().await?;
    Ok(named(results))
}

async fn check_observable<T: CustomSignal>(group: &Group<T>, conn: &mut Conn<'_>) -> Result<()> {
    match group.deferred.first() {
        Some(entry) if conn.in_foreign_transaction().await => {
            Err(Error::CommitNotObservable { model: T::SIGNAL, receiver: entry.info.name })
        }
        _ => Ok(()),
    }
}
