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

    /// A server that has closed a connection while nobody used it.
    #[tokio::test]
    async fn a_connection_that_died_meanwhile_fails_no_save() {
        let test = common::TestDb::postgres("died").await;
        let db = &test.db;
        table(db, "users", "name TEXT NOT NULL").await;
        let other = Db::connect(&test.url).await.unwrap();
        other
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
            .await
            .unwrap();
        // Longer than a connection is taken to live unasked.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        user("Ann").save(db).await.unwrap();
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
