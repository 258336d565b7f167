//! Creates a stream, or checks that the existing one is as it should be.

use std::collections::BTreeSet;

use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::{Config, Stream};
use sqlx_signals::{Error, Result};

/// Creates the stream if it does not exist.
///
/// # Errors
///
/// If it exists and differs, or if the server refuses it.
pub(crate) async fn ensure(context: &Context, wanted: &Config) -> Result<Stream> {
    let name = &wanted.name;
    let stream = context.get_or_create_stream(wanted.clone()).await.map_err(|error| {
        Error::other(format!("the stream `{name}` could not be looked up or created: {error}"))
    })?;
    check("stream", name, &differences(&stream.cached_info().config, wanted))?;
    Ok(stream)
}

/// Checks that nothing differs in an existing stream or consumer. `differences` are parts of a sentence.
pub(crate) fn check(what: &str, name: &str, differences: &[String]) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::other(format!("the {what} `{name}` exists, but {}", differences.join(", and "))))
}

/// What differs in the existing stream, as parts of a sentence.
fn differences(found: &Config, wanted: &Config) -> Vec<String> {
    let mut all = Vec::new();
    let set = |config: &Config| -> BTreeSet<String> { config.subjects.iter().cloned().collect() };
    // A stream without subjects has its name as its subject.
    if !wanted.subjects.is_empty() && set(found) != set(wanted) {
        let (found, wanted) = (found.subjects.join(", "), wanted.subjects.join(", "));
        all.push(format!("its subjects are {found} instead of {wanted}"));
    }
    if found.retention != wanted.retention {
        let (found, wanted) = (found.retention, wanted.retention);
        all.push(format!("its retention is {found:?} instead of {wanted:?}"));
    }
    // Without a window, the server has one of its own.
    let (found, wanted) = (found.duplicate_window, wanted.duplicate_window);
    if !wanted.is_zero() && found != wanted {
        all.push(format!("its duplicate_window is {found:?} instead of {wanted:?}"));
    }
    all
}
