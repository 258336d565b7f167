//! The signals `post_save_batch` and `post_delete_batch`: their events about erased rows, and how these are kept.

use std::ops::Range;
use std::sync::Arc;

use super::events::{PostDeleteBatch, PostSaveBatch, post_delete_batch, post_save_batch};
use super::{Deferrable, Signal, Subject};
use crate::signal::entry::AnyEntry;
use crate::signal::rows::RowEvent;
use crate::table::any::{AnyModel, Snapshot};
use crate::table::column::Column;
use crate::table::rows::Rows;

/// A `post_save_batch` event that is kept until the transaction has ended.
#[derive(Debug)]
pub struct WrittenBatch<M> {
    instances: Vec<M>,
    created: bool,
    fields: Option<Vec<Column<M>>>,
    /// The written columns, if the event is kept for receivers of every model.
    any_fields: Option<Vec<Column<dyn AnyModel>>>,
}

impl Signal for post_save_batch {
    const NAME: &'static str = "post_save_batch";
    type Event<'e, M: ?Sized + Subject + 'static> = PostSaveBatch<'e, M>;
    type Kept<M: Send + Sync + 'static> = WrittenBatch<M>;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn rows_mut<M: Send + Sync + 'static>(kept: &mut WrittenBatch<M>) -> &mut [M] {
        &mut kept.instances
    }

    fn replay<M: Send + Sync + 'static>(kept: &WrittenBatch<M>) -> PostSaveBatch<'_, M> {
        let WrittenBatch { instances, created, fields, .. } = kept;
        PostSaveBatch { instances, created: *created, fields: fields.as_deref() }
    }

    fn replay_any(kept: &WrittenBatch<Snapshot>) -> PostSaveBatch<'_, dyn AnyModel> {
        let instances = of_snapshots(&kept.instances);
        PostSaveBatch { instances, created: kept.created, fields: kept.any_fields.as_deref() }
    }

    fn of<'e, M: Send + Sync + 'static>(
        rows: &'e [M],
        fields: Option<&'e [Column<M>]>,
        event: &RowEvent,
    ) -> Option<PostSaveBatch<'e, M>> {
        let RowEvent::PostSaveBatch { rows: batch, created } = event else { return None };
        Some(PostSaveBatch { instances: &rows[batch.clone()], created: *created, fields })
    }

    fn of_any<'e>(
        rows: &'e mut dyn Rows,
        event: &RowEvent,
    ) -> Option<PostSaveBatch<'e, dyn AnyModel>> {
        let RowEvent::PostSaveBatch { rows: batch, created } = event else { return None };
        let (created, rows) = (*created, &*rows);
        Some(PostSaveBatch { instances: each(rows, batch), created, fields: rows.any_fields() })
    }

    fn snapshot(rows: &dyn Rows, event: &RowEvent) -> Option<WrittenBatch<Snapshot>> {
        let RowEvent::PostSaveBatch { rows: batch, created } = event else { return None };
        let (instances, any_fields) =
            (snapshots(rows, batch), rows.any_fields().map(<[_]>::to_vec));
        Some(WrittenBatch { instances, created: *created, fields: None, any_fields })
    }
}

impl Deferrable for post_save_batch {
    fn keep<M: Clone + Send + Sync + 'static>(event: &PostSaveBatch<'_, M>) -> WrittenBatch<M> {
        WrittenBatch {
            instances: event.instances.to_vec(),
            created: event.created,
            fields: event.fields.map(<[_]>::to_vec),
            any_fields: None,
        }
    }
}

impl Signal for post_delete_batch {
    const NAME: &'static str = "post_delete_batch";
    type Event<'e, M: ?Sized + Subject + 'static> = PostDeleteBatch<'e, M>;
    type Kept<M: Send + Sync + 'static> = Vec<M>;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn rows_mut<M: Send + Sync + 'static>(kept: &mut Vec<M>) -> &mut [M] {
        kept
    }

    fn replay<M: Send + Sync + 'static>(kept: &Vec<M>) -> PostDeleteBatch<'_, M> {
        PostDeleteBatch { instances: kept }
    }

    fn replay_any(kept: &Vec<Snapshot>) -> PostDeleteBatch<'_, dyn AnyModel> {
        PostDeleteBatch { instances: of_snapshots(kept) }
    }

    fn of<'e, M: Send + Sync + 'static>(
        rows: &'e [M],
        _: Option<&'e [Column<M>]>,
        event: &RowEvent,
    ) -> Option<PostDeleteBatch<'e, M>> {
        let RowEvent::PostDeleteBatch(batch) = event else { return None };
        Some(PostDeleteBatch { instances: &rows[batch.clone()] })
    }

    fn of_any<'e>(
        rows: &'e mut dyn Rows,
        event: &RowEvent,
    ) -> Option<PostDeleteBatch<'e, dyn AnyModel>> {
        let RowEvent::PostDeleteBatch(batch) = event else { return None };
        Some(PostDeleteBatch { instances: each(rows, batch) })
    }

    fn snapshot(rows: &dyn Rows, event: &RowEvent) -> Option<Vec<Snapshot>> {
        let RowEvent::PostDeleteBatch(batch) = event else { return None };
        Some(snapshots(rows, batch))
    }
}

impl Deferrable for post_delete_batch {
    fn keep<M: Clone + Send + Sync + 'static>(event: &PostDeleteBatch<'_, M>) -> Vec<M> {
        event.instances.to_vec()
    }
}

/// The rows of a batch without their type.
fn each<'e>(rows: &'e dyn Rows, batch: &Range<usize>) -> Arc<[&'e dyn AnyModel]> {
    batch.clone().map(|row| rows.at(row)).collect()
}

/// Copies of the rows of a batch, which need no `Clone`.
fn snapshots(rows: &dyn Rows, batch: &Range<usize>) -> Vec<Snapshot> {
    batch.clone().map(|row| Snapshot::of(rows.at(row))).collect()
}

fn of_snapshots(rows: &[Snapshot]) -> Arc<[&dyn AnyModel]> {
    rows.iter().map(|row| row as &dyn AnyModel).collect()
}
