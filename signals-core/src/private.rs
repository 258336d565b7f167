//! The items that the expansions of the macros name. Programs must not use them: they change without notice.

// Types of the standard library too, because the program may have its own type with such a name.
pub use std::boxed::Box;
pub use std::clone::Clone;
pub use std::option::Option::{self, Some};
pub use std::primitive::{bool, i64, str, usize};
pub use std::result::Result::Ok;

pub use inventory;
pub use serde_json::Value;
pub use sqlx::error::BoxDynError;
pub use sqlx::{Arguments, ColumnIndex, Database, Error, FromRow, Row};

pub use crate::table::any::Probe;
pub use std::time::SystemTime;

pub use crate::database::backend::{AnyRow, Backend};
pub use crate::database::backend::{Bindable, Field, Take};
pub use crate::database::source::Source;
#[cfg(feature = "durable")]
pub use crate::durable::carry::{CarriedBy, CarriedParameter};
#[cfg(feature = "durable")]
pub use crate::durable::event_form::{EventForm, OrderingKey};
#[cfg(feature = "durable")]
pub use crate::durable::inbox::{KeptMessage, Subscription, take_kept};
pub use crate::model::belongs_to::BelongsTo;
pub use crate::model::registered::{Copier, CopyOf, KeyColumn, StoredIn, is_key_of};
pub use crate::model::store::{Any, Only, Places, Route, Store, by_name};
pub use crate::signal::entry::{AnyEntry, Entry, Registration};
pub use crate::signal::no_signal::{SelectSignal, SignalCheck, SignalOf, has_sender, is_signal};
pub use crate::signal::parameter::{Context as Cx, DurablePhase, ParameterAsks, SelectPhase};
pub use crate::signal::previous::PreviousOf;
pub use crate::signal::receivers::{ReceiverCache as Table, SignalTable};
pub use crate::signal::relation::{OnDelete, RegisteredModel as Linked, Relation};
pub use crate::table::automatic::{AutoNow, Version};
pub use crate::table::field::{Asked, Slot, Storable, Stores, first_message, give_key, no_column};
pub use crate::table::json_column::JsonColumn;
pub use crate::table::schema::{ColumnRole as Role, ColumnSpec, RoleSet, Schema as Statements};
pub use crate::task::info::{Asks, DurableOptions, Info};
pub use crate::{Column, CustomSignal, Model, Outcome, Parameter, Phase, Receiver, Signal, phase};
#[cfg(feature = "durable")]
pub use crate::{post_delete, post_save};

/// The default answers to questions about types, such as whether a type is `Clone`: constants and methods of traits that are implemented
/// for every type. A type with another answer has an inherent item of the same name, which takes precedence.
pub mod defaults {
    #[cfg(feature = "durable")]
    pub use crate::durable::carry::NotCarried as _;
    pub use crate::model::registered::{NotCloned as _, NotStored as _};
    pub use crate::signal::no_signal::NotSignal as _;
    pub use crate::signal::parameter::NotParameter as _;
    pub use crate::signal::previous::NotPreviousOf as _;
    pub use crate::table::any::{Serialized as _, Unserialized as _};
    pub use crate::table::field::NotStorable as _;
}

/// The result of giving values to a statement.
pub type Given = Result<(), BoxDynError>;

/// The result of reading values from a row.
pub type Loaded<T> = Result<T, Error>;

/// A column whose type all enabled databases can store.
pub type Known = Slot<true>;

/// Reads the value of a column from a row.
///
/// # Errors
///
/// If the value cannot be decoded.
pub fn get<DB: Backend, S: Stores<T, DB>, T>(row: &DB::Row, at: usize) -> Loaded<T> {
    S::get(row, at)
}

/// Gives the value of a field to a statement.
///
/// # Errors
///
/// The error of `take`.
pub fn give<DB: Backend, S: Stores<T, DB>, T>(value: &T, take: Take<'_, DB>) -> Given {
    S::give(value, take)
}

/// Answers a question about the type of a column.
pub fn asked<DB: Backend, S: Stores<T, DB>, T>(asked: Asked<'_>) -> bool {
    S::asked(asked)
}

/// What a receiver returns to the dispatcher.
pub type Returned = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The future of a receiver.
pub type Called<'a> = futures_util::future::BoxFuture<'a, Returned>;

/// Returns the value of a receiver's parameter in the phase `P`.
///
/// # Errors
///
/// If this write cannot provide the parameter.
pub fn take<'a, 'c, P, T: Parameter<'a, 'c, P>>(
    cx: &mut Cx<'a, 'c>,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    T::take(cx)
}

/// The name of a column of the model `M`.
pub const fn column<M>(column: Column<M>) -> &'static str {
    column.name()
}

/// The identity of a receiver.
pub const fn receiver<R: Receiver>() -> std::any::TypeId {
    std::any::TypeId::of::<R>()
}

/// Converts the return value of a receiver.
///
/// # Errors
///
/// The error of the receiver.
pub fn returned<T: Outcome>(outcome: T) -> Returned {
    outcome.into_result()
}
