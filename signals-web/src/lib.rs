//! A page for the operators of [sqlx-signals](https://docs.rs/sqlx-signals): its durable receivers and their deliveries.
//!
//! [`router`] returns a router for axum. The program mounts it at any path, behind its own authentication:
//!
//! ```
//! use axum::Router;
//! use sqlx_signals::prelude::*;
//!
//! fn app(db: Db) -> Router {
//!     Router::new().nest("/signals", signals_web::router(db).into())
//! }
//! ```
//!
//! | page | shows |
//! |---|---|
//! | `/` | the durable receivers with their counts, runs and lags, and a graph of all receivers of the program |
//! | `/deliveries` | the deliveries of a receiver or state, in pages |
//! | `/deliveries/{id}` | one delivery: its error, its attempts, and the chain of receivers that caused it |
//!
//! An operator can retry and discard deliveries, and pause a receiver in this process. The server renders the pages as HTML. They work
//! without scripts, and load nothing from other servers. With scripts, they update themselves.
//!
//! # Security
//!
//! The router has no authentication. Every client that can reach it can read the errors of deliveries, and can discard deliveries unless
//! the router is [`read_only`](WebRouter::read_only). Protect it with the authentication of the program:
//!
//! ```
//! # use axum::{Router, extract::Request, middleware::{from_fn, Next}, response::Response, http::StatusCode};
//! # use sqlx_signals::prelude::*;
//! async fn operators_only(request: Request, next: Next) -> Result<Response, StatusCode> {
//! #   let is_operator = |_: &Request| true;
//!     if is_operator(&request) { Ok(next.run(request).await) } else { Err(StatusCode::FORBIDDEN) }
//! }
//!
//! fn app(db: Db) -> Router {
//!     let page = Router::from(signals_web::router(db)).layer(from_fn(operators_only));
//!     Router::new().nest("/signals", page)
//! }
//! ```
//!
//! - A request that changes something needs an `Origin` header with the host of the page, and a token that is the same in its form and in
//!   the cookie of the browser.
//! - Payloads are not shown unless the program allows it with [`show_payloads`](WebRouter::show_payloads), and then only on request.
//! - Every value is escaped. The header `Content-Security-Policy` forbids frames, other scripts, and requests to other hosts.

mod action;
mod delivery;
mod error;
mod graph;
mod guard;
mod layout;
mod link;
mod list;
mod overview;
mod text;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use error::WebError;
use sqlx_signals::Db;

/// Returns the pages for the deliveries of this database. `into()` converts them to an axum router.
///
/// See the example of the [crate].
pub fn router(db: Db) -> WebRouter {
    WebRouter { page: Page { db, is_read_only: false, shows_payloads: false, origins: Vec::new() } }
}

/// The pages and their options. `into()` converts them to an axum router.
///
/// ```
/// # use axum::Router;
/// # use sqlx_signals::prelude::*;
/// fn app(db: Db) -> Router {
///     let page = signals_web::router(db).read_only().show_payloads().origin("https://ops.example.org");
///     Router::new().nest("/signals", page.into())
/// }
/// ```
#[derive(Debug, Clone)]
#[must_use = "it does nothing until it is a part of a router"]
pub struct WebRouter {
    page: Page,
}

/// The state that all pages share.
#[derive(Debug, Clone)]
struct Page {
    db: Db,
    is_read_only: bool,
    shows_payloads: bool,
    origins: Vec<String>,
}

impl WebRouter {
    /// Forbids every change: the pages have no buttons, and requests that change something are refused.
    ///
    /// See the example of [`WebRouter`].
    pub fn read_only(mut self) -> Self {
        self.page.is_read_only = true;
        self
    }

    /// Lets operators see the payloads of deliveries, which contain the data of the rows. A payload is shown only if the operator requests
    /// it.
    ///
    /// See the example of [`WebRouter`].
    pub fn show_payloads(mut self) -> Self {
        self.page.shows_payloads = true;
        self
    }

    /// Also accepts changes from pages of this origin, such as `https://ops.example.org`. This is necessary only if a proxy in front of the
    /// program changes the `Host` header of the requests.
    ///
    /// See the example of [`WebRouter`].
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.page.origins.push(origin.into());
        self
    }
}

impl<S: Clone + Send + Sync + 'static> From<WebRouter> for Router<S> {
    fn from(router: WebRouter) -> Self {
        Router::new()
            .route("/", get(overview::show))
            .route("/deliveries", get(list::show))
            .route("/deliveries/retry", post(action::retry_all))
            .route("/deliveries/{id}", get(delivery::show))
            .route("/deliveries/{id}/retry", post(action::retry))
            .route("/deliveries/{id}/discard", post(action::discard))
            .route("/receivers/pause", post(action::pause))
            .route("/receivers/resume", post(action::resume))
            .fallback(async || WebError::NotFound("There is no such page."))
            .layer(from_fn(guard::protect))
            .with_state(Arc::new(router.page))
    }
}
