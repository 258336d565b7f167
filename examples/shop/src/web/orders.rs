//! The orders, and how open pages show new ones.

use std::convert::Infallible;

use axum::Form;
use axum::extract::Path;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect};
use futures_util::{Stream, stream};
use maud::{Markup, html};
use sqlx_signals::prelude::*;
use tokio::sync::broadcast::error::RecvError;

use super::WebError;
use super::layout::{money, page};
use crate::models::{Order, Product, User};
use crate::receivers::audit::CurrentUser;
use crate::receivers::live::{Live, Update};
use crate::value;

/// The latest orders, newest first.
pub(super) async fn list(db: Db) -> Result<Html<String>, WebError> {
    let orders = Order::query("ORDER BY id DESC LIMIT 100").fetch_all(&db).await?;
    let users = Order::OF_USER.parents(&db, &orders).await?;
    let products = Order::OF_PRODUCT.parents(&db, &orders).await?;
    let rows = orders.iter().zip(users.iter()).zip(products.iter());
    let content = html! {
        table.orders {
            thead { tr { th { "Order" } th { "Customer" } th { "Product" } th { "Total" } th { "State" } th {} } }
            tbody #orders { @for ((order, user), product) in rows { (row(order, user, product)) } }
        }
        p #live { "Reload the page to see new orders." }
        script src="/live.js" defer {}
    };
    page(&db, "Orders", content).await
}

fn row(order: &Order, user: &User, product: &Product) -> Markup {
    let id = order.id.unwrap_or_default();
    html! {
        tr id={ "order-" (id) } {
            td data-label="Order" { (id) }
            td data-label="Customer" { (user.name) }
            td data-label="Product" { (order.quantity) " × " (product.name) }
            td data-label="Total" { (money(order.quantity * product.price)) }
            td data-label="State" { span.state.(order.state) { (order.state) } }
            td {
                @if let Some(next) = order.next_state() {
                    form method="post" action={ "/orders/" (id) } {
                        input type="hidden" name="version" value=(order.version);
                        button { "Mark as " (next) }
                    }
                }
            }
        }
    }
}

#[derive(serde::Deserialize)]
pub(super) struct NewOrder {
    product_id: i64,
    quantity: i64,
}

/// Places an order for the customer of the request.
pub(super) async fn create(
    db: Db,
    Form(new): Form<NewOrder>,
) -> Result<impl IntoResponse, WebError> {
    let CurrentUser(user) = value(&db)?;
    let mut order = Order {
        id: None,
        user_id: user.unwrap_or(1),
        product_id: new.product_id,
        quantity: new.quantity,
        state: "new".into(),
        version: 1,
    };
    order.insert(&db).await?;
    Ok(Redirect::to("/orders"))
}

#[derive(serde::Deserialize)]
pub(super) struct Advance {
    version: i64,
}

/// Moves an order to its next state. Fails if the order has changed since the page was loaded.
pub(super) async fn advance(
    db: Db,
    Path(id): Path<i64>,
    Form(Advance { version }): Form<Advance>,
) -> Result<impl IntoResponse, WebError> {
    let mut order = Order::get(&db, id).await?;
    if let Some(next) = order.next_state() {
        order = Order { state: next.into(), version, ..order };
        order.update(&db).await?;
    }
    Ok(Redirect::to("/orders"))
}

/// The new and changed orders as server-sent events, each of them a row of the table.
pub(super) async fn live(
    db: Db,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, WebError> {
    let updates = value::<Live>(&db)?.subscribe();
    let events = stream::unfold((db, updates), |(db, mut updates)| async {
        let event = loop {
            match updates.recv().await {
                Ok(Update::Order(order)) => match event(&db, &order).await {
                    Ok(event) => break event,
                    Err(error) => tracing::error!("{error:#}"),
                },
                // This page is too slow: it has to load the orders again.
                Err(RecvError::Lagged(_)) => break Event::default().event("reload").data(""),
                Ok(Update::Stop) | Err(RecvError::Closed) => return None,
            }
        };
        Some((Ok(event), (db, updates)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

async fn event(db: &Db, order: &Order) -> Result<Event> {
    let user = Order::OF_USER.parent(db, order).await?;
    let product = Order::OF_PRODUCT.parent(db, order).await?;
    Ok(Event::default().event("order").data(row(order, &user, &product).into_string()))
}
