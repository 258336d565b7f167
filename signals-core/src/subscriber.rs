//! Receivers without the types of their signal and sender: what runs them is written, and compiled, once.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::any::{AnyModel, Snapshot};
use crate::error::BoxError;
use crate::parameter::Cx;
use crate::receiver::{AnyEntry, Entry, Info};
use crate::signal::{Signal, Subject};

/// A receiver, as whoever sends finds it.
#[derive(Clone)]
pub(crate) struct Subscriber {
    pub(crate) info: &'static Info,
    entry: Registered,
}

/// An `Entry<S, M>` of the signal and the sender, or an `AnyEntry<S>`.
#[derive(Clone)]
pub(crate) enum Registered {
    Linked(&'static (dyn Any + Send + Sync)),
    Connected(Arc<dyn Any + Send + Sync>),
}

impl Subscriber {
    pub(crate) fn new(info: &'static Info, entry: Registered) -> Self {
        Self { info, entry }
    }

    fn get<E: 'static>(&self) -> Option<&E> {
        match &self.entry {
            Registered::Linked(entry) => entry.downcast_ref(),
            Registered::Connected(entry) => entry.downcast_ref(),
        }
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// A receiver that has run, or one that runs.
pub(crate) enum Begun<'a> {
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
pub(crate) trait Kept: Send + Sync {
    /// Begins one of those that it was kept for.
    fn begin<'a>(&'a self, to: &Subscriber, cx: Cx<'a, '_>) -> Begun<'a>;
}

/// Begins a receiver of a model's signal, or of every model's.
pub(crate) fn begin<'a, S: Signal, M: AnyModel>(
    to: &Subscriber,
    event: S::Event<'a, M>,
    cx: Cx<'a, '_>,
) -> Begun<'a> {
    match to.get::<AnyEntry<S>>() {
        Some(any) => any.call.begin(S::erase(event, PhantomData), cx),
        None => begin_own::<S, M>(to, event, cx),
    }
}

/// Begins a receiver of this signal and sender.
pub(crate) fn begin_own<'a, S: Signal, M: Subject + Sized>(
    to: &Subscriber,
    event: S::Event<'a, M>,
    cx: Cx<'a, '_>,
) -> Begun<'a> {
    let own = to.get::<Entry<S, M>>().expect("a receiver is asked for by its signal and sender");
    own.call.begin(event, cx)
}

/// Keeps the event of a model's signal for these receivers.
pub(crate) fn keep<S: Signal, M: AnyModel>(
    to: &[&Subscriber],
    event: &S::Event<'_, M>,
) -> Option<Box<dyn Kept>> {
    let own = to.iter().find_map(|to| to.get::<Entry<S, M>>()?.keep);
    let own = own.map(|keep| keep(event));
    let for_any = to.iter().any(|to| to.get::<AnyEntry<S>>().is_some());
    let snapshot = if for_any { S::snapshot::<M>(event) } else { None };
    let kept = own.is_some() || snapshot.is_some();
    kept.then(|| Box::new(Both::<S, M> { own, snapshot }) as _)
}

struct Both<S: Signal, M: Send + Sync + 'static> {
    own: Option<S::Kept<M>>,
    /// For those of every model.
    snapshot: Option<S::Kept<Snapshot>>,
}

impl<S: Signal, M: AnyModel> Kept for Both<S, M> {
    fn begin<'a>(&'a self, to: &Subscriber, cx: Cx<'a, '_>) -> Begun<'a> {
        let kept = "an event is kept for those who wait for it";
        let Some(any) = to.get::<AnyEntry<S>>() else {
            let event = S::replay::<M>(self.own.as_ref().expect(kept));
            return begin_own::<S, M>(to, event, cx);
        };
        let event = S::replay::<Snapshot>(self.snapshot.as_ref().expect(kept));
        any.call.begin(S::erase::<Snapshot>(event, PhantomData), cx)
    }
}
