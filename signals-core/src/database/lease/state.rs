//! What is known about a pooled connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Handle};

use super::InFlight;
use crate::database::backend::Statement;
use crate::database::execution::Naming;
use crate::database::group::Group;
use crate::database::sent_statements::SentStatements;
use crate::database::waiter::Place;
use crate::database::write_queue::WriteQueue;
use crate::database::write_turn::Turn;
use crate::error::driver::is_answered;

/// What is known about a pooled connection.
pub(crate) struct LeaseState {
    /// When the connection was taken from sqlx's pool.
    pub(super) acquired_at: Instant,
    /// When the connection was last put into `idle`.
    pub(super) idle_since: Instant,
    /// The request that the database has not answered yet. If there is one when the lease is dropped, the state of the connection
    /// is unknown.
    pub(crate) in_flight: InFlight,
    /// Whether the program has used the underlying sqlx connection directly.
    pub(crate) used_raw: bool,
    /// Whether raw SQL may have left a transaction open.
    pub(crate) unverified: bool,
    /// Whether SQLite rejects writes on the connection, for a read-only transaction.
    pub(crate) query_only: bool,
    /// Whether the database has answered since checkout, or may have: the program has used the sqlx connection. Until this is set,
    /// the connection may be dead, and a failed statement may be repeated on another one.
    pub(crate) proven_alive: bool,
    /// The runtime in which the connection was taken from sqlx's pool. Entered if the lease is dropped outside a runtime.
    pub(crate) runtime: Option<Handle>,
    /// The runtime that opened the connection, if it is known.
    pub(super) opened_in: Option<runtime::Id>,
    /// Whether the connection was opened when it was taken from sqlx's pool, if the pool calls [`note_opened`](crate::database::runtimes::note_opened).
    pub(super) is_new: bool,
    /// Whether statements stay prepared on the connection.
    pub(super) keeps_statements: bool,
    pub(super) sent: SentStatements,
    /// Whether the connection is closed if the end of an interrupted statement takes long.
    pub(super) has_limit: bool,
    /// After which time the connection is closed in any case.
    pub(super) statement_timeout: Duration,
    /// Whether the server or the file of the connection cannot be written any more, and a new connection may lead to another one.
    pub(crate) is_superseded: bool,
    /// The epoch of the pool in which the connection's statements were prepared; `None` if one of them was refused as outdated.
    pub(super) epoch: Option<u64>,
    /// The turn of the write that took the connection. Released last, so that the connection has rolled back and is idle when the next
    /// writer looks for one.
    pub(crate) turn: Option<Turn>,
    /// The place in the queue of the writers, if an adopted transaction writes without a turn.
    pub(crate) place: Option<Place>,
    /// The last turn of a write that borrowed the connection, with its queue.
    pub(crate) borrowed_turn: Option<(Arc<WriteQueue>, u64)>,
    /// The writes that wait for the COMMIT of the open transaction.
    pub(crate) group: Option<Box<Group>>,
}

impl LeaseState {
    /// Records that no request is in flight, if `result` shows that the database has answered and keeps the connection open.
    pub(crate) fn note_answer<T>(&mut self, result: &Result<T, sqlx::Error>) {
        if is_answered(result) {
            (self.proven_alive, self.in_flight) = (true, InFlight::Nothing);
        }
        self.sent.note_answer(result.is_ok());
    }

    /// Records that a statement is in flight. A statement before it that was not answered counts as failed.
    pub(crate) fn set_in_flight(&mut self) {
        self.in_flight = InFlight::Statement;
        self.sent.note_answer(false);
    }

    /// Records that the program uses the sqlx connection directly.
    pub(crate) fn set_used_raw(&mut self) {
        (self.used_raw, self.proven_alive) = (true, true);
    }

    /// How statements are prepared on the connection.
    pub(crate) fn naming(&self) -> Naming {
        match self.keeps_statements {
            true => Naming::Named,
            false => Naming::Unnamed { asks: self.used_raw, is_first: true },
        }
    }

    /// How a statement is prepared on the connection. The first one of its form gets a name, if statements have names.
    pub(crate) fn naming_of(&mut self, statement: &mut Statement) -> Naming {
        match self.naming() {
            Naming::Named => {
                if statement.may_lose_its_name() {
                    statement.persistent = self.sent.is_first(statement.sql.as_str());
                }
                Naming::Named
            }
            Naming::Unnamed { asks, .. } => {
                Naming::Unnamed { asks, is_first: self.sent.is_first(statement.sql.as_str()) }
            }
        }
    }
}
