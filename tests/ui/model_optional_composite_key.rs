#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct Membership {
    #[model(primary_key)]
    user_id: Option<i64>,
    #[model(primary_key)]
    team_id: i64,
}

fn main() {}
