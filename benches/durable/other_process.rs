//! From a commit to the start of the receiver in another process, which is this program again.

use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;

/// The argument that this program runs itself with. The URL of the database follows, and whether the worker listens.
pub(crate) const WORKER: &str = "--worker";

const STARTED: &str = "started";

/// The receiver tells the process that has stored the delivery that it has started.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "bench_users")]
struct Reported {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Reported, durable(at_least_once))]
fn report(_: PostSave<'_, Reported>) {
    println!("{STARTED}");
}

/// Runs a worker until the standard input ends.
pub(crate) async fn work(url: &str, listens: bool) {
    let db = Db::connect(url).await.unwrap();
    let worker = db.deliveries().worker().listen(listens).spawn().await.unwrap();
    let input = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(input).await.unwrap().unwrap();
    worker.shutdown().await.unwrap();
}

/// A process with a worker. It ends when this is dropped.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(url: &str, listens: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([WORKER, url, &listens.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output).lines() }
    }

    /// From the return of `save` until this process has read the line that the receiver writes.
    async fn latency(&mut self, db: &Db) -> Duration {
        let (name, email) = ("Ann".to_owned(), "ann@example.org".to_owned());
        Reported { id: None, name, email }.save(db).await.unwrap();
        let begun = Instant::now();
        let line = tokio::task::block_in_place(|| self.output.next()).unwrap().unwrap();
        assert_eq!(line, STARTED);
        begun.elapsed()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().unwrap();
    }
}

pub(crate) async fn measure(database: &str, url: &str, db: &Db, quick: bool) {
    for (listens, saves) in [(true, 300), (false, 100)] {
        if !listens && db.kind() == sqlx_signals::DatabaseKind::Sqlite {
            // It asks for the commits of other processes in any case.
            continue;
        }
        let saves = if quick { 3 } else { saves };
        let mut process = Process::start(url, listens);
        // The process has started, and its worker has begun to listen.
        for _ in 0..3 {
            process.latency(db).await;
        }
        let mut all = Vec::new();
        for _ in 0..saves {
            // At any time between two notifications, and between two polls.
            let longest = if listens { 150 } else { 1_000 };
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..longest))).await;
            all.push(process.latency(db).await);
        }
        let way = if listens { "listening" } else { "not listening, poll of 1 s" };
        crate::print_quantiles(database, &format!("another process, {way}"), all);
    }
}
