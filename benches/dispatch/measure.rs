//! Time, allocations and instructions of a save without receivers, and of a statement by hand.

use std::process::Command;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use serde_json::{Value, json};
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx;
use sqlx_signals::sqlx::SqliteConnection;

use crate::interleaved::{Case, Group, Rounds, timed};
use crate::report::{self, Report};
use crate::valgrind::instructions;

const INSERT: &str = r#"INSERT INTO "users" ("name", "email") VALUES ($1, $2) RETURNING "id""#;

#[derive(Debug, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    email: String,
}

/// What is done. The last is all of a save but for the statement: a row without a key cannot be updated, and nothing is
/// sent.
#[derive(Clone, Copy)]
enum Way {
    Hand,
    Save,
    Nothing,
}

const WAYS: [Way; 3] = [Way::Hand, Way::Save, Way::Nothing];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Hand => "sqlx: INSERT",
            Self::Save => "save",
            Self::Nothing => "update that sends nothing",
        }
    }

    async fn perform(self, conn: &mut Conn<'_>, user: &mut User) {
        match self {
            Self::Hand => {
                let conn: &mut SqliteConnection = conn.sqlite().unwrap();
                let insert = sqlx::query_scalar(INSERT).bind(&user.name).bind(&user.email);
                user.id = Some(insert.fetch_one(conn).await.unwrap());
            }
            Self::Save => assert!(user.save(conn).await.unwrap().created),
            Self::Nothing => assert!(user.update(conn).await.unwrap_err().is_not_found()),
        }
    }
}

fn user() -> User {
    User { id: None, name: "Ann".to_owned(), email: "ann@example.org".to_owned() }
}

/// The program itself, and the two that it runs itself as: one that does something so many times, for valgrind, and one
/// that says how long the first look at the registry takes.
pub(crate) fn main(program: &'static str, receivers: usize) {
    let begun = Instant::now();
    assert_eq!(registry().receivers().count(), receivers);
    let registry = begun.elapsed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--registry"] => println!("{}", registry.as_nanos()),
        ["--perform", way, times] => {
            let way = WAYS[way.parse::<usize>().unwrap()];
            runtime.block_on(perform(way, times.parse().unwrap()));
        }
        ref args => {
            let quick = args.contains(&"--quick");
            let mut report = Report::new(program, quick);
            report.measured(format!("SQLite in memory, {receivers} receivers of other models"));
            runtime.block_on(times(quick, &mut report));
            let figures = figures(&runtime, &mut report);
            report.add(figures);
            report.write();
            compare();
        }
    }
}

async fn connection() -> Conn<'static> {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    db.execute(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL)",
    )
    .await
    .unwrap();
    db.acquire().await.unwrap()
}

async fn perform(way: Way, times: usize) {
    let mut conn = connection().await;
    for _ in 0..times {
        way.perform(&mut conn, &mut user()).await;
    }
}

async fn times(quick: bool, report: &mut Report) {
    let rounds = if quick { Rounds(10, 10) } else { Rounds(1_000, 10) };
    let way = |way: Way| {
        async move |conn: &mut Conn<'static>| -> Duration {
            let mut user = user();
            timed(way.perform(conn, &mut user)).await
        }
    };
    let cases = vec![
        Case::base(Way::Hand.name(), way(Way::Hand)),
        Case::new(Way::Save.name(), Way::Hand.name(), way(Way::Save)),
        Case::new(Way::Nothing.name(), Way::Hand.name(), way(Way::Nothing)),
    ];
    let mut conn = connection().await;
    let group = Group::measure("SQLite in memory", "time", rounds, cases, &mut conn);
    let group = group.await;
    println!("{group}");
    report.add(group.into_json());
}

/// What does not jitter, and the registry.
fn figures(runtime: &tokio::runtime::Runtime, report: &mut Report) -> Value {
    let mut conn = runtime.block_on(connection());
    let mut rows = Vec::new();
    for (index, way) in WAYS.into_iter().enumerate() {
        let mut counted = |_| {
            let mut user = user();
            measure(|| runtime.block_on(way.perform(&mut conn, &mut user)))
        };
        // The cheapest of many: waiting for SQLite's thread allocates, more often than not.
        let cheapest = (0..1000).map(&mut counted).min_by_key(|counted| counted.count_total);
        let cheapest = cheapest.expect("it ran");
        rows.push(json!({
            "case": way.name(),
            "allocations": cheapest.count_total,
            "bytes": cheapest.bytes_total,
            "instructions": instructions(&["--perform", &index.to_string()], [200, 1200]),
        }));
    }
    if rows.iter().any(|row| row["instructions"].is_null()) {
        report.not_measured("instructions: valgrind is not installed, or cannot run this program");
    }
    let mut first: Vec<u64> = (0..11).map(|_| first_registry()).collect();
    first.sort_unstable();
    json!({ "database": "SQLite in memory", "group": "counts", "rows": rows, "registry_ns": first[5] })
}

/// The first look at the registry, in a process of its own.
fn first_registry() -> u64 {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).arg("--registry").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

/// The two programs beside each other, where both have run.
fn compare() {
    let all = report::read();
    let counts = |program: &str| all.get(program)?["groups"].as_array()?.last().cloned();
    let (alone, crowd) = (counts("dispatch"), counts("dispatch_in_a_crowd"));
    let (alone, crowd) = (alone.unwrap_or_default(), crowd.unwrap_or_default());
    println!("\n{:<30} {:>22}  {:>22}", "", "no receivers", "10,000 of others");
    for (index, way) in WAYS.into_iter().enumerate() {
        for what in ["allocations", "bytes", "instructions"] {
            let of = |counts: &Value| counts["rows"][index][what].to_string();
            let name = format!("{}, {what}", way.name());
            println!("{name:<38} {:>14}  {:>22}", of(&alone), of(&crowd));
        }
    }
    let millis = |counts: &Value| counts["registry_ns"].as_f64().unwrap_or_default() / 1e6;
    let name = "first look at the registry, ms";
    println!("{name:<38} {:>14.3}  {:>22.3}\n", millis(&alone), millis(&crowd));
}
