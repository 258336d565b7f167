//! PostgreSQL: no statement takes a stronger lock, or takes its locks in another order, than the same statement by hand.
#![allow(missing_docs)]
#![cfg(feature = "postgres")]

mod common;

use std::time::Duration;

use sqlx_signals::prelude::*;
use sqlx_signals::{AutoNow, Column, Portable, sqlx};

use common::{TestDb, execute, table};

/// A table that others reference: with a unique column, which nothing here changes, and a version.
const PRODUCTS: &str = "name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, changed_at BIGINT NOT NULL DEFAULT 0, version \
                        INTEGER NOT NULL DEFAULT 1";

macro_rules! product {
    ($($name:ident { $($(#[$meta:meta])* $field:ident: $ty:ty = $value:expr),* })*) => { $(
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "products")]
        struct $name {
            id: Option<i64>,
            name: String,
            #[model(unique)]
            email: String,
            $($(#[$meta])* $field: $ty,)*
        }

        impl $name {
            fn of(id: i64) -> Self {
                let (name, email) = (format!("name {id}"), format!("{id}@example.org"));
                Self { id: Some(id), name, email, $($field: $value),* }
            }
        }
    )* };
}

product! {
    Product {}
    Watched {}
    Versioned { #[model(version)] version: i32 = 1 }
    WatchedVersioned { #[model(version)] version: i32 = 1 }
    Timed { #[model(auto_now)] changed_at: Seconds = Seconds(0) }
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Seconds(i64);

impl AutoNow for Seconds {
    fn at(now: std::time::SystemTime) -> Self {
        Self(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64)
    }
}

#[receiver(post_save, sender = Watched, changed(name))]
fn renamed(_: PostSave<'_, Watched>) {}

#[receiver(post_save, sender = WatchedVersioned)]
fn seen(_: PostSave<'_, WatchedVersioned>, _: Previous<'_, WatchedVersioned>) {}

#[receiver(post_delete, sender = WatchedVersioned)]
fn gone(_: PostDelete<'_, WatchedVersioned>, _: Previous<'_, WatchedVersioned>) {}

async fn products(test: &TestDb, count: i64) {
    table(&test.db, "products", PRODUCTS).await;
    table(&test.db, "orders", "product_id BIGINT NOT NULL REFERENCES products").await;
    let mut rows: Vec<_> = (1..=count).map(Product::of).collect();
    Product::insert_many(&test.db, &mut rows).await.unwrap();
}

/// Without a test's pool there is no limit to the connections that wait.
async fn connection(test: &TestDb) -> sqlx::PgConnection {
    <sqlx::PgConnection as sqlx::Connection>::connect(&test.url).await.unwrap()
}

async fn run(conn: &mut sqlx::PgConnection, sql: &str) -> Result<u64, sqlx::Error> {
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(conn).await?;
    Ok(done.rows_affected())
}

/// What finishes although another transaction is open.
async fn without_waiting<T>(what: &str, operation: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(5), operation).await;
    done.unwrap_or_else(|_| panic!("{what} waits for a lock"))
}

mod strength {
    use super::*;

    macro_rules! assert_free {
        ($tx:expr, $($operation:expr;)*) => { $(
            without_waiting(stringify!($operation), $operation).await.unwrap();
        )* };
    }

    /// Every write that a reference to the row does not block by hand.
    macro_rules! assert_references_block_nothing {
        ($test:expr, $($model:ident)*) => { $( {
            let mut tx = $test.db.begin().await.unwrap();
            let mut many = [$model::of(3), $model::of(2)];
            assert_free! { tx,
                async { $model::find(&mut tx, 1).await?.unwrap().save(&mut tx).await };
                async { $model::find(&mut tx, 1).await?.unwrap().update(&mut tx).await };
                async { $model::find(&mut tx, 1).await?.unwrap().save_fields(&mut tx, &[$model::NAME]).await };
                async { $model::find(&mut tx, 1).await?.unwrap().upsert(&mut tx, &[$model::EMAIL]).await };
                $model::get_or_create(&mut tx, $model::of(1), &[$model::EMAIL]);
                async { $model::find(&mut tx, 1).await?.unwrap().refresh(&mut tx).await };
                $model::update_many(&mut tx, &mut many);
                $model::query("WHERE id > $1").bind(0_i64).set($model::NAME, "x").update(&mut tx);
                $model::query("WHERE id > $1 ORDER BY id LIMIT 2").bind(0_i64).set($model::NAME, "y").update(&mut tx);
            }
            tx.rollback().await.unwrap();
        } )* };
    }

    #[tokio::test]
    async fn a_reference_to_a_row_blocks_no_write_of_other_columns() {
        let test = TestDb::postgres("references_block_nothing").await;
        products(&test, 3).await;
        let mut other = connection(&test).await;
        run(&mut other, "BEGIN; INSERT INTO orders (product_id) VALUES (1), (2), (3)")
            .await
            .unwrap();
        assert_references_block_nothing!(test, Product Watched Versioned WatchedVersioned Timed);
        run(&mut other, "ROLLBACK").await.unwrap();
        test.passed().await;
    }

    /// Each way to write a stale row, while another transaction has written that row.
    macro_rules! assert_stale_at_once {
        ($test:expr, $model:ident, $($write:ident),*) => { $( {
            let mut tx = $test.db.begin().await.unwrap();
            let mut row = $model { version: 7, ..$model::of(1) };
            let written = without_waiting(stringify!($write), write::$write(&mut row, &mut tx)).await;
            let error = written.unwrap_err();
            assert!(error.is_stale(), "{}: {error:?}", stringify!($write));
            tx.rollback().await.unwrap();
        } )* };
    }

    mod write {
        use super::*;

        pub(super) async fn save<M: Model + Portable>(
            row: &mut M,
            tx: &mut Transaction<'_>,
        ) -> Result<()> {
            row.save(tx).await.map(drop)
        }

        pub(super) async fn update<M: Model + Portable>(
            row: &mut M,
            tx: &mut Transaction<'_>,
        ) -> Result<()> {
            row.update(tx).await.map(drop)
        }

        pub(super) async fn save_name<M: Model + Portable>(
            row: &mut M,
            tx: &mut Transaction<'_>,
        ) -> Result<()> {
            row.save_fields(tx, &[Column::new("name")]).await.map(drop)
        }

        pub(super) async fn delete<M: Model + Portable>(
            row: &mut M,
            tx: &mut Transaction<'_>,
        ) -> Result<()> {
            row.delete(tx).await.map(drop)
        }

        pub(super) async fn update_many<M: Model + Portable>(
            row: &mut M,
            tx: &mut Transaction<'_>,
        ) -> Result<()> {
            M::update_many(tx, std::slice::from_mut(row)).await.map(drop)
        }

        pub(super) async fn delete_many<M: Model + Portable>(
            row: &mut M,
            tx: &mut Transaction<'_>,
        ) -> Result<()> {
            M::delete_many(tx, std::slice::from_mut(row)).await.map(drop)
        }
    }

    #[tokio::test]
    async fn a_stale_write_does_not_wait_for_the_row() {
        let test = TestDb::postgres("stale_does_not_wait").await;
        products(&test, 3).await;
        let mut other = connection(&test).await;
        run(&mut other, "BEGIN; UPDATE products SET name = 'other'").await.unwrap();
        assert_stale_at_once!(
            test,
            Versioned,
            save,
            update,
            save_name,
            delete,
            update_many,
            delete_many
        );
        assert_stale_at_once!(
            test,
            WatchedVersioned,
            save,
            update,
            save_name,
            delete,
            update_many,
            delete_many
        );
        run(&mut other, "ROLLBACK").await.unwrap();
        test.passed().await;
    }

    /// Four transactions insert a row that references one other, and then save that.
    async fn outcomes<M: Model + Portable>(test: &TestDb) -> Vec<String> {
        let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(4));
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (db, barrier) = (test.db.clone(), barrier.clone());
                tokio::spawn(async move {
                    let mut tx = db.begin().await?;
                    let mut row = M::query("WHERE id = 1").fetch_one(&mut tx).await?;
                    tx.execute("INSERT INTO orders (product_id) VALUES (1)").await?;
                    barrier.wait().await;
                    row.save(&mut tx).await?;
                    tx.commit().await.map(drop)
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(match task.await.unwrap() {
                Ok(()) => "ok".to_owned(),
                Err(error) if error.is_stale() => "stale".to_owned(),
                Err(error) => format!("{error:?}"),
            });
        }
        outcomes.sort();
        outcomes
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn four_transactions_that_reference_and_save_a_row_do_not_deadlock() {
        let test = TestDb::postgres("reference_and_save").await;
        products(&test, 1).await;
        assert_eq!(outcomes::<Product>(&test).await, ["ok"; 4]);
        assert_eq!(outcomes::<Watched>(&test).await, ["ok"; 4]);
        assert_eq!(outcomes::<Versioned>(&test).await, ["ok", "stale", "stale", "stale"]);
        assert_eq!(outcomes::<WatchedVersioned>(&test).await, ["ok", "stale", "stale", "stale"]);
        test.passed().await;
    }
}

/// The row before a write that had to wait.
mod waiting {
    use super::*;
    use std::sync::LazyLock;

    static SCENE: LazyLock<common::Scene> = common::Scene::new();

    #[derive(Debug, Clone, Model)]
    #[model(table = "products")]
    struct Audited {
        id: Option<i64>,
        name: String,
        email: String,
    }

    #[receiver(post_save, sender = Audited)]
    fn audit(saved: PostSave<'_, Audited>, previous: Previous<'_, Audited>) {
        let (before, changed) = (previous.row().unwrap(), previous.changed(Audited::NAME));
        SCENE.log.push(format!("{} {} {} {changed}", saved.pk(), before.name, before.email));
    }

    fn audited(id: i64) -> Audited {
        Audited { id: Some(id), name: "new".to_owned(), email: format!("{id}@example.org") }
    }

    /// Runs a write while another transaction writes two of the rows, and returns what the receiver was told.
    async fn told(
        test: &TestDb,
        write: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Vec<String> {
        execute(&test.db, "UPDATE products SET name = 'old'").await;
        let (mut other, mut third) = (connection(test).await, connection(test).await);
        run(&mut other, "BEGIN; UPDATE products SET name = 'other' WHERE id = 2").await.unwrap();
        run(&mut other, "UPDATE products SET name = 'new' WHERE id = 3").await.unwrap();
        let write = tokio::spawn(write);
        order::until_blocked(&mut third).await;
        run(&mut other, "COMMIT").await.unwrap();
        write.await.unwrap().unwrap();
        SCENE.log.take()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_row_before_is_what_the_other_transaction_has_left() {
        let _turn = SCENE.begin().await;
        let test = TestDb::postgres("row_before_of_another").await;
        products(&test, 4).await;
        let db = test.db.clone();
        let one = told(&test, async move { audited(2).save(&db).await.map(drop) }).await;
        assert_eq!(one, ["2 other 2@example.org true"]);
        let db = test.db.clone();
        let one =
            told(
                &test,
                async move { audited(2).save_fields(&db, &[Audited::NAME]).await.map(drop) },
            )
            .await;
        assert_eq!(one, ["2 other 2@example.org true"]);
        let db = test.db.clone();
        let one =
            told(&test, async move { audited(2).upsert(&db, &[Audited::EMAIL]).await.map(drop) })
                .await;
        assert_eq!(one, ["2 other 2@example.org true"]);
        let db = test.db.clone();
        let many = told(&test, async move {
            Audited::update_many(&db, &mut [4, 3, 2, 1].map(audited)).await.map(drop)
        })
        .await;
        assert_eq!(
            many,
            [
                "4 old 4@example.org true",
                "3 new 3@example.org false",
                "2 other 2@example.org true",
                "1 old 1@example.org true"
            ]
        );
        test.passed().await;
    }

    /// A row whose unique column is changed could be the target of a foreign key, and waits for those that reference it. Until
    /// then it has no lock that another transaction would wait for.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_of_a_unique_column_holds_no_lock_while_it_waits() {
        let _turn = SCENE.begin().await;
        let test = TestDb::postgres("change_of_unique_column").await;
        products(&test, 1).await;
        let (mut other, mut third) = (connection(&test).await, connection(&test).await);
        run(&mut other, "BEGIN; INSERT INTO orders (product_id) VALUES (1)").await.unwrap();
        let db = test.db.clone();
        let write = tokio::spawn(async move {
            let email = "another@example.org".to_owned();
            Audited { email, ..audited(1) }.save(&db).await
        });
        order::until_blocked(&mut third).await;
        run(&mut other, "UPDATE products SET name = 'other' WHERE id = 1; COMMIT").await.unwrap();
        write.await.unwrap().unwrap();
        assert_eq!(SCENE.log.take(), ["1 other 1@example.org true"]);
        test.passed().await;
    }
}

/// The order in which a statement locks its rows.
mod order {
    use super::*;

    #[derive(Debug, Clone, Model)]
    #[model(table = "items")]
    struct Item {
        id: Option<i64>,
        n: i64,
    }

    /// As `Item`, with a receiver that asks for the row before.
    #[derive(Debug, Clone, Model)]
    #[model(table = "items")]
    struct WatchedItem {
        id: Option<i64>,
        n: i64,
    }

    #[receiver(post_save, sender = WatchedItem)]
    fn saved(_: PostSave<'_, WatchedItem>, _: Previous<'_, WatchedItem>) {}

    #[receiver(post_delete, sender = WatchedItem)]
    fn deleted(_: PostDelete<'_, WatchedItem>, _: Previous<'_, WatchedItem>) {}

    #[derive(Debug, Clone, Model)]
    #[model(table = "tags")]
    struct Tag {
        #[model(primary_key)]
        name: String,
        n: i64,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "pairs")]
    struct Pair {
        #[model(primary_key)]
        a: i32,
        #[model(primary_key)]
        b: String,
        n: i64,
    }

    /// With a column whose values cannot be the elements of an array.
    #[derive(Debug, Clone, Model)]
    #[model(table = "labeled")]
    struct Labeled {
        #[model(primary_key)]
        id: i16,
        n: i64,
        labels: Vec<String>,
    }

    #[cfg(feature = "uuid")]
    #[derive(Debug, Clone, Model)]
    #[model(table = "documents")]
    struct Document {
        #[model(primary_key)]
        id: sqlx::types::Uuid,
        n: i64,
    }

    async fn tables(test: &TestDb) {
        execute(
            &test.db,
            "CREATE TABLE items (id BIGINT PRIMARY KEY, n BIGINT NOT NULL);
             CREATE TABLE tags (name TEXT PRIMARY KEY, n BIGINT NOT NULL);
             CREATE TABLE pairs (a INTEGER, b TEXT, n BIGINT NOT NULL, PRIMARY KEY (a, b));
             CREATE TABLE labeled (id SMALLINT PRIMARY KEY, n BIGINT NOT NULL, labels TEXT[] NOT NULL);
             CREATE TABLE documents (id UUID PRIMARY KEY, n BIGINT NOT NULL)",
        )
        .await;
    }

    /// Waits until somebody waits for a lock.
    pub(super) async fn until_blocked(conn: &mut sqlx::PgConnection) {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        for _ in 0..1000 {
            let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *conn).await.unwrap();
            if count > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody waits for a lock");
    }

    /// Which rows of a table can be locked.
    async fn unlocked(conn: &mut sqlx::PgConnection, table: &str) -> i64 {
        let sql =
            format!("SELECT count(*) FROM (SELECT 1 FROM {table} FOR UPDATE SKIP LOCKED) AS rows");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(conn).await.unwrap()
    }

    /// Runs a write of all rows of a table while the last of them in the order of the keys is locked, and sees that by then
    /// every other row is.
    macro_rules! assert_last {
        ($test:expr, $table:literal, $last:literal, $($model:ident: $write:ident $rows:expr),* $(,)?) => { $( {
            let (mut other, mut third) = (connection($test).await, connection($test).await);
            let lock = format!("BEGIN; SELECT 1 FROM {} WHERE {} FOR UPDATE", $table, $last);
            run(&mut other, &lock).await.unwrap();
            let mut rows = $rows;
            let pool = $test.db.postgres().unwrap().clone();
            let write = tokio::spawn(async move {
                let mut tx = pool.begin().await.unwrap();
                $model::$write(&mut *tx, &mut rows).await.unwrap();
                tx.rollback().await.unwrap();
            });
            until_blocked(&mut third).await;
            let unlocked = unlocked(&mut third, $table).await;
            run(&mut other, "ROLLBACK").await.unwrap();
            write.await.unwrap();
            assert_eq!(unlocked, 0, "{} {}", stringify!($write), $table);
        } )* };
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_rows_are_locked_in_the_order_of_their_keys() {
        let test = TestDb::postgres("locked_in_key_order").await;
        tables(&test).await;
        execute(
            &test.db,
            "INSERT INTO items VALUES (20, 0), (-5, 0), (3, 0), (-1, 0);
             INSERT INTO tags VALUES ('é', 0), ('a', 0), ('B', 0), ('ab', 0);
             INSERT INTO pairs VALUES (2, 'b', 0), (-1, 'z', 0), (2, 'a', 0);
             INSERT INTO labeled VALUES (3, 0, '{}'), (1, 0, '{}'), (2, 0, '{}')",
        )
        .await;
        let items = || [3, 20, -1, -5].map(|id| Item { id: Some(id), n: 1 });
        let watched = || [3, 20, -1, -5].map(|id| WatchedItem { id: Some(id), n: 1 });
        let tags = || ["é", "ab", "a", "B"].map(|name| Tag { name: name.to_owned(), n: 1 });
        let pairs =
            || [(2, "b"), (2, "a"), (-1, "z")].map(|(a, b)| Pair { a, b: b.to_owned(), n: 1 });
        let labeled = || [3, 2, 1].map(|id| Labeled { id, n: 1, labels: Vec::new() });
        for analyzed in [false, true] {
            if analyzed {
                execute(&test.db, "ANALYZE").await;
            }
            assert_last!(&test, "items", "id = 20", Item: update_many items(), Item: delete_many items());
            assert_last!(&test, "items", "id = 20", WatchedItem: update_many watched(), WatchedItem: delete_many watched());
            assert_last!(&test, "tags", "name = 'é'", Tag: update_many tags(), Tag: delete_many tags());
            assert_last!(&test, "pairs", "b = 'b'", Pair: update_many pairs(), Pair: delete_many pairs());
            assert_last!(&test, "labeled", "id = 3", Labeled: update_many labeled(), Labeled: delete_many labeled());
        }
        #[cfg(feature = "uuid")]
        {
            let mut documents: Vec<_> = [0x80_u128 << 120, 7, 1 << 80]
                .map(|id| Document { id: sqlx::types::Uuid::from_u128(id), n: 0 })
                .into();
            Document::insert_many(&test.db, &mut documents).await.unwrap();
            assert_last!(&test, "documents", "id > '7fffffff-ffff-ffff-ffff-ffffffffffff'", Document: update_many documents.clone(), Document: delete_many documents.clone());
        }
        test.passed().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_whose_keys_the_program_assigns_are_inserted_in_the_order_of_the_keys() {
        let test = TestDb::postgres("inserted_in_key_order").await;
        tables(&test).await;
        let (mut other, mut third) = (connection(&test).await, connection(&test).await);
        run(
            &mut other,
            "BEGIN; INSERT INTO items VALUES (20, 0); INSERT INTO tags VALUES ('é', 0)",
        )
        .await
        .unwrap();
        run(&mut third, "SET lock_timeout = '300ms'").await.unwrap();
        let db = test.db.clone();
        let items = tokio::spawn(async move {
            let mut items = [20, 3, -5, -1].map(|id| Item { id: Some(id), n: 1 });
            Item::insert_many(&db, &mut items).await
        });
        until_blocked(&mut third).await;
        let error = run(&mut third, "INSERT INTO items VALUES (-5, 0)").await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "55P03", "{error:?}");
        let error = run(&mut third, "INSERT INTO items VALUES (3, 0)").await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "55P03", "{error:?}");
        run(&mut other, "ROLLBACK").await.unwrap();
        assert_eq!(items.await.unwrap().unwrap(), 4);
        test.passed().await;
    }

    /// Four callers write parts of the same rows, each in an order of its own.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn callers_with_different_orders_do_not_deadlock() {
        let test = TestDb::postgres("different_orders").await;
        tables(&test).await;
        let mut items: Vec<_> = (0..300).map(|id| Item { id: Some(id), n: 0 }).collect();
        Item::insert_many(&test.db, &mut items).await.unwrap();
        let workers: Vec<_> = (0..4_u64)
            .map(|worker| {
                let db = test.db.clone();
                tokio::spawn(async move {
                    let mut random = fastrand::Rng::with_seed(worker);
                    for round in 0..40 {
                        let mut ids: Vec<_> = (0..300).collect();
                        random.shuffle(&mut ids);
                        ids.truncate(random.usize(2..=300));
                        if round % 2 == 0 {
                            let mut items: Vec<_> =
                                ids.iter().map(|id| Item { id: Some(*id), n: round }).collect();
                            Item::update_many(&db, &mut items).await?;
                        } else {
                            let mut items: Vec<_> = ids
                                .iter()
                                .map(|id| WatchedItem { id: Some(*id), n: round })
                                .collect();
                            WatchedItem::update_many(&db, &mut items).await?;
                        }
                    }
                    Ok::<_, sqlx_signals::Error>(())
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap().unwrap();
        }
        test.passed().await;
    }
}
