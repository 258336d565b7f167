//! Rows that are collected during a transaction, and written in one statement before it commits.

use std::any::Any;

use futures_util::future::BoxFuture;

use crate::database::conn::Conn;
use crate::error::Result;

/// The rows that a frame has collected. They are discarded with their transaction or savepoint.
pub(crate) trait Outbox: Any + Send {
    /// Adds the rows of a savepoint that was released.
    fn append(&mut self, released: Box<dyn Outbox>);

    /// Whether all rows are written.
    fn is_empty(&self) -> bool;

    /// Whether the rows should be written now, to limit the memory that they use.
    fn is_full(&self) -> bool;

    /// Writes the rows. With none, this is a no-op.
    fn write<'w>(&'w mut self, conn: &'w mut Conn<'_>) -> BoxFuture<'w, Result<()>>;
}

impl Conn<'_> {
    /// Writes the rows that the innermost transaction or savepoint has collected.
    ///
    /// # Errors
    ///
    /// The error of the statement, which also marks the transaction as failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transaction must be rolled back.
    pub(crate) async fn write_outbox(&mut self) -> Result<()> {
        let outbox = self.state.frames.last_mut().and_then(|frame| frame.outbox.take());
        let Some(mut outbox) = outbox else { return Ok(()) };
        let written = outbox.write(self).await;
        if let Some(frame) = self.state.frames.last_mut() {
            frame.outbox = Some(outbox);
        }
        written
    }

    /// As [`write_outbox`](Self::write_outbox), if the outbox is full. Rows of an enclosing transaction come first, and cannot be written
    /// inside the savepoint. So if there are any, the rows of the savepoint wait for them.
    ///
    /// # Errors
    ///
    /// As [`write_outbox`](Self::write_outbox).
    pub(crate) async fn write_full_outbox(&mut self) -> Result<()> {
        if self.must_write_outbox() { self.write_outbox().await } else { Ok(()) }
    }

    fn must_write_outbox(&self) -> bool {
        let mut outboxes = self.state.frames.iter().rev().map(|frame| frame.outbox.as_ref());
        outboxes.next().flatten().is_some_and(|outbox| outbox.is_full())
            && outboxes.flatten().all(|outbox| outbox.is_empty())
    }
}
