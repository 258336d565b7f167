//! The commands of an operator, as arguments of the program.
#![allow(missing_docs)]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../signals-web/tests/program/mod.rs"]
mod program;

use clap::{CommandFactory, Parser};
use common::{count, execute};
use program::{dead, dead_deliveries, note, setup};
use signals_cli::Command;
use sqlx_signals::Error;
use sqlx_signals::prelude::*;

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

async fn try_run(db: &Db, args: &str) -> Result<String> {
    let args = std::iter::once("signals").chain(args.split_whitespace());
    Args::try_parse_from(args).unwrap().command.run(db).await
}

async fn run(db: &Db, args: &str) -> String {
    try_run(db, args).await.unwrap()
}

#[test]
fn the_arguments_are_consistent() {
    Args::command().debug_assert();
    for wrong in [
        "retry", "discard", "retry 1 --all", "retry 1 --state dead", "list --state old", "retry x",
        "replay", "replay 1 --queue mail",
    ] {
        let args = std::iter::once("signals").chain(wrong.split_whitespace());
        assert!(Args::try_parse_from(args).is_err(), "{wrong}");
    }
}

on_every_database! {
    async fn the_status_and_the_list_are_tables_and_json(db: Db) {
        let _turn = setup(&db).await;
        for _ in 0..3 {
            dead(&db).await;
        }
        let welcome = registry().get::<program::welcome>().delivery_name().unwrap();
        for status in ["status", "status --exact"] {
            let table = run(&db, status).await;
            let line = table.lines().find(|line| line.starts_with(welcome)).unwrap();
            let words: Vec<_> = line.split_whitespace().collect();
            assert_eq!(words[1..], ["mail", "0", "0", "0", "3", "0"], "{table}");
        }
        let json: serde_json::Value = serde_json::from_str(&run(&db, "status --json").await).unwrap();
        assert!(json["receivers"].as_array().unwrap().iter().any(|r| r["dead"] == 3), "{json}");

        execute(&db, "UPDATE signals_delivery SET error = 'a \u{1b}[31m' WHERE id = 2").await;
        let table = run(&db, "list --state dead --limit 2").await;
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[1].starts_with("3   dead ") && lines[1].ends_with("the address does not exist"), "{table}");
        assert!(lines[2].starts_with("2   dead ") && lines[2].ends_with("a \u{fffd}[31m"), "{table}");
        let next = run(&db, "list --limit 2 --after 2 --queue mail").await;
        assert!(next.lines().count() == 2 && next.lines().nth(1).unwrap().starts_with('1'), "{next}");
        assert_eq!(run(&db, "list --queue default").await.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&run(&db, "list --json").await).unwrap();
        assert!(json[0]["payload"].as_str().unwrap().contains("dead"), "{json}");
    }

    async fn deliveries_are_retried_and_discarded(db: Db) {
        let _turn = setup(&db).await;
        for _ in 0..4 {
            dead(&db).await;
        }
        assert_eq!(run(&db, "discard 1 77").await, "1 discarded\n77 unchanged: it is running, or gone");
        assert_eq!(run(&db, "retry 2").await, "2 retried");
        assert_eq!(dead_deliveries(&db).await, 2);
        assert_eq!(run(&db, "retry --all --state dead --queue default").await, "0 retried");
        assert_eq!(run(&db, "retry --all --state dead").await, "2 retried");
        assert_eq!((dead_deliveries(&db).await, count(&db, "signals_delivery").await), (0, 3));
    }

    async fn kept_deliveries_are_listed_and_replayed(db: Db) {
        let _turn = setup(&db).await;
        for _ in 0..3 {
            note(&db).await;
        }
        let table = run(&db, "list --state done --limit 2").await;
        let lines: Vec<_> = table.lines().collect();
        assert!(lines.len() == 3 && lines[1].starts_with("3   done "), "{table}");
        assert_eq!(run(&db, "replay 2 77").await, "2 replayed\n77 unchanged: it is not kept");
        assert_eq!(run(&db, "replay --all --queue mail").await, "0 replayed");
        assert_eq!(run(&db, "replay --all --queue default").await, "2 replayed");
        assert_eq!(run(&db, "list --state waiting").await.lines().count(), 4);
    }

    async fn the_receivers_are_drawn_and_checked(db: Db) {
        let _turn = setup(&db).await;
        assert!(run(&db, "graph").await.starts_with("flowchart"));
        assert!(run(&db, "graph --format dot").await.starts_with("digraph"));
        assert!(run(&db, "graph --format json").await.starts_with('['));
        assert!(run(&db, "check").await.contains("match the database"));
        execute(&db, "DROP TABLE notes").await;
        assert!(matches!(try_run(&db, "check").await, Err(Error::Check { .. })));
    }
}
