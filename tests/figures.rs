//! Deterministic costs of an operation, such as allocations and sizes, in a program with a thousand receivers of other models.
//! `scripts/test --test figures -- --nocapture` prints them; time is measured in `benches/`.
#![allow(missing_docs)]

mod common;

use std::hint::black_box;
use std::task::{Context, Poll, Waker};

use allocation_counter::{AllocationInfo, measure};
use common::TestDb;
#[cfg(feature = "postgres")]
use received::{audited, awaited, told};
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx;

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

/// A thousand receivers of other models, as `#[receiver]` registers them.
mod crowd {
    use sqlx_signals::__private::{Cx, Entry, Info, Receiver, Registration, Returned, inventory};
    use sqlx_signals::prelude::*;

    #[derive(Debug, Clone, Model)]
    struct Other {
        id: Option<i64>,
    }

    struct Nobody;

    impl Receiver for Nobody {}

    fn nothing(_: PostSave<'_, Other>, _: Cx<'_, '_>) -> Returned {
        Ok(())
    }

    macro_rules! crowd {
        ($($a:literal)*) => { $( crowd!(@ $a: 0 1 2 3 4 5 6 7 8 9); )* };
        (@ $a:literal: $($b:literal)*) => { $( crowd!(@ $a $b: 0 1 2 3 4 5 6 7 8 9); )* };
        (@ $a:literal $b:literal: $($c:literal)*) => { $(
            const _: () = {
                static INFO: Info = Info::new::<Nobody, post_save, Other>(
                    concat!(module_path!(), "::module_", $a, "::receiver_", $b, $c),
                    concat!("src/module_", $a, ".rs"),
                    10 * $b + $c,
                    "",
                );
                static ENTRY: Entry<post_save, Other> =
                    Entry::<post_save, Other>::sync(nothing);
                inventory::submit! { Registration::new::<post_save, Other>(&INFO, &ENTRY) }
            };
        )* };
    }

    crowd!(0 1 2 3 4 5 6 7 8 9);
}

/// A model with this many receivers before the statement.
macro_rules! received {
    ($model:ident: async $($name:ident)*) => {
        received!(@ $model);
        $( #[receiver(pre_save, sender = $model)] async fn $name(_: PreSave<'_, $model>) {} )*
    };
    ($model:ident: $($name:ident)*) => {
        received!(@ $model);
        $( #[receiver(pre_save, sender = $model)] fn $name(_: PreSave<'_, $model>) {} )*
    };
    (@ $model:ident) => {
        #[derive(Debug, Clone, Model)]
        struct $model {
            id: Option<i64>,
        }
    };
}

received!(Sync1: s);
received!(Sync11: s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10);
received!(Async1: async a);
received!(Async11: async a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

const REPETITIONS: usize = 500;

/// The allocations and bytes of the cheapest of some runs, each of a fresh state.
macro_rules! cheapest {
    ($runtime:expr, $make:expr, |$state:ident| $run:expr) => {{
        let counted = (0..REPETITIONS).map(|_| {
            #[allow(unused_mut)]
            let mut $state = $make;
            // Pinned here: tokio would put a future of more than 2 KiB on the heap in a debug build.
            let future = std::pin::pin!(async { black_box($run.await.unwrap()) });
            let AllocationInfo { count_total, bytes_total, .. } =
                measure(|| _ = $runtime.block_on(future));
            (count_total, bytes_total)
        });
        counted.min().unwrap()
    }};
}

/// What an update of a row without a key allocates: all of a save but for the statement, and the error's text.
fn dispatched<M: Model + Portable>(mut row: M, conn: &mut Conn<'_>) -> (u64, u64) {
    let mut dispatched = || {
        let update = std::pin::pin!(row.update(&mut *conn));
        let mut cx = Context::from_waker(Waker::noop());
        let mut done = Poll::Pending;
        let info = measure(|| done = update.poll(&mut cx));
        assert!(matches!(done, Poll::Ready(Err(error)) if error.is_not_found()));
        (info.count_total, info.bytes_total)
    };
    // The first finds the receivers.
    dispatched();
    dispatched()
}

on_every_database! {
    async fn a_dispatch_without_receivers_allocates_nothing_and_an_async_receiver_one_box(db: Db) {
        let mut conn = db.acquire().await.unwrap();
        let nobody = dispatched(user(), &mut conn);
        assert_eq!(nobody, (1, "no key".len() as u64), "nothing but the error's text");
        let [one, more] = [
            dispatched(Sync1 { id: None }, &mut conn),
            dispatched(Sync11 { id: None }, &mut conn),
        ];
        assert_eq!(one, more);
        let [one_async, more_async] = [
            dispatched(Async1 { id: None }, &mut conn),
            dispatched(Async11 { id: None }, &mut conn),
        ];
        println!("(allocations, bytes) with no receiver {nobody:?}, with a `fn` {one:?}, \
                  with an `async fn` {one_async:?}, with eleven {more_async:?}");
        assert_eq!(one_async.0, one.0 + 1);
        assert_eq!(more_async.0, one.0 + 11);
    }

    // A program has many futures that contain a save.
    async fn the_futures_of_save_and_insert_many_are_small(db: Db) {
        let mut conn = db.acquire().await.unwrap();
        let (mut one, mut other) = (user(), user());
        let (on_db, on_conn) = (size_of_val(&one.save(&db)), size_of_val(&other.save(&mut conn)));
        println!("the future of a save: {on_db} bytes on a `&Db`, {on_conn} on a `&mut Conn`");
        // Metrics need the time at which the save has begun.
        let limit = if cfg!(feature = "metrics") { 1_416 } else { 1_400 };
        assert!(on_db <= limit && on_conn <= limit, "{on_db} and {on_conn} bytes");
        let (mut rows, mut others) = ([user()], [user()]);
        let on_db = size_of_val(&User::insert_many(&db, &mut rows));
        let on_conn = size_of_val(&User::insert_many(&mut conn, &mut others));
        println!("the future of `insert_many`: {on_db} bytes on a `&Db`, {on_conn} on a `&mut Conn`");
        assert!(on_db <= 512 && on_conn <= 512, "{on_db} and {on_conn} bytes");
    }
}

/// Compares each operation without receivers with the same SQL written by hand. On both sides, waiting for SQLite's thread
/// usually allocates a little.
macro_rules! compare {
    ($runtime:expr, $conn:expr, waiting: $waiting:expr) => {{
        let (runtime, conn) = ($runtime, $conn);
        let mut stored = user();
        runtime.block_on(stored.save(&mut *conn)).unwrap();
        let id = stored.id.unwrap();
        let check = |what: &str, by_hand: (u64, u64), ours: (u64, u64)| {
            println!("{what:<8} {by_hand:?} {ours:?}");
            let (allocations, bytes) = $waiting;
            assert!(ours.0 <= by_hand.0 + allocations, "{what}: {ours:?}, by hand {by_hand:?}");
            assert!(ours.1 <= by_hand.1 + bytes, "{what}: {ours:?}, by hand {by_hand:?}");
        };
        println!("(allocations, bytes) by hand and with this library");

        let by_hand = cheapest!(runtime, user(), |u| sqlx::query_scalar::<_, i64>(INSERT)
            .bind(&u.name)
            .bind(&u.email)
            .fetch_one(&mut *conn));
        check("insert", by_hand, cheapest!(runtime, user(), |u| u.insert(&mut *conn)));
        check("save new", by_hand, cheapest!(runtime, user(), |u| u.save(&mut *conn)));

        let by_hand = cheapest!(runtime, &stored, |u| sqlx::query(UPDATE)
            .bind(&u.name)
            .bind(&u.email)
            .bind(u.id)
            .execute(&mut *conn));
        let known = stored.clone();
        check("update", by_hand, cheapest!(runtime, known.clone(), |u| u.update(&mut *conn)));
        check("save", by_hand, cheapest!(runtime, known.clone(), |u| u.save(&mut *conn)));

        macro_rules! saved {
            () => {{
                let mut saved = user();
                runtime.block_on(saved.save(&mut *conn)).unwrap();
                saved
            }};
        }
        let by_hand =
            cheapest!(runtime, saved!(), |u| sqlx::query(DELETE).bind(u.id).execute(&mut *conn));
        check("delete", by_hand, cheapest!(runtime, saved!(), |u| u.delete(&mut *conn)));

        let by_hand = cheapest!(runtime, (), |_u| sqlx::query_as::<_, User>(FIND)
            .bind(id)
            .fetch_optional(&mut *conn));
        check("find", by_hand, cheapest!(runtime, (), |_u| User::find(&mut *conn, id)));
    }};
}

const INSERT: &str = r#"INSERT INTO "users" ("name", "email") VALUES ($1, $2) RETURNING "id""#;
const UPDATE: &str = r#"UPDATE "users" SET "name" = $1, "email" = $2 WHERE "id" = $3"#;
const DELETE: &str = r#"DELETE FROM "users" WHERE "id" = $1"#;
const FIND: &str = r#"SELECT "id", "name", "email" FROM "users" WHERE "id" = $1"#;

/// Saves with a receiver, compared with SQL written by hand: the allocations of a receiver do not depend on rows and columns.
#[cfg(feature = "postgres")]
fn writes_with_receivers(runtime: &tokio::runtime::Runtime, conn: &mut Conn<'_>) {
    use sqlx::{Connection, PgConnection};

    async fn insert(conn: &mut PgConnection, user: User) -> sqlx::Result<i64> {
        sqlx::query_scalar(INSERT).bind(&user.name).bind(&user.email).fetch_one(conn).await
    }

    let check = |what: &str, by_hand: (u64, u64), ours: (u64, u64), more: u64| {
        println!("{what:<24} {by_hand:?} {ours:?}");
        assert!(ours.0 <= by_hand.0 + more, "{what}: {ours:?}, by hand {by_hand:?}");
    };
    println!("(allocations, bytes) by hand and with a receiver");
    let by_hand = cheapest!(runtime, user(), |u| insert(conn.postgres().unwrap(), u));
    check("one `fn`", by_hand, cheapest!(runtime, told(user()), |u| u.insert(&mut *conn)), 3);
    let ours = cheapest!(runtime, awaited(user()), |u| u.insert(&mut *conn));
    check("one `on_commit`", by_hand, ours, 13);

    let by_hand = cheapest!(runtime, user(), |u| async {
        let mut tx = conn.postgres().unwrap().begin().await?;
        let id = insert(&mut tx, u).await?;
        let audit = sqlx::query_scalar::<_, i64>(AUDIT).bind(id).fetch_one(&mut *tx);
        audit.await?;
        tx.commit().await
    });
    let ours = cheapest!(runtime, audited(user()), |u| u.insert(&mut *conn));
    check("one that writes a row", by_hand, ours, 3);
}

#[cfg(feature = "postgres")]
mod received {
    use super::User;
    use sqlx_signals::prelude::*;

    macro_rules! received {
        ($($model:ident $make:ident)*) => { $(
            #[derive(Debug, Clone, Model)]
            #[model(table = "users")]
            pub(super) struct $model { id: Option<i64>, name: String, email: String }

            pub(super) fn $make(User { id, name, email }: User) -> $model {
                $model { id, name, email }
            }
        )* };
    }

    received!(Told told Awaited awaited Audited audited);

    #[derive(Debug, Model)]
    #[model(table = "audit")]
    struct Audit {
        id: Option<i64>,
        user_id: i64,
    }

    #[receiver(post_save, sender = Told)]
    fn hear(saved: PostSave<'_, Told>) {
        std::hint::black_box(saved.created);
    }

    #[receiver(post_save, sender = Awaited, on_commit)]
    async fn wait(saved: PostSave<'_, Awaited>) {
        std::hint::black_box(saved.created);
    }

    #[receiver(post_save, sender = Audited)]
    async fn audit(saved: PostSave<'_, Audited>, conn: &mut Conn<'_>) -> Result<()> {
        Audit { id: None, user_id: saved.pk() }.save(conn).await.map(drop)
    }
}

#[cfg(feature = "postgres")]
const AUDIT: &str = r#"INSERT INTO "audit" ("user_id") VALUES ($1) RETURNING "id""#;

/// What `insert_many` needs beside the rows is what one statement needs, however many there are; and for each row its key as
/// it was, for a batch that fails. How much of the server's answer is buffered depends on when it arrives. On SQLite this cannot be counted: its thread drops what this one has made.
#[cfg(feature = "postgres")]
fn memory_of_a_batch(runtime: &tokio::runtime::Runtime, db: &Db) {
    const KEPT: u64 = size_of::<Option<i64>>() as u64;
    let mut most = |rows: u64| {
        let mut users: Vec<_> = (0..rows).map(|_| user()).collect();
        let insert = || _ = runtime.block_on(User::insert_many(db, &mut users)).unwrap();
        measure(insert).bytes_max
    };
    // The first prepares the statement.
    let [_, few, many] = [20_000, 20_000, 60_000].map(&mut most);
    println!("insert_many: {few} bytes at a time for 20,000 rows, {many} for 60,000");
    assert!(many <= few + 40_000 * KEPT + few / 4, "{few} and {many} bytes");
}

#[cfg(feature = "sqlite")]
#[test]
fn an_operation_allocates_no_more_than_by_hand_on_sqlite() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let test = runtime.block_on(TestDb::sqlite("figures"));
    runtime.block_on(common::table(&test.db, "users", "name TEXT NOT NULL, email TEXT NOT NULL"));
    let mut conn = runtime.block_on(test.db.sqlite().unwrap().acquire()).unwrap();
    compare!(&runtime, &mut *conn, waiting: (4, 400));
    drop(conn);
    runtime.block_on(test.passed());
}

#[cfg(feature = "postgres")]
#[test]
fn an_operation_allocates_no_more_than_by_hand_on_postgres() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let test = runtime.block_on(TestDb::postgres("figures"));
    runtime.block_on(common::table(&test.db, "users", "name TEXT NOT NULL, email TEXT NOT NULL"));
    let mut conn = runtime.block_on(test.db.postgres().unwrap().acquire()).unwrap();
    compare!(&runtime, &mut *conn, waiting: (0, 0));
    drop(conn);
    runtime.block_on(common::table(&test.db, "audit", "user_id BIGINT NOT NULL"));
    let mut conn = runtime.block_on(test.db.acquire()).unwrap();
    writes_with_receivers(&runtime, &mut conn);
    drop(conn);
    memory_of_a_batch(&runtime, &test.db);
    runtime.block_on(test.passed());
}
