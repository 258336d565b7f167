//! The values that are added with `Db::with`, which receivers take as `State`.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

/// The values of a [`Db`](crate::Db), as a linked list with the newest first. Clones of a `Db` share it.
#[derive(Clone, Default)]
pub(crate) struct Layers(Option<Arc<Layer>>);

struct Layer {
    value: Box<dyn Any + Send + Sync>,
    below: Layers,
}

impl Layers {
    pub(crate) fn with<T: Send + Sync + 'static>(&self, value: T) -> Self {
        Self(Some(Arc::new(Layer { value: Box::new(value), below: self.clone() })))
    }

    pub(crate) fn get<T: 'static>(&self) -> Option<&T> {
        self.values().find_map(|value| value.downcast_ref())
    }

    pub(crate) fn has(&self, ty: TypeId) -> bool {
        self.values().any(|value| value.type_id() == ty)
    }

    fn values(&self) -> impl Iterator<Item = &(dyn Any + Send + Sync)> {
        let layers = std::iter::successors(self.0.as_deref(), |layer| layer.below.0.as_deref());
        layers.map(|layer| &*layer.value)
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.values().count())
    }
}
