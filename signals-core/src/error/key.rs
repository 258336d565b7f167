//! How errors name the key of a row.

use std::fmt::Debug;

use super::Error;

/// The key, as an error has it, of a row that has none.
pub(crate) const NO_KEY: &str = "`None`";

/// The error for a key that has no row.
pub(crate) fn no_row(model: &'static str, key: Option<&dyn Debug>) -> Error {
    Error::NotFound { model, key: key_text(key) }
}

/// A key, as errors print it.
pub(crate) fn key_text<K: Debug>(key: Option<K>) -> String {
    key.map_or_else(|| NO_KEY.to_owned(), |key| format!("{key:?}"))
}
