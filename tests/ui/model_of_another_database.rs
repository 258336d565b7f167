#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct Post {
    id: Option<i64>,
    tags: Vec<String>,
}

async fn save(mut post: Post, pool: sqlx_signals::sqlx::SqlitePool) -> Result<()> {
    post.save(&pool).await?;
    Ok(())
}

fn main() {}
