//! Receivers without the types of their signal and sender: what runs them is written, and compiled, once.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::any::Snapshot;
use crate::column::Column;
use crate::error::BoxError;
use crate::instances::{Instances, Told};
use crate::parameter::Cx;
use crate::receiver::{AnyEntry, Entry, Identity};
use crate::signal::Signal;

/// A receiver, as whoever sends finds it.
#[derive(Clone)]
#[allow(unreachable_pub)]
pub struct Subscriber {
    pub(crate) info: Identity,
    entry: Registered,
}

#[derive(Clone)]
pub(crate) enum Registered {
    Linked(&'static dyn Callee),
    Connected(Arc<dyn Callee>),
}

/// What is registered: an [`Entry`] of a signal and a sender, or an [`AnyEntry`] of a signal.
pub trait Callee: Any + Send + Sync {
    #[doc(hidden)]
    fn calls(&self) -> Calls<'_>;
}

/// How a receiver is called.
#[allow(unreachable_pub)]
pub enum Calls<'r> {
    /// An `Own<M>` of its sender.
    Own(&'static (dyn Any + Send + Sync)),
    Any(&'r dyn OfAny),
}

/// How receivers of one model are called, whatever their signal.
///
/// Who is registered brings this along, so that a program has the code of a signal from a model only where somebody receives
/// it.
pub(crate) struct Own<M> {
    pub(crate) begin: BeginOwn<M>,
    pub(crate) keep: KeepOwn<M>,
}

type Fields<'e, M> = Option<&'e [Column<M>]>;
type BeginOwn<M> =
    for<'a, 'c> fn(&Subscriber, &'a mut [M], Fields<'a, M>, &Told, Cx<'a, 'c>) -> Begun<'a>;
type KeepOwn<M> =
    fn(&Subscriber, &[M], Fields<'_, M>, &Told, Complete<'_, M>) -> Option<Box<dyn Kept>>;

/// Completes copies of rows.
pub(crate) type Complete<'c, M> = &'c dyn Fn(&mut [M]);

/// How receivers of every model are called.
#[allow(unreachable_pub)]
pub trait OfAny {
    #[doc(hidden)]
    fn begin<'a>(&self, rows: &'a mut dyn Instances, told: &Told, cx: Cx<'a, '_>) -> Begun<'a>;

    #[doc(hidden)]
    fn keep(&self, rows: &dyn Instances, told: &Told) -> Option<Box<dyn Kept>>;
}

impl Subscriber {
    pub(crate) fn new(info: Identity, entry: Registered) -> Self {
        Self { info, entry }
    }

    fn entry(&self) -> &dyn Callee {
        match &self.entry {
            Registered::Linked(entry) => *entry,
            Registered::Connected(entry) => &**entry,
        }
    }

    fn get<E: 'static>(&self) -> Option<&E> {
        let entry: &dyn Any = self.entry();
        entry.downcast_ref()
    }

    /// Of one that hears of every model.
    pub(crate) fn any(&self) -> Option<&dyn OfAny> {
        match self.entry().calls() {
            Calls::Own(_) => None,
            Calls::Any(any) => Some(any),
        }
    }

    /// Of one that hears of this model.
    pub(crate) fn own<M: 'static>(&self) -> &'static Own<M> {
        self.own_any().downcast_ref().expect(ASKED)
    }

    #[inline(never)]
    fn own_any(&self) -> &'static (dyn Any + Send + Sync) {
        match self.entry().calls() {
            Calls::Own(own) => own,
            Calls::Any(_) => &(),
        }
    }
}

const ASKED: &str = "a receiver is asked for by its signal and sender";

impl fmt::Debug for dyn Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callee")
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// A receiver that has run, or one that runs.
#[allow(unreachable_pub)]
pub enum Begun<'a> {
    Done(Result<(), BoxError>),
    Future(BoxFuture<'a, Result<(), BoxError>>),
}

/// What receivers are told.
pub(crate) trait Event: Send + Sync {
    /// Whether it is about a row that is new, where it can tell.
    fn created(&self) -> Option<bool> {
        None
    }

    fn begin<'a>(&'a mut self, to: &Subscriber, cx: Cx<'a, '_>) -> Begun<'a>;

    /// Keeps it until the transaction has ended, for these.
    fn keep(&self, to: &[&Subscriber]) -> Option<Box<dyn Kept>>;
}

/// An event that is kept.
#[allow(unreachable_pub)]
pub trait Kept: Send + Sync {
    /// Begins one of those that it was kept for.
    fn begin<'a>(&'a self, to: &Subscriber, cx: Cx<'a, '_>) -> Begun<'a>;
}

impl<S: Signal, M: Send + Sync + 'static> Callee for Entry<S, M> {
    fn calls(&self) -> Calls<'_> {
        Calls::Own(const { &Own::<M> { begin: begin::<S, M>, keep: keep::<S, M> } })
    }
}

impl<S: Signal> Callee for AnyEntry<S> {
    fn calls(&self) -> Calls<'_> {
        Calls::Any(self)
    }
}

/// Begins a receiver of this signal and sender.
pub(crate) fn begin_own<'a, S: Signal, M: Send + Sync + 'static>(
    to: &Subscriber,
    event: S::Event<'a, M>,
    cx: Cx<'a, '_>,
) -> Begun<'a> {
    to.get::<Entry<S, M>>().expect(ASKED).call.begin(event, cx)
}

fn begin<'a, S: Signal, M: Send + Sync + 'static>(
    to: &Subscriber,
    rows: &'a mut [M],
    fields: Fields<'a, M>,
    told: &Told,
    cx: Cx<'a, '_>,
) -> Begun<'a> {
    begin_own::<S, M>(to, S::of_mut(rows, fields, told).expect(ASKED), cx)
}

/// Keeps the event, where the receiver waits for the end of the transaction.
fn keep<S: Signal, M: Send + Sync + 'static>(
    to: &Subscriber,
    rows: &[M],
    fields: Fields<'_, M>,
    told: &Told,
    complete: Complete<'_, M>,
) -> Option<Box<dyn Kept>> {
    let keep = to.get::<Entry<S, M>>()?.keep?;
    let mut kept = keep(&S::of(rows, fields, told)?);
    complete(S::rows_mut(&mut kept));
    Some(Box::new(KeptOwn::<S, M>(kept)))
}

struct KeptOwn<S: Signal, M: Send + Sync + 'static>(S::Kept<M>);

impl<S: Signal, M: Send + Sync + 'static> Kept for KeptOwn<S, M> {
    fn begin<'a>(&'a self, to: &Subscriber, cx: Cx<'a, '_>) -> Begun<'a> {
        begin_own::<S, M>(to, S::replay(&self.0), cx)
    }
}

impl<S: Signal> OfAny for AnyEntry<S> {
    fn begin<'a>(&self, rows: &'a mut dyn Instances, told: &Told, cx: Cx<'a, '_>) -> Begun<'a> {
        self.call.begin(S::of_any(rows, told).expect(ASKED), cx)
    }

    fn keep(&self, rows: &dyn Instances, told: &Told) -> Option<Box<dyn Kept>> {
        Some(Box::new(KeptAny::<S>(S::snapshot(rows, told)?)))
    }
}

struct KeptAny<S: Signal>(S::Kept<Snapshot>);

impl<S: Signal> Kept for KeptAny<S> {
    fn begin<'a>(&'a self, to: &Subscriber, cx: Cx<'a, '_>) -> Begun<'a> {
        to.get::<AnyEntry<S>>().expect(ASKED).call.begin(S::replay_any(&self.0), cx)
    }
}

/// An event that is kept for receivers of its model and for those of every model.
pub(crate) struct Both {
    pub(crate) own: Box<dyn Kept>,
    pub(crate) any: Box<dyn Kept>,
}

impl Kept for Both {
    fn begin<'a>(&'a self, to: &Subscriber, cx: Cx<'a, '_>) -> Begun<'a> {
        if to.any().is_some() { self.any.begin(to, cx) } else { self.own.begin(to, cx) }
    }
}
