//! Receivers that are connected at run time.

use crate::task::info::Identity;
use crate::task::info::Info;
use std::any::TypeId;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::signal::erased::ErasedEntry;

#[derive(Debug)]
pub(super) struct Connected {
    pub(super) identity: Identity,
    pub(super) entry: Arc<dyn ErasedEntry>,
}

/// Which receiver it is.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) signal: TypeId,
    pub(super) sender: TypeId,
    pub(super) uid: Arc<str>,
}

/// All that are connected, by signal and sender.
#[derive(Debug, Default)]
pub(super) struct AllConnected {
    by_sender: HashMap<(TypeId, TypeId), OfSender>,
    /// How often one was connected so far: they run in that order.
    count: u64,
}

#[derive(Debug, Default)]
struct OfSender {
    by_uid: HashMap<Arc<str>, u64>,
    in_order: BTreeMap<u64, Connected>,
}

impl AllConnected {
    /// Connects a receiver, unless there is one of this identity.
    pub(super) fn connect(&mut self, key: &Key, connected: Connected) {
        let of = self.by_sender.entry((key.signal, key.sender)).or_default();
        if let Entry::Vacant(place) = of.by_uid.entry(Arc::clone(&key.uid)) {
            self.count += 1;
            place.insert(self.count);
            of.in_order.insert(self.count, connected);
        }
    }

    /// Disconnects a receiver, and returns it if it was connected.
    pub(super) fn disconnect(&mut self, key: &Key) -> Option<Connected> {
        let Entry::Occupied(mut of) = self.by_sender.entry((key.signal, key.sender)) else {
            return None;
        };
        let place = of.get_mut().by_uid.remove(&key.uid)?;
        let connected = of.get_mut().in_order.remove(&place);
        if of.get().by_uid.is_empty() {
            of.remove();
        }
        connected
    }

    /// The receivers of a signal from these senders, in their order.
    pub(super) fn of(
        &self,
        signal: TypeId,
        senders: &[TypeId],
    ) -> impl Iterator<Item = &Connected> {
        let of = senders.iter().filter_map(|sender| self.by_sender.get(&(signal, *sender)));
        let mut all: Vec<_> = of.flat_map(|of| &of.in_order).collect();
        all.sort_unstable_by_key(|(place, _)| **place);
        all.into_iter().map(|(_, connected)| connected)
    }

    /// All of them, in their order.
    pub(super) fn identities(&self) -> impl Iterator<Item = &Identity> {
        let mut all: Vec<_> = self.by_sender.values().flat_map(|of| &of.in_order).collect();
        all.sort_unstable_by_key(|(place, _)| **place);
        all.into_iter().map(|(_, connected)| &connected.identity)
    }
}

/// What there is to know of the receivers of this signal and sender that are connected at a place in the source: the same
/// each time, because it is kept as long as the program runs.
pub(super) fn info(key: &Key, info: Info) -> &'static Info {
    static INFOS: Mutex<BTreeMap<Place, &'static Info>> = Mutex::new(BTreeMap::new());
    let mut infos = INFOS.lock().unwrap_or_else(PoisonError::into_inner);
    let place = (key.signal, key.sender, info.file, info.line);
    infos.entry(place).or_insert_with(|| Box::leak(Box::new(info)))
}

type Place = (TypeId, TypeId, &'static str, u32);
