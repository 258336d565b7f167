//! What the expansions of the macros name. Not for anybody else: it changes without notice.

pub use std::boxed::Box;
pub use std::clone::Clone;
pub use std::option::Option::{self, Some};
pub use std::result::Result::Ok;

pub use inventory;
pub use serde_json::Value;
pub use sqlx::error::BoxDynError;
pub use sqlx::{Arguments, ColumnIndex, Database, Error, FromRow, Row};

pub use crate::any::{Probe, Serialized, Unserialized};
pub use std::time::SystemTime;

pub use crate::automatic::{AutoNow, Version};
pub use crate::backend::{AnyRow, Backend, add};
pub use crate::cascade::{OnDelete, is_key_of};
pub use crate::executor::Source;
pub use crate::linked::{Copier, CopyOf, Linked, NotCloned, NotStored, Relation, StoredIn};
pub use crate::parameter::Cx;
pub use crate::receiver::{AnyEntry, Entry, Info, Registration};
pub use crate::statements::{ColumnSpec, Role, Statements};
pub use crate::store::{
    Any, Bindable, Field, Only, Places, Route, Store, Take, by_name, fits, give_key, no_column,
};
pub use crate::table::{SignalTable, Table};
pub use crate::{Column, CustomSignal, Model, Outcome, Parameter, Phase, Receiver, Signal, phase};

#[cfg(feature = "json")]
pub use sqlx::types::Json;

/// What `#[model(json)]` finds where the feature `json` is off: a type that is no column.
#[cfg(not(feature = "json"))]
#[derive(Debug)]
pub struct Json<T>(pub T);

/// What becomes of values on their way into a statement.
pub type Given = Result<(), BoxDynError>;

/// What becomes of values that come out of a row.
pub type Loaded<T> = Result<T, Error>;

/// The value in a column of a row.
///
/// # Errors
///
/// Where there is no such column, or its type is another.
pub fn get<'r, DB, T>(row: &'r DB::Row, at: Loaded<usize>) -> Loaded<T>
where
    DB: Backend,
    T: sqlx::Decode<'r, DB> + sqlx::Type<DB>,
{
    DB::get(row, at?)
}

/// What a receiver returns to the dispatcher.
pub type Returned = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A receiver under way.
pub type Called<'a> = futures_util::future::BoxFuture<'a, Returned>;

/// The next parameter of a receiver in the phase `P`.
///
/// # Errors
///
/// Where this save cannot give it.
pub fn take<'a, 'c, P, T: Parameter<'a, 'c, P>>(
    cx: &mut Cx<'a, 'c>,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    T::take(cx)
}

/// What a receiver is known by.
pub const fn receiver<R: Receiver>() -> std::any::TypeId {
    std::any::TypeId::of::<R>()
}

/// What a receiver returned.
///
/// # Errors
///
/// The receiver's own.
pub fn returned<T: Outcome>(outcome: T) -> Returned {
    outcome.into_result()
}
