#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct User {
    id: Option<i64>,
    name: String,
}

#[rustfmt::skip]
impl User {
#[receiver(post_save, sender = User)]
async fn welcome(saved: PostSave<'_, User>) {}
}

fn main() {}
