//! Receivers that need no transaction: plain functions of the event alone, which cannot fail.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use sqlx_signals::{Error, prelude::*};

use common::{Scene, cancelled_after, count, one_connection, table};

#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    text: String,
}

/// Like `Note`, but not `Clone`.
#[derive(Debug, Model)]
#[model(table = "notes")]
struct Single {
    id: Option<i64>,
    text: String,
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(post_save, sender = Note)]
fn invalidate(saved: PostSave<'_, Note>) {
    SCENE.log.push(format!("saved {}", saved.instance.text));
    assert!(saved.instance.text != "panic", "here");
}

#[receiver(post_save, sender = Note, robust)]
async fn tell(saved: PostSave<'_, Note>) -> Result<(), String> {
    tokio::task::yield_now().await;
    SCENE.log.push(format!("told {}", saved.instance.text));
    Err("nobody listens".to_owned())
}

#[receiver(post_save_batch, sender = Note)]
fn index(saved: PostSaveBatch<'_, Note>) {
    SCENE.log.push(format!("batch of {}", saved.instances.len()));
}

#[receiver(post_save, sender = Note, on_commit)]
async fn stored(saved: PostSave<'_, Note>) {
    SCENE.log.push(format!("stored {}", saved.instance.text));
}

#[receiver(post_delete, sender = Note)]
fn forget(deleted: PostDelete<'_, Note>) {
    SCENE.log.push(format!("deleted {}", deleted.instance.text));
}

#[receiver(post_save, sender = Single)]
fn single(saved: PostSave<'_, Single>) {
    assert!(saved.instance.text != "panic", "here");
}

fn note(text: &str) -> Note {
    Note { id: None, text: text.to_owned() }
}

on_every_database! {
    async fn receivers_run_after_the_statement_without_a_transaction(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "notes", "text TEXT NOT NULL").await;
        note("a").save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["saved a", "told a", "batch of 1", "stored a"]);
        let mut many = [note("b"), note("c")];
        Note::insert_many(&db, &mut many).await.unwrap();
        let log = SCENE.log.take();
        assert_eq!(log, ["saved b", "told b", "saved c", "told c", "batch of 2", "stored b", "stored c"]);
        assert_eq!(many.map(|note| note.id), [Some(2), Some(3)]);
    }

    async fn a_panic_is_an_error_and_the_row_is_stored(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "notes", "text TEXT NOT NULL").await;
        let mut broken = note("panic");
        let error = broken.save(&db).await.unwrap_err();
        let Error::Receiver(failed) = &error else { panic!("{error:?}") };
        assert_eq!((failed.receiver, failed.source.to_string().as_str()), ("alone::invalidate", "panicked: here"));
        assert_eq!((broken.id, count(&db, "notes").await), (Some(1), 1), "as the instance knows");
        assert_eq!(SCENE.log.take(), ["saved panic", "stored panic"]);
        // In a transaction it is undone, like any other.
        let mut tx = db.begin().await.unwrap();
        broken.save(&mut tx).await.unwrap_err();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
    }

    async fn a_row_that_is_not_clone_is_saved_in_a_transaction(db: Db) {
        table(&db, "notes", "text TEXT NOT NULL").await;
        let mut broken = Single { id: None, text: "panic".to_owned() };
        broken.save(&db).await.unwrap_err();
        assert_eq!((broken.id, count(&db, "notes").await), (None, 0));
    }

    // For every await at which the future is dropped: if the row is stored, its receivers have run.
    async fn a_save_is_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "notes", "text TEXT NOT NULL").await;
        let one = one_connection(&db).await;
        for pending in 0.. {
            let text = pending.to_string();
            let done = cancelled_after(note(&text).save(&one), pending).await;
            // When the only connection is free, all other calls have ended.
            drop(one.acquire().await.unwrap());
            let is_stored = Note::query("WHERE text = $1").bind(&text).count(&db).await.unwrap() == 1;
            let log = if is_stored { SCENE.log.wait_for(4).await } else { SCENE.log.take() };
            assert_eq!(!log.is_empty(), is_stored, "dropped when it was pending {pending} times: {log:?}");
            if let Some(saved) = done {
                saved.unwrap();
                break;
            }
        }
    }

    // The receivers of a detached statement get what it has returned: the keys, and which rows existed.
    async fn writes_of_every_kind_are_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "notes", "text TEXT NOT NULL UNIQUE").await;
        let one = one_connection(&db).await;
        let settled = async |of: &str, heard: usize, lost: usize| {
            drop(one.acquire().await.unwrap());
            let count = Note::query("WHERE text LIKE $1 || '%'").bind(of).count(&db).await.unwrap();
            let log = if count as usize == lost { SCENE.log.take() } else { SCENE.log.wait_for(heard).await };
            assert_eq!(log.len(), if count as usize == lost { 0 } else { heard }, "{of}: {count} stored, {log:?}");
        };
        for pending in 0.. {
            let of = format!("many {pending} ");
            let mut many = [note(&format!("{of}a")), note(&format!("{of}b"))];
            let done = cancelled_after(Note::insert_many(&one, &mut many), pending).await;
            settled(&of, 7, 0).await;
            if done.is_some() {
                break;
            }
        }
        for pending in 0.. {
            let of = format!("upsert {pending} ");
            let mut new = note(&of);
            let done = cancelled_after(new.upsert(&one, &[Note::TEXT]), pending).await;
            settled(&of, 4, 0).await;
            if done.is_some() {
                break;
            }
        }
        for pending in 0.. {
            let of = format!("keyed {pending} ");
            let mut new = Note { id: Some(1_000_000 + pending as i64), text: of.clone() };
            let done = cancelled_after(new.save(&one), pending).await;
            settled(&of, 4, 0).await;
            if done.is_some() {
                break;
            }
        }
        for pending in 0.. {
            let of = format!("deleted {pending} ");
            let mut many = [note(&format!("{of}a")), note(&format!("{of}b"))];
            Note::insert_many(&db, &mut many).await.unwrap();
            SCENE.log.wait_for(7).await;
            let mut gone = [many[0].clone(), Note { id: Some(-1), text: "was never there".to_owned() }, many[1].clone()];
            let done = cancelled_after(Note::delete_many(&one, &mut gone), pending).await;
            settled(&of, 2, 2).await;
            if done.is_some() {
                break;
            }
        }
    }
}
