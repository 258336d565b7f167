//! The assertion that the receivers of the program are those in the lock file.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::signal::registry::registry;

/// The environment variable that makes [`assert_locked`] write the file.
const VARIABLE: &str = "SIGNALS_LOCK";

/// Asserts that the receivers of the program are those in a file of the repository. A change of the receivers then appears as a changed
/// line in the review.
///
/// The file has the content that [`Registry::to_lock`](crate::Registry::to_lock) returns. A relative path starts at the directory
/// of the package's `Cargo.toml`. `SIGNALS_LOCK=update cargo test` creates or updates the file. Without this variable, the function
/// writes nothing.
///
/// Only receivers that are linked into the test binary are compared. Write the test in its own file in `tests/`, without other receivers,
/// and link the program's library there with `use my_app as _;`.
///
/// ```
/// use sqlx_signals::testing;
///
/// # let dir = std::env::temp_dir().join(format!("signals_lock_{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let path = dir.join("signals.lock");
/// # std::fs::write(&path, sqlx_signals::registry().to_lock())?;
/// fn the_receivers_are_unchanged() {
///     testing::assert_locked("signals.lock");
/// }
/// # testing::assert_locked(&path);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// - If the receivers of the program differ from the file. The message lists the receivers that are only in the file with `-`, and
///   the receivers that are only in the program with `+`. It names the durable receivers that are gone, whose deliveries may be waiting.
/// - If the file cannot be read or written.
#[track_caller]
pub fn assert_locked(path: impl AsRef<Path>) {
    let path = in_package(path.as_ref());
    let (shown, now) = (path.display(), registry().to_lock());
    if env::var_os(VARIABLE).is_some_and(|value| value == "update") {
        if let Err(error) = std::fs::write(&path, now) {
            panic!("`{shown}` cannot be written: {error}");
        }
        return;
    }
    let locked = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("`{shown}` cannot be read: {error}; `{VARIABLE}=update cargo test` writes it")
    });
    if let Some(difference) = difference(&locked, &now) {
        let renamed = gone_names(&difference, &now).into_iter().map(|name| {
            format!(
                "deliveries of `{name}` may be waiting: name it with `was = \"{name}\"` in the receiver that takes its place\n"
            )
        });
        let renamed = renamed.collect::<String>();
        panic!(
            "the receivers of the program are not those in `{shown}`:\n{difference}{renamed}\
             `{VARIABLE}=update cargo test` updates the file if this change is intended"
        );
    }
}

/// The names of durable receivers of whose deliveries the program no longer has a receiver.
fn gone_names<'d>(difference: &'d str, now: &str) -> BTreeSet<&'d str> {
    let is_known = |name: &str| {
        let was = format!(" was = {name:?}");
        now.lines().any(|line| delivery_name(line) == Some(name) || line.contains(&was))
    };
    let gone = difference.lines().filter_map(|line| delivery_name(line.strip_prefix("- ")?));
    gone.filter(|name| !is_known(name)).collect()
}

/// The name of the deliveries of a durable receiver, from its line in the file.
fn delivery_name(line: &str) -> Option<&str> {
    let (name, options) = line.split_once(" → ")?.1.split_once(" (durable")?;
    let uid = options.split_once(" uid = \"").and_then(|(_, uid)| uid.split('"').next());
    Some(uid.unwrap_or(name))
}

fn in_package(path: &Path) -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    package.join(path)
}

/// The lines that only one of the two texts contains, sorted. `None` if there are none.
fn difference(locked: &str, now: &str) -> Option<String> {
    let lines = |text| {
        let mut lines: Vec<_> = str::lines(text).filter(|line| !line.starts_with('#')).collect();
        // `to_lock` returns sorted lines, but a manual merge may have changed the order in the file.
        lines.sort_unstable();
        lines.into_iter().peekable()
    };
    let (mut locked, mut now) = (lines(locked), lines(now));
    let mut difference = String::new();
    loop {
        let (sign, line) = match (locked.peek(), now.peek()) {
            (None, None) => break,
            (Some(_), None) => ('-', locked.next()),
            (None, Some(_)) => ('+', now.next()),
            (Some(old), Some(new)) => match old.cmp(new) {
                Ordering::Less => ('-', locked.next()),
                Ordering::Greater => ('+', now.next()),
                Ordering::Equal => {
                    locked.next();
                    now.next();
                    continue;
                }
            },
        };
        let _ = writeln!(difference, "{sign} {}", line.unwrap_or_default());
    }
    (!difference.is_empty()).then_some(difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_gone_if_no_durable_receiver_has_their_name() {
        let now = "post_save of A → a::kept (durable, default) payload(id)\n\
                   post_save of A → a::new (durable, default) payload(id) was = \"a::old\"\n\
                   post_save of A → a::renamed (durable, default) payload(id) uid = \"uid\"\n\
                   post_save of A → a::late (on commit)\n";
        let gone = |line: &str| {
            let difference = format!("- post_save of A → {line}\n");
            gone_names(&difference, now).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        for known in [
            "a::kept (durable, other)",
            "a::old (durable, default)",
            "a::other (durable, default) uid = \"uid\"",
            "a::kept (durable, default) uid = \"a::kept\"",
            "a::gone (on commit)",
        ] {
            assert_eq!(gone(known), [""; 0], "{known}");
        }
        assert_eq!(gone("a::renamed (durable, default)"), ["a::renamed"]);
        assert_eq!(gone("a::late (durable, default)"), ["a::late"]);
        assert_eq!(gone("a::kept (durable, default) uid = \"former\""), ["former"]);
    }
}
