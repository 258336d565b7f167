use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::any::AnyModel;
use crate::column::Column;
use crate::error::BoxError;
use crate::model::Model;
use crate::parameter::{Cx, Parameter, phase};
use crate::signal::{post_delete, post_save};

/// The row as the database had it before the write, for receivers of [`post_save`](crate::post_save) and
/// [`post_delete`](crate::post_delete), in any phase.
///
/// It is read in the transaction of the write, and only where a receiver of the model takes this parameter or says
/// `changed(…)`. On PostgreSQL that is part of the UPDATE or DELETE itself, which takes no other lock than without such a
/// receiver. It is what this write has overwritten, whatever else runs at the same time: if the write has to wait for another
/// transaction, it is tried again with the row as that has left it.
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
///     if let (Some(was), true) = (previous.row(), previous.changed(Ticket::STATE)) {
///         println!("{} → {}", was.state, saved.instance.state);
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
    before: &'a Before,
    model: PhantomData<fn() -> &'a M>,
}

impl<'a, M: Model> Previous<'a, M> {
    /// The row, where there was one: `None` for one that was created.
    pub fn row(&self) -> Option<&'a M> {
        self.before.row()?.downcast_ref()
    }

    /// Whether the write has changed this column. PostgreSQL compares the values as its types do. SQLite stores a value as it is
    /// written, so there the values are equal if what is stored is, or the fields read from it: another spelling of the same time
    /// is no change. Of a row that was created or deleted, every column has changed.
    pub fn changed(&self, column: Column<M>) -> bool {
        self.before.changed(column.name())
    }
}

impl<'a> Previous<'a, dyn AnyModel> {
    /// The row, where there was one: `None` for one that was created.
    pub fn row(&self) -> Option<&'a dyn AnyModel> {
        self.before.row()
    }

    /// Whether the write has changed the column of this name. Of a row that was created or deleted, every column has.
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
            fn take(cx: &mut Cx<'a, 'c>) -> Result<Self, BoxError> {
                if let Some(asked) = &mut cx.asked {
                    asked.previous = true;
                }
                let none = "the row before the write was not read";
                let before = cx.before.ok_or(none)?;
                Ok(Self { before, model: PhantomData })
            }
        }
    )* };
}

in_every_phase!(InTransaction OnCommit OnRollback);

/// A signal whose receivers can take the row as it was before.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no previous row",
    label = "its receivers cannot take `Previous`",
    note = "`post_save` and `post_delete` have one"
)]
pub trait HasPrevious {}

impl HasPrevious for post_save {}
impl HasPrevious for post_delete {}

/// A row before a write, and what the write has changed.
#[derive(Default)]
#[allow(unreachable_pub)]
pub struct Before {
    /// None where it was not there.
    row: Option<Box<dyn AnyModel>>,
    /// Whether each of the columns has changed; all of them where this is empty.
    changed: Vec<bool>,
    columns: &'static [&'static str],
}

/// As it is shared by the receivers of one row.
pub(crate) type SharedBefore = Option<Arc<Before>>;

impl Before {
    pub(crate) fn set_row(&mut self, row: Box<dyn AnyModel>) {
        self.columns = row.columns();
        self.row = Some(row);
    }

    pub(crate) fn set_changed(&mut self, changed: Vec<bool>) {
        self.changed = changed;
    }

    fn row(&self) -> Option<&dyn AnyModel> {
        self.row.as_deref()
    }

    pub(crate) fn changed(&self, column: &str) -> bool {
        let place = self.columns.iter().position(|name| *name == column);
        place.and_then(|place| self.changed.get(place)).copied().unwrap_or(true)
    }
}
