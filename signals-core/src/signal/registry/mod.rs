//! The registry: the receivers of the program, their order, and what the program changes at run time.

pub(crate) mod after;
pub(crate) mod connected;
mod handle;
pub(crate) mod info;
pub(crate) mod lock;
#[cfg(feature = "durable")]
mod names;
pub(crate) mod view;

use std::any::{TypeId, type_name};
use std::collections::HashSet;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use connected::{AllConnected, Connected, Key};

use crate::error::{Error, Result};
use crate::signal::entry::{Call, Entry, Registration, SharedCall};
use crate::signal::erased::{ErasedEntry, ErasedReceiver, Registered};
use crate::signal::event_store::EventStore;
use crate::signal::{Sender, Signal};
use crate::task::chain;
use crate::task::identity::{DisabledKey, Identity};
use crate::task::info::{Info, Receiver};

pub use handle::Handle;
pub use info::ReceiverInfo;
pub use view::Receivers;

/// The receivers of the program. [`registry`] returns it.
///
/// The linker collects every `#[receiver]` of the program and its library crates. There is no registration call.
///
/// | to do this | call |
/// |---|---|
/// | print all receivers | [`receivers`](Self::receivers) |
/// | make sure at start-up that a receiver is linked | [`require`](Self::require) |
/// | look at one receiver, disable or enable it | [`get`](Self::get) |
/// | add a receiver at run time | `connect` of the signal, such as [`post_save::connect`](crate::post_save::connect) |
/// | draw a graph | [`to_mermaid`](Self::to_mermaid), [`to_dot`](Self::to_dot) |
/// | compare the receivers with a file in a test | [`testing::assert_locked`](crate::testing::assert_locked) |
///
/// The receivers of one signal run in this order: by `order`, then by module path, file and line. `after` moves a receiver behind
/// others. Receivers that are connected at run time come last. The order never depends on the linker.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::registry;
///
/// # #[derive(Model, Clone)]
/// # struct User { id: Option<i64> }
/// /// Greets a new user.
/// #[receiver(post_save, sender = User, on_commit)]
/// fn welcome(_: PostSave<'_, User>) {}
///
/// # fn main() -> Result<()> {
/// registry().require::<welcome>()?;
/// let receiver = registry().get::<welcome>();
/// assert_eq!((receiver.signal(), receiver.sender()), ("post_save", "User"));
/// assert_eq!(receiver.doc(), "Greets a new user.");
/// receiver.disable();
/// assert!(!receiver.is_enabled());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Registry {
    /// The linked receivers in the order in which they run.
    linked: Vec<&'static Registration>,
    /// Signal, sender and index in `linked`, sorted. The receivers of a model are looked up once and then cached, so a binary search is
    /// fast enough.
    by_sender: Vec<(TypeId, TypeId, usize)>,
    /// A sentence about each `after` that cannot hold.
    mistakes: Vec<String>,
    /// A sentence about each two durable receivers that share a name.
    shared_names: Vec<String>,
    changes: RwLock<Changes>,
    /// The number of changes so far. A cached list of receivers is valid while this number stays the same.
    generation: AtomicU64,
}

/// What the program has changed at run time.
#[derive(Debug, Default)]
struct Changes {
    connected: AllConnected,
    disabled: HashSet<DisabledKey>,
}

impl Changes {
    fn is_disabled(&self, linked: &Registration) -> bool {
        self.disabled.contains(&Identity::linked(linked.info).disabled_key())
    }
}

/// Returns the registry of this program.
///
/// ```
/// println!("{}", sqlx_signals::registry().receivers());
/// ```
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    let mut is_new = false;
    let registry = REGISTRY.get_or_init(|| {
        is_new = true;
        Registry::collect()
    });
    if is_new {
        // Not in `collect`: a subscriber of the log may itself call `registry`.
        registry.log_mistakes();
    }
    registry
}

impl Registry {
    fn collect() -> Self {
        let mut linked: Vec<_> = inventory::iter::<Registration>.into_iter().collect();
        // The linker collects in an undefined order. The keys are computed once for each receiver, not for each comparison, because
        // a large program has ten thousand receivers.
        linked
            .sort_by_cached_key(|r| (r.info.order, module(r.info.name), r.info.file, r.info.line));
        let mut seen = HashSet::new();
        linked.retain(|r| r.info.uid.is_empty() || seen.insert((r.info.uid, r.signal, r.sender)));
        let (linked, mistakes) = after::sort(linked);
        #[cfg(feature = "durable")]
        let shared_names = names::shared(&linked);
        #[cfg(not(feature = "durable"))]
        let shared_names = Vec::new();
        let indexed = linked.iter().enumerate();
        let mut by_sender: Vec<_> = indexed.map(|(index, r)| (r.signal, r.sender, index)).collect();
        by_sender.sort_unstable();
        let (changes, generation) = (RwLock::default(), AtomicU64::new(0));
        Self { linked, by_sender, mistakes, shared_names, changes, generation }
    }

    fn log_mistakes(&self) {
        for mistake in &self.mistakes {
            tracing::error!("{mistake}; they run as if this `after` were not there");
        }
        for mistake in &self.shared_names {
            tracing::error!("{mistake}");
        }
    }

    /// Returns all receivers: first the linked receivers, then the receivers that are connected at run time. The receivers of one
    /// signal are in the order in which they run.
    ///
    /// The result is an iterator, and its `Display` is a table.
    ///
    /// ```
    /// for receiver in sqlx_signals::registry().receivers() {
    ///     println!("{receiver}");
    /// }
    /// println!("{}", sqlx_signals::registry().receivers());
    /// ```
    pub fn receivers(&self) -> Receivers {
        let all: Vec<_> =
            self.identities().into_iter().map(|identity| ReceiverInfo { identity }).collect();
        Receivers { all: all.into_iter() }
    }

    /// Returns the models and their receivers as a [Mermaid](https://mermaid.js.org/syntax/flowchart.html) flowchart, which GitHub renders.
    ///
    /// In a debug build, dashed arrows show what each receiver has saved, deleted and sent in this process so far.
    ///
    /// ```
    /// let graph = sqlx_signals::registry().to_mermaid();
    /// assert!(graph.starts_with("flowchart"));
    /// ```
    pub fn to_mermaid(&self) -> String {
        self.receivers().to_mermaid()
    }

    /// Returns the same graph as [`to_mermaid`](Self::to_mermaid) in the DOT language of
    /// [Graphviz](https://graphviz.org/doc/info/lang.html).
    ///
    /// ```
    /// let graph = sqlx_signals::registry().to_dot();
    /// assert!(graph.starts_with("digraph"));
    /// ```
    pub fn to_dot(&self) -> String {
        self.receivers().to_dot()
    }

    /// Returns all receivers as a JSON array. Each object has the fields `signal`, `sender`, `receiver`, `phase`, `detached`,
    /// `once_per_transaction`, `order`, `file`, `line`, `doc` and `enabled`, and for a durable receiver `deliveries`, the name under which
    /// they are stored.
    ///
    /// In a debug build, the fields `saves`, `deletes` and `sends` list the models and signals that the receiver has saved, deleted and
    /// sent in this process so far.
    ///
    /// ```
    /// let json = sqlx_signals::registry().to_json();
    /// assert!(serde_json::from_str::<Vec<serde_json::Value>>(&json).is_ok());
    /// ```
    pub fn to_json(&self) -> String {
        self.receivers().to_json()
    }

    /// Returns the linked receivers as sorted lines: signal, sender, receiver, phase, and the options that change what the receiver does.
    ///
    /// This is the content of the file that [`testing::assert_locked`](crate::testing::assert_locked) compares with. It changes only
    /// if the receivers change: file and line are not part of it.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// #[receiver(post_save, sender = City)]
    /// fn log(_: PostSave<'_, City>) {}
    ///
    /// assert!(registry().to_lock().contains("log"));
    /// ```
    pub fn to_lock(&self) -> String {
        lock::text(&self.linked)
    }

    /// Returns the receiver `R`. `#[receiver]` creates a type with the name of the function, so the receiver `welcome` is
    /// `registry().get::<welcome>()`.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// #[receiver(post_save, sender = City)]
    /// fn log(_: PostSave<'_, City>) {}
    ///
    /// assert_eq!(registry().get::<log>().signal(), "post_save");
    /// ```
    ///
    /// # Panics
    ///
    /// If the receiver is not linked into this program. [`require`](Self::require) returns an error instead.
    #[track_caller]
    pub fn get<R: Receiver>(&self) -> ReceiverInfo {
        self.find::<R>().unwrap_or_else(|error| panic!("{error}"))
    }

    fn find<R: Receiver>(&self) -> Result<ReceiverInfo> {
        let found = self.receivers().find(|r| r.identity.receiver == TypeId::of::<R>());
        found.ok_or_else(|| Error::NotLinked { receiver: type_name::<R>() })
    }

    /// Checks that the receiver `R` is linked into this program. Call it at start-up for the receivers of library crates: the linker
    /// silently leaves out a crate that nothing refers to.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// #[receiver(post_save, sender = City)]
    /// fn log(_: PostSave<'_, City>) {}
    ///
    /// # fn main() -> Result<()> {
    /// registry().require::<log>()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotLinked`] if the receiver is not linked.
    pub fn require<R: Receiver>(&self) -> Result<()> {
        self.find::<R>().map(drop)
    }

    /// Sets how many saves may be nested, in the whole process. A save is nested if a receiver of another save makes it. The save that
    /// exceeds the limit returns [`Error::Recursion`].
    ///
    /// The default is 16. Each level uses stack of the thread: about 30 KiB in a debug build and 3 KiB in a release build.
    ///
    /// ```
    /// sqlx_signals::registry().set_recursion_limit(4);
    /// ```
    pub fn set_recursion_limit(&self, limit: usize) {
        chain::set_recursion_limit(limit);
    }

    pub(crate) fn identities(&self) -> Vec<Identity> {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let linked = self.linked.iter().map(|r| Identity::linked(r.info));
        linked.chain(changes.connected.identities().cloned()).collect()
    }

    pub(crate) fn info(&self, identity: Identity) -> ReceiverInfo {
        ReceiverInfo { identity }
    }

    /// A sentence about each `after` that cannot hold, and about durable receivers that share a name, for `Db::check`.
    pub(crate) fn findings(&self) -> Vec<String> {
        [&self.mistakes[..], &self.shared_names].concat()
    }

    /// What stores the events of durable receivers. `None` if there is no such receiver.
    pub(crate) fn event_store(&self) -> Option<&'static dyn EventStore> {
        self.linked.iter().find_map(|r| r.entry.store())
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The enabled receivers of a signal of these senders, in the order in which they run: first the linked receivers,
    /// then the receivers that are connected at run time.
    pub(crate) fn receivers_of(&self, signal: TypeId, senders: &[TypeId]) -> Vec<ErasedReceiver> {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let mut indexes: Vec<_> =
            senders.iter().flat_map(|sender| self.indexes(signal, *sender)).collect();
        indexes.sort_unstable();
        let linked = indexes.into_iter().map(|index| self.linked[index]);
        let enabled = linked.filter(|r| !changes.is_disabled(r));
        let linked = enabled
            .map(|r| ErasedReceiver::new(Identity::linked(r.info), Registered::Linked(r.entry)));
        let connected = changes.connected.of(signal, senders);
        let connected =
            connected.filter(|c| !changes.disabled.contains(&c.identity.disabled_key()));
        let connected = connected.map(|c| {
            ErasedReceiver::new(c.identity.clone(), Registered::Connected(c.entry.clone()))
        });
        linked.chain(connected).collect()
    }

    /// The indexes in `linked` of the receivers of a signal of a sender.
    fn indexes(&self, signal: TypeId, sender: TypeId) -> impl Iterator<Item = usize> {
        let start = self.by_sender.partition_point(|(of, from, _)| (*of, *from) < (signal, sender));
        let rest = self.by_sender[start..].iter();
        rest.take_while(move |(of, from, _)| (*of, *from) == (signal, sender))
            .map(|(.., index)| *index)
    }

    /// The enabled durable receivers.
    #[cfg(feature = "durable")]
    pub(crate) fn durable(&self) -> Vec<ErasedReceiver> {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let durable = self.linked.iter().filter(|r| r.info.durable.is_some());
        let enabled = durable.filter(|r| !changes.is_disabled(r));
        enabled
            .map(|r| ErasedReceiver::new(Identity::linked(r.info), Registered::Linked(r.entry)))
            .collect()
    }

    /// Connects a receiver at run time, unless one of this signal, sender and `uid` exists.
    pub(crate) fn connect<S: Signal, M: Sender>(
        &self,
        uid: &str,
        at: &'static Location<'static>,
        call: SharedCall<S, M>,
    ) -> Handle {
        let key = Key { signal: TypeId::of::<S>(), sender: TypeId::of::<M>(), uid: uid.into() };
        let is_linked =
            self.indexes(key.signal, key.sender).any(|index| self.linked[index].info.uid == uid);
        if !is_linked {
            let info = connected::info(&key, Info::connected::<S, M>(at));
            let identity = Identity::connected(info, Arc::clone(&key.uid));
            let entry: Arc<dyn ErasedEntry> = Arc::new(Entry::<S, M>::new(Call::Shared(call)));
            // `entry` is kept here too: if the receiver is not connected, its closure must not be dropped under the lock.
            let connected = Connected { identity, entry: Arc::clone(&entry) };
            self.change(|changes| changes.connected.connect(&key, connected));
        }
        Handle { key }
    }

    /// Changes what is connected and enabled. Writes that begin later see the change. Writes that have begun keep their receivers.
    ///
    /// The closure returns what it has removed, so that the caller drops it after the lock is released: the `Drop` of a receiver's
    /// captured values may use the registry.
    fn change<T>(&self, change: impl FnOnce(&mut Changes) -> T) -> T {
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut changes);
        self.generation.fetch_add(1, Ordering::Release);
        changed
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// The path of the module that contains a receiver.
fn module(name: &'static str) -> &'static str {
    // Searching for a `char` is faster than searching for "::".
    name.rsplit_once(':').map_or("", |(module, _)| module.trim_end_matches(':'))
}
