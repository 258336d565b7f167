use std::convert::Infallible;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::any::{AnyModel, Snapshot};
use crate::error::BoxError;
use crate::model::{Column, Model};
use crate::receiver::{AnyEntry, Cx};
use crate::registry::{Handle, registry};

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
    type Event<'e, M: ?Sized + Send + Sync + 'static>: Send;

    /// What is kept of an event until the transaction has ended.
    #[doc(hidden)]
    type Kept<M: Send + Sync + 'static>: Send + Sync + 'static;

    /// The event again, for the next receiver.
    #[doc(hidden)]
    fn reborrow<'s, M: ?Sized + Send + Sync + 'static>(
        event: &'s mut Self::Event<'_, M>,
    ) -> Self::Event<'s, M>;

    /// The event of what was kept.
    #[doc(hidden)]
    fn replay<M: Send + Sync + 'static>(kept: &Self::Kept<M>) -> Self::Event<'_, M>;

    /// Of what a receiver hears that names no sender.
    #[doc(hidden)]
    type AnySender: ?Sized + Sender;

    /// Its registration.
    #[doc(hidden)]
    type AnyEntry: 'static;

    /// The event for a receiver of every model.
    #[doc(hidden)]
    fn erase<'e, M: AnyModel>(
        event: Self::Event<'e, M>,
        lifetime: Lifetime<'e>,
    ) -> Self::Event<'e, dyn AnyModel>;

    /// What is kept of an event for receivers of every model.
    #[doc(hidden)]
    fn snapshot<M: AnyModel>(event: &Self::Event<'_, M>) -> Option<Self::Kept<Snapshot>>;

    /// Whether the event is about a row that is new, where it can tell.
    #[doc(hidden)]
    fn created<M: ?Sized + Send + Sync + 'static>(_event: &Self::Event<'_, M>) -> Option<bool> {
        None
    }
}

/// Names the lifetime of an event, which the type of an event alone does not to the compiler.
#[doc(hidden)]
#[allow(unreachable_pub)]
pub type Lifetime<'e> = PhantomData<&'e ()>;

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

#[diagnostic::do_not_recommend]
impl<M: Model> Sender for M {
    const NAME: &'static str = M::NAME;
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
    note = "what happens before a statement is known to have happened only after it: use `post_save` or `post_delete`"
)]
pub trait Deferrable: Signal {
    #[doc(hidden)]
    fn keep<M: Clone + Send + Sync + 'static>(event: &Self::Event<'_, M>) -> Self::Kept<M>;
}

/// A signal whose event says whether the row is new.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not know whether the row was created",
    label = "has neither `created` nor `updated`",
    note = "`created` and `updated` are for `post_save`"
)]
pub trait TellsCreated: Signal {}

macro_rules! signal {
    ($(#[$doc:meta])* $name:ident $event:ident) => {
        $(#[$doc])*
        #[allow(non_camel_case_types)]
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl $name {
            /// Connects a receiver of the model `M` at run time, in the transaction, after those that are linked. There
            /// is one of each `uid`: where there is one already, it stays. A save that is under way goes on with the
            /// receivers that it began with.
            #[track_caller]
            pub fn connect<M: Model>(
                self,
                uid: &str,
                receiver: impl for<'a, 'c> Fn($event<'a, M>, Cx<'a, 'c>) -> BoxFuture<'a, Result<(), BoxError>>
                + Send
                + Sync
                + 'static,
            ) -> Handle {
                registry().connect::<Self, M>(uid, Location::caller(), Arc::new(receiver))
            }
        }
    };
}

signal! {
    /// Before a row is written. Its receivers may change the instance, and veto by returning an error: no SQL is sent
    /// then.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct User { id: Option<i64>, email: String }
    /// #[receiver(pre_save, sender = User)]
    /// fn normalize(save: PreSave<'_, User>) -> Result<(), &'static str> {
    ///     save.instance.email = save.instance.email.to_lowercase();
    ///     if save.instance.email.contains('@') { Ok(()) } else { Err("not an address") }
    /// }
    /// ```
    pre_save PreSave
}
signal! {
    /// After a row was written.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// /// In the transaction of the save, with its connection.
    /// #[receiver(post_save, sender = User, created)]
    /// async fn log(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    ///     conn.query("INSERT INTO log VALUES ($1)").bind(saved.pk()).execute().await?;
    ///     Ok(())
    /// }
    ///
    /// /// Once it is stored.
    /// #[receiver(post_save, sender = User, on_commit)]
    /// async fn greet(saved: PostSave<'_, User>) {
    ///     println!("welcome, {}", saved.instance.name);
    /// }
    /// ```
    post_save PostSave
}
signal! {
    /// Before a row is deleted. Its receivers may veto by returning an error: no SQL is sent then.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct User { id: Option<i64>, admin: bool }
    /// #[receiver(pre_delete, sender = User)]
    /// fn keep_admins(delete: PreDelete<'_, User>) -> Result<(), &'static str> {
    ///     if delete.instance.admin { Err("an admin cannot be deleted") } else { Ok(()) }
    /// }
    /// ```
    pre_delete PreDelete
}
signal! {
    /// After a row was deleted; not where there was none.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_delete, sender = User, on_commit)]
    /// fn farewell(deleted: PostDelete<'_, User>) {
    ///     println!("{} is gone, and so is the key {}", deleted.instance.name, deleted.pk());
    /// }
    /// ```
    post_delete PostDelete
}

/// A row is about to be written: the event of [`pre_save`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PreSave<'e, M: ?Sized> {
    /// The row, which the receiver may change; its key too.
    pub instance: &'e mut M,
    /// The columns that are written, where it is not all of them.
    pub fields: Option<&'e [Column<M>]>,
}

/// A row was written: the event of [`post_save`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PostSave<'e, M: ?Sized> {
    /// The row as it was written.
    pub instance: &'e M,
    /// Whether the row is new.
    pub created: bool,
    /// The columns that were written, where it is not all of them.
    pub fields: Option<&'e [Column<M>]>,
}

/// A row is about to be deleted: the event of [`pre_delete`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PreDelete<'e, M: ?Sized> {
    /// The row.
    pub instance: &'e M,
}

/// A row was deleted: the event of [`post_delete`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PostDelete<'e, M: ?Sized> {
    /// The row as it was; it still has its key.
    pub instance: &'e M,
}

macro_rules! copies {
    ($($event:ident),*) => { $(
        impl<M: ?Sized> Clone for $event<'_, M> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<M: ?Sized> Copy for $event<'_, M> {}

        impl<M: Model> $event<'_, M> {
            /// The key of the row.
            pub fn pk(&self) -> M::Pk {
                self.instance.pk().expect("a stored row has its key")
            }
        }
    )* };
}

copies!(PostSave, PreDelete, PostDelete);

impl Signal for pre_save {
    const NAME: &'static str = "pre_save";
    type Event<'e, M: ?Sized + Send + Sync + 'static> = PreSave<'e, M>;
    type Kept<M: Send + Sync + 'static> = Infallible;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn erase<'e, M: AnyModel>(event: PreSave<'e, M>, _: Lifetime<'e>) -> PreSave<'e, dyn AnyModel> {
        PreSave { instance: event.instance, fields: None }
    }

    fn snapshot<M: AnyModel>(_event: &PreSave<'_, M>) -> Option<Self::Kept<Snapshot>> {
        None
    }

    fn reborrow<'s, M: ?Sized + Send + Sync + 'static>(
        event: &'s mut PreSave<'_, M>,
    ) -> PreSave<'s, M> {
        PreSave { instance: event.instance, fields: event.fields }
    }

    fn replay<M: Send + Sync + 'static>(kept: &Infallible) -> PreSave<'_, M> {
        match *kept {}
    }
}

/// A write that is kept until the transaction has ended.
#[derive(Debug)]
pub struct Written<M> {
    instance: M,
    created: bool,
    fields: Option<Vec<Column<M>>>,
}

impl<M> Written<M> {
    pub(crate) fn into_instance(self) -> M {
        self.instance
    }
}

impl Signal for post_save {
    const NAME: &'static str = "post_save";
    type Event<'e, M: ?Sized + Send + Sync + 'static> = PostSave<'e, M>;
    type Kept<M: Send + Sync + 'static> = Written<M>;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn erase<'e, M: AnyModel>(
        event: PostSave<'e, M>,
        _: Lifetime<'e>,
    ) -> PostSave<'e, dyn AnyModel> {
        PostSave { instance: event.instance, created: event.created, fields: None }
    }

    fn snapshot<M: AnyModel>(event: &PostSave<'_, M>) -> Option<Self::Kept<Snapshot>> {
        Some(Written {
            instance: Snapshot::of(event.instance),
            created: event.created,
            fields: None,
        })
    }

    fn reborrow<'s, M: ?Sized + Send + Sync + 'static>(
        event: &'s mut PostSave<'_, M>,
    ) -> PostSave<'s, M> {
        *event
    }

    fn replay<M: Send + Sync + 'static>(kept: &Written<M>) -> PostSave<'_, M> {
        let Written { instance, created, fields } = kept;
        PostSave { instance, created: *created, fields: fields.as_deref() }
    }

    fn created<M: ?Sized + Send + Sync + 'static>(event: &PostSave<'_, M>) -> Option<bool> {
        Some(event.created)
    }
}

impl TellsCreated for post_save {}

impl Deferrable for post_save {
    fn keep<M: Clone + Send + Sync + 'static>(event: &PostSave<'_, M>) -> Written<M> {
        Written {
            instance: event.instance.clone(),
            created: event.created,
            fields: event.fields.map(<[_]>::to_vec),
        }
    }
}

impl Signal for pre_delete {
    const NAME: &'static str = "pre_delete";
    type Event<'e, M: ?Sized + Send + Sync + 'static> = PreDelete<'e, M>;
    type Kept<M: Send + Sync + 'static> = Infallible;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn erase<'e, M: AnyModel>(
        event: PreDelete<'e, M>,
        _: Lifetime<'e>,
    ) -> PreDelete<'e, dyn AnyModel> {
        PreDelete { instance: event.instance }
    }

    fn snapshot<M: AnyModel>(_event: &PreDelete<'_, M>) -> Option<Self::Kept<Snapshot>> {
        None
    }

    fn reborrow<'s, M: ?Sized + Send + Sync + 'static>(
        event: &'s mut PreDelete<'_, M>,
    ) -> PreDelete<'s, M> {
        *event
    }

    fn replay<M: Send + Sync + 'static>(kept: &Infallible) -> PreDelete<'_, M> {
        match *kept {}
    }
}

impl Signal for post_delete {
    const NAME: &'static str = "post_delete";
    type Event<'e, M: ?Sized + Send + Sync + 'static> = PostDelete<'e, M>;
    type Kept<M: Send + Sync + 'static> = M;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn erase<'e, M: AnyModel>(
        event: PostDelete<'e, M>,
        _: Lifetime<'e>,
    ) -> PostDelete<'e, dyn AnyModel> {
        PostDelete { instance: event.instance }
    }

    fn snapshot<M: AnyModel>(event: &PostDelete<'_, M>) -> Option<Self::Kept<Snapshot>> {
        Some(Snapshot::of(event.instance))
    }

    fn reborrow<'s, M: ?Sized + Send + Sync + 'static>(
        event: &'s mut PostDelete<'_, M>,
    ) -> PostDelete<'s, M> {
        *event
    }

    fn replay<M: Send + Sync + 'static>(kept: &M) -> PostDelete<'_, M> {
        PostDelete { instance: kept }
    }
}

impl Deferrable for post_delete {
    fn keep<M: Clone + Send + Sync + 'static>(event: &PostDelete<'_, M>) -> M {
        event.instance.clone()
    }
}
