//! Updates and deletes by condition.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error};

use common::{Scene, count};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tasks")]
struct Task {
    id: Option<i64>,
    team: String,
    done: bool,
    points: i64,
}

/// Like `Task`, with receivers, and a version.
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
    async fn without_receivers_a_change_is_one_statement(db: Db) {
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

    async fn with_receivers_every_row_sends_its_signals(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        // Ordered by the previous value of the column, not by the new one.
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

    async fn a_veto_of_one_row_vetoes_all(db: Db) {
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

    async fn the_last_value_of_a_column_counts(db: Db) {
        let _turn = SCENE.begin().await;
        tables(&db).await;
        let twice = Task::query("WHERE id = $1").bind(1_i64).set(Task::TEAM, "a").set(Task::DONE, true);
        assert_eq!(twice.set(Task::TEAM, "b").update(&db).await.unwrap(), 1);
        assert_eq!(Task::get(&db, 1).await.unwrap().team, "b");
        let twice = Watched::query("WHERE id = $1").bind(1_i64).set(Watched::TEAM, "c").set(Watched::DONE, true);
        assert_eq!(twice.set(Watched::TEAM, "d").update(&db).await.unwrap(), 1);
        assert_eq!(Task::get(&db, 1).await.unwrap().team, "d");
    }

    async fn a_column_that_cannot_be_set_is_an_error(db: Db) {
        tables(&db).await;
        let error = Task::query("").set(Task::ID, 7_i64).update(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "the column `id` of `Task` cannot be set: it is part of the key, or the library or the database sets it");
        let error = Task::query("").update(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "an update of `Task` sets no column");
    }
}

/// Clauses that join other tables, which have columns of the same names.
mod joins {
    use super::*;

    /// Like `Task`, with receivers of saves and of deletes, which do nothing.
    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "tasks")]
    struct Heard {
        id: Option<i64>,
        team: String,
        done: bool,
        points: i64,
    }

    #[receiver(pre_save, sender = Heard)]
    fn before(_: PreSave<'_, Heard>) -> Result<(), &'static str> {
        Ok(())
    }

    #[receiver(pre_delete, sender = Heard)]
    fn before_delete(_: PreDelete<'_, Heard>) -> Result<(), &'static str> {
        Ok(())
    }

    /// Tasks 1 and 3 are red, and there are two red teams.
    async fn teams(db: &Db) {
        tables(db).await;
        common::table(
            db,
            "teams",
            "team TEXT NOT NULL, done BOOLEAN NOT NULL, points BIGINT NOT NULL",
        )
        .await;
        let insert = "INSERT INTO teams (team, done, points) VALUES ('red', true, 7), ('red', true, 8), ('green', true, 9)";
        common::execute(db, insert).await;
    }

    const JOINED: [&str; 4] = [
        "JOIN teams ON teams.team = tasks.team WHERE teams.points >= $1",
        "AS t INNER JOIN teams ON teams.team = t.team WHERE teams.points >= $1 ORDER BY t.id DESC",
        "t, teams WHERE teams.team = t.team AND teams.points >= $1 -- ORDER BY",
        "NATURAL LEFT JOIN teams AS other JOIN teams ON teams.team = tasks.team AND teams.points >= $1",
    ];

    macro_rules! assert_joined {
        ($db:expr, $($model:ident)*) => { $( for clause in JOINED {
            let query = || $model::query(sqlx_signals::sqlx::AssertSqlSafe(clause)).bind(7_i64);
            let mut found: Vec<_> = query().fetch_all($db).await.unwrap().into_iter().map(|t| t.id.unwrap()).collect();
            found.sort_unstable();
            assert_eq!(found, [1, 1, 3, 3], "{clause}");
            assert_eq!(query().count($db).await.unwrap(), 4, "{clause}");
            assert_eq!(query().fetch_optional($db).await.unwrap().unwrap().team, "red", "{clause}");
            assert_eq!(query().set($model::POINTS, 5_i64).update($db).await.unwrap(), 2, "{clause}");
            let mut tx = $db.begin().await.unwrap();
            assert_eq!(query().delete(&mut tx).await.unwrap(), 2, "{clause}");
            let left: Vec<_> = $model::all(&mut tx).await.unwrap().into_iter().map(|t| (t.id, t.points)).collect();
            assert_eq!(left, [(Some(2), 1)], "{clause}");
            tx.rollback().await.unwrap();
        } )* };
    }

    on_every_database! {
        async fn a_query_can_join_a_table_with_columns_of_the_same_names(db: Db) {
            teams(&db).await;
            assert_joined!(&db, Task Heard);
        }

        async fn a_query_of_groups_changes_the_rows_that_it_finds(db: Db) {
            teams(&db).await;
            let clause = "JOIN teams ON teams.team = tasks.team GROUP BY tasks.id HAVING count(*) = $1";
            assert_eq!(Task::query(clause).bind(2_i64).set(Task::POINTS, 6_i64).update(&db).await.unwrap(), 2);
            assert_eq!(Heard::query(clause).bind(2_i64).set(Heard::POINTS, 7_i64).update(&db).await.unwrap(), 2);
            let points: Vec<_> = Task::query("ORDER BY id").fetch_all(&db).await.unwrap().into_iter().map(|t| t.points).collect();
            assert_eq!(points, [7, 1, 7]);
        }
    }
}

/// A value is stored in the same form with and without receivers.
mod types {
    use super::*;

    macro_rules! twice {
        ($table:literal $plain:ident $heard:ident { $($field:ident: $ty:ty),* $(,)? }) => {
            #[derive(Debug, Clone, Model)]
            #[model(table = $table)]
            struct $plain { id: Option<i64>, $($field: $ty),* }

            #[derive(Debug, Clone, Model)]
            #[model(table = $table)]
            struct $heard { id: Option<i64>, $($field: $ty),* }

            const _: () = {
                #[receiver(pre_save, sender = $heard)]
                fn before(_: PreSave<'_, $heard>) -> Result<(), &'static str> {
                    Ok(())
                }
            };
        };
    }

    /// Sets a column of the only row with and without receivers, and compares what is stored.
    macro_rules! assert_same {
        ($db:expr, $plain:ident $heard:ident, $($column:ident $field:ident = $value:expr;)*) => { $( {
            let shown = concat!("SELECT CAST(", stringify!($field), " AS TEXT) FROM numbers");
            let before: (String,) = $db.query(shown).fetch_one().await.unwrap();
            assert_eq!($plain::query("WHERE id = 1").set($plain::$column, $value).update($db).await.unwrap(), 1);
            let plain: (String,) = $db.query(shown).fetch_one().await.unwrap();
            assert_ne!(before, plain, "the test has another value");
            let undo = format!("UPDATE numbers SET {} = '{}'", stringify!($field), before.0);
            common::execute($db, &undo).await;
            assert_eq!($heard::query("WHERE id = 1").set($heard::$column, $value).update($db).await.unwrap(), 1);
            let heard: (String,) = $db.query(shown).fetch_one().await.unwrap();
            assert_eq!(heard, plain, "{} = {}", stringify!($field), stringify!($value));
        } )* };
    }

    twice! { "numbers" Number HeardNumber { small: i16, whole: i32, big: i64, real: f64, single: f32, word: String, maybe: Option<f64> } }

    on_every_database! {
        async fn numbers_are_converted_to_the_type_of_the_column(db: Db) {
            let columns = "small SMALLINT NOT NULL, whole INTEGER NOT NULL, big BIGINT NOT NULL, real DOUBLE PRECISION NOT NULL, \
                           single REAL NOT NULL, word VARCHAR(9) NOT NULL, maybe DOUBLE PRECISION";
            common::table(&db, "numbers", columns).await;
            let mut number = Number { id: None, small: 1, whole: 1, big: 1, real: 1.0, single: 1.0, word: "a".to_owned(), maybe: Some(1.0) };
            number.save(&db).await.unwrap();
            assert_same! { &db, Number HeardNumber,
                SMALL small = 2_i32;
                SMALL small = 3_i64;
                WHOLE whole = 4_i64;
                WHOLE whole = 5_i16;
                BIG big = 6_i16;
                BIG big = 7_i32;
                REAL real = 8_i64;
                REAL real = 9_i32;
                REAL real = 9.5_f32;
                SINGLE single = 10_i32;
                SINGLE single = 10.5_f64;
                WORD word = "b";
                WORD word = Some("c");
                MAYBE maybe = 11_i32;
                MAYBE maybe = Some(12_i64);
            }
        }
    }

    /// Values of other types than the field's, which the field may store in another way than they are.
    #[cfg(all(feature = "chrono", feature = "time", feature = "json"))]
    mod foreign {
        use super::*;
        use std::pin::Pin;

        use serde::{Deserialize, Serialize};
        use sqlx_signals::sqlx;
        use sqlx_signals::sqlx::types::chrono::{
            DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Utc,
        };
        use sqlx_signals::sqlx::types::time::{Date, OffsetDateTime, PrimitiveDateTime, Time};
        use sqlx_signals::sqlx::types::{Json, Text};

        #[derive(Debug, Clone, PartialEq, sqlx::Type)]
        #[sqlx(type_name = "text", rename_all = "snake_case")]
        enum Color {
            Red,
        }

        #[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
        #[repr(i32)]
        enum Level {
            Low = 1,
            High = 2,
        }

        #[derive(Debug, Clone, Serialize, Deserialize)]
        struct Meta {
            color: String,
        }

        twice! { "numbers" Plain Heard {
            utc: DateTime<Utc>, fixed: DateTime<FixedOffset>, naive: NaiveDateTime, day: NaiveDate, clock: NaiveTime,
            offset: OffsetDateTime, primitive: PrimitiveDateTime, date: Date, hour: Time, maybe: Option<NaiveDateTime>,
            color: Color, level: Level, parsed: Text<u16>, small: i16, whole: i32, single: f32, real: f64, meta: Json<Meta>,
        } }

        async fn stored(db: &Db, column: &str) -> Option<String> {
            let sql = format!("SELECT CAST({column} AS TEXT) FROM numbers");
            let (stored,) = db.query(sqlx::AssertSqlSafe(sql)).fetch_one().await.unwrap();
            stored
        }

        fn utc() -> DateTime<Utc> {
            "2024-02-29T22:00:00.5Z".parse().unwrap()
        }

        fn fixed() -> DateTime<FixedOffset> {
            utc().with_timezone(&FixedOffset::east_opt(7200).unwrap())
        }

        fn offset() -> OffsetDateTime {
            OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
        }

        fn west() -> OffsetDateTime {
            offset().to_offset(sqlx::types::time::UtcOffset::from_hms(-5, 0, 0).unwrap())
        }

        fn primitive() -> PrimitiveDateTime {
            PrimitiveDateTime::new(offset().date(), offset().time())
        }

        /// Sets columns with and without receivers, and in a transaction: all of them store the same, or are errors and store
        /// nothing. Each case is a function of its own, so that its futures are not on the stack of the others.
        macro_rules! assert_alike {
            ($db:expr, $($column:ident $field:ident = $value:expr => $fits:literal;)*) => { $( {
                fn case(db: &Db) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
                    Box::pin(async move {
                        let field = stringify!($field);
                        let case = format!("{field} = {}", stringify!($value));
                        let undo = "DELETE FROM numbers; INSERT INTO numbers SELECT * FROM kept";
                        let before = stored(db, field).await;
                        let plain = Plain::query("WHERE id = $1").bind(1_i64).set(Plain::$column, $value).update(db).await;
                        assert_eq!(plain.is_ok(), $fits, "{case}: {plain:?}");
                        let after = stored(db, field).await;
                        assert_eq!(before != after, $fits, "{case}");
                        Plain::get(db, 1).await.unwrap_or_else(|error| panic!("{case}: {error:#}"));
                        common::execute(db, undo).await;
                        let heard = Heard::query("WHERE id = $1").bind(1_i64).set(Heard::$column, $value).update(db).await;
                        assert_eq!(heard.is_ok(), $fits, "{case}: {heard:?}");
                        assert_eq!(stored(db, field).await, after, "{case}");
                        common::execute(db, undo).await;
                        let mut tx = db.begin().await.unwrap();
                        let inside = Plain::query("").set(Plain::SMALL, 5_i16).set(Plain::$column, $value).update(&mut tx).await;
                        assert_eq!(inside.is_ok(), $fits, "{case}: {inside:?}");
                        assert_eq!(tx.commit().await.is_ok(), $fits, "{case}");
                        assert_eq!(stored(db, field).await, after, "{case}");
                        common::execute(db, undo).await;
                    })
                }
                case($db).await;
            } )* };
        }

        on_every_database! {
            async fn a_value_of_another_type_is_stored_as_the_field_stores_it(db: Db) {
                let columns = "utc TIMESTAMPTZ NOT NULL, fixed TIMESTAMPTZ NOT NULL, naive TIMESTAMP NOT NULL, day DATE NOT NULL, clock \
                               TIME NOT NULL, \"offset\" TIMESTAMPTZ NOT NULL, \"primitive\" TIMESTAMP NOT NULL, date DATE NOT NULL, hour \
                               TIME NOT NULL, maybe TIMESTAMP, color TEXT NOT NULL, level INTEGER NOT NULL, parsed TEXT NOT NULL, \
                               small SMALLINT NOT NULL, whole INTEGER NOT NULL, single REAL NOT NULL, real DOUBLE PRECISION NOT NULL, \
                               meta JSONB NOT NULL";
                let columns = match db.kind() {
                    // Without an affinity, so that nothing is converted by the column.
                    sqlx_signals::DatabaseKind::Sqlite => {
                        let columns = columns.replace("\"primitive\" TIMESTAMP", "\"primitive\"").replace("real DOUBLE PRECISION", "real");
                        columns.replace("TIMESTAMPTZ", "TEXT").replace("TIMESTAMP", "TEXT").replace("JSONB", "TEXT")
                    }
                    sqlx_signals::DatabaseKind::Postgres => columns.to_owned(),
                };
                common::table(&db, "numbers", &columns).await;
                let (start, epoch) = (DateTime::<Utc>::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH);
                let mut row = Plain {
                    id: None, utc: start, fixed: start.fixed_offset(), naive: start.naive_utc(), day: start.date_naive(), clock: start.time(),
                    offset: epoch, primitive: PrimitiveDateTime::new(epoch.date(), epoch.time()), date: epoch.date(), hour: epoch.time(),
                    maybe: None, color: Color::Red, level: Level::Low, parsed: Text(1), small: 1, whole: 1, single: 1.0, real: 1.0,
                    meta: Json(Meta { color: "red".to_owned() }),
                };
                row.save(&db).await.unwrap();
                db.execute("CREATE TABLE kept AS SELECT * FROM numbers").await.unwrap();

                assert_alike! { &db,
                    UTC utc = fixed() => true;
                    UTC utc = utc().naive_utc() => true;
                    UTC utc = offset() => true;
                    UTC utc = west() => true;
                    UTC utc = primitive() => true;
                    FIXED fixed = utc() => true;
                    FIXED fixed = utc().naive_utc() => true;
                    FIXED fixed = west() => true;
                    NAIVE naive = utc() => true;
                    NAIVE naive = &utc() => true;
                    NAIVE naive = fixed() => true;
                    NAIVE naive = Some(offset()) => true;
                    NAIVE naive = primitive() => true;
                    DAY day = offset().date() => true;
                    CLOCK clock = offset().time() => true;
                    MAYBE maybe = utc() => true;
                    MAYBE maybe = Some(west()) => true;
                    COLOR color = "none" => false;
                    LEVEL level = 2 => true;
                    LEVEL level = 2_i64 => true;
                    LEVEL level = 9 => false;
                    PARSED parsed = "7" => true;
                    PARSED parsed = "x" => false;
                    SMALL small = 7_i64 => true;
                    SMALL small = 70_000 => false;
                    SMALL small = i64::MAX => false;
                    WHOLE whole = i64::MIN => false;
                    SINGLE single = 10.1_f64 => true;
                    SINGLE single = 16_777_217 => true;
                    REAL real = 10.1_f32 => true;
                    REAL real = 7 => true;
                    META meta = serde_json::json!({ "color": "blue", "more": 1 }) => true;
                    META meta = Json(serde_json::json!({ "more": 1 })) => false;
                };
                assert_alike! { &db,
                    UTC utc = utc() => true;
                    LEVEL level = Level::High => true;
                    META meta = Json(Meta { color: "blue".to_owned() }) => true;
                    MAYBE maybe = utc().naive_utc() => true;
                };
            }
        }
    }

    #[cfg(all(feature = "postgres", feature = "rust_decimal"))]
    mod decimals {
        use super::*;
        use sqlx_signals::sqlx::types::Decimal;

        twice! { "numbers" Price HeardPrice { price: Decimal, rounded: Decimal } }

        #[tokio::test]
        async fn a_float_becomes_a_numeric() {
            let test = common::TestDb::postgres("float_to_numeric").await;
            common::table(
                &test.db,
                "numbers",
                "price NUMERIC NOT NULL, rounded NUMERIC(9, 2) NOT NULL",
            )
            .await;
            common::execute(&test.db, "INSERT INTO numbers (price, rounded) VALUES (1, 1)").await;
            let pool = &test.db;
            let db = pool.postgres().unwrap();
            macro_rules! set {
                ($model:ident $column:ident $value:expr) => {
                    $model::query("WHERE id = 1")
                        .set($model::$column, $value)
                        .update(db)
                        .await
                        .unwrap()
                };
            }
            for (plain, heard) in [(1.1_f64, 2.2_f64), (1e20, 1.5e-7)] {
                set!(Price PRICE plain);
                let (stored,): (String,) =
                    pool.query("SELECT price::text FROM numbers").fetch_one().await.unwrap();
                set!(Price PRICE heard);
                set!(HeardPrice PRICE plain);
                let same: (String,) =
                    pool.query("SELECT price::text FROM numbers").fetch_one().await.unwrap();
                assert_eq!(same.0, stored);
            }
            set!(HeardPrice PRICE 7_i32);
            set!(HeardPrice ROUNDED 1.239_f64);
            let rounded: (String,) =
                pool.query("SELECT rounded::text FROM numbers").fetch_one().await.unwrap();
            assert_eq!(rounded.0, "1.24");
            test.passed().await;
        }
    }

    #[cfg(all(feature = "postgres", feature = "chrono"))]
    mod times {
        use super::*;
        use sqlx_signals::sqlx::types::chrono::{DateTime, NaiveDateTime, Utc};

        twice! { "numbers" Appointment HeardAppointment { local: NaiveDateTime, day: sqlx_signals::sqlx::types::chrono::NaiveDate } }

        #[tokio::test]
        async fn a_time_with_a_zone_becomes_a_time_of_the_session() {
            let test = common::TestDb::postgres("timestamptz_to_timestamp").await;
            common::table(&test.db, "numbers", "local TIMESTAMP NOT NULL, day DATE NOT NULL").await;
            common::execute(&test.db, "INSERT INTO numbers (local, day) VALUES (now(), now())")
                .await;
            let mut conn = test.db.acquire().await.unwrap();
            conn.execute("SET TIME ZONE 'Asia/Tokyo'").await.unwrap();
            let at: DateTime<Utc> = "2024-02-29T22:00:00Z".parse().unwrap();
            for heard in [false, true] {
                conn.execute("UPDATE numbers SET local = now(), day = now()").await.unwrap();
                let done = match heard {
                    false => {
                        Appointment::query("").set(Appointment::LOCAL, at).update(&mut conn).await
                    }
                    true => {
                        HeardAppointment::query("")
                            .set(HeardAppointment::LOCAL, at)
                            .update(&mut conn)
                            .await
                    }
                };
                assert_eq!(done.unwrap(), 1);
                let row = Appointment::get(&mut conn, 1).await.unwrap();
                assert_eq!(row.local.to_string(), "2024-03-01 07:00:00", "{heard}");
            }
            test.passed().await;
        }
    }
}

/// A product, with receivers that see an update by condition.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "products")]
struct Stocked {
    id: Option<i64>,
    name: String,
    stock: i64,
    price: f64,
    #[model(version)]
    version: i32,
}

/// Like `Stocked`, without receivers.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "products")]
struct Product {
    id: Option<i64>,
    name: String,
    stock: i64,
    price: f64,
    #[model(version)]
    version: i32,
}

#[receiver(pre_save, sender = Stocked)]
fn never_negative(save: PreSave<'_, Stocked>) -> Result<(), &'static str> {
    if save.instance.stock < 0 { Err("out of stock") } else { Ok(()) }
}

#[receiver(post_save, sender = Stocked, updated, changed(stock))]
fn sold(saved: PostSave<'_, Stocked>, previous: Previous<'_, Stocked>) {
    let Stocked { stock, version, .. } = saved.instance;
    let was = previous.row().map(|row| row.stock);
    let changed = previous.changed(Stocked::NAME);
    SCENE.log.push(format!("{} {was:?} → {stock}, name {changed}, version {version}", saved.pk()));
}

async fn products(db: &Db) {
    let real = if db.kind() == DatabaseKind::Sqlite { "REAL" } else { "DOUBLE PRECISION" };
    let columns = format!(
        "name TEXT NOT NULL, stock BIGINT NOT NULL, price {real} NOT NULL, version INTEGER NOT NULL"
    );
    common::table(db, "products", &columns).await;
    let product = |name: &str, stock| Product {
        id: None,
        name: name.to_owned(),
        stock,
        price: 2.5,
        version: 1,
    };
    Product::insert_many(db, &mut [product("pen", 10), product("ink", 4)]).await.unwrap();
}

on_every_database! {
    async fn an_expression_is_computed_for_each_row(db: Db) {
        let _turn = SCENE.begin().await;
        products(&db).await;
        // The placeholders of an expression count its own values, wherever it is in the query.
        let sell = |name: &'static str, n: i64| {
            Product::query("WHERE name = $1 AND stock >= $2")
                .bind(name)
                .set_sql(Product::STOCK, "stock - $1", n)
                .bind(n)
                .set_sql(Product::PRICE, "price * $2 / $1 + 0 * length('$1')", (2_i64, 4_i64))
                .set_sql(Product::NAME, "name || '!'", ())
        };
        assert_eq!(sell("pen", 3).update(&db).await.unwrap(), 1);
        assert_eq!(sell("ink", 5).update(&db).await.unwrap(), 0);
        let all = Product::query("ORDER BY id").fetch_all(&db).await.unwrap();
        let all: Vec<_> = all.iter().map(|p| (&*p.name, p.stock, p.price, p.version)).collect();
        assert_eq!(all, [("pen!", 7, 5.0, 2), ("ink", 4, 2.5, 1)]);
        assert!(SCENE.log.take().is_empty());
    }

    async fn receivers_see_the_computed_value(db: Db) {
        let _turn = SCENE.begin().await;
        products(&db).await;
        let sell = |n: i64| Stocked::query("WHERE stock > $1").bind(0_i64).set_sql(Stocked::STOCK, "stock - $1", n);
        assert_eq!(sell(3).update(&db).await.unwrap(), 2);
        assert_eq!(
            SCENE.log.take(),
            ["1 Some(10) → 7, name false, version 2", "2 Some(4) → 1, name false, version 2"]
        );
        let error = sell(2).update(&db).await.unwrap_err();
        assert!(error.to_string().contains("out of stock"), "{error}");
        // An expression that changes nothing is no change.
        assert_eq!(sell(0).set_sql(Stocked::PRICE, "price / $1", 5_i64).update(&db).await.unwrap(), 2);
        assert!(SCENE.log.take().is_empty());
        let all = Product::query("ORDER BY id").fetch_all(&db).await.unwrap();
        let all: Vec<_> = all.iter().map(|p| (p.stock, p.price, p.version)).collect();
        assert_eq!(all, [(7, 0.5, 3), (1, 0.5, 3)]);
    }

    async fn the_value_of_an_expression_is_converted_to_the_type_of_the_column(db: Db) {
        let _turn = SCENE.begin().await;
        products(&db).await;
        for (expression, stock) in [("stock * 0.5", 5), ("stock * 3.0", 15), ("round(stock / 5)", 3)] {
            let sql = || sqlx_signals::sqlx::AssertSqlSafe(expression);
            let mut tx = db.begin().await.unwrap();
            let plain = Product::query("WHERE name = 'pen'").set_sql(Product::STOCK, sql(), ());
            assert_eq!(plain.update(&mut tx).await.unwrap(), 1, "{expression}");
            assert_eq!(Product::get(&mut tx, 1).await.unwrap().stock, stock, "{expression}");
            tx.rollback().await.unwrap();
            let heard = Stocked::query("WHERE name = 'pen'").set_sql(Stocked::STOCK, sql(), ());
            assert_eq!(heard.update(&db).await.unwrap(), 1, "{expression}");
            assert_eq!(Product::get(&db, 1).await.unwrap().stock, stock, "{expression}");
        }
        if db.kind() == DatabaseKind::Postgres {
            let text = || Product::query("").set_sql(Product::STOCK, "CAST(stock AS TEXT)", ());
            let plain = text().update(&db).await.unwrap_err();
            let text = || Stocked::query("").set_sql(Stocked::STOCK, "CAST(stock AS TEXT)", ());
            let heard = text().update(&db).await.unwrap_err();
            let code = |error: &Error| error.database_error().unwrap().code().unwrap().into_owned();
            assert_eq!((code(&plain), code(&heard)), ("42804".to_owned(), "42804".to_owned()));
        }
        SCENE.log.take();
    }

    async fn an_expression_refers_to_the_table_alone(db: Db) {
        let _turn = SCENE.begin().await;
        products(&db).await;
        let joined = "AS p JOIN products AS other ON other.id = p.id WHERE p.stock > $1";
        for clause in [joined, "WHERE stock > $1 ORDER BY stock DESC LIMIT 1", "p WHERE p.stock > $1"] {
            let plain = Product::query(clause).bind(4_i64).set_sql(Product::STOCK, "stock - 1", ());
            assert_eq!(plain.update(&db).await.unwrap(), 1, "{clause}");
            let heard = Stocked::query(clause).bind(4_i64).set_sql(Stocked::STOCK, "stock - 1", ());
            assert_eq!(heard.update(&db).await.unwrap(), 1, "{clause}");
        }
        assert_eq!(Product::query("WHERE name = 'pen'").fetch_one(&db).await.unwrap().stock, 4);
        assert_eq!(SCENE.log.take().len(), 3);
    }

    async fn an_expression_with_a_wrong_placeholder_or_column_is_an_error(db: Db) {
        products(&db).await;
        let error = Product::query("WHERE id = $1").bind(1_i64).set_sql(Product::STOCK, "stock - $2", 1).update(&db).await;
        assert_eq!(error.unwrap_err().to_string(), "the expression for `stock` uses $2, and has 1 values");
        let error = Product::query("").set_sql(Product::VERSION, "version + 1", ()).update(&db).await.unwrap_err();
        assert!(error.to_string().contains("cannot be set"), "{error}");
        let twice = Product::query("").set(Product::STOCK, 5_i64).set_sql(Product::STOCK, "stock + 1", ());
        assert_eq!(twice.update(&db).await.unwrap(), 2);
        let twice = Product::query("").set_sql(Product::STOCK, "stock + $1", 9_i64).set(Product::NAME, "x").set(Product::PRICE, 1.5);
        assert_eq!(twice.update(&db).await.unwrap(), 2);
        let all = Product::query("ORDER BY id").fetch_all(&db).await.unwrap();
        let all: Vec<_> = all.iter().map(|p| (&*p.name, p.stock, p.price)).collect();
        assert_eq!(all, [("x", 20, 1.5), ("x", 14, 1.5)]);
    }

    async fn concurrent_expressions_lose_no_change(db: Db) {
        let _turn = SCENE.begin().await;
        products(&db).await;
        let tasks: Vec<_> = (0..20).map(|n| {
            let db = db.clone();
            tokio::spawn(async move {
                let update = match n % 2 {
                    0 => Stocked::query("WHERE id = 1").set_sql(Stocked::STOCK, "stock + $1", 1_i64).update(&db).await,
                    _ => Product::query("WHERE id = 1").set_sql(Product::STOCK, "stock + $1", 1_i64).update(&db).await,
                };
                assert_eq!(update.unwrap(), 1);
            })
        }).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let pen = Product::get(&db, 1).await.unwrap();
        assert_eq!((pen.stock, pen.version), (30, 21));
        assert_eq!(SCENE.log.take().len(), 10);
    }
}
