//! The databases that are measured, and those that are not.

use sqlx::Pool;
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};

use crate::by_hand::ByHand;

pub(crate) enum Measurable {
    #[cfg(feature = "sqlite")]
    Sqlite(Database),
    #[cfg(feature = "postgres")]
    Postgres(Database),
    Not(&'static str),
}

impl Measurable {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(database) => database.name,
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.name,
            Self::Not(_) => "",
        }
    }
}

pub(crate) struct Database {
    name: &'static str,
    url: String,
    /// What remains of it, and is to be removed.
    remains: Remains,
}

enum Remains {
    #[cfg(feature = "sqlite")]
    Nothing,
    #[cfg(feature = "sqlite")]
    File(std::path::PathBuf),
    #[cfg(feature = "postgres")]
    Database { server: String },
}

/// SQLite in memory and in a file, and PostgreSQL, or why it is not measured.
pub(crate) async fn all() -> Vec<Measurable> {
    let mut all = Vec::new();
    sqlite(&mut all);
    postgres(&mut all).await;
    all
}

#[cfg(feature = "sqlite")]
fn sqlite(all: &mut Vec<Measurable>) {
    let url = "sqlite::memory:".to_owned();
    all.push(Measurable::Sqlite(Database {
        name: "SQLite in memory",
        url,
        remains: Remains::Nothing,
    }));
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.db");
    remove_file(&file);
    let url = format!("sqlite:{}", file.display());
    all.push(Measurable::Sqlite(Database {
        name: "SQLite file",
        url,
        remains: Remains::File(file),
    }));
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(all: &mut Vec<Measurable>) {
    all.push(Measurable::Not("SQLite: the feature `sqlite` is off"));
}

#[cfg(feature = "postgres")]
async fn postgres(all: &mut Vec<Measurable>) {
    let Ok(server) = std::env::var("DATABASE_URL") else {
        all.push(Measurable::Not(
            "PostgreSQL: DATABASE_URL is not set; `scripts/with-postgres cargo bench --all-features` has a server",
        ));
        return;
    };
    let admin = Db::connect(&server).await.expect("DATABASE_URL leads to a server");
    admin.execute("DROP DATABASE IF EXISTS sqlx_signals_bench WITH (FORCE)").await.unwrap();
    admin.execute("CREATE DATABASE sqlx_signals_bench").await.unwrap();
    let (base, query) = server.split_once('?').unwrap_or((&server, ""));
    let (base, _) = base.rsplit_once('/').expect("DATABASE_URL names a database");
    let url = format!("{base}/sqlx_signals_bench?{query}");
    let on_socket = url.parse::<sqlx::postgres::PgConnectOptions>().unwrap().get_socket().is_some();
    let name = if on_socket { "PostgreSQL on a Unix socket" } else { "PostgreSQL over TCP" };
    all.push(Measurable::Postgres(Database { name, url, remains: Remains::Database { server } }));
}

#[cfg(not(feature = "postgres"))]
async fn postgres(all: &mut Vec<Measurable>) {
    all.push(Measurable::Not("PostgreSQL: the feature `postgres` is off"));
}

impl Database {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// What it is, with its version.
    pub(crate) async fn describe(&self) -> String {
        let db = Db::connect(&self.url).await.unwrap();
        let version = match db.kind() {
            DatabaseKind::Sqlite => "SELECT sqlite_version()",
            DatabaseKind::Postgres => "SHOW server_version",
        };
        let (version,): (String,) = db.query(version).fetch_one().await.unwrap();
        db.close().await;
        format!("{}, version {version}", self.name)
    }

    /// A pool, and empty tables.
    pub(crate) async fn fresh(&self) -> Db {
        let db = Db::connect(&self.url).await.unwrap();
        for sql in self.tables() {
            db.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        }
        db
    }

    /// Another pool on the same tables; where it is in memory, on tables of its own.
    pub(crate) async fn another(&self) -> Db {
        match self.is_in_memory() {
            true => self.fresh().await,
            false => Db::connect(&self.url).await.unwrap(),
        }
    }

    /// The tables of a pool that is in memory.
    pub(crate) async fn tables_in<DB: ByHand>(&self, pool: &Pool<DB>) {
        if self.is_in_memory() {
            let mut conn = pool.acquire().await.unwrap();
            for sql in self.tables() {
                DB::execute(DB::pooled(&mut conn), sql).await;
            }
        }
    }

    fn is_in_memory(&self) -> bool {
        self.url.ends_with(":memory:")
    }

    fn tables(&self) -> [String; 4] {
        let id = match self.url.starts_with("sqlite") {
            true => "INTEGER PRIMARY KEY",
            false => "BIGSERIAL PRIMARY KEY",
        };
        [
            "DROP TABLE IF EXISTS users".to_owned(),
            "DROP TABLE IF EXISTS audit".to_owned(),
            format!("CREATE TABLE users (id {id}, name TEXT NOT NULL, email TEXT NOT NULL)"),
            format!("CREATE TABLE audit (id {id}, user_id BIGINT NOT NULL)"),
        ]
    }

    pub(crate) async fn remove(self) {
        match self.remains {
            #[cfg(feature = "sqlite")]
            Remains::Nothing => {}
            #[cfg(feature = "sqlite")]
            Remains::File(file) => remove_file(&file),
            #[cfg(feature = "postgres")]
            Remains::Database { server } => {
                let admin = Db::connect(&server).await.unwrap();
                admin.execute("DROP DATABASE sqlx_signals_bench WITH (FORCE)").await.unwrap();
            }
        }
    }
}

#[cfg(feature = "sqlite")]
fn remove_file(file: &std::path::Path) {
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
}
