//! Durable receivers: their deliveries are stored with the write, and run by workers until they succeed.
//!
//! A receiver with the option `durable` does not run in the transaction. Its event is stored in the table `signals_delivery`, in the
//! transaction of the write. A [`Worker`], in this process or in another one, runs the receiver after the commit, and again until it
//! succeeds.
//!
//! | item | purpose |
//! |---|---|
//! | [`Db::deliveries`](crate::Db::deliveries) | creates the tables, starts workers, and shows, retries and discards deliveries |
//! | [`Delivery`] | a receiver's parameter: the stored delivery, with its idempotency key |
//! | [`Relay`], [`Publisher`] | publishes events to a message broker |
//! | [`Inbox`] | takes each message of other services once |
//! | [`Retry`] | an error that decides when a delivery is tried again |
//! | [`Status`] | counts the deliveries of each receiver |
//! | [`DeliveryFilter`], [`StoredDelivery`], [`DeliveryPage`] | list deliveries |
//! | [`Db::carry`](crate::Db::carry), [`Carried`] | pass a value of a request to the runs of its deliveries |
//! | [`Query::deliver`](crate::Query::deliver) | stores deliveries for rows that exist already |
//! | [`set_propagator`] | propagates the trace of an event to the runs of its deliveries |
//! | [`migrations`] | the SQL of the tables |
//! | [`testing::deliver`](crate::testing::deliver) | runs the due deliveries in a test |
//! | [`testing::worker_dies_at`](crate::testing::worker_dies_at) | the same, with a simulated worker that dies at a given point |

// May import: `error`, `task`, `database`, `table`, `transaction`, `signal`, `write`, `model`.

mod backfill;
pub(crate) mod carry;
mod claim;
mod claimed;
pub(crate) mod death;
mod delivery;
mod end_claim;
mod ended;
pub(crate) mod event_form;
pub(crate) mod inbox;
pub(crate) mod inline;
mod insert;
mod inspect;
mod kept;
mod notify;
pub(crate) mod outbox;
mod payload;
mod probe;
mod receivers;
mod relay;
mod retry;
mod run;
mod schema;
mod sql;
mod trace;
mod wake;
mod warnings;
#[cfg(feature = "postgres")]
mod with_row;
mod worker;

pub use uuid::Uuid;

use crate::database::db::Db;
use crate::durable::outbox::MaxPayload;
use crate::error::Result;

pub use carry::Carried;
pub use delivery::Delivery;
pub use inbox::{Inbox, Receipt};
pub use inspect::{
    DeliveryFilter, DeliveryPage, DeliveryState, ReceiverStatus, Status, StoredDelivery,
};
pub use relay::{Message, Publisher, Relay, RelayOptions};
pub use retry::Retry;
pub use schema::{Migration, migrations};
pub use trace::{Propagator, set_propagator};
#[doc(hidden)]
pub use warnings::WarningIntervals;
pub use worker::{Worker, WorkerOptions};

impl Db {
    /// The deliveries of durable receivers that are stored in this database.
    ///
    /// See the example of [`Deliveries`].
    pub fn deliveries(&self) -> Deliveries {
        Deliveries { db: self.clone() }
    }
}

/// The deliveries of durable receivers that are stored in a database, see [`Db::deliveries`].
///
/// ```standalone_crate
/// use sqlx_signals::prelude::*;
///
/// #[derive(Model, serde::Serialize, serde::Deserialize)]
/// #[model(table = "users")]
/// struct User { id: Option<i64>, name: String }
///
/// #[derive(Model)]
/// #[model(table = "accounts")]
/// struct Account { id: Option<i64>, user_id: i64 }
///
/// #[receiver(post_save, sender = User, created, durable)]
/// async fn open_account(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
///     Account { id: None, user_id: saved.pk() }.save(conn).await?;
///     Ok(())
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let file = std::env::temp_dir().join(format!("signals_deliveries_{}.db", std::process::id()));
/// # let url = format!("sqlite:{}", file.display());
/// let db = Db::connect(&url).await?;
/// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
/// #     CREATE TABLE accounts (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL)").await?;
/// db.deliveries().setup().await?;
/// let worker = db.deliveries().worker().spawn().await?;
/// User { id: None, name: "Ann".into() }.save(&db).await?;
/// # while Account::query("").count(&db).await? == 0 {
/// #     tokio::time::sleep(std::time::Duration::from_millis(5)).await;
/// # }
/// worker.shutdown().await?;
/// # db.close().await;
/// # std::fs::remove_file(file).unwrap();
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Deliveries {
    db: Db,
}

impl Deliveries {
    /// Creates the tables of the deliveries, or updates them to the version that this program needs. If the tables have this version, this
    /// is a no-op. Several processes can call it at the same time.
    ///
    /// A program whose migrations create all tables uses the SQL of [`migrations`] instead.
    ///
    /// See the example of [`Deliveries`].
    ///
    /// # Errors
    ///
    /// The error of the database if it refuses a statement. In that case, nothing is changed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the tables are either as before or complete.
    pub async fn setup(&self) -> Result<()> {
        schema::setup(&self.db).await
    }

    /// A worker for the deliveries of this database.
    ///
    /// See the example of [`Deliveries`].
    pub fn worker(&self) -> WorkerOptions {
        WorkerOptions::new(self.db.clone())
    }

    /// Returns a `Db` whose writes may store payloads of this size; 256 KiB by default. A write with a larger payload returns
    /// [`Error::PayloadTooLarge`](crate::Error::PayloadTooLarge).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::connect("sqlite::memory:").await?.deliveries().max_payload(1024 * 1024);
    /// # db.execute("SELECT 1").await?; Ok(()) }
    /// ```
    #[must_use = "only the returned `Db` has the limit"]
    pub fn max_payload(&self, bytes: usize) -> Db {
        self.db.with(MaxPayload(bytes))
    }
}
