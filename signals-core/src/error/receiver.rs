//! The error of a receiver, with the receiver that failed.

use std::any::Any;
use std::error::Error as StdError;
use std::sync::Arc;

use super::chain;

/// Which receiver failed, its source location, and its error. It is printed like [`Error`](crate::Error).
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Error;
///
/// # #[derive(Model)]
/// # struct City { id: Option<i64>, name: String }
/// #[receiver(pre_save, sender = City)]
/// fn check_name(save: PreSave<'_, City>) -> Result<(), &'static str> {
///     if save.instance.name.is_empty() { Err("a city has a name") } else { Ok(()) }
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// let error = City { id: None, name: String::new() }.save(&db).await.unwrap_err();
/// let Error::Receiver(failed) = error else { unreachable!() };
/// assert!(failed.receiver.ends_with("check_name"));
/// assert_eq!((failed.signal, failed.model, failed.verb), ("pre_save", "City", "save"));
/// assert_eq!(failed.source.to_string(), "a city has a name");
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct ReceiverError {
    /// The path of the receiver.
    pub receiver: &'static str,
    /// The name of the signal.
    pub signal: &'static str,
    /// The name of the model, or `every model`.
    pub sender: &'static str,
    /// The source file of the receiver.
    pub file: &'static str,
    /// The line in that file.
    pub line: u32,
    /// The operation: `save`, `delete`, `load` or `send`.
    pub verb: &'static str,
    /// The model of the row, also for a receiver of every model. For `send`, the signal that was sent.
    pub model: &'static str,
    /// Whether the receiver's error made the operation fail. This is `false` if the receiver is `robust`, or if it ran after the
    /// commit, after the rollback, or after a statement that committed by itself (autocommit).
    pub refused: bool,
    /// The error that the receiver returned, or the message of its panic. It is shared with the transaction that it marked as
    /// failed, see [`Error::RolledBack`](crate::Error::RolledBack).
    pub source: Arc<dyn StdError + Send + Sync>,
}

/// The message of a panic, as the source of an [`Error::Receiver`].
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(pub(crate) String);

impl Panicked {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Self {
        let message = match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => match payload.downcast::<&'static str>() {
                Ok(message) => (*message).to_owned(),
                Err(_) => "a value that is not a string".to_owned(),
            },
        };
        Self(message)
    }
}

impl ReceiverError {
    /// Whether the receiver returned the error of another receiver that it had triggered.
    pub(crate) fn is_passed_on(&self) -> bool {
        chain::from(&*self.source).any(|e| e.is::<ReceiverError>())
    }
}

impl StdError for ReceiverError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
