//! Concurrent writers on a SQLite file and on PostgreSQL: plain sqlx, this library and other libraries, for one to 512 tasks.
//!
//! `scripts/with-postgres cargo bench --bench concurrent --features postgres` prints a table for SQLite with `synchronous = FULL`, one with
//! `NORMAL` and one for PostgreSQL, and draws `target/bench/concurrent.svg`. Without `DATABASE_URL` or the feature `postgres`, it leaves out
//! PostgreSQL. Other libraries are measured if `benches/peers/run` has built them.
//!
//! `--quick` measures each case for 0.1 seconds instead of one, `--no-peers` leaves out the other libraries, and `--only NORMAL` the
//! databases without this word in their title. The cases take turns in three rounds, so that other work on the machine affects all of
//! them. If a peer does not end within 30 seconds, that counts as an error.
#![allow(missing_docs)]

mod database;
mod measure;
mod peers;
mod report;
mod writers;

use std::time::Duration;

use database::{Database, Kind};
use measure::Measured;
use peers::Peer;
use writers::Writer;

const TASKS: [usize; 4] = [1, 8, 64, 512];
const ROUNDS: usize = 3;

/// What writes.
#[derive(Clone)]
enum Case {
    /// Tasks of this process.
    Here(Writer),
    /// Another process.
    Peer(Peer),
}

impl Case {
    fn all(kind: Kind, with_peers: bool) -> Vec<Self> {
        let peers = if with_peers { Peer::built(kind) } else { Vec::new() };
        let here = Writer::all(kind).into_iter().map(Self::Here);
        here.chain(peers.into_iter().map(Self::Peer)).collect()
    }

    fn name(&self) -> String {
        match self {
            Self::Here(writer) => writer.name().to_owned(),
            Self::Peer(peer) => peer.title.to_owned(),
        }
    }

    async fn measure(&self, database: &Database, tasks: usize, time: Duration) -> Measured {
        match self {
            Self::Here(writer) => measure::tasks(*writer, database, tasks, time).await,
            Self::Peer(peer) => peer.measure(database, tasks, time).await,
        }
    }
}

#[tokio::main]
async fn main() {
    let args: Vec<_> = std::env::args().collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let only = args.iter().skip_while(|arg| *arg != "--only").nth(1);
    let is_wanted = |kind: &Kind| only.is_none_or(|only| kind.title().contains(only.as_str()));
    let time = Duration::from_millis(if has("--quick") { 100 } else { 1_000 });
    let mut all = Vec::new();
    for kind in Kind::all().into_iter().filter(is_wanted) {
        let cases = Case::all(kind, !has("--no-peers"));
        let mut table = report::Table::new(kind.title(), cases.iter().map(Case::name));
        for tasks in TASKS {
            let mut databases = Vec::new();
            for at in 0..cases.len() {
                databases.push(Database::create(kind, at).await);
            }
            let mut measured: Vec<Measured> = cases.iter().map(|_| Measured::default()).collect();
            for round in 0..ROUNDS {
                for at in 0..cases.len() {
                    // Each round begins with another case.
                    let at = (at + round) % cases.len();
                    measured[at] += cases[at].measure(&databases[at], tasks, time).await;
                }
            }
            table.push(tasks, measured);
            for database in databases {
                database.remove().await;
            }
        }
        println!("{table}");
        all.push(table);
    }
    report::plot(&all);
}
