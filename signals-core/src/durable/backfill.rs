//! Stores deliveries for rows that exist already.

use std::any::TypeId;

use futures_util::TryStreamExt;

use crate::database::backend::AnyTake;
use crate::database::db::Db;
use crate::durable::event_form::EventForm;
use crate::durable::outbox::form_of;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::lookup::{self, Keys};
use crate::model::query::Query;
use crate::model::rows::TypedRows;
use crate::model::store::{Any, Portable, Route};
use crate::signal::erased::ErasedReceiver;
use crate::signal::event_store::{EventContent, EventStore, EventToStore};
use crate::signal::registry::registry;
use crate::signal::rows::RowEvent;
use crate::signal::{Signal, post_save, post_save_batch};
use crate::table::schema::ColumnGroup;
use crate::task::info::Receiver;
use crate::task::mute::without_signals;

/// How many rows are delivered in one transaction.
const CHUNK: usize = 1000;
/// How often a chunk is tried if it conflicts with other transactions.
const TRIES: u32 = 5;

impl<M: Model + Portable> Query<'_, M> {
    /// Stores a delivery of a durable receiver for each matching row, as if the row was saved now, and returns the number of rows. This is for a
    /// receiver that was added when rows already existed, such as one that fills a search index.
    ///
    /// The receiver is one of [`post_save`] or [`post_save_batch`], of this model or of every model. Its event has `created`
    /// as the receiver declares it, and `false` if it declares neither `created` nor `updated`. `changed(…)` is not regarded, and there is no
    /// previous row. No other receiver is notified.
    ///
    /// The keys of all matching rows are read first. Then the deliveries are stored in chunks of 1,000 rows, each in a transaction. On
    /// PostgreSQL, the rows of a chunk are locked until it is stored, so a delivery contains the row as it is, and the deliveries of later
    /// saves follow it. A row that was deleted in the meantime has no delivery.
    ///
    /// ```standalone_crate
    /// use sqlx_signals::prelude::*;
    /// # use sqlx_signals::testing;
    ///
    /// #[derive(Model, serde::Serialize, serde::Deserialize)]
    /// #[model(table = "users")]
    /// struct User { id: Option<i64>, name: String }
    ///
    /// #[receiver(post_save, sender = User, durable(at_least_once))]
    /// fn index(saved: PostSave<'_, User>) {
    ///     println!("{} is in the index", saved.instance.name);
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # db.deliveries().setup().await?;
    /// db.execute("INSERT INTO users (name) VALUES ('Ann'), ('Bob')").await?;
    /// assert_eq!(User::query("WHERE name <> 'Bob'").deliver::<index>(&db).await?, 1);
    /// # testing::deliver(&db).await?.assert_ran::<index>(1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - An error if the receiver is not such a receiver, or is disabled.
    /// - The errors of [`fetch_all`](Self::fetch_all) and of a save. Earlier chunks are stored then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the chunks may be stored. If the call is repeated, the rows of these chunks are delivered twice.
    pub async fn deliver<R: Receiver>(self, db: &Db) -> Result<u64> {
        let (receiver, form) = receiver_of::<M, R>()?;
        let mut keys = Vec::new();
        // The rows are read for their keys, so `post_load` is not sent.
        let mut rows = without_signals(async { self.fetch(db) }).await;
        while let Some(row) = rows.try_next().await? {
            keys.extend(row.pk());
        }
        drop(rows);
        let mut delivered = 0;
        for keys in keys.chunks(CHUNK) {
            let mut tries = 1;
            delivered += loop {
                match deliver_chunk::<M>(db, &receiver, form, keys).await {
                    Err(error) if error.is_retryable() && tries < TRIES => tries += 1,
                    delivered => break delivered?,
                }
            };
        }
        Ok(delivered)
    }
}

/// The durable receiver `R` of the saves of `M`.
fn receiver_of<M: Model, R: Receiver>() -> Result<(ErasedReceiver, &'static EventForm)> {
    let found = registry().durable().into_iter().find_map(|receiver| {
        let info = receiver.info.info;
        let is_of_save = [post_save::NAME, post_save_batch::NAME].contains(&info.signal);
        let form = form_of(&receiver).filter(|form| form.table.is_none_or(|of| of == M::TABLE))?;
        (info.receiver == TypeId::of::<R>() && is_of_save).then_some((receiver, form))
    });
    found.ok_or_else(|| {
        let (name, model) = (registry().get::<R>().name(), M::NAME);
        Error::other(format!(
            "`{name}` is not an enabled durable receiver of `post_save` or `post_save_batch` of `{model}`"
        ))
    })
}

/// Stores the deliveries of the rows with these keys, and returns the number of rows.
async fn deliver_chunk<M: Model + Portable>(
    db: &Db,
    receiver: &ErasedReceiver,
    form: &EventForm,
    keys: &[M::Pk],
) -> Result<u64> {
    let on: Vec<_> = M::STATEMENTS.group(ColumnGroup::Key).collect();
    let give =
        |key: usize, part, take: AnyTake<'_>| <Any as Route<M>>::give_key(&keys[key], part, take);
    let mut tx = db.begin().await?;
    let keys = Keys { on: &on, count: keys.len(), give: &give };
    let mut found = lookup::find_and_lock::<M, Any>(&mut tx, keys).await?;
    found.sort_by_key(|(key, _)| *key);
    let mut rows: Vec<M> = found.into_iter().map(|(_, row)| row).collect();
    let count = rows.len();
    if count == 0 {
        return Ok(0);
    }
    let created = Some(receiver.info.created.unwrap_or(false));
    let events = match receiver.info.signal == post_save_batch::NAME {
        true => vec![RowEvent::of_rows(0..count, created)],
        false => (0..count).map(|row| RowEvent::of_row(row, created)).collect(),
    };
    let mut typed = TypedRows::<M, Any>::new(&mut rows);
    for event in &events {
        let event = EventToStore {
            content: EventContent::Rows(typed.erased(), event),
            created,
            receivers: &[receiver],
            previous: &None,
            db: Some(db),
            model: M::NAME,
        };
        form.add(&event, &mut tx)?;
    }
    tx.commit().await?;
    Ok(count as u64)
}
