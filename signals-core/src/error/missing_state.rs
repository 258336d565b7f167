//! The error of a receiver that takes a `State<T>` that the `Db` does not have.

use std::fmt;

/// The `Db` has no value of the type that a receiver takes. `{}` prints the type without paths, `{:#}` with them.
#[derive(Debug)]
pub(crate) struct MissingState {
    pub(crate) ty: &'static str,
    pub(crate) has_db: bool,
}

impl fmt::Display for MissingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = if f.alternate() { self.ty.to_owned() } else { without_paths(self.ty) };
        match self.has_db {
            true => write!(f, "the `Db` has no state `{ty}`: add it with `db.with(…)`"),
            false => write!(
                f,
                "it takes a `State<{ty}>`, but the save did not go through a `Db`: save through one, or call `db.with(…)` and \
                 `make_default()` when the program starts"
            ),
        }
    }
}

impl std::error::Error for MissingState {}

/// The name of a type in which each path is reduced to its last segment.
pub(super) fn without_paths(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    let mut parts = name.split("::").peekable();
    while let Some(part) = parts.next() {
        // The path segment before `::` is the identifier at the end of the part.
        let is_identifier = |c: char| c.is_alphanumeric() || matches!(c, '_' | '{' | '}' | '#');
        let kept = if parts.peek().is_some() { part.trim_end_matches(is_identifier) } else { part };
        short.push_str(kept);
    }
    short
}
