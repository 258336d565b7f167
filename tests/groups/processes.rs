//! What other processes find, and what a killed process has stored.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx_signals::prelude::*;

use crate::{FAILS, SCENE, at_once, found, noted, plain, rows, save};

/// The names of the variables with which a test starts this program again.
const ROLE: &str = "GROUPS_ROLE";
const URL: &str = "GROUPS_URL";

fn program(role: &str, url: &str) -> Vec<(String, String)> {
    vec![(ROLE.to_owned(), role.to_owned()), (URL.to_owned(), url.to_owned())]
}

/// What a process says of the row with this number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    Stored(i64),
    NotStored(i64),
}

/// Starts this program again, and returns what it reports.
pub(crate) fn start(role: &str, url: &str) -> (Child, impl Iterator<Item = Report> + Send + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["processes::another_process", "--exact", "--nocapture"])
        .envs(program(role, url))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let report = |line: String| {
        let (what, n) = line.rsplit_once("report ")?.1.split_once(' ')?;
        let n = n.parse().ok()?;
        Some(if what == "stored" { Report::Stored(n) } else { Report::NotStored(n) })
    };
    (child, lines.map_while(|line| line.ok()).filter_map(report))
}

fn report(report: Report) {
    let line = match report {
        Report::Stored(n) => format!("report stored {n}\n"),
        Report::NotStored(n) => format!("report not_stored {n}\n"),
    };
    let mut out = std::io::stdout().lock();
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        // The test has failed.
        std::process::exit(0);
    }
}

/// What another process does, if a test has started this program again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process() {
    let (Ok(role), Ok(url)) = (std::env::var(ROLE), std::env::var(URL)) else { return };
    let db = Db::connect(&url).await.unwrap();
    match &*role {
        "other" => {
            report(Report::Stored(0));
            for n in 2.. {
                plain(-n).save(&db).await.unwrap();
                report(Report::Stored(n));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        "killed" => {
            let writers = (0..64).map(|task| {
                let db = db.clone();
                tokio::spawn(async move {
                    for n in 0.. {
                        let n = (task * 1_000_000 + n) * 10;
                        let saved = save(&db, n, n % 40 == 0).await;
                        report(if saved.is_ok() {
                            Report::Stored(n)
                        } else {
                            Report::NotStored(n)
                        });
                        noted(n + FAILS).save(&db).await.unwrap_err();
                        report(Report::NotStored(n + FAILS));
                    }
                })
            });
            for writer in writers.collect::<Vec<_>>() {
                writer.await.unwrap();
            }
        }
        _ => {
            // The first saves look at the schema.
            plain(-3).save(&db).await.unwrap();
            for round in 0..20 {
                let saves = (0..2).map(|call| {
                    let (db, n) = (db.clone(), round * 2 + call);
                    async move {
                        plain(n).save(&db).await.unwrap();
                        n
                    }
                });
                // The log is not written to meanwhile, even if the two do not share a COMMIT.
                for n in at_once(&db, saves).await {
                    report(Report::Stored(n));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_save_returned_before_the_process_is_killed_is_true() {
    let _turn = SCENE.begin().await;
    for most in [200, 700, 1500] {
        let test = rows("killed").await;
        let (mut other, mut others) = start("other", &test.url);
        assert_eq!(others.next(), Some(Report::Stored(0)));
        let (mut child, mut reports) = start("killed", &test.url);
        let read = move || {
            let mut reported: Vec<_> = reports.by_ref().take(most).collect();
            // SIGKILL
            child.kill().unwrap();
            child.wait().unwrap();
            reported.extend(reports);
            reported
        };
        let mut reported = tokio::task::spawn_blocking(read).await.unwrap();
        assert!(reported.len() >= most, "{}", reported.len());
        // The last line may be incomplete.
        reported.pop();
        let (rows, notes) = (found(&test.url, "rows").await, found(&test.url, "notes").await);
        let is_false = |report: &&Report| match report {
            Report::Stored(n) => !rows.contains(n) || n % 40 == 0 && !notes.contains(n),
            Report::NotStored(n) => rows.contains(n) || notes.contains(n),
        };
        let lies: Vec<_> = reported.iter().filter(is_false).collect();
        assert!(lies.is_empty(), "{} of {}: {lies:?}", lies.len(), reported.len());
        // Also of the saves that have not returned.
        let torn: Vec<_> = rows.iter().filter(|n| *n % 40 == 0 && !notes.contains(n)).collect();
        assert!(torn.is_empty() && notes.is_subset(&rows), "{torn:?}");
        // The lock of the killed process is gone.
        save(&test.db, 5, true).await.unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        test.passed().await;
    }
}

/// With `synchronous = FULL`, each report of a save comes after the log was synced. Needs `strace`.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_returns_after_the_log_was_synced() {
    let test = rows("synced").await;
    let trace = format!("{}.trace", test.name());
    let traced = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=pwrite64,fdatasync,fsync,write", "-o", &trace])
        .arg(std::env::current_exe().unwrap())
        .args(["processes::another_process", "--exact", "--nocapture"])
        .envs(program("synced", &test.url))
        .output();
    let output = traced.expect("install `strace`");
    let calls = std::fs::read_to_string(&trace).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut is_dirty, mut syncs, mut reports, mut early) = (false, 0, 0, 0);
    for call in calls.lines() {
        if call.contains("-wal>") && call.contains("pwrite64(") {
            is_dirty = true;
        } else if call.contains("-wal>") && call.contains("sync(") {
            (is_dirty, syncs) = (false, syncs + 1);
        } else if call.contains("\"report stored ") {
            reports += 1;
            early += i32::from(is_dirty);
        }
    }
    assert_eq!(reports, 40, "{calls}");
    assert!(syncs >= 20 && early == 0, "{syncs} syncs, {early} early reports");
    std::fs::remove_file(trace).unwrap();
    test.passed().await;
}
