//! A database for each test, the same behavior on both databases, and logs for assertions.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::sync::{Arc, LazyLock, Mutex};

use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, DbOptions, sqlx};

#[cfg(feature = "postgres")]
pub mod proxy;
pub mod random;

/// Runs each behavior on every database of the build, as `name::sqlite` and `name::postgres`.
#[macro_export]
macro_rules! on_every_database {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident: Db) $body:block)*) => { $(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn behavior($db: Db) $body

            #[cfg(feature = "sqlite")]
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let test = $crate::common::TestDb::sqlite(concat!(module_path!())).await;
                behavior(test.db.clone()).await;
                test.passed().await;
            }

            #[cfg(feature = "postgres")]
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                let test = $crate::common::TestDb::postgres(concat!(module_path!())).await;
                behavior(test.db.clone()).await;
                test.passed().await;
            }
        }
    )* };
}

/// The database of one test. It is kept if the test fails.
pub struct TestDb {
    pub db: Db,
    pub url: String,
    name: String,
    /// The PostgreSQL server.
    server: String,
}

impl TestDb {
    #[cfg(feature = "sqlite")]
    pub async fn sqlite(test: &str) -> Self {
        let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let name = dir.join(format!("{}.db", name(test))).display().to_string();
        remove_file(&name);
        let url = format!("sqlite:{name}");
        Self { db: Db::connect(&url).await.unwrap(), url, name, server: String::new() }
    }

    #[cfg(feature = "postgres")]
    pub async fn postgres(test: &str) -> Self {
        Self::postgres_on(&postgres_url(), test).await
    }

    /// On another server than that of the other tests.
    #[cfg(feature = "postgres")]
    pub async fn postgres_on(server: &str, test: &str) -> Self {
        use sqlx::{AssertSqlSafe, Connection};

        let name = name(test);
        let mut admin =
            sqlx::PgConnection::connect(server).await.expect("DATABASE_URL leads to a server");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut admin)
            .await
            .unwrap();
        let (url, server) = (with_database(server, &name), server.to_owned());
        Self { db: Db::connect(&url).await.unwrap(), url, name, server }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the database. A test that panics does not come here.
    pub async fn passed(self) {
        match self.db.kind() {
            DatabaseKind::Sqlite => {
                self.db.close().await;
                remove_file(&self.name);
            }
            #[cfg(feature = "postgres")]
            DatabaseKind::Postgres => {
                use sqlx::{AssertSqlSafe, Connection};
                let mut admin = sqlx::PgConnection::connect(&self.server).await.unwrap();
                let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
                sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut admin).await.unwrap();
            }
            #[cfg(not(feature = "postgres"))]
            DatabaseKind::Postgres => unreachable!(),
        }
    }
}

/// A user of a PostgreSQL database who owns nothing.
#[cfg(feature = "postgres")]
pub struct Role {
    pub name: String,
    /// The database, as this user.
    pub db: Db,
}

#[cfg(feature = "postgres")]
impl Role {
    /// Runs the SQL, in which `{role}` is the name of the new role.
    pub async fn new(test: &TestDb, sql: &str) -> Self {
        let name = format!("role_{}", test.name);
        execute(&test.db, &format!("CREATE ROLE {name}; {}", sql.replace("{role}", &name))).await;
        let options: sqlx::postgres::PgConnectOptions = test.url.parse().unwrap();
        let options = options.options([("role", &name)]);
        let pool = sqlx::PgPool::connect_with(options).await.unwrap();
        Self { name, db: pool.into() }
    }

    /// Removes the role, and the database of the test.
    pub async fn passed(self, test: TestDb) {
        self.db.close().await;
        let Self { name, .. } = self;
        execute(&test.db, &format!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
        test.passed().await;
    }
}

fn name(test: &str) -> String {
    let name = test.rsplit("::").next().unwrap();
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{}_{:x}", &name[..name.len().min(40)], nanos & 0xffff_ffff_ffff)
}

fn remove_file(name: &str) {
    for end in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(format!("{name}{end}"));
    }
}

#[cfg(feature = "postgres")]
pub fn postgres_url() -> String {
    std::env::var("DATABASE_URL").expect(
        "the tests on Postgres need a server: run them with `scripts/test`, which starts one, or set DATABASE_URL to \
         one whose user may create databases",
    )
}

#[cfg(feature = "postgres")]
pub fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (server, _) = base.rsplit_once('/').unwrap();
    format!("{server}/{name}?{query}")
}

/// The URL of the database of a `Db`. The database is asked, because `Db::sqlite` and `Db::postgres` make the pool a shared one.
pub async fn url(db: &Db) -> String {
    let sql = match db.kind() {
        DatabaseKind::Sqlite => "SELECT file FROM pragma_database_list WHERE name = 'main'",
        DatabaseKind::Postgres => "SELECT current_database()::text",
    };
    let (name,): (String,) = db.query(sql).fetch_one().await.unwrap();
    match db.kind() {
        DatabaseKind::Sqlite => format!("sqlite:{name}"),
        #[cfg(feature = "postgres")]
        DatabaseKind::Postgres => with_database(&postgres_url(), &name),
        #[cfg(not(feature = "postgres"))]
        DatabaseKind::Postgres => unreachable!(),
    }
}

/// Another `Db` of the same database, with a pool of its own.
pub async fn another(db: &Db, options: DbOptions) -> Db {
    options.connect(&url(db).await).await.unwrap()
}

/// Creates a table with these columns and an `id` that the database assigns.
pub async fn table(db: &Db, name: &str, columns: &str) {
    let id = match db.kind() {
        DatabaseKind::Sqlite => "id INTEGER PRIMARY KEY",
        DatabaseKind::Postgres => "id BIGSERIAL PRIMARY KEY",
    };
    execute(db, &format!("CREATE TABLE {name} ({id}, {columns})")).await;
}

/// Runs SQL that a test has put together.
pub async fn execute(db: &Db, sql: &str) {
    db.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
}

pub async fn count(db: &Db, table: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    let (count,): (i64,) = db.query(sql).fetch_one().await.unwrap();
    count
}

/// Stores `deliveries` durable deliveries of a receiver. If `set` is not empty, it then updates the deliveries that match `condition`.
pub async fn many_deliveries(
    db: &Db,
    receiver: &str,
    deliveries: usize,
    condition: &str,
    set: &str,
) {
    let event = "'0198c0f4-0000-7000-8000-000000000000'";
    execute(
        db,
        &format!(
            "INSERT INTO signals_delivery (event, receiver, signal, sender, payload) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL \
             SELECT n + 1 FROM n WHERE n < {deliveries}) SELECT {event}, '{receiver}', 'post_save', 'users', '{{}}' FROM n"
        ),
    )
    .await;
    if !set.is_empty() {
        execute(db, &format!("UPDATE signals_delivery SET {set} WHERE {condition}")).await;
    }
}

/// Another pool for the same database, of one connection.
pub async fn one_connection(db: &Db) -> Db {
    #[cfg(feature = "sqlite")]
    if let Some(pool) = db.sqlite() {
        let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        return options.connect_with((*pool.connect_options()).clone()).await.unwrap().into();
    }
    #[cfg(feature = "postgres")]
    if let Some(pool) = db.postgres() {
        let options = sqlx::postgres::PgPoolOptions::new().max_connections(1);
        return options.connect_with((*pool.connect_options()).clone()).await.unwrap().into();
    }
    unreachable!("a pool is of a database")
}

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn push(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    pub fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until the log has this many entries.
    pub async fn wait_for(&self, entries: usize) -> Vec<String> {
        until(|| self.0.lock().unwrap().len() >= entries).await;
        self.take()
    }
}

/// Waits for the effect of another task.
pub async fn until(mut done: impl FnMut() -> bool) {
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < limit, "what is waited for does not happen");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The log of one behavior. It is a static, because receivers are functions and cannot capture it. The two databases
/// take turns.
pub struct Scene {
    pub log: Log,
    turn: tokio::sync::Mutex<()>,
}

impl Scene {
    pub const fn new() -> LazyLock<Self> {
        LazyLock::new(|| Self { log: Log::default(), turn: tokio::sync::Mutex::new(()) })
    }

    pub async fn begin(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.turn.lock().await;
        self.log.take();
        turn
    }
}

/// Polls a future, and drops it after it was pending this many times.
pub async fn cancelled_after<F: Future>(future: F, pending: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = pending;
    std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
        std::task::Poll::Pending => {
            left -= 1;
            std::task::Poll::Pending
        }
    })
    .await
}
