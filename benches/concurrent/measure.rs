//! Lets tasks write, and measures each write.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::database::Database;
use crate::writers::Writer;

/// The writes of one case.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) errors: usize,
    pub(crate) elapsed: Duration,
}

impl AddAssign for Measured {
    fn add_assign(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.errors += other.errors;
        self.elapsed += other.elapsed;
    }
}

/// Lets this many tasks write for this long.
pub(crate) async fn tasks(
    writer: Writer,
    database: &Database,
    tasks: usize,
    time: Duration,
) -> Measured {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let tasks: Vec<_> = (0..writer.tasks(tasks))
        .map(|task| {
            let (pool, db, stop) = (database.pool.clone(), database.db.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut measured = Measured::default();
                let mut held = writer.hold(&pool).await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    match writer.write(&pool, &mut held, &db, task).await {
                        Ok(()) => measured.latencies.push(start.elapsed()),
                        Err(_) => measured.errors += 1,
                    }
                }
                measured
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Measured::default();
    for task in tasks {
        all += task.await.unwrap();
    }
    all.elapsed = start.elapsed();
    all
}
