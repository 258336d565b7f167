#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct Parent {
    id: Option<i64>,
}

#[derive(Model)]
struct Child {
    id: Option<i64>,
    #[model(belongs_to = Parent, on_delete = cascade)]
    parent_id: u64,
    boxed: Box<u64>,
    result: Result<i64, String>,
    range: std::ops::Range<i64>,
    function: fn(),
    array: [i64; 3],
}

fn main() {}
