#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx;

#[derive(Debug, Clone, Model)]
#[model(tabel = "users")]
struct User {
    id: Option<i64>,
    email: String,
}

#[derive(Debug, Clone, Model)]
struct Post {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = casade)]
    user_id: i64,
}

#[derive(Debug, Clone, Model)]
struct Comment {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = cascade)]
    user_id: i64,
}

#[receiver(post_save, sender = User, on_commit, changed(email))]
async fn comment(saved: PostSave<'_, User>, db: Db) -> Result<()> {
    Comment { id: None, user_id: saved.pk() }.save(&db).await?;
    Ok(())
}

async fn use_them(db: &Db, user: &mut User) -> Result<()> {
    let key: i64 = user.save(db).await?.pk;
    let found: User = User::get(db, 1).await?;
    let posts: Vec<Post> = Post::OF_USER.children(db, user).await?;
    let comments: Vec<Comment> = Comment::OF_USER.children(db, user).await?;
    let parent: User = Post::OF_USER.parent(db, &posts[0]).await?;
    let users: Vec<User> = db.query("SELECT * FROM users").fetch_all().await?;
    Ok(())
}

async fn use_in_sqlx(pool: &sqlx::SqlitePool) -> Result<User, sqlx::Error> {
    sqlx::query_as("SELECT * FROM users").fetch_one(pool).await
}

fn main() {}
