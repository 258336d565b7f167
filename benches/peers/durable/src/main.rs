//! Stored jobs that do nothing are run by the worker of each library, and the rates are compared.
//!
//! `peer-durable URL [JOBS] [ROUNDS]` prints a table. `URL` is an empty database of a PostgreSQL server.

mod peers;

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Notify;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How many jobs one statement claims, how many run at the same time, and how many one statement acknowledges, as far as the library can be told.
const BATCH: usize = 100;
/// How long an acknowledgement waits for others. In sqlx-signals it is fixed to this, and apalis does not wait.
const WAIT: Duration = Duration::from_millis(5);
/// The connections of each library's own pool.
const CONNECTIONS: u32 = 10;

/// The payload of every job.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Welcome {
    name: String,
    email: String,
}

impl Welcome {
    fn new() -> Self {
        Self { name: "Ann".to_owned(), email: "ann@example.org".to_owned() }
    }
}

static ENDED: AtomicUsize = AtomicUsize::new(0);
static EXPECTED: AtomicUsize = AtomicUsize::new(usize::MAX);
static ALL_ENDED: Notify = Notify::const_new();

/// Called by every job.
fn ended() {
    if ENDED.fetch_add(1, Ordering::Relaxed) + 1 == EXPECTED.load(Ordering::Relaxed) {
        ALL_ENDED.notify_one();
    }
}

/// What the program measures with.
struct Measure {
    pool: PgPool,
    jobs: usize,
}

impl Measure {
    /// Truncates a table and the tables that reference it, and prepares the count of the jobs that end.
    async fn empty(&self, table: &str) -> Outcome<()> {
        sqlx::raw_sql(AssertSqlSafe(format!("TRUNCATE {table} CASCADE")))
            .execute(&self.pool)
            .await?;
        ENDED.store(0, Ordering::Relaxed);
        EXPECTED.store(self.jobs, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until every job has run, and `left` counts none that is not acknowledged. Returns the time since `begun`.
    async fn until_done(&self, begun: Instant, left: &'static str) -> Outcome<Duration> {
        tokio::time::timeout(Duration::from_secs(120), ALL_ENDED.notified()).await?;
        while sqlx::query_scalar::<_, i64>(left).fetch_one(&self.pool).await? > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let elapsed = begun.elapsed();
        assert_eq!(ENDED.load(Ordering::Relaxed), self.jobs, "each job runs once");
        Ok(elapsed)
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn report(rates: &[(&str, Vec<f64>)], jobs: usize, rounds: usize) {
    let base = &rates[0].1;
    println!("{jobs} stored jobs that do nothing, {rounds} rounds in turns:\n");
    println!(
        "| | jobs a second, median | lowest to highest | × rate, median of the rounds | lowest to highest |"
    );
    println!("|---|--:|--:|--:|--:|");
    for (name, own) in rates {
        let ratios: Vec<f64> = own.iter().zip(base).map(|(own, base)| own / base).collect();
        let ends = |of: &[f64]| {
            (of.iter().copied().fold(f64::MAX, f64::min), of.iter().copied().fold(0.0, f64::max))
        };
        let ((slowest, fastest), (lowest, highest)) = (ends(own), ends(&ratios));
        println!(
            "| {name} | {:.0} | {slowest:.0} to {fastest:.0} | {:.2} | {lowest:.2} to {highest:.2} |",
            median(own),
            median(&ratios)
        );
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().ok_or("the first argument is the URL of a database")?;
    let jobs = args.next().map_or(Ok(10_000), |jobs| jobs.parse())?;
    let rounds: usize = args.next().map_or(Ok(7), |rounds| rounds.parse())?;
    let measure = Measure { pool: PgPool::connect(&url).await?, jobs };
    let signals = peers::signals::connect(&url).await?;
    let graphile = peers::graphile::connect(&url).await?;
    let apalis = peers::apalis::connect(&url).await?;
    let mut rates =
        [("sqlx-signals", vec![]), ("graphile_worker", vec![]), ("apalis-postgres", vec![])];
    // The first round is not counted: it opens connections and prepares statements.
    for round in 0..=rounds {
        let mut order = [0, 1, 2];
        fastrand::shuffle(&mut order);
        for peer in order {
            let elapsed = match peer {
                0 => peers::signals::run(&measure, &signals).await?,
                1 => peers::graphile::run(&measure, &graphile).await?,
                _ => peers::apalis::run(&measure, &apalis).await?,
            };
            if round > 0 {
                rates[peer].1.push(jobs as f64 / elapsed.as_secs_f64());
            }
        }
    }
    report(&rates, jobs, rounds);
    Ok(())
}
