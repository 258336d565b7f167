//! On PostgreSQL, one statement stores a row and its deliveries. What is stored does not depend on the way in which it is stored.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use common::{Scene, cancelled_after, count, execute, one_connection, table};
use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, testing};

static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Clone, PartialEq, Model, Serialize, Deserialize)]
#[model(table = "tickets")]
struct Ticket {
    id: Option<i64>,
    #[model(unique)]
    title: String,
    desk: i64,
}

fn ticket(title: &str) -> Ticket {
    Ticket { id: None, title: title.into(), desk: 7 }
}

#[receiver(post_save, sender = Ticket, created, durable)]
async fn open(saved: PostSave<'_, Ticket>, delivery: Delivery<'_>, db: Db) -> Result<()> {
    let is_caused = delivery.caused_by().is_some();
    SCENE.log.push(format!("open {} {} {is_caused}", saved.pk(), saved.instance.title));
    if saved.instance.title == "parent" {
        ticket("child").save(&db).await?;
    }
    Ok(())
}

#[receiver(post_save, sender = Ticket, updated, uid = "the desk's", durable(at_least_once, delay = "1h"))]
fn remind(_: PostSave<'_, Ticket>) {}

#[receiver(post_save, sender = Ticket, durable(payload = key, ordering_key = pk, at_least_once))]
fn index(saved: PostSave<'_, Ticket>) {
    SCENE.log.push(format!("index {} {}", saved.pk(), saved.instance.title));
}

#[receiver(post_save, sender = Ticket, durable(ordering_key = desk, at_least_once))]
fn count_of_desk(saved: PostSave<'_, Ticket>) {
    SCENE.log.push(format!("desk {}", saved.instance.desk));
}

#[receiver(post_delete, sender = Ticket, durable(ordering_key = pk, at_least_once))]
fn close(deleted: PostDelete<'_, Ticket>) {
    SCENE.log.push(format!("close {} {}", deleted.pk(), deleted.instance.title));
}

#[receiver(post_save, sender = Ticket, on_commit)]
async fn announce(saved: PostSave<'_, Ticket>) {
    SCENE.log.push(format!("announce {}", saved.pk()));
}

/// Its key is a text that the program sets.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "settings")]
struct Setting {
    #[model(primary_key)]
    name: String,
    value: i64,
}

#[receiver(post_save, sender = Setting, created, durable(at_least_once))]
fn log_new(_: PostSave<'_, Setting>) {}

#[receiver(post_save, sender = Setting, updated, durable(at_least_once))]
fn log_change(_: PostSave<'_, Setting>) {}

#[receiver(post_save, sender = Setting, durable(at_least_once, ordering_key = pk))]
fn log_any(_: PostSave<'_, Setting>) {}

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "pages")]
struct Page {
    id: Option<i64>,
    #[model(unique)]
    title: String,
    #[model(version)]
    version: i64,
}

fn page(title: &str) -> Page {
    Page { id: None, title: title.into(), version: 1 }
}

#[receiver(post_save, sender = Page, durable(at_least_once))]
fn render(_: PostSave<'_, Page>) {}

#[receiver(post_delete, sender = Page, durable(at_least_once))]
fn remove(_: PostDelete<'_, Page>) {}

/// Its key is a UUID, or anything else that serde and the database write in different ways.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "parcels")]
struct Parcel {
    id: Option<ParcelId>,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx_signals::sqlx::Type)]
#[sqlx(transparent)]
struct ParcelId(i64);

impl Serialize for ParcelId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        format!("parcel {}", self.0).serialize(to)
    }
}

impl<'de> Deserialize<'de> for ParcelId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let number = text.strip_prefix("parcel ").and_then(|number| number.parse().ok());
        number.map(Self).ok_or_else(|| serde::de::Error::custom("no parcel"))
    }
}

#[receiver(post_save, sender = Parcel, durable(at_least_once))]
fn ship(saved: PostSave<'_, Parcel>) {
    SCENE.log.push(format!("ship {}", saved.pk().0));
}

/// Its ordering key is computed from the whole row.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "entries")]
struct Entry {
    id: Option<i64>,
    text: String,
}

fn key_of(entry: &Entry) -> String {
    format!("{:?}", entry.id)
}

#[receiver(post_save, sender = Entry, durable(ordering_key = self::key_of, at_least_once))]
fn enter(_: PostSave<'_, Entry>) {}

async fn setup(db: &Db) {
    let key = match db.kind() {
        DatabaseKind::Sqlite => "INTEGER",
        DatabaseKind::Postgres => "BIGINT",
    };
    table(db, "tickets", &format!("title TEXT NOT NULL UNIQUE, desk {key} NOT NULL")).await;
    table(db, "pages", &format!("title TEXT NOT NULL UNIQUE, version {key} NOT NULL")).await;
    table(db, "parcels", "text TEXT NOT NULL").await;
    table(db, "entries", "text TEXT NOT NULL").await;
    let settings = format!("CREATE TABLE settings (name TEXT PRIMARY KEY, value {key} NOT NULL)");
    execute(db, &settings).await;
    db.deliveries().setup().await.unwrap();
}

/// The stored deliveries in their order, without the key in the payload, which may not be known when the payload is written.
async fn stored(db: &Db) -> Vec<String> {
    type Columns = (String, String, String, Option<String>, Option<bool>, String, String, i64, i64);
    let (payload, delay) = match db.kind() {
        DatabaseKind::Sqlite => ("payload", "(run_at - stored_at + 500) / 1000"),
        DatabaseKind::Postgres => {
            ("payload::text", "round(extract(epoch FROM run_at - stored_at))::bigint")
        }
    };
    let sql = format!(
        "SELECT receiver, signal, sender, key, created, {payload}, coalesce(ordering_key, '-'), {delay}, \
         count(*) OVER (PARTITION BY event) FROM signals_delivery ORDER BY id"
    );
    let rows: Vec<Columns> =
        db.query(sqlx_signals::sqlx::AssertSqlSafe(sql)).fetch_all().await.unwrap();
    let texts = rows.into_iter().map(|row| {
        let mut payload: serde_json::Value = serde_json::from_str(&row.5).unwrap();
        if let Some(row) = payload.get_mut("row") {
            row.as_object_mut().unwrap().remove("id");
        }
        format!(
            "{} {} {} {:?} {:?} {payload} {} {} {}",
            row.0, row.1, row.2, row.3, row.4, row.6, row.7, row.8
        )
    });
    texts.collect()
}

/// Writes rows in every way that is one statement, each in a transaction of its own or without any.
async fn write_all(db: &Db, in_transaction: bool) {
    macro_rules! write {
        ($to:ident => $write:expr) => {
            match in_transaction {
                true => db
                    .transaction(async |tx| {
                        let $to = tx;
                        $write.await.map(|_| ())
                    })
                    .await
                    .unwrap(),
                false => {
                    let $to = db;
                    $write.await.map(|_| ()).unwrap();
                }
            }
        };
    }
    let (mut new, mut setting, mut versioned) =
        (ticket("a \"b\" \u{1} ä"), Setting { name: "x'y\\ \u{1}".into(), value: 1 }, page("p"));
    write!(to => new.save(to));
    new.desk = 8;
    write!(to => new.save(to));
    write!(to => new.save_fields(to, &[Ticket::DESK]));
    write!(to => ticket("unique").upsert(to, &[Ticket::TITLE]));
    write!(to => ticket("unique").upsert(to, &[Ticket::TITLE]));
    write!(to => Ticket { id: Some(99), ..ticket("keyed") }.upsert(to, &[Ticket::TITLE]));
    write!(to => Ticket { id: Some(98), ..ticket("keyed") }.upsert(to, &[Ticket::TITLE]));
    write!(to => Ticket { id: Some(50), ..ticket("fifty") }.insert(to));
    write!(to => Ticket { id: Some(51), ..ticket("fifty-one") }.save(to));
    if !in_transaction {
        Ticket::get_or_create(db, ticket("got"), &[Ticket::TITLE]).await.unwrap();
    } else {
        db.transaction(async |tx| Ticket::get_or_create(tx, ticket("got"), &[Ticket::TITLE]).await)
            .await
            .unwrap();
    }
    write!(to => new.delete(to));
    write!(to => new.clone().delete(to));
    write!(to => setting.save(to));
    setting.value = 2;
    write!(to => setting.save(to));
    write!(to => setting.upsert(to, &[Setting::NAME]));
    write!(to => versioned.save(to));
    write!(to => versioned.save(to));
    write!(to => versioned.save_fields(to, &[Page::TITLE]));
    write!(to => page("p").upsert(to, &[Page::TITLE]));
    versioned.version += 1;
    write!(to => versioned.delete(to));
    write!(to => Parcel { id: None, text: "p".into() }.save(to));
    write!(to => Entry { id: None, text: "e".into() }.save(to));
}

on_every_database! {
    async fn a_write_stores_the_same_deliveries_with_and_without_a_transaction(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        write_all(&db, true).await;
        let expected = stored(&db).await;
        assert_eq!(expected.len(), 44, "{expected:#?}");
        for name in ["tickets", "settings", "pages", "parcels", "entries", "signals_delivery"] {
            match db.kind() {
                DatabaseKind::Sqlite => execute(&db, &format!("DELETE FROM {name}")).await,
                DatabaseKind::Postgres => execute(&db, &format!("TRUNCATE {name} RESTART IDENTITY")).await,
            }
        }
        let announced = SCENE.log.take();
        write_all(&db, false).await;
        assert_eq!(stored(&db).await, expected);
        assert_eq!(SCENE.log.take(), announced);
    }

    async fn a_trigger_that_handles_a_write_itself_runs_once(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        execute(&db, "CREATE TABLE handled (name TEXT NOT NULL)").await;
        let mut row = ticket("a");
        row.save(&db).await.unwrap();
        let mut setting = Setting { name: "a".into(), value: 1 };
        setting.save(&db).await.unwrap();
        for (table, name) in [("tickets", "title"), ("settings", "name")] {
            for event in ["UPDATE", "DELETE"] {
                let (trigger, insert) =
                    (format!("{table}_{event}"), format!("INSERT INTO handled VALUES (OLD.{name})"));
                let sql = match db.kind() {
                    DatabaseKind::Sqlite => format!(
                        "CREATE TRIGGER {trigger} BEFORE {event} ON {table} BEGIN {insert}; SELECT RAISE(IGNORE); END"
                    ),
                    DatabaseKind::Postgres => format!(
                        "CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {insert}; RETURN NULL; END';
                         CREATE TRIGGER {trigger} BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {trigger}()"
                    ),
                };
                execute(&db, &sql).await;
            }
        }
        let deliveries = count(&db, "signals_delivery").await;
        row.desk = 8;
        row.update(&db).await.unwrap();
        assert_eq!(count(&db, "handled").await, 1, "update");
        assert_eq!(count(&db, "signals_delivery").await, deliveries + 3, "an unchanged row is updated");
        row.save(&db).await.unwrap();
        assert_eq!(count(&db, "handled").await, 2, "save");
        row.save_fields(&db, &[Ticket::DESK]).await.unwrap();
        assert_eq!(count(&db, "handled").await, 3, "save_fields");
        setting.value = 2;
        assert!(!setting.save(&db).await.unwrap().created);
        assert_eq!(count(&db, "handled").await, 4, "save of a key of the program");
        let deliveries = count(&db, "signals_delivery").await;
        assert!(!row.delete(&db).await.unwrap());
        assert_eq!(count(&db, "handled").await, 5, "delete");
        assert!(row.id.is_some());
        assert_eq!(count(&db, "signals_delivery").await, deliveries);
    }

    async fn a_delivery_has_the_key_that_the_database_has_assigned(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut gone = ticket("gone");
        gone.save(&db).await.unwrap();
        ticket("parent").save(&db).await.unwrap();
        Parcel { id: None, text: "p".into() }.save(&db).await.unwrap();
        gone.delete(&db).await.unwrap();
        testing::deliver(&db).await.unwrap();
        let log: BTreeSet<String> = SCENE.log.take().into_iter().collect();
        let expected = [
            "announce 1", "announce 2", "announce 3", "close 1 gone", "desk 7", "index 2 parent", "index 3 child",
            "open 1 gone false", "open 2 parent false", "open 3 child true", "ship 1",
        ];
        assert_eq!(log, expected.map(str::to_owned).into());
    }

    async fn the_deliveries_of_many_rows_are_in_the_order_of_the_rows(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut tx = db.begin().await.unwrap();
        // More than one statement of deliveries that are alike, and a statement of others.
        let mut entries: Vec<_> = (0..2500).map(|n| Entry { id: None, text: format!("{n}") }).collect();
        Entry::insert_many(&mut tx, &mut entries).await.unwrap();
        page("first").save(&mut tx).await.unwrap();
        let mut last = Entry { id: None, text: "last".into() };
        last.save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let sql = "SELECT key, receiver FROM signals_delivery ORDER BY id";
        let stored: Vec<(String, String)> = db.query(sql).fetch_all().await.unwrap();
        let mut expected: Vec<_> = entries.iter().map(|entry| (entry.id.unwrap(), "enter")).collect();
        expected.extend([(1, "render"), (last.id.unwrap(), "enter")]);
        let stored = stored.iter().map(|(key, name)| (key.parse().unwrap(), name.rsplit("::").next().unwrap()));
        assert!(stored.eq(expected));
    }

    async fn a_refused_row_stores_no_delivery(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        ticket("a").save(&db).await.unwrap();
        let before = stored(&db).await;
        let mut again = ticket("a");
        assert!(again.save(&db).await.unwrap_err().is_unique_violation());
        let mut gone = Ticket { id: Some(77), ..ticket("gone") };
        assert!(gone.update(&db).await.unwrap_err().is_not_found());
        assert!(ticket("unsaved").update(&db).await.unwrap_err().is_not_found());
        assert!(!gone.delete(&db).await.unwrap());
        let mut stale = page("stale");
        stale.save(&db).await.unwrap();
        stale.clone().save(&db).await.unwrap();
        let pages = stored(&db).await.len();
        assert!(stale.save(&db).await.unwrap_err().is_stale());
        assert_eq!((again.id, stale.version, stored(&db).await.len()), (None, 1, pages));
        assert_eq!(stored(&db).await[..before.len()], before);
        assert_eq!(pages, before.len() + 2);
    }

    async fn a_payload_over_the_limit_stores_nothing(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut large = page(&"x".repeat(1000));
        let refused = large.save(&db.deliveries().max_payload(999)).await.unwrap_err();
        assert!(matches!(refused, Error::PayloadTooLarge { model: "Page", limit: 999, .. }), "{refused:?}");
        assert_eq!((large.id, large.version, count(&db, "pages").await), (None, 1, 0));
        large.save(&db).await.unwrap();
    }

    async fn a_save_without_the_table_of_deliveries_says_what_to_run(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        execute(&db, "DROP TABLE signals_delivery").await;
        let mut new = page("a");
        let refused = new.save(&db).await.unwrap_err();
        assert!(matches!(refused, Error::DeliveriesNotSetUp { .. }), "{refused:?}");
        assert_eq!((new.id, count(&db, "pages").await), (None, 0));
        execute(&db, "DROP TABLE pages").await;
        let refused = new.save(&db).await.unwrap_err().to_string();
        assert!(refused.contains("pages"), "{refused}");
    }

    async fn a_dropped_save_stores_the_row_with_its_deliveries_or_neither(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut completed = 0;
        for round in 0..60 {
            // A pool of its own, so that every save has all the steps.
            let db = one_connection(&db).await;
            let saved = cancelled_after(page(&round.to_string()).save(&db), round / 2).await;
            completed += i64::from(saved.is_some());
            db.close().await;
        }
        let (pages, deliveries) = (count(&db, "pages").await, count(&db, "signals_delivery").await);
        // Which ones are stored, and how often a save waits, depends on how soon the database answers.
        assert!(0 < completed && completed < 60 && completed <= pages, "{completed} {pages}");
        assert_eq!(pages, deliveries);
    }

    async fn a_save_wakes_the_worker_of_its_process(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().poll(Duration::from_secs(600));
        let worker = worker.spawn().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        Parcel { id: None, text: "p".into() }.save(&db).await.unwrap();
        assert_eq!(SCENE.log.wait_for(1).await, ["ship 1"]);
        worker.shutdown().await.unwrap();
    }
}

#[cfg(feature = "postgres")]
mod statements {
    use super::*;
    use crate::common::proxy::Proxy;

    /// The first three words of each statement that an operation sends, after all statements are prepared.
    macro_rules! assert_said {
        ($proxy:expr, $($operation:expr => [$($words:literal)*];)*) => { $(
            let mut said = Vec::new();
            for _ in 0..3 {
                $proxy.take();
                $operation.await.unwrap();
                said = $proxy.take().statements;
            }
            let words = said.iter().map(|sql| sql.split(' ').take(3).collect::<Vec<_>>().join(" "));
            let words: Vec<_> = words.filter(|words| !["ping", "SHOW", "NOTIFY"].iter().any(|word| words.starts_with(word))).collect();
            assert_eq!(words, [$($words),*] as [&str; _], "{}: {said:#?}", stringify!($operation));
        )* };
    }

    #[tokio::test]
    async fn a_row_and_its_deliveries_are_one_statement() {
        let _turn = SCENE.begin().await;
        let test = common::TestDb::postgres("durable_one_statement").await;
        setup(&test.db).await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        let mut n = 0;
        let mut new = || {
            n += 1;
            ticket(&n.to_string())
        };
        let (mut known, mut versioned) = (new(), page("v"));
        known.save(db).await.unwrap();
        versioned.save(db).await.unwrap();
        let mut setting = Setting { name: "a".into(), value: 1 };
        let gone = || Ticket { id: Some(1_000_000), ..ticket("gone") };
        assert_said! { &proxy,
            new().save(db) => ["WITH _written AS"];
            known.save(db) => ["WITH _written AS"];
            known.save_fields(db, &[Ticket::DESK]) => ["WITH _written AS"];
            new().upsert(db, &[Ticket::TITLE]) => ["WITH _updated AS"];
            known.clone().upsert(db, &[Ticket::TITLE]) => ["BEGIN" "WITH _updated AS" "INSERT INTO signals_delivery" "COMMIT"];
            Ticket { id: None, ..known.clone() }.upsert(db, &[Ticket::TITLE]) => ["WITH _updated AS"];
            setting.save(db) => ["WITH _updated AS"];
            async { let mut row = new(); row.save(&test.db).await?; row.delete(db).await } => ["WITH _written AS"];
            gone().delete(db) => ["WITH _written AS"];
            versioned.save(db) => ["WITH _written AS"];
            versioned.save_fields(db, &[Page::TITLE]) => ["WITH _written AS"];
            // No receiver selects the event.
            muted_all(setting.save(db)) => ["WITH _updated AS"];
            Parcel { id: None, text: "p".into() }.save(db) => ["BEGIN" "INSERT INTO \"parcels\"" "INSERT INTO signals_delivery" "COMMIT"];
            Entry { id: None, text: "e".into() }.save(db) => ["BEGIN" "INSERT INTO \"entries\"" "INSERT INTO signals_delivery" "COMMIT"];
            Entry { id: Some(1), text: "e".into() }.save(db) => ["WITH _written AS"];
            Page::insert_many(db, &mut [page(&fastrand::u64(..).to_string()), page(&fastrand::u64(..).to_string())])
                => ["BEGIN" "INSERT INTO \"pages\"" "INSERT INTO signals_delivery" "COMMIT"];
            async {
                let mut conn = db.acquire().await?;
                let mut tx = sqlx_signals::sqlx::Connection::begin(conn.postgres().unwrap()).await?;
                new().save_quietly(&mut tx).await?;
                Ok::<_, Error>(tx.commit().await?)
            } => ["BEGIN" "WITH _written AS" "COMMIT"];
        }
        test.passed().await;
    }

    impl Ticket {
        /// Without `announce`, which can only run if the commit is observed.
        async fn save_quietly(
            &mut self,
            tx: &mut sqlx_signals::sqlx::Transaction<'_, sqlx_signals::sqlx::Postgres>,
        ) -> Result<()> {
            sqlx_signals::muted::<announce, _>(async { self.save(tx).await }).await.map(drop)
        }
    }

    async fn muted_all<T>(save: impl Future<Output = Result<T>>) -> Result<T> {
        let save = async { sqlx_signals::muted::<log_any, _>(save).await };
        sqlx_signals::muted::<log_change, _>(save).await
    }

    #[derive(Debug, Clone, Model, Serialize, Deserialize)]
    #[model(table = "orders")]
    struct Order {
        id: Option<i64>,
        customer: String,
        cents: i64,
    }

    #[receiver(post_save, sender = Order, uid = "shop::invoice", durable(at_least_once))]
    fn invoice(_: PostSave<'_, Order>) {}

    /// A statement without its comments, whose arguments and limit are `?`. Arguments are `$1`, or `:name` in a file of pgbench.
    fn normalized(sql: &str) -> String {
        let lines = sql.lines().filter(|line| !line.starts_with("--"));
        let words = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
        let mut text = String::new();
        let mut chars = words.chars().peekable();
        while let Some(c) = chars.next() {
            let is_argument = match c {
                '$' => true,
                ':' => !text.ends_with(':') && chars.peek().is_some_and(|c| c.is_alphabetic()),
                _ => c.is_ascii_digit() && text.ends_with("LIMIT "),
            };
            text.push(if is_argument { '?' } else { c });
            while is_argument && chars.next_if(|c| c.is_alphanumeric()).is_some() {}
        }
        text
    }

    #[tokio::test]
    async fn the_benchmark_of_scale_has_the_statements_of_the_library() {
        let _turn = SCENE.begin().await;
        let test = common::TestDb::postgres("durable_scale").await;
        setup(&test.db).await;
        table(&test.db, "orders", "customer TEXT NOT NULL, cents BIGINT NOT NULL").await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        Order { id: None, customer: "ann".into(), cents: 1995 }.save(db).await.unwrap();
        let worker = db.deliveries().worker().spawn().await.unwrap();
        while count(&test.db, "signals_delivery").await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        worker.shutdown().await.unwrap();
        let said: Vec<_> = proxy.take().statements.iter().map(|sql| normalized(sql)).collect();
        let files = [
            ("WITH _written", include_str!("../benches/durable/scale/save.sql")),
            ("SELECT r.name", include_str!("../benches/durable/scale/probe.sql")),
            ("WITH due AS MATERIALIZED", include_str!("../benches/durable/scale/claim.sql")),
            (
                "DELETE FROM signals_delivery d",
                include_str!("../benches/durable/scale/acknowledge.sql"),
            ),
        ];
        for (start, file) in files {
            let sent = said.iter().find(|sql| sql.starts_with(start)).expect(start);
            // In the file, the update of a claim is a part of the statement.
            let update = sent.find("UPDATE signals_delivery d").unwrap_or(sent.len());
            for part in [&sent[..update], &sent[update..]] {
                assert!(normalized(file).contains(part.trim()), "{part}\n\n{}", normalized(file));
            }
        }
        test.passed().await;
    }

    #[derive(Debug, Clone, Model, Serialize, Deserialize)]
    #[model(table = "drafts")]
    struct Draft {
        id: Option<i64>,
        text: String,
    }

    #[receiver(post_save, sender = Draft, durable(coalesce = pk, keep = "1d", at_least_once))]
    fn index_draft(_: PostSave<'_, Draft>) {}

    /// Creates the tables again, as a program does whose migrations partition the deliveries.
    async fn partition(db: &Db) {
        let tables = "signals_delivery, signals_done, signals_inbox, signals_schema";
        execute(db, &format!("DROP TABLE IF EXISTS {tables}")).await;
        let options = "WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000)";
        let end = format!("dead_at      timestamptz\n) {options};");
        let partitions = format!(
            "dead_at timestamptz, PRIMARY KEY (id, receiver)) PARTITION BY LIST (receiver); CREATE TABLE signals_delivery_desk \
             PARTITION OF signals_delivery FOR VALUES IN ('the desk''s', 'durable_statement::count_of_desk') {options}; \
             CREATE TABLE signals_delivery_others PARTITION OF signals_delivery DEFAULT {options};"
        );
        for migration in sqlx_signals::durable::migrations(DatabaseKind::Postgres) {
            let sql = migration.sql.replacen("AS IDENTITY PRIMARY KEY", "AS IDENTITY", 1);
            execute(db, &sql.replacen(&end, &partitions, 1)).await;
        }
    }

    #[tokio::test]
    async fn a_program_can_partition_the_deliveries_by_receiver() {
        let _turn = SCENE.begin().await;
        let test = common::TestDb::postgres("durable_partitions").await;
        let db = &test.db;
        setup(db).await;
        table(db, "drafts", "text TEXT NOT NULL").await;
        write_all(db, false).await;
        let expected = stored(db).await;
        execute(db, "TRUNCATE tickets, settings, pages, parcels, entries RESTART IDENTITY").await;
        partition(db).await;
        db.deliveries().setup().await.unwrap();
        write_all(db, false).await;
        assert_eq!(stored(db).await, expected);
        assert!(count(db, "signals_delivery_desk").await > 0);
        let mut draft = Draft { id: None, text: "a".into() };
        draft.save(db).await.unwrap();
        draft.save(db).await.unwrap();
        assert_eq!(count(db, "signals_delivery").await, i64::try_from(expected.len()).unwrap() + 1);
        let worker = db.deliveries().worker().spawn().await.unwrap();
        let due = "(SELECT 1 FROM signals_delivery WHERE run_at < clock_timestamp() + interval '50 minutes') AS due";
        while count(db, due).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        worker.shutdown().await.unwrap();
        assert_eq!(count(db, "signals_delivery WHERE error IS NOT NULL").await, 0);
        assert_eq!(count(db, "signals_done").await, 1);
        test.passed().await;
    }

    /// A statement that changes the table through a rule cannot be a part of another one.
    #[tokio::test]
    async fn a_table_with_a_rule_is_written_in_a_transaction() {
        let _turn = SCENE.begin().await;
        let test = common::TestDb::postgres("durable_rule").await;
        setup(&test.db).await;
        let db = &test.db;
        let rule = "CREATE TABLE copies (title TEXT); CREATE RULE copy AS ON INSERT TO pages DO ALSO INSERT INTO copies VALUES (NEW.title)";
        execute(db, rule).await;
        for title in ["a", "b"] {
            page(title).save(db).await.unwrap();
        }
        let mut tx = db.postgres().unwrap().begin().await.unwrap();
        page("c").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!((count(db, "copies").await, count(db, "signals_delivery").await), (3, 3));
        execute(db, "DROP TABLE signals_delivery; DROP RULE copy ON pages").await;
        // With a lookup of the table, and without one.
        for _ in 0..2 {
            let mut tx = db.postgres().unwrap().begin().await.unwrap();
            let refused = page("d").save(&mut tx).await.unwrap_err();
            assert!(matches!(refused, Error::DeliveriesNotSetUp { .. }), "{refused:?}");
        }
        test.passed().await;
    }

    #[tokio::test]
    async fn without_a_statement_cache_the_deliveries_are_stored_too() {
        let _turn = SCENE.begin().await;
        let test = common::TestDb::postgres("durable_unnamed").await;
        setup(&test.db).await;
        let db = Db::options().statement_cache(false).connect(&test.url).await.unwrap();
        page("a").save(&db).await.unwrap();
        assert_eq!(count(&db, "signals_delivery").await, 1);
        test.passed().await;
    }
}
