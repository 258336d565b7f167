//! Receivers that save each other in a circle, and receivers that would wait for themselves.
#![allow(missing_docs)]

mod common;

use common::{count, table};
use sqlx_signals::Error;
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
#[model(table = "pings")]
struct Ping {
    id: Option<i64>,
    n: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "pongs")]
struct Pong {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Ping)]
async fn answer(saved: PostSave<'_, Ping>, conn: &mut Conn<'_>) -> Result<()> {
    helper(conn, saved.instance.n).await
}

async fn helper(conn: &mut Conn<'_>, n: i64) -> Result<()> {
    let mut pong = Pong { id: None, n: n - 1 };
    let (saved, ()) = tokio::join!(pong.save(conn), async {});
    saved.map(drop)
}

#[receiver(post_save, sender = Pong)]
async fn reply(saved: PostSave<'_, Pong>, conn: &mut Conn<'_>) -> Result<()> {
    if saved.instance.n > 0 {
        Ping { id: None, n: saved.instance.n }.save(conn).await?;
    }
    Ok(())
}

/// Saves itself again and again, each time after the commit.
#[derive(Debug, Clone, Model)]
#[model(table = "pings")]
struct Echo {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = Echo, on_commit)]
async fn again(saved: PostSave<'_, Echo>, db: Db) -> Result<()> {
    Echo { id: None, n: saved.instance.n + 1 }.save(&db).await?;
    Ok(())
}

/// Its receiver uses the pool. `n` selects how.
#[derive(Debug, Clone, Model)]
#[model(table = "pings")]
struct Impatient {
    id: Option<i64>,
    n: i64,
}

tokio::task_local! {
    static POOL: Db;
    static OTHER: Db;
}

#[receiver(post_save, sender = Impatient)]
async fn uses_the_pool(saved: PostSave<'_, Impatient>) -> Result<()> {
    let (db, other) = (POOL.get(), OTHER.get());
    match saved.instance.n {
        0 => drop(Ping::all(&db).await?),
        1 => drop(db.begin().await?),
        2 => drop(tokio::join!(async { db.query("SELECT 1").execute().await }).0?),
        3 => drop(db.transaction(async |tx| Ping { id: None, n: 0 }.save(tx).await).await?),
        4 => {
            #[cfg(feature = "sqlite")]
            if let Some(pool) = db.sqlite() {
                Ping::find(pool, 1).await?;
            }
            #[cfg(feature = "postgres")]
            if let Some(pool) = db.postgres() {
                Ping::find(pool, 1).await?;
            }
        }
        // Another pool is free, so the call does not wait.
        _ => drop(Ping::all(&other).await?),
    }
    Ok(())
}

#[receiver(pre_save, sender = Impatient)]
async fn before_too(save: PreSave<'_, Impatient>) -> Result<()> {
    if save.instance.n == 5 {
        POOL.get().execute("SELECT 1").await?;
    }
    Ok(())
}

#[receiver(post_save, sender = Impatient, on_commit)]
async fn afterwards_it_is_free(_: PostSave<'_, Impatient>, db: Db) -> Result<()> {
    assert!(Ping::query("").count(&db).await? > 0);
    Ok(())
}

async fn tables(db: &Db) {
    table(db, "pings", "n BIGINT NOT NULL").await;
    table(db, "pongs", "n BIGINT NOT NULL").await;
}

on_every_database! {
    async fn a_circle_ends_and_prints_its_chain(db: Db) {
        tables(&db).await;
        Ping { id: None, n: 4 }.save(&db).await.unwrap();
        assert_eq!((count(&db, "pings").await, count(&db, "pongs").await), (4, 4));
        let error = Ping { id: None, n: 1_000_000 }.save(&db).await.unwrap_err();
        assert!(error.is_recursion() && matches!(error, Error::Receiver(_)), "{error:?}");
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let text = format!("{cause:#}");
        let start = "receivers save in a circle, 16 levels deep: save of `Ping` → `recursion::answer` → save of \
                     `Pong` → `recursion::reply` → save of `Ping` → `recursion::answer`";
        assert!(text.starts_with(start) && text.ends_with("→ save of `Ping`"), "{text}");
        assert_eq!((count(&db, "pings").await, count(&db, "pongs").await), (4, 4), "nothing of it is stored");
        // In a transaction too, and it is marked.
        let mut tx = db.begin().await.unwrap();
        assert!(Ping { id: None, n: 100 }.save(&mut tx).await.unwrap_err().is_recursion());
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
    }

    async fn rows_committed_before_the_limit_stay(db: Db) {
        tables(&db).await;
        Echo { id: None, n: 0 }.save(&db).await.unwrap();
        assert_eq!(count(&db, "pings").await, 16);
        let mut tx = db.begin().await.unwrap();
        Echo { id: None, n: 0 }.save(&mut tx).await.unwrap();
        // The callback of the second save fails. That error belongs to the save, not to this commit.
        assert!(tx.commit().await.unwrap().errors.is_empty());
        assert_eq!(count(&db, "pings").await, 32);
    }

    async fn a_call_that_would_wait_for_itself_is_an_error_at_once(db: Db) {
        tables(&db).await;
        Ping { id: None, n: 1 }.save(&db).await.unwrap();
        let other = common::one_connection(&db).await;
        let one = common::one_connection(&db).await;
        let begun = std::time::Instant::now();
        for n in 0..6 {
            let save = async {
                if n % 2 == 0 {
                    return Impatient { id: None, n }.save(&one).await;
                }
                let mut tx = one.begin().await?;
                let saved = Impatient { id: None, n }.save(&mut tx).await;
                assert!(tx.commit().await.unwrap_err().is_rolled_back());
                saved
            };
            let error = POOL.scope(one.clone(), OTHER.scope(other.clone(), save)).await.unwrap_err();
            assert!(error.is_use_the_receiver_connection(), "{n}: {error:?}");
        }
        // The pool would wait for 30 seconds.
        assert!(begun.elapsed().as_secs() < 20);
        let mut instance = Impatient { id: None, n: 6 };
        POOL.scope(one.clone(), OTHER.scope(other, instance.save(&one))).await.unwrap();
        // Outside a receiver the pool can be used.
        Ping::all(&one).await.unwrap();
    }
}
