//! How errors print, and what a program can find in them.
#![allow(missing_docs)]

mod common;

use std::error::Error as StdError;
use std::sync::Arc;

use common::{execute, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, sqlx};

type BoxError = Box<dyn StdError + Send + Sync>;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("total must not be negative,\n  but it is {0}")]
struct Negative(i64);

/// An error of a program that has several causes.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("the order was not accepted")]
    Order(#[source] Error),
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

#[derive(Debug, Clone, Model)]
#[model(table = "orders")]
struct Order {
    id: Option<i64>,
    total: i64,
    how: String,
}

fn order(total: i64, how: &str) -> Order {
    Order { id: None, total, how: how.to_owned() }
}

#[receiver(pre_save, sender = Order)]
async fn no_negative_totals(save: PreSave<'_, Order>) -> Result<(), BoxError> {
    let total = save.instance.total;
    if total >= 0 {
        return Ok(());
    }
    match save.instance.how.as_str() {
        "panic" => panic!("two\nlines"),
        "boxed" => Err(Box::new(Box::new(Negative(total)))),
        "shared" => Err(Box::new(Arc::new(Negative(total)))),
        "text" => Err("no\r\n\ntext".into()),
        "ours" => Err(Box::new(Error::other(Negative(total)))),
        "boxed ours" => Err(Box::new(Box::new(Error::other(Negative(total))))),
        _ => Err(Box::new(Negative(total))),
    }
}

#[receiver(pre_delete, sender = Order)]
fn keep_paid_orders(delete: PreDelete<'_, Order>) -> Result<(), &'static str> {
    if delete.instance.how == "paid" { Err("it is paid") } else { Ok(()) }
}

#[receiver(post_load, sender = Order)]
fn unreadable(load: PostLoad<'_, Order>) -> Result<(), &'static str> {
    if load.instance.how == "unreadable" { Err("it cannot be read") } else { Ok(()) }
}

#[receiver(post_save, sender = Order, on_commit)]
fn mail(saved: PostSave<'_, Order>) -> Result<(), Negative> {
    if saved.instance.how == "mail" { Err(Negative(-7)) } else { Ok(()) }
}

/// A customer, and an order of hers.
#[derive(Debug, Clone, Model)]
#[model(table = "customers")]
struct Customer {
    id: Option<i64>,
    total: i64,
    how: String,
}

#[receiver(post_save, sender = Customer)]
async fn first_order(saved: PostSave<'_, Customer>, conn: &mut Conn<'_>) -> Result<(), AppError> {
    let mut first = order(saved.instance.total, "");
    first.save(conn).await.map_err(AppError::Order).map(drop)
}

fn customer(total: i64) -> Customer {
    Customer { id: None, total, how: String::new() }
}

/// A receiver of every model.
#[receiver(pre_save)]
fn no_secrets(save: PreSave<'_, dyn AnyModel>) -> Result<(), Negative> {
    let is_secret = save.instance.downcast_ref::<Customer>().is_some_and(|row| row.how == "secret");
    if is_secret { Err(Negative(-13)) } else { Ok(()) }
}

#[derive(Signal)]
struct Paid {
    total: i64,
}

#[receiver(Paid)]
async fn book(paid: &Paid, conn: &mut Conn<'_>) -> Result<(), AppError> {
    order(paid.total, "").save(conn).await.map_err(AppError::Order).map(drop)
}

async fn tables(db: &Db) {
    for name in ["orders", "customers"] {
        table(db, name, "total BIGINT NOT NULL, how TEXT NOT NULL").await;
    }
    table(db, "failing", "how TEXT NOT NULL").await;
}

fn rows_key(error: &Error) -> &str {
    let Error::Row { key, .. } = error else { panic!("{error:?}") };
    key
}

/// Asserts that `{}` is one line with these words and without secrets, and that `{:#}` contains everything.
#[track_caller]
fn assert_reads(error: &Error, short: &str, long: &[&str]) {
    assert_eq!(error.to_string(), short);
    assert!(!short.contains("::") && !short.contains(".rs") && !short.contains('\n'), "{short}");
    let all = format!("{error:#}");
    let mut rest = &all[..];
    for part in long {
        let Some(at) = rest.find(part) else { panic!("`{part}` is not in its place: {all}") };
        rest = &rest[at + part.len()..];
    }
    assert_eq!(rest, "", "{all}");
}

const SAYS: &str = "total must not be negative, but it is";

on_every_database! {
    async fn a_veto_reads_as_one_line_with_the_receivers_message(db: Db) {
        tables(&db).await;
        let error = order(-1, "").save(&db).await.unwrap_err();
        assert_reads(
            &error,
            &format!("could not save `Order`: receiver `no_negative_totals`: {SAYS} -1"),
            &["could not save `Order`: receiver `errors::no_negative_totals` of `pre_save` (tests/errors.rs:", "): total must not be negative,\n  but it is -1"],
        );
        let error = order(-1, "panic").save(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "could not save `Order`: receiver `no_negative_totals`: panicked: two lines");
        let error = order(-1, "text").save(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "could not save `Order`: receiver `no_negative_totals`: no text");

        let mut paid = order(1, "paid");
        paid.save(&db).await.unwrap();
        let error = paid.delete(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "could not delete `Order`: receiver `keep_paid_orders`: it is paid");
        let mut row = order(1, "unreadable");
        row.save(&db).await.unwrap();
        let error = Order::get(&db, row.id.unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), "could not load `Order`: receiver `unreadable`: it cannot be read");
        // The error of a receiver of every model names the model whose write was refused.
        let error = Customer { id: None, total: 1, how: "secret".into() }.save(&db).await.unwrap_err();
        assert_eq!(error.to_string(), format!("could not save `Customer`: receiver `no_secrets`: {SAYS} -13"));
        assert_eq!(error.find(), Some(&Negative(-13)));
        let error = Paid { total: -2 }.send(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "could not send `Paid`: receiver `book`: the order was not accepted");
    }

    async fn a_nested_error_names_every_level_in_its_long_form(db: Db) {
        tables(&db).await;
        let error = customer(-3).save(&db).await.unwrap_err();
        assert_reads(
            &error,
            "could not save `Customer`: receiver `first_order`: the order was not accepted",
            &[
                "could not save `Customer`: receiver `errors::first_order` of `post_save` (tests/errors.rs:",
                "): the order was not accepted: could not save `Order`: receiver `errors::no_negative_totals` of `pre_save` (tests/errors.rs:",
                "): total must not be negative,\n  but it is -3",
            ],
        );
    }

    async fn the_receivers_own_error_is_found_at_any_depth(db: Db) {
        tables(&db).await;
        for how in ["", "boxed", "shared", "ours", "boxed ours"] {
            let error = order(-1, how).save(&db).await.unwrap_err();
            assert_eq!(error.find(), Some(&Negative(-1)), "{how}: {error:?}");
            assert!(error.find::<sqlx::Error>().is_none());
        }
        let error = order(-1, "").save(&db).await.unwrap_err();
        assert!(error.source().unwrap().is::<Negative>(), "the source is the receiver's own error");

        // From inside a receiver: the outermost error of the type is found.
        let error = customer(-3).save(&db).await.unwrap_err();
        assert_eq!(error.find(), Some(&Negative(-3)));
        assert!(matches!(error.find(), Some(AppError::Order(_))));

        // One of several rows.
        let mut rows = [customer(1), customer(-4)];
        let error = Customer::insert_many(&db, &mut rows).await.unwrap_err();
        assert!(matches!(error, Error::Row { row: 1, .. }) && error.find() == Some(&Negative(-4)), "{error:?}");
        let key = rows_key(&error);
        assert_eq!(error.to_string(), format!("could not insert row 1, `Customer` {key}: receiver `first_order`: the order was not accepted"));
        assert!(error.source().unwrap().is::<Error>(), "the source is the error of the row, and no box of it");

        let error = Order::insert_many(&db, &mut [order(1, ""), order(-5, "")]).await.unwrap_err();
        assert_eq!(error.to_string(), format!("could not insert row 1, `Order` without a key: receiver `no_negative_totals`: {SAYS} -5"));
        assert_eq!(error.find(), Some(&Negative(-5)));

        let error = Paid { total: -5 }.send(&db).await.unwrap_err();
        assert_eq!(error.find(), Some(&Negative(-5)));
        let results = Paid { total: -6 }.send_robust(&db).await;
        let [(_, Err(error))] = &results[..] else { panic!("{results:?}") };
        assert_eq!(error.find(), Some(&Negative(-6)));
        assert!(error.to_string().starts_with("receiver `book` of `Paid` failed: the order"), "{error}");
        let long = format!("{error:#}");
        assert!(long.starts_with("receiver `errors::book` of `Paid` (tests/errors.rs:"), "{long}");

        // After the commit.
        let mut tx = db.begin().await.unwrap();
        order(1, "mail").save(&mut tx).await.unwrap();
        tx.on_commit(async { Err::<(), _>(Negative(-8)) });
        tx.on_commit(async { Err::<(), _>(AppError::Order(Error::other(Negative(-9)))) });
        let committed = tx.commit().await.unwrap();
        let found: Vec<_> = committed.errors.iter().map(Error::find::<Negative>).collect();
        assert_eq!(found, [Some(&Negative(-7)), Some(&Negative(-8)), Some(&Negative(-9))]);
        let said = committed.errors[0].to_string();
        assert_eq!(said, format!("receiver `mail` of the save of `Order` failed: {SAYS} -7"));
    }

    async fn a_rolled_back_transaction_says_why_and_keeps_the_error(db: Db) {
        tables(&db).await;
        let mut tx = db.begin().await.unwrap();
        customer(-3).save(&mut tx).await.unwrap_err();
        // The first failure counts.
        order(-1, "").save(&mut tx).await.unwrap_err();
        let error = tx.commit().await.unwrap_err();
        assert_reads(
            &error,
            "the transaction was rolled back: could not save `Customer`: receiver `first_order`: the order was not accepted",
            &[
                "the transaction was rolled back: could not save `Customer`: receiver `errors::first_order` of `post_save` (tests/errors.rs:",
                "): the order was not accepted: could not save `Order`: receiver `errors::no_negative_totals` of `pre_save` (tests/errors.rs:",
                "): total must not be negative,\n  but it is -3",
            ],
        );
        assert_eq!(error.find(), Some(&Negative(-3)));
        assert!(matches!(error.find(), Some(AppError::Order(_))));

        // A savepoint; several rows; a signal.
        let mut tx = db.begin().await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        Customer::insert_many(&mut savepoint, &mut [customer(-4)]).await.unwrap_err();
        let error = savepoint.commit().await.unwrap_err();
        assert!(error.is_rolled_back() && error.find() == Some(&Negative(-4)), "{error:?}");
        Paid { total: -5 }.send(&mut tx).await.unwrap_err();
        let error = tx.commit().await.unwrap_err();
        assert!(error.is_rolled_back() && error.find() == Some(&Negative(-5)), "{error:?}");
        assert_eq!(error.to_string(), "the transaction was rolled back: could not send `Paid`: receiver `book`: the order was not accepted");

        // A receiver that returns an error of its own for a statement that failed.
        let mut tx = db.begin().await.unwrap();
        Failing { id: None, how: "sql".into() }.save(&mut tx).await.unwrap_err();
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(error.find(), Some(AppError::Sql(_))), "{error:?}");
        assert!(error.to_string().starts_with("the transaction was rolled back: could not save `Failing`: receiver `fail`: "), "{error}");

        // A model without receivers.
        table(&db, "versioned", "version BIGINT NOT NULL").await;
        let mut tx = db.begin().await.unwrap();
        let mut row = Versioned { id: Some(1), version: 1 };
        row.insert(&mut tx).await.unwrap();
        row.insert(&mut tx).await.unwrap_err();
        let error = tx.commit().await.unwrap_err();
        assert!(error.to_string().starts_with("the transaction was rolled back: could not "), "{error}");
        assert!(error.to_string().contains("`Versioned`"), "{error}");

        // A statement without a model.
        let mut tx = db.begin().await.unwrap();
        tx.execute("INSERT INTO nowhere VALUES (1)").await.unwrap_err();
        let error = tx.commit().await.unwrap_err();
        assert!(error.to_string().starts_with("the transaction was rolled back: a statement failed: "), "{error}");
        let Error::RolledBack { reason } = &error else { panic!("{error:?}") };
        assert!(reason.contains("nowhere") && error.database_error().unwrap().message().contains("nowhere"));

        // A program's own error around it.
        let error = Error::other(AppError::Order(error));
        assert!(error.is_rolled_back() && error.database_error().is_some());
    }
}

#[derive(Debug, Clone, Model)]
#[model(table = "failing")]
struct Failing {
    id: Option<i64>,
    how: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "versioned")]
struct Versioned {
    id: Option<i64>,
    #[model(version)]
    version: i64,
}

/// The error that a row asks for.
async fn failure(how: &str, conn: &mut Conn<'_>) -> Result<()> {
    match how {
        "unique" => {
            let insert = "INSERT INTO keys VALUES (1)";
            conn.query(insert).execute().await?;
            conn.query(insert).execute().await.map(drop)
        }
        "not found" => Failing::get(conn, -1).await.map(drop),
        "no row" => Err(sqlx::Error::RowNotFound.into()),
        "stale" => {
            let mut row = Versioned { id: None, version: 1 };
            row.save(&mut *conn).await?;
            row.version = 7;
            row.save(conn).await.map(drop)
        }
        "timeout" => Err(sqlx::Error::PoolTimedOut.into()),
        _ => Err(Error::other("nothing in particular")),
    }
}

#[receiver(post_save, sender = Failing)]
async fn fail(saved: PostSave<'_, Failing>, conn: &mut Conn<'_>) -> Result<(), AppError> {
    if saved.instance.how == "sql" {
        return Err(conn
            .query("INSERT INTO nowhere VALUES (1)")
            .execute()
            .await
            .map_err(|error| match error {
                Error::Database(error) => AppError::Sql(error),
                error => panic!("{error:?}"),
            })
            .unwrap_err());
    }
    failure(&saved.instance.how, conn).await.map_err(AppError::Order)
}

#[derive(Debug, Clone, Model)]
#[model(table = "around")]
struct Around {
    id: Option<i64>,
    how: String,
}

#[receiver(post_save, sender = Around)]
async fn save_the_inner(saved: PostSave<'_, Around>, conn: &mut Conn<'_>) -> Result<()> {
    Failing { id: None, how: saved.instance.how.clone() }.save(conn).await.map(drop)
}

fn predicates(error: &Error) -> Vec<&'static str> {
    let all: [(&str, bool); 9] = [
        ("not found", error.is_not_found()),
        ("stale", error.is_stale()),
        ("unique", error.is_unique_violation()),
        ("recursion", error.is_recursion()),
        ("rolled back", error.is_rolled_back()),
        ("deadlock", error.is_deadlock()),
        ("serialization", error.is_serialization_failure()),
        ("busy", error.is_busy()),
        ("retryable", error.is_retryable()),
    ];
    all.into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name).collect()
}

/// An error as it comes out of receivers, rows, transactions and errors of the program.
fn wrapped(error: impl Fn() -> Error) -> Vec<Error> {
    vec![
        error(),
        Error::other(error()),
        Error::other(Box::new(error())),
        Error::other(Arc::new(error())),
        Error::other(AppError::Order(error())),
        Error::Row {
            verb: "insert",
            model: "Order",
            row: 0,
            key: "1".into(),
            source: Box::new(error()),
        },
    ]
}

on_every_database! {
    async fn predicates_look_through_the_whole_chain(db: Db) {
        for name in ["failing", "around"] {
            table(&db, name, "how TEXT NOT NULL").await;
        }
        table(&db, "versioned", "version BIGINT NOT NULL").await;
        execute(&db, "CREATE TABLE keys (id BIGINT PRIMARY KEY)").await;
        for (how, holds) in [
            ("unique", &["unique"][..]),
            ("not found", &["not found"]),
            ("no row", &["not found"]),
            ("stale", &["stale"]),
            ("timeout", &["busy", "retryable"]),
            ("nothing", &[]),
        ] {
            let mut around = [Around { id: None, how: how.into() }];
            for error in [
                around[0].save(&db).await.unwrap_err(),
                Around::insert_many(&db, &mut around).await.unwrap_err(),
            ] {
                assert_eq!(predicates(&error), holds, "{how}: {error:?}");
                assert_eq!(predicates(&Error::other(AppError::Order(error))), holds, "{how}");
            }
            let mut tx = db.begin().await.unwrap();
            around[0].save(&mut tx).await.unwrap_err();
            let error = tx.commit().await.unwrap_err();
            let found: Vec<_> = predicates(&error).into_iter().filter(|p| *p != "rolled back").collect();
            assert!(error.is_rolled_back());
            assert_eq!(found, holds, "{how}: {error:?}");
        }
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;

    async fn code(db: &Db, sql: &'static str) -> Error {
        db.execute(sql).await.unwrap_err()
    }

    #[tokio::test]
    async fn error_codes_of_postgres_are_distinguished() {
        let test = common::TestDb::postgres(concat!(module_path!(), "::codes")).await;
        for (sqlstate, holds) in [
            ("40P01", &["deadlock", "retryable"][..]),
            ("40001", &["serialization", "retryable"]),
            ("55P03", &["busy", "retryable"]),
            ("53300", &["busy", "retryable"]),
            ("23505", &["unique"]),
            ("00517", &[]),
            ("57014", &[]),
        ] {
            let sql = format!("DO $$ BEGIN RAISE 'x' USING ERRCODE = '{sqlstate}'; END $$");
            let sql: &'static str = sql.leak();
            assert_eq!(predicates(&code(&test.db, sql).await), holds, "{sqlstate}");
        }
        test.passed().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_deadlock_and_a_serialization_failure_are_retryable() {
        let test = common::TestDb::postgres(concat!(module_path!(), "::deadlock")).await;
        let db = &test.db;
        execute(db, "CREATE TABLE counter (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)").await;
        execute(db, "INSERT INTO counter VALUES (1, 0), (2, 0)").await;
        let (mut a, mut b) = (db.begin().await.unwrap(), db.begin().await.unwrap());
        a.execute("UPDATE counter SET n = 1 WHERE id = 1").await.unwrap();
        b.execute("UPDATE counter SET n = 2 WHERE id = 2").await.unwrap();
        let (first, second) =
            tokio::join!(a.execute("UPDATE counter SET n = 1 WHERE id = 2"), async {
                let done = b.execute("UPDATE counter SET n = 2 WHERE id = 1").await;
                if done.is_err() {
                    b.rollback().await.unwrap();
                }
                done
            });
        let error = first.err().or(second.err()).expect("one of them is the victim");
        assert_eq!(predicates(&error), ["deadlock", "retryable"]);
        drop(a);

        let (mut a, mut b) = (db.begin().await.unwrap(), db.begin().await.unwrap());
        for tx in [&mut a, &mut b] {
            tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
            tx.query("SELECT n FROM counter").fetch_all::<(i64,)>().await.unwrap();
        }
        a.execute("UPDATE counter SET n = 3 WHERE id = 1").await.unwrap();
        a.commit().await.unwrap();
        let error = b.execute("UPDATE counter SET n = 4 WHERE id = 1").await.unwrap_err();
        assert_eq!(predicates(&error), ["serialization", "retryable"]);
        // An ignored error is still the reason that makes the transaction retryable.
        let error = b.commit().await.unwrap_err();
        assert_eq!(predicates(&error), ["rolled back", "serialization", "retryable"]);
        test.passed().await;
    }
}

#[cfg(feature = "sqlite")]
mod on_sqlite {
    use super::*;
    use sqlx::Connection;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};

    #[tokio::test]
    async fn a_locked_database_is_busy() {
        let test = common::TestDb::sqlite(concat!(module_path!(), "::busy")).await;
        let options = SqliteConnectOptions::new()
            .filename(test.name())
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(std::time::Duration::ZERO);
        let mut one = SqliteConnection::connect_with(&options).await.unwrap();
        let mut two = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("CREATE TABLE counter (n BIGINT)").execute(&mut one).await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT n FROM counter").execute(&mut two).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE; INSERT INTO counter VALUES (1)")
            .execute(&mut one)
            .await
            .unwrap();
        let insert = "INSERT INTO counter VALUES (2)";
        for error in wrapped(|| sqlx::Error::PoolTimedOut.into()) {
            assert_eq!(predicates(&error), ["busy", "retryable"]);
        }
        let busy: Error = sqlx::raw_sql(insert).execute(&mut two).await.unwrap_err().into();
        assert_eq!(predicates(&busy), ["busy", "retryable"], "{busy:?}");
        sqlx::raw_sql("COMMIT").execute(&mut one).await.unwrap();
        // What `two` has read is not what is stored now.
        let snapshot: Error = sqlx::raw_sql(insert).execute(&mut two).await.unwrap_err().into();
        assert_eq!(predicates(&snapshot), ["serialization", "busy", "retryable"], "{snapshot:?}");
        drop((one, two));
        test.passed().await;
    }
}

#[test]
fn every_error_reads_as_one_line_and_keeps_its_causes() {
    let samples: Vec<Error> = vec![
        Error::NotFound { model: "User", key: "WHERE a = $1\n  AND b = $2".into() },
        Error::Stale { model: "User", key: "7".into(), version: 1 },
        Error::Restricted {
            model: "User",
            key: "7".into(),
            by: "Invoice",
            column: "customer",
            rows: Some(2),
        },
        Error::NotStored { model: "User" },
        Error::RolledBack { reason: "one\ntwo".into() },
        Error::CommitUnknown(sqlx::Error::Protocol("a\nb".into())),
        Error::CommitNotObservable { model: "User", receiver: "shop::mail::welcome" },
        Error::Recursion {
            chain: "save of `A` → `shop::one` → save of `B` → `shop::two` → save of `A`".into(),
            limit: 2,
        },
        Error::WouldDeadlock { receiver: "shop::mail::welcome", site: None },
        Error::OnlyRehearsed { receiver: "shop::mail::welcome" },
        Error::NotLinked { receiver: "shop::mail::welcome" },
        Error::Check { findings: vec!["one".into(), "two".into()] },
        Error::Database(sqlx::Error::Protocol("a\nb".into())),
        Error::other("a\r\nb"),
    ];
    for error in &samples {
        let text = error.to_string();
        assert!(!text.contains("shop::") && !text.contains('\n') && !text.contains('\r'), "{text}");
        if format!("{error:?}").contains("shop::") {
            assert!(format!("{error:#}").contains("shop::"), "{error:#}");
        }
    }
    let text = |i: usize| samples[i].to_string();
    assert_eq!(text(0), "no such `User`: WHERE a = $1 AND b = $2");
    assert_eq!(
        text(2),
        "`User` 7 cannot be deleted: 2 rows of `Invoice` refer to it by `customer` (on_delete = restrict)"
    );
    assert_eq!(text(4), "the transaction was rolled back: one two");
    assert!(
        text(5).ends_with(
            "whether it is stored is unknown: encountered unexpected or invalid data: a b"
        )
    );
    assert_eq!(
        text(7),
        "receivers save in a circle, 2 levels deep: save of `A` → `one` → save of `B` → `two` → save of `A`"
    );
    assert_eq!(text(11), "the check of the program and its database found: one; two");
    assert_eq!(
        format!("{:#}", samples[11]),
        "the check of the program and its database found:\n- one\n- two"
    );
    for error in wrapped(|| Error::Stale { model: "User", key: "7".into(), version: 1 }) {
        assert_eq!(predicates(&error), ["stale"]);
    }
    // The unknown outcome of a COMMIT outweighs its cause.
    assert_eq!(
        predicates(&Error::other(Error::CommitUnknown(sqlx::Error::PoolTimedOut))),
        ["busy"]
    );
}

/// A circle of receivers is listed once, and not once for each level around it.
#[derive(Debug, Clone, Model)]
#[model(table = "circles")]
struct Circle {
    id: Option<i64>,
}

#[receiver(post_save, sender = Circle)]
async fn again(_: PostSave<'_, Circle>, conn: &mut Conn<'_>) -> Result<()> {
    Circle { id: None }.save(conn).await.map(drop)
}

on_every_database! {
    async fn a_recursion_reads_as_one_line(db: Db) {
        let id = if db.kind() == DatabaseKind::Sqlite { "INTEGER" } else { "BIGSERIAL" };
        execute(&db, &format!("CREATE TABLE circles (id {id} PRIMARY KEY)")).await;
        let error = Circle { id: None }.save(&db).await.unwrap_err();
        let text = error.to_string();
        let start = "could not save `Circle`: receivers save in a circle, 16 levels deep: save of `Circle` → `again` → save of";
        assert!(text.starts_with(start) && text.matches("could not save").count() == 1, "{text}");
        assert_eq!(format!("{error:#}").matches("could not save").count(), 16);
        assert!(error.is_recursion());
    }
}
