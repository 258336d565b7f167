use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::custom::{CustomSignal, Group};
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

/// The receivers of a signal of the program's own. `#[derive(Signal)]` has one for each signal.
pub struct SignalTable<S: CustomSignal> {
    group: Slot<Group<S>>,
}

/// What a slot can hold: who is found in the registry, and who of them the task hears.
trait Found: Sized {
    fn find() -> Self;
    fn heard(&self) -> Self;
    fn is_empty(&self) -> bool;
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

impl<S: CustomSignal> SignalTable<S> {
    /// With nothing in it yet.
    #[expect(clippy::new_without_default, reason = "made in a `static`")]
    pub const fn new() -> Self {
        Self { group: Slot::new() }
    }

    /// Who receives the signal, if anybody does.
    pub(crate) fn receivers(&self) -> Option<Arc<Group<S>>> {
        self.group.get()
    }
}

impl<T: Found> Slot<T> {
    const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    fn get(&self) -> Option<Arc<T>> {
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
                let pair = Arc::new(T::find());
                self.0.store(Some(Arc::new((generation, Arc::clone(&pair)))));
                pair
            }
        };
        let pair = if mute::any() { Arc::new(pair.heard()) } else { pair };
        (!pair.is_empty()).then_some(pair)
    }
}

impl<Pre: Signal, Post: Signal, M: Model> Found for Pair<Pre, Post, M> {
    fn find() -> Self {
        Self::of(registry().entries::<Pre, M>(), registry().entries::<Post, M>())
    }

    fn heard(&self) -> Self {
        let post = self.after.iter().chain(&*self.deferred);
        Self::of(heard(self.before.iter()), heard(post))
    }

    fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty() && self.deferred.is_empty()
    }
}

impl<S: CustomSignal> Found for Group<S> {
    fn find() -> Self {
        Self::of(registry().entries_of_signal::<S>())
    }

    fn heard(&self) -> Self {
        Self::of(heard(self.inside.iter().chain(&*self.deferred)))
    }

    fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.deferred.is_empty()
    }
}

/// Those that the task does not mute.
fn heard<'e, S: Signal, M: Send + Sync + 'static>(
    entries: impl Iterator<Item = &'e Entry<S, M>>,
) -> Vec<Entry<S, M>> {
    entries.filter(|e| !mute::mutes(e.info.receiver)).cloned().collect()
}

impl<Pre: Signal, Post: Signal, M: Model> Pair<Pre, Post, M> {
    pub(crate) fn of(before: Vec<Entry<Pre, M>>, post: Vec<Entry<Post, M>>) -> Self {
        let (after, deferred): (_, Vec<_>) =
            post.into_iter().partition(|e| e.info.phase == Phase::InTransaction);
        Self { before, after, deferred: deferred.into() }
    }

    /// Whether somebody waits for the end of the transaction, and nobody knows how to copy the row. A statement that is
    /// alone goes on without its caller, on a copy.
    fn cannot_copy(&self) -> bool {
        !self.deferred.is_empty() && self.deferred.iter().all(|e| e.keep.is_none())
    }

    /// The statement must be in a transaction where a receiver after it can fail, so that it is undone then, and where
    /// one before it writes. Those that wait need none, and those whose failure is only logged none but for what they
    /// write.
    pub(crate) fn needs(&self) -> Needs {
        let connection_before = self.before.iter().any(|e| e.info.connection);
        let after = self.after.iter().any(|e| e.info.connection || !e.info.robust);
        Needs {
            transaction: connection_before || after || self.cannot_copy(),
            connection_before,
            deferred: self.deferred.first().map(|entry| entry.info),
        }
    }
}
