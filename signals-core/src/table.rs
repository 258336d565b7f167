use std::any::TypeId;
use std::sync::OnceLock;

use crate::model::Model;
use crate::receiver::{Entry, Phase};
use crate::registry::registry;
use crate::signal::{Signal, post_delete, post_save, pre_delete, pre_save};
use crate::unit::Needs;

/// The receivers of a model, found at its first save. `#[derive(Model)]` has one for each model.
pub struct Table<M: Model> {
    receivers: OnceLock<Receivers<M>>,
}

/// Who receives what a model does.
pub(crate) struct Receivers<M: Model> {
    pub(crate) save: Pair<pre_save, post_save, M>,
    pub(crate) delete: Pair<pre_delete, post_delete, M>,
}

/// The receivers before and after a statement, and what they need.
pub(crate) struct Pair<Pre: Signal, Post: Signal, M: Model> {
    pub(crate) before: Vec<Entry<Pre, M>>,
    pub(crate) after: Vec<Entry<Post, M>>,
    /// Those that wait for the end of the transaction.
    pub(crate) deferred: Vec<Entry<Post, M>>,
    /// Whether one of those before takes the connection.
    pub(crate) before_connected: bool,
}

impl<M: Model> Table<M> {
    /// With nothing in it yet.
    #[expect(clippy::new_without_default, reason = "made in a `static`")]
    pub const fn new() -> Self {
        Self { receivers: OnceLock::new() }
    }

    pub(crate) fn receivers(&self) -> &Receivers<M> {
        self.receivers.get_or_init(|| Receivers { save: Pair::find(), delete: Pair::find() })
    }
}

impl<Pre: Signal, Post: Signal, M: Model> Pair<Pre, Post, M> {
    fn find() -> Self {
        let before = entries::<Pre, M>();
        let (after, deferred) =
            entries::<Post, M>().into_iter().partition(|e| e.info.phase == Phase::InTransaction);
        let before_connected = before.iter().any(|e| e.info.connection);
        Self { before, after, deferred, before_connected }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty() && self.deferred.is_empty()
    }

    /// The statement must be in a transaction where a receiver after it can fail, so that it is undone then, and where
    /// one before it writes. Those that wait need none.
    pub(crate) fn needs(&self) -> Needs {
        Needs {
            transaction: self.before_connected || !self.after.is_empty(),
            connection_before: self.before_connected,
            deferred: self.deferred.first().map(|entry| entry.info),
        }
    }
}

fn entries<S: Signal, M: Model>() -> Vec<Entry<S, M>> {
    let found = registry().of(TypeId::of::<S>(), TypeId::of::<M>());
    found.iter().filter_map(|r| r.entry.downcast_ref::<Entry<S, M>>().copied()).collect()
}
