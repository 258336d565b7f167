//! `save_fields` stores some columns of a row, and nothing else.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{AutoNow, Column, Error, sqlx};

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, sqlx::Type)]
#[sqlx(transparent)]
struct Micros(i64);

impl AutoNow for Micros {
    fn at(now: std::time::SystemTime) -> Self {
        Self(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64)
    }
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    #[model(column = "E-Mail")]
    email: Option<String>,
    points: i32,
    #[model(auto_now)]
    changed_at: Micros,
    #[model(auto_now_add)]
    created_at: Micros,
}

fn user(name: &str) -> User {
    let (changed_at, created_at) = (Micros(0), Micros(0));
    User { id: None, name: name.to_owned(), email: None, points: 1, changed_at, created_at }
}

static SCENE: LazyLock<Scene> = Scene::new();

fn names(fields: Option<&[Column<User>]>) -> String {
    let names = fields.map(|fields| fields.iter().map(|f| f.name()).collect::<Vec<_>>().join(" "));
    names.unwrap_or_else(|| "all".to_owned())
}

#[receiver(pre_save, sender = User)]
fn before(save: PreSave<'_, User>) -> Result<(), &'static str> {
    SCENE.log.push(format!("pre {}", names(save.fields)));
    if save.instance.points < 0 { Err("no points") } else { Ok(()) }
}

#[receiver(post_save, sender = User)]
fn after(saved: PostSave<'_, User>) -> Result<(), &'static str> {
    SCENE.log.push(format!("post {} {}", saved.created, names(saved.fields)));
    if saved.instance.points == 13 { Err("not thirteen") } else { Ok(()) }
}

#[receiver(post_save, sender = User, on_commit)]
async fn committed(saved: PostSave<'_, User>) {
    SCENE.log.push(format!("commit {}", names(saved.fields)));
}

#[receiver(post_save_batch, sender = User)]
fn batch(saved: PostSaveBatch<'_, User>) {
    SCENE.log.push(format!("batch {} {}", saved.instances.len(), names(saved.fields)));
}

async fn users(db: &Db) {
    let columns = r#"name TEXT NOT NULL CHECK (name <> ''), "E-Mail" TEXT, points INTEGER NOT NULL, changed_at BIGINT NOT NULL,
                     created_at BIGINT NOT NULL"#;
    table(db, "users", columns).await;
}

on_every_database! {
    async fn only_the_selected_columns_are_stored(db: Db) {
        let _turn = SCENE.begin().await;
        users(&db).await;
        let mut ann = user("Ann");
        ann.save(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["pre all", "post true all", "batch 1 all", "commit all"]);
        let was = ann.clone();
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        ann.name = "not stored".to_owned();
        ann.email = Some("ann@x".to_owned());
        ann.points = 2;
        ann.created_at = Micros(1);
        assert!(!ann.save_fields(&db, &[User::POINTS, User::EMAIL]).await.unwrap().created);
        assert_eq!(
            SCENE.log.take(),
            [
                "pre points E-Mail",
                "post false points E-Mail",
                "batch 1 points E-Mail",
                "commit points E-Mail",
            ]
        );
        let stored = User::get(&db, ann.id.unwrap()).await.unwrap();
        assert_eq!((&*stored.name, stored.email.as_deref(), stored.points), ("Ann", Some("ann@x"), 2));
        assert!(stored.changed_at > was.changed_at, "`auto_now` goes along");
        assert_eq!((stored.changed_at, stored.created_at), (ann.changed_at, was.created_at));
        assert_eq!(ann.name, "not stored", "the other fields are as the program has set them");

        // The time alone is a column like any other; the same column twice is once.
        ann.save_fields(&db, &[User::CHANGED_AT]).await.unwrap();
        ann.save_fields(&db, &[User::POINTS, User::POINTS]).await.unwrap();
        let stored = User::get(&db, ann.id.unwrap()).await.unwrap();
        assert_eq!((&*stored.name, stored.changed_at), ("Ann", ann.changed_at));
    }

    async fn without_columns_nothing_is_sent(db: Db) {
        let _turn = SCENE.begin().await;
        // There is not even a table.
        let mut ann = user("Ann");
        assert!(!ann.save_fields(&db, &[]).await.unwrap().created);
        assert_eq!((ann, SCENE.log.take()), (user("Ann"), Vec::new()));
        db.close().await;
        assert!(!user("Ann").save_fields(&db, &[]).await.unwrap().created);
    }

    async fn columns_that_cannot_be_set_are_errors(db: Db) {
        let _turn = SCENE.begin().await;
        users(&db).await;
        let mut ann = user("Ann");
        assert!(ann.save_fields(&db, &[User::NAME]).await.unwrap_err().is_not_found());
        ann.id = Some(7);
        let error = ann.save_fields(&db, &[User::NAME]).await.unwrap_err();
        assert!(matches!(&error, Error::NotFound { model: "User", key } if key == "7"), "{error:?}");
        ann.id = None;
        ann.save(&db).await.unwrap();
        SCENE.log.take();
        for column in [User::ID, User::CREATED_AT] {
            let error = ann.save_fields(&db, &[User::NAME, column]).await.unwrap_err();
            let said = format!("the column `{column}` of `User` cannot be set: it is part of the key, or the library or the database sets it");
            assert_eq!((error.to_string(), SCENE.log.take()), (said, Vec::new()));
        }
    }

    async fn a_failed_save_leaves_the_instance_unchanged(db: Db) {
        let _turn = SCENE.begin().await;
        users(&db).await;
        let mut ann = user("Ann");
        ann.save(&db).await.unwrap();
        let stored = ann.clone();
        let vetoed = User { points: -1, ..stored.clone() };
        let undone = User { points: 13, ..stored.clone() };
        let refused = User { name: String::new(), ..stored.clone() };
        for mut user in [vetoed, undone, refused] {
            let before = user.clone();
            user.save_fields(&db, &[User::POINTS, User::NAME]).await.unwrap_err();
            assert_eq!(user, before);
            assert_eq!(User::get(&db, stored.id.unwrap()).await.unwrap(), stored);
        }
    }
}
