//! The handle of a receiver that was connected at run time.

use super::connected::Key;
use super::registry;

/// A receiver that was connected at run time, see [`post_save::connect`](crate::post_save::connect).
///
/// If the handle is dropped, the receiver stays connected.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model, Clone)]
/// # struct User { id: Option<i64>, name: String }
/// let handle = post_save.connect::<User>("print users", |saved, _| {
///     Box::pin(async move {
///         println!("{} was saved", saved.instance.name);
///         Ok(())
///     })
/// });
/// assert!(handle.disconnect());
/// assert!(!handle.disconnect());
/// ```
#[derive(Debug, Clone)]
#[must_use = "a receiver stays connected if its handle is dropped"]
pub struct Handle {
    pub(super) key: Key,
}

impl Handle {
    /// Disconnects the receiver, and returns whether it was connected. A write that has begun still runs it.
    ///
    /// See the example of [`Handle`].
    pub fn disconnect(&self) -> bool {
        let connected = registry().change(|changes| {
            let connected = changes.connected.disconnect(&self.key)?;
            changes.disabled.remove(&connected.identity.disabled_key());
            Some(connected)
        });
        connected.is_some()
    }
}
