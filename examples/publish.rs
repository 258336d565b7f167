//! Publishes the events of a program to a file: a [`Publisher`] of its own. Another process could read the file, or a broker could be in its
//! place. A message that is in the file twice, because the program was killed after it had written it, has the same id.
//!
//! `cargo run --example publish --features durable`

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx_signals::durable::{Message, Publisher};
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "users", publish = "shop.user")]
struct User {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(publish = "shop.order_paid")]
struct OrderPaid {
    order_id: i64,
}

/// Appends each message to a file, as one line.
struct LogFile(PathBuf);

impl LogFile {
    async fn append(&self, messages: &[Message]) -> std::io::Result<()> {
        let lines: String =
            messages.iter().map(|message| format!("{}\n", message.body())).collect();
        let path = self.0.clone();
        let append = move || {
            let mut file = OpenOptions::new().append(true).create(true).open(path)?;
            file.write_all(lines.as_bytes())?;
            // Only then are the messages stored, so that their events can be deleted.
            file.sync_all()
        };
        tokio::task::spawn_blocking(append).await?
    }
}

impl Publisher for LogFile {
    async fn publish(&self, messages: &[Message]) -> Vec<Result<()>> {
        let written = self.append(messages).await.map_err(|error| error.to_string());
        messages.iter().map(|_| written.clone().map_err(sqlx_signals::Error::other)).collect()
    }
}

/// The types and the data of the messages in the file. A message that is in the file twice is read once.
fn read(file: &Path) -> Result<Vec<(String, String)>, Box<dyn std::error::Error>> {
    let (mut ids, mut messages) = (BTreeSet::new(), Vec::new());
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // The last line may not be complete.
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines).lines();
    for line in lines {
        let event: serde_json::Value = serde_json::from_str(line)?;
        if ids.insert(event["id"].to_string()) {
            messages.push((event["type"].as_str().unwrap_or("").into(), event["data"].to_string()));
        }
    }
    Ok(messages)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("sqlx_signals_publish_{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("events.jsonl");
    let db = Db::connect(&format!("sqlite:{}", dir.join("shop.db").display())).await?;
    db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    db.deliveries().setup().await?;
    let relay = db.deliveries().relay("shop", LogFile(file.clone())).spawn().await?;

    let mut ann = User { id: None, name: "Ann".into() };
    ann.save(&db).await?;
    ann.name = "Ann Lee".into();
    ann.save(&db).await?;
    let mut tx = db.begin().await?;
    OrderPaid { order_id: 7 }.send(&mut tx).await?;
    tx.rollback().await?;
    OrderPaid { order_id: 8 }.send(&db).await?;

    let mut messages = read(&file)?;
    while messages.len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        messages = read(&file)?;
    }
    relay.shutdown().await?;
    // Messages of different rows and signals have no order among each other.
    messages.sort();
    for (ty, data) in &messages {
        println!("{ty} {data}");
    }
    let expected = [
        ("shop.order_paid", r#"{"order_id":8}"#),
        ("shop.user.created", r#"{"id":1,"name":"Ann"}"#),
        ("shop.user.updated", r#"{"id":1,"name":"Ann Lee"}"#),
    ];
    assert_eq!(messages, expected.map(|(ty, data)| (ty.to_owned(), data.to_owned())));
    db.close().await;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
