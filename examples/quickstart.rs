//! A saved user, the profile that a receiver makes in the same transaction, and the welcome after the commit.
//!
//! `cargo run --example quickstart` uses SQLite in memory. The same program on Postgres:
//! `DATABASE_URL=postgres://… cargo run --example quickstart --features postgres`

use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>, // `None` until the database has given it one
    name: String,
    email: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "profiles")]
struct Profile {
    id: Option<i64>,
    user_id: i64,
}

/// Every new user gets a profile, in the same transaction as the user.
#[receiver(post_save, sender = User)]
async fn create_profile(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    if saved.created {
        Profile { id: None, user_id: saved.pk() }.save(conn).await?;
    }
    Ok(())
}

/// Only once the user is really stored.
#[receiver(post_save, sender = User, on_commit)]
async fn welcome(saved: PostSave<'_, User>) {
    println!("welcome, {} <{}>", saved.instance.name, saved.instance.email);
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite::memory:".to_owned());
    let db = Db::connect(&url).await?;
    create_tables(&db).await?;

    let mut ann = User { id: None, name: "Ann".into(), email: "ann@example.org".into() };
    let saved = ann.save(&db).await?;
    println!("saved {ann:?}, created: {}", saved.created);
    assert!(saved.created && ann.id.is_some());

    let profiles = Profile::query("WHERE user_id = $1").bind(ann.id).fetch_all(&db).await?;
    println!("her profile: {profiles:?}");
    assert_eq!(profiles.len(), 1);

    ann.email = "ann@example.com".into();
    let saved = ann.save(&db).await?;
    assert!(!saved.created && Profile::all(&db).await?.len() == 1);
    db.execute("DROP TABLE profiles; DROP TABLE users").await?;
    Ok(())
}

async fn create_tables(db: &Db) -> Result<()> {
    db.execute(match db.kind() {
        DatabaseKind::Sqlite => {
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL);
             CREATE TABLE profiles (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users)"
        }
        DatabaseKind::Postgres => {
            "CREATE TABLE users (id BIGSERIAL PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL);
             CREATE TABLE profiles (id BIGSERIAL PRIMARY KEY, user_id BIGINT NOT NULL REFERENCES users)"
        }
    })
    .await?;
    Ok(())
}
