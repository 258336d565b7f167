//! Columns that the library sets, columns that the database computes, and the version.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, execute, table};
#[cfg(any(feature = "chrono", feature = "time"))]
use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;
use sqlx_signals::{AutoNow, Error, sqlx};

/// A time type that the program defines. The database stores it as a number.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, sqlx::Type)]
#[sqlx(transparent)]
struct Micros(i64);

impl AutoNow for Micros {
    fn at(now: std::time::SystemTime) -> Self {
        Self(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64)
    }
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "pages")]
struct Page {
    id: Option<i64>,
    #[model(auto_now_add)]
    created_at: Micros,
    title: String,
    #[model(generated)]
    slug: String,
    #[model(auto_now, column = "changed at")]
    changed_at: Option<Micros>,
    #[model(version)]
    version: i32,
    #[model(generated)]
    language: Option<String>,
}

fn page(title: &str) -> Page {
    Page {
        id: None,
        created_at: Micros(0),
        title: title.to_owned(),
        slug: String::new(),
        changed_at: None,
        version: 1,
        language: None,
    }
}

/// Like `Page`, with receivers: of the row before, and in the transaction.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "pages")]
struct Heard {
    id: Option<i64>,
    #[model(auto_now_add)]
    created_at: Micros,
    title: String,
    #[model(generated)]
    slug: String,
    #[model(auto_now, column = "changed at")]
    changed_at: Option<Micros>,
    #[model(version)]
    version: i32,
    #[model(generated)]
    language: Option<String>,
}

fn heard(page: &Page) -> Heard {
    let Page { id, created_at, title, slug, changed_at, version, language } = page.clone();
    Heard { id, created_at, title, slug, changed_at, version, language }
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(post_save, sender = Heard)]
async fn hear(
    saved: PostSave<'_, Heard>,
    previous: Previous<'_, Heard>,
    _conn: &mut Conn<'_>,
) -> Result<(), &'static str> {
    let all = [
        Heard::ID,
        Heard::CREATED_AT,
        Heard::TITLE,
        Heard::SLUG,
        Heard::CHANGED_AT,
        Heard::VERSION,
        Heard::LANGUAGE,
    ];
    let changed: Vec<_> =
        all.into_iter().filter(|c| previous.changed(*c)).map(|c| c.name()).collect();
    let was = previous.row().map(|row| (row.title.clone(), row.version));
    let Heard { title, slug, version, .. } = saved.instance;
    SCENE.log.push(format!("{was:?} → {title} {slug} {version}: {}", changed.join(" ")));
    if title == "refused" { Err("refused") } else { Ok(()) }
}

/// A row with a column that a trigger computes, in the way that is usual for the database.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "entries")]
struct Entry {
    id: Option<i64>,
    title: String,
    #[model(generated)]
    slug: Option<String>,
}

#[receiver(post_save, sender = Entry)]
async fn entry_saved(saved: PostSave<'_, Entry>, _conn: &mut Conn<'_>) {
    let Entry { title, slug, .. } = saved.instance;
    SCENE.log.push(format!("{title} {slug:?}"));
}

async fn entries(db: &Db) {
    table(db, "entries", "title TEXT NOT NULL UNIQUE, slug TEXT").await;
    let triggers = match db.kind() {
        // Only a trigger that runs after the statement can change its row.
        sqlx_signals::DatabaseKind::Sqlite => {
            "CREATE TRIGGER inserted AFTER INSERT ON entries BEGIN
                 UPDATE entries SET slug = lower(NEW.title) WHERE id = NEW.id;
             END;
             CREATE TRIGGER updated AFTER UPDATE OF title ON entries BEGIN
                 UPDATE entries SET slug = lower(NEW.title) WHERE id = NEW.id;
             END"
        }
        sqlx_signals::DatabaseKind::Postgres => {
            "CREATE FUNCTION set_slug() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.slug = lower(NEW.title); RETURN NEW; END $$;
             CREATE TRIGGER set_slug BEFORE INSERT OR UPDATE ON entries
                 FOR EACH ROW EXECUTE FUNCTION set_slug()"
        }
    };
    execute(db, triggers).await;
}

/// A versioned row that its receiver writes before it is deleted.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "drafts")]
struct Draft {
    id: Option<i64>,
    title: String,
    #[model(version)]
    version: i32,
}

#[receiver(pre_delete, sender = Draft)]
async fn note_the_end(deleted: PreDelete<'_, Draft>, conn: &mut Conn<'_>) -> Result<()> {
    let mut draft = deleted.instance.clone();
    draft.title.push_str(" (deleted)");
    SCENE.log.push(draft.title.clone());
    draft.save(conn).await.map(drop)
}

async fn drafts(db: &Db) -> Vec<Draft> {
    table(db, "drafts", "title TEXT NOT NULL, version INTEGER").await;
    let draft = |n: i32| Draft { id: None, title: n.to_string(), version: 1 };
    let mut drafts: Vec<_> = (0..6).map(draft).collect();
    Draft::insert_many(db, &mut drafts).await.unwrap();
    drafts
}

async fn pages(db: &Db) {
    table(
        db,
        "pages",
        r#"created_at BIGINT NOT NULL, title TEXT NOT NULL CHECK (title <> ''),
           slug TEXT NOT NULL GENERATED ALWAYS AS (lower(title)) STORED, "changed at" BIGINT, version INTEGER NOT NULL,
           language TEXT DEFAULT 'en'"#,
    )
    .await;
}

fn now() -> Micros {
    Micros::at(std::time::SystemTime::now())
}

/// The columns that a write sets by itself.
fn automatic(page: &Page) -> (Option<i64>, Micros, Option<Micros>, i32) {
    (page.id, page.created_at, page.changed_at, page.version)
}

on_every_database! {
    async fn times_and_computed_columns_are_in_the_instance(db: Db) {
        pages(&db).await;
        let before = now();
        let mut ann = page("Ann");
        ann.save(&db).await.unwrap();
        assert!(ann.created_at >= before && ann.changed_at == Some(ann.created_at), "{ann:?}");
        assert_eq!((&*ann.slug, ann.language.as_deref(), ann.version), ("ann", Some("en"), 1));
        let stored = |page: &Page| Page::get(&db, page.id.unwrap());
        assert_eq!(stored(&ann).await.unwrap(), ann);

        let created = ann.created_at;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        ann.title = "Bob".to_owned();
        ann.language = Some("the database's, not the program's".to_owned());
        // What the program sets them to is never written.
        ann.created_at = Micros(1);
        assert!(!ann.save(&db).await.unwrap().created);
        assert_eq!((ann.created_at, &*ann.slug, ann.language.as_deref()), (created, "bob", Some("en")));
        assert!(ann.changed_at > Some(created));
        assert_eq!((ann.version, stored(&ann).await.unwrap()), (2, ann.clone()));

        ann.title = "Cid".to_owned();
        ann.update(&db).await.unwrap();
        assert_eq!((&*ann.slug, ann.version, stored(&ann).await.unwrap()), ("cid", 3, ann.clone()));
        ann.title = "Dan".to_owned();
        ann.save_fields(&db, &[Page::TITLE]).await.unwrap();
        assert_eq!((&*ann.slug, ann.version, stored(&ann).await.unwrap()), ("dan", 4, ann.clone()));

        // A key that the program assigns, which may exist or not.
        let mut own = Page { id: Some(70), ..page("Eve") };
        assert!(own.save(&db).await.unwrap().created);
        assert_eq!((own.version, stored(&own).await.unwrap()), (1, own.clone()));
    }

    async fn times_and_computed_columns_are_in_many_instances(db: Db) {
        pages(&db).await;
        let mut many: Vec<_> = (0..50).map(|n| page(&format!("P{n}"))).collect();
        Page::insert_many(&db, &mut many).await.unwrap();
        let stored = || async { Page::query("ORDER BY id").fetch_all(&db).await.unwrap() };
        assert_eq!(stored().await, many);
        assert!(many.iter().all(|p| p.slug.starts_with('p') && p.version == 1 && p.created_at > Micros(0)));
        let created = many[0].created_at;
        for page in &mut many {
            page.title.push('!');
            page.created_at = Micros(1);
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        Page::update_many(&db, &mut many).await.unwrap();
        assert_eq!(stored().await, many);
        assert!(many.iter().all(|p| p.slug.ends_with('!') && p.version == 2 && p.created_at == created));
        assert!(many.iter().all(|p| p.changed_at > Some(created)));
    }

    async fn a_stale_version_writes_nothing(db: Db) {
        pages(&db).await;
        let mut mine = page("Ann");
        mine.save(&db).await.unwrap();
        let mut theirs = mine.clone();
        theirs.title = "Theirs".to_owned();
        theirs.save(&db).await.unwrap();
        mine.title = "Mine".to_owned();
        let before = mine.clone();
        let id = mine.id.unwrap();

        for error in [
            mine.save(&db).await.unwrap_err(),
            mine.update(&db).await.unwrap_err(),
            mine.save_fields(&db, &[Page::TITLE]).await.unwrap_err(),
            mine.delete(&db).await.unwrap_err(),
        ] {
            assert!(error.is_stale());
            let Error::Stale { model, key, version } = &error else { panic!("{error:?}") };
            assert_eq!((*model, &**key, *version), ("Page", &*id.to_string(), 1));
            assert_eq!(error.to_string(), format!("`Page` {id} is stale: version 1 is not the stored one"));
            assert_eq!(mine, before, "the instance is as it was");
            assert_eq!(Page::get(&db, id).await.unwrap(), theirs, "nothing is written");
        }
        let mut other = page("Other");
        other.save(&db).await.unwrap();
        for error in [
            Page::update_many(&db, &mut [other.clone(), mine.clone()]).await.unwrap_err(),
            Page::delete_many(&db, &mut [other.clone(), mine.clone()]).await.unwrap_err(),
        ] {
            assert!(error.is_stale(), "{error:?}");
            assert!(matches!(&error, Error::Row { row: 1, key, .. } if *key == id.to_string()), "{error:?}");
            assert_eq!(Page::query("ORDER BY id").fetch_all(&db).await.unwrap(), [theirs.clone(), other.clone()]);
        }
        assert!(theirs.delete(&db).await.unwrap(), "whose version is the stored one may");
        assert!(mine.update(&db).await.unwrap_err().is_not_found(), "and is there none, it is not stale");
        assert!(!mine.delete(&db).await.unwrap());
    }

    async fn of_two_writers_of_one_version_one_is_stale(db: Db) {
        pages(&db).await;
        let mut first = page("Ann");
        first.save(&db).await.unwrap();
        let saves: Vec<_> = (0..32)
            .map(|n| {
                let (db, mut page) = (db.clone(), first.clone());
                tokio::spawn(async move {
                    page.title = n.to_string();
                    match page.save(&db).await {
                        Ok(_) => 1,
                        Err(error) => {
                            assert!(error.is_stale(), "{error:?}");
                            0
                        }
                    }
                })
            })
            .collect();
        let mut stored = 0;
        for save in saves {
            stored += save.await.unwrap();
        }
        assert_eq!((stored, Page::get(&db, first.id.unwrap()).await.unwrap().version), (1, 2));
    }

    async fn a_failed_save_leaves_the_instance_as_it_was(db: Db) {
        let _turn = SCENE.begin().await;
        pages(&db).await;
        let mut stored = page("Ann");
        stored.save(&db).await.unwrap();

        // The database refuses.
        for mut page in [page(""), Page { title: String::new(), ..stored.clone() }] {
            let before = automatic(&page);
            assert!(page.save(&db).await.unwrap_err().is_check_violation());
            assert_eq!(automatic(&page), before);
            page.insert(&db).await.unwrap_err();
            page.upsert(&db, &[Page::TITLE]).await.unwrap_err();
            assert_eq!(automatic(&page), before);
        }
        // A receiver does, after the statement.
        for mut page in [heard(&page("refused")), Heard { title: "refused".to_owned(), ..heard(&stored) }] {
            let before = page.clone();
            page.save(&db).await.unwrap_err();
            assert_eq!(page, before);
        }
        // One of several.
        let mut many = [page("Bob"), page(""), page("Cid")];
        let before = many.clone();
        assert!(Page::insert_many(&db, &mut many).await.unwrap_err().is_check_violation());
        assert_eq!(many, before);
        let mut many = [stored.clone(), Page { title: String::new(), ..stored.clone() }];
        many[1].id = Some(99);
        let before = many.clone();
        assert!(Page::update_many(&db, &mut many).await.unwrap_err().is_not_found());
        assert_eq!(many, before);
        assert_eq!(Page::all(&db).await.unwrap(), [stored]);
    }

    async fn receivers_and_the_previous_row_contain_automatic_columns(db: Db) {
        let _turn = SCENE.begin().await;
        pages(&db).await;
        let mut page = heard(&page("Ann"));
        page.save(&db).await.unwrap();
        page.title = "Bob".to_owned();
        page.created_at = Micros(1);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        page.save(&db).await.unwrap();
        let stored = |page: &Heard| Heard::get(&db, page.id.unwrap());
        assert_eq!(stored(&page).await.unwrap(), page);
        page.title = "Cid".to_owned();
        page.save_fields(&db, &[Heard::TITLE]).await.unwrap();
        assert_eq!(stored(&page).await.unwrap(), page);
        page.title = "Dan".to_owned();
        page.upsert(&db, &[Heard::ID]).await.unwrap();
        assert_eq!(stored(&page).await.unwrap(), page);
        let columns = "title slug changed at version";
        assert_eq!(
            SCENE.log.take(),
            [
                "None → Ann ann 1: id created_at title slug changed at version language".to_owned(),
                format!(r#"Some(("Ann", 1)) → Bob bob 2: {columns}"#),
                format!(r#"Some(("Bob", 2)) → Cid cid 3: {columns}"#),
                format!(r#"Some(("Cid", 3)) → Dan dan 4: {columns}"#),
            ]
        );
        let before = page.clone();
        let mut stale = Heard { version: 1, title: "Eve".to_owned(), ..before.clone() };
        assert!(stale.save(&db).await.unwrap_err().is_stale());
        assert!(stale.save_fields(&db, &[Heard::TITLE]).await.unwrap_err().is_stale());
        assert_eq!(stored(&page).await.unwrap(), before);
    }

    async fn an_update_that_sets_an_automatic_time_is_an_error(db: Db) {
        pages(&db).await;
        let mut home = page("Home");
        home.save(&db).await.unwrap();
        let all = || Page::query("");
        let heard = || Heard::query("");
        for error in [
            all().set(Page::CHANGED_AT, 5_i64).set(Page::TITLE, "x").update(&db).await.unwrap_err(),
            all().set_sql(Page::CHANGED_AT, "5", ()).update(&db).await.unwrap_err(),
            all().set(Page::CREATED_AT, 5_i64).update(&db).await.unwrap_err(),
            heard().set(Heard::CHANGED_AT, 5_i64).update(&db).await.unwrap_err(),
        ] {
            assert!(error.to_string().contains("cannot be set"), "{error}");
        }
        assert_eq!(Page::all(&db).await.unwrap(), [home.clone()]);
        // No value is given here.
        home.save_fields(&db, &[Page::CHANGED_AT]).await.unwrap();
        assert_eq!(home.version, 2);
    }

    async fn a_column_that_a_trigger_computes_is_in_the_instance(db: Db) {
        let _turn = SCENE.begin().await;
        entries(&db).await;
        let entry = |title: &str| Entry { id: None, title: title.to_owned(), slug: None };
        let stored = |entry: &Entry| Entry::get(&db, entry.id.unwrap());

        let mut ann = entry("Ann");
        ann.save(&db).await.unwrap();
        assert_eq!((stored(&ann).await.unwrap(), ann.slug.as_deref()), (ann.clone(), Some("ann")));
        ann.title = "Bob".to_owned();
        ann.save(&db).await.unwrap();
        assert_eq!((stored(&ann).await.unwrap(), ann.slug.as_deref()), (ann.clone(), Some("bob")));
        ann.title = "Cid".to_owned();
        ann.save_fields(&db, &[Entry::TITLE]).await.unwrap();
        assert_eq!((stored(&ann).await.unwrap(), ann.slug.as_deref()), (ann.clone(), Some("cid")));

        let mut dan = entry("Dan");
        let mut tx = db.begin().await.unwrap();
        dan.upsert(&mut tx, &[Entry::TITLE]).await.unwrap();
        let (eve, _) = Entry::get_or_create(&mut tx, entry("Eve"), &[Entry::TITLE]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!((dan.slug.as_deref(), eve.slug.as_deref()), (Some("dan"), Some("eve")));
        let mut own = Entry { id: Some(70), ..entry("Fay") };
        assert!(own.save(&db).await.unwrap().created);

        let mut many = [entry("Gus"), entry("Hal")];
        Entry::insert_many(&db, &mut many).await.unwrap();
        for entry in &mut many {
            assert_eq!(stored(entry).await.unwrap(), *entry);
            entry.title.push('!');
        }
        Entry::update_many(&db, &mut many).await.unwrap();
        Entry::query("WHERE id = $1").bind(70_i64).set(Entry::TITLE, "Ida").update(&db).await.unwrap();
        let slug = |title: &str| format!("{title} {:?}", Some(title.to_lowercase()));
        let titles = ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Gus!", "Hal!", "Ida"];
        assert_eq!(SCENE.log.take(), titles.map(slug), "receivers see it too");
    }

    async fn a_versioned_row_is_deleted_although_its_receiver_writes_it_before(db: Db) {
        let _turn = SCENE.begin().await;
        let mut drafts = drafts(&db).await;
        let mut stale = Draft { version: 7, ..drafts[0].clone() };
        assert!(stale.delete(&db).await.unwrap_err().is_stale());
        assert!(Draft::delete_many(&db, &mut [stale]).await.unwrap_err().is_stale());
        assert!(SCENE.log.take().is_empty(), "the receiver does not run for a stale row");

        assert!(drafts[0].delete(&db).await.unwrap());
        assert!(Draft::delete_by_key(&db, 2).await.unwrap());
        assert_eq!(Draft::delete_many(&db, &mut drafts[2..4]).await.unwrap(), 2);
        let mut tx = db.begin().await.unwrap();
        assert!(drafts[4].delete(&mut tx).await.unwrap());
        assert_eq!(Draft::query("").delete(&mut tx).await.unwrap(), 1);
        tx.commit().await.unwrap();
        assert!(Draft::all(&db).await.unwrap().is_empty());
        assert_eq!(SCENE.log.take().len(), 6);
    }

    async fn a_row_without_a_version_is_stale(db: Db) {
        let mut draft = drafts(&db).await.swap_remove(0);
        execute(&db, "UPDATE drafts SET version = NULL").await;
        for error in [
            draft.save(&db).await.unwrap_err(),
            draft.update(&db).await.unwrap_err(),
            draft.delete(&db).await.unwrap_err(),
            Draft::update_many(&db, &mut [draft.clone()]).await.unwrap_err(),
        ] {
            assert!(error.is_stale(), "{error:?}");
        }
    }

    async fn an_upserted_row_has_the_stored_version(db: Db) {
        pages(&db).await;
        execute(&db, "CREATE UNIQUE INDEX titles ON pages (title)").await;
        let mut first = page("Ann");
        for _ in 0..3 {
            first.save(&db).await.unwrap();
        }
        let mut same = page("Ann");
        assert!(!same.upsert(&db, &[Page::TITLE]).await.unwrap().created);
        assert_eq!((same.id, same.created_at, same.version), (first.id, first.created_at, 4));
        // An upsert by the key does not compare versions either, so it is never stale.
        let mut by_key = Page { id: first.id, ..page("Bob") };
        assert!(!by_key.upsert(&db, &[Page::ID]).await.unwrap().created);
        assert_eq!((by_key.created_at, by_key.version), (first.created_at, 5));
        by_key.save(&db).await.unwrap();
        assert_eq!(Page::all(&db).await.unwrap(), [by_key]);
    }
}

#[cfg(feature = "chrono")]
on_every_database! {
    async fn times_of_chrono(db: Db) {
        use sqlx::types::chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

        #[derive(Debug, Clone, PartialEq, Model)]
        struct Visit {
            id: Option<i64>,
            #[model(auto_now_add)]
            at: DateTime<Utc>,
            #[model(auto_now)]
            local: NaiveDateTime,
            #[model(auto_now)]
            day: Option<NaiveDate>,
            #[model(generated)]
            first: Option<DateTime<Utc>>,
        }
        let [instant, local] = match db.kind() {
            DatabaseKind::Sqlite => ["TEXT", "TEXT"],
            DatabaseKind::Postgres => ["TIMESTAMPTZ", "TIMESTAMP"],
        };
        let columns = format!("at {instant} NOT NULL, local {local} NOT NULL, day DATE, first {instant} DEFAULT CURRENT_TIMESTAMP");
        table(&db, "visit", &columns).await;
        let long_ago = DateTime::UNIX_EPOCH;
        let mut visit =
            Visit { id: None, at: long_ago, local: long_ago.naive_utc(), day: None, first: None };
        visit.save(&db).await.unwrap();
        assert!(visit.at > long_ago && visit.local == visit.at.naive_utc());
        assert_eq!((visit.day, visit.first.is_some()), (Some(visit.local.date()), true));
        let id = visit.id.unwrap();
        assert_eq!(Visit::get(&db, id).await.unwrap(), visit, "no digit is lost");
        let was = visit.clone();
        visit.save(&db).await.unwrap();
        assert_eq!((visit.at, visit.first), (was.at, was.first));
        assert!(visit.local > was.local);
        assert_eq!(Visit::get(&db, id).await.unwrap(), visit);
    }

    // A value that the database has written itself is equal to the previous one, in any notation.
    async fn an_untouched_default_has_not_changed(db: Db) {
        use sqlx::types::chrono::{DateTime, Utc};

        #[derive(Debug, Clone, PartialEq, Model)]
        struct Stamped {
            id: Option<i64>,
            name: String,
            #[model(generated)]
            at: Option<DateTime<Utc>>,
        }
        #[receiver(post_save, sender = Stamped, updated)]
        fn changed(_: PostSave<'_, Stamped>, previous: Previous<'_, Stamped>) {
            let changed = [Stamped::NAME, Stamped::AT].map(|column| previous.changed(column));
            SCENE.log.push(format!("{changed:?}"));
        }
        let _turn = SCENE.begin().await;
        let instant = if db.kind() == DatabaseKind::Sqlite { "TEXT" } else { "TIMESTAMPTZ" };
        table(&db, "stamped", &format!("name TEXT NOT NULL, at {instant} DEFAULT CURRENT_TIMESTAMP")).await;
        let mut row = Stamped { id: None, name: "a".to_owned(), at: None };
        row.save(&db).await.unwrap();
        row.name = "b".to_owned();
        row.save(&db).await.unwrap();
        Stamped::update_many(&db, &mut [row]).await.unwrap();
        assert_eq!(SCENE.log.take(), ["[true, false]", "[false, false]"]);
    }
}

#[cfg(feature = "time")]
on_every_database! {
    async fn times_of_the_time_crate(db: Db) {
        use sqlx::types::time::{OffsetDateTime, PrimitiveDateTime};

        #[derive(Debug, Clone, PartialEq, Model)]
        struct Ride {
            id: Option<i64>,
            #[model(auto_now_add)]
            at: OffsetDateTime,
            #[model(auto_now)]
            local: PrimitiveDateTime,
        }
        let [instant, local] = match db.kind() {
            DatabaseKind::Sqlite => ["TEXT", "TEXT"],
            DatabaseKind::Postgres => ["TIMESTAMPTZ", "TIMESTAMP"],
        };
        table(&db, "ride", &format!("at {instant} NOT NULL, local {local} NOT NULL")).await;
        let long_ago = OffsetDateTime::UNIX_EPOCH;
        let mut ride = Ride { id: None, at: long_ago, local: PrimitiveDateTime::MIN };
        ride.save(&db).await.unwrap();
        assert!(ride.at > long_ago && ride.local.assume_utc() == ride.at);
        assert_eq!(Ride::get(&db, ride.id.unwrap()).await.unwrap(), ride, "no digit is lost");
    }
}

/// Two of its columns are set by triggers.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    #[model(unique)]
    title: String,
    #[model(generated)]
    slug: Option<String>,
    #[model(generated)]
    writes: i64,
}

/// Like `Note`, with receivers.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct HeardNote {
    id: Option<i64>,
    #[model(unique)]
    title: String,
    #[model(generated)]
    slug: Option<String>,
    #[model(generated)]
    writes: i64,
}

#[receiver(post_save, sender = HeardNote)]
async fn note_saved(saved: PostSave<'_, HeardNote>, conn: &mut Conn<'_>) -> Result<()> {
    assert_eq!(HeardNote::get(conn, saved.pk()).await?, *saved.instance);
    Ok(())
}

/// What the triggers of SQLite set is not in the RETURNING of the statement.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn what_a_trigger_sets_is_read_back_in_sqlite() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let set = "BEGIN UPDATE notes SET slug = lower(NEW.title), writes = writes + 1 WHERE id = NEW.id; END";
    execute(
        &db,
        &format!(
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT NOT NULL UNIQUE, slug TEXT, writes INTEGER NOT NULL DEFAULT 0);
             CREATE TRIGGER inserted AFTER INSERT ON notes {set}; CREATE TRIGGER updated AFTER UPDATE OF title ON notes {set}"
        ),
    )
    .await;
    let note = |title: &str| Note { id: None, title: title.into(), slug: None, writes: 0 };
    let is_stored = async |note: &Note| {
        assert_eq!(Note::get(&db, note.id.unwrap()).await.unwrap(), *note);
    };
    let mut a = note("A");
    a.save(&db).await.unwrap();
    is_stored(&a).await;
    assert_eq!((a.slug.as_deref(), a.writes), (Some("a"), 1));
    a.title = "B".into();
    a.save(&db).await.unwrap();
    is_stored(&a).await;
    a.update(&db).await.unwrap();
    is_stored(&a).await;
    a.save_fields(&db, &[Note::TITLE]).await.unwrap();
    is_stored(&a).await;
    let mut same = note("B");
    same.upsert(&db, &[Note::TITLE]).await.unwrap();
    is_stored(&same).await;
    assert_eq!((same.id, same.writes), (a.id, 5));
    let (found, created) = Note::get_or_create(&db, note("C"), &[Note::TITLE]).await.unwrap();
    assert!(created);
    is_stored(&found).await;
    let mut many = [note("D"), note("E")];
    Note::insert_many(&db, &mut many).await.unwrap();
    for note in &many {
        is_stored(note).await;
    }
    Note::update_many(&db, &mut many).await.unwrap();
    for note in &many {
        is_stored(note).await;
    }
    let mut tx = db.begin().await.unwrap();
    let mut in_tx = note("F");
    in_tx.save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    is_stored(&in_tx).await;

    let heard = |title: &str| HeardNote { id: None, title: title.into(), slug: None, writes: 0 };
    let mut one = heard("G");
    one.save(&db).await.unwrap();
    one.save(&db).await.unwrap();
    HeardNote::insert_many(&db, &mut [heard("H"), heard("I")]).await.unwrap();
}
