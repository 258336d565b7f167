//! The extractor of a `Db` in handlers of axum, and the layer that supplies it with the values of the request.
//!
//! May import: `error`, `task`, `database`.

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Request, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use crate::database::db::Db;

/// A layer that gives every request a [`Db`], which handlers take as an argument.
///
/// [`with`](Self::with) adds values that depend on the request. Receivers take them as [`State`](crate::State).
///
/// ```
/// use axum::Router;
/// use axum::http::request::Parts;
/// use axum::routing::post;
/// use sqlx_signals::axum::DbLayer;
/// use sqlx_signals::prelude::*;
///
/// # #[derive(Debug, Clone, Model)]
/// # struct City { id: Option<i64>, name: String }
/// #[derive(Clone)]
/// struct CurrentUser(String);
///
/// fn current_user(request: &Parts) -> CurrentUser {
///     let user = request.headers.get("x-user").and_then(|user| user.to_str().ok());
///     CurrentUser(user.unwrap_or("nobody").to_owned())
/// }
///
/// #[receiver(post_save, sender = City)]
/// fn audit(saved: PostSave<'_, City>, State(user): State<CurrentUser>) {
///     println!("{} has saved {}", user.0, saved.instance.name);
/// }
///
/// async fn create(db: Db, name: String) -> String {
///     match (City { id: None, name }).save(&db).await {
///         Ok(_) => "stored".to_owned(),
///         Err(error) => error.to_string(),
///     }
/// }
///
/// fn app(db: Db) -> Router {
///     Router::new().route("/cities", post(create)).layer(DbLayer::new(db).with(current_user))
/// }
/// ```
///
/// A value that has to be looked up first, such as the user of a session, is added by a middleware inside of the layer. It takes the `Db`
/// as a handler does, and replaces it:
///
/// ```
/// use axum::extract::Request;
/// use axum::middleware::{Next, from_fn};
/// use axum::response::Response;
/// use sqlx_signals::axum::DbLayer;
/// use sqlx_signals::prelude::*;
///
/// # #[derive(Clone)]
/// # struct CurrentUser;
/// # impl CurrentUser { async fn of_session(_: &Db, _: &axum::http::HeaderMap) -> Self { Self } }
/// async fn authenticate(db: Db, mut request: Request, next: Next) -> Response {
///     let user = CurrentUser::of_session(&db, request.headers()).await;
///     request.extensions_mut().insert(db.with(user));
///     next.run(request).await
/// }
///
/// # fn app(db: Db) -> axum::Router {
/// axum::Router::new()
///     // Routes.
///     .layer(from_fn(authenticate))
///     .layer(DbLayer::new(db))
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until a router or service has it"]
pub struct DbLayer {
    db: Db,
    of_request: Arc<OfRequest>,
}

/// Adds the values of a request to a `Db`.
type OfRequest = dyn Fn(Db, &Parts) -> Db + Send + Sync;

impl DbLayer {
    /// Gives every request this `Db`.
    pub fn new(db: Db) -> Self {
        Self { db, of_request: Arc::new(|db, _| db) }
    }

    /// Adds a value of the request to its `Db`, as [`Db::with`] does.
    pub fn with<T: Clone + Send + Sync + 'static>(
        self,
        value: impl Fn(&Parts) -> T + Send + Sync + 'static,
    ) -> Self {
        let Self { db, of_request } = self;
        let of_request = move |db, request: &Parts| of_request(db, request).with(value(request));
        Self { db, of_request: Arc::new(of_request) }
    }
}

impl<S> Layer<S> for DbLayer {
    type Service = DbService<S>;

    fn layer(&self, inner: S) -> DbService<S> {
        DbService { layer: self.clone(), inner }
    }
}

/// The service of a [`DbLayer`].
#[derive(Clone, Debug)]
pub struct DbService<S> {
    layer: DbLayer,
    inner: S,
}

impl<S, B> Service<Request<B>> for DbService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let (mut parts, body) = request.into_parts();
        let db = (self.layer.of_request)(self.layer.db.clone(), &parts);
        parts.extensions.insert(db);
        self.inner.call(Request::from_parts(parts, body))
    }
}

/// The `Db` of the request, from a [`DbLayer`].
impl<S: Send + Sync> FromRequestParts<S> for Db {
    type Rejection = MissingDb;

    fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> impl Future<Output = Result<Self, MissingDb>> + Send {
        ready(parts.extensions.get().cloned().ok_or(MissingDb(())))
    }
}

/// A handler takes a [`Db`], but the router has no [`DbLayer`]. As a response, its status is 500.
#[derive(Debug)]
pub struct MissingDb(());

impl fmt::Display for MissingDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a handler takes a `Db`, but its router has no `.layer(DbLayer::new(db))`")
    }
}

impl std::error::Error for MissingDb {}

impl IntoResponse for MissingDb {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

impl fmt::Debug for DbLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DbLayer").field(&self.db).finish()
    }
}
