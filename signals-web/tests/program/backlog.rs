//! A table with many deliveries, and the pages that show them.
#![allow(unreachable_pub)]

use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};

/// How many deliveries are stored.
pub struct Backlog {
    pub waiting: usize,
    pub dead: usize,
    /// The last one has five thousand deliveries, which are among the oldest.
    pub receivers: [&'static str; 3],
}

/// Where the dead deliveries are.
#[derive(Debug, Clone, Copy)]
pub enum Dead {
    Everywhere,
    Newest,
    Oldest,
}

impl Dead {
    pub const PLACES: [Self; 3] = [Self::Everywhere, Self::Newest, Self::Oldest];

    /// The difference of two ids. The deliveries between old dead ones have been run.
    fn step(self) -> usize {
        if matches!(self, Self::Oldest) { 2 } else { 1 }
    }
}

impl Backlog {
    fn deliveries(&self) -> usize {
        self.waiting + self.dead
    }

    /// Creates the tables, and stores the deliveries.
    pub async fn store(&self, db: &Db, place: Dead) -> Result<()> {
        for table in ["signals_delivery", "signals_schema", "signals_done", "signals_inbox"] {
            db.execute(sqlx::AssertSqlSafe(format!("DROP TABLE IF EXISTS {table}"))).await?;
        }
        db.deliveries().setup().await?;
        let (rows, [mail, index, archive]) = (self.deliveries(), self.receivers);
        let is_dead = match place {
            Dead::Everywhere => format!("n / 3 % {} = 0", rows / self.dead),
            Dead::Newest => format!("n > {}", self.waiting),
            Dead::Oldest => format!("n <= {}", self.dead),
        };
        let (now, stored) = match db.kind() {
            DatabaseKind::Sqlite => {
                ("unixepoch() * 1000", format!("unixepoch() * 1000 - 10 * ({rows} - n)"))
            }
            DatabaseKind::Postgres => ("now()", format!("now() - interval '10 ms' * ({rows} - n)")),
        };
        // Without this clause, PostgreSQL refuses ids that it has not assigned.
        let overriding = match db.kind() {
            DatabaseKind::Sqlite => "",
            DatabaseKind::Postgres => "OVERRIDING SYSTEM VALUE",
        };
        let step = place.step();
        let payload = format!("{{\"row\":{{\"id\":1,\"text\":\"{}\"}}}}", "x".repeat(100));
        let fill = format!(
            "INSERT INTO signals_delivery (id, event, receiver, signal, sender, key, payload, stored_at, run_at, error, dead_at) {overriding} \
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows}) \
             SELECT {step} * n, '0198c0f4-0000-7000-8000-000000000000', \
             CASE WHEN n <= 50000 AND n % 10 = 0 THEN '{archive}' WHEN n % 2 = 0 THEN '{mail}' ELSE '{index}' END, 'post_save', 'users', '1', \
             '{payload}', {stored}, {stored}, CASE WHEN {is_dead} THEN 'no such address' END, CASE WHEN {is_dead} THEN {now} END FROM n"
        );
        db.execute(sqlx::AssertSqlSafe(fill)).await?;
        // As in a database that was filled in the course of time. VACUUM marks a page as visible to all only if what is on it is on the disk.
        let tidy: &[&str] = match db.kind() {
            DatabaseKind::Sqlite => &["ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"],
            DatabaseKind::Postgres => &["CHECKPOINT", "VACUUM ANALYZE signals_delivery"],
        };
        for statement in tidy {
            db.execute(*statement).await?;
        }
        Ok(())
    }

    /// The overview, every list, its pages, and one delivery, as paths inside the page.
    pub fn paths(&self, place: Dead) -> Vec<String> {
        let (middle, waiting) = (place.step() * self.deliveries() / 2, place.step() * self.waiting);
        let pages = [
            String::new(),
            format!("&older_than={waiting}"),
            format!("&older_than={middle}"),
            format!("&newer_than={middle}"),
            "&newer_than=50".to_owned(),
        ];
        let mut paths = vec![String::new(), "/deliveries/8".to_owned()];
        for receiver in ["", self.receivers[0], self.receivers[2]] {
            for state in ["", "waiting", "running", "retrying", "dead", "done"] {
                for page in &pages {
                    paths.push(format!("/deliveries?receiver={receiver}&state={state}{page}"));
                }
            }
        }
        paths
    }
}
