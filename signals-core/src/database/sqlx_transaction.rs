//! Transactions as sqlx has them on a connection: their depth, their beginning and their end.

#[cfg(feature = "sqlite")]
use sqlx::{Executor, Sqlite};
use sqlx::{SqlSafeStr, SqlStr};

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::execution::Execution;
use crate::database::raw::{self, RawConn, on};
use crate::error::{Error, Result};

impl Conn<'_> {
    /// SQLite rolls a whole transaction back by itself where a disk is full, or where the SQL says `OR ROLLBACK`;
    /// what came after would then be stored at once, one by one. A BEGIN fails inside a transaction, and is the way to
    /// be in one again where it does not.
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
            // sqlx counts savepoints by their depth, and will name those that are gone.
            for depth in 1..raw::depth::<Sqlite>(conn) {
                let savepoint = format!("SAVEPOINT _sqlx_savepoint_{depth}");
                let _ = (&mut *conn).execute(sqlx::AssertSqlSafe(savepoint)).await;
            }
            self.state.fail_all("SQLite rolled the transaction back after a statement failed");
        }
        self.state.set_mark(unverified, mark);
    }

    /// How deep sqlx is in transactions and savepoints.
    pub(crate) async fn depth(&mut self) -> usize {
        let depth = self.depth_now();
        if depth == 0 || self.in_transaction() || self.kind() == DatabaseKind::Postgres {
            return depth;
        }
        // Where a transaction was dropped just now, SQLite's worker may not have got to its rollback yet.
        self.flush().await;
        self.depth_now()
    }

    pub(crate) fn depth_now(&mut self) -> usize {
        self.raw().map_or(0, |raw| on!(raw, DB, conn => raw::depth::<DB>(conn)))
    }

    /// Makes sure that a savepoint can begin. One that Postgres refuses, because a statement has failed in the transaction,
    /// would have sqlx roll back more than that.
    pub(crate) async fn verify_for_savepoint(&mut self) -> Result<()> {
        self.verify().await?;
        let sure = self.state.frames.last().is_some_and(|frame| frame.failed.is_none());
        if !sure && self.kind() == DatabaseKind::Postgres {
            let done = Execution::plain(self.connected(), SqlStr::from_static("SELECT 1"));
            let done = done.run_to_end(&mut |_| ()).await;
            self.note_result(done).await?;
        }
        Ok(())
    }

    pub(crate) async fn begin_raw(&mut self) -> Result<()> {
        self.ensure_connected().await?;
        let raw = self.connected().ok_or(Error::Database(sqlx::Error::PoolClosed))?;
        let begun = on!(raw, DB, conn => raw::begin::<DB>(conn).await);
        Ok(self.note_answer(begun)?)
    }

    pub(crate) async fn commit_raw(&mut self) -> Result<(), sqlx::Error> {
        self.set_in_flight();
        let Some(raw) = self.raw() else { return Err(sqlx::Error::PoolClosed) };
        let done = on!(raw, DB, conn => raw::commit::<DB>(conn).await);
        self.note_answer(done)
    }

    pub(crate) async fn rollback_raw(&mut self) -> Result<(), sqlx::Error> {
        self.set_in_flight();
        let Some(raw) = self.raw() else { return Ok(()) };
        let first = on!(raw, DB, conn => raw::rollback::<DB>(conn).await);
        if first.is_ok() {
            return self.note_answer(first);
        }
        if !matches!(first, Err(sqlx::Error::Database(_))) {
            return first;
        }
        // On SQLite there was no transaction any more to roll back, and sqlx still counts one. On Postgres it may be the
        // error of a statement that was queued before this one.
        self.keep_in_transaction().await;
        let Some(raw) = self.raw() else { return Ok(()) };
        let second = on!(raw, DB, conn => raw::rollback::<DB>(conn).await);
        self.note_answer(second)
    }

    /// Undoes what was done in the innermost transaction or savepoint of SQLite, and stays in it.
    pub(crate) async fn undo_raw(&mut self) -> Result<()> {
        let sql = match self.depth_now() {
            0 | 1 => "ROLLBACK; BEGIN IMMEDIATE".to_owned(),
            // As sqlx names it.
            depth => format!("ROLLBACK TO _sqlx_savepoint_{}", depth - 1),
        };
        let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
        // Dropped half-way, there may be no transaction any more.
        self.state.fail_if_dropped();
        let done = Execution::plain(self.connected(), sql).run_to_end(&mut |_| ()).await;
        if done.is_ok() {
            self.state.set_mark(false, None);
        }
        self.note_result(done).await.map(drop)
    }

    /// Has the connection roll back before it does anything else.
    pub(crate) fn start_rollback(&mut self) {
        self.set_in_flight();
        if let Some(raw) = self.raw() {
            on!(raw, DB, conn => raw::start_rollback::<DB>(conn));
        }
    }

    /// Waits until what was queued on the connection is done.
    pub(crate) async fn flush(&mut self) {
        let _ = self.ping().await;
    }

    /// Asks whether the connection lives.
    pub(crate) async fn ping(&mut self) -> Result<(), sqlx::Error> {
        let Some(raw) = self.raw() else { return Ok(()) };
        on!(raw, DB, conn => {
            let conn: &mut <DB as sqlx::Database>::Connection = conn;
            sqlx::Connection::ping(conn).await
        })
    }
}

impl Conn<'_> {
    /// Rolls the innermost transaction or savepoint back and begins it again, where nothing else was run in it. It can only
    /// be rolled back afterwards too.
    pub(crate) async fn begin_again(&mut self) -> Result<()> {
        if self.kind() == DatabaseKind::Sqlite {
            // In one go: dropped in between, sqlx would count a transaction less than there are frames.
            return self.undo_raw().await;
        }
        let guard = BeginGuard::new(self);
        guard.conn.rollback_raw().await?;
        guard.conn.begin_raw().await?;
        guard.disarm();
        Ok(())
    }
}

/// A BEGIN that is under way. On Postgres, sqlx leaves a connection whose BEGIN was dropped inside a transaction that
/// it does not know of, and rolls back the outer one where a savepoint failed or was dropped: no use to anybody. On SQLite its worker undoes a BEGIN that nobody waits for.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_commit_without_a_connection_is_an_error() {
        assert!(Conn::disconnected().commit_raw().await.is_err());
    }
}
