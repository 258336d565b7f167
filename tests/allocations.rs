//! A save allocates little more than the same statement written by hand.
#![allow(missing_docs)]

mod common;

use allocation_counter::measure;
use common::TestDb;
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    email: String,
}

fn user() -> User {
    User { id: None, name: "Ann".to_owned(), email: "ann@example.org".to_owned() }
}

/// Like `User`, with receivers that do nothing.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Received {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Received)]
fn sync(_: PostSave<'_, Received>) {}

#[receiver(post_save, sender = Received)]
async fn one(_: PostSave<'_, Received>, _conn: &mut Conn<'_>) {}

/// Like `Received`, with ten more.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Popular {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Popular)]
fn sync_too(_: PostSave<'_, Popular>) {}

macro_rules! receivers {
    ($($name:ident)*) => { $(
        #[receiver(post_save, sender = Popular)]
        async fn $name(_: PostSave<'_, Popular>, _conn: &mut Conn<'_>) {}
    )* };
}

receivers!(r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10);

const INSERT: &str = r#"INSERT INTO "users" ("name", "email") VALUES ($1, $2) RETURNING "id""#;
const UPDATE: &str = r#"UPDATE "users" SET "name" = $1, "email" = $2 WHERE "id" = $3"#;

/// The allocations of this thread in the cheapest of some runs, each of a fresh state.
macro_rules! allocations {
    ($rt:expr, $make:expr, |$state:ident| $run:expr) => {{
        (0..1000)
            .map(|_| {
                #[allow(unused_mut)]
                let mut $state = $make;
                measure(|| $rt.block_on($run)).count_total
            })
            .min()
            .unwrap()
    }};
}

macro_rules! compare {
    ($rt:expr, $db:expr, $conn:expr) => {{
        let (rt, conn) = ($rt, $conn);
        // Waiting for SQLite's thread allocates a little, more often than not.
        let waiting = if $db.kind() == DatabaseKind::Sqlite { 2 } else { 0 };
        let by_hand = allocations!(rt, user(), |u| async {
            let id: i64 = sqlx::query_scalar(INSERT)
                .bind(&u.name)
                .bind(&u.email)
                .fetch_one(&mut *conn)
                .await
                .unwrap();
            u.id = Some(id);
        });
        let saved = allocations!(rt, user(), |u| async {
            u.save(&mut *conn).await.unwrap();
        });
        assert!(saved <= by_hand + 2 + waiting, "an insert: {saved} allocations, {by_hand} by hand");

        let mut stored = user();
        rt.block_on(stored.save(&mut *conn)).unwrap();
        let by_hand = allocations!(rt, stored.clone(), |u| async {
            sqlx::query(UPDATE)
                .bind(&u.name)
                .bind(&u.email)
                .bind(u.id)
                .execute(&mut *conn)
                .await
                .unwrap();
        });
        let updated = allocations!(rt, stored.clone(), |u| async {
            u.update(&mut *conn).await.unwrap();
        });
        assert!(updated <= by_hand + 2 + waiting, "an update: {updated} allocations, {by_hand} by hand");

        // In a transaction, so that it is one statement: waiting for SQLite's thread allocates now and then.
        let mut tx = rt.block_on($db.begin()).unwrap();
        let received = |u: User| Received { id: u.id, name: u.name, email: u.email };
        let few = allocations!(rt, received(user()), |u| async {
            u.save(&mut tx).await.unwrap();
        });
        let popular = |u: User| Popular { id: u.id, name: u.name, email: u.email };
        let many = allocations!(rt, popular(user()), |u| async {
            u.save(&mut tx).await.unwrap();
        });
        rt.block_on(tx.rollback()).unwrap();
        assert!(
            many <= few + 10 + waiting,
            "{many} allocations with ten receivers more than {few}"
        );
    }};
}

#[test]
fn receivers_that_are_connected_for_a_while_leave_no_memory_behind() {
    let connect = |n: usize| {
        let handle = post_save
            .connect::<Received>(&format!("request {n}"), |_, _| Box::pin(async { Ok(()) }));
        assert!(handle.disconnect());
    };
    // The names of the first ones are kept.
    (0..1000).for_each(connect);
    let left = measure(|| (1000..11_000).for_each(connect));
    assert!(left.bytes_current < 10_000, "{} bytes are left", left.bytes_current);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[cfg(feature = "sqlite")]
#[test]
fn sqlite() {
    let rt = runtime();
    let _entered = rt.enter();
    let test = rt.block_on(TestDb::sqlite("allocations"));
    rt.block_on(common::table(&test.db, "users", "name TEXT NOT NULL, email TEXT NOT NULL"));
    let mut conn = rt.block_on(test.db.sqlite().unwrap().acquire()).unwrap();
    compare!(&rt, &test.db, &mut *conn);
    drop(conn);
    rt.block_on(test.passed());
}

#[cfg(feature = "postgres")]
#[test]
fn postgres() {
    let rt = runtime();
    let _entered = rt.enter();
    let test = rt.block_on(TestDb::postgres("allocations"));
    rt.block_on(common::table(&test.db, "users", "name TEXT NOT NULL, email TEXT NOT NULL"));
    let mut conn = rt.block_on(test.db.postgres().unwrap().acquire()).unwrap();
    compare!(&rt, &test.db, &mut *conn);
    drop(conn);
    rt.block_on(test.passed());
}
