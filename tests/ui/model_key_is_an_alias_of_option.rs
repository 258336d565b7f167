#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

type UserId = Option<i64>;

#[derive(Model)]
struct User {
    id: UserId,
}

#[derive(Model)]
struct Membership {
    #[model(primary_key)]
    user: UserId,
    #[model(primary_key)]
    team: i64,
}

#[derive(Model)]
struct Team {
    id: Option<UserId>,
}

fn main() {}
