//! How errors print the key of a row.

use std::fmt::Debug;

use super::Error;

/// What errors print as the key of a row without a key.
pub(crate) const NO_KEY: &str = "`None`";

/// The error for a key without a row.
pub(crate) fn no_row(model: &'static str, key: Option<&dyn Debug>) -> Error {
    Error::NotFound { model, key: key_text(key) }
}

/// The text of a key in an error.
pub(crate) fn key_text<K: Debug>(key: Option<K>) -> String {
    key.map_or_else(|| NO_KEY.to_owned(), |key| format!("{key:?}"))
}
