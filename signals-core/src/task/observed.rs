//! What receivers were seen to do: in debug builds only, for the pictures that the registry draws.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use crate::task::info::Info;

/// By the address of a receiver's `Info`, which is there as long as the program is; then the verb and the name.
type Edges = BTreeSet<(usize, &'static str, &'static str)>;

static EDGES: RwLock<Edges> = RwLock::new(Edges::new());

/// A receiver saves, deletes or sends something. In a release build this is nothing.
pub(crate) fn note(receiver: &'static Info, verb: &'static str, what: &'static str) {
    if !cfg!(debug_assertions) {
        return;
    }
    let edge = (address(receiver), verb, what);
    if !EDGES.read().unwrap_or_else(PoisonError::into_inner).contains(&edge) {
        EDGES.write().unwrap_or_else(PoisonError::into_inner).insert(edge);
    }
}

/// What a receiver was seen to do so far: the verbs, and the models or signals.
pub(crate) fn of(receiver: &'static Info) -> Vec<(&'static str, &'static str)> {
    let first = (address(receiver), "", "");
    let edges = EDGES.read().unwrap_or_else(PoisonError::into_inner);
    let own = edges.range(first..).take_while(|(of, ..)| *of == first.0);
    own.map(|(_, verb, what)| (*verb, *what)).collect()
}

fn address(receiver: &'static Info) -> usize {
    std::ptr::from_ref(receiver) as usize
}
