//! Another program alters a table while this one runs. PostgreSQL then refuses statements that were prepared before, with "cached
//! plan must not change result type".
//!
//! If the first statement of a transaction is refused, it is prepared again. These tests are about later statements: each write begins
//! with a statement that is new to the connection.
#![cfg(feature = "postgres")]
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, TestDb, count, execute, one_connection, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{Previous, sqlx};

static SCENE: LazyLock<Scene> = Scene::new();

/// The database computes a column, which each write reads back.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    #[model(unique)]
    name: String,
    #[model(generated)]
    slug: String,
}

/// Belongs to a note, and has no receivers.
#[derive(Debug, Clone, Model)]
#[model(table = "marks")]
struct Mark {
    id: Option<i64>,
    #[model(belongs_to = Note, on_delete = cascade)]
    note: i64,
}

/// Gives some of the notes a key.
#[receiver(pre_save, sender = Note)]
fn number(save: PreSave<'_, Note>) {
    SCENE.log.push(format!("before {}", save.instance.name));
    if let Some(key) = save.instance.name.strip_prefix("numbered ") {
        save.instance.id = Some(key.parse().unwrap());
    }
}

/// Like `Note`, without receivers before the statement: in a write by condition they run in its transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Found {
    id: Option<i64>,
    name: String,
    #[model(generated)]
    slug: String,
}

macro_rules! received {
    ($($model:ident $saved:ident $deleted:ident)*) => { $(
        #[receiver(post_save, sender = $model)]
        async fn $saved(
            saved: PostSave<'_, $model>,
            _: Previous<'_, $model>,
            conn: &mut Conn<'_>,
        ) -> Result<()> {
            assert_eq!(saved.instance.slug, "none");
            conn.query("SELECT 1").execute().await?;
            SCENE.log.push(format!("saved {}", saved.instance.name));
            Ok(())
        }

        #[receiver(post_delete, sender = $model)]
        async fn $deleted(
            _: PostDelete<'_, $model>,
            was: Previous<'_, $model>,
            conn: &mut Conn<'_>,
        ) -> Result<()> {
            conn.query("SELECT 1").execute().await?;
            SCENE.log.push(format!("deleted {}", was.row().unwrap().name));
            Ok(())
        }
    )* };
}

received!(Note note_saved note_deleted Found found_saved found_deleted);

/// Its receivers run in the transaction that deletes the shelf.
#[derive(Debug, Clone, Model)]
#[model(table = "books")]
struct Book {
    id: Option<i64>,
    #[model(belongs_to = Shelf, on_delete = cascade)]
    shelf: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Shelf {
    id: Option<i64>,
    name: String,
    #[model(generated)]
    slug: String,
}

#[receiver(post_delete, sender = Book)]
async fn book_deleted(_: PostDelete<'_, Book>, _: &mut Conn<'_>) {
    SCENE.log.push("book deleted");
}

#[receiver(post_delete, sender = Shelf)]
fn shelf_deleted(_: PostDelete<'_, Shelf>, _: Previous<'_, Shelf>) {}

/// Its receiver reads a note in the transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "marks")]
struct Reader {
    id: Option<i64>,
    note: i64,
}

#[receiver(post_save, sender = Reader)]
async fn read(saved: PostSave<'_, Reader>, conn: &mut Conn<'_>) -> Result<()> {
    SCENE.log.push("reads");
    Note::get(conn, saved.instance.note).await.map(drop)
}

fn note(name: impl Into<String>) -> Note {
    Note { id: None, name: name.into(), slug: String::new() }
}

/// The pool of this program, with one connection that has each statement in its cache, and that of the other program.
async fn programs(test: &TestDb) -> (Db, Db) {
    let other = test.db.clone();
    table(&other, "notes", "name TEXT NOT NULL UNIQUE, slug TEXT NOT NULL DEFAULT 'none'").await;
    table(&other, "marks", "note BIGINT NOT NULL").await;
    table(&other, "books", "shelf BIGINT NOT NULL").await;
    // No other code uses this pool, so the connection stays with the `Db`, and with it the prepared statements.
    let db = Db::options().max_connections(1).connect(&test.url).await.unwrap();
    (db, other)
}

async fn alter(other: &Db, run: usize) {
    let ty = ["VARCHAR(100)", "TEXT"][run % 2];
    execute(other, &format!("ALTER TABLE notes ALTER name TYPE {ty}, ALTER slug TYPE {ty}")).await;
}

/// A condition whose text is another one in each run.
fn condition(run: usize) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("WHERE name = $1 AND {run} = {run}"))
}

/// Writes one note in some way, and returns what its receivers have logged.
async fn write(db: &Db, way: &str, run: usize, stored: &mut Note) -> Vec<String> {
    let name = format!("{way} {run}");
    match way {
        "save" => {
            let mut new = note(&name);
            new.save(db).await.unwrap();
            vec![format!("before {name}"), format!("saved {name}")]
        }
        // The UPDATE of the second run is new to the connection, and the INSERT is that of the first.
        "upsert" if run == 0 => {
            Note::get_or_create(db, note(&name), &[Note::NAME]).await.unwrap();
            vec![format!("before {name}"), format!("saved {name}")]
        }
        "upsert" => {
            let mut new = note(&name);
            assert!(new.upsert(db, &[Note::NAME]).await.unwrap().created && new.id.is_some());
            vec![format!("before {name}"), format!("saved {name}")]
        }
        "update" => {
            stored.name.clone_from(&name);
            stored.update(db).await.unwrap();
            vec![format!("before {name}"), format!("saved {name}")]
        }
        "delete" => {
            assert!(stored.delete(db).await.unwrap());
            vec![format!("deleted {}", stored.name)]
        }
        // Rows with a key are inserted first, with another statement.
        "insert_many" => {
            let numbered = format!("numbered {}", 1000 + run);
            let mut rows = vec![note(&name)];
            rows.extend((run > 0).then(|| note(&numbered)));
            Note::insert_many(db, &mut rows).await.unwrap();
            assert!(rows[0].id.unwrap() < 1000);
            if run == 0 {
                return vec![format!("before {name}"), format!("saved {name}")];
            }
            assert_eq!(rows[1].id, Some(1000 + run as i64));
            let log =
                ["before", "saved"].map(|e| [format!("{e} {name}"), format!("{e} {numbered}")]);
            log.into_iter().flatten().collect()
        }
        "update by condition" => {
            let rows = Found::query(condition(run)).bind(&stored.name);
            assert_eq!(rows.set(Found::NAME, name.as_str()).update(db).await.unwrap(), 1);
            vec![format!("saved {name}")]
        }
        "delete by condition" => {
            let rows = Found::query(condition(run)).bind(&stored.name);
            assert_eq!(rows.delete(db).await.unwrap(), 1);
            vec![format!("deleted {}", stored.name)]
        }
        way => unreachable!("{way}"),
    }
}

#[tokio::test]
async fn a_write_restarts_if_another_program_has_altered_its_table() {
    let _turn = SCENE.begin().await;
    let test = TestDb::postgres("altered_by_another").await;
    let (_, other) = programs(&test).await;
    let ways = [
        "save", "upsert", "update", "delete", "insert_many", "update by condition",
        "delete by condition",
    ];
    for way in ways {
        let db = one_connection(&other).await;
        for run in 0..3 {
            let mut stored = note(format!("stored {way} {run}"));
            stored.save(&other).await.unwrap();
            Mark { id: None, note: stored.id.unwrap() }.save(&other).await.unwrap();
            if run > 0 {
                alter(&other, run).await;
            }
            SCENE.log.take();
            let told = write(&db, way, run, &mut stored).await;
            assert_eq!(SCENE.log.take(), told, "{way} {run}");
            let found = Note::query("WHERE name LIKE $1").bind(format!("{way} {run}"));
            let stored = i64::from(!way.starts_with("delete"));
            assert_eq!(found.count(&other).await.unwrap(), stored, "{way} {run}");
        }
        db.close().await;
    }
    test.passed().await;
}

#[tokio::test]
async fn a_write_whose_receivers_have_run_is_not_repeated() {
    let _turn = SCENE.begin().await;
    let test = TestDb::postgres("altered_and_told").await;
    let (db, other) = programs(&test).await;
    let shelf = async |books: i64| {
        let mut shelf = Shelf { id: None, name: books.to_string(), slug: String::new() };
        shelf.save(&other).await.unwrap();
        for _ in 0..books {
            Book { id: None, shelf: shelf.id.unwrap() }.save(&other).await.unwrap();
        }
        shelf
    };
    assert!(shelf(0).await.delete(&db).await.unwrap());
    let mut shelf = shelf(1).await;
    alter(&other, 0).await;
    let error = shelf.delete(&db).await.unwrap_err();
    assert!(error.is_schema_changed() && error.is_retryable(), "{error:?}");
    assert_eq!(
        (SCENE.log.take(), count(&other, "books").await),
        (vec!["book deleted".to_owned()], 1)
    );
    assert!(shelf.delete(&db).await.unwrap());
    assert_eq!(
        (SCENE.log.take(), count(&other, "books").await),
        (vec!["book deleted".to_owned()], 0)
    );

    let mut stored = note("read");
    stored.save(&other).await.unwrap();
    Note::get(&db, stored.id.unwrap()).await.unwrap();
    alter(&other, 1).await;
    SCENE.log.take();
    let mut reader = Reader { id: None, note: stored.id.unwrap() };
    let error = reader.save(&db).await.unwrap_err();
    assert!(error.is_schema_changed() && error.is_retryable(), "{error:?}");
    assert_eq!((SCENE.log.take(), reader.id), (vec!["reads".to_owned()], None));
    reader.save(&db).await.unwrap();
    assert_eq!((SCENE.log.take(), count(&other, "marks").await), (vec!["reads".to_owned()], 1));
    test.passed().await;
}
