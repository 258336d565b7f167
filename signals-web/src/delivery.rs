//! The page of one delivery.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use sqlx_signals::durable::{DeliveryState, StoredDelivery, Uuid};
use sqlx_signals::registry;

use crate::Page;
use crate::error::WebError;
use crate::guard::Secrets;
use crate::layout::{self, Section, button, message};
use crate::link::{Base, with_query};
use crate::{list, text};

/// The query of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    payload: String,
    done: String,
}

/// The page `/deliveries/{id}`.
pub(crate) async fn show(
    State(page): State<Arc<Page>>,
    base: Base,
    secrets: Secrets,
    id: Result<Path<i64>, PathRejection>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Html<String>, WebError> {
    let (Path(id), Query(asked)) = (id?, asked?);
    let Some(delivery) = page.db.deliveries().get(id).await? else {
        let gone = "There is no delivery with this number. A delivery is deleted when its receiver has succeeded, unless the receiver has the option keep.";
        let content =
            html! { (message(&asked.done, 0)) h1 { "Delivery " (id) } p.empty { (gone) } };
        return Ok(layout::page(
            &format!("Delivery {id}"),
            Section::Deliveries,
            &base,
            &secrets,
            content,
        ));
    };
    let content = html! {
        (message(&asked.done, 0))
        div.title {
            h1 { "Delivery " (id) }
            (text::state(delivery.state()))
            @if !page.is_read_only { (actions(&base, &secrets, &delivery)) }
        }
        (facts(&base, &delivery))
        @if let Some(error) = &delivery.error {
            section aria-labelledby="error" {
                h2 #error { "Error of the last failed attempt" }
                p.cause { (list::cause(error)) }
                pre.error tabindex="0" aria-label="The whole error with its causes" { (error) }
            }
        }
        (chain(&delivery))
        @if page.shows_payloads { (payload(&base, &delivery, asked.payload == "shown")) }
    };
    Ok(layout::page(&format!("Delivery {id}"), Section::Deliveries, &base, &secrets, content))
}

fn actions(base: &Base, secrets: &Secrets, delivery: &StoredDelivery) -> Markup {
    let (id, state) = (delivery.id, delivery.state());
    if matches!(state, DeliveryState::Running | DeliveryState::Done) {
        return html! {};
    }
    let action = |what: &str| base.path(format_args!("/deliveries/{id}/{what}"));
    let state = [("state", &*state.to_string())];
    html! {
        div.buttons {
            (button(secrets, &action("retry"), &[], html! { button type="submit" { "Retry now" } }))
            details.confirm {
                summary { "Discard…" }
                p { "The delivery is deleted, and its receiver does not run. This cannot be undone." }
                (button(secrets, &action("discard"), &state, html! { button.bad type="submit" { "Discard delivery " (id) } }))
            }
        }
    }
}

fn facts(base: &Base, delivery: &StoredDelivery) -> Markup {
    let of_receiver = with_query(&base.path("/deliveries"), &[("receiver", &*delivery.receiver)]);
    let receiver = registry().receivers().find(|r| r.delivery_name() == Some(&*delivery.receiver));
    let attempts = receiver.as_ref().and_then(|receiver| receiver.max_attempts());
    let optional = |name: &str, value: &Option<String>| {
        html! { @if let Some(value) = value { dt { (name) } dd { (value) } } }
    };
    html! {
        dl.facts {
            dt { "Receiver" }
            dd {
                a href=(of_receiver) { (delivery.receiver) }
                @match &receiver {
                    Some(receiver) => { small { (receiver.file()) ":" (receiver.line()) } }
                    None => { small { "This program does not have it: it was renamed or removed, or belongs to another program." } }
                }
            }
            dt { "Event" }
            dd {
                (list::event(delivery))
                @if delivery.created == Some(true) { ", a new row" }
                small { (delivery.event) }
            }
            dt { "Attempts" }
            dd { (delivery.attempt) @if let Some(attempts) = attempts { " of " (attempts) } }
            dt { "Stored" }
            dd { (text::when(delivery.stored_at)) }
            dt { "Due" }
            dd { (list::due(delivery)) }
            (optional("Ordering key", &delivery.ordering_key))
            (optional("Worker", &delivery.worker))
            @if delivery.lost > 0 { dt { "Workers lost" } dd { (delivery.lost) } }
        }
    }
}

/// What has caused the event: the column `context`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    correlation: Option<Uuid>,
    caused_by: Option<Uuid>,
    receivers: Vec<String>,
}

/// The chain of receivers that caused this event, in order. Of the events between the first and the last one, only the receivers are
/// stored.
fn chain(delivery: &StoredDelivery) -> Markup {
    let cause = delivery.context.as_deref().and_then(|context| serde_json::from_str(context).ok());
    let Cause { correlation, caused_by, receivers } = cause.unwrap_or_default();
    if receivers.is_empty() {
        return html! {};
    }
    let last = receivers.len() - 1;
    html! {
        section aria-labelledby="chain" {
            h2 #chain { "What has caused it" }
            ol.chain {
                @for (n, receiver) in receivers.iter().enumerate() {
                    li {
                        (text::receiver(receiver))
                        @match (n, correlation, caused_by) {
                            (0, Some(event), _) => { small { "received event " (event) (at(event)) } }
                            (n, _, Some(event)) if n == last => { small { "received event " (event) (at(event)) } }
                            _ => {}
                        }
                    }
                }
                li.current { (text::receiver(&delivery.receiver)) small { "received event " (delivery.event) ", this one" } }
            }
        }
    }
}

/// When an event was stored. Its id contains the time, by the clock of the process that stored it.
fn at(event: Uuid) -> Markup {
    let time = event.get_timestamp().map(|time| {
        let (seconds, nanos) = time.to_unix();
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
    });
    html! { @if let Some(time) = time { ", " (text::when(time)) } }
}

fn payload(base: &Base, delivery: &StoredDelivery, is_shown: bool) -> Markup {
    let shown = with_query(&base.delivery(delivery.id), &[("payload", "shown")]);
    let pretty = || {
        let value = serde_json::from_str::<serde_json::Value>(&delivery.payload);
        value
            .and_then(|value| serde_json::to_string_pretty(&value))
            .unwrap_or_else(|_| delivery.payload.clone())
    };
    html! {
        section aria-labelledby="payload" {
            h2 #payload { "Payload" }
            @if is_shown {
                pre tabindex="0" { (pretty()) }
                p { a href=(base.delivery(delivery.id)) { "Hide the payload" } }
            } @else {
                p { a href=(shown) { "Show the payload" } " It contains what the row contained, which can be personal data." }
            }
        }
    }
}
