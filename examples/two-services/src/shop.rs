//! The shop: stores orders in SQLite, and publishes which of them are paid.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use signals_nats::NatsPublisher;
use sqlx_signals::prelude::*;

use crate::{LEASE, nats, orders, variable};

#[derive(Debug, Clone, Model)]
#[model(table = "orders")]
pub(crate) struct Order {
    pub(crate) id: Option<i64>,
    pub(crate) customer: String,
    pub(crate) paid: bool,
}

/// The relay publishes it if and only if the transaction that has sent it commits.
#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(publish = "shop.order_paid")]
struct OrderPaid {
    order_id: i64,
    customer: String,
}

/// Announces a payment, in the transaction that stores it.
#[receiver(post_save, sender = Order, updated, changed(paid))]
async fn announce_payment(saved: PostSave<'_, Order>, conn: &mut Conn<'_>) -> Result<()> {
    let Order { customer, paid, .. } = saved.instance;
    if *paid {
        OrderPaid { order_id: saved.pk(), customer: customer.clone() }.send(conn).await?;
    }
    Ok(())
}

pub(crate) async fn database(url: &str) -> Result<Db> {
    let db = Db::connect(url).await?;
    let orders = "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, paid BOOLEAN NOT NULL)";
    db.execute(orders).await?;
    db.deliveries().setup().await?;
    Ok(db)
}

/// The program of the shop.
pub(crate) async fn run() -> Result<()> {
    let db = database(&variable("SHOP_DATABASE")?).await?;
    let (client, stream) = nats().await?;
    let publisher = NatsPublisher::new(client, stream);
    let relay = db.deliveries().relay("shop", publisher).lease(LEASE).spawn().await?;
    tokio::select! {
        sold = sell(&db) => sold?,
        _ = tokio::signal::ctrl_c() => {}
    }
    relay.shutdown().await
}

/// Customers order, and most of them pay.
async fn sell(db: &Db) -> Result<()> {
    let orders = orders()?;
    // As many customers at the same time as it takes to have all orders soon.
    let customers = (orders / 400).clamp(1, 500);
    while Order::query("").count(db).await? < orders {
        let customer = |_| Order { id: None, customer: "Ann".into(), paid: false };
        let mut new: Vec<_> = (0..customers).map(customer).collect();
        Order::insert_many(db, &mut new).await?;
        // The bank takes a moment, and refuses every fifth payment.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
        let mut tx = db.begin().await?;
        for order in new.iter_mut().filter(|_| fastrand::u8(..5) > 0) {
            order.paid = true;
            order.save(&mut tx).await?;
        }
        tx.commit().await?;
    }
    std::future::pending().await
}
