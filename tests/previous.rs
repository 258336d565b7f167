//! The row before the write, and which columns the write has changed.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use sqlx_signals::prelude::*;

use common::Scene;

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tickets")]
struct Ticket {
    id: Option<i64>,
    title: String,
    state: String,
    points: Option<i32>,
}

fn ticket(title: &str) -> Ticket {
    Ticket { id: None, title: title.to_owned(), state: "open".to_owned(), points: None }
}

/// Like `Ticket`, with a key that the program assigns.
#[derive(Debug, Clone, Model)]
#[model(table = "settings")]
struct Setting {
    #[model(primary_key)]
    name: String,
    value: i32,
}

static TICKETS: LazyLock<Scene> = Scene::new();
static SETTINGS: LazyLock<Scene> = Scene::new();

fn changed(previous: Previous<'_, Ticket>) -> String {
    let columns = [Ticket::ID, Ticket::TITLE, Ticket::STATE, Ticket::POINTS];
    let changed = columns.into_iter().filter(|c| previous.changed(*c)).map(|c| c.name());
    changed.collect::<Vec<_>>().join(" ")
}

#[receiver(post_save, sender = Ticket, order = 1)]
fn inside(saved: PostSave<'_, Ticket>, previous: Previous<'_, Ticket>) {
    let was = previous.row().map(|row| row.title.clone());
    let is = &saved.instance.title;
    TICKETS.log.push(format!("{was:?} → {is}: {}", changed(previous)));
}

#[receiver(post_save, sender = Ticket, order = 2, changed(title, state))]
async fn either(saved: PostSave<'_, Ticket>) {
    TICKETS.log.push(format!("changed {}", saved.instance.title));
}

#[receiver(post_save, sender = Ticket, order = 3, updated, changed(state))]
async fn moved(_: PostSave<'_, Ticket>, previous: Previous<'_, Ticket>, _conn: &mut Conn<'_>) {
    TICKETS.log.push(format!("moved from {}", previous.row().unwrap().state));
}

#[receiver(post_save, sender = Ticket, on_commit, changed(points))]
async fn later(saved: PostSave<'_, Ticket>, previous: Previous<'_, Ticket>) {
    let was = previous.row().and_then(|row| row.points);
    TICKETS.log.push(format!("committed {was:?} → {:?}", saved.instance.points));
}

#[receiver(post_delete, sender = Ticket)]
fn gone(_: PostDelete<'_, Ticket>, previous: Previous<'_, Ticket>) {
    TICKETS.log.push(format!("gone {}: {}", previous.row().unwrap().title, changed(previous)));
}

#[receiver(post_save, sender = Setting)]
fn set(saved: PostSave<'_, Setting>, previous: Previous<'_, Setting>) {
    let was = previous.row().map(|row| row.value);
    SETTINGS.log.push(format!("{was:?} → {}", saved.instance.value));
}

/// Receivers of several models that look at the previous row of one of them.
mod of_several_models {
    use super::*;
    use sqlx_signals::AnyModel;

    #[derive(Debug, Clone, Model)]
    #[model(table = "settings")]
    pub(super) struct Limit {
        #[model(primary_key)]
        pub(super) name: String,
        pub(super) value: i32,
    }

    #[receiver(post_save)]
    fn of_all(_: PostSave<'_, dyn AnyModel>, previous: Previous<'_, Limit>) {
        if let Some(row) = previous.row() {
            SETTINGS.log.push(format!("all: {}", row.value));
        }
    }

    #[receiver(post_save, sender = [Limit, Ticket])]
    fn of_two<M: Model>(_: PostSave<'_, M>, previous: Previous<'_, Limit>) {
        if let Some(row) = previous.row() {
            SETTINGS.log.push(format!("two: {}", row.value));
        }
    }
}

async fn tables(db: &Db) {
    common::table(db, "tickets", "title TEXT NOT NULL, state TEXT NOT NULL, points INTEGER").await;
    common::execute(db, "CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL)")
        .await;
}

/// Through a view with a column that has another value each time that it is read.
#[cfg(feature = "postgres")]
mod volatile {
    use super::*;

    #[derive(Debug, Clone, Model)]
    #[model(table = "running_jobs")]
    struct Job {
        id: Option<i64>,
        name: String,
        #[model(generated)]
        seconds: f64,
    }

    #[receiver(post_save, sender = Job)]
    fn note(saved: PostSave<'_, Job>, previous: Previous<'_, Job>) {
        let was = previous.row().map(|job| job.name.clone());
        TICKETS.log.push(format!("{was:?} → {}", saved.instance.name));
    }

    #[receiver(post_save, sender = Job, changed(name))]
    fn renamed(saved: PostSave<'_, Job>) {
        TICKETS.log.push(format!("renamed {}", saved.instance.name));
    }

    #[tokio::test]
    async fn a_row_of_a_view_with_a_volatile_column_is_updated() {
        let _turn = TICKETS.begin().await;
        let test = common::TestDb::postgres("volatile_view").await;
        let db = &test.db;
        common::execute(
            db,
            "CREATE TABLE jobs (id BIGSERIAL PRIMARY KEY, name TEXT NOT NULL, started TIMESTAMPTZ NOT NULL DEFAULT now());
             INSERT INTO jobs (name) VALUES ('a'), ('b');
             CREATE VIEW running_jobs AS
             SELECT id, name, extract(epoch FROM clock_timestamp() - started)::float8 AS seconds FROM jobs",
        )
        .await;
        let mut job = Job::get(db, 1).await.unwrap();
        job.name = "c".to_owned();
        job.update(db).await.unwrap();
        assert_eq!(Job::get(db, 1).await.unwrap().name, "c");
        assert_eq!(TICKETS.log.take(), [r#"Some("a") → c"#, "renamed c"]);
        let mut jobs = Job::query("ORDER BY id").fetch_all(db).await.unwrap();
        jobs.iter_mut().for_each(|job| job.name = format!("{}{}", job.name, job.id.unwrap()));
        Job::update_many(db, &mut jobs).await.unwrap();
        let names: Vec<_> = Job::query("ORDER BY id").fetch_all(db).await.unwrap();
        assert_eq!(names.into_iter().map(|job| job.name).collect::<Vec<_>>(), ["c1", "b2"]);
        assert_eq!(
            TICKETS.log.take(),
            [r#"Some("c") → c1"#, "renamed c1", r#"Some("b") → b2"#, "renamed b2"]
        );
        test.passed().await;
    }
}

on_every_database! {
    async fn the_previous_row_is_what_the_database_had(db: Db) {
        let _turn = TICKETS.begin().await;
        tables(&db).await;
        let mut lamp = ticket("Lamp");
        lamp.save(&db).await.unwrap();
        assert_eq!(
            TICKETS.log.take(),
            ["None → Lamp: id title state points", "changed Lamp", "committed None → None"],
            "of a new row every column has changed"
        );
        // The values that the instance was read with do not matter.
        common::execute(&db, "UPDATE tickets SET title = 'Lantern', points = 3").await;
        lamp.points = Some(5);
        lamp.save(&db).await.unwrap();
        assert_eq!(
            TICKETS.log.take(),
            [r#"Some("Lantern") → Lamp: title points"#, "changed Lamp", "committed Some(3) → Some(5)"]
        );
        lamp.save(&db).await.unwrap();
        assert_eq!(TICKETS.log.take(), [r#"Some("Lamp") → Lamp: "#], "equal values change nothing");
        lamp.state = "done".to_owned();
        lamp.update(&db).await.unwrap();
        assert_eq!(
            TICKETS.log.take(),
            [r#"Some("Lamp") → Lamp: state"#, "changed Lamp", "moved from open"]
        );
        lamp.points = None;
        lamp.save_fields(&db, &[Ticket::POINTS]).await.unwrap();
        assert_eq!(
            TICKETS.log.take(),
            [r#"Some("Lamp") → Lamp: points"#, "committed Some(5) → None"],
            "NULL is a value like any other"
        );
        lamp.title = "lamp".to_owned();
        assert!(lamp.delete(&db).await.unwrap());
        assert_eq!(TICKETS.log.take(), ["gone Lamp: id title state points"]);
    }

    async fn a_key_of_the_program_may_be_new_or_existing(db: Db) {
        let _turn = SETTINGS.begin().await;
        tables(&db).await;
        let mut size = Setting { name: "size".to_owned(), value: 1 };
        assert!(size.save(&db).await.unwrap().created);
        size.value = 2;
        assert!(!size.save(&db).await.unwrap().created);
        size.value = 3;
        assert!(!size.upsert(&db, &[Setting::NAME]).await.unwrap().created);
        assert_eq!(SETTINGS.log.take(), ["None → 1", "Some(1) → 2", "Some(2) → 3"]);
    }

    async fn a_receiver_of_several_models_can_take_the_previous_row_of_one(db: Db) {
        let _turn = SETTINGS.begin().await;
        tables(&db).await;
        let mut limit = of_several_models::Limit { name: "size".to_owned(), value: 1 };
        limit.save(&db).await.unwrap();
        limit.value = 2;
        limit.save(&db).await.unwrap();
        let mut said = SETTINGS.log.take();
        said.sort_unstable();
        assert_eq!(said, ["all: 1", "two: 1"]);
        ticket("a").save(&db).await.unwrap();
        assert!(SETTINGS.log.take().is_empty());
    }

    async fn each_of_many_rows_has_its_own_previous_row(db: Db) {
        let _turn = TICKETS.begin().await;
        tables(&db).await;
        let mut many = [ticket("a"), ticket("b"), ticket("c")];
        Ticket::insert_many(&db, &mut many).await.unwrap();
        TICKETS.log.take();
        many[1].title = "B".to_owned();
        many.reverse();
        Ticket::update_many(&db, &mut many).await.unwrap();
        assert_eq!(
            TICKETS.log.take(),
            [
                r#"Some("c") → c: "#,
                r#"Some("b") → B: title"#,
                "changed B",
                r#"Some("a") → a: "#,
            ]
        );
        Ticket::delete_many(&db, &mut many).await.unwrap();
        let gone = ["c", "B", "a"].map(|title| format!("gone {title}: id title state points"));
        assert_eq!(TICKETS.log.take(), gone);
    }

    // Each increment is of what it overwrites, so that the last of each chain of previous rows is the one before.
    async fn the_previous_row_is_right_under_concurrency(db: Db) {
        let _turn = SETTINGS.begin().await;
        tables(&db).await;
        Setting { name: "size".to_owned(), value: 0 }.save(&db).await.unwrap();
        SETTINGS.log.take();
        let saves = (1..=20).map(|value| {
            let db = db.clone();
            tokio::spawn(async move {
                Setting { name: "size".to_owned(), value }.save(&db).await.unwrap();
            })
        });
        for save in saves.collect::<Vec<_>>() {
            save.await.unwrap();
        }
        let last = Setting::get(&db, "size").await.unwrap().value;
        let steps: std::collections::HashMap<String, String> = SETTINGS
            .log
            .take()
            .iter()
            .map(|step| step.split_once(" → ").map(|(was, is)| (was.to_owned(), is.to_owned())).unwrap())
            .collect();
        // From 0 on, each has overwritten the one before it, and the last is what is stored.
        let mut value = "0".to_owned();
        for _ in 0..20 {
            value = steps[&format!("Some({value})")].clone();
        }
        assert_eq!((steps.len(), value), (20, last.to_string()));
    }
}

/// Values that SQLite stores as they are written, regardless of the type of the field.
#[cfg(all(feature = "sqlite", feature = "chrono", feature = "time", feature = "json"))]
mod spellings {
    use super::*;
    use sqlx_signals::sqlx::types::chrono::{
        DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Utc,
    };
    use sqlx_signals::sqlx::types::time::{Date, OffsetDateTime, PrimitiveDateTime, Time};
    use sqlx_signals::sqlx::types::uuid::fmt::Hyphenated;
    use sqlx_signals::sqlx::types::{Json, Text};

    #[derive(Debug, Clone, Model)]
    #[model(table = "spellings")]
    struct Spelling {
        id: Option<i64>,
        utc: DateTime<Utc>,
        fixed: DateTime<FixedOffset>,
        naive: NaiveDateTime,
        maybe: Option<NaiveDateTime>,
        day: NaiveDate,
        clock: NaiveTime,
        offset: OffsetDateTime,
        primitive: PrimitiveDateTime,
        date: Date,
        hour: Time,
        flag: bool,
        single: f32,
        number: i64,
        hyphenated: Hyphenated,
        parsed: Text<u16>,
        list: Json<Vec<i32>>,
        text: String,
        sizes: Sizes,
        shared: std::sync::Arc<str>,
    }

    /// Its type does not tell that it is JSON.
    #[derive(Debug, Clone, sqlx::Type)]
    #[sqlx(transparent)]
    struct Sizes(Json<std::collections::BTreeMap<String, f64>>);

    static SPELLINGS: LazyLock<Scene> = Scene::new();

    #[receiver(post_save, sender = Spelling)]
    fn changed(_: PostSave<'_, Spelling>, previous: Previous<'_, Spelling>) {
        let columns = Spelling::COLUMNS.iter().filter(|name| changed_column(previous, name));
        SPELLINGS.log.push(columns.copied().collect::<Vec<_>>().join(" "));
    }

    fn changed_column(previous: Previous<'_, Spelling>, name: &str) -> bool {
        use sqlx_signals::Column;
        let columns: [Column<Spelling>; 20] = [
            Spelling::ID,
            Spelling::UTC,
            Spelling::FIXED,
            Spelling::NAIVE,
            Spelling::MAYBE,
            Spelling::DAY,
            Spelling::CLOCK,
            Spelling::OFFSET,
            Spelling::PRIMITIVE,
            Spelling::DATE,
            Spelling::HOUR,
            Spelling::FLAG,
            Spelling::SINGLE,
            Spelling::NUMBER,
            Spelling::HYPHENATED,
            Spelling::PARSED,
            Spelling::LIST,
            Spelling::TEXT,
            Spelling::SIZES,
            Spelling::SHARED,
        ];
        columns.into_iter().any(|column| column.name() == name && previous.changed(column))
    }

    #[tokio::test]
    async fn another_notation_of_an_equal_value_is_no_change() {
        let _turn = SPELLINGS.begin().await;
        let test = common::TestDb::sqlite("another_spelling_of_an_equal_value").await;
        let db = test.db.sqlite().unwrap();
        // Without types, so that each value is stored as it is written.
        let columns = Spelling::COLUMNS[1..].join(", ");
        common::table(
            &test.db,
            "spellings",
            &columns.replace("offset", "\"offset\"").replace("primitive", "\"primitive\""),
        )
        .await;
        let at: DateTime<Utc> = "2024-01-01T12:00:00Z".parse().unwrap();
        let offset = OffsetDateTime::from_unix_timestamp(at.timestamp()).unwrap();
        let mut row = Spelling {
            id: None,
            utc: at,
            fixed: at.fixed_offset(),
            naive: at.naive_utc(),
            maybe: Some(at.naive_utc()),
            day: at.date_naive(),
            clock: at.time(),
            offset,
            primitive: PrimitiveDateTime::new(offset.date(), offset.time()),
            date: offset.date(),
            hour: offset.time(),
            flag: true,
            single: 10.1,
            number: 1,
            hyphenated: "67e55044-10b1-426f-9247-bb680e5fe0c8"
                .parse::<sqlx_signals::sqlx::types::Uuid>()
                .unwrap()
                .hyphenated(),
            parsed: Text(7),
            list: Json(vec![1, 2]),
            text: "a".to_owned(),
            sizes: Sizes(Json([("a".to_owned(), 1.0), ("b".to_owned(), 2.5)].into())),
            shared: "{\"a\":1}".into(),
        };
        row.save(db).await.unwrap();
        row.save(db).await.unwrap();
        assert_eq!(SPELLINGS.log.take()[1..], [""]);
        for (column, equal, other) in [
            ("utc", "'2024-01-01 12:00:00'", "'2024-01-01 12:00:01'"),
            ("utc", "'2024-01-01T12:00:00Z'", "'2024-01-01T12:00:00+01:00'"),
            ("utc", "'2024-01-01T14:00:00+02:00'", "'2024-01-01T14:00:00Z'"),
            ("utc", "1704110400", "1704110401"),
            ("fixed", "'2024-01-01 12:00'", "'2024-01-01 12:01'"),
            ("fixed", "'2024-01-01T14:00:00+02:00'", "'2024-01-01T12:00:00+02:00'"),
            ("naive", "'2024-01-01T12:00:00Z'", "'2024-01-01T12:00:00.1Z'"),
            ("maybe", "'2024-01-01T12:00'", "NULL"),
            ("clock", "'12:00'", "'12:01'"),
            ("offset", "'2024-01-01T14:00:00+02:00'", "'2024-01-01T12:00:00+02:00'"),
            ("primitive", "'2024-01-01T12:00:00'", "'2024-01-01T12:00:01'"),
            ("hour", "'12:00'", "'12:00:00.5'"),
            ("flag", "2", "0"),
            ("single", "10.1", "10.2"),
            ("number", "1", "2"),
            (
                "hyphenated",
                "'67E5504410B1426F9247BB680E5FE0C8'",
                "'00000000-10b1-426f-9247-bb680e5fe0c8'",
            ),
            ("parsed", "'007'", "'8'"),
            ("list", "'[1, 2]'", "'[2, 1]'"),
            ("text", "'a'", "'A'"),
            ("sizes", "'{\"b\":2.5,\"a\":1.0}'", "'{\"a\":1.0}'"),
            ("sizes", "'{\"a\": 1, \"b\": 2.5}'", "'{\"a\": 1, \"b\": 2}'"),
            ("shared", "'{\"a\":1}'", "'{\"a\": 1}'"),
        ] {
            for (value, expected) in [(equal, ""), (other, column)] {
                common::execute(&test.db, &format!("UPDATE spellings SET \"{column}\" = {value}"))
                    .await;
                row.save(db).await.unwrap();
                assert_eq!(SPELLINGS.log.take(), [expected], "{column} = {value}");
            }
        }
        test.passed().await;
    }
}
