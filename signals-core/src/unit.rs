//! The way of one write with its receivers: those before it, the statement, those after it, those that wait.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::conn::Conn;
use crate::context::Call as Operation;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::finish::finish;
use crate::model::Model;
use crate::receiver::Info;
use crate::transaction::{Deferred, End, Transaction};

/// A save or a delete, without the row that it is of.
pub(crate) trait Unit<M: Model>: Clone + Send + 'static {
    const VERB: &'static str;

    fn needs(&self) -> Needs;

    fn before(
        &self,
        model: &mut M,
        conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> impl Future<Output = Result<()>> + Send;

    fn write(
        &mut self,
        model: &mut M,
        conn: &mut Conn<'_>,
    ) -> impl Future<Output = Result<()>> + Send;

    fn after(
        &self,
        model: &M,
        conn: &mut Conn<'_>,
        scene: &Scene,
    ) -> impl Future<Output = Result<()>> + Send;

    /// What waits for the end of the transaction, if anything does.
    fn postponed(&self, model: &M, scene: &Scene) -> Option<Box<dyn Deferred>>;

    /// A copy of the row, where receivers that wait ask for one.
    fn copy(&self, model: &M) -> Option<M>;
}

/// What the receivers of a write ask of the connection.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    pub(crate) transaction: bool,
    pub(crate) connection_before: bool,
    /// One that waits for the end of the transaction.
    pub(crate) deferred: Option<&'static Info>,
}

/// What every receiver of a write is told.
pub(crate) struct Scene {
    pub(crate) db: Option<Db>,
    pub(crate) operation: Arc<Operation>,
}

/// Performs a write that has receivers.
///
/// On the heap: a program has many futures that contain a save, and most have no receivers. A receiver that saves is
/// polled inside the save that it receives, and what is on the heap is not on the stack.
pub(crate) fn perform<'u, M: Model, U: Unit<M>>(
    unit: &'u mut U,
    model: &'u mut M,
    source: Source<'u>,
) -> BoxFuture<'u, Result<()>> {
    let (db, pool) = (source.db(), source.pool_id());
    let scene = Operation::enter(U::VERB, M::NAME, pool).map(|operation| Scene { db, operation });
    match source {
        Source::Conn(conn) if conn.in_transaction() => Box::pin(inside(unit, model, conn, scene)),
        source => Box::pin(async move { outside(unit, model, source, &scene?).await }),
    }
}

/// In a transaction that is somebody else's to end.
async fn inside<M: Model, U: Unit<M>>(
    unit: &mut U,
    model: &mut M,
    mut conn: Conn<'_>,
    scene: Result<Scene>,
) -> Result<()> {
    let mut row = Row::of(model);
    let doubt = Doubt::of(&mut conn, U::VERB, M::NAME);
    let done = async {
        let scene = scene?;
        check_observable::<M>(unit.needs(), doubt.conn).await?;
        unit.before(row.model, Some(&mut *doubt.conn), &scene).await?;
        write(unit, row.model, doubt.conn, &scene).await
    };
    let done = done.await;
    let done = doubt.end(done);
    if done.is_ok() {
        row.keep();
    }
    done
}

/// Where there is no transaction of ours yet.
async fn outside<M: Model, U: Unit<M>>(
    unit: &mut U,
    model: &mut M,
    source: Source<'_>,
    scene: &Scene,
) -> Result<()> {
    let mut row = Row::of(model);
    let needs = unit.needs();
    let source = match source {
        Source::Conn(mut conn) => {
            check_observable::<M>(needs, &mut conn).await?;
            Source::Conn(conn)
        }
        pool => pool,
    };
    // Before BEGIN, and before a connection is taken: a veto costs nothing.
    if !needs.connection_before {
        unit.before(row.model, None, scene).await?;
    }
    let conn = Box::pin(source.acquire()).await?;
    if !needs.transaction {
        let done = alone(unit, row.model, conn, scene).await;
        if done.is_ok() {
            row.keep();
        }
        return done;
    }
    let mut tx = Transaction::open(conn).await?;
    let done = async {
        if needs.connection_before {
            unit.before(row.model, Some(&mut *tx), scene).await?;
        }
        write(unit, row.model, &mut tx, scene).await
    };
    match done.await {
        Ok(()) => {
            // Dropped from here on, the row may be stored, and its key is what a second save needs.
            let key = row.keep();
            let committed = tx.commit().await.map(drop);
            if !matches!(committed, Ok(()) | Err(Error::CommitUnknown(_))) {
                row.model.__set_pk(key);
            }
            committed
        }
        Err(error) => {
            row.restore();
            tx.rollback_or_log().await;
            Err(error)
        }
    }
}

/// The statement and those after it.
async fn write<M: Model, U: Unit<M>>(
    unit: &mut U,
    model: &mut M,
    conn: &mut Conn<'_>,
    scene: &Scene,
) -> Result<()> {
    unit.write(model, conn).await?;
    // Ahead of those that run now, whose own writes come after this one.
    if let Some(postponed) = unit.postponed(model, scene) {
        conn.scope.defer(postponed);
    }
    unit.after(model, conn, scene).await
}

/// One statement that commits itself, and then those that waited for it.
async fn alone<M: Model, U: Unit<M>>(
    unit: &mut U,
    model: &mut M,
    mut conn: Conn<'_>,
    scene: &Scene,
) -> Result<()> {
    let copy = unit.needs().deferred.and_then(|_| unit.copy(model));
    let detached = if copy.is_some() { conn.detach() } else { None };
    let (Some(mut copy), Some(mut own)) = (copy, detached) else {
        unit.write(model, &mut conn).await?;
        if let Some(postponed) = unit.postponed(model, scene) {
            finish(postponed.run(End::Committed, None)).await;
        }
        return Ok(());
    };
    // A statement that was sent may be stored whether or not anybody waits for it, so it goes on without the caller,
    // on a copy of the row.
    let (mut writer, hold) = (unit.clone(), conn.is_borrowed());
    let scene = Scene { db: scene.db.clone(), operation: Arc::clone(&scene.operation) };
    let (done, writer, copy, own) = finish(async move {
        let done = writer.write(&mut copy, &mut own).await;
        // A receiver may want the connection: back to the pool with it, unless somebody waits for it.
        let own = hold.then_some(own);
        if done.is_ok()
            && let Some(postponed) = writer.postponed(&copy, &scene)
        {
            postponed.run(End::Committed, None).await;
        }
        (done, writer, copy, own)
    })
    .await;
    if let Some(own) = own {
        conn.reattach(own);
    }
    done?;
    *unit = writer;
    model.__set_pk(copy.pk());
    Ok(())
}

async fn check_observable<M: Model>(needs: Needs, conn: &mut Conn<'_>) -> Result<()> {
    match needs.deferred {
        Some(info) if conn.in_foreign_transaction().await => {
            Err(Error::CommitNotObservable { model: M::NAME, receiver: info.name })
        }
        _ => Ok(()),
    }
}

/// A row that has its key back where the write of it fails or is dropped.
struct Row<'m, M: Model> {
    model: &'m mut M,
    key: Option<M::Pk>,
    kept: bool,
}

impl<'m, M: Model> Row<'m, M> {
    fn of(model: &'m mut M) -> Self {
        let key = model.pk();
        Self { model, key, kept: false }
    }

    /// The write is done, and the row stays as it is now. Returns the key that it had.
    fn keep(&mut self) -> Option<M::Pk> {
        self.kept = true;
        self.key.clone()
    }

    fn restore(&mut self) {
        if !std::mem::replace(&mut self.kept, true) {
            self.model.__set_pk(self.key.take());
        }
    }
}

impl<M: Model> Drop for Row<'_, M> {
    fn drop(&mut self) {
        self.restore();
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
