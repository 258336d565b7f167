//! The way of one write with its receivers: those before it, the statement, those after it, those that wait.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tracing::{Instrument, Span};

use crate::backend::DatabaseKind;
use crate::conn::Conn;
use crate::context::Call as Operation;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::finish::finish;
use crate::instances::Instances;
use crate::receiver::Info;
use crate::transaction::{Deferred, End, Transaction, run_all};

/// A save or a delete, without the rows that it is of.
pub(crate) trait Unit: Clone + Send + Sync + 'static {
    const VERB: &'static str;

    fn needs(&self, rows: &dyn Instances, kind: DatabaseKind) -> Needs;

    fn before(
        &self,
        rows: &mut dyn Instances,
        conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> impl Future<Output = Result<()>> + Send;

    fn write(
        &mut self,
        rows: &mut dyn Instances,
        conn: &mut Conn<'_>,
    ) -> impl Future<Output = Result<()>> + Send;

    fn after(
        &self,
        rows: &mut dyn Instances,
        conn: &mut Conn<'_>,
        scene: &Scene,
    ) -> impl Future<Output = Result<()>> + Send;

    /// What waits for the end of the transaction.
    fn postponed(&self, rows: &mut dyn Instances, scene: &Scene) -> Vec<Box<dyn Deferred>>;
}

/// What the receivers of a write ask of the connection.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    pub(crate) transaction: bool,
    pub(crate) connection_before: bool,
    /// Whether there is one behind the statement at all.
    pub(crate) followed: bool,
    /// One that waits for the end of the transaction.
    pub(crate) deferred: Option<&'static Info>,
}

/// What every receiver of a write is told.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) db: Option<Db>,
    pub(crate) operation: Arc<Operation>,
}

/// Does something in a span, where anybody is told of it.
pub(crate) fn traced<'t, T>(
    span: Span,
    work: impl Future<Output = T> + Send + 't,
) -> BoxFuture<'t, T> {
    if span.is_disabled() { Box::pin(work) } else { Box::pin(work.instrument(span)) }
}

/// Performs a write that has receivers, and returns what has become of it.
///
/// On the heap: a program has many futures that contain a save, and most have no receivers. A receiver that saves is
/// polled inside the save that it receives, and what is on the heap is not on the stack.
pub(crate) fn perform<'u, U: Unit>(
    mut unit: U,
    rows: &'u mut dyn Instances,
    source: Source<'u>,
    span: Span,
) -> BoxFuture<'u, Result<U>> {
    let (db, pool) = (source.db(), source.pool_id());
    let scene = Operation::enter(U::VERB, rows.model(), pool);
    let scene = scene.map(|operation| Scene { db, operation });
    match source {
        Source::Conn(conn) if conn.in_transaction() => traced(span, async move {
            inside(&mut unit, rows, conn, scene).await?;
            Ok(unit)
        }),
        source => traced(span, async move {
            outside(&mut unit, rows, source, &scene?).await?;
            Ok(unit)
        }),
    }
}

/// In a transaction that is somebody else's to end.
async fn inside<U: Unit>(
    unit: &mut U,
    rows: &mut dyn Instances,
    mut conn: Conn<'_>,
    scene: Result<Scene>,
) -> Result<()> {
    let mut kept = Kept::of(rows);
    let model = kept.rows.model();
    let doubt = Doubt::of(&mut conn, U::VERB, model);
    let done = async {
        let scene = scene?;
        let needs = unit.needs(kept.rows, doubt.conn.kind());
        check_observable(model, needs.deferred, doubt.conn).await?;
        unit.before(kept.rows, Some(&mut *doubt.conn), &scene).await?;
        write(unit, kept.rows, doubt.conn, &scene).await
    };
    let done = done.await;
    let done = doubt.end(done);
    if done.is_ok() {
        kept.is_done();
    }
    done
}

/// Where there is no transaction of ours yet.
async fn outside<U: Unit>(
    unit: &mut U,
    rows: &mut dyn Instances,
    source: Source<'_>,
    scene: &Scene,
) -> Result<()> {
    let mut kept = Kept::of(rows);
    let needs = unit.needs(kept.rows, source.kind());
    let source = match source {
        Source::Conn(mut conn) => {
            check_observable(kept.rows.model(), needs.deferred, &mut conn).await?;
            Source::Conn(conn)
        }
        pool => pool,
    };
    // Before BEGIN, and before a connection is taken: a veto costs nothing.
    if !needs.connection_before {
        unit.before(kept.rows, None, scene).await?;
    }
    let conn = match source {
        Source::Conn(conn) => conn,
        pool => pool.acquire().await?,
    };
    if !needs.transaction {
        let received = alone(unit, kept.rows, conn, scene, needs.followed).await?;
        kept.is_done();
        return received;
    }
    let mut tx = Transaction::open(conn).await?;
    let done = async {
        if needs.connection_before {
            unit.before(kept.rows, Some(&mut *tx), scene).await?;
        }
        write(unit, kept.rows, &mut tx, scene).await
    };
    match done.await {
        Ok(()) => {
            // Dropped from here on, the row may be stored, and its key is what a second save needs.
            kept.is_done();
            let committed = tx.commit().await.map(drop);
            if !matches!(committed, Ok(()) | Err(Error::CommitUnknown(_))) {
                kept.rows.restore();
            }
            committed
        }
        Err(error) => {
            drop(kept);
            tx.rollback_or_log().await;
            Err(error)
        }
    }
}

/// The statement and those after it.
async fn write<U: Unit>(
    unit: &mut U,
    rows: &mut dyn Instances,
    conn: &mut Conn<'_>,
    scene: &Scene,
) -> Result<()> {
    unit.write(rows, conn).await?;
    // Ahead of those that run now, whose own writes come after this one.
    for postponed in unit.postponed(rows, scene) {
        conn.scope.defer(postponed);
    }
    unit.after(rows, conn, scene).await
}

/// One statement that commits itself, and then those that need no transaction, and those that waited for its end. Where
/// it is stored this is `Ok`, with what has become of the receivers.
async fn alone<U: Unit>(
    unit: &mut U,
    rows: &mut dyn Instances,
    mut conn: Conn<'_>,
    scene: &Scene,
    followed: bool,
) -> Result<Result<()>> {
    let copy = if followed { rows.copied() } else { None };
    let detached = if copy.is_some() { conn.detach() } else { None };
    let (Some(mut copy), Some(mut own)) = (copy, detached) else {
        let received = write_and_tell(unit, rows, &mut conn, scene).await?;
        let postponed = unit.postponed(rows, scene);
        if !postponed.is_empty() {
            finish(run_all(postponed, End::Committed, None)).await;
        }
        return Ok(received);
    };
    // A statement that was sent may be stored whether or not anybody waits for it, so it goes on without the caller,
    // on a copy of the rows.
    let (mut writer, hold, scene) = (unit.clone(), conn.is_borrowed(), scene.clone());
    let (done, writer, copy, own) = finish(async move {
        let done = write_and_tell(&mut writer, &mut *copy, &mut own, &scene).await;
        // A receiver may want the connection: back to the pool with it, unless somebody waits for it.
        let own = hold.then_some(own);
        if done.is_ok() {
            run_all(writer.postponed(&mut *copy, &scene), End::Committed, None).await;
        }
        (done, writer, copy, own)
    })
    .await;
    if let Some(own) = own {
        conn.reattach(own);
    }
    let received = done?;
    *unit = writer;
    rows.follow(&*copy);
    Ok(received)
}

/// The statement, and those that run behind it. Where it is stored this is `Ok`, with what has become of them.
async fn write_and_tell<U: Unit>(
    unit: &mut U,
    rows: &mut dyn Instances,
    conn: &mut Conn<'_>,
    scene: &Scene,
) -> Result<Result<()>> {
    unit.write(rows, conn).await?;
    Ok(unit.after(rows, conn, scene).await)
}

/// # Errors
///
/// [`Error::CommitNotObservable`] where somebody waits for the end of a transaction that is sqlx's own.
pub(crate) async fn check_observable(
    model: &'static str,
    deferred: Option<&'static Info>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    match deferred {
        Some(info) if conn.in_foreign_transaction().await => {
            Err(Error::CommitNotObservable { model, receiver: info.name })
        }
        _ => Ok(()),
    }
}

/// Rows that have their keys, versions and automatic columns back where the write of them fails or is dropped.
pub(crate) struct Kept<'m> {
    pub(crate) rows: &'m mut dyn Instances,
    done: bool,
}

impl<'m> Kept<'m> {
    pub(crate) fn of(rows: &'m mut dyn Instances) -> Self {
        rows.keep();
        Self { rows, done: false }
    }

    /// Where nobody but the statement changes the row. A key alone is set when that is through.
    pub(crate) fn alone(rows: &'m mut dyn Instances) -> Self {
        if rows.statements().is_only_key() { Self { rows, done: true } } else { Self::of(rows) }
    }

    /// The write is done, and the rows stay as they are now.
    pub(crate) fn is_done(&mut self) {
        self.done = true;
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.rows.restore();
        }
    }
}

/// A write in a transaction that is somebody else's to end: where it fails, or is dropped half-way, the transaction
/// can only be rolled back.
pub(crate) struct Doubt<'d, 'c> {
    pub(crate) conn: &'d mut Conn<'c>,
    verb: &'static str,
    model: &'static str,
    armed: bool,
}

impl<'d, 'c> Doubt<'d, 'c> {
    pub(crate) fn of(conn: &'d mut Conn<'c>, verb: &'static str, model: &'static str) -> Self {
        Self { conn, verb, model, armed: true }
    }

    pub(crate) fn end<T>(mut self, done: Result<T>) -> Result<T> {
        self.armed = false;
        let (verb, model) = (self.verb, self.model);
        if let Err(error) = &done {
            self.conn
                .scope
                .fail(|| format!("the {verb} of `{model}` failed: {}", error.with_causes()));
        }
        done
    }
}

impl Drop for Doubt<'_, '_> {
    fn drop(&mut self) {
        if self.armed {
            let (verb, model) = (self.verb, self.model);
            self.conn
                .scope
                .fail(|| format!("the {verb} of `{model}` was dropped before it was done"));
        }
    }
}
