#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
}

#[receiver(post_save, sender = User, Created)]
async fn welcome(_: PostSave<'_, User>) {}

fn main() {}
