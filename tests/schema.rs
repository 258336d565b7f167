//! Tables: created from their models, mended, and migrated.
#![allow(missing_docs)]

mod common;

use std::fmt::Debug;

use common::execute;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::types::chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use sqlx::types::{BigDecimal, Json, Uuid, ipnetwork::IpNetwork, time};
use sqlx::{AssertSqlSafe, SqlSafeStr};
use sqlx_signals::{DatabaseKind, Error, Portable, prelude::*, sqlx};

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Meters(f64);

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Size {
    width: u32,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "every Type")]
struct EveryType {
    id: Option<i64>,
    small: i16,
    int: i32,
    #[model(unique)]
    big: i64,
    single: f32,
    double: f64,
    flag: bool,
    text: String,
    bytes: Vec<u8>,
    meters: Meters,
    uuid: Uuid,
    at: DateTime<Utc>,
    day: NaiveDate,
    hour: NaiveTime,
    local: NaiveDateTime,
    other_at: time::OffsetDateTime,
    other_day: time::Date,
    other_hour: time::Time,
    other_local: time::PrimitiveDateTime,
    #[model(json)]
    size: Size,
    json: Json<Size>,
    #[model(column = "a \"quoted\" name")]
    maybe: Option<String>,
    maybe_int: Option<i32>,
    #[model(json)]
    maybe_size: Option<Size>,
    #[model(auto_now_add)]
    created_at: DateTime<Utc>,
    #[model(auto_now)]
    changed_at: Option<DateTime<Utc>>,
    #[model(generated)]
    computed: i64,
    #[model(generated)]
    described: String,
    #[model(version)]
    version: i32,
}

fn every_type() -> EveryType {
    let day = NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
    let hour = NaiveTime::from_hms_opt(12, 30, 1).unwrap();
    let at = day.and_time(hour).and_utc();
    let other_at = time::OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    EveryType {
        id: None,
        small: -1,
        int: 2,
        big: i64::MAX,
        single: 1.5,
        double: -0.25,
        flag: true,
        text: "it's".to_owned(),
        bytes: vec![0, 255],
        meters: Meters(2.5),
        uuid: Uuid::from_u128(7),
        at,
        day,
        hour,
        local: at.naive_utc(),
        other_at,
        other_day: other_at.date(),
        other_hour: other_at.time(),
        other_local: time::PrimitiveDateTime::new(other_at.date(), other_at.time()),
        size: Size { width: 1 },
        json: Json(Size { width: 2 }),
        maybe: None,
        maybe_int: Some(3),
        maybe_size: None,
        created_at: at,
        changed_at: None,
        computed: 0,
        described: String::new(),
        version: 1,
    }
}

/// Types that only PostgreSQL stores.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "only_postgres")]
struct OnlyPostgres {
    id: Option<i32>,
    tags: Vec<String>,
    numbers: Vec<i64>,
    price: sqlx::types::Decimal,
    weight: Option<BigDecimal>,
    address: IpNetwork,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "countries")]
struct Country {
    #[model(primary_key)]
    code: String,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "cities")]
struct City {
    id: Option<Uuid>,
    #[model(belongs_to = Country, on_delete = restrict)]
    country: String,
    #[model(belongs_to = City, on_delete = set_null)]
    twin: Option<Uuid>,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "streets")]
struct Street {
    #[model(primary_key, belongs_to = City, on_delete = cascade)]
    city: Uuid,
    #[model(primary_key)]
    number: i64,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tokens")]
struct Token {
    #[model(primary_key)]
    token: Option<String>,
    n: i32,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "members")]
struct Member {
    id: Option<i64>,
    name: String,
    points: i64,
    #[model(unique)]
    email: String,
    nickname: Option<String>,
    joined: NaiveDateTime,
}

async fn create<M: Model + Portable>(db: &Db) {
    execute(db, &M::create_table_sql(db.kind())).await;
    M::check_table(db).await.unwrap();
}

async fn round_trip<M: Model + Portable + PartialEq + Debug>(db: &Db, mut row: M) -> M {
    assert!(row.save(db).await.unwrap().created);
    let key = row.pk().unwrap();
    assert_eq!(M::get(db, &key).await.unwrap(), row);
    assert!(!row.save(db).await.unwrap().created);
    assert_eq!(M::get(db, &key).await.unwrap(), row);
    row
}

/// The SQL with which a finding ends.
fn sql_of(finding: &str) -> Option<&str> {
    finding.split_once("; to mend it: ").map(|(_, sql)| sql)
}

/// Runs the SQL of all findings, and returns the findings without it.
async fn mend<M: Model + Portable>(db: &Db) -> Vec<String> {
    let error = M::check_table(db).await.unwrap_err();
    let Error::Check { findings } = error else { panic!("{error}") };
    assert!(findings.iter().any(|finding| sql_of(finding).is_some()), "{findings:?}");
    for finding in &findings {
        let mends = finding.ends_with("; the SQL of the first finding of this table mends it");
        let sql = sql_of(finding);
        assert!(mends || sql.is_some(), "{finding}");
        execute(db, sql.unwrap_or_default()).await;
    }
    M::check_table(db).await.unwrap();
    let text = |finding: &String| finding.split("; t").next().unwrap_or_default().to_owned();
    findings.iter().map(text).collect()
}

fn member() -> Member {
    let joined = NaiveDate::from_ymd_opt(2024, 1, 1).unwrap().and_hms_opt(1, 2, 3).unwrap();
    Member {
        id: None,
        name: "Ann".to_owned(),
        points: 1,
        email: "a".to_owned(),
        nickname: None,
        joined,
    }
}

on_every_database! {
    async fn a_table_of_every_type_is_created_from_its_model(db: Db) {
        create::<EveryType>(&db).await;
        let stored = round_trip(&db, every_type()).await;
        assert_eq!(stored.version, 2);
        let maybe = EveryType { maybe: Some("x".to_owned()), maybe_size: Some(Size { width: 3 }), big: 1, ..every_type() };
        round_trip(&db, maybe).await;
        let same = EveryType { big: 1, ..every_type() }.save(&db).await.unwrap_err();
        assert!(same.is_unique_violation(), "{same}");
    }

    async fn keys_and_references_are_created(db: Db) {
        create::<Country>(&db).await;
        create::<City>(&db).await;
        create::<Street>(&db).await;
        create::<Token>(&db).await;
        round_trip(&db, Country { code: "PE".to_owned() }).await;
        let lima = round_trip(&db, City { id: None, country: "PE".to_owned(), twin: None }).await;
        let city = round_trip(&db, City { id: None, country: "PE".to_owned(), twin: lima.id }).await;
        round_trip(&db, Street { city: city.id.unwrap(), number: 7 }).await;
        assert_eq!(round_trip(&db, Token { token: None, n: 1 }).await.n, 1);
        let error = City { id: None, country: "XX".to_owned(), twin: None }.save(&db).await.unwrap_err();
        assert!(error.is_foreign_key_violation(), "{error}");
        let error = Street { city: Uuid::nil(), number: 7 }.save(&db).await.unwrap_err();
        assert!(error.is_foreign_key_violation(), "{error}");
    }

    async fn the_sql_of_a_missing_table_creates_it(db: Db) {
        let said = mend::<Member>(&db).await;
        assert_eq!(said, ["`Member` (table `members`): there is no such table"]);
        round_trip(&db, member()).await;
    }

    async fn the_sql_of_each_finding_mends_the_table_and_keeps_its_rows(db: Db) {
        let (id, time) = match db.kind() {
            DatabaseKind::Sqlite => ("id INTEGER PRIMARY KEY", "DATETIME"),
            DatabaseKind::Postgres => ("id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", "TIMESTAMP"),
        };
        let joined = format!("joined {time} NOT NULL");
        let good = [id, "name TEXT NOT NULL", "points BIGINT NOT NULL", "email TEXT NOT NULL UNIQUE", "nickname TEXT", &*joined];
        for (place, column, findings) in [
            (0, "id BIGINT NOT NULL", 2),
            (0, "other BIGINT", 2),
            (1, "name TEXT", 1),
            (1, "unused TEXT", 1),
            (2, "points TEXT NOT NULL", 1),
            (2, "points BIGINT NOT NULL, town TEXT NOT NULL", 1),
            (3, "email TEXT NOT NULL", 1),
            (3, "unused TEXT", 2),
            (4, "unused TEXT", 1),
            (5, "unused TEXT", 1),
            (5, "joined BOOLEAN", 1),
        ] {
            if place == 5 && column.contains("BOOLEAN") && db.kind() == DatabaseKind::Postgres {
                continue; // PostgreSQL cannot convert it, and says so.
            }
            execute(&db, "DROP TABLE IF EXISTS members").await;
            let mut columns = good;
            columns[place] = column;
            execute(&db, &format!("CREATE TABLE members ({})", columns.join(", "))).await;
            let names: Vec<_> = columns.iter().flat_map(|c| c.split(", ")).map(|c| c.split(' ').next().unwrap()).collect();
            let value = |name: &&str| match *name {
                "id" | "other" => "5",
                "points" => "'12'",
                "email" => "'e'",
                "joined" => "'2024-01-01 01:02:03'",
                "nickname" | "unused" => "NULL",
                _ => "'n'",
            };
            let values: Vec<_> = names.iter().map(value).collect();
            execute(&db, &format!("INSERT INTO members ({}) VALUES ({})", names.join(", "), values.join(", "))).await;
            println!("a table with `{column}`");
            let said = mend::<Member>(&db).await;
            assert_eq!(said.len(), findings, "{column}: {said:?}");
            let stored = Member::query("").fetch_one(&db).await;
            if place != 5 {
                let stored = stored.unwrap();
                assert_eq!(stored.points, if names.contains(&"points") { 12 } else { 0 }, "{column}");
                assert_eq!(stored.name, if names.contains(&"name") { "n" } else { "" }, "{column}");
                assert_eq!(stored.id == Some(5), names.contains(&"id"), "{column}");
            }
            let added = member().save(&db).await.unwrap();
            assert_ne!(added.pk, 5, "{column}");
        }
    }

    async fn a_table_with_every_mistake_is_mended_at_once(db: Db) {
        execute(&db, "CREATE TABLE members (id BIGINT NOT NULL, name TEXT, points TEXT NOT NULL, email TEXT, town TEXT NOT NULL)").await;
        execute(&db, "INSERT INTO members VALUES (7, 'Ann', '3', 'a', 'Ulm')").await;
        assert_eq!(mend::<Member>(&db).await.len(), 9);
        let ann = Member::query("").fetch_one(&db).await.unwrap();
        assert_eq!((ann.id, &*ann.name, ann.points), (Some(7), "Ann", 3));
        let town: (Option<String>,) = db.query("SELECT town FROM members").fetch_one().await.unwrap();
        assert_eq!(town.0.as_deref(), Some("Ulm"));
        let saved = Member { email: "b".to_owned(), ..member() }.save(&db).await.unwrap();
        assert_eq!(saved.pk, 8);
    }

    async fn a_composite_key_gets_its_index(db: Db) {
        create::<Country>(&db).await;
        create::<City>(&db).await;
        let uuid = if db.kind() == DatabaseKind::Sqlite { "BLOB" } else { "UUID" };
        execute(&db, &format!("CREATE TABLE streets (city {uuid} NOT NULL, number BIGINT NOT NULL)")).await;
        assert_eq!(mend::<Street>(&db).await.len(), 1);
    }

    async fn programs_that_start_together_run_each_migration_once(db: Db) {
        let create = Member::create_table_sql(db.kind());
        let add = "UPDATE members SET points = points + 1";
        for round in 0..10 {
            let all = vec![
                migration(1, "members", &create),
                migration(2, "ann", "INSERT INTO members (email, name, points, joined) VALUES ('a', 'Ann', 1, '2026-01-01 00:00:00')"),
                migration(3, "one", add),
                migration(4, "two", add),
            ];
            let migrator = std::sync::Arc::new(Migrator::with_migrations(all));
            let mut programs = Vec::new();
            for _ in 0..4 {
                programs.push(common::another(&db, Db::options()).await);
            }
            let tasks = programs.into_iter().map(|program| {
                let migrator = migrator.clone();
                tokio::spawn(async move {
                    let done = program.migrate(&migrator).await;
                    program.close().await;
                    done
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap().unwrap_or_else(|error| panic!("{round}: {error}"));
            }
            let points: Vec<(i64,)> = db.query("SELECT points FROM members").fetch_all().await.unwrap();
            assert_eq!(points, [(3,)]);
            db.execute("DROP TABLE members; DROP TABLE _sqlx_migrations").await.unwrap();
        }
    }

    async fn migrations_run_once(db: Db) {
        let mut all = vec![migration(1, "members", &Member::create_table_sql(db.kind()))];
        db.migrate(&Migrator::with_migrations(all.clone())).await.unwrap();
        Member::check_table(&db).await.unwrap();
        member().save(&db).await.unwrap();
        all.push(migration(2, "points", "UPDATE members SET points = points + 1"));
        let migrator = Migrator::with_migrations(all);
        let own = db.clone();
        tokio::spawn(async move {
            own.migrate(&migrator).await.unwrap();
            own.migrate(&migrator).await.unwrap();
        })
        .await
        .unwrap();
        assert_eq!(Member::query("").fetch_one(&db).await.unwrap().points, 2);
    }

    async fn a_migration_that_fails_says_what_to_do(db: Db) {
        let create = migration(1, "members", &Member::create_table_sql(db.kind()));
        let broken = migration(2, "add town", "ALTER TABLE members ADD COLUMN town TEXT; SELECT nonsense FROM members");
        let migrator = Migrator::with_migrations(vec![create.clone(), broken.clone()]);
        let name = if db.kind() == DatabaseKind::Sqlite { "SQLite" } else { "PostgreSQL" };
        for _ in 0..2 {
            let error = db.migrate(&migrator).await.unwrap_err();
            let said = error.to_string();
            let start = format!("migration 2 (add town) failed on {name}, and nothing of it is stored: correct its SQL and migrate again: ");
            assert!(said.starts_with(&start) && said.contains("nonsense"), "{said}");
            assert!(error.find::<sqlx::migrate::MigrateError>().is_some());
        }
        Member::check_table(&db).await.unwrap();
        db.query("SELECT town FROM members").fetch_all::<(String,)>().await.unwrap_err();
        // The database is as before the failure, and other programs are not locked out.
        let mended = migration(2, "add town", "ALTER TABLE members ADD COLUMN town TEXT");
        let other = common::one_connection(&db).await;
        other.migrate(&Migrator::with_migrations(vec![create.clone(), mended.clone()])).await.unwrap();

        let changed = Migrator::with_migrations(vec![create.clone(), migration(2, "add town", "SELECT 1")]);
        let said = db.migrate(&changed).await.unwrap_err().to_string();
        let start = "migration 2 (add town) was changed after it was applied to this database: restore its file";
        assert!(said.starts_with(start), "{said}");
        let said = db.migrate(&Migrator::with_migrations(vec![create])).await.unwrap_err().to_string();
        let start = "migration 2 was applied to this database, and this program does not contain it: restore its file";
        assert!(said.starts_with(start), "{said}");
        db.close().await;
        assert!(db.migrate(&changed).await.is_err());
    }
}

fn migration(version: i64, description: &'static str, sql: &str) -> Migration {
    let no_tx = sql.starts_with("-- no-transaction");
    let sql = AssertSqlSafe(sql).into_sql_str();
    Migration::new(version, description.into(), MigrationType::Simple, sql, no_tx)
}

/// The SQL is stored although its version could not be noted.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_migration_without_a_transaction_whose_version_is_not_noted_runs_once() {
    let test = common::TestDb::sqlite("not_noted").await;
    let create = migration(1, "notes", "CREATE TABLE notes (text TEXT)");
    test.db.migrate(&Migrator::with_migrations(vec![create.clone()])).await.unwrap();
    execute(
        &test.db,
        "CREATE TRIGGER full BEFORE INSERT ON _sqlx_migrations BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    )
    .await;
    let insert = migration(2, "one", "-- no-transaction\nINSERT INTO notes VALUES ('one')");
    let migrator = Migrator::with_migrations(vec![create, insert]);
    let error = test.db.migrate(&migrator).await.unwrap_err().to_string();
    assert!(error.contains("the disk is full"), "{error}");
    assert_eq!(common::count(&test.db, "notes").await, 1);
}

/// Another program has the lock all the time.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_locked_file_is_awaited_once_for_all_migrations() {
    let test = common::TestDb::sqlite("locked_migrations").await;
    let options = Db::options().pragma("busy_timeout", "200");
    let db = common::another(&test.db, options).await;
    let lock = common::another(&test.db, Db::options()).await;
    let mut lock = lock.acquire().await.unwrap();
    let lock = lock.sqlite().unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *lock).await.unwrap();
    let all = (1..=20).map(|version| migration(version, "one", "SELECT 1")).collect();
    let start = std::time::Instant::now();
    db.migrate(&Migrator::with_migrations(all)).await.unwrap_err();
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
    sqlx::raw_sql("ROLLBACK").execute(lock).await.unwrap();
}

#[tokio::test]
async fn a_table_of_sqlite_that_is_created_again_keeps_what_refers_to_it() {
    let test = common::TestDb::sqlite("created_again").await;
    let db = test.db.clone();
    execute(
        &db,
        "CREATE TABLE members (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, points BIGINT NOT NULL DEFAULT 7, email TEXT NOT \
         NULL UNIQUE COLLATE NOCASE, nickname TEXT, joined DATETIME NOT NULL, price NUMERIC NOT NULL DEFAULT (1 + 1), sponsor BIGINT \
         REFERENCES members ON DELETE SET NULL, note TEXT NOT NULL DEFAULT \"\", half INT AS (points / 2) STORED, UNIQUE (name, price));
         CREATE INDEX by_nickname ON members (nickname) -- of some
         ;
         CREATE TRIGGER log AFTER DELETE ON members BEGIN INSERT INTO logs VALUES (old.id); END;
         CREATE TABLE logs (id BIGINT);
         CREATE VIEW named AS SELECT name FROM members;
         CREATE TABLE posts (author BIGINT NOT NULL REFERENCES members ON DELETE CASCADE);
         INSERT INTO members (name, email, joined, sponsor) VALUES ('Ann', 'a', '2024-01-01 01:02:03', 1), (NULL, 'b', '2024-01-01 01:02:03', 1);
         INSERT INTO posts VALUES (1), (2), (2)",
    )
    .await;
    let error = Member::check_table(&db).await.unwrap_err();
    let Error::Check { findings } = error else { panic!("{error}") };
    let (text, sql) = findings[0].split_once("; to mend it: ").unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        text.ends_with(
            "(the SQL does not keep the COLLATE, AUTOINCREMENT, GENERATED of the table: add it)"
        ),
        "{text}"
    );
    let posts = async || {
        let sql = "SELECT count(*) FROM posts JOIN members ON members.id = author";
        let (posts,): (i64,) = db.query(sql).fetch_one().await.unwrap();
        posts
    };

    // In a transaction, it changes nothing. A failure leaves the settings of the connection as they were.
    let (_, in_transaction) = sql.split_once('\n').unwrap();
    let broken = format!("{sql}; SELECT nonsense FROM members")
        .replace("COMMIT", "SELECT nonsense FROM members");
    for sql in [in_transaction, &*broken] {
        let migrator = Migrator::with_migrations(vec![migration(1, "again", sql)]);
        db.migrate(&migrator).await.unwrap_err();
        assert_eq!(posts().await, 3);
        Member::check_table(&db).await.unwrap_err();
        for pragma in [("foreign_keys", 1), ("legacy_alter_table", 0)] {
            let (name, expected) = pragma;
            let sql = AssertSqlSafe(format!("PRAGMA {name}"));
            let (set,): (i64,) = db.query(sql).fetch_one().await.unwrap();
            assert_eq!(set, expected, "{name}");
        }
    }
    db.migrate(&Migrator::with_migrations(vec![migration(1, "again", sql)])).await.unwrap();
    Member::check_table(&db).await.unwrap();
    assert_eq!(posts().await, 3);
    execute(
        &db,
        "INSERT INTO members (name, email, joined) VALUES ('Bob', 'c', '2024-01-01 01:02:03')",
    )
    .await;
    let same =
        "INSERT INTO members (name, email, joined) VALUES ('Bob', 'd', '2024-01-01 01:02:03')";
    assert!(db.execute(same).await.unwrap_err().is_unique_violation());
    let sql = "SELECT points, price, sponsor, note FROM members ORDER BY id";
    let rows: Vec<(i64, i64, Option<i64>, String)> = db.query(sql).fetch_all().await.unwrap();
    let row = |sponsor| (7, 2, sponsor, String::new());
    assert_eq!(rows, [row(Some(1)), row(Some(1)), row(None)]);
    execute(&db, "DELETE FROM members WHERE id = 1").await;
    assert_eq!(posts().await, 2);
    let sql = "SELECT count(*) FROM logs, members WHERE sponsor IS NULL";
    assert_eq!(db.query(sql).fetch_one::<(i64,)>().await.unwrap(), (2,));
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('by_nickname', 'log', 'named')";
    assert_eq!(db.query(sql).fetch_one::<(i64,)>().await.unwrap(), (3,));
    db.close().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_of_postgres_alone_are_created_and_missing_in_sqlite() {
    let test = common::TestDb::postgres("types_of_postgres_alone").await;
    let pool = test.db.postgres().unwrap();
    execute(&test.db, &OnlyPostgres::create_table_sql(DatabaseKind::Postgres)).await;
    OnlyPostgres::check_table(pool).await.unwrap();
    let mut row = OnlyPostgres {
        id: None,
        tags: vec!["a".to_owned()],
        numbers: Vec::new(),
        price: "12.50".parse().unwrap(),
        weight: Some("0.125".parse().unwrap()),
        address: "10.0.0.1/8".parse().unwrap(),
    };
    let saved = row.save(pool).await.unwrap();
    assert_eq!(OnlyPostgres::get(pool, saved.pk).await.unwrap(), row);
    let sqlite = OnlyPostgres::create_table_sql(DatabaseKind::Sqlite);
    assert!(sqlite.contains(r#""tags" /* this database has no type for the field */"#), "{sqlite}");
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_migration_leaves_no_lock_on_its_connection() {
    let test = common::TestDb::postgres("a_dropped_migration_leaves_no_lock").await;
    let one = Migrator::with_migrations(vec![migration(1, "one", "SELECT pg_sleep(0.1)")]);
    for pending in 1..=30 {
        // The future is dropped at each place in turn.
        let _ = common::cancelled_after(test.db.migrate(&one), pending).await;
        let other = Db::connect(&test.url).await.unwrap();
        let migrated =
            tokio::time::timeout(std::time::Duration::from_secs(10), other.migrate(&one));
        migrated.await.unwrap_or_else(|_| panic!("waits for a lock: {pending}")).unwrap();
        execute(&test.db, "DELETE FROM _sqlx_migrations").await;
        other.close().await;
    }
    test.passed().await;
}

/// A row that is stored in more detail than its fields have.
#[derive(Debug, Clone, Model)]
#[model(table = "readings")]
struct Reading {
    id: Option<i64>,
    day: NaiveDate,
    ratio: f64,
    count: i64,
    single: f32,
    local: NaiveDateTime,
    at: DateTime<Utc>,
    text: String,
    flag: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sql_of_a_wrong_type_in_postgres_loses_nothing() {
    let test = common::TestDb::postgres("the_sql_of_a_wrong_type_loses_nothing").await;
    let db = common::one_connection(&test.db).await;
    let good = [
        "id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        "day DATE NOT NULL",
        "ratio DOUBLE PRECISION NOT NULL",
        "count BIGINT NOT NULL",
        "single REAL NOT NULL",
        "local TIMESTAMP NOT NULL",
        "at TIMESTAMPTZ NOT NULL",
        "text TEXT NOT NULL",
        "flag BOOLEAN NOT NULL",
    ];
    let time = "'2024-05-06 23:30:00'";
    for (place, ty, value, expected) in [
        (1, "TIMESTAMP", time, None),
        (1, "TIMESTAMPTZ", time, None),
        (1, "TEXT", time, None),
        (2, "NUMERIC", "0.12345678901234567890123", None),
        (2, "BIGINT", "9007199254740993", None),
        (2, "INTEGER", "7", Some("7")),
        (3, "DOUBLE PRECISION", "1.5", None),
        (3, "NUMERIC", "1.5", None),
        (3, "TEXT", "'12'", Some("12")),
        (3, "BOOLEAN", "true", None),
        (4, "DOUBLE PRECISION", "0.1", None),
        (4, "INTEGER", "16777217", None),
        (4, "SMALLINT", "7", Some("7")),
        (5, "TIMESTAMPTZ", "'2024-05-06 23:30:00+00'", Some("2024-05-06 23:30:00")),
        (5, "DATE", "'2024-05-06'", Some("2024-05-06 00:00:00")),
        (6, "TIMESTAMP", time, Some("2024-05-06 23:30:00+00")),
        (7, "BIGINT", "12", Some("12")),
        (8, "INTEGER", "5", None),
        (8, "TEXT", "'true'", Some("true")),
    ] {
        let name = good[place].split(' ').next().unwrap();
        // The SQL does not depend on the time zone of the session.
        execute(&db, "SET timezone = 'Asia/Tokyo'").await;
        let of = format!("{name} over {ty}");
        let mut columns = good.map(str::to_owned);
        columns[place] = format!("{name} {ty}  NOT NULL");
        execute(
            &db,
            &format!(
                "DROP TABLE IF EXISTS readings; CREATE TABLE readings ({})",
                columns.join(", ")
            ),
        )
        .await;
        let values = ["1", "now()", "0", "0", "0", "now()", "now()", "'x'", "true"];
        let mut values = values.map(str::to_owned);
        values[place] = value.to_owned();
        execute(&db, &format!("INSERT INTO readings VALUES ({})", values.join(", "))).await;
        let error = Reading::check_table(&db).await.expect_err(&of);
        let Error::Check { findings } = error else { panic!("{error}") };
        assert_eq!(findings.len(), 1, "{of}: {findings:?}");
        assert_eq!(sql_of(&findings[0]).is_some(), expected.is_some(), "{findings:?}");
        let Some(expected) = expected else {
            let advice = "; change the type of the field: a conversion of the column can lose a part of its values";
            assert!(findings[0].ends_with(advice), "{findings:?}");
            continue;
        };
        execute(&db, sql_of(&findings[0]).unwrap()).await;
        Reading::check_table(&db).await.expect(&of);
        let sql = AssertSqlSafe(format!("SELECT {name}::text FROM readings"));
        execute(&db, "SET timezone = 'UTC'").await;
        assert_eq!(db.query(sql).fetch_one::<(String,)>().await.unwrap().0, expected, "{of}");
    }
    test.passed().await;
}

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Deleted(Option<NaiveDateTime>);

/// A row whose field can be NULL although it is not written as `Option`.
#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    #[model(primary_key)]
    id: String,
    text: String,
    title: Option<String>,
    deleted_at: Deleted,
    points: i64,
}

#[tokio::test]
async fn a_table_of_sqlite_that_is_created_again_keeps_null_and_not_null() {
    let test = common::TestDb::sqlite("keeps_null_and_not_null").await;
    let db = test.db.clone();
    execute(
        &db,
        "CREATE TABLE notes (id TEXT NOT NULL PRIMARY KEY, text TEXT, title TEXT NOT NULL, deleted_at DATETIME, points TEXT NOT NULL)          WITHOUT ROWID; INSERT INTO notes VALUES ('a', NULL, 't', NULL, '7')",
    )
    .await;
    let error = Note::check_table(&db).await.unwrap_err();
    let Error::Check { findings } = error else { panic!("{error}") };
    let of = "`Note` (table `notes`): the column";
    let (text, sql) = findings[0].split_once("; to mend it: ").unwrap();
    assert_eq!(
        text,
        format!(
            "{of} `text` can be NULL, and the field is no `Option` (the SQL replaces NULL by '') (the SQL does not keep the WITHOUT \
             ROWID of the table: add it)"
        )
    );
    assert_eq!(findings.len(), 2, "{findings:?}");
    execute(&db, sql).await;
    Note::check_table(&db).await.unwrap();
    let note = Note::get(&db, "a").await.unwrap();
    assert_eq!((&*note.text, note.deleted_at, note.points), ("", Deleted(None), 7));
    let sql = "SELECT group_concat(name) FROM pragma_table_info('notes') WHERE \"notnull\"";
    assert_eq!(db.query(sql).fetch_one::<(String,)>().await.unwrap().0, "id,text,title,points");
    db.close().await;
    test.passed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn constraints_and_indexes_of_postgres_are_mended() {
    let test = common::TestDb::postgres("constraints_and_indexes_are_mended").await;
    let db = test.db.clone();
    create::<Member>(&db).await;
    execute(
        &db,
        "ALTER TABLE members DROP CONSTRAINT members_email_key, ADD CONSTRAINT \"An Email\" UNIQUE (email) DEFERRABLE",
    )
    .await;
    assert_eq!(mend::<Member>(&db).await.len(), 1);
    // An index that could not be built.
    execute(&db, "ALTER TABLE members DROP CONSTRAINT members_email_key").await;
    for _ in 0..2 {
        member().insert(&db).await.unwrap();
    }
    db.execute("CREATE UNIQUE INDEX CONCURRENTLY \"An Index\" ON members (email)")
        .await
        .unwrap_err();
    execute(&db, "DELETE FROM members WHERE id = 2").await;
    assert_eq!(mend::<Member>(&db).await.len(), 1);
    test.passed().await;
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "other.owners")]
struct Owner {
    id: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "Other.Pets")]
struct Pet {
    id: Option<i64>,
    #[model(belongs_to = Owner, on_delete = cascade)]
    owner: i64,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "stays")]
struct Stay {
    id: Option<i64>,
    #[model(belongs_to = Owner, on_delete = cascade)]
    owner: i64,
}

/// A foreign key of SQLite does not name the database of its table.
#[tokio::test]
async fn a_table_of_an_attached_database_refers_to_its_parent() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    execute(&db, "ATTACH ':memory:' AS other").await;
    for sql in [Owner::create_table_sql, Pet::create_table_sql, Stay::create_table_sql] {
        execute(&db, &sql(DatabaseKind::Sqlite)).await;
    }
    Pet::check_table(&db).await.unwrap();
    Stay::check_table(&db).await.unwrap();
    Pet { id: None, owner: 1 }.save(&db).await.unwrap_err();
    Owner { id: None }.save(&db).await.unwrap();
    Pet { id: None, owner: 1 }.save(&db).await.unwrap();
    Stay { id: None, owner: 2 }.save(&db).await.unwrap();
    let postgres = Stay::create_table_sql(DatabaseKind::Postgres);
    assert!(postgres.contains(r#"REFERENCES "other"."owners" ("id")"#), "{postgres}");
}
