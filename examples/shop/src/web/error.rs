//! How an error becomes a response.

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use maud::html;
use sqlx_signals::Error;

use super::layout::error_page;
use crate::receivers::stock::Rejected;

/// An error of a handler. `?` turns an [`Error`] of the database into it.
#[derive(Debug)]
pub enum WebError {
    /// An error of the library.
    Db(Error),
    /// There is no such page.
    NotFound,
}

impl From<Error> for WebError {
    fn from(error: Error) -> Self {
        Self::Db(error)
    }
}

impl WebError {
    /// The status, and the sentence that the customer reads.
    fn parts(&self) -> (StatusCode, String) {
        let Self::Db(error) = self else {
            return (StatusCode::NOT_FOUND, "There is no such page.".into());
        };
        // The error that a receiver has returned, however deep it is in the chain of causes.
        if let Some(rejected) = error.find::<Rejected>() {
            return (StatusCode::UNPROCESSABLE_ENTITY, rejected.to_string());
        }
        let (status, message) = match error {
            e if e.is_not_found() => (StatusCode::NOT_FOUND, "There is no such entry."),
            e if e.is_stale() => {
                (StatusCode::CONFLICT, "Somebody else has changed this in the meantime.")
            }
            e if e.is_unique_violation() => (StatusCode::CONFLICT, "This name is already taken."),
            // A lock or a connection was not available in time, or two transactions conflicted.
            e if e.is_retryable() => {
                (StatusCode::SERVICE_UNAVAILABLE, "The shop is busy. Please try again.")
            }
            e => {
                // With the chain of causes, the receivers, and file and line.
                tracing::error!("{e:#}");
                (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong.")
            }
        };
        (status, message.into())
    }
}

impl IntoResponse for WebError {
    fn into_response(self) -> Response {
        let (status, message) = self.parts();
        let page = error_page(html! { p.message role="alert" { (message) } });
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return (status, [(RETRY_AFTER, "1")], page).into_response();
        }
        (status, page).into_response()
    }
}
