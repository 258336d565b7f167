//! Runs due deliveries of durable receivers in the task of a test.

use std::any::{TypeId, type_name};

use crate::database::source::Connects;
use crate::durable::death::WorkerDeath;
use crate::durable::inline::{self, InlineRun};
use crate::error::Result;
use crate::task::info::Receiver;

/// Runs the due deliveries of all durable receivers, then the deliveries that these have stored, until none is due. No worker is needed.
///
/// | argument | runs |
/// |---|---|
/// | `&db` | the deliveries that are committed |
/// | `&mut tx` | the deliveries of the transaction, each in a savepoint of it, so that the test can roll everything back |
///
/// A failed delivery is due again after its backoff. [`make_due`] skips the backoff.
///
/// ```standalone_crate
/// use sqlx_signals::prelude::*;
/// use sqlx_signals::testing;
///
/// #[derive(Model, serde::Serialize, serde::Deserialize)]
/// #[model(table = "users")]
/// struct User { id: Option<i64>, name: String }
///
/// #[receiver(post_save, sender = User, created, durable(at_least_once))]
/// fn welcome(saved: PostSave<'_, User>) {
///     println!("welcome, {}", saved.instance.name);
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// db.deliveries().setup().await?;
/// User { id: None, name: "Ann".into() }.save(&db).await?;
/// let delivered = testing::deliver(&db).await?;
/// delivered.assert_ran::<welcome>(1);
/// delivered.assert_failed::<welcome>(0);
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The error of the database. The errors of receivers are in the result.
///
/// # Cancel safety
///
/// If the future is dropped, a delivery that was running is due again after a minute.
pub async fn deliver(db: impl Connects) -> Result<Delivered> {
    Ok(Delivered { runs: inline::deliver(db.into_source()).await? })
}

/// As [`deliver`], but each delivery is run by a worker that dies at a point, as if its process was killed. The delivery is then due again,
/// unless its result was stored.
///
/// A test runs its receivers once for each point, and then checks that every effect has happened as often as it should:
///
/// ```standalone_crate
/// use std::sync::{Arc, Mutex};
///
/// use sqlx_signals::durable::Uuid;
/// use sqlx_signals::prelude::*;
/// use sqlx_signals::testing::{self, WorkerDeath};
///
/// # #[derive(Model, serde::Serialize, serde::Deserialize)]
/// # #[model(table = "users")]
/// # struct User { id: Option<i64>, name: String }
/// # #[derive(Model)]
/// # #[model(table = "accounts")]
/// # struct Account { id: Option<i64>, user_id: i64 }
/// /// The keys of the mails that were sent.
/// #[derive(Clone, Default)]
/// struct Mails(Arc<Mutex<Vec<Uuid>>>);
///
/// #[receiver(post_save, sender = User, created, durable)]
/// async fn open_account(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
///     Account { id: None, user_id: saved.pk() }.save(conn).await?;
///     Ok(())
/// }
///
/// #[receiver(post_save, sender = User, created, durable)]
/// fn welcome(saved: PostSave<'_, User>, delivery: Delivery<'_>, State(mails): State<Mails>) {
///     mails.0.lock().unwrap().push(delivery.idempotency_key());
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
/// #     CREATE TABLE accounts (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL)").await?;
/// # db.deliveries().setup().await?;
/// for (died, point) in (1..).zip(WorkerDeath::ALL) {
///     let mails = Mails::default();
///     let db = db.with(mails.clone());
///     User { id: None, name: "Ann".into() }.save(&db).await?;
///     testing::worker_dies_at(point, &db).await?;
///     testing::deliver(&db).await?;
///     // The database has one account for each user, and all mails of the user have the same key.
///     assert_eq!(Account::query("").count(&db).await?, died);
///     let keys = mails.0.lock().unwrap();
///     assert!(keys.iter().all(|key| *key == keys[0]), "{point:?}");
/// }
/// # Ok(()) }
/// ```
///
/// A delivery whose workers have died five times is dead, as it is without a test.
///
/// # Errors
///
/// The error of the database, and an error if no delivery is due. The errors of receivers are in the result, which lists the receivers that
/// have run.
///
/// # Cancel safety
///
/// As [`deliver`].
pub async fn worker_dies_at(point: WorkerDeath, db: impl Connects) -> Result<Delivered> {
    Ok(Delivered { runs: inline::deliver_until(point, db.into_source()).await? })
}

/// Makes every delivery due that is neither running nor dead, so that a test need not wait for the backoff.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::testing;
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// db.deliveries().setup().await?;
/// testing::make_due(&db).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The error of the database.
///
/// # Cancel safety
///
/// If the future is dropped, the deliveries may be due or not.
pub async fn make_due(db: impl Connects) -> Result<()> {
    inline::make_due(db.into_source()).await
}

/// The result of [`deliver`].
///
/// See the example of [`deliver`].
#[derive(Debug)]
pub struct Delivered {
    runs: Vec<InlineRun>,
}

impl Delivered {
    /// Asserts how often a receiver ran, successfully or not.
    ///
    /// See the example of [`deliver`].
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists what ran.
    #[track_caller]
    pub fn assert_ran<R: Receiver>(&self, times: usize) {
        let found = self.of::<R>().count();
        let (name, all) = (type_name::<R>(), self.list());
        assert!(
            found == times,
            "expected `{name}` to run {times} ×, it ran {found} ×; of all:{all}"
        );
    }

    /// Asserts how often a receiver failed.
    ///
    /// See the example of [`deliver`].
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists what ran.
    #[track_caller]
    pub fn assert_failed<R: Receiver>(&self, times: usize) {
        let found = self.of::<R>().filter(|run| run.error.is_some()).count();
        let (name, all) = (type_name::<R>(), self.list());
        assert!(
            found == times,
            "expected `{name}` to fail {times} ×, it failed {found} ×; of all:{all}"
        );
    }

    fn of<R: Receiver>(&self) -> impl Iterator<Item = &InlineRun> {
        let receiver = TypeId::of::<R>();
        self.runs.iter().filter(move |run| run.receiver == receiver)
    }

    fn list(&self) -> String {
        let line = |run: &InlineRun| match &run.error {
            Some(error) => format!("\n{}: {error}", run.name),
            None => format!("\n{}", run.name),
        };
        self.runs.iter().map(line).collect()
    }
}
