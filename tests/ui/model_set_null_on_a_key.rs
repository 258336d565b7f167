#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
}

#[derive(Model)]
struct Profile {
    #[model(belongs_to = User, on_delete = set_null)]
    id: Option<i64>,
}

#[derive(Model)]
struct Settings {
    #[model(primary_key, belongs_to = User, on_delete = set_null)]
    user_id: i64,
}

fn main() {}
