//! What an operation takes with this library, compared with the same statements by hand. See `benches/README.md`.
#![allow(missing_docs)]

mod bulk;
mod by_hand;
mod connections;
mod database;
mod instructions;
#[path = "../shared/interleaved.rs"]
mod interleaved;
mod models;
mod operations;
mod plot;
#[path = "../shared/report.rs"]
mod report;
mod tables;
#[path = "../shared/valgrind.rs"]
mod valgrind;

use database::Measurable;
use interleaved::{Group, Rounds};
use report::Report;
use serde_json::Value;

/// How often each case is run.
#[derive(Clone, Copy)]
struct Effort {
    operations: Rounds,
    batches: Rounds,
    bulks: Rounds,
}

impl Effort {
    const FULL: Self =
        Self { operations: Rounds(200, 10), batches: Rounds(200, 1), bulks: Rounds(30, 1) };
    const QUICK: Self =
        Self { operations: Rounds(10, 10), batches: Rounds(10, 1), bulks: Rounds(2, 1) };
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let has = |flag| std::env::args().any(|arg| arg == flag);
    if has("--render") {
        return render(report::read()["operations"]["groups"].as_array().expect("measured before"));
    }
    let args: Vec<_> =
        std::env::args().skip_while(|arg| arg != instructions::PERFORM).skip(1).collect();
    if let Some((name, args)) = args.split_first() {
        return perform(name, args).await;
    }
    let quick = has("--quick");
    // A part of the name of the databases that are measured.
    let only = std::env::args().skip_while(|arg| arg != "--only").nth(1).unwrap_or_default();
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    let mut report = Report::new("operations", quick);
    for measurable in database::all().await {
        if !measurable.name().contains(&only) {
            continue;
        }
        match measurable {
            #[cfg(feature = "sqlite")]
            Measurable::Sqlite(database) => {
                report.measured(database.describe().await);
                measure::<sqlx::Sqlite>(&database, effort, &mut report).await;
                database.remove().await;
            }
            #[cfg(feature = "postgres")]
            Measurable::Postgres(database) => {
                report.measured(database.describe().await);
                measure::<sqlx::Postgres>(&database, effort, &mut report).await;
                database.remove().await;
            }
            Measurable::Not(reason) => report.not_measured(reason),
        }
    }
    report.write();
    render(&report.groups);
}

/// What this program runs itself for, to have its instructions counted.
async fn perform(name: &str, args: &[String]) {
    for measurable in database::all().await {
        match measurable {
            #[cfg(feature = "sqlite")]
            Measurable::Sqlite(database) if database.name() == name => {
                instructions::perform::<sqlx::Sqlite>(&database, args).await;
            }
            #[cfg(feature = "postgres")]
            Measurable::Postgres(database) if database.name() == name => {
                instructions::perform::<sqlx::Postgres>(&database, args).await;
            }
            _ => {}
        }
    }
}

fn render(groups: &[Value]) {
    tables::write(groups);
    plot::write(groups);
}

async fn measure<DB: by_hand::ByHand>(
    database: &database::Database,
    effort: Effort,
    report: &mut Report,
) {
    let mut add = |group: Group| {
        println!("{group}");
        report.add(group.into_json());
    };
    for operation in operations::ALL {
        add(operations::measure::<DB>(database, operation, effort).await);
    }
    add(connections::measure::<DB>(database, effort).await);
    for rows in [1_000, 10_000] {
        add(bulk::measure_inserts::<DB>(database, rows, effort).await);
        add(bulk::measure_updates::<DB>(database, rows, effort).await);
    }
    instructions::measure::<DB>(database, report);
}
