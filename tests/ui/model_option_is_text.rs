#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
#[model("users")]
struct User {
    id: Option<i64>,
}

fn main() {}
