#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
}

trait Mail {
    #[receiver(post_save, sender = User, no_such_option)]
    async fn welcome(saved: PostSave<'_, User>) {}
}

fn main() {}
