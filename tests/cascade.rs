//! Rows that belong to rows: what becomes of them when those are deleted.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use sqlx_signals::prelude::*;

use common::{Scene, count};

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "posts")]
struct Post {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = cascade)]
    author: i64,
    title: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "comments")]
struct Comment {
    id: Option<i64>,
    #[model(belongs_to = Post, on_delete = cascade)]
    post: i64,
    #[model(belongs_to = User, on_delete = set_null)]
    author: Option<i64>,
}

/// Nobody hears of it.
#[derive(Debug, Clone, Model)]
#[model(table = "tags")]
struct Tag {
    id: Option<i64>,
    #[model(belongs_to = Post, on_delete = cascade)]
    post: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "invoices")]
struct Invoice {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = restrict)]
    customer: i64,
}

/// A tree, whose rows belong to each other.
#[derive(Debug, Clone, Model)]
#[model(table = "folders")]
struct Folder {
    id: Option<i64>,
    #[model(belongs_to = Folder, on_delete = cascade)]
    parent: Option<i64>,
}

static SCENE: LazyLock<Scene> = Scene::new();

macro_rules! logged {
    ($($pre:ident $post:ident $model:ident)*) => { $(
        #[receiver(pre_delete, sender = $model)]
        fn $pre(delete: PreDelete<'_, $model>) -> Result<(), &'static str> {
            SCENE.log.push(format!("pre {} {}", stringify!($model), delete.pk()));
            if VETOED.with(|vetoed| vetoed.get()) == Some(stringify!($model)) { Err("vetoed") } else { Ok(()) }
        }

        #[receiver(post_delete, sender = $model)]
        async fn $post(deleted: PostDelete<'_, $model>, _conn: &mut Conn<'_>) {
            SCENE.log.push(format!("post {} {}", stringify!($model), deleted.pk()));
        }
    )* };
}

std::thread_local! {
    static VETOED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

logged!(pre_user post_user User pre_post post_post Post pre_comment post_comment Comment pre_folder post_folder Folder);

#[receiver(post_save, sender = Comment, updated)]
fn orphaned(saved: PostSave<'_, Comment>) {
    let fields: Vec<_> = saved.fields.unwrap_or_default().iter().map(|c| c.name()).collect();
    SCENE.log.push(format!("Comment {} {fields:?} {:?}", saved.pk(), saved.instance.author));
}

#[receiver(post_delete, sender = User, on_commit)]
fn user_gone(deleted: PostDelete<'_, User>) {
    SCENE.log.push(format!("committed User {}", deleted.pk()));
}

async fn tables(db: &Db) {
    common::table(db, "users", "name TEXT NOT NULL").await;
    common::table(db, "posts", "author BIGINT NOT NULL REFERENCES users, title TEXT NOT NULL")
        .await;
    common::table(
        db,
        "comments",
        "post BIGINT NOT NULL REFERENCES posts, author BIGINT REFERENCES users",
    )
    .await;
    common::table(db, "tags", "post BIGINT NOT NULL REFERENCES posts").await;
    common::table(db, "invoices", "customer BIGINT NOT NULL REFERENCES users").await;
    common::table(db, "folders", "parent BIGINT").await;
}

/// Ann has two posts, with comments by Bob and by herself, and tags.
async fn rows(db: &Db) -> (User, User) {
    let mut ann = User { id: None, name: "Ann".to_owned() };
    let mut bob = User { id: None, name: "Bob".to_owned() };
    ann.save(db).await.unwrap();
    bob.save(db).await.unwrap();
    for title in ["a", "b"] {
        let mut post = Post { id: None, author: ann.id.unwrap(), title: title.to_owned() };
        post.save(db).await.unwrap();
        let post = post.id.unwrap();
        Comment { id: None, post, author: bob.id }.save(db).await.unwrap();
        Comment { id: None, post, author: ann.id }.save(db).await.unwrap();
        Tag { id: None, post }.save(db).await.unwrap();
    }
    SCENE.log.take();
    (ann, bob)
}

on_every_database! {
    async fn what_belongs_to_a_row_goes_before_it(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (mut ann, bob) = rows(&db).await;
        assert!(ann.delete(&db).await.unwrap());
        assert_eq!(
            SCENE.log.take(),
            [
                "pre User 1",
                r#"Comment 2 ["author"] None"#,
                r#"Comment 4 ["author"] None"#,
                "pre Post 1",
                "pre Post 2",
                "pre Comment 1",
                "pre Comment 2",
                "pre Comment 3",
                "pre Comment 4",
                "post Comment 1",
                "post Comment 2",
                "post Comment 3",
                "post Comment 4",
                "post Post 1",
                "post Post 2",
                "post User 1",
                "committed User 1",
            ]
        );
        for table in ["posts", "comments", "tags"] {
            assert_eq!(count(&db, table).await, 0, "{table}");
        }
        assert_eq!(User::all(&db).await.unwrap()[0].id, bob.id);
    }

    async fn a_column_that_is_set_to_null_lets_the_row_live(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (_, mut bob) = rows(&db).await;
        bob.delete(&db).await.unwrap();
        let authors: Vec<_> = Comment::query("ORDER BY id").fetch_all(&db).await.unwrap();
        let authors: Vec<_> = authors.iter().map(|comment| comment.author).collect();
        assert_eq!(authors, [None, Some(1), None, Some(1)]);
    }

    async fn a_row_that_is_still_needed_is_not_deleted(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (mut ann, _) = rows(&db).await;
        Invoice { id: None, customer: 1 }.save(&db).await.unwrap();
        let error = ann.delete(&db).await.unwrap_err();
        assert!(error.is_restricted(), "{error}");
        assert_eq!(error.to_string(), "`User` 1 cannot be deleted: a `Invoice` belongs to it");
        assert_eq!((ann.id, count(&db, "posts").await, count(&db, "comments").await), (Some(1), 2, 4));
    }

    async fn a_veto_below_keeps_everything(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (mut ann, _) = rows(&db).await;
        let local = tokio::task::LocalSet::new();
        let error = local
            .run_until(async {
                VETOED.with(|vetoed| vetoed.set(Some("Comment")));
                let done = ann.delete(&db).await;
                VETOED.with(|vetoed| vetoed.set(None));
                done.unwrap_err()
            })
            .await;
        assert!(error.to_string().contains("Comment"), "{error}");
        assert_eq!((count(&db, "users").await, count(&db, "tags").await), (2, 2));
        assert!(SCENE.log.take().iter().all(|entry| !entry.starts_with("committed")));
    }

    async fn many_are_deleted_with_all_that_belongs_to_them(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        rows(&db).await;
        assert_eq!(User::query("WHERE id > $1").bind(0_i64).delete(&db).await.unwrap(), 2);
        for table in ["users", "posts", "comments", "tags"] {
            assert_eq!(count(&db, table).await, 0, "{table}");
        }
    }

    async fn rows_in_a_circle_are_each_deleted_once(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let mut folders: Vec<_> = (0..3).map(|_| Folder { id: None, parent: None }).collect();
        Folder::insert_many(&db, &mut folders).await.unwrap();
        for (folder, parent) in [(0, 3), (1, 1), (2, 2)] {
            folders[folder].parent = Some(parent);
        }
        Folder::update_many(&db, &mut folders).await.unwrap();
        SCENE.log.take();
        folders[0].delete(&db).await.unwrap();
        assert_eq!(
            SCENE.log.take(),
            ["pre Folder 1", "pre Folder 2", "pre Folder 3", "post Folder 3", "post Folder 2", "post Folder 1"]
        );
        assert_eq!(count(&db, "folders").await, 0);
    }
}
