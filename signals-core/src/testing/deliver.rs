//! Runs due deliveries of durable receivers in the task of a test.

use std::any::{TypeId, type_name};

use crate::database::source::Connects;
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
