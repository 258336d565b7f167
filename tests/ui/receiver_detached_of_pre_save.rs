#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Clone, Model)]
struct User {
    id: Option<i64>,
}

#[receiver(pre_save, sender = User, on_commit(detached))]
async fn welcome(_: PreSave<'_, User>) {}

fn main() {}
