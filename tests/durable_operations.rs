//! What an operator does with deliveries, and the warnings about those that nobody runs.
#![allow(missing_docs)]

mod common;
#[path = "common/events.rs"]
mod events;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use common::{Log, Scene, count, execute, many_deliveries, table};
use events::Events;
use serde::{Deserialize, Serialize};
use sqlx_signals::durable::{
    DeliveryFilter, DeliveryState, StoredDelivery, Uuid, WarningIntervals,
};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, testing};
use tokio::sync::Semaphore;

static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "entries")]
struct Entry {
    id: Option<i64>,
    account: String,
    text: String,
}

/// Its receiver writes in the transaction of its delivery.
#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "payments")]
struct Payment {
    id: Option<i64>,
    cents: i64,
}

#[derive(Debug, Signal, Serialize, Deserialize)]
struct Reminder {
    text: String,
}

/// What the receiver of a user called “slow” waits for.
static GATE: Semaphore = Semaphore::const_new(0);

#[receiver(post_save, sender = User, durable(queue = "mail", max_attempts = 2, backoff = "1h"))]
async fn welcome(saved: PostSave<'_, User>, delivery: Delivery<'_>) -> Result<()> {
    let name = saved.instance.name.as_str();
    SCENE.log.push(format!("{name} {}", delivery.attempt()));
    match name {
        "fails" => Err(Error::other("the mail server is down")),
        "slow" => {
            GATE.acquire().await.unwrap().forget();
            Ok(())
        }
        _ => Ok(()),
    }
}

#[receiver(post_save, sender = Entry, durable(ordering_key = account, max_attempts = 1, was = "durable_operations::old_apply"))]
async fn apply(saved: PostSave<'_, Entry>, _delivery: Delivery<'_>) -> Result<()> {
    let Entry { account, text, .. } = saved.instance;
    SCENE.log.push(format!("{account}: {text}"));
    if text == "fails" { Err(Error::other("no")) } else { Ok(()) }
}

#[receiver(post_save, sender = Payment, durable)]
async fn book(saved: PostSave<'_, Payment>, conn: &mut Conn<'_>) -> Result<()> {
    let text = format!("{} cents", saved.instance.cents);
    SCENE.log.push(text.as_str());
    tokio::time::sleep(Duration::from_millis(400)).await;
    conn.query("INSERT INTO booked (text) VALUES ($1)").bind(text).execute().await?;
    Ok(())
}

#[receiver(Reminder, uid = "reminders", durable(delay = "1h"))]
async fn remind(reminder: &Reminder, _delivery: Delivery<'_>) {
    SCENE.log.push(reminder.text.as_str());
}

async fn setup(db: &Db) {
    table(db, "users", "name TEXT NOT NULL").await;
    table(db, "entries", "account TEXT NOT NULL, text TEXT NOT NULL").await;
    let cents = match db.kind() {
        DatabaseKind::Sqlite => "cents INTEGER NOT NULL",
        DatabaseKind::Postgres => "cents BIGINT NOT NULL",
    };
    table(db, "payments", cents).await;
    table(db, "booked", "text TEXT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
}

async fn save(db: &Db, name: &str) {
    User { id: None, name: name.into() }.save(db).await.unwrap();
}

async fn save_entry(db: &Db, account: &str, text: &str) {
    Entry { id: None, account: account.into(), text: text.into() }.save(db).await.unwrap();
}

/// Saves a user whose delivery fails until it is dead.
async fn dead(db: &Db) {
    save(db, "fails").await;
    for _ in 0..2 {
        testing::deliver(db).await.unwrap();
        testing::make_due(db).await.unwrap();
    }
    SCENE.log.take();
}

async fn list(db: &Db, filter: DeliveryFilter) -> Vec<StoredDelivery> {
    db.deliveries().list(filter).await.unwrap()
}

async fn only(db: &Db) -> StoredDelivery {
    let mut all = list(db, DeliveryFilter::new()).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// An SQL expression of a time this number of seconds from now.
fn in_seconds(db: &Db, seconds: i64) -> String {
    match db.kind() {
        DatabaseKind::Sqlite => format!("(unixepoch() + {seconds}) * 1000"),
        DatabaseKind::Postgres => format!("now() + {seconds} * interval '1 second'"),
    }
}

async fn set_lease_end(db: &Db, seconds: i64) {
    let end = in_seconds(db, seconds);
    execute(db, &format!("UPDATE signals_delivery SET run_at = {end} WHERE worker IS NOT NULL"))
        .await;
}

/// The ids of the deliveries of all pages of a list.
async fn ids_of_pages(db: &Db, mut filter: DeliveryFilter) -> Vec<i64> {
    let mut ids = Vec::new();
    loop {
        let page = db.deliveries().page(filter.clone()).await.unwrap();
        ids.extend(page.deliveries.iter().map(|delivery| delivery.id));
        match page.next {
            Some(id) => filter = filter.after_id(id),
            None => return ids,
        }
    }
}

/// The warnings about deliveries that nobody runs.
static WARNINGS: LazyLock<Log> = LazyLock::new(|| {
    let selects = |metadata: &tracing::Metadata<'_>| {
        metadata.target().starts_with("sqlx_signals_core::durable")
            && *metadata.level() == tracing::Level::WARN
    };
    let hear = |event: &tracing::Event<'_>| {
        let text = events::text(event);
        if text.contains("no worker has claimed") || text.contains("does not have") {
            WARNINGS.push(text);
        }
    };
    tracing::subscriber::set_global_default(Events { selects, hear }).unwrap();
    Log::default()
});

/// The `Db` with the intervals of the warnings in milliseconds. The warnings before it are forgotten.
fn warning_every(db: &Db, unclaimed: u64, unknown: u64) -> Db {
    WARNINGS.take();
    let (unclaimed, unknown) = (Duration::from_millis(unclaimed), Duration::from_millis(unknown));
    db.with(WarningIntervals { unclaimed, unknown })
}

/// The warnings of two and a half intervals of 200 milliseconds.
async fn warnings_of_two_intervals() -> Vec<String> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    WARNINGS.take()
}

const HOUR: u64 = 3_600_000;

on_every_database! {
    async fn the_process_warns_while_nobody_claims_what_it_has_stored(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = warning_every(&db, 200, HOUR);
        save(&db, "a").await;
        for text in ["first", "behind it"] {
            save_entry(&db, "x", text).await;
        }
        // The first check may come before the last of them is stored.
        let mut complete = Vec::new();
        while complete.len() < 2 {
            let warnings = WARNINGS.wait_for(1).await.into_iter();
            complete.extend(warnings.filter(|warning| warning.contains("deliveries=2")));
        }
        for warning in complete {
            assert!(warning.contains("::apply, ") && warning.contains("::welcome\""), "{warning}");
        }
        testing::deliver(&db).await.unwrap();
        WARNINGS.take();
        assert!(warnings_of_two_intervals().await.is_empty());
        // The watch has ended, and begins again with the next commit.
        save(&db, "b").await;
        testing::deliver(&db).await.unwrap();
        WARNINGS.take();
        assert!(warnings_of_two_intervals().await.is_empty());
        save(&db, "c").await;
        let warnings = WARNINGS.wait_for(1).await;
        assert!(warnings[0].contains("deliveries=1"), "{warnings:?}");
    }

    async fn a_delivery_that_is_stored_shortly_before_a_check_is_warned_of_at_the_next_one(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = warning_every(&db, 400, HOUR);
        save(&db, "a").await;
        testing::deliver(&db).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        save(&db, "b").await;
        let warnings = WARNINGS.wait_for(1).await;
        assert!(warnings[0].contains("deliveries=1"), "{warnings:?}");
    }

    async fn the_process_does_not_warn_if_a_worker_is_busy_with_the_same_receiver(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = warning_every(&db, 200, HOUR);
        let mut tx = db.begin().await.unwrap();
        for name in ["running", "waiting"] {
            User { id: None, name: name.into() }.save(&mut tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        execute(&db, "UPDATE signals_delivery SET worker = 'busy', claim = 1 WHERE id = 1").await;
        WARNINGS.take();
        assert!(warnings_of_two_intervals().await.is_empty());
        execute(&db, "DELETE FROM signals_delivery WHERE id = 1").await;
        let warnings = WARNINGS.wait_for(1).await;
        assert!(warnings[0].contains("deliveries=1") && warnings[0].contains("::welcome\""), "{warnings:?}");
    }

    async fn the_process_does_not_warn_of_a_key_that_is_blocked_under_a_former_name_of_the_receiver(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let db = warning_every(&db, 200, HOUR);
        save_entry(&db, "x", "first").await;
        execute(
            &db,
            "UPDATE signals_delivery SET receiver = 'durable_operations::old_apply', claim = 1 WHERE receiver LIKE '%::apply'",
        )
        .await;
        save_entry(&db, "x", "behind it").await;
        WARNINGS.take();
        assert!(warnings_of_two_intervals().await.is_empty());
        // Another key is not blocked.
        save_entry(&db, "y", "first").await;
        let warnings = WARNINGS.wait_for(1).await;
        assert!(warnings[0].contains("deliveries=1") && warnings[0].contains("::apply\""), "{warnings:?}");
    }

    async fn a_worker_warns_of_unknown_receivers_at_its_start_and_later(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        registry().get::<welcome>().disable();
        for receiver in ["old::path", "%welcome", "dead::path"] {
            execute(
                &db,
                &format!("INSERT INTO signals_delivery (event, receiver, signal, sender, payload) \
                    VALUES ('0198c0f4-0000-7000-8000-000000000000', '{receiver}', 'post_save', 'users', '{{}}')"),
            )
            .await;
        }
        let known = format!("{}::welcome", module_path!().split("::").next().unwrap());
        execute(&db, &format!("UPDATE signals_delivery SET receiver = '{known}' WHERE receiver = '%welcome'")).await;
        execute(&db, &format!("UPDATE signals_delivery SET dead_at = {} WHERE receiver = 'dead::path'", in_seconds(&db, 0))).await;
        let at_start = warning_every(&db, HOUR, HOUR);
        // The receivers of other queues are known too.
        let worker = at_start.deliveries().worker().queues(["other"]).spawn().await.unwrap();
        let warnings = WARNINGS.wait_for(1).await;
        assert!(warnings[0].contains("receiver=\"old::path\" deliveries=1"), "{warnings:?}");
        assert!(warnings_of_two_intervals().await.is_empty());
        worker.shutdown().await.unwrap();

        let often = warning_every(&db, HOUR, 50);
        let worker = often.deliveries().worker().spawn().await.unwrap();
        for warning in WARNINGS.wait_for(3).await {
            assert!(warning.contains("old::path"), "{warning}");
        }
        worker.shutdown().await.unwrap();
        registry().get::<welcome>().enable();
    }

    async fn the_status_counts_the_deliveries_of_each_receiver_by_state(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        dead(&db).await;
        save(&db, "fails").await;
        testing::deliver(&db).await.unwrap();
        for name in ["running", "a", "b", "c"] {
            save(&db, name).await;
        }
        execute(&db, "UPDATE signals_delivery SET worker = 'w', claim = 1 WHERE CAST(payload AS TEXT) LIKE '%running%'").await;
        set_lease_end(&db, 30).await;
        for (account, text) in [("x", "fails"), ("x", "waits"), ("y", "waits")] {
            save_entry(&db, account, text).await;
        }
        execute(&db, "UPDATE signals_delivery SET worker = NULL, error = 'no' WHERE ordering_key = 'x' AND CAST(payload AS TEXT) LIKE '%fails%'").await;
        execute(&db, &format!("UPDATE signals_delivery SET run_at = {} WHERE ordering_key = 'y'", in_seconds(&db, -3700))).await;
        Reminder { text: "later".into() }.send(&db).await.unwrap();
        save(&db, "old").await;
        execute(&db, "UPDATE signals_delivery SET receiver = 'old::path' WHERE CAST(payload AS TEXT) LIKE '%old%'").await;

        let status = db.deliveries().status().await.unwrap();
        let counts: Vec<_> = status
            .receivers
            .iter()
            .map(|r| {
                let name = r.receiver.rsplit("::").next().unwrap();
                (name, r.queue, [r.waiting, r.running, r.retrying, r.dead, r.blocked_keys])
            })
            .collect();
        let expected = [
            ("apply", Some("default"), [2, 0, 1, 0, 1]),
            ("book", Some("default"), [0, 0, 0, 0, 0]),
            ("old_apply", Some("default"), [0, 0, 0, 0, 0]),
            ("welcome", Some("mail"), [3, 1, 1, 1, 0]),
            ("path", None, [1, 0, 0, 0, 0]),
            ("reminders", Some("default"), [1, 0, 0, 0, 0]),
        ];
        assert_eq!(counts, expected);
        let lags: Vec<_> = status.receivers.iter().map(|r| r.oldest_lag.map(|lag| lag.as_secs() / 1000)).collect();
        assert_eq!(lags, [Some(3), None, None, Some(0), Some(0), None]);
        let unknown: Vec<_> = status.unknown().map(|r| r.receiver.as_str()).collect();
        assert_eq!(unknown, ["old::path"]);

        let table = status.to_string();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 7, "{table}");
        let at = |text: &str| lines[0].find(text).unwrap();
        let apply = lines.iter().find(|line| line.contains("::apply")).unwrap();
        assert!(apply[at("blocked keys")..].starts_with("1 "), "{table}");
        assert!(apply.ends_with("  1h 1m"), "{table}");
        let unknown = lines.iter().find(|line| line.contains("old::path")).unwrap();
        assert!(unknown[at("queue")..].starts_with("unknown receiver  1 "), "{table}");
        let json = serde_json::to_value(&status).unwrap();
        let json = &json["receivers"];
        assert_eq!((&json[3]["queue"], &json[3]["dead"]), (&"mail".into(), &1.into()), "{json}");
        assert!(json[4]["queue"].is_null() && json[5]["oldest_lag_seconds"].is_null(), "{json}");
        assert!(json[0]["oldest_lag_seconds"].as_f64().unwrap() > 3600.0, "{json}");

        let bounded = db.deliveries().bounded_status().await.unwrap();
        assert!(bounded.receivers.iter().all(|r| !r.at_least));
        assert_eq!(bounded.to_string(), db.deliveries().status().await.unwrap().to_string());
    }

    async fn the_bounded_status_counts_a_thousand_and_sees_what_is_behind_a_backlog(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let welcome = registry().get::<welcome>().delivery_name().unwrap();
        many_deliveries(&db, welcome, 1000, "id IS NULL", "").await;
        let line = async || {
            let status = db.deliveries().bounded_status().await.unwrap();
            let r = status.receivers.into_iter().find(|r| r.receiver == welcome).unwrap();
            ([r.waiting, r.running, r.retrying, r.dead], r.at_least)
        };
        assert_eq!(line().await, ([1000, 0, 0, 0], false));
        many_deliveries(&db, welcome, 500, "id <= 1001", "worker = 'w', claim = 1").await;
        set_lease_end(&db, 30).await;
        many_deliveries(&db, welcome, 3, "id > 1500", &format!("error = 'no', run_at = {}", in_seconds(&db, 3600))).await;
        let dead = format!("error = 'no', dead_at = {}", in_seconds(&db, 0));
        many_deliveries(&db, welcome, 1100, "id > 1503", &dead).await;
        // Claimed are the first thousand, and one more.
        let (counts, at_least) = line().await;
        assert_eq!((counts, at_least), ([499, 1001, 3, 1001], true));
        // A backlog that is due does not hide them.
        execute(&db, "UPDATE signals_delivery SET worker = NULL WHERE id > 5 AND worker IS NOT NULL").await;
        execute(&db, &format!("UPDATE signals_delivery SET run_at = {} WHERE worker IS NULL AND error IS NULL", in_seconds(&db, -9))).await;
        assert_eq!(line().await, ([1001, 5, 3, 1001], true));
        // Nor do deliveries of ordering keys hide a claimed one.
        many_deliveries(&db, welcome, 1200, "id > 2603", "ordering_key = CAST(id AS TEXT)").await;
        execute(&db, "UPDATE signals_delivery SET worker = 'w', claim = 1 WHERE ordering_key = '3803'").await;
        assert_eq!(line().await.0[1], 6);
        execute(&db, "UPDATE signals_delivery SET worker = NULL WHERE ordering_key = '3803'").await;
        let table = db.deliveries().bounded_status().await.unwrap().to_string();
        assert!(table.contains("2002+") && table.contains(" 5+ ") && table.contains(" 3+ "), "{table}");
    }

    async fn the_runs_of_the_last_minute_are_counted(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().spawn().await.unwrap();
        for name in ["a", "b", "fails"] {
            save(&db, name).await;
        }
        Payment { id: None, cents: 5 }.save(&db).await.unwrap();
        SCENE.log.wait_for(4).await;
        worker.shutdown().await.unwrap();
        let status = db.deliveries().bounded_status().await.unwrap();
        let runs = status.receivers.iter().map(|r| [r.succeeded_last_minute, r.failed_last_minute]);
        assert_eq!(runs.collect::<Vec<_>>(), [[0, 0], [1, 0], [0, 0], [2, 1], [0, 0]]);
    }

    async fn deliveries_are_listed_in_pages_in_both_directions(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        for name in ["a", "b", "c", "d", "e"] {
            save(&db, name).await;
        }
        save_entry(&db, "x", "another receiver").await;
        let ids = async |filter: DeliveryFilter| -> Vec<i64> {
            list(&db, filter).await.iter().map(|delivery| delivery.id).collect()
        };
        let page = || DeliveryFilter::new().receiver::<welcome>().limit(2);
        assert_eq!(ids(page()).await, [1, 2]);
        assert_eq!(ids(page().after_id(2)).await, [3, 4]);
        assert_eq!(ids(page().after_id(4)).await, [5]);
        assert_eq!(ids(page().newest_first()).await, [5, 4]);
        assert_eq!(ids(page().newest_first().after_id(4)).await, [3, 2]);
        assert!(ids(page().newest_first().after_id(1)).await.is_empty());
        assert!(ids(page().state(DeliveryState::Dead)).await.is_empty());
        execute(&db, "UPDATE signals_delivery SET error = 'no'").await;
        assert_eq!(db.deliveries().retry_all(page().newest_first().after_id(5)).await.unwrap(), 2);
    }

    async fn the_deliveries_of_a_receiver_are_listed_among_thousands_of_others(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        many_deliveries(&db, "many", 1500, "false", "").await;
        many_deliveries(&db, "few", 8, "false", "").await;
        let set = async |condition: &str, set: &str| {
            execute(&db, &format!("UPDATE signals_delivery SET {set} WHERE {condition}")).await;
        };
        // Of the few, 1501 and 1502 wait, 1503 and 1504 retry, 1505 and 1506 are dead, 1507 and 1508 have an ordering key.
        set("id IN (2, 1503, 1504)", "error = 'no'").await;
        set("id IN (3, 1505, 1506)", &format!("dead_at = {}", in_seconds(&db, 0))).await;
        set("id IN (4, 1507, 1508)", "ordering_key = CAST(id AS TEXT)").await;
        let ids = async |state: Option<DeliveryState>, filter: DeliveryFilter| -> Vec<i64> {
            let filter = if let Some(state) = state { filter.state(state) } else { filter };
            list(&db, filter).await.iter().map(|delivery| delivery.id).collect()
        };
        let few = || DeliveryFilter::new().receiver_name("few");
        for (state, expected) in [
            (None, vec![1501, 1502, 1503, 1504, 1505, 1506, 1507, 1508]),
            (Some(DeliveryState::Waiting), vec![1501, 1502, 1507, 1508]),
            (Some(DeliveryState::Retrying), vec![1503, 1504]),
            (Some(DeliveryState::Dead), vec![1505, 1506]),
            (Some(DeliveryState::Running), vec![]),
        ] {
            assert_eq!(ids(state, few()).await, expected, "{state:?}");
            let newest: Vec<_> = expected.into_iter().rev().collect();
            assert_eq!(ids(state, few().newest_first()).await, newest, "{state:?}");
        }
        assert_eq!(ids(Some(DeliveryState::Waiting), few().limit(2).newest_first().after_id(1508)).await, [1507, 1502]);
        assert!(ids(None, few().queue("mail")).await.is_empty());
        let many = || DeliveryFilter::new().receiver_name("many").limit(3).after_id(1);
        assert_eq!(ids(None, many()).await, [2, 3, 4]);
        assert_eq!(ids(Some(DeliveryState::Waiting), many()).await, [4, 5, 6]);
        assert_eq!(ids(Some(DeliveryState::Retrying), many()).await, [2]);
        assert_eq!(ids(Some(DeliveryState::Dead), many()).await, [3]);
    }

    /// Receivers with more deliveries than are looked up by their ids, and dead ones in front of them, behind them and among them.
    async fn every_list_has_the_selected_deliveries_of_the_table_in_its_order(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let of_default_queue = [registry().get::<apply>(), registry().get::<book>()].map(|receiver| receiver.delivery_name().unwrap());
        let [odd, few] = of_default_queue;
        many_deliveries(&db, odd, 30_000, "id % 2 = 0", "receiver = 'even'").await;
        let set = async |condition: &str, set: &str| {
            execute(&db, &format!("UPDATE signals_delivery SET {set} WHERE {condition}")).await;
        };
        set("id IN (101, 150, 2900)", &format!("receiver = '{few}'")).await;
        set("id <= 3000 OR id BETWEEN 15000 AND 17000 OR id > 27000", &format!("dead_at = {}", in_seconds(&db, 0))).await;
        set("id IN (1200, 16001, 28300)", "dead_at = NULL").await;
        set("id IN (1200, 9000, 9001)", "error = 'no'").await;
        set("id IN (9003, 9004)", &format!("worker = 'w', claim = 1, run_at = {}", in_seconds(&db, 30))).await;
        set("id IN (10000, 10001, 28300)", "ordering_key = 'x'").await;
        set("id % 5 = 0", &format!("stored_at = {}", in_seconds(&db, -7200))).await;
        execute(&db, "DELETE FROM signals_delivery WHERE id BETWEEN 15000 AND 17000 AND id % 7 = 3").await;
        if db.kind() == DatabaseKind::Postgres {
            execute(&db, "ANALYZE signals_delivery").await;
        }
        let alive = format!("signals_delivery WHERE dead_at IS NULL AND ordering_key IS NULL AND receiver = '{odd}'");
        assert!(count(&db, &alive).await > 10_000);
        let all = list(&db, DeliveryFilter::new().limit(usize::MAX)).await;
        assert_eq!(all.len() as i64, count(&db, "signals_delivery").await);

        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let states = [DeliveryState::Waiting, DeliveryState::Running, DeliveryState::Retrying, DeliveryState::Dead];
        let pages = [
            (None, 60), (Some(1), 3), (Some(120), 2000), (Some(16_001), 2), (Some(28_301), 1), (Some(i64::MAX), 60), (Some(-1), 60), (None, 0),
        ];
        let new = DeliveryFilter::new;
        for (filter, names) in [
            (new(), None),
            (new().receiver_name(odd), Some(vec![odd])),
            (new().receiver_name(few), Some(vec![few])),
            (new().queue("default"), Some(vec![odd, few])),
            (new().queue("unknown"), Some(vec![])),
        ] {
            for state in [None].into_iter().chain(states.map(Some)) {
                for before in [None, Some(hour_ago)] {
                    let is_selected = |delivery: &&StoredDelivery| {
                        names.as_ref().is_none_or(|names| names.contains(&&*delivery.receiver))
                            && state.is_none_or(|state| delivery.state() == state)
                            && before.is_none_or(|before| delivery.stored_at < before)
                    };
                    let selected: Vec<i64> = all.iter().filter(is_selected).map(|delivery| delivery.id).collect();
                    let filter = state.map_or(filter.clone(), |state| filter.clone().state(state)).without_payloads();
                    let filter = before.map_or(filter.clone(), |before| filter.before(before));
                    assert_eq!(ids_of_pages(&db, filter.clone().limit(4000)).await, selected, "{filter:?}");
                    let newest: Vec<i64> = selected.iter().rev().copied().collect();
                    assert_eq!(ids_of_pages(&db, filter.clone().limit(4000).newest_first()).await, newest, "{filter:?}");
                    for (after, limit) in pages {
                        let filter = after.map_or(filter.clone(), |after| filter.clone().after_id(after)).limit(limit);
                        let follows = |id: &&i64| after.is_none_or(|after| **id > after);
                        let expected: Vec<i64> = selected.iter().filter(follows).take(limit).copied().collect();
                        let ids = async |filter: &DeliveryFilter| -> Vec<i64> {
                            list(&db, filter.clone()).await.iter().map(|delivery| delivery.id).collect()
                        };
                        assert_eq!(ids(&filter).await, expected, "{filter:?}");
                        let follows = |id: &&i64| after.is_none_or(|after| **id < after);
                        let expected: Vec<i64> = selected.iter().rev().filter(follows).take(limit).copied().collect();
                        let filter = filter.newest_first();
                        assert_eq!(ids(&filter).await, expected, "{filter:?}");
                    }
                }
            }
        }
    }

    async fn a_page_ends_if_it_has_passed_many_other_deliveries(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let new = || DeliveryFilter::new().limit(2);
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let hours_ago = format!("stored_at = {}", in_seconds(&db, -7200));
        for (others, set_others, set_all, filter) in [
            ("late", "error = 'no'", "", new().state(DeliveryState::Waiting)),
            ("early", "error = 'no'", "", new().receiver_name("late").state(DeliveryState::Waiting)),
            ("early", "error = 'no'", "error = 'no'", new().receiver_name("late").state(DeliveryState::Retrying)),
            ("early", "error = 'no'", "", new().receiver_name("late")),
            ("late", "error = 'no'", &hours_ago, new().before(hour_ago)),
        ] {
            execute(&db, "DELETE FROM signals_delivery").await;
            many_deliveries(&db, others, 30_000, "id > 0", set_others).await;
            many_deliveries(&db, "late", 10_500, "receiver = 'late' AND error IS NULL", set_all).await;
            let first = db.deliveries().page(filter.clone()).await.unwrap();
            assert!(first.deliveries.is_empty() && first.next.is_some(), "{filter:?}: {first:?}");
            let second = db.deliveries().page(filter.clone().after_id(first.next.unwrap())).await.unwrap();
            let ids = |found: Vec<StoredDelivery>| found.iter().map(|delivery| delivery.id).collect::<Vec<_>>();
            let expected = ids(list(&db, filter).await);
            assert_eq!((expected.len(), ids(second.deliveries)), (2, expected));
        }
    }

    async fn running_deliveries_are_listed_in_pages_behind_a_backlog(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let welcome = registry().get::<welcome>().delivery_name().unwrap();
        many_deliveries(&db, welcome, 1500, "false", "").await;
        many_deliveries(&db, "other", 12_000, "false", "").await;
        execute(&db, &format!("UPDATE signals_delivery SET run_at = {} WHERE receiver = 'other'", in_seconds(&db, -9))).await;
        let set = async |condition: &str, set: &str| {
            execute(&db, &format!("UPDATE signals_delivery SET {set} WHERE {condition}")).await;
        };
        set("id IN (3, 700, 1600, 9000, 13000)", &format!("worker = 'w', claim = 1, run_at = {}", in_seconds(&db, 30))).await;
        set("id IN (4, 9001)", "worker = 'w', claim = 1, ordering_key = 'x'").await;
        // Its worker was killed, and it is run next.
        set("id = 5", &format!("worker = 'w', claim = 1, run_at = {}", in_seconds(&db, -3600))).await;
        let ids = async |filter: DeliveryFilter| -> Vec<i64> {
            let filter = filter.state(DeliveryState::Running);
            list(&db, filter).await.iter().map(|delivery| delivery.id).collect()
        };
        let all = || DeliveryFilter::new();
        let expected = [3, 4, 5, 700, 1600, 9000, 9001, 13_000];
        assert_eq!(ids(all()).await, expected);
        assert_eq!(ids(all().limit(2).after_id(5)).await, [700, 1600]);
        assert_eq!(ids(all().limit(2).newest_first().after_id(9000)).await, [1600, 700]);
        assert_eq!(ids(all().receiver::<welcome>()).await, [3, 4, 5, 700]);
        assert_eq!(ids(all().queue("mail").after_id(4)).await, [5, 700]);
        // Its worker was killed, and thousands are run before it.
        set("id = 13000", &format!("run_at = {}", in_seconds(&db, -1))).await;
        let is_listed = ids(all()).await.contains(&13_000);
        assert_eq!(is_listed, db.kind() == DatabaseKind::Sqlite, "PostgreSQL looks only at the first thousand");
        // More than ten thousand are retried later.
        set("receiver = 'other' AND worker IS NULL", &format!("error = 'no', run_at = {}", in_seconds(&db, 60))).await;
        set("id = 13000", &format!("run_at = {}", in_seconds(&db, 90))).await;
        assert_eq!(ids(all()).await, expected);
    }

    async fn thousands_of_deliveries_are_retried_the_newest_first(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let welcome = registry().get::<welcome>().delivery_name().unwrap();
        many_deliveries(&db, welcome, 1500, "id > 0", &format!("error = 'no', dead_at = {}, attempt = 2", in_seconds(&db, 0))).await;
        let newest = DeliveryFilter::new().newest_first().limit(1200);
        assert_eq!(db.deliveries().retry_all(newest).await.unwrap(), 1200);
        assert_eq!(count(&db, "signals_delivery WHERE attempt = 0 AND id > 300").await, 1200);
    }

    async fn one_delivery_is_found_by_its_id(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        save(&db, "a").await;
        let found = db.deliveries().get(1).await.unwrap().unwrap();
        assert_eq!(serde_json::to_value(&found).unwrap(), serde_json::to_value(only(&db).await).unwrap());
        assert!(db.deliveries().get(2).await.unwrap().is_none());
        let without = list(&db, DeliveryFilter::new().without_payloads()).await.remove(0);
        assert_eq!((without.payload.as_str(), without.event), ("", found.event));
    }

    async fn a_listed_delivery_has_the_columns_of_the_table(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let start = SystemTime::now() - Duration::from_secs(2);
        dead(&db).await;
        let listed = only(&db).await;
        assert_eq!((listed.id, listed.signal.as_str(), listed.sender.as_str()), (1, "post_save", "users"));
        assert_eq!((listed.key.as_deref(), listed.created), (Some("1"), Some(true)));
        assert!(listed.receiver.ends_with("::welcome"));
        assert_ne!(listed.event, Uuid::nil());
        assert!(listed.payload.contains("\"name\":\"fails\""), "{listed:?}");
        assert!(listed.context.is_none() && listed.ordering_key.is_none() && listed.coalesce_key.is_none());
        assert_eq!((listed.attempt, listed.claim, listed.lost, listed.worker.as_deref()), (2, 2, 0, None));
        assert!(listed.error.as_ref().unwrap().contains("the mail server is down"));
        assert!(start <= listed.stored_at && listed.stored_at <= listed.dead_at.unwrap());
        assert!(listed.run_at > listed.stored_at);
        assert_eq!(listed.state(), DeliveryState::Dead);
        let json = serde_json::to_value(&listed).unwrap();
        assert!(json["dead_at"].as_u64() >= json["stored_at"].as_u64(), "{json}");

        save_entry(&db, "x", "one").await;
        let entries = list(&db, DeliveryFilter::new().receiver::<apply>()).await;
        assert_eq!(entries[0].ordering_key.as_deref(), Some("x"));
    }

    async fn a_filter_selects_by_all_of_its_conditions(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        dead(&db).await;
        for name in ["a", "b"] {
            save(&db, name).await;
        }
        save_entry(&db, "x", "one").await;
        Reminder { text: "later".into() }.send(&db).await.unwrap();
        execute(&db, &format!("UPDATE signals_delivery SET stored_at = {} WHERE id <= 2", in_seconds(&db, -3600))).await;
        let ids = async |filter: DeliveryFilter| -> Vec<i64> {
            list(&db, filter).await.into_iter().map(|delivery| delivery.id).collect()
        };
        let all = DeliveryFilter::new;
        assert_eq!(ids(all()).await, [1, 2, 3, 4, 5]);
        assert_eq!(ids(all().limit(2)).await, [1, 2]);
        assert_eq!(ids(all().receiver::<welcome>()).await, [1, 2, 3]);
        assert_eq!(ids(all().receiver_name("reminders")).await, [5]);
        assert_eq!(ids(all().receiver::<remind>()).await, [5]);
        assert_eq!(ids(all().queue("default")).await, [4, 5]);
        assert_eq!(ids(all().queue("mail").receiver::<remind>()).await, [0; 0]);
        assert_eq!(ids(all().queue("none")).await, [0; 0]);
        assert_eq!(ids(all().state(DeliveryState::Dead)).await, [1]);
        assert_eq!(ids(all().state(DeliveryState::Waiting)).await, [2, 3, 4, 5]);
        assert_eq!(ids(all().state(DeliveryState::Retrying)).await, [0; 0]);
        assert_eq!(ids(all().state(DeliveryState::Running)).await, [0; 0]);
        let minute_ago = SystemTime::now() - Duration::from_secs(60);
        assert_eq!(ids(all().before(minute_ago)).await, [1, 2]);
        let several = all().before(minute_ago).queue("mail").receiver::<welcome>().state(DeliveryState::Waiting);
        assert_eq!(ids(several.limit(100)).await, [2]);
    }

    async fn a_retried_delivery_has_all_attempts_left(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        dead(&db).await;
        assert!(!db.deliveries().retry(7).await.unwrap());
        assert!(db.deliveries().retry(1).await.unwrap());
        let retried = only(&db).await;
        assert_eq!((retried.attempt, retried.state()), (0, DeliveryState::Retrying));
        assert_eq!(retried.dead_at, None);
        testing::deliver(&db).await.unwrap().assert_failed::<welcome>(1);
        assert_eq!(only(&db).await.state(), DeliveryState::Retrying);
        // The backoff of an hour is skipped.
        assert!(db.deliveries().retry(1).await.unwrap());
        testing::deliver(&db).await.unwrap().assert_failed::<welcome>(1);
        assert_eq!(SCENE.log.take(), ["fails 1", "fails 1"]);
    }

    async fn all_failed_deliveries_of_a_filter_are_retried(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        dead(&db).await;
        save(&db, "fails").await;
        testing::deliver(&db).await.unwrap();
        Reminder { text: "later".into() }.send(&db).await.unwrap();
        let retry = async |filter: DeliveryFilter| db.deliveries().retry_all(filter).await.unwrap();
        let all = DeliveryFilter::new;
        assert_eq!(retry(all().queue("default")).await, 0);
        assert_eq!(retry(all().state(DeliveryState::Dead).limit(0)).await, 0);
        assert_eq!(retry(all().state(DeliveryState::Dead)).await, 1);
        // The delivery that waits for its first attempt keeps its delay.
        assert_eq!(retry(all()).await, 2);
        let delivered = testing::deliver(&db).await.unwrap();
        delivered.assert_failed::<welcome>(2);
        delivered.assert_ran::<remind>(0);
        assert_eq!(retry(all().state(DeliveryState::Waiting)).await, 1);
        testing::deliver(&db).await.unwrap().assert_ran::<remind>(1);
        assert_eq!(retry(all().limit(1)).await, 1);
    }

    async fn thousands_of_deliveries_are_retried_once_each(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let mut users: Vec<_> = (0..2500).map(|n| User { id: None, name: format!("user {n}") }).collect();
        User::insert_many(&db, &mut users).await.unwrap();
        execute(&db, &format!("UPDATE signals_delivery SET error = 'no', dead_at = {}, attempt = 2", in_seconds(&db, 0))).await;
        assert_eq!(db.deliveries().retry_all(DeliveryFilter::new().limit(1500)).await.unwrap(), 1500);
        assert_eq!(count(&db, "signals_delivery WHERE attempt = 0 AND dead_at IS NULL").await, 1500);
        assert_eq!(db.deliveries().retry_all(DeliveryFilter::new()).await.unwrap(), 2500);
        assert_eq!(count(&db, "signals_delivery WHERE attempt = 0 AND dead_at IS NULL").await, 2500);
        assert_eq!(list(&db, DeliveryFilter::new()).await.len(), 100);
    }

    async fn a_running_delivery_is_neither_retried_nor_discarded(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().spawn().await.unwrap();
        save(&db, "slow").await;
        SCENE.log.wait_for(1).await;
        assert_eq!(only(&db).await.state(), DeliveryState::Running);
        assert!(!db.deliveries().retry(1).await.unwrap());
        assert!(!db.deliveries().discard(1).await.unwrap());
        let running = DeliveryFilter::new().state(DeliveryState::Running);
        assert_eq!(db.deliveries().retry_all(running).await.unwrap(), 0);
        GATE.add_permits(1);
        worker.shutdown().await.unwrap();
        assert_eq!((SCENE.log.take().len(), count(&db, "signals_delivery").await), (0, 0));
    }

    async fn a_delivery_in_the_transaction_of_its_receiver_is_not_discarded_after_its_lease(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().lease(Duration::from_millis(100)).spawn().await.unwrap();
        Payment { id: None, cents: 5 }.save(&db).await.unwrap();
        SCENE.log.wait_for(1).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(!db.deliveries().discard(1).await.unwrap());
        assert!(!db.deliveries().retry(1).await.unwrap());
        worker.shutdown().await.unwrap();
        assert_eq!((count(&db, "booked").await, count(&db, "signals_delivery").await), (1, 0));
        assert!(SCENE.log.take().is_empty());
    }

    async fn a_worker_that_has_lost_its_lease_changes_nothing_after_a_retry(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        let worker = db.deliveries().worker().spawn().await.unwrap();
        save(&db, "slow").await;
        SCENE.log.wait_for(1).await;
        set_lease_end(&db, -1).await;
        assert!(db.deliveries().retry(1).await.unwrap());
        assert_eq!(only(&db).await.worker, None);
        GATE.add_permits(2);
        // The worker cannot acknowledge the first run, and runs the delivery again.
        SCENE.log.wait_for(1).await;
        worker.shutdown().await.unwrap();
        assert_eq!(count(&db, "signals_delivery").await, 0);
    }

    async fn a_delivery_whose_worker_was_killed_can_be_discarded(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        save(&db, "a").await;
        execute(&db, "UPDATE signals_delivery SET worker = 'killed', claim = 1").await;
        set_lease_end(&db, 30).await;
        assert!(!db.deliveries().discard(1).await.unwrap());
        set_lease_end(&db, -1).await;
        assert!(db.deliveries().discard(1).await.unwrap());
        assert!(!db.deliveries().discard(1).await.unwrap());
        assert_eq!(count(&db, "signals_delivery").await, 0);
    }

    async fn a_key_continues_when_its_dead_delivery_is_discarded(db: Db) {
        let _turn = SCENE.begin().await;
        setup(&db).await;
        // Only the commands of the operator wake the worker.
        let worker = db.deliveries().worker().poll(Duration::from_secs(600)).spawn().await.unwrap();
        for text in ["fails", "b"] {
            save_entry(&db, "x", text).await;
        }
        while list(&db, DeliveryFilter::new().state(DeliveryState::Dead)).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(SCENE.log.take(), ["x: fails"]);
        assert!(db.deliveries().retry(1).await.unwrap());
        assert_eq!(SCENE.log.wait_for(1).await, ["x: fails"]);
        while list(&db, DeliveryFilter::new().state(DeliveryState::Dead)).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(db.deliveries().discard(1).await.unwrap());
        assert_eq!(SCENE.log.wait_for(1).await, ["x: b"]);
        worker.shutdown().await.unwrap();
    }

    async fn an_operation_without_the_tables_says_what_to_run(db: Db) {
        let deliveries = db.deliveries();
        let errors = [
            deliveries.status().await.unwrap_err(),
            deliveries.bounded_status().await.unwrap_err(),
            deliveries.list(DeliveryFilter::new()).await.unwrap_err(),
            deliveries.get(1).await.unwrap_err(),
            deliveries.retry(1).await.unwrap_err(),
            deliveries.retry_all(DeliveryFilter::new()).await.unwrap_err(),
            deliveries.discard(1).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::DeliveriesNotSetUp { .. }), "{error:?}");
        }
    }
}
