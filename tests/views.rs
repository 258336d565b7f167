//! Views whose triggers write the rows: a save reports what it has done, as for a table.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use sqlx_signals::{DatabaseKind, prelude::*, without_signals};

use common::{Scene, count, execute};

/// A key that the program assigns.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "city_names")]
struct City {
    #[model(primary_key)]
    code: String,
    name: String,
}

fn city(code: &str, name: &str) -> City {
    City { code: code.to_owned(), name: name.to_owned() }
}

/// A key that the database assigns.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "person_names")]
struct Person {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "versioned")]
struct Versioned {
    #[model(primary_key)]
    code: String,
    #[model(version)]
    version: i64,
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(post_save, sender = City)]
fn saved(saved: PostSave<'_, City>) {
    SCENE.log.push(format!("{} {}", saved.instance.name, saved.created));
}

#[receiver(post_delete, sender = City)]
fn deleted(deleted: PostDelete<'_, City>) {
    SCENE.log.push(format!("deleted {}", deleted.instance.code));
}

/// A table, and a view of it through which it is written. Every UPDATE counts.
async fn view(db: &Db, view: &str, key: &str, other: &str) {
    let (new, set) = (format!("NEW.{key}, NEW.{other}"), format!("{other} = NEW.{other}"));
    execute(db, &format!("CREATE VIEW {view} AS SELECT {key}, {other} FROM stored")).await;
    let insert = format!("INSERT INTO stored ({key}, {other}) VALUES ({new});");
    let update = format!("UPDATE stored SET {set}, updates = updates + 1 WHERE {key} = OLD.{key};");
    let delete = format!("DELETE FROM stored WHERE {key} = OLD.{key};");
    for (verb, statement) in [("INSERT", insert), ("UPDATE", update), ("DELETE", delete)] {
        let on = format!("INSTEAD OF {verb} ON {view} FOR EACH ROW");
        let sql = match db.kind() {
            DatabaseKind::Sqlite => format!("CREATE TRIGGER on_{verb} {on} BEGIN {statement} END"),
            DatabaseKind::Postgres => {
                let row = if verb == "DELETE" { "OLD" } else { "NEW" };
                let assigned = match (verb, key) {
                    ("INSERT", "id") => "NEW.id := coalesce(NEW.id, nextval('stored_id_seq'));",
                    _ => "",
                };
                format!(
                    "CREATE FUNCTION on_{verb}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {assigned} {statement} RETURN \
                     {row}; END $$; CREATE TRIGGER on_{verb} {on} EXECUTE FUNCTION on_{verb}()"
                )
            }
        };
        execute(db, &sql).await;
    }
}

async fn cities(db: &Db) {
    execute(
        db,
        "CREATE TABLE stored (code TEXT PRIMARY KEY, name TEXT NOT NULL, updates BIGINT NOT NULL DEFAULT 0)",
    )
    .await;
    view(db, "city_names", "code", "name").await;
}

async fn updates(db: &Db) -> Vec<i64> {
    let updates = db.query("SELECT updates FROM stored ORDER BY 1").fetch_all::<(i64,)>();
    updates.await.unwrap().into_iter().map(|(updates,)| updates).collect()
}

on_every_database! {
    async fn a_save_through_a_view_reports_whether_the_row_is_new(db: Db) {
        let _turn = SCENE.begin().await;
        cities(&db).await;
        for round in 0..2 {
            let (new, old) = (format!("{round}"), format!("{round}"));
            let quiet = without_signals(async { city(&new, "a").save(&db).await });
            assert!(quiet.await.unwrap().created);
            let quiet = without_signals(async { city(&old, "b").save(&db).await });
            assert!(!quiet.await.unwrap().created);
            assert!(!city(&old, "c").save(&db).await.unwrap().created);
            assert_eq!(updates(&db).await, [2, 2][..=round], "each save has updated once");
            let mut tx = db.begin().await.unwrap();
            assert!(city(&format!("tx {round}"), "d").save(&mut tx).await.unwrap().created);
            assert!(!city(&format!("tx {round}"), "e").save(&mut tx).await.unwrap().created);
            tx.rollback().await.unwrap();
            assert_eq!(SCENE.log.take(), ["c false", "d true", "e false"]);
        }
        let stored = City::query("ORDER BY code").fetch_all(&db).await.unwrap();
        assert_eq!(stored, [city("0", "c"), city("1", "c")]);
    }

    async fn rows_are_inserted_and_updated_through_a_view(db: Db) {
        let _turn = SCENE.begin().await;
        cities(&db).await;
        city("a", "1").insert(&db).await.unwrap();
        assert!(city("a", "2").insert(&db).await.unwrap_err().is_unique_violation());
        city("a", "3").update(&db).await.unwrap();
        assert_eq!(updates(&db).await, [1]);
        assert!(city("b", "4").update(&db).await.unwrap_err().is_not_found());
        City::insert_many(&db, &mut [city("b", "5"), city("c", "6")]).await.unwrap();
        City::update_many(&db, &mut [city("c", "7"), city("b", "8")]).await.unwrap();
        let error = City::update_many(&db, &mut [city("a", "9"), city("d", "9")]).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        let stored = City::query("ORDER BY code").fetch_all(&db).await.unwrap();
        assert_eq!(stored, [city("a", "3"), city("b", "8"), city("c", "7")]);
        assert_eq!(SCENE.log.take(), ["1 true", "3 false", "5 true", "6 true", "7 false", "8 false"]);
    }

    async fn a_delete_through_a_view_reports_whether_the_row_existed(db: Db) {
        let _turn = SCENE.begin().await;
        cities(&db).await;
        City::insert_many(&db, &mut ["a", "b", "c", "d", "e"].map(|code| city(code, "x"))).await.unwrap();
        SCENE.log.take();
        assert!(without_signals(async { city("a", "x").delete(&db).await }).await.unwrap());
        assert!(!without_signals(async { city("a", "x").delete(&db).await }).await.unwrap());
        assert!(city("b", "x").delete(&db).await.unwrap());
        assert!(!city("b", "x").delete(&db).await.unwrap());
        let mut tx = db.begin().await.unwrap();
        assert!(without_signals(async { city("c", "x").delete(&mut tx).await }).await.unwrap());
        tx.commit().await.unwrap();
        let mut many = [city("d", "x"), city("f", "x"), city("e", "x")];
        assert_eq!(City::delete_many(&db, &mut many).await.unwrap(), 2);
        assert_eq!(SCENE.log.take(), ["deleted b", "deleted d", "deleted e"]);
        assert_eq!(count(&db, "stored").await, 0);
    }

    async fn a_key_that_a_view_does_not_return_is_an_error(db: Db) {
        common::table(&db, "stored", "name TEXT NOT NULL, updates BIGINT NOT NULL DEFAULT 0").await;
        view(&db, "person_names", "id", "name").await;
        let mut ann = Person { id: None, name: "Ann".to_owned() };
        let saved = ann.save(&db).await;
        match db.kind() {
            // The trigger assigns it.
            DatabaseKind::Postgres => {
                assert!(saved.unwrap().created);
                assert_eq!(Person::get(&db, ann.id.unwrap()).await.unwrap(), ann);
            }
            // Nothing says which key the row in the table has.
            DatabaseKind::Sqlite => {
                saved.unwrap_err();
                assert_eq!((ann.id, count(&db, "stored").await), (None, 0));
                ann.id = Some(1);
                assert!(ann.save(&db).await.unwrap().created);
            }
        }
        assert!(!ann.save(&db).await.unwrap().created);
        assert!(ann.delete(&db).await.unwrap());
    }

    async fn a_version_is_checked_through_a_view_or_the_update_is_refused(db: Db) {
        db.execute("CREATE TABLE stored (code TEXT PRIMARY KEY, version BIGINT NOT NULL, updates BIGINT NOT NULL DEFAULT 0)").await.unwrap();
        view(&db, "versioned", "code", "version").await;
        let mut row = Versioned { code: "a".to_owned(), version: 1 };
        assert!(row.save(&db).await.unwrap().created);
        let saved = row.save(&db).await;
        match db.kind() {
            DatabaseKind::Postgres => {
                assert!(!saved.unwrap().created);
                assert_eq!(row.version, 2);
                row.version = 1;
                assert!(row.save(&db).await.unwrap_err().is_stale());
            }
            DatabaseKind::Sqlite => {
                let error = saved.unwrap_err().to_string();
                assert!(error.contains("view `versioned`"), "{error}");
                assert_eq!(row.version, 1);
            }
        }
        assert_eq!(updates(&db).await, [if db.kind() == DatabaseKind::Sqlite { 0 } else { 1 }]);
    }
}

/// PostgreSQL: views whose rows cannot be locked.
#[cfg(feature = "postgres")]
mod not_lockable {
    use super::*;
    use common::TestDb;

    macro_rules! member {
        ($($name:ident)*) => { $(
            #[derive(Debug, Clone, PartialEq, Model)]
            #[model(table = "members")]
            struct $name {
                id: Option<i64>,
                name: String,
                team: Option<String>,
            }
        )* };
    }

    member! { Member Heard }

    #[receiver(pre_save, sender = Heard)]
    fn before(_: PreSave<'_, Heard>) -> Result<(), &'static str> {
        Ok(())
    }

    #[receiver(post_delete, sender = Heard)]
    fn gone(_: PostDelete<'_, Heard>) {}

    const OUTER_JOIN: &str =
        "SELECT p.id, p.name, t.team FROM teams AS t RIGHT JOIN people AS p ON t.id = p.team_id";
    const UNION: &str =
        "SELECT id, name, 'a' AS team FROM people UNION SELECT id, name, 'a' FROM people";

    async fn members(db: &Db, select: &str) {
        execute(
            db,
            &format!(
                "CREATE TABLE teams (id BIGINT PRIMARY KEY, team TEXT);
                 CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT NOT NULL, team_id BIGINT REFERENCES teams);
                 INSERT INTO teams VALUES (1, 'a');
                 INSERT INTO people VALUES (1, 'ann', 1), (2, 'bob', 1), (3, 'cid', NULL), (4, 'kept', 1);
                 CREATE VIEW members AS {select};
                 CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF OLD.name = 'kept' THEN RETURN NULL; END IF;
                     IF TG_OP = 'DELETE' THEN DELETE FROM people WHERE id = OLD.id; RETURN OLD; END IF;
                     UPDATE people SET name = NEW.name WHERE id = OLD.id; RETURN NEW;
                 END $$;
                 CREATE TRIGGER change INSTEAD OF UPDATE OR DELETE ON members FOR EACH ROW EXECUTE FUNCTION change()"
            ),
        )
        .await;
    }

    macro_rules! assert_written {
        ($db:expr, $($model:ident)*) => { $( {
            let what = stringify!($model);
            let mut tx = $db.begin().await.unwrap();
            for clause in ["WHERE id = 1", "m WHERE m.id = 1", "WHERE id < 3 ORDER BY id LIMIT 1"] {
                let update = $model::query(clause).set($model::NAME, "eve");
                assert_eq!(update.update(&mut tx).await.unwrap(), 1, "{what} {clause}");
                let update = $model::query(clause).set_sql($model::NAME, "name || '!'", ());
                assert_eq!(update.update(&mut tx).await.unwrap(), 1, "{what} {clause}");
            }
            assert_eq!($model::get(&mut tx, 1).await.unwrap().name, "eve!");
            // The trigger keeps the row as it is.
            let mut kept = $model::get(&mut tx, 4).await.unwrap();
            kept.name = "new".to_owned();
            kept.update(&mut tx).await.unwrap();
            $model::update_many(&mut tx, std::slice::from_mut(&mut kept)).await.unwrap();
            assert_eq!($model::query("WHERE id = 1").delete(&mut tx).await.unwrap(), 1, "{what}");
            let first = $model::query("WHERE id < 4 ORDER BY id LIMIT 1").delete(&mut tx).await;
            assert_eq!(first.unwrap(), 1, "{what}");
            assert!($model::delete_by_key(&mut tx, 3).await.unwrap(), "{what}");
            let left = $model::all(&mut tx).await.unwrap();
            assert_eq!(left.iter().map(|m| &*m.name).collect::<Vec<_>>(), ["kept"], "{what}");
            tx.rollback().await.unwrap();
        } )* };
    }

    #[tokio::test]
    async fn rows_are_written_by_condition_through_a_view_that_cannot_be_locked() {
        for (name, select) in [("outer_join_view", OUTER_JOIN), ("union_view", UNION)] {
            let test = TestDb::postgres(name).await;
            members(&test.db, select).await;
            assert_written!(test.db, Member Heard);
            test.passed().await;
        }
    }
}
