//! Connections between one use and the next: kept at the ready where their last use ended as it should, looked at where
//! nobody knows.
#![allow(missing_docs)]

mod common;

use sqlx_signals::prelude::*;

use common::{cancelled_after, count, table};

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

on_every_database! {
    async fn everybody_has_a_turn(db: Db) {
        table(&db, "users", "name TEXT NOT NULL").await;
        crowd(&db, 64).await;
        assert_eq!(count(&db, "users").await, 128);
    }

    // Where a save is dropped half-way, what it had begun is nobody else's.
    async fn who_comes_after_one_who_left_finds_a_clean_connection(db: Db) {
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

    async fn the_programs_own_use_of_the_pool_is_not_kept_waiting(db: Db) {
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

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use common::proxy::Proxy;
    use sqlx_signals::sqlx::AssertSqlSafe;

    /// Ends every session of the database but that of `other`.
    async fn hang_up(other: &Db) {
        let others =
            "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let terminate = format!("SELECT pg_terminate_backend(pid) {others}");
        other.execute(AssertSqlSafe(terminate)).await.unwrap();
        let left = format!("SELECT count(*) {others}");
        while other.query(AssertSqlSafe(left.clone())).fetch_one::<(i64,)>().await.unwrap().0 > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// A server that has closed connections while nobody used them: nobody has looked at them since, and each write finds
    /// one that lives. Over a socket what is sent to them fails; over TCP it does not, and the server's last word is there.
    #[tokio::test]
    async fn connections_that_died_meanwhile_fail_no_write() {
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

    /// Several at the ready.
    async fn crowd_of_connections(db: &Db) {
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(db.acquire().await.unwrap());
        }
    }

    /// One who has the connection has what was done on it: nothing is sent on another behind their back.
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

    /// What is left open by somebody who has the raw connection is looked at by sqlx's pool.
    #[tokio::test]
    async fn a_connection_that_others_have_used_goes_back_to_the_pool() {
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
}
