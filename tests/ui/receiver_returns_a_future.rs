#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct User {
    id: Option<i64>,
    email: String,
}

#[receiver(post_save, sender = User)]
fn log(saved: PostSave<'_, User>) -> impl Future<Output = Result<()>> {
    async { Ok(()) }
}

fn main() {}
