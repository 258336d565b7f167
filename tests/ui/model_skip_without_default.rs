#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

struct Cache(i64);

#[derive(Model)]
struct User {
    id: Option<i64>,
    #[model(skip)]
    cache: Cache,
}

fn main() {}
