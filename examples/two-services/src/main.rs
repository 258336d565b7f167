//! Two services, each with a database of its own, that are connected only by NATS JetStream: a shop on SQLite ([`shop`]) and a shipping service
//! on PostgreSQL ([`shipping`]). Both are killed all the time, and still every paid order is shipped once.
//!
//! `scripts/with-nats scripts/with-postgres cargo run -p two-services`
//!
//! `ORDERS=1000000` before it makes it a long test; there are 400 orders by default.
//!
//! Each service is this program with its name as the argument. In a real system, each of them is a program of its own.

mod demo;
mod shipping;
mod shop;

use std::process::ExitCode;
use std::time::Duration;

use signals_nats::StreamConfig;
use signals_nats::async_nats::{Client, ConnectOptions};
use sqlx_signals::{Error, Result};

/// Starts this program with the servers that it needs.
const COMMAND: &str = "scripts/with-nats scripts/with-postgres cargo run -p two-services";

/// What a killed service was working on is repeated after this time. It is short, so that this program is; the defaults are longer.
const LEASE: Duration = Duration::from_secs(1);

/// The connection of a service to NATS, and the stream in which the messages of the shop are stored.
async fn nats() -> Result<(Client, StreamConfig)> {
    let options = ConnectOptions::new().retry_on_initial_connect();
    let client = options.connect(variable("NATS_URL")?).await.map_err(Error::other)?;
    let stream = StreamConfig {
        name: "two-services".into(),
        subjects: vec!["shop.order_paid".into()],
        ..StreamConfig::default()
    };
    Ok((client, stream))
}

/// How many orders the shop takes. Then it only publishes.
fn orders() -> Result<i64> {
    match std::env::var("ORDERS") {
        Ok(orders) => orders.parse().map_err(Error::other),
        Err(_) => Ok(400),
    }
}

/// A variable of the environment.
fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .map_err(|_| Error::other(format!("{name} is not set: run this program with `{COMMAND}`")))
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match std::env::args().nth(1).as_deref() {
        None => demo::run().await,
        Some("shop") => shop::run().await,
        Some("shipping") => shipping::run().await,
        Some(other) => Err(Error::other(format!("there is no service `{other}`"))),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
