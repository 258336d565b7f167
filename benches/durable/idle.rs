//! A worker while a transaction is idle on another connection, so that PostgreSQL cannot remove the deliveries that have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx_signals::prelude::*;
use sqlx_signals::{Isolation, TransactionOptions};

use crate::{One, running};

/// No more deliveries than this wait.
const WAITING: usize = 2_000;

/// Deliveries a second: in the whole time, and in its last third.
type Rates = [f64; 2];

pub(crate) async fn measure(database: &str, db: &Db, rounds: usize, time: Duration) {
    let mut all = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        // Each of the two is the first one in half of the rounds.
        for idle in [round % 2 == 0, round % 2 == 1] {
            all[usize::from(idle)].push(rates(db, idle, time).await);
        }
    }
    println!("{database}: deliveries stored and run at the same time for {} s", time.as_secs());
    for (part, name) in ["in the whole time", "in the last third"].into_iter().enumerate() {
        let [without, with] = all.each_ref().map(|rates| median(rates, part));
        println!(
            "{name:<20} {without:>8.0}/s, while a transaction is idle {with:>8.0}/s, × rate {:.2}",
            with / without
        );
    }
    println!();
}

fn median(rates: &[Rates], part: usize) -> f64 {
    let mut rates: Vec<f64> = rates.iter().map(|rates| rates[part]).collect();
    rates.sort_by(f64::total_cmp);
    let half = rates.len() / 2;
    if rates.len() % 2 == 1 { rates[half] } else { (rates[half - 1] + rates[half]) / 2.0 }
}

async fn rates(db: &Db, with_idle: bool, time: Duration) -> Rates {
    db.execute("TRUNCATE signals_delivery, bench_users").await.unwrap();
    db.execute("VACUUM ANALYZE signals_delivery").await.unwrap();
    running::begin(usize::MAX);
    let mut idle = None;
    if with_idle {
        let options = TransactionOptions::new().isolation(Isolation::RepeatableRead);
        let mut tx = db.begin_with(options).await.unwrap();
        // The snapshot is taken by the first statement.
        tx.query("SELECT count(*) FROM bench_users").fetch_one::<(i64,)>().await.unwrap();
        idle = Some(tx);
    }
    let worker = db.deliveries().worker().concurrency(running::BATCH).spawn().await.unwrap();
    let stopping = Arc::new(AtomicBool::new(false));
    let storing = tokio::spawn(store(db.clone(), Arc::clone(&stopping)));
    let begun = Instant::now();
    tokio::time::sleep(time * 2 / 3).await;
    let (first, first_took) = (running::count(), begun.elapsed());
    tokio::time::sleep(time / 3).await;
    let (total, took) = (running::count(), begun.elapsed());
    stopping.store(true, Ordering::Relaxed);
    storing.await.unwrap();
    worker.shutdown().await.unwrap();
    if let Some(idle) = idle {
        idle.rollback().await.unwrap();
    }
    let last = (total - first) as f64 / (took - first_took).as_secs_f64();
    [total as f64 / took.as_secs_f64(), last]
}

/// Stores rows as long as few of their deliveries wait.
async fn store(db: Db, stopping: Arc<AtomicBool>) {
    let mut stored = 0;
    while !stopping.load(Ordering::Relaxed) {
        if stored - running::count().min(stored) > WAITING {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let mut rows: Vec<_> = (0..200).map(|_| One::new()).collect();
        One::insert_many(&db, &mut rows).await.unwrap();
        stored += rows.len();
    }
}
