//! A program with durable receivers.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod backlog;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx_signals::durable::{DeliveryFilter, DeliveryState, Retry};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, testing};
use tokio::sync::{Mutex, MutexGuard};

use crate::common::table;

/// A visitor has come.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "visits")]
pub struct Visit {
    pub id: Option<i64>,
    pub name: String,
}

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "notes")]
pub struct Note {
    pub id: Option<i64>,
    pub text: String,
}

/// Welcomes a visitor by mail.
#[receiver(post_save, sender = Visit, durable(queue = "mail", backoff = "1h"))]
pub async fn welcome(saved: PostSave<'_, Visit>, _delivery: Delivery<'_>) -> Result<()> {
    match &*saved.instance.name {
        "dead" => Err(Retry::never("the address does not exist").into()),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Writes a note about the visit, in the transaction of the delivery.
#[receiver(post_save, sender = Visit, durable)]
pub async fn apply(saved: PostSave<'_, Visit>, conn: &mut Conn<'_>) -> Result<()> {
    Note { id: None, text: saved.instance.name.clone() }.save(conn).await?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("no paper")]
struct NoPaper(#[source] std::io::Error);

/// Prints the note.
#[receiver(post_save, sender = Note, durable(max_attempts = 5, backoff = "1h", keep = "1d"))]
pub async fn print(saved: PostSave<'_, Note>, _delivery: Delivery<'_>) -> Result<()> {
    let empty = || std::io::Error::other("the tray is empty");
    if saved.instance.text == "fails" { Err(Error::other(NoPaper(empty()))) } else { Ok(()) }
}

#[receiver(post_save, sender = Note, on_commit)]
pub fn announce(saved: PostSave<'_, Note>) {
    println!("{}", saved.instance.text);
}

#[receiver(pre_save, sender = Visit)]
pub fn check_name(save: PreSave<'_, Visit>) -> Result<()> {
    if save.instance.name.is_empty() { Err(Error::other("no name")) } else { Ok(()) }
}

/// Creates the tables. Tests take turns, because pausing a receiver concerns the whole process.
pub async fn setup(db: &Db) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    table(db, "visits", "name TEXT NOT NULL").await;
    table(db, "notes", "text TEXT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
    turn
}

/// Stores one dead delivery.
pub async fn dead(db: &Db) {
    registry().get::<apply>().disable();
    Visit { id: None, name: "dead".into() }.save(db).await.unwrap();
    registry().get::<apply>().enable();
    testing::deliver(db).await.unwrap();
}

/// Stores one kept delivery.
pub async fn note(db: &Db) {
    Note { id: None, text: "a note".into() }.save(db).await.unwrap();
    testing::deliver(db).await.unwrap();
}

pub async fn dead_deliveries(db: &Db) -> usize {
    db.deliveries().list(DeliveryFilter::new().state(DeliveryState::Dead)).await.unwrap().len()
}

/// An SQL expression of a time this number of seconds from now.
pub fn in_seconds(db: &Db, seconds: i64) -> String {
    match db.kind() {
        DatabaseKind::Sqlite => format!("(unixepoch() + {seconds}) * 1000"),
        DatabaseKind::Postgres => format!("now() + {seconds} * interval '1 second'"),
    }
}
