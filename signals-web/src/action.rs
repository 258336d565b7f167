//! The handlers of the buttons. Each handler redirects to a page that shows the result.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Redirect;
use sqlx_signals::registry;

use crate::Page;
use crate::error::WebError;
use crate::guard::Change;
use crate::link::{Base, with_query};
use crate::list::Selected;

type Done = Result<Redirect, WebError>;

fn to(path: &str, values: &[(&str, &str)]) -> Done {
    Ok(Redirect::to(&with_query(path, values)))
}

/// Makes a delivery due now.
pub(crate) async fn retry(
    State(page): State<Arc<Page>>,
    Path(id): Path<i64>,
    base: Base,
    change: Change,
) -> Done {
    let is_retried = page.db.deliveries().retry(id).await?;
    let done = ("done", if is_retried { "retried" } else { "unchanged" });
    if change.get("from") != "list" {
        return to(&base.delivery(id), &[done]);
    }
    let selected = Selected::of_form(&change);
    to(&base.path("/deliveries"), &[&selected.query()[..], &[done]].concat())
}

/// Deletes a delivery without running it.
pub(crate) async fn discard(
    State(page): State<Arc<Page>>,
    Path(id): Path<i64>,
    base: Base,
    change: Change,
) -> Done {
    if page.db.deliveries().discard(id).await? {
        let state = ("state", change.get("state"));
        return to(&base.path("/deliveries"), &[state, ("done", "discarded")]);
    }
    to(&base.delivery(id), &[("done", "unchanged")])
}

/// Makes the failed deliveries of a list due now.
pub(crate) async fn retry_all(State(page): State<Arc<Page>>, base: Base, change: Change) -> Done {
    let selected = Selected::of_form(&change);
    let retried = page.db.deliveries().retry_all(selected.filter()).await?.to_string();
    let done = [("done", "retried_all"), ("count", &*retried)];
    to(&base.path("/deliveries"), &[&selected.query()[..], &done].concat())
}

/// Disables a receiver in this process.
pub(crate) async fn pause(base: Base, change: Change) -> Done {
    enable(change.get("receiver"), false)?;
    to(&base.overview(), &[("done", "paused")])
}

/// Enables a receiver in this process.
pub(crate) async fn resume(base: Base, change: Change) -> Done {
    enable(change.get("receiver"), true)?;
    to(&base.overview(), &[("done", "resumed")])
}

/// Enables or disables every receiver of this name. A receiver with several senders has several entries.
fn enable(name: &str, is_enabled: bool) -> Result<(), WebError> {
    let mut of_name = registry().receivers().filter(|r| r.delivery_name() == Some(name)).peekable();
    if of_name.peek().is_none() {
        return Err(WebError::NotFound("This program has no durable receiver of this name."));
    }
    of_name.for_each(|receiver| if is_enabled { receiver.enable() } else { receiver.disable() });
    Ok(())
}
