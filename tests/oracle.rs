//! Random transactions against an oracle: `on_commit` receivers run for exactly the rows that are in the table.
#![allow(missing_docs)]

mod common;

use std::pin::Pin;
use std::sync::LazyLock;

use common::random::Random;
use common::{Scene, cancelled_after, table};
use sqlx_signals::prelude::*;

static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Row {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Row)]
async fn fail_some(saved: PostSave<'_, Row>, conn: &mut Conn<'_>) -> Result<(), &'static str> {
    match saved.instance.n % 10 {
        9 => Err("nine"),
        // A statement that fails, and whose failure is swallowed.
        8 => {
            let _ = conn.execute("INSERT INTO nowhere VALUES (1)").await;
            Ok(())
        }
        _ => Ok(()),
    }
}

#[receiver(post_save, sender = Row, on_commit)]
async fn stored(saved: PostSave<'_, Row>) {
    SCENE.log.push(format!("commit {}", saved.instance.n));
}

#[receiver(post_save, sender = Row, on_rollback)]
async fn undone(saved: PostSave<'_, Row>) {
    SCENE.log.push(format!("rollback {}", saved.instance.n));
}

/// What the oracle says of a transaction or savepoint, before it ends.
#[derive(Default)]
struct Expected {
    /// Heard of after the commit, in this order.
    rows: Vec<i64>,
    /// Something in it failed.
    failed: bool,
    /// The commit of a savepoint was dropped in it: it is stored whole, or not at all.
    doubtful: bool,
}

type Level<'a> = Pin<Box<dyn Future<Output = Expected> + Send + 'a>>;

/// A few random steps in a transaction or savepoint.
fn steps<'a>(
    tx: &'a mut Transaction<'_>,
    random: &'a mut Random,
    next: &'a mut i64,
    depth: u64,
) -> Level<'a> {
    Box::pin(async move {
        let mut expected = Expected::default();
        for _ in 0..random.below(6) {
            match random.below(12) {
                0..5 => {
                    *next += 1;
                    let n = *next;
                    let saved = Row { id: None, n }.save(&mut *tx).await;
                    match n % 10 {
                        8 | 9 => expected.failed = true,
                        // After a failure on Postgres the server refuses.
                        _ if saved.is_err() => {
                            assert!(expected.failed || expected.doubtful, "{saved:?}")
                        }
                        _ => expected.rows.push(n),
                    }
                }
                5 => {
                    *next += 1;
                    let n = *next;
                    tx.on_commit(async move { SCENE.log.push(format!("closure {n}")) });
                }
                6 => {
                    *next += 1;
                    let mut row = Row { id: None, n: *next * 10 };
                    let polls = random.below(4) as usize;
                    match cancelled_after(row.save(&mut *tx), polls).await {
                        Some(Ok(_)) => expected.rows.push(row.n),
                        Some(Err(_)) => expected.failed = true,
                        None => expected.failed = true,
                    }
                }
                _ if depth < 3 => {
                    let mut inner = match tx.begin().await {
                        Ok(inner) => inner,
                        Err(error) => {
                            assert!(expected.failed || expected.doubtful, "{error:?}");
                            continue;
                        }
                    };
                    let within = steps(&mut inner, random, next, depth + 1).await;
                    let gone = within.failed || within.doubtful;
                    // On Postgres nothing of the transaction survives that.
                    expected.doubtful |= within.doubtful;
                    match random.below(5) {
                        0 => drop(inner),
                        1 => inner.rollback().await.unwrap(),
                        2 => {
                            let polls = random.below(2) as usize;
                            match cancelled_after(inner.commit(), polls).await {
                                Some(Ok(_)) => {
                                    assert!(!within.failed);
                                    expected.rows.extend(within.rows);
                                }
                                Some(Err(error)) => assert!(gone || expected.failed, "{error:?}"),
                                None => expected.doubtful = true,
                            }
                        }
                        _ => match inner.commit().await {
                            Ok(_) => {
                                assert!(!within.failed);
                                expected.rows.extend(within.rows);
                            }
                            Err(error) => {
                                assert!(
                                    error.is_rolled_back()
                                        && (gone || expected.failed || expected.doubtful),
                                    "{error:?}"
                                );
                            }
                        },
                    }
                }
                _ => {}
            }
        }
        expected
    })
}

async fn round(db: &Db, seed: u64, next: &mut i64) {
    let mut random = Random(seed);
    let mut tx = db.begin().await.unwrap();
    let expected = steps(&mut tx, &mut random, next, 1).await;
    let sure = !expected.failed && !expected.doubtful;
    let before = SCENE.log.entries().len();
    let mut committed = None;
    match random.below(6) {
        0 => drop(tx),
        1 => tx.rollback().await.unwrap(),
        2 => {
            // Dropped before COMMIT is sent, it rolls back; after that, it commits. Either way the receivers run for exactly what
            // is stored, which the caller compares.
            committed = cancelled_after(tx.commit(), random.below(3) as usize)
                .await
                .map(|done| done.is_ok());
        }
        _ => committed = Some(tx.commit().await.is_ok()),
    }
    if sure && committed == Some(true) {
        let commits = |log: Vec<String>| {
            log.into_iter().filter(|e| e.starts_with("commit")).collect::<Vec<_>>()
        };
        let expected: Vec<_> = expected.rows.iter().map(|n| format!("commit {n}")).collect();
        for _ in 0..100 {
            if commits(SCENE.log.entries()[before..].to_vec()).len() >= expected.len() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(commits(SCENE.log.entries()[before..].to_vec()), expected, "seed {seed}");
    }
    assert!(
        !(expected.failed && committed == Some(true)),
        "seed {seed}: committed what had failed"
    );
}

on_every_database! {
    async fn on_commit_runs_for_exactly_what_is_stored(db: Db) {
        let _turn = SCENE.begin().await;
        table(&db, "rows", "n BIGINT NOT NULL").await;
        let one = common::one_connection(&db).await;
        let seed = std::env::var("ORACLE_SEED").ok().map(|seed| seed.parse().unwrap());
        let seeds = seed.map_or(0..300, |seed| seed..seed + 1);
        let mut next = 0;
        for seed in seeds {
            round(&one, seed, &mut next).await;
            // When the only connection is free, the round is over.
            drop(one.acquire().await.unwrap());
            let stored: Vec<_> =
                Row::query("ORDER BY id").fetch_all(&db).await.unwrap().iter().map(|r| format!("commit {}", r.n)).collect();
            let heard = || SCENE.log.entries().into_iter().filter(|e| e.starts_with("commit")).collect::<Vec<_>>();
            for _ in 0..500 {
                if heard().len() >= stored.len() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let only = |a: &[String], b: &[String]| a.iter().filter(|e| !b.contains(e)).cloned().collect::<Vec<_>>();
            assert_eq!(only(&heard(), &stored), only(&stored, &heard()), "heard of and stored, seed {seed}");
            assert_eq!(heard(), stored, "seed {seed}");
        }
        assert!(SCENE.log.entries().len() > 300 && Row::query("").count(&db).await.unwrap() > 100);
        assert!(SCENE.log.entries().iter().any(|e| e.starts_with("rollback")));
    }
}
