//! The signal with which a receiver is compiled if it names a type that is not a signal, so that it causes one error.

use std::marker::PhantomData;

use crate::signal::entry::AnyEntry;
use crate::signal::previous::HasPrevious;
use crate::signal::rows::{AnyEventRows, EventRows};
use crate::signal::{Deferrable, HasSender, Signal, Subject, TellsChange, TellsNetChange};
use crate::table::any::AnyModel;

/// Checks at compile time that a type is a signal.
pub const fn is_signal<S: Signal>() {}

/// Checks at compile time that the receivers of a signal can name a sender.
pub const fn has_sender<S: HasSender>() {}

/// Detects at compile time whether a type is a signal: the inherent constant exists only for signals; for other types, the constant
/// of [`NotSignal`] is found instead.
pub struct SignalCheck<T>(PhantomData<T>);

/// The default of [`SignalCheck`], implemented for every type.
pub trait NotSignal {
    /// The type is not a signal.
    const IS_SIGNAL: bool = false;
    /// The type is not a signal whose receivers can name a sender.
    const HAS_SENDER: bool = false;
}

impl<T> NotSignal for SignalCheck<T> {}

impl<S: Signal> SignalCheck<S> {
    /// The type is a signal.
    pub const IS_SIGNAL: bool = true;
}

impl<S: HasSender> SignalCheck<S> {
    /// The receivers of the signal can name a sender.
    pub const HAS_SENDER: bool = true;
}

/// Selects the signal of a receiver. `IS_SIGNAL` is whether the type that it names is a signal, with a sender if the receiver names one.
pub struct SignalOf<const IS_SIGNAL: bool>;

/// See [`SignalOf`].
pub trait SelectSignal<T> {
    /// `T`, or else a signal that accepts every option.
    type Signal: Signal;
}

impl<S: Signal> SelectSignal<S> for SignalOf<true> {
    type Signal = S;
}

impl<T> SelectSignal<T> for SignalOf<false> {
    type Signal = NoSignal;
}

/// Stands for a type that is not a signal. It has every option of a receiver, and its event can be passed to every function.
pub struct NoSignal;

/// The return type of a function. `fn() -> !` is the only way to name the type `!`, which coerces to any type.
pub trait Return {
    /// The type.
    type Type;
}

impl<T> Return for fn() -> T {
    type Type = T;
}

type Never = <fn() -> ! as Return>::Type;

#[diagnostic::do_not_recommend]
impl Signal for NoSignal {
    const NAME: &'static str = "";
    type Event<'e, M: ?Sized + Subject + 'static> = Never;
    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn of<'e, M: Send + Sync + 'static>(_: EventRows<'e, M>) -> Never {
        unreachable!("the build has failed at this receiver")
    }

    fn of_any(_: AnyEventRows<'_>) -> Never {
        unreachable!("the build has failed at this receiver")
    }
}

#[diagnostic::do_not_recommend]
impl HasSender for NoSignal {}

#[diagnostic::do_not_recommend]
impl Deferrable for NoSignal {}

#[diagnostic::do_not_recommend]
impl TellsChange for NoSignal {}

#[diagnostic::do_not_recommend]
impl TellsNetChange for NoSignal {}

#[diagnostic::do_not_recommend]
impl HasPrevious for NoSignal {}
