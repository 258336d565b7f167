//! Random histories of concurrent writers.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use sqlx::{Connection, SqliteConnection};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, sqlx};

use crate::common::random::{Random, number};
use crate::common::{cancelled_after, until};
use crate::processes::{Report, start};
use crate::{DEFERS, FAILS, PANICS, ROLLS_BACK, Raw, SCENE, noted, plain, rows};

/// What is known of the rows after a history.
#[derive(Default)]
struct Expected {
    stored: HashSet<i64>,
    not_stored: HashSet<i64>,
    noted: HashSet<i64>,
}

impl Expected {
    fn note<T, E>(&mut self, n: i64, result: &Result<T, E>) {
        match result {
            Ok(_) => self.stored.insert(n),
            Err(_) => self.not_stored.insert(n),
        };
    }
}

/// A few random writes of one task. Each row has a number of its own, except those that are meant to fail.
async fn history(db: Db, mut random: Random, first: i64, expected: Arc<Mutex<Expected>>) {
    for step in 0..3 {
        let n = (first + step) * 10;
        let pending = random.below(14) as usize;
        match random.below(14) {
            0..4 => {
                let result = plain(n).save(&db).await;
                assert!(result.is_ok(), "{result:?}");
                expected.lock().unwrap().note(n, &result);
            }
            4 => {
                if let Some(result) = cancelled_after(plain(n).save(&db), pending).await {
                    expected.lock().unwrap().note(n, &result);
                }
            }
            5 | 6 => {
                let result = noted(n).save(&db).await;
                // Another write may have ended the transaction.
                assert!(result.as_ref().err().is_none_or(Error::is_rolled_back), "{result:?}");
                let mut expected = expected.lock().unwrap();
                expected.note(n, &result);
                if result.is_ok() {
                    expected.noted.insert(n);
                }
            }
            7 => {
                let n = n + [FAILS, PANICS, ROLLS_BACK, DEFERS][random.below(4) as usize];
                let result = noted(n).save(&db).await;
                assert!(result.is_err());
                expected.lock().unwrap().note(n, &result);
            }
            8 => {
                let n = n + [0, FAILS, PANICS, ROLLS_BACK, DEFERS][random.below(5) as usize];
                let row = noted(n);
                if let Some(Ok(_)) = cancelled_after({ row }.save(&db), pending).await {
                    let mut expected = expected.lock().unwrap();
                    expected.stored.insert(n);
                    expected.noted.insert(n);
                }
            }
            9 => {
                let mut tx = db.begin().await.unwrap();
                plain(n).save(&mut tx).await.unwrap();
                match random.below(3) {
                    0 => {
                        let committed = tx.commit().await;
                        expected.lock().unwrap().note(n, &committed);
                    }
                    1 => {
                        tx.rollback().await.unwrap();
                        expected.lock().unwrap().not_stored.insert(n);
                    }
                    _ => {
                        drop(tx);
                        expected.lock().unwrap().not_stored.insert(n);
                    }
                }
            }
            10 => {
                let mut row = plain(n);
                row.save(&db).await.unwrap();
                assert!(row.delete(&db).await.unwrap());
                expected.lock().unwrap().not_stored.insert(n);
            }
            11 => assert!(plain(-1).save(&db).await.unwrap_err().is_unique_violation()),
            12 => {
                // What a raw COMMIT has stored stays stored.
                let n = n + random.below(7);
                let result = Raw { id: None, n }.save(&db).await;
                if result.is_ok() || !matches!(n % 10, 1 | 4) {
                    expected.lock().unwrap().note(n, &result);
                }
            }
            // Outside of the queue.
            _ => {
                let sql = format!("INSERT INTO rows (n) VALUES ({n})");
                let result = db.execute(sqlx::AssertSqlSafe(sql)).await;
                expected.lock().unwrap().note(n, &result);
            }
        }
    }
}

/// The seeds of the random histories, which take about 10 ms each. `HISTORIES=1000000 cargo test --release -p tests --test groups random`
/// executes more of them than the default, and `HISTORIES_SEED` is the first seed.
fn seeds() -> Range<i64> {
    let [first, histories] =
        [number("HISTORIES_SEED", 0), number("HISTORIES", 10_000)].map(|number| number as i64);
    first..first + histories
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_of_concurrent_writers_store_what_they_report() {
    let _turn = SCENE.begin().await;
    let test = rows("histories").await;
    // What is measured here is not the disk.
    let db = Db::options().pragma("synchronous", "OFF").connect(&test.url).await.unwrap();
    // Another process also writes.
    let (mut other, mut lines) = start("other", &test.url);
    assert_eq!(lines.next(), Some(Report::Stored(0)));
    let mut outside = SqliteConnection::connect(&test.url).await.unwrap();
    for seed in seeds() {
        let expected: Arc<Mutex<Expected>> = Arc::default();
        let first = seed * 24;
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let random = Random((seed * 8 + task) as u64);
                let expected = Arc::clone(&expected);
                tokio::spawn(history(db.clone(), random, first + task * 3, expected))
            })
            .collect();
        for task in tasks {
            assert!(task.await.is_ok(), "history {seed}");
        }
        // Another task may complete a save whose future was dropped.
        drop(db.begin().await.unwrap());
        let mut numbers = async |sql: &'static str| -> Vec<i64> {
            let query = sqlx::query_scalar(sql).bind(first * 10).bind((first + 24) * 10);
            query.fetch_all(&mut outside).await.unwrap()
        };
        let rows = numbers("SELECT n FROM rows WHERE n >= $1 AND n < $2").await;
        let notes = numbers("SELECT of FROM notes WHERE of >= $1 AND of < $2").await;
        let (found, mut noted) = (rows.into_iter().collect::<HashSet<_>>(), notes);
        noted.sort_unstable();
        let expected = std::mem::take(&mut *expected.lock().unwrap());
        assert!(expected.stored.is_subset(&found), "{seed}: {:?} in {found:?}", expected.stored);
        assert!(expected.not_stored.is_disjoint(&found), "{seed}: {:?}", expected.not_stored);
        assert!(noted.iter().all(|n| found.contains(n)), "{seed}: {noted:?} in {found:?}");
        assert!(expected.noted.iter().all(|n| noted.contains(n)), "{seed}: {noted:?}");
        let heard = || {
            let entries = SCENE.log.entries();
            let committed = entries.iter().filter_map(|entry| entry.strip_prefix("committed "));
            let mut heard: Vec<i64> = committed.map(|n| n.parse().unwrap()).collect();
            heard.sort_unstable();
            heard
        };
        until(|| heard().len() >= noted.len()).await;
        assert_eq!(heard(), noted, "{seed}");
        SCENE.log.take();
    }
    outside.close().await.unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    let mut reported: Vec<_> = lines.collect();
    // The last line may be incomplete.
    reported.pop();
    let stored = test.db.query("SELECT n FROM rows WHERE n < -1").fetch_all::<(i64,)>().await;
    let stored: HashSet<_> = stored.unwrap().into_iter().map(|(n,)| -n).collect();
    assert!(
        reported
            .iter()
            .all(|report| matches!(report, Report::Stored(n) if *n == 0 || stored.contains(n)))
    );
    db.close().await;
    test.passed().await;
}
