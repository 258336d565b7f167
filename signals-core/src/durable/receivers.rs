//! The durable receivers of the program, by the names under which their deliveries are stored.

use std::collections::{BTreeMap, HashMap};

use crate::durable::claimed::Claimed;
use crate::durable::event_form::EventForm;
use crate::durable::kept::Done;
use crate::durable::outbox::form_of;
use crate::signal::erased::ErasedReceiver;
use crate::signal::registry::registry;
use crate::task::info::{DurableOptions, Info};

/// The enabled durable receivers of some queues.
pub(crate) struct DurableReceivers {
    /// A function with several senders has several entries under one name.
    by_name: HashMap<&'static str, Vec<DurableReceiver>>,
    /// The names, in an order that does not depend on the linker.
    names: Vec<&'static str>,
}

/// A durable receiver of one signal and sender.
#[derive(Clone)]
pub(crate) struct DurableReceiver {
    pub(crate) receiver: ErasedReceiver,
    pub(crate) options: &'static DurableOptions,
    pub(crate) form: &'static EventForm,
}

impl DurableReceiver {
    /// What to acknowledge if a delivery of the receiver succeeds.
    pub(super) fn done(&self, claimed: &Claimed) -> Done {
        Done { id: claimed.id, claim: claimed.claim, keep: self.options.keep }
    }
}

impl DurableReceivers {
    /// The receivers of these queues. `None` means every queue.
    pub(crate) fn of(queues: Option<&[String]>) -> Self {
        Self::select(|options, form| {
            let is_of_queue =
                queues.is_none_or(|queues| queues.iter().any(|queue| queue == options.queue));
            is_of_queue && form.subject.is_none()
        })
    }

    /// The receivers whose events a relay publishes.
    pub(crate) fn published() -> Self {
        Self::select(|_, form| form.subject.is_some())
    }

    fn select(is_selected: impl Fn(&DurableOptions, &EventForm) -> bool) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        let mut names = Vec::new();
        for receiver in registry().durable() {
            let (Some(options), Some(form)) = (receiver.info.durable, form_of(&receiver)) else {
                continue;
            };
            if !is_selected(options, form) {
                continue;
            }
            let name = receiver.info.info.stored_name();
            for name in [name].iter().chain(options.was) {
                let entries = by_name.entry(*name).or_default();
                if entries.is_empty() {
                    names.push(*name);
                }
                entries.push(DurableReceiver { receiver: receiver.clone(), options, form });
            }
        }
        names.sort_unstable();
        Self { by_name, names }
    }

    pub(crate) fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// One of the names, with the lifetime of the program.
    pub(crate) fn static_name(&self, name: &str) -> Option<&'static str> {
        self.by_name.get_key_value(name).map(|(name, _)| *name)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &DurableReceiver> {
        self.by_name.values().flatten()
    }

    /// The receivers of this name.
    pub(crate) fn entries_of(&self, name: &str) -> impl Iterator<Item = &DurableReceiver> {
        self.by_name.get(name).into_iter().flatten()
    }

    /// The options of the receiver of this name.
    pub(crate) fn options(&self, name: &str) -> Option<&'static DurableOptions> {
        self.by_name.get(name)?.first().map(|entry| entry.options)
    }

    /// The other names under which deliveries of the receiver of this name are stored: the present one or former ones.
    pub(crate) fn other_names(&self, name: &str) -> Vec<&'static str> {
        let Some(entry) = self.by_name.get(name).and_then(|entries| entries.first()) else {
            return Vec::new();
        };
        let present = entry.receiver.info.info.stored_name();
        let names = std::iter::once(present).chain(entry.options.was.iter().copied());
        names.filter(|other| *other != name).collect()
    }

    /// The receiver of a delivery.
    pub(crate) fn get(&self, name: &str, signal: &str, sender: &str) -> Option<&DurableReceiver> {
        let entries = self.by_name.get(name)?;
        let is_of = |entry: &&DurableReceiver| {
            entry.receiver.info.signal == signal
                && entry.form.table.is_none_or(|table| table == sender)
        };
        entries.iter().find(is_of)
    }
}

/// All durable receivers of the program by the names of their deliveries, present and former, enabled or not.
pub(crate) fn known() -> BTreeMap<&'static str, &'static DurableOptions> {
    let identities = registry().identities();
    let durable =
        identities.iter().filter_map(|identity| Some((identity.info, identity.info.durable?)));
    let named = |(info, options): (&'static Info, &'static DurableOptions)| {
        let names = std::iter::once(info.stored_name()).chain(options.was.iter().copied());
        names.map(move |name| (name, options))
    };
    durable.flat_map(named).collect()
}
