//! Receivers that are connected at run time.

use std::any::TypeId;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::signal::erased::ErasedEntry;
use crate::task::identity::Identity;
use crate::task::info::Info;

#[derive(Debug)]
pub(super) struct Connected {
    pub(super) identity: Identity,
    pub(super) entry: Arc<dyn ErasedEntry>,
}

/// The identity of a receiver that is connected at run time.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) signal: TypeId,
    pub(super) sender: TypeId,
    pub(super) uid: Arc<str>,
}

/// All receivers that are connected at run time, by signal and sender.
#[derive(Debug, Default)]
pub(super) struct AllConnected {
    by_sender: HashMap<(TypeId, TypeId), OfSender>,
    /// How many receivers were connected so far. Receivers run in the order in which they were connected.
    count: u64,
}

#[derive(Debug, Default)]
struct OfSender {
    by_uid: HashMap<Arc<str>, u64>,
    in_order: BTreeMap<u64, Connected>,
}

impl AllConnected {
    /// Connects a receiver, unless one with this key is connected already.
    pub(super) fn connect(&mut self, key: &Key, connected: Connected) {
        let of = self.by_sender.entry((key.signal, key.sender)).or_default();
        if let Entry::Vacant(vacant) = of.by_uid.entry(Arc::clone(&key.uid)) {
            self.count += 1;
            vacant.insert(self.count);
            of.in_order.insert(self.count, connected);
        }
    }

    /// Disconnects a receiver, and returns it. `None` if it was not connected.
    pub(super) fn disconnect(&mut self, key: &Key) -> Option<Connected> {
        let Entry::Occupied(mut of) = self.by_sender.entry((key.signal, key.sender)) else {
            return None;
        };
        let number = of.get_mut().by_uid.remove(&key.uid)?;
        let connected = of.get_mut().in_order.remove(&number);
        if of.get().by_uid.is_empty() {
            of.remove();
        }
        connected
    }

    /// The receivers of a signal of these senders, in the order in which they were connected.
    pub(super) fn of(
        &self,
        signal: TypeId,
        senders: &[TypeId],
    ) -> impl Iterator<Item = &Connected> {
        let of = senders.iter().filter_map(|sender| self.by_sender.get(&(signal, *sender)));
        let mut all: Vec<_> = of.flat_map(|of| &of.in_order).collect();
        all.sort_unstable_by_key(|(number, _)| **number);
        all.into_iter().map(|(_, connected)| connected)
    }

    /// All receivers, in the order in which they were connected.
    pub(super) fn identities(&self) -> impl Iterator<Item = &Identity> {
        let mut all: Vec<_> = self.by_sender.values().flat_map(|of| &of.in_order).collect();
        all.sort_unstable_by_key(|(number, _)| **number);
        all.into_iter().map(|(_, connected)| &connected.identity)
    }
}

/// The information about the receivers of a signal and sender that one source line connects. It is leaked, so it is created only once
/// for each source line.
pub(super) fn info(key: &Key, info: Info) -> &'static Info {
    static INFOS: Mutex<BTreeMap<CallSite, &'static Info>> = Mutex::new(BTreeMap::new());
    let mut infos = INFOS.lock().unwrap_or_else(PoisonError::into_inner);
    let call_site = (key.signal, key.sender, info.file, info.line);
    infos.entry(call_site).or_insert_with(|| Box::leak(Box::new(info)))
}

/// Signal, sender, file and line of a call of `connect`.
type CallSite = (TypeId, TypeId, &'static str, u32);
