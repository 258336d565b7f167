//! Which customer makes a request. A real shop would have passwords here.

use axum::Form;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Redirect};

use crate::receivers::audit::CurrentUser;

/// The customer of a request: the one in its cookie, or the first one.
pub(super) fn current_user(request: &Parts) -> CurrentUser {
    let cookies =
        request.headers.get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let mut cookies = cookies.flat_map(|cookies| cookies.split(';')).map(str::trim);
    let user = cookies.find_map(|cookie| cookie.strip_prefix("user=")?.parse().ok());
    CurrentUser(Some(user.unwrap_or(1)))
}

#[derive(serde::Deserialize)]
pub(super) struct Choice {
    user: i64,
}

/// Switches to another customer.
pub(super) async fn choose(Form(choice): Form<Choice>) -> impl IntoResponse {
    let cookie = format!("user={}; Path=/; HttpOnly; SameSite=Lax", choice.user);
    ([(SET_COOKIE, cookie)], Redirect::to("/"))
}
