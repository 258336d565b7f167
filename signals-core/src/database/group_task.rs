//! The task that ends a group, and executes the statements of waiting writers.

use std::pin::pin;
use std::sync::Arc;

use smallvec::SmallVec;
use sqlx::{Either, SqlStr};
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::database::backend::{Backend, Statement};
use crate::database::detached::Answer;
use crate::database::execution::{Execution, Naming, Returns};
use crate::database::group::{BEGIN, Group, MARK, MAX_AGE, RELEASE_UNIT, Unit, end_of, tell};
use crate::database::lease::{CloseOnDrop, InFlight, Lease, LeaseInner};
use crate::database::raw;
use crate::database::reconcile;
use crate::database::runtimes::{in_runtime, spawn_even_if_idle};
use crate::database::spin::{begin_task, spin};
use crate::database::unit::group_end;
use crate::database::waiter::{Waiter, put_back};
use crate::database::write_queue::WriteQueue;
use crate::database::write_turn::Turn;

/// Ends the group of a connection that is returned. A separate task does this, so that no writer of the group can interrupt it. It also
/// executes the statements of waiting writers, in this group and in further ones, but begins none if the groups have had the connection
/// for longer than one may take.
pub(super) fn end<DB: Backend>(inner: Box<LeaseInner<DB>>) {
    in_runtime(inner.state.runtime.clone(), move || {
        let mut guard = CloseOnDrop(Some(inner));
        spawn_even_if_idle::<DB>(async move {
            let Some(inner) = &mut guard.0 else { return };
            let queue = inner.state.turn.as_ref().and_then(Turn::queue).cloned();
            let mut next = inner.state.group.take();
            while let Some(mut group) = next.take() {
                let (id, since) = (group.id, group.since);
                if let Some(queue) = &queue {
                    execute_queued::<DB>(&mut group, &mut inner.conn, queue).await;
                    let may_pass = !group.in_unit && !group.used_raw && group.is_open();
                    if may_pass && queue.is_awaited_by(id) {
                        let (unit, end) = oneshot::channel();
                        group.units.push(Unit::Writer(unit));
                        inner.state.group = Some(group);
                        let Some(inner) = guard.0.take() else { return };
                        drop(queue.pass_group(id, DB::any_lease(inner.into())));
                        // The writers whose statements were executed do not take the connection back. In a task of its own, because this one may
                        // occupy a thread that the end of the group needs.
                        let queue = Arc::clone(queue);
                        tokio::spawn(async move { group_end(end, &queue).await });
                        return;
                    }
                }
                if !group.commit::<DB>(&mut inner.conn, queue.as_deref()).await {
                    return;
                }
                let Some(queue) = &queue else { break };
                while next.is_none() && since.elapsed() < MAX_AGE {
                    // The writers that have just been told may have more to write.
                    yield_now().await;
                    if !queue.has_statements(id) {
                        break;
                    }
                    match begin::<DB>(Group::follow(id, since), &mut inner.conn, queue).await {
                        Ok(begun) => next = begun,
                        Err(_) => return,
                    }
                }
            }
            if let Some(mut inner) = guard.0.take() {
                inner.state.in_flight = InFlight::Nothing;
                drop(Lease::from(inner));
            }
        });
    });
}

/// Begins a group for the statements of the writers that wait next, if there are any. If one message can contain them all, it also contains
/// BEGIN and COMMIT. Returns the group if it is still open.
///
/// # Errors
///
/// If the connection cannot be used any more.
async fn begin<DB: Backend>(
    mut group: Box<Group>,
    conn: &mut DB::Connection,
    queue: &WriteQueue,
) -> Result<Option<Box<Group>>, sqlx::Error> {
    if !queue.is_one_message(group.id) {
        return match spin(pin!(raw::begin_with::<DB>(conn, BEGIN)), true).await {
            Err(sqlx::Error::Database(_)) => Ok(None),
            begun => begun.map(|()| Some(group)),
        };
    }
    let waiters = queue.take_statements(group.id);
    let units = waiters.len();
    let Some(statement) = taken(&waiters, queue, true) else {
        put_back(waiters);
        return Ok(None);
    };
    let (mut answers, done) = execute::<DB>(conn, statement, units + 2).await;
    if answers.is_empty() {
        put_back(waiters);
        return match done {
            // BEGIN has failed.
            Err(sqlx::Error::Database(_)) => Ok(None),
            done => done.map(|()| None),
        };
    }
    // That of BEGIN.
    answers.remove(0);
    if answers.len() < units {
        group.add_executed(waiters, answers, done.err());
        return match raw::adopt::<DB>(conn).await {
            Ok(()) => DB::simple(conn, SqlStr::from_static(MARK)).await.map(|()| Some(group)),
            // The statement that has failed has ended the transaction. All units are told when the group is dropped.
            Err(sqlx::Error::BeginFailed) => Ok(None),
            Err(error) => Err(error),
        };
    }
    queue.note_commit(None, units, &done);
    group.add_executed(waiters, answers, None);
    tell(std::mem::take(&mut group.units), &end_of(&done));
    match done {
        Ok(()) => Ok(None),
        // COMMIT was refused.
        Err(sqlx::Error::Database(_)) => reconcile::roll_back_all::<DB>(conn).await.map(|()| None),
        Err(error) => Err(error),
    }
}

/// Executes the statements of the writers that wait next, as units of a group.
async fn execute_queued<DB: Backend>(
    group: &mut Group,
    conn: &mut DB::Connection,
    queue: &WriteQueue,
) {
    while !group.in_unit && !group.used_raw && group.is_open() {
        let waiters = queue.take_statements(group.id);
        let Some(statement) = taken(&waiters, queue, false) else {
            return put_back(waiters);
        };
        group.in_unit = true;
        if std::mem::take(&mut group.in_savepoint)
            && DB::simple(conn, SqlStr::from_static(RELEASE_UNIT)).await.is_err()
        {
            return put_back(waiters);
        }
        let (answers, done) = execute::<DB>(conn, statement, waiters.len()).await;
        let has_failed = done.is_err();
        group.add_executed(waiters, answers, done.err());
        // If the statement that has failed has ended the transaction, the group rolls back.
        group.in_unit = has_failed && !matches!(DB::is_in_transaction(conn).await, Ok(true));
        // This thread may have other tasks, some of which write.
        yield_now().await;
    }
}

/// The statements of waiters that were taken out of the queue.
fn taken(waiters: &[Waiter], queue: &WriteQueue, in_transaction: bool) -> Option<Statement> {
    let last = waiters.last()?.statement.as_ref()?;
    last.take(waiters.len(), in_transaction, &queue.texts)
}

/// Executes a message that contains `statements` statements. Returns the answers up to the first statement that fails, and its error.
async fn execute<DB: Backend>(
    conn: &mut DB::Connection,
    statement: Statement,
    statements: usize,
) -> (Vec<Answer>, Result<(), sqlx::Error>) {
    let (mut rows, mut answers) = (SmallVec::new(), Vec::new());
    let mut sink = |step| match step {
        Either::Right(row) => rows.push(row),
        Either::Left(affected) => {
            answers.push(Answer { rows: std::mem::take(&mut rows), affected });
        }
    };
    let conn = Some(DB::raw(conn));
    let execution = Execution::new(conn, statement, Returns::Rows, Naming::Named);
    begin_task();
    let mut done = spin(pin!(execution.run_each(&mut sink)), true).await;
    if done.is_ok() && answers.len() < statements {
        // The thread of the connection has panicked, see `execution::drain`.
        done = Err(sqlx::Error::WorkerCrashed);
    }
    (answers, done)
}
