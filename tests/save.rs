//! What saves, deletes and reads do to rows, without receivers.
#![allow(missing_docs)]

mod common;

use common::{count, execute, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, Executor, sqlx};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    email: Option<String>,
}

fn user(name: &str) -> User {
    User { id: None, name: name.to_owned(), email: None }
}

async fn users(db: &Db) {
    table(db, "users", "name TEXT NOT NULL UNIQUE, email TEXT").await;
}

on_every_database! {
    async fn insert_then_update_then_delete(db: Db) {
        users(&db).await;
        let mut ann = user("Ann");
        assert!(ann.save(&db).await.unwrap().created);
        let key = ann.id.unwrap();
        assert_eq!(User::get(&db, key).await.unwrap(), ann);

        ann.email = Some("ann@example.org".to_owned());
        assert!(!ann.save(&db).await.unwrap().created);
        assert_eq!((count(&db, "users").await, ann.pk()), (1, Some(key)));

        ann.name = "Anna".to_owned();
        ann.refresh(&db).await.unwrap();
        assert_eq!((&*ann.name, ann.email.as_deref()), ("Ann", Some("ann@example.org")));

        assert!(ann.delete(&db).await.unwrap());
        assert_eq!((ann.id, count(&db, "users").await), (None, 0));
        assert!(!ann.delete(&db).await.unwrap());
        ann.id = Some(key);
        assert!(!ann.delete(&db).await.unwrap());
        assert_eq!(ann.id, None);
    }

    async fn a_key_that_the_program_sets_is_inserted_and_kept(db: Db) {
        users(&db).await;
        let mut ann = User { id: Some(42), ..user("Ann") };
        assert!(ann.save(&db).await.unwrap().created);
        assert!(!ann.save(&db).await.unwrap().created);
        assert_eq!(User::all(&db).await.unwrap(), [ann.clone()]);
        let mut bob = User { id: Some(43), ..user("Bob") };
        assert!(bob.insert(&db).await.unwrap().created);
        assert_eq!(count(&db, "users").await, 2);
    }

    async fn insert_of_a_taken_key_is_a_unique_violation(db: Db) {
        users(&db).await;
        let mut ann = user("Ann");
        ann.insert(&db).await.unwrap();
        let mut again = User { name: "Bob".to_owned(), ..ann.clone() };
        let error = again.insert(&db).await.unwrap_err();
        assert!(matches!(error, Error::Database(_)) && error.is_unique_violation(), "{error:?}");

        // A taken name, not a taken key: it must not be mistaken for a row that another task has stored.
        let mut same_name = User { id: Some(99), ..user("Ann") };
        assert!(same_name.save(&db).await.unwrap_err().is_unique_violation());
        let mut same_name = user("Ann");
        assert!(same_name.save(&db).await.unwrap_err().is_unique_violation());
        assert_eq!((same_name.id, count(&db, "users").await), (None, 1));
    }

    async fn update_of_a_missing_row_names_model_and_key(db: Db) {
        users(&db).await;
        let mut ann = User { id: Some(7), ..user("Ann") };
        for error in [
            ann.update(&db).await.unwrap_err(),
            ann.refresh(&db).await.unwrap_err(),
            User::get(&db, 7).await.unwrap_err(),
        ] {
            assert!(matches!(&error, Error::NotFound { model: "User", key } if key == "7"), "{error:?}");
            assert_eq!(error.to_string(), "no such `User`: 7");
        }
        ann.id = None;
        assert!(ann.update(&db).await.unwrap_err().is_not_found());
        assert_eq!(User::find(&db, 7).await.unwrap(), None);
        ann.save(&db).await.unwrap();
        assert!(!ann.update(&db).await.unwrap().created);
    }

    async fn a_key_is_given_by_value_or_by_reference(db: Db) {
        #[derive(Debug, PartialEq, Model)]
        struct Country { #[model(primary_key)] code: String, name: String }
        execute(&db, "CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT NOT NULL)").await;
        let mut de = Country { code: "DE".to_owned(), name: "Germany".to_owned() };
        assert!(de.save(&db).await.unwrap().created);
        assert!(!de.save(&db).await.unwrap().created);
        let key = de.pk().unwrap();
        assert_eq!(Country::get(&db, "DE").await.unwrap(), de);
        assert_eq!(Country::get(&db, &key).await.unwrap(), de);
        assert_eq!(Country::find(&db, key).await.unwrap(), Some(de));
        let error = Country::get(&db, "FR").await.unwrap_err();
        assert_eq!(error.to_string(), "no such `Country`: \"FR\"");
    }

    async fn a_composite_key_is_the_tuple_of_its_fields(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Membership {
            role: String,
            #[model(primary_key)] user_id: i64,
            #[model(primary_key, column = "team")] team_code: String,
        }
        execute(
            &db,
            "CREATE TABLE membership (user_id BIGINT, team TEXT, role TEXT NOT NULL, PRIMARY KEY (user_id, team))",
        )
        .await;
        let mut one = Membership { role: "member".to_owned(), user_id: 1, team_code: "core".to_owned() };
        assert!(one.save(&db).await.unwrap().created);
        one.role = "lead".to_owned();
        assert!(!one.save(&db).await.unwrap().created);
        assert_eq!(one.pk(), Some((1, "core".to_owned())));
        assert_eq!(Membership::get(&db, (1, "core".to_owned())).await.unwrap(), one);
        assert_eq!(Membership::find(&db, (2, "core".to_owned())).await.unwrap(), None);
        assert!(one.delete(&db).await.unwrap());
        assert_eq!(one.user_id, 1, "the program's own key stays");
    }

    async fn a_row_of_key_columns_only_is_saved(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Like { #[model(primary_key)] user_id: i64, #[model(primary_key)] post_id: i64 }
        #[derive(Debug, Model)]
        struct Ticket { id: Option<i64> }
        execute(&db, r#"CREATE TABLE "like" (user_id BIGINT, post_id BIGINT, PRIMARY KEY (user_id, post_id))"#).await;
        let id = if db.kind() == DatabaseKind::Sqlite { "INTEGER" } else { "BIGSERIAL" };
        execute(&db, &format!("CREATE TABLE ticket (id {id} PRIMARY KEY)")).await;
        let mut like = Like { user_id: 1, post_id: 2 };
        assert!(like.save(&db).await.unwrap().created);
        assert!(!like.save(&db).await.unwrap().created);
        let mut ticket = Ticket { id: None };
        assert!(ticket.save(&db).await.unwrap().created && ticket.id.is_some());
        assert!(!ticket.save(&db).await.unwrap().created);
    }

    async fn sixty_four_tasks_save_one_new_key(db: Db) {
        #[derive(Debug, Clone, Model)]
        struct Setting { #[model(primary_key)] name: String, value: i64 }
        execute(&db, "CREATE TABLE setting (name TEXT PRIMARY KEY, value BIGINT NOT NULL)").await;
        for round in 0..4 {
            let tasks: Vec<_> = (0..64)
                .map(|value| {
                    let db = db.clone();
                    tokio::spawn(async move {
                        Setting { name: format!("theme {round}"), value }.save(&db).await.unwrap().created
                    })
                })
                .collect();
            let mut created = 0;
            for task in tasks {
                created += usize::from(task.await.unwrap());
            }
            assert_eq!((created, count(&db, "setting").await), (1, round + 1));
        }
    }

    async fn saves_and_deletes_of_one_key_race(db: Db) {
        #[derive(Debug, Clone, Model)]
        struct Flag { #[model(primary_key)] name: String, value: i64 }
        execute(&db, "CREATE TABLE flag (name TEXT PRIMARY KEY, value BIGINT NOT NULL)").await;
        let tasks: Vec<_> = (0..8)
            .map(|value| {
                let db = db.clone();
                tokio::spawn(async move {
                    let (mut created, mut deleted) = (0, 0);
                    for _ in 0..25 {
                        let mut flag = Flag { name: "f".to_owned(), value };
                        if value % 2 == 0 {
                            created += i64::from(flag.save(&db).await.unwrap().created);
                        } else {
                            deleted += i64::from(flag.delete(&db).await.unwrap());
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
        assert_eq!(left, count(&db, "flag").await, "every row was created once and deleted once");
    }

    async fn hostile_names_and_values(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "a \"table\"; DROP TABLE x --", rename_all = "camelCase")]
        struct Hostile {
            user_id: Option<i64>,
            #[model(primary_key, column = "select")]
            key: i64,
            r#type: String,
            #[model(column = "größe \"'`$1?")]
            size: i32,
            full_name: String,
        }
        execute(
            &db,
            r#"CREATE TABLE "a ""table""; DROP TABLE x --" ("userId" BIGINT, "select" BIGINT PRIMARY KEY,
               "type" TEXT NOT NULL, "größe ""'`$1?" INTEGER NOT NULL, "fullName" TEXT NOT NULL)"#,
        )
        .await;
        let text = "'; DROP TABLE users; -- $1 \\ \u{1F980}";
        let mut row =
            Hostile { user_id: None, key: 1, r#type: text.to_owned(), size: 3, full_name: text.to_owned() };
        assert!(row.save(&db).await.unwrap().created);
        row.size = 4;
        assert!(!row.save(&db).await.unwrap().created);
        assert_eq!(Hostile::get(&db, 1).await.unwrap(), row);
        let found = Hostile::query("WHERE \"type\" = $1").bind(text).fetch_all(&db).await.unwrap();
        assert_eq!(found, [row]);
        assert_eq!((Hostile::TYPE.name(), Hostile::FULL_NAME.name(), Hostile::SIZE.name()), ("type", "fullName", "größe \"'`$1?"));
        assert_eq!(Hostile::COLUMNS, ["userId", "select", "type", "größe \"'`$1?", "fullName"]);
    }

    async fn queries_fetch_and_count(db: Db) {
        users(&db).await;
        for name in ["Ann", "Bob", "Cid"] {
            user(name).save(&db).await.unwrap();
        }
        let all = User::query("ORDER BY name DESC").fetch_all(&db).await.unwrap();
        assert_eq!(all.iter().map(|u| &*u.name).collect::<Vec<_>>(), ["Cid", "Bob", "Ann"]);
        let two = User::query("WHERE name = $1 OR name = $2 ORDER BY name").bind("Ann").bind(String::from("Cid"));
        assert_eq!(two.fetch_all(&db).await.unwrap().len(), 2);
        assert_eq!(User::query("ORDER BY name LIMIT 2 -- of three").count(&db).await.unwrap(), 2);
        assert_eq!(User::query("WHERE name <> $1").bind("Ann").count(&db).await.unwrap(), 2);
        assert_eq!(User::query("WHERE name = $1").bind("Bob").fetch_one(&db).await.unwrap().name, "Bob");
        assert!(User::query("WHERE name = $1").bind("X").fetch_optional(&db).await.unwrap().is_none());
        assert!(User::query("WHERE name = $1").bind("X").fetch_one(&db).await.unwrap_err().is_not_found());
        assert!(User::query("WHERE nonsense").fetch_all(&db).await.is_err());

        let rows: Vec<User> = db.query("SELECT email, id, name FROM users WHERE name = $1").bind("Bob").fetch_all().await.unwrap();
        assert_eq!(rows[0].name, "Bob", "a row is read by its names, in whatever order");
        assert_eq!(db.query("UPDATE users SET email = $1").bind("x").execute().await.unwrap(), 3);
        assert!(db.query("SELECT id FROM users WHERE id = 0").fetch_optional::<(i64,)>().await.unwrap().is_none());
        assert!(db.query("SELECT id FROM users WHERE id = 0").fetch_one::<(i64,)>().await.unwrap_err().is_not_found());
    }

    async fn enums_newtypes_and_skipped_fields(db: Db) {
        #[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
        #[sqlx(transparent)]
        struct AccountId(i64);

        #[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
        #[repr(i32)]
        enum Plan { Free = 1, Paid = 2 }

        #[derive(Debug, Clone, PartialEq, Model)]
        struct Account {
            id: Option<AccountId>,
            plan: Plan,
            score: f64,
            picture: Option<Vec<u8>>,
            active: bool,
            #[model(skip)]
            cache: Vec<std::sync::Arc<str>>,
        }
        let [score, bytes] = match db.kind() {
            DatabaseKind::Sqlite => ["REAL", "BLOB"],
            DatabaseKind::Postgres => ["DOUBLE PRECISION", "BYTEA"],
        };
        let columns =
            format!("plan INTEGER NOT NULL, score {score} NOT NULL, picture {bytes}, active BOOLEAN NOT NULL");
        table(&db, "account", &columns).await;
        let mut account = Account {
            id: None,
            plan: Plan::Paid,
            score: 0.1 + 0.2,
            picture: Some(vec![0, 255, 0]),
            active: true,
            cache: vec!["x".into()],
        };
        account.save(&db).await.unwrap();
        let read = Account::get(&db, account.pk().unwrap()).await.unwrap();
        assert!(read.cache.is_empty());
        assert_eq!(Account { cache: account.cache.clone(), ..read }, account);
        account.plan = Plan::Free;
        account.picture = None;
        account.save(&db).await.unwrap();
        assert_eq!(Account::all(&db).await.unwrap()[0].picture, None);
    }

    async fn every_executor_saves(db: Db) {
        users(&db).await;
        async fn helper(db: impl Executor<User>, name: &str) -> Result<User> {
            let mut user = user(name);
            user.save(db).await?;
            Ok(user)
        }
        let mut conn = db.acquire().await.unwrap();
        helper(&mut conn, "conn").await.unwrap();
        user("again").save(&mut conn).await.unwrap();
        drop(conn);
        let mut tx = db.begin().await.unwrap();
        helper(&mut tx, "tx").await.unwrap();
        helper(&mut *tx, "as conn").await.unwrap();
        tx.commit().await.unwrap();
        let clone = db.clone();
        tokio::spawn(async move { helper(&clone, "db").await }).await.unwrap().unwrap();
        assert_eq!(count(&db, "users").await, 5);

        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            helper(pool, "pool").await.unwrap();
            let mut conn = pool.acquire().await.unwrap();
            helper(&mut conn, "pooled").await.unwrap();
            helper(&mut *conn, "raw").await.unwrap();
            drop(conn);
            let mut tx = pool.begin().await.unwrap();
            helper(&mut tx, "sqlx tx").await.unwrap();
            tx.commit().await.unwrap();
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            helper(pool, "pool").await.unwrap();
            let mut conn = pool.acquire().await.unwrap();
            helper(&mut conn, "pooled").await.unwrap();
            helper(&mut *conn, "raw").await.unwrap();
            drop(conn);
            let mut tx = pool.begin().await.unwrap();
            helper(&mut tx, "sqlx tx").await.unwrap();
            tx.commit().await.unwrap();
        }
        assert_eq!(count(&db, "users").await, 9);
    }

    async fn a_write_that_a_trigger_drops_is_an_error(db: Db) {
        table(&db, "swallowed", "n BIGINT NOT NULL").await;
        match db.kind() {
            DatabaseKind::Sqlite => {
                execute(&db, "CREATE TRIGGER swallow BEFORE INSERT ON swallowed BEGIN SELECT RAISE(IGNORE); END").await;
            }
            DatabaseKind::Postgres => {
                execute(
                    &db,
                    "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                     CREATE TRIGGER swallow BEFORE INSERT ON swallowed FOR EACH ROW EXECUTE FUNCTION swallow()",
                )
                .await;
            }
        }
        #[derive(Debug, Model)]
        struct Swallowed { id: Option<i64>, n: i64 }
        for id in [None, Some(1)] {
            let mut row = Swallowed { id, n: 1 };
            let error = row.save(&db).await.unwrap_err();
            assert!(matches!(error, Error::NotStored { model: "Swallowed" }), "{error:?}");
            assert_eq!(row.id, id);
        }
    }
}

#[cfg(feature = "json")]
on_every_database! {
    async fn a_json_field_is_stored_as_json(db: Db) {
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Settings { theme: String, sizes: Vec<u8> }
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Page { id: Option<i64>, #[model(json)] settings: Settings, #[model(json)] extra: Option<Settings> }
        let ty = if db.kind() == DatabaseKind::Sqlite { "TEXT" } else { "JSONB" };
        table(&db, "page", &format!("settings {ty} NOT NULL, extra {ty}")).await;
        let settings = Settings { theme: "da\"rk".to_owned(), sizes: vec![1, 2] };
        let mut page = Page { id: None, settings: settings.clone(), extra: Some(settings) };
        page.save(&db).await.unwrap();
        page.extra = None;
        page.save(&db).await.unwrap();
        assert_eq!(Page::all(&db).await.unwrap(), [page.clone()]);
        let rows: Vec<Page> = db.query("SELECT * FROM page").fetch_all().await.unwrap();
        assert_eq!(rows, [page]);
    }
}

#[cfg(feature = "uuid")]
on_every_database! {
    async fn a_uuid_is_a_key(db: Db) {
        use sqlx::types::Uuid;
        #[derive(Debug, Clone, PartialEq, Model)]
        struct Order { id: Uuid, total: i64 }
        let ty = if db.kind() == DatabaseKind::Sqlite { "BLOB" } else { "UUID" };
        execute(&db, &format!("CREATE TABLE \"order\" (id {ty} PRIMARY KEY, total BIGINT NOT NULL)")).await;
        let mut order = Order { id: Uuid::from_u128(7), total: 5 };
        assert!(order.save(&db).await.unwrap().created);
        assert!(!order.save(&db).await.unwrap().created);
        assert_eq!(Order::get(&db, order.id).await.unwrap(), order);
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn an_in_memory_pool_is_one_database() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    users(&db).await;
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let db = db.clone();
            tokio::spawn(async move { user(&n.to_string()).save(&db).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(count(&db, "users").await, 32);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_file_gets_wal_foreign_keys_and_a_busy_timeout() {
    let test = common::TestDb::sqlite("file_settings").await;
    let mut conn = test.db.acquire().await.unwrap();
    for (pragma, expected) in [("PRAGMA foreign_keys", 1), ("PRAGMA busy_timeout", 5000)] {
        let value: i64 =
            sqlx::query_scalar(pragma).fetch_one(conn.sqlite().unwrap()).await.unwrap();
        assert_eq!(value, expected, "{pragma}");
    }
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(conn.sqlite().unwrap()).await.unwrap();
    assert_eq!(mode, "wal");
    drop(conn);
    let missing = Db::connect("sqlite:/nowhere/at/all.db?mode=rw").await;
    assert!(missing.is_err());
    test.passed().await;
}

#[tokio::test]
async fn a_url_of_an_unknown_database_is_an_error() {
    let error = Db::connect("mysql://localhost/x").await.unwrap_err();
    assert!(error.to_string().contains("`mysql:` is not a database of this build"), "{error}");
}

#[cfg(feature = "postgres")]
mod only_postgres {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "tagged")]
    struct Tagged {
        id: Option<i64>,
        tags: Vec<String>,
    }

    #[tokio::test]
    async fn a_model_of_one_database_uses_its_sqlx_pool() {
        let test = common::TestDb::postgres("one_database").await;
        table(&test.db, "tagged", "tags TEXT[] NOT NULL").await;
        let pool = test.db.postgres().unwrap();
        let mut post = Tagged { id: None, tags: vec!["a".to_owned(), "b".to_owned()] };
        assert!(post.save(pool).await.unwrap().created);
        assert!(!post.save(pool).await.unwrap().created);
        let mut conn = pool.acquire().await.unwrap();
        post.refresh(&mut conn).await.unwrap();
        let any = Tagged::query("WHERE tags && $1")
            .bind(vec!["b".to_owned()])
            .fetch_all(pool)
            .await
            .unwrap();
        assert_eq!(any, [post]);
        drop(conn);
        test.passed().await;
    }

    #[tokio::test]
    async fn created_is_right_in_a_partitioned_table() {
        #[derive(Debug, Clone, Model)]
        struct Event {
            #[model(primary_key)]
            day: i32,
            #[model(primary_key)]
            n: i64,
            text: String,
        }
        let test = common::TestDb::postgres("partitioned").await;
        execute(
            &test.db,
            "CREATE TABLE event (day INT, n BIGINT, text TEXT NOT NULL, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
             CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10);
             CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (10) TO (20)",
        )
        .await;
        for day in [1, 11] {
            let mut event = Event { day, n: 1, text: "x".to_owned() };
            assert!(event.save(&test.db).await.unwrap().created);
            event.text = "y".to_owned();
            assert!(!event.save(&test.db).await.unwrap().created);
        }
        assert_eq!(count(&test.db, "event").await, 2);
        test.passed().await;
    }

    #[tokio::test]
    async fn a_table_in_a_schema() {
        #[derive(Debug, Model)]
        #[model(table = "my schema.users")]
        struct Scoped {
            id: Option<i64>,
            name: String,
        }
        let test = common::TestDb::postgres("schema").await;
        execute(&test.db, r#"CREATE SCHEMA "my schema"; CREATE TABLE "my schema".users (id BIGSERIAL PRIMARY KEY, name TEXT)"#).await;
        let mut row = Scoped { id: None, name: "x".to_owned() };
        assert!(row.save(&test.db).await.unwrap().created);
        assert_eq!(Scoped::get(&test.db, row.id.unwrap()).await.unwrap().name, "x");
        test.passed().await;
    }
}
