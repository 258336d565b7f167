use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::Arc;

use crate::error::BoxError;
use crate::parameter::{Cx, Parameter};

/// A value that was given with [`Db::with`](crate::Db::with), as a receiver takes it, in any phase.
///
/// The newest value of a type wins. Where there is none, the save is an error that names receiver and type;
/// [`Db::check`](crate::Db::check) finds that at start-up. The idea is
/// [axum's](https://docs.rs/axum/latest/axum/extract/struct.State.html).
///
/// ```standalone_crate
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::State;
///
/// #[derive(Clone)]
/// struct CurrentUser(i64);
///
/// # #[derive(Model, Clone)]
/// # struct City { id: Option<i64>, name: String }
/// #[receiver(post_save, sender = City)]
/// fn audit(saved: PostSave<'_, City>, State(user): State<CurrentUser>) {
///     println!("user {} saved {}", user.0, saved.instance.name);
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// let db = Db::connect("sqlite::memory:").await?.with(CurrentUser(0));
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// db.check().await?;
/// let of_request = db.with(CurrentUser(7));
/// City { id: None, name: "Ulm".into() }.save(&of_request).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State<T>(pub T);

/// The values of a [`Db`](crate::Db), the newest first.
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

/// A type that a receiver takes as its state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StateType {
    pub(crate) id: TypeId,
    pub(crate) name: &'static str,
}

impl<'a, 'c, P, T: Clone + Send + Sync + 'static> Parameter<'a, 'c, P> for State<T> {
    fn take(cx: &mut Cx<'a, 'c>) -> Result<Self, BoxError> {
        let ty = type_name::<T>();
        if let Some(asked) = &mut cx.asked {
            asked.states.push(StateType { id: TypeId::of::<T>(), name: ty });
        }
        match cx.state::<T>() {
            Some(value) => Ok(Self(value.clone())),
            None => Err(Box::new(NoState { ty, has_db: cx.db.is_some() })),
        }
    }
}

/// A receiver takes a state that is not there. `{}` has the type without paths, `{:#}` with them.
#[derive(Debug)]
pub(crate) struct NoState {
    ty: &'static str,
    has_db: bool,
}

impl fmt::Display for NoState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = if f.alternate() { self.ty.to_owned() } else { without_paths(self.ty) };
        match self.has_db {
            true => write!(f, "there is no state `{ty}`: give it with `db.with(…)`"),
            false => write!(f, "it takes a `State<{ty}>`, and the save went through no `Db`"),
        }
    }
}

impl std::error::Error for NoState {}

/// The name of a type, in which each path is its last segment.
fn without_paths(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    let mut parts = name.split("::").peekable();
    while let Some(part) = parts.next() {
        // What stands before `::` is an identifier at the end of the part.
        let is_identifier = |c: char| c.is_alphanumeric() || matches!(c, '_' | '{' | '}' | '#');
        let kept = if parts.peek().is_some() { part.trim_end_matches(is_identifier) } else { part };
        short.push_str(kept);
    }
    short
}
