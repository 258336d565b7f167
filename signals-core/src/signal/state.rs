//! The parameter `State`: a value of the program.

use std::any::{TypeId, type_name};

use crate::database::db::Db;
use crate::error::BoxError;
use crate::error::missing_state::MissingState;
use crate::signal::parameter::{Context, Parameter};
use crate::task::info::Asks;

/// A value of the program that was added with [`Db::with`](crate::Db::with): a parameter for receivers, in any phase.
///
/// A receiver gets a clone of the value with the type `T` that was added last. If there is none, the save returns an error that names
/// the receiver and the type. [`Db::check`](crate::Db::check) finds this at start-up.
///
/// The parameter is modeled on [`State` of axum](https://docs.rs/axum/latest/axum/extract/struct.State.html).
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
/// let db_of_request = db.with(CurrentUser(7));
/// City { id: None, name: "Ulm".into() }.save(&db_of_request).await?; // prints "user 7 saved Ulm"
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State<T>(pub T);

impl<'a, 'c, P, T: Clone + Send + Sync + 'static> Parameter<'a, 'c, P> for State<T> {
    const ASKS: Asks = Asks::State { id: TypeId::of::<T>(), name: type_name::<T> };

    fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
        let ty = type_name::<T>();
        match cx.state::<T>() {
            Some(value) => Ok(Self(value.clone())),
            None => Err(Box::new(missing(cx.db, ty))),
        }
    }
}

/// The error for a `Db` that has no value of this type.
pub(crate) fn missing(db: Option<&Db>, ty: &'static str) -> MissingState {
    let has_values = |db: &Db| !db.is_for_one_call() || Db::default_of(db.kind()).is_some();
    MissingState { ty, has_db: db.is_some_and(has_values) }
}
