//! The response to each error, and the rows that a request stores.
#![allow(missing_docs)]

mod common;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, COOKIE, LOCATION, RETRY_AFTER};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use shop::models::{AuditEntry, Order, Product, SearchEntry, User};
use shop::receivers::mail::Mailer;
use shop::web::app;
use sqlx_signals::prelude::*;
use sqlx_signals::testing;
use tower::ServiceExt;

async fn send(db: &Db, method: &str, path: &str, form: &str) -> Response {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(COOKIE, "theme=dark; user=2");
    app(db.clone()).oneshot(request.body(Body::from(form.to_owned())).unwrap()).await.unwrap()
}

async fn body(response: Response) -> String {
    let body = axum::body::to_bytes(response.into_body(), 1_000_000).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn product(db: &Db, name: &str) -> Product {
    Product::query("WHERE name = $1").bind(name).fetch_one(db).await.unwrap()
}

fn edit(product: &Product) -> (String, String) {
    let form = format!(
        "name={}&about={}&price={}&version={}",
        product.name, product.about, product.price, product.version
    );
    (format!("/products/{}", product.id.unwrap()), form.replace(' ', "+"))
}

on_every_database! {
    async fn an_order_is_stored_with_everything_that_follows_from_it(db: Db) {
        let lamp = product(&db, "Lamp").await;
        let form = format!("product_id={}&quantity=2", lamp.id.unwrap());
        let response = send(&db, "POST", "/orders", &form).await;
        assert_eq!((response.status(), &response.headers()[LOCATION]), (StatusCode::SEE_OTHER, &"/orders".parse().unwrap()));
        let order = Order::query("").fetch_one(&db).await.unwrap();
        assert_eq!((order.user_id, order.quantity, &*order.state), (2, 2, "new"));
        assert_eq!(common::stock(&db, "Lamp").await, lamp.stock - 2);
        let entry = AuditEntry::query("WHERE user_id = 2").fetch_one(&db).await.unwrap();
        assert_eq!(entry.change, format!("Order {} created", order.id.unwrap()));
        // The mail is sent by a worker.
        let mailer = db.state::<Mailer>().cloned().unwrap();
        assert_eq!(mailer.sent(), []);
        testing::deliver(&db).await.unwrap();
        let sent: Vec<_> = mailer.sent().into_iter().map(|mail| (mail.to, mail.subject)).collect();
        assert_eq!(sent, [("bob@example.org".to_owned(), "Your order of 2 × Lamp".to_owned())]);
    }

    async fn a_veto_is_unprocessable_and_leaves_nothing_behind(db: Db) {
        let piano = product(&db, "Piano").await;
        let before = AuditEntry::query("").count(&db).await.unwrap();
        for (quantity, message) in [(2, "Only 1 × Piano left."), (99, "Please order between 1 and 10 pieces.")] {
            let form = format!("product_id={}&quantity={quantity}", piano.id.unwrap());
            let response = send(&db, "POST", "/orders", &form).await;
            assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
            let body = body(response).await;
            assert!(body.contains(message), "{body}");
        }
        assert_eq!(Order::query("").count(&db).await.unwrap(), 0);
        assert_eq!(AuditEntry::query("").count(&db).await.unwrap(), before);
        assert_eq!(common::stock(&db, "Piano").await, 1);
        let mailer = db.state::<Mailer>().cloned().unwrap();
        testing::deliver(&db).await.unwrap();
        assert_eq!(mailer.sent(), []);
    }

    async fn what_is_not_there_is_not_found(db: Db) {
        for path in ["/products/77", "/orders/77", "/nowhere"] {
            let method = if path.starts_with("/orders") { "POST" } else { "GET" };
            assert_eq!(send(&db, method, path, "version=1").await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    async fn a_stale_version_and_a_taken_name_are_conflicts(db: Db) {
        let lamp = product(&db, "Lamp").await;
        let (path, form) = edit(&lamp);
        assert_eq!(send(&db, "POST", &path, &form).await.status(), StatusCode::SEE_OTHER);
        let stale = send(&db, "POST", &path, &form).await;
        assert_eq!(stale.status(), StatusCode::CONFLICT);
        assert!(body(stale).await.contains("Somebody else has changed this"));
        let lamp = Product { name: "Chair".into(), ..product(&db, "Lamp").await };
        let (path, form) = edit(&lamp);
        let taken = send(&db, "POST", &path, &form).await;
        assert_eq!(taken.status(), StatusCode::CONFLICT);
        assert!(body(taken).await.contains("This name is already taken."));
    }

    async fn a_changed_name_is_found(db: Db) {
        let lamp = Product { name: "Sconce".into(), ..product(&db, "Lamp").await };
        let (path, form) = edit(&lamp);
        assert_eq!(send(&db, "POST", &path, &form).await.status(), StatusCode::SEE_OTHER);
        let found = body(send(&db, "GET", "/?q=SCONCE", "").await).await;
        assert!(found.contains("<h2>Sconce</h2>") && !found.contains("<h2>Chair</h2>"), "{found}");
        let old = body(send(&db, "GET", "/?q=lamp+a", "").await).await;
        assert!(old.contains("Nothing was found."), "{old}");
        assert_eq!(SearchEntry::query("").count(&db).await.unwrap(), 3);
    }

    async fn an_order_advances_through_its_states(db: Db) {
        let lamp = product(&db, "Lamp").await;
        send(&db, "POST", "/orders", &format!("product_id={}&quantity=1", lamp.id.unwrap())).await;
        for (version, state) in [(1, "paid"), (2, "shipped"), (3, "shipped")] {
            let order = Order::query("").fetch_one(&db).await.unwrap();
            let path = format!("/orders/{}", order.id.unwrap());
            let response = send(&db, "POST", &path, &format!("version={version}")).await;
            assert_eq!(response.status(), StatusCode::SEE_OTHER);
            assert_eq!(Order::query("").fetch_one(&db).await.unwrap().state, state);
        }
    }

    async fn each_order_is_listed_with_its_customer_and_product(db: Db) {
        for (user_id, name) in [(1, "Chair"), (2, "Lamp"), (1, "Lamp")] {
            let product_id = product(&db, name).await.id.unwrap();
            let state = "new".to_owned();
            let mut order = Order { id: None, user_id, product_id, quantity: 1, state, version: 1 };
            order.save(&db).await.unwrap();
        }
        let page = body(send(&db, "GET", "/orders", "").await).await;
        let rows: Vec<_> = page.split("<tr id=\"order-").skip(1).collect();
        let expected = [("Ann", "1 × Lamp"), ("Bob", "1 × Lamp"), ("Ann", "1 × Chair")];
        assert_eq!(rows.len(), expected.len(), "{page}");
        for (row, (user, product)) in rows.iter().zip(expected) {
            let has = |text: &str| row.contains(&format!(">{text}</td>"));
            assert!(has(user) && has(product), "{row}");
        }
    }

    async fn a_busy_database_is_unavailable_and_says_when_to_try_again(db: Db) {
        use std::time::Duration;
        // A pool of one connection, which a transaction holds.
        let busy = one_connection(&db, Duration::from_millis(50)).await;
        let held = busy.begin().await.unwrap();
        let response = send(&busy, "GET", "/", "").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        held.rollback().await.unwrap();
        assert_eq!(send(&busy, "GET", "/", "").await.status(), StatusCode::OK);
    }

    async fn text_of_users_is_escaped(db: Db) {
        let mut eve = User { id: None, name: "<b>Eve</b>".into(), email: "eve@example.org".into() };
        eve.save(&db).await.unwrap();
        let page = body(send(&db, "GET", "/", "").await).await;
        assert!(page.contains("&lt;b&gt;Eve&lt;/b&gt;") && !page.contains("<b>Eve"), "{page}");
    }

    async fn the_page_of_signals_shows_every_receiver(db: Db) {
        let page = body(send(&db, "GET", "/signals", "").await).await;
        for receiver in registry().receivers() {
            let name = receiver.name().trim_start_matches("shop::receivers::");
            assert!(page.contains(&format!(">{name}</text>")), "{name}: {page}");
        }
    }
}

async fn one_connection(db: &Db, timeout: std::time::Duration) -> Db {
    use sqlx_signals::sqlx::postgres::PgPoolOptions;
    use sqlx_signals::sqlx::sqlite::SqlitePoolOptions;
    if let Some(pool) = db.sqlite() {
        let options = SqlitePoolOptions::new().max_connections(1).acquire_timeout(timeout);
        return options.connect_with((*pool.connect_options()).clone()).await.unwrap().into();
    }
    let pool = db.postgres().unwrap();
    let options = PgPoolOptions::new().max_connections(1).acquire_timeout(timeout);
    options.connect_with((*pool.connect_options()).clone()).await.unwrap().into()
}
