use std::convert::Infallible;

use super::events::{PostLoad, post_load};
use super::{Lifetime, Signal, Subject};
use crate::any::{AnyModel, Snapshot};
use crate::receiver::AnyEntry;

impl Signal for post_load {
    const NAME: &'static str = "post_load";
    type Event<'e, M: ?Sized + Subject> = PostLoad<'e, M>;
    type Kept<M: Send + Sync + 'static> = Infallible;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn erase<'e, M: AnyModel>(
        event: PostLoad<'e, M>,
        _: Lifetime<'e>,
    ) -> PostLoad<'e, dyn AnyModel> {
        PostLoad { instance: event.instance }
    }

    fn snapshot<M: AnyModel>(_event: &PostLoad<'_, M>) -> Option<Self::Kept<Snapshot>> {
        None
    }

    fn replay<M: Send + Sync + 'static>(kept: &Infallible) -> PostLoad<'_, M> {
        match *kept {}
    }
}
