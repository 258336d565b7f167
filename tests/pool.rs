//! The pool: a connection is reused if its last use ended cleanly, and checked if its state is unknown.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, sqlx};

use common::{another, cancelled_after, count, table};

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Watched {
    id: Option<i64>,
    name: String,
}

#[receiver(post_save, sender = Watched)]
async fn watch(_: PostSave<'_, Watched>, conn: &mut Conn<'_>) -> Result<()> {
    User { id: None, name: "by a receiver".to_owned() }.save(conn).await?;
    Ok(())
}

fn user(name: &str) -> User {
    User { id: None, name: name.to_owned() }
}

/// More at a time than the pool has connections.
async fn crowd(db: &Db, size: usize) {
    let saves = (0..size).map(|n| {
        let db = db.clone();
        tokio::spawn(async move {
            Watched { id: None, name: n.to_string() }.save(&db).await.unwrap();
        })
    });
    for save in saves.collect::<Vec<_>>() {
        save.await.unwrap();
    }
}

/// Takes every connection of a pool at once.
async fn every_connection(db: &Db) {
    let all = async {
        let mut all = Vec::new();
        for _ in 0..10 {
            let mut conn = db.acquire().await.unwrap();
            conn.execute("SELECT 1").await.unwrap();
            all.push(conn);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("a connection is missing");
}

on_every_database! {
    async fn every_waiting_caller_gets_a_connection(db: Db) {
        table(&db, "users", "name TEXT NOT NULL").await;
        crowd(&db, 64).await;
        assert_eq!(count(&db, "users").await, 128);
    }

    // If a save is dropped half-way, later calls do not see what it has begun.
    async fn a_connection_is_clean_after_a_dropped_call(db: Db) {
        table(&db, "users", "name TEXT NOT NULL").await;
        for pending in 0..60 {
            let mut watched = Watched { id: None, name: "left".to_owned() };
            let done = cancelled_after(watched.save(&db), pending % 12).await;
            user("after").save(&db).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            user("dropped").save(&mut tx).await.unwrap();
            if pending % 2 == 0 {
                drop(cancelled_after(user("left").save(&mut tx), 0).await);
            }
            drop(tx);
            drop(done);
        }
        crowd(&db, 20).await;
        let dropped = User::query("WHERE name = $1").bind("dropped").count(&db).await.unwrap();
        assert_eq!(dropped, 0, "a transaction that was dropped is rolled back");
        let after = User::query("WHERE name = $1").bind("after").count(&db).await.unwrap();
        assert_eq!(after, 60, "what was stored after it is stored");
    }

    // Nine of the ten connections run statements whose futures were dropped.
    async fn a_waiter_gets_the_connection_that_becomes_idle_first(db: Db) {
        table(&db, "users", "name TEXT NOT NULL").await;
        let other = another(&db, Db::options()).await;
        let (mut lock, tenth) = (other.begin().await.unwrap(), db.acquire().await.unwrap());
        if db.kind() == DatabaseKind::Postgres {
            lock.execute("LOCK TABLE users IN EXCLUSIVE MODE").await.unwrap();
        }
        let saves = (0..9).map(|_| {
            let db = db.clone();
            // Raw SQL, because a save on SQLite would wait for its turn without a connection.
            tokio::spawn(async move { db.execute("INSERT INTO users (name) VALUES ('blocked')").await })
        });
        let saves: Vec<_> = saves.collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        saves.iter().for_each(|save| save.abort());
        let waiters = (0..3).map(|_| {
            let db = db.clone();
            tokio::spawn(async move { count(&db, "users").await })
        });
        let waiters: Vec<_> = waiters.collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "every connection is in use");
        drop(tenth);
        // The other connections are not free before `lock` ends.
        for waiter in waiters {
            waiter.await.unwrap();
        }
        lock.rollback().await.unwrap();
        every_connection(&db).await;
    }

    async fn no_connection_is_lost_by_dropped_calls(db: Db) {
        table(&db, "users", "name TEXT NOT NULL").await;
        for pending in 0..24 {
            let calls = (0..12).map(|call| {
                let db = db.clone();
                tokio::spawn(async move {
                    let mut watched = Watched { id: None, name: "Ann".to_owned() };
                    match call % 6 {
                        0 => drop(cancelled_after(watched.save(&db), pending).await),
                        1 => drop(cancelled_after(user("Ann").save(&db), pending).await),
                        2 => drop(cancelled_after(User::all(&db), pending).await),
                        3 => drop(cancelled_after(db.begin(), pending).await),
                        4 if pending % 8 == 0 => {
                            let _conn = db.acquire().await.unwrap();
                            panic!("with a connection");
                        }
                        4 => drop(cancelled_after(db.acquire(), pending).await),
                        _ => {
                            let mut tx = db.begin().await.unwrap();
                            let savepoint = async { tx.begin().await?.commit().await };
                            drop(cancelled_after(savepoint, pending % 4).await);
                            drop(cancelled_after(tx.commit(), pending % 4).await);
                        }
                    }
                })
            });
            for call in calls.collect::<Vec<_>>() {
                let _ = call.await;
            }
        }
        every_connection(&db).await;
    }

    async fn closing_the_pool_wakes_waiting_callers(db: Db) {
        let mut all = Vec::new();
        for _ in 0..10 {
            all.push(db.acquire().await.unwrap());
        }
        let waiting = db.clone();
        let waiter = tokio::spawn(async move { waiting.execute("SELECT 1").await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let closing = db.clone();
        let close = tokio::spawn(async move { closing.close().await });
        let waited = tokio::time::timeout(Duration::from_secs(20), waiter).await;
        let error = waited.expect("the waiter is told").unwrap().unwrap_err();
        assert!(matches!(error, Error::Database(sqlx::Error::PoolClosed)), "{error}");
        drop(all);
        close.await.unwrap();
    }

    // As a migration does it; each column is read by its name.
    async fn rows_are_read_after_another_connection_has_altered_their_table(db: Db) {
        #[derive(Debug, PartialEq, sqlx::FromRow)]
        struct Named { id: i64, name: String }

        table(&db, "users", "name TEXT NOT NULL").await;
        let admin = another(&db, Db::options()).await;
        let mut ann = user("Ann");
        ann.save(&db).await.unwrap();
        let id = ann.id.unwrap();
        for alter in [
            "SELECT 1",
            "ALTER TABLE users ADD COLUMN age INTEGER",
            "ALTER TABLE users DROP COLUMN age",
            "ALTER TABLE users DROP COLUMN name; ALTER TABLE users ADD COLUMN name TEXT NOT NULL DEFAULT 'Ann'",
            "ALTER TABLE users ADD COLUMN age TEXT; ALTER TABLE users ADD COLUMN born TEXT",
            "ALTER TABLE users RENAME COLUMN age TO name_before; ALTER TABLE users DROP COLUMN born",
        ] {
            common::execute(&admin, alter).await;
            for _ in 0..2 {
                assert_eq!(User::get(&db, id).await.unwrap().name, "Ann", "{alter}");
                ann.save(&db).await.unwrap();
                let all = db.query("SELECT * FROM users WHERE id = $1").bind(id);
                assert_eq!(all.fetch_all::<Named>().await.unwrap(), [Named { id, name: "Ann".to_owned() }], "{alter}");
                let mut tx = db.begin().await.unwrap();
                assert_eq!(User::all(&mut tx).await.unwrap().len(), 1);
                tx.commit().await.unwrap();
            }
        }
    }

    async fn a_program_that_uses_the_sqlx_pool_does_not_wait(db: Db) {
        table(&db, "users", "name TEXT NOT NULL").await;
        crowd(&db, 30).await;
        // All connections at a time, which none may be kept from.
        let all = async {
            #[cfg(feature = "sqlite")]
            if let Some(pool) = db.sqlite() {
                let most = pool.options().get_max_connections();
                let mut all = Vec::new();
                for _ in 0..most {
                    all.push(pool.acquire().await.unwrap());
                }
            }
            #[cfg(feature = "postgres")]
            if let Some(pool) = db.postgres() {
                let most = pool.options().get_max_connections();
                let mut all = Vec::new();
                for _ in 0..most {
                    all.push(pool.acquire().await.unwrap());
                }
            }
        };
        let patience = std::time::Duration::from_secs(10);
        tokio::time::timeout(patience, all).await.expect("a connection is kept back");
        crowd(&db, 30).await;
    }
}

mod shared {
    use super::*;
    use futures::usual;

    /// A pool of the program, in the words of both databases.
    #[derive(Clone)]
    pub(super) enum Shared {
        #[cfg(feature = "sqlite")]
        Sqlite(sqlx::SqlitePool),
        #[cfg(feature = "postgres")]
        Postgres(sqlx::PgPool),
    }

    macro_rules! on {
        ($shared:expr, $pool:ident => $body:expr) => {
            match $shared {
                #[cfg(feature = "sqlite")]
                Shared::Sqlite($pool) => $body,
                #[cfg(feature = "postgres")]
                Shared::Postgres($pool) => $body,
            }
        };
    }

    impl Shared {
        /// A pool that the program opens for the database of `db`, with sqlx's defaults.
        pub(super) async fn of(db: &Db, max: u32) -> Self {
            #[cfg(feature = "sqlite")]
            if let Some(pool) = db.sqlite() {
                let options = (*pool.connect_options()).clone();
                let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(max);
                return Self::Sqlite(pool.connect_with(options).await.unwrap());
            }
            #[cfg(feature = "postgres")]
            if let Some(pool) = db.postgres() {
                let options = (*pool.connect_options()).clone();
                let pool = sqlx::postgres::PgPoolOptions::new().max_connections(max);
                return Self::Postgres(pool.connect_with(options).await.unwrap());
            }
            unreachable!("a `Db` has a pool")
        }

        pub(super) fn db(&self) -> Db {
            on!(self, pool => Db::from(pool.clone()))
        }

        /// Takes a connection, and gives it back after its use. Returns how long the pool kept the caller waiting.
        async fn use_one(&self) -> Duration {
            let start = Instant::now();
            on!(self, pool => {
                let mut conn = pool.acquire().await.unwrap();
                let waited = start.elapsed();
                sqlx::query("SELECT 1").execute(&mut *conn).await.unwrap();
                waited
            })
        }

        /// Takes every connection at once. Returns how long the pool kept the callers waiting.
        async fn use_all(&self, max: u32) -> Duration {
            let start = Instant::now();
            on!(self, pool => {
                let mut all = Vec::new();
                for _ in 0..max {
                    all.push(pool.acquire().await.unwrap());
                }
                start.elapsed()
            })
        }

        fn size(&self) -> u32 {
            on!(self, pool => pool.size())
        }

        fn idle(&self) -> usize {
            on!(self, pool => pool.num_idle())
        }

        async fn close(&self) {
            on!(self, pool => pool.close().await);
        }
    }

    pub(super) mod futures {
        use std::time::Duration;

        pub(crate) async fn all<F: Future<Output: Send + 'static> + Send + 'static>(
            futures: impl Iterator<Item = F>,
        ) {
            for task in futures.map(tokio::spawn).collect::<Vec<_>>() {
                task.await.unwrap();
            }
        }

        /// The lower quartile: what the pool makes its callers wait, without the times in which the system ran something else.
        pub(super) fn usual(mut times: Vec<Duration>) -> Duration {
            times.sort();
            times[times.len() / 4]
        }
    }

    /// The `Db`s whose sqlx pool the program also has.
    async fn shared_in_each_way(db: &Db, max: u32) -> Vec<(Shared, Db)> {
        let from = Shared::of(db, max).await;
        let of_options = another(db, Db::options().max_connections(max)).await;
        let pool = |db: &Db| {
            #[cfg(feature = "sqlite")]
            if let Some(pool) = db.sqlite() {
                return Shared::Sqlite(pool.clone());
            }
            #[cfg(feature = "postgres")]
            if let Some(pool) = db.postgres() {
                return Shared::Postgres(pool.clone());
            }
            unreachable!("a `Db` has a pool")
        };
        vec![(from.clone(), from.db()), (pool(&of_options), of_options)]
    }

    on_every_database! {
        async fn a_connection_is_kept_ready_and_returned_if_it_stays_unused(db: Db) {
            table(&db, "users", "name TEXT NOT NULL").await;
            for (pool, db) in shared_in_each_way(&db, 10).await {
                for _ in 0..5 {
                    user("Ann").save(&db).await.unwrap();
                }
                assert_eq!((pool.size(), pool.idle()), (1, 0), "it is not returned after each save");
                common::until(|| pool.idle() == 1).await;
                assert_eq!(pool.size(), 1, "it was not closed");
            }
        }

        async fn callers_of_the_sqlx_pool_get_the_connections_that_are_kept_ready(db: Db) {
            table(&db, "users", "name TEXT NOT NULL").await;
            for max in [1, 2, 10] {
                for (pool, db) in shared_in_each_way(&db, max).await {
                    pool.use_all(max).await;
                    let mut waits = Vec::new();
                    for _ in 0..9 {
                        let conns = (0..max).map(|_| db.acquire());
                        let mut held = Vec::new();
                        for conn in conns {
                            held.push(conn.await.unwrap());
                        }
                        for conn in &mut held {
                            conn.execute("SELECT 1").await.unwrap();
                        }
                        drop(held);
                        waits.push(pool.use_all(max).await);
                    }
                    let wait = usual(waits);
                    assert!(wait < Duration::from_millis(10), "{max} connections: {wait:?}");
                }
            }
        }

        async fn callers_of_the_sqlx_pool_take_turns_with_saves_that_never_stop(db: Db) {
            table(&db, "users", "name TEXT NOT NULL").await;
            for max in [1, 2, 10] {
                for (pool, db) in shared_in_each_way(&db, max).await {
                    pool.use_all(max).await;
                    // SQLite has one writer at a time, so more of them would only wait for each other.
                    let tasks = if db.kind() == DatabaseKind::Sqlite { 1 } else { max };
                    let busy = (0..tasks).map(|_| {
                        let db = db.clone();
                        tokio::spawn(async move {
                            loop {
                                user("Ann").save(&db).await.unwrap();
                            }
                        })
                    });
                    let busy: Vec<_> = busy.collect();
                    let mut waits = Vec::new();
                    for _ in 0..21 {
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        waits.push(pool.use_one().await);
                    }
                    busy.iter().for_each(|task| task.abort());
                    let wait = usual(waits);
                    assert!(wait < Duration::from_millis(10), "{max} connections: {wait:?}");
                }
            }
        }

        async fn closing_the_sqlx_pool_does_not_wait_for_connections_that_are_kept_ready(db: Db) {
            table(&db, "users", "name TEXT NOT NULL").await;
            for (pool, db) in shared_in_each_way(&db, 10).await {
                user("Ann").save(&db).await.unwrap();
                let close = tokio::time::timeout(Duration::from_secs(20), pool.close());
                close.await.expect("the connection is returned");
                let error = user("Bob").save(&db).await.unwrap_err();
                assert!(matches!(error, Error::Database(sqlx::Error::PoolClosed)), "{error}");
            }
        }

        async fn a_db_for_each_request_closes_no_connection(db: Db) {
            table(&db, "users", "name TEXT NOT NULL").await;
            let pool = Shared::of(&db, 3).await;
            let opened = |row: (i64,)| row.0;
            let process = async |db: &Db| match db.kind() {
                DatabaseKind::Sqlite => 0,
                DatabaseKind::Postgres => {
                    let id = db.query("SELECT pg_backend_pid()::bigint").fetch_one();
                    opened(id.await.unwrap())
                }
            };
            let first = process(&pool.db()).await;
            // The connection is returned on a task of its own.
            common::until(|| pool.idle() == 1).await;
            for _ in 0..20 {
                let db = pool.db();
                user("Ann").save(&db).await.unwrap();
                assert_eq!(process(&db).await, first);
                drop(db);
                common::until(|| pool.idle() == 1).await;
            }
        }

        async fn many_tasks_share_a_small_pool_with_the_program(db: Db) {
            table(&db, "users", "name TEXT NOT NULL").await;
            for (pool, db) in shared_in_each_way(&db, 2).await {
                let work = (0..24).map(|task| {
                    let (pool, db) = (pool.clone(), db.clone());
                    async move {
                        for _ in 0..20 {
                            match task % 3 {
                                0 => drop(pool.use_one().await),
                                1 => drop(User::all(&db).await.unwrap()),
                                _ => drop(cancelled_after(User::all(&db), task % 5).await),
                            }
                        }
                    }
                });
                let work = tokio::time::timeout(Duration::from_secs(60), futures::all(work));
                work.await.expect("nobody waits for a connection that nobody uses");
            }
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use common::proxy::Proxy;

    /// Ends every session of the database but that of `other`, and waits until their processes have ended.
    async fn hang_up(other: &Db) {
        let terminate = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity \
                         WHERE datname = current_database() AND pid <> pg_backend_pid()";
        // A process that ends by itself meanwhile is reported as not terminated, so they are looked up again.
        while !other.query(terminate).fetch_all::<(bool,)>().await.unwrap().is_empty() {}
    }

    /// The server has closed idle connections, and they were not tested since. Each write still finds a live connection.
    /// Over a Unix socket, sending fails. Over TCP, sending succeeds, and the server's last message is read.
    #[tokio::test]
    async fn connections_that_died_while_idle_fail_no_write() {
        let test = common::TestDb::postgres("died").await;
        let proxy = Proxy::start(&test.url).await;
        let other = Db::connect(&test.url).await.unwrap();
        table(&other, "users", "name TEXT NOT NULL UNIQUE").await;
        for db in [Db::connect(&test.url).await.unwrap(), proxy.db(&test.url).await] {
            let mut known = user("known");
            known.save(&db).await.unwrap();
            for way in 0..8 {
                crowd_of_connections(&db).await;
                hang_up(&other).await;
                proxy.all_closed().await;
                let (mut ann, mut many) = (user("Ann"), [user("Bob"), user("Eve")]);
                match way {
                    0 => _ = ann.save(&db).await.unwrap(),
                    1 => _ = ann.upsert(&db, &[User::NAME]).await.unwrap(),
                    2 => _ = known.save(&db).await.unwrap(),
                    3 => _ = User::insert_many(&db, &mut many).await.unwrap(),
                    4 => assert_eq!(User::delete_many(&db, &mut [ann]).await.unwrap(), 0),
                    5 => assert!(known.delete(&db).await.unwrap()),
                    6 => _ = Watched { id: None, name: "Ann".to_owned() }.save(&db).await.unwrap(),
                    _ => db.begin().await.unwrap().commit().await.map(drop).unwrap(),
                }
                let stored = [2, 2, 1, 3, 1, 0, 2, 0][way];
                assert_eq!(count(&other, "users").await, stored, "once: {way}");
                other.execute("DELETE FROM users WHERE name <> 'known'").await.unwrap();
            }
            db.close().await;
        }
        test.passed().await;
    }

    /// A server that hangs up when a write is complete has stored it: it is not sent again.
    #[tokio::test]
    async fn a_completed_write_is_not_sent_again() {
        #[derive(Debug, Clone, Model)]
        #[model(table = "users")]
        struct Told {
            id: Option<i64>,
            name: String,
        }
        #[receiver(post_save, sender = Told, on_commit)]
        async fn tell(_: PostSave<'_, Told>) {}

        let test = common::TestDb::postgres("complete").await;
        let proxy = Proxy::start(&test.url).await;
        let other = Db::connect(&test.url).await.unwrap();
        table(&other, "users", "name TEXT NOT NULL").await;
        let db = proxy.db(&test.url).await;
        // The first save inspects the table, and the connection has then answered before its write is sent.
        Told { id: None, name: "first".to_owned() }.save(&db).await.unwrap();
        for way in 0..8 {
            let mut known = user("known");
            known.save(&db).await.unwrap();
            let mut told = Told { id: None, name: "Ann".to_owned() };
            let mut many = [user("Bob"), user("Eve")];
            proxy.take();
            proxy.hang_up_after_a_write();
            let done = match way {
                0 => user("Ann").save(&db).await.map(drop),
                1 => user("Ann").insert(&db).await.map(drop),
                2 => known.save(&db).await.map(drop),
                3 => known.update(&db).await.map(drop),
                4 => known.delete(&db).await.map(drop),
                5 => User::insert_many(&db, &mut many).await.map(drop),
                6 => told.save(&db).await.map(drop),
                _ => known.save_fields(&db, &[User::NAME]).await.map(drop),
            };
            let writes = ["INSERT", "UPDATE", "DELETE"];
            let said = proxy.take().statements;
            let sent = said.iter().filter(|sql| writes.iter().any(|word| sql.starts_with(word)));
            assert_eq!(sent.count(), 1, "{way}: {said:?}");
            assert!(matches!(done, Err(Error::CommitUnknown(_))), "{way}: {done:?}");
            other.execute("DELETE FROM users").await.unwrap();
        }
        test.passed().await;
    }

    /// Several at the ready.
    async fn crowd_of_connections(db: &Db) {
        let mut all = Vec::new();
        for _ in 0..9 {
            all.push(db.acquire().await.unwrap());
        }
    }

    /// A caller that holds the connection relies on its state, so the library does not switch to another connection.
    #[tokio::test]
    async fn a_connection_in_use_that_dies_is_an_error() {
        let test = common::TestDb::postgres("in_use").await;
        let other = Db::connect(&test.url).await.unwrap();
        table(&test.db, "users", "name TEXT NOT NULL").await;
        let mut conn = test.db.acquire().await.unwrap();
        conn.execute("SET application_name = 'mine'").await.unwrap();
        hang_up(&other).await;
        user("Ann").save(&mut conn).await.unwrap_err();
        drop(conn);
        let mut tx = test.db.begin().await.unwrap();
        user("Ann").save(&mut tx).await.unwrap();
        hang_up(&other).await;
        user("Bob").save(&mut tx).await.unwrap_err();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        assert_eq!(count(&other, "users").await, 0);
        user("Eve").save(&test.db).await.unwrap();
        drop(other);
        test.passed().await;
    }

    /// A program can leave the raw connection in any state, so it goes back to sqlx's pool, which tests it.
    #[tokio::test]
    async fn a_connection_that_was_handed_out_raw_goes_back_to_the_pool() {
        let test = common::TestDb::postgres("touched").await;
        let db = &test.db;
        table(db, "users", "name TEXT NOT NULL").await;
        for _ in 0..20 {
            use sqlx_signals::sqlx::Connection;
            let mut conn = db.acquire().await.unwrap();
            let mut tx = conn.postgres().unwrap().begin().await.unwrap();
            user("left open").insert(&mut tx).await.unwrap();
            drop(tx);
            drop(conn);
            assert_eq!(count(db, "users").await, 0);
        }
        test.passed().await;
    }

    /// Connections of a pool of the program go back there, so the `Db` meets each one anew.
    #[tokio::test]
    async fn a_connection_of_the_program_prepares_its_statements_once_after_a_schema_change() {
        let test = common::TestDb::postgres("prepared_once").await;
        table(&test.db, "users", "name TEXT NOT NULL").await;
        let proxy = Proxy::start(&test.url).await;
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1);
        let pool = pool.connect(&proxy.url(&test.url)).await.unwrap();
        let db = Db::from(pool.clone());
        let mut ann = user("Ann");
        ann.save(&db).await.unwrap();
        for change in ["ADD n INTEGER", "DROP n"] {
            common::execute(&db, &format!("ALTER TABLE users {change}")).await;
            for named in [true, false, false, false] {
                drop(pool.acquire().await.unwrap());
                proxy.take();
                ann.save(&db).await.unwrap();
                let said = proxy.take();
                assert_eq!(!said.names.is_empty(), named, "{change}: {said:?}");
            }
        }
        db.close().await;
        test.passed().await;
    }

    const LIMIT: Duration = Duration::from_secs(3);

    /// The call has waited until its deadline, and not for a second one.
    fn assert_one_limit(took: Duration, way: i32) {
        assert!(took < LIMIT * 2, "{way}: {took:?}");
    }

    /// Several connections that were not used for so long that they are pinged before their next use.
    async fn idle_through(proxy: &Proxy, url: &str) -> Db {
        let options = Db::options().acquire_timeout(LIMIT);
        let db = options.connect(&proxy.url(url)).await.unwrap();
        user("Ann").save(&db).await.unwrap();
        crowd_of_connections(&db).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        db
    }

    fn is_timeout<T>(done: &Result<T>) -> bool {
        matches!(done, Err(Error::Database(sqlx::Error::PoolTimedOut)))
    }

    #[tokio::test]
    async fn one_deadline_bounds_a_call_whose_server_is_silent() {
        let test = common::TestDb::postgres("silent").await;
        table(&test.db, "users", "name TEXT NOT NULL").await;
        let url = test.url.clone();
        let calls = (0..6).map(|way| {
            let url = url.clone();
            async move {
                let proxy = Proxy::start(&url).await;
                let db = idle_through(&proxy, &url).await;
                proxy.silence_all();
                let start = Instant::now();
                let timed_out = match way {
                    0 => is_timeout(&db.execute("SELECT 1").await),
                    1 => is_timeout(&user("Bob").save(&db).await),
                    2 => is_timeout(&User::get(&db, 1).await),
                    3 => is_timeout(&db.begin().await),
                    4 => is_timeout(&db.query("SELECT 1").fetch_all::<(i32,)>().await),
                    _ => is_timeout(&db.transaction(async |tx| user("Bob").save(tx).await).await),
                };
                assert!(timed_out, "{way}");
                let took = start.elapsed();
                assert!(took > LIMIT * 9 / 10, "{way}: {took:?}");
                assert_one_limit(took, way);
                // A call that waits for the connection in the meantime has the same deadline.
                let start = Instant::now();
                let mut bob = user("Bob");
                let (one, two) = tokio::join!(db.execute("SELECT 1"), bob.save(&db));
                assert!(is_timeout(&one) && is_timeout(&two), "{way}");
                assert_one_limit(start.elapsed(), way);
            }
        });
        shared::futures::all(calls).await;
        test.passed().await;
    }

    #[tokio::test]
    async fn a_new_connection_replaces_silent_ones() {
        let test = common::TestDb::postgres("replaced").await;
        table(&test.db, "users", "name TEXT NOT NULL").await;
        let proxy = Proxy::start(&test.url).await;
        let db = idle_through(&proxy, &test.url).await;
        proxy.silence_open();
        for _ in 0..4 {
            user("Bob").save(&db).await.unwrap();
        }
        assert_eq!(count(&db, "users").await, 5);
        // And through sqlx's pool.
        let db = idle_through(&proxy, &test.url).await;
        let pool = db.postgres().unwrap().clone();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        proxy.silence_open();
        let (one,): (i32,) = sqlx::query_as("SELECT 1").fetch_one(&pool).await.unwrap();
        assert_eq!(one, 1);
        test.passed().await;
    }

    #[tokio::test]
    async fn one_deadline_bounds_a_write_that_goes_to_another_connection() {
        let test = common::TestDb::postgres("sent_again").await;
        table(&test.db, "users", "name TEXT NOT NULL").await;
        for way in 0..2 {
            let proxy = Proxy::start(&test.url).await;
            let options = Db::options().acquire_timeout(LIMIT);
            let db = options.connect(&proxy.url(&test.url)).await.unwrap();
            user("Ann").save(&db).await.unwrap();
            hang_up(&Db::connect(&test.url).await.unwrap()).await;
            proxy.all_closed().await;
            proxy.silence_all();
            let start = Instant::now();
            match way {
                0 => assert!(is_timeout(&user("Bob").save(&db).await)),
                _ => assert!(is_timeout(&db.begin().await)),
            }
            assert_one_limit(start.elapsed(), way);
        }
        test.passed().await;
    }

    /// The server of a connection can disappear during a statement. If the call is dropped then, its connection does not occupy the pool
    /// until the operating system gives it up.
    #[tokio::test]
    async fn connections_that_fall_silent_in_dropped_calls_are_replaced() {
        let test = common::TestDb::postgres("fell_silent").await;
        table(&test.db, "users", "name TEXT NOT NULL").await;
        let url = test.url.clone();
        let calls = (0..6).map(|way| {
            let url = url.clone();
            async move {
                let proxy = Proxy::start(&url).await;
                let options = Db::options().max_connections(1);
                let options = options.acquire_timeout(Duration::from_secs(2));
                let db = options.connect(&proxy.url(&url)).await.unwrap();
                user("Ann").save(&db).await.unwrap();
                let tx = if way == 5 { Some(db.begin().await.unwrap()) } else { None };
                proxy.silence_open();
                let call = async {
                    match way {
                        0 => drop(user("Bob").save(&db).await),
                        1 => drop(db.execute("SELECT 1").await),
                        2 => drop(User::get(&db, 1).await),
                        3 => drop(db.query("SELECT 1").fetch_all::<(i32,)>().await),
                        4 => drop(db.transaction(async |tx| user("Bob").save(tx).await).await),
                        _ => drop(tx),
                    }
                };
                let dropped = tokio::time::timeout(Duration::from_millis(100), call).await;
                assert_eq!(dropped.is_err(), way != 5, "{way}");
                let start = Instant::now();
                while let Err(error) = user("Eve").save(&db).await {
                    assert!(is_timeout(&Err::<(), _>(error)), "{way}");
                    assert!(start.elapsed() < Duration::from_secs(20), "{way}: still occupied");
                }
                db.close().await;
            }
        });
        shared::futures::all(calls).await;
        test.passed().await;
    }

    /// After a failover, the server of an open connection can be a standby. It still answers reads, so the connection is closed only because it
    /// refuses a write.
    #[tokio::test]
    async fn a_connection_whose_server_only_reads_is_replaced() {
        let test = common::TestDb::postgres("standby").await;
        table(&test.db, "users", "name TEXT NOT NULL UNIQUE").await;
        user("known").save(&test.db).await.unwrap();
        let alter = format!("ALTER DATABASE {} SET default_transaction_read_only", test.name());
        for way in 0..8 {
            common::execute(&test.db, &format!("{alter} = on")).await;
            let db = Db::options().max_connections(3).connect(&test.url).await.unwrap();
            drop((db.acquire().await.unwrap(), db.acquire().await.unwrap()));
            common::execute(&test.db, &format!("{alter} = off")).await;
            let mut refused = 0;
            let done = loop {
                let mut known = User::get(&db, 1).await.unwrap();
                let done = match way {
                    0 => user("Ann").save(&db).await.map(drop),
                    1 => known.save(&db).await.map(drop),
                    2 => User::insert_many(&db, &mut [user("Ann"), user("Bob")]).await.map(drop),
                    3 => Watched { id: None, name: "Ann".into() }.save(&db).await.map(drop),
                    4 => db.transaction(async |tx| user("Ann").save(tx).await).await.map(drop),
                    5 => User::query("").set(User::NAME, "known").update(&db).await.map(drop),
                    6 => db.execute("UPDATE users SET name = name").await.map(drop),
                    _ => user("known").upsert(&db, &[User::NAME]).await.map(drop),
                };
                let Err(error) = done else { break done };
                let code = error.database_error().and_then(|error| error.code());
                assert_eq!(code.as_deref(), Some("25006"), "{way}: {error}");
                refused += 1;
                if refused > 3 {
                    break Err(error);
                }
            };
            done.unwrap_or_else(|error| panic!("{way}: {error}"));
            // A transaction of the program that only reads says nothing about the server.
            let read_only = sqlx_signals::TransactionOptions::new().read_only(true);
            let pid = "SELECT pg_backend_pid()";
            let mut tx = db.begin_with(read_only).await.unwrap();
            let before: (i32,) = tx.query(pid).fetch_one().await.unwrap();
            user("Eve").save(&mut tx).await.unwrap_err();
            tx.rollback().await.unwrap();
            let open = "SELECT pid FROM pg_stat_activity WHERE pid = $1";
            let open = db.query(open).bind(before.0).fetch_all::<(i32,)>().await.unwrap();
            assert_eq!(open, [before], "{way}");
            db.execute("DELETE FROM users WHERE name <> 'known'").await.unwrap();
            db.close().await;
        }
        test.passed().await;
    }

    #[tokio::test]
    async fn connections_that_died_while_idle_fail_no_read() {
        use futures_util::TryStreamExt;

        let test = common::TestDb::postgres("died_reading").await;
        let proxy = Proxy::start(&test.url).await;
        let other = Db::connect(&test.url).await.unwrap();
        table(&other, "users", "name TEXT NOT NULL UNIQUE").await;
        user("known").save(&other).await.unwrap();
        for db in [Db::connect(&test.url).await.unwrap(), proxy.db(&test.url).await] {
            for way in 0..9 {
                crowd_of_connections(&db).await;
                hang_up(&other).await;
                proxy.all_closed().await;
                let all = || User::query("WHERE name = $1").bind("known");
                let found = match way {
                    0 => User::get(&db, 1).await.map(|_| 1),
                    1 => User::find(&db, 1).await.map(|found| found.iter().count()),
                    2 => User::all(&db).await.map(|all| all.len()),
                    3 => all().fetch_all(&db).await.map(|all| all.len()),
                    4 => all().fetch_optional(&db).await.map(|found| found.iter().count()),
                    5 => all().count(&db).await.map(|count| count as usize),
                    6 => all().exists(&db).await.map(usize::from),
                    7 => User::get_many(&db, &[1]).await.map(|all| all.len()),
                    _ => all().fetch(&db).try_collect::<Vec<_>>().await.map(|all| all.len()),
                };
                assert_eq!(found.unwrap_or_else(|error| panic!("{way}: {error}")), 1, "{way}");
            }
            db.close().await;
        }
        test.passed().await;
    }

    #[tokio::test]
    async fn connections_that_died_while_idle_fail_no_raw_sql() {
        let test = common::TestDb::postgres("died_raw").await;
        let proxy = Proxy::start(&test.url).await;
        let other = Db::connect(&test.url).await.unwrap();
        table(&other, "users", "name TEXT NOT NULL UNIQUE").await;
        user("known").save(&other).await.unwrap();
        for db in [Db::connect(&test.url).await.unwrap(), proxy.db(&test.url).await] {
            for way in 0..4 {
                crowd_of_connections(&db).await;
                hang_up(&other).await;
                proxy.all_closed().await;
                let select = "SELECT name FROM users WHERE id = $1";
                let done = match way {
                    0 => db.query(select).bind(1_i64).fetch_one::<(String,)>().await.map(|_| 1),
                    1 => db.query("UPDATE users SET name = $1").bind("known").execute().await,
                    2 => db.execute("UPDATE users SET name = 'known'").await,
                    _ => {
                        let mut conn = db.acquire().await.unwrap();
                        conn.execute("SELECT 1; UPDATE users SET name = 'known'").await.map(|_| 1)
                    }
                };
                assert_eq!(done.unwrap_or_else(|error| panic!("{way}: {error}")), 1, "{way}");
            }
            db.close().await;
        }
        test.passed().await;
    }

    #[tokio::test]
    async fn a_read_that_is_terminated_while_it_runs_is_not_sent_again() {
        use futures_util::TryStreamExt;

        let test = common::TestDb::postgres("terminated_reading").await;
        let other = Db::connect(&test.url).await.unwrap();
        table(&other, "users", "name TEXT NOT NULL").await;
        user("Ann").save(&other).await.unwrap();
        other.execute("CREATE SEQUENCE started").await.unwrap();
        let slow = "WHERE CASE WHEN nextval('started') > 0 THEN pg_sleep(60) IS NOT NULL END";
        let started = async || {
            let last = other.query("SELECT last_value FROM started WHERE is_called");
            last.fetch_optional::<(i64,)>().await.unwrap().map_or(0, |last| last.0)
        };
        for way in 0..4 {
            let db = Db::connect(&test.url).await.unwrap();
            let read = async {
                let slow = User::query(slow);
                match way {
                    0 => slow.fetch_all(&db).await.map(drop),
                    1 => slow.fetch_optional(&db).await.map(drop),
                    2 => slow.count(&db).await.map(drop),
                    _ => slow.fetch(&db).try_collect::<Vec<_>>().await.map(drop),
                }
            };
            let terminate = async {
                while started().await <= way {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tokio::time::sleep(Duration::from_millis(1100)).await;
                hang_up(&other).await;
            };
            // A second attempt would sleep for a minute.
            let both = async { tokio::join!(read, terminate).0 };
            let read = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
            read.unwrap_err();
            assert_eq!(started().await, way + 1, "{way}");
            db.close().await;
        }
        test.passed().await;
    }

    /// The server has sent some of the rows.
    #[tokio::test]
    async fn a_read_that_loses_its_connection_between_two_rows_returns_no_row_twice() {
        let test = common::TestDb::postgres("between_rows").await;
        test.db.execute("CREATE SEQUENCE runs").await.unwrap();
        let view = "CREATE VIEW users AS SELECT id, repeat('x', 9000) || CASE WHEN id = 3 AND nextval('runs') = 1 \
                    THEN pg_terminate_backend(pg_backend_pid())::text ELSE '' END AS name FROM generate_series(1, 5::bigint) id";
        test.db.execute(view).await.unwrap();
        for keeps_statements in [true, false] {
            for is_raw in [true, false] {
                test.db.execute("SELECT setval('runs', 1, false)").await.unwrap();
                let db = Db::options()
                    .statement_cache(keeps_statements)
                    .connect(&test.url)
                    .await
                    .unwrap();
                let ids = match is_raw {
                    true => {
                        let read = db
                            .query("SELECT id, name FROM users")
                            .fetch_all::<(i64, String)>()
                            .await;
                        read.map(|rows| rows.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
                    }
                    false => {
                        let read = User::query("").fetch_all(&db).await;
                        read.map(|rows| rows.into_iter().filter_map(|user| user.id).collect())
                    }
                };
                // Without a statement cache, no row has been passed on yet, so the statement is repeated.
                match ids {
                    Ok(ids) => assert_eq!(ids, [1, 2, 3, 4, 5], "{keeps_statements} {is_raw}"),
                    Err(error) => assert!(keeps_statements, "{is_raw}: {error}"),
                }
                db.close().await;
            }
        }
        test.passed().await;
    }

    fn in_runtime<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// Instead of new attempts until the acquire timeout expires.
    #[tokio::test]
    async fn the_error_of_new_connections_that_cannot_be_used_is_returned() {
        let test = common::TestDb::postgres("unusable").await;
        let pool = sqlx::postgres::PgPoolOptions::new().after_connect(|conn, _| {
            Box::pin(async move {
                let terminate = sqlx::raw_sql("SELECT pg_terminate_backend(pg_backend_pid())");
                terminate.execute(conn).await.unwrap_err();
                Ok(())
            })
        });
        let db = Db::from(pool.connect_lazy(&test.url).unwrap());
        let error = user("Ann").save(&db).await.unwrap_err();
        let source = error.find::<sqlx::Error>().unwrap();
        assert!(matches!(source, sqlx::Error::Io(_)), "{error:?}");
        test.passed().await;
    }

    /// sqlx does not count the transaction of such a `begin`, and returns the connection to its pool.
    #[tokio::test]
    async fn a_begin_of_the_program_that_was_dropped_takes_no_write_along() {
        let test = common::TestDb::postgres("dropped_begin").await;
        table(&test.db, "users", "name TEXT NOT NULL").await;
        let mut stored = 0;
        for (pending, in_two_runtimes) in (0..6).flat_map(|n| [(n, false), (n, true)]) {
            let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1);
            let pool = pool.connect(&test.url).await.unwrap();
            let own = pool.clone();
            let make = move || Db::from(own);
            let db = match in_two_runtimes {
                true => std::thread::spawn(|| in_runtime(async { make() })).join().unwrap(),
                false => make(),
            };
            drop(cancelled_after(pool.begin(), pending).await);
            user("Ann").save(&db).await.unwrap();
            stored += 1;
            assert_eq!(count(&test.db, "users").await, stored, "{pending}");
            db.close().await;
        }
        test.passed().await;
    }
}

/// A migration that runs while the program does: what is prepared on its connections is not what it was.
#[cfg(feature = "postgres")]
mod altered {
    use super::*;
    use common::{TestDb, execute};
    use sqlx_signals::sqlx::{Connection, PgConnection};

    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "notes")]
    struct Note {
        id: Option<i64>,
        #[model(unique)]
        name: String,
        #[model(generated)]
        slug: String,
    }

    /// Like `Note`, with a receiver that writes, and one after the commit.
    #[derive(Debug, Clone, Model)]
    #[model(table = "notes")]
    struct Told {
        id: Option<i64>,
        name: String,
        #[model(generated)]
        slug: String,
    }

    /// Like `Note`, with a receiver that takes the previous row, so that a write is several statements.
    #[derive(Debug, Clone, Model)]
    #[model(table = "notes")]
    struct Compared {
        id: Option<i64>,
        name: String,
        #[model(generated)]
        slug: String,
    }

    #[receiver(post_save, sender = Compared)]
    fn compared(_: PostSave<'_, Compared>, _: Previous<'_, Compared>) {}

    #[tokio::test]
    async fn a_write_of_several_statements_continues_after_the_program_has_altered_the_table() {
        let test = TestDb::postgres("altered_by_the_program").await;
        let db = &test.db;
        let columns = "name VARCHAR(10) NOT NULL UNIQUE, slug VARCHAR(10) NOT NULL DEFAULT 's'";
        common::table(db, "notes", columns).await;
        let mut row = Compared { id: None, name: "a".into(), slug: String::new() };
        row.save(db).await.unwrap();
        for length in 11..16 {
            row.save(db).await.unwrap();
            row.upsert(db, &[Compared::ID]).await.unwrap();
            Compared::query("").set(Compared::NAME, "b").update(db).await.unwrap();
            let alter = format!(
                "ALTER TABLE notes ALTER name TYPE VARCHAR({length}), ALTER slug TYPE VARCHAR({length})"
            );
            execute(db, &alter).await;
            match length {
                11 => drop(row.upsert(db, &[Compared::ID]).await.unwrap()),
                12 => drop(row.update(db).await.unwrap()),
                13 => drop(Compared::query("").set(Compared::NAME, "c").update(db).await.unwrap()),
                14 => drop(Compared::update_many(db, &mut [row.clone()]).await.unwrap()),
                _ => assert!(row.delete(db).await.unwrap()),
            }
        }
        test.passed().await;
    }

    #[receiver(post_save, sender = Told)]
    async fn read_again(saved: PostSave<'_, Told>, conn: &mut Conn<'_>) -> Result<()> {
        conn.query("SELECT 1").execute().await?;
        assert!(saved.pk() > 0);
        Ok(())
    }

    /// Like `Note`, with a receiver after the commit: its INSERT continues if the caller is dropped.
    #[derive(Debug, Clone, Model)]
    #[model(table = "notes")]
    struct Late {
        id: Option<i64>,
        name: String,
        #[model(generated)]
        slug: String,
    }

    #[receiver(post_save, sender = Late, on_commit)]
    async fn late(_: PostSave<'_, Late>) {}

    fn note(name: &str) -> Note {
        Note { id: None, name: name.to_owned(), slug: String::new() }
    }

    /// Everything that reads, or writes and reads back; `run` tells the names apart.
    async fn one_of_all(db: &Db, raw: &mut PgConnection, way: usize, run: usize) {
        let name = format!("{way} {run}");
        let (mut new, slug) = (note(&name), String::new());
        match way {
            0 => _ = Note::get(db, 1).await.unwrap(),
            1 => _ = Note::find(db, 1).await.unwrap().unwrap(),
            2 => assert!(!Note::all(db).await.unwrap().is_empty()),
            3 => _ = Note::query("WHERE id = $1").bind(1).fetch_one(db).await.unwrap(),
            4 => _ = note("first").upsert(db, &[Note::NAME]).await.unwrap(),
            5 => _ = Note::get_or_create(db, new, &[Note::NAME]).await.unwrap(),
            6 => _ = new.insert(db).await.unwrap(),
            7 => {
                let mut first = Note::find(raw, 1).await.unwrap().unwrap();
                first.save(db).await.unwrap();
            }
            8 => Note::get(&mut *raw, 1).await.unwrap().refresh(db).await.unwrap(),
            9 => _ = Note::insert_many(db, &mut [new]).await.unwrap(),
            10 => {
                let rows = db.query("SELECT name FROM notes WHERE id = $1").bind(1);
                assert_eq!(rows.fetch_all::<(String,)>().await.unwrap().len(), 1);
            }
            11 => _ = Told { id: None, name, slug }.save(db).await.unwrap(),
            12 => _ = Late { id: None, name, slug }.save(db).await.unwrap(),
            13 => _ = new.save(&mut *raw).await.unwrap(),
            14 => {
                let mut tx = db.begin().await.unwrap();
                Note::get(&mut tx, 1).await.unwrap();
                tx.commit().await.unwrap();
            }
            15 => {
                let mut tx = db.begin().await.unwrap();
                let mut savepoint = tx.begin().await.unwrap();
                new.save(&mut savepoint).await.unwrap();
                savepoint.commit().await.unwrap();
                tx.commit().await.unwrap();
            }
            16 => {
                let mut first = Note::get(&mut *raw, 1).await.unwrap();
                Note::update_many(db, std::slice::from_mut(&mut first)).await.unwrap();
            }
            17 => {
                _ = Note::query("WHERE id = $1")
                    .bind(1)
                    .fetch_one(db.postgres().unwrap())
                    .await
                    .unwrap()
            }
            _ => unreachable!(),
        }
    }

    async fn notes(db: &Db) {
        table(db, "notes", "name TEXT NOT NULL UNIQUE, slug TEXT NOT NULL DEFAULT 'none'").await;
        note("first").save(db).await.unwrap();
    }

    async fn alter(db: &Db, run: usize) {
        let ty = ["VARCHAR(100)", "TEXT"][run % 2];
        for column in ["name", "slug"] {
            execute(db, &format!("ALTER TABLE notes ALTER {column} TYPE {ty}")).await;
        }
    }

    #[tokio::test]
    async fn statements_are_prepared_again() {
        let test = TestDb::postgres("prepared_again").await;
        notes(&test.db).await;
        for way in 0..18 {
            let db = Db::connect(&test.url).await.unwrap();
            let mut raw = PgConnection::connect(&test.url).await.unwrap();
            for run in 0..4 {
                one_of_all(&db, &mut raw, way, run).await;
                alter(&test.db, run).await;
            }
            db.close().await;
        }
        test.passed().await;
    }

    /// Several connections, each with statements of its own.
    #[tokio::test]
    async fn a_transaction_that_cannot_restart_itself_can_be_retried() {
        let test = TestDb::postgres("run_again").await;
        let db = &test.db;
        notes(db).await;
        let admin = Db::connect(&test.url).await.unwrap();
        let mut all = Vec::new();
        for _ in 0..5 {
            let mut conn = db.acquire().await.unwrap();
            Note::get(&mut conn, 1).await.unwrap();
            all.push(conn);
        }
        drop(all);
        let twice = async |tx: &mut Transaction<'_>, run: usize| {
            tx.query("SELECT 1").execute().await?;
            Note::get(&mut *tx, 1).await?;
            note(&run.to_string()).save(tx).await
        };
        db.transaction(async |tx| twice(tx, 9).await).await.unwrap();
        for run in 0..3 {
            alter(&admin, run).await;
            let mut tx = db.begin().await.unwrap();
            let error = twice(&mut tx, run).await.unwrap_err();
            assert!(matches!(error, Error::SchemaChanged(_)), "{error:?}");
            assert!(error.is_schema_changed() && error.is_retryable());
            assert!(error.to_string().contains("run the transaction again"), "{error}");
            let rolled_back = tx.commit().await.unwrap_err();
            assert!(rolled_back.is_rolled_back() && rolled_back.is_retryable(), "{rolled_back}");
            // No other connection fails either.
            let mut all = Vec::new();
            for again in 0..5 {
                let mut tx = db.begin().await.unwrap();
                twice(&mut tx, run * 10 + again + 100).await.unwrap();
                all.push(tx);
                if again < 4 {
                    all.pop().unwrap().commit().await.unwrap();
                }
            }
            all.pop().unwrap().rollback().await.unwrap();
            let conns =
                async { tokio::join!(db.acquire(), db.acquire(), db.acquire(), db.acquire()) }
                    .await;
            for conn in [conns.0, conns.1, conns.2, conns.3] {
                let mut conn = conn.unwrap();
                let mut tx = conn.begin().await.unwrap();
                tx.query("SELECT 1").execute().await.unwrap();
                Note::get(&mut tx, 1).await.unwrap();
                tx.rollback().await.unwrap();
            }
        }
        test.passed().await;
    }

    /// A transaction that the program has begun on a connection of sqlx.
    #[tokio::test]
    async fn nothing_is_run_twice_in_a_transaction_of_sqlx() {
        let test = TestDb::postgres("of_sqlx").await;
        notes(&test.db).await;
        let mut conn = PgConnection::connect(&test.url).await.unwrap();
        Note::get(&mut conn, 1).await.unwrap();
        for (run, sql) in [None, Some("BEGIN")].into_iter().enumerate() {
            alter(&test.db, run).await;
            let error = match sql {
                None => {
                    let mut tx = conn.begin().await.unwrap();
                    let error = Note::get(&mut tx, 1).await.unwrap_err();
                    tx.rollback().await.unwrap();
                    error
                }
                Some(sql) => {
                    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
                    let error = Note::get(&mut conn, 1).await.unwrap_err();
                    sqlx::raw_sql("ROLLBACK").execute(&mut conn).await.unwrap();
                    error
                }
            };
            assert!(error.is_schema_changed(), "{error}");
            Note::get(&mut conn, 1).await.unwrap();
        }
        test.passed().await;
    }

    /// The server can forget statements, and types can be others of the same name.
    #[tokio::test]
    async fn statements_that_the_server_has_deallocated_are_prepared_again() {
        #[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
        #[sqlx(type_name = "mood", rename_all = "lowercase")]
        enum Mood {
            Good,
        }
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "moods")]
        struct Moody {
            id: Option<i64>,
            mood: Mood,
        }

        let test = TestDb::postgres("forgotten").await;
        let (pool, admin) = (test.db.postgres().unwrap(), Db::connect(&test.url).await.unwrap());
        let mut conn = test.db.acquire().await.unwrap();
        admin.execute("CREATE TYPE mood AS ENUM ('good')").await.unwrap();
        table(&admin, "moods", "mood mood NOT NULL").await;
        for _ in 0..3 {
            let mut moody = Moody { id: None, mood: Mood::Good };
            moody.save(&mut *conn.postgres().unwrap()).await.unwrap();
            moody.save(pool).await.unwrap();
            let found = Moody::query("WHERE mood = $1").bind(Mood::Good);
            assert!(!found.fetch_all(pool).await.unwrap().is_empty());
            let sql = "ALTER TABLE moods DROP mood; DROP TYPE mood; CREATE TYPE mood AS ENUM ('bad', 'good');
                       ALTER TABLE moods ADD mood mood NOT NULL DEFAULT 'good'";
            admin.execute(sql).await.unwrap();
        }
        notes(&admin).await;
        let db = Db::connect(&test.url).await.unwrap();
        for _ in 0..2 {
            Note::get(&db, 1).await.unwrap();
            note("again").upsert(&db, &[Note::NAME]).await.unwrap();
            db.execute("DEALLOCATE ALL").await.unwrap();
        }
        test.passed().await;
    }
}

/// Each test makes its runtimes itself.
mod runtimes {
    use super::*;
    use common::TestDb;
    use std::sync::mpsc;
    use tokio::runtime::{Builder, Runtime};

    fn threads() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn one_thread() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// Runs a test on each database of the build.
    fn everywhere(name: &str, test: impl Fn(&str, DatabaseKind)) {
        let on = |db: TestDb, keeper: Runtime| {
            keeper.block_on(table(&db.db, "users", "name TEXT NOT NULL"));
            test(&db.url, db.db.kind());
            keeper.block_on(db.passed());
        };
        #[cfg(feature = "sqlite")]
        {
            let keeper = threads();
            on(keeper.block_on(TestDb::sqlite(name)), keeper);
        }
        #[cfg(feature = "postgres")]
        {
            let keeper = threads();
            on(keeper.block_on(TestDb::postgres(name)), keeper);
        }
    }

    /// A `Db` with several idle connections, and one row.
    async fn used(url: &str) -> Db {
        let db = Db::connect(url).await.unwrap();
        db.execute("DELETE FROM users").await.unwrap();
        user("Ann").save(&db).await.unwrap();
        let all = (db.acquire().await.unwrap(), db.acquire().await.unwrap());
        drop((all, db.acquire().await.unwrap()));
        db
    }

    #[test]
    fn a_db_is_dropped_outside_a_runtime() {
        everywhere("dropped_outside", |url, _| {
            for runtime_first in [false, true] {
                for runtime in [threads(), one_thread()] {
                    let db = runtime.block_on(used(url));
                    if runtime_first {
                        drop(runtime);
                        drop(db);
                    } else {
                        drop(db);
                        drop(runtime);
                    }
                }
            }
            let memory = one_thread().block_on(Db::connect("sqlite::memory:")).unwrap();
            drop(memory);
        });
    }

    #[test]
    fn a_db_is_dropped_in_another_runtime() {
        everywhere("dropped_elsewhere", |url, _| {
            for runtime_first in [false, true] {
                let (first, second) = (one_thread(), threads());
                let db = first.block_on(used(url));
                let first = (!runtime_first).then_some(first);
                second.block_on(async move { drop(db) });
                drop((first, second));
            }
        });
    }

    #[test]
    fn a_db_is_dropped_with_its_thread() {
        everywhere("dropped_with_its_thread", |url, _| {
            thread_local! {
                static KEPT: std::cell::RefCell<Option<Db>> = const { std::cell::RefCell::new(None) };
            }
            let url = url.to_owned();
            let thread = std::thread::spawn(move || {
                // First, so that it is dropped after what tokio keeps of the thread.
                KEPT.with(|kept| assert!(kept.borrow().is_none()));
                let db = one_thread().block_on(used(&url));
                KEPT.set(Some(db));
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn users_of_a_connection_are_dropped_outside_a_runtime() {
        everywhere("used_outside", |url, _| {
            let runtime = threads();
            let db = runtime.block_on(used(url));
            let pool_of_sqlx = runtime.block_on(used(url));
            #[cfg(feature = "sqlite")]
            pool_of_sqlx.sqlite();
            #[cfg(feature = "postgres")]
            pool_of_sqlx.postgres();
            for db in [&db, &pool_of_sqlx] {
                let tx = runtime.block_on(async {
                    let mut tx = db.begin().await.unwrap();
                    user("Bob").save(&mut tx).await.unwrap();
                    tx
                });
                drop(tx);
                let mut conn = runtime.block_on(db.acquire()).unwrap();
                let half_way = Box::pin(async { conn.execute("SELECT 1").await.map(drop) });
                runtime.block_on(cancelled_after(half_way, 0));
                drop(conn);
                drop(runtime.block_on(db.acquire()).unwrap());
                assert_eq!(
                    runtime.block_on(count(db, "users")),
                    1,
                    "the transaction is rolled back"
                );
                runtime.block_on(every_connection(db));
            }
            // The transaction outlives its runtime.
            let tx = runtime.block_on(db.begin()).unwrap();
            drop(runtime);
            drop(tx);
            assert_eq!(one_thread().block_on(async { count(&db, "users").await }), 1);
        });
    }

    #[test]
    fn callbacks_of_a_transaction_that_is_dropped_outside_a_runtime_run() {
        everywhere("callbacks_outside", |url, _| {
            let runtime = threads();
            let tx = runtime.block_on(async {
                let mut tx = used(url).await.begin().await.unwrap();
                user("Bob").save(&mut tx).await.unwrap();
                tx
            });
            let (told, hears) = mpsc::channel();
            let mut tx = tx;
            tx.on_rollback(async move { told.send(()).unwrap() });
            drop(tx);
            hears.recv_timeout(Duration::from_secs(60)).expect("the callback runs");
        });
    }

    #[test]
    fn a_db_is_used_in_several_runtimes() {
        everywhere("several", |url, _| {
            let (first, second) = (threads(), one_thread());
            let db = first.block_on(used(url));
            // A connection of the first runtime, which the second one sees working.
            second.block_on(async { user("Bob").save(&db).await }).unwrap();
            drop(first);
            second.block_on(async {
                user("Eve").save(&db).await.unwrap();
                db.begin().await.unwrap().commit().await.unwrap();
                every_connection(&db).await;
            });
            let third = threads();
            drop(second);
            third.block_on(async {
                assert_eq!(User::all(&db).await.unwrap().len(), 3);
                let mut tx = db.begin().await.unwrap();
                user("Tim").save(&mut tx).await.unwrap();
                tx.commit().await.unwrap();
                every_connection(&db).await;
                db.close().await;
            });
        });
    }

    /// Connections that are lent by sqlx's pool.
    #[test]
    fn a_db_with_a_shared_pool_is_used_after_its_first_runtime() {
        everywhere("shared_and_several", |url, _| {
            let first = threads();
            let db = first.block_on(async {
                let db = used(url).await;
                #[cfg(feature = "sqlite")]
                db.sqlite();
                #[cfg(feature = "postgres")]
                db.postgres();
                user("Bob").save(&db).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                db
            });
            drop(first);
            // sqlx's pool finds a connection of the first runtime dead with a ping, which may succeed by chance.
            one_thread().block_on(async {
                let mut tries = 0;
                while let Err(error) = user("Eve").save(&db).await {
                    tries += 1;
                    assert!(tries < 10, "{error}");
                }
            });
        });
    }

    /// A pool of the program does not say in which runtime it has opened a connection.
    #[test]
    fn a_db_from_a_pool_is_used_in_several_runtimes() {
        everywhere("from_and_several", |url, _| {
            let first = threads();
            let (pool, db) = first.block_on(async {
                let pool = shared::Shared::of(&used(url).await, 2).await;
                let db = pool.db();
                user("Bob").save(&db).await.unwrap();
                (pool, db)
            });
            let second = one_thread();
            second.block_on(async { user("Eve").save(&db).await }).unwrap();
            drop(first);
            // sqlx's pool finds a connection of the first runtime dead with a ping, which may succeed by chance.
            for runtime in [second, threads()] {
                runtime.block_on(async {
                    let mut tries = 0;
                    while let Err(error) = user("Tim").save(&db).await {
                        tries += 1;
                        assert!(tries < 10, "{error}");
                    }
                });
            }
            drop(pool);
        });
    }

    /// A pool of the program may be made before there is a runtime.
    #[test]
    fn a_db_from_a_pool_is_made_before_its_runtime() {
        everywhere("before_the_runtime", |url, _| {
            let pool = threads().block_on(async { shared::Shared::of(&used(url).await, 2).await });
            let db = pool.db();
            one_thread().block_on(async {
                let mut tries = 0;
                while let Err(error) = user("Eve").save(&db).await {
                    tries += 1;
                    assert!(tries < 10, "{error}");
                }
            });
        });
    }

    /// All connections are in use or idle in the other runtime.
    #[test]
    fn two_runtimes_share_the_connections_of_a_db() {
        everywhere("sharing", |url, _| {
            let (first, second) = (threads(), threads());
            let db = first.block_on(async {
                let options = Db::options().max_connections(4);
                options.acquire_timeout(Duration::from_secs(30)).connect(url).await.unwrap()
            });
            let work = |from: i64| {
                let db = db.clone();
                async move {
                    let mut all = Vec::new();
                    for n in 0..8 {
                        let db = db.clone();
                        all.push(tokio::spawn(async move {
                            for _ in 0..25 {
                                user(&format!("{}", from + n)).save(&db).await.unwrap();
                                if n % 4 == 0 {
                                    drop(cancelled_after(User::all(&db), 1).await);
                                }
                            }
                        }));
                    }
                    for one in all {
                        one.await.unwrap();
                    }
                }
            };
            let one = first.spawn(work(0));
            let two = second.spawn(work(100));
            first.block_on(one).unwrap();
            second.block_on(two).unwrap();
            assert_eq!(second.block_on(count(&db, "users")), 400);
            drop((first, second));
        });
    }

    /// Nobody reads from the sockets of a runtime that does not run.
    #[test]
    fn a_db_is_used_while_its_first_runtime_is_blocked() {
        everywhere("standing_still", |url, _| {
            let (first, second) = (one_thread(), threads());
            let db = first.block_on(async {
                let options = Db::options().acquire_timeout(Duration::from_secs(4));
                let db = options.connect(url).await.unwrap();
                user("Bob").save(&db).await.unwrap();
                db
            });
            let start = Instant::now();
            second.block_on(async { user("Eve").save(&db).await }).unwrap();
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
            drop(first);
        });
    }
}
