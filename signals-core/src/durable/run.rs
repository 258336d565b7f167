//! Runs one claimed delivery, and decides what follows from its result.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tracing::Span;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::source::Source;
use crate::durable::carry::{self, Arrived};
use crate::durable::claim::POISONED;
use crate::durable::claimed::Claimed;
use crate::durable::delivery::{Cause, DeliveryData, RunningDelivery};
use crate::durable::end_claim::{self, Failure};
use crate::durable::event_form::{Decoded, DecodedEvent, ToDecode};
use crate::durable::kept::Done;
use crate::durable::receivers::DurableReceiver;
use crate::durable::retry::{Retry, When};
use crate::durable::sql::without_nul;
use crate::durable::trace;
use crate::durable::worker::Shared;
use crate::error::{Error, Result};
use crate::signal::dispatch::run_durable;
use crate::signal::operation_context::OperationContext;
use crate::task::info::DurableOptions;
use crate::task::intern::interned;
use crate::task::span::{span, traced};
use crate::transaction::Transaction;

/// How long a delivery is postponed whose payload this program cannot decode. Another version of the program may be able to.
const UNDECODABLE: Duration = Duration::from_secs(60);
/// After this time, such a delivery is dead.
const UNDECODABLE_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest error text that is stored.
const ERROR: usize = 8 * 1024;

/// A claimed delivery with its receiver and its decoded event.
pub(crate) struct Run {
    pub(crate) receiver: DurableReceiver,
    event: Decoded,
    data: Arc<DeliveryData>,
    /// The values that the delivery has carried.
    arrived: Vec<Arrived>,
    done: Done,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The receiver has succeeded, and the delivery has to be acknowledged.
    Succeeded,
    /// The receiver has succeeded, and the delivery was deleted in its transaction.
    Acknowledged,
    /// The claim has passed to another worker.
    ClaimLost,
    Failed(Error),
}

impl Run {
    /// Decodes a delivery.
    ///
    /// # Errors
    ///
    /// What has to be stored instead of a run: the payload cannot be decoded, the chain of deliveries is too long, or the delivery has
    /// killed its worker too often.
    pub(super) fn prepare(claimed: &Claimed, receiver: &DurableReceiver) -> Result<Self, Failure> {
        if claimed.lost >= POISONED {
            let error = format!("its worker was lost {} times while it ran", claimed.lost);
            return Err(dead(error, false));
        }
        let decoded = (receiver.form.decode)(&ToDecode {
            payload: &claimed.payload,
            key: claimed.key.as_deref(),
            created: claimed.created,
            asks_previous: receiver.receiver.info.asks_previous(),
        });
        let cause = claimed.context.as_deref().map(serde_json::from_str::<Cause>).transpose();
        let ids = claimed.event.parse();
        let (event, cause, id) = match (decoded, cause, ids) {
            (Ok(event), Ok(cause), Ok(id)) => (event, cause.unwrap_or_default(), id),
            (Err(error), ..) | (_, Err(error), _) => return Err(undecodable(claimed, &error)),
            (.., Err(error)) => return Err(undecodable(claimed, &error)),
        };
        cause.check_length().map_err(|error| dead(error.to_string(), true))?;
        let arrived = carry::decoded(&cause.carried);
        let arrived = arrived.map_err(|error| undecodable(claimed, &error))?;
        let since = Duration::from_millis(u64::try_from(claimed.stored_at).unwrap_or_default());
        let data = Arc::new(DeliveryData {
            id: claimed.id,
            event: id,
            // The name at the time of the save, so that the idempotency key stays the same if the receiver was renamed.
            receiver: interned(&claimed.receiver),
            attempt: u32::try_from(claimed.attempt).unwrap_or_default(),
            max_attempts: receiver.options.max_attempts,
            stored_at: SystemTime::UNIX_EPOCH + since,
            age: claimed.age(),
            cause,
        });
        let receiver = receiver.clone();
        let done = receiver.done(claimed);
        Ok(Self { receiver, event, data, arrived, done })
    }

    /// Runs a receiver that does not take the connection.
    ///
    /// If only the key of the row was stored, the row is read through `reads`, or else through a connection of `db`.
    pub(super) async fn without_connection(
        mut self,
        db: &Db,
        reads: Option<&mut Conn<'_>>,
    ) -> Ended {
        let loaded = match (&self.event.event, reads) {
            (DecodedEvent::Complete(_), _) => Ok(true),
            (DecodedEvent::ByKey(_), Some(conn)) => self.load(conn).await,
            (DecodedEvent::ByKey(_), None) => match db.acquire().await {
                Ok(mut conn) => self.load(&mut conn).await,
                Err(error) => Err(error),
            },
        };
        match loaded {
            Ok(true) => {}
            Ok(false) => return Ended::Succeeded,
            Err(error) => return Ended::Failed(error),
        }
        let data = Arc::clone(&self.data);
        let ran = data.scope(self.call(None, db)).await;
        ran.map_or_else(Ended::Failed, |()| Ended::Succeeded)
    }

    /// Deletes the delivery, and runs the receiver in the same transaction. `db` has the values of the program, and `tx` may be of another
    /// pool. If a worker runs the delivery, it can end the statement of the receiver.
    ///
    /// # Errors
    ///
    /// What has to be stored if the delivery could not be deleted, so that the receiver has not run.
    pub(super) async fn in_transaction(
        self,
        mut tx: Transaction<'_>,
        db: &Db,
        worker: Option<&Shared>,
    ) -> Result<Ended, Failure> {
        let data = self.data();
        data.scope(async move {
            let id = self.done.id;
            let called = self.acknowledge_and_call(&mut tx, db, worker).await;
            if let Ok(Some(Ok(()))) = called {
                return Ok(match tx.commit().await {
                    Ok(_) => Ended::Acknowledged,
                    Err(error) => Ended::Failed(error),
                });
            }
            match worker {
                Some(worker) => worker.roll_back(tx, id).await,
                None => tx.rollback_or_log().await,
            }
            Ok(match called? {
                Some(Err(error)) => Ended::Failed(error),
                _ => Ended::ClaimLost,
            })
        })
        .await
    }

    /// Deletes the delivery, and runs the receiver. Returns `None` if the claim has passed to another worker.
    ///
    /// # Errors
    ///
    /// As [`in_transaction`](Self::in_transaction).
    pub(super) async fn acknowledge_and_call(
        mut self,
        tx: &mut Transaction<'_>,
        db: &Db,
        worker: Option<&Shared>,
    ) -> Result<Option<Result<()>>, Failure> {
        match end_claim::acknowledge_one(tx, self.done).await {
            Ok(Some(transaction)) => {
                if let Some(worker) = worker {
                    worker.set_transaction(self.done.id, transaction);
                }
            }
            Ok(None) => return Ok(None),
            Err(error) => return Err(not_begun(&error)),
        }
        Ok(Some(match self.load(tx).await {
            Ok(true) => self.call(Some(tx), db).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        }))
    }

    pub(super) fn data(&self) -> Arc<DeliveryData> {
        Arc::clone(&self.data)
    }

    /// Reads the row, if only its key was stored. Returns `false` if the row is gone, so that there is nothing to do.
    async fn load(&mut self, conn: &mut Conn<'_>) -> Result<bool> {
        let DecodedEvent::ByKey(row) = &self.event.event else { return Ok(true) };
        let Some(event) = row.load(conn).await? else { return Ok(false) };
        self.event.event = DecodedEvent::Complete(event);
        Ok(true)
    }

    async fn call(self, mut conn: Option<&mut Conn<'_>>, db: &Db) -> Result<()> {
        let Self { receiver, event: Decoded { event, previous }, data, arrived, .. } = self;
        let DecodedEvent::Complete(mut event) = event else { return Ok(()) };
        let info = receiver.receiver.info.info;
        let span = span_of(info.name, &data);
        let db = carry::with_arrived(&arrived, db.with(RunningDelivery(data)));
        let source = Source::Db(Cow::Owned(db));
        let sender = if info.sender.is_empty() { info.signal } else { info.sender };
        let entered = OperationContext::enter("delivery", sender, &source)?;
        let context = if conn.is_some() { entered } else { entered.afterwards(None) };
        let before = conn.as_deref_mut().and_then(|conn| carry::give_to(&arrived, conn));
        let through = conn.as_deref_mut();
        let work = run_durable(&mut *event, &receiver.receiver, through, &context, &previous);
        let limit = Duration::from_millis(receiver.options.timeout);
        let ran = match timeout(limit, traced(span.clone(), work)).await {
            Ok(ran) => ran,
            Err(_) => {
                let name = info.name;
                Err(Error::other(format!("receiver `{name}` did not finish within {limit:?}")))
            }
        };
        if let (Some(conn), Some(before)) = (conn, before) {
            conn.state.db = Some(before);
        }
        if ran.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        ran
    }
}

/// The span of a run. It is a part of the trace in which the event was stored.
fn span_of(receiver: &'static str, data: &DeliveryData) -> Span {
    let span = span!(
        "delivery",
        receiver,
        event = %data.event,
        attempt = data.attempt,
        age_ms = u64::try_from(data.age.as_millis()).unwrap_or(u64::MAX),
        otel.status_code = tracing::field::Empty
    );
    trace::join(&span, data.cause.traceparent.as_deref());
    span
}

/// What follows if the database refuses what precedes the receiver. This is no attempt of the receiver.
pub(super) fn not_begun(error: &Error) -> Failure {
    let delay = Duration::from_millis(500 + fastrand::u64(..1000));
    Failure { delay, is_dead: false, counts: false, error: error.to_string() }
}

fn dead(error: String, counts: bool) -> Failure {
    Failure { delay: Duration::ZERO, is_dead: true, counts, error }
}

pub(super) fn undecodable(claimed: &Claimed, error: &dyn std::fmt::Display) -> Failure {
    let age = claimed.age();
    let error = format!("the payload cannot be decoded: {error}");
    Failure { delay: UNDECODABLE, is_dead: age >= UNDECODABLE_LIMIT, counts: false, error }
}

/// What follows from the error of a receiver.
pub(super) fn failure(error: &Error, attempt: i32, options: &DurableOptions) -> Failure {
    let attempt = u32::try_from(attempt).unwrap_or_default();
    let is_last = attempt >= options.max_attempts;
    let (delay, is_dead, counts) = match error.find::<Retry>().map(|retry| retry.when) {
        Some(When::Never) => (Duration::ZERO, true, true),
        Some(When::After(time)) => (time, is_last, true),
        Some(When::Snooze(time)) => (time, false, false),
        None => (backoff(attempt, options), is_last, true),
    };
    Failure { delay, is_dead, counts, error: cut(format!("{error:#}")) }
}

/// The delay after a failed attempt: it doubles from the first value to the longest, with a random factor, so that deliveries that have
/// failed together are not tried again together.
fn backoff(attempt: u32, options: &DurableOptions) -> Duration {
    let (first, longest) = options.backoff;
    let factor = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    let delay = first.saturating_mul(factor).min(longest);
    if first == longest {
        return Duration::from_millis(delay);
    }
    Duration::from_millis(delay).mul_f64(0.5 + fastrand::f64())
}

/// The text without what exceeds the limit.
pub(super) fn cut(mut text: String) -> String {
    if text.len() > ERROR {
        let end = (0..=ERROR).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
    without_nul(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: DurableOptions = DurableOptions {
        queue: "default",
        max_attempts: 3,
        backoff: (1000, 60_000),
        backoff_text: "1s..1m",
        timeout: 1000,
        concurrency: 0,
        delay: 0,
        ordering_key: "",
        skips_dead: false,
        coalesce: "",
        keep: 0,
        keep_text: "",
        was: &[],
    };

    #[test]
    fn the_backoff_doubles_up_to_the_longest_delay_with_a_random_factor() {
        for (attempt, expected) in [(1, 1), (2, 2), (3, 4), (7, 60), (100, 60)] {
            let expected = Duration::from_secs(expected);
            for _ in 0..100 {
                let delay = backoff(attempt, &OPTIONS);
                assert!(delay >= expected / 2 && delay <= expected * 3 / 2, "{attempt}: {delay:?}");
            }
        }
    }

    #[test]
    fn the_last_attempt_is_dead_unless_it_was_postponed() {
        let error = Error::other("no");
        assert!(!failure(&error, 2, &OPTIONS).is_dead);
        assert!(failure(&error, 3, &OPTIONS).is_dead);
        let snooze: Error = Retry::snooze(Duration::from_secs(5)).into();
        let snoozed = failure(&snooze, 3, &OPTIONS);
        assert!(!snoozed.is_dead && !snoozed.counts);
        let never: Error = Retry::never("no").into();
        assert!(failure(&never, 1, &OPTIONS).is_dead);
    }

    #[test]
    fn a_long_error_is_cut_between_two_characters() {
        assert_eq!(cut("é".repeat(5000)).len(), ERROR);
        assert_eq!(cut("x".repeat(ERROR + 1)).len(), ERROR);
    }
}
