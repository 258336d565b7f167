#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model, serde::Serialize, serde::Deserialize)]
struct User {
    id: Option<i64>,
}

#[receiver(post_save, sender = User, durable(at_least_once, was = "mail::greet", was = "mail::greet"))]
async fn welcome(_: PostSave<'_, User>) {}

fn main() {}
