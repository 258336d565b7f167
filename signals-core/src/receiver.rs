use std::any::TypeId;
use std::fmt;
use std::ops::Deref;
use std::panic::Location;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::any::AnyModel;
use crate::error::BoxError;
use crate::parameter::{Asked, Cx};
use crate::registry::interned;
use crate::signal::{Deferrable, Sender, Signal, Subject, TellsChange};
use crate::subscriber::{Begun, Callee};

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

/// What a receiver returns: nothing, or `Result<(), E>` where `E` can be boxed as an error.
#[diagnostic::on_unimplemented(
    message = "a receiver cannot return `{Self}`",
    label = "expected nothing or `Result<(), E>`",
    note = "a receiver or callback returns nothing, or `Result<(), E>` with an `E: Into<Box<dyn Error + Send + Sync>>`: \
            an error type, a string, or `Box<dyn Error + Send + Sync>`, but no `Box<dyn Error>` without `Send + Sync`"
)]
pub trait Outcome {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), BoxError>;
}

#[diagnostic::do_not_recommend]
impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// The type `!`, which has no name in stable Rust: what a function returns that does not.
type Never = <fn() -> ! as Returns>::Output;

#[doc(hidden)]
#[allow(missing_docs, unreachable_pub)]
pub trait Returns {
    type Output;
}

impl<T> Returns for fn() -> T {
    type Output = T;
}

/// In edition 2024, `async { todo!() }` has the output `!`.
#[diagnostic::do_not_recommend]
impl Outcome for Never {
    fn into_result(self) -> Result<(), BoxError> {
        self
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
    /// Asks for all that it takes.
    pub(crate) ask: Ask,
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

/// Asks for every parameter of a receiver.
pub(crate) type Ask = for<'x, 'a, 'c> fn(&'x mut Cx<'a, 'c>);

impl Info {
    /// Of the receiver that the type `R` names.
    pub const fn new<R: Receiver, S: Signal, M: Sender + ?Sized>(
        name: &'static str,
        file: &'static str,
        line: u32,
        doc: &'static str,
        connection: bool,
    ) -> Self {
        Self {
            receiver: TypeId::of::<R>(),
            name,
            signal: S::NAME,
            sender: M::NAME,
            file,
            line,
            doc,
            phase: Phase::InTransaction,
            order: 0,
            created: None,
            changed: &[],
            connection,
            robust: false,
            infallible: false,
            after: &[],
            uid: "",
            ask: |_| (),
        }
    }

    /// Of a receiver that is connected at run time.
    pub(crate) fn connected<S: Signal, M: Sender>(at: &'static Location<'static>) -> Self {
        struct Connected;
        impl Receiver for Connected {}
        let name = "a receiver that is connected at run time";
        Self::new::<Connected, S, M>(name, at.file(), at.line(), "", true)
    }

    /// Whether the row before the write must be read for it.
    pub(crate) fn asks_previous(&self) -> bool {
        !self.changed.is_empty() || self.asked().previous
    }

    /// What it takes.
    pub(crate) fn asked(&self) -> Asked {
        let mut cx = Cx { asked: Some(Asked::default()), ..Cx::new(None, None, None) };
        (self.ask)(&mut cx);
        cx.asked.unwrap_or_default()
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
    pub const fn ask(mut self, ask: Ask) -> Self {
        self.ask = ask;
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

    /// Only for rows that are new, or only for those that are not.
    pub const fn created<S: TellsChange>(mut self, created: bool) -> Self {
        self.created = Some(created);
        self
    }

    /// Only where one of these columns has changed.
    pub const fn changed<S: TellsChange>(mut self, columns: &'static [&'static str]) -> Self {
        self.changed = columns;
        self
    }
}

/// How a receiver is called.
pub(crate) type SyncCall<S, M> =
    for<'a, 'c> fn(<S as Signal>::Event<'a, M>, Cx<'a, 'c>) -> Result<(), BoxError>;
pub(crate) type AsyncCall<S, M> =
    for<'a, 'c> fn(<S as Signal>::Event<'a, M>, Cx<'a, 'c>) -> BoxFuture<'a, Result<(), BoxError>>;
pub(crate) type SharedCall<S, M> = Arc<
    dyn for<'a, 'c> Fn(
            <S as Signal>::Event<'a, M>,
            Cx<'a, 'c>,
        ) -> BoxFuture<'a, Result<(), BoxError>>
        + Send
        + Sync,
>;
type Keep<S, M> = for<'e> fn(&<S as Signal>::Event<'e, M>) -> <S as Signal>::Kept<M>;

/// A receiver of the signal `S` from the model `M`.
pub struct Entry<S: Signal, M: Send + Sync + 'static> {
    pub(crate) call: Call<S, M>,
    /// Keeps the event until the end of the transaction, for a receiver that waits for it.
    pub(crate) keep: Option<Keep<S, M>>,
}

pub(crate) enum Call<S: Signal, M: ?Sized + Subject> {
    Sync(SyncCall<S, M>),
    Async(AsyncCall<S, M>),
    /// Connected at run time.
    Shared(SharedCall<S, M>),
}

impl<S: Signal, M: ?Sized + Subject> Call<S, M> {
    pub(crate) fn begin<'a>(&self, event: S::Event<'a, M>, cx: Cx<'a, '_>) -> Begun<'a> {
        match self {
            Self::Sync(call) => Begun::Done(call(event, cx)),
            Self::Async(call) => Begun::Future(call(event, cx)),
            Self::Shared(call) => Begun::Future(call(event, cx)),
        }
    }
}

impl<S: Signal, M: Send + Sync + 'static> Entry<S, M> {
    /// A plain function.
    pub const fn sync(call: SyncCall<S, M>) -> Self {
        Self { call: Call::Sync(call), keep: None }
    }

    /// An async function.
    pub const fn future(call: AsyncCall<S, M>) -> Self {
        Self { call: Call::Async(call), keep: None }
    }

    /// Waits for the end of the transaction, and so needs a copy of the row.
    pub const fn deferred(self) -> Self
    where
        S: Deferrable,
        M: Clone,
    {
        // Not `..self`: a value with a destructor cannot be taken apart in a constant.
        let mut entry = self;
        entry.keep = Some(S::keep::<M>);
        entry
    }
}

/// A receiver of the signal `S` from every model.
pub struct AnyEntry<S: Signal> {
    pub(crate) call: Call<S, dyn AnyModel>,
}

impl<S: Signal> AnyEntry<S> {
    /// A plain function.
    pub const fn sync(call: SyncCall<S, dyn AnyModel>) -> Self {
        Self { call: Call::Sync(call) }
    }

    /// An async function.
    pub const fn future(call: AsyncCall<S, dyn AnyModel>) -> Self {
        Self { call: Call::Async(call) }
    }

    /// Waits for the end of the transaction.
    pub const fn deferred(self) -> Self
    where
        S: Deferrable,
    {
        self
    }
}

/// One `#[receiver]`, as it is collected at link time.
#[derive(Clone, Copy)]
pub struct Registration {
    pub(crate) info: &'static Info,
    pub(crate) signal: TypeId,
    pub(crate) sender: TypeId,
    pub(crate) entry: &'static dyn Callee,
}

impl Registration {
    /// A registration of `entry`, which is what the signal and the sender say.
    pub const fn new<S: Signal, M: ?Sized + 'static>(
        info: &'static Info,
        entry: &'static dyn Callee,
    ) -> Self {
        Self { info, signal: TypeId::of::<S>(), sender: TypeId::of::<M>(), entry }
    }
}

inventory::collect!(Registration);
