#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct Generated {
    #[model(generated)]
    id: i64,
}

#[derive(Model)]
struct AssignedOnInsert {
    #[model(auto_now_add)]
    id: i64,
}

#[derive(Model)]
struct AssignedOnWrite {
    #[model(auto_now)]
    id: i64,
}

#[derive(Model)]
struct Versioned {
    #[model(version)]
    id: i64,
}

#[derive(Model)]
struct Json {
    #[model(json)]
    id: Vec<i64>,
}

fn main() {}
