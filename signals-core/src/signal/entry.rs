use std::any::TypeId;
use std::panic::Location;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::BoxError;
use crate::signal::erased::{ErasedEntry, Started};
use crate::signal::parameter::Context;
use crate::signal::{Deferrable, Sender, Signal, Subject, TellsChange};
use crate::table::any::AnyModel;
use crate::task::info::{Info, Receiver};

impl Info {
    /// Of the receiver that the type `R` names.
    pub const fn new<R: Receiver, S: Signal, M: Sender + ?Sized>(
        name: &'static str,
        file: &'static str,
        line: u32,
        doc: &'static str,
        connection: bool,
    ) -> Self {
        let info = Self::of(TypeId::of::<R>(), name, file, line);
        Self { signal: S::NAME, sender: M::NAME, doc, connection, ..info }
    }

    /// Of a receiver that is connected at run time.
    pub(crate) fn connected<S: Signal, M: Sender>(at: &'static Location<'static>) -> Self {
        struct Connected;
        impl Receiver for Connected {}
        let name = "a receiver that is connected at run time";
        Self::new::<Connected, S, M>(name, at.file(), at.line(), "", true)
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
    for<'a, 'c> fn(<S as Signal>::Event<'a, M>, Context<'a, 'c>) -> Result<(), BoxError>;
pub(crate) type AsyncCall<S, M> = for<'a, 'c> fn(
    <S as Signal>::Event<'a, M>,
    Context<'a, 'c>,
) -> BoxFuture<'a, Result<(), BoxError>>;
pub(crate) type SharedCall<S, M> = Arc<
    dyn for<'a, 'c> Fn(
            <S as Signal>::Event<'a, M>,
            Context<'a, 'c>,
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
    pub(crate) fn begin<'a>(&self, event: S::Event<'a, M>, cx: Context<'a, '_>) -> Started<'a> {
        match self {
            Self::Sync(call) => Started::Done(call(event, cx)),
            Self::Async(call) => Started::Future(call(event, cx)),
            Self::Shared(call) => Started::Future(call(event, cx)),
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
    pub(crate) entry: &'static dyn ErasedEntry,
}

impl Registration {
    /// A registration of `entry`, which is what the signal and the sender say.
    pub const fn new<S: Signal, M: ?Sized + 'static>(
        info: &'static Info,
        entry: &'static dyn ErasedEntry,
    ) -> Self {
        Self { info, signal: TypeId::of::<S>(), sender: TypeId::of::<M>(), entry }
    }
}

inventory::collect!(Registration);
