#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx::types::Json;

struct Meta {
    tags: Vec<String>,
}

#[derive(Model)]
struct Page {
    id: Option<i64>,
    meta: Json<Meta>,
}

fn main() {}
