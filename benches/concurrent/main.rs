//! Concurrent writers on a SQLite file: plain sqlx compared with this library, for one to 512 tasks.
//!
//! `cargo bench --bench concurrent` prints a table for `synchronous = FULL` and one for `NORMAL`. `--quick` measures each case for 0.1
//! seconds instead of one. The cases take turns in three rounds, so that other work on the machine affects all of them.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx;

const TASKS: [usize; 4] = [1, 8, 64, 512];
const ROUNDS: usize = 3;

#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Plain {
    id: Option<i64>,
    n: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "rows")]
struct Noted {
    id: Option<i64>,
    n: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    of: i64,
}

#[receiver(post_save, sender = Noted)]
async fn note(saved: PostSave<'_, Noted>, conn: &mut Conn<'_>) -> Result<()> {
    Note { id: None, of: saved.instance.n }.save(conn).await.map(drop)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    SqlxInsert,
    Save,
    SqlxTransaction,
    SaveWithReceiver,
}

impl Case {
    const ALL: [Self; 4] =
        [Self::SqlxInsert, Self::Save, Self::SqlxTransaction, Self::SaveWithReceiver];

    fn name(self) -> &'static str {
        match self {
            Self::SqlxInsert => "sqlx: INSERT",
            Self::Save => "sqlx-signals: save",
            Self::SqlxTransaction => "sqlx: BEGIN IMMEDIATE, 2 INSERTs, COMMIT",
            Self::SaveWithReceiver => "sqlx-signals: save with a receiver that writes",
        }
    }

    async fn write(self, pool: &SqlitePool, db: &Db, n: i64) -> Result<()> {
        match self {
            Self::SqlxInsert => drop(insert(pool, n).await?),
            Self::Save => drop(Plain { id: None, n }.save(db).await?),
            Self::SqlxTransaction => {
                let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
                insert(&mut *tx, n).await?;
                sqlx::query_scalar::<_, i64>("INSERT INTO notes (of) VALUES ($1) RETURNING id")
                    .bind(n)
                    .fetch_one(&mut *tx)
                    .await?;
                tx.commit().await?;
            }
            Self::SaveWithReceiver => drop(Noted { id: None, n }.save(db).await?),
        }
        Ok(())
    }
}

async fn insert<'e>(
    executor: impl sqlx::Executor<'e, Database = sqlx::Sqlite>,
    n: i64,
) -> sqlx::Result<i64> {
    sqlx::query_scalar("INSERT INTO rows (n) VALUES ($1) RETURNING id")
        .bind(n)
        .fetch_one(executor)
        .await
}

#[derive(Default)]
struct Measured {
    latencies: Vec<Duration>,
    errors: usize,
    elapsed: Duration,
}

/// The file of one case. Each case has its own, so that all files have the same number of rows in each round.
struct File {
    path: PathBuf,
    pool: SqlitePool,
    db: Db,
}

impl File {
    async fn open(name: &str, synchronous: SqliteSynchronous) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("concurrent-{name}-{}.db", std::process::id()));
        let options = SqliteConnectOptions::from_str(&format!("sqlite:{}", path.display()))
            .unwrap()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let pool = || SqlitePoolOptions::new().max_connections(10).connect_with(options.clone());
        let db = Db::from(pool().await.unwrap());
        db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)").await.unwrap();
        db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, of BIGINT NOT NULL)")
            .await
            .unwrap();
        Self { path, pool: pool().await.unwrap(), db }
    }

    async fn remove(self) {
        self.pool.close().await;
        self.db.close().await;
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.path.display()));
        }
    }
}

/// Lets this many tasks write for this long.
async fn measure(case: Case, file: &File, tasks: usize, time: Duration) -> Measured {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let (pool, db, stop) = (file.pool.clone(), file.db.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut latencies, mut errors) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    match case.write(&pool, &db, task as i64).await {
                        Ok(()) => latencies.push(start.elapsed()),
                        Err(_) => errors += 1,
                    }
                }
                (latencies, errors)
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut measured = Measured::default();
    for task in tasks {
        let (latencies, errors) = task.await.unwrap();
        measured.latencies.extend(latencies);
        measured.errors += errors;
    }
    measured.elapsed = start.elapsed();
    measured
}

fn print(name: &str, tasks: usize, measured: &mut Measured) {
    let Measured { latencies, errors, elapsed } = measured;
    latencies.sort_unstable();
    let at = |part: f64| {
        let index = (latencies.len() as f64 * part) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    println!(
        "| {name} | {tasks} | {:.0} | {:.2} | {:.2} | {:.1} | {errors} |",
        latencies.len() as f64 / elapsed.as_secs_f64(),
        ms(at(0.5)),
        ms(at(0.99)),
        ms(at(1.0)),
    );
}

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let time = Duration::from_millis(if quick { 100 } else { 1_000 });
    for (synchronous, name) in
        [(SqliteSynchronous::Full, "FULL"), (SqliteSynchronous::Normal, "NORMAL")]
    {
        println!("\nSQLite file, WAL, `synchronous = {name}`\n");
        println!("| writer | tasks | writes/s | p50 ms | p99 ms | max ms | errors |");
        println!("|---|--:|--:|--:|--:|--:|--:|");
        for tasks in TASKS {
            let mut files = Vec::new();
            for case in Case::ALL {
                files.push(File::open(&format!("{}-{tasks}", case as usize), synchronous).await);
            }
            let mut all: [Measured; 4] = Default::default();
            for _ in 0..ROUNDS {
                for ((case, file), all) in Case::ALL.iter().zip(&files).zip(&mut all) {
                    let measured = measure(*case, file, tasks, time).await;
                    all.latencies.extend(measured.latencies);
                    all.errors += measured.errors;
                    all.elapsed += measured.elapsed;
                }
            }
            for (case, all) in Case::ALL.iter().zip(&mut all) {
                print(case.name(), tasks, all);
            }
            for file in files {
                file.remove().await;
            }
        }
    }
}
