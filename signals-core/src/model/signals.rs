//! The methods of events, signals and `Previous` that need the type of the model.

use std::any::TypeId;
use std::panic::Location;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::BoxError;
use crate::model::Model;
use crate::signal::parameter::Context;
use crate::signal::previous::Previous;
use crate::signal::receivers::ReceiverCache;
use crate::signal::registry::{Handle, registry};
use crate::signal::{
    PostDelete, PostDeleteBatch, PostLoad, PostSave, PostSaveBatch, PreDelete, PreSave, Sender,
    post_delete, post_delete_batch, post_load, post_save, post_save_batch, pre_delete, pre_save,
};
use crate::table::column::Column;

#[diagnostic::do_not_recommend]
impl<M: Model> Sender for M {
    const NAME: &'static str = M::NAME;
}

impl<'a, M: Model> Previous<'a, M> {
    /// The row before the write, or `None` if the write created the row.
    ///
    /// See the example of [`Previous`].
    pub fn row(&self) -> Option<&'a M> {
        self.before.row()?.downcast_ref()
    }

    /// Whether the write has changed this column. In a row that was created or deleted, every column has changed.
    ///
    /// PostgreSQL compares the values by their type. SQLite stores a value as it is written, so the column is unchanged if the
    /// stored values are equal, or if the fields read from them are equal: the same time written in another format is no
    /// change.
    ///
    /// See the example of [`Previous`].
    pub fn changed(&self, column: Column<M>) -> bool {
        self.before.changed(column.name())
    }
}

impl ReceiverCache {
    /// The cache of the model `M`, initially empty.
    pub const fn new<M: Model>() -> Self {
        Self::of_type::<M>(M::COPY.is_some())
    }

    /// The cache of a type that may not implement `Model`, because the derive has reported an error.
    pub const fn of_type<M: 'static>(can_copy: bool) -> Self {
        Self::of_model(TypeId::of::<M>(), can_copy)
    }
}

macro_rules! connects {
    ($($signal:ident $event:ident),*) => { $(
        impl $signal {
            /// Connects a receiver of the model `M` at run time.
            ///
            /// It runs inside the transaction, after the receivers that are declared with `#[receiver]`. Each `uid` is
            /// connected once: if a receiver with this `uid` is already connected, it is kept. A save that is already
            /// running uses the receivers that were connected when it started.
            ///
            /// See the example of [`Handle`].
            #[track_caller]
            pub fn connect<M: Model>(
                self,
                uid: &str,
                receiver: impl for<'a, 'c> Fn($event<'a, M>, Context<'a, 'c>) -> BoxFuture<'a, Result<(), BoxError>>
                + Send
                + Sync
                + 'static,
            ) -> Handle {
                registry().connect::<Self, M>(uid, Location::caller(), Arc::new(receiver))
            }
        }
    )* };
}

connects!(
    pre_save PreSave,
    post_save PostSave,
    pre_delete PreDelete,
    post_delete PostDelete,
    post_load PostLoad,
    post_save_batch PostSaveBatch,
    post_delete_batch PostDeleteBatch
);

macro_rules! keys {
    ($($event:ident),*) => { $(
        impl<M: Model> $event<'_, M> {
            /// The primary key of the row.
            ///
            /// ```
            /// # use sqlx_signals::prelude::*;
            /// # #[derive(Model)]
            /// # struct City { id: Option<i64>, name: String }
            /// #[receiver(post_save, sender = City)]
            /// fn log(saved: PostSave<'_, City>) {
            ///     println!("city {} was saved", saved.pk());
            /// }
            /// ```
            pub fn pk(&self) -> M::Pk {
                // No event is sent for a row without a key. If `Clone` resets the key, the copy gets it back (`copy_keys`).
                self.instance.pk().expect("a stored row has its key")
            }
        }
    )* };
}

keys!(PostSave, PreDelete, PostDelete);
