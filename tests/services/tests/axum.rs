//! The `Db` of a request in handlers of axum, and handlers that are dropped before they are done.
#![allow(missing_docs)]

#[path = "../../common/mod.rs"]
mod common;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use common::{Scene, cancelled_after, table};
use sqlx_signals::axum::DbLayer;
use sqlx_signals::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::timeout::TimeoutLayer;
use tower::{Service, ServiceBuilder, ServiceExt};

fn request(method: &str, path: &str) -> Request {
    let request = Request::builder().method(method).uri(path).header("x-user", "ann");
    request.body(Body::empty()).unwrap()
}

async fn text(response: Response) -> String {
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

mod of_request {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    pub(super) struct CurrentUser(pub(super) String);

    #[derive(Clone, Debug, PartialEq)]
    pub(super) struct Tenant(pub(super) &'static str);

    pub(super) fn current_user(request: &Parts) -> CurrentUser {
        let name = request.headers.get("x-user").map(|user| user.to_str().unwrap().to_owned());
        CurrentUser(name.unwrap_or("nobody".into()))
    }

    pub(super) async fn who(db: Db) -> String {
        format!("{:?} {:?}", db.state::<CurrentUser>(), db.state::<Tenant>())
    }

    pub(super) async fn authenticate(db: Db, mut request: Request, next: Next) -> Response {
        db.execute("SELECT 1").await.unwrap();
        let CurrentUser(name) = db.state().cloned().unwrap();
        request.extensions_mut().insert(db.with(CurrentUser(name + " of the session")));
        next.run(request).await
    }
}

on_every_database! {
    async fn a_handler_takes_the_db_with_the_values_of_its_request(db: Db) {
        use of_request::*;
        let app = Router::new()
            .route("/who", get(who))
            .layer(DbLayer::new(db.with(Tenant("ulm"))).with(current_user));
        let answer = app.clone().oneshot(request("GET", "/who")).await.unwrap();
        assert_eq!(text(answer).await, "Some(CurrentUser(\"ann\")) Some(Tenant(\"ulm\"))");
        let anonymous = Request::builder().uri("/who").body(Body::empty()).unwrap();
        let answer = app.oneshot(anonymous).await.unwrap();
        assert_eq!(text(answer).await, "Some(CurrentUser(\"nobody\")) Some(Tenant(\"ulm\"))");
        // No request has changed the `Db` of the program.
        assert_eq!(db.state::<CurrentUser>(), None);
    }

    async fn a_middleware_can_add_to_the_db_what_it_looks_up(db: Db) {
        use of_request::*;
        let app = Router::new()
            .route("/who", get(who))
            .layer(from_fn(authenticate))
            .layer(DbLayer::new(db).with(|_| Tenant("ulm")).with(current_user));
        let answer = app.oneshot(request("GET", "/who")).await.unwrap();
        assert_eq!(text(answer).await, "Some(CurrentUser(\"ann of the session\")) Some(Tenant(\"ulm\"))");
    }
}

#[tokio::test]
async fn a_handler_without_the_layer_says_what_is_missing() {
    let app = Router::new().route("/who", get(of_request::who));
    let answer = app.oneshot(request("GET", "/who")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = text(answer).await;
    assert!(text.contains("`.layer(DbLayer::new(db))`"), "{text}");
}

/// A handler that stores a row by itself, and one that stores two rows in a transaction.
mod orders {
    use super::*;

    pub(super) static SCENE: LazyLock<Scene> = Scene::new();
    pub(super) static NEXT: AtomicUsize = AtomicUsize::new(0);

    #[derive(Debug, Clone, Model)]
    #[model(table = "orders")]
    pub(super) struct Order {
        pub(super) id: Option<i64>,
        pub(super) n: i64,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "bills")]
    pub(super) struct Bill {
        pub(super) id: Option<i64>,
        pub(super) n: i64,
    }

    /// Has no receiver in the transaction, so that the save is one statement.
    #[derive(Debug, Clone, Model)]
    #[model(table = "notes")]
    pub(super) struct Note {
        pub(super) id: Option<i64>,
        pub(super) n: i64,
    }

    #[receiver(post_save, sender = Order)]
    async fn bill(saved: PostSave<'_, Order>, conn: &mut Conn<'_>) -> Result<()> {
        tokio::task::yield_now().await;
        Bill { id: None, n: saved.instance.n }.save(conn).await.map(drop)
    }

    #[receiver(post_save, sender = Order, on_commit)]
    async fn stored(saved: PostSave<'_, Order>) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        SCENE.log.push(format!("order {}", saved.instance.n));
    }

    #[receiver(post_save, sender = Order, on_commit(detached))]
    async fn mailed(saved: PostSave<'_, Order>) {
        tokio::time::sleep(Duration::from_millis(2)).await;
        SCENE.log.push(format!("mail {}", saved.instance.n));
    }

    #[receiver(post_save, sender = Note, on_commit)]
    async fn noted(saved: PostSave<'_, Note>) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        SCENE.log.push(format!("note {}", saved.instance.n));
    }

    fn next() -> i64 {
        NEXT.fetch_add(1, Ordering::Relaxed).try_into().unwrap()
    }

    /// One save in its own transaction.
    async fn save(db: Db) {
        Order { id: None, n: next() }.save(&db).await.unwrap();
    }

    async fn transaction(db: Db) {
        db.transaction(async |tx| {
            Order { id: None, n: next() }.save(&mut *tx).await?;
            Order { id: None, n: next() }.save(tx).await
        })
        .await
        .unwrap();
    }

    async fn note(db: Db) {
        Note { id: None, n: next() }.save(&db).await.unwrap();
    }

    pub(super) const PATHS: [&str; 3] = ["/save", "/transaction", "/note"];

    pub(super) async fn app(db: &Db) -> Router {
        for name in ["orders", "bills", "notes"] {
            table(db, name, "n BIGINT NOT NULL").await;
        }
        Router::new()
            .route("/save", post(save))
            .route("/transaction", post(transaction))
            .route("/note", post(note))
            .layer(DbLayer::new(db.clone()))
    }

    async fn stored_in<M: Portable>(db: &Db, n: impl Fn(M) -> i64) -> Vec<i64> {
        let mut all: Vec<_> = M::all(db).await.unwrap().into_iter().map(n).collect();
        all.sort_unstable();
        all
    }

    /// Waits for everything that still runs. Each row is whole, and `on_commit` has run exactly for what is stored.
    pub(super) async fn assert_whole(db: &Db) -> usize {
        // Read through another pool, because `close` is what waits.
        let again = common::one_connection(db).await;
        tokio::time::timeout(Duration::from_secs(60), db.close()).await.unwrap();
        let orders = stored_in(&again, |order: Order| order.n).await;
        let bills = stored_in(&again, |bill: Bill| bill.n).await;
        let notes = stored_in(&again, |note: Note| note.n).await;
        assert_eq!(orders, bills, "an order is stored with its bill, or not at all");
        again.close().await;
        let log = SCENE.log.take();
        let logged = |what: &str| {
            let of = log.iter().filter_map(|entry| entry.strip_prefix(what)?.trim().parse().ok());
            let mut of: Vec<i64> = of.collect();
            of.sort_unstable();
            of
        };
        assert_eq!(logged("order"), orders);
        assert_eq!(logged("mail"), orders);
        assert_eq!(logged("note"), notes);
        orders.len() + notes.len()
    }
}

on_every_database! {
    async fn a_request_that_is_cancelled_stores_all_or_nothing(db: Db) {
        let _turn = orders::SCENE.begin().await;
        let mut app = orders::app(&db).await;
        let (mut done, mut dropped) = (0, 0);
        for round in 0..90 {
            let request = request("POST", orders::PATHS[round % 3]);
            match cancelled_after(app.call(request), round / 3).await {
                Some(response) => {
                    assert_eq!(response.unwrap().status(), StatusCode::OK);
                    done += 1;
                }
                None => dropped += 1,
            }
        }
        // How often a request waits depends on how soon the database answers.
        assert!(done > 0 && dropped > 0, "{done} done, {dropped} dropped");
        assert!(orders::assert_whole(&db).await >= done);
    }

    async fn a_request_that_times_out_stores_all_or_nothing(db: Db) {
        let _turn = orders::SCENE.begin().await;
        let app = orders::app(&db).await;
        let mut requests = tokio::task::JoinSet::new();
        for n in 0..120_u64 {
            // The last one is always fast enough.
            let limit = if n == 119 { 60_000_000 } else { n * 150 };
            let limit = TimeoutLayer::new(Duration::from_micros(limit));
            let app = ServiceBuilder::new().layer(limit).service(app.clone());
            let request = request("POST", orders::PATHS[usize::try_from(n % 3).unwrap()]);
            requests.spawn(app.oneshot(request));
            if n % 8 == 7 {
                while requests.join_next().await.is_some() {}
            }
        }
        let stored = orders::assert_whole(&db).await;
        assert!(stored > 0, "some requests were fast enough");
    }

    async fn a_client_that_disconnects_leaves_all_or_nothing(db: Db) {
        let _turn = orders::SCENE.begin().await;
        let app = orders::app(&db).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
        let server = tokio::spawn(server.into_future());
        for n in 0..60_u64 {
            let mut client = TcpStream::connect(address).await.unwrap();
            let path = orders::PATHS[usize::try_from(n % 3).unwrap()];
            let request = format!("POST {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_micros(n * 100)).await;
            if n == 59 {
                assert!(client.read(&mut [0; 64]).await.unwrap() > 0, "a response");
            }
        }
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        assert!(orders::assert_whole(&db).await > 0);
    }
}
