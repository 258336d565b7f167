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

    async fn what_cannot_be_set_is_said(db: Db) {
        tables(&db).await;
        let error = Task::query("").set(Task::ID, 7_i64).update(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "the column `id` of `Task` is not the program's to set alone");
        let error = Task::query("").update(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "an update of `Task` sets no column");
    }
}

/// Clauses that join other tables, which have columns of the same names.
mod joins {
    use super::*;

    /// As `Task`, with receivers of saves and of deletes, which do nothing.
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

/// A value is stored as the column has it, whether or not there are receivers.
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
