//! The products.

use axum::Form;
use axum::extract::{Path, Query};
use axum::response::{Html, IntoResponse, Redirect};
use maud::html;
use sqlx_signals::prelude::*;

use super::WebError;
use super::layout::{money, page};
use crate::models::Product;

#[derive(serde::Deserialize)]
pub(super) struct Search {
    #[serde(default)]
    q: String,
}

/// The products that contain the words, or all of them.
pub(super) async fn list(
    db: Db,
    Query(Search { q }): Query<Search>,
) -> Result<Html<String>, WebError> {
    let found = "WHERE id IN (SELECT product_id FROM search_index WHERE words LIKE $1) ORDER BY id";
    let words = format!("%{}%", q.to_lowercase());
    let products = Product::query(found).bind(words).fetch_all(&db).await?;
    let content = html! {
        form.search role="search" {
            input type="search" name="q" value=(q) aria-label="Search" placeholder="Search";
            button { "Search" }
        }
        div.products {
            @for product in &products {
                article {
                    h2 { (product.name) }
                    p { (product.about) }
                    p { strong { (money(product.price)) } " · " (product.stock) " left · "
                        a href={ "/products/" (product.id.unwrap_or_default()) } { "Edit" } }
                    form method="post" action="/orders" {
                        input type="hidden" name="product_id" value=[product.id];
                        label { "Quantity " input type="number" name="quantity" value="1" min="1" max="99"; }
                        button { "Order" }
                    }
                }
            }
            @if products.is_empty() { p { "Nothing was found." } }
        }
    };
    page(&db, "Products", content).await
}

/// The form to edit a product.
pub(super) async fn form(db: Db, Path(id): Path<i64>) -> Result<Html<String>, WebError> {
    let product = Product::get(&db, id).await?;
    let content = html! {
        form.edit method="post" {
            input type="hidden" name="version" value=(product.version);
            label { "Name" input name="name" value=(product.name) required; }
            label { "Description" textarea name="about" rows="3" { (product.about) } }
            label { "Price in cents" input type="number" name="price" value=(product.price) min="0"; }
            button { "Save" }
        }
    };
    page(&db, "Edit a product", content).await
}

#[derive(serde::Deserialize)]
pub(super) struct Edit {
    name: String,
    about: String,
    price: i64,
    version: i64,
}

/// Saves a product. Fails if it has changed since the form was loaded.
pub(super) async fn save(
    db: Db,
    Path(id): Path<i64>,
    Form(edit): Form<Edit>,
) -> Result<impl IntoResponse, WebError> {
    let mut product = Product::get(&db, id).await?;
    let Edit { name, about, price, version } = edit;
    product = Product { name, about, price, version, ..product };
    product.update(&db).await?;
    Ok(Redirect::to("/"))
}
