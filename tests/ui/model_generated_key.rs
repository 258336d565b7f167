#![allow(dead_code, unused_variables)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    #[model(primary_key, generated)]
    code: i64,
    email: String,
}

fn main() {}
