//! Durable receivers: a mail server that fails twice, and a worker that is killed and replaced by another one.
//!
//! `cargo run --example durable --features durable` uses SQLite in a file of the temporary directory. The program starts itself a second
//! time as a separate worker, and kills that process while it runs a receiver.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx_signals::durable::{Uuid, WorkerOptions};
use sqlx_signals::prelude::*;

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    email: String,
}

#[derive(Debug, Model)]
#[model(table = "accounts")]
struct Account {
    id: Option<i64>,
    user_id: i64,
}

/// A mail server that is down for the first two mails. It knows the mails by their key.
#[derive(Clone, Default)]
struct Mailer(Arc<Mutex<Vec<Uuid>>>);

impl Mailer {
    fn send(&self, to: &str, key: Uuid) -> Result<(), &'static str> {
        let mut tried = self.0.lock().unwrap();
        tried.push(key);
        if tried.len() < 3 {
            println!("mail to {to}: the server is down");
            return Err("the server is down");
        }
        println!("mail to {to}: sent");
        Ok(())
    }
}

/// Exactly once: the account and the end of the delivery are committed in one transaction.
#[receiver(post_save, sender = User, created, durable)]
async fn open_account(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    Account { id: None, user_id: saved.pk() }.save(conn).await?;
    Ok(())
}

/// At least once: the mail server is not part of the transaction, so it gets a key that is the same for every attempt.
#[receiver(post_save, sender = User, created, durable(queue = "mail", backoff = "100ms"))]
async fn welcome(
    saved: PostSave<'_, User>,
    delivery: Delivery<'_>,
    State(mailer): State<Mailer>,
) -> Result<(), &'static str> {
    mailer.send(&saved.instance.email, delivery.idempotency_key())
}

/// What a parcel needs to be packed: forever in the process that is killed.
#[derive(Clone)]
struct Packing(Duration);

#[receiver(post_save, sender = User, created, durable(queue = "parcels"))]
async fn pack(saved: PostSave<'_, User>, delivery: Delivery<'_>, State(packing): State<Packing>) {
    println!("packing for {} (attempt {})", saved.instance.email, delivery.attempt());
    tokio::time::sleep(packing.0).await;
}

#[tokio::main]
async fn main() -> Result<()> {
    if let Some(url) = std::env::args().nth(1) {
        // The process that is killed.
        let db = Db::connect(&url).await?.with(Packing(Duration::from_secs(3600)));
        let _worker = worker(&db).queues(["parcels"]).spawn().await?;
        std::future::pending::<()>().await;
    }
    let dir = std::env::temp_dir().join(format!("signals_durable_{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    run(&dir).await?;
    std::fs::remove_dir_all(dir).unwrap();
    Ok(())
}

/// A delivery whose worker was killed is due again after a second.
fn worker(db: &Db) -> WorkerOptions {
    db.deliveries().worker().lease(Duration::from_secs(1)).poll(Duration::from_millis(50))
}

async fn run(dir: &Path) -> Result<()> {
    let url = format!("sqlite:{}", dir.join("shop.db").display());
    let mailer = Mailer::default();
    let db = Db::connect(&url).await?.with(mailer.clone()).with(Packing(Duration::ZERO));
    db.execute(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL);
         CREATE TABLE accounts (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL)",
    )
    .await?;
    db.deliveries().setup().await?;
    db.check().await?;

    // A rolled-back row has no deliveries.
    let mut tx = db.begin().await?;
    User { id: None, email: "nobody@example.org".into() }.save(&mut tx).await?;
    tx.rollback().await?;
    User { id: None, email: "ann@example.org".into() }.save(&db).await?;
    assert_eq!(deliveries(&db).await?, 3);

    let program = std::env::current_exe().unwrap();
    let mut killed = Command::new(program).arg(&url).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(killed.stdout.take().unwrap()).read_line(&mut line).unwrap();
    print!("in the other process: {line}");
    assert_eq!(line.trim(), "packing for ann@example.org (attempt 1)");
    killed.kill().unwrap();
    killed.wait().unwrap();
    println!("the other process was killed");

    let worker = worker(&db).spawn().await?;
    while deliveries(&db).await? > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.shutdown().await?;

    let accounts = Account::all(&db).await?;
    assert_eq!(accounts.iter().map(|account| account.user_id).collect::<Vec<_>>(), [1]);
    let keys = mailer.0.lock().unwrap().clone();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]));
    db.close().await;
    println!(
        "one account, three attempts to send one mail, and the parcel was packed by another process"
    );
    Ok(())
}

async fn deliveries(db: &Db) -> Result<i64> {
    let (waiting,): (i64,) = db.query("SELECT count(*) FROM signals_delivery").fetch_one().await?;
    Ok(waiting)
}
