#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
}

#[derive(Model)]
struct Json {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = cascade, json)]
    user_id: i64,
}

#[derive(Model)]
struct Versioned {
    id: Option<i64>,
    #[model(version, belongs_to = User, on_delete = cascade)]
    user_id: i64,
}

#[derive(Model)]
struct AssignedOnWrite {
    id: Option<i64>,
    #[model(auto_now, belongs_to = User, on_delete = cascade)]
    user_id: i64,
}

#[derive(Model)]
struct AssignedOnInsert {
    id: Option<i64>,
    #[model(auto_now_add, belongs_to = User, on_delete = cascade)]
    user_id: i64,
}

fn main() {}
