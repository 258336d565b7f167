#![allow(dead_code, unused_variables, non_camel_case_types, non_snake_case)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
    name: String,
    Name: String,
}

#[receiver(post_save, sender = User, changed(name))]
async fn renamed(saved: PostSave<'_, User>) {}

fn main() {}
