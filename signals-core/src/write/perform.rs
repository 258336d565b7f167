//! Performs one write with its receivers: those before the statement, the statement itself, those
//! after it, and those deferred to the end of the transaction.
#![expect(
    clippy::manual_async_fn,
    reason = "the future of an `async fn` stores each argument twice"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::future::{BoxFuture, ready};
use tracing::Span;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::detached::DetachedStatement;
use crate::database::source::Source;
use crate::database::state::Autocommit;
use crate::database::writer::Writer;
use crate::error::{Error, Result};
use crate::signal::operation_context::OperationContext;
use crate::signal::rows::SignalRows;
use crate::task::finish::{Detached, run_even_if_dropped};
use crate::task::spawn;
use crate::transaction::Transaction;
use crate::transaction::guard::FailGuard;
use crate::transaction::own::{TransactionWork, in_savepoint, in_transaction};
use crate::write::notify::Notifier;
use crate::write::restore::RestoreGuard;
use crate::write::span::{measured, record_system};
use crate::write::{TakeAnswer, WriteOutcome, track, with_deliveries};

/// Performs a write that has receivers.
///
/// The future is boxed to keep callers' futures small, since most saves have no receivers and never
/// take this path. Boxing also limits stack use if a receiver saves, because that save is polled
/// inside the save that notified the receiver. Each path is boxed separately, so the allocation is
/// only as large as the path taken. [`autocommit`], the usual one, is kept to about 1 kB, because the
/// allocator of glibc caches freed blocks of up to 1032 bytes for each thread.
pub(crate) fn perform<'u>(
    notifier: Notifier,
    rows: &'u mut dyn SignalRows,
    source: Source<'u>,
    span: Span,
) -> BoxFuture<'u, Result<WriteOutcome>> {
    let context = match OperationContext::enter(notifier.kind.verb(), rows.model(), &source) {
        Ok(context) => context,
        Err(error) => return reject(&notifier, rows, source, error),
    };
    record_system(&span, source.kind());
    let kind = &notifier.kind;
    let statement = kind.statement(rows.as_rows());
    let about = (rows.receivers(), kind.verb(), rows.model(), statement);
    match source {
        Source::Conn(conn) if conn.in_transaction() => {
            let write = in_callers_transaction(notifier, rows, conn, context);
            measured(span, about, write)
        }
        source => {
            let settled = notifier.receivers.before.is_empty();
            let needs = &notifier.receivers.needs;
            let may_store_with_row =
                needs.only_stores && !notifier.many && source.kind() == DatabaseKind::Postgres;
            let needs_transaction = needs.transaction && !may_store_with_row
                || notifier.receivers.lacks_later_values(&context)
                || notifier.many && notifier.kind.needs_transaction(rows, source.kind(), settled);
            match needs_transaction {
                true => {
                    let write = in_own_transaction(notifier, rows, source, context);
                    measured(span, about, write)
                }
                false => measured(span, about, autocommit(notifier, rows, source, context)),
            }
        }
    }
}

/// Rejects a write that exceeds the recursion limit, and marks the caller's transaction, if any, as
/// failed.
fn reject<'u>(
    notifier: &Notifier,
    rows: &dyn SignalRows,
    source: Source<'_>,
    error: Error,
) -> BoxFuture<'u, Result<WriteOutcome>> {
    let mut done = Err(error);
    if let Source::Conn(mut conn) = source {
        done = FailGuard::of(&mut conn, notifier.kind.verb(), rows.model()).end(done);
    }
    Box::pin(ready(done))
}

/// Performs the write in the caller's transaction.
fn in_callers_transaction<'u>(
    mut notifier: Notifier,
    rows: &'u mut dyn SignalRows,
    mut conn: Conn<'u>,
    context: OperationContext,
) -> impl Future<Output = Result<WriteOutcome>> + Send + 'u {
    async move {
        let mut restore_guard = RestoreGuard::new(rows);
        let model = restore_guard.rows.model();
        let fail_guard = FailGuard::of(&mut conn, notifier.kind.verb(), model);
        let writer = Writer::of(notifier.kind.write_verb(), model);
        let done = async {
            notifier.check_observable(model, fail_guard.conn).await?;
            let (rows, conn) = (&mut *restore_guard.rows, &mut *fail_guard.conn);
            // An adopted transaction takes its turn with its first write, before a receiver reads in it.
            if notifier.receivers.needs.connection_before {
                conn.wait_for_turn(writer).await?;
                if notifier.kind.may_store_nothing() {
                    let work = RevocableWrite { notifier: &mut notifier, rows, context: &context };
                    return Box::pin(in_savepoint(conn, work)).await;
                }
            }
            notifier.lock_versions_if_needed(rows, conn).await?;
            notifier.notify_before(rows, Some(&mut *conn), &context).await?;
            conn.wait_for_turn(writer).await?;
            execute_and_notify(&mut notifier, rows, conn, &context).await
        };
        let done = done.await;
        fail_guard.end(done)?;
        restore_guard.disarm();
        Ok(notifier.written)
    }
}

/// A write in the caller's transaction that may store nothing. What its receivers have written before is then undone.
struct RevocableWrite<'w> {
    notifier: &'w mut Notifier,
    rows: &'w mut dyn SignalRows,
    context: &'w OperationContext,
}

impl TransactionWork for RevocableWrite<'_> {
    type Done = ();

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<()> {
        let Self { notifier, rows, context } = self;
        notifier.notify_before(*rows, Some(&mut **tx), context).await?;
        execute_and_notify(notifier, *rows, tx, context).await
    }

    fn commits(&self, (): &()) -> bool {
        self.notifier.kind.stores(&self.notifier.written)
    }
}

/// A write that commits before its caller continues, in a transaction of its own or in autocommit mode.
struct WriteWork<'w> {
    notifier: Notifier,
    restore_guard: RestoreGuard<'w>,
    context: OperationContext,
}

impl WriteWork<'_> {
    fn writer(&self) -> Writer {
        let writer = Writer::of(self.notifier.kind.write_verb(), self.restore_guard.rows.model());
        writer.sharing_commit(self.shares_commit())
    }
}

/// Performs the write in a transaction of its own or, inside a `sqlx::Transaction`, in a savepoint.
fn in_own_transaction<'u>(
    notifier: Notifier,
    rows: &'u mut dyn SignalRows,
    mut source: Source<'u>,
    context: OperationContext,
) -> impl Future<Output = Result<WriteOutcome>> + Send + 'u {
    let mut work = WriteWork { notifier, restore_guard: RestoreGuard::new(rows), context };
    async move {
        prepare(&mut work, &mut source).await?;
        let conn = source.acquire_to_write(work.writer()).await?;
        begin_and_write(work, conn).await
    }
}

/// Opens a transaction, and performs the rest of the write in it.
fn begin_and_write<'w>(
    mut work: WriteWork<'w>,
    conn: Conn<'w>,
) -> impl Future<Output = Result<WriteOutcome>> + Send + 'w {
    let receivers = &work.notifier.receivers;
    if !receivers.needs.connection_before && !receivers.before.is_empty() {
        work.restore_guard.snapshot();
    }
    in_transaction(conn, work)
}

/// What runs in the transaction: the receivers before the statement, if one of them uses the connection; the statement; and the
/// receivers after it.
impl TransactionWork for WriteWork<'_> {
    type Done = WriteOutcome;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<WriteOutcome> {
        let Self { notifier, restore_guard, context } = self;
        if notifier.receivers.needs.connection_before {
            notifier.lock_versions_if_needed(restore_guard.rows, tx).await?;
            notifier.notify_before(restore_guard.rows, Some(&mut **tx), context).await?;
        }
        execute_and_notify(notifier, restore_guard.rows, tx, context).await?;
        Ok(std::mem::take(&mut notifier.written))
    }

    /// Only with receivers: a write without receivers is never lost because of another one.
    fn shares_commit(&self) -> bool {
        !self.notifier.receivers.is_empty()
    }

    fn commits(&self, done: &WriteOutcome) -> bool {
        self.notifier.kind.stores(done)
    }

    fn before_commit(&mut self) {
        self.restore_guard.disarm();
    }

    fn commit_failed(&mut self) {
        self.restore_guard.restore();
    }

    fn before_retry(&mut self) {
        self.restore_guard.restore_for_retry();
    }
}

/// Executes the write as one statement in autocommit mode, then runs its receivers, the deferred
/// ones last. If the statement turns out to need a transaction, restarts the write inside one. If
/// other writers of a SQLite database wait, the write is in a transaction too, which they share.
/// Inside a `sqlx::Transaction`, the caller may still roll the statement back, and a savepoint
/// takes the place of the transaction.
fn autocommit<'u>(
    notifier: Notifier,
    rows: &'u mut dyn SignalRows,
    mut source: Source<'u>,
    context: OperationContext,
) -> impl Future<Output = Result<WriteOutcome>> + Send + 'u {
    // If the database rejects a row of a bulk write, rows are written and rolled back to find
    // it. That modifies the instances, and so do receivers before the statement, so take a
    // snapshot first.
    let changes = notifier.many || !notifier.receivers.before.is_empty();
    let restore_guard = match changes {
        true => RestoreGuard::new(rows),
        false => RestoreGuard::for_statement(rows, &notifier.kind),
    };
    let mut work = WriteWork { notifier, restore_guard, context };
    async move {
        prepare(&mut work, &mut source).await?;
        let conn = source.connect_to_write(work.writer()).await?;
        let mut is_written = false;
        if !conn.may_join_group()
            && work.notifier.commits_itself(work.restore_guard.rows, conn).await?
        {
            if work.notifier.receivers.needs.has_after {
                conn.state.autocommit = Autocommit::DetachOnDrop;
            }
            let done = {
                let guard = DetachGuard { work: &mut work, conn: &mut *conn };
                let WriteWork { notifier, restore_guard, context } = &mut *guard.work;
                match notifier.is_stored() {
                    true => {
                        with_deliveries::execute(notifier, restore_guard.rows, guard.conn, context)
                            .await
                    }
                    false => notifier.execute(restore_guard.rows, guard.conn, context).await,
                }
            };
            work.notifier.tried = conn.state.autocommit == Autocommit::ContinuesInTransaction;
            if !conn.state.take_needs_transaction(&done) {
                if matches!(done, Err(Error::CommitUnknown(_))) {
                    // The rows may be stored, and the next write of them needs their keys and versions.
                    work.restore_guard.disarm();
                }
                work.notifier.written = done?;
                is_written = true;
            }
        }
        if !is_written {
            work.restore_guard.ensure_snapshot();
            // Pass the connection by value so that the transaction can release it at commit, before
            // any on-commit callback waits for one.
            let conn = conn.take();
            return Box::pin(begin_and_write(work, conn)).await;
        }
        // The row is stored, even if a receiver fails. Inside a `sqlx::Transaction`, the caller may
        // still roll it back.
        work.restore_guard.disarm();
        // A pooled connection is returned before the receivers run, because they may acquire one.
        match conn.is_borrowed() {
            true => conn.end_turn(),
            false => drop(conn.detach()),
        }
        let WriteWork { notifier, restore_guard, context } = &mut work;
        // If `Clone` panics, run the receivers inline; dropping this future then cancels them. The
        // `else` branch also covers receivers that cannot be interrupted.
        if notifier.receivers.needs.after_interruptible
            && let Some(mut copy) = copied(restore_guard.rows)
        {
            let (notifier, context) = (notifier.clone(), context.clone());
            let pool = context.pool();
            let notify = async move { notifier.notify_after_commit(&mut *copy, &context).await };
            run_even_if_dropped(pool, Box::pin(notify)).await?;
        } else {
            notifier.notify_after_commit(restore_guard.rows, context).await?;
        }
        Ok(work.notifier.written)
    }
}

/// If the caller passed a connection, first checks that deferred receivers can observe the commit.
/// Then runs the receivers before the statement, unless one of them uses the connection. They run
/// before a connection is acquired, so a save that they reject never takes one from the pool.
fn prepare(
    work: &mut WriteWork<'_>,
    source: &mut Source<'_>,
) -> impl Future<Output = Result<()>> + Send {
    async move {
        let WriteWork { notifier, restore_guard, context } = work;
        if let Source::Conn(conn) = source {
            notifier.check_observable(restore_guard.rows.model(), conn).await?;
        }
        match notifier.receivers.needs.connection_before {
            true => Ok(()),
            false => notifier.notify_before(restore_guard.rows, None, context).await,
        }
    }
}

/// Executes the statement, and runs the receivers after it.
async fn execute_and_notify(
    notifier: &mut Notifier,
    rows: &mut dyn SignalRows,
    conn: &mut Conn<'_>,
    context: &OperationContext,
) -> Result<()> {
    notifier.written = notifier.execute(rows, conn, context).await?;
    if notifier.receivers.previous {
        notifier.previous_rows = rows.as_rows_mut().take_previous();
    }
    notifier.check_values(rows.as_rows(), context)?;
    // Queue the deferred deliveries of this write before running its receivers, so that deliveries
    // queued by nested writes come after them.
    for deferred in notifier.deferred(rows, conn, context) {
        conn.state.defer(deferred);
    }
    if notifier.is_stored() {
        notifier.store(rows, conn, context).await?;
    }
    track::track(notifier, rows, conn, context).await?;
    notifier.notify_after(rows, Some(conn), context).await
}

/// Guards a statement that commits itself. If the future is dropped after the statement was sent,
/// the receivers run on a copy of the rows.
struct DetachGuard<'a, 'w, 'c> {
    work: &'a mut WriteWork<'w>,
    conn: &'a mut Conn<'c>,
}

impl Drop for DetachGuard<'_, '_, '_> {
    fn drop(&mut self) {
        if self.conn.state.autocommit == Autocommit::DetachOnDrop {
            self.conn.state.autocommit = Autocommit::Plain;
        }
        let Some(detached) = self.conn.state.detached.take() else { return };
        let WriteWork { notifier, restore_guard, context } = &*self.work;
        let (copy, model) = (copied(restore_guard.rows), restore_guard.rows.model());
        let (mut notifier, context) = (notifier.clone(), context.clone());
        let DetachedStatement { future, runtime, on_detached } = *detached;
        spawn::spawn(&runtime, context.pool(), async move {
            let (mut lease, answer, _) = future.await;
            lease.state_mut().note_answer(&answer);
            // The caller may not have ended its turn yet, so it must not be taken for a forgotten one.
            lease.state_mut().borrowed_turn = None;
            drop(lease);
            let written = answer.map_err(Error::from).and_then(|answer| match copy {
                Some(mut copy) => Ok((TakeAnswer::take(on_detached, &mut *copy, answer)?, copy)),
                None => Err(Error::other("the row could not be copied for its receivers")),
            });
            match written {
                Ok((written, mut copy)) => {
                    notifier.written = written;
                    notifier.notify_after_commit(&mut *copy, &context).await.log();
                }
                Err(error) => {
                    tracing::error!(
                        model,
                        error = format_args!("{error:#}"),
                        "no receiver was notified of a write whose future was dropped"
                    );
                }
            }
        });
    }
}

/// Returns a copy of the rows, or `None` if a `Clone` panics.
fn copied(rows: &dyn SignalRows) -> Option<Box<dyn SignalRows>> {
    catch_unwind(AssertUnwindSafe(|| rows.copied())).ok().flatten()
}
