//! Which deliveries an operator means, and by which index they are read.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;

use super::Table;
use super::selection::{
    Argument, CLAIMED, DEAD, DEAD_OF_RECEIVER, Direction, FAILING, Index, KEPT_OF_RECEIVER,
    PRIMARY_KEY, Selection,
};
use crate::database::backend::DatabaseKind;
use crate::durable::receivers;
use crate::durable::sql::texts;
use crate::signal::registry::registry;
use crate::task::info::Receiver;

/// What a delivery waits for.
///
/// ```
/// use sqlx_signals::durable::DeliveryState;
///
/// assert_eq!(DeliveryState::Dead.to_string(), "dead");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeliveryState {
    /// It waits for its first attempt.
    Waiting,
    /// A worker has claimed it. If that worker was killed, the delivery stays in this state until another worker claims it.
    Running,
    /// It has failed, and waits for its next attempt.
    Retrying,
    /// It is not tried any more.
    Dead,
    /// It has succeeded, and is kept because its receiver has the option `keep`.
    Done,
}

impl DeliveryState {
    pub(super) fn condition(self) -> &'static str {
        match self {
            Self::Waiting => "dead_at IS NULL AND worker IS NULL AND error IS NULL",
            Self::Running => "dead_at IS NULL AND worker IS NOT NULL",
            Self::Retrying => "dead_at IS NULL AND worker IS NULL AND error IS NOT NULL",
            Self::Dead => "dead_at IS NOT NULL",
            // Kept deliveries are in a table of their own.
            Self::Done => "1 = 0",
        }
    }

    /// The index by which a list of these deliveries is read, and the conditions that it leaves to the rows.
    fn indexed(self, kind: DatabaseKind) -> (Index, Option<&'static str>) {
        match (self, kind) {
            (Self::Running, DatabaseKind::Sqlite) => (CLAIMED, Some("dead_at IS NULL")),
            (Self::Retrying, _) => (FAILING, Some("worker IS NULL")),
            (Self::Dead, _) => (DEAD, None),
            _ => (PRIMARY_KEY, Some(self.condition())),
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
            Self::Done => "done",
        })
    }
}

/// Selects deliveries, for [`list`](super::Deliveries::list), [`page`](super::Deliveries::page), [`retry_all`](super::Deliveries::retry_all) and
/// [`replay`](super::Deliveries::replay) of `Deliveries`. A delivery has to satisfy every condition. Without conditions, every delivery is selected.
///
/// ```standalone_crate
/// # use sqlx_signals::prelude::*;
/// # use sqlx_signals::testing;
/// use std::time::{Duration, SystemTime};
/// use sqlx_signals::durable::{DeliveryFilter, DeliveryState};
///
/// # #[derive(Model, serde::Serialize, serde::Deserialize)]
/// # #[model(table = "users")]
/// # struct User { id: Option<i64>, name: String }
/// #[receiver(post_save, sender = User, durable(queue = "mail", max_attempts = 1))]
/// async fn welcome(saved: PostSave<'_, User>, _delivery: Delivery<'_>) -> Result<()> {
///     Err(sqlx_signals::Error::other("the mail server is down"))
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// # db.deliveries().setup().await?;
/// # User { id: None, name: "Ann".into() }.save(&db).await?;
/// # testing::deliver(&db).await?;
/// let dead = DeliveryFilter::new().receiver::<welcome>().state(DeliveryState::Dead);
/// let listed = db.deliveries().list(dead.clone()).await?;
/// assert_eq!((listed.len(), listed[0].attempt), (1, 1));
///
/// let yesterday = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
/// let old = dead.clone().queue("mail").before(yesterday).limit(100);
/// assert_eq!(db.deliveries().retry_all(old).await?, 0);
/// assert_eq!(db.deliveries().retry_all(dead).await?, 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a filter does nothing by itself"]
pub struct DeliveryFilter {
    receivers: Option<Vec<String>>,
    queue: Option<String>,
    pub(super) state: Option<DeliveryState>,
    before: Option<SystemTime>,
    after_id: Option<i64>,
    is_newest_first: bool,
    pub(super) has_no_payloads: bool,
    pub(super) limit: Option<usize>,
}

impl DeliveryFilter {
    /// How many deliveries are listed without a limit.
    pub(super) const LISTED: usize = 100;
    /// The end of the year 9999 in milliseconds, the latest time of a filter.
    const NEVER: i64 = 253_402_300_799_999;

    /// Selects every delivery.
    ///
    /// See the example of [`DeliveryFilter`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Selects the deliveries of this receiver.
    ///
    /// See the example of [`DeliveryFilter`].
    pub fn receiver<R: Receiver>(self) -> Self {
        self.receiver_name(registry().get::<R>().stored_name())
    }

    /// Selects the deliveries that are stored under this name, which may be that of an unknown receiver: the `uid` of a receiver, or else the
    /// path of its function.
    ///
    /// ```
    /// use sqlx_signals::durable::DeliveryFilter;
    ///
    /// let removed = DeliveryFilter::new().receiver_name("shop::mail::farewell");
    /// # let _ = removed;
    /// ```
    pub fn receiver_name(mut self, name: impl Into<String>) -> Self {
        self.receivers = Some(vec![name.into()]);
        self
    }

    /// Selects the deliveries that are stored under one of these names.
    pub(super) fn of_receivers(mut self, names: impl Iterator<Item = &'static str>) -> Self {
        self.receivers = Some(names.map(str::to_owned).collect());
        self
    }

    /// Selects the deliveries of the receivers of this queue. The queue is not stored: it is the one that this program declares.
    ///
    /// See the example of [`DeliveryFilter`].
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Selects the deliveries in this state.
    ///
    /// See the example of [`DeliveryFilter`].
    pub fn state(mut self, state: DeliveryState) -> Self {
        self.state = Some(state);
        self
    }

    /// Selects the deliveries that were stored before this time, by the clock of the database.
    ///
    /// See the example of [`DeliveryFilter`].
    pub fn before(mut self, time: SystemTime) -> Self {
        self.before = Some(time);
        self
    }

    /// Selects the newest deliveries first. Without it, the oldest are first.
    ///
    /// See the example of [`after_id`](Self::after_id).
    pub fn newest_first(mut self) -> Self {
        self.is_newest_first = true;
        self
    }

    /// Selects the deliveries that follow this one in the order of the filter: the next page of a list.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::durable::{DeliveryFilter, StoredDelivery};
    /// async fn next_page(db: &Db, page: &[StoredDelivery]) -> Result<Vec<StoredDelivery>> {
    ///     let filter = DeliveryFilter::new().newest_first().limit(50);
    ///     let Some(last) = page.last() else { return db.deliveries().list(filter).await };
    ///     db.deliveries().list(filter.after_id(last.id)).await
    /// }
    /// ```
    pub fn after_id(mut self, id: i64) -> Self {
        self.after_id = Some(id);
        self
    }

    /// Leaves the payloads of the listed deliveries empty, which is faster if they are large.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::durable::DeliveryFilter;
    /// async fn errors(db: &Db) -> Result<Vec<Option<String>>> {
    ///     let listed = db.deliveries().list(DeliveryFilter::new().without_payloads()).await?;
    ///     Ok(listed.into_iter().map(|delivery| delivery.error).collect())
    /// }
    /// ```
    pub fn without_payloads(mut self) -> Self {
        self.has_no_payloads = true;
        self
    }

    /// Selects at most this number of deliveries, the first ones in the order of the filter. The default of
    /// [`list`](super::Deliveries::list) is 100, and [`retry_all`](super::Deliveries::retry_all) has no limit by default.
    ///
    /// See the example of [`DeliveryFilter`].
    pub fn limit(mut self, deliveries: usize) -> Self {
        self.limit = Some(deliveries);
        self
    }

    /// The deliveries in the state of the filter, which are all in one table.
    pub(super) fn selection(&self, kind: DatabaseKind) -> Selection {
        if self.state == Some(DeliveryState::Done) {
            return self.selection_of_kept(kind);
        }
        let all = (PRIMARY_KEY, None);
        self.selection_of(kind, self.state.map_or(all, |state| state.indexed(kind)))
    }

    /// The kept deliveries. No one of them has another state.
    pub(super) fn selection_of_kept(&self, kind: DatabaseKind) -> Selection {
        let is_done = self.state.is_none_or(|state| state == DeliveryState::Done);
        let condition = (!is_done).then_some("1 = 0");
        let mut selection = self.selection_of(kind, (PRIMARY_KEY, condition));
        selection.table = Table::Kept;
        selection
    }

    /// The deliveries to retry. Without a state, those that have failed.
    pub(super) fn selection_to_retry(&self, kind: DatabaseKind) -> Selection {
        let failed = (PRIMARY_KEY, Some("(dead_at IS NOT NULL OR error IS NOT NULL)"));
        self.selection_of(kind, self.state.map_or(failed, |state| state.indexed(kind)))
    }

    /// The deliveries that are not dead, in the order of their ids.
    pub(super) fn selection_of_live(&self, kind: DatabaseKind) -> Selection {
        let live = (PRIMARY_KEY, Some("dead_at IS NULL"));
        let conditions = self.state.map_or(live, |state| state.indexed(kind));
        // No index contains this expression. With the column alone, PostgreSQL may use an index of receivers and sort the rows.
        let receiver = if kind == DatabaseKind::Postgres { "receiver || ''" } else { "receiver" };
        let mut selection = self.selection_among(kind, conditions, receiver);
        selection.passes_dead = conditions.0.is_primary_key();
        selection
    }

    fn selection_of(&self, kind: DatabaseKind, conditions: (Index, Option<&str>)) -> Selection {
        self.selection_among(kind, conditions, "receiver")
    }

    /// The deliveries of the index that satisfy the other conditions. `receiver` is the expression for their receiver.
    fn selection_among(
        &self,
        kind: DatabaseKind,
        (index, others): (Index, Option<&str>),
        receiver: &str,
    ) -> Selection {
        let mut selection = self.whole_index(Table::Stored, index);
        selection.others.extend(others.map(str::to_owned));
        if let Some(names) = self.names() {
            let names = serde_json::Value::from(names).to_string();
            let names = texts(kind, &selection.argument(Argument::Text(names)));
            selection.others.push(format!("{receiver} IN ({names})"));
        }
        self.stored_before(kind, selection)
    }

    /// The kept deliveries of one receiver if the filter selects kept ones, or else its dead ones, in the order of an index of receiver and id.
    pub(super) fn selection_of_receiver(&self, kind: DatabaseKind, receiver: String) -> Selection {
        let (table, index) = match self.state {
            Some(DeliveryState::Done) => (Table::Kept, KEPT_OF_RECEIVER),
            _ => (Table::Stored, DEAD_OF_RECEIVER),
        };
        let mut selection = self.whole_index(table, index);
        let Direction { follows, until, .. } = selection.direction;
        let argument = selection.argument(Argument::Text(receiver));
        selection.of_entries = 1;
        selection.entries.push(match kind {
            DatabaseKind::Sqlite => format!("receiver = {argument}"),
            // With `receiver = $3`, PostgreSQL may read an index of the ids alone, which has the same order, and so the deliveries of all receivers.
            DatabaseKind::Postgres => {
                format!("(receiver, id) {follows} ({argument}, $1) AND receiver {until} {argument}")
            }
        });
        self.stored_before(kind, selection)
    }

    /// Every delivery of the index that may be listed next.
    fn whole_index(&self, table: Table, index: Index) -> Selection {
        Selection::of_index(table, index, self.direction(), self.after_id)
    }

    /// The deliveries of the selection that were stored before the time of the filter, if it has one.
    fn stored_before(&self, kind: DatabaseKind, mut selection: Selection) -> Selection {
        let Some(time) = self.before else { return selection };
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = i64::try_from(since.as_millis()).unwrap_or(Self::NEVER).min(Self::NEVER);
        let time = selection.argument(Argument::Integer(millis));
        selection.others.push(match kind {
            DatabaseKind::Sqlite => format!("stored_at < {time}"),
            DatabaseKind::Postgres => {
                format!(
                    "stored_at < timestamptz 'epoch' + {time}::bigint * interval '1 millisecond'"
                )
            }
        });
        selection
    }

    pub(super) fn direction(&self) -> Direction {
        if self.is_newest_first { Direction::DESCENDING } else { Direction::ASCENDING }
    }

    /// The names of the selected receivers. `None` means all.
    pub(super) fn names(&self) -> Option<Vec<String>> {
        let Some(queue) = &self.queue else { return self.receivers.clone() };
        let of_queue = receivers::known().into_iter().filter(|(_, options)| options.queue == queue);
        let names = of_queue.map(|(name, _)| name.to_owned());
        let is_selected =
            |name: &String| self.receivers.as_ref().is_none_or(|only| only.contains(name));
        Some(names.filter(is_selected).collect())
    }
}
