//! Signals, receivers and their registry, and how an event reaches its receivers.
//!
//! May import: `error`, `task`, `database`, `table`, `transaction`.

pub(crate) mod custom;
pub(crate) mod dispatch;
pub(crate) mod entry;
pub(crate) mod erased;
pub(crate) mod event_store;
pub(crate) mod events;
pub(crate) mod net_change;
pub(crate) mod no_signal;
pub(crate) mod operation_context;
pub(crate) mod parameter;
pub(crate) mod previous;
pub(crate) mod receivers;
pub(crate) mod recording;
pub(crate) mod registry;
pub(crate) mod relation;
pub(crate) mod rows;
mod run;
pub(crate) mod state;

use std::sync::Arc;

use crate::signal::rows::{AnyEventRows, EventRows};
use crate::table::any::AnyModel;

pub use events::{
    PostDelete, PostDeleteBatch, PostLoad, PostSave, PostSaveBatch, PreDelete, PreSave,
    post_delete, post_delete_batch, post_load, post_save, post_save_batch, pre_delete, pre_save,
};

/// A kind of event that receivers can subscribe to.
///
/// A signal is a type: one of the signals of a model below, or a type with `#[derive(Signal)]`, see
/// [`CustomSignal`](crate::CustomSignal). `#[receiver(post_save, …)]` names the signal, and the first parameter of the
/// receiver is the signal's event.
///
/// | signal | event | sent |
/// |---|---|---|
/// | [`pre_save`] | [`PreSave`] | before a row is written |
/// | [`post_save`] | [`PostSave`] | after a row was written |
/// | [`pre_delete`] | [`PreDelete`] | before a row is deleted |
/// | [`post_delete`] | [`PostDelete`] | after a row was deleted |
/// | [`post_load`] | [`PostLoad`] | after a row was read |
/// | [`post_save_batch`] | [`PostSaveBatch`] | after a statement has written rows, once for all of them |
/// | [`post_delete_batch`] | [`PostDeleteBatch`] | after a statement has deleted rows, once for all of them |
///
/// The first four have the meaning of
/// [Django's signals](https://docs.djangoproject.com/en/stable/ref/signals/#module-django.db.models.signals) of the same names.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// fn describe<S: Signal>(_: S) -> String {
///     let receivers = registry().receivers().filter(|receiver| receiver.signal() == S::NAME);
///     format!("{}: {} receivers", S::NAME, receivers.count())
/// }
/// assert!(describe(post_save).starts_with("post_save: "));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a signal",
    label = "not a signal",
    note = "the signals of a model are `pre_save`, `post_save`, `pre_delete`, `post_delete`, `post_load`, `post_save_batch` and \
            `post_delete_batch`",
    note = "`#[derive(Signal)]` makes a type of the program a custom signal"
)]
pub trait Signal: Send + Sync + 'static {
    /// The signal's name.
    ///
    /// See the example of [`Signal`].
    const NAME: &'static str;

    /// The event: the first parameter of a receiver. `M` is the model, or `dyn AnyModel` for receivers of every model.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// fn name<'e>(event: &'e <post_save as Signal>::Event<'_, City>) -> &'e str {
    ///     &event.instance.name // the event is a `PostSave`
    /// }
    /// ```
    type Event<'e, M: ?Sized + Subject + 'static>: Send;

    /// The sender of receivers that name none.
    #[doc(hidden)]
    type AnySender: ?Sized + Sender;

    /// The entry of receivers that name no sender.
    #[doc(hidden)]
    type AnyEntry: 'static;

    /// The event about these rows.
    #[doc(hidden)]
    fn of<'e, M: Send + Sync + 'static>(rows: EventRows<'e, M>) -> Self::Event<'e, M>;

    /// The event about these rows, for receivers of every model.
    #[doc(hidden)]
    fn of_any(rows: AnyEventRows<'_>) -> Self::Event<'_, dyn AnyModel>;
}

/// What the rows of an event are: rows of one model, or rows of any model.
///
/// The type parameter of each event of a model's signal is a `Subject`. The trait is implemented for all models and for
/// [`dyn AnyModel`](crate::AnyModel). Programs do not implement it.
///
/// | subject | receiver | `instance` of [`PostSave`] | `instances` of [`PostSaveBatch`] |
/// |---|---|---|---|
/// | a model `M` | with `sender = M` | `&M` | `&[M]` |
/// | `dyn AnyModel` | without `sender` | `&dyn AnyModel` | `Arc<[&dyn AnyModel]>` |
///
/// Both kinds of `instances` dereference to a slice, so `len`, `iter` and indexing work on them.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Subject;
///
/// /// Of a save of one model, or of any model.
/// fn outcome<M: Subject + ?Sized>(saved: &PostSave<'_, M>) -> &'static str {
///     if saved.created { "created" } else { "updated" }
/// }
///
/// #[receiver(post_save)]
/// fn log(saved: PostSave<'_, dyn AnyModel>) {
///     println!("{:?} was {}", saved.instance, outcome(&saved));
/// }
/// ```
pub trait Subject: Send + Sync {
    /// Several rows, as the batch events hold them.
    #[doc(hidden)]
    type Slice<'e>: Clone + Send;
}

impl<M: Send + Sync + 'static> Subject for M {
    type Slice<'e> = &'e [M];
}

// Of any lifetime: the compiler forgets which one it is when it checks that the future of a receiver is `Send`.
impl Subject for dyn AnyModel + '_ {
    type Slice<'e> = Arc<[&'e dyn AnyModel]>;
}

/// The sender of a signal: a model, `dyn AnyModel` for receivers of every model, or `()` for custom signals.
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

/// The sender of custom signals, which belong to no model.
impl Sender for () {
    const NAME: &'static str = "";
}

/// A signal whose receivers can have `on_commit` or `on_rollback`.
///
/// These are [`post_save`], [`post_delete`], [`post_save_batch`], [`post_delete_batch`] and custom signals. The event is kept until
/// the transaction ends, and so the model must be `Clone`. (Receivers of every model get a snapshot of the row instead, which needs
/// no `Clone`.)
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model, Clone)]
/// # struct City { id: Option<i64>, name: String }
/// use sqlx_signals::Deferrable;
///
/// fn phases<S: Deferrable>(_: S) -> [&'static str; 3] {
///     ["in transaction", "on commit", "on rollback"]
/// }
/// phases(post_save);
/// ```
#[diagnostic::on_unimplemented(
    message = "receivers of `{Self}` cannot wait for the end of the transaction",
    label = "has no `on_commit` and `on_rollback` receivers",
    note = "only of `post_save` and `post_delete` it matters whether what was written is kept"
)]
pub trait Deferrable: Signal {}

/// A signal of the rows of a model, whose receivers can name their model as the sender.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no sender",
    label = "has no sender",
    note = "a signal that the program defines belongs to no model: leave `sender` out"
)]
pub trait HasSender: Signal {}

/// A signal whose event says whether the row is new and what has changed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not know what was created or changed",
    label = "has neither `created`, `updated` nor `changed`",
    note = "`created`, `updated` and `changed(…)` are for `post_save`"
)]
pub trait TellsChange: Signal {}

/// A signal of one row, whose receivers can run once for each row that a transaction has changed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell the net change of a row",
    label = "has no `once_per_transaction` receivers",
    note = "`once_per_transaction` is for `post_save` and `post_delete`"
)]
pub trait TellsNetChange: Signal {}
