//! The consumer of a subject, as the program needs it.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config as AnyConfig, Consumer, pull};
use async_nats::jetstream::stream::Stream;
use sqlx_signals::{Error, Result};

use crate::stream::check;

/// Creates the consumer if it does not exist.
///
/// # Errors
///
/// If it exists and differs, or if the server refuses it.
pub(crate) async fn ensure(
    stream: &Stream,
    name: String,
    subject: &str,
    ack_wait: Option<Duration>,
) -> Result<Consumer<pull::Config>> {
    let wanted = pull::Config {
        durable_name: Some(name.clone()),
        filter_subject: subject.to_owned(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ack_wait.unwrap_or_default(),
        ..pull::Config::default()
    };
    let found = stream.get_or_create_consumer(&name, wanted).await;
    let consumer = found.map_err(|error| {
        Error::other(format!("the consumer `{name}` could not be looked up or created: {error}"))
    })?;
    check("consumer", &name, &differences(&consumer.cached_info().config, subject, ack_wait))?;
    Ok(consumer)
}

fn differences(found: &AnyConfig, subject: &str, ack_wait: Option<Duration>) -> Vec<String> {
    let mut differences = Vec::new();
    if found.filter_subject != subject {
        let found = &found.filter_subject;
        differences.push(format!("its subject is {found} instead of {subject}"));
    }
    if found.ack_policy != AckPolicy::Explicit {
        let found = found.ack_policy;
        differences.push(format!("its ack_policy is {found:?} instead of Explicit"));
    }
    if let Some(wanted) = ack_wait.filter(|wanted| *wanted != found.ack_wait) {
        let found = found.ack_wait;
        differences.push(format!("its ack_wait is {found:?} instead of {wanted:?}"));
    }
    if found.max_deliver > 0 {
        let found = found.max_deliver;
        differences.push(format!("it gives up after {found} attempts, so that messages are lost"));
    }
    differences
}
