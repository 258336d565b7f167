//! Protects the pages: sets the headers of every response, and checks every request that changes something.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Form;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use maud::html;
use uuid::Uuid;

use crate::error::{ErrorPage, WebError};
use crate::link::Base;
use crate::{Page, layout};

const TOKEN: &str = "signals_token";

/// Random values of a response.
#[derive(Debug, Clone)]
pub(crate) struct Secrets {
    /// The token of the forms. The browser also has it in a cookie, which no other site can read or set.
    pub(crate) token: String,
    /// The `Content-Security-Policy` allows a script or style only with this value.
    pub(crate) nonce: String,
}

impl<S: Sync> FromRequestParts<S> for Secrets {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let secrets = parts.extensions.get::<Self>().cloned();
        Ok(secrets.unwrap_or_else(|| Self { token: random(), nonce: random() }))
    }
}

fn random() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Adds the headers, and a cookie with the token if the browser has none.
pub(crate) async fn protect(base: Base, mut request: Request, next: Next) -> Response {
    let known = token(request.headers());
    let is_new = known.is_none();
    let secrets = Secrets { token: known.unwrap_or_else(random), nonce: random() };
    request.extensions_mut().insert(secrets.clone());
    let mut response = next.run(request).await;
    if let Some(ErrorPage { title, text }) = response.extensions_mut().remove() {
        let content = html! { h1 { (title) } p.message.bad role="alert" { (text) } };
        let page = layout::page(title, None, &base, &secrets, content);
        response = (response.status(), page).into_response();
    }
    let nonce = &secrets.nonce;
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    let mut headers = vec![
        (CONTENT_SECURITY_POLICY, policy),
        (CACHE_CONTROL, "no-store".to_owned()),
        // With `no-referrer`, browsers send `Origin: null`.
        (REFERRER_POLICY, "same-origin".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    if is_new {
        let (token, path) = (&secrets.token, base.overview());
        headers.push((SET_COOKIE, format!("{TOKEN}={token}; Path={path}; HttpOnly; SameSite=Lax")));
    }
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// The token in the cookie of a request.
fn token(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let mut cookies = cookies.flat_map(|cookies| cookies.split(';')).map(str::trim);
    let token = cookies.find_map(|cookie| cookie.strip_prefix(TOKEN)?.strip_prefix('='))?;
    let is_token = token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_token.then(|| token.to_owned())
}

/// The form of a request that may change something.
pub(crate) struct Change(BTreeMap<String, String>);

impl Change {
    /// A value of the form; empty if it has none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

impl FromRequest<Arc<Page>> for Change {
    type Rejection = WebError;

    async fn from_request(request: Request, page: &Arc<Page>) -> Result<Self, WebError> {
        if page.is_read_only {
            return Err(WebError::Forbidden("This page is read-only."));
        }
        if !is_same_origin(request.headers(), &page.origins) {
            return Err(WebError::Forbidden("The request comes from another site."));
        }
        let known = token(request.headers());
        let Form(form) = Form::<BTreeMap<String, String>>::from_request(request, &()).await?;
        match (known, form.get("token")) {
            (Some(known), Some(sent)) if known == *sent => Ok(Self(form)),
            _ => Err(WebError::Forbidden(
                "This page is too old. Load it again, and repeat what you wanted to do.",
            )),
        }
    }
}

/// Whether the request comes from a page of the same host, or of an origin that the program allows. A proxy may terminate TLS, so the
/// scheme is not compared.
fn is_same_origin(headers: &HeaderMap, allowed: &[String]) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(origin) = text(ORIGIN) else { return false };
    let host = origin.split_once("://").map(|(_, host)| host);
    allowed.iter().any(|allowed| allowed == origin) || host.is_some() && host == text(HOST)
}
