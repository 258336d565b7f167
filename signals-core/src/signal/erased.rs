//! Receivers without the types of their signal and sender, so that the code that runs them is compiled once.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::BoxError;
use crate::signal::Signal;
use crate::signal::entry::{AnyEntry, Entry};
use crate::signal::event_store::{EventContent, EventStore};
use crate::signal::parameter::Context;
use crate::signal::rows::{AnyEventRows, EventRows, Keep};
use crate::task::identity::Identity;
use crate::task::measure::ReceiverKeys;

/// A registered receiver without its types.
#[derive(Clone)]
#[allow(unreachable_pub)]
pub struct ErasedReceiver {
    pub(crate) info: Identity,
    entry: Registered,
    /// The keys of its metrics.
    pub(crate) keys: ReceiverKeys,
}

/// Where a receiver's entry is stored.
#[derive(Clone)]
pub(crate) enum Registered {
    Linked(&'static dyn ErasedEntry),
    Connected(Arc<dyn ErasedEntry>),
}

/// An [`Entry`] of a signal and a sender, or an [`AnyEntry`] of a signal.
pub trait ErasedEntry: Any + Send + Sync {
    #[doc(hidden)]
    fn calls(&self) -> Calls<'_>;

    /// How the events of a durable receiver are stored.
    #[doc(hidden)]
    fn store(&self) -> Option<&'static dyn EventStore>;
}

/// How a receiver is called.
#[allow(unreachable_pub)]
pub enum Calls<'r> {
    /// The `ModelCalls<M>` of the receiver's sender `M`.
    OfModel(&'r (dyn Any + Send + Sync)),
    OfEveryModel(BeginAny),
}

/// Calls a receiver of every model.
#[allow(unreachable_pub)]
pub type BeginAny =
    for<'a, 'c> fn(&ErasedReceiver, AnyEventRows<'a>, Context<'a, 'c>) -> Started<'a>;

/// How receivers of one model are called, for any signal.
///
/// It is a part of the receiver's entry, so that its functions are only compiled into programs that have such a receiver.
pub(crate) struct ModelCalls<M> {
    pub(crate) begin: Begin<M>,
    /// Copies the event of a receiver that runs after the transaction has ended.
    pub(crate) keep: Option<Keep<M>>,
}

type Begin<M> = for<'a, 'c> fn(&ErasedReceiver, EventRows<'a, M>, Context<'a, 'c>) -> Started<'a>;

impl<M: Send + Sync + 'static> ModelCalls<M> {
    /// The calls of receivers that run in the transaction.
    pub(crate) const fn of<S: Signal>() -> Self {
        Self { begin: begin_about_rows::<S, M>, keep: None }
    }
}

impl<M: 'static> ModelCalls<M> {
    /// The calls of a receiver of this model.
    pub(crate) fn of_erased(calls: &(dyn Any + Send + Sync)) -> &Self {
        calls.downcast_ref().expect(ASKED)
    }
}

impl ErasedReceiver {
    pub(crate) fn new(info: Identity, entry: Registered) -> Self {
        let keys = ReceiverKeys::of(info.info);
        Self { info, entry, keys }
    }

    fn entry(&self) -> &dyn ErasedEntry {
        match &self.entry {
            Registered::Linked(entry) => *entry,
            Registered::Connected(entry) => &**entry,
        }
    }

    fn get<E: 'static>(&self) -> &E {
        let entry: &dyn Any = self.entry();
        entry.downcast_ref().expect(ASKED)
    }

    /// How the events of a durable receiver are stored. `None` for all other receivers.
    pub(crate) fn store(&self) -> Option<&'static dyn EventStore> {
        self.entry().store()
    }

    pub(crate) fn calls(&self) -> Calls<'_> {
        self.entry().calls()
    }

    pub(crate) fn is_of_every_model(&self) -> bool {
        matches!(self.calls(), Calls::OfEveryModel(_))
    }

    /// The calls of a receiver of the model `M`.
    pub(crate) fn model_calls<M: 'static>(&self) -> &ModelCalls<M> {
        match self.calls() {
            Calls::OfModel(calls) => ModelCalls::of_erased(calls),
            Calls::OfEveryModel(_) => panic!("{ASKED}"),
        }
    }
}

const ASKED: &str = "a receiver is looked up by its signal and sender";

impl fmt::Debug for dyn ErasedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErasedEntry")
    }
}

impl fmt::Debug for ErasedReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// A receiver that was called: a plain function has returned, an async function has returned its future.
#[allow(unreachable_pub)]
pub enum Started<'a> {
    Done(Result<(), BoxError>),
    Future(BoxFuture<'a, Result<(), BoxError>>),
}

/// An event, as receivers are called with it.
pub(crate) trait Event: Send + Sync {
    /// Whether the event is about new rows. `None` for signals that do not say.
    fn created(&self) -> Option<bool> {
        None
    }

    /// Calls a receiver.
    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a>;

    /// The content of the event, for durable receivers.
    fn content(&self) -> EventContent<'_>;

    /// Copies the event for these receivers, which run after the transaction has ended. `None` if there are none.
    fn keep(&self, to: &mut dyn Iterator<Item = &ErasedReceiver>) -> Option<Box<dyn KeptEvent>>;
}

/// A copy of an event for receivers that run after the transaction has ended.
#[allow(unreachable_pub)]
pub trait KeptEvent: Send + Sync {
    /// Calls one of the receivers for which the event was kept.
    fn begin<'a>(&'a mut self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a>;
}

impl<S: Signal, M: Send + Sync + 'static> ErasedEntry for Entry<S, M> {
    fn calls(&self) -> Calls<'_> {
        Calls::OfModel(&self.model_calls)
    }

    fn store(&self) -> Option<&'static dyn EventStore> {
        self.store
    }
}

impl<S: Signal> ErasedEntry for AnyEntry<S> {
    fn calls(&self) -> Calls<'_> {
        Calls::OfEveryModel(begin_about_any_rows::<S>)
    }

    fn store(&self) -> Option<&'static dyn EventStore> {
        self.store
    }
}

/// Calls a receiver of this signal and sender.
pub(crate) fn begin<'a, S: Signal, M: Send + Sync + 'static>(
    to: &ErasedReceiver,
    event: S::Event<'a, M>,
    cx: Context<'a, '_>,
) -> Started<'a> {
    to.get::<Entry<S, M>>().call.begin(event, cx)
}

fn begin_about_rows<'a, S: Signal, M: Send + Sync + 'static>(
    to: &ErasedReceiver,
    rows: EventRows<'a, M>,
    cx: Context<'a, '_>,
) -> Started<'a> {
    begin::<S, M>(to, S::of(rows), cx)
}

fn begin_about_any_rows<'a, S: Signal>(
    to: &ErasedReceiver,
    rows: AnyEventRows<'a>,
    cx: Context<'a, '_>,
) -> Started<'a> {
    to.get::<AnyEntry<S>>().call.begin(S::of_any(rows), cx)
}
