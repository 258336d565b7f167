//! The responses to requests that fail.

use axum::extract::rejection::{FormRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
/// Why a request failed.
#[derive(Debug)]
pub(crate) enum WebError {
    /// There is no delivery with this id, or no such receiver.
    NotFound(&'static str),
    /// The request must not change anything.
    Forbidden(&'static str),
    /// The request cannot be understood.
    Invalid(String),
    Failed(sqlx_signals::Error),
}

/// The content of a page for an error. [`protect`](crate::guard::protect) renders it in the layout of all pages.
#[derive(Debug, Clone)]
pub(crate) struct ErrorPage {
    pub(crate) title: &'static str,
    pub(crate) text: String,
}

impl IntoResponse for WebError {
    fn into_response(self) -> Response {
        let (status, title, text) = match self {
            Self::NotFound(text) => (StatusCode::NOT_FOUND, "Not found", text.to_owned()),
            Self::Forbidden(text) => (StatusCode::FORBIDDEN, "Not allowed", text.to_owned()),
            Self::Invalid(text) => (StatusCode::BAD_REQUEST, "Invalid request", text),
            Self::Failed(error) => {
                let text = format!("{error:#}");
                tracing::error!(error = text, "a page of the deliveries could not be shown");
                (StatusCode::SERVICE_UNAVAILABLE, "The deliveries cannot be read", text)
            }
        };
        let mut response = status.into_response();
        response.extensions_mut().insert(ErrorPage { title, text });
        response
    }
}

impl From<sqlx_signals::Error> for WebError {
    fn from(error: sqlx_signals::Error) -> Self {
        Self::Failed(error)
    }
}

macro_rules! invalid {
    ($($rejection:ident)*) => { $(
        impl From<$rejection> for WebError {
            fn from(rejection: $rejection) -> Self {
                Self::Invalid(rejection.body_text())
            }
        }
    )* };
}

invalid!(FormRejection PathRejection QueryRejection);
