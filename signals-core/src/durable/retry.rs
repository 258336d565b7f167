//! What a durable receiver returns to decide when its delivery is tried again.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::{BoxError, Error};

/// The error of a durable receiver that decides itself when its delivery is tried again. Any other error is tried again after the
/// `backoff` of the receiver.
///
/// | error | counts as an attempt | then |
/// |---|---|---|
/// | [`Retry::never`] | yes | the delivery is dead |
/// | [`Retry::after`] | yes | the delivery is due after this time; it is dead if this was the last attempt |
/// | [`Retry::snooze`] | no | the delivery is due after this time |
///
/// A time of more than a hundred years is a hundred years.
///
/// ```
/// use std::time::Duration;
/// use sqlx_signals::durable::Retry;
/// use sqlx_signals::prelude::*;
///
/// async fn send(status: u16) -> Result<()> {
///     match status {
///         200 => Ok(()),
///         422 => Err(Retry::never("the address is invalid").into()),
///         429 => Err(Retry::snooze(Duration::from_secs(60)).into()),
///         _ => Err(Retry::after(Duration::from_secs(5), "the server is busy"))?,
///     }
/// }
/// # #[tokio::main] async fn main() {
/// assert_eq!(send(422).await.unwrap_err().to_string(), "the address is invalid");
/// # }
/// ```
#[derive(Debug)]
pub struct Retry {
    pub(crate) when: When,
    cause: Option<BoxError>,
}

/// When a delivery is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Never,
    After(Duration),
    Snooze(Duration),
}

impl Retry {
    /// The delivery is not tried again.
    ///
    /// See the example of [`Retry`].
    pub fn never(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { when: When::Never, cause: Some(cause.into()) }
    }

    /// The delivery is tried again after this time, instead of the `backoff` of the receiver.
    ///
    /// See the example of [`Retry`].
    pub fn after(time: Duration, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { when: When::After(time), cause: Some(cause.into()) }
    }

    /// The delivery is postponed. The run does not count as an attempt.
    ///
    /// See the example of [`Retry`].
    pub fn snooze(time: Duration) -> Self {
        Self { when: When::Snooze(time), cause: None }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cause, self.when) {
            (Some(cause), _) => cause.fmt(f),
            (None, When::Snooze(time)) => write!(f, "postponed by {time:?}"),
            (None, _) => f.write_str("not tried again"),
        }
    }
}

impl StdError for Retry {
    // `Display` prints the cause itself.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_ref().and_then(|cause| cause.source())
    }
}

impl From<Retry> for Error {
    fn from(retry: Retry) -> Self {
        Self::other(retry)
    }
}
