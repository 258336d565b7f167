//! What the registry says about one receiver.

use std::any::TypeId;
use std::fmt;
use std::sync::PoisonError;

use super::registry;
use crate::task::identity::Identity;
use crate::task::info::{Info, Phase};

/// Information about a receiver. Its `Display` is one line with signal, sender, name, phase, file and line.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model, Clone)]
/// # struct City { id: Option<i64>, name: String }
/// /// Writes the name to the log.
/// #[receiver(post_save, sender = City, on_commit, order = 7)]
/// fn log(saved: PostSave<'_, City>) {
///     println!("{}", saved.instance.name);
/// }
///
/// let receiver = registry().get::<log>();
/// assert!(receiver.name().ends_with("::log"));
/// assert_eq!((receiver.signal(), receiver.sender()), ("post_save", "City"));
/// assert_eq!((receiver.phase().to_string(), receiver.order()), ("on commit".to_owned(), 7));
/// assert!(!receiver.is_detached() && !receiver.is_once_per_transaction());
/// assert_eq!(receiver.doc(), "Writes the name to the log.");
/// println!("{}:{}", receiver.file(), receiver.line());
///
/// receiver.disable();
/// assert!(!receiver.is_enabled());
/// receiver.enable();
/// ```
#[derive(Clone)]
pub struct ReceiverInfo {
    pub(super) identity: Identity,
}

impl ReceiverInfo {
    /// The path of the function, or the `uid` of a receiver that was connected at run time. (The memory of such a name is never
    /// freed.)
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn name(&self) -> &'static str {
        self.identity.static_name()
    }

    /// The name of the signal.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn signal(&self) -> &'static str {
        self.identity.signal
    }

    /// The name of the model, `every model` for a receiver that names no sender, and empty for a receiver of a custom signal.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn sender(&self) -> &'static str {
        self.identity.sender
    }

    /// The name under which deliveries of the receiver are stored: its `uid`, or else the path of the function. `None` if the receiver is not
    /// durable.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// for receiver in registry().receivers() {
    ///     if let Some(name) = receiver.delivery_name() {
    ///         println!("{name}: {} attempts", receiver.max_attempts().unwrap_or_default());
    ///     }
    /// }
    /// ```
    #[cfg(feature = "durable")]
    pub fn delivery_name(&self) -> Option<&'static str> {
        self.identity.durable.map(|_| self.identity.info.stored_name())
    }

    /// The number of attempts after which a delivery of the receiver is dead. `None` if the receiver is not durable.
    ///
    /// See the example of [`delivery_name`](Self::delivery_name).
    #[cfg(feature = "durable")]
    pub fn max_attempts(&self) -> Option<u32> {
        self.identity.durable.map(|options| options.max_attempts)
    }

    /// The name under which deliveries of the receiver are stored.
    #[cfg(feature = "durable")]
    pub(crate) fn stored_name(&self) -> &'static str {
        self.identity.info.stored_name()
    }

    /// The present and the former names under which its deliveries are stored.
    #[cfg(feature = "durable")]
    pub(crate) fn all_stored_names(&self) -> impl Iterator<Item = &'static str> {
        let former = self.identity.durable.map_or(&[][..], |options| options.was);
        std::iter::once(self.stored_name()).chain(former.iter().copied())
    }

    pub(crate) fn id(&self) -> TypeId {
        self.identity.receiver
    }

    /// When the receiver runs: in the transaction, after the commit, or after the rollback.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn phase(&self) -> Phase {
        self.identity.phase
    }

    /// Whether the receiver runs on a task of its own: the option `on_commit(detached)`.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn is_detached(&self) -> bool {
        self.identity.detached
    }

    /// Whether the receiver runs once for each row and transaction: the option `once_per_transaction`.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn is_once_per_transaction(&self) -> bool {
        self.identity.once
    }

    /// The option `order`. A receiver with a lower number runs earlier. The default is 0.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn order(&self) -> i32 {
        self.identity.order
    }

    /// The source file of the receiver, or of the call that has connected it.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn file(&self) -> &'static str {
        self.identity.file
    }

    /// The line in the source file.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn line(&self) -> u32 {
        self.identity.line
    }

    /// Enables the receiver after [`disable`](Self::disable), in the whole process.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn enable(&self) {
        let receiver = self.identity.disabled_key();
        registry().change(|changes| changes.disabled.remove(&receiver));
    }

    /// Disables the receiver in the whole process. To disable it in one task, use [`muted`](crate::muted).
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn disable(&self) {
        let receiver = self.identity.disabled_key();
        registry().change(|changes| changes.disabled.insert(receiver));
    }

    /// Whether the receiver is enabled.
    ///
    /// See the example of [`ReceiverInfo`].
    pub fn is_enabled(&self) -> bool {
        let changes = registry().changes.read().unwrap_or_else(PoisonError::into_inner);
        !changes.disabled.contains(&self.identity.disabled_key())
    }

    /// The first line of the receiver's doc comment.
    ///
    /// See the example of [`ReceiverInfo`].
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
        let Info { signal, sender, file, line, doc, .. } = &*self.identity;
        let when = self.identity.when();
        // A signal that the program defines has no sender.
        let of = if sender.is_empty() { "" } else { " of " };
        write!(f, "{signal}{of}{sender}: {name} ({when}, {file}:{line})")?;
        if doc.is_empty() { Ok(()) } else { write!(f, " {doc}") }
    }
}
