//! Begin, commit and roll back transactions and savepoints, and run the callbacks that wait for their end.
//!
//! May import: `error`, `task`, `database`.

mod adopt;
mod begin;
mod callback;
pub(crate) mod closure;
mod dropped;
pub(crate) mod guard;
pub(crate) mod own;
pub(crate) mod retry;

use std::ops::{Deref, DerefMut};

use futures_util::future::BoxFuture;

use crate::database::backend::DatabaseKind;
use crate::database::begin::TransactionOptions;
use crate::database::conn::Conn;
use crate::database::deferred::{Deferred, End, run_all};
use crate::database::group::CommitFailed;
use crate::database::source::connects;
use crate::database::sqlx_transaction::BeginGuard;
use crate::database::state::Frame;
use crate::database::writer::Writer;
use crate::error::driver::{did_nothing, was_never_sent};
use crate::error::{Error, Outcome, Reason, Result};
use crate::task::chain::PoolId;
use crate::task::finish::{Detached, run_even_if_dropped};
use crate::task::measure;
use crate::transaction::callback::Callback;

/// A transaction, or a savepoint inside one. If it is dropped without [`commit`](Transaction::commit), it is rolled back.
///
/// It dereferences to [`Conn`]: pass `&mut tx` to saves, queries and functions that take `&mut Conn<'_>`.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model)]
/// # struct City { id: Option<i64>, name: String }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let mut tx = db.begin().await?;
/// City { id: None, name: "Ulm".into() }.save(&mut tx).await?;
///
/// let mut savepoint = tx.begin().await?;
/// City { id: None, name: "Atlantis".into() }.save(&mut savepoint).await?;
/// savepoint.rollback().await?;
///
/// tx.on_commit(async { println!("stored") });
/// tx.commit().await?;
/// assert_eq!(City::all(&db).await?.len(), 1);
/// # Ok(()) }
/// ```
pub struct Transaction<'c> {
    conn: Conn<'c>,
    /// The number of open frames, including the one of this transaction or savepoint.
    depth: usize,
    /// Whether it must be rolled back on drop.
    open: bool,
    /// Whether the release of the savepoint is in flight. If the future is dropped meanwhile, it is unknown whether the savepoint
    /// still exists.
    is_releasing: bool,
    /// Whether it may share its COMMIT with other writes.
    pub(crate) shares_commit: bool,
}

/// The result of a successful commit.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// let mut tx = db.begin().await?;
/// tx.on_commit(async { Err("no mail server") });
/// let committed = tx.commit().await?;
/// assert_eq!(committed.errors[0].to_string(), "no mail server");
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Committed {
    /// The errors and panics of `on_commit` receivers and callbacks. The transaction is committed nevertheless, and all
    /// other receivers and callbacks have run. Receivers with `on_commit(detached)` may still run; their errors are only logged.
    pub errors: Vec<Error>,
}

impl<'c> Transaction<'c> {
    /// Begins a transaction on `conn`, or a savepoint if one is open.
    pub(crate) async fn open(conn: Conn<'c>) -> Result<Self> {
        Self::open_with(conn, TransactionOptions::default()).await
    }

    /// As [`open`](Self::open), with options for the transaction.
    pub(crate) async fn open_with(mut conn: Conn<'c>, options: TransactionOptions) -> Result<Self> {
        let is_unit = conn.begin_unit(true);
        if !is_unit {
            conn.verify().await?;
        }
        let depth = if is_unit { 0 } else { conn.depth().await };
        if depth > 0 {
            conn.verify_for_savepoint().await?;
        } else if conn.kind() == DatabaseKind::Postgres && conn.is_in_unknown_transaction().await? {
            // BEGIN would not fail, and COMMIT would end a transaction that this library did not begin.
            let (statement, instead) = ("BEGIN", "sqlx's `begin`, or `Db::begin`");
            return Err(Error::TransactionControl { statement, instead });
        }
        if depth == 0 && !options.is_read_only() {
            conn.wait_for_turn(Writer::transaction(None)).await?;
        }
        let guard = BeginGuard::new(&mut conn);
        // A failed BEGIN has no effect, so any I/O error may be retried on another connection.
        let lost = |error: &sqlx::Error| did_nothing(error) || matches!(error, sqlx::Error::Io(_));
        let may_write = loop {
            if is_unit {
                break true;
            }
            match guard.conn.begin_raw(options).await {
                Ok(may_write) => break may_write,
                Err(error) => guard.conn.reconnect(error, lost).await?,
            }
        };
        guard.disarm();
        if !may_write {
            conn.give_up_turn();
        }
        if conn.state.frames.is_empty() {
            conn.state.foreign = depth > 0;
        }
        conn.state.count_statement();
        conn.state.frames.push(Frame { begin: options, ..Frame::default() });
        let depth = conn.state.frames.len();
        Ok(Self { conn, depth, open: true, is_releasing: false, shares_commit: false })
    }

    /// Rolls back the transaction after one of its prepared statements was refused as outdated, and begins it again. Only call this
    /// if no receiver has run in it.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.conn.begin_again().await?;
        *self.frame() = Frame { begin: self.frame().begin, ..Frame::default() };
        Ok(())
    }

    /// Runs `callback` after the outermost transaction has committed. Callbacks and `on_commit` receivers run in the order of
    /// the calls of `on_commit` and of the saves. If the transaction or savepoint is rolled back, the callback is discarded, as in
    /// [Django](https://docs.djangoproject.com/en/stable/topics/db/transactions/#performing-actions-after-commit).
    ///
    /// The callback returns nothing or a `Result<(), E>`. An error is logged, and returned in [`Committed::errors`].
    ///
    /// See the examples of [`Transaction`] and [`Committed`].
    pub fn on_commit<F>(&mut self, callback: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.conn.state.defer(Box::new(Callback { callback, when: End::Committed }));
    }

    /// Runs `callback` after this transaction or savepoint, or an enclosing one, was rolled back.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// let mut tx = db.begin().await?;
    /// let file = std::env::temp_dir().join("upload");
    /// std::fs::write(&file, "…").unwrap();
    /// let uploaded = file.clone();
    /// tx.on_rollback(async move { std::fs::remove_file(uploaded) });
    /// tx.rollback().await?;
    /// assert!(!file.exists());
    /// # Ok(()) }
    /// ```
    pub fn on_rollback<F>(&mut self, callback: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.conn.state.defer(Box::new(Callback { callback, when: End::RolledBack }));
    }

    /// Commits the transaction, and then runs its `on_commit` receivers and callbacks. A savepoint is released instead; its
    /// receivers and callbacks wait for the enclosing transaction.
    ///
    /// See the examples of [`Transaction`] and [`Committed`].
    ///
    /// # Errors
    ///
    /// - [`Error::RolledBack`] if the transaction is marked as failed.
    /// - [`Error::CommitNotObservable`] if there are callbacks, and this is a savepoint in a transaction that was not begun
    ///   through this library.
    /// - [`Error::Database`] if COMMIT fails.
    /// - [`Error::CommitUnknown`] if the connection was lost during COMMIT.
    ///
    /// After `CommitUnknown`, the transaction may be stored or not, and neither its `on_commit` nor its `on_rollback` receivers
    /// run. After the other errors, nothing is stored, and the `on_rollback` receivers have run.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before COMMIT was sent, the transaction is rolled back. After that, the commit and the
    /// callbacks are finished in a task. For a connection that is borrowed from sqlx there is no such task: if the future is
    /// dropped during COMMIT, the callbacks do not run.
    pub async fn commit(mut self) -> Result<Committed> {
        self.check().await?;
        self.commit_checked().await
    }

    /// As [`commit`](Self::commit), without [`check`](Self::check): the first poll may send COMMIT.
    pub(crate) async fn commit_checked(mut self) -> Result<Committed> {
        if self.depth > 1 {
            return self.release().await;
        }
        if self.conn.state.foreign
            && self.frame().deferred.iter().any(|deferred| deferred.is_callback())
        {
            // The enclosing transaction has not ended, and its end is not observed.
            let _ = self.undo().await;
            let (model, receiver) = ("Transaction", "Transaction::on_commit");
            return Err(Error::CommitNotObservable { model, receiver });
        }
        if self.frame().deferred.is_empty() {
            return self.commit_outermost().await.map(|_| Committed::default());
        }
        let pool = self.conn.state.pool();
        let Some(conn) = self.conn.detach() else {
            let deferred = self.commit_outermost().await?;
            let callbacks = run_all(deferred, End::Committed, None);
            return Ok(Committed { errors: run_even_if_dropped(pool, callbacks).await });
        };
        // The future below owns the transaction. If it is dropped before its first poll, the transaction is rolled back.
        self.open = false;
        let shares_commit = self.shares_commit;
        let mut tx = Transaction { conn, depth: 1, open: true, is_releasing: false, shares_commit };
        let is_borrowed = self.conn.is_borrowed();
        let (committed, conn) = run_even_if_dropped(pool, async move {
            let committed = tx.commit_outermost().await;
            // Return the connection to the pool before the callbacks run, because they may need one. If a caller still uses
            // the connection, keep it.
            let mut conn = tx.conn.take();
            if is_borrowed {
                conn.give_up_turn();
            }
            let conn = is_borrowed.then_some(conn);
            let committed = match committed {
                Ok(deferred) => {
                    Ok(Committed { errors: run_all(deferred, End::Committed, None).await })
                }
                Err(error) => Err(error),
            };
            (committed, conn)
        })
        .await;
        if let Some(conn) = conn {
            self.conn.reattach(conn);
        }
        committed
    }

    /// Rolls back if the transaction is marked as failed, and returns the reason as [`Error::RolledBack`]. Otherwise passes the
    /// changes of the transaction to the receivers that run once per transaction, writes what it has collected for its commit, and rolls
    /// back if that fails.
    pub(crate) async fn check(&mut self) -> Result<()> {
        let _ = self.conn.verify().await;
        let Some(reason) = self.frame().failed.take() else {
            if self.depth == 1 {
                self.conn.finish_changes();
            }
            return match self.depth == 1 && self.frame().outbox.is_some() {
                true => self.write_outbox().await,
                false => Ok(()),
            };
        };
        // If this fails, the database rolls back when the connection is closed.
        let _ = self.undo().await;
        Err(Error::RolledBack { reason })
    }

    /// Rolls back, and runs the `on_rollback` receivers and callbacks.
    ///
    /// See the example of [`Transaction`].
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if the connection is broken. The transaction is rolled back in this case too.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transaction is rolled back, as when the transaction is dropped.
    pub async fn rollback(mut self) -> Result<()> {
        self.undo().await
    }

    /// As [`rollback`](Self::rollback), if the caller already has another error to return.
    pub(crate) async fn rollback_or_log(self) {
        if let Err(error) = self.rollback().await {
            tracing::warn!(%error, "a rollback failed");
        }
    }

    /// Writes what the transaction has collected. Boxed, because most transactions have collected nothing.
    fn write_outbox(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let written = self.conn.write_outbox().await;
            if written.is_err() {
                let _ = self.undo().await;
            }
            written
        })
    }

    pub(crate) fn frame(&mut self) -> &mut Frame {
        self.conn.state.frames.last_mut().expect("an open transaction has a frame")
    }

    /// Releases a savepoint.
    async fn release(&mut self) -> Result<Committed> {
        // Before the await: if the future is dropped during the release, it is unknown whether the savepoint was released.
        self.is_releasing = true;
        let released = self.conn.commit_raw().await;
        self.is_releasing = false;
        if let Err(error) = released {
            let _ = self.undo().await;
            return Err(Error::RolledBack { reason: Reason::of_statement(&error) });
        }
        self.open = false;
        let frame = self.conn.state.frames.pop().unwrap_or_default();
        let enclosing = self.frame();
        enclosing.deferred.extend(frame.deferred);
        match (&mut enclosing.changes, frame.changes) {
            (Some(changes), Some(released)) => changes.append(released),
            (None, released) => enclosing.changes = released,
            (Some(_), None) => {}
        }
        match (&mut enclosing.outbox, frame.outbox) {
            (Some(outbox), Some(released)) => outbox.append(released),
            (None, released) => enclosing.outbox = released,
            (Some(_), None) => {}
        }
        Ok(Committed::default())
    }

    /// Commits the outermost transaction. Returns the receivers and callbacks that wait for its end.
    async fn commit_outermost(&mut self) -> Result<Vec<Box<dyn Deferred>>> {
        // Taken before the await: if the future is dropped during COMMIT, it is unknown whether `on_commit` or `on_rollback`
        // applies, so neither may run.
        let deferred = std::mem::take(&mut self.frame().deferred);
        let committed = match self.shares_commit {
            true => self.conn.commit_shared().await,
            false => self.conn.commit_raw().await.map_err(CommitFailed::Statement),
        };
        let Err(failed) = committed else {
            self.open = false;
            let frame = self.conn.state.frames.pop().unwrap_or_default();
            if self.is_outermost() {
                self.conn.set_idle();
                self.conn.end_turn();
                measure::transaction(true, frame.since);
            }
            return Ok(deferred);
        };
        let error = match failed {
            CommitFailed::Statement(error) if !is_not_committed(&error) => error,
            refused => {
                let error = Error::from(refused);
                self.frame().deferred = deferred;
                let _ = self.undo().await;
                return Err(error);
            }
        };
        tracing::debug!(%error, "the connection was lost during COMMIT");
        self.open = false;
        self.conn.state.frames.pop();
        self.conn.discard();
        Err(Error::CommitUnknown(error))
    }

    /// Rolls back, and runs what waits for the rollback.
    async fn undo(&mut self) -> Result<()> {
        let is_unit = self.depth == 1 && self.conn.is_in_group();
        let result = match is_unit {
            true => self.conn.roll_back_unit().await,
            false => self.conn.rollback_raw().await,
        };
        self.open = false;
        let frame = self.conn.state.frames.pop().unwrap_or_default();
        if self.is_outermost() {
            measure::transaction(false, frame.since);
        }
        match result {
            // SQLite may have rolled back because of a statement whose future was dropped, together with savepoints that sqlx goes on
            // counting.
            Ok(()) if self.is_outermost() && !is_unit && self.conn.depth_now() > 0 => {
                self.conn.set_unverified();
            }
            Ok(()) if self.is_outermost() => self.conn.set_idle(),
            // The rollback succeeded, so the savepoint still existed and the enclosing transaction is unchanged.
            Ok(()) => self.conn.state.unverified = false,
            Err(_) => {
                // The database has rolled back, or does so when the connection is closed.
                self.conn.abandon("a savepoint could not be rolled back");
                self.conn.set_unverified();
            }
        }
        let (holds, pool) = (self.holds(), self.conn.state.pool());
        if self.depth == 1 {
            match self.conn.is_borrowed() {
                true => self.conn.end_turn(),
                false => drop(self.conn.detach()),
            }
        }
        if !frame.deferred.is_empty() {
            run_even_if_dropped(pool, run_all(frame.deferred, End::RolledBack, holds)).await;
        }
        Ok(result?)
    }

    /// Whether no transaction is open after this one has ended.
    fn is_outermost(&self) -> bool {
        self.depth == 1 && !self.conn.state.foreign
    }

    /// The pool from which a callback of this savepoint must not acquire a connection, because it would deadlock: SQLite allows one
    /// writer, which is the enclosing transaction.
    fn holds(&self) -> Option<PoolId> {
        let waits = self.depth > 1 && self.conn.kind() == DatabaseKind::Sqlite;
        if waits { self.conn.state.pool() } else { None }
    }
}

impl<'c> Deref for Transaction<'c> {
    type Target = Conn<'c>;

    fn deref(&self) -> &Conn<'c> {
        &self.conn
    }
}

impl<'c> DerefMut for Transaction<'c> {
    fn deref_mut(&mut self) -> &mut Conn<'c> {
        &mut self.conn
    }
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("conn", &self.conn).field("depth", &self.depth).finish()
    }
}

/// Whether a COMMIT that failed with this error has certainly not committed: the database reported the error, or COMMIT was never
/// sent.
fn is_not_committed(error: &sqlx::Error) -> bool {
    // Without a connection, COMMIT was not sent.
    matches!(error, sqlx::Error::Database(_) | sqlx::Error::PoolClosed) || was_never_sent(error)
}

connects!(<'x> &'c mut Transaction<'x>, |self| self.reborrow().into());

/// The result of a commit, with the connection for the caller.
impl<T: Send> Detached for (Result<T>, Option<Conn<'static>>) {
    fn log(self) {
        self.0.log();
    }
}
