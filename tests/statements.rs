//! What one save sends to the server, and what it allocates.
#![allow(missing_docs)]

mod common;

use sqlx_signals::prelude::*;
use sqlx_signals::{AutoNow, sqlx};

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

/// Like `User`, with a receiver that writes.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Member {
    id: Option<i64>,
    name: String,
    email: String,
}

fn member(name: &str) -> Member {
    Member { id: None, name: name.to_owned(), email: String::new() }
}

#[derive(Debug, Clone, Model)]
#[model(table = "profiles")]
struct Profile {
    id: Option<i64>,
    user_id: i64,
}

#[receiver(pre_save, sender = Member)]
fn veto(save: PreSave<'_, Member>) -> Result<(), &'static str> {
    if save.instance.name == "vetoed" { Err("vetoed") } else { Ok(()) }
}

#[receiver(post_save, sender = Member)]
async fn create_profile(saved: PostSave<'_, Member>, conn: &mut Conn<'_>) -> Result<()> {
    Profile { id: None, user_id: saved.pk() }.save(conn).await?;
    Ok(())
}

/// Like `User`, with nothing but a receiver after the commit.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Guest {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Guest, on_commit)]
async fn greet(_: PostSave<'_, Guest>) {}

/// Like `User`, with a receiver that cannot fail.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Visitor {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Visitor)]
fn count_visitor(_: PostSave<'_, Visitor>) {}

/// Returns nothing, too.
#[allow(clippy::unused_unit)]
#[receiver(post_save, sender = Visitor)]
fn count_again(_: PostSave<'_, Visitor>) -> () {}

#[derive(Debug, Clone, Model)]
#[model(table = "settings")]
struct Setting {
    #[model(primary_key)]
    name: String,
    value: i64,
}

/// With columns that the library and the database set.
#[derive(Debug, Clone, Model)]
#[model(table = "pages")]
struct Page {
    id: Option<i64>,
    title: String,
    hits: i64,
    #[model(auto_now_add)]
    created_at: Micros,
    #[model(auto_now)]
    changed_at: Micros,
    #[model(generated)]
    slug: String,
    #[model(version)]
    version: i32,
}

#[derive(Debug, Clone, Copy, sqlx::Type)]
#[sqlx(transparent)]
struct Micros(i64);

impl AutoNow for Micros {
    fn at(now: std::time::SystemTime) -> Self {
        Self(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64)
    }
}

fn page(title: &str) -> Page {
    let (title, slug, now) = (title.to_owned(), String::new(), Micros(0));
    Page { id: None, title, hits: 0, created_at: now, changed_at: now, slug, version: 1 }
}

/// Like `User`, with a receiver that takes the previous row.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Audited {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Audited)]
fn audit(_: PostSave<'_, Audited>, _: Previous<'_, Audited>) {}

#[receiver(post_delete, sender = Audited)]
fn audit_delete(_: PostDelete<'_, Audited>, _: Previous<'_, Audited>) {}

/// Like `User`, with a receiver for every row of many, and one for the whole.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Counted {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Counted)]
async fn count_in(_: PostSave<'_, Counted>, _conn: &mut Conn<'_>) {}

#[receiver(post_save_batch, sender = Counted)]
fn count_batch(_: PostSaveBatch<'_, Counted>) {}

async fn tables(db: &Db) {
    common::table(
        db,
        "pages",
        "title TEXT NOT NULL UNIQUE, hits BIGINT NOT NULL, created_at BIGINT NOT NULL, changed_at BIGINT NOT NULL, slug TEXT \
         NOT NULL GENERATED ALWAYS AS (lower(title)) STORED, version INTEGER NOT NULL",
    )
    .await;
    common::table(db, "users", "name TEXT NOT NULL, email TEXT NOT NULL").await;
    common::table(db, "profiles", "user_id BIGINT NOT NULL").await;
    common::execute(db, "CREATE TABLE settings (name TEXT PRIMARY KEY, value BIGINT NOT NULL)")
        .await;
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use crate::common::proxy::{Proxy, Said};

    const INSERT_USER: &str =
        r#"INSERT INTO "users" ("name", "email") VALUES ($1, $2) RETURNING "users"."id""#;
    const INSERT_PROFILE: &str =
        r#"INSERT INTO "profiles" ("user_id") VALUES ($1) RETURNING "profiles"."id""#;

    /// What one operation sends on a warm pool, which sends nothing by itself.
    async fn said<T>(proxy: &Proxy, _: &Db, operation: impl Future<Output = Result<T>>) -> Said {
        proxy.take();
        operation.await.unwrap();
        proxy.take()
    }

    #[tokio::test]
    async fn a_save_sends_only_the_necessary_statements() {
        let test = common::TestDb::postgres("statements").await;
        tables(&test.db).await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        let mut setting = Setting { name: "a".to_owned(), value: 1 };
        let mut ann = user();
        // One connection, that has prepared every statement.
        for _ in 0..2 {
            said(&proxy, db, ann.save(db)).await;
            said(&proxy, db, user().save(db)).await;
            said(&proxy, db, member("Bob").save(db)).await;
            said(&proxy, db, setting.save(db)).await;
            said(&proxy, db, setting.delete(db)).await;
            said(&proxy, db, User::find(db, 1)).await;
        }
        let mut new = user();
        let insert = said(&proxy, db, new.save(db)).await;
        assert_eq!(
            (&insert.statements[..], insert.round_trips),
            (&[INSERT_USER.to_owned()][..], 1)
        );

        let update = said(&proxy, db, new.save(db)).await;
        assert_eq!((update.statements.len(), update.round_trips), (1, 1), "{update:?}");
        setting.name = "new".to_owned();
        for _ in 0..2 {
            let save = said(&proxy, db, setting.save(db)).await;
            assert_eq!((save.statements.len(), save.round_trips), (1, 1), "{save:?}");
        }
        let delete = said(&proxy, db, setting.delete(db)).await;
        assert_eq!(
            (&delete.statements[..], delete.round_trips),
            (&[r#"DELETE FROM "settings" WHERE "settings"."name" = $1"#.to_owned()][..], 1)
        );
        let find = said(&proxy, db, User::find(db, 1)).await;
        assert_eq!((find.statements.len(), find.round_trips), (1, 1));

        let mut bob = member("Bob");
        let with_receivers = said(&proxy, db, bob.save(db)).await;
        assert_eq!(with_receivers.statements, ["BEGIN", INSERT_USER, INSERT_PROFILE, "COMMIT"]);
        assert_eq!(with_receivers.round_trips, 4);

        let guest = || Guest { id: None, name: String::new(), email: String::new() };
        let first = said(&proxy, db, guest().save(db)).await;
        assert_eq!(first.statements.len(), 2, "the first write looks at the table: {first:?}");
        let waiting = said(&proxy, db, guest().save(db)).await;
        assert_eq!(waiting.statements, [INSERT_USER], "who only waits needs no transaction");

        let visitor = || Visitor { id: None, name: String::new(), email: String::new() };
        said(&proxy, db, visitor().save(db)).await;
        let infallible = said(&proxy, db, visitor().save(db)).await;
        assert_eq!(infallible.statements, [INSERT_USER], "who cannot fail needs no transaction");

        let vetoed =
            said(&proxy, db, async { Ok(member("vetoed").save(db).await.unwrap_err()) }).await;
        assert_eq!(vetoed.statements, [""; 0], "a veto sends nothing");
        test.passed().await;
    }

    /// The first word of each statement that an operation sends, after all statements are prepared.
    macro_rules! assert_said {
        ($proxy:expr, $db:expr, $($operation:expr => [$($word:literal)*];)*) => { $(
            let expected = [$($word),*] as [&str; _];
            let mut last = Said::default();
            // The first calls prepare. A later one looks at its table again if another test has altered one meanwhile.
            for attempt in 0..9 {
                last = said($proxy, $db, $operation).await;
                if attempt >= 2 && words_of(&last) == expected {
                    break;
                }
            }
            let words = words_of(&last);
            assert_eq!(words, expected, "{}: {last:?}", stringify!($operation));
            assert_eq!(last.round_trips, words.len(), "{}: {last:?}", stringify!($operation));
        )* };
    }

    /// The first word of each statement.
    fn words_of(said: &Said) -> Vec<&str> {
        said.statements.iter().map(|sql| sql.split(' ').next().unwrap()).collect()
    }

    #[tokio::test]
    async fn one_write_of_any_kind_is_one_statement() {
        let test = common::TestDb::postgres("statements_of_writes").await;
        tables(&test.db).await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        let mut stored = page("Stored");
        said(&proxy, db, stored.save(db)).await;
        let (mut n, unique) = (0, [Page::TITLE]);
        let mut new = || {
            n += 1;
            page(&n.to_string())
        };
        assert_said! { &proxy, db,
            stored.save_fields(db, &[Page::HITS]) => ["UPDATE"];
            stored.save_fields(db, &[Page::HITS, Page::TITLE]) => ["UPDATE"];
            stored.save_fields(db, &[]) => [];
            stored.save(db) => ["UPDATE"];
            Page { id: stored.id.map(|id| id + 1_000_000 + i64::from(fastrand::u32(..))), ..new() }.save(db) => ["UPDATE" "INSERT"];
            stored.update(db) => ["UPDATE"];
            Page::query("WHERE hits >= $1").bind(0_i64).set(Page::HITS, 5_i64).update(db) => ["UPDATE"];
            Page::query("ORDER BY id LIMIT 1").set(Page::HITS, 6_i64).update(db) => ["WITH"];
            Page::query("WHERE hits >= $1").bind(0_i64).set_sql(Page::HITS, "hits + $1", 5_i64).update(db) => ["UPDATE"];
            Page::query("").after(Page::ID, 1_i64).limit(1).fetch_all(db) => ["SELECT"];
            Page::query("WHERE hits < $1").bind(0_i64).delete(db) => ["DELETE"];
            Page::delete_by_key(db, -1) => ["DELETE"];
            Page::get_many(db, &[stored.id.unwrap(); 3]) => ["SELECT"];
            new().save(db) => ["INSERT"];
            new().upsert(db, &unique) => ["WITH"];
            stored.upsert(db, &unique) => ["WITH"];
            Page::get_or_create(db, stored.clone(), &unique) => ["SELECT"];
            Page::get_or_create(db, new(), &unique) => ["SELECT" "INSERT"];
        }
        // That no row was updated needs no explanation if the table has no trigger and is no view.
        let gone = || Setting { name: "gone".to_owned(), value: 1 };
        assert_said! { &proxy, db,
            async { Ok(gone().update(db).await.unwrap_err()) } => ["UPDATE"];
            gone().delete(db) => ["DELETE"];
        }
        // A trigger before the INSERT may drop a row, and store another. Neither an UPDATE nor a DELETE fires it.
        common::execute(
            &test.db,
            "CREATE FUNCTION drop_negative() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.user_id < 0 THEN RETURN NULL; END IF; \
             RETURN NEW; END $$",
        )
        .await;
        let trigger = "CREATE TRIGGER drop_negative BEFORE INSERT ON profiles FOR EACH ROW EXECUTE FUNCTION drop_negative()";
        common::execute(&test.db, trigger).await;
        let profile = |user_id| Profile { id: None, user_id };
        let mut old = profile(1);
        said(&proxy, db, old.insert(db)).await;
        assert_said! { &proxy, db,
            profile(1).insert(db) => ["BEGIN" "INSERT" "COMMIT"];
            profile(1).save(db) => ["BEGIN" "INSERT" "COMMIT"];
            Profile::insert_many(db, &mut vec![profile(1); 2]) => ["BEGIN" "INSERT" "COMMIT"];
            old.save(db) => ["UPDATE"];
            old.update(db) => ["UPDATE"];
            old.save_fields(db, &[Profile::USER_ID]) => ["UPDATE"];
        }
        let deleted = said(&proxy, db, old.delete(db)).await;
        assert_eq!(deleted.statements.len(), 1, "{deleted:?}");
        // Other triggers drop no new row.
        common::execute(
            &test.db,
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER touch_after AFTER INSERT OR UPDATE ON settings FOR EACH ROW EXECUTE FUNCTION touch();
             CREATE TRIGGER touch_once BEFORE INSERT ON settings EXECUTE FUNCTION touch()",
        )
        .await;
        let mut setting = Setting { name: "touched".to_owned(), value: 1 };
        let settings = |n: u32| Setting { name: format!("{n} {}", fastrand::u64(..)), value: 1 };
        assert_said! { &proxy, db,
            setting.save(db) => ["WITH"];
            settings(1).insert(db) => ["INSERT"];
            settings(1).upsert(db, &[Setting::NAME]) => ["WITH"];
            Setting::insert_many(db, &mut [settings(1), settings(2)]) => ["INSERT"];
        }
        // A row trigger before an UPDATE may skip the row, so it is looked up before whether the row is stored.
        let trigger = "CREATE TRIGGER touch_before BEFORE UPDATE ON settings FOR EACH ROW EXECUTE FUNCTION touch()";
        common::execute(db, trigger).await;
        assert_said! { &proxy, db,
            setting.save(db) => ["WITH" "UPDATE"];
            setting.update(db) => ["UPDATE"];
            setting.upsert(db, &[Setting::NAME]) => ["WITH" "UPDATE"];
            settings(1).insert(db) => ["INSERT"];
            settings(1).save(db) => ["WITH" "INSERT"];
            settings(1).upsert(db, &[Setting::NAME]) => ["WITH" "INSERT"];
            Setting::insert_many(db, &mut [settings(1), settings(2)]) => ["INSERT"];
        }
        // The previous row is read by the statement itself. The transaction is needed because the receiver may fail.
        let mut audited = Audited { id: None, name: String::new(), email: String::new() };
        said(&proxy, db, audited.save(db)).await;
        assert_said! { &proxy, db,
            audited.update(db) => ["BEGIN" "UPDATE" "COMMIT"];
            audited.save(db) => ["BEGIN" "UPDATE" "COMMIT"];
            audited.save_fields(db, &[Audited::NAME]) => ["BEGIN" "UPDATE" "COMMIT"];
            Audited { id: None, ..audited.clone() }.save(db) => ["BEGIN" "INSERT" "COMMIT"];
            audited.clone().delete(db) => ["BEGIN" "DELETE" "COMMIT"];
        }
        test.passed().await;
    }

    /// Nothing identifies the database of a connection that is borrowed from sqlx, so it looks at the table again if it finds no row.
    #[tokio::test]
    async fn a_borrowed_connection_looks_at_the_table_if_it_finds_no_row() {
        let test = common::TestDb::postgres("statements_of_borrowed").await;
        tables(&test.db).await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        let pool = db.postgres().unwrap();
        let mut conn = pool.acquire().await.unwrap();
        let mut ann = user();
        ann.save(&mut conn).await.unwrap();
        let setting = |name: &str| Setting { name: name.to_owned(), value: 1 };
        assert_said! { &proxy, db,
            user().insert(&mut conn) => ["INSERT"];
            ann.save(&mut conn) => ["UPDATE"];
            setting("a").save(&mut conn) => ["WITH"];
            setting("a").update(&mut conn) => ["UPDATE"];
            async { Ok(setting("gone").update(&mut conn).await.unwrap_err()) } => ["UPDATE" "SELECT"];
            setting("gone").delete(&mut conn) => ["DELETE" "SELECT"];
        }
        drop(conn);
        // The options of a pool identify its database.
        for _ in 0..2 {
            assert!(!setting("gone").delete(pool).await.unwrap());
            setting("gone").update(pool).await.unwrap_err();
        }
        let said = said(&proxy, db, setting("gone").delete(pool)).await;
        let statements = said.statements.iter().filter(|sql| *sql != "ping");
        assert_eq!(statements.count(), 1, "{said:?}");
        test.passed().await;
    }

    /// Raw SQL has no additional cost, except for transaction control and for sqlx's own connection in a transaction.
    #[tokio::test]
    async fn raw_sql_is_verified_only_if_it_may_have_changed_the_transaction() {
        let test = common::TestDb::postgres("statements_of_raw_sql").await;
        tables(&test.db).await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        let raw = async |conn: &mut Conn<'_>| {
            sqlx::raw_sql("SELECT 1").execute(conn.postgres().unwrap()).await.map(drop)
        };
        let (mut ann, sql) = (user(), "DELETE FROM profiles WHERE user_id = -1");
        said(&proxy, db, ann.save(db)).await;
        assert_said! { &proxy, db,
            db.execute(sql) => ["DELETE"];
            db.query(sql).execute() => ["DELETE"];
            db.execute("BEGIN; COMMIT") => ["BEGIN;" "SHOW"];
            db.transaction(async |tx| {
                tx.execute(sql).await?;
                tx.query(sql).execute().await?;
                ann.save(tx).await
            }) => ["BEGIN" "DELETE" "DELETE" "UPDATE" "COMMIT"];
        }
        // A connection that was handed out goes back to sqlx's pool, which pings it.
        let words = |said: Said| {
            let words = said.statements.iter().map(|sql| sql.split(' ').next().unwrap().to_owned());
            words.filter(|word| word != "ping").collect::<Vec<_>>()
        };
        let once = db.transaction(async |tx| Ok(raw(tx).await?));
        let once = words(said(&proxy, db, once).await);
        assert_eq!(once, ["BEGIN", "SET", "SELECT", "SHOW", "COMMIT"]);
        let often = db.transaction(async |tx| {
            raw(tx).await?;
            raw(tx).await?;
            ann.save(&mut *tx).await?;
            ann.save(&mut *tx).await?;
            Ok(raw(tx).await?)
        });
        let often = words(said(&proxy, db, often).await);
        let first = ["BEGIN", "SET", "SELECT", "SELECT", "SHOW", "UPDATE", "UPDATE"];
        assert_eq!(often, [&first[..], &["SET", "SELECT", "SHOW", "COMMIT"]].concat());
        let mut conn = db.acquire().await.unwrap();
        raw(&mut conn).await.unwrap();
        let mut guest = Guest { id: None, name: String::new(), email: String::new() };
        said(&proxy, db, guest.clone().save(db)).await;
        raw(&mut conn).await.unwrap();
        proxy.take();
        ann.save(&mut conn).await.unwrap();
        guest.save(&mut conn).await.unwrap();
        guest.save(&mut conn).await.unwrap();
        assert_eq!(words(proxy.take()), ["UPDATE", "SHOW", "INSERT", "UPDATE"]);
        test.passed().await;
    }

    #[tokio::test]
    async fn many_rows_are_few_statements() {
        let test = common::TestDb::postgres("statements_of_many").await;
        tables(&test.db).await;
        let proxy = Proxy::start(&test.url).await;
        let db = &proxy.db(&test.url).await;
        let mut users = vec![user(); 1000];
        let mut pages: Vec<_> = (0..1000).map(|n| page(&n.to_string())).collect();
        said(&proxy, db, Page::insert_many(db, &mut pages)).await;
        let mut n = 1000;
        let mut new = |count: usize| -> Vec<_> {
            n += count;
            (n - count..n).map(|n| page(&n.to_string())).collect()
        };
        let keyed = |from: i64| (from..from + 500).map(|id| User { id: Some(id), ..user() });
        let mut mixed: Vec<_> = keyed(5_000_000).flat_map(|keyed| [keyed, user()]).collect();
        let counted = |n| vec![Counted { id: None, name: String::new(), email: String::new() }; n];
        assert_said! { &proxy, db,
            async {
                users.iter_mut().for_each(|user| user.id = None);
                User::insert_many(db, &mut users).await
            } => ["INSERT"];
            Page::insert_many(db, &mut new(1000)) => ["INSERT"];
            User::insert_many(db, &mut vec![user(); 10_000]) => ["INSERT"];
            User::insert_many(db, &mut [user()]) => ["INSERT"];
            User::insert_many(db, &mut vec![user(); 20_000]) => ["BEGIN" "INSERT" "SAVEPOINT" "INSERT" "RELEASE" "COMMIT"];
            User::update_many(db, &mut users) => ["BEGIN" "UPDATE" "COMMIT"];
            Page::update_many(db, &mut pages) => ["BEGIN" "UPDATE" "COMMIT"];
            async {
                mixed.iter_mut().for_each(|user| user.id = user.id.filter(|id| *id >= 5_000_000).map(|id| id + 1000));
                User::insert_many(db, &mut mixed).await
            } => ["BEGIN" "INSERT" "SAVEPOINT" "INSERT" "RELEASE" "COMMIT"];
            Counted::insert_many(db, &mut counted(1000)) => ["BEGIN" "INSERT" "COMMIT"];
            User::delete_many(db, &mut users.clone()) => ["DELETE"];
            // The rows no longer exist. The second statement distinguishes that from a stale version.
            Page::delete_many(db, &mut pages.clone()) => ["BEGIN" "DELETE" "WITH" "COMMIT"];
            User::insert_many(db, &mut []) => [];
        }
        test.passed().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;
    use crate::common::Log;
    use sqlx_signals::sqlx::SqliteConnection;

    /// Records every written row and every commit, as SQLite itself reports them.
    async fn observed(conn: &mut SqliteConnection) -> Log {
        let log = Log::default();
        let mut handle = conn.lock_handle().await.unwrap();
        let (writes, commits, rollbacks) = (log.clone(), log.clone(), log.clone());
        handle.set_update_hook(move |change| {
            writes.push(format!("{:?} {}", change.operation, change.table))
        });
        handle.set_commit_hook(move || {
            commits.push("commit");
            true
        });
        handle.set_rollback_hook(move || rollbacks.push("rollback"));
        log
    }

    #[tokio::test]
    async fn one_save_is_one_transaction() {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        tables(&db).await;
        let log = observed(db.acquire().await.unwrap().sqlite().unwrap()).await;
        user().save(&db).await.unwrap();
        assert_eq!(log.take(), ["Insert users", "commit"]);
        member("Bob").save(&db).await.unwrap();
        assert_eq!(log.take(), ["Insert users", "Insert profiles", "commit"]);
        member("vetoed").save(&db).await.unwrap_err();
        assert_eq!(log.take(), [""; 0]);
        let mut setting = Setting { name: "a".to_owned(), value: 1 };
        setting.save(&db).await.unwrap();
        // An UPDATE that finds nothing is a transaction of its own to SQLite.
        let writes =
            |log: Vec<String>| log.into_iter().filter(|e| e != "commit").collect::<Vec<_>>();
        assert_eq!(writes(log.take()), ["Insert settings"]);
        setting.save(&db).await.unwrap();
        assert_eq!(log.take(), ["Update settings", "commit"]);
        let mut tx = db.begin().await.unwrap();
        member("Bob").save(&mut tx).await.unwrap();
        user().save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(log.take(), ["Insert users", "Insert profiles", "Insert users", "commit"]);
    }

    #[tokio::test]
    async fn many_rows_are_one_transaction() {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        tables(&db).await;
        let log = observed(db.acquire().await.unwrap().sqlite().unwrap()).await;
        let commits = || log.take().into_iter().filter(|e| e == "commit").count();
        let mut users = vec![user(); 10_000];
        User::insert_many(&db, &mut users).await.unwrap();
        assert_eq!(commits(), 1);
        User::update_many(&db, &mut users).await.unwrap();
        assert_eq!(commits(), 1);
        User::delete_many(&db, &mut users).await.unwrap();
        assert_eq!(commits(), 1);
        let mut pages: Vec<_> = (0..1000).map(|n| page(&n.to_string())).collect();
        Page::insert_many(&db, &mut pages).await.unwrap();
        assert_eq!(commits(), 1);
        users[0].save_fields(&db, &[]).await.unwrap();
        assert_eq!(log.take(), [""; 0]);
        pages[0].save_fields(&db, &[Page::HITS]).await.unwrap();
        assert_eq!(log.take(), ["Update pages", "commit"]);
    }
}
