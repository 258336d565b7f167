#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
}

#[receiver(post_delete, sender = User, changed(id))]
async fn moved(_: PostDelete<'_, User>) {}

fn main() {}
