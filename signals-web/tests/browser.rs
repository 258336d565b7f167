//! The pages in a browser: they update themselves, and their buttons work, with scripts and without.
#![allow(missing_docs)]

#[path = "../../tests/common/browser.rs"]
mod browser;
#[path = "../../tests/common/mod.rs"]
mod common;
mod program;

use std::time::Duration;

use axum::Router;
use browser::{Browser, click, text};
use common::execute;
use fantoccini::{Client, Locator};
use program::{Visit, dead, dead_deliveries, in_seconds, setup};
use serde_json::json;
use sqlx_signals::durable::{DeliveryFilter, DeliveryState};
use sqlx_signals::prelude::*;
use sqlx_signals::testing;
use tokio::net::TcpListener;

/// The pages on a free port.
async fn serve(db: &Db) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let page = signals_web::router(db.clone()).show_payloads();
    let app = Router::new().nest("/ops", page.into());
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}/ops")
}

/// Waits until an element contains a text.
async fn shows(client: &Client, css: &str, expected: &str) {
    let mut last = String::new();
    for _ in 0..1200 {
        // An element that is replaced meanwhile is looked for again.
        if let Ok(element) = client.find(Locator::Css(css)).await {
            last = element.text().await.unwrap_or_default();
            if last.contains(expected) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{css} does not show {expected:?}: {last}");
}

async fn script(client: &Client, script: &str) -> serde_json::Value {
    client.execute(script, vec![]).await.unwrap()
}

const TOTAL_DEAD: &str = ".totals a.dead strong";

on_every_database! {
    async fn the_pages_update_themselves_and_their_buttons_work(db: Db) {
        let _turn = setup(&db).await;
        let page = serve(&db).await;
        let browser = Browser::start().await;
        let client = &browser.client;
        client.goto(&page).await.unwrap();
        assert_eq!(text(client, TOTAL_DEAD).await, "0");

        // The page shows a new dead delivery, and is not loaded again: what is open stays open.
        script(client, "window.mark = 1; document.querySelector('section > details').open = true").await;
        dead(&db).await;
        shows(client, TOTAL_DEAD, "1").await;
        let kept = script(client, "return [window.mark, document.querySelector('section > details').open]").await;
        assert_eq!(kept, json!([1, true]));

        // Paused, it stays as it is.
        click(client, "#updates").await;
        dead(&db).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(text(client, TOTAL_DEAD).await, "1");
        click(client, "#updates").await;
        shows(client, TOTAL_DEAD, "2").await;

        // From the overview to one delivery, which is discarded.
        click(client, ".totals a.dead").await;
        click(client, "#d1 th a").await;
        shows(client, "h1", "Delivery 1").await;
        assert!(text(client, "pre.error").await.contains("the address does not exist"));
        click(client, ".buttons .confirm summary").await;
        click(client, "button.bad").await;
        shows(client, ".message", "was discarded").await;
        assert_eq!(dead_deliveries(&db).await, 1);

        // The other one is retried from the list.
        click(client, "#d2 button").await;
        shows(client, ".message", "is due now").await;
        assert_eq!(dead_deliveries(&db).await, 0);

        // A receiver is paused and resumed.
        let welcome = registry().get::<program::welcome>();
        client.goto(&page).await.unwrap();
        let name = welcome.delivery_name().unwrap();
        click(client, &format!("button[aria-label='Pause {name}']")).await;
        shows(client, ".badge.paused", "paused").await;
        assert!(!welcome.is_enabled());
        click(client, &format!("button[aria-label='Resume {name}']")).await;
        shows(client, ".message", "runs again").await;
        assert!(welcome.is_enabled());
        assert_eq!(script(client, "return document.documentElement.scrollWidth <= innerWidth").await, json!(true));
        browser.client.close().await.unwrap();
    }

    async fn the_pages_work_without_scripts_on_a_phone(db: Db) {
        let _turn = setup(&db).await;
        fill(&db).await;
        let page = serve(&db).await;
        let browser = Browser::start_with(&["--blink-settings=scriptEnabled=false"]).await;
        let client = &browser.client;
        client.set_window_size(500, 900).await.unwrap();
        client.goto(&page).await.unwrap();
        let before = dead_deliveries(&db).await;
        click(client, ".totals a.dead").await;
        click(client, ".choice button").await;
        click(client, "tr[id] th a").await;
        click(client, ".buttons form button").await;
        shows(client, ".message", "is due now").await;
        assert_eq!(dead_deliveries(&db).await, before - 1);
        browser.client.close().await.unwrap();
    }

    async fn pictures_of_the_pages_are_written_where_the_caller_says(db: Db) {
        let Ok(folder) = std::env::var("SIGNALS_PICTURES") else { return };
        if db.kind() == sqlx_signals::DatabaseKind::Sqlite {
            let _turn = setup(&db).await;
            fill(&db).await;
            let page = serve(&db).await;
            let failing = DeliveryFilter::new().state(DeliveryState::Retrying);
            let id = db.deliveries().list(failing).await.unwrap()[0].id;
            for (scheme, arg) in [("light", "--blink-settings=preferredColorScheme=1"), ("dark", "--blink-settings=preferredColorScheme=0")] {
                let browser = Browser::start_with(&[arg]).await;
                pictures(&browser.client, &page, id, &format!("{folder}/{scheme}")).await;
                browser.client.close().await.unwrap();
            }
        }
    }
}

/// Deliveries in every state.
async fn fill(db: &Db) {
    for _ in 0..3 {
        dead(db).await;
    }
    Visit { id: None, name: "fails".into() }.save(db).await.unwrap();
    testing::deliver(db).await.unwrap();
    let mut visits: Vec<_> =
        (0..1200).map(|n| Visit { id: None, name: format!("visit {n}") }).collect();
    Visit::insert_many(db, &mut visits).await.unwrap();
    let worker = "SELECT id FROM signals_delivery WHERE dead_at IS NULL AND error IS NULL ORDER BY id LIMIT 4";
    execute(db, &format!("UPDATE signals_delivery SET worker = '4711-0badcafe', attempt = 1, claim = 1, run_at = {} WHERE id IN ({worker})",
        in_seconds(db, 25))).await;
    execute(
        db,
        &format!(
            "UPDATE signals_delivery SET run_at = {} WHERE worker IS NULL AND error IS NULL",
            in_seconds(db, -95)
        ),
    )
    .await;
    execute(db, "INSERT INTO signals_delivery (event, receiver, signal, sender, payload) VALUES \
        ('0198c0f4-0000-7000-8000-000000000000', 'program::mail::farewell', 'post_save', 'visits', '{}')").await;
}

async fn pictures(client: &Client, page: &str, id: i64, start: &str) {
    let caused = &*format!("/deliveries/{id}?payload=shown");
    let pages = [
        ("overview", ""),
        ("list", "/deliveries"),
        ("dead", "/deliveries?state=dead"),
        ("delivery", caused),
        ("gone", "/nowhere"),
    ];
    for (kind, width) in [("desktop", 1280), ("phone", 500)] {
        for (name, path) in pages {
            client.set_window_size(width, 900).await.unwrap();
            client.goto(&format!("{page}{path}")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2300)).await;
            let height = script(client, "return document.documentElement.scrollHeight")
                .await
                .as_u64()
                .unwrap();
            client
                .set_window_size(width, u32::try_from(height).unwrap().clamp(600, 3000) + 90)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            let png = client.screenshot().await.unwrap();
            std::fs::write(format!("{start}-{name}-{kind}.png"), png).unwrap();
        }
    }
}
