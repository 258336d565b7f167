//! Begin, commit and roll back transactions and savepoints, and run the callbacks that wait for their end.
//!
//! May import: `error`, `task`, `database`.

pub(crate) mod closure;
pub(crate) mod guard;
pub(crate) mod own;

use std::ops::{Deref, DerefMut};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::deferred::{Deferred, End, run_all};
use crate::database::source::connects;
use crate::database::sqlx_transaction::BeginGuard;
use crate::database::state::{Frame, NO_MARK};
use crate::error::Outcome;
use crate::error::driver::{did_nothing, was_never_sent};
use crate::error::{Error, Panicked, Reason, Result};
use crate::task::chain::PoolId;
use crate::task::finish::{Detached, finish};
use crate::task::spawn;
use crate::transaction::closure::TransactionClosure;

/// A transaction, or a savepoint inside one. Dropped without [`commit`](Transaction::commit) it is rolled back.
///
/// It is a [`Conn`] too: saves, queries and helper functions that take `&mut Conn<'_>` take `&mut tx`.
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
    /// How many frames are open with this one.
    depth: usize,
    /// Whether a drop must roll back.
    open: bool,
    /// The end of a savepoint was under way when it was dropped: it may be in the transaction or not.
    doubtful: bool,
}

/// What came of a commit.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Committed {
    /// What `on_commit` receivers and callbacks returned as errors, or panicked with. The transaction is stored all
    /// the same, and every other receiver has run.
    pub errors: Vec<Error>,
}

impl<'c> Transaction<'c> {
    pub(crate) async fn open(mut conn: Conn<'c>) -> Result<Self> {
        conn.verify().await?;
        let depth = conn.depth().await;
        if depth > 0 {
            conn.verify_for_savepoint().await?;
        } else if conn.kind() == DatabaseKind::Postgres && conn.is_in_unknown_transaction().await? {
            // BEGIN would be no error there, and COMMIT would end a transaction that was begun by somebody else.
            let (statement, instead) = ("BEGIN", "sqlx's `begin`, or `Db::begin`");
            return Err(Error::TransactionControl { statement, instead });
        }
        let guard = BeginGuard::new(&mut conn);
        // What has but begun is nothing, whatever became of it.
        let lost = |error: &sqlx::Error| did_nothing(error) || matches!(error, sqlx::Error::Io(_));
        while let Err(error) = guard.conn.begin_raw().await {
            guard.conn.reconnect(error, lost).await?;
        }
        guard.disarm();
        if conn.state.frames.is_empty() {
            conn.state.foreign = depth > 0;
        }
        conn.state.count_statement();
        conn.state.frames.push(Frame::default());
        let depth = conn.state.frames.len();
        Ok(Self { conn, depth, open: true, doubtful: false })
    }

    /// Rolls this transaction back after one of its statements was refused as outdated, and begins it again. No receiver may have
    /// been told of anything in it.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.conn.begin_again().await?;
        *self.frame() = Frame::default();
        Ok(())
    }

    /// Runs `callback` after the outermost transaction has committed, in order with the `on_commit` receivers of what
    /// was saved before and after this call. A rolled-back transaction or savepoint forgets it, as in
    /// [Django](https://docs.djangoproject.com/en/stable/topics/db/transactions/#performing-actions-after-commit).
    ///
    /// It returns nothing or a `Result<(), E>`; an error is logged, and comes back in [`Committed::errors`].
    pub fn on_commit<F>(&mut self, callback: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.conn.state.defer(Box::new(Callback { callback, when: End::Committed }));
    }

    /// Runs `callback` after this transaction or savepoint, or one around it, was rolled back.
    pub fn on_rollback<F>(&mut self, callback: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.conn.state.defer(Box::new(Callback { callback, when: End::RolledBack }));
    }

    /// Commits, and then runs what waited for it; a savepoint is released, and hands what waits to the transaction
    /// around it.
    ///
    /// # Errors
    ///
    /// [`Error::CommitNotObservable`] if there are callbacks and the transaction around this savepoint was begun by raw SQL.
    /// [`Error::RolledBack`] where something in the transaction had failed before, [`Error::Database`] where COMMIT
    /// itself fails: nothing is stored then, and the `on_rollback` receivers have run. [`Error::CommitUnknown`] where
    /// the connection was lost meanwhile.
    ///
    /// # Cancel safety
    ///
    /// A dropped future rolls back where COMMIT was not yet sent. After that, commit and callbacks are finished on a
    /// task of their own; through a connection that was borrowed from sqlx there is no such task, and callbacks are
    /// lost.
    pub async fn commit(mut self) -> Result<Committed> {
        self.check().await?;
        self.commit_checked().await
    }

    /// As [`commit`](Self::commit), after [`check`](Self::check): as soon as the future is polled, COMMIT may be sent.
    pub(crate) async fn commit_checked(mut self) -> Result<Committed> {
        if self.depth > 1 {
            return self.release().await;
        }
        if self.conn.state.foreign && self.frame().deferred.iter().any(|all| all.is_callback()) {
            // The transaction around this savepoint is not over, and its end is not seen.
            let _ = self.undo().await;
            let (model, receiver) = ("Transaction", "Transaction::on_commit");
            return Err(Error::CommitNotObservable { model, receiver });
        }
        if self.frame().deferred.is_empty() {
            return self.commit_outermost().await.map(|_| Committed::default());
        }
        let Some(conn) = self.conn.detach() else {
            let deferred = self.commit_outermost().await?;
            return Ok(Committed { errors: finish(run_all(deferred, End::Committed, None)).await });
        };
        // The transaction goes on in the future below, which rolls back where it is dropped before it begins.
        self.open = false;
        let mut tx = Transaction { conn, depth: 1, open: true, doubtful: false };
        let hold = self.conn.is_borrowed();
        let (committed, conn) = finish(async move {
            let committed = tx.commit_outermost().await;
            // A callback may want the connection: back to the pool with it, unless somebody waits for it.
            let conn = std::mem::replace(&mut tx.conn, Conn::disconnected());
            let conn = hold.then_some(conn);
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

    /// Rolls back where something has failed, and the rest must not be committed.
    pub(crate) async fn check(&mut self) -> Result<()> {
        let _ = self.conn.verify().await;
        let Some(reason) = self.frame().failed.take() else { return Ok(()) };
        // Where even this fails, the database rolls back with the end of the connection.
        let _ = self.undo().await;
        Err(Error::RolledBack { reason })
    }

    /// Rolls back, and runs the `on_rollback` receivers.
    ///
    /// # Errors
    ///
    /// Where the connection is broken; the transaction is rolled back all the same.
    ///
    /// # Cancel safety
    ///
    /// A dropped future rolls back, as dropping the transaction does.
    pub async fn rollback(mut self) -> Result<()> {
        self.undo().await
    }

    /// As [`rollback`](Self::rollback), where another error is the answer already.
    pub(crate) async fn rollback_or_log(self) {
        if let Err(error) = self.rollback().await {
            tracing::warn!(%error, "a rollback failed");
        }
    }

    pub(crate) fn frame(&mut self) -> &mut Frame {
        self.conn.state.frames.last_mut().expect("an open transaction has a frame")
    }

    async fn release(&mut self) -> Result<Committed> {
        // Should this future be dropped now, nobody knows whether the savepoint was released.
        self.doubtful = true;
        let released = self.conn.commit_raw().await;
        self.doubtful = false;
        if let Err(error) = released {
            let _ = self.undo().await;
            return Err(Error::RolledBack { reason: Reason::of_statement(&error) });
        }
        self.open = false;
        let frame = self.conn.state.frames.pop().unwrap_or_default();
        self.frame().deferred.extend(frame.deferred);
        Ok(Committed::default())
    }

    /// COMMIT of the outermost transaction; returns who waits for it.
    async fn commit_outermost(&mut self) -> Result<Vec<Box<dyn Deferred>>> {
        // Out of the way first: dropped from here on, nobody could tell whether they may run.
        let deferred = std::mem::take(&mut self.frame().deferred);
        let committed = self.conn.commit_raw().await;
        let Err(error) = committed else {
            self.open = false;
            self.conn.state.frames.pop();
            if self.is_outermost() {
                self.conn.set_idle();
            }
            return Ok(deferred);
        };
        if is_certain(&error) {
            self.frame().deferred = deferred;
            let _ = self.undo().await;
            return Err(error.into());
        }
        tracing::debug!(%error, "the connection was lost during COMMIT");
        self.open = false;
        self.conn.state.frames.pop();
        self.conn.discard();
        Err(Error::CommitUnknown(error))
    }

    async fn undo(&mut self) -> Result<()> {
        let undone = self.conn.rollback_raw().await;
        self.open = false;
        let frame = self.conn.state.frames.pop().unwrap_or_default();
        match undone {
            Ok(()) if self.is_outermost() => self.conn.set_idle(),
            // A savepoint that could be rolled back was still there.
            Ok(()) => self.conn.state.unverified = false,
            Err(_) => {
                // The database has rolled back, or will when the connection is closed.
                self.conn.abandon("a savepoint could not be rolled back");
                self.conn.set_unverified();
            }
        }
        let holds = self.holds();
        if self.depth == 1 && !self.conn.is_borrowed() {
            drop(self.conn.detach());
        }
        if !frame.deferred.is_empty() {
            finish(run_all(frame.deferred, End::RolledBack, holds)).await;
        }
        Ok(undone?)
    }

    /// Whether no transaction is open when this has ended.
    fn is_outermost(&self) -> bool {
        self.depth == 1 && !self.conn.state.foreign
    }

    /// The pool that a callback would wait for in vain: SQLite has one writer, and it is the transaction around this
    /// savepoint.
    fn holds(&self) -> Option<PoolId> {
        let waits = self.depth > 1 && self.conn.kind() == DatabaseKind::Sqlite;
        if waits { self.conn.state.pool() } else { None }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let holds = self.holds();
        // Outside a runtime, callbacks run in that of the connection.
        let runtime = Handle::try_current().ok().or_else(|| self.conn.runtime());
        let ended: Vec<_> = self.conn.state.frames.drain(self.depth - 1..).collect();
        if ended.iter().any(|frame| frame.mark == Some(NO_MARK)) {
            self.conn.state.fail_all("a statement that may have ended it was dropped");
        }
        let deferred: Vec<_> = ended.into_iter().flat_map(|frame| frame.deferred).collect();
        if self.doubtful {
            self.conn.abandon("the commit of a savepoint was dropped before it was done");
        }
        if self.conn.state.unverified {
            // The rollback fails if the transaction has ended already, and sqlx goes on counting it.
            self.conn.set_unverified();
        }
        self.conn.start_rollback();
        if deferred.is_empty() {
            return;
        }
        let own =
            if self.depth == 1 && !self.conn.is_borrowed() { self.conn.detach() } else { None };
        if let Some(runtime) = runtime {
            spawn::spawn(&runtime, async move {
                // On Postgres the rollback is only queued so far.
                if let Some(mut conn) = own {
                    conn.flush().await;
                }
                run_all(deferred, End::RolledBack, holds).await;
            });
        }
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

struct Callback<F> {
    callback: F,
    when: End,
}

impl<F> Deferred for Callback<F>
where
    F: Future<Output: Outcome> + Send + 'static,
{
    fn is_callback(&self) -> bool {
        true
    }

    fn run(self: Box<Self>, end: End, _: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        if self.when != end {
            return Box::pin(async { Vec::new() });
        }
        Box::pin(async move {
            let done = std::panic::AssertUnwindSafe(self.callback).catch_unwind().await;
            let error = match done {
                Ok(outcome) => outcome.into_result().err().map(Error::Other),
                Err(payload) => Some(Error::other(Panicked::new(payload))),
            };
            if let Some(error) = &error {
                tracing::error!(
                    error = format_args!("{error:#}"),
                    "a callback failed after its transaction had ended"
                );
            }
            error.into_iter().collect()
        })
    }
}

/// Whether a COMMIT that failed so has certainly not committed: the database said so, or it was never sent.
fn is_certain(error: &sqlx::Error) -> bool {
    // Without a connection, COMMIT was not sent.
    matches!(error, sqlx::Error::Database(_) | sqlx::Error::PoolClosed) || was_never_sent(error)
}

impl Db {
    /// Begins a transaction. On SQLite it takes the write lock at once (`BEGIN IMMEDIATE`), and so waits for its turn
    /// here instead of failing later.
    ///
    /// # Errors
    ///
    /// What the pool or the database refuses; [`Error::WouldDeadlock`] in a receiver that has a connection
    /// of this pool already.
    ///
    /// # Cancel safety
    ///
    /// Nothing has begun where the future is dropped.
    pub async fn begin(&self) -> Result<Transaction<'static>> {
        Transaction::open(self.acquire().await?).await
    }

    /// Runs `work` in a transaction: commits on `Ok`, rolls back on `Err`, and on a panic, which goes on to the
    /// caller. Errors of `on_commit` receivers are logged; [`begin`](Self::begin) and
    /// [`commit`](Transaction::commit) return them.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::Error;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let mut city = City { id: None, name: "Atlantis".into() };
    /// let refused = db
    ///     .transaction(async |tx| {
    ///         city.save(tx).await?;
    ///         Err::<(), _>(Error::other("not on the map"))
    ///     })
    ///     .await;
    /// assert!(refused.is_err() && City::all(&db).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// The closure is written as `async |tx| { … }`. With `|tx| async move { … }`, whose future cannot borrow `tx`, the compiler
    /// answers "implementation of `AsyncFnOnce` is not general enough".
    ///
    /// # Errors
    ///
    /// What `work` returns ([`Error::other`] wraps an error of the program), and what
    /// [`commit`](Transaction::commit) does.
    ///
    /// # Cancel safety
    ///
    /// As [`begin`](Self::begin) and [`commit`](Transaction::commit).
    pub async fn transaction<T, F>(&self, work: F) -> Result<T>
    where
        F: TransactionClosure<T>,
    {
        let (tx, value) = self.begin_with(work).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// Begins a transaction with `work` in it, which is rolled back on `Err`, and on a panic.
    pub(crate) async fn begin_with<T, F>(&self, work: F) -> Result<(Transaction<'static>, T)>
    where
        F: TransactionClosure<T>,
    {
        use futures_util::FutureExt;
        use std::panic::{AssertUnwindSafe, resume_unwind};

        let mut tx = self.begin().await?;
        match AssertUnwindSafe(work(&mut tx)).catch_unwind().await {
            Ok(Ok(value)) => Ok((tx, value)),
            Ok(Err(error)) => {
                tx.rollback_or_log().await;
                Err(error)
            }
            Err(panic) => {
                tx.rollback_or_log().await;
                resume_unwind(panic)
            }
        }
    }
}

impl Conn<'_> {
    /// Begins a transaction, or a savepoint where there is one already.
    ///
    /// # Errors
    ///
    /// What the database refuses.
    ///
    /// # Cancel safety
    ///
    /// Nothing has begun where the future is dropped. On Postgres an outer transaction can then only be rolled back.
    pub async fn begin(&mut self) -> Result<Transaction<'_>> {
        Transaction::open(self.reborrow()).await
    }
}

connects!(<'x> &'c mut Transaction<'x>, |self| self.reborrow().into());

/// A commit, with the connection that its caller would have got back.
impl<T: Send> Detached for (Result<T>, Option<Conn<'static>>) {
    fn log(self) {
        self.0.log();
    }
}
