//! PostgreSQL: no statement takes a stronger lock than the same statement written by hand, or takes its locks in another order.
#![allow(missing_docs)]
#![cfg(feature = "postgres")]

mod common;

use std::time::Duration;

use sqlx_signals::prelude::*;
use sqlx_signals::{AutoNow, Column, Error, Portable, sqlx};

use common::{Role, TestDb, execute, table};

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

/// What completes although another transaction is open.
async fn without_waiting<T>(what: &str, operation: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(30), operation).await;
    done.unwrap_or_else(|_| panic!("{what} waits for a lock"))
}

mod strength {
    use super::*;

    macro_rules! assert_free {
        ($tx:expr, $($operation:expr;)*) => { $(
            without_waiting(stringify!($operation), $operation).await.unwrap();
        )* };
    }

    /// Checks every write that, written by hand, is not blocked by a reference to the row.
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
            test, Versioned, save, update, save_name, delete, update_many, delete_many
        );
        assert_stale_at_once!(
            test, WatchedVersioned, save, update, save_name, delete, update_many, delete_many
        );
        run(&mut other, "ROLLBACK").await.unwrap();
        test.passed().await;
    }

    /// Whatever may follow the UPDATE of a row that is not found: a lock, or an INSERT.
    #[tokio::test]
    async fn a_stale_write_does_not_wait_on_any_table() {
        for (name, alter) in [
            (
                "stale_beside_trigger",
                "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
                 CREATE TRIGGER touch BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION touch()",
            ),
            (
                "stale_with_deferrable_key",
                "DROP TABLE orders; ALTER TABLE products DROP CONSTRAINT products_pkey;
                 ALTER TABLE products ADD PRIMARY KEY (id) DEFERRABLE",
            ),
            (
                "stale_with_generated_key",
                "ALTER TABLE products ALTER id DROP DEFAULT, ALTER id ADD GENERATED ALWAYS AS IDENTITY",
            ),
        ] {
            let test = TestDb::postgres(name).await;
            products(&test, 3).await;
            execute(&test.db, alter).await;
            let mut other = connection(&test).await;
            run(&mut other, "BEGIN; UPDATE products SET name = 'other'").await.unwrap();
            let db = Db::connect(&test.url).await.unwrap();
            assert_stale_at_once!(
                test, Versioned, save, update, save_name, delete, update_many, delete_many
            );
            assert_stale_at_once!(
                test, WatchedVersioned, save, update, save_name, delete, update_many, delete_many
            );
            let mut row = Versioned { version: 7, ..Versioned::of(1) };
            let error = without_waiting(name, row.save(&db)).await.unwrap_err();
            assert!(error.is_stale(), "{name}: {error:?}");
            run(&mut other, "ROLLBACK").await.unwrap();
            db.close().await;
            test.passed().await;
        }
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

/// A clause with a limit or a lock is evaluated once.
mod queue {
    use super::*;

    #[derive(Debug, Clone, Model)]
    #[model(table = "jobs")]
    struct Job {
        id: Option<i64>,
        queue: String,
        state: String,
    }

    /// With receivers.
    #[derive(Debug, Clone, Model)]
    #[model(table = "jobs")]
    struct HeardJob {
        id: Option<i64>,
        queue: String,
        state: String,
    }

    #[receiver(pre_save, sender = HeardJob)]
    fn before(_: PreSave<'_, HeardJob>) -> Result<(), &'static str> {
        Ok(())
    }

    #[receiver(post_delete, sender = HeardJob)]
    async fn after(_: PostDelete<'_, HeardJob>, _conn: &mut Conn<'_>) {}

    async fn jobs(test: &TestDb) {
        table(&test.db, "jobs", "queue TEXT NOT NULL, state TEXT NOT NULL").await;
        let insert = "INSERT INTO jobs (queue, state) SELECT CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, 'new' FROM \
                      generate_series(1, 100) AS n";
        execute(&test.db, insert).await;
    }

    const FIRST: &str =
        "WHERE queue = $1 AND state <> 'done' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED";

    macro_rules! assert_takes_one {
        ($test:expr, $($model:ident)*) => { $( for analyzed in [false, true] {
            if analyzed {
                execute(&$test.db, "ANALYZE").await;
            }
            let mut tx = $test.db.begin().await.unwrap();
            let first = $model::query(FIRST).bind("a").fetch_all(&mut tx).await.unwrap();
            let ids: Vec<_> = first.iter().map(|job| job.id).collect();
            assert_eq!(ids, [Some(2)]);
            let update = $model::query(FIRST).bind("a").set($model::STATE, "done");
            assert_eq!(update.update(&mut tx).await.unwrap(), 1);
            assert_eq!($model::get(&mut tx, 2).await.unwrap().state, "done");
            assert_eq!($model::query(FIRST).bind("a").delete(&mut tx).await.unwrap(), 1);
            assert!($model::find(&mut tx, 4).await.unwrap().is_none());
            assert_eq!($model::query("").count(&mut tx).await.unwrap(), 99);
            // Another worker takes the next one.
            let mut other = $test.db.begin().await.unwrap();
            assert_eq!($model::query(FIRST).bind("a").delete(&mut other).await.unwrap(), 1);
            assert!($model::find(&mut other, 6).await.unwrap().is_none());
            let page = $model::query("WHERE queue = 'b' ORDER BY id DESC LIMIT 2 OFFSET 1");
            assert_eq!(page.delete(&mut other).await.unwrap(), 2);
            let left = $model::query("WHERE queue = 'b' ORDER BY id DESC LIMIT 2").fetch_all(&mut other).await.unwrap();
            assert_eq!(left.iter().map(|job| job.id.unwrap()).collect::<Vec<_>>(), [99, 93]);
            other.rollback().await.unwrap();
            tx.rollback().await.unwrap();
        } )* };
    }

    #[tokio::test]
    async fn a_worker_takes_the_row_that_it_locks() {
        let test = TestDb::postgres("takes_one").await;
        jobs(&test).await;
        assert_takes_one!(test, Job HeardJob);
        test.passed().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn workers_take_every_row_once() {
        let test = TestDb::postgres("every_row_once").await;
        jobs(&test).await;
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let db = test.db.clone();
                tokio::spawn(async move {
                    let mut taken = 0;
                    for round in 0.. {
                        let done = match (worker + round) % 2 {
                            0 => Job::query(FIRST).bind("b").delete(&db).await.unwrap(),
                            _ => HeardJob::query(FIRST).bind("b").delete(&db).await.unwrap(),
                        };
                        if done == 0 {
                            break;
                        }
                        assert_eq!(done, 1);
                        taken += done;
                    }
                    taken
                })
            })
            .collect();
        let mut taken = 0;
        for worker in workers {
            taken += worker.await.unwrap();
        }
        // A worker ends when the remaining rows are locked by other workers.
        assert_eq!(common::count(&test.db, "jobs").await, 100 - taken as i64);
        assert_eq!(taken, 50);
        test.passed().await;
    }

    /// No row of a joined table is locked.
    #[tokio::test]
    async fn a_join_locks_the_rows_of_the_model_alone() {
        let test = TestDb::postgres("join_locks").await;
        jobs(&test).await;
        execute(&test.db, "CREATE TABLE queues (queue TEXT PRIMARY KEY, id BIGINT); INSERT INTO queues VALUES ('a', 1), ('b', 2)").await;
        let mut other = connection(&test).await;
        run(&mut other, "BEGIN; UPDATE queues SET id = 3").await.unwrap();
        let clause = "JOIN queues ON queues.queue = jobs.queue WHERE queues.id = $1";
        let update = HeardJob::query(clause).bind(1_i64).set(HeardJob::STATE, "x").update(&test.db);
        assert_eq!(without_waiting("the update", update).await.unwrap(), 50);
        let delete = HeardJob::query(clause).bind(1_i64).delete(&test.db);
        assert_eq!(without_waiting("the delete", delete).await.unwrap(), 50);
        run(&mut other, "ROLLBACK").await.unwrap();
        test.passed().await;
    }
}

/// A row that another transaction has changed, so that it no longer matches, is not written.
mod recheck {
    use super::*;

    macro_rules! stock {
        ($($name:ident)*) => { $(
            #[derive(Debug, Clone, Model)]
            #[model(table = "stocks")]
            struct $name {
                id: Option<i64>,
                state: String,
                amount: i64,
            }
        )* };
    }

    stock! { Stock HeardStock }

    #[receiver(pre_save, sender = HeardStock)]
    fn before(_: PreSave<'_, HeardStock>) -> Result<(), &'static str> {
        Ok(())
    }

    #[receiver(post_delete, sender = HeardStock)]
    fn deleted(_: PostDelete<'_, HeardStock>) {}

    /// What a write returns that waits for the change of another transaction, and what is stored afterwards.
    async fn after_change(
        test: &TestDb,
        change: &str,
        write: impl Future<Output = Result<u64>> + Send + 'static,
    ) -> (u64, String) {
        let fill = "TRUNCATE stocks; INSERT INTO stocks VALUES (1, 'new', 3), (2, 'new', 5), (3, 'old', 3)";
        execute(&test.db, fill).await;
        let (mut other, mut third) = (connection(test).await, connection(test).await);
        run(&mut other, &format!("BEGIN; UPDATE stocks SET {change}")).await.unwrap();
        let write = tokio::spawn(write);
        order::until_blocked(&mut third).await;
        run(&mut other, "COMMIT").await.unwrap();
        let written = write.await.unwrap().unwrap();
        let stored = "SELECT string_agg(id || state || amount, ' ' ORDER BY id) FROM stocks";
        (written, sqlx::query_scalar(stored).fetch_one(&mut third).await.unwrap())
    }

    macro_rules! assert_rechecked {
        ($test:expr, $($model:ident)*) => { $( {
            let model = stringify!($model);
            for clause in [
                "p WHERE p.id = $1 AND p.amount >= $2",
                "JOIN generate_series(1, 2) AS n ON n > 0 WHERE stocks.id = $1 AND amount >= $2",
                "WHERE id = $1 AND amount >= $2 ORDER BY id LIMIT 1",
            ] {
                let db = $test.db.clone();
                let sell = async move {
                    let enough = $model::query(clause).bind(1_i64).bind(3_i64);
                    enough.set_sql($model::AMOUNT, "amount - $1", 3_i64).update(&db).await
                };
                let found = after_change($test, "amount = 0 WHERE id = 1", sell).await;
                assert_eq!(found, (0, "1new0 2new5 3old3".to_owned()), "{model} {clause}");
            }
            // The next row is taken instead.
            let db = $test.db.clone();
            let take = async move {
                let first = $model::query("WHERE state = 'new' ORDER BY id").limit(1);
                first.set($model::STATE, "mine").update(&db).await
            };
            let found = after_change($test, "state = 'taken' WHERE id = 1", take).await;
            assert_eq!(found, (1, "1taken3 2mine5 3old3".to_owned()), "{model}");
            let db = $test.db.clone();
            let delete =
                async move { $model::query("WHERE state = 'old'").limit(100).delete(&db).await };
            let found = after_change($test, "state = 'new' WHERE id = 3", delete).await;
            assert_eq!(found, (0, "1new3 2new5 3new3".to_owned()), "{model}");
        } )* };
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_row_that_no_longer_matches_is_not_written() {
        let test = TestDb::postgres("recheck").await;
        table(&test.db, "stocks", "state TEXT NOT NULL, amount BIGINT NOT NULL").await;
        assert_rechecked!(&test, Stock HeardStock);
        test.passed().await;
    }

    macro_rules! assert_current {
        ($test:expr, $($model:ident)*) => { $( for lock in ["", "FOR UPDATE"] {
            let db = $test.db.clone();
            let sell = async move {
                let clause = format!("p WHERE p.id = $1 {lock}");
                let row = $model::query(sqlx::AssertSqlSafe(clause)).bind(1_i64);
                row.set_sql($model::AMOUNT, "amount - $1", 3_i64).update(&db).await
            };
            let found = after_change($test, "amount = 10 WHERE id = 1", sell).await;
            assert_eq!(found, (1, "1new7 2new5 3old3".to_owned()), "{} {lock}", stringify!($model));
        } )* };
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_expression_is_computed_from_the_row_that_was_waited_for() {
        let test = TestDb::postgres("computed_after_waiting").await;
        table(&test.db, "stocks", "state TEXT NOT NULL, amount BIGINT NOT NULL").await;
        assert_current!(&test, Stock HeardStock);
        test.passed().await;
    }

    #[tokio::test]
    async fn a_query_can_order_by_a_window() {
        let test = TestDb::postgres("order_by_window").await;
        table(&test.db, "stocks", "state TEXT NOT NULL, amount BIGINT NOT NULL").await;
        let fill = "INSERT INTO stocks (state, amount) VALUES ('new', 3), ('new', 5), ('old', 3), ('old', 4)";
        execute(&test.db, fill).await;
        let window = "ORDER BY row_number() OVER (PARTITION BY state ORDER BY id), id LIMIT 1";
        assert_eq!(
            Stock::query(window).set(Stock::AMOUNT, 0_i64).update(&test.db).await.unwrap(),
            1
        );
        assert_eq!(Stock::query(window).delete(&test.db).await.unwrap(), 1);
        let update = HeardStock::query(window).set(HeardStock::AMOUNT, 0_i64).update(&test.db);
        assert_eq!(update.await.unwrap(), 1);
        assert_eq!(HeardStock::query(window).delete(&test.db).await.unwrap(), 1);
        test.passed().await;
    }
}

/// Rows that the program may delete, but not lock.
mod without_lock {
    use super::*;

    macro_rules! session {
        ($($name:ident)*) => { $(
            #[derive(Debug, Clone, Model)]
            #[model(table = "sessions")]
            struct $name {
                id: Option<i64>,
                expired: bool,
            }
        )* };
    }

    session! { Session HeardSession }

    #[receiver(post_delete, sender = HeardSession)]
    fn deleted(_: PostDelete<'_, HeardSession>) {}

    macro_rules! owner {
        ($owner:ident $owned:ident) => {
            #[derive(Debug, Clone, Model)]
            #[model(table = "owners")]
            struct $owner {
                id: Option<i64>,
                name: String,
            }

            #[derive(Debug, Clone, Model)]
            #[model(table = "owned")]
            struct $owned {
                id: Option<i64>,
                #[model(belongs_to = $owner, on_delete = cascade)]
                owner_id: i64,
            }
        };
    }

    owner! { Owner Owned }
    owner! { HeardOwner HeardOwned }

    #[receiver(post_delete, sender = HeardOwned)]
    fn deleted_with_owner(_: PostDelete<'_, HeardOwned>) {}

    async fn sessions(test: &TestDb) {
        table(&test.db, "sessions", "expired BOOLEAN NOT NULL").await;
        let insert = "INSERT INTO sessions (expired) SELECT n <> 4 FROM generate_series(1, 4) AS n";
        execute(&test.db, insert).await;
    }

    macro_rules! assert_deleted {
        ($test:expr, $db:expr, $($model:ident)*) => { $( {
            let model = stringify!($model);
            let mut tx = $db.begin().await.unwrap();
            let first = $model::query("WHERE expired ORDER BY id LIMIT 1").delete(&mut tx).await;
            assert_eq!(first.unwrap(), 1, "{model}");
            assert!($model::delete_by_key(&mut tx, 2).await.unwrap(), "{model}");
            let left = $model::query("WHERE expired").delete(&mut tx).await;
            assert_eq!(left.unwrap(), 1, "{model}");
            assert_eq!($model::query("").count(&mut tx).await.unwrap(), 1, "{model}");
            tx.rollback().await.unwrap();
        } )* };
    }

    #[tokio::test]
    async fn a_policy_for_deletes_alone_suffices_to_delete() {
        let test = TestDb::postgres("policy_for_deletes").await;
        sessions(&test).await;
        let sql = "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY; GRANT ALL ON sessions TO {role};
                   CREATE POLICY readable ON sessions FOR SELECT USING (true);
                   CREATE POLICY deletable ON sessions FOR DELETE USING (true)";
        let role = Role::new(&test, sql).await;
        assert_deleted!(test, role.db, Session HeardSession);
        role.passed(test).await;
    }

    #[tokio::test]
    async fn the_privilege_to_delete_suffices_to_delete() {
        let test = TestDb::postgres("privilege_to_delete").await;
        sessions(&test).await;
        let role = Role::new(&test, "GRANT SELECT, INSERT, DELETE ON sessions TO {role}").await;
        assert_deleted!(test, role.db, Session HeardSession);
        role.passed(test).await;
    }

    /// The policies for deletes are those for updates, so the rows are locked.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_that_can_be_updated_are_locked_before_they_are_deleted() {
        let of_all = "CREATE POLICY of_all ON sessions USING (id < 3)";
        let of_each = "CREATE POLICY readable ON sessions FOR SELECT USING (id < 3);
                       CREATE POLICY updatable ON sessions FOR UPDATE USING (id < 3) WITH CHECK (true);
                       CREATE POLICY deletable ON sessions FOR DELETE USING (id < 3)";
        for (name, policies) in [("policy_of_all", of_all), ("policy_of_each", of_each)] {
            let test = TestDb::postgres(name).await;
            sessions(&test).await;
            let sql = format!(
                "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY; GRANT ALL ON sessions TO {{role}}; {policies}"
            );
            let role = Role::new(&test, &sql).await;
            let (mut other, mut third) = (connection(&test).await, connection(&test).await);
            run(&mut other, "BEGIN; UPDATE sessions SET expired = false WHERE id = 1")
                .await
                .unwrap();
            let db = role.db.clone();
            let delete =
                tokio::spawn(async move { HeardSession::query("WHERE expired").delete(&db).await });
            order::until_blocked(&mut third).await;
            run(&mut other, "COMMIT").await.unwrap();
            assert_eq!(delete.await.unwrap().unwrap(), 1, "{name}");
            assert_eq!(common::count(&test.db, "sessions").await, 3, "{name}");
            role.passed(test).await;
        }
    }

    macro_rules! assert_deleted_with_owner {
        ($db:expr, $($owner:ident $owned:ident)*) => { $( {
            let mut tx = $db.begin().await.unwrap();
            assert!($owner::delete_by_key(&mut tx, 1).await.unwrap(), stringify!($owner));
            assert_eq!($owned::query("").count(&mut tx).await.unwrap(), 1);
            tx.rollback().await.unwrap();
        } )* };
    }

    #[tokio::test]
    async fn rows_that_cannot_be_locked_are_deleted_with_their_owner() {
        let policies =
            "ALTER TABLE owned ENABLE ROW LEVEL SECURITY; GRANT ALL ON owners, owned TO {role};
                        CREATE POLICY readable ON owned FOR SELECT USING (true);
                        CREATE POLICY deletable ON owned FOR DELETE USING (true)";
        let privileges = "GRANT SELECT, DELETE ON owners, owned TO {role}";
        for (name, sql) in [("owned_policies", policies), ("owned_privileges", privileges)] {
            let test = TestDb::postgres(name).await;
            table(&test.db, "owners", "name TEXT NOT NULL").await;
            table(&test.db, "owned", "owner_id BIGINT NOT NULL REFERENCES owners").await;
            let insert = "INSERT INTO owners (name) VALUES ('a'), ('b'); INSERT INTO owned (owner_id) VALUES (1), (1), (2)";
            execute(&test.db, insert).await;
            let role = Role::new(&test, sql).await;
            assert_deleted_with_owner!(role.db, Owner Owned HeardOwner HeardOwned);
            role.passed(test).await;
        }
    }
}

/// The previous row of a write that had to wait.
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

    /// Runs a write while another transaction writes two of the rows, and returns what the receiver has logged.
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
    async fn the_previous_row_is_what_the_other_transaction_has_committed() {
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

    /// A save through the table of another program, which did not exist when the row was saved first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_save_before_the_table_exists_has_no_effect_on_later_saves() {
        #[derive(Debug, Clone, Model)]
        struct Setting {
            #[model(primary_key)]
            name: String,
            value: i64,
        }

        #[receiver(post_save, sender = Setting)]
        fn audit_setting(_: PostSave<'_, Setting>, _: Previous<'_, Setting>) {}

        let setting = |value| Setting { name: "a".to_owned(), value };
        let test = TestDb::postgres("save_before_table_exists").await;
        let (mut other, mut third) = (connection(&test).await, connection(&test).await);
        setting(1).save(&test.db).await.unwrap_err();
        let create = "CREATE TABLE setting (name TEXT PRIMARY KEY, value BIGINT NOT NULL)";
        run(&mut other, create).await.unwrap();
        run(&mut other, "BEGIN; INSERT INTO setting VALUES ('a', 1)").await.unwrap();
        let db = test.db.clone();
        let save = tokio::spawn(async move {
            let mut tx = db.begin().await?;
            let saved = setting(2).save(&mut tx).await?;
            tx.commit().await?;
            Ok::<_, Error>(saved)
        });
        order::until_blocked(&mut third).await;
        run(&mut other, "COMMIT").await.unwrap();
        assert!(!save.await.unwrap().unwrap().created);
        test.passed().await;
    }

    /// A change of a unique column waits for transactions that reference the row by a foreign key. While it waits, it holds no
    /// lock that another transaction would wait for.
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

    /// Like `Item`, with a receiver that takes the previous row.
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

    /// Waits until a transaction waits for a lock.
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
        ($test:expr, $table:literal, $last:expr, $($model:ident: $write:ident $rows:expr),* $(,)?) => { $( {
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

    #[derive(Debug, Clone, Model)]
    #[model(table = "boards")]
    struct Board {
        id: Option<i64>,
    }

    /// Deleted with its board, by key or by the key of the board.
    #[derive(Debug, Clone, Model)]
    #[model(table = "notes")]
    struct Note {
        #[model(primary_key)]
        name: String,
        #[model(belongs_to = Board, on_delete = cascade)]
        board: i64,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "pins")]
    struct Pin {
        #[model(primary_key)]
        code: Vec<u8>,
        #[model(belongs_to = Board, on_delete = cascade)]
        board: i64,
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_are_locked_in_one_order_however_their_keys_are_written() {
        let test = TestDb::postgres("locked_in_one_order").await;
        execute(
            &test.db,
            "CREATE EXTENSION citext;
             CREATE TABLE boards (id BIGSERIAL PRIMARY KEY); INSERT INTO boards DEFAULT VALUES;
             CREATE TABLE pins (code BYTEA PRIMARY KEY, board BIGINT REFERENCES boards);
             INSERT INTO pins VALUES ('\\x05', 1), ('\\x0101', 1), ('\\x09', 1)",
        )
        .await;
        let boards = || [Board { id: Some(1) }];
        for (ty, spelled, last) in [
            ("CITEXT", [["C", "a", "B", "ab"], ["c", "A", "b", "AB"]], "C"),
            ("TEXT", [["c", "a", "B", "ab"], ["a", "ab", "c", "B"]], "c"),
            ("CHAR(5)", [["b", "a  ", "a\t", "B"], ["a", "B   ", "b", "a\t"]], "b"),
        ] {
            let note = |name: &str| Note { name: name.to_owned(), board: 1 };
            let table = format!(
                "CREATE TABLE notes (name {ty} PRIMARY KEY, board BIGINT NOT NULL REFERENCES boards)"
            );
            execute(&test.db, &table).await;
            Note::insert_many(&test.db, &mut spelled[0].map(note)).await.unwrap();
            for names in spelled {
                let last = format!("name = '{last}'");
                assert_last!(&test, "notes", last, Note: update_many names.map(note), Note: delete_many names.map(note));
                assert_last!(&test, "notes", last, Board: delete_many boards());
            }
            execute(&test.db, "DROP TABLE notes").await;
        }
        execute(&test.db, "CREATE TABLE notes (name TEXT PRIMARY KEY, board BIGINT)").await;
        let pins = || [&[1, 1][..], &[9], &[5]].map(|code| Pin { code: code.to_vec(), board: 1 });
        assert_last!(&test, "pins", "code = '\\x0101'", Pin: update_many pins(), Pin: delete_many pins(), Board: delete_many boards());
        test.passed().await;
    }

    #[derive(Debug, Clone, Copy, sqlx::Type)]
    #[sqlx(type_name = "size", rename_all = "lowercase")]
    enum Size {
        Small,
        Medium,
        Big,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "shelves")]
    struct Shelf {
        id: Option<i64>,
    }

    /// Defines a model with a key of this type that is deleted with its shelf.
    macro_rules! stock {
        ($model:ident $table:literal $key:ty) => {
            #[derive(Debug, Clone, Model)]
            #[model(table = $table)]
            struct $model {
                #[model(primary_key)]
                key: $key,
                #[model(belongs_to = Shelf, on_delete = cascade)]
                shelf: i64,
            }
        };
    }

    stock!(Stock "stocks" Size);
    stock!(Price "prices" sqlx::types::BigDecimal);
    stock!(Host "hosts" sqlx::types::ipnetwork::IpNetwork);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_whose_keys_are_sent_in_another_order_are_locked_in_one_order() {
        let test = TestDb::postgres("locked_in_one_order_as_sent").await;
        let references = "shelf BIGINT NOT NULL REFERENCES shelves";
        execute(
            &test.db,
            &format!(
                "CREATE TYPE size AS ENUM ('small', 'medium', 'big');
                 CREATE TABLE shelves (id BIGSERIAL PRIMARY KEY);
                 INSERT INTO shelves DEFAULT VALUES; INSERT INTO shelves DEFAULT VALUES; INSERT INTO shelves DEFAULT VALUES;
                 CREATE TABLE stocks (key size PRIMARY KEY, {references});
                 INSERT INTO stocks VALUES ('small', 1), ('medium', 1), ('big', 1);
                 CREATE TABLE prices (key NUMERIC PRIMARY KEY, {references});
                 INSERT INTO prices VALUES (-20000, 2), (-1.5, 2), (0, 2), (1.50, 2), (20000, 2), (20000.5, 2);
                 CREATE TABLE hosts (key INET PRIMARY KEY, {references});
                 INSERT INTO hosts VALUES ('10.0.0.0/24', 3), ('10.0.0.1', 3), ('9.0.0.0/8', 3)"
            ),
        )
        .await;
        let shelf = |id| [Shelf { id: Some(id) }];
        let stocks = || [Size::Medium, Size::Big, Size::Small].map(|key| Stock { key, shelf: 1 });
        assert_last!(&test, "stocks", "key = 'medium'", Stock: update_many stocks(), Stock: delete_many stocks(), Shelf: delete_many shelf(1));
        for numbers in [
            ["20000.5", "0.0", "1.5", "-1.5", "20000", "-20000.0"],
            ["-20000", "-1.50", "0", "20000.50", "20000.0", "1.500"],
        ] {
            let prices = || numbers.map(|number| Price { key: number.parse().unwrap(), shelf: 2 });
            assert_last!(&test, "prices", "key = 20000.5", Price: update_many prices(), Price: delete_many prices(), Shelf: delete_many shelf(2));
        }
        let hosts = || {
            ["10.0.0.1/32", "9.0.0.0/8", "10.0.0.0/24"]
                .map(|host| Host { key: host.parse().unwrap(), shelf: 3 })
        };
        assert_last!(&test, "hosts", "key = '10.0.0.1'", Host: update_many hosts(), Host: delete_many hosts(), Shelf: delete_many shelf(3));
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_refused_row_is_located_without_waiting_for_later_rows() {
        let test = TestDb::postgres("refused_without_a_wait").await;
        tables(&test).await;
        execute(&test.db, "INSERT INTO items VALUES (1, 0); INSERT INTO tags VALUES ('a', 0)")
            .await;
        let mut other = connection(&test).await;
        run(&mut other, "BEGIN; INSERT INTO items VALUES (5, 0); INSERT INTO tags VALUES ('c', 0)")
            .await
            .unwrap();
        let refused = async |ids: [i64; 3], place: usize| {
            let mut items = ids.map(|id| Item { id: Some(id), n: 0 });
            let error = Item::insert_many(&test.db, &mut items).await.unwrap_err();
            assert!(error.is_unique_violation(), "{error:?}");
            assert!(matches!(error, Error::Row { row, .. } if row == place), "{error:?}");
        };
        let all = async {
            refused([9, 5, 1], 2).await;
            refused([5, 9, 1], 2).await;
            refused([1, 5, 9], 0).await;
            let mut tags = ["d", "c", "a"].map(|name| Tag { name: name.to_owned(), n: 0 });
            let mut tx = test.db.begin().await.unwrap();
            tx.execute("SELECT 1").await.unwrap();
            let error = Tag::insert_many(&mut tx, &mut tags).await.unwrap_err();
            assert!(matches!(error, Error::Row { row: 2, .. }), "{error:?}");
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("it waits for nobody");
        run(&mut other, "ROLLBACK").await.unwrap();
        test.passed().await;
    }

    /// A refused insert looks for its row beside others that write the same rows.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn inserts_that_are_refused_do_not_deadlock() {
        let test = TestDb::postgres("refused_inserts").await;
        tables(&test).await;
        let workers = (0..4_u64).map(|worker| {
            let db = test.db.clone();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(worker);
                for round in 0..12 {
                    let mut items: Vec<_> =
                        (0..300).map(|id| Item { id: Some(id), n: round }).collect();
                    random.shuffle(&mut items);
                    if (round as u64 + worker).is_multiple_of(2) {
                        Item::delete_many(&db, &mut items).await?;
                        continue;
                    }
                    match Item::insert_many(&db, &mut items).await {
                        Err(error) if !error.is_unique_violation() => return Err(error),
                        _ => {}
                    }
                }
                Ok(())
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap().unwrap();
        }
        test.passed().await;
    }

    /// Four callers write parts of the same rows, each in an order of its own.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn callers_with_rows_in_different_orders_do_not_deadlock() {
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

/// Random transactions, compared with the same SQL written by hand.
mod random {
    use super::*;
    use crate::common::random::number;
    use std::collections::HashMap;
    use tokio::sync::mpsc;

    const PARENTS: i64 = 3;
    const CHILDREN: i64 = 6;

    #[derive(Debug, Clone)]
    enum Op {
        /// Reads a parent, for the writes that come later.
        Read(i64),
        Update(i64),
        SaveName(i64),
        ChangeEmail(i64),
        UpdateMany(Vec<i64>),
        SetNames(Vec<i64>),
        /// With the children.
        Delete(i64),
        InsertChild(i64),
        UpdateChildren(Vec<i64>),
        DeleteChildren(Vec<i64>),
        InsertNotes(Vec<i64>),
    }

    /// How a transaction has ended.
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    enum End {
        Committed,
        Stale,
        NotFound,
        Refused(String),
    }

    impl End {
        fn is_deadlock(&self) -> bool {
            *self == Self::Refused("40P01".to_owned())
        }
    }

    impl From<sqlx::Error> for End {
        fn from(error: sqlx::Error) -> Self {
            let code = error.as_database_error().and_then(|error| error.code());
            Self::Refused(code.map_or_else(|| error.to_string(), |code| code.into_owned()))
        }
    }

    impl From<sqlx_signals::Error> for End {
        fn from(error: sqlx_signals::Error) -> Self {
            if error.is_stale() {
                return Self::Stale;
            }
            if error.is_not_found() {
                return Self::NotFound;
            }
            let code = error.database_error().and_then(|error| error.code());
            Self::Refused(code.map_or_else(|| format!("{error:?}"), |code| code.into_owned()))
        }
    }

    #[derive(Debug, Clone, sqlx::FromRow)]
    struct Known {
        name: String,
        email: String,
        version: i32,
    }

    /// What a transaction has read.
    type Read = HashMap<i64, Known>;

    mod by_hand {
        use super::*;

        async fn execute(conn: &mut sqlx::PgConnection, sql: &str) -> Result<u64, End> {
            Ok(run(conn, sql).await?)
        }

        async fn read(conn: &mut sqlx::PgConnection, id: i64) -> Result<Known, End> {
            let sql = "SELECT name, email, version FROM parents WHERE id = $1";
            let known = sqlx::query_as(sql).bind(id).fetch_optional(conn).await?;
            known.ok_or(End::NotFound)
        }

        async fn update(
            conn: &mut sqlx::PgConnection,
            versioned: bool,
            id: i64,
            known: &mut Known,
            set: &str,
        ) -> Result<(), End> {
            let version = if versioned { ", version = version + 1" } else { "" };
            let same =
                if versioned { format!(" AND version = {}", known.version) } else { String::new() };
            let sql = format!("UPDATE parents SET {set}{version} WHERE id = {id}{same}");
            if execute(&mut *conn, &sql).await? == 0 {
                let found = versioned && read(conn, id).await.is_ok();
                return Err(if found { End::Stale } else { End::NotFound });
            }
            known.version += 1;
            Ok(())
        }

        /// One statement, with the rows in the order of their keys.
        async fn update_many(
            conn: &mut sqlx::PgConnection,
            versioned: bool,
            known: &mut Read,
            ids: &[i64],
        ) -> Result<(), End> {
            let mut rows: [Vec<String>; 4] = Default::default();
            for id in sorted(ids) {
                let parent = known.get_mut(&id).unwrap();
                parent.name.push('m');
                rows[0].push(id.to_string());
                rows[1].push(format!("'{}'", parent.name));
                rows[2].push(format!("'{}'", parent.email));
                rows[3].push(parent.version.to_string());
                parent.version += 1;
            }
            let [ids_of, names, emails, versions] = rows.map(|values| values.join(", "));
            let (version, same) = match versioned {
                true => (", version = p.version + 1", " AND p.version = g.version"),
                false => ("", ""),
            };
            let sql = format!(
                "WITH g AS (SELECT UNNEST(ARRAY[{ids_of}]) AS id, UNNEST(ARRAY[{names}]) AS name, UNNEST(ARRAY[{emails}]) AS email, \
                 UNNEST(ARRAY[{versions}]) AS version, GENERATE_SUBSCRIPTS(ARRAY[{ids_of}], 1)) UPDATE parents AS p SET name = \
                 g.name, email = g.email{version} FROM g WHERE p.id = g.id{same} RETURNING p.id"
            );
            let updated: Vec<i64> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *conn).await?;
            match ids.iter().find(|id| !updated.contains(id)) {
                None => Ok(()),
                Some(id) if versioned && read(conn, *id).await.is_ok() => Err(End::Stale),
                Some(_) => Err(End::NotFound),
            }
        }

        fn sorted(ids: &[i64]) -> Vec<i64> {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        }

        fn list(ids: &[i64]) -> String {
            ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
        }

        pub(super) async fn perform(
            conn: &mut sqlx::PgConnection,
            versioned: bool,
            known: &mut Read,
            op: &Op,
        ) -> Result<(), End> {
            match op {
                Op::Read(id) => {
                    known.insert(*id, read(conn, *id).await?);
                }
                Op::Update(id) | Op::SaveName(id) | Op::ChangeEmail(id) => {
                    let parent = known.get_mut(id).unwrap();
                    parent.name.push('u');
                    if matches!(op, Op::ChangeEmail(_)) {
                        parent.email.push('e');
                    }
                    let (name, email) = (&parent.name, &parent.email);
                    let set = match op {
                        Op::SaveName(_) => format!("name = '{name}'"),
                        _ => format!("name = '{name}', email = '{email}'"),
                    };
                    update(conn, versioned, *id, parent, &set).await?;
                }
                Op::UpdateMany(ids) => update_many(conn, versioned, known, ids).await?,
                Op::SetNames(ids) => {
                    let version = if versioned { ", version = version + 1" } else { "" };
                    let ids = list(ids);
                    execute(
                        conn,
                        &format!("UPDATE parents SET name = 's'{version} WHERE id IN ({ids})"),
                    )
                    .await?;
                }
                Op::Delete(id) => {
                    let version = known[id].version;
                    execute(&mut *conn, &format!("DELETE FROM children WHERE parent_id = {id}"))
                        .await?;
                    let same =
                        if versioned { format!(" AND version = {version}") } else { String::new() };
                    let deleted =
                        execute(&mut *conn, &format!("DELETE FROM parents WHERE id = {id}{same}"))
                            .await?;
                    if deleted == 0 && versioned && read(conn, *id).await.is_ok() {
                        return Err(End::Stale);
                    }
                }
                Op::InsertChild(id) => {
                    execute(conn, &format!("INSERT INTO children (parent_id, n) VALUES ({id}, 1)"))
                        .await?;
                }
                Op::UpdateChildren(ids) => {
                    for id in sorted(ids) {
                        if execute(
                            &mut *conn,
                            &format!("UPDATE children SET n = 2 WHERE id = {id}"),
                        )
                        .await?
                            == 0
                        {
                            return Err(End::NotFound);
                        }
                    }
                }
                Op::DeleteChildren(ids) => {
                    for id in sorted(ids) {
                        execute(&mut *conn, &format!("DELETE FROM children WHERE id = {id}"))
                            .await?;
                    }
                }
                Op::InsertNotes(ids) => {
                    for id in sorted(ids) {
                        execute(&mut *conn, &format!("INSERT INTO notes VALUES ({id})")).await?;
                    }
                }
            }
            Ok(())
        }
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "notes")]
    struct Note {
        #[model(primary_key)]
        id: i64,
    }

    /// The models of the tables, and what is done with them. `$version` is the field of the version, if there is one.
    macro_rules! variant {
        ($name:ident, $versioned:literal, { $($version:ident)? }, { $($receivers:tt)* }) => {
            mod $name {
                use super::*;

                pub(super) const VERSIONED: bool = $versioned;

                #[derive(Debug, Clone, Model)]
                #[model(table = "parents")]
                struct Parent {
                    id: Option<i64>,
                    name: String,
                    #[model(unique)]
                    email: String,
                    $(#[model(version)] $version: i32,)?
                }

                #[derive(Debug, Clone, Model)]
                #[model(table = "children")]
                struct Child {
                    id: Option<i64>,
                    #[model(belongs_to = Parent, on_delete = cascade)]
                    parent_id: Option<i64>,
                    n: i64,
                }

                $($receivers)*

                fn parent(id: i64, known: &Known) -> Parent {
                    let Known { name, email, .. } = known.clone();
                    Parent { id: Some(id), name, email, $($version: known.$version)? }
                }

                fn child(id: &i64) -> Child {
                    Child { id: Some(*id), parent_id: None, n: 2 }
                }

                pub(super) async fn perform(tx: &mut Transaction<'_>, known: &mut Read, op: &Op) -> Result<(), End> {
                    match op {
                        Op::Read(id) => {
                            let sql = "SELECT name, email, version FROM parents WHERE id = $1";
                            let (name, email, version) =
                                tx.query(sql).bind(*id).fetch_optional().await?.ok_or(End::NotFound)?;
                            known.insert(*id, Known { name, email, version });
                        }
                        Op::Update(id) | Op::SaveName(id) | Op::ChangeEmail(id) => {
                            let read = known.get_mut(id).unwrap();
                            read.name.push('u');
                            if matches!(op, Op::ChangeEmail(_)) {
                                read.email.push('e');
                            }
                            let mut parent = parent(*id, read);
                            match op {
                                Op::SaveName(_) => drop(parent.save_fields(tx, &[Parent::NAME]).await?),
                                _ => parent.update(tx).await.map(drop)?,
                            }
                            read.version += 1;
                        }
                        Op::UpdateMany(ids) => {
                            let mut parents = Vec::new();
                            for id in ids {
                                let read = known.get_mut(id).unwrap();
                                read.name.push('m');
                                parents.push(parent(*id, read));
                                read.version += 1;
                            }
                            // An error of one of several rows has its cause inside.
                            Parent::update_many(tx, &mut parents).await?;
                        }
                        Op::SetNames(ids) => {
                            let clause = format!("WHERE id IN ({})", ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", "));
                            Parent::query(sqlx::AssertSqlSafe(clause)).set(Parent::NAME, "s").update(tx).await?;
                        }
                        Op::Delete(id) => drop(parent(*id, &known[id]).delete(tx).await?),
                        Op::InsertChild(id) => {
                            Child { id: None, parent_id: Some(*id), n: 1 }.insert(tx).await?;
                        }
                        Op::UpdateChildren(ids) => {
                            let mut children: Vec<_> = ids.iter().map(child).collect();
                            for child in &mut children {
                                // By hand, only this column is set.
                                child.parent_id = None;
                            }
                            let mut sorted = children;
                            sorted.sort_by_key(|child| child.id);
                            for child in &mut sorted {
                                child.save_fields(&mut *tx, &[Child::N]).await?;
                            }
                        }
                        Op::DeleteChildren(ids) => {
                            let mut children: Vec<_> = ids.iter().map(child).collect();
                            Child::delete_many(tx, &mut children).await?;
                        }
                        Op::InsertNotes(ids) => {
                            let mut notes: Vec<_> = ids.iter().map(|id| Note { id: *id }).collect();
                            Note::insert_many(tx, &mut notes).await?;
                        }
                    }
                    Ok(())
                }
            }
        };
    }

    variant!(plain, false, {}, {});
    variant!(watched, false, {}, {
        #[receiver(post_save, sender = Parent, changed(name))]
        fn renamed(_: PostSave<'_, Parent>) {}

        #[receiver(post_delete, sender = [Parent, Child])]
        async fn gone<M: Model>(_: PostDelete<'_, M>, _: Previous<'_, M>, _conn: &mut Conn<'_>) {}
    });
    variant!(versioned, true, { version }, {});
    variant!(watched_versioned, true, { version }, {
        #[receiver(post_save, sender = [Parent, Child])]
        fn saved<M: Model>(_: PostSave<'_, M>, _: Previous<'_, M>) {}

        #[receiver(pre_delete, sender = Child)]
        fn going(_: PreDelete<'_, Child>) {}
    });

    #[derive(Debug, Clone, Copy)]
    enum Variant {
        Plain,
        Watched,
        Versioned,
        WatchedVersioned,
    }

    const VARIANTS: [Variant; 4] =
        [Variant::Plain, Variant::Watched, Variant::Versioned, Variant::WatchedVersioned];

    impl Variant {
        fn versioned(self) -> bool {
            match self {
                Self::Plain => plain::VERSIONED,
                Self::Watched => watched::VERSIONED,
                Self::Versioned => versioned::VERSIONED,
                Self::WatchedVersioned => watched_versioned::VERSIONED,
            }
        }

        async fn perform(
            self,
            tx: &mut Transaction<'_>,
            known: &mut Read,
            op: &Op,
        ) -> Result<(), End> {
            match self {
                Self::Plain => plain::perform(tx, known, op).await,
                Self::Watched => watched::perform(tx, known, op).await,
                Self::Versioned => versioned::perform(tx, known, op).await,
                Self::WatchedVersioned => watched_versioned::perform(tx, known, op).await,
            }
        }
    }

    /// Transactions, and the order of their operations.
    #[derive(Debug)]
    struct History {
        variant: Variant,
        transactions: Vec<Vec<Op>>,
        turns: Vec<usize>,
    }

    impl History {
        fn of(seed: u64) -> Self {
            let mut random = fastrand::Rng::with_seed(seed);
            let variant = VARIANTS[random.usize(..4)];
            let transactions: Vec<_> = (0..random.usize(2..=8))
                .map(|_| {
                    let mut ops = Vec::new();
                    let mut known: Vec<i64> = Vec::new();
                    for _ in 0..random.usize(1..=4) {
                        random_op(&mut random, &mut known, &mut ops);
                    }
                    ops
                })
                .collect();
            let mut turns: Vec<_> = transactions
                .iter()
                .enumerate()
                // One more turn for the end.
                .flat_map(|(transaction, ops)| std::iter::repeat_n(transaction, ops.len() + 1))
                .collect();
            random.shuffle(&mut turns);
            Self { variant, transactions, turns }
        }
    }

    fn some(random: &mut fastrand::Rng, of: i64) -> Vec<i64> {
        let mut ids: Vec<_> = (1..=of).collect();
        random.shuffle(&mut ids);
        ids.truncate(random.usize(2..=of as usize));
        ids
    }

    fn random_op(random: &mut fastrand::Rng, known: &mut Vec<i64>, ops: &mut Vec<Op>) {
        let id = random.i64(1..=PARENTS);
        let mut read = |ids: &[i64], ops: &mut Vec<Op>| {
            for id in ids {
                if !known.contains(id) {
                    known.push(*id);
                    ops.push(Op::Read(*id));
                }
            }
        };
        let op = match random.u32(..14) {
            0..=1 => Op::Update(id),
            2 => Op::SaveName(id),
            3 => Op::ChangeEmail(id),
            4 => Op::UpdateMany(some(random, PARENTS)),
            5 => Op::SetNames(some(random, PARENTS)),
            6 => Op::Delete(id),
            7..=10 => Op::InsertChild(id),
            11 => Op::UpdateChildren(some(random, CHILDREN)),
            12 => Op::DeleteChildren(some(random, CHILDREN)),
            _ => Op::InsertNotes(some(random, 4)),
        };
        match &op {
            Op::Update(id) | Op::SaveName(id) | Op::ChangeEmail(id) | Op::Delete(id) => {
                read(&[*id], ops)
            }
            Op::UpdateMany(ids) => read(ids, ops),
            _ => {}
        }
        ops.push(op);
    }

    /// A transaction that performs each operation that it receives, and commits when it receives none.
    struct Running {
        next: mpsc::UnboundedSender<Option<Op>>,
        done: mpsc::UnboundedReceiver<Option<End>>,
        pid: i32,
        busy: bool,
        end: Option<End>,
    }

    const SETTINGS: &str = "SET LOCAL deadlock_timeout = '20ms'";

    async fn by_hand(url: String, versioned: bool) -> Running {
        let (next, mut ops) = mpsc::unbounded_channel::<Option<Op>>();
        let (says, done) = mpsc::unbounded_channel();
        let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
        run(&mut conn, "BEGIN").await.unwrap();
        run(&mut conn, SETTINGS).await.unwrap();
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.unwrap();
        tokio::spawn(async move {
            let mut known = Read::new();
            while let Some(op) = ops.recv().await {
                let end = match op {
                    Some(op) => by_hand::perform(&mut conn, versioned, &mut known, &op).await.err(),
                    None => Some(
                        run(&mut conn, "COMMIT").await.map_or_else(End::from, |_| End::Committed),
                    ),
                };
                if end.is_some() {
                    let _ = run(&mut conn, "ROLLBACK").await;
                }
                if says.send(end.clone()).is_err() || end.is_some() {
                    break;
                }
            }
        });
        Running { next, done, pid, busy: false, end: None }
    }

    async fn with_library(db: Db, variant: Variant) -> Running {
        let (next, mut ops) = mpsc::unbounded_channel::<Option<Op>>();
        let (says, done) = mpsc::unbounded_channel();
        let mut tx = db.begin().await.unwrap();
        tx.execute(SETTINGS).await.unwrap();
        let (pid,) = tx.query("SELECT pg_backend_pid()").fetch_one().await.unwrap();
        tokio::spawn(async move {
            let mut known = Read::new();
            let mut tx = Some(tx);
            while let Some(op) = ops.recv().await {
                let end = match op {
                    Some(op) => variant.perform(tx.as_mut().unwrap(), &mut known, &op).await.err(),
                    None => {
                        let committed = tx.take().unwrap().commit().await;
                        Some(committed.map_or_else(End::from, |_| End::Committed))
                    }
                };
                if end.is_some()
                    && let Some(tx) = tx.take()
                {
                    tx.rollback().await.unwrap();
                }
                if says.send(end.clone()).is_err() || end.is_some() {
                    break;
                }
            }
        });
        Running { next, done, pid, busy: false, end: None }
    }

    /// Waits until each transaction is done with its operation, or waits for a lock.
    async fn settle(all: &mut [Running], monitor: &mut sqlx::PgConnection) {
        let blocked = "SELECT cardinality(pg_blocking_pids($1)) > 0";
        for transaction in 0.. {
            let Some(running) = all.get_mut(transaction) else { break };
            while running.busy {
                let wait = tokio::time::timeout(Duration::from_millis(3), running.done.recv());
                if let Ok(done) = wait.await {
                    (running.busy, running.end) = (false, done.unwrap());
                } else {
                    let query = sqlx::query_scalar(blocked).bind(running.pid);
                    if query.fetch_one(&mut *monitor).await.unwrap() {
                        break;
                    }
                }
            }
        }
    }

    async fn play(
        history: &History,
        mut all: Vec<Running>,
        monitor: &mut sqlx::PgConnection,
    ) -> Vec<End> {
        let mut ops: Vec<_> = history.transactions.iter().map(|ops| ops.iter()).collect();
        let mut turns = history.turns.clone();
        while all.iter().any(|running| running.end.is_none()) {
            if turns.is_empty() {
                turns = (0..all.len()).collect();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let turn = turns.remove(0);
            let running = &mut all[turn];
            if running.end.is_none() && !running.busy {
                running.next.send(ops[turn].next().cloned()).unwrap();
                running.busy = true;
            }
            settle(&mut all, monitor).await;
        }
        all.into_iter().filter_map(|running| running.end).collect()
    }

    async fn fill(conn: &mut sqlx::PgConnection) {
        let sql = format!(
            "TRUNCATE parents, children, notes;
             INSERT INTO parents SELECT n, 'n', 'e' || n FROM generate_series(1, {PARENTS}) AS n;
             INSERT INTO children SELECT n, (n - 1) % {PARENTS} + 1, 0 FROM generate_series(1, {CHILDREN}) AS n"
        );
        run(conn, &sql).await.unwrap();
    }

    async fn state(conn: &mut sqlx::PgConnection) -> String {
        let sql = "SELECT coalesce((SELECT string_agg(p::text, ' ' ORDER BY id) FROM parents AS p), '') || ' / ' || coalesce((SELECT \
                   string_agg(parent_id || '-' || n, ' ' ORDER BY parent_id, n) FROM children), '') || ' / ' || (SELECT count(*) FROM notes)";
        sqlx::query_scalar(sql).fetch_one(conn).await.unwrap()
    }

    /// How the transactions of a history end, and what is stored then.
    async fn played(
        history: &History,
        test: &TestDb,
        monitor: &mut sqlx::PgConnection,
        library: bool,
    ) -> (Vec<End>, String) {
        fill(monitor).await;
        let mut all = Vec::new();
        for _ in &history.transactions {
            all.push(match library {
                true => with_library(test.db.clone(), history.variant).await,
                false => by_hand(test.url.clone(), history.variant.versioned()).await,
            });
        }
        let ends = play(history, all, monitor).await;
        (ends, state(monitor).await)
    }

    /// How often a history is repeated if the results differ.
    const ROUNDS: usize = 5;

    /// `LOCKS_HISTORIES` is the number of histories, and `LOCKS_SEED` the first seed.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_transaction_fails_that_succeeds_by_hand() {
        let test = TestDb::postgres("random_locks").await;
        execute(
            &test.db,
            "CREATE TABLE parents (id BIGINT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, version INTEGER NOT NULL DEFAULT 1);
             CREATE TABLE children (id BIGINT PRIMARY KEY, parent_id BIGINT REFERENCES parents, n BIGINT NOT NULL);
             CREATE SEQUENCE ids START 1000; ALTER TABLE children ALTER COLUMN id SET DEFAULT nextval('ids');
             CREATE TABLE notes (id BIGINT PRIMARY KEY)",
        )
        .await;
        let mut monitor = connection(&test).await;
        let (seed, count) = (number("LOCKS_SEED", 0), number("LOCKS_HISTORIES", 25));
        let mut compared = 0;
        'history: for seed in seed..seed + count {
            let history = History::of(seed);
            let mut differ = Vec::new();
            // If several transactions wait for a lock, PostgreSQL does not define which one gets it first. Both programs can take
            // either way, so they are compared again if they differ.
            for _ in 0..ROUNDS {
                let by_hand = played(&history, &test, &mut monitor, false).await;
                if by_hand.0.iter().any(End::is_deadlock) {
                    continue 'history;
                }
                let with_library = played(&history, &test, &mut monitor, true).await;
                if with_library == by_hand {
                    compared += 1;
                    continue 'history;
                }
                differ.push(format!("with the library {with_library:?}, by hand {by_hand:?}"));
            }
            panic!("seed {seed}: {differ:#?}, {history:#?}");
        }
        assert!(compared * 3 > count, "{compared} of {count} histories do not deadlock by hand");
        test.passed().await;
    }
}
