//! The turn of a writer of a SQLite database, and a reservation of the next one, see `write_queue.rs`.

use std::sync::Arc;

use crate::database::waiter::WaitLimit;
use crate::database::write_queue::{Ends, WriteQueue};
use crate::database::writer::Writer;
use crate::error::Result;
use crate::task::pool_id::PoolId;

/// The right to write. If it is dropped, the next writer gets it.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(super) queue: Option<Arc<WriteQueue>>,
    /// Identifies it among the turns of the queue.
    pub(super) number: u64,
    /// Whether other writers probably want to share a COMMIT with this one.
    pub(super) is_awaited: bool,
}

impl Turn {
    pub(crate) fn queue(&self) -> Option<&Arc<WriteQueue>> {
        self.queue.as_ref()
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Gives up the turn, but lets no other writer have it that needs a connection of the same pool.
    pub(crate) fn reserve(mut self, writer: Writer, pool: PoolId) -> Option<Reservation> {
        let queue = self.queue.take()?;
        queue.state().reserve(writer, pool);
        queue.pass_on(Ends::Turn);
        Some(Reservation { queue, pool })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.pass_on(Ends::Turn);
        }
    }
}

/// The next turn, for a writer that waits for its connection.
#[derive(Debug)]
pub(crate) struct Reservation {
    queue: Arc<WriteQueue>,
    pool: PoolId,
}

impl Reservation {
    /// Waits for the turn, once the writer has its connection.
    ///
    /// # Errors
    ///
    /// As [`WriteQueue::enter`].
    pub(crate) async fn enter(self, writer: Writer, limit: WaitLimit) -> Result<Turn> {
        self.queue.wait_with_connection(writer, true, limit).await
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.queue.pass_on(Ends::Reservation(self.pool));
    }
}
