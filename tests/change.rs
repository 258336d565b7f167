//! Updates and deletes by condition.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use sqlx_signals::prelude::*;

use common::{Scene, count};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tasks")]
struct Task {
    id: Option<i64>,
    team: String,
    done: bool,
    points: i64,
}

/// As `Task`, with receivers, and a version.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tasks")]
struct Watched {
    id: Option<i64>,
    team: String,
    done: bool,
    #[model(version)]
    points: i64,
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(pre_save, sender = Watched)]
fn before(save: PreSave<'_, Watched>) -> Result<(), &'static str> {
    let Some(fields) = save.fields else { return Ok(()) };
    let fields: Vec<_> = fields.iter().map(|c| c.name()).collect();
    let Watched { id, team, done, .. } = save.instance;
    SCENE.log.push(format!("pre {} {fields:?} {team} {done}", id.unwrap()));
    if team == "kept" { Err("this one is kept") } else { Ok(()) }
}

#[receiver(post_save, sender = Watched, updated)]
fn after(saved: PostSave<'_, Watched>, previous: Previous<'_, Watched>) {
    let was = previous.row().map(|row| row.done);
    SCENE.log.push(format!("post {} {was:?} → {}", saved.pk(), saved.instance.done));
}

#[receiver(post_delete, sender = Watched, on_commit)]
fn gone(deleted: PostDelete<'_, Watched>) {
    SCENE.log.push(format!("gone {}", deleted.pk()));
}

async fn tables(db: &Db) {
    let columns = "team TEXT NOT NULL, done BOOLEAN NOT NULL, points BIGINT NOT NULL";
    common::table(db, "tasks", columns).await;
    let mut tasks: Vec<_> = ["red", "blue", "red"]
        .map(|team| Task { id: None, team: team.to_owned(), done: false, points: 1 })
        .into();
    Task::insert_many(db, &mut tasks).await.unwrap();
}

on_every_database! {
    async fn without_receivers_it_is_one_statement(db: Db) {
        tables(&db).await;
        let red = || Task::query("WHERE team = $1").bind("red");
        assert_eq!(red().set(Task::DONE, true).set(Task::POINTS, 5_i64).update(&db).await.unwrap(), 2);
        let all = Task::query("ORDER BY id").fetch_all(&db).await.unwrap();
        let all: Vec<_> = all.iter().map(|t| (t.done, t.points)).collect();
        assert_eq!(all, [(true, 5), (false, 1), (true, 5)]);
        assert_eq!(red().delete(&db).await.unwrap(), 2);
        assert_eq!(count(&db, "tasks").await, 1);
    }

    async fn a_condition_can_order_and_limit(db: Db) {
        tables(&db).await;
        let last = Task::query("ORDER BY id DESC LIMIT $1").bind(1_i64);
        assert_eq!(last.set(Task::TEAM, "last").update(&db).await.unwrap(), 1);
        assert_eq!(Task::get(&db, 3).await.unwrap().team, "last");
        assert_eq!(Task::query("WHERE done = $1 ORDER BY id LIMIT 2").bind(false).delete(&db).await.unwrap(), 2);
        assert_eq!(Task::all(&db).await.unwrap()[0].id, Some(3));
    }

    async fn with_receivers_every_row_is_heard_of(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        // Ordered by what the column was, not by what it is to be.
        let done = Watched::query("WHERE team = $1 ORDER BY done, id DESC").bind("red");
        assert_eq!(done.set(Watched::DONE, true).update(&db).await.unwrap(), 2);
        assert_eq!(
            SCENE.log.take(),
            [
                r#"pre 3 ["done"] red true"#,
                r#"pre 1 ["done"] red true"#,
                "post 3 Some(false) → true",
                "post 1 Some(false) → true",
            ]
        );
        let all = Watched::query("ORDER BY id").fetch_all(&db).await.unwrap();
        let all: Vec<_> = all.iter().map(|t| (t.done, t.points)).collect();
        assert_eq!(all, [(true, 2), (false, 1), (true, 2)], "the version counts on");
        assert_eq!(Watched::query("WHERE done = $1 ORDER BY id").bind(true).delete(&db).await.unwrap(), 2);
        assert_eq!(SCENE.log.take(), ["gone 1", "gone 3"]);
    }

    async fn a_veto_of_one_row_is_one_of_all(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let kept = Watched::query("").set(Watched::DONE, true).set(Watched::TEAM, "kept");
        let error = kept.update(&db).await.unwrap_err();
        assert!(error.to_string().starts_with("could not update row 0, `Watched` 1: "), "{error}");
        assert_eq!(Task::query("WHERE done = $1").bind(true).count(&db).await.unwrap(), 0);
        let mut tx = db.begin().await.unwrap();
        let kept = Watched::query("").set(Watched::TEAM, "kept");
        kept.update(&mut tx).await.unwrap_err();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
    }

    async fn what_cannot_be_set_is_said(db: Db) {
        tables(&db).await;
        let error = Task::query("").set(Task::ID, 7_i64).update(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "the column `id` of `Task` is not the program's to set alone");
        let error = Task::query("").update(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "an update of `Task` sets no column");
    }
}
