#![allow(dead_code, unused_variables)]
use sqlx_signals::prelude::*;

#[derive(Model)]
#[model(unique)]
struct User {
    id: Option<i64>,
    #[model(rename_all = "camelCase")]
    full_name: String,
}

fn main() {}
