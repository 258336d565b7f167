//! What an operator does with deliveries: counts, lists, retries and discards them.

mod bounded;
mod candidates;
mod filter;
mod list;
mod reader;
mod replay;
mod scan;
mod selection;
mod status;
mod stored;

use crate::database::backend::DatabaseKind;
use crate::database::writer::{Verb, Writer};
use crate::durable::claim::now;
use crate::durable::schema::explained;
use crate::durable::sql::Sql;
use crate::durable::{Deliveries, wake};
use crate::error::Result;

pub use filter::{DeliveryFilter, DeliveryState};
pub use reader::DeliveryPage;
use selection::Selection;
pub use status::{ReceiverStatus, Status};
pub use stored::StoredDelivery;

/// Where deliveries are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Stored,
    Kept,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Stored => "signals_delivery",
            Self::Kept => "signals_done",
        }
    }
}

/// How many deliveries one statement changes.
const BATCH: usize = 1000;

/// What an operator does to a delivery.
#[derive(Clone, Copy)]
enum Action {
    Retry,
    Discard,
}

impl Deliveries {
    /// Counts the deliveries of each receiver by their [`DeliveryState`]. The result prints as a table, and is JSON through serde. It has a
    /// line for each durable receiver of this program, and for each unknown receiver of which deliveries are stored.
    ///
    /// The database reads the whole table `signals_delivery`.
    ///
    /// See the example of [`Status`].
    ///
    /// # Errors
    ///
    /// [`Error::DeliveriesNotSetUp`](crate::Error::DeliveriesNotSetUp) if the tables do not exist, and the errors of the database.
    ///
    /// # Cancel safety
    ///
    /// Only reads.
    pub async fn status(&self) -> Result<Status> {
        let mut conn = self.db.acquire().await?;
        status::read(&mut conn, self.db.pool_id()).await.map_err(explained)
    }

    /// As [`status`](Self::status), but looks at a limited number of deliveries of each receiver, so that it is fast if millions wait. It counts up
    /// to [`Status::BOUND`] deliveries exactly. A receiver with more deliveries has [`at_least`](ReceiverStatus::at_least).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// async fn waiting(db: &Db) -> Result<Vec<String>> {
    ///     let status = db.deliveries().bounded_status().await?;
    ///     let plus = |at_least: bool| if at_least { "+" } else { "" };
    ///     let lines = status.receivers.iter().map(|r| format!("{}: {}{}", r.receiver, r.waiting, plus(r.at_least)));
    ///     Ok(lines.collect())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    ///
    /// # Cancel safety
    ///
    /// Only reads.
    pub async fn bounded_status(&self) -> Result<Status> {
        let mut conn = self.db.acquire().await?;
        bounded::read(&mut conn, self.db.pool_id()).await.map_err(explained)
    }

    /// Returns the delivery with this id, if it is stored or kept.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// async fn error(db: &Db, id: i64) -> Result<Option<String>> {
    ///     Ok(db.deliveries().get(id).await?.and_then(|delivery| delivery.error))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    ///
    /// # Cancel safety
    ///
    /// Only reads.
    pub async fn get(&self, id: i64) -> Result<Option<StoredDelivery>> {
        let mut conn = self.db.acquire().await?;
        let kind = conn.kind();
        for table in [Table::Stored, Table::Kept] {
            let (columns, name) = (stored::columns(kind, true, table), table.name());
            let text = format!("SELECT {columns} FROM {name} WHERE id = $1");
            let sql = Sql::new(kind, &text).bind(id);
            let rows: Vec<stored::Columns> = sql.fetch(&mut conn).await.map_err(explained)?;
            if let Some(stored::Columns(found)) = rows.into_iter().next() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Returns the deliveries that the filter selects, the oldest first unless the filter says otherwise. Kept deliveries are selected only by the
    /// state [`Done`](DeliveryState::Done).
    ///
    /// It is fast even if millions of deliveries are stored, except for the cases in which [`page`](Self::page) returns fewer deliveries than the
    /// limit. It may read with several statements, so a delivery that changes its state in the meantime may be missing.
    ///
    /// On PostgreSQL, a list of [running](DeliveryState::Running) deliveries lacks those without an ordering key whose lease has ended, because their
    /// worker was killed, as long as more than [`Status::BOUND`] due deliveries of the receiver are run before them.
    ///
    /// See the example of [`DeliveryFilter`].
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    ///
    /// # Cancel safety
    ///
    /// Only reads.
    pub async fn list(&self, filter: DeliveryFilter) -> Result<Vec<StoredDelivery>> {
        let mut conn = self.db.acquire().await?;
        list::read(&mut conn, filter).await.map_err(explained)
    }

    /// Returns the first deliveries of the list, as [`list`](Self::list) does, but reads a limited number of stored deliveries, so that it is fast
    /// whatever is stored.
    ///
    /// A list may have many other deliveries between its own: in another state, of other receivers, or stored after the time of
    /// [`before`](DeliveryFilter::before). If they have no index that leads past them, the page ends after about 20,000 of them, even if it has fewer
    /// deliveries than the limit, and [`next`](DeliveryPage::next) says where the list continues. Of dead deliveries, it passes up to 100,000. If the
    /// filter selects several receivers, this may be read for each of them.
    ///
    /// Dead and kept deliveries have such an index, and so have the retrying ones of all receivers and those of a receiver that has at most 10,000.
    /// Without `before`, their pages are full.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::durable::{DeliveryFilter, DeliveryState};
    /// async fn print_waiting(db: &Db) -> Result<()> {
    ///     let waiting = DeliveryFilter::new().state(DeliveryState::Waiting).limit(50);
    ///     let mut page = db.deliveries().page(waiting.clone()).await?;
    ///     loop {
    ///         for delivery in &page.deliveries {
    ///             println!("{} {}", delivery.id, delivery.receiver);
    ///         }
    ///         let Some(id) = page.next else { return Ok(()) };
    ///         page = db.deliveries().page(waiting.clone().after_id(id)).await?;
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    ///
    /// # Cancel safety
    ///
    /// Only reads.
    pub async fn page(&self, filter: DeliveryFilter) -> Result<DeliveryPage> {
        let mut conn = self.db.acquire().await?;
        list::page(&mut conn, &filter).await.map_err(explained)
    }

    /// Makes a delivery due now, with all attempts of its receiver left. A dead delivery is alive again. Returns `false` if there is no such
    /// delivery, or if it is running.
    ///
    /// A running delivery is not changed: it succeeds, or it is tried again or is dead as its receiver declares. A claimed delivery whose lease
    /// has ended, because its worker was killed, is not running.
    ///
    /// ```standalone_crate
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::durable::{DeliveryFilter, DeliveryState, Retry};
    /// # use sqlx_signals::testing;
    /// # #[derive(Model, serde::Serialize, serde::Deserialize)]
    /// # #[model(table = "users")]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_save, sender = User, durable)]
    /// async fn welcome(saved: PostSave<'_, User>, _delivery: Delivery<'_>) -> Result<()> {
    ///     Err(Retry::never("no such address").into())
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # db.deliveries().setup().await?;
    /// # for name in ["Ann", "Bob"] { User { id: None, name: name.into() }.save(&db).await?; }
    /// # testing::deliver(&db).await?;
    /// let dead = DeliveryFilter::new().state(DeliveryState::Dead);
    /// for delivery in db.deliveries().list(dead.clone()).await? {
    ///     println!("{} {}: {:?}", delivery.id, delivery.receiver, delivery.error);
    /// }
    /// # assert_eq!(db.deliveries().list(dead.clone()).await?.len(), 2);
    /// assert!(db.deliveries().retry(1).await?);
    /// assert!(db.deliveries().discard(2).await?);
    /// # assert_eq!(db.deliveries().list(dead).await?.len(), 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status). Nothing is changed then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the delivery is either as before or due.
    pub async fn retry(&self, id: i64) -> Result<bool> {
        self.change_one(Action::Retry, id).await
    }

    /// Retries the deliveries that the filter selects, as [`retry`](Self::retry) does, and returns their number. If the filter has no state,
    /// it retries those that are dead or wait after a failed attempt, so that new deliveries keep their delay. Without a limit, it retries all
    /// of them, in batches.
    ///
    /// Running deliveries are not changed, as with [`retry`](Self::retry).
    ///
    /// See the example of [`DeliveryFilter`].
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status). Earlier batches have been retried then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the deliveries may have been retried.
    pub async fn retry_all(&self, filter: DeliveryFilter) -> Result<u64> {
        let kind = self.db.kind();
        let selection = filter.selection_to_retry(kind);
        let text = statement(kind, Action::Retry, &selection.conditions());
        self.change_all(selection, filter.limit, &text, |sql| self.change(Action::Retry, sql)).await
    }

    /// Changes the deliveries of a selection in batches, and returns their number. `change` executes the statement `text` for one batch, and
    /// returns the ids of its deliveries.
    async fn change_all<F: Future<Output = Result<Vec<(i64,)>>>>(
        &self,
        mut selection: Selection,
        limit: Option<usize>,
        text: &str,
        change: impl Fn(Sql) -> F,
    ) -> Result<u64> {
        let mut changed = 0;
        let mut left = limit.unwrap_or(usize::MAX);
        while left > 0 {
            let size = left.min(BATCH);
            let ids = change(selection.bind(Sql::new(self.db.kind(), text), size)).await?;
            changed += ids.len();
            left -= ids.len();
            selection.continue_after(&ids);
            if ids.len() < size {
                break;
            }
        }
        Ok(changed as u64)
    }

    /// Executes a statement that changes deliveries, and returns their ids.
    async fn change(&self, action: Action, sql: Sql) -> Result<Vec<(i64,)>> {
        let verb = match action {
            Action::Retry => Verb::Retry,
            Action::Discard => Verb::Discard,
        };
        let mut conn = self.db.acquire_to_write(Writer::of(verb, "signals_delivery")).await?;
        let ids: Vec<(i64,)> = sql.fetch(&mut conn).await.map_err(explained)?;
        drop(conn);
        if !ids.is_empty() {
            // What is retried is due. What is discarded may have blocked its ordering key.
            wake::wake(Some(&self.db));
        }
        Ok(ids)
    }

    /// Deletes a delivery without running it. Returns `false` if there is no such delivery, or if it is running.
    ///
    /// A running delivery is not changed, as with [`retry`](Self::retry): its effect may already have happened, so it has to end first.
    ///
    /// See the example of [`retry`](Self::retry).
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status). Nothing is changed then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the delivery is either as before or deleted.
    pub async fn discard(&self, id: i64) -> Result<bool> {
        let discarded = self.change_one(Action::Discard, id).await?;
        if discarded {
            tracing::info!(id, "a delivery was discarded");
        }
        Ok(discarded)
    }

    async fn change_one(&self, action: Action, id: i64) -> Result<bool> {
        let kind = self.db.kind();
        let sql = Sql::new(kind, &statement(kind, action, "id = $1")).bind(id);
        Ok(!self.change(action, sql).await?.is_empty())
    }
}

/// The statement that changes the deliveries of a condition that are not running. On PostgreSQL, it skips locked rows: a worker is claiming
/// them, or has deleted them in the transaction of a receiver, which can run for longer than its lease.
fn statement(kind: DatabaseKind, action: Action, condition: &str) -> String {
    let now = now(kind);
    let (with, lock) = match kind {
        DatabaseKind::Sqlite => ("WITH chosen AS", ""),
        DatabaseKind::Postgres => ("WITH chosen AS MATERIALIZED", "FOR UPDATE SKIP LOCKED"),
    };
    let chosen = format!(
        "{with} (SELECT id FROM signals_delivery WHERE (worker IS NULL OR run_at <= {now}) AND {condition} {lock})"
    );
    match action {
        // A worker whose lease has ended may still try to store a result. The incremented claim keeps it from doing so.
        Action::Retry => format!(
            "{chosen} UPDATE signals_delivery AS d SET run_at = {now}, attempt = 0, lost = 0, dead_at = NULL, worker = NULL, \
             claim = d.claim + CASE WHEN d.worker IS NULL THEN 0 ELSE 1 END WHERE id IN (SELECT id FROM chosen) RETURNING id"
        ),
        Action::Discard => format!(
            "{chosen} DELETE FROM signals_delivery WHERE id IN (SELECT id FROM chosen) RETURNING id"
        ),
    }
}
