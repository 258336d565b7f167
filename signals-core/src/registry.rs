use std::any::{TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use crate::context;
use crate::error::{Error, Result};
use crate::receiver::{Info, Phase, Receiver, Registration};

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
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Registry {
    /// In the order in which they run.
    all: Vec<&'static Info>,
    by_sender: HashMap<(TypeId, TypeId), Vec<&'static Registration>>,
}

/// The receivers of this program.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::collect)
}

impl Registry {
    fn collect() -> Self {
        let mut registrations: Vec<_> = inventory::iter::<Registration>.into_iter().collect();
        // The linker's order is nobody's: lower `order` first, then by name, which begins with the module's path.
        registrations
            .sort_by_key(|r| (r.info.order, module(r.info.name), r.info.file, r.info.line));
        let all = registrations.iter().map(|r| r.info).collect();
        let mut by_sender: HashMap<_, Vec<_>> = HashMap::new();
        for registration in registrations {
            by_sender
                .entry((registration.signal, registration.sender))
                .or_default()
                .push(registration);
        }
        Self { all, by_sender }
    }

    /// Every receiver, in the order in which those of one signal run.
    pub fn receivers(&self) -> impl Iterator<Item = ReceiverInfo> + '_ {
        self.all.iter().map(|info| ReceiverInfo { info })
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
        let found = self.receivers().find(|r| r.info.receiver == TypeId::of::<R>());
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
        context::set_recursion_limit(limit);
    }

    pub(crate) fn of(&self, signal: TypeId, sender: TypeId) -> &[&'static Registration] {
        self.by_sender.get(&(signal, sender)).map_or(&[], Vec::as_slice)
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// The path of the module that a receiver stands in.
fn module(name: &'static str) -> &'static str {
    name.rsplit_once("::").map_or("", |(module, _)| module)
}

/// A receiver, as the registry shows it.
#[derive(Clone, Copy)]
pub struct ReceiverInfo {
    info: &'static Info,
}

impl ReceiverInfo {
    /// The path of the function.
    pub fn name(self) -> &'static str {
        self.info.name
    }

    /// The name of the signal.
    pub fn signal(self) -> &'static str {
        self.info.signal
    }

    /// The name of the model.
    pub fn sender(self) -> &'static str {
        self.info.sender
    }

    /// When it runs.
    pub fn phase(self) -> Phase {
        self.info.phase
    }

    /// Its place among the receivers of its signal: the lower, the earlier.
    pub fn order(self) -> i32 {
        self.info.order
    }

    /// The source file.
    pub fn file(self) -> &'static str {
        self.info.file
    }

    /// The line in the source file.
    pub fn line(self) -> u32 {
        self.info.line
    }

    /// The first line of its doc comment.
    pub fn doc(self) -> &'static str {
        self.info.doc
    }
}

impl fmt::Debug for ReceiverInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

impl fmt::Display for ReceiverInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Info { signal, sender, name, phase, file, line, doc, .. } = self.info;
        write!(f, "{signal} of {sender}: {name} ({phase}, {file}:{line})")?;
        if doc.is_empty() { Ok(()) } else { write!(f, " {doc}") }
    }
}
