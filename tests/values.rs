//! Values that a field cannot have are errors, in every way of reading and writing.
#![allow(missing_docs)]

mod common;

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use sqlx_signals::sqlx::types::Json;
use sqlx_signals::sqlx::types::chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use sqlx_signals::sqlx::types::{Text, Uuid};
use sqlx_signals::{DatabaseKind, Error, Previous, post_load, prelude::*, sqlx, without_signals};

use common::{count, execute};

/// An alias, and a newtype that is stored as its inner type: both can be NULL.
type Maybe = Option<String>;

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Nickname(Option<String>);

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Cents(i64);

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
enum Color {
    Red,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "things")]
struct Thing {
    id: Option<i64>,
    text: String,
    number: i64,
    small: i32,
    real: f64,
    flag: bool,
    bytes: Vec<u8>,
    at: DateTime<Utc>,
    day: NaiveDate,
    cents: Cents,
    color: Color,
    parsed: Text<u16>,
    uuid: Uuid,
    boxed: Box<str>,
    option: Option<String>,
    maybe: Maybe,
    nickname: Nickname,
}

const THINGS: &str = "text TEXT, number BIGINT, small INTEGER, real DOUBLE PRECISION, flag BOOLEAN, bytes BLOB, at TIMESTAMPTZ, day \
     DATE, cents BIGINT, color TEXT, parsed TEXT, uuid UUID, boxed TEXT, option TEXT, maybe TEXT, nickname TEXT";

fn thing() -> Thing {
    Thing {
        id: None,
        text: "a".into(),
        number: 1,
        small: 2,
        real: 0.5,
        flag: true,
        bytes: vec![1],
        at: DateTime::UNIX_EPOCH,
        day: NaiveDate::from_ymd_opt(2024, 1, 2).unwrap(),
        cents: Cents(5),
        color: Color::Red,
        parsed: Text(7),
        uuid: Uuid::from_u128(1),
        boxed: "b".into(),
        option: None,
        maybe: None,
        nickname: Nickname(None),
    }
}

async fn things(db: &Db) -> Thing {
    let columns = match db.kind() {
        DatabaseKind::Sqlite => THINGS.replace("TIMESTAMPTZ", "DATETIME").replace("UUID", "BLOB"),
        DatabaseKind::Postgres => THINGS.replace("BLOB", "BYTEA"),
    };
    common::table(db, "things", &columns).await;
    let mut thing = thing();
    thing.save(db).await.unwrap();
    thing
}

/// Asserts that the result is an error that names the column and the model.
#[track_caller]
fn refused<T: std::fmt::Debug>(done: Result<T>, column: &str, model: &str) {
    let error = done.expect_err("the value fits no field");
    let chain = chain(&error);
    assert!(chain.contains(&format!("`{column}` of `{model}`")), "{chain}");
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        chain = format!("{chain}: {error}");
        source = error.source();
    }
    chain
}

/// A model whose receivers take the previous row.
#[derive(Debug, Clone, Model)]
#[model(table = "watched")]
struct Watched {
    id: Option<i64>,
    name: String,
    #[model(generated)]
    state: String,
    #[model(version)]
    version: i64,
}

#[receiver(post_save, sender = Watched)]
fn look(_: PostSave<'_, Watched>, _: Previous<'_, Watched>) {}

#[receiver(post_delete, sender = Watched)]
fn look_at_deleted(_: PostDelete<'_, Watched>, _: Previous<'_, Watched>) {}

async fn watched(db: &Db) -> Watched {
    common::table(db, "watched", "name TEXT, state TEXT DEFAULT 'new', version BIGINT").await;
    let mut row = Watched { id: None, name: "a".into(), state: String::new(), version: 1 };
    row.save(db).await.unwrap();
    row
}

on_every_database! {
    async fn null_is_an_error_if_the_field_is_not_an_option(db: Db) {
        let mut thing = things(&db).await;
        let id = thing.id.unwrap();
        assert_eq!(Thing::get(&db, id).await.unwrap(), thing);
        for column in [
            "text", "number", "small", "real", "flag", "bytes", "at", "day", "cents", "color", "parsed", "uuid", "boxed",
        ] {
            let before = format!("CREATE TABLE kept AS SELECT {column} AS value FROM things");
            execute(&db, &before).await;
            execute(&db, &format!("UPDATE things SET {column} = NULL")).await;
            refused(Thing::get(&db, id).await, column, "Thing");
            refused(Thing::find(&db, id).await, column, "Thing");
            refused(Thing::all(&db).await, column, "Thing");
            refused(Thing::query("WHERE id = $1").bind(id).fetch_one(&db).await, column, "Thing");
            refused(Thing::query("").fetch_all(&db).await, column, "Thing");
            refused(db.query("SELECT * FROM things").fetch_all::<Thing>().await, column, "Thing");
            refused(thing.refresh(&db).await, column, "Thing");
            execute(&db, &format!("UPDATE things SET {column} = (SELECT value FROM kept); DROP TABLE kept")).await;
        }
        assert_eq!(Thing::get(&db, id).await.unwrap(), thing);
    }

    async fn null_is_read_by_every_optional_field(db: Db) {
        let thing = things(&db).await;
        let read = Thing::all(&db).await.unwrap();
        assert_eq!((&read[0].option, &read[0].maybe, &read[0].nickname), (&None, &None, &Nickname(None)));
        Thing::query("WHERE id = $1")
            .bind(thing.id.unwrap())
            .set(Thing::OPTION, Some("o"))
            .set(Thing::MAYBE, "m")
            .set(Thing::NICKNAME, Nickname(Some("n".into())))
            .update(&db)
            .await
            .unwrap();
        let read = Thing::get(&db, thing.id.unwrap()).await.unwrap();
        assert_eq!(read.option.as_deref(), Some("o"));
        assert_eq!(read.maybe.as_deref(), Some("m"));
        assert_eq!(read.nickname.0.as_deref(), Some("n"));
    }

    async fn null_is_an_error_in_sqlx_query_as_of_a_model(db: Db) {
        things(&db).await;
        db.execute("UPDATE things SET text = NULL").await.unwrap();
        let sql = "SELECT * FROM things";
        let done = match db.kind() {
            DatabaseKind::Sqlite => {
                sqlx::query_as::<_, Thing>(sql).fetch_one(db.sqlite().unwrap()).await
            }
            DatabaseKind::Postgres => {
                sqlx::query_as::<_, Thing>(sql).fetch_one(db.postgres().unwrap()).await
            }
        };
        refused(done.map_err(Error::from), "text", "Thing");
    }

    async fn a_previous_row_that_does_not_decode_stops_the_write(db: Db) {
        let mut row = watched(&db).await;
        db.execute("UPDATE watched SET name = NULL").await.unwrap();
        row.name = "b".into();
        refused(row.save(&db).await, "name", "Watched");
        refused(row.update(&db).await, "name", "Watched");
        refused(row.clone().delete(&db).await, "name", "Watched");
        refused(Watched::query("").set(Watched::NAME, "c").update(&db).await.map(|_| ()).and(
            Watched::get(&db, row.id.unwrap()).await.map(|_| ())), "name", "Watched");
    }

    async fn null_in_a_computed_column_is_an_error(db: Db) {
        let mut row = watched(&db).await;
        assert_eq!(row.state, "new");
        db.execute("UPDATE watched SET state = NULL").await.unwrap();
        let done = without_signals(async { row.save(&db).await }).await;
        refused(done, "state", "Watched");
        assert_eq!(row.state, "new");
    }

    async fn a_version_that_is_null_is_an_error(db: Db) {
        let row = watched(&db).await;
        db.execute("UPDATE watched SET version = NULL").await.unwrap();
        refused(Watched::get(&db, row.id.unwrap()).await, "version", "Watched");
        refused(Watched::all(&db).await, "version", "Watched");
    }
}

#[derive(Debug, Clone, Model)]
#[model(table = "unassigned")]
struct Unassigned {
    id: Option<i64>,
    name: String,
}

/// `BIGINT PRIMARY KEY` is not the rowid: SQLite assigns nothing.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_key_that_sqlite_did_not_assign_is_an_error() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    execute(&db, "CREATE TABLE unassigned (id BIGINT PRIMARY KEY, name TEXT NOT NULL)").await;
    let mut row = Unassigned { id: None, name: "a".into() };
    refused(row.save(&db).await, "id", "Unassigned");
    assert_eq!(row.id, None);
    refused(row.insert(&db).await, "id", "Unassigned");
    refused(Unassigned::insert_many(&db, std::slice::from_mut(&mut row)).await, "id", "Unassigned");
    assert_eq!(row.id, None);
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "searched")]
struct Searched {
    #[model(primary_key, column = "rowid")]
    id: Option<i64>,
    text: String,
}

/// SQLite returns -1 as the key of each new row of a virtual table.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_key_that_a_virtual_table_assigns_is_an_error() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    execute(&db, "CREATE VIRTUAL TABLE searched USING fts5 (text)").await;
    let refused = |done: Result<()>| {
        let error = done.unwrap_err().to_string();
        assert!(error.contains("the program has to assign the key of `Searched`"), "{error}");
    };
    let mut row = Searched { id: None, text: "a".into() };
    refused(row.save(&db).await.map(drop));
    refused(row.insert(&db).await.map(drop));
    let mut rows = [row.clone(), row.clone()];
    refused(Searched::insert_many(&db, &mut rows).await.map(drop));
    let mut tx = db.begin().await.unwrap();
    refused(row.save(&mut tx).await.map(drop));
    tx.commit().await.unwrap_err();
    assert_eq!((row.id, &rows), (None, &[row.clone(), row.clone()]));
    assert_eq!(Searched::all(&db).await.unwrap(), [], "nothing is stored");
    let mut keyed = Searched { id: Some(-1), text: "a".into() };
    assert!(keyed.save(&db).await.unwrap().created && !keyed.save(&db).await.unwrap().created);

    // A table with negative keys continues with -1.
    execute(&db, "DROP TABLE searched; CREATE TABLE searched (text TEXT NOT NULL); INSERT INTO searched (rowid, text) VALUES (-2, 'a')").await;
    assert_eq!(row.save(&db).await.unwrap().pk, -1);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Meta {
    color: String,
}

type MaybeMeta = Option<Meta>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wrapped(Option<Meta>);

#[derive(Debug, Clone, PartialEq, Serialize, Model)]
#[model(table = "documents")]
struct Document {
    id: Option<i64>,
    title: String,
    #[model(json)]
    meta: Option<Meta>,
    #[model(json)]
    alias: MaybeMeta,
    #[model(json)]
    wrapped: Wrapped,
    #[model(json)]
    any: serde_json::Value,
}

static CHANGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[receiver(post_save, sender = Document, updated, changed(meta))]
fn note(saved: PostSave<'_, Document>) {
    CHANGED.lock().unwrap().push(saved.instance.title.clone());
}

fn document(title: &str, meta: Option<&str>) -> Document {
    let meta = meta.map(|color| Meta { color: color.into() });
    Document {
        id: None,
        title: title.into(),
        alias: meta.clone(),
        wrapped: Wrapped(meta.clone()),
        meta,
        any: serde_json::Value::Null,
    }
}

async fn documents(db: &Db) {
    let json = if db.kind() == DatabaseKind::Postgres { "JSONB" } else { "TEXT" };
    let columns = format!(
        "title TEXT NOT NULL UNIQUE, meta {json}, alias {json}, wrapped {json}, any {json} NOT NULL"
    );
    common::table(db, "documents", &columns.replace("any ", "\"any\" ")).await;
}

on_every_database! {
    async fn none_is_null_in_a_json_column(db: Db) {
        documents(&db).await;
        let mut rows = [document("a", None), document("b", Some("red")), document("c", None)];
        rows[0].save(&db).await.unwrap();
        Document::insert_many(&db, &mut rows[1..]).await.unwrap();
        let null = || async { Document::query("WHERE meta IS NULL AND alias IS NULL AND wrapped IS NULL").count(&db).await.unwrap() };
        assert_eq!(null().await, 2);
        let (json_null,): (i64,) = db
            .query("SELECT count(*) FROM documents WHERE CAST(\"any\" AS text) = 'null'")
            .fetch_one()
            .await
            .unwrap();
        assert_eq!(json_null, 3, "a value that is JSON's null itself stays so");
        assert_eq!(Document::query("ORDER BY title").fetch_all(&db).await.unwrap(), rows);

        (rows[1].meta, rows[1].alias, rows[1].wrapped) = (None, None, Wrapped(None));
        Document::update_many(&db, &mut rows).await.unwrap();
        assert_eq!(null().await, 3);
        let red = document("a", Some("red"));
        let (found, created) = Document::get_or_create(&db, red, &[Document::TITLE]).await.unwrap();
        assert_eq!((found.meta, created), (None, false));
        let mut upserted = document("d", None);
        upserted.upsert(&db, &[Document::TITLE]).await.unwrap();
        assert_eq!(null().await, 4);
        assert_eq!(serde_json::to_value(&upserted).unwrap()["meta"], serde_json::Value::Null);
    }

    async fn json_null_is_read_as_none(db: Db) {
        documents(&db).await;
        document("a", Some("red")).save(&db).await.unwrap();
        db.execute("UPDATE documents SET meta = 'null', alias = 'null', wrapped = 'null'").await.unwrap();
        let read = Document::all(&db).await.unwrap();
        assert_eq!((&read[0].meta, &read[0].alias, &read[0].wrapped), (&None, &None, &Wrapped(None)));
    }

    async fn none_is_null_if_a_json_column_is_set_by_condition(db: Db) {
        documents(&db).await;
        let mut rows = [document("a", Some("red")), document("b", Some("red"))];
        Document::insert_many(&db, &mut rows).await.unwrap();
        let null = || async { Document::query("WHERE meta IS NULL").count(&db).await.unwrap() };
        let meta = |color: &str| Json(Some(Meta { color: color.to_owned() }));
        for heard in [false, true] {
            let set = async {
                let none = Json(None::<Meta>);
                Document::query("").set(Document::META, none).update(&db).await.unwrap();
                assert_eq!(null().await, 2, "heard: {heard}");
                Document::query("").set(Document::META, meta("blue")).update(&db).await.unwrap();
                assert_eq!(null().await, 0);
                assert_eq!(Document::all(&db).await.unwrap()[0].meta, meta("blue").0);
                let none = None::<Json<Meta>>;
                Document::query("").set(Document::META, none).update(&db).await.unwrap();
                assert_eq!(null().await, 2);
                Document::query("").set(Document::META, Some(meta("red"))).update(&db).await.unwrap();
            };
            if heard { set.await } else { without_signals(set).await }
        }
    }

    async fn null_in_a_json_column_is_an_error_if_the_field_is_not_an_option(db: Db) {
        let json = if db.kind() == DatabaseKind::Postgres { "JSONB" } else { "TEXT" };
        common::table(&db, "documents", &format!("title TEXT, meta {json}, alias {json}, wrapped {json}, \"any\" {json}")).await;
        document("a", None).save(&db).await.unwrap();
        db.execute("UPDATE documents SET \"any\" = NULL").await.unwrap();
        refused(Document::all(&db).await, "any", "Document");
    }
}

/// SQLite and PostgreSQL take turns: the log is one.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

on_every_database! {
    async fn a_json_column_that_stays_none_has_not_changed(db: Db) {
        let _turn = TURN.lock().await;
        documents(&db).await;
        let mut row = document("changed", None);
        row.save(&db).await.unwrap();
        let heard = || std::mem::take(&mut *CHANGED.lock().unwrap()).iter().filter(|t| *t == "changed").count();
        heard();
        row.save(&db).await.unwrap();
        assert_eq!(heard(), 0);
        row.meta = document("", Some("red")).meta;
        row.save(&db).await.unwrap();
        assert_eq!(heard(), 1);
        row.meta = None;
        row.save(&db).await.unwrap();
        assert_eq!(heard(), 1);
    }
}

/// A column of each type that the driver panics at.
#[derive(Debug, Clone, Model)]
#[model(table = "times")]
struct Times {
    id: Option<i64>,
    tz: DateTime<Utc>,
    plain: NaiveDateTime,
    day: NaiveDate,
    several: Vec<DateTime<Utc>>,
    option: Option<DateTime<Utc>>,
    time_tz: Option<sqlx::types::time::OffsetDateTime>,
    time_day: Option<sqlx::types::time::Date>,
    decimal: Option<sqlx::types::Decimal>,
    big: Option<sqlx::types::BigDecimal>,
}

#[receiver(post_load, sender = Times)]
fn loaded(_: sqlx_signals::PostLoad<'_, Times>) {}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_the_driver_cannot_decode_is_an_error_and_the_connection_stays_usable() {
    let test = common::TestDb::postgres("a_value_that_the_driver_cannot_decode").await;
    let db = common::one_connection(&test.db).await;
    let pool = db.postgres().unwrap().clone();
    let columns = "tz TIMESTAMPTZ NOT NULL DEFAULT now(), plain TIMESTAMP NOT NULL DEFAULT now(), day DATE NOT NULL DEFAULT now(), several \
                   TIMESTAMPTZ[] NOT NULL DEFAULT '{}', option TIMESTAMPTZ, time_tz TIMESTAMPTZ, time_day DATE, decimal NUMERIC, big NUMERIC";
    common::table(&db, "times", columns).await;
    for (column, value) in [
        ("tz", "'infinity'"),
        ("tz", "'-infinity'"),
        ("tz", "'294000-01-01'"),
        ("plain", "'infinity'"),
        ("plain", "'-infinity'"),
        ("plain", "'290000-01-01'"),
        ("day", "'infinity'"),
        ("day", "'-infinity'"),
        ("day", "'5000000-01-01'"),
        ("several", "ARRAY['infinity'::timestamptz]"),
        ("option", "'infinity'"),
        ("time_tz", "'infinity'"),
        ("time_tz", "'20000-01-01'"),
        ("time_day", "'infinity'"),
        ("time_day", "'20000-01-01'"),
        ("decimal", "'NaN'"),
        ("big", "'NaN'"),
    ] {
        execute(&db, &format!("DELETE FROM times; INSERT INTO times ({column}) VALUES ({value})"))
            .await;
        let (id,): (i64,) = db.query("SELECT id FROM times").fetch_one().await.unwrap();
        refused(Times::get(&pool, id).await, column, "Times");
        refused(Times::all(&pool).await, column, "Times");
        refused(Times::query("").fetch_all(&pool).await, column, "Times");
        let read = sqlx::query_as::<_, Times>("SELECT * FROM times").fetch_all(&pool).await;
        refused(read.map_err(Error::from), column, "Times");
        let (one,): (i32,) = db.query("SELECT 1").fetch_one().await.unwrap();
        assert_eq!(one, 1);
    }
    db.close().await;
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_while_a_tuple_is_decoded_is_an_error_too() {
    let test = common::TestDb::postgres("a_panic_while_a_tuple_is_decoded").await;
    let db = common::one_connection(&test.db).await;
    let read = db.query("SELECT 'infinity'::timestamptz").fetch_one::<(DateTime<Utc>,)>().await;
    assert!(chain(&read.unwrap_err()).contains("panicked"));
    let mut tx = db.begin().await.unwrap();
    let read = tx.query("SELECT 'infinity'::date").fetch_all::<(NaiveDate,)>().await;
    assert!(chain(&read.unwrap_err()).contains("panicked"));
    let (one,): (i32,) = tx.query("SELECT 1").fetch_one().await.unwrap();
    assert_eq!(one, 1);
    tx.rollback().await.unwrap();
    db.close().await;
    test.passed().await;
}

#[derive(Debug, Clone, Model)]
#[model(table = "settable")]
struct Settable {
    id: Option<i64>,
    name: String,
    nick: Option<String>,
    age: i64,
    small: i16,
    ratio: f64,
    single: f32,
    active: bool,
    data: Vec<u8>,
    at: DateTime<Utc>,
    naive: NaiveDateTime,
    day: NaiveDate,
    time: NaiveTime,
    uuid: Uuid,
    cents: Cents,
    color: Color,
    #[model(json)]
    meta: Option<Meta>,
    list: Json<Vec<i32>>,
}

async fn settable(db: &Db) {
    let columns = "name TEXT NOT NULL, nick TEXT, age BIGINT NOT NULL, small SMALLINT NOT NULL, ratio DOUBLE PRECISION NOT NULL, single \
                   REAL NOT NULL, active BOOLEAN NOT NULL, data BYTEA NOT NULL, at TIMESTAMPTZ NOT NULL, naive TIMESTAMP NOT NULL, day DATE \
                   NOT NULL, time TIME NOT NULL, uuid UUID NOT NULL, cents BIGINT NOT NULL, color TEXT NOT NULL, meta JSONB, \
                   list JSONB NOT NULL";
    let columns = match db.kind() {
        DatabaseKind::Sqlite => columns
            .replace("BYTEA", "BLOB")
            .replace("TIMESTAMPTZ", "DATETIME")
            .replace("UUID", "BLOB")
            .replace("JSONB", "TEXT"),
        DatabaseKind::Postgres => columns.to_owned(),
    };
    common::table(db, "settable", &columns).await;
    let epoch = DateTime::UNIX_EPOCH;
    Settable {
        id: None,
        name: "a".into(),
        nick: None,
        age: 1,
        small: 1,
        ratio: 1.0,
        single: 1.0,
        active: false,
        data: vec![],
        at: epoch,
        naive: epoch.naive_utc(),
        day: epoch.date_naive(),
        time: epoch.time(),
        uuid: Uuid::nil(),
        cents: Cents(1),
        color: Color::Red,
        meta: None,
        list: Json(vec![]),
    }
    .save(db)
    .await
    .unwrap();
}

#[receiver(post_save, sender = Settable)]
fn set(_: PostSave<'_, Settable>) {}

/// Sets a column, with and without receivers, and in a transaction.
macro_rules! set {
    ($db:expr, $column:ident, $value:expr) => {{
        let query = || Settable::query("").set(Settable::$column, $value);
        let quiet = without_signals(async { query().update($db).await }).await;
        let heard = query().update($db).await;
        let mut tx = $db.begin().await.unwrap();
        let inside = query().update(&mut tx).await;
        let _ = tx.rollback().await;
        [quiet, heard, inside]
    }};
}

macro_rules! misfits {
    ($db:expr, $($column:ident: $value:expr),* $(,)?) => { $(
        // Boxed, because all values of a test would not fit on the stack of its thread in a debug build.
        for done in Box::pin(async { set!($db, $column, $value) }).await {
            let Err(error) = done else { panic!("{} = {}", stringify!($column), stringify!($value)) };
            let column = stringify!($column).to_lowercase();
            assert!(error.to_string().contains(&format!("`{column}` of `Settable`")), "{error}");
        }
    )* };
}

macro_rules! fits {
    ($db:expr, $($column:ident: $value:expr),* $(,)?) => { $(
        let [quiet, ..] = Box::pin(async { set!($db, $column, $value) }).await;
        assert_eq!(quiet.unwrap(), 1, "{} = {}", stringify!($column), stringify!($value));
        Settable::all($db).await.unwrap();
    )* };
}

on_every_database! {
    async fn a_value_whose_type_does_not_fit_the_column_is_an_error(db: Db) {
        settable(&db).await;
        let before = format!("{:?}", Settable::all(&db).await.unwrap());
        misfits!(&db,
            NAME: 7, NAME: 7_i64, NAME: true, NAME: 1.5, NAME: vec![1_u8], NAME: DateTime::<Utc>::UNIX_EPOCH,
            NAME: Some(7), NAME: None::<i32>, NAME: None::<String>, NAME: Uuid::nil(), NAME: Cents(1),
            NICK: 7, NICK: None::<i64>, NICK: false,
            AGE: "x", AGE: "7", AGE: String::new(), AGE: true, AGE: 1.5, AGE: Some("7"), AGE: None::<i64>, AGE: vec![7_u8],
            AGE: DateTime::<Utc>::UNIX_EPOCH,
            RATIO: "1.5", RATIO: true,
            ACTIVE: "no", ACTIVE: 1, ACTIVE: 0.5,
            DATA: "text", DATA: 7, DATA: Uuid::nil().to_string(),
            AT: "yesterday", AT: 5, AT: true, DAY: 5_i64, DAY: "2024-01-01", DAY: DateTime::<Utc>::UNIX_EPOCH,
            DAY: DateTime::<Utc>::UNIX_EPOCH.naive_utc(), TIME: "12:00",
            UUID: "x", UUID: 5, CENTS: "5", CENTS: 0.5, COLOR: 5, META: 7, META: true,
        );
        assert_eq!(format!("{:?}", Settable::all(&db).await.unwrap()), before);
    }

    // SQLite has one type for both.
    async fn json_and_strings_do_not_fit_each_other(db: Db) {
        settable(&db).await;
        let before = format!("{:?}", Settable::all(&db).await.unwrap());
        misfits!(&db,
            NAME: Json(vec![1]), NAME: Some(Json(1)), NAME: serde_json::json!("x"), NICK: Json("x"), NICK: None::<Json<i32>>,
            META: "x", META: Some("{}"), LIST: "[]", LIST: "[]".to_owned(), LIST: Some("[]"),
        );
        assert_eq!(format!("{:?}", Settable::all(&db).await.unwrap()), before);
        fits!(&db, LIST: Json(vec![1]), LIST: serde_json::json!([1]), LIST: Some(Json(vec![1])));
    }

    async fn a_value_that_does_not_fit_fails_the_transaction(db: Db) {
        settable(&db).await;
        for heard in [false, true] {
            let mut tx = db.begin().await.unwrap();
            let set = async { Settable::query("").set(Settable::NAME, 7).update(&mut tx).await };
            let done = if heard { set.await } else { without_signals(set).await };
            done.unwrap_err();
            assert!(matches!(tx.commit().await, Err(Error::RolledBack { .. })), "heard: {heard}");
        }
    }

    async fn a_value_whose_type_fits_the_column_is_set(db: Db) {
        settable(&db).await;
        let owned = "b".to_owned();
        fits!(&db,
            NAME: "b", NAME: "b".to_owned(), NAME: &owned, NAME: Some("b"), NAME: std::borrow::Cow::Borrowed("b"),
            NAME: Box::<str>::from("b"), NAME: Color::Red, NAME: Text(5),
            NICK: "n", NICK: Some("n"), NICK: None::<String>, NICK: None::<&str>, NICK: Nickname(None),
            AGE: 7_i64, AGE: 7_i32, AGE: 7_i16, AGE: Some(7), AGE: Cents(7), AGE: &7_i64,
            SMALL: 7_i16, SMALL: 7_i32, SMALL: 7_i64,
            RATIO: 1.5_f64, RATIO: 1.5_f32, RATIO: 7, RATIO: 7_i64, SINGLE: 1.5_f64, SINGLE: 1.5_f32,
            ACTIVE: true, ACTIVE: Some(true), DATA: vec![1_u8], DATA: &[1_u8][..],
            AT: DateTime::<Utc>::UNIX_EPOCH, AT: DateTime::<Utc>::UNIX_EPOCH.fixed_offset(),
            NAIVE: DateTime::<Utc>::UNIX_EPOCH.naive_utc(), NAIVE: DateTime::<Utc>::UNIX_EPOCH,
            DAY: DateTime::<Utc>::UNIX_EPOCH.date_naive(), TIME: DateTime::<Utc>::UNIX_EPOCH.time(),
            UUID: Uuid::nil(), CENTS: Cents(5), CENTS: 5_i64, CENTS: 5_i32, COLOR: Color::Red, COLOR: "red",
            META: Json(Meta { color: "red".into() }), META: Json(None::<Meta>), META: None::<Json<Meta>>,
        );
    }
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Degrees(f64);

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "measures")]
struct Measure {
    id: Option<i64>,
    #[model(unique)]
    name: String,
    value: f64,
    single: f32,
    degrees: Degrees,
    maybe: Option<f64>,
}

fn measure(name: &str, value: f64) -> Measure {
    let (name, single, degrees) = (name.to_owned(), 1.0, Degrees(1.0));
    Measure { id: None, name, value, single, degrees, maybe: Some(1.0) }
}

/// SQLite stores NaN as NULL.
#[tokio::test]
async fn a_number_that_sqlite_stores_as_null_is_an_error() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let columns = "name TEXT NOT NULL UNIQUE, value REAL, single REAL, degrees REAL, maybe REAL";
    common::table(&db, "measures", columns).await;
    let mut stored = measure("stored", 1.0);
    stored.save(&db).await.unwrap();
    let nan = || measure("nan", f64::NAN);
    #[track_caller]
    fn refused<T: std::fmt::Debug>(done: Result<T>) {
        let error = done.unwrap_err().to_string();
        assert!(error.contains("SQLite stores NaN as NULL"), "{error}");
    }
    refused(nan().save(&db).await);
    refused(nan().insert(&db).await);
    refused(nan().upsert(&db, &[Measure::NAME]).await);
    refused(Measure::get_or_create(&db, nan(), &[Measure::NAME]).await);
    refused(Measure::insert_many(&db, &mut [measure("b", 1.0), nan()]).await);
    refused(Measure { single: f32::NAN, ..measure("single", 1.0) }.save(&db).await);
    refused(Measure { degrees: Degrees(f64::NAN), ..measure("degrees", 1.0) }.save(&db).await);
    let changed = || Measure { value: f64::NAN, ..stored.clone() };
    refused(changed().save(&db).await);
    refused(changed().update(&db).await);
    refused(changed().save_fields(&db, &[Measure::VALUE]).await);
    refused(changed().upsert(&db, &[Measure::NAME]).await);
    refused(Measure::update_many(&db, &mut [changed()]).await);
    let query = || Measure::query("");
    refused(query().set(Measure::VALUE, f64::NAN).update(&db).await);
    refused(query().set(Measure::VALUE, Some(f64::NAN)).update(&db).await);
    refused(query().set(Measure::SINGLE, f32::NAN).update(&db).await);
    refused(query().set(Measure::DEGREES, Degrees(f64::NAN)).update(&db).await);
    assert_eq!(Measure::all(&db).await.unwrap(), [stored.clone()]);
    // The field can be NULL.
    stored.maybe = Some(f64::NAN);
    stored.save(&db).await.unwrap();
    assert_eq!(Measure::get(&db, 1).await.unwrap().maybe, None);
    query().set(Measure::MAYBE, f64::NAN).update(&db).await.unwrap();
}

/// A row of a table that has lost its column `nick`.
#[derive(Debug, Clone, Model)]
#[model(table = "users_without_nick")]
struct Renamed {
    id: Option<i64>,
    #[model(generated)]
    nick: String,
}

/// A row of a table that has another key.
#[derive(Debug, Clone, Model)]
#[model(table = "users_without_nick")]
struct Rekeyed {
    #[model(primary_key)]
    key: String,
}

/// Like `Rekeyed`, with a column that the table has.
#[derive(Debug, Clone, Model)]
#[model(table = "users_without_nick")]
struct RekeyedHandle {
    #[model(primary_key)]
    key: String,
    handle: String,
}

/// Like `Renamed`, with a column that the table has.
#[derive(Debug, Clone, Model)]
#[model(table = "users_without_nick")]
struct RenamedHandle {
    id: Option<i64>,
    #[model(unique)]
    handle: String,
    #[model(generated)]
    nick: String,
}

/// Like `Renamed`, with receivers.
#[derive(Debug, Clone, Model)]
#[model(table = "users_without_nick")]
struct WatchedRenamed {
    id: Option<i64>,
    handle: String,
    nick: String,
}

#[receiver(post_save, sender = WatchedRenamed)]
fn renamed_is_saved(_: PostSave<'_, WatchedRenamed>) {}

#[receiver(post_delete, sender = WatchedRenamed)]
fn renamed_is_deleted(_: PostDelete<'_, WatchedRenamed>) {}

/// The parent of `Follower`.
#[derive(Debug, Clone, Model)]
#[model(table = "leaders")]
struct Leader {
    #[model(primary_key)]
    name: String,
}

/// A row of a table that has lost its column `leader`.
#[derive(Debug, Clone, Model)]
#[model(table = "followers")]
struct Follower {
    id: Option<i64>,
    #[model(belongs_to = Leader, on_delete = cascade)]
    leader: String,
}

/// Checks that every statement is refused because the column does not exist.
macro_rules! named {
    ($name:literal: $($done:expr),* $(,)?) => { $(
        match $done.await {
            Ok(done) => panic!("{}: {done:?}", stringify!($done)),
            Err(error) => assert!(error.to_string().contains($name), "{}: {error}", stringify!($done)),
        }
    )* };
}

on_every_database! {
    // SQLite reads a quoted name that is no column as a string.
    async fn a_column_that_does_not_exist_is_an_error(db: Db) {
        common::table(&db, "users_without_nick", "handle TEXT NOT NULL DEFAULT 'ann'").await;
        execute(&db, "INSERT INTO users_without_nick (handle) VALUES ('bob')").await;
        let named = |error: Error, name: &str| assert!(error.to_string().contains(name), "{error}");
        named(Renamed::get(&db, 1).await.unwrap_err(), "nick");
        named(Renamed::query("").fetch_all(&db).await.unwrap_err(), "nick");
        named(Renamed::query("WHERE id = 1").fetch_optional(&db).await.unwrap_err(), "nick");
        let mut new = Renamed { id: None, nick: String::new() };
        named(new.save(&db).await.unwrap_err(), "nick");
        assert_eq!(new.id, None);
        let mut known = Renamed { id: Some(1), nick: String::new() };
        known.refresh(&db).await.unwrap_err();
        let mut rekeyed = Rekeyed { key: "key".into() };
        named(rekeyed.delete(&db).await.unwrap_err(), "key");
        named(Rekeyed::find(&db, "key").await.unwrap_err(), "key");
        assert_eq!(count(&db, "users_without_nick").await, 1);
    }

    async fn no_statement_reads_a_column_that_does_not_exist_as_a_string(db: Db) {
        common::table(&db, "users_without_nick", "handle TEXT NOT NULL UNIQUE DEFAULT 'ann'").await;
        execute(&db, "INSERT INTO users_without_nick (handle) VALUES ('bob'), ('eve')").await;
        let key = || "key".to_owned();
        let mut bare = [Rekeyed { key: key() }];
        let mut rows = [RekeyedHandle { key: key(), handle: "x".into() }];
        named!("key":
            Rekeyed::delete_by_key(&db, "key"),
            Rekeyed::delete_many(&db, &mut bare),
            Rekeyed::get_many(&db, &[key()]),
            Rekeyed::query("").after(Rekeyed::KEY, "a").count(&db),
            Rekeyed::query("").after(Rekeyed::KEY, "a").exists(&db),
            Rekeyed::query("").after(Rekeyed::KEY, "a").limit(1).delete(&db),
            Rekeyed::query("ORDER BY handle LIMIT 1").delete(&db),
            rows[0].update(&db),
            rows[0].save(&db),
            rows[0].save_fields(&db, &[RekeyedHandle::HANDLE]),
            RekeyedHandle::update_many(&db, &mut rows),
        );
        let new = |handle: &str| RenamedHandle { id: None, handle: handle.to_owned(), nick: String::new() };
        let mut many = [new("x"), new("y")];
        let mut known = RenamedHandle { id: Some(1), ..new("bob") };
        named!("nick":
            RenamedHandle::insert_many(&db, &mut many),
            known.save_fields(&db, &[RenamedHandle::HANDLE]),
            new("bob").upsert(&db, &[RenamedHandle::HANDLE]),
            new("z").upsert(&db, &[RenamedHandle::HANDLE]),
            RenamedHandle::get_or_create(&db, new("bob"), &[RenamedHandle::HANDLE]),
            RenamedHandle::get_or_create(&db, new("z"), &[RenamedHandle::HANDLE]),
            RenamedHandle::get_many(&db, &[1, 2]),
            WatchedRenamed::query("WHERE id = 1").delete(&db),
            WatchedRenamed::query("WHERE id = 1").set(WatchedRenamed::HANDLE, "x").update(&db),
        );
        let (handles,): (String,) = db.query("SELECT min(handle) || count(*) || max(handle) FROM users_without_nick").fetch_one().await.unwrap();
        assert_eq!(handles, "bob2eve");

        execute(&db, "CREATE TABLE leaders (name TEXT PRIMARY KEY); INSERT INTO leaders VALUES ('leader')").await;
        common::table(&db, "followers", "name TEXT").await;
        execute(&db, "INSERT INTO followers (name) VALUES ('x')").await;
        let mut leader = Leader { name: "leader".into() };
        named!("leader": leader.delete(&db));
        assert_eq!(count(&db, "followers").await, 1);
    }
}

#[cfg(feature = "postgres")]
#[derive(Debug, Clone, Model)]
#[model(table = "flags")]
struct Flag {
    id: Option<i64>,
    level: i8,
}

#[cfg(feature = "postgres")]
#[receiver(post_save, sender = Flag)]
fn flagged(_: PostSave<'_, Flag>) {}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_char_of_postgres_is_written_by_a_condition() {
    let test = common::TestDb::postgres("a_char_of_postgres").await;
    let pool = test.db.postgres().unwrap();
    execute(&test.db, &Flag::create_table_sql(DatabaseKind::Postgres)).await;
    Flag::check_table(pool).await.unwrap();
    let mut flag = Flag { id: None, level: 1 };
    flag.save(pool).await.unwrap();
    Flag::query("WHERE id = $1").bind(1_i64).set(Flag::LEVEL, 5_i8).update(pool).await.unwrap();
    assert_eq!(Flag::get(pool, 1).await.unwrap().level, 5);
    test.passed().await;
}
