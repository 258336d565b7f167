//! Raw SQL that begins and ends transactions: nothing is reported as stored that is not stored.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, another, cancelled_after, count, execute, one_connection, table};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error, sqlx};

/// A model without receivers.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct Plain {
    id: Option<i64>,
    text: String,
}

/// A model whose receivers wait for the end of the transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    text: String,
}

/// A model whose receiver writes in the transaction.
#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Written {
    id: Option<i64>,
    text: String,
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(post_save, sender = Note, on_commit)]
fn stored(saved: PostSave<'_, Note>) {
    SCENE.log.push(format!("stored {}", saved.instance.text));
}

#[receiver(post_save, sender = Written)]
async fn runs_sql(saved: PostSave<'_, Written>, conn: &mut Conn<'_>) -> Result<()> {
    let sql = saved.instance.text.clone();
    let Some((way, sql)) = sql.split_once(':') else { return Ok(()) };
    match way {
        // An error that a receiver ignores must not be lost.
        "execute" => _ = conn.execute(sqlx::AssertSqlSafe(sql)).await,
        "query" => _ = conn.query(sqlx::AssertSqlSafe(sql)).execute().await,
        _ => _ = by_sqlx(conn, sql).await,
    }
    Ok(())
}

fn plain(text: &str) -> Plain {
    Plain { id: None, text: text.to_owned() }
}

fn note(text: &str) -> Note {
    Note { id: None, text: text.to_owned() }
}

async fn notes(db: &Db) -> impl Drop {
    table(db, "notes", "text TEXT NOT NULL UNIQUE").await;
    SCENE.begin().await
}

async fn texts(db: &Db) -> Vec<String> {
    let rows: Vec<(String,)> =
        db.query("SELECT text FROM notes ORDER BY id").fetch_all().await.unwrap();
    rows.into_iter().map(|(text,)| text).collect()
}

/// Runs SQL on sqlx's own connection.
async fn by_sqlx(conn: &mut Conn<'_>, sql: &str) -> Result<(), sqlx::Error> {
    let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
    match conn.kind() {
        DatabaseKind::Sqlite => sql.execute(conn.sqlite().unwrap()).await.map(drop),
        DatabaseKind::Postgres => sql.execute(conn.postgres().unwrap()).await.map(drop),
    }
}

/// The statements that end a transaction.
fn endings(kind: DatabaseKind) -> &'static [&'static str] {
    match kind {
        DatabaseKind::Sqlite => {
            &["ROLLBACK", "COMMIT", "END", "-- why\nROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"]
        }
        DatabaseKind::Postgres => &[
            "ROLLBACK",
            "COMMIT",
            "END",
            "ABORT",
            "/* why */ ROLLBACK",
            "ROLLBACK AND CHAIN",
            "COMMIT AND CHAIN",
            "COMMIT; BEGIN",
            "SELECT 1; ROLLBACK; START TRANSACTION",
        ],
    }
}

/// Runs something in a transaction, or in a savepoint in it, which is then ended.
macro_rules! inside {
    ($tx:ident, $nested:expr, |$conn:ident| $work:block, |$savepoint:ident| $end:block) => {
        if $nested {
            let mut savepoint = $tx.begin().await.unwrap();
            {
                let $conn: &mut Conn<'_> = &mut savepoint;
                $work
            }
            let $savepoint = savepoint;
            $end
        } else {
            let $conn: &mut Conn<'_> = &mut $tx;
            $work
        }
    };
}

/// A pool of one connection, so that every call uses the same one.
async fn one(db: &Db) -> Db {
    one_connection(db).await
}

/// Begins a savepoint that is never ended.
async fn leave_savepoint(conn: &mut Conn<'_>, by_sqlx: bool) {
    use sqlx::Connection;
    match (by_sqlx, conn.kind()) {
        (false, _) => std::mem::forget(conn.begin().await.unwrap()),
        (true, DatabaseKind::Sqlite) => {
            std::mem::forget(conn.sqlite().unwrap().begin().await.unwrap());
        }
        (true, DatabaseKind::Postgres) => {
            std::mem::forget(conn.postgres().unwrap().begin().await.unwrap());
        }
    }
}

/// The next calls through the pool are stored, and so are those on its connection.
async fn is_sound(db: &Db, pool: &Db) {
    SCENE.log.take();
    note("next").save(pool).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    note("then").save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(SCENE.log.take(), ["stored next", "stored then"]);
    assert_eq!(texts(db).await, ["next", "then"]);
    db.execute("DELETE FROM notes").await.unwrap();
}

on_every_database! {
    async fn transaction_control_is_refused_inside_a_transaction(db: Db) {
        let _turn = notes(&db).await;
        let more = ["BEGIN", "SAVEPOINT a", "RELEASE a", "ROLLBACK TO a", "PREPARE TRANSACTION 'x'", "INSERT INTO notes (text) VALUES ('x'); COMMIT"];
        for sql in endings(db.kind()).iter().chain(&more).copied() {
            for by_query in [false, true] {
                for nested in [false, true] {
                    let mut tx = db.begin().await.unwrap();
                    note("a").save(&mut tx).await.unwrap();
                    inside!(tx, nested, |conn| {
                        let refused = match by_query {
                            true => conn.query(sql).execute().await.unwrap_err(),
                            false => conn.execute(sql).await.unwrap_err(),
                        };
                        assert!(matches!(refused, Error::TransactionControl { .. }), "{sql}: {refused:?}");
                        plain("after").save(&mut *conn).await.unwrap();
                    }, |savepoint| {
                        assert!(savepoint.commit().await.unwrap_err().is_rolled_back());
                        tx.execute(sql).await.unwrap_err();
                    });
                    let error = tx.commit().await.unwrap_err();
                    assert!(error.is_rolled_back() && error.to_string().contains("raw SQL"), "{sql}: {error}");
                    assert_eq!((SCENE.log.take(), texts(&db).await), (vec![], vec![]), "{sql}");
                }
            }
        }
        // SQL that only looks like transaction control is run.
        let mut tx = db.begin().await.unwrap();
        tx.execute("INSERT INTO notes (text) VALUES ('; COMMIT;') -- ; ROLLBACK").await.unwrap();
        let (text,): (String,) = tx
            .query("SELECT CASE WHEN 1 = 1 THEN text END FROM notes /* ; COMMIT */ WHERE text <> $1")
            .bind("; ROLLBACK")
            .fetch_one()
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!((text.as_str(), count(&db, "notes").await), ("; COMMIT;", 1));
    }

    async fn a_condition_cannot_end_the_transaction(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = db.begin().await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        Plain::query("WHERE id > $1; ROLLBACK").bind(0).fetch_all(&mut tx).await.unwrap_err();
        Plain::query("WHERE id > $1; ROLLBACK").bind(0).count(&mut tx).await.unwrap_err();
        let _ = tx.commit().await;
        assert_eq!(SCENE.log.take().len(), texts(&db).await.len());
        Plain::query("WHERE id > $1; ROLLBACK").bind(0).delete(&db).await.unwrap_err();
        plain("b").save(&db).await.unwrap();
        assert!(texts(&db).await.contains(&"b".to_owned()));
    }

    async fn a_transaction_that_raw_sqlx_ends_is_detected(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        for sql in endings(db.kind()) {
            for nested in [false, true] {
                for after in 0..3 {
                    let mut tx = pool.begin().await.unwrap();
                    note("a").save(&mut tx).await.unwrap();
                    inside!(tx, nested, |conn| {
                        by_sqlx(conn, sql).await.unwrap();
                        let noticed = match after {
                            0 => None,
                            1 => Some(note("late").save(&mut *conn).await.unwrap_err()),
                            _ => Some(conn.begin().await.map(drop).unwrap_err()),
                        };
                        assert!(noticed.is_none_or(|error| error.is_rolled_back()), "{sql}");
                    }, |savepoint| {
                        assert!(savepoint.commit().await.unwrap_err().is_rolled_back(), "{sql}");
                    });
                    let error = tx.commit().await.unwrap_err();
                    assert!(error.is_rolled_back(), "{sql}: {error:?}");
                    assert_eq!(SCENE.log.take(), [""; 0], "{sql}");
                    // What a raw COMMIT has stored is stored, and nothing that came after it.
                    let commits = sql.contains("COMMIT") || sql.contains("END");
                    assert_eq!(texts(&db).await, if commits { vec!["a"] } else { vec![] }, "{sql}");
                    // The connection is usable.
                    note("next").save(&pool).await.unwrap();
                    assert_eq!(SCENE.log.take(), ["stored next"], "{sql}");
                    db.execute("DELETE FROM notes").await.unwrap();
                }
            }
        }
    }

    async fn a_transaction_that_sqlx_has_ended_can_be_dropped_or_rolled_back(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        for sql in endings(db.kind()) {
            for drops in [false, true] {
                for nested in [false, true] {
                    let mut tx = pool.begin().await.unwrap();
                    inside!(tx, nested, |conn| { by_sqlx(conn, sql).await.unwrap() }, |savepoint| {
                        match drops {
                            true => drop(savepoint),
                            false => _ = savepoint.rollback().await,
                        }
                    });
                    match drops {
                        true => drop(tx),
                        false => _ = tx.rollback().await,
                    }
                    note("next").save(&pool).await.unwrap();
                    let mut tx = pool.begin().await.unwrap();
                    note("then").save(&mut tx).await.unwrap();
                    tx.commit().await.unwrap();
                    assert_eq!(SCENE.log.take(), ["stored next", "stored then"], "{sql}");
                    assert_eq!(texts(&db).await, ["next", "then"], "{sql}");
                    db.execute("DELETE FROM notes").await.unwrap();
                }
            }
        }
    }

    async fn a_raw_savepoint_around_a_save_is_detected(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = db.begin().await.unwrap();
        by_sqlx(&mut tx, "SAVEPOINT a").await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        let undone = by_sqlx(&mut tx, "ROLLBACK TO SAVEPOINT a").await;
        let committed = tx.commit().await;
        assert!(undone.is_err() || committed.is_err());
        assert_eq!(SCENE.log.take().len(), texts(&db).await.len(), "told exactly of what is stored");
        db.execute("DELETE FROM notes").await.unwrap();
        // A savepoint that the program begins and ends before the next save has no effect on it.
        let mut tx = db.begin().await.unwrap();
        note("b").save(&mut tx).await.unwrap();
        by_sqlx(&mut tx, "SAVEPOINT a").await.unwrap();
        by_sqlx(&mut tx, "INSERT INTO notes (text) VALUES ('undone')").await.unwrap();
        by_sqlx(&mut tx, "ROLLBACK TO SAVEPOINT a").await.unwrap();
        by_sqlx(&mut tx, "RELEASE SAVEPOINT a").await.unwrap();
        note("c").save(&mut tx).await.unwrap();
        by_sqlx(&mut tx, "INSERT INTO notes (text) VALUES ('d')").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["stored b", "stored c"]);
        assert_eq!(texts(&db).await, ["b", "c", "d"]);
    }

    async fn sqlx_can_be_used_in_transactions_and_savepoints(db: Db) {
        let _turn = notes(&db).await;
        let mut tx = db.begin().await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        by_sqlx(&mut tx, "INSERT INTO notes (text) VALUES ('b')").await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        by_sqlx(&mut savepoint, "INSERT INTO notes (text) VALUES ('undone')").await.unwrap();
        savepoint.rollback().await.unwrap();
        by_sqlx(&mut tx, "INSERT INTO notes (text) VALUES ('c')").await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        by_sqlx(&mut savepoint, "INSERT INTO notes (text) VALUES ('dropped')").await.unwrap();
        drop(savepoint);
        by_sqlx(&mut tx, "INSERT INTO notes (text) VALUES ('d')").await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        by_sqlx(&mut savepoint, "INSERT INTO notes (text) VALUES ('e')").await.unwrap();
        note("f").save(&mut savepoint).await.unwrap();
        savepoint.commit().await.unwrap();
        note("g").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["stored a", "stored f", "stored g"]);
        assert_eq!(texts(&db).await, ["a", "b", "c", "d", "e", "f", "g"]);
    }

    async fn a_receiver_that_ends_the_transaction_is_detected(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        for sql in endings(db.kind()) {
            for way in ["execute", "query", "sqlx"] {
                let mut row = Written { id: None, text: format!("{way}:{sql}") };
                let error = row.save(&pool).await.unwrap_err();
                assert!(error.is_rolled_back() || matches!(error, Error::TransactionControl { .. }), "{way} {sql}: {error:?}");
                assert_eq!(row.id, None);
                let mut tx = pool.begin().await.unwrap();
                note("a").save(&mut tx).await.unwrap();
                let _ = Written { id: None, text: format!("{way}:{sql}") }.save(&mut tx).await;
                assert!(tx.commit().await.unwrap_err().is_rolled_back(), "{way} {sql}");
                assert_eq!(SCENE.log.take(), [""; 0], "{way} {sql}");
                if way != "sqlx" {
                    assert_eq!(texts(&db).await, [""; 0], "{way} {sql}");
                }
                db.execute("DELETE FROM notes").await.unwrap();
                plain("next").save(&pool).await.unwrap();
                assert_eq!(texts(&db).await, ["next"]);
                db.execute("DELETE FROM notes").await.unwrap();
            }
        }
    }

    async fn sql_that_leaves_a_transaction_open_is_rolled_back(db: Db) {
        let _turn = notes(&db).await;
        let insert = "INSERT INTO notes (text) VALUES ('x')";
        let open = [
            format!("BEGIN; {insert}; INSERT INTO nowhere VALUES (1); COMMIT"),
            format!("BEGIN; {insert}"),
            format!("SELECT 1; BEGIN; {insert}; SAVEPOINT a; {insert}"),
            format!("BEGIN; {insert}; COMMIT; BEGIN; INSERT INTO nowhere VALUES (1)"),
            "/* why */ BEGIN".to_owned(),
        ];
        for (kept, pool) in [(true, another(&db, Db::options()).await), (false, one(&db).await)] {
            for sql in &open {
                for by_query in [false, true] {
                    let sql_text = sql;
                    let sql = sqlx::AssertSqlSafe(sql.clone());
                    let done = match by_query {
                        true => pool.query(sql).execute().await,
                        false => pool.execute(sql).await,
                    };
                    done.unwrap_err();
                    let stored = texts(&db).await;
                    db.execute("DELETE FROM notes").await.unwrap();
                    note("next").save(&pool).await.unwrap();
                    let mut tx = pool.begin().await.unwrap();
                    note("then").save(&mut tx).await.unwrap();
                    tx.commit().await.unwrap();
                    assert_eq!(texts(&db).await, ["next", "then"], "{kept} {sql_text}");
                    assert_eq!(SCENE.log.take(), ["stored next", "stored then"]);
                    let commits = sql_text.contains("COMMIT; BEGIN") && (!by_query || db.kind() == DatabaseKind::Sqlite);
                    assert_eq!(stored.len(), usize::from(commits), "{sql_text}");
                    db.execute("DELETE FROM notes").await.unwrap();
                }
            }
            // SQL that ends the transaction that it begins is stored.
            pool.execute(sqlx::AssertSqlSafe(format!("BEGIN; {insert}; COMMIT"))).await.unwrap();
            assert_eq!(texts(&db).await, ["x"]);
            db.execute("DELETE FROM notes").await.unwrap();
        }
    }

    async fn dropped_sql_leaves_no_transaction_open(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        let slow = match db.kind() {
            DatabaseKind::Sqlite => "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT max(i) FROM n",
            DatabaseKind::Postgres => "BEGIN; SELECT pg_sleep(0.1)",
        };
        for pending in 0..6 {
            drop(cancelled_after(pool.execute(slow), pending).await);
            note("next").save(&pool).await.unwrap();
            assert_eq!((SCENE.log.take(), texts(&db).await), (vec!["stored next".to_owned()], vec!["next".to_owned()]), "{pending}");
            db.execute("DELETE FROM notes").await.unwrap();
        }
    }

    async fn a_raw_transaction_on_a_connection_is_detected(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        for end in ["ROLLBACK", "COMMIT", ""] {
            for sqlx in [false, true] {
                let mut conn = pool.acquire().await.unwrap();
                match sqlx {
                    true => by_sqlx(&mut conn, "BEGIN").await.unwrap(),
                    false => _ = conn.execute("BEGIN").await.unwrap(),
                }
                let error = note("told").save(&mut conn).await.unwrap_err();
                assert!(matches!(error, Error::CommitNotObservable { .. }), "{error:?}");
                plain("a").save(&mut conn).await.unwrap();
                Written { id: None, text: "b".to_owned() }.save(&mut conn).await.unwrap();
                Plain::insert_many(&mut conn, &mut [plain("c"), plain("d")]).await.unwrap();
                let mut savepoint = conn.begin().await.unwrap();
                plain("undone").save(&mut savepoint).await.unwrap();
                savepoint.rollback().await.unwrap();
                assert_eq!(texts(&db).await, [""; 0], "nothing is stored yet");
                match sqlx {
                    _ if end.is_empty() => {}
                    true => by_sqlx(&mut conn, end).await.unwrap(),
                    false => _ = conn.execute(sqlx::AssertSqlSafe(end)).await.unwrap(),
                }
                if !end.is_empty() {
                    note("after").save(&mut conn).await.unwrap();
                    assert_eq!(SCENE.log.take(), ["stored after"], "{end} {sqlx}");
                    db.execute("DELETE FROM notes WHERE text = 'after'").await.unwrap();
                }
                drop(conn);
                assert_eq!(texts(&db).await, if end == "COMMIT" { vec!["a", "b", "c", "d"] } else { vec![] });
                note("next").save(&pool).await.unwrap();
                assert_eq!(SCENE.log.take(), ["stored next"], "{end} {sqlx}");
                assert!(texts(&db).await.contains(&"next".to_owned()));
                db.execute("DELETE FROM notes").await.unwrap();
            }
        }
    }

    async fn a_commit_inside_a_raw_transaction_is_not_observable(db: Db) {
        let _turn = notes(&db).await;
        let mut conn = db.acquire().await.unwrap();
        conn.execute("BEGIN").await.unwrap();
        for nested in [false, true] {
            let mut tx = conn.begin().await.unwrap();
            plain("a").save(&mut tx).await.unwrap();
            if nested {
                let mut inner = tx.begin().await.unwrap();
                inner.on_commit(async { SCENE.log.push("told") });
                inner.commit().await.unwrap();
            } else {
                tx.on_commit(async { SCENE.log.push("told") });
            }
            let error = tx.commit().await.unwrap_err();
            assert!(matches!(error, Error::CommitNotObservable { .. }), "{error:?}");
        }
        let mut tx = conn.begin().await.unwrap();
        plain("b").save(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        conn.execute("COMMIT").await.unwrap();
        assert_eq!((SCENE.log.take(), texts(&db).await), (vec![], vec!["b".to_owned()]));
        let mut tx = conn.begin().await.unwrap();
        tx.on_commit(async { SCENE.log.push("told") });
        tx.commit().await.unwrap();
        assert_eq!(SCENE.log.take(), ["told"]);
    }

    async fn a_raw_transaction_on_a_connection_of_sqlx_is_detected(db: Db) {
        let _turn = notes(&db).await;
        macro_rules! seen {
            ($pool:expr) => {{
                for end in ["ROLLBACK", "COMMIT"] {
                    let mut conn = $pool.acquire().await.unwrap();
                    sqlx::raw_sql("BEGIN").execute(&mut *conn).await.unwrap();
                    let error = note("told").save(&mut *conn).await.unwrap_err();
                    assert!(matches!(error, Error::CommitNotObservable { .. }), "{error:?}");
                    note("told").save(&mut conn).await.unwrap_err();
                    plain("a").save(&mut *conn).await.unwrap();
                    // Neither ends a transaction that the library did not begin.
                    Written { id: None, text: "b".to_owned() }.save(&mut *conn).await.unwrap_err();
                    Note::insert_many(&mut *conn, &mut [note("c"), note("d")]).await.unwrap_err();
                    assert_eq!(texts(&db).await, [""; 0], "nothing is stored yet");
                    sqlx::raw_sql(sqlx::AssertSqlSafe(end)).execute(&mut *conn).await.unwrap();
                    assert_eq!(texts(&db).await, if end == "COMMIT" { vec!["a"] } else { vec![] });
                    note("told").save(&mut *conn).await.unwrap();
                    Written { id: None, text: "b".to_owned() }.save(&mut *conn).await.unwrap();
                    assert_eq!(SCENE.log.take(), ["stored told"]);
                    db.execute("DELETE FROM notes").await.unwrap();
                }
            }};
        }
        let pool = one(&db).await;
        match db.kind() {
            DatabaseKind::Sqlite => seen!(pool.sqlite().unwrap()),
            DatabaseKind::Postgres => seen!(pool.postgres().unwrap()),
        }
    }

    async fn a_transaction_with_a_savepoint_that_is_left_open_is_not_committed(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        for by_sqlx in [false, true] {
            for end in ["commit", "rollback", "drop"] {
                let mut tx = pool.begin().await.unwrap();
                note("a").save(&mut tx).await.unwrap();
                leave_savepoint(&mut tx, by_sqlx).await;
                assert_eq!(plain("b").save(&mut tx).await.is_err(), by_sqlx);
                match end {
                    "commit" => {
                        let error = tx.commit().await.unwrap_err();
                        assert!(error.is_rolled_back(), "{by_sqlx}: {error:?}");
                    }
                    "rollback" => tx.rollback().await.unwrap(),
                    _ => drop(tx),
                }
                assert_eq!(SCENE.log.take(), [""; 0], "{end} {by_sqlx}");
                is_sound(&db, &pool).await;

                // The same on a connection that is used afterwards.
                let mut conn = pool.acquire().await.unwrap();
                let mut tx = conn.begin().await.unwrap();
                note("a").save(&mut tx).await.unwrap();
                leave_savepoint(&mut tx, by_sqlx).await;
                match end {
                    "commit" => assert!(tx.commit().await.unwrap_err().is_rolled_back()),
                    "rollback" => tx.rollback().await.unwrap(),
                    _ => drop(tx),
                }
                note("later").save(&mut conn).await.unwrap();
                drop(conn);
                assert_eq!(SCENE.log.take(), ["stored later"], "{end} {by_sqlx}");
                assert_eq!(texts(&db).await, ["later"], "{end} {by_sqlx}");
                db.execute("DELETE FROM notes").await.unwrap();
                is_sound(&db, &pool).await;
            }
        }
    }

    async fn a_savepoint_with_a_savepoint_that_is_left_open_is_not_released(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        for by_sqlx in [false, true] {
            for end in ["commit", "rollback"] {
                let mut tx = pool.begin().await.unwrap();
                note("a").save(&mut tx).await.unwrap();
                let mut savepoint = tx.begin().await.unwrap();
                note("undone").save(&mut savepoint).await.unwrap();
                leave_savepoint(&mut savepoint, by_sqlx).await;
                match end {
                    "commit" => assert!(savepoint.commit().await.unwrap_err().is_rolled_back()),
                    _ => savepoint.rollback().await.unwrap(),
                }
                note("b").save(&mut tx).await.unwrap();
                tx.commit().await.unwrap();
                assert_eq!(SCENE.log.take(), ["stored a", "stored b"], "{end} {by_sqlx}");
                assert_eq!(texts(&db).await, ["a", "b"], "{end} {by_sqlx}");
                db.execute("DELETE FROM notes").await.unwrap();
                is_sound(&db, &pool).await;
            }
        }
    }

    async fn a_transaction_that_is_left_open_ends_with_its_connection(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        // On SQLite, the turn of a writer ends with the transaction of the library.
        for by_sqlx in [db.kind() == DatabaseKind::Sqlite, true] {
            let mut conn = pool.acquire().await.unwrap();
            leave_savepoint(&mut conn, by_sqlx).await;
            drop(conn);
            is_sound(&db, &pool).await;
        }
    }

    async fn a_savepoint_that_is_dropped_before_a_commit_is_not_left_open(db: Db) {
        let _turn = notes(&db).await;
        let pool = one(&db).await;
        for _ in 0..20 {
            let mut tx = pool.begin().await.unwrap();
            note("a").save(&mut tx).await.unwrap();
            let mut outer = tx.begin().await.unwrap();
            drop(outer.begin().await.unwrap());
            outer.begin().await.unwrap().commit().await.unwrap();
            drop(outer.begin().await.unwrap());
            outer.commit().await.unwrap();
            drop(tx.begin().await.unwrap());
            tx.commit().await.unwrap();
            assert_eq!((SCENE.log.take(), texts(&db).await), (vec!["stored a".to_owned()], vec!["a".to_owned()]));
            db.execute("DELETE FROM notes").await.unwrap();
        }
    }

    async fn a_write_that_is_dropped_leaves_the_transaction_of_sqlx(db: Db) {
        let _turn = notes(&db).await;
        let written = || Written { id: None, text: "dropped".to_owned() };
        macro_rules! left {
            ($pool:expr) => {{
                for many in [false, true] {
                    for pending in 0.. {
                        let mut tx = $pool.begin().await.unwrap();
                        sqlx::raw_sql("INSERT INTO notes (text) VALUES ('a')").execute(&mut *tx).await.unwrap();
                        let done = match many {
                            true => cancelled_after(Plain::insert_many(&mut *tx, &mut [plain("c"), plain("d")]), pending).await.is_some(),
                            false => cancelled_after(written().save(&mut *tx), pending).await.is_some(),
                        };
                        let after = sqlx::raw_sql("INSERT INTO notes (text) VALUES ('b')").execute(&mut *tx).await;
                        let committed = tx.commit().await;
                        let stored = texts(&db).await;
                        let both = stored.contains(&"a".to_owned()) && stored.contains(&"b".to_owned());
                        match after.is_ok() && committed.is_ok() {
                            true => assert!(both, "{many} {pending}: {stored:?}"),
                            // The release of the savepoint was dropped.
                            false => assert!(!done && stored.is_empty(), "{many} {pending}: {stored:?}"),
                        }
                        db.execute("DELETE FROM notes").await.unwrap();
                        if done {
                            break;
                        }
                    }
                }
            }};
        }
        let pool = one(&db).await;
        match db.kind() {
            DatabaseKind::Sqlite => left!(pool.sqlite().unwrap()),
            DatabaseKind::Postgres => left!(pool.postgres().unwrap()),
        }
    }

    async fn a_connection_that_sqlx_has_left_in_a_transaction_is_rolled_back(db: Db) {
        let _turn = notes(&db).await;
        for (kept, pool) in [(true, another(&db, Db::options()).await), (false, one(&db).await)] {
            for sql in ["BEGIN", "BEGIN; INSERT INTO notes (text) VALUES ('x')", "BEGIN; INSERT INTO nowhere VALUES (1)"] {
                let mut conn = pool.acquire().await.unwrap();
                let _ = by_sqlx(&mut conn, sql).await;
                drop(conn);
                for n in 0..3 {
                    note(&n.to_string()).save(&pool).await.unwrap();
                }
                assert_eq!(texts(&db).await, ["0", "1", "2"], "{kept} {sql}");
                assert_eq!(SCENE.log.take().len(), 3);
                db.execute("DELETE FROM notes").await.unwrap();
            }
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use common::TestDb;

    /// A check whose own statement fails, of which the server has made the end of the transaction.
    #[tokio::test]
    async fn a_failed_table_check_marks_the_transaction() {
        let test = TestDb::postgres("check_that_fails").await;
        let db = &test.db;
        let _turn = notes(db).await;
        table(db, "locked", "text TEXT NOT NULL").await;
        #[derive(Debug, Model)]
        #[model(table = "locked")]
        #[allow(dead_code)]
        struct Locked {
            id: Option<i64>,
            text: String,
        }
        let mut other = db.begin().await.unwrap();
        other.execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let mut tx = db.begin().await.unwrap();
        tx.execute("SET LOCAL lock_timeout = '50ms'").await.unwrap();
        note("a").save(&mut tx).await.unwrap();
        Locked::check_table(&mut tx).await.unwrap_err();
        assert!(tx.commit().await.unwrap_err().is_rolled_back());
        assert_eq!((SCENE.log.take(), texts(db).await), (vec![], vec![]));
        other.commit().await.unwrap();
        Locked::check_table(db).await.unwrap();
        drop(_turn);
        test.passed().await;
    }

    #[tokio::test]
    async fn a_query_begins_a_transaction_without_a_statement_cache() {
        let test = TestDb::postgres("query_begins_without_cache").await;
        let _turn = notes(&test.db).await;
        let db = Db::options().statement_cache(false).connect(&test.url).await.unwrap();
        let mut conn = db.acquire().await.unwrap();
        for (end, stored) in [("ROLLBACK", &[][..]), ("COMMIT", &["a"])] {
            conn.query("BEGIN").execute().await.unwrap();
            conn.query("INSERT INTO notes (text) VALUES ($1)").bind("a").execute().await.unwrap();
            let error = note("b").save(&mut conn).await.unwrap_err();
            assert!(matches!(error, Error::CommitNotObservable { .. }), "{error:?}");
            conn.query(end).execute().await.unwrap();
            assert_eq!(texts(&test.db).await, stored);
        }
        let left_open = db.query("BEGIN").execute().await.unwrap_err();
        assert!(left_open.is_rolled_back(), "{left_open:?}");
        drop(conn);
        db.close().await;
        drop(_turn);
        test.passed().await;
    }

    /// Procedures and blocks cannot end a transaction that is open, and outside one they end their own.
    #[tokio::test]
    async fn procedures_that_commit_fail_inside_a_transaction() {
        let test = TestDb::postgres("procedures").await;
        let db = &test.db;
        let _turn = notes(db).await;
        let body = "INSERT INTO notes (text) VALUES ('p'); COMMIT; INSERT INTO notes (text) VALUES ('q'); ROLLBACK";
        execute(db, &format!("CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN {body}; END $$"))
            .await;
        let block = format!("DO $$ BEGIN {body}; END $$");
        for sql in ["CALL p()", &block] {
            for by_sqlx_alone in [false, true] {
                let mut tx = db.begin().await.unwrap();
                note("a").save(&mut tx).await.unwrap();
                match by_sqlx_alone {
                    true => by_sqlx(&mut tx, sql).await.unwrap_err(),
                    false => {
                        tx.execute(sqlx::AssertSqlSafe(sql)).await.unwrap_err();
                        sqlx::Error::RowNotFound
                    }
                };
                assert!(tx.commit().await.unwrap_err().is_rolled_back(), "{sql}");
                assert_eq!((SCENE.log.take(), texts(db).await), (vec![], vec![]), "{sql}");
            }
            db.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
            assert_eq!(texts(db).await, ["p"], "{sql}");
            db.execute("DELETE FROM notes").await.unwrap();
        }
        drop(_turn);
        test.passed().await;
    }

    /// If a `begin` of sqlx fails or is dropped, sqlx rolls back what is around it, and counts one transaction less.
    #[tokio::test]
    async fn a_begin_of_sqlx_that_fails_or_is_dropped_is_detected() {
        use sqlx::Connection;
        let test = TestDb::postgres("sqlx_begin").await;
        let db = &test.db;
        let _turn = notes(db).await;
        let pool = one(db).await;
        for drops in [false, true] {
            for nested in [false, true] {
                for end in ["commit", "rollback", "drop"] {
                    let mut tx = pool.begin().await.unwrap();
                    note("a").save(&mut tx).await.unwrap();
                    inside!(
                        tx,
                        nested,
                        |conn| {
                            let pg = conn.postgres().unwrap();
                            if drops {
                                // So that the server cannot answer before the first poll has ended.
                                let sleep = sqlx::raw_sql("SELECT pg_sleep(0.2)").execute(&mut *pg);
                                assert!(cancelled_after(sleep, 0).await.is_none());
                                assert!(cancelled_after(pg.begin(), 0).await.is_none());
                            } else {
                                sqlx::raw_sql("SELECT * FROM nowhere")
                                    .execute(&mut *pg)
                                    .await
                                    .unwrap_err();
                                assert!(pg.begin().await.is_err());
                            }
                        },
                        |savepoint| {
                            match end {
                                "commit" => {
                                    assert!(savepoint.commit().await.unwrap_err().is_rolled_back())
                                }
                                "rollback" => _ = savepoint.rollback().await,
                                _ => drop(savepoint),
                            }
                            assert!(plain("late").save(&mut tx).await.is_err(), "{end} {drops}");
                        }
                    );
                    match end {
                        "rollback" => _ = tx.rollback().await,
                        "drop" => drop(tx),
                        _ => assert!(tx.commit().await.unwrap_err().is_rolled_back()),
                    }
                    assert_eq!(SCENE.log.take(), [""; 0], "{end} {drops} {nested}");
                    is_sound(db, &pool).await;
                }
            }
        }
        drop(_turn);
        test.passed().await;
    }

    /// The same on a connection of sqlx, which the library cannot close.
    #[tokio::test]
    async fn a_begin_of_sqlx_that_fails_on_a_borrowed_connection_is_detected() {
        use sqlx::Connection;
        let test = TestDb::postgres("borrowed_begin").await;
        let db = &test.db;
        let _turn = notes(db).await;
        let pool = one(db).await;
        let mut borrowed = pool.postgres().unwrap().acquire().await.unwrap();
        let mut conn = sqlx_signals::Connects::acquire(&mut *borrowed).await.unwrap();
        for end in ["commit", "rollback"] {
            let mut tx = conn.begin().await.unwrap();
            plain("a").save(&mut tx).await.unwrap();
            let pg = tx.postgres().unwrap();
            sqlx::raw_sql("SELECT * FROM nowhere").execute(&mut *pg).await.unwrap_err();
            assert!(pg.begin().await.is_err());
            match end {
                "commit" => assert!(tx.commit().await.unwrap_err().is_rolled_back()),
                _ => _ = tx.rollback().await,
            }
            plain("b").save(&mut conn).await.unwrap();
            assert_eq!(texts(db).await, ["b"], "{end}");
            db.execute("DELETE FROM notes").await.unwrap();
        }
        drop(conn);
        drop(borrowed);
        is_sound(db, &pool).await;
        drop(_turn);
        test.passed().await;
    }

    /// A string with backslashes may contain a doubled quote.
    #[tokio::test]
    async fn a_commit_after_a_string_with_backslashes_is_refused() {
        let test = TestDb::postgres("backslashes").await;
        let mut tx = test.db.begin().await.unwrap();
        let error = tx.execute(r"SELECT E'a''\'' ; COMMIT").await.unwrap_err();
        assert!(matches!(error, Error::TransactionControl { .. }), "{error:?}");
        tx.rollback().await.unwrap();
        test.passed().await;
    }

    /// The isolation level can be set as the first statement of a transaction, in every way.
    #[tokio::test]
    async fn the_isolation_level_can_be_set_by_raw_sql() {
        let test = TestDb::postgres("isolation").await;
        let db = &test.db;
        const SET: &str = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
        let level = |tx: String| assert_eq!(tx, "serializable");
        let mut tx = db.begin().await.unwrap();
        tx.execute(SET).await.unwrap();
        level(tx.query("SHOW transaction_isolation").fetch_one::<(String,)>().await.unwrap().0);
        tx.commit().await.unwrap();
        let mut tx = db.begin().await.unwrap();
        by_sqlx(&mut tx, SET).await.unwrap();
        level(tx.query("SHOW transaction_isolation").fetch_one::<(String,)>().await.unwrap().0);
        tx.commit().await.unwrap();
        let mut conn = db.acquire().await.unwrap();
        conn.execute("BEGIN").await.unwrap();
        conn.execute(SET).await.unwrap();
        level(conn.query("SHOW transaction_isolation").fetch_one::<(String,)>().await.unwrap().0);
        conn.execute("COMMIT").await.unwrap();
        drop(conn);
        test.passed().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;
    use common::TestDb;

    /// Statements that end the transaction by themselves, and what is saved afterwards.
    #[tokio::test]
    async fn a_statement_that_rolls_back_ends_the_whole_transaction() {
        let test = TestDb::sqlite("rolls_back_by_itself").await;
        let db = &test.db;
        let _turn = notes(db).await;
        db.execute("CREATE TABLE strict (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE ON CONFLICT ROLLBACK)").await.unwrap();
        db.execute("INSERT INTO strict (text) VALUES ('taken')").await.unwrap();
        db.execute("CREATE TRIGGER raises BEFORE INSERT ON notes WHEN new.text = 'raise' BEGIN SELECT RAISE(ROLLBACK, 'no'); END")
            .await
            .unwrap();
        let pool = one(db).await;
        let statements = [
            "INSERT INTO strict (text) VALUES ('taken')",
            "INSERT INTO notes (text) VALUES ('raise')",
            "INSERT OR ROLLBACK INTO notes (id, text) SELECT 1, 'x' UNION ALL SELECT 1, 'y'",
        ];
        for sql in statements {
            for way in 0..4 {
                for nested in [false, true] {
                    let mut tx = pool.begin().await.unwrap();
                    note("a").save(&mut tx).await.unwrap();
                    inside!(
                        tx,
                        nested,
                        |conn| {
                            match way {
                                0 => _ = conn.execute(sql).await.unwrap_err(),
                                1 => _ = conn.query(sql).execute().await.unwrap_err(),
                                2 => _ = by_sqlx(conn, sql).await.unwrap_err(),
                                // The future is dropped before the answer.
                                _ => _ = cancelled_after(conn.execute(sql), 0).await,
                            }
                            // It may be refused, but must not be stored outside the transaction.
                            let _ = plain("late").save(&mut *conn).await;
                        },
                        |savepoint| { assert!(savepoint.commit().await.is_err(), "{sql} {way}") }
                    );
                    assert!(tx.commit().await.unwrap_err().is_rolled_back(), "{sql} {way}");
                    assert_eq!(
                        (SCENE.log.take(), texts(db).await),
                        (vec![], vec![]),
                        "{sql} {way}"
                    );
                    note("next").save(&pool).await.unwrap();
                    assert_eq!(SCENE.log.take(), ["stored next"]);
                    db.execute("DELETE FROM notes").await.unwrap();
                }
            }
        }
        drop(_turn);
        test.passed().await;
    }

    /// PostgreSQL accepts arguments only for single statements.
    #[tokio::test]
    async fn all_statements_of_a_text_with_arguments_are_executed() {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        let _turn = notes(&db).await;
        let sql = "INSERT INTO notes (text) VALUES ($1); INSERT INTO notes (text) VALUES ('b')";
        assert_eq!(db.query(sql).bind("a").execute().await.unwrap(), 2);
        assert_eq!(texts(&db).await, ["a", "b"]);
    }

    /// sqlx ignores the next dropped transaction if the rollback of another one was dropped.
    #[tokio::test]
    async fn a_dropped_savepoint_is_rolled_back_after_a_dropped_cleanup() {
        let test = TestDb::sqlite("dropped_cleanup").await;
        let db = &test.db;
        let _turn = notes(db).await;
        let pool = one(db).await;
        // How many awaits are pending depends on how soon the thread of the database answers.
        for pending in (0..400).map(|n| n % 20) {
            let sql = "BEGIN; INSERT INTO notes (text) VALUES ('x')";
            let _ = cancelled_after(pool.execute(sql), pending).await;
            let mut tx = pool.begin().await.unwrap();
            drop(tx.begin().await.unwrap());
            tx.commit().await.unwrap_or_else(|error| panic!("{pending}: {error}"));
        }
        drop(_turn);
        test.passed().await;
    }

    /// The one connection of a database in memory must not be lost for what raw SQL has left open.
    #[tokio::test]
    async fn an_in_memory_database_survives() {
        let db = Db::connect("sqlite::memory:").await.unwrap();
        let _turn = notes(&db).await;
        plain("a").save(&db).await.unwrap();
        db.execute("BEGIN; INSERT INTO notes (text) VALUES ('x')").await.unwrap_err();
        let mut conn = db.acquire().await.unwrap();
        conn.execute("SAVEPOINT a").await.unwrap();
        plain("undone").save(&mut conn).await.unwrap();
        drop(conn);
        let mut conn = db.acquire().await.unwrap();
        by_sqlx(&mut conn, "BEGIN").await.unwrap();
        drop(conn);
        assert_eq!(texts(&db).await, ["a"]);
    }
}
