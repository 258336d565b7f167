//! A savepoint, a rollback and callbacks after the commit.
//!
//! `cargo run --example transactions` uses SQLite in memory. The same program on PostgreSQL:
//! `DATABASE_URL=postgres://… cargo run --example transactions --features postgres`

use std::sync::Mutex;

use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error};

#[derive(Debug, Clone, Model)]
#[model(table = "orders")]
struct Order {
    id: Option<i64>,
    item: String,
}

fn order(item: &str) -> Order {
    Order { id: None, item: item.to_owned() }
}

static OUTBOX: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Ships an order only after it is committed.
#[receiver(post_save, sender = Order, on_commit)]
fn ship(saved: PostSave<'_, Order>) {
    println!("shipped: {}", saved.instance.item);
    OUTBOX.lock().unwrap().push(saved.instance.item.clone());
}

#[receiver(post_save, sender = Order, on_rollback)]
fn put_back(saved: PostSave<'_, Order>) {
    println!("put back on the shelf: {}", saved.instance.item);
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite::memory:".to_owned());
    let db = Db::connect(&url).await?;
    db.execute(match db.kind() {
        DatabaseKind::Sqlite => "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)",
        DatabaseKind::Postgres => {
            "CREATE TABLE orders (id BIGSERIAL PRIMARY KEY, item TEXT NOT NULL)"
        }
    })
    .await?;

    // Rolling back a savepoint discards its callbacks. The transaction continues.
    let mut tx = db.begin().await?;
    order("a lamp").save(&mut tx).await?;
    let mut savepoint = tx.begin().await?;
    order("a unicorn").save(&mut savepoint).await?;
    savepoint.rollback().await?;
    tx.on_commit(async { println!("the lamp's transaction is stored") });
    assert!(OUTBOX.lock().unwrap().is_empty(), "nothing before the commit");
    let committed = tx.commit().await?;
    assert!(committed.errors.is_empty());
    assert_eq!(*OUTBOX.lock().unwrap(), ["a lamp"]);

    // A closure commits on `Ok` and rolls back on `Err`.
    let refused = db
        .transaction(async |tx| {
            order("a piano").save(&mut *tx).await?;
            Err::<(), _>(Error::other("it does not fit through the door"))
        })
        .await;
    println!("refused: {}", refused.unwrap_err());

    // A transaction with a failed statement is not committed, even if the error was ignored.
    let mut tx = db.begin().await?;
    order("a chair").save(&mut tx).await?;
    let _ = tx.query("INSERT INTO no_such_table VALUES ($1)").bind(1).execute().await;
    let error = tx.commit().await.unwrap_err();
    println!("{error}");
    assert!(matches!(error, Error::RolledBack { .. }));

    assert_eq!(Order::all(&db).await?.len(), 1);
    assert_eq!(*OUTBOX.lock().unwrap(), ["a lamp"]);
    db.execute("DROP TABLE orders").await?;
    Ok(())
}
