//! Muted receivers: the receivers that do not run for the operations of a task.

use std::any::TypeId;
use std::sync::Arc;

use crate::task::info::Receiver;

tokio::task_local! {
    static MUTED: Muted;
}

#[derive(Clone, Default)]
pub(crate) struct Muted {
    /// Whether every receiver is muted.
    every: bool,
    receivers: Arc<[TypeId]>,
}

/// Runs `future` with all receivers of all signals muted. This applies only to the current task: not to tasks that it spawns, and
/// not to concurrent tasks.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::without_signals;
///
/// # #[derive(Model, Clone)]
/// # struct City { id: Option<i64>, name: String }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let mut imported = City { id: None, name: "Ulm".into() };
/// without_signals(async { imported.save(&db).await }).await?;
/// # Ok(()) }
/// ```
pub async fn without_signals<F: Future>(future: F) -> F::Output {
    MUTED.scope(Muted { every: true, ..current() }, future).await
}

/// Runs `future` with the receiver `R` muted. This applies only to the current task: not to tasks that it spawns, and not to
/// concurrent tasks.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::muted;
///
/// # #[derive(Model, Clone)]
/// # struct User { id: Option<i64>, name: String }
/// #[receiver(post_save, sender = User)]
/// fn welcome(_: PostSave<'_, User>) -> Result<(), &'static str> { Err("no mail server") }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let mut ann = User { id: None, name: "Ann".into() };
/// assert!(ann.save(&db).await.is_err());
/// muted::<welcome, _>(async { ann.save(&db).await }).await?;
/// # Ok(()) }
/// ```
pub async fn muted<R: Receiver, F: Future>(future: F) -> F::Output {
    let Muted { every, receivers } = current();
    let receivers = receivers.iter().copied().chain([TypeId::of::<R>()]).collect();
    MUTED.scope(Muted { every, receivers }, future).await
}

fn current() -> Muted {
    Muted::of_task().unwrap_or_default()
}

impl Muted {
    /// What this task mutes, if anything.
    pub(crate) fn of_task() -> Option<Self> {
        MUTED.try_with(Clone::clone).ok()
    }

    /// Runs `future` with these receivers muted.
    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        MUTED.scope(self, future)
    }
}

/// Whether this task mutes any receiver.
pub(crate) fn any() -> bool {
    MUTED.try_with(|_| ()).is_ok()
}

/// Whether this task mutes every receiver.
pub(crate) fn every() -> bool {
    MUTED.try_with(|muted| muted.every).unwrap_or(false)
}

/// Whether this task mutes this receiver.
pub(crate) fn mutes(receiver: TypeId) -> bool {
    MUTED.try_with(|muted| muted.every || muted.receivers.contains(&receiver)).unwrap_or(false)
}
