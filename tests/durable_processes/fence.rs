//! A worker that is stopped beyond its lease, then continued: its claim has passed to another worker, so it changes nothing.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, DbOptions, Error, sqlx};
use tokio::sync::Notify;

use crate::process::{Process, stop_this_process};
use crate::{Effects, Scene, book};

const LEASE: Duration = Duration::from_millis(500);

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "pauses")]
struct Pause {
    id: Option<i64>,
    /// What the stopped worker does when it continues.
    name: String,
}

/// The same, for a receiver in the transaction of its delivery.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "stops")]
struct Stop {
    id: Option<i64>,
    name: String,
}

/// Is notified when a receiver has returned or was stopped.
static RETURNED: Notify = Notify::const_new();

struct Returns;

impl Drop for Returns {
    fn drop(&mut self) {
        RETURNED.notify_one();
    }
}

/// Stops this process until the test continues it. A statement that is in progress ends before, so that the process does not keep the write
/// lock of SQLite, unless another task is in a transaction. No other statement begins, because this blocks the runtime.
fn stop() {
    std::thread::sleep(Duration::from_millis(300));
    stop_this_process();
}

#[receiver(post_save, sender = Pause, durable(backoff = "1h"))]
async fn pause_outside(
    saved: PostSave<'_, Pause>,
    delivery: Delivery<'_>,
    State(effects): State<Effects>,
) -> Result<()> {
    effects.push(&saved.instance.name, &delivery);
    if !effects.is_child {
        return Err(Error::other("the second worker has run it"));
    }
    let _returns = Returns;
    stop();
    match saved.instance.name.as_str() {
        "acknowledge" => Ok(()),
        "fail" => Err(Error::other("the stopped worker has run it")),
        _ => std::future::pending().await,
    }
}

#[receiver(post_save, sender = Stop, durable(queue = "stops", backoff = "1h", timeout = "2s"))]
async fn pause_inside(
    saved: PostSave<'_, Stop>,
    delivery: Delivery<'_>,
    State(effects): State<Effects>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    effects.push(&saved.instance.name, &delivery);
    if !effects.is_child {
        return Err(Error::other("the second worker has run it"));
    }
    let _returns = Returns;
    if saved.instance.name == "inside" {
        stop_this_process();
    }
    book("by the stopped worker", conn).await
}

/// Stops the worker between its claim and the transaction of the receiver.
pub(crate) fn stops_before_a_transaction(name: &str) -> DbOptions {
    if name != "transaction" {
        return Db::options();
    }
    Db::options().after_connect(|conn| {
        Box::pin(async move {
            let sql = "SELECT count(*) FROM signals_delivery WHERE worker IS NOT NULL";
            let (claimed,): (i64,) = conn.query(sql).fetch_one().await?;
            if claimed > 0 {
                stop();
                RETURNED.notify_one();
            }
            Ok(())
        })
    })
}

/// The child: works until its receiver has returned.
pub(crate) async fn pause(db: &Db, name: &str) {
    let worker = db.deliveries().worker().lease(LEASE).concurrency(2);
    let worker = match name {
        // A transaction may be idle for the timeout of the receivers of the worker, and a lease.
        "inside" => worker.queues(["stops"]),
        _ => worker,
    };
    let worker = worker.spawn().await.unwrap();
    RETURNED.notified().await;
    worker.shutdown().await.unwrap();
}

type Row = (i64, i64, i32, i32, Option<String>, Option<String>, String);

/// What the stopped worker must not change.
async fn row(scene: &Scene) -> Option<Row> {
    let sql = "SELECT id, claim, attempt, lost, worker, error, CAST(run_at AS TEXT) FROM signals_delivery";
    scene.db.query(sql).fetch_optional().await.unwrap()
}

async fn claimed(scene: &Scene, claim: i64, is_failed: bool) -> Row {
    let found = async {
        loop {
            match row(scene).await {
                // A process that gets no time loses its claim, and claims again.
                Some(row) if row.1 >= claim && row.5.is_some() == is_failed => return row,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(120), found).await {
        Ok(row) => row,
        Err(_) => panic!("no claim {claim} (failed: {is_failed}): {}", state(scene).await),
    }
}

/// The delivery, and on PostgreSQL the sessions of the database and their locks.
async fn state(scene: &Scene) -> String {
    let mut state = format!("{:?}, effects {:?}", row(scene).await, scene.effects.read());
    if scene.db.kind() == DatabaseKind::Postgres {
        for table in [
            "(SELECT pid, application_name, state, wait_event, xact_start, query FROM pg_stat_activity WHERE datname = current_database())",
            "(SELECT pid, locktype, relation::regclass, mode, granted FROM pg_locks WHERE pid <> pg_backend_pid())",
        ] {
            let sql = sqlx::AssertSqlSafe(format!("SELECT row_to_json(t)::text FROM {table} t"));
            let rows: Vec<(String,)> = scene.db.query(sql).fetch_all().await.unwrap();
            rows.into_iter().for_each(|(row,)| state.push_str(&format!("\n{row}")));
        }
    }
    state
}

/// A database with a claimed delivery, and the stopped process that has claimed it.
async fn stopped(kind: DatabaseKind, name: &str) -> (Scene, Process) {
    loop {
        let scene = Scene::new(kind, &format!("fence_{name}")).await;
        match name {
            "transaction" | "inside" => {
                Stop { id: None, name: name.into() }.save(&scene.db).await.unwrap()
            }
            _ => Pause { id: None, name: name.into() }.save(&scene.db).await.unwrap(),
        };
        let stopped = Process::start(&scene, "pause", name);
        claimed(&scene, 1, false).await;
        stopped.until_stopped().await;
        let write = "DELETE FROM signals_delivery WHERE 1 = 0";
        match scene.db.execute(write).await {
            Ok(_) => return (scene, stopped),
            // Another task of the process was in a transaction. SQLite has one writer, so no other worker can do anything.
            Err(error) => {
                assert!(error.is_busy(), "{error:#}");
                println!("begun again: {error:#}");
                stopped.kill();
                scene.passed().await;
            }
        }
    }
}

async fn fence(kind: DatabaseKind, name: &str) {
    let begun = Instant::now();
    let (scene, stopped) = stopped(kind, name).await;
    let worker = scene.db.deliveries().worker().poll(Duration::from_millis(20));
    let worker = worker.spawn().await.unwrap();
    let before = claimed(&scene, 2, true).await;
    worker.shutdown().await.unwrap();
    stopped.go_on();
    stopped.end().await;

    assert_eq!(row(&scene).await, Some(before), "the stopped worker changes nothing");
    assert_eq!(scene.names("bookings").await, [""; 0], "its receiver does not run");
    let effects = scene.effects.read();
    let expected = if name == "transaction" { 1 } else { 2 };
    assert_eq!(effects.len(), expected);
    assert!(effects.iter().all(|effect| effect.key == effects[0].key));
    println!("{kind:?}, {name}: fenced, {:?}", begun.elapsed());
    scene.passed().await;
}

macro_rules! fence {
    ($($name:ident: $kind:ident, $what:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            fence(DatabaseKind::$kind, $what).await;
        }
    )* };
}

fence! {
    a_worker_stopped_beyond_its_lease_does_not_acknowledge_on_sqlite: Sqlite, "acknowledge";
    a_worker_stopped_beyond_its_lease_does_not_acknowledge_on_postgres: Postgres, "acknowledge";
    a_worker_stopped_beyond_its_lease_stores_no_failure_on_sqlite: Sqlite, "fail";
    a_worker_stopped_beyond_its_lease_stores_no_failure_on_postgres: Postgres, "fail";
    a_worker_stopped_beyond_its_lease_does_not_renew_on_sqlite: Sqlite, "renew";
    a_worker_stopped_beyond_its_lease_does_not_renew_on_postgres: Postgres, "renew";
    a_worker_stopped_beyond_its_lease_does_not_run_in_a_transaction_on_sqlite: Sqlite, "transaction";
    a_worker_stopped_beyond_its_lease_does_not_run_in_a_transaction_on_postgres: Postgres, "transaction";
    a_worker_stopped_in_a_transaction_does_not_keep_its_delivery_locked_on_postgres: Postgres, "inside";
}
