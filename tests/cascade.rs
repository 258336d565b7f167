//! Deletes of rows that other rows belong to.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use sqlx_signals::prelude::*;
use sqlx_signals::{Error, testing};

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

/// A model without receivers.
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

/// A tree: its rows belong to rows of the same table.
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
    async fn dependent_rows_are_deleted_first(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (mut ann, bob) = rows(&db).await;
        assert!(ann.delete(&db).await.unwrap());
        assert_eq!(
            SCENE.log.take(),
            [
                "pre User 1",
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

    async fn set_null_keeps_the_dependent_row(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (_, mut bob) = rows(&db).await;
        bob.delete(&db).await.unwrap();
        assert_eq!(
            SCENE.log.take(),
            [
                "pre User 2",
                r#"Comment 1 ["author"] None"#,
                r#"Comment 3 ["author"] None"#,
                "post User 2",
                "committed User 2",
            ]
        );
        let authors: Vec<_> = Comment::query("ORDER BY id").fetch_all(&db).await.unwrap();
        let authors: Vec<_> = authors.iter().map(|comment| comment.author).collect();
        assert_eq!(authors, [None, Some(1), None, Some(1)]);
    }

    async fn a_restricted_row_is_not_deleted(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (mut ann, _) = rows(&db).await;
        Invoice { id: None, customer: 1 }.save(&db).await.unwrap();
        let error = ann.delete(&db).await.unwrap_err();
        assert!(error.is_restricted(), "{error}");
        assert_eq!(
            error.to_string(),
            "`User` 1 cannot be deleted: at least one row of `Invoice` refers to it by `customer` (on_delete = restrict)"
        );
        assert_eq!((ann.id, count(&db, "posts").await, count(&db, "comments").await), (Some(1), 2, 4));
        assert!(SCENE.log.take().is_empty(), "nothing is sent before it is decided");
    }

    async fn a_veto_of_a_dependent_row_deletes_nothing(db: Db) {
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

    async fn many_rows_are_deleted_with_their_dependent_rows(db: Db) {
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

mod records {
    use super::*;

    macro_rules! artist_with {
        ($artist:ident $album:ident $song:ident: $artists:literal $albums:literal $songs:literal) => {
            #[derive(Debug, Clone, Model)]
            #[model(table = $artists)]
            pub(crate) struct $artist {
                pub(crate) id: Option<i64>,
            }

            #[derive(Debug, Clone, Model)]
            #[model(table = $albums)]
            pub(crate) struct $album {
                pub(crate) id: Option<i64>,
                #[model(belongs_to = $artist, on_delete = cascade)]
                pub(crate) artist: i64,
            }

            #[derive(Debug, Clone, Model)]
            #[model(table = $songs)]
            pub(crate) struct $song {
                pub(crate) id: Option<i64>,
                #[model(belongs_to = $artist, on_delete = cascade)]
                pub(crate) artist: i64,
                #[model(belongs_to = $album, on_delete = restrict)]
                pub(crate) album: i64,
            }
        };
    }

    // The same shape, with names in the opposite order.
    artist_with!(Artist Album Song: "artists" "albums" "songs");
    artist_with!(Composer ZRecord ATrack: "composers" "records" "tracks");

    #[receiver(pre_delete, sender = [Album, Song, ZRecord, ATrack])]
    fn before<M: Model>(_: PreDelete<'_, M>) {
        SCENE.log.push(format!("pre {}", M::NAME));
    }

    pub(crate) async fn tables(db: &Db) {
        common::table(db, "artists", "n BIGINT").await;
        common::table(db, "composers", "n BIGINT").await;
        for (albums, artists) in [("albums", "artists"), ("records", "composers")] {
            let columns = format!("artist BIGINT NOT NULL REFERENCES {artists} ON DELETE RESTRICT");
            common::table(db, albums, &columns).await;
        }
        for (songs, artists, albums) in
            [("songs", "artists", "albums"), ("tracks", "composers", "records")]
        {
            let columns = format!(
                "artist BIGINT NOT NULL REFERENCES {artists} ON DELETE RESTRICT, \
                 album BIGINT NOT NULL REFERENCES {albums} ON DELETE RESTRICT"
            );
            common::table(db, songs, &columns).await;
        }
    }
}

mod trees {
    use super::*;

    /// A tree that restricts itself.
    #[derive(Debug, Clone, Model)]
    #[model(table = "branches")]
    pub(crate) struct Branch {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Branch, on_delete = restrict)]
        pub(crate) parent: Option<i64>,
        #[model(version)]
        pub(crate) version: i64,
    }

    /// A tree that is deleted from its root, and a row that lets another be deleted.
    #[derive(Debug, Clone, Model)]
    #[model(table = "levels")]
    pub(crate) struct Level {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Level, on_delete = cascade)]
        pub(crate) parent: Option<i64>,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "notes")]
    pub(crate) struct Note {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Level, on_delete = set_null)]
        pub(crate) level: Option<i64>,
        #[model(version)]
        pub(crate) version: i64,
    }

    /// A key whose `Debug` output hides its value.
    #[derive(Clone, Copy, PartialEq, sqlx_signals::sqlx::Type)]
    #[sqlx(transparent)]
    pub(crate) struct Secret(pub(crate) i64);

    impl std::fmt::Debug for Secret {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("***")
        }
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "secrets")]
    pub(crate) struct Hidden {
        pub(crate) id: Option<Secret>,
        #[model(belongs_to = Hidden, on_delete = cascade)]
        pub(crate) parent: Option<Secret>,
    }

    /// Rows that are deleted with their owner, and that reference each other.
    #[derive(Debug, Clone, Model)]
    #[model(table = "owners")]
    pub(crate) struct Owner {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Thing, on_delete = set_null)]
        pub(crate) favorite: Option<i64>,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "things")]
    pub(crate) struct Thing {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Owner, on_delete = cascade)]
        pub(crate) owner: i64,
        #[model(belongs_to = Thing, on_delete = set_null)]
        pub(crate) next: Option<i64>,
    }

    #[receiver(post_save, sender = [Note, Owner, Thing], updated)]
    fn saved<M: Model>(saved: PostSave<'_, M>) {
        SCENE.log.push(format!("saved {} {:?}", M::NAME, saved.pk()));
    }

    #[receiver(post_delete, sender = [Hidden, Branch])]
    fn gone<M: Model>(deleted: PostDelete<'_, M>) {
        SCENE.log.push(format!("gone {} {:?}", M::NAME, deleted.pk()));
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "cells")]
    pub(crate) struct Cell {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Self, on_delete = cascade)]
        pub(crate) parent: Option<i64>,
    }

    #[receiver(post_delete_batch, sender = Cell)]
    fn cells_gone(deleted: PostDeleteBatch<'_, Cell>) {
        let ids: Vec<_> = deleted.instances.iter().flat_map(|cell| cell.id).collect();
        SCENE.log.push(format!("{ids:?}"));
    }

    pub(crate) async fn tables(db: &Db) {
        common::table(db, "cells", "parent BIGINT REFERENCES cells").await;
        common::table(
            db,
            "branches",
            "parent BIGINT REFERENCES branches ON DELETE RESTRICT, version BIGINT NOT NULL",
        )
        .await;
        common::table(db, "levels", "parent BIGINT REFERENCES levels").await;
        common::execute(db, "CREATE INDEX levels_parent ON levels (parent)").await;
        common::table(db, "notes", "level BIGINT REFERENCES levels, version BIGINT NOT NULL").await;
        common::table(db, "secrets", "parent BIGINT REFERENCES secrets").await;
        common::table(db, "owners", "favorite BIGINT").await;
        common::table(
            db,
            "things",
            "owner BIGINT NOT NULL REFERENCES owners, next BIGINT REFERENCES things",
        )
        .await;
        if db.kind() == sqlx_signals::DatabaseKind::Postgres {
            common::execute(db, "ALTER TABLE owners ADD FOREIGN KEY (favorite) REFERENCES things")
                .await;
        }
    }

    /// A chain of this many rows. The first belongs to no row.
    pub(crate) async fn chain(db: &Db, table: &str, rows: usize, more: (&str, &str)) {
        let (columns, values) = more;
        let sql = format!(
            "INSERT INTO {table} (id, parent{columns}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
             WHERE i < {rows}) SELECT i, CASE WHEN i > 1 THEN i - 1 END{values} FROM n ORDER BY i"
        );
        common::execute(db, &sql).await;
    }
}

mod busy {
    use super::*;

    /// Its receiver writes while it is being deleted.
    #[derive(Debug, Clone, Model)]
    #[model(table = "boxes")]
    pub(crate) struct Crate {
        pub(crate) id: Option<i64>,
        pub(crate) wish: String,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "items")]
    pub(crate) struct Item {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Crate, on_delete = cascade)]
        pub(crate) home: i64,
        #[model(version)]
        pub(crate) version: i64,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "seals")]
    pub(crate) struct Seal {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Crate, on_delete = restrict)]
        pub(crate) home: i64,
    }

    #[receiver(pre_delete, sender = Crate)]
    async fn writes(delete: PreDelete<'_, Crate>, conn: &mut Conn<'_>) -> Result<()> {
        let home = delete.pk();
        match &*delete.instance.wish {
            "add" => Item { id: None, home, version: 0 }.save(conn).await.map(drop),
            "seal" => Seal { id: None, home }.save(conn).await.map(drop),
            "move" => {
                let items = Item::query("WHERE home = $1").bind(home);
                items.set(Item::HOME, 2_i64).update(conn).await.map(drop)
            }
            "empty" => Item::query("WHERE home = $1").bind(home).delete(conn).await.map(drop),
            "touch" => {
                let mut items =
                    Item::query("WHERE home = $1").bind(home).fetch_all(&mut *conn).await?;
                Item::update_many(conn, &mut items).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Another connection, which adds an item while the box is deleted.
    pub(crate) static RIVAL: std::sync::Mutex<Option<Db>> = std::sync::Mutex::new(None);

    #[receiver(pre_delete, sender = Item)]
    async fn races(delete: PreDelete<'_, Item>) -> Result<()> {
        let rival = RIVAL.lock().unwrap().take();
        match rival {
            Some(db) => {
                let item = Item { id: None, home: delete.instance.home, version: 0 };
                item.clone().save(&db).await.map(drop)
            }
            None => Ok(()),
        }
    }

    #[receiver(pre_delete, sender = Item)]
    fn before(delete: PreDelete<'_, Item>) {
        SCENE.log.push(format!("pre Item {}", delete.pk()));
    }

    #[receiver(post_delete, sender = Item)]
    fn after(deleted: PostDelete<'_, Item>) {
        SCENE.log.push(format!("post Item {}", deleted.pk()));
    }

    pub(crate) async fn tables(db: &Db) {
        common::table(db, "boxes", "wish TEXT NOT NULL").await;
        common::table(
            db,
            "items",
            "home BIGINT NOT NULL REFERENCES boxes, version BIGINT NOT NULL",
        )
        .await;
        common::table(db, "seals", "home BIGINT NOT NULL REFERENCES boxes").await;
    }

    /// Two boxes, the first with two items and this wish.
    pub(crate) async fn boxes(db: &Db, wish: &str) -> Crate {
        let mut first = Crate { id: None, wish: wish.to_owned() };
        first.save(db).await.unwrap();
        Crate { id: None, wish: String::new() }.save(db).await.unwrap();
        let mut items = [1, 2].map(|_| Item { id: None, home: 1, version: 0 });
        Item::insert_many(db, &mut items).await.unwrap();
        first
    }
}

mod counted {
    use super::*;

    /// Its replies are counted in a column of its own.
    #[derive(Debug, Clone, Model)]
    #[model(table = "threads")]
    pub(crate) struct Thread {
        pub(crate) id: Option<i64>,
        pub(crate) replies: i64,
        #[model(version)]
        pub(crate) version: i64,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "replies")]
    pub(crate) struct Reply {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Thread, on_delete = cascade)]
        pub(crate) thread: i64,
    }

    #[receiver(post_delete, sender = Reply)]
    async fn uncount(deleted: PostDelete<'_, Reply>, conn: &mut Conn<'_>) -> Result<()> {
        let thread = Thread::query("WHERE id = $1").bind(deleted.instance.thread);
        thread.set_sql(Thread::REPLIES, "replies - 1", ()).update(conn).await.map(drop)
    }

    pub(crate) async fn tables(db: &Db) {
        common::table(db, "threads", "replies BIGINT NOT NULL, version BIGINT NOT NULL").await;
        common::table(db, "replies", "thread BIGINT NOT NULL REFERENCES threads").await;
    }

    /// A thread with two replies.
    pub(crate) async fn thread(db: &Db) -> Thread {
        let mut thread = Thread { id: None, replies: 2, version: 0 };
        thread.save(db).await.unwrap();
        let mut replies = [0, 1].map(|_| Reply { id: None, thread: thread.id.unwrap() });
        Reply::insert_many(db, &mut replies).await.unwrap();
        thread
    }
}

mod teams {
    use super::*;

    /// A team references its lead, who references the team.
    #[derive(Debug, Clone, Model)]
    #[model(table = "teams")]
    pub(crate) struct Team {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Member, on_delete = set_null)]
        pub(crate) lead: Option<i64>,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "members")]
    pub(crate) struct Member {
        pub(crate) id: Option<i64>,
        #[model(belongs_to = Team, on_delete = cascade)]
        pub(crate) team: i64,
        #[model(belongs_to = Member, on_delete = cascade)]
        pub(crate) buddy: Option<i64>,
    }

    #[receiver(post_delete, sender = Team)]
    fn disbanded(deleted: PostDelete<'_, Team>, previous: Previous<'_, Team>) {
        let lead = previous.row().map(|team| team.lead);
        SCENE.log.push(format!("Team {} {lead:?}", deleted.pk()));
    }

    #[receiver(post_delete, sender = Member)]
    fn left(deleted: PostDelete<'_, Member>, previous: Previous<'_, Member>) {
        let buddy = previous.row().map(|member| member.buddy);
        SCENE.log.push(format!("Member {} {buddy:?}", deleted.pk()));
    }

    pub(crate) async fn tables(db: &Db) {
        common::table(db, "teams", "lead BIGINT").await;
        common::table(db, "members", "team BIGINT NOT NULL REFERENCES teams, buddy BIGINT").await;
        common::execute(
            db,
            "INSERT INTO teams (id, lead) VALUES (1, 1), (2, 3); \
             INSERT INTO members (id, team, buddy) VALUES (1, 1, 2), (2, 1, 1), (3, 2, NULL)",
        )
        .await;
    }
}

on_every_database! {
    async fn a_versioned_row_is_deleted_although_receivers_of_dependent_rows_write_it(db: Db) {
        use counted::*;

        tables(&db).await;
        assert!(thread(&db).await.delete(&db).await.unwrap());
        let key = thread(&db).await.id.unwrap();
        assert!(Thread::delete_by_key(&db, key).await.unwrap());
        thread(&db).await;
        assert_eq!(Thread::query("").delete(&db).await.unwrap(), 1);
        let mut many = [thread(&db).await, thread(&db).await];
        assert_eq!(Thread::delete_many(&db, &mut many).await.unwrap(), 2);
        assert_eq!((count(&db, "threads").await, count(&db, "replies").await), (0, 0));
    }

    async fn a_stale_row_with_dependent_rows_is_not_deleted(db: Db) {
        use counted::*;

        tables(&db).await;
        let mut many = [thread(&db).await, thread(&db).await];
        common::execute(&db, "UPDATE threads SET version = 7 WHERE id = 2").await;
        let error = Thread::delete_many(&db, &mut many).await.unwrap_err();
        assert!(error.is_stale() && matches!(error, Error::Row { row: 1, .. }), "{error:?}");
        let error = many[1].delete(&db).await.unwrap_err();
        assert!(error.is_stale(), "{error:?}");
        assert_eq!((count(&db, "threads").await, count(&db, "replies").await), (2, 4));
        let mut gone = Thread { id: Some(99), replies: 0, version: 0 };
        assert!(!gone.delete(&db).await.unwrap());
    }

    async fn a_versioned_row_waits_for_dependent_rows_of_another_transaction(db: Db) {
        use counted::*;

        // SQLite has one writer.
        if db.kind() == sqlx_signals::DatabaseKind::Postgres {
            tables(&db).await;
            let mut first = thread(&db).await;
            let mut tx = db.begin().await.unwrap();
            Reply { id: None, thread: first.id.unwrap() }.save(&mut tx).await.unwrap();
            let of_task = db.clone();
            let delete = tokio::spawn(async move { first.delete(&of_task).await });
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            tx.commit().await.unwrap();
            assert!(delete.await.unwrap().unwrap());
            assert_eq!((count(&db, "threads").await, count(&db, "replies").await), (0, 0));
        }
    }

    async fn a_delete_of_a_versioned_row_has_no_deadlock_with_a_writer_of_a_dependent_row(db: Db) {
        use counted::*;

        if db.kind() == sqlx_signals::DatabaseKind::Postgres {
            tables(&db).await;
            let mut first = thread(&db).await;
            let mut tx = db.begin().await.unwrap();
            tx.execute("SELECT 1 FROM replies FOR UPDATE").await.unwrap();
            let of_task = db.clone();
            let delete = tokio::spawn(async move { first.delete(&of_task).await });
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while db.query(waits).fetch_one::<(i64,)>().await.unwrap().0 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            tx.execute("UPDATE threads SET id = id").await.unwrap();
            tx.commit().await.unwrap();
            assert!(delete.await.unwrap().unwrap());
        }
    }

    async fn a_previous_row_has_the_references_that_the_delete_clears(db: Db) {
        use teams::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        assert!(Team { id: Some(1), lead: None }.delete(&db).await.unwrap());
        let mut log = SCENE.log.take();
        log.sort();
        assert_eq!(log, ["Member 1 Some(Some(2))", "Member 2 Some(Some(1))", "Team 1 Some(Some(1))"]);
        let mut many = Team::query("").fetch_all(&db).await.unwrap();
        assert_eq!(Team::delete_many(&db, &mut many).await.unwrap(), 1);
        assert_eq!(SCENE.log.take(), ["Member 3 Some(None)", "Team 2 Some(Some(3))"]);
    }

    async fn a_dependent_row_that_is_deleted_too_does_not_restrict(db: Db) {
        use records::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (mut artist, mut composer) = (Artist { id: None }, Composer { id: None });
        common::execute(&db, "INSERT INTO artists (n) VALUES (1); INSERT INTO composers (n) VALUES (1)").await;
        (artist.id, composer.id) = (Some(1), Some(1));
        let mut album = Album { id: None, artist: 1 };
        album.save(&db).await.unwrap();
        let mut record = ZRecord { id: None, artist: 1 };
        record.save(&db).await.unwrap();
        for _ in 0..2 {
            Song { id: None, artist: 1, album: 1 }.save(&db).await.unwrap();
            ATrack { id: None, artist: 1, album: 1 }.save(&db).await.unwrap();
        }

        let error = album.delete(&db).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`Album` 1 cannot be deleted: at least one row of `Song` refers to it by `album` (on_delete = restrict)"
        );
        let error = ZRecord::query("WHERE artist = 1").delete(&db).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`ZRecord` 1 cannot be deleted: at least one row of `ATrack` refers to it by `album` (on_delete = restrict)"
        );
        let error = ZRecord::delete_many(&db, &mut [record]).await.unwrap_err();
        assert!(error.is_restricted(), "{error}");
        assert!(SCENE.log.take().is_empty());

        assert!(artist.delete(&db).await.unwrap());
        assert_eq!(SCENE.log.take(), ["pre Album", "pre Song", "pre Song"]);
        assert!(composer.delete(&db).await.unwrap());
        assert_eq!(SCENE.log.take(), ["pre ATrack", "pre ATrack", "pre ZRecord"]);
        for table in ["artists", "albums", "songs", "composers", "records", "tracks"] {
            assert_eq!(count(&db, table).await, 0, "{table}");
        }
    }

    async fn the_rows_of_a_statement_are_one_batch_in_any_order_of_the_tree(db: Db) {
        use trees::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        chain(&db, "cells", 4, ("", "")).await;
        common::execute(&db, "INSERT INTO cells (id, parent) VALUES (5, 1), (6, 2)").await;
        let mut rows = Cell::query("ORDER BY id").fetch_all(&db).await.unwrap();
        assert_eq!(Cell::delete_many(&db, &mut rows).await.unwrap(), 6);
        // A statement of SQLite does not contain both a row and a row that references it.
        let batches = match db.kind() {
            sqlx_signals::DatabaseKind::Sqlite => &["[4, 5, 6]", "[3]", "[2]", "[1]"][..],
            sqlx_signals::DatabaseKind::Postgres => &["[1, 2, 3, 4, 5, 6]"],
        };
        let mut log = SCENE.log.take();
        log.sort();
        let mut expected = batches.to_vec();
        expected.sort();
        assert_eq!(log, expected);
    }

    async fn a_row_outside_the_deleted_tree_restricts(db: Db) {
        use records::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        common::execute(&db, "INSERT INTO artists (n) VALUES (1), (2)").await;
        Album { id: None, artist: 1 }.save(&db).await.unwrap();
        Song { id: None, artist: 1, album: 1 }.save(&db).await.unwrap();
        Song { id: None, artist: 2, album: 1 }.save(&db).await.unwrap();
        let error = Artist { id: Some(1) }.delete(&db).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`Album` 1 cannot be deleted: 1 row of `Song` refers to it by `album` (on_delete = restrict)"
        );
        assert!(SCENE.log.take().is_empty());
        assert_eq!((count(&db, "songs").await, count(&db, "albums").await), (2, 1));
    }

    async fn the_restricted_row_of_several_is_named(db: Db) {
        use records::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        common::execute(&db, "INSERT INTO artists (n) VALUES (1), (2)").await;
        let mut albums = [1, 1, 1].map(|artist| Album { id: None, artist });
        Album::insert_many(&db, &mut albums).await.unwrap();
        for album in [2, 2, 2, 3] {
            Song { id: None, artist: 2, album }.save(&db).await.unwrap();
        }
        // Songs may be deleted with the artist, so every song that restricts is read.
        let error = Artist { id: Some(1) }.delete(&db).await.unwrap_err();
        let counted = "`Album` 2 cannot be deleted: 3 rows of `Song` refer to it by `album` (on_delete = restrict)";
        assert_eq!(error.to_string(), counted);
        let Error::Restricted { key, by, column, rows, .. } = error else { panic!("{error:?}") };
        assert_eq!((&*key, by, column, rows), ("2", "Song", "album", Some(3)));
        // No song is deleted with an album, and one is enough to refuse.
        common::execute(&db, "DELETE FROM songs WHERE album = 2").await;
        let error = Album::query("").delete(&db).await.unwrap_err();
        let found = "`Album` 3 cannot be deleted: at least one row of `Song` refers to it by `album` (on_delete = restrict)";
        assert_eq!(error.to_string(), found);
        assert_eq!((count(&db, "songs").await, count(&db, "albums").await), (1, 3));
    }

    async fn a_tree_that_restricts_itself_is_deleted_as_a_whole(db: Db) {
        use trees::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        for reversed in [false, true] {
            common::execute(&db, "DELETE FROM branches").await;
            chain(&db, "branches", 4, (", version", ", 0")).await;
            let mut rows = Branch::query("ORDER BY id").fetch_all(&db).await.unwrap();
            if reversed {
                rows.reverse();
            }
            assert!(rows[if reversed { 3 } else { 0 }].clone().delete(&db).await.unwrap_err().is_restricted());
            let error = Branch::query("WHERE id < 4").delete(&db).await.unwrap_err();
            assert!(error.is_restricted(), "{error}");
            assert!(SCENE.log.take().is_empty());
            assert_eq!(Branch::delete_many(&db, &mut rows).await.unwrap(), 4);
            assert!(rows.iter().all(|row| row.id.is_none()));
            let mut gone = ["gone Branch 1", "gone Branch 2", "gone Branch 3", "gone Branch 4"];
            if reversed {
                gone.reverse();
            }
            assert_eq!(SCENE.log.take(), gone, "in the order of the caller");
        }
        chain(&db, "branches", 4, (", version", ", 0")).await;
        assert_eq!(Branch::query("").delete(&db).await.unwrap(), 4);
    }

    async fn a_stale_row_of_a_tree_is_not_deleted(db: Db) {
        use trees::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        chain(&db, "branches", 3, (", version", ", 0")).await;
        let mut rows = Branch::query("ORDER BY id").fetch_all(&db).await.unwrap();
        common::execute(&db, "UPDATE branches SET version = 7 WHERE id = 2").await;
        let error = Branch::delete_many(&db, &mut rows).await.unwrap_err();
        assert!(error.is_stale(), "{error}");
        assert_eq!(count(&db, "branches").await, 3);
        assert_eq!(rows[0].id, Some(1));
    }

    async fn a_deep_tree_is_deleted_from_its_root(db: Db) {
        use trees::*;

        const DEPTH: usize = if cfg!(debug_assertions) { 3_000 } else { 100_000 };

        let _turn = SCENE.begin().await;
        tables(&db).await;
        chain(&db, "levels", DEPTH, ("", "")).await;
        common::execute(&db, "INSERT INTO notes (level, version) SELECT max(id), 0 FROM levels").await;
        common::execute(&db, "INSERT INTO levels (id, parent) VALUES (-1, NULL), (-2, -1)").await;
        // On a thread with little stack.
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new().stack_size(512 << 10);
        let of_thread = db.clone();
        let delete = move || {
            runtime.block_on(async { Level { id: Some(1), parent: None }.delete(&of_thread).await })
        };
        let thread = thread.spawn(delete).unwrap();
        let deleted = tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
        assert!(deleted.unwrap());
        assert_eq!(count(&db, "levels").await, 2);
        let notes = Note::all(&db).await.unwrap();
        assert_eq!((notes.len(), notes[0].level, notes[0].version), (1, None, 1));
        assert_eq!(SCENE.log.take(), ["saved Note 1"]);
    }

    async fn rows_are_identified_by_their_keys_not_by_their_debug_output(db: Db) {
        use trees::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        common::execute(&db, "INSERT INTO secrets (id, parent) VALUES (1, NULL), (2, 1), (3, 1), (4, 2), (5, NULL)").await;
        Hidden { id: Some(Secret(1)), parent: None }.delete(&db).await.unwrap();
        assert_eq!(SCENE.log.take(), ["gone Hidden ***"; 4]);
        assert_eq!(count(&db, "secrets").await, 1);

        let row = |id| Hidden { id: Some(Secret(id)), parent: None };
        let error = Hidden::update_many(&db, &mut [row(5), row(6)]).await.unwrap_err();
        assert!(error.is_not_found(), "{error:?}");
        let error = Hidden::update_many(&db, &mut [row(5), row(6), row(5)]).await.unwrap_err();
        assert!(format!("{error:?}").contains("row: 2"), "{error:?}");
        assert!(format!("{error:?}").contains("DuplicateKey"), "{error:?}");
    }

    async fn rows_that_reference_each_other_are_deleted_together(db: Db) {
        use trees::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        let insert = "INSERT INTO owners (id) VALUES (1), (2); \
                      INSERT INTO things (id, owner, next) VALUES (1, 1, NULL), (2, 1, 1), (3, 2, 2), (4, 1, 2); \
                      UPDATE things SET next = 4 WHERE id = 1; UPDATE owners SET favorite = 2";
        common::execute(&db, insert).await;
        let mut owner = Owner::get(&db, 1).await.unwrap();
        assert!(owner.delete(&db).await.unwrap());
        // `set_null` sends `post_save` only for rows that stay, not for rows that are about to be deleted.
        let mut log = SCENE.log.take();
        log.sort();
        assert_eq!(log, ["saved Owner 2", "saved Thing 3"]);
        let things = Thing::all(&db).await.unwrap();
        assert_eq!((things.len(), things[0].id, things[0].next), (1, Some(3), None));
        assert_eq!(Owner::all(&db).await.unwrap()[0].favorite, None);
        // The other way round: deleting a thing does not delete its owner.
        common::execute(&db, "UPDATE owners SET favorite = 3").await;
        assert_eq!(Thing::query("").delete(&db).await.unwrap(), 1);
        assert_eq!((count(&db, "owners").await, Owner::all(&db).await.unwrap()[0].favorite), (1, None));
    }

    async fn writes_of_pre_delete_receivers_count(db: Db) {
        use busy::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        for (wish, log, left) in [
            ("", &["pre Item 1", "pre Item 2", "post Item 1", "post Item 2"][..], 0),
            ("add", &["pre Item 1", "pre Item 2", "pre Item 3", "post Item 1", "post Item 2", "post Item 3"], 0),
            ("touch", &["pre Item 1", "pre Item 2", "post Item 1", "post Item 2"], 0),
            ("move", &[], 2),
        ] {
            let mut first = boxes(&db, wish).await;
            assert!(first.delete(&db).await.unwrap(), "{wish}");
            assert_eq!(SCENE.log.take(), log, "{wish}");
            assert_eq!((count(&db, "items").await, count(&db, "boxes").await), (left, 1), "{wish}");
            let tables = "boxes, items, seals";
            match db.kind() {
                sqlx_signals::DatabaseKind::Postgres => {
                    common::execute(&db, &format!("TRUNCATE {tables} RESTART IDENTITY")).await;
                }
                sqlx_signals::DatabaseKind::Sqlite => {
                    common::execute(&db, "DELETE FROM items; DELETE FROM boxes").await;
                }
            }
        }
    }

    async fn a_dependent_row_added_by_another_transaction_undoes_the_delete(db: Db) {
        use busy::*;

        // SQLite has one writer.
        if db.kind() == sqlx_signals::DatabaseKind::Postgres {
            let _turn = SCENE.begin().await;
            tables(&db).await;
            let mut first = boxes(&db, "").await;
            *RIVAL.lock().unwrap() = Some(common::one_connection(&db).await);
            let error = first.delete(&db).await.unwrap_err();
            assert!(error.is_foreign_key_violation(), "{error}");
            assert_eq!((count(&db, "items").await, count(&db, "boxes").await), (3, 2));
            assert_eq!(first.id, Some(1));
        }
    }

    async fn a_row_that_a_pre_delete_receiver_adds_restricts_the_delete(db: Db) {
        use busy::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        let mut first = boxes(&db, "seal").await;
        let error = first.delete(&db).await.unwrap_err();
        assert!(error.is_restricted(), "{error}");
        assert_eq!((count(&db, "items").await, count(&db, "boxes").await, count(&db, "seals").await), (2, 2, 0));
        assert_eq!(first.id, Some(1));
    }

    async fn rows_that_a_pre_delete_receiver_deletes_are_deleted_once(db: Db) {
        use busy::*;

        let _turn = SCENE.begin().await;
        tables(&db).await;
        let mut first = boxes(&db, "empty").await;
        assert!(first.delete(&db).await.unwrap());
        let log = SCENE.log.take();
        assert_eq!(log, ["pre Item 1", "pre Item 2", "post Item 1", "post Item 2"]);
        assert_eq!((count(&db, "items").await, count(&db, "boxes").await), (0, 1));
    }

    async fn recorders_see_dependent_rows(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let (mut ann, mut bob) = rows(&db).await;
        let (tags, comments) = (testing::record::<Tag>(), testing::record::<Comment>());
        bob.delete(&db).await.unwrap();
        comments.assert_updated(2);
        assert_eq!(comments.saved()[0].author, None);
        ann.delete(&db).await.unwrap();
        tags.assert_deleted(2);
        tags.assert_committed(2);
        assert_eq!(tags.signals(), ["pre_delete", "pre_delete", "post_delete", "post_delete"]);
        comments.assert_deleted(4);
        comments.assert_updated(2);
    }

    async fn a_dropped_cascade_leaves_no_state_behind(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        for polls in 0..200 {
            let mut folders: Vec<_> = (0..3).map(|_| Folder { id: None, parent: None }).collect();
            Folder::insert_many(&db, &mut folders).await.unwrap();
            for folder in 1..3 {
                folders[folder].parent = folders[folder - 1].id;
            }
            Folder::update_many(&db, &mut folders).await.unwrap();

            let mut tx = db.begin().await.unwrap();
            let mut savepoint = tx.begin().await.unwrap();
            let mut root = folders[0].clone();
            let done = common::cancelled_after(root.delete(&mut savepoint), polls).await.is_some();
            savepoint.rollback().await.unwrap();
            SCENE.log.take();
            match folders[0].delete(&mut tx).await {
                // On Postgres, if the library's own savepoint was only being opened.
                Err(error) if error.is_rolled_back() => {
                    drop(tx);
                    assert!(folders[0].delete(&db).await.unwrap());
                }
                deleted => {
                    assert!(deleted.unwrap());
                    tx.commit().await.unwrap();
                }
            }
            assert_eq!(SCENE.log.take().len(), 6, "after {polls} polls");
            assert_eq!(count(&db, "folders").await, 0, "after {polls} polls");
            if done {
                return;
            }
        }
        panic!("a delete of three rows is done after some polls");
    }
}

/// Trees whose rows are found by a text in any case, and whose root belongs to itself or to a row below it.
mod texts {
    use super::*;

    #[derive(Debug, Clone, Model)]
    #[model(table = "branches")]
    struct Branch {
        #[model(primary_key)]
        name: String,
        #[model(belongs_to = Branch, on_delete = cascade)]
        parent: Option<String>,
    }

    /// The same table.
    #[derive(Debug, Clone, Model)]
    #[model(table = "branches")]
    struct Kept {
        #[model(primary_key)]
        name: String,
        #[model(belongs_to = Kept, on_delete = restrict)]
        parent: Option<String>,
    }

    #[receiver(pre_delete, sender = Branch)]
    fn before(delete: PreDelete<'_, Branch>) {
        SCENE.log.push(format!("pre {}", delete.instance.name));
    }

    #[receiver(post_delete, sender = Branch)]
    fn after(deleted: PostDelete<'_, Branch>) {
        SCENE.log.push(format!("post {}", deleted.instance.name));
    }

    async fn branches(db: &Db, rows: &str) {
        // A row of SQLite that references itself must be written in the same case.
        let (ty, references) = match db.kind() {
            sqlx_signals::DatabaseKind::Sqlite => ("TEXT COLLATE NOCASE", ""),
            sqlx_signals::DatabaseKind::Postgres => ("CITEXT", "REFERENCES branches"),
        };
        if db.kind() == sqlx_signals::DatabaseKind::Postgres {
            db.execute("CREATE EXTENSION citext").await.unwrap();
        }
        let table =
            format!("CREATE TABLE branches (name {ty} PRIMARY KEY, parent {ty} {references})");
        common::execute(db, &table).await;
        common::execute(db, &format!("INSERT INTO branches VALUES {rows}")).await;
    }

    fn branch(name: &str) -> Branch {
        Branch { name: name.to_owned(), parent: None }
    }

    on_every_database! {
        async fn a_root_key_in_another_case_is_the_same_row(db: Db) {
            let _turn = SCENE.begin().await;
            branches(&db, "('root', 'Root'), ('a', 'rOOT'), ('b', 'A')").await;
            assert!(branch("ROOT").delete(&db).await.unwrap());
            assert_eq!(SCENE.log.take(), ["pre ROOT", "pre a", "pre b", "post b", "post a", "post ROOT"]);
            assert_eq!(count(&db, "branches").await, 0);
        }

        async fn root_keys_in_another_case_are_collected_once_in_a_circle(db: Db) {
            let _turn = SCENE.begin().await;
            branches(&db, "('a', 'B'), ('b', 'C'), ('c', 'A'), ('d', NULL), ('e', 'd')").await;
            let mut roots = [branch("B"), branch("D")];
            assert_eq!(Branch::delete_many(&db, &mut roots).await.unwrap(), 2);
            let mut log = SCENE.log.take();
            log.sort();
            let told = |when: &str| ["B", "D", "a", "c", "e"].map(|name| format!("{when} {name}"));
            assert_eq!(log, [told("post"), told("pre")].concat());
            assert_eq!(count(&db, "branches").await, 0);
        }

        async fn a_key_in_another_case_does_not_restrict_its_own_delete(db: Db) {
            branches(&db, "('root', 'Root'), ('other', NULL), ('leaf', 'Other')").await;
            let kept = |name: &str| Kept { name: name.to_owned(), parent: None };
            assert!(kept("OTHER").delete(&db).await.unwrap_err().is_restricted());
            assert!(kept("ROOT").delete(&db).await.unwrap());
            assert_eq!(Kept::delete_many(&db, &mut [kept("LEAF"), kept("OTHER")]).await.unwrap(), 2);
            assert_eq!(count(&db, "branches").await, 0);
        }
    }
}

/// A row that only PostgreSQL can store belongs to no row of SQLite.
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod other_database {
    use super::*;

    #[derive(Debug, Clone, Model)]
    #[model(table = "owners")]
    struct Owner {
        id: Option<i64>,
    }

    macro_rules! labels {
        ($($model:ident $on_delete:ident)*) => { $(
            #[derive(Debug, Clone, Model)]
            struct $model {
                id: Option<i64>,
                #[model(belongs_to = Owner, on_delete = $on_delete)]
                owner: Option<i64>,
                labels: Vec<String>,
            }
        )* };
    }

    labels!(CascadedLabels cascade RestrictingLabels restrict ClearedLabels set_null);

    #[tokio::test]
    async fn rows_that_another_database_stores_are_not_looked_for() {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        db.execute("CREATE TABLE owners (id INTEGER PRIMARY KEY)").await.unwrap();
        let mut owners = [Owner { id: None }, Owner { id: None }, Owner { id: None }];
        Owner::insert_many(&db, &mut owners).await.unwrap();
        assert!(owners[0].delete(&db).await.unwrap());
        assert!(Owner::delete_by_key(&db, 2).await.unwrap());
        assert_eq!(Owner::query("").delete(&db).await.unwrap(), 1);
    }
}
