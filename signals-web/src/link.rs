//! Links between the pages.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::Uri;
use axum::http::request::Parts;

/// The path under which the program has mounted the router, without a slash at its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Base(String);

impl<S: Sync> FromRequestParts<S> for Base {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // If the router is nested, the outer router has removed the beginning of the path.
        let original = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |uri| &uri.0);
        Ok(Self::of(original, &parts.uri))
    }
}

impl Base {
    fn of(original: &Uri, inner: &Uri) -> Self {
        let path = original.path();
        let base = path.strip_suffix(inner.path()).unwrap_or(path);
        Self(base.trim_end_matches('/').to_owned())
    }

    pub(crate) fn overview(&self) -> String {
        if self.0.is_empty() { "/".to_owned() } else { self.0.clone() }
    }

    /// A path below the overview, such as `/deliveries`.
    pub(crate) fn path(&self, path: impl std::fmt::Display) -> String {
        format!("{}{path}", self.0)
    }

    pub(crate) fn delivery(&self, id: i64) -> String {
        self.path(format_args!("/deliveries/{id}"))
    }
}

/// A path with a query. Empty values are left out.
pub(crate) fn with_query(path: &str, values: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in values.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_what_the_outer_router_has_removed() {
        let base = |original: &'static str, inner: &'static str| {
            Base::of(&Uri::from_static(original), &Uri::from_static(inner))
        };
        for (original, inner) in
            [("/ops", "/"), ("/ops/", "/"), ("/ops/deliveries/7", "/deliveries/7")]
        {
            let base = base(original, inner);
            assert_eq!((&*base.overview(), &*base.delivery(7)), ("/ops", "/ops/deliveries/7"));
        }
        assert_eq!(base("/", "/").overview(), "/");
        assert_eq!(base("/deliveries", "/deliveries").delivery(7), "/deliveries/7");
    }

    #[test]
    fn a_query_is_encoded_and_has_no_empty_values() {
        let query = with_query("/x", &[("receiver", "a::b&c=\"d\""), ("state", "")]);
        assert_eq!(query, "/x?receiver=a%3A%3Ab%26c%3D%22d%22");
        assert_eq!(with_query("/x", &[("state", "")]), "/x");
    }
}
