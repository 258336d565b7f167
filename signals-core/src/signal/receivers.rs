//! The receivers of each model and custom signal, cached until the registry changes, and what they require of a write.

use std::any::TypeId;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::signal::custom::CustomSignal;
use crate::signal::erased::ErasedReceiver;
use crate::signal::event_store::StoringTexts;
use crate::signal::operation_context::OperationContext;
use crate::signal::registry::registry;
use crate::signal::relation::{Dependent, dependents};
use crate::signal::{
    Signal, post_delete, post_delete_batch, post_load, post_save, post_save_batch, pre_delete,
    pre_save,
};
use crate::table::any::AnyModel;
use crate::table::cache::StatementCache;
use crate::task::info::{Info, Phase};
use crate::task::measure::WriteKeys;
use crate::task::mute;

/// The cached receivers of a model, its cached SQL text, and the keys of its metrics. `#[derive(Model)]` creates a static one for the model, which is filled
/// when it is first used.
pub struct ReceiverCache {
    model: TypeId,
    /// Whether the model is `Clone`.
    can_copy: bool,
    save: Cached,
    delete: Cached,
    load: Cached,
    statement_cache: StatementCache,
    /// The keys of the model's metrics.
    pub(crate) keys: WriteKeys,
}

/// The cached receivers of a custom signal. `#[derive(Signal)]` creates a static one for the signal.
pub struct SignalTable {
    signal: TypeId,
    receivers: Cached,
}

/// Receivers, and the generation of the registry in which they were looked up.
struct Cached(ArcSwapOption<(u64, Arc<OperationReceivers>)>);

/// The receivers of a write, of a read or of a custom signal, and what they require. An operation uses the receivers that are
/// registered when it begins.
pub(crate) struct OperationReceivers {
    /// The receivers of `pre_save` or `pre_delete`.
    pub(crate) before: Vec<ErasedReceiver>,
    /// The receivers of `post_save`, `post_delete`, `post_load` or the custom signal that run in the transaction.
    pub(crate) after: Vec<ErasedReceiver>,
    /// The receivers of the batch signal that run in the transaction.
    pub(crate) batch: Vec<ErasedReceiver>,
    /// The receivers of `post_save`, `post_delete` or the custom signal that run after the transaction has ended.
    pub(crate) deferred: Arc<[ErasedReceiver]>,
    /// The receivers of the batch signal that run after the transaction has ended.
    pub(crate) deferred_batch: Arc<[ErasedReceiver]>,
    /// The durable receivers of `post_save`, `post_delete` or the custom signal.
    pub(crate) durable: Vec<ErasedReceiver>,
    /// The durable receivers of the batch signal.
    pub(crate) durable_batch: Vec<ErasedReceiver>,
    /// The receivers of `post_save` or `post_delete` that run once per transaction.
    once: Vec<ErasedReceiver>,
    /// The receivers of the other one of these signals that run once per transaction. The write may change what they are notified of.
    once_of_other: Vec<ErasedReceiver>,
    /// Those in `once` that run after the commit: for a write in autocommit, which is a transaction of its own.
    pub(crate) once_alone: Arc<[ErasedReceiver]>,
    /// Whether a receiver requests the row before the statement.
    pub(crate) previous: bool,
    /// The models whose rows belong to deleted rows of this one.
    pub(crate) dependents: &'static [Dependent],
    can_copy: bool,
    pub(crate) needs: Requirements,
    /// The statements that store deliveries together with their row.
    pub(crate) storing_texts: Arc<StoringTexts>,
}

impl ReceiverCache {
    /// An empty cache for a model.
    pub(crate) const fn of_model(model: TypeId, can_copy: bool) -> Self {
        Self {
            model,
            can_copy,
            save: Cached::new(),
            delete: Cached::new(),
            load: Cached::new(),
            statement_cache: StatementCache::new(),
            keys: WriteKeys::new(),
        }
    }

    /// The receivers of a save.
    pub(crate) fn save(&self) -> Arc<OperationReceivers> {
        self.save.get(|| self.find_save())
    }

    /// The receivers of a save. `None` if there is none.
    pub(crate) fn save_if_any(&self) -> Option<Arc<OperationReceivers>> {
        self.save.get_if_any(|| self.find_save())
    }

    /// The receivers of a delete, and the models whose rows belong to those of this model.
    pub(crate) fn delete(&self) -> Arc<OperationReceivers> {
        self.delete.get(|| self.find_delete())
    }

    /// The same as [`delete`](Self::delete). `None` if there is neither a receiver nor such a model.
    pub(crate) fn delete_if_any(&self) -> Option<Arc<OperationReceivers>> {
        self.delete.get_if_any(|| self.find_delete())
    }

    /// The receivers of `post_load`. `None` if there is none.
    pub(crate) fn load_if_any(&self) -> Option<Arc<OperationReceivers>> {
        self.load.get_if_any(|| OperationReceivers::of_signal(self.of::<post_load>()))
    }

    pub(crate) fn statement_cache(&self) -> &StatementCache {
        &self.statement_cache
    }

    fn find_save(&self) -> OperationReceivers {
        let found = Found {
            before: self.of::<pre_save>(),
            post: self.of::<post_save>(),
            batch: self.of::<post_save_batch>(),
            once_of_other: self.once_of::<post_delete>(),
        };
        OperationReceivers::of(found, &[], self.can_copy)
    }

    fn find_delete(&self) -> OperationReceivers {
        let found = Found {
            before: self.of::<pre_delete>(),
            post: self.of::<post_delete>(),
            batch: self.of::<post_delete_batch>(),
            once_of_other: self.once_of::<post_save>(),
        };
        OperationReceivers::of(found, dependents(self.model), self.can_copy)
    }

    fn once_of<S: Signal>(&self) -> Vec<ErasedReceiver> {
        self.of::<S>().into_iter().filter(|receiver| receiver.info.once).collect()
    }

    fn of<S: Signal>(&self) -> Vec<ErasedReceiver> {
        let senders = [self.model, TypeId::of::<dyn AnyModel>()];
        registry().receivers_of(TypeId::of::<S>(), &senders)
    }
}

impl SignalTable {
    /// An empty cache for the signal `S`.
    pub const fn new<S: CustomSignal>() -> Self {
        Self { signal: TypeId::of::<S>(), receivers: Cached::new() }
    }

    /// The receivers of the signal. `None` if there is none.
    pub(crate) fn receivers(&self) -> Option<Arc<OperationReceivers>> {
        let find = || registry().receivers_of(self.signal, &[TypeId::of::<()>()]);
        self.receivers.get_if_any(|| OperationReceivers::of_signal(find()))
    }
}

impl Cached {
    const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    /// The unmuted receivers, or `None` if there is none. In the second case no reference count is changed, because writes of models
    /// without receivers must not contend for one.
    fn get_if_any(
        &self,
        find: impl FnOnce() -> OperationReceivers,
    ) -> Option<Arc<OperationReceivers>> {
        let found = self.0.load();
        match &*found {
            Some(found) if found.0 == registry().generation() && found.1.is_empty() => None,
            _ => Some(self.get(find)).filter(|all| !all.is_empty()),
        }
    }

    /// The unmuted receivers. `find` looks them up if the registry has changed since they were cached.
    fn get(&self, find: impl FnOnce() -> OperationReceivers) -> Arc<OperationReceivers> {
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
        if mute::any() { Arc::new(all.unmuted()) } else { all }
    }
}

/// The receivers of an operation, not yet grouped.
#[derive(Default)]
struct Found {
    before: Vec<ErasedReceiver>,
    post: Vec<ErasedReceiver>,
    batch: Vec<ErasedReceiver>,
    once_of_other: Vec<ErasedReceiver>,
}

/// The receivers that the task has not muted.
fn unmuted<'s>(all: impl Iterator<Item = &'s ErasedReceiver>) -> Vec<ErasedReceiver> {
    all.filter(|receiver| !mute::mutes(receiver.info.receiver)).cloned().collect()
}

/// The receivers of one signal by phase.
#[derive(Default)]
struct ByPhase {
    immediate: Vec<ErasedReceiver>,
    /// Those that run after the transaction has ended.
    deferred: Vec<ErasedReceiver>,
    durable: Vec<ErasedReceiver>,
    /// Those of any phase that run once per transaction.
    once: Vec<ErasedReceiver>,
}

impl ByPhase {
    fn of(all: Vec<ErasedReceiver>) -> Self {
        let mut sorted = Self::default();
        for receiver in all {
            let phase = match receiver.info.phase {
                _ if receiver.info.once => &mut sorted.once,
                Phase::InTransaction => &mut sorted.immediate,
                Phase::OnCommit | Phase::OnRollback => &mut sorted.deferred,
                Phase::Durable => &mut sorted.durable,
            };
            phase.push(receiver);
        }
        sorted
    }
}

impl OperationReceivers {
    /// The receivers that the task has not muted.
    fn unmuted(&self) -> Self {
        let post = self.after.iter().chain(&*self.deferred).chain(&self.durable).chain(&self.once);
        let batch = self.batch.iter().chain(&*self.deferred_batch).chain(&self.durable_batch);
        let found = Found {
            before: unmuted(self.before.iter()),
            post: unmuted(post),
            batch: unmuted(batch),
            once_of_other: unmuted(self.once_of_other.iter()),
        };
        Self::of(found, self.dependents, self.can_copy)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty()
            && self.after.is_empty()
            && self.batch.is_empty()
            && self.deferred.is_empty()
            && self.deferred_batch.is_empty()
            && self.durable.is_empty()
            && self.durable_batch.is_empty()
            && self.once().next().is_none()
            && self.dependents.is_empty()
    }

    /// Whether the `Db` lacks what a receiver takes that runs after the transaction has ended.
    pub(crate) fn lacks_later_values(&self, context: &OperationContext) -> bool {
        let mut later = self.deferred.iter().chain(&*self.deferred_batch).chain(&*self.once_alone);
        self.needs.later_values && later.any(|receiver| context.lacks_value(&receiver.info))
    }

    /// The receivers that run once per transaction and that a write concerns.
    pub(crate) fn once(&self) -> impl Iterator<Item = &ErasedReceiver> {
        self.once.iter().chain(&self.once_of_other)
    }

    /// The receivers of `post_load` or of a custom signal.
    fn of_signal(all: Vec<ErasedReceiver>) -> Self {
        Self::of(Found { post: all, ..Found::default() }, &[], true)
    }

    /// Groups the receivers by phase, and finds out whether the write needs a transaction. It needs one in each of these cases:
    ///
    /// - A receiver after the statement can fail, because the statement must be undone then. A plain function of the event alone
    ///   that returns nothing cannot fail, and the failure of a robust receiver is only logged. Deferred receivers run after the
    ///   write is stored.
    /// - A receiver before or after the statement takes the connection, because it may write.
    /// - The row before the write is requested, because SQLite reads it with a statement of its own.
    /// - Rows of other models can belong to the row, because they are deleted with it.
    /// - A receiver is durable, because the event is stored with the write. If this is the only reason, one statement may be sufficient.
    /// - There is a receiver after the statement, and the row cannot be copied. If the caller dropped the future during a statement
    ///   without a transaction, the statement would have to finish without the row that its receivers need.
    fn of(found: Found, dependents: &'static [Dependent], can_copy: bool) -> Self {
        let Found { before, post, batch, once_of_other } = found;
        let mut asking = post.iter().chain(&once_of_other);
        let previous = asking.any(|receiver| receiver.info.asks_previous());
        let ByPhase { immediate: after, deferred, durable, once } = ByPhase::of(post);
        let ByPhase { immediate: batch, deferred: deferred_batch, durable: durable_batch, .. } =
            ByPhase::of(batch);
        let on_commit = |receiver: &&ErasedReceiver| receiver.info.phase == Phase::OnCommit;
        let once_alone: Arc<[_]> = once.iter().filter(on_commit).cloned().collect();
        let needs = {
            let mut immediate = after.iter().chain(&batch);
            let first_deferred = deferred.iter().chain(&deferred_batch).chain(&*once_alone).next();
            let has_after = first_deferred.is_some() || !after.is_empty() || !batch.is_empty();
            let after_interruptible = immediate.clone().any(|receiver| !receiver.info.infallible);
            let connection_before = before.iter().any(|receiver| receiver.info.connection);
            let fails = |info: &Info| info.connection || !(info.robust || info.infallible);
            let runs_inside = connection_before
                || previous
                || !dependents.is_empty()
                || !durable_batch.is_empty()
                || once.len() > once_alone.len()
                || immediate.any(|receiver| fails(&receiver.info))
                || (has_after && !can_copy);
            let mut later = deferred.iter().chain(&deferred_batch).chain(&*once_alone);
            let later_values =
                later.any(|receiver| receiver.info.asks.iter().any(|asks| asks.is_state()));
            let deferred = first_deferred.or(once.first()).map(|receiver| receiver.info.info);
            Requirements {
                transaction: runs_inside || !durable.is_empty(),
                only_stores: !runs_inside && !durable.is_empty(),
                connection_before,
                has_after,
                after_interruptible,
                later_values,
                deferred,
            }
        };
        Self {
            before,
            after,
            batch,
            deferred: deferred.into(),
            deferred_batch: deferred_batch.into(),
            durable,
            durable_batch,
            once,
            once_of_other,
            once_alone,
            previous,
            dependents,
            can_copy,
            needs,
            storing_texts: Arc::default(),
        }
    }
}

/// What the receivers of a write require of the connection.
#[derive(Clone, Copy)]
pub(crate) struct Requirements {
    /// Whether the write needs a transaction.
    pub(crate) transaction: bool,
    /// Whether it needs one only to store the events of durable receivers of single rows.
    pub(crate) only_stores: bool,
    /// Whether a receiver before the statement takes the connection.
    pub(crate) connection_before: bool,
    /// Whether there is a receiver after the statement, deferred or not.
    pub(crate) has_after: bool,
    /// Whether the caller can drop the future of the write while a receiver after the statement runs.
    pub(crate) after_interruptible: bool,
    /// Whether a receiver that runs after the transaction has ended takes a value of the `Db`, which may be missing.
    pub(crate) later_values: bool,
    /// A receiver that runs after the transaction has ended, or is stored at its end, if there is one.
    pub(crate) deferred: Option<&'static Info>,
}
