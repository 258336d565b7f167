//! The way of one write with its receivers: those before it, the statement, those after it, those that wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
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
use crate::going::Left;
use crate::heard::{Heard, Written};
use crate::instances::Instances;
use crate::receiver::Info;
use crate::transaction::Transaction;

/// A save or a delete, without the rows that it is of.
pub(crate) trait Unit: Send + Sync {
    const VERB: &'static str;

    /// Whether it is more than one statement, of which all or none are to be stored.
    fn is_several(&self, rows: &dyn Instances, kind: DatabaseKind, heard: &Heard) -> bool;

    fn write(
        &self,
        rows: &mut dyn Instances,
        conn: &mut Conn<'_>,
        heard: &Heard,
    ) -> impl Future<Output = Result<Written>> + Send;
}

/// What the receivers of a write ask of the connection.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    pub(crate) transaction: bool,
    pub(crate) connection_before: bool,
    /// Whether there is one behind the statement at all.
    pub(crate) followed: bool,
    /// Whether one behind it, that needs no transaction, can be dropped while it runs.
    pub(crate) lingers: bool,
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

/// Performs a write that has receivers, and returns what it has done.
///
/// On the heap: a program has many futures that contain a save, and most have no receivers. A receiver that saves is
/// polled inside the save that it receives, and what is on the heap is not on the stack.
pub(crate) fn perform<'u, U: Unit + 'u>(
    unit: U,
    heard: Heard,
    rows: &'u mut dyn Instances,
    source: Source<'u>,
    span: Span,
) -> BoxFuture<'u, Result<Written>> {
    let (db, pool) = (source.db(), source.pool_id());
    let scene = Operation::enter(U::VERB, rows.model(), pool);
    let scene = scene.map(|operation| Scene { db, operation });
    match source {
        Source::Conn(conn) if conn.in_transaction() => {
            traced(span, inside(unit, heard, rows, conn, scene))
        }
        source => traced(span, async move { outside(unit, heard, rows, source, &scene?).await }),
    }
}

/// In a transaction that is somebody else's to end.
async fn inside<U: Unit>(
    unit: U,
    mut heard: Heard,
    rows: &mut dyn Instances,
    mut conn: Conn<'_>,
    scene: Result<Scene>,
) -> Result<Written> {
    let mut kept = Kept::of(rows);
    let model = kept.rows.model();
    let doubt = Doubt::of(&mut conn, U::VERB, model);
    let done = async {
        let scene = scene?;
        let deferred = heard.pair.needs(kept.rows.can_copy()).deferred;
        check_observable(model, deferred, doubt.conn).await?;
        heard.tell_before(kept.rows, Some(&mut *doubt.conn), &scene).await?;
        write(&unit, &mut heard, kept.rows, doubt.conn, &scene).await
    };
    let done = done.await;
    doubt.end(done)?;
    kept.is_done();
    Ok(heard.written)
}

/// Where there is no transaction of ours yet.
async fn outside<U: Unit>(
    unit: U,
    mut heard: Heard,
    rows: &mut dyn Instances,
    source: Source<'_>,
    scene: &Scene,
) -> Result<Written> {
    let mut needs = heard.pair.needs(rows.can_copy());
    needs.transaction |= heard.many && unit.is_several(rows, source.kind(), &heard);
    // Of several, some are stored and undone again where it is looked for the one that is refused.
    let changes = heard.many || needs.transaction || !heard.pair.before.is_empty();
    let mut kept = if changes { Kept::of(rows) } else { Kept::alone(rows) };
    let source = match source {
        Source::Conn(mut conn) => {
            check_observable(kept.rows.model(), needs.deferred, &mut conn).await?;
            Source::Conn(conn)
        }
        pool => pool,
    };
    // Before BEGIN, and before a connection is taken: a veto costs nothing.
    if !needs.connection_before {
        heard.tell_before(kept.rows, None, scene).await?;
    }
    let conn = match source {
        Source::Conn(conn) => conn,
        pool => pool.acquire().await?,
    };
    if !needs.transaction {
        let received = alone(&unit, &mut heard, kept.rows, conn, scene, needs).await?;
        kept.is_done();
        return received.map(|()| heard.written);
    }
    let mut tx = Transaction::open(conn).await?;
    let done = async {
        if needs.connection_before {
            heard.tell_before(kept.rows, Some(&mut *tx), scene).await?;
        }
        write(&unit, &mut heard, kept.rows, &mut tx, scene).await
    };
    match done.await {
        Ok(()) => {
            // Dropped from here on, the row may be stored, and its key is what a second save needs.
            kept.is_done();
            let committed = tx.commit().await.map(drop);
            if !matches!(committed, Ok(()) | Err(Error::CommitUnknown(_))) {
                kept.rows.restore();
            }
            committed.map(|()| heard.written)
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
    unit: &U,
    heard: &mut Heard,
    rows: &mut dyn Instances,
    conn: &mut Conn<'_>,
    scene: &Scene,
) -> Result<()> {
    heard.written = unit.write(rows, conn, heard).await?;
    if heard.pair.previous {
        heard.before = rows.take_before();
    }
    // Ahead of those that run now, whose own writes come after this one.
    for postponed in heard.postponed(rows, scene) {
        conn.scope.defer(postponed);
    }
    heard.tell_after(rows, Some(conn), scene).await
}

/// One statement that commits itself, and then those that need no transaction, and those that waited for its end. Where
/// it is stored this is `Ok`, with what has become of the receivers.
async fn alone<U: Unit>(
    unit: &U,
    heard: &mut Heard,
    rows: &mut dyn Instances,
    mut conn: Conn<'_>,
    scene: &Scene,
    needs: Needs,
) -> Result<Result<()>> {
    conn.scope.outlives = needs.followed;
    let alone = Alone { heard, rows, conn: &mut conn, scene };
    alone.heard.written = unit.write(alone.rows, alone.conn, alone.heard).await?;
    drop(alone);
    // A receiver may want the connection: back to the pool with it, unless somebody waits for it.
    if !conn.is_borrowed() {
        drop(conn.detach());
    }
    if needs.lingers
        && let Some(mut copy) = rows.copied()
    {
        let (heard, scene) = (heard.clone(), scene.clone());
        return Ok(finish(async move { heard.tell_alone(&mut *copy, &scene).await }).await);
    }
    Ok(heard.tell_alone(rows, scene).await)
}

/// A statement that commits itself. Where it was sent and its caller is gone, its receivers run on a copy of the rows.
struct Alone<'a, 'c> {
    heard: &'a mut Heard,
    rows: &'a mut dyn Instances,
    conn: &'a mut Conn<'c>,
    scene: &'a Scene,
}

impl Drop for Alone<'_, '_> {
    fn drop(&mut self) {
        self.conn.scope.outlives = false;
        let Some(left) = self.conn.scope.left.take() else { return };
        // A `Clone` that panics must not do so here.
        let copy = catch_unwind(AssertUnwindSafe(|| self.rows.copied()));
        let (mut heard, scene) = (self.heard.clone(), self.scene.clone());
        let Left { sent, runtime, heir } = *left;
        runtime.spawn(async move {
            let (mut pooled, answer) = sent.await;
            pooled.ended(&answer);
            drop(pooled);
            let Ok(Some(mut copy)) = copy else { return };
            let written = answer.map_err(Error::from).and_then(|answer| heir(&mut *copy, answer));
            if let Ok(written) = written {
                heard.written = written;
                // Whatever became of them is in the log by now.
                let _ = heard.tell_alone(&mut *copy, &scene).await;
            }
        });
    }
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
