//! Interned names: they are kept for the life of the process.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The same text with a `'static` lifetime. The memory is never freed, so this is only for a small number of distinct texts.
pub(crate) fn interned(text: &str) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text) {
        return known;
    }
    let leaked: &'static str = Box::leak(text.into());
    texts.insert(leaked);
    leaked
}
