//! A row of any model, seen through [`AnyModel`].

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
        text(&self.pk()?)
    }

    fn columns(&self) -> &'static [&'static str] {
        M::COLUMNS
    }

    fn to_json(&self) -> Option<Value> {
        self.__json()
    }
}

/// Apart, so that it is compiled for each type of key and not for each model.
fn text<K: Any + fmt::Debug>(key: &K) -> Option<String> {
    let text = (key as &dyn Any).downcast_ref::<String>();
    Some(text.cloned().unwrap_or_else(|| format!("{key:?}")))
}

impl dyn AnyModel {
    /// The row itself, where it is of this model. A receiver that waits for the end of the transaction has a copy of what
    /// the other methods tell, and not the row.
    pub fn downcast_ref<M: Model>(&self) -> Option<&M> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
}
