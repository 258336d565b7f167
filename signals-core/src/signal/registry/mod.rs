pub(crate) mod after;
pub(crate) mod connected;
pub(crate) mod lock;
pub(crate) mod view;

use crate::signal::Sender;
use crate::task::info::Identity;
use crate::task::info::Info;
use crate::task::info::Phase;
use crate::task::info::Receiver;
use std::any::{TypeId, type_name};
use std::collections::HashSet;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::error::{Error, Result};
use crate::signal::Signal;
use crate::signal::entry::{Call, Entry, Registration, SharedCall};
use crate::signal::erased::{ErasedEntry, ErasedReceiver, Registered};
use crate::task::chain;

use connected::{AllConnected, Connected, Key};
pub use view::Receivers;

/// Every receiver that is linked into the program.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::registry;
///
/// # #[derive(Model, Clone)]
/// # struct User { id: Option<i64> }
/// /// Greets.
/// #[receiver(post_save, sender = User, on_commit)]
/// fn welcome(_: PostSave<'_, User>) {}
///
/// # fn main() -> Result<()> {
/// registry().require::<welcome>()?;
/// let receiver = registry().get::<welcome>();
/// assert_eq!((receiver.signal(), receiver.sender(), receiver.doc()), ("post_save", "User", "Greets."));
/// receiver.disable();
/// assert!(!receiver.is_enabled());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Registry {
    /// In the order in which they run.
    linked: Vec<&'static Registration>,
    /// Signal, sender and the place in that order, sorted: what is looked for once a model is not worth a map.
    by_sender: Vec<(TypeId, TypeId, usize)>,
    /// A sentence about each `after` that cannot hold.
    mistakes: Vec<String>,
    changes: RwLock<Changes>,
    /// How often the program has changed what is connected and enabled.
    generation: AtomicU64,
}

/// What the program changed at run time.
#[derive(Debug, Default)]
struct Changes {
    connected: AllConnected,
    disabled: HashSet<TypeId>,
}

/// The receivers of this program.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    let mut is_new = false;
    let registry = REGISTRY.get_or_init(|| {
        is_new = true;
        Registry::collect()
    });
    if is_new {
        // Only now: what listens to the log may use the registry.
        registry.log_mistakes();
    }
    registry
}

impl Registry {
    fn collect() -> Self {
        let mut linked: Vec<_> = inventory::iter::<Registration>.into_iter().collect();
        // The linker's order is nobody's: lower `order` first, then by the module's path, file and line.
        // The key is made once for each, and not for each comparison: a big program has ten thousand.
        linked
            .sort_by_cached_key(|r| (r.info.order, module(r.info.name), r.info.file, r.info.line));
        let mut identities = HashSet::new();
        linked.retain(|r| {
            r.info.uid.is_empty() || identities.insert((r.info.uid, r.signal, r.sender))
        });
        let (linked, mistakes) = after::sort(linked);
        let places = linked.iter().enumerate();
        let mut by_sender: Vec<_> = places.map(|(place, r)| (r.signal, r.sender, place)).collect();
        by_sender.sort_unstable();
        let (changes, generation) = (RwLock::default(), AtomicU64::new(0));
        Self { linked, by_sender, mistakes, changes, generation }
    }

    fn log_mistakes(&self) {
        for mistake in &self.mistakes {
            tracing::error!("{mistake}; they run as if this `after` were not there");
        }
    }

    /// Every receiver, in the order in which those of one signal run: those that are linked, then those that were
    /// connected. What this returns can be gone through, and prints as a table.
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

    /// Who receives what as a [Mermaid](https://mermaid.js.org/syntax/flowchart.html) flowchart, which GitHub renders. In a
    /// debug build it also shows, dashed, what each receiver was seen to save, delete and send so far in this process.
    pub fn to_mermaid(&self) -> String {
        self.receivers().to_mermaid()
    }

    /// Who receives what as a [Graphviz](https://graphviz.org/doc/info/lang.html) graph, with what was seen as in
    /// [`to_mermaid`](Self::to_mermaid).
    pub fn to_dot(&self) -> String {
        self.receivers().to_dot()
    }

    /// Every receiver as JSON: an array of objects with `signal`, `sender`, `receiver`, `phase`, `order`, `file`, `line`,
    /// `doc` and `enabled`. In a debug build, one that was seen to save, delete or send something so far has their names in
    /// `saves`, `deletes` or `sends`.
    pub fn to_json(&self) -> String {
        self.receivers().to_json()
    }

    /// The receivers that are linked into the program, sorted, a line for each: signal, sender, receiver, phase, and the options
    /// that change what it does. It is the text of the file that
    /// [`testing::assert_locked`](crate::testing::assert_locked) compares with, and changes with nothing but the receivers.
    pub fn to_lock(&self) -> String {
        lock::text(self.linked.iter().map(|r| r.info))
    }

    /// The receiver of this name.
    ///
    /// # Panics
    ///
    /// Where it is not registered in this program, which [`require`](Self::require) says without a panic.
    #[track_caller]
    pub fn get<R: Receiver>(&self) -> ReceiverInfo {
        self.find::<R>().unwrap_or_else(|error| panic!("{error}"))
    }

    fn find<R: Receiver>(&self) -> Result<ReceiverInfo> {
        let found = self.receivers().find(|r| r.identity.receiver == TypeId::of::<R>());
        found.ok_or_else(|| Error::NotLinked { receiver: type_name::<R>() })
    }

    /// Makes sure that a receiver is linked, for the start of a program: one in a library crate that nothing else
    /// refers to is otherwise left out by the linker without a word.
    ///
    /// # Errors
    ///
    /// [`Error::NotLinked`].
    pub fn require<R: Receiver>(&self) -> Result<()> {
        self.find::<R>().map(drop)
    }

    /// Sets how many saves deep receivers may go, each made by a receiver of the one before, until it is
    /// [`Error::Recursion`]. It is 16 until it is set, and counts for the whole process. Each
    /// level is on the stack of the thread: some 30 KiB of it in a debug build, 3 KiB in a release build.
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

    /// What is wrong with the receivers as a whole.
    pub(crate) fn findings(&self) -> Vec<String> {
        self.mistakes.clone()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The receivers of a signal from these senders as they are now, in the order in which they run: those that are
    /// linked, then those that were connected.
    pub(crate) fn receivers_of(&self, signal: TypeId, senders: &[TypeId]) -> Vec<ErasedReceiver> {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        let mut places: Vec<_> =
            senders.iter().flat_map(|sender| self.places(signal, *sender)).collect();
        places.sort_unstable();
        let linked = places.into_iter().map(|place| self.linked[place]);
        let enabled = linked.filter(|r| !changes.disabled.contains(&r.info.receiver));
        let linked = enabled
            .map(|r| ErasedReceiver::new(Identity::linked(r.info), Registered::Linked(r.entry)));
        let connected = changes.connected.of(signal, senders);
        let connected = connected.map(|c| {
            ErasedReceiver::new(c.identity.clone(), Registered::Connected(c.entry.clone()))
        });
        linked.chain(connected).collect()
    }

    /// The places of the linked receivers of a signal from a sender.
    fn places(&self, signal: TypeId, sender: TypeId) -> impl Iterator<Item = usize> {
        let start = self.by_sender.partition_point(|(of, from, _)| (*of, *from) < (signal, sender));
        let those = self.by_sender[start..].iter();
        those
            .take_while(move |(of, from, _)| (*of, *from) == (signal, sender))
            .map(|(.., place)| *place)
    }

    /// Connects a receiver at run time, unless there is one of this identity.
    pub(crate) fn connect<S: Signal, M: Sender>(
        &self,
        uid: &str,
        at: &'static Location<'static>,
        call: SharedCall<S, M>,
    ) -> Handle {
        let key = Key { signal: TypeId::of::<S>(), sender: TypeId::of::<M>(), uid: uid.into() };
        let is_linked =
            self.places(key.signal, key.sender).any(|place| self.linked[place].info.uid == uid);
        if !is_linked {
            let info = connected::info(&key, Info::connected::<S, M>(at));
            let identity = Identity::connected(info, Arc::clone(&key.uid));
            let entry: Arc<dyn ErasedEntry> =
                Arc::new(Entry::<S, M> { call: Call::Shared(call), keep: None });
            // It stays here too, so that one that is not connected is not dropped under the lock.
            let connected = Connected { identity, entry: Arc::clone(&entry) };
            self.change(|changes| changes.connected.connect(&key, connected));
        }
        Handle { key }
    }

    /// Whoever saves from now on sees the change; who is under way goes on with what it began with. What the change returns is
    /// dropped by the caller, when the lock is free: a receiver may have anything to drop, which may do anything.
    fn change<T>(&self, change: impl FnOnce(&mut Changes) -> T) -> T {
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut changes);
        self.generation.fetch_add(1, Ordering::Release);
        changed
    }
}

/// A receiver that was connected at run time.
#[derive(Debug, Clone)]
#[must_use = "a receiver stays connected where its handle is dropped"]
pub struct Handle {
    key: Key,
}

impl Handle {
    /// Disconnects the receiver, and returns whether it was connected. A save that is under way still runs it.
    pub fn disconnect(&self) -> bool {
        let connected = registry().change(|changes| changes.connected.disconnect(&self.key));
        connected.is_some()
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// The path of the module that a receiver stands in.
fn module(name: &'static str) -> &'static str {
    // By the character, which is looked for faster than the string.
    name.rsplit_once(':').map_or("", |(module, _)| module.trim_end_matches(':'))
}

/// A receiver, as the registry shows it.
#[derive(Clone)]
pub struct ReceiverInfo {
    identity: Identity,
}

impl ReceiverInfo {
    /// The path of the function. Of a receiver that was connected at run time, its `uid`; such a name is kept as long as the
    /// program runs.
    pub fn name(&self) -> &'static str {
        self.identity.static_name()
    }

    /// The name of the signal.
    pub fn signal(&self) -> &'static str {
        self.identity.signal
    }

    /// The name of the model.
    pub fn sender(&self) -> &'static str {
        self.identity.sender
    }

    pub(crate) fn id(&self) -> TypeId {
        self.identity.receiver
    }

    /// When it runs.
    pub fn phase(&self) -> Phase {
        self.identity.phase
    }

    /// Its place among the receivers of its signal: the lower, the earlier.
    pub fn order(&self) -> i32 {
        self.identity.order
    }

    /// The source file.
    pub fn file(&self) -> &'static str {
        self.identity.file
    }

    /// The line in the source file.
    pub fn line(&self) -> u32 {
        self.identity.line
    }

    /// Has it run again, in the whole process, after [`disable`](Self::disable).
    pub fn enable(&self) {
        let receiver = self.identity.receiver;
        registry().change(|changes| changes.disabled.remove(&receiver));
    }

    /// Does not run it any more, in the whole process. To leave it out in one task, see [`muted`](crate::muted).
    pub fn disable(&self) {
        let receiver = self.identity.receiver;
        registry().change(|changes| changes.disabled.insert(receiver));
    }

    /// Whether it runs.
    pub fn is_enabled(&self) -> bool {
        let changes = registry().changes.read().unwrap_or_else(PoisonError::into_inner);
        !changes.disabled.contains(&self.identity.receiver)
    }

    /// The first line of its doc comment.
    pub fn doc(&self) -> &'static str {
        self.identity.doc
    }
}

impl fmt::Debug for ReceiverInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

impl fmt::Display for ReceiverInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.identity.name();
        let Info { signal, sender, phase, file, line, doc, .. } = &*self.identity;
        write!(f, "{signal} of {sender}: {name} ({phase}, {file}:{line})")?;
        if doc.is_empty() { Ok(()) } else { write!(f, " {doc}") }
    }
}
