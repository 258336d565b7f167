//! Receivers without the types of their signal and sender, so that the code that runs them is compiled once.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::BoxError;
use crate::signal::Signal;
use crate::signal::entry::{AnyEntry, Entry};
use crate::signal::parameter::Context;
use crate::signal::rows::RowEvent;
use crate::table::any::Snapshot;
use crate::table::column::Column;
use crate::table::rows::Rows;
use crate::task::info::Identity;

/// A registered receiver without its types.
#[derive(Clone)]
#[allow(unreachable_pub)]
pub struct ErasedReceiver {
    pub(crate) info: Identity,
    entry: Registered,
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
}

/// How a receiver is called.
#[allow(unreachable_pub)]
pub enum Calls<'r> {
    /// The `ModelCalls<M>` of the receiver's sender `M`.
    ModelCalls(&'static (dyn Any + Send + Sync)),
    Any(&'r dyn AnyModelCalls),
}

/// How receivers of one model are called, for any signal.
///
/// The entry of a receiver refers to it, so that the code for a signal of a model is only compiled into programs that have a receiver
/// for it.
pub(crate) struct ModelCalls<M> {
    pub(crate) begin: BeginTyped<M>,
    pub(crate) keep: KeepTyped<M>,
}

type Fields<'e, M> = Option<&'e [Column<M>]>;
type BeginTyped<M> = for<'a, 'c> fn(
    &ErasedReceiver,
    &'a mut [M],
    Fields<'a, M>,
    &RowEvent,
    Context<'a, 'c>,
) -> Started<'a>;
type KeepTyped<M> = fn(
    &ErasedReceiver,
    &[M],
    Fields<'_, M>,
    &RowEvent,
    Complete<'_, M>,
) -> Option<Box<dyn KeptEvent>>;

/// Gives copies of rows the keys that their `Clone` may have left out.
pub(crate) type Complete<'c, M> = &'c dyn Fn(&mut [M]);

/// How receivers of every model are called.
#[allow(unreachable_pub)]
pub trait AnyModelCalls {
    #[doc(hidden)]
    fn begin<'a>(
        &self,
        rows: &'a mut dyn Rows,
        event: &RowEvent,
        cx: Context<'a, '_>,
    ) -> Started<'a>;

    #[doc(hidden)]
    fn keep(&self, rows: &dyn Rows, event: &RowEvent) -> Option<Box<dyn KeptEvent>>;
}

impl ErasedReceiver {
    pub(crate) fn new(info: Identity, entry: Registered) -> Self {
        Self { info, entry }
    }

    fn entry(&self) -> &dyn ErasedEntry {
        match &self.entry {
            Registered::Linked(entry) => *entry,
            Registered::Connected(entry) => &**entry,
        }
    }

    fn get<E: 'static>(&self) -> Option<&E> {
        let entry: &dyn Any = self.entry();
        entry.downcast_ref()
    }

    /// The calls of a receiver of every model. `None` for a receiver of one model.
    pub(crate) fn any_model_calls(&self) -> Option<&dyn AnyModelCalls> {
        match self.entry().calls() {
            Calls::ModelCalls(_) => None,
            Calls::Any(any) => Some(any),
        }
    }

    /// The calls of a receiver of the model `M`.
    pub(crate) fn model_calls<M: 'static>(&self) -> &'static ModelCalls<M> {
        self.erased_model_calls().downcast_ref().expect(ASKED)
    }

    #[inline(never)]
    fn erased_model_calls(&self) -> &'static (dyn Any + Send + Sync) {
        match self.entry().calls() {
            Calls::ModelCalls(own) => own,
            Calls::Any(_) => &(),
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

    /// Copies the event for these receivers, which run after the transaction has ended. `None` if the list is empty.
    fn keep(&self, to: &[&ErasedReceiver]) -> Option<Box<dyn KeptEvent>>;
}

/// A copy of an event for receivers that run after the transaction has ended.
#[allow(unreachable_pub)]
pub trait KeptEvent: Send + Sync {
    /// Calls one of the receivers for which the event was kept.
    fn begin<'a>(&'a self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a>;
}

impl<S: Signal, M: Send + Sync + 'static> ErasedEntry for Entry<S, M> {
    fn calls(&self) -> Calls<'_> {
        Calls::ModelCalls(const { &ModelCalls::<M> { begin: begin::<S, M>, keep: keep::<S, M> } })
    }
}

impl<S: Signal> ErasedEntry for AnyEntry<S> {
    fn calls(&self) -> Calls<'_> {
        Calls::Any(self)
    }
}

/// Calls a receiver of this signal and sender.
pub(crate) fn begin_typed<'a, S: Signal, M: Send + Sync + 'static>(
    to: &ErasedReceiver,
    event: S::Event<'a, M>,
    cx: Context<'a, '_>,
) -> Started<'a> {
    to.get::<Entry<S, M>>().expect(ASKED).call.begin(event, cx)
}

fn begin<'a, S: Signal, M: Send + Sync + 'static>(
    to: &ErasedReceiver,
    rows: &'a mut [M],
    fields: Fields<'a, M>,
    event: &RowEvent,
    cx: Context<'a, '_>,
) -> Started<'a> {
    begin_typed::<S, M>(to, S::of_mut(rows, fields, event).expect(ASKED), cx)
}

/// Copies the event, if the receiver runs after the transaction has ended.
fn keep<S: Signal, M: Send + Sync + 'static>(
    to: &ErasedReceiver,
    rows: &[M],
    fields: Fields<'_, M>,
    event: &RowEvent,
    complete: Complete<'_, M>,
) -> Option<Box<dyn KeptEvent>> {
    let keep = to.get::<Entry<S, M>>()?.keep?;
    let mut kept = keep(&S::of(rows, fields, event)?);
    complete(S::rows_mut(&mut kept));
    Some(Box::new(KeptTyped::<S, M>(kept)))
}

struct KeptTyped<S: Signal, M: Send + Sync + 'static>(S::Kept<M>);

impl<S: Signal, M: Send + Sync + 'static> KeptEvent for KeptTyped<S, M> {
    fn begin<'a>(&'a self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        begin_typed::<S, M>(to, S::replay(&self.0), cx)
    }
}

impl<S: Signal> AnyModelCalls for AnyEntry<S> {
    fn begin<'a>(
        &self,
        rows: &'a mut dyn Rows,
        event: &RowEvent,
        cx: Context<'a, '_>,
    ) -> Started<'a> {
        self.call.begin(S::of_any(rows, event).expect(ASKED), cx)
    }

    fn keep(&self, rows: &dyn Rows, event: &RowEvent) -> Option<Box<dyn KeptEvent>> {
        Some(Box::new(KeptAny::<S>(S::snapshot(rows, event)?)))
    }
}

struct KeptAny<S: Signal>(S::Kept<Snapshot>);

impl<S: Signal> KeptEvent for KeptAny<S> {
    fn begin<'a>(&'a self, to: &ErasedReceiver, cx: Context<'a, '_>) -> Started<'a> {
        to.get::<AnyEntry<S>>().expect(ASKED).call.begin(S::replay_any(&self.0), cx)
    }
}
