#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
}

#[derive(Model)]
struct Post {
    id: Option<i64>,
    #[model(generated, belongs_to = User, on_delete = set_null)]
    user_id: Option<i64>,
}

fn main() {}
