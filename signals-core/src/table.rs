use std::any::TypeId;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::compose::Shapes;

use crate::custom::{CustomSignal, Group};
use crate::linked::{Dependent, dependents};
use crate::model::Model;
use crate::mute;
use crate::receiver::{Entry, Info, Phase};
use crate::registry::registry;
use crate::signal::{
    Signal, post_delete, post_delete_batch, post_load, post_save, post_save_batch, pre_delete,
    pre_save,
};
use crate::unit::Needs;

/// The receivers of a model, found at its first save. `#[derive(Model)]` has one for each model.
pub struct Table<M: Model> {
    save: Slot<Saving<M>>,
    delete: Slot<Deleting<M>>,
    load: Slot<Vec<Entry<post_load, M>>>,
    shapes: Shapes,
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
pub(crate) struct Pair<Pre: Signal, Post: Signal, Batch: Signal, M: Model> {
    pub(crate) before: Vec<Entry<Pre, M>>,
    pub(crate) after: Vec<Entry<Post, M>>,
    pub(crate) batch: Vec<Entry<Batch, M>>,
    /// Those that wait for the end of the transaction.
    pub(crate) deferred: Arc<[Entry<Post, M>]>,
    pub(crate) deferred_batch: Arc<[Entry<Batch, M>]>,
    /// Whether somebody asks for the row before the statement.
    pub(crate) previous: bool,
    /// The models whose rows belong to rows of this one, where those are deleted.
    pub(crate) dependents: &'static [Dependent],
}

pub(crate) type Saving<M> = Pair<pre_save, post_save, post_save_batch, M>;
pub(crate) type Deleting<M> = Pair<pre_delete, post_delete, post_delete_batch, M>;

impl<M: Model> Table<M> {
    /// With nothing in it yet.
    #[expect(clippy::new_without_default, reason = "made in a `static`")]
    pub const fn new() -> Self {
        Self { save: Slot::new(), delete: Slot::new(), load: Slot::new(), shapes: Shapes::new() }
    }

    /// Who receives a save.
    pub(crate) fn save(&self) -> Arc<Saving<M>> {
        self.save.get()
    }

    /// Who receives a save, if anybody does.
    pub(crate) fn heard_save(&self) -> Option<Arc<Saving<M>>> {
        self.save.heard()
    }

    /// Who receives a delete.
    pub(crate) fn delete(&self) -> Arc<Deleting<M>> {
        self.delete.get()
    }

    /// Who receives a delete, if anybody does.
    pub(crate) fn heard_delete(&self) -> Option<Arc<Deleting<M>>> {
        self.delete.heard()
    }

    /// Who receives what was read, if anybody does.
    pub(crate) fn heard_load(&self) -> Option<Arc<Vec<Entry<post_load, M>>>> {
        self.load.heard()
    }

    pub(crate) fn shapes(&self) -> &Shapes {
        &self.shapes
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
        self.group.heard()
    }
}

impl<T: Found> Slot<T> {
    const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    /// Those who are to hear, if there is anybody. Where there is nobody this touches no reference count.
    fn heard(&self) -> Option<Arc<T>> {
        let found = self.0.load();
        match &*found {
            Some(found) if found.0 == registry().generation() && found.1.is_empty() => None,
            _ => Some(self.get()).filter(|all| !all.is_empty()),
        }
    }

    fn get(&self) -> Arc<T> {
        let generation = registry().generation();
        let found = self.0.load();
        let all = match &*found {
            Some(found) if found.0 == generation => Arc::clone(&found.1),
            _ => {
                let all = Arc::new(T::find());
                self.0.store(Some(Arc::new((generation, Arc::clone(&all)))));
                all
            }
        };
        if mute::any() { Arc::new(all.heard()) } else { all }
    }
}

impl<Pre: Signal, Post: Signal, Batch: Signal, M: Model> Found for Pair<Pre, Post, Batch, M> {
    fn find() -> Self {
        let all = registry();
        let of_delete = TypeId::of::<Pre>() == TypeId::of::<pre_delete>();
        let dependents = if of_delete { dependents(TypeId::of::<M>()) } else { &[] };
        let (before, after) = (all.entries::<Pre, M>(), all.entries::<Post, M>());
        Self::of(before, after, all.entries::<Batch, M>(), dependents)
    }

    fn heard(&self) -> Self {
        let post = self.after.iter().chain(&*self.deferred);
        let batch = self.batch.iter().chain(&*self.deferred_batch);
        Self::of(heard(self.before.iter()), heard(post), heard(batch), self.dependents)
    }

    fn is_empty(&self) -> bool {
        self.before.is_empty()
            && self.after.is_empty()
            && self.batch.is_empty()
            && self.deferred.is_empty()
            && self.deferred_batch.is_empty()
            && self.dependents.is_empty()
    }
}

impl<S: Signal, M: Model> Found for Vec<Entry<S, M>> {
    fn find() -> Self {
        registry().entries::<S, M>()
    }

    fn heard(&self) -> Self {
        heard(self.iter())
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
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

/// Those that run at once, and those that wait.
type ByPhase<S, M> = (Vec<Entry<S, M>>, Arc<[Entry<S, M>]>);

fn by_phase<S: Signal, M: Model>(entries: Vec<Entry<S, M>>) -> ByPhase<S, M> {
    let (now, later): (_, Vec<_>) =
        entries.into_iter().partition(|e| e.info.phase == Phase::InTransaction);
    (now, later.into())
}

impl<Pre: Signal, Post: Signal, Batch: Signal, M: Model> Pair<Pre, Post, Batch, M> {
    fn of(
        before: Vec<Entry<Pre, M>>,
        post: Vec<Entry<Post, M>>,
        batch: Vec<Entry<Batch, M>>,
        dependents: &'static [Dependent],
    ) -> Self {
        let previous = post.iter().any(|e| e.info.asks_previous());
        let ((after, deferred), (batch, deferred_batch)) = (by_phase(post), by_phase(batch));
        Self { before, after, batch, deferred, deferred_batch, previous, dependents }
    }

    fn deferred(&self) -> impl Iterator<Item = &'static Info> {
        let batch = self.deferred_batch.iter().map(|e| e.info);
        self.deferred.iter().map(|e| e.info).chain(batch)
    }

    /// The statement must be in a transaction where a receiver after it can fail, so that it is undone then, and where
    /// one before it writes. A plain function of the event alone that returns nothing cannot fail. Those that wait need none, and those whose failure is only logged none but for what they
    /// write. Where the row before it is asked for, it is more than one statement on SQLite; and where nobody knows
    /// how to copy the row, it cannot go on without its caller. What belongs to the row goes with it.
    pub(crate) fn needs(&self) -> Needs {
        let connection_before = self.before.iter().any(|e| e.info.connection);
        let mut after = self.after.iter().map(|e| e.info).chain(self.batch.iter().map(|e| e.info));
        let deferred = self.deferred().next();
        let followed = deferred.is_some() || !self.after.is_empty() || !self.batch.is_empty();
        let fails = |info: &Info| info.connection || !(info.robust || info.infallible);
        Needs {
            transaction: connection_before
                || self.previous
                || !self.dependents.is_empty()
                || after.any(fails)
                || (followed && M::COPY.is_none()),
            connection_before,
            followed,
            deferred,
        }
    }
}
