//! Writes of one row without receivers: on a connection that is free, or as a unit of a group that shares a COMMIT.

use futures_util::future::BoxFuture;
use tracing::Span;

use crate::database::backend::Arguments;
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::detached::OnDetached;
use crate::database::group::GroupEnd;
use crate::database::queued_statement::Executable;
use crate::database::source::Source;
use crate::database::state::Autocommit;
use crate::database::turn::Granted;
use crate::database::writer::Writer;
use crate::error::driver::may_be_committed;
use crate::error::{Error, Result};
use crate::signal::rows::SignalRows;
use crate::table::rows::Rows;
use crate::write::delete::{self, delete_directly, delete_one};
use crate::write::own_transaction::{inspect_and_write, write_in_transaction};
use crate::write::restore::RestoreGuard;
use crate::write::save::{save_directly, stamp};
use crate::write::single::{Single, store};
use crate::write::span::record_system;
use crate::write::{TakeAnswer, WriteKind, WriteOutcome};

/// Why a write cannot begin at once with a statement that commits itself.
pub(super) enum Contended<'c> {
    /// It has to wait for its connection.
    Waits(Source<'c>),
    /// Other writers wait for the connection, or it may need a transaction.
    Shares(Conn<'c>),
}

/// Takes a connection to write the single row in `rows` with a statement that commits itself, if it is free.
pub(super) fn try_acquire<'c>(
    mut source: Source<'c>,
    rows: &dyn SignalRows,
    kind: &WriteKind,
    span: &Span,
) -> Result<Result<Conn<'c>, Contended<'c>>> {
    record_system(span, source.kind());
    let is_single = is_single(&mut source, rows, kind);
    Ok(match source.try_acquire_to_write(writer(rows, kind, is_single))? {
        Err(source) => Err(Contended::Waits(source)),
        Ok(conn) => {
            let mut conn = with_autocommit(conn, is_single);
            if conn.commits_alone() { Ok(conn) } else { Err(Contended::Shares(conn)) }
        }
    })
}

fn is_single(source: &mut Source<'_>, rows: &dyn SignalRows, kind: &WriteKind) -> bool {
    let database = source.kind();
    source.in_transaction()
        || source.facts().commits_itself(database, rows.as_rows(), kind) == Some(true)
}

fn writer(rows: &dyn SignalRows, kind: &WriteKind, is_single: bool) -> Writer {
    Writer::of(kind.write_verb(), rows.model()).sharing_commit(is_single)
}

fn with_autocommit(mut conn: Conn<'_>, is_single: bool) -> Conn<'_> {
    conn.state.autocommit = if is_single { Autocommit::Plain } else { Autocommit::Uninspected };
    conn
}

/// Writes the single row in `rows` if it has to wait for a connection, or shares the COMMIT of its connection.
pub(super) fn share_commit<'w>(
    rows: &'w mut dyn SignalRows,
    contended: Contended<'w>,
    kind: WriteKind,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    match contended {
        Contended::Waits(source) => wait_and_write(rows, source, kind),
        Contended::Shares(conn) => write(rows, conn, kind),
    }
}

/// Waits for a connection, and writes the single row in `rows`. If its only statement is known, it may be executed by another task meanwhile.
fn wait_and_write<'w>(
    rows: &'w mut dyn SignalRows,
    mut source: Source<'w>,
    kind: WriteKind,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    Box::pin(async move {
        let is_single = is_single(&mut source, rows, &kind);
        let writer = writer(rows, &kind, is_single);
        let conn = match source {
            Source::Db(db) if is_single => match wait_or_leave(rows, &db, writer, &kind).await? {
                Waited::Connection(conn) => conn,
                Waited::Written(outcome) => return Ok(outcome),
                Waited::NotFound => return continue_alone(rows, &db, writer, kind).await,
                Waited::RolledBack => return write_alone(rows, &db, kind).await,
            },
            source => source.acquire_to_write(writer).await?,
        };
        let mut conn = with_autocommit(conn, is_single);
        if !conn.commits_alone() {
            return write(rows, conn, kind).await;
        }
        let done = match kind {
            WriteKind::Delete => delete_directly(rows, &mut conn).await,
            _ => save_directly(rows, &mut conn, &kind).await.map(WriteOutcome::of_save),
        };
        match conn.state.take_needs_transaction(&done) {
            true => write_in_transaction(rows, conn, &kind, false).await,
            false => done,
        }
    })
}

/// The end of the wait of a writer.
enum Waited {
    Connection(Conn<'static>),
    Written(WriteOutcome),
    /// Its statement was executed and has not found a row.
    NotFound,
    /// Its statement was executed and rolled back.
    RolledBack,
}

/// Waits for a connection, and leaves the statement of the write in the queue, if it is known.
async fn wait_or_leave(
    rows: &mut dyn SignalRows,
    db: &Db,
    writer: Writer,
    kind: &WriteKind,
) -> Result<Waited> {
    let Some((only, sql)) = OnlyStatement::of(rows, db, kind) else {
        return Ok(Waited::Connection(db.acquire_to_write(writer).await?));
    };
    // The columns that are stamped get back their values, unless the statement is executed.
    let mut restore_guard = RestoreGuard::new(rows);
    if *kind != WriteKind::Delete {
        stamp(restore_guard.rows, kind);
    }
    let granted = {
        let rows = restore_guard.rows.as_rows();
        let bind = |args: &mut Arguments| only.bind(rows, args);
        db.wait_to_write(writer, Some(Executable { sql, bind: &bind })).await?
    };
    let (answer, end) = match granted {
        Granted::Connection(lease) => {
            return Ok(Waited::Connection(Conn::with_lease(Some(lease), db.clone())));
        }
        Granted::Executed(answer, end) => (answer, end),
    };
    if let GroupEnd::RolledBack(_) = end {
        return Ok(Waited::RolledBack);
    }
    let done = match answer {
        Ok(answer) => TakeAnswer::take(only.take(), restore_guard.rows, answer),
        Err(error) if matches!(end, GroupEnd::Unknown) && may_be_committed(&error, false) => {
            Err(only.not_known(restore_guard.rows, error))
        }
        Err(error) => Err(error.into()),
    };
    let may_be_stored = match &done {
        Ok(outcome) => outcome.len() > 0,
        Err(error) => matches!(error, Error::CommitUnknown(_)),
    };
    if may_be_stored {
        restore_guard.disarm();
    }
    match (end, done) {
        (GroupEnd::Unknown, Err(error @ Error::CommitUnknown(_))) => Err(error),
        (GroupEnd::Unknown, _) => Err(Error::CommitUnknown(sqlx::Error::WorkerCrashed)),
        (_, Ok(outcome)) if outcome.len() == 0 => Ok(Waited::NotFound),
        (_, done) => done.map(Waited::Written),
    }
}

/// The statement of a write of one row that needs no other one.
enum OnlyStatement {
    Save(Single),
    Delete,
}

impl OnlyStatement {
    /// With its text. Returns `None` if the write may need another statement.
    fn of(rows: &dyn SignalRows, db: &Db, kind: &WriteKind) -> Option<(Self, &'static str)> {
        let is_sent = !kind.is_update() || rows.has_key(0);
        // Also `None` on PostgreSQL, which has no such queue.
        if !is_sent || db.facts().defers_constraints() != Some(false) {
            return None;
        }
        match kind {
            WriteKind::Delete => {
                let counted = db.facts().counted(db.kind(), rows.as_rows());
                let is_sufficient = rows.has_key(0) && counted == Some(true);
                is_sufficient.then_some((Self::Delete, rows.schema().delete))
            }
            // If the row is new, an INSERT follows the UPDATE.
            WriteKind::Save if rows.has_key(0) && !rows.schema().generates_key() => None,
            kind => {
                let single = Single::of(rows.as_rows(), kind, db.kind())?;
                let sql = single.text().fixed()?;
                Some((Self::Save(single), sql))
            }
        }
    }

    fn bind(&self, rows: &dyn Rows, args: &mut Arguments) -> Result<(), sqlx::Error> {
        match self {
            Self::Save(single) => single.text().bind(rows, args),
            Self::Delete => delete::bind(rows, args),
        }
    }

    /// Sets what is known of the row if its answer is lost.
    fn not_known(&self, rows: &mut dyn Rows, error: sqlx::Error) -> Error {
        let error = Error::CommitUnknown(error);
        match self {
            Self::Save(single) => single.not_known(rows, None, error),
            Self::Delete => error,
        }
    }

    /// Reads the answer.
    fn take(&self) -> OnDetached {
        match self {
            Self::Save(single) => single.on_detached(),
            Self::Delete => delete::on_detached(),
        }
    }
}

/// Writes the single row in `rows` with a single statement, in a transaction that other writes share. If this transaction is rolled
/// back, or a single statement is not sufficient, the row is written by itself.
fn write<'w>(
    rows: &'w mut dyn SignalRows,
    mut conn: Conn<'w>,
    kind: WriteKind,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    Box::pin(async move {
        let is_single = conn.state.autocommit != Autocommit::Uninspected;
        conn.state.autocommit = Autocommit::Plain;
        if !is_single || !conn.join_group().await? {
            return inspect_and_write(rows, conn, kind).await;
        }
        let db = conn.state.db.clone();
        if let Some(done) = write_unit(rows, conn, &kind).await {
            return done;
        }
        let Some(db) = db else { return Err(sqlx::Error::PoolClosed.into()) };
        write_alone(rows, &db, kind).await
    })
}

/// Continues a write whose first statement has found no row.
async fn continue_alone(
    rows: &mut dyn SignalRows,
    db: &Db,
    writer: Writer,
    kind: WriteKind,
) -> Result<WriteOutcome> {
    if kind == WriteKind::Delete && db.facts().plain(rows.as_rows()) {
        return Ok(WriteOutcome::default());
    }
    let conn = db.acquire_to_write(writer.sharing_commit(false)).await?;
    write_in_transaction(rows, conn, &kind, true).await
}

/// Writes the single row in `rows` on a connection of its own, and shares no COMMIT.
async fn write_alone(rows: &mut dyn SignalRows, db: &Db, kind: WriteKind) -> Result<WriteOutcome> {
    let conn = db.acquire_to_write(Writer::of(kind.write_verb(), rows.model())).await?;
    inspect_and_write(rows, conn, kind).await
}

/// Returns `None` if nothing is stored and the write has to run again by itself.
///
/// An error is returned only after the COMMIT too: it may be the effect of a row that another unit has written.
async fn write_unit(
    rows: &mut dyn SignalRows,
    mut conn: Conn<'_>,
    kind: &WriteKind,
) -> Option<Result<WriteOutcome>> {
    // If the transaction is rolled back, the row gets back its key and version.
    let mut restore_guard = RestoreGuard::new(rows);
    let done = match kind {
        WriteKind::Delete => delete_one(restore_guard.rows, &mut conn).await,
        kind => {
            stamp(restore_guard.rows, kind);
            store(&mut conn, restore_guard.rows, kind, false).await.map(WriteOutcome::of_save)
        }
    };
    let needs_transaction = conn.state.take_needs_transaction(&done);
    if done.is_ok() {
        // Before the await: if the future is dropped during the COMMIT, the row may be stored, and its next write needs its key and
        // version.
        restore_guard.disarm();
    }
    match conn.leave_group(done.is_err()).await {
        GroupEnd::Committed if !needs_transaction => Some(done),
        GroupEnd::Unknown => Some(Err(Error::CommitUnknown(sqlx::Error::WorkerCrashed))),
        GroupEnd::Committed | GroupEnd::RolledBack(_) => {
            if done.is_ok() {
                restore_guard.restore();
            }
            None
        }
    }
}
