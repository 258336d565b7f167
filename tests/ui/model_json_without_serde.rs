#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

struct Meta {
    tags: Vec<String>,
}

#[derive(Model)]
struct Page {
    id: Option<i64>,
    #[model(json)]
    meta: Meta,
}

fn main() {}
