#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Clone, Model)]
struct User {
    id: Option<i64>,
}

#[receiver(post_save_batch, sender = User, on_commit, once_per_transaction)]
async fn index(_: PostSaveBatch<'_, User>) {}

fn main() {}
