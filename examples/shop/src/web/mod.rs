//! The pages.

mod error;
mod layout;
mod orders;
mod products;
mod reports;
mod session;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use sqlx_signals::axum::DbLayer;
use sqlx_signals::prelude::*;

pub use error::WebError;

/// The router of the shop. A handler takes `db: Db`, to which the layer has added the user of the request.
pub fn app(db: Db) -> Router {
    Router::new()
        .route("/", get(products::list))
        .route("/products/{id}", get(products::form).post(products::save))
        .route("/orders", get(orders::list).post(orders::create))
        .route("/orders/{id}", post(orders::advance))
        .route("/orders/live", get(orders::live))
        .route("/audit", get(reports::audit))
        .route("/mails", get(reports::mails))
        // In a real shop, behind a login for operators.
        .nest("/signals", signals_web::router(db.clone()).into())
        .route("/session", post(session::choose))
        .route(
            "/style.css",
            get(([(CONTENT_TYPE, "text/css")], include_str!("../../assets/style.css"))),
        )
        .route(
            "/live.js",
            get(([(CONTENT_TYPE, "text/javascript")], include_str!("../../assets/live.js"))),
        )
        .fallback(async || WebError::NotFound)
        .layer(DbLayer::new(db).with(session::current_user))
}
