//! The parameter `Previous`: the row as it was before the write.

use std::fmt;
use std::marker::PhantomData;

use crate::error::BoxError;
use crate::signal::parameter::{Context, Parameter, phase};
use crate::signal::{PostDelete, PostSave, post_delete, post_save};
use crate::table::any::AnyModel;
use crate::table::previous_row::PreviousRow;
use crate::task::info::Asks;

/// The row as it was in the database before the write: a parameter for receivers of [`post_save`](crate::post_save) and
/// [`post_delete`](crate::post_delete), in any phase.
///
/// The row is read in the transaction of the write, and only if a receiver of the model takes this parameter or has the option
/// `changed(…)`. On PostgreSQL, the UPDATE or DELETE itself returns the row, and takes the same locks as without such a receiver.
///
/// It is exactly the row that the write has replaced, even if other transactions write the row at the same time. A write that has
/// waited for another transaction is repeated with the row as that transaction has left it.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Previous;
///
/// #[derive(Model)]
/// struct Ticket { id: Option<i64>, title: String, state: String }
///
/// #[receiver(post_save, sender = Ticket)]
/// fn log(saved: PostSave<'_, Ticket>, previous: Previous<'_, Ticket>) {
///     if let (Some(before), true) = (previous.row(), previous.changed(Ticket::STATE)) {
///         println!("{} → {}", before.state, saved.instance.state);
///     }
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE ticket (id INTEGER PRIMARY KEY, title TEXT NOT NULL, state TEXT NOT NULL)").await?;
/// let mut ticket = Ticket { id: None, title: "Lamp".into(), state: "open".into() };
/// ticket.save(&db).await?;
/// ticket.state = "done".into();
/// ticket.save(&db).await?;          // prints "open → done"
/// # Ok(()) }
/// ```
///
/// A receiver of every model takes `Previous<'_, dyn AnyModel>`.
pub struct Previous<'a, M: ?Sized> {
    pub(crate) before: &'a PreviousRow,
    model: PhantomData<fn() -> &'a M>,
}

impl<'a> Previous<'a, dyn AnyModel> {
    /// The row before the write. `None` if the write has created the row.
    ///
    /// See the example of [`Previous`].
    pub fn row(&self) -> Option<&'a dyn AnyModel> {
        self.before.row()
    }

    /// Whether the write has changed the column of this name. If the row was created or deleted, every column has changed.
    ///
    /// See the example of [`Previous`].
    pub fn changed(&self, column: &str) -> bool {
        self.before.changed(column)
    }
}

impl<M: ?Sized> Clone for Previous<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: ?Sized> Copy for Previous<'_, M> {}

impl<M: ?Sized> fmt::Debug for Previous<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Previous").field(&self.before.row()).finish()
    }
}

macro_rules! in_every_phase {
    ($($phase:ident)*) => { $(
        impl<'a, 'c, S, M> Parameter<'a, 'c, phase::$phase<S>> for Previous<'a, M>
        where
            S: HasPrevious,
            M: ?Sized + 'static,
        {
            const ASKS: Asks = Asks::Previous;

            fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
                let missing = "the row before the write was not read";
                let before = cx.previous.ok_or(missing)?;
                Ok(Self { before, model: PhantomData })
            }
        }
    )* };
}

in_every_phase!(InTransaction OnCommit OnRollback Durable DurableWithConnection);

/// Detects at compile time whether the parameter `T` is the previous row of `M`: of the sender of a receiver, or of the model of its event.
/// The inherent constants exist only if it is; otherwise, the constants of [`NotPreviousOf`] are found instead.
#[doc(hidden)]
#[derive(Debug)]
pub struct PreviousOf<T, M: ?Sized>(PhantomData<fn() -> T>, PhantomData<fn() -> M>);

/// The defaults of [`PreviousOf`], implemented for every type.
#[doc(hidden)]
pub trait NotPreviousOf {
    /// It is not the previous row of the sender.
    const IS_OF_SENDER: bool = false;
    /// It is not the previous row of any model.
    const IS_OF_ANY: bool = false;
    /// It is not the previous row of the model of the event.
    const IS_OF_EVENT: bool = false;
}

impl<T, M: ?Sized> NotPreviousOf for PreviousOf<T, M> {}

impl<M: ?Sized> PreviousOf<Previous<'_, M>, M> {
    /// It is the previous row of the sender.
    pub const IS_OF_SENDER: bool = true;
}

impl<M: ?Sized> PreviousOf<Previous<'_, dyn AnyModel>, M> {
    /// It is the previous row of any model.
    pub const IS_OF_ANY: bool = true;
}

impl<M: ?Sized> PreviousOf<Previous<'_, M>, PostSave<'_, M>> {
    /// It is the previous row of the model of the event.
    pub const IS_OF_EVENT: bool = true;
}

impl<M: ?Sized> PreviousOf<Previous<'_, M>, PostDelete<'_, M>> {
    /// It is the previous row of the model of the event.
    pub const IS_OF_EVENT: bool = true;
}

/// A signal whose receivers can take [`Previous`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no previous row",
    label = "its receivers cannot take `Previous`",
    note = "`post_save` and `post_delete` have one"
)]
pub trait HasPrevious {}

impl HasPrevious for post_save {}
impl HasPrevious for post_delete {}
