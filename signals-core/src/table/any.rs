//! Rows whose model is not known at compile time.

use std::any::Any;
use std::fmt;

use serde_json::Value;

use crate::table::column::Column;

/// A row of any model, for receivers that do not name a sender.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::AnyModel;
///
/// # #[derive(Model)] struct User { id: Option<i64> }
/// #[receiver(post_save)]
/// async fn log(saved: PostSave<'_, dyn AnyModel>) {
///     let row = saved.instance;
///     println!("{} {} in {}", row.name(), row.key().unwrap_or_default(), row.table());
///     if let Some(user) = row.downcast_ref::<User>() {
///         println!("a user: {:?}", user.id);
///     }
/// }
/// ```
pub trait AnyModel: Any + Send + Sync {
    /// The name of the model.
    ///
    /// See the example of [`AnyModel`].
    fn name(&self) -> &'static str;

    /// The name of the table.
    ///
    /// See the example of [`AnyModel`].
    fn table(&self) -> &'static str;

    /// The primary key as text, or `None` if the row has no key yet. A composite key is formatted as `Debug` formats a tuple.
    ///
    /// See the example of [`AnyModel`].
    fn key(&self) -> Option<String>;

    /// The names of the columns, in the order of the fields.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// let city = City { id: None, name: "Ulm".into() };
    /// let row: &dyn AnyModel = &city;
    /// assert_eq!(row.columns(), ["id", "name"]);
    /// assert_eq!(row.key(), None);
    /// ```
    fn columns(&self) -> &'static [&'static str];

    /// The row as JSON, or `None` if the model does not implement `serde::Serialize`.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// #[derive(Model, serde::Serialize)]
    /// struct City { id: Option<i64>, name: String }
    ///
    /// let city = City { id: Some(7), name: "Ulm".into() };
    /// let row: &dyn AnyModel = &city;
    /// assert_eq!(row.to_json(), Some(serde_json::json!({ "id": 7, "name": "Ulm" })));
    /// ```
    fn to_json(&self) -> Option<Value>;
}

impl fmt::Debug for dyn AnyModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.key().unwrap_or_default())
    }
}

/// Rows of one model without its type, by their indexes in the caller's slice.
#[allow(unreachable_pub)]
pub trait AnyRows: Send + Sync {
    fn at(&self, index: usize) -> &dyn AnyModel;

    /// The columns of a partial save, as receivers of every model see them.
    fn any_fields(&self) -> Option<&[Column<dyn AnyModel>]>;

    /// A row, and the columns of [`any_fields`](Self::any_fields).
    fn at_mut(&mut self, index: usize) -> (&mut dyn AnyModel, Option<&[Column<dyn AnyModel>]>);
}

/// What the methods of [`AnyModel`] return for a row. It replaces the row if the row has to be kept but its type may not be
/// `Clone`.
#[derive(Debug)]
pub(crate) struct Snapshot {
    name: &'static str,
    table: &'static str,
    key: Option<String>,
    columns: &'static [&'static str],
    json: Option<Value>,
}

impl Snapshot {
    #[cfg(feature = "durable")]
    pub(crate) fn new(
        name: &'static str,
        table: &'static str,
        key: Option<String>,
        columns: &'static [&'static str],
        json: Option<Value>,
    ) -> Self {
        Self { name, table, key, columns, json }
    }

    pub(crate) fn of(row: &dyn AnyModel) -> Self {
        Self {
            name: row.name(),
            table: row.table(),
            key: row.key(),
            columns: row.columns(),
            json: row.to_json(),
        }
    }
}

impl AnyModel for Snapshot {
    fn name(&self) -> &'static str {
        self.name
    }

    fn table(&self) -> &'static str {
        self.table
    }

    fn key(&self) -> Option<String> {
        self.key.clone()
    }

    fn columns(&self) -> &'static [&'static str] {
        self.columns
    }

    fn to_json(&self) -> Option<Value> {
        self.json.clone()
    }
}

/// Converts a row to JSON if its type is `Serialize`, for the expansion of the derive. Method resolution tries [`Serialized`],
/// implemented for `Probe`, before [`Unserialized`], implemented for `&Probe`. Traits of the program take part in it too, so the name of the
/// method is one that none of them has.
#[derive(Debug)]
pub struct Probe<'p, T>(pub &'p T);

/// Implemented for a `Probe` of a type that is `Serialize`.
pub trait Serialized {
    #[doc(hidden)]
    fn __signals_json(&self) -> Option<Value>;
}

impl<T: serde::Serialize> Serialized for Probe<'_, T> {
    fn __signals_json(&self) -> Option<Value> {
        serde_json::to_value(self.0).ok()
    }
}

/// Implemented for a `Probe` of every type.
pub trait Unserialized {
    #[doc(hidden)]
    fn __signals_json(&self) -> Option<Value> {
        None
    }
}

impl<T> Unserialized for &Probe<'_, T> {}
