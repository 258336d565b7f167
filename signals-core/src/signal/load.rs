use std::convert::Infallible;

use super::events::{PostLoad, post_load};
use super::{Signal, Subject};
use crate::any::AnyModel;
use crate::column::Column;
use crate::instances::{Instances, Told};
use crate::receiver::AnyEntry;

impl Signal for post_load {
    const NAME: &'static str = "post_load";
    type Event<'e, M: ?Sized + Subject> = PostLoad<'e, M>;
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
        told: &Told,
    ) -> Option<PostLoad<'e, M>> {
        let Told::PostLoad(row) = *told else { return None };
        Some(PostLoad { instance: &mut rows[row] })
    }

    fn of_any<'e>(rows: &'e mut dyn Instances, told: &Told) -> Option<PostLoad<'e, dyn AnyModel>> {
        let Told::PostLoad(row) = *told else { return None };
        Some(PostLoad { instance: rows.at_mut(row) })
    }
}
