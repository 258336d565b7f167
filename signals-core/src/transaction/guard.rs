//! Marks the caller's transaction as failed if a write in it fails.

use crate::database::conn::Conn;
use crate::error::{Reason, Result};

/// Guards a write in a transaction that the caller ends. If the write fails, or its future is dropped, the transaction is marked as
/// failed, so that it can only be rolled back.
pub(crate) struct FailGuard<'d, 'c> {
    pub(crate) conn: &'d mut Conn<'c>,
    verb: &'static str,
    model: &'static str,
    armed: bool,
    /// Whether nothing in the transaction had failed before the write.
    first: bool,
}

impl<'d, 'c> FailGuard<'d, 'c> {
    pub(crate) fn of(conn: &'d mut Conn<'c>, verb: &'static str, model: &'static str) -> Self {
        let first = !conn.state.has_failed();
        Self { conn, verb, model, armed: true, first }
    }

    /// Disarms the guard, and marks the transaction as failed if `result` is an error.
    pub(crate) fn end<T>(mut self, result: Result<T>) -> Result<T> {
        self.armed = false;
        let (verb, model) = (self.verb, self.model);
        if let Err(error) = &result {
            // If a statement of the write failed, the transaction is already marked with its error. The error of the write is
            // more precise: it names the model, and contains the error of the receiver.
            if self.first && !error.is_in_failed_transaction() {
                self.conn.state.forget_failure();
            }
            self.conn.state.fail(|| Reason::of(verb, model, error));
        }
        result
    }
}

impl Drop for FailGuard<'_, '_> {
    fn drop(&mut self) {
        if self.armed {
            let (verb, model) = (self.verb, self.model);
            self.conn
                .state
                .fail(|| format!("the {verb} of `{model}` was dropped before it was done").into());
        }
    }
}
