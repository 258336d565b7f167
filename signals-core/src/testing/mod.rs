//! Tools for the tests of programs that use signals.
//!
//! | to test | use |
//! |---|---|
//! | which signals of a model a task has sent | [`record`] |
//! | which custom signals a task has sent | [`record_signal`] |
//! | `on_commit` receivers, without storing anything | [`transaction`](crate::testing::transaction()) |
//! | durable receivers, without a worker (feature `durable`) | `deliver` |
//! | what a killed worker leaves behind (feature `durable`) | `worker_dies_at` |
//! | that nobody adds, removes or changes a receiver by accident | [`assert_locked`] |
//!
//! Recorders see only the signals of their own task, so tests can run in parallel.
//!
//! ```
//! use sqlx_signals::prelude::*;
//! use sqlx_signals::testing;
//!
//! # #[derive(Debug, Clone, Model)]
//! # struct User { id: Option<i64>, name: String }
//! # #[derive(Debug, Clone, Model)]
//! # struct Profile { id: Option<i64>, user_id: i64 }
//! # #[receiver(post_save, sender = User, created)]
//! # async fn create_profile(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
//! #     Profile { id: None, user_id: saved.pk() }.save(conn).await?;
//! #     Ok(())
//! # }
//! # #[receiver(post_save, sender = User, on_commit)]
//! # fn welcome(_: PostSave<'_, User>) {}
//! # #[tokio::main] async fn main() -> Result<()> {
//! # let db = Db::connect("sqlite::memory:").await?;
//! # db.execute("CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
//! #     CREATE TABLE profile (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL)").await?;
//! let profiles = testing::record::<Profile>();
//! let mut ann = User { id: None, name: "Ann".into() };
//!
//! let done = testing::transaction(&db, async |tx| ann.save(tx).await).await?;
//!
//! profiles.assert_created(1);
//! done.assert_ran::<welcome>(1);
//! assert!(done.errors.is_empty());
//! assert_eq!(User::all(&db).await?.len(), 0);
//! # Ok(()) }
//! ```

// May import: `error`, `task`, `database`, `table`, `transaction`, `signal`, `write`, `model`, `durable`.

#[cfg(feature = "durable")]
pub(crate) mod deliver;
pub(crate) mod lock;
pub(crate) mod recorder;
pub(crate) mod sent;
pub(crate) mod transaction;

#[cfg(feature = "durable")]
pub use crate::durable::death::WorkerDeath;
#[cfg(feature = "durable")]
pub use deliver::{Delivered, deliver, make_due, worker_dies_at};
pub use lock::assert_locked;
pub use recorder::{Event, Recorder, record};
pub use sent::{Sent, record_signal};
pub use transaction::{TestTransaction, transaction};
