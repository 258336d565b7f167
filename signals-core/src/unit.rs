//! The way of one write with its receivers: those before it, the statement, those after it, those that wait.
#![expect(
    clippy::manual_async_fn,
    reason = "the arguments of an `async fn` are in its future twice"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use tracing::Span;

use crate::backend::DatabaseKind;
use crate::chunk;
use crate::conn::Conn;
use crate::context::Call as Operation;
use crate::db::Db;
use crate::detached;
use crate::error::{Error, Reason, Result};
use crate::executor::Source;
use crate::finish::{Detached, finish};
use crate::going::Left;
use crate::heard::{Heard, Written};
use crate::instances::Instances;
use crate::own_transaction::{Undoable, in_transaction};
use crate::receiver::Info;
use crate::save::Verb;
use crate::scope::Alone;
use crate::statements::Group;
use crate::trace::traced;
use crate::transaction::Transaction;

/// What is done to rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unit {
    Save(Verb),
    Delete,
}

impl Unit {
    /// As the chain of a recursion and the reason of a rollback call it.
    fn verb(&self) -> &'static str {
        match self {
            Self::Save(_) => "save",
            Self::Delete => "delete",
        }
    }

    /// Whether several rows are more than one statement, of which all or none are to be stored.
    fn is_several(&self, rows: &dyn Instances, kind: DatabaseKind, settled: bool) -> bool {
        match self {
            // A receiver before the statement can still give a row its key, which decides how many statements there are.
            Self::Save(Verb::Insert) if settled => chunk::inserts(kind, rows).len() != 1,
            Self::Save(_) => true,
            // SQLite is asked first which rows are there, and a version that is not the stored one undoes the others.
            Self::Delete => {
                let versioned = rows.statements().has(Group::Version);
                kind == DatabaseKind::Sqlite || versioned || chunk::deletes(kind, rows).len() != 1
            }
        }
    }
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

impl Scene {
    /// # Errors
    ///
    /// [`Error::Recursion`] where the chain is as long as the limit.
    pub(crate) fn enter(verb: &'static str, of: &'static str, source: &Source<'_>) -> Result<Self> {
        let operation = Operation::enter(verb, of, source.pool_id())?;
        Ok(Self { db: source.db(), operation })
    }
}

/// Performs a write that has receivers, and returns what it has done.
///
/// On the heap, and compiled once: a program has many futures that contain a save, and most have no receivers. A receiver
/// that saves is polled inside the save that it receives, and what is on the heap is not on the stack. What it takes there
/// is for the one way that it goes.
pub(crate) fn perform<'u>(
    heard: Heard,
    rows: &'u mut dyn Instances,
    source: Source<'u>,
    span: Span,
) -> BoxFuture<'u, Result<Written>> {
    let scene = match Scene::enter(heard.unit.verb(), rows.model(), &source) {
        Ok(scene) => scene,
        Err(error) => return refused(&heard, rows, source, error),
    };
    let mut needs = heard.pair.needs;
    match source {
        Source::Conn(conn) if conn.in_transaction() => {
            traced(span, inside(heard, rows, conn, scene, needs))
        }
        source => {
            let settled = heard.pair.before.is_empty();
            needs.transaction |= heard.many && heard.unit.is_several(rows, source.kind(), settled);
            match needs.transaction {
                true => traced(span, outside(heard, rows, source, scene, needs)),
                false => traced(span, alone(heard, rows, source, scene, needs)),
            }
        }
    }
}

/// A write that is not to be.
fn refused<'u>(
    heard: &Heard,
    rows: &dyn Instances,
    source: Source<'_>,
    error: Error,
) -> BoxFuture<'u, Result<Written>> {
    let mut done = Err(error);
    if let Source::Conn(mut conn) = source {
        done = Doubt::of(&mut conn, heard.unit.verb(), rows.model()).end(done);
    }
    Box::pin(ready(done))
}

/// In a transaction that is somebody else's to end.
fn inside<'u>(
    mut heard: Heard,
    rows: &'u mut dyn Instances,
    mut conn: Conn<'u>,
    scene: Scene,
    needs: Needs,
) -> impl Future<Output = Result<Written>> + Send + 'u {
    async move {
        let mut kept = Kept::of(rows);
        let model = kept.rows.model();
        let doubt = Doubt::of(&mut conn, heard.unit.verb(), model);
        let done = async {
            check_observable(model, needs.deferred, doubt.conn).await?;
            heard.tell_before(kept.rows, Some(&mut *doubt.conn), &scene).await?;
            write(&mut heard, kept.rows, doubt.conn, &scene).await
        };
        let done = done.await;
        doubt.end(done)?;
        kept.is_done();
        Ok(heard.written)
    }
}

/// In a transaction of ours.
fn outside<'u>(
    heard: Heard,
    rows: &'u mut dyn Instances,
    mut source: Source<'u>,
    scene: Scene,
    needs: Needs,
) -> impl Future<Output = Result<Written>> + Send + 'u {
    async move {
        let kept = Kept::of(rows);
        prepare(&heard, kept.rows, &mut source, &scene, needs).await?;
        let conn = source.acquire().await?;
        transact(heard, kept, conn, &scene, needs).await
    }
}

/// In a transaction that begins now.
async fn transact<'u>(
    heard: Heard,
    mut kept: Kept<'u>,
    conn: Conn<'_>,
    scene: &'u Scene,
    needs: Needs,
) -> Result<Written> {
    if !needs.connection_before && !heard.pair.before.is_empty() {
        kept.begins_here();
    }
    in_transaction(conn, Transacted { heard, kept, scene, needs }).await
}

/// A write in a transaction, with those before it that take the connection, and those after it.
struct Transacted<'w> {
    heard: Heard,
    kept: Kept<'w>,
    scene: &'w Scene,
    needs: Needs,
}

impl Undoable for Transacted<'_> {
    type Done = Written;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<Written> {
        let Self { heard, kept, scene, needs } = self;
        if needs.connection_before {
            heard.tell_before(kept.rows, Some(&mut **tx), scene).await?;
        }
        write(heard, kept.rows, tx, scene).await?;
        Ok(std::mem::take(&mut heard.written))
    }

    fn commits(&mut self) {
        self.kept.is_done();
    }

    fn is_refused(&mut self) {
        self.kept.restore();
    }

    fn begins_again(&mut self) {
        self.kept.begins_again();
    }
}

/// One statement that commits itself, and then those that need no transaction, and those that waited for its end.
fn alone<'u>(
    mut heard: Heard,
    rows: &'u mut dyn Instances,
    mut source: Source<'u>,
    scene: Scene,
    needs: Needs,
) -> impl Future<Output = Result<Written>> + Send + 'u {
    async move {
        // Of several, some are stored and undone again where it is looked for the one that is refused.
        let changes = heard.many || !heard.pair.before.is_empty();
        let mut kept = if changes { Kept::of(rows) } else { Kept::alone(rows) };
        prepare(&heard, kept.rows, &mut source, &scene, needs).await?;
        let conn = source.connect().await?;
        let mut written = None;
        if heard.commits_itself(kept.rows, conn).await? {
            if needs.followed {
                conn.scope.alone = Alone::Outlives;
            }
            let sent = Sent { heard: &mut heard, rows: kept.rows, conn: &mut *conn, scene: &scene };
            let done = sent.heard.write(sent.rows, sent.conn, &scene).await;
            drop(sent);
            if !conn.scope.take_needs_transaction(&done) {
                written = Some(done?);
            }
        }
        let Some(written) = written else {
            kept.keep();
            // Not lent: a callback behind the commit may wait for the connection.
            let conn = std::mem::replace(conn, Conn::gone());
            return Box::pin(transact(heard, kept, conn, &scene, needs)).await;
        };
        heard.written = written;
        // Stored, whatever becomes of the receivers.
        kept.is_done();
        // A receiver may want the connection: back to the pool with it, unless somebody waits for it.
        if !conn.is_borrowed() {
            drop(conn.detach());
        }
        // Where a `Clone` panics, the receivers run here, and are lost where this is dropped.
        if needs.lingers
            && let Some(mut copy) = copied(kept.rows)
        {
            let (heard, scene) = (heard.clone(), scene.clone());
            finish(async move { heard.tell_alone(&mut *copy, &scene).await }).await?;
        } else {
            heard.tell_alone(kept.rows, &scene).await?;
        }
        Ok(heard.written)
    }
}

/// Those before the statement, where they need no connection. None is taken before: a veto costs nothing.
async fn prepare(
    heard: &Heard,
    rows: &mut dyn Instances,
    source: &mut Source<'_>,
    scene: &Scene,
    needs: Needs,
) -> Result<()> {
    if let Source::Conn(conn) = source {
        check_observable(rows.model(), needs.deferred, conn).await?;
    }
    if needs.connection_before { Ok(()) } else { heard.tell_before(rows, None, scene).await }
}

/// The statement and those after it.
async fn write(
    heard: &mut Heard,
    rows: &mut dyn Instances,
    conn: &mut Conn<'_>,
    scene: &Scene,
) -> Result<()> {
    heard.written = heard.write(rows, conn, scene).await?;
    if heard.pair.previous {
        heard.before = rows.take_before();
    }
    // Ahead of those that run now, whose own writes come after this one.
    for postponed in heard.postponed(rows, scene) {
        conn.scope.defer(postponed);
    }
    heard.tell_after(rows, Some(conn), scene).await
}

/// A statement that commits itself. Where it was sent and its caller is gone, its receivers run on a copy of the rows.
struct Sent<'a, 'c> {
    heard: &'a mut Heard,
    rows: &'a mut dyn Instances,
    conn: &'a mut Conn<'c>,
    scene: &'a Scene,
}

impl Drop for Sent<'_, '_> {
    fn drop(&mut self) {
        if self.conn.scope.alone == Alone::Outlives {
            self.conn.scope.alone = Alone::Plain;
        }
        let Some(left) = self.conn.scope.left.take() else { return };
        let (copy, model) = (copied(self.rows), self.rows.model());
        let (mut heard, scene) = (self.heard.clone(), self.scene.clone());
        let Left { sent, runtime, heir } = *left;
        detached::spawn(&runtime, async move {
            let (mut pooled, answer) = sent.await;
            pooled.ended(&answer);
            drop(pooled);
            let written = answer.map_err(Error::from).and_then(|answer| match copy {
                Some(mut copy) => Ok((heir(&mut *copy, answer)?, copy)),
                None => Err(Error::other("the row could not be copied for its receivers")),
            });
            match written {
                Ok((written, mut copy)) => {
                    heard.written = written;
                    heard.tell_alone(&mut *copy, &scene).await.log();
                }
                Err(error) => {
                    tracing::error!(
                        model,
                        error = format_args!("{error:#}"),
                        "a write that nobody waits for has told no receiver"
                    );
                }
            }
        });
    }
}

/// A copy of the rows; none where a `Clone` panics.
fn copied(rows: &dyn Instances) -> Option<Box<dyn Instances>> {
    catch_unwind(AssertUnwindSafe(|| rows.copied())).ok().flatten()
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
        Some(info) if conn.in_foreign_transaction().await? => {
            Err(Error::CommitNotObservable { model, receiver: info.name })
        }
        _ => Ok(()),
    }
}

/// Rows that have their keys, versions and automatic columns back where the write of them fails or is dropped.
pub(crate) struct Kept<'m> {
    pub(crate) rows: &'m mut dyn Instances,
    done: bool,
    /// How often it was noted what a write can change in the rows.
    notes: usize,
}

impl<'m> Kept<'m> {
    pub(crate) fn of(rows: &'m mut dyn Instances) -> Self {
        rows.keep();
        Self { rows, done: false, notes: 1 }
    }

    /// Where nobody but the statement changes the row. A key alone is set when that is through.
    pub(crate) fn alone(rows: &'m mut dyn Instances) -> Self {
        match rows.statements().is_only_key() {
            true => Self { rows, done: true, notes: 0 },
            false => Self::of(rows),
        }
    }

    /// As [`of`](Self::of), also if this is of a row that only the statement changes.
    fn keep(&mut self) {
        if std::mem::take(&mut self.done) {
            self.begins_here();
        }
    }

    /// The rows are as the work in a transaction finds them: receivers may have changed them before.
    fn begins_here(&mut self) {
        self.rows.keep();
        self.notes += 1;
    }

    /// The write is done, and the rows stay as they are now.
    pub(crate) fn is_done(&mut self) {
        self.done = true;
    }

    pub(crate) fn restore(&mut self) {
        (0..self.notes).for_each(|_| self.rows.restore());
    }

    /// Brings the rows back to what the work in a transaction has found.
    pub(crate) fn begins_again(&mut self) {
        self.rows.restore();
        self.rows.keep();
        // What was read and decided on the way is not restored.
        self.rows.set_order(Vec::new());
        self.rows.before().clear();
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.restore();
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
    /// Whether nothing in the transaction had failed before.
    first: bool,
}

impl<'d, 'c> Doubt<'d, 'c> {
    pub(crate) fn of(conn: &'d mut Conn<'c>, verb: &'static str, model: &'static str) -> Self {
        let first = !conn.scope.has_failed();
        Self { conn, verb, model, armed: true, first }
    }

    pub(crate) fn end<T>(mut self, done: Result<T>) -> Result<T> {
        self.armed = false;
        let (verb, model) = (self.verb, self.model);
        if let Err(error) = &done {
            // A statement that failed in this write has marked the transaction already. The error of the write tells more:
            // it names the model, and has the receiver's own error.
            if self.first && !error.is_in_failed_transaction() {
                self.conn.scope.forget_failure();
            }
            self.conn.scope.fail(|| Reason::of(verb, model, error));
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
                .fail(|| format!("the {verb} of `{model}` was dropped before it was done").into());
        }
    }
}
