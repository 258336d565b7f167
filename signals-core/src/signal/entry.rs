//! The registration of a receiver, with the types of its signal and sender.

use std::any::TypeId;
use std::panic::Location;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::BoxError;
use crate::signal::erased::{ErasedEntry, ModelCalls, Started};
use crate::signal::event_store::EventStore;
use crate::signal::parameter::Context;
use crate::signal::rows::KeptRows;
use crate::signal::{Deferrable, Sender, Signal, Subject, TellsChange, TellsNetChange};
use crate::table::any::AnyModel;
use crate::task::info::{Asks, Info, Receiver};

impl Info {
    /// The information about the receiver `R`, with no option set.
    pub const fn new<R: Receiver, S: Signal, M: Sender + ?Sized>(
        name: &'static str,
        file: &'static str,
        line: u32,
        doc: &'static str,
    ) -> Self {
        let info = Self::of(TypeId::of::<R>(), name, file, line);
        Self { signal: S::NAME, sender: M::NAME, doc, ..info }
    }

    /// The information about a receiver that the program connects at run time, in the source line `at`.
    pub(crate) fn connected<S: Signal, M: Sender>(at: &'static Location<'static>) -> Self {
        struct Connected;
        impl Receiver for Connected {}
        let name = "a receiver that is connected at run time";
        // Its function may take the connection from its `Context`.
        Self::new::<Connected, S, M>(name, at.file(), at.line(), "").asks(&[Asks::Connection])
    }

    /// Sets the option `created` or `updated`: the receiver runs only for new rows, or only for rows that existed.
    pub const fn created<S: TellsChange>(mut self, created: bool) -> Self {
        self.created = Some(created);
        self
    }

    /// Sets the option `once_per_transaction`: the receiver gets the net change of each row that a transaction has written.
    pub const fn once_per_transaction<S: TellsNetChange>(mut self) -> Self {
        self.once = true;
        self
    }

    /// Sets the option `changed(…)`: the receiver runs only if one of these columns has changed.
    pub const fn changed<S: TellsChange>(mut self, columns: &'static [&'static str]) -> Self {
        self.changed = columns;
        self
    }
}

/// The function of a receiver that is a plain `fn`.
pub(crate) type SyncCall<S, M> =
    for<'a, 'c> fn(<S as Signal>::Event<'a, M>, Context<'a, 'c>) -> Result<(), BoxError>;
/// The function of a receiver that is an `async fn`.
pub(crate) type AsyncCall<S, M> = for<'a, 'c> fn(
    <S as Signal>::Event<'a, M>,
    Context<'a, 'c>,
) -> BoxFuture<'a, Result<(), BoxError>>;
/// The closure of a receiver that is connected at run time.
pub(crate) type SharedCall<S, M> = Arc<
    dyn for<'a, 'c> Fn(
            <S as Signal>::Event<'a, M>,
            Context<'a, 'c>,
        ) -> BoxFuture<'a, Result<(), BoxError>>
        + Send
        + Sync,
>;

/// A receiver of the signal `S` of the model `M`.
pub struct Entry<S: Signal, M: Send + Sync + 'static> {
    pub(crate) call: Call<S, M>,
    pub(crate) model_calls: ModelCalls<M>,
    pub(crate) store: Option<&'static dyn EventStore>,
}

/// How a receiver is called.
pub(crate) enum Call<S: Signal, M: ?Sized + Subject + 'static> {
    Sync(SyncCall<S, M>),
    Async(AsyncCall<S, M>),
    Shared(SharedCall<S, M>),
}

impl<S: Signal, M: ?Sized + Subject + 'static> Call<S, M> {
    pub(crate) fn begin<'a>(&self, event: S::Event<'a, M>, cx: Context<'a, '_>) -> Started<'a> {
        match self {
            Self::Sync(call) => Started::Done(call(event, cx)),
            Self::Async(call) => Started::Future(call(event, cx)),
            Self::Shared(call) => Started::Future(call(event, cx)),
        }
    }
}

impl<S: Signal, M: Send + Sync + 'static> Entry<S, M> {
    pub(crate) const fn new(call: Call<S, M>) -> Self {
        Self { call, model_calls: ModelCalls::of::<S>(), store: None }
    }

    /// The entry of a plain function.
    pub const fn sync(call: SyncCall<S, M>) -> Self {
        Self::new(Call::Sync(call))
    }

    /// The entry of an async function.
    pub const fn future(call: AsyncCall<S, M>) -> Self {
        Self::new(Call::Async(call))
    }

    /// Makes the receiver run after the transaction has ended, with a copy of the event.
    pub const fn deferred(mut self) -> Self
    where
        S: Deferrable,
        M: Clone,
    {
        self.model_calls.keep = Some(KeptRows::keep);
        self
    }

    /// Makes the receiver durable. `store` stores its events.
    pub const fn durable(mut self, store: &'static dyn EventStore) -> Self {
        self.store = Some(store);
        self
    }

    /// The entry of events that a relay publishes. `store` stores them.
    pub const fn published(store: &'static dyn EventStore) -> Self {
        Self::sync(left_to_relay::<S, M>).durable(store)
    }
}

/// Is not called, because a relay publishes the events.
fn left_to_relay<'a, S: Signal, M: Send + Sync + 'static>(
    _: S::Event<'a, M>,
    _: Context<'a, '_>,
) -> Result<(), BoxError> {
    Err("a relay publishes this event".into())
}

/// A receiver of the signal `S` of every model.
pub struct AnyEntry<S: Signal> {
    pub(crate) call: Call<S, dyn AnyModel>,
    pub(crate) store: Option<&'static dyn EventStore>,
}

impl<S: Signal> AnyEntry<S> {
    /// The entry of a plain function.
    pub const fn sync(call: SyncCall<S, dyn AnyModel>) -> Self {
        Self { call: Call::Sync(call), store: None }
    }

    /// The entry of an async function.
    pub const fn future(call: AsyncCall<S, dyn AnyModel>) -> Self {
        Self { call: Call::Async(call), store: None }
    }

    /// Makes the receiver run after the transaction has ended. The event is kept as a snapshot, so the entry does not change.
    pub const fn deferred(self) -> Self
    where
        S: Deferrable,
    {
        self
    }

    /// Makes the receiver durable. `store` stores its events.
    pub const fn durable(mut self, store: &'static dyn EventStore) -> Self {
        self.store = Some(store);
        self
    }
}

/// One `#[receiver]`. The linker collects the registrations of all crates.
#[derive(Clone, Copy)]
pub struct Registration {
    pub(crate) info: &'static Info,
    pub(crate) signal: TypeId,
    pub(crate) sender: TypeId,
    pub(crate) entry: &'static dyn ErasedEntry,
}

impl Registration {
    /// Registers `entry`, which must be the entry of the signal `S` and the sender `M`.
    pub const fn new<S: Signal, M: ?Sized + 'static>(
        info: &'static Info,
        entry: &'static dyn ErasedEntry,
    ) -> Self {
        Self { info, signal: TypeId::of::<S>(), sender: TypeId::of::<M>(), entry }
    }
}

inventory::collect!(Registration);
