#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct Post {
    id: Option<i64>,
    #[model(belongs_to = User)]
    user_id: i64,
}

#[derive(Model)]
struct User {
    id: Option<i64>,
}

fn main() {}
