use std::any::Any;
use std::fmt;

use serde_json::Value;

/// A row of whatever model, for receivers that name no sender.
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
    fn name(&self) -> &'static str;

    /// The table.
    fn table(&self) -> &'static str;

    /// The key as text, where the row has one: a composite key as `Debug` writes a tuple.
    fn key(&self) -> Option<String>;

    /// The columns, in the order of the fields.
    fn columns(&self) -> &'static [&'static str];

    /// The row as JSON, where the model is `serde::Serialize`.
    fn to_json(&self) -> Option<Value>;
}

impl fmt::Debug for dyn AnyModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.key().unwrap_or_default())
    }
}

/// What is kept of a row whose type may not be one that can be copied.
#[derive(Debug)]
pub struct Snapshot {
    name: &'static str,
    table: &'static str,
    key: Option<String>,
    columns: &'static [&'static str],
    json: Option<Value>,
}

impl Snapshot {
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

/// A row, of which the expansion of a derive asks whether it can be serialized: the compiler takes the first of the two
/// traits below that fits, and the second one fits everything, one reference later.
#[derive(Debug)]
pub struct Probe<'p, T>(pub &'p T);

/// Of what can be serialized.
pub trait Serialized {
    #[doc(hidden)]
    fn json(&self) -> Option<Value>;
}

impl<T: serde::Serialize> Serialized for Probe<'_, T> {
    fn json(&self) -> Option<Value> {
        serde_json::to_value(self.0).ok()
    }
}

/// Of everything.
pub trait Unserialized {
    #[doc(hidden)]
    fn json(&self) -> Option<Value> {
        None
    }
}

impl<T> Unserialized for &Probe<'_, T> {}
