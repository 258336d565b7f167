//! A write in a transaction of the caller.

use crate::database::conn::Conn;
use crate::error::{Reason, Result};

/// A write in a transaction that is somebody else's to end: where it fails, or is dropped half-way, the transaction
/// can only be rolled back.
pub(crate) struct FailGuard<'d, 'c> {
    pub(crate) conn: &'d mut Conn<'c>,
    verb: &'static str,
    model: &'static str,
    armed: bool,
    /// Whether nothing in the transaction had failed before.
    first: bool,
}

impl<'d, 'c> FailGuard<'d, 'c> {
    pub(crate) fn of(conn: &'d mut Conn<'c>, verb: &'static str, model: &'static str) -> Self {
        let first = !conn.state.has_failed();
        Self { conn, verb, model, armed: true, first }
    }

    pub(crate) fn end<T>(mut self, done: Result<T>) -> Result<T> {
        self.armed = false;
        let (verb, model) = (self.verb, self.model);
        if let Err(error) = &done {
            // A statement that failed in this write has marked the transaction already. The error of the write tells more:
            // it names the model, and has the receiver's own error.
            if self.first && !error.is_in_failed_transaction() {
                self.conn.state.forget_failure();
            }
            self.conn.state.fail(|| Reason::of(verb, model, error));
        }
        done
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
