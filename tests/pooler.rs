//! Connections behind PgBouncer in transaction mode, which gives each transaction another server connection.
#![cfg(feature = "postgres")]
#![allow(missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx_signals::sqlx::{self, AssertSqlSafe, Connection, PgConnection, PgPool};

use common::TestDb;
use common::proxy::Proxy;

/// A PgBouncer of one test, with one server connection for all its clients.
struct Pooler {
    child: Child,
    dir: PathBuf,
    url: String,
}

impl Pooler {
    async fn start(test: &TestDb) -> Self {
        let program = program();
        let dir = std::env::temp_dir().join(format!("sqlx-signals-pooler-{}", test.name()));
        std::fs::create_dir_all(&dir).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.join("pgbouncer.ini");
        std::fs::write(&config, settings(&test.url, port)).unwrap();
        let mut command = unprivileged(&program, &dir);
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let command = command.arg(&config).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("PgBouncer starts");
        let url = format!("postgres://postgres@127.0.0.1:{port}/{}?sslmode=disable", test.name());
        let mut pooler = Self { child, dir, url };
        for _ in 0..200 {
            if PgConnection::connect_with(&pooler.options()).await.is_ok() {
                return pooler;
            }
            assert!(pooler.child.try_wait().unwrap().is_none(), "{}", pooler.log());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("PgBouncer does not answer: {}", pooler.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::from_str(&self.url).unwrap();
        options.statement_cache_capacity(0).extra_float_digits(None)
    }

    /// A client of the library.
    async fn db(&self) -> Db {
        Db::options().statement_cache(false).connect(&self.url).await.unwrap()
    }

    /// A client that is set up with sqlx.
    async fn pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(4).connect_with(self.options()).await.unwrap()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut programs = dirs.map(|dir| dir.join("pgbouncer"));
    programs.find(|program| program.exists()).expect(
        "the tests behind a pooler need PgBouncer: run them with `scripts/test`, which installs it, or install it \
         yourself (Debian: apt-get install pgbouncer)",
    )
}

/// PgBouncer refuses to run as root; `scripts/with-postgres` makes sure that there is the user `postgres`.
fn unprivileged(program: &Path, dir: &Path) -> Command {
    let id = |flag: &str, user: &[&str]| -> String {
        let out = Command::new("id").arg(flag).args(user).output().expect("`id` runs");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    if id("-u", &[]) != "0" {
        return Command::new(program);
    }
    let (user, group) = (id("-u", &["postgres"]), id("-g", &["postgres"]));
    Command::new("chown").arg(format!("{user}:{group}")).arg(dir).status().unwrap();
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups"]);
    command.arg(program);
    command
}

fn settings(url: &str, port: u16) -> String {
    let server = PgConnectOptions::from_str(url).unwrap();
    let host = server.get_socket().map(|dir| dir.display().to_string());
    let host = host.unwrap_or_else(|| server.get_host().to_owned());
    format!(
        "[databases]\n* = host={host} port={} user={}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = transaction\ndefault_pool_size = 1\nmax_client_conn = 100\nserver_tls_sslmode = prefer\n",
        server.get_port(),
        server.get_username(),
    )
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "apples")]
struct Apple {
    #[model(primary_key)]
    id: i64,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "pears")]
struct Pear {
    #[model(primary_key)]
    id: i64,
    name: String,
}

/// Like `Pear`, with a receiver that writes.
#[derive(Debug, Clone, Model)]
#[model(table = "pears")]
struct Peeled {
    #[model(primary_key)]
    id: i64,
    name: String,
}

#[receiver(post_save, sender = Peeled)]
async fn log_peeled(saved: PostSave<'_, Peeled>, conn: &mut Conn<'_>) -> Result<()> {
    conn.query("INSERT INTO peels VALUES ($1)").bind(saved.pk()).execute().await?;
    Ok(())
}

async fn tables(db: &Db) {
    for table in ["apples", "pears"] {
        common::execute(
            db,
            &format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, name TEXT NOT NULL)"),
        )
        .await;
    }
    db.execute("CREATE TABLE peels (id BIGINT NOT NULL)").await.unwrap();
    common::execute(db, CHERRIES).await;
    common::table(db, "plums", "name TEXT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
}

/// Calls with the same parameters, whose statements differ in nothing but the table.
macro_rules! fruit {
    ($name:ident, $Fruit:ident) => {
        async fn $name(db: &Db, pool: &PgPool, from: i64) -> Result<()> {
            for id in from..from + 25 {
                let mut fruit = $Fruit { id, name: "new".to_owned() };
                match id % 5 {
                    0 => _ = fruit.save(db).await?,
                    1 => _ = fruit.insert(pool).await?,
                    2 => _ = fruit.insert(&mut *pool.acquire().await?).await?,
                    3 => {
                        let mut tx = pool.begin().await?;
                        fruit.insert(&mut tx).await?;
                        tx.commit().await?;
                    }
                    _ => _ = db.transaction(async |tx| fruit.insert(tx).await).await?,
                }
                fruit.name = "saved".to_owned();
                fruit.save(db).await?;
                assert_eq!($Fruit::get(db, id).await?, fruit);
                let found = $Fruit::query("WHERE id = $1 AND name = $2").bind(id).bind("saved");
                assert_eq!(found.fetch_all(pool).await?.len(), 1);
            }
            Ok(())
        }
    };
}

fruit!(apples, Apple);
fruit!(pears, Pear);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_do_not_mix_their_statements() {
    let test = TestDb::postgres("two_clients").await;
    tables(&test.db).await;
    let pooler = Pooler::start(&test).await;
    let mut clients = Vec::new();
    for client in 0..4_i64 {
        let pool = pooler.pool().await;
        let db = if client < 2 { pooler.db().await } else { pool.clone().into() };
        clients.push(tokio::spawn(async move {
            match client % 2 {
                0 => apples(&db, &pool, client * 1000).await,
                _ => pears(&db, &pool, client * 1000).await,
            }
        }));
    }
    for client in clients {
        client.await.unwrap().unwrap();
    }
    for (table, first) in [("apples", 0), ("pears", 1)] {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE id / 1000 % 2 = {first} AND name = 'saved'), count(*) FROM {table}"
        );
        let counts: (i64, i64) = test.db.query(AssertSqlSafe(sql)).fetch_one().await.unwrap();
        assert_eq!(counts, (50, 50), "{table}");
    }
    drop(pooler);
    test.passed().await;
}

/// Another client does not continue the transaction that a dropped call has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_leaves_no_transaction_open() {
    let test = TestDb::postgres("dropped").await;
    tables(&test.db).await;
    let pooler = Pooler::start(&test).await;
    for (way, db) in [pooler.db().await, pooler.pool().await.into()].into_iter().enumerate() {
        for pending in 0..20 {
            let id = i64::from(pending) + 1000 * way as i64;
            let mut pear = Pear { id, name: "dropped".to_owned() };
            let stored =
                common::cancelled_after(pear.insert(&db), pending as usize).await.is_some();
            let mut apple = Apple { id, name: "kept".to_owned() };
            apple.insert(&db).await.unwrap();
            assert!(Apple::find(&test.db, id).await.unwrap().is_some(), "it is committed");
            assert!(!stored || Pear::find(&test.db, id).await.unwrap().is_some());
        }
    }
    drop(pooler);
    test.passed().await;
}

/// The limit of the transaction in which the deliveries of this model run.
#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "plums")]
struct Plum {
    id: Option<i64>,
    name: String,
}

static LIMITS: LazyLock<common::Log> = LazyLock::new(common::Log::default);

#[receiver(post_save, sender = Plum, durable(timeout = "20s"))]
async fn log_limit(saved: PostSave<'_, Plum>, conn: &mut Conn<'_>) -> Result<()> {
    let sql = "SELECT current_setting('idle_in_transaction_session_timeout')";
    let (limit,): (String,) = conn.query(sql).fetch_one().await?;
    LIMITS.push(format!("{} {limit}", saved.instance.name));
    Ok(())
}

#[receiver(post_save, sender = Plum, durable(at_least_once, timeout = "20s"))]
fn count_plum(_: PostSave<'_, Plum>) {}

/// A claim in another isolation level would fail if another worker has claimed the same delivery.
const ONLY_READ_COMMITTED: &str = "
    CREATE FUNCTION only_read_committed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE 'not read committed'; END IF;
        IF current_setting('enable_bitmapscan') <> 'off' THEN RAISE 'all due deliveries may be sorted'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER only_read_committed BEFORE UPDATE ON signals_delivery FOR EACH ROW EXECUTE FUNCTION only_read_committed()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_claims_in_read_committed_and_limits_idle_transactions() {
    let test = TestDb::postgres("worker").await;
    tables(&test.db).await;
    common::execute(&test.db, ONLY_READ_COMMITTED).await;
    let level =
        format!("ALTER DATABASE {} SET default_transaction_isolation TO serializable", test.name());
    common::execute(&test.db, &level).await;
    let pooler = Pooler::start(&test).await;
    for (name, db) in
        [("direct", Db::connect(&test.url).await.unwrap()), ("pooler", pooler.db().await)]
    {
        let worker = db.deliveries().worker().concurrency(2).poll(Duration::from_millis(20));
        let worker = worker.spawn().await.unwrap();
        for _ in 0..3 {
            Plum { id: None, name: name.to_owned() }.save(&db).await.unwrap();
        }
        // The timeout of the receivers and the lease of the worker.
        assert_eq!(
            LIMITS.wait_for(3).await,
            [format!("{name} 50s"), format!("{name} 50s"), format!("{name} 50s")]
        );
        worker.shutdown().await.unwrap();
        assert_eq!(common::count(&db, "signals_delivery").await, 0);
    }
    drop(pooler);
    test.passed().await;
}

/// Without a cache no statement has a name, and each is in a transaction.
#[tokio::test]
async fn statements_run_without_a_cache() {
    let test = TestDb::postgres("unnamed").await;
    tables(&test.db).await;
    let proxy = Proxy::start(&test.url).await;
    let options = Db::options().statement_cache(false).max_connections(1);
    let db = options.connect(&proxy.url(&test.url)).await.unwrap();
    db.execute("SELECT 1").await.unwrap();
    proxy.take();
    let insert = "INSERT INTO \"pears\"";
    let pear = |id| Pear { id, name: "new".to_owned() };
    let said = async || {
        let said = proxy.take();
        assert_eq!(said.names, [""; 0], "no statement has a name");
        let statements: Vec<String> = said.statements;
        (statements, said.round_trips)
    };

    // The first write looks at the table.
    pear(-1).insert(&db).await.unwrap();
    let (statements, _) = said().await;
    assert_eq!(statements.iter().filter(|sql| *sql == "BEGIN").count(), 2, "{statements:?}");
    for id in 0..2 {
        pear(id).insert(&db).await.unwrap();
        let (statements, round_trips) = said().await;
        assert!(
            matches!(&statements[..], [b, i, c] if b == "BEGIN" && i.starts_with(insert) && c == "COMMIT"),
            "{statements:?}"
        );
        assert_eq!(round_trips, 4, "BEGIN, prepare, execute, COMMIT");
    }
    Pear::get(&db, 1).await.unwrap();
    let (statements, _) = said().await;
    assert!(
        matches!(&statements[..], [b, s, c] if b == "BEGIN" && s.starts_with("SELECT") && c == "COMMIT"),
        "{statements:?}"
    );

    // In a transaction there is no other one.
    let mut tx = db.begin().await.unwrap();
    pear(2).insert(&mut tx).await.unwrap();
    pear(3).insert(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let (statements, round_trips) = said().await;
    assert_eq!(statements.len(), 4, "{statements:?}");
    assert_eq!(round_trips, 6, "{statements:?}");
    Peeled { id: 4, name: "new".to_owned() }.insert(&db).await.unwrap();
    let (statements, _) = said().await;
    assert_eq!(statements.len(), 4, "{statements:?}");

    // A statement that fails leaves nothing open.
    let error = pear(1).insert(&db).await.unwrap_err();
    assert!(error.is_unique_violation(), "{error}");
    let (statements, _) = said().await;
    assert_eq!(statements.last().unwrap(), "ROLLBACK");
    db.execute("INSERT INTO pears VALUES (9, 'kept')").await.unwrap();
    assert!(Pear::find(&test.db, 9).await.unwrap().is_some());

    // The remaining calls.
    let mut pears = [pear(20), pear(21), pear(22)];
    Pear::insert_many(&db, &mut pears).await.unwrap();
    Pear::update_many(&db, &mut pears).await.unwrap();
    pear(20).upsert(&db, &[Pear::ID]).await.unwrap();
    Pear::get_or_create(&db, pear(21), &[Pear::ID]).await.unwrap();
    Pear::query("WHERE id > $1").bind(20).set(Pear::NAME, "set").update(&db).await.unwrap();
    assert_eq!(Pear::query("WHERE name = $1").bind("set").count(&db).await.unwrap(), 2);
    Pear::delete_many(&db, &mut pears).await.unwrap();
    db.check().await.unwrap();
    let pool = db.postgres().unwrap();
    pear(30).save(pool).await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    pear(31).save(&mut *conn).await.unwrap();
    let mut tx = conn.begin().await.unwrap();
    pear(32).save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    said().await;

    // A transaction that the program has begun with SQL of its own.
    sqlx::raw_sql("BEGIN").execute(&mut *conn).await.unwrap();
    pear(33).save(&mut *conn).await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await.unwrap();
    assert!(Pear::find(&test.db, 33).await.unwrap().is_none());
    said().await;
    test.passed().await;
}

#[tokio::test]
async fn a_setting_of_a_transaction_lasts_without_a_cache() {
    let test = TestDb::postgres("settings").await;
    tables(&test.db).await;
    let db = Db::options().statement_cache(false).connect(&test.url).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    tx.query("/* first */ SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").execute().await.unwrap();
    tx.query("SET TRANSACTION READ ONLY").execute().await.unwrap();
    let sql = "SELECT current_setting('transaction_isolation')";
    let (level,): (String,) = tx.query(sql).fetch_one().await.unwrap();
    assert_eq!(level, "serializable");
    let error = tx.query("INSERT INTO peels VALUES (1)").execute().await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    drop(tx);
    test.passed().await;
}

/// A type that sqlx does not know on a new connection.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "color", rename_all = "lowercase")]
enum Color {
    Red,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "cherries")]
struct Cherry {
    #[model(primary_key)]
    id: i64,
    color: Color,
}

const CHERRIES: &str = "CREATE TYPE color AS ENUM ('red'); CREATE TABLE cherries (id BIGINT PRIMARY KEY, color color NOT NULL);
                        INSERT INTO cherries VALUES (1, 'red')";

/// How many rows a statement with this number of values finds.
async fn cherries(conn: &mut PgConnection, values: i64) -> Result<usize> {
    let list: Vec<_> = (1..=values).map(|n| format!("${n}")).collect();
    let sql = AssertSqlSafe(format!("WHERE id IN ({})", list.join(", ")));
    Ok(Cherry::query(sql).bind_all(1..=values).fetch_all(conn).await?.len())
}

#[tokio::test]
async fn a_statement_that_has_failed_has_not_told_its_types() {
    for cache in [true, false] {
        let test = TestDb::postgres("failed_types").await;
        let options = Db::options().statement_cache(cache).max_connections(1);
        let db = options.connect(&test.url).await.unwrap();
        let found = async |values| {
            db.transaction(async |tx| {
                let sql = AssertSqlSafe(if values == 2 {
                    "WHERE id IN ($1, $2)"
                } else {
                    "WHERE id IN ($1, $2, $3)"
                });
                Ok(Cherry::query(sql).bind_all(1..=values).fetch_all(tx).await?.len())
            })
            .await
        };
        assert!(found(2).await.is_err(), "there is no such table");
        common::execute(&test.db, CHERRIES).await;
        assert_eq!(found(3).await.unwrap(), 1);
        test.passed().await;
    }
}

#[tokio::test]
async fn a_query_with_values_does_not_stay_prepared_on_a_borrowed_connection() {
    let test = TestDb::postgres("borrowed").await;
    common::execute(&test.db, CHERRIES).await;
    let proxy = Proxy::start(&test.url).await;
    let mut conn = PgConnection::connect(&proxy.url(&test.url)).await.unwrap();
    assert_eq!(cherries(&mut conn, 2).await.unwrap(), 1, "it is sent again");
    proxy.take();
    for values in 3..6 {
        assert_eq!(cherries(&mut conn, values).await.unwrap(), 1);
    }
    assert_eq!(proxy.take().names, [""; 0]);
    let mut conn = PgConnection::connect(&test.url).await.unwrap();
    let mut tx = conn.begin().await.unwrap();
    assert_eq!(cherries(&mut tx, 2).await.unwrap(), 1, "it has a name");
    drop(tx);
    test.passed().await;
}
