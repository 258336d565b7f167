//! Begin, commit and roll back transactions and savepoints, and run the callbacks that wait for their end.
//!
//! May import: `error`, `task`, `database`.

mod adopt;
mod begin;
mod callback;
pub(crate) mod closure;
mod dropped;
mod end;
pub(crate) mod guard;
pub(crate) mod own;
pub(crate) mod retry;

use std::ops::{Deref, DerefMut};
use std::panic::Location;

use crate::database::backend::DatabaseKind;
use crate::database::begin::TransactionOptions;
use crate::database::conn::Conn;
use crate::database::deferred::End;
use crate::database::source::connects;
use crate::database::sqlx_transaction::BeginGuard;
use crate::database::state::Frame;
use crate::database::verify::LEFT_OPEN;
use crate::database::writer::Writer;
use crate::error::driver::did_nothing;
use crate::error::{Error, Outcome, Result};
use crate::task::finish::Detached;
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
    /// Whether it may share its COMMIT with other writes. Not set any more once COMMIT was sent.
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
        Self::open_with(conn, TransactionOptions::default(), None).await
    }

    /// As [`open`](Self::open), with options for the transaction. `site`: where the program begins it.
    pub(crate) async fn open_with(
        mut conn: Conn<'c>,
        options: TransactionOptions,
        site: Option<&'static Location<'static>>,
    ) -> Result<Self> {
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
            conn.wait_for_turn(Writer::transaction(site)).await?;
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
        // Counted after BEGIN, because SQLite's worker executes the rollbacks of dropped savepoints before it.
        let sqlx_depth = if is_unit { 1 } else { conn.depth_now() };
        conn.state.frames.push(Frame { begin: options, sqlx_depth, ..Frame::default() });
        let depth = conn.state.frames.len();
        Ok(Self { conn, depth, open: true, is_releasing: false, shares_commit: false })
    }

    /// Rolls back the transaction after one of its prepared statements was refused as outdated, and begins it again. Only call this
    /// if no receiver has run in it.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.conn.begin_again().await?;
        let &mut Frame { begin, sqlx_depth, .. } = self.frame();
        *self.frame() = Frame { begin, sqlx_depth, ..Frame::default() };
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

    /// Rolls back if the transaction is marked as failed, and returns the reason as [`Error::RolledBack`]. Otherwise passes the
    /// changes of the transaction to the receivers that run once per transaction, writes what it has collected for its commit, executes
    /// what precedes a COMMIT that other writes share, and rolls back if that fails.
    pub(crate) async fn check(&mut self) -> Result<()> {
        let _ = self.conn.verify().await;
        if !self.is_innermost().await {
            self.frame().failed.get_or_insert_with(|| LEFT_OPEN.into());
        }
        let Some(reason) = self.frame().failed.take() else {
            if self.depth == 1 {
                self.conn.finish_changes();
            }
            if self.depth == 1 && self.frame().outbox.is_some() {
                self.write_outbox().await?;
            }
            if self.shares_commit
                && let Err(error) = self.conn.prepare_shared_commit().await
            {
                let _ = self.undo().await;
                return Err(error.into());
            }
            return Ok(());
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

    pub(crate) fn frame(&mut self) -> &mut Frame {
        self.conn.state.frames.get_mut(self.depth - 1).expect("an open transaction has a frame")
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

connects!(<'x> &'c mut Transaction<'x>, |self| self.reborrow().into());

/// The result of a commit, with the connection for the caller.
impl<T: Send> Detached for (Result<T>, Option<Conn<'static>>) {
    fn log(self) {
        self.0.log();
    }
}
