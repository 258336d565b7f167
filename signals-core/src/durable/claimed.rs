//! A delivery that this process has claimed.

use std::time::Duration;

/// A delivery that this process has claimed.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(crate) id: i64,
    pub(crate) event: String,
    pub(crate) receiver: String,
    pub(crate) signal: String,
    pub(crate) sender: String,
    pub(crate) key: Option<String>,
    pub(crate) created: Option<bool>,
    pub(crate) payload: String,
    pub(crate) context: Option<String>,
    /// In milliseconds since 1970.
    pub(crate) stored_at: i64,
    /// How long ago it was stored, in milliseconds.
    pub(crate) age: i64,
    pub(crate) attempt: i32,
    pub(crate) claim: i64,
    pub(crate) lost: i32,
    pub(crate) ordering_key: Option<String>,
    /// When the last delivery of the same claim was due, in microseconds since 1970. 0 on SQLite.
    pub(crate) last_due: i64,
}

impl Claimed {
    /// How long ago it was stored.
    pub(super) fn age(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.age).unwrap_or_default())
    }
}

/// The columns that a claim returns.
pub(super) type Columns = (
    i64,
    String,
    String,
    String,
    String,
    Option<String>,
    Option<bool>,
    String,
    Option<String>,
    i64,
    i64,
    i32,
    i64,
    i32,
    Option<String>,
    i64,
);

impl From<Columns> for Claimed {
    fn from(columns: Columns) -> Self {
        let (id, event, receiver, signal, sender, key, created, payload, context, ..) = columns;
        let (.., stored_at, age, attempt, claim, lost, ordering_key, last_due) = columns;
        Self {
            id,
            event,
            receiver,
            signal,
            sender,
            key,
            created,
            payload,
            context,
            stored_at,
            age,
            attempt,
            claim,
            lost,
            ordering_key,
            last_due,
        }
    }
}
