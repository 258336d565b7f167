//! One batch of a relay: claims deliveries of one subject, publishes them, and stores the results.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;

use super::Shared;
use super::cloud_event::message;
use super::publisher::Message;
use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::writer::Verb;
use crate::durable::claim::{self, Claim, Kind, bind_claims, later, now};
use crate::durable::claimed::Claimed;
use crate::durable::end_claim::{self, Failure};
use crate::durable::ended;
use crate::durable::receivers::DurableReceivers;
use crate::durable::run::failure;
use crate::durable::sql::Sql;
use crate::error::{Error, Result};
use crate::task::measure::Stopwatch;

/// How many messages are published at the same time.
const SIZE: usize = 512;
/// How often a batch looks for ordering keys with due deliveries. Each claim looks at a limited number of keys.
const CLAIMS: usize = 10;

/// What a batch has done.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Done {
    pub(super) claimed: usize,
    pub(super) published: usize,
}

/// What is known about the deliveries of one subject from its last batch.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// The ordering key at which the last claim has stopped. The next one starts after it, so that no key is passed over.
    last_key: Option<String>,
}

impl Shared {
    /// Publishes one batch of the deliveries that are stored under this name.
    pub(super) async fn batch(
        &self,
        receivers: &DurableReceivers,
        name: &str,
        position: &mut Position,
    ) -> Result<Done> {
        let is_ordered =
            receivers.entries_of(name).any(|receiver| receiver.form.ordering.is_some());
        let claimed = match is_ordered {
            true => self.claim_ordered(name, position).await?,
            false => self.claim(name, Kind::Published).await?,
        };
        if claimed.is_empty() {
            return Ok(Done::default());
        }
        let since = Stopwatch::start();
        let (mut messages, mut published, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for delivery in &claimed {
            let receiver = receivers.get(name, &delivery.signal, &delivery.sender);
            match receiver.map_or_else(
                || Err(unknown(delivery)),
                |receiver| message(delivery, receiver, &self.source),
            ) {
                Ok(message) => {
                    messages.push(message);
                    published.push(delivery);
                }
                Err(failure) => failures.push((delivery, failure)),
            }
        }
        let results = self.publish(&messages).await;
        let mut acknowledged = Vec::new();
        for (delivery, result) in published.into_iter().zip(results) {
            let options = receivers.options(name);
            match (result, options) {
                (Err(error), Some(options)) => {
                    failures.push((delivery, failure(&error, delivery.attempt, options)))
                }
                _ => acknowledged.push(delivery),
            }
        }
        self.store_results(&acknowledged, &failures).await?;
        self.note(name, &acknowledged, &failures, since);
        Ok(Done { claimed: claimed.len(), published: acknowledged.len() })
    }

    /// Publishes messages, and returns a result for each of them.
    async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let limit = self.lease / 2;
        let publishing = AssertUnwindSafe(self.publisher.publish(messages)).catch_unwind();
        let (mut results, missing) = match timeout(limit, publishing).await {
            Ok(Ok(results)) => (results, "the publisher has returned no result".to_owned()),
            Ok(Err(_)) => (Vec::new(), "the publisher has panicked".to_owned()),
            Err(_) => (Vec::new(), format!("the publisher did not finish within {limit:?}")),
        };
        results.resize_with(messages.len(), || Err(Error::other(missing.clone())));
        results
    }

    fn wanted<'s>(&'s self, receiver: &'s str, kind: Kind) -> Claim<'s> {
        let (lease, worker) = (self.lease, self.name.as_str());
        let (other_names, running) = (Vec::new(), Vec::new());
        Claim { receiver, kind, limit: SIZE, lease, worker, other_names, running, bound: 0 }
    }

    async fn claim(&self, name: &str, kind: Kind) -> Result<Vec<Claimed>> {
        let mut conn = self.connections.to_write(Verb::Claim).await?;
        let claim = async move {
            let claimed = claim::claim(&mut conn, &self.wanted(name, kind)).await?;
            conn.done().await.map(|()| claimed)
        };
        self.connections.limited(claim).await
    }

    /// Claims the oldest delivery of each key: from the key where the last claim has stopped to the last key, then once from the first one.
    async fn claim_ordered(&self, name: &str, position: &mut Position) -> Result<Vec<Claimed>> {
        let mut after = position.last_key.take();
        let mut is_first = after.is_none();
        for _ in 0..CLAIMS {
            let from = after.as_ref().map_or(String::new(), |key| format!("{key}\u{1}"));
            let from = from.as_str();
            let mut conn = self.connections.to_write(Verb::Claim).await?;
            let claim = async move {
                let wanted = self.wanted(name, Kind::Published);
                let claimed = claim::claim_ordered(&mut conn, &wanted, from, false).await?;
                let keys = claimed.iter().filter_map(|claimed| claimed.ordering_key.clone());
                let last = match claimed.is_empty() {
                    true => claim::last_key(&mut conn, name, from, false).await?,
                    false => keys.max(),
                };
                conn.done().await?;
                Ok((claimed, last))
            };
            let (claimed, last) = self.connections.limited(claim).await?;
            let is_last = last.is_none();
            after = last;
            if !claimed.is_empty() || is_last && is_first {
                position.last_key = after;
                return Ok(claimed);
            }
            is_first |= is_last;
        }
        position.last_key = after;
        Ok(Vec::new())
    }

    /// Deletes what was published, and stores the failures.
    async fn store_results(
        &self,
        acknowledged: &[&Claimed],
        failures: &[(&Claimed, Failure)],
    ) -> Result<()> {
        let claims: Vec<_> =
            acknowledged.iter().map(|claimed| (claimed.id, claimed.claim)).collect();
        if !claims.is_empty() {
            let claims = claims.as_slice();
            let mut conn = self.connections.to_write(Verb::Acknowledge).await?;
            let delete = async move {
                let deleted = end_claim::delete(&mut conn, claims).await?;
                conn.done().await.map(|()| deleted)
            };
            let deleted = self.connections.limited(delete).await?;
            if deleted.len() < claims.len() {
                let count = claims.len() - deleted.len();
                tracing::debug!(count, "published deliveries had passed to another relay");
            }
        }
        // Messages usually fail together, with the same error.
        let mut alike: BTreeMap<_, (Vec<_>, &Failure)> = BTreeMap::new();
        for (claimed, failure) in failures {
            let kind = (claimed.attempt, failure.is_dead, failure.error.as_str());
            let (claims, _) = alike.entry(kind).or_insert((Vec::new(), failure));
            claims.push((claimed.id, claimed.claim));
        }
        for (claims, failure) in alike.into_values() {
            let mut conn = self.connections.to_write(Verb::Fail).await?;
            let fail = async move {
                fail(&mut conn, &claims, failure).await?;
                conn.done().await
            };
            self.connections.limited(fail).await?;
        }
        Ok(())
    }

    /// Logs and measures what a batch has done.
    fn note(
        &self,
        name: &str,
        acknowledged: &[&Claimed],
        failures: &[(&Claimed, Failure)],
        since: Stopwatch,
    ) {
        let (metrics, now) = (self.metrics.of(name), Stopwatch::start());
        for delivery in acknowledged {
            ended::count(&self.db, name, true);
            metrics.ended("succeeded", since);
            if (delivery.attempt, delivery.lost) == (1, 0) {
                metrics.late(delivery.age(), now);
            }
        }
        for (claimed, failure) in failures {
            let Failure { delay, error, is_dead, .. } = failure;
            let outcome = if *is_dead { "dead" } else { "failed" };
            ended::count(&self.db, name, false);
            metrics.ended(outcome, since);
            let (id, attempt) = (claimed.id, claimed.attempt);
            match is_dead {
                true => tracing::error!(id, name, attempt, error, "a message is dead"),
                false => {
                    tracing::debug!(
                        id,
                        name,
                        attempt,
                        ?delay,
                        error,
                        "a message is published again"
                    )
                }
            }
        }
        if let Some((_, failure)) = failures.first() {
            let (count, error) = (failures.len(), &failure.error);
            tracing::warn!(name, count, error, "messages could not be published");
        }
    }

    /// Ends the claims of lost relays. Nothing of the program runs for these deliveries, so a lost relay is not counted.
    pub(super) async fn release_ended(&self, names: &[&str]) -> Result<()> {
        let mut conn = self.connections.to_write(Verb::Release).await?;
        let kind = conn.kind();
        let locks = match kind {
            DatabaseKind::Sqlite => "",
            DatabaseKind::Postgres => "FOR UPDATE SKIP LOCKED",
        };
        let names = serde_json::Value::from_iter(names.iter().copied()).to_string();
        let text = format!(
            "UPDATE signals_delivery SET worker = NULL, lost = 0 WHERE id IN (SELECT id FROM signals_delivery WHERE worker IS NOT NULL \
             AND ordering_key IS NOT NULL AND receiver IN ({}) AND dead_at IS NULL AND run_at <= {} LIMIT 1000 {locks})",
            crate::durable::sql::texts(kind, "$1"),
            now(kind)
        );
        let release = async move {
            Sql::new(kind, &text).bind(names).execute(&mut conn).await?;
            conn.done().await
        };
        self.connections.limited(release).await
    }
}

/// What follows if this program has no such publication.
fn unknown(claimed: &Claimed) -> Failure {
    let Claimed { signal, sender, .. } = claimed;
    let error = format!("nothing of this name publishes `{signal}` of `{sender}`");
    Failure { delay: Duration::from_secs(60), is_dead: false, counts: false, error }
}

/// Stores how messages have failed.
async fn fail(conn: &mut Conn<'_>, claims: &[(i64, i64)], failure: &Failure) -> Result<()> {
    let kind = conn.kind();
    let dead = if failure.is_dead { now(kind) } else { "NULL" };
    let text = claim::update_claimed(
        kind,
        &format!(
            "worker = NULL, lost = 0, error = $3, run_at = {}, dead_at = {dead}",
            later(kind, "$4")
        ),
    );
    let sql = bind_claims(Sql::new(kind, &text), kind, claims).bind(failure.error.as_str());
    sql.bind(claim::millis(failure.delay)).execute(conn).await.map(drop)
}
