//! `upsert` and `get_or_create`: one row for equal unique columns, created by exactly one caller.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

#[cfg(feature = "postgres")]
use common::execute;
use common::{Scene, count, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    #[model(column = "E-Mail")]
    email: String,
    tenant: i32,
    name: String,
}

fn user(email: &str, name: &str) -> User {
    User { id: None, email: email.to_owned(), tenant: 1, name: name.to_owned() }
}

/// Like `User`, with receivers.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "users")]
struct Member {
    id: Option<i64>,
    #[model(column = "E-Mail")]
    email: String,
    tenant: i32,
    name: String,
}

fn member(email: &str, name: &str) -> Member {
    Member { id: None, email: email.to_owned(), tenant: 1, name: name.to_owned() }
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(pre_save, sender = Member)]
fn lower(save: PreSave<'_, Member>) -> Result<(), &'static str> {
    save.instance.email = save.instance.email.to_lowercase();
    SCENE.log.push(format!("pre {}", save.instance.email));
    if save.instance.name == "vetoed" { Err("vetoed") } else { Ok(()) }
}

#[receiver(post_save, sender = Member)]
async fn saved(saved: PostSave<'_, Member>, conn: &mut Conn<'_>) -> Result<()> {
    let Member { name, .. } = saved.instance;
    let stored = Member::get(conn, saved.pk()).await?;
    SCENE.log.push(format!("post {name} {} {}", saved.created, stored == *saved.instance));
    if name == "refused" { Err(Error::other("refused")) } else { Ok(()) }
}

#[receiver(post_save, sender = Member, on_commit)]
async fn committed(saved: PostSave<'_, Member>) {
    SCENE.log.push(format!("commit {} {}", saved.instance.name, saved.created));
}

async fn users(db: &Db) {
    let columns = r#""E-Mail" TEXT NOT NULL, tenant INTEGER NOT NULL, name TEXT NOT NULL CHECK (name <> ''), UNIQUE (tenant, "E-Mail")"#;
    table(db, "users", columns).await;
}

const UNIQUE: [sqlx_signals::Column<User>; 2] = [User::EMAIL, User::TENANT];
const MEMBER: [sqlx_signals::Column<Member>; 2] = [Member::EMAIL, Member::TENANT];

/// What each of 64 tasks that start together returns.
async fn sixty_four<F: Future<Output = bool> + Send + 'static>(task: impl Fn(i64) -> F) -> usize {
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(64));
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (start, task) = (start.clone(), task(n));
            tokio::spawn(async move {
                start.wait().await;
                task.await
            })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        created += usize::from(task.await.unwrap());
    }
    created
}

on_every_database! {
    async fn an_upsert_inserts_or_updates_by_unique_columns(db: Db) {
        users(&db).await;
        let mut ann = user("ann@x", "Ann");
        assert!(ann.upsert(&db, &UNIQUE).await.unwrap().created);
        let mut anna = user("ann@x", "Anna");
        assert!(!anna.upsert(&db, &UNIQUE).await.unwrap().created);
        assert_eq!(anna.id, ann.id);
        let mut elsewhere = User { tenant: 2, ..user("ann@x", "Ann of two") };
        assert!(elsewhere.upsert(&db, &[User::TENANT, User::EMAIL]).await.unwrap().created);
        assert_eq!(User::query("ORDER BY id").fetch_all(&db).await.unwrap(), [anna.clone(), elsewhere]);

        // The stored row keeps its key.
        let mut other_key = User { id: Some(900), ..user("ann@x", "Annika") };
        assert!(!other_key.upsert(&db, &UNIQUE).await.unwrap().created);
        assert_eq!((other_key.id, User::get(&db, anna.id.unwrap()).await.unwrap().name), (ann.id, "Annika".to_owned()));
        let mut own_key = User { id: Some(901), ..user("bob@x", "Bob") };
        assert!(own_key.upsert(&db, &UNIQUE).await.unwrap().created);
        assert_eq!((own_key.id, count(&db, "users").await), (Some(901), 3));
        assert!(!own_key.upsert(&db, &[User::ID]).await.unwrap().created);
    }

    async fn invalid_unique_columns_and_refused_rows_are_errors(db: Db) {
        users(&db).await;
        let mut ann = user("ann@x", "Ann");
        let error = ann.upsert(&db, &[User::NAME]).await.unwrap_err();
        assert!(matches!(&error, Error::Database(_)), "{error:?}");
        assert_eq!(ann.upsert(&db, &[]).await.unwrap_err().to_string(), "a `User` must be identified by at least one column");
        assert!(ann.upsert(&db, &[User::ID]).await.unwrap_err().is_not_found());
        let error = User::get_or_create(&db, ann.clone(), &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "a `User` must be identified by at least one column");
        let mut unnamed = user("x@x", "");
        assert!(unnamed.upsert(&db, &UNIQUE).await.unwrap_err().is_check_violation());
        assert!(User::get_or_create(&db, unnamed, &UNIQUE).await.unwrap_err().is_check_violation());
        assert_eq!((ann.id, count(&db, "users").await), (None, 0));
    }

    async fn signals_are_sent_as_for_a_save(db: Db) {
        let _turn = SCENE.begin().await;
        users(&db).await;
        let mut ann = member("ANN@x", "Ann");
        assert!(ann.upsert(&db, &MEMBER).await.unwrap().created);
        let mut anna = member("Ann@x", "Anna");
        assert!(!anna.upsert(&db, &MEMBER).await.unwrap().created);
        assert_eq!(
            SCENE.log.take(),
            [
                "pre ann@x", "post Ann true true", "commit Ann true",
                "pre ann@x", "post Anna false true", "commit Anna false",
            ]
        );
        member("ann@x", "vetoed").upsert(&db, &MEMBER).await.unwrap_err();
        let mut refused = member("ann@x", "refused");
        refused.upsert(&db, &MEMBER).await.unwrap_err();
        let mut new = member("new@x", "refused");
        new.upsert(&db, &MEMBER).await.unwrap_err();
        assert_eq!((refused.id, new.id), (None, None));
        assert_eq!(Member::all(&db).await.unwrap(), [anna]);
    }

    async fn get_or_create_sends_signals_only_if_it_creates(db: Db) {
        let _turn = SCENE.begin().await;
        users(&db).await;
        let (ann, created) = Member::get_or_create(&db, member("ann@x", "Ann"), &MEMBER).await.unwrap();
        assert!(created && ann.id.is_some());
        assert_eq!(SCENE.log.take(), ["pre ann@x", "post Ann true true", "commit Ann true"]);
        let (found, created) = Member::get_or_create(&db, member("ann@x", "Other"), &MEMBER).await.unwrap();
        assert_eq!((found, created, SCENE.log.take()), (ann.clone(), false, Vec::new()));
        // The row is found by the columns as the receivers have changed them.
        let (found, created) = Member::get_or_create(&db, member("ANN@x", "Other"), &MEMBER).await.unwrap();
        assert_eq!((found, created, SCENE.log.take()), (ann, false, vec!["pre ann@x".to_owned()]));
        Member::get_or_create(&db, member("new@x", "vetoed"), &MEMBER).await.unwrap_err();
        Member::get_or_create(&db, member("new@x", "refused"), &MEMBER).await.unwrap_err();
        assert_eq!(count(&db, "users").await, 1);
    }

    async fn an_upsert_is_part_of_the_transaction(db: Db) {
        let _turn = SCENE.begin().await;
        users(&db).await;
        let mut tx = db.begin().await.unwrap();
        let (ann, created) = Member::get_or_create(&mut tx, member("ann@x", "Ann"), &MEMBER).await.unwrap();
        let (again, created_again) = Member::get_or_create(&mut tx, ann.clone(), &MEMBER).await.unwrap();
        assert!(created && !created_again && again == ann);
        assert!(!member("ann@x", "Anna").upsert(&mut tx, &MEMBER).await.unwrap().created);
        tx.rollback().await.unwrap();
        assert_eq!(count(&db, "users").await, 0);
        assert_eq!(SCENE.log.take(), ["pre ann@x", "post Ann true true", "pre ann@x", "post Anna false true"]);
    }

    async fn sixty_four_tasks_upsert_one_row(db: Db) {
        users(&db).await;
        for round in 0..4 {
            let created = sixty_four(|n| {
                let db = db.clone();
                async move { user(&format!("{round}@x"), &n.to_string()).upsert(&db, &UNIQUE).await.unwrap().created }
            });
            assert_eq!((created.await, count(&db, "users").await), (1, round + 1));
        }
    }

    async fn sixty_four_tasks_get_or_create_one_row(db: Db) {
        users(&db).await;
        for round in 0..4 {
            let created = sixty_four(|n| {
                let db = db.clone();
                async move {
                    let new = user(&format!("{round}@x"), &n.to_string());
                    let (found, created) = User::get_or_create(&db, new, &UNIQUE).await.unwrap();
                    assert!(found.id.is_some() && (!created || found.name == n.to_string()));
                    created
                }
            });
            assert_eq!((created.await, count(&db, "users").await), (1, round + 1));
        }
    }

    async fn one_of_sixty_four_upserts_sends_created(db: Db) {
        let _turn = SCENE.begin().await;
        users(&db).await;
        let created = sixty_four(|n| {
            let db = db.clone();
            async move {
                let mut member = member("one@x", &n.to_string());
                if n % 2 == 0 {
                    member.upsert(&db, &MEMBER).await.unwrap().created
                } else {
                    Member::get_or_create(&db, member, &MEMBER).await.unwrap().1
                }
            }
        });
        assert_eq!((created.await, count(&db, "users").await), (1, 1));
        let log = SCENE.log.take();
        let told = |what: &str| log.iter().filter(|e| e.starts_with(what) && e.contains(" true")).count();
        assert_eq!(log.iter().filter(|e| e.starts_with("commit") && e.ends_with("true")).count(), 1);
        assert_eq!(told("post"), log.iter().filter(|e| e.starts_with("post")).count(), "each sees its own row");
    }

    async fn upserts_race_with_deletes(db: Db) {
        users(&db).await;
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let db = db.clone();
                tokio::spawn(async move {
                    let (mut created, mut deleted) = (0, 0);
                    for _ in 0..25 {
                        match n % 4 {
                            0 => created += i64::from(user("f", "x").upsert(&db, &UNIQUE).await.unwrap().created),
                            1 => created += i64::from(User::get_or_create(&db, user("f", "x"), &UNIQUE).await.unwrap().1),
                            _ => {
                                for mut found in User::all(&db).await.unwrap() {
                                    deleted += i64::from(found.delete(&db).await.unwrap());
                                }
                            }
                        }
                    }
                    created - deleted
                })
            })
            .collect();
        let mut left = 0;
        for task in tasks {
            left += task.await.unwrap();
        }
        assert_eq!(left, count(&db, "users").await, "every row was created once and deleted once");
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn created_is_right_in_a_partitioned_table() {
    #[derive(Debug, Clone, Model)]
    struct Reading {
        id: Option<i64>,
        day: i32,
        sensor: String,
        value: i32,
    }
    let test = common::TestDb::postgres("upsert_partitioned").await;
    assert_eq!(test.db.kind(), DatabaseKind::Postgres);
    execute(
        &test.db,
        "CREATE TABLE reading (id BIGSERIAL, day INT, sensor TEXT, value INT NOT NULL, UNIQUE (day, sensor)) PARTITION BY RANGE (day);
         CREATE TABLE reading_1 PARTITION OF reading FOR VALUES FROM (0) TO (10);
         CREATE TABLE reading_2 PARTITION OF reading FOR VALUES FROM (10) TO (20)",
    )
    .await;
    let unique = [Reading::DAY, Reading::SENSOR];
    for day in [1, 11] {
        let reading = |value| Reading { id: None, day, sensor: "a".to_owned(), value };
        let mut first = reading(1);
        assert!(first.upsert(&test.db, &unique).await.unwrap().created);
        let mut second = reading(2);
        assert!(!second.upsert(&test.db, &unique).await.unwrap().created);
        assert_eq!(first.id, second.id);
        let (found, created) = Reading::get_or_create(&test.db, reading(3), &unique).await.unwrap();
        assert_eq!((found.value, created), (2, false));
    }
    assert_eq!(count(&test.db, "reading").await, 2);
    test.passed().await;
}

/// It has no unique index of its columns alone.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "teams")]
struct Team {
    id: Option<i64>,
    team: String,
    email: String,
}

on_every_database! {
    async fn an_index_of_an_expression_does_not_find_a_row(db: Db) {
        table(&db, "teams", "team TEXT NOT NULL, email TEXT NOT NULL").await;
        common::execute(&db, "CREATE UNIQUE INDEX by_email ON teams (lower(email), team)").await;
        let mut ann = Team { id: None, team: "red".into(), email: "ann".into() };
        ann.save(&db).await.unwrap();
        let mut bob = Team { id: None, team: "red".into(), email: "bob".into() };
        bob.upsert(&db, &[Team::TEAM]).await.unwrap_err();
        assert_eq!(Team::query("").fetch_all(&db).await.unwrap(), [ann]);
    }
}

/// A row that is found by a value which the database changes.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "readers")]
struct Reader {
    id: Option<i64>,
    email: String,
    #[model(unique)]
    name: String,
    books: i64,
}

fn reader(email: &str, name: &str) -> Reader {
    Reader { id: None, email: email.into(), name: name.into(), books: 0 }
}

async fn readers(db: &Db) {
    table(db, "readers", "email TEXT NOT NULL, name TEXT NOT NULL UNIQUE, books BIGINT NOT NULL")
        .await;
    common::execute(
        db,
        match db.kind() {
            DatabaseKind::Sqlite => "CREATE UNIQUE INDEX by_email ON readers (email COLLATE NOCASE)",
            DatabaseKind::Postgres => {
                "ALTER TABLE readers ADD UNIQUE (email);
                 CREATE FUNCTION lower_email() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN NEW.email = lower(NEW.email); RETURN NEW; END';
                 CREATE TRIGGER lower_email BEFORE INSERT ON readers FOR EACH ROW EXECUTE FUNCTION lower_email()"
            }
        },
    )
    .await;
    for name in ["ann", "bob"] {
        reader(name, name).save(db).await.unwrap();
    }
}

on_every_database! {
    async fn an_upsert_that_fails_leaves_the_key_as_it_was(db: Db) {
        readers(&db).await;
        for id in [None, Some(7)] {
            let mut tx = db.begin().await.unwrap();
            let mut row = Reader { id, ..reader("ANN", "bob") };
            let error = row.upsert(&mut tx, &[Reader::EMAIL]).await.unwrap_err();
            assert!(error.is_unique_violation(), "{error}");
            assert_eq!(row.id, id);
        }
        let mut row = reader("ANN", "other");
        assert!(!row.upsert(&db, &[Reader::EMAIL]).await.unwrap().created);
        assert_eq!(row.id, Some(1));
    }
}

/// A reader whose receiver writes before the statement.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "readers")]
struct Welcomed {
    id: Option<i64>,
    email: String,
    #[model(unique)]
    name: String,
    books: i64,
}

#[receiver(pre_save, sender = Welcomed)]
async fn keep_history(save: PreSave<'_, Welcomed>, conn: &mut Conn<'_>) -> Result<()> {
    SCENE.log.push(format!("pre {}", save.instance.email));
    conn.execute("INSERT INTO history (n) VALUES (1)").await.map(drop)
}

on_every_database! {
    async fn get_or_create_that_finds_the_row_keeps_no_write_of_a_receiver(db: Db) {
        let _turn = SCENE.begin().await;
        readers(&db).await;
        table(&db, "history", "n BIGINT NOT NULL").await;
        let welcomed = |email: &str, name: &str| Welcomed { id: None, email: email.into(), name: name.into(), books: 0 };
        let stored = Welcomed::get(&db, 1).await.unwrap();
        let ann = || welcomed("ANN", "other");
        assert_eq!(Welcomed::get_or_create(&db, ann(), &[Welcomed::EMAIL]).await.unwrap(), (stored.clone(), false));
        let mut tx = db.begin().await.unwrap();
        assert_eq!(Welcomed::get_or_create(&mut tx, ann(), &[Welcomed::EMAIL]).await.unwrap(), (stored, false));
        tx.commit().await.unwrap();
        assert_eq!(count(&db, "history").await, 0);
        // The row is not found by its value, so the receiver runs once before the database finds it.
        assert_eq!(SCENE.log.take(), ["pre ANN", "pre ANN"]);

        let mut tx = db.begin().await.unwrap();
        let (_, created) = Welcomed::get_or_create(&mut tx, welcomed("carl", "carl"), &[Welcomed::EMAIL]).await.unwrap();
        tx.commit().await.unwrap();
        assert!(created);
        assert_eq!((count(&db, "history").await, count(&db, "readers").await), (1, 3));
    }
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_or_create_does_not_wait_for_rows_that_refer_to_the_row_which_it_finds() {
    let test = common::TestDb::postgres("found_beside_references").await;
    readers(&test.db).await;
    common::table(&test.db, "loans", "reader BIGINT NOT NULL REFERENCES readers").await;
    let mut tx = test.db.begin().await.unwrap();
    tx.execute("INSERT INTO loans (reader) VALUES (1)").await.unwrap();
    let found = Reader::get_or_create(&test.db, reader("ANN", "new"), &[Reader::EMAIL]);
    let found = tokio::time::timeout(std::time::Duration::from_secs(5), found).await;
    let (ann, created) = found.unwrap().unwrap();
    assert!(!created && ann.id == Some(1));
    tx.rollback().await.unwrap();
    test.passed().await;
}

/// A row of a table with a trigger that may skip an UPDATE.
#[cfg(feature = "postgres")]
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "touched")]
struct Touched {
    #[model(primary_key)]
    name: String,
    value: i64,
}

// If both find no row, the second one has to find that of the first one.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_saves_of_a_new_row_with_a_trigger_lose_no_write() {
    let test = common::TestDb::postgres("touched").await;
    let db = &test.db;
    execute(
        db,
        "CREATE TABLE touched (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER touch BEFORE UPDATE ON touched FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    .await;
    for round in 0..200 {
        let save = async |value: i64| {
            let mut row = Touched { name: round.to_string(), value };
            let saved = match round % 2 {
                0 => row.save(db).await,
                _ => row.upsert(db, &[Touched::NAME]).await,
            };
            (value, saved.unwrap().created)
        };
        let (first, second) = tokio::join!(save(1), save(2));
        let updated = [first, second].into_iter().find(|(_, created)| !created);
        let stored = Touched::get(db, round.to_string()).await.unwrap().value;
        assert_eq!(updated, Some((stored, false)), "{round}");
    }
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_key_is_generated_always_is_upserted_again() {
    let test = common::TestDb::postgres("upsert_of_generated_key").await;
    let db = &test.db;
    execute(
        db,
        "CREATE TABLE users (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \"E-Mail\" TEXT NOT NULL UNIQUE, \
         tenant INTEGER NOT NULL, name TEXT NOT NULL)",
    )
    .await;
    let mut ann = user("ann", "Ann");
    assert!(ann.upsert(db, &[User::EMAIL]).await.unwrap().created);
    for (column, in_transaction) in
        [(User::EMAIL, false), (User::EMAIL, true), (User::ID, false), (User::ID, true)]
    {
        ann.name.push('!');
        let mut tx = db.begin().await.unwrap();
        let saved = match in_transaction {
            false => ann.upsert(db, &[column]).await,
            true => ann.upsert(&mut tx, &[column]).await,
        };
        let saved = saved.unwrap();
        tx.commit().await.unwrap();
        assert!(!saved.created && Some(saved.pk) == ann.id);
        assert_eq!(User::get(db, saved.pk).await.unwrap(), ann);
    }
    test.passed().await;
}
