//! Signals, receivers and their registry, and how an event reaches its receivers.
//!
//! May import: `error`, `task`, `database`, `table`, `transaction`.

pub(crate) mod batch;
pub(crate) mod custom;
pub(crate) mod dispatch;
pub(crate) mod entry;
pub(crate) mod erased;
pub(crate) mod events;
pub(crate) mod load;
pub(crate) mod operation_context;
pub(crate) mod parameter;
pub(crate) mod previous;
pub(crate) mod receivers;
pub(crate) mod recording;
pub(crate) mod registry;
pub(crate) mod relation;
pub(crate) mod rows;
pub(crate) mod state;

use std::sync::Arc;

use crate::signal::rows::RowEvent;
use crate::table::any::{AnyModel, Snapshot};
use crate::table::column::Column;
use crate::table::rows::Rows;

pub use events::{
    PostDelete, PostDeleteBatch, PostLoad, PostSave, PostSaveBatch, PreDelete, PreSave,
    post_delete, post_delete_batch, post_load, post_save, post_save_batch, pre_delete, pre_save,
};

/// Something that happens, and that receivers can be registered for. What a receiver gets of it is the event.
///
/// The four signals of a model are [`pre_save`], [`post_save`], [`pre_delete`] and [`post_delete`], after
/// [Django's](https://docs.djangoproject.com/en/stable/ref/signals/#module-django.db.models.signals).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a signal",
    label = "not a signal",
    note = "the signals of a model are `pre_save`, `post_save`, `pre_delete` and `post_delete`"
)]
pub trait Signal: Send + Sync + 'static {
    /// The signal's name.
    const NAME: &'static str;

    /// What a receiver gets.
    type Event<'e, M: ?Sized + Subject>: Send;

    /// What is kept of an event until the transaction has ended.
    #[doc(hidden)]
    type Kept<M: Send + Sync + 'static>: Send + Sync + 'static;

    /// The rows in what was kept.
    #[doc(hidden)]
    fn rows_mut<M: Send + Sync + 'static>(_kept: &mut Self::Kept<M>) -> &mut [M] {
        &mut []
    }

    /// The event of what was kept.
    #[doc(hidden)]
    fn replay<M: Send + Sync + 'static>(kept: &Self::Kept<M>) -> Self::Event<'_, M>;

    /// Of what a receiver hears that names no sender.
    #[doc(hidden)]
    type AnySender: ?Sized + Sender;

    /// Its registration.
    #[doc(hidden)]
    type AnyEntry: 'static;

    /// The event of what was kept for receivers of every model.
    #[doc(hidden)]
    fn replay_any(kept: &Self::Kept<Snapshot>) -> Self::Event<'_, dyn AnyModel>;

    /// The event that is told of rows, where they are not to be changed and it is told of by this signal.
    #[doc(hidden)]
    fn of<'e, M: Send + Sync + 'static>(
        _rows: &'e [M],
        _fields: Option<&'e [Column<M>]>,
        _told: &RowEvent,
    ) -> Option<Self::Event<'e, M>> {
        None
    }

    /// The same where they may be changed.
    #[doc(hidden)]
    fn of_mut<'e, M: Send + Sync + 'static>(
        rows: &'e mut [M],
        fields: Option<&'e [Column<M>]>,
        told: &RowEvent,
    ) -> Option<Self::Event<'e, M>> {
        Self::of(rows, fields, told)
    }

    /// The same for receivers of every model.
    #[doc(hidden)]
    fn of_any<'e>(
        _rows: &'e mut dyn Rows,
        _told: &RowEvent,
    ) -> Option<Self::Event<'e, dyn AnyModel>> {
        None
    }

    /// What is kept for receivers of every model.
    #[doc(hidden)]
    fn snapshot(_rows: &dyn Rows, _told: &RowEvent) -> Option<Self::Kept<Snapshot>> {
        None
    }
}

/// What an event can be about: a row, or a row of whatever model.
pub trait Subject: Send + Sync + 'static {
    /// Several of them.
    #[doc(hidden)]
    type Slice<'e>: Clone + Send;
}

impl<M: Send + Sync + 'static> Subject for M {
    type Slice<'e> = &'e [M];
}

impl Subject for dyn AnyModel {
    type Slice<'e> = Arc<[&'e dyn AnyModel]>;
}

/// What a signal can come from.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a model",
    label = "not a model",
    note = "put `#[derive(Model)]` on `{Self}`"
)]
pub trait Sender: Send + Sync + 'static {
    #[doc(hidden)]
    const NAME: &'static str;
}

impl Sender for dyn AnyModel {
    const NAME: &'static str = "every model";
}

/// Of a signal that comes from nobody in particular.
impl Sender for () {
    const NAME: &'static str = "";
}

/// A signal whose receivers can wait for the end of the transaction.
#[diagnostic::on_unimplemented(
    message = "receivers of `{Self}` cannot wait for the end of the transaction",
    label = "has no `on_commit` and `on_rollback` receivers",
    note = "only of `post_save` and `post_delete` it matters whether what was written is kept"
)]
pub trait Deferrable: Signal {
    #[doc(hidden)]
    fn keep<M: Clone + Send + Sync + 'static>(event: &Self::Event<'_, M>) -> Self::Kept<M>;
}

/// A signal whose event says whether the row is new, and what has changed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not know what was created or changed",
    label = "has neither `created`, `updated` nor `changed`",
    note = "`created`, `updated` and `changed(…)` are for `post_save`"
)]
pub trait TellsChange: Signal {}
