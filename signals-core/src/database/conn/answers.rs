//! The sqlx connection of a [`Conn`], and what the answers of the database say about it.

use futures_util::future::{Either, ready};
#[cfg(feature = "postgres")]
use sqlx::Postgres;

#[cfg(feature = "postgres")]
use crate::database::backend::Backend;
use crate::database::backend::Statement;
use crate::database::conn::{Conn, UsuallyReady};
use crate::database::execution::Naming;
use crate::database::lease::AnyLease;
use crate::database::raw::{MaybePooled, RawConn};
use crate::database::sent_statements::may_have_unknown_types;
use crate::error::driver::{is_answered, is_outdated, is_superseded};
use crate::error::{Error, Reason, Result};
use crate::task::chain;

impl Conn<'_> {
    /// Whether statements on the connection get a name.
    pub(crate) fn naming(&self) -> Naming {
        match &self.inner {
            MaybePooled::Pooled(slot) => {
                slot.as_ref().map_or(Naming::Named, |lease| lease.state().naming())
            }
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(_) => Naming::Named,
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(conn) if Postgres::connection_keeps_statements(conn) => {
                Naming::Named
            }
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(_) => Naming::Unnamed { asks: true, is_first: true },
        }
    }

    /// How a statement is prepared on the connection. What was sent on a borrowed connection is unknown, so in a transaction each statement
    /// that may return values of unknown types gets a name, if statements have names. Outside a transaction it is sent again if it was
    /// forgotten, because the name would take the place of another statement in the statement cache.
    pub(crate) fn naming_of(&mut self, statement: &mut Statement) -> Naming {
        if let Some(lease) = self.lease_mut() {
            return lease.state_mut().naming_of(statement);
        }
        match self.naming() {
            Naming::Named => {
                statement.persistent |= statement.may_lose_its_name()
                    && (self.in_transaction() || self.depth_now() > 0)
                    && may_have_unknown_types(statement.sql.as_str());
                Naming::Named
            }
            Naming::Unnamed { asks, .. } => {
                let is_first = may_have_unknown_types(statement.sql.as_str());
                Naming::Unnamed { asks, is_first }
            }
        }
    }

    pub(crate) fn lease_mut(&mut self) -> Option<&mut AnyLease> {
        match &mut self.inner {
            MaybePooled::Pooled(slot) => slot.as_mut(),
            _ => None,
        }
    }

    /// Records that a statement is in flight. If it still is when the connection is returned, the pool has to check the
    /// connection.
    pub(crate) fn set_in_flight(&mut self) {
        self.state.in_flight = true;
        if let Some(lease) = self.lease_mut() {
            lease.state_mut().set_in_flight();
        }
    }

    /// Whether the database may be executing a statement whose future was dropped. The program may have used the sqlx connection for one.
    #[cfg(feature = "durable")]
    pub(crate) fn may_execute(&mut self) -> bool {
        let in_flight = self.state.in_flight;
        in_flight || self.lease_mut().is_some_and(|lease| lease.state().used_raw)
    }

    /// Records that no statement is in flight, if `result` shows that the database has answered.
    pub(crate) fn note_answer<T>(
        &mut self,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.state.in_flight &= !is_answered(&result);
        let frame = self.state.frames.first();
        let only_reads = frame.is_some_and(|frame| frame.begin.is_read_only());
        if let Some(lease) = self.lease_mut() {
            let state = lease.state_mut();
            state.note_answer(&result);
            state.is_superseded |= !only_reads && result.as_ref().is_err_and(is_superseded);
        }
        result
    }

    /// Records the result of a statement. A failed statement marks the transaction as failed.
    pub(crate) async fn note_result<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T> {
        let result = self.note_answer(result);
        self.state.count_statement();
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                if !self.state.frames.is_empty() {
                    self.state.fail(|| Reason::of_statement(&error));
                    Box::pin(self.keep_in_transaction()).await;
                }
                Err(if is_outdated(&error) { Error::SchemaChanged(error) } else { error.into() })
            }
        }
    }

    /// Whether the connection is in a transaction that was not begun through this library, so that its end is not observed.
    pub(crate) fn in_foreign_transaction(&mut self) -> UsuallyReady<'_, bool> {
        let is_known = matches!(self.inner, MaybePooled::Pooled(_)) && !self.state.unverified;
        if self.in_transaction() || is_known && self.depth_now() == 0 {
            return Either::Left(ready(Ok(self.in_transaction() && self.state.foreign)));
        }
        Either::Right(Box::pin(async move {
            self.verify().await?;
            Ok(self.depth().await > 0 || self.is_in_unknown_transaction().await?)
        }))
    }

    /// Checks out a connection again if the last one was lost or moved out, and verifies the transaction.
    pub(crate) fn ensure_connected(&mut self) -> UsuallyReady<'_> {
        if matches!(&self.inner, MaybePooled::Pooled(slot) if slot.is_none()) {
            return Either::Right(Box::pin(self.replace_lost()));
        }
        if self.in_transaction() { self.verify() } else { Either::Left(ready(Ok(()))) }
    }

    /// Checks out a connection, unless the transaction was lost with the last one.
    async fn replace_lost(&mut self) -> Result<()> {
        if let Some(frame) = self.state.frames.last() {
            let reason = frame.failed.clone().unwrap_or_else(|| "its connection was lost".into());
            return Err(Error::RolledBack { reason });
        }
        if let (MaybePooled::Pooled(slot), Some(db)) = (&mut self.inner, &self.state.db) {
            chain::check_not_held(db.pool_id())?;
            **slot = Some(db.checkout().await?);
        }
        Ok(())
    }

    /// The sqlx connection, for a statement that is in flight from now on.
    pub(crate) fn connected(&mut self) -> Option<RawConn<'_>> {
        self.set_in_flight();
        self.raw()
    }

    /// The sqlx connection; `None` if the pooled connection was lost or moved out.
    pub(crate) fn raw(&mut self) -> Option<RawConn<'_>> {
        match &mut self.inner {
            MaybePooled::Pooled(slot) => slot.as_mut().map(AnyLease::raw),
            #[cfg(feature = "sqlite")]
            MaybePooled::Sqlite(conn) => Some(RawConn::Sqlite(conn)),
            #[cfg(feature = "postgres")]
            MaybePooled::Postgres(conn) => Some(RawConn::Postgres(conn)),
        }
    }
}
