#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
    name: String,
}

#[derive(Model)]
struct Post {
    id: Option<i64>,
    title: String,
}

async fn save(user: &mut User, db: &Db) {
    user.save_fields(db, &[Post::TITLE]).await.unwrap();
}

fn main() {}
