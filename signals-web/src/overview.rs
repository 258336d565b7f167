//! The overview: the durable receivers, and the graph of all receivers.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use sqlx_signals::durable::{DeliveryState, ReceiverStatus, Status};
use sqlx_signals::registry;

use crate::error::WebError;
use crate::guard::Secrets;
use crate::layout::{self, Section, button, message};
use crate::link::{Base, with_query};
use crate::list::cell;
use crate::{Page, graph, text};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    done: String,
}

/// The page `/`.
pub(crate) async fn show(
    State(page): State<Arc<Page>>,
    base: Base,
    secrets: Secrets,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Html<String>, WebError> {
    let Query(asked) = asked?;
    let status = page.db.deliveries().bounded_status().await?;
    let content = html! {
        (message(&asked.done, 0))
        h1 { "Overview" }
        (totals(&base, &status))
        section aria-labelledby="receivers" {
            h2 #receivers { "Durable receivers" }
            @if status.receivers.is_empty() {
                p.empty { "This program has no durable receivers, and no deliveries are stored." }
            } @else {
                (table(&base, &secrets, &status, !page.is_read_only))
                p.note {
                    "Runs are those of the last minute in this process. A count with a + is larger than shown."
                }
            }
        }
        (graph::section(&base))
    };
    Ok(layout::page("Overview", Section::Overview, &base, &secrets, content))
}

/// The count of a state, and whether it is a lower bound.
fn counted(receiver: &ReceiverStatus, state: DeliveryState) -> (u64, bool) {
    match state {
        DeliveryState::Waiting => (receiver.waiting, receiver.at_least),
        DeliveryState::Running => (receiver.running, false),
        DeliveryState::Retrying => (receiver.retrying, false),
        _ => (receiver.dead, false),
    }
}

fn list(base: &Base, receiver: &str, state: DeliveryState) -> String {
    let values = [("receiver", receiver), ("state", &*state.to_string())];
    with_query(&base.path("/deliveries"), &values)
}

/// The sums of all receivers.
fn totals(base: &Base, status: &Status) -> Markup {
    let total = |state| {
        let counts = status.receivers.iter().map(|receiver| counted(receiver, state));
        let (counts, bounds): (Vec<_>, Vec<_>) = counts.unzip();
        let is_lower_bound =
            bounds.contains(&true) || counts.iter().any(|count| *count > Status::BOUND);
        let sum = counts.iter().map(|count| (*count).min(Status::BOUND)).sum();
        text::total(sum, is_lower_bound)
    };
    html! {
        ul.totals aria-label="Deliveries of all receivers" {
            @for state in text::COUNTED {
                li {
                    a.(state.to_string()) href=(list(base, "", state)) {
                        strong { (total(state)) } span { (state.to_string()) }
                    }
                }
            }
        }
    }
}

const HEAD: [&str; 9] = [
    "Receiver", "Queue", "Runs", "Waiting", "Running", "Retrying", "Dead", "Blocked keys",
    "Oldest due",
];

fn table(base: &Base, secrets: &Secrets, status: &Status, can_change: bool) -> Markup {
    html! {
        div.scroll {
            table.cards role="table" {
                caption.hidden { "Durable receivers and the number of their deliveries" }
                thead role="rowgroup" { tr role="row" {
                    @for head in HEAD { th.number[!["Receiver", "Queue"].contains(&head)] role="columnheader" scope="col" { (head) } }
                    @if can_change { th role="columnheader" scope="col" { span.hidden { "Actions" } } }
                } }
                tbody role="rowgroup" {
                    @for receiver in &status.receivers { (line(base, secrets, receiver, can_change)) }
                }
            }
        }
    }
}

fn line(base: &Base, secrets: &Secrets, status: &ReceiverStatus, can_change: bool) -> Markup {
    let name = &*status.receiver;
    let of_name = || registry().receivers().filter(|r| r.delivery_name() == Some(name));
    let is_paused = of_name().next().is_some() && of_name().all(|receiver| !receiver.is_enabled());
    let lag = status.oldest_lag.map_or_else(|| "–".to_owned(), text::duration);
    html! {
        tr id={ "r-" (name) } role="row" {
            th role="rowheader" scope="row" data-label="Receiver" {
                (text::receiver(name))
                @if is_paused { span.badge.paused { "paused" } }
            }
            (cell("Queue", queue(status)))
            td.number role="cell" data-label="Runs" { div { (runs(status)) } }
            @for state in text::COUNTED { (count(base, status, state)) }
            td.number role="cell" data-label="Blocked keys" { (number(status.blocked_keys)) }
            td.number role="cell" data-label="Oldest due" { div { (lag) } }
            @if can_change { td.actions role="cell" { (switch(base, secrets, name, of_name().next().is_some(), is_paused)) } }
        }
    }
}

fn queue(status: &ReceiverStatus) -> Markup {
    let unknown = "It was renamed or removed, or belongs to another program.";
    html! {
        @match status.queue {
            Some(queue) => (queue),
            None => span.badge.dead title=(unknown) { "unknown receiver" },
        }
    }
}

fn number(count: u64) -> Markup {
    html! { div { @if count == 0 { span.zero { "0" } } @else { (text::count(count, false)) } } }
}

fn runs(status: &ReceiverStatus) -> Markup {
    html! {
        (status.succeeded_last_minute) "/min"
        @if status.failed_last_minute > 0 { small.failed { (status.failed_last_minute) " failed" } }
    }
}

fn count(base: &Base, status: &ReceiverStatus, state: DeliveryState) -> Markup {
    let (count, is_lower_bound) = counted(status, state);
    let (name, shown) = (state.to_string(), text::count(count, is_lower_bound));
    let label = name[..1].to_uppercase() + &name[1..];
    html! {
        td.number role="cell" data-label=(label) {
            div {
                @if count == 0 { span.zero { "0" } }
                @else { a.(name) href=(list(base, &status.receiver, state)) { (shown) span.hidden { " " (name) } } }
            }
        }
    }
}

/// The button that pauses or resumes the receiver.
fn switch(base: &Base, secrets: &Secrets, name: &str, is_known: bool, is_paused: bool) -> Markup {
    if !is_known {
        return html! {};
    }
    let (path, verb) =
        if is_paused { ("/receivers/resume", "Resume") } else { ("/receivers/pause", "Pause") };
    let submit = html! {
        button.plain type="submit" title="In this process only" aria-label={ (verb) " " (name) } { (verb) }
    };
    button(secrets, &base.path(path), &[("receiver", name)], submit)
}
