//! The list of deliveries.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use sqlx_signals::durable::{DeliveryFilter, DeliveryState, StoredDelivery};
use sqlx_signals::registry;

use crate::Page;
use crate::error::WebError;
use crate::guard::{Change, Secrets};
use crate::layout::{self, Section, button, message};
use crate::link::{Base, with_query};
use crate::text;

/// The number of deliveries on a page.
const ROWS: usize = 50;

/// Which deliveries are listed. An empty text selects all.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Selected {
    receiver: String,
    state: String,
}

impl Selected {
    pub(crate) fn of_form(form: &Change) -> Self {
        Self { receiver: form.get("receiver").to_owned(), state: form.get("state").to_owned() }
    }

    pub(crate) fn query(&self) -> [(&'static str, &str); 2] {
        [("receiver", &self.receiver), ("state", &self.state)]
    }

    pub(crate) fn filter(&self) -> DeliveryFilter {
        let mut filter = DeliveryFilter::new();
        if !self.receiver.is_empty() {
            filter = filter.receiver_name(&self.receiver);
        }
        match self.state() {
            Some(state) => filter.state(state),
            None => filter,
        }
    }

    fn state(&self) -> Option<DeliveryState> {
        text::state_of(&self.state)
    }
}

/// The position of the page in the list, and the result of the last button.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Position {
    older_than: Option<i64>,
    newer_than: Option<i64>,
    done: String,
    count: u64,
}

/// The newest deliveries first.
struct Listed {
    rows: Vec<StoredDelivery>,
    /// Where the page before them ends.
    newer_than: Option<i64>,
    /// Where the page after them starts.
    older_than: Option<i64>,
    /// Where the list continues, if it has passed so many other deliveries that the page is not full.
    continues: Option<&'static str>,
}

async fn read(page: &Page, selected: &Selected, position: &Position) -> Result<Listed, WebError> {
    let filter = selected.filter().without_payloads().limit(ROWS);
    let deliveries = page.db.deliveries();
    let filter = match (position.newer_than, position.older_than) {
        (Some(id), _) => filter.after_id(id),
        (None, Some(id)) => filter.newest_first().after_id(id),
        (None, None) => filter.newest_first(),
    };
    let found = deliveries.page(filter).await?;
    let (mut rows, next) = (found.deliveries, found.next);
    let is_partial = rows.len() < ROWS && next.is_some();
    let way = if position.newer_than.is_some() { "newer" } else { "older" };
    let (newer_than, older_than) = match position.newer_than {
        Some(id) => {
            rows.reverse();
            (next, id.checked_add(1))
        }
        None => (position.older_than.and_then(|id| id.checked_sub(1)), next),
    };
    Ok(Listed { rows, newer_than, older_than, continues: is_partial.then_some(way) })
}

/// The page `/deliveries`.
pub(crate) async fn show(
    State(page): State<Arc<Page>>,
    base: Base,
    secrets: Secrets,
    selected: Result<Query<Selected>, QueryRejection>,
    position: Result<Query<Position>, QueryRejection>,
) -> Result<Html<String>, WebError> {
    let (Query(selected), Query(position)) = (selected?, position?);
    let listed = read(&page, &selected, &position).await?;
    let can_change = !page.is_read_only;
    let content = html! {
        (message(&position.done, position.count))
        h1 { "Deliveries" }
        (choice(&base, &selected))
        @if listed.rows.is_empty() && listed.continues.is_none() {
            p.empty { (nothing(&position)) }
        } @else {
            @if can_change { (retry_all(&base, &secrets, &selected)) }
            @if !listed.rows.is_empty() { (table(&base, &secrets, &selected, &listed.rows, can_change)) }
        }
        @if let Some(way) = listed.continues {
            p.empty { "Many other deliveries have been passed here. The list continues with " (way) " ones." }
        }
        (pages(&base, &selected, &listed))
    };
    Ok(layout::page("Deliveries", Section::Deliveries, &base, &secrets, content))
}

/// What an empty page says at the end of the list.
fn nothing(position: &Position) -> &'static str {
    match position {
        Position { older_than: None, newer_than: None, .. } => {
            "There are no such deliveries. A delivery is deleted when its receiver has succeeded, unless the receiver has the option keep."
        }
        _ => "There are no more such deliveries.",
    }
}

/// The form that chooses receiver and state.
fn choice(base: &Base, selected: &Selected) -> Markup {
    let mut names: Vec<_> = registry().receivers().filter_map(|r| r.delivery_name()).collect();
    if !selected.receiver.is_empty() {
        names.push(&selected.receiver);
    }
    names.sort_unstable();
    names.dedup();
    html! {
        form.choice method="get" action=(base.path("/deliveries")) role="search" aria-label="Choose deliveries" {
            label { span { "Receiver" }
                select name="receiver" {
                    option value="" { "All receivers" }
                    @for name in names { option value=(name) selected[name == selected.receiver] { (name) } }
                }
            }
            label { span { "State" }
                select name="state" {
                    option value="" { "All but done" }
                    @for state in text::STATES {
                        option value=(state.to_string()) selected[Some(state) == selected.state()] { (state.to_string()) }
                    }
                }
            }
            button.plain type="submit" { "Show" }
        }
    }
}

/// The button that retries every failed delivery of the list, after a confirmation.
fn retry_all(base: &Base, secrets: &Secrets, selected: &Selected) -> Markup {
    let state = match selected.state() {
        None => "failed",
        Some(DeliveryState::Retrying) => "retrying",
        Some(DeliveryState::Dead) => "dead",
        Some(_) => return html! {},
    };
    let submit = html! { button type="submit" { "Retry all " (state) } };
    html! {
        details.confirm {
            summary { "Retry all " (state) "…" }
            p {
                "Every " (state) " delivery"
                @if !selected.receiver.is_empty() { " of " strong { (selected.receiver) } }
                " becomes due now, with all its attempts left. Deliveries on other pages of the list are included."
            }
            (button(secrets, &base.path("/deliveries/retry"), &selected.query(), submit))
        }
    }
}

fn table(
    base: &Base,
    secrets: &Secrets,
    selected: &Selected,
    rows: &[StoredDelivery],
    can_change: bool,
) -> Markup {
    html! {
        div.scroll data-still[can_change] {
            table.cards role="table" {
                caption.hidden { "Deliveries, the newest first" }
                thead role="rowgroup" { tr role="row" {
                    @for head in ["Delivery", "State", "Receiver", "Event", "Attempt", "Stored", "Due", "Error"] {
                        th role="columnheader" scope="col" { (head) }
                    }
                    @if can_change { th role="columnheader" scope="col" { span.hidden { "Actions" } } }
                } }
                tbody role="rowgroup" {
                    @for row in rows { (line(base, secrets, selected, row, can_change)) }
                }
            }
        }
    }
}

fn line(
    base: &Base,
    secrets: &Secrets,
    selected: &Selected,
    row: &StoredDelivery,
    can_change: bool,
) -> Markup {
    let (id, state) = (row.id, row.state());
    let failed = matches!(state, DeliveryState::Dead | DeliveryState::Retrying);
    let from = [&selected.query()[..], &[("from", "list")]].concat();
    let retry =
        html! { button.plain type="submit" aria-label={ "Retry delivery " (id) } { "Retry" } };
    html! {
        tr id={ "d" (id) } role="row" {
            th role="rowheader" scope="row" data-label="Delivery" { a href=(base.delivery(id)) { (id) } }
            (cell("State", text::state(state)))
            (cell("Receiver", html! { span.name title=(row.receiver) { (text::short(&row.receiver)) } }))
            (cell("Event", event(row)))
            (cell("Attempt", html! { (row.attempt) }))
            (cell("Stored", text::when(row.stored_at)))
            (cell("Due", due(row)))
            td.error role="cell" data-label="Error" {
                @if let Some(error) = &row.error { div { (text::start(cause(error), 140)) } }
            }
            @if can_change {
                td.actions role="cell" {
                    @if failed { (button(secrets, &base.path(format_args!("/deliveries/{id}/retry")), &from, retry)) }
                }
            }
        }
    }
}

/// A cell. On a narrow screen it is a line, with its label on the left.
pub(crate) fn cell(label: &str, content: Markup) -> Markup {
    html! { td role="cell" data-label=(label) { div { (content) } } }
}

/// The cause of a failure, without the name and the source location of the receiver.
pub(crate) fn cause(error: &str) -> &str {
    error.split_once(") failed: ").map_or(error, |(_, cause)| cause)
}

/// The signal and the row.
pub(crate) fn event(delivery: &StoredDelivery) -> Markup {
    html! {
        (delivery.signal)
        @if !delivery.sender.is_empty() { " of " (delivery.sender) }
        @if let Some(key) = &delivery.key { " " (text::start(key, 40)) }
    }
}

/// When a delivery runs, for each of its states.
pub(crate) fn due(delivery: &StoredDelivery) -> Markup {
    if let Some(done_at) = delivery.done_at {
        return html! { "done since " (text::when(done_at)) };
    }
    match (delivery.state(), delivery.dead_at) {
        (_, Some(dead_at)) => html! { "dead since " (text::when(dead_at)) },
        (DeliveryState::Running, _) => html! { "running" },
        _ => text::when(delivery.run_at),
    }
}

/// The links to the pages before and after this one.
fn pages(base: &Base, selected: &Selected, listed: &Listed) -> Markup {
    let list = base.path("/deliveries");
    let link = |name, id: i64| {
        with_query(&list, &[&selected.query()[..], &[(name, &*id.to_string())]].concat())
    };
    html! {
        @if listed.newer_than.is_some() || listed.older_than.is_some() {
            nav.pages aria-label="Pages of the list" {
                @if let Some(id) = listed.newer_than {
                    a href=(with_query(&list, &selected.query())) { "Newest" }
                    a rel="prev" href=(link("newer_than", id)) { "← Newer" }
                }
                @if let Some(id) = listed.older_than { a rel="next" href=(link("older_than", id)) { "Older →" } }
            }
        }
    }
}
