//! The layout of all pages.

use axum::response::Html;
use maud::{DOCTYPE, Markup, html};
use sqlx_signals::prelude::*;

use super::WebError;
use crate::models::User;
use crate::receivers::audit::CurrentUser;

const LINKS: [(&str, &str); 5] = [
    ("/", "Products"),
    ("/orders", "Orders"),
    ("/mails", "Mails"),
    ("/audit", "Audit log"),
    ("/signals", "Signals"),
];

/// A page with the menu and the current customer.
///
/// # Errors
///
/// If the customers cannot be read.
pub(super) async fn page(db: &Db, title: &str, content: Markup) -> Result<Html<String>, WebError> {
    let current = db.state::<CurrentUser>().and_then(|user| user.0);
    let users = User::query("ORDER BY id").fetch_all(db).await?;
    let customer = html! {
        form.customer method="post" action="/session" {
            label { "Customer "
                select name="user" {
                    @for user in &users {
                        option value=[user.id] selected[user.id == current] { (user.name) }
                    }
                }
            }
            button { "Switch" }
        }
    };
    Ok(document(title, customer, content))
}

/// A page that needs no database.
pub(super) fn error_page(content: Markup) -> Html<String> {
    let back = html! { p { a href="/" { "Back to the products" } } };
    document("Sorry", html! {}, html! { (content) (back) })
}

fn document(title: &str, customer: Markup, content: Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Shop" }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="data:,";
            }
            body {
                header {
                    nav {
                        @for (link, text) in LINKS { a href=(link) aria-current=[(text == title).then_some("page")] { (text) } }
                    }
                    (customer)
                }
                main { h1 { (title) } (content) }
            }
        }
    };
    Html(page.into_string())
}

/// An amount in cents as money.
pub(super) fn money(cents: i64) -> String {
    format!("€ {}.{:02}", cents / 100, cents % 100)
}
