#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
#[model(publish = "shop.user")]
struct User {
    id: Option<i64>,
    name: String,
}

fn main() {}
