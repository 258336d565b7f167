//! PostgreSQL: many clients at once make progress.
#![allow(missing_docs)]
#![cfg(feature = "postgres")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use common::{TestDb, count, execute};
use sqlx_signals::prelude::*;

const ORDERS: i64 = 200;
const STOCK: i64 = 150;
const CLIENTS: usize = 32;

/// How long a client waits for the response to its order.
const TIMEOUT: Duration = Duration::from_millis(800);

static COMMITTED: [AtomicI64; 2] = [const { AtomicI64::new(0) }; 2];

#[derive(Debug, Clone, Model)]
#[model(table = "products")]
struct Product {
    id: Option<i64>,
    stock: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("sold out")]
struct SoldOut;

#[receiver(pre_save, sender = Product)]
fn in_stock(save: PreSave<'_, Product>) -> Result<(), SoldOut> {
    if save.instance.stock < 0 { Err(SoldOut) } else { Ok(()) }
}

macro_rules! order {
    ($Order:ident, $take:ident, $audit:ident, $count:ident, $place:literal) => {
        #[derive(Debug, Clone, Model)]
        #[model(table = "orders")]
        struct $Order {
            id: Option<i64>,
            product_id: i64,
        }

        #[receiver(post_save, sender = $Order, created, after = $take)]
        async fn $audit(saved: PostSave<'_, $Order>, conn: &mut Conn<'_>) -> Result<()> {
            conn.query("INSERT INTO audit (order_id) VALUES ($1)")
                .bind(saved.pk())
                .execute()
                .await?;
            Ok(())
        }

        #[receiver(post_save, sender = $Order, created, on_commit)]
        async fn $count(saved: PostSave<'_, $Order>, db: Db) -> Result<()> {
            // As a search index does it: the committed row is read through the pool.
            $Order::get(&db, saved.pk()).await?;
            COMMITTED[$place].fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    };
}

order!(Order, take_from_stock, audit, count_committed, 0);
order!(LockingOrder, take_with_lock, audit_with_lock, count_with_lock, 1);

/// One statement decides.
#[receiver(post_save, sender = Order, created)]
async fn take_from_stock(saved: PostSave<'_, Order>, conn: &mut Conn<'_>) -> Result<()> {
    let sql = "UPDATE products SET stock = stock - 1 WHERE id = $1 AND stock > 0";
    match conn.query(sql).bind(saved.instance.product_id).execute().await? {
        0 => Err(sqlx_signals::Error::other(SoldOut)),
        _ => Ok(()),
    }
}

/// The row is locked, read and saved, and the receiver of the product decides.
#[receiver(post_save, sender = LockingOrder, created)]
async fn take_with_lock(saved: PostSave<'_, LockingOrder>, conn: &mut Conn<'_>) -> Result<()> {
    let locked = Product::query("WHERE id = $1 FOR NO KEY UPDATE");
    let mut product = locked.bind(saved.instance.product_id).fetch_one(&mut *conn).await?;
    product.stock -= 1;
    product.save(conn).await?;
    Ok(())
}

/// Places one order as a handler with a timeout does.
async fn place(db: &Db, locks: bool) -> Option<Result<(), sqlx_signals::Error>> {
    let order = async {
        match locks {
            false => Order { id: None, product_id: 1 }.save(db).await.map(drop),
            true => LockingOrder { id: None, product_id: 1 }.save(db).await.map(drop),
        }
    };
    tokio::time::timeout(TIMEOUT, order).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_orders_of_one_product_sells_exactly_the_stock() {
    let test = TestDb::postgres("burst").await;
    execute(
        &test.db,
        "CREATE TABLE products (id BIGSERIAL PRIMARY KEY, stock BIGINT NOT NULL CHECK (stock >= 0));
         CREATE TABLE orders (id BIGSERIAL PRIMARY KEY, product_id BIGINT NOT NULL REFERENCES products);
         CREATE TABLE audit (id BIGSERIAL PRIMARY KEY, order_id BIGINT NOT NULL REFERENCES orders)",
    )
    .await;
    let pool = Db::from(test.db.postgres().unwrap().clone());
    for (db, locks) in [(&test.db, false), (&test.db, true), (&pool, false), (&pool, true)] {
        execute(db, "TRUNCATE products, orders, audit RESTART IDENTITY").await;
        Product { id: None, stock: STOCK }.save(db).await.unwrap();
        let committed = &COMMITTED[usize::from(locks)];
        committed.store(0, Ordering::Relaxed);
        let left = Arc::new(AtomicI64::new(ORDERS));
        let (sold, vetoed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..CLIENTS).map(|_| {
            let (db, left) = (db.clone(), Arc::clone(&left));
            let (sold, vetoed) = (Arc::clone(&sold), Arc::clone(&vetoed));
            tokio::spawn(async move {
                while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                    match place(&db, locks).await.expect("an order that timed out") {
                        Ok(()) => _ = sold.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            assert_eq!(error.find(), Some(&SoldOut), "{error:#}");
                            vetoed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        let ended = (sold.load(Ordering::Relaxed), vetoed.load(Ordering::Relaxed));
        assert_eq!(ended, (STOCK as usize, (ORDERS - STOCK) as usize));
        assert_eq!(Product::get(db, 1).await.unwrap().stock, 0);
        assert_eq!(count(db, "orders").await, STOCK);
        assert_eq!(count(db, "audit").await, STOCK);
        assert_eq!(committed.load(Ordering::Relaxed), STOCK);
    }
    test.passed().await;
}
