//! The recorder of a model's signals.

use std::any::TypeId;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::model::Model;
use crate::signal::recording::{RecorderLog, Recording};
use crate::signal::{Signal, post_delete, post_save};
use crate::table::any::AnyModel;

/// Records the signals of the model `M` that the current task sends, from this call until the returned recorder is dropped.
///
/// A signal is recorded when it is sent, whether or not the model has receivers.
///
/// | write | recorded |
/// |---|---|
/// | of this task, also in `join!` and `select!` | yes |
/// | of a receiver of such a write, also with `on_commit` on another task | yes |
/// | of a task that this task spawns | only inside [`Recorder::follow`] |
/// | of another task, such as a test that runs in parallel | no |
/// | inside [`without_signals`](crate::without_signals) | no |
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
#[must_use = "the recorder records until it is dropped"]
pub fn record<M: Model + Clone>() -> Recorder<M> {
    let log = Log { recorded: Mutex::default(), copy: M::clone };
    Recorder { recording: Recording::begin(log) }
}

/// The recorded signals of a model, see [`record`]. Its `Display` prints one signal per line.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::testing;
///
/// # #[derive(Model, Clone)]
/// # struct City { id: Option<i64>, name: String }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let cities = testing::record::<City>();
/// let mut ulm = City { id: None, name: "Ulm".into() };
/// ulm.save(&db).await?;
/// ulm.name = "Neu-Ulm".into();
/// ulm.save(&db).await?;
/// ulm.delete(&db).await?;
///
/// cities.assert_created(1);
/// cities.assert_updated(1);
/// cities.assert_deleted(1);
/// cities.assert_committed(3);
/// cities.assert_rolled_back(0);
/// let names = |rows: Vec<City>| rows.into_iter().map(|city| city.name).collect::<Vec<_>>();
/// assert_eq!(names(cities.saved()), ["Ulm", "Neu-Ulm"]);
/// assert_eq!(names(cities.updated()), ["Neu-Ulm"]);
/// assert_eq!(names(cities.deleted()), ["Neu-Ulm"]);
/// let last = cities.all().pop().unwrap();
/// assert_eq!((last.signal, last.created, last.pk()), ("post_delete", None, Some(1)));
///
/// cities.clear();
/// cities.assert_none();
/// # Ok(()) }
/// ```
pub struct Recorder<M: Model + Clone> {
    recording: Recording<Log<M>>,
}

/// A recorded signal, see [`Recorder::all`].
///
/// See the example of [`Recorder`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<M> {
    /// The name of the signal: `pre_save`, `post_save`, `pre_delete` or `post_delete`.
    pub signal: &'static str,
    /// A clone of the row, made when the signal was sent. For `pre_save`, it is made before the receivers run.
    pub instance: M,
    /// Whether the row was new. `None` for signals other than `post_save`.
    pub created: Option<bool>,
    /// Whether the write was committed (`true`) or rolled back (`false`).
    ///
    /// It is `None` while the transaction is open, for `pre_save` and `pre_delete`, and for a write through a connection or
    /// transaction of sqlx, whose commit cannot be observed (unless the transaction was adopted with `Transaction::from`). A transaction
    /// of [`testing::transaction`](super::transaction()) counts as committed.
    pub committed: Option<bool>,
}

impl<M: Model + Clone> Recorder<M> {
    /// Returns all recorded signals in the order in which they were sent.
    ///
    /// See the example of [`Recorder`].
    pub fn all(&self) -> Vec<Event<M>> {
        let recorded = self.recording.log.recorded().clone();
        let event = recorded.iter().map(|recorded| Event {
            signal: recorded.signal,
            instance: M::clone(&recorded.instance),
            created: recorded.created,
            committed: recorded.committed.get().copied(),
        });
        event.collect()
    }

    /// Returns the names of all recorded signals in the order in which they were sent.
    ///
    /// See the example of [`record`].
    pub fn signals(&self) -> Vec<&'static str> {
        self.recording.log.recorded().iter().map(|recorded| recorded.signal).collect()
    }

    /// Returns the rows that were inserted or updated, including those that were rolled back.
    ///
    /// See the example of [`Recorder`].
    pub fn saved(&self) -> Vec<M> {
        self.instances(|event| event.signal == post_save::NAME)
    }

    /// Returns the rows that were inserted, including those that were rolled back.
    ///
    /// See the example of [`record`].
    pub fn created(&self) -> Vec<M> {
        self.instances(|event| event.created == Some(true))
    }

    /// Returns the rows that were updated, including those that were rolled back.
    ///
    /// See the example of [`Recorder`].
    pub fn updated(&self) -> Vec<M> {
        self.instances(|event| event.created == Some(false))
    }

    /// Returns the rows that were deleted, including those whose delete was rolled back.
    ///
    /// See the example of [`Recorder`].
    pub fn deleted(&self) -> Vec<M> {
        self.instances(|event| event.signal == post_delete::NAME)
    }

    /// Removes all signals that were recorded so far.
    ///
    /// See the example of [`Recorder`].
    pub fn clear(&self) {
        // Dropped after the lock is released, because the `Drop` of a row may use the recorder.
        let removed = std::mem::take(&mut *self.recording.log.recorded());
        drop(removed);
    }

    /// Returns a future that runs `future` and records its signals too, on any task. Use it for tasks that a test spawns.
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

    /// Asserts the number of inserts.
    ///
    /// See the example of [`Recorder`].
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists all recorded signals.
    #[track_caller]
    pub fn assert_created(&self, times: usize) {
        self.assert(times, self.created().len(), "created");
    }

    /// Asserts the number of updates.
    ///
    /// See the example of [`Recorder`].
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists all recorded signals.
    #[track_caller]
    pub fn assert_updated(&self, times: usize) {
        self.assert(times, self.updated().len(), "updated");
    }

    /// Asserts the number of deleted rows.
    ///
    /// See the example of [`Recorder`].
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists all recorded signals.
    #[track_caller]
    pub fn assert_deleted(&self, times: usize) {
        self.assert(times, self.deleted().len(), "deleted");
    }

    /// Asserts the number of saved and deleted rows that were committed.
    ///
    /// See the example of [`Recorder`].
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists all recorded signals.
    #[track_caller]
    pub fn assert_committed(&self, times: usize) {
        self.assert(
            times,
            self.instances(|event| event.committed == Some(true)).len(),
            "committed",
        );
    }

    /// Asserts the number of saved and deleted rows that were rolled back.
    ///
    /// See the example of [`Recorder`].
    ///
    /// # Panics
    ///
    /// If the number differs. The message lists all recorded signals.
    #[track_caller]
    pub fn assert_rolled_back(&self, times: usize) {
        let rolled_back = self.instances(|event| event.committed == Some(false));
        self.assert(times, rolled_back.len(), "rolled back");
    }

    /// Asserts that no signal was sent, not even the `pre_save` or `pre_delete` of a write that has failed.
    ///
    /// See the example of [`Recorder`].
    ///
    /// # Panics
    ///
    /// If a signal was recorded. The message lists all recorded signals.
    #[track_caller]
    pub fn assert_none(&self) {
        let all = self.all();
        assert!(all.is_empty(), "expected no signal of `{}`, but there were:\n{self}", M::NAME);
    }

    fn instances(&self, filter: impl Fn(&Event<M>) -> bool) -> Vec<M> {
        self.all().into_iter().filter(filter).map(|event| event.instance).collect()
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
    /// Returns the key of the row, or `None` if it had no key yet.
    ///
    /// See the example of [`Recorder`].
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

/// The recorded signals of a model.
pub(super) struct Log<M> {
    pub(super) recorded: Mutex<Vec<RecordedSignal<M>>>,
    pub(super) copy: fn(&M) -> M,
}

pub(super) struct RecordedSignal<M> {
    pub(super) signal: &'static str,
    pub(super) created: Option<bool>,
    /// Shared, so that the row is cloned and dropped without holding the lock.
    pub(super) instance: Arc<M>,
    /// Whether the write was committed. It is set when the transaction has ended.
    pub(super) committed: Arc<OnceLock<bool>>,
}

impl<M> Clone for RecordedSignal<M> {
    fn clone(&self) -> Self {
        let Self { signal, created, instance, committed } = self;
        let (instance, committed) = (Arc::clone(instance), Arc::clone(committed));
        Self { signal, created: *created, instance, committed }
    }
}

impl<M> Log<M> {
    /// Locks the list of recorded signals. No code of the program (`Clone`, `Drop`) may run under the lock, because it may use the
    /// recorder.
    pub(super) fn recorded(&self) -> MutexGuard<'_, Vec<RecordedSignal<M>>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Model> RecorderLog for Log<M> {
    fn model(&self) -> Option<TypeId> {
        Some(TypeId::of::<M>())
    }

    fn record(
        &self,
        signal: &'static str,
        created: Option<bool>,
        row: &dyn AnyModel,
        committed: &Arc<OnceLock<bool>>,
    ) {
        if let Some(row) = row.downcast_ref::<M>() {
            let (instance, committed) = (Arc::new((self.copy)(row)), Arc::clone(committed));
            self.recorded().push(RecordedSignal { signal, created, instance, committed });
        }
    }
}
