//! What can be set when a `Db` is connected, and what the error says if it cannot be.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{another, url};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, DbOptions, Error};

#[derive(Debug, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
}

fn user() -> User {
    User { id: None, name: "Ann".to_owned() }
}

/// The error of an attempt to connect, in both forms.
async fn refused(options: DbOptions, url: &str) -> String {
    let error = options.connect(url).await.expect_err(url);
    assert!(matches!(error, Error::CannotConnect { .. }), "{error:?}");
    let (short, long) = (error.to_string(), format!("{error:#}"));
    assert!(!short.contains('\n') && long.starts_with("cannot connect to "), "{short} {long}");
    assert!(std::error::Error::source(&error).is_some());
    short
}

#[tokio::test]
async fn a_wrong_url_is_an_error_that_shows_a_right_one() {
    for (url, problem) in [
        ("", "the URL is empty"),
        ("shop.db", "`shop.db` is not a URL"),
        ("mysql://root:secret@localhost/shop", "`mysql:` is not a database of this build"),
    ] {
        let error = refused(Db::options(), url).await;
        assert!(error.contains(problem), "{error}");
        assert!(error.contains("`sqlite:shop.db` or `postgres://user@host/shop`"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_sqlite_file_that_cannot_be_opened_is_an_error_that_says_why() {
    let dir = env!("CARGO_TARGET_TMPDIR");
    let error = refused(Db::options(), &format!("sqlite:{dir}/missing/shop.db")).await;
    assert!(error.contains("missing/shop.db`: "), "{error}");
    assert!(
        error.ends_with(
            "a file that does not exist is only created without `mode` or with `mode=rwc`"
        )
    );

    let error = refused(Db::options(), &format!("sqlite:{dir}/none.db?mode=rw")).await;
    assert!(error.contains("check that the directory exists"), "{error}");

    let garbage = format!("{dir}/garbage.db");
    std::fs::write(&garbage, "this is a text and not a database at all. ".repeat(50)).unwrap();
    let error = refused(Db::options(), &format!("sqlite:{garbage}")).await;
    assert!(error.ends_with("the file is not a SQLite database; correct the path"), "{error}");

    for option in ["jornal_mode=wal", "mode=readonly"] {
        let error = refused(Db::options(), &format!("sqlite:{dir}/none.db?{option}")).await;
        assert!(error.contains("`mode`, `cache`, `immutable` and `vfs`"), "{error}");
        assert!(error.contains(option.split('=').next().unwrap()), "{error}");
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_postgres_server_that_cannot_be_used_is_an_error_that_says_why() {
    // A port on which nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://ann:secret@127.0.0.1:{port}/shop");
    let quick = Db::options().acquire_timeout(Duration::from_millis(300));
    let error = refused(quick, &url).await;
    assert!(error.starts_with(&format!("cannot connect to PostgreSQL at `127.0.0.1:{port}`: ")));
    assert!(error.contains("refused"), "the cause, and not only a timeout: {error}");
    assert!(error.ends_with("check that the server is running, and the host and the port"));
    assert!(!error.contains("secret"), "{error}");

    let error = refused(Db::options(), "postgres://ann:secret@[half/shop").await;
    assert!(error.contains("`postgres://user:password@host:5432/database`"), "{error}");
    assert!(!error.contains("secret"), "{error}");

    let url = common::with_database(&common::postgres_url(), "no_such_database");
    let error = refused(Db::options(), &url).await;
    assert!(error.ends_with("create the database with `createdb`, or correct its name"), "{error}");

    let url = common::postgres_url();
    let and = if url.contains('?') { '&' } else { '?' };
    let error = refused(Db::options(), &format!("{url}{and}statement_timeout=5s")).await;
    assert!(error.contains("the URL has the unknown option `statement_timeout`"), "{error}");
    assert!(error.contains("`options[statement_timeout]=…`"), "{error}");
    for option in ["channel_binding=require", "connect_timeout=10", "target_session_attrs=any"] {
        let error = refused(Db::options(), &format!("{url}{and}{option}")).await;
        let name = option.split('=').next().unwrap();
        assert!(
            error
                .contains(&format!("the URL has the option `{name}`, which sqlx does not support")),
            "{error}"
        );
        assert!(error.ends_with(&format!("remove `{name}` from the URL")), "{error}");
    }
    let db =
        Db::options().connect(&format!("{url}{and}options[statement_timeout]=5s")).await.unwrap();
    let (timeout,): (String,) = db.query("SHOW statement_timeout").fetch_one().await.unwrap();
    assert_eq!(timeout, "5s");
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_server_that_is_starting_is_awaited_also_with_a_function_for_new_connections() {
    use sqlx_signals::sqlx::postgres::PgConnectOptions;
    use tokio::net::{TcpListener, TcpStream};

    let proxy = common::proxy::Proxy::start(&common::postgres_url()).await;
    let url = proxy.url(&common::postgres_url());
    let running = url.parse::<PgConnectOptions>().unwrap().get_port();
    // A port on which nobody listens yet.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = url.replace(&format!(":{running}/"), &format!(":{port}/"));
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", running)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let options = Db::options().after_connect(|conn| {
        Box::pin(async move { conn.execute("SET application_name = 'shop'").await.map(drop) })
    });
    let db = options.connect(&url).await.unwrap();
    let (name,): (String,) = db.query("SHOW application_name").fetch_one().await.unwrap();
    assert_eq!(name, "shop");
}

on_every_database! {
    async fn a_closed_pool_is_an_error_that_says_what_to_do(db: Db) {
        common::table(&db, "users", "name TEXT NOT NULL").await;
        let other = another(&db, Db::options()).await;
        let mut conn = other.acquire().await.unwrap();
        let closing = other.clone();
        let closing = tokio::spawn(async move { closing.close().await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        user().save(&mut conn).await.expect("a connection works until it is returned");
        drop(conn);
        closing.await.unwrap();
        let mut errors = vec![
            user().save(&other).await.unwrap_err(),
            User::all(&other).await.unwrap_err(),
            other.begin().await.unwrap_err(),
            other.transaction(async |tx| user().save(tx).await).await.unwrap_err(),
            other.execute("SELECT 1").await.unwrap_err(),
            User::insert_many(&other, &mut [user()]).await.unwrap_err(),
            other.check().await.unwrap_err(),
        ];
        #[cfg(feature = "sqlite")]
        if let Some(pool) = other.sqlite() {
            errors.push(user().save(pool).await.unwrap_err());
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = other.postgres() {
            errors.push(user().save(pool).await.unwrap_err());
        }
        for error in errors {
            assert!(error.to_string().contains("closed pool"), "{error}");
            assert!(error.to_string().ends_with("call `Db::close` after the last use, or connect again"), "{error}");
            assert!(!error.is_retryable());
        }
        other.close().await;
    }

    async fn a_pool_whose_connections_are_all_in_use_is_an_error_that_says_what_to_do(db: Db) {
        let options = Db::options().max_connections(1).acquire_timeout(Duration::from_millis(100));
        let one = another(&db, options).await;
        let held = one.acquire().await.unwrap();
        let error = one.execute("SELECT 1").await.unwrap_err();
        assert!(error.is_busy(), "{error}");
        assert!(error.to_string().contains("raise `max_connections` or `acquire_timeout`"), "{error}");
        drop(held);
        one.execute("SELECT 1").await.unwrap();
    }

    async fn the_options_of_a_pool_are_set(db: Db) {
        let options = Db::options()
            .max_connections(3)
            .min_connections(2)
            .acquire_timeout(Duration::from_secs(4))
            .idle_timeout(Duration::from_secs(50))
            .max_lifetime(None)
            .application_name("shop")
            .pragma("cache_size", "-1234")
            .pragma("foreign_keys", "OFF");
        let set = another(&db, options).await;
        macro_rules! check {
            ($pool:expr) => {{
                let options = $pool.options();
                assert_eq!((options.get_max_connections(), options.get_min_connections()), (3, 2));
                assert_eq!(options.get_acquire_timeout(), Duration::from_secs(4));
                assert_eq!(options.get_idle_timeout(), Some(Duration::from_secs(50)));
                assert_eq!(options.get_max_lifetime(), None);
            }};
        }
        match db.kind() {
            #[cfg(feature = "sqlite")]
            DatabaseKind::Sqlite => {
                check!(set.sqlite().unwrap());
                let size: (i64,) = set.query("PRAGMA cache_size").fetch_one().await.unwrap();
                let keys: (i64,) = set.query("PRAGMA foreign_keys").fetch_one().await.unwrap();
                let journal: (String,) = set.query("PRAGMA journal_mode").fetch_one().await.unwrap();
                assert_eq!((size.0, keys.0, &*journal.0), (-1234, 0, "wal"));
            }
            #[cfg(feature = "postgres")]
            DatabaseKind::Postgres => {
                check!(set.postgres().unwrap());
                let name: (String,) = set.query("SHOW application_name").fetch_one().await.unwrap();
                assert_eq!(name.0, "shop");
            }
            #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
            _ => unreachable!(),
        }
    }

    async fn a_time_without_end_is_accepted(db: Db) {
        let options = Db::options()
            .acquire_timeout(Duration::MAX)
            .idle_timeout(Duration::MAX)
            .max_lifetime(Duration::MAX);
        let endless = another(&db, options).await;
        endless.execute("SELECT 1").await.unwrap();
        let conns = [endless.acquire().await.unwrap(), endless.acquire().await.unwrap()];
        drop(conns);
        endless.close().await;
    }

    async fn a_pool_without_connections_is_an_error(db: Db) {
        let error = refused(Db::options().max_connections(0), &url(&db).await).await;
        assert!(error.ends_with("set `max_connections` to 1 or more"), "{error}");
    }

    async fn a_function_is_called_with_every_new_connection(db: Db) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let options = Db::options().max_connections(2).after_connect(move |conn| {
            let counted = Arc::clone(&counted);
            Box::pin(async move {
                counted.fetch_add(1, Ordering::Relaxed);
                conn.execute("CREATE TEMPORARY TABLE cart (item TEXT)").await?;
                Ok(())
            })
        });
        let set = another(&db, options).await;
        let before = calls.load(Ordering::Relaxed);
        let (mut one, mut two) = (set.acquire().await.unwrap(), set.acquire().await.unwrap());
        for conn in [&mut one, &mut two] {
            conn.execute("INSERT INTO cart VALUES ('apple')").await.unwrap();
        }
        assert_eq!(calls.load(Ordering::Relaxed), before + 1, "the second connection is new");
        drop((one, two));
        let again = set.acquire().await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), before + 1, "it is not called for each use");
        drop(again);
    }

    async fn an_error_of_the_function_for_new_connections_is_returned_at_once(db: Db) {
        let options = || Db::options().acquire_timeout(Duration::from_secs(60));
        let sql = options().after_connect(|conn| {
            Box::pin(async move { conn.execute("SELECT 1 FROM nowhere").await.map(drop) })
        });
        let error = refused(sql, &url(&db).await).await;
        assert!(error.contains("nowhere"), "{error}");
        let own = options().after_connect(|_| {
            Box::pin(async { Err(Error::other("the tenant is not set")) })
        });
        let error = refused(own, &url(&db).await).await;
        assert!(error.contains("the tenant is not set"), "{error}");
    }
}

#[test]
fn options_print_every_option() {
    let options = Db::options().max_connections(7).slow_receivers(Duration::from_millis(123));
    let text = format!("{options:?}");
    assert!(text.contains("max_connections: Some(7)"), "{text}");
    assert!(text.contains("slow_receivers: Some(123ms)"), "{text}");
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_memory_database_keeps_its_one_connection_whatever_the_options_say() {
    let options = Db::options().max_connections(9).idle_timeout(Duration::from_millis(1));
    let options = options.max_lifetime(Duration::from_millis(1)).after_connect(|conn| {
        Box::pin(async move {
            conn.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)").await.map(drop)
        })
    });
    Db::options().max_connections(0).connect("sqlite::memory:").await.unwrap();
    let db = options.connect("sqlite::memory:").await.unwrap();
    user().save(&db).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(User::all(&db).await.unwrap().len(), 1);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_locked_new_file_is_awaited_for_no_longer_than_the_acquire_timeout() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("locked_new.db");
    let _ = std::fs::remove_file(&file);
    let options = sqlx_signals::sqlx::sqlite::SqliteConnectOptions::new();
    let options = options.filename(&file).create_if_missing(true);
    let mut lock = sqlx_signals::sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx_signals::sqlx::raw_sql("BEGIN EXCLUSIVE; CREATE TABLE users (id INTEGER PRIMARY KEY)")
        .execute(&mut lock)
        .await
        .unwrap();
    let start = std::time::Instant::now();
    let options = Db::options().acquire_timeout(Duration::from_millis(300));
    refused(options, &format!("sqlite:{}", file.display())).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    drop(lock);
    std::fs::remove_file(file).unwrap();
}

/// As when several processes of a program start for the first time. Only one connection at a time can switch a file to WAL, and SQLite does
/// not let the others wait.
#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_connect_to_a_new_sqlite_file_at_the_same_time() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    for round in 0..20 {
        let file = dir.join(format!("first_{round}.db"));
        let remove = || {
            for end in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{end}", file.display()));
            }
        };
        remove();
        let url = format!("sqlite:{}", file.display());
        let tasks = (0..16).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { Db::connect(&url).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            let db = task.await.unwrap().unwrap_or_else(|error| panic!("{round}: {error}"));
            db.execute(
                "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
            )
            .await
            .unwrap();
            db.close().await;
        }
        remove();
    }
}
