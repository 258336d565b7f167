//! `post_load`: the signal of rows that are read.
#![allow(missing_docs)]

mod common;

use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    #[model(skip)]
    greeting: String,
}

#[receiver(post_load, sender = User)]
fn greet(load: PostLoad<'_, User>) -> Result<(), &'static str> {
    load.instance.greeting = format!("hello, {}", load.instance.name);
    if load.instance.name == "Mallory" { Err("not that one") } else { Ok(()) }
}

/// With the connection that has read the row.
#[receiver(post_load, sender = User, order = 1)]
async fn count(load: PostLoad<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    let (users,): (i64,) = conn.query("SELECT count(*) FROM users").fetch_one().await?;
    load.instance.greeting += &format!(", one of {users}");
    Ok(())
}

fn user(name: &str) -> User {
    User { id: None, name: name.to_owned(), greeting: String::new() }
}

on_every_database! {
    async fn every_read_sends_post_load(db: Db) {
        common::table(&db, "users", "name TEXT NOT NULL UNIQUE").await;
        let mut ann = user("Ann");
        ann.save(&db).await.unwrap();
        assert_eq!(ann.greeting, "", "a save reads no row");
        let expected = "hello, Ann, one of 1";
        let mut again = user("");
        again.id = ann.id;
        again.refresh(&db).await.unwrap();
        let rows = [
            User::get(&db, 1).await.unwrap(),
            User::find(&db, 1).await.unwrap().unwrap(),
            User::all(&db).await.unwrap().remove(0),
            User::query("WHERE name = $1").bind("Ann").fetch_one(&db).await.unwrap(),
            User::query("").fetch_all(&db).await.unwrap().remove(0),
            User::query("").fetch_optional(&db).await.unwrap().unwrap(),
            User::get_or_create(&db, user("Ann"), &[User::NAME]).await.unwrap().0,
            again,
        ];
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(row.greeting, expected, "read {i}");
        }
        let mut tx = db.begin().await.unwrap();
        assert_eq!(User::get(&mut tx, 1).await.unwrap().greeting, expected);
    }

    async fn an_error_of_a_receiver_fails_the_read(db: Db) {
        common::table(&db, "users", "name TEXT NOT NULL").await;
        user("Mallory").save(&db).await.unwrap();
        let error = User::all(&db).await.unwrap_err();
        assert!(error.to_string().starts_with("could not load `User`: receiver `greet`: "), "{error}");
    }
}
