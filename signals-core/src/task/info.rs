//! What is known about a receiver without its types, and how a receiver is named.

use std::any::TypeId;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::task::intern::interned;

/// The type that `#[receiver]` makes beside a function of the same name, so that the receiver can be named.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a receiver",
    label = "not a receiver",
    note = "`#[receiver]` on a function makes a type of the function's name"
)]
pub trait Receiver: Send + Sync + 'static {}

/// When a receiver runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// At once, in the transaction.
    InTransaction,
    /// After the outermost transaction has committed.
    OnCommit,
    /// After the outermost transaction, or a savepoint around the write, was rolled back.
    OnRollback,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::InTransaction => "in transaction",
            Phase::OnCommit => "on commit",
            Phase::OnRollback => "on rollback",
        })
    }
}

/// What is known of a receiver beside the function itself.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    pub(crate) receiver: TypeId,
    pub(crate) name: &'static str,
    pub(crate) signal: &'static str,
    pub(crate) sender: &'static str,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    pub(crate) doc: &'static str,
    pub(crate) phase: Phase,
    pub(crate) order: i32,
    pub(crate) created: Option<bool>,
    /// The columns of which one must have changed.
    pub(crate) changed: &'static [&'static str],
    /// Whether it takes the connection.
    pub(crate) connection: bool,
    /// Whether its failure is only logged.
    pub(crate) robust: bool,
    /// Whether it cannot fail but by a panic: a plain function of the event alone that returns nothing.
    pub(crate) infallible: bool,
    /// The receivers that it runs after.
    pub(crate) after: &'static [TypeId],
    /// Two with one identity are one; none where it is empty.
    pub(crate) uid: &'static str,
    /// What its parameters ask for.
    pub(crate) asks: &'static [Asks],
}

/// What a parameter of a receiver asks for, beside the event and the connection.
#[derive(Debug, Clone, Copy)]
pub enum Asks {
    /// Nothing that must be there before the receiver runs.
    Nothing,
    /// The row before the write.
    Previous,
    /// A value of the `Db`.
    State {
        /// Its type.
        id: TypeId,
        /// The name of its type.
        name: fn() -> &'static str,
    },
}

impl Info {
    /// Of the receiver that this type names, with no option set.
    pub(crate) const fn of(
        receiver: TypeId,
        name: &'static str,
        file: &'static str,
        line: u32,
    ) -> Self {
        Self {
            receiver,
            name,
            signal: "",
            sender: "",
            file,
            line,
            doc: "",
            phase: Phase::InTransaction,
            order: 0,
            created: None,
            changed: &[],
            connection: false,
            robust: false,
            infallible: false,
            after: &[],
            uid: "",
            asks: &[],
        }
    }

    /// Whether the row before the write must be read for it.
    pub(crate) fn asks_previous(&self) -> bool {
        !self.changed.is_empty() || self.asks.iter().any(|asks| matches!(asks, Asks::Previous))
    }

    /// With a failure that is only logged.
    pub const fn robust(mut self) -> Self {
        self.robust = true;
        self
    }

    /// One that cannot fail but by a panic.
    pub const fn infallible(mut self) -> Self {
        self.infallible = true;
        self
    }

    /// Runs after these.
    pub const fn after(mut self, after: &'static [TypeId]) -> Self {
        self.after = after;
        self
    }

    /// With an identity, of which there is one for each signal and sender.
    pub const fn uid(mut self, uid: &'static str) -> Self {
        self.uid = uid;
        self
    }

    /// Takes these parameters.
    pub const fn asks(mut self, asks: &'static [Asks]) -> Self {
        self.asks = asks;
        self
    }

    /// With another phase than in the transaction.
    pub const fn phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// With a place among the receivers: the lower, the earlier.
    pub const fn order(mut self, order: i32) -> Self {
        self.order = order;
        self
    }
}

/// A receiver, as whoever runs or shows it knows it. What is known of one that is connected at run time belongs to the place
/// in the source, and only its name to itself: a program may connect any number of them.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) info: &'static Info,
    /// The name, where it is not the one of the place.
    uid: Option<Arc<str>>,
}

impl Identity {
    pub(crate) const fn linked(info: &'static Info) -> Self {
        Self { info, uid: None }
    }

    pub(crate) fn connected(info: &'static Info, uid: Arc<str>) -> Self {
        Self { info, uid: Some(uid) }
    }

    pub(crate) fn name(&self) -> &str {
        self.uid.as_deref().unwrap_or(self.info.name)
    }

    /// The name for what keeps it as long as the program runs. That is memory for each new name: only for errors, and for
    /// programs that ask.
    pub(crate) fn static_name(&self) -> &'static str {
        self.uid.as_deref().map_or(self.info.name, interned)
    }
}

impl Deref for Identity {
    type Target = Info;

    fn deref(&self) -> &Info {
        self.info
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}
