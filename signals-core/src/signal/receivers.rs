use crate::task::info::Info;
use crate::task::info::Phase;
use std::any::TypeId;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::signal::custom::CustomSignal;
use crate::signal::erased::ErasedReceiver;
use crate::signal::registry::registry;
use crate::signal::relation::{Dependent, dependents};
use crate::signal::{
    Signal, post_delete, post_delete_batch, post_load, post_save, post_save_batch, pre_delete,
    pre_save,
};
use crate::table::any::AnyModel;
use crate::table::cache::StatementCache;
use crate::task::mute;

/// The receivers of a model, found at its first save. `#[derive(Model)]` has one for each model.
pub struct ReceiverCache {
    model: TypeId,
    /// Whether a row of it can be copied.
    can_copy: bool,
    save: Cached<WriteReceivers>,
    delete: Cached<WriteReceivers>,
    load: Cached<Vec<ErasedReceiver>>,
    statement_cache: StatementCache,
}

/// The receivers of a signal of the program's own. `#[derive(Signal)]` has one for each signal.
pub struct SignalTable {
    signal: TypeId,
    group: Cached<CustomReceivers>,
}

/// What a slot can hold: who is found in the registry, and who of them the task hears.
trait Receivers: Sized {
    fn heard(&self) -> Self;
    fn is_empty(&self) -> bool;
}

/// What was found when the registry was of this generation.
struct Cached<T>(ArcSwapOption<(u64, Arc<T>)>);

/// The receivers before and after a statement, and what they need. A write takes them as they are at its beginning.
pub(crate) struct WriteReceivers {
    pub(crate) before: Vec<ErasedReceiver>,
    pub(crate) after: Vec<ErasedReceiver>,
    pub(crate) batch: Vec<ErasedReceiver>,
    /// Those that wait for the end of the transaction.
    pub(crate) deferred: Arc<[ErasedReceiver]>,
    pub(crate) deferred_batch: Arc<[ErasedReceiver]>,
    /// Whether somebody asks for the row before the statement.
    pub(crate) previous: bool,
    /// The models whose rows belong to rows of this one, where those are deleted.
    pub(crate) dependents: &'static [Dependent],
    can_copy: bool,
    pub(crate) needs: Requirements,
}

/// The receivers of a signal of the program's own.
pub(crate) struct CustomReceivers {
    pub(crate) inside: Vec<ErasedReceiver>,
    pub(crate) deferred: Arc<[ErasedReceiver]>,
}

impl ReceiverCache {
    /// Of a model, with nothing in it yet.
    pub(crate) const fn of_model(model: TypeId, can_copy: bool) -> Self {
        Self {
            model,
            can_copy,
            save: Cached::new(),
            delete: Cached::new(),
            load: Cached::new(),
            statement_cache: StatementCache::new(),
        }
    }

    /// Who receives a save.
    pub(crate) fn save(&self) -> Arc<WriteReceivers> {
        self.save.get(|| self.saving())
    }

    /// Who receives a save, if anybody does.
    pub(crate) fn save_if_any(&self) -> Option<Arc<WriteReceivers>> {
        self.save.heard(|| self.saving())
    }

    /// Who receives a delete.
    pub(crate) fn delete(&self) -> Arc<WriteReceivers> {
        self.delete.get(|| self.deleting())
    }

    /// Who receives a delete, if anybody does.
    pub(crate) fn delete_if_any(&self) -> Option<Arc<WriteReceivers>> {
        self.delete.heard(|| self.deleting())
    }

    /// Who receives what was read, if anybody does.
    pub(crate) fn load_if_any(&self) -> Option<Arc<Vec<ErasedReceiver>>> {
        self.load.heard(|| self.of::<post_load>())
    }

    pub(crate) fn statement_cache(&self) -> &StatementCache {
        &self.statement_cache
    }

    fn saving(&self) -> WriteReceivers {
        let (before, post) = (self.of::<pre_save>(), self.of::<post_save>());
        WriteReceivers::of(before, post, self.of::<post_save_batch>(), &[], self.can_copy)
    }

    fn deleting(&self) -> WriteReceivers {
        let (before, post) = (self.of::<pre_delete>(), self.of::<post_delete>());
        let batch = self.of::<post_delete_batch>();
        WriteReceivers::of(before, post, batch, dependents(self.model), self.can_copy)
    }

    fn of<S: Signal>(&self) -> Vec<ErasedReceiver> {
        let senders = [self.model, TypeId::of::<dyn AnyModel>()];
        registry().receivers_of(TypeId::of::<S>(), &senders)
    }
}

impl SignalTable {
    /// Of the signal `S`, with nothing in it yet.
    pub const fn new<S: CustomSignal>() -> Self {
        Self { signal: TypeId::of::<S>(), group: Cached::new() }
    }

    /// Who receives the signal, if anybody does.
    pub(crate) fn receivers(&self) -> Option<Arc<CustomReceivers>> {
        let find =
            || CustomReceivers::of(registry().receivers_of(self.signal, &[TypeId::of::<()>()]));
        self.group.heard(find)
    }
}

impl<T: Receivers> Cached<T> {
    const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    /// Those who are to hear, if there is anybody. Where there is nobody this touches no reference count.
    fn heard(&self, find: impl FnOnce() -> T) -> Option<Arc<T>> {
        let found = self.0.load();
        match &*found {
            Some(found) if found.0 == registry().generation() && found.1.is_empty() => None,
            _ => Some(self.get(find)).filter(|all| !all.is_empty()),
        }
    }

    fn get(&self, find: impl FnOnce() -> T) -> Arc<T> {
        let generation = registry().generation();
        let found = self.0.load();
        let all = match &*found {
            Some(found) if found.0 == generation => Arc::clone(&found.1),
            _ => {
                let all = Arc::new(find());
                self.0.store(Some(Arc::new((generation, Arc::clone(&all)))));
                all
            }
        };
        if mute::any() { Arc::new(all.heard()) } else { all }
    }
}

impl Receivers for WriteReceivers {
    fn heard(&self) -> Self {
        let post = self.after.iter().chain(&*self.deferred);
        let batch = self.batch.iter().chain(&*self.deferred_batch);
        let (before, post, batch) = (heard(self.before.iter()), heard(post), heard(batch));
        Self::of(before, post, batch, self.dependents, self.can_copy)
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

impl Receivers for Vec<ErasedReceiver> {
    fn heard(&self) -> Self {
        heard(self.iter())
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl Receivers for CustomReceivers {
    fn heard(&self) -> Self {
        Self::of(heard(self.inside.iter().chain(&*self.deferred)))
    }

    fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.deferred.is_empty()
    }
}

/// Those that the task does not mute.
fn heard<'s>(all: impl Iterator<Item = &'s ErasedReceiver>) -> Vec<ErasedReceiver> {
    all.filter(|to| !mute::mutes(to.info.receiver)).cloned().collect()
}

/// Those that run at once, and those that wait.
fn by_phase(all: Vec<ErasedReceiver>) -> (Vec<ErasedReceiver>, Arc<[ErasedReceiver]>) {
    let (now, later): (_, Vec<_>) =
        all.into_iter().partition(|to| to.info.phase == Phase::InTransaction);
    (now, later.into())
}

impl CustomReceivers {
    fn of(all: Vec<ErasedReceiver>) -> Self {
        let (inside, deferred) = by_phase(all);
        Self { inside, deferred }
    }
}

impl WriteReceivers {
    /// The statement must be in a transaction where a receiver after it can fail, so that it is undone then, and where
    /// one before it writes. A plain function of the event alone that returns nothing cannot fail. Those that wait need
    /// none, and those whose failure is only logged none but for what they write. Where the row before it is asked for,
    /// it is more than one statement on SQLite; and where nobody knows how to copy the row, it cannot go on without its
    /// caller. What belongs to the row goes with it.
    fn of(
        before: Vec<ErasedReceiver>,
        post: Vec<ErasedReceiver>,
        batch: Vec<ErasedReceiver>,
        dependents: &'static [Dependent],
        can_copy: bool,
    ) -> Self {
        let previous = post.iter().any(|to| to.info.asks_previous());
        let ((after, deferred), (batch, deferred_batch)) = (by_phase(post), by_phase(batch));
        let needs = {
            let mut inside = after.iter().chain(&batch);
            let waiting = deferred.iter().chain(&*deferred_batch).next();
            let has_after = waiting.is_some() || !after.is_empty() || !batch.is_empty();
            let after_interruptible = inside.clone().any(|to| !to.info.infallible);
            let connection_before = before.iter().any(|to| to.info.connection);
            let fails = |info: &Info| info.connection || !(info.robust || info.infallible);
            let transaction = connection_before
                || previous
                || !dependents.is_empty()
                || inside.any(|to| fails(&to.info))
                || (has_after && !can_copy);
            let deferred = waiting.map(|to| to.info.info);
            Requirements {
                transaction,
                connection_before,
                has_after,
                after_interruptible,
                deferred,
            }
        };
        Self {
            before,
            after,
            batch,
            deferred,
            deferred_batch,
            previous,
            dependents,
            can_copy,
            needs,
        }
    }
}

/// What the receivers of a write ask of the connection.
#[derive(Clone, Copy)]
pub(crate) struct Requirements {
    pub(crate) transaction: bool,
    pub(crate) connection_before: bool,
    /// Whether there is one behind the statement at all.
    pub(crate) has_after: bool,
    /// Whether one behind it, that needs no transaction, can be dropped while it runs.
    pub(crate) after_interruptible: bool,
    /// One that waits for the end of the transaction.
    pub(crate) deferred: Option<&'static Info>,
}
