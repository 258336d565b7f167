//! Implements [`AnyModel`] for every model.

use std::any::Any;
use std::fmt;

use serde_json::Value;

use crate::model::Model;
use crate::table::any::AnyModel;

impl<M: Model> AnyModel for M {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn table(&self) -> &'static str {
        M::TABLE
    }

    fn key(&self) -> Option<String> {
        key_text(&self.pk()?)
    }

    fn columns(&self) -> &'static [&'static str] {
        M::COLUMNS
    }

    fn to_json(&self) -> Option<Value> {
        self.__json()
    }
}

/// A separate function so that it is compiled once per key type instead of once per model.
fn key_text<K: Any + fmt::Debug>(key: &K) -> Option<String> {
    let text = (key as &dyn Any).downcast_ref::<String>();
    Some(text.cloned().unwrap_or_else(|| format!("{key:?}")))
}

impl dyn AnyModel {
    /// The row as a `&M`, or `None` if it is a row of another model.
    ///
    /// A receiver that runs after the transaction gets a copy of what the other methods return, not the row itself, so there
    /// this method returns `None`.
    pub fn downcast_ref<M: Model>(&self) -> Option<&M> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
}
