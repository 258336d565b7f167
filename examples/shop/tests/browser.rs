//! The shop in a browser: one tab shows what another tab changes.
#![allow(missing_docs)]

#[path = "../../../tests/common/browser.rs"]
mod browser;
mod common;

use std::net::SocketAddr;
use std::time::Duration;

use browser::{Browser, click, text};
use fantoccini::{Client, Locator};
use sqlx_signals::prelude::*;
use tokio::net::TcpListener;

/// The shop on a free port.
async fn serve(db: &Db) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = shop::web::app(db.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Orders a product on the page of the products.
async fn order(client: &Client, shop: &str, product: usize, quantity: u32) {
    client.goto(shop).await.unwrap();
    let article = format!("article:nth-of-type({product})");
    let field =
        client.find(Locator::Css(&format!("{article} input[name=quantity]"))).await.unwrap();
    field.clear().await.unwrap();
    field.send_keys(&quantity.to_string()).await.unwrap();
    click(client, &format!("{article} button")).await;
}

on_every_database! {
    async fn orders_appear_in_the_other_tab_and_a_veto_is_a_message(db: Db) {
        let shop = format!("http://{}", serve(&db).await);
        let worker = db.deliveries().worker().spawn().await.unwrap();
        let browser = Browser::start().await;
        let client = &browser.client;

        // One tab shows the orders.
        client.goto(&format!("{shop}/orders")).await.unwrap();
        live(client).await;
        let watching = client.window().await.unwrap();

        // In another one, Ann orders two lamps.
        let ordering = client.new_window(true).await.unwrap().handle;
        client.switch_to_window(ordering.clone()).await.unwrap();
        order(client, &shop, 1, 2).await;
        assert!(text(client, "#order-1").await.contains("2 × Lamp"));

        // The first tab shows the order without a reload, and that it is paid.
        client.switch_to_window(watching.clone()).await.unwrap();
        let row = text(client, "tr#order-1.changed").await;
        assert!(row.contains("Ann") && row.contains("2 × Lamp") && row.contains("€ 78.00"), "{row}");
        client.switch_to_window(ordering.clone()).await.unwrap();
        click(client, "#order-1 button").await;
        text(client, "#order-1 .state.paid").await;
        client.switch_to_window(watching).await.unwrap();
        assert_eq!(text(client, "tr#order-1 .state.paid").await, "paid");
        assert_eq!(client.current_url().await.unwrap().path(), "/orders");

        // The second piano is rejected.
        client.switch_to_window(ordering).await.unwrap();
        order(client, &shop, 3, 2).await;
        assert_eq!(text(client, "[role=alert]").await, "Only 1 × Piano left.");

        // The confirmation is sent after the response.
        mails(client, &shop).await;
        client.goto(&format!("{shop}/audit")).await.unwrap();
        let log = text(client, "tbody").await;
        assert!(log.contains("Order 1 created") && log.contains("Order 1 changed") && !log.contains("Order 2"), "{log}");

        client.goto(&format!("{shop}/signals")).await.unwrap();
        let picture = text(client, ".picture svg").await;
        for name in ["stock::take_from_stock", "mail::confirm", "post_save, durable"] {
            assert!(picture.contains(name), "{picture}");
        }
        assert!(!client.find_all(Locator::Css(".edge.effect path")).await.unwrap().is_empty());
        keep_pictures(client, &shop).await;
        browser.client.close().await.unwrap();
        worker.shutdown().await.unwrap();
    }
}

/// Waits until the page gets updates.
async fn live(client: &Client) {
    for _ in 0..1200 {
        if text(client, "#live").await == "This page is live." {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the page of the orders is not live");
}

async fn mails(client: &Client, shop: &str) {
    for _ in 0..600 {
        client.goto(&format!("{shop}/mails")).await.unwrap();
        if text(client, "main").await.contains("Your order of 2 × Lamp") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no mail was sent");
}

/// Writes pictures of the pages into the folder that `SHOP_PICTURES` names.
async fn keep_pictures(client: &Client, shop: &str) {
    let Ok(folder) = std::env::var("SHOP_PICTURES") else { return };
    for (width, kind) in [(1100, "desktop"), (390, "phone")] {
        client.set_window_size(width, 900).await.unwrap();
        for page in ["", "orders", "audit", "signals"] {
            client.goto(&format!("{shop}/{page}")).await.unwrap();
            let height = client
                .execute("return document.documentElement.scrollHeight", vec![])
                .await
                .unwrap();
            client
                .set_window_size(width, 140 + u32::try_from(height.as_u64().unwrap()).unwrap())
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let name = if page.is_empty() { "products" } else { page };
            let png = client.screenshot().await.unwrap();
            std::fs::write(format!("{folder}/{name}-{kind}.png"), png).unwrap();
        }
    }
}
