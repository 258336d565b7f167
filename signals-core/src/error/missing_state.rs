//! A receiver takes a state that the `Db` was not given.

use std::fmt;

/// A receiver takes a state that is not there. `{}` has the type without paths, `{:#}` with them.
#[derive(Debug)]
pub(crate) struct MissingState {
    pub(crate) ty: &'static str,
    pub(crate) has_db: bool,
}

impl fmt::Display for MissingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = if f.alternate() { self.ty.to_owned() } else { without_paths(self.ty) };
        match self.has_db {
            true => write!(f, "there is no state `{ty}`: give it with `db.with(…)`"),
            false => write!(f, "it takes a `State<{ty}>`, and the save went through no `Db`"),
        }
    }
}

impl std::error::Error for MissingState {}

/// The name of a type, in which each path is its last segment.
fn without_paths(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    let mut parts = name.split("::").peekable();
    while let Some(part) = parts.next() {
        // What stands before `::` is an identifier at the end of the part.
        let is_identifier = |c: char| c.is_alphanumeric() || matches!(c, '_' | '{' | '}' | '#');
        let kept = if parts.peek().is_some() { part.trim_end_matches(is_identifier) } else { part };
        short.push_str(kept);
    }
    short
}
