//! The saves of a transaction send one statement more if their model has a durable receiver, however many they are.
#![allow(missing_docs)]

mod common;
#[path = "common/events.rs"]
mod events;

use std::fmt::Debug;
use std::sync::{LazyLock, Once};

use common::{Scene, table};
use events::Events;
use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;

/// The statements of sqlx.
static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    text: String,
}

#[receiver(post_save, sender = Note, durable(at_least_once))]
fn index(_: PostSave<'_, Note>) {}

/// Like `Note`, without receivers.
#[derive(Debug, Model)]
#[model(table = "notes")]
struct Plain {
    id: Option<i64>,
    text: String,
}

/// Records the statements that sqlx reports. SQLite's are reported by the threads of its connections, so it is the subscriber of the process.
fn record_statements() {
    let selects = |metadata: &tracing::Metadata<'_>| metadata.target() == "sqlx::query";
    let hear = |event: &tracing::Event<'_>| event.record(&mut Summary);
    tracing::subscriber::set_global_default(Events { selects, hear }).unwrap();
}

struct Summary;

impl tracing::field::Visit for Summary {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        // SQLite's BEGIN and COMMIT are not reported. A notification is sent on another connection, and the two tests create their databases.
        let is_other = ["BEGIN", "COMMIT", "NOTIFY", "CREATE DATABASE", "DROP DATABASE"]
            .iter()
            .any(|start| value.starts_with(start));
        if field.name() == "summary" && !is_other {
            SCENE.log.push(value.split(' ').take(3).collect::<Vec<_>>().join(" "));
        }
    }

    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn Debug) {}
}

/// The statements of a transaction with this many saves, without BEGIN and COMMIT.
async fn said<M: Model + Portable>(db: &Db, saves: usize, new: fn() -> M) -> Vec<String> {
    SCENE.log.take();
    db.transaction(async |tx| {
        for _ in 0..saves {
            new().save(&mut *tx).await?;
        }
        Ok(())
    })
    .await
    .unwrap();
    SCENE.log.take()
}

on_every_database! {
    async fn saves_in_a_transaction_send_one_statement_more_for_their_deliveries(db: Db) {
        static ONCE: Once = Once::new();
        let _turn = SCENE.begin().await;
        ONCE.call_once(record_statements);
        table(&db, "notes", "text TEXT NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let note = || Note { id: None, text: "a".into() };
        let plain = || Plain { id: None, text: "a".into() };
        // The first save of a model looks at its table.
        said(&db, 1, note).await;
        said(&db, 1, plain).await;
        for saves in [1, 3, 20, 300] {
            let mut expected = said(&db, saves, plain).await;
            assert_eq!(expected, vec!["INSERT INTO \"notes\""; saves]);
            expected.push("INSERT INTO signals_delivery".into());
            assert_eq!(said(&db, saves, note).await, expected);
        }
        let stored = common::count(&db, "signals_delivery").await;
        assert_eq!(stored, 1 + 1 + 3 + 20 + 300);
    }
}
