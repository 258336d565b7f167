//! `Err` means that nothing is stored, and `Ok` means that the row is stored, even if a trigger drops, keeps or skips a row.
#![allow(missing_docs)]

mod common;

use common::{count, execute, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, sqlx};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "items")]
struct Item {
    id: Option<i64>,
    n: i64,
}

fn item(n: i64) -> Item {
    Item { id: None, n }
}

fn items(all: &[i64]) -> Vec<Item> {
    all.iter().map(|n| item(*n)).collect()
}

async fn stored(db: &Db) -> Vec<i64> {
    let items = Item::query("ORDER BY n").fetch_all(db).await.unwrap();
    items.into_iter().map(|item| item.n).collect()
}

/// A trigger before each `event` on `table` that drops the row if `condition` is true.
async fn drop_before(db: &Db, event: &str, table: &str, condition: &str) {
    let sql = match db.kind() {
        DatabaseKind::Sqlite => format!(
            "CREATE TRIGGER {table}_{event} BEFORE {event} ON {table} WHEN {condition} BEGIN SELECT RAISE(IGNORE); END"
        ),
        DatabaseKind::Postgres => format!(
            "CREATE FUNCTION {table}_{event}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER {table}_{event} BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {table}_{event}()"
        ),
    };
    execute(db, &sql).await;
}

/// The row that an error of several rows names, and whether its cause is that it was not stored.
fn dropped(error: &Error) -> (usize, bool) {
    match error {
        Error::Row { row, source, .. } => (*row, matches!(**source, Error::NotStored { .. })),
        error => panic!("{error:?}"),
    }
}

on_every_database! {
    async fn insert_many_stores_nothing_if_a_trigger_drops_one_row(db: Db) {
        table(&db, "items", "n BIGINT NOT NULL UNIQUE").await;
        drop_before(&db, "INSERT", "items", "NEW.n = 13").await;
        for (all, row) in [(vec![1, 13, 2], 1), (vec![13, 1], 0), (vec![1, 2, 3, 4, 13], 4)] {
            let mut rows = items(&all);
            let error = Item::insert_many(&db, &mut rows).await.unwrap_err();
            assert_eq!(dropped(&error), (row, true), "{error:?}");
            assert_eq!(rows, items(&all), "the instances are as they were");
            assert_eq!(stored(&db).await, [0; 0]);
        }
        let error = Item::insert_many(&db, &mut items(&[13])).await.unwrap_err();
        assert_eq!(dropped(&error), (0, true), "{error:?}");
        Item::insert_many(&db, &mut items(&[1, 2])).await.unwrap();
        assert_eq!(stored(&db).await, [1, 2]);
    }

    async fn rows_with_keys_are_all_stored_or_none(db: Db) {
        table(&db, "items", "n BIGINT NOT NULL UNIQUE").await;
        drop_before(&db, "INSERT", "items", "NEW.n = 13").await;
        let keyed = |n| Item { id: Some(100 + n), n };
        let mut rows = [keyed(1), keyed(13), keyed(2)];
        let error = Item::insert_many(&db, &mut rows).await.unwrap_err();
        assert_eq!((dropped(&error), stored(&db).await), ((1, true), vec![]));
        let mut mixed = [item(1), keyed(2), item(13)];
        let error = Item::insert_many(&db, &mut mixed).await.unwrap_err();
        assert_eq!((dropped(&error), stored(&db).await), ((2, true), vec![]));
    }

    async fn the_dropped_row_is_named_in_a_transaction_too(db: Db) {
        table(&db, "items", "n BIGINT NOT NULL UNIQUE").await;
        drop_before(&db, "INSERT", "items", "NEW.n = 13").await;
        for used in [false, true] {
            let mut tx = db.begin().await.unwrap();
            if used {
                item(7).save(&mut tx).await.unwrap();
            }
            let error = Item::insert_many(&mut tx, &mut items(&[1, 2, 13, 3])).await.unwrap_err();
            assert_eq!(dropped(&error), (2, true), "{error:?}");
            assert!(tx.commit().await.unwrap_err().is_rolled_back());
            let mut tx = db.begin().await.unwrap();
            let mut savepoint = tx.begin().await.unwrap();
            let error = Item::insert_many(&mut savepoint, &mut items(&[1, 13])).await.unwrap_err();
            assert_eq!(dropped(&error), (1, true), "{error:?}");
            savepoint.rollback().await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(stored(&db).await, [0; 0]);
        }
    }

    async fn a_model_of_a_key_and_a_computed_column_is_saved(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "tasks")]
        struct Task { id: Option<i64>, #[model(generated)] state: String }
        table(&db, "tasks", "state TEXT NOT NULL DEFAULT 'new'").await;
        let task = || Task { id: None, state: String::new() };
        let mut one = task();
        assert!(one.save(&db).await.unwrap().created);
        assert_eq!((&*one.state, Task::get(&db, one.id.unwrap()).await.unwrap()), ("new", one.clone()));
        let mut other = task();
        other.insert(&db).await.unwrap();
        let mut many = [task(), task(), task()];
        Task::insert_many(&db, &mut many).await.unwrap();
        assert!(many.iter().all(|task| task.state == "new" && task.id.is_some()));
        one.state.clear();
        one.update(&db).await.unwrap();
        assert_eq!((&*one.state, count(&db, "tasks").await), ("new", 5));
    }

    async fn a_save_whose_computed_column_cannot_be_read_stores_nothing(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "pages")]
        struct Page {
            id: Option<i64>,
            title: Option<String>,
            n: i64,
            #[model(generated)]
            slug: String,
        }
        // Without a title there is no text, which a `String` cannot be.
        let slug = match db.kind() {
            DatabaseKind::Sqlite => "slug GENERATED ALWAYS AS (CASE WHEN title IS NULL THEN 7 ELSE lower(title) END) STORED",
            DatabaseKind::Postgres => "slug TEXT GENERATED ALWAYS AS (lower(title)) STORED",
        };
        table(&db, "pages", &format!("title TEXT, n BIGINT NOT NULL UNIQUE, {slug}")).await;
        let page = |n, title: Option<&str>| Page { id: None, title: title.map(str::to_owned), n, slug: String::new() };
        let mut stored = page(1, Some("One"));
        stored.save(&db).await.unwrap();
        let unread = |page: &Page| Page { title: None, ..page.clone() };
        for round in 0..2 {
            let mut new = page(2, None);
            new.save(&db).await.unwrap_err();
            new.insert(&db).await.unwrap_err();
            assert_eq!(new, page(2, None), "{round}");
            Page { id: Some(99), ..page(2, None) }.save(&db).await.unwrap_err();
            Page { id: Some(99), ..page(2, None) }.insert(&db).await.unwrap_err();
            new.upsert(&db, &[Page::N]).await.unwrap_err();
            Page::get_or_create(&db, page(2, None), &[Page::N]).await.unwrap_err();
            let error = Page::insert_many(&db, &mut [page(2, Some("Two")), page(3, None)]).await.unwrap_err();
            assert!(matches!(error, Error::Row { row: 1, .. }), "{error:?}");
            Page::insert_many(&db, &mut [page(2, None)]).await.unwrap_err();
            unread(&stored).save(&db).await.unwrap_err();
            unread(&stored).update(&db).await.unwrap_err();
            unread(&stored).save_fields(&db, &[Page::TITLE]).await.unwrap_err();
            unread(&stored).upsert(&db, &[Page::N]).await.unwrap_err();
            Page::update_many(&db, &mut [unread(&stored)]).await.unwrap_err();
            assert_eq!(Page::all(&db).await.unwrap(), [stored.clone()], "{round}");
        }
        page(2, Some("Two")).save(&db).await.unwrap();
    }

    async fn a_column_that_an_update_reads_back_undoes_it_if_it_cannot_be_read(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "notes")]
        struct Note { id: Option<i64>, text: String, #[model(auto_now_add)] created: Clock }
        #[derive(Debug, Clone, Copy, sqlx::Type)]
        #[sqlx(transparent)]
        struct Clock(i64);
        impl sqlx_signals::AutoNow for Clock {
            fn at(_: std::time::SystemTime) -> Self { Self(7) }
        }
        table(&db, "notes", "text TEXT NOT NULL UNIQUE, created BIGINT").await;
        Note { id: None, text: "a".to_owned(), created: Clock(0) }.save(&db).await.unwrap();
        Note { id: Some(1), text: "b".to_owned(), created: Clock(0) }.save(&db).await.unwrap();
        let unreadable = if db.kind() == DatabaseKind::Sqlite { "'no number'" } else { "NULL" };
        execute(&db, &format!("UPDATE notes SET created = {unreadable}")).await;
        let mut note = Note { id: Some(1), text: "c".to_owned(), created: Clock(0) };
        note.save(&db).await.unwrap_err();
        note.update(&db).await.unwrap_err();
        note.save_fields(&db, &[Note::TEXT]).await.unwrap_err();
        let (text,): (String,) = db.query("SELECT text FROM notes").fetch_one().await.unwrap();
        assert_eq!(text, "b");
    }

    async fn a_key_that_cannot_be_read_stores_nothing(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "tags")]
        struct Tag { id: Option<i64>, name: String }
        let id = match db.kind() {
            DatabaseKind::Sqlite => "id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(4)) || 'x'))",
            DatabaseKind::Postgres => "id SERIAL PRIMARY KEY",
        };
        execute(&db, &format!("CREATE TABLE tags ({id}, name TEXT NOT NULL UNIQUE)")).await;
        let tag = |name: &str| Tag { id: None, name: name.to_owned() };
        for _ in 0..2 {
            tag("a").save(&db).await.unwrap_err();
            tag("a").insert(&db).await.unwrap_err();
            tag("a").upsert(&db, &[Tag::NAME]).await.unwrap_err();
            Tag::get_or_create(&db, tag("a"), &[Tag::NAME]).await.unwrap_err();
            Tag::insert_many(&db, &mut [tag("a")]).await.unwrap_err();
            Tag::insert_many(&db, &mut [tag("a"), tag("b")]).await.unwrap_err();
            assert_eq!(count(&db, "tags").await, 0);
        }
    }

    async fn a_failed_save_is_undone_in_a_transaction_of_sqlx(db: Db) {
        table(&db, "items", "n BIGINT NOT NULL UNIQUE").await;
        drop_before(&db, "INSERT", "items", "NEW.n = 13").await;
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            let mut tx = pool.begin().await.unwrap();
            let error = Item::insert_many(&mut tx, &mut items(&[1, 13, 2])).await.unwrap_err();
            assert_eq!(dropped(&error), (1, true), "{error:?}");
            tx.commit().await.unwrap();
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            let mut tx = pool.begin().await.unwrap();
            let error = Item::insert_many(&mut tx, &mut items(&[1, 13, 2])).await.unwrap_err();
            assert_eq!(dropped(&error), (1, true), "{error:?}");
            tx.commit().await.unwrap();
        }
        assert_eq!(stored(&db).await, [0; 0]);
    }

    async fn a_row_that_a_trigger_keeps_keeps_its_key(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "items")]
        struct Heard { id: Option<i64>, n: i64 }
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "items")]
        struct Versioned { id: Option<i64>, n: i64, #[model(version)] version: i64 }
        table(&db, "items", "n BIGINT NOT NULL, version BIGINT NOT NULL DEFAULT 1").await;
        drop_before(&db, "DELETE", "items", "OLD.n = 13").await;
        Item::insert_many(&db, &mut items(&[1, 13, 2])).await.unwrap();
        let all = || async { Item::query("ORDER BY id").fetch_all(&db).await.unwrap() };
        let mut kept = all().await[1].clone();
        assert!(!kept.delete(&db).await.unwrap());
        assert!(kept.id.is_some());
        let log = sqlx_signals::testing::record::<Heard>();
        let heard = |item: &Item| Heard { id: item.id, n: item.n };
        let mut alone = heard(&kept);
        assert!(!alone.delete(&db).await.unwrap());
        assert_eq!((alone.id, log.deleted().len()), (kept.id, 0));
        let mut versioned = Versioned { id: kept.id, n: 13, version: 1 };
        assert!(!versioned.delete(&db).await.unwrap());
        assert!(versioned.id.is_some());
        versioned.version = 2;
        assert!(versioned.delete(&db).await.unwrap_err().is_stale());
        let mut missing = Item { id: Some(999), n: 1 };
        assert!(!missing.delete(&db).await.unwrap());
        assert_eq!(missing.id, None, "a row that is not there has no key");

        let mut many: Vec<_> = all().await.iter().map(heard).collect();
        assert_eq!(Heard::delete_many(&db, &mut many).await.unwrap(), 2);
        assert_eq!(many.iter().map(|row| row.id).collect::<Vec<_>>(), [None, kept.id, None]);
        let mut gone: Vec<_> = log.deleted().iter().map(|row| row.n).collect();
        gone.sort_unstable();
        assert_eq!((gone, stored(&db).await), (vec![1, 2], vec![13]));
        assert_eq!(Item::query("WHERE n > 0").delete(&db).await.unwrap(), 0);
        assert_eq!(Heard::query("WHERE n > 0").delete(&db).await.unwrap(), 0);
    }
}

/// A key that the program assigns.
#[derive(Debug, Clone, Model)]
#[model(table = "routed")]
struct Routed {
    #[model(primary_key)]
    code: String,
    n: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "items")]
struct RoutedItem {
    id: Option<i64>,
    n: i64,
}

/// Like `RoutedItem`, with a receiver that does not need a transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "items")]
struct RoutedTold {
    id: Option<i64>,
    n: i64,
}

#[receiver(post_save, sender = RoutedTold, on_commit)]
async fn told_of_routed(_: PostSave<'_, RoutedTold>) {}

/// Two tables, and a trigger of each that stores the row in `log` instead.
async fn routed_tables(db: &Db) {
    table(db, "items", "n BIGINT NOT NULL UNIQUE").await;
    execute(db, "CREATE TABLE routed (code TEXT PRIMARY KEY, n BIGINT NOT NULL UNIQUE)").await;
    execute(db, "CREATE TABLE log (n BIGINT NOT NULL)").await;
    for table in ["items", "routed"] {
        let sql = match db.kind() {
            DatabaseKind::Sqlite => format!(
                "CREATE TRIGGER route_{table} BEFORE INSERT ON {table} BEGIN INSERT INTO log VALUES (NEW.n); SELECT RAISE(IGNORE); END"
            ),
            DatabaseKind::Postgres => format!(
                "CREATE FUNCTION route_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (NEW.n); RETURN NULL; \
                 END $$;
                 CREATE TRIGGER route_{table} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION route_{table}()"
            ),
        };
        execute(db, &sql).await;
    }
}

/// Each write returns `Error::NotStored`, and nothing is in `log` afterwards.
macro_rules! assert_not_stored {
    ($db:expr, $($write:expr,)*) => { $(
        let error = $write.await.map(drop).expect_err(stringify!($write));
        let error = match error {
            Error::Row { source, .. } => *source,
            error => error,
        };
        assert!(matches!(error, Error::NotStored { .. }), "{}: {error:?}", stringify!($write));
        assert_eq!(count($db, "log").await, 0, "{}", stringify!($write));
    )* };
}

on_every_database! {
    async fn a_row_that_a_trigger_stores_elsewhere_is_stored_nowhere_after_an_error(db: Db) {
        routed_tables(&db).await;
        let item = |id| RoutedItem { id, n: 13 };
        let told = |id| RoutedTold { id, n: 13 };
        let routed = || Routed { code: "a".to_owned(), n: 13 };
        // The first write of a model looks at its table, and the next one relies on what that has found.
        for _ in 0..2 {
            assert_not_stored! { &db,
                routed().insert(&db),
                routed().save(&db),
                routed().upsert(&db, &[Routed::N]),
                Routed::get_or_create(&db, routed(), &[Routed::N]),
                Routed::insert_many(&db, &mut [routed()]),
                item(Some(7)).save(&db),
                item(None).insert(&db),
                item(None).save(&db),
                item(Some(7)).insert(&db),
                item(None).upsert(&db, &[RoutedItem::N]),
                item(Some(7)).upsert(&db, &[RoutedItem::N]),
                RoutedItem::get_or_create(&db, item(None), &[RoutedItem::N]),
                RoutedItem::insert_many(&db, &mut [item(None)]),
                RoutedItem::insert_many(&db, &mut [item(None), RoutedItem { id: None, n: 14 }]),
                told(Some(7)).save(&db),
                told(None).insert(&db),
                told(None).save(&db),
                told(None).upsert(&db, &[RoutedTold::N]),
                RoutedTold::get_or_create(&db, told(None), &[RoutedTold::N]),
            }
        }
    }

    async fn a_transaction_with_a_row_that_a_trigger_stores_elsewhere_is_rolled_back(db: Db) {
        routed_tables(&db).await;
        let routed = || Routed { code: "a".to_owned(), n: 13 };
        for get_or_create in [false, true] {
            let mut tx = db.begin().await.unwrap();
            let error = match get_or_create {
                true => Routed::get_or_create(&mut tx, routed(), &[Routed::N]).await.unwrap_err(),
                false => routed().save(&mut tx).await.unwrap_err(),
            };
            assert!(matches!(error, Error::NotStored { .. }), "{error:?}");
            assert!(tx.commit().await.unwrap_err().is_rolled_back(), "{get_or_create}");
            assert_eq!(count(&db, "log").await, 0);
        }
    }

    async fn a_row_that_a_trigger_stores_elsewhere_is_stored_nowhere_through_sqlx(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Through { id: Option<i64>, n: i64 }
        routed_tables(&db).await;
        let item = || Through { id: None, n: 13 };
        macro_rules! through {
            ($pool:expr) => {{
                let (pool, mut conn) = ($pool, $pool.acquire().await.unwrap());
                assert_not_stored! { &db,
                    item().save(&mut *conn),
                    Through::get_or_create(&mut *conn, item(), &[Through::N]),
                    item().insert(&mut *conn),
                    item().upsert(&mut *conn, &[Through::N]),
                }
                drop(conn);
                assert_not_stored! { &db,
                    item().save(pool),
                    item().insert(pool),
                    Through::get_or_create(pool, item(), &[Through::N]),
                }
                let mut tx = pool.begin().await.unwrap();
                for _ in 0..2 {
                    item().save(&mut tx).await.unwrap_err();
                    item().insert(&mut tx).await.unwrap_err();
                    Through::get_or_create(&mut tx, item(), &[Through::N]).await.unwrap_err();
                }
                tx.commit().await.unwrap();
                assert_eq!(count(&db, "log").await, 0);
            }};
        }
        #[cfg(feature = "sqlite")]
        if let Some(pool) = db.sqlite() {
            through!(pool);
        }
        #[cfg(feature = "postgres")]
        if let Some(pool) = db.postgres() {
            through!(pool);
        }
    }
}

/// Two databases with a table of the same name, which are used through sqlx. In the second one, triggers keep the rows.
mod two_databases {
    use super::*;
    use crate::common::TestDb;

    #[derive(Debug, Clone, Model)]
    #[model(table = "items")]
    struct Kept {
        id: Option<i64>,
        n: i64,
    }

    fn kept() -> Kept {
        Kept { id: Some(1), n: 13 }
    }

    async fn prepare(plain: &Db, keeping: &Db) {
        for db in [plain, keeping] {
            table(db, "items", "n BIGINT NOT NULL").await;
        }
        drop_before(keeping, "UPDATE", "items", "OLD.n = 13").await;
        drop_before(keeping, "DELETE", "items", "OLD.n = 13").await;
        execute(keeping, "INSERT INTO items VALUES (1, 13)").await;
    }

    /// The writes through `$plain` find no row, and those through `$keeping` a row that triggers keep.
    macro_rules! assert_found {
        ($plain:expr, $keeping:expr) => {{
            for _ in 0..2 {
                assert!(!kept().delete($plain).await.unwrap());
                assert!(kept().update($plain).await.unwrap_err().is_not_found());
                assert_eq!(Kept::delete_many($plain, &mut [kept(), kept()]).await.unwrap(), 0);
                let mut row = kept();
                assert!(!row.delete($keeping).await.unwrap());
                assert_eq!(row.id, Some(1), "the row is stored");
                row.update($keeping).await.expect("the row is stored");
                let mut rows = [kept(), Kept { id: Some(2), n: 1 }];
                assert_eq!(Kept::delete_many($keeping, &mut rows).await.unwrap(), 0);
                assert_eq!(rows.map(|row| row.id), [Some(1), None], "one row is stored");
            }
        }};
    }

    macro_rules! assert_found_through_sqlx {
        ($plain:expr, $keeping:expr) => {{
            let (plain, keeping) = ($plain, $keeping);
            assert_found!(plain, keeping);
            let mut conns = (plain.acquire().await.unwrap(), keeping.acquire().await.unwrap());
            assert_found!(&mut conns.0, &mut conns.1);
            assert_found!(&mut *conns.0, &mut *conns.1);
            drop(conns);
            let mut txs = (plain.begin().await.unwrap(), keeping.begin().await.unwrap());
            assert_found!(&mut txs.0, &mut txs.1);
            drop(txs);
            let mut txs = (
                Transaction::from(plain.begin().await.unwrap()),
                Transaction::from(keeping.begin().await.unwrap()),
            );
            for _ in 0..2 {
                assert!(!kept().delete(&mut txs.0).await.unwrap());
                let mut row = kept();
                assert!(!row.delete(&mut txs.1).await.unwrap());
                assert_eq!(row.id, Some(1), "the row is stored");
                row.update(&mut txs.1).await.expect("the row is stored");
            }
        }};
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn a_row_that_a_trigger_of_one_database_keeps_is_found_on_sqlite() {
        let (plain, keeping) = (TestDb::sqlite("plain").await, TestDb::sqlite("keeping").await);
        prepare(&plain.db, &keeping.db).await;
        assert_found_through_sqlx!(plain.db.sqlite().unwrap(), keeping.db.sqlite().unwrap());
        plain.passed().await;
        keeping.passed().await;
    }

    #[cfg(feature = "postgres")]
    #[tokio::test]
    async fn a_row_that_a_trigger_of_one_database_keeps_is_found_on_postgres() {
        let (plain, keeping) = (TestDb::postgres("plain").await, TestDb::postgres("keeping").await);
        prepare(&plain.db, &keeping.db).await;
        assert_found_through_sqlx!(plain.db.postgres().unwrap(), keeping.db.postgres().unwrap());
        plain.passed().await;
        keeping.passed().await;
    }

    /// Two pools whose options name the same database, which is not the same for both.
    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn what_a_pool_has_found_is_not_used_for_another_database_of_the_same_name() {
        use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

        let open = async |options: SqliteConnectOptions| {
            let pool = SqlitePoolOptions::new().max_connections(1);
            pool.connect_with(options).await.unwrap()
        };
        // Each pool has an in-memory database of its own.
        let (plain, keeping) =
            (open(SqliteConnectOptions::new()).await, open(SqliteConnectOptions::new()).await);
        prepare(&Db::from(plain.clone()), &Db::from(keeping.clone())).await;
        assert_found!(&plain, &keeping);

        // A file is replaced by another one.
        let (old, new) = (TestDb::sqlite("old").await, TestDb::sqlite("new").await);
        prepare(&old.db, &new.db).await;
        let options = SqliteConnectOptions::new().filename(old.name());
        let pool = open(options.clone()).await;
        assert!(!kept().delete(&pool).await.unwrap());
        pool.close().await;
        // Removes the write-ahead log.
        old.db.close().await;
        execute(&new.db, &format!("VACUUM INTO '{}.copy'", old.name())).await;
        std::fs::rename(format!("{}.copy", old.name()), old.name()).unwrap();
        let pool = open(options).await;
        let mut row = kept();
        assert!(!row.delete(&pool).await.unwrap());
        assert_eq!(row.id, Some(1), "the row is stored");
        pool.close().await;
        for database in [old, new] {
            database.passed().await;
        }
    }

    #[cfg(feature = "postgres")]
    #[tokio::test]
    async fn what_a_pool_has_found_is_not_used_for_another_database() {
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Pooled {
            id: Option<i64>,
            n: i64,
            #[model(generated)]
            text: String,
        }
        let pooled = || Pooled { id: None, n: 13, text: String::new() };
        let (strict, lax) = (TestDb::postgres("strict").await, TestDb::postgres("lax").await);
        table(&strict.db, "items", "n BIGINT NOT NULL, text TEXT NOT NULL DEFAULT 'a'").await;
        table(&lax.db, "items", "n BIGINT NOT NULL, text TEXT").await;
        pooled().insert(strict.db.postgres().unwrap()).await.unwrap();
        pooled().insert(lax.db.postgres().unwrap()).await.expect_err("NULL is not a text");
        assert_eq!(count(&lax.db, "items").await, 0, "an error means that nothing is stored");
        for database in [strict, lax] {
            database.passed().await;
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres_inserts {
    use super::*;
    use crate::common::TestDb;

    #[tokio::test]
    async fn a_rule_that_drops_a_row_has_no_effect_after_an_error() {
        let test = TestDb::postgres("rule").await;
        let db = &test.db;
        execute(
            db,
            "CREATE TABLE routed (code TEXT PRIMARY KEY, n BIGINT NOT NULL UNIQUE);
             CREATE TABLE log (n BIGINT NOT NULL); INSERT INTO log VALUES (0);
             CREATE RULE route AS ON INSERT TO routed DO INSTEAD UPDATE log SET n = NEW.n",
        )
        .await;
        let routed = || Routed { code: "a".to_owned(), n: 13 };
        for _ in 0..2 {
            let errors = [
                routed().insert(db).await.unwrap_err(),
                routed().save(db).await.unwrap_err(),
                Routed::insert_many(db, &mut [routed()]).await.unwrap_err(),
            ];
            let logged = db.query("SELECT n FROM log").fetch_one::<(i64,)>().await.unwrap();
            assert_eq!(logged, (0,), "{errors:?}");
        }
        test.passed().await;
    }

    #[tokio::test]
    async fn a_trigger_of_a_partition_or_of_a_table_behind_a_view_has_no_effect_after_an_error() {
        #[derive(Debug, Clone, Model)]
        #[model(table = "parted")]
        struct Parted {
            #[model(primary_key)]
            code: String,
            n: i64,
        }
        #[derive(Debug, Clone, Model)]
        #[model(table = "viewed")]
        struct Viewed {
            #[model(primary_key)]
            code: String,
            n: i64,
        }
        let test = TestDb::postgres("partition").await;
        let db = &test.db;
        routed_tables(db).await;
        execute(
            db,
            "CREATE TABLE parted (code TEXT, n BIGINT NOT NULL, PRIMARY KEY (code, n)) PARTITION BY RANGE (n);
             CREATE TABLE upper PARTITION OF parted FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (n);
             CREATE TABLE leaf PARTITION OF upper FOR VALUES FROM (10) TO (20);
             CREATE VIEW viewed AS SELECT code, n FROM routed;
             CREATE TRIGGER route_leaf BEFORE INSERT ON leaf FOR EACH ROW EXECUTE FUNCTION route_routed()",
        )
        .await;
        assert_not_stored! { db,
            Parted { code: "a".to_owned(), n: 13 }.insert(db),
            Viewed { code: "a".to_owned(), n: 13 }.insert(db),
        }
        test.passed().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite_conflicts {
    use super::*;
    use crate::common::TestDb;

    async fn conflicting(test: &str, clause: &str) -> TestDb {
        let test = TestDb::sqlite(test).await;
        table(&test.db, "items", &format!("n BIGINT NOT NULL UNIQUE ON CONFLICT {clause}")).await;
        item(5).save(&test.db).await.unwrap();
        test
    }

    #[tokio::test]
    async fn on_conflict_fail_keeps_no_earlier_row() {
        let test = conflicting("on_conflict_fail", "FAIL").await;
        let db = &test.db;
        let refused = |error: Error| {
            assert!(matches!(error, Error::Row { row: 2, .. }), "{error:?}");
            assert!(error.is_unique_violation());
        };
        refused(Item::insert_many(db, &mut items(&[1, 2, 5, 3])).await.unwrap_err());
        let mut tx = db.begin().await.unwrap();
        item(6).save(&mut tx).await.unwrap();
        refused(Item::insert_many(&mut tx, &mut items(&[1, 2, 5, 3])).await.unwrap_err());
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        let mut tx = db.sqlite().unwrap().begin().await.unwrap();
        refused(Item::insert_many(&mut tx, &mut items(&[1, 2, 5, 3])).await.unwrap_err());
        tx.commit().await.unwrap();
        assert_eq!(stored(db).await, [5]);

        Item::insert_many(db, &mut items(&[1, 2])).await.unwrap();
        let mut all = Item::query("ORDER BY n").fetch_all(db).await.unwrap();
        let (n, last) = (all[0].n, all.len() - 1);
        all[0].n = 100;
        all[1].n = 101;
        all[last].n = 101;
        let error = Item::update_many(db, &mut all).await.unwrap_err();
        assert!(
            error.is_unique_violation() && matches!(error, Error::Row { row: 2, .. }),
            "{error:?}"
        );
        assert_eq!((n, stored(db).await), (1, vec![1, 2, 5]));
        // The first row becomes 9, the next one cannot.
        Item::query("WHERE n < 5").set(Item::N, 9).update(db).await.unwrap_err();
        assert_eq!(stored(db).await, [1, 2, 5]);
        let mut tx = db.sqlite().unwrap().begin().await.unwrap();
        Item::query("WHERE n < 5").set(Item::N, 9).update(&mut tx).await.unwrap_err();
        tx.commit().await.unwrap();
        assert_eq!(stored(db).await, [1, 2, 5]);
        test.passed().await;
    }

    #[tokio::test]
    async fn on_conflict_rollback_stores_nothing_and_leaves_the_connection_usable() {
        let test = conflicting("on_conflict_rollback", "ROLLBACK").await;
        let db = &common::one_connection(&test.db).await;
        for _ in 0..2 {
            assert!(
                Item::insert_many(db, &mut items(&[1, 2, 5, 3]))
                    .await
                    .unwrap_err()
                    .is_unique_violation()
            );
            assert!(item(5).save(db).await.unwrap_err().is_unique_violation());
        }
        assert_eq!(stored(db).await, [5]);
        item(6).save(db).await.unwrap();
        assert_eq!(stored(&test.db).await, [5, 6], "another connection sees it");
        db.close().await;
        test.passed().await;
    }

    #[tokio::test]
    async fn a_row_that_on_conflict_ignore_skips_is_an_error() {
        let test = conflicting("on_conflict_ignore", "IGNORE").await;
        let db = &test.db;
        assert_eq!(
            dropped(&Item::insert_many(db, &mut items(&[1, 5, 3])).await.unwrap_err()),
            (1, true)
        );
        assert!(matches!(item(5).save(db).await.unwrap_err(), Error::NotStored { .. }));
        assert!(matches!(item(5).insert(db).await.unwrap_err(), Error::NotStored { .. }));
        let taken = Item { id: Some(77), n: 5 };
        assert!(matches!(taken.clone().save(db).await.unwrap_err(), Error::NotStored { .. }));
        assert_eq!(stored(db).await, [5]);
        test.passed().await;
    }
}

/// A trigger before each update of `items` that leaves the row as it is if `condition` is true.
async fn skip_updates(db: &Db, condition: &str) {
    drop_before(db, "UPDATE", "items", condition).await;
}

/// A trigger of each update of `table` that records the update in `history`, and leaves the row as it is.
async fn handle_updates(db: &Db, table: &str, time: &str) {
    let sql = match db.kind() {
        DatabaseKind::Sqlite => format!(
            "CREATE TRIGGER handle {time} UPDATE ON {table} BEGIN INSERT INTO history VALUES (OLD.id, NEW.n); SELECT RAISE(IGNORE); END"
        ),
        DatabaseKind::Postgres => format!(
            "CREATE FUNCTION handle() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO history VALUES (OLD.id, NEW.n); RETURN NULL; END';
             CREATE TRIGGER handle {time} UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION handle()"
        ),
    };
    execute(db, &sql).await;
}

/// The runs of the trigger of [`handle_updates`].
struct Runs<'d> {
    db: &'d Db,
}

impl Runs<'_> {
    /// Asserts how often the trigger runs during a write.
    async fn expect<T>(&self, what: &str, runs: i64, write: impl IntoFuture<Output = Result<T>>) {
        let before = count(self.db, "history").await;
        write.await.map(drop).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(count(self.db, "history").await - before, runs, "{what}");
    }
}

/// Like `Item`, with a receiver of what has changed.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "items")]
struct Watched {
    id: Option<i64>,
    n: i64,
}

static WATCHED: std::sync::LazyLock<common::Scene> = common::Scene::new();

#[receiver(post_save, sender = Watched)]
fn watch(saved: PostSave<'_, Watched>, previous: Previous<'_, Watched>) {
    let was = previous.row().map(|row| row.n);
    let changed = previous.changed(Watched::N);
    WATCHED.log.push(format!("{} {was:?} {changed}", saved.created));
}

#[receiver(post_save, sender = Watched, updated, changed(n))]
fn changed(_: PostSave<'_, Watched>) {
    WATCHED.log.push("changed");
}

on_every_database! {
    async fn a_row_that_a_trigger_leaves_unchanged_is_no_error(db: Db) {
        let _turn = WATCHED.begin().await;
        table(&db, "items", "n BIGINT NOT NULL UNIQUE").await;
        let mut one = item(13);
        one.save(&db).await.unwrap();
        let id = one.id;
        item(1).save(&db).await.unwrap();
        skip_updates(&db, "OLD.n = 13").await;
        let all = || stored(&db);
        one.n = 14;
        assert!(!one.save(&db).await.unwrap().created);
        one.update(&db).await.unwrap();
        one.save_fields(&db, &[Item::N]).await.unwrap();
        assert!(!one.upsert(&db, &[Item::ID]).await.unwrap().created);
        let mut same = item(13);
        assert!(!same.upsert(&db, &[Item::N]).await.unwrap().created);
        assert_eq!(same.id, id);
        Item::update_many(&db, &mut [one.clone()]).await.unwrap();
        Item::query("WHERE n = 13").set(Item::N, 15).update(&db).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        one.save(&mut tx).await.unwrap();
        one.update(&mut tx).await.unwrap();
        item(13).upsert(&mut tx, &[Item::N]).await.unwrap();
        Item::update_many(&mut tx, &mut [one.clone()]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(all().await, [1, 13]);
        let mut watched = Watched { id, n: 14 };
        assert!(!watched.save(&db).await.unwrap().created);
        watched.update(&db).await.unwrap();
        watched.save_fields(&db, &[Watched::N]).await.unwrap();
        Watched { id: None, n: 13 }.upsert(&db, &[Watched::N]).await.unwrap();
        let mut many = [Watched { id: Some(id.unwrap() + 1), n: 2 }, watched.clone()];
        Watched::update_many(&db, &mut many).await.unwrap();
        Watched::query("WHERE n = 13").set(Watched::N, 15).update(&db).await.unwrap();
        let unchanged = "false Some(13) false";
        let log = WATCHED.log.take();
        assert_eq!(
            log,
            [unchanged, unchanged, unchanged, unchanged, "false Some(1) true", "changed", unchanged, unchanged]
        );
        assert_eq!(all().await, [2, 13]);
        let mut missing = Item { id: Some(999), n: 1 };
        assert!(missing.update(&db).await.unwrap_err().is_not_found());
        assert!(Item::update_many(&db, &mut [one.clone(), missing]).await.unwrap_err().is_not_found());
        let error = Item::update_many(&db, &mut [one.clone(), one.clone()]).await.unwrap_err();
        assert!(matches!(&error, Error::Row { source, .. } if matches!(**source, Error::DuplicateKey { .. })), "{error:?}");
    }

    async fn a_trigger_that_handles_an_update_itself_runs_once(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "items")]
        struct Keyed {
            id: i64,
            n: i64,
        }
        let _turn = WATCHED.begin().await;
        table(&db, "items", "n BIGINT NOT NULL UNIQUE").await;
        execute(&db, "CREATE TABLE history (item BIGINT NOT NULL, n BIGINT NOT NULL)").await;
        let (mut one, mut two) = (item(1), item(2));
        one.save(&db).await.unwrap();
        two.save(&db).await.unwrap();
        handle_updates(&db, "items", "BEFORE").await;
        let (id, n) = (one.id.unwrap(), 7);
        let runs = Runs { db: &db };
        one.n = n;
        let mut fields = one.clone();
        let mut keyed = Keyed { id, n };
        let mut watched = Watched { id: Some(id), n };
        runs.expect("update", 1, one.update(&db)).await;
        runs.expect("save", 1, one.save(&db)).await;
        runs.expect("save_fields", 1, fields.save_fields(&db, &[Item::N])).await;
        runs.expect("upsert by key", 1, one.clone().upsert(&db, &[Item::ID])).await;
        runs.expect("upsert", 1, item(1).upsert(&db, &[Item::N])).await;
        runs.expect("update_many", 2, Item::update_many(&db, &mut [one.clone(), two.clone()])).await;
        runs.expect("save of a key of the program", 1, keyed.save(&db)).await;
        runs.expect("update with Previous", 1, watched.update(&db)).await;
        runs.expect("save with Previous", 1, watched.save(&db)).await;
        runs.expect("upsert with Previous", 1, Watched { id: None, n: 1 }.upsert(&db, &[Watched::N])).await;
        let mut many = [watched.clone(), Watched { id: two.id, n: 3 }];
        runs.expect("update_many with Previous", 2, Watched::update_many(&db, &mut many)).await;
        let mut tx = db.begin().await.unwrap();
        one.update(&mut tx).await.unwrap();
        one.save(&mut tx).await.unwrap();
        item(1).upsert(&mut tx, &[Item::N]).await.unwrap();
        keyed.save(&mut tx).await.unwrap();
        watched.update(&mut tx).await.unwrap();
        watched.save(&mut tx).await.unwrap();
        Item::update_many(&mut tx, &mut [one.clone(), two.clone()]).await.unwrap();
        runs.expect("writes in a transaction", 8, tx.commit()).await;
        assert_eq!(stored(&db).await, [1, 2]);
        let mut new = Keyed { id: 70, n: 70 };
        assert!(new.save(&db).await.unwrap().created);
        new.n = 71;
        runs.expect("save of a new row", 1, new.save(&db)).await;
        let mut missing = Item { id: Some(999), n: 1 };
        assert!(missing.update(&db).await.unwrap_err().is_not_found());
    }

    async fn the_version_of_an_unchanged_row_stays(db: Db) {
        #[derive(Debug, Clone, PartialEq, Model)]
        #[model(table = "items")]
        struct Versioned {
            id: Option<i64>,
            n: i64,
            #[model(auto_now)]
            changed: Clock,
            #[model(version)]
            version: i64,
        }
        #[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
        #[sqlx(transparent)]
        struct Clock(i64);
        static NOW: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);
        impl sqlx_signals::AutoNow for Clock {
            fn at(_: std::time::SystemTime) -> Self {
                Self(NOW.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
            }
        }
        table(&db, "items", "n BIGINT NOT NULL UNIQUE, changed BIGINT NOT NULL, version BIGINT NOT NULL").await;
        let new = |n| Versioned { id: None, n, changed: Clock(0), version: 1 };
        let (mut kept, mut other) = (new(13), new(1));
        kept.save(&db).await.unwrap();
        other.save(&db).await.unwrap();
        skip_updates(&db, "OLD.n = 13").await;
        let stored = || async { Versioned::get(&db, kept.id.unwrap()).await.unwrap() };
        let before = stored().await;
        let changed = || Versioned { n: 14, ..before.clone() };
        let as_stored = |row: &Versioned| Versioned { n: 13, ..row.clone() } == before;
        let mut row = changed();
        row.save(&db).await.unwrap();
        assert!(as_stored(&row), "{row:?}");
        row.update(&db).await.unwrap();
        assert!(as_stored(&row), "{row:?}");
        row.save_fields(&db, &[Versioned::N]).await.unwrap();
        assert!(as_stored(&row), "{row:?}");
        row.upsert(&db, &[Versioned::ID]).await.unwrap();
        assert!(as_stored(&row), "{row:?}");
        let mut many = [other.clone(), row.clone()];
        many[0].n = 2;
        Versioned::update_many(&db, &mut many).await.unwrap();
        assert!(as_stored(&many[1]) && many[0].version == 2, "{many:?}");
        assert_eq!(Versioned::get(&db, other.id.unwrap()).await.unwrap(), many[0]);
        row.version = 7;
        assert!(row.save(&db).await.unwrap_err().is_stale());
        assert!(row.update(&db).await.unwrap_err().is_stale());
        let error = Versioned::update_many(&db, &mut [many[0].clone(), row.clone()]).await.unwrap_err();
        assert!(error.is_stale() && matches!(error, Error::Row { row: 1, .. }), "{error:?}");
        assert_eq!(stored().await, before);
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_trigger_of_a_view_that_handles_an_update_itself_runs_once() {
    let test = common::TestDb::postgres("trigger_of_view").await;
    let db = &test.db;
    execute(
        db,
        "CREATE TABLE stock (id BIGINT PRIMARY KEY, n BIGINT NOT NULL); INSERT INTO stock VALUES (1, 1);
         CREATE VIEW items AS SELECT id, n FROM stock; CREATE TABLE history (item BIGINT NOT NULL, n BIGINT NOT NULL)",
    )
    .await;
    handle_updates(db, "items", "INSTEAD OF").await;
    let mut one = Item { id: Some(1), n: 2 };
    let runs = Runs { db };
    runs.expect("update", 1, one.update(db)).await;
    runs.expect("save", 1, one.save(db)).await;
    runs.expect("update_many", 1, Item::update_many(db, &mut [one.clone()])).await;
    runs.expect("update with Previous", 1, Watched { id: Some(1), n: 2 }.update(db)).await;
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_suppressed_update_is_one_statement() {
    let test = common::TestDb::postgres("suppressed_update").await;
    let db = &test.db;
    table(db, "items", "n BIGINT NOT NULL UNIQUE").await;
    execute(
        db,
        "CREATE TRIGGER redundant BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
         CREATE TABLE history (n BIGINT NOT NULL);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO history VALUES (1); RETURN NULL; END';
         CREATE TRIGGER note AFTER UPDATE ON items FOR EACH STATEMENT EXECUTE FUNCTION note()",
    )
    .await;
    let mut one = item(1);
    one.save(db).await.unwrap();
    let runs = Runs { db };
    runs.expect("update", 1, one.update(db)).await;
    runs.expect("save", 1, one.save(db)).await;
    one.n = 2;
    runs.expect("update of another value", 1, one.update(db)).await;
    assert_eq!(stored(db).await, [2]);
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn redundant_updates_may_be_suppressed() {
    let test = common::TestDb::postgres("redundant_updates").await;
    let db = &test.db;
    table(db, "items", "n BIGINT NOT NULL UNIQUE").await;
    execute(
        db,
        "CREATE TRIGGER redundant BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    )
    .await;
    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "items")]
    struct Keyed {
        id: i64,
        n: i64,
    }
    let mut keyed = Keyed { id: 7, n: 1 };
    for created in [true, false, false] {
        assert_eq!(keyed.save(db).await.unwrap().created, created);
    }
    keyed.update(db).await.unwrap();
    keyed.upsert(db, &[Keyed::N]).await.unwrap();
    Keyed::update_many(db, &mut [keyed.clone()]).await.unwrap();
    keyed.n = 2;
    keyed.save(db).await.unwrap();
    assert_eq!(Keyed::all(db).await.unwrap(), [keyed]);
    test.passed().await;
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "rates")]
struct Rate {
    #[model(primary_key)]
    code: String,
    n: i64,
}

fn rate(code: &str, n: i64) -> Rate {
    Rate { code: code.to_owned(), n }
}

async fn saves_by_key_work(db: &Db) {
    for in_transaction in [false, true] {
        let code = if in_transaction { "b" } else { "a" };
        let mut row = rate(code, 1);
        if in_transaction {
            let mut tx = db.begin().await.unwrap();
            assert!(row.save(&mut tx).await.unwrap().created);
            row.n = 2;
            assert!(!row.save(&mut tx).await.unwrap().created);
            tx.commit().await.unwrap();
        } else {
            assert!(row.save(db).await.unwrap().created);
            row.n = 2;
            assert!(!row.save(db).await.unwrap().created);
        }
        assert_eq!(Rate::get(db, code).await.unwrap().n, 2);
    }
}

on_every_database! {
    async fn a_save_works_without_a_unique_index_of_the_key(db: Db) {
        execute(&db, "CREATE TABLE rates (code TEXT NOT NULL, n BIGINT NOT NULL)").await;
        saves_by_key_work(&db).await;
        assert_eq!(count(&db, "rates").await, 2);
    }
}

#[derive(Debug, Clone, Model)]
#[model(table = "drafts")]
struct Draft {
    id: i64,
    n: i64,
    #[model(version)]
    version: i64,
}

on_every_database! {
    async fn a_stale_row_is_not_stored_again_without_a_unique_index_of_the_key(db: Db) {
        execute(&db, "CREATE TABLE drafts (id BIGINT NOT NULL, n BIGINT NOT NULL, version BIGINT NOT NULL)").await;
        let mut row = Draft { id: 1, n: 1, version: 1 };
        assert!(row.save(&db).await.unwrap().created);
        row.save(&db).await.unwrap();
        let mut stale = Draft { id: 1, n: 2, version: 1 };
        assert!(stale.save(&db).await.unwrap_err().is_stale());
        let mut tx = db.begin().await.unwrap();
        assert!(stale.save(&mut tx).await.unwrap_err().is_stale());
        tx.rollback().await.unwrap();
        assert_eq!((count(&db, "drafts").await, row.version), (1, 2));
        assert_eq!(Draft::get(&db, 1).await.unwrap().n, 1);
    }
}

#[cfg(feature = "postgres")]
mod deferrable {
    use super::*;
    use crate::common::TestDb;

    #[tokio::test]
    async fn a_save_works_on_a_table_with_rules() {
        let test = TestDb::postgres("table_with_rules").await;
        let db = &test.db;
        execute(
            db,
            "CREATE TABLE rates (code TEXT PRIMARY KEY, n BIGINT NOT NULL); CREATE TABLE log (n BIGINT NOT NULL);
             CREATE RULE noted AS ON INSERT TO rates DO ALSO INSERT INTO log VALUES (NEW.n)",
        )
        .await;
        let mut row = rate("a", 1);
        assert!(row.save(db).await.unwrap().created);
        assert!(!row.save(db).await.unwrap().created);
        assert_eq!((count(db, "rates").await, count(db, "log").await), (1, 1));
        test.passed().await;
    }

    #[tokio::test]
    async fn several_rows_of_a_table_with_rules_are_written() {
        let test = TestDb::postgres("rows_with_rules").await;
        let db = &test.db;
        table(db, "items", "n BIGINT NOT NULL UNIQUE").await;
        table(db, "parts", "item BIGINT NOT NULL REFERENCES items").await;
        table(db, "labels", "item BIGINT REFERENCES items").await;
        execute(db, "CREATE TABLE log (n BIGINT)").await;
        for (name, on) in [("items", "n"), ("parts", "item"), ("labels", "id")] {
            for (event, row) in [("UPDATE", "NEW"), ("DELETE", "OLD")] {
                let rule = format!(
                    "CREATE RULE {name}_{event} AS ON {event} TO {name} DO ALSO INSERT INTO log VALUES ({row}.{on})"
                );
                execute(db, &rule).await;
            }
        }
        let mut rows = items(&[1, 2, 3, 4, 5, 6]);
        Item::insert_many(db, &mut rows).await.unwrap();
        rows[..3].iter_mut().for_each(|row| row.n += 10);
        Item::update_many(db, &mut rows[..3]).await.unwrap();
        let mut watched: Vec<_> =
            rows.iter().map(|row| Watched { id: row.id, n: row.n + 20 }).collect();
        Watched::update_many(db, &mut watched[..2]).await.unwrap();
        watched[2].update(db).await.unwrap();
        assert_eq!((stored(db).await, count(db, "log").await), (vec![4, 5, 6, 31, 32, 33], 6));
        let left = rows.split_off(2);
        assert_eq!(Watched::delete_many(db, &mut watched[..2]).await.unwrap(), 2);
        assert_eq!((stored(db).await, count(db, "log").await), (vec![4, 5, 6, 33], 8));
        let mut parts = [0, 1, 1].map(|n| Part { id: None, item: left[n].id.unwrap() });
        Part::insert_many(db, &mut parts).await.unwrap();
        let mut labels = [0, 1].map(|n| Label { id: None, item: left[n].id });
        Label::insert_many(db, &mut labels).await.unwrap();
        let assembly = |item: &Item| Assembly { id: item.id, n: item.n };
        assert!(assembly(&left[0]).delete(db).await.unwrap());
        assert_eq!((count(db, "parts").await, count(db, "log").await), (2, 11));
        let mut many = [assembly(&left[1]), assembly(&left[2])];
        assert_eq!(Assembly::delete_many(db, &mut many).await.unwrap(), 2);
        assert_eq!((count(db, "parts").await, count(db, "log").await), (0, 16));
        let labels = Label::all(db).await.unwrap();
        assert!(labels.len() == 2 && labels.iter().all(|label| label.item.is_none()), "{labels:?}");
        test.passed().await;
    }

    /// An item with parts and a label.
    #[derive(Debug, Clone, Model)]
    #[model(table = "items")]
    struct Assembly {
        id: Option<i64>,
        n: i64,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "parts")]
    struct Part {
        id: Option<i64>,
        #[model(belongs_to = Assembly, on_delete = cascade)]
        item: i64,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "labels")]
    struct Label {
        id: Option<i64>,
        #[model(belongs_to = Assembly, on_delete = set_null)]
        item: Option<i64>,
    }

    #[tokio::test]
    async fn a_save_works_with_a_deferrable_key() {
        for when in ["DEFERRABLE INITIALLY IMMEDIATE", "DEFERRABLE INITIALLY DEFERRED"] {
            let test = TestDb::postgres("deferrable_key").await;
            let db = &test.db;
            execute(db, &format!("CREATE TABLE rates (code TEXT PRIMARY KEY {when}, n BIGINT NOT NULL UNIQUE DEFERRABLE)")).await;
            execute(
                db,
                &format!("CREATE TABLE items (id BIGSERIAL PRIMARY KEY {when}, n BIGINT NOT NULL)"),
            )
            .await;
            let mut row = rate("a", 1);
            assert!(row.save(db).await.unwrap().created);
            assert!(!row.save(db).await.unwrap().created);
            let mut tx = db.begin().await.unwrap();
            assert!(rate("b", 2).save(&mut tx).await.unwrap().created);
            assert!(!rate("b", 3).save(&mut tx).await.unwrap().created);
            tx.commit().await.unwrap();
            assert!(rate("c", 3).save(db).await.unwrap_err().is_unique_violation());
            let mut new = Item { id: Some(70), n: 1 };
            assert!(new.save(db).await.unwrap().created);
            new.n = 2;
            assert!(!new.save(db).await.unwrap().created);
            let mut watched = Watched { id: Some(71), n: 1 };
            assert!(watched.save(db).await.unwrap().created);
            watched.n = 2;
            assert!(!watched.save(db).await.unwrap().created);
            assert_eq!((count(db, "rates").await, stored(db).await), (2, vec![2, 2]));

            let tasks: Vec<_> = (0..16)
                .map(|n| {
                    let db = db.clone();
                    tokio::spawn(
                        async move { rate("raced", 100 + n).save(&db).await.unwrap().created },
                    )
                })
                .collect();
            let mut created = 0;
            for task in tasks {
                created += usize::from(task.await.unwrap());
            }
            assert_eq!((created, count(db, "rates").await), (1, 3), "{when}");
            test.passed().await;
        }
    }
}

/// With a column of JSON, of which the program writes the members in an order of their own.
#[derive(Debug, Clone, Model)]
#[model(table = "documents")]
struct Document {
    id: Option<i64>,
    name: String,
    #[model(json)]
    meta: Option<Pairs>,
    score: f64,
}

/// An object whose members are in the order of the list.
#[derive(Debug, Clone)]
struct Pairs(Vec<(String, i64)>);

impl serde::Serialize for Pairs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, i64>::deserialize(deserializer)?;
        Ok(Self(map.into_iter().collect()))
    }
}

static DOCUMENTS: std::sync::LazyLock<common::Scene> = common::Scene::new();

#[receiver(post_save, sender = Document, updated, changed(meta))]
fn meta_changed(_: PostSave<'_, Document>) {
    DOCUMENTS.log.push("meta");
}

#[receiver(post_save, sender = Document, updated, changed(score))]
fn score_changed(_: PostSave<'_, Document>) {
    DOCUMENTS.log.push("score");
}

#[receiver(post_save, sender = Document, updated, changed(name))]
fn name_changed(_: PostSave<'_, Document>) {
    DOCUMENTS.log.push("name");
}

on_every_database! {
    async fn equal_values_have_not_changed(db: Db) {
        let _turn = DOCUMENTS.begin().await;
        let types: &[[&str; 2]] = match db.kind() {
            DatabaseKind::Sqlite => &[["TEXT", "REAL"], ["TEXT", ""]],
            DatabaseKind::Postgres => &[["JSONB", "FLOAT8"], ["JSON", "FLOAT8"]],
        };
        for (round, [json, number]) in types.iter().enumerate() {
            // Of its own, because the table has other types.
            let db = common::one_connection(&db).await;
            execute(&db, "DROP TABLE IF EXISTS documents").await;
            table(&db, "documents", &format!("name TEXT NOT NULL UNIQUE, meta {json}, score {number} NOT NULL")).await;
            let pairs = |all: &[(&str, i64)]| {
                Some(Pairs(all.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()))
            };
            let meta = pairs(&[("b", 1), ("a", 2)]);
            let mut row = Document { id: None, name: "x".to_owned(), meta, score: 0.0 };
            row.save(&db).await.unwrap();
            row.meta = pairs(&[("a", 2), ("b", 1)]);
            row.score = -0.0;
            row.save(&db).await.unwrap();
            row.update(&db).await.unwrap();
            row.save_fields(&db, &[Document::META]).await.unwrap();
            Document::update_many(&db, &mut [row.clone()]).await.unwrap();
            Document { id: None, ..row.clone() }.upsert(&db, &[Document::NAME]).await.unwrap();
            assert_eq!(DOCUMENTS.log.take(), [""; 0], "{round}");
            row.meta = pairs(&[("a", 3), ("b", 1)]);
            row.save(&db).await.unwrap();
            row.meta = None;
            row.score = 1.5;
            row.save(&db).await.unwrap();
            row.meta = pairs(&[]);
            row.name = "X".to_owned();
            row.save(&db).await.unwrap();
            let mut log = DOCUMENTS.log.take();
            log.sort_unstable();
            assert_eq!(log, ["meta", "meta", "meta", "name", "score"], "{round}");
        }
    }

    async fn an_upsert_of_an_existing_row_consumes_no_key(db: Db) {
        let _turn = WATCHED.begin().await;
        // On SQLite a key is never used twice only with AUTOINCREMENT.
        match db.kind() {
            DatabaseKind::Sqlite => {
                execute(&db, "CREATE TABLE items (id INTEGER PRIMARY KEY AUTOINCREMENT, n BIGINT NOT NULL UNIQUE)").await;
            }
            DatabaseKind::Postgres => table(&db, "items", "n BIGINT NOT NULL UNIQUE").await,
        }
        let new = |n| Watched { id: None, n };
        let mut first = new(1);
        assert!(first.upsert(&db, &[Watched::N]).await.unwrap().created);
        for _ in 0..3 {
            assert!(!new(1).upsert(&db, &[Watched::N]).await.unwrap().created);
            assert!(!first.save(&db).await.unwrap().created);
            assert!(!Watched::get_or_create(&db, new(1), &[Watched::N]).await.unwrap().1);
        }
        let mut second = new(2);
        second.upsert(&db, &[Watched::N]).await.unwrap();
        assert_eq!(second.id, first.id.map(|id| id + 1));
        let mut other = Watched { id: None, n: 3 };
        other.upsert(&db, &[Watched::ID]).await.unwrap_err();
    }
}

/// A column that a trigger computes, of any type, as text.
#[cfg(feature = "postgres")]
#[derive(Debug, Clone, Model)]
#[model(table = "samples")]
struct Sample {
    id: Option<i64>,
    amount: sqlx::types::BigDecimal,
}

#[cfg(feature = "postgres")]
static SAMPLES: std::sync::LazyLock<common::Scene> = common::Scene::new();

#[cfg(feature = "postgres")]
#[receiver(post_save, sender = Sample, updated, changed(amount))]
fn amount_changed(_: PostSave<'_, Sample>) {
    SAMPLES.log.push("amount");
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_number_of_another_scale_has_not_changed() {
    let _turn = SAMPLES.begin().await;
    let test = common::TestDb::postgres("equal_numbers").await;
    let db = test.db.postgres().unwrap();
    table(&test.db, "samples", "amount NUMERIC NOT NULL").await;
    let amount = |text: &str| text.parse::<sqlx::types::BigDecimal>().unwrap();
    let mut sample = Sample { id: None, amount: amount("1.0") };
    sample.save(db).await.unwrap();
    sample.amount = amount("1.00");
    sample.save(db).await.unwrap();
    Sample::update_many(db, &mut [sample.clone()]).await.unwrap();
    assert_eq!(SAMPLES.log.take(), [""; 0]);
    sample.amount = amount("1.01");
    sample.save(db).await.unwrap();
    assert_eq!(SAMPLES.log.take(), ["amount"]);
    test.passed().await;
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "people")]
struct Person {
    id: Option<i64>,
    email: String,
    name: String,
}

fn person(email: &str, name: &str) -> Person {
    Person { id: None, email: email.to_owned(), name: name.to_owned() }
}

/// Like `Person`, with a receiver of what has changed.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "people")]
struct Member {
    id: Option<i64>,
    email: String,
    name: String,
}

static MEMBERS: std::sync::LazyLock<common::Scene> = common::Scene::new();

#[receiver(post_save, sender = Member)]
fn member_saved(saved: PostSave<'_, Member>, previous: Previous<'_, Member>) {
    let was = previous.row().map(|row| row.name.clone());
    MEMBERS.log.push(format!("{} {was:?}", saved.created));
}

/// Rows are found by their emails as the index compares them: `Ann` is `ann`.
async fn emails_are_found_as_the_index_compares_them(db: &Db, found_as: &str) {
    let mut ann = person("Ann", "Ann");
    ann.save(db).await.unwrap();
    let by = &[Person::EMAIL];
    let (found, created) = Person::get_or_create(db, person(found_as, "new"), by).await.unwrap();
    assert_eq!((&found, created), (&ann, false));
    let mut anna = person(found_as, "Anna");
    assert!(!anna.upsert(db, by).await.unwrap().created);
    assert_eq!(anna.id, ann.id);
    let (found, created) = Member::get_or_create(
        db,
        Member { id: None, email: found_as.to_owned(), name: String::new() },
        &[Member::EMAIL],
    )
    .await
    .unwrap();
    assert_eq!((&*found.name, created), ("Anna", false));
    MEMBERS.log.take();
    let mut annika = Member { id: None, email: found_as.to_owned(), name: "Annika".to_owned() };
    assert!(!annika.upsert(db, &[Member::EMAIL]).await.unwrap().created);
    assert_eq!(annika.id, ann.id);
    assert_eq!(MEMBERS.log.take(), [r#"false Some("Anna")"#]);
    let mut tx = db.begin().await.unwrap();
    assert!(!person(found_as, "in a transaction").upsert(&mut tx, by).await.unwrap().created);
    let (_, created) = Person::get_or_create(&mut tx, person("ANN", "new"), by).await.unwrap();
    assert!(!created);
    tx.commit().await.unwrap();
    let (bob, created) = Person::get_or_create(db, person("Bob", "Bob"), by).await.unwrap();
    assert!(created && !Person::get_or_create(db, person("BOB", "new"), by).await.unwrap().1);
    let names: Vec<_> = Person::query("ORDER BY id").fetch_all(db).await.unwrap();
    assert_eq!(names.iter().map(|p| &*p.name).collect::<Vec<_>>(), ["in a transaction", "Bob"]);
    assert_eq!(names[1].id, bob.id);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn rows_are_found_by_the_collation_of_the_index_on_sqlite() {
    let _turn = MEMBERS.begin().await;
    for (columns, index) in [
        ("email TEXT NOT NULL COLLATE NOCASE UNIQUE", ""),
        ("email TEXT NOT NULL", "CREATE UNIQUE INDEX emails ON people (email COLLATE NOCASE)"),
    ] {
        let test = common::TestDb::sqlite("collation_of_the_index").await;
        table(&test.db, "people", &format!("{columns}, name TEXT NOT NULL")).await;
        execute(&test.db, index).await;
        emails_are_found_as_the_index_compares_them(&test.db, "ann").await;
        test.passed().await;
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn rows_are_found_by_the_type_of_the_column_on_postgres() {
    let _turn = MEMBERS.begin().await;
    for (before, columns, index) in [
        ("CREATE EXTENSION citext", "email CITEXT NOT NULL UNIQUE", ""),
        (
            "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "email TEXT NOT NULL COLLATE nocase UNIQUE",
            "",
        ),
        (
            "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "email TEXT NOT NULL",
            "CREATE UNIQUE INDEX emails ON people (email COLLATE nocase)",
        ),
    ] {
        let test = common::TestDb::postgres("type_of_the_column").await;
        execute(&test.db, before).await;
        table(&test.db, "people", &format!("{columns}, name TEXT NOT NULL")).await;
        execute(&test.db, index).await;
        emails_are_found_as_the_index_compares_them(&test.db, "ann").await;
        test.passed().await;
    }
}

// The stored value differs from the given one.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_row_is_found_although_a_trigger_changes_the_value() {
    let test = common::TestDb::postgres("trigger_changes_the_value").await;
    let db = &test.db;
    table(db, "people", "email TEXT NOT NULL UNIQUE, name TEXT NOT NULL").await;
    execute(
        db,
        "CREATE FUNCTION lower_email() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN NEW.email = lower(NEW.email); RETURN NEW; END';
         CREATE TRIGGER lower_email BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION lower_email()",
    )
    .await;
    let mut ann = person("Ann", "Ann");
    ann.save(db).await.unwrap();
    let by = &[Person::EMAIL];
    let (found, created) = Person::get_or_create(db, person("ANN", "new"), by).await.unwrap();
    assert_eq!((found.id, created), (ann.id, false));
    assert!(!person("ANN", "Anna").upsert(db, by).await.unwrap().created);
    let anna = Person { name: "Anna".to_owned(), email: "ann".to_owned(), ..ann };
    assert_eq!(Person::get(db, anna.id.unwrap()).await.unwrap(), anna);
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_row_is_found_by_a_key_as_its_column_compares_it() {
    for (before, code, given) in [
        ("CREATE EXTENSION citext", "CITEXT", "EUR"),
        ("", "CHAR(5)", "eur  "),
        ("CREATE EXTENSION citext; CREATE DOMAIN code AS citext", "code", "EUR"),
    ] {
        let test = common::TestDb::postgres("key_of_the_column").await;
        let db = &test.db;
        execute(db, before).await;
        execute(db, &format!("CREATE TABLE rates (code {code} PRIMARY KEY, n BIGINT NOT NULL)"))
            .await;
        assert!(rate("eur", 1).save(db).await.unwrap().created);
        let n = || async { Rate::get(db, given).await.unwrap().n };
        assert_eq!((n().await, Rate::find(db, given).await.unwrap().unwrap().n), (1, 1));
        assert!(!rate(given, 2).save(db).await.unwrap().created);
        assert_eq!(n().await, 2, "{code}");
        rate(given, 3).update(db).await.unwrap();
        assert_eq!(n().await, 3, "{code}");
        rate(given, 4).save_fields(db, &[Rate::N]).await.unwrap();
        assert_eq!(n().await, 4, "{code}");
        assert!(!rate(given, 5).upsert(db, &[Rate::CODE]).await.unwrap().created);
        let (found, created) =
            Rate::get_or_create(db, rate(given, 6), &[Rate::CODE]).await.unwrap();
        assert_eq!((found.n, created), (5, false), "{code}");
        let mut refreshed = rate(given, 0);
        refreshed.refresh(db).await.unwrap();
        assert_eq!(refreshed.n, 5);
        assert_eq!(count(db, "rates").await, 1);
        assert!(rate(given, 0).delete(db).await.unwrap());
        assert!(Rate::find(db, given).await.unwrap().is_none());
        assert!(rate(given, 0).update(db).await.unwrap_err().is_not_found());
        test.passed().await;
    }
}

/// Checks that each of some writes is refused, and that the rows are what they were.
macro_rules! refused {
    ($db:expr, $sql:expr, $($write:expr),* $(,)?) => { $(
        let before: Vec<(i64, i64)> = $db.query($sql).fetch_all().await.unwrap();
        let done = $write.await;
        let after: Vec<(i64, i64)> = $db.query($sql).fetch_all().await.unwrap();
        assert!(done.is_err(), "{}: {done:?}", stringify!($write));
        assert_eq!(after, before, "{}: {done:?}", stringify!($write));
    )* };
}

#[cfg(feature = "postgres")]
mod unreadable_values {
    use super::*;
    use crate::common::TestDb;
    use std::time::SystemTime;

    #[derive(Debug, Clone, PartialEq, sqlx::Type)]
    #[sqlx(type_name = "text", rename_all = "lowercase")]
    enum State {
        New,
    }

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Meta {
        a: i64,
    }

    #[derive(Debug, Clone, Copy)]
    struct Even(i64);

    impl<DB: sqlx::Database> sqlx::Type<DB> for Even
    where
        i64: sqlx::Type<DB>,
    {
        fn type_info() -> DB::TypeInfo {
            <i64 as sqlx::Type<DB>>::type_info()
        }

        fn compatible(ty: &DB::TypeInfo) -> bool {
            <i64 as sqlx::Type<DB>>::compatible(ty)
        }
    }

    impl<'q, DB: sqlx::Database> sqlx::Encode<'q, DB> for Even
    where
        i64: sqlx::Encode<'q, DB>,
    {
        fn encode_by_ref(
            &self,
            buffer: &mut DB::ArgumentBuffer,
        ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
            self.0.encode_by_ref(buffer)
        }
    }

    impl<'r, DB: sqlx::Database> sqlx::Decode<'r, DB> for Even
    where
        i64: sqlx::Decode<'r, DB>,
    {
        fn decode(value: DB::ValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
            let n = i64::decode(value)?;
            if n % 2 == 0 { Ok(Self(n)) } else { Err("odd".into()) }
        }
    }

    impl sqlx_signals::AutoNow for Even {
        fn at(_: SystemTime) -> Self {
            Self(8)
        }
    }

    /// Of a type of which some values do not decode.
    macro_rules! every_verb {
        ($test:ident, $type:ty, $value:expr, $column:literal) => {
            #[tokio::test]
            async fn $test() {
                #[derive(Debug, Clone, Model)]
                #[model(table = "parts")]
                struct Part {
                    id: Option<i64>,
                    n: i64,
                    #[model(generated)]
                    value: $type,
                }
                let test = TestDb::postgres(stringify!($test)).await;
                let db = &test.db;
                table(db, "parts", concat!("n BIGINT NOT NULL UNIQUE, value ", $column)).await;
                execute(db, "INSERT INTO parts (id, n) VALUES (100, 100)").await;
                let part = |id, n| Part { id, n, value: $value };
                let pool = db.postgres().unwrap().clone();
                refused!(
                    db,
                    "SELECT id, n FROM parts ORDER BY id",
                    part(None, 1).save(db),
                    part(None, 1).insert(db),
                    part(Some(7), 1).save(db),
                    part(Some(7), 1).insert(db),
                    Part::insert_many(db, &mut [part(None, 1)]),
                    Part::insert_many(db, &mut [part(None, 1), part(None, 2)]),
                    part(None, 1).upsert(db, &[Part::N]),
                    part(None, 100).upsert(db, &[Part::N]),
                    part(Some(100), 5).upsert(db, &[Part::ID]),
                    Part::get_or_create(db, part(None, 1), &[Part::N]),
                    part(Some(100), 5).save(db),
                    part(Some(100), 5).update(db),
                    part(Some(100), 5).save_fields(db, &[Part::N]),
                    Part::update_many(db, &mut [part(Some(100), 5)]),
                    part(None, 1).save(&pool),
                    part(Some(100), 5).update(&pool),
                );
                test.passed().await;
            }
        };
    }

    every_verb!(
        json_of_another_shape_is_undone,
        sqlx::types::Json<Meta>,
        sqlx::types::Json(Meta { a: 1 }),
        "JSONB NOT NULL DEFAULT '7'"
    );
    every_verb!(an_unknown_variant_is_undone, State, State::New, "TEXT NOT NULL DEFAULT 'old'");
    every_verb!(an_optional_unknown_variant_is_undone, Option<State>, None, "TEXT DEFAULT 'old'");
    every_verb!(
        a_number_that_a_newtype_refuses_is_undone,
        Even,
        Even(2),
        "BIGINT NOT NULL DEFAULT 7"
    );

    #[tokio::test]
    async fn a_time_of_creation_that_cannot_be_read_fails_no_update() {
        #[derive(Debug, Clone, Model)]
        #[model(table = "notes")]
        struct Note {
            id: Option<i64>,
            n: i64,
            #[model(auto_now_add)]
            created: Even,
        }
        let test = TestDb::postgres("unreadable_created").await;
        let db = &test.db;
        table(db, "notes", "n BIGINT NOT NULL, created BIGINT NOT NULL").await;
        execute(db, "INSERT INTO notes VALUES (1, 1, 7)").await;
        let mut note = Note { id: Some(1), n: 2, created: Even(4) };
        note.update(db).await.unwrap();
        assert_eq!(note.created.0, 4, "as the instance had it");
        note.n = 3;
        note.save_fields(db, &[Note::N]).await.unwrap();
        let (n,): (i64,) = db.query("SELECT n FROM notes").fetch_one().await.unwrap();
        assert_eq!(n, 3);
        // In a transaction, which can still be undone, it is an error.
        let mut tx = db.begin().await.unwrap();
        note.update(&mut tx).await.unwrap_err();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        test.passed().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite_statements {
    use super::*;
    use crate::common::TestDb;

    #[derive(Debug, Clone, Model)]
    #[model(table = "items")]
    struct Told {
        id: Option<i64>,
        n: i64,
    }

    #[receiver(post_save, sender = Told, on_commit)]
    async fn told(_: PostSave<'_, Told>) {}

    #[receiver(post_delete, sender = Told, on_commit)]
    async fn told_of_delete(_: PostDelete<'_, Told>) {}

    const ROWS: &str = "SELECT id, n FROM items ORDER BY id";

    /// A trigger that refuses what another statement has stored.
    fn fail_after(event: &str) -> String {
        format!(
            "CREATE TRIGGER after_{event} AFTER {event} ON items BEGIN SELECT RAISE(FAIL, 'no'); END"
        )
    }

    async fn all_are_refused(db: &Db) {
        let told = |id, n| Told { id, n };
        let keyed = |id, n| Item { id: Some(id), n };
        let pool = other_pool(db).await;
        let mut conn = pool.acquire().await.unwrap();
        refused!(
            db,
            ROWS,
            item(1).save(db),
            item(1).insert(db),
            keyed(7, 1).save(db),
            keyed(7, 1).insert(db),
            Item::insert_many(db, &mut [item(1)]),
            Item::insert_many(db, &mut items(&[1, 2])),
            item(1).upsert(db, &[Item::N]),
            item(100).upsert(db, &[Item::N]),
            Item::get_or_create(db, item(1), &[Item::N]),
            keyed(100, 5).save(db),
            keyed(100, 5).update(db),
            keyed(100, 5).save_fields(db, &[Item::N]),
            Item::update_many(db, &mut [keyed(100, 5)]),
            keyed(100, 5).delete(db),
            Item::delete_many(db, &mut [keyed(100, 5)]),
            Item::query("WHERE n = 100").set(Item::N, 5_i64).update(db),
            Item::query("WHERE n = 100").delete(db),
            told(None, 1).save(db),
            told(Some(100), 5).save(db),
            told(Some(100), 5).delete(db),
            item(1).save(&pool),
            keyed(100, 5).save(&pool),
            keyed(100, 5).delete(&pool),
            item(1).save(&mut conn),
            keyed(100, 5).update(&mut conn),
            keyed(100, 5).delete(&mut conn),
        );
    }

    /// Another pool of the same database.
    async fn other_pool(db: &Db) -> sqlx::SqlitePool {
        let options = db.sqlite().unwrap().connect_options();
        sqlx::SqlitePool::connect_with((*options).clone()).await.unwrap()
    }

    #[tokio::test]
    async fn a_write_that_a_trigger_refuses_afterwards_is_undone() {
        let test = TestDb::sqlite("raise_fail").await;
        let db = &test.db;
        table(db, "items", "n BIGINT NOT NULL UNIQUE").await;
        execute(db, "INSERT INTO items VALUES (100, 100)").await;
        for event in ["INSERT", "UPDATE", "DELETE"] {
            execute(db, &fail_after(event)).await;
        }
        all_are_refused(db).await;
        test.passed().await;
    }

    #[tokio::test]
    async fn a_trigger_that_is_new_is_seen_by_the_next_write() {
        let test = TestDb::sqlite("new_trigger").await;
        let db = &test.db;
        table(db, "items", "n BIGINT NOT NULL UNIQUE").await;
        // A new name each time: SQLite refuses a name that another connection has just dropped.
        let trigger =
            |name: &str| sqlx::AssertSqlSafe(fail_after("INSERT").replace("after_INSERT", name));
        let mut n = 0;
        let mut saves = async || {
            n += 1;
            item(n).save(db).await.unwrap();
            item(1000 + n).save(&other_pool(db).await).await.unwrap();
        };
        saves().await;
        db.execute(trigger("first")).await.unwrap();
        refused!(db, ROWS, item(1).save(db), item(0).save(db), item(0).save(&other_pool(db).await));
        db.execute("DROP TRIGGER first").await.unwrap();
        saves().await;
        db.query(trigger("second")).execute().await.unwrap();
        refused!(db, ROWS, item(0).save(db));
        db.execute("DROP TRIGGER second").await.unwrap();
        saves().await;
        let mut tx = db.begin().await.unwrap();
        tx.execute(trigger("third")).await.unwrap();
        tx.commit().await.unwrap();
        refused!(db, ROWS, item(0).save(db));
        let mut tx = db.begin().await.unwrap();
        tx.execute("DROP TRIGGER third").await.unwrap();
        item(500).save(&mut tx).await.unwrap();
        Item { id: Some(-1), n: 0 }.delete(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        refused!(db, ROWS, item(0).save(db));
        db.execute("DROP TRIGGER third").await.unwrap();
        saves().await;
        let mut conn = db.acquire().await.unwrap();
        sqlx::raw_sql(trigger("fourth")).execute(conn.sqlite().unwrap()).await.unwrap();
        refused!(db, ROWS, item(0).save(&mut conn), item(0).save(db));
        drop(conn);
        test.passed().await;
    }

    /// Whether writes of a row that a trigger keeps find the row, outside a transaction and in one.
    macro_rules! assert_kept {
        ($db:expr, $kept:expr) => {{
            let (db, mut alone, mut in_transaction, mut many) = ($db, $kept, $kept, [$kept]);
            assert!(!alone.delete(db).await.unwrap());
            assert_eq!(alone.id, Some(1), "the row is stored");
            alone.update(db).await.expect("the row is stored");
            let mut tx = db.begin().await.unwrap();
            assert!(!in_transaction.delete(&mut tx).await.unwrap());
            tx.commit().await.unwrap();
            assert_eq!(in_transaction.id, Some(1), "the row is stored");
            assert_eq!(Model::delete_many(db, &mut many).await.unwrap(), 0);
            assert_eq!(many[0].id, Some(1), "the row is stored");
        }};
    }

    const KEEP: &str = "WHEN OLD.n = 13 BEGIN SELECT RAISE(IGNORE); END";

    #[tokio::test]
    async fn a_row_that_a_temporary_trigger_keeps_keeps_its_key() {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        table(&db, "items", "n BIGINT NOT NULL").await;
        execute(&db, "INSERT INTO items VALUES (1, 13)").await;
        for event in ["UPDATE", "DELETE"] {
            let trigger =
                format!("CREATE TEMP TRIGGER keep_{event} BEFORE {event} ON items {KEEP}");
            execute(&db, &trigger).await;
        }
        assert_kept!(&db, Item { id: Some(1), n: 13 });
    }

    #[tokio::test]
    async fn a_row_that_a_trigger_of_an_attached_database_keeps_keeps_its_key() {
        #[derive(Debug, Clone, Model)]
        #[model(table = "other.items")]
        struct Attached {
            id: Option<i64>,
            n: i64,
        }
        let db = Db::connect("sqlite::memory:").await.unwrap();
        execute(&db, "ATTACH ':memory:' AS other").await;
        // The table of the same name in the main database has no trigger.
        table(&db, "items", "n BIGINT NOT NULL").await;
        table(&db, "other.items", "n BIGINT NOT NULL").await;
        execute(&db, "INSERT INTO other.items VALUES (1, 13)").await;
        for event in ["UPDATE", "DELETE"] {
            let trigger =
                format!("CREATE TRIGGER other.keep_{event} BEFORE {event} ON items {KEEP}");
            execute(&db, &trigger).await;
        }
        assert_kept!(&db, Attached { id: Some(1), n: 13 });
    }

    #[tokio::test]
    async fn a_trigger_of_a_row_that_belongs_to_the_deleted_one_counts() {
        let test = TestDb::sqlite("raise_fail_of_child").await;
        let db = &test.db;
        table(db, "items", "n BIGINT NOT NULL UNIQUE").await;
        execute(
            db,
            "CREATE TABLE logs (id INTEGER PRIMARY KEY); INSERT INTO items VALUES (100, 100)",
        )
        .await;
        execute(
            db,
            "CREATE TABLE parts (item_id BIGINT NOT NULL REFERENCES items (id) ON DELETE CASCADE);
             INSERT INTO parts VALUES (100), (100);
             CREATE TRIGGER parts_fail AFTER DELETE ON parts BEGIN SELECT RAISE(FAIL, 'no'); END",
        )
        .await;
        let both = "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM parts)";
        refused!(db, both, Item { id: Some(100), n: 100 }.delete(db));
        test.passed().await;
    }

    #[tokio::test]
    async fn a_rowid_beyond_the_type_of_the_key_is_undone() {
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct Narrow {
            id: Option<i32>,
            n: i64,
        }
        #[derive(Debug, Clone, Model)]
        #[model(table = "items")]
        struct NarrowTold {
            id: Option<i32>,
            n: i64,
        }
        #[receiver(post_save, sender = NarrowTold, on_commit)]
        async fn narrow_told(_: PostSave<'_, NarrowTold>) {}
        let test = TestDb::sqlite("narrow_rowid").await;
        let db = &test.db;
        table(db, "items", "n BIGINT NOT NULL UNIQUE").await;
        let row = |n| Narrow { id: None, n };
        row(1).save(db).await.unwrap();
        execute(db, "INSERT INTO items VALUES (5000000000, 2)").await;
        let pool = other_pool(db).await;
        refused!(
            db,
            ROWS,
            row(3).save(db),
            row(3).insert(db),
            row(3).save(&pool),
            Narrow::insert_many(db, &mut [row(3)]),
            Narrow::insert_many(db, &mut [row(3), row(4)]),
            row(3).upsert(db, &[Narrow::N]),
            row(2).upsert(db, &[Narrow::N]),
            Narrow::get_or_create(db, row(3), &[Narrow::N]),
            NarrowTold { id: None, n: 3 }.save(db),
        );
        let mut wide = item(9);
        wide.save(db).await.unwrap();
        assert_eq!(wide.id, Some(5_000_000_001));
        test.passed().await;
    }
}

/// Like `Rate`, with a version and with receivers of what has changed.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "rates")]
struct HeardRate {
    #[model(primary_key)]
    code: String,
    n: i64,
    #[model(version)]
    version: i64,
}

static RATES: std::sync::LazyLock<common::Scene> = common::Scene::new();

#[receiver(post_save, sender = HeardRate)]
fn rate_saved(saved: PostSave<'_, HeardRate>, previous: Previous<'_, HeardRate>) {
    let was = previous.row().map(|row| row.n);
    RATES.log.push(format!("{was:?} {}", saved.created));
}

#[receiver(post_delete, sender = HeardRate)]
fn rate_deleted(_: PostDelete<'_, HeardRate>, previous: Previous<'_, HeardRate>) {
    let was = previous.row().map(|row| row.n);
    RATES.log.push(format!("{was:?} deleted"));
}

/// What a database needs before, a type of text, two keys of it, and what the program gives for them.
#[cfg(feature = "postgres")]
const TEXTS: [(&str, &str, [&str; 2], [&str; 2]); 5] = [
    ("CREATE EXTENSION citext", "CITEXT", ["eur", "usd"], ["USD", "EUR"]),
    (
        "CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE DOMAIN ext.\"Co de\" AS ext.citext;
         CREATE DOMAIN code AS ext.\"Co de\" CHECK (length(VALUE) < 4)",
        "code",
        ["eur", "usd"],
        ["Usd", "eur"],
    ),
    ("", "CHAR(5)", ["eur", "usd"], ["usd  ", "eur"]),
    ("", "VARCHAR(5)", ["eur", "usd"], ["usd", "eur"]),
    ("", "TEXT", ["eur", "usd"], ["usd", "eur"]),
];

/// A database whose operators are found although an extension is in a schema of its own.
#[cfg(feature = "postgres")]
async fn database_of_texts(test: &str, before: &str) -> common::TestDb {
    let mut test = common::TestDb::postgres(test).await;
    execute(&test.db, before).await;
    if before.contains("SCHEMA ext") {
        let set = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, ext', current_database()); END $$";
        execute(&test.db, set).await;
        test.db = Db::connect(&test.url).await.unwrap();
    }
    test
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn several_rows_are_found_by_keys_as_their_column_compares_them() {
    for (before, ty, stored, given) in TEXTS {
        let test = database_of_texts("keys_of_the_column", before).await;
        let db = &test.db;
        execute(db, &format!("CREATE TABLE rates (code {ty} PRIMARY KEY, n BIGINT NOT NULL)"))
            .await;
        let all = |ns: [i64; 2]| vec![rate(given[0], ns[0]), rate(given[1], ns[1])];
        let ns = || async {
            let rates = Rate::query("ORDER BY code").fetch_all(db).await.unwrap();
            rates.into_iter().map(|rate| rate.n).collect::<Vec<_>>()
        };
        Rate::insert_many(db, &mut stored.map(|code| rate(code, 0))).await.unwrap();
        Rate::update_many(db, &mut all([2, 1])).await.unwrap();
        assert_eq!(ns().await, [1, 2], "{ty}");
        let mut tx = db.begin().await.unwrap();
        Rate::update_many(&mut tx, &mut all([4, 3])).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(ns().await, [3, 4], "{ty}");
        // A length is no part of the comparison.
        let mut longer = vec![rate(given[0], 9), rate("usd  usd", 9)];
        let error = Rate::update_many(db, &mut longer).await.unwrap_err();
        assert!(error.is_not_found(), "{ty}: {error:?}");
        assert_eq!(ns().await, [3, 4], "{ty}");
        let mut gone = all([0, 0]);
        gone.push(rate("gbp", 0));
        assert_eq!(Rate::delete_many(db, &mut gone).await.unwrap(), 2, "{ty}");
        assert_eq!(count(db, "rates").await, 0);
        test.passed().await;
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn receivers_get_rows_that_are_found_as_their_column_compares_keys() {
    let _turn = RATES.begin().await;
    for (before, ty, stored, given) in TEXTS {
        let test = database_of_texts("keys_of_the_column_heard", before).await;
        let db = &test.db;
        execute(
            db,
            &format!(
                "CREATE TABLE rates (code {ty} PRIMARY KEY, n BIGINT NOT NULL, version BIGINT NOT NULL)"
            ),
        )
        .await;
        let heard = |code: &str, n, version| HeardRate { code: code.to_owned(), n, version };
        HeardRate::insert_many(db, &mut stored.map(|code| heard(code, 0, 1))).await.unwrap();
        RATES.log.take();
        let mut both = [heard(given[0], 2, 1), heard(given[1], 1, 1)];
        HeardRate::update_many(db, &mut both).await.unwrap();
        assert_eq!((RATES.log.take(), both[0].version), (vec!["Some(0) false".to_owned(); 2], 2));
        let mut one = heard(given[0], 3, 2);
        one.update(db).await.unwrap();
        one.n = 4;
        one.save_fields(db, &[HeardRate::N]).await.unwrap();
        one.n = 5;
        assert!(!one.save(db).await.unwrap().created);
        one.n = 6;
        assert!(!one.upsert(db, &[HeardRate::CODE]).await.unwrap().created);
        let was = |n: [i64; 4]| n.map(|n| format!("Some({n}) false")).to_vec();
        assert_eq!((RATES.log.take(), one.version), (was([2, 3, 4, 5]), 6), "{ty}");
        // A stale row is distinguished from a missing row, for one row and for several.
        let stale = &mut [heard(given[0], 9, 1), heard(given[1], 9, 2)];
        assert!(stale[0].update(db).await.unwrap_err().is_stale(), "{ty}");
        assert!(HeardRate::update_many(db, stale).await.unwrap_err().is_stale(), "{ty}");
        assert!(HeardRate::delete_many(db, stale).await.unwrap_err().is_stale(), "{ty}");
        assert!(stale[0].delete(db).await.unwrap_err().is_stale(), "{ty}");
        RATES.log.take();
        assert!(one.delete(db).await.unwrap());
        assert_eq!(HeardRate::delete_many(db, &mut both[1..]).await.unwrap(), 1, "{ty}");
        assert_eq!(RATES.log.take(), ["Some(6) deleted", "Some(1) deleted"], "{ty}");
        test.passed().await;
    }
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn the_same_row_given_twice_in_two_cases_is_refused() {
    let test = common::TestDb::postgres("row_given_in_two_cases").await;
    let db = &test.db;
    execute(db, "CREATE EXTENSION citext").await;
    execute(db, "CREATE TABLE rates (code CITEXT PRIMARY KEY, n BIGINT NOT NULL)").await;
    rate("eur", 1).insert(db).await.unwrap();
    let error = Rate::update_many(db, &mut [rate("eur", 2), rate("EUR", 3)]).await.unwrap_err();
    assert!(!error.is_not_found(), "{error:?}");
    assert_eq!(Rate::get(db, "Eur").await.unwrap().n, 1);
    let mut twice = [rate("eur", 2), rate("EUR", 3)];
    assert_eq!(Rate::delete_many(db, &mut twice).await.unwrap(), 1);
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_row_that_is_refused_is_named_if_its_column_compares_keys_in_its_own_way() {
    let test = common::TestDb::postgres("refused_as_the_column").await;
    let db = &test.db;
    execute(db, "CREATE EXTENSION citext").await;
    let check = "CREATE TABLE rates (code CITEXT PRIMARY KEY, n BIGINT NOT NULL CHECK (n < 5))";
    execute(db, check).await;
    let codes = ["a", "b", "c", "d", "e"];
    Rate::insert_many(db, &mut codes.map(|code| rate(code, 0))).await.unwrap();
    let mut rows = ["A", "B", "C", "D", "E"].map(|code| rate(code, 1));
    rows[3].n = 9;
    let error = Rate::update_many(db, &mut rows).await.unwrap_err();
    assert!(matches!(&error, Error::Row { row: 3, .. }), "{error:?}");
    test.passed().await;
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "prices")]
struct Price {
    #[model(primary_key)]
    item: i64,
    #[model(primary_key)]
    code: String,
    n: i64,
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_part_of_a_key_is_compared_as_its_column_compares_it() {
    let test = common::TestDb::postgres("part_of_a_key").await;
    let db = &test.db;
    execute(db, "CREATE EXTENSION citext").await;
    let key = "item BIGINT, code CITEXT, n BIGINT NOT NULL, PRIMARY KEY (item, code)";
    execute(db, &format!("CREATE TABLE prices ({key})")).await;
    let price = |item, code: &str, n| Price { item, code: code.to_owned(), n };
    Price::insert_many(db, &mut [price(1, "eur", 1), price(2, "eur", 2)]).await.unwrap();
    let mut given = [price(2, "EUR", 4), price(1, "Eur", 3)];
    Price::update_many(db, &mut given).await.unwrap();
    let stored = Price::query("ORDER BY item").fetch_all(db).await.unwrap();
    assert_eq!(stored, [price(1, "eur", 3), price(2, "eur", 4)]);
    assert_eq!(Price::delete_many(db, &mut given).await.unwrap(), 2);
    test.passed().await;
}

#[derive(Debug, Clone, Model)]
#[model(table = "zones")]
struct Zone {
    #[model(primary_key)]
    code: String,
    n: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "shops")]
struct Shop {
    id: Option<i64>,
    #[model(belongs_to = Zone, on_delete = cascade)]
    zone: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "stalls")]
struct Stall {
    id: Option<i64>,
    #[model(belongs_to = Zone, on_delete = cascade)]
    zone: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "drivers")]
struct Driver {
    id: Option<i64>,
    #[model(belongs_to = Zone, on_delete = set_null)]
    zone: Option<String>,
}

#[derive(Debug, Clone, Model)]
#[model(table = "riders")]
struct Rider {
    id: Option<i64>,
    #[model(belongs_to = Zone, on_delete = set_null)]
    zone: Option<String>,
}

#[derive(Debug, Clone, Model)]
#[model(table = "offices")]
struct Office {
    id: Option<i64>,
    #[model(belongs_to = Zone, on_delete = restrict)]
    zone: String,
}

static ZONES: std::sync::LazyLock<common::Scene> = common::Scene::new();

#[receiver(post_delete, sender = Shop)]
fn shop_deleted(deleted: PostDelete<'_, Shop>) {
    ZONES.log.push(format!("shop {}", deleted.instance.zone.trim_end()));
}

#[receiver(post_delete, sender = Zone)]
fn zone_deleted(deleted: PostDelete<'_, Zone>) {
    ZONES.log.push(format!("zone {}", deleted.instance.code.trim_end()));
}

#[receiver(post_save, sender = Rider)]
fn rider_saved(saved: PostSave<'_, Rider>) {
    ZONES.log.push(format!("rider {:?}", saved.instance.zone));
}

// The foreign keys are not deferred: the children go before their parents.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn children_are_found_by_keys_as_their_column_compares_them() {
    let _turn = ZONES.begin().await;
    for (before, ty, stored, given) in TEXTS {
        for many in [false, true] {
            let test = database_of_texts("children_of_the_column", before).await;
            let db = &test.db;
            execute(db, &format!("CREATE TABLE zones (code {ty} PRIMARY KEY, n BIGINT NOT NULL)"))
                .await;
            for child in ["shops", "stalls", "drivers", "riders", "offices"] {
                table(db, child, &format!("zone {ty} REFERENCES zones")).await;
            }
            let zone = |code: &str| Zone { code: code.to_owned(), n: 0 };
            Zone::insert_many(db, &mut stored.map(zone)).await.unwrap();
            for code in given {
                for child in ["shops", "stalls", "drivers", "riders"] {
                    execute(db, &format!("INSERT INTO {child} (zone) VALUES ('{code}')")).await;
                }
            }
            execute(db, "INSERT INTO offices (zone) SELECT code FROM zones").await;
            let mut zones = given.map(zone);
            zones.iter_mut().filter(|_| ty == "CITEXT").for_each(|z| z.code.make_ascii_uppercase());
            let error = match many {
                true => Zone::delete_many(db, &mut zones).await.map(drop).unwrap_err(),
                false => zones[0].delete(db).await.map(drop).unwrap_err(),
            };
            // The key is found although the column compares it in another way than Rust does.
            assert!(
                matches!(&error, sqlx_signals::Error::Restricted { key, .. } if !key.contains("one of")),
                "{ty}: {error:?}"
            );
            execute(db, "DELETE FROM offices").await;
            ZONES.log.take();
            match many {
                true => assert_eq!(Zone::delete_many(db, &mut zones).await.unwrap(), 2, "{ty}"),
                false => {
                    for zone in &mut zones {
                        assert!(zone.delete(db).await.unwrap(), "{ty}");
                    }
                }
            }
            let log = ZONES.log.take();
            let told = |what: &str| log.iter().filter(|told| told.starts_with(what)).count();
            assert_eq!((told("shop"), told("zone"), told("rider None")), (2, 2, 2), "{log:?}");
            for empty in ["zones", "shops", "stalls"] {
                assert_eq!(count(db, empty).await, 0, "{empty} {ty}");
            }
            for child in ["drivers", "riders"] {
                assert_eq!(
                    count(db, &format!("{child} WHERE zone IS NULL")).await,
                    2,
                    "{child} {ty}"
                );
            }
            test.passed().await;
        }
    }
}
