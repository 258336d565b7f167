//! The parameter `Delivery`, and the chain of deliveries that cause each other.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::database::db::Db;
use crate::durable::carry::{self, CarriedValues};
use crate::durable::trace;
use crate::error::{BoxError, Error, Result};
use crate::signal::parameter::{Context, Parameter, phase};
use crate::task::chain::recursion_limit;
use crate::task::info::Asks;
use crate::task::running_delivery;

/// The stored delivery that a durable receiver runs for: a parameter of durable receivers.
///
/// A durable receiver may run more than once for one event: a process may be killed after the effect of the receiver and before the
/// delivery is acknowledged. [`idempotency_key`](Self::idempotency_key) is the same for every attempt, so that another system can
/// recognize the repetition.
///
/// ```standalone_crate
/// use sqlx_signals::prelude::*;
/// use sqlx_signals::durable::Uuid;
///
/// #[derive(Clone)]
/// struct Mailer;
///
/// impl Mailer {
///     async fn send(&self, to: &str, key: Uuid) -> Result<()> {
///         println!("{key}: welcome, {to}");
///         Ok(())
///     }
/// }
///
/// #[derive(Model, serde::Serialize, serde::Deserialize)]
/// struct User { id: Option<i64>, email: String }
///
/// #[receiver(post_save, sender = User, created, durable(queue = "mail", max_attempts = 10))]
/// async fn welcome(
///     saved: PostSave<'_, User>,
///     delivery: Delivery<'_>,
///     State(mailer): State<Mailer>,
/// ) -> Result<()> {
///     mailer.send(&saved.instance.email, delivery.idempotency_key()).await
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    data: &'a DeliveryData,
}

/// What is known about a running delivery.
#[derive(Debug)]
pub(crate) struct DeliveryData {
    pub(crate) id: i64,
    pub(crate) event: Uuid,
    pub(crate) receiver: &'static str,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) stored_at: SystemTime,
    /// How long ago it was stored, by the clock of the database.
    pub(crate) age: Duration,
    pub(crate) cause: Cause,
}

/// The delivery in the values of a `Db`, where the parameter finds it.
#[derive(Clone)]
pub(crate) struct RunningDelivery(pub(crate) Arc<DeliveryData>);

/// What caused an event: the column `context` of a delivery. It is empty if the event was not caused by a delivery, has no trace and carries no
/// values.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Cause {
    /// The first event of the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) correlation: Option<Uuid>,
    /// The event whose receiver has caused this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) caused_by: Option<Uuid>,
    /// The receivers of the events before this one, the first event first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) receivers: Vec<String>,
    /// The trace in which the event was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    /// The values of [`Db::carry`](crate::Db::carry).
    #[serde(default, skip_serializing_if = "CarriedValues::is_empty")]
    pub(crate) carried: CarriedValues,
}

/// Separates the receivers of a chain in a CloudEvent.
const SEPARATOR: &str = ", ";

impl Cause {
    /// The receivers of the chain and the next one, as the attribute `causationchain` of a CloudEvent.
    pub(crate) fn chain_with(&self, next: &str) -> String {
        let receivers = self.receivers.iter().map(String::as_str);
        receivers.chain([next]).collect::<Vec<_>>().join(SEPARATOR)
    }

    /// The receivers of the attribute.
    pub(crate) fn receivers_of(chain: &str) -> Vec<String> {
        chain.split(SEPARATOR).map(str::to_owned).collect()
    }

    /// # Errors
    ///
    /// [`Error::Recursion`] if the chain is as long as the limit.
    pub(crate) fn check_length(&self) -> Result<()> {
        let limit = recursion_limit();
        if self.receivers.len() < limit {
            return Ok(());
        }
        Err(Error::Recursion { chain: self.receivers.join(" → "), limit })
    }

    /// What causes the events that the task stores now through this `Db`. `None` outside of a delivery, without a trace and carried values.
    /// An event that was received from another service is the one that the task is running, so it has the same cause.
    ///
    /// # Errors
    ///
    /// The name of a carried value that is not JSON, and the error of serde.
    pub(crate) fn of_event(
        db: Option<&Db>,
        is_received: bool,
    ) -> Result<Option<Self>, (&'static str, serde_json::Error)> {
        let running = running_delivery::of_task();
        let running = running.and_then(|running| running.downcast::<DeliveryData>().ok());
        let caused = running.map(|running| {
            if is_received {
                return running.cause.clone();
            }
            let mut receivers = running.cause.receivers.clone();
            receivers.push(running.receiver.to_owned());
            let correlation = running.cause.correlation.or(Some(running.event));
            let Self { carried, traceparent, .. } = running.cause.clone();
            Self { correlation, caused_by: Some(running.event), receivers, traceparent, carried }
        });
        let is_caused = caused.is_some();
        let mut cause = caused.unwrap_or_default();
        // A process without a propagator passes the trace on.
        cause.traceparent = trace::current().or(cause.traceparent);
        carry::add_values(db, &mut cause.carried)?;
        let is_empty = !is_caused && cause.traceparent.is_none() && cause.carried.is_empty();
        Ok((!is_empty).then_some(cause))
    }
}

impl DeliveryData {
    /// Runs `future` as a part of this delivery.
    pub(crate) fn scope<F: Future>(
        self: Arc<Self>,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        running_delivery::scope(self, future)
    }
}

/// The namespace of the idempotency keys, a random UUID.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0c_7a51_5b3e_4d0c_9c35_2a7a_c9e4_b1d8);

impl Delivery<'_> {
    /// The key of the row in `signals_delivery`.
    pub fn id(&self) -> i64 {
        self.data.id
    }

    /// The id of the event. All receivers of one event have the same.
    pub fn event(&self) -> Uuid {
        self.data.event
    }

    /// The number of this attempt, starting at 1.
    pub fn attempt(&self) -> u32 {
        self.data.attempt
    }

    /// Whether the delivery is dead if this attempt fails.
    pub fn is_last_attempt(&self) -> bool {
        self.data.attempt >= self.data.max_attempts
    }

    /// When the event was stored, by the clock of the database.
    pub fn stored_at(&self) -> SystemTime {
        self.data.stored_at
    }

    /// A key that is the same for every attempt, and different for every other event or receiver.
    ///
    /// See the example of [`Delivery`].
    pub fn idempotency_key(&self) -> Uuid {
        let mut name = self.data.event.as_bytes().to_vec();
        name.extend_from_slice(self.data.receiver.as_bytes());
        Uuid::new_v5(&NAMESPACE, &name)
    }

    /// The first event of the chain of events that cause each other through deliveries. It is [`event`](Self::event) itself if no delivery
    /// has caused the event.
    pub fn correlation(&self) -> Uuid {
        self.data.cause.correlation.unwrap_or(self.data.event)
    }

    /// The event whose durable receiver has caused this event. `None` if no delivery has caused it.
    pub fn caused_by(&self) -> Option<Uuid> {
        self.data.cause.caused_by
    }
}

macro_rules! in_durable_phases {
    ($($phase:ident)*) => { $(
        impl<'a, 'c, S> Parameter<'a, 'c, phase::$phase<S>> for Delivery<'a> {
            const ASKS: Asks = Asks::Delivery;

            fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
                let running: Option<&'a RunningDelivery> = cx.db.and_then(Db::state);
                let RunningDelivery(data) = running.ok_or("it does not run for a delivery")?;
                Ok(Self { data })
            }
        }
    )* };
}

in_durable_phases!(Durable DurableWithConnection);
