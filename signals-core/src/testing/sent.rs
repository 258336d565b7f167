use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::signal::custom::CustomSignal;
use crate::signal::recording::{Recording, SentLog};

/// Collects what this task sends of a signal of the program's own, as [`record`](super::record) does of a model.
///
/// A signal is recorded when it is sent, whatever its receivers make of it, and whether there are any.
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
#[must_use = "it records for as long as it is there"]
pub fn record_signal<T: CustomSignal>() -> Sent<T> {
    Sent { recording: Recording::begin(SentLog(Mutex::default())) }
}

/// What one task has sent of a signal, see [`record_signal`].
pub struct Sent<T: CustomSignal> {
    recording: Recording<SentLog<T>>,
}

impl<T: CustomSignal> Sent<T> {
    /// What was sent, in its order.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.recording.log.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`Recorder::follow`](super::Recorder::follow).
    pub fn follow<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F, T> {
        self.recording.follow(future)
    }

    /// Asserts how often the signal was sent.
    ///
    /// # Panics
    ///
    /// Where it is another number.
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
