//! The responses of the pages, and what their buttons change.
#![allow(missing_docs)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod program;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE,
};
use axum::http::{Request, Response, StatusCode};
use common::{count, execute, many_deliveries};
use program::backlog::{Backlog, Dead};
use program::{Visit, apply, print, setup, welcome};
use signals_web::WebRouter;
use sqlx_signals::durable::{DeliveryFilter, DeliveryState};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, testing};
use tower::ServiceExt;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

async fn send(page: WebRouter, request: Request<Body>) -> (StatusCode, Response<()>, String) {
    let response = Router::new().nest("/ops", page.into()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 10_000_000).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    (parts.status, Response::from_parts(parts, ()), body)
}

async fn get(page: WebRouter, path: &str) -> String {
    let (status, _, body) =
        send(page, Request::get(format!("/ops{path}")).body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

/// A request of a button, as a browser sends it.
fn button(path: &str, form: &str) -> Request<Body> {
    Request::post(format!("/ops{path}"))
        .header(HOST, "example.org")
        .header(ORIGIN, "https://example.org")
        .header(COOKIE, format!("theme=dark; signals_token={TOKEN}"))
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(format!("token={TOKEN}&{form}")))
        .unwrap()
}

/// Presses a button, and returns where it leads.
async fn press(db: &Db, path: &str, form: &str) -> String {
    let (status, response, body) = send(signals_web::router(db.clone()), button(path, form)).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{body}");
    response.headers()[LOCATION].to_str().unwrap().to_owned()
}

/// A delivery whose texts all contain markup.
async fn store_markup(db: &Db) {
    let text = "<b onclick=\"x\">''&amp;";
    let json = r#"{"row":{"name":"<b onclick=\"x\">"}}"#;
    execute(
        db,
        &format!(
            "INSERT INTO signals_delivery (event, receiver, signal, sender, key, payload, context, ordering_key, worker, error, run_at) VALUES \
             ('0198c0f4-0000-7000-8000-000000000000', 'a::{text}', '{text}', '{text}', '{text}', '{json}', \
             '{{\"receivers\":[\"<b onclick=x>\"]}}', '{text}', '{text}', '{text}', {})",
            program::in_seconds(db, -5)
        ),
    )
    .await;
}

on_every_database! {
    async fn every_value_is_escaped(db: Db) {
        let _turn = setup(&db).await;
        store_markup(&db).await;
        let page = || signals_web::router(db.clone()).show_payloads();
        let list = "/deliveries?receiver=a::%3Cb%20onclick=%22x%22%3E%27%26amp;&state=%3Cb%3E";
        for path in ["", list, "/deliveries", "/deliveries/1?payload=shown&done=%3Cb%3E", "?done=%3Cb%3E"] {
            let body = get(page(), path).await;
            assert!(!body.contains("<b ") && !body.contains("<b>"), "{path}: {body}");
            assert!(path == list || body.contains("&lt;b onclick=") || path == "?done=%3Cb%3E", "{path}: {body}");
        }
    }

    async fn a_change_needs_the_origin_and_the_token_of_the_page(db: Db) {
        let _turn = setup(&db).await;
        program::dead(&db).await;
        let change = |remove: &str, header: Option<(&str, &str)>| {
            let mut request = button("/deliveries/1/discard", "");
            request.headers_mut().remove(remove);
            if let Some((name, value)) = header {
                let name: axum::http::HeaderName = name.parse().unwrap();
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            request
        };
        let other_token = format!("signals_token={}", TOKEN.replace('0', "1"));
        let refused = [
            change("origin", None),
            change("", Some(("origin", "null"))),
            change("", Some(("origin", "https://evil.example"))),
            change("", Some(("origin", "https://example.org.evil.example"))),
            change("", Some(("origin", "https://example.org:8443"))),
            change("cookie", None),
            change("", Some(("cookie", &other_token))),
            change("", Some(("cookie", "signals_token="))),
        ];
        for request in refused {
            let case = format!("{:?}", request.headers());
            let (status, ..) = send(signals_web::router(db.clone()), request).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{case}");
        }
        let mut without_token = button("/deliveries/1/discard", "");
        *without_token.body_mut() = Body::from("x=1");
        assert_eq!(send(signals_web::router(db.clone()), without_token).await.0, StatusCode::FORBIDDEN);
        assert_eq!(count(&db, "signals_delivery").await, 1);
        // A proxy has changed the host, and the program has declared the origin.
        let behind_proxy = || change("", Some(("host", "10.0.0.7:3000")));
        assert_eq!(send(signals_web::router(db.clone()), behind_proxy()).await.0, StatusCode::FORBIDDEN);
        let declared = signals_web::router(db.clone()).origin("https://example.org");
        assert_eq!(send(declared, behind_proxy()).await.0, StatusCode::SEE_OTHER);
        assert_eq!(count(&db, "signals_delivery").await, 0);
    }

    async fn a_change_is_never_a_get(db: Db) {
        let _turn = setup(&db).await;
        program::dead(&db).await;
        for path in ["/deliveries/1/discard", "/deliveries/1/retry", "/deliveries/retry", "/receivers/pause", "/receivers/resume"] {
            let request = Request::get(format!("/ops{path}")).body(Body::empty()).unwrap();
            let (status, ..) = send(signals_web::router(db.clone()), request).await;
            assert!(matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST), "{path}: {status}");
        }
        assert_eq!(program::dead_deliveries(&db).await, 1);
    }

    async fn a_read_only_page_has_no_buttons_and_refuses_changes(db: Db) {
        let _turn = setup(&db).await;
        program::dead(&db).await;
        for path in ["", "/deliveries", "/deliveries/1"] {
            let post = r#"method="post""#;
            assert!(get(signals_web::router(db.clone()), path).await.contains(post), "{path}");
            assert!(!get(signals_web::router(db.clone()).read_only(), path).await.contains(post), "{path}");
        }
        let receiver = registry().get::<welcome>();
        let pause = format!("receiver={}", receiver.delivery_name().unwrap());
        let changes = [("/deliveries/1/discard", ""), ("/deliveries/1/retry", ""), ("/deliveries/retry", ""), ("/receivers/pause", &*pause)];
        for (path, form) in changes {
            let (status, _, body) = send(signals_web::router(db.clone()).read_only(), button(path, form)).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
            assert!(body.contains("read-only"), "{body}");
        }
        assert!(receiver.is_enabled() && program::dead_deliveries(&db).await == 1);
    }

    async fn buttons_retry_and_discard_deliveries(db: Db) {
        let _turn = setup(&db).await;
        for _ in 0..3 {
            program::dead(&db).await;
        }
        assert_eq!(press(&db, "/deliveries/1/retry", "").await, "/ops/deliveries/1?done=retried");
        assert_eq!(press(&db, "/deliveries/2/discard", "state=dead").await, "/ops/deliveries?state=dead&done=discarded");
        assert_eq!(press(&db, "/deliveries/2/discard", "").await, "/ops/deliveries/2?done=unchanged");
        let delivery = db.deliveries().get(1).await.unwrap().unwrap();
        assert_eq!((delivery.state(), delivery.attempt), (DeliveryState::Retrying, 0));
        let back = press(&db, "/deliveries/3/retry", "from=list&state=dead").await;
        assert_eq!(back, "/ops/deliveries?state=dead&done=retried");
        assert_eq!(program::dead_deliveries(&db).await, 0);
        assert!(get(signals_web::router(db.clone()), "/deliveries/2?done=discarded").await.contains("was discarded"));
    }

    async fn a_button_retries_all_deliveries_of_the_list(db: Db) {
        let _turn = setup(&db).await;
        for _ in 0..3 {
            program::dead(&db).await;
        }
        execute(&db, "UPDATE signals_delivery SET receiver = 'old::path' WHERE id = 3").await;
        let form = format!("receiver={}&state=dead", registry().get::<welcome>().delivery_name().unwrap());
        let back = press(&db, "/deliveries/retry", &form).await;
        assert!(back.ends_with("&state=dead&done=retried_all&count=2"), "{back}");
        assert_eq!(program::dead_deliveries(&db).await, 1);
        let shown = get(signals_web::router(db.clone()), back.strip_prefix("/ops").unwrap()).await;
        assert!(shown.contains("2 deliveries are due now"), "{shown}");
        assert!(press(&db, "/deliveries/retry", "").await.ends_with("count=3"));
    }

    async fn a_button_pauses_a_receiver_in_this_process(db: Db) {
        let _turn = setup(&db).await;
        let receiver = registry().get::<welcome>();
        let form = format!("receiver={}", receiver.delivery_name().unwrap());
        assert_eq!(press(&db, "/receivers/pause", &form).await, "/ops?done=paused");
        assert!(!receiver.is_enabled());
        Visit { id: None, name: "a".into() }.save(&db).await.unwrap();
        let stored = DeliveryFilter::new().receiver::<welcome>();
        assert!(db.deliveries().list(stored.clone()).await.unwrap().is_empty());
        assert!(get(signals_web::router(db.clone()), "").await.contains("Resume"));
        assert_eq!(press(&db, "/receivers/resume", &form).await, "/ops?done=resumed");
        Visit { id: None, name: "b".into() }.save(&db).await.unwrap();
        assert_eq!(db.deliveries().list(stored).await.unwrap().len(), 1);
        let (status, ..) = send(signals_web::router(db.clone()), button("/receivers/pause", "receiver=old::path")).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    async fn a_list_has_pages_in_both_directions(db: Db) {
        let _turn = setup(&db).await;
        let mut visits: Vec<_> = (0..60).map(|n| Visit { id: None, name: format!("visit {n}") }).collect();
        Visit::insert_many(&db, &mut visits).await.unwrap();
        // Two receivers.
        assert_eq!(count(&db, "signals_delivery").await, 120);
        let page = || signals_web::router(db.clone());
        let (mut path, mut seen) = ("/deliveries".to_owned(), Vec::new());
        let mut before = Vec::new();
        loop {
            let body = get(page(), &path).await;
            seen.extend(ids(&body));
            before.push(ids(&body));
            match link(&body, "next") {
                Some(next) => path = next,
                None => break,
            }
        }
        assert_eq!(seen, (1..=120).rev().collect::<Vec<_>>());
        assert_eq!(before.iter().map(Vec::len).collect::<Vec<_>>(), [50, 50, 20]);
        // And back.
        for expected in before.iter().rev().skip(1) {
            path = link(&get(page(), &path).await, "prev").unwrap();
            assert_eq!(ids(&get(page(), &path).await), *expected);
        }
        assert_eq!(link(&get(page(), &path).await, "prev"), None);
        let of_one = format!("/deliveries?receiver={}&state=waiting", registry().get::<apply>().delivery_name().unwrap());
        let body = get(page(), &of_one).await;
        assert_eq!(ids(&body).len(), 50);
        let next = link(&body, "next").unwrap();
        assert!(next.contains("state=waiting") && next.contains("apply"), "{next}");
        assert_eq!(ids(&get(page(), &next).await).len(), 10);
        assert_eq!(ids(&get(page(), "/deliveries?state=dead").await), [0; 0]);
    }

    async fn a_payload_is_shown_only_if_the_program_allows_it_and_the_operator_asks(db: Db) {
        let _turn = setup(&db).await;
        Visit { id: None, name: "a secret".into() }.save(&db).await.unwrap();
        let hidden = || signals_web::router(db.clone());
        let shown = || hidden().show_payloads();
        for path in ["", "/deliveries", "/deliveries/1", "/deliveries/1?payload=shown"] {
            assert!(!get(hidden(), path).await.contains("a secret"), "{path}");
        }
        assert!(!get(shown(), "/deliveries/1").await.contains("a secret"));
        assert!(get(shown(), "/deliveries/1?payload=shown").await.contains("a secret"));
    }

    async fn a_delivery_shows_its_error_its_attempts_and_its_causes(db: Db) {
        let _turn = setup(&db).await;
        Visit { id: None, name: "fails".into() }.save(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        let all = db.deliveries().list(DeliveryFilter::new().state(DeliveryState::Retrying)).await.unwrap();
        // The receiver `apply` has saved a note, whose receiver fails.
        let caused = all.iter().find(|delivery| delivery.receiver.ends_with("::print")).unwrap();
        let body = get(signals_web::router(db.clone()), &format!("/deliveries/{}", caused.id)).await;
        for text in ["What has caused it", "::<wbr>apply", "::<wbr>print", "1 of 5", "no paper: the tray is empty", "retrying"] {
            assert!(body.contains(text), "{text}: {body}");
        }
        assert!(!body.contains(&caused.payload));
    }

    async fn the_overview_shows_counts_unknown_receivers_and_the_picture(db: Db) {
        let _turn = setup(&db).await;
        program::dead(&db).await;
        execute(&db, "UPDATE signals_delivery SET receiver = 'old::path' WHERE id = 1").await;
        let body = get(signals_web::router(db.clone()), "").await;
        for text in ["old::<wbr>path", "unknown receiver", "/ops/deliveries?receiver=old%3A%3Apath&amp;state=dead", "<svg width", "program::welcome"] {
            assert!(body.contains(text), "{text}: {body}");
        }
    }

    async fn the_response_has_a_token_and_a_policy(db: Db) {
        let _turn = setup(&db).await;
        let first = Request::get("/ops").body(Body::empty()).unwrap();
        let (_, response, body) = send(signals_web::router(db.clone()), first).await;
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
        let (token, options) = cookie.strip_prefix("signals_token=").unwrap().split_once(';').unwrap();
        assert_eq!(options, " Path=/ops; HttpOnly; SameSite=Lax");
        assert!(body.contains(&format!("value=\"{token}\"")));
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        // The browser keeps its token, so that other open pages stay valid.
        let again = Request::get("/ops").header(COOKIE, format!("signals_token={token}")).body(Body::empty()).unwrap();
        let (_, response, body) = send(signals_web::router(db.clone()), again).await;
        assert!(!response.headers().contains_key(SET_COOKIE) && body.contains(token));
    }

    async fn kept_deliveries_have_a_list_of_their_own(db: Db) {
        let _turn = setup(&db).await;
        program::dead(&db).await;
        program::note(&db).await;
        let page = || signals_web::router(db.clone());
        let name = registry().get::<print>().name();
        for path in ["/deliveries?state=done".to_owned(), format!("/deliveries?state=done&receiver={name}")] {
            let body = get(page(), &path).await;
            assert_eq!(ids(&body).len(), 1, "{body}");
            assert!(body.contains("done since"), "{body}");
            assert!(body.contains(r#"<option value="done" selected>"#), "{body}");
            assert!(!body.contains("/retry"), "what is done cannot be retried: {body}");
        }
        let of_another = format!("/deliveries?state=done&receiver={}", registry().get::<welcome>().name());
        assert_eq!(ids(&get(page(), &of_another).await), [0; 0]);
        assert_eq!(ids(&get(page(), "/deliveries").await).len(), 1, "only the dead one");
    }

    /// Of 200,000 deliveries, PostgreSQL may read 5,000 rows. SQLite may execute 580,000 instructions, most of them to pass 100,000 dead ones.
    async fn a_page_does_not_read_the_deliveries_that_it_does_not_show(db: Db) {
        let _turn = setup(&db).await;
        let registry = registry();
        let receivers = [registry.get::<welcome>().name(), registry.get::<print>().name(), registry.get::<apply>().name()];
        let backlog = Backlog { waiting: 100_000, dead: 100_000, receivers };
        let watched = common::one_connection(&db).await;
        let work = Work::of(&watched).await;
        for place in Dead::PLACES {
            backlog.store(&db, place).await.unwrap();
            for path in backlog.paths(place) {
                let (_, done) = work.of_page(&watched, &path).await;
                assert!(done <= work.limit, "dead {place:?}: {path} takes {done}");
            }
        }
        assert!(work.done(&watched).await > 10_000, "the work is counted");
        // The last place: all waiting ones come after the dead ones.
        let (mut path, mut pages) = ("/deliveries?state=waiting&newer_than=0".to_owned(), 1);
        let found = loop {
            let body = get(signals_web::router(watched.clone()), &path).await;
            if !ids(&body).is_empty() {
                break ids(&body);
            }
            assert!(body.contains("The list continues with newer ones"), "{body}");
            path = link(&body, "prev").unwrap();
            pages += 1;
        };
        assert_eq!((found.len(), found.last()), (50, Some(&(2 * (backlog.dead as i64 + 1)))));
        assert!((2..=6).contains(&pages), "{pages}");
    }

    /// SQLite has no statistics. If the statement did not name the index, each step of the search would read all retrying deliveries of the receiver.
    async fn a_page_reads_an_index_in_the_order_of_the_list(db: Db) {
        let _turn = setup(&db).await;
        many_deliveries(&db, "early", 30_000, "receiver = 'early'", "error = 'no'").await;
        many_deliveries(&db, "late", 60_000, "receiver = 'late'", "error = 'no'").await;
        if db.kind() == DatabaseKind::Postgres {
            // As autovacuum does.
            execute(&db, "ANALYZE signals_delivery").await;
        }
        let watched = common::one_connection(&db).await;
        let work = Work::of(&watched).await;
        let (body, done) = work.of_page(&watched, "/deliveries?receiver=late&state=retrying&newer_than=0").await;
        assert!(body.contains("The list continues with newer ones"), "{body}");
        let limit = if db.kind() == DatabaseKind::Sqlite { work.limit } else { 55_000 };
        assert!(done <= limit, "{done}");
    }

    async fn a_page_that_cannot_be_shown_says_why(db: Db) {
        let page = || signals_web::router(db.clone());
        let get = |path: &str| Request::get(format!("/ops{path}")).body(Body::empty()).unwrap();
        let (status, _, body) = send(page(), get("")).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("setup()"), "{body}");
        let _turn = setup(&db).await;
        for (path, expected) in [("/nowhere", 404), ("/deliveries/x", 400), ("/deliveries?older_than=x", 400), ("/deliveries/77", 200)] {
            let (status, _, body) = send(page(), get(path)).await;
            assert_eq!(status.as_u16(), expected, "{path}");
            assert!(body.contains("<h1>"), "{path}: {body}");
        }
    }
}

/// What a connection has to do for a page.
struct Work {
    /// Instructions of SQLite, counted in hundreds.
    hundreds: Arc<AtomicI64>,
    limit: i64,
}

impl Work {
    async fn of(db: &Db) -> Self {
        let hundreds = Arc::new(AtomicI64::new(0));
        let Some(pool) = db.sqlite() else { return Self { hundreds, limit: 5000 } };
        let mut conn = pool.acquire().await.unwrap();
        let counter = hundreds.clone();
        conn.lock_handle().await.unwrap().set_progress_handler(100, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            true
        });
        Self { hundreds, limit: 5800 }
    }

    /// A page, and the work for it.
    async fn of_page(&self, db: &Db, path: &str) -> (String, i64) {
        let before = self.done(db).await;
        let body = get(signals_web::router(db.clone()), path).await;
        (body, self.done(db).await - before)
    }

    /// The work up to now: instructions of SQLite in hundreds, or rows of the table that PostgreSQL has read.
    async fn done(&self, db: &Db) -> i64 {
        if db.kind() == DatabaseKind::Sqlite {
            return self.hundreds.load(Ordering::Relaxed);
        }
        // In a statement of its own, before the one that reads the statistics.
        db.execute("SELECT pg_stat_force_next_flush()").await.unwrap();
        let rows = "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables WHERE relname = 'signals_delivery'";
        let (rows,): (i64,) = db.query(rows).fetch_one().await.unwrap();
        rows
    }
}

/// The deliveries of a list.
fn ids(body: &str) -> Vec<i64> {
    let rows = body.split("<tr id=\"d").skip(1);
    rows.map(|row| row.split_once('"').unwrap().0.parse().unwrap()).collect()
}

/// The address of a link to another page of the list.
fn link(body: &str, rel: &str) -> Option<String> {
    let (_, after) = body.split_once(&format!("rel=\"{rel}\" href=\"/ops"))?;
    Some(after.split_once('"')?.0.replace("&amp;", "&"))
}
