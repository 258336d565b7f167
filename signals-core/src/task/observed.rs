//! The operations that receivers were observed to perform, for the diagrams of the registry. Only in debug builds.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use crate::task::info::Info;

/// The address of the receiver's `Info`, which is `'static`; the verb; and the name of the model or signal.
type Edges = BTreeSet<(usize, &'static str, &'static str)>;

static EDGES: RwLock<Edges> = RwLock::new(Edges::new());

/// Records that a receiver saves, deletes or sends something. In a release build this is a no-op.
pub(crate) fn note(receiver: &'static Info, verb: &'static str, what: &'static str) {
    if !cfg!(debug_assertions) {
        return;
    }
    let edge = (address(receiver), verb, what);
    if !EDGES.read().unwrap_or_else(PoisonError::into_inner).contains(&edge) {
        EDGES.write().unwrap_or_else(PoisonError::into_inner).insert(edge);
    }
}

/// The operations that a receiver was observed to perform so far: verb, and model or signal.
pub(crate) fn of(receiver: &'static Info) -> Vec<(&'static str, &'static str)> {
    let first = (address(receiver), "", "");
    let edges = EDGES.read().unwrap_or_else(PoisonError::into_inner);
    let own = edges.range(first..).take_while(|(of, ..)| *of == first.0);
    own.map(|(_, verb, what)| (*verb, *what)).collect()
}

fn address(receiver: &'static Info) -> usize {
    std::ptr::from_ref(receiver) as usize
}
