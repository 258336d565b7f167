//! What a program is told at its start of tables that are not as its models say.
#![allow(missing_docs)]

mod common;

use sqlx_signals::{Error, prelude::*};

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

fn findings(done: Result<()>) -> Vec<String> {
    match done {
        Ok(()) => Vec::new(),
        Err(Error::Check { findings }) => findings,
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
    async fn a_table_that_is_right_is_not_spoken_of(db: Db) {
        good_tables(&db).await;
        User::check_table(&db).await.unwrap();
        Membership::check_table(&db).await.unwrap();
        let mut conn = db.acquire().await.unwrap();
        User::check_table(&mut conn).await.unwrap();
    }

    async fn everything_that_is_wrong_is_in_one_report(db: Db) {
        common::execute(
            &db,
            "CREATE TABLE users (id BIGINT NOT NULL, name TEXT, age TEXT NOT NULL, email TEXT NOT NULL, town TEXT NOT NULL);
             CREATE TABLE memberships (user_id BIGINT NOT NULL, team TEXT NOT NULL)",
        )
        .await;
        let of = "`User` (table `users`)";
        let users = [
            format!("{of}: the key `id` is for the database to give, and has no default there"),
            format!("{of}: the column `name` can be NULL, and the field is no `Option`"),
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
        found.retain(|finding| !finding.contains("Upserted"));
        assert_eq!(found, all, "every linked model, by name");
    }

    async fn an_upsert_without_its_index_is_known_from_then_on(db: Db) {
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
