use std::any::TypeId;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::model::Model;
use crate::mute;
use crate::receiver::{Entry, Phase};
use crate::registry::registry;
use crate::signal::{Signal, post_delete, post_save, pre_delete, pre_save};
use crate::unit::Needs;

/// The receivers of a model, found at its first save. `#[derive(Model)]` has one for each model.
pub struct Table<M: Model> {
    save: Slot<Pair<pre_save, post_save, M>>,
    delete: Slot<Pair<pre_delete, post_delete, M>>,
}

/// What was found when the registry was of this generation.
struct Slot<T>(ArcSwapOption<(u64, Arc<T>)>);

/// The receivers before and after a statement, and what they need. A write takes them as they are at its beginning.
pub(crate) struct Pair<Pre: Signal, Post: Signal, M: Model> {
    pub(crate) before: Vec<Entry<Pre, M>>,
    pub(crate) after: Vec<Entry<Post, M>>,
    /// Those that wait for the end of the transaction.
    pub(crate) deferred: Arc<[Entry<Post, M>]>,
}

impl<M: Model> Table<M> {
    /// With nothing in it yet.
    #[expect(clippy::new_without_default, reason = "made in a `static`")]
    pub const fn new() -> Self {
        Self { save: Slot::new(), delete: Slot::new() }
    }

    /// Who receives a save, if anybody does.
    pub(crate) fn save(&self) -> Option<Arc<Pair<pre_save, post_save, M>>> {
        self.save.get()
    }

    /// Who receives a delete, if anybody does.
    pub(crate) fn delete(&self) -> Option<Arc<Pair<pre_delete, post_delete, M>>> {
        self.delete.get()
    }
}

impl<Pre: Signal, Post: Signal, M: Model> Slot<Pair<Pre, Post, M>> {
    const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    fn get(&self) -> Option<Arc<Pair<Pre, Post, M>>> {
        let generation = registry().generation();
        let found = self.0.load();
        let pair = match &*found {
            Some(found) if found.0 == generation => {
                if found.1.is_empty() {
                    return None;
                }
                Arc::clone(&found.1)
            }
            _ => {
                let pair = Arc::new(Pair::find());
                self.0.store(Some(Arc::new((generation, Arc::clone(&pair)))));
                pair
            }
        };
        let pair = if mute::any() { Arc::new(pair.heard()) } else { pair };
        (!pair.is_empty()).then_some(pair)
    }
}

impl<Pre: Signal, Post: Signal, M: Model> Pair<Pre, Post, M> {
    fn find() -> Self {
        Self::of(registry().entries::<Pre, M>(), registry().entries::<Post, M>())
    }

    fn of(before: Vec<Entry<Pre, M>>, post: Vec<Entry<Post, M>>) -> Self {
        let (after, deferred): (_, Vec<_>) =
            post.into_iter().partition(|e| e.info.phase == Phase::InTransaction);
        Self { before, after, deferred: deferred.into() }
    }

    /// Those that the task does not mute.
    fn heard(&self) -> Self {
        let heard = |receiver: TypeId| !mute::mutes(receiver);
        let post = self.after.iter().chain(&*self.deferred);
        Self::of(
            self.before.iter().filter(|e| heard(e.info.receiver)).cloned().collect(),
            post.filter(|e| heard(e.info.receiver)).cloned().collect(),
        )
    }

    fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty() && self.deferred.is_empty()
    }

    /// The statement must be in a transaction where a receiver after it can fail, so that it is undone then, and where
    /// one before it writes. Those that wait need none, and those whose failure is only logged none but for what they
    /// write.
    pub(crate) fn needs(&self) -> Needs {
        let connection_before = self.before.iter().any(|e| e.info.connection);
        let after = self.after.iter().any(|e| e.info.connection || !e.info.robust);
        Needs {
            transaction: connection_before || after,
            connection_before,
            deferred: self.deferred.first().map(|entry| entry.info),
        }
    }
}
