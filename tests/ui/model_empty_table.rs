#![allow(dead_code, unused_variables)]
use sqlx_signals::prelude::*;

#[derive(Model)]
#[model(table = "public.")]
struct User {
    id: Option<i64>,
}

fn main() {}
