//! Connects services that use [`sqlx-signals`](sqlx_signals) by [NATS JetStream](https://docs.nats.io/nats-concepts/jetstream).
//!
//! One service publishes the events of a model or of a signal. They are stored in the transaction of their write, and a relay publishes
//! them after the commit, so a message is published if and only if the transaction commits:
//!
//! ```no_run
//! use signals_nats::{NatsPublisher, StreamConfig, async_nats};
//! use sqlx_signals::prelude::*;
//!
//! #[derive(Signal, serde::Serialize, serde::Deserialize)]
//! #[signal(publish = "shop.order_paid")]
//! struct OrderPaid {
//!     order_id: i64,
//! }
//!
//! #[derive(Model, serde::Serialize, serde::Deserialize)]
//! #[model(table = "users", publish = "shop.user")]
//! struct User {
//!     id: Option<i64>,
//!     name: String,
//! }
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let db = Db::connect("sqlite:shop.db").await?;
//! db.deliveries().setup().await?;
//! let client = async_nats::connect("nats://localhost:4222").await?;
//! let stream = StreamConfig {
//!     name: "SHOP".into(),
//!     subjects: vec!["shop.>".into()],
//!     ..StreamConfig::default()
//! };
//! let publisher = NatsPublisher::new(client, stream);
//! publisher.setup().await?;
//! let relay = db.deliveries().relay("shop", publisher).spawn().await?;
//!
//! OrderPaid { order_id: 7 }.send(&db).await?;
//! User { id: None, name: "Ann".into() }.save(&db).await?;
//! # relay.shutdown().await?; Ok(()) }
//! ```
//!
//! The subjects of a model are `shop.user.created`, `shop.user.updated` and `shop.user.deleted`.
//!
//! | failure | then |
//! |---|---|
//! | the server is down, at the start or later | the events wait in the database, without a limit |
//! | an acknowledgement of the server is lost | the message is published again, with the same `Nats-Msg-Id` |
//! | the process is killed after it has published a message | the same, when the lease of the relay has ended |
//! | the server stores no further messages | the events wait in the database |
//!
//! So a message can be in the stream twice if more time than the `duplicate_window` of the stream is between the attempts.
//!
//! # Subscribing
//!
//! The other service has the same type with `subscribe`. Each message is stored in its database, with a delivery for each durable receiver, in
//! one transaction. So it is taken once, even if it is in the stream twice, and its receivers run as any other durable receivers do:
//!
//! ```no_run
//! use signals_nats::{NatsSubscriber, StreamConfig, async_nats};
//! use sqlx_signals::prelude::*;
//!
//! #[derive(Signal, serde::Serialize, serde::Deserialize)]
//! #[signal(subscribe = "shop.order_paid")]
//! struct OrderPaid {
//!     order_id: i64,
//! }
//!
//! #[derive(Model)]
//! #[model(table = "shipments")]
//! struct Shipment {
//!     id: Option<i64>,
//!     order_id: i64,
//! }
//!
//! #[receiver(OrderPaid, durable)]
//! async fn ship(paid: &OrderPaid, conn: &mut Conn<'_>) -> Result<()> {
//!     Shipment { id: None, order_id: paid.order_id }.save(conn).await?;
//!     Ok(())
//! }
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let db = Db::connect("sqlite:shipping.db").await?;
//! db.deliveries().setup().await?;
//! let client = async_nats::connect("nats://localhost:4222").await?;
//! let stream = StreamConfig {
//!     name: "SHOP".into(),
//!     subjects: vec!["shop.>".into()],
//!     ..StreamConfig::default()
//! };
//! let subscriber = NatsSubscriber::new(client, stream, "shipping");
//! subscriber.setup().await?;
//! let subscriber = subscriber.spawn(&db).await?;
//! let worker = db.deliveries().worker().spawn().await?;
//! # let stopped = async {};
//! stopped.await;
//! subscriber.shutdown().await;
//! worker.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! | failure | then |
//! |---|---|
//! | the server is down, at the start or later | nothing is received, and the subscriber tries again |
//! | the database is down | the same; what has arrived is given back to the server |
//! | the process is killed before the commit | the message is received again, after the `ack_wait` of the consumer |
//! | the process is killed after the commit, or the acknowledgement is lost | the same; the message is in the inbox, so it has no second effect |
//! | a message is in the stream twice | the second one has no effect |
//! | a message does not decode | it is a dead delivery of `subscribe <subject>`, which an operator can retry or discard |
//! | a receiver that runs in the transaction fails | the message is a delivery of `subscribe <subject>`, by which a worker takes it later |
//! | the consumer is deleted | it is created again, and the messages that were taken before have no second effect |

mod consumer;
mod publisher;
mod receive;
mod stream;
mod subscriber;

pub use async_nats;
pub use async_nats::jetstream::stream::Config as StreamConfig;
pub use publisher::NatsPublisher;
pub use subscriber::{NatsSubscriber, RunningSubscriber};
