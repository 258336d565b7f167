#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Clone, Model, serde::Serialize, serde::Deserialize)]
struct User {
    id: Option<i64>,
    email: String,
}

#[receiver(post_save_batch, sender = User, durable(at_least_once, coalesce = email))]
async fn welcome(_: PostSaveBatch<'_, User>) {}

fn main() {}
