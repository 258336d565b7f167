#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Clone, Model)]
struct User {
    id: Option<i64>,
    email: String,
}

#[receiver(PostSave, sender = User)]
async fn welcome(saved: PostSave<'_, User>) {}

fn main() {}
