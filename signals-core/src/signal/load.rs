//! The signal `post_load`: its event about erased rows.

use std::convert::Infallible;

use super::events::{PostLoad, post_load};
use super::{Signal, Subject};
use crate::signal::entry::AnyEntry;
use crate::signal::rows::RowEvent;
use crate::table::any::AnyModel;
use crate::table::column::Column;
use crate::table::rows::Rows;

impl Signal for post_load {
    const NAME: &'static str = "post_load";
    type Event<'e, M: ?Sized + Subject + 'static> = PostLoad<'e, M>;
    type Kept<M: Send + Sync + 'static> = Infallible;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn replay<M: Send + Sync + 'static>(kept: &Infallible) -> PostLoad<'_, M> {
        match *kept {}
    }

    fn replay_any(kept: &Infallible) -> PostLoad<'_, dyn AnyModel> {
        match *kept {}
    }

    fn of_mut<'e, M: Send + Sync + 'static>(
        rows: &'e mut [M],
        _: Option<&'e [Column<M>]>,
        event: &RowEvent,
    ) -> Option<PostLoad<'e, M>> {
        let RowEvent::PostLoad(row) = *event else { return None };
        Some(PostLoad { instance: &mut rows[row] })
    }

    fn of_any<'e>(rows: &'e mut dyn Rows, event: &RowEvent) -> Option<PostLoad<'e, dyn AnyModel>> {
        let RowEvent::PostLoad(row) = *event else { return None };
        Some(PostLoad { instance: rows.at_mut(row) })
    }
}
