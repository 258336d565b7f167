//! Runs statements on a [`Conn`]: once, or once more on another connection or after a table has changed.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, ready};
use tokio::time::timeout;

use crate::database::backend::{AnyRow, Make, Sink, Statement, on};
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::detached::{DetachableStatement, OnDetached};
use crate::database::execution::{Execution, Naming, Returns, if_answered};
use crate::database::raw::{MaybePooled, RawConn};
use crate::database::spin::spin;
use crate::database::state::Autocommit;
use crate::error::driver::{did_nothing, is_lost, is_outdated, may_be_committed};
use crate::error::{Error, Result};

/// Takes a row that may not be readable.
type Load<'l> = &'l mut (dyn FnMut(AnyRow) -> Result<(), sqlx::Error> + Send);

/// How many other connections are tried if the first one is dead.
const RECONNECT_ATTEMPTS: usize = 16;

/// How long it takes at most to notice that a connection was dead before a statement was sent on it.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// Whether a statement that was `sent` at a time can be repeated on another connection after an error.
type MayRepeat = fn(&sqlx::Error, Instant) -> bool;

/// Whether the connection was dead before the statement was `sent`. If it was lost later, an operator, a limit of a pooler or a crash may have
/// ended the statement.
pub(super) fn was_dead(error: &sqlx::Error, sent: Instant) -> bool {
    is_lost(error) && sent.elapsed() < NOTICED_WITHIN
}

impl<'c> Conn<'c> {
    /// Runs a statement that this library wrote, and passes its rows to `sink`.
    pub(crate) async fn run(&mut self, statement: Statement, sink: Sink<'_>) -> Result<u64> {
        self.run_alive(statement, sink, |error, _| did_nothing(error)).await
    }

    /// As [`run`](Self::run), for a statement that only reads.
    pub(crate) async fn read(&mut self, statement: Statement, sink: Sink<'_>) -> Result<u64> {
        self.run_alive(statement, sink, was_dead).await
    }

    /// Runs a statement. If the connection is dead, and the statement `may_repeat` after this error, runs it on another one.
    async fn run_alive(
        &mut self,
        mut statement: Statement,
        sink: Sink<'_>,
        may_repeat: MayRepeat,
    ) -> Result<u64> {
        self.ensure_connected().await?;
        loop {
            let sent = Instant::now();
            let (mut again, mut answered) = (self.again(&statement), false);
            let returns = Returns::Rows;
            let run = self.run_or_retry(statement, &mut again, returns, sink, &mut answered);
            let result = run.await;
            match (self.note_result(result).await, again) {
                (Err(error), Some(again)) if !answered => {
                    self.reconnect(error, |error| may_repeat(error, sent)).await?;
                    statement = again;
                }
                (done, _) => return done,
            }
        }
    }

    /// A copy of a statement that may have to be repeated.
    pub(crate) fn again(&mut self, statement: &Statement) -> Option<Statement> {
        // Also of one that does not stay prepared: it may have got a name before, or be forgotten, see [`naming_of`](Self::naming_of).
        let is_needed = self.naming() == Naming::Named || self.is_unused();
        if is_needed { statement.again() } else { None }
    }

    /// As [`run`](Self::run), if a row may not be readable. The statement is read to its end, and the first error of `take` is
    /// returned.
    #[cfg(feature = "durable")]
    pub(crate) async fn run_each(&mut self, statement: Statement, take: Load<'_>) -> Result<()> {
        self.each_alive(statement, take, |error, _| did_nothing(error)).await
    }

    /// As [`read`](Self::read), if a row may not be readable. The statement is read to its end, and the first error of `take` is
    /// returned.
    pub(crate) async fn read_each(&mut self, statement: Statement, take: Load<'_>) -> Result<()> {
        self.each_alive(statement, take, was_dead).await
    }

    async fn each_alive(
        &mut self,
        statement: Statement,
        take: Load<'_>,
        may_repeat: MayRepeat,
    ) -> Result<()> {
        let mut taken = Ok(());
        let mut sink = |row| {
            if taken.is_ok() {
                taken = take(row);
            }
        };
        self.run_alive(statement, &mut sink, may_repeat).await?;
        Ok(taken?)
    }

    /// Runs a statement that returns at most one row.
    pub(crate) async fn run_one(&mut self, statement: Statement) -> Result<Option<AnyRow>> {
        self.ensure_connected().await?;
        let (mut first, mut again) = (None, self.again(&statement));
        let sink = &mut |row| first = first.take().or(Some(row));
        let result =
            self.run_or_retry(statement, &mut again, Returns::OneRow, sink, &mut false).await;
        self.note_result(result).await?;
        Ok(first)
    }

    /// As [`run_one`](Self::run_one), for a statement that only reads. `make` builds it, once for each attempt.
    pub(crate) async fn read_one(&mut self, make: Make<'_>) -> Result<Option<AnyRow>> {
        self.ensure_connected().await?;
        let kind = self.kind();
        loop {
            let sent = Instant::now();
            let (mut first, returns) = (None, Returns::OneRowWithoutCommit);
            let sink = &mut |row| first = first.take().or(Some(row));
            let result = match self.run_once(make(kind)?, returns, sink, &mut false).await {
                Err(error) if is_outdated(&error) => match self.prepare_again(error).await {
                    Ok(()) => self.run_once(make(kind)?, returns, sink, &mut false).await,
                    Err(error) => Err(error),
                },
                result => result,
            };
            match self.note_result(result).await {
                Ok(_) => return Ok(first),
                Err(error) => self.reconnect(error, |error| was_dead(error, sent)).await?,
            }
        }
    }

    /// Runs a statement, and runs the copy `again` if its prepared statement turns out to be outdated. `answered` is set when its first row
    /// or its completion arrives.
    pub(crate) async fn run_or_retry(
        &mut self,
        statement: Statement,
        again: &mut Option<Statement>,
        returns: Returns,
        sink: Sink<'_>,
        answered: &mut bool,
    ) -> Result<u64, sqlx::Error> {
        let is_named = self.naming() == Naming::Named;
        match self.run_once(statement, returns, sink, answered).await {
            Err(error) if is_named && is_outdated(&error) => match again.take() {
                Some(again) => match self.prepare_again(error).await {
                    Ok(()) => self.run_once(again, returns, sink, answered).await,
                    Err(error) => Err(error),
                },
                None => Err(error),
            },
            result => result,
        }
    }

    /// Runs a statement. If other writers wait for the connection, the statement is polled before its task waits.
    async fn run_once(
        &mut self,
        statement: Statement,
        returns: Returns,
        sink: Sink<'_>,
        answered: &mut bool,
    ) -> Result<u64, sqlx::Error> {
        let is_awaited = self.is_awaited();
        let executed = pin!(self.start(statement, returns).run_noting_answer(sink, answered));
        spin(executed, is_awaited).await
    }

    /// Clears the statement cache of the connection, after the database refused an outdated prepared statement with `error`.
    /// Returns `Ok` if the statement may be run again, and `error` otherwise. Inside a transaction, which the refused statement
    /// has aborted, the transaction is restarted; this is only possible if the statement was the first one in it.
    pub(crate) fn prepare_again(
        &mut self,
        error: sqlx::Error,
    ) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(async move {
            if let Some(lease) = self.lease_mut() {
                lease.set_statements_outdated();
            }
            let Some(raw) = self.connected() else { return Err(error) };
            let cleared = on!(RawConn, raw, DB, conn => {
                let conn: &mut <DB as sqlx::Database>::Connection = conn;
                sqlx::Connection::clear_cached_statements(conn).await
            });
            if self.note_answer(cleared).is_err() {
                // The lease stays outdated, so that the connection is closed when it is returned.
                return Err(error);
            }
            if let Some(lease) = self.lease_mut() {
                lease.set_statements_cleared();
            }
            let frame = self.state.frames.last();
            let unused = frame.map(|frame| !frame.used && frame.failed.is_none());
            let may_run = match unused {
                Some(unused) => unused && self.begin_again().await.is_ok(),
                None => {
                    self.depth_now() == 0 && !self.is_in_unknown_transaction().await.unwrap_or(true)
                }
            };
            if may_run { Ok(()) } else { Err(error) }
        })
    }

    /// Starts a statement. Call [`ensure_connected`](Self::ensure_connected) first, and pass the result to
    /// [`note_result`](Self::note_result).
    pub(crate) fn start(&mut self, mut statement: Statement, returns: Returns) -> Execution<'_> {
        self.set_in_flight();
        let naming = self.naming_of(&mut statement);
        Execution::new(self.raw(), statement, returns, naming)
    }

    /// Runs a statement that writes rows, and passes the rows that it returns to `sink`. `make` is called once for each attempt,
    /// because a retry on another connection needs its own arguments.
    ///
    /// # Errors
    ///
    /// [`Error::CommitUnknown`] if the statement has committed itself, or may have.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an `async fn` stores its arguments twice"
    )]
    pub(crate) fn write<'w>(
        &'w mut self,
        make: Make<'w>,
        one: bool,
        on_detached: &'w (dyn Fn() -> OnDetached + Send + Sync),
        sink: Sink<'w>,
    ) -> impl Future<Output = Result<u64>> + Send + use<'w, 'c> {
        async move {
            let mut outdated = false;
            loop {
                self.ensure_connected().await?;
                let (statement, mut answered) = (make(self.kind())?, false);
                let is_awaited = self.is_awaited();
                let result = {
                    let execution = self.start_write(statement, one, on_detached);
                    let executed = pin!(execution.run_noting_answer(sink, &mut answered));
                    spin(executed, is_awaited).await
                };
                if answered && let Some(lease) = self.lease_mut() {
                    lease.state_mut().proven_alive = true;
                }
                match self.note_answer(if_answered(result, answered)) {
                    Ok(affected) => {
                        self.state.count_statement();
                        return Ok(affected);
                    }
                    Err(error) => self.retry(error, answered, &mut outdated).await?,
                }
            }
        }
    }

    /// Returns `Ok` if a failed write may be run again: the prepared statement was outdated and was cleared, or the connection
    /// was dead and was replaced. Otherwise returns the error.
    fn retry<'r>(
        &'r mut self,
        error: sqlx::Error,
        answered: bool,
        outdated: &'r mut bool,
    ) -> BoxFuture<'r, Result<()>> {
        Box::pin(async move {
            let failed = if *outdated || !is_outdated(&error) {
                error
            } else {
                *outdated = true;
                match self.prepare_again(error).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            };
            let is_unknown = may_be_committed(&failed, answered) && self.commits_at_once(answered);
            match self.note_result(Err(failed)).await {
                Err(Error::Database(error)) if is_unknown => Err(Error::CommitUnknown(error)),
                Err(error) => self.reconnect(error, did_nothing).await,
                Ok(()) => Ok(()),
            }
        })
    }

    /// Whether a statement that has just failed may have committed itself. Inside a transaction, a lost connection rolls back.
    fn commits_at_once(&mut self, answered: bool) -> bool {
        // An unnamed statement counts as answered when its transaction is about to be committed.
        let is_committed = answered || self.naming() == Naming::Named;
        is_committed && !self.in_transaction() && !self.is_in_group() && self.depth_now() == 0
    }

    /// Replaces a dead connection by one that works. Returns `error` instead if the connection has answered since checkout, if
    /// a transaction is open, or if the failed statement may not be repeated after this error.
    pub(crate) fn reconnect(
        &mut self,
        error: Error,
        may_repeat: impl FnOnce(&sqlx::Error) -> bool,
    ) -> BoxFuture<'_, Result<()>> {
        if !self.is_unused() || !matches!(&error, Error::Database(error) if may_repeat(error)) {
            return Box::pin(ready(Err(error)));
        }
        tracing::warn!(%error, "a connection had died before it was used: another one is taken");
        let limit = self.state.db.as_ref().map_or(Duration::MAX, Db::acquire_timeout);
        Box::pin(async move {
            match timeout(limit, self.take_another(error)).await {
                Ok(taken) => taken,
                Err(_) => {
                    // The server may have stopped answering on this connection too.
                    self.discard();
                    Err(sqlx::Error::PoolTimedOut.into())
                }
            }
        })
    }

    /// Whether another connection can take the place of this one: it has not answered since checkout, and no transaction is open.
    fn is_unused(&self) -> bool {
        let is_unproven = match &self.inner {
            MaybePooled::Pooled(slot) => {
                slot.as_ref().is_some_and(|lease| !lease.state().proven_alive)
            }
            _ => false,
        };
        is_unproven && self.state.frames.is_empty() && self.state.db.is_some()
    }

    /// Tries other connections until one answers a ping. `last` is the error to return if none does.
    async fn take_another(&mut self, mut last: Error) -> Result<()> {
        for _ in 0..RECONNECT_ATTEMPTS {
            self.discard();
            self.ensure_connected().await?;
            self.set_in_flight();
            let ping = self.ping().await;
            match self.note_answer(ping) {
                Ok(()) => return Ok(()),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// As [`start`](Self::start), for a statement that writes rows. For [`Autocommit::DetachOnDrop`], the statement keeps running
    /// when its future is dropped, and `on_detached` handles its answer.
    fn start_write<'r>(
        &'r mut self,
        statement: Statement,
        one: bool,
        on_detached: &'r (dyn Fn() -> OnDetached + Send + Sync),
    ) -> Execution<'r> {
        let is_pooled = matches!(self.inner, MaybePooled::Pooled(_));
        if !is_pooled || self.state.autocommit != Autocommit::DetachOnDrop || self.in_transaction()
        {
            // Until the connection has answered, a failed statement may be sent again, but only if the server has not reported its
            // completion. The cheaper call for one row does not show that.
            let may_reconnect = self.lease_mut().is_some_and(|lease| !lease.state().proven_alive);
            let returns = if !one || may_reconnect {
                Returns::Rows
            } else if self.in_transaction() || self.is_in_group() {
                Returns::OneRowWithoutCommit
            } else {
                Returns::OneRow
            };
            return self.start(statement, returns);
        }
        let MaybePooled::Pooled(slot) = &mut self.inner else { return Execution::NoConnection };
        let Some(lease) = slot.take() else { return Execution::NoConnection };
        Execution::DetachableStatement(DetachableStatement::new(
            lease,
            slot,
            &mut self.state.detached,
            (statement, one),
            on_detached,
        ))
    }
}
