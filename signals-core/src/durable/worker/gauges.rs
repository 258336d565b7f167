//! Sets the gauges of the stored deliveries, for the facade crate `metrics`.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use crate::durable::ReceiverStatus;
use crate::error::Result;
use crate::task::measure::Gauge;

const INTERVAL: Duration = Duration::from_secs(15);

/// The gauges of one receiver.
struct Gauges {
    states: [Gauge; 4],
    oldest_due: Gauge,
}

impl Gauges {
    fn of(receiver: &str) -> Self {
        let states = ["waiting", "running", "retrying", "dead"].map(|state| {
            Gauge::new("sqlx_signals_deliveries", &[("receiver", receiver), ("state", state)])
        });
        let name = "sqlx_signals_delivery_oldest_due_seconds";
        Self { states, oldest_due: Gauge::new(name, &[("receiver", receiver)]) }
    }

    fn set(&self, status: &ReceiverStatus) {
        let counts = [status.waiting, status.running, status.retrying, status.dead];
        for (gauge, count) in self.states.iter().zip(counts) {
            gauge.set(usize::try_from(count).unwrap_or(usize::MAX));
        }
        let seconds = status.oldest_lag.unwrap_or_default().as_secs();
        self.oldest_due.set(usize::try_from(seconds).unwrap_or(usize::MAX));
    }
}

pub(super) async fn run(shared: Weak<Shared>) {
    let mut gauges = HashMap::new();
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = shared.set_gauges(&mut gauges).await {
            tracing::debug!(%error, "deliveries could not be counted for their metrics");
        }
        drop(shared);
        sleep(INTERVAL).await;
    }
}

impl Shared {
    async fn set_gauges(&self, gauges: &mut HashMap<String, Gauges>) -> Result<()> {
        for status in self.db.deliveries().bounded_status().await?.receivers {
            let name = &status.receiver;
            gauges.entry(name.clone()).or_insert_with(|| Gauges::of(name)).set(&status);
        }
        Ok(())
    }
}
