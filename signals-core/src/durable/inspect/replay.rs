//! Runs kept deliveries again.

use super::DeliveryFilter;
use crate::database::backend::DatabaseKind;
use crate::durable::schema::explained;
use crate::durable::sql::Sql;
use crate::durable::{Deliveries, kept, wake};
use crate::error::Result;
use crate::signal::registry::registry;
use crate::task::info::Receiver;

impl Deliveries {
    /// Runs the kept deliveries of a receiver again, and returns their number. The filter selects among them; a filter with another state than
    /// [`Done`](super::DeliveryState::Done) selects none. Without a limit, all of them run again. They are moved in batches.
    ///
    /// A delivery is kept if its receiver has the option `keep`. It is due at once, with all attempts of its receiver left. It keeps its id, its
    /// event and its idempotency key, so another system that recognizes the key may ignore it. When it succeeds, it is kept again.
    ///
    /// ```standalone_crate
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::testing;
    /// use sqlx_signals::durable::{DeliveryFilter, DeliveryState};
    ///
    /// # #[derive(Model, serde::Serialize, serde::Deserialize)]
    /// # #[model(table = "users")]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_save, sender = User, durable(keep = "7d", at_least_once))]
    /// fn index(saved: PostSave<'_, User>) {
    ///     println!("{} is in the index", saved.instance.name);
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # db.deliveries().setup().await?;
    /// User { id: None, name: "Ann".into() }.save(&db).await?;
    /// # testing::deliver(&db).await?;
    /// let kept = db.deliveries().list(DeliveryFilter::new().state(DeliveryState::Done)).await?;
    /// assert_eq!(kept.len(), 1);
    /// // The index was lost.
    /// assert_eq!(db.deliveries().replay::<index>(DeliveryFilter::new()).await?, 1);
    /// # testing::deliver(&db).await?.assert_ran::<index>(1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status). Earlier batches are due then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the deliveries may be due.
    pub async fn replay<R: Receiver>(&self, filter: DeliveryFilter) -> Result<u64> {
        let identity = registry().get::<R>();
        self.replay_all(filter.of_receivers(identity.all_stored_names())).await
    }

    /// Runs the kept deliveries that the filter selects again, of any receiver, as [`replay`](Self::replay) does.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::durable::DeliveryFilter;
    /// async fn replay_mail(db: &Db) -> Result<u64> {
    ///     db.deliveries().replay_all(DeliveryFilter::new().queue("mail")).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay).
    ///
    /// # Cancel safety
    ///
    /// As [`replay`](Self::replay).
    pub async fn replay_all(&self, filter: DeliveryFilter) -> Result<u64> {
        let kind = self.db.kind();
        let selection = filter.selection_of_kept(kind);
        let text = statement(kind, &selection.conditions());
        self.change_all(selection, filter.limit, &text, |sql| self.replay_selected(sql)).await
    }

    /// Runs the kept delivery with this id again, as [`replay`](Self::replay) does. Returns `false` if there is no such delivery.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// async fn replay(db: &Db, ids: &[i64]) -> Result<()> {
    ///     for id in ids {
    ///         db.deliveries().replay_one(*id).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status). Nothing is changed then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the delivery is either as before or due.
    pub async fn replay_one(&self, id: i64) -> Result<bool> {
        let kind = self.db.kind();
        let sql = Sql::new(kind, &statement(kind, "id = $1")).bind(id);
        Ok(!self.replay_selected(sql).await?.is_empty())
    }

    /// Makes the kept deliveries due that a statement selects.
    async fn replay_selected(&self, select: Sql) -> Result<Vec<(i64,)>> {
        let mut tx = self.db.begin().await?;
        let selected: Vec<(i64,)> = select.fetch(&mut tx).await.map_err(explained)?;
        if !selected.is_empty() {
            let ids: Vec<_> = selected.iter().map(|(id,)| *id).collect();
            kept::replay(&mut tx, &ids).await?;
        }
        tx.commit().await?;
        wake::wake(Some(&self.db));
        Ok(selected)
    }
}

/// The statement that selects kept deliveries. On PostgreSQL, it skips those that are being replayed or pruned.
fn statement(kind: DatabaseKind, conditions: &str) -> String {
    let lock = match kind {
        DatabaseKind::Sqlite => "",
        DatabaseKind::Postgres => "FOR UPDATE SKIP LOCKED",
    };
    format!("SELECT id FROM signals_done WHERE {conditions} {lock}")
}
