#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Clone, Model, serde::Serialize, serde::Deserialize)]
struct User {
    id: Option<i64>,
    email: String,
}

#[receiver(post_save, sender = User, durable(at_least_once, coalesce = phone))]
async fn welcome(_: PostSave<'_, User>) {}

fn main() {}
