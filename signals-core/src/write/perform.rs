//! The way of one write with its receivers: those before it, the statement, those after it, those that wait.
#![expect(
    clippy::manual_async_fn,
    reason = "the arguments of an `async fn` are in its future twice"
)]

use crate::database::state::Autocommit;
use crate::signal::operation_context::OperationContext;
use crate::signal::operation_context::check_observable;
use crate::signal::receivers::Requirements;
use crate::transaction::guard::FailGuard;
use crate::transaction::own::Undoable;
use crate::transaction::own::in_transaction;
use crate::write::TakeAnswer;
use crate::write::restore::RestoreGuard;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::future::{BoxFuture, ready};
use tracing::Span;

use crate::database::conn::Conn;
use crate::database::detached::DetachedStatement;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::signal::rows::SignalRows;
use crate::task::finish::{Detached, finish};
use crate::task::span::traced;
use crate::task::spawn;
use crate::transaction::Transaction;
use crate::write::WriteOutcome;
use crate::write::notify::Notifier;

/// Performs a write that has receivers, and returns what it has done.
///
/// On the heap, and compiled once: a program has many futures that contain a save, and most have no receivers. A receiver
/// that saves is polled inside the save that it receives, and what is on the heap is not on the stack. What it takes there
/// is for the one way that it goes.
pub(crate) fn perform<'u>(
    heard: Notifier,
    rows: &'u mut dyn SignalRows,
    source: Source<'u>,
    span: Span,
) -> BoxFuture<'u, Result<WriteOutcome>> {
    let scene = match OperationContext::enter(heard.unit.verb(), rows.model(), &source) {
        Ok(scene) => scene,
        Err(error) => return refused(&heard, rows, source, error),
    };
    let mut needs = heard.pair.needs;
    match source {
        Source::Conn(conn) if conn.in_transaction() => {
            traced(span, in_callers_transaction(heard, rows, conn, scene, needs))
        }
        source => {
            let settled = heard.pair.before.is_empty();
            needs.transaction |= heard.many && heard.unit.is_several(rows, source.kind(), settled);
            match needs.transaction {
                true => traced(span, in_own_transaction(heard, rows, source, scene, needs)),
                false => traced(span, autocommit(heard, rows, source, scene, needs)),
            }
        }
    }
}

/// A write that is not to be.
fn refused<'u>(
    heard: &Notifier,
    rows: &dyn SignalRows,
    source: Source<'_>,
    error: Error,
) -> BoxFuture<'u, Result<WriteOutcome>> {
    let mut done = Err(error);
    if let Source::Conn(mut conn) = source {
        done = FailGuard::of(&mut conn, heard.unit.verb(), rows.model()).end(done);
    }
    Box::pin(ready(done))
}

/// In a transaction that is somebody else's to end.
fn in_callers_transaction<'u>(
    mut heard: Notifier,
    rows: &'u mut dyn SignalRows,
    mut conn: Conn<'u>,
    scene: OperationContext,
    needs: Requirements,
) -> impl Future<Output = Result<WriteOutcome>> + Send + 'u {
    async move {
        let mut kept = RestoreGuard::of(rows);
        let model = kept.rows.model();
        let doubt = FailGuard::of(&mut conn, heard.unit.verb(), model);
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
fn in_own_transaction<'u>(
    heard: Notifier,
    rows: &'u mut dyn SignalRows,
    mut source: Source<'u>,
    scene: OperationContext,
    needs: Requirements,
) -> impl Future<Output = Result<WriteOutcome>> + Send + 'u {
    async move {
        let kept = RestoreGuard::of(rows);
        prepare(&heard, kept.rows, &mut source, &scene, needs).await?;
        let conn = source.acquire().await?;
        transact(heard, kept, conn, &scene, needs).await
    }
}

/// In a transaction that begins now.
async fn transact<'u>(
    heard: Notifier,
    mut kept: RestoreGuard<'u>,
    conn: Conn<'_>,
    scene: &'u OperationContext,
    needs: Requirements,
) -> Result<WriteOutcome> {
    if !needs.connection_before && !heard.pair.before.is_empty() {
        kept.begins_here();
    }
    in_transaction(conn, Transacted { heard, kept, scene, needs }).await
}

/// A write in a transaction, with those before it that take the connection, and those after it.
struct Transacted<'w> {
    heard: Notifier,
    kept: RestoreGuard<'w>,
    scene: &'w OperationContext,
    needs: Requirements,
}

impl Undoable for Transacted<'_> {
    type Done = WriteOutcome;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<WriteOutcome> {
        let Self { heard, kept, scene, needs } = self;
        if needs.connection_before {
            heard.tell_before(kept.rows, Some(&mut **tx), scene).await?;
        }
        write(heard, kept.rows, tx, scene).await?;
        Ok(std::mem::take(&mut heard.written))
    }

    fn before_commit(&mut self) {
        self.kept.is_done();
    }

    fn commit_refused(&mut self) {
        self.kept.restore();
    }

    fn before_retry(&mut self) {
        self.kept.begins_again();
    }
}

/// One statement that commits itself, and then those that need no transaction, and those that waited for its end.
fn autocommit<'u>(
    mut heard: Notifier,
    rows: &'u mut dyn SignalRows,
    mut source: Source<'u>,
    scene: OperationContext,
    needs: Requirements,
) -> impl Future<Output = Result<WriteOutcome>> + Send + 'u {
    async move {
        // Of several, some are stored and undone again where it is looked for the one that is refused.
        let changes = heard.many || !heard.pair.before.is_empty();
        let mut kept = if changes { RestoreGuard::of(rows) } else { RestoreGuard::alone(rows) };
        prepare(&heard, kept.rows, &mut source, &scene, needs).await?;
        let conn = source.connect().await?;
        let mut written = None;
        if heard.commits_itself(kept.rows, conn).await? {
            if needs.has_after {
                conn.state.autocommit = Autocommit::DetachOnDrop;
            }
            let sent =
                DetachGuard { heard: &mut heard, rows: kept.rows, conn: &mut *conn, scene: &scene };
            let done = sent.heard.write(sent.rows, sent.conn, &scene).await;
            drop(sent);
            if !conn.state.take_needs_transaction(&done) {
                written = Some(done?);
            }
        }
        let Some(written) = written else {
            kept.keep();
            // Not lent: a callback behind the commit may wait for the connection.
            let conn = std::mem::replace(conn, Conn::disconnected());
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
        if needs.after_interruptible
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
    heard: &Notifier,
    rows: &mut dyn SignalRows,
    source: &mut Source<'_>,
    scene: &OperationContext,
    needs: Requirements,
) -> Result<()> {
    if let Source::Conn(conn) = source {
        check_observable(rows.model(), needs.deferred, conn).await?;
    }
    if needs.connection_before { Ok(()) } else { heard.tell_before(rows, None, scene).await }
}

/// The statement and those after it.
async fn write(
    heard: &mut Notifier,
    rows: &mut dyn SignalRows,
    conn: &mut Conn<'_>,
    scene: &OperationContext,
) -> Result<()> {
    heard.written = heard.write(rows, conn, scene).await?;
    if heard.pair.previous {
        heard.before = rows.as_rows_mut().take_previous();
    }
    // Ahead of those that run now, whose own writes come after this one.
    for postponed in heard.postponed(rows, scene) {
        conn.state.defer(postponed);
    }
    heard.tell_after(rows, Some(conn), scene).await
}

/// A statement that commits itself. Where it was sent and its caller is gone, its receivers run on a copy of the rows.
struct DetachGuard<'a, 'c> {
    heard: &'a mut Notifier,
    rows: &'a mut dyn SignalRows,
    conn: &'a mut Conn<'c>,
    scene: &'a OperationContext,
}

impl Drop for DetachGuard<'_, '_> {
    fn drop(&mut self) {
        if self.conn.state.autocommit == Autocommit::DetachOnDrop {
            self.conn.state.autocommit = Autocommit::Plain;
        }
        let Some(detached) = self.conn.state.detached.take() else { return };
        let (copy, model) = (copied(self.rows), self.rows.model());
        let (mut heard, scene) = (self.heard.clone(), self.scene.clone());
        let DetachedStatement { future, runtime, on_detached } = *detached;
        spawn::spawn(&runtime, async move {
            let (mut lease, answer) = future.await;
            lease.note_answer(&answer);
            drop(lease);
            let written = answer.map_err(Error::from).and_then(|answer| match copy {
                Some(mut copy) => Ok((TakeAnswer::take(on_detached, &mut *copy, answer)?, copy)),
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
fn copied(rows: &dyn SignalRows) -> Option<Box<dyn SignalRows>> {
    catch_unwind(AssertUnwindSafe(|| rows.copied())).ok().flatten()
}
