//! What the signals of a model add to the types of the signal layer: everything that needs the type of the model.

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

impl ReceiverCache {
    /// Of the model `M`, with nothing in it yet.
    pub const fn new<M: Model>() -> Self {
        Self::of_type::<M>(M::COPY.is_some())
    }

    /// Of a type that may be no model, which is an error of its derive.
    pub const fn of_type<M: 'static>(can_copy: bool) -> Self {
        Self::of_model(TypeId::of::<M>(), can_copy)
    }
}

macro_rules! connects {
    ($($signal:ident $event:ident),*) => { $(
        impl $signal {
            /// Connects a receiver of the model `M` at run time, in the transaction, after those that are linked. There
            /// is one of each `uid`: where there is one already, it stays. A save that is under way goes on with the
            /// receivers that it began with.
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
            /// The key of the row.
            pub fn pk(&self) -> M::Pk {
                // No event is sent of a row without a key, and a copy that has lost its key gets it back.
                self.instance.pk().expect("a stored row has its key")
            }
        }
    )* };
}

keys!(PostSave, PreDelete, PostDelete);
