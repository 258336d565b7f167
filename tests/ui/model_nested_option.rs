#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
    nested: std::option::Option<Option<i64>>,
}

#[derive(Model)]
struct Team {
    id: Option<Option<i64>>,
}

fn main() {}
