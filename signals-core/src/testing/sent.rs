//! The recorder of a custom signal.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::signal::custom::CustomSignal;
use crate::signal::recording::{Recording, SentLog};

/// Records the values of the custom signal `T` that the current task sends, from this call until the returned recorder is dropped.
///
/// A signal is recorded when it is sent, whether or not it has receivers and whether or not they fail. The rules for what belongs
/// to the current task are those of [`record`](super::record).
///
/// ```
/// use sqlx_signals::prelude::*;
/// use sqlx_signals::testing;
///
/// #[derive(Signal)]
/// struct OrderPaid { order_id: i64 }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// let paid = testing::record_signal::<OrderPaid>();
/// OrderPaid { order_id: 7 }.send(&db).await?;
///
/// paid.assert_sent(1);
/// assert_eq!(paid.all()[0].order_id, 7);
/// # Ok(()) }
/// ```
#[must_use = "the recorder records until it is dropped"]
pub fn record_signal<T: CustomSignal>() -> Sent<T> {
    Sent { recording: Recording::begin(SentLog(Mutex::default())) }
}

/// The recorded values of a custom signal, see [`record_signal`].
///
/// See the example of [`record_signal`].
pub struct Sent<T: CustomSignal> {
    recording: Recording<SentLog<T>>,
}

impl<T: CustomSignal> Sent<T> {
    /// Returns all recorded values in the order in which they were sent.
    ///
    /// See the example of [`record_signal`].
    pub fn all(&self) -> Vec<Arc<T>> {
        self.recording.log.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns a future that runs `future` and records its signals too, see [`Recorder::follow`](super::Recorder::follow).
    ///
    /// See the example of [`Recorder::follow`](super::Recorder::follow).
    pub fn follow<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F, T> {
        self.recording.follow(future)
    }

    /// Asserts how often the signal was sent.
    ///
    /// See the example of [`record_signal`].
    ///
    /// # Panics
    ///
    /// If the number differs.
    #[track_caller]
    pub fn assert_sent(&self, times: usize) {
        let found = self.all().len();
        assert!(found == times, "expected {times} × `{}` sent, found {found}", T::SIGNAL);
    }
}

impl<T: CustomSignal> fmt::Debug for Sent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × `{}` sent", self.all().len(), T::SIGNAL)
    }
}
