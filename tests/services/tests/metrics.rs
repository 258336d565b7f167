//! The metrics of writes, receivers, transactions and the pool, as a recorder of the program sees them.
#![allow(missing_docs)]

#[path = "../../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use common::table;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use sqlx_signals::prelude::*;

type Values = Arc<Mutex<BTreeMap<String, Vec<f64>>>>;

/// Remembers every value of every metric, by name and labels, and how often the library has asked for the metric.
#[derive(Clone, Default)]
struct Seen {
    values: Values,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

struct Cell(String, Values);

impl Cell {
    fn push(&self, value: f64) {
        self.1.lock().unwrap().entry(self.0.clone()).or_default().push(value);
    }
}

impl CounterFn for Cell {
    fn increment(&self, value: u64) {
        self.push(f64::from(u32::try_from(value).unwrap()));
    }

    fn absolute(&self, _: u64) {
        unreachable!("the library only increments");
    }
}

impl HistogramFn for Cell {
    fn record(&self, value: f64) {
        self.push(value);
    }
}

impl GaugeFn for Cell {
    fn increment(&self, value: f64) {
        self.push(value);
    }

    fn decrement(&self, value: f64) {
        self.push(-value);
    }

    fn set(&self, value: f64) {
        self.push(value);
    }
}

impl Seen {
    fn cell(&self, key: &Key) -> Arc<Cell> {
        let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value()));
        let labels = labels.collect::<Vec<_>>().join(",");
        let name = format!("{}{{{labels}}}", key.name());
        *self.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        Arc::new(Cell(name, Arc::clone(&self.values)))
    }

    fn of(&self, name: &str) -> Vec<f64> {
        self.values.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

impl Recorder for Seen {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(key))
    }
}

static SEEN: LazyLock<Seen> = LazyLock::new(|| {
    let seen = Seen::default();
    let _ = metrics::set_global_recorder(seen.clone());
    seen
});

/// Each database has models of its own, because the recorder is the one of the process.
macro_rules! models {
    ($($database:ident)*) => { $(
        mod $database {
            use super::*;

            #[derive(Debug, Clone, Model)]
            #[model(table = "plain")]
            pub(crate) struct Plain {
                pub(crate) id: Option<i64>,
                pub(crate) n: i64,
            }

            #[derive(Debug, Clone, Model)]
            #[model(table = "received")]
            pub(crate) struct Received {
                pub(crate) id: Option<i64>,
                pub(crate) n: i64,
            }

            #[receiver(post_save, sender = Received)]
            pub(crate) async fn check(saved: PostSave<'_, Received>) -> Result<(), &'static str> {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                if saved.instance.n < 0 { Err("negative") } else { Ok(()) }
            }

            #[derive(Debug, Model, serde::Serialize, serde::Deserialize)]
            #[model(table = "letters")]
            pub(crate) struct Letter {
                pub(crate) id: Option<i64>,
                pub(crate) text: String,
            }

            #[receiver(post_save, sender = Letter, durable(max_attempts = 2, backoff = "10ms"))]
            pub(crate) async fn post(saved: PostSave<'_, Letter>, _delivery: Delivery<'_>) -> Result<(), &'static str> {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                if saved.instance.text == "fails" { Err("no stamp") } else { Ok(()) }
            }

            #[derive(Debug, Model, serde::Serialize, serde::Deserialize)]
            #[model(table = "notes")]
            pub(crate) struct Note {
                pub(crate) id: Option<i64>,
                pub(crate) n: i64,
            }

            #[receiver(post_save, sender = Note, durable(at_least_once))]
            pub(crate) async fn read(_: PostSave<'_, Note>) {}

            pub(crate) async fn store_notes(db: &Db, count: usize) {
                let mut notes: Vec<_> = (0..).map(|n| Note { id: None, n }).take(count).collect();
                Note::insert_many(db, &mut notes).await.unwrap();
            }

            pub(crate) async fn store_letters(db: &Db) {
                for text in ["a", "fails", "b"] {
                    Letter { id: None, text: text.into() }.save(db).await.unwrap();
                }
            }

            pub(crate) async fn work(db: &Db) {
                let mut plain = Plain { id: None, n: 1 };
                plain.save(db).await.unwrap();
                plain.save(db).await.unwrap();
                Plain { id: plain.id, n: 2 }.insert(db).await.unwrap_err();
                plain.delete(db).await.unwrap();
                Plain::query("WHERE n = 1").set(Plain::N, 2).update(db).await.unwrap();
                Plain::query("WHERE n = 1").delete(db).await.unwrap();
                Plain::delete_by_key(db, 7).await.unwrap();
                Plain::query("WHERE nowhere = 1").set(Plain::N, 2).update(db).await.unwrap_err();
                Received::query("WHERE n > 100").set(Received::N, 2).update(db).await.unwrap();
                Received { id: None, n: 1 }.save(db).await.unwrap();
                Received { id: None, n: -1 }.save(db).await.unwrap_err();
            }
        }
    )* };
}

models!(on_sqlite on_postgres);

on_every_database! {
    async fn writes_and_receivers_are_counted_and_timed(db: Db) {
        let seen = &*SEEN;
        table(&db, "plain", "n BIGINT NOT NULL").await;
        table(&db, "received", "n BIGINT NOT NULL").await;
        let database = match db.kind() {
            sqlx_signals::DatabaseKind::Sqlite => "on_sqlite",
            sqlx_signals::DatabaseKind::Postgres => "on_postgres",
        };
        // The labels name the model without its path, so each database counts by itself only for receivers.
        let writes = |operation: &str, model: &str, outcome: &str| {
            let labels = format!("{{operation={operation},model={model},outcome={outcome}}}");
            let seconds = seen.of(&format!("sqlx_signals_write_duration_seconds{labels}"));
            let count = seen.of(&format!("sqlx_signals_writes_total{labels}"));
            assert_eq!(count.len(), seconds.len());
            count.len()
        };
        let all = || {
            [
                writes("save", "Plain", "ok"),
                writes("save", "Plain", "error"),
                writes("delete", "Plain", "ok"),
                writes("save", "Received", "ok"),
                writes("save", "Received", "error"),
            ]
        };
        // The tests of the two databases take turns.
        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = TURN.lock().await;
        let before = all();
        let transactions = |outcome: &str| {
            seen.of(&format!("sqlx_signals_transaction_duration_seconds{{outcome={outcome}}}")).len()
        };
        let ended = [transactions("commit"), transactions("rollback")];
        match database {
            "on_sqlite" => on_sqlite::work(&db).await,
            _ => on_postgres::work(&db).await,
        }
        let grown: Vec<_> = all().iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(grown, [3, 2, 3, 1, 1]);
        assert!(transactions("commit") > ended[0] && transactions("rollback") > ended[1]);

        let labels = format!("{{receiver=metrics::{database}::check,signal=post_save,model=Received}}");
        let of = |name: &str| seen.of(&format!("sqlx_signals_receiver_{name}{labels}"));
        assert_eq!((of("runs_total").len(), of("errors_total").len()), (2, 1));
        assert!(of("duration_seconds").iter().all(|seconds| (0.005..5.0).contains(seconds)));
    }
}

on_every_database! {
    async fn the_runs_of_deliveries_are_counted_and_timed(db: Db) {
        let seen = &*SEEN;
        table(&db, "letters", "text TEXT NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let database = match db.kind() {
            sqlx_signals::DatabaseKind::Sqlite => "on_sqlite",
            sqlx_signals::DatabaseKind::Postgres => "on_postgres",
        };
        match database {
            "on_sqlite" => on_sqlite::store_letters(&db).await,
            _ => on_postgres::store_letters(&db).await,
        }
        let receiver = format!("receiver=metrics::{database}::post");
        let runs = |outcome: &str| {
            seen.of(&format!("sqlx_signals_deliveries_total{{{receiver},outcome={outcome}}}")).len()
        };
        let worker = db.deliveries().worker().spawn().await.unwrap();
        common::until(|| runs("succeeded") == 2 && runs("dead") == 1).await;
        worker.shutdown().await.unwrap();
        assert_eq!(runs("failed"), 1);
        let of = |name: &str| seen.of(&format!("sqlx_signals_delivery_{name}{{{receiver}}}"));
        assert_eq!((of("duration_seconds").len(), of("lag_seconds").len()), (4, 3));
        assert!(of("duration_seconds").iter().all(|seconds| (0.005..5.0).contains(seconds)));
        assert!(of("lag_seconds").iter().all(|seconds| (0.0..30.0).contains(seconds)));

        // A worker sets the gauges when it starts, and then regularly.
        let gauge = |state: &str| seen.of(&format!("sqlx_signals_deliveries{{{receiver},state={state}}}")).last().copied();
        let worker = db.deliveries().worker().spawn().await.unwrap();
        common::until(|| gauge("dead") == Some(1.0)).await;
        assert_eq!([gauge("waiting"), gauge("running"), gauge("retrying")], [Some(0.0); 3]);
        assert_eq!(of("oldest_due_seconds").last(), Some(&0.0));
        worker.shutdown().await.unwrap();
    }
}

/// The metrics of a delivery of a note that succeeds at its first attempt.
fn metrics_of_a_note(database: &str) -> [String; 5] {
    let receiver = format!("receiver=metrics::{database}::read");
    let delivery = |name: &str| format!("sqlx_signals_delivery_{name}{{{receiver}}}");
    let run = |name: &str| {
        format!("sqlx_signals_receiver_{name}{{{receiver},signal=post_save,model=Note}}")
    };
    [
        format!("sqlx_signals_deliveries_total{{{receiver},outcome=succeeded}}"),
        delivery("duration_seconds"),
        delivery("lag_seconds"),
        run("runs_total"),
        run("duration_seconds"),
    ]
}

on_every_database! {
    async fn a_worker_asks_for_a_metric_only_now_and_then(db: Db) {
        const NOTES: usize = 300;
        let seen = &*SEEN;
        table(&db, "notes", "n BIGINT NOT NULL").await;
        db.deliveries().setup().await.unwrap();
        let database = match db.kind() {
            sqlx_signals::DatabaseKind::Sqlite => {
                on_sqlite::store_notes(&db, NOTES).await;
                "on_sqlite"
            }
            sqlx_signals::DatabaseKind::Postgres => {
                on_postgres::store_notes(&db, NOTES).await;
                "on_postgres"
            }
        };
        let all = metrics_of_a_note(database);
        let worker = db.deliveries().worker().spawn().await.unwrap();
        common::until(|| all.iter().all(|metric| seen.of(metric).len() == NOTES)).await;
        worker.shutdown().await.unwrap();
        // Each worker of another test that starts meanwhile makes it ask once more.
        for metric in all {
            let asked = seen.asked(&metric);
            assert!((1..NOTES / 3).contains(&asked), "{metric}: {asked}");
        }
    }
}

/// A recorder of a thread is seen here, because everything runs on this thread.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_recorder_that_is_set_while_a_worker_runs_sees_the_next_deliveries() {
    let test = common::TestDb::sqlite("metrics::set_while_a_worker_runs").await;
    let db = &test.db;
    table(db, "notes", "n BIGINT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
    let metrics = metrics_of_a_note("on_sqlite");
    let recorders = [Seen::default(), Seen::default()];
    let counts = || recorders.each_ref().map(|seen| metrics.each_ref().map(|m| seen.of(m).len()));
    let worker = db.deliveries().worker().spawn().await.unwrap();
    for (n, recorder) in recorders.iter().enumerate() {
        let _guard = metrics::set_default_local_recorder(recorder);
        on_sqlite::store_notes(db, 1).await;
        let recorded = || counts().iter().flatten().sum::<usize>();
        common::until(|| recorded() == (n + 1) * metrics.len()).await;
    }
    assert_eq!(counts(), [[1; 5]; 2]);
    worker.shutdown().await.unwrap();
    test.passed().await;
}

/// The recorders of these tests have the same address.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn tests_in_succession_have_recorders_of_their_own() {
    let test = common::TestDb::sqlite("metrics::in_succession").await;
    table(&test.db, "notes", "n BIGINT NOT NULL").await;
    test.db.deliveries().setup().await.unwrap();
    let runs = "sqlx_signals_receiver_runs_total{receiver=metrics::on_sqlite::read,signal=post_save,model=Note}";
    let mut recorder;
    for _ in 0..3 {
        recorder = Seen::default();
        let _guard = metrics::set_default_local_recorder(&recorder);
        on_sqlite::store_notes(&test.db, 1).await;
        sqlx_signals::testing::deliver(&test.db).await.unwrap();
        assert_eq!(recorder.of(runs), [1.0]);
    }
    test.passed().await;
}

/// Another pool of at most two connections to the same database, as a program makes it with sqlx, and its name in the metrics.
macro_rules! pool_of_two {
    ($options:ty, $pool:expr) => {{
        let options = <$options>::new().max_connections(2).min_connections(0);
        options.connect_lazy_with((*$pool.connect_options()).clone())
    }};
}

/// The current values of a pool: connections in use, idle connections, waiting callers.
fn pool(name: &str) -> [f64; 3] {
    let last = |metric: String| SEEN.of(&metric).last().copied().unwrap_or(f64::NAN);
    let connections =
        |state| last(format!("sqlx_signals_pool_connections{{pool={name},state={state}}}"));
    let waiting = last(format!("sqlx_signals_pool_waiting{{pool={name}}}"));
    [connections("in_use"), connections("idle"), waiting]
}

/// Takes a connection directly from sqlx's pool.
async fn take(db: &Db) -> Box<dyn Send> {
    match db.kind() {
        sqlx_signals::DatabaseKind::Sqlite => {
            Box::new(db.sqlite().unwrap().acquire().await.unwrap())
        }
        sqlx_signals::DatabaseKind::Postgres => {
            Box::new(db.postgres().unwrap().acquire().await.unwrap())
        }
    }
}

on_every_database! {
    async fn the_gauges_of_a_pool_follow_its_connections_and_callers(db: Db) {
        LazyLock::force(&SEEN);
        db.execute("SELECT 1").await.unwrap();
        // The pool of the test has the name of the database already.
        let (shared, name) = match db.kind() {
            sqlx_signals::DatabaseKind::Sqlite => {
                let pool = pool_of_two!(sqlx::sqlite::SqlitePoolOptions, db.sqlite().unwrap());
                let options = pool.connect_options();
                let file = options.get_filename().file_name().unwrap().display().to_string();
                (Db::from(pool), format!("{file}#2"))
            }
            sqlx_signals::DatabaseKind::Postgres => {
                let pool = pool_of_two!(sqlx::postgres::PgPoolOptions, db.postgres().unwrap());
                let database = pool.connect_options().get_database().unwrap().to_owned();
                (Db::from(pool), format!("{database}#2"))
            }
        };
        let reads = |expected: [f64; 3]| {
            let name = &name;
            async move {
                let shown = common::until(|| pool(name) == expected);
                let shown = tokio::time::timeout(std::time::Duration::from_secs(60), shown).await;
                assert!(shown.is_ok(), "{:?} instead of {expected:?}", pool(name));
            }
        };
        let first = shared.acquire().await.unwrap();
        reads([1., 0., 0.]).await;
        // A connection that the library keeps for its next call is idle.
        drop(first);
        reads([0., 1., 0.]).await;
        let mut held = vec![take(&shared).await, take(&shared).await];
        reads([2., 0., 0.]).await;

        let other = shared.clone();
        let waiter = tokio::spawn(async move { other.acquire().await });
        reads([2., 0., 1.]).await;
        // Another `Db` of the same pool has the same gauges.
        let same = match shared.kind() {
            sqlx_signals::DatabaseKind::Sqlite => Db::from(shared.sqlite().unwrap().clone()),
            sqlx_signals::DatabaseKind::Postgres => Db::from(shared.postgres().unwrap().clone()),
        };
        let dropped = tokio::spawn(async move { same.execute("SELECT 1").await });
        reads([2., 0., 2.]).await;
        dropped.abort();
        reads([2., 0., 1.]).await;

        held.pop();
        let got = waiter.await.unwrap().unwrap();
        reads([2., 0., 0.]).await;
        drop((got, held));
        reads([0., 2., 0.]).await;
        shared.close().await;
        reads([0., 0., 0.]).await;
    }
}
