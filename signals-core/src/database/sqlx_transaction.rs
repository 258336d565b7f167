//! Transactions and savepoints as sqlx counts them on a connection: their depth, begin, commit and rollback.

use futures_util::future::{BoxFuture, Either, Ready, ready};
#[cfg(feature = "sqlite")]
use sqlx::{Executor, Sqlite};
use sqlx::{SqlSafeStr, SqlStr};

use crate::database::backend::{AnyRow, DatabaseKind, on};
use crate::database::begin::TransactionOptions;
use crate::database::conn::Conn;
use crate::database::execution::Execution;
use crate::database::group::ROLL_BACK_UNIT;
use crate::database::raw::{self, RawConn};
use crate::error::{Error, Result};

impl Conn<'_> {
    /// SQLite itself rolls back the whole transaction if the disk is full, or if the SQL contains `OR ROLLBACK`. The next
    /// statements would then commit one by one. This sends a BEGIN: it fails if the transaction is still open; if it succeeds,
    /// the transaction was rolled back, and the new one is marked as failed.
    pub(crate) async fn keep_in_transaction(&mut self) {
        if self.kind() != DatabaseKind::Sqlite {
            return;
        }
        let (unverified, mark) = self.state.mark();
        self.state.fail_if_dropped();
        #[cfg(feature = "sqlite")]
        if let Some(RawConn::Sqlite(conn)) = self.raw()
            && (&mut *conn).execute("BEGIN").await.is_ok()
        {
            // sqlx still counts the savepoints and will name them in later statements, so they must exist again.
            for depth in 1..raw::depth::<Sqlite>(conn) {
                let savepoint = format!("SAVEPOINT _sqlx_savepoint_{depth}");
                let _ = (&mut *conn).execute(sqlx::AssertSqlSafe(savepoint)).await;
            }
            self.state.fail_all("SQLite rolled the transaction back after a statement failed");
        }
        self.state.set_mark(unverified, mark);
    }

    /// How many transactions and savepoints sqlx counts, after a pending rollback was executed.
    pub(crate) fn depth(&mut self) -> Either<Ready<usize>, BoxFuture<'_, usize>> {
        let depth = self.depth_now();
        if depth == 0 || self.in_transaction() || self.kind() == DatabaseKind::Postgres {
            return Either::Left(ready(depth));
        }
        // If a transaction was just dropped, SQLite's worker thread may not have executed the rollback yet.
        Either::Right(Box::pin(async move {
            self.flush().await;
            self.depth_now()
        }))
    }

    /// As [`depth`](Self::depth), inside an outermost transaction: waits if a savepoint may just have been dropped.
    pub(super) async fn settled_depth(&mut self) -> usize {
        if self.depth_now() > 1 {
            self.flush().await;
        }
        self.depth_now()
    }

    /// As [`depth`](Self::depth), without waiting for a pending rollback.
    pub(crate) fn depth_now(&mut self) -> usize {
        self.raw().map_or(0, |raw| on!(RawConn, raw, DB, conn => raw::depth::<DB>(conn)))
    }

    /// Verifies that a savepoint can begin. If Postgres refused a SAVEPOINT because a statement has failed in the transaction,
    /// sqlx would roll back one level too many.
    pub(crate) async fn verify_for_savepoint(&mut self) -> Result<()> {
        self.verify().await?;
        let has_not_failed = self.state.frames.last().is_some_and(|frame| frame.failed.is_none());
        if !has_not_failed && self.kind() == DatabaseKind::Postgres {
            let result = Execution::plain(self.connected(), SqlStr::from_static("SELECT 1"));
            let result = result.run_to_end(&mut |_| ()).await;
            self.note_result(result).await?;
        }
        Ok(())
    }

    /// Begins a transaction or savepoint, and returns whether it may write.
    pub(crate) async fn begin_raw(&mut self, options: TransactionOptions) -> Result<bool> {
        self.ensure_connected().await?;
        let raw = self.connected().ok_or(Error::Database(sqlx::Error::PoolClosed))?;
        let result = on!(RawConn, raw, DB, conn => raw::begin::<DB>(conn, options).await);
        Ok(self.note_answer(result)?)
    }

    /// Makes SQLite reject writes on a pooled connection until it is returned. Returns without effect if it rejects them already.
    pub(crate) async fn forbid_writes(&mut self) -> Result<()> {
        self.ensure_connected().await?;
        let mut forbidden = false;
        let asked = Execution::plain(self.connected(), SqlStr::from_static("PRAGMA query_only"));
        let sink = &mut |row: AnyRow| forbidden = row.scalar().is_ok_and(|on| on != 0);
        let asked = asked.run_to_end(sink).await;
        self.note_result(asked).await?;
        if forbidden {
            return Ok(());
        }
        // Before the await, because the future may be dropped while the statement runs.
        if let Some(lease) = self.lease_mut() {
            lease.state_mut().query_only = true;
        }
        let sql = SqlStr::from_static("PRAGMA query_only = ON");
        let result = Execution::plain(self.connected(), sql).run_to_end(&mut |_| ()).await;
        self.note_result(result).await.map(drop)
    }

    pub(crate) async fn commit_raw(&mut self) -> Result<(), sqlx::Error> {
        self.set_in_flight();
        let Some(raw) = self.raw() else { return Err(sqlx::Error::PoolClosed) };
        let result = on!(RawConn, raw, DB, conn => raw::commit::<DB>(conn).await);
        self.note_answer(result)
    }

    pub(crate) async fn rollback_raw(&mut self) -> Result<(), sqlx::Error> {
        self.set_in_flight();
        let Some(raw) = self.raw() else { return Ok(()) };
        let result = on!(RawConn, raw, DB, conn => raw::rollback::<DB>(conn).await);
        if result.is_ok() {
            return self.note_answer(result);
        }
        if !matches!(result, Err(sqlx::Error::Database(_))) {
            return result;
        }
        // On SQLite, the transaction no longer existed but sqlx still counts it, so one is begun for sqlx to roll back. On
        // Postgres, this may be the error of an earlier statement.
        self.keep_in_transaction().await;
        let Some(raw) = self.raw() else { return Ok(()) };
        let retried = on!(RawConn, raw, DB, conn => raw::rollback::<DB>(conn).await);
        self.note_answer(retried)
    }

    /// On SQLite, undoes all changes of the innermost transaction or savepoint, and keeps it open.
    pub(crate) async fn undo_raw(&mut self) -> Result<()> {
        let sql = match self.depth_now() {
            1 if self.is_in_group() => ROLL_BACK_UNIT.to_owned(),
            0 | 1 => {
                format!("ROLLBACK; {}", self.begin_options().statement(self.kind()).as_str())
            }
            // sqlx's name for the savepoint.
            depth => format!("ROLLBACK TO _sqlx_savepoint_{}", depth - 1),
        };
        let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
        // If the future is dropped between the two statements, no transaction is open.
        self.state.fail_if_dropped();
        let result = Execution::plain(self.connected(), sql).run_to_end(&mut |_| ()).await;
        if result.is_ok() {
            self.state.set_mark(false, None);
        }
        self.note_result(result).await.map(drop)
    }

    /// Queues a rollback, which the connection executes before its next statement.
    pub(crate) fn start_rollback(&mut self) {
        self.set_in_flight();
        if let Some(raw) = self.raw() {
            on!(RawConn, raw, DB, conn => raw::start_rollback::<DB>(conn));
        }
    }

    /// Waits until all queued statements of the connection were executed.
    pub(crate) async fn flush(&mut self) {
        let _ = self.ping().await;
    }

    /// Checks whether the connection still works.
    pub(crate) async fn ping(&mut self) -> Result<(), sqlx::Error> {
        let Some(raw) = self.raw() else { return Ok(()) };
        on!(RawConn, raw, DB, conn => {
            let conn: &mut <DB as sqlx::Database>::Connection = conn;
            sqlx::Connection::ping(conn).await
        })
    }
}

impl Conn<'_> {
    /// Rolls back the innermost transaction or savepoint and begins it again. If it was marked as failed, it stays so.
    pub(crate) async fn begin_again(&mut self) -> Result<()> {
        if self.kind() == DatabaseKind::Sqlite {
            // In one call: between a separate rollback and begin, sqlx would count one transaction less than there are frames,
            // and the future may be dropped there.
            return self.undo_raw().await;
        }
        let options = self.begin_options();
        let guard = BeginGuard::new(self);
        guard.conn.rollback_raw().await?;
        guard.conn.begin_raw(options).await?;
        guard.disarm();
        Ok(())
    }

    /// How the outermost transaction was begun.
    fn begin_options(&self) -> TransactionOptions {
        self.state.frames.first().map(|frame| frame.begin).unwrap_or_default()
    }
}

/// On Postgres, abandons the connection if a BEGIN or SAVEPOINT fails, or if its future is dropped. After a dropped BEGIN, the
/// connection may be in a transaction that sqlx does not count. After a failed or dropped SAVEPOINT, sqlx rolls back the outer
/// transaction. On SQLite, nothing has to be done: sqlx's worker undoes a BEGIN whose future was dropped.
pub(crate) struct BeginGuard<'o, 'c> {
    pub(crate) conn: &'o mut Conn<'c>,
    armed: bool,
}

impl<'o, 'c> BeginGuard<'o, 'c> {
    pub(crate) fn new(conn: &'o mut Conn<'c>) -> Self {
        Self { conn, armed: true }
    }

    pub(crate) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for BeginGuard<'_, '_> {
    fn drop(&mut self) {
        if self.armed && self.conn.kind() == DatabaseKind::Postgres {
            self.conn
                .abandon("the beginning of a savepoint failed, or was dropped before it was done");
        }
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use crate::database::db::Db;

    #[tokio::test]
    async fn a_commit_without_a_connection_is_an_error() {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        let mut conn = db.acquire().await.unwrap();
        drop(conn.take());
        assert!(conn.commit_raw().await.is_err());
    }
}
