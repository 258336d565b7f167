//! `db.check()` reports tables that do not match their models.
#![allow(missing_docs)]

mod common;

use common::execute;
use sqlx_signals::{DatabaseKind, Error, prelude::*, sqlx};

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    age: i64,
    #[model(unique)]
    email: String,
    nickname: Option<String>,
}

#[derive(Debug, Clone, Model)]
#[model(table = "memberships")]
struct Membership {
    #[model(primary_key)]
    user_id: i64,
    #[model(primary_key)]
    team: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "memberships")]
struct Upserted {
    #[model(primary_key)]
    user_id: i64,
    team: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "nowhere")]
struct Nowhere {
    id: Option<i64>,
}

/// The findings, without the SQL that mends the table.
fn findings(done: Result<()>) -> Vec<String> {
    let text = |finding: String| {
        let ends = ["; to mend it: ", "; the SQL of the first finding"];
        let end = ends.iter().find_map(|end| finding.find(end)).unwrap_or(finding.len());
        finding[..end].to_owned()
    };
    match done {
        Ok(()) => Vec::new(),
        Err(Error::Check { findings }) => findings.into_iter().map(text).collect(),
        Err(error) => panic!("{error}"),
    }
}

async fn good_tables(db: &Db) {
    common::table(
        db,
        "users",
        "name TEXT NOT NULL, age BIGINT NOT NULL, email TEXT NOT NULL UNIQUE, nickname TEXT, joined \
         TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP",
    )
    .await;
    common::execute(
        db,
        "CREATE TABLE memberships (user_id BIGINT NOT NULL, team TEXT NOT NULL, PRIMARY KEY (team, user_id))",
    )
    .await;
}

on_every_database! {
    async fn a_correct_table_has_no_findings(db: Db) {
        good_tables(&db).await;
        User::check_table(&db).await.unwrap();
        Membership::check_table(&db).await.unwrap();
        let mut conn = db.acquire().await.unwrap();
        User::check_table(&mut conn).await.unwrap();
    }

    async fn every_finding_is_in_one_report(db: Db) {
        common::execute(
            &db,
            "CREATE TABLE users (id BIGINT NOT NULL, name TEXT, age TEXT NOT NULL, email TEXT NOT NULL, town TEXT NOT NULL);
             CREATE TABLE memberships (user_id BIGINT NOT NULL, team TEXT NOT NULL)",
        )
        .await;
        let of = "`User` (table `users`)";
        let (write, replaces) = match db.kind() {
            DatabaseKind::Sqlite => {
                ("; write `id INTEGER PRIMARY KEY`, without WITHOUT ROWID", " (the SQL replaces NULL by '')")
            }
            DatabaseKind::Postgres => ("", ""),
        };
        let users = [
            format!("{of}: the database must assign the key `id`, but the column has no default{write}"),
            format!("{of}: the column `name` can be NULL, and the field is no `Option`{replaces}"),
            format!("{of}: the column `age` is of type TEXT, which the field cannot be read from"),
            format!("{of}: there is no unique index of `email`, for `#[model(unique)]`"),
            format!("{of}: there is no column `nickname`"),
            format!("{of}: the column `town` has no default, and the model never writes it"),
            format!("{of}: there is no unique index of `id`, for the key"),
        ];
        assert_eq!(findings(User::check_table(&db).await), users);
        let nowhere = "`Nowhere` (table `nowhere`): there is no such table".to_owned();
        let memberships =
            "`Membership` (table `memberships`): there is no unique index of `team`, `user_id`, for the key".to_owned();
        let all: Vec<_> = [memberships, nowhere].into_iter().chain(users).collect();
        let mut found = findings(db.check().await);
        let named = ["`User`", "`Membership`", "`Nowhere`"];
        found.retain(|finding| named.iter().any(|name| finding.starts_with(name)));
        assert_eq!(found, all, "every linked model, by name");
    }

    async fn an_upsert_without_an_index_is_a_finding_afterwards(db: Db) {
        good_tables(&db).await;
        let mut member = Upserted { user_id: 7, team: "a".into() };
        let found = || async { findings(Upserted::check_table(&db).await) };
        let no_key = "`Upserted` (table `memberships`): there is no unique index of `user_id`, for the key";
        assert_eq!(found().await, [no_key]);
        member.upsert(&db, &[Upserted::TEAM]).await.unwrap_err();
        let missing = "`Upserted` (table `memberships`): there is no unique index of `team`, for `upsert` or `get_or_create`";
        assert_eq!(found().await, [no_key, missing]);
    }
}

#[derive(Debug, Clone, Model)]
#[model(table = "accounts")]
struct Account {
    id: Option<i64>,
    name: String,
    #[model(unique)]
    email: String,
}

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Nickname(Option<String>);

type Maybe = Option<String>;

/// Fields that can be NULL although none is written as `Option`.
#[derive(Debug, Clone, Model)]
#[model(table = "nullable")]
struct Nullable {
    id: Option<i64>,
    nickname: Nickname,
    maybe: Maybe,
}

async fn found(db: &Db) -> Vec<String> {
    findings(Account::check_table(db).await)
}

const OF: &str = "`Account` (table `accounts`)";

async fn accounts(db: &Db, email: &str) {
    execute(db, "DROP TABLE IF EXISTS accounts").await;
    common::table(db, "accounts", &format!("name TEXT NOT NULL, email TEXT NOT NULL {email}"))
        .await;
}

on_every_database! {
    async fn an_index_of_an_expression_or_of_some_rows_is_not_unique_for_its_columns(db: Db) {
        let missing = [format!("{OF}: there is no unique index of `email`, for `#[model(unique)]`")];
        for index in ["(lower(name), email)", "(email, lower(name))", "(email) WHERE name <> ''", "(lower(email))", "(email, name)"] {
            accounts(&db, "").await;
            execute(&db, &format!("CREATE UNIQUE INDEX accounts_email ON accounts {index}")).await;
            assert_eq!(found(&db).await, missing, "{index}");
        }
        accounts(&db, "").await;
        execute(&db, "CREATE UNIQUE INDEX accounts_email ON accounts (email)").await;
        assert_eq!(found(&db).await, [""; 0]);
    }

    async fn a_check_can_be_a_not_null(db: Db) {
        let nullable = [format!("{OF}: the column `name` can be NULL, and the field is no `Option`")];
        for (check, expected) in [
            ("CHECK (name IS NOT NULL)", &[][..]),
            ("CONSTRAINT named CHECK ( \"name\"  is not null )", &[]),
            ("CONSTRAINT \"it's\" CHECK (name IS NOT NULL)", &[]),
            ("CHECK (name IS NOT NULL OR email = '')", &nullable),
            ("CHECK (email IS NOT NULL)", &nullable),
            ("DEFAULT 'CHECK (name IS NOT NULL)' /* CHECK (name IS NOT NULL) */ -- CHECK (name IS NOT NULL)\n", &nullable),
        ] {
            execute(&db, "DROP TABLE IF EXISTS accounts").await;
            common::table(&db, "accounts", &format!("name TEXT {check}, email TEXT NOT NULL UNIQUE")).await;
            let mut found = found(&db).await;
            found.iter_mut().for_each(|text| text.truncate(nullable[0].len()));
            assert_eq!(found, expected, "{check}");
        }
        if db.kind() == DatabaseKind::Postgres {
            execute(&db, "CREATE DOMAIN filled AS TEXT CHECK (VALUE IS NOT NULL); DROP TABLE accounts").await;
            common::table(&db, "accounts", "name filled, email TEXT NOT NULL UNIQUE").await;
            assert_eq!(found(&db).await, [""; 0]);
            execute(&db, "ALTER TABLE accounts ADD COLUMN size BIGINT").await;
            execute(&db, "ALTER TABLE accounts ADD CONSTRAINT sized CHECK (size IS NOT NULL) NOT VALID").await;
            assert_eq!(found(&db).await, [""; 0]);
            execute(&db, "ALTER TABLE accounts VALIDATE CONSTRAINT sized").await;
            // DROP NOT NULL would change nothing.
            let unwritten = format!("{OF}: the column `size` has no default, and the model never writes it");
            let Err(Error::Check { findings }) = Account::check_table(&db).await else { panic!() };
            assert_eq!(findings, [unwritten]);
        }
    }

    async fn a_view_is_a_finding(db: Db) {
        accounts(&db, "UNIQUE").await;
        execute(&db, "ALTER TABLE accounts RENAME TO kept; CREATE VIEW accounts AS SELECT * FROM kept").await;
        assert_eq!(found(&db).await, [format!("{OF}: this is a view, not a table")]);
    }

    async fn a_field_that_can_be_null_under_another_name_is_no_finding(db: Db) {
        common::table(&db, "nullable", "nickname TEXT, maybe TEXT").await;
        Nullable::check_table(&db).await.unwrap();
        Nullable { id: None, nickname: Nickname(None), maybe: None }.save(&db).await.unwrap();
    }
}

/// Like `Mail`, with an `upsert`.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "mails")]
struct UpsertedMail {
    #[model(primary_key, column = "rowid")]
    id: i64,
    title: String,
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn an_upsert_into_a_virtual_table_is_a_finding() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    execute(&db, "CREATE VIRTUAL TABLE mails USING fts5 (title)").await;
    let mut mail = UpsertedMail { id: 1, title: "a".into() };
    mail.upsert(&db, &[UpsertedMail::ID]).await.unwrap_err();
    let missing = "`UpsertedMail` (table `mails`): it can have no unique index of `rowid`, for `upsert` or `get_or_create`";
    assert_eq!(findings(UpsertedMail::check_table(&db).await), [missing]);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_key_that_sqlite_does_not_assign_is_a_finding_that_says_what_to_write() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let finding = format!(
        "{OF}: the database must assign the key `id`, but the column has no default; write `id INTEGER PRIMARY KEY`, without \
         WITHOUT ROWID"
    );
    let columns = "name TEXT NOT NULL, email TEXT NOT NULL UNIQUE";
    for (key, end) in [
        ("id BIGINT PRIMARY KEY", ""),
        ("id INT PRIMARY KEY", ""),
        ("id INTEGER PRIMARY KEY DESC", ""),
        ("id INTEGER PRIMARY KEY", "WITHOUT ROWID"),
        ("id BIGINT PRIMARY KEY DEFAULT NULL", ""),
        ("id INTEGER NOT NULL UNIQUE", ""),
    ] {
        execute(&db, "DROP TABLE IF EXISTS accounts").await;
        execute(&db, &format!("CREATE TABLE accounts ({key}, {columns}) {end}")).await;
        let mut findings = found(&db).await;
        findings.retain(|finding| !finding.contains("can be NULL"));
        assert_eq!(findings, std::slice::from_ref(&finding), "{key} {end}");
    }
    for key in [
        "id INTEGER PRIMARY KEY",
        "id integer primary key AUTOINCREMENT",
        "id BIGINT PRIMARY KEY DEFAULT 7",
    ] {
        execute(&db, "DROP TABLE accounts").await;
        execute(&db, &format!("CREATE TABLE accounts ({key}, {columns})")).await;
        assert_eq!(found(&db).await, [""; 0], "{key}");
    }
    execute(&db, "DROP TABLE accounts").await;
    execute(&db, &format!("CREATE TABLE accounts (id INTEGER, {columns}, PRIMARY KEY (id))")).await;
    assert_eq!(found(&db).await, [""; 0]);
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_indexes_and_domains_of_postgres_are_considered() {
    let test = common::TestDb::postgres("what_postgres_knows_of_an_index").await;
    let db = test.db.clone();
    accounts(&db, "").await;
    execute(&db, "CREATE UNIQUE INDEX accounts_email ON accounts (email) INCLUDE (name)").await;
    assert_eq!(found(&db).await, [""; 0], "what INCLUDE adds is not part of what is unique");

    execute(&db, "DROP INDEX accounts_email; CREATE UNIQUE INDEX accounts_email ON accounts (name) INCLUDE (email)").await;
    let missing = [format!("{OF}: there is no unique index of `email`, for `#[model(unique)]`")];
    assert_eq!(found(&db).await, missing);

    // An index that CREATE INDEX CONCURRENTLY could not build stays, and is not used.
    execute(&db, "DROP INDEX accounts_email; INSERT INTO accounts (name, email) VALUES ('a', 'x'), ('b', 'x')").await;
    db.execute("CREATE UNIQUE INDEX CONCURRENTLY accounts_email ON accounts (email)")
        .await
        .unwrap_err();
    let invalid = [format!(
        "{OF}: the unique index of `email`, for `#[model(unique)]`, is invalid: drop it, or REINDEX it"
    )];
    assert_eq!(found(&db).await, invalid);

    accounts(&db, "").await;
    execute(
        &db,
        "CREATE DOMAIN required AS TEXT NOT NULL; CREATE DOMAIN email AS required; CREATE DOMAIN number AS BIGINT DEFAULT 7;
         ALTER TABLE accounts ALTER name DROP NOT NULL, ALTER email DROP NOT NULL, ALTER name TYPE required, ALTER email TYPE \
         email, ADD more number NOT NULL, ADD UNIQUE (email)",
    )
    .await;
    assert_eq!(found(&db).await, [""; 0], "NOT NULL and defaults can be a domain's");
    test.passed().await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferrable_constraint_is_a_finding_if_an_upsert_may_need_it() {
    let test = common::TestDb::postgres("a_deferrable_constraint_is_a_finding").await;
    let db = test.db.clone();
    accounts(&db, "UNIQUE").await;
    let key = "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey, ADD PRIMARY KEY (id) DEFERRABLE";
    execute(&db, key).await;
    assert_eq!(found(&db).await, [""; 0], "a save needs no key that is checked at once");

    // No upsert was run in this process.
    accounts(&db, "UNIQUE DEFERRABLE INITIALLY IMMEDIATE").await;
    execute(&db, key).await;
    let deferrable = [format!(
        "{OF}: the unique constraint of `email` is DEFERRABLE, which `upsert` or `get_or_create` cannot use"
    )];
    assert_eq!(found(&db).await, deferrable);

    let mut account = Account { id: None, name: "a".into(), email: "x".into() };
    account.save(&db).await.unwrap();
    let _ = account.upsert(&db, &[Account::EMAIL]).await;
    assert_eq!(found(&db).await, deferrable, "it is reported once");

    execute(&db, "CREATE UNIQUE INDEX accounts_now ON accounts (email)").await;
    assert_eq!(found(&db).await, deferrable, "ON CONFLICT takes both indexes");
    db.execute(
        "INSERT INTO accounts (name, email) VALUES ('b', 'y') ON CONFLICT (email) DO NOTHING",
    )
    .await
    .unwrap_err();
    execute(&db, "ALTER TABLE accounts DROP CONSTRAINT accounts_email_key").await;
    assert_eq!(found(&db).await, [""; 0]);
    test.passed().await;
}

/// A model that writes each of its columns.
#[derive(Debug, Clone, Model)]
#[model(table = "pages")]
struct Page {
    #[model(primary_key)]
    id: i64,
    title: String,
    slug: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "articles")]
struct Article {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = set_null)]
    editor: Option<i64>,
}

on_every_database! {
    async fn a_column_that_the_model_writes_and_the_database_computes_is_a_finding(db: Db) {
        let slug = "slug TEXT GENERATED ALWAYS AS (lower(title)) STORED NOT NULL";
        execute(&db, &format!("CREATE TABLE pages (id BIGINT NOT NULL PRIMARY KEY, title TEXT NOT NULL, {slug})")).await;
        let computed = "`Page` (table `pages`): the database computes the column `slug`, and the model writes it: put \
                        `#[model(generated)]` on the field";
        assert_eq!(findings(Page::check_table(&db).await), [computed]);
        Page { id: 1, title: "A".into(), slug: "a".into() }.save(&db).await.unwrap_err();
    }

    async fn a_column_that_cannot_be_set_to_null_is_a_finding(db: Db) {
        good_tables(&db).await;
        common::table(&db, "articles", "editor BIGINT NOT NULL").await;
        let not_null = "`Article` (table `articles`): the column `editor` cannot be NULL, which `on_delete = set_null` has to set it to";
        assert_eq!(findings(Article::check_table(&db).await), [not_null]);
        execute(&db, "DROP TABLE articles").await;
        common::table(&db, "articles", "editor BIGINT").await;
        Article::check_table(&db).await.unwrap();
    }
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_the_model_writes_is_a_finding() {
    let test = common::TestDb::postgres("an_identity_that_the_model_writes").await;
    let db = test.db.clone();
    let sql = "CREATE TABLE pages (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title TEXT NOT NULL, slug TEXT NOT NULL)";
    execute(&db, sql).await;
    let mut page = Page { id: 1, title: "A".into(), slug: "a".into() };
    page.save(&db).await.unwrap_err();
    let error = Page::check_table(&db).await.unwrap_err();
    let Error::Check { findings } = error else { panic!("{error}") };
    let (text, sql) = findings[0].split_once("; to mend it: ").unwrap();
    let identity = "`Page` (table `pages`): the column `id` is GENERATED ALWAYS AS IDENTITY, and the model writes it";
    assert_eq!((findings.len(), text), (1, identity));
    execute(&db, sql).await;
    Page::check_table(&db).await.unwrap();
    page.save(&db).await.unwrap();
    // A key that only the database assigns may be of this kind.
    execute(&db, "CREATE TABLE accounts (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE)").await;
    assert_eq!(found(&db).await, [""; 0]);
    test.passed().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_foreign_key_that_makes_each_write_fail_is_a_finding() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    let of = "`Page` (table `pages`): the foreign key of `title` refers to the table";
    execute(
        &db,
        "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL, other TEXT UNIQUE)",
    )
    .await;
    for (reference, finding) in [
        ("REFERENCES nowhere", "`nowhere`, which does not exist"),
        (
            "REFERENCES names (name)",
            "`names`, which has no unique index of the columns that it refers to",
        ),
        ("REFERENCES names (Other)", ""),
        ("REFERENCES names", ""),
        ("REFERENCES pages (slug)", ""),
    ] {
        let columns =
            "id BIGINT NOT NULL PRIMARY KEY, slug TEXT NOT NULL UNIQUE, title TEXT NOT NULL";
        execute(
            &db,
            &format!("DROP TABLE IF EXISTS pages; CREATE TABLE pages ({columns} {reference})"),
        )
        .await;
        let expected: Vec<_> =
            Some(format!("{of} {finding}")).filter(|_| !finding.is_empty()).into_iter().collect();
        assert_eq!(findings(Page::check_table(&db).await), expected, "{reference}");
        let error =
            Page { id: 1, title: "A".into(), slug: "a".into() }.save(&db).await.unwrap_err();
        assert_eq!(error.is_foreign_key_violation(), finding.is_empty(), "{reference}: {error}");
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn sqlite_does_not_distinguish_the_case_of_column_names() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    execute(
        &db,
        "CREATE TABLE accounts (Id INTEGER PRIMARY KEY, NAME TEXT NOT NULL, Email TEXT NOT NULL);
         CREATE UNIQUE INDEX by_email ON accounts (EMAIL);
         CREATE TABLE memberships (User_Id BIGINT NOT NULL, TEAM TEXT NOT NULL, PRIMARY KEY (TEAM, User_Id))",
    )
    .await;
    assert_eq!(found(&db).await, [""; 0]);
    assert_eq!(findings(Membership::check_table(&db).await), [""; 0]);
    let mut account = Account { id: None, name: "Ann".into(), email: "a".into() };
    account.upsert(&db, &[Account::EMAIL]).await.unwrap();
    assert_eq!(found(&db).await, [""; 0]);
    // A table that is created again has each column once.
    execute(&db, "DROP TABLE accounts; CREATE TABLE accounts (ID INTEGER PRIMARY KEY, Name TEXT, Email TEXT NOT NULL UNIQUE)").await;
    let Err(Error::Check { findings }) = Account::check_table(&db).await else { panic!() };
    assert_eq!(findings.len(), 1, "{findings:?}");
    let (_, sql) = findings[0].split_once("; to mend it: ").unwrap();
    execute(&db, sql).await;
    Account::check_table(&db).await.unwrap();
}

#[cfg(feature = "sqlite")]
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "switches")]
struct Switch {
    id: Option<i64>,
    level: i64,
    label: String,
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_field_that_can_be_read_from_what_sqlite_stores_is_no_finding() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    for level in ["BOOLEAN", "BOOL"] {
        execute(
            &db,
            &format!(
                "DROP TABLE IF EXISTS switches; CREATE TABLE switches (id INTEGER PRIMARY KEY, level {level} NOT NULL, label BLOB NOT NULL)"
            ),
        )
        .await;
        assert_eq!(findings(Switch::check_table(&db).await), [""; 0]);
        let mut switch = Switch { id: None, level: 7, label: "on".into() };
        switch.save(&db).await.unwrap();
        assert_eq!(Switch::query("").fetch_one(&db).await.unwrap(), switch);
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_column_of_sqlite_that_changes_texts_into_numbers_is_a_finding() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    for ty in ["STRING", "NUMERIC", "DECIMAL(10, 2)"] {
        execute(&db, "DROP TABLE IF EXISTS pages").await;
        execute(&db, &format!("CREATE TABLE pages (id BIGINT NOT NULL PRIMARY KEY, title {ty} NOT NULL, slug TEXT NOT NULL)")).await;
        let number = format!(
            "`Page` (table `pages`): the column `title` is of type {ty}, in which SQLite stores a number as such, which the field cannot be \
             read from"
        );
        assert_eq!(findings(Page::check_table(&db).await), [number]);
        Page { id: 1, title: "01234".into(), slug: "a".into() }.save(&db).await.unwrap();
        Page::get(&db, 1).await.unwrap_err();
    }
    for ty in [
        "DATETIME", "DATE", "TIME", "TIMESTAMP", "VARCHAR(20)", "UUID", "JSON", "BINARY(32)",
        "ANY", "",
    ] {
        execute(&db, "DROP TABLE IF EXISTS pages").await;
        execute(&db, &format!("CREATE TABLE pages (id TIMESTAMP NOT NULL PRIMARY KEY, title {ty} NOT NULL, slug TEXT NOT NULL)")).await;
        assert_eq!(findings(Page::check_table(&db).await), [""; 0], "{ty}");
    }
}

/// Stored in a type of PostgreSQL that the driver does not know until the server has described it.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Happy,
    Sad,
}

#[derive(Debug, Clone, Model)]
#[model(table = "moods")]
struct Feeling {
    id: Option<i64>,
    mood: Mood,
    name: String,
}

/// The driver asks for the types of a connection in the middle of the first statement that returns them.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_table_of_types_of_the_program_is_checked_on_a_new_connection() {
    let test = common::TestDb::postgres("types_of_the_program").await;
    execute(
        &test.db,
        "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('happy', 'sad');
         CREATE TABLE moods (id BIGSERIAL PRIMARY KEY, mood mood NOT NULL, name CITEXT NOT NULL)",
    )
    .await;
    for keeps_statements in [true, false] {
        let options = || Db::options().max_connections(1).statement_cache(keeps_statements);
        let db = options().connect(&test.url).await.unwrap();
        for ty in ["TEXT", "CITEXT"] {
            assert_eq!(findings(Feeling::check_table(&db).await), [""; 0]);
            execute(&test.db, &format!("ALTER TABLE moods ALTER name TYPE {ty}")).await;
        }
        let db = options().connect(&test.url).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        assert_eq!(findings(Feeling::check_table(&mut tx).await), [""; 0]);
        tx.commit().await.unwrap();
    }
    test.passed().await;
}

/// Its key and a column are set by a trigger.
#[derive(Debug, Clone, Model)]
#[model(table = "tickets")]
struct Ticket {
    id: Option<String>,
    title: String,
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_trigger_can_set_what_the_model_does_not_write() {
    let test = common::TestDb::postgres("set_by_a_trigger").await;
    let db = &test.db;
    execute(
        db,
        "CREATE TABLE tickets (id TEXT PRIMARY KEY, title TEXT NOT NULL, code TEXT NOT NULL);
         CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN NEW.id := md5(NEW.title); NEW.code := upper(NEW.title); RETURN NEW; END $$",
    )
    .await;
    assert_eq!(findings(Ticket::check_table(db).await).len(), 2, "nothing sets them");
    execute(
        db,
        "CREATE TRIGGER fill BEFORE INSERT ON tickets FOR EACH ROW EXECUTE FUNCTION fill()",
    )
    .await;
    assert_eq!(findings(Ticket::check_table(db).await), [""; 0]);
    let mut ticket = Ticket { id: None, title: "a".into() };
    assert!(ticket.save(db).await.unwrap().created && ticket.id.is_some());
    test.passed().await;
}

#[derive(Debug, Clone, Model)]
#[model(table = "pages")]
struct UniquePage {
    #[model(primary_key)]
    id: i64,
    #[model(unique)]
    slug: String,
    title: String,
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_foreign_table_needs_no_index_of_its_key() {
    let test = common::TestDb::postgres("foreign_table").await;
    execute(
        &test.db,
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;
         CREATE FOREIGN TABLE pages (id BIGINT NOT NULL, title TEXT NOT NULL) SERVER other",
    )
    .await;
    let missing = ["`Page` (table `pages`): there is no column `slug`"];
    assert_eq!(findings(Page::check_table(&test.db).await), missing);
    execute(&test.db, "ALTER FOREIGN TABLE pages ADD slug TEXT NOT NULL").await;
    assert_eq!(findings(Page::check_table(&test.db).await), [""; 0]);
    let Err(Error::Check { findings }) = UniquePage::check_table(&test.db).await else { panic!() };
    let unique = "`UniquePage` (table `pages`): it can have no unique index of `slug`, for `#[model(unique)]`";
    assert_eq!(findings, [unique], "without SQL");
    test.passed().await;
}

/// Like `Page`, with an `upsert`.
#[derive(Debug, Clone, Model)]
#[model(table = "pages")]
struct UpsertedPage {
    #[model(primary_key)]
    id: i64,
    title: String,
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn an_upsert_into_a_foreign_table_is_a_finding() {
    let test = common::TestDb::postgres("upsert_into_foreign_table").await;
    execute(
        &test.db,
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;
         CREATE FOREIGN TABLE pages (id BIGINT NOT NULL, title TEXT NOT NULL) SERVER other",
    )
    .await;
    assert_eq!(findings(UpsertedPage::check_table(&test.db).await), [""; 0]);
    let mut page = UpsertedPage { id: 1, title: "a".into() };
    page.upsert(&test.db, &[UpsertedPage::ID]).await.unwrap_err();
    let missing = "`UpsertedPage` (table `pages`): it can have no unique index of `id`, for `upsert` or `get_or_create`";
    assert_eq!(findings(UpsertedPage::check_table(&test.db).await), [missing]);
    test.passed().await;
}

/// With names of 80 bytes, of which PostgreSQL stores 63.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt")]
struct Long {
    #[model(
        primary_key,
        column = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"
    )]
    key: String,
    #[model(unique, column = "uäääääääääääääääääääääääääääääääääääääää")]
    name: String,
}

on_every_database! {
    async fn a_long_name_is_compared_as_it_is_stored(db: Db) {
        execute(&db, &Long::create_table_sql(db.kind())).await;
        assert_eq!(findings(Long::check_table(&db).await), [""; 0]);
        let long = |key: &str| Long { key: key.into(), name: "a".into() };
        assert!(long("a").save(&db).await.unwrap().created);
        assert!(!long("b").upsert(&db, &[Long::NAME]).await.unwrap().created);
        assert_eq!(findings(Long::check_table(&db).await), [""; 0]);
    }

    async fn a_temporary_table_is_checked(db: Db) {
        let db = common::one_connection(&db).await;
        let id = match db.kind() {
            DatabaseKind::Sqlite => "id INTEGER PRIMARY KEY",
            DatabaseKind::Postgres => "id BIGSERIAL PRIMARY KEY",
        };
        accounts(&db, "").await;
        execute(&db, &format!("CREATE TEMP TABLE accounts ({id}, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE)")).await;
        assert_eq!(found(&db).await, [""; 0], "it hides the other table");
    }
}

#[derive(Debug, Clone, Model)]
#[model(table = "main.accounts")]
struct MainAccount {
    id: Option<i64>,
    name: String,
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_temporary_table_does_not_hide_a_table_with_its_schema() {
    let db = Db::options().max_connections(1).connect("sqlite::memory:").await.unwrap();
    execute(&db, "CREATE TEMP TABLE accounts (id INTEGER PRIMARY KEY); CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await;
    assert_eq!(findings(MainAccount::check_table(&db).await), [""; 0]);
}

/// The key is the rowid, which is not declared.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "entries")]
struct Entry {
    #[model(primary_key, column = "RowId")]
    id: Option<i64>,
    message: String,
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn the_rowid_is_a_column_of_sqlite() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    execute(&db, "CREATE TABLE entries (message TEXT NOT NULL); INSERT INTO entries (rowid, message) VALUES (7, 'a')").await;
    assert_eq!(findings(Entry::check_table(&db).await), [""; 0]);
    assert_eq!(Entry { id: None, message: "b".into() }.save(&db).await.unwrap().pk, 8);

    // The SQL for another column keeps the rowids.
    execute(&db, "DROP TABLE entries; CREATE TABLE entries (message TEXT); INSERT INTO entries (rowid, message) VALUES (7, 'a')").await;
    let Err(Error::Check { findings: found }) = Entry::check_table(&db).await else { panic!() };
    let [finding] = &found[..] else { panic!("{found:?}") };
    execute(&db, finding.split_once("to mend it: ").unwrap().1).await;
    Entry::check_table(&db).await.unwrap();
    assert_eq!(Entry::all(&db).await.unwrap(), [Entry { id: Some(7), message: "a".into() }]);

    execute(&db, "DROP TABLE entries; CREATE TABLE entries (message TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID").await;
    let missing = "`Entry` (table `entries`): there is no column `RowId`";
    assert_eq!(findings(Entry::check_table(&db).await)[0], missing);
}

/// A table of the full text search.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "mails")]
struct Mail {
    #[model(primary_key, column = "rowid")]
    id: i64,
    title: String,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "mails")]
struct AssignedMail {
    #[model(primary_key, column = "rowid")]
    id: Option<i64>,
    title: String,
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_virtual_table_is_not_created_again() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    execute(&db, "CREATE VIRTUAL TABLE mails USING fts5 (title)").await;
    assert_eq!(findings(Mail::check_table(&db).await), [""; 0]);
    assert!(Mail { id: 5, title: "hello world".into() }.save(&db).await.unwrap().created);
    assert!(!Mail { id: 5, title: "goodbye".into() }.save(&db).await.unwrap().created);
    let found = Mail::query("WHERE mails MATCH $1").bind("goodbye").fetch_all(&db).await.unwrap();
    assert_eq!(found, [Mail { id: 5, title: "goodbye".into() }]);
    assert_eq!(findings(Mail::check_table(&db).await), [""; 0]);

    let [finding] = &findings(AssignedMail::check_table(&db).await)[..] else { panic!() };
    assert!(finding.contains("the program has to assign `rowid`"), "{finding}");
    execute(&db, "DROP TABLE mails; CREATE VIRTUAL TABLE mails USING fts5 (body)").await;
    let missing = ["`Mail` (table `mails`): there is no column `title`"];
    let Err(Error::Check { findings }) = Mail::check_table(&db).await else { panic!() };
    assert_eq!(findings, missing, "without SQL");
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_column_that_the_program_may_not_read_is_no_error() {
    let test = common::TestDb::postgres("privileges_of_columns").await;
    let sql = "CREATE TABLE pages (id BIGINT PRIMARY KEY, title TEXT NOT NULL, slug TEXT NOT NULL, secret TEXT, vault TEXT NOT NULL);
               GRANT SELECT (id, title, slug) ON pages TO {role}";
    let role = common::Role::new(&test, sql).await;
    let unwritten = [
        "`Page` (table `pages`): the column `vault` has no default, and the model never writes it",
    ];
    assert_eq!(findings(Page::check_table(&role.db).await), unwritten);
    execute(&test.db, "ALTER TABLE pages DROP title, DROP slug, DROP vault").await;
    let missing = ["title", "slug"]
        .map(|column| format!("`Page` (table `pages`): there is no column `{column}`"));
    assert_eq!(findings(Page::check_table(&role.db).await), missing);
    role.passed(test).await;
}
