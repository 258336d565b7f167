use super::events::{PostDeleteBatch, PostSaveBatch, post_delete_batch, post_save_batch};
use super::{Deferrable, Lifetime, Signal, Subject};
use crate::any::{AnyModel, Snapshot};
use crate::column::Column;
use crate::receiver::AnyEntry;

/// Rows that are kept until the transaction has ended.
#[derive(Debug)]
pub struct WrittenBatch<M> {
    instances: Vec<M>,
    created: bool,
    fields: Option<Vec<Column<M>>>,
}

impl Signal for post_save_batch {
    const NAME: &'static str = "post_save_batch";
    type Event<'e, M: ?Sized + Subject> = PostSaveBatch<'e, M>;
    type Kept<M: Send + Sync + 'static> = WrittenBatch<M>;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn erase<'e, M: AnyModel>(
        event: PostSaveBatch<'e, M>,
        _: Lifetime<'e>,
    ) -> PostSaveBatch<'e, dyn AnyModel> {
        let instances = event.instances.iter().map(|row| row as &dyn AnyModel).collect();
        PostSaveBatch { instances, created: event.created, fields: None }
    }

    fn snapshot<M: AnyModel>(event: &PostSaveBatch<'_, M>) -> Option<WrittenBatch<Snapshot>> {
        let instances = event.instances.iter().map(|row| Snapshot::of(row)).collect();
        Some(WrittenBatch { instances, created: event.created, fields: None })
    }

    fn replay<M: Send + Sync + 'static>(kept: &WrittenBatch<M>) -> PostSaveBatch<'_, M> {
        let WrittenBatch { instances, created, fields } = kept;
        PostSaveBatch { instances, created: *created, fields: fields.as_deref() }
    }
}

impl Deferrable for post_save_batch {
    fn keep<M: Clone + Send + Sync + 'static>(event: &PostSaveBatch<'_, M>) -> WrittenBatch<M> {
        WrittenBatch {
            instances: event.instances.to_vec(),
            created: event.created,
            fields: event.fields.map(<[_]>::to_vec),
        }
    }
}

impl Signal for post_delete_batch {
    const NAME: &'static str = "post_delete_batch";
    type Event<'e, M: ?Sized + Subject> = PostDeleteBatch<'e, M>;
    type Kept<M: Send + Sync + 'static> = Vec<M>;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn erase<'e, M: AnyModel>(
        event: PostDeleteBatch<'e, M>,
        _: Lifetime<'e>,
    ) -> PostDeleteBatch<'e, dyn AnyModel> {
        let instances = event.instances.iter().map(|row| row as &dyn AnyModel).collect();
        PostDeleteBatch { instances }
    }

    fn snapshot<M: AnyModel>(event: &PostDeleteBatch<'_, M>) -> Option<Vec<Snapshot>> {
        Some(event.instances.iter().map(|row| Snapshot::of(row)).collect())
    }

    fn replay<M: Send + Sync + 'static>(kept: &Vec<M>) -> PostDeleteBatch<'_, M> {
        PostDeleteBatch { instances: kept }
    }
}

impl Deferrable for post_delete_batch {
    fn keep<M: Clone + Send + Sync + 'static>(event: &PostDeleteBatch<'_, M>) -> Vec<M> {
        event.instances.to_vec()
    }
}
