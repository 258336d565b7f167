//! The metrics of writes, receivers, transactions and the pool, as a recorder of the program sees them.
#![allow(missing_docs)]

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

/// Remembers every value of every metric, by name and labels.
#[derive(Clone, Default)]
struct Seen(Values);

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
        Arc::new(Cell(format!("{}{{{labels}}}", key.name()), Arc::clone(&self.0)))
    }

    fn of(&self, name: &str) -> Vec<f64> {
        self.0.lock().unwrap().get(name).cloned().unwrap_or_default()
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

            pub(crate) async fn work(db: &Db) {
                let mut plain = Plain { id: None, n: 1 };
                plain.save(db).await.unwrap();
                plain.save(db).await.unwrap();
                Plain { id: plain.id, n: 2 }.insert(db).await.unwrap_err();
                plain.delete(db).await.unwrap();
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
        assert_eq!(grown, [2, 1, 1, 1, 1]);
        assert!(transactions("commit") > ended[0] && transactions("rollback") > ended[1]);

        let labels = format!("{{receiver=metrics::{database}::check,signal=post_save,model=Received}}");
        let of = |name: &str| seen.of(&format!("sqlx_signals_receiver_{name}{labels}"));
        assert_eq!((of("runs_total").len(), of("errors_total").len()), (2, 1));
        assert!(of("duration_seconds").iter().all(|seconds| (0.005..5.0).contains(seconds)));
    }
}
