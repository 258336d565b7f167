use crate::signal::recording::Listen;
use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;

use crate::model::Model;
use crate::signal::recording::Recording;
use crate::signal::{Signal, post_delete, post_save};
use crate::table::any::AnyModel;

/// Collects the signals of the model `M` that this task sends from now on, for as long as what this returns is there.
///
/// A signal is recorded when it is sent, whether or not anybody receives it. What a save of this task has its receivers
/// save is this task's doing too, those with `on_commit` included, wherever they run. So is what the task does at the same
/// time, with `join!` or `select!`. A task that it spawns is another one, unless it is told to [`follow`](Recorder::follow).
/// Tests that run in parallel do not see each other. Under [`without_signals`](crate::without_signals) nothing is sent, and
/// nothing is recorded.
///
/// ```
/// use sqlx_signals::prelude::*;
/// use sqlx_signals::testing;
///
/// #[derive(Debug, Clone, Model)]
/// struct City { id: Option<i64>, name: String }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let cities = testing::record::<City>();
/// City { id: None, name: "Ulm".into() }.save(&db).await?;
///
/// cities.assert_created(1);
/// assert_eq!(cities.created()[0].name, "Ulm");
/// assert_eq!(cities.signals(), ["pre_save", "post_save"]);
/// assert_eq!(cities.to_string(), "pre_save of City\npost_save of City 1, created, committed\n");
///
/// let mut tx = db.begin().await?;
/// City { id: None, name: "Atlantis".into() }.save(&mut tx).await?;
/// tx.rollback().await?;
/// cities.assert_committed(1);
/// cities.assert_rolled_back(1);
/// # Ok(()) }
/// ```
#[must_use = "it records for as long as it is there"]
pub fn record<M: Model + Clone>() -> Recorder<M> {
    let log = Log { noted: Mutex::default(), copy: M::clone };
    Recorder { recording: Recording::begin(log) }
}

/// The signals of a model that one task has sent, see [`record`]. `Display` prints them, one a line.
pub struct Recorder<M: Model + Clone> {
    recording: Recording<Log<M>>,
}

/// A signal that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<M> {
    /// The name of the signal: `pre_save`, `post_save`, `pre_delete` or `post_delete`.
    pub signal: &'static str,
    /// The row as it was then; ahead of a save, as it was before the receivers of `pre_save`.
    pub instance: M,
    /// Whether the row was new: of `post_save` only.
    pub created: Option<bool>,
    /// Whether the write was committed, or rolled back. `None` while its transaction is open, and where nobody can know: ahead
    /// of the statement, and through a connection or transaction of sqlx's own. A transaction that
    /// [`testing::transaction`](super::transaction) rehearsed counts as committed.
    pub committed: Option<bool>,
}

impl<M: Model + Clone> Recorder<M> {
    /// Every signal, in the order in which they were sent.
    pub fn all(&self) -> Vec<Event<M>> {
        let noted = self.recording.log.noted().clone();
        let event = noted.iter().map(|noted| Event {
            signal: noted.signal,
            instance: M::clone(&noted.instance),
            created: noted.created,
            committed: noted.committed.get().copied(),
        });
        event.collect()
    }

    /// The names of all signals, in the order in which they were sent.
    pub fn signals(&self) -> Vec<&'static str> {
        self.recording.log.noted().iter().map(|noted| noted.signal).collect()
    }

    /// The rows that were written, new ones and others, whatever became of the transaction.
    pub fn saved(&self) -> Vec<M> {
        self.instances(|event| event.signal == post_save::NAME)
    }

    /// The rows that were written and are new, whatever became of the transaction.
    pub fn created(&self) -> Vec<M> {
        self.instances(|event| event.created == Some(true))
    }

    /// The rows that were written and had been there, whatever became of the transaction.
    pub fn updated(&self) -> Vec<M> {
        self.instances(|event| event.created == Some(false))
    }

    /// The rows that were deleted, whatever became of the transaction.
    pub fn deleted(&self) -> Vec<M> {
        self.instances(|event| event.signal == post_delete::NAME)
    }

    /// Forgets what was recorded so far.
    pub fn clear(&self) {
        let forgotten = std::mem::take(&mut *self.recording.log.noted());
        drop(forgotten);
    }

    /// Has what `future` does recorded as the doing of this task, whatever task it runs on. For tasks that a test spawns.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::testing;
    /// # #[derive(Debug, Clone, Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let cities = testing::record::<City>();
    /// let save = async move { City { id: None, name: "Ulm".into() }.save(&db).await };
    /// tokio::spawn(cities.follow(save)).await.unwrap()?;
    /// cities.assert_created(1);
    /// # Ok(()) }
    /// ```
    pub fn follow<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F, M> {
        self.recording.follow(future)
    }

    /// Asserts how many new rows were written.
    ///
    /// # Panics
    ///
    /// Where it is another number; the message lists what was recorded.
    #[track_caller]
    pub fn assert_created(&self, times: usize) {
        self.assert(times, self.created().len(), "created");
    }

    /// Asserts how often rows were written that had been there.
    ///
    /// # Panics
    ///
    /// Where it is another number; the message lists what was recorded.
    #[track_caller]
    pub fn assert_updated(&self, times: usize) {
        self.assert(times, self.updated().len(), "updated");
    }

    /// Asserts how many rows were deleted.
    ///
    /// # Panics
    ///
    /// Where it is another number; the message lists what was recorded.
    #[track_caller]
    pub fn assert_deleted(&self, times: usize) {
        self.assert(times, self.deleted().len(), "deleted");
    }

    /// Asserts how many writes and deletes were committed.
    ///
    /// # Panics
    ///
    /// Where it is another number; the message lists what was recorded.
    #[track_caller]
    pub fn assert_committed(&self, times: usize) {
        self.assert(
            times,
            self.instances(|event| event.committed == Some(true)).len(),
            "committed",
        );
    }

    /// Asserts how many writes and deletes were rolled back.
    ///
    /// # Panics
    ///
    /// Where it is another number; the message lists what was recorded.
    #[track_caller]
    pub fn assert_rolled_back(&self, times: usize) {
        let undone = self.instances(|event| event.committed == Some(false));
        self.assert(times, undone.len(), "rolled back");
    }

    /// Asserts that no signal was sent at all, not even ahead of a write that did not come to be.
    ///
    /// # Panics
    ///
    /// Where one was; the message lists what was recorded.
    #[track_caller]
    pub fn assert_none(&self) {
        let all = self.all();
        assert!(all.is_empty(), "expected no signal of `{}`, but there were:\n{self}", M::NAME);
    }

    fn instances(&self, which: impl Fn(&Event<M>) -> bool) -> Vec<M> {
        self.all().into_iter().filter(which).map(|event| event.instance).collect()
    }

    #[track_caller]
    fn assert(&self, expected: usize, found: usize, what: &str) {
        let model = M::NAME;
        assert!(
            expected == found,
            "expected {expected} × `{model}` {what}, found {found}; recorded was:\n{self}"
        );
    }
}

impl<M: Model> Event<M> {
    /// The key of the row, where it had one.
    pub fn pk(&self) -> Option<M::Pk> {
        self.instance.pk()
    }
}

impl<M: Model> fmt::Display for Event<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.signal, M::NAME)?;
        if let Some(key) = self.instance.key() {
            write!(f, " {key}")?;
        }
        match self.created {
            Some(true) => f.write_str(", created")?,
            Some(false) => f.write_str(", updated")?,
            None => {}
        }
        match self.committed {
            Some(true) => f.write_str(", committed"),
            Some(false) => f.write_str(", rolled back"),
            None => Ok(()),
        }
    }
}

impl<M: Model + Clone> fmt::Display for Recorder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        if all.is_empty() {
            return f.write_str("nothing\n");
        }
        all.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

impl<M: Model + Clone> fmt::Debug for Recorder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.all().iter().map(ToString::to_string).collect::<Vec<_>>();
        f.debug_tuple("Recorder").field(&lines).finish()
    }
}

/// What was sent of a model.
pub(super) struct Log<M> {
    pub(super) noted: Mutex<Vec<Noted<M>>>,
    pub(super) copy: fn(&M) -> M,
}

pub(super) struct Noted<M> {
    pub(super) signal: &'static str,
    pub(super) created: Option<bool>,
    /// Shared, so that it is copied and dropped when the lock is free.
    pub(super) instance: Arc<M>,
    /// Whether it was committed, when that is known.
    pub(super) committed: Arc<OnceLock<bool>>,
}

impl<M> Clone for Noted<M> {
    fn clone(&self) -> Self {
        let Self { signal, created, instance, committed } = self;
        let (instance, committed) = (Arc::clone(instance), Arc::clone(committed));
        Self { signal, created: *created, instance, committed }
    }
}

impl<M> Log<M> {
    /// What was noted. No code of the program runs while this is held: it may record, or ask what was recorded.
    pub(super) fn noted(&self) -> MutexGuard<'_, Vec<Noted<M>>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Model> Listen for Log<M> {
    fn model(&self) -> Option<TypeId> {
        Some(TypeId::of::<M>())
    }

    fn note(
        &self,
        signal: &'static str,
        created: Option<bool>,
        row: &dyn AnyModel,
        committed: &Arc<OnceLock<bool>>,
    ) {
        if let Some(row) = row.downcast_ref::<M>() {
            let (instance, committed) = (Arc::new((self.copy)(row)), Arc::clone(committed));
            self.noted().push(Noted { signal, created, instance, committed });
        }
    }
}
