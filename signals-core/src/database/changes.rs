//! What a transaction has changed so far, for the receivers that run once per transaction.

use std::any::Any;

use crate::database::conn::Conn;

/// The changes of a frame. They are discarded with their transaction or savepoint.
pub(crate) trait Changes: Any + Send {
    /// Adds the changes of a savepoint that was released.
    fn append(&mut self, released: Box<dyn Changes>);

    /// Adds the events of durable receivers to the outbox of the innermost frame, and removes them from the changes.
    fn store(&mut self, conn: &mut Conn<'_>);

    /// Defers the events of the other receivers to the end of the transaction.
    fn defer(&mut self, conn: &mut Conn<'_>);
}

impl Conn<'_> {
    /// Passes the changes of the transaction to their receivers, before it is committed.
    pub(crate) fn finish_changes(&mut self) {
        let changes = self.state.frames.last_mut().and_then(|frame| frame.changes.take());
        if let Some(mut changes) = changes {
            changes.store(self);
            changes.defer(self);
        }
    }

    /// Passes the changes so far to durable receivers, for a test that runs deliveries inside the transaction.
    #[cfg(feature = "durable")]
    pub(crate) fn store_changes(&mut self) {
        let changes = self.state.frames.last_mut().and_then(|frame| frame.changes.take());
        let Some(mut changes) = changes else { return };
        changes.store(self);
        if let Some(frame) = self.state.frames.last_mut() {
            frame.changes = Some(changes);
        }
    }
}
