//! The inbox: messages of other services, each of which is taken once.

mod keep;
mod message;
mod receive;
mod subscription;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::database::db::Db;
use crate::durable::claim::{earlier, millis};
use crate::durable::schema::{self, explained};
use crate::durable::sql::Sql;
use crate::error::Result;

pub use keep::{KeptMessage, take_kept};
pub use receive::Receipt;
pub use subscription::Subscription;

/// How many messages one statement forgets.
const BATCH: i64 = 10_000;

impl Db {
    /// The messages that this database has received from other services.
    ///
    /// See the example of [`Inbox`].
    pub fn inbox(&self) -> Inbox {
        Inbox { db: self.clone() }
    }
}

/// The messages that a database has received from other services, see [`Db::inbox`].
///
/// A message is a [CloudEvent](https://cloudevents.io) 1.0 in JSON. Its `source` and `id` are stored in the table `signals_inbox`, and its
/// signal is sent to its receivers, in one transaction. So each message has its effect once, however often it is received. The crate
/// `sqlx-signals-nats` receives messages of NATS JetStream.
///
/// ```standalone_crate
/// use sqlx_signals::durable::Receipt;
/// use sqlx_signals::prelude::*;
///
/// #[derive(Signal, serde::Serialize, serde::Deserialize)]
/// #[signal(subscribe = "shop.order_paid")]
/// struct OrderPaid { order_id: i64 }
///
/// #[derive(Model)]
/// #[model(table = "shipments")]
/// struct Shipment { id: Option<i64>, order_id: i64 }
///
/// #[receiver(OrderPaid, durable)]
/// async fn ship(paid: &OrderPaid, conn: &mut Conn<'_>) -> Result<()> {
///     Shipment { id: None, order_id: paid.order_id }.save(conn).await?;
///     Ok(())
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE shipments (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL)").await?;
/// db.deliveries().setup().await?;
/// let message = r#"{ "specversion": "1.0", "source": "shop", "id": "1", "type": "shop.order_paid", "data": { "order_id": 7 } }"#;
/// let receipt = db.inbox().receive("shop.order_paid", message.as_bytes()).await?;
/// assert_eq!(receipt, Receipt::Taken);
/// let receipt = db.inbox().receive("shop.order_paid", message.as_bytes()).await?;
/// assert_eq!(receipt, Receipt::Repeated);
/// sqlx_signals::testing::deliver(&db).await?.assert_ran::<ship>(1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Inbox {
    db: Db,
}

impl Inbox {
    /// Checks that the tables exist, and have the version that this program needs. [`Deliveries::setup`](super::Deliveries::setup) creates them.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// assert!(db.inbox().check().await.is_err());
    /// db.deliveries().setup().await?;
    /// db.inbox().check().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::DeliveriesNotSetUp`](crate::Error::DeliveriesNotSetUp) if they are older or do not exist.
    /// - The error of the database.
    pub async fn check(&self) -> Result<()> {
        schema::check(&mut self.db.acquire().await?).await
    }

    /// The subjects of all signals with `subscribe = "…"`.
    ///
    /// ```standalone_crate
    /// use sqlx_signals::durable::Inbox;
    /// use sqlx_signals::prelude::*;
    ///
    /// #[derive(Signal, serde::Serialize, serde::Deserialize)]
    /// #[signal(subscribe = "shop.order_paid")]
    /// struct OrderPaid { order_id: i64 }
    ///
    /// # fn main() {
    /// assert!(Inbox::subjects().contains("shop.order_paid"));
    /// # }
    /// ```
    pub fn subjects() -> BTreeSet<&'static str> {
        inventory::iter::<Subscription>().map(|subscription| subscription.subject).collect()
    }

    /// Forgets the messages that were received longer ago than this, and returns how many there were. If one of them is received again, it is
    /// taken again. So the time must be longer than the broker keeps its messages.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.deliveries().setup().await?;
    /// let month = std::time::Duration::from_secs(30 * 24 * 3600);
    /// assert_eq!(db.inbox().prune(month).await?, 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of the database. Some of the messages may be forgotten then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the messages may be forgotten.
    pub async fn prune(&self, older_than: Duration) -> Result<u64> {
        let mut pruned = 0;
        loop {
            let mut tx = self.db.begin().await?;
            let kind = tx.kind();
            let before = earlier(kind, "$1");
            let text = format!(
                "DELETE FROM signals_inbox WHERE (source, event) IN \
                 (SELECT source, event FROM signals_inbox WHERE received_at < {before} ORDER BY received_at LIMIT {BATCH})"
            );
            let batch = Sql::new(kind, &text).bind(millis(older_than)).execute(&mut tx).await;
            let batch = batch.map_err(explained)?;
            tx.commit().await?;
            pruned += batch;
            if batch < BATCH.unsigned_abs() {
                return Ok(pruned);
            }
        }
    }
}
